//! The captured peer where it answers: the engine asks for other pieces than the captured node did, and has cookies of
//! its own.

use super::compare::extent;
use super::node::{Node, VOLUME};
use crate::capture::Seen;
use drbd_core::ids::Sector;
use drbd_core::wire::{data_flag, BlockAck, BlockRequest, Data, DigestRequest, Frame, Packet, Stream};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// What the captured nodes found out about blocks, and what the engine is owed.
pub(super) struct Answers {
    /// Sectors that the captured node got as equal in a checksum resync.
    peer_found_equal: HashSet<Sector>,
    /// ... and sectors the captured node told its peer to be equal.
    found_equal: HashSet<Sector>,
    /// Digests of the captured node's blocks in a verify, by their first sector and their length in bytes.
    own_digests: HashMap<(Sector, u32), Vec<u8>>,
    /// Writes since the last barrier of the engine.
    writes: u32,
    seq: u32,
}

impl Answers {
    pub(super) fn of(seen: &[Seen], me: IpAddr) -> Answers {
        let mut answers = Answers {
            peer_found_equal: HashSet::new(),
            found_equal: HashSet::new(),
            own_digests: HashMap::new(),
            writes: 0,
            seq: 0,
        };
        for packet in seen {
            let Ok(frame) = &packet.what else { continue };
            let mine = packet.from.ip() == me;
            match (&frame.packet, extent(&frame.packet)) {
                (Packet::RsIsInSync(_), Some(extent)) => {
                    let sectors = extent.sector.0..extent.sector.0 + u64::from(extent.bytes) / 512;
                    let set = if mine { &mut answers.found_equal } else { &mut answers.peer_found_equal };
                    set.extend(sectors.map(Sector));
                }
                (Packet::OvReply(r), _) if mine => {
                    answers.own_digests.insert((r.block.sector, r.block.bytes), r.digest.to_vec());
                }
                _ => {}
            }
        }
        answers
    }

    pub(super) fn end_session(&mut self) {
        self.writes = 0;
    }

    /// Whether a packet of the captured peer is an answer, which the engine gets from here.
    pub(super) fn is_one(&self, packet: &Packet) -> bool {
        matches!(
            packet,
            Packet::RsDataReply(_)
                | Packet::RsIsInSync(_)
                | Packet::OvReply(_)
                | Packet::RecvAck(_)
                | Packet::WriteAck(_)
                | Packet::BarrierAck { .. }
                | Packet::PingAck
        )
    }

    /// A packet of the captured peer is about to arrive that makes the engine look at its disk.
    pub(super) fn prepare(&self, packet: &Packet, node: &mut Node) {
        match packet {
            Packet::CsumRsRequest(request) => {
                // Equal if the captured node said so.
                let BlockRequest { sector, bytes, .. } = request.block;
                if self.found_equal.contains(&sector) {
                    node.digests.insert((sector, bytes), request.digest.to_vec());
                } else {
                    node.digests.remove(&(sector, bytes));
                }
            }
            Packet::OvRequest(BlockRequest { sector, bytes, .. }) => {
                if let Some(digest) = self.own_digests.get(&(*sector, *bytes)) {
                    node.digests.insert((*sector, *bytes), digest.clone());
                }
            }
            _ => {}
        }
    }

    /// What the peer answers the engine, where, and the digest of the bulk.
    pub(super) fn to(&mut self, frame: &Frame, node: &mut Node) -> Option<(Stream, Frame, Vec<u8>)> {
        let (stream, packet) = match &frame.packet {
            Packet::Ping => (Stream::Control, Packet::PingAck),
            Packet::Data(d) => {
                (Stream::Control, self.written(d.flags, d.sector, d.block_id, d.bytes, d.seq)?)
            }
            Packet::Trim(t) | Packet::Zeroes(t) => {
                (Stream::Control, self.written(t.flags, t.sector, t.block_id, t.bytes, t.seq)?)
            }
            Packet::Barrier(barrier) => {
                let set_size = std::mem::take(&mut self.writes);
                (Stream::Control, Packet::BarrierAck { barrier: *barrier, set_size })
            }
            Packet::RsDataRequest(block) => (Stream::Data, reply(*block)),
            Packet::CsumRsRequest(request) => {
                let block = request.block;
                if self.peer_found_equal.contains(&block.sector) {
                    self.seq += 1;
                    let BlockRequest { sector, block_id, bytes } = block;
                    let ack = BlockAck { sector, block_id, bytes, seq: self.seq };
                    (Stream::Control, Packet::RsIsInSync(ack))
                } else {
                    (Stream::Data, reply(block))
                }
            }
            Packet::OvRequest(block) => {
                // Blocks of these captures never differ.
                let digest = vec![7; 4];
                node.digests.insert((block.sector, block.bytes), digest.clone());
                let request = DigestRequest { block: *block, digest: digest.into() };
                (Stream::Data, Packet::OvReply(Box::new(request)))
            }
            _ => return None,
        };
        Some((stream, Frame { volume: VOLUME, packet }, vec![1; 4]))
    }

    fn written(&mut self, flags: u32, sector: Sector, block_id: u64, bytes: u32, seq: u32) -> Option<Packet> {
        self.writes += 1;
        let ack = BlockAck { sector, block_id, bytes, seq };
        if flags & data_flag::SEND_WRITE_ACK != 0 {
            Some(Packet::WriteAck(ack))
        } else if flags & data_flag::SEND_RECEIVE_ACK != 0 {
            Some(Packet::RecvAck(ack))
        } else {
            None
        }
    }
}

fn reply(block: BlockRequest) -> Packet {
    let BlockRequest { sector, block_id, bytes } = block;
    Packet::RsDataReply(Data { sector, block_id, seq: 0, flags: 0, bytes })
}
