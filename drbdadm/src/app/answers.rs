//! Commands that only answer: dumps, the status of everything, the resource below.

use super::{runner, View, E_EXEC_ERROR, E_USAGE};
use crate::cli::Arguments;
use crate::commands::Command;
use crate::dump::{dump, Asked};
use crate::dump_xml::dump_xml;
use crate::plan::{Call, Patience, Program, Selected};
use crate::run::{print_quietly, println_quietly};
use crate::syntax::HostKind;

/// Of all that runs, configured or not.
pub(super) fn status_of_everything(arguments: &Arguments, view: &View) -> u8 {
    let mut words = vec!["status".to_owned()];
    words.extend(arguments.setup.iter().cloned());
    let call = Call {
        program: Program::Drbdsetup,
        arguments: words,
        resource: String::new(),
        patience: Patience::Short,
        hushed: false,
        silent_failure: false,
    };
    let code = runner(arguments, view).call(&call);
    if code >= 10 {
        eprintln!("command status exited with code {code}");
    }
    u8::try_from(code).unwrap_or(E_EXEC_ERROR)
}

pub(super) fn print_lower(arguments: &Arguments, view: &View, selected: &[Selected<'_>]) -> u8 {
    if !arguments.stacked {
        eprintln!("sh-lower-resource only available in stacked mode");
        return E_USAGE;
    }
    for selection in selected {
        let resource = view.written.resources.iter().find(|r| r.name.value == selection.resource.name);
        for host in resource.into_iter().flat_map(|r| &r.hosts) {
            if let HostKind::Stacked { lower } = &host.kind {
                println_quietly(&lower.value);
            }
        }
    }
    0
}

pub(super) fn print_dump(command: &Command, arguments: &Arguments, view: &View) -> u8 {
    let expanded = arguments.dry_run || arguments.verbose;
    let config = if expanded { &view.expanded } else { &view.written };
    let ours = |name: &str| view.wanted.iter().find(|w| w.name == name);
    let names =
        if arguments.resources.is_empty() { vec!["all".to_owned()] } else { arguments.resources.clone() };
    let mut code = 0;
    for name in names {
        let known = config.resources.iter().any(|r| r.name.value == name);
        if !known && name != "all" {
            eprintln!("'{name}' not defined in your config (for this host).");
            code = E_USAGE;
            continue;
        }
        let only = known.then_some(name.as_str());
        if command.name == "dump-xml" {
            print_quietly(&dump_xml(&view.written, &view.expanded, &view.sources, only));
            continue;
        }
        let asked = Asked { host: &view.here.name, expanded, only };
        let text = dump(
            config,
            &view.sources,
            asked,
            |name| ours(name).is_none(),
            |name| ours(name).is_some_and(|w| w.stacked),
        );
        print_quietly(&text);
    }
    code
}
