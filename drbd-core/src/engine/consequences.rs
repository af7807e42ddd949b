//! What an edge from one state to the next sets in motion (5.8 of the wire reference): a list of named rules, each
//! looking at the old and the new state of one volume.

use super::command::{Command, Level};
use super::device::{GenerationDue, PeerGenerationDue};
use super::meta_jobs::{Job, ResyncStep, Then};
use super::planted::Bug;
use super::resource::{HandlerOwner, Resource};
use super::state::Change;
use super::state_change::Snapshot;
use super::write_path::peer_request::InBitmap;
use crate::metadata::device_flag;
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::uuid_flag;

type Rule = fn(&mut Resource, usize, &Snapshot, &Snapshot, &mut Vec<Command>);

/// Applied in this order to every volume that changed.
const RULES: &[Rule] = &[
    close_epoch_when_mirroring_changes,
    distrust_a_peer_no_longer_good,
    expose_consistent_data,
    expose_peers_data_without_own,
    reconsider_when_peer_takes_inconsistent_data,
    new_generation_when_only_the_bitmap_is_ahead,
    forget_crash_when_both_are_up_to_date,
    depend_on_the_peer_when_the_disk_is_lost,
    remember_to_be_ahead_when_detaching_alone,
    call_primary_on_inconsistent_degraded,
    resume_log_on_connect,
    greet_attached_peer,
    remember_a_lost_primary_without_disk,
    new_generation_when_contact_to_data_is_lost,
    new_generation_when_a_resync_may_have_ended,
    new_generation_when_diskless_peer_takes_over,
    new_generation_when_good_data_is_back_alone,
    keep_bitmap_after_resync,
    keep_flags,
    tell_state_after_handshake,
    tell_sizes_while_negotiating,
    gate_writes_of_target,
    send_bitmap_as_source,
    forget_to_catch_up,
    begin_full_sync,
    tell_held_resync,
    go_on_with_resync,
    begin_or_leave_verify,
    end_resync,
    tell_failed_disk,
    let_go_of_refused_disk,
    keep_bits_of_diskless_peer,
    let_requests_go,
    forget_left_volume,
];

impl Resource {
    /// Applies every rule to every volume that changed.
    pub(super) fn consequences(&mut self, changes: &[Change], out: &mut Vec<Command>) {
        for change in changes.iter().filter(|c| c.old != c.new) {
            let Some(d) = change.device else { continue };
            for rule in RULES {
                rule(self, d, &change.old, &change.new, out);
            }
        }
        self.admin.state_changed = true;
    }
}

fn close_epoch_when_mirroring_changes(
    r: &mut Resource,
    _: usize,
    old: &Snapshot,
    new: &Snapshot,
    _: &mut Vec<Command>,
) {
    if old.replication != new.replication || old.peer_disk != new.peer_disk {
        if let Some(session) = r.connection.as_mut().and_then(|c| c.session_mut()) {
            session.sent_epochs.closed = true;
        }
    }
}

fn distrust_a_peer_no_longer_good(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    _: &mut Vec<Command>,
) {
    if old.peer_disk == DiskState::UpToDate && new.peer_disk != DiskState::UpToDate {
        r.distrust_peers_copies(d);
    }
}

fn expose_consistent_data(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, _: &mut Vec<Command>) {
    let consistent = DiskState::Consistent.rank();
    if old.disk.rank() < consistent && new.disk.rank() >= consistent {
        if let Some(backing) = &r.devices[d].backing {
            r.devices[d].exposed_uuid = backing.super_block.current_uuid;
        }
    }
    if old.disk != DiskState::UpToDate && new.disk == DiskState::UpToDate {
        r.devices[d].behind_in = None;
    }
}

/// What the users of the device see is the peer's data from here on. Its generation may have been told before.
fn expose_peers_data_without_own(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    _: &mut Vec<Command>,
) {
    let serves =
        |s: &Snapshot| !s.disk.has_data() && s.is_replicating() && s.peer_disk == DiskState::UpToDate;
    if serves(old) || !serves(new) {
        return;
    }
    if let Some(uuids) = r.connection.as_ref().and_then(|c| c.peer_devices[d].uuids) {
        r.devices[d].exposed_uuid = uuids.current;
    }
}

fn reconsider_when_peer_takes_inconsistent_data(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    _: &mut Vec<Command>,
) {
    let both_inconsistent = old.disk == DiskState::Inconsistent && old.peer_disk == DiskState::Inconsistent;
    // The role is the connection's: of several volumes only the first sees it change, the others see the peer's disk.
    let takes = old.peer_role == Role::Secondary || new.peer_disk == DiskState::UpToDate;
    if both_inconsistent && takes && new.peer_role == Role::Primary && !new.is_beyond_established() {
        if let Some(connection) = r.connection.as_mut() {
            connection.peer_devices[d].consider_resync = true;
        }
    }
}

/// See decision 0010: the generation tells what so far only the bitmap told, before the target hears of the resync, or
/// when contact is lost to a peer left behind, of which there was to be one.
fn new_generation_when_only_the_bitmap_is_ahead(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let bitmaps = ReplicationState::WFBitMapS;
    let becomes_source = old.replication != bitmaps && new.replication == bitmaps;
    let ahead = matches!(old.replication, ReplicationState::Ahead | ReplicationState::StartingSyncS);
    let lost_behind = ahead && !new.is_replicating();
    if becomes_source || (lost_behind && new.disk == DiskState::UpToDate) {
        r.get_ahead_of_peer(d, out);
    }
}

fn forget_crash_when_both_are_up_to_date(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    _: &mut Vec<Command>,
) {
    let both = |s: &Snapshot| s.disk == DiskState::UpToDate && s.peer_disk == DiskState::UpToDate;
    if both(new) && !both(old) {
        if let Some(backing) = r.devices[d].backing.as_deref_mut() {
            backing.crashed_primary = false;
        }
        let peer_device = r.connection.as_mut().map(|c| &mut c.peer_devices[d]);
        if let Some(uuids) = peer_device.and_then(|p| p.uuids.as_mut()) {
            uuids.flags &= !uuid_flag::CRASHED_PRIMARY;
        }
    }
}

/// A Primary loses its disk: from here on only the peer has what is written. Nothing is done until the peer has told the
/// generation that the disk given up lacks.
fn depend_on_the_peer_when_the_disk_is_lost(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let now_due = |r: &Resource| r.devices[d].peer_generation_due == Some(PeerGenerationDue::Now);
    let served = new.is_replicating() && new.peer_disk == DiskState::UpToDate;
    if old.disk.has_data() && !new.disk.has_data() && new.role == Role::Primary && served {
        // Only who was in sync makes a new generation; who was the source of a resync has one already.
        let in_sync = old.disk == DiskState::UpToDate
            && matches!(
                old.replication,
                ReplicationState::Established | ReplicationState::VerifyS | ReplicationState::VerifyT
            );
        let due = in_sync && peer_goes_on_in_its_generation(r, d);
        r.devices[d].peer_generation_due = due.then_some(PeerGenerationDue::Now);
        if new.peer_role == Role::Primary {
            // What that one writes from here on it has told of only when its generation is heard.
            r.remember_to_be_behind(d);
        }
    } else if now_due(r) && (!served || new.disk.has_data()) {
        r.devices[d].peer_is_behind |= !new.disk.has_data() && may_have_lost_what_is_done(r, d);
        r.peer_generation_told(d, out);
    }
    let depends = |s: &Snapshot| {
        let served = s.is_replicating() && s.peer_disk == DiskState::UpToDate;
        s.role == Role::Primary && served && !s.disk.has_data()
    };
    if !now_due(r) {
        let begins = depends(new) && !depends(old) && !old.disk.has_data();
        let due = if begins {
            peer_goes_on_in_its_generation(r, d).then_some(PeerGenerationDue::WithFirstWrite)
        } else {
            r.devices[d].peer_generation_due.filter(|_| depends(new))
        };
        r.devices[d].peer_generation_due = due;
    }
    r.devices[d].peer_is_behind |= r.disk_going_has_more(d);
    r.devices[d].peer_is_behind &= new.role == Role::Primary && !new.disk.has_data();
    let depended_on = new.is_replicating() && new.peer_role == Role::Primary && !new.peer_disk.has_data();
    // It has its disk back, and this one is ahead of that already.
    let ahead = new.replication.is_source();
    // With the session ends what it was to tell: the Primary called nothing done without it.
    let connected = new.is_replicating();
    let still_due = |due: &GenerationDue| {
        let wanted = depended_on || *due == GenerationDue::WhenWritten && connected;
        new.disk == DiskState::UpToDate && !ahead && wanted
    };
    let due = r.devices[d].generation_due;
    r.devices[d].generation_due = due.filter(still_due);
}

/// The peer has not told a generation that says that its disk is ahead of this node's.
fn peer_goes_on_in_its_generation(r: &Resource, d: usize) -> bool {
    let peer = r.connection.as_ref().and_then(|c| c.peer_devices[d].uuids);
    peer.is_some_and(|uuids| uuids.bitmap == 0)
}

/// Something called done is not known to be stable at the peer, which goes before its new generation told that it is. The
/// disk given up has it: nothing was called done since.
fn may_have_lost_what_is_done(r: &Resource, d: usize) -> bool {
    let Some(connection) = r.connection.as_deref() else { return false };
    connection.transfer_log.iter().any(|&key| r.requests[key].device == d && r.requests[key].completed)
}

/// The data of a Primary that lets its disk go may have what the peer, lost meanwhile, has not. It is too late for a new
/// generation: the peer may have begun one of its own, which would make it a split brain. If it has not, both call their
/// data the same, and the mark of a crashed Primary makes this side the source of what its bitmap names. Because it may
/// have, nothing more is called done by that disk.
fn remember_to_be_ahead_when_detaching_alone(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    _: &mut Vec<Command>,
) {
    let writes = new.role == Role::Primary || r.admin.is_demoting();
    if !writes || new.disk != DiskState::Detaching || !lost_contact(old.peer_disk, new.peer_disk) {
        return;
    }
    if let Some(backing) = r.devices[d].backing.as_deref_mut() {
        backing.crashed_primary = true;
        backing.super_block.flags |= device_flag::CRASHED_PRIMARY;
        backing.outrun |= !new.is_replicating();
    }
}

fn keep_flags(r: &mut Resource, d: usize, _: &Snapshot, _: &Snapshot, out: &mut Vec<Command>) {
    r.keep_flags(d, out);
}

fn call_primary_on_inconsistent_degraded(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let lost = |s: &Snapshot| {
        s.role == Role::Primary && s.disk != DiskState::UpToDate && s.peer_disk != DiskState::UpToDate
    };
    if lost(new) && !lost(old) {
        let text = "This Primary has no access to UpToDate data any more";
        r.log("no-data", Level::Error, r.device_subject(d), text, out);
        r.run_handler("pri-on-incon-degr", Some(d), HandlerOwner::Nobody, out);
    }
}

fn resume_log_on_connect(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    if !old.is_replicating() && new.is_replicating() {
        if let Some(backing) = r.devices[d].backing.as_deref_mut() {
            if std::mem::take(&mut backing.log_suspended) {
                r.log("log-resumed", Level::Info, r.device_subject(d), "Resumed AL updates", out);
            }
        }
    }
}

/// An attach that failed is none: 8.4 tells its generations then as well, which may be on their way to the disk only
/// while the peer waits for them.
fn greet_attached_peer(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    if is_peer_attached(old, new) {
        r.send_uuids(d, out);
        r.send_state(d, out);
    }
}

/// The peer's disk came, and is told this node's generations and state.
pub(super) fn is_peer_attached(old: &Snapshot, new: &Snapshot) -> bool {
    matches!(old.peer_disk, DiskState::Diskless | DiskState::Attaching)
        && (new.peer_disk.has_data() || new.peer_disk == DiskState::Negotiating)
        && new.is_replicating()
}

fn lost_contact(old: DiskState, new: DiskState) -> bool {
    let had = old.has_data() && !matches!(old, DiskState::DUnknown | DiskState::Outdated);
    let gone = !new.has_data() || matches!(new, DiskState::DUnknown | DiskState::Outdated);
    let never =
        matches!(new, DiskState::Diskless | DiskState::Detaching | DiskState::Failed | DiskState::Outdated);
    (had && gone) || (old == DiskState::DUnknown && never)
}

fn new_generation_when_contact_to_data_is_lost(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    if r.planted(Bug::NoNewGeneration) {
        return;
    }
    // A demotion that still waits for the peer to make writes stable will mark them: it is not over.
    let writes = new.role == Role::Primary || r.admin.is_demoting();
    // The role of the peer as it was: losing the connection makes it unknown.
    let somebody_writes = writes || new.peer_role == Role::Primary;
    if lost_contact(old.peer_disk, new.peer_disk) && somebody_writes && new.disk == DiskState::UpToDate {
        if writes {
            r.begin_apart(d, out);
        } else if old.is_replicating() {
            r.new_generation_when_written(d, out);
        } else {
            r.devices[d].generation_due = Some(GenerationDue::AtFirstRequest);
        }
    }
}

/// See [`Backing::peer_may_resend`](super::device::Backing): it froze what it had not heard the end of.
fn remember_a_lost_primary_without_disk(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    _: &mut Vec<Command>,
) {
    let without = old.peer_role == Role::Primary && !old.peer_disk.has_data();
    let used_here = old.is_replicating() && without && old.disk == DiskState::UpToDate;
    let Some(backing) = r.devices[d].backing.as_deref_mut() else { return };
    if new.is_replicating() {
        backing.peer_may_resend = false;
    } else if used_here {
        backing.peer_may_resend = true;
    }
}

/// Contact to a target is lost: it may have ended the resync, whatever this node's bitmap says. Blocks it has written
/// may be unacknowledged, and others marked again by writes it will not get; so it may have this generation.
fn new_generation_when_a_resync_may_have_ended(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let source =
        |s: &Snapshot| matches!(s.replication, ReplicationState::SyncSource | ReplicationState::PausedSyncS);
    let writes = new.role == Role::Primary || r.admin.is_demoting();
    let lost = source(old) && !new.is_replicating();
    if lost && writes && new.disk == DiskState::UpToDate {
        r.begin_apart(d, out);
    }
}

/// Attached to a device in use, and nobody else has the data: what is written from here on the peer's disk lacks, which
/// may have been lost while this one was away too.
fn new_generation_when_good_data_is_back_alone(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let in_use = |s: &Snapshot| s.role == Role::Primary || s.peer_role == Role::Primary;
    let back = old.disk != DiskState::UpToDate && new.disk == DiskState::UpToDate;
    // A peer's disk that was Inconsistent when it was last heard of may be anything now.
    let alone = !new.is_replicating()
        || !new.peer_disk.has_data()
        || matches!(new.peer_disk, DiskState::DUnknown | DiskState::Outdated);
    if back && alone && in_use(old) && in_use(new) {
        match new.role {
            Role::Primary => r.begin_apart(d, out),
            Role::Secondary | Role::Unknown => {
                r.devices[d].generation_due = Some(GenerationDue::AtFirstRequest);
            }
        }
    }
}

fn new_generation_when_diskless_peer_takes_over(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let takes_over = old.peer_role != Role::Primary && new.peer_role == Role::Primary;
    if !takes_over || new.peer_disk.has_data() || new.disk != DiskState::UpToDate {
        return;
    }
    // Promoted here, it takes this copy for its own. After a crash the copies may differ in spite of their generation, and by
    // rule 41 a disk that a Primary attaches would be the source.
    let crashed = r.devices[d].backing.as_deref().is_some_and(|b| b.crashed_primary);
    if crashed && old.peer_role == Role::Secondary {
        r.new_generation_when_written(d, out);
    } else {
        r.devices[d].generation_due = Some(GenerationDue::AtFirstRequest);
    }
}

fn tell_state_after_handshake(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let in_handshake =
        old.connection == ConnectionState::Connected && old.replication == ReplicationState::Off;
    if in_handshake && new.is_replicating() {
        r.repeat_greeting(d, out);
        r.send_state(d, out);
    }
}

fn forget_left_volume(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, _: &mut Vec<Command>) {
    if old.is_replicating() && new.connection == ConnectionState::Connected && !new.is_replicating() {
        r.forget_left_volume(d);
    }
}

fn tell_sizes_while_negotiating(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    if old.disk == DiskState::Attaching && new.disk == DiskState::Negotiating && new.is_replicating() {
        r.send_sizes(d, out);
        r.send_uuids(d, out);
        r.send_state(d, out);
    }
}

/// The source mirrors again, or will, as soon as it says that the resync begins: before this node's disk says so.
fn is_written_before_marked(s: &Snapshot) -> bool {
    s.replication.is_target() || s.replication == ReplicationState::Behind
}

fn gate_writes_of_target(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, _: &mut Vec<Command>) {
    // A disk with every write so far stays one in order with the next; only a new part of it waits to be copied.
    let only_grown =
        old.replication == ReplicationState::Established && new.replication == ReplicationState::WFSyncUUID;
    if !is_written_before_marked(old) && is_written_before_marked(new) && !only_grown {
        if let Some(connection) = r.connection.as_mut() {
            connection.peer_devices[d].gated = true;
        }
    }
    let stays_target = old.replication.is_target() && new.replication.is_target();
    if new.replication.is_target() && !stays_target {
        r.distrust_own_copies(d);
    }
    // A resync that ends with blocks it could not copy, or gives way to Behind, leaves an Inconsistent disk that the
    // peer's writes do not reach.
    if new.is_replicating() && !stays_target {
        if let Some(backing) = r.devices[d].backing.as_deref_mut() {
            backing.old_blocks_known = false;
        }
    }
}

fn send_bitmap_as_source(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    if old.replication != ReplicationState::WFBitMapS && new.replication == ReplicationState::WFBitMapS {
        r.mark_writes_under_way(d);
        // Everything set is kept first, so that a crash of this node leaves no block forgotten.
        let then = r.when_resync_may(d, ResyncStep::SourceBitmapStable);
        r.meta_job(d, Job::marks(then), out);
    }
}

fn forget_to_catch_up(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, _: &mut Vec<Command>) {
    if old.replication == ReplicationState::Ahead && new.replication != ReplicationState::Ahead {
        if let Some(connection) = r.connection.as_mut() {
            connection.peer_devices[d].catch_up_at = None;
        }
    }
}

fn begin_full_sync(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    let starting =
        matches!(new.replication, ReplicationState::StartingSyncS | ReplicationState::StartingSyncT);
    if starting && old.replication != new.replication {
        r.mark_for_full_sync(d, out);
    }
}

/// The peer holds its side as well (5.8, 12 of the wire reference).
fn tell_held_resync(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    let own = |s: &Snapshot| (s.resync_suspended.user, s.resync_suspended.dependency);
    if own(old) != own(new) && !r.planted(Bug::HoldNotTold) && old.is_replicating() && new.is_replicating() {
        r.send_state(d, out);
    }
}

fn go_on_with_resync(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    let held =
        |s: &Snapshot| matches!(s.replication, ReplicationState::PausedSyncS | ReplicationState::PausedSyncT);
    if held(old) != held(new) {
        r.resync_held(d, held(new), out);
    }
}

fn begin_or_leave_verify(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    let verifies =
        |s: &Snapshot| matches!(s.replication, ReplicationState::VerifyS | ReplicationState::VerifyT);
    match (verifies(old), verifies(new)) {
        (false, true) => r.begin_verify(d, out),
        (true, false) => r.verify_left(d, out),
        (true, true) | (false, false) => {}
    }
}

fn end_resync(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    if old.replication.is_resyncing() && !new.replication.is_resyncing() {
        if let Some(connection) = r.connection.as_mut() {
            let peer_device = &mut connection.peer_devices[d];
            peer_device.end_resync();
            peer_device.early_sync_uuid = None;
            peer_device.resync_attempt = peer_device.resync_attempt.wrapping_add(1);
            peer_device.bitmap_received = 0;
            peer_device.bitmap_complete = false;
            peer_device.bitmap_sent = false;
        }
    }
    if is_written_before_marked(old) && !is_written_before_marked(new) {
        // What the disk was not yet marked for must not reach it: it still counts as consistent, only old.
        r.turn_away_at_gate(d, out);
    }
}

fn tell_failed_disk(r: &mut Resource, d: usize, old: &Snapshot, new: &Snapshot, out: &mut Vec<Command>) {
    let gone =
        |s: &Snapshot| matches!(s.disk, DiskState::Failed | DiskState::Detaching | DiskState::Diskless);
    let resync_aborted = old.replication.is_target()
        && new.replication == ReplicationState::Established
        && new.disk == DiskState::Inconsistent;
    let told = old.disk != new.disk && (gone(new) || resync_aborted);
    if told && new.connection == ConnectionState::Connected {
        r.send_state(d, out);
    }
}

/// Before the super block says that there is nothing to resync: what a loss of power leaves marked then, nobody would copy
/// or clear.
fn keep_bitmap_after_resync(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let over = old.replication.is_resyncing() && !new.replication.is_resyncing();
    if over && r.devices[d].usable().is_some() {
        r.meta_job(d, Job::everything(None), out);
    }
}

/// A Primary without disk is gone: its writes are in this node's log only until their bits are kept.
fn keep_bits_of_diskless_peer(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    let writes = |s: &Snapshot| !s.peer_disk.has_data() && s.peer_role == Role::Primary;
    if writes(old) && !writes(new) && r.devices[d].usable().is_some() {
        for request in r.peer_requests.values_mut().filter(|request| request.device == d) {
            if request.alone && request.in_bitmap == InBitmap::No {
                request.in_bitmap = InBitmap::Writing;
            }
        }
        r.meta_job(d, Job::everything(Some(Then::PeerWritesKept)), out);
    }
}

/// The connection broke before the peer had a say in what the disk being attached is worth.
fn let_go_of_refused_disk(
    r: &mut Resource,
    d: usize,
    old: &Snapshot,
    new: &Snapshot,
    out: &mut Vec<Command>,
) {
    if old.disk == DiskState::Negotiating && new.disk == DiskState::Diskless && r.devices[d].backing.is_some()
    {
        r.drop_backing(d, out);
    }
}

fn let_requests_go(r: &mut Resource, d: usize, _: &Snapshot, _: &Snapshot, out: &mut Vec<Command>) {
    // Only now is it known what names those that wait for the log: it, the bitmap, or the peer's log.
    if !r.devices[d].log_waiters.is_empty() {
        r.wake_log_waiters(d, out);
    }
    r.start_parked(d, out);
    if r.devices[d].has_held() {
        r.start_held(d, out);
    }
}
