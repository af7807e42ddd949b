//! The generations of a volume, kept in its super block: when a new one begins, and who may know of it when.

use super::command::{Command, Level};
use super::device::{GenerationDue, PeerGenerationDue};
use super::generation::{GenerationSet, ROLE_BIT};
use super::meta_jobs::{Job, Then};
use super::planted::Bug;
use super::resource::Resource;
use crate::control::GenerationStatus;
use crate::ids::{NodeId, VolumeNumber};
use crate::metadata::{device_flag, peer_flag, Format};
use crate::states::{DiskState, Role};
use crate::wire::{uuid_flag, Packet, Uuids};

impl Resource {
    /// Which peer record of the super block is the peer's.
    pub(super) fn peer_record_index(&self, d: usize) -> Option<usize> {
        let connection = self.connection.as_deref()?;
        let backing = self.devices[d].backing.as_deref()?;
        Some(match backing.super_block.format {
            Format::V08 => 0,
            Format::V09 => usize::from(connection.peer.0),
        })
    }

    /// The generations of a volume, if it has a disk. Without a peer the bitmap counts from nothing.
    pub(super) fn generations(&self, d: usize) -> Option<GenerationSet> {
        let backing = self.devices[d].backing.as_deref()?;
        let block = &backing.super_block;
        Some(match self.peer_record_index(d) {
            Some(record) => GenerationSet::load(block, record),
            None => GenerationSet { bitmap: 0, ..GenerationSet::load(block, 0) },
        })
    }

    /// Takes over changed generations, in memory; the caller has them written.
    pub(super) fn keep_generations(&mut self, d: usize, set: &GenerationSet) {
        let record = self.peer_record_index(d);
        let forgotten = GenerationSet { history: [0; 32], ..*set };
        let set = if self.planted(Bug::HistoryForgotten) { &forgotten } else { set };
        let device = &mut self.devices[d];
        let Some(backing) = device.backing.as_deref_mut() else { return };
        // A disk that is being attached is not what the users see.
        if device.disk.has_data() && backing.super_block.current_uuid & !ROLE_BIT != set.current & !ROLE_BIT {
            device.exposed_uuid = set.current;
            backing.peer_may_resend = false;
        }
        match record {
            Some(record) => set.store(&mut backing.super_block, record),
            // Without a peer there is no bitmap generation to keep.
            None => {
                let bitmap = backing.super_block.peers[0].bitmap_uuid;
                GenerationSet { bitmap, ..*set }.store(&mut backing.super_block, 0);
            }
        }
    }

    /// The data changes without the peer from here on. Nothing is acknowledged that only the new generation covers
    /// until it is on stable storage.
    pub(super) fn new_generation(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(mut set) = self.generations(d) else { return };
        let random = self.random.uuid();
        set.begin_new(random, self.role == Role::Primary);
        self.keep_new_generation(d, &set, out);
    }

    /// Like [`Resource::new_generation`] if there has to be one; while requests are frozen nothing is done without the peer
    /// that is gone, and it may come back, to be sent what it lacks: then later. A peer that is there and lost its disk, or
    /// refused a write, is not sent anything again.
    pub(super) fn begin_apart(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.is_frozen() && !self.is_replicating(d) {
            self.devices[d].generation_owed = true;
        } else {
            self.begin_apart_at_once(d, out);
        }
    }

    /// The same, frozen or not.
    pub(super) fn begin_apart_at_once(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(mut set) = self.generations(d) else { return };
        let random = self.random.uuid();
        let known_elsewhere = self.devices[d].backing.as_deref().is_some_and(|b| b.peer_may_resend);
        if set.begin_apart(known_elsewhere, random, self.role == Role::Primary) {
            self.keep_new_generation(d, &set, out);
        }
    }

    /// This node is or will be source: its generation has to tell so, not only its bitmap (decision 0010).
    pub(super) fn get_ahead_of_peer(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(target) = self.connection.as_ref().and_then(|c| c.peer_devices[d].uuids) else { return };
        let random = self.random.uuid();
        let Some(mut set) = self.generations(d) else { return };
        if set.get_ahead_of(&target, random, self.role == Role::Primary) {
            self.keep_new_generation(d, &set, out);
        }
    }

    /// Keeps a set whose current generation is new; acknowledgements wait for it.
    pub(super) fn keep_new_generation(&mut self, d: usize, set: &GenerationSet, out: &mut Vec<Command>) {
        self.keep_generations(d, set);
        let backing = self.devices[d].backing.as_deref_mut().expect("has generations");
        backing.generations_pending += 1;
        self.log_generations(d, "new current UUID", out);
        // Who has the newer generation is copied from: it must not lose with its power what the other still has.
        let job = Job { flush_data: true, ..Job::super_block(Some(Then::GenerationStable)) };
        self.meta_job(d, job, out);
    }

    /// As above, where the peer's Primary goes on without disk: as soon as what it had before is written here.
    pub(super) fn new_generation_when_written(&mut self, d: usize, out: &mut Vec<Command>) {
        self.devices[d].generation_due = Some(GenerationDue::WhenWritten);
        self.begin_generation_if_written(d, out);
    }

    /// A peer request is over, or a Primary without disk sent one: the new generation may have waited for it.
    pub(super) fn begin_generation_if_written(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.devices[d].generation_due.is_none() {
            return;
        }
        if self.peer_requests.iter().any(|(_, r)| r.is_older_write(d)) {
            return;
        }
        self.devices[d].generation_due = None;
        if self.devices[d].disk == DiskState::UpToDate {
            self.begin_apart(d, out);
        }
        // From here on a crash is a Primary's, whose log counts.
        self.keep_flags(d, out);
        self.wake_log_waiters(d, out);
    }

    /// The peer refused a write that only this node's disk has from here on. The generation tells so before the write is
    /// done: this disk may be lost before the peer's state arrives, and come back.
    pub(super) fn be_ahead_of_refusing_peer(&mut self, d: usize, out: &mut Vec<Command>) {
        let writes = self.role == Role::Primary || self.admin.is_demoting();
        if writes && self.devices[d].disk == DiskState::UpToDate && self.peer_disk(d) == DiskState::UpToDate {
            self.begin_apart(d, out);
        }
        if let (DiskState::Detaching, Some(backing)) = (self.devices[d].disk, &mut self.devices[d].backing) {
            // Too late for a generation: the disk would come back as if it were the peer's equal.
            backing.outrun = true;
        }
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.peer_devices[d].refused_write = true;
        }
    }

    pub(super) fn log_generations(&self, d: usize, what: &str, out: &mut Vec<Command>) {
        if let Some(set) = self.generations(d) {
            let text = format!(
                "{what} {:016X}:{:016X}:{:016X}:{:016X}",
                set.current, set.bitmap, set.history[0], set.history[1]
            );
            self.log("generation", Level::Info, self.device_subject(d), text, out);
        }
    }

    /// A new generation is on stable storage.
    pub(super) fn generation_stable(&mut self, d: usize, out: &mut Vec<Command>) {
        if let Some(backing) = self.devices[d].backing.as_deref_mut() {
            backing.generations_pending -= 1;
            if backing.generations_pending > 0 {
                return;
            }
        }
        self.release_held_completions(d, out);
        if self.is_replicating(d) {
            self.send_uuids(d, out);
        }
    }

    /// The peer told its new generation, or will not.
    pub(super) fn peer_generation_told(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.devices[d].peer_generation_due.take() == Some(PeerGenerationDue::Now) {
            self.release_held_completions(d, out);
        }
    }

    /// The disk lacks, or will lack, something that the peer calls done.
    pub(super) fn remember_to_be_behind(&mut self, d: usize) {
        let device = &mut self.devices[d];
        let current = device.backing.as_deref().map_or(device.exposed_uuid, |b| b.super_block.current_uuid);
        device.behind_in = Some(current & !ROLE_BIT);
    }

    /// Data of that generation on the own disk is not what the users of a Primary see.
    pub(super) fn is_not_shown(&self, d: usize, current: u64) -> bool {
        let device = &self.devices[d];
        device.exposed_uuid != 0 && !device.shows(current)
    }

    /// Tells the peer the generations, if there is a disk to have any.
    pub(super) fn send_uuids(&mut self, d: usize, out: &mut Vec<Command>) {
        self.send_uuids_with(d, 0, out);
    }

    /// As above, with a flag that says more about them.
    pub(super) fn send_uuids_with(&mut self, d: usize, more: u64, out: &mut Vec<Command>) {
        if self.connection.as_mut().and_then(|c| c.established()).is_none() || self.is_leaving(d) {
            return;
        }
        let disk = self.devices[d].disk;
        if !disk.has_data() && disk != DiskState::Negotiating {
            return;
        }
        let Some(set) = self.generations(d) else { return };
        let bits = self.out_of_sync_bits(d);
        let backing = self.devices[d].backing.as_deref().expect("has generations");
        let inconsistent = disk == DiskState::Negotiating && backing.at_attach.0 == DiskState::Inconsistent;
        let crashed = backing.crashed_primary;
        let peer_device = &mut self.connection.as_mut().expect("established").peer_devices[d];
        peer_device.bits_told = bits;
        let mut flags = more;
        for (flag, on) in [
            (uuid_flag::DISCARD_MY_DATA, peer_device.discard_my_data),
            (uuid_flag::CRASHED_PRIMARY, crashed),
            (uuid_flag::INCONSISTENT, inconsistent),
        ] {
            flags |= if on { flag } else { 0 };
        }
        let uuids =
            Uuids { current: set.current, bitmap: set.bitmap, history: set.wire_history(), bits, flags };
        let volume = self.devices[d].volume;
        self.send(volume, Packet::Uuids(Box::new(uuids)), out);
    }

    /// Generations as `drbdsetup get-gi` shows them; `None` without disk or without that peer.
    pub fn generation(&self, peer: NodeId, volume: VolumeNumber) -> Option<GenerationStatus> {
        self.connection.as_ref().filter(|c| c.peer == peer)?;
        let d = self.device_index(volume)?;
        let set = self.generations(d)?;
        let block = &self.devices[d].backing.as_deref()?.super_block;
        let record = block.peers[self.peer_record_index(d)?];
        let flag = |f| block.flags & f != 0;
        let peer = |f| record.flags & f != 0;
        Some(GenerationStatus {
            current: set.current,
            bitmap: set.bitmap,
            history: set.wire_history(),
            flags: [
                flag(device_flag::CONSISTENT),
                flag(device_flag::WAS_UP_TO_DATE),
                flag(device_flag::PRIMARY_IND),
                flag(device_flag::CRASHED_PRIMARY),
                flag(device_flag::AL_CLEAN),
                flag(device_flag::AL_DISABLED),
                flag(device_flag::PRIMARY_LOST_QUORUM),
            ],
            peer_flags: [
                peer(peer_flag::CONNECTED),
                peer(peer_flag::OUTDATED),
                peer(peer_flag::FENCING),
                peer(peer_flag::FULL_SYNC),
                peer(peer_flag::DEVICE_SEEN),
            ],
        })
    }

    /// Bit 0 of the current generation follows the role.
    pub(super) fn mark_role(&mut self, d: usize) {
        let primary = self.role == Role::Primary;
        if let Some(mut set) = self.generations(d) {
            if (set.current & ROLE_BIT == ROLE_BIT) != primary {
                set.mark_role(primary);
                self.keep_generations(d, &set);
            }
        }
    }
}
