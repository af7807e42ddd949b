//! Whether an answer of the peer answers anything: acknowledgements of writes and barriers, and reads.

use super::request::PeerProgress;
use super::transfer::Ack;
use crate::engine::event::UpperOp;
use crate::engine::resource::Resource;
use crate::engine::senseless::{senseless, Senseless};
use crate::ids::Sector;
use crate::states::Protocol;
use crate::wire::BlockAck;

impl Resource {
    /// The write an acknowledgement is for.
    pub(super) fn awaits_ack(&self, d: usize, ack: &BlockAck, how: Ack) -> Result<u32, Senseless> {
        let key = ack.block_id as u32;
        let write = self
            .requests
            .find(key)
            .filter(|r| r.block_id(key) == ack.block_id && r.is_write() && r.device == d);
        let Some(write) = write else {
            return senseless("block_id", ack.block_id, "no write that waits for an acknowledgement");
        };
        if write.sector != ack.sector {
            return senseless("sector", ack.sector.0, "not that of the write");
        }
        if write.bytes != ack.bytes {
            return senseless("blksize", ack.bytes.into(), "not that of the write");
        }
        if how == Ack::Received && write.protocol != Protocol::B {
            return senseless("block_id", ack.block_id, "a write that is not acknowledged by its receipt");
        }
        let turned_away = matches!(how, Ack::Superseded | Ack::Retry);
        if turned_away && !self.may_be_turned_away(write) {
            return senseless("block_id", ack.block_id, "a write that the peer may not turn away");
        }
        let due = match write.peer {
            PeerProgress::Sent => true,
            // Under A and B its being sent or received came first, and what became of it on the disk follows.
            PeerProgress::Acknowledged => write.protocol != Protocol::C && how != Ack::Received,
            PeerProgress::NotReplicated
            | PeerProgress::Failed
            | PeerProgress::Frozen
            | PeerProgress::Postponed
            | PeerProgress::Lost
            | PeerProgress::Stable => false,
        };
        if !due {
            return senseless("block_id", ack.block_id, "a write that was acknowledged before");
        }
        Ok(key)
    }

    /// How many writes a barrier's acknowledgement is for.
    pub(super) fn awaits_barrier_ack(&self, barrier: u32, set_size: u32) -> Result<usize, Senseless> {
        let connection = self.connection.as_deref().expect("an ack comes from a peer");
        let log = &connection.transfer_log;
        let members = log.iter().take_while(|&&k| self.requests[k].epoch == barrier).count();
        if members == 0 || barrier == connection.epoch {
            return senseless("barrier", barrier.into(), "no barrier that waits for its acknowledgement");
        }
        if members as u32 != set_size {
            return senseless("set_size", set_size.into(), "not the number of writes before that barrier");
        }
        let unanswered = log.iter().take(members).any(|&key| {
            let write = &self.requests[key];
            // Under A the barrier may overtake the report that a packet was sent.
            write.peer == PeerProgress::Sent && write.protocol != Protocol::A
        });
        if unanswered {
            return senseless("barrier", barrier.into(), "acknowledged before a write of its epoch");
        }
        Ok(members)
    }

    /// The read an answer is for.
    pub(super) fn awaits_read(
        &self,
        d: usize,
        block_id: u64,
        sector: Sector,
        bytes: u32,
    ) -> Result<u32, Senseless> {
        let key = block_id as u32;
        let asked = self.connection.as_deref().is_some_and(|c| c.remote_reads.contains(&key));
        let read = self
            .requests
            .find(key)
            .filter(|r| asked && r.op == UpperOp::Read && r.block_id(key) == block_id && r.device == d);
        let Some(read) = read else {
            return senseless("block_id", block_id, "no read that waits for an answer");
        };
        if read.sector != sector {
            return senseless("sector", sector.0, "not that of the read");
        }
        if read.bytes != bytes {
            return senseless("size", bytes.into(), "not that of the read");
        }
        Ok(key)
    }
}
