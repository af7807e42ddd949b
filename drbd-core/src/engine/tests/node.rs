//! One node on a perfect shell: a disk of numbered contents, metadata as bytes, and everything that was ever asked of
//! the shell.

use crate::config::{DiskOptions, NetOptions, OptionSet, OptionSpec, ResourceOptions};
use crate::engine::resource::IoOwner;
use crate::engine::{
    AttachRequest, Command, DeviceBytes, Direction, DiskIo, DiskLimits, DiskOp, LogRecord, MetaIo, MetaOp,
    Resource, UpperResult,
};
use crate::ids::{HandlerId, Minor, NodeId, PayloadId, Sector, SocketId, Ticket, UpperTag, VolumeNumber};
use crate::metadata::{
    apply_log, load, Format, Geometry, Index, Layout, Loaded, Place, SuperBlock, BLOCK_BYTES,
};
use crate::refusal::Refusal;
use crate::states::Role;
use crate::wire::{BlockAck, Data, Frame, Packet, Trim};
use std::collections::{BTreeMap, VecDeque};

/// Usable size of every disk: 16 activity-log extents.
pub(super) const SECTORS: u64 = 16 * 8192;
/// Size of every backing disk: that much, and the internal metadata for it.
pub(super) const DEVICE_BYTES: u64 = SECTORS * 512 + (40 << 10);
pub(super) const VOLUME: VolumeNumber = VolumeNumber(0);

/// An operation the disk has not yet carried out.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Disk(DiskIo),
    Meta(MetaIo, Box<[u8; BLOCK_BYTES]>),
}

impl Pending {
    pub(super) fn is_write(&self) -> bool {
        matches!(self, Pending::Disk(DiskIo { op: DiskOp::Write, .. }))
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Pending::Disk(DiskIo { op: DiskOp::Read, .. }))
    }

    pub(super) fn is_discard(&self) -> bool {
        matches!(self, Pending::Disk(DiskIo { op: DiskOp::Discard, .. }))
    }

    pub(super) fn is_flush(&self) -> bool {
        matches!(self, Pending::Disk(DiskIo { op: DiskOp::Flush, .. }))
    }

    pub(super) fn is_super_block(&self) -> bool {
        matches!(self, Pending::Meta(MetaIo { op: MetaOp::SuperBlock, .. }, _))
    }

    pub(super) fn is_log(&self) -> bool {
        matches!(self, Pending::Meta(MetaIo { op: MetaOp::LogTransaction { .. }, .. }, _))
    }
}

/// What a packet's bulk or a request's buffer holds: one number per 4 KiB block.
pub(super) type Contents = Vec<u32>;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) engine: Resource,
    /// Content of every block that was written.
    pub(super) disk: BTreeMap<u64, u32>,
    /// What was written of metadata, by its place on the device.
    pub(super) meta: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
    pub(super) index: Index,
    /// Sizes the backing disk had, the present one last.
    pub(super) device_bytes: Vec<u64>,
    /// Of the device external metadata is on.
    pub(super) meta_bytes: u64,
    /// What lay where metadata was written that is not yet stable, in order.
    pub(super) unstable: Vec<(u64, Option<Box<[u8; BLOCK_BYTES]>>)>,
    /// What the disk says of itself.
    pub(super) logical_block_size: u32,
    pub(super) discard_granularity: u32,
    /// Disks of volumes 1 and up, internal metadata at their end; their blocks are in `disk` from number × 2^32 on, their
    /// metadata in `meta` from number × 2^48 on.
    pub(super) further: u16,
    /// Not yet answered, because `holds` says so.
    pub(super) pending: Vec<Pending>,
    pub(super) holds: Option<fn(&Pending) -> bool>,
    /// Packets that `hold_packets` keeps.
    pub(super) outbox: VecDeque<(SocketId, Frame, PayloadId)>,
    pub(super) hold_packets: bool,
    pub(super) listening: bool,
    pub(super) completed: BTreeMap<UpperTag, UpperResult>,
    pub(super) read: BTreeMap<UpperTag, Contents>,
    pub(super) replies: BTreeMap<Ticket, Result<(), Refusal>>,
    pub(super) handlers: Vec<&'static str>,
    /// What fence-peer answers; `None`: it runs until the test says so.
    pub(super) handler_status: Option<i32>,
    pub(super) running_handlers: Vec<HandlerId>,
    /// Name of a handler that does not end by itself.
    pub(super) hangs: &'static str,
    /// The error number such an operation ends with.
    pub(super) fails: Option<fn(&Pending) -> Option<i32>>,
    pub(super) log_lines: Vec<String>,
    pub(super) records: Vec<LogRecord>,
    /// Every packet sent, for tests that look at the wire.
    pub(super) sent: Vec<Packet>,
    /// The packet that arrived last.
    pub(super) received: Option<Packet>,
    /// Digests of bulk that begin, and behind which packet.
    pub(super) integrity: Vec<(Direction, Box<str>, Option<Packet>)>,
    /// References to buffers that the engine holds.
    pub(super) references: BTreeMap<PayloadId, i32>,
    pub(super) disk_closed: bool,
    pub(super) contract: Contract,
}

/// A sector among those of all volumes.
fn place(volume: VolumeNumber, sector: Sector) -> u64 {
    u64::from(volume.0) << 40 | sector.0
}

/// What the ordering contract is checked against.
#[derive(Debug, Default)]
pub(super) struct Contract {
    /// Writes done, in order, by first sector.
    done: Vec<u64>,
    /// How many of them are stable.
    stable: usize,
    /// Those done when each flush under way was begun.
    flushes: BTreeMap<u32, usize>,
    /// The peer's epochs; the last one is open.
    epochs: VecDeque<Promised>,
    /// Writes of the peer without acknowledgement.
    unacknowledged: Vec<(u64, usize)>,
}

/// An epoch of the peer.
#[derive(Debug, Default)]
struct Promised {
    /// How many writes its barrier is to name.
    counted: u32,
    /// Those to be stable, with the number of writes done when each arrived.
    writes: Vec<(u64, usize)>,
}

pub(super) fn options(pairs: &[(&str, &str)]) -> OptionSet {
    let mut set = OptionSet::default();
    for (name, value) in pairs {
        set.set(OptionSpec::find(name).expect("an option"), value).expect("a value");
    }
    set
}

pub(super) fn net(pairs: &[(&str, &str)]) -> NetOptions {
    NetOptions::from(&options(pairs))
}

/// Where the metadata of a volume's disk begins in [`Node::meta`].
fn base_of(volume: VolumeNumber) -> u64 {
    u64::from(volume.0) << 48
}

fn geometry() -> Geometry {
    Geometry::usual(1)
}

impl Node {
    pub(super) fn new(number: u8, format: Format, seed: u64) -> Node {
        let resource_options = ResourceOptions::from(&OptionSet::default());
        let mut node = Node {
            engine: Resource::new("r0", NodeId(number), resource_options, seed + u64::from(number)),
            disk: BTreeMap::new(),
            meta: BTreeMap::new(),
            index: Index::Internal,
            device_bytes: vec![DEVICE_BYTES],
            meta_bytes: 1 << 20,
            unstable: Vec::new(),
            logical_block_size: 512,
            discard_granularity: 0,
            further: 0,
            pending: Vec::new(),
            holds: None,
            outbox: VecDeque::new(),
            hold_packets: false,
            listening: false,
            completed: BTreeMap::new(),
            read: BTreeMap::new(),
            replies: BTreeMap::new(),
            handlers: Vec::new(),
            handler_status: Some(0),
            running_handlers: Vec::new(),
            hangs: "",
            fails: None,
            log_lines: Vec::new(),
            records: Vec::new(),
            sent: Vec::new(),
            received: None,
            integrity: Vec::new(),
            references: BTreeMap::new(),
            disk_closed: false,
            contract: Contract { epochs: [Promised::default()].into(), ..Contract::default() },
        };
        node.create_metadata(format, Index::Internal);
        node
    }

    /// `drbdmeta create-md`.
    pub(super) fn create_metadata(&mut self, format: Format, index: Index) {
        self.index = index;
        let layout = Layout::new(index, self.bytes_now().metadata, &geometry()).expect("a layout");
        let mut block = Box::new([0; BLOCK_BYTES]);
        SuperBlock::fresh(format, &layout, &geometry()).encode(&mut block);
        self.meta = [(layout.super_block_offset_bytes, block)].into();
    }

    /// Another size for the backing disk.
    pub(super) fn grow_device(&mut self, bytes: u64) {
        self.device_bytes.push(bytes);
    }

    pub(super) fn bytes_now(&self) -> DeviceBytes {
        self.bytes_when(*self.device_bytes.last().expect("a size"))
    }

    fn bytes_when(&self, data: u64) -> DeviceBytes {
        DeviceBytes { data, metadata: if self.index.is_internal() { data } else { self.meta_bytes } }
    }

    /// The super block, and the size of the disk it was found with: at the end, or where the end was before.
    pub(super) fn found(&self) -> Option<(SuperBlock, DeviceBytes)> {
        self.found_of(VOLUME)
    }

    fn found_of(&self, volume: VolumeNumber) -> Option<(SuperBlock, DeviceBytes)> {
        let further = DeviceBytes { data: DEVICE_BYTES, metadata: DEVICE_BYTES };
        let of_first = self.device_bytes.iter().rev().map(|&data| (self.index, self.bytes_when(data)));
        let sizes: Vec<_> =
            if volume == VOLUME { of_first.collect() } else { vec![(Index::Internal, further)] };
        sizes.into_iter().find_map(|(index, bytes)| {
            let at = index.super_block_offset_bytes(bytes.metadata).expect("large enough");
            let super_block = SuperBlock::decode(self.meta.get(&(base_of(volume) + at))?).ok()??;
            Some((super_block, bytes))
        })
    }

    /// The super block as it is on disk.
    pub(super) fn kept(&self) -> SuperBlock {
        self.found().expect("a super block").0
    }

    pub(super) fn place(&self) -> Place {
        self.place_of(VOLUME)
    }

    fn place_of(&self, volume: VolumeNumber) -> Place {
        let (super_block, bytes) = self.found_of(volume).expect("a super block");
        let index = if volume == VOLUME { self.index } else { Index::Internal };
        Place::of(&super_block, index, bytes.metadata, bytes.data).expect("it fits its device")
    }

    fn part(&self, offset_bytes: u64, bytes: u64) -> Vec<u8> {
        let mut part = vec![0; bytes as usize];
        for (chunk, at) in part.chunks_mut(BLOCK_BYTES).zip((offset_bytes..).step_by(BLOCK_BYTES)) {
            if let Some(block) = self.meta.get(&at) {
                chunk.copy_from_slice(&block[..chunk.len()]);
            }
        }
        part
    }

    pub(super) fn bitmap(&self) -> Vec<u8> {
        let place = self.place();
        self.part(place.bitmap_offset_bytes, place.bitmap_bytes)
    }

    fn log(&self) -> Vec<u8> {
        let place = self.place();
        self.part(place.log_offset_bytes, place.log_bytes)
    }

    /// The machine after a crash: its disk and nothing else.
    pub(super) fn crashed(&mut self, number: u8, seed: u64) -> Node {
        let mut fresh = Node::new(number, self.kept().format, seed);
        fresh.take_disk_of(self);
        fresh.handler_status = self.handler_status;
        fresh.engine.options = self.engine.options.clone();
        fresh
    }

    /// A machine with these disks, never booted before.
    pub(super) fn with_disk_of(other: &Node, number: u8, seed: u64) -> Node {
        let mut fresh = Node::new(number, other.kept().format, seed);
        fresh.take_disk_of(other);
        fresh
    }

    /// The disk as another one is, metadata and all.
    pub(super) fn take_disk_of(&mut self, other: &Node) {
        self.meta = other.meta.clone();
        self.further = other.further;
        self.index = other.index;
        self.device_bytes.clone_from(&other.device_bytes);
        self.meta_bytes = other.meta_bytes;
        self.logical_block_size = other.logical_block_size;
        self.discard_granularity = other.discard_granularity;
        self.disk = other.disk.clone();
    }

    /// `drbdadm create-md`: the data stay.
    pub(super) fn make_disk_anew(&mut self) {
        let disk = std::mem::take(&mut self.disk);
        let fresh = Node::new(0, self.kept().format, 0);
        self.take_disk_of(&fresh);
        self.disk = disk;
    }

    /// As `drbdmeta set-gi` could have it: the peer's bitmap counts from nothing, what it counted from is history.
    pub(super) fn forget_bitmap_generation(&mut self) {
        let mut block = self.kept();
        for peer in block.peers.iter_mut().filter(|peer| peer.bitmap_uuid != 0) {
            block.history.rotate_right(1);
            block.history[0] = std::mem::take(&mut peer.bitmap_uuid);
        }
        let at = self.place().super_block_offset_bytes;
        block.encode(self.meta.get_mut(&at).expect("it was found there"));
    }

    /// Another disk, just made; the number of its volume.
    pub(super) fn add_disk(&mut self) -> VolumeNumber {
        let fresh = Node::new(0, self.kept().format, 0);
        self.further += 1;
        let volume = VolumeNumber(self.further);
        self.meta.extend(fresh.meta.into_iter().map(|(at, block)| (base_of(volume) + at, block)));
        volume
    }

    fn loaded(&self, volume: VolumeNumber) -> Loaded {
        let (super_block, _) = self.found_of(volume).expect("a super block");
        let place = self.place_of(volume);
        let part = |at: u64, bytes: u64| self.part(base_of(volume) + at, bytes);
        let log = part(place.log_offset_bytes, place.log_bytes);
        let bitmap = part(place.bitmap_offset_bytes, place.bitmap_bytes);
        load(super_block, &place, &log, &bitmap).expect("our own metadata")
    }

    /// What an attach is given; `apply_al`: drbdmeta was there before, as drbdadm has it.
    pub(super) fn attach_request(&mut self, apply_al: bool, recovery: bool) -> AttachRequest {
        self.attach_request_of(VOLUME, apply_al, recovery)
    }

    /// As above, for any volume.
    pub(super) fn attach_request_of(
        &mut self,
        volume: VolumeNumber,
        apply_al: bool,
        recovery: bool,
    ) -> AttachRequest {
        let mut metadata = self.loaded(volume);
        if apply_al {
            apply_log(&mut metadata).expect("a log that can be read");
        }
        AttachRequest {
            volume,
            backing_dev: "/dev/backing".to_owned(),
            disk: DiskLimits {
                capacity: self.place_of(volume).capacity,
                max_bio_bytes: 1 << 20,
                logical_block_size: self.logical_block_size,
                physical_block_size: 4096,
                discard_zeroes: true,
                discard_granularity: self.discard_granularity,
                external_metadata: !self.index.is_internal(),
            },
            metadata: Box::new(metadata),
            index: if volume == VOLUME { self.index } else { Index::Internal },
            place: self.place_of(volume),
            options: DiskOptions::from(&OptionSet::default()),
            recovery,
        }
    }

    pub(super) fn minor(number: u8) -> Minor {
        Minor(u32::from(number) + 1)
    }

    /// Carries an operation out. For a read without a buffer of its own: what was read.
    pub(super) fn carry_out(&mut self, op: &Pending, contents: Option<&Contents>) -> Option<Contents> {
        match op {
            Pending::Disk(io) => self.carry_out_disk(io, contents),
            Pending::Meta(io, bytes) => {
                if io.barrier {
                    self.unstable.clear();
                }
                if io.op != MetaOp::Flush {
                    let at = base_of(io.volume) + io.offset_bytes;
                    let before = self.meta.insert(at, bytes.clone());
                    if !io.barrier {
                        self.unstable.push((at, before));
                    }
                }
                None
            }
        }
    }

    fn carry_out_disk(&mut self, io: &DiskIo, contents: Option<&Contents>) -> Option<Contents> {
        let base = u64::from(io.volume.0) << 32;
        let blocks = base + io.sector.0 / 8..base + (io.sector.0 + u64::from(io.bytes) / 512).div_ceil(8);
        match io.op {
            DiskOp::Read => return Some(blocks.map(|b| self.disk.get(&b).copied().unwrap_or(0)).collect()),
            DiskOp::Write => {
                let contents = contents.expect("a write has bytes");
                if self.index.is_internal() {
                    // Where metadata was before the device grew.
                    blocks.clone().for_each(|b| {
                        self.meta.remove(&(b * BLOCK_BYTES as u64));
                    });
                }
                self.disk.extend(blocks.zip(contents.iter().copied()));
            }
            DiskOp::Discard | DiskOp::WriteZeroes { .. } => blocks.for_each(|b| {
                self.disk.remove(&b);
            }),
            DiskOp::Flush => {
                let done = self.contract.flushes.remove(&io.io.0).expect("it was begun");
                self.contract.stable = self.contract.stable.max(done);
                return None;
            }
        }
        self.contract.done.push(place(io.volume, io.sector));
        None
    }

    // ---- the ordering contract -----------------------------------------------------------------------------------

    /// Looks at a command before it is carried out.
    pub(super) fn check_command(&mut self, command: &Command) {
        match command {
            Command::Disk(io) => self.check_disk(io),
            Command::Send { frame, .. } => self.check_send(frame),
            _ => {}
        }
    }

    fn check_disk(&mut self, io: &DiskIo) {
        if io.op == DiskOp::Flush {
            self.contract.flushes.insert(io.io.0, self.contract.done.len());
        }
        if matches!(io.op, DiskOp::Flush | DiskOp::Read) {
            return;
        }
        // What an earlier session brought and still waited for its turn belongs to the data as it was.
        let of_peer = matches!(self.engine.ios[io.io.0].owner, IoOwner::Peer(_));
        let late = match self.engine.ios[io.io.0].owner {
            IoOwner::Peer(key) => {
                Some(self.engine.peer_requests[key].session) != self.engine.session_number()
            }
            _ => false,
        };
        if late || io.volume != VOLUME {
            return;
        }
        // Complete, and being called so: what comes now is mirrored as ever.
        let peer_device = self.engine.connection.as_ref().map(|c| &c.peer_devices[0]);
        let finishing = peer_device.and_then(|p| p.resync.as_ref()).is_some_and(|r| r.finishing);
        let replication = self.engine.snapshot(Some(0)).replication;
        let syncing = replication == crate::states::ReplicationState::SyncTarget && !finishing;
        if syncing {
            let consistent = crate::metadata::device_flag::CONSISTENT;
            assert_eq!(self.kept().flags & consistent, 0, "a target is written and not called Inconsistent");
        } else if self.engine.role == Role::Primary && of_peer && self.engine.two_primaries_allowed() {
            // The peer is Primary too: its log names the extent.
        } else if self.engine.role == Role::Primary {
            let kept = self.kept();
            let primary = crate::metadata::device_flag::PRIMARY_IND;
            assert_ne!(kept.flags & primary, 0, "written before the disk knows of its Primary");
            let hot = crate::metadata::replay(&self.log(), kept.al_stripes, kept.al_stripe_size_4k).state;
            let extents = crate::engine::device::extents(io.sector, io.bytes);
            let crate::metadata::LogState::Active(hot) = hot else { panic!("the log is {hot:?}") };
            for extent in extents {
                assert!(
                    hot.contains(&extent),
                    "extent {extent} is written and the log on disk names {hot:?}"
                );
            }
        }
    }

    fn check_send(&mut self, frame: &Frame) {
        let at = |ack: &BlockAck| place(frame.volume, ack.sector);
        match &frame.packet {
            Packet::WriteAck(ack) => self.check_ack(at(ack)),
            Packet::RsWriteAck(ack) if ack.block_id != crate::wire::BLOCK_ID_RESYNC => {
                self.check_ack(at(ack));
            }
            Packet::NegAck(ack) => {
                let other = |write: &(u64, usize)| write.0 != at(ack);
                self.contract.unacknowledged.retain(other);
                self.contract.epochs.iter_mut().for_each(|epoch| epoch.writes.retain(other));
            }
            Packet::Superseded(ack) | Packet::RetryWrite(ack) => self.take_back_promise(at(ack)),
            Packet::BarrierAck { set_size, .. } => {
                while self.contract.epochs[0].counted == 0 {
                    self.contract.epochs.pop_front();
                }
                let epoch = self.contract.epochs.pop_front().expect("an epoch");
                let cached = self.engine.devices[0].backing.as_deref();
                if cached.is_some_and(|backing| !backing.flushes()) {
                    // The administrator says that what is written is stable.
                    self.contract.stable = self.contract.done.len();
                }
                assert_eq!(*set_size, epoch.counted, "writes of the epoch");
                for (sector, after) in epoch.writes {
                    let stable = &self.contract.done[after..self.contract.stable.max(after)];
                    assert!(stable.contains(&sector), "sector {sector} is called stable and is not");
                }
            }
            Packet::State(word) => {
                let role = crate::wire::state_word::role_of(*word);
                // A demotion that waited for the handshake may have followed in the same breath.
                let primary = role == Some(Role::Primary) && self.engine.role == Role::Primary;
                if primary && self.engine.devices[0].disk.has_data() {
                    let primary = crate::metadata::device_flag::PRIMARY_IND;
                    assert_ne!(self.kept().flags & primary, 0, "Primary is told before it is kept");
                }
            }
            _ => {}
        }
    }

    fn take_back_promise(&mut self, place: u64) {
        let unacknowledged = &mut self.contract.unacknowledged;
        let at = unacknowledged.iter().position(|(sector, _)| *sector == place);
        let write = unacknowledged.remove(at.expect("a write to turn away"));
        let of_epoch = |epoch: &&mut Promised| epoch.writes.contains(&write);
        let epoch = self.contract.epochs.iter_mut().find(of_epoch).expect("an epoch with that write");
        epoch.writes.retain(|w| *w != write);
        epoch.counted -= 1;
    }

    fn check_ack(&mut self, place: u64) {
        let at = self.contract.unacknowledged.iter().position(|(sector, _)| *sector == place);
        let (sector, after) = self.contract.unacknowledged.remove(at.expect("a write to acknowledge"));
        assert!(
            self.contract.done[after..].contains(&sector),
            "sector {sector} is acknowledged before written"
        );
    }

    /// Remembers what the peer was promised.
    pub(super) fn note_received(&mut self, frame: &Frame) {
        self.received = Some(frame.packet.clone());
        match &frame.packet {
            Packet::Data(Data { sector, .. })
            | Packet::Trim(Trim { sector, .. })
            | Packet::Zeroes(Trim { sector, .. }) => {
                let write = (place(frame.volume, *sector), self.contract.done.len());
                let epoch = self.contract.epochs.back_mut().expect("an open epoch");
                epoch.writes.push(write);
                epoch.counted += 1;
                self.contract.unacknowledged.push(write);
            }
            Packet::Barrier(_) => self.contract.epochs.push_back(Promised::default()),
            _ => {}
        }
    }

    /// The session is over: promises of the next one begin anew.
    pub(super) fn forget_promises(&mut self) {
        self.contract.epochs = [Promised::default()].into();
        self.contract.unacknowledged.clear();
    }
}
