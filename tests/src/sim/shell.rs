//! Carries out what an engine commands, as the daemon does: disks, metadata, sockets, timers.

use super::clock::{Time, MS, US};
use super::cluster::{Cluster, Happening};
use super::disk::{Change, Operation, BLOCK};
use super::integrity::{digest_of, toy_hmac};
use super::network::{Connection, End, Flow, Party, PartyState, Piece};
use super::node::{Daemon, Endpoint, Job};
use super::trouble::FULL;
use drbd_core::engine::{Command, DiskIo, DiskOp, Event, IoResult, MetaIo, MetaOp, SocketLoss, ONLY_ZEROES};
use drbd_core::ids::{Instant, NodeId, PayloadId, SocketId};
use drbd_core::states::DiskState;
use drbd_core::wire::{self, Frame, Framer};
use std::fmt::{self, Write};
use std::rc::Rc;

impl Cluster {
    /// The daemon of a node, which runs.
    pub(crate) fn daemon(&mut self, node: usize) -> &mut Daemon {
        self.nodes[node].daemon.as_mut().expect("a running daemon")
    }

    /// Tells an engine something and does what it commands.
    pub(crate) fn handle(&mut self, node: usize, event: Event) {
        let now = Instant(self.nodes[node].clock.shows(self.clock.now()));
        self.note(Some(node), "event", format_args!("{}", Described(&event)));
        let mut out = Vec::new();
        let promoting = self.is_promoting(node);
        if promoting {
            self.promotion_goes_on(node);
        }
        let frozen = self.is_frozen(node);
        let daemon = self.daemon(node);
        daemon.resource.handle(now, event, &mut out);
        // Metadata is taken at once, because the engine's memory goes on changing.
        let mut blocks = Vec::new();
        for command in &out {
            if let Command::Meta(MetaIo { volume, op, .. }) = command {
                if *op != MetaOp::Flush {
                    let mut block = Box::new([0; BLOCK]);
                    daemon.resource.encode_meta(*volume, *op, &mut block);
                    blocks.push(block);
                }
            }
        }
        daemon.resource.check();
        if frozen {
            self.note_freeze(node, frozen, &out);
        } else {
            daemon.frozen = false;
        }
        // The answer comes when that is kept; the disk it became Primary with may be gone by then.
        if promoting && !self.is_promoting(node) {
            self.promoted(node);
        }
        self.note_meeting(node);
        let mut blocks = blocks.into_iter();
        for command in out {
            let block = match &command {
                Command::Meta(io) if io.op != MetaOp::Flush => blocks.next(),
                _ => None,
            };
            self.carry_out(node, command, block);
        }
        self.arm(node);
    }

    /// Sets the timer of a node.
    fn arm(&mut self, node: usize) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let Some(deadline) = daemon.resource.next_deadline() else {
            daemon.armed = None;
            return;
        };
        let at = self.nodes[node].clock.world(deadline.0).max(self.clock.now());
        let run = self.nodes[node].run;
        let daemon = self.daemon(node);
        if daemon.armed != Some(at) {
            daemon.armed = Some(at);
            self.clock.at(at, Happening::Timer { node, run, at });
        }
    }

    /// A timer rings, if it was not set anew.
    pub(crate) fn timer(&mut self, node: usize, run: u32, at: Time) {
        if !self.is_run(node, run) || self.daemon(node).armed != Some(at) {
            return;
        }
        self.daemon(node).armed = None;
        self.handle(node, Event::Timer);
    }

    /// Tells an engine something a little later.
    pub(crate) fn post(&mut self, node: usize, delay: Time, event: Event) {
        let run = self.nodes[node].run;
        self.clock.after(delay, Happening::Post { node, run, event: Box::new(event) });
    }

    fn carry_out(&mut self, node: usize, command: Command, block: Option<Box<[u8; BLOCK]>>) {
        if self.failure.is_some() {
            return;
        }
        match command {
            Command::Disk(io) => self.disk_io(node, io),
            Command::Meta(io) => self.meta_io(node, io, block),
            Command::Send { socket, frame, payload } => self.send(node, socket, &frame, payload),
            Command::Complete { tag, result, payload } => self.complete(node, tag, result, payload),
            Command::Release { payload } => self.daemon(node).payloads.release(payload),
            Command::SetVersion { socket, version } => {
                if let Some(endpoint) = self.daemon(node).sockets.get_mut(&socket.0) {
                    endpoint.version = version;
                    endpoint.framer.set_version(version);
                    // What waited for it may be read now.
                    let (connection, side) = (endpoint.connection, 1 - endpoint.side);
                    self.clock.after(0, Happening::Deliver { connection, side });
                }
            }
            Command::SetIntegrity { socket, direction, algorithm } => {
                self.set_integrity(node, socket, direction, !algorithm.is_empty());
            }
            Command::Close { socket } => self.close(node, socket),
            Command::Dial { peer, link } => self.dial(node, peer, link.dial_timeout_ms),
            Command::CancelDial { peer } => {
                self.daemon(node).dialling.remove(&peer.0);
            }
            Command::Listen { peer, .. } => {
                self.daemon(node).listening.insert(peer.0);
            }
            Command::Unlisten { peer } => {
                self.daemon(node).listening.remove(&peer.0);
            }
            Command::Challenge { peer } => {
                let mut bytes = Box::new([0; 64]);
                bytes.fill_with(|| self.dice.operator.below(256) as u8);
                self.post(node, US, Event::Challenge { peer, bytes });
            }
            Command::Hmac { peer, purpose, algorithm, key, message } => {
                let digest = (&*algorithm != "unknown").then(|| toy_hmac(&key, &message));
                self.post(node, US, Event::Hmac { peer, purpose, digest });
            }
            Command::Digest { job, payload, algorithm, .. } => {
                let tags = self.daemon(node).payloads.tags(payload);
                let digest = Some(if &*algorithm == ONLY_ZEROES {
                    [u8::from(tags.iter().all(|tag| *tag == 0))].into()
                } else {
                    digest_of(&tags)
                });
                self.post(node, 20 * US, Event::Digest { job, digest });
            }
            Command::RunHandler { handler, call } => {
                self.note(Some(node), "handler", format_args!("{}", call.name));
                if self.fence(node, handler, call.name) {
                    return;
                }
                self.handler_called(node, call.name, call.volume);
                // Some handlers hang for a while.
                let slow = self.dice.operator.chance(50);
                let delay = self.dice.operator.between(MS, if slow { 8000 * MS } else { 300 * MS });
                self.post(node, delay, Event::HandlerExited { handler, status: 0 });
            }
            Command::Device { volume, size, writable } => {
                self.note(Some(node), "device", format_args!("{volume} {size} writable {writable}"));
            }
            Command::SettingsAdopted { peer, .. } => {
                self.note(Some(node), "settings", format_args!("of node {peer}"));
            }
            Command::SizeAdopted { volume, size } => {
                self.note(Some(node), "settings", format_args!("volume {volume} is to have {size} sectors"));
            }
            Command::MeasureDisk { volume } => {
                let bytes = Some(self.nodes[node].volumes[usize::from(volume.0)].image.device_bytes());
                self.post(node, 0, Event::DiskMeasured { volume, bytes });
            }
            Command::HandedOver { data, control, state } => self.handed_over(node, (data, control), &state),
            Command::CloseDisk { volume } => self.note(Some(node), "close-disk", format_args!("{volume}")),
            Command::Reply { ticket, result } => self.replied(node, ticket, &result),
            Command::Notify(_) => {}
            Command::Log(record) => {
                self.note(Some(node), "log", format_args!("{}: {}", record.subject, record.text));
            }
        }
    }

    // ---- disks ----

    fn disk_io(&mut self, node: usize, io: DiskIo) {
        let (first, count) = (io.sector.0, u64::from(io.bytes) / 512);
        self.note(
            Some(node),
            "disk",
            format_args!("io {} {:?} volume {} {first}+{count} fua {}", io.io, io.op, io.volume, io.fua),
        );
        let size = self.nodes[node].volumes[usize::from(io.volume.0)].image.sectors_at_most().0;
        if first + count > size || io.bytes % 512 != 0 {
            self.fail("contract", format!("a disk operation beyond the end or not in sectors: {io:?}"));
            return;
        }
        let payload = |cluster: &mut Cluster| {
            let tags = cluster.daemon(node).payloads.tags(io.payload);
            assert_eq!(tags.len() as u64, count, "the payload of {io:?} is of another length");
            tags
        };
        let write = |change| Operation::Write { change, preflush: false, fua: io.fua };
        let (operation, writes, fills) = match io.op {
            DiskOp::Read => {
                if io.payload != PayloadId::NONE {
                    payload(self);
                    self.daemon(node).payloads.retain(io.payload);
                }
                let early = self.dice.disk.chance(500).then(Vec::new);
                (Operation::Read(first, count, early), None, Some(io.payload))
            }
            DiskOp::Write => (write(Change::Tags(first, payload(self))), Some((first, count)), None),
            DiskOp::Discard | DiskOp::WriteZeroes { .. } => {
                (write(Change::Zero(first, count)), Some((first, count)), None)
            }
            DiskOp::Flush => (Operation::Flush, None, None),
        };
        let job = Job { io: io.io, volume: usize::from(io.volume.0), meta: false, writes, fills };
        self.begin_io(node, job, operation);
    }

    fn meta_io(&mut self, node: usize, io: MetaIo, block: Option<Box<[u8; BLOCK]>>) {
        let volume = usize::from(io.volume.0);
        let operation = match block {
            None => Operation::Flush,
            Some(block) => {
                let at = self.nodes[node].volumes[volume].image.within(io.offset_bytes);
                let change = Change::Block(at, block);
                Operation::Write { change, preflush: io.barrier, fua: io.barrier }
            }
        };
        let job = Job { io: io.io, volume, meta: true, writes: None, fills: None };
        self.note(Some(node), "meta", format_args!("{io:?}"));
        self.begin_io(node, job, operation);
    }

    fn begin_io(&mut self, node: usize, job: Job, operation: Operation) {
        let number = self.next_operation;
        self.next_operation += 1;
        let usual = self.setup.nodes[node].disk_latency;
        let delay = self.dice.disk.skewed(usual / 4, usual, usual * 8);
        let disk = self.nodes[node].volumes[job.volume].disk(job.meta);
        if let Err(text) = disk.begin(number, operation) {
            self.fail("contract", format!("n{node}, volume {}: {text}", job.volume));
            return;
        }
        self.daemon(node).jobs.insert(number, job);
        let run = self.nodes[node].run;
        self.clock.after(delay, Happening::Disk { node, run, number });
    }

    /// An operation of a disk is done, unless the disk stalls.
    pub(crate) fn disk_done(&mut self, node: usize, run: u32, number: u64) {
        if !self.is_run(node, run) {
            return;
        }
        let job = self.daemon(node).jobs[&number];
        let disk = self.nodes[node].volumes[job.volume].disk(job.meta);
        if disk.stalled_until > self.clock.now() {
            let wait = disk.stalled_until + self.dice.disk.below(50 * MS);
            self.clock.at(wait, Happening::Disk { node, run, number });
            return;
        }
        let full_until = if job.meta { disk.meta_full_until } else { disk.full_until };
        let full = (job.meta || job.writes.is_some()) && full_until > self.clock.now();
        let finished = if full {
            disk.refuse(number);
            None
        } else {
            disk.finish(number, &mut self.dice.disk)
        };
        self.daemon(node).jobs.remove(&number);
        if let Some((first, count)) = job.writes {
            self.disk_changed(node, job.volume, first, count);
        }
        let mut payload = PayloadId::NONE;
        let own = job.fills.filter(|buffer| *buffer != PayloadId::NONE);
        let result = match finished {
            None => IoResult::Failed(if full { FULL } else { 5 }),
            Some((_, read)) => {
                match (own, job.fills) {
                    (Some(buffer), _) => self.daemon(node).payloads.fill(buffer, read),
                    (None, Some(_)) => payload = self.daemon(node).payloads.take(Rc::new(read), 1),
                    (None, None) => {}
                }
                IoResult::Done
            }
        };
        if let Some(buffer) = own {
            self.daemon(node).payloads.release(buffer);
        }
        self.handle(node, Event::DiskDone { io: job.io, result, payload });
    }

    /// Data sectors of a disk may have changed: the ledger is told.
    pub(crate) fn disk_changed(&mut self, node: usize, volume: usize, first: u64, count: u64) {
        let target = self.claims(node, volume).is_some_and(|c| c.disk == DiskState::Inconsistent);
        let current = self.nodes[node].volumes[volume].data.current();
        let count = count.min(self.sizes[volume].0.saturating_sub(first));
        let verdict = self.ledgers[volume].written(node, first, count, &|s| current[s as usize], target);
        self.judge("durability", verdict);
    }

    // ---- sockets ----

    fn send(&mut self, node: usize, socket: SocketId, frame: &Frame, payload: PayloadId) {
        self.note(Some(node), "send", format_args!("{socket} {}", Short(frame)));
        self.write_sent(node, frame);
        let daemon = self.nodes[node].daemon.as_mut().expect("a running daemon");
        let Some(endpoint) = daemon.sockets.get_mut(&socket.0) else { return };
        match frame.packet {
            wire::Packet::InitialData => endpoint.framer.set_stream(wire::Stream::Data),
            wire::Packet::InitialMeta => endpoint.framer.set_stream(wire::Stream::Control),
            _ => {}
        }
        let bulk = frame.packet.bulk_bytes() as usize;
        let (connection, side, version) = (endpoint.connection, endpoint.side, endpoint.version);
        let has_digest = endpoint.sends_digest && bulk > 0;
        let tags = (bulk > 0).then(|| daemon.payloads.tags(payload));
        let digest = tags.as_ref().filter(|_| has_digest).map(|tags| digest_of(tags));
        let mut bytes = Vec::new();
        wire::encode_with_integrity(frame, version, digest.as_deref().unwrap_or_default(), &mut bytes);
        self.note_agreement(node, &frame.packet);
        let tags = tags.map(|tags| self.on_the_way(tags, has_digest));
        let flow = &mut self.network.connections[connection].flows[side];
        flow.push(Piece::Bytes(bytes));
        if let Some(tags) = tags {
            assert_eq!(tags.len() * 512, bulk, "the bulk of {frame:?} is of another length");
            flow.push(Piece::Bulk { tags, from: 0, to: bulk });
        }
        flow.packets += 1;
        flow.unsent.push_back((flow.packets, flow.written));
        self.arrange_delivery(connection, side);
        self.tell_sent(connection, side);
    }

    /// Tells the sender what fits into the kernel's buffer now.
    fn tell_sent(&mut self, connection: usize, side: usize) {
        let limit = self.network.buffer_bytes;
        let connection = &mut self.network.connections[connection];
        let Some(packets) = connection.flows[side].newly_sent(limit) else { return };
        let party = connection.parties[side];
        if party.state == PartyState::Open && self.is_run(party.node, party.run) {
            let delay = self.dice.network.below(20 * US);
            self.post(party.node, delay, Event::Sent { socket: SocketId(party.socket), packets });
        }
    }

    fn arrange_delivery(&mut self, connection: usize, side: usize) {
        let delay = self.network.delay(&mut self.dice.network);
        let flow = &mut self.network.connections[connection].flows[side];
        if !flow.arranged && (flow.queued > 0 || flow.end.is_some()) {
            flow.arranged = true;
            self.clock.after(delay, Happening::Deliver { connection, side });
        }
    }

    /// Something of a direction arrives.
    pub(crate) fn deliver(&mut self, connection: usize, side: usize) {
        let link = &mut self.network.connections[connection];
        let (from, to) = (link.parties[side], link.parties[1 - side]);
        let blocked = self.network.blocked(from.node, to.node);
        if blocked > self.clock.now() {
            self.clock
                .at(blocked + self.dice.network.below(100 * MS), Happening::Deliver { connection, side });
            return;
        }
        let flow = &mut self.network.connections[connection].flows[side];
        flow.arranged = false;
        match to.state {
            PartyState::Coming => return,
            PartyState::Closed => {
                flow.lose();
                return;
            }
            PartyState::Open => {}
        }
        if to.silent {
            flow.lose();
            return;
        }
        let cut = self.dice.network.chance(self.network.cuts_per_mille);
        let bytes = if cut && flow.queued > 0 {
            let most = flow.queued as u64;
            self.dice.network.skewed(1, most.min(40), most) as usize
        } else {
            flow.queued
        };
        let pieces = flow.pull(bytes);
        let ended = if flow.queued == 0 { flow.end.take() } else { None };
        self.arrange_delivery(connection, side);
        self.tell_sent(connection, side);
        if self.is_run(to.node, to.run) {
            if let Some(endpoint) = self.daemon(to.node).sockets.get_mut(&to.socket) {
                endpoint.input.extend(pieces);
                self.read(to.node, to.socket);
            }
        }
        if let Some(end) = ended {
            let why = match end {
                End::Orderly => SocketLoss::EndOfStream,
                End::Reset => SocketLoss::Failed("connection reset by peer".into()),
            };
            self.lose_socket(connection, 1 - side, why);
        }
    }

    /// A side is told that its connection is gone.
    pub(crate) fn lose_socket(&mut self, connection: usize, side: usize, why: SocketLoss) {
        let party = &mut self.network.connections[connection].parties[side];
        if party.state != PartyState::Open || party.silent {
            return;
        }
        party.state = PartyState::Closed;
        let (node, run, socket) = (party.node, party.run, party.socket);
        self.agreement.is_over(node);
        let flow = &mut self.network.connections[connection].flows[side];
        flow.lose();
        if !flow.void {
            flow.end = Some(End::Orderly);
            self.arrange_delivery(connection, side);
        }
        if self.is_run(node, run) && self.daemon(node).sockets.remove(&socket).is_some() {
            self.handle(node, Event::SocketLost { socket: SocketId(socket), why });
        }
    }

    /// Reads what arrived at a socket, packet by packet, as long as it exists.
    fn read(&mut self, node: usize, socket: u32) {
        while self.failure.is_none() {
            let Some(daemon) = self.nodes[node].daemon.as_mut() else { return };
            let Some(endpoint) = daemon.sockets.get_mut(&socket) else { return };
            if !daemon.handing.reads(endpoint) {
                return;
            }
            match next_frame(endpoint) {
                Ok(None) => return,
                Ok(Some((_, Some(tags)))) if !endpoint.is_intact(&tags) => {
                    let why = SocketLoss::Malformed("the data of a packet arrived changed".into());
                    let (connection, side) = (endpoint.connection, endpoint.side);
                    self.lose_socket(connection, side, why);
                }
                Ok(Some((frame, bulk))) => {
                    let payload = match bulk {
                        Some(tags) => daemon.payloads.take(tags, 1),
                        None => PayloadId::NONE,
                    };
                    if let wire::Packet::StateChangeReply(_) | wire::Packet::ConnStateChangeReply(_) =
                        frame.packet
                    {
                        self.agreement.is_over(node);
                    }
                    if let wire::Packet::NegAck(ack) = &frame.packet {
                        self.write_refused(node, frame.volume, ack);
                    }
                    self.handle(node, Event::Packet { socket: SocketId(socket), frame, payload });
                }
                Err(text) => {
                    self.fail("contract", format!("n{node} cannot read socket {socket}: {text}"));
                    return;
                }
            }
        }
    }

    pub(crate) fn close(&mut self, node: usize, socket: SocketId) {
        self.note(Some(node), "close", format_args!("{socket}"));
        let Some(endpoint) = self.daemon(node).sockets.remove(&socket.0) else { return };
        self.agreement.is_over(node);
        let reset = self.dice.network.chance(200);
        self.end_side(endpoint.connection, endpoint.side, reset);
    }

    /// A process lets go of its side.
    pub(crate) fn end_side(&mut self, connection: usize, side: usize, reset: bool) {
        let link = &mut self.network.connections[connection];
        link.parties[side].state = PartyState::Closed;
        link.flows[1 - side].lose();
        if reset {
            link.flows[side].lose();
        }
        link.flows[side].end = Some(if reset { End::Reset } else { End::Orderly });
        self.arrange_delivery(connection, side);
    }

    fn dial(&mut self, node: usize, peer: NodeId, timeout_ms: u64) {
        let run = self.nodes[node].run;
        let daemon = self.daemon(node);
        daemon.attempts += 1;
        let attempt = daemon.attempts;
        daemon.dialling.insert(peer.0, attempt);
        let give_up_at = self.clock.now() + timeout_ms * MS;
        let delay = self.network.delay(&mut self.dice.network);
        let to = usize::from(peer.0);
        self.clock.after(delay, Happening::Dial { from: node, to, run, attempt, give_up_at });
    }

    /// A dial reaches the other node: nobody there, refused, or a connection.
    pub(crate) fn dial_arrives(&mut self, from: usize, to: usize, run: u32, attempt: u32, give_up_at: Time) {
        if !self.is_run(from, run) || self.daemon(from).dialling.get(&(to as u8)) != Some(&attempt) {
            return;
        }
        let peer = NodeId(to as u8);
        let now = self.clock.now();
        let blocked = self.network.blocked(from, to).max(self.network.blocked(to, from));
        if blocked > now || !self.nodes[to].power {
            if now >= give_up_at {
                self.daemon(from).dialling.remove(&peer.0);
                self.handle(from, Event::DialFailed { peer, retry: true, why: "timed out".into() });
            } else {
                let again = (now + 1000 * MS).min(give_up_at);
                self.clock.at(again, Happening::Dial { from, to, run, attempt, give_up_at });
            }
            return;
        }
        let listens = self.nodes[to].refuses_until <= now
            && self.nodes[to].daemon.as_ref().is_some_and(|d| d.listening.contains(&(from as u8)));
        if !listens {
            self.daemon(from).dialling.remove(&peer.0);
            self.handle(from, Event::DialFailed { peer, retry: true, why: "connection refused".into() });
            return;
        }
        let party = |cluster: &mut Cluster, node: usize| {
            let run = cluster.nodes[node].run;
            let daemon = cluster.daemon(node);
            let socket = daemon.next_socket;
            daemon.next_socket += 1;
            Party { node, run, socket, state: PartyState::Coming, silent: false }
        };
        let parties = [party(self, from), party(self, to)];
        let connection = self.network.connections.len();
        self.network.connections.push(Connection { parties, flows: [Flow::default(), Flow::default()] });
        for side in 0..2 {
            let delay = self.network.delay(&mut self.dice.network);
            self.clock.after(delay, Happening::Announce { connection, side });
        }
    }

    /// A side learns of its connection, if it still wants it.
    pub(crate) fn announce(&mut self, connection: usize, side: usize) {
        let party = self.network.connections[connection].parties[side];
        let peer = NodeId(self.network.connections[connection].parties[1 - side].node as u8);
        if party.silent || party.state != PartyState::Coming {
            return;
        }
        let wanted = self.is_run(party.node, party.run)
            && if side == 0 {
                self.daemon(party.node).dialling.remove(&peer.0).is_some()
            } else {
                self.daemon(party.node).listening.contains(&peer.0)
            };
        if !wanted {
            self.end_side(connection, side, true);
            return;
        }
        self.network.connections[connection].parties[side].state = PartyState::Open;
        let endpoint = Endpoint {
            connection,
            side,
            version: 80,
            framer: Framer::new(),
            sends_digest: false,
            receives_digest: false,
            input: Default::default(),
            awaiting: None,
        };
        self.daemon(party.node).sockets.insert(party.socket, endpoint);
        self.arrange_delivery(connection, 1 - side);
        let socket = SocketId(party.socket);
        let event =
            if side == 0 { Event::Dialled { peer, socket } } else { Event::Accepted { peer, socket } };
        self.handle(party.node, event);
    }
}

type Bulk = Option<Rc<Vec<u64>>>;

/// Takes the next packet with its bulk off what arrived.
fn next_frame(endpoint: &mut Endpoint) -> Result<Option<(Frame, Bulk)>, String> {
    loop {
        if let Some((frame, missing, tags)) = endpoint.awaiting.take() {
            if missing == 0 {
                return Ok(Some((frame, Some(tags))));
            }
            let Some(mut piece) = endpoint.input.pop_front() else {
                endpoint.awaiting = Some((frame, missing, tags));
                return Ok(None);
            };
            if piece.len() > missing {
                let front = piece.split_front(missing);
                endpoint.input.push_front(std::mem::replace(&mut piece, front));
            }
            let Piece::Bulk { tags, from, to } = piece else {
                return Err(format!("bytes where the bulk of {frame:?} should be"));
            };
            let begins = frame.packet.bulk_bytes() as usize - missing;
            if from != begins {
                return Err(format!("the bulk of {frame:?} is out of place"));
            }
            endpoint.awaiting = Some((frame, missing - (to - from), tags));
            continue;
        }
        if endpoint.framer.wanted() == 0 {
            return Ok(None);
        }
        let Some(piece) = endpoint.input.pop_front() else { return Ok(None) };
        let Piece::Bytes(bytes) = piece else {
            return Err("bulk where a header should be".to_owned());
        };
        let fed = endpoint.framer.feed(&bytes).map_err(|malformed| malformed.to_string())?;
        if fed.consumed < bytes.len() {
            endpoint.input.push_front(Piece::Bytes(bytes[fed.consumed..].to_vec()));
        }
        if let Some(frame) = fed.frame {
            let bulk = frame.packet.bulk_bytes() as usize;
            if bulk == 0 {
                return Ok(Some((frame, None)));
            }
            endpoint.awaiting = Some((frame, bulk, Rc::new(Vec::new())));
        }
    }
}

/// The beginning of a value's Debug form.
pub(crate) struct Short<'a>(pub(crate) &'a dyn fmt::Debug);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cut = Cut { room: 240, to: f };
        // An error only says that the rest was cut off.
        let _ = write!(cut, "{:?}", self.0);
        Ok(())
    }
}

struct Cut<'a, 'f> {
    room: usize,
    to: &'a mut fmt::Formatter<'f>,
}

impl Write for Cut<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = self.room.min(text.len());
        self.to.write_str(text.get(..fits).unwrap_or(""))?;
        self.room -= fits;
        if self.room == 0 {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// An event as the trace shows it.
struct Described<'a>(&'a Event);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::Packet { socket, frame, .. } => write!(f, "{socket} {}", Short(frame)),
            other => Short(other).fmt(f),
        }
    }
}
