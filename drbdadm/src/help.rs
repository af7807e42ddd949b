//! Usage, the lists of commands, and `--version`.

use crate::commands::{Action, Command, Listing, COMMANDS};
use crate::run::{print_quietly, println_quietly, shell_escaped};
use drbd_core::config::options::{Kind, OptionSpec};

/// The drbd-utils whose behaviour this is.
pub const VERSION: &str = "9.34.0";
const VERSION_CODE: u32 = 0x09_22_00;
/// The kernel driver whose behaviour the daemon has.
const KERNEL_VERSION: &str = "9.3.3";
const KERNEL_VERSION_CODE: u32 = 0x09_03_03;

const GENERAL: &str = "\
GENERAL OPTIONS:
  --stacked, -S
  --dry-run, -d
  --verbose, -v
  --config-file=..., -c ...
  --config-to-test=..., -t ...
  --config-to-exclude=..., -E ...
  --drbdsetup=..., -s ...
  --drbdmeta=..., -m ...
  --drbd-proxy-ctl=..., -p ...
  --sh-varname=..., -n ...
  --version, -V
  --setup-option=..., -W ...
  --help, -h
";

fn build() -> String {
    format!("udrbd {}", env!("CARGO_PKG_VERSION"))
}

/// `--version`, for shells.
pub fn print_version() {
    println_quietly(&format!(
        "DRBDADM_BUILDTAG={}\nDRBDADM_API_VERSION=2\nDRBD_KERNEL_VERSION_CODE=0x{KERNEL_VERSION_CODE:06x}\nDRBD_KERNEL_VERSION={KERNEL_VERSION}\nDRBDADM_VERSION_CODE=0x{VERSION_CODE:06x}\nDRBDADM_VERSION={VERSION}",
        shell_escaped(&build())
    ));
}

fn footer() -> String {
    format!("\nVersion: {VERSION} (api:2)\n{}\n", build())
}

/// Usage of drbdadm.
pub fn print_usage() {
    let listed = columns(&names(Listing::Public));
    print_quietly(&format!(
        "\nUSAGE: drbdadm COMMAND [OPTION...] {{all|RESOURCE...}}\n\n{GENERAL}\nCOMMANDS:\n{listed}{}",
        footer()
    ));
}

/// Usage of one command.
pub fn print_command_usage(command: &Command) {
    let mut own = String::new();
    let sections = command.section_options.into_iter().flat_map(OptionSpec::of).map(describe);
    let options: Vec<String> = command.options.iter().map(|o| plain(o)).chain(sections).collect();
    if !options.is_empty() {
        own = format!("\nOPTIONS FOR {}:\n{}", command.name, options.concat());
    }
    let resources = if command.action == Action::Nothing { "" } else { " {all|RESOURCE...}" };
    println_quietly(&format!(
        "\nUSAGE: drbdadm {} [OPTION...]{resources}\n\n{GENERAL}{own}{}",
        command.name,
        footer()
    ));
}

fn plain(option: &str) -> String {
    let dots = if option.ends_with('=') { "..." } else { "" };
    format!("  --{option}{dots}\n")
}

fn describe(spec: &OptionSpec) -> String {
    let values = match spec.kind {
        Kind::Boolean { .. } => "{yes|no}".to_owned(),
        Kind::Number { min, max, .. } => format!("({min} ... {max})"),
        Kind::Word { values, .. } | Kind::WordOrNumber { values, .. } => format!("{{{}}}", values.join("|")),
        Kind::Text { .. } => "...".to_owned(),
    };
    format!("  --{}={values}\n", spec.name)
}

/// The commands `help` does not list.
pub fn print_hidden_commands() {
    let groups = [
        (
            "These additional commands might be useful for writing\nnifty shell scripts around drbdadm:",
            Listing::Shell,
        ),
        (
            "These commands are used by the kernel part of DRBD to\ninvoke user mode helper programs:",
            Listing::Handler,
        ),
        ("These commands ought to be used by experts and developers:", Listing::Expert),
    ];
    for (heading, listing) in groups {
        println_quietly(&format!("\n{heading}\n\n{}", columns(&names(listing)).trim_end_matches('\n')));
    }
    println_quietly("");
}

fn names(listing: Listing) -> Vec<&'static str> {
    let mut names: Vec<&str> = COMMANDS.iter().filter(|c| c.listing == listing).map(|c| c.name).collect();
    names.sort_unstable();
    names
}

/// Two columns, filled downwards.
fn columns(names: &[&str]) -> String {
    let rows = names.len().div_ceil(2);
    let mut text = String::new();
    for row in 0..rows {
        let right = names.get(row + rows).map_or(String::new(), |n| format!("{n:<35}"));
        text.push_str(&format!(" {:<35} {right}\n", names[row]));
    }
    text
}
