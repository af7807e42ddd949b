# Sourced by cluster.bash: a node is a guest (User-Mode Linux, see ../guest) that systemd runs, with corosync, pacemaker and udrbd's
# daemon as its services; that has a block device by the kernel's driver FRONT, ublk or nbd. Its disks are /dev/disk0, behind the name /dev/mapper/r0, and /dev/disk1, what its power cycle keeps.
# shellcheck shell=bash disable=SC2034,SC2154 # $work, $bin, $programs, $switch, $cluster_files: cluster.bash and report.bash
front=${FRONT:-ublk}
guest_kind=uml
guest_memory=768M
# Of one emulated processor, which takes some six times as long to start a process: agents start thousands.
patience_s=120
answer_s=3
# A host without DRBD's module is what these are.
guest_words="quiet initcall_blacklist=drbd_init guest.first=systemd"
guest_limit_s=300
guest_netns=$switch
guests=$work
# shellcheck source=../guest/guest.bash
. "$cluster_files/../guest/guest.bash"

nodes_begin() {
	guest_build
	cp "$programs"/{drbdadm,drbdsetup,drbdmeta,udrbd} "$bin/"
	cp "$cluster_files/guest-init" "$sbin/"
}

# boot K...: power on, with the disks they had.
boot() {
	local k
	for k; do
		local dir=$work/node$k
		[ -e "$dir/kept" ] || mkfs.ext4 -q -d "$dir/disk" "$dir/kept" 96M > /dev/null
		guest_ports="node$k-c:cluster node$k-r:repl" guest_start "node$k" "10.99.0.$k/24" "$work/disk$k" "$dir/kept"
		disown
	done
	for k; do
		guest_ready "node$k"
		quietly guest_run "node$k" "$sbin/guest-init $k $work/node$k $front"
	done
}

# node K COMMAND...: there.
node() {
	local k=$1
	shift
	is_on "$k" || return
	guest_run "node$k" "exec bash << 'END'
cd /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8 \\
	UDRBD_FRONTEND=$front ${*@Q} < /dev/null 2> /run/said
END" || {
		local code=$?
		guest_run "node$k" "cat /run/said" >&2
		return $code
	}
}
has_file() { node "$1" test -e "$2"; }
kill_node() { signal_node KILL "$1"; }
# signal_node SIGNAL K: everything it runs.
signal_node() { kill "-$1" -- "-$(< "$work/node$2/pid")"; }
# log_of K: what its daemon said.
log_of() { node "$1" journalctl --quiet --no-pager --output=cat --unit=udrbd@r0; }
# keep_node K DIR: its console and logs.
keep_node() {
	cp "$work/node$1/messages" "$2/"
	debugfs -R "rdump /log $2" "$work/node$1/kept" 2> /dev/null
}

# make_disk K: its backing disk, $work/diskK; break_disk K, mend_disk K: every request fails, or none.
make_disk() {
	truncate -s 128M "$work/disk$1"
	echo /dev/mapper/r0 > "$work/node$1/disk/etc/backing"
}
disk_becomes() { quietly node "$1" bash -ec "export DM_DISABLE_UDEV=1; dmsetup load r0 --table '0 $((128 << 11)) $2'; dmsetup suspend r0; dmsetup resume r0"; }
break_disk() { disk_becomes "$1" error; }
mend_disk() { disk_becomes "$1" "linear /dev/disk0 0"; }
