//! Write ordering: epochs of writes that may be reordered among themselves, and the barriers between them.
//!
//! Sending side: a write must never share an epoch with one that was already reported to the front end, so the
//! reporting of a member closes the epoch; the barrier follows before the next write, or at once when nothing else
//! is under way or somebody waits for it.
//!
//! Receiving side: a barrier is acknowledged when every write of its epoch is on stable storage, strictly in order.
//! Under protocol C writes of later epochs need not wait for that: the front end's flush waited for the barrier, so
//! nothing that came after it is here already, and one flush serves all epochs that are complete when it begins. Under
//! A and B a flush does not wait for this node; only the order of epochs keeps what came after it from being stable
//! before what came before it. So there an epoch begins when the one before is stable.

use crate::engine::session_state::OpenEpoch;
use crate::ids::Instant;
use crate::limits::{EPOCHS_MAX, PEER_REQUESTS_MAX};
use std::collections::VecDeque;

/// How long complete epochs may wait for others to share their flush with, if nobody waits for it.
const FLUSH_DELAY_MS: u64 = 10;
/// Complete epochs that are flushed without waiting longer.
const EPOCHS_PER_FLUSH_MAX: usize = 512;

/// The epochs this node sends.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct SentEpochs {
    /// Writes sent in the current epoch.
    pub(in super::super) writes: u32,
    /// The current epoch may take no further write.
    pub(in super::super) closed: bool,
    /// Epochs whose barrier was sent and not yet acknowledged.
    pub(in super::super) unacknowledged: u32,
}

impl SentEpochs {
    /// Something was sent that the peer has to answer: writes in flight, or a barrier.
    pub(in super::super) fn waits(&self, writes_in_flight: u64) -> bool {
        writes_in_flight > 0 || self.unacknowledged > 0
    }
}

/// One epoch of the peer.
#[derive(Clone, Copy, Debug, Default)]
struct ReceivedEpoch {
    /// No further write belongs to it.
    over: bool,
    /// The barrier that ended it, if it was not the end of the session.
    barrier: Option<u32>,
    /// Writes received.
    received: u32,
    /// Those of them that count: without the ones turned away (see `two_primaries`).
    writes: u32,
    /// Writes not yet done.
    active: u32,
    /// Writes on the disk, though perhaps only in its cache.
    written: u32,
}

/// The epochs this node receives.
#[derive(Debug)]
pub(in super::super) struct ReceivedEpochs {
    /// Number of the first epoch in the queue.
    first: u64,
    /// The last one is open. Never empty.
    queue: VecDeque<ReceivedEpoch>,
    /// A flush is under way for everything before this epoch, by that many disks.
    flushing: Option<(u64, u32)>,
    /// The peer said that somebody waits for everything before this epoch.
    urged_for: u64,
    /// When complete epochs are flushed although nobody waits.
    flush_at: Option<Instant>,
    /// A planted bug: epochs count as complete with their barrier.
    #[cfg(feature = "planted-bugs")]
    early: bool,
}

impl ReceivedEpochs {
    pub(in super::super) fn new() -> ReceivedEpochs {
        let mut queue = VecDeque::with_capacity(PEER_REQUESTS_MAX + 1);
        queue.push_back(ReceivedEpoch::default());
        ReceivedEpochs {
            first: 0,
            queue,
            flushing: None,
            urged_for: 0,
            flush_at: None,
            #[cfg(feature = "planted-bugs")]
            early: false,
        }
    }

    /// Those of a session that the daemon before had: its disk has everything, and perhaps in its cache only.
    pub(in super::super) fn adopted(open: OpenEpoch) -> ReceivedEpochs {
        let mut epochs = ReceivedEpochs::new();
        let OpenEpoch { received, writes } = open;
        epochs.queue[0] = ReceivedEpoch { received, writes, written: received, ..ReceivedEpoch::default() };
        epochs
    }

    /// The open epoch, if nothing is under way: every other one is stable, and all of it is on the disk.
    pub(in super::super) fn at_rest(&self) -> Option<OpenEpoch> {
        let open = self.queue.front().filter(|e| self.queue.len() == 1 && e.active == 0)?;
        self.flushing.is_none().then_some(OpenEpoch { received: open.received, writes: open.writes })
    }

    /// Puts the planted bug in.
    #[cfg(feature = "planted-bugs")]
    pub(in super::super) fn answer_early(&mut self, early: bool) {
        self.early = early;
    }

    #[cfg(feature = "planted-bugs")]
    fn is_early(&self) -> bool {
        self.early
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[allow(clippy::unused_self)]
    const fn is_early(&self) -> bool {
        false
    }

    /// A write arrived; returns the number of its epoch for [`ReceivedEpochs::write_done`].
    pub(in super::super) fn write(&mut self) -> u64 {
        let open = self.queue.back_mut().expect("an open epoch");
        open.received += 1;
        open.writes += 1;
        open.active += 1;
        self.first + self.queue.len() as u64 - 1
    }

    /// A write is on the disk.
    pub(in super::super) fn written(&mut self, epoch: u64) {
        if let Some(epoch) = epoch.checked_sub(self.first).and_then(|n| self.queue.get_mut(n as usize)) {
            epoch.written += 1;
        }
    }

    /// Writes are on the disk that are not known to be stable.
    pub(in super::super) fn has_unstable(&self) -> bool {
        self.queue.iter().any(|e| e.written > 0)
    }

    /// Every earlier epoch is stable.
    pub(in super::super) fn is_first(&self, epoch: u64) -> bool {
        epoch == self.first
    }

    /// A write is done (or was refused).
    pub(in super::super) fn write_done(&mut self, epoch: u64) {
        if self.is_early() && epoch < self.first {
            return;
        }
        self.queue[(epoch - self.first) as usize].active -= 1;
    }

    /// A write was turned away, and its sender knows: it is no part of its epoch any more.
    pub(in super::super) fn retract(&mut self, epoch: u64) {
        if let Some(epoch) = epoch.checked_sub(self.first).and_then(|n| self.queue.get_mut(n as usize)) {
            epoch.writes -= 1;
            epoch.active -= 1;
        }
    }

    /// No further epoch fits.
    pub(in super::super) fn is_full(&self) -> bool {
        self.queue.len() >= EPOCHS_MAX
    }

    /// A barrier arrived. False if its epoch is empty, which no peer may send.
    pub(in super::super) fn barrier(&mut self, number: u32) -> bool {
        let open = self.queue.back_mut().expect("an open epoch");
        if open.received == 0 {
            return false;
        }
        open.over = true;
        open.barrier = Some(number);
        self.queue.push_back(ReceivedEpoch::default());
        true
    }

    /// The session is over, and no barrier will come.
    pub(in super::super) fn end_with_session(&mut self) {
        self.flush_at = None;
        let open = self.queue.back_mut().expect("an open epoch");
        if open.received > 0 {
            open.over = true;
            self.queue.push_back(ReceivedEpoch::default());
        }
    }

    /// Every epoch is stable.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.queue.iter().all(|e| e.received == 0)
    }

    /// Epochs of which everything is written, but not yet known to be stable, if no flush is under way.
    pub(in super::super) fn flush_due(&self) -> Option<u64> {
        if self.flushing.is_some() {
            return None;
        }
        let complete = self.queue.iter().take_while(|e| e.over && (self.is_early() || e.active == 0)).count();
        (complete > 0).then(|| self.first + complete as u64)
    }

    /// As [`ReceivedEpochs::flush_due`], but only when somebody waits, enough is waiting, or enough time has passed.
    pub(in super::super) fn flush_due_at(&mut self, now: Instant) -> Option<u64> {
        let first = self.queue.front().expect("an open epoch");
        if self.flushing.is_some() || !first.over || (first.active > 0 && !self.is_early()) {
            return None;
        }
        let at = *self.flush_at.get_or_insert(now.plus_ms(FLUSH_DELAY_MS));
        let wanted = self.first < self.urged_for || self.queue.len() > EPOCHS_PER_FLUSH_MAX || at <= now;
        if wanted {
            self.flush_due()
        } else {
            None
        }
    }

    /// The next moment [`ReceivedEpochs::flush_due_at`] is to be asked.
    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        self.flush_at.filter(|_| self.flushing.is_none())
    }

    /// Somebody waits for everything that was sent so far.
    pub(in super::super) fn urge(&mut self) {
        self.urged_for = self.first + self.queue.len() as u64 - 1;
    }

    /// `disks` flushes begin for everything before epoch `end`.
    pub(in super::super) fn begin_flush(&mut self, end: u64, disks: u32) {
        self.flush_at = None;
        self.flushing = Some((end, disks));
    }

    /// One disk is flushed; true if it was the last one.
    pub(in super::super) fn disk_flushed(&mut self) -> bool {
        let Some((_, disks)) = self.flushing.as_mut() else { return false };
        *disks -= 1;
        *disks == 0
    }

    /// After the last flush: the barrier of the next epoch, if it had one, and the number of its writes; 0 if all were
    /// turned away.
    pub(in super::super) fn next_stable(&mut self) -> Option<(Option<u32>, u32)> {
        let (end, _) = self.flushing?;
        if self.first == end {
            self.flushing = None;
            return None;
        }
        let epoch = self.queue.pop_front().expect("an epoch that was flushed");
        self.first += 1;
        Some((epoch.barrier, epoch.writes))
    }
}

#[cfg(test)]
mod tests;
