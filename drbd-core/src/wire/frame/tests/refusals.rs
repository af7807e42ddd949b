//! Packets that must be refused, each with the field that is wrong.

use super::framer;
use crate::limits::DEVICE_SECTORS_MAX;
use crate::wire::header::{Carrier, Command, Size};
use crate::wire::{Framer, Malformed, Stream};

/// A packet of version 101: volume 0, the payload as given.
fn packet(command: u16, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x86, 0x20, 0xec, 0x20, 0, 0];
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

fn refusal(stream: Stream, bytes: &[u8]) -> Option<Malformed> {
    framer(stream, 101).feed(bytes).err()
}

fn stream_of(command: Command) -> Stream {
    match command.carrier() {
        Carrier::Control => Stream::Control,
        Carrier::Data | Carrier::Either => Stream::Data,
    }
}

/// p_data with sector, size in the fifth place of p_block_req and p_trim alike where it matters.
fn block(sector: u64, tail: &[u32]) -> Vec<u8> {
    let mut bytes = sector.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0xff; 8]);
    tail.iter().for_each(|word| bytes.extend_from_slice(&word.to_be_bytes()));
    bytes
}

#[test]
fn lengths_are_those_of_the_table() {
    for &command in Command::ALL {
        if command.is_opening() {
            continue;
        }
        for length in 0..5000u32 {
            let fits = match command.size() {
                Size::Exactly(bytes) => length == u32::from(bytes),
                Size::Either(short, long) => [short, long].map(u32::from).contains(&length),
                Size::Within(least, most) => (u32::from(least)..=u32::from(most).min(4080)).contains(&length),
                Size::Bulk => length > 24 && (length - 24) % 512 == 0,
            };
            let refused = refusal(stream_of(command), &packet(command as u16, length, &[]));
            assert_eq!(
                refused.is_none(),
                fits || refused.is_some_and(|it| it.field != "length"),
                "{command:?} {length}"
            );
        }
    }
}

#[test]
fn commands_stay_on_their_stream() {
    let (mut unknown, mut data, mut control) = (0, 0, 0);
    for number in 0..=u16::MAX {
        let refused = |stream| refusal(stream, &packet(number, u32::MAX, &[])).expect("never that long");
        let fields = [refused(Stream::Data).field, refused(Stream::Control).field];
        match fields {
            ["command", "command"] => unknown += 1,
            ["length", "command on the control stream"] => data += 1,
            ["command on the data stream", "length"] => control += 1,
            ["length", "length"] => assert_eq!(number, 0x27, "only delay probes are on both"),
            _ => assert!(number >= 0xfff1, "{number:#x}: {fields:?}"),
        }
    }
    assert_eq!((data, control), (31, 16));
    assert_eq!(unknown, 0x10000 - 31 - 16 - 1 - 3);
}

#[test]
fn headers_of_other_versions() {
    let h80 = [0x83, 0x74, 0x02, 0x67, 0, 0x07, 0, 0];
    let h95 = [0x83, 0x5a, 0, 0x07, 0, 0, 0, 0];
    let h100 = packet(0x07, 0, &[]);
    let accepts = |version, bytes: &[u8]| {
        framer(Stream::Data, version).feed(bytes).is_ok_and(|fed| fed.frame.is_some())
    };
    for (version, expected) in
        [(94, [true, false, false]), (95, [true, true, false]), (100, [false, false, true])]
    {
        let accepted = [accepts(version, &h80), accepts(version, &h95), accepts(version, &h100)];
        assert_eq!(accepted, expected, "version {version}");
    }
    let mut padded = h100.clone();
    padded[15] = 1;
    assert_eq!(refusal(Stream::Data, &padded).map(|it| it.field), Some("pad"));
    assert_eq!(refusal(Stream::Data, b"GET / HTTP/1.1").map(|it| it.field), Some("magic"));
}

#[test]
fn only_the_opening_before_a_version() {
    let h80 = |command: u16| {
        let [high, low] = command.to_be_bytes();
        [0x83, 0x74, 0x02, 0x67, high, low, 0, 0]
    };
    let field = |framer: &mut Framer, command| framer.feed(&h80(command)).map(|fed| fed.frame.is_some());
    let mut fresh = Framer::new();
    let refused = field(&mut fresh, 0x13).unwrap_err();
    assert_eq!(refused.field, "command at this point of the stream");
    assert_eq!(field(&mut fresh, 0xfff2), Err(refused), "a malformed packet is the end");
    let mut data = Framer::new();
    assert_eq!(field(&mut data, 0xfff2), Ok(true));
    assert!(field(&mut data, 0x07).is_err());
    let mut control = Framer::new();
    assert_eq!(field(&mut control, 0xfff1), Ok(true));
    assert_eq!(field(&mut control, 0x13), Ok(true));
    assert!(refusal(Stream::Data, &packet(0xfff2, 0, &[])).is_some(), "not again later");
}

#[test]
fn blocks_lie_on_a_device() {
    let field = |command: u16, payload: &[u8]| {
        let bytes = packet(command, payload.len() as u32, payload);
        refusal(Stream::Data, &bytes).map(|malformed| malformed.field)
    };
    let (request, trim) = (0x09, 0x31);
    assert_eq!(field(request, &block(0, &[1 << 20, 0])), None);
    for size in [0, 511, 513, (1 << 20) + 512, u32::MAX] {
        assert_eq!(field(request, &block(0, &[size, 0])), Some("size"), "{size}");
    }
    assert_eq!(field(trim, &block(0, &[0, 0, 128 << 20])), None);
    for size in [0, 512 + 1, (128 << 20) + 512] {
        assert_eq!(field(trim, &block(0, &[0, 0, size])), Some("size"), "{size}");
    }
    assert_eq!(field(request, &block(DEVICE_SECTORS_MAX - 8, &[4096, 0])), None);
    for sector in [DEVICE_SECTORS_MAX - 7, u64::MAX - 7, u64::MAX] {
        assert_eq!(field(request, &block(sector, &[4096, 0])), Some("sector"), "{sector}");
    }
    let data = |bulk: u32, sector| refusal(Stream::Data, &packet(0, 24 + bulk, &block(sector, &[1, 0])));
    assert_eq!(data(1 << 20, 0), None);
    for bulk in [0, 100, (1 << 20) + 512] {
        assert_eq!(data(bulk, 0).map(|it| it.field), Some("length"));
    }
    assert_eq!(data(512, DEVICE_SECTORS_MAX).map(|it| it.field), Some("sector"));
}

#[test]
fn strings_and_bitmaps() {
    let field = |command: u16, payload: &[u8]| {
        let bytes = packet(command, payload.len() as u32, payload);
        refusal(Stream::Data, &bytes).map(|malformed| malformed.field)
    };
    let settings = |name: &[u8]| [&[0; 24][..], name].concat();
    assert_eq!(field(0x0b, &settings(b"sha1\0")), None);
    assert_eq!(field(0x0b, &settings(b"sha1")), Some("integrity_alg"));
    assert_eq!(field(0x0b, &settings(b"\xffsha1\0")), Some("integrity_alg"));
    assert_eq!(field(0x0b, &settings(b"")), Some("integrity_alg"));
    let mut param = vec![0; 148];
    assert_eq!(field(0x23, &param), None);
    assert_eq!(field(0x23, &param[..132]), Some("length"));
    param[68..132].fill(b'a');
    assert_eq!(field(0x23, &param), Some("csums_alg"));
    assert_eq!(field(0x04, &[0; 12]), Some("length"));
    assert_eq!(field(0x04, &[0; 4080]), None);
    assert_eq!(field(0x04, &[0; 4088]), Some("length"));
    assert_eq!(field(0x24, &[2, 0]), None);
    assert_eq!(field(0x24, &[1, 0]), Some("encoding"));
}

#[test]
fn what_is_skipped() {
    for (command, payload) in [(0x27, &[0; 8][..]), (0x58, &[1, 0, 0, 0]), (0x59, &[1, 0, 0, 0])] {
        let fed =
            framer(Stream::Data, 101).feed(&packet(command, payload.len() as u32, payload)).expect("known");
        assert_eq!(fed.frame.map(|frame| frame.packet), Some(crate::wire::Packet::Ignored));
    }
}

#[test]
fn sentences() {
    let refused = refusal(Stream::Data, &packet(0x0d, 33, &[])).expect("never so long");
    assert_eq!(refused.to_string(), "The peer sent a P_SIZES that makes no sense: its length is 33 (0x21).");
}
