//! From bytes to what an attach needs, and the activity log applied to the bitmaps: the one code path of drbdmeta,
//! the daemon and the simulator.

use super::bitmap_area::BitmapArea;
use super::layout::{Geometry, Place};
use super::log_replay::{replay, LogState};
use super::{device_flag, Loaded, MetadataError, SuperBlock};
use crate::ids::Sector;
use crate::limits::EXTENT_BYTES;

/// What applying the log changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AppliedLog {
    /// Extents whose bits were set in every slot; sorted.
    pub extents: Vec<u32>,
    /// Bits that were not set before, all slots together.
    pub bits_set: u64,
}

/// Puts a checked super block and the bytes of its log and bitmap ([`Place`] says where they are) together.
///
/// The log is looked at only where it counts: the metadata is unclean and the node was Primary.
pub fn load(
    super_block: SuperBlock,
    place: &Place,
    log: &[u8],
    bitmap: &[u8],
) -> Result<Loaded, MetadataError> {
    whole("activity log", log, place.log_bytes)?;
    whole("bitmap", bitmap, place.bitmap_bytes)?;
    let geometry = Geometry::of(&super_block);
    let area = BitmapArea { slots: geometry.max_peers, bits: geometry.bits(place.capacity) };
    let mut bitmaps = area.decode(bitmap);
    // What lies beyond the agreed size was never written by anyone.
    let known = geometry.bits(Sector(super_block.effective_size.min(place.capacity.0)));
    bitmaps.iter_mut().for_each(|words| clear_from(words, known));
    let needed = super_block.is_unclean() && super_block.flags & device_flag::PRIMARY_IND != 0;
    let (hot_extents, log_unreadable, log_initialise_from) =
        if needed { read_log(&super_block, log) } else { (Vec::new(), false, 0) };
    let capacity = place.capacity;
    Ok(Loaded { super_block, bitmaps, hot_extents, log_unreadable, log_initialise_from, capacity })
}

/// Sets the bits of the extents that may have been written, in every slot, and marks the metadata clean. What has to
/// be written afterwards: the bitmap, every block of the log as an initialised one, then the super block.
pub fn apply_log(loaded: &mut Loaded) -> Result<AppliedLog, MetadataError> {
    if loaded.log_unreadable {
        return Err(MetadataError::LogUnreadable);
    }
    let geometry = Geometry::of(&loaded.super_block);
    let size = match loaded.super_block.effective_size {
        0 => loaded.capacity,
        agreed => Sector(agreed.min(loaded.capacity.0)),
    };
    let bits = geometry.bits(size);
    let per_extent = EXTENT_BYTES / u64::from(geometry.bm_bytes_per_bit);
    let mut applied = AppliedLog { extents: std::mem::take(&mut loaded.hot_extents), bits_set: 0 };
    applied.extents.retain(|extent| u64::from(*extent) * per_extent < bits);
    for extent in &applied.extents {
        let first = u64::from(*extent) * per_extent;
        let end = (first + per_extent).min(bits);
        for words in &mut loaded.bitmaps {
            applied.bits_set += set_range(words, first, end);
        }
    }
    loaded.super_block.flags |= device_flag::AL_CLEAN;
    loaded.super_block.unclean_magic = false;
    Ok(applied)
}

fn read_log(super_block: &SuperBlock, log: &[u8]) -> (Vec<u32>, bool, u32) {
    let found = replay(log, super_block.al_stripes, super_block.al_stripe_size_4k);
    match found.state {
        LogState::Untouched => (Vec::new(), false, found.initialise_from),
        LogState::Active(extents) => (extents, false, found.initialise_from),
        LogState::NotALog | LogState::Unusable => (Vec::new(), true, found.initialise_from),
    }
}

fn whole(part: &'static str, bytes: &[u8], wanted_bytes: u64) -> Result<(), MetadataError> {
    let got_bytes = bytes.len() as u64;
    if got_bytes < wanted_bytes {
        return Err(MetadataError::Truncated { part, got_bytes, wanted_bytes });
    }
    Ok(())
}

fn clear_from(words: &mut [u64], first: u64) {
    let (word, bit) = ((first / 64) as usize, first % 64);
    if let Some(partial) = words.get_mut(word) {
        *partial &= (1 << bit) - 1;
    }
    if let Some(rest) = words.get_mut(word + 1..) {
        rest.fill(0);
    }
}

/// Sets bits `first..end` and returns how many were clear.
fn set_range(words: &mut [u64], first: u64, end: u64) -> u64 {
    let mut newly_set = 0;
    let mut bit = first;
    while bit < end {
        let stop = (bit / 64 * 64 + 64).min(end);
        let mask = u64::MAX >> (64 - (stop - bit)) << (bit % 64);
        if let Some(word) = words.get_mut((bit / 64) as usize) {
            newly_set += u64::from((mask & !*word).count_ones());
            *word |= mask;
        }
        bit = stop;
    }
    newly_set
}

#[cfg(test)]
mod tests;
