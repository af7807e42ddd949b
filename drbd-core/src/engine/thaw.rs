//! The end of a freeze: everything that was frozen is carried through, with the peer or without it, or fails because
//! this node has given way.

use super::command::{Command, Level, UpperResult};
use super::event::{UpperOp, UpperRequest};
use super::planted::Bug;
use super::resource::Resource;
use super::write_path::conflicts::Owner;
use super::write_path::request::{Local, PeerProgress, Request};
use crate::ids::PayloadId;
use crate::states::DiskState;

impl Resource {
    /// Ends a freeze without looking at its reasons.
    pub(super) fn lift_freeze(&mut self, out: &mut Vec<Command>) {
        let owed_without_disk: Vec<usize> = (0..self.devices.len())
            .filter(|&d| self.devices[d].generation_owed && self.devices[d].backing.is_none())
            .collect();
        for d in owed_without_disk {
            self.devices[d].generation_owed = false;
            self.devices[d].exposed_uuid = self.random.uuid();
            let text = "Resumed without access to data; please tear down before attempting to re-configure.";
            self.log("resumed-without-data", Level::Warning, self.device_subject(d), text, out);
        }
        for device in &mut self.devices {
            // Metadata cannot be done without: they are tried again at once.
            device.full = device.waits_for_space().then_some(self.now);
        }
        self.force(
            &|_, s| {
                s.suspended.no_data = false;
                s.suspended.fencing = false;
            },
            out,
        );
        self.thaw(out);
    }

    /// Carries every frozen request through.
    pub(super) fn thaw(&mut self, out: &mut Vec<Command>) {
        if self.freeze.engaged {
            self.log("thaw", Level::Info, self.name.clone(), self.thaw_sentence(), out);
            self.pay_generations(out);
            let mut again = Vec::new();
            let held = self.take_held_completions();
            self.resume_log(&mut again, out);
            self.resume_held(held, &mut again, out);
            self.resume_parked(&mut again, out);
            self.queue_again(again, out);
            self.freeze.engaged = self.is_frozen();
            self.freeze.not_before = self.freeze.not_before.filter(|_| self.freeze.engaged);
        }
    }

    /// What came while nothing might start, and then the flushes: the barrier after a write is what makes a peer tell that
    /// it has lost nothing of what it had before, and without one a flush could only fail.
    pub(super) fn start_all_held(&mut self, out: &mut Vec<Command>) {
        for d in 0..self.devices.len() {
            self.start_parked(d, out);
            self.start_held(d, out);
        }
        for key in std::mem::take(&mut self.freeze.flushes) {
            self.restart_flush(key, out);
        }
    }

    fn thaw_sentence(&self) -> String {
        let (log, parked) = (self.freeze.log.len(), self.freeze.parked.len());
        let how =
            if self.is_connected_everywhere() { "sent to the peer again" } else { "done without the peer" };
        format!("Requests go on: {log} of the transfer log are {how}, {parked} that waited start")
    }

    /// Contact was lost while frozen. If it is back nothing was done without the peer; else a new generation begins
    /// now, before anything is reported.
    fn pay_generations(&mut self, out: &mut Vec<Command>) {
        if self.planted(Bug::GenerationsNotPaid) {
            return;
        }
        for d in 0..self.devices.len() {
            let owed = std::mem::take(&mut self.devices[d].generation_owed);
            let peer = self.peer_disk(d);
            let contact = self.is_replicating(d)
                && peer.has_data()
                && !matches!(peer, DiskState::Outdated | DiskState::DUnknown);
            let good = self.devices[d].disk == DiskState::UpToDate;
            if owed && !contact && good {
                self.begin_apart(d, out);
            }
        }
    }

    /// What is held, without what is in the transfer log as well.
    fn take_held_completions(&mut self) -> Vec<u32> {
        let mut log = self.freeze.log.clone();
        log.sort_unstable();
        let mut held = Vec::new();
        for device in &mut self.devices {
            held.append(&mut device.held_completions);
        }
        for &key in &held {
            self.requests[key].held = false;
        }
        held.retain(|key| log.binary_search(key).is_err());
        held
    }

    /// Writes whose completion was held.
    fn resume_held(&mut self, held: Vec<u32>, again: &mut Vec<u32>, out: &mut Vec<Command>) {
        for key in held {
            let request = self.requests[key];
            let d = request.device;
            if request.doomed {
                self.fail_now(key, out);
            } else if request.has_good_copy(self.disk_is_good(d), self.peer_disk(d)) {
                self.progress(key, out);
            } else if request.op == UpperOp::Flush {
                self.freeze.flushes.push(key);
            } else {
                self.restart_write(key, again, out);
            }
        }
    }

    fn resume_parked(&mut self, again: &mut Vec<u32>, out: &mut Vec<Command>) {
        for key in std::mem::take(&mut self.freeze.parked) {
            let Request { device: d, op, doomed, .. } = self.requests[key];
            if self.is_frozen() {
                self.freeze.parked.push(key);
            } else if doomed {
                self.fail_now(key, out);
            } else if op == UpperOp::Read {
                self.end_repair(key, out);
                self.requests[key].local = Local::None;
                self.requests[key].peer = PeerProgress::NotReplicated;
                self.start_read(key, out);
            } else if self.is_target(d) {
                again.push(key);
            } else {
                self.take_turn_again(key, out);
            }
        }
    }

    /// A resync may have asked for the blocks, and its answer would overwrite them: such writes have to pass the gate
    /// for new ones.
    fn is_target(&self, d: usize) -> bool {
        self.snapshot(Some(d)).replication.is_target()
    }

    pub(super) fn is_in_transfer_log(&self, key: u32) -> bool {
        self.connection.as_ref().is_some_and(|c| c.transfer_log.contains(&key))
    }

    /// Its place, its turn and its log extents are free.
    pub(super) fn forget_request(&mut self, key: u32, out: &mut Vec<Command>) {
        self.freeze.probe.take_if(|probe| *probe == key);
        let Request { device: d, sector, bytes, conflict, logged, .. } = self.requests.remove(key);
        if let Some(id) = conflict {
            self.leave_conflicts(d, id, out);
        }
        if logged {
            self.end_log(d, sector, bytes, out);
        }
    }

    /// Makes new requests of them, before those that came later.
    fn queue_again(&mut self, again: Vec<u32>, out: &mut Vec<Command>) {
        for key in again.into_iter().rev() {
            let request = self.requests[key];
            let Request { device: d, sector, bytes, .. } = request;
            if self.is_in_transfer_log(key) {
                // The peer still answers for the first attempt; what becomes of that concerns nobody any more.
                self.requests[key].completed = true;
                self.requests[key].payload = PayloadId::NONE;
                self.close_epoch_of(request.epoch, out);
            } else {
                self.forget_request(key, out);
            }
            let volume = self.devices[d].volume;
            let Request { tag, op, payload, fua, .. } = request;
            self.devices[d].held.push_front(UpperRequest { tag, volume, op, sector, bytes, payload, fua });
        }
    }

    /// Nothing more is done for it; what is on the disk already is waited for.
    pub(super) fn fail_now(&mut self, key: u32, out: &mut Vec<Command>) {
        if self.requests[key].op == UpperOp::Read {
            self.end_repair(key, out);
            return self.finish_read(key, UpperResult::IoError, PayloadId::NONE, out);
        }
        // What was sent in this session the peer still answers for.
        let answered_for = self.is_in_transfer_log(key);
        self.requests[key].submitted = true;
        if !answered_for && self.is_unmarked_difference(key) && self.can_resend(key) {
            self.send_write(key, out);
            return self.progress(key, out);
        }
        let request = &mut self.requests[key];
        if request.peer != PeerProgress::NotReplicated && !answered_for {
            request.peer = PeerProgress::Lost;
        }
        if self.requests[key].is_write() {
            self.mark_request(key);
        }
        self.progress(key, out);
    }

    /// The own disk may have it and the peer not. Failed upward or not, two copies of one generation have to be the same:
    /// the peer gets it after all, and the demotion waits for the barrier after it.
    fn is_unmarked_difference(&self, key: u32) -> bool {
        let request = &self.requests[key];
        request.is_write() && request.has_local_part() && self.lacks_mark(key)
    }

    fn restart_flush(&mut self, key: u32, out: &mut Vec<Command>) {
        self.requests[key].peer = PeerProgress::NotReplicated;
        if self.requests[key].local == Local::Pending {
            self.flush_peer(key, out);
        } else {
            self.requests[key].local = Local::None;
            self.start_flush(key, out);
        }
    }

    /// Does again what is not known to be done.
    pub(super) fn restart_write(&mut self, key: u32, again: &mut Vec<u32>, out: &mut Vec<Command>) {
        let Request { device: d, op, sector, bytes, local, peer, conflict, .. } = self.requests[key];
        let first_attempt_under_way = self.is_in_transfer_log(key);
        if (self.is_target(d) || first_attempt_under_way) && local != Local::Pending && self.has_bytes(key) {
            return again.push(key);
        }
        // A second Primary's write may have its turn: this one waits for another one of its own.
        let in_turn = conflict.is_some() || !self.two_primaries_allowed();
        let usable = self.devices[d].usable().is_some();
        // Larger than what this peer takes: it goes the way of new ones, back to the front end.
        let too_large = self.mirrors(d) && !self.limits_of(d).fits(op, bytes);
        let anew = match local {
            Local::None | Local::Failed => usable || too_large,
            // A disk that is not good, or goes as such: a copy there is none.
            Local::Done if peer == PeerProgress::Lost && !self.disk_is_good(d) => true,
            Local::Done => usable && !in_turn,
            Local::Pending => false,
        };
        if anew && self.has_bytes(key) {
            return self.write_anew(key, out);
        }
        if local == Local::Done && peer == PeerProgress::Lost {
            // The resync takes it along, and by now maybe what was written over it: sent again it would undo that.
            return self.progress(key, out);
        }
        if self.can_resend(key) {
            self.send_write(key, out);
        } else if peer != PeerProgress::NotReplicated && !first_attempt_under_way {
            if self.lacks_mark(key) {
                self.mark_unmirrored(d, sector, bytes, out);
            }
            self.requests[key].peer = PeerProgress::Lost;
        }
        self.progress(key, out);
    }

    pub(super) fn write_anew(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = &mut self.requests[key];
        request.local = Local::None;
        request.peer = PeerProgress::NotReplicated;
        request.submitted = false;
        if self.planted(Bug::ProbeWithoutTurn) && self.freeze.probe == Some(key) {
            return self.submit_in_turn(key, out);
        }
        self.take_turn_again(key, out);
    }

    fn take_turn_again(&mut self, key: u32, out: &mut Vec<Command>) {
        let Request { device: d, sector, bytes, conflict, logged, .. } = self.requests[key];
        let owner = Owner::Request(key);
        if conflict.is_none() {
            let (id, free) = self.devices[d].conflicts.enter(sector, bytes, true, owner);
            self.requests[key].conflict = Some(id);
            if !free {
                // The one it waits for may be waiting for room in the log itself: first the turn, then the extents.
                if std::mem::take(&mut self.requests[key].logged) {
                    self.end_log(d, sector, bytes, out);
                }
                return;
            }
        }
        if logged {
            self.submit_in_turn(key, out);
        } else {
            self.enter_log(d, owner, sector, bytes, out);
        }
    }

    /// The peer went on without this frozen Primary (on-suspended-primary-outdated force-secondary): nothing of what is
    /// frozen was reported, and nothing of it will be done.
    pub(super) fn give_way(&mut self, out: &mut Vec<Command>) {
        let text = "The peer has newer data: this frozen Primary becomes Secondary, its requests fail";
        self.log("outdated-primary", Level::Warning, self.name.clone(), text, out);
        for device in &mut self.devices {
            device.generation_owed = false;
        }
        self.force_io_failures = self.devices.iter().any(|d| d.open_count > 0);
        self.demote_unasked(out);
    }

    /// Ends a freeze so that everything frozen fails.
    pub(super) fn fail_frozen(&mut self, out: &mut Vec<Command>) {
        if self.freeze.engaged {
            for request in self.requests.values_mut().filter(|r| !r.completed) {
                request.doomed = true;
            }
            self.lift_freeze(out);
        }
    }
}
