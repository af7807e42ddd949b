//! What a peer reads here: for its users without good data of its own, for a resync, or only to know the digest.

use super::peer_request::{PeerOp, PeerRequest};
use crate::engine::command::Command;
use crate::engine::event::IoResult;
use crate::engine::resource::Resource;
use crate::ids::PayloadId;
use crate::states::DiskState;
use crate::wire::{BlockAck, BlockRequest, Data, Packet};

impl Resource {
    /// P_DATA_REQUEST and P_RS_DATA_REQUEST.
    pub(in crate::engine) fn peer_reads(
        &mut self,
        d: usize,
        op: PeerOp,
        block: &BlockRequest,
        out: &mut Vec<Command>,
    ) {
        self.peer_reads_against(d, op, block, Box::default(), out);
    }

    /// As above, where the peer says which digest it has; empty if it does not.
    pub(in crate::engine) fn peer_reads_against(
        &mut self,
        d: usize,
        op: PeerOp,
        block: &BlockRequest,
        digest: Box<[u8]>,
        out: &mut Vec<Command>,
    ) {
        let session = self.session_number().expect("packets come in a session");
        let mut request = PeerRequest::read(d, session, op, block);
        let serves = self.devices[d].disk == DiskState::UpToDate && self.room_for_peer() > 0;
        // Copies are counted until the target has written them, by the resync they are for.
        if !serves || (op.copies() && !self.is_resync_source(d)) {
            self.refuse_read(&request, out);
            return;
        }
        request.attempt = self.resync_attempt(d);
        self.enter_peer_request_against(request, digest, out);
    }

    /// A question of a resync that broke off while it waited. In the next one the target asks anew, and could not tell the
    /// answers apart.
    pub(in crate::engine) fn asks_no_more(&self, request: &PeerRequest) -> bool {
        let another = request.attempt != self.resync_attempt(request.device);
        request.op.copies() && another && self.is_resync_source(request.device)
    }

    fn resync_attempt(&self, d: usize) -> u32 {
        self.connection.as_deref().map_or(0, |c| c.peer_devices[d].resync_attempt)
    }

    fn is_resync_source(&self, d: usize) -> bool {
        self.connection.as_deref().is_some_and(|c| {
            let peer_device = &c.peer_devices[d];
            peer_device.replication.is_source() && peer_device.resync.is_some()
        })
    }

    pub(in crate::engine) fn answer_read(
        &mut self,
        request: &PeerRequest,
        result: IoResult,
        bytes: PayloadId,
        out: &mut Vec<Command>,
    ) {
        if result != IoResult::Done {
            Resource::release(bytes, out);
            self.refuse_read(request, out);
            return;
        }
        let d = request.device;
        let data = Data {
            sector: request.sector,
            block_id: request.block_id,
            seq: 0,
            flags: 0,
            bytes: request.bytes,
        };
        let copies = request.op.copies();
        let packet = if copies { Packet::RsDataReply(data) } else { Packet::DataReply(data) };
        let volume = self.devices[d].volume;
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        peer_device.counters.sent_sectors += u64::from(request.bytes) / 512;
        if copies {
            self.count_copy(request);
        }
        self.send_bulk(volume, packet, bytes, out);
        Resource::release(bytes, out);
    }

    /// As source: what is on its way to the target is counted until that has written it.
    pub(in crate::engine) fn count_copy(&mut self, request: &PeerRequest) {
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[request.device];
        match &mut peer_device.resync {
            Some(resync) => resync.copy_sent(request.sector, request.bytes),
            None => peer_device.strays = true,
        }
    }

    pub(in crate::engine) fn refuse_read(&mut self, request: &PeerRequest, out: &mut Vec<Command>) {
        let d = request.device;
        let volume = self.devices[d].volume;
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let ack = BlockAck {
            sector: request.sector,
            block_id: request.block_id,
            bytes: request.bytes,
            seq: peer_device.next_sequence(),
        };
        if request.op.copies() {
            // Its target counts it, too, and ends without the block.
            if let Some(resync) = &mut peer_device.resync {
                resync.block_failed(request.bytes);
            }
        }
        let packet = if request.op.copies() || request.op == PeerOp::VerifyRead {
            Packet::NegRsDreply(ack)
        } else {
            Packet::NegDreply(ack)
        };
        self.send_control(volume, packet, out);
        if request.op == PeerOp::VerifyRead {
            self.digest_refused(request, out);
        }
    }

    fn enter_peer_request_against(
        &mut self,
        request: PeerRequest,
        digest: Box<[u8]>,
        out: &mut Vec<Command>,
    ) {
        self.connection.as_mut().expect("from a peer").peer_devices[request.device].counters.unacked += 1;
        let key = self.peer_requests.insert(request);
        if request.op.wants_digest() && !digest.is_empty() {
            self.expected_digests.insert(key, digest);
        }
        self.take_turn(key, false, out);
    }
}
