//! The virtual clock: what happens when. Things due at the same nanosecond happen in the order in which they were
//! arranged.

use std::collections::BTreeMap;

/// Nanoseconds of the simulated world.
pub(crate) type Time = u64;

/// A microsecond.
pub(crate) const US: Time = 1_000;
/// A millisecond.
pub(crate) const MS: Time = 1_000_000;
/// A second.
pub(crate) const SECOND: Time = 1_000_000_000;

/// The schedule of the world.
#[derive(Debug)]
pub(crate) struct Clock<T> {
    now: Time,
    arranged: u64,
    due: BTreeMap<(Time, u64), T>,
}

impl<T> Clock<T> {
    /// An empty schedule at time 0.
    pub(crate) fn new() -> Clock<T> {
        Clock { now: 0, arranged: 0, due: BTreeMap::new() }
    }

    /// The present.
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Arranges something `delay` from now.
    pub(crate) fn after(&mut self, delay: Time, what: T) {
        self.at(self.now + delay, what);
    }

    /// Arranges something; the past means now.
    pub(crate) fn at(&mut self, time: Time, what: T) {
        self.arranged += 1;
        self.due.insert((time.max(self.now), self.arranged), what);
    }

    /// Moves on to the next thing.
    pub(crate) fn next(&mut self) -> Option<T> {
        let ((time, _), what) = self.due.pop_first()?;
        self.now = time;
        Some(what)
    }
}

/// The clock of one node: begins anywhere and runs a little fast or slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeClock {
    /// What it shows at the beginning of the world.
    pub(crate) start: Time,
    /// Nanoseconds it shows per 1000 of the world.
    pub(crate) per_mille: u64,
}

impl NodeClock {
    /// What it shows at a time of the world.
    pub(crate) fn shows(self, world: Time) -> u64 {
        self.start + (u128::from(world) * u128::from(self.per_mille) / 1000) as u64
    }

    /// The first time of the world at which it shows at least `reading`.
    pub(crate) fn world(self, reading: u64) -> Time {
        let elapsed = u128::from(reading.saturating_sub(self.start));
        (elapsed * 1000).div_ceil(u128::from(self.per_mille)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::NodeClock;

    #[test]
    fn a_deadline_is_reached_when_it_is_shown() {
        for per_mille in [990, 1000, 1007] {
            let clock = NodeClock { start: 12_345, per_mille };
            for reading in [0, 12_345, 12_346, 13_000, 99_999_999_999] {
                assert!(clock.shows(clock.world(reading)) >= reading);
            }
        }
    }
}
