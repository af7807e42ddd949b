//! Each rule once, both sides of all small sets, and the same answers as 8.4's table where both know the case.

use super::super::{CompareContext, Strategy as Strategy84};
use super::*;
use crate::states::Role;
use crate::wire::Uuids;

const QUIET: Context = Context {
    agreed_version: 121,
    protocol_c: true,
    resolve_conflicts: true,
    changed_since_sent: false,
    missed_end: None,
};

const PLAIN: Side<'static> = Side {
    current: 0x100,
    bitmap: 0,
    other_bitmaps: &[],
    history: &[],
    crashed_primary: false,
    lost_quorum: false,
    reconnects: false,
};

#[test]
fn every_rule_of_drbd_9() {
    let crashed = Side { crashed_primary: true, ..PLAIN };
    let again = Side { reconnects: true, ..PLAIN };
    let lost = Side { lost_quorum: true, ..PLAIN };
    let fresh = Side { current: UUID_JUST_CREATED, ..PLAIN };
    let newer = Side { current: 0x200, ..PLAIN };
    let old = Context { agreed_version: 119, ..QUIET };
    let async_protocol = Context { protocol_c: false, ..QUIET };
    let cases = [
        (
            PLAIN,
            PLAIN,
            Context { changed_since_sent: true, ..QUIET },
            "initial-handshake-changed",
            Strategy::RetryConnect,
        ),
        (fresh, Side { current: 0, ..PLAIN }, QUIET, "just-created-both", Strategy::None),
        (fresh, PLAIN, QUIET, "just-created-self", Strategy::TargetSetBitmap),
        (PLAIN, fresh, QUIET, "just-created-peer", Strategy::SourceSetBitmap),
        (
            PLAIN,
            PLAIN,
            Context { missed_end: Some(MissedEnd::Own), ..QUIET },
            "sync-missed-finish",
            Strategy::SourceUseBitmap,
        ),
        (
            PLAIN,
            PLAIN,
            Context { missed_end: Some(MissedEnd::Peer), ..QUIET },
            "sync-missed-finish",
            Strategy::TargetUseBitmap,
        ),
        (again, again, QUIET, "reconnected", Strategy::None),
        (again, again, old, "reconnected", Strategy::None),
        (crashed, PLAIN, async_protocol, "crashed-primary", Strategy::SourceUseBitmap),
        (PLAIN, crashed, async_protocol, "crashed-primary", Strategy::TargetUseBitmap),
        (lost, PLAIN, QUIET, "lost-quorum", Strategy::SourceIfBothFailed),
        (PLAIN, lost, QUIET, "lost-quorum", Strategy::TargetIfBothFailed),
        (lost, lost, QUIET, "lost-quorum", Strategy::SourceIfBothFailed),
        (
            lost,
            lost,
            Context { resolve_conflicts: false, ..QUIET },
            "lost-quorum",
            Strategy::TargetIfBothFailed,
        ),
        (again, crashed, old, "reconnected", Strategy::SourceIfBothFailed),
        (crashed, again, old, "reconnected", Strategy::TargetIfBothFailed),
        (again, PLAIN, QUIET, "reconnected", Strategy::None),
        (PLAIN, PLAIN, QUIET, "both-off", Strategy::None),
        (crashed, PLAIN, QUIET, "both-off", Strategy::SourceIfBothFailed),
        (PLAIN, crashed, QUIET, "both-off", Strategy::TargetIfBothFailed),
        (crashed, crashed, QUIET, "both-off", Strategy::TargetIfBothFailed),
        (PLAIN, Side { bitmap: 0x101, ..newer }, QUIET, "bitmap-peer", Strategy::TargetUseBitmap),
        (
            PLAIN,
            Side { other_bitmaps: &[7, 0x100], ..newer },
            QUIET,
            "bitmap-peer-other",
            Strategy::TargetClearBitmap,
        ),
        (Side { bitmap: 0x101, ..newer }, PLAIN, QUIET, "bitmap-self", Strategy::SourceUseBitmap),
        (
            Side { other_bitmaps: &[0x100], ..newer },
            PLAIN,
            QUIET,
            "bitmap-self-other",
            Strategy::SourceCopyOtherBitmap,
        ),
        (PLAIN, Side { history: &[0x300, 0x101], ..newer }, QUIET, "history-peer", Strategy::TargetSetBitmap),
        (Side { history: &[0x300, 0x101], ..newer }, PLAIN, QUIET, "history-self", Strategy::SourceSetBitmap),
        (
            Side { bitmap: 0x300, ..PLAIN },
            Side { bitmap: 0x301, ..newer },
            QUIET,
            "bitmap-both",
            Strategy::SplitBrain,
        ),
        (
            Side { history: &[0x300], ..PLAIN },
            Side { history: &[0x400, 0x300], ..newer },
            QUIET,
            "history-both",
            Strategy::SplitBrainDisconnect,
        ),
        (
            Side { history: &[0, 0x300], ..PLAIN },
            Side { history: &[0, 0x300], ..newer },
            QUIET,
            "no-rule",
            Strategy::Unrelated,
        ),
        (PLAIN, newer, QUIET, "no-rule", Strategy::Unrelated),
    ];
    for (own, peer, context, name, strategy) in cases {
        assert_eq!(compare(own, peer, context), (name, strategy), "{own:?} {peer:?}");
    }
}

/// Every set of few generations.
fn sets() -> Vec<GenerationSet> {
    const FEW: [u64; 5] = [0, UUID_JUST_CREATED, 0x100, 0x200, 0x300];
    let mut sets = Vec::new();
    for current in FEW {
        for bitmap in [0, 0x100, 0x200, 0x300] {
            for first in [0, 0x100, 0x200, 0x300] {
                for second in [0, 0x100] {
                    let mut history = [0; 32];
                    history[..2].copy_from_slice(&[first, second]);
                    sets.push(GenerationSet { current, bitmap, history });
                }
            }
        }
    }
    sets
}

fn sides(set: &GenerationSet) -> impl Iterator<Item = Side<'_>> {
    (0..8).map(move |n| Side {
        crashed_primary: n & 1 != 0,
        lost_quorum: n & 2 != 0,
        reconnects: n & 4 != 0,
        ..Side::of(set)
    })
}

/// Each claims to be newer than the other: no history leads there.
fn contradictory(a: &GenerationSet, b: &GenerationSet) -> bool {
    let older = |a: &GenerationSet, b: &GenerationSet| {
        plain(a.current) == plain(b.bitmap) || Side::of(b).remembers(a.current)
    };
    older(a, b) && older(b, a)
}

#[test]
fn both_sides_come_to_mirrored_results() {
    let sets = sets();
    let mut compared = 0;
    for (a, b) in sets.iter().flat_map(|a| sets.iter().map(move |b| (a, b))) {
        if contradictory(a, b) {
            continue;
        }
        for (own, peer) in sides(a).flat_map(|own| sides(b).map(move |peer| (own, peer))) {
            for (agreed_version, protocol_c) in [(118, true), (121, false)] {
                let here = Context { agreed_version, protocol_c, ..QUIET };
                let there = Context { resolve_conflicts: false, ..here };
                let (rule, strategy) = compare(own, peer, here);
                let (_, reversed) = compare(peer, own, there);
                assert_eq!(strategy, reversed.reverse(), "{rule}: {own:?} {peer:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 2_000_000, "{compared} compared");
}

/// Where both tables know a case, and nobody crashed, they say the same.
#[test]
fn nine_says_what_84_said() {
    let context = CompareContext {
        agreed_version: 101,
        long_sizes: true,
        role: Role::Secondary,
        peer_role: Role::Secondary,
        crashed_primary: false,
        resolve_conflicts: true,
    };
    let sets = sets();
    let mut same = 0;
    for (own, peer) in sets.iter().flat_map(|a| sets.iter().map(move |b| (a, b))) {
        if contradictory(own, peer) {
            continue;
        }
        let announced = Uuids {
            current: peer.current,
            bitmap: peer.bitmap,
            history: peer.wire_history(),
            bits: 0,
            flags: 0,
        };
        let old = own.compare(&announced, &context);
        let expected = match (old.rule, old.strategy) {
            (10 | 40, Strategy84::NoSync) => Strategy::None,
            (20 | 60, Strategy84::TargetFull) => Strategy::TargetSetBitmap,
            (30 | 80, Strategy84::SourceFull) => Strategy::SourceSetBitmap,
            (50, Strategy84::TargetBitmap) => Strategy::TargetUseBitmap,
            (70, Strategy84::SourceBitmap) => Strategy::SourceUseBitmap,
            (90, Strategy84::SplitBrain) => Strategy::SplitBrain,
            // Rules 34 to 37, 51 and 71 guess what 9 is told; rule 100 counts empty places.
            _ => continue,
        };
        let empty_generation = plain(own.current) == 0 || plain(peer.current) == 0;
        let (rule, strategy) = compare(Side::of(own), Side::of(peer), QUIET);
        if empty_generation
            || own.history[0] == 0 && own.history[1] != 0
            || peer.history[0] == 0 && peer.history[1] != 0
        {
            continue;
        }
        assert_eq!(strategy, expected, "{rule} and {}: {own:?} {peer:?}", old.rule);
        same += 1;
    }
    assert!(same > 1500, "{same} cases");
}
