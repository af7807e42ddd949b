//! What a peer asks of our disk: mirrored writes, reads for a peer without good data, and both sides of a resync.
//!
//! Overlapping ones take turns in the order of the stream. The answer to a resync read joins the stream before any
//! overlapping write may start, so the target never overwrites new data with old.

use super::conflicts::{ConflictId, Owner};
use super::transfer::Ack;
use crate::engine::command::{Command, DiskOp};
use crate::engine::disk_trouble::Trouble;
use crate::engine::event::IoResult;
use crate::engine::planted::Bug;
use crate::engine::resource::{IoOwner, Resource};
use crate::engine::senseless::{senseless, Senseless};
use crate::ids::{PayloadId, Sector};
use crate::limits::PEER_REQUESTS_MAX;
use crate::states::{Conn84, ConnectionState, DiskState, Protocol};
use crate::wire::{data_flag, BlockAck, BlockRequest, Packet, Trim};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum PeerOp {
    Write,
    Trim,
    Zeroes {
        unmap: bool,
    },
    /// A peer without good data reads.
    Read,
    /// A resync target reads.
    ResyncRead,
    /// A resync target reads, and would rather hear that there are only zeroes.
    ThinRead,
    /// A resync source answered us; without bytes: with zeroes.
    ResyncWrite,
    /// The node that verifies wants a digest.
    VerifyRead,
    /// The other node's digest came: what is ours?
    VerifyCompare,
    /// A resync target reads, and says what it has.
    ChecksumRead,
    /// What do we have of a block we lack?
    ChecksumOwn,
}

impl PeerOp {
    /// What is read is for the disk of a resync target.
    pub(in crate::engine) fn copies(self) -> bool {
        matches!(self, PeerOp::ResyncRead | PeerOp::ThinRead | PeerOp::ChecksumRead)
    }

    /// The shell digests what was read.
    pub(in crate::engine) fn wants_digest(self) -> bool {
        match self {
            PeerOp::VerifyRead
            | PeerOp::VerifyCompare
            | PeerOp::ThinRead
            | PeerOp::ChecksumRead
            | PeerOp::ChecksumOwn => true,
            PeerOp::Write
            | PeerOp::Trim
            | PeerOp::Zeroes { .. }
            | PeerOp::Read
            | PeerOp::ResyncRead
            | PeerOp::ResyncWrite => false,
        }
    }
}

/// Whether a crash after a write is remembered by the bitmap on the disk, so that it needs no log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum InBitmap {
    No,
    /// What is marked for it is being written.
    Writing,
    Kept,
}

/// A request of a peer.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct PeerRequest {
    pub(in crate::engine) device: usize,
    /// Session it came in; a later one does not know it.
    pub(in crate::engine) session: u32,
    pub(in crate::engine) op: PeerOp,
    pub(in crate::engine) sector: Sector,
    pub(in crate::engine) bytes: u32,
    pub(in crate::engine) block_id: u64,
    pub(in crate::engine) flags: u32,
    pub(in crate::engine) payload: PayloadId,
    pub(in crate::engine) epoch: u64,
    pub(in crate::engine) conflict: Option<ConflictId>,
    /// References to its log extents are held.
    pub(in crate::engine) logged: bool,
    /// The peer had no disk of its own when it sent this: only this node has it.
    pub(in crate::engine) alone: bool,
    /// Whether what is marked for this write is kept with the bitmap: the peer got a disk since, or is gone.
    pub(in crate::engine) in_bitmap: InBitmap,
    /// For a question of a resync: the how-manieth of the session.
    pub(in crate::engine) attempt: u32,
}

impl PeerRequest {
    /// A write of that device that the peer's disk has, too.
    pub(in crate::engine) fn is_older_write(&self, d: usize) -> bool {
        self.device == d && self.is_mirrored_write() && !self.alone
    }

    /// One that reads.
    pub(in crate::engine) fn read(
        device: usize,
        session: u32,
        op: PeerOp,
        block: &BlockRequest,
    ) -> PeerRequest {
        let BlockRequest { sector, block_id, bytes } = *block;
        let (flags, epoch, payload, attempt) = (0, 0, PayloadId::NONE, 0);
        let (conflict, logged, alone, in_bitmap) = (None, false, false, InBitmap::No);
        PeerRequest {
            device,
            session,
            op,
            sector,
            bytes,
            block_id,
            flags,
            payload,
            epoch,
            conflict,
            logged,
            alone,
            in_bitmap,
            attempt,
        }
    }

    fn is_mirrored_write(&self) -> bool {
        matches!(self.op, PeerOp::Write | PeerOp::Trim | PeerOp::Zeroes { .. })
    }
}

impl Resource {
    /// P_DATA, P_TRIM, P_ZEROES.
    pub(in crate::engine) fn peer_writes(
        &mut self,
        d: usize,
        op: PeerOp,
        write: &Trim,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        if let Err(senseless) = self.check_writer() {
            Resource::release(payload, out);
            return Err(senseless);
        }
        let connection = self.connection.as_mut().expect("packets come from a peer");
        let protocol = connection.options.protocol;
        connection.peer_devices[d].counters.received_sectors += u64::from(write.bytes) / 512;
        let session = connection.session().expect("packets come in a session");
        let (number, version) = (session.number, session.version);
        if self.room_for_peer() == 0 {
            Resource::release(payload, out);
            return senseless(
                "number",
                PEER_REQUESTS_MAX as u64 + 1,
                "more requests of the peer than may be outstanding",
            );
        }
        let epoch = self.received_mut(number).expect("the session's").epochs.write();
        let alone = !self.peer_disk(d).has_data();
        let flags = if version >= 100 { write.flags } else { write.flags | old_ack_flags(protocol) };
        let request = PeerRequest {
            device: d,
            session: number,
            op,
            sector: write.sector,
            bytes: write.bytes,
            block_id: write.block_id,
            flags,
            payload,
            epoch,
            conflict: None,
            logged: false,
            alone,
            in_bitmap: InBitmap::No,
            attempt: 0,
        };
        self.devices[d].last_application = Some(self.now);
        if self.devices[d].usable().is_none() {
            Resource::release(payload, out);
            self.ack_write(&request, Ack::Failed, out);
            self.received_write_done(number, epoch, out);
            self.peer_write_over(d, write.sector, write.bytes, out);
            return Ok(());
        }
        if flags & data_flag::SEND_RECEIVE_ACK != 0 {
            self.ack_write(&request, Ack::Received, out);
        }
        if alone {
            // This node keeps the books, and the log, for both: from now on, for the peer may attach before it is written.
            self.mark_blocks(d, request.sector, request.bytes);
            self.begin_generation_if_written(d, out);
        }
        self.enter_peer_request(request, true, out);
        Ok(())
    }

    /// How many further requests of the peer fit: those that wait at a gate need their place later.
    pub(in crate::engine) fn room_for_peer(&self) -> usize {
        let Some(connection) = self.connection.as_deref() else { return 0 };
        let gated: usize = connection.peer_devices.iter().map(|p| p.gate.len()).sum();
        self.peer_requests.room().min(self.ios.room()).saturating_sub(gated)
    }

    pub(in crate::engine) fn enter_peer_request(
        &mut self,
        request: PeerRequest,
        writes: bool,
        out: &mut Vec<Command>,
    ) {
        let d = request.device;
        let peer_device = &mut self.connection.as_mut().expect("from a peer").peer_devices[d];
        if peer_device.gated && request.is_mirrored_write() {
            peer_device.gate.push_back(request);
            return;
        }
        if request.is_mirrored_write() && self.turn_away_concurrent(&request, out) {
            return;
        }
        let peer_device = &mut self.connection.as_mut().expect("from a peer").peer_devices[d];
        peer_device.counters.unacked += 1;
        let key = self.peer_requests.insert(request);
        self.take_turn(key, writes, out);
    }

    pub(super) fn take_turn(&mut self, key: u32, writes: bool, out: &mut Vec<Command>) {
        let request = self.peer_requests[key];
        let d = request.device;
        if request.op == PeerOp::ResyncRead && self.planted(Bug::ResyncOverNewer) {
            self.peer_request_ready(key, out);
            return;
        }
        let (id, free) =
            self.devices[d].conflicts.enter(request.sector, request.bytes, writes, Owner::Peer(key));
        self.peer_requests[key].conflict = Some(id);
        if free {
            self.peer_request_ready(key, out);
        }
    }

    /// What the disk holds from here on is told by its metadata: the peer's writes may go on.
    pub(in crate::engine) fn open_gate(&mut self, d: usize, out: &mut Vec<Command>) {
        let session = self.session_number();
        let Some(connection) = self.connection.as_mut() else { return };
        connection.peer_devices[d].gated = false;
        let waiting = std::mem::take(&mut connection.peer_devices[d].gate);
        for request in waiting {
            if session == Some(request.session) {
                self.enter_peer_request(request, true, out);
            } else {
                Resource::release(request.payload, out);
                self.received_write_done(request.session, request.epoch, out);
            }
        }
    }

    /// The resync for which the peer's writes waited will not be: they are not written.
    pub(in crate::engine) fn turn_away_at_gate(&mut self, d: usize, out: &mut Vec<Command>) {
        let session = self.session_number();
        let Some(connection) = self.connection.as_mut() else { return };
        connection.peer_devices[d].gated = false;
        let waiting = std::mem::take(&mut connection.peer_devices[d].gate);
        for request in waiting {
            Resource::release(request.payload, out);
            if session == Some(request.session) {
                self.ack_write(&request, Ack::Failed, out);
            }
            self.received_write_done(request.session, request.epoch, out);
            self.peer_write_over(d, request.sector, request.bytes, out);
        }
    }

    /// A peer request has its turn.
    pub(in crate::engine) fn peer_request_ready(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = self.peer_requests[key];
        let PeerRequest { device: d, sector, bytes, op, .. } = request;
        if request.is_mirrored_write() && self.comes_too_late(&request) {
            self.mark_blocks(d, sector, bytes);
            Resource::release(request.payload, out);
            self.drop_answer(&request, PayloadId::NONE, out);
            self.received_write_done(request.session, request.epoch, out);
            return self.peer_request_over(key, out);
        }
        if request.is_mirrored_write() && self.waits_for_epoch(&request) {
            self.wait_for_epoch(key);
            return;
        }
        match op {
            PeerOp::Write | PeerOp::Trim | PeerOp::Zeroes { .. } if request.alone => {
                self.enter_log(d, Owner::Peer(key), sector, bytes, out);
            }
            PeerOp::Write | PeerOp::Trim | PeerOp::Zeroes { .. } | PeerOp::ResyncWrite => {
                self.submit_peer_write(key, out);
            }
            PeerOp::Read
            | PeerOp::ResyncRead
            | PeerOp::ThinRead
            | PeerOp::VerifyRead
            | PeerOp::VerifyCompare
            | PeerOp::ChecksumRead
            | PeerOp::ChecksumOwn => {
                if self.devices[d].usable().is_none() {
                    self.peer_disk_done(key, IoResult::Failed(0), PayloadId::NONE, out);
                    return;
                }
                self.disk_io(
                    d,
                    IoOwner::Peer(key),
                    DiskOp::Read,
                    (sector, bytes),
                    PayloadId::NONE,
                    false,
                    out,
                );
            }
        }
    }

    /// The other Primary's write waited for own ones, and its session is over: written now it would undo what was told to
    /// be done. Nobody was told that it is.
    fn comes_too_late(&self, request: &PeerRequest) -> bool {
        self.two_primaries_allowed() && self.session_number() != Some(request.session)
    }

    /// Gives a peer's write to the disk.
    pub(in crate::engine) fn submit_peer_write(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = self.peer_requests[key];
        let PeerRequest { device: d, sector, bytes, op, flags, payload, .. } = request;
        if self.devices[d].usable().is_none() && !self.is_owed_to_detaching_disk(&request) {
            self.peer_disk_done(key, IoResult::Failed(0), PayloadId::NONE, out);
            return;
        }
        let op = match op {
            PeerOp::Trim => DiskOp::Discard,
            PeerOp::Zeroes { unmap } => DiskOp::WriteZeroes { unmap },
            PeerOp::ResyncWrite if payload == PayloadId::NONE && !self.planted(Bug::DeallocatedKept) => {
                DiskOp::Discard
            }
            PeerOp::ResyncWrite if payload == PayloadId::NONE => {
                return self.peer_disk_done(key, IoResult::Done, PayloadId::NONE, out);
            }
            PeerOp::Write
            | PeerOp::ResyncWrite
            | PeerOp::Read
            | PeerOp::ResyncRead
            | PeerOp::ThinRead
            | PeerOp::VerifyRead
            | PeerOp::VerifyCompare
            | PeerOp::ChecksumRead
            | PeerOp::ChecksumOwn => DiskOp::Write,
        };
        let fua = flags & data_flag::FUA != 0;
        self.disk_io(d, IoOwner::Peer(key), op, (sector, bytes), payload, fua, out);
    }

    /// A detach waits for what came before it: a write that waited for its turn may be acknowledged as received, and those
    /// behind it are on the disk.
    fn is_owed_to_detaching_disk(&self, request: &PeerRequest) -> bool {
        let device = &self.devices[request.device];
        device.disk == DiskState::Detaching
            && device.backing.is_some()
            && request.is_mirrored_write()
            && (request.logged || !request.alone)
    }

    /// The disk is done with a peer request (or there is none any more).
    pub(in crate::engine) fn peer_disk_done(
        &mut self,
        key: u32,
        result: IoResult,
        bytes_read: PayloadId,
        out: &mut Vec<Command>,
    ) {
        let request = self.peer_requests[key];
        let d = request.device;
        let lacks_space = matches!(result, IoResult::Failed(errno) if self.only_lacks_space(d, errno));
        if lacks_space && request.is_mirrored_write() {
            return self.keep_unwritten(key, out);
        }
        Resource::release(request.payload, out);
        let current = self.awaits_answer(&request);
        if request.op.wants_digest() && current && result == IoResult::Done {
            return self.begin_digest(key, bytes_read, out);
        }
        if let IoResult::Failed(errno) = result {
            if self.devices[d].usable().is_some() {
                let writes = request.is_mirrored_write() || request.op == PeerOp::ResyncWrite;
                if writes {
                    self.mark_blocks(d, request.sector, request.bytes);
                }
                let what = if writes { Trouble::Write } else { Trouble::Read };
                self.local_io_error(d, what, errno, out);
            }
        }
        if current && request.op.wants_digest() {
            self.digest_ready(key, None, bytes_read, out);
        } else if current {
            self.connection.as_mut().expect("a session").peer_devices[d].counters.unacked -= 1;
            match request.op {
                PeerOp::Write | PeerOp::Trim | PeerOp::Zeroes { .. } => {
                    self.peer_write_done(&request, result == IoResult::Done, out);
                }
                PeerOp::ResyncWrite => self.resync_write_done(&request, result == IoResult::Done, out),
                _ => self.answer_read(&request, result, bytes_read, out),
            }
        } else {
            self.drop_answer(&request, bytes_read, out);
            if request.is_mirrored_write() {
                self.received_write_done(request.session, request.epoch, out);
            }
        }
        self.peer_request_over(key, out);
    }

    /// The peer that asked is still there, and still wants to know.
    pub(in crate::engine) fn awaits_answer(&self, request: &PeerRequest) -> bool {
        self.session_number() == Some(request.session) && !self.asks_no_more(request)
    }

    /// Nobody waits for what was read.
    pub(in crate::engine) fn drop_answer(
        &mut self,
        request: &PeerRequest,
        bytes: PayloadId,
        out: &mut Vec<Command>,
    ) {
        Resource::release(bytes, out);
        let session = self.session_number();
        if let Some(connection) = self.connection.as_mut().filter(|_| session == Some(request.session)) {
            connection.peer_devices[request.device].counters.unacked -= 1;
        }
        // A promotion may wait for it.
        self.admin.state_changed = true;
    }

    /// Nothing is left to be done about a peer request: others may have its place.
    pub(in crate::engine) fn peer_request_over(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = self.peer_requests.remove(key);
        let d = request.device;
        if request.op.wants_digest() {
            self.expected_digests.remove(&key);
        }
        if let Some(id) = request.conflict {
            self.leave_conflicts(d, id, out);
        }
        if request.logged {
            self.end_log(d, request.sector, request.bytes, out);
        }
        if request.is_mirrored_write() {
            self.peer_write_over(d, request.sector, request.bytes, out);
        }
        self.begin_generation_if_written(d, out);
        self.pump_resync(d, out);
        self.pump_verify(d, out);
    }

    /// Writes of a session that is over are still on their way to the disk.
    pub(in crate::engine) fn writes_of_lost_peer_left(&self) -> bool {
        let session = self.session_number();
        self.peer_requests.iter().any(|(_, r)| r.is_mirrored_write() && session != Some(r.session))
    }

    fn peer_write_done(&mut self, request: &PeerRequest, written: bool, out: &mut Vec<Command>) {
        let d = request.device;
        let replication = self.connection.as_ref().expect("a session").peer_devices[d].replication;
        let resyncing = Conn84::of(ConnectionState::Connected, replication).copies_or_compares();
        let asked = request.flags & data_flag::SEND_WRITE_ACK != 0;
        // What reached a disk that was given up since was never made stable.
        let written = written && self.devices[d].usable().is_some() || self.planted(Bug::RefusedWriteAcked);
        if let Some(received) = self.received_mut(request.session).filter(|_| written) {
            received.epochs.written(request.epoch);
        }
        if !written {
            if !asked {
                // Receipt was enough for the peer to call it done.
                self.remember_to_be_behind(d);
            }
            self.ack_write(request, Ack::Failed, out);
        } else if asked {
            // Only together with the ack: else the peer, not told, would keep its bits for ever.
            let in_sync = resyncing && request.flags & data_flag::MAY_SET_IN_SYNC != 0 && !request.alone;
            if in_sync {
                self.clear_mirrored(d, request.sector, request.bytes, out);
            }
            self.ack_write(request, if in_sync { Ack::WrittenInSync } else { Ack::Written }, out);
        }
        self.received_write_done(request.session, request.epoch, out);
    }

    pub(super) fn ack_write(&mut self, request: &PeerRequest, how: Ack, out: &mut Vec<Command>) {
        let d = request.device;
        let volume = self.devices[d].volume;
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let ack = BlockAck {
            sector: request.sector,
            block_id: request.block_id,
            bytes: request.bytes,
            seq: peer_device.next_sequence(),
        };
        let packet = match how {
            Ack::Received => Packet::RecvAck(ack),
            Ack::Written => Packet::WriteAck(ack),
            Ack::WrittenInSync => Packet::RsWriteAck(ack),
            Ack::Failed => Packet::NegAck(ack),
            Ack::Superseded => Packet::Superseded(ack),
            Ack::Retry => Packet::RetryWrite(ack),
        };
        self.send_control(volume, packet, out);
    }
}

/// Before protocol 100 the packet does not say which ack it wants; the configured protocol does.
fn old_ack_flags(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::A => 0,
        Protocol::B => data_flag::SEND_RECEIVE_ACK,
        Protocol::C => data_flag::SEND_WRITE_ACK,
    }
}
