//! Packets to bytes.
//!
//! A version that cannot say something says the nearest thing it can: flags it does not know are left out, a request
//! of the whole connection becomes one of the volume (below 100), a retry of a conflicting write becomes "superseded".

use super::header::{
    header_bytes, request_bytes_max, Command, Header, HeaderKind, DIGEST_MAX, HEADER_LONG, STRING_MAX,
};
use super::{
    data_flag, BlockAck, BlockRequest, CompressedBitmap, Data, DigestRequest, Extent, Features, Frame,
    Packet, QueueLimits, Settings, Sizes, SyncParam, Trim, Uuids,
};

/// Low bits of the first byte of P_COMPRESSED_BITMAP: the only code there is.
pub(super) const RLE_VLI: u8 = 2;
/// conn_flags of P_PROTOCOL.
pub(super) const CONN_DISCARD_MY_DATA: u32 = 1;
/// conn_flags of P_PROTOCOL, from version 92 on.
pub(super) const CONN_DRY_RUN: u32 = 2;

/// Appends header and fixed part of a packet to `out`; the caller sends the bulk ([`Packet::bulk_bytes`]) after it.
/// [`Packet::Ignored`] is never sent: nothing is appended.
pub fn encode(frame: &Frame, version: u32, out: &mut Vec<u8>) {
    encode_with_integrity(frame, version, &[], out);
}

/// As [`encode`], with the data-integrity digest of the bulk, which precedes it on the stream. Packets without bulk
/// have none, whatever is given.
pub fn encode_with_integrity(frame: &Frame, version: u32, integrity: &[u8], out: &mut Vec<u8>) {
    let Some(command) = command_of(&frame.packet, version) else { return };
    let header_version = if command.is_opening() { 80 } else { version };
    let start = out.len();
    let body = start + header_bytes(header_version);
    out.extend_from_slice(&[0; HEADER_LONG][..body - start]);
    put_body(&frame.packet, version, out);
    let bulk = frame.packet.bulk_bytes();
    if bulk > 0 {
        assert!(integrity.len() <= DIGEST_MAX, "a digest of {} bytes", integrity.len());
        out.extend_from_slice(integrity);
    }
    let length = (out.len() - body) as u32 + bulk;
    let kind = HeaderKind::of(header_version, length);
    let header = Header { kind, volume: frame.volume, command: command as u16, length };
    header.write(&mut out[start..body]);
}

/// The flags of [`data_flag`] that `version` can say.
pub(super) const fn flags_said(flags: u32, version: u32) -> u32 {
    const ACKS: u32 = data_flag::SEND_RECEIVE_ACK | data_flag::SEND_WRITE_ACK;
    const HINTS: u32 = data_flag::SYNC | data_flag::UNPLUG;
    match version {
        0..=94 if flags & HINTS != 0 => data_flag::SYNC,
        0..=94 => 0,
        95..=99 => flags & !ACKS,
        _ => flags,
    }
}

impl Packet {
    /// Its name, as in drbd_protocol.h.
    pub fn name(&self) -> &'static str {
        command_of(self, crate::limits::PROTOCOL_MAX).map_or("P_DELAY_PROBE", Command::name)
    }
}

fn command_of(packet: &Packet, version: u32) -> Option<Command> {
    Some(match packet {
        Packet::InitialData => Command::InitialData,
        Packet::InitialMeta => Command::InitialMeta,
        Packet::Features(_) => Command::Features,
        Packet::AuthChallenge(_) => Command::AuthChallenge,
        Packet::AuthResponse(_) => Command::AuthResponse,
        Packet::Protocol(_) => Command::Protocol,
        Packet::ProtocolUpdate(_) => Command::ProtocolUpdate,
        Packet::SyncParam(_) if version < 89 => Command::SyncParam,
        Packet::SyncParam(_) => Command::SyncParam89,
        Packet::Sizes(_) => Command::Sizes,
        Packet::Uuids(_) => Command::Uuids,
        Packet::State(_) => Command::State,
        Packet::SyncUuid(_) => Command::SyncUuid,
        Packet::ConnStateChangeRequest { .. } if version >= 100 => Command::ConnStChgReq,
        Packet::StateChangeRequest { .. } | Packet::ConnStateChangeRequest { .. } => Command::StateChgReq,
        Packet::ConnStateChangeReply(_) if version >= 100 => Command::ConnStChgReply,
        Packet::StateChangeReply(_) | Packet::ConnStateChangeReply(_) => Command::StateChgReply,
        Packet::Data(_) => Command::Data,
        Packet::DataReply(_) => Command::DataReply,
        Packet::RsDataReply(_) => Command::RsDataReply,
        Packet::Trim(_) => Command::Trim,
        Packet::Zeroes(_) => Command::Zeroes,
        Packet::Barrier(_) => Command::Barrier,
        Packet::BarrierAck { .. } => Command::BarrierAck,
        Packet::UnplugRemote => Command::UnplugRemote,
        Packet::DataRequest(_) => Command::DataRequest,
        Packet::RsDataRequest(_) => Command::RsDataRequest,
        Packet::RsThinRequest(_) => Command::RsThinReq,
        Packet::CsumRsRequest(_) => Command::CsumRsRequest,
        Packet::OvRequest(_) => Command::OvRequest,
        Packet::OvReply(_) => Command::OvReply,
        Packet::RsDeallocated(_) => Command::RsDeallocated,
        Packet::OutOfSync(_) => Command::OutOfSync,
        Packet::RecvAck(_) => Command::RecvAck,
        Packet::WriteAck(_) => Command::WriteAck,
        Packet::RsWriteAck(_) => Command::RsWriteAck,
        Packet::RetryWrite(_) if version >= 100 => Command::RetryWrite,
        Packet::Superseded(_) | Packet::RetryWrite(_) => Command::Superseded,
        Packet::NegAck(_) => Command::NegAck,
        Packet::NegDreply(_) => Command::NegDreply,
        Packet::NegRsDreply(_) => Command::NegRsDreply,
        Packet::RsIsInSync(_) => Command::RsIsInSync,
        Packet::RsCancel(_) => Command::RsCancel,
        Packet::OvResult(_) => Command::OvResult,
        Packet::Ping => Command::Ping,
        Packet::PingAck => Command::PingAck,
        Packet::Bitmap(_) => Command::Bitmap,
        Packet::CompressedBitmap(_) => Command::CompressedBitmap,
        Packet::Ignored => return None,
    })
}

fn put_body(packet: &Packet, version: u32, out: &mut Vec<u8>) {
    match packet {
        Packet::InitialData | Packet::InitialMeta | Packet::UnplugRemote => {}
        Packet::Ping | Packet::PingAck | Packet::Ignored => {}
        Packet::Features(features) => put_features(*features, out),
        Packet::AuthChallenge(bytes) | Packet::AuthResponse(bytes) | Packet::Bitmap(bytes) => {
            out.extend_from_slice(bytes);
        }
        Packet::Protocol(settings) | Packet::ProtocolUpdate(settings) => put_settings(settings, version, out),
        Packet::SyncParam(param) => put_sync_param(param, version, out),
        Packet::Sizes(sizes) => put_sizes(sizes, version, out),
        Packet::Uuids(uuids) => put_uuids(uuids, out),
        Packet::State(word) => put_u32(out, *word),
        Packet::SyncUuid(uuid) => put_u64(out, *uuid),
        Packet::StateChangeRequest { mask, val } | Packet::ConnStateChangeRequest { mask, val } => {
            put_u32(out, *mask);
            put_u32(out, *val);
        }
        Packet::StateChangeReply(code) | Packet::ConnStateChangeReply(code) => put_u32(out, *code as u32),
        Packet::Data(data) => put_data(*data, flags_said(data.flags, version), out),
        Packet::DataReply(data) | Packet::RsDataReply(data) => put_data(*data, data.flags, out),
        Packet::Trim(trim) | Packet::Zeroes(trim) => put_trim(*trim, version, out),
        Packet::Barrier(barrier) => {
            put_u32(out, *barrier);
            put_u32(out, 0);
        }
        Packet::BarrierAck { barrier, set_size } => {
            put_u32(out, *barrier);
            put_u32(out, *set_size);
        }
        Packet::DataRequest(block)
        | Packet::RsDataRequest(block)
        | Packet::RsThinRequest(block)
        | Packet::OvRequest(block) => put_request(*block, out),
        Packet::CsumRsRequest(request) | Packet::OvReply(request) => put_digest_request(request, out),
        Packet::RsDeallocated(extent) | Packet::OutOfSync(extent) => put_extent(*extent, out),
        Packet::RecvAck(ack)
        | Packet::WriteAck(ack)
        | Packet::RsWriteAck(ack)
        | Packet::Superseded(ack)
        | Packet::RetryWrite(ack)
        | Packet::NegAck(ack)
        | Packet::NegDreply(ack)
        | Packet::NegRsDreply(ack)
        | Packet::RsIsInSync(ack)
        | Packet::RsCancel(ack)
        | Packet::OvResult(ack) => put_ack(*ack, out),
        Packet::CompressedBitmap(bitmap) => put_compressed(bitmap, out),
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// A string padded with NULs to `width` bytes.
fn put_string(out: &mut Vec<u8>, text: &str, width: usize) {
    assert!(text.len() < width && width <= STRING_MAX, "{text:?} does not fit into {width} bytes");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(&[0; STRING_MAX][..width - text.len()]);
}

fn put_features(features: Features, out: &mut Vec<u8>) {
    put_u32(out, features.protocol_min);
    put_u32(out, features.flags);
    put_u32(out, features.protocol_max);
    out.extend_from_slice(&[0; 60]);
}

fn put_settings(settings: &Settings, version: u32, out: &mut Vec<u8>) {
    let mut conn_flags = 0;
    if settings.discard_my_data {
        conn_flags |= CONN_DISCARD_MY_DATA;
    }
    if settings.tentative && version >= 92 {
        conn_flags |= CONN_DRY_RUN;
    }
    put_u32(out, settings.protocol);
    put_u32(out, settings.after_sb_0p);
    put_u32(out, settings.after_sb_1p);
    put_u32(out, settings.after_sb_2p);
    put_u32(out, conn_flags);
    put_u32(out, u32::from(settings.two_primaries));
    if version >= 87 {
        put_string(out, &settings.integrity_alg, settings.integrity_alg.len() + 1);
    }
}

fn put_sync_param(param: &SyncParam, version: u32, out: &mut Vec<u8>) {
    put_u32(out, param.resync_rate);
    match version {
        0..=87 => {}
        88 => put_string(out, &param.verify_alg, param.verify_alg.len() + 1),
        _ => {
            put_string(out, &param.verify_alg, STRING_MAX);
            put_string(out, &param.csums_alg, STRING_MAX);
        }
    }
    if version >= 95 {
        put_u32(out, param.c_plan_ahead);
        put_u32(out, param.c_delay_target);
        put_u32(out, param.c_fill_target);
        put_u32(out, param.c_max_rate);
    }
}

fn put_sizes(sizes: &Sizes, version: u32, out: &mut Vec<u8>) {
    put_u64(out, sizes.disk);
    put_u64(out, sizes.user);
    put_u64(out, sizes.current);
    put_u32(out, sizes.max_bio_size.min(request_bytes_max(version)));
    put_u32(out, u32::from(sizes.flags)); // queue_order_type, always 0, is the upper half
    if let Some(limits) = &sizes.limits {
        put_limits(limits, out);
    }
}

fn put_limits(limits: &QueueLimits, out: &mut Vec<u8>) {
    put_u32(out, limits.physical_block_size);
    put_u32(out, limits.logical_block_size);
    put_u32(out, limits.alignment_offset);
    put_u32(out, limits.io_min);
    put_u32(out, limits.io_opt);
    out.push(u8::from(limits.discard_enabled));
    out.push(u8::from(limits.discard_zeroes_data));
    out.push(u8::from(limits.write_same_capable));
    out.push(0);
}

fn put_uuids(uuids: &Uuids, out: &mut Vec<u8>) {
    for word in [uuids.current, uuids.bitmap, uuids.history[0], uuids.history[1], uuids.bits, uuids.flags] {
        put_u64(out, word);
    }
}

fn put_data(data: Data, flags: u32, out: &mut Vec<u8>) {
    put_u64(out, data.sector.0);
    put_u64(out, data.block_id);
    put_u32(out, data.seq);
    put_u32(out, flags);
}

fn put_trim(trim: Trim, version: u32, out: &mut Vec<u8>) {
    put_u64(out, trim.sector.0);
    put_u64(out, trim.block_id);
    put_u32(out, trim.seq);
    put_u32(out, flags_said(trim.flags, version));
    put_u32(out, trim.bytes);
}

fn put_request(block: BlockRequest, out: &mut Vec<u8>) {
    put_u64(out, block.sector.0);
    put_u64(out, block.block_id);
    put_u32(out, block.bytes);
    put_u32(out, 0);
}

fn put_digest_request(request: &DigestRequest, out: &mut Vec<u8>) {
    assert!((1..=DIGEST_MAX).contains(&request.digest.len()), "a digest of {} bytes", request.digest.len());
    put_request(request.block, out);
    out.extend_from_slice(&request.digest);
}

fn put_extent(extent: Extent, out: &mut Vec<u8>) {
    put_u64(out, extent.sector.0);
    put_u32(out, extent.bytes);
    put_u32(out, 0);
}

fn put_ack(ack: BlockAck, out: &mut Vec<u8>) {
    put_u64(out, ack.sector.0);
    put_u64(out, ack.block_id);
    put_u32(out, ack.bytes);
    put_u32(out, ack.seq);
}

fn put_compressed(bitmap: &CompressedBitmap, out: &mut Vec<u8>) {
    assert!(bitmap.pad_bits < 8, "{} bits of padding in a byte", bitmap.pad_bits);
    out.push(u8::from(bitmap.first_run_set) << 7 | bitmap.pad_bits << 4 | RLE_VLI);
    out.extend_from_slice(&bitmap.code);
}

#[cfg(test)]
mod tests;
