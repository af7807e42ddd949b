use super::{ReceivedEpochs, SentEpochs, FLUSH_DELAY_MS};
use crate::ids::Instant;
use proptest::prelude::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Active,
    /// On the disk, in its volatile cache.
    Written,
    Stable,
}

#[derive(Clone, Debug)]
enum Step {
    Write,
    Barrier,
    Done(usize),
    Flush,
    Flushed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Write),
        2 => Just(Step::Barrier),
        4 => any::<usize>().prop_map(Step::Done),
        2 => Just(Step::Flush),
        2 => Just(Step::Flushed),
    ]
}

/// The writes of an epoch and the barrier that ended it.
#[derive(Default)]
struct Epoch {
    writes: Vec<State>,
    barrier: Option<u32>,
}

struct Run {
    epochs: ReceivedEpochs,
    model: Vec<Epoch>,
    acknowledged: usize,
    /// Disks still flushing.
    flushing: u32,
    /// What was written when the flush began: that is what it makes stable.
    covered: Vec<(usize, usize)>,
}

impl Run {
    fn write_done(&mut self, which: usize) {
        let active = |(e, epoch): (usize, &Epoch)| {
            let writes = epoch.writes.iter().enumerate();
            writes.filter(|(_, s)| **s == State::Active).map(|(w, _)| (e, w)).collect::<Vec<_>>()
        };
        let active: Vec<(usize, usize)> = self.model.iter().enumerate().flat_map(active).collect();
        if let Some(&(e, w)) = active.get(which % active.len().max(1)) {
            self.epochs.write_done(e as u64);
            self.model[e].writes[w] = State::Written;
        }
    }

    fn flush(&mut self, disks: u32) {
        let complete = self.model[self.acknowledged..]
            .iter()
            .take_while(|e| e.barrier.is_some() && e.writes.iter().all(|s| *s != State::Active))
            .count();
        let end = (self.acknowledged + complete) as u64;
        let due = self.epochs.flush_due();
        if self.flushing > 0 {
            assert_eq!(due, None, "one flush at a time");
            return;
        }
        assert_eq!(due, (complete > 0).then_some(end));
        let Some(end) = due else { return };
        self.epochs.begin_flush(end, disks);
        self.flushing = disks;
        for (e, epoch) in self.model.iter().enumerate() {
            let written = epoch.writes.iter().enumerate().filter(|(_, s)| **s == State::Written);
            self.covered.extend(written.map(|(w, _)| (e, w)));
        }
    }

    fn flushed(&mut self) {
        if self.flushing == 0 {
            return;
        }
        self.flushing -= 1;
        let last = self.epochs.disk_flushed();
        assert_eq!(last, self.flushing == 0);
        if !last {
            return;
        }
        for (e, w) in self.covered.drain(..) {
            self.model[e].writes[w] = State::Stable;
        }
        let mut acknowledged = 0;
        while let Some((barrier, writes)) = self.epochs.next_stable() {
            let epoch = &self.model[self.acknowledged];
            assert_eq!(epoch.barrier, barrier, "barriers are acknowledged in order");
            assert_eq!(epoch.writes.len(), writes as usize);
            assert!(epoch.writes.iter().all(|s| *s == State::Stable), "acknowledged before it was stable");
            self.acknowledged += 1;
            acknowledged += 1;
        }
        assert!(acknowledged > 0, "a flush that acknowledged nothing");
    }
}

proptest! {
    #[test]
    fn a_barrier_is_acknowledged_when_all_before_it_is_stable(
        disks in 1..3_u32,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let epochs = ReceivedEpochs::new();
        let mut run = Run { epochs, model: vec![Epoch::default()], acknowledged: 0, flushing: 0, covered: Vec::new() };
        let mut barriers = 0;
        for step in steps {
            let open = run.model.len() - 1;
            match step {
                Step::Write => {
                    prop_assert_eq!(run.epochs.write(), open as u64);
                    run.model[open].writes.push(State::Active);
                }
                Step::Barrier => {
                    let legal = !run.model[open].writes.is_empty();
                    prop_assert_eq!(run.epochs.barrier(barriers), legal);
                    if legal {
                        run.model[open].barrier = Some(barriers);
                        run.model.push(Epoch::default());
                        barriers += 1;
                    }
                }
                Step::Done(which) => run.write_done(which),
                Step::Flush => run.flush(disks),
                Step::Flushed => run.flushed(),
            }
            prop_assert!(run.epochs.is_first(run.acknowledged as u64));
            prop_assert!(!run.epochs.is_first(run.acknowledged as u64 + 1));
        }
    }
}

#[test]
fn a_barrier_after_no_write_is_refused() {
    let mut epochs = ReceivedEpochs::new();
    assert!(!epochs.barrier(0));
    let epoch = epochs.write();
    assert!(epochs.barrier(1));
    assert!(!epochs.barrier(2));
    assert_eq!(epochs.flush_due(), None, "the write is not done");
    epochs.write_done(epoch);
    assert_eq!(epochs.flush_due(), Some(1));
}

#[test]
fn a_sender_waits_for_writes_and_for_barriers() {
    let mut sent = SentEpochs::default();
    assert!(!sent.waits(0));
    assert!(sent.waits(8));
    sent.unacknowledged = 1;
    assert!(sent.waits(0));
}

#[test]
fn complete_epochs_share_a_flush_unless_somebody_waits() {
    let mut epochs = ReceivedEpochs::new();
    let begin = Instant(5);
    let write = |epochs: &mut ReceivedEpochs, barrier| {
        let epoch = epochs.write();
        assert!(epochs.barrier(barrier));
        epochs.write_done(epoch);
    };
    write(&mut epochs, 1);
    assert_eq!(epochs.flush_due_at(begin), None, "nobody waits");
    assert_eq!(epochs.deadline(), Some(begin.plus_ms(FLUSH_DELAY_MS)));
    write(&mut epochs, 2);
    assert_eq!(epochs.flush_due_at(begin.plus_ms(1)), None);
    assert_eq!(epochs.flush_due_at(begin.plus_ms(FLUSH_DELAY_MS)), Some(2), "one flush for both");
    epochs.begin_flush(2, 1);
    assert_eq!(epochs.deadline(), None);
    write(&mut epochs, 3);
    epochs.urge();
    assert_eq!(epochs.flush_due_at(begin), None, "one flush at a time");
    assert!(epochs.disk_flushed());
    while epochs.next_stable().is_some() {}
    assert_eq!(epochs.flush_due_at(begin), Some(3), "somebody waits for it");
    epochs.begin_flush(3, 1);
    assert!(epochs.disk_flushed());
    while epochs.next_stable().is_some() {}
    write(&mut epochs, 4);
    assert_eq!(epochs.flush_due_at(begin), None, "what came after it can wait again");
}
