//! Every packet at every version, cut anywhere; and bytes that are no packets.

mod packets;
mod refusals;

use super::*;
use crate::wire::{encode, encode_with_integrity, Features};
use packets::{as_received, frames};
use proptest::prelude::*;

/// Versions at which a form of a packet or header begins or ends.
const VERSIONS: [u32; 10] = [86, 87, 88, 90, 94, 95, 97, 99, 100, 101];

fn framer(stream: Stream, version: u32) -> Framer {
    let mut framer = Framer::new();
    framer.set_stream(stream);
    framer.set_version(version);
    framer
}

/// The stream that `frames` make: bulk is a byte that tells how long it is.
fn stream_of(frames: &[Frame], version: u32, integrity: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        encode_with_integrity(frame, version, integrity, &mut bytes);
        let bulk = frame.packet.bulk_bytes();
        bytes.resize(bytes.len() + bulk as usize, (bulk / 512) as u8);
    }
    bytes
}

/// Reads a stream in pieces of the sizes that `piece` says, as a shell does.
fn read(
    framer: &mut Framer,
    mut bytes: &[u8],
    integrity: usize,
    mut piece: impl FnMut(&Framer) -> usize,
) -> Result<Vec<Frame>, Malformed> {
    let mut frames: Vec<Frame> = Vec::new();
    while !bytes.is_empty() {
        let offered = piece(framer).clamp(1, bytes.len());
        let fed = framer.feed(&bytes[..offered])?;
        assert!(fed.frame.is_some() || fed.consumed == offered, "without a packet all is taken");
        bytes = &bytes[fed.consumed..];
        if let Some(frame) = fed.frame {
            let bulk = frame.packet.bulk_bytes() as usize;
            assert!(bytes[..bulk].iter().all(|byte| *byte == (bulk / 512) as u8), "bulk follows its packet");
            bytes = &bytes[bulk..];
            if framer.wanted() == 0 {
                framer.set_integrity_bytes(integrity);
            }
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn stream_and_version() -> impl Strategy<Value = (Stream, u32)> {
    let streams = prop_oneof![Just(Stream::Data), Just(Stream::Control)];
    (streams, prop::sample::select(&VERSIONS[..]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_packet_arrives_as_sent(
        (stream, version, frames) in stream_and_version()
            .prop_flat_map(|(stream, version)| (Just(stream), Just(version), frames(stream, version))),
        integrity in prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 1..=64)],
        pieces in prop::collection::vec(prop_oneof![1usize..40, 1usize..10_000], 1..20),
    ) {
        let bytes = stream_of(&frames, version, &integrity);
        let sent: Vec<Frame> = frames.iter().map(|frame| as_received(frame, version)).collect();

        let mut cut = framer(stream, version);
        cut.set_integrity_bytes(integrity.len());
        let mut next = pieces.iter().cycle();
        let arrived = read(&mut cut, &bytes, integrity.len(), |_| *next.next().expect("a cycle"));
        prop_assert_eq!(arrived.as_ref(), Ok(&sent), "cut anywhere");

        let mut exact = framer(stream, version);
        exact.set_integrity_bytes(integrity.len());
        let arrived = read(&mut exact, &bytes, integrity.len(), Framer::wanted);
        prop_assert_eq!(arrived.as_ref(), Ok(&sent), "read as wanted");
        let last_is_bulk = sent.last().is_some_and(|frame| frame.packet.bulk_bytes() > 0);
        prop_assert!(!last_is_bulk || exact.integrity() == integrity);

        let again = stream_of(&sent, version, &integrity);
        prop_assert_eq!(again, bytes, "what was received is encoded as it came");
    }

    #[test]
    fn no_bytes_panic(
        (stream, version) in stream_and_version(),
        frames in frames(Stream::Data, 101),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let _ = framer(stream, version).feed(&bytes);
        let mut damaged = Vec::new();
        frames.iter().filter(|frame| frame.packet.bulk_bytes() == 0).for_each(|frame| encode(frame, version, &mut damaged));
        for (place, value) in flips {
            if !damaged.is_empty() {
                let place = place.index(damaged.len());
                damaged[place] = value;
            }
        }
        let mut framer = framer(stream, version);
        let mut rest = &damaged[..];
        while let Ok(fed) = framer.feed(rest) {
            rest = &rest[fed.consumed..];
            if framer.wanted() == 0 {
                framer.set_integrity_bytes(0);
            }
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// The first bytes of a session, as section 12 of the reference has them.
#[test]
fn first_packets() {
    let bytes_of = |packet| {
        let mut bytes = Vec::new();
        encode(&Frame { volume: Default::default(), packet }, 101, &mut bytes);
        bytes
    };
    assert_eq!(bytes_of(Packet::InitialData), [0x83, 0x74, 0x02, 0x67, 0xff, 0xf2, 0, 0]);
    assert_eq!(bytes_of(Packet::InitialMeta), [0x83, 0x74, 0x02, 0x67, 0xff, 0xf1, 0, 0]);
    assert_eq!(bytes_of(Packet::Ping), [0x86, 0x20, 0xec, 0x20, 0, 0, 0, 0x13, 0, 0, 0, 0, 0, 0, 0, 0]);
    let features = bytes_of(Packet::Features(Features { protocol_min: 86, flags: 0xf, protocol_max: 101 }));
    assert_eq!(features[..8], [0x83, 0x74, 0x02, 0x67, 0xff, 0xfe, 0, 0x48]);
    assert_eq!(features[8..20], [0, 0, 0, 86, 0, 0, 0, 0xf, 0, 0, 0, 101]);
    assert_eq!((features.len(), features[20..].iter().max()), (80, Some(&0)));
}

/// An accepted socket: the first packet tells the stream, the features stop the reading until a version is agreed.
#[test]
fn opening_of_a_data_stream() {
    let mut bytes = Vec::new();
    let frame = |packet| Frame { volume: Default::default(), packet };
    let features = Features { protocol_min: 86, flags: 0xf, protocol_max: 101 };
    encode(&frame(Packet::InitialData), 101, &mut bytes);
    encode(&frame(Packet::Features(features)), 101, &mut bytes);
    encode(&frame(Packet::UnplugRemote), 101, &mut bytes);

    let mut framer = Framer::new();
    assert_eq!(framer.wanted(), 8);
    let fed = framer.feed(&bytes).expect("an initial packet");
    assert_eq!((fed.consumed, fed.frame), (8, Some(frame(Packet::InitialData))));
    let fed = framer.feed(&bytes[8..]).expect("features");
    assert_eq!((fed.consumed, fed.frame), (80, Some(frame(Packet::Features(features)))));
    let fed = framer.feed(&bytes[88..]).expect("waits");
    assert_eq!((fed.consumed, fed.frame, framer.wanted()), (0, None, 0));
    framer.set_version(101);
    assert_eq!(framer.wanted(), 16);
    let fed = framer.feed(&bytes[88..]).expect("the next packet");
    assert_eq!((fed.consumed, fed.frame), (16, Some(frame(Packet::UnplugRemote))));
}

/// The peer may be done with the features while this node's data stream still lags behind its control stream.
#[test]
fn pings_overtake_the_version() {
    for version in [94, 101] {
        let ping = Frame { volume: Default::default(), packet: Packet::Ping };
        let mut bytes = Vec::new();
        encode(&ping, version, &mut bytes);
        let mut framer = Framer::new();
        framer.set_stream(Stream::Control);
        let (first, second) = bytes.split_at(5);
        assert_eq!(framer.feed(first).expect("a beginning").consumed, 5);
        framer.set_version(version);
        assert_eq!(framer.wanted(), bytes.len() - 5);
        assert_eq!(framer.feed(second).expect("the rest").frame, Some(ping));
    }
}

/// The size of the digest may change with the packet that names its algorithm.
#[test]
fn settings_stop_the_reading_until_the_digest_is_known() {
    let mut settings = packets::settings();
    let mut framer = framer(Stream::Data, 101);
    for (alg, waits) in [("", false), ("sha1", true), ("", true), ("", false)] {
        settings.integrity_alg = alg.to_owned();
        let packet = Packet::ProtocolUpdate(Box::new(settings.clone()));
        let mut bytes = Vec::new();
        encode(&Frame { volume: Default::default(), packet }, 101, &mut bytes);
        assert!(framer.feed(&bytes).expect("settings").frame.is_some());
        assert_eq!(framer.wanted() == 0, waits, "{alg:?}");
        framer.set_integrity_bytes(if alg.is_empty() { 0 } else { 20 });
        assert_eq!(framer.wanted(), 16);
    }
}

/// Flags that a version does not have are not believed.
#[test]
fn flags_of_old_versions() {
    let meant = |version| {
        let mut bytes = Vec::new();
        let data =
            crate::wire::Data { sector: Default::default(), block_id: 0, seq: 1, flags: 0, bytes: 512 };
        encode(&Frame { volume: Default::default(), packet: Packet::Data(data) }, version, &mut bytes);
        let flags = bytes.len() - 4;
        bytes[flags..].copy_from_slice(&0x7ffu32.to_be_bytes());
        match framer(Stream::Data, version).feed(&bytes).expect("data").frame.map(|frame| frame.packet) {
            Some(Packet::Data(data)) => data.flags,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([86, 94, 95, 99, 100, 101].map(meant), [0xe, 0xe, 0x67f, 0x67f, 0x7ff, 0x7ff]);
}
