//! Volumes come and go, also while the nodes are connected.
//!
//! A volume that is made in a session tells the peer of itself at once, as 8.4 does; a peer that does not have it yet
//! ignores that. When the peer makes it in turn, it says so, and the volumes meet; what the peer could not hear is said
//! once more then. A volume that the peer no longer has goes back to where it was before they met. A number that was in use
//! in this session before begins a new one: what the peer still says of the volume deleted would be heard of the next.

use super::{done, Asking, Want};
use crate::config::DeviceOptions;
use crate::control::Done;
use crate::engine::command::Command;
use crate::engine::connection::{PingFor, Stage};
use crate::engine::device::Device;
use crate::engine::peer_device::PeerDevice;
use crate::engine::resource::Resource;
use crate::engine::state_change::Snapshot;
use crate::ids::{Minor, Ticket, VolumeNumber};
use crate::limits::VOLUMES_MAX;
use crate::refusal::{Reason, Refusal};
use crate::states::{DiskState, ReplicationState, Role};

impl Resource {
    pub(super) fn new_minor(
        &mut self,
        minor: Minor,
        volume: VolumeNumber,
        options: DeviceOptions,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        if self.devices.iter().any(|d| d.minor == minor || d.volume == volume) {
            return Err(Reason::MinorOrVolumeExists.into());
        }
        if self.devices.len() >= VOLUMES_MAX {
            let info = format!("a resource has at most {VOLUMES_MAX} volumes");
            return Err(Refusal::because(Reason::InvalidRequest, info));
        }
        let session = self.connection.as_deref().and_then(|c| c.session());
        let told = session.is_some_and(|s| matches!(s.stage, Stage::Settings | Stage::Up));
        if told && session.is_some_and(|s| s.version < 100) && volume != VolumeNumber(0) {
            let info = "the peer's protocol knows no volumes but 0";
            return Err(Refusal::because(Reason::NeedProtocol100, info));
        }
        let session_knew = session.is_some_and(|s| s.volumes_deleted.contains(&volume));
        let mut device = Device::new(minor, volume, options);
        device.conflicts.set_peers_first(self.two_primaries_allowed(), &mut Vec::new());
        self.devices.push(device);
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.peer_devices.push(PeerDevice { made_in_session: told, ..PeerDevice::new() });
        }
        if told && session_knew {
            self.end_session_for("A volume was deleted and is made anew: the connection begins again");
        } else if told {
            let d = self.devices.len() - 1;
            self.send_sync_param(d, out);
            self.send_sizes(d, out);
            self.send_state(d, out);
        }
        Ok(done(true))
    }

    pub(super) fn del_minor(&mut self, ticket: Ticket, volume: VolumeNumber, out: &mut Vec<Command>) {
        let Some(d) = self.device_index(volume) else {
            return self.reply(ticket, Err(Reason::MinorInvalid.into()), out);
        };
        if let Err(reason) = self.is_deletable(d) {
            return self.reply(ticket, Err(reason.into()), out);
        }
        self.want(ticket, Want::DelMinor { device: d }, out);
    }

    fn is_deletable(&self, d: usize) -> Result<(), Reason> {
        let device = &self.devices[d];
        let in_use = device.disk != DiskState::Diskless || device.backing.is_some();
        if in_use || self.role == Role::Primary {
            return Err(Reason::MinorConfigured);
        }
        Ok(())
    }

    /// The peer is asked first, where it has the volume.
    pub(super) fn try_del_minor(
        &mut self,
        ticket: Ticket,
        d: usize,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        if d >= self.devices.len() {
            // Another request deleted it first.
            return Err(Reason::MinorInvalid);
        }
        self.is_deletable(d)?;
        if self.is_replicating(d) {
            return self.ask_or_do(ticket, Want::DelMinor { device: d }, out);
        }
        // Whatever names volumes by their place has to end first.
        if self.is_named(d) {
            return Err(Reason::InTransientState);
        }
        self.remove_volume(d);
        self.reply(ticket, Ok(done(true)), out);
        self.notify_changes(out);
        Ok(())
    }

    /// The peer let it go.
    pub(super) fn leave_volume(&mut self, ticket: Ticket, d: usize, out: &mut Vec<Command>) {
        let edit = |v: Option<usize>, s: &mut Snapshot| Resource::edit_leaving(d, v, s);
        self.force(&edit, out);
        self.want(ticket, Want::DelMinor { device: d }, out);
    }

    pub(super) fn edit_leaving(d: usize, v: Option<usize>, s: &mut Snapshot) {
        if v == Some(d) {
            s.replication = ReplicationState::Off;
        }
    }

    /// Something under way concerns this volume, or one whose place changes with it.
    fn is_named(&self, d: usize) -> bool {
        let device = &self.devices[d];
        let busy = |other: usize| other >= d;
        device.counters.lower_pending > 0
            || self.requests.iter().any(|(_, r)| busy(r.device))
            || self.peer_requests.iter().any(|(_, r)| busy(r.device))
            || self.ios.iter().any(|(_, io)| busy(io.device))
            || self.handlers.len() > 0
            || self.admin.names_volumes()
    }

    fn remove_volume(&mut self, d: usize) {
        let volume = self.devices.remove(d).volume;
        self.admin.volume_removed(d);
        let Some(connection) = self.connection.as_deref_mut() else { return };
        connection.peer_devices.remove(d);
        let Some(session) = connection.session_mut() else { return };
        session.volumes_deleted.insert(volume);
        for ping in &mut session.pings {
            *ping = match *ping {
                PingFor::ResyncEnd(v) | PingFor::VerifyEnd(v) if v == d => PingFor::Alive,
                PingFor::ResyncEnd(v) if v > d => PingFor::ResyncEnd(v - 1),
                PingFor::VerifyEnd(v) if v > d => PingFor::VerifyEnd(v - 1),
                other => other,
            };
        }
    }

    /// The peer was asked to let go of it.
    pub(super) fn say_nothing_more(&mut self, d: usize) {
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.peer_devices[d].leaving = true;
        }
    }

    pub(in crate::engine) fn is_leaving(&self, d: usize) -> bool {
        self.connection.as_deref().is_some_and(|c| c.peer_devices[d].leaving)
    }

    /// The peer let go of it, and what it still says was on its way.
    pub(in crate::engine) fn has_left(&self, d: usize) -> bool {
        self.is_leaving(d) && !self.is_replicating(d)
    }

    /// A volume is not deleted: the peer is told what it was not told meanwhile, or of the volume as of a new one.
    pub(super) fn stay_after_all(&mut self, want: Want, out: &mut Vec<Command>) {
        let Want::DelMinor { device: d } = want else { return };
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let leaving = connection.peer_devices.get_mut(d).is_some_and(|p| std::mem::take(&mut p.leaving));
        if !leaving {
            return;
        }
        if !self.is_replicating(d) {
            self.send_sizes(d, out);
        }
        self.send_state(d, out);
    }

    /// The next volume, from one on, about which a peer can be asked: it has it, too.
    pub(super) fn next_shared(&self, from: usize) -> Option<usize> {
        (from..self.devices.len()).find(|&d| self.is_replicating(d))
    }

    /// The volumes met for the first time in this session, though it was there before: what the peer did not hear.
    pub(in crate::engine) fn repeat_greeting(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_deref_mut() else { return };
        if !std::mem::take(&mut connection.peer_devices[d].made_in_session) {
            return;
        }
        self.greet_again(d, out);
    }

    /// Sizes and generations of a volume, as a handshake begins with them. A Primary without a disk parts, as in 8.4, if they
    /// are not those of the data it shows.
    pub(in crate::engine) fn greet_again(&mut self, d: usize, out: &mut Vec<Command>) {
        self.send_sizes(d, out);
        self.send_uuids(d, out);
    }

    /// The peer let go of a volume: what it said of it is void.
    pub(in crate::engine) fn forget_left_volume(&mut self, d: usize) {
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let peer_device = &mut connection.peer_devices[d];
        (peer_device.uuids, peer_device.sizes) = (None, None);
        (peer_device.sequence, peer_device.peer_sequence) = (0, 0);
        peer_device.made_in_session = true;
    }
}

impl Asking {
    /// About a change of the whole resource, from the first volume on that the peer has.
    pub(super) fn about(ticket: Ticket, want: Want, resource: &Resource) -> Asking {
        Asking { ticket, want, next_device: resource.next_shared(0).unwrap_or(0), pinging: false }
    }
}
