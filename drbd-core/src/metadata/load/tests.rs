use super::super::{encode_initialised, Format, Index, Layout, LogTransaction, BLOCK_BYTES};
use super::*;
use proptest::prelude::*;

const DEVICE: u64 = 64 << 20;

/// A device that was Primary when its power went, with these extents in the log.
fn crashed(max_peers: u32, extents: &[u32]) -> (SuperBlock, Place, Vec<u8>) {
    let geometry = Geometry::usual(max_peers);
    let layout = Layout::new(Index::Internal, DEVICE, &geometry).unwrap();
    let mut super_block = SuperBlock::fresh(Format::V09, &layout, &geometry);
    super_block.flags = device_flag::CONSISTENT | device_flag::PRIMARY_IND | device_flag::WAS_UP_TO_DATE;
    super_block.effective_size = 130_944;
    let place = Place::of(&super_block, Index::Internal, DEVICE, DEVICE).unwrap();
    let mut block = [0; BLOCK_BYTES];
    encode_initialised(&mut block);
    let mut log = block.repeat(8);
    let mut transaction = LogTransaction::empty(0);
    for (slot, extent) in extents.iter().enumerate() {
        assert!(transaction.push_update(slot as u16, *extent));
    }
    transaction.context_size = 1237;
    transaction.encode(&mut block);
    log[..BLOCK_BYTES].copy_from_slice(&block);
    (super_block, place, log)
}

fn area(place: &Place, byte: u8) -> Vec<u8> {
    vec![byte; place.bitmap_bytes as usize]
}

#[test]
fn hot_extents_are_marked_for_every_peer() {
    let (super_block, place, log) = crashed(2, &[2, 5, 15]);
    let mut loaded = load(super_block, &place, &log, &area(&place, 0)).unwrap();
    assert_eq!(loaded.hot_extents, [2, 5, 15]);
    let applied = apply_log(&mut loaded).unwrap();
    assert_eq!(applied.extents, [2, 5, 15]);
    // The last extent is cut off by the end of the device.
    assert_eq!(applied.bits_set, 2 * (1024 + 1024 + (130_944 / 8 - 15 * 1024)));
    for words in &loaded.bitmaps {
        let count: u32 = words.iter().map(|word| word.count_ones()).sum();
        assert_eq!(u64::from(count) * 2, applied.bits_set);
        assert_eq!(words[32..48], [u64::MAX; 16]);
    }
    assert!(!loaded.super_block.is_unclean());
    assert_ne!(loaded.super_block.flags & device_flag::PRIMARY_IND, 0, "the driver needs it");
    assert_eq!(apply_log(&mut loaded), Ok(AppliedLog::default()), "a second time there is nothing to do");
}

#[test]
fn bits_already_set_do_not_count() {
    let (super_block, place, log) = crashed(1, &[0]);
    let mut loaded = load(super_block, &place, &log, &area(&place, 0x0F)).unwrap();
    assert_eq!(apply_log(&mut loaded).unwrap().bits_set, 512);
}

#[test]
fn extents_beyond_the_device_are_ignored() {
    let (super_block, place, log) = crashed(1, &[15, 16, 4_000_000_000]);
    let mut loaded = load(super_block, &place, &log, &area(&place, 0)).unwrap();
    assert_eq!(apply_log(&mut loaded).unwrap().extents, [15]);
}

#[test]
fn without_primary_the_log_does_not_count() {
    let (mut super_block, place, _) = crashed(1, &[]);
    super_block.flags &= !device_flag::PRIMARY_IND;
    let loaded = load(super_block, &place, &vec![0; place.log_bytes as usize], &area(&place, 0)).unwrap();
    assert!(!loaded.log_unreadable && loaded.hot_extents.is_empty());
}

#[test]
fn a_clean_log_is_not_looked_at() {
    let (mut super_block, place, log) = crashed(1, &[3]);
    super_block.flags |= device_flag::AL_CLEAN;
    assert!(load(super_block, &place, &log, &area(&place, 0)).unwrap().hot_extents.is_empty());
}

#[test]
fn a_log_that_is_needed_and_broken_is_refused() {
    let (super_block, place, _) = crashed(1, &[]);
    let zeroes = vec![0; place.log_bytes as usize];
    let mut loaded = load(super_block, &place, &zeroes, &area(&place, 0)).unwrap();
    assert!(loaded.log_unreadable);
    assert_eq!(apply_log(&mut loaded), Err(MetadataError::LogUnreadable));
    assert!(loaded.super_block.is_unclean());
}

#[test]
fn short_parts_are_refused() {
    let (super_block, place, log) = crashed(1, &[]);
    let short = load(super_block.clone(), &place, &log[1..], &area(&place, 0)).unwrap_err();
    assert!(matches!(short, MetadataError::Truncated { part: "activity log", .. }));
    let short = load(super_block, &place, &log, &[]).unwrap_err();
    assert!(matches!(short, MetadataError::Truncated { part: "bitmap", .. }));
}

#[test]
fn bits_beyond_the_agreed_size_are_clear() {
    let (mut super_block, place, log) = crashed(1, &[]);
    super_block.effective_size = 1000;
    let loaded = load(super_block.clone(), &place, &log, &area(&place, 0xFF)).unwrap();
    assert_eq!(loaded.bitmaps[0][..3], [u64::MAX, (1 << 61) - 1, 0]);
    assert_eq!(loaded.bitmaps[0].len() as u64, (place.capacity.0 / 8).div_ceil(64));
    super_block.effective_size = 0;
    let loaded = load(super_block, &place, &log, &area(&place, 0xFF)).unwrap();
    assert!(loaded.bitmaps[0].iter().all(|word| *word == 0));
}

proptest! {
    #[test]
    fn set_range_sets_exactly_the_range(first in 0_u64..400, length in 0_u64..400, fill in any::<u64>()) {
        let mut words = [fill; 13];
        let before: u32 = words.iter().map(|word| word.count_ones()).sum();
        let end = first + length;
        let set = set_range(&mut words, first, end);
        for bit in 0..13 * 64_u64 {
            let old = fill >> (bit % 64) & 1 == 1;
            let new = words[(bit / 64) as usize] >> (bit % 64) & 1 == 1;
            prop_assert_eq!(new, old || (first..end).contains(&bit));
        }
        let after: u32 = words.iter().map(|word| word.count_ones()).sum();
        prop_assert_eq!(set, u64::from(after - before));
    }
}
