//! Marking blocks that one side may lack, at the moment this is learned.

use super::request::Request;
use crate::engine::command::Command;
use crate::engine::planted::Bug;
use crate::engine::resource::Resource;
use crate::ids::Sector;
use crate::states::ReplicationState;

impl Resource {
    /// A write that the peer will not see: its blocks differ from now on.
    pub(in crate::engine) fn mark_unmirrored(
        &mut self,
        d: usize,
        sector: Sector,
        bytes: u32,
        out: &mut Vec<Command>,
    ) {
        let ahead = |r: &Resource| r.snapshot(Some(d)).replication == ReplicationState::Ahead;
        if self.planted(Bug::AheadMarksNothing) && ahead(self) {
            return;
        }
        let Some(slot) = self.peer_slot(d) else { return };
        let Some(backing) = self.devices[d].usable() else { return };
        let newly = backing.bitmap.set_out_of_sync(slot, sector, bytes);
        if newly > 0 {
            self.tell_out_of_sync(d, sector, bytes, out);
        }
    }

    /// Writes under way on a node about to tell its bitmap: those that wait for their turn may not be mirrored when it
    /// comes, and the peer may yet refuse those that were sent. Told now, they need not be told later, which a peer below
    /// protocol 96 cannot be.
    pub(in crate::engine) fn mark_writes_under_way(&mut self, d: usize) {
        let ours = |r: &Request| r.device == d && r.is_write();
        let keys: Vec<u32> = self.requests.iter().filter(|(_, r)| ours(r)).map(|(key, _)| key).collect();
        for key in keys {
            self.mark_request(key);
        }
    }

    /// What a peer without disk sent before this disk was given up, and waits for its turn: written to it now that it is
    /// back, it will be on no other, and the bitmap it comes back with does not name it.
    pub(in crate::engine) fn mark_writes_of_diskless_peer(&mut self, d: usize) {
        let alone = self.peer_requests.iter().filter(|(_, r)| r.device == d && r.alone);
        let blocks: Vec<(Sector, u32)> = alone.map(|(_, r)| (r.sector, r.bytes)).collect();
        for (sector, bytes) in blocks {
            self.mark_blocks(d, sector, bytes);
        }
    }

    /// Marks the blocks of a write that one side may lack: at the moment this is learned and never later, for a resync may
    /// have copied them since.
    pub(in crate::engine) fn mark_request(&mut self, key: u32) {
        let Request { device: d, sector, bytes, .. } = self.requests[key];
        if !self.requests[key].is_write() {
            return;
        }
        self.mark_blocks(d, sector, bytes);
    }

    /// Marks blocks that differ, or may.
    pub(in crate::engine) fn mark_blocks(&mut self, d: usize, sector: Sector, bytes: u32) {
        if let (Some(slot), Some(backing)) = (self.peer_slot(d), self.devices[d].backing.as_deref_mut()) {
            backing.bitmap.set_out_of_sync(slot, sector, bytes);
        }
    }
}
