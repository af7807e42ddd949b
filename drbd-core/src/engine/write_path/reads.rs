//! Reads of the front end: from the own disk where that is good, else from the peer, and from one when the other failed.

use super::request::{Local, PeerProgress, Request};
use crate::engine::command::{Command, DiskOp, UpperResult};
use crate::engine::disk_trouble::Trouble;
use crate::engine::event::UpperOp;
use crate::engine::planted::Bug;
use crate::engine::resource::{IoOwner, Resource};
use crate::ids::{PayloadId, Sector};
use crate::states::DiskState;

impl Resource {
    /// Where both nodes have good data, the one that read-balancing names is asked first.
    pub(super) fn start_balanced_read(&mut self, key: u32, out: &mut Vec<Command>) {
        let Request { device: d, sector, bytes, .. } = self.requests[key];
        let at_once = self.limits_of(d).fits(UpperOp::Read, bytes);
        if at_once && self.reads_from_peer(d, sector) {
            self.requests[key].peer = PeerProgress::Sent;
            self.send_read(key, out);
        } else {
            self.start_read(key, out);
        }
    }

    pub(in crate::engine) fn start_read(&mut self, key: u32, out: &mut Vec<Command>) {
        let Request { device: d, sector, bytes, payload, local, .. } = self.requests[key];
        // A disk that stays in spite of an error (pass_on) would fail again.
        if local != Local::Failed && self.locally_readable(d, sector, bytes) {
            self.requests[key].local = Local::Pending;
            self.disk_io(d, IoOwner::Request(key), DiskOp::Read, (sector, bytes), payload, false, out);
        } else if self.is_replicating(d)
            && (self.peer_disk(d) == DiskState::UpToDate || self.planted(Bug::ReadFromAnyPeer))
        {
            if !self.limits_of(d).fits(UpperOp::Read, bytes) {
                return self.finish_read(key, UpperResult::Split, PayloadId::NONE, out);
            }
            self.requests[key].peer = PeerProgress::Sent;
            self.send_read(key, out);
        } else {
            self.fail_read(key, out);
        }
    }

    /// Nobody within reach can answer: an error, unless requests are frozen until somebody can.
    pub(in crate::engine) fn fail_read(&mut self, key: u32, out: &mut Vec<Command>) {
        self.freeze_rather_than_fail(key, out);
        if self.is_frozen() {
            self.freeze.parked.push(key);
        } else {
            self.finish_read(key, UpperResult::IoError, PayloadId::NONE, out);
        }
    }

    pub(in crate::engine) fn locally_readable(&mut self, d: usize, sector: Sector, bytes: u32) -> bool {
        let slot = self.peer_slot(d);
        let disk = self.devices[d].disk;
        let Some(backing) = self.devices[d].usable() else { return false };
        match disk {
            DiskState::UpToDate => true,
            DiskState::Inconsistent => {
                backing.old_blocks_known
                    && slot.is_some_and(|s| !backing.bitmap.any_out_of_sync(s, sector, bytes))
            }
            _ => false,
        }
    }

    /// A read is answered; `payload` holds the bytes if it went well and they are not in the request's own buffer.
    pub(in crate::engine) fn finish_read(
        &mut self,
        key: u32,
        result: UpperResult,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) {
        let request = self.requests.remove(key);
        self.devices[request.device].counters.upper_pending -= 1;
        let bytes = match (result, payload) {
            (UpperResult::Done, PayloadId::NONE) | (UpperResult::Split, _) => request.payload,
            (UpperResult::Done, other) => {
                Resource::release(request.payload, out);
                other
            }
            _ => {
                Resource::release(request.payload, out);
                PayloadId::NONE
            }
        };
        self.tries_no_more(request.tag);
        out.push(Command::Complete { tag: request.tag, result, payload: bytes });
        if self.devices[request.device].has_held() {
            self.start_held(request.device, out);
        }
    }

    /// The local disk could not be read: the peer may have it.
    pub(super) fn read_failed(&mut self, key: u32, errno: i32, out: &mut Vec<Command>) {
        if self.planted(Bug::FailedReadAnswered) {
            return self.finish_read(key, UpperResult::Done, PayloadId::NONE, out);
        }
        let d = self.requests[key].device;
        self.requests[key].local = Local::Failed;
        self.local_io_error(d, Trouble::Read, errno, out);
        if self.can_repair(d) {
            self.begin_repair(key, out);
        } else {
            self.start_read_elsewhere(key, out);
        }
    }

    /// Tries a read again after one way of it failed.
    pub(in crate::engine) fn start_read_elsewhere(&mut self, key: u32, out: &mut Vec<Command>) {
        self.requests[key].peer = PeerProgress::NotReplicated;
        self.start_read(key, out);
    }
}
