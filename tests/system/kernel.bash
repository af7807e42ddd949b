# Sourced after report.bash and guest/guest.bash: udrbd on this machine and the Linux kernel's DRBD 8.4.11 in a guest as
# the two nodes of a resource r0. `here` is this machine's network namespace, `kernel` the guest.
# Needs: $disk_bytes, the size of the disks; $protocol, else C; $protocol_max, the newest version udrbd offers, if not its own. KEEP=DIR: leave the guest's kernel messages and udrbd's log there.
# shellcheck shell=bash disable=SC2154,SC2034 # $work: report.bash; $guest_netns, $disk_bytes: the caller

guests=$work
run_dir=$work/run
nbd="nbd+unix:///?socket=$run_dir/r0.0.nbd"

here() { ip netns exec "$guest_netns" env __DRBD_NODE__=here UDRBD_RUN_DIR="$run_dir" UDRBD_PROTOCOL_MAX="${protocol_max:-}" "$@" < /dev/null 2> "$work/said"; }
adm() { here drbdadm -c "$work/r0.conf" "$@" || { local code=$?; cat "$work/said" >&2; return $code; }; }
kernel() { guest_run kernel "$1"; }
other() { if [ "$1" = here ]; then echo kernel; else echo here; fi; }
# tool NODE ARGUMENT...: drbdadm of that node
tool() { if [ "$1" = here ]; then adm "${@:2}"; else kernel "drbdadm ${*:2}"; fi; }
at() { echo "  -- $((SECONDS - started)) s: $1"; }

# Who is to dial is found at its peer's real port; the other one dials a port where nobody listens.
resource_text() { # resource_text DISK-HERE NET-OPTIONS PORT-HERE PORT-KERNEL
	cat <<-END
		global { usage-count no; }
		resource r0 {
		    net { protocol ${protocol:-C}; connect-int 1; $2 }
		    disk { resync-rate 100M; c-max-rate 1G; ${disk_options:-} }
		    device /dev/drbd0;
		    meta-disk internal;
		    on here { address ${address_here:-10.77.0.1}:$3; disk $1; }
		    on kernel { address 10.77.0.11:$4; disk /dev/disk0; }
		}
	END
}

begin() {
	guest_build
	guest_network
	truncate -s "$disk_bytes" "$work/here.img" "$work/kernel.img"
	started=$SECONDS
	guest_start kernel 10.77.0.11/24 "$work/kernel.img"
	at_end "guest_kill kernel"
	at_end keep
	guest_ready kernel
	echo "  kernel $(kernel 'uname -r'), DRBD $(kernel 'sed -n "s/^version: \([^ ]*\).*/\1/p" /proc/drbd')"
}

keep() {
	kill_here
	[ -n "${KEEP:-}" ] || return 0
	mkdir -p "$KEEP"
	kernel dmesg > "$KEEP/kernel.dmesg"
	cp "$run_dir"/r0.log* "$KEEP/"
}

kill_here() {
	local pid
	for pid in $(processes_here); do kill -KILL "$pid" 2> /dev/null || true; done
}
processes_here() { ip netns pids "$guest_netns" | while read -r pid; do if grep -sq '^udrbd' "/proc/$pid/comm"; then echo "$pid"; fi; done; }

# configure DIALS NET-OPTIONS: both nodes' configuration.
configure() {
	local port_here=7789 port_kernel=7789
	case $1 in here) port_here=7700 ;; kernel) port_kernel=7700 ;; esac
	resource_text "$work/here.img" "$2" 7789 "$port_kernel" > "$work/r0.conf"
	kernel "cat > /etc/drbd.conf <<'END'
$(resource_text /dev/null "$2" "$port_here" 7789)
END"
}

# create_metadata v08|v09: on both sides; which udrbd's has is said.
create_metadata() {
	local version=
	case $1 in v08) version=8.4.11 ;; esac
	quietly kernel "drbdadm create-md --force r0"
	DRBD_DRIVER_VERSION_OVERRIDE=$version quietly adm create-md --force r0
}

# fresh METADATA DIALS NET-OPTIONS: new metadata on both sides, both disks full of what differs; nothing runs.
fresh() {
	configure "$2" "$3"
	fill here
	fill kernel
	create_metadata "$1"
}

# fill here|kernel: random data all over its disk, which nobody has attached.
fill() { head -c "$disk_bytes" /dev/urandom | dd of="$work/$1.img" bs=1M conv=notrunc,fsync iflag=fullblock status=none; }

is_connected() { [ "$(adm cstate r0)" = Connected ] && [[ $(kernel "drbdadm cstate r0") =~ Connected|Sync ]]; }
is_in_sync() {
	[ "$(adm dstate r0)" = UpToDate/UpToDate ] && [ "$(adm cstate r0)" = Connected ] &&
		[ "$(kernel 'drbdadm dstate r0; drbdadm cstate r0' | paste -sd' ')" = "UpToDate/UpToDate Connected" ]
}
in_sync() { wait_for "$1" "both UpToDate" is_in_sync; }

device_bytes() { echo $(($(kernel "cat /sys/block/drbd0/size") * 512)); }
disks_equal() {
	local bytes
	bytes=$(device_bytes)
	((bytes > disk_bytes - (1 << 20))) && cmp -n "$bytes" "$work/here.img" "$work/kernel.img" &&
		head -c "$bytes" "$work/here.img" | sha256sum
}

same_generation() {
	local ours theirs
	ours=$(adm get-gi r0) theirs=$(kernel "drbdadm get-gi r0")
	echo "$ours here, $theirs there"
	[ "$((0x${ours%%:*} | 1))" = "$((0x${theirs%%:*} | 1))" ]
}

# Of drbd's lines and of what a kernel says when it is unwell; "( Unknown -> " and "disk( UpToDate -> Failed )" are states.
# That the control socket closes first after an orderly farewell is what a kernel also says of another kernel.
log_clean() {
	! kernel dmesg | awk '/ conn\( / { parting = /-> (TearDown|Disconnecting) / }
		!(parting && /meta connection shut down by peer/)' | sed 's/[a-z]*( [A-Za-z]* -> [A-Za-z]* )//g' | grep -E 'drbd|BUG:|WARNING:|Oops|Call Trace|I/O error' |
		grep -iE 'bug|warning|oops|trace|assert|error|unexpected|unknown|fail|short read|shut down|split|timed? ?out|not |cannot'
}
