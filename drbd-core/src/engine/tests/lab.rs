//! Two nodes and the network between them. Everything happens at once and in order unless a test holds it back.

use super::mutated::Mutation;
use super::node::{net, options, Node, Pending, VOLUME};
use crate::config::{DeviceOptions, DiskOptions, NetOptions, OptionSet, ResourceOptions};
use crate::engine::{
    AdminRequest, Command, Direction, Event, HmacPurpose, IoResult, SocketLoss, UpperOp, UpperRequest,
    UpperResult,
};
use crate::ids::{Instant, Minor, NodeId, PayloadId, Sector, SocketId, Ticket, UpperTag, VolumeNumber};
use crate::metadata::{Format, BLOCK_BYTES};
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::Frame;
use digests::hmac;
use std::collections::{BTreeMap, VecDeque};

mod digests;
mod dying;
mod forging;
mod handing_over;
mod holding;
pub(super) mod journal;

pub(super) struct Lab {
    pub(super) nodes: [Node; 2],
    pub(super) now: Instant,
    events: VecDeque<(usize, Event)>,
    /// Ends of connections: whose, and the other end.
    ends: BTreeMap<SocketId, (usize, SocketId)>,
    sent: BTreeMap<SocketId, u64>,
    next: u32,
    buffers: BTreeMap<PayloadId, Vec<u32>>,
    pub(super) cable_cut: bool,
    /// Whose digest of what is slow to come, and what came meanwhile.
    pub(super) slow_digest: Option<(usize, HmacPurpose)>,
    late_digests: Vec<(usize, Event)>,
    options: [NetOptions; 2],
    pub(super) hold_digests: bool,
    held_digests: Vec<(usize, Event)>,
    /// What everybody did, if somebody reads it.
    pub(super) journal: Option<journal::Journal>,
    /// Whose next block on the wire arrives with other bytes.
    pub(super) damages: Option<usize>,
    /// What becomes of packets on their way.
    pub(super) mutation: Option<Mutation>,
    /// What the kernel keeps because nobody reads it.
    unread: handing_over::Unread,
    /// No packet was forged: buffers are as long as they are said to be.
    pub(super) honest: bool,
}

impl Lab {
    /// Two nodes with fresh disks attached, not connected.
    pub(super) fn with(options: [NetOptions; 2], format: Format) -> Lab {
        Lab::of([Node::new(0, format, 100), Node::new(1, format, 200)], options)
    }

    pub(super) fn of(nodes: [Node; 2], options: [NetOptions; 2]) -> Lab {
        let (ends, sent, buffers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut lab = Lab {
            nodes,
            now: Instant(1),
            events: VecDeque::new(),
            ends,
            sent,
            next: 1,
            buffers,
            cable_cut: false,
            slow_digest: None,
            late_digests: Vec::new(),
            options: options.clone(),
            hold_digests: false,
            held_digests: Vec::new(),
            journal: None,
            damages: None,
            mutation: None,
            unread: Default::default(),
            honest: true,
        };
        for (n, net) in options.into_iter().enumerate() {
            lab.configure(n, net);
            lab.attach(n).expect("a fresh disk is attached");
        }
        lab
    }

    /// Two nodes with copies of another lab's disks, attached, not connected.
    pub(super) fn with_disks_of(other: &Lab, options: [NetOptions; 2]) -> Lab {
        let nodes = [0, 1].map(|n| Node::with_disk_of(&other.nodes[n], n as u8, 300));
        Lab::of(nodes, options)
    }

    /// Other net options for a node that was not yet asked to connect.
    pub(super) fn configure_again(&mut self, n: usize, options: NetOptions) {
        let peer = NodeId(1 - n as u8);
        self.ask(n, AdminRequest::NetOptions { peer, options }).expect("options that may change");
    }

    fn configure(&mut self, n: usize, options: NetOptions) {
        let device = DeviceOptions::from(&OptionSet::default());
        let peer = NodeId(1 - n as u8);
        let address = |node: usize| format!("10.0.0.{node}:7789").parse().expect("an address");
        let (local, remote) = (address(n + 1), address(2 - n));
        for request in [
            AdminRequest::NewMinor { minor: Node::minor(n as u8), volume: VOLUME, options: device },
            AdminRequest::NewPeer { peer, options },
            AdminRequest::NewPath { peer, local, remote },
        ] {
            self.ask(n, request).expect("the configuration is taken");
        }
    }

    /// A further volume, without a disk.
    pub(super) fn new_minor(&mut self, n: usize, volume: u16) {
        let minor = Minor(100 + 10 * n as u32 + u32::from(volume));
        let options = DeviceOptions::from(&OptionSet::default());
        let request = AdminRequest::NewMinor { minor, volume: VolumeNumber(volume), options };
        self.ask(n, request).expect("a free number");
    }

    pub(super) fn protocol(protocol: &str) -> Lab {
        Lab::with([net(&[("protocol", protocol)]), net(&[("protocol", protocol)])], Format::V09)
    }

    /// Both UpToDate and Established, node 0 Primary.
    pub(super) fn running(protocol: &str) -> Lab {
        let mut lab = Lab::protocol(protocol);
        lab.connect();
        lab.primary(0, true).expect("forced");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab
    }

    /// Both UpToDate from the beginning, without a first sync.
    pub(super) fn skip_first_sync(&mut self) {
        self.connect();
        self.ask(0, AdminRequest::NewCurrentUuid { volume: VOLUME, clear_bitmap: true })
            .expect("both are fresh");
        self.wait("in sync", |lab| lab.is_in_sync());
    }

    // ---- what an administrator does ------------------------------------------------------------------------------

    pub(super) fn begin(&mut self, n: usize, request: AdminRequest) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.events.push_back((n, Event::Admin { ticket, request: Box::new(request) }));
        self.run();
        ticket
    }

    /// Asks and waits for the answer.
    pub(super) fn ask(&mut self, n: usize, request: AdminRequest) -> Result<(), Refusal> {
        let ticket = self.begin(n, request);
        self.wait("an answer", |lab| lab.nodes[n].replies.contains_key(&ticket));
        self.nodes[n].replies[&ticket].clone()
    }

    pub(super) fn attach(&mut self, n: usize) -> Result<(), Refusal> {
        self.nodes[n].disk_closed = false;
        let request = self.nodes[n].attach_request(true, false);
        self.ask(n, AdminRequest::Attach(request))
    }

    /// Attaches with these disk options.
    pub(super) fn attach_with(&mut self, n: usize, disk: &[(&str, &str)]) -> Result<(), Refusal> {
        self.nodes[n].disk_closed = false;
        let mut request = self.nodes[n].attach_request(false, true);
        request.options = DiskOptions::from(&options(disk));
        self.ask(n, AdminRequest::Attach(request))
    }

    /// Changes disk options of the attached disk.
    pub(super) fn disk_options(&mut self, n: usize, disk: &[(&str, &str)]) {
        let request =
            AdminRequest::DiskOptions { volume: VOLUME, options: DiskOptions::from(&options(disk)) };
        self.ask(n, request).expect("options that may change at any time");
    }

    /// Changes resource options.
    pub(super) fn resource_options(&mut self, n: usize, pairs: &[(&str, &str)]) {
        let request = AdminRequest::ResourceOptions(ResourceOptions::from(&options(pairs)));
        self.ask(n, request).expect("options that may change at any time");
    }

    /// The handler that runs on a node ends.
    pub(super) fn handler_ends(&mut self, n: usize, status: i32) {
        let handler = self.nodes[n].running_handlers.remove(0);
        self.events.push_back((n, Event::HandlerExited { handler, status }));
        self.run();
    }

    /// Operations of a node's disk fail with the error number that this says, from here on.
    pub(super) fn fail(&mut self, n: usize, fails: fn(&Pending) -> Option<i32>) {
        self.nodes[n].fails = Some(fails);
    }

    /// The disk is well again.
    pub(super) fn fail_no_more(&mut self, n: usize) {
        self.nodes[n].fails = None;
    }

    pub(super) fn suspended(&self, n: usize) -> String {
        self.nodes[n].engine.status().resource.suspended.to_string()
    }

    pub(super) fn detach(&mut self, n: usize) -> Result<(), Refusal> {
        self.ask(n, AdminRequest::Detach { volume: VOLUME, force: false, diskless: false })
    }

    pub(super) fn begin_connect(&mut self, n: usize) {
        let peer = NodeId(1 - n as u8);
        self.ask(n, AdminRequest::Connect { peer, tentative: false, discard_my_data: false })
            .expect("connect is taken");
    }

    pub(super) fn connect(&mut self) {
        self.begin_connect(0);
        self.begin_connect(1);
        self.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    }

    pub(super) fn disconnect(&mut self, n: usize) -> Result<(), Refusal> {
        self.ask(n, AdminRequest::Disconnect { peer: NodeId(1 - n as u8), force: false })
    }

    pub(super) fn primary(&mut self, n: usize, force: bool) -> Result<(), Reason> {
        self.ask(n, AdminRequest::Primary { force }).map_err(|r| r.reason)
    }

    pub(super) fn secondary(&mut self, n: usize) -> Result<(), Reason> {
        self.ask(n, AdminRequest::Secondary { force: false }).map_err(|r| r.reason)
    }

    // ---- what a user does ----------------------------------------------------------------------------------------

    fn upper(
        &mut self,
        n: usize,
        op: UpperOp,
        block: u64,
        contents: Option<Vec<u32>>,
        fua: bool,
    ) -> UpperTag {
        self.next += 1;
        let (tag, bytes) = (UpperTag(self.next), contents.as_ref().map_or(0, |c| c.len() as u32 * 4096));
        let payload = contents.map_or(PayloadId::NONE, |contents| self.buffer(n, contents));
        let (volume, sector) = (VOLUME, Sector(block * 8));
        let request = UpperRequest { tag, volume, op, sector, bytes, payload, fua };
        self.events.push_back((n, Event::Upper(request)));
        self.run();
        tag
    }

    /// Writes one block with that content.
    pub(super) fn write(&mut self, n: usize, block: u64, content: u32) -> UpperTag {
        self.upper(n, UpperOp::Write, block, Some(vec![content]), false)
    }

    /// Writes some blocks at once.
    pub(super) fn write_blocks(&mut self, n: usize, block: u64, contents: &[u32]) -> UpperTag {
        self.upper(n, UpperOp::Write, block, Some(contents.to_vec()), false)
    }

    pub(super) fn write_fua(&mut self, n: usize, block: u64, content: u32) -> UpperTag {
        self.upper(n, UpperOp::Write, block, Some(vec![content]), true)
    }

    /// Writes several blocks.
    pub(super) fn write_many(&mut self, n: usize, block: u64, contents: Vec<u32>) -> UpperTag {
        self.upper(n, UpperOp::Write, block, Some(contents), false)
    }

    pub(super) fn read_many(&mut self, n: usize, block: u64, blocks: usize) -> UpperTag {
        self.upper(n, UpperOp::Read, block, Some(vec![0; blocks]), false)
    }

    pub(super) fn discard(&mut self, n: usize, block: u64, blocks: u32) -> UpperTag {
        self.without_bytes(n, UpperOp::Discard, block, blocks)
    }

    pub(super) fn write_zeroes(&mut self, n: usize, block: u64, blocks: u32) -> UpperTag {
        self.without_bytes(n, UpperOp::WriteZeroes { unmap: false }, block, blocks)
    }

    fn without_bytes(&mut self, n: usize, op: UpperOp, block: u64, blocks: u32) -> UpperTag {
        self.next += 1;
        let (tag, volume, sector, bytes) = (UpperTag(self.next), VOLUME, Sector(block * 8), blocks * 4096);
        let payload = PayloadId::NONE;
        let request = UpperRequest { tag, volume, op, sector, bytes, payload, fua: false };
        self.events.push_back((n, Event::Upper(request)));
        self.run();
        tag
    }

    pub(super) fn flush(&mut self, n: usize) -> UpperTag {
        self.upper(n, UpperOp::Flush, 0, None, false)
    }

    pub(super) fn read(&mut self, n: usize, block: u64) -> UpperTag {
        self.upper(n, UpperOp::Read, block, Some(vec![0]), false)
    }

    pub(super) fn open(&mut self, n: usize) {
        self.events.push_back((n, Event::Opened { volume: VOLUME }));
        self.run();
    }

    pub(super) fn close(&mut self, n: usize) {
        self.events.push_back((n, Event::Closed { volume: VOLUME }));
        self.run();
    }

    pub(super) fn result(&self, n: usize, tag: UpperTag) -> Option<UpperResult> {
        self.nodes[n].completed.get(&tag).copied()
    }

    pub(super) fn is_done(&self, n: usize, tag: UpperTag) -> bool {
        self.result(n, tag) == Some(UpperResult::Done)
    }

    // ---- what is seen --------------------------------------------------------------------------------------------

    pub(super) fn disk(&self, n: usize) -> DiskState {
        self.nodes[n].engine.devices[0].disk
    }

    pub(super) fn peer_disk(&self, n: usize) -> DiskState {
        self.nodes[n].engine.peer_disk(0)
    }

    pub(super) fn connection(&self, n: usize) -> ConnectionState {
        self.nodes[n].engine.connection_state()
    }

    pub(super) fn replication(&self, n: usize) -> ReplicationState {
        self.nodes[n].engine.snapshot(Some(0)).replication
    }

    pub(super) fn is_replicating(&self, n: usize) -> bool {
        self.nodes[n].engine.is_replicating(0)
    }

    pub(super) fn is_in_sync(&self) -> bool {
        (0..2).all(|n| {
            let good = self.disk(n) == DiskState::UpToDate && self.peer_disk(n) == DiskState::UpToDate;
            good && self.replication(n) == ReplicationState::Established && self.out_of_sync(n).is_empty()
        })
    }

    /// Packets the shell sent on a socket.
    pub(super) fn packets_sent(&self, socket: SocketId) -> u64 {
        self.sent.get(&socket).copied().unwrap_or(0)
    }

    pub(super) fn last_error(&self, n: usize) -> String {
        self.nodes[n].engine.connection.as_ref().map_or(String::new(), |c| c.last_error.clone())
    }

    /// Blocks this node has marked for its peer.
    pub(super) fn out_of_sync(&self, n: usize) -> Vec<u64> {
        let words = self.nodes[n].engine.out_of_sync_words(VOLUME).unwrap_or_default();
        (0..words.len() as u64 * 64).filter(|&b| words[b as usize / 64] >> (b % 64) & 1 == 1).collect()
    }

    /// Both disks hold the same, and no buffer is lost.
    pub(super) fn check_alike(&self) {
        assert!(self.is_in_sync(), "{}", self.describe());
        self.check_alike_where_written();
        self.check_buffers();
    }

    /// As above, where nothing written only here and copied over counts: blocks that were never written are zero.
    pub(super) fn check_alike_where_written(&self) {
        assert!(self.is_in_sync(), "{}", self.describe());
        let blocks = self.nodes.iter().flat_map(|node| node.disk.keys());
        for block in blocks {
            let [a, b] = [0, 1].map(|n| self.nodes[n].disk.get(block).copied().unwrap_or(0));
            assert_eq!(a, b, "block {block}");
        }
    }

    /// The engines hold no buffer.
    pub(super) fn check_buffers(&self) {
        for (n, node) in self.nodes.iter().enumerate() {
            let left: Vec<_> = node.references.iter().filter(|r| *r.1 != 0).collect();
            assert!(left.is_empty(), "node {n} holds {left:?}");
        }
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let (s, bits) = (node.engine.snapshot(Some(0)), self.out_of_sync(n).len());
            let error = self.last_error(n);
            text += &format!("\nnode {n}: {s:?}\n  {bits} bits, {} pending; {error}\n", node.pending.len());
            let from = node.log_lines.len().saturating_sub(12);
            node.log_lines[from..].iter().for_each(|line| text += &format!("  {line}\n"));
        }
        text
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    /// Lets everything happen that happens without time.
    pub(super) fn run(&mut self) {
        let mut turns = 0;
        while let Some((n, event)) = self.events.pop_front() {
            turns += 1;
            assert!(turns < 1_000_000, "it does not come to rest{}", self.describe());
            self.handle(n, event);
        }
    }

    /// Something happens to a node that the lab does not make happen by itself.
    pub(super) fn tell(&mut self, n: usize, event: Event) {
        self.events.push_back((n, event));
        self.run();
    }

    /// Lets time pass until something is so.
    pub(super) fn wait(&mut self, what: &str, so: impl Fn(&Lab) -> bool) {
        let end = self.now.plus_ms(180_000);
        self.run();
        while !so(self) {
            let deadlines = self.nodes.iter().filter_map(|node| node.engine.next_deadline());
            let next = deadlines.min().unwrap_or(end).max(self.now.plus_ms(1));
            assert!(next < end, "waited in vain for {what}:{}", self.describe());
            self.pass_to(next);
        }
    }

    pub(super) fn pass_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        self.run();
        while let Some(next) = self.nodes.iter().filter_map(|n| n.engine.next_deadline()).min() {
            if next > end {
                break;
            }
            self.pass_to(next.max(self.now.plus_ms(1)));
        }
        self.now = self.now.max(end);
    }

    fn pass_to(&mut self, next: Instant) {
        self.now = next;
        for n in 0..2 {
            if self.nodes[n].engine.next_deadline().is_some_and(|at| at <= next) {
                self.events.push_back((n, Event::Timer));
            }
        }
        self.run();
    }

    // ---- the shell -----------------------------------------------------------------------------------------------

    /// A buffer, one reference of which is the engine's.
    pub(super) fn buffer(&mut self, n: usize, contents: Vec<u32>) -> PayloadId {
        let payload = self.store(contents);
        *self.nodes[n].references.entry(payload).or_default() += 1;
        payload
    }

    fn store(&mut self, contents: Vec<u32>) -> PayloadId {
        self.next += 1;
        self.buffers.insert(PayloadId(self.next), contents);
        PayloadId(self.next)
    }

    fn handle(&mut self, n: usize, event: Event) {
        let Some(event) = self.unread.take_in(n, event) else { return };
        if let Event::Packet { frame, payload, .. } = &event {
            self.nodes[n].note_received(frame);
            if *payload != PayloadId::NONE {
                *self.nodes[n].references.entry(*payload).or_default() += 1;
            }
        }
        let mut out = Vec::new();
        self.nodes[n].engine.handle(self.now, event, &mut out);
        self.nodes[n].engine.check();
        self.carry_out_all(n, out);
    }

    /// Carries out what an engine commanded.
    pub(super) fn carry_out_all(&mut self, n: usize, out: Vec<Command>) {
        for command in out {
            self.nodes[n].check_command(&command);
            if let Some(journal) = &mut self.journal {
                journal.note(self.now, n, &command);
            }
            self.carry_out(n, command);
        }
    }

    fn carry_out(&mut self, n: usize, command: Command) {
        let node = &mut self.nodes[n];
        match command {
            Command::Disk(io) => self.operate(n, Pending::Disk(io)),
            Command::Meta(io) => {
                let mut bytes = Box::new([0; BLOCK_BYTES]);
                node.engine.encode_meta(io.volume, io.op, &mut bytes);
                self.operate(n, Pending::Meta(io, bytes));
            }
            Command::Send { socket, frame, payload } => {
                node.sent.push(frame.packet.clone());
                if node.hold_packets {
                    node.outbox.push_back((socket, frame, payload));
                } else {
                    self.transmit(n, socket, frame, payload);
                }
            }
            Command::Complete { tag, result, payload } => {
                assert_eq!(node.completed.insert(tag, result), None, "completed twice");
                if payload != PayloadId::NONE {
                    *node.references.entry(payload).or_default() -= 1;
                    node.read.insert(tag, self.buffers[&payload].clone());
                }
            }
            Command::Release { payload } => {
                let references = node.references.entry(payload).or_default();
                *references -= 1;
                assert!(*references >= 0, "node {n} released {payload} once too often");
            }
            Command::Close { socket } => self.hang_up(n, socket),
            Command::Dial { peer, .. } => self.dial(n, peer),
            Command::Listen { .. } => node.listening = true,
            Command::Unlisten { .. } => node.listening = false,
            Command::Challenge { peer } => {
                let bytes = Box::new([n as u8 + 7; 64]);
                self.events.push_back((n, Event::Challenge { peer, bytes }));
            }
            Command::Hmac { peer, purpose, key, message, .. } => {
                let event = (n, hmac(peer, purpose, &key, &message));
                if self.slow_digest == Some((n, purpose)) {
                    self.late_digests.push(event);
                } else {
                    self.events.push_back(event);
                }
            }
            Command::Digest { job, algorithm, payload, bytes } => {
                let contents = &self.buffers[&payload];
                assert!(
                    !self.honest || contents.len() as u32 * 4096 == bytes.next_multiple_of(4096),
                    "{bytes} bytes of {contents:?}"
                );
                let digest: Box<[u8]> = if &*algorithm == crate::engine::ONLY_ZEROES {
                    Box::new([u8::from(contents.iter().all(|c| *c == 0))])
                } else {
                    contents.iter().flat_map(|c| c.to_be_bytes()).collect()
                };
                let digest = (&*algorithm != "unknown").then_some(digest);
                let event = (n, Event::Digest { job, digest });
                if self.hold_digests {
                    self.held_digests.push(event);
                } else {
                    self.events.push_back(event);
                }
            }
            Command::RunHandler { handler, call } => {
                node.handlers.push(call.name);
                let status = match call.name {
                    "fence-peer" => node.handler_status,
                    name => (name != node.hangs).then_some(0),
                };
                match status {
                    Some(status) => self.events.push_back((n, Event::HandlerExited { handler, status })),
                    None => node.running_handlers.push(handler),
                }
            }
            Command::HandedOver { data, control, state } => self.handed_over(n, (data, control), &state),
            Command::CloseDisk { .. } => node.disk_closed = true,
            Command::Reply { ticket, result } => {
                let result = result.map(|_| ()).map_err(|refusal| *refusal);
                assert!(node.replies.insert(ticket, result).is_none(), "answered twice");
            }
            Command::Log(record) => {
                let line = format!(
                    "{} {:?} {}: {}",
                    self.now.0 / 1_000_000,
                    record.level,
                    record.subject,
                    record.text
                );
                node.log_lines.push(line);
                node.records.push(*record);
            }
            Command::SetIntegrity { direction, algorithm, .. } => {
                let behind = match direction {
                    Direction::Sending => node.sent.last(),
                    Direction::Receiving => node.received.as_ref(),
                };
                node.integrity.push((direction, algorithm, behind.cloned()));
            }
            Command::MeasureDisk { volume } => {
                let bytes = Some(node.bytes_now());
                self.events.push_back((n, Event::DiskMeasured { volume, bytes }));
            }
            Command::SetVersion { .. }
            | Command::CancelDial { .. }
            | Command::SettingsAdopted { .. }
            | Command::SizeAdopted { .. }
            | Command::Device { .. }
            | Command::Notify(_) => {}
        }
    }

    fn operate(&mut self, n: usize, op: Pending) {
        if self.nodes[n].holds.is_some_and(|holds| holds(&op)) {
            self.nodes[n].pending.push(op);
        } else {
            let error = self.nodes[n].fails.and_then(|fails| fails(&op));
            self.answer(n, &op, error.map_or(IoResult::Done, IoResult::Failed));
        }
    }

    fn answer(&mut self, n: usize, op: &Pending, result: IoResult) {
        let (io, own) = match op {
            Pending::Disk(io) => (io.io, io.payload),
            Pending::Meta(io, _) => (io.io, PayloadId::NONE),
        };
        let contents = self.buffers.get(&own).cloned();
        let mut payload = PayloadId::NONE;
        if result == IoResult::Done {
            match self.nodes[n].carry_out(op, contents.as_ref()) {
                Some(read) if own == PayloadId::NONE => payload = self.buffer(n, read),
                Some(read) => {
                    self.buffers.insert(own, read);
                }
                None => {}
            }
        }
        self.events.push_back((n, Event::DiskDone { io, result, payload }));
    }

    fn transmit(&mut self, n: usize, socket: SocketId, frame: Frame, payload: PayloadId) {
        let Some(&(_, other)) = self.ends.get(&socket) else { return };
        let count = self.sent.entry(socket).or_default();
        *count += 1;
        let packets = *count;
        let mut bytes = self.buffers.get(&payload).cloned();
        if let Some(bytes) = bytes.as_mut().filter(|_| self.damages == Some(n)) {
            self.damages = None;
            if self.is_checked(n, other, &frame.packet) {
                return;
            }
            bytes[0] ^= 1 << 16;
        }
        let there = bytes.as_ref().map_or(0, |b| b.len() as u32 * 4096);
        assert!(!self.honest || there == frame.packet.bulk_bytes().next_multiple_of(4096), "{frame:?}");
        let Some(frame) = self.on_its_way(n, (socket, other), frame) else { return };
        let payload = bytes.map_or(PayloadId::NONE, |bytes| self.store(bytes));
        self.events.push_back((1 - n, Event::Packet { socket: other, frame, payload }));
        self.events.push_back((n, Event::Sent { socket, packets }));
    }

    fn dial(&mut self, n: usize, peer: NodeId) {
        if self.cable_cut || !self.nodes[1 - n].listening {
            let why = "connection refused".into();
            self.events.push_back((n, Event::DialFailed { peer, retry: true, why }));
            return;
        }
        self.next += 2;
        let (here, there) = (SocketId(self.next), SocketId(self.next + 1));
        self.ends.insert(here, (n, there));
        self.ends.insert(there, (1 - n, here));
        self.events.push_back((1 - n, Event::Accepted { peer: NodeId(n as u8), socket: there }));
        self.events.push_back((n, Event::Dialled { peer, socket: here }));
    }

    fn hang_up(&mut self, n: usize, socket: SocketId) {
        self.nodes[n].forget_promises();
        // What had already arrived is not read any more.
        self.events.retain(|(_, e)| !matches!(e, Event::Packet { socket: s, .. } if *s == socket));
        if let Some((_, other)) = self.ends.remove(&socket) {
            self.ends.remove(&other);
            let why = SocketLoss::EndOfStream;
            self.events.push_back((1 - n, Event::SocketLost { socket: other, why }));
        }
    }

    pub(super) fn role(&self, n: usize) -> Role {
        self.nodes[n].engine.role
    }
}
