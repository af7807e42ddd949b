//! Operations on their way through the activity log: whose turn it is, and whose extents are hot.

use super::conflicts::{ConflictId, Owner};
use super::peer_request::InBitmap;
use super::request::Request;
use crate::engine::activity_log::Begin;
use crate::engine::command::Command;
use crate::engine::device::{extents, LogWaiter};
use crate::engine::planted::Bug;
use crate::engine::resource::Resource;
use crate::ids::Sector;
use crate::states::{DiskState, Role};

impl Resource {
    /// An operation has its turn: its extents must be hot before it writes.
    pub(in crate::engine) fn enter_log(
        &mut self,
        d: usize,
        owner: Owner,
        sector: Sector,
        bytes: u32,
        out: &mut Vec<Command>,
    ) {
        let planted = self.planted(Bug::WriteBeforeTransaction);
        if self.devices[d].disk == DiskState::Negotiating && matches!(owner, Owner::Request(_)) {
            // The peer takes the disk for one that is written, and it is not.
            self.devices[d].parked.push(owner);
            return;
        }
        if self.needs_no_log(d, owner) {
            self.submit_owner(owner, false, out);
            return;
        }
        let device = &mut self.devices[d];
        let starving = device.log_moves() || device.log_waiters.iter().any(|w| w.after.is_none());
        let Some(backing) = device.usable().filter(|b| b.options.al_updates && !b.log_suspended) else {
            self.submit_owner(owner, false, out);
            return;
        };
        let begun = if starving { Begin::Full } else { backing.log.begin(extents(sector, bytes)) };
        match begun {
            Begin::Hot | Begin::After(_) if planted => self.submit_owner(owner, true, out),
            Begin::Hot if backing.primary_stable => self.submit_owner(owner, true, out),
            Begin::Hot => device.log_waiters.push_back(LogWaiter { owner, after: Some(0) }),
            Begin::After(n) => device.log_waiters.push_back(LogWaiter { owner, after: Some(n) }),
            Begin::Full => device.log_waiters.push_back(LogWaiter { owner, after: None }),
        }
        if begun == Begin::Full && !starving {
            // Slots come free when the peer acknowledges barriers.
            self.send_owed_barrier(out);
            self.urge_peer(out);
        }
        self.write_log(d, out);
    }

    /// A write of a Primary without disk that comes to its turn when that Primary has a disk again, or is gone, and its
    /// bits are kept.
    fn needs_no_log(&self, d: usize, owner: Owner) -> bool {
        let device = &self.devices[d];
        let in_bitmap = match owner {
            Owner::Peer(key) => self.peer_requests[key].in_bitmap,
            Owner::Request(_) => InBitmap::No,
        };
        let kept = match in_bitmap {
            InBitmap::No => device.generation_due.is_none(),
            InBitmap::Writing => false,
            InBitmap::Kept => true,
        };
        let logged = device.backing.as_ref().is_some_and(|b| b.logged_for_peer);
        self.role != Role::Primary && !self.admin.is_demoting() && kept && !logged
    }

    /// Lets every waiter go whose extents are hot, and tries again for those that found no room.
    pub(in crate::engine) fn wake_log_waiters(&mut self, d: usize, out: &mut Vec<Command>) {
        let (mut at, mut full) = (0, false);
        while at < self.devices[d].log_waiters.len() {
            let LogWaiter { owner, after } = self.devices[d].log_waiters[at];
            let needless = self.needs_no_log(d, owner);
            let (sector, bytes) = self.owner_extent(owner);
            let device = &mut self.devices[d];
            full |= device.log_moves();
            let Some(backing) = device.usable() else {
                // The disk went: the reference went with it.
                device.log_waiters.remove(at);
                self.submit_owner(owner, false, out);
                continue;
            };
            let after = match after {
                Some(n) => Some(n),
                None if full || needless => None,
                None => match backing.log.begin(extents(sector, bytes)) {
                    Begin::Hot => Some(0),
                    Begin::After(n) => Some(n),
                    Begin::Full => None,
                },
            };
            match after {
                Some(n) if n <= backing.log.done() && (backing.primary_stable || needless) => {
                    device.log_waiters.remove(at);
                    self.submit_owner(owner, true, out);
                }
                Some(_) => {
                    device.log_waiters[at].after = after;
                    at += 1;
                }
                None if needless => {
                    device.log_waiters.remove(at);
                    self.submit_owner(owner, false, out);
                }
                None if self.role == Role::Primary => break,
                None => {
                    (at, full) = (at + 1, true);
                }
            }
        }
        self.write_log(d, out);
    }

    /// Writes whose turn came while the disk was being negotiated go on.
    pub(in crate::engine) fn start_parked(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.devices[d].parked.is_empty() || !self.accepts_upper(d) {
            return;
        }
        for owner in std::mem::take(&mut self.devices[d].parked) {
            let (sector, bytes) = self.owner_extent(owner);
            self.enter_log(d, owner, sector, bytes, out);
        }
    }

    fn owner_extent(&self, owner: Owner) -> (Sector, u32) {
        match owner {
            Owner::Request(key) => (self.requests[key].sector, self.requests[key].bytes),
            Owner::Peer(key) => (self.peer_requests[key].sector, self.peer_requests[key].bytes),
        }
    }

    fn submit_owner(&mut self, owner: Owner, logged: bool, out: &mut Vec<Command>) {
        match owner {
            Owner::Request(key) => {
                self.requests[key].logged = logged;
                self.submit_in_turn(key, out);
            }
            Owner::Peer(key) => {
                self.peer_requests[key].logged = logged;
                self.submit_peer_write(key, out);
            }
        }
    }

    /// Operations whose turn has come.
    pub(in crate::engine) fn start_ready(&mut self, d: usize, out: &mut Vec<Command>) {
        while let Some(owner) = self.ready.pop() {
            match owner {
                Owner::Request(key) if self.requests[key].logged => self.submit_in_turn(key, out),
                Owner::Request(key) => {
                    let Request { sector, bytes, .. } = self.requests[key];
                    self.enter_log(d, owner, sector, bytes, out);
                }
                Owner::Peer(key) => self.peer_request_ready(key, out),
            }
        }
    }

    pub(in crate::engine) fn leave_conflicts(&mut self, d: usize, id: ConflictId, out: &mut Vec<Command>) {
        let mut ready = std::mem::take(&mut self.ready);
        self.devices[d].conflicts.leave(id, &mut ready);
        ready.reverse();
        self.ready = ready;
        self.start_ready(d, out);
    }

    /// Drops the references to log extents.
    pub(in crate::engine) fn end_log(
        &mut self,
        d: usize,
        sector: Sector,
        bytes: u32,
        out: &mut Vec<Command>,
    ) {
        if let Some(backing) = self.devices[d].backing.as_deref_mut() {
            backing.log.end(extents(sector, bytes));
        }
        if self.devices[d].log_waiters.iter().any(|w| w.after.is_none()) {
            self.wake_log_waiters(d, out);
        }
    }
}
