//! udrbd, the daemon: one process, one replicated resource.
//!
//! It carries bytes and decides nothing. The engine of `drbd-core` decides; this program gives it events and carries
//! out its commands. Reading order: [`event_loop`] (the data plane: one thread, one ring), [`ring`], [`payload_pool`]
//! and [`stream`] beneath it; [`peer_link`], [`disk_io`] and [`frontend`] around it; then the control plane, which is
//! everything tokio: [`control_socket`], [`administration`], [`journal`], [`handlers`].

mod administration;
mod auto_promotion;
mod block_devices;
mod control_socket;
mod daemon;
mod daemon_client;
mod digest;
mod digest_worker;
mod discard_worker;
mod disk;
mod disk_io;
mod event_loop;
mod frontend;
mod hand_over;
mod handlers;
mod integration;
mod journal;
mod log;
mod mailbox;
mod payload_pool;
mod peer_link;
mod process;
mod resync_dependencies;
mod ring;
mod role_mark;
mod role_recovery;
mod run_dir;
mod service;
mod stream;
mod supervise;
mod upgrade;

use clap::{Arg, ArgAction, ArgMatches, Command};
use drbd_core::engine::Level;
use frontend::block_device::release_left;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What this program is, in logs, journals and answers.
pub(crate) const VERSION: &str = concat!("udrbd ", env!("CARGO_PKG_VERSION"));
/// Exit code for whatever keeps the daemon from starting (drbdsetup's code for trouble outside DRBD).
const EXIT_TROUBLE: u8 = 20;

fn command_line() -> Command {
    let node = Arg::new("node-id")
        .long("node-id")
        .value_name("N")
        .required(true)
        .value_parser(clap::value_parser!(u8).range(0..32))
        .help("This node's id");
    let options = Arg::new("options")
        .long("options")
        .value_name("JSON")
        .default_value("{}")
        .help("Resource options, as an object of names and values");
    let resource = Arg::new("resource").required(true).help("Name of the resource");
    let recover = Arg::new("recover")
        .long("recover")
        .action(ArgAction::SetTrue)
        .help("Take up what the journal says the last daemon was doing");
    let run = Command::new("run")
        .about("Serve one resource until it is taken down")
        .arg(resource.clone())
        .arg(node.clone())
        .arg(options.clone())
        .arg(recover.clone());
    let upgrade = Command::new("upgrade")
        .about("Have the daemon of a resource that is up become this program, in a pause of its device")
        .arg(resource.clone());
    let formats = Command::new("formats").about("Say what this program reads of what other versions wrote");
    let supervise = Command::new("supervise")
        .about("Run the daemon and start it again when it dies")
        .arg(resource.clone())
        .arg(node)
        .arg(options)
        .arg(recover)
        .arg(
            Arg::new("no-restart")
                .long("no-restart")
                .action(ArgAction::SetTrue)
                .help("Keep it down when it dies (as UDRBD_RESTART=no)"),
        );
    let release = Command::new("release")
        .about("Let go of the block devices that a daemon left which nobody starts again")
        .arg(resource.clone());
    let serve = Command::new("serve")
        .about(
            "Be the service udrbd@RESOURCE: the parent of the daemon that drbdsetup new-resource asked for",
        )
        .arg(resource.clone());
    let stop = Command::new("stop")
        .about("Take a resource down as soon as nobody uses it, before its service is stopped")
        .arg(resource);
    let integrate = Command::new("integrate")
        .about("Install services for systemd, and what has Pacemaker's agent ocf:linbit:drbd do without the module drbd; again after this program moved")
        .arg(
            Arg::new("remove")
                .long("remove")
                .action(ArgAction::SetTrue)
                .help("Take away what this command installed"),
        )
        .arg(
            Arg::new("root")
                .long("root")
                .value_name("DIR")
                .default_value("/")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Below that directory, as packages and images need it"),
        );
    Command::new("udrbd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The daemon of one replicated resource; drbdsetup new-resource starts it")
        .subcommand_required(true)
        .subcommand(run)
        .subcommand(supervise)
        .subcommand(upgrade)
        .subcommand(formats)
        .subcommand(release)
        .subcommand(serve)
        .subcommand(stop)
        .subcommand(integrate)
}

fn main() -> ExitCode {
    process::close_inherited(hand_over::left_open());
    let matches = match command_line().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { EXIT_TROUBLE } else { 0 });
        }
    };
    match matches.subcommand() {
        Some(("supervise", matches)) => supervise_resource(matches),
        Some(("upgrade", matches)) => upgrade_resource(text(matches, "resource")),
        Some(("formats", _)) => say_formats(),
        Some(("integrate", matches)) => integrate(matches),
        Some(("serve", matches)) => {
            let resource = text(matches, "resource");
            refused(resource, &service::serve(resource))
        }
        Some(("stop", matches)) => service::stop(text(matches, "resource")),
        Some(("release", matches)) => {
            release_unserved(text(matches, "resource"));
            ExitCode::SUCCESS
        }
        Some((_, matches)) => run_resource(matches),
        None => ExitCode::from(EXIT_TROUBLE),
    }
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}

fn run_resource(matches: &ArgMatches) -> ExitCode {
    let resource = text(matches, "resource");
    let node = matches.get_one::<u8>("node-id").copied().unwrap_or(0);
    let recover = matches.get_flag("recover");
    match daemon::run(resource, drbd_core::ids::NodeId(node), text(matches, "options"), recover) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => refused(resource, &sentence),
    }
}

/// There will be no daemon: the sentence, for whoever waits for it.
fn refused(resource: &str, sentence: &str) -> ExitCode {
    eprintln!("{resource}: {sentence}");
    service::tell(&format!("STATUS={sentence}"));
    ExitCode::from(EXIT_TROUBLE)
}

fn upgrade_resource(resource: &str) -> ExitCode {
    match upgrade::upgrade(resource) {
        Ok(done) => {
            println!("{resource}: {done}");
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("{resource}: {sentence}");
            ExitCode::from(EXIT_TROUBLE)
        }
    }
}

fn integrate(matches: &ArgMatches) -> ExitCode {
    let root = matches.get_one::<PathBuf>("root").map_or(Path::new("/"), PathBuf::as_path);
    let done = match (matches.get_flag("remove"), std::env::current_exe()) {
        (true, _) => integration::remove(root),
        (false, Ok(udrbd)) => integration::install(root, &udrbd),
        (false, Err(e)) => Err(format!("This program's own path cannot be found: {e}.")),
    };
    match done {
        Ok(lines) if lines.is_empty() => println!("Nothing is installed."),
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            println!("It is heard of by: systemctl daemon-reload; and where there is Pacemaker: systemctl restart pacemaker");
        }
        Err(sentence) => {
            eprintln!("udrbd integrate: {sentence}");
            return ExitCode::from(EXIT_TROUBLE);
        }
    }
    ExitCode::SUCCESS
}

fn say_formats() -> ExitCode {
    let formats = serde_json::to_string(&hand_over::Formats::own()).expect("formats are plain data");
    println!("{formats}");
    ExitCode::SUCCESS
}

fn supervise_resource(matches: &ArgMatches) -> ExitCode {
    let resource = text(matches, "resource");
    let node = matches.get_one::<u8>("node-id").copied().unwrap_or(0).to_string();
    let arguments = [resource, "--node-id", &node, "--options", text(matches, "options")].map(str::to_owned);
    let kept_down = std::env::var_os("UDRBD_RESTART").is_some_and(|v| v == "no");
    let restart = !matches.get_flag("no-restart") && !kept_down;
    let log = |level: Level, sentence: String| {
        // Opened only when there is something to say: this process stays tiny.
        let path = run_dir::RunDir::path_for_this_user().map(|p| p.join(format!("{resource}.log")));
        match path.ok().and_then(|p| log::Logger::open(&p).ok()) {
            Some(logger) => {
                logger.say(level, "supervisor", resource, sentence);
                logger.finish();
            }
            None => eprintln!("{resource}: {sentence}"),
        }
    };
    // What it may not do its child says.
    let _ = process::outlive_shortage();
    let recover = matches.get_flag("recover");
    let code = supervise::supervise(resource, &arguments, restart, recover, &log);
    release_unserved(resource);
    code
}

/// Nobody serves a resource's devices any more, unless an administrator was quicker than we.
fn release_unserved(resource: &str) {
    let path = run_dir::RunDir::path_for_this_user();
    if let Ok(run_dir) = path.and_then(|path| run_dir::RunDir::open(&path)) {
        if !run_dir.is_alive(resource) {
            release_left(resource, &run_dir.file("."));
        }
    }
}
