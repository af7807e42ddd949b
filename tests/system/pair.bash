# Sourced after report.bash: two nodes on loopback for an ordinary user, as the demo makes them: alpha and beta, each
# with a run directory and a backing file of its own below $work. `alpha COMMAND...` runs it as that node.
# shellcheck shell=bash disable=SC2154,SC2034 # $work: report.bash

conf=$work/drbd.conf

alpha() { as alpha "$@"; }
beta() { as beta "$@"; }

# as NODE drbdadm|drbdsetup|... ARGUMENT...
as() {
	local node=$1 program=$2
	shift 2
	case $program in drbdadm) set -- -c "${conf_of[$node]:-$conf}" "$@" ;; esac
	without_pretence env __DRBD_NODE__="$node" UDRBD_RUN_DIR="$work/$node/run" "$program" "$@" < /dev/null
}

declare -A conf_of port_of
nbd_socket() { echo "$work/$1/run/r0.0.nbd"; }
disk() { echo "$work/$1/disk"; }

# free_port: one nobody listens on; never the same twice in a test.
next_port=$((20000 + $$ % 20000))
free_port() {
	until ! (: < "/dev/tcp/127.0.0.1/$next_port") 2> /dev/null; do next_port=$((next_port + 1)); done
	port=$next_port
	next_port=$((next_port + 1))
}

# pair_make SIZE NET-OPTIONS [DISK-OPTIONS [MORE]]: directories, backing files, $conf; nothing is started.
pair_make() {
	local node
	for node in alpha beta; do
		mkdir -p "$work/$node/run"
		rm -f "$(disk $node)"
		truncate -s "$1" "$(disk $node)"
		free_port
		port_of[$node]=$port
		at_end "kill_node $node"
	done
	resource_text "$2" "${3:-}" "${4:-}" > "$conf"
}

# resource_text NET-OPTIONS DISK-OPTIONS MORE [ALPHA-PORT BETA-PORT]
resource_text() {
	cat <<-END
		global { usage-count no; }
		resource r0 {
		    net { $1 }
		    disk { resync-rate 100M; c-max-rate 1G; $2 }
		    $3
		    on alpha {
		        node-id 0;
		        address 127.0.0.1:${4:-${port_of[alpha]}};
		        volume 0 { device minor 0; disk $(disk alpha); meta-disk internal; }
		    }
		    on beta {
		        node-id 1;
		        address 127.0.0.1:${5:-${port_of[beta]}};
		        volume 0 { device minor 0; disk $(disk beta); meta-disk internal; }
		    }
		}
	END
}

# pair_up: from two fresh disks to a Primary on alpha and two equal copies.
pair_up() {
	local node
	for node in alpha beta; do
		quietly "$node" drbdadm create-md r0
		"$node" drbdadm up r0
	done
	wait_for 20 "alpha and beta find each other" is_cstate alpha Connected
	alpha drbdadm primary --force r0
	wait_for 60 "the first copy" is_in_sync
}

is_dstate() { [ "$("$1" drbdadm dstate r0)" = "$2" ]; }
is_cstate() { [ "$("$1" drbdadm cstate r0)" = "$2" ]; }
is_in_sync() { [ "$(alpha drbdadm dstate r0) $(beta drbdadm dstate r0)" = "UpToDate/UpToDate UpToDate/UpToDate" ]; }

# processes_of NODE: daemons and their parents.
processes_of() {
	local pid
	for pid in $(pgrep -x udrbd); do
		{ tr '\0' '\n' < "/proc/$pid/environ" | grep -qxF "UDRBD_RUN_DIR=$work/$1/run"; } 2> /dev/null && echo "$pid"
	done
	true
}

kill_node() {
	local pid
	for pid in $(processes_of "$1"); do kill -KILL "$pid" 2> /dev/null || true; done
}

# refused_with CODE TEXT COMMAND...: it ends with this exit code and says this (extended regular expression).
refused_with() {
	local code=$1 text=$2 said got=0
	shift 2
	said=$("$@" 2>&1) || got=$?
	echo "exit code $got: $said"
	[ "$got" = "$code" ] && grep -qiE -- "$text" <<< "$said"
}

disks_equal() { cmp -n "$1" "$(disk alpha)" "$(disk beta)"; }
