use super::{ActivityLog, Begin, Extents, NONE};
use crate::limits::TRANSACTION_UPDATES_MAX;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A writer that holds references, and since which transaction its extents are hot.
struct Holder {
    extents: Extents,
    hot_after: u64,
}

/// What is observable from outside: who holds what, and what the log on disk says.
struct Run {
    log: ActivityLog,
    holders: Vec<Holder>,
    /// Slots as the transactions that reached the disk say.
    disk: BTreeMap<u32, u32>,
    writing: Vec<(u32, u32)>,
    under_way: bool,
}

impl Run {
    fn new(slots: u32) -> Run {
        let log = ActivityLog::new(slots);
        Run { log, holders: Vec::new(), disk: BTreeMap::new(), writing: Vec::new(), under_way: false }
    }

    fn begin(&mut self, extents: Extents) -> Begin {
        let begun = self.log.begin(extents.clone());
        match begun {
            Begin::Hot => self.holders.push(Holder { extents, hot_after: 0 }),
            Begin::After(hot_after) => self.holders.push(Holder { extents, hot_after }),
            Begin::Full => {}
        }
        begun
    }

    /// Ends a writer; only one that was let to write can end.
    fn end(&mut self, which: usize) {
        let done = self.log.done();
        let ready: Vec<usize> =
            (0..self.holders.len()).filter(|&at| self.holders[at].hot_after <= done).collect();
        if !ready.is_empty() {
            let holder = self.holders.swap_remove(ready[which % ready.len()]);
            self.log.end(holder.extents);
        }
    }

    fn write(&mut self) {
        if self.under_way || !self.log.transaction_due() {
            return;
        }
        let mut evicted = Vec::new();
        self.log.begin_transaction(&mut evicted);
        self.under_way = true;
        let (_, updates, ..) = self.log.transaction();
        assert!(!updates.is_empty() && updates.len() <= TRANSACTION_UPDATES_MAX);
        let slots: BTreeSet<u32> = updates.iter().map(|u| u.slot).collect();
        assert_eq!(slots.len(), updates.len(), "a transaction tells of a slot once");
        self.writing = updates.iter().map(|u| (u.slot, u.extent)).collect();
        // Exactly what the transaction overwrites is taken out: its bitmap must be written first.
        let mut overwritten: Vec<u32> =
            self.writing.iter().filter_map(|(slot, _)| self.disk.get(slot).copied()).collect();
        overwritten.sort_unstable();
        evicted.sort_unstable();
        assert_eq!(evicted, overwritten);
    }

    fn written(&mut self) {
        if self.under_way {
            self.log.transaction_done();
            self.under_way = false;
            self.disk.extend(self.writing.drain(..));
        }
    }

    fn check(&self) {
        let mut seen = BTreeSet::new();
        for slot in self.log.slots.iter().filter(|s| s.extent != NONE) {
            assert!(seen.insert(slot.extent), "extent {} has two slots", slot.extent);
        }
        for holder in &self.holders {
            for extent in holder.extents.clone() {
                let references = self.holders.iter().filter(|h| h.extents.contains(&extent)).count();
                let slot = self.log.find(extent).expect("a referenced extent has a slot");
                assert_eq!(self.log.slots[slot as usize].references as usize, references);
                if holder.hot_after <= self.log.done() {
                    assert!(
                        self.disk.values().any(|&e| e == extent),
                        "{extent} is written and not in the log"
                    );
                }
            }
        }
        let named: BTreeSet<u32> = self.log.named_on_disk().collect();
        let writing = self.writing.iter().map(|u| u.1);
        let expected: BTreeSet<u32> = self.disk.values().copied().chain(writing).collect();
        assert_eq!(named, expected);
        self.check_list();
    }

    /// The list holds exactly the slots without references.
    fn check_list(&self) {
        let mut listed = BTreeSet::new();
        let mut slot = self.log.oldest;
        while slot != NONE {
            assert!(listed.insert(slot), "the list is a circle");
            slot = self.log.slots[slot as usize].newer;
        }
        let slots = self.log.slots.iter().enumerate();
        let free: BTreeSet<u32> = slots.filter(|(_, s)| s.references == 0).map(|(n, _)| n as u32).collect();
        assert_eq!(listed, free);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Begin { first: u32, len: u32 },
    End(usize),
    Write,
    Written,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..300_u32, 0..3_u32).prop_map(|(first, len)| Step::Begin { first, len }),
        5 => any::<usize>().prop_map(Step::End),
        2 => Just(Step::Write),
        2 => Just(Step::Written),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hot_extents_are_always_in_the_log_on_disk(
        slots in 3..80_u32,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new(slots);
        for step in steps {
            match step {
                Step::Begin { first, len } => {
                    run.begin(first..=first + len);
                }
                Step::End(which) => run.end(which),
                Step::Write => run.write(),
                Step::Written => run.written(),
            }
            run.check();
        }
    }

    /// Whoever finds no room finds it when everything that is under way has ended.
    #[test]
    fn nobody_starves(firsts in prop::collection::vec(0..100_u32, 1..100)) {
        let mut run = Run::new(67);
        for first in firsts {
            while run.begin(first..=first + 32) == Begin::Full {
                run.written();
                run.write();
                run.written();
                prop_assert!(!run.holders.is_empty() || run.log.staged.is_empty());
                run.end(0);
                run.check();
            }
        }
    }
}

#[test]
fn an_extent_is_hot_when_its_transaction_is_written() {
    let mut run = Run::new(8);
    assert_eq!(run.begin(5..=5), Begin::After(1));
    run.write();
    assert_eq!(run.begin(5..=5), Begin::After(1), "another writer of the same extent waits for the same one");
    assert_eq!(run.begin(6..=6), Begin::After(2), "one that comes later waits for the next");
    run.written();
    assert_eq!(run.begin(5..=5), Begin::Hot);
    assert_eq!(run.begin(5..=6), Begin::After(2), "a write is as hot as its coldest extent");
}

#[test]
fn the_least_recently_used_is_taken_over() {
    let mut run = Run::new(3);
    for extent in [1, 2, 3] {
        run.begin(extent..=extent);
        run.write();
        run.written();
        run.end(0);
    }
    assert_eq!(run.begin(1..=1), Begin::Hot);
    run.end(0);
    assert_eq!(run.begin(4..=4), Begin::After(4));
    let left: BTreeSet<u32> = run.log.slots.iter().map(|s| s.extent).collect();
    assert_eq!(left, [1, 3, 4].into(), "2 was used longest ago");
}

#[test]
fn no_transaction_tells_more_than_fits_into_it() {
    let mut run = Run::new(200);
    for extent in 0..TRANSACTION_UPDATES_MAX as u32 {
        assert_eq!(run.begin(extent..=extent), Begin::After(1));
    }
    assert_eq!(run.begin(500..=500), Begin::Full);
    assert_eq!(run.begin(63..=63), Begin::After(1), "what is staged already needs no room");
    run.write();
    assert_eq!(run.begin(500..=500), Begin::After(2));
}

#[test]
fn a_full_log_lets_nobody_in_until_somebody_leaves() {
    let mut run = Run::new(2);
    run.begin(1..=2);
    assert_eq!(run.begin(3..=3), Begin::Full);
    run.write();
    run.written();
    assert_eq!(run.begin(3..=3), Begin::Full);
    run.end(0);
    assert_eq!(run.begin(2..=3), Begin::After(2), "its own extents are not taken over for the others");
    run.check();
}

#[test]
fn the_context_goes_round_all_slots() {
    let mut run = Run::new(2000);
    let mut starts = Vec::new();
    for extent in 0..4 {
        run.begin(extent..=extent);
        run.write();
        starts.push(run.log.transaction().2);
        run.written();
    }
    assert_eq!(starts, [0, 919, 1838, 0]);
}
