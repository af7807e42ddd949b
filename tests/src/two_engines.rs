//! Two engines, each the other's peer, on a shell that does nothing: disks answer at once, packets are handed over as
//! values, and no byte is ever copied. What remains is what the engines themselves cost.
//!
//! Events are handed in one turn after the other, as the daemon does: everything that is due at one node, then what
//! came of it at the other.

use drbd_core::config::{DeviceOptions, DiskOptions, NetOptions, OptionSet, OptionSpec, ResourceOptions};
use drbd_core::engine::{
    AdminRequest, AttachRequest, Command, DiskLimits, DiskOp, Event, IoResult, Level, Resource, UpperOp,
    UpperRequest, UpperResult,
};
use drbd_core::ids::{Instant, Minor, NodeId, PayloadId, Sector, SocketId, Ticket, UpperTag, VolumeNumber};
use drbd_core::metadata::{Format, Geometry, Index, Layout, Loaded, Place, SuperBlock};
use drbd_core::wire::Packet;
use std::collections::VecDeque;
use std::time::{Duration, Instant as Clock};

const SECTORS: u64 = 1 << 20;
const VOLUME: VolumeNumber = VolumeNumber(0);
/// Blocks of 4 KiB that are written: 64 activity-log extents.
const BLOCKS: u64 = 64 * 1024;

/// A node: its engine, what is due at it, and what it cost.
#[derive(Debug)]
pub struct Side {
    engine: Resource,
    inbox: VecDeque<Event>,
    listening: bool,
    /// The data socket, packets sent on it, and how many of them the engine was told of.
    data: Option<SocketId>,
    packets: u64,
    told: u64,
    /// Events handed in since [`TwoEngines::forget_costs`].
    pub events: u64,
    /// Time spent in the engine since then.
    pub spent: Duration,
}

/// Two engines.
#[derive(Debug)]
pub struct TwoEngines {
    /// The Primary and the Secondary.
    pub sides: [Side; 2],
    now: Instant,
    turn: VecDeque<Event>,
    out: Vec<Command>,
    /// Whose socket that is; the other end is the neighbour of the number.
    owners: Vec<usize>,
    refused: Vec<String>,
    last_warning: String,
    next_block: u64,
    issued: u64,
    /// Writes completed.
    pub completed: u64,
    /// Barriers the Primary sent.
    pub barriers: u64,
    in_flight: u64,
}

/// Options as written in a configuration.
fn options(pairs: &[(&str, &str)]) -> OptionSet {
    let mut set = OptionSet::default();
    for (name, value) in pairs {
        set.set(OptionSpec::find(name).expect("an option"), value).expect("a value");
    }
    set
}

fn attach_request() -> AttachRequest {
    let geometry = Geometry::usual(1);
    let layout = Layout::new(Index::Internal, SECTORS * 512 + (1 << 20), &geometry).expect("a layout");
    let super_block = SuperBlock::fresh(Format::V09, &layout, &geometry);
    let bytes = SECTORS * 512 + (1 << 20);
    let place = Place::of(&super_block, Index::Internal, bytes, bytes).expect("it was made for that");
    let bitmaps = vec![vec![0; geometry.bits(Sector(SECTORS)).div_ceil(64) as usize]];
    let capacity = Sector(SECTORS);
    let metadata = Loaded {
        super_block,
        bitmaps,
        hot_extents: Vec::new(),
        log_unreadable: false,
        log_initialise_from: 0,
        capacity,
    };
    AttachRequest {
        volume: VOLUME,
        backing_dev: "/dev/backing".to_owned(),
        disk: DiskLimits {
            capacity,
            max_bio_bytes: 1 << 20,
            logical_block_size: 512,
            physical_block_size: 4096,
            discard_zeroes: true,
            discard_granularity: 0,
            external_metadata: false,
        },
        metadata: Box::new(metadata),
        index: Index::Internal,
        place,
        options: DiskOptions::from(&OptionSet::default()),
        recovery: false,
    }
}

impl Side {
    fn new(number: u8) -> Side {
        let options = ResourceOptions::from(&OptionSet::default());
        Side {
            engine: Resource::new("r0", NodeId(number), options, 1 + u64::from(number)),
            inbox: VecDeque::with_capacity(1 << 14),
            listening: false,
            data: None,
            packets: 0,
            told: 0,
            events: 0,
            spent: Duration::ZERO,
        }
    }
}

impl TwoEngines {
    /// Connected, UpToDate on both sides, the first one Primary.
    ///
    /// # Panics
    /// If they do not get there.
    pub fn connected(protocol: &str) -> TwoEngines {
        let mut pair = TwoEngines {
            sides: [Side::new(0), Side::new(1)],
            now: Instant(1),
            turn: VecDeque::with_capacity(1 << 14),
            out: Vec::with_capacity(1 << 15),
            owners: Vec::new(),
            refused: Vec::new(),
            last_warning: String::new(),
            next_block: 1,
            issued: 0,
            completed: 0,
            barriers: 0,
            in_flight: 0,
        };
        for n in 0..2 {
            pair.configure(n, protocol);
        }
        for n in 0..2 {
            let peer = NodeId(1 - n as u8);
            pair.ask(n, AdminRequest::Connect { peer, tentative: false, discard_my_data: false });
        }
        pair.wait("connected", |status| status.contains("Established"));
        pair.ask(0, AdminRequest::Primary { force: true });
        pair.wait("in sync", |status| status == "UpToDate UpToDate Established");
        pair
    }

    fn configure(&mut self, n: usize, protocol: &str) {
        let peer = NodeId(1 - n as u8);
        let address = |node: usize| format!("10.0.0.{node}:7789").parse().expect("an address");
        let net = NetOptions::from(&options(&[("protocol", protocol)]));
        let device = DeviceOptions::from(&OptionSet::default());
        self.ask(n, AdminRequest::NewMinor { minor: Minor(1), volume: VOLUME, options: device });
        self.ask(n, AdminRequest::NewPeer { peer, options: net });
        self.ask(n, AdminRequest::NewPath { peer, local: address(n + 1), remote: address(2 - n) });
        self.ask(n, AdminRequest::Attach(attach_request()));
    }

    fn ask(&mut self, n: usize, request: AdminRequest) {
        self.sides[n].inbox.push_back(Event::Admin { ticket: Ticket(1), request: Box::new(request) });
        self.settle();
        assert!(self.refused.is_empty(), "{:?}", self.refused);
    }

    fn wait(&mut self, what: &str, so: impl Fn(&str) -> bool) {
        for _ in 0..10_000 {
            self.settle();
            if (0..2).all(|n| so(&self.describe(n))) {
                return;
            }
            let next = self.sides.iter().filter_map(|s| s.engine.next_deadline()).min();
            self.now = self.now.plus_ms(1).max(next.unwrap_or(self.now));
            for side in &mut self.sides {
                if side.engine.next_deadline().is_some_and(|at| at <= self.now) {
                    side.inbox.push_back(Event::Timer);
                }
            }
        }
        panic!("waited in vain until {what}: {} / {}", self.describe(0), self.describe(1));
    }

    fn describe(&self, n: usize) -> String {
        let status = self.sides[n].engine.status();
        let peer = &status.connections[0].peer_devices[0];
        format!("{} {} {}", status.devices[0].disk, peer.peer_disk, peer.replication)
    }

    fn settle(&mut self) {
        while self.sides.iter().any(|side| !side.inbox.is_empty()) {
            self.take_turn(0);
            self.take_turn(1);
        }
    }

    /// Begins to count anew.
    pub fn forget_costs(&mut self) {
        for side in &mut self.sides {
            side.events = 0;
            side.spent = Duration::ZERO;
        }
        self.completed = 0;
        self.barriers = 0;
    }

    /// Writes `count` blocks of 4 KiB in a scattered order, `depth` at a time, with a flush after every `flush_every`.
    pub fn write(&mut self, count: u64, depth: u64, flush_every: u64) {
        self.issued = 0;
        let end = self.completed + count;
        while self.completed < end {
            while self.in_flight < depth && self.issued < count {
                self.issue_write(flush_every);
            }
            self.take_turn(0);
            self.take_turn(1);
            self.now = Instant(self.now.0 + 1000);
        }
        self.settle();
    }

    fn issue_write(&mut self, flush_every: u64) {
        self.issued += 1;
        self.in_flight += 1;
        // An odd step visits every block once before any twice.
        self.next_block = (self.next_block + 25_253) % BLOCKS;
        self.upper(UpperOp::Write, self.next_block, 4096);
        if self.issued % flush_every == 0 {
            self.in_flight += 1;
            self.upper(UpperOp::Flush, 0, 0);
        }
    }

    fn upper(&mut self, op: UpperOp, block: u64, bytes: u32) {
        let write = op == UpperOp::Write;
        let payload = if write { PayloadId(7) } else { PayloadId::NONE };
        let (tag, sector) = (UpperTag(u32::from(write)), Sector(block * 8));
        let request = UpperRequest { tag, volume: VOLUME, op, sector, bytes, payload, fua: false };
        self.sides[0].inbox.push_back(Event::Upper(request));
    }

    // ---- the shell -----------------------------------------------------------------------------------------------

    fn take_turn(&mut self, n: usize) {
        if self.sides[n].inbox.is_empty() {
            return;
        }
        std::mem::swap(&mut self.turn, &mut self.sides[n].inbox);
        let mut out = std::mem::take(&mut self.out);
        let side = &mut self.sides[n];
        side.events += self.turn.len() as u64;
        let began = Clock::now();
        for event in self.turn.drain(..) {
            side.engine.handle(self.now, event, &mut out);
        }
        side.spent += began.elapsed();
        for command in out.drain(..) {
            self.carry_out(n, command);
        }
        self.out = out;
        // One call sends all packets of a turn.
        let side = &mut self.sides[n];
        if let Some(socket) = side.data.filter(|_| side.told < side.packets) {
            side.told = side.packets;
            side.inbox.push_back(Event::Sent { socket, packets: side.told });
        }
    }

    fn carry_out(&mut self, n: usize, command: Command) {
        match command {
            Command::Disk(io) => {
                let read = io.op == DiskOp::Read && io.payload == PayloadId::NONE;
                let payload = if read { PayloadId(9) } else { PayloadId::NONE };
                self.happens(n, Event::DiskDone { io: io.io, result: IoResult::Done, payload });
            }
            Command::Meta(io) => {
                let payload = PayloadId::NONE;
                self.happens(n, Event::DiskDone { io: io.io, result: IoResult::Done, payload });
            }
            Command::Send { socket, frame, payload } => {
                if matches!(frame.packet, Packet::Barrier(_)) {
                    self.barriers += 1;
                }
                if matches!(frame.packet, Packet::Features(_)) {
                    self.sides[n].data = Some(socket);
                }
                let other = SocketId(socket.0 ^ 1);
                self.happens(1 - n, Event::Packet { socket: other, frame, payload });
                let side = &mut self.sides[n];
                side.packets += u64::from(side.data == Some(socket));
            }
            Command::Complete { tag, result, .. } => {
                assert_eq!(result, UpperResult::Done);
                self.in_flight -= 1;
                self.completed += u64::from(tag.0);
            }
            Command::Dial { peer, .. } => self.dial(n, peer),
            Command::Listen { .. } => self.sides[n].listening = true,
            Command::Unlisten { .. } => self.sides[n].listening = false,
            Command::RunHandler { handler, .. } => {
                self.happens(n, Event::HandlerExited { handler, status: 0 });
            }
            Command::Reply { result: Err(refusal), .. } => self.refused.push(refusal.to_string()),
            Command::Close { .. } => panic!("a connection was closed: {}", self.last_warning),
            Command::Log(record) if record.level <= Level::Warning => self.last_warning = record.text,
            Command::Digest { job, .. } => {
                self.happens(n, Event::Digest { job, digest: Some(Box::new([7; 20])) });
            }
            Command::Challenge { .. } | Command::Hmac { .. } => panic!("nobody configured a secret"),
            Command::Release { .. }
            | Command::SetVersion { .. }
            | Command::SetIntegrity { .. }
            | Command::CancelDial { .. }
            | Command::SettingsAdopted { .. }
            | Command::SizeAdopted { .. }
            | Command::HandedOver { .. }
            | Command::MeasureDisk { .. }
            | Command::Device { .. }
            | Command::CloseDisk { .. }
            | Command::Reply { .. }
            | Command::Notify(_)
            | Command::Log(_) => {}
        }
    }

    fn happens(&mut self, n: usize, event: Event) {
        self.sides[n].inbox.push_back(event);
    }

    fn dial(&mut self, n: usize, peer: NodeId) {
        if !self.sides[1 - n].listening {
            self.happens(n, Event::DialFailed { peer, retry: true, why: "refused".into() });
            return;
        }
        let here = SocketId(self.owners.len() as u32);
        let there = SocketId(here.0 + 1);
        self.owners.extend([n, 1 - n]);
        self.happens(1 - n, Event::Accepted { peer: NodeId(n as u8), socket: there });
        self.happens(n, Event::Dialled { peer, socket: here });
    }
}
