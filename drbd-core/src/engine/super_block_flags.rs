//! The flags of the super block: what a crash is to find of the state.

use super::command::Command;
use super::planted::Bug;
use super::resource::Resource;
use super::write_path::peer_request::{InBitmap, PeerRequest};
use crate::metadata::{device_flag, peer_flag, Format};
use crate::states::{DiskState, Role};

impl Resource {
    /// Flags of the super block as the state says (5.9 of the wire reference). True if they changed.
    pub(super) fn update_flags(&mut self, d: usize) -> bool {
        let snapshot = self.snapshot(Some(d));
        if !snapshot.disk.has_data() {
            return false;
        }
        let demoting = self.admin.is_demoting();
        let forgotten = self.planted(Bug::OutdatedNotKept);
        let worst_good = if forgotten { DiskState::Inconsistent } else { DiskState::Outdated };
        let record = self.peer_record_index(d);
        let generation_due = self.devices[d].generation_due.is_some();
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return false };
        let before = (backing.super_block.flags, backing.super_block.peers[record.unwrap_or(0)].flags);
        // Not before this node's generation tells that its data is the one in use: until then nothing is acknowledged
        // that the Primary's disk lacks, and a crash must not make this node the source of it.
        let writes_for_peer =
            !snapshot.peer_disk.has_data() && snapshot.peer_role == Role::Primary && !generation_due;
        backing.logged_for_peer |= writes_for_peer;
        let log_counts =
            demoting || backing.demotion_unwritten || backing.logged_for_peer || backing.peer_may_resend;
        let primary = snapshot.role == Role::Primary || log_counts;
        let mut flags = backing.super_block.flags & (device_flag::AL_DISABLED | device_flag::HAVE_QUORUM);
        set(&mut flags, device_flag::CONSISTENT, snapshot.disk.rank() > DiskState::Inconsistent.rank());
        set(&mut flags, device_flag::WAS_UP_TO_DATE, snapshot.disk.rank() > worst_good.rank());
        set(&mut flags, device_flag::PRIMARY_IND, primary);
        set(&mut flags, device_flag::CRASHED_PRIMARY, backing.crashed_primary);
        set(&mut flags, device_flag::AL_DISABLED, !backing.options.al_updates);
        backing.super_block.flags = flags;
        backing.primary_stable &= primary;
        backing.primary_on_its_way &= primary;
        if backing.super_block.format == Format::V08 {
            backing.super_block.unclean_magic = true;
        }
        if let Some(record) = record {
            let peer = &mut backing.super_block.peers[record].flags;
            let rank = snapshot.peer_disk.rank();
            let outdated = rank >= DiskState::Inconsistent.rank() && rank <= DiskState::Outdated.rank();
            set(peer, peer_flag::CONNECTED, snapshot.is_replicating());
            set(peer, peer_flag::OUTDATED, outdated);
            if backing.super_block.format == Format::V09
                && snapshot.is_replicating()
                && snapshot.peer_disk.has_data()
            {
                *peer |= peer_flag::DEVICE_SEEN | peer_flag::NODE_EXISTS;
            }
        }
        before != (backing.super_block.flags, backing.super_block.peers[record.unwrap_or(0)].flags)
    }
    /// Has the flags of the super block written if they changed.
    pub(super) fn keep_flags(&mut self, d: usize, out: &mut Vec<Command>) {
        let changed = self.update_flags(d);
        let device = &self.devices[d];
        let Some(backing) = device.backing.as_deref() else { return };
        let primary = backing.super_block.flags & device_flag::PRIMARY_IND != 0;
        // Writers of the log may be waiting for PRIMARY_IND to be kept.
        let owed = primary && !backing.primary_stable && device.disk.has_data();
        if changed || owed {
            self.write_super_block(d, None, out);
        }
    }

    /// The bits of what was written for a Primary without disk are on stable storage.
    pub(super) fn peer_writes_kept(&mut self, d: usize, out: &mut Vec<Command>) {
        if let Some(backing) = self.devices[d].backing.as_deref_mut() {
            backing.logged_for_peer = false;
        }
        let written = |r: &&mut PeerRequest| r.device == d && r.in_bitmap == InBitmap::Writing;
        for request in self.peer_requests.values_mut().filter(written) {
            request.in_bitmap = InBitmap::Kept;
        }
        // Set again if that Primary has lost its disk again meanwhile: what it wrote since is only in the log.
        self.keep_flags(d, out);
        self.wake_log_waiters(d, out);
    }
}

fn set(flags: &mut u32, flag: u32, on: bool) {
    if on {
        *flags |= flag;
    } else {
        *flags &= !flag;
    }
}
