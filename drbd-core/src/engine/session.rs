//! A session: from two sockets to settings and states exchanged, one awaited packet after the other; keep-alive; and
//! its end.

use super::after_split_brain::SplitBrainPolicy;
use super::command::{Command, Direction, Level};
use super::connection::{Link, PingFor, Stage};
use super::event::{HmacPurpose, SocketLoss};
use super::pairing::{link_config, ConnectionFacts, Found, Pairing, Timing};
use super::planted::Bug;
use super::resource::Resource;
use super::state::Mode;
use crate::ids::{SocketId, VolumeNumber};
use crate::states::{ConnectionState, ReplicationState};
use crate::wire::handshake::{agree, first_mismatch};
use crate::wire::{Features, Frame, Packet, Settings, SyncParam};

/// Milliseconds before a lost connection is tried again.
const RECONNECT_MS: u64 = 1000;
/// Milliseconds before one is tried again that the peer closed: its daemon may be starting again, with users who wait.
const RECONNECT_CLOSED_MS: u64 = 100;

/// Why a session has to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The peer said what makes no sense here: try again.
    Protocol(String),
    /// The two nodes cannot go together as they are configured: an administrator is needed.
    Fatal(String),
    /// Try again.
    Retry(String),
}

impl Resource {
    // ---- finding the peer ----------------------------------------------------------------------------------------

    /// Begins to look for the peer.
    pub(super) fn begin_pairing(&mut self, out: &mut Vec<Command>) {
        self.force(&|_, s| s.connection = ConnectionState::Connecting, out);
        let now = self.now;
        let Some(connection) = self.connection.as_deref_mut() else { return };
        connection.link = Link::Pairing(Box::new(Pairing::begin(connection, now, out)));
        self.pairing_tick(out);
    }

    fn with_pairing(
        &mut self,
        act: impl FnOnce(&mut Pairing, &Timing, &mut super::random::Random),
        out: &mut Vec<Command>,
    ) {
        let now = self.now;
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let timing = Timing::of(connection, now);
        if let Some(pairing) = connection.link.pairing() {
            act(pairing, &timing, &mut self.random);
            self.pairing_tick(out);
        }
    }

    pub(super) fn pairing_tick(&mut self, out: &mut Vec<Command>) {
        let now = self.now;
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let timing = Timing::of(connection, now);
        let facts = ConnectionFacts {
            peer: connection.peer,
            link: link_config(connection),
            session: connection.sessions + 1,
        };
        let Some(pairing) = connection.link.pairing() else { return };
        match pairing.tick(&facts, &timing, &mut self.random, out) {
            Found::Nothing => {}
            Found::Pair(session, early) => {
                connection.sessions += 1;
                connection.link = Link::Session(session);
                self.begin_session(early, out);
            }
        }
    }

    pub(super) fn dialled(&mut self, socket: SocketId, out: &mut Vec<Command>) {
        if self.connection.as_mut().is_none_or(|c| c.link.pairing().is_none()) {
            out.push(Command::Close { socket });
            return;
        }
        let mut commands = Vec::new();
        self.with_pairing(|p, timing, _| p.dialled(socket, timing, &mut commands), out);
        out.append(&mut commands);
    }

    pub(super) fn dial_failed(&mut self, retry: bool, why: &str, out: &mut Vec<Command>) {
        if !retry {
            self.log("dial-failed", Level::Warning, self.peer_subject(), why.to_owned(), out);
        }
        self.with_pairing(|p, timing, random| p.dial_failed(timing, random), out);
    }

    pub(super) fn listen_failed(&mut self, why: &str, out: &mut Vec<Command>) {
        let text = format!("Cannot accept connections: {why}");
        self.log("listen-failed", Level::Error, self.peer_subject(), text.clone(), out);
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.last_error = text;
        }
        self.disconnect_now(out);
    }

    pub(super) fn accepted(&mut self, socket: SocketId, out: &mut Vec<Command>) {
        if self.connection.as_mut().is_none_or(|c| c.link.pairing().is_none()) {
            out.push(Command::Close { socket });
            return;
        }
        let mut commands = Vec::new();
        self.with_pairing(|p, timing, _| p.accepted(socket, timing, &mut commands), out);
        out.append(&mut commands);
    }

    /// A packet on a socket of the search; false if it is not one of those.
    pub(super) fn pairing_packet(&mut self, socket: SocketId, frame: &Frame, out: &mut Vec<Command>) -> bool {
        let pairing = self.connection.as_mut().and_then(|c| c.link.pairing());
        let stranger = pairing.as_ref().is_some_and(|p| p.is_stranger(socket));
        let known = pairing.is_some_and(|p| p.knows(socket));
        if stranger && !matches!(frame.packet, Packet::InitialData | Packet::InitialMeta) {
            let text =
                format!("Who connected began with {}, which begins no connection", frame.packet.name());
            self.log("first-packet", Level::Warning, self.peer_subject(), text, out);
        }
        if known {
            let mut commands = Vec::new();
            let frame = frame.clone();
            self.with_pairing(
                |p, timing, random| p.packet(socket, frame, timing, random, &mut commands),
                out,
            );
            out.append(&mut commands);
        }
        known
    }

    /// A socket ended.
    pub(super) fn socket_lost(&mut self, socket: SocketId, why: SocketLoss, out: &mut Vec<Command>) {
        let now = self.now;
        let parting = self.asks_to_part();
        let Some(connection) = self.connection.as_deref_mut() else { return };
        if connection.link.pairing().is_some() {
            if let SocketLoss::Malformed(text) = why {
                self.log("first-packet", Level::Warning, self.peer_subject(), text.into_string(), out);
            }
            self.with_pairing(|p, timing, random| p.lost(socket, timing, random), out);
            return;
        }
        let Some(session) = connection.session() else { return };
        if session.data != socket && session.control != socket {
            return;
        }
        // The peer parts, and says why on the data stream, or agrees on the control stream to part: hear it out before
        // drawing conclusions.
        let says_why = session.control == socket || parting;
        if says_why && why == SocketLoss::EndOfStream && !session.stream_ended {
            let at = now.plus_ms(connection.options.ping_timeout_ds * 100);
            if let Some(session) = connection.session_mut() {
                session.stream_ended = true;
                session.deadline = Some(at);
            }
            return;
        }
        let (state, text) = match why {
            SocketLoss::EndOfStream if session.tear_down => {
                (ConnectionState::TearDown, "The peer disconnected".to_owned())
            }
            SocketLoss::EndOfStream => {
                (ConnectionState::BrokenPipe, "The peer closed the connection".to_owned())
            }
            SocketLoss::Failed(text) => (ConnectionState::NetworkFailure, text.into_string()),
            SocketLoss::Malformed(text) => (ConnectionState::ProtocolError, text.into_string()),
        };
        self.end_session(state, &text, out);
    }

    // ---- handshake -----------------------------------------------------------------------------------------------

    fn begin_session(&mut self, early: Option<Frame>, out: &mut Vec<Command>) {
        let offer = self.offer();
        self.send(VolumeNumber(0), Packet::Features(offer), out);
        self.extend_deadline();
        if let Some(frame) = early {
            let socket = self.connection.as_ref().and_then(|c| c.session()).map(|s| s.data);
            if let Some(socket) = socket {
                self.session_packet(socket, frame, crate::ids::PayloadId::NONE, out);
            }
        }
    }

    fn extend_deadline(&mut self) {
        let now = self.now;
        if let Some(connection) = self.connection.as_deref_mut() {
            let ms = 4 * connection.options.ping_timeout_ds * 100;
            if let Some(session) = connection.session_mut() {
                session.deadline = Some(now.plus_ms(ms));
            }
        }
    }

    pub(super) fn features_received(
        &mut self,
        theirs: &Features,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let agreed = agree(self.offer(), *theirs).map_err(|e| Fault::Fatal(e.to_string()))?;
        if agreed.version < 100 && self.devices.iter().any(|d| d.volume != VolumeNumber(0)) {
            let text = format!(
                "The peer speaks protocol {} only, which knows no volumes but 0: give every volume a resource of its own",
                agreed.version
            );
            return Err(Fault::Fatal(text));
        }
        let connection = self.connection.as_deref_mut().expect("packets come from a peer");
        let authenticate =
            !connection.options.cram_hmac_alg.is_empty() && !connection.options.shared_secret.is_empty();
        let peer = connection.peer;
        let session = connection.session_mut().expect("packets come in a session");
        session.version = agreed.version;
        session.features = agreed.features;
        for socket in [session.data, session.control] {
            out.push(Command::SetVersion { socket, version: agreed.version });
        }
        session.stage = if authenticate { Stage::Challenge } else { Stage::Settings };
        let ping_owed = std::mem::take(&mut session.ping_owed);
        let text = format!("Handshake successful: Agreed network protocol version {}", agreed.version);
        self.log("agreed", Level::Info, self.peer_subject(), text, out);
        if ping_owed {
            self.answer_ping(out);
        }
        self.extend_deadline();
        if authenticate {
            out.push(Command::Challenge { peer });
        } else {
            self.send_settings(out);
        }
        Ok(())
    }

    /// This node's challenge is there.
    pub(super) fn challenge(&mut self, bytes: Box<[u8; 64]>, out: &mut Vec<Command>) {
        let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) else { return };
        if !matches!(session.stage, Stage::Challenge | Stage::Response) || session.challenge.is_some() {
            return;
        }
        let message: Box<[u8]> = Box::new(*bytes);
        session.challenge = Some(bytes);
        self.send(VolumeNumber(0), Packet::AuthChallenge(message.clone()), out);
        self.ask_hmac(HmacPurpose::Expected, message, out);
        let held =
            self.connection.as_mut().and_then(|c| c.session_mut()).and_then(|s| s.peer_challenge.take());
        if let Some(theirs) = held {
            if let Err(fault) = self.challenge_received(&theirs, out) {
                self.fault(fault, out);
            }
        }
    }

    fn ask_hmac(&self, purpose: HmacPurpose, message: Box<[u8]>, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_deref() else { return };
        out.push(Command::Hmac {
            peer: connection.peer,
            purpose,
            algorithm: connection.options.cram_hmac_alg.as_str().into(),
            key: connection.options.shared_secret.as_str().into(),
            message,
        });
    }

    pub(super) fn challenge_received(&mut self, theirs: &[u8], out: &mut Vec<Command>) -> Result<(), Fault> {
        let session =
            self.connection.as_mut().and_then(|c| c.session_mut()).expect("packets come in a session");
        let Some(ours) = &session.challenge else {
            session.peer_challenge = Some(theirs.into());
            return Ok(());
        };
        if theirs.starts_with(&ours[..]) {
            return Err(Fault::Fatal("The peer sent our own challenge back".to_owned()));
        }
        session.stage = Stage::Response;
        self.extend_deadline();
        self.ask_hmac(HmacPurpose::Response, theirs.into(), out);
        Ok(())
    }

    /// A digest is there.
    pub(super) fn hmac(&mut self, purpose: HmacPurpose, digest: Option<Box<[u8]>>, out: &mut Vec<Command>) {
        let algorithm = self.connection.as_ref().map_or(String::new(), |c| c.options.cram_hmac_alg.clone());
        let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) else { return };
        if !matches!(session.stage, Stage::Challenge | Stage::Response) {
            return;
        }
        let Some(digest) = digest else {
            self.fault(Fault::Fatal(format!("cram-hmac-alg {algorithm} is not known here")), out);
            return;
        };
        match purpose {
            HmacPurpose::Expected => session.expected_response = Some(digest),
            HmacPurpose::Response => {
                session.responded = true;
                self.send(VolumeNumber(0), Packet::AuthResponse(digest), out);
            }
        }
        self.check_response(out);
    }

    pub(super) fn response_received(&mut self, response: Box<[u8]>, out: &mut Vec<Command>) {
        let session =
            self.connection.as_mut().and_then(|c| c.session_mut()).expect("packets come in a session");
        session.peer_response = Some(response);
        self.check_response(out);
    }

    fn check_response(&mut self, out: &mut Vec<Command>) {
        let session = self.connection.as_mut().and_then(|c| c.session_mut()).expect("asked in a session");
        // Whatever it answered, the peer gets our answer first: so both come to the same end.
        let (Some(theirs), Some(expected), true) =
            (&session.peer_response, &session.expected_response, session.responded)
        else {
            return;
        };
        if theirs.len() != expected.len() {
            self.fault(Fault::Retry("The peer answered with a digest of another length".to_owned()), out);
        } else if theirs != expected {
            let text = "Authentication of peer failed: its shared-secret is another one".to_owned();
            self.fault(Fault::Fatal(text), out);
        } else {
            session.stage = Stage::Settings;
            self.log("authenticated", Level::Info, self.peer_subject(), "Peer authenticated", out);
            self.send_settings(out);
        }
    }

    pub(super) fn settings(&self) -> Settings {
        let connection = self.connection.as_deref().expect("asked in a session");
        let options = &connection.options;
        Settings {
            protocol: options.protocol as u32,
            after_sb_0p: SplitBrainPolicy::from_option(&options.after_sb_0pri).number(),
            after_sb_1p: SplitBrainPolicy::from_option(&options.after_sb_1pri).number(),
            after_sb_2p: SplitBrainPolicy::from_option(&options.after_sb_2pri).number(),
            discard_my_data: connection.discard_my_data,
            tentative: connection.tentative,
            two_primaries: options.two_primaries,
            integrity_alg: options.data_integrity_alg.clone(),
        }
    }

    /// Settings, then sizes, generations and state of every volume. From here on the peer decides by what it was told.
    fn send_settings(&mut self, out: &mut Vec<Command>) {
        self.prepare_frozen_log(out);
        let settings = self.settings();
        let digests = settings.integrity_alg.clone();
        self.send(VolumeNumber(0), Packet::Protocol(Box::new(settings)), out);
        if !digests.is_empty() {
            self.set_integrity(Direction::Sending, &digests, out);
        }
        let connection = self.connection.as_deref_mut().expect("asked in a session");
        let discard = connection.discard_my_data;
        let session = connection.session_mut().expect("asked in a session");
        session.state_sent = true;
        session.deadline = None;
        for peer_device in &mut connection.peer_devices {
            peer_device.sequence = 0;
            peer_device.peer_sequence = 0;
            peer_device.uuids = None;
            peer_device.sizes = None;
            peer_device.discard_my_data = discard;
        }
        for d in 0..self.devices.len() {
            self.send_sync_param(d, out);
            self.send_sizes(d, out);
            self.send_uuids(d, out);
            self.send_state(d, out);
        }
        self.force(&|_, s| s.connection = ConnectionState::Connected, out);
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.discard_my_data = false;
            if let Some(session) = connection.session_mut().filter(|_| self.devices.is_empty()) {
                session.state_sent = false;
            }
        }
    }

    pub(super) fn send_sync_param(&mut self, d: usize, out: &mut Vec<Command>) {
        let connection = self.connection.as_deref().expect("asked in a session");
        let options = &connection.peer_devices[d].options;
        let usual = SyncParam::default();
        let param = SyncParam {
            resync_rate: options.resync_rate,
            verify_alg: connection.options.verify_alg.clone(),
            csums_alg: connection.options.csums_alg.clone(),
            c_plan_ahead: options.c_plan_ahead_ds,
            c_delay_target: options.c_delay_target_ds.unwrap_or(usual.c_delay_target),
            c_fill_target: options.c_fill_target_sectors.unwrap_or(usual.c_fill_target),
            c_max_rate: options.c_max_rate.unwrap_or(usual.c_max_rate),
        };
        self.send(self.devices[d].volume, Packet::SyncParam(Box::new(param)), out);
    }

    pub(super) fn settings_received(
        &mut self,
        theirs: &Settings,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let ours = self.settings();
        if !ours.integrity_alg.is_empty() && ours.integrity_alg == theirs.integrity_alg {
            self.set_integrity(Direction::Receiving, &theirs.integrity_alg, out);
        }
        let connection = self.connection.as_deref_mut().expect("packets come from a peer");
        // Our own flag is used up; compare with what was told.
        let told = connection.peer_devices.iter().any(|p| p.discard_my_data);
        let ours = Settings { discard_my_data: told, ..ours };
        let session = connection.session_mut().expect("packets come in a session");
        let version = session.version;
        session.peer_tentative = theirs.tentative;
        session.stage = Stage::Up;
        if let Some(option) = first_mismatch(&ours, theirs, version) {
            return Err(Fault::Fatal(format!(
                "incompatible {option} settings: make them the same on both nodes"
            )));
        }
        Ok(())
    }

    // ---- keep-alive ----------------------------------------------------------------------------------------------

    pub(super) fn ping(&mut self, purpose: PingFor, out: &mut Vec<Command>) {
        let now = self.now;
        let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) else { return };
        session.pings.push_back(purpose);
        session.ping_sent_at = now;
        self.send_control(VolumeNumber(0), Packet::Ping, out);
    }

    /// The answer speaks the agreed version: before there is one it has to wait.
    pub(super) fn answer_ping(&mut self, out: &mut Vec<Command>) {
        let session = self.connection.as_mut().and_then(|c| c.session_mut());
        if let Some(session) = session.filter(|s| s.stage == Stage::Features) {
            session.ping_owed = true;
            return;
        }
        self.send_control(VolumeNumber(0), Packet::PingAck, out);
    }

    pub(super) fn ping_answered(&mut self, out: &mut Vec<Command>) {
        let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) else { return };
        match session.pings.pop_front() {
            Some(PingFor::Promotion) => self.promotion_pinged(out),
            Some(PingFor::ResyncEnd(d)) => self.source_saw_all(d, out),
            Some(PingFor::VerifyEnd(d)) => self.verify_pinged(d, out),
            Some(PingFor::Alive) | None => {}
        }
    }

    /// Looks at the clocks of the session.
    pub(super) fn session_tick(&mut self, out: &mut Vec<Command>) {
        let now = self.now;
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let options = &connection.options;
        let (ping_int_ms, ping_timeout_ms) = (options.ping_int_s * 1000, options.ping_timeout_ds * 100);
        let write_timeout_ms = u64::from(options.ko_count) * options.timeout_ds * 100;
        let waits_for_writes = !connection.transfer_log.is_empty();
        let Some(session) = connection.session_mut() else { return };
        if session.deadline.is_some_and(|at| at <= now) {
            let (state, text) = match session.stream_ended {
                true => (ConnectionState::BrokenPipe, "The peer closed the connection"),
                false => (ConnectionState::NetworkFailure, "The peer did not answer in the handshake"),
            };
            self.end_session(state, text, out);
            return;
        }
        if !matches!(session.stage, Stage::Settings | Stage::Up) {
            return;
        }
        if session.held_stream.deadline.is_some_and(|at| at <= now) {
            let text = "Timed out waiting for missing ack packets; disconnecting";
            self.end_session(ConnectionState::ProtocolError, text, out);
            return;
        }
        if session.received.epochs.deadline().is_some_and(|at| at <= now) {
            let number = session.number;
            self.flush_epochs(number, out);
        }
        self.postponed_tick(out);
        let deaf = self.planted(Bug::SilenceNotNoticed);
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let Some(session) = connection.session_mut() else { return };
        let ping_due = session.ping_sent_at.plus_ms(ping_timeout_ms);
        let silent = !session.pings.is_empty() && session.last_heard < session.ping_sent_at;
        if silent && ping_due <= now && !deaf {
            self.end_session(ConnectionState::NetworkFailure, "PingAck did not arrive in time.", out);
            return;
        }
        let stuck = waits_for_writes && session.sent_epochs.waits(session.ap_in_flight);
        if write_timeout_ms > 0 && stuck && session.write_progress_at.plus_ms(write_timeout_ms) <= now {
            let text = "Remote failed to finish a request within ko-count * timeout";
            self.end_session(ConnectionState::Timeout, text, out);
            return;
        }
        // A ping may be unanswered although something was heard since: then silence begins anew.
        let heard_since = session.last_heard >= session.ping_sent_at;
        if (session.pings.is_empty() || heard_since) && session.last_heard.plus_ms(ping_int_ms) <= now {
            self.ping(PingFor::Alive, out);
        }
    }

    /// The next moment the session has to look at its clocks.
    pub(super) fn session_deadline(&self) -> Option<crate::ids::Instant> {
        let connection = self.connection.as_deref()?;
        let options = &connection.options;
        let session = connection.session()?;
        let mut next = session.deadline;
        let mut sooner = |at: crate::ids::Instant| next = Some(next.map_or(at, |n| n.min(at)));
        for at in [session.received.epochs.deadline(), session.held_stream.deadline].into_iter().flatten() {
            sooner(at);
        }
        if let Some(at) = self.postponed_deadline() {
            sooner(at);
        }
        if matches!(session.stage, Stage::Settings | Stage::Up) {
            if session.pings.is_empty() {
                sooner(session.last_heard.plus_ms(options.ping_int_s * 1000));
            } else if session.last_heard < session.ping_sent_at {
                sooner(session.ping_sent_at.plus_ms(options.ping_timeout_ds * 100));
            } else {
                sooner(session.last_heard.plus_ms(options.ping_int_s * 1000));
            }
            let ms = u64::from(options.ko_count) * options.timeout_ds * 100;
            let stuck =
                !connection.transfer_log.is_empty() && session.sent_epochs.waits(session.ap_in_flight);
            if ms > 0 && stuck {
                sooner(session.write_progress_at.plus_ms(ms));
            }
        }
        next
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    /// The peer said what ends the session.
    pub(super) fn fault(&mut self, fault: Fault, out: &mut Vec<Command>) {
        match fault {
            Fault::Protocol(text) => self.end_session(ConnectionState::ProtocolError, &text, out),
            Fault::Retry(text) => self.end_session(ConnectionState::NetworkFailure, &text, out),
            Fault::Fatal(text) => {
                self.log("incompatible", Level::Error, self.peer_subject(), text.clone(), out);
                if let Some(connection) = self.connection.as_deref_mut() {
                    connection.last_error = text;
                }
                self.disconnect_now(out);
            }
        }
    }

    /// The session is over: tell the state, let go of everything that waited for the peer, and try again unless an
    /// administrator wanted the end.
    pub(super) fn end_session(&mut self, state: ConnectionState, why: &str, out: &mut Vec<Command>) {
        if self.connection.as_ref().and_then(|c| c.session()).is_none() {
            return;
        }
        let level = if state == ConnectionState::TearDown { Level::Info } else { Level::Warning };
        self.log("session-end", level, self.peer_subject(), why.to_owned(), out);
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.last_error =
                if state == ConnectionState::TearDown { String::new() } else { why.to_owned() };
        }
        self.force(&|_, s| drop_to(s, state), out);
        self.close_session(out);
        self.force(&|_, s| s.connection = ConnectionState::Unconnected, out);
        let closed = state == ConnectionState::BrokenPipe;
        let retry_at = self.now.plus_ms(if closed { RECONNECT_CLOSED_MS } else { RECONNECT_MS });
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.link = Link::Waiting { retry_at };
        }
        self.after_session(out);
    }

    /// Ends a session that cannot go on.
    pub(super) fn end_doomed_session(&mut self, out: &mut Vec<Command>) {
        if let Some(text) = self.connection.as_ref().and_then(|c| c.session()).and_then(|s| s.doomed) {
            self.end_session(ConnectionState::NetworkFailure, text, out);
        }
    }

    /// Goes StandAlone at once.
    pub(super) fn disconnect_now(&mut self, out: &mut Vec<Command>) {
        if self.connection_state() == ConnectionState::StandAlone {
            return;
        }
        if let Err(reason) = self.change(Mode::Hard, &|_, s| drop_to(s, ConnectionState::Disconnecting), out)
        {
            let text = format!("Disconnecting was not possible: {reason}");
            self.log("state-refused", Level::Warning, self.peer_subject(), text, out);
        }
        self.close_session(out);
        if let Some(connection) = self.connection.as_deref_mut() {
            let peer = connection.peer;
            if let Some(pairing) = connection.link.pairing() {
                pairing.give_up(peer, out);
            }
            connection.link = Link::Idle;
            connection.tentative = false;
            connection.discard_my_data = false;
        }
        self.force(&|_, s| drop_to(s, ConnectionState::StandAlone), out);
        self.after_session(out);
    }

    fn close_session(&mut self, out: &mut Vec<Command>) {
        self.note_generations_at_freeze();
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let mut received = None;
        let mut held_stream = super::write_path::two_primaries::HeldStream::default();
        if connection.session().is_some() {
            if let Link::Session(session) = std::mem::replace(&mut connection.link, Link::Idle) {
                out.push(Command::Close { socket: session.data });
                out.push(Command::Close { socket: session.control });
                received = Some(session.received);
                held_stream = session.held_stream;
            }
        }
        for peer_device in &mut connection.peer_devices {
            peer_device.uuids = None;
            peer_device.sizes = None;
            peer_device.told_size = crate::ids::Sector(0);
            peer_device.new_area = false;
            peer_device.resync = None;
            peer_device.strays = false;
            peer_device.early_sync_uuid = None;
            peer_device.consider_resync = false;
            peer_device.refused_write = false;
            peer_device.made_in_session = false;
            peer_device.leaving = false;
            peer_device.counters.unacked = 0;
        }
        if let Some(received) = received {
            self.write_what_is_left(received, out);
        }
        for d in 0..self.devices.len() {
            self.open_gate(d, out);
        }
        Resource::drop_held_stream(held_stream, out);
        self.forget_transfer_log(out);
        for d in 0..self.devices.len() {
            self.give_up_postponed(d);
            self.start_held(d, out);
        }
        self.resizes_without_session(out);
    }

    fn after_session(&mut self, out: &mut Vec<Command>) {
        self.cluster_change_lost(out);
        self.call_fence_peer(out);
        self.admin.state_changed = true;
        self.notify_changes(out);
    }
}

/// A connection below Connected replicates nothing.
fn drop_to(s: &mut super::state_change::Snapshot, state: ConnectionState) {
    s.connection = state;
    s.replication = ReplicationState::Off;
}
