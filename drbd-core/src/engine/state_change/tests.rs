//! The vectors of DRBD 8.4, and all 135,000 states.

use super::judge::verify_refusal;
use super::*;
use crate::engine::decision_vectors::{snapshot, table};
use crate::refusal::Reason;
use crate::states::{ConnectionState, DiskState, ReplicationState, ResyncSuspended, Role, Suspended};

fn ordinary() -> Context {
    Context {
        two_primaries: false,
        fencing: FencingPolicy::DontCare,
        suspend_without_data: false,
        has_net_config: true,
        verify_alg: true,
        agreed_version: 101,
        open: false,
        peer_primary_elsewhere: false,
        state_sent: false,
        exposed_equals_current: false,
        disk_at_attach: None,
    }
}

fn fencing(number: i32) -> FencingPolicy {
    [FencingPolicy::DontCare, FencingPolicy::ResourceOnly, FencingPolicy::ResourceAndStonith][number as usize]
}

fn with_deviation(mut context: Context, deviation: &str) -> Context {
    match deviation {
        "-" | "netconf=1" => {}
        "apv=87" => context.agreed_version = 87,
        "open=1" => context.open = true,
        "other_peer_pri=1" => context.peer_primary_elsewhere = true,
        "sent=1" => context.state_sent = true,
        "two_pri=1" => context.two_primaries = true,
        "valg=0" => context.verify_alg = false,
        other => panic!("unknown deviation {other}"),
    }
    context
}

#[test]
fn state_cases_of_84() {
    for case in table("state_cases") {
        let mut context = with_deviation(ordinary(), case.text("env"));
        context.fencing = fencing(case.number("fencing"));
        context.suspend_without_data = case.flag("ond");
        let old = snapshot(case.text("old"));
        let new = settle(&old, snapshot(case.text("wanted")), &context).snapshot;
        assert_eq!(new, snapshot(case.text("sanitised")), "settled: {}", case.line);

        let cluster_wide = needs_peer(&old, &new);
        assert_eq!(cluster_wide, case.flag("cw"), "cluster wide: {}", case.line);
        let whole_connection = new.connection == ConnectionState::Disconnecting;
        let verdict = if cluster_wide && !whole_connection {
            judge_cluster_wide(&old, &new, &context)
        } else {
            judge_local(&old, &new, false, &context)
        };
        assert_eq!(verdict.number(), case.number("code"), "code: {}", case.line);
        let forced = judge_local(&old, &new, true, &context);
        assert_eq!(forced.number(), case.number("forced"), "forced: {}", case.line);
    }
}

/// Every state of one volume towards one peer, nothing held or suspended.
fn every_state() -> impl Iterator<Item = Snapshot> {
    Role::ALL.iter().flat_map(|role| {
        Role::ALL.iter().flat_map(move |peer_role| {
            every_connection().flat_map(move |(connection, replication)| {
                every_disk_pair().map(move |(disk, peer_disk)| Snapshot {
                    role: *role,
                    peer_role: *peer_role,
                    connection,
                    replication,
                    disk,
                    peer_disk,
                    ..Snapshot::INITIAL
                })
            })
        })
    })
}

fn every_connection() -> impl Iterator<Item = (ConnectionState, ReplicationState)> {
    ConnectionState::ALL.iter().flat_map(|c| ReplicationState::ALL.iter().map(move |r| (*c, *r)))
}

fn every_disk_pair() -> impl Iterator<Item = (DiskState, DiskState)> {
    DiskState::ALL.iter().flat_map(|d| DiskState::ALL.iter().map(move |p| (*d, *p)))
}

/// Contexts that make every rule able to speak.
fn contexts() -> [Context; 4] {
    let strict = Context {
        fencing: FencingPolicy::ResourceAndStonith,
        suspend_without_data: true,
        open: true,
        ..ordinary()
    };
    let lax = Context { two_primaries: true, verify_alg: false, has_net_config: false, ..ordinary() };
    let attaching = Context {
        exposed_equals_current: true,
        disk_at_attach: Some((DiskState::Consistent, DiskState::Outdated)),
        state_sent: true,
        fencing: FencingPolicy::ResourceOnly,
        ..ordinary()
    };
    [ordinary(), strict, lax, attaching]
}

/// Every value of the options and facts the rules read.
fn every_context() -> impl Iterator<Item = Context> {
    (0..3).flat_map(|n| {
        (0..16).map(move |bits| {
            let bit = |k: u32| bits >> k & 1 != 0;
            Context {
                fencing: fencing(n),
                two_primaries: bit(0),
                suspend_without_data: bit(1),
                open: bit(2),
                has_net_config: bit(3),
                ..ordinary()
            }
        })
    })
}

/// Every reason for which requests are held.
fn every_suspension() -> impl Iterator<Item = Suspended> {
    (0..8).map(|bits| Suspended {
        user: bits & 1 != 0,
        no_data: bits & 2 != 0,
        fencing: bits & 4 != 0,
        ..Suspended::default()
    })
}

#[test]
fn suspensions_stay_and_decide_nothing_but_themselves() {
    let held = |s: &Suspended| [s.user, s.no_data, s.fencing, s.quorum];
    for state in every_state() {
        for context in [&ordinary(), &contexts()[1]] {
            let plain = settle(&state, state, context).snapshot;
            for suspended in every_suspension() {
                let wanted = Snapshot { suspended, ..state };
                let settled = settle(&wanted, wanted, context).snapshot;
                let added = held(&settled.suspended).into_iter().zip(held(&suspended));
                assert!(added.into_iter().all(|(now, before)| now || !before), "{wanted:?}");
                let other = Snapshot { suspended: plain.suspended, ..settled };
                assert_eq!(other, plain, "{wanted:?}");
            }
        }
    }
}

#[test]
fn settling_twice_is_settling_once_but_for_two_exceptions() {
    let held = ResyncSuspended { user: true, peer: true, dependency: true };
    let mut states = 0;
    for state in every_state() {
        states += 1;
        for resync_suspended in [ResyncSuspended::default(), held] {
            let wanted = Snapshot { resync_suspended, ..state };
            for context in contexts() {
                for old in [wanted, Snapshot::INITIAL] {
                    settles_once(&old, wanted, &context);
                }
            }
        }
    }
    assert_eq!(states, 135_000);
}

fn settles_once(old: &Snapshot, wanted: Snapshot, context: &Context) {
    let once = settle(old, wanted, context);
    let again = settle(old, once.snapshot, context);
    if once.fired().any(|rule| rule == "resume-resync" || rule == "end-negotiation") {
        let third = settle(old, again.snapshot, context);
        assert_eq!(third.snapshot, again.snapshot, "{wanted:?}");
    } else {
        assert_eq!(again.snapshot, once.snapshot, "{wanted:?}");
    }
}

/// What must be true of every settled state, whoever asked and however it came about; said without the rules.
fn is_sound(state: &Snapshot) -> bool {
    use ReplicationState as R;
    let connected = state.connection == ConnectionState::Connected;
    let replicating = connected && state.replication != R::Off;
    if !connected && state.replication != R::Off {
        return false;
    }
    if !replicating {
        let known = [DiskState::Inconsistent, DiskState::Outdated, DiskState::DUnknown];
        return state.peer_role == Role::Unknown && known.contains(&state.peer_disk);
    }
    if state.replication == R::Established {
        return true;
    }
    let good_source = state.disk == DiskState::UpToDate || state.peer_disk == DiskState::UpToDate;
    let target_claims_good = state.replication.is_target() && state.disk == DiskState::UpToDate
        || state.replication.is_source() && state.peer_disk == DiskState::UpToDate;
    state.disk.has_data() && state.peer_disk.has_data() && good_source && !target_claims_good
}

/// What an administrator must never be able to bring about.
fn is_forbidden(state: &Snapshot, context: &Context) -> bool {
    let primary = state.role == Role::Primary;
    let alone = state.connection != ConnectionState::Connected || state.replication == ReplicationState::Off;
    let no_good_data = state.disk != DiskState::UpToDate && state.peer_disk != DiskState::UpToDate;
    let two_primaries = state.peer_role == Role::Primary && context.has_net_config && !context.two_primaries;
    let unfenced = context.fencing != FencingPolicy::DontCare
        && state.disk.has_data()
        && alone
        && state.peer_disk == DiskState::DUnknown;
    primary && (no_good_data || two_primaries || unfenced || alone && state.disk != DiskState::UpToDate)
}

#[test]
fn every_settled_state_is_sound_and_judging_is_total() {
    let start = [Snapshot::INITIAL, snapshot("P/S/Connected/UpToDate/UpToDate/---/-")];
    for wanted in every_state() {
        for context in contexts() {
            for old in start.iter().chain([&wanted]) {
                let new = settle(old, wanted, &context).snapshot;
                assert!(is_sound(&new), "{new:?} from {wanted:?}");
                let forced = judge_local(old, &new, true, &context);
                if judge_local(old, &new, false, &context) == Verdict::Allowed {
                    assert_eq!(forced, Verdict::Allowed, "what may be asked for may also happen: {new:?}");
                }
                if judge_cluster_wide(old, &new, &context) == Verdict::Allowed {
                    assert_eq!(judge_local(old, &new, false, &context), Verdict::Allowed, "{new:?}");
                }
                let _ = needs_peer(old, &new);
            }
        }
    }
}

/// Every proposal that changes one field.
fn proposals(old: Snapshot) -> impl Iterator<Item = Snapshot> {
    let roles = Role::ALL.iter().map(move |role| Snapshot { role: *role, ..old });
    let disks = DiskState::ALL.iter().map(move |disk| Snapshot { disk: *disk, ..old });
    let peer_disks = DiskState::ALL.iter().map(move |disk| Snapshot { peer_disk: *disk, ..old });
    let conns = (0..24).map(move |n| old.with_conn84(crate::states::Conn84(n)));
    let suspended = Suspended { user: true, ..old.suspended };
    let held = ResyncSuspended { user: true, ..old.resync_suspended };
    let flags = [Snapshot { suspended, ..old }, Snapshot { resync_suspended: held, ..old }];
    roles.chain(disks).chain(peer_disks).chain(conns).chain(flags)
}

#[test]
fn no_request_leads_from_a_legal_state_into_a_forbidden_one() {
    let mut legal = 0;
    let mut allowed = 0;
    for context in every_context() {
        let usable = |s: &Snapshot| is_sound(s) && !is_forbidden(s, &context) && s.role != Role::Unknown;
        for old in every_state().filter(|s| settle(s, *s, &context).snapshot == *s && usable(s)) {
            legal += 1;
            for wanted in proposals(old) {
                let new = settle(&old, wanted, &context).snapshot;
                if judge_local(&old, &new, false, &context) == Verdict::Allowed {
                    allowed += 1;
                    assert!(!is_forbidden(&new, &context), "{old:?} -> {new:?}");
                    assert!(is_sound(&new), "{old:?} -> {new:?}");
                }
            }
        }
    }
    assert!(
        legal > 1000 && allowed > 10_000,
        "{legal} legal states, {allowed} steps: the test tests nothing"
    );
}

#[test]
fn the_rules_that_fired_are_named_in_order() {
    let old = snapshot("P/S/SyncTarget/Inconsistent/UpToDate/---/-");
    let context = Context { suspend_without_data: true, ..ordinary() };
    let lost = Snapshot { connection: ConnectionState::NetworkFailure, ..old };
    let settled = settle(&old, lost, &context);
    let fired: Vec<&str> = settled.fired().collect();
    assert_eq!(fired, ["no-session-no-replication", "forget-lost-peer", "freeze-without-data"]);
}

#[test]
fn who_is_behind_stays_old_when_the_good_disk_goes() {
    let ahead = snapshot("P/S/Ahead/UpToDate/Consistent/---/-");
    let failed = settle(&ahead, Snapshot { disk: DiskState::Failed, ..ahead }, &ordinary()).snapshot;
    assert_eq!(
        (failed.replication, failed.peer_disk),
        (ReplicationState::Established, DiskState::Inconsistent)
    );
    assert_eq!(judge_local(&ahead, &failed, false, &ordinary()), Verdict::Refused(Reason::NoUpToDateDisk));
    let behind = snapshot("S/P/Behind/Outdated/UpToDate/---/-");
    let left = settle(&behind, Snapshot { peer_disk: DiskState::Failed, ..behind }, &ordinary()).snapshot;
    assert_eq!((left.replication, left.disk), (ReplicationState::Established, DiskState::Inconsistent));
}

#[test]
fn detaching_counts_like_failed() {
    for old in every_state().filter(|s| s.disk == DiskState::Failed) {
        let as_detaching = Snapshot { disk: DiskState::Detaching, ..old };
        let failed = settle(&old, old, &ordinary());
        let detaching = settle(&as_detaching, as_detaching, &ordinary());
        assert_eq!(failed.snapshot.conn84(), detaching.snapshot.conn84());
        let before = snapshot("P/S/Connected/UpToDate/UpToDate/---/-");
        let verdict = |new| judge_local(&before, new, false, &ordinary());
        assert_eq!(verdict(&failed.snapshot), verdict(&detaching.snapshot));
    }
}

#[test]
fn verify_against_an_inconsistent_peer_is_refused_early() {
    let inconsistent = snapshot("S/S/Connected/UpToDate/Inconsistent/---/-");
    assert_eq!(verify_refusal(&inconsistent), Some(Reason::NoUpToDateDisk));
    assert_eq!(verify_refusal(&snapshot("S/S/Connected/UpToDate/UpToDate/---/-")), None);
}
