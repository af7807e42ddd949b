//! Two Primaries write the same blocks at once: both disks end the same, in every order of packets and disks (7.5 of
//! the wire reference).
//!
//! One node of the two decides, the one whose session flag `resolve_conflicts` is set. A write of the peer that meets an
//! own one the peer has not acknowledged is turned away: as *superseded* if the own one contains it, else as to be
//! *retried*. The other node lets the peer's write wait until its own one is answered, and does one that was turned
//! away again after it.
//!
//! So that the deciding node knows what its peer knew, writes and acknowledgements carry one common sequence of numbers:
//! it lets the data stream wait until every acknowledgement sent before a write is there (the two streams are two TCP
//! connections). An own write that the peer has acknowledged came first, even if our own disk is not done with it: the
//! peer's write follows it.
//!
//! A write turned away is counted in its epoch until the peer acknowledges the write it met, for only then its sender
//! is known to have taken it out; an epoch of which nothing is left is not acknowledged at all.

use super::peer_request::PeerRequest;
use super::request::{Local, PeerProgress, Request};
use super::transfer::Ack;
use crate::engine::command::{Command, Level};
use crate::engine::planted::Bug;
use crate::engine::resource::Resource;
use crate::engine::session::Fault;
use crate::ids::{Instant, PayloadId, Sector};
use crate::limits::PEER_REQUESTS_MAX;
use crate::wire::{Frame, Packet};
use std::collections::VecDeque;

/// Between two warnings of concurrent writes to a volume.
const WARNING_INTERVAL_MS: u64 = 60_000;

/// Packets of the data stream that wait for acknowledgements sent before them.
#[derive(Debug, Default)]
pub(in crate::engine) struct HeldStream {
    packets: VecDeque<(Frame, PayloadId)>,
    /// When the acknowledgements have to be here.
    pub(in crate::engine) deadline: Option<Instant>,
}

impl HeldStream {
    /// Something waits.
    pub(in crate::engine) fn is_waiting(&self) -> bool {
        !self.packets.is_empty() || self.deadline.is_some()
    }
}

/// An own write that is to be done again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) struct Postponed {
    key: u32,
    /// The write of the peer that comes first is done.
    ready: bool,
    since: Instant,
}

/// When concurrent writes were last told of, and how many there were since.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct ConcurrentWrites {
    told_at: Option<Instant>,
    untold: u64,
}

/// `a` is a later number than `b`; both wrap.
pub(in crate::engine) fn is_later(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// The number of a write of the peer.
fn sequence_of_write(packet: &Packet) -> Option<u32> {
    match packet {
        Packet::Data(data) => Some(data.seq),
        Packet::Trim(trim) | Packet::Zeroes(trim) => Some(trim.seq),
        _ => None,
    }
}

/// The number of an acknowledgement of the peer.
fn sequence_of_ack(packet: &Packet) -> Option<u32> {
    match packet {
        Packet::RecvAck(ack)
        | Packet::WriteAck(ack)
        | Packet::RsWriteAck(ack)
        | Packet::NegAck(ack)
        | Packet::NegDreply(ack)
        | Packet::NegRsDreply(ack)
        | Packet::RsCancel(ack)
        | Packet::RsIsInSync(ack)
        | Packet::OvResult(ack)
        | Packet::Superseded(ack)
        | Packet::RetryWrite(ack) => Some(ack.seq),
        _ => None,
    }
}

impl Resource {
    pub(in crate::engine) fn two_primaries_allowed(&self) -> bool {
        self.connection.as_ref().is_some_and(|c| c.options.two_primaries)
    }

    /// Writes sent before two Primaries were allowed are on their way: a second Primary's would not be told from later
    /// ones.
    pub(in crate::engine) fn has_unshared_writes_at_peer(&self) -> bool {
        let sent = |r: &Request| r.is_write() && r.peer == PeerProgress::Sent;
        self.two_primaries_allowed() && self.requests.iter().any(|(_, r)| sent(r) && !r.shared)
    }

    /// This node has its way where both are alike.
    pub(in crate::engine) fn decides(&self) -> bool {
        self.connection.as_ref().and_then(|c| c.session()).is_some_and(|s| s.resolve_conflicts)
    }

    /// This node decides about concurrent writes.
    fn decides_conflicts(&self) -> bool {
        self.two_primaries_allowed() && self.decides()
    }

    /// allow-two-primaries was switched, or a volume is new: who goes first among overlapping operations follows it.
    pub(in crate::engine) fn order_by_two_primaries(&mut self, out: &mut Vec<Command>) {
        let allowed = self.two_primaries_allowed();
        for d in 0..self.devices.len() {
            let mut ready = std::mem::take(&mut self.ready);
            self.devices[d].conflicts.set_peers_first(allowed, &mut ready);
            ready.reverse();
            self.ready = ready;
            self.start_ready(d, out);
        }
    }

    /// Its extents are hot and it had its turn: begins, unless the peer's operation took the turn meanwhile.
    pub(in crate::engine) fn submit_in_turn(&mut self, key: u32, out: &mut Vec<Command>) {
        let Request { device: d, conflict, sector, bytes, only_here, .. } = self.requests[key];
        if conflict.is_none_or(|id| self.devices[d].conflicts.begin(id)) {
            self.submit_write(key, out);
        } else if !only_here && std::mem::take(&mut self.requests[key].logged) {
            // The one that overtook it, of a Primary without disk, may wait for room in the log.
            self.end_log(d, sector, bytes, out);
        }
    }

    // ---- the order of the two streams ----------------------------------------------------------------------------

    /// A packet of the data stream: now, or when the acknowledgements sent before it are here.
    pub(in crate::engine) fn data_in_order(
        &mut self,
        frame: Frame,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let resizing = self.stream_waits_for_size();
        let misses = !resizing && self.misses_acks(&frame);
        let (at, session) = self.stream_deadline();
        let Some(session) = session else { return Ok(()) };
        if session.held_stream.packets.is_empty() && !misses && !resizing {
            return self.data_packet(frame, payload, out);
        }
        if session.held_stream.packets.len() >= PEER_REQUESTS_MAX {
            Resource::release(payload, out);
            let text = format!("more than {PEER_REQUESTS_MAX} packets wait for acknowledgements of the peer");
            return Err(Fault::Protocol(text));
        }
        if misses {
            session.held_stream.deadline.get_or_insert(at);
        }
        session.held_stream.packets.push_back((frame, payload));
        Ok(())
    }

    fn stream_deadline(&mut self) -> (Instant, Option<&mut crate::engine::connection::Session>) {
        let now = self.now;
        let Some(connection) = self.connection.as_deref_mut() else { return (now, None) };
        (now.plus_ms(connection.options.ping_timeout_ds * 100), connection.session_mut())
    }

    /// Whether a write was sent after acknowledgements that are not here yet. Remembers its number if not.
    fn misses_acks(&mut self, frame: &Frame) -> bool {
        let Some(seq) = sequence_of_write(&frame.packet) else { return false };
        let Some(d) = self.device_index(frame.volume) else { return false };
        let decides = self.decides_conflicts();
        let peer_device = &mut self.connection.as_mut().expect("packets come from a peer").peer_devices[d];
        if decides && is_later(seq.wrapping_sub(1), peer_device.peer_sequence) {
            return true;
        }
        peer_device.heard_sequence(seq);
        false
    }

    /// An acknowledgement is here.
    pub(in crate::engine) fn note_sequence(&mut self, d: usize, packet: &Packet) {
        if let Some(seq) = sequence_of_ack(packet) {
            let connection = self.connection.as_mut().expect("packets come from a peer");
            connection.peer_devices[d].heard_sequence(seq);
        }
    }

    /// Goes on with the data stream as far as the acknowledgements that are here allow.
    pub(in crate::engine) fn go_on_with_stream(&mut self, out: &mut Vec<Command>) -> Result<(), Fault> {
        let session = self.connection.as_ref().and_then(|c| c.session());
        if session.is_none_or(|s| s.held_stream.packets.is_empty() && s.held_stream.deadline.is_none()) {
            return Ok(());
        }
        let number = self.session_number();
        let mut moved = false;
        while self.session_number() == number {
            let (_, Some(session)) = self.stream_deadline() else { break };
            let Some((frame, payload)) = session.held_stream.packets.pop_front() else { break };
            if self.stream_waits_for_size() || self.misses_acks(&frame) {
                let (_, session) = self.stream_deadline();
                session.expect("just found").held_stream.packets.push_front((frame, payload));
                break;
            }
            moved = true;
            self.data_packet(frame, payload, out)?;
        }
        let resizing = self.stream_waits_for_size();
        let (at, session) = self.stream_deadline();
        if let Some(stream) = session.map(|s| &mut s.held_stream) {
            if stream.packets.is_empty() || resizing {
                stream.deadline = None;
            } else if moved {
                stream.deadline = Some(at);
            }
        }
        Ok(())
    }

    /// The session is over: nobody waits for the rest of its stream.
    pub(in crate::engine) fn drop_held_stream(stream: HeldStream, out: &mut Vec<Command>) {
        for (_, payload) in stream.packets {
            Resource::release(payload, out);
        }
    }

    // ---- the node that decides -----------------------------------------------------------------------------------

    /// A write of the peer meets one of ours that the peer has not answered. True if it is turned away.
    pub(super) fn turn_away_concurrent(&mut self, theirs: &PeerRequest, out: &mut Vec<Command>) -> bool {
        let taken = self.planted(Bug::ConcurrentWriteTaken);
        if !self.decides_conflicts() || self.session_number() != Some(theirs.session) || taken {
            return false;
        }
        let d = theirs.device;
        let unanswered = |key: u32| self.requests[key].peer == PeerProgress::Sent;
        let conflicts = &self.devices[d].conflicts;
        let Some(key) = conflicts.find_begun_request(theirs.sector, theirs.bytes, unanswered) else {
            return false;
        };
        let own = self.requests[key];
        let contained =
            own.sector <= theirs.sector && theirs.sector.end_of(theirs.bytes) <= own.sector.end_of(own.bytes);
        let both = format!(
            "local={}s +{}, remote={}s +{}, local goes first",
            own.sector.0, own.bytes, theirs.sector.0, theirs.bytes
        );
        self.warn_of_concurrent_writes(d, &both, out);
        self.turn_away(key, theirs, contained, out);
        true
    }

    fn turn_away(&mut self, own: u32, theirs: &PeerRequest, contained: bool, out: &mut Vec<Command>) {
        Resource::release(theirs.payload, out);
        self.ack_write(theirs, if contained { Ack::Superseded } else { Ack::Retry }, out);
        let session =
            self.connection.as_mut().and_then(|c| c.session_mut()).expect("packets come in a session");
        session.received.turned_away.push((own, theirs.epoch));
        if !contained && session.version < 100 {
            // Before 100 there is no retry: what the own write does not cover differs.
            self.mark_blocks(theirs.device, theirs.sector, theirs.bytes);
        }
    }

    /// The peer answered an own write: what was turned away for it is no part of its epoch any more.
    pub(super) fn retract_turned_away(&mut self, own: u32, out: &mut Vec<Command>) {
        let stays = self.planted(Bug::TurnedAwayStaysInEpoch);
        let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) else { return };
        if session.received.turned_away.is_empty() || stays {
            return;
        }
        session.received.retract_turned_away(|key| key == own);
        let number = session.number;
        self.flush_epochs(number, out);
    }

    fn warn_of_concurrent_writes(&mut self, d: usize, which: &str, out: &mut Vec<Command>) {
        let now = self.now;
        let told = &mut self.devices[d].concurrent_writes;
        if told.told_at.is_some_and(|at| at.plus_ms(WARNING_INTERVAL_MS) > now) {
            told.untold += 1;
            return;
        }
        told.told_at = Some(now);
        let more = match std::mem::take(&mut told.untold) {
            0 => String::new(),
            n => format!(" ({n} more before)"),
        };
        let text = format!(
            "Concurrent writes detected: {which}{more}. Both nodes write the same blocks: what uses the device must keep them apart"
        );
        self.log("concurrent-writes", Level::Warning, self.device_subject(d), text, out);
    }

    // ---- the node that is told -----------------------------------------------------------------------------------

    /// Whether the peer may answer that write by turning it away.
    pub(super) fn may_be_turned_away(&self, request: &Request) -> bool {
        let session = self.connection.as_ref().and_then(|c| c.session());
        request.shared && request.peer == PeerProgress::Sent && session.is_some_and(|s| !s.resolve_conflicts)
    }

    /// The peer turned that write of ours away: no barrier counts it.
    pub(super) fn leave_transfer_log(&mut self, key: u32, out: &mut Vec<Command>) {
        let Request { device: d, sector, bytes, epoch, .. } = self.requests[key];
        let both = format!("local={}s +{bytes}, remote overlaps it, remote goes first", sector.0);
        self.warn_of_concurrent_writes(d, &both, out);
        let Some(connection) = self.connection.as_mut() else { return };
        let log = &mut connection.transfer_log;
        if let Some(at) = log.iter().position(|&k| k == key) {
            log.remove(at);
            connection.log_sectors -= u64::from(bytes) / 512;
        }
        let emptied = !log.iter().any(|&k| self.requests[k].epoch == epoch);
        let barrier_sent = connection.epoch != epoch;
        if let Some(session) = connection.session_mut().filter(|_| emptied && barrier_sent) {
            session.sent_epochs.unacknowledged = session.sent_epochs.unacknowledged.saturating_sub(1);
            self.end_covered_flushes(out);
        }
    }

    /// Flushes before which nothing is left that the peer has to make stable.
    fn end_covered_flushes(&mut self, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_mut() else { return };
        let requests = &self.requests;
        let oldest = connection.transfer_log.front().map(|&key| requests[key].epoch);
        let covered = |&key: &u32| oldest.is_none_or(|oldest| is_later(oldest, requests[key].epoch));
        let over: Vec<u32> = connection.flush_waiters.iter().copied().filter(covered).collect();
        connection.flush_waiters.retain(|key| !over.contains(key));
        for key in over {
            self.requests[key].peer = PeerProgress::Stable;
            self.progress(key, out);
        }
    }

    /// A write that has had its turn is to be done again: after the write of the peer it met.
    pub(super) fn postpone_if_asked(&mut self, key: u32) {
        let Request { device: d, peer, .. } = self.requests[key];
        if peer == PeerProgress::Postponed {
            // Without a disk the peer's write is not awaited: it was, or will be, refused at once.
            let ready = self.devices[d].usable().is_none() || self.session_number().is_none();
            let since = self.now;
            self.devices[d].postponed.push(Postponed { key, ready, since });
        }
    }

    /// A write of the peer is done, or will not be: what was postponed for it is done again.
    pub(super) fn peer_write_over(&mut self, d: usize, sector: Sector, bytes: u32, out: &mut Vec<Command>) {
        if self.devices[d].postponed.is_empty() {
            return;
        }
        let (first, end) = (sector, sector.end_of(bytes));
        for postponed in &mut self.devices[d].postponed {
            let Request { sector, bytes, .. } = self.requests[postponed.key];
            postponed.ready |= sector < end && first < sector.end_of(bytes);
        }
        self.restart_postponed(d, out);
    }

    /// The session is over: what was to be sent again, and is here already, the peer lacks.
    pub(in crate::engine) fn give_up_postponed(&mut self, d: usize) {
        let ours = |r: &Request| r.device == d && r.peer == PeerProgress::Postponed;
        let keys: Vec<u32> = self.requests.iter().filter(|(_, r)| ours(r)).map(|(key, _)| key).collect();
        for key in keys {
            self.mark_request(key);
        }
        self.release_postponed(d);
    }

    /// There is no peer's write to wait for.
    fn release_postponed(&mut self, d: usize) {
        self.devices[d].postponed.iter_mut().for_each(|p| p.ready = true);
    }

    /// When the first postponed write has waited for the peer's for as long as `timeout`.
    pub(in crate::engine) fn postponed_deadline(&self) -> Option<Instant> {
        let ms = self.connection.as_ref()?.options.timeout_ds * 100;
        let waiting = self.devices.iter().flat_map(|d| &d.postponed).filter(|p| !p.ready);
        waiting.map(|p| p.since.plus_ms(ms)).min()
    }

    /// A peer that had our acknowledgement of its write and turned ours away all the same sends nothing more (8.4 does
    /// so while its disk is busy): ask again.
    pub(in crate::engine) fn postponed_tick(&mut self, out: &mut Vec<Command>) {
        let now = self.now;
        if self.postponed_deadline().is_none_or(|at| at > now) {
            return;
        }
        for d in 0..self.devices.len() {
            self.release_postponed(d);
            self.restart_postponed(d, out);
        }
    }

    /// Does again what may be done now.
    pub(super) fn restart_postponed(&mut self, d: usize, out: &mut Vec<Command>) {
        while let Some(at) = self.devices[d].postponed.iter().position(|p| self.may_restart(d, p)) {
            let Postponed { key, .. } = self.devices[d].postponed.remove(at);
            self.restart(key, out);
        }
    }

    fn may_restart(&self, d: usize, postponed: &Postponed) -> bool {
        let Request { sector, bytes, .. } = self.requests[postponed.key];
        postponed.ready && self.accepts_upper(d) && self.may_write_now(d, sector, bytes)
    }

    fn restart(&mut self, key: u32, out: &mut Vec<Command>) {
        self.cookie = self.cookie.wrapping_add(1).max(1);
        let cookie = self.cookie & 0x7fff_ffff;
        let request = &mut self.requests[key];
        request.cookie = cookie;
        request.local = Local::None;
        request.peer = PeerProgress::NotReplicated;
        request.submitted = false;
        request.shared = false;
        request.only_here = true;
        let Request { device: d, sector, bytes, .. } = *request;
        let owner = super::conflicts::Owner::Request(key);
        let (id, free) = self.devices[d].conflicts.enter_again(sector, bytes, owner);
        self.requests[key].conflict = Some(id);
        if free && self.requests[key].logged {
            self.submit_in_turn(key, out);
        } else if free {
            self.enter_log(d, owner, sector, bytes, out);
        }
    }
}
