//! Everything the engine asks of its shell, as values.
//!
//! # The ordering contract
//!
//! Commands may be carried out in any order and at any time, except:
//!
//! - packets of one socket keep their order;
//! - [`Command::Meta`] must be encoded ([`Resource::encode_meta`](super::Resource::encode_meta)) before the next call of `handle`, because the engine's
//!   memory goes on changing; it may be written later;
//! - disk operations need not keep any order among themselves, overlapping ones included: the engine never has two
//!   writes to the same sector outstanding.
//!
//! What must happen *after* something else is only commanded once the event that tells of it was seen. The engine
//! never relies on the shell to wait: an activity-log transaction is [done](super::Event::DiskDone) before its data is written, data is
//! written before it is acknowledged, metadata is stable before a state that depends on it is told to anyone.

use super::event::HmacPurpose;
use super::session_state::SessionState;
use crate::config::OptionSet;
use crate::control::{Done, Notification};
use crate::ids::{
    DigestId, DiskIoId, HandlerId, NodeId, PayloadId, Sector, SocketId, Ticket, UpperTag, VolumeNumber,
};
use crate::refusal::Refusal;
use crate::wire::Frame;
use core::net::SocketAddr;

/// One thing to do.
#[derive(Debug)]
pub enum Command {
    /// Do that on the backing disk of a volume; answered by `DiskDone`.
    Disk(DiskIo),
    /// Do that on the metadata of a volume; answered by `DiskDone`.
    Meta(MetaIo),
    /// Send a packet; the shell keeps `payload` alive until it is sent.
    Send {
        /// Where.
        socket: SocketId,
        /// What.
        frame: Frame,
        /// Its bulk, or NONE.
        payload: PayloadId,
    },
    /// The front end's request is done. For a read, `payload` holds the bytes (the request's own buffer, or another
    /// one whose reference passes to the front end). With [`UpperResult::Split`] it is the request's own buffer.
    Complete {
        /// Of the request.
        tag: UpperTag,
        /// How it went.
        result: UpperResult,
        /// See above; else NONE.
        payload: PayloadId,
    },
    /// The engine's reference to a buffer is dropped.
    Release {
        /// Which buffer.
        payload: PayloadId,
    },
    /// From here on that socket speaks this protocol version (both directions).
    SetVersion {
        /// Which.
        socket: SocketId,
        /// Agreed version.
        version: u32,
    },
    /// From here on bulk in that direction of a socket is preceded by its digest (data-integrity-alg): what is sent from
    /// the next command on, what arrives behind the packet of the present event. What does not fit its digest ends the
    /// socket ([`SocketLoss::Malformed`](super::SocketLoss::Malformed)).
    SetIntegrity {
        /// Which.
        socket: SocketId,
        /// Which direction.
        direction: Direction,
        /// Digest name as configured; empty for none.
        algorithm: Box<str>,
    },
    /// Close a socket; no more events about it.
    Close {
        /// Which.
        socket: SocketId,
    },
    /// Connect to a peer; answered by `Dialled` or `DialFailed`. At most one at a time per peer.
    Dial {
        /// Which peer.
        peer: NodeId,
        /// Where.
        link: Box<LinkConfig>,
    },
    /// Give up dialling; no answer follows.
    CancelDial {
        /// Which peer.
        peer: NodeId,
    },
    /// Accept connections for a peer until `Unlisten`.
    Listen {
        /// Which peer.
        peer: NodeId,
        /// Where.
        link: Box<LinkConfig>,
    },
    /// Stop accepting.
    Unlisten {
        /// Which peer.
        peer: NodeId,
    },
    /// Bytes no one can predict, please; answered by `Challenge`.
    Challenge {
        /// For which peer.
        peer: NodeId,
    },
    /// HMAC of `message`; answered by `Hmac`.
    Hmac {
        /// For which peer.
        peer: NodeId,
        /// Echoed.
        purpose: HmacPurpose,
        /// Digest name as configured.
        algorithm: Box<str>,
        /// Shared secret.
        key: Box<str>,
        /// Message.
        message: Box<[u8]>,
    },
    /// Plain digest of the first `bytes` bytes of a buffer, which stays the engine's; answered by `Digest`.
    Digest {
        /// Echoed.
        job: DigestId,
        /// Digest name as configured.
        algorithm: Box<str>,
        /// The buffer.
        payload: PayloadId,
        /// How much of it.
        bytes: u32,
    },
    /// Run a handler; answered by `HandlerExited`.
    RunHandler {
        /// Echoed.
        handler: HandlerId,
        /// What and for whom.
        call: Box<HandlerCall>,
    },
    /// A device's size became known or changed, or whether it may be written.
    Device {
        /// Which volume.
        volume: VolumeNumber,
        /// Its size.
        size: Sector,
        /// This node is Primary.
        writable: bool,
    },
    /// The peer's administrator changed net options that both nodes must have alike: they are this node's from here on.
    SettingsAdopted {
        /// Which peer.
        peer: NodeId,
        /// Those options.
        options: Box<OptionSet>,
    },
    /// How large are the devices of this disk now? Answered by `DiskMeasured`.
    MeasureDisk {
        /// Which volume.
        volume: VolumeNumber,
    },
    /// The size a user asked for, on this node or the peer's: it belongs to the volume's settings from here on.
    SizeAdopted {
        /// Which volume.
        volume: VolumeNumber,
        /// That size; 0: as large as both disks allow.
        size: Sector,
    },
    /// The disk of a volume is let go: close it.
    CloseDisk {
        /// Which volume.
        volume: VolumeNumber,
    },
    /// The session is given away: what is sent is to be in the kernel's buffers before another daemon adopts it, and what
    /// is not yet read belongs to that one.
    HandedOver {
        /// The socket of the data stream.
        data: SocketId,
        /// The socket of the control stream.
        control: SocketId,
        /// Everything else.
        state: Box<SessionState>,
    },
    /// Answer to an administrator.
    Reply {
        /// Of the request.
        ticket: Ticket,
        /// What came of it.
        result: Result<Box<Done>, Box<Refusal>>,
    },
    /// To the subscribers of events2.
    Notify(Box<Notification>),
    /// To the log.
    Log(Box<LogRecord>),
}

/// A direction of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// What this node sends.
    Sending,
    /// What arrives.
    Receiving,
}

/// An operation on the backing disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskIo {
    /// Which volume.
    pub volume: VolumeNumber,
    /// Echoed.
    pub io: DiskIoId,
    /// What.
    pub op: DiskOp,
    /// First sector.
    pub sector: Sector,
    /// Length.
    pub bytes: u32,
    /// The bytes; the shell keeps them until the operation is done, for the engine may give it up before. A read with
    /// NONE: the shell takes a buffer of its own and hands it over with the completion.
    pub payload: PayloadId,
    /// Stable when done.
    pub fua: bool,
}

/// Operations on the backing disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Everything done before becomes stable.
    Flush,
    /// Discard; must read back as zeroes afterwards (the shell writes zeroes where the disk cannot promise that).
    Discard,
    /// Write zeroes; `unmap`: the space may be given back.
    WriteZeroes {
        /// The space may be given back.
        unmap: bool,
    },
}

/// An operation on metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetaIo {
    /// Which volume.
    pub volume: VolumeNumber,
    /// Echoed.
    pub io: DiskIoId,
    /// What to write.
    pub op: MetaOp,
    /// Where on the device that has the metadata; nothing is written there for a flush.
    pub offset_bytes: u64,
    /// Everything written to the metadata device before must be stable before, and this itself when done. False with
    /// `md-flushes no`.
    pub barrier: bool,
}

/// 4 KiB blocks of metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaOp {
    /// The super block.
    SuperBlock,
    /// A super block that says that nothing else of the metadata counts: everything is out of sync. While log and bitmap
    /// are written over the place where they were.
    InterimSuperBlock {
        /// Not yet a super block, should this be torn.
        sealed: bool,
    },
    /// The super block at a place where there was none, not yet valid.
    UnsealedSuperBlock,
    /// Zeroes over the super block that was left behind.
    OldSuperBlock,
    /// The pending activity-log transaction, to the n-th 4 KiB of the log area.
    LogTransaction {
        /// Which block.
        block: u32,
    },
    /// The n-th 4 KiB of the log area as an initialised one.
    LogInitialise {
        /// Which block.
        block: u32,
    },
    /// The n-th 4 KiB of the bitmap area as it lies on disk.
    BitmapBlock {
        /// Which block.
        block: u32,
    },
    /// Only the barrier.
    Flush,
}

/// How an upper request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpperResult {
    /// Carried out.
    Done,
    /// No good copy within reach, or all failed.
    IoError,
    /// This node is not Primary.
    NotPrimary,
    /// Beyond the end of the device.
    OutOfRange,
    /// Nothing was done: a peer came that cannot be sent this, or not in one piece. To be asked again in parts as
    /// [`request_limits`](super::Resource::request_limits) are now.
    Split,
}

/// Addresses and settings of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// Local address; dialling binds to its IP with any port.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// SO_SNDBUF in bytes, 0 = leave it.
    pub sndbuf_bytes: u32,
    /// SO_RCVBUF in bytes, 0 = leave it.
    pub rcvbuf_bytes: u32,
    /// Give up dialling after this.
    pub dial_timeout_ms: u64,
}

/// A handler and what its environment says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandlerCall {
    /// Name such as `split-brain`.
    pub name: &'static str,
    /// Of a connection event.
    pub peer: Option<NodeId>,
    /// Of a device event.
    pub volume: Option<VolumeNumber>,
    /// Mask of UpToDate nodes, for names with "fence".
    pub up_to_date_nodes: u32,
}

/// Severity of a log line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something is broken.
    Error,
    /// Something deserves attention.
    Warning,
    /// Something happened.
    Info,
    /// Details.
    Debug,
}

/// One log line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRecord {
    /// Stable code of the site, such as `state-change`; also what lines are rate-limited by.
    pub code: &'static str,
    /// Severity.
    pub level: Level,
    /// Who: resource, `r0/0 drbd1`, `r0 bravo`.
    pub subject: String,
    /// A sentence.
    pub text: String,
}
