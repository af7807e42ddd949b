use super::*;
use crate::diagnostics::Severity;
use crate::host::ThisHost;
use crate::parser::Parser;
use crate::syntax::Item;
use crate::wanted::{wanted, Wanted};

fn config(text: &str) -> (Config, Sources) {
    let mut sources = Sources::default();
    let file = sources.add("t.conf", text);
    let (items, noted) = Parser::new(&sources, file, text).items();
    assert!(noted.iter().all(|d| d.severity == Severity::Warning), "{noted:?}");
    let mut config = Config::default();
    for item in items {
        match item {
            Item::Include(_) | Item::Global(..) => {}
            Item::Common(sections, _) => config.common = Some(*sections),
            Item::Resource(resource) => config.resources.push(*resource),
        }
    }
    (config, sources)
}

fn wanted_on(host: &str, text: &str) -> Wanted {
    let (mut config, sources) = config(text);
    assert!(complete(&mut config, &sources).is_empty());
    let expanded = expand(&config);
    assert!(check(&config, &expanded, &sources).is_empty());
    let here = ThisHost { name: host.to_owned(), ..ThisHost::default() };
    wanted(&expanded.resources[0], &expanded, &here).expect("a resource of this host")
}

fn complaints(text: &str) -> Vec<String> {
    let (mut config, sources) = config(text);
    let mut noted = complete(&mut config, &sources);
    let expanded = expand(&config);
    noted.extend(check_unique(&config, &expanded, &sources));
    noted.extend(check(&config, &expanded, &sources));
    noted.into_iter().map(|d| d.text).collect()
}

const MESH: &str = "resource r0 { volume 0 { device minor 1; disk /dev/a; meta-disk internal; }
  on alpha.example.com { node-id 0; address 10.0.0.1:1; } on bravo { node-id 1; address 10.0.0.2:1; }
  on charlie { node-id 2; address 10.0.0.3:1; volume 0 { disk none; } }
  connection-mesh { hosts alpha.example.com bravo charlie; net { protocol A; } } }";

#[test]
fn a_mesh_connects_every_pair_and_spares_the_diskless_a_bitmap() {
    let mine = wanted_on("alpha", MESH);
    let peers: Vec<(u32, &str)> = mine.connections.iter().map(|c| (c.peer_id, c.name.as_str())).collect();
    assert_eq!(peers, [(1, "bravo"), (2, "charlie")]);
    assert!(mine.connections[0].peer_devices[0].1.is_empty());
    assert_eq!(mine.connections[1].peer_devices[0].1.value("bitmap"), Some("no"));
    assert!(wanted_on("CHARLIE", MESH).volumes[0].disk.is_none());
}

#[test]
fn nearer_values_win_and_lists_are_reversed_once_per_inheritance() {
    let text = "common { net { max-buffers 8000; ping-int 5; protocol B; } }
      resource r0 { net { ping-int 10; } device minor 1; disk /dev/a; meta-disk internal;
      on alpha { address 10.0.0.1:1; } on bravo { address 10.0.0.2:1; } }";
    let mine = wanted_on("bravo", text);
    let net: Vec<String> = mine.connections[0]
        .net
        .0
        .iter()
        .map(|s| format!("{}={}", s.name, s.value.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(net, ["_name=alpha", "ping-int=10", "max-buffers=8000", "protocol=B"]);
    assert_eq!((mine.node_id, mine.connections[0].peer_id), (1, 0));
}

#[test]
fn old_names_of_nodes_become_local_and_remote() {
    let text = "resource r0 { net { after-sb-0pri discard-node-bravo; } device minor 1; disk /dev/a;
      meta-disk internal; on alpha { address 10.0.0.1:1; } on bravo { address 10.0.0.2:1; } }";
    let choice =
        |host: &str| wanted_on(host, text).connections[0].net.value("after-sb-0pri").map(str::to_owned);
    assert_eq!(choice("bravo").as_deref(), Some("discard-local"));
    assert_eq!(choice("alpha").as_deref(), Some("discard-remote"));
}

#[test]
fn a_node_to_discard_is_one_of_the_resource() {
    let hosts = "device minor 1; disk /dev/a; meta-disk internal;
      on alpha { address 10.0.0.1:1; } on bravo { address 10.0.0.2:1; } }";
    for place in ["common { net { OPTION } } resource r0 {", "resource r0 { net { OPTION }"] {
        let with = |option: &str| complaints(&format!("{}\n{hosts}", place.replace("OPTION", option)));
        assert_eq!(with("after-sb-0pri discard-node-bravo;"), [""; 0]);
        assert_eq!(
            with("after-sb-0pri discard-node-charlie;"),
            ["t.conf:1: in resource r0:\n\tthe nodename in the 'discard-node-charlie' option is not known."]
        );
    }
}

#[test]
fn resync_after_becomes_a_minor_of_this_host() {
    let text = "resource r0 { disk { resync-after r1/2; } device minor 1; disk /dev/a; meta-disk internal;
      on alpha { address 10.0.0.1:1; } on bravo { address 10.0.0.2:1; } }
      resource r1 { volume 2 { disk /dev/b; meta-disk internal; }
      on alpha { address 10.0.0.1:2; volume 2 { device minor 7; } }
      on bravo { address 10.0.0.2:2; volume 2 { device minor 8; } } }";
    assert_eq!(wanted_on("alpha", text).volumes[0].backing_settings.value("resync-after"), Some("7"));
    assert_eq!(wanted_on("bravo", text).volumes[0].backing_settings.value("resync-after"), Some("8"));
}

#[test]
fn a_host_without_address_cannot_be_connected() {
    let text = "resource r0 { device minor 1; disk /dev/a; meta-disk internal;
      on alpha { node-id 0; address 10.0.0.1:1; } on bravo { node-id 1; } }";
    assert_eq!(complaints(text), ["t.conf:2: in resource r0, on bravo { ... }: 'address' keyword missing."]);
}

#[test]
fn stacked_on_a_resource_that_is_not_there() {
    let text = "resource r0 { stacked-on-top-of nothing { device minor 1; address 10.0.0.1:1; }
      on bravo { device minor 1; disk /dev/a; meta-disk internal; address 10.0.0.2:1; } }";
    assert_eq!(complaints(text), ["t.conf:1: in resource r0, referenced resource 'nothing' not defined."]);
}

#[test]
fn connections_join_two_hosts_once() {
    let hosts = "device minor 1; disk /dev/a; meta-disk internal;
      on alpha { node-id 0; address 10.0.0.1:1; } on bravo { node-id 1; address 10.0.0.2:1; }";
    let said = |connections: &str| complaints(&format!("resource r0 {{ {hosts} {connections} }}"));
    assert_eq!(said("connection { host alpha; host bravo; }"), Vec::<String>::new());
    assert_eq!(
        said("connection { host alpha; }"),
        ["t.conf:2: in resource r0: a path needs two 'host' keywords, not 1"]
    );
    assert_eq!(said("connection { net { protocol A; } }").len(), 1);
    assert_eq!(said("connection { host alpha; host alpha; }").len(), 1);
    assert_eq!(
        said("connection { host alpha; host bravo; } connection { host bravo; host alpha; }")[..2],
        [
            "t.conf:2: conflicting use of connection section 'r0: alpha - bravo' ...",
            "t.conf:2: connection section 'r0: alpha - bravo' first used here."
        ]
    );
    // A pair of a mesh that has a connection of its own keeps that one.
    assert_eq!(
        said("connection { host alpha; host bravo; } connection-mesh { hosts alpha bravo; }"),
        Vec::<String>::new()
    );
}

#[test]
fn a_volume_is_described_once_in_a_place() {
    let text = "resource r0 { volume 0 { device minor 1; } volume 0 { disk /dev/a; meta-disk internal; }
      on alpha { address 10.0.0.1:1; } on bravo { address 10.0.0.2:1; } }";
    assert_eq!(complaints(text)[0], "t.conf:1: conflicting use of volume section 'r0: volume 0' ...");
}
