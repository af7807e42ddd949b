//! Bytes of a fixed part to a packet. Lengths were checked against the table of commands; here are the values.

use super::encode::{CONN_DISCARD_MY_DATA, CONN_DRY_RUN, RLE_VLI};
use super::header::{Command, BLOCK_BYTES, STRING_MAX};
use super::{
    data_flag, BlockAck, BlockRequest, CompressedBitmap, Data, DigestRequest, Extent, Features, Malformed,
    Packet, QueueLimits, Settings, Sizes, SyncParam, Trim, Uuids,
};
use crate::ids::Sector;
use crate::limits::{DEVICE_SECTORS_MAX, DISCARD_BYTES_MAX, REQUEST_BYTES_MAX};

/// The packet whose fixed part is `body` (without data-integrity digest) and whose bulk has `bulk` bytes.
#[inline]
pub(super) fn decode(command: Command, body: &[u8], bulk: u32, version: u32) -> Result<Packet, Malformed> {
    let mut fields = Fields { command, rest: body };
    Ok(match command {
        Command::InitialData => Packet::InitialData,
        Command::InitialMeta => Packet::InitialMeta,
        Command::Features => Packet::Features(fields.features()),
        Command::AuthChallenge => Packet::AuthChallenge(body.into()),
        Command::AuthResponse => Packet::AuthResponse(body.into()),
        Command::Protocol => Packet::Protocol(Box::new(fields.settings(version)?)),
        Command::ProtocolUpdate => Packet::ProtocolUpdate(Box::new(fields.settings(version)?)),
        Command::SyncParam | Command::SyncParam89 => Packet::SyncParam(Box::new(fields.sync_param(version)?)),
        Command::Sizes => Packet::Sizes(Box::new(fields.sizes())),
        Command::Uuids => Packet::Uuids(Box::new(fields.uuids())),
        Command::State => Packet::State(fields.u32()),
        Command::SyncUuid => Packet::SyncUuid(fields.u64()),
        Command::StateChgReq => Packet::StateChangeRequest { mask: fields.u32(), val: fields.u32() },
        Command::ConnStChgReq => Packet::ConnStateChangeRequest { mask: fields.u32(), val: fields.u32() },
        Command::StateChgReply => Packet::StateChangeReply(fields.u32() as i32),
        Command::ConnStChgReply => Packet::ConnStateChangeReply(fields.u32() as i32),
        Command::Data => {
            let mut data = fields.data(bulk)?;
            data.flags = flags_meant(data.flags, version);
            Packet::Data(data)
        }
        Command::DataReply => Packet::DataReply(fields.data(bulk)?),
        Command::RsDataReply => Packet::RsDataReply(fields.data(bulk)?),
        Command::Trim => Packet::Trim(fields.trim(version)?),
        Command::Zeroes => Packet::Zeroes(fields.trim(version)?),
        Command::Barrier => Packet::Barrier(fields.u32()),
        Command::BarrierAck => Packet::BarrierAck { barrier: fields.u32(), set_size: fields.u32() },
        Command::UnplugRemote => Packet::UnplugRemote,
        Command::DataRequest => Packet::DataRequest(fields.request()?),
        Command::RsDataRequest => Packet::RsDataRequest(fields.request()?),
        Command::RsThinReq => Packet::RsThinRequest(fields.request()?),
        Command::CsumRsRequest => Packet::CsumRsRequest(Box::new(fields.digest_request()?)),
        Command::OvRequest => Packet::OvRequest(fields.request()?),
        Command::OvReply => Packet::OvReply(Box::new(fields.digest_request()?)),
        Command::RsDeallocated => Packet::RsDeallocated(fields.extent()?),
        Command::OutOfSync => Packet::OutOfSync(fields.extent()?),
        Command::RecvAck => Packet::RecvAck(fields.ack()?),
        Command::WriteAck => Packet::WriteAck(fields.ack()?),
        Command::RsWriteAck => Packet::RsWriteAck(fields.ack()?),
        Command::Superseded => Packet::Superseded(fields.ack()?),
        Command::RetryWrite => Packet::RetryWrite(fields.ack()?),
        Command::NegAck => Packet::NegAck(fields.ack()?),
        Command::NegDreply => Packet::NegDreply(fields.ack()?),
        Command::NegRsDreply => Packet::NegRsDreply(fields.ack()?),
        Command::RsIsInSync => Packet::RsIsInSync(fields.ack()?),
        Command::RsCancel => Packet::RsCancel(fields.ack()?),
        Command::OvResult => Packet::OvResult(fields.ack()?),
        Command::Ping => Packet::Ping,
        Command::PingAck => Packet::PingAck,
        Command::Bitmap => Packet::Bitmap(bitmap_words(body)?),
        Command::CompressedBitmap => Packet::CompressedBitmap(Box::new(compressed(body)?)),
        Command::DelayProbe | Command::EnableRep | Command::EnableRepNext => Packet::Ignored,
    })
}

/// What flags received from a peer of that version mean: below 95 only the two oldest and the hint to unplug have a
/// meaning, below 100 acks are not asked for by flag.
pub(super) const fn flags_meant(flags: u32, version: u32) -> u32 {
    match version {
        0..=94 => flags & (data_flag::SYNC | data_flag::MAY_SET_IN_SYNC | data_flag::UNPLUG),
        95..=99 => flags & !(data_flag::SEND_RECEIVE_ACK | data_flag::SEND_WRITE_ACK),
        _ => flags,
    }
}

/// Takes integers and strings off the front of a body whose length was checked.
struct Fields<'a> {
    command: Command,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.rest.split_first_chunk().expect("the table of commands checked the length");
        self.rest = rest;
        *head
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    fn features(&mut self) -> Features {
        Features { protocol_min: self.u32(), flags: self.u32(), protocol_max: self.u32() }
    }

    fn settings(&mut self, version: u32) -> Result<Settings, Malformed> {
        let length = self.rest.len() as u64;
        let [protocol, after_sb_0p, after_sb_1p, after_sb_2p, conn_flags, two_primaries] =
            std::array::from_fn(|_| self.u32());
        let integrity_alg = match version {
            0..=86 if self.rest.is_empty() => String::new(),
            0..=86 => return Err(self.command.malformed("length", length)),
            _ => text(self.command, "integrity_alg", self.rest)?,
        };
        Ok(Settings {
            protocol,
            after_sb_0p,
            after_sb_1p,
            after_sb_2p,
            discard_my_data: conn_flags & CONN_DISCARD_MY_DATA != 0,
            tentative: conn_flags & CONN_DRY_RUN != 0,
            two_primaries: two_primaries != 0,
            integrity_alg,
        })
    }

    fn sync_param(&mut self, version: u32) -> Result<SyncParam, Malformed> {
        let length = self.rest.len();
        let fits = match version {
            0..=87 => length == 4,
            88 => (4 + 1..=4 + STRING_MAX).contains(&length),
            89..=94 => length == 4 + 2 * STRING_MAX,
            _ => length == 4 + 2 * STRING_MAX + 16,
        };
        if !fits {
            return Err(self.command.malformed("length", length as u64));
        }
        let mut param = SyncParam { resync_rate: self.u32(), ..SyncParam::default() };
        match version {
            0..=87 => {}
            88 => param.verify_alg = text(self.command, "verify_alg", self.rest)?,
            _ => {
                param.verify_alg = text(self.command, "verify_alg", &self.take::<STRING_MAX>())?;
                param.csums_alg = text(self.command, "csums_alg", &self.take::<STRING_MAX>())?;
            }
        }
        if version >= 95 {
            param.c_plan_ahead = self.u32();
            param.c_delay_target = self.u32();
            param.c_fill_target = self.u32();
            param.c_max_rate = self.u32();
        }
        Ok(param)
    }

    fn sizes(&mut self) -> Sizes {
        Sizes {
            disk: self.u64(),
            user: self.u64(),
            current: self.u64(),
            max_bio_size: self.u32(),
            flags: self.u32() as u16, // the upper half is queue_order_type, without meaning
            limits: (!self.rest.is_empty()).then(|| self.limits()),
        }
    }

    fn limits(&mut self) -> QueueLimits {
        let [physical_block_size, logical_block_size, alignment_offset, io_min, io_opt] =
            std::array::from_fn(|_| self.u32());
        let [discard_enabled, discard_zeroes_data, write_same_capable, _] =
            self.take().map(|byte: u8| byte != 0);
        QueueLimits {
            physical_block_size,
            logical_block_size,
            alignment_offset,
            io_min,
            io_opt,
            discard_enabled,
            discard_zeroes_data,
            write_same_capable,
        }
    }

    fn uuids(&mut self) -> Uuids {
        Uuids {
            current: self.u64(),
            bitmap: self.u64(),
            history: [self.u64(), self.u64()],
            bits: self.u64(),
            flags: self.u64(),
        }
    }

    fn data(&mut self, bulk: u32) -> Result<Data, Malformed> {
        let (sector, block_id) = (self.u64(), self.u64());
        let (seq, flags) = (self.u32(), self.u32());
        Ok(Data { sector: self.place(sector, bulk)?, block_id, seq, flags, bytes: bulk })
    }

    fn trim(&mut self, version: u32) -> Result<Trim, Malformed> {
        let (sector, block_id) = (self.u64(), self.u64());
        let (seq, flags) = (self.u32(), flags_meant(self.u32(), version));
        let bytes = self.size(DISCARD_BYTES_MAX)?;
        Ok(Trim { sector: self.place(sector, bytes)?, block_id, seq, flags, bytes })
    }

    fn request(&mut self) -> Result<BlockRequest, Malformed> {
        let (sector, block_id) = (self.u64(), self.u64());
        let bytes = self.size(REQUEST_BYTES_MAX)?;
        Ok(BlockRequest { sector: self.place(sector, bytes)?, block_id, bytes })
    }

    fn digest_request(&mut self) -> Result<DigestRequest, Malformed> {
        let digest = self.rest[BLOCK_BYTES..].into();
        Ok(DigestRequest { block: self.request()?, digest })
    }

    fn extent(&mut self) -> Result<Extent, Malformed> {
        let sector = self.u64();
        let bytes = self.size(DISCARD_BYTES_MAX)?;
        Ok(Extent { sector: self.place(sector, bytes)?, bytes })
    }

    /// Acks name what this node sent, so their size and cookie are judged by what is outstanding.
    fn ack(&mut self) -> Result<BlockAck, Malformed> {
        let (sector, block_id) = (self.u64(), self.u64());
        let (bytes, seq) = (self.u32(), self.u32());
        Ok(BlockAck { sector: self.place(sector, bytes)?, block_id, bytes, seq })
    }

    /// A size in bytes: whole sectors, at least one, at most `most`.
    fn size(&mut self, most: u32) -> Result<u32, Malformed> {
        match self.u32() {
            bytes if bytes == 0 || bytes > most || bytes % 512 != 0 => {
                Err(self.command.malformed("size", u64::from(bytes)))
            }
            bytes => Ok(bytes),
        }
    }

    /// The sector where `bytes` begin, on a device of the largest size at least.
    fn place(&self, sector: u64, bytes: u32) -> Result<Sector, Malformed> {
        match sector.checked_add(u64::from(bytes.div_ceil(512))) {
            Some(end) if end <= DEVICE_SECTORS_MAX => Ok(Sector(sector)),
            _ => Err(self.command.malformed("sector", sector)),
        }
    }
}

/// The name of an algorithm: printable ASCII up to a NUL, which must be there.
fn text(command: Command, field: &'static str, bytes: &[u8]) -> Result<String, Malformed> {
    let Some(end) = bytes.iter().position(|&byte| byte == 0) else {
        return Err(command.malformed(field, bytes.len() as u64));
    };
    match bytes[..end].iter().find(|byte| !byte.is_ascii_graphic()) {
        Some(&byte) => Err(command.malformed(field, u64::from(byte))),
        None => Ok(bytes[..end].iter().map(|&byte| char::from(byte)).collect()),
    }
}

/// Plain chunks are whole 64-bit words.
fn bitmap_words(body: &[u8]) -> Result<Box<[u8]>, Malformed> {
    if body.len() % 8 != 0 {
        return Err(Command::Bitmap.malformed("length", body.len() as u64));
    }
    Ok(body.into())
}

fn compressed(body: &[u8]) -> Result<CompressedBitmap, Malformed> {
    let encoding = body[0];
    if encoding & 0x0f != RLE_VLI {
        return Err(Command::CompressedBitmap.malformed("encoding", u64::from(encoding)));
    }
    Ok(CompressedBitmap {
        first_run_set: encoding & 0x80 != 0,
        pad_bits: encoding >> 4 & 7,
        code: body[1..].into(),
    })
}
