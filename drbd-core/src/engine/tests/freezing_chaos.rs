//! A Primary that must never show an error while its policies say "wait": links break, peers crash, disks fail and fill
//! up, handlers answer late or never. In the end everything asked was done, and both disks are alike.

use super::lab::Lab;
use super::node::{net, Pending, VOLUME};
use crate::engine::random::Random;
use crate::engine::{AdminRequest, IoResult};
use crate::ids::{NodeId, UpperTag};
use crate::metadata::Format;
use crate::states::{ConnectionState, DiskState};

const DISK: [&[(&str, &str)]; 3] = [
    &[("on-io-error", "detach"), ("al-extents", "67")],
    &[("on-io-error", "call-local-io-error"), ("disk-timeout", "20")],
    &[("on-io-error", "detach"), ("disk-timeout", "20")],
];

/// Seeds of a run in CI; the variable FREEZING_SEEDS asks for more.
const SEEDS: u64 = 40;

fn seeds() -> u64 {
    std::env::var("FREEZING_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS)
}

struct World {
    lab: Lab,
    random: Random,
    disk: &'static [(&'static str, &'static str)],
    asked: Vec<UpperTag>,
}

impl World {
    fn new(seed: u64, fencing: &str) -> World {
        let options = || net(&[("fencing", fencing), ("connect-int", "1"), ("ping-int", "1")]);
        let mut lab = Lab::with([options(), options()], Format::V09);
        let mut random = Random::new(seed);
        let disk = DISK[random.below(3) as usize];
        for n in 0..2 {
            lab.detach(n).expect("nobody uses it");
            lab.attach_with(n, disk).expect("its own disk");
        }
        lab.connect();
        lab.primary(0, true).expect("forced");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.resource_options(0, &[("on-no-data-accessible", "suspend-io")]);
        lab.nodes[0].handler_status = None;
        World { lab, random, disk, asked: Vec::new() }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    fn attach(&mut self, n: usize) {
        if self.lab.disk(n) == DiskState::Diskless {
            self.lab.let_go(n);
            // Refused while the old one is not closed, or while it is not the data that was lost.
            let _ = self.lab.attach_with(n, self.disk);
        }
    }

    fn requests(&mut self, content: u32) {
        let block = self.below(16) * 1024 + self.below(3);
        let tag = match self.below(8) {
            0 => self.lab.read(0, block),
            1 => self.lab.flush(0),
            2 => self.lab.write_blocks(0, block, &[content, content + 1]),
            3 => self.lab.write_fua(0, block, content),
            _ => self.lab.write(0, block, content),
        };
        self.asked.push(tag);
    }

    fn hold(&mut self, n: usize) {
        self.lab.let_go(n);
        let what: fn(&Pending) -> bool = match self.below(5) {
            0 => Pending::is_write,
            1 => Pending::is_flush,
            2 => Pending::is_read,
            3 => |op| matches!(op, Pending::Meta(..)),
            _ => |_| true,
        };
        self.lab.hold(n, what);
    }

    fn fail(&mut self, n: usize) {
        let fails: fn(&Pending) -> Option<i32> = match self.below(4) {
            0 => |op| op.is_read().then_some(5),
            1 => |op| op.is_write().then_some(5),
            _ => |op| op.is_write().then_some(28),
        };
        self.lab.fail(n, fails);
    }

    fn peer_crashes(&mut self) {
        for op in std::mem::take(&mut self.lab.nodes[1].pending) {
            if self.random.below(2) == 0 {
                self.lab.carry_out_unanswered(1, &op);
            }
        }
        self.lab.let_packets_go(0);
        self.lab.crash(1);
        self.lab.attach_with(1, self.disk).expect("apply-al was there");
        self.lab.begin_connect(1);
    }

    fn step(&mut self, content: u32) {
        let n = self.below(2) as usize;
        match self.below(40) {
            0..=15 => self.requests(content * 2),
            16 => self.lab.cut(),
            17..=19 => {
                self.lab.mend();
                let ms = self.below(2500);
                self.lab.pass_ms(ms);
            }
            20 | 21 => self.hold(n),
            22 | 23 => self.lab.let_go(n),
            24 | 25 if !self.lab.nodes[n].pending.is_empty() => self.lab.let_one_go(n, IoResult::Done),
            26 => self.fail(n),
            27..=29 => self.lab.fail_no_more(n),
            30 => self.attach(n),
            31 if !self.lab.nodes[0].running_handlers.is_empty() => {
                let status = [3, 4, 5, 7, 1][self.below(5) as usize];
                self.lab.handler_ends(0, status);
            }
            32 if self.below(3) == 0 => self.peer_crashes(),
            33 => self.ask(AdminRequest::SuspendIo { volume: VOLUME }),
            34 if !self.lab.nodes[0].engine.is_frozen() => {
                self.ask(AdminRequest::ResumeIo { volume: VOLUME });
            }
            35 if n == 0 && self.below(2) == 0 => self.lab.hold_packets(0),
            36 => self.lab.let_packets_go(0),
            _ => {
                let ms = self.below(400);
                self.lab.pass_ms(ms);
            }
        }
        for &tag in &self.asked {
            let result = self.lab.result(0, tag);
            assert!(result.is_none() || self.lab.is_done(0, tag), "{result:?} went up");
        }
    }

    fn ask(&mut self, request: AdminRequest) {
        self.lab.ask(0, request).expect("always legal");
    }

    /// Everything is well again, and an administrator does what there is to do.
    fn heal(&mut self) {
        for n in 0..2 {
            self.lab.fail_no_more(n);
            self.lab.let_go(n);
            self.lab.let_packets_go(n);
        }
        self.lab.mend();
        self.lab.nodes[0].handler_status = Some(7);
        while !self.lab.nodes[0].running_handlers.is_empty() {
            self.lab.handler_ends(0, 7);
        }
        for round in 0..6 {
            self.lab.pass_ms(5_000);
            if round == 3 && !self.lab.is_in_sync() {
                // Both lost their disks, and only one may attach while connected.
                self.lab.cut();
                self.attach(1);
                self.lab.mend();
                self.lab.pass_ms(5_000);
            }
            for n in 0..2 {
                self.attach(n);
                if self.lab.connection(n) == ConnectionState::StandAlone {
                    // The peer of a Primary that had just lost its disk went on alone, and nothing of that was reported.
                    let peer = NodeId(1 - n as u8);
                    let request = AdminRequest::Connect { peer, tentative: false, discard_my_data: n == 1 };
                    self.lab.ask(n, request).expect("connect is taken");
                }
            }
        }
        if !self.lab.nodes[0].engine.is_frozen() {
            self.ask(AdminRequest::ResumeIo { volume: VOLUME });
        }
    }
}

impl World {
    /// Both disks were lost, and the peer's went on alone for a while without this node hearing of it: whose data counts
    /// is for an administrator to say. Nothing failed, and nothing was called done.
    fn needs_a_decision(&self) -> bool {
        let why = self.lab.last_error(0);
        let known =
            ["I shall become SyncTarget, but I am primary!", "Can only connect to data with current UUID"];
        known.iter().any(|text| why.contains(text)) && self.lab.nodes[0].engine.is_frozen()
    }
}

/// True if it came to a good end by itself.
fn run(seed: u64, fencing: &str) -> bool {
    let mut world = World::new(seed, fencing);
    for content in 1..250 {
        world.step(content);
    }
    world.heal();
    world.lab.pass_ms(5_000);
    if world.needs_a_decision() {
        return false;
    }
    world.lab.wait("in sync", |lab| lab.is_in_sync());
    world.lab.pass_ms(2_000);
    for &tag in &world.asked {
        assert!(world.lab.is_done(0, tag), "{:?}", world.lab.result(0, tag));
    }
    world.lab.check_alike();
    true
}

#[test]
fn whatever_happens_nothing_fails_and_both_disks_are_alike_in_the_end() {
    let mut good_ends = 0;
    let seeds = seeds();
    for seed in 0..seeds {
        for fencing in ["dont-care", "resource-and-stonith"] {
            let outcome = std::panic::catch_unwind(|| run(seed, fencing));
            good_ends += u64::from(outcome.unwrap_or_else(|_| panic!("{fencing}, seed {seed}")));
        }
    }
    assert!(good_ends > seeds, "only {good_ends} of {} ended well", 2 * seeds);
}
