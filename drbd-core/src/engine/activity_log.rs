//! Which 4 MiB extents may be written: only those that the log on disk names, so that after a crash of the Primary
//! exactly they are taken as out of sync.
//!
//! Slots hold extents. A slot whose extent is in use has references; without references it waits in a list, least
//! recently used first, for another extent to take it over. Taking over is *staged* into the next transaction; the
//! extent is hot when that transaction is on stable storage. At most one transaction is being written, the next one
//! is collected meanwhile.
//!
//! Invariants: an extent has at most one slot; only unreferenced slots are in the list; a slot staged for a
//! transaction is referenced until that transaction is done (its waiters hold it).

use crate::limits::TRANSACTION_UPDATES_MAX;
use std::ops::RangeInclusive;

const NONE: u32 = u32::MAX;

/// A stretch of extents.
pub(super) type Extents = RangeInclusive<u32>;

#[derive(Clone, Copy, Debug)]
struct Slot {
    extent: u32,
    references: u32,
    /// The transaction that makes it hot.
    hot_after: u64,
    /// Links of the list of unreferenced slots.
    older: u32,
    newer: u32,
    /// Next slot of the same hash chain.
    chain: u32,
}

/// One change a transaction tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Update {
    pub(super) slot: u32,
    pub(super) extent: u32,
}

/// What [`ActivityLog::begin`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// Referenced, and hot: write now.
    Hot,
    /// Referenced; hot when that transaction is done.
    After(u64),
    /// Not referenced: no slot can be taken over now. Try again when something ended or was committed.
    Full,
}

/// The activity log of one device.
#[derive(Debug)]
pub(super) struct ActivityLog {
    slots: Vec<Slot>,
    heads: Vec<u32>,
    oldest: u32,
    newest: u32,
    /// What the log on disk says of each slot.
    on_disk: Vec<u32>,
    staged: Vec<Update>,
    evicted: Vec<u32>,
    writing: Vec<Update>,
    /// Transactions begun and done.
    begun: u64,
    done: u64,
    context_start: u32,
    /// Slots with references.
    referenced: u32,
}

impl ActivityLog {
    /// An empty log of that many slots.
    pub(super) fn new(slots: u32) -> ActivityLog {
        let empty = Slot { extent: NONE, references: 0, hot_after: 0, older: NONE, newer: NONE, chain: NONE };
        let mut log = ActivityLog {
            slots: vec![empty; slots as usize],
            heads: vec![NONE; (slots as usize * 2).next_power_of_two()],
            oldest: NONE,
            newest: NONE,
            on_disk: vec![NONE; slots as usize],
            staged: Vec::with_capacity(TRANSACTION_UPDATES_MAX),
            evicted: Vec::with_capacity(TRANSACTION_UPDATES_MAX),
            writing: Vec::with_capacity(TRANSACTION_UPDATES_MAX),
            begun: 0,
            done: 0,
            context_start: 0,
            referenced: 0,
        };
        for slot in 0..slots {
            log.link_newest(slot);
        }
        log
    }

    /// References all extents of a write; see [`Begin`].
    pub(super) fn begin(&mut self, extents: Extents) -> Begin {
        let missing = extents.clone().filter(|&e| self.find(e).is_none()).count();
        if missing > 0 && !self.has_room(missing, &extents) {
            return Begin::Full;
        }
        let mut hot_after = 0;
        // First those that have a slot: they must not be taken over by the others.
        for extent in extents.clone() {
            if let Some(slot) = self.find(extent) {
                self.reference(slot);
                hot_after = hot_after.max(self.slots[slot as usize].hot_after);
            }
        }
        if missing > 0 {
            for extent in extents {
                if self.find(extent).is_none() {
                    let slot = self.take_over(extent);
                    hot_after = hot_after.max(self.slots[slot as usize].hot_after);
                }
            }
        }
        if hot_after <= self.done {
            Begin::Hot
        } else {
            Begin::After(hot_after)
        }
    }

    /// Drops the references of [`ActivityLog::begin`].
    pub(super) fn end(&mut self, extents: Extents) {
        for extent in extents {
            let slot = self.find(extent).expect("a referenced extent has a slot");
            let entry = &mut self.slots[slot as usize];
            entry.references -= 1;
            if entry.references == 0 {
                self.referenced -= 1;
                self.link_newest(slot);
            }
        }
    }

    /// Extents with writes under way.
    pub(super) fn referenced(&self) -> u32 {
        self.referenced
    }

    /// Whether a transaction is waiting to be written and none is being written.
    pub(super) fn transaction_due(&self) -> bool {
        !self.staged.is_empty() && self.begun == self.done
    }

    /// Begins the next transaction; the extents it takes out of the log must have their bitmap written first.
    pub(super) fn begin_transaction(&mut self, evicted: &mut Vec<u32>) {
        debug_assert!(self.transaction_due());
        self.begun += 1;
        std::mem::swap(&mut self.writing, &mut self.staged);
        evicted.append(&mut self.evicted);
    }

    /// The transaction being written is on stable storage.
    pub(super) fn transaction_done(&mut self) {
        debug_assert_eq!(self.begun, self.done + 1);
        for update in self.writing.drain(..) {
            self.on_disk[update.slot as usize] = update.extent;
        }
        self.done += 1;
        let window = crate::limits::TRANSACTION_CONTEXT as u32;
        self.context_start += window;
        if self.context_start >= self.slots.len() as u32 {
            self.context_start = 0;
        }
    }

    /// Transactions done.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// The number of the transaction being written, its updates, the first slot of its context, and what the log on
    /// disk says of every slot before it.
    pub(super) fn transaction(&self) -> (u64, &[Update], u32, &[u32]) {
        (self.begun, &self.writing, self.context_start, &self.on_disk)
    }

    /// Extents the log on disk names, or may name when the transaction being written gets through.
    pub(super) fn named_on_disk(&self) -> impl Iterator<Item = u32> + '_ {
        let written = self.on_disk.iter().copied();
        written.chain(self.writing.iter().map(|u| u.extent)).filter(|&e| e != NONE)
    }

    fn has_room(&self, missing: usize, extents: &Extents) -> bool {
        if self.staged.len() + missing > TRANSACTION_UPDATES_MAX {
            return false;
        }
        let mut slot = self.oldest;
        let mut usable = 0;
        while slot != NONE && usable < missing {
            let entry = &self.slots[slot as usize];
            // An unreferenced extent of this very write is about to be referenced.
            usable += usize::from(!extents.contains(&entry.extent));
            slot = entry.newer;
        }
        usable == missing
    }

    fn take_over(&mut self, extent: u32) -> u32 {
        let slot = self.oldest;
        self.unlink(slot);
        let old = self.slots[slot as usize].extent;
        if old != NONE {
            self.unchain(slot);
            self.evicted.push(old);
        }
        let bucket = self.bucket(extent);
        let entry = &mut self.slots[slot as usize];
        entry.extent = extent;
        entry.references = 1;
        self.referenced += 1;
        entry.hot_after = self.begun + 1;
        entry.chain = self.heads[bucket];
        self.heads[bucket] = slot;
        self.staged.push(Update { slot, extent });
        slot
    }

    fn reference(&mut self, slot: u32) {
        if self.slots[slot as usize].references == 0 {
            self.referenced += 1;
            self.unlink(slot);
        }
        self.slots[slot as usize].references += 1;
    }

    fn bucket(&self, extent: u32) -> usize {
        extent.wrapping_mul(0x9e37_79b1) as usize & (self.heads.len() - 1)
    }

    fn find(&self, extent: u32) -> Option<u32> {
        let mut slot = self.heads[self.bucket(extent)];
        while slot != NONE {
            let entry = &self.slots[slot as usize];
            if entry.extent == extent {
                return Some(slot);
            }
            slot = entry.chain;
        }
        None
    }

    fn unchain(&mut self, slot: u32) {
        let bucket = self.bucket(self.slots[slot as usize].extent);
        let next = self.slots[slot as usize].chain;
        if self.heads[bucket] == slot {
            self.heads[bucket] = next;
            return;
        }
        let mut at = self.heads[bucket];
        while self.slots[at as usize].chain != slot {
            at = self.slots[at as usize].chain;
        }
        self.slots[at as usize].chain = next;
    }

    fn link_newest(&mut self, slot: u32) {
        let before = self.newest;
        self.slots[slot as usize].older = before;
        self.slots[slot as usize].newer = NONE;
        match before {
            NONE => self.oldest = slot,
            _ => self.slots[before as usize].newer = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { older, newer, .. } = self.slots[slot as usize];
        match older {
            NONE => self.oldest = newer,
            _ => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.slots[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests;
