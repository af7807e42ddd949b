use super::*;
use crate::config::OptionSet;

fn limits(discard_granularity: u32) -> DiskLimits {
    DiskLimits {
        capacity: Sector(1 << 20),
        max_bio_bytes: 1 << 20,
        logical_block_size: 512,
        physical_block_size: 4096,
        discard_zeroes: true,
        discard_granularity,
        external_metadata: false,
    }
}

fn options(rs_discard_granularity: u32) -> DiskOptions {
    DiskOptions { rs_discard_granularity, ..DiskOptions::from(&OptionSet::default()) }
}

fn unit(granularity: u32, configured: u32) -> Option<(u64, bool)> {
    Pieces::of(&limits(granularity), &options(configured)).map(|p| (p.unit_bytes, p.exactly))
}

#[test]
fn the_granularity_is_the_disks_or_a_multiple_of_it() {
    assert_eq!(unit(4096, 0), Some((4096, false)));
    assert_eq!(unit(512, 0), Some((4096, false)), "nothing is smaller than a bit");
    assert_eq!(unit(192 << 10, 0), Some((192 << 10, false)), "not a power of two");
    assert_eq!(unit(1536, 0), Some((12_288, false)));
    assert_eq!(unit(4096, 65_536), Some((65_536, true)));
    assert_eq!(unit(65_536, 80 << 10), Some((128 << 10, true)), "rounded up");
    assert_eq!(unit(65_536, 4096), Some((65_536, true)));
    assert_eq!(unit(4096, 77), Some((4096, true)));
    assert_eq!(unit(2 << 20, 0), None, "no request is that large");
    assert_eq!(unit(2 << 20, 1 << 20), None);
    assert_eq!(unit(0, 65_536), None, "no discards");
    let without = DiskLimits { discard_zeroes: false, ..limits(4096) };
    assert_eq!(Pieces::of(&without, &options(65_536)), None);
}

#[test]
fn what_differs_from_the_configuration_is_told() {
    let remark = |granularity, configured| Pieces::remark(&limits(granularity), &options(configured));
    assert_eq!(remark(4096, 0), None);
    assert_eq!(remark(0, 0), None);
    assert_eq!(remark(4096, 65_536), None);
    assert_eq!(remark(65_536, 4096).as_deref(), Some("rs_discard_granularity changed to 65536"));
    assert_eq!(remark(0, 4096).as_deref(), Some("rs_discard_granularity feature disabled"));
}

#[test]
fn requests_are_cut_to_whole_pieces() {
    let pieces = |configured| Pieces::of(&limits(16 << 10), &options(configured)).unwrap();
    let (found, configured) = (pieces(0), pieces(64 << 10));
    let at = |kib: u64| Sector(kib * 2);
    assert_eq!(found.cut(at(0), 128 << 10), 128 << 10);
    assert_eq!(found.cut(at(16), 100 << 10), 96 << 10, "the rest is asked for apart");
    assert_eq!(found.cut(at(12), 128 << 10), 4 << 10, "the next one begins at a piece");
    assert_eq!(found.cut(at(12), 4096), 4096);
    assert_eq!(found.cut(at(16), 8 << 10), 8 << 10, "a part of a piece");
    assert_eq!(configured.cut(at(0), 128 << 10), 64 << 10);
    assert_eq!(configured.cut(at(60), 128 << 10), 4 << 10);
    assert!(found.has(at(32), 48 << 10) && !found.has(at(32), 8 << 10) && !found.has(at(4), 16 << 10));
    assert_eq!(found.request_bytes(8 << 10), 16 << 10, "beside an application");
    assert_eq!(found.request_bytes(128 << 10), 128 << 10);
    assert_eq!(configured.request_bytes(128 << 10), 64 << 10, "as large as configured");
}
