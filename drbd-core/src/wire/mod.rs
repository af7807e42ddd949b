//! Bytes of the DRBD protocol, dialect 8.4 (versions 86..=101).
//!
//! Two views of every packet: bytes, checked by [`Framer`] as they arrive in any pieces, and meaning, the
//! [`Packet`] enum. A packet of bulk data ([`Packet::bulk_bytes`]) is delivered when its fixed part has arrived; the
//! bulk itself stays with the shell, which reads it into a buffer of its own.
//!
//! [`header`] has the table of commands, [`encode()`] and the private decoder the fixed parts, [`bitmap_code`] the code of
//! bitmaps, [`state_word`] the states of a volume in 32 bits, [`handshake`] what two nodes must agree on.
//!
//! Numbers and layouts: `drbd_protocol.h` of DRBD 8.4 (facts only). All integers are big endian on the wire;
//! `block_id` and barrier numbers are opaque cookies, echoed as they came.

pub mod bitmap_code;
mod decode;
pub mod encode;
pub mod frame;
pub mod handshake;
pub mod header;
mod malformed;
pub mod state_word;

pub use encode::{encode, encode_with_integrity};
pub use frame::{Fed, Framer};
pub use malformed::Malformed;

use crate::ids::{Sector, VolumeNumber};
use serde::{Deserialize, Serialize};

/// One packet with the volume its header names (0 for packets of the whole connection).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Volume of the header; meaningless for connection-wide packets.
    pub volume: VolumeNumber,
    /// The packet.
    pub packet: Packet,
}

/// All ones: the block id of resync traffic (ID_SYNCER).
pub const BLOCK_ID_RESYNC: u64 = u64::MAX;

/// Features of P_CONNECTION_FEATURES.
pub mod feature {
    /// P_TRIM is understood.
    pub const TRIM: u32 = 1;
    /// P_RS_THIN_REQ is understood.
    pub const THIN_RESYNC: u32 = 2;
    /// Long P_SIZES, discards up to 128 MiB, compare rule 41 (WRITE_SAME itself is never used).
    pub const LONG_SIZES: u32 = 4;
    /// P_ZEROES is understood.
    pub const ZEROES: u32 = 8;
}

/// Flags of P_DATA, P_TRIM and P_ZEROES (3.3 of the wire reference).
pub mod data_flag {
    /// A hint that someone waits.
    pub const SYNC: u32 = 2;
    /// The receiver may clear its out-of-sync bits and answers RsWriteAck.
    pub const MAY_SET_IN_SYNC: u32 = 4;
    /// A hint that nothing follows at once.
    pub const UNPLUG: u32 = 8;
    /// Write through.
    pub const FUA: u32 = 16;
    /// Flush before.
    pub const FLUSH: u32 = 32;
    /// Discard, or zeroes that may unmap.
    pub const DISCARD: u32 = 64;
    /// Protocol B: answer RecvAck.
    pub const SEND_RECEIVE_ACK: u32 = 128;
    /// Protocol C or resync: answer WriteAck.
    pub const SEND_WRITE_ACK: u32 = 256;
    /// Zeroes.
    pub const ZEROES: u32 = 1024;
}

/// Flags of P_UUIDS.
pub mod uuid_flag {
    /// Configured with --discard-my-data.
    pub const DISCARD_MY_DATA: u64 = 1;
    /// Was Primary when it crashed.
    pub const CRASHED_PRIMARY: u64 = 2;
    /// The disk being attached is Inconsistent.
    pub const INCONSISTENT: u64 = 4;
    /// Skip the initial sync.
    pub const SKIP_INITIAL_SYNC: u64 = 8;
}

/// Flags of P_SIZES (dds_flags).
pub mod size_flag {
    /// `resize --assume-peer-has-space`.
    pub const FORCED: u16 = 1;
    /// `resize --assume-clean`: the new part is not to be copied.
    pub const NO_RESYNC: u16 = 2;
}

/// P_CONNECTION_FEATURES.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Lowest protocol version spoken.
    pub protocol_min: u32,
    /// Bits of [`feature`].
    pub flags: u32,
    /// Highest protocol version spoken; 0 means the same as the lowest.
    pub protocol_max: u32,
}

/// P_PROTOCOL and P_PROTOCOL_UPDATE: the settings that must agree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// 1 = A, 2 = B, 3 = C.
    pub protocol: u32,
    /// after-sb-0pri by number (3.6 of the wire reference).
    pub after_sb_0p: u32,
    /// after-sb-1pri.
    pub after_sb_1p: u32,
    /// after-sb-2pri.
    pub after_sb_2p: u32,
    /// `connect --discard-my-data`.
    pub discard_my_data: bool,
    /// `connect --tentative`.
    pub tentative: bool,
    /// allow-two-primaries.
    pub two_primaries: bool,
    /// data-integrity-alg, empty for none.
    pub integrity_alg: String,
}

/// P_SYNC_PARAM and P_SYNC_PARAM89; fields that a version does not carry have their defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncParam {
    /// KiB/s.
    pub resync_rate: u32,
    /// Digest name, empty for none.
    pub verify_alg: String,
    /// Digest name, empty for none.
    pub csums_alg: String,
    /// 0.1 s.
    pub c_plan_ahead: u32,
    /// 0.1 s.
    pub c_delay_target: u32,
    /// Sectors.
    pub c_fill_target: u32,
    /// KiB/s.
    pub c_max_rate: u32,
}

impl Default for SyncParam {
    fn default() -> SyncParam {
        SyncParam {
            resync_rate: 250,
            verify_alg: String::new(),
            csums_alg: String::new(),
            c_plan_ahead: 20,
            c_delay_target: 10,
            c_fill_target: 100,
            c_max_rate: 102_400,
        }
    }
}

/// Queue limits in the long form of P_SIZES (feature LONG_SIZES).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QueueLimits {
    /// Bytes.
    pub physical_block_size: u32,
    /// Bytes.
    pub logical_block_size: u32,
    /// Bytes.
    pub alignment_offset: u32,
    /// Bytes.
    pub io_min: u32,
    /// Bytes.
    pub io_opt: u32,
    /// Discards are served.
    pub discard_enabled: bool,
    /// Discarded blocks read as zero.
    pub discard_zeroes_data: bool,
    /// Always false from us.
    pub write_same_capable: bool,
}

/// P_SIZES.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sizes {
    /// Usable capacity of the backing disk in sectors, 0 if diskless.
    pub disk: u64,
    /// Size asked for by the user in sectors, 0 = none.
    pub user: u64,
    /// Size of the device in sectors.
    pub current: u64,
    /// Largest request of the backing disk in bytes.
    pub max_bio_size: u32,
    /// dds_flags: 1 forced, 2 no resync.
    pub flags: u16,
    /// Long form.
    pub limits: Option<QueueLimits>,
}

/// P_UUIDS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Uuids {
    /// Current generation.
    pub current: u64,
    /// Generation the bitmap counts from.
    pub bitmap: u64,
    /// Younger and older history.
    pub history: [u64; 2],
    /// Set bits at the moment of sending.
    pub bits: u64,
    /// Bits of [`uuid_flag`].
    pub flags: u64,
}

/// Fixed part of P_DATA, P_DATA_REPLY and P_RS_DATA_REPLY; the bulk follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data {
    /// First sector.
    pub sector: Sector,
    /// Cookie.
    pub block_id: u64,
    /// Packet sequence number; 0 in replies.
    pub seq: u32,
    /// Bits of [`data_flag`].
    pub flags: u32,
    /// Bytes of bulk.
    pub bytes: u32,
}

/// P_TRIM and P_ZEROES.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trim {
    /// First sector.
    pub sector: Sector,
    /// Cookie.
    pub block_id: u64,
    /// Packet sequence number.
    pub seq: u32,
    /// Bits of [`data_flag`].
    pub flags: u32,
    /// Bytes covered.
    pub bytes: u32,
}

/// A block asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRequest {
    /// First sector.
    pub sector: Sector,
    /// Cookie.
    pub block_id: u64,
    /// Bytes asked for.
    pub bytes: u32,
}

/// A block answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockAck {
    /// First sector.
    pub sector: Sector,
    /// Cookie.
    pub block_id: u64,
    /// Bytes.
    pub bytes: u32,
    /// Packet sequence number.
    pub seq: u32,
}

/// A stretch of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First sector.
    pub sector: Sector,
    /// Bytes.
    pub bytes: u32,
}

/// A block asked for, with the digest of what the asker has (checksum resync, verify).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DigestRequest {
    /// The block.
    pub block: BlockRequest,
    /// Digest of its content.
    pub digest: Box<[u8]>,
}

/// One P_COMPRESSED_BITMAP: run lengths of alternating bits, see [`bitmap_code`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompressedBitmap {
    /// Whether the first run is of set bits.
    pub first_run_set: bool,
    /// Unused bits at the end of the last byte, 0..=7.
    pub pad_bits: u8,
    /// The code.
    pub code: Box<[u8]>,
}

/// A packet. Rare large ones are boxed so that the frequent ones stay small (`size_of::<Packet>() <= 40`).
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // names as in drbd_protocol.h, table 3.1 of the wire reference
pub enum Packet {
    InitialData,
    InitialMeta,
    Features(Features),
    AuthChallenge(Box<[u8]>),
    AuthResponse(Box<[u8]>),
    Protocol(Box<Settings>),
    ProtocolUpdate(Box<Settings>),
    SyncParam(Box<SyncParam>),
    Sizes(Box<Sizes>),
    Uuids(Box<Uuids>),
    State(u32),
    SyncUuid(u64),
    StateChangeRequest {
        mask: u32,
        val: u32,
    },
    ConnStateChangeRequest {
        mask: u32,
        val: u32,
    },
    StateChangeReply(i32),
    ConnStateChangeReply(i32),
    Data(Data),
    DataReply(Data),
    RsDataReply(Data),
    Trim(Trim),
    Zeroes(Trim),
    Barrier(u32),
    BarrierAck {
        barrier: u32,
        set_size: u32,
    },
    UnplugRemote,
    DataRequest(BlockRequest),
    RsDataRequest(BlockRequest),
    RsThinRequest(BlockRequest),
    CsumRsRequest(Box<DigestRequest>),
    OvRequest(BlockRequest),
    OvReply(Box<DigestRequest>),
    RsDeallocated(Extent),
    OutOfSync(Extent),
    RecvAck(BlockAck),
    WriteAck(BlockAck),
    RsWriteAck(BlockAck),
    Superseded(BlockAck),
    RetryWrite(BlockAck),
    NegAck(BlockAck),
    NegDreply(BlockAck),
    NegRsDreply(BlockAck),
    RsIsInSync(BlockAck),
    RsCancel(BlockAck),
    OvResult(BlockAck),
    Ping,
    PingAck,
    /// Raw little-endian bytes; empty terminates a plain transfer.
    Bitmap(Box<[u8]>),
    CompressedBitmap(Box<CompressedBitmap>),
    /// DELAY_PROBE, ENABLE_REPLICATION(_NEXT): accepted and skipped.
    Ignored,
}

const _: () = assert!(size_of::<Packet>() <= 40);

impl Packet {
    /// Bytes of bulk data that follow the fixed part on the stream.
    pub const fn bulk_bytes(&self) -> u32 {
        match self {
            Packet::Data(d) | Packet::DataReply(d) | Packet::RsDataReply(d) => d.bytes,
            _ => 0,
        }
    }
}

/// Which of the two streams of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stream {
    /// "sock": bulk, requests, most of control.
    Data,
    /// "msock": acks, pings, replies to state change requests.
    Control,
}
