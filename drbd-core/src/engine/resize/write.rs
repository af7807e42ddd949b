//! Keeping a new size: what is written in which order, so that a loss of power at any moment leaves either the old size
//! or the new one, with every bit that counts.
//!
//! - *Grown, metadata where it was*: bitmap, then super block. Until then the bits of the new part count for nobody.
//! - *Grown, metadata at the new end, all of it behind the old*: bitmap and log there, then the super block there, unsealed
//!   first; only then the old super block goes. Whoever looks at the end finds nothing, or all of it.
//! - *Grown so little that the new metadata overlaps the old*: before anything else the super block at the end says that
//!   everything is out of sync; the last super block takes that back.
//! - *Shrunk*: the super block; bits behind the end mean nothing from then on.

use super::{Plan, Stage};
use crate::engine::activity_log::ActivityLog;
use crate::engine::command::Command;
use crate::engine::meta_jobs::{Blocks, Job, Relaying, Then};
use crate::engine::planted::Bug;
use crate::engine::resource::Resource;
use crate::limits::SECTORS_PER_BIT;
use crate::metadata::{SuperBlock, BLOCK_BYTES, UUID_JUST_CREATED};
use crate::states::Role;

impl Resource {
    /// Nothing refers to the log, and no request of this node is about to.
    pub(super) fn log_is_idle(&self, d: usize) -> bool {
        let device = &self.devices[d];
        let referenced = device.backing.as_deref().is_some_and(|b| b.log.referenced() > 0);
        !referenced && device.log_waiters.is_empty()
    }

    /// Puts the job in line that takes the planned size up.
    pub(super) fn write_size(&mut self, d: usize, plan: &Plan, out: &mut Vec<Command>) {
        let Some(backing) = self.devices[d].backing.as_deref() else { return };
        let relaying = match plan.layout {
            Some(layout) if !layout.moves_from(&backing.place) => Relaying::InPlace,
            Some(layout) if layout.is_apart_from(&backing.place) => Relaying::Apart,
            Some(_) if self.planted(Bug::MovedWithoutInterim) => Relaying::Apart,
            Some(_) => Relaying::Over,
            None => Relaying::InPlace,
        };
        let moves = relaying != Relaying::InPlace;
        let grows = plan.size.0 > backing.super_block.effective_size;
        let ahead = self.is_source_of_new_area(d) && grows && !plan.assume_clean;
        let bits_first = (moves || grows) && !self.planted(Bug::SizeBeforeBits);
        let job = Job {
            resize: Some(relaying),
            // With the log go the extents it names; and a generation that is ahead must not be of data that are not.
            flush_data: moves || ahead,
            blocks: if bits_first { Blocks::Dirty } else { Blocks::None },
            initialise_log: moves,
            transaction: false,
            super_block: true,
            then: vec![Then::Resized],
        };
        self.meta_job(d, job, out);
    }

    /// The job's turn has come: from here on the metadata in memory is that of the new size and place.
    pub(in crate::engine) fn take_up_size(&mut self, d: usize) {
        let planned = match self.devices[d].resize.as_deref().map(|r| r.stage) {
            Some(Stage::Writing(plan)) => plan,
            Some(Stage::Measuring | Stage::Draining(_) | Stage::Peer) | None => return,
        };
        let unmarked = self.planted(Bug::NewPartNotMarked);
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return };
        if backing.jobs.running.as_ref().is_none_or(|running| running.job.resize.is_none()) {
            return;
        }
        let known = backing.super_block.effective_size;
        let grows = planned.size.0 > known;
        backing.bitmap.resize(planned.size);
        backing.super_block.effective_size = planned.size.0;
        if grows {
            // The block the old end was in has new sectors, too.
            let (first, end) = (known / SECTORS_PER_BIT, backing.bitmap.bits());
            let copied = known > 0 && !planned.assume_clean && !unmarked;
            for slot in (0..backing.bitmap.slot_count()).filter(|_| copied) {
                backing.bitmap.set_bits(slot, first, end);
            }
            // What lies on disk behind the old end was nobody's.
            backing.bitmap.dirty_all();
        }
        if backing.super_block.current_uuid == UUID_JUST_CREATED {
            for slot in 0..backing.bitmap.slot_count() {
                backing.bitmap.set_all(slot);
            }
        }
        self.take_up_place(d, &planned);
        if grows && known > 0 && !planned.assume_clean {
            self.get_ahead_with_size(d);
        }
    }

    fn take_up_place(&mut self, d: usize, planned: &Plan) {
        let Some(layout) = planned.layout else { return };
        let more =
            self.devices[d].backing.as_deref().is_some_and(|b| layout.place.capacity > b.limits.capacity);
        if let Some(resize) = self.devices[d].resize.as_deref_mut() {
            resize.found_more |= more;
        }
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return };
        if layout.moves_from(&backing.place) {
            backing.old_super_block_bytes = backing.place.super_block_offset_bytes;
            backing.bitmap.dirty_all();
            backing.log = ActivityLog::new(backing.super_block.al_nr_extents);
            backing.log_initialise_from = 0;
        }
        backing.place = layout.place;
        backing.super_block.md_size_sect = layout.md_size_sect;
        backing.super_block.bm_offset = layout.bm_offset;
    }

    /// The one the new part will be copied from says so with the super block that makes it count: whatever becomes of the
    /// connection, the next comparison finds it (decision 0010).
    fn get_ahead_with_size(&mut self, d: usize) {
        let target = self.connection.as_ref().and_then(|c| c.peer_devices[d].uuids);
        let (Some(target), true) = (target, self.is_source_of_new_area(d)) else { return };
        let random = self.random.uuid();
        let Some(mut set) = self.generations(d) else { return };
        if !set.get_ahead_of(&target, random, self.role == Role::Primary) {
            return;
        }
        self.keep_generations(d, &set);
        let backing = self.devices[d].backing.as_deref_mut().expect("has generations");
        backing.generations_pending += 1;
        if let Some(running) = backing.jobs.running.as_mut() {
            running.job.then.insert(0, Then::GenerationStable);
        }
    }

    /// Everything is out of sync, as far as this super block knows, and the device has the size it had.
    pub(in crate::engine) fn encode_interim(&self, d: usize, sealed: bool, block: &mut [u8; BLOCK_BYTES]) {
        let backing = self.devices[d].backing.as_deref().expect("an attached disk");
        let size = self.devices[d].size.0;
        let interim = SuperBlock { effective_size: size, ..backing.super_block.with_nothing_counting() };
        if sealed {
            interim.encode(block);
        } else {
            interim.encode_unsealed(block);
        }
    }
}
