//! The vectors of DRBD 8.4, the moves, and all pairs of small sets from both sides.

use super::*;
use crate::engine::decision_vectors::{roles, table};
use crate::states::Role;
use crate::wire::uuid_flag;

fn four(text: &str) -> [u64; 4] {
    let mut values = text.split(':').map(|v| u64::from_str_radix(v, 16).expect("hex"));
    std::array::from_fn(|_| values.next().expect("four generations"))
}

fn own_set([current, bitmap, younger, older]: [u64; 4]) -> GenerationSet {
    let mut history = [0; 32];
    history[..2].copy_from_slice(&[younger, older]);
    GenerationSet { current, bitmap, history }
}

fn peer_set([current, bitmap, younger, older]: [u64; 4], crashed: bool) -> Uuids {
    let flags = if crashed { uuid_flag::CRASHED_PRIMARY } else { 0 };
    Uuids { current, bitmap, history: [younger, older], bits: 0, flags }
}

#[test]
fn uuid_cases_of_84() {
    for case in table("uuid_cases") {
        let mut own = own_set(four(case.text("my_set")));
        let mut peer = peer_set(four(case.text("peer_set")), case.flag("pf2"));
        let (role, peer_role) = roles(case.text("roles"));
        let context = CompareContext {
            agreed_version: case.number("apv") as u32,
            long_sizes: case.flag("wsame"),
            role,
            peer_role,
            crashed_primary: case.flag("crashed"),
            resolve_conflicts: case.flag("rc"),
        };
        let comparison = own.compare(&peer, &context);
        assert_eq!(comparison.strategy.number(), case.number("result"), "{}", case.line);
        assert_eq!(i32::from(comparison.rule), case.number("rule"), "{}", case.line);
        let (own_before, peer_before) = (own, peer);
        if let Some(repair) = comparison.repair {
            repair.apply(&mut own, &mut peer);
        }
        let after = |column, before| match case.text(column) {
            "-" => before,
            text => four(text),
        };
        let four_of_own = |s: &GenerationSet| [s.current, s.bitmap, s.history[0], s.history[1]];
        let four_of_peer = |s: &Uuids| [s.current, s.bitmap, s.history[0], s.history[1]];
        assert_eq!(four_of_own(&own), after("my_after", four_of_own(&own_before)), "{}", case.line);
        assert_eq!(four_of_peer(&peer), after("peer_after", four_of_peer(&peer_before)), "{}", case.line);
    }
}

fn plain_context(
    role: Role,
    peer_role: Role,
    crashed_primary: bool,
    resolve_conflicts: bool,
) -> CompareContext {
    CompareContext {
        agreed_version: 101,
        long_sizes: true,
        role,
        peer_role,
        crashed_primary,
        resolve_conflicts,
    }
}

/// Sets that should not arise: both empty, or each current among the other's older ones. 8.4 tests for target first,
/// so both sides become target.
fn both_become_target(a: [u64; 4], b: [u64; 4]) -> bool {
    let among_older = |current: u64, set: [u64; 4]| set[1..].contains(&current);
    a[0] == 0 && b[0] == 0 || a[0] != b[0] && among_older(a[0], b) && among_older(b[0], a)
}

#[test]
fn both_sides_come_to_mirrored_results() {
    const VALUES: [u64; 7] = [0, 4, 0x10, 0x20, 0x30, 0x10 + RESYNC_OFFSET, 0x20 + RESYNC_OFFSET];
    let sets: Vec<[u64; 4]> = VALUES
        .iter()
        .flat_map(|c| VALUES.iter().flat_map(move |b| VALUES.iter().map(move |h| [*c, *b, *h])))
        .flat_map(|[c, b, h]| VALUES.iter().map(move |older| [c, b, h, *older]))
        .collect();
    let mut mirrored = 0;
    for a in &sets {
        for b in &sets {
            let here = own_set(*a)
                .compare(&peer_set(*b, false), &plain_context(Role::Secondary, Role::Secondary, false, true));
            let there = own_set(*b).compare(
                &peer_set(*a, false),
                &plain_context(Role::Secondary, Role::Secondary, false, false),
            );
            if !both_become_target(*a, *b) {
                assert_eq!(here.strategy, there.strategy.reverse(), "{a:x?} against {b:x?}");
                mirrored += 1;
            }
        }
    }
    assert!(mirrored > 4_500_000, "{mirrored}");
}

#[test]
fn roles_and_crashes_are_mirrored_too() {
    let sets =
        [[0x10, 0, 0, 0], [0x11, 0, 0, 0], [0x10, 0x20, 0x30, 0], [0x20, 0x40, 0, 0], [0x30, 0x20, 0x50, 0]];
    let people = [Role::Primary, Role::Secondary];
    for (a, b) in sets.iter().flat_map(|a| sets.iter().map(move |b| (*a, *b))) {
        for (mine, theirs) in people.iter().flat_map(|m| people.iter().map(move |t| (*m, *t))) {
            for n in 0..8 {
                let (here_crashed, there_crashed, resolve) = (n & 1 != 0, n & 2 != 0, n & 4 != 0);
                let here = plain_context(mine, theirs, here_crashed, resolve);
                let there = plain_context(theirs, mine, there_crashed, !resolve);
                let a_says = own_set(a).compare(&peer_set(b, there_crashed), &here);
                let b_says = own_set(b).compare(&peer_set(a, here_crashed), &there);
                assert_eq!(a_says.strategy, b_says.strategy.reverse(), "{a:x?} {b:x?} {here:?}");
            }
        }
    }
}

#[test]
fn reverse_is_its_own_inverse() {
    for strategy in Strategy::ALL {
        assert_eq!(strategy.reverse().reverse(), strategy);
    }
    assert_eq!(Strategy::NeedsLongSizes.number(), -66661);
}

#[test]
fn a_new_generation_keeps_the_role_bit_of_the_old_one() {
    let mut set = own_set([0x11, 0, 0x8, 0]);
    set.begin_new(0xabc0, true);
    assert_eq!((set.current, set.bitmap), (0xabc1, 0x11));
    set.mark_role(false);
    assert_eq!(set.current, 0xabc0);
    set.set_bitmap(0);
    assert_eq!((set.bitmap, set.wire_history()), (0, [0x11, 0x8]));
    set.set_bitmap(0);
    assert_eq!(set.wire_history(), [0x11, 0x8], "nothing to forget twice");
    set.set_bitmap(0x21);
    assert_eq!(set.bitmap, 0x20);
}

#[test]
fn a_resync_leaves_both_sides_equal() {
    for crash_at in 0..5 {
        let mut source = own_set([0xa11, 0xd41, 0xe50, 0xc30]);
        let mut target = own_set([0xd40, 0, 0xe50, 0xc30]);
        let announced = peer_set([source.current, source.bitmap, 0xe50, 0xc30], false);
        let secondary = |resolve| plain_context(Role::Secondary, Role::Secondary, false, resolve);
        let mut name = 0;
        for step in 0..crash_at {
            match step {
                0 => name = source.begin_resync_as_source(0x999),
                1 => target.begin_resync_as_target(name, false),
                2 => target.finish_resync_as_target(&announced, false),
                _ => source.finish_resync_as_source(),
            }
        }
        let seen = |s: &GenerationSet| peer_set([s.current, s.bitmap, s.history[0], s.history[1]], false);
        let at_source = source.compare(&seen(&target), &secondary(true));
        let at_target = target.compare(&seen(&source), &secondary(false));
        let expected = [
            (Strategy::SourceBitmap, 70), // not begun
            (Strategy::SourceBitmap, 71), // the target never heard of it
            (Strategy::SourceBitmap, 70), // under way
            (Strategy::SourceBitmap, 34), // the source missed the end
            (Strategy::NoSync, 40),
        ][crash_at];
        assert_eq!((at_source.strategy, at_source.rule), expected, "after {crash_at} steps");
        assert_eq!(at_target.strategy, at_source.strategy.reverse(), "after {crash_at} steps");
        if crash_at == 4 {
            assert_eq!(target.current & !ROLE_BIT, source.current & !ROLE_BIT);
            assert_eq!(target.wire_history(), [name & !ROLE_BIT, 0xd41], "a Secondary drops the role bit");
            assert_eq!(source.wire_history(), [name, 0xd41]);
        }
    }
}

#[test]
fn a_repair_lets_the_interrupted_resync_begin_again() {
    let mut source = own_set([0xa10, 0xd40, 0xe50, 0xc30]);
    let before = source;
    source.begin_resync_as_source(0x999);
    let mut target = peer_set([0xd40, 0, 0xe50, 0xc30], false);
    let context = plain_context(Role::Secondary, Role::Secondary, false, true);
    let comparison = source.compare(&target, &context);
    comparison.repair.expect("rule 71 repairs").apply(&mut source, &mut target);
    assert_eq!((source.bitmap, source.history[0]), (before.bitmap, before.history[0]));
    assert_eq!(source.compare(&target, &context).rule, 70);
}

#[test]
fn a_lone_new_generation_forgets_what_the_bitmap_counted_from() {
    let mut set = own_set([0x40, 0x30, 0x20, 0]);
    set.begin_new_forgetting(0x50, true);
    assert_eq!((set.current, set.bitmap, set.wire_history()), (0x51, 0x40, [0x30, 0x20]));
    let mut fresh = GenerationSet::JUST_CREATED;
    assert!(fresh.is_just_created());
    fresh.adopt(0x51, false);
    assert_eq!((fresh.current, fresh.bitmap), (0x50, 0));
}

#[test]
fn the_oldest_of_32_is_forgotten() {
    let mut set = GenerationSet::JUST_CREATED;
    for n in 1..=40 {
        set.set_bitmap(n << 4);
        set.set_bitmap(0);
    }
    assert_eq!(set.history[0], 40 << 4);
    assert_eq!(set.history[31], 9 << 4);
}

#[test]
fn a_source_is_ahead_whatever_becomes_of_the_resync() {
    let context = plain_context(Role::Secondary, Role::Secondary, false, true);
    for (own, peer) in [
        ([0xa10, 0xd40, 0xe50, 0xc30], [0xa10, 0, 0xd40, 0xe50]), // missed the end of a resync: rule 34
        ([0xa10, 0xd40, 0, 0], [0xa10, 0, 0, 0]),                 // rule 36
        ([0xa10, 0, 0, 0], [0xa10, 0, 0, 0]),                     // a crash told, and may be forgotten
    ] {
        let mut own = own_set(own);
        let peer = peer_set(peer, false);
        assert!(own.get_ahead_of(&peer, 0xf00, false));
        let comparison = own.compare(&peer, &context);
        assert_eq!((comparison.strategy, comparison.rule), (Strategy::SourceBitmap, 70));
    }
    let mut ahead = own_set([0xb20, 0xa10, 0, 0]);
    let before = ahead;
    assert!(!ahead.get_ahead_of(&peer_set([0xa10, 0, 0, 0], false), 0xf00, true));
    assert_eq!(ahead, before, "a generation of its own tells already");
}

#[test]
fn a_source_that_missed_the_end_is_not_taken_for_unwritten() {
    let context = plain_context(Role::Secondary, Role::Secondary, false, true);
    for begun_from in [0xd40, UUID_JUST_CREATED] {
        let mut source = own_set([0xa10, begun_from, 0xc30, 0xc20]);
        let announced = peer_set([0xa10, begun_from, 0xc30, 0xc20], false);
        let name = source.begin_resync_as_source(0x999_000);
        let mut target = own_set([begun_from, 0, 0xc30, 0xc20]);
        target.begin_resync_as_target(name, false);
        let unfinished = peer_set([name, 0, 0xc30, 0xc20], false);
        target.finish_resync_as_target(&announced, false);
        assert!(source.begin_apart(false, 0xf00, false), "the target may have 0xa10");
        assert!(!source.begin_apart(false, 0xf10, false), "once is enough");
        let comparison = source.compare(&unfinished, &context);
        assert_eq!((comparison.strategy, comparison.rule), (Strategy::SourceBitmap, 70));
        assert!(target.begin_apart(false, 0xe00, false));
        let written = peer_set([target.current, target.bitmap, target.history[0], target.history[1]], false);
        let strategy = source.compare(&written, &context).strategy;
        assert!(matches!(strategy, Strategy::SplitBrain | Strategy::SplitBrainDisconnect), "{strategy:?}");
    }
}
