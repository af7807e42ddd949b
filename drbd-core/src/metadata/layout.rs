//! Where super block, activity log and bitmap live, and how much of a device is left for data.
//!
//! Internal metadata lies at the end of the backing disk as `data | bitmap | log | super block`, external metadata on
//! a device of its own as `super block | log | bitmap`: the whole device (flexible) or one of its 128 MiB slots.

use super::{Format, MetadataError, SuperBlock, BLOCK_BYTES};
use crate::ids::Sector;
use crate::limits::DEVICE_SECTORS_MAX;
use std::fmt;
use std::str::FromStr;

const BLOCK: u64 = BLOCK_BYTES as u64;
const BLOCK_SECTORS: u64 = BLOCK / Sector::BYTES;
/// Size of one indexed slot.
const SLOT_BYTES: u64 = 128 << 20;
/// DRBD reads this much to look for foreign data, so nothing smaller is ever metadata.
const DEVICE_BYTES_MIN: u64 = 68 << 10;
/// Blocks in a log, least and most.
const LOG_BLOCKS: std::ops::RangeInclusive<u64> = 8..=(4 << 20);
/// Largest bitmap of one slot.
const SLOT_BITMAP_BYTES_MAX: u64 = 1 << 35;

/// Which of the three places the metadata is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Index {
    /// At the end of the backing disk.
    Internal,
    /// A whole device of its own.
    FlexExternal,
    /// One 128 MiB slot of a device of its own.
    Indexed(u8),
}

impl FromStr for Index {
    type Err = MetadataError;

    fn from_str(word: &str) -> Result<Index, MetadataError> {
        match word {
            "internal" | "flex-internal" => Ok(Index::Internal),
            "flexible" | "flex-external" => Ok(Index::FlexExternal),
            _ => word.parse().map(Index::Indexed).map_err(|_| MetadataError::BadIndex { word: word.into() }),
        }
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Index::Internal => f.write_str("internal"),
            Index::FlexExternal => f.write_str("flex-external"),
            Index::Indexed(slot) => write!(f, "{slot}"),
        }
    }
}

impl Index {
    /// Whether data and metadata share a device.
    pub const fn is_internal(self) -> bool {
        matches!(self, Index::Internal)
    }

    /// Byte offset of the super block on a metadata device (internal: the backing disk) of that size.
    pub fn super_block_offset_bytes(self, device_bytes: u64) -> Result<u64, MetadataError> {
        if device_bytes < DEVICE_BYTES_MIN {
            return Err(MetadataError::TooSmall { device_bytes, needed_bytes: DEVICE_BYTES_MIN });
        }
        let offset_bytes = match self {
            Index::Internal => (device_bytes - BLOCK) / BLOCK * BLOCK,
            Index::FlexExternal => 0,
            Index::Indexed(slot) => u64::from(slot) * SLOT_BYTES,
        };
        if offset_bytes > device_bytes - BLOCK {
            return Err(MetadataError::IndexBeyondEnd { offset_bytes, device_bytes });
        }
        Ok(offset_bytes)
    }
}

/// What the size of the area depends on besides the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bitmap slots; 1 for v08.
    pub max_peers: u32,
    /// Bytes of device per bit.
    pub bm_bytes_per_bit: u32,
    /// Stripes of the log.
    pub al_stripes: u32,
    /// 4 KiB blocks per stripe.
    pub al_stripe_size_4k: u32,
}

impl Geometry {
    /// What create-md takes unless told otherwise.
    pub const fn usual(max_peers: u32) -> Geometry {
        Geometry { max_peers, bm_bytes_per_bit: 4096, al_stripes: 1, al_stripe_size_4k: 8 }
    }

    /// What a super block says.
    pub const fn of(super_block: &SuperBlock) -> Geometry {
        Geometry {
            max_peers: super_block.max_peers,
            bm_bytes_per_bit: super_block.bm_bytes_per_bit,
            al_stripes: super_block.al_stripes,
            al_stripe_size_4k: super_block.al_stripe_size_4k,
        }
    }

    /// Refuses what no driver would attach.
    pub fn check(&self, format: Format) -> Result<(), MetadataError> {
        let per_bit = self.bm_bytes_per_bit;
        let allowed = match format {
            Format::V08 => per_bit == 4096,
            Format::V09 => per_bit.is_power_of_two() && (4096..=1 << 20).contains(&per_bit),
        };
        if !allowed {
            let expected = match format {
                Format::V08 => "4096",
                Format::V09 => "a power of two from 4096 to 1048576",
            };
            return Err(MetadataError::BadField { field: "bm-byte-per-bit", got: per_bit.into(), expected });
        }
        if !(1..=31).contains(&self.max_peers) {
            return Err(MetadataError::BadField {
                field: "max-peers",
                got: self.max_peers.into(),
                expected: "1 to 31",
            });
        }
        if !LOG_BLOCKS.contains(&self.log_blocks()) {
            return Err(MetadataError::LogSize {
                stripes: self.al_stripes,
                stripe_size_4k: self.al_stripe_size_4k,
            });
        }
        Ok(())
    }

    /// Blocks in the log.
    pub const fn log_blocks(&self) -> u64 {
        self.al_stripes as u64 * self.al_stripe_size_4k as u64
    }

    /// Bits one slot needs for a device.
    pub const fn bits(&self, device: Sector) -> u64 {
        device.0.div_ceil(self.bm_bytes_per_bit as u64 / Sector::BYTES)
    }

    /// Bytes all slots need for a device, in whole blocks.
    pub const fn bitmap_bytes(&self, device: Sector) -> u64 {
        let slot_bytes = self.bits(device).next_multiple_of(64) / 8;
        (slot_bytes * self.max_peers as u64).next_multiple_of(BLOCK)
    }

    fn log_sectors(&self) -> u64 {
        self.log_blocks() * BLOCK_SECTORS
    }

    /// Size of the largest metadata device (internal: backing disk) with an area as the super block's.
    fn made_for_bytes(&self, super_block: &SuperBlock, index: Index) -> u64 {
        if !index.is_internal() {
            return u64::from(super_block.md_size_sect) * Sector::BYTES;
        }
        let bitmap_sectors = i64::from(super_block.al_offset) - i64::from(super_block.bm_offset);
        let bitmap_bytes = u64::try_from(bitmap_sectors).unwrap_or(0) * Sector::BYTES;
        let slot_bits = bitmap_bytes / u64::from(self.max_peers.max(1)) / 8 * 64;
        slot_bits.saturating_mul(u64::from(self.bm_bytes_per_bit))
    }
}

/// Positions for a device, as create-md writes them and as an attach expects them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Of the super block on its device.
    pub super_block_offset_bytes: u64,
    /// Size of the whole area in sectors.
    pub md_size_sect: u32,
    /// Start of the log in sectors from the super block.
    pub al_offset: i32,
    /// Start of the bitmap in sectors from the super block.
    pub bm_offset: i32,
}

impl Layout {
    /// The layout for a metadata device (internal: the backing disk) of that size.
    pub fn new(index: Index, device_bytes: u64, geometry: &Geometry) -> Result<Layout, MetadataError> {
        if device_bytes / Sector::BYTES > DEVICE_SECTORS_MAX {
            return Err(MetadataError::TooLarge { device_bytes });
        }
        let super_block_offset_bytes = index.super_block_offset_bytes(device_bytes)?;
        match index {
            Index::Internal => Layout::internal(super_block_offset_bytes, device_bytes, geometry),
            Index::FlexExternal => Layout::external(0, device_bytes, device_bytes, geometry),
            Index::Indexed(_) => {
                Layout::external(super_block_offset_bytes, SLOT_BYTES, device_bytes, geometry)
            }
        }
    }

    fn internal(offset_bytes: u64, device_bytes: u64, geometry: &Geometry) -> Result<Layout, MetadataError> {
        let too_large = MetadataError::TooLarge { device_bytes };
        let bitmap_bytes = geometry.bitmap_bytes(Sector::from_bytes(device_bytes));
        if bitmap_bytes / u64::from(geometry.max_peers) > SLOT_BITMAP_BYTES_MAX {
            return Err(too_large);
        }
        let before_bytes = bitmap_bytes + geometry.log_blocks() * BLOCK;
        if before_bytes >= offset_bytes {
            return Err(MetadataError::TooSmall { device_bytes, needed_bytes: before_bytes + 2 * BLOCK });
        }
        let before = i32::try_from(before_bytes / Sector::BYTES).map_err(|_| too_large.clone())?;
        let log = i32::try_from(geometry.log_sectors()).map_err(|_| too_large)?;
        Ok(Layout {
            super_block_offset_bytes: offset_bytes,
            md_size_sect: before.unsigned_abs() + BLOCK_SECTORS as u32,
            al_offset: -log,
            bm_offset: -before,
        })
    }

    fn external(
        offset_bytes: u64,
        area_bytes: u64,
        device_bytes: u64,
        geometry: &Geometry,
    ) -> Result<Layout, MetadataError> {
        let too_large = MetadataError::TooLarge { device_bytes };
        // A slot that the device cuts off is refused by the driver too; better not to make one.
        let least_bytes = (2 + geometry.log_blocks()) * BLOCK;
        let needed_bytes = offset_bytes + area_bytes.max(least_bytes);
        if needed_bytes > device_bytes || least_bytes > area_bytes {
            return Err(MetadataError::TooSmall { device_bytes, needed_bytes });
        }
        let log = i32::try_from(geometry.log_sectors()).map_err(|_| too_large.clone())?;
        Ok(Layout {
            super_block_offset_bytes: offset_bytes,
            md_size_sect: u32::try_from(area_bytes / Sector::BYTES).map_err(|_| too_large)?,
            al_offset: BLOCK_SECTORS as i32,
            bm_offset: BLOCK_SECTORS as i32 + log,
        })
    }

    /// Byte offset of the log on its device.
    pub const fn log_offset_bytes(&self) -> u64 {
        self.at(self.al_offset)
    }

    /// Byte offset of the bitmap on its device.
    pub const fn bitmap_offset_bytes(&self) -> u64 {
        self.at(self.bm_offset)
    }

    /// Sectors of data the area can describe; with internal metadata also the sectors left for data.
    pub fn usable_sectors(&self, index: Index, geometry: &Geometry) -> u64 {
        if index.is_internal() {
            return self.bitmap_offset_bytes().min(self.log_offset_bytes()) / Sector::BYTES;
        }
        let bitmap_sectors = u64::from(self.md_size_sect) - self.bm_offset as u64;
        let slot_bits = bitmap_sectors * Sector::BYTES * 8 / 64 / u64::from(geometry.max_peers) * 64;
        slot_bits * (u64::from(geometry.bm_bytes_per_bit) / Sector::BYTES)
    }

    /// Bytes set aside for the bitmap.
    pub fn bitmap_area_bytes(&self) -> u64 {
        let sectors = if self.bm_offset < 0 {
            i64::from(self.al_offset) - i64::from(self.bm_offset)
        } else {
            i64::from(self.md_size_sect) - i64::from(self.bm_offset)
        };
        sectors as u64 * Sector::BYTES
    }

    const fn at(&self, offset_sectors: i32) -> u64 {
        (self.super_block_offset_bytes as i64 + offset_sectors as i64 * Sector::BYTES as i64) as u64
    }
}

/// Where the parts of existing metadata are: a super block checked against its devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// On the metadata device (internal: the backing disk).
    pub super_block_offset_bytes: u64,
    /// Start of the log.
    pub log_offset_bytes: u64,
    /// Length of the log.
    pub log_bytes: u64,
    /// Start of the bitmap.
    pub bitmap_offset_bytes: u64,
    /// Length of the bitmap that the capacity needs.
    pub bitmap_bytes: u64,
    /// Capacity for data.
    pub capacity: Sector,
}

impl Place {
    /// Checks the offsets of a super block against the sizes of the metadata device and of the data device (the same
    /// with internal metadata).
    pub fn of(
        super_block: &SuperBlock,
        index: Index,
        meta_device_bytes: u64,
        data_device_bytes: u64,
    ) -> Result<Place, MetadataError> {
        let geometry = Geometry::of(super_block);
        geometry.check(super_block.format)?;
        let layout = Layout::new(index, meta_device_bytes, &geometry)?;
        let same = |field, got: i64, expected: i64| {
            if got == expected {
                return Ok(());
            }
            let made_for_bytes = geometry.made_for_bytes(super_block, index);
            Err(MetadataError::OtherSize {
                field,
                got,
                expected,
                made_for_bytes,
                device_bytes: meta_device_bytes,
            })
        };
        if super_block.al_offset != layout.al_offset {
            // It does not depend on the device.
            let got = super_block.al_offset.into();
            let expected = "what the index and the log's size give";
            return Err(MetadataError::BadField { field: "al_offset", got, expected });
        }
        same("bm_offset", super_block.bm_offset.into(), layout.bm_offset.into())?;
        // A flexible external device may have grown since: its area is what the super block says, if that still fits.
        let shrunk = super_block.md_size_sect > layout.md_size_sect;
        if shrunk || !matches!(index, Index::FlexExternal) {
            same("md_size_sect", super_block.md_size_sect.into(), layout.md_size_sect.into())?;
        }
        let layout = Layout { md_size_sect: super_block.md_size_sect, ..layout };
        let data = Sector::from_bytes(data_device_bytes);
        let capacity = Sector(layout.usable_sectors(index, &geometry).min(data.0));
        Ok(Place {
            super_block_offset_bytes: layout.super_block_offset_bytes,
            log_offset_bytes: layout.log_offset_bytes(),
            log_bytes: geometry.log_blocks() * BLOCK,
            bitmap_offset_bytes: layout.bitmap_offset_bytes(),
            bitmap_bytes: geometry.bitmap_bytes(capacity),
            capacity,
        })
    }
}

#[cfg(test)]
mod tests;
