//! Outputs byte for byte as the real `drbdsetup` 9.34 printed them for the same state.

mod changes;
mod recorded;
mod scenarios;

use drbd_core::control::{GenerationStatus, Kind, Notification, Object, ResourceStatus};
use drbdsetup::commands::{Command, COMMANDS};
use drbdsetup::events2::{Known, Style};
use drbdsetup::status::Detail;
use drbdsetup::{gi, help, query, show, show_json, status, status_json};
use recorded::{assert_same, golden, recorded};
use scenarios::{multi, multi_configuration, two_node, two_node_configuration, verify};

const DETAILS: [(&str, usize, bool); 5] = [
    ("status", 0, false),
    ("status --verbose", 1, false),
    ("status --statistics", 0, true),
    ("status --verbose --statistics", 1, true),
    ("status -vv -s", 2, true),
];

fn all_scenarios() -> [(&'static str, Vec<ResourceStatus>); 4] {
    [
        ("unconfigured", Vec::new()),
        ("two-node", vec![two_node()]),
        ("multi", multi()),
        ("verify", vec![verify()]),
    ]
}

#[test]
fn status_text() {
    for (scenario, resources) in all_scenarios() {
        for (command, verbose, statistics) in DETAILS {
            let detail = Detail { verbose, statistics, terminal: false, colour: false };
            let wanted = recorded(&format!("status.{scenario}.txt"), command);
            assert_same(&format!("{scenario}: {command}"), &status::text(&resources, detail), &wanted);
        }
    }
}

#[test]
fn status_as_json() {
    for (scenario, resources) in all_scenarios() {
        let text = status_json::text(&resources);
        assert_same(scenario, &text, &golden(&format!("status.{scenario}.json")));
        serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON");
    }
}

#[test]
fn show_text_and_json() {
    let scenarios = [("two-node", vec![two_node_configuration()]), ("multi", multi_configuration())];
    for (scenario, resources) in scenarios {
        assert_same(scenario, &show::text(&resources, false), &golden(&format!("show.{scenario}.txt")));
        let defaults = golden(&format!("show-defaults.{scenario}.txt"));
        assert_same(scenario, &show::text(&resources, true), &defaults);
        let json = show_json::text(&resources);
        assert_same(scenario, &json, &golden(&format!("show.{scenario}.json")));
        serde_json::from_str::<serde_json::Value>(&json).expect("it is JSON");
    }
    assert_same("unconfigured", &show_json::text(&[]), &golden("show.unconfigured.json"));
}

#[test]
fn help_of_all_commands() {
    let wanted = golden("help.drbdsetup.9.34.txt");
    let wanted = wanted.strip_prefix("$ drbdsetup help\n").expect("its first line");
    let wanted = wanted.strip_suffix("exit 20\n").expect("its last line");
    assert_same("help", &help::usage(), wanted);
    let xml: String = COMMANDS.iter().map(help::xml).collect();
    assert_same("xml-help", &xml, &golden("xml-help.9.34.txt"));
}

#[test]
fn single_commands() {
    let said = |command| recorded("single-commands.txt", command);
    let (r0, multi) = (two_node(), multi());
    assert_same("dstate 1", &query::disk_states(&r0, &r0.devices[0]), &said("dstate 1"));
    assert_same("dstate 10", &query::disk_states(&multi[0], &multi[0].devices[0]), &said("dstate 10"));
    assert_same("dstate 11", &query::disk_states(&multi[0], &multi[0].devices[1]), &said("dstate 11"));
    assert_same("udev 1", &query::udev_lines("r0", &r0.devices[0]), &said("udev 1"));
    assert_same("udev 20", &query::udev_lines("web", &multi[1].devices[0]), &said("udev 20"));
    let generation = GenerationStatus {
        current: 0x8B1D_2F7E_6E1A_7C43,
        bitmap: 0,
        history: [0xCCCC_CCCC_CCCC_CCC0, 0xDDDD_DDDD_DDDD_DDD0],
        flags: [true, true, true, false, true, false, false],
        peer_flags: [true, false, false, false, true],
    };
    assert_same("get-gi", &gi::plain(&generation), &said("get-gi r0 1 0"));
    assert_same("show-gi", &gi::explained(&generation), &said("show-gi r0 1 0"));
    let web = &multi[1..];
    assert_same("status web", &status::text(web, Detail::default()), &said("status web"));
    let role = Command::find("role").expect("a command");
    let missing = format!("Missing argument 1 to command\n{}", help::command(role));
    assert_same("role", &missing, &said("role"));
}

/// The initial dump as `events2 --now` prints it.
fn now(resources: &[ResourceStatus], style: Style) -> String {
    let mut known = Known::default();
    let mut text = String::new();
    for notification in resources.iter().rev().flat_map(ResourceStatus::dump) {
        text.push_str(&known.line(&notification, style).expect("everything exists"));
        text.push('\n');
    }
    let end = Notification { kind: Kind::Exists, resource: String::new(), what: Object::End, group: 0 };
    text + &known.line(&end, style).expect("a line") + "\n"
}

#[test]
fn events2_now() {
    for (scenario, resources) in all_scenarios() {
        if resources.is_empty() {
            continue;
        }
        for (command, statistics) in [("events2 --now", false), ("events2 --now --statistics", true)] {
            let style = Style { statistics, ..Style::default() };
            let wanted = recorded(&format!("events2-now.{scenario}.txt"), command);
            assert_same(&format!("{scenario}: {command}"), &now(&resources, style), &wanted);
        }
    }
}
