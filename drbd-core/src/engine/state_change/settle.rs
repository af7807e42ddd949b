//! What follows from a wanted state: named rules, applied once, in order (5.5 of the wire reference).
//!
//! Settling twice gives what settling once gave, with two exceptions that are DRBD's own: a held resync that goes on
//! (the last rule) keeps `Consistent`/`Outdated` of the held state until the next change clamps it to `Inconsistent`,
//! and a disk lost while Negotiating keeps its dependency until then. Both ends do so, hence the rules are not run to
//! a fixed point.

use super::snapshot::{Context, FencingPolicy, Snapshot};
use crate::states::{Conn84, ConnectionState, DiskState, ReplicationState, Role};

/// A settled state, and which rules had something to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The state that follows.
    pub snapshot: Snapshot,
    fired: u16,
}

impl Settled {
    /// Names of the rules that changed something, in order.
    pub fn fired(&self) -> impl Iterator<Item = &'static str> {
        let fired = self.fired;
        RULES.iter().enumerate().filter(move |(n, _)| fired & (1 << n) != 0).map(|(_, rule)| rule.name)
    }
}

struct Rule {
    name: &'static str,
    apply: fn(&Snapshot, &mut Snapshot, &Context),
}

const RULES: [Rule; 12] = [
    Rule { name: "no-session-no-replication", apply: no_session_no_replication },
    Rule { name: "forget-lost-peer", apply: forget_lost_peer },
    Rule { name: "idle-has-no-dependency", apply: idle_has_no_dependency },
    Rule { name: "abort-without-disk", apply: abort_without_disk },
    Rule { name: "end-negotiation", apply: end_negotiation },
    Rule { name: "connected-means-up-to-date", apply: connected_means_up_to_date },
    Rule { name: "clamp-disk", apply: clamp_disk },
    Rule { name: "clamp-peer-disk", apply: clamp_peer_disk },
    Rule { name: "freeze-for-fencing", apply: freeze_for_fencing },
    Rule { name: "freeze-without-data", apply: freeze_without_data },
    Rule { name: "hold-resync", apply: hold_resync },
    Rule { name: "resume-resync", apply: resume_resync },
];

/// The state that follows when `wanted` is asked for in state `old`.
pub fn settle(old: &Snapshot, wanted: Snapshot, context: &Context) -> Settled {
    let mut settled = Settled { snapshot: wanted, fired: 0 };
    for (n, rule) in RULES.iter().enumerate() {
        let before = settled.snapshot;
        (rule.apply)(old, &mut settled.snapshot, context);
        if settled.snapshot != before {
            settled.fired |= 1 << n;
        }
    }
    settled
}

fn no_session_no_replication(_: &Snapshot, new: &mut Snapshot, _: &Context) {
    if new.connection != ConnectionState::Connected {
        new.replication = ReplicationState::Off;
    }
}

/// Without a finished handshake nothing is known of the peer, except that its data is worth less than ours.
fn forget_lost_peer(_: &Snapshot, new: &mut Snapshot, _: &Context) {
    if new.is_replicating() {
        return;
    }
    new.resync_suspended.peer = false;
    new.peer_role = Role::Unknown;
    if !matches!(new.peer_disk, DiskState::Inconsistent | DiskState::Outdated) {
        new.peer_disk = DiskState::DUnknown;
    }
}

fn idle_has_no_dependency(_: &Snapshot, new: &mut Snapshot, _: &Context) {
    if new.connection == ConnectionState::StandAlone
        && new.disk == DiskState::Diskless
        && new.role == Role::Secondary
    {
        new.resync_suspended.dependency = false;
    }
}

/// A resync whose source or target lost its disk is over, and so is running ahead. Unlike 8.4, which then calls the data
/// of the target, or of the node behind, UpToDate by the next rule but one, it stays what it is: old.
fn abort_without_disk(old: &Snapshot, new: &mut Snapshot, _: &Context) {
    let gone = |disk: DiskState| disk.rank() <= DiskState::Failed.rank();
    let old_data = |disk: &DiskState| matches!(disk, DiskState::Consistent | DiskState::Outdated);
    if !new.is_beyond_established() || !(gone(new.disk) || gone(new.peer_disk)) {
        return;
    }
    new.replication = ReplicationState::Established;
    if (old.replication.is_target() || old.replication == ReplicationState::Behind) && old_data(&new.disk) {
        new.disk = DiskState::Inconsistent;
    }
    if (old.replication.is_source() || old.replication == ReplicationState::Ahead) && old_data(&new.peer_disk)
    {
        new.peer_disk = DiskState::Inconsistent;
    }
}

/// The connection broke before the peer had a say in what the disk being attached is worth.
fn end_negotiation(old: &Snapshot, new: &mut Snapshot, context: &Context) {
    let negotiating = new.disk == DiskState::Negotiating && old.disk == DiskState::Negotiating;
    if new.is_replicating() || !negotiating {
        return;
    }
    let known = context.disk_at_attach.filter(|_| context.exposed_equals_current);
    (new.disk, new.peer_disk) = known.unwrap_or((DiskState::Diskless, DiskState::DUnknown));
}

fn connected_means_up_to_date(_: &Snapshot, new: &mut Snapshot, _: &Context) {
    if !new.is_replicating()
        || new.conn84() >= Conn84::of(ConnectionState::Connected, ReplicationState::Ahead)
    {
        return;
    }
    for disk in [&mut new.disk, &mut new.peer_disk] {
        if matches!(disk, DiskState::Consistent | DiskState::Outdated) {
            *disk = DiskState::UpToDate;
        }
    }
}

/// Least and greatest value of own and peer disk that make sense in a replication state.
struct Bounds {
    disk: (DiskState, DiskState),
    peer_disk: (DiskState, DiskState),
}

const fn bounds(new: &Snapshot) -> Bounds {
    use DiskState::{Consistent, DUnknown, Diskless, Inconsistent, Outdated, UpToDate};
    match new.replication {
        ReplicationState::WFBitMapT
        | ReplicationState::PausedSyncT
        | ReplicationState::StartingSyncT
        | ReplicationState::WFSyncUUID
        | ReplicationState::Behind => {
            Bounds { disk: (Inconsistent, Outdated), peer_disk: (UpToDate, UpToDate) }
        }
        ReplicationState::VerifyS | ReplicationState::VerifyT => {
            Bounds { disk: (UpToDate, UpToDate), peer_disk: (UpToDate, UpToDate) }
        }
        ReplicationState::Established => {
            Bounds { disk: (Diskless, UpToDate), peer_disk: (Diskless, UpToDate) }
        }
        ReplicationState::WFBitMapS
        | ReplicationState::PausedSyncS
        | ReplicationState::StartingSyncS
        | ReplicationState::Ahead => {
            Bounds { disk: (UpToDate, UpToDate), peer_disk: (Inconsistent, Consistent) }
        }
        ReplicationState::SyncTarget => {
            Bounds { disk: (Inconsistent, Inconsistent), peer_disk: (UpToDate, UpToDate) }
        }
        ReplicationState::SyncSource => {
            Bounds { disk: (UpToDate, UpToDate), peer_disk: (Inconsistent, Inconsistent) }
        }
        ReplicationState::Off => Bounds { disk: (Diskless, UpToDate), peer_disk: (Inconsistent, DUnknown) },
    }
}

fn clamp(disk: DiskState, (least, greatest): (DiskState, DiskState)) -> DiskState {
    if disk.rank() > greatest.rank() {
        greatest
    } else if disk.rank() < least.rank() {
        least
    } else {
        disk
    }
}

fn clamp_disk(_: &Snapshot, new: &mut Snapshot, _: &Context) {
    new.disk = clamp(new.disk, bounds(new).disk);
}

fn clamp_peer_disk(_: &Snapshot, new: &mut Snapshot, _: &Context) {
    new.peer_disk = clamp(new.peer_disk, bounds(new).peer_disk);
}

fn freeze_for_fencing(old: &Snapshot, new: &mut Snapshot, context: &Context) {
    let to_be_fenced = |s: &Snapshot| {
        s.role == Role::Primary && !s.is_replicating() && s.peer_disk.rank() > DiskState::Outdated.rank()
    };
    if context.fencing_of(old) == FencingPolicy::ResourceAndStonith && to_be_fenced(new) && !to_be_fenced(old)
    {
        new.suspended.fencing = true;
    }
}

fn freeze_without_data(old: &Snapshot, new: &mut Snapshot, context: &Context) {
    let helpless = |s: &Snapshot| s.role == Role::Primary && s.lacks_good_data();
    if context.suspend_without_data && helpless(new) && !helpless(old) {
        new.suspended.no_data = true;
    }
}

fn hold_resync(_: &Snapshot, new: &mut Snapshot, _: &Context) {
    if new.resync_suspended.any() {
        new.replication = match new.replication {
            ReplicationState::SyncSource => ReplicationState::PausedSyncS,
            ReplicationState::SyncTarget => ReplicationState::PausedSyncT,
            other => other,
        };
    }
}

fn resume_resync(_: &Snapshot, new: &mut Snapshot, _: &Context) {
    if !new.resync_suspended.any() {
        new.replication = match new.replication {
            ReplicationState::PausedSyncS => ReplicationState::SyncSource,
            ReplicationState::PausedSyncT => ReplicationState::SyncTarget,
            other => other,
        };
    }
}
