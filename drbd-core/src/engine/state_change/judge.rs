//! Whether a settled change may be: facts of the state machine, validity of the target, and what a user may ask for
//! (5.6 and 5.7 of the wire reference).
//!
//! Three lists of named rules. `HARD` binds even facts (a lost network, a failed disk); `VALID` looks at the
//! target alone; `SOFT` at the step. An invalid target is tolerated if the state before was invalid for the same
//! reason, so that one bad fact does not forbid every later change, except in the pre-check of a cluster-wide one.

use super::snapshot::{Context, FencingPolicy, Snapshot};
use crate::refusal::Reason;
use crate::states::{Conn84, ConnectionState as C, DiskState, ReplicationState as R, Role};

/// What becomes of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The state is already so (SS_NOTHING_TO_DO).
    NothingToDo,
    /// It may be.
    Allowed,
    /// It may not be.
    Refused(Reason),
}

impl Verdict {
    /// The number DRBD uses for it: 1, 2, or the reason's.
    pub const fn number(self) -> i32 {
        match self {
            Verdict::NothingToDo => 2,
            Verdict::Allowed => 1,
            Verdict::Refused(reason) => reason.number(),
        }
    }
}

/// A step from `old` to `new`.
#[derive(Clone, Copy)]
struct Step<'a> {
    old: &'a Snapshot,
    new: &'a Snapshot,
    context: &'a Context,
}

/// A rule that refuses what it holds for.
struct Rule {
    reason: Reason,
    holds: fn(Step<'_>) -> bool,
}

/// Judges a change of this node alone, or one of the whole connection. `hard` changes are facts: only impossible
/// steps are refused.
pub fn judge_local(old: &Snapshot, new: &Snapshot, hard: bool, context: &Context) -> Verdict {
    judge(Step { old, new, context }, hard, true)
}

/// Judges a change before the peer is asked, and again while its answer is awaited: without tolerance.
pub fn judge_cluster_wide(old: &Snapshot, new: &Snapshot, context: &Context) -> Verdict {
    judge(Step { old, new, context }, false, false)
}

fn judge(step: Step<'_>, hard: bool, tolerant: bool) -> Verdict {
    if step.old == step.new {
        return Verdict::NothingToDo;
    }
    if let Some(reason) = impossible(step) {
        return Verdict::Refused(reason);
    }
    if hard {
        return Verdict::Allowed;
    }
    let invalid = invalid(step);
    let tolerated = tolerant && invalid == self::invalid(Step { new: step.old, ..step });
    match invalid {
        Some(reason) if !tolerated => Verdict::Refused(reason),
        _ => soft_refusal(step).map_or(Verdict::Allowed, Verdict::Refused),
    }
}

/// Whether the peer must agree first.
pub fn needs_peer(old: &Snapshot, new: &Snapshot) -> bool {
    let both_replicating = old.is_replicating() && new.is_replicating();
    let newly = |state: R| old.replication != state && new.replication == state;
    let newly_failed = !is_failed(old.disk) && is_failed(new.disk);
    (both_replicating
        && (becomes_primary(old, new) || newly(R::StartingSyncT) || newly(R::StartingSyncS) || newly_failed))
        || (old.is_replicating() && new.connection == C::Disconnecting)
        || (old.conn84() == Conn84::CONNECTED && is_verify_source(new))
        || (old.conn84() == Conn84::CONNECTED && new.conn84() == Conn84::WF_REPORT_PARAMS)
}

/// Why a verify makes no sense from this state, beyond what the rules refuse: they would take an Inconsistent disk for
/// UpToDate, or one of which nothing is known yet. Without a disk on either side there is nothing to compare.
pub fn verify_refusal(now: &Snapshot) -> Option<Reason> {
    if !now.is_replicating() {
        return None;
    }
    if is_unknown_yet(now.disk) {
        return Some(Reason::InTransientState);
    }
    let inconsistent = now.disk == DiskState::Inconsistent || now.peer_disk == DiskState::Inconsistent;
    inconsistent.then_some(Reason::NoUpToDateDisk)
}

fn is_unknown_yet(disk: DiskState) -> bool {
    matches!(disk, DiskState::Attaching | DiskState::Negotiating)
}

/// Why a full sync makes no sense from this state, beyond what the rules refuse: they would take the source's data for
/// UpToDate whatever they are worth.
pub fn full_sync_refusal(now: &Snapshot, as_target: bool) -> Option<Reason> {
    if !now.is_replicating() || now.is_beyond_established() {
        return None;
    }
    let source = if as_target { now.peer_disk } else { now.disk };
    if is_unknown_yet(now.disk) {
        Some(Reason::InTransientState)
    } else if !now.peer_disk.has_data() {
        Some(Reason::NoRemoteDisk)
    } else if source != DiskState::UpToDate {
        Some(Reason::NoUpToDateDisk)
    } else {
        None
    }
}

/// Changes of the connection no one can make, first match; a failing disk that is not there overrides.
fn impossible(step: Step<'_>) -> Option<Reason> {
    if is_failed(step.new.disk) && step.old.disk == DiskState::Diskless {
        return Some(Reason::IsDiskless);
    }
    if step.new.conn84() == step.old.conn84() {
        return None;
    }
    first(&HARD, step)
}

/// Why the target state is not a valid one.
fn invalid(step: Step<'_>) -> Option<Reason> {
    first(&VALID, step)
}

/// Why a user may not ask for this step: the last rule that holds.
fn soft_refusal(step: Step<'_>) -> Option<Reason> {
    SOFT.iter().rev().find(|rule| (rule.holds)(step)).map(|rule| rule.reason)
}

fn first(rules: &[Rule], step: Step<'_>) -> Option<Reason> {
    rules.iter().find(|rule| (rule.holds)(step)).map(|rule| rule.reason)
}

const HARD: [Rule; 5] = [
    Rule {
        reason: Reason::AlreadyStandalone,
        holds: |s| s.old.connection == C::StandAlone && s.new.connection == C::Disconnecting,
    },
    Rule {
        reason: Reason::NeedConnection,
        holds: |s| s.old.connection == C::StandAlone && s.new.connection != C::Unconnected,
    },
    Rule {
        reason: Reason::NeedConnection,
        holds: |s| s.old.connection != C::Connected && s.new.is_replicating(),
    },
    Rule {
        reason: Reason::InTransientState,
        holds: |s| is_breaking(s.old) && !matches!(s.new.connection, C::Unconnected | C::Disconnecting),
    },
    Rule {
        reason: Reason::InTransientState,
        holds: |s| s.old.connection == C::Disconnecting && s.new.connection != C::StandAlone,
    },
];

const VALID: [Rule; 15] = [
    Rule {
        reason: Reason::TwoPrimaries,
        holds: |s| one_primary_only(s) && is_primary(s.new) && s.new.peer_role == Role::Primary,
    },
    Rule {
        reason: Reason::OtherVolumePeerPrimary,
        holds: |s| one_primary_only(s) && is_primary(s.new) && s.context.peer_primary_elsewhere,
    },
    Rule { reason: Reason::DeviceInUse, holds: |s| s.new.role == Role::Secondary && s.context.open },
    Rule {
        reason: Reason::NoUpToDateDisk,
        holds: |s| is_primary(s.new) && !s.new.is_replicating() && s.new.disk != DiskState::UpToDate,
    },
    Rule {
        reason: Reason::PrimaryNop,
        holds: |s| {
            s.context.fencing_of(s.old) != FencingPolicy::DontCare
                && is_primary(s.new)
                && !s.new.is_replicating()
                && s.new.peer_disk.rank() >= DiskState::DUnknown.rank()
        },
    },
    Rule {
        reason: Reason::NoUpToDateDisk,
        holds: |s| is_primary(s.new) && !is_usable(s.new.disk) && !is_usable(s.new.peer_disk),
    },
    Rule { reason: Reason::NoLocalDisk, holds: |s| s.new.is_beyond_established() && !s.new.disk.has_data() },
    Rule {
        reason: Reason::NoRemoteDisk,
        holds: |s| s.new.is_beyond_established() && !s.new.peer_disk.has_data(),
    },
    Rule {
        reason: Reason::NoUpToDateDisk,
        holds: |s| s.new.is_beyond_established() && s.new.lacks_good_data(),
    },
    Rule {
        reason: Reason::ConnectedOutdates,
        holds: |s| {
            s.new.disk == DiskState::Outdated
                && s.new.connection == C::Connected
                && matches!(s.new.replication, R::Established | R::WFBitMapS | R::SyncSource | R::PausedSyncS)
        },
    },
    Rule { reason: Reason::NoVerifyAlg, holds: |s| is_verify(s.new) && !s.context.verify_alg },
    Rule { reason: Reason::NotSupported, holds: |s| is_verify(s.new) && s.context.agreed_version < 88 },
    Rule { reason: Reason::NoUpToDateDisk, holds: |s| is_primary(s.new) && s.new.lacks_good_data() },
    Rule {
        reason: Reason::NeedConnection,
        holds: |s| is_starting(s.new) && s.new.peer_disk == DiskState::DUnknown,
    },
    Rule {
        reason: Reason::ConnectedOutdates,
        holds: |s| s.new.is_replicating() && s.new.peer_disk == DiskState::DUnknown,
    },
];

const SOFT: [Rule; 13] = [
    Rule { reason: Reason::ResyncRunning, holds: |s| is_starting(s.new) && s.old.is_beyond_established() },
    Rule {
        reason: Reason::AlreadyStandalone,
        holds: |s| s.new.connection == C::Disconnecting && s.old.connection == C::StandAlone,
    },
    Rule {
        reason: Reason::IsDiskless,
        holds: |s| s.new.disk.rank() > DiskState::Attaching.rank() && s.old.disk == DiskState::Diskless,
    },
    Rule {
        reason: Reason::NoNetConfig,
        holds: |s| {
            s.new.connection == C::Connecting && matches!(s.old.connection, C::StandAlone | C::Disconnecting)
        },
    },
    Rule {
        reason: Reason::LowerThanOutdated,
        holds: |s| {
            s.new.disk == DiskState::Outdated
                && s.old.disk.rank() < DiskState::Outdated.rank()
                && s.old.disk != DiskState::Attaching
        },
    },
    Rule {
        reason: Reason::InTransientState,
        holds: |s| s.new.connection == C::Disconnecting && s.old.connection == C::Unconnected,
    },
    Rule { reason: Reason::InTransientState, holds: |s| s.context.state_sent && !is_handshake_step(s) },
    Rule {
        reason: Reason::InTransientState,
        holds: |s| {
            becomes_primary(s.old, s.new)
                && s.new.peer_disk == DiskState::UpToDate
                && !matches!(s.new.disk, DiskState::UpToDate | DiskState::Diskless)
                && (s.new.conn84() <= Conn84::of(C::Connected, R::WFSyncUUID) || conn_changes(s))
        },
    },
    Rule { reason: Reason::NeedConnection, holds: |s| is_verify(s.new) && !s.old.is_replicating() },
    Rule {
        reason: Reason::ResyncRunning,
        holds: |s| is_verify(s.new) && conn_changes(s) && s.old.is_beyond_established(),
    },
    Rule { reason: Reason::NeedConnection, holds: |s| is_starting(s.new) && !s.old.is_replicating() },
    Rule {
        reason: Reason::NeedConnection,
        holds: |s| {
            matches!(s.new.replication, R::SyncTarget | R::SyncSource) && s.old.connection != C::Connected
        },
    },
    // 8.4 says OUTDATE_WO_CONN here; DRBD 9 gave the number another name.
    Rule {
        reason: Reason::Interrupted,
        holds: |s| {
            s.new.connection == C::Disconnecting
                && s.new.peer_disk == DiskState::Outdated
                && !s.old.is_replicating()
                && s.old.peer_disk.rank() > DiskState::Outdated.rank()
        },
    },
];

fn one_primary_only(step: Step<'_>) -> bool {
    step.context.has_net_config && !step.context.two_primaries
}

fn is_primary(state: &Snapshot) -> bool {
    state.role == Role::Primary
}

fn becomes_primary(old: &Snapshot, new: &Snapshot) -> bool {
    !is_primary(old) && is_primary(new)
}

fn is_failed(disk: DiskState) -> bool {
    disk.rank() == DiskState::Failed.rank()
}

/// Better than Inconsistent.
fn is_usable(disk: DiskState) -> bool {
    disk.rank() > DiskState::Inconsistent.rank()
}

fn is_breaking(state: &Snapshot) -> bool {
    matches!(
        state.connection,
        C::Timeout | C::BrokenPipe | C::NetworkFailure | C::ProtocolError | C::TearDown
    )
}

fn is_verify(state: &Snapshot) -> bool {
    state.connection == C::Connected && matches!(state.replication, R::VerifyS | R::VerifyT)
}

fn is_verify_source(state: &Snapshot) -> bool {
    state.connection == C::Connected && state.replication == R::VerifyS
}

fn is_starting(state: &Snapshot) -> bool {
    state.connection == C::Connected && matches!(state.replication, R::StartingSyncS | R::StartingSyncT)
}

fn conn_changes(step: Step<'_>) -> bool {
    step.new.conn84() != step.old.conn84()
}

/// WFConnection to WFReportParams, or from there to a finished handshake.
fn is_handshake_step(step: Step<'_>) -> bool {
    let waiting = Conn84::WF_REPORT_PARAMS;
    (step.new.conn84() == waiting && step.old.connection == C::Connecting)
        || (step.new.is_replicating() && step.old.conn84() == waiting)
}
