//! One run of drbdadm from arguments to exit code.

use crate::adjust::adjust;
use crate::cache;
use crate::cli::{self, Arguments};
use crate::commands::{Action, Command};
use crate::diagnostics::{way_out, Diagnostic, Severity, Sources};
use crate::dump::{dump, Asked};
use crate::handlers::handler;
use crate::help;
use crate::host::ThisHost;
use crate::load::{load, Loaded, Request};
use crate::parser::{Parser, Shown};
use crate::plan::calls::volume_call;
use crate::plan::{plan, Plan, Selected, Wishes};
use crate::resolve;
use crate::run::{println_quietly, shell_escaped, Runner};
use crate::select::{Choice, Miss};
use crate::syntax::{Address, Config, HostKind};
use crate::wanted::{check_resync_after, wanted, Wanted};

/// The configuration is invalid.
const E_CONFIG_INVALID: u8 = 10;
/// The command line is wrong, or one of several calls failed.
const E_USAGE: u8 = 1;
/// A file cannot be read, a program not run.
const E_EXEC_ERROR: u8 = 20;

/// Seconds a short and a medium call may take; drbdmeta and handlers may take any time.
const TIMEOUTS_S: [u64; 3] = [5, 600, 0];

/// A valid configuration, seen from this host.
#[derive(Debug)]
pub(crate) struct View {
    /// As completed: what a plain dump shows.
    pub(crate) written: Config,

    /// Everything inherited.
    pub(crate) expanded: Config,
    pub(crate) sources: Sources,
    pub(crate) here: ThisHost,
    /// Resources of this host.
    pub(crate) wanted: Vec<Wanted>,
}

/// Runs drbdadm; the result is its exit code.
pub fn main(arguments: &[String]) -> u8 {
    let arguments = match cli::parse(arguments) {
        Ok(arguments) => arguments,
        Err(refusal) => {
            eprintln!("{refusal}");
            return E_USAGE;
        }
    };
    if arguments.version {
        help::print_version();
        return 0;
    }
    let Some(command) = arguments.command else {
        help::print_usage();
        return if arguments.help { 0 } else { E_USAGE };
    };
    match command.action {
        _ if arguments.help => {
            help::print_command_usage(command);
            0
        }
        Action::Help => explain(&arguments),
        Action::HiddenCommands => {
            help::print_hidden_commands();
            0
        }
        _ => with_configuration(command, &arguments),
    }
}

fn explain(arguments: &Arguments) -> u8 {
    let Some(name) = arguments.resources.first() else {
        help::print_usage();
        return E_USAGE;
    };
    match Command::find(name) {
        Some(command) => {
            help::print_command_usage(command);
            0
        }
        None => {
            eprintln!("drbdadm: Unknown command '{name}'");
            E_USAGE
        }
    }
}

fn with_configuration(command: &Command, arguments: &Arguments) -> u8 {
    let here = ThisHost::ask();
    if here.pretending {
        eprintln!("\n   found __DRBD_NODE__ in environment,\n   PRETENDING that I am >>{}<<\n", here.name);
    }
    let request = Request {
        file: config_file(command, arguments),
        to_test: arguments.config_to_test.clone(),
        exclude: arguments.config_to_exclude.clone(),
    };
    let loaded = match load(&request) {
        Ok(loaded) => loaded,
        Err(cannot) => {
            eprintln!("Can not open '{}'.\n{}", cannot.file, way_out(&cannot.why));
            return E_EXEC_ERROR;
        }
    };
    match view(loaded, here, command) {
        Ok(view) => execute(command, arguments, &view),
        Err(code) => code,
    }
}

/// The file to read. DRBD calls handlers with a name only: the file is then the one the resource was made from.
fn config_file(command: &Command, arguments: &Arguments) -> Option<String> {
    let by_driver = command.action == Action::Handler || command.name == "sh-udev";
    let argument = arguments.resources.first().filter(|_| by_driver && arguments.config_file.is_none());
    let Some(argument) = argument else { return arguments.config_file.clone() };
    let found = cache::recall(argument);
    if found.is_none() {
        let what =
            argument.strip_prefix("minor-").map_or(format!("resource {argument}"), |m| format!("minor {m}"));
        eprintln!("Don't know which config file belongs to {what}, trying default ones...");
    }
    found
}

/// Prints diagnostics; whether one of them is an error.
fn complain(diagnostics: &[Diagnostic], sources: &Sources) -> bool {
    for diagnostic in diagnostics {
        eprint!("{}", diagnostic.render(sources));
    }
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

/// Completes and checks the configuration.
fn view(loaded: Loaded, here: ThisHost, command: &Command) -> Result<View, u8> {
    let Loaded { config: mut written, sources, diagnostics } = loaded;
    if complain(&diagnostics, &sources) {
        return Err(E_CONFIG_INVALID);
    }
    let mut noted = resolve::complete(&mut written, &sources);
    let expanded = resolve::expand(&written);
    if complain(&resolve::check_unique(&written, &expanded, &sources), &sources) {
        return Err(E_CONFIG_INVALID);
    }
    noted.extend(resolve::check(&written, &expanded, &sources));
    if !matches!(command.action, Action::Nothing | Action::Print | Action::Dump) {
        noted.extend(check_resync_after(&expanded, &sources, &here));
    }
    if complain(&noted, &sources) {
        eprintln!("command {} exited with code {E_CONFIG_INVALID}", command.name);
        return Err(E_CONFIG_INVALID);
    }
    let wanted = expanded.resources.iter().filter_map(|r| wanted(r, &expanded, &here)).collect();
    Ok(View { written, expanded, sources, here, wanted })
}

fn execute(command: &Command, arguments: &Arguments, view: &View) -> u8 {
    match command.action {
        Action::Nothing => return 0,
        Action::ModuleParameters => {
            let minors = view.written.global.as_ref().and_then(|g| g.minor_count).unwrap_or(32);
            println_quietly(&format!("minor_count={minors}"));
            return 0;
        }
        Action::Dump => return print_dump(command, arguments, view),
        _ => {}
    }
    if arguments.resources.is_empty() && !command.resource_is_optional() {
        help::print_command_usage(command);
        println_quietly("No resource names specified");
        return E_USAGE;
    }
    let (selected, mut code) = select(command, arguments, view);
    match command.name {
        "sh-lr-of" => return print_lower(arguments, view, &selected),
        "sh-list-config-file" => {
            for selection in &selected {
                let place = view.sources.place(selection.resource.at);
                println_quietly(&format!("{place}:{}", selection.resource.name));
            }
            return code;
        }
        _ => {}
    }
    let worked = carry_out(command, arguments, view, &selected);
    if worked != 0 {
        code = worked;
    }
    code
}

fn print_lower(arguments: &Arguments, view: &View, selected: &[Selected<'_>]) -> u8 {
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

/// What the arguments mean; the code of the last one that means nothing.
fn select<'a>(command: &Command, arguments: &Arguments, view: &'a View) -> (Vec<Selected<'a>>, u8) {
    let choice = Choice {
        wanted: &view.wanted,
        config: &view.written,
        sources: &view.sources,
        here: &view.here,
        stacked: arguments.stacked,
    };
    let mut selected = Vec::new();
    let mut code = 0;
    let everything = ["all".to_owned()];
    let named = if arguments.resources.is_empty() { &everything[..] } else { &arguments.resources };
    for argument in named {
        match choice.select(command, argument) {
            Ok(found) => selected.extend(found),
            Err(Miss { said, code: missed }) => {
                eprintln!("{said}");
                code = u8::try_from(missed).unwrap_or(E_USAGE);
            }
        }
    }
    (selected, code)
}

fn wishes(arguments: &Arguments, view: &View) -> Wishes {
    let driver = std::env::var("DRBD_DRIVER_VERSION_OVERRIDE").unwrap_or_default();
    Wishes {
        setup: arguments.setup.clone(),
        max_peers: arguments.max_peers.clone(),
        skip_disk: arguments.skip_disk,
        skip_net: arguments.skip_net,
        create_v08: driver.starts_with("8."),
        stacked: arguments.stacked,
        always_use_vnr: view.written.global.as_ref().is_some_and(|g| g.udev_always_use_vnr),
    }
}

fn carry_out(command: &Command, arguments: &Arguments, view: &View, selected: &[Selected<'_>]) -> u8 {
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
    let outcome = runner.run(&plan);
    if matches!(command.action, Action::Up | Action::NewResource | Action::NewMinor) {
        remember(arguments, view, selected);
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
        plan.0.extend(adjust(selection, shown.as_ref(), &wishes));
    }
    let plan = plan.sorted();
    let outcome = if command.name == "adjust-with-progress" && !arguments.dry_run {
        runner.run_with_progress(&plan)
    } else {
        runner.run(&plan)
    };
    remember(arguments, view, selected);
    if outcome.code == 0 {
        0
    } else {
        E_USAGE
    }
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

fn print_dump(command: &Command, arguments: &Arguments, view: &View) -> u8 {
    if command.name == "dump-xml" {
        eprintln!(
            "dump-xml: this drbdadm has no XML output yet; 'drbdadm dump' prints the configuration as text"
        );
        return E_USAGE;
    }
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
        let asked = Asked { host: &view.here.name, expanded, only: known.then_some(name.as_str()) };
        let text = dump(
            config,
            &view.sources,
            asked,
            |name| ours(name).is_none(),
            |name| ours(name).is_some_and(|w| w.stacked),
        );
        println_quietly(text.trim_end_matches('\n'));
        println_quietly("");
    }
    code
}

fn runner(arguments: &Arguments, view: &View) -> Runner {
    let global = view.written.global.clone().unwrap_or_default();
    let configured = [global.cmd_timeout_short_s, global.cmd_timeout_medium_s, global.cmd_timeout_long_s];
    let mut timeouts_s = TIMEOUTS_S;
    for (limit, configured) in timeouts_s.iter_mut().zip(configured) {
        *limit = configured.map_or(*limit, u64::from);
    }
    Runner {
        dry_run: arguments.dry_run,
        verbose: arguments.verbose,
        drbdsetup: arguments.drbdsetup.clone(),
        drbdmeta: arguments.drbdmeta.clone(),
        proxy_control: arguments.proxy_control.clone(),
        timeouts_s,
    }
}
