use super::*;
use crate::ids::{Instant, SocketId};

fn limits(version: u32, features: u32, announced: Option<u32>) -> RequestLimits {
    let mut session = Session::new(1, SocketId(1), SocketId(2), false, Instant(1));
    (session.version, session.features) = (version, features);
    RequestLimits::of_session(&session, announced)
}

const ALL: u32 = feature::TRIM | feature::LONG_SIZES | feature::ZEROES;
const ZEROES: UpperOp = UpperOp::WriteZeroes { unmap: true };

#[test]
fn an_old_peer_takes_what_its_version_carries() {
    let data = |version, announced| limits(version, ALL, announced).data_bytes;
    assert_eq!([93, 94, 95, 99, 100, 101].map(|v| data(v, None) >> 10), [32, 32, 128, 128, 1024, 1024]);
    assert_eq!(data(90, Some(4096)), 4096, "its disk's limit, before 94");
    assert_eq!(data(90, Some(24 << 10)), 16 << 10, "a power of two");
    assert_eq!(data(90, Some(0)), 4096, "nonsense is not believed");
    assert_eq!(data(94, Some(4096)), 32 << 10, "from 94 on it takes apart what its disk does not take");
}

#[test]
fn discards_and_zeroes_are_for_peers_that_know_them() {
    let pair = |version, features| {
        let limits = limits(version, features, None);
        (limits.discard_bytes >> 20, limits.zeroes_bytes >> 20)
    };
    assert_eq!(pair(94, ALL), (0, 0));
    assert_eq!(pair(101, 0), (0, 0));
    assert_eq!(pair(101, feature::TRIM), (4, 0), "one extent of the log, before larger ones were known");
    assert_eq!(pair(101, feature::TRIM | feature::LONG_SIZES), (128, 0));
    assert_eq!(pair(101, ALL), (128, 128));
}

#[test]
fn requests_are_taken_apart() {
    let old = limits(90, 0, None);
    assert_eq!(old.next_part(UpperOp::Write, 100 << 10), RequestPart::Ask(32 << 10));
    assert_eq!(old.next_part(UpperOp::Read, 512), RequestPart::Ask(512));
    assert_eq!(old.next_part(UpperOp::Flush, 0), RequestPart::Ask(0));
    assert_eq!(old.next_part(UpperOp::Discard, 1 << 20), RequestPart::Skip);
    assert_eq!(old.next_part(ZEROES, 1 << 20), RequestPart::WriteZeroData(32 << 10));
    assert!(!old.fits(ZEROES, 512) && !old.fits(UpperOp::Discard, 512));
    assert!(old.fits(UpperOp::Write, 32 << 10) && !old.fits(UpperOp::Write, 33 << 10));
    assert!(RequestLimits::LARGEST.fits(UpperOp::Discard, DISCARD_BYTES_MAX));
}
