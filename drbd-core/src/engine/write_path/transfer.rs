//! What the write path says to the peer and hears from it: mirrored writes, their acknowledgements, barriers, and
//! what happens to all of it when the connection is lost.

use super::request::{Local, PeerProgress, Request};
use crate::engine::command::{Command, UpperResult};
use crate::engine::device::PeerGenerationDue;
use crate::engine::event::UpperOp;
use crate::engine::planted::Bug;
use crate::engine::resource::Resource;
use crate::engine::senseless::Senseless;
use crate::ids::{PayloadId, Sector, VolumeNumber};
use crate::states::{Conn84, DiskState, Protocol, ReplicationState};
use crate::wire::{data_flag, BlockAck, BlockRequest, Data, Extent, Packet, Trim};

/// How a peer acknowledged a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Ack {
    Received,
    Written,
    WrittenInSync,
    Failed,
    /// Not written: it met a write of the peer's own that it did not know of, and that contains it.
    Superseded,
    /// Not written: it met a write of the peer's own that it did not know of, and that overlaps it.
    Retry,
}

/// What a flush does at the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum FlushAtPeer {
    /// It does not concern the peer.
    NotCovered,
    /// The peer has everything on stable storage.
    Covered,
    /// It has when that epoch's barrier is acknowledged.
    WaitsFor(u32),
}

impl Resource {
    /// Whether writes go to the peer (7.1 of the wire reference).
    pub(in crate::engine) fn mirrors(&self, d: usize) -> bool {
        let Some(connection) = &self.connection else { return false };
        if connection.session().is_none() {
            return false;
        }
        let peer_device = &connection.peer_devices[d];
        match peer_device.replication {
            ReplicationState::Off => false,
            ReplicationState::Ahead | ReplicationState::Behind => false,
            ReplicationState::Established
            | ReplicationState::StartingSyncS
            | ReplicationState::StartingSyncT
            | ReplicationState::WFBitMapS => peer_device.peer_disk == DiskState::UpToDate,
            ReplicationState::WFBitMapT
            | ReplicationState::WFSyncUUID
            | ReplicationState::SyncSource
            | ReplicationState::SyncTarget
            | ReplicationState::VerifyS
            | ReplicationState::VerifyT
            | ReplicationState::PausedSyncS
            | ReplicationState::PausedSyncT => peer_device.peer_disk.has_data(),
        }
    }

    /// Sends a write and enters it into the transfer log.
    pub(in crate::engine) fn send_write(&mut self, key: u32, out: &mut Vec<Command>) {
        self.send_owed_barrier(out);
        // A disk that is being let go takes nothing new.
        let d = self.requests[key].device;
        let only_at_peer = self.devices[d].disk != DiskState::UpToDate || self.admin.is_to_be_target(d);
        if let Some(due) = &mut self.devices[d].peer_generation_due {
            *due = PeerGenerationDue::Now;
        }
        let connection = self.connection.as_mut().expect("writes are mirrored only in a session");
        let max_epoch_size = connection.options.max_epoch_size;
        let version = connection.session().map_or(0, |s| s.version);
        let request = &mut self.requests[key];
        request.peer = PeerProgress::Sent;
        request.at_good_peer = connection.peer_devices[d].peer_disk == DiskState::UpToDate;
        request.protocol = connection.options.protocol;
        request.epoch = connection.epoch;
        if only_at_peer && version >= 100 {
            request.protocol = Protocol::C;
        }
        request.by_barrier = match request.protocol {
            Protocol::C => request.fua,
            // Before 100 the configured protocol says what is acknowledged.
            Protocol::A | Protocol::B => only_at_peer,
        };
        request.shared = connection.options.two_primaries;
        let volume = self.devices[d].volume;
        let peer_device = &mut connection.peer_devices[d];
        let conn = Conn84::of(connection.state, peer_device.replication);
        let seq = peer_device.next_sequence();
        peer_device.counters.sent_sectors += u64::from(request.bytes) / 512;
        peer_device.counters.pending += 1;
        let flags = flags_of(request, conn);
        request.may_clear = flags & data_flag::MAY_SET_IN_SYNC != 0;
        let packet = packet_of(request, key, seq, flags);
        let payload = if request.op == UpperOp::Write { request.payload } else { PayloadId::NONE };
        connection.transfer_log.push_back(key);
        connection.log_sectors += u64::from(request.bytes) / 512;
        let session = connection.session_mut().expect("as above");
        session.sent_epochs.writes += 1;
        session.ap_in_flight += u64::from(self.requests[key].bytes) / 512;
        if session.ap_in_flight == u64::from(self.requests[key].bytes) / 512 {
            session.write_progress_at = self.now;
        }
        let waited_for = self.requests[key].fua || self.requests[key].by_barrier;
        if session.sent_epochs.writes >= max_epoch_size || waited_for {
            session.sent_epochs.closed = true;
        }
        let number = self.send_bulk(volume, packet, payload, out);
        self.requests[key].packet = number;
        if waited_for {
            self.send_owed_barrier(out);
            self.urge_peer(out);
        }
    }

    /// The own disk is gone, or no longer good: what is not complete yet only the peer has. Under A and B it is not known to have it before
    /// the barrier is acknowledged.
    pub(in crate::engine) fn await_barriers_without_disk(&mut self, d: usize, out: &mut Vec<Command>) {
        let mut waits = false;
        for request in self.requests.values_mut().filter(|r| r.device == d && !r.completed) {
            let on_its_way = matches!(request.peer, PeerProgress::Sent | PeerProgress::Acknowledged);
            if on_its_way && request.is_write() && request.protocol != Protocol::C {
                request.by_barrier = true;
                waits = true;
            }
        }
        if let (true, Some(session)) = (waits, self.connection.as_mut().and_then(|c| c.session_mut())) {
            session.sent_epochs.closed = true;
            self.send_owed_barrier(out);
            self.urge_peer(out);
        }
    }

    /// If the current epoch is closed and has writes, its barrier goes out and the next one begins.
    pub(in crate::engine) fn send_owed_barrier(&mut self, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_mut() else { return };
        let epoch = connection.epoch;
        let Some(session) = connection.session_mut() else { return };
        if !session.sent_epochs.closed || session.sent_epochs.writes == 0 {
            return;
        }
        session.sent_epochs.writes = 0;
        session.sent_epochs.closed = false;
        // A peer that turned away every write of it says nothing.
        let requests = &self.requests;
        let answered = connection.transfer_log.back().is_some_and(|&key| requests[key].epoch == epoch);
        let session = connection.session_mut().expect("as above");
        session.sent_epochs.unacknowledged += u32::from(answered);
        if session.sent_epochs.unacknowledged == 1 {
            session.write_progress_at = self.now;
        }
        connection.epoch = epoch.wrapping_add(1);
        self.send(VolumeNumber(0), Packet::Barrier(epoch), out);
    }

    /// A member of that epoch was reported to the front end: no later write may share it.
    pub(in crate::engine) fn close_epoch_of(&mut self, epoch: u32, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_mut() else { return };
        let current = connection.epoch;
        let Some(session) = connection.session_mut() else { return };
        if epoch == current {
            session.sent_epochs.closed = true;
        }
        self.end_closed_epoch(out);
    }

    /// If nothing else is under way the peer is to make stable now what it has.
    pub(super) fn end_closed_epoch(&mut self, out: &mut Vec<Command>) {
        if self.connection.as_ref().and_then(|c| c.session()).is_some_and(|s| s.ap_in_flight == 0) {
            self.send_owed_barrier(out);
        }
    }

    /// Closes the current epoch at once. Protocol C promises that a flush covers both nodes, A and B wait for the peer
    /// only if this node has no good disk of its own.
    pub(in crate::engine) fn barrier_for_flush(&mut self, d: usize, out: &mut Vec<Command>) -> FlushAtPeer {
        self.try_barrier_for_flush(d, out).unwrap_or(FlushAtPeer::NotCovered)
    }

    fn try_barrier_for_flush(&mut self, d: usize, out: &mut Vec<Command>) -> Option<FlushAtPeer> {
        let only_at_peer = self.devices[d].disk != DiskState::UpToDate;
        let connection = self.connection.as_mut()?;
        let covers_peer = connection.options.protocol == Protocol::C || only_at_peer;
        connection.session_mut()?.sent_epochs.closed = true;
        self.send_owed_barrier(out);
        let connection = self.connection.as_mut()?;
        // Of an epoch that the peer turned away as a whole it says nothing: the flush waits for the last one that is left.
        let requests = &self.requests;
        let last = connection.transfer_log.back().map(|&key| requests[key].epoch);
        let session = connection.session_mut()?;
        session.sent_epochs.closed = false;
        if !covers_peer {
            return None;
        }
        let Some(last) = last.filter(|_| session.sent_epochs.unacknowledged > 0) else {
            let unknown = only_at_peer && connection.peer_devices[d].unstable_at_peer;
            return (!unknown).then_some(FlushAtPeer::Covered);
        };
        self.urge_peer(out);
        Some(FlushAtPeer::WaitsFor(last))
    }

    /// The peer is to make stable what it was sent so far.
    pub(in crate::engine) fn ask_for_stability(&mut self, out: &mut Vec<Command>) {
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.sent_epochs.closed = true;
        }
        self.send_owed_barrier(out);
        self.urge_peer(out);
    }

    /// Somebody waits for the barriers sent so far to be acknowledged: the peer need not look for more to flush with.
    pub(in crate::engine) fn urge_peer(&mut self, out: &mut Vec<Command>) {
        let unacknowledged = self
            .connection
            .as_ref()
            .and_then(|c| c.session())
            .is_some_and(|s| s.sent_epochs.unacknowledged > 0);
        if unacknowledged {
            self.send(VolumeNumber(0), Packet::UnplugRemote, out);
        }
    }

    /// Tells a peer that is about to get our bitmap of a block that became out of sync after that.
    pub(in crate::engine) fn tell_out_of_sync(
        &mut self,
        d: usize,
        sector: Sector,
        bytes: u32,
        out: &mut Vec<Command>,
    ) {
        let Some(connection) = &self.connection else { return };
        let replication = connection.peer_devices[d].replication;
        if connection.session().is_some_and(|s| s.version >= 96)
            && matches!(replication, ReplicationState::WFBitMapS | ReplicationState::Ahead)
        {
            self.send(self.devices[d].volume, Packet::OutOfSync(Extent { sector, bytes }), out);
        }
    }

    /// Asks the peer for the bytes of a read.
    pub(in crate::engine) fn send_read(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = self.requests[key];
        let block_id = request.block_id(key);
        let volume = self.devices[request.device].volume;
        let connection = self.connection.as_mut().expect("reads are asked of a peer");
        connection.remote_reads.push(key);
        connection.peer_devices[request.device].counters.pending += 1;
        let block = BlockRequest { sector: request.sector, block_id, bytes: request.bytes };
        self.send(volume, Packet::DataRequest(block), out);
    }

    /// The peer's answer to a read.
    pub(in crate::engine) fn read_answered(
        &mut self,
        d: usize,
        data: &Data,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let key = match self.awaits_read(d, data.block_id, data.sector, data.bytes) {
            Ok(key) => key,
            Err(senseless) => {
                Resource::release(payload, out);
                return Err(senseless);
            }
        };
        self.forget_remote_read(key);
        let connection = self.connection.as_mut().expect("an answer comes from a peer");
        connection.peer_devices[d].counters.received_sectors += u64::from(data.bytes) / 512;
        if self.requests[key].repairs {
            self.repair(key, payload, out);
        } else {
            self.finish_read(key, UpperResult::Done, payload, out);
        }
        Ok(())
    }

    /// The peer could not read.
    pub(in crate::engine) fn read_refused(
        &mut self,
        d: usize,
        ack: &BlockAck,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let key = self.awaits_read(d, ack.block_id, ack.sector, ack.bytes)?;
        self.forget_remote_read(key);
        let Request { sector, bytes, local, .. } = self.requests[key];
        self.end_repair(key, out);
        if local == Local::None && self.locally_readable(d, sector, bytes) {
            self.requests[key].peer = PeerProgress::NotReplicated;
            self.start_read(key, out);
        } else {
            self.fail_read(key, out);
        }
        Ok(())
    }

    /// A read waits for the peer no longer.
    fn forget_remote_read(&mut self, key: u32) {
        let d = self.requests[key].device;
        let connection = self.connection.as_mut().expect("an answer comes from a peer");
        connection.remote_reads.retain(|&k| k != key);
        connection.peer_devices[d].counters.pending -= 1;
    }

    /// The peer acknowledged a write.
    pub(in crate::engine) fn write_acknowledged(
        &mut self,
        d: usize,
        ack: &BlockAck,
        how: Ack,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let key = self.awaits_ack(d, ack, how)?;
        let now = self.now;
        let request = &self.requests[key];
        let bytes = request.bytes;
        let sent = request.peer == PeerProgress::Sent;
        if sent {
            let sectors = u64::from(request.bytes) / 512;
            let connection = self.connection.as_mut().expect("an ack comes from a peer");
            connection.peer_devices[d].counters.pending -= 1;
            let session = connection.session_mut().expect("an ack comes in a session");
            session.ap_in_flight = session.ap_in_flight.saturating_sub(sectors);
            session.write_progress_at = now;
        }
        self.requests[key].peer = match how {
            Ack::Failed => PeerProgress::Failed,
            Ack::Received | Ack::Written | Ack::WrittenInSync => PeerProgress::Acknowledged,
            Ack::Superseded if self.planted(Bug::SupersededIsDone) => PeerProgress::Stable,
            Ack::Superseded | Ack::Retry => PeerProgress::Postponed,
        };
        self.requests[key].in_sync = how == Ack::WrittenInSync;
        match how {
            Ack::Failed => {
                self.mark_request(key);
                self.be_ahead_of_refusing_peer(d, out);
                self.tell_out_of_sync(d, ack.sector, bytes, out);
            }
            Ack::Superseded | Ack::Retry => self.leave_transfer_log(key, out),
            Ack::Received | Ack::Written | Ack::WrittenInSync => {}
        }
        self.retract_turned_away(key, out);
        let reported = self.requests[key].completed;
        self.progress(key, out);
        if sent && reported {
            // Sent again after a freeze: its completion was long ago, and does not end its epoch.
            self.end_closed_epoch(out);
        }
        Ok(())
    }

    /// Packets are in the kernel's buffer: writes of protocol A that were sent are acknowledged by that.
    pub(in crate::engine) fn packets_sent(&mut self, packets: u64, out: &mut Vec<Command>) {
        let Some(connection) = &self.connection else { return };
        if connection.options.protocol != Protocol::A {
            return;
        }
        let mut at = connection.acknowledged_a;
        while let Some(&key) = self.connection.as_ref().and_then(|c| c.transfer_log.get(at)) {
            let request = &mut self.requests[key];
            if request.packet > packets {
                break;
            }
            at += 1;
            self.connection.as_mut().expect("as above").acknowledged_a = at;
            if request.peer == PeerProgress::Sent && request.protocol == Protocol::A {
                request.peer = PeerProgress::Acknowledged;
                let (d, sectors) = (request.device, u64::from(request.bytes) / 512);
                let connection = self.connection.as_mut().expect("as above");
                connection.peer_devices[d].counters.pending -= 1;
                if let Some(session) = connection.session_mut() {
                    session.ap_in_flight = session.ap_in_flight.saturating_sub(sectors);
                }
                self.progress(key, out);
            }
        }
    }

    /// The peer has everything of that epoch on stable storage.
    pub(in crate::engine) fn barrier_acknowledged(
        &mut self,
        barrier: u32,
        set_size: u32,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let now = self.now;
        let members = self.awaits_barrier_ack(barrier, set_size)?;
        let connection = self.connection.as_mut().expect("an ack comes from a peer");
        if let Some(session) = connection.session_mut() {
            session.sent_epochs.unacknowledged = session.sent_epochs.unacknowledged.saturating_sub(1);
            session.write_progress_at = now;
        }
        // One barrier is for all volumes.
        for peer_device in &mut connection.peer_devices {
            peer_device.unstable_at_peer = false;
        }
        for _ in 0..members {
            let connection = self.connection.as_mut().expect("as above");
            // What the last one made room for may have found the link congested, and let the peer go.
            let Some(key) = connection.transfer_log.pop_front() else { return Ok(()) };
            connection.log_sectors -= u64::from(self.requests[key].bytes) / 512;
            connection.acknowledged_a = connection.acknowledged_a.saturating_sub(1);
            self.stable_at_peer(key, out);
        }
        self.flushes_covered(barrier, out);
        self.look_for_drained_log();
        self.admin.log_drained();
        Ok(())
    }

    fn stable_at_peer(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = &mut self.requests[key];
        match request.peer {
            PeerProgress::Acknowledged => request.peer = PeerProgress::Stable,
            PeerProgress::Failed => request.peer = PeerProgress::Lost,
            PeerProgress::Sent => {
                // The barrier overtook the report that the packet was sent.
                request.peer = PeerProgress::Stable;
                let (d, sectors) = (request.device, u64::from(request.bytes) / 512);
                let connection = self.connection.as_mut().expect("a transfer log belongs to a peer");
                connection.peer_devices[d].counters.pending -= 1;
                if let Some(session) = connection.session_mut() {
                    session.ap_in_flight = session.ap_in_flight.saturating_sub(sectors);
                }
            }
            PeerProgress::NotReplicated
            | PeerProgress::Frozen
            | PeerProgress::Postponed
            | PeerProgress::Lost
            | PeerProgress::Stable => {}
        }
        self.progress(key, out);
    }

    fn flushes_covered(&mut self, barrier: u32, out: &mut Vec<Command>) {
        let mut at = 0;
        while let Some(&key) = self.connection.as_ref().and_then(|c| c.flush_waiters.get(at)) {
            // Barriers are acknowledged in order; epochs count up and wrap.
            if barrier.wrapping_sub(self.requests[key].epoch) < u32::MAX / 2 {
                self.connection.as_mut().expect("as above").flush_waiters.remove(at);
                self.requests[key].peer = PeerProgress::Stable;
                self.progress(key, out);
            } else {
                at += 1;
            }
        }
    }

    /// The connection is lost: what the peer did not make stable is out of sync, and nobody waits for it any longer.
    pub(in crate::engine) fn forget_transfer_log(&mut self, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_mut() else { return };
        connection.acknowledged_a = 0;
        connection.log_sectors = 0;
        for peer_device in &mut connection.peer_devices {
            peer_device.counters.pending = 0;
        }
        if self.is_frozen() {
            self.freeze_transfer_log(out);
            return;
        }
        let Some(connection) = self.connection.as_mut() else { return };
        connection.forget_outrun_log();
        let log = std::mem::take(&mut connection.transfer_log);
        let flushes = std::mem::take(&mut connection.flush_waiters);
        let reads = std::mem::take(&mut connection.remote_reads);
        // Mark all first: a completion below must find every bit set.
        for &key in &log {
            if self.planted(Bug::LostWritesNotMarked) {
                self.requests[key].peer = PeerProgress::Stable;
                continue;
            }
            self.lost_at_peer(key);
        }
        for &key in &flushes {
            self.requests[key].peer = PeerProgress::Lost;
        }
        for key in log.into_iter().chain(flushes) {
            self.progress(key, out);
        }
        for key in reads {
            self.end_repair(key, out);
            self.start_read_elsewhere(key, out);
        }
    }

    /// What the peer has of a write is not known and will not be: its blocks differ from now on.
    pub(in crate::engine) fn lost_at_peer(&mut self, key: u32) {
        let Request { device: d, completed, protocol, .. } = self.requests[key];
        self.devices[d].peer_is_behind |=
            completed && protocol == Protocol::A && self.devices[d].backing.is_none();
        let only_at_peer = completed && !self.disk_is_good(d);
        if let Some(connection) = self.connection.as_mut() {
            connection.peer_devices[d].unstable_at_peer |= only_at_peer;
        }
        self.requests[key].peer = PeerProgress::Lost;
        self.mark_request(key);
    }
}

fn flags_of(request: &Request, conn: Conn84) -> u32 {
    let resyncing = conn.copies_or_compares();
    let mut flags = data_flag::SYNC;
    if resyncing {
        flags |= data_flag::SEND_WRITE_ACK;
    }
    // Whoever clears bits keeps his turn until the barrier is acknowledged; two Primaries would wait for each other.
    if resyncing && !request.shared {
        flags |= data_flag::MAY_SET_IN_SYNC;
    }
    match request.protocol {
        Protocol::A => {}
        Protocol::B => flags |= data_flag::SEND_RECEIVE_ACK,
        Protocol::C => flags |= data_flag::SEND_WRITE_ACK,
    }
    if request.fua {
        flags |= data_flag::FUA;
    }
    match request.op {
        UpperOp::Discard => flags |= data_flag::DISCARD,
        UpperOp::WriteZeroes { unmap: true } => flags |= data_flag::ZEROES | data_flag::DISCARD,
        UpperOp::WriteZeroes { unmap: false } => flags |= data_flag::ZEROES,
        UpperOp::Read | UpperOp::Write | UpperOp::Flush => {}
    }
    flags
}

fn packet_of(request: &Request, key: u32, seq: u32, flags: u32) -> Packet {
    let Request { sector, bytes, .. } = *request;
    let block_id = request.block_id(key);
    match request.op {
        UpperOp::Discard => Packet::Trim(Trim { sector, block_id, seq, flags, bytes }),
        UpperOp::WriteZeroes { .. } => Packet::Zeroes(Trim { sector, block_id, seq, flags, bytes }),
        UpperOp::Write | UpperOp::Read | UpperOp::Flush => {
            Packet::Data(Data { sector, block_id, seq, flags, bytes })
        }
    }
}

impl Request {
    /// The local part was lost with the disk.
    pub(in crate::engine) fn local_lost(&self) -> bool {
        self.local == Local::Failed
    }
}
