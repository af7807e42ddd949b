//! Commands that do something: plans made and executed, handlers run.

use super::{complain, runner, wishes, View, E_CONFIG_INVALID, E_EXEC_ERROR, E_USAGE};
use crate::adjust::adjust;
use crate::cache;
use crate::cli::Arguments;
use crate::commands::{Action, Command};
use crate::diagnostics::{way_out, Sources};
use crate::handlers::handler;
use crate::parser::{Parser, Shown};
use crate::plan::calls::volume_call;
use crate::plan::{plan, Plan, Selected};
use crate::run::{println_quietly, shell_escaped, Runner};
use crate::syntax::Address;
use crate::wanted::Wanted;

pub(super) fn carry_out(
    command: &Command,
    arguments: &Arguments,
    view: &View,
    selected: &[Selected<'_>],
) -> u8 {
    if !arguments.dry_run && command.uses_addresses() && !own_addresses_are_here(view, selected) {
        return E_CONFIG_INVALID;
    }
    let runner = runner(arguments, view);
    match command.action {
        Action::Handler => return run_handlers(command, arguments, view, selected),
        Action::Adjust => return adjust_all(command, arguments, view, selected, &runner),
        _ => {}
    }
    let plan: Plan = plan(command, selected, &wishes(arguments, view));
    if matches!(command.action, Action::Up | Action::NewResource | Action::NewMinor) {
        remember(arguments, view, selected);
    }
    let outcome = runner.run(&plan);
    if command.name == "down" && outcome.code == 0 && !arguments.dry_run {
        selected.iter().for_each(|s| cache::forget(&s.resource.name, s.volumes().map(|v| v.minor)));
    }
    if outcome.code != 0 && command.action == Action::Up {
        return E_USAGE;
    }
    u8::try_from(outcome.code).unwrap_or(E_EXEC_ERROR)
}

fn remember(arguments: &Arguments, view: &View, selected: &[Selected<'_>]) {
    if !arguments.dry_run {
        for selection in selected {
            let minors = selection.volumes().map(|v| v.minor);
            cache::remember(&selection.resource.name, minors, &view.written.file);
        }
    }
}

/// Addresses of ours that no interface has: connections could not come about.
fn own_addresses_are_here(view: &View, selected: &[Selected<'_>]) -> bool {
    if view.written.global.as_ref().is_some_and(|g| g.disable_ip_verification) {
        return true;
    }
    let mut here = true;
    for selection in selected {
        let locals = selection.connections().flat_map(|c| &c.paths).map(|p| &p.local);
        let mut missing: Vec<&Address> = Vec::new();
        for local in locals.filter(|l| matches!(l.family.as_str(), "ipv4" | "ipv6")) {
            if !missing.iter().any(|m| m.ip == local.ip) && !view.here.has_address(&local.ip) {
                missing.push(local);
            }
        }
        for address in missing {
            here = false;
            eprintln!(
                "{}: in resource {}, {}:\n\tIP {} not found on this host.\n{}",
                view.sources.name(selection.resource.at.file),
                selection.resource.name,
                selection.resource.heading,
                address.ip,
                way_out(&format!(
                    "see {}: give the host this address, or say disable-ip-verification in global",
                    view.sources.place(address.at)
                ))
            );
        }
    }
    here
}

fn run_handlers(command: &Command, arguments: &Arguments, view: &View, selected: &[Selected<'_>]) -> u8 {
    let mut code = 0;
    for selection in selected {
        let Some(handler) = handler(command.name, selection, &view.written.file) else { continue };
        if arguments.dry_run || arguments.verbose {
            println_quietly(&format!("/bin/sh -c {}", shell_escaped(&handler.command)));
        }
        if !arguments.dry_run {
            code = u8::try_from(handler.run()).unwrap_or(E_EXEC_ERROR);
        }
    }
    code
}

fn adjust_all(
    command: &Command,
    arguments: &Arguments,
    view: &View,
    selected: &[Selected<'_>],
    runner: &Runner,
) -> u8 {
    let wishes = wishes(arguments, view);
    let mut plan = Plan::default();
    for selection in selected {
        let Ok(shown) = running(selection.resource, runner) else { return E_EXEC_ERROR };
        if !same_node(selection.resource, shown.as_ref()) {
            return E_USAGE;
        }
        plan.0.extend(adjust(selection, shown.as_ref(), &wishes));
    }
    let plan = plan.sorted();
    remember(arguments, view, selected);
    let outcome = if command.name == "adjust-with-progress" && !arguments.dry_run {
        runner.run_with_progress(&plan)
    } else {
        runner.run(&plan)
    };
    if outcome.code == 0 {
        0
    } else {
        E_USAGE
    }
}

/// A running resource keeps its node id; under another one it would be somebody else to its peers.
fn same_node(resource: &Wanted, shown: Option<&Shown>) -> bool {
    let Some(running) = shown.and_then(|s| s.node_id).filter(|id| *id != resource.node_id) else {
        return true;
    };
    let (name, wanted) = (&resource.name, resource.node_id);
    eprintln!(
        "{name}: runs with node-id {running}, but the configuration says {wanted}; nothing was changed"
    );
    eprintln!("{}", way_out(&format!("drbdadm down {name}; drbdadm up {name}")));
    false
}

/// What runs of a resource, as `drbdsetup show` says.
fn running(resource: &Wanted, runner: &Runner) -> Result<Option<Shown>, ()> {
    let call = volume_call(resource, &["show", &resource.name]);
    let (name, text) = match std::env::var("FAKE_DRBDSETUP_SHOW") {
        Ok(file) => match std::fs::read_to_string(&file) {
            Ok(text) => (file, text),
            Err(error) => {
                eprintln!("Can not open '{file}': {error}");
                return Err(());
            }
        },
        Err(_) => ("drbdsetup show".to_owned(), runner.output(&call).unwrap_or_default()),
    };
    let mut sources = Sources::default();
    let file = sources.add(&name, &text);
    let (shown, noted) = Parser::new(&sources, file, &text).shown();
    if complain(&noted, &sources) {
        return Err(());
    }
    Ok(shown.into_iter().find(|s| s.name == resource.name))
}
