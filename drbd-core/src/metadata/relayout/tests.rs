//! The layouts before and after a device has grown.

use super::*;
use crate::metadata::Format;

const MIB: u64 = 1 << 20;

fn made_for(index: Index, bytes: u64) -> (SuperBlock, Place) {
    let geometry = Geometry::usual(1);
    let layout = Layout::new(index, bytes, &geometry).expect("a layout");
    let super_block = SuperBlock::fresh(Format::V09, &layout, &geometry);
    let place = Place::of(&super_block, index, bytes, bytes).expect("fits");
    (super_block, place)
}

#[test]
fn internal_metadata_moves_to_the_new_end() {
    let (super_block, old) = made_for(Index::Internal, 64 * MIB);
    let new = Relayout::of(&super_block, Index::Internal, 128 * MIB, 128 * MIB).expect("a layout");
    assert_eq!(new.place.super_block_offset_bytes, 128 * MIB - 4096);
    assert!(new.moves_from(&old) && new.is_apart_from(&old));
    assert!(new.place.capacity > old.capacity);
    let moved =
        SuperBlock { md_size_sect: new.md_size_sect, bm_offset: new.bm_offset, ..super_block.clone() };
    let there = Place::of(&moved, Index::Internal, 128 * MIB, 128 * MIB).expect("an attach finds it");
    assert_eq!(there, new.place);
}

#[test]
fn a_little_growth_writes_over_the_old_place() {
    let (super_block, old) = made_for(Index::Internal, 64 * MIB);
    for (more, apart) in [(4096, false), (32 << 10, false), (40 << 10, true), (44 << 10, true)] {
        let bytes = 64 * MIB + more;
        let new = Relayout::of(&super_block, Index::Internal, bytes, bytes).expect("a layout");
        assert!(new.moves_from(&old));
        assert_eq!(new.is_apart_from(&old), apart, "{more} bytes more");
    }
}

#[test]
fn nothing_moves_without_a_larger_device() {
    let (super_block, old) = made_for(Index::Internal, 64 * MIB);
    for bytes in [64 * MIB, 64 * MIB + 512, 64 * MIB + 3584] {
        let new = Relayout::of(&super_block, Index::Internal, bytes, bytes).expect("a layout");
        assert!(!new.moves_from(&old), "{bytes}");
        assert_eq!(new.place.capacity, old.capacity);
    }
}

#[test]
fn flexible_external_metadata_stays_and_describes_more() {
    let (super_block, old) = made_for(Index::FlexExternal, MIB);
    let new = Relayout::of(&super_block, Index::FlexExternal, MIB, 4 << 30).expect("a layout");
    assert!(!new.moves_from(&old));
    assert_eq!(new.place.capacity.bytes(), 4 << 30);
    // One MiB less super block and log describes about 31 GiB.
    let capped = Relayout::of(&super_block, Index::FlexExternal, MIB, 64 << 30).expect("a layout");
    assert!(capped.place.capacity.bytes() < 32 << 30);
    let grown = Relayout::of(&super_block, Index::FlexExternal, 4 * MIB, 64 << 30).expect("a layout");
    assert_eq!(grown.place.capacity.bytes(), 64 << 30);
}
