//! One engine in the place of one of two captured nodes: it is told what the other one sent and what its administrator
//! and its users did, and must send what the captured node sent.
//!
//! What carries states, settings, generations and bitmaps is compared packet by packet and in order. Of blocks that are
//! copied or compared it is compared which they were: how they are cut and when they are asked for is each node's own
//! affair, so requests of the engine are answered here, as the captured peer answered for those blocks. Writes are
//! compared in order, their acknowledgements as a set; where an epoch ends depends on when acknowledgements arrived, so
//! the engine's barriers are answered here, too. Not compared: cookies, sequence numbers, random numbers, pings, hints.

mod answers;
mod compare;
mod generations;
mod node;

use crate::capture::{self, Seen};
use answers::Answers;
use compare::{kind_of, Kind, Tally};
use drbd_core::ids::SocketId;
use drbd_core::wire::{Frame, Packet, Stream, SyncParam};
use generations::Generations;
use node::{set_option, Node, Settings};
use std::collections::VecDeque;
use std::net::IpAddr;

/// The engine is given that long for what it must send, in virtual time.
const PATIENCE_MS: u64 = 60_000;
const STEP_MS: u64 = 10;

/// How much was compared.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Compared {
    /// Connections.
    pub sessions: usize,
    /// Packets compared one by one.
    pub packets: usize,
    /// Blocks of 512 bytes copied, compared or acknowledged.
    pub sectors: u64,
}

/// A line of what is replayed.
enum Line<'a> {
    Packet(&'a Seen),
    /// Somebody does something on that node.
    Command {
        node: &'a str,
        command: &'a str,
    },
}

struct Replay<'a> {
    me: IpAddr,
    node: Node,
    /// Time of the capture up to which time has passed.
    at_ns: u64,
    /// The sockets of the present session: data and control.
    sockets: [Option<SocketId>; 2],
    generations: Generations,
    answers: Answers,
    /// What the captured node sent of what is compared one by one, and the engine did not send yet.
    expected: VecDeque<&'a Frame>,
    /// What the engine sent of that, and the captured node did not send yet.
    early: VecDeque<Frame>,
    theirs: Tally,
    ours: Tally,
    compared: Compared,
    /// With data-integrity-alg.
    digests: bool,
}

/// Replays a text of [`capture::kept`] packets with lines `! NODE COMMAND` between them, NODE being `a` (the lower
/// address) or `b`. `! both cut` at the end: there was more, so which blocks were copied is not compared.
///
/// # Errors
/// What the engine in the place of `me` did otherwise than the captured node, and where.
pub fn replay(text: &str, me: char) -> Result<Compared, String> {
    let seen = capture::kept(text)?;
    let mut nodes: Vec<IpAddr> = seen.iter().map(|s| s.from.ip()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let [a, b] = nodes[..] else { return Err("packets of two nodes are expected".to_owned()) };
    let address = if me == 'a' { a } else { b };
    let mut packets = seen.iter();
    let lines =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| match line.strip_prefix("! ") {
            Some(command) => {
                let (node, command) = command.split_once(' ').expect("a node and a command");
                Line::Command { node, command }
            }
            None => Line::Packet(packets.next().expect("a packet for each line")),
        });
    let lines: Vec<_> = lines.collect();
    let mut replay = Replay {
        me: address,
        node: first_node(&seen, address)?,
        answers: Answers::of(&seen, address),
        at_ns: 0,
        sockets: [None; 2],
        generations: Generations::default(),
        expected: VecDeque::new(),
        early: VecDeque::new(),
        theirs: Tally::default(),
        ours: Tally::default(),
        compared: Compared::default(),
        digests: seen.iter().any(|s| match s.what.as_ref().map(|frame| &frame.packet) {
            Ok(Packet::Protocol(settings)) => !settings.integrity_alg.is_empty(),
            _ => false,
        }),
    };
    for (n, line) in lines.iter().enumerate() {
        let rest = &lines[n..];
        replay.line(line, rest, &me.to_string()).map_err(|why| {
            let log = replay.node.log.iter().rev().take(12).rev().cloned().collect::<Vec<_>>().join("\n");
            format!("line {} of {}, as {me}: {why}\nits log ends:\n{log}", n + 1, lines.len())
        })?;
    }
    if !matches!(lines.last(), Some(Line::Command { command: "cut", .. })) {
        replay.end_session()?;
    }
    Ok(replay.compared)
}

/// Its disk and settings as the captured node told them.
fn first_node(seen: &[Seen], me: IpAddr) -> Result<Node, String> {
    let mine = || seen.iter().filter(|s| s.from.ip() == me).filter_map(|s| s.what.as_ref().ok());
    let find = |what: &str, wanted: fn(&Packet) -> bool| {
        let packet = mine().map(|frame| &frame.packet).find(|packet| wanted(packet));
        packet.ok_or_else(|| format!("no {what} of {me}"))
    };
    let Packet::Sizes(sizes) = find("P_SIZES", |p| matches!(p, Packet::Sizes(_)))? else { unreachable!() };
    let Packet::Protocol(told) = find("P_PROTOCOL", |p| matches!(p, Packet::Protocol(_)))? else {
        unreachable!()
    };
    let Packet::SyncParam(param) = find("P_SYNC_PARAM", |p| matches!(p, Packet::SyncParam(_)))? else {
        unreachable!()
    };
    let mut settings = Settings::default();
    let net = &mut settings.net;
    set_option(net, "protocol", ["A", "B", "C"][told.protocol as usize - 1]);
    for (name, value) in [
        ("data-integrity-alg", &told.integrity_alg),
        ("verify-alg", &param.verify_alg),
        ("csums-alg", &param.csums_alg),
    ] {
        if !value.is_empty() {
            set_option(net, name, value);
        }
    }
    if find("P_AUTH_CHALLENGE", |p| matches!(p, Packet::AuthChallenge(_))).is_ok() {
        set_option(net, "cram-hmac-alg", "sha1");
        set_option(net, "shared-secret", "known to both");
    }
    let SyncParam { resync_rate, c_plan_ahead, c_delay_target, c_fill_target, c_max_rate, .. } = **param;
    for (name, value) in [
        ("resync-rate", format!("{resync_rate}k")),
        ("c-plan-ahead", c_plan_ahead.to_string()),
        ("c-delay-target", c_delay_target.to_string()),
        ("c-fill-target", format!("{c_fill_target}s")),
        ("c-max-rate", format!("{c_max_rate}k")),
    ] {
        set_option(&mut settings.peer_device, name, &value);
    }
    Ok(Node::new(**sizes, &settings))
}

impl<'a> Replay<'a> {
    fn line(&mut self, line: &Line<'a>, rest: &[Line<'a>], name: &str) -> Result<(), String> {
        match line {
            Line::Command { command: "cut", .. } => self.catch_up(),
            Line::Command { node, command } if *node == name => {
                self.catch_up()?;
                match *command {
                    "lost" => self.lose_sockets(),
                    command => self.node.command(command),
                }
                self.look()
            }
            Line::Command { .. } => Ok(()),
            Line::Packet(seen) => {
                self.pass_until(seen.at_ns)?;
                let frame = seen.what.as_ref().map_err(String::clone)?;
                match frame.packet {
                    Packet::InitialData => self.end_session().and_then(|()| self.open(seen, rest)),
                    Packet::InitialMeta => self.open(seen, rest),
                    _ if seen.from.ip() == self.me => self.expect(frame),
                    _ => self.arrives(seen, frame),
                }
            }
        }
    }

    /// One of the two sockets of a session is opened.
    fn open(&mut self, seen: &Seen, rest: &[Line<'a>]) -> Result<(), String> {
        let stream = seen.stream.ok_or("a socket of no use")?;
        let socket = if seen.from.ip() == self.me {
            self.wait("a Dial", |node| node.is_dialling())?;
            let socket = self.node.dialled();
            self.wait("the first packet of a socket", |node| !node.sent.is_empty())?;
            let (of, frame) = self.node.sent.pop_front().expect("it was waited for");
            let wanted = seen.what.as_ref().map_err(String::clone)?;
            if of != socket || frame.packet != wanted.packet {
                return Err(format!(
                    "{} instead of {}",
                    capture::describe(&frame),
                    capture::describe(wanted)
                ));
            }
            socket
        } else {
            self.wait("a listener", |node| node.is_listening())?;
            self.node.refuse_dial();
            let socket = self.node.accepted();
            let frame = seen.what.clone().map_err(|why| why.clone())?;
            self.node.packet(socket, frame, &[]);
            socket
        };
        self.sockets[stream as usize] = Some(socket);
        if stream == Stream::Data {
            self.compared.sessions += 1;
            self.learn_secrets(rest);
        }
        self.look()
    }

    /// What the two prove to each other in this session.
    fn learn_secrets(&mut self, rest: &[Line<'a>]) {
        let packets = rest.iter().filter_map(|line| match line {
            Line::Packet(seen) => seen.what.as_ref().ok().map(|frame| (seen.from.ip() == self.me, frame)),
            Line::Command { .. } => None,
        });
        let session = packets.skip(1).take_while(|(_, frame)| frame.packet != Packet::InitialData);
        for (mine, frame) in session {
            match (&frame.packet, mine) {
                (Packet::AuthChallenge(bytes), true) => self.node.secrets.challenge = bytes.to_vec(),
                (Packet::AuthResponse(bytes), true) => self.node.secrets.response = bytes.to_vec(),
                (Packet::AuthResponse(bytes), false) => self.node.secrets.expected = bytes.to_vec(),
                _ => {}
            }
        }
    }

    /// The captured node sent this: the engine must, too.
    fn expect(&mut self, frame: &'a Frame) -> Result<(), String> {
        match kind_of(&frame.packet) {
            Kind::OneByOne => {
                self.expected.push_back(frame);
                self.match_up()
            }
            Kind::Write => {
                self.catch_up()?;
                self.theirs.add(frame);
                self.node.upper_as(&frame.packet);
                self.look()
            }
            Kind::Counted => {
                self.theirs.add(frame);
                Ok(())
            }
            Kind::NotCompared => Ok(()),
        }
    }

    /// A packet of the captured peer.
    fn arrives(&mut self, seen: &Seen, frame: &Frame) -> Result<(), String> {
        if self.answers.is_one(&frame.packet) {
            return Ok(());
        }
        self.catch_up()?;
        let stream = seen.stream.ok_or("a socket of no use")?;
        let Some(socket) = self.sockets[stream as usize] else { return Err("no session".to_owned()) };
        let frame = self.generations.to_ours(frame.clone());
        self.answers.prepare(&frame.packet, &mut self.node);
        self.node.packet(socket, frame, &seen.integrity);
        self.look()
    }

    /// Time passes as it did for the captured node.
    fn pass_until(&mut self, at_ns: u64) -> Result<(), String> {
        let ms = at_ns.saturating_sub(self.at_ns) / 1_000_000;
        self.at_ns += ms * 1_000_000;
        for _ in 0..ms / STEP_MS {
            self.node.pass_ms(STEP_MS);
            self.look()?;
        }
        self.node.pass_ms(ms % STEP_MS);
        self.look()
    }

    /// Until the engine has sent what the captured node had sent by now.
    fn catch_up(&mut self) -> Result<(), String> {
        let mut waited = 0;
        while let Some(frame) = self.expected.front() {
            if waited > PATIENCE_MS {
                return Err(format!("{} is not sent", capture::describe(frame)));
            }
            waited += STEP_MS;
            self.node.pass_ms(STEP_MS);
            self.look()?;
        }
        Ok(())
    }

    fn wait(&mut self, what: &str, so: impl Fn(&Node) -> bool) -> Result<(), String> {
        for _ in 0..PATIENCE_MS / STEP_MS {
            if so(&self.node) {
                return Ok(());
            }
            self.node.pass_ms(STEP_MS);
        }
        Err(format!("waited in vain for {what}"))
    }

    /// Looks at what the engine sent, and answers what is answered here.
    fn look(&mut self) -> Result<(), String> {
        while let Some((socket, frame)) = self.node.sent.pop_front() {
            if !self.sockets.contains(&Some(socket)) {
                return Err(format!("{} on a socket of no session", capture::describe(&frame)));
            }
            self.answer(&frame);
            match kind_of(&frame.packet) {
                Kind::OneByOne => {
                    self.early.push_back(frame);
                    self.match_up()?;
                }
                Kind::Write | Kind::Counted => self.ours.add(&frame),
                Kind::NotCompared => {}
            }
        }
        Ok(())
    }

    fn answer(&mut self, frame: &Frame) {
        let Some((stream, answer, digest)) = self.answers.to(frame, &mut self.node) else { return };
        let socket = self.sockets[stream as usize].expect("the engine sent something on it");
        if !self.node.is_closed(socket) {
            self.node.packet(socket, answer, &digest);
        }
    }

    /// Compares what both have sent.
    fn match_up(&mut self) -> Result<(), String> {
        while let Some(theirs) = self.expected.front().copied() {
            let Some(n) = compare::next_for(theirs, &self.early) else { return Ok(()) };
            let ours = &self.early[n];
            self.generations.learn(ours, theirs);
            let ours = self.generations.to_theirs(ours.clone());
            if !compare::alike(&ours, theirs, self.digests) {
                let [ours, theirs] =
                    [&ours, theirs].map(|f| format!("{} ({:?})", capture::describe(f), f.packet));
                return Err(format!("the captured node sent\n  {theirs}\nthe engine\n  {ours}"));
            }
            self.compared.packets += 1;
            self.expected.pop_front();
            self.early.remove(n);
        }
        Ok(())
    }

    fn lose_sockets(&mut self) {
        for socket in self.sockets.into_iter().flatten() {
            if !self.node.is_closed(socket) {
                self.node.lose(socket);
            }
        }
    }

    /// What is compared at the end of a session.
    fn end_session(&mut self) -> Result<(), String> {
        self.catch_up()?;
        // Acknowledgements of the last writes.
        self.node.pass_ms(STEP_MS);
        self.look()?;
        if let Some(frame) = self.early.front() {
            return Err(format!("the captured node did not send {}", capture::describe(frame)));
        }
        let (ours, theirs) = (std::mem::take(&mut self.ours), std::mem::take(&mut self.theirs));
        ours.compare(&theirs)?;
        self.compared.packets += theirs.packets();
        self.compared.sectors += theirs.sectors();
        self.answers.end_session();
        self.sockets = [None; 2];
        Ok(())
    }
}
