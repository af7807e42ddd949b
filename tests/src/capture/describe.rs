//! A packet in words.

use drbd_core::ids::Sector;
use drbd_core::states::{Conn84, ConnectionState};
use drbd_core::wire::state_word::{conn_of, disk_of, peer_disk_of, peer_of, role_of};
use drbd_core::wire::{
    data_flag, feature, uuid_flag, BlockAck, BlockRequest, Data, DigestRequest, Frame, Packet, Settings,
    Sizes, SyncParam, Trim, Uuids, BLOCK_ID_RESYNC,
};
use std::fmt::Display;

/// Name, volume and fields of a packet.
pub fn describe(frame: &Frame) -> String {
    let fields = fields(&frame.packet);
    let volume = match frame.volume.0 {
        0 => String::new(),
        number => format!(" volume {number}"),
    };
    let space = if fields.is_empty() { "" } else { " " };
    format!("{}{volume}{space}{fields}", frame.packet.name())
}

fn fields(packet: &Packet) -> String {
    match packet {
        Packet::InitialData
        | Packet::InitialMeta
        | Packet::UnplugRemote
        | Packet::Ping
        | Packet::PingAck
        | Packet::Ignored => String::new(),
        Packet::Features(f) => {
            let flags = flags(
                f.flags.into(),
                &[
                    (feature::TRIM.into(), "TRIM"),
                    (feature::THIN_RESYNC.into(), "THIN_RESYNC"),
                    (feature::LONG_SIZES.into(), "LONG_SIZES"),
                    (feature::ZEROES.into(), "ZEROES"),
                ],
            );
            format!("versions {}-{}{flags}", f.protocol_min, f.protocol_max)
        }
        Packet::AuthChallenge(bytes) | Packet::AuthResponse(bytes) => hex(bytes),
        Packet::Protocol(settings) | Packet::ProtocolUpdate(settings) => settings_of(settings),
        Packet::SyncParam(p) => sync_param(p),
        Packet::Sizes(sizes) => sizes_of(sizes),
        Packet::Uuids(uuids) => uuids_of(uuids),
        Packet::State(bits) => state(*bits, *bits),
        Packet::SyncUuid(uuid) => format!("{uuid:016X}"),
        Packet::StateChangeRequest { mask, val } | Packet::ConnStateChangeRequest { mask, val } => {
            // A field of the mask is all ones or all zeroes.
            state(*val, *mask)
        }
        Packet::StateChangeReply(code) | Packet::ConnStateChangeReply(code) => format!("result {code}"),
        Packet::Data(data) | Packet::DataReply(data) | Packet::RsDataReply(data) => data_of(data),
        Packet::Trim(trim) | Packet::Zeroes(trim) => trim_of(trim),
        Packet::Barrier(number) => format!("{number}"),
        Packet::BarrierAck { barrier, set_size } => format!("{barrier}, {set_size} writes"),
        Packet::DataRequest(r)
        | Packet::RsDataRequest(r)
        | Packet::RsThinRequest(r)
        | Packet::OvRequest(r) => request(r),
        Packet::CsumRsRequest(r) | Packet::OvReply(r) => digest(r),
        Packet::RsDeallocated(e) | Packet::OutOfSync(e) => extent(e.sector, e.bytes),
        Packet::RecvAck(a)
        | Packet::WriteAck(a)
        | Packet::RsWriteAck(a)
        | Packet::Superseded(a)
        | Packet::RetryWrite(a)
        | Packet::NegAck(a)
        | Packet::NegDreply(a)
        | Packet::NegRsDreply(a)
        | Packet::RsIsInSync(a)
        | Packet::RsCancel(a)
        | Packet::OvResult(a) => ack(a),
        Packet::Bitmap(bytes) => {
            format!("{} bytes, {} bits set", bytes.len(), bytes.iter().map(|b| b.count_ones()).sum::<u32>())
        }
        Packet::CompressedBitmap(c) => format!("{} bytes of run lengths", c.code.len()),
    }
}

/// ` +NAME` for each that is set, and what has no name as a number.
fn flags(mut bits: u64, names: &[(u64, &str)]) -> String {
    let mut text = String::new();
    for (bit, name) in names {
        if bits & bit != 0 {
            text += &format!(" +{name}");
            bits &= !bit;
        }
    }
    if bits != 0 {
        text += &format!(" +{bits:#x}");
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|b| format!("{b:02x}")).collect::<String>()
        + if bytes.len() > 8 { "..." } else { "" }
}

fn extent(sector: Sector, bytes: u32) -> String {
    format!("sector {} {bytes} bytes", sector.0)
}

fn cookie(block_id: u64) -> String {
    if block_id == BLOCK_ID_RESYNC {
        " of the resync".to_owned()
    } else {
        format!(" id {block_id:x}")
    }
}

fn write_flags(bits: u32) -> String {
    flags(
        bits.into(),
        &[
            (data_flag::SYNC.into(), "SYNC"),
            (data_flag::MAY_SET_IN_SYNC.into(), "MAY_SET_IN_SYNC"),
            (data_flag::UNPLUG.into(), "UNPLUG"),
            (data_flag::FUA.into(), "FUA"),
            (data_flag::FLUSH.into(), "FLUSH"),
            (data_flag::DISCARD.into(), "DISCARD"),
            (data_flag::SEND_RECEIVE_ACK.into(), "SEND_RECEIVE_ACK"),
            (data_flag::SEND_WRITE_ACK.into(), "SEND_WRITE_ACK"),
            (data_flag::ZEROES.into(), "ZEROES"),
        ],
    )
}

fn data_of(d: &Data) -> String {
    format!("{}{} seq {}{}", extent(d.sector, d.bytes), cookie(d.block_id), d.seq, write_flags(d.flags))
}

fn trim_of(t: &Trim) -> String {
    format!("{}{} seq {}{}", extent(t.sector, t.bytes), cookie(t.block_id), t.seq, write_flags(t.flags))
}

fn request(r: &BlockRequest) -> String {
    format!("{}{}", extent(r.sector, r.bytes), cookie(r.block_id))
}

fn digest(r: &DigestRequest) -> String {
    format!("{} digest {}", request(&r.block), hex(&r.digest))
}

fn ack(a: &BlockAck) -> String {
    format!("{}{} seq {}", extent(a.sector, a.bytes), cookie(a.block_id), a.seq)
}

fn settings_of(s: &Settings) -> String {
    let protocol = match s.protocol {
        1 => "A".to_owned(),
        2 => "B".to_owned(),
        3 => "C".to_owned(),
        other => other.to_string(),
    };
    let integrity = if s.integrity_alg.is_empty() { "none" } else { &s.integrity_alg };
    let mut text = format!(
        "protocol {protocol} after-sb {}/{}/{} integrity {integrity}",
        s.after_sb_0p, s.after_sb_1p, s.after_sb_2p
    );
    for (set, word) in [
        (s.two_primaries, " two-primaries"),
        (s.discard_my_data, " discard-my-data"),
        (s.tentative, " tentative"),
    ] {
        if set {
            text += word;
        }
    }
    text
}

fn sync_param(p: &SyncParam) -> String {
    format!(
        "rate {} verify \"{}\" csums \"{}\" plan {} delay {} fill {} max {}",
        p.resync_rate,
        p.verify_alg,
        p.csums_alg,
        p.c_plan_ahead,
        p.c_delay_target,
        p.c_fill_target,
        p.c_max_rate
    )
}

fn sizes_of(s: &Sizes) -> String {
    format!(
        "disk {} user {} current {} sectors max-bio {} flags {}",
        s.disk, s.user, s.current, s.max_bio_size, s.flags
    )
}

fn uuids_of(u: &Uuids) -> String {
    let flags = flags(
        u.flags,
        &[
            (uuid_flag::DISCARD_MY_DATA, "DISCARD_MY_DATA"),
            (uuid_flag::CRASHED_PRIMARY, "CRASHED_PRIMARY"),
            (uuid_flag::INCONSISTENT, "INCONSISTENT"),
            (uuid_flag::SKIP_INITIAL_SYNC, "SKIP_INITIAL_SYNC"),
        ],
    );
    format!(
        "{:016X}:{:016X}:{:016X}:{:016X} bits {}{flags}",
        u.current, u.bitmap, u.history[0], u.history[1], u.bits
    )
}

/// As 8.4 calls it.
fn connection(state: Conn84) -> String {
    match state.0 {
        8 => "WFConnection".to_owned(),
        9 => "WFReportParams".to_owned(),
        10 => "Connected".to_owned(),
        _ => match state.split() {
            Some((ConnectionState::Connected, replication)) => replication.to_string(),
            Some((connection, _)) => connection.to_string(),
            None => state.0.to_string(),
        },
    }
}

/// The fields of a state word that are in the mask, as their sender sees them.
fn state(bits: u32, mask: u32) -> String {
    fn named<T: Display>(of: impl Fn(u32) -> Option<T>, bits: u32) -> String {
        of(bits).map_or_else(|| "?".to_owned(), |state| state.to_string())
    }
    let whole = bits == mask;
    let mut text = Vec::new();
    for (lowest, width, name, value) in [
        (0, 2, "role", named(role_of, bits)),
        (2, 2, "peer", named(peer_of, bits)),
        (4, 5, "conn", named(|bits| conn_of(bits).map(connection), bits)),
        (9, 4, "disk", named(disk_of, bits)),
        (13, 4, "pdsk", named(peer_disk_of, bits)),
    ] {
        if whole || mask >> lowest & ((1 << width) - 1) != 0 {
            text.push(format!("{name} {value}"));
        }
    }
    if bits >> 17 != 0 {
        text.push(format!("flags {:#x}", bits >> 17));
    }
    text.join(" ")
}
