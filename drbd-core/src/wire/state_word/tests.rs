use super::*;
use crate::states::{ConnectionState, ReplicationState};
use DiskState::{Consistent, DUnknown, Inconsistent, Negotiating, Outdated, UpToDate};
use Role::{Primary, Secondary, Unknown};

fn word(role: Role, peer: Role, conn: Conn84, disk: DiskState, peer_disk: DiskState) -> StateWord {
    let bits = 0;
    StateWord {
        role,
        peer,
        conn,
        disk,
        peer_disk,
        ..StateWord::from_bits(bits).expect("all zero is a state")
    }
}

fn replication(state: ReplicationState) -> Conn84 {
    Conn84::of(ConnectionState::Connected, state)
}

#[test]
fn words_of_the_reference() {
    use ReplicationState::{SyncTarget, WFBitMapS, WFBitMapT};
    let connecting = Conn84::of(ConnectionState::Connecting, ReplicationState::Off);
    let vectors = [
        (0x0000_c892, word(Secondary, Unknown, Conn84::WF_REPORT_PARAMS, Inconsistent, DUnknown)),
        (0x0001_10a9, word(Primary, Secondary, Conn84::CONNECTED, UpToDate, UpToDate)),
        (0x0000_d082, word(Secondary, Unknown, connecting, UpToDate, DUnknown)),
        (0x0001_0916, word(Secondary, Primary, replication(SyncTarget), Inconsistent, UpToDate)),
        (0x0000_c882, word(Secondary, Unknown, connecting, Inconsistent, DUnknown)),
        (0x0000_88aa, word(Secondary, Secondary, Conn84::CONNECTED, Inconsistent, Inconsistent)),
        (0x0000_90a9, word(Primary, Secondary, Conn84::CONNECTED, UpToDate, Inconsistent)),
        (0x0001_08e6, word(Secondary, Primary, replication(WFBitMapT), Inconsistent, UpToDate)),
        (0x0000_f0d9, word(Primary, Secondary, replication(WFBitMapS), UpToDate, Consistent)),
        (0x0001_0ae6, word(Secondary, Primary, replication(WFBitMapT), Outdated, UpToDate)),
        (0x0001_10a6, word(Secondary, Primary, Conn84::CONNECTED, UpToDate, UpToDate)),
        (0x0001_06aa, word(Secondary, Secondary, Conn84::CONNECTED, Negotiating, UpToDate)),
    ];
    for (bits, meaning) in vectors {
        assert_eq!(meaning.to_bits(), bits, "{meaning:?}");
        assert_eq!(StateWord::from_bits(bits), Ok(meaning), "{bits:#010x}");
    }
}

#[test]
fn every_word_is_read_back_or_refused() {
    for bits in 0..1u32 << 17 {
        match StateWord::from_bits(bits) {
            Ok(meaning) => assert_eq!(meaning.to_bits(), bits),
            Err(malformed) => assert!(
                bits & field::ROLE == 3
                    || bits & field::PEER == field::PEER
                    || bits & field::CONN > 23 << 4
                    || bits & field::DISK > 8 << 9
                    || bits & field::PEER_DISK > 8 << 13,
                "{malformed}"
            ),
        }
    }
    for bit in 17..24 {
        assert_eq!(StateWord::from_bits(1 << bit).map(StateWord::to_bits), Ok(1 << bit));
    }
    assert_eq!(StateWord::from_bits(0xff00_0000).map(StateWord::to_bits), Ok(0));
}

/// Requests as 8.4 was seen to send them (4.7 of the reference).
#[test]
fn requests_of_the_reference() {
    let failed = DiskState::Failed;
    let disconnecting = Conn84(1);
    let vectors = [
        (Change::default().role(Primary), (0x3, 0x1)),
        (Change::default().role(Primary).disk(UpToDate), (0x1e03, 0x1001)),
        (Change::default().disk(failed), (0x1e00, 0x400)),
        (Change::default().conn(disconnecting), (0x1f0, 0x10)),
        (Change::default().conn(replication(ReplicationState::VerifyS)), (0x1f0, 0x120)),
        (Change::default().conn(replication(ReplicationState::StartingSyncT)), (0x1f0, 0xc0)),
    ];
    for (change, (mask, val)) in vectors {
        assert_eq!((change.mask, change.val), (mask, val), "{change:?}");
    }
}

#[test]
fn requests_seen_from_the_other_side() {
    let change = Change::default().role(Primary).disk(UpToDate).mirrored();
    assert_eq!((change.mask, change.val), (0x0001_e00c, 0x0001_0004));
    assert_eq!(mirror(0x1f0, 0x10), (0x1f0, 0x70), "Disconnecting is TearDown over there");
    assert_eq!(mirror(0x1f0, 0x120), (0x1f0, 0x130), "VerifyS is VerifyT");
    assert_eq!(mirror(0x1f0, 0x130), (0x1f0, 0), "nobody may ask to be VerifyT");
    assert_eq!(mirror(0x1f0, 0xc0), (0x1f0, 0xb0), "StartingSyncT is StartingSyncS");
    assert_eq!(mirror(0x1f0, 0x110), (0x1f0, 0), "nobody may ask to be SyncTarget");
    let outdate_peer = Change::default().conn(Conn84(1)).peer_disk(Outdated).mirrored();
    assert_eq!(disk_of(outdate_peer.apply(0)), Some(Outdated));
    assert_eq!(mirror(0, field::USER_ISP).1 & field::PEER_ISP, field::PEER_ISP);
}

#[test]
fn mirroring_twice_keeps_the_sides() {
    const SIDES: u32 = field::ROLE | field::PEER | field::DISK | field::PEER_DISK;
    for bits in 0..1u32 << 17 {
        let (_, once) = mirror(0, bits);
        assert_eq!(mirror(0, once).1 & SIDES, bits & SIDES);
    }
}
