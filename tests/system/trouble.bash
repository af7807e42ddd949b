# Sourced after pair.bash: a Primary on alpha whose requests wait, and the looks at it.
# shellcheck shell=bash disable=SC2154 # $work, $conf: report.bash, pair.bash

size=$((24 << 20))

# make_pair ALPHA-DISK NET DISK MORE: alpha Primary, in sync.
make_pair() {
	pair_make $((size + (1 << 20))) "protocol C; ping-int 1; ping-timeout 20; connect-int 1; $2" "$3" "$4"
	sed -i "s#disk $(disk alpha);#disk $1;#" "$conf"
	alpha_disk=$1
	pair_up
}

end_pair() {
	alpha drbdadm secondary r0
	wait_for 20 "both in sync" is_in_sync
	expect "$1: both disks hold the same" cmp -n "$size" "$alpha_disk" "$(disk beta)"
	alpha drbdadm down r0
	beta drbdadm down r0
}

status() { alpha drbdsetup status r0; }
suspended() { [[ "$(status | head -n 1)" == *" suspended:$1"* ]]; }
not_suspended() { ! grep -q suspended: <<< "$(status)"; }
alpha_disk_is() { [ "$(alpha drbdadm dstate r0 | cut -d/ -f1)" = "$1" ]; }
in_events() { alpha drbdsetup events2 --now r0 | grep -q "$1"; }
uri() { echo "nbd+unix:///?socket=$(nbd_socket alpha)"; }
write_at() { nbdsh --uri "$(uri)" -c "h.pwrite(bytes([$2]) * 65536, $1 << 20)" -c "h.flush()"; }
read_at() { nbdsh --uri "$(uri)" -c "assert h.pread(65536, $1 << 20) == bytes([$2]) * 65536"; }

# begin_write OFFSET BYTE: in the background; write_ended looks.
begin_write() {
	rm -f "$work/written"
	{
		local code=0
		write_at "$1" "$2" > "$work/writer" 2>&1 || code=$?
		echo $code > "$work/written"
	} &
}
write_waits() { sleep 1; [ ! -e "$work/written" ]; }
write_done() {
	local try
	for ((try = 0; try < 150; try++)); do
		[ -s "$work/written" ] && break
		sleep 0.1
	done
	[ "$(cat "$work/written")" = 0 ] || { cat "$work/writer"; return 1; }
}

# beta_dies: its daemon is killed; the parent process starts another one a little later.
beta_dies() {
	local pid
	for pid in $(processes_of beta); do
		if [ "$(cat "/proc/$pid/comm")" = udrbd ] && ! pgrep -P "$pid" > /dev/null; then kill -KILL "$pid"; fi
	done
}
