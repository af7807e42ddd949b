//! A block the own disk failed to read, under on-io-error pass_on: the peer answers, and what it answered is written
//! over the block, which lets a disk replace a bad sector. While that goes on the read holds its turn like a write, so
//! that nothing newer is overwritten.
//!
//! The disk stays what it is, unlike in 8.4, which calls it Inconsistent: a block that cannot be read is no older than it
//! was, and what else is on the disk may be the only copy of something.

use super::command::{Command, DiskOp, Level, UpperResult};
use super::event::{IoResult, UpperOp};
use super::resource::{IoOwner, Resource};
use super::write_path::conflicts::Owner;
use super::write_path::request::{Local, PeerProgress, Request};
use crate::ids::PayloadId;
use crate::states::DiskState;

impl Resource {
    /// The disk stays in spite of the error, and the peer can tell what the block should hold.
    pub(super) fn can_repair(&mut self, d: usize) -> bool {
        // Of two Primaries each could wait for the other's turn.
        if self.two_primaries_allowed() {
            return false;
        }
        let backing = self.devices[d].usable().filter(|b| b.options.on_io_error == "pass_on");
        backing.is_some() && self.peer_has_good_data(d)
    }

    /// The peer has good data, and can be asked.
    pub(super) fn peer_has_good_data(&self, d: usize) -> bool {
        self.is_replicating(d) && self.peer_disk(d) == DiskState::UpToDate
    }

    pub(super) fn begin_repair(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = &mut self.requests[key];
        request.repairs = true;
        let (d, sector, bytes) = (request.device, request.sector, request.bytes);
        let owner = Owner::Request(key);
        let (id, free) = self.devices[d].conflicts.enter(sector, bytes, true, owner);
        self.requests[key].conflict = Some(id);
        if free {
            self.enter_log(d, owner, sector, bytes, out);
        }
    }

    /// Its turn has come.
    pub(super) fn read_for_repair(&mut self, key: u32, out: &mut Vec<Command>) {
        let Request { device: d, bytes, .. } = self.requests[key];
        if self.can_repair(d) && self.limits_of(d).fits(UpperOp::Read, bytes) {
            self.requests[key].peer = PeerProgress::Sent;
            self.send_read(key, out);
        } else {
            self.end_repair(key, out);
            self.start_read_elsewhere(key, out);
        }
    }

    /// The peer's answer is there.
    pub(super) fn repair(&mut self, key: u32, payload: PayloadId, out: &mut Vec<Command>) {
        let request = &mut self.requests[key];
        let (d, sector, bytes) = (request.device, request.sector, request.bytes);
        if self.devices[d].usable().is_none() {
            self.end_repair(key, out);
            return self.finish_read(key, UpperResult::Done, payload, out);
        }
        self.requests[key].answer = payload;
        self.requests[key].local = Local::Pending;
        self.disk_io(d, IoOwner::Request(key), DiskOp::Write, (sector, bytes), payload, false, out);
    }

    /// The block is written, or cannot be.
    pub(super) fn repaired(&mut self, key: u32, result: IoResult, out: &mut Vec<Command>) {
        let request = &mut self.requests[key];
        let payload = std::mem::replace(&mut request.answer, PayloadId::NONE);
        let (d, sector, bytes) = (request.device, request.sector, request.bytes);
        match result {
            IoResult::Done => {
                let text =
                    format!("{bytes} bytes at sector {sector} were read from the peer and written again");
                self.log("repaired", Level::Info, self.device_subject(d), text, out);
            }
            IoResult::Failed(errno) => {
                self.local_io_error(d, super::disk_trouble::Trouble::Write, errno, out);
            }
        }
        self.end_repair(key, out);
        self.finish_read(key, UpperResult::Done, payload, out);
    }

    /// The read is an ordinary one again.
    pub(super) fn end_repair(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = &mut self.requests[key];
        if !std::mem::take(&mut request.repairs) {
            return;
        }
        let (d, sector, bytes) = (request.device, request.sector, request.bytes);
        let conflict = request.conflict.take();
        let logged = std::mem::take(&mut request.logged);
        if let Some(id) = conflict {
            self.leave_conflicts(d, id, out);
        }
        if logged {
            self.end_log(d, sector, bytes, out);
        }
    }
}
