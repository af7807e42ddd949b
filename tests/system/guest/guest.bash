# Sourced: boots and drives guests made by `build`. A guest is a directory $guests/NAME with its process id, its console
# and two pipes to the agent behind its second serial line; it dies with guest_kill, however the caller ends.
# Needs: $guest_kind (debian or uml), $guests (a directory) and $guest_netns (the name of a network namespace).
# shellcheck shell=bash disable=SC2154,SC2054 # the three named above; commas belong to the words of a machine

guest_cache=${XDG_CACHE_HOME:-$HOME/.cache}/udrbd-tests/guest-$guest_kind
guest_build() { "$top/tests/system/guest/build" "$guest_kind" "$guest_cache"; }

# The network of the guests and of this machine's side of it, 10.77.0.1.
guest_network() {
	ip netns add "$guest_netns"
	at_end "ip netns del $guest_netns"
	ip -n "$guest_netns" link set lo up
	ip -n "$guest_netns" link add br0 type bridge
	ip -n "$guest_netns" addr add 10.77.0.1/24 dev br0
	ip -n "$guest_netns" link set br0 up
}

# guest_start NAME ADDRESS/LENGTH DISK...: boot, without waiting. The disks are /dev/disk0, /dev/disk1... in it. Its port is
# tap-NAME of the bridge br0; User-Mode Linux can have several, TAP:BRIDGE in $guest_ports, eth0, vec1... in it.
guest_start() {
	local name=$1 address=$2 dir=$guests/$1 host=${2%/*} port tap ports=() disk disks=() machine=() mac
	shift 2
	mkdir -p "$dir"
	rm -f "$dir/line.in" "$dir/line.out"
	mkfifo "$dir/line.in" "$dir/line.out"
	# Both ends stay open here, so that a pipe is never at its end between two commands.
	# shellcheck disable=SC1083
	exec {guest_in["$name"]}<> "$dir/line.in" {guest_out["$name"]}<> "$dir/line.out"
	for port in ${guest_ports:-tap-$name:br0}; do
		tap=${port%:*} mac=52:54:00:00:$(printf '%02x:%02x' ${#ports[@]} "${host##*.}")
		ip -n "$guest_netns" link del "$tap" 2> /dev/null || true
		ip -n "$guest_netns" tuntap add "$tap" mode tap
		ip -n "$guest_netns" link set "$tap" master "${port#*:}" up
		ports+=("vec${#ports[@]}:transport=tap,ifname=$tap,depth=128,gro=1,mac=$mac")
	done
	local line="panic=-1 ${guest_words:-quiet} drbd.usermode_helper=disabled guest.kind=$guest_kind guest.name=$name guest.ip=$address"
	case $guest_kind in
	debian)
		for disk; do
			disks+=(-drive "file=$disk,format=raw,if=none,id=disk${#disks[@]},cache=writeback,aio=threads,discard=unmap"
				-device "virtio-blk-pci,drive=disk${#disks[@]}")
		done
		machine=(qemu-system-x86_64 -M q35,smm=off,vmport=off -accel tcg,thread=multi -cpu max
			-m 320 -nodefaults -no-user-config -display none -no-reboot
			-kernel "$guest_cache/vmlinuz" -initrd "$guest_cache/initrd"
			-append "console=ttyS0 nokaslr mitigations=off random.trust_cpu=on $line"
			-chardev "file,id=console,path=$dir/console" -serial chardev:console
			-chardev "pipe,id=line,path=$dir/line" -serial chardev:line
			"${disks[@]}" -device virtio-rng-pci
			-netdev "tap,id=net,ifname=$tap,script=no,downscript=no"
			-device "virtio-net-pci,netdev=net,romfile=,mac=$mac")
		;;
	uml)
		for disk; do disks+=("ubd${#disks[@]}=$disk"); done
		# shellcheck disable=SC2206 # words of the kernel's command line
		machine=(env TMPDIR=/dev/shm "$guest_cache/linux" "mem=${guest_memory:-192M}" "initrd=$guest_cache/initrd"
			"umid=$name" "uml_dir=$dir/" con=null con0=null,fd:1 "ssl1=fd:${guest_in[$name]},fd:${guest_out[$name]}"
			"${disks[@]}" "${ports[@]}" $line)
		;;
	esac
	ip netns exec "$guest_netns" setsid "${machine[@]}" >> "$dir/messages" 2>&1 < /dev/null &
	echo $! > "$dir/pid"
}

# guest_complains NAME: what it said last.
guest_complains() { tail -qn 20 "$guests/$1/console" "$guests/$1/messages" >&2 2> /dev/null; }

# guest_ready NAME: wait until it takes commands.
guest_ready() {
	local line limit=$((SECONDS + 90))
	while ((SECONDS < limit)); do
		if read -r -t 5 line <&"${guest_out[$1]}" && [[ $line == *"<<ready>>"* ]]; then return 0; fi
		kill -0 "$(< "$guests/$1/pid")" || break
	done
	guest_complains "$1"
	echo "guest $1 did not come up" >&2
	return 1
}

# guest_run NAME COMMANDLINE: carry it out there; its output and its exit code.
guest_run() {
	local line part='' text='' limit=$((SECONDS + ${guest_limit_s:-60}))
	base64 -w 0 <<< "$2" >&"${guest_in[$1]}"
	echo >&"${guest_in[$1]}"
	while :; do
		# What has come when the time is over is there no more.
		if ! read -r -t 1 line <&"${guest_out[$1]}"; then
			part+=$line
			if ((SECONDS < limit)) && kill -0 "$(cat "$guests/$1/pid" 2> /dev/null)" 2> /dev/null; then continue; fi
			break
		fi
		line=$part${line%$'\r'} part=''
		case $line in
		"<<"*">>")
			base64 -d <<< "$text"
			line=${line#<<}
			return "${line%>>}"
			;;
		*) text+=$line ;;
		esac
	done
	echo "guest $1 did not answer: $2" >&2
	guest_complains "$1"
	return 124
}

# guest_kill NAME: pull its plug.
guest_kill() {
	[ -e "$guests/$1/pid" ] || return 0
	local pid
	pid=$(< "$guests/$1/pid")
	# A User-Mode Linux keeps its processes in processes of the host's, all of one group.
	kill -KILL -- "-$pid" 2> /dev/null || kill -KILL "$pid" 2> /dev/null || true
	wait "$pid" 2> /dev/null || true
	rm -f "$guests/$1/pid"
}

declare -A guest_in guest_out
