//! Overlapping operations on a device take turns, in the order in which they came.
//!
//! Everything that writes to a device, and every read that must not run beside a write (a resync source's), enters
//! here before it starts and leaves when it is done. An entry may start when no earlier entry overlaps it, two reads
//! aside. Entries of up to 1 MiB lie in at most two of a fixed number of buckets; larger ones (discards) in a list of
//! their own that everyone looks at.

use super::super::slab::Slab;
use crate::ids::Sector;

const BUCKETS: usize = 512;
const BUCKET_SHIFT: u32 = 11; // 1 MiB of sectors

/// Number of an entry.
pub(in super::super) type ConflictId = u32;

/// Who waits or works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Owner {
    /// A request of the front end.
    Request(u32),
    /// A peer request.
    Peer(u32),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    first: u64,
    end: u64,
    order: u64,
    writes: bool,
    waiting: bool,
    owner: Owner,
}

impl Entry {
    fn excludes(&self, other: &Entry) -> bool {
        self.first < other.end && other.first < self.end && (self.writes || other.writes)
    }
}

/// The operations on one device.
#[derive(Debug)]
pub(in super::super) struct Conflicts {
    entries: Slab<Entry>,
    buckets: Vec<Vec<ConflictId>>,
    large: Vec<ConflictId>,
    next_order: u64,
    waiting: usize,
    /// Reused list of those that may start.
    candidates: Vec<(u64, ConflictId)>,
}

impl Conflicts {
    /// Room for that many operations.
    pub(in super::super) fn new(capacity: usize) -> Conflicts {
        Conflicts {
            entries: Slab::new(capacity),
            buckets: (0..BUCKETS).map(|_| Vec::with_capacity(16)).collect(),
            large: Vec::new(),
            next_order: 0,
            waiting: 0,
            candidates: Vec::with_capacity(64),
        }
    }

    /// Whether nothing is under way.
    pub(in super::super) fn is_idle(&self) -> bool {
        self.entries.len() == 0
    }

    /// Enters an operation; true if it may start now, else [`Conflicts::leave`] of another one will name it.
    pub(in super::super) fn enter(
        &mut self,
        sector: Sector,
        bytes: u32,
        writes: bool,
        owner: Owner,
    ) -> (ConflictId, bool) {
        let end = sector.end_of(bytes).0;
        let entry = Entry { first: sector.0, end, order: self.next_order, writes, waiting: false, owner };
        self.next_order += 1;
        let waits = self.blocked(&entry);
        let id = self.entries.insert(Entry { waiting: waits, ..entry });
        self.waiting += usize::from(waits);
        match buckets_of(&entry) {
            Some((a, b)) => {
                self.buckets[a].push(id);
                if a != b {
                    self.buckets[b].push(id);
                }
            }
            None => self.large.push(id),
        }
        (id, !waits)
    }

    /// Whether an operation of that stretch would have to wait now.
    pub(in super::super) fn would_wait(&self, sector: Sector, bytes: u32, writes: bool) -> bool {
        let end = sector.end_of(bytes).0;
        let owner = Owner::Request(u32::MAX);
        self.blocked(&Entry { first: sector.0, end, order: u64::MAX, writes, waiting: false, owner })
    }

    /// Ends an operation; the owners that may start now are appended to `ready`.
    pub(in super::super) fn leave(&mut self, id: ConflictId, ready: &mut Vec<Owner>) {
        let entry = self.entries.remove(id);
        self.waiting -= usize::from(entry.waiting);
        match buckets_of(&entry) {
            Some((a, b)) => {
                forget(&mut self.buckets[a], id);
                if a != b {
                    forget(&mut self.buckets[b], id);
                }
            }
            None => forget(&mut self.large, id),
        }
        if self.waiting > 0 {
            self.wake(&entry, ready);
        }
    }

    fn wake(&mut self, gone: &Entry, ready: &mut Vec<Owner>) {
        let mut candidates = std::mem::take(&mut self.candidates);
        let entries = &self.entries;
        let waits = |e: &Entry| e.waiting && e.excludes(gone);
        match buckets_of(gone) {
            Some((a, b)) => {
                let second = if a == b { &[][..] } else { &self.buckets[b] };
                let near = self.buckets[a].iter().chain(second).chain(&self.large);
                let near = near.map(|&id| (entries[id].order, id));
                candidates.extend(near.filter(|&(_, id)| waits(&entries[id])));
            }
            None => candidates.extend(entries.iter().filter(|(_, e)| waits(e)).map(|(id, e)| (e.order, id))),
        }
        // What lies in both buckets was found twice.
        candidates.sort_unstable();
        candidates.dedup();
        for (_, id) in candidates.drain(..) {
            let entry = self.entries[id];
            if !self.blocked(&entry) {
                self.entries[id].waiting = false;
                self.waiting -= 1;
                ready.push(entry.owner);
            }
        }
        self.candidates = candidates;
    }

    fn blocked(&self, entry: &Entry) -> bool {
        let stops = |id: &ConflictId| {
            let other = &self.entries[*id];
            other.order < entry.order && other.excludes(entry)
        };
        match buckets_of(entry) {
            Some((a, b)) => {
                self.buckets[a].iter().any(stops)
                    || (a != b && self.buckets[b].iter().any(stops))
                    || self.large.iter().any(stops)
            }
            None => self.entries.iter().any(|(id, _)| stops(&id)),
        }
    }
}

fn buckets_of(entry: &Entry) -> Option<(usize, usize)> {
    let first = entry.first >> BUCKET_SHIFT;
    let last = (entry.end.max(entry.first + 1) - 1) >> BUCKET_SHIFT;
    (last - first <= 1).then_some((first as usize % BUCKETS, last as usize % BUCKETS))
}

fn forget(list: &mut Vec<ConflictId>, id: ConflictId) {
    let at = list.iter().position(|&other| other == id).expect("an entry is in its bucket");
    list.swap_remove(at);
}

#[cfg(test)]
mod tests;
