use super::{ConflictId, Conflicts, Owner};
use crate::ids::Sector;
use proptest::prelude::*;

/// One operation as the model sees it, in the order in which they came.
#[derive(Clone, Debug)]
struct Operation {
    id: ConflictId,
    owner: u32,
    first: u64,
    end: u64,
    writes: bool,
    running: bool,
}

impl Operation {
    fn excludes(&self, other: &Operation) -> bool {
        self.first < other.end && other.first < self.end && (self.writes || other.writes)
    }
}

#[derive(Default)]
struct Model(Vec<Operation>);

impl Model {
    fn may_run(&self, at: usize) -> bool {
        self.0[..at].iter().all(|earlier| !earlier.excludes(&self.0[at]))
    }

    /// What the operations that run must be after every step: exactly those no earlier one excludes.
    fn check(&self) {
        for at in 0..self.0.len() {
            assert_eq!(self.0[at].running, self.may_run(at), "{:?} in {:?}", self.0[at], self.0);
        }
    }
}

fn leave(conflicts: &mut Conflicts, model: &mut Model, at: usize) {
    let gone = model.0.remove(at);
    let mut ready = Vec::new();
    conflicts.leave(gone.id, &mut ready);
    let mut last = None;
    for owner in ready {
        let Owner::Peer(number) = owner else { panic!("only peers entered") };
        let position = model.0.iter().position(|o| o.owner == number).expect("it is in there");
        assert!(!model.0[position].running, "told twice");
        assert!(last.is_none_or(|l| l < position), "those that may start are named in order");
        last = Some(position);
        model.0[position].running = true;
    }
}

fn stretch() -> impl Strategy<Value = (u64, u32)> {
    prop_oneof![
        6 => (0..64_u64, 1..24_u32).prop_map(|(at, sectors)| (at, sectors * 512)),
        // Around the borders of the buckets, and where another megabyte falls into the same one.
        3 => (0..6_u64, 0..3_u64, 1..2048_u32)
            .prop_map(|(mib, wrap, sectors)| (mib * 2048 + wrap * 512 * 2048 + 2000, sectors * 512)),
        1 => (0..4096_u64, 1..64_u32).prop_map(|(at, mib)| (at, mib << 20)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn overlapping_operations_take_turns_in_order(
        steps in prop::collection::vec((stretch(), any::<bool>(), 0..3_u8, any::<usize>()), 1..120),
    ) {
        let mut conflicts = Conflicts::new(256);
        let mut model = Model::default();
        for (number, ((first, bytes), writes, what, which)) in steps.into_iter().enumerate() {
            let end = first + u64::from(bytes) / 512;
            if what < 2 {
                let owner = number as u32;
                let would_wait = conflicts.would_wait(Sector(first), bytes, writes);
                let (id, running) = conflicts.enter(Sector(first), bytes, writes, Owner::Peer(owner));
                prop_assert_eq!(running, !would_wait);
                model.0.push(Operation { id, owner, first, end, writes, running });
            } else {
                let running: Vec<usize> = (0..model.0.len()).filter(|&at| model.0[at].running).collect();
                if !running.is_empty() {
                    leave(&mut conflicts, &mut model, running[which % running.len()]);
                }
            }
            model.check();
        }
        // Everything runs in the end.
        while let Some(at) = model.0.iter().position(|o| o.running) {
            leave(&mut conflicts, &mut model, at);
            model.check();
        }
        prop_assert!(model.0.is_empty() && conflicts.is_idle());
    }

    /// One that never got its turn can be taken out (its session ended) without anyone losing theirs.
    #[test]
    fn one_that_waits_may_leave(which in 1..9_usize) {
        let mut conflicts = Conflicts::new(16);
        let mut model = Model::default();
        for owner in 0..10 {
            let (id, running) = conflicts.enter(Sector(0), 4096, true, Owner::Peer(owner));
            model.0.push(Operation { id, owner, first: 0, end: 8, writes: true, running });
        }
        leave(&mut conflicts, &mut model, which);
        model.check();
        while !model.0.is_empty() {
            leave(&mut conflicts, &mut model, 0);
            model.check();
        }
    }
}

#[test]
fn reads_run_side_by_side_and_writes_alone() {
    let mut conflicts = Conflicts::new(8);
    let mut enter = |writes, owner| conflicts.enter(Sector(8), 4096, writes, Owner::Request(owner));
    let (first, runs) = enter(false, 1);
    assert!(runs);
    let (second, runs) = enter(false, 2);
    assert!(runs);
    let (_, runs) = enter(true, 3);
    assert!(!runs);
    let (_, runs) = enter(false, 4);
    assert!(!runs, "a read does not overtake the write before it");
    let mut ready = Vec::new();
    conflicts.leave(first, &mut ready);
    assert_eq!(ready, []);
    conflicts.leave(second, &mut ready);
    assert_eq!(ready, [Owner::Request(3)]);
}

#[test]
fn what_is_done_once_more_goes_before_what_has_not_begun() {
    for peers_first in [false, true] {
        let mut conflicts = Conflicts::new(8);
        let mut ready = Vec::new();
        conflicts.set_peers_first(peers_first, &mut ready);
        let (first, turn) = conflicts.enter(Sector(0), 4096, true, Owner::Request(1));
        assert!(turn, "and waits for the log");
        let (second, turn) = conflicts.enter(Sector(0), 4096, true, Owner::Request(2));
        assert!(!turn);
        let (again, turn) = conflicts.enter_again(Sector(0), 4096, Owner::Request(3));
        assert!(turn && conflicts.begin(again));
        assert!(!conflicts.begin(first), "it lost its turn");
        let (peers, turn) = conflicts.enter(Sector(0), 4096, true, Owner::Peer(4));
        assert!(!turn, "what has begun is waited for");
        for (gone, next) in match peers_first {
            true => [(again, Owner::Peer(4)), (peers, Owner::Request(1)), (first, Owner::Request(2))],
            false => [(again, Owner::Request(1)), (first, Owner::Request(2)), (second, Owner::Peer(4))],
        } {
            ready.clear();
            conflicts.leave(gone, &mut ready);
            assert_eq!(ready, [next]);
        }
    }
}
