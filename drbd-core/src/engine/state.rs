//! How the state of the resource changes: propose → settle → judge → commit → consequences.

use super::command::{Command, Level};
use super::connection::Link;
use super::planted::Bug;
use super::resource::Resource;
use super::state_change::{judge_local, settle, Context, Snapshot, Verdict};
use crate::ids::Sector;
use crate::metadata::device_flag;
use crate::refusal::Reason;
use crate::states::{ConnectionState, DiskState, Role, Suspended};

/// Whether a change may be refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Somebody asks for it.
    Soft,
    /// It is a fact.
    Hard,
}

/// What one volume went through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// `None` for a resource without volumes.
    pub(super) device: Option<usize>,
    pub(super) old: Snapshot,
    pub(super) new: Snapshot,
}

impl Resource {
    /// State of a volume (or of the resource, if it has none) towards its peer.
    pub(super) fn snapshot(&self, d: Option<usize>) -> Snapshot {
        let mut snapshot = Snapshot { role: self.role, suspended: self.suspended, ..Snapshot::INITIAL };
        if let Some(connection) = &self.connection {
            snapshot.connection = connection.state;
            snapshot.peer_role = connection.peer_role;
            if let Some(d) = d {
                let peer_device = &connection.peer_devices[d];
                snapshot.replication = peer_device.replication;
                if !snapshot.is_replicating() {
                    // Of a volume that has not met the peer's nothing is known, whatever others have told.
                    snapshot.peer_role = Role::Unknown;
                }
                snapshot.peer_disk = peer_device.peer_disk;
                snapshot.resync_suspended = peer_device.resync_suspended;
            }
        }
        if let Some(d) = d {
            snapshot.disk = self.devices[d].disk;
        }
        snapshot
    }

    /// What the rules ask about besides.
    pub(super) fn context(&self, d: Option<usize>) -> Context {
        let connection = self.connection.as_deref();
        let session = connection.and_then(|c| c.session());
        let device = d.map(|d| &self.devices[d]);
        let backing = device.and_then(|device| device.backing.as_deref());
        let configured = connection.is_some_and(|c| !matches!(c.link, Link::Idle));
        Context {
            two_primaries: connection.is_some_and(|c| c.options.two_primaries)
                || self.planted(Bug::BothMayBePrimary),
            fencing: self.fencing_policy(),
            suspend_without_data: self.options.suspend_without_data,
            has_net_config: configured,
            verify_alg: connection.is_some_and(|c| !c.options.verify_alg.is_empty()),
            agreed_version: session.map_or(self.protocol_max, |s| s.version),
            open: device.is_some_and(|device| device.open_count > 0) && !self.force_io_failures,
            peer_primary_elsewhere: connection.is_some_and(|c| c.peer_role == Role::Primary),
            state_sent: session.is_some_and(|s| s.state_sent),
            exposed_equals_current: match (device, backing) {
                (Some(device), Some(backing)) => device.shows(backing.super_block.current_uuid),
                _ => false,
            },
            disk_at_attach: backing.map(|b| b.at_attach),
        }
    }

    fn all_volumes(&self) -> Vec<Option<usize>> {
        if self.devices.is_empty() {
            vec![None]
        } else {
            (0..self.devices.len()).map(Some).collect()
        }
    }

    /// What a change would lead to; the reason if a volume refuses it.
    pub(super) fn propose(
        &self,
        mode: Mode,
        edit: &dyn Fn(Option<usize>, &mut Snapshot),
    ) -> Result<Vec<Change>, Reason> {
        let mut changes = Vec::new();
        let peer_role = self.peer_role_wanted(edit);
        for device in self.all_volumes() {
            let old = self.snapshot(device);
            let context = self.context(device);
            let mut wanted = old;
            edit(device, &mut wanted);
            if let Some(role) = peer_role.filter(|_| wanted.is_replicating()) {
                wanted.peer_role = role;
            }
            let new = settle(&old, wanted, &context).snapshot;
            match judge_local(&old, &new, mode == Mode::Hard, &context) {
                Verdict::Refused(reason) => return Err(reason),
                Verdict::Allowed | Verdict::NothingToDo => changes.push(Change { device, old, new }),
            }
        }
        share_suspension(&mut changes);
        Ok(changes)
    }

    /// The peer's role is told volume by volume, but it is one: every volume sees it change.
    fn peer_role_wanted(&self, edit: &dyn Fn(Option<usize>, &mut Snapshot)) -> Option<Role> {
        self.all_volumes().into_iter().find_map(|device| {
            let old = self.snapshot(device);
            let mut wanted = old;
            edit(device, &mut wanted);
            (wanted.is_replicating() && wanted.peer_role != old.peer_role).then_some(wanted.peer_role)
        })
    }

    /// Makes a change, or says why not. True if anything changed.
    pub(super) fn change(
        &mut self,
        mode: Mode,
        edit: &dyn Fn(Option<usize>, &mut Snapshot),
        out: &mut Vec<Command>,
    ) -> Result<bool, Reason> {
        let changes = self.propose(mode, edit)?;
        if changes.iter().all(|c| c.old == c.new) {
            return Ok(false);
        }
        let peer_role = self.connection.as_deref().map(|c| c.peer_role);
        self.commit(&changes);
        self.log_changes(&changes, peer_role, out);
        self.consequences(&changes, out);
        self.notify_changes(out);
        Ok(true)
    }

    /// Takes up a state that was before: nothing follows from it.
    pub(super) fn restore(&mut self, changes: &[Change], out: &mut Vec<Command>) {
        let peer_role = self.connection.as_deref().map(|c| c.peer_role);
        self.commit(changes);
        self.log_changes(changes, peer_role, out);
        for d in changes.iter().filter_map(|change| change.device) {
            self.keep_flags(d, out);
        }
        self.admin.state_changed = true;
        self.notify_changes(out);
    }

    /// Makes a change that is a fact.
    pub(super) fn force(&mut self, edit: &dyn Fn(Option<usize>, &mut Snapshot), out: &mut Vec<Command>) {
        if let Err(reason) = self.change(Mode::Hard, edit, out) {
            let text = format!("A change of state was not possible: {reason}");
            self.log("state-refused", Level::Warning, self.name.clone(), text, out);
        }
    }

    fn commit(&mut self, changes: &[Change]) {
        // Volumes that have met the peer's tell its role.
        let speaker = changes.iter().find(|c| c.new.is_replicating()).or(changes.first());
        if speaker.is_some_and(|c| c.new.peer_role == Role::Primary) {
            self.note_other_primary();
        }
        if let (Some(connection), Some(change)) = (self.connection.as_deref_mut(), speaker) {
            connection.peer_role = change.new.peer_role;
        }
        for change in changes {
            let Change { device, old, new } = change;
            if old.role != new.role {
                self.role = new.role;
            }
            if old.suspended != new.suspended {
                self.suspended = new.suspended;
                self.freeze.engaged |= self.is_frozen();
            }
            if let Some(connection) = self.connection.as_deref_mut() {
                if old.connection != new.connection {
                    connection.state = new.connection;
                }
                if let Some(d) = *device {
                    let peer_device = &mut connection.peer_devices[d];
                    peer_device.replication = new.replication;
                    peer_device.peer_disk = new.peer_disk;
                    peer_device.resync_suspended = new.resync_suspended;
                }
            }
            if let Some(d) = *device {
                self.devices[d].disk = new.disk;
            }
        }
    }

    /// Somebody else may write: users of this node's devices that wait for it to be Primary again have not seen that.
    fn note_other_primary(&mut self) {
        let shared = self.connection.as_deref().is_none_or(|c| c.options.two_primaries);
        if self.role != Role::Primary && !shared {
            self.devices.iter_mut().for_each(|device| device.overtaken = true);
        }
    }

    /// One line for what the resource shares, one per volume, in DRBD's shape.
    fn log_changes(&self, changes: &[Change], peer_role: Option<Role>, out: &mut Vec<Command>) {
        let Some(Change { old, new, .. }) = changes.iter().find(|c| c.old != c.new) else { return };
        let mut shared = String::new();
        note(&mut shared, "role", old.role.name(), new.role.name());
        note_text(&mut shared, "susp", &old.suspended, &new.suspended);
        self.log_state(self.name.clone(), shared, out);
        let mut link = String::new();
        note(&mut link, "conn", old.connection.name(), new.connection.name());
        // A volume that parts alone knows no role of the peer any more; the connection does.
        if let (Some(before), Some(connection)) = (peer_role, self.connection.as_deref()) {
            note(&mut link, "peer", before.name(), connection.peer_role.name());
        }
        self.log_state(self.peer_subject(), link, out);
        for Change { device, old, new } in changes {
            let Some(d) = *device else { continue };
            let mut own = String::new();
            note(&mut own, "disk", old.disk.name(), new.disk.name());
            self.log_state(self.device_subject(d), own, out);
            let mut towards = String::new();
            note(&mut towards, "repl", old.replication.name(), new.replication.name());
            note(&mut towards, "pdsk", old.peer_disk.name(), new.peer_disk.name());
            note_text(&mut towards, "resync-susp", &old.resync_suspended, &new.resync_suspended);
            self.log_state(self.peer_device_subject(d), towards, out);
        }
    }

    fn log_state(&self, subject: String, text: String, out: &mut Vec<Command>) {
        if !text.is_empty() {
            self.log("state-change", Level::Info, subject, text, out);
        }
    }

    // ---- questions others ask ------------------------------------------------------------------------------------

    /// Slot of the peer's bitmap, if there is a disk and a peer.
    pub(super) fn peer_slot(&self, d: usize) -> Option<usize> {
        let backing = self.devices[d].backing.as_deref()?;
        self.peer_record_index(d).map(|n| backing.super_block.peers[n].bitmap_index.max(0) as usize)
    }

    pub(super) fn peer_disk(&self, d: usize) -> DiskState {
        self.connection.as_ref().map_or(DiskState::DUnknown, |c| c.peer_devices[d].peer_disk)
    }

    /// The handshake of that volume is done.
    pub(super) fn is_replicating(&self, d: usize) -> bool {
        self.snapshot(Some(d)).is_replicating()
    }

    pub(super) fn session_number(&self) -> Option<u32> {
        self.connection.as_ref()?.session().map(|s| s.number)
    }

    pub(super) fn out_of_sync_bits(&self, d: usize) -> u64 {
        match (self.peer_slot(d), &self.devices[d].backing) {
            (Some(slot), Some(backing)) => backing.bitmap.set_count(slot),
            _ => 0,
        }
    }

    /// What is on the own disk is good data, and will be when a disk that is being let go comes back.
    pub(super) fn disk_is_good(&self, d: usize) -> bool {
        let Some(backing) = self.devices[d].backing.as_deref() else { return false };
        let was_good = backing.super_block.flags & device_flag::WAS_UP_TO_DATE != 0;
        match self.devices[d].disk {
            DiskState::UpToDate => true,
            DiskState::Detaching => was_good && !backing.outrun,
            _ => false,
        }
    }

    /// A disk that is being let go was good, and the peer is known to lack some of it: its bitmap names blocks, or
    /// frozen writes were called done that nobody can send again.
    pub(super) fn disk_going_has_more(&self, d: usize) -> bool {
        let Some(backing) = self.devices[d].backing.as_deref() else { return false };
        let was_good = backing.super_block.flags & device_flag::WAS_UP_TO_DATE != 0;
        let going =
            matches!(self.devices[d].disk, DiskState::Detaching | DiskState::Failed | DiskState::Diskless);
        going && was_good && (self.out_of_sync_bits(d) > 0 || self.frozen_log_is_only_here(d))
    }

    /// Own disk or the peer's can serve (7.1: else a write is an error).
    pub(super) fn has_data_access(&self, d: usize) -> bool {
        self.devices[d].disk == DiskState::UpToDate || self.peer_disk(d) == DiskState::UpToDate
    }

    /// Upper requests of a volume may be started (7.8 of the wire reference).
    pub(super) fn accepts_upper(&self, d: usize) -> bool {
        let resizing = self.devices[d].resize.as_deref().is_some_and(|resize| resize.holds_requests());
        !self.suspended.any() && !self.freeze.engaged && !resizing && self.may_go_on(d)
    }

    /// Whether a front end may open a volume now: its size, or a sentence why not.
    pub fn may_open(&self, volume: crate::ids::VolumeNumber) -> Result<Sector, String> {
        let Some(d) = self.device_index(volume) else {
            return Err(format!("resource {} has no volume {volume}", self.name));
        };
        if self.role != Role::Primary {
            return Err(format!(
                "{} is {} on this node; `drbdadm primary {}` makes it usable here",
                self.name, self.role, self.name
            ));
        }
        if self.devices[d].size.0 == 0 {
            return Err(format!(
                "the size of {}/{volume} is not known yet: attach a disk or connect a peer",
                self.name
            ));
        }
        Ok(self.devices[d].size)
    }

    /// Everything a volume's users see is on this node's disk.
    pub fn is_disk_up_to_date(&self, volume: crate::ids::VolumeNumber) -> bool {
        self.device_index(volume).is_some_and(|d| self.devices[d].disk == DiskState::UpToDate)
    }

    pub(super) fn connection_state(&self) -> ConnectionState {
        self.connection.as_ref().map_or(ConnectionState::StandAlone, |c| c.state)
    }
}

/// Requests of the whole resource are suspended if one volume says so, each for its own reason.
fn share_suspension(changes: &mut [Change]) {
    let reasons = changes.iter().map(|c| c.new.suspended);
    let Some(all) = reasons.reduce(Suspended::or) else { return };
    changes.iter_mut().for_each(|c| c.new.suspended = all);
}

fn note(text: &mut String, what: &str, old: &str, new: &str) {
    if old != new {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&format!("{what}( {old} -> {new} )"));
    }
}

fn note_text(text: &mut String, what: &str, old: &dyn std::fmt::Display, new: &dyn std::fmt::Display) {
    note(text, what, &old.to_string(), &new.to_string());
}
