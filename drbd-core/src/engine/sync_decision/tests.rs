//! The vectors of DRBD 8.4, the mirror, and the words.

use super::*;
use crate::engine::after_split_brain::SplitBrainPolicy;
use crate::engine::decision_vectors::{roles, table};

const EMPTY: Uuids = Uuids { current: 0x10, bitmap: 0, history: [0; 2], bits: 0, flags: 0 };
const SAME: GenerationSet = GenerationSet { current: 0x10, bitmap: 0, history: [0; 32] };

pub(super) fn ordinary() -> SyncInput<'static> {
    SyncInput {
        resource: "r0",
        own: &SAME,
        peer: &EMPTY,
        context: CompareContext {
            agreed_version: 101,
            long_sizes: true,
            role: Role::Secondary,
            peer_role: Role::Secondary,
            crashed_primary: false,
            resolve_conflicts: false,
        },
        disk: DiskState::UpToDate,
        disk_at_attach: DiskState::Diskless,
        peer_disk: DiskState::UpToDate,
        policies: SplitBrainPolicies::default(),
        always_asbp: false,
        rr_conflict: RoleResyncConflict::Disconnect,
        discard_my_data: false,
        announced_bits: 0,
        tentative: false,
        peer_tentative: false,
    }
}

fn policy(word: &str) -> SplitBrainPolicy {
    match word {
        "call-pri-lost" => SplitBrainPolicy::CallPrimaryLost,
        "violently" => SplitBrainPolicy::Violently,
        other => SplitBrainPolicy::from_option(other),
    }
}

fn found(number: i32) -> Comparison {
    let strategy = Strategy::ALL.into_iter().find(|s| s.number() == number).expect("a strategy");
    Comparison { strategy, rule: 100, repair: None }
}

#[test]
fn handshake_cases_of_84() {
    for case in table("handshake_cases") {
        let discards = if case.flag("pdis") { uuid_flag::DISCARD_MY_DATA } else { 0 };
        let peer = Uuids { flags: discards, ..EMPTY };
        let (role, peer_role) = roles(case.text("roles"));
        let nobody_primary = match case.number("hg0") {
            1 => SplitBrainPolicy::DiscardRemote,
            -1 => SplitBrainPolicy::DiscardLocal,
            _ => SplitBrainPolicy::Disconnect,
        };
        let input = SyncInput {
            peer: &peer,
            context: CompareContext { role, peer_role, ..ordinary().context },
            disk: case.text("own_disk").parse().expect("disk"),
            peer_disk: case.text("peer_disk").parse().expect("disk"),
            policies: SplitBrainPolicies {
                nobody_primary,
                one_primary: policy(case.text("pol1")),
                both_primary: policy(case.text("pol2")),
            },
            always_asbp: case.flag("asbp"),
            rr_conflict: RoleResyncConflict::from_option(case.text("rr")),
            discard_my_data: case.flag("dis"),
            ..ordinary()
        };
        let decision = decide_on(found(case.number("hg")), &input);
        let (outcome, full) = match decision.action {
            Action::None => ("Connected", false),
            Action::Source { full } => ("WFBitMapS", full),
            Action::Target { full } => ("WFBitMapT", full),
            Action::Fail { .. } => ("FAIL", false),
        };
        assert_eq!(outcome, case.text("outcome"), "{}", case.line);
        assert_eq!(full, case.flag("full"), "{}", case.line);
        let handlers =
            if decision.handlers.is_empty() { "-".to_owned() } else { decision.handlers.join(",") };
        assert_eq!(handlers, case.text("handlers"), "{}", case.line);
    }
}

/// What the peer must do if this node does that.
pub(super) fn reverse(action: Action) -> Action {
    match action {
        Action::Source { full } => Action::Target { full },
        Action::Target { full } => Action::Source { full },
        other => other,
    }
}

#[test]
fn both_sides_decide_mirrored() {
    const DISKS: [DiskState; 4] =
        [DiskState::Inconsistent, DiskState::Outdated, DiskState::Consistent, DiskState::UpToDate];
    let mut compared = 0;
    let discards = |flag| if flag { uuid_flag::DISCARD_MY_DATA } else { 0 };
    for (disk, peer_disk) in DISKS.iter().flat_map(|d| DISKS.iter().map(move |p| (*d, *p))) {
        for strategy in Strategy::ALL {
            for policy in SplitBrainPolicy::ALL {
                for n in 0..64 {
                    let bit = |k: u32| n >> k & 1 != 0;
                    let role = |primary| if primary { Role::Primary } else { Role::Secondary };
                    let own = Uuids { flags: discards(bit(0)), bits: u64::from(bit(4)), ..EMPTY };
                    let peer = Uuids { flags: discards(bit(1)), bits: 3, ..EMPTY };
                    let here = SyncInput {
                        peer: &peer,
                        context: CompareContext {
                            role: role(bit(2)),
                            peer_role: role(bit(3)),
                            ..ordinary().context
                        },
                        disk,
                        peer_disk,
                        policies: SplitBrainPolicies {
                            nobody_primary: policy,
                            one_primary: policy,
                            both_primary: policy,
                        },
                        always_asbp: bit(5),
                        discard_my_data: bit(0),
                        announced_bits: own.bits,
                        ..ordinary()
                    };
                    let mirrored = policy.mirrored();
                    let there = SyncInput {
                        peer: &own,
                        context: CompareContext {
                            role: here.context.peer_role,
                            peer_role: here.context.role,
                            resolve_conflicts: true,
                            ..here.context
                        },
                        disk: peer_disk,
                        peer_disk: disk,
                        policies: SplitBrainPolicies {
                            nobody_primary: mirrored,
                            one_primary: mirrored,
                            both_primary: mirrored,
                        },
                        discard_my_data: bit(1),
                        announced_bits: peer.bits,
                        ..here
                    };
                    let comparison = Comparison { strategy, rule: 100, repair: None };
                    let answer = Comparison { strategy: strategy.reverse(), ..comparison };
                    let here = decide_on(comparison, &here).action;
                    let there = decide_on(answer, &there).action;
                    // One side's refusal (Primary target, Inconsistent source) ends the connection for both.
                    let parted = |action| matches!(action, Action::Fail { .. });
                    if !parted(here) && !parted(there) {
                        assert_eq!(here, reverse(there), "{strategy:?} {policy:?} {n} {disk} {peer_disk}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 10_000, "{compared}");
}

#[test]
fn failing_while_a_disk_is_attached_only_ends_the_attach() {
    let unrelated = found(-1000);
    let then = |input: &SyncInput<'_>| match decide_on(unrelated, input).action {
        Action::Fail { then, .. } => then,
        other => panic!("{other:?}"),
    };
    let negotiating = SyncInput { disk: DiskState::Negotiating, ..ordinary() };
    assert_eq!(then(&negotiating), AfterFailure::AbortAttach);
    let peer_attaching = SyncInput { peer_disk: DiskState::Negotiating, ..ordinary() };
    assert_eq!(then(&peer_attaching), AfterFailure::PeerStaysDiskless);
    let dry = SyncInput { peer_tentative: true, ..ordinary() };
    assert_eq!(then(&dry), AfterFailure::Reconnect);
    assert_eq!(then(&SyncInput { tentative: true, ..ordinary() }), AfterFailure::Disconnect);
}

#[test]
fn a_disk_being_attached_counts_for_what_it_is() {
    let input = SyncInput {
        disk: DiskState::Negotiating,
        disk_at_attach: DiskState::Inconsistent,
        context: CompareContext { role: Role::Primary, ..ordinary().context },
        ..ordinary()
    };
    assert_eq!(decide_on(found(0), &input).action, Action::Target { full: false });
    let peer = Uuids { flags: uuid_flag::INCONSISTENT, ..EMPTY };
    let input = SyncInput { peer: &peer, peer_disk: DiskState::Negotiating, ..ordinary() };
    assert_eq!(decide_on(found(0), &input).action, Action::Source { full: false });
    let input = SyncInput { peer_disk: DiskState::UpToDate, ..input };
    assert_eq!(decide_on(found(0), &input).action, Action::None, "the flag says nothing of a disk in use");
}

#[test]
fn a_tentative_connect_only_tells() {
    let decision = decide_on(found(2), &SyncInput { tentative: true, ..ordinary() });
    assert!(matches!(decision.action, Action::Fail { reason: FailReason::Tentative, .. }));
    let told = "dry-run connect: Would become SyncSource, doing a full resync.";
    assert_eq!(decision.log.last().map(|(_, text)| text.as_str()), Some(told));
}

#[test]
fn a_primary_that_must_not_be_target_may_try_again() {
    let input = SyncInput {
        rr_conflict: RoleResyncConflict::from_option("retry-connect"),
        context: CompareContext { role: Role::Primary, ..ordinary().context },
        ..ordinary()
    };
    let expected = Action::Fail { reason: FailReason::TargetPrimary, then: AfterFailure::Reconnect };
    assert_eq!(decide_on(found(-1), &input).action, expected);
}

#[test]
fn split_brain_is_told_with_the_way_out() {
    let own = GenerationSet { current: 0xa11, bitmap: 0xd41, ..SAME };
    let peer = Uuids { current: 0xb20, bitmap: 0xd40, bits: 5, ..EMPTY };
    let decision = decide(&SyncInput { own: &own, peer: &peer, announced_bits: 2, ..ordinary() });
    let lines: Vec<&str> = decision.log.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        lines,
        [
            "drbd_sync_handshake:",
            "self 0000000000000A11:0000000000000D41:0000000000000000:0000000000000000 bits:2 flags:0",
            "peer 0000000000000B20:0000000000000D40:0000000000000000:0000000000000000 bits:5 flags:0",
            "uuid_compare()=100 by rule 90",
            "Split-Brain detected but unresolved, dropping connection!",
        ]
    );
    assert_eq!(
        decision.sentence,
        "Split-Brain detected but unresolved, dropping connection! (uuid_compare()=100 by rule 90): both nodes were \
         written since generation 0000000000000D41 (this node: current 0000000000000A11, bitmap since \
         0000000000000D41, 8 KiB out of sync; peer: current 0000000000000B20, bitmap since 0000000000000D40, 20 KiB \
         out of sync); run `drbdadm connect --discard-my-data r0` on the node whose changes may go, and `drbdadm \
         connect r0` on the other if it is StandAlone"
    );
}

#[test]
fn every_decision_has_a_sentence_of_one_line() {
    for strategy in Strategy::ALL {
        for rule in [10, 20, 30, 34, 35, 36, 37, 40, 41, 50, 51, 60, 70, 71, 80, 90, 100] {
            let decision = decide_on(Comparison { strategy, rule, repair: None }, &ordinary());
            assert!(decision.sentence.contains(&format!("by rule {rule}): ")), "{}", decision.sentence);
            assert!(
                !decision.sentence.contains('\n') && !decision.sentence.contains("  "),
                "{}",
                decision.sentence
            );
        }
    }
}

#[test]
fn the_amount_is_told() {
    let last = |decision: Decision| decision.log.last().map(|(_, text)| text.clone()).unwrap_or_default();
    let bits = SyncInput { announced_bits: 3, ..ordinary() };
    assert_eq!(last(decide_on(found(0), &bits)), "No resync, but 3 bits in bitmap!");
    let full = "Writing the whole bitmap, full sync required after drbd_sync_handshake.";
    assert_eq!(last(decide_on(found(-2), &ordinary())), full);
}
