# Sourced by cluster.bash: a node is a set of namespaces (see node-init) on this machine. There is neither ublk nor nbd in it:
# sbin/drbdsetup stands in for the driver.
# shellcheck shell=bash disable=SC2154 # $work, $bin, $programs, $switch, $cluster_files: cluster.bash and report.bash
nodes_begin() {
	mkdir "$bin/udrbd-real"
	cp "$programs"/{drbdadm,drbdmeta,udrbd} "$bin/"
	cp "$programs/drbdsetup" "$bin/udrbd-real/"
	cp "$cluster_files/sbin/drbdsetup" "$bin/"
}

# boot K...: power on, with the disks they had.
boot() {
	local k net
	for k; do
		local dir=$work/node$k
		rm -rf "${dir:?}/dev" "$dir/plugged"
		unshare --net --mount --uts --ipc --pid --fork --kill-child --propagation private \
			"$cluster_files/node-init" "node$k" "$dir" > "$dir/console" 2>&1 < /dev/null &
		disown
		wait_for 10 "node$k" test -s "$dir/pid"
		for net in cluster:0 repl:1; do
			ip -n "$switch" link add "node$k-${net:0:1}" type veth peer name "eth${net#*:}" netns "$(< "$dir/pid")"
			ip -n "$switch" link set "node$k-${net:0:1}" master "${net%:*}" up
			node "$k" ip addr add "10.99.${net#*:}.$k/24" dev "eth${net#*:}"
			node "$k" ip link set "eth${net#*:}" up
		done
		node "$k" ip link set lo up
		touch "$dir/plugged"
	done
}

# node K COMMAND...: there.
node() {
	local k=$1
	shift
	nsenter --target "$(< "$work/node$k/pid")" --mount --uts --ipc --net --pid --root --wd=/ \
		env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8 "$@" < /dev/null
}
# has_file K FILE: there.
has_file() { [ -e "/proc/$(< "$work/node$1/pid")/root$2" ]; }
kill_node() { kill -KILL "$(< "$work/node$1/pid")"; }
# signal_node SIGNAL K: everything it runs.
signal_node() {
	local process space
	space=$(readlink "/proc/$(< "$work/node$2/pid")/ns/pid")
	for process in /proc/[0-9]*; do
		[ "$(readlink "$process/ns/pid" 2> /dev/null)" != "$space" ] || kill "-$1" "${process#/proc/}" 2> /dev/null || true
	done
}

# log_of K: what its daemon said.
log_of() { node "$1" cat /run/drbd/r0.log; }
# keep_node K DIR: its console and logs.
keep_node() { cp -r "$work/node$1"/{console,disk/log} "$2/"; }

# make_disk K: its backing disk, $work/diskK; break_disk K, mend_disk K: every request fails, or none.
make_disk() {
	truncate -s 128M "$work/disk$1"
	nbdkit -f -U "$work/disk$1.sock" --filter=error file "$work/disk$1" error=EIO error-rate=100% error-file="$work/broken$1" 2> "$work/nbdkit$1.said" &
	at_end "kill $!"
	wait_for 5 "nbdkit" test -S "$work/disk$1.sock"
	mkdir "$work/disk$1.d"
	nbdfuse "$work/disk$1.d" --unix "$work/disk$1.sock" 2> "$work/disk$1.said" &
	at_end "fusermount3 -u $work/disk$1.d"
	wait_for 5 "nbdfuse" test -s "$work/disk$1.d/nbd"
	echo "$work/disk$1.d/nbd" > "$work/node$1/disk/etc/backing"
}
break_disk() { touch "$work/broken$1"; }
mend_disk() { rm "$work/broken$1"; }
