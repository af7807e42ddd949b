//! What is to be written to the metadata of a device, one job after the other, each in steps whose order is its
//! meaning:
//!
//! 1. flush the data disk, so that nothing is called in sync that a power loss could still take back;
//! 2. write bitmap blocks;
//! 3. initialise the log (its extents are in the bitmap now), or write the pending log transaction (the extents it
//!    takes out have their bitmap written);
//! 4. write the super block;
//! 5. do what waited for all that.
//!
//! Steps 3 and 4 are barriers: everything before is stable when they are done. One job at a time keeps two writes of
//! the same block from being outstanding together.
//!
//! The job of a new size (`resize`) may write to another place. Then the super block there is what makes the new place
//! count, so the first one is written in two steps of which a power loss cannot leave a mixture; it comes after everything
//! else, or, where the parts are written over the old ones, before, saying that nothing else counts yet.

use super::command::MetaOp;
use crate::ids::Ticket;
use std::collections::VecDeque;

/// What happens when a job is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    /// Writes into the new hot extents may start.
    LogCommitted,
    /// The bits of what was written for a Primary without disk are kept: the log need not name it any longer.
    PeerWritesKept,
    /// Completions held for the new generation may go out.
    GenerationStable,
    /// The disk is attached.
    Attached(Ticket),
    /// The new role may be told.
    RoleStable(Ticket),
    /// A resync goes on, if it is still that one: it may have broken off meanwhile, and the next one waits for its own.
    ResyncGoesOn { session: u32, attempt: u32, step: ResyncStep },
    /// The disk may be let go.
    Detached(Option<Ticket>),
    /// What an administrator asked for is kept.
    Answer(Ticket),
    /// Everything is marked for a full sync.
    FullSyncMarked,
    /// The new size is kept.
    Resized,
}

/// What a resync waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ResyncStep {
    /// As target: the source's bits are kept; tell ours.
    TargetBitmapStable,
    /// As source: the bits of a full sync are kept; tell them.
    SourceBitmapStable,
    /// As source: the name of the resync is kept; tell the target.
    Named,
    /// As source that had pulled ahead: its marks are kept; the resync may begin.
    AheadBitmapStable,
    /// As target: the disk is called Inconsistent; blocks may change.
    TargetBegins,
    /// As target: data and bitmap are stable.
    TargetCopied,
    /// As target: the new generation is kept; tell the source.
    TargetFinished,
}

/// Which bitmap blocks a job writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Blocks {
    None,
    /// Those of these extents that differ from disk.
    OfExtents(Vec<u32>),
    /// All that differ from disk.
    Dirty,
}

/// How the metadata comes to belong to another size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Relaying {
    /// It stays where it is.
    InPlace,
    /// All of it moves to where nothing of it was.
    Apart,
    /// All of it moves to where part of it was.
    Over,
}

/// One job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Job {
    /// Takes up the size that is planned for the device, before anything else.
    pub(super) resize: Option<Relaying>,
    pub(super) flush_data: bool,
    pub(super) blocks: Blocks,
    pub(super) initialise_log: bool,
    pub(super) transaction: bool,
    pub(super) super_block: bool,
    pub(super) then: Vec<Then>,
}

impl Job {
    /// Only the super block.
    pub(super) fn super_block(then: Option<Then>) -> Job {
        Job {
            resize: None,
            flush_data: false,
            blocks: Blocks::None,
            initialise_log: false,
            transaction: false,
            super_block: true,
            then: then.into_iter().collect(),
        }
    }

    /// The whole bitmap and the super block, where nothing tells of data that may still be in the disk's cache.
    pub(super) fn marks(then: Option<Then>) -> Job {
        Job { flush_data: false, ..Job::everything(then) }
    }

    fn is_only_super_block(&self) -> bool {
        Job { then: Vec::new(), ..self.clone() } == Job::super_block(None)
    }

    /// The whole bitmap and the super block, after the data.
    pub(super) fn everything(then: Option<Then>) -> Job {
        Job { flush_data: true, blocks: Blocks::Dirty, ..Job::super_block(then) }
    }
}

/// Steps of a job, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Step {
    Resize,
    FlushData,
    Interim,
    InterimSealed,
    Blocks,
    Log,
    SuperBlock,
    Sealed,
    EraseOld,
    Done,
}

/// The job being done.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) job: Job,
    pub(super) step: Step,
    /// Operations of this step under way.
    pub(super) in_flight: u32,
    /// Where to look for the next block: block number, or index of the extent.
    pub(super) cursor: u32,
    /// Next block within the extent of the cursor.
    pub(super) within: Option<u32>,
    /// The one operation of this step was issued.
    pub(super) issued: bool,
    /// Blocks the full disk had no space for, and whether each is a barrier; they count as under way.
    pub(super) unwritten: Vec<(MetaOp, bool)>,
    /// It is done again because of that.
    pub(super) again: bool,
}

impl Running {
    /// Goes on with that step. Nothing of another one is under way.
    pub(super) fn begin_at(&mut self, step: Step) {
        self.step = step;
        self.in_flight = 0;
        self.issued = false;
        self.cursor = 0;
        self.within = None;
    }
}

/// The jobs of one device.
#[derive(Debug, Default)]
pub(super) struct MetaJobs {
    pub(super) running: Option<Running>,
    queue: VecDeque<Job>,
}

impl MetaJobs {
    /// Puts a job last; super blocks that nothing separates are one. What such a job writes before its super block is written
    /// before all of them: each would tell what memory says then.
    pub(super) fn push(&mut self, mut job: Job) {
        if let Some(last) = self.queue.back_mut().filter(|last| last.super_block && job.super_block) {
            if job.is_only_super_block() {
                last.then.append(&mut job.then);
                return;
            }
            if last.is_only_super_block() {
                last.then.append(&mut job.then);
                *last = Job { then: std::mem::take(&mut last.then), ..job };
                return;
            }
        }
        self.queue.push_back(job);
    }

    /// Puts a job first: writers wait for it.
    pub(super) fn push_urgent(&mut self, job: Job) {
        self.queue.push_front(job);
    }

    /// Begins the next job if none is under way.
    pub(super) fn start(&mut self) -> bool {
        if self.running.is_none() {
            self.running = self.queue.pop_front().map(|job| Running {
                job,
                step: Step::Resize,
                in_flight: 0,
                cursor: 0,
                within: None,
                issued: false,
                unwritten: Vec::new(),
                again: false,
            });
        }
        self.running.is_some()
    }

    /// The job under way found no space for something.
    pub(super) fn waits_for_space(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.unwritten.is_empty())
    }

    /// Something is being written, or will be.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some() || !self.queue.is_empty()
    }

    /// Forgets everything; what waited is returned.
    pub(super) fn abandon(&mut self) -> Vec<Then> {
        let running = self.running.take().map(|r| r.job);
        running.into_iter().chain(self.queue.drain(..)).flat_map(|job| job.then).collect()
    }
}

#[cfg(test)]
mod tests;
