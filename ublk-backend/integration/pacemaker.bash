# Sourced by each bash script that Pacemaker starts, because its service has BASH_ENV. The agent ocf:linbit:drbd takes DRBD for
# usable where there is a file /proc/drbd, and no program can put one there. With udrbd the answer to that one question is
# yes; every other goes to bash's own test.
test() {
	if [ $# = 2 ] && [ "$1" = -f ] && [ "$2" = /proc/drbd ]; then
		builtin test -f /proc/drbd || builtin test -x "@UDRBD@"
	else
		builtin test "$@"
	fi
}
