//! `wait-connect-*` and `wait-sync-*`: until peers are there, or resyncs are done, or the time is up.
//!
//! StandAlone ends the wait (nothing will come of it) unless `--wait-after-sb` is given. On a terminal a line on stderr
//! shows what is being waited for; in a pipe nothing is written.

use crate::arguments::CommandLine;
use crate::client::Client;
use crate::commands::{Argument, Verb};
use crate::fault::{Fault, EXIT_TIMEOUT};
use crate::rates::Progress;
use crate::rundir::{run_dir_path, RunDir};
use drbd_core::control::{ConnectionStatus, PeerDeviceObject, Request, ResourceStatus};
use drbd_core::ids::{NodeId, VolumeNumber};
use drbd_core::states::{ConnectionState, DiskState, ReplicationState};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The state is asked for at least this often: counters change without a notification.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long a daemon that went away is asked for.
const RETURN: Duration = Duration::from_secs(5);

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Goal {
    /// Resyncs have to be done, too.
    pub sync: bool,
    /// This peer only.
    pub peer: Option<NodeId>,
    /// This volume only.
    pub volume: Option<VolumeNumber>,
    /// StandAlone is waited through.
    pub after_split_brain: bool,
}

/// Runs the command.
pub fn run(line: &CommandLine) -> Result<(), Fault> {
    let goal = Goal {
        sync: line.command.verb == Verb::WaitSync,
        peer: line.takes(Argument::PeerNodeId).then(|| line.peer()),
        volume: line.takes(Argument::Volume).then(|| line.volume()),
        after_split_brain: line.is_yes("wait-after-sb"),
    };
    let mut client = subscribe(line.object())?;
    let begun = Instant::now();
    let deadline = timeout(line, &goal, &mut client)?.map(|timeout| begun + timeout);
    let mut ticker = Ticker::new();
    let ended = wait(line.object(), &goal, client, deadline, &mut ticker);
    ticker.clear();
    ended
}

fn subscribe(resource: &str) -> Result<Client, Fault> {
    let run_dir = RunDir::open_if_present(&run_dir_path()?)?;
    let mut client =
        Client::connect_patiently(run_dir.as_ref(), resource).map_err(|why| why.into_fault(resource))?;
    client.ask(resource, Request::Subscribe)?;
    Ok(client)
}

fn wait(
    resource: &str,
    goal: &Goal,
    mut client: Client,
    deadline: Option<Instant>,
    ticker: &mut Ticker,
) -> Result<(), Fault> {
    loop {
        match client.status() {
            Ok(status) => {
                let Some(obstacle) = goal.obstacle(&status) else { return Ok(()) };
                ticker.show(&obstacle.sentence(resource));
            }
            // The daemon went away: a restarted one is asked again, and what does not come back is a fault.
            Err(_) => client = come_back(resource, deadline)?,
        }
        if !sleep(&mut client, deadline)? {
            return Err(Fault { text: String::new(), exit: EXIT_TIMEOUT });
        }
    }
}

/// Waits for a notification or the time to ask again; false when the deadline has passed.
fn sleep(client: &mut Client, deadline: Option<Instant>) -> Result<bool, Fault> {
    let now = Instant::now();
    if deadline.is_some_and(|deadline| now >= deadline) {
        return Ok(false);
    }
    let pause = deadline.map_or(ASK_AGAIN, |deadline| (deadline - now).min(ASK_AGAIN));
    let timeout = PollTimeout::try_from(pause.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    client.forget_notifications();
    let mut fds = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
    // A signal only makes us ask a little earlier.
    let spoke = poll(&mut fds, timeout).is_ok_and(|ready| ready > 0);
    if spoke && client.notification().is_ok_and(|n| n.is_none()) {
        // Gone: the next question finds out, without spinning.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(true)
}

fn come_back(resource: &str, deadline: Option<Instant>) -> Result<Client, Fault> {
    let begun = Instant::now();
    loop {
        match subscribe(resource) {
            Ok(client) => return Ok(client),
            Err(fault) if begun.elapsed() > RETURN => return Err(fault),
            Err(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Err(Fault { text: String::new(), exit: EXIT_TIMEOUT });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The timeout that counts: that of an outdated disk, of a degraded Primary, or the normal one; `None` for ever.
fn timeout(line: &CommandLine, goal: &Goal, client: &mut Client) -> Result<Option<Duration>, Fault> {
    let seconds = |name| line.text(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let status = client.status()?;
    let concerned = |volume| goal.volume.is_none_or(|wanted| wanted == volume);
    let mut devices = status.devices.iter().filter(|d| concerned(d.volume));
    let chosen = if devices.any(|d| d.disk == DiskState::Outdated) {
        seconds("outdated-wfc-timeout")
    } else if was_degraded_primary(goal, &status, client) {
        seconds("degr-wfc-timeout")
    } else {
        seconds("wfc-timeout")
    };
    Ok((chosen > 0).then(|| Duration::from_secs(chosen)))
}

/// The metadata says: Primary, and not connected.
fn was_degraded_primary(goal: &Goal, status: &ResourceStatus, client: &mut Client) -> bool {
    let resource = status.resource.name.clone();
    goal.peer_devices(status).any(|(_, p)| {
        let request = Request::GetGi { peer: p.peer_node_id, volume: p.volume };
        // Without a disk there is nothing to read, and nothing was degraded.
        let generation = client.ask(&resource, request).ok().and_then(|done| done.generation);
        generation.is_some_and(|g| g.flags[2] && !g.peer_flags[0])
    })
}

/// What still stands in the way.
#[derive(Clone, PartialEq, Debug)]
pub enum Obstacle {
    /// No session with that peer, or its handshake is not finished.
    NotConnected {
        /// Name of the peer.
        peer: String,
        /// State of the connection.
        state: ConnectionState,
    },
    /// A volume that is not in sync yet.
    NotInSync {
        /// Number of the volume.
        volume: VolumeNumber,
        /// State of its replication.
        state: ReplicationState,
        /// How far it is.
        progress: Option<Progress>,
    },
}

impl Goal {
    fn peer_devices<'a>(
        &'a self,
        status: &'a ResourceStatus,
    ) -> impl Iterator<Item = (&'a ConnectionStatus, &'a PeerDeviceObject)> {
        let of_peer =
            move |c: &&ConnectionStatus| self.peer.is_none_or(|peer| c.connection.peer_node_id == peer);
        let of_volume = move |p: &&PeerDeviceObject| self.volume.is_none_or(|volume| p.volume == volume);
        status
            .connections
            .iter()
            .filter(of_peer)
            .flat_map(move |c| c.peer_devices.iter().filter(of_volume).map(move |p| (c, p)))
    }

    /// The first thing that is not as wanted; `None` when the wait is over.
    pub fn obstacle(&self, status: &ResourceStatus) -> Option<Obstacle> {
        self.peer_devices(status).find_map(|(connection, peer)| {
            let state = connection.connection.connection;
            if state == ConnectionState::StandAlone && !self.after_split_brain {
                return None;
            }
            match peer.replication {
                ReplicationState::Off => {
                    Some(Obstacle::NotConnected { peer: connection.connection.conn_name.clone(), state })
                }
                ReplicationState::Established | ReplicationState::VerifyS | ReplicationState::VerifyT => None,
                state if self.sync => {
                    Some(Obstacle::NotInSync { volume: peer.volume, state, progress: Progress::of(peer) })
                }
                _ => None,
            }
        })
    }
}

impl Obstacle {
    /// For the person who waits.
    pub fn sentence(&self, resource: &str) -> String {
        match self {
            Obstacle::NotConnected { peer, state } => format!("{resource}: waiting for {peer} ({state})"),
            Obstacle::NotInSync { volume, state, progress: None } => format!("{resource}/{volume}: {state}"),
            Obstacle::NotInSync { volume, state, progress: Some(progress) } => {
                let left = match progress.eta_s {
                    Some(eta) => format!("{}:{:02}:{:02} left", eta / 3600, eta / 60 % 60, eta % 60),
                    None => "stalled".to_owned(),
                };
                format!(
                    "{resource}/{volume}: {state} {:.1}%, {}, {left}",
                    progress.done_percent,
                    rate(progress.rate_kib)
                )
            }
        }
    }
}

fn rate(kib_per_s: u64) -> String {
    if kib_per_s < 1024 {
        format!("{kib_per_s} KiB/s")
    } else {
        format!("{:.1} MiB/s", kib_per_s as f64 / 1024.0)
    }
}

/// A line on a terminal that is written over.
struct Ticker {
    on_terminal: bool,
    shown: usize,
}

impl Ticker {
    fn new() -> Ticker {
        Ticker { on_terminal: std::io::stderr().is_terminal(), shown: 0 }
    }

    fn show(&mut self, sentence: &str) {
        if self.on_terminal {
            let width = self.shown;
            self.shown = sentence.chars().count();
            // A terminal that went away is no reason to stop waiting.
            let _ = write!(std::io::stderr(), "\r{sentence:<width$}");
        }
    }

    fn clear(&mut self) {
        if self.shown > 0 {
            let _ = write!(std::io::stderr(), "\r{:1$}\r", "", self.shown);
        }
    }
}

#[cfg(test)]
mod tests;
