//! Overlapping operations on a device take turns, in the order in which they came.
//!
//! Everything that writes to a device, and every read that must not run beside a write (a resync source's), enters
//! here before it starts and leaves when it is done. An entry may start when no earlier entry overlaps it, two reads
//! aside. Entries of up to 1 MiB lie in at most two of a fixed number of buckets; larger ones (discards) in a list of
//! their own that everyone looks at.
//!
//! With two Primaries the peer's operations go before own requests that have not begun (and so are unknown to the
//! peer): a request that has its turn but still waits for the activity log asks again when it begins.

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
    /// Works: everyone else waits for it.
    begun: bool,
    /// An own request that is done once more.
    again: bool,
    owner: Owner,
}

impl Entry {
    /// After all others.
    fn new(sector: Sector, bytes: u32, writes: bool, owner: Owner) -> Entry {
        Entry {
            first: sector.0,
            end: sector.end_of(bytes).0,
            order: u64::MAX,
            writes,
            waiting: false,
            begun: false,
            again: false,
            owner,
        }
    }

    fn of_peer(&self) -> bool {
        matches!(self.owner, Owner::Peer(_))
    }

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
    /// The peer's operations go before own ones that have not begun.
    peers_first: bool,
    /// Somebody went before others at least once: whoever has his turn asks again when he begins.
    overtaking: bool,
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
            peers_first: false,
            overtaking: false,
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
        self.insert(Entry::new(sector, bytes, writes, owner))
    }

    /// Enters a write of this node once more. It is older than own requests that have not begun, and goes before them: it
    /// may hold the very extents of the activity log that they wait for.
    pub(in super::super) fn enter_again(
        &mut self,
        sector: Sector,
        bytes: u32,
        owner: Owner,
    ) -> (ConflictId, bool) {
        self.overtaking = true;
        self.insert(Entry { again: true, ..Entry::new(sector, bytes, true, owner) })
    }

    fn insert(&mut self, entry: Entry) -> (ConflictId, bool) {
        let entry = Entry { order: self.next_order, ..entry };
        self.next_order += 1;
        let waits = self.blocked(&entry);
        let begun = !waits && entry.of_peer();
        let id = self.entries.insert(Entry { waiting: waits, begun, ..entry });
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
        self.blocked(&Entry::new(sector, bytes, writes, Owner::Request(u32::MAX)))
    }

    /// An own request that has its turn begins; false if a peer's operation went before it: then it waits again.
    pub(in super::super) fn begin(&mut self, id: ConflictId) -> bool {
        if self.overtaking && self.blocked(&self.entries[id]) {
            self.entries[id].waiting = true;
            self.waiting += 1;
            return false;
        }
        self.entries[id].begun = true;
        true
    }

    /// Whether the peer's operations go before own ones that have not begun; who may start by that is appended to
    /// `ready`.
    pub(in super::super) fn set_peers_first(&mut self, peers_first: bool, ready: &mut Vec<Owner>) {
        if self.peers_first == peers_first {
            return;
        }
        self.peers_first = peers_first;
        self.overtaking = true;
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.extend(self.entries.iter().filter(|(_, e)| e.waiting).map(|(id, e)| (e.order, id)));
        candidates.sort_unstable();
        self.start_unblocked(&mut candidates, ready);
        self.candidates = candidates;
    }

    /// The first own request that works on that stretch and is wanted.
    pub(in super::super) fn find_begun_request(
        &self,
        sector: Sector,
        bytes: u32,
        wanted: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let stretch = Entry::new(sector, bytes, true, Owner::Request(u32::MAX));
        let begun = |id: ConflictId| match self.entries[id] {
            Entry { begun: true, owner: Owner::Request(key), first, .. }
                if self.entries[id].excludes(&stretch) =>
            {
                Some((first, key)).filter(|&(_, key)| wanted(key))
            }
            _ => None,
        };
        let found = match buckets_of(&stretch) {
            Some((a, b)) => {
                let second = if a == b { &[][..] } else { &self.buckets[b] };
                let near = self.buckets[a].iter().chain(second).chain(&self.large);
                near.filter_map(|&id| begun(id)).min()
            }
            None => self.entries.iter().filter_map(|(id, _)| begun(id)).min(),
        };
        found.map(|(_, key)| key)
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
        self.start_unblocked(&mut candidates, ready);
        self.candidates = candidates;
    }

    fn start_unblocked(&mut self, candidates: &mut Vec<(u64, ConflictId)>, ready: &mut Vec<Owner>) {
        for (_, id) in candidates.drain(..) {
            let entry = self.entries[id];
            if !self.blocked(&entry) {
                self.entries[id].waiting = false;
                self.entries[id].begun = entry.of_peer();
                self.waiting -= 1;
                ready.push(entry.owner);
            }
        }
    }

    /// Of those that have not begun the ones with the least go first.
    fn rank(&self, entry: &Entry) -> u8 {
        match (self.peers_first && entry.of_peer(), entry.again) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        }
    }

    fn goes_before(&self, other: &Entry, entry: &Entry) -> bool {
        if other.order == entry.order {
            return false;
        }
        if other.begun {
            return true;
        }
        (self.rank(other), other.order) < (self.rank(entry), entry.order)
    }

    fn blocked(&self, entry: &Entry) -> bool {
        let stops = |id: &ConflictId| {
            let other = &self.entries[*id];
            other.excludes(entry) && self.goes_before(other, entry)
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
