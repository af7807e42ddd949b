//! Any bytes, in any pieces, as one direction of a socket: no panic, and what is understood is understood again.

#![no_main]

use drbd_core::wire::{encode_with_integrity, Framer, Packet, Stream};
use libfuzzer_sys::fuzz_target;

/// Versions at which a form of a packet or header begins or ends.
const VERSIONS: [u32; 10] = [86, 87, 88, 90, 94, 95, 97, 99, 100, 101];

fuzz_target!(|input: (u8, u8, u8, &[u8])| {
    let (choice, piece, integrity, mut bytes) = input;
    let version = VERSIONS[usize::from(choice >> 1) % VERSIONS.len()];
    let stream = if choice & 1 == 0 { Stream::Data } else { Stream::Control };
    let mut framer = Framer::new();
    if choice & 0x80 == 0 {
        framer.set_stream(stream);
        framer.set_version(version);
        framer.set_integrity_bytes(usize::from(integrity % 65));
    }
    while !bytes.is_empty() {
        let offered = bytes.len().min(usize::from(piece) + 1);
        let Ok(fed) = framer.feed(&bytes[..offered]) else { return };
        bytes = &bytes[fed.consumed..];
        let Some(frame) = fed.frame else { continue };
        if !matches!(frame.packet, Packet::Ignored) {
            let mut written = Vec::new();
            encode_with_integrity(&frame, version, framer.integrity(), &mut written);
            assert!(!written.is_empty() && written.len() <= 4096);
        }
        let bulk = frame.packet.bulk_bytes() as usize;
        bytes = &bytes[bulk.min(bytes.len())..];
        framer.set_version(version);
        if framer.wanted() == 0 {
            framer.set_integrity_bytes(usize::from(integrity % 65));
        }
    }
});
