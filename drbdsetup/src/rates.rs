//! Figures of a running resync or verify: how much is done, how fast, how long it will take.

use drbd_core::control::PeerDeviceObject;

/// KiB in one MiB.
const KIB_PER_MIB: f64 = 1024.0;

/// What the tools show of a running resync or verify. Rates are MiB/s.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    /// 0 to 100.
    pub done_percent: f64,
    /// Over the whole run.
    pub rate_overall: f64,
    /// Over the last seconds and over the last tens of seconds.
    pub rates: [f64; 2],
    /// What the controller wants.
    pub want: f64,
    /// At the second rate; `None` while nothing moves.
    pub eta_s: Option<u64>,
    /// KiB left.
    pub left: u64,
    /// Recent KiB/s.
    pub rate_kib: u64,
    /// The raw counters by name, in the order in which they are shown.
    counters: Vec<(&'static str, u64)>,
    /// It is a verify.
    pub verify: bool,
}

impl Progress {
    /// The figures, if something runs.
    pub fn of(peer: &PeerDeviceObject) -> Option<Progress> {
        let run = peer.resync.as_ref()?;
        // One mark without history: the recent rate over one second.
        let marks = run.marks.unwrap_or([(1000, run.rate * 2); 2]);
        let rates_kib = marks.map(|(ms, sectors)| per_second(sectors as f64 / 2.0, ms));
        let done = run.total.saturating_sub(run.left);
        let done_percent = if run.total == 0 { 100.0 } else { done as f64 * 100.0 / run.total as f64 };
        let eta_s = (rates_kib[1] > 0.0).then(|| (run.left as f64 / rates_kib[1]).round() as u64);
        let mut counters = vec![
            ("rs-total", run.total * 2),
            ("rs-dt-start-ms", run.elapsed_ms),
            ("rs-paused-ms", run.paused_ms),
            ("rs-dt0-ms", marks[0].0),
            ("rs-db0-sectors", marks[0].1),
            ("rs-dt1-ms", marks[1].0),
            ("rs-db1-sectors", marks[1].1),
        ];
        match run.verify {
            Some(verify) => counters.extend([
                ("ov-start-sector", verify.start_sector),
                ("ov-stop-sector", verify.stop_sector.unwrap_or(u64::MAX)),
                ("ov-position", verify.position),
                ("ov-left", run.left * 2),
                ("ov-skipped", verify.skipped),
            ]),
            None => counters.extend([("rs-failed", run.failed), ("rs-same-csum", run.same_csum)]),
        }
        Some(Progress {
            done_percent,
            rate_overall: per_second(done as f64, run.elapsed_ms) / KIB_PER_MIB,
            rates: rates_kib.map(|r| r / KIB_PER_MIB),
            want: run.want as f64 / KIB_PER_MIB,
            eta_s,
            left: run.left,
            rate_kib: rates_kib[1] as u64,
            counters,
            verify: run.verify.is_some(),
        })
    }

    /// The raw counters by name.
    pub fn raw(&self) -> &[(&'static str, u64)] {
        &self.counters
    }
}

fn per_second(amount: f64, ms: u64) -> f64 {
    if ms == 0 {
        0.0
    } else {
        amount * 1000.0 / ms as f64
    }
}
