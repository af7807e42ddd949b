//! `help`, `help COMMAND` and `xml-help COMMAND`, all made from the command table.

use crate::commands::{Argument, Command, CommandOption, Takes, COMMANDS};
use crate::wrap::Wrapped;
use drbd_core::config::options::Kind;
use std::fmt::Write;

/// The list of all commands.
pub fn usage() -> String {
    let mut text = String::from(
        "drbdsetup - Configure the DRBD kernel module.\n\nUSAGE: drbdsetup command {arguments} [options]\n\nCommands:\n",
    );
    for command in COMMANDS {
        let mut lines = Wrapped::default();
        lines.item(4, &format!("{} -", command.name));
        for word in command.summary.split(' ') {
            lines.item(8, word);
        }
        lines.end_line();
        text.push_str(&lines.into_text());
    }
    text.push_str("\nUse 'drbdsetup help command' for command-specific help.\n\n");
    text
}

/// Help on one command.
pub fn command(command: &Command) -> String {
    let mut lines = Wrapped::default();
    lines.item(0, &format!("USAGE: drbdsetup {}", command.name));
    for argument in command.arguments {
        let item = match argument {
            Argument::ResourceOrAll { optional: true } => "[{resource}|all]".to_owned(),
            Argument::ResourceOrAll { optional: false } => "{resource}|all".to_owned(),
            other => format!("{{{}}}", other.name()),
        };
        lines.item(4, &item);
    }
    for option in command.options() {
        lines.item(4, &format!("[{}]", option_usage(&option)));
    }
    lines.end_line();
    format!("drbdsetup {} - {}\n\n{}", command.name, command.summary, lines.into_text())
}

fn option_usage(option: &CommandOption) -> String {
    let name = option.name;
    match option.takes {
        Takes::Nothing => format!("--{name}"),
        Takes::Text => format!("--{name}=<str>"),
        Takes::OptionalText => format!("--{name}[=<str>]"),
        Takes::Value(Kind::Boolean { .. }) => format!("--{name}={{yes|no}}"),
        Takes::Value(Kind::Number { min, max, .. }) => format!("--{name}=({min} ... {max})"),
        Takes::Value(Kind::Word { values, .. }) => format!("--{name}={{{}}}", values.join("|")),
        Takes::Value(Kind::WordOrNumber { values, min, max, .. }) => {
            format!("--{name}={{{}|{min} ... {max}}}", values.join("|"))
        }
        Takes::Value(Kind::Text { .. }) => format!("--{name}=<str>"),
    }
}

/// Machine-readable help on one command.
pub fn xml(command: &Command) -> String {
    let mut text = format!("<command name=\"{}\">\n\t<summary>{}</summary>\n", command.name, command.summary);
    for argument in command.arguments {
        match argument {
            Argument::ResourceOrAll { .. } => text.push_str(
                "\t<group>\n\t\t<argument>resource</argument>\n\t\t<argument>all</argument>\n\t</group>\n",
            ),
            other => text.push_str(&format!("\t<argument>{}</argument>\n", other.name())),
        }
    }
    for option in command.options() {
        xml_option(&mut text, &option);
    }
    text.push_str("</command>\n");
    text
}

fn xml_option(text: &mut String, option: &CommandOption) {
    let (kind, body) = match option.takes {
        Takes::Nothing => ("flag", String::new()),
        Takes::Text | Takes::OptionalText | Takes::Value(Kind::Text { .. }) => ("string", String::new()),
        Takes::Value(Kind::Boolean { default }) => {
            ("boolean", tag("default", if default { "yes" } else { "no" }))
        }
        Takes::Value(Kind::Number { min, max, default, prefix, unit }) => {
            let mut body = tag("min", min) + &tag("max", max) + &tag("default", default);
            body += &tag("unit_prefix", prefix);
            if !unit.is_empty() {
                body += &tag("unit", unit);
            }
            ("numeric", body)
        }
        Takes::Value(Kind::Word { values, .. }) => {
            ("handler", values.iter().map(|v| tag("handler", v)).collect())
        }
        Takes::Value(Kind::WordOrNumber { values, min, max, default }) => {
            let symbols: String = values.iter().map(|v| tag("symbol", v)).collect();
            ("numeric-or-symbol", tag("min", min) + &tag("max", max) + &tag("default", default) + &symbols)
        }
    };
    let name = option.name;
    write!(text, "\t<option name=\"{name}\" type=\"{kind}\">\n{body}\t</option>\n")
        .expect("a string takes all");
}

fn tag(name: &str, value: impl std::fmt::Display) -> String {
    format!("\t\t<{name}>{value}</{name}>\n")
}
