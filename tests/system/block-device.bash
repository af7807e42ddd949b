# Sourced by the tests of the two kinds of block devices, with $front (nbd or ublk), $pause_max_s, $upgrade_max_s, as $1
# how often the daemon is killed, as $2 how often it is upgraded, and as $3 the kind of file system, ext4 or xfs. Alpha is a
# guest (User-Mode Linux) whose daemon has the device, bravo a daemon on this machine. A file system on /dev/drbd0 is in use
# while alpha's daemon is killed, and upgraded: no error, short pauses, nothing lost, the file system clean, the replicas
# equal. While it is mounted `secondary` and `down` are refused; a new size is seen; a Primary elsewhere, and a daemon that
# stays dead, end with errors instead of a wait; `down` removes every trace.
# KEEP=DIR: leave logs there.
# shellcheck shell=bash disable=SC2154 # those named above
. "$(dirname "$0")/report.bash"
. "$(dirname "$0")/pair.bash" # refused_with
. "$(dirname "$0")/device-guest.bash"
device=$([ "$front" = nbd ] && echo nbd0 || echo ublkb0)
kills=$1 upgrades=$2 kind=$3
# The kernel of a guest, its programs in memory, and twice a daemon with locked memory for a moment.
guest_memory=320M
# The smallest xfs is 300 MiB.
if [ "$kind" = xfs ]; then small=$((320 << 20)) large=$((352 << 20)); else small=$((64 << 20)) large=$((96 << 20)); fi

dstate() { alpha "drbdadm dstate r0"; }
is_in_sync() { [ "$(dstate)" = UpToDate/UpToDate ] && [ "$(alpha 'drbdadm cstate r0')" = Connected ]; }
device_is() { # device_is SIZE-IN-BYTES ro|rw
	local is
	is=$(alpha "cd /sys/block/$device; readlink -f /dev/drbd0; cat size ro queue/logical_block_size" | paste -sd' ')
	echo "$is"
	[ "$is" = "/dev/$device $(($1 / 512)) $([ "$2" = ro ] && echo 1 || echo 0) 512" ]
}
gone() {
	alpha "! ls -d /dev/drbd0 /dev/drbd /sys/block/nbd0/backend /sys/block/ublkb* /dev/ublk[bc]* 2> /dev/null | grep . && [ \$(cat /sys/block/nbd0/size) = 0 ]"
}

file_system() {
	case $1-$kind in
	made-ext4) alpha "mkfs.ext4 -q /dev/drbd0" ;;
	made-xfs) alpha "mkfs.xfs -q /dev/drbd0" ;;
	grown-ext4) alpha "resize2fs /dev/drbd0" ;;
	grown-xfs) alpha "xfs_growfs /srv" ;;
	clean-ext4) alpha "e2fsck -fn /dev/drbd0" ;;
	clean-xfs) alpha "xfs_repair -n /dev/drbd0" ;;
	esac
}
file_system_kib() { alpha "df -k /srv | awk 'END { print \$2 }'"; }
has_grown() {
	local before
	before=$(file_system_kib)
	file_system grown && [ "$(file_system_kib)" -gt $((before + (20 << 10))) ]
}

# An acknowledged write is on stable storage; how long each took.
cat > "$work/pulse.py" <<'END'
import mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_DSYNC, 0o600)
buffer = mmap.mmap(-1, 4096)
number = 0
with open(sys.argv[2], "a", buffering=1) as out:
    while not os.path.exists(sys.argv[2] + ".stop"):
        number += 1
        buffer[:] = number.to_bytes(8, "big") * 512
        begin = time.monotonic()
        try:
            os.pwrite(file, buffer, number % 256 * 4096)
        except OSError as e:
            out.write(f"error {e}\n")
            break
        out.write(f"{number} {time.monotonic() - begin:.3f}\n")
        time.sleep(0.01)
END

load() {
	if [ "$1" = begin ]; then
		alpha "(python3 /share/pulse.py /srv/pulse /share/pulse > /share/pulse.said 2>&1; touch /share/pulse.over) > /dev/null 2>&1 &
			(python3 /share/ledger write /srv/data /share/acknowledged 1000000 > /share/ledger.said 2>&1; touch /share/ledger.over) > /dev/null 2>&1 &
			(code=0; while [ \$code = 0 ] && [ ! -e /share/pulse.stop ]; do fio --name=v --directory=/srv --size=6m --rw=randrw \
				--bsrange=4k-64k --ioengine=psync --direct=1 --fsync=16 --verify=crc32c --verify_fatal=1 > /share/fio.said 2>&1 || code=\$?; done
				echo \$code > /share/fio.over) > /dev/null 2>&1 &"
		wait_for 20 "the load begins" test -s "$share/pulse" -a -s "$share/acknowledged"
	else
		touch "$share/pulse.stop" "$share/acknowledged.stop"
		wait_for 60 "the load ends" test -e "$share/pulse.over" -a -e "$share/ledger.over" -a -e "$share/fio.over"
	fi
}
no_error() {
	if grep -n error "$share/pulse"; then return 1; fi
	[ "$(cat "$share/fio.over")" = 0 ] || { tail -5 "$share/fio.said"; return 1; }
	if alpha dmesg | grep -iE 'I/O error|EXT4-fs error|XFS .*(error|corrupt|shut)|aborted|Buffer I/O'; then return 1; fi
	wc -l < "$share/acknowledged"
}
running() { for who in pulse ledger fio; do [ ! -e "$share/$who.over" ] || { echo "$who ended"; return 1; }; done; }
pause_of() { tail -n "+$1" "$share/pulse" | awk '$2 > longest { longest = $2 } END { print longest + 0 }'; }
goes_on() { [ "$(wc -l < "$share/pulse")" -gt "$(($1 + 20))" ]; }

alone() { [[ $(bravo cstate r0) =~ Connecting|Unconnected ]]; }

# reader begin|ended: reads until it fails.
reader() {
	if [ "$1" = begin ]; then
		rm -f "$share/reader"
		alpha "(while dd if=/dev/drbd0 of=/dev/null bs=64k count=64 iflag=direct 2> /dev/null; do :; done; touch /share/reader) > /dev/null 2>&1 &"
		sleep 1
	else
		wait_for 30 "the reader ends" test -e "$share/reader"
	fi
}

kill_daemon() {
	local line pause
	# Counted there and after it: nothing that was written before belongs to the pause.
	line=$(alpha "kill -KILL \$(cat /run/drbd/r0.pid); wc -l < /share/pulse")
	wait_for 40 "writes go on after a kill" goes_on "$line"
	pause=$(pause_of "$line")
	pauses+=("$pause")
	wait_for 40 "in sync after a kill" is_in_sync
}

shorter_than() { awk 'BEGIN { for (i = 2; i < ARGC; i++) if (ARGV[i] > ARGV[1]) exit 1 }' "$@"; }

served_after() { alpha "grep -c 'serves node 0 after udrbd' /run/drbd/r0.log || true"; }

# upgrade PROGRAM: to that one, and what that was for who writes.
upgrade() {
	local line before
	before=$(served_after)
	line=$(alpha "$1 upgrade r0 > /share/upgrade.said 2>&1 || true; wc -l < /share/pulse" | tail -1)
	cat "$share/upgrade.said"
	[ "$(served_after)" = $((before + 1)) ] || die "no upgrade"
	wait_for 40 "writes go on after an upgrade" goes_on "$line"
	pauses+=("$(pause_of $((line > 50 ? line - 50 : 1)))")
	wait_for 40 "in sync after an upgrade" is_in_sync
	role_is Primary || die "not Primary after an upgrade"
}

mkdir -p "$share"
cp "$work/pulse.py" "$share/"
truncate -s $((large + (1 << 20))) "$work/alpha.img" "$work/bravo.img"
cat > "$share/r0.res" << END
global { usage-count no; }
resource r0 {
    net { protocol C; connect-int 1; ping-int 2; socket-check-timeout 1; timeout 30; }
    disk { resync-rate 100M; c-max-rate 1G; c-min-rate 0; size ${small}B; }
    device /dev/drbd0;
    meta-disk internal;
    on alpha { address 10.77.0.11:7789; disk /dev/disk0; node-id 0; }
    on bravo { address 10.77.0.1:7789; disk $work/bravo.img; node-id 1; }
}
END
sed -i "s/size ${small}B/size $((small / 512))s/" "$share/r0.res"
boot_alpha "$work/alpha.img"
alpha "mkdir -p /srv"
quietly alpha "drbdadm create-md --force r0"
quietly bravo create-md --force r0
quietly bravo up r0

at "alpha up"
quietly alpha "drbdsetup new-resource r0 0 && drbdsetup new-minor r0 0 0"
if [ "$front" = nbd ]; then
	expect "from new-minor on there is a device without size" device_is 0 ro
	expect "and a link by the resource's name" alpha "[ \$(readlink -f /dev/drbd/by-res/r0/0) = /dev/nbd0 ]"
else
	expect "from new-minor on there is a place holder" alpha "[ -b /dev/drbd0 ] && ! dd if=/dev/drbd0 count=1 2> /dev/null"
	expect "and a link by the resource's name" alpha "[ \$(readlink -f /dev/drbd/by-res/r0/0) = /dev/drbd0 ]"
fi
quietly alpha "drbdadm adjust r0"
wait_for 20 "alpha and bravo find each other" alpha "drbdadm cstate r0 | grep -q Connected"
expect "a Secondary's device has its size and is read-only" device_is "$small" ro
expect "and is not read" in_guest 1 "error" "dd if=/dev/drbd0 of=/dev/null bs=4k count=1 iflag=direct"
quietly alpha "dmesg -c > /dev/null; drbdadm primary --force r0"
expect "primary makes it writable in place" device_is "$small" rw
wait_for 40 "the first copy" is_in_sync
quietly file_system made
quietly alpha "mount /dev/drbd0 /srv && dd if=/dev/zero of=/srv/data bs=1M count=8 conv=fsync"
expect "secondary is refused while it is mounted" in_guest 11 "\(-12\) Device is held open by someone" "drbdadm secondary r0"
expect "down is refused while it is mounted" in_guest 11 "mounted at /srv" "drbdadm down r0"
expect "it is still writable" device_is "$small" rw

at "$kills kills under load"
pauses=()
load begin
for ((n = 0; n < kills; n++)); do
	sleep 2
	kill_daemon
done
echo "  pauses: ${pauses[*]} s"
expect "each pause was shorter than $pause_max_s s" shorter_than "$pause_max_s" "${pauses[@]}"

at "$upgrades planned upgrades under load"
pauses=()
connections() { grep -c 'conn( .* -> Connected' "$work/bravo/run/r0.log"; }
before=$(connections)
for ((n = 0; n < upgrades; n++)); do
	sleep 1
	if ((n % 2)); then upgrade /usr/local/sbin/udrbd; else upgrade /share/target/release/udrbd; fi
done
echo "  pauses: ${pauses[*]} s"
expect "each pause was shorter than $upgrade_max_s s" shorter_than "$upgrade_max_s" "${pauses[@]}"
expect "the peer's connection was the same all the time" [ "$(connections)" = "$before" ]
expect "the load ran all the time" running
load end
expect "no error reached it" no_error
expect "alpha is Primary, as before" role_is Primary
expect "no acknowledged write is lost" alpha "python3 /share/ledger check /srv/data /share/acknowledged"

at "a new size"
alpha "sed -i 's/ size [0-9]*s;//' /etc/drbd.conf"
sed -i 's/ size [0-9]*s;//' "$share/r0.res"
quietly alpha "drbdadm -- resize r0 || drbdadm resize r0"
device_bytes() { echo $(($(alpha "cat /sys/block/$device/size") * 512)); }
grown() { [ "$(device_bytes)" -gt "$small" ]; }
if [ "$front" = ublk ]; then
	# The driver of 6.12 cannot change a device in use.
	wait_for 20 "the log says that the new size waits" alpha "grep 'new size of .* waits' /run/drbd/r0.log"
	expect "the old one stays meanwhile" device_is "$small" rw
	quietly alpha "umount /srv"
	wait_for 20 "the kernel sees the new size" grown
	quietly alpha "mount /dev/drbd0 /srv"
else
	wait_for 20 "the kernel sees the new size" grown
fi
expect "the file system grows into it" has_grown
wait_for 40 "in sync" is_in_sync

at "the file system ends"
expect "umount" alpha "umount /srv"
expect "the file system is clean" file_system clean
alpha "sleep 100 < /dev/drbd0 & echo \$! > /run/holder"
expect "secondary names who has it open" in_guest 11 "process [0-9]+ \(sleep\) has it open" "drbdadm secondary r0"
alpha "kill \$(cat /run/holder)"
bytes=$(device_bytes)

at "a Primary elsewhere"
quietly alpha "drbdadm secondary r0 && drbdadm down r0 && drbdadm up r0"
wait_for 40 "in sync" is_in_sync
quietly alpha "drbdadm primary r0"
reader begin
alpha "kill -STOP \$(supervisor); kill -KILL \$(cat /run/drbd/r0.pid)"
wait_for 20 "bravo notices" alone
bravo primary r0
alpha "kill -CONT \$(cat /run/supervisor)"
expect "requests that waited fail" reader ended
expect "alpha says why it stays Secondary" alpha "grep 'stays Secondary' /run/drbd/r0.log"
bravo secondary r0
wait_for 40 "in sync" is_in_sync
expect "and its device is read-only" device_is "$bytes" ro

at "a daemon that stays dead"
quietly alpha "drbdadm down r0 && UDRBD_RESTART=no drbdadm up r0"
wait_for 20 "in sync" is_in_sync
quietly alpha "drbdadm primary r0"
reader begin
alpha "kill -KILL \$(cat /run/drbd/r0.pid)"
expect "requests that waited fail" reader ended
wait_for 10 "nothing of the device is left" gone
quietly alpha "drbdadm up r0"
wait_for 40 "in sync" is_in_sync
quietly alpha "drbdadm primary r0"
expect "and it comes back when the daemon does" device_is "$bytes" rw

at "auto-promote"
quietly alpha "drbdadm secondary r0 && drbdsetup resource-options r0 --auto-promote=yes"
expect "a Secondary's device can be written" device_is "$bytes" rw
quietly bravo primary r0
expect "beside a Primary a write fails" in_guest 1 "error" "dd if=/dev/zero of=/dev/drbd0 bs=4k count=1 oflag=direct"
expect "and the log says why" alpha "grep 'auto-promote cannot' /run/drbd/r0.log"
quietly bravo secondary r0
kill_daemon() { alpha "was=\$(cat /run/drbd/r0.pid); kill -KILL \$was; until [ \"\$(cat /run/drbd/r0.pid)\" != \$was ]; do sleep 0.1; done"; }
quietly kill_daemon
wait_for 20 "in sync" is_in_sync
expect "a Secondary's daemon that is killed comes back as one" alpha "[ \$(drbdadm role r0) = Secondary ]"
expect "else it promotes" alpha "dd if=/dev/zero of=/dev/drbd0 bs=4k count=1 oflag=direct && [ \$(drbdadm role r0) = Primary ]"
quietly kill_daemon
wait_for 20 "in sync" is_in_sync
expect "and a Primary's comes back as Primary" alpha "[ \$(drbdadm role r0) = Primary ]"
quietly alpha "drbdadm secondary r0 && drbdsetup resource-options r0 --auto-promote=no"

at "the service ends"
expect "a Secondary's device is read-only again" device_is "$bytes" ro
quietly alpha "drbdadm down r0"
wait_for 10 "the daemon ends" alpha "! pidof udrbd"
expect "down removes the device and its links" gone
bravo down r0
expect "the replicas are equal" cmp -n "$bytes" "$work/alpha.img" "$work/bravo.img"
at end
