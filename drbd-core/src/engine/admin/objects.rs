//! Making, changing and deleting the objects of a resource, and connecting.

use super::net_options::check_net_options;
use super::{done, not_yet, Want};
use crate::config::{DiskOptions, NetOptions, PeerDeviceOptions};
use crate::control::Done;
use crate::engine::command::Command;
use crate::engine::connection::{Connection, Link, Path};
use crate::engine::peer_device::PeerDevice;
use crate::engine::resource::Resource;
use crate::engine::state::Mode;
use crate::engine::thin_resync::Pieces;
use crate::ids::{Instant, NodeId, Ticket, VolumeNumber};
use crate::limits::NODES_MAX;
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, Role};

impl Resource {
    pub(super) fn new_peer(
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
        self.order_by_two_primaries(out);
        for d in 0..self.devices.len() {
            self.slot_for_new_peer(d, out);
        }
        Ok(done(true))
    }

    pub(super) fn peer(&mut self, peer: NodeId) -> Result<&mut Connection, Refusal> {
        match self.connection.as_deref_mut() {
            Some(connection) if connection.peer == peer => Ok(connection),
            _ => {
                let info = format!("node {peer} is not a peer of {}", self.name);
                Err(Refusal::because(Reason::InvalidPeerNodeId, info))
            }
        }
    }

    pub(super) fn del_peer(&mut self, peer: NodeId, out: &mut Vec<Command>) -> Result<Done, Refusal> {
        self.peer(peer)?;
        self.disconnect_now(out);
        self.connection = None;
        self.order_by_two_primaries(out);
        Ok(done(true))
    }

    pub(super) fn new_path(&mut self, peer: NodeId, path: Path) -> Result<Done, Refusal> {
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

    pub(super) fn del_path(&mut self, peer: NodeId, path: Path) -> Result<Done, Refusal> {
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

    pub(super) fn disk_options(
        &mut self,
        volume: VolumeNumber,
        options: DiskOptions,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        let ordering = self.write_ordering();
        let Some(d) = self.device_index(volume) else { return Err(Reason::MinorInvalid.into()) };
        self.check_resync_after(d, &options)?;
        self.admin.state_changed = true;
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return Err(Reason::NoDisk.into()) };
        let mut info = Vec::new();
        if options.al_extents != backing.options.al_extents
            || options.al_updates != backing.options.al_updates
        {
            info.push("al-extents and al-updates take effect at the next attach".to_owned());
        }
        info.extend(Pieces::remark(&backing.limits, &options));
        let keep = (backing.options.al_extents, backing.options.al_updates);
        backing.options = DiskOptions { al_extents: keep.0, al_updates: keep.1, ..options };
        backing.cannot_flush = false;
        self.tell_write_ordering(ordering, out);
        Ok(Done { changed: true, info, ..Done::default() })
    }

    pub(super) fn peer_device_options(
        &mut self,
        peer: NodeId,
        volume: VolumeNumber,
        options: PeerDeviceOptions,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        let Some(d) = self.device_index(volume) else { return Err(Reason::MinorInvalid.into()) };
        self.peer(peer)?.peer_devices[d].options = options;
        self.tell_sync_param(d, out);
        Ok(done(true))
    }

    pub(super) fn connect(
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
        if self.is_settled() {
            self.begin_pairing(out);
        }
        Ok(done(true))
    }

    pub(super) fn detach(
        &mut self,
        ticket: Ticket,
        volume: VolumeNumber,
        force: bool,
        out: &mut Vec<Command>,
    ) {
        let Some(device) = self.device_index(volume) else {
            return self.reply(ticket, Err(Reason::MinorInvalid.into()), out);
        };
        match self.devices[device].disk {
            DiskState::Diskless => self.reply(ticket, Ok(done(false)), out),
            // Also where an orderly detach waits for a disk that answers nothing.
            _ if force => {
                self.give_up_disk_at_once(device, out);
                self.reply(ticket, Ok(done(true)), out);
            }
            DiskState::Detaching | DiskState::Failed => {
                self.reply(ticket, Err(Reason::InTransientState.into()), out);
            }
            _ => self.want(ticket, Want::Detach { device }, out),
        }
    }
}
