//! A node of a replay: an engine on a shell without bytes. Disks answer at once, metadata is kept as it is encoded, and
//! what the engine sends waits in `sent`.

use drbd_core::config::{
    DeviceOptions, DiskOptions, NetOptions, OptionSet, OptionSpec, PeerDeviceOptions, ResourceOptions,
};
use drbd_core::engine::{
    AdminRequest, AttachRequest, Command, DiskLimits, DiskOp, Event, HmacPurpose, IoResult, MetaIo, MetaOp,
    Resource, UpperOp, UpperRequest,
};
use drbd_core::ids::{Instant, Minor, NodeId, PayloadId, Sector, SocketId, Ticket, UpperTag, VolumeNumber};
use drbd_core::metadata::{apply_log, load, Format, Geometry, Index, Layout, Place, SuperBlock, BLOCK_BYTES};
use drbd_core::wire::{Frame, Packet, Sizes, Trim};
use std::collections::{HashMap, VecDeque};

pub(super) const VOLUME: VolumeNumber = VolumeNumber(0);
const PEER: NodeId = NodeId(1);
/// What a block is said to hold that nobody knows anything of.
const NO_DIGEST: [u8; 4] = [0xd1, 0x9e, 0x57, 0];

/// What is known of the bytes in a buffer: their digest, or where on the disk they were read.
#[derive(Clone, Debug)]
enum Content {
    Digest(Vec<u8>),
    Read(Sector),
    Unknown,
}

/// What the node is told by whoever replays it.
#[derive(Default, Debug)]
pub(super) struct Secrets {
    pub(super) challenge: Vec<u8>,
    pub(super) response: Vec<u8>,
    pub(super) expected: Vec<u8>,
}

/// Settings as options of the configuration.
#[derive(Default, Debug)]
pub(super) struct Settings {
    pub(super) net: OptionSet,
    pub(super) peer_device: OptionSet,
}

pub(super) fn set_option(set: &mut OptionSet, name: &str, value: &str) {
    let spec = OptionSpec::find(name).expect("an option");
    set.set(spec, value).unwrap_or_else(|e| panic!("{name} {value}: {e}"));
}

/// See the module.
pub(super) struct Node {
    engine: Resource,
    pub(super) now: Instant,
    inbox: VecDeque<Event>,
    /// Packets sent and not yet looked at.
    pub(super) sent: VecDeque<(SocketId, Frame)>,
    packets: HashMap<SocketId, u64>,
    next_socket: u32,
    /// It waits for an answer to a Dial.
    dialling: bool,
    listening: bool,
    closed: Vec<SocketId>,
    payloads: HashMap<PayloadId, Content>,
    next_payload: u32,
    /// Digests of what is on the disk, by sector and length in bytes.
    pub(super) digests: HashMap<(Sector, u32), Vec<u8>>,
    pub(super) secrets: Secrets,
    sizes: Sizes,
    device_bytes: u64,
    /// The whole device's metadata, from `base` on.
    base: u64,
    area: Vec<u8>,
    pub(super) log: Vec<String>,
}

impl Node {
    /// A node with a new disk, as `drbdmeta create-md` leaves it, as large as P_SIZES says.
    pub(super) fn new(sizes: Sizes, settings: &Settings) -> Node {
        let geometry = Geometry::usual(1);
        // Usable sectors, activity log, bitmap and super block, to full MiB.
        let device_bytes = (sizes.disk * 512).next_multiple_of(1 << 20);
        let layout = Layout::new(Index::Internal, device_bytes, &geometry).expect("a layout");
        let mut super_block = SuperBlock::fresh(Format::V08, &layout, &geometry);
        super_block.device_uuid = 1;
        let base = layout.bitmap_offset_bytes();
        let mut node = Node {
            engine: Resource::new("r0", NodeId(0), ResourceOptions::from(&OptionSet::default()), 1),
            now: Instant(1),
            inbox: VecDeque::new(),
            sent: VecDeque::new(),
            packets: HashMap::new(),
            next_socket: 0,
            dialling: false,
            listening: false,
            closed: Vec::new(),
            payloads: HashMap::new(),
            next_payload: 1,
            digests: HashMap::new(),
            secrets: Secrets::default(),
            sizes,
            device_bytes,
            base,
            area: vec![0; (device_bytes - base) as usize],
            log: Vec::new(),
        };
        let mut block = [0; BLOCK_BYTES];
        super_block.encode(&mut block);
        node.keep(layout.super_block_offset_bytes, &block);
        node.configure(settings);
        node
    }

    fn configure(&mut self, settings: &Settings) {
        let address = |n: u8| format!("10.0.0.{n}:7789").parse().expect("an address");
        let device = DeviceOptions::from(&OptionSet::default());
        self.admin(AdminRequest::NewMinor { minor: Minor(0), volume: VOLUME, options: device });
        self.admin(AdminRequest::NewPeer { peer: PEER, options: NetOptions::from(&settings.net) });
        self.admin(AdminRequest::NewPath { peer: PEER, local: address(1), remote: address(2) });
        let options = PeerDeviceOptions::from(&settings.peer_device);
        self.admin(AdminRequest::PeerDeviceOptions { peer: PEER, volume: VOLUME, options });
    }

    /// Carries out a line of a script.
    pub(super) fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["attach"] => self.attach(),
            ["connect"] => {
                self.admin(AdminRequest::Connect { peer: PEER, tentative: false, discard_my_data: false });
            }
            ["disconnect"] => self.admin(AdminRequest::Disconnect { peer: PEER, force: false }),
            ["primary"] => self.admin(AdminRequest::Primary { force: false }),
            ["primary", "--force"] => self.admin(AdminRequest::Primary { force: true }),
            ["secondary"] => self.admin(AdminRequest::Secondary { force: false }),
            ["verify"] => {
                self.admin(AdminRequest::Verify { peer: PEER, volume: VOLUME, start: None, stop: None });
            }
            ["detach"] => self.admin(AdminRequest::Detach { volume: VOLUME, force: false, diskless: false }),
            ["down"] => self.admin(AdminRequest::Down),
            ["write", sector, bytes, count] => {
                let number = |word: &str| word.parse::<u64>().expect("a number");
                let bytes = number(bytes);
                for n in 0..number(count) {
                    let sector = Sector(number(sector) + n * bytes / 512);
                    self.upper(UpperOp::Write, sector, bytes as u32, false);
                }
            }
            _ => panic!("'{line}' is no command of a replay"),
        }
    }

    fn attach(&mut self) {
        let at = Index::Internal.super_block_offset_bytes(self.device_bytes).expect("it was made so");
        let block = self.part(at, BLOCK_BYTES as u64).first_chunk().expect("a block");
        let super_block = SuperBlock::decode(block).expect("sound").expect("there");
        let place = Place::of(&super_block, Index::Internal, self.device_bytes, self.device_bytes);
        let place = place.expect("it was made for that");
        let log = self.part(place.log_offset_bytes, place.log_bytes);
        let bitmap = self.part(place.bitmap_offset_bytes, place.bitmap_bytes);
        let mut metadata = load(super_block, &place, log, bitmap).expect("sound");
        if metadata.super_block.is_unclean() {
            // As drbdadm has drbdmeta do before every attach.
            apply_log(&mut metadata).expect("a sound log");
        }
        let limits = self.sizes.limits.unwrap_or_default();
        assert_eq!(metadata.capacity, Sector(self.sizes.disk), "the disk is as large as the captured one");
        self.admin(AdminRequest::Attach(AttachRequest {
            volume: VOLUME,
            backing_dev: "/dev/backing".to_owned(),
            disk: DiskLimits {
                capacity: metadata.capacity,
                max_bio_bytes: self.sizes.max_bio_size,
                logical_block_size: limits.logical_block_size.max(512),
                physical_block_size: limits.physical_block_size.max(512),
                discard_zeroes: limits.discard_enabled,
                discard_granularity: 0,
                external_metadata: false,
            },
            metadata: Box::new(metadata),
            index: Index::Internal,
            place,
            options: DiskOptions::from(&OptionSet::default()),
            recovery: false,
        }));
    }

    fn admin(&mut self, request: AdminRequest) {
        self.handle(Event::Admin { ticket: Ticket(1), request: Box::new(request) });
    }

    /// The device is asked for what the captured node sent.
    pub(super) fn upper_as(&mut self, packet: &Packet) {
        use drbd_core::wire::data_flag::{DISCARD, FUA};
        match packet {
            Packet::Data(d) => self.upper(UpperOp::Write, d.sector, d.bytes, d.flags & FUA != 0),
            Packet::Trim(Trim { sector, bytes, .. }) => self.upper(UpperOp::Discard, *sector, *bytes, false),
            Packet::Zeroes(Trim { sector, bytes, flags, .. }) => {
                let op = UpperOp::WriteZeroes { unmap: flags & DISCARD != 0 };
                self.upper(op, *sector, *bytes, flags & FUA != 0);
            }
            other => panic!("{other:?} is no write"),
        }
    }

    fn upper(&mut self, op: UpperOp, sector: Sector, bytes: u32, fua: bool) {
        let payload = if op == UpperOp::Write { self.payload(Content::Unknown) } else { PayloadId::NONE };
        let request = UpperRequest { tag: UpperTag(1), volume: VOLUME, op, sector, bytes, payload, fua };
        self.handle(Event::Upper(request));
    }

    /// A packet of the peer arrives; with data-integrity-alg its bulk has that digest.
    pub(super) fn packet(&mut self, socket: SocketId, frame: Frame, integrity: &[u8]) {
        let payload = match frame.packet.bulk_bytes() {
            0 => PayloadId::NONE,
            _ => self.payload(Content::Digest(integrity.to_vec())),
        };
        self.handle(Event::Packet { socket, frame, payload });
    }

    /// Whether it waits for an answer to a Dial.
    pub(super) fn is_dialling(&self) -> bool {
        self.dialling
    }

    /// Whether it would accept a connection.
    pub(super) fn is_listening(&self) -> bool {
        self.listening
    }

    pub(super) fn is_closed(&self, socket: SocketId) -> bool {
        self.closed.contains(&socket)
    }

    /// Its Dial succeeds.
    pub(super) fn dialled(&mut self) -> SocketId {
        self.dialling = false;
        let socket = self.socket();
        self.handle(Event::Dialled { peer: PEER, socket });
        socket
    }

    /// Its Dial, if there is one, fails; the peer is faster.
    pub(super) fn refuse_dial(&mut self) {
        if std::mem::take(&mut self.dialling) {
            self.handle(Event::DialFailed { peer: PEER, retry: true, why: "refused".into() });
        }
    }

    /// The peer dialled.
    pub(super) fn accepted(&mut self) -> SocketId {
        let socket = self.socket();
        self.handle(Event::Accepted { peer: PEER, socket });
        socket
    }

    pub(super) fn lose(&mut self, socket: SocketId) {
        let why = drbd_core::engine::SocketLoss::EndOfStream;
        self.handle(Event::SocketLost { socket, why });
    }

    fn socket(&mut self) -> SocketId {
        self.next_socket += 1;
        SocketId(self.next_socket)
    }

    fn payload(&mut self, content: Content) -> PayloadId {
        self.next_payload += 1;
        let payload = PayloadId(self.next_payload);
        self.payloads.insert(payload, content);
        payload
    }

    /// Time passes; what is due happens.
    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        while self.engine.next_deadline().is_some_and(|at| at <= self.now) {
            self.handle(Event::Timer);
        }
    }

    fn handle(&mut self, event: Event) {
        self.inbox.push_back(event);
        let mut out = Vec::new();
        while let Some(event) = self.inbox.pop_front() {
            self.engine.handle(self.now, event, &mut out);
            // Metadata is taken at once: the engine's memory goes on changing.
            for command in &out {
                if let Command::Meta(MetaIo { volume, op, offset_bytes, .. }) = command {
                    if *op != MetaOp::Flush {
                        let mut block = Box::new([0; BLOCK_BYTES]);
                        self.engine.encode_meta(*volume, *op, &mut block);
                        self.keep(*offset_bytes, &block[..]);
                    }
                }
            }
            for command in out.drain(..) {
                self.carry_out(command);
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Disk(io) => {
                let mut payload = PayloadId::NONE;
                if io.op == DiskOp::Read {
                    if io.payload == PayloadId::NONE {
                        payload = self.payload(Content::Read(io.sector));
                    } else {
                        self.payloads.insert(io.payload, Content::Read(io.sector));
                    }
                }
                self.inbox.push_back(Event::DiskDone { io: io.io, result: IoResult::Done, payload });
            }
            Command::Meta(io) => {
                let payload = PayloadId::NONE;
                self.inbox.push_back(Event::DiskDone { io: io.io, result: IoResult::Done, payload });
            }
            Command::Send { socket, frame, .. } => {
                self.sent.push_back((socket, frame));
                let packets = self.packets.entry(socket).or_default();
                *packets += 1;
                self.inbox.push_back(Event::Sent { socket, packets: *packets });
            }
            Command::Dial { .. } => self.dialling = true,
            Command::CancelDial { .. } => self.dialling = false,
            Command::Listen { .. } => self.listening = true,
            Command::Unlisten { .. } => self.listening = false,
            Command::Close { socket } => self.closed.push(socket),
            Command::RunHandler { handler, .. } => {
                self.inbox.push_back(Event::HandlerExited { handler, status: 0 });
            }
            Command::Challenge { peer } => {
                let bytes = Box::new(self.secrets.challenge[..].try_into().expect("64 bytes"));
                self.inbox.push_back(Event::Challenge { peer, bytes });
            }
            Command::Hmac { peer, purpose, .. } => {
                let digest = match purpose {
                    HmacPurpose::Response => &self.secrets.response,
                    HmacPurpose::Expected => &self.secrets.expected,
                };
                let digest = Some(digest.clone().into());
                self.inbox.push_back(Event::Hmac { peer, purpose, digest });
            }
            Command::Digest { job, payload, bytes, .. } => {
                let digest = match &self.payloads[&payload] {
                    Content::Digest(digest) => digest.clone(),
                    Content::Read(sector) => self.digests.get(&(*sector, bytes)).cloned().unwrap_or_default(),
                    Content::Unknown => Vec::new(),
                };
                let digest = if digest.is_empty() { NO_DIGEST.to_vec() } else { digest };
                self.inbox.push_back(Event::Digest { job, digest: Some(digest.into()) });
            }
            Command::Reply { result: Err(refusal), .. } => panic!("refused: {refusal}"),
            Command::Release { payload } => {
                self.payloads.remove(&payload);
            }
            Command::Log(record) => self.log.push(record.text),
            Command::Complete { .. }
            | Command::SetVersion { .. }
            | Command::SetIntegrity { .. }
            | Command::SettingsAdopted { .. }
            | Command::SizeAdopted { .. }
            | Command::HandedOver { .. }
            | Command::MeasureDisk { .. }
            | Command::Device { .. }
            | Command::CloseDisk { .. }
            | Command::Reply { .. }
            | Command::Notify(_) => {}
        }
    }

    fn part(&self, offset_bytes: u64, bytes: u64) -> &[u8] {
        &self.area[(offset_bytes - self.base) as usize..][..bytes as usize]
    }

    fn keep(&mut self, offset_bytes: u64, bytes: &[u8]) {
        let at = (offset_bytes - self.base) as usize;
        self.area[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
