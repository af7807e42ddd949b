//! Any code as a bitmap: runs ascend within the device; and any bitmap survives coding.

#![no_main]

use drbd_core::wire::bitmap_code::{decode, encode};
use drbd_core::wire::CompressedBitmap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, u8, u32, u32, &[u8])| {
    let (first_run_set, pad_bits, from_bit, bits_total, code) = input;
    let packet = CompressedBitmap { first_run_set, pad_bits, code: code.into() };
    let (from_bit, bits_total) = (u64::from(from_bit), u64::from(bits_total));
    let mut reached = from_bit;
    let _ = decode(&packet, from_bit, bits_total, |first, len| {
        assert!(first >= reached && len > 0 && first + len <= bits_total);
        reached = first + len;
    });

    let words: Vec<u64> =
        code.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    let bits = words.len() as u64 * 64;
    let (mut from, mut back) = (0, vec![0u64; words.len()]);
    while let Some((packet, next)) = encode(&words, bits, from, 4079) {
        let end = decode(&packet, from, bits, |first, len| {
            (first..first + len).for_each(|bit| back[(bit / 64) as usize] |= 1 << (bit % 64));
        });
        assert!(end == Ok(next) && next > from);
        from = next;
    }
    if from == bits {
        assert_eq!(back, words);
    }
});
