//! The resource: all state of the engine, and the small services its parts share.

use super::command::{Command, DiskIo, DiskOp, HandlerCall, Level, LogRecord, MetaIo, MetaOp};
use super::connection::Connection;
use super::device::Device;
use super::random::Random;
use super::slab::Slab;
use super::write_path::peer_request::PeerRequest;
use super::write_path::request::Request;
use crate::config::ResourceOptions;
use crate::control::Done;
use crate::ids::{
    DiskIoId, HandlerId, Instant, Minor, NodeId, PayloadId, Sector, SocketId, Ticket, VolumeNumber,
};
use crate::limits::{PEER_REQUESTS_MAX, REQUESTS_MAX};
use crate::metadata::device_flag;
use crate::refusal::Refusal;
use crate::states::{Role, Suspended};
use crate::wire::{Frame, Packet};
use std::collections::BTreeMap;

/// One replicated resource on this node.
#[derive(Debug)]
pub struct Resource {
    pub(super) name: String,
    pub(super) node_id: NodeId,
    pub(super) options: ResourceOptions,
    pub(super) role: Role,
    pub(super) suspended: Suspended,
    /// After `secondary --force`: requests fail until the last opener is gone.
    pub(super) force_io_failures: bool,
    /// In order of creation.
    pub(super) devices: Vec<Device>,
    /// One peer in use; the mesh comes later.
    pub(super) connection: Option<Box<Connection>>,
    /// Volumes of other resources that are in the way of resyncs waiting for them.
    pub(super) foreign_resyncs: Vec<Minor>,
    pub(super) requests: Slab<Request>,
    pub(super) peer_requests: Slab<PeerRequest>,
    pub(super) ios: Slab<Io>,
    /// What earlier sessions brought and is still to be written in its order, and made stable.
    pub(super) left: Vec<super::write_path::received::Received>,
    /// What the shell digests.
    pub(super) digests: Slab<super::digests::DigestJob>,
    /// What the peer says a block's digest is, by the key of the peer request that looks.
    pub(super) expected_digests: BTreeMap<u32, Box<[u8]>>,
    pub(super) handlers: Slab<HandlerOwner>,
    pub(super) admin: super::admin::Admin,
    pub(super) freeze: super::freeze::Freeze,
    pub(super) hand_over: super::hand_over::HandOver,
    pub(super) random: Random,
    pub(super) now: Instant,
    pub(super) protocol_max: u32,
    /// Generation of cookies, so that no block id returns while its request lives.
    pub(super) cookie: u32,
    pub(super) notification_group: u64,
    pub(super) last_decision: String,
    /// Objects as last told to subscribers.
    pub(super) told: super::notify::Told,
    /// Reused list of operations that may start.
    pub(super) ready: Vec<super::write_path::conflicts::Owner>,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: Option<super::planted::Bug>,
}

/// A disk operation under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Io {
    pub(super) owner: IoOwner,
    pub(super) device: usize,
    pub(super) since: Instant,
}

/// Whose disk operation it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IoOwner {
    /// The local part of an upper request.
    Request(u32),
    /// The disk part of a peer request.
    Peer(u32),
    /// A flush for the epochs of a session.
    EpochFlush { session: u32 },
    /// A step of the running metadata job.
    Job(JobIo),
    /// Nobody waits for it any longer: its disk was given up.
    Nobody,
}

/// An operation of a metadata job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JobIo {
    /// The data disk is flushed.
    Flush,
    /// A block is written.
    Write { op: MetaOp, barrier: bool },
}

/// Who waits for a handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HandlerOwner {
    /// Nobody.
    Nobody,
    /// A resync begins when it succeeds. `attempt` counts the resyncs arranged: another one may have been since.
    BeforeResync { device: usize, session: u32, attempt: u32 },
    /// The peer of that many sessions is to be fenced.
    FencePeer { sessions: u32 },
}

impl Resource {
    /// A resource without volumes and peers. `seed` should be unpredictable outside of tests: generation UUIDs come
    /// from it.
    pub fn new(name: &str, node_id: NodeId, options: ResourceOptions, seed: u64) -> Resource {
        Resource {
            name: name.to_owned(),
            node_id,
            options,
            role: Role::Secondary,
            suspended: Suspended::default(),
            force_io_failures: false,
            devices: Vec::new(),
            connection: None,
            foreign_resyncs: Vec::new(),
            requests: Slab::new(2 * REQUESTS_MAX),
            peer_requests: Slab::new(PEER_REQUESTS_MAX),
            ios: Slab::new(4 * REQUESTS_MAX + 2 * PEER_REQUESTS_MAX),
            left: Vec::new(),
            digests: Slab::new(PEER_REQUESTS_MAX),
            expected_digests: BTreeMap::new(),
            handlers: Slab::new(64),
            admin: super::admin::Admin::default(),
            freeze: super::freeze::Freeze::default(),
            hand_over: super::hand_over::HandOver::default(),
            random: Random::new(seed),
            now: Instant(0),
            protocol_max: crate::limits::PROTOCOL_MAX,
            cookie: 1,
            notification_group: 0,
            last_decision: String::new(),
            told: super::notify::Told::default(),
            ready: Vec::with_capacity(64),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    /// Offers no protocol version above that one.
    pub fn cap_protocol(&mut self, version: u32) {
        self.protocol_max = version;
    }

    pub(super) fn device_index(&self, volume: VolumeNumber) -> Option<usize> {
        self.devices.iter().position(|d| d.volume == volume)
    }

    #[allow(clippy::too_many_arguments)] // the parts of one operation
    pub(super) fn disk_io(
        &mut self,
        d: usize,
        owner: IoOwner,
        op: DiskOp,
        extent: (Sector, u32),
        payload: PayloadId,
        fua: bool,
        out: &mut Vec<Command>,
    ) {
        let io = self.begin_io(d, owner);
        let device = &mut self.devices[d];
        let (sector, bytes) = extent;
        match op {
            DiskOp::Read => device.counters.read_sectors += u64::from(bytes) / 512,
            DiskOp::Write => device.counters.written_sectors += u64::from(bytes) / 512,
            DiskOp::Flush | DiskOp::Discard | DiskOp::WriteZeroes { .. } => {}
        }
        out.push(Command::Disk(DiskIo { volume: device.volume, io, op, sector, bytes, payload, fua }));
    }

    fn begin_io(&mut self, d: usize, owner: IoOwner) -> DiskIoId {
        self.devices[d].counters.lower_pending += 1;
        self.watch_disk(d);
        DiskIoId(self.ios.insert(Io { owner, device: d, since: self.now }))
    }

    pub(super) fn meta_io(&mut self, d: usize, op: MetaOp, barrier: bool, out: &mut Vec<Command>) {
        let io = self.begin_io(d, IoOwner::Job(JobIo::Write { op, barrier }));
        let device = &mut self.devices[d];
        let backing = device.backing.as_deref_mut().expect("an attached disk");
        if op == MetaOp::SuperBlock {
            backing.primary_on_its_way = backing.super_block.flags & device_flag::PRIMARY_IND != 0;
        }
        let offset_bytes = backing.offset_of(op);
        let barrier = barrier && backing.options.md_flushes;
        out.push(Command::Meta(MetaIo { volume: device.volume, io, op, offset_bytes, barrier }));
    }

    /// Sends on the data stream of the session, if there is one.
    pub(super) fn send(&mut self, volume: VolumeNumber, packet: Packet, out: &mut Vec<Command>) {
        self.send_bulk(volume, packet, PayloadId::NONE, out);
    }

    /// Sends on the data stream with bulk; returns the number of the packet on its socket.
    pub(super) fn send_bulk(
        &mut self,
        volume: VolumeNumber,
        packet: Packet,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> u64 {
        let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) else { return 0 };
        session.data_sent += 1;
        out.push(Command::Send { socket: session.data, frame: Frame { volume, packet }, payload });
        session.data_sent
    }

    /// Sends on the control stream of the session, if there is one.
    pub(super) fn send_control(&mut self, volume: VolumeNumber, packet: Packet, out: &mut Vec<Command>) {
        let Some(session) = self.connection.as_ref().and_then(|c| c.session()) else { return };
        let socket: SocketId = session.control;
        out.push(Command::Send { socket, frame: Frame { volume, packet }, payload: PayloadId::NONE });
    }

    pub(super) fn release(payload: PayloadId, out: &mut Vec<Command>) {
        if payload != PayloadId::NONE {
            out.push(Command::Release { payload });
        }
    }

    pub(super) fn log(
        &self,
        code: &'static str,
        level: Level,
        subject: String,
        text: impl Into<String>,
        out: &mut Vec<Command>,
    ) {
        out.push(Command::Log(Box::new(LogRecord { code, level, subject, text: text.into() })));
    }

    /// `r0/0 drbd1` for log lines.
    pub(super) fn device_subject(&self, d: usize) -> String {
        let device = &self.devices[d];
        format!("{}/{} drbd{}", self.name, device.volume, device.minor)
    }

    /// `r0 bravo` for log lines.
    pub(super) fn peer_subject(&self) -> String {
        match &self.connection {
            Some(connection) => format!("{} {}", self.name, connection.name()),
            None => self.name.clone(),
        }
    }

    /// `r0/0 drbd1 bravo` for log lines.
    pub(super) fn peer_device_subject(&self, d: usize) -> String {
        match &self.connection {
            Some(connection) => format!("{} {}", self.device_subject(d), connection.name()),
            None => self.device_subject(d),
        }
    }

    pub(super) fn reply(&self, ticket: Ticket, result: Result<Done, Refusal>, out: &mut Vec<Command>) {
        if Resource::is_step(ticket) {
            return;
        }
        out.push(Command::Reply { ticket, result: result.map(Box::new).map_err(Box::new) });
    }

    pub(super) fn run_handler(
        &mut self,
        name: &'static str,
        d: Option<usize>,
        owner: HandlerOwner,
        out: &mut Vec<Command>,
    ) {
        if self.handlers.room() == 0 {
            self.log(
                "handlers-busy",
                Level::Warning,
                self.name.clone(),
                format!("Too many handlers are running, {name} is not called"),
                out,
            );
            return;
        }
        let handler = HandlerId(self.handlers.insert(owner));
        let call = HandlerCall {
            name,
            peer: self.connection.as_ref().map(|c| c.peer),
            volume: d.map(|d| self.devices[d].volume),
            up_to_date_nodes: self.up_to_date_nodes(),
        };
        out.push(Command::RunHandler { handler, call: Box::new(call) });
    }

    fn up_to_date_nodes(&self) -> u32 {
        use crate::states::DiskState::UpToDate;
        let mut nodes = 0;
        if self.devices.iter().all(|d| d.disk == UpToDate) {
            nodes |= 1 << self.node_id.0;
        }
        if let Some(connection) = &self.connection {
            if connection.peer_devices.iter().all(|p| p.peer_disk == UpToDate) {
                nodes |= 1 << connection.peer.0;
            }
        }
        nodes
    }
}
