//! The controller against a model of a link: one queue of a given speed each way to go, a delay, and an application that shares it.

use super::*;
use crate::config::{OptionSet, OptionSpec};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A link with one queue, and a resync and an application that use it.
struct Model {
    now_ns: u64,
    /// When the queue is empty again.
    free_at_ns: u64,
    bytes_per_s: u64,
    delay_ns: u64,
    /// What arrives: time, asked at, bytes, whether it is the application's.
    arriving: BinaryHeap<Reverse<(u64, u64, u64, bool)>>,
    in_flight_bytes: u64,
    last_application: Option<Instant>,
    latencies_ns: Vec<u64>,
    copied_bytes: u64,
}

/// What the application does: so many requests at a time, of that size; 0 = there is none.
#[derive(Clone, Copy)]
struct Application {
    depth: usize,
    bytes: u64,
}

impl Model {
    fn new(bytes_per_s: u64, delay_ns: u64) -> Model {
        Model {
            now_ns: 0,
            free_at_ns: 0,
            bytes_per_s,
            delay_ns,
            arriving: BinaryHeap::new(),
            in_flight_bytes: 0,
            last_application: None,
            latencies_ns: Vec::new(),
            copied_bytes: 0,
        }
    }

    fn send(&mut self, bytes: u64, application: bool) {
        let start = self.free_at_ns.max(self.now_ns);
        self.free_at_ns = start + bytes * 1_000_000_000 / self.bytes_per_s;
        self.arriving.push(Reverse((self.free_at_ns + self.delay_ns, self.now_ns, bytes, application)));
    }

    fn ask(&mut self, pace: &mut Pace, settings: Settings) {
        pace.observe(self.last_application, settings, Instant(self.now_ns));
        while self.in_flight_bytes < pace.window_bytes() {
            let bytes = pace.request_bytes();
            self.in_flight_bytes += bytes;
            self.send(bytes, false);
        }
    }

    fn application_asks(&mut self, application: Application) {
        self.last_application = Some(Instant(self.now_ns));
        self.send(application.bytes, true);
    }

    /// Runs for so long; returns the mean latency of the application in ns.
    fn run(&mut self, mut pace: Option<(&mut Pace, Settings)>, application: Application, ns: u64) -> u64 {
        let end = self.now_ns + ns;
        self.latencies_ns.clear();
        for _ in 0..application.depth {
            self.application_asks(application);
        }
        if let Some((pace, settings)) = &mut pace {
            self.ask(pace, *settings);
        }
        while let Some(Reverse((at, asked_ns, bytes, of_application))) = self.arriving.pop() {
            self.now_ns = at;
            if at > end {
                break;
            }
            if of_application {
                self.latencies_ns.push(at - asked_ns);
                self.application_asks(application);
            } else if let Some((pace, settings)) = &mut pace {
                let answer =
                    Answer { asked_at: Instant(asked_ns), bytes, in_flight_bytes: self.in_flight_bytes };
                pace.answered(&answer, Instant(at));
                self.in_flight_bytes -= bytes;
                self.copied_bytes += bytes;
                self.ask(pace, *settings);
            }
        }
        self.latencies_ns.iter().sum::<u64>() / (self.latencies_ns.len() as u64).max(1)
    }
}

const GBIT: u64 = 125_000_000;
const SECOND: u64 = 1_000_000_000;
const NOBODY: Application = Application { depth: 0, bytes: 0 };

fn settings(configured: &[(&str, &str)]) -> Settings {
    let mut set = OptionSet::default();
    for (name, value) in configured {
        let spec = OptionSpec::find(name).expect("an option");
        set.set(spec, value).expect("a good value");
    }
    Settings::new(&(&OptionSet::default()).into(), &(&set).into())
}

#[test]
fn an_idle_link_is_filled_untuned() {
    for (bytes_per_s, delay_ns) in
        [(GBIT, 50_000), (GBIT, 5_000_000), (10 * GBIT, 100_000), (GBIT / 10, 20_000_000)]
    {
        let mut model = Model::new(bytes_per_s, delay_ns);
        let mut pace = Pace::new(settings(&[]), Instant(0));
        model.run(Some((&mut pace, settings(&[]))), NOBODY, 5 * SECOND);
        let used = model.copied_bytes as f64 / (5 * bytes_per_s) as f64;
        assert!(used > 0.9, "{bytes_per_s} B/s, delay {delay_ns} ns: only {used:.3} of the link");
    }
}

#[test]
fn an_application_waits_at_most_twice_as_long_and_the_resync_goes_on() {
    let loads = [(1, 4096), (4, 4096), (16, 4096), (4, 65_536), (16, 65_536)];
    for delay_ns in [100_000, 500_000, 5_000_000] {
        for (depth, bytes) in loads {
            let application = Application { depth, bytes };
            let alone = Model::new(GBIT, delay_ns).run(None, application, SECOND);
            let mut model = Model::new(GBIT, delay_ns);
            let mut pace = Pace::new(settings(&[]), Instant(0));
            model.run(Some((&mut pace, settings(&[]))), NOBODY, SECOND);
            model.copied_bytes = 0;
            // The first moments still meet what was asked for before.
            model.run(Some((&mut pace, settings(&[]))), application, SECOND / 5);
            model.arriving.clear();
            model.free_at_ns = model.now_ns;
            model.in_flight_bytes = 0;
            let beside = model.run(Some((&mut pace, settings(&[]))), application, 5 * SECOND);
            let rate = model.copied_bytes / 5 / 1024;
            assert!(
                beside <= 2 * alone,
                "delay {delay_ns} depth {depth} x {bytes}: {alone} ns alone, {beside} beside"
            );
            assert!(rate >= 250, "delay {delay_ns} depth {depth} x {bytes}: only {rate} KiB/s copied");
        }
    }
}

#[test]
fn a_configured_fill_target_is_the_window() {
    let configured = settings(&[("c-fill-target", "2048")]);
    let mut model = Model::new(GBIT, 100_000);
    let mut pace = Pace::new(configured, Instant(0));
    model.run(Some((&mut pace, configured)), NOBODY, SECOND);
    assert_eq!(pace.window_bytes(), 1 << 20);
}

#[test]
fn with_c_min_rate_0_a_resync_never_yields() {
    let configured = settings(&[("c-min-rate", "0")]);
    let mut pace = Pace::new(configured, Instant(0));
    pace.observe(Some(Instant(0)), configured, Instant(1));
    assert_eq!(pace.request_bytes(), REQUEST_BYTES);
}

#[test]
fn the_window_never_exceeds_half_of_max_buffers() {
    let configured = settings(&[("c-fill-target", "1048576")]);
    let pace = Pace::new(configured, Instant(0));
    assert_eq!(pace.window_bytes(), 2048 * 4096 / 2);
}
