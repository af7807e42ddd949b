# Sourced after report.bash, as root: a real cluster of two nodes on this machine, corosync and pacemaker from Debian, on two
# networks: `cluster` (eth0, 10.99.0.K) and `repl` (eth1, 10.99.1.K). Outside of them is their power supply, which the fence agent
# asks. What a node is NODES says: namespaces, or guests. A test fills $etc, laid over the nodes' /etc, and $bin, their
# /usr/local/sbin, before cluster_begin.
# shellcheck shell=bash disable=SC2154 # $work, $top: report.bash
cluster_files=$top/tests/system/cluster
switch=udrbd-cluster-$$
etc=$work/etc sbin=$work/sbin bin=$work/bin
mkdir -p "$etc" "$sbin" "$bin"
outside=10.99.0.254
power_port=623
# shellcheck source=namespaces.bash
. "$cluster_files/${NODES:-namespaces}.bash"

# cluster_begin [stonith]: the networks, the power supply, and both nodes with their disks, not booted.
cluster_begin() {
	local bridge k
	ip netns add "$switch"
	at_end "ip netns del $switch"
	for bridge in cluster repl; do
		ip -n "$switch" link add "$bridge" type bridge mcast_snooping 0
		ip -n "$switch" link set "$bridge" up
	done
	ip netns exec "$switch" nft -f - <<-END
		table bridge cuts {
			set pairs { type ifname . ifname; }
			chain forwarding {
				type filter hook forward priority 0; policy accept;
				iifname . oifname @pairs drop
			}
		}
	END
	ip -n "$switch" link set lo up
	ip -n "$switch" addr add "$outside/24" dev cluster
	ip netns exec "$switch" "$cluster_files/power-supply" "$work" "$switch" "$outside" "$power_port" > "$work/power.log" 2>&1 &
	at_end "kill $!"
	wait_for 5 "the power supply" power monitor -
	cp "$cluster_files/fence_node" "$sbin/"
	nodes_begin
	for k in 1 2; do make_node "$k" "${1:-}"; done
}

# make_node K [stonith]: its disk.
make_node() {
	local dir=$work/node$1 disk=$work/node$1/disk
	mkdir -p "$disk"/{etc/corosync,work,log/corosync,log/pacemaker,log/crmsh,corosync,drbd,pacemaker}
	cp -a /var/lib/pacemaker/. "$disk/pacemaker/"
	rm -rf "$disk"/pacemaker/*/*
	chown hacluster:haclient "$disk/log/pacemaker"
	chmod 770 "$disk/log/pacemaker"
	ln -sfn "$sbin" "$dir/sbin"
	ln -sfn "$bin" "$dir/bin"
	cp -a "$etc/." "$disk/etc/"
	echo "node$1" > "$disk/etc/hostname"
	printf '%s\n' "127.0.0.1 localhost" "10.99.0.1 node1" "10.99.0.2 node2" > "$disk/etc/hosts"
	cat > "$disk/etc/corosync/corosync.conf" <<-END
		totem {
		    version: 2
		    cluster_name: test
		    transport: knet
		    crypto_cipher: none
		    crypto_hash: none
		    token: 1000
		}
		system {
		    sched_rr: no
		    move_to_root_cgroup: no
		}
		logging {
		    to_stderr: no
		    to_syslog: no
		    to_logfile: yes
		    logfile: /var/log/corosync/corosync.log
		}
		quorum {
		    provider: corosync_votequorum
		    two_node: 1
		}
		nodelist {
		    node {
		        ring0_addr: 10.99.0.1
		        name: node1
		        nodeid: 1
		    }
		    node {
		        ring0_addr: 10.99.0.2
		        name: node2
		        nodeid: 2
		    }
		}
	END
	first_cib "${2:-}" > "$disk/pacemaker/cib/cib.xml"
	chown hacluster:haclient "$disk/pacemaker/cib/cib.xml"
	chmod 600 "$disk/pacemaker/cib/cib.xml"
	at_end "power off node$1 > /dev/null"
}

# first_cib [stonith]: of two nodes that shoot each other node1 wins. It needs up to two seconds more than the other one to make up its
# mind: a delay of two had both shot, once in 26 times.
first_cib() {
	local schema
	schema=$(basename "$(find /usr/share/pacemaker -name 'pacemaker-[0-9]*.rng' | sort -V | tail -1)" .rng)
	cat <<-END
		<cib validate-with="$schema" admin_epoch="0" epoch="1" num_updates="0"><configuration>
		<crm_config><cluster_property_set id="cib-bootstrap-options">
		<nvpair id="dc-deadtime" name="dc-deadtime" value="2s"/>
		<nvpair id="stonith-enabled" name="stonith-enabled" value="$([ "${1:-}" = stonith ] && echo true || echo false)"/>
		<nvpair id="stonith-action" name="stonith-action" value="off"/>
		</cluster_property_set></crm_config><nodes/><resources>
	END
	if [ "${1:-}" = stonith ]; then
		cat <<-END
			<primitive id="fencing" class="stonith" type="fence_node"><instance_attributes id="fencing-attributes">
			<nvpair id="fencing-list" name="pcmk_host_list" value="node1 node2"/>
			<nvpair id="fencing-delay" name="pcmk_delay_base" value="node1:5s"/>
			<nvpair id="fencing-address" name="address" value="$outside:$power_port"/>
			</instance_attributes></primitive>
		END
	fi
	echo "</resources><constraints/></configuration><status/></cib>"
}

is_on() { [ -s "$work/node$1/pid" ] && [ -e "/proc/$(< "$work/node$1/pid")" ]; }

# power off|status|monitor NODE: as the fence agent does.
power() {
	# shellcheck disable=SC2016 # for the shell there
	ip netns exec "$switch" bash -c 'exec 3<> "/dev/tcp/$1/$2" && echo "$3 $4 the-test" >&3 && cat <&3' power "$outside" "$power_port" "$@" 2> /dev/null
}
fails() { quietly power off "node$1"; }
# What the management controller does not know of, if it answers nobody.
fails_unasked() {
	local pid
	pid=$(< "$work/node$1/pid")
	for net in c r; do ip -n "$switch" link del "node$1-$net"; done
	kill_node "$1"
	wait_for 10 "node$1 is off" test ! -e "/proc/$pid"
}

# cut_network NETWORK / heal: the switch forwards nothing between the nodes any more, and they do not learn of it.
cut_network() {
	local n=${1:0:1}
	ip netns exec "$switch" nft add element bridge cuts pairs "{ \"node1-$n\" . \"node2-$n\", \"node2-$n\" . \"node1-$n\" }"
}
heal() { ip netns exec "$switch" nft flush set bridge cuts pairs; }

# settled: every node that is on sees all of those online, and the cluster has nothing left to do.
settled() {
	local k on=0 seen
	for k in 1 2; do ! is_on "$k" || on=$((on + 1)); done
	for k in 1 2; do
		is_on "$k" || continue
		seen=$(node "$k" crm_mon -1 --output-as=xml 2> /dev/null) || return 1
		[ "$(grep -c '<node name=.*online="true".*pending="false"' <<< "$seen")" = "$on" ] || return 1
		grep -q '<current_dc present="true".*with_quorum="true"' <<< "$seen" || return 1
	done
	for k in 1 2; do
		! is_on "$k" || { node "$k" timeout 60 crm_resource --wait > /dev/null 2>&1 && return; }
	done
}
promoted() { node "$1" crm_resource --resource drbd-clone --locate 2> /dev/null | sed -n 's/.*on: node\(.\) \(Promoted\|Master\).*/\1/p'; }
