//! Makes a failing run smaller: fewer kinds of faults, fewer faults, fewer events, as long as it fails in the same
//! checker.

use super::{run, Limits, FAULT_KINDS};

/// The smallest limits found under which the seed still fails in the same checker, and how many runs it took.
pub fn shrink(seed: u64, limits: Limits) -> (Limits, u32) {
    let mut runs = 1;
    let report = run(seed, limits);
    let Some(failure) = report.failure else { return (limits, runs) };
    let mut best = Limits { events: report.events, ..limits };
    let mut still_fails = |limits: Limits| {
        runs += 1;
        let report = run(seed, limits);
        report.failure.is_some_and(|f| f.checker == failure.checker).then_some(report.events)
    };
    for kind in 0..FAULT_KINDS {
        let fewer = Limits { kinds: best.kinds & !(1 << kind), events: limits.events, ..best };
        if let Some(events) = still_fails(fewer) {
            best = Limits { events, ..fewer };
        }
    }
    let (mut low, mut high) = (0, best.faults.min(16));
    while low < high {
        let middle = (low + high) / 2;
        let fewer = Limits { faults: middle, events: limits.events, ..best };
        match still_fails(fewer) {
            Some(events) => {
                best = Limits { events, ..fewer };
                high = middle;
            }
            None => low = middle + 1,
        }
    }
    (best, runs)
}
