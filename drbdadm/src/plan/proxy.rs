//! drbd-proxy: what `adjust` tells it about connections that run through one.

use super::{Call, Patience, Planned, Program, Selected, Stage, Step};
use crate::syntax::Address;
use crate::wanted::WantedPath;

pub(super) fn steps(selection: &Selected<'_>) -> Vec<Planned> {
    let mut planned = Vec::new();
    for connection in selection.connections() {
        for path in &connection.paths {
            for arguments in commands(&selection.resource.name, path) {
                let call = Call {
                    program: Program::ProxyControl,
                    arguments,
                    resource: selection.resource.name.clone(),
                    patience: Patience::Short,
                    hushed: false,
                    silent_failure: false,
                };
                let resource = selection.resource.name.clone();
                planned.push(Planned { stage: Stage::NetUp, resource, step: Step::All(vec![call]) });
            }
        }
    }
    planned
}

fn commands(resource: &str, path: &WantedPath) -> Vec<Vec<String>> {
    let Some((ours, theirs)) = &path.proxies else { return Vec::new() };
    let (Some(inside), Some(outside)) = (&ours.proxy.inside, &ours.proxy.outside) else { return Vec::new() };
    let Some(their_outside) = &theirs.proxy.outside else { return Vec::new() };
    let name = format!("{resource}-{}-{}", theirs.host, ours.host);
    let endpoints: Vec<String> =
        [inside, their_outside, outside, &ours.address].into_iter().map(Address::endpoint).collect();
    let settings = &ours.proxy.settings;
    let mut add = format!("add connection {name} {}", endpoints.join(" "));
    if let Some(limit) = settings.options.value("memlimit") {
        add.push_str(&format!(" --memlimit={limit}"));
    }
    let mut set: Vec<String> = Vec::new();
    for option in &settings.options.0 {
        set.push(format!("set {} {name} {}", option.name, option.value.as_deref().unwrap_or("")));
    }
    for (index, plugin) in settings.plugins.iter().enumerate() {
        set.push(format!("set plugin {name} {index} {plugin}"));
    }
    if !settings.plugins.is_empty() {
        set.push(format!("set plugin {name} {} END", settings.plugins.len()));
    }
    let mut commands = vec![vec!["-c".to_owned(), add]];
    if !set.is_empty() {
        commands.push(set.into_iter().flat_map(|s| ["-c".to_owned(), s]).collect());
    }
    commands
}
