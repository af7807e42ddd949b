use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

fn striped(max_peers: u32) -> Geometry {
    Geometry { al_stripes: 4, al_stripe_size_4k: 16, ..Geometry::usual(max_peers) }
}

/// Device, geometry, bitmap bytes, md_size_sect, super block, log, bitmap: the worked examples of the reference.
const INTERNAL: [(u64, u32, u64, u32, u64, u64, u64); 7] = [
    (64 * MIB, 1, 4096, 80, 67104768, 67072000, 67067904),
    (64 * MIB, 7, 16384, 104, 67104768, 67072000, 67055616),
    (67110400, 1, 4096, 80, 67104768, 67072000, 67067904),
    (GIB, 1, 32768, 136, 1073737728, 1073704960, 1073672192),
    (GIB, 7, 229376, 520, 1073737728, 1073704960, 1073475584),
    (TIB, 1, 33554432, 65608, 1099511623680, 1099511590912, 1099478036480),
    (TIB, 7, 234881024, 458824, 1099511623680, 1099511590912, 1099276709888),
];

#[test]
fn internal_layouts_are_those_of_the_reference() {
    for (device_bytes, max_peers, bitmap_bytes, md_size_sect, super_block, log, bitmap) in INTERNAL {
        let geometry = Geometry::usual(max_peers);
        let layout = Layout::new(Index::Internal, device_bytes, &geometry).unwrap();
        assert_eq!(geometry.bitmap_bytes(Sector::from_bytes(device_bytes)), bitmap_bytes);
        assert_eq!(layout.md_size_sect, md_size_sect);
        assert_eq!(layout.super_block_offset_bytes, super_block);
        assert_eq!(layout.log_offset_bytes(), log);
        assert_eq!(layout.bitmap_offset_bytes(), bitmap);
        assert_eq!(layout.usable_sectors(Index::Internal, &geometry) * 512, bitmap);
        assert_eq!(layout.bitmap_area_bytes(), bitmap_bytes);
    }
}

#[test]
fn stripes_and_large_blocks_move_the_bitmap() {
    let layout = Layout::new(Index::Internal, 64 * MIB, &striped(2)).unwrap();
    assert_eq!((layout.md_size_sect, layout.log_offset_bytes()), (528, 66842624));
    assert_eq!(layout.bitmap_offset_bytes(), 66838528);
    let coarse = Geometry { bm_bytes_per_bit: 65536, ..Geometry::usual(2) };
    let layout = Layout::new(Index::Internal, GIB, &coarse).unwrap();
    assert_eq!((layout.md_size_sect, layout.bitmap_offset_bytes()), (80, 1073700864));
}

#[test]
fn external_layouts_are_those_of_the_reference() {
    let geometry = Geometry::usual(1);
    let cases = [
        (Index::FlexExternal, 2 * MIB, 4096, 0, 4096, 36864),
        (Index::Indexed(0), 129 * MIB, 262144, 0, 4096, 36864),
        (Index::Indexed(2), 400 * MIB, 262144, 268435456, 268439552, 268472320),
    ];
    for (index, device_bytes, md_size_sect, super_block, log, bitmap) in cases {
        let layout = Layout::new(index, device_bytes, &geometry).unwrap();
        assert_eq!((layout.md_size_sect, layout.super_block_offset_bytes), (md_size_sect, super_block));
        assert_eq!((layout.log_offset_bytes(), layout.bitmap_offset_bytes()), (log, bitmap));
    }
}

#[test]
fn external_area_limits_the_device() {
    let geometry = Geometry::usual(2);
    let layout = Layout::new(Index::FlexExternal, 2 * MIB, &geometry).unwrap();
    let bits = (2 * MIB - 36864) * 8 / 64 / 2 * 64;
    assert_eq!(layout.usable_sectors(Index::FlexExternal, &geometry), bits * 8);
    let super_block = SuperBlock::fresh(Format::V09, &layout, &geometry);
    let place = |data| Place::of(&super_block, Index::FlexExternal, 2 * MIB, data).unwrap();
    assert_eq!(place(TIB).capacity, Sector(bits * 8));
    assert_eq!(place(GIB).capacity, Sector(GIB / 512));
    assert!(place(TIB).bitmap_bytes <= layout.bitmap_area_bytes());
}

#[test]
fn words_name_indices() {
    for (word, index) in [
        ("internal", Index::Internal),
        ("flex-internal", Index::Internal),
        ("flexible", Index::FlexExternal),
        ("flex-external", Index::FlexExternal),
        ("0", Index::Indexed(0)),
        ("255", Index::Indexed(255)),
    ] {
        assert_eq!(word.parse(), Ok(index));
        assert_eq!(index.to_string().parse(), Ok(index));
    }
    for word in ["", "foo", "256", "-1", "1x"] {
        let refused: Result<Index, _> = word.parse();
        assert_eq!(refused.unwrap_err().to_string(), format!("'{word}' is not a valid index number."));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let geometry = Geometry::usual(1);
    let refuse = |index, bytes, geometry: &Geometry| Layout::new(index, bytes, geometry).unwrap_err();
    assert!(matches!(refuse(Index::Internal, 65536, &geometry), MetadataError::TooSmall { .. }));
    assert!(matches!(refuse(Index::FlexExternal, 0, &geometry), MetadataError::TooSmall { .. }));
    assert!(matches!(refuse(Index::Indexed(1), 100 * MIB, &geometry), MetadataError::IndexBeyondEnd { .. }));
    assert!(matches!(refuse(Index::Indexed(0), 100 * MIB, &geometry), MetadataError::TooSmall { .. }));
    let large_log = Geometry { al_stripes: 1024, ..geometry };
    assert!(matches!(refuse(Index::Internal, MIB, &large_log), MetadataError::TooSmall { .. }));
    assert!(matches!(refuse(Index::Internal, u64::MAX, &geometry), MetadataError::TooLarge { .. }));
    assert!(Layout::new(Index::Internal, 69632, &geometry).is_ok());
}

#[test]
fn geometry_no_driver_takes_is_refused() {
    let usual = Geometry::usual(1);
    let refused = [
        Geometry { bm_bytes_per_bit: 0, ..usual },
        Geometry { bm_bytes_per_bit: 2048, ..usual },
        Geometry { bm_bytes_per_bit: 12288, ..usual },
        Geometry { bm_bytes_per_bit: 2 << 20, ..usual },
        Geometry { max_peers: 0, ..usual },
        Geometry { max_peers: 32, ..usual },
        Geometry { al_stripes: 0, ..usual },
        Geometry { al_stripe_size_4k: 7, ..usual },
        Geometry { al_stripes: u32::MAX, al_stripe_size_4k: u32::MAX, ..usual },
    ];
    for geometry in refused {
        assert!(geometry.check(Format::V09).is_err(), "{geometry:?}");
    }
    let coarse = Geometry { bm_bytes_per_bit: 65536, ..usual };
    assert!(coarse.check(Format::V09).is_ok());
    assert!(coarse.check(Format::V08).is_err());
}

#[test]
fn metadata_of_another_size_is_refused() {
    let geometry = Geometry::usual(1);
    let layout = Layout::new(Index::Internal, GIB, &geometry).unwrap();
    let super_block = SuperBlock::fresh(Format::V09, &layout, &geometry);
    assert!(Place::of(&super_block, Index::Internal, GIB, GIB).is_ok());
    let error = Place::of(&super_block, Index::Internal, 2 * GIB, 2 * GIB).unwrap_err();
    assert!(matches!(error, MetadataError::OtherSize { field: "bm_offset", got: -128, .. }), "{error}");
    let sizes = "of up to 1073741824 bytes, this one has 2147483648 (bm_offset is -128, not -192)";
    assert!(error.to_string().contains(sizes), "{error}");
}

#[test]
fn an_external_area_cut_off_is_told_with_both_sizes() {
    let geometry = Geometry::usual(3);
    let layout = Layout::new(Index::FlexExternal, GIB, &geometry).unwrap();
    let super_block = SuperBlock::fresh(Format::V09, &layout, &geometry);
    let error = Place::of(&super_block, Index::FlexExternal, GIB / 2, GIB).unwrap_err();
    let sizes = "of up to 1073741824 bytes, this one has 536870912 (md_size_sect is 2097152, not 1048576)";
    assert!(error.to_string().contains(sizes), "{error}");
}

#[test]
fn a_misplaced_log_is_damage_and_no_other_size() {
    let geometry = Geometry::usual(1);
    let layout = Layout::new(Index::Internal, GIB, &geometry).unwrap();
    let super_block =
        SuperBlock { al_offset: i32::MIN, ..SuperBlock::fresh(Format::V09, &layout, &geometry) };
    let error = Place::of(&super_block, Index::Internal, GIB, GIB).unwrap_err();
    assert!(matches!(error, MetadataError::BadField { field: "al_offset", .. }), "{error}");
    let super_block =
        SuperBlock { bm_offset: i32::MIN, ..SuperBlock::fresh(Format::V09, &layout, &geometry) };
    assert!(Place::of(&super_block, Index::Internal, GIB, GIB).is_err());
}

proptest! {
    #[test]
    fn parts_never_overlap(
        device_bytes in 69_632_u64..(1 << 44),
        max_peers in 1_u32..=31,
        shift in 12_u32..=20,
        al_stripes in 1_u32..=64,
        al_stripe_size_4k in 8_u32..=128,
        kind in 0..3,
    ) {
        let geometry = Geometry { max_peers, bm_bytes_per_bit: 1 << shift, al_stripes, al_stripe_size_4k };
        let index = [Index::Internal, Index::FlexExternal, Index::Indexed(3)][kind as usize];
        let Ok(layout) = Layout::new(index, device_bytes, &geometry) else { return Ok(()) };
        let super_block = SuperBlock::fresh(Format::V09, &layout, &geometry);
        let place = Place::of(&super_block, index, device_bytes, device_bytes).unwrap();
        let mut parts = vec![
            (place.super_block_offset_bytes, 4096),
            (place.log_offset_bytes, place.log_bytes),
            (place.bitmap_offset_bytes, place.bitmap_bytes),
        ];
        if index == Index::Internal {
            parts.push((0, place.capacity.bytes()));
        }
        parts.sort_unstable();
        for pair in parts.windows(2) {
            prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0);
        }
        let (offset, bytes) = parts[parts.len() - 1];
        prop_assert!(offset + bytes <= device_bytes);
    }
}
