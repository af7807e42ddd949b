# Sourced: boots and drives guests made by `build`. A guest is a directory $guests/NAME with its process id, its console
# and two pipes to the agent behind its second serial line; it dies with guest_kill, however the caller ends.
# Needs: $guests (a directory), $guest_cache (filled by build), $guest_netns (a network namespace with a bridge br0).
# shellcheck shell=bash disable=SC2154 # the three named above

# guest_start NAME ADDRESS/LENGTH DISK...: boot, without waiting. The disks are /dev/vda, /dev/vdb... in it.
guest_start() {
	local name=$1 address=$2 dir=$guests/$1 tap=tap-$1 host=${2%/*} disk disks=()
	shift 2
	for disk; do
		disks+=(-drive "file=$disk,format=raw,if=none,id=disk${#disks[@]},cache=writeback,aio=threads,discard=unmap"
			-device "virtio-blk-pci,drive=disk${#disks[@]}")
	done
	mkdir -p "$dir"
	mkfifo "$dir/line.in" "$dir/line.out"
	ip -n "$guest_netns" tuntap add "$tap" mode tap
	ip -n "$guest_netns" link set "$tap" master br0 up
	ip netns exec "$guest_netns" setsid qemu-system-x86_64 -M q35,smm=off,vmport=off -accel tcg,thread=multi -cpu max \
		-m 320 -nodefaults -no-user-config -display none -no-reboot \
		-kernel "$guest_cache/vmlinuz" -initrd "$guest_cache/initrd" \
		-append "console=ttyS0 panic=-1 quiet nokaslr mitigations=off random.trust_cpu=on guest.name=$name guest.ip=$address" \
		-chardev "file,id=console,path=$dir/console" -serial chardev:console \
		-chardev "pipe,id=line,path=$dir/line" -serial chardev:line \
		"${disks[@]}" -device virtio-rng-pci \
		-netdev "tap,id=net,ifname=$tap,script=no,downscript=no" \
		-device "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:$(printf %02x "${host##*.}")" \
		> "$dir/qemu.log" 2>&1 < /dev/null &
	echo $! > "$dir/pid"
	# Both ends stay open here, so that a pipe is never at its end between two commands.
	# shellcheck disable=SC1083
	exec {guest_in["$name"]}<> "$dir/line.in" {guest_out["$name"]}<> "$dir/line.out"
}

# guest_ready NAME: wait until it takes commands.
guest_ready() {
	local line limit=$((SECONDS + 90))
	while ((SECONDS < limit)); do
		if read -r -t 5 line <&"${guest_out[$1]}" && [[ $line == *"<<ready>>"* ]]; then return 0; fi
		kill -0 "$(< "$guests/$1/pid")" || break
	done
	tail -n 20 "$guests/$1/console" "$guests/$1/qemu.log" >&2
	echo "guest $1 did not come up" >&2
	return 1
}

# guest_run NAME COMMANDLINE: carry it out there; its output and its exit code.
guest_run() {
	local line text='' limit=${guest_limit_s:-60}
	base64 -w 0 <<< "$2" >&"${guest_in[$1]}"
	echo >&"${guest_in[$1]}"
	while read -r -t "$limit" line <&"${guest_out[$1]}"; do
		line=${line%$'\r'}
		case $line in
		"<<"*">>")
			base64 -d <<< "$text"
			line=${line#<<}
			return "${line%>>}"
			;;
		*) text+=$line ;;
		esac
	done
	echo "guest $1: no answer within $limit s to: $2" >&2
	tail -n 20 "$guests/$1/console" >&2
	return 124
}

# guest_kill NAME: pull its plug.
guest_kill() {
	[ -e "$guests/$1/pid" ] || return 0
	kill -KILL "$(< "$guests/$1/pid")" 2> /dev/null || true
	wait "$(< "$guests/$1/pid")" 2> /dev/null || true
	rm -f "$guests/$1/pid"
}

declare -A guest_in guest_out
