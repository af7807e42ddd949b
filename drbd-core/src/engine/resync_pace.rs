//! How much of a resync, or of an online verify, may be under way at once.
//!
//! The one that asks decides (the target of a resync, the source of a verify), from what it can see: how long its requests take and whether an application works on the
//! device. What a request takes beyond the shortest one seen was spent in queues, and our own share of these queues is
//! kept at a size: large while nobody else wants the link or the disks, so that they are full without tuning; a few
//! blocks while an application does, so that its requests find next to nothing of ours before them.
//!
//! DRBD's controller steers towards `c-fill-target` bytes under way, or towards answers that take `c-delay-target`;
//! where one of them is configured that is the window. `c-min-rate 0` means, as there, that a resync never yields.

use crate::config::{NetOptions, PeerDeviceOptions};
use crate::ids::Instant;

/// Largest request.
const REQUEST_BYTES: u64 = 128 << 10;
/// Largest request beside an application: 8 KiB take 0.07 ms on a link of 1 Gbit/s.
const YIELDING_REQUEST_BYTES: u64 = 8 << 10;
/// Of ours in queues while nobody else is there.
const IDLE_QUEUE_BYTES: u64 = 2 << 20;
/// Of ours in queues beside an application.
const YIELDING_QUEUE_BYTES: u64 = 4 << 10;
/// An application that asked for something within this time is there.
const APPLICATION_MS: u64 = 200;
/// The shortest time ever seen is trusted a little less after each such period: paths and disks change.
const BASE_MS: u64 = 10_000;

/// The state of one resync's controller.
#[derive(Debug)]
pub(super) struct Pace {
    window_bytes: u64,
    /// Shortest time a request took, in ns; 0 = none yet.
    base_ns: u64,
    base_since: Instant,
    yielding: bool,
    settings: Settings,
}

/// What is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Settings {
    /// Most that may be under way.
    limit_bytes: u64,
    fill_target_bytes: Option<u64>,
    delay_target_ns: Option<u64>,
    min_rate_kib_per_s: u32,
}

impl Settings {
    pub(super) fn new(net: &NetOptions, disk: &PeerDeviceOptions) -> Settings {
        Settings {
            limit_bytes: (u64::from(net.max_buffers) * 4096 / 2).max(REQUEST_BYTES),
            fill_target_bytes: disk.c_fill_target_sectors.map(|s| u64::from(s) * 512).filter(|&b| b > 0),
            delay_target_ns: disk.c_delay_target_ds.map(|ds| u64::from(ds) * 100_000_000),
            min_rate_kib_per_s: disk.c_min_rate,
        }
    }

    /// One small request, or what gives `c-min-rate`.
    fn floor_bytes(&self, took_ns: u64) -> u64 {
        let rate = u128::from(self.min_rate_kib_per_s) * 1024 * u128::from(took_ns) / 1_000_000_000;
        (rate as u64).clamp(YIELDING_REQUEST_BYTES, REQUEST_BYTES)
    }
}

/// An answered request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) asked_at: Instant,
    pub(super) bytes: u64,
    /// Under way before this answer, itself included.
    pub(super) in_flight_bytes: u64,
}

impl Pace {
    pub(super) fn new(settings: Settings, now: Instant) -> Pace {
        let window_bytes = settings.fill_target_bytes.unwrap_or(REQUEST_BYTES);
        Pace { window_bytes, base_ns: 0, base_since: now, yielding: false, settings }
    }

    /// Bytes that may be under way now.
    pub(super) fn window_bytes(&self) -> u64 {
        self.window_bytes.min(self.settings.limit_bytes)
    }

    /// Largest single request now.
    pub(super) fn request_bytes(&self) -> u64 {
        if self.yielding {
            YIELDING_REQUEST_BYTES
        } else {
            REQUEST_BYTES
        }
    }

    /// Looks whether an application is there; `last_application`: when it last asked for something.
    pub(super) fn observe(&mut self, last_application: Option<Instant>, settings: Settings, now: Instant) {
        self.settings = settings;
        let active = last_application.is_some_and(|at| now.ms_since(at) < APPLICATION_MS);
        let yielding = active && settings.min_rate_kib_per_s > 0;
        if yielding && !self.yielding {
            self.window_bytes = self.window_bytes.min(2 * YIELDING_REQUEST_BYTES);
        }
        self.yielding = yielding;
    }

    /// A request was answered, and what it brought is written.
    pub(super) fn answered(&mut self, answer: &Answer, now: Instant) {
        let took_ns = now.0.saturating_sub(answer.asked_at.0).max(1);
        self.measure(took_ns, now);
        let floor = self.settings.floor_bytes(took_ns);
        if let (false, Some(bytes)) = (self.yielding, self.settings.fill_target_bytes) {
            self.window_bytes = bytes.max(floor);
            return;
        }
        let waited_ns = took_ns - self.base_ns;
        let queued =
            (u128::from(answer.in_flight_bytes) * u128::from(waited_ns) / u128::from(took_ns)) as u64;
        let room = match (self.yielding, self.settings.delay_target_ns) {
            (true, _) => queued <= YIELDING_QUEUE_BYTES,
            (false, Some(delay_ns)) => waited_ns <= delay_ns,
            (false, None) => queued <= IDLE_QUEUE_BYTES,
        };
        if !room {
            self.window_bytes = (self.window_bytes - (answer.bytes / 2).min(self.window_bytes)).max(floor);
        } else if answer.in_flight_bytes * 2 >= self.window_bytes {
            // Beside an application one small request more per round trip; else twice as much.
            let step = if self.yielding {
                answer.bytes * YIELDING_REQUEST_BYTES / self.window_bytes.max(1)
            } else {
                answer.bytes
            };
            self.window_bytes = (self.window_bytes + step).clamp(floor, self.settings.limit_bytes);
        }
    }

    fn measure(&mut self, took_ns: u64, now: Instant) {
        if now.ms_since(self.base_since) >= BASE_MS {
            self.base_since = now;
            self.base_ns += self.base_ns / 10;
        }
        if self.base_ns == 0 || took_ns < self.base_ns {
            self.base_ns = took_ns;
        }
    }
}

#[cfg(test)]
mod tests;
