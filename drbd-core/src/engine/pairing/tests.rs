//! Two searches on a network that delays everything by chance.

use super::{ConnectionFacts, Found, Pairing, Timing};
use crate::config::{NetOptions, OptionSet};
use crate::engine::command::Command;
use crate::engine::connection::{Connection, Path};
use crate::engine::random::Random;
use crate::ids::{Instant, NodeId, SocketId, VolumeNumber};
use crate::wire::{Frame, Packet};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Moments are looked at in steps of this.
const STEP_MS: u64 = 5;

enum Happens {
    Dialled(SocketId),
    Refused,
    Accepted(SocketId),
    Packet(SocketId, Packet),
    Lost(SocketId),
}

struct Node {
    connection: Connection,
    random: Random,
    pairing: Option<Pairing>,
    /// Data and control.
    session: Option<(SocketId, SocketId)>,
    sessions: u32,
    restart_at: Option<Instant>,
    listening: bool,
}

struct Net {
    now: Instant,
    nodes: [Node; 2],
    /// Ends of a connection, each with its node and the other end.
    ends: BTreeMap<SocketId, (usize, SocketId)>,
    /// What happens when; the second part keeps the order of each socket.
    due: BTreeMap<(u64, u64), (usize, Happens)>,
    last: BTreeMap<SocketId, u64>,
    chance: Random,
    delay_max_ms: u64,
    count: u64,
}

fn node(number: u8, seed: u64) -> Node {
    let mut connection = Connection::new(NodeId(1 - number), NetOptions::from(&OptionSet::default()));
    let address = "127.0.0.1:7789".parse().unwrap();
    connection.paths.push(Path { local: address, remote: address });
    let random = Random::new(seed + u64::from(number));
    Node { connection, random, pairing: None, session: None, sessions: 0, restart_at: None, listening: false }
}

impl Net {
    fn new(seed: u64, delay_max_ms: u64) -> Net {
        let nodes = [node(0, seed), node(1, seed.wrapping_mul(77))];
        let (ends, due, last) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let chance = Random::new(!seed);
        Net { now: Instant(1), nodes, ends, due, last, chance, delay_max_ms, count: 0 }
    }

    fn delay(&mut self) -> u64 {
        self.now.0 + self.chance.below(self.delay_max_ms + 1) * 1_000_000
    }

    fn later(&mut self, node: usize, happens: Happens) {
        let mut at = self.delay();
        if let Happens::Packet(socket, _) | Happens::Lost(socket) | Happens::Accepted(socket) = &happens {
            let last = self.last.entry(*socket).or_default();
            at = at.max(*last);
            *last = at;
        }
        self.count += 1;
        self.due.insert((at, self.count), (node, happens));
    }

    fn start(&mut self, n: usize) {
        let mut out = Vec::new();
        let node = &mut self.nodes[n];
        node.pairing = Some(Pairing::begin(&node.connection, self.now, &mut out));
        self.carry_out(n, out);
        self.tick(n);
    }

    fn carry_out(&mut self, n: usize, out: Vec<Command>) {
        for command in out {
            match command {
                Command::Listen { .. } => self.nodes[n].listening = true,
                Command::Unlisten { .. } => self.nodes[n].listening = false,
                Command::Dial { .. } if self.nodes[1 - n].listening => {
                    self.count += 1;
                    let (here, there) =
                        (SocketId(self.count as u32 * 2), SocketId(self.count as u32 * 2 + 1));
                    self.ends.insert(here, (n, there));
                    self.ends.insert(there, (1 - n, here));
                    self.later(1 - n, Happens::Accepted(there));
                    self.later(n, Happens::Dialled(here));
                }
                Command::Dial { .. } => self.later(n, Happens::Refused),
                Command::CancelDial { .. } => {
                    let gone = |h: &(usize, Happens)| {
                        h.0 == n && matches!(h.1, Happens::Dialled(_) | Happens::Refused)
                    };
                    let sockets: Vec<SocketId> = self
                        .due
                        .values()
                        .filter(|h| gone(h))
                        .filter_map(|h| if let Happens::Dialled(s) = h.1 { Some(s) } else { None })
                        .collect();
                    self.due.retain(|_, h| !gone(h));
                    sockets.into_iter().for_each(|s| self.close(s));
                }
                Command::Send { socket, frame, .. } => {
                    if let Some(&(_, other)) = self.ends.get(&socket) {
                        self.later(1 - n, Happens::Packet(other, frame.packet));
                    }
                }
                Command::Close { socket } => self.close(socket),
                other => panic!("a search asks for {other:?}"),
            }
        }
    }

    fn close(&mut self, socket: SocketId) {
        if let Some((node, other)) = self.ends.remove(&socket) {
            self.later(1 - node, Happens::Lost(other));
        }
    }

    fn tick(&mut self, n: usize) {
        let mut out = Vec::new();
        let node = &mut self.nodes[n];
        let timing = Timing::of(&node.connection, self.now);
        let link = super::link_config(&node.connection);
        let facts = ConnectionFacts { peer: node.connection.peer, link, session: node.sessions + 1 };
        let Some(pairing) = node.pairing.as_mut() else { return };
        if let Found::Pair(session, _) = pairing.tick(&facts, &timing, &mut node.random, &mut out) {
            node.session = Some((session.data, session.control));
            node.sessions += 1;
            node.pairing = None;
        }
        self.carry_out(n, out);
    }

    fn happens(&mut self, n: usize, what: Happens) {
        let mut out = Vec::new();
        let node = &mut self.nodes[n];
        let timing = Timing::of(&node.connection, self.now);
        // A closed socket has no events.
        if let Happens::Packet(s, _) | Happens::Lost(s) | Happens::Accepted(s) | Happens::Dialled(s) = &what {
            if !self.ends.contains_key(s) {
                return;
            }
        }
        match (node.pairing.as_mut(), what) {
            (Some(pairing), Happens::Dialled(socket)) => pairing.dialled(socket, &timing, &mut out),
            (Some(pairing), Happens::Refused) => pairing.dial_failed(&timing, &mut node.random),
            (Some(pairing), Happens::Accepted(socket)) => pairing.accepted(socket, &timing, &mut out),
            (Some(pairing), Happens::Packet(socket, packet)) if pairing.knows(socket) => {
                let frame = Frame { volume: VolumeNumber(0), packet };
                pairing.packet(socket, frame, &timing, &mut node.random, &mut out);
            }
            (Some(pairing), Happens::Lost(socket)) => {
                self.ends.remove(&socket);
                pairing.lost(socket, &timing, &mut node.random);
            }
            (None, Happens::Lost(socket)) => {
                self.ends.remove(&socket);
                if let Some((data, control)) = node.session.filter(|s| s.0 == socket || s.1 == socket) {
                    node.session = None;
                    node.restart_at = Some(self.now.plus_ms(1000));
                    self.close(data);
                    self.close(control);
                }
            }
            (None, Happens::Accepted(socket) | Happens::Dialled(socket)) => self.close(socket),
            (_, Happens::Packet(..) | Happens::Refused) => {}
        }
        self.carry_out(n, out);
        self.tick(n);
    }

    fn matched(&self) -> bool {
        let [a, b] = [self.nodes[0].session, self.nodes[1].session];
        let other = |s: SocketId| self.ends.get(&s).map(|e| e.1);
        matches!((a, b), (Some(a), Some(b)) if other(a.0) == Some(b.0) && other(a.1) == Some(b.1))
    }

    /// Runs until both believe in the same pair and nothing speaks against it; the moment in ms.
    fn run(&mut self, until_ms: u64) -> Option<u64> {
        while self.now.0 / 1_000_000 < until_ms {
            self.now = self.now.plus_ms(STEP_MS);
            for n in 0..2 {
                if self.nodes[n].restart_at.is_some_and(|at| at <= self.now) {
                    self.nodes[n].restart_at = None;
                    self.start(n);
                }
                if self.nodes[n].pairing.as_ref().and_then(Pairing::deadline).is_some_and(|d| d <= self.now) {
                    self.tick(n);
                }
            }
            while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= self.now.0) {
                let (n, what) = entry.remove();
                self.happens(n, what);
            }
            if self.matched() && self.due.is_empty() {
                return Some(self.now.0 / 1_000_000);
            }
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn two_nodes_find_each_other(seed in any::<u64>(), delay_ms in 0..120_u64, apart_ms in 0..3000_u64) {
        let mut net = Net::new(seed, delay_ms);
        net.start(0);
        net.nodes[1].restart_at = Some(net.now.plus_ms(apart_ms));
        let found = net.run(180_000);
        prop_assert!(found.is_some(), "not within three minutes");
    }
}

#[test]
fn on_a_fast_network_a_second_is_enough_when_one_is_there_before_the_other() {
    let late = (0..50).filter(|&seed| {
        let mut net = Net::new(seed, 1);
        net.start(0);
        net.nodes[1].restart_at = Some(net.now.plus_ms(300));
        net.run(60_000).is_none_or(|ms| ms > 3_000)
    });
    assert_eq!(late.count(), 0);
}

#[test]
fn strangers_that_say_nothing_are_turned_away_in_the_end() {
    let mut out = Vec::new();
    let mut node = node(0, 1);
    let mut pairing = Pairing::begin(&node.connection, Instant(1), &mut out);
    let timing = Timing::of(&node.connection, Instant(1));
    for socket in 0..20 {
        pairing.accepted(SocketId(socket), &timing, &mut out);
    }
    let closed = |out: &[Command]| out.iter().filter(|c| matches!(c, Command::Close { .. })).count();
    assert_eq!(closed(&out), 20 - super::STRANGERS_MAX);
    assert!(pairing.knows(SocketId(0)) && !pairing.knows(SocketId(19)));
    out.clear();
    let late = Timing::of(&node.connection, Instant(1).plus_ms(10_000));
    let facts = ConnectionFacts { peer: NodeId(1), link: None, session: 1 };
    assert!(matches!(pairing.tick(&facts, &late, &mut node.random, &mut out), Found::Nothing));
    assert_eq!(closed(&out), super::STRANGERS_MAX);
}

#[test]
fn a_stranger_that_speaks_of_something_else_is_turned_away() {
    let mut out = Vec::new();
    let mut node = node(0, 1);
    let mut pairing = Pairing::begin(&node.connection, Instant(1), &mut out);
    let timing = Timing::of(&node.connection, Instant(1));
    pairing.accepted(SocketId(5), &timing, &mut out);
    let frame = Frame { volume: VolumeNumber(0), packet: Packet::Ping };
    out.clear();
    pairing.packet(SocketId(5), frame, &timing, &mut node.random, &mut out);
    assert!(matches!(out[..], [Command::Close { socket: SocketId(5) }]));
    assert!(!pairing.knows(SocketId(5)));
}
