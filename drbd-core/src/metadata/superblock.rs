//! The super block of v08 and v09 as checked bytes: big endian, 4096 bytes, magic at 60.
//!
//! Offsets of fields are those of the on-disk structures; both formats share the fields up to 88.

use super::layout::{Geometry, Layout};
use super::{
    device_flag, peer_flag, Format, MetadataError, PeerRecord, SuperBlock, BLOCK_BYTES, UUID_JUST_CREATED,
};

const MAGIC_V07: u32 = 0x8374_026A;
const MAGIC_V08: u32 = 0x8374_026B;
const MAGIC_V08_UNCLEAN: u32 = 0x8374_026C;
const MAGIC_V09: u32 = 0x8374_026D;
const MAGIC_AT: usize = 60;
const MAGIC_V07_AT: usize = 28;
const PEERS_AT: usize = 112;
const PEER_BYTES: usize = 32;
const HISTORY_AT: usize = 1136;

/// Device flags of v08 that v09 keeps per peer, each with its peer flag.
const V08_PEER_FLAGS: [(u32, u32); 3] =
    [(0x004, peer_flag::CONNECTED), (0x008, peer_flag::FULL_SYNC), (0x020, peer_flag::OUTDATED)];

type Block = [u8; BLOCK_BYTES];

/// Name of the format if these are the bytes of a super block older than v08.
pub fn older_format(block: &Block) -> Option<&'static str> {
    (u32_at(block, MAGIC_V07_AT) == MAGIC_V07).then_some("v07")
}

impl PeerRecord {
    /// Nothing known.
    pub const NONE: PeerRecord = PeerRecord { bitmap_uuid: 0, bitmap_dagtag: 0, flags: 0, bitmap_index: -1 };
}

impl SuperBlock {
    /// What create-md writes. The one bitmap slot of v08 belongs to `peers[0]`; v09 slots belong to nobody yet.
    pub fn fresh(format: Format, layout: &Layout, geometry: &Geometry) -> SuperBlock {
        let mut peers = Box::new([PeerRecord::NONE; 32]);
        if format == Format::V08 {
            peers[0].bitmap_index = 0;
        }
        SuperBlock {
            format,
            effective_size: 0,
            current_uuid: UUID_JUST_CREATED,
            members: 0,
            device_uuid: 0,
            flags: device_flag::AL_CLEAN,
            unclean_magic: false,
            md_size_sect: layout.md_size_sect,
            al_offset: layout.al_offset,
            al_nr_extents: 257,
            bm_offset: layout.bm_offset,
            bm_bytes_per_bit: geometry.bm_bytes_per_bit,
            la_peer_max_bio_size: 0,
            max_peers: geometry.max_peers,
            node_id: -1,
            al_stripes: geometry.al_stripes,
            al_stripe_size_4k: geometry.al_stripe_size_4k,
            peers,
            history: [0; 32],
        }
    }

    /// Whether the log must be applied before the disk may be attached.
    pub const fn is_unclean(&self) -> bool {
        self.unclean_magic || self.flags & device_flag::AL_CLEAN == 0
    }

    /// The device flags as the format stores them: v08 has those of its one peer among them.
    pub fn flags_on_disk(&self) -> u32 {
        let of_peer = |(device, peer): &(u32, u32)| if self.peers[0].flags & peer == 0 { 0 } else { *device };
        match self.format {
            Format::V08 => V08_PEER_FLAGS.iter().map(of_peer).fold(self.flags, |flags, flag| flags | flag),
            Format::V09 => self.flags,
        }
    }

    /// Takes the device flags as the format stores them.
    pub fn set_flags_on_disk(&mut self, flags: u32) {
        self.flags = flags;
        if self.format == Format::V08 {
            let known = V08_PEER_FLAGS.iter().fold(0, |known, (_, of_peer)| known | of_peer);
            self.peers[0].flags &= !known;
            for (device, of_peer) in V08_PEER_FLAGS {
                if flags & device != 0 {
                    self.peers[0].flags |= of_peer;
                    self.flags &= !device;
                }
            }
        }
    }

    /// Reads a super block. `None`: these are not the bytes of one.
    pub fn decode(block: &Block) -> Result<Option<SuperBlock>, MetadataError> {
        let (format, unclean_magic) = match u32_at(block, MAGIC_AT) {
            MAGIC_V08 => (Format::V08, false),
            MAGIC_V08_UNCLEAN => (Format::V08, true),
            MAGIC_V09 => (Format::V09, false),
            _ => return Ok(None),
        };
        let mut decoded = decode_shared(block, format, unclean_magic);
        match format {
            Format::V08 => decode_v08(block, &mut decoded),
            Format::V09 => decode_v09(block, &mut decoded),
        }
        // Creators that did not know of stripes left zeroes.
        if decoded.al_stripes == 0 && decoded.al_stripe_size_4k == 0 {
            decoded.al_stripes = 1;
            decoded.al_stripe_size_4k = 8;
        }
        decoded.check()?;
        Ok(Some(decoded))
    }

    /// Whether every field has a value that a driver would accept, devices aside.
    pub fn check(&self) -> Result<(), MetadataError> {
        Geometry::of(self).check(self.format)?;
        if !(-1..32).contains(&self.node_id) {
            return Err(bad("node-id", self.node_id, "-1 to 31"));
        }
        let mut taken = 0_u32;
        for peer in self.peers.iter().filter(|peer| peer.bitmap_index != -1) {
            let slot = u32::try_from(peer.bitmap_index).ok().filter(|slot| *slot < self.max_peers);
            let Some(slot) = slot else {
                return Err(bad("bitmap-index", peer.bitmap_index, "-1 or a slot below max-peers"));
            };
            if taken & 1 << slot != 0 {
                return Err(bad("bitmap-index", peer.bitmap_index, "a slot that no other peer has"));
            }
            taken |= 1 << slot;
        }
        Ok(())
    }

    /// Writes all 4096 bytes.
    pub fn encode(&self, block: &mut Block) {
        block.fill(0);
        put_u64(block, 0, self.effective_size);
        put_u64(block, 8, self.current_uuid);
        put_u32(block, 64, self.md_size_sect);
        put_i32(block, 68, self.al_offset);
        put_u32(block, 72, self.al_nr_extents);
        put_i32(block, 76, self.bm_offset);
        put_u32(block, 80, self.bm_bytes_per_bit);
        put_u32(block, 84, self.la_peer_max_bio_size);
        match self.format {
            Format::V08 => self.encode_v08(block),
            Format::V09 => self.encode_v09(block),
        }
    }

    /// The same without what makes it a super block, which is in the first sector. Written first where there was none, so
    /// that a torn write of the whole cannot leave the rest of a block that lay there before.
    pub fn encode_unsealed(&self, block: &mut Block) {
        self.encode(block);
        put_u32(block, MAGIC_AT, 0);
    }

    fn encode_v08(&self, block: &mut Block) {
        put_u64(block, 16, self.peers[0].bitmap_uuid);
        put_u64(block, 24, self.history[0]);
        put_u64(block, 32, self.history[1]);
        put_u64(block, 40, self.device_uuid);
        put_u32(block, 56, self.flags_on_disk());
        put_u32(block, MAGIC_AT, if self.unclean_magic { MAGIC_V08_UNCLEAN } else { MAGIC_V08 });
        put_u32(block, 88, self.al_stripes);
        put_u32(block, 92, self.al_stripe_size_4k);
    }

    fn encode_v09(&self, block: &mut Block) {
        put_u64(block, 16, self.members);
        put_u64(block, 48, self.device_uuid);
        put_u32(block, 56, self.flags);
        put_u32(block, MAGIC_AT, MAGIC_V09);
        put_u32(block, 88, self.max_peers);
        put_i32(block, 92, self.node_id);
        put_u32(block, 96, self.al_stripes);
        put_u32(block, 100, self.al_stripe_size_4k);
        for (n, peer) in self.peers.iter().enumerate() {
            let at = PEERS_AT + n * PEER_BYTES;
            put_u64(block, at, peer.bitmap_uuid);
            put_u64(block, at + 8, peer.bitmap_dagtag);
            put_u32(block, at + 16, peer.flags);
            put_i32(block, at + 20, peer.bitmap_index);
        }
        for (n, uuid) in self.history.iter().enumerate() {
            put_u64(block, HISTORY_AT + n * 8, *uuid);
        }
    }
}

fn decode_shared(block: &Block, format: Format, unclean_magic: bool) -> SuperBlock {
    SuperBlock {
        format,
        effective_size: u64_at(block, 0),
        current_uuid: u64_at(block, 8),
        members: 0,
        device_uuid: 0,
        flags: u32_at(block, 56),
        unclean_magic,
        md_size_sect: u32_at(block, 64),
        al_offset: i32_at(block, 68),
        al_nr_extents: u32_at(block, 72),
        bm_offset: i32_at(block, 76),
        bm_bytes_per_bit: u32_at(block, 80),
        la_peer_max_bio_size: u32_at(block, 84),
        max_peers: 1,
        node_id: -1,
        al_stripes: 0,
        al_stripe_size_4k: 0,
        peers: Box::new([PeerRecord::NONE; 32]),
        history: [0; 32],
    }
}

fn decode_v08(block: &Block, decoded: &mut SuperBlock) {
    decoded.device_uuid = u64_at(block, 40);
    decoded.al_stripes = u32_at(block, 88);
    decoded.al_stripe_size_4k = u32_at(block, 92);
    decoded.history[0] = u64_at(block, 24);
    decoded.history[1] = u64_at(block, 32);
    let peer = &mut decoded.peers[0];
    peer.bitmap_index = 0;
    peer.bitmap_uuid = u64_at(block, 16);
    decoded.set_flags_on_disk(decoded.flags);
}

fn decode_v09(block: &Block, decoded: &mut SuperBlock) {
    decoded.members = u64_at(block, 16);
    decoded.device_uuid = u64_at(block, 48);
    decoded.max_peers = u32_at(block, 88);
    decoded.node_id = i32_at(block, 92);
    decoded.al_stripes = u32_at(block, 96);
    decoded.al_stripe_size_4k = u32_at(block, 100);
    for (n, peer) in decoded.peers.iter_mut().enumerate() {
        let at = PEERS_AT + n * PEER_BYTES;
        *peer = PeerRecord {
            bitmap_uuid: u64_at(block, at),
            bitmap_dagtag: u64_at(block, at + 8),
            flags: u32_at(block, at + 16),
            bitmap_index: i32_at(block, at + 20),
        };
    }
    for (n, uuid) in decoded.history.iter_mut().enumerate() {
        *uuid = u64_at(block, HISTORY_AT + n * 8);
    }
}

fn bad(field: &'static str, got: i32, expected: &'static str) -> MetadataError {
    MetadataError::BadField { field, got: got.into(), expected }
}

fn bytes_at<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

fn u32_at(block: &Block, at: usize) -> u32 {
    u32::from_be_bytes(bytes_at(block, at))
}

fn i32_at(block: &Block, at: usize) -> i32 {
    i32::from_be_bytes(bytes_at(block, at))
}

fn u64_at(block: &Block, at: usize) -> u64 {
    u64::from_be_bytes(bytes_at(block, at))
}

fn put_u32(block: &mut Block, at: usize, value: u32) {
    block[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put_i32(block: &mut Block, at: usize, value: i32) {
    block[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put_u64(block: &mut Block, at: usize, value: u64) {
    block[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
