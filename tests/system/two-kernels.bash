# Sourced after kernel.bash, with the arguments of the test: with --baseline a second guest takes udrbd's place, and what
# the test sees is what two kernels do. Settings of a node that differ from the other's are in $options_here and
# $options_kernel.
# shellcheck shell=bash disable=SC2154,SC2034 # see kernel.bash

baseline=no
if [ "${1:-}" = --baseline ]; then
	baseline=yes
	address_here=10.77.0.12
	adm() { guest_run here "drbdadm $*"; }
fi
options_here=
options_kernel=

is_guest() { [ "$1" = kernel ] || [ "$baseline" = yes ]; }

# boot NODE: until it takes commands.
boot() {
	is_guest "$1" || return 0
	local address=10.77.0.11
	[ "$1" = kernel ] || address=$address_here
	guest_start "$1" "$address/24" "$work/$1.img"
	guest_ready "$1"
}

configure_node() {
	local options=$options_here
	[ "$1" = here ] || options=$options_kernel
	if is_guest "$1"; then
		guest_run "$1" "cat > /etc/drbd.conf <<'END'
$(resource_text /dev/disk0 "$options" 7789 7789)
END"
	else
		resource_text "$work/here.img" "$options" 7789 7789 > "$work/r0.conf"
	fi
}

begin() {
	guest_build
	guest_network
	truncate -s "$disk_bytes" "$work/here.img" "$work/kernel.img"
	started=$SECONDS
	at_end "guest_kill kernel; guest_kill here; kill_here"
}
