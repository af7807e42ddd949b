//! What an administrator asks: each request is checked, carried out or refused, and answered exactly once.
//!
//! Changes that concern the peer (promotion, detach, disconnect) are asked of it first, one at a time; further
//! requests wait their turn. What cannot be decided now because a handshake is under way waits for the next change of
//! state.

use super::command::{Command, Level};
use super::connection::{Connection, Link, Path, PingFor};
use super::device::Device;
use super::event::AdminRequest;
use super::meta_jobs::{Job, Then};
use super::peer_device::PeerDevice;
use super::resource::Resource;
use super::state::Mode;
use super::state_change::{judge_cluster_wide, needs_peer, settle, Snapshot, Verdict};
use crate::config::{DeviceOptions, DiskOptions, NetOptions, PeerDeviceOptions};
use crate::control::Done;
use crate::ids::{Instant, Minor, NodeId, Sector, Ticket, VolumeNumber};
use crate::limits::{NODES_MAX, VOLUMES_MAX};
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, Role};
use crate::wire::state_word::{field, mirror, role_of, Change as WireChange};
use crate::wire::Packet;
use std::collections::VecDeque;

/// How long a request waits for a handshake to end before it is refused.
const TRANSIENT_MS: u64 = 30_000;

/// Requests under way.
#[derive(Debug, Default)]
pub(super) struct Admin {
    /// Waiting for their turn, or for a change of state.
    waiting: VecDeque<Waiting>,
    /// The one the peer is being asked about.
    asking: Option<Asking>,
    /// A new role that is being written.
    role_jobs: Vec<RoleJob>,
    /// Disks that are being let go.
    pub(super) detaching: Vec<(usize, Option<Ticket>)>,
    /// `down` goes on when what it began is over.
    down: Option<Ticket>,
    /// Something changed since the waiting ones were last looked at.
    pub(super) state_changed: bool,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    want: Want,
    give_up_at: Instant,
}

/// A change of state somebody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    Primary { force: bool, forced: bool, pinged: bool },
    Secondary { force: bool },
    Detach { device: usize },
    Disconnect,
}

/// The peer is being asked.
#[derive(Clone, Copy, Debug)]
struct Asking {
    ticket: Ticket,
    want: Want,
    /// Volumes it still has to be asked about (8.4 asks volume by volume).
    next_device: usize,
    /// The peer only has to show that it lives.
    pinging: bool,
}

/// A role that counts when every disk has it written.
#[derive(Clone, Copy, Debug)]
struct RoleJob {
    ticket: Ticket,
    disks_left: usize,
    forced: bool,
    demotion: bool,
    /// The transfer log has to be empty first.
    draining: bool,
}

impl Admin {
    /// A demotion has not yet reached the disks: the log still counts.
    pub(super) fn is_demoting(&self) -> bool {
        self.role_jobs.iter().any(|job| job.demotion && job.draining)
    }

    fn is_idle(&self) -> bool {
        self.asking.is_none() && self.role_jobs.is_empty() && self.detaching.is_empty()
    }

    /// The next moment a waiting request gives up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|w| w.give_up_at).min()
    }
}

fn done(changed: bool) -> Done {
    Done { changed, ..Done::default() }
}

fn not_yet(what: &str) -> Refusal {
    Refusal::because(Reason::PacketNumber, format!("this version of udrbd does not do {what} yet"))
}

impl Resource {
    /// An administrator asks for something.
    pub(super) fn administer(&mut self, ticket: Ticket, request: AdminRequest, out: &mut Vec<Command>) {
        let result = match request {
            AdminRequest::NewMinor { minor, volume, options } => self.new_minor(minor, volume, options),
            AdminRequest::DelMinor { volume } => self.del_minor(volume, out),
            AdminRequest::NewPeer { peer, options } => self.new_peer(peer, options, out),
            AdminRequest::DelPeer { peer, .. } => self.del_peer(peer, out),
            AdminRequest::NewPath { peer, local, remote } => self.new_path(peer, Path { local, remote }),
            AdminRequest::DelPath { peer, local, remote } => self.del_path(peer, Path { local, remote }),
            AdminRequest::Attach(request) => return self.attach(ticket, request, out),
            AdminRequest::Connect { peer, tentative, discard_my_data } => {
                self.connect(peer, tentative, discard_my_data, out)
            }
            AdminRequest::ResourceOptions(options) => {
                self.options = options;
                Ok(done(true))
            }
            AdminRequest::NetOptions { peer, options } => self.net_options(peer, options),
            AdminRequest::DiskOptions { volume, options } => self.disk_options(volume, options),
            AdminRequest::PeerDeviceOptions { peer, volume, options } => {
                self.peer_device_options(peer, volume, options)
            }
            AdminRequest::Primary { force } => {
                return self.want(ticket, Want::Primary { force, forced: false, pinged: false }, out);
            }
            AdminRequest::Secondary { force } => return self.want(ticket, Want::Secondary { force }, out),
            AdminRequest::Detach { volume, force, .. } => return self.detach(ticket, volume, force, out),
            AdminRequest::Disconnect { peer, force } => return self.disconnect(ticket, peer, force, out),
            AdminRequest::Down => return self.down(ticket, out),
        };
        self.reply(ticket, result, out);
        self.notify_changes(out);
    }

    // ---- objects -------------------------------------------------------------------------------------------------

    fn new_minor(
        &mut self,
        minor: Minor,
        volume: VolumeNumber,
        options: DeviceOptions,
    ) -> Result<Done, Refusal> {
        if self.devices.iter().any(|d| d.minor == minor || d.volume == volume) {
            return Err(Reason::MinorOrVolumeExists.into());
        }
        if self.devices.len() >= VOLUMES_MAX {
            return Err(Refusal::because(
                Reason::InvalidRequest,
                format!("a resource has at most {VOLUMES_MAX} volumes"),
            ));
        }
        if self.session_number().is_some() {
            return Err(not_yet("new-minor while connected; disconnect first"));
        }
        self.devices.push(Device::new(minor, volume, options));
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.peer_devices.push(PeerDevice::new());
        }
        Ok(done(true))
    }

    fn del_minor(&mut self, volume: VolumeNumber, out: &mut Vec<Command>) -> Result<Done, Refusal> {
        let Some(d) = self.device_index(volume) else { return Err(Reason::MinorInvalid.into()) };
        let device = &self.devices[d];
        if device.disk != DiskState::Diskless || device.backing.is_some() || self.role == Role::Primary {
            return Err(Reason::MinorConfigured.into());
        }
        if self.session_number().is_some() {
            return Err(not_yet("del-minor while connected; disconnect first"));
        }
        if device.counters.lower_pending > 0 || d + 1 != self.devices.len() && !self.no_requests() {
            return Err(Reason::MinorConfigured.into());
        }
        self.devices.remove(d);
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.peer_devices.remove(d);
        }
        self.notify_changes(out);
        Ok(done(true))
    }

    fn no_requests(&self) -> bool {
        self.requests.len() == 0 && self.peer_requests.len() == 0 && self.ios.len() == 0
    }

    fn new_peer(
        &mut self,
        peer: NodeId,
        options: NetOptions,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        if usize::from(peer.0) >= NODES_MAX || peer == self.node_id {
            return Err(Reason::InvalidPeerNodeId.into());
        }
        if let Some(connection) = &self.connection {
            if connection.peer == peer {
                return Err(Reason::AlreadyExists.into());
            }
            return Err(not_yet("a second peer"));
        }
        check_net_options(&options)?;
        let mut connection = Connection::new(peer, options);
        connection.peer_devices = self.devices.iter().map(|_| PeerDevice::new()).collect();
        self.connection = Some(Box::new(connection));
        for d in 0..self.devices.len() {
            self.slot_for_new_peer(d, out);
        }
        Ok(done(true))
    }

    fn peer(&mut self, peer: NodeId) -> Result<&mut Connection, Refusal> {
        match self.connection.as_deref_mut() {
            Some(connection) if connection.peer == peer => Ok(connection),
            _ => {
                let info = format!("node {peer} is not a peer of {}", self.name);
                Err(Refusal::because(Reason::InvalidPeerNodeId, info))
            }
        }
    }

    fn del_peer(&mut self, peer: NodeId, out: &mut Vec<Command>) -> Result<Done, Refusal> {
        self.peer(peer)?;
        self.disconnect_now(out);
        self.connection = None;
        Ok(done(true))
    }

    fn new_path(&mut self, peer: NodeId, path: Path) -> Result<Done, Refusal> {
        let connection = self.peer(peer)?;
        if connection.paths.contains(&path) {
            return Err(Reason::AlreadyExists.into());
        }
        if !connection.paths.is_empty() {
            return Err(not_yet("a second path"));
        }
        connection.paths.push(path);
        Ok(done(true))
    }

    fn del_path(&mut self, peer: NodeId, path: Path) -> Result<Done, Refusal> {
        let connection = self.peer(peer)?;
        if connection.state != ConnectionState::StandAlone {
            return Err(Reason::NeedStandalone.into());
        }
        match connection.paths.iter().position(|p| *p == path) {
            Some(at) => {
                connection.paths.remove(at);
                Ok(done(true))
            }
            None => Err(Refusal::because(Reason::InvalidRequest, "there is no such path")),
        }
    }

    fn net_options(&mut self, peer: NodeId, options: NetOptions) -> Result<Done, Refusal> {
        check_net_options(&options)?;
        let connection = self.peer(peer)?;
        let fixed = |o: &NetOptions| {
            (
                o.protocol,
                o.two_primaries,
                o.after_sb_0pri.clone(),
                o.after_sb_1pri.clone(),
                o.after_sb_2pri.clone(),
            )
        };
        if connection.session().is_some() && fixed(&connection.options) != fixed(&options) {
            return Err(not_yet(
                "a change of protocol, allow-two-primaries or after-sb-* while connected; disconnect first",
            ));
        }
        connection.options = options;
        Ok(done(true))
    }

    fn disk_options(&mut self, volume: VolumeNumber, options: DiskOptions) -> Result<Done, Refusal> {
        let Some(d) = self.device_index(volume) else { return Err(Reason::MinorInvalid.into()) };
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return Err(Reason::NoDisk.into()) };
        let mut info = Vec::new();
        if options.al_extents != backing.options.al_extents
            || options.al_updates != backing.options.al_updates
        {
            info.push("al-extents and al-updates take effect at the next attach".to_owned());
        }
        let keep = (backing.options.al_extents, backing.options.al_updates);
        backing.options = DiskOptions { al_extents: keep.0, al_updates: keep.1, ..options };
        Ok(Done { changed: true, info, ..Done::default() })
    }

    fn peer_device_options(
        &mut self,
        peer: NodeId,
        volume: VolumeNumber,
        options: PeerDeviceOptions,
    ) -> Result<Done, Refusal> {
        let Some(d) = self.device_index(volume) else { return Err(Reason::MinorInvalid.into()) };
        self.peer(peer)?.peer_devices[d].options = options;
        Ok(done(true))
    }

    // ---- connecting ----------------------------------------------------------------------------------------------

    fn connect(
        &mut self,
        peer: NodeId,
        tentative: bool,
        discard_my_data: bool,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        let role = self.role;
        let connection = self.peer(peer)?;
        if connection.state != ConnectionState::StandAlone {
            return Err(Reason::NetConfigured.into());
        }
        if connection.paths.is_empty() {
            return Err(Refusal::because(
                Reason::NoNetConfig,
                "there is no path to the peer: give one with new-path",
            ));
        }
        if discard_my_data && role == Role::Primary {
            return Err(Reason::DiscardImpossible.into());
        }
        connection.tentative = tentative;
        connection.discard_my_data = discard_my_data;
        connection.last_error.clear();
        connection.link = Link::Waiting { retry_at: Instant(0) };
        self.change(Mode::Soft, &|_, s| s.connection = ConnectionState::Unconnected, out)
            .map_err(Refusal::from)?;
        self.begin_pairing(out);
        Ok(done(true))
    }

    fn disconnect(&mut self, ticket: Ticket, peer: NodeId, force: bool, out: &mut Vec<Command>) {
        if let Err(refusal) = self.peer(peer).map(|_| ()) {
            self.reply(ticket, Err(refusal), out);
        } else if self.connection_state() == ConnectionState::StandAlone {
            self.reply(ticket, Ok(done(false)), out);
        } else if force || self.connection_state() != ConnectionState::Connected {
            self.disconnect_now(out);
            self.reply(ticket, Ok(done(true)), out);
        } else {
            self.want(ticket, Want::Disconnect, out);
        }
    }

    fn detach(&mut self, ticket: Ticket, volume: VolumeNumber, force: bool, out: &mut Vec<Command>) {
        let Some(device) = self.device_index(volume) else {
            return self.reply(ticket, Err(Reason::MinorInvalid.into()), out);
        };
        match self.devices[device].disk {
            DiskState::Diskless => self.reply(ticket, Ok(done(false)), out),
            DiskState::Detaching | DiskState::Failed => {
                self.reply(ticket, Err(Reason::InTransientState.into()), out);
            }
            _ if force => {
                self.give_up_disk(device, out);
                self.reply(ticket, Ok(done(true)), out);
            }
            _ => self.want(ticket, Want::Detach { device }, out),
        }
    }

    // ---- changes of state ----------------------------------------------------------------------------------------

    fn want(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        let give_up_at = self.now.plus_ms(TRANSIENT_MS);
        self.admin.waiting.push_back(Waiting { ticket, want, give_up_at });
        self.serve_waiting(out);
    }

    /// Looks at the waiting requests, if there is a reason to.
    pub(super) fn admin_tick(&mut self, out: &mut Vec<Command>) {
        self.continue_detach(out);
        self.continue_demotions(out);
        let now = self.now;
        if std::mem::take(&mut self.admin.state_changed) || self.admin.deadline().is_some_and(|at| at <= now)
        {
            self.serve_waiting(out);
            self.continue_down(out);
        }
    }

    fn serve_waiting(&mut self, out: &mut Vec<Command>) {
        for _ in 0..self.admin.waiting.len() {
            if !self.admin.is_idle() {
                return;
            }
            let Some(waiting) = self.admin.waiting.pop_front() else { return };
            let late = waiting.give_up_at <= self.now;
            match self.attempt(waiting.ticket, waiting.want, out) {
                Ok(()) => {}
                Err(Reason::InTransientState) if !late => self.admin.waiting.push_back(waiting),
                Err(reason) => self.refuse(waiting.ticket, waiting.want, reason, out),
            }
        }
    }

    fn refuse(&mut self, ticket: Ticket, want: Want, reason: Reason, out: &mut Vec<Command>) {
        let info = match (reason, want) {
            (Reason::DeviceInUse, _) => {
                let open: u32 = self.devices.iter().map(|d| d.open_count).sum();
                format!("{open} session(s) of the NBD server have it open: close them first")
            }
            (Reason::NoUpToDateDisk, Want::Primary { .. }) => {
                "no disk of this node is UpToDate and no peer with one is connected; --force takes this node's data as it is".to_owned()
            }
            _ => String::new(),
        };
        self.reply(ticket, Err(Refusal { reason, info }), out);
    }

    /// Tries a change; the answer follows now or later unless it is refused.
    fn attempt(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) -> Result<(), Reason> {
        match want {
            Want::Primary { .. } if self.role == Role::Primary => {
                self.reply(ticket, Ok(done(false)), out);
                Ok(())
            }
            Want::Secondary { .. } if self.role == Role::Secondary => {
                self.reply(ticket, Ok(done(false)), out);
                Ok(())
            }
            Want::Primary { force, forced, pinged: false } if self.is_connected() => {
                // A peer that died lately is noticed now rather than refused over.
                let want = Want::Primary { force, forced, pinged: true };
                self.admin.asking = Some(Asking { ticket, want, next_device: 0, pinging: true });
                self.ping(PingFor::Promotion, out);
                Ok(())
            }
            Want::Primary { .. } => self.try_primary(ticket, want, out),
            Want::Secondary { force } => self.try_secondary(ticket, force, out),
            Want::Detach { .. } | Want::Disconnect => self.ask_or_do(ticket, want, out),
        }
    }

    fn is_connected(&self) -> bool {
        self.connection_state() == ConnectionState::Connected
    }

    /// The peer lives.
    pub(super) fn promotion_pinged(&mut self, out: &mut Vec<Command>) {
        let Some(Asking { ticket, want, pinging: true, .. }) = self.admin.asking else { return };
        self.admin.asking = None;
        self.try_again(ticket, want, out);
    }

    fn try_again(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        match self.attempt(ticket, want, out) {
            Ok(()) => {}
            Err(Reason::InTransientState) => {
                let give_up_at = self.now.plus_ms(TRANSIENT_MS);
                self.admin.waiting.push_back(Waiting { ticket, want, give_up_at });
            }
            Err(reason) => self.refuse(ticket, want, reason, out),
        }
        self.admin.state_changed = true;
    }

    fn try_primary(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) -> Result<(), Reason> {
        let Want::Primary { force, forced, pinged } = want else { return Ok(()) };
        match self.ask_or_do(ticket, want, out) {
            Err(Reason::NoUpToDateDisk) if force && !forced && self.may_be_forced() => {
                let forced = Want::Primary { force, forced: true, pinged };
                self.ask_or_do(ticket, forced, out)
            }
            other => other,
        }
    }

    /// Every disk that is not UpToDate could be called so.
    fn may_be_forced(&self) -> bool {
        !self.devices.is_empty() && self.devices.iter().all(|d| d.disk.has_data())
    }

    fn try_secondary(&mut self, ticket: Ticket, force: bool, out: &mut Vec<Command>) -> Result<(), Reason> {
        if force && self.devices.iter().any(|d| d.open_count > 0) {
            self.force_io_failures = true;
        }
        if let Err(reason) = self.propose(Mode::Soft, &|_, s| s.role = Role::Secondary) {
            self.force_io_failures = false;
            return Err(reason);
        }
        self.begin_demotion(ticket, out);
        Ok(())
    }

    fn begin_demotion(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        self.admin.role_jobs.push(RoleJob {
            ticket,
            disks_left: 0,
            forced: false,
            demotion: true,
            draining: true,
        });
        self.force(&|_, s| s.role = Role::Secondary, out);
        for d in 0..self.devices.len() {
            self.start_held(d, out);
            self.tell_device(d, out);
        }
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.sent_epochs.closed = true;
        }
        self.send_owed_barrier(out);
        self.continue_demotions(out);
    }

    /// A demotion reaches the disks when nothing is under way any more and the peer has everything on stable storage:
    /// only then may the log be forgotten.
    fn continue_demotions(&mut self, out: &mut Vec<Command>) {
        let Some(at) = self.admin.role_jobs.iter().position(|job| job.demotion && job.draining) else {
            return;
        };
        let log_empty = self.connection.as_ref().is_none_or(|c| c.transfer_log.is_empty());
        let quiet =
            log_empty && self.devices.iter().all(|d| d.log_waiters.is_empty()) && self.no_upper_writes();
        if !quiet {
            return;
        }
        self.admin.role_jobs[at].draining = false;
        let ticket = self.admin.role_jobs[at].ticket;
        self.write_role(ticket, out);
    }

    fn no_upper_writes(&self) -> bool {
        self.requests.len() == 0
    }

    /// Writes the role to every disk; [`Then::RoleStable`] counts them.
    fn write_role(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let disks: Vec<usize> =
            (0..self.devices.len()).filter(|&d| self.devices[d].backing.is_some()).collect();
        let Some(job) = self.admin.role_jobs.iter_mut().find(|job| job.ticket == ticket) else { return };
        job.disks_left = disks.len();
        let demotion = job.demotion;
        if disks.is_empty() {
            self.role_kept(ticket, out);
        }
        for d in disks {
            self.mark_role(d);
            self.update_flags(d);
            let job = if demotion { Job::everything(None) } else { Job::super_block(None) };
            self.meta_job(d, Job { then: vec![Then::RoleStable(ticket)], ..job }, out);
        }
    }

    /// One disk has the role.
    pub(super) fn role_stable(&mut self, d: usize, ticket: Ticket, out: &mut Vec<Command>) {
        let Some(job) = self.admin.role_jobs.iter_mut().find(|job| job.ticket == ticket) else { return };
        job.disks_left = job.disks_left.saturating_sub(1);
        let left = job.disks_left;
        let primary = !job.demotion;
        if let Some(backing) = self.devices[d].backing.as_deref_mut() {
            backing.primary_stable = primary;
        }
        self.wake_log_waiters(d, out);
        if left == 0 {
            self.role_kept(ticket, out);
        }
    }

    /// The role is kept everywhere: tell it.
    fn role_kept(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let Some(at) = self.admin.role_jobs.iter().position(|job| job.ticket == ticket) else { return };
        let job = self.admin.role_jobs.remove(at);
        for d in 0..self.devices.len() {
            if job.forced {
                self.send_uuids(d, out);
            }
            self.send_state(d, out);
            self.tell_device(d, out);
        }
        self.reply(ticket, Ok(done(true)), out);
        self.admin.state_changed = true;
        self.notify_changes(out);
    }

    fn tell_device(&self, d: usize, out: &mut Vec<Command>) {
        let device = &self.devices[d];
        if device.size != Sector(0) {
            out.push(Command::Device {
                volume: device.volume,
                size: device.size,
                writable: self.role == Role::Primary,
            });
        }
    }

    // ---- asking the peer -----------------------------------------------------------------------------------------

    fn ask_or_do(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) -> Result<(), Reason> {
        let mut ask = false;
        for device in self.volumes_of(want) {
            let old = self.snapshot(device);
            let context = self.context(device);
            let mut wanted = old;
            edit_of(want)(device, &mut wanted);
            let new = settle(&old, wanted, &context).snapshot;
            if needs_peer(&old, &new) {
                ask = true;
                if let Verdict::Refused(reason) = judge_cluster_wide(&old, &new, &context) {
                    return Err(reason);
                }
            }
        }
        if !ask {
            self.propose(Mode::Soft, &edit_of(want))?;
            self.carry_out(ticket, want, out);
            return Ok(());
        }
        self.admin.asking = Some(Asking { ticket, want, next_device: 0, pinging: false });
        self.ask_next(out);
        Ok(())
    }

    fn volumes_of(&self, want: Want) -> Vec<Option<usize>> {
        match want {
            Want::Detach { device } => vec![Some(device)],
            _ if self.devices.is_empty() => vec![None],
            _ => (0..self.devices.len()).map(Some).collect(),
        }
    }

    /// Sends the next question; the same for every volume, one after the other.
    fn ask_next(&mut self, out: &mut Vec<Command>) {
        let Some(asking) = self.admin.asking else { return };
        let change = wire_change(asking.want);
        let version = self.connection.as_ref().and_then(|c| c.session()).map_or(0, |s| s.version);
        match asking.want {
            Want::Disconnect => {
                let packet = if version >= 100 {
                    Packet::ConnStateChangeRequest { mask: change.mask, val: change.val }
                } else {
                    Packet::StateChangeRequest { mask: change.mask, val: change.val }
                };
                self.send(VolumeNumber(0), packet, out);
            }
            Want::Detach { device } => {
                let volume = self.devices[device].volume;
                self.send(volume, Packet::StateChangeRequest { mask: change.mask, val: change.val }, out);
            }
            Want::Primary { .. } | Want::Secondary { .. } => {
                let volume = self.devices[asking.next_device].volume;
                self.send(volume, Packet::StateChangeRequest { mask: change.mask, val: change.val }, out);
            }
        }
    }

    /// The peer answered.
    pub(super) fn peer_answered_change(&mut self, code: i32, out: &mut Vec<Command>) {
        let Some(asking) = self.admin.asking.filter(|a| !a.pinging) else { return };
        if code >= 1 {
            let more =
                matches!(asking.want, Want::Primary { .. }) && asking.next_device + 1 < self.devices.len();
            if more {
                self.admin.asking = Some(Asking { next_device: asking.next_device + 1, ..asking });
                self.ask_next(out);
                return;
            }
            self.admin.asking = None;
            match self.propose(Mode::Soft, &edit_of(asking.want)) {
                Ok(_) => self.carry_out(asking.ticket, asking.want, out),
                Err(reason) => self.refuse(asking.ticket, asking.want, reason, out),
            }
        } else {
            self.admin.asking = None;
            let text =
                Reason::from_number(code).map_or_else(|| format!("code {code}"), |r| r.text().to_owned());
            let refusal = Refusal::because(Reason::FailedByPeer, format!("the peer says: {text}"));
            self.reply(asking.ticket, Err(refusal), out);
        }
        self.admin.state_changed = true;
    }

    /// The session ended while the peer was being asked: decide again without it.
    pub(super) fn cluster_change_lost(&mut self, out: &mut Vec<Command>) {
        let Some(asking) = self.admin.asking.take() else { return };
        match asking.want {
            Want::Disconnect => {
                self.disconnect_now(out);
                self.reply(asking.ticket, Ok(done(true)), out);
            }
            want => self.try_again(asking.ticket, want, out),
        }
    }

    /// Everybody agreed: do it.
    fn carry_out(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        match want {
            Want::Primary { forced, .. } => self.become_primary(ticket, forced, out),
            Want::Secondary { .. } => self.begin_demotion(ticket, out),
            Want::Detach { device } => self.begin_detach(device, Some(ticket), out),
            Want::Disconnect => {
                self.disconnect_now(out);
                self.reply(ticket, Ok(done(true)), out);
            }
        }
    }

    fn become_primary(&mut self, ticket: Ticket, forced: bool, out: &mut Vec<Command>) {
        let want = Want::Primary { force: forced, forced, pinged: true };
        if let Err(reason) = self.change(Mode::Soft, &edit_of(want), out) {
            return self.refuse(ticket, want, reason, out);
        }
        if forced {
            self.log(
                "forced",
                Level::Warning,
                self.name.clone(),
                "Forced to consider local data as UpToDate!",
                out,
            );
        }
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.discard_my_data = false;
        }
        for d in 0..self.devices.len() {
            let snapshot = self.snapshot(Some(d));
            let alone = !snapshot.is_replicating() || !snapshot.peer_disk.has_data();
            if (alone && self.bitmap_generation(d) == 0) || forced {
                self.new_generation(d, out);
            }
        }
        self.admin.role_jobs.push(RoleJob {
            ticket,
            disks_left: 0,
            forced,
            demotion: false,
            draining: false,
        });
        self.write_role(ticket, out);
    }

    // ---- being asked ---------------------------------------------------------------------------------------------

    /// The peer asks whether it may change its state, and so ours as it sees it.
    pub(super) fn peer_asks_change(
        &mut self,
        device: Option<usize>,
        mask: u32,
        val: u32,
        out: &mut Vec<Command>,
    ) {
        let code = self.judge_peer_change(device, mask, val, out);
        let (volume, packet) = match device {
            Some(d) => (self.devices[d].volume, Packet::StateChangeReply(code)),
            None => (VolumeNumber(0), Packet::ConnStateChangeReply(code)),
        };
        self.send_control(volume, packet, out);
        let (mask, val) = mirror(mask, val);
        if code >= 1
            && mask & field::CONN != 0
            && val & field::CONN == (ConnectionState::TearDown as u32) << 4
        {
            if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
                session.tear_down = true;
            }
            self.tear_down(out);
        }
    }

    fn judge_peer_change(
        &mut self,
        device: Option<usize>,
        mask: u32,
        val: u32,
        out: &mut Vec<Command>,
    ) -> i32 {
        let session = self.connection.as_ref().and_then(|c| c.session());
        let resolves = session.is_some_and(|s| s.resolve_conflicts);
        if resolves && self.admin.asking.is_some_and(|a| !a.pinging) {
            return Reason::ConcurrentStateChange.number();
        }
        let (mask, val) = mirror(mask, val);
        let peer_role = (mask & field::PEER != 0).then(|| role_of(val >> 2)).flatten();
        let own_disk = (mask & field::DISK != 0).then(|| crate::wire::state_word::disk_of(val)).flatten();
        let peer_disk =
            (mask & field::PEER_DISK != 0).then(|| crate::wire::state_word::peer_disk_of(val)).flatten();
        let conn = (mask & field::CONN != 0).then(|| crate::wire::state_word::conn_of(val)).flatten();
        let tear_down = conn.is_some_and(|c| c.0 == ConnectionState::TearDown as u8);
        if conn.is_some() && !tear_down {
            // Verify and invalidate: not carried out yet.
            return Reason::NotSupported.number();
        }
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if device.is_some() && v != device {
                return;
            }
            if let Some(role) = peer_role {
                s.peer_role = role;
            }
            if let Some(disk) = peer_disk {
                s.peer_disk = disk;
            }
            if let Some(disk) = own_disk.filter(|_| s.disk.rank() >= DiskState::Outdated.rank()) {
                s.disk = disk;
            }
        };
        if tear_down && peer_role.is_none() && own_disk.is_none() && peer_disk.is_none() {
            return 1;
        }
        match self.change(Mode::Soft, &edit, out) {
            Ok(true) => 1,
            Ok(false) => 2,
            Err(reason) => reason.number(),
        }
    }

    // ---- down ----------------------------------------------------------------------------------------------------

    /// `down`: demote, disconnect, detach, one after the other; nothing if the device is held open.
    fn down(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        if self.devices.iter().any(|d| d.open_count > 0) {
            let want = Want::Secondary { force: false };
            return self.refuse(ticket, want, Reason::DeviceInUse, out);
        }
        if self.admin.down.is_some() {
            return self.reply(ticket, Err(Reason::InTransientState.into()), out);
        }
        self.admin.down = Some(ticket);
        self.continue_down(out);
    }

    fn continue_down(&mut self, out: &mut Vec<Command>) {
        let Some(ticket) = self.admin.down else { return };
        if !self.admin.is_idle() {
            return;
        }
        // Steps of `down` carry its own ticket; only the last one is answered.
        if self.role == Role::Primary {
            return self.begin_demotion(STEP, out);
        }
        if self.connection_state() != ConnectionState::StandAlone {
            if self.is_connected() && self.ask_or_do(STEP, Want::Disconnect, out).is_ok() {
                return;
            }
            self.disconnect_now(out);
        }
        if let Some(d) = self.devices.iter().position(|d| d.backing.is_some()) {
            return self.begin_detach(d, Some(STEP), out);
        }
        if self.devices.iter().all(|d| d.counters.lower_pending == 0) {
            self.admin.down = None;
            self.reply(ticket, Ok(done(true)), out);
        }
    }
}

/// Ticket of a step nobody waits for.
const STEP: Ticket = Ticket(u32::MAX);

impl Resource {
    /// Whether nobody waits for that answer.
    pub(super) fn is_step(ticket: Ticket) -> bool {
        ticket == STEP
    }
}

fn check_net_options(options: &NetOptions) -> Result<(), Refusal> {
    if !options.data_integrity_alg.is_empty() {
        return Err(not_yet("data-integrity-alg"));
    }
    if options.two_primaries && options.protocol != crate::states::Protocol::C {
        return Err(Reason::NotProtocolC.into());
    }
    if options.two_primaries {
        return Err(not_yet("allow-two-primaries"));
    }
    if !options.cram_hmac_alg.is_empty() && options.shared_secret.is_empty() {
        return Err(Refusal::because(Reason::AuthAlgorithm, "cram-hmac-alg needs a shared-secret"));
    }
    Ok(())
}

fn edit_of(want: Want) -> impl Fn(Option<usize>, &mut Snapshot) {
    move |v, s| match want {
        Want::Primary { forced, .. } => {
            s.role = Role::Primary;
            if forced && s.disk.has_data() {
                s.disk = DiskState::UpToDate;
            }
        }
        Want::Secondary { .. } => s.role = Role::Secondary,
        Want::Detach { device } => {
            if v == Some(device) {
                s.disk = DiskState::Failed;
            }
        }
        Want::Disconnect => {
            s.connection = ConnectionState::Disconnecting;
            s.replication = crate::states::ReplicationState::Off;
        }
    }
}

fn wire_change(want: Want) -> WireChange {
    let change = WireChange::default();
    match want {
        Want::Primary { forced: false, .. } => change.role(Role::Primary),
        Want::Primary { forced: true, .. } => change.role(Role::Primary).disk(DiskState::UpToDate),
        Want::Secondary { .. } => change.role(Role::Secondary),
        Want::Detach { .. } => change.disk(DiskState::Failed),
        Want::Disconnect => change.conn(crate::states::Conn84(ConnectionState::Disconnecting as u8)),
    }
}
