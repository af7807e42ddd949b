//! The fence-peer handler: called when a Primary loses its peer and where a promotion needs it, and what follows from its
//! answer; and its counterpart, unfence-peer (9.1 and 9.3 of the wire reference).

use super::command::{Command, Level};
use super::planted::Bug;
use super::resource::{HandlerOwner, Resource};
use super::state::Mode;
use super::state_change::FencingPolicy;
use crate::states::{ConnectionState, DiskState, Role};

impl Resource {
    /// What is configured; nothing without a peer.
    pub(super) fn fencing_policy(&self) -> FencingPolicy {
        self.connection.as_ref().map_or(FencingPolicy::DontCare, |c| c.options.fencing)
    }

    fn best_own_disk(&self) -> u8 {
        self.devices.iter().map(|d| d.disk.rank()).max().unwrap_or(0)
    }

    /// The peer is lost: a Primary that does not know it to be harmless has it fenced.
    pub(super) fn call_fence_peer(&mut self, out: &mut Vec<Command>) {
        if self.fencing_policy() == FencingPolicy::DontCare
            || self.role != Role::Primary
            || self.peer_is_fenced()
            || self.freeze.fencing
        {
            return;
        }
        if self.best_own_disk() < DiskState::Consistent.rank() {
            // Nothing here that could go on without the peer.
            return self.force(&|_, s| s.suspended.fencing = false, out);
        }
        self.run_fence_peer(out);
    }

    fn run_fence_peer(&mut self, out: &mut Vec<Command>) {
        let sessions = self.connection.as_ref().map_or(0, |c| c.sessions);
        self.freeze.fencing = true;
        self.run_handler("fence-peer", None, HandlerOwner::FencePeer { sessions }, out);
    }

    /// A promotion needs the peer out of the way. False if nobody is called.
    pub(super) fn begin_fencing_for_promotion(&mut self, out: &mut Vec<Command>) -> bool {
        let helpless = self.best_own_disk() < DiskState::Consistent.rank();
        let connected = self.connection_state() == ConnectionState::Connected;
        if self.fencing_policy() == FencingPolicy::DontCare || helpless || connected {
            return false;
        }
        if !self.freeze.fencing {
            self.run_fence_peer(out);
        }
        true
    }

    /// No volume of the peer, which is out of reach, can be taken for the newest data.
    pub(super) fn peer_is_fenced(&self) -> bool {
        (0..self.devices.len()).all(|d| self.peer_disk(d).rank() <= DiskState::Outdated.rank())
    }

    /// A resync made the peer's data good again: what was done to keep it from being promoted can be undone.
    pub(super) fn call_unfence_peer(&mut self, out: &mut Vec<Command>) {
        let good = |d: usize| {
            self.devices[d].disk == DiskState::UpToDate && self.peer_disk(d) == DiskState::UpToDate
        };
        if self.fencing_policy() != FencingPolicy::DontCare && (0..self.devices.len()).all(good) {
            self.run_handler("unfence-peer", None, HandlerOwner::Nobody, out);
        }
    }

    /// The handler ended. Its answer counts only if the peer did not come back meanwhile.
    pub(super) fn fence_peer_answered(&mut self, sessions: u32, status: i32, out: &mut Vec<Command>) {
        self.freeze.fencing = false;
        // A promotion may be waiting for it.
        self.admin.state_changed = true;
        let Some(connection) = self.connection.as_deref() else { return };
        if connection.state == ConnectionState::Connected {
            return;
        }
        if connection.sessions != sessions {
            // It came back, and was lost again while the handler for its first loss still ran.
            return self.call_fence_peer(out);
        }
        let (peer_disk, own_disk, meaning) = match status {
            3 => (Some(DiskState::Inconsistent), None, "peer is inconsistent or worse"),
            4 => (Some(DiskState::Outdated), None, "peer was fenced"),
            5 if self.best_own_disk() == DiskState::UpToDate.rank() => {
                (Some(DiskState::Outdated), None, "peer is unreachable, assumed to be dead")
            }
            5 => (None, None, "peer unreachable, doing nothing since disk != UpToDate"),
            6 => (None, Some(DiskState::Outdated), "peer is active"),
            7 => (Some(DiskState::Outdated), None, "peer was stonithed"),
            _ if self.planted(Bug::FencedWhateverItSays) => {
                (Some(DiskState::Outdated), None, "taken for outdated")
            }
            _ => (None, None, "broken, this is no answer"),
        };
        let level = if (3..=7).contains(&status) { Level::Info } else { Level::Error };
        let text = format!("fence-peer helper returned {status} ({meaning})");
        self.log("fence-peer", level, self.peer_subject(), text, out);
        if status == 7 && self.fencing_policy() != FencingPolicy::ResourceAndStonith {
            let text = "fence-peer() = 7 && fencing != Stonith !!!";
            self.log("fence-peer", Level::Error, self.peer_subject(), text, out);
        }
        let changed = self.change(
            Mode::Soft,
            &|_, s| {
                s.peer_disk = peer_disk.unwrap_or(s.peer_disk);
                s.disk = own_disk.filter(|_| s.disk.has_data()).unwrap_or(s.disk);
            },
            out,
        );
        if let Err(reason) = changed {
            let text = format!("What fence-peer answered cannot be: {reason}");
            self.log("fence-peer", Level::Warning, self.peer_subject(), text, out);
        }
    }
}
