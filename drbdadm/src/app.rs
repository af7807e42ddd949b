//! One run of drbdadm from arguments to exit code.

mod answers;
mod work;

use crate::cache;
use crate::cli::{self, Arguments};
use crate::commands::{Action, Command};
use crate::diagnostics::{way_out, Diagnostic, Severity, Sources};
use crate::help;
use crate::host::ThisHost;
use crate::load::{load, Loaded, Request};
use crate::plan::{Selected, Wishes};
use crate::resolve;
use crate::run::{println_quietly, Runner};
use crate::select::{Choice, Miss};
use crate::syntax::Config;
use crate::wanted::{check_resync_after, wanted, Wanted};
use answers::{print_dump, print_lower, status_of_everything};
use work::carry_out;

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
    if command.name == "status" && arguments.resources.is_empty() {
        return status_of_everything(arguments, view);
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
