//! What a hostile peer says in the place of a packet, or besides it.

use crate::sim::Prng;
use drbd_core::ids::{Sector, VolumeNumber};
use drbd_core::wire::{
    BlockAck, BlockRequest, CompressedBitmap, Data, DigestRequest, Extent, Features, Frame, Packet, Settings,
    Sizes, Stream, SyncParam, Trim, Uuids, BLOCK_ID_RESYNC,
};

/// Numbers that were seen on the wire, to lie with.
#[derive(Debug)]
pub(super) struct Words {
    seen: Vec<u64>,
}

const WORDS_MAX: usize = 512;
/// Headers of versions 95 and later say so much.
const BULK_MAX: u32 = 1 << 30;

impl Words {
    pub(super) fn new() -> Words {
        Words { seen: vec![0, 1, 8, 4096, BLOCK_ID_RESYNC] }
    }

    /// Remembers some of what a packet says.
    pub(super) fn learn(&mut self, dice: &mut Prng, packet: &[u8]) {
        for word in packet.chunks_exact(8).skip(1).take(6) {
            let word = u64::from_be_bytes(word.try_into().expect("eight"));
            if self.seen.len() < WORDS_MAX {
                self.seen.push(word);
            } else {
                let at = dice.below(WORDS_MAX as u64) as usize;
                self.seen[at] = word;
            }
        }
    }

    fn word(&self, dice: &mut Prng) -> u64 {
        let seen = self.seen[dice.below(self.seen.len() as u64) as usize];
        match dice.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << dice.below(64),
            3 => seen.wrapping_add(1),
            4 => seen ^ 1 << dice.below(64),
            5 => dice.below(1 << 20),
            _ => seen,
        }
    }

    fn half(&self, dice: &mut Prng) -> u32 {
        let word = self.word(dice);
        if dice.chance(500) {
            word as u32
        } else {
            (word >> 32) as u32
        }
    }

    fn bytes(&self, dice: &mut Prng) -> u32 {
        match dice.below(6) {
            0 => self.half(dice),
            1 => 0,
            2 => 1 << 20,
            3 => 512,
            _ => 4096,
        }
    }

    fn block(&self, dice: &mut Prng) -> BlockRequest {
        let (sector, block_id) = (Sector(self.word(dice)), self.word(dice));
        BlockRequest { sector, block_id, bytes: self.bytes(dice) }
    }

    fn some(&self, dice: &mut Prng, most: u64) -> Box<[u8]> {
        (0..dice.below(most + 1)).map(|_| dice.next() as u8).collect()
    }

    /// A packet of any kind, with fields that make sense or do not. Bulk is not sent behind it: what the other node sends
    /// next is taken for that.
    pub(super) fn packet(&self, dice: &mut Prng, stream: Stream) -> Frame {
        let kind = if dice.chance(900) {
            if stream == Stream::Data {
                dice.below(27)
            } else {
                27 + dice.below(15)
            }
        } else {
            dice.below(42)
        };
        let packet = self.of_kind(dice, kind);
        let volume = VolumeNumber(if dice.chance(900) { 0 } else { self.half(dice) as u16 });
        Frame { volume, packet }
    }

    fn of_kind(&self, dice: &mut Prng, kind: u64) -> Packet {
        let ack = |dice: &mut Prng| {
            let BlockRequest { sector, block_id, bytes } = self.block(dice);
            BlockAck { sector, block_id, bytes, seq: self.half(dice) }
        };
        match kind {
            0 => Packet::InitialData,
            1 => Packet::Features(Features {
                protocol_min: 80 + dice.below(50) as u32,
                flags: self.half(dice),
                protocol_max: 80 + dice.below(50) as u32,
            }),
            2 => Packet::AuthChallenge(self.some(dice, 130)),
            3 => Packet::AuthResponse(self.some(dice, 70)),
            4 => Packet::Protocol(Box::new(self.settings(dice))),
            5 => Packet::ProtocolUpdate(Box::new(self.settings(dice))),
            6 => Packet::SyncParam(Box::new(SyncParam {
                resync_rate: self.half(dice),
                verify_alg: dice.pick(&["", "crc32c", "sha1", "nonsense"]).to_owned(),
                csums_alg: dice.pick(&["", "crc32c", "sha1", "nonsense"]).to_owned(),
                c_plan_ahead: self.half(dice),
                c_delay_target: self.half(dice),
                c_fill_target: self.half(dice),
                c_max_rate: self.half(dice),
            })),
            7 => Packet::Sizes(Box::new(Sizes {
                disk: self.word(dice),
                user: self.word(dice),
                current: self.word(dice),
                max_bio_size: self.half(dice),
                flags: dice.below(8) as u16,
                limits: None,
            })),
            8 => Packet::Uuids(Box::new(Uuids {
                current: self.word(dice),
                bitmap: self.word(dice),
                history: [self.word(dice), self.word(dice)],
                bits: self.word(dice),
                flags: dice.below(32),
            })),
            9 => Packet::State(self.half(dice)),
            10 => Packet::SyncUuid(self.word(dice)),
            11 => Packet::StateChangeRequest { mask: self.half(dice), val: self.half(dice) },
            12 => Packet::ConnStateChangeRequest { mask: self.half(dice), val: self.half(dice) },
            13 => Packet::Data(self.data(dice)),
            14 => Packet::DataReply(self.data(dice)),
            15 => Packet::RsDataReply(self.data(dice)),
            16 => Packet::Trim(self.trim(dice)),
            17 => Packet::Zeroes(self.trim(dice)),
            18 => Packet::Barrier(self.half(dice)),
            19 => Packet::UnplugRemote,
            20 => Packet::DataRequest(self.block(dice)),
            21 => Packet::RsDataRequest(self.block(dice)),
            22 => Packet::RsThinRequest(self.block(dice)),
            23 => {
                let block = self.block(dice);
                let request = DigestRequest { block, digest: self.some(dice, 64) };
                if dice.chance(500) {
                    Packet::CsumRsRequest(Box::new(request))
                } else {
                    Packet::OvReply(Box::new(request))
                }
            }
            24 => Packet::OvRequest(self.block(dice)),
            25 => {
                let (sector, bytes) = (Sector(self.word(dice)), self.bytes(dice));
                if dice.chance(500) {
                    Packet::RsDeallocated(Extent { sector, bytes })
                } else {
                    Packet::OutOfSync(Extent { sector, bytes })
                }
            }
            26 => {
                if dice.chance(500) {
                    Packet::Bitmap(self.some(dice, 4080))
                } else {
                    Packet::CompressedBitmap(Box::new(CompressedBitmap {
                        first_run_set: dice.chance(500),
                        pad_bits: dice.below(8) as u8,
                        code: self.some(dice, 200),
                    }))
                }
            }
            27 => Packet::InitialMeta,
            28 => Packet::StateChangeReply(self.half(dice) as i32),
            29 => Packet::ConnStateChangeReply(self.half(dice) as i32),
            30 => Packet::BarrierAck { barrier: self.half(dice), set_size: dice.below(4) as u32 },
            31 => Packet::RecvAck(ack(dice)),
            32 => Packet::WriteAck(ack(dice)),
            33 => Packet::RsWriteAck(ack(dice)),
            34 => Packet::Superseded(ack(dice)),
            35 => Packet::RetryWrite(ack(dice)),
            36 => Packet::NegAck(ack(dice)),
            37 => Packet::NegDreply(ack(dice)),
            38 => Packet::NegRsDreply(ack(dice)),
            39 => Packet::RsIsInSync(ack(dice)),
            40 => Packet::OvResult(ack(dice)),
            _ => Packet::RsCancel(ack(dice)),
        }
    }

    fn data(&self, dice: &mut Prng) -> Data {
        let BlockRequest { sector, block_id, bytes } = self.block(dice);
        // What a header can say.
        let bytes = bytes % BULK_MAX;
        Data { sector, block_id, seq: self.half(dice), flags: self.half(dice), bytes }
    }

    fn trim(&self, dice: &mut Prng) -> Trim {
        let BlockRequest { sector, block_id, bytes } = self.block(dice);
        Trim { sector, block_id, seq: self.half(dice), flags: self.half(dice), bytes }
    }

    fn settings(&self, dice: &mut Prng) -> Settings {
        Settings {
            protocol: dice.below(5) as u32,
            after_sb_0p: dice.below(12) as u32,
            after_sb_1p: dice.below(12) as u32,
            after_sb_2p: dice.below(12) as u32,
            discard_my_data: dice.chance(300),
            tentative: dice.chance(300),
            two_primaries: dice.chance(300),
            integrity_alg: dice.pick(&["", "crc32c", "sha1", "nonsense"]).to_owned(),
        }
    }

    /// A packet with a field changed: two, four or eight bytes where such a field may be.
    pub(super) fn change_field(&self, dice: &mut Prng, packet: &mut [u8], header: usize) {
        let body = packet.len() - header;
        if body < 2 {
            return;
        }
        let size = dice.pick(&[2_usize, 4, 8]).min(body);
        let at = header + dice.below(((body - size) / size + 1) as u64) as usize * size;
        let word = self.word(dice).to_be_bytes();
        packet[at..at + size].copy_from_slice(&word[8 - size..]);
    }

    /// A packet with another command, volume or length in its header.
    pub(super) fn change_header(&self, dice: &mut Prng, packet: &mut [u8], header: usize) {
        let at = match header {
            8 => dice.pick(&[4, 5, 6, 7]),
            _ => dice.pick(&[4, 5, 6, 7, 7, 7, 8, 9, 10, 11, 12, 15]),
        };
        packet[at] = match dice.below(3) {
            0 => dice.below(0x48) as u8,
            1 => packet[at] ^ 1 << dice.below(8),
            _ => dice.next() as u8,
        };
    }
}
