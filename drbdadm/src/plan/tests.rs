use super::*;
use crate::diagnostics::Sources;
use crate::host::ThisHost;
use crate::parser::Parser;
use crate::resolve;
use crate::syntax::{Config, Item};
use crate::wanted::wanted;

const TEXT: &str = "resource r0 { volume 0 { device minor 1; disk /dev/a; meta-disk internal; }
  volume 1 { device minor 2; disk /dev/b; meta-disk /dev/m [3]; }
  on alpha { node-id 0; address 10.0.0.1:1; volume 1 { disk none; } }
  on bravo { node-id 1; address 10.0.0.2:1; } startup { wfc-timeout 9; } }";

fn resource() -> Wanted {
    let mut sources = Sources::default();
    let file = sources.add("t", TEXT);
    let (items, noted) = Parser::new(&sources, file, TEXT).items();
    assert!(noted.is_empty(), "{noted:?}");
    let mut config = Config::default();
    for item in items {
        if let Item::Resource(resource) = item {
            config.resources.push(*resource);
        }
    }
    resolve::complete(&mut config, &sources);
    let expanded = resolve::expand(&config);
    let here = ThisHost { name: "alpha".to_owned(), ..ThisHost::default() };
    wanted(&expanded.resources[0], &expanded, &here).expect("our resource")
}

fn lines(command: &str, peer: Option<u32>, volume: Option<u32>, wishes: &Wishes) -> Vec<String> {
    let resource = resource();
    let selected = [Selected { resource: &resource, volume, peer }];
    let plan = plan(Command::find(command).expect("a command"), &selected, wishes);
    let mut lines = Vec::new();
    for planned in plan.0 {
        let calls = match planned.step {
            Step::All(calls) => calls,
            Step::CheckResize { resize, remember, .. } => vec![resize, remember],
            Step::Else { first, second, .. } => std::iter::once(first).chain(second).collect(),
            Step::Create { create, read, write } => vec![create, read, write],
            Step::Print(line) => {
                lines.push(line);
                continue;
            }
        };
        lines.extend(calls.iter().map(|c| c.arguments.join(" ")));
    }
    lines
}

#[test]
fn a_diskless_volume_is_made_but_not_attached() {
    let up = lines("up", None, None, &Wishes::default());
    assert!(up.contains(&"new-minor r0 2 1 --diskless".to_owned()), "{up:?}");
    assert!(!up.iter().any(|l| l.starts_with("attach 2") || l.contains("apply-al") && l.starts_with("2 ")));
    assert_eq!(lines("create-md", None, Some(1), &Wishes::default()), Vec::<String>::new());
    assert_eq!(lines("sh-ll-dev", None, None, &Wishes::default()), ["/dev/a", "none"]);
}

#[test]
fn version_8_metadata_have_no_number_of_peers() {
    let wishes = Wishes { create_v08: true, setup: vec!["--force".to_owned()], ..Wishes::default() };
    assert_eq!(
        lines("md-create", None, None, &wishes),
        [
            "1 v08 /dev/a internal create-md --force",
            "1 v08 /dev/a internal read-dev-uuid",
            "1 v08 /dev/a internal write-dev-uuid"
        ]
    );
}

#[test]
fn waits_are_narrowed_and_limited() {
    let wait = |peer, volume| lines("wait-con-int", peer, volume, &Wishes::default());
    assert_eq!(wait(None, None), ["wait-connect-resource r0 --wfc-timeout=9"]);
    assert_eq!(wait(Some(1), None), ["wait-connect-connection r0 1 --wfc-timeout=9"]);
    assert_eq!(wait(Some(1), Some(0)), ["wait-connect-volume r0 1 0 --wfc-timeout=9"]);
}
