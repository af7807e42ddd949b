//! Copying what a device has grown by. Both nodes have marked it; one is the source, and no bitmaps are exchanged.

use super::Plan;
use crate::engine::command::{Command, Level};
use crate::engine::resource::Resource;
use crate::engine::state_change::Snapshot;
use crate::states::{DiskState, ReplicationState, Role};
use crate::wire::Sizes;

impl Resource {
    fn leads(&self, role: Role, peer_role: Role) -> bool {
        if role == peer_role {
            self.decides()
        } else {
            role == Role::Primary
        }
    }

    /// Who is copied from: the Primary, or who decides conflicts.
    pub(super) fn is_source_of_new_area(&self, d: usize) -> bool {
        let now = self.snapshot(Some(d));
        self.leads(now.role, now.peer_role)
            && now.is_replicating()
            && now.disk == DiskState::UpToDate
            && now.peer_disk.has_data()
    }

    /// Two disks meet: one of the nodes has grown without the other, or both do so now.
    pub(super) fn look_for_new_area(&mut self, d: usize, plan: &Plan, sizes: &Sizes) {
        let told = self.connection.as_ref().map_or(0, |c| c.peer_devices[d].told_size.0);
        let known = told != 0 && sizes.current != 0;
        self.devices[d].new_area_due |= known && plan.size.0 > told.min(sizes.current);
    }

    /// Two nodes met whose generations ask for no resync, but one of them has grown alone, or both have and parted before
    /// the new part was copied, or one was interrupted. Who leads begins an ordinary resync, which the other finds by its
    /// generations: a peer that is a kernel's would not know that a resync without exchange of bitmaps is due.
    pub(in crate::engine) fn new_area_after_handshake(&mut self, d: usize, peer_role: Role) -> bool {
        let due = std::mem::take(&mut self.devices[d].new_area_due);
        // Of the same generation it counts as UpToDate once they are connected.
        let device = &self.devices[d];
        let disk = match (device.disk, device.backing.as_deref()) {
            (DiskState::Negotiating, Some(backing)) => backing.at_attach.0,
            (disk, _) => disk,
        };
        let good = disk.rank() >= DiskState::Outdated.rank();
        // The same one in every session: what the other was to do it has forgotten by now.
        let leads = match (self.role, peer_role) {
            (own, peer) if own == peer => self.connection.as_deref().is_some_and(|c| self.node_id < c.peer),
            (own, _) => own == Role::Primary,
        };
        // What is marked may be marked at the peer only: nothing is, here, after --assume-clean.
        (due || self.everything_is_marked(d)) && good && leads
    }

    /// Here or at the peer: the power failed while metadata was written over itself, and what its bits said is lost.
    fn everything_is_marked(&self, d: usize) -> bool {
        let all = self.devices[d].backing.as_deref().map_or(0, |b| b.bitmap.bits());
        let told = self.connection.as_deref().and_then(|c| c.peer_devices[d].uuids);
        all > 0 && self.out_of_sync_bits(d).max(told.map_or(0, |uuids| uuids.bits)) >= all
    }

    /// Begins the copy of a new part if it is due and nothing else is going on.
    pub(super) fn begin_due_copy(&mut self, d: usize, out: &mut Vec<Command>) {
        if !self.devices[d].new_area_due || self.devices[d].resize.is_some() {
            return;
        }
        let now = self.snapshot(Some(d));
        let resting = now.replication == ReplicationState::Established;
        if !resting || !now.disk.has_data() || !now.peer_disk.has_data() {
            // A resync, whatever it began for, takes the marked blocks of the new part along.
            self.devices[d].new_area_due &= !now.replication.is_resyncing();
            return;
        }
        self.devices[d].new_area_due = false;
        if self.out_of_sync_bits(d) == 0 {
            return;
        }
        if self.is_source_of_new_area(d) {
            self.get_ahead_of_peer(d, out);
            self.connection.as_mut().expect("replicating").peer_devices[d].new_area = true;
            self.prepare_resync(d, "before-resync-source", out);
        } else if !self.leads(now.role, now.peer_role) {
            let edit = |v: Option<usize>, s: &mut Snapshot| {
                if v == Some(d) {
                    s.replication = ReplicationState::WFSyncUUID;
                }
            };
            self.force(&edit, out);
        } else {
            let text = "The new part is not copied: this node's disk is not UpToDate";
            self.log("new-area", Level::Warning, self.peer_device_subject(d), text, out);
        }
    }

    /// Whether this node prepares as source of a new part; no longer, from here on.
    pub(in crate::engine) fn takes_new_area(&mut self, d: usize) -> bool {
        let resting = self.snapshot(Some(d)).replication == ReplicationState::Established;
        self.connection.as_deref_mut().is_some_and(|c| std::mem::take(&mut c.peer_devices[d].new_area))
            && resting
    }
}
