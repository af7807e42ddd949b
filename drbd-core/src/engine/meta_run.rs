//! Carrying out metadata jobs, and the bytes of what they write.

use super::command::{Command, DiskOp, Level, MetaOp};
use super::event::IoResult;
use super::meta_jobs::{Blocks, Job, Relaying, Running, Step, Then};
use super::planted::Bug;
use super::resource::{IoOwner, JobIo, Resource};
use crate::ids::{PayloadId, Sector, VolumeNumber};
use crate::limits::TRANSACTION_CONTEXT;
use crate::metadata::{device_flag, encode_initialised, ring_block, LogTransaction, BLOCK_BYTES};

/// Bitmap blocks in flight at once.
const BLOCKS_IN_FLIGHT_MAX: u32 = 32;

impl Resource {
    /// Puts a job in line.
    pub(super) fn meta_job(&mut self, d: usize, job: Job, out: &mut Vec<Command>) {
        match self.devices[d].backing.as_deref_mut() {
            Some(backing) => {
                backing.jobs.push(job);
                self.run_jobs(d, out);
            }
            // The disk went before it was asked for this.
            None => job.then.into_iter().for_each(|then| self.abandoned(d, then, out)),
        }
    }

    /// Writes the super block as it is now.
    pub(super) fn write_super_block(&mut self, d: usize, then: Option<Then>, out: &mut Vec<Command>) {
        self.meta_job(d, Job::super_block(then), out);
    }

    /// Writes the pending log transaction, if there is one and none is being written.
    pub(super) fn write_log(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.planted(Bug::WriteBeforeTransaction) {
            return;
        }
        let bitmap_first = !self.planted(Bug::EvictionBeforeBitmap);
        let device = &mut self.devices[d];
        let Some(backing) = device.usable() else { return };
        if !backing.log.transaction_due() {
            return;
        }
        let mut evicted = Vec::new();
        backing.log.begin_transaction(&mut evicted);
        let job = Job {
            resize: None,
            // With internal metadata the transaction's own barrier covers the data.
            flush_data: backing.limits.external_metadata && !evicted.is_empty() && backing.flushes(),
            blocks: if evicted.is_empty() || !bitmap_first {
                Blocks::None
            } else {
                Blocks::OfExtents(evicted)
            },
            initialise_log: false,
            transaction: true,
            super_block: false,
            then: vec![Then::LogCommitted],
        };
        backing.jobs.push_urgent(job);
        device.counters.log_writes += 1;
        self.run_jobs(d, out);
    }

    /// Does the next steps of the jobs of a device.
    pub(super) fn run_jobs(&mut self, d: usize, out: &mut Vec<Command>) {
        loop {
            let Some(backing) = self.devices[d].backing.as_deref_mut() else { return };
            if !backing.jobs.start() {
                return;
            }
            let running = backing.jobs.running.as_ref().expect("just started");
            let waiting = match running.step {
                Step::Resize => {
                    self.take_up_size(d);
                    false
                }
                Step::Interim => self.step_interim(d, false, out),
                Step::InterimSealed => self.step_interim(d, true, out),
                Step::Sealed => self.step_sealed(d, out),
                Step::EraseOld => self.step_erase_old(d, out),
                Step::FlushData => self.step_flush_data(d, out),
                Step::Blocks => self.step_blocks(d, out),
                Step::Log => self.step_log(d, out),
                Step::SuperBlock => self.step_super_block(d, out),
                Step::Done => {
                    let job = backing.jobs.running.take().expect("just started").job;
                    for then in job.then {
                        self.carry_on(d, then, out);
                    }
                    continue;
                }
            };
            if waiting {
                return;
            }
            self.next_step(d);
        }
    }

    fn running(&mut self, d: usize) -> &mut Running {
        let backing = self.devices[d].backing.as_deref_mut().expect("a job belongs to a disk");
        backing.jobs.running.as_mut().expect("a job is running")
    }

    fn next_step(&mut self, d: usize) {
        let running = self.running(d);
        let step = match running.step {
            Step::Resize => Step::FlushData,
            Step::FlushData => Step::Interim,
            Step::Interim => Step::InterimSealed,
            Step::InterimSealed => Step::Blocks,
            Step::Blocks => Step::Log,
            Step::Log => Step::SuperBlock,
            Step::SuperBlock => Step::Sealed,
            Step::Sealed => Step::EraseOld,
            Step::EraseOld | Step::Done => Step::Done,
        };
        running.begin_at(step);
    }

    /// True while the step is under way; issues its one operation if `wanted` and not yet issued.
    fn one_operation(&mut self, d: usize, wanted: bool, op: Option<MetaOp>, out: &mut Vec<Command>) -> bool {
        let running = self.running(d);
        if wanted && !running.issued {
            running.issued = true;
            running.in_flight += 1;
            match op {
                Some(op) => self.meta_io(d, op, true, out),
                None => {
                    let owner = IoOwner::Job(JobIo::Flush);
                    self.disk_io(d, owner, DiskOp::Flush, (Sector(0), 0), PayloadId::NONE, false, out);
                }
            }
            return true;
        }
        running.in_flight > 0
    }

    fn step_flush_data(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        let flushes = self.devices[d].backing.as_ref().is_some_and(|b| b.flushes());
        let Running { job, issued, .. } = self.running(d);
        let begins = job.flush_data && !*issued;
        let wanted = job.flush_data && flushes;
        if begins {
            let bitmap = &mut self.devices[d].backing.as_deref_mut().expect("a job belongs to a disk").bitmap;
            bitmap.flush_begins();
            if !flushes {
                bitmap.flush_done();
            }
        }
        self.one_operation(d, wanted, None, out)
    }

    fn step_blocks(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        while self.running(d).in_flight < BLOCKS_IN_FLIGHT_MAX && self.ios.room() > 16 {
            let Some(block) = self.next_block(d) else { break };
            self.running(d).in_flight += 1;
            self.devices[d].counters.bitmap_writes += 1;
            self.meta_io(d, MetaOp::BitmapBlock { block }, false, out);
        }
        self.running(d).in_flight > 0
    }

    /// The next block the job has to write; it counts as clean from here on.
    fn next_block(&mut self, d: usize) -> Option<u32> {
        let backing = self.devices[d].backing.as_deref_mut().expect("a job belongs to a disk");
        let running = backing.jobs.running.as_mut().expect("a job is running");
        let bitmap = &mut backing.bitmap;
        match &running.job.blocks {
            Blocks::None => None,
            Blocks::Dirty => {
                let block = bitmap.next_dirty(running.cursor)?;
                running.cursor = block + 1;
                bitmap.clean(block);
                Some(block)
            }
            Blocks::OfExtents(extents) => loop {
                let extent = *extents.get(running.cursor as usize)?;
                let (first, last) = bitmap.blocks_of_extent(extent);
                let from = running.within.unwrap_or(first);
                match bitmap.next_dirty(from).filter(|&b| b <= last) {
                    Some(block) => {
                        running.within = Some(block + 1);
                        bitmap.clean(block);
                        return Some(block);
                    }
                    None => {
                        running.cursor += 1;
                        running.within = None;
                    }
                }
            },
        }
    }

    fn step_log(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        if self.running(d).job.transaction {
            let backing = self.devices[d].backing.as_deref().expect("a job belongs to a disk");
            let (stripes, blocks) = (backing.super_block.al_stripes, backing.super_block.al_stripe_size_4k);
            let block = ring_block(backing.log.transaction().0 as u32, stripes, blocks);
            return self.one_operation(d, true, Some(MetaOp::LogTransaction { block }), out);
        }
        if !self.running(d).job.initialise_log {
            return self.running(d).in_flight > 0;
        }
        let backing = self.devices[d].backing.as_deref_mut().expect("a job belongs to a disk");
        let (stripes, stripe_blocks) =
            (backing.super_block.al_stripes, backing.super_block.al_stripe_size_4k);
        let (from, blocks) = (backing.log_initialise_from, stripes * stripe_blocks);
        if self.running(d).in_flight == 0 && self.running(d).cursor < blocks {
            let block = ring_block((from + blocks - self.running(d).cursor) % blocks, stripes, stripe_blocks);
            self.running(d).cursor += 1;
            self.running(d).in_flight += 1;
            // The bitmap is stable before the log forgets. One after the other, a damaged one first and then from
            // the newest back: a loss of power may tear one block only, and what is left can be read.
            self.meta_io(d, MetaOp::LogInitialise { block }, true, out);
        }
        self.running(d).in_flight > 0
    }

    fn step_super_block(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        self.forget_log(d);
        let job = &self.running(d).job;
        let op = match (job.super_block, &job.blocks, job.transaction) {
            (true, _, _) if job.resize == Some(Relaying::Apart) => Some(MetaOp::UnsealedSuperBlock),
            (true, _, _) => Some(MetaOp::SuperBlock),
            // Nothing after the blocks makes them stable: a barrier of their own does.
            (false, Blocks::Dirty, false) => Some(MetaOp::Flush),
            (false, Blocks::None | Blocks::OfExtents(_) | Blocks::Dirty, _) => None,
        };
        match op {
            Some(op) => self.one_operation(d, true, Some(op), out),
            None => self.running(d).in_flight > 0,
        }
    }

    /// Over the old place: from here on until the end a crash costs a full sync, and nothing else.
    fn step_interim(&mut self, d: usize, sealed: bool, out: &mut Vec<Command>) -> bool {
        let wanted = self.running(d).job.resize == Some(Relaying::Over);
        self.one_operation(d, wanted, Some(MetaOp::InterimSuperBlock { sealed }), out)
    }

    /// Where there was no super block before: now it counts.
    fn step_sealed(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        let wanted = self.running(d).job.resize == Some(Relaying::Apart);
        self.one_operation(d, wanted, Some(MetaOp::SuperBlock), out)
    }

    /// Should the device become as small again as it was, nobody is to take the old metadata for the present one.
    fn step_erase_old(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        let wanted = self.running(d).job.resize == Some(Relaying::Apart);
        self.one_operation(d, wanted, Some(MetaOp::OldSuperBlock), out)
    }

    /// A super block that goes out before the bitmap must still say that the log counts: only the last one of a disk that
    /// is let go, or of a demotion, which makes the bitmap before it stable, says that the log has nothing to tell.
    fn forget_log(&mut self, d: usize) {
        let backing = self.devices[d].backing.as_deref_mut().expect("a job belongs to a disk");
        let running = backing.jobs.running.as_ref().expect("a job is running");
        if running.job.then.iter().any(|then| matches!(then, Then::Detached(_))) {
            backing.super_block.flags &= !device_flag::PRIMARY_IND;
        } else if backing.demotion_unwritten && self.admin.demotes(&running.job.then) {
            backing.demotion_unwritten = false;
            self.update_flags(d);
        }
    }

    /// An operation of the running job is done.
    pub(super) fn job_io_done(&mut self, d: usize, io: JobIo, result: IoResult, out: &mut Vec<Command>) {
        let ignored = self.planted(Bug::MetadataErrorIgnored);
        let waits = matches!(result, IoResult::Failed(errno) if !ignored && self.only_lacks_space(d, errno));
        let device = &mut self.devices[d];
        let Some(backing) = device.backing.as_deref_mut() else {
            return self.close_disk_if_idle(d, out);
        };
        let Some(running) = backing.jobs.running.as_mut() else {
            return self.close_disk_if_idle(d, out);
        };
        if (io, result) == (JobIo::Flush, IoResult::Done) {
            backing.bitmap.flush_done();
        }
        if let (JobIo::Write { op, barrier, .. }, true) = (io, waits) {
            // It counts as under way until it is written.
            running.unwritten.push((op, barrier));
            return self.disk_is_full(d, out);
        }
        running.in_flight -= 1;
        let written = matches!(io, JobIo::Write { .. }) && result == IoResult::Done;
        if written && running.unwritten.is_empty() && std::mem::take(&mut running.again) {
            self.space_is_back(d, out);
        }
        if let (IoResult::Failed(errno), false) = (result, ignored) {
            let text = format!("Metadata could not be written (error {errno}): the disk is given up");
            self.log("metadata-error", Level::Error, self.device_subject(d), text, out);
            self.give_up_disk(d, out);
            return;
        }
        if matches!(io, JobIo::Write { op: MetaOp::SuperBlock, .. }) {
            self.super_block_written(d, out);
        }
        self.run_jobs(d, out);
    }

    /// Does a job again that found no space; true if there is one. From its beginning: its blocks are made of what memory
    /// says now, and the super block may say more than it did, for which the bitmap has to be on disk first.
    pub(super) fn write_metadata_again(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        let backing = self.devices[d].backing.as_deref_mut();
        let Some(backing) = backing.filter(|b| b.jobs.waits_for_space()) else { return false };
        let running = backing.jobs.running.as_mut().expect("what waits is running");
        if running.in_flight > running.unwritten.len() as u32 {
            return true;
        }
        let unwritten = std::mem::take(&mut running.unwritten);
        running.again = true;
        if running.job.resize.is_some() {
            for (op, barrier) in unwritten {
                self.meta_io(d, op, barrier, out);
            }
            return true;
        }
        for (op, _) in &unwritten {
            if let MetaOp::BitmapBlock { block } = op {
                backing.bitmap.dirty(*block);
            }
        }
        running.job.flush_data = true;
        running.job.blocks = Blocks::Dirty;
        running.begin_at(Step::FlushData);
        self.run_jobs(d, out);
        true
    }

    fn carry_on(&mut self, d: usize, then: Then, out: &mut Vec<Command>) {
        match then {
            Then::LogCommitted => {
                if let Some(backing) = self.devices[d].backing.as_deref_mut() {
                    backing.log.transaction_done();
                }
                self.wake_log_waiters(d, out);
            }
            Then::GenerationStable => self.generation_stable(d, out),
            Then::Attached(ticket) => self.attached(d, ticket, out),
            Then::RoleStable(ticket) => self.role_stable(d, ticket, out),
            Then::ResyncGoesOn { session, attempt, step } => {
                self.resync_goes_on(d, (session, attempt), step, out);
            }
            Then::Detached(ticket) => self.detached(d, ticket, out),
            Then::PeerWritesKept => self.peer_writes_kept(d, out),
            Then::Answer(ticket) => self.answer_kept(ticket, out),
            Then::FullSyncMarked => self.full_sync_marked(d, out),
            Then::Resized => self.resized(d, out),
        }
    }

    /// The bytes of a metadata operation; to be called before the next [`handle`](Resource::handle).
    ///
    /// # Panics
    /// If the volume has no disk: the operation came from this engine just now.
    pub fn encode_meta(&self, volume: VolumeNumber, op: MetaOp, block: &mut [u8; BLOCK_BYTES]) {
        let d = self.device_index(volume).expect("a volume of this resource");
        let backing = self.devices[d].backing.as_deref().expect("an attached disk");
        match op {
            MetaOp::SuperBlock => backing.super_block.encode(block),
            MetaOp::UnsealedSuperBlock => backing.super_block.encode_unsealed(block),
            MetaOp::InterimSuperBlock { sealed } => self.encode_interim(d, sealed, block),
            MetaOp::LogTransaction { .. } => encode_transaction(&backing.log, block),
            MetaOp::LogInitialise { .. } => encode_initialised(block),
            MetaOp::BitmapBlock { block: number } => backing.bitmap.encode_block(number, block),
            MetaOp::Flush | MetaOp::OldSuperBlock => block.fill(0),
        }
    }
}

fn encode_transaction(log: &super::activity_log::ActivityLog, block: &mut [u8; BLOCK_BYTES]) {
    let (number, updates, context_start, on_disk) = log.transaction();
    let mut transaction = LogTransaction::empty(number as u32);
    for update in updates {
        transaction.push_update(update.slot as u16, update.extent);
    }
    transaction.context_size = on_disk.len() as u16;
    transaction.context_start = context_start as u16;
    let window = on_disk.iter().skip(context_start as usize).take(TRANSACTION_CONTEXT);
    for (context, &extent) in transaction.context.iter_mut().zip(window) {
        *context = extent;
    }
    transaction.encode(block);
}
