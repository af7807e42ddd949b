//! A planned upgrade: this process becomes another program, which takes up everything where it was left.
//!
//! Requests are held back and those under way completed; a Primary demotes itself, so that its metadata tells of no crash;
//! then the process executes the program, which finds the control socket (whose clients wait meanwhile) and the sockets
//! of the session behind descriptors, and goes on with the session as if nothing had been. A ublk device keeps its requests
//! until the program takes it over.

use crate::administration::Administration;
use crate::journal;
use crate::mailbox::{HandedSession, ToData};
use crate::peer_link::LeftSocket;
use crate::process;
use drbd_core::engine::session_state::SessionState;
use drbd_core::engine::{AdminRequest, Level};
use drbd_core::refusal::{Reason, Refusal};
use drbd_core::states::{DiskState, Role};
use nix::sys::memfd::{memfd_create, MFdFlags};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// What is left for the next program, and what this one takes up.
const FORMAT: u32 = 1;
/// Names the descriptor behind which it lies.
const VARIABLE: &str = "UDRBD_HAND_OVER";
/// So long the next program may take to say what it reads.
const FORMATS_PATIENCE: Duration = Duration::from_secs(5);
/// So long requests under way may take to end.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// So long the peer may take to acknowledge everything.
const SESSION_PATIENCE: Duration = Duration::from_secs(2);

/// What a program reads of what another one wrote: the answer to `udrbd formats`.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Formats {
    daemon: String,
    journal: Vec<u32>,
    hand_over: Vec<u32>,
}

impl Formats {
    /// Of this program.
    pub(crate) fn own() -> Formats {
        Formats { daemon: crate::VERSION.to_owned(), journal: vec![journal::FORMAT], hand_over: vec![FORMAT] }
    }
}

/// What the next program finds.
#[derive(Serialize, Deserialize, Debug)]
struct Left {
    format: u32,
    daemon: String,
    /// The descriptor of the listening control socket.
    listener: RawFd,
    /// The session with the peer.
    session: Option<LeftSession>,
}

/// A session at rest.
#[derive(Serialize, Deserialize, Debug)]
struct LeftSession {
    /// As [`SessionState`] writes it.
    state: String,
    /// Of the data stream and of the control stream: the descriptor, and what was read of it and not looked at.
    sockets: [(RawFd, Vec<u8>); 2],
}

impl Left {
    fn descriptors(&self) -> Vec<RawFd> {
        let sockets = self.session.iter().flat_map(|session| session.sockets.iter().map(|(fd, _)| *fd));
        sockets.chain([self.listener]).collect()
    }
}

/// What the last program left to this one.
#[derive(Debug)]
pub(crate) struct TakenUp {
    /// Its name and version.
    pub(crate) daemon: String,
    /// The control socket, listening.
    pub(crate) listener: UnixListener,
    /// The session, or why it cannot be gone on with.
    pub(crate) session: Option<Result<HandedSession, String>>,
}

/// The descriptors that another program left open for this one: all others are closed first of all.
pub(crate) fn left_open() -> Vec<RawFd> {
    let Some(fd) = std::env::var(VARIABLE).ok().and_then(|fd| fd.parse().ok()) else { return Vec::new() };
    match process::with_left_file(fd, read_left) {
        Some(Ok(left)) => [left.descriptors(), vec![fd]].concat(),
        // It is said later why it cannot be read.
        Some(Err(_)) => vec![fd],
        None => Vec::new(),
    }
}

fn read_left(file: &mut File) -> Result<Left, String> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(|e| e.to_string())?;
    let left: Left = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    if left.format != FORMAT {
        return Err(format!(
            "{} left format {}, and {} reads format {FORMAT}",
            left.daemon,
            left.format,
            crate::VERSION
        ));
    }
    Ok(left)
}

/// Takes up what another program left. `None`: this one was started afresh.
pub(crate) fn take_up() -> Result<Option<TakenUp>, String> {
    let Some(fd) = std::env::var(VARIABLE).ok().and_then(|fd| fd.parse().ok()) else { return Ok(None) };
    std::env::remove_var(VARIABLE);
    let Some(left) = process::with_left_file(fd, read_left) else { return Ok(None) };
    process::close_left(fd);
    let left = left.map_err(|why| format!("what another program handed over cannot be taken up: {why}."))?;
    let listener = UnixListener::from(process::left_descriptor(left.listener));
    let session = left.session.map(|session| {
        let left = |(fd, unread)| LeftSocket { fd: process::left_descriptor(fd), unread };
        let sockets = session.sockets.map(left);
        let state = SessionState::decode(&session.state)?;
        Ok(HandedSession { state: Box::new(state), sockets })
    });
    Ok(Some(TakenUp { daemon: left.daemon, listener, session }))
}

/// Becomes that program. It only returns if that was refused, and everything is as before.
pub(crate) async fn become_program(
    administration: &Administration,
    program: &str,
) -> Result<std::convert::Infallible, Refusal> {
    let program =
        CString::new(program).map_err(|_| refused("the program's path has a zero in it".to_owned()))?;
    judge(&formats_of(&program).await?)?;
    would_be_primary_again(administration).await?;
    let begun = std::time::Instant::now();
    administration.becoming.set(true);
    let (tell, told) = tokio::sync::oneshot::channel();
    administration.data.send(ToData::Hold(Some(tell)));
    let outcome = match tokio::time::timeout(DRAIN_PATIENCE, told).await {
        Err(_) | Ok(Err(_)) => {
            Err(refused(format!("requests under way did not end within {} s", DRAIN_PATIENCE.as_secs())))
        }
        Ok(Ok(())) => step_down(administration).await,
    };
    if let Err(refusal) = outcome {
        administration.devices.hold(false);
        administration.data.send(ToData::Hold(None));
        administration.becoming.set(false);
        return Err(refusal);
    }
    let session = match administration.give_session(SESSION_PATIENCE).await {
        Ok(session) => session,
        Err(refusal) => {
            let text = format!("The next program has to connect again: {refusal}");
            administration.logger.say(Level::Info, "upgrade", &administration.resource, text);
            None
        }
    };
    let said = format!("Becoming {} after {:?} of draining.", program.to_string_lossy(), begun.elapsed());
    administration.logger.say(Level::Info, "upgrade", &administration.resource, said);
    administration.logger.finish();
    let why = match leave(administration.sockets.control.as_raw_fd(), session.as_deref()) {
        Ok(left) => execute(&program, left.as_raw_fd()),
        Err(e) => e,
    };
    // Demoted and drained, and without its program: the parent process starts the next one as after a crash.
    eprintln!("{}: {} cannot be executed: {why}.", administration.resource, program.to_string_lossy());
    std::process::abort();
}

/// A Primary that the next program could not make one again (decision 0036) does not step down.
async fn would_be_primary_again(administration: &Administration) -> Result<(), Refusal> {
    let status = administration.status().await?;
    let poor = |disk| !matches!(disk, DiskState::UpToDate | DiskState::Consistent);
    match status.devices.iter().find(|device| poor(device.disk)) {
        Some(device) if status.resource.role == Role::Primary => Err(refused(format!(
            "the disk of volume {} is {}: a Primary steps down for a moment, and has to have good data of its own to be one \
             again",
            device.volume, device.disk
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Nothing that a crash would have to be remembered for.
async fn step_down(administration: &Administration) -> Result<(), Refusal> {
    // What a Secondary's device would be told is not true: it is a Primary's again in a moment.
    administration.devices.hold(true);
    administration.ask_engine(AdminRequest::Secondary { force: false }).await.map(|_| ())
}

fn refused(why: String) -> Refusal {
    Refusal::because(Reason::InTransientState, why)
}

/// What a program says that it reads.
async fn formats_of(program: &CString) -> Result<Formats, Refusal> {
    let name = program.to_string_lossy().into_owned();
    let asked = tokio::process::Command::new(&name).arg("formats").kill_on_drop(true).output();
    let output = match tokio::time::timeout(FORMATS_PATIENCE, asked).await {
        Err(_) => return Err(refused(format!("{name} does not say what it reads"))),
        Ok(Err(e)) => return Err(refused(format!("{name} cannot be executed: {e}"))),
        Ok(Ok(output)) => output,
    };
    serde_json::from_slice(&output.stdout)
        .map_err(|_| refused(format!("{name} is no udrbd that a running one can become")))
}

/// Whether that program reads what this one writes.
fn judge(next: &Formats) -> Result<(), Refusal> {
    let known = next.journal.contains(&journal::FORMAT) && next.hand_over.contains(&FORMAT);
    if known {
        return Ok(());
    }
    Err(refused(format!(
        "{} reads journals of format {:?} and takes up format {:?}, and {} writes {} and {FORMAT}: down and up again, or a \
         version between the two",
        next.daemon,
        next.journal,
        next.hand_over,
        crate::VERSION,
        journal::FORMAT
    )))
}

/// Leaves what the next program needs.
fn leave(listener: RawFd, session: Option<&HandedSession>) -> std::io::Result<OwnedFd> {
    let session = session.map(|session| LeftSession {
        state: session.state.encode(),
        sockets: session.sockets.each_ref().map(|socket| (socket.fd.as_raw_fd(), socket.unread.clone())),
    });
    let left = Left { format: FORMAT, daemon: crate::VERSION.to_owned(), listener, session };
    let mut file = File::from(memfd_create(c"udrbd-hand-over", MFdFlags::empty())?);
    file.write_all(&serde_json::to_vec(&left)?)?;
    left.descriptors().into_iter().try_for_each(process::keep_open)?;
    Ok(OwnedFd::from(file))
}

/// The error, if there is one.
fn execute(program: &CString, left: RawFd) -> std::io::Error {
    // Other threads may look at the environment: it is handed over, not changed.
    let variable = |(name, value): (OsString, OsString)| {
        CString::new([name.into_vec(), b"=".to_vec(), value.into_vec()].concat()).unwrap_or_default()
    };
    let left = (OsString::from(VARIABLE), OsString::from(left.to_string()));
    let environment: Vec<CString> = std::env::vars_os().chain([left]).map(variable).collect();
    let arguments = std::env::args_os().map(|a| CString::new(a.into_vec()).unwrap_or_default());
    let mut arguments: Vec<CString> = arguments.collect();
    if !arguments.iter().any(|a| a.as_c_str() == c"--recover") {
        arguments.push(c"--recover".to_owned());
    }
    let Err(why) = nix::unistd::execve(program, &arguments, &environment);
    why.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_read_what_we_write_is_refused_with_both_versions() {
        assert!(judge(&Formats::own()).is_ok());
        for (journal, hand_over) in [(vec![2], vec![FORMAT]), (vec![journal::FORMAT, 2], vec![])] {
            let next = Formats { daemon: "udrbd 9.9".to_owned(), journal, hand_over };
            let refusal = judge(&next).unwrap_err().to_string();
            assert!(refusal.contains("udrbd 9.9") && refusal.contains(crate::VERSION), "{refusal}");
        }
    }

    #[test]
    fn what_is_left_is_read_again_and_another_format_named() {
        let mut file = File::from(memfd_create(c"test", MFdFlags::empty()).unwrap());
        let left = Left { format: FORMAT, daemon: "udrbd 0.0".to_owned(), listener: 7, session: None };
        file.write_all(&serde_json::to_vec(&left).unwrap()).unwrap();
        assert_eq!(read_left(&mut file).unwrap().listener, 7);
        let other = Left { format: FORMAT + 1, ..left };
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        file.write_all(&serde_json::to_vec(&other).unwrap()).unwrap();
        assert!(read_left(&mut file).unwrap_err().contains("udrbd 0.0 left format 2"));
    }
}
