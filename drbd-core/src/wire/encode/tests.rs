//! What each version says, written down byte by byte (the round trips cannot see an error made on both sides).

use super::*;
use crate::ids::{Sector, VolumeNumber};
use crate::wire::header::request_bytes_max;

fn bytes_of(packet: Packet, version: u32) -> Vec<u8> {
    let mut bytes = vec![0xee];
    encode(&Frame { volume: VolumeNumber(3), packet }, version, &mut bytes);
    assert_eq!(bytes.remove(0), 0xee, "appended");
    bytes
}

fn command_and_length(packet: Packet, version: u32) -> (u16, usize) {
    let bytes = bytes_of(packet, version);
    let at = if version >= 100 { 6 } else { 4 };
    (u16::from_be_bytes([bytes[at], bytes[at + 1]]), bytes.len() - header_bytes(version))
}

fn data(bytes: u32, flags: u32) -> Packet {
    Packet::Data(Data { sector: Sector(0x0102), block_id: 0x1122_3344_5566_7788, seq: 7, flags, bytes })
}

#[test]
fn headers_by_version_and_length() {
    let header = |bytes, version, length: usize| bytes_of(data(bytes, 0), version)[..length].to_vec();
    assert_eq!(header(4096, 94, 8), [0x83, 0x74, 0x02, 0x67, 0, 0, 0x10, 0x18]);
    assert_eq!(header(32 << 10, 94, 8), [0x83, 0x74, 0x02, 0x67, 0, 0, 0x80, 0x18]);
    assert_eq!(header(4096, 95, 8), [0x83, 0x74, 0x02, 0x67, 0, 0, 0x10, 0x18]);
    assert_eq!(header(32 << 10, 95, 8), [0x83, 0x5a, 0, 0, 0, 0, 0x80, 0x18]);
    assert_eq!(header(128 << 10, 99, 8), [0x83, 0x5a, 0, 0, 0, 2, 0, 0x18]);
    let long = [0x86, 0x20, 0xec, 0x20, 0, 3, 0, 0, 0, 0, 0x10, 0x18, 0, 0, 0, 0];
    assert_eq!(header(4096, 100, 16), long);
    assert_eq!(
        (HeaderKind::of(95, 32 << 10), HeaderKind::of(95, (32 << 10) + 1)),
        (HeaderKind::H80, HeaderKind::H95)
    );
}

#[test]
fn fixed_part_of_data() {
    let mut bytes = Vec::new();
    let frame = Frame { volume: VolumeNumber(0), packet: data(512, 0x1b2) };
    encode_with_integrity(&frame, 101, &[0xaa, 0xbb], &mut bytes);
    assert_eq!(bytes[8..12], [0, 0, 2, 26], "length counts digest and bulk");
    let expected = [
        &[0, 0, 0, 0, 0, 0, 1, 2][..],
        &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88],
        &[0, 0, 0, 7],
        &[0, 0, 1, 0xb2],
        &[0xaa, 0xbb],
    ];
    assert_eq!(bytes[16..], expected.concat());
}

#[test]
fn flags_a_version_can_say() {
    let all = 0x7fe;
    let said = |flags, version| {
        let bytes = bytes_of(data(512, flags), version);
        u32::from_be_bytes(*bytes.last_chunk().expect("flags are last"))
    };
    assert_eq!([86, 94, 95, 99, 100, 101].map(|version| said(all, version)), [2, 2, 0x67e, 0x67e, all, all]);
    assert_eq!(said(data_flag::UNPLUG, 94), 2, "an old peer has one hint");
    assert_eq!(said(data_flag::FUA | data_flag::SEND_WRITE_ACK, 94), 0);
    let trim = Trim { sector: Sector(0), block_id: 0, seq: 0, flags: 0x142, bytes: 512 };
    assert_eq!(bytes_of(Packet::Trim(trim), 99)[28..], [0, 0, 0, 0x42, 0, 0, 2, 0]);
}

#[test]
fn sync_params_grow() {
    let param =
        SyncParam { verify_alg: "sha1".to_owned(), csums_alg: "md5".to_owned(), ..SyncParam::default() };
    let form = |version| command_and_length(Packet::SyncParam(Box::new(param.clone())), version);
    assert_eq!([86, 87, 88].map(form), [(0x0a, 4), (0x0a, 4), (0x0a, 9)]);
    assert_eq!([89, 94, 95, 101].map(form), [(0x23, 132), (0x23, 132), (0x23, 148), (0x23, 148)]);
    let bytes = bytes_of(Packet::SyncParam(Box::new(param)), 101);
    assert_eq!(bytes[16..25], [0, 0, 0, 250, b's', b'h', b'a', b'1', 0]);
    assert_eq!(bytes[84..88], *b"md5\0");
    assert_eq!(bytes[148..], [0, 0, 0, 20, 0, 0, 0, 10, 0, 0, 0, 100, 0, 1, 0x90, 0]);
}

#[test]
fn settings_by_version() {
    let settings = Settings {
        protocol: 3,
        after_sb_0p: 4,
        after_sb_1p: 8,
        after_sb_2p: 0,
        discard_my_data: true,
        tentative: true,
        two_primaries: true,
        integrity_alg: "md5".to_owned(),
    };
    let body = |version| {
        bytes_of(Packet::Protocol(Box::new(settings.clone())), version)[header_bytes(version)..].to_vec()
    };
    let words = |conn_flags| {
        [[0, 0, 0, 3], [0, 0, 0, 4], [0, 0, 0, 8], [0; 4], [0, 0, 0, conn_flags], [0, 0, 0, 1]].concat()
    };
    assert_eq!(body(86), words(1));
    assert_eq!(body(87), [words(1), b"md5\0".to_vec()].concat());
    assert_eq!(body(91), body(87));
    assert_eq!(body(92), [words(3), b"md5\0".to_vec()].concat());
}

#[test]
fn what_old_versions_have_no_word_for() {
    let ack = BlockAck { sector: Sector(0), block_id: 0, bytes: 512, seq: 1 };
    let request = Packet::ConnStateChangeRequest { mask: 0x1f0, val: 0x10 };
    for (packet, new, old) in [
        (request, 0x2a, 0x12),
        (Packet::ConnStateChangeReply(1), 0x2b, 0x1d),
        (Packet::RetryWrite(ack), 0x2c, 0x18),
    ] {
        assert_eq!(command_and_length(packet.clone(), 100).0, new);
        assert_eq!(command_and_length(packet, 99).0, old);
    }
    assert_eq!(bytes_of(Packet::Ignored, 101), Vec::<u8>::new());
}

#[test]
fn sizes_in_both_forms() {
    let mut sizes = Sizes {
        disk: 1,
        user: 2,
        current: 3,
        max_bio_size: 1 << 20,
        flags: 2,
        limits: Some(QueueLimits::default()),
    };
    let form = |sizes: Sizes| command_and_length(Packet::Sizes(Box::new(sizes)), 101);
    assert_eq!(form(sizes), (0x0d, 56));
    sizes.limits = None;
    assert_eq!(form(sizes), (0x0d, 32));
    let tail =
        |version| bytes_of(Packet::Sizes(Box::new(sizes)), version)[header_bytes(version) + 24..].to_vec();
    assert_eq!(tail(94), [0, 0, 0x80, 0, 0, 0, 0, 2]);
    assert_eq!(tail(95), [0, 2, 0, 0, 0, 0, 0, 2]);
    assert_eq!(tail(101), [0, 0x10, 0, 0, 0, 0, 0, 2]);
    assert_eq!([94, 99, 100].map(request_bytes_max), [32 << 10, 128 << 10, 1 << 20]);
}

#[test]
fn replies_are_two_s_complement() {
    assert_eq!(bytes_of(Packet::StateChangeReply(-19), 101)[16..], [0xff, 0xff, 0xff, 0xed]);
}
