//! The wire against the truth: packets captured between two Linux kernels are read, understood and written again
//! byte by byte as they were; damaged ones are refused without a panic.

use drbd_core::ids::VolumeNumber;
use drbd_core::wire::bitmap_code::{self, code_bytes_max};
use drbd_core::wire::state_word::StateWord;
use drbd_core::wire::{encode_with_integrity, feature, Features, Frame, Framer, Malformed, Packet, Stream};

const VERSION: u32 = 101;

/// One direction of one socket.
struct Captured {
    session: String,
    stream: Stream,
    packets: Vec<Vec<u8>>,
}

/// A capture and what is known of it.
struct Capture {
    text: &'static str,
    integrity_alg: &'static str,
    sectors: u64,
}

const CAPTURES: [Capture; 2] = [
    Capture { text: include_str!("../golden/wire/c-cram-24m.txt"), integrity_alg: "", sectors: 49_072 },
    Capture { text: include_str!("../golden/wire/c-secure.txt"), integrity_alg: "crc32c", sectors: 130_992 },
];

/// Towards one peer DRBD 9.3 speaks 8.4's protocol, in its own way.
const WITH_DRBD_9: Capture =
    Capture { text: include_str!("../golden/wire/mixed-84-9.txt"), integrity_alg: "", sectors: 130_992 };

impl Capture {
    fn streams(&self) -> Vec<Captured> {
        let mut streams: Vec<Captured> = Vec::new();
        for line in self.text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(session) = line.strip_prefix("session ") {
                let stream = if session.ends_with("data") { Stream::Data } else { Stream::Control };
                streams.push(Captured { session: session.to_owned(), stream, packets: Vec::new() });
            } else {
                streams.last_mut().expect("a session before its packets").packets.push(from_hex(line));
            }
        }
        streams
    }
}

fn from_hex(line: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
    line.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// What a shell and an engine do about a packet: they tell the framer how to go on.
fn go_on(framer: &mut Framer, packet: &Packet) {
    match packet {
        Packet::Features(_) | Packet::InitialMeta => framer.set_version(VERSION),
        Packet::Protocol(settings) => {
            framer.set_integrity_bytes(if settings.integrity_alg.is_empty() { 0 } else { 4 });
        }
        _ => {}
    }
}

/// The node that dialled sends an initial packet, which tells the stream.
fn framer_of(captured: &Captured) -> Framer {
    let mut framer = Framer::new();
    let initial = [0xff, if captured.stream == Stream::Data { 0xf2 } else { 0xf1 }];
    if captured.packets[0][4..6] != initial {
        framer.set_stream(captured.stream);
    }
    framer
}

/// Reads one packet, `piece` bytes at a time.
fn read(framer: &mut Framer, packet: &[u8], piece: usize) -> Result<Frame, Malformed> {
    let mut at = 0;
    loop {
        assert!(at < packet.len(), "the packet is complete, {} more bytes wanted", framer.wanted());
        let end = packet.len().min(at.saturating_add(piece));
        let fed = framer.feed(&packet[at..end])?;
        at += fed.consumed;
        if let Some(frame) = fed.frame {
            assert_eq!(at, packet.len(), "the packet is longer than {frame:?}");
            return Ok(frame);
        }
    }
}

/// All frames of a stream, with the digests of their bulk.
fn read_all(captured: &Captured, piece: usize) -> Vec<(Frame, Vec<u8>)> {
    let mut framer = framer_of(captured);
    let read_one = |packet: &Vec<u8>| {
        let frame = read(&mut framer, packet, piece);
        let frame =
            frame.unwrap_or_else(|malformed| panic!("{}: {malformed} {packet:02x?}", captured.session));
        let bulk = frame.packet.bulk_bytes() > 0;
        let digest = if bulk { framer.integrity().to_vec() } else { Vec::new() };
        go_on(&mut framer, &frame.packet);
        (frame, digest)
    };
    captured.packets.iter().map(read_one).collect()
}

/// The kernel sends what was in its buffer where p_block_req has padding.
fn without_garbage(packet: &Packet, mut bytes: Vec<u8>) -> Vec<u8> {
    let request = matches!(
        packet,
        Packet::DataRequest(_)
            | Packet::RsDataRequest(_)
            | Packet::RsThinRequest(_)
            | Packet::CsumRsRequest(_)
            | Packet::OvRequest(_)
            | Packet::OvReply(_)
    );
    if request {
        bytes[16 + 20..16 + 24].fill(0);
    }
    bytes
}

#[test]
fn captured_packets_are_written_as_they_were_read() {
    for capture in &CAPTURES {
        for captured in capture.streams() {
            let frames = read_all(&captured, usize::MAX);
            for piece in [1, 7, 24, 33] {
                assert_eq!(read_all(&captured, piece), frames, "{} in pieces of {piece}", captured.session);
            }
            for ((frame, digest), packet) in frames.iter().zip(&captured.packets) {
                let mut bytes = Vec::new();
                encode_with_integrity(frame, VERSION, digest, &mut bytes);
                let expected = without_garbage(&frame.packet, packet.clone());
                assert_eq!(bytes, expected, "{}: {frame:?}", captured.session);
            }
        }
    }
}

#[test]
fn packets_of_drbd_9_are_understood() {
    let no_volume = VolumeNumber(0xffff);
    let (mut skipped, mut demoted) = (0, 0);
    for captured in WITH_DRBD_9.streams() {
        for ((frame, _), packet) in read_all(&captured, 5).iter().zip(&captured.packets) {
            let mut bytes = Vec::new();
            encode_with_integrity(frame, VERSION, &[], &mut bytes);
            let drbd_9 = captured.session.contains("node b");
            match &frame.packet {
                Packet::Ignored => skipped += 1,
                Packet::Features(features) if drbd_9 => {
                    assert_eq!(*features, Features { protocol_min: 86, flags: 0x3ff, protocol_max: 124 });
                }
                Packet::ConnStateChangeRequest { mask: 3, val: 2 } => demoted += 1,
                Packet::Ping | Packet::PingAck | Packet::UnplugRemote if drbd_9 => {
                    assert_eq!(frame.volume, no_volume);
                }
                understood => assert_eq!(bytes, without_garbage(understood, packet.clone()), "{frame:?}"),
            }
        }
    }
    assert_eq!((skipped, demoted), (1, 1), "P_ENABLE_REPLICATION and a demotion of all volumes");
}

#[test]
fn captured_packets_mean_what_the_nodes_were_told() {
    let all = feature::TRIM | feature::THIN_RESYNC | feature::LONG_SIZES | feature::ZEROES;
    for capture in &CAPTURES {
        let mut openings = 0;
        for captured in capture.streams() {
            for (frame, digest) in read_all(&captured, usize::MAX) {
                assert_eq!(frame.volume, VolumeNumber(0));
                match frame.packet {
                    Packet::Features(features) => {
                        openings += 1;
                        assert_eq!(features, Features { protocol_min: 86, flags: all, protocol_max: 101 });
                    }
                    Packet::Protocol(settings) => {
                        assert_eq!((settings.protocol, settings.two_primaries), (3, false));
                        assert_eq!(settings.integrity_alg, capture.integrity_alg);
                    }
                    Packet::SyncParam(param) => {
                        assert_eq!((&*param.verify_alg, &*param.csums_alg), ("crc32c", "crc32c"));
                    }
                    Packet::Sizes(sizes) => {
                        assert!([0, capture.sectors].contains(&sizes.current), "{sizes:?}");
                        assert_eq!(sizes.limits.map(|limits| limits.logical_block_size), Some(512));
                    }
                    Packet::AuthChallenge(challenge) => assert_eq!(challenge.len(), 64),
                    Packet::AuthResponse(response) => assert_eq!(response.len(), 20),
                    Packet::Data(data) | Packet::RsDataReply(data) => {
                        assert!(data.sector.0 + u64::from(data.bytes / 512) <= capture.sectors);
                        assert_eq!(digest.is_empty(), capture.integrity_alg.is_empty());
                    }
                    Packet::State(word) => {
                        assert_eq!(StateWord::from_bits(word).map(StateWord::to_bits), Ok(word));
                    }
                    Packet::StateChangeReply(code) | Packet::ConnStateChangeReply(code) => {
                        assert_eq!(code, 1);
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(openings, 4, "two sessions, two nodes");
    }
}

/// Our encoder makes of the same bitmap the same code as the kernel's.
#[test]
fn captured_bitmaps_are_coded_as_the_kernel_codes_them() {
    let mut bitmaps = 0;
    for capture in &CAPTURES {
        let bits_total = capture.sectors.div_ceil(8);
        for captured in capture.streams() {
            for (frame, _) in read_all(&captured, usize::MAX) {
                let Packet::CompressedBitmap(packet) = frame.packet else { continue };
                let mut words = vec![0u64; bits_total.div_ceil(64) as usize];
                let end = bitmap_code::decode(&packet, 0, bits_total, |first, len| {
                    (first..first + len).for_each(|bit| words[(bit / 64) as usize] |= 1 << (bit % 64));
                });
                assert_eq!(end, Ok(bits_total), "the whole bitmap in one packet");
                let again = bitmap_code::encode(&words, bits_total, 0, code_bytes_max(VERSION));
                assert_eq!(again, Some((*packet, bits_total)));
                bitmaps += 1;
            }
        }
    }
    assert_eq!(bitmaps, 8);
}

/// Splitmix64: the same damage on every run.
struct Damage(u64);

impl Damage {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ value >> 31) % bound as u64) as usize
    }

    /// Changes, removes or adds some bytes.
    fn strike(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let extreme = [0x00, 0x01, 0x7f, 0x80, 0xff][self.below(5)];
        match self.below(5) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = extreme,
            2 => {
                let end = bytes.len().min(at + 1 + self.below(8));
                bytes[at..end].fill(extreme);
            }
            3 => {
                bytes.remove(at);
            }
            _ => bytes.insert(at, extreme),
        }
    }
}

/// Reads to the end of the bytes or of their sense; whatever is understood must be writable again.
fn survive(framer: &mut Framer, mut bytes: &[u8], pieces: &mut Damage) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let piece = bytes.len().min(1 + pieces.below(200));
        let fed = framer.feed(&bytes[..piece])?;
        bytes = &bytes[fed.consumed..];
        let Some(frame) = fed.frame else { continue };
        let mut written = Vec::new();
        encode_with_integrity(&frame, VERSION, framer.integrity(), &mut written);
        if let Packet::CompressedBitmap(packet) = &frame.packet {
            let _ = bitmap_code::decode(packet, 0, 16_374, |first, len| assert!(first + len <= 16_374));
        }
        go_on(framer, &frame.packet);
        assert!(framer.wanted() > 0, "told all it waits for");
    }
    Ok(())
}

#[test]
fn damaged_streams_are_refused_without_a_panic() {
    let streams: Vec<Captured> = CAPTURES.iter().flat_map(Capture::streams).collect();
    let mut damage = Damage(2);
    let mut refused = 0;
    for round in 0..200_000 {
        let captured = &streams[round % streams.len()];
        let from = if round % 3 == 0 { 0 } else { damage.below(captured.packets.len()) };
        let until = captured.packets.len().min(from + 12);
        let mut bytes = captured.packets[from..until].concat();
        for _ in 0..1 + damage.below(3) {
            damage.strike(&mut bytes);
        }
        let mut framer = framer_of(captured);
        if from > 0 {
            framer.set_stream(captured.stream);
            framer.set_version(VERSION);
        }
        if let Err(malformed) = survive(&mut framer, &bytes, &mut damage) {
            refused += 1;
            assert!(malformed.to_string().starts_with("The peer sent a "));
            assert_eq!(framer.feed(&[]).err(), Some(malformed));
        }
    }
    assert!(refused > 50_000, "damage must be noticed, was {refused} times");
}
