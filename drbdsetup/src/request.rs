//! Commands that change something: which request a command line is, and what is said when there is nobody to ask.

use crate::arguments::CommandLine;
use crate::client::{minor_not_allocated, Client, NoClient};
use crate::commands::{Argument, Verb};
use crate::fault::{Fault, EXIT_TROUBLE};
use crate::lock::MinorLock;
use crate::rundir::{run_dir_path, RunDir};
use crate::spawn;
use drbd_core::control::{Done, Request};
use drbd_core::ids::NodeId;
use drbd_core::refusal::{Reason, Refusal};
use std::path::Path;

/// Carries out a command that changes something.
pub fn run(line: &CommandLine) -> Result<(), Fault> {
    let run_dir = RunDir::open_if_present(&run_dir_path()?)?;
    let run_dir = run_dir.as_ref();
    if line.command.verb == Verb::Down && line.resource().is_none() {
        return down_all(run_dir);
    }
    if line.command.verb == Verb::NewMinor {
        check_no_kernel_device(line)?;
    }
    let Some(mut client) = daemon_of(line, run_dir)? else { return Ok(()) };
    let request = request_of(line).ok_or_else(|| Fault::refusal(line.object(), &not_done_yet(line)))?;
    let _lock = match (by_minor(line), run_dir) {
        (true, Some(run_dir)) => Some(MinorLock::take(run_dir, line.minor().0)?),
        _ => None,
    };
    let done = client.ask(line.object(), request)?;
    say(line.object(), &done);
    Ok(())
}

/// The first argument is a minor: the resource has to be found.
fn by_minor(line: &CommandLine) -> bool {
    line.command.arguments.first() == Some(&Argument::Minor)
}

/// The daemon to ask; `None` if there is none and the command is content with that.
fn daemon_of(line: &CommandLine, run_dir: Option<&RunDir>) -> Result<Option<Client>, Fault> {
    let object = line.object();
    let resource = if by_minor(line) {
        run_dir.and_then(|dir| dir.resource_of_minor(line.minor().0))
    } else {
        Some(object.to_owned())
    };
    let info = match resource {
        None => String::new(),
        Some(resource) => match Client::connect_patiently(run_dir, &resource) {
            Ok(client) => return Ok(Some(client)),
            Err(NoClient::Trouble(fault)) => return Err(fault),
            Err(NoClient::NotConfigured(info)) => {
                if line.command.verb == Verb::Down {
                    release_left(&resource, &info);
                }
                info
            }
        },
    };
    if is_content_with_nothing(line.command.verb, run_dir) {
        return Ok(None);
    }
    Err(if by_minor(line) {
        minor_not_allocated(object, &info)
    } else {
        Fault::unknown_resource(object, &info)
    })
}

/// `down` of what is not there is done; so are `secondary`, `disconnect` and `detach` when nothing at all is configured.
fn is_content_with_nothing(verb: Verb, run_dir: Option<&RunDir>) -> bool {
    match verb {
        Verb::Down => true,
        Verb::Secondary | Verb::Disconnect | Verb::Detach => !is_anything_configured(run_dir),
        _ => false,
    }
}

fn is_anything_configured(run_dir: Option<&RunDir>) -> bool {
    let Some(dir) = run_dir else { return false };
    dir.resources()
        .iter()
        .any(|name| !matches!(Client::connect(run_dir, name), Err(NoClient::NotConfigured(_))))
}

/// `info` says that a daemon died and none came in its place: what waits in its block devices would wait for ever.
fn release_left(resource: &str, info: &str) {
    if !info.is_empty() {
        spawn::release(resource);
    }
}

fn down_all(run_dir: Option<&RunDir>) -> Result<(), Fault> {
    let mut faults: Option<Fault> = None;
    for resource in run_dir.map(RunDir::resources).unwrap_or_default() {
        let ended = match Client::connect_patiently(run_dir, &resource) {
            Ok(mut client) => client.ask(&resource, Request::Down).map(|done| say(&resource, &done)),
            Err(NoClient::NotConfigured(info)) => {
                release_left(&resource, &info);
                Ok(())
            }
            Err(NoClient::Trouble(fault)) => Err(fault),
        };
        if let Err(fault) = ended {
            faults = Some(fault.after(faults));
        }
    }
    faults.map_or(Ok(()), Err)
}

/// The daemon's remarks on what it did.
fn say(object: &str, done: &Done) {
    for sentence in &done.info {
        eprintln!("{object}: {sentence}");
    }
}

fn not_done_yet(line: &CommandLine) -> Refusal {
    let command = line.command.name;
    if line.command.verb == Verb::Resize {
        let info =
            "the activity log of a disk in use keeps its layout: detach the disk, then write its metadata anew \
                    (drbdmeta apply-al, dump-md, and restore-md with --al-stripes and --al-stripe-size-kB); nothing was changed";
        return Refusal::because(Reason::PacketNumber, info);
    }
    Refusal::because(
        Reason::PacketNumber,
        format!("'{command}' is known to drbdsetup, but this version of udrbd does not do it yet; nothing was changed"),
    )
}

/// The request of a command; `None` for what this version does not do yet.
pub fn request_of(line: &CommandLine) -> Option<Request> {
    let options = || line.option_set();
    let set_defaults = line.has("set-defaults");
    let force = line.is_yes("force");
    let argument = |at: usize| line.arguments[at].clone();
    Some(match line.command.verb {
        Verb::Primary => Request::Primary { force },
        Verb::Secondary => Request::Secondary { force },
        Verb::Attach => Request::Attach {
            minor: line.minor(),
            disk: absolute(&line.arguments[1]),
            meta_disk: absolute(&line.arguments[2]),
            meta_index: match line.arguments[3].as_str() {
                "flex-external" => "flexible".to_owned(),
                "flex-internal" => "internal".to_owned(),
                index => index.to_owned(),
            },
            options: options(),
        },
        Verb::DiskOptions => Request::DiskOptions { minor: line.minor(), options: options(), set_defaults },
        Verb::Detach => Request::Detach { minor: line.minor(), force, diskless: line.is_yes("diskless") },
        Verb::Connect => Request::Connect {
            peer: line.peer(),
            tentative: line.is_yes("tentative"),
            discard_my_data: line.is_yes("discard-my-data"),
        },
        Verb::NewPeer => Request::NewPeer { peer: line.peer(), options: options() },
        Verb::DelPeer => Request::DelPeer { peer: line.peer(), force },
        Verb::NewPath => Request::NewPath { peer: line.peer(), local: argument(2), remote: argument(3) },
        Verb::DelPath => Request::DelPath { peer: line.peer(), local: argument(2), remote: argument(3) },
        Verb::NetOptions => Request::NetOptions { peer: line.peer(), options: options(), set_defaults },
        Verb::Disconnect => Request::Disconnect { peer: line.peer(), force },
        Verb::ResourceOptions => Request::ResourceOptions { options: options(), set_defaults },
        Verb::PeerDeviceOptions => Request::PeerDeviceOptions {
            peer: line.peer(),
            volume: line.volume(),
            options: options(),
            set_defaults,
        },
        Verb::SuspendIo => Request::SuspendIo { minor: line.minor() },
        Verb::ResumeIo => Request::ResumeIo { minor: line.minor() },
        Verb::Down => Request::Down,
        Verb::NewMinor => {
            Request::NewMinor { minor: line.minor(), volume: line.volume(), options: options() }
        }
        Verb::DelMinor => Request::DelMinor { minor: line.minor() },
        Verb::DelResource => Request::DelResource,
        Verb::Invalidate => Request::Invalidate {
            minor: line.minor(),
            sync_from: line.number("sync-from-peer-node-id").and_then(|id| u8::try_from(id).ok()).map(NodeId),
            reset_bitmap: line.is_not_no("reset-bitmap"),
        },
        Verb::InvalidateRemote => Request::InvalidateRemote {
            peer: line.peer(),
            volume: line.volume(),
            reset_bitmap: line.is_not_no("reset-bitmap"),
        },
        Verb::PauseSync => Request::PauseSync { peer: line.peer(), volume: line.volume() },
        Verb::ResumeSync => Request::ResumeSync { peer: line.peer(), volume: line.volume() },
        Verb::Outdate => Request::Outdate { minor: line.minor() },
        Verb::NewCurrentUuid if !line.is_yes("force-resync") => {
            Request::NewCurrentUuid { minor: line.minor(), clear_bitmap: line.is_yes("clear-bitmap") }
        }
        Verb::Verify => Request::Verify {
            peer: line.peer(),
            volume: line.volume(),
            start: line.number("start").map(i64::unsigned_abs),
            stop: line.number("stop").map(i64::unsigned_abs),
        },
        Verb::Resize if !changes_log_layout(line) => Request::Resize {
            minor: line.minor(),
            size: line.number("size").map_or(0, i64::unsigned_abs),
            assume_peer_has_space: line.is_yes("assume-peer-has-space"),
            assume_clean: line.is_yes("assume-clean"),
        },
        Verb::Resize | Verb::NewCurrentUuid | Verb::ForgetPeer | Verb::RenameResource => return None,
        Verb::Role
        | Verb::PeerRole
        | Verb::Cstate
        | Verb::Dstate
        | Verb::ShowGi
        | Verb::GetGi
        | Verb::Show
        | Verb::Status
        | Verb::CheckResize
        | Verb::Events2
        | Verb::WaitSync
        | Verb::WaitConnect
        | Verb::NewResource
        | Verb::Udev => return None,
    })
}

/// The size of the activity log is chosen when metadata is made.
fn changes_log_layout(line: &CommandLine) -> bool {
    line.has("al-stripes") || line.has("al-stripe-size-kB")
}

/// The daemon has another working directory.
fn absolute(path: &str) -> String {
    std::path::absolute(Path::new(path))
        .ok()
        .and_then(|p| p.to_str().map(str::to_owned))
        .unwrap_or(path.to_owned())
}

/// The kernel's DRBD may have a device of that minor.
fn check_no_kernel_device(line: &CommandLine) -> Result<(), Fault> {
    let minor = line.minor();
    let nodes = [
        format!("/sys/devices/virtual/block/drbd{minor}"),
        format!("/sys/devices/virtual/bdi/147:{minor}"),
        format!("/sys/block/drbd{minor}"),
    ];
    match nodes.iter().find(|node| Path::new(node).exists()) {
        None => Ok(()),
        Some(node) => Err(Fault {
            text: format!(
                "new-minor {}: sysfs node '{node}' (already? still?) exists",
                line.arguments.join(" ")
            ),
            exit: u8::try_from(Reason::MinorOrVolumeExists.number()).unwrap_or(EXIT_TROUBLE),
        }),
    }
}
