//! Digests of blocks, which the shell computes because the engine never sees bytes: for the online verify and for the
//! resync by checksums.
//!
//! A peer request that [wants a digest](PeerOp::wants_digest) is read like any other; then its buffer goes to the shell
//! and the request stays in its turn until the digest is there.

use super::command::Command;
use super::event::IoResult;
use super::planted::Bug;
use super::resource::Resource;
use super::senseless::Senseless;
use super::session::Fault;
use super::thin_resync::ONLY_ZEROES;
use super::write_path::peer_request::{PeerOp, PeerRequest};
use crate::ids::{DigestId, PayloadId};
use crate::wire::{BlockAck, BlockRequest, DigestRequest, Packet};

/// A digest that is being computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct DigestJob {
    /// Key of the peer request.
    request: u32,
    payload: PayloadId,
}

impl Resource {
    /// What a peer request wanted is read: the shell digests it.
    pub(super) fn begin_digest(&mut self, key: u32, payload: PayloadId, out: &mut Vec<Command>) {
        let request = self.peer_requests[key];
        let options = &self.connection.as_deref().expect("a session").options;
        let algorithm = match request.op {
            PeerOp::VerifyRead | PeerOp::VerifyCompare => options.verify_alg.as_str(),
            PeerOp::ThinRead => ONLY_ZEROES,
            _ => options.csums_alg.as_str(),
        };
        let algorithm = algorithm.into();
        let job = DigestId(self.digests.insert(DigestJob { request: key, payload }));
        out.push(Command::Digest { job, algorithm, payload, bytes: request.bytes });
    }

    /// The shell computed a digest; `None` if it does not know the algorithm.
    pub(super) fn digest_done(&mut self, job: DigestId, digest: Option<Box<[u8]>>, out: &mut Vec<Command>) {
        if self.digests.find(job.0).is_none() {
            return;
        }
        let DigestJob { request: key, payload } = self.digests.remove(job.0);
        let request = self.peer_requests[key];
        if self.awaits_answer(&request) {
            self.digest_ready(key, digest, payload, out);
        } else {
            self.drop_answer(&request, payload, out);
        }
        self.peer_request_over(key, out);
    }

    /// A request that wanted a digest has it, or never will.
    pub(super) fn digest_ready(
        &mut self,
        key: u32,
        digest: Option<Box<[u8]>>,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) {
        let request = self.peer_requests[key];
        let d = request.device;
        self.connection.as_mut().expect("a session").peer_devices[d].counters.unacked -= 1;
        let expected = self.expected_digests.remove(&key);
        let equal = digest.is_some() && digest == expected;
        if let Some(fault) = length_fault(request.op, digest.as_deref(), expected.as_deref()) {
            Resource::release(payload, out);
            return self.fault(fault, out);
        }
        match request.op {
            PeerOp::VerifyRead => self.answer_verify(&request, digest, out),
            PeerOp::VerifyCompare => self.block_compared(&request, equal, out),
            PeerOp::ChecksumOwn => self.ask_by_checksum(&request, digest, out),
            PeerOp::ThinRead if self.is_deallocated(digest.as_deref()) => {
                self.answer_deallocated(&request, out);
            }
            PeerOp::ChecksumRead if equal || self.planted(Bug::ChecksumsAlwaysEqual) => {
                self.answer_equal(&request, out);
            }
            PeerOp::ChecksumRead | PeerOp::ThinRead if payload != PayloadId::NONE => {
                return self.answer_read(&request, IoResult::Done, payload, out);
            }
            PeerOp::ChecksumRead | PeerOp::ThinRead => self.refuse_read(&request, out),
            PeerOp::Write
            | PeerOp::Trim
            | PeerOp::Zeroes { .. }
            | PeerOp::Read
            | PeerOp::ResyncRead
            | PeerOp::ResyncWrite => {}
        }
        Resource::release(payload, out);
    }

    // ---- resync by checksums -------------------------------------------------------------------------------------

    /// P_CSUM_RS_REQUEST.
    pub(super) fn checksum_asked(&mut self, d: usize, asked: DigestRequest, out: &mut Vec<Command>) {
        self.peer_reads_against(d, PeerOp::ChecksumRead, &asked.block, asked.digest, out);
    }

    /// As source: the target has that block as it is here.
    fn answer_equal(&mut self, request: &PeerRequest, out: &mut Vec<Command>) {
        let d = request.device;
        let volume = self.devices[d].volume;
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let seq = peer_device.next_sequence();
        let PeerRequest { sector, bytes, block_id, .. } = *request;
        if let Some(resync) = peer_device.resync.as_deref_mut() {
            resync.found_equal(bytes);
        }
        self.send_control(volume, Packet::RsIsInSync(BlockAck { sector, block_id, bytes, seq }), out);
        self.clear_mirrored(d, sector, bytes, out);
    }

    /// As target: reads what this node has of a block it lacks, to ask with its digest.
    pub(super) fn read_for_checksum(&mut self, d: usize, block: &BlockRequest, out: &mut Vec<Command>) {
        let session = self.session_number().expect("a resync runs in a session");
        let request = PeerRequest::read(d, session, PeerOp::ChecksumOwn, block);
        self.enter_peer_request(request, false, out);
    }

    fn ask_by_checksum(&mut self, request: &PeerRequest, digest: Option<Box<[u8]>>, out: &mut Vec<Command>) {
        let PeerRequest { device: d, sector, bytes, block_id, .. } = *request;
        let resync = self.connection.as_mut().and_then(|c| c.peer_devices[d].resync.as_deref_mut());
        if !resync.is_some_and(|resync| resync.digested(sector, bytes)) {
            return;
        }
        let block = BlockRequest { sector, block_id, bytes };
        let packet = match digest {
            Some(digest) => Packet::CsumRsRequest(Box::new(DigestRequest { block, digest })),
            None => Packet::RsDataRequest(block),
        };
        self.send(self.devices[d].volume, packet, out);
    }

    /// As target: the source has that block as it is here (P_RS_IS_IN_SYNC).
    pub(super) fn checksum_equal(
        &mut self,
        d: usize,
        ack: &BlockAck,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        if !peer_device.answers_resync(ack.sector, ack.bytes)? {
            return Ok(());
        }
        if let Some(resync) = peer_device.resync.as_deref_mut() {
            resync.found_equal(ack.bytes);
        }
        self.clear_mirrored(d, ack.sector, ack.bytes, out);
        self.resync_refused(d, ack, false, out);
        if self.devices[d].has_held() {
            self.start_held(d, out);
        }
        Ok(())
    }
}

/// Two digests by one algorithm are equally long.
fn length_fault(op: PeerOp, ours: Option<&[u8]>, theirs: Option<&[u8]>) -> Option<Fault> {
    let (ours, theirs) = (ours?.len(), theirs?.len());
    let name = if op == PeerOp::VerifyCompare { "P_OV_REPLY" } else { "P_CSUM_RS_REQUEST" };
    let senseless =
        Senseless { field: "digest length", got: theirs as u64, why: "not that of the algorithm" };
    (ours != theirs).then(|| senseless.in_packet(name))
}
