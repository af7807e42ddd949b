//! Everything that can happen to a resource, as values.

use super::session_state::SessionState;
use crate::config::{DeviceOptions, DiskOptions, NetOptions, PeerDeviceOptions, ResourceOptions};
use crate::ids::{
    DigestId, DiskIoId, HandlerId, Minor, NodeId, PayloadId, Sector, SocketId, Ticket, UpperTag, VolumeNumber,
};
use crate::metadata::{Index, Loaded, Place};
use crate::wire::Frame;
use core::net::SocketAddr;

/// One thing that happened. The shell delivers events one at a time, in the order in which they happened.
#[derive(Debug)]
pub enum Event {
    /// A front end asks for something.
    Upper(UpperRequest),
    /// A front end session began on a volume.
    Opened {
        /// The volume.
        volume: VolumeNumber,
    },
    /// A front end session ended; none of its requests is outstanding.
    Closed {
        /// The volume.
        volume: VolumeNumber,
    },
    /// A [`Command::Disk`](super::Command::Disk) or [`Command::Meta`](super::Command::Meta) was carried out. For a read that carried no payload, `payload`
    /// is a buffer with the bytes, one reference of it the engine's.
    DiskDone {
        /// Of the command.
        io: DiskIoId,
        /// How it went.
        result: IoResult,
        /// See above; else NONE.
        payload: PayloadId,
    },
    /// A packet arrived, its bulk (if any) completely and in `payload`, one reference of which is the engine's.
    Packet {
        /// Where.
        socket: SocketId,
        /// What.
        frame: Frame,
        /// Its bulk, or NONE.
        payload: PayloadId,
    },
    /// All packets up to the `packets`-th sent on that socket (counted from 1) are in the kernel's buffer.
    Sent {
        /// Where.
        socket: SocketId,
        /// How many in all.
        packets: u64,
    },
    /// [`Command::Dial`](super::Command::Dial) succeeded.
    Dialled {
        /// Which peer.
        peer: NodeId,
        /// The new socket.
        socket: SocketId,
    },
    /// [`Command::Dial`](super::Command::Dial) failed (refused, unreachable, timed out); `why` is a sentence.
    DialFailed {
        /// Which peer.
        peer: NodeId,
        /// Whether trying again can help (false: no such local address, not permitted).
        retry: bool,
        /// For the log.
        why: Box<str>,
    },
    /// [`Command::Listen`](super::Command::Listen) failed: address in use or not ours. The engine decides whether to try again.
    ListenFailed {
        /// Which peer.
        peer: NodeId,
        /// For the log.
        why: Box<str>,
    },
    /// A connection came in on the listener of that peer.
    Accepted {
        /// Which peer.
        peer: NodeId,
        /// The new socket.
        socket: SocketId,
    },
    /// A socket ended or was given up by the shell (end of stream, reset, bytes that make no sense). Not sent after
    /// [`Command::Close`](super::Command::Close).
    SocketLost {
        /// Which.
        socket: SocketId,
        /// How.
        why: SocketLoss,
    },
    /// Answer to [`Command::Challenge`](super::Command::Challenge).
    Challenge {
        /// Which peer.
        peer: NodeId,
        /// Unpredictable bytes.
        bytes: Box<[u8; 64]>,
    },
    /// Answer to [`Command::Hmac`](super::Command::Hmac); `None` if the algorithm is not known here.
    Hmac {
        /// Which peer.
        peer: NodeId,
        /// Of the command.
        purpose: HmacPurpose,
        /// The digest.
        digest: Option<Box<[u8]>>,
    },
    /// Answer to [`Command::Digest`](super::Command::Digest); `None` if the algorithm is not known here.
    Digest {
        /// Of the command.
        job: DigestId,
        /// The digest.
        digest: Option<Box<[u8]>>,
    },
    /// A handler ended; `status` is its exit code (a negative number if it could not be run).
    HandlerExited {
        /// Which.
        handler: HandlerId,
        /// Exit code.
        status: i32,
    },
    /// An administrator asks for something.
    Admin {
        /// Echoed by the reply.
        ticket: Ticket,
        /// What.
        request: Box<AdminRequest>,
    },
    /// Answer to [`Command::MeasureDisk`](super::Command::MeasureDisk); `None` if it could not be found out.
    DiskMeasured {
        /// Which volume.
        volume: VolumeNumber,
        /// What was found.
        bytes: Option<DeviceBytes>,
    },
    /// A volume of another resource on this host copies, compares or is held, or does so no longer.
    ForeignResync {
        /// Its minor.
        minor: Minor,
        /// Whether it is.
        busy: bool,
    },
    /// The deadline of [`Resource::next_deadline`](super::Resource::next_deadline) is reached.
    Timer,
}

/// Sizes of the devices a volume's disk is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceBytes {
    /// The backing disk.
    pub data: u64,
    /// What the metadata is on; with internal metadata the same.
    pub metadata: u64,
}

/// How a disk operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoResult {
    /// Carried out.
    Done,
    /// Failed, with the system's error number.
    Failed(i32),
}

/// How a socket ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SocketLoss {
    /// The peer closed it.
    EndOfStream,
    /// The network failed; a sentence.
    Failed(Box<str>),
    /// Bytes that make no sense; a sentence.
    Malformed(Box<str>),
}

/// What a digest is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HmacPurpose {
    /// My answer to the peer's challenge.
    Response,
    /// What the peer must answer to mine.
    Expected,
}

/// What a front end can ask. One reference of `payload` is the engine's: for a write the bytes to write, for a read
/// the buffer to fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpperRequest {
    /// Chosen by the front end, echoed by the completion.
    pub tag: UpperTag,
    /// Which volume.
    pub volume: VolumeNumber,
    /// What.
    pub op: UpperOp,
    /// First sector.
    pub sector: Sector,
    /// Length, at most `REQUEST_BYTES_MAX` (data) or `DISCARD_BYTES_MAX`; 0 for a flush.
    pub bytes: u32,
    /// See above; NONE for flush, discard and zeroes.
    pub payload: PayloadId,
    /// Completes only when stable.
    pub fua: bool,
}

/// Operations of a front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpperOp {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Everything completed before becomes stable.
    Flush,
    /// The content is no longer needed.
    Discard,
    /// Write zeroes; `unmap`: the space may be given back.
    WriteZeroes {
        /// The space may be given back.
        unmap: bool,
    },
}

/// What an administrator can ask of the engine; the shell has opened what is to be opened.
#[derive(Debug)]
#[allow(missing_docs)] // arguments are those of the drbdsetup command of the same name
pub enum AdminRequest {
    NewMinor {
        minor: Minor,
        volume: VolumeNumber,
        options: DeviceOptions,
    },
    DelMinor {
        volume: VolumeNumber,
    },
    NewPeer {
        peer: NodeId,
        options: NetOptions,
    },
    DelPeer {
        peer: NodeId,
        force: bool,
    },
    NewPath {
        peer: NodeId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    DelPath {
        peer: NodeId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    Attach(AttachRequest),
    Detach {
        volume: VolumeNumber,
        force: bool,
        diskless: bool,
    },
    Connect {
        peer: NodeId,
        tentative: bool,
        discard_my_data: bool,
    },
    Disconnect {
        peer: NodeId,
        force: bool,
    },
    Primary {
        force: bool,
    },
    Secondary {
        force: bool,
    },
    /// A daemon that begins again where one died as Primary: Primary again, before requests of users go on that wait since
    /// then. Answered when that is decided (decision 0036).
    ResumePrimary,
    ResourceOptions(ResourceOptions),
    NetOptions {
        peer: NodeId,
        options: NetOptions,
    },
    DiskOptions {
        volume: VolumeNumber,
        options: DiskOptions,
    },
    PeerDeviceOptions {
        peer: NodeId,
        volume: VolumeNumber,
        options: PeerDeviceOptions,
    },
    Invalidate {
        volume: VolumeNumber,
        reset_bitmap: bool,
    },
    InvalidateRemote {
        peer: NodeId,
        volume: VolumeNumber,
        reset_bitmap: bool,
    },
    PauseSync {
        peer: NodeId,
        volume: VolumeNumber,
    },
    ResumeSync {
        peer: NodeId,
        volume: VolumeNumber,
    },
    Outdate {
        volume: VolumeNumber,
    },
    NewCurrentUuid {
        volume: VolumeNumber,
        clear_bitmap: bool,
    },
    /// In sectors. Without `start`: where the last one stopped. Without `stop`, or with 0: to the end.
    Verify {
        peer: NodeId,
        volume: VolumeNumber,
        start: Option<u64>,
        stop: Option<u64>,
    },
    /// Sizes in sectors; 0: as large as both disks allow.
    Resize {
        volume: VolumeNumber,
        size: u64,
        assume_peer_has_space: bool,
        assume_clean: bool,
    },
    SuspendIo {
        volume: VolumeNumber,
    },
    ResumeIo {
        volume: VolumeNumber,
    },
    Down,
    /// The session is to go on in another daemon: once it is at rest it is given away ([`Command::HandedOver`](super::Command::HandedOver)), and after
    /// that the engine neither says nor hears anything. From asking on the shell reads no more of the data stream, while
    /// it still reads the other one. Refused if there is no session (NeedConnection), if something is under way that
    /// takes its time, and if what is under way does not come to its end in time (Timeout).
    HandOver {
        within_ms: u64,
    },
    /// The other daemon could not be started. The shell goes on reading both streams.
    TakeBack,
    /// Instead of `connect`: goes on with a session that another daemon handed over, on its sockets. If it is refused the
    /// sockets are still the shell's.
    AdoptSession {
        peer: NodeId,
        data: SocketId,
        control: SocketId,
        state: Box<SessionState>,
    },
}

/// An opened backing disk.
#[derive(Debug)]
pub struct AttachRequest {
    /// Which volume.
    pub volume: VolumeNumber,
    /// Name shown in status.
    pub backing_dev: String,
    /// What the backing disk can do.
    pub disk: DiskLimits,
    /// Metadata as read.
    pub metadata: Box<Loaded>,
    /// Which of the three places it is in.
    pub index: Index,
    /// Where its parts are.
    pub place: Place,
    /// Disk options.
    pub options: DiskOptions,
    /// A restarted daemon attaches what its predecessor had attached: an unclean log is replayed instead of refused.
    pub recovery: bool,
}

/// Facts about an opened backing disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskLimits {
    /// Usable capacity in sectors, without internal metadata.
    pub capacity: Sector,
    /// Largest request in bytes.
    pub max_bio_bytes: u32,
    /// Bytes.
    pub logical_block_size: u32,
    /// Bytes.
    pub physical_block_size: u32,
    /// Discards work and read back as zeroes.
    pub discard_zeroes: bool,
    /// What discards had better be multiples of, in bytes; 0: not known, or they give no space back.
    pub discard_granularity: u32,
    /// Metadata lives on another device, with a volatile cache of its own.
    pub external_metadata: bool,
}
