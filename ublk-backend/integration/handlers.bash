# Sourced by each bash script that a handler starts, because udrbd's daemons run handlers with BASH_ENV. drbd-utils' script for
# snapshots takes its input from /proc/drbd, and no program can put a file there. Where it is missing such a script, as it is,
# is run with a file in its place that says what the one of DRBD 9 says.
if [ ! -e /proc/drbd ] && [ -r "/proc/$$/cmdline" ]; then
	mapfile -d '' -t udrbd_words < "/proc/$$/cmdline"
	udrbd_at=1
	while [[ ${udrbd_words[udrbd_at]-} = -* ]]; do udrbd_at=$((udrbd_at + 1)); done
	# With -c there is a command and no script.
	if [[ " ${udrbd_words[*]:1:udrbd_at-1} " != *" -"*c* ]] && grep -qs '< */proc/drbd' "${udrbd_words[udrbd_at]-}"; then
		exec /bin/bash "${udrbd_words[@]:1:udrbd_at-1}" -c "$(sed 's,< */proc/drbd,< /etc/udrbd/proc-drbd,g' "${udrbd_words[udrbd_at]}")" \
			"${udrbd_words[@]:udrbd_at}"
	fi
	unset udrbd_words udrbd_at
fi
