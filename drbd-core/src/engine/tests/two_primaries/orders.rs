//! Small cases of concurrent writes in every order of packets, acknowledgements and disks, then larger ones at random.

use super::super::lab::Lab;
use super::super::node::{net, Pending};
use super::{both_primary_on, decider, hold_all, let_all_go, synced};
use crate::engine::random::Random;
use crate::engine::{AdminRequest, IoResult};
use crate::ids::UpperTag;
use crate::metadata::Format;
use crate::states::Role;
use crate::wire::Stream;
use std::collections::BTreeSet;

/// One write: its first block and how many.
type Extent = (u64, usize);

#[derive(Clone, Copy, Debug)]
enum Choice {
    Issue(usize),
    Deliver(usize, Stream),
    Disk(usize, usize),
}

/// What happened on each node, in its order.
fn histories(run: &Run) -> [Vec<u8>; 2] {
    let mut histories = [Vec::new(), Vec::new()];
    for choice in &run.trace {
        let (n, what) = match *choice {
            Choice::Issue(which) => (run.nodes[which], 1),
            Choice::Deliver(n, Stream::Data) => (1 - n, 2),
            Choice::Deliver(n, Stream::Control) => (1 - n, 3),
            Choice::Disk(n, at) => (n, 4 + at as u8),
        };
        histories[n].push(what);
    }
    histories
}

/// Some writes of the deciding node and of the other one, in every order of issue, packets and disks.
struct Orders<'a> {
    disks: &'a Lab,
    writes: [&'a [Extent]; 2],
}

/// One of the orders, as far as it went.
struct Run {
    lab: Lab,
    nodes: [usize; 2],
    session: u32,
    /// Node, tag, extent, value and the writes complete when it was issued.
    issued: Vec<(usize, UpperTag, Extent, u32, Vec<usize>)>,
    trace: Vec<Choice>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("after {:?} (the node that decides is {})", self.trace, self.nodes[0]);
        }
    }
}

impl Orders<'_> {
    fn begin(&self) -> Run {
        let mut lab = both_primary_on(self.disks);
        let first = decider(&lab);
        hold_all(&mut lab);
        let session = lab.nodes[0].engine.session_number().expect("a session");
        Run { lab, nodes: [first, 1 - first], session, issued: Vec::new(), trace: Vec::new() }
    }

    fn choices(&self, run: &Run) -> Vec<Choice> {
        let mut choices = Vec::new();
        for (which, &n) in run.nodes.iter().enumerate() {
            let issued = run.issued.iter().filter(|(node, ..)| *node == n).count();
            if issued < self.writes[which].len() {
                choices.push(Choice::Issue(which));
            }
            for stream in [Stream::Data, Stream::Control] {
                if run.lab.has_packet(n, stream) {
                    choices.push(Choice::Deliver(n, stream));
                }
            }
            choices.extend((0..run.lab.nodes[n].pending.len()).map(|at| Choice::Disk(n, at)));
        }
        choices
    }

    fn take(&self, run: &mut Run, choice: Choice) {
        run.trace.push(choice);
        match choice {
            Choice::Issue(which) => {
                let n = run.nodes[which];
                let before = run.issued.iter().filter(|(node, ..)| *node == n).count();
                let extent = self.writes[which][before];
                let value = run.issued.len() as u32 + 1;
                let done = |at: &usize| run.lab.is_done(run.issued[*at].0, run.issued[*at].1);
                let complete = (0..run.issued.len()).filter(done).collect();
                let tag = run.lab.write_blocks(n, extent.0, &vec![value; extent.1]);
                run.issued.push((n, tag, extent, value, complete));
            }
            Choice::Deliver(n, stream) => {
                run.lab.let_packet_go(n, stream);
            }
            Choice::Disk(n, at) => run.lab.let_nth_go(n, at, IoResult::Done),
        }
        Orders::check_copies(run);
    }

    /// What is complete is on both disks, or something that is not older.
    fn check_copies(run: &Run) {
        for (n, tag, extent, value, before) in &run.issued {
            if !run.lab.is_done(*n, *tag) {
                continue;
            }
            let blocks = extent.0..extent.0 + extent.1 as u64;
            for (block, node) in blocks.flat_map(|block| run.lab.nodes.iter().map(move |node| (block, node)))
            {
                let found = node.disk.get(&block).copied().unwrap_or(0);
                let at = run.issued.iter().position(|(.., v, _)| *v == found);
                let older = at.is_none_or(|at| before.contains(&at));
                assert!(!older, "block {block} holds {found} though {value} is complete");
            }
        }
    }

    /// All done, both disks alike, nothing lost its order, and the session held.
    fn check(&self, run: &mut Run) {
        let_all_go(&mut run.lab);
        for (n, tag, ..) in &run.issued {
            assert!(run.lab.is_done(*n, *tag), "{tag:?} of node {n}");
        }
        for n in 0..2 {
            let engine = &run.lab.nodes[n].engine;
            assert_eq!(engine.session_number(), Some(run.session), "the session of node {n} ended");
            assert_eq!(engine.requests.len(), 0, "a request of node {n} is left");
        }
        run.lab.check_alike();
        for block in 0..16 {
            let Some(&value) = run.lab.nodes[0].disk.get(&block) else { continue };
            let winner = run.issued.iter().position(|(.., v, _)| *v == value).expect("one of those written");
            for (.., extent, _, complete) in &run.issued {
                let covers = (extent.0..extent.0 + extent.1 as u64).contains(&block);
                assert!(!covers || !complete.contains(&winner), "block {block}: a later write was lost");
            }
        }
    }

    /// Returns how many orders there are, those alike that differ only in what happens first on different nodes.
    fn explore(&self) -> usize {
        let mut path: Vec<(usize, usize)> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut count = 0;
        loop {
            let mut run = self.begin();
            let mut depth = 0;
            loop {
                let choices = self.choices(&run);
                if choices.is_empty() {
                    count += 1;
                    self.check(&mut run);
                    break;
                }
                if depth == path.len() && !seen.insert(histories(&run)) {
                    let_all_go(&mut run.lab);
                    break;
                }
                if depth == path.len() {
                    path.push((0, choices.len()));
                }
                self.take(&mut run, choices[path[depth].0]);
                depth += 1;
            }
            while path.last().is_some_and(|(chosen, of)| chosen + 1 == *of) {
                path.pop();
            }
            match path.last_mut() {
                Some((chosen, _)) => *chosen += 1,
                None => return count,
            }
        }
    }

    fn sample(&self, seeds: std::ops::Range<u64>) {
        for seed in seeds {
            let mut random = Random::new(seed);
            let mut run = self.begin();
            loop {
                let choices = self.choices(&run);
                if choices.is_empty() {
                    break;
                }
                let choice = choices[random.below(choices.len() as u64) as usize];
                self.take(&mut run, choice);
            }
            self.check(&mut run);
        }
    }
}

/// Explores, and sees to it that there was something to explore.
fn every_order(writes: [&[Extent]; 2], at_least: usize) {
    let count = Orders { disks: &synced(), writes }.explore();
    println!("{count} orders of {writes:?}");
    assert!(count >= at_least, "{count} orders");
}

#[test]
fn the_same_block_in_every_order() {
    every_order([&[(3, 1)], &[(3, 1)]], 200);
}

#[test]
fn overlapping_in_part_in_every_order() {
    every_order([&[(3, 2)], &[(4, 2)]], 900);
}

#[test]
fn one_containing_the_other_in_every_order() {
    every_order([&[(3, 1)], &[(2, 3)]], 900);
    every_order([&[(2, 3)], &[(3, 1)]], 200);
}

#[test]
fn several_writes_in_many_orders() {
    let disks = synced();
    Orders { disks: &disks, writes: [&[(3, 2), (5, 1), (3, 1)], &[(4, 2), (3, 1), (3, 3)]] }.sample(0..250);
    Orders { disks: &disks, writes: [&[(3, 1), (3, 1), (3, 1)], &[(3, 1), (3, 1), (3, 1)]] }.sample(0..250);
    Orders { disks: &disks, writes: [&[(0, 8)], &[(1, 1), (3, 2), (6, 4), (0, 12)]] }.sample(0..150);
    Orders { disks: &disks, writes: [&[(1, 1), (3, 2), (6, 4), (0, 12)], &[(0, 8)]] }.sample(0..150);
}

// ---- at random ---------------------------------------------------------------------------------------------------

/// Both write what they like, while packets and disks are slow, the cable is cut, and they step down and up again.
fn chaos(seed: u64, cuts: bool, fencing: &str) {
    let options = [0, 1].map(|_| {
        net(&[
            ("allow-two-primaries", "yes"),
            ("connect-int", "1"),
            ("after-sb-0pri", "discard-least-changes"),
            ("after-sb-1pri", "violently-as0p"),
            ("after-sb-2pri", "violently-as0p"),
            ("always-asbp", "yes"),
            ("rr-conflict", "violently"),
            ("fencing", fencing),
        ])
    });
    let mut lab = Lab::with(options, Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.primary(1, false).expect("two are allowed");
    let session = lab.nodes[0].engine.session_number();
    let mut random = Random::new(seed);
    let mut tags = Vec::new();
    // Nobody can be fenced, or somebody always was.
    let answer = if random.below(2) == 0 { 0 } else { 4 };
    lab.nodes.iter_mut().for_each(|node| node.handler_status = Some(answer));
    for content in 1..250 {
        let n = random.below(2) as usize;
        match random.below(24) {
            0..=9 => {
                let block = random.below(3) * 1024 + random.below(6);
                let blocks = 1 + random.below(4) as usize;
                tags.push((n, lab.write_blocks(n, block, &vec![content; blocks])));
            }
            10 => tags.push((n, lab.flush(n))),
            11 => lab.hold(n, Pending::is_write),
            12 => lab.hold_packets(n),
            13 | 14 if lab.has_packet(n, Stream::Data) => drop(lab.let_packet_go(n, Stream::Data)),
            15 | 16 if lab.has_packet(n, Stream::Control) => drop(lab.let_packet_go(n, Stream::Control)),
            17 | 18 if !lab.nodes[n].pending.is_empty() => lab.let_one_go(n, IoResult::Done),
            19 => lab.let_packets_go(n),
            20 => lab.let_go(n),
            21 if cuts && random.below(4) == 0 => {
                lab.cut();
                lab.mend();
            }
            22 if cuts => {
                let role = lab.role(n);
                let request = match role {
                    Role::Primary => AdminRequest::Secondary { force: false },
                    _ => AdminRequest::Primary { force: false },
                };
                lab.begin(n, request);
            }
            _ if cuts => lab.pass_ms(random.below(400)),
            _ => lab.pass_ms(random.below(10)),
        }
    }
    for n in 0..2 {
        lab.let_packets_go(n);
        lab.let_go(n);
    }
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.pass_ms(1000);
    for (n, tag) in tags {
        assert!(lab.result(n, tag).is_some(), "{tag:?} of node {n} hangs");
        assert!(cuts || lab.is_done(n, tag), "{tag:?} of node {n} failed");
    }
    assert!(cuts || lab.nodes[0].engine.session_number() == session, "the session ended");
    lab.check_alike();
}

fn at_random(seeds: std::ops::Range<u64>, cuts: bool, fencing: &str) {
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| chaos(seed, cuts, fencing));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn two_writers_end_alike() {
    at_random(0..60, false, "dont-care");
}

#[test]
fn two_writers_whose_cable_is_cut_end_alike() {
    at_random(0..60, true, "dont-care");
}

#[test]
fn two_writers_that_freeze_end_alike() {
    at_random(0..60, true, "resource-and-stonith");
}
