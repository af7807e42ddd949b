//! Disks that fail, are full, or answer nothing: on-io-error, disk-timeout, and the last good copy (7.10 of the wire
//! reference).

use super::command::{Command, DiskOp, Level};
use super::event::{IoResult, UpperOp};
use super::resource::{HandlerOwner, Io, IoOwner, Resource};
use super::write_path::request::Local;
use crate::ids::{Instant, PayloadId};
use crate::states::{DiskState, Role};

/// Between two attempts to write to a full disk.
const FULL_RETRY_MS: u64 = 3000;
/// ENOSPC and EDQUOT.
const FULL: [i32; 2] = [28, 122];
/// ETIMEDOUT.
const TIMED_OUT: i32 = 110;

/// What a disk failed to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    Read,
    Write,
    /// What is lost by it nobody can say.
    Flush,
}

impl Resource {
    /// The disk failed a request.
    pub(super) fn local_io_error(&mut self, d: usize, what: Trouble, errno: i32, out: &mut Vec<Command>) {
        if !self.devices[d].disk.has_data() {
            return;
        }
        if what == Trouble::Write && self.only_lacks_space(d, errno) {
            self.resync_anew(d);
            return self.disk_is_full(d, out);
        }
        let text = format!("The backing disk failed a request (error {errno})");
        self.log("io-error", Level::Error, self.device_subject(d), text, out);
        let policy = self.devices[d].backing.as_deref().map(|b| b.options.on_io_error.clone());
        match policy.as_deref() {
            Some("pass_on") if what != Trouble::Flush => self.pass_on(d, what, out),
            Some("call-local-io-error") => {
                self.run_handler("local-io-error", Some(d), HandlerOwner::Nobody, out);
                self.give_up_disk(d, out);
            }
            _ => self.give_up_disk(d, out),
        }
    }

    /// An error that is no reason to give the disk up, but to wait: what has the last good copy is full.
    pub(super) fn only_lacks_space(&self, d: usize, errno: i32) -> bool {
        FULL.contains(&errno) && self.devices[d].disk == DiskState::UpToDate && !self.peer_has_good_data(d)
    }

    /// The disk is good, and nobody else's within reach is: this Primary's, or the one it depends on.
    fn has_last_good_copy(&self, d: usize) -> bool {
        let in_use = self.role == Role::Primary || self.is_replicating(d);
        in_use && self.devices[d].disk == DiskState::UpToDate && !self.peer_has_good_data(d)
    }

    /// on-io-error pass_on. The last good copy stays what it is, unlike in 8.4: what cannot be read or written is an
    /// error upward, as on any disk, but everything else is still the best data there is. A block that cannot be read here
    /// and can by the peer is repaired. Whoever lacks a write of which the other side has a good copy is given up as by
    /// detach.
    fn pass_on(&mut self, d: usize, what: Trouble, out: &mut Vec<Command>) {
        if self.has_last_good_copy(d) {
            if what == Trouble::Write {
                self.resync_anew(d);
            }
            return;
        }
        if what != Trouble::Read || !self.can_repair(d) {
            self.give_up_disk(d, out);
        }
    }

    /// The last good copy stayed in spite of a write it lacks, and its resync target has another idea of what it holds
    /// now: a new session, in which both tell their bitmaps again, brings that in order.
    pub(super) fn resync_anew(&mut self, d: usize) {
        if self.is_replicating(d) && self.peer_disk(d).has_data() {
            self.end_session_for("The source of the resync could not write a block: it begins again");
        }
    }

    /// Ends the session as soon as what is being handled is; the next one begins by telling everything anew.
    pub(super) fn end_session_for(&mut self, reason: &'static str) {
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.doomed = Some(reason);
        }
    }

    // ---- full ----------------------------------------------------------------------------------------------------

    /// Giving the last good copy up for want of space would make things worse, whatever the policies say: a Primary's
    /// requests wait until there is space, or another good copy; so do those of a Primary that depends on this node, and
    /// metadata.
    pub(super) fn disk_is_full(&mut self, d: usize, out: &mut Vec<Command>) {
        let primary = self.role == Role::Primary;
        if self.devices[d].full.replace(self.now.plus_ms(FULL_RETRY_MS)).is_none() {
            let what = if primary { "requests wait for space" } else { "the peer's writes wait for space" };
            let text = format!("The backing disk is full and has the last good copy: {what}");
            self.log("disk-full", Level::Error, self.device_subject(d), text, out);
        }
        self.force(&|_, s| s.suspended.no_data |= primary, out);
    }

    /// A write of the peer that the full disk did not take is neither refused nor forgotten: it may have been told that it
    /// is received, and the peer have lost its own copy since.
    pub(super) fn keep_unwritten(&mut self, key: u32, out: &mut Vec<Command>) {
        let d = self.peer_requests[key].device;
        self.devices[d].unwritten.push(key);
        self.disk_is_full(d, out);
    }

    /// Writes again what there was no space for. True if there was something.
    fn write_for_peer_again(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        let unwritten = std::mem::take(&mut self.devices[d].unwritten);
        for &key in &unwritten {
            self.submit_peer_write(key, out);
        }
        !unwritten.is_empty()
    }

    /// The disk is given up, and with it the hope for space.
    pub(super) fn fail_unwritten(&mut self, d: usize, out: &mut Vec<Command>) {
        for key in std::mem::take(&mut self.devices[d].unwritten) {
            self.peer_disk_done(key, IoResult::Failed(0), PayloadId::NONE, out);
        }
    }

    /// Tries what waits for space: one of the front end's writes that failed, as if nothing were frozen.
    fn retry_full_disk(&mut self, d: usize, out: &mut Vec<Command>) {
        self.devices[d].full = Some(self.now.plus_ms(FULL_RETRY_MS));
        let metadata = self.write_metadata_again(d, out);
        let peers = self.write_for_peer_again(d, out);
        if metadata || peers || self.freeze.probe.is_some() {
            return;
        }
        // What was sent is carried through by the thaw only.
        let may_try = |key: &u32| {
            let request = &self.requests[*key];
            let sent = self.freeze.log.contains(key) || self.is_in_transfer_log(*key);
            request.is_write() && request.local == Local::Failed && self.has_bytes(*key) && !sent
        };
        let at = self.devices[d].held_completions.iter().position(may_try);
        let Some(at) = at.filter(|_| self.devices[d].disk.has_data()) else {
            self.devices[d].full = None;
            self.admin.state_changed = true;
            return;
        };
        if self.devices[d].generation_owed {
            if self.suspended.fencing || self.suspended.quorum {
                return;
            }
            // Out of touch what is tried is written here alone: the peer gets it by a resync.
            self.devices[d].generation_owed = false;
            self.begin_apart_at_once(d, out);
        }
        let key = self.devices[d].held_completions.remove(at);
        self.requests[key].held = false;
        self.freeze.probe = Some(key);
        self.write_anew(key, out);
    }

    /// A write that is frozen went well: if it failed for want of space, there is some now.
    pub(super) fn space_is_back(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.devices[d].full.is_none() {
            return;
        }
        // What else waits is tried at once.
        let waits = self.devices[d].waits_for_space();
        self.devices[d].full = waits.then_some(self.now);
        if waits {
            return;
        }
        let text = "The backing disk has space again";
        self.log("disk-space", Level::Info, self.device_subject(d), text, out);
        self.admin.state_changed = true;
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    /// An operation begins.
    pub(super) fn watch_disk(&mut self, d: usize) {
        if self.devices[d].disk_check_at.is_none() {
            self.devices[d].disk_check_at = self.disk_timeout_ms(d).map(|ms| self.now.plus_ms(ms));
        }
    }

    fn disk_timeout_ms(&self, d: usize) -> Option<u64> {
        let options = &self.devices[d].backing.as_deref()?.options;
        (options.disk_timeout_ds > 0).then(|| options.disk_timeout_ds * 100)
    }

    /// When disks are to be looked at.
    pub(super) fn disk_trouble_deadline(&self) -> Option<Instant> {
        let disks = self.devices.iter().flat_map(|d| [d.full, d.disk_check_at]);
        disks.chain([self.freeze_deadline()]).flatten().min()
    }

    /// Looks at the clocks of the disks.
    pub(super) fn disk_trouble_tick(&mut self, out: &mut Vec<Command>) {
        self.freeze.not_before = self.freeze.not_before.filter(|&at| at > self.now);
        let due = |at: Option<Instant>, now: Instant| at.is_some_and(|at| at <= now);
        // A disk is given up before anything is asked of it, and one at a time: what follows may ask something of another one.
        for d in 0..self.devices.len() {
            if due(self.devices[d].disk_check_at, self.now) && self.is_too_slow(d) {
                let text = "Local backing device failed to meet the disk-timeout";
                self.log("disk-timeout", Level::Error, self.device_subject(d), text, out);
                return self.give_up_disk_at_once(d, out);
            }
        }
        for d in 0..self.devices.len() {
            // A volume may have waited for that to be deleted.
            if self.devices.get(d).is_some_and(|device| due(device.full, self.now)) {
                self.retry_full_disk(d, out);
            }
        }
    }

    /// Something on this disk takes longer than disk-timeout. If not, the time comes when it will.
    fn is_too_slow(&mut self, d: usize) -> bool {
        self.devices[d].disk_check_at = None;
        let Some(timeout_ms) = self.disk_timeout_ms(d) else { return false };
        let ours = |io: &&Io| io.device == d && io.owner != IoOwner::Nobody;
        let Some(since) = self.ios.iter().map(|(_, io)| io).filter(ours).map(|io| io.since).min() else {
            return false;
        };
        let due = since.plus_ms(timeout_ms);
        if due > self.now {
            self.devices[d].disk_check_at = Some(due);
        }
        due <= self.now
    }

    /// Gives a disk up without waiting for what is under way on it: whoever waits is told that it failed.
    pub(super) fn give_up_disk_at_once(&mut self, d: usize, out: &mut Vec<Command>) {
        self.give_up_disk(d, out);
        let waiting: Vec<u32> =
            self.ios.iter().filter(|(_, io)| io.device == d).map(|(key, _)| key).collect();
        let failed = IoResult::Failed(TIMED_OUT);
        for io in waiting {
            match std::mem::replace(&mut self.ios[io].owner, IoOwner::Nobody) {
                IoOwner::Request(key) => self.request_or_read_done(key, failed, out),
                IoOwner::Peer(key) => self.peer_disk_done(key, failed, PayloadId::NONE, out),
                IoOwner::EpochFlush { session } => self.epoch_flush_done(d, session, failed, out),
                IoOwner::Job(_) | IoOwner::Nobody => {}
            }
        }
    }
}

/// What a write of the front end is on the disk.
pub(super) fn disk_op(op: UpperOp) -> DiskOp {
    match op {
        UpperOp::Discard => DiskOp::Discard,
        UpperOp::WriteZeroes { unmap } => DiskOp::WriteZeroes { unmap },
        UpperOp::Write | UpperOp::Read | UpperOp::Flush => DiskOp::Write,
    }
}
