//! Where metadata has to be once its device has another size.
//!
//! Internal metadata lies at the end of its device, so it moves when the device grows, and its bitmap is larger there.
//! Flexible external metadata stays where it is and may describe more. An indexed slot never changes.

use super::layout::{Geometry, Index, Layout, Place};
use super::{device_flag, peer_flag, Format, MetadataError, SuperBlock, BLOCK_BYTES};

/// A place for metadata on devices of a certain size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relayout {
    /// Where the parts are, and the capacity for data.
    pub place: Place,
    /// Size of the whole area in sectors.
    pub md_size_sect: u32,
    /// Start of the bitmap in sectors from the super block.
    pub bm_offset: i32,
}

impl Relayout {
    /// The place for devices of that size (internal: twice the same), everything else as the super block says.
    pub fn of(
        super_block: &SuperBlock,
        index: Index,
        meta_device_bytes: u64,
        data_device_bytes: u64,
    ) -> Result<Relayout, MetadataError> {
        let geometry = Geometry::of(super_block);
        let layout = Layout::new(index, meta_device_bytes, &geometry)?;
        let moved = SuperBlock {
            md_size_sect: layout.md_size_sect,
            al_offset: layout.al_offset,
            bm_offset: layout.bm_offset,
            ..super_block.clone()
        };
        let place = Place::of(&moved, index, meta_device_bytes, data_device_bytes)?;
        Ok(Relayout { place, md_size_sect: layout.md_size_sect, bm_offset: layout.bm_offset })
    }

    /// Whether the parts lie elsewhere than at `old`.
    pub fn moves_from(&self, old: &Place) -> bool {
        let parts = |place: &Place| {
            (place.super_block_offset_bytes, place.log_offset_bytes, place.bitmap_offset_bytes)
        };
        parts(&self.place) != parts(old)
    }

    /// Whether writing the parts here leaves those at `old` (in front of it, on the same device) whole until the last.
    pub fn is_apart_from(&self, old: &Place) -> bool {
        self.place.bitmap_offset_bytes >= old.super_block_offset_bytes + BLOCK_BYTES as u64
    }
}

impl SuperBlock {
    /// What it says while log and bitmap are written over themselves: everything is out of sync, and what the log names
    /// is not to be asked.
    pub fn with_nothing_counting(&self) -> SuperBlock {
        let mut interim = self.clone();
        if interim.flags & device_flag::PRIMARY_IND != 0 {
            interim.flags |= device_flag::CRASHED_PRIMARY;
        }
        interim.flags &= !device_flag::PRIMARY_IND;
        for (n, peer) in interim.peers.iter_mut().enumerate() {
            if peer.bitmap_index >= 0 || (n == 0 && interim.format == Format::V08) {
                peer.flags |= peer_flag::FULL_SYNC;
            }
        }
        interim
    }
}

#[cfg(test)]
mod tests;
