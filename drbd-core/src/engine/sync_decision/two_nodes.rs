//! Two nodes that meet with any pasts that can arise: they agree, no acknowledged write is lost without split brain
//! being called, and the bitmaps name every block that differs.

use super::tests::{ordinary, reverse};
use super::{decide, Action, Decision, FailReason, SyncInput};
use crate::engine::generation::{CompareContext, GenerationSet};
use crate::states::DiskState;
use crate::wire::{uuid_flag, Uuids};
use proptest::prelude::{
    any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest, ProptestConfig, Strategy,
};
use proptest::test_runner::TestCaseError;
use std::collections::BTreeSet;

/// What can happen to two copies. Between happenings they have no contact.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// A node is written alone.
    Write { first: bool, was_primary: bool },
    /// A Primary crashes while connected, a write having reached only its own disk.
    Crash { first: bool },
    /// A node gets fresh metadata.
    Forget { first: bool },
    /// They meet; a resync is cut off after so many of its five steps.
    Meet { steps: u8 },
}

#[derive(Clone)]
struct Node {
    set: GenerationSet,
    disk: DiskState,
    crashed: bool,
    /// Blocks by the number of the one write each got.
    data: BTreeSet<u32>,
    out_of_sync: BTreeSet<u32>,
    all_out_of_sync: bool,
}

impl Node {
    fn fresh() -> Node {
        Node {
            set: GenerationSet::JUST_CREATED,
            disk: DiskState::Inconsistent,
            crashed: false,
            data: BTreeSet::new(),
            out_of_sync: BTreeSet::new(),
            all_out_of_sync: false,
        }
    }

    fn announced(&self) -> Uuids {
        let [younger, older] = self.set.wire_history();
        let flags = if self.crashed { uuid_flag::CRASHED_PRIMARY } else { 0 };
        let (current, bitmap) = (self.set.current, self.set.bitmap);
        Uuids { current, bitmap, history: [younger, older], bits: 0, flags }
    }

    fn write(&mut self, block: u32, was_primary: bool) {
        let force = self.set.is_just_created();
        if self.disk != DiskState::UpToDate && !force {
            return;
        }
        self.disk = DiskState::UpToDate;
        self.set.mark_role(was_primary);
        self.set.begin_apart(false, (u64::from(block) + 1) << 8, true);
        self.data.insert(block);
        self.out_of_sync.insert(block);
    }

    fn clear_bitmap(&mut self) {
        self.out_of_sync.clear();
        self.all_out_of_sync = false;
    }
}

#[derive(Clone)]
struct Pair {
    nodes: [Node; 2],
    resolve_first: bool,
    /// Writes nobody was told about: they may be lost.
    unacknowledged: BTreeSet<u32>,
}

impl Pair {
    fn happen(&mut self, block: u32, what: Happening) -> Result<(), TestCaseError> {
        match what {
            Happening::Write { first, was_primary } => {
                self.nodes[usize::from(!first)].write(block, was_primary);
            }
            Happening::Crash { first } => self.crash(usize::from(!first), block),
            Happening::Forget { first } => self.nodes[usize::from(!first)] = Node::fresh(),
            Happening::Meet { steps } => self.meet(steps, block)?,
        }
        Ok(())
    }

    fn crash(&mut self, node: usize, block: u32) {
        let equal = |n: &Node| n.set.bitmap == 0 && n.disk == DiskState::UpToDate;
        let in_sync = self.nodes[0].set.current | 1 == self.nodes[1].set.current | 1;
        if !in_sync || !self.nodes.iter().all(equal) {
            return;
        }
        let node = &mut self.nodes[node];
        node.crashed = true;
        node.data.insert(block);
        node.out_of_sync.insert(block);
        self.unacknowledged.insert(block);
    }

    fn decisions(&self) -> [Decision; 2] {
        [0, 1].map(|n| {
            let (own, peer) = (&self.nodes[n], &self.nodes[1 - n]);
            let context = CompareContext {
                crashed_primary: own.crashed,
                resolve_conflicts: (n == 0) == self.resolve_first,
                ..ordinary().context
            };
            let announced = peer.announced();
            let (disk, peer_disk) = (own.disk, peer.disk);
            decide(&SyncInput { own: &own.set, peer: &announced, context, disk, peer_disk, ..ordinary() })
        })
    }

    fn meet(&mut self, steps: u8, block: u32) -> Result<(), TestCaseError> {
        let [here, there] = self.decisions();
        // A source that finds itself Inconsistent ends it for both.
        let no_source =
            |d: &Decision| matches!(d.action, Action::Fail { reason: FailReason::SourceInconsistent, .. });
        if no_source(&here) || no_source(&there) {
            return Ok(());
        }
        prop_assert_eq!(here.action, reverse(there.action), "{}\n{}", here.sentence, there.sentence);
        let mut announced = [self.nodes[0].announced(), self.nodes[1].announced()];
        for (n, decision) in [&here, &there].into_iter().enumerate() {
            if let Some(repair) = decision.repair {
                repair.apply(&mut self.nodes[n].set, &mut announced[1 - n]);
            }
        }
        match here.action {
            Action::None => self.expect_equal(&here)?,
            Action::Source { full } => self.resync(0, full, steps, block, &here)?,
            Action::Target { full } => self.resync(1, full, steps, block, &here)?,
            Action::Fail { .. } => {}
        }
        Ok(())
    }

    fn expect_equal(&mut self, decision: &Decision) -> Result<(), TestCaseError> {
        let [a, b] = &mut self.nodes;
        if a.disk == DiskState::UpToDate && b.disk == DiskState::UpToDate {
            prop_assert_eq!(&a.data, &b.data, "{}", decision.sentence);
            (a.crashed, b.crashed) = (false, false);
        }
        Ok(())
    }

    fn resync(
        &mut self,
        source: usize,
        full: bool,
        steps: u8,
        block: u32,
        decision: &Decision,
    ) -> Result<(), TestCaseError> {
        let (first, second) = self.nodes.split_at_mut(1);
        let (source, target) =
            if source == 0 { (&mut first[0], &mut second[0]) } else { (&mut second[0], &mut first[0]) };
        let names: BTreeSet<u32> = source.out_of_sync.union(&target.out_of_sync).copied().collect();
        let all = full || source.all_out_of_sync || target.all_out_of_sync;
        for node in [&mut *source, &mut *target] {
            node.all_out_of_sync = all;
            node.out_of_sync.clone_from(&names);
        }
        let differ: BTreeSet<u32> = source.data.symmetric_difference(&target.data).copied().collect();
        prop_assert!(all || differ.is_subset(&names), "the bitmaps miss {differ:?}: {}", decision.sentence);
        if target.disk == DiskState::UpToDate {
            let lost: Vec<&u32> = target.data.difference(&source.data).collect();
            let told = lost.iter().all(|block| self.unacknowledged.contains(block));
            prop_assert!(told, "{lost:?} are lost: {}", decision.sentence);
        }
        source.set.get_ahead_of(&target.announced(), (u64::from(block) + 1) << 8, false);
        let announced = source.announced();
        let mut name = 0;
        for step in 0..steps {
            match step {
                0 => name = source.set.begin_resync_as_source((u64::from(block) + 1) << 16),
                1 => {
                    target.set.begin_resync_as_target(name, false);
                    target.disk = DiskState::Inconsistent;
                }
                2 => {
                    target.set.finish_resync_as_target(&announced, false);
                    target.data.clone_from(&source.data);
                    target.disk = DiskState::UpToDate;
                    target.crashed = false;
                    target.clear_bitmap();
                }
                // The write of the super block is torn: the history is in a sector of its own.
                3 => {
                    let bitmap = source.set.bitmap;
                    source.set.finish_resync_as_source();
                    source.set.bitmap = bitmap;
                    source.clear_bitmap();
                }
                _ => {
                    source.set.bitmap = 0;
                    source.crashed = false;
                }
            }
        }
        Ok(())
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = any::<bool>();
    prop_oneof![
        4 => (node, any::<bool>()).prop_map(|(first, was_primary)| Happening::Write { first, was_primary }),
        1 => node.prop_map(|first| Happening::Crash { first }),
        1 => node.prop_map(|first| Happening::Forget { first }),
        6 => (0u8..=5).prop_map(|steps| Happening::Meet { steps }),
    ]
}

/// Every happening there is.
fn happenings() -> Vec<Happening> {
    let mut all = Vec::new();
    for first in [true, false] {
        let written = [true, false].map(|was_primary| Happening::Write { first, was_primary });
        all.extend(written);
        all.extend([Happening::Crash { first }, Happening::Forget { first }]);
    }
    all.extend((0..=5).map(|steps| Happening::Meet { steps }));
    all
}

/// Walks through every past of that many happenings more; returns how many there are.
fn every_past(pair: &Pair, depth: u32, block: u32, all: &[Happening], told: &mut Vec<Happening>) -> usize {
    let mut end = pair.clone();
    if let Err(e) = end.happen(block, Happening::Meet { steps: 5 }) {
        panic!("{e}, after {told:?}");
    }
    let mut count = 1;
    for &what in all.iter().filter(|_| depth > 0) {
        let mut next = pair.clone();
        told.push(what);
        if let Err(e) = next.happen(block, what) {
            panic!("{e}, after {told:?}");
        }
        count += every_past(&next, depth - 1, block + 1, all, told);
        told.pop();
    }
    count
}

/// Up to five happenings to nodes in sync, up to four to new ones: equal is only what is equal, and no acknowledged
/// write is lost by a resync.
#[test]
fn every_past_of_a_few_happenings() {
    let all = happenings();
    let mut count = 0;
    for resolve_first in [true, false] {
        let nodes = [Node::fresh(), Node::fresh()];
        let fresh = Pair { nodes, resolve_first, unacknowledged: BTreeSet::new() };
        count += every_past(&fresh, 4, 10, &all, &mut Vec::new());
        let mut in_sync = fresh;
        for what in [Happening::Write { first: true, was_primary: true }, Happening::Meet { steps: 5 }] {
            in_sync.happen(1, what).expect("an ordinary beginning");
        }
        count += every_past(&in_sync, 5, 10, &all, &mut Vec::new());
    }
    println!("{count} pasts");
    assert!(count > 800_000, "{count} pasts");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn agree_and_lose_nothing(
        happenings in prop::collection::vec(happening(), 1..14),
        resolve_first in any::<bool>(),
    ) {
        let nodes = [Node::fresh(), Node::fresh()];
        let mut pair = Pair { nodes, resolve_first, unacknowledged: BTreeSet::new() };
        for (block, what) in happenings.into_iter().enumerate() {
            pair.happen(block as u32, what)?;
        }
        pair.happen(99, Happening::Meet { steps: 5 })?;
    }
}
