//! How the order of a peer's epochs is kept on the disks here, by disk-barrier, disk-flushes and disk-drain, and what
//! becomes of it when a disk cannot flush (7.2 of the wire reference).
//!
//! The method is one for the resource: the weakest that any of its disks takes, the strongest first: barrier, flush, drain,
//! none. Whatever it is called, an epoch is answered only after all its writes are done, and later ones of protocols A and
//! B begin only then; `barrier` is carried out by a flush, too.

use super::command::{Command, Level};
use super::device::Backing;
use super::event::{IoResult, UpperOp};
use super::resource::{IoOwner, JobIo, Resource};
use crate::config::DiskOptions;

/// EINVAL, ENOSYS, EOPNOTSUPP: what says that there is no such operation, not that it went wrong.
const UNSUPPORTED: [i32; 3] = [22, 38, 95];

/// A method, the weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum WriteOrdering {
    None,
    Drain,
    Flush,
    Barrier,
}

impl WriteOrdering {
    /// The strongest that is configured for a disk and that it can do.
    fn of(options: &DiskOptions, cannot_flush: bool) -> WriteOrdering {
        match options {
            _ if options.disk_barrier && !cannot_flush => WriteOrdering::Barrier,
            _ if options.disk_flushes && !cannot_flush => WriteOrdering::Flush,
            _ if options.disk_drain => WriteOrdering::Drain,
            _ => WriteOrdering::None,
        }
    }

    /// As DRBD shows it.
    pub(super) fn name(self) -> &'static str {
        match self {
            WriteOrdering::None => "none",
            WriteOrdering::Drain => "drain",
            WriteOrdering::Flush => "flush",
            WriteOrdering::Barrier => "barrier",
        }
    }
}

impl Backing {
    /// Its cache is flushed where stable data is promised.
    pub(super) fn flushes(&self) -> bool {
        WriteOrdering::of(&self.options, self.cannot_flush) >= WriteOrdering::Flush
    }
}

impl Resource {
    /// The method at present; barriers are for resources of one volume only.
    pub(super) fn write_ordering(&self) -> WriteOrdering {
        let disks = self.devices.iter().filter_map(|d| d.backing.as_deref());
        let methods = disks.map(|b| WriteOrdering::of(&b.options, b.cannot_flush));
        let most = if self.devices.len() > 1 { WriteOrdering::Flush } else { WriteOrdering::Barrier };
        methods.min().unwrap_or(WriteOrdering::Flush).min(most)
    }

    /// Says so if the method is not what it was.
    pub(super) fn tell_write_ordering(&mut self, before: WriteOrdering, out: &mut Vec<Command>) {
        let now = self.write_ordering();
        if now != before {
            let text = format!("Method to ensure write ordering: {}", now.name());
            self.log("write-ordering", Level::Info, self.name.clone(), text, out);
        }
    }

    /// What an operation came to. A flush that the disk does not know is done, as in the kernel, and not asked for any
    /// more until the disk is attached or given options again; one that went wrong is a failure of the disk, unlike in
    /// 8.4: nobody can say what was lost.
    pub(super) fn judge_flush(
        &mut self,
        d: usize,
        owner: IoOwner,
        result: IoResult,
        out: &mut Vec<Command>,
    ) -> IoResult {
        let IoResult::Failed(errno) = result else { return result };
        if !UNSUPPORTED.contains(&errno) || !self.is_flush(owner) {
            return result;
        }
        let before = self.write_ordering();
        if let Some(backing) = self.devices[d].backing.as_deref_mut() {
            backing.cannot_flush = true;
        }
        let text = format!("local disk FLUSH FAILED with status -{errno}");
        self.log("flush-unsupported", Level::Warning, self.device_subject(d), text, out);
        self.tell_write_ordering(before, out);
        IoResult::Done
    }

    fn is_flush(&self, owner: IoOwner) -> bool {
        match owner {
            IoOwner::EpochFlush { .. } | IoOwner::Job(JobIo::Flush) => true,
            IoOwner::Request(key) => self.requests[key].op == UpperOp::Flush,
            IoOwner::Job(JobIo::Write { .. }) | IoOwner::Peer(_) | IoOwner::Nobody => false,
        }
    }
}
