//! Handing a session to the next daemon without the peer noticing (decision 0037).
//!
//! The daemon that goes has its front ends stopped and is Secondary. It asks for [`hand over`](super::AdminRequest::HandOver)
//! and reads no more of the data stream from then on; acknowledgements still arrive. The engine brings what is under way to
//! its end, has its marks written, and gives the session away ([`Command::HandedOver`]). After that it says nothing more,
//! unless it [takes it back](super::AdminRequest::TakeBack).
//!
//! The daemon that comes replays the configuration, attaches, and [adopts](super::AdminRequest::AdoptSession) instead of
//! connecting. It goes on only if its disks are what the session was about.

use super::command::{Command, Level};
use super::connection::{Link, Session, Stage};
use super::device::Device;
use super::event::{AdminRequest, Event};
use super::meta_jobs::Job;
use super::planted::Bug;
use super::resource::Resource;
use super::session_state::{check_format, OpenEpoch, SessionState, SharedSettings, VolumeState, FORMAT};
use super::state::Change;
use super::state_change::Snapshot;
use super::write_path::received::Received;
use crate::config::NetOptions;
use crate::control::Done;
use crate::ids::{Instant, NodeId, SocketId, Ticket, VolumeNumber};
use crate::limits::{PROTOCOL_MIN, VOLUMES_MAX};
use crate::metadata::device_flag;
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::handshake::OFFER;

/// Where a session is on its way to the next daemon.
#[derive(Debug, Default)]
pub(super) struct HandOver {
    asked: Option<Asked>,
    /// It is no longer this engine's.
    given: bool,
    /// The peer said something meanwhile, which this engine did not hear.
    missed: bool,
}

/// Somebody waits for it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: Ticket,
    give_up_at: Instant,
    /// Everything only memory knows is being written, or was.
    kept: bool,
}

impl HandOver {
    /// The engine has nothing to say any more.
    pub(super) fn is_given(&self) -> bool {
        self.given
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.asked.map(|asked| asked.give_up_at)
    }
}

impl Resource {
    // ---- the daemon that goes ------------------------------------------------------------------------------------

    /// `HandOver`.
    pub(super) fn ask_hand_over(&mut self, ticket: Ticket, within_ms: u64, out: &mut Vec<Command>) {
        if self.hand_over.asked.is_some() {
            return self.reply(ticket, Err(Reason::ConcurrentStateChange.into()), out);
        }
        let give_up_at = self.now.plus_ms(within_ms);
        self.hand_over.asked = Some(Asked { ticket, give_up_at, kept: false });
    }

    /// Looks whether the session is at rest, after every event.
    pub(super) fn hand_over_tick(&mut self, out: &mut Vec<Command>) {
        let Some(asked) = self.hand_over.asked else { return };
        if self.connection_state() != ConnectionState::Connected {
            let refusal = Refusal::because(Reason::NeedConnection, "there is no session to hand over");
            return self.refuse_hand_over(refusal, out);
        }
        if let Some(what) = self.hinders_hand_over() {
            return self.refuse_hand_over(Refusal::because(Reason::InTransientState, what), out);
        }
        self.come_to_rest(out);
        match self.is_under_way() {
            None if asked.kept && !self.has_unwritten_marks() => self.give_session(asked.ticket, out),
            None => self.keep_marks(out),
            Some(what) if asked.give_up_at <= self.now => {
                let info = format!("{what}, and did not come to its end in time");
                self.refuse_hand_over(Refusal::because(Reason::Timeout, info), out);
            }
            Some(_) => {}
        }
    }

    fn refuse_hand_over(&mut self, refusal: Refusal, out: &mut Vec<Command>) {
        if let Some(asked) = self.hand_over.asked.take() {
            self.reply(asked.ticket, Err(refusal), out);
        }
    }

    /// What does not pass by waiting a moment, in words.
    fn hinders_hand_over(&self) -> Option<String> {
        if self.role == Role::Primary {
            return Some("this node is Primary: make it Secondary first".to_owned());
        }
        if self.suspended.any() || self.freeze.engaged {
            return Some(format!("requests are suspended ({})", self.suspended));
        }
        let connection = self.connection.as_deref()?;
        let session = connection.session()?;
        if session.stage != Stage::Up || session.state_sent {
            return Some("the nodes are still in their handshake".to_owned());
        }
        if session.tear_down || session.stream_ended || session.doomed.is_some() {
            return Some("the connection is about to end".to_owned());
        }
        (0..self.devices.len()).find_map(|d| {
            let volume = self.devices[d].volume;
            self.volume_hinders(d).map(|what| format!("volume {volume} {what}"))
        })
    }

    fn volume_hinders(&self, d: usize) -> Option<String> {
        let device = &self.devices[d];
        let peer_device = &self.connection.as_deref()?.peer_devices[d];
        let backing = device.backing.as_deref();
        if peer_device.replication != ReplicationState::Established {
            return Some(format!("is {}", peer_device.replication));
        }
        if !matches!(device.disk, DiskState::UpToDate | DiskState::Inconsistent | DiskState::Diskless) {
            return Some(format!("has a disk that is {}", device.disk));
        }
        let primary = backing.is_some_and(|b| b.super_block.flags & device_flag::PRIMARY_IND != 0);
        let kept_for_peer = backing.is_some_and(|b| b.logged_for_peer) || device.generation_due.is_some();
        let hindrances = [
            (primary || kept_for_peer, "keeps the log of a peer without a disk"),
            (device.resize.is_some() || device.new_area_due, "is getting another size"),
            (device.full.is_some() || device.waits_for_space(), "has a disk that is full"),
            (device.peer_generation_due.is_some(), "waits for word of the peer's new generation"),
            (peer_device.refused_write, "waits for word of the peer's disk"),
            (peer_device.leaving, "is being deleted"),
        ];
        hindrances.into_iter().find(|(so, _)| *so).map(|(_, what)| what.to_owned())
    }

    /// What ends by itself in a moment, in words.
    fn is_under_way(&self) -> Option<&'static str> {
        let connection = self.connection.as_deref()?;
        let session = connection.session()?;
        let requests = self.requests.len() > 0 || self.devices.iter().any(Device::has_held);
        let gated = connection.peer_devices.iter().any(|p| p.gated || !p.gate.is_empty());
        let barrier = session.sent_epochs.writes > 0 || session.sent_epochs.unacknowledged > 0;
        let generation = |d: &Device| d.backing.as_deref().is_some_and(|b| b.generations_pending > 0);
        let held = session.held_stream.is_waiting();
        // A handler may take longest: who waits in vain is to hear of it first.
        let things = [
            (self.handlers.len() > 0, "a handler runs"),
            (requests || !connection.transfer_log.is_empty(), "a request is under way"),
            (barrier, "a barrier is not acknowledged"),
            (!session.pings.is_empty(), "a ping is not answered"),
            (self.peer_requests.len() > 0 || gated, "a request of the peer is under way"),
            (held, "packets of the peer wait for its acknowledgements"),
            (session.received.open_epoch().is_none(), "writes of the peer are not stable"),
            (!self.left.is_empty(), "writes of an earlier session are not stable"),
            (!self.admin.is_at_rest(), "a change of state is under way"),
            (self.devices.iter().any(generation), "a generation is being written"),
            (self.ios.len() > 0 || self.digests.len() > 0, "an operation of a disk is under way"),
        ];
        things.into_iter().find(|(so, _)| *so).map(|(_, what)| what)
    }

    /// Asks for the answers that would otherwise come with the next request only.
    fn come_to_rest(&mut self, out: &mut Vec<Command>) {
        let session = self.connection.as_deref().and_then(|c| c.session());
        if session.is_some_and(|s| s.sent_epochs.writes > 0) {
            self.ask_for_stability(out);
        }
    }

    /// Marks that only this engine's memory has: nobody but a crash would have missed them.
    fn has_unwritten_marks(&self) -> bool {
        self.devices
            .iter()
            .filter_map(|d| d.backing.as_deref())
            .any(|backing| backing.bitmap.next_dirty(0).is_some() || backing.jobs.is_busy())
    }

    fn keep_marks(&mut self, out: &mut Vec<Command>) {
        if let Some(asked) = &mut self.hand_over.asked {
            asked.kept = true;
        }
        for d in 0..self.devices.len() {
            if self.devices[d].backing.is_some() {
                self.meta_job(d, Job::everything(None), out);
            }
        }
        if self.devices.iter().all(|d| d.backing.is_none()) {
            self.hand_over_tick(out);
        }
    }

    fn give_session(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let Some(state) = self.session_state() else { return };
        let Some(session) = self.connection.as_deref().and_then(|c| c.session()) else { return };
        let (data, control) = (session.data, session.control);
        self.hand_over = HandOver { asked: None, given: true, missed: false };
        self.log(
            "hand-over",
            Level::Info,
            self.peer_subject(),
            "The session is handed to the next daemon",
            out,
        );
        out.push(Command::HandedOver { data, control, state: Box::new(state) });
        self.reply(ticket, Ok(Done { changed: true, ..Done::default() }), out);
    }

    fn session_state(&self) -> Option<SessionState> {
        let connection = self.connection.as_deref()?;
        let session = connection.session()?;
        let options = &connection.options;
        let mut volumes: Vec<VolumeState> =
            (0..self.devices.len()).filter_map(|d| self.volume_state(d)).collect();
        volumes.sort_by_key(|volume| volume.volume);
        let peer_epoch = session.received.open_epoch()?;
        let forgotten = self.planted(Bug::OpenEpochForgotten);
        Some(SessionState {
            format: FORMAT,
            node: self.node_id,
            peer: connection.peer,
            version: session.version,
            features: session.features,
            resolve_conflicts: session.resolve_conflicts,
            peer_tentative: session.peer_tentative,
            settings: SharedSettings::of(options),
            sends_digests: session.sends_digests.clone(),
            receives_digests: session.receives_digests.clone(),
            epoch: connection.epoch,
            peer_epoch: if forgotten { OpenEpoch::default() } else { peer_epoch },
            cookie: self.cookie,
            peer_role: connection.peer_role,
            last_error: connection.last_error.clone(),
            last_decision: self.last_decision.clone(),
            volumes_deleted: session.volumes_deleted.iter().copied().collect(),
            volumes,
        })
    }

    fn volume_state(&self, d: usize) -> Option<VolumeState> {
        let device = &self.devices[d];
        let peer_device = &self.connection.as_deref()?.peer_devices[d];
        let forgotten = self.planted(Bug::SequenceForgotten);
        Some(VolumeState {
            volume: device.volume,
            size: device.size,
            disk: device.disk,
            generation: self.generations(d).map_or([0; 2], |set| [set.current, set.bitmap]),
            bits: self.out_of_sync_bits(d),
            crashed_primary: device.backing.as_deref().is_some_and(|b| b.crashed_primary),
            exposed_uuid: device.exposed_uuid,
            behind_in: device.behind_in,
            overtaken: device.overtaken,
            peer_disk: peer_device.peer_disk,
            resync_suspended: peer_device.resync_suspended,
            peer_uuids: peer_device.uuids,
            peer_sizes: peer_device.sizes,
            told_size: peer_device.told_size,
            bits_told: peer_device.bits_told,
            sequence: if forgotten { 0 } else { peer_device.sequence },
            peer_sequence: if forgotten { 0 } else { peer_device.peer_sequence },
            unstable_at_peer: peer_device.unstable_at_peer,
            strays: peer_device.strays,
            made_in_session: peer_device.made_in_session,
            consider_resync: peer_device.consider_resync,
        })
    }

    /// Whatever happens after the session was given away is nothing to this engine, except that it gets it back.
    pub(super) fn after_hand_over(&mut self, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Admin { ticket, request } if matches!(*request, AdminRequest::TakeBack) => {
                self.take_back(ticket, out);
            }
            Event::Admin { ticket, .. } => {
                let refusal = Refusal::because(Reason::InTransientState, "the session was handed over");
                self.reply(ticket, Err(refusal), out);
            }
            Event::Packet { payload, .. } => {
                self.hand_over.missed = true;
                Resource::release(payload, out);
            }
            Event::SocketLost { .. } => self.hand_over.missed = true,
            _ => {}
        }
    }

    /// The next daemon could not be started: this one goes on.
    fn take_back(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let HandOver { missed, .. } = std::mem::take(&mut self.hand_over);
        let now = self.now;
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.last_heard = now;
            if missed {
                session.doomed = Some("The peer said something while the session was handed over");
            }
        }
        self.log("hand-over", Level::Warning, self.peer_subject(), "The session was taken back", out);
        self.reply(ticket, Ok(Done { changed: true, ..Done::default() }), out);
        self.end_doomed_session(out);
    }

    // ---- the daemon that comes -----------------------------------------------------------------------------------

    /// `AdoptSession`.
    pub(super) fn adopt_session(
        &mut self,
        (peer, data, control): (NodeId, SocketId, SocketId),
        state: &SessionState,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        // Whatever becomes of the session: users may wait for this node to be Primary again.
        for volume in state.volumes.iter().filter(|volume| volume.overtaken) {
            if let Some(d) = self.device_index(volume.volume) {
                self.devices[d].overtaken = true;
            }
        }
        if let Some(why) = self.does_not_fit(peer, state) {
            return Err(Refusal::because(Reason::InvalidRequest, why));
        }
        let now = self.now;
        let connection = self.connection.as_deref_mut().expect("looked at above");
        connection.sessions += 1;
        let number = connection.sessions;
        let mut session = Session::new(number, data, control, state.resolve_conflicts, now);
        session.stage = Stage::Up;
        session.version = state.version;
        session.features = state.features;
        session.peer_tentative = state.peer_tentative;
        session.volumes_deleted = state.volumes_deleted.iter().copied().collect();
        session.received = Received::adopted(number, state.peer_epoch);
        connection.link = Link::Session(Box::new(session));
        connection.epoch = state.epoch;
        connection.last_error.clone_from(&state.last_error);
        let other_settings = SharedSettings::of(&connection.options) != state.settings;
        state.settings.put_into(&mut connection.options);
        let options = other_settings.then(|| Box::new(super::admin::shared_options(&connection.options)));
        self.cookie = state.cookie;
        self.last_decision.clone_from(&state.last_decision);
        for socket in [data, control] {
            out.push(Command::SetVersion { socket, version: state.version });
        }
        self.resume_integrity(&state.sends_digests, &state.receives_digests, out);
        if let Some(options) = options {
            out.push(Command::SettingsAdopted { peer, options });
            self.order_by_two_primaries(out);
        }
        self.log(
            "hand-over",
            Level::Info,
            self.peer_subject(),
            "The session of the daemon before is taken over",
            out,
        );
        let mut changes = Vec::new();
        for volume in &state.volumes {
            let d = self.device_index(volume.volume).expect("the same volumes");
            changes.push(self.adopt_volume(d, volume, state.peer_role, out));
        }
        self.restore(&changes, out);
        Ok(Done { changed: true, ..Done::default() })
    }

    fn adopt_volume(
        &mut self,
        d: usize,
        volume: &VolumeState,
        peer_role: Role,
        out: &mut Vec<Command>,
    ) -> Change {
        let old = self.snapshot(Some(d));
        let device = &mut self.devices[d];
        device.exposed_uuid = volume.exposed_uuid;
        device.behind_in = volume.behind_in;
        if device.size != volume.size {
            device.size = volume.size;
            out.push(Command::Device { volume: device.volume, size: device.size, writable: false });
        }
        let peer_device = &mut self.connection.as_deref_mut().expect("adopted").peer_devices[d];
        peer_device.uuids = volume.peer_uuids;
        peer_device.sizes = volume.peer_sizes;
        peer_device.told_size = volume.told_size;
        peer_device.bits_told = volume.bits_told;
        peer_device.sequence = volume.sequence;
        peer_device.peer_sequence = volume.peer_sequence;
        peer_device.unstable_at_peer = volume.unstable_at_peer;
        peer_device.strays = volume.strays;
        peer_device.made_in_session = volume.made_in_session;
        peer_device.consider_resync = volume.consider_resync;
        let new = Snapshot {
            connection: ConnectionState::Connected,
            replication: ReplicationState::Established,
            peer_role,
            disk: volume.disk,
            peer_disk: volume.peer_disk,
            resync_suspended: volume.resync_suspended,
            ..old
        };
        Change { device: Some(d), old, new }
    }

    /// Why that session cannot be this engine's, in a sentence.
    fn does_not_fit(&self, peer: NodeId, state: &SessionState) -> Option<String> {
        let Some(connection) = self.connection.as_deref().filter(|c| c.peer == peer) else {
            return Some(format!("node {peer} is not a peer of {}", self.name));
        };
        if let Err(why) = check_format(state.format) {
            return Some(why);
        }
        let versions = PROTOCOL_MIN..=self.protocol_max;
        let others = [
            (connection.state != ConnectionState::StandAlone, "there is a connection already"),
            (connection.paths.is_empty(), "there is no path to the peer: give one with new-path"),
            (self.role != Role::Secondary, "this node is Primary"),
            ((state.node, state.peer) != (self.node_id, peer), "the session is that of other nodes"),
            (!versions.contains(&state.version), "the session speaks a protocol that is not offered here"),
            (state.features & !OFFER.flags != 0, "the session has features that are not known here"),
            (self.requests.len() > 0 || !self.admin.is_at_rest(), "something is under way here"),
        ];
        if let Some((_, why)) = others.into_iter().find(|(so, _)| *so) {
            return Some(why.to_owned());
        }
        let mut volumes: Vec<VolumeNumber> = self.devices.iter().map(|d| d.volume).collect();
        volumes.sort_unstable();
        let named: Vec<VolumeNumber> = state.volumes.iter().take(VOLUMES_MAX + 1).map(|v| v.volume).collect();
        if volumes != named {
            return Some("the session is about other volumes".to_owned());
        }
        state.volumes.iter().find_map(|volume| {
            let d = self.device_index(volume.volume)?;
            let what = self.volume_does_not_fit(d, volume)?;
            Some(format!("volume {} {what}", volume.volume))
        })
    }

    fn volume_does_not_fit(&self, d: usize, volume: &VolumeState) -> Option<String> {
        let device = &self.devices[d];
        let as_good = match volume.disk {
            // With fencing nobody calls a disk UpToDate before it has met its peer, which it has.
            DiskState::UpToDate => matches!(device.disk, DiskState::UpToDate | DiskState::Consistent),
            same => device.disk == same,
        };
        if !as_good {
            return Some(format!("has a disk that is {}, and was {}", device.disk, volume.disk));
        }
        let backing = device.backing.as_deref()?;
        let generation = self.generations(d).map(|set| [set.current, set.bitmap]);
        let bits = self.out_of_sync_bits(d);
        if device.size != volume.size {
            return Some(format!("has {} sectors, and had {}", device.size, volume.size));
        }
        if generation != Some(volume.generation) || backing.crashed_primary != volume.crashed_primary {
            return Some("has a disk of another generation".to_owned());
        }
        (bits != volume.bits).then(|| format!("has {bits} blocks marked, and had {}", volume.bits))
    }
}

impl SharedSettings {
    fn of(options: &NetOptions) -> SharedSettings {
        SharedSettings {
            protocol: options.protocol,
            allow_two_primaries: options.two_primaries,
            after_sb_0pri: options.after_sb_0pri.clone(),
            after_sb_1pri: options.after_sb_1pri.clone(),
            after_sb_2pri: options.after_sb_2pri.clone(),
            verify_alg: options.verify_alg.clone(),
            csums_alg: options.csums_alg.clone(),
        }
    }

    fn put_into(&self, options: &mut NetOptions) {
        options.protocol = self.protocol;
        options.two_primaries = self.allow_two_primaries;
        options.after_sb_0pri.clone_from(&self.after_sb_0pri);
        options.after_sb_1pri.clone_from(&self.after_sb_1pri);
        options.after_sb_2pri.clone_from(&self.after_sb_2pri);
        options.verify_alg.clone_from(&self.verify_alg);
        options.csums_alg.clone_from(&self.csums_alg);
    }
}
