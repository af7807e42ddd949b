# Sourced after cluster/cluster.bash: on that cluster the service of README's chapter "Failover by Pacemaker", which is loaded as it
# stands there: on the device a file system and PostgreSQL, which somebody outside of the cluster writes to, and remembers each
# row it was told is there.
# KEEP=DIR: logs are left there. AGENT=FILE: instead of drbd-utils' agent (not below /tmp).
# shellcheck shell=bash disable=SC2154 # $work, $top: report.bash
started=$SECONDS
at() { echo "  -- $((SECONDS - started)) s: $1"; }
address=10.99.0.100
# So long nobody waits for a row to be acknowledged. Ten seconds are a fencing device's that is broken.
patience_s=${patience_s:-25}
# So long a row may take where nothing keeps it.
answer_s=${answer_s:-1}
keep() {
	local k
	[ -n "${KEEP:-}" ] || return 0
	for k in 1 2; do
		mkdir -p "$KEEP/node$k"
		keep_node $k "$KEEP/node$k"
		! is_on "$k" || log_of "$k" > "$KEEP/node$k/r0.log"
	done
	cp "$work"/{power.log,said,acknowledged} "$KEEP/"
}

# of_readme WORD: the block of README.md that begins with that word.
of_readme() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" "$top/README.md" | grep -v '^```'; }
mkdir "$etc/drbd.d"
printf '%s\n' "global { usage-count no; }" 'include "drbd.d/*.res";' > "$etc/drbd.conf"
postgresql=$(find /usr/lib/postgresql -maxdepth 1 -name '[0-9]*' | sort -V | tail -1)
# What systemd and udev would do.
cat > "$etc/rc.local" <<- END
	#!/bin/bash
	udrbd integrate
	mkdir /dev/vg0
	ln -s \$(cat /etc/backing) /dev/vg0/r0
	install -d -o postgres /run/postgresql /run/db
END
[ -z "${AGENT:-}" ] || echo "mount --bind $(realpath "$AGENT") /usr/lib/ocf/resource.d/linbit/drbd" >> "$etc/rc.local"
chmod 755 "$etc/rc.local"

# The rows, from outside: what was acknowledged, and when, in seconds.
# A service that is gone, also in the middle of an answer, is asked again soon: neither TCP nor libpq would for a second or two.
ask() {
	# shellcheck disable=SC2016 # for the shell there
	timeout "$answer_s" ip netns exec "$switch" bash -c 'timeout 0.3 bash -c ": < /dev/tcp/$1/5432" && exec psql -qAt -h "$1" -U postgres -c "$2" postgres' \
		ask "$address" "$1" 2>> "$work/said"
}
write_rows() {
	local row=0
	: > "$work/acknowledged"
	while [ ! -e "$work/stop" ]; do
		if ask "insert into rows values ($row) on conflict do nothing"; then
			echo "$row $EPOCHREALTIME" >> "$work/acknowledged"
			row=$((row + 1))
		else
			sleep 0.05
		fi
	done
}
rows() { wc -l < "$work/acknowledged"; }
more_rows() { [ "$(rows)" -gt "$(($1 + 5))" ]; }
rows_go_on() { wait_for 60 "rows go on" more_rows "$(rows)"; }
# longest_pause SINCE: between two acknowledgements, the first before that moment.
longest_pause() {
	awk -v since="$1" '$2 > since && last { gap = $2 - last; if (gap > longest) longest = gap } { last = $2 } END { printf "%.2f\n", longest }' \
		"$work/acknowledged"
}
# Pacemaker may move the service once more after all is well.
rows_there() { ask "select id from rows" | sort > "$work/there"; }
no_row_is_lost() {
	cut -d' ' -f1 "$work/acknowledged" | sort > "$work/told"
	wait_for 60 "the rows are read" rows_there
	comm -23 "$work/told" "$work/there" > "$work/lost"
	wc -l "$work"/{told,there,lost}
	[ -s "$work/told" ] && [ ! -s "$work/lost" ]
}
constraints() { node 1 cibadmin -Q --xpath '//rsc_location[starts-with(@id,"drbd-fence")]' 2> /dev/null; }
is_healthy() { # both nodes on and in sync, one of them promoted, and nobody kept from it
	[ "$(node 1 drbdadm dstate r0)" = UpToDate/UpToDate ] && [ -n "$(promoted 1)" ] && [ -z "$(constraints)" ]
}
# begins WHAT; ends: what came of it, without a hand from anybody but who boots nodes that are off.
begins() {
	at "$1"
	primary=$(promoted 1)
	begun=$EPOCHREALTIME
}
ends() {
	local k
	rows_go_on
	heal
	for k in 1 2; do is_on $k || boot $k; done
	wait_for 120 "both are in sync again" is_healthy
	wait_for 120 "the cluster has nothing left to do" settled
	rows_go_on
	echo "  no row for at most $(longest_pause "$begun") s"
	expect "nobody waited longer than the cluster's timeouts explain" shorter "$(longest_pause "$begun")" "$patience_s"
	expect "no acknowledged row is lost" no_row_is_lost
}
shorter() { awk -v a="$1" -v b="$2" 'BEGIN { exit a >= b }'; }
moved() { [ "$(promoted "${1:-1}")" = "$(other "$primary")" ]; }
role() { node "$1" drbdadm role r0; }
one_is_off() { ! is_on 1 || ! is_on 2; }
is_diskless() { [[ $(node "$primary" drbdadm dstate r0) = Diskless/* ]]; }
is_primary() { has_file "$1" /run/drbd/r0.primary; }
has_constraint() { [ -n "$(constraints)" ]; }
has_none() { ! has_constraint; }
other() { echo $((3 - $1)); }
connected() { [ "$(node 1 drbdadm cstate r0)" = Connected ]; }
answers() { ask "select 1"; }

# service_begin stonith|unfenced: the cluster with its service, and somebody who writes rows.
service_begin() {
	local k fencing=resource-only
	[ "$1" != stonith ] || fencing=resource-and-stonith
	of_readme crm | sed "s,/usr/lib/postgresql/15,$postgresql," > "$etc/service.crm"
	of_readme drbd | sed "s/resource-and-stonith/$fencing/" > "$etc/drbd.d/r0.res"
	cluster_begin "$1"
	at_end keep
	# Whoever asks for an address that nobody has asks again after a tenth of a second instead of a whole one.
	ip -n "$switch" ntable change name arp_cache dev cluster retrans 100
	for k in 1 2; do make_disk $k; done
	boot 1 2
	for k in 1 2; do
		quietly node $k drbdadm create-md --force r0
		quietly node $k drbdadm up r0
	done
	wait_for 10 "connected" connected
	quietly node 1 drbdadm new-current-uuid --clear-bitmap r0/0
	quietly node 1 drbdadm primary r0
	quietly node 1 bash -ec 'mkfs.ext4 -q /dev/drbd0; mount /dev/drbd0 /run/db; mkdir /run/db/pg; chown postgres: /run/db/pg
		runuser -u postgres -- '"$postgresql"'/bin/initdb -A trust -D /run/db/pg --no-sync > /dev/null
		echo "host all all 10.99.0.0/24 trust" >> /run/db/pg/pg_hba.conf
		printf "%s\n" "listen_addresses = '"'*'"'" "shared_buffers = 16MB" >> /run/db/pg/postgresql.conf
		umount /run/db'
	for k in 1 2; do
		quietly node $k drbdadm down r0
	done
	wait_for 120 "the cluster is up" settled
	begun=$EPOCHREALTIME
	expect "the configuration is taken" node 1 crm -F configure load update /etc/service.crm
	wait_for 120 "the service answers" answers
	echo "  the service answers $(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') s after that"
	quietly ask "create table rows (id int primary key)"
	write_rows &
	writer=$!
	at_end "touch $work/stop; wait $writer"
	rows_go_on
	begun=$EPOCHREALTIME
	ends
}
