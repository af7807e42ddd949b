//! Arbitrary packets of a stream and version, and what becomes of them on the way.

use crate::ids::{Sector, VolumeNumber};
use crate::limits::{DEVICE_SECTORS_MAX, DISCARD_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::wire::decode::flags_meant;
use crate::wire::encode::flags_said;
use crate::wire::header::{control_payload_max, request_bytes_max};
use crate::wire::*;
use proptest::prelude::*;

pub(super) fn settings() -> Settings {
    Settings {
        protocol: 3,
        after_sb_0p: 0,
        after_sb_1p: 0,
        after_sb_2p: 0,
        discard_my_data: false,
        tentative: false,
        two_primaries: false,
        integrity_alg: String::new(),
    }
}

/// What the receiver makes of a packet: a version cannot say everything.
pub(super) fn as_received(frame: &Frame, version: u32) -> Frame {
    let mut frame = frame.clone();
    if version < 100 {
        frame.volume = VolumeNumber(0);
    }
    match &mut frame.packet {
        Packet::Data(data) => data.flags = flags_meant(flags_said(data.flags, version), version),
        Packet::Trim(trim) | Packet::Zeroes(trim) => {
            trim.flags = flags_meant(flags_said(trim.flags, version), version);
        }
        Packet::Protocol(settings) | Packet::ProtocolUpdate(settings) => {
            settings.tentative &= version >= 92;
            if version < 87 {
                settings.integrity_alg.clear();
            }
        }
        Packet::SyncParam(param) => lose_params(param, version),
        Packet::Sizes(sizes) => sizes.max_bio_size = sizes.max_bio_size.min(request_bytes_max(version)),
        Packet::ConnStateChangeRequest { mask, val } if version < 100 => {
            frame.packet = Packet::StateChangeRequest { mask: *mask, val: *val };
        }
        Packet::ConnStateChangeReply(code) if version < 100 => frame.packet = Packet::StateChangeReply(*code),
        Packet::RetryWrite(ack) if version < 100 => frame.packet = Packet::Superseded(*ack),
        _ => {}
    }
    frame
}

fn lose_params(param: &mut SyncParam, version: u32) {
    let full = param.clone();
    *param = SyncParam { resync_rate: full.resync_rate, ..SyncParam::default() };
    if version >= 88 {
        param.verify_alg.clone_from(&full.verify_alg);
    }
    if version >= 89 {
        param.csums_alg.clone_from(&full.csums_alg);
    }
    if version >= 95 {
        *param = full;
    }
}

pub(super) fn frames(stream: Stream, version: u32) -> impl Strategy<Value = Vec<Frame>> {
    let packet = match stream {
        Stream::Data => prop_oneof![opening(), blocks(version), bitmaps(version)].boxed(),
        Stream::Control => control().boxed(),
    };
    let frame =
        (any::<u16>(), packet).prop_map(|(volume, packet)| Frame { volume: VolumeNumber(volume), packet });
    prop::collection::vec(frame, 1..12)
}

/// Packets about nodes and volumes.
fn opening() -> impl Strategy<Value = Packet> {
    let reply = prop_oneof![Just(20usize), 1usize..=64];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 64..=128).prop_map(|bytes| Packet::AuthChallenge(bytes.into())),
        reply.prop_flat_map(bytes).prop_map(Packet::AuthResponse),
        any_settings().prop_map(|settings| Packet::Protocol(Box::new(settings))),
        any_settings().prop_map(|settings| Packet::ProtocolUpdate(Box::new(settings))),
        any_param().prop_map(|param| Packet::SyncParam(Box::new(param))),
        any_sizes().prop_map(|sizes| Packet::Sizes(Box::new(sizes))),
        any::<[u64; 6]>().prop_map(|[current, bitmap, h0, h1, bits, flags]| {
            Packet::Uuids(Box::new(Uuids { current, bitmap, history: [h0, h1], bits, flags }))
        }),
        any::<u32>().prop_map(Packet::State),
        any::<u64>().prop_map(Packet::SyncUuid),
        any::<(u32, u32)>().prop_map(|(mask, val)| Packet::StateChangeRequest { mask, val }),
        any::<(u32, u32)>().prop_map(|(mask, val)| Packet::ConnStateChangeRequest { mask, val }),
    ]
}

/// Packets about blocks.
fn blocks(version: u32) -> impl Strategy<Value = Packet> {
    let data = || {
        let bytes = sizes(request_bytes_max(version).min(48 << 10));
        (sector(), any::<u64>(), any::<(u32, u32)>(), bytes)
            .prop_map(|(sector, block_id, (seq, flags), bytes)| Data { sector, block_id, seq, flags, bytes })
    };
    let trim = || {
        let values = (sector(), any::<u64>(), any::<(u32, u32)>(), sizes(DISCARD_BYTES_MAX));
        values.prop_map(|(sector, block_id, (seq, flags), bytes)| Trim {
            sector,
            block_id,
            seq,
            flags,
            bytes,
        })
    };
    let request = || {
        let values = (sector(), any::<u64>(), sizes(REQUEST_BYTES_MAX));
        values.prop_map(|(sector, block_id, bytes)| BlockRequest { sector, block_id, bytes })
    };
    let digest_request = move || {
        (request(), (1usize..=64).prop_flat_map(bytes))
            .prop_map(|(block, digest)| Box::new(DigestRequest { block, digest }))
    };
    let extent = || (sector(), sizes(DISCARD_BYTES_MAX)).prop_map(|(sector, bytes)| Extent { sector, bytes });
    prop_oneof![
        data().prop_map(Packet::Data),
        data().prop_map(Packet::DataReply),
        data().prop_map(Packet::RsDataReply),
        trim().prop_map(Packet::Trim),
        trim().prop_map(Packet::Zeroes),
        any::<u32>().prop_map(Packet::Barrier),
        Just(Packet::UnplugRemote),
        request().prop_map(Packet::DataRequest),
        request().prop_map(Packet::RsDataRequest),
        request().prop_map(Packet::RsThinRequest),
        request().prop_map(Packet::OvRequest),
        digest_request().prop_map(Packet::CsumRsRequest),
        digest_request().prop_map(Packet::OvReply),
        extent().prop_map(Packet::RsDeallocated),
        extent().prop_map(Packet::OutOfSync),
    ]
}

fn bitmaps(version: u32) -> impl Strategy<Value = Packet> {
    let longest = control_payload_max(version);
    let words = prop_oneof![0..8usize, Just(longest / 8)];
    let code = prop_oneof![1..30usize, Just(longest - 1)];
    prop_oneof![
        words.prop_flat_map(|words| bytes(words * 8)).prop_map(Packet::Bitmap),
        (any::<bool>(), 0u8..8, code.prop_flat_map(bytes)).prop_map(|(first_run_set, pad_bits, code)| {
            Packet::CompressedBitmap(Box::new(CompressedBitmap { first_run_set, pad_bits, code }))
        }),
    ]
}

fn control() -> impl Strategy<Value = Packet> {
    let ack = || {
        let values = (sector(), any::<u64>(), 0..=DISCARD_BYTES_MAX, any::<u32>());
        values.prop_map(|(sector, block_id, bytes, seq)| BlockAck { sector, block_id, bytes, seq })
    };
    prop_oneof![
        Just(Packet::Ping),
        Just(Packet::PingAck),
        ack().prop_map(Packet::RecvAck),
        ack().prop_map(Packet::WriteAck),
        ack().prop_map(Packet::RsWriteAck),
        ack().prop_map(Packet::Superseded),
        ack().prop_map(Packet::RetryWrite),
        ack().prop_map(Packet::NegAck),
        ack().prop_map(Packet::NegDreply),
        ack().prop_map(Packet::NegRsDreply),
        ack().prop_map(Packet::RsIsInSync),
        ack().prop_map(Packet::RsCancel),
        ack().prop_map(Packet::OvResult),
        any::<(u32, u32)>().prop_map(|(barrier, set_size)| Packet::BarrierAck { barrier, set_size }),
        any::<i32>().prop_map(Packet::StateChangeReply),
        any::<i32>().prop_map(Packet::ConnStateChangeReply),
    ]
}

fn sector() -> impl Strategy<Value = Sector> {
    let last = DEVICE_SECTORS_MAX - u64::from(DISCARD_BYTES_MAX / 512);
    prop_oneof![0..4096u64, 0..=last].prop_map(Sector)
}

/// Whole sectors.
fn sizes(most: u32) -> impl Strategy<Value = u32> {
    prop_oneof![Just(8u32), 1..=most / 512].prop_map(|sectors| sectors * 512)
}

fn bytes(length: usize) -> impl Strategy<Value = Box<[u8]>> {
    prop::collection::vec(any::<u8>(), length).prop_map(Vec::into_boxed_slice)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z0-9()-]{1,63}"]
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (any::<[u32; 4]>(), any::<[bool; 3]>(), name()).prop_map(|(numbers, flags, integrity_alg)| Settings {
        protocol: numbers[0],
        after_sb_0p: numbers[1],
        after_sb_1p: numbers[2],
        after_sb_2p: numbers[3],
        discard_my_data: flags[0],
        tentative: flags[1],
        two_primaries: flags[2],
        integrity_alg,
    })
}

fn any_param() -> impl Strategy<Value = SyncParam> {
    (any::<[u32; 5]>(), name(), name()).prop_map(|(numbers, verify_alg, csums_alg)| SyncParam {
        resync_rate: numbers[0],
        verify_alg,
        csums_alg,
        c_plan_ahead: numbers[1],
        c_delay_target: numbers[2],
        c_fill_target: numbers[3],
        c_max_rate: numbers[4],
    })
}

fn any_sizes() -> impl Strategy<Value = Sizes> {
    let limits = (any::<[u32; 5]>(), any::<[bool; 3]>()).prop_map(|(numbers, flags)| QueueLimits {
        physical_block_size: numbers[0],
        logical_block_size: numbers[1],
        alignment_offset: numbers[2],
        io_min: numbers[3],
        io_opt: numbers[4],
        discard_enabled: flags[0],
        discard_zeroes_data: flags[1],
        write_same_capable: flags[2],
    });
    (any::<[u64; 3]>(), any::<u32>(), any::<u16>(), prop::option::of(limits)).prop_map(
        |([disk, user, current], max_bio_size, flags, limits)| Sizes {
            disk,
            user,
            current,
            max_bio_size,
            flags,
            limits,
        },
    )
}
