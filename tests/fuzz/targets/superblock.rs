//! Any 4 KiB as a super block on any device: no panic; what is accepted is written back as it was understood, and its
//! parts lie within the device.

#![no_main]

use drbd_core::metadata::{older_format, Index, Place, SuperBlock};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u64, u8)| {
    let (bytes, device_bytes, kind) = input;
    let mut block = [0; 4096];
    let len = bytes.len().min(4096);
    block[..len].copy_from_slice(&bytes[..len]);
    // Most inputs should come past the magic.
    if kind & 0x80 == 0 {
        block[60..64].copy_from_slice(&(0x8374_026B + u32::from(kind) % 3).to_be_bytes());
    }
    let _ = older_format(&block);
    let Ok(Some(super_block)) = SuperBlock::decode(&block) else { return };
    let mut again = [0; 4096];
    super_block.encode(&mut again);
    assert_eq!(SuperBlock::decode(&again), Ok(Some(super_block.clone())));
    let index = match kind % 3 {
        0 => Index::Internal,
        1 => Index::FlexExternal,
        _ => Index::Indexed(kind),
    };
    if let Ok(place) = Place::of(&super_block, index, device_bytes, device_bytes) {
        for (offset, len) in [
            (place.super_block_offset_bytes, 4096),
            (place.log_offset_bytes, place.log_bytes),
            (place.bitmap_offset_bytes, place.bitmap_bytes),
        ] {
            assert!(offset + len <= device_bytes);
        }
    }
});
