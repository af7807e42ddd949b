//! Bytes of DRBD's metadata on disk, v08 and v09, and their meaning.
//!
//! Super block and activity log are big endian, the bitmap is little endian. Layouts: metadata reference, checked
//! against drbdmeta 9.22 and 9.34.

mod bitmap_area;
mod error;
mod layout;
mod load;
mod log_before_84;
mod log_replay;
mod log_transaction;
mod relayout;
mod superblock;

use crate::ids::Sector;

pub use bitmap_area::BitmapArea;
pub use error::MetadataError;
pub use layout::{Geometry, Index, Layout, Place};
pub use load::{apply_log, load, AppliedLog};
pub use log_before_84::{is_log_before_84, replay_before_84};
pub use log_replay::{replay, LogReplay, LogState};
pub use log_transaction::{encode_initialised, ring_block, LogTransaction, TransactionKind};
pub use relayout::Relayout;
pub use superblock::older_format;

/// Super block, log transactions and the unit of bitmap writes: everything on disk comes in blocks of this size.
pub const BLOCK_BYTES: usize = 4096;

/// Which on-disk format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// DRBD 8.0 to 8.4.
    V08,
    /// DRBD 9.
    V09,
}

/// Meaning of a super block of either format: the v09 shape, into which v08 fits with one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SuperBlock {
    /// Format it was read from and is written as.
    pub format: Format,
    /// Last agreed device size in sectors.
    pub effective_size: u64,
    /// Current generation.
    pub current_uuid: u64,
    /// Mask of node ids (v09).
    pub members: u64,
    /// Identifies the backing disk.
    pub device_uuid: u64,
    /// Bits of [`device_flag`].
    pub flags: u32,
    /// v08 only: the magic says that the log may need replay. v09 says it by the missing AL_CLEAN alone.
    pub unclean_magic: bool,
    /// Size of the whole area in sectors.
    pub md_size_sect: u32,
    /// Start of the log in sectors from the super block.
    pub al_offset: i32,
    /// Informational.
    pub al_nr_extents: u32,
    /// Start of the bitmap in sectors from the super block.
    pub bm_offset: i32,
    /// Bytes of device per bit.
    pub bm_bytes_per_bit: u32,
    /// Largest request of the peer, last known.
    pub la_peer_max_bio_size: u32,
    /// Bitmap slots (1 for v08).
    pub max_peers: u32,
    /// Own node id, -1 = not set.
    pub node_id: i32,
    /// Stripes of the log.
    pub al_stripes: u32,
    /// 4 KiB blocks per stripe.
    pub al_stripe_size_4k: u32,
    /// By node id. v08 uses `peers[0]` for its one peer, whatever its node id.
    pub peers: Box<[PeerRecord; 32]>,
    /// Youngest first. v08 keeps two.
    pub history: [u64; 32],
}

/// What a super block knows of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerRecord {
    /// Generation its bitmap counts from.
    pub bitmap_uuid: u64,
    /// Position in the write stream.
    pub bitmap_dagtag: u64,
    /// Bits of [`peer_flag`].
    pub flags: u32,
    /// Bitmap slot, -1 = none.
    pub bitmap_index: i32,
}

/// Device flags of the super block. FULL_SYNC, CONNECTED_IND and PEER_OUT_DATED of v08 appear as peer flags.
pub mod device_flag {
    /// The data is consistent.
    pub const CONSISTENT: u32 = 0x001;
    /// Was Primary (or its data was written on behalf of one).
    pub const PRIMARY_IND: u32 = 0x002;
    /// Was UpToDate.
    pub const WAS_UP_TO_DATE: u32 = 0x010;
    /// Was Primary when it crashed and has not met its peer since.
    pub const CRASHED_PRIMARY: u32 = 0x040;
    /// The log was applied; the disk may be attached.
    pub const AL_CLEAN: u32 = 0x080;
    /// `al-updates no`.
    pub const AL_DISABLED: u32 = 0x100;
    /// Was Primary when it lost quorum.
    pub const PRIMARY_LOST_QUORUM: u32 = 0x200;
    /// Has quorum.
    pub const HAVE_QUORUM: u32 = 0x400;
}

/// Peer flags of the super block.
pub mod peer_flag {
    /// Was connected.
    pub const CONNECTED: u32 = 1;
    /// Its disk is Outdated or worse.
    pub const OUTDATED: u32 = 2;
    /// A fencing policy is in force.
    pub const FENCING: u32 = 4;
    /// All bits are to be set.
    pub const FULL_SYNC: u32 = 8;
    /// Seen at least once with a disk.
    pub const DEVICE_SEEN: u32 = 16;
    /// Exists.
    pub const NODE_EXISTS: u32 = 0x1_0000;
}

/// UUID of freshly made metadata.
pub const UUID_JUST_CREATED: u64 = 4;

/// Everything an attach needs, as read from disk.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The super block.
    pub super_block: SuperBlock,
    /// Out-of-sync bits by bitmap slot: 64-bit words, bit k of word w = block 64*w+k. Bits beyond the device are clear.
    pub bitmaps: Vec<Vec<u64>>,
    /// 4 MiB extents the log names as possibly written (empty if the log is clean); sorted, no repeats.
    pub hot_extents: Vec<u32>,
    /// The log could not be read back although it may be needed.
    pub log_unreadable: bool,
    /// Where initialising the log has to begin: [`LogReplay::initialise_from`]. Zero if the log is clean.
    pub log_initialise_from: u32,
    /// Capacity for data in sectors.
    pub capacity: Sector,
}
