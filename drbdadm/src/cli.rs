//! The command line: general options, the command, its own options, resources.
//!
//! DRBD accepts options before and after the command and the resources, abbreviated as long as they are unique, and
//! the old form `drbdadm -- --force primary r0`. Refusals are worded as DRBD's.

use crate::commands::{Command as Verb, COMMANDS};
use crate::diagnostics::{did_you_mean, way_out};
use clap::builder::OsStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use drbd_core::config::options::{Kind, OptionSpec};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// The command; `None` if there was none.
    pub command: Option<&'static Verb>,
    /// Resources as written.
    pub resources: Vec<String>,
    /// Options for the calls of drbdsetup and drbdmeta, in order.
    pub setup: Vec<String>,
    /// `-S`.
    pub stacked: bool,
    /// `-d`.
    pub dry_run: bool,
    /// `-v`.
    pub verbose: bool,
    /// `-c`.
    pub config_file: Option<String>,
    /// `-t`.
    pub config_to_test: Option<String>,
    /// `-E`.
    pub config_to_exclude: Option<String>,
    /// `-s`.
    pub drbdsetup: Option<String>,
    /// `-m`.
    pub drbdmeta: Option<String>,
    /// `-p`.
    pub proxy_control: Option<String>,
    /// `-V`.
    pub version: bool,
    /// `-h`.
    pub help: bool,
    /// `create-md --max-peers`.
    pub max_peers: Option<String>,
    /// `adjust --skip-disk`.
    pub skip_disk: bool,
    /// `adjust --skip-net`.
    pub skip_net: bool,
}

/// Reads a command line; the error is what to print before exit 1.
pub fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let (arguments, passed_on) = old_form(arguments);
    let name = "drbdadm";
    let with_name = std::iter::once(name.to_owned()).chain(arguments.iter().cloned());
    let parsed = grammar(&arguments).try_get_matches_from(with_name);
    let matches = parsed.map_err(|e| refusal(&e, &arguments))?;
    let mut found = Arguments::default();
    general(&matches, &mut found);
    if let Some((name, matches)) = matches.subcommand() {
        found.command = Verb::find(name);
        general(matches, &mut found);
        found.resources = strings(matches, "resources");
        if let Some(verb) = found.command {
            own_options(verb, matches, &mut found);
        }
    }
    found.setup.splice(0..0, passed_on);
    Ok(found)
}

/// `[general options] -- --passed --on command …`: what stands between `--` and the command is for the call.
fn old_form(arguments: &[String]) -> (Vec<String>, Vec<String>) {
    let is_command = |a: &String| Verb::find(a).is_some();
    let dashes = arguments.iter().position(|a| a == "--");
    let first = arguments.iter().position(is_command).unwrap_or(arguments.len());
    match dashes {
        Some(at) if at < first => {
            let mut rest = arguments[..at].to_vec();
            let after = &arguments[at + 1..];
            let command = after.iter().position(is_command).unwrap_or(0);
            rest.extend(after[command..].iter().cloned());
            (rest, after[..command].to_vec())
        }
        _ => (arguments.to_vec(), Vec::new()),
    }
}

/// Id, long name, letter, whether it takes a value. Ids differ from names since `status --verbose` is its own.
const GENERAL: &[(&str, &str, char, bool)] = &[
    ("general-stacked", "stacked", 'S', false),
    ("general-dry-run", "dry-run", 'd', false),
    ("general-verbose", "verbose", 'v', false),
    ("general-config-file", "config-file", 'c', true),
    ("general-config-to-test", "config-to-test", 't', true),
    ("general-config-to-exclude", "config-to-exclude", 'E', true),
    ("general-drbdsetup", "drbdsetup", 's', true),
    ("general-drbdmeta", "drbdmeta", 'm', true),
    ("general-drbd-proxy-ctl", "drbd-proxy-ctl", 'p', true),
    ("general-sh-varname", "sh-varname", 'n', true),
    ("general-version", "version", 'V', false),
    ("general-setup-option", "setup-option", 'W', true),
    ("general-help", "help", 'h', false),
];

fn with_general(mut command: Command, taken: &[&str]) -> Command {
    for (id, name, short, takes_value) in GENERAL {
        let mut arg = Arg::new(*id).short(*short);
        if !taken.contains(name) {
            arg = arg.long(*name);
        }
        command = command.arg(if *takes_value {
            arg.action(ArgAction::Append).allow_hyphen_values(true).num_args(1)
        } else {
            arg.action(ArgAction::Count)
        });
    }
    command.disable_help_flag(true).disable_version_flag(true).disable_help_subcommand(true)
}

/// Only commands that occur as a word: making all seventy would be most of the time a call takes.
fn grammar(arguments: &[String]) -> Command {
    let mut grammar = with_general(Command::new("drbdadm"), &[]).infer_long_args(true).no_binary_name(false);
    for verb in COMMANDS.iter().filter(|v| arguments.iter().any(|a| a == v.name)) {
        grammar = grammar.subcommand(subcommand(verb));
    }
    grammar
}

fn subcommand(verb: &'static Verb) -> Command {
    let names: Vec<&str> = verb.options.iter().map(|o| o.trim_end_matches('=')).collect();
    let mut command = with_general(Command::new(verb.name), &names).infer_long_args(true);
    for option in verb.options {
        let arg = Arg::new(option.trim_end_matches('=')).long(option.trim_end_matches('='));
        command = command.arg(if option.ends_with('=') {
            arg.action(ArgAction::Append).num_args(1)
        } else {
            arg.action(ArgAction::Append).num_args(0..=1).require_equals(true).default_missing_value("")
        });
    }
    for spec in verb.section_options.into_iter().flat_map(OptionSpec::of) {
        let arg = Arg::new(spec.name).long(spec.name).action(ArgAction::Append);
        command = command.arg(match spec.kind {
            Kind::Boolean { .. } => {
                arg.num_args(0..=1).require_equals(true).default_missing_value(OsStr::from(""))
            }
            Kind::Number { .. } | Kind::Word { .. } | Kind::WordOrNumber { .. } | Kind::Text { .. } => {
                arg.num_args(1).allow_hyphen_values(true)
            }
        });
    }
    command.arg(Arg::new("resources").action(ArgAction::Append).num_args(0..))
}

fn strings(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches.get_many::<String>(id).into_iter().flatten().cloned().collect()
}

fn general(matches: &ArgMatches, found: &mut Arguments) {
    let given = |name: &str| matches.get_count(&format!("general-{name}")) > 0;
    let last = |name: &str| strings(matches, &format!("general-{name}")).pop();
    found.stacked |= given("stacked");
    found.dry_run |= given("dry-run");
    found.verbose |= given("verbose");
    found.version |= given("version");
    found.help |= given("help");
    found.config_file = last("config-file").or(found.config_file.take());
    found.config_to_test = last("config-to-test").or(found.config_to_test.take());
    found.config_to_exclude = last("config-to-exclude").or(found.config_to_exclude.take());
    found.drbdsetup = last("drbdsetup").or(found.drbdsetup.take());
    found.drbdmeta = last("drbdmeta").or(found.drbdmeta.take());
    found.proxy_control = last("drbd-proxy-ctl").or(found.proxy_control.take());
    found.setup.extend(strings(matches, "general-setup-option"));
}

/// The command's own options, back in the order they were given.
fn own_options(verb: &Verb, matches: &ArgMatches, found: &mut Arguments) {
    let mut given: Vec<(usize, String, String)> = Vec::new();
    let plain = verb.options.iter().map(|o| o.trim_end_matches('='));
    let sections = verb.section_options.into_iter().flat_map(OptionSpec::of).map(|o| o.name);
    for name in plain.chain(sections) {
        let places: Vec<usize> = matches.indices_of(name).into_iter().flatten().collect();
        let values = strings(matches, name);
        given.extend(places.into_iter().zip(values).map(|(at, value)| (at, name.to_owned(), value)));
    }
    given.sort();
    for (_, name, value) in given {
        match name.as_str() {
            "skip-disk" => found.skip_disk = true,
            "skip-net" => found.skip_net = true,
            "max-peers" => found.max_peers = Some(value),
            _ if value.is_empty() => found.setup.push(format!("--{name}")),
            _ => found.setup.push(format!("--{name}={value}")),
        }
    }
}

fn refusal(error: &clap::Error, arguments: &[String]) -> String {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(s)) => s.clone(),
        Some(ContextValue::Strings(s)) => s.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let verb = arguments.iter().find_map(|a| Verb::find(a));
    let help = match verb {
        Some(verb) if verb.is_of_drbdsetup() => format!("try 'drbdadm help {}'", verb.name),
        _ => "try 'drbdadm help'".to_owned(),
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => unknown_command(&text(ContextKind::InvalidSubcommand)),
        ErrorKind::UnknownArgument => {
            let argument = text(ContextKind::InvalidArg);
            let whole = arguments.iter().find(|a| a.split('=').next() == Some(&argument));
            let argument = whole.unwrap_or(&argument);
            if argument.starts_with('-') {
                format!("drbdadm: unrecognized option '{argument}'\n{help}")
            } else {
                unknown_command(argument)
            }
        }
        _ => {
            let said = error.to_string();
            let said = said.lines().next().unwrap_or("").trim_start_matches("error: ");
            format!("drbdadm: {said}\n{help}")
        }
    }
}

fn unknown_command(name: &str) -> String {
    let hint = did_you_mean(name, COMMANDS.iter().map(|c| c.name));
    let hint = hint.map_or(String::new(), |h| format!("\n{}", way_out(&h)));
    format!("drbdadm: Unknown command '{name}'{hint}")
}

#[cfg(test)]
mod tests;
