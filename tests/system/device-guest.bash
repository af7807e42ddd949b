# Sourced after report.bash and pair.bash, with $front (nbd or ublk): alpha is a guest (User-Mode Linux) whose daemon has
# block devices by the kernel's driver of that name, bravo a daemon on this machine. Both have $share.
# KEEP=DIR: logs are left there.
# shellcheck shell=bash disable=SC2154,SC2034 # $front, $work: see above; the rest is for the test
guest_kind=uml
# Its root is in memory, and so is what its daemon holds under load: where there is none left its network is the first to go.
guest_memory=320M
. "$(dirname "$0")/guest/guest.bash"
need_root
guest_netns=udrbd-dev-$$
guests=$work
share=$work/share

at() { echo "  -- $((SECONDS - started)) s: $1"; }
# shellcheck disable=SC2016 # for the shell there
supervisor='supervisor() { sed "s/.*) . //; s/ .*//" "/proc/$(cat /run/drbd/r0.pid)/stat" | tee /run/supervisor; }'
alpha() { guest_run alpha "$supervisor; export UDRBD_FRONTEND=$front PATH=/usr/local/sbin:\$PATH; cd /share; $1"; }
bravo() {
	without_pretence ip netns exec "$guest_netns" env __DRBD_NODE__=bravo UDRBD_RUN_DIR="$work/bravo/run" \
		drbdadm -c "$share/r0.res" "$@" < /dev/null
}
keep() {
	local pid
	for pid in $(ip netns pids "$guest_netns"); do
		if grep -sq '^udrbd' "/proc/$pid/comm"; then kill -KILL "$pid" 2> /dev/null || true; fi
	done
	if ((failed > 0)); then alpha "drbdsetup status -v r0; tail -n 60 /run/drbd/r0.log; dmesg | tail -n 20" || true; fi
	[ -n "${KEEP:-}" ] || return 0
	mkdir -p "$KEEP"
	cp "$guests/alpha/messages" "$KEEP/"
	alpha dmesg > "$KEEP/alpha.dmesg"
	alpha "cat /run/drbd/r0.log" > "$KEEP/alpha.log"
	cp "$work"/bravo/run/r0.log "$KEEP/bravo.log"
	if [ -e "$share/pulse" ]; then cp "$share/pulse" "$KEEP/"; fi
}
role_is() { [ "$(alpha 'drbdadm role r0')" = "$1" ]; }
# in_guest CODE TEXT COMMANDLINE
in_guest() { refused_with "$1" "$2" alpha "$3"; }

# boot_alpha DISK...: /dev/disk0, /dev/disk1... there. The programs are installed, and $share/r0.res is its configuration.
boot_alpha() {
	mkdir -p "$share/target/release" "$work/bravo/run"
	cp "$programs"/{udrbd,drbdadm,drbdsetup,drbdmeta} "$share/target/release/"
	cp "$top/tests/system/ledger" "$share/"
	guest_build
	guest_network
	started=$SECONDS
	at_end "guest_kill alpha"
	at_end keep
	guest_start alpha 10.77.0.11/24 "$@"
	guest_ready alpha
	guest_run alpha "mkdir -p /share && mount -t hostfs none -o $share /share && cp /share/r0.res /etc/drbd.conf && install -m 755 /share/target/release/* /usr/local/sbin/"
}
