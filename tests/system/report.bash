# Sourced by every system test: where the programs are, what passed, what did not, and how the test ends.
# shellcheck shell=bash
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
programs=${UDRBD_PROGRAMS:-${CARGO_TARGET_DIR:-$top/target}/release}
# The system's own Python has libnbd's module.
export PATH=$programs:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
for program in drbdadm drbdsetup drbdmeta udrbd; do
	[ -x "$programs/$program" ] || {
		echo "$programs/$program is not there: cargo build --release" >&2
		exit 1
	}
done
passed=0
failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/udrbd-test-XXXXXX")
endings=("rm -rf '$work'")

# at_end COMMANDLINE: carried out when the test ends, however it ends; the last one first.
at_end() { endings=("$1" "${endings[@]}"); }

finish() {
	local code=$? command
	set +e
	((code == 0 || failed > 0)) || failed=1
	for command in "${endings[@]}"; do eval "$command"; done
	echo "$(basename "$0"): $passed passed, $failed failed"
	exit $((failed > 0))
}
trap finish EXIT
trap 'exit 130' INT TERM

die() {
	echo "  FAILED: $1"
	failed=$((failed + 1))
	exit 1
}

# expect WHAT COMMAND...: one check, counted.
expect() {
	local what=$1 said
	shift
	if said=$("$@" 2>&1); then
		passed=$((passed + 1))
		echo "  ok: $what"
	else
		failed=$((failed + 1))
		echo "  FAILED: $what: $*"
		echo "      ${said//$'\n'/$'\n'      }"
	fi
}

# wait_for SECONDS WHAT COMMAND...: until it succeeds, else the test ends.
wait_for() {
	local limit=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" > /dev/null 2>&1; do
		((SECONDS < limit)) || {
			"$@" || true
			die "$what: not within its time"
		}
		sleep 0.1
	done
}

need_root() {
	[ "$(id -u)" = 0 ] || die "this one needs root (network namespaces, loop devices)"
}

# without_pretence COMMAND...: without what drbdadm says each time __DRBD_NODE__ is set.
without_pretence() {
	{ "$@" 2>&1 >&3 3>&- | sed '/found __DRBD_NODE__ in environment/d; /PRETENDING that I am/d; /^$/d' >&2; } 3>&1
}

# quietly COMMAND...: what it says only counts if it fails.
quietly() {
	"$@" > "$work/quietly" 2>&1 || {
		local code=$?
		cat "$work/quietly" >&2
		return "$code"
	}
}
