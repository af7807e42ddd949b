//! A command line, read against the command table: options in any order and uniquely abbreviated, arguments checked
//! for number and shape.

use crate::commands::{Argument, Command, CommandOption, SectionOptions, Takes};
use crate::fault::Fault;
use crate::help;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use drbd_core::config::options::Kind;
use drbd_core::config::{OptionSet, OptionSpec, OptionValue, Section};
use drbd_core::ids::{Minor, NodeId, VolumeNumber};
use drbd_core::limits::NODES_MAX;

/// A command with its arguments and options.
#[derive(Clone, Debug)]
pub struct CommandLine {
    /// The command.
    pub command: &'static Command,
    /// Positional arguments, as given.
    pub arguments: Vec<String>,
    /// Options in the order of the table, the last mention of each; flags with how often they were given.
    options: Vec<(CommandOption, usize, String)>,
}

const ARGUMENTS: &str = " arguments";

impl CommandLine {
    /// Reads what follows the command's name.
    pub fn parse(command: &'static Command, words: &[String]) -> Result<CommandLine, Fault> {
        let known = command.options();
        let matches = parser(&known)
            .try_get_matches_from(words)
            .map_err(|e| Fault::trouble(format!("drbdsetup: {}", option_fault(&e, &known))))?;
        let arguments: Vec<String> =
            matches.get_many::<String>(ARGUMENTS).into_iter().flatten().cloned().collect();
        let options = known
            .iter()
            .filter_map(|option| match option.takes {
                Takes::Nothing => {
                    let count = usize::from(matches.get_count(option.name));
                    (count > 0).then(|| (*option, count, String::new()))
                }
                Takes::Value(_) | Takes::Text | Takes::OptionalText => {
                    let given: Vec<&String> = matches.get_many::<String>(option.name)?.collect();
                    given.last().map(|last| (*option, given.len(), (*last).clone()))
                }
            })
            .collect();
        let mut line = CommandLine { command, arguments, options };
        line.check()?;
        Ok(line)
    }

    fn check(&mut self) -> Result<(), Fault> {
        if self.command.name == "outdate" && self.arguments.len() == 2 {
            // drbdadm calls it with the resource and the minor.
            self.arguments.remove(0);
        }
        if self.arguments.len() < self.command.arguments_min() {
            return Err(Fault::trouble(format!(
                "Missing argument {} to command\n{}",
                self.arguments.len() + 1,
                help::command(self.command).trim_end()
            )));
        }
        if let Some(excess) = self.arguments.get(self.command.arguments.len()..).filter(|e| !e.is_empty()) {
            return Err(Fault::trouble(format!("Excess arguments: {}", excess.join(" "))));
        }
        for (shape, word) in self.command.arguments.iter().zip(&self.arguments) {
            check_argument(*shape, word)?;
        }
        for (option, _, value) in &self.options {
            check_value(option, value)?;
        }
        Ok(())
    }

    /// How often an option was given.
    pub fn count(&self, name: &str) -> usize {
        self.find(name).map_or(0, |(_, count, _)| *count)
    }

    /// Whether an option was given.
    pub fn has(&self, name: &str) -> bool {
        self.count(name) > 0
    }

    /// The value of a boolean that is off unless given.
    pub fn is_yes(&self, name: &str) -> bool {
        self.find(name).is_some_and(|(_, _, value)| value != "no")
    }

    /// The value of a boolean that is on unless switched off.
    pub fn is_not_no(&self, name: &str) -> bool {
        self.find(name).is_none_or(|(_, _, value)| value != "no")
    }

    /// The value of a number, in the option's own unit.
    pub fn number(&self, name: &str) -> Option<i64> {
        let (option, _, value) = self.find(name)?;
        let Takes::Value(kind) = option.takes else { return None };
        let spec = OptionSpec { name: option.name, section: Section::Resource, kind };
        match spec.parse(value) {
            Ok(OptionValue::Number(number)) => Some(number),
            Ok(OptionValue::Boolean(_) | OptionValue::Text(_)) | Err(_) => None,
        }
    }

    /// The text of an option; empty if the option was given without one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.find(name).map(|(_, _, value)| value.as_str())
    }

    fn find(&self, name: &str) -> Option<&(CommandOption, usize, String)> {
        self.options.iter().find(|(option, _, _)| option.name == name)
    }

    /// The options that come from the option table.
    pub fn option_set(&self) -> OptionSet {
        let mut set = OptionSet::default();
        if self.command.section == SectionOptions::None {
            return set;
        }
        for (option, _, value) in &self.options {
            if let Some(spec) = OptionSpec::find(option.name) {
                set.set(spec, value).expect("values were checked by parse");
            }
        }
        set
    }

    /// The resource, `None` for all.
    pub fn resource(&self) -> Option<&str> {
        self.arguments.first().map(String::as_str).filter(|name| *name != "all")
    }

    /// The first argument as it was given, for messages.
    pub fn object(&self) -> &str {
        self.arguments.first().map_or("all", String::as_str)
    }

    /// The minor among the arguments.
    pub fn minor(&self) -> Minor {
        Minor(self.nth(Argument::Minor, parse_minor))
    }

    /// The node id among the arguments.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.nth(Argument::NodeId, |w| w.parse().ok()))
    }

    /// The peer among the arguments.
    pub fn peer(&self) -> NodeId {
        NodeId(self.nth(Argument::PeerNodeId, |w| w.parse().ok()))
    }

    /// The volume among the arguments.
    pub fn volume(&self) -> VolumeNumber {
        VolumeNumber(self.nth(Argument::Volume, |w| w.parse().ok()))
    }

    /// Whether the command has such an argument.
    pub fn takes(&self, shape: Argument) -> bool {
        self.command.arguments.contains(&shape)
    }

    fn nth<T>(&self, shape: Argument, read: impl Fn(&str) -> Option<T>) -> T {
        let at =
            self.command.arguments.iter().position(|a| *a == shape).expect("an argument of this command");
        read(&self.arguments[at]).expect("arguments were checked by parse")
    }
}

fn parser(known: &[CommandOption]) -> clap::Command {
    let mut parser = clap::Command::new("drbdsetup")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .infer_long_args(true)
        .arg(clap::Arg::new(ARGUMENTS).num_args(0..).action(clap::ArgAction::Append));
    for option in known {
        let mut arg = clap::Arg::new(option.name).long(option.name).allow_hyphen_values(true);
        if let Some(short) = option.short {
            arg = arg.short(short);
        }
        arg = match option.takes {
            Takes::Nothing => arg.action(clap::ArgAction::Count).allow_hyphen_values(false),
            Takes::OptionalText | Takes::Value(Kind::Boolean { .. }) => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("")
                .action(clap::ArgAction::Append),
            Takes::Text | Takes::Value(_) => arg.num_args(1).action(clap::ArgAction::Append),
        };
        parser = parser.arg(arg);
    }
    parser
}

/// The sentence `getopt` would say.
fn option_fault(error: &clap::Error, known: &[CommandOption]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let given = context(ContextKind::InvalidArg);
    let word = given.split([' ', '=']).next().unwrap_or_default().trim_end_matches('.').to_owned();
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let stem = word.trim_start_matches("--");
            let candidates: Vec<String> = known
                .iter()
                .filter(|o| word.len() > 2 && o.name.starts_with(stem))
                .map(|o| format!("'--{}'", o.name))
                .collect();
            if word.starts_with("--") && candidates.len() > 1 {
                return format!("option '{word}' is ambiguous; possibilities: {}", candidates.join(" "));
            }
            match word.strip_prefix("--") {
                Some(_) => format!("unrecognized option '{word}'{}", nearest(stem, known)),
                None => format!("invalid option -- '{}'", word.trim_start_matches('-')),
            }
        }
        ErrorKind::TooManyValues => format!("option '{word}' doesn't allow an argument"),
        _ => format!("option '{word}' requires an argument"),
    }
}

/// ` (did you mean …)` where a known option is near.
fn nearest(stem: &str, known: &[CommandOption]) -> String {
    // Compared with as much of each name as was typed, too: abbreviations are misspelt like whole words.
    let changes = |name: &str| {
        let as_long: String = name.chars().take(stem.len()).collect();
        distance(stem, name).min(distance(stem, &as_long))
    };
    let best = known.iter().map(|o| (changes(o.name), o.name)).min();
    match best {
        Some((changes, name)) if changes <= 3 && changes * 2 < stem.len() => {
            format!(" (did you mean '--{name}'?)")
        }
        _ => String::new(),
    }
}

/// Letters to insert, delete or replace to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn check_value(option: &CommandOption, value: &str) -> Result<(), Fault> {
    let Takes::Value(kind) = option.takes else {
        return check_own_text(option.name, value);
    };
    let spec = OptionSpec { name: option.name, section: Section::Resource, kind };
    spec.parse(value).map(drop).map_err(|e| Fault::trouble(format!("drbdsetup: {e}")))
}

/// Options whose text has a shape although the help calls them strings.
fn check_own_text(name: &str, value: &str) -> Result<(), Fault> {
    let (fits, wanted) = match name {
        "color" => (["", "auto", "always", "never"].contains(&value), "auto, always or never"),
        "wait-after-sb" => (["", "yes", "no"].contains(&value), "yes or no"),
        "wfc-timeout" | "degr-wfc-timeout" | "outdated-wfc-timeout" => {
            (value.parse::<u32>().is_ok(), "a number of seconds, 0 to wait for ever")
        }
        _ => (true, ""),
    };
    if fits {
        Ok(())
    } else {
        Err(Fault::trouble(format!("drbdsetup: --{name}: '{value}' is not {wanted}")))
    }
}

fn check_argument(shape: Argument, word: &str) -> Result<(), Fault> {
    match shape {
        Argument::Resource | Argument::ResourceOrAll { .. } => check_resource_name(word),
        Argument::Text("new_name") => check_resource_name(word),
        Argument::Minor => match parse_minor(word) {
            Some(_) => Ok(()),
            None => Err(Fault::trouble(format!("Cannot determine minor device number of device '{word}'"))),
        },
        Argument::PeerNodeId | Argument::NodeId => match word.parse::<u8>() {
            Ok(id) if usize::from(id) < NODES_MAX => Ok(()),
            _ => Err(Fault::trouble(format!("'{word}' is not a node id: 0 to {} are", NODES_MAX - 1))),
        },
        Argument::Volume => match word.parse::<u16>() {
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::trouble(format!("'{word}' is not a volume number: 0 to 65535 are"))),
        },
        Argument::Text("local-addr" | "remote-addr") => check_address(word),
        Argument::Text("meta_data_index") => match word {
            "internal" | "flexible" | "flex-external" | "flex-internal" => Ok(()),
            index if index.parse::<u32>().is_ok() => Ok(()),
            _ => Err(Fault::trouble(format!(
                "'{word}' is not a meta data index: 'internal', 'flexible' or a number is needed"
            ))),
        },
        Argument::Text(_) => Ok(()),
    }
}

/// Names of resources are names of files in the run directory.
fn check_resource_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0', '\n']) {
        return Err(Fault::trouble(format!(
            "'{name}' is not a resource name: it must not be empty, begin with a dot or contain a slash"
        )));
    }
    Ok(())
}

fn check_address(word: &str) -> Result<(), Fault> {
    let good = match word.split_once(':') {
        Some(("ipv4", rest)) => rest.parse::<std::net::SocketAddrV4>().is_ok(),
        Some(("ipv6", rest)) => rest.parse::<std::net::SocketAddrV6>().is_ok(),
        Some(("sdp" | "ssocks", _)) => {
            return Err(Fault::trouble(format!(
                "'{word}': udrbd speaks TCP over ipv4 and ipv6 only; write ipv4:ADDRESS:PORT"
            )));
        }
        _ => false,
    };
    if good {
        Ok(())
    } else {
        Err(Fault::trouble(format!(
            "'{word}' is not an address: ipv4:A.B.C.D:PORT or ipv6:[ADDRESS]:PORT is needed"
        )))
    }
}

/// `N`, `minor-N` or `/dev/drbdN`.
fn parse_minor(word: &str) -> Option<u32> {
    let digits = word.strip_prefix("/dev/drbd").or_else(|| word.strip_prefix("minor-")).unwrap_or(word);
    digits.parse().ok().filter(|n| *n < 1 << 20)
}

#[cfg(test)]
mod tests;
