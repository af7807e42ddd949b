//! Frozen requests: what freezes them, and when they may go on.
//!
//! Three things hold requests of the front end: an administrator (`suspend-io`), the loss of the last good copy
//! (on-no-data-accessible, or a full disk) and fencing (until the peer that was lost is known to do no harm). The
//! administrator only holds what is new. The other two *freeze*: nothing is reported upward any more, and the transfer
//! log is kept (`frozen_log`) although its connection is lost, because what the peer has of it is not known.
//!
//! A freeze ends (`thaw`) for one of two reasons. The peer is back: what it may lack is sent again, in the order and the
//! epochs it was sent in before, and no resync is needed. Or this node goes on without it: a new generation begins, what
//! the peer may lack is marked. Either way every frozen request is carried through to its end then.

use super::command::Command;
use super::device::PeerGenerationDue;
use super::event::UpperOp;
use super::planted::Bug;
use super::resource::Resource;
use super::state_change::FencingPolicy;
use super::write_path::request::{Local, PeerProgress};
use crate::ids::{Instant, UpperTag};
use crate::states::{DiskState, ReplicationState, Role};

/// Before what failed everywhere is tried again.
const RETRY_MS: u64 = 1000;

/// How long word of the peer's disk may take behind the data on its way.
const WORD_MS: u64 = 30_000;

/// What is frozen.
#[derive(Debug, Default)]
pub(super) struct Freeze {
    /// Requests are frozen, or were until just now.
    pub(super) engaged: bool,
    /// The transfer log of the lost session with its flushes, in order (slab keys).
    pub(super) log: Vec<u32>,
    /// Requests that could start, or try again, but for the freeze (slab keys, in order).
    pub(super) parked: Vec<u32>,
    /// Flushes to be done again when everything else goes on (slab keys).
    pub(super) flushes: Vec<u32>,
    /// Good data is not taken for accessible before that: what should have it has just failed.
    pub(super) not_before: Option<Instant>,
    /// Requests that failed everywhere and were frozen for it, since when, and are not done yet.
    pub(super) tried_again: Vec<(UpperTag, Instant)>,
    /// A write that finds out whether a full disk has space (slab key).
    pub(super) probe: Option<u32>,
    /// The fence-peer handler is running.
    pub(super) fencing: bool,
}

impl Resource {
    /// Nothing may be reported upward.
    pub(super) fn is_frozen(&self) -> bool {
        self.suspended.no_data || self.suspended.fencing || self.suspended.quorum
    }

    /// Writes keep their bytes until the peer has them on stable storage, because they may have to be sent again.
    pub(super) fn may_freeze(&self) -> bool {
        self.options.suspend_without_data || self.fencing_policy() == FencingPolicy::ResourceAndStonith
    }

    /// Completions of a device have to wait.
    pub(super) fn holds_completions(&self, d: usize) -> bool {
        let device = &self.devices[d];
        (self.is_frozen() && !self.planted(Bug::FrozenCompletionsOut))
            || device.peer_generation_due == Some(PeerGenerationDue::Now)
            || device.backing.as_ref().is_some_and(|b| b.generations_pending > 0)
    }

    /// Its turn came while requests are frozen. It does not keep it: a resync may be what ends the freeze.
    pub(super) fn park(&mut self, key: u32, out: &mut Vec<Command>) {
        self.freeze.parked.push(key);
        if let Some(id) = self.requests[key].conflict.take() {
            self.leave_conflicts(self.requests[key].device, id, out);
        }
    }

    /// The states say that there is good data, and yet nobody could do it: with on-no-data-accessible suspend-io that
    /// is no error, but something to wait for: word of what happened at the peer is on its way. A block that nobody can
    /// read or write becomes an error in the end: with on-io-error pass_on no disk is given up for it.
    pub(super) fn freeze_rather_than_fail(&mut self, key: u32, out: &mut Vec<Command>) {
        if !self.options.suspend_without_data || self.role != Role::Primary || self.is_frozen() {
            return;
        }
        let request = &self.requests[key];
        let d = request.device;
        let done =
            request.op != UpperOp::Read && request.has_good_copy(self.disk_is_good(d), self.peer_disk(d));
        // Without its bytes nobody could do it later either.
        if done || request.doomed || !self.has_data_access(d) || !self.has_bytes(key) {
            return;
        }
        if request.op == UpperOp::Flush && self.cannot_tell_what_is_stable(d) && !self.is_write_on_its_way() {
            return;
        }
        let (tag, now) = (request.tag, self.now);
        match self.freeze.tried_again.iter().find(|(tried, _)| *tried == tag) {
            Some((_, since)) if since.plus_ms(WORD_MS) <= now => return,
            Some(_) => {}
            None => self.freeze.tried_again.push((tag, now)),
        }
        self.freeze.not_before = Some(self.now.plus_ms(RETRY_MS));
        self.force(&|_, s| s.suspended.no_data = true, out);
    }

    /// A request is answered.
    pub(super) fn tries_no_more(&mut self, tag: UpperTag) {
        self.freeze.tried_again.retain(|(tried, _)| *tried != tag);
    }

    /// The peer alone has good data, and may have lost some that it once had: only the barrier after a write ends that.
    fn cannot_tell_what_is_stable(&self, d: usize) -> bool {
        !self.disk_is_good(d) && self.connection.as_ref().is_some_and(|c| c.peer_devices[d].unstable_at_peer)
    }

    /// A write waits for something other than the end of a freeze, the activity log for one.
    fn is_write_on_its_way(&self) -> bool {
        self.devices.iter().any(|device| device.has_held())
            || self.requests.iter().any(|(_, request)| request.is_write() && !request.submitted)
    }

    /// Looks whether the reason to freeze is gone.
    pub(super) fn look_at_freeze(&mut self, out: &mut Vec<Command>) {
        if !self.freeze.engaged {
            return;
        }
        let (fenced, data) = (self.peer_does_no_harm(), self.good_data_is_back());
        if (self.suspended.fencing && fenced) || (self.suspended.no_data && data) {
            self.force(
                &|_, s| {
                    s.suspended.fencing &= !fenced;
                    s.suspended.no_data &= !data;
                },
                out,
            );
        }
        if !self.is_frozen() {
            self.thaw(out);
            self.start_all_held(out);
        }
    }

    /// Every volume is connected again, or everywhere the peer's data is known to be old.
    fn peer_does_no_harm(&self) -> bool {
        let harmless = |disk: DiskState| matches!(disk, DiskState::Inconsistent | DiskState::Outdated);
        let connected = self.is_connected_everywhere() && self.may_go_on_everywhere();
        connected || (0..self.devices.len()).all(|d| harmless(self.peer_disk(d)))
    }

    pub(super) fn is_connected_everywhere(&self) -> bool {
        (0..self.devices.len()).all(|d| self.is_replicating(d))
    }

    /// No volume is in the middle of finding out what its data is worth.
    fn may_go_on_everywhere(&self) -> bool {
        (0..self.devices.len()).all(|d| self.may_go_on(d))
    }

    /// 8.4 lifts the freeze with any connection; here a connection without good data does not.
    fn good_data_is_back(&self) -> bool {
        let good = |d: usize| {
            let full = self.devices[d].full.is_some();
            let peer = self.peer_disk(d) == DiskState::UpToDate && self.is_replicating(d);
            peer || (self.devices[d].disk == DiskState::UpToDate && !full)
        };
        if self.freeze.not_before.is_some_and(|at| at > self.now) {
            return false;
        }
        let mut volumes = 0..self.devices.len();
        let all = match self.planted(Bug::OneVolumesDataResumesAll) {
            true => volumes.any(good),
            false => volumes.all(good),
        };
        self.role != Role::Primary || (self.may_go_on_everywhere() && all)
    }

    /// When to look again whether requests can go on.
    pub(super) fn freeze_deadline(&self) -> Option<Instant> {
        self.freeze.not_before.filter(|_| self.freeze.engaged)
    }

    /// Replication is in a state in which nothing of the front end may start (7.8 of the wire reference).
    pub(super) fn may_go_on(&self, d: usize) -> bool {
        if matches!(self.devices[d].disk, DiskState::Attaching | DiskState::Negotiating) {
            return false;
        }
        let old_dialect = self.connection.as_ref().and_then(|c| c.session()).is_some_and(|s| s.version < 96);
        match self.snapshot(Some(d)).replication {
            ReplicationState::StartingSyncT | ReplicationState::WFBitMapT | ReplicationState::WFSyncUUID => {
                false
            }
            ReplicationState::WFBitMapS => !old_dialect,
            _ => true,
        }
    }

    /// What a peer's disk has that is not good any more a resync may overwrite, before it is good again.
    pub(super) fn distrust_peers_copies(&mut self, d: usize) {
        if self.planted(Bug::AtGoodPeerAlways) {
            return;
        }
        for request in self.requests.values_mut().filter(|r| r.device == d && !r.completed) {
            request.at_good_peer = false;
        }
    }

    /// What only this disk has of the frozen requests a resync is about to overwrite: it is done again.
    pub(super) fn distrust_own_copies(&mut self, d: usize) {
        if !self.freeze.engaged {
            return;
        }
        for request in self.requests.values_mut().filter(|r| r.device == d && r.is_write() && !r.completed) {
            let only_here = match request.peer {
                PeerProgress::NotReplicated
                | PeerProgress::Frozen
                | PeerProgress::Postponed
                | PeerProgress::Failed
                | PeerProgress::Lost => true,
                PeerProgress::Sent | PeerProgress::Acknowledged | PeerProgress::Stable => false,
            };
            if only_here && request.local == Local::Done {
                request.local = Local::Failed;
            }
        }
    }

    /// What a disk took before it was given up has to be written again when it comes back: requests may freeze before
    /// that, and the disk be overwritten by a resync.
    pub(super) fn distrust_lost_copies(&mut self, d: usize) {
        for request in self.requests.values_mut().filter(|r| r.device == d && r.is_write()) {
            // Nor are its blocks in sync by what was on that disk, though the peer says so of its own.
            request.in_sync = false;
            if request.local == Local::Done && !request.completed {
                request.local = Local::Failed;
            }
        }
    }
}
