use super::*;
use crate::dump::{dump, Asked};
use crate::host::ThisHost;
use crate::syntax::{Config, Disk, MetaDisk, Resource};
use crate::{resolve, wanted};
use proptest::prelude::*;

/// Every construct of the grammar at least once.
const EVERYTHING: &str = r#"
global { usage-count no; minor-count 64; disable-ip-verification; cmd-timeout-short 7; }
common {
  protocol C;
  net { verify-alg sha1; shared-secret "a \"b\" c"; after-sb-0pri discard-node-bravo; }
  disk { resync-rate 100M; no-md-flushes; fencing resource-only; }
  options { quorum majority; } startup { wfc-timeout 0; stacked-timeouts; wait-after-sb; }
  handlers { fence-peer "/bin/true x"; }
}
skip resource old { bogus [ ; }
require-drbd-module-version-ge 9.0.0;
resource r0 {
  volume 0 { device minor 1; disk /dev/vg0/r0; meta-disk internal; disk { al-extents 257; } }
  volume 1 { device /dev/drbd2 minor 2; disk /dev/vg0/r1; meta-disk /dev/vg0/md[3]; }
  volume 2 { device drbd_x minor 7; disk none; }
  on alpha { node-id 0; address 10.0.0.1:7789; volume 1 { disk /dev/other; } options { auto-promote no; } }
  on bravo beta { node-id 1; address ipv6 [fd00::2]:7789; }
  on charlie { node-id 2; address 10.0.0.3:7789; }
  connection { host alpha address 10.1.0.1:1; host bravo port 3; net { protocol A; } volume 1 { disk { c-min-rate 1M; } } }
  connection { path { host alpha; host charlie; } path { host alpha address 10.9.0.1:5; host charlie address 10.9.0.3:5; } }
  connection-mesh { hosts bravo charlie; net { use-rle no; } }
  syncer { rate 10M; cpu-mask 3; after lower/0; }
  skip { any thing; }
}
resource lower { device /dev/drbd10; disk /dev/sda; flexible-meta-disk /dev/sdb;
  floating 127.0.0.1:7780; floating ipv6 [fd00::9]:7781 { disk /dev/sdc; } }
resource upper { proxy { memlimit 100M; plugin { zlib level 9; } }
  stacked-on-top-of r0 { device /dev/drbd20; address 192.168.0.1:1; }
  on delta { device /dev/drbd20; disk /dev/sda; meta-disk internal; address 192.168.0.2:1;
    proxy on delta { inside 127.0.0.1:2; outside 192.168.0.2:3; } } }
"#;

fn parse(text: &str) -> (Vec<Item>, Vec<String>) {
    let mut sources = Sources::default();
    let file = sources.add("t.conf", text);
    let (items, noted) = Parser::new(&sources, file, text).items();
    (items, noted.iter().map(|d| d.render(&sources)).collect())
}

fn resource(text: &str) -> Resource {
    let (items, noted) = parse(text);
    assert_eq!(noted, Vec::<String>::new());
    match items.into_iter().next() {
        Some(Item::Resource(resource)) => *resource,
        other => panic!("{other:?}"),
    }
}

/// All that can happen to a configuration without touching the system.
fn through(text: &str) -> Option<String> {
    let mut sources = Sources::default();
    let file = sources.add("t.conf", text);
    let (items, noted) = Parser::new(&sources, file, text).items();
    let mut config = Config { file: "t.conf".to_owned(), ..Config::default() };
    for item in items {
        match item {
            Item::Include(_) => {}
            Item::Global(global, _) => config.global = Some(global),
            Item::Common(sections, _) => config.common = Some(*sections),
            Item::Resource(resource) => config.resources.push(*resource),
        }
    }
    let failed = noted.iter().any(|d| d.severity == crate::diagnostics::Severity::Error);
    resolve::complete(&mut config, &sources);
    let expanded = resolve::expand(&config);
    resolve::check_unique(&config, &expanded, &sources);
    resolve::check(&config, &expanded, &sources);
    let here = ThisHost { name: "alpha".to_owned(), ..ThisHost::default() };
    for resource in &expanded.resources {
        let _ = wanted::wanted(resource, &expanded, &here);
    }
    let asked = Asked { host: "alpha", expanded: false, only: None };
    let text = dump(&config, &sources, asked, |_| false, |_| false);
    let all = Asked { expanded: true, ..asked };
    dump(&expanded, &sources, all, |_| false, |_| false);
    (!failed).then_some(text)
}

#[test]
fn the_whole_grammar() {
    let (items, noted) = parse(EVERYTHING);
    assert_eq!(noted, Vec::<String>::new());
    assert_eq!(items.len(), 5);
}

#[test]
fn a_dump_says_the_same_again() {
    let body = |text: &str| -> Vec<String> {
        text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect()
    };
    let first = through(EVERYTHING).expect("a sound configuration");
    let second = through(&first).expect("a dump is a sound configuration");
    assert_eq!(body(&first), body(&second));
}

#[test]
fn a_misspelt_option_is_shown_and_the_right_one_offered() {
    let (_, noted) = parse("resource r0 {\n\tnet { protocol C; ping-itn 5; }\n}");
    assert_eq!(
        noted,
        ["t.conf:2: Parse error: 'an option keyword' expected,\n\tbut got 'ping-itn'\n  2:20 |  net { protocol C; ping-itn 5; }\n       |                    ^ did you mean 'ping-int'?\n"]
    );
}

#[test]
fn bad_values_do_not_end_the_file() {
    let (items, noted) =
        parse("resource r0 { net { timeout 100000; ping-int x; } disk { on-io-error detahc; } }");
    assert_eq!(items.len(), 1);
    assert_eq!(noted.len(), 3);
    assert!(noted[0].starts_with(
        "t.conf:1: Parse error: while parsing value ('100000')\nfor timeout. Value is too big.\n"
    ));
    assert!(noted[2].contains("^ did you mean 'detach'?"), "{}", noted[2]);
}

#[test]
fn volumes_in_all_their_forms() {
    let resource = resource(
        "resource r0 { device /dev/drbd3; disk none; volume 4 { device drbd_x minor 9; disk /d; meta-disk /m [7]; } }",
    );
    let [implicit, explicit] = resource.volumes.as_slice() else { panic!("{:?}", resource.volumes) };
    assert!(implicit.implicit && implicit.disk == Some(Disk::None));
    assert_eq!(implicit.device.as_ref().map(|d| d.minor), Some(3));
    assert_eq!(explicit.device.as_ref().and_then(|d| d.name.as_deref()), Some("/dev/drbd_x"));
    assert_eq!(explicit.meta_disk, Some(MetaDisk::Indexed("/m".to_owned(), 7)));
}

#[test]
fn show_is_read() {
    let text = "resource \"web\" {\n options { quorum \tmajority; }\n _this_host { node-id 2; volume 0 { device minor 20; disk \"/dev/vg0/web\"; meta-disk \"/dev/vg0/md\" [ 2 ]; disk { rs-discard-granularity 65536; # bytes\n } } volume 1 { device minor 21; disk none; disk { diskless yes; } } }\n connection { _peer_node_id 0; path { _this_host ipv4 10.1.1.33:7010; _remote_host ipv6 [fd00::3]:7010; } _cstate StandAlone; net { _name \"alpha\"; protocol A; } volume 0 { disk { c-max-rate 204800k; } } } }";
    let mut sources = Sources::default();
    let file = sources.add("show", text);
    let (shown, noted) = Parser::new(&sources, file, text).shown();
    assert!(noted.is_empty(), "{noted:?}");
    let [web] = shown.as_slice() else { panic!("{shown:?}") };
    assert_eq!((web.node_id, web.volumes.len()), (Some(2), 2));
    assert_eq!(web.volumes[0].meta_disk, Some(MetaDisk::Indexed("/dev/vg0/md".to_owned(), 2)));
    assert_eq!(web.volumes[1].disk, None);
    assert!(web.connections[0].standalone);
    assert_eq!(web.connections[0].paths[0].1.for_drbdsetup(), "ipv6:[fd00::3]:7010");
    assert_eq!(web.connections[0].peer_devices[0].1.value("c-max-rate"), Some("204800k"));
}

/// One change somewhere in the text.
fn mutated(position: usize, length: usize, inserted: &str) -> String {
    let mut chars: Vec<char> = EVERYTHING.chars().collect();
    let start = position % chars.len();
    let end = (start + length).min(chars.len());
    chars.splice(start..end, inserted.chars());
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_text_makes_it_panic(text in ".{0,300}") {
        through(&text);
    }

    #[test]
    fn no_mistake_makes_it_panic(
        position in any::<usize>(),
        length in 0_usize..60,
        inserted in prop_oneof!["[{};:\"\\[\\]# a-z0-9]{0,12}", Just("{".to_owned()), Just("}".to_owned()), Just(";".to_owned()), Just("\"".to_owned())],
    ) {
        through(&mutated(position, length, &inserted));
    }

    #[test]
    fn show_never_panics(text in "(resource|options|_this_host|connection|volume|path|net|disk|x|1|ipv4|[{};:\" ]){0,60}") {
        let mut sources = Sources::default();
        let file = sources.add("show", &text);
        let _ = Parser::new(&sources, file, &text).shown();
    }
}
