//! After the last fault everything finds together again, within a bounded time and without spinning.

use super::super::clock::{Time, SECOND};

/// So long may it take, once healed: twice what a change of state waits for a handler that hangs.
pub(crate) const FIND_TOGETHER: Time = 1300 * SECOND;
/// So many events of one run are a livelock.
pub(crate) const EVENTS_MAX: u64 = 3_000_000;
/// So many events at one instant of the world are a livelock.
pub(crate) const EVENTS_AT_ONCE_MAX: u64 = 50_000;

/// Notices events that follow each other without time going by.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    at: Time,
    events: u64,
}

impl Spin {
    /// One more event.
    pub(crate) fn event(&mut self, now: Time) -> Result<(), String> {
        if self.at != now {
            *self = Spin { at: now, events: 0 };
        }
        self.events += 1;
        if self.events > EVENTS_AT_ONCE_MAX {
            return Err(format!("{EVENTS_AT_ONCE_MAX} events at one instant: a livelock"));
        }
        Ok(())
    }
}
