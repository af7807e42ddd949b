//! The deterministic simulator: two nodes of the real engine on a virtual clock, with simulated disks, network,
//! applications and operators, and every fault of the fault model (`faults`) between them.
//!
//! One seed decides everything; the same seed gives the same trace, byte for byte. A run has two phases: faults, during
//! which the `checkers` guard safety, then healing, after which the nodes must find together again.
//!
//! Code map: `cluster` is the world and its loop, `setup` what a seed makes of it, `shell` carries out what an engine
//! commands (as the daemon does), `node`, `disk`, `image` and `network` are what it is carried out on,
//! `application` and `workload` the user of the device, `startup` and `operator` the administrator, `injection` the bringer of faults, `watch` asks the
//! checkers. `trouble`, `administered`, `two_primaries`, `upkeep`, `changes`, `growth`, `thin`, `recovery` and `hand_over` are
//! other kinds of runs. `planted` lists the bugs put in on purpose, `shrink`
//! makes a failing run smaller.

pub mod administered;
mod application;
pub mod changes;
mod checkers;
mod clock;
mod cluster;
mod disk;
mod faults;
pub mod growth;
pub mod hand_over;
mod image;
mod injection;
mod integrity;
mod network;
mod node;
mod operator;
mod payload;
pub mod planted;
mod prng;
pub mod recovery;
mod setup;
mod shell;
mod shrink;
mod startup;
pub mod thin;
mod trace;
pub mod trouble;
pub mod two_primaries;
pub mod upkeep;
mod watch;
mod workload;

pub(crate) use prng::Prng;
pub use shrink::shrink;

use cluster::Cluster;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// How far a run may go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Kinds of faults allowed, by bit.
    pub kinds: u32,
    /// So many faults at most.
    pub faults: usize,
    /// So many events at most.
    pub events: u64,
    /// The trace is made, and hashed.
    pub trace: bool,
    /// It goes to stderr.
    pub print: bool,
    /// A bug to put in.
    pub bug: Option<planted::Bug>,
}

impl Limits {
    /// Everything allowed.
    pub const ALL: Limits = Limits {
        kinds: u32::MAX,
        faults: usize::MAX,
        events: u64::MAX,
        trace: true,
        print: false,
        bug: None,
    };

    /// The same without a trace, for a run that is only to end well.
    pub const UNTRACED: Limits = Limits { trace: false, ..Limits::ALL };
}

/// Why a run failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which checker objects; `engine` for an assertion of the engine.
    pub checker: &'static str,
    /// A sentence.
    pub text: String,
}

/// What a run was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Events that happened.
    pub events: u64,
    /// Lines of the trace.
    pub lines: u64,
    /// Hash of the trace.
    pub hash: u64,
    /// Faults injected, by kind.
    pub faults: [u64; FAULT_KINDS],
    /// Writes acknowledged.
    pub writes: u64,
    /// Reads checked.
    pub reads: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Sessions established.
    pub sessions: u64,
    /// Splits of brain resolved.
    pub splits: u64,
    /// Times a policy decided against a node.
    pub resolved: u64,
    /// Sessions handed over, and adopted by the next daemon; and of those the ones that nothing disturbed.
    pub handed: [u64; 3],
    /// Killed daemons whose successors became Primary again: connected, alone; and those that did not.
    pub resumed: [u64; 3],
    /// Virtual nanoseconds.
    pub time: u64,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// How many kinds of faults there are.
pub const FAULT_KINDS: usize = faults::Kind::ALL.len();

/// Name of a kind of fault.
pub fn fault_name(kind: usize) -> String {
    format!("{:?}", faults::Kind::ALL[kind])
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The kinds of runs: name and first seed.
pub const KINDS: [(&str, u64); 11] = [
    ("one-primary", 0),
    ("trouble", trouble::FIRST_SEED),
    ("two-primaries", two_primaries::FIRST_SEED),
    ("administered", administered::FIRST_SEED),
    ("upkeep", upkeep::FIRST_SEED),
    ("changes", changes::FIRST_SEED),
    ("volumes", changes::FIRST_SEED_OF_VOLUMES),
    ("growth", growth::FIRST_SEED),
    ("thin", thin::FIRST_SEED),
    ("recovery", recovery::FIRST_SEED),
    ("hand-over", hand_over::FIRST_SEED),
];

/// Runs one seed.
pub fn run(seed: u64, limits: Limits) -> Report {
    quiet_panics();
    let mut cluster = None;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        cluster.insert(Cluster::new(seed, limits)).run();
    }));
    let Some(mut cluster) = cluster else {
        let text = PANIC.take().unwrap_or_default();
        return Report { failure: Some(Failure { checker: "simulator", text }), ..Report::default() };
    };
    if ended.is_err() {
        let text = PANIC.take().unwrap_or_default();
        cluster.fail("engine", text);
    }
    Report { failure: cluster.failure.take(), time: cluster.clock.now(), ..cluster.report }
}

/// Panics of this thread are kept for the report instead of printed; only the simulator panics on such threads.
fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let inside = info
                .location()
                .is_some_and(|l| l.file().contains("drbd-core") || l.file().contains("src/sim"));
            PANIC.set(Some(info.to_string()));
            if !inside {
                before(info);
            }
        }));
    });
}

/// The mark of what is in a sector of a node at the beginning.
fn beginning(node: u64, sector: u64) -> u64 {
    checkers::durability::BEGINNING | node << 48 | sector
}
