//! Words of the bitmap of which bits were cleared for blocks that were copied here and may still be in the cache of the
//! disk. A loss of power would take them back, and the peer has cleared its bits: so on disk such a word says that all of
//! its blocks are out of sync, until a flush that began later is done. A bit per word is precise enough for that.

/// The words of all slots.
#[derive(Debug)]
pub(super) struct Unflushed {
    slots: u64,
    /// Since the last flush began.
    since: Vec<u64>,
    /// Before that.
    before: Vec<u64>,
}

impl Unflushed {
    /// None yet, of that many slots.
    pub(super) fn new(slots: usize) -> Unflushed {
        Unflushed { slots: slots as u64, since: Vec::new(), before: Vec::new() }
    }

    /// Its place in `since` and `before`.
    fn place(&self, slot: usize, word: u64) -> (usize, u64) {
        let at = word * self.slots + slot as u64;
        ((at / 64) as usize, 1 << (at % 64))
    }

    /// A bit of that word was cleared.
    pub(super) fn note(&mut self, slot: usize, word: u64) {
        let (at, mask) = self.place(slot, word);
        if self.since.len() <= at {
            self.since.resize(at + 1, 0);
        }
        self.since[at] |= mask;
    }

    /// Whether it is one of them.
    pub(super) fn has(&self, slot: usize, word: u64) -> bool {
        let (at, mask) = self.place(slot, word);
        [&self.since, &self.before].into_iter().any(|list| list.get(at).is_some_and(|w| w & mask != 0))
    }

    /// What that slot says does not count any more.
    pub(super) fn forget(&mut self, slot: usize) {
        for list in [&mut self.since, &mut self.before] {
            for at in (slot..list.len() * 64).step_by(self.slots as usize) {
                list[at / 64] &= !(1 << (at % 64));
            }
        }
    }

    /// What is noted from here on, the flush does not cover.
    pub(super) fn flush_begins(&mut self) {
        let since = std::mem::take(&mut self.since);
        if self.before.len() < since.len() {
            self.before.resize(since.len(), 0);
        }
        for (before, since) in self.before.iter_mut().zip(since) {
            *before |= since;
        }
    }

    /// The words it covered, by slot.
    pub(super) fn flush_done(&mut self) -> impl Iterator<Item = (usize, u64)> {
        let slots = self.slots;
        let before = std::mem::take(&mut self.before);
        let places = 0..before.len() as u64 * 64;
        places
            .filter(move |n| before[(n / 64) as usize] >> (n % 64) & 1 == 1)
            .map(move |n| ((n % slots) as usize, n / slots))
    }
}
