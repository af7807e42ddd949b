//! A Primary that writes while everything else goes wrong: whatever happened, its bitmap and log cover the difference,
//! and in the end both disks are alike.

use super::lab::Lab;
use super::node::{net, Pending};
use crate::engine::random::Random;
use crate::engine::{AdminRequest, IoResult};
use crate::metadata::Format;
use crate::states::Role;

/// A few slots, so that extents push each other out.
const LOG_SLOTS: u32 = 4;

fn attach(lab: &mut Lab, n: usize) {
    let mut request = lab.nodes[n].attach_request(false, true);
    request.options.al_extents = LOG_SLOTS;
    lab.ask(n, AdminRequest::Attach(request)).expect("a disk that was in use");
}

/// What the disk had in its queue may have happened or not.
fn crash(lab: &mut Lab, n: usize, random: &mut Random) {
    for op in std::mem::take(&mut lab.nodes[n].pending) {
        if random.below(2) == 0 {
            lab.carry_out_unanswered(n, &op);
        }
    }
    lab.let_go(1 - n);
    lab.let_packets_go(1 - n);
    let primary = lab.role(n) == Role::Primary;
    lab.crash(n);
    attach(lab, n);
    if n == 0 {
        check_cover(lab);
    }
    lab.begin_connect(n);
    if primary {
        lab.pass_ms(random.below(4) * 700);
        lab.primary(0, false).expect("its data is UpToDate");
    }
}

/// Every block that differs is marked.
fn check_cover(lab: &Lab) {
    let marked = lab.out_of_sync(0);
    for block in lab.nodes[0].disk.keys().chain(lab.nodes[1].disk.keys()) {
        let [a, b] = [0, 1].map(|n| lab.nodes[n].disk.get(block).copied().unwrap_or(0));
        assert!(a == b || marked.binary_search(block).is_ok(), "block {block} differs and is not marked");
    }
}

fn hold(lab: &mut Lab, n: usize, which: u64) {
    lab.let_go(n);
    let what: fn(&Pending) -> bool = match which {
        0 => Pending::is_write,
        1 => Pending::is_log,
        2 => Pending::is_flush,
        3 => Pending::is_super_block,
        4 => |op| matches!(op, Pending::Meta(..)),
        _ => |_| true,
    };
    lab.hold(n, what);
}

fn step(lab: &mut Lab, random: &mut Random, content: u32) {
    let n = random.below(2) as usize;
    match random.below(26) {
        0..=13 => {
            let block = random.below(16) * 1024 + random.below(4);
            lab.write(0, block, content);
        }
        14 => {
            lab.flush(0);
        }
        15 => lab.cut(),
        16 | 17 => {
            lab.mend();
            lab.pass_ms(random.below(2500));
        }
        18 => {
            let which = random.below(6);
            hold(lab, n, which);
        }
        19 => lab.let_go(n),
        20..=22 if !lab.nodes[n].pending.is_empty() => lab.let_one_go(n, IoResult::Done),
        23 => lab.hold_packets(n),
        24 => lab.let_packets_go(n),
        25 if random.below(3) == 0 => crash(lab, n, random),
        _ => lab.pass_ms(random.below(400)),
    }
}

fn run(protocol: &str, seed: u64) {
    let options = || net(&[("protocol", protocol), ("connect-int", "1"), ("ping-int", "1")]);
    let mut lab = Lab::with([options(), options()], Format::V09);
    for n in 0..2 {
        lab.detach(n).expect("nobody uses it");
        attach(&mut lab, n);
    }
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    let mut random = Random::new(seed);
    for content in 1..200 {
        step(&mut lab, &mut random, content);
    }
    for n in 0..2 {
        lab.let_go(n);
        lab.let_packets_go(n);
    }
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!((0..2).all(|n| lab.nodes[n].engine.devices[0].counters.upper_pending == 0), "a request hangs");
    lab.check_alike();
}

#[test]
fn whatever_happens_both_disks_are_alike_in_the_end() {
    for seed in (0..30).chain([1914]) {
        for protocol in ["A", "B", "C"] {
            let outcome = std::panic::catch_unwind(|| run(protocol, seed));
            assert!(outcome.is_ok(), "protocol {protocol}, seed {seed}");
        }
    }
}
