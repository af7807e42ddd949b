# Sourced after report.bash, as root: hosts on this machine. Each has a network, mount, process, host-name and IPC
# namespace of its own, and with them its own /etc, /run and /var/lib; all are on one bridge. A host dies at once when
# its first process is killed.
# shellcheck shell=bash disable=SC2154 # $work, $top: report.bash

network=udrbd-$$
declare -A host_pid

# The bridge, in a network namespace that is no host's.
network_begin() {
	ip netns add "$network"
	at_end "ip netns del $network"
	ip -n "$network" link set lo up
	ip -n "$network" link add br0 type bridge
	ip -n "$network" addr add 10.77.0.1/24 dev br0
	ip -n "$network" link set br0 up
}

# host_start NAME ADDRESS
host_start() {
	local name=$1 address=$2 outer limit=$((SECONDS + 10))
	mkdir -p "$work/$name"
	unshare --net --mount --uts --pid --ipc --fork --kill-child --propagation private \
		"$top/tests/system/host-init" "$name" "$work/$name" > "$work/$name.log" 2>&1 &
	outer=$!
	disown
	until [ -e "$work/$name/ready" ]; do
		((SECONDS < limit)) || die "host $name did not start: $(cat "$work/$name.log")"
		sleep 0.05
	done
	host_pid[$name]=$(cat "/proc/$outer/task/$outer/children")
	host_pid[$name]=${host_pid[$name]// /}
	at_end "host_die $name"
	ip -n "$network" link add "to-$name" type veth peer name eth0 netns "${host_pid[$name]}"
	ip -n "$network" link set "to-$name" master br0 up
	on "$name" ip addr add "$address" dev eth0
	on "$name" ip link set eth0 up
}

# on NAME COMMAND...: there, with nothing of this shell's environment but the path. All hosts have one kernel and one
# /dev: none of them takes a block device of it.
on() {
	local name=$1
	shift
	nsenter --target "${host_pid[$name]}" --mount --net --uts --pid --ipc --wd=/ \
		env -i PATH="$PATH" HOME=/root TERM=dumb LC_ALL=C.UTF-8 UDRBD_FRONTEND=socket "$@"
}

# host_silence NAME: its packets go nowhere, and it does not learn of it.
host_silence() { ip -n "$network" link set "to-$1" down; }

# host_die NAME: all its processes at once.
host_die() {
	[ -n "${host_pid[$1]:-}" ] || return 0
	kill -KILL "${host_pid[$1]}" 2> /dev/null || true
	while [ -d "/proc/${host_pid[$1]}" ]; do sleep 0.05; done
	unset "host_pid[$1]"
	ip -n "$network" link del "to-$1" 2> /dev/null || true
}

# loop_disk FILE SIZE: a fresh disk of this size; $loop is its device.
loop_disk() {
	truncate -s "$2" "$1"
	loop=$(losetup --find --show "$1")
	at_end "losetup -d $loop"
}

# two_hosts SIZE NET-OPTIONS DISK-OPTIONS: alpha and beta with /etc/drbd.conf of r0; their loop devices in
# ${loop_of[alpha]} and ${loop_of[beta]}.
# resync_tuning, if set, is what their disk section says of the resync's speed.
declare -A loop_of
two_hosts() {
	local name
	network_begin
	for name in alpha beta; do
		loop_disk "$work/$name.img" "$1"
		loop_of[$name]=$loop
	done
	resource_file "$2" "$3" > "$work/r0.res"
	host_start alpha 10.77.0.11/24
	host_start beta 10.77.0.12/24
	for name in alpha beta; do
		on "$name" cp "$work/r0.res" /etc/drbd.d/r0.res
	done
}

resource_file() {
	cat <<-END
		resource r0 {
		    net { $1 }
		    disk { ${resync_tuning-resync-rate 100M; c-max-rate 1G;} $2 }
		    on alpha {
		        node-id 0;
		        device /dev/drbd0;
		        disk ${loop_of[alpha]};
		        meta-disk internal;
		        address 10.77.0.11:7789;
		    }
		    on beta {
		        node-id 1;
		        device /dev/drbd0;
		        disk ${loop_of[beta]};
		        meta-disk internal;
		        address 10.77.0.12:7789;
		    }
		}
	END
}

# pair_up: from two fresh disks to a Primary on alpha and two equal copies.
pair_up() {
	local name
	for name in alpha beta; do
		quietly on "$name" drbdadm create-md r0
		on "$name" drbdadm up r0
	done
	wait_for 20 "alpha and beta find each other" is_cstate alpha Connected
	on alpha drbdadm primary --force r0
	wait_for 120 "the first copy" is_in_sync
}

is_cstate() { [ "$(on "$1" drbdadm cstate r0)" = "$2" ]; }
is_in_sync() { [ "$(on alpha drbdadm dstate r0) $(on beta drbdadm dstate r0)" = "UpToDate/UpToDate UpToDate/UpToDate" ]; }
