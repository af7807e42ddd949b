//! Full syncs that were asked for (8.4 of the wire reference), and the first sync that is skipped.
//!
//! Both nodes mark everything and keep that; then the target waits for the name of the resync and the source gives it.
//! No bitmaps are exchanged. The two do not wait for each other's disk: a source that is done first names the resync
//! while the target still writes its marks, and may do so even before the target has seen its agreement, which comes on
//! the other stream.

use super::command::{Command, Level};
use super::meta_jobs::{Job, Then};
use super::planted::Bug;
use super::resource::Resource;
use super::state_change::Snapshot;
use crate::control::Done;
use crate::ids::Ticket;
use crate::metadata::UUID_JUST_CREATED;
use crate::states::{DiskState, ReplicationState, Role};
use crate::wire::{uuid_flag, Uuids};

impl Resource {
    /// Everything differs from the peer's, as far as this node is concerned.
    pub(super) fn mark_everything(&mut self, d: usize) {
        if let (Some(slot), Some(backing)) = (self.peer_slot(d), self.devices[d].backing.as_deref_mut()) {
            backing.bitmap.set_all(slot);
        }
    }

    /// Nothing differs from the peer's.
    pub(super) fn clear_marks(&mut self, d: usize) {
        if let (Some(slot), Some(backing)) = (self.peer_slot(d), self.devices[d].backing.as_deref_mut()) {
            backing.bitmap.clear_all(slot);
        }
    }

    /// Both nodes agreed to a full sync: mark everything.
    pub(super) fn mark_for_full_sync(&mut self, d: usize, out: &mut Vec<Command>) {
        if !self.planted(Bug::InvalidateMarksNothing) {
            self.mark_everything(d);
        }
        let job = Job::marks(Some(Then::FullSyncMarked));
        self.meta_job(d, job, out);
    }

    /// Everything is marked on stable storage.
    pub(super) fn full_sync_marked(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_deref_mut() else { return };
        if let Some(ticket) = connection.peer_devices[d].full_sync_ticket.take() {
            // Should the connection have broken meanwhile: it is begun, and goes on with the next one.
            self.reply(ticket, Ok(Done { changed: true, ..Done::default() }), out);
        }
        match self.snapshot(Some(d)).replication {
            ReplicationState::StartingSyncS => {
                self.prepare_resync(d, "before-resync-source", out);
            }
            ReplicationState::StartingSyncT => self.await_name_of_resync(d, out),
            _ => {}
        }
    }

    /// The disk went with the marks.
    pub(super) fn full_sync_lost(&mut self, d: usize, out: &mut Vec<Command>) {
        let ticket = self.connection.as_deref_mut().and_then(|c| c.peer_devices[d].full_sync_ticket.take());
        if let Some(ticket) = ticket {
            self.answer_lost(ticket, out);
        }
    }

    fn await_name_of_resync(&mut self, d: usize, out: &mut Vec<Command>) {
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v == Some(d) {
                s.replication = ReplicationState::WFSyncUUID;
            }
        };
        self.force(&edit, out);
        let early = self.connection.as_deref_mut().and_then(|c| c.peer_devices[d].early_sync_uuid.take());
        if let Some(name) = early {
            if let Err(fault) = self.sync_uuid(d, name, out) {
                self.fault(fault, out);
            }
        }
    }

    /// P_SYNC_UUID of a full sync that is not yet marked here; false if none is due.
    pub(super) fn keep_early_sync_uuid(&mut self, d: usize, name: u64) -> bool {
        let starting = self.snapshot(Some(d)).replication == ReplicationState::StartingSyncT;
        if !starting && !self.admin.asks_to_be_target(d) {
            return false;
        }
        let connection = self.connection.as_deref_mut().expect("packets come from a peer");
        connection.peer_devices[d].early_sync_uuid = Some(name);
        true
    }

    // ---- the first sync, skipped ---------------------------------------------------------------------------------

    /// Two nodes that never held data, connected: one may declare both equal.
    pub(super) fn may_skip_first_sync(&self, d: usize) -> bool {
        let fresh = self.generations(d).is_some_and(|set| set.current == UUID_JUST_CREATED);
        let now = self.snapshot(Some(d));
        let version = self.connection.as_ref().and_then(|c| c.session()).map_or(0, |s| s.version);
        let both_empty = now.disk == DiskState::Inconsistent && now.peer_disk == DiskState::Inconsistent;
        fresh && both_empty && version >= 90 && now.replication == ReplicationState::Established
    }

    /// The peer said that its metadata was just made.
    pub(super) fn peer_is_just_created(&self, d: usize) -> bool {
        let uuids = self.connection.as_ref().and_then(|c| c.peer_devices[d].uuids);
        uuids.is_some_and(|uuids| uuids.current == UUID_JUST_CREATED)
    }

    /// Declares both nodes equal. The peer is told at once: whoever is lost before it is written everywhere begins
    /// afresh, and gets everything from the other.
    pub(super) fn skip_first_sync(&mut self, d: usize, ticket: Ticket, out: &mut Vec<Command>) {
        let Some(mut set) = self.generations(d) else { return };
        let random = self.random.uuid();
        set.begin_new_forgetting(random, self.role == Role::Primary);
        self.clear_marks(d);
        self.keep_generations(d, &set);
        self.send_uuids_with(d, uuid_flag::SKIP_INITIAL_SYNC, out);
        set.bitmap = 0;
        self.keep_generations(d, &set);
        self.adopt_as_peer_set(d);
        self.call_both_up_to_date(d, out);
        self.meta_job(d, Job::marks(Some(Then::Answer(ticket))), out);
    }

    /// P_UUIDS that declares both nodes equal.
    pub(super) fn take_over_first_generation(&mut self, d: usize, uuids: &Uuids, out: &mut Vec<Command>) {
        if uuids.flags & uuid_flag::SKIP_INITIAL_SYNC == 0 || !self.may_skip_first_sync(d) {
            return;
        }
        let text = "Accepted new current UUID, preparing to skip initial sync";
        self.log("skip-sync", Level::Info, self.peer_device_subject(d), text, out);
        self.clear_marks(d);
        if let Some(mut set) = self.generations(d) {
            set.adopt(uuids.current, self.role == Role::Primary);
            self.keep_generations(d, &set);
        }
        self.call_both_up_to_date(d, out);
        self.meta_job(d, Job::marks(None), out);
    }

    fn call_both_up_to_date(&mut self, d: usize, out: &mut Vec<Command>) {
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v == Some(d) {
                (s.disk, s.peer_disk) = (DiskState::UpToDate, DiskState::UpToDate);
            }
        };
        self.force(&edit, out);
        self.log_generations(d, "new current UUID", out);
    }
}
