//! The transfer log of a session that was lost while requests are frozen: kept, then sent again, or made part of a resync
//! where sending it again would not do.

use super::command::Command;
use super::event::UpperOp;
use super::generation::ROLE_BIT;
use super::planted::Bug;
use super::resource::Resource;
use super::write_path::request::{PeerProgress, Request};
use crate::ids::PayloadId;
use crate::states::DiskState;
use std::collections::BTreeSet;

/// How many acknowledged writes are compared for overlaps before a resync is the simpler way.
const COMPARED_MAX: usize = 1024;

/// Writes that later ones cover.
#[derive(Default)]
struct Covered {
    wholly: BTreeSet<u32>,
    partly: BTreeSet<u32>,
}

impl Resource {
    /// The connection is lost while requests are frozen: everything the peer may lack is kept.
    pub(super) fn freeze_transfer_log(&mut self, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_mut() else { return };
        let log = std::mem::take(&mut connection.transfer_log);
        let flushes = std::mem::take(&mut connection.flush_waiters);
        let reads = std::mem::take(&mut connection.remote_reads);
        for key in log.into_iter().chain(flushes) {
            let request = &mut self.requests[key];
            if request.peer == PeerProgress::Sent {
                request.peer = PeerProgress::Frozen;
            }
            self.freeze.log.push(key);
        }
        for key in reads {
            self.end_repair(key, out);
            self.freeze.parked.push(key);
        }
    }

    /// A session ends. What is frozen from an earlier one was sent to the data that the peer had then.
    pub(super) fn note_generations_at_freeze(&mut self) {
        for d in 0..self.devices.len() {
            if self.has_frozen_writes(d) {
                continue;
            }
            let Some(connection) = self.connection.as_deref_mut() else { return };
            let peer_device = &mut connection.peer_devices[d];
            peer_device.generation_at_freeze = peer_device.uuids.map(|told| told.current & !ROLE_BIT);
        }
    }

    /// Nobody else wrote to the peer's data since it was sent what is frozen: sent again that undoes nothing.
    pub(super) fn is_peer_as_at_freeze(&self, d: usize, current: u64) -> bool {
        let own = self.devices[d].backing.as_deref().map(|b| b.super_block.current_uuid & !ROLE_BIT);
        let then = self.connection.as_deref().and_then(|c| c.peer_devices[d].generation_at_freeze);
        let current = Some(current & !ROLE_BIT);
        current == own || current == then
    }

    /// Before this node tells its generations: if the log cannot be sent again, the peer has to take the difference by
    /// a resync, and a new generation is what makes it.
    pub(super) fn prepare_frozen_log(&mut self, out: &mut Vec<Command>) {
        let postponed = self.devices.iter().any(|d| !d.postponed.is_empty());
        if self.freeze.log.is_empty() && !(postponed && self.is_frozen()) {
            return;
        }
        // A second Primary may have overwritten what is in the log.
        let shared = self.two_primaries_allowed();
        let tangled = shared
            || (0..self.devices.len()).any(|d| self.is_log_outrun(d))
            || self.covered(&self.freeze.log).is_none_or(|covered| {
                let has_disk = |key: &u32| self.devices[self.requests[*key].device].backing.is_some();
                covered.partly.iter().any(has_disk)
            });
        let incomplete = self.freeze.log.iter().any(|&key| {
            let request = &self.requests[key];
            request.is_write() && request.peer != PeerProgress::Failed && !self.has_bytes(key)
        });
        if !tangled && !incomplete {
            return;
        }
        for d in 0..self.devices.len() {
            if self.devices[d].disk == DiskState::UpToDate {
                self.devices[d].generation_owed = false;
                self.begin_apart_at_once(d, out);
                self.mark_frozen_log(d, false, out);
            }
        }
    }

    /// A resync is decided: what is frozen becomes part of it, before the bitmap is told. As its target this node keeps
    /// what was reported, to be sent again: the peer's copy may be older, if its power failed. Not so if others wrote there
    /// since: `keep_reported` is false then.
    pub(super) fn mark_frozen_log(&mut self, d: usize, keep_reported: bool, out: &mut Vec<Command>) {
        let log = std::mem::take(&mut self.freeze.log);
        let (ours, others): (Vec<u32>, Vec<u32>) = log.into_iter().partition(|&key| {
            let request = &self.requests[key];
            request.device == d && request.is_write() && !(keep_reported && request.completed)
        });
        self.freeze.log = others;
        for &key in &ours {
            self.mark_request(key);
        }
        for key in ours {
            if self.requests[key].completed {
                self.give_up_at_peer(key, out);
            } else {
                // Marked, and maybe copied before it goes on.
                self.requests[key].peer = PeerProgress::Lost;
                self.freeze.log.push(key);
            }
        }
    }

    /// This node is the target of a resync: what it had reported goes to the source before any block is asked for.
    pub(super) fn resend_reported(&mut self, d: usize, out: &mut Vec<Command>) {
        let log = std::mem::take(&mut self.freeze.log);
        let covered = self.covered(&log).unwrap_or_default();
        let (ours, others): (Vec<u32>, Vec<u32>) = log.into_iter().partition(|&key| {
            let request = &self.requests[key];
            request.device == d && request.is_write() && request.completed
        });
        self.freeze.log = others;
        let mut epoch = None;
        for &key in &ours {
            let written_in = self.requests[key].epoch;
            if epoch.replace(written_in).is_some_and(|e| e != written_in) {
                self.close_current_epoch();
            }
            self.resume_reported(key, &covered, out);
        }
        if !ours.is_empty() {
            self.close_current_epoch();
            self.send_owed_barrier(out);
        }
    }

    /// A write reported before the freeze of which the peer may have nothing.
    fn resume_reported(&mut self, key: u32, covered: &Covered, out: &mut Vec<Command>) {
        if covered.wholly.contains(&key) {
            self.requests[key].in_sync = false;
            self.requests[key].peer = PeerProgress::Stable;
            return self.progress(key, out);
        }
        // Sent again it would for a moment undo a later one on the peer. Without a disk here no resync helps; what the
        // peer acknowledged it has, unless its power failed.
        let undoes = covered.partly.contains(&key)
            || self.is_log_outrun(self.requests[key].device)
            || self.two_primaries_allowed();
        if undoes || !self.can_resend(key) {
            return self.give_up_at_peer(key, out);
        }
        self.send_write(key, out);
    }

    /// Writes of a volume wait to be sent again.
    pub(super) fn has_frozen_writes(&self, d: usize) -> bool {
        self.freeze.log.iter().any(|&key| self.requests[key].device == d && self.requests[key].is_write())
    }

    /// Which of the writes already reported were overwritten by later ones of them; `None`: it is too many to say.
    fn covered(&self, log: &[u32]) -> Option<Covered> {
        let reported: Vec<u32> = log
            .iter()
            .copied()
            .filter(|&key| self.requests[key].completed && self.requests[key].is_write())
            .collect();
        if reported.len() > COMPARED_MAX {
            return None;
        }
        let mut covered = Covered::default();
        for (at, &key) in reported.iter().enumerate() {
            let one = self.requests[key];
            let end = one.sector.end_of(one.bytes);
            let later = reported[at + 1..].iter().map(|&k| self.requests[k]);
            let mut over = later
                .filter(|o| o.device == one.device && o.sector < end && one.sector < o.sector.end_of(o.bytes))
                .peekable();
            if over.peek().is_none() {
                continue;
            }
            if over.any(|o| o.sector <= one.sector && end <= o.sector.end_of(o.bytes)) {
                covered.wholly.insert(key);
            } else {
                covered.partly.insert(key);
            }
        }
        Some(covered)
    }

    /// The thaw: what the peer may lack is sent again, or marked.
    pub(super) fn resume_log(&mut self, again: &mut Vec<u32>, out: &mut Vec<Command>) {
        let log = std::mem::take(&mut self.freeze.log);
        let covered = self.covered(&log).unwrap_or_default();
        for &key in &log {
            let marks = !self.planted(Bug::ThawWithoutMarks);
            if marks && self.requests[key].is_write() && !self.can_resend(key) && self.lacks_mark(key) {
                self.mark_request(key);
            }
        }
        let (mut epoch, mut resent) = (None, false);
        for key in log {
            if self.is_frozen() {
                self.freeze.log.push(key);
                continue;
            }
            let request = self.requests[key];
            if epoch.replace(request.epoch).is_some_and(|e| e != request.epoch) {
                self.close_current_epoch();
            }
            resent |= request.is_write();
            match request.op {
                _ if request.doomed => self.fail_now(key, out),
                UpperOp::Flush => self.freeze.flushes.push(key),
                _ if !request.completed => self.restart_write(key, again, out),
                _ => self.resume_reported(key, &covered, out),
            }
        }
        if resent {
            self.close_current_epoch();
            self.send_owed_barrier(out);
        }
        if let Some(connection) = self.connection.as_mut().filter(|_| self.freeze.log.is_empty()) {
            connection.forget_outrun_log();
        }
    }

    /// A write is not sent, as the peer cannot take it. A resync may bring it there while what was sent before is still in
    /// the transfer log: the log no longer has the last word on what the peer holds.
    pub(super) fn outrun_transfer_log(&mut self, d: usize) {
        if let Some(connection) = self.connection.as_mut() {
            connection.peer_devices[d].log_outrun |= !connection.transfer_log.is_empty();
        }
    }

    fn is_log_outrun(&self, d: usize) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.peer_devices[d].log_outrun)
    }

    fn close_current_epoch(&mut self) {
        if self.planted(Bug::ThawedEpochsOpen) {
            return;
        }
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.sent_epochs.closed |= session.sent_epochs.writes > 0;
        }
    }

    fn give_up_at_peer(&mut self, key: u32, out: &mut Vec<Command>) {
        if self.planted(Bug::ThawWithoutMarks) {
            self.requests[key].peer = PeerProgress::Lost;
            return self.progress(key, out);
        }
        self.lost_at_peer(key);
        self.progress(key, out);
    }

    /// The peer may not have it, and it was not marked when that was learned: a resync may have copied it since.
    pub(super) fn lacks_mark(&self, key: u32) -> bool {
        match self.requests[key].peer {
            PeerProgress::Sent
            | PeerProgress::Acknowledged
            | PeerProgress::Frozen
            | PeerProgress::Postponed => true,
            PeerProgress::NotReplicated
            | PeerProgress::Failed
            | PeerProgress::Lost
            | PeerProgress::Stable => false,
        }
    }

    /// Frozen writes were called done that the peer may lack, and their bytes were not kept.
    pub(super) fn frozen_log_is_only_here(&self, d: usize) -> bool {
        self.freeze.log.iter().any(|&key| {
            let Request { device, completed, .. } = self.requests[key];
            device == d && completed && self.lacks_mark(key) && !self.has_bytes(key)
        })
    }

    pub(super) fn has_bytes(&self, key: u32) -> bool {
        let request = &self.requests[key];
        request.op != UpperOp::Write || request.payload != PayloadId::NONE
    }

    /// The peer can be sent it, for the first time or again.
    pub(super) fn can_resend(&self, key: u32) -> bool {
        let Request { device: d, op, bytes, .. } = self.requests[key];
        self.has_bytes(key) && self.mirrors(d) && self.limits_of(d).fits(op, bytes)
    }
}
