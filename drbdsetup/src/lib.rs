//! `drbdsetup`: configures and queries the daemon of one resource. One daemon, one verb.
//!
//! [`commands`] is the table of everything that can be said, [`arguments`] reads a command line against it, [`request`]
//! turns what changes something into a request of the control protocol, and the modules named after outputs
//! ([`status`], [`show`], [`events2`] …) are pure functions from control objects to text.

pub mod address;
pub mod arguments;
pub mod check_resize;
pub mod client;
pub mod colour;
pub mod commands;
pub mod events2;
pub mod fault;
pub mod gi;
pub mod help;
pub mod lock;
pub mod query;
pub mod rates;
pub mod request;
pub mod rundir;
pub mod service;
pub mod show;
pub mod show_json;
pub mod spawn;
pub mod status;
pub mod status_json;
pub mod stream;
pub mod timestamp;
pub mod wait;
pub mod wrap;

use arguments::CommandLine;
use client::{Client, NoClient};
use commands::{Command, Verb};
use drbd_core::control::{Configuration, ResourceStatus};
use fault::{Fault, EXIT_TROUBLE};
use rundir::{run_dir_path, RunDir};
use std::io::IsTerminal;

/// Runs a command line (without the program's name); prints, and returns the exit code.
pub fn run(words: &[String]) -> u8 {
    match execute(words) {
        Ok(text) => {
            print(&text);
            0
        }
        Err(fault) => {
            if !fault.text.is_empty() {
                eprintln!("{}", fault.text);
            }
            fault.exit
        }
    }
}

/// Prints to stdout; a reader that went away is no concern of ours.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn execute(words: &[String]) -> Result<String, Fault> {
    let Some((name, rest)) = words.split_first() else { return Err(usage(None)) };
    match name.as_str() {
        spawn::DETACH => return Err(spawn::detach(rest)),
        "help" | "--help" | "-h" | "xml-help" => return help(name == "xml-help", rest),
        _ => {}
    }
    let command = Command::find(name).ok_or_else(|| usage(Some("invalid command")))?;
    carry_out(&CommandLine::parse(command, rest)?)
}

/// The usage on stdout, what is wrong with the command line after it; exit code 20.
fn usage(wrong: Option<&str>) -> Fault {
    print(&help::usage());
    let text = wrong.map_or(String::new(), |wrong| format!("\n{wrong}"));
    Fault { text, exit: EXIT_TROUBLE }
}

fn help(xml: bool, rest: &[String]) -> Result<String, Fault> {
    let Some(name) = rest.first() else { return Err(usage(None)) };
    let command = Command::find(name).ok_or_else(|| usage(Some("unknown command")))?;
    Ok(if xml { help::xml(command) } else { help::command(command) })
}

fn carry_out(line: &CommandLine) -> Result<String, Fault> {
    let silent = |done: Result<(), Fault>| done.map(|()| String::new());
    match line.command.verb {
        Verb::Role => query::role(line),
        Verb::PeerRole => query::peer_role(line),
        Verb::Cstate => query::cstate(line),
        Verb::Dstate => query::dstate(line),
        Verb::Udev => query::udev(line),
        Verb::GetGi | Verb::ShowGi => gi::run(line),
        Verb::Status => status(line),
        Verb::Show => show(line),
        Verb::Events2 => silent(stream::run(line)),
        Verb::NewResource => silent(spawn::new_resource(line)),
        Verb::WaitSync | Verb::WaitConnect => silent(wait::run(line)),
        Verb::CheckResize => silent(check_resize::run(line)),
        Verb::Primary
        | Verb::Secondary
        | Verb::Attach
        | Verb::DiskOptions
        | Verb::Detach
        | Verb::Connect
        | Verb::NewPeer
        | Verb::DelPeer
        | Verb::NewPath
        | Verb::DelPath
        | Verb::NetOptions
        | Verb::Disconnect
        | Verb::Resize
        | Verb::ResourceOptions
        | Verb::PeerDeviceOptions
        | Verb::NewCurrentUuid
        | Verb::Invalidate
        | Verb::InvalidateRemote
        | Verb::PauseSync
        | Verb::ResumeSync
        | Verb::SuspendIo
        | Verb::ResumeIo
        | Verb::Outdate
        | Verb::Verify
        | Verb::Down
        | Verb::NewMinor
        | Verb::DelMinor
        | Verb::DelResource
        | Verb::ForgetPeer
        | Verb::RenameResource => silent(request::run(line)),
    }
}

/// What the named resource, or each of all, answered.
struct Answers<T> {
    all: Vec<T>,
    /// A sentence about a socket that a dead daemon left behind.
    dead: String,
    /// About daemons that cannot be used; the others are listed all the same.
    trouble: Option<Fault>,
}

/// Asks the named resource, or each of all; resources whose daemon is gone are left out.
fn ask_each<T>(
    line: &CommandLine,
    ask: impl Fn(&mut Client) -> Result<T, Fault>,
) -> Result<Answers<T>, Fault> {
    let run_dir = RunDir::open_if_present(&run_dir_path()?)?;
    let names = match line.resource() {
        Some(name) => vec![name.to_owned()],
        None => run_dir.as_ref().map(RunDir::resources).unwrap_or_default(),
    };
    let mut answers = Answers { all: Vec::new(), dead: String::new(), trouble: None };
    for name in names {
        let answer = match Client::connect(run_dir.as_ref(), &name) {
            Ok(mut client) => ask(&mut client),
            Err(NoClient::NotConfigured(info)) => {
                answers.dead = info;
                continue;
            }
            Err(NoClient::Trouble(fault)) => Err(fault),
        };
        match answer {
            Ok(answer) => answers.all.push(answer),
            Err(fault) => answers.trouble = Some(fault.after(answers.trouble)),
        }
    }
    Ok(answers)
}

/// The listing; after it, with its exit code, what could not be listed.
fn listed(text: String, trouble: Option<Fault>, nothing: bool) -> Result<String, Fault> {
    let Some(fault) = trouble else { return Ok(text) };
    if !nothing {
        print(&text);
    }
    Err(fault)
}

fn status(line: &CommandLine) -> Result<String, Fault> {
    let Answers { all, dead, trouble }: Answers<ResourceStatus> = ask_each(line, Client::status)?;
    if let (Some(name), true, None) = (line.resource(), all.is_empty(), &trouble) {
        return Err(Fault::missing(query::with_info(&format!("{name}: No such resource"), &dead)));
    }
    if line.has("json") {
        return listed(status_json::text(&all), trouble, all.is_empty());
    }
    let detail = status::Detail {
        verbose: line.count("verbose"),
        statistics: line.has("statistics"),
        terminal: std::io::stdout().is_terminal(),
        colour: colour::wanted(line.text("color")),
    };
    listed(status::text(&all, detail), trouble, all.is_empty())
}

fn show(line: &CommandLine) -> Result<String, Fault> {
    let Answers { all, trouble, .. }: Answers<Configuration> = ask_each(line, Client::configuration)?;
    let text = if line.has("json") {
        show_json::text(&all)
    } else if all.is_empty() && line.resource().is_none() {
        "# No currently configured DRBD found.\n".to_owned()
    } else {
        show::text(&all, line.has("show-defaults"))
    };
    listed(text, trouble, all.is_empty())
}
