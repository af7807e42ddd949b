use super::*;
use proptest::prelude::*;

/// Words of a bitmap made of runs, clear first.
fn bitmap(runs: &[u64]) -> (Vec<u64>, u64) {
    let total: u64 = runs.iter().sum();
    let mut words = vec![0u64; total.div_ceil(64) as usize];
    let mut bit = 0;
    for (index, run) in runs.iter().enumerate() {
        if index % 2 == 1 {
            (bit..bit + run).for_each(|bit| words[(bit / 64) as usize] |= 1 << (bit % 64));
        }
        bit += run;
    }
    (words, total)
}

fn collect(
    packet: &CompressedBitmap,
    from_bit: u64,
    bits_total: u64,
    words: &mut [u64],
) -> Result<u64, Malformed> {
    decode(packet, from_bit, bits_total, |first, len| {
        (first..first + len).for_each(|bit| words[(bit / 64) as usize] |= 1 << (bit % 64));
    })
}

/// Encoding byte and code of the whole bitmap, as section 12 of the reference writes them.
fn check(runs: &[u64], encoding: u8, code: &[u8]) {
    let (words, total) = bitmap(runs);
    let (packet, next) = encode(&words, total, 0, code_bytes_max(101)).expect("worth coding");
    assert_eq!(next, total);
    assert_eq!(u8::from(packet.first_run_set) << 7 | packet.pad_bits << 4 | 2, encoding, "{runs:?}");
    assert_eq!(&packet.code[..], code, "{runs:?}");
    let mut back = vec![0; words.len()];
    assert_eq!(collect(&packet, 0, total, &mut back), Ok(total));
    assert_eq!(back, words);
}

#[test]
fn code_words_of_single_runs() {
    let vectors: [(u64, u64, u32); 18] = [
        (1, 0x0, 2),
        (2, 0x2, 2),
        (3, 0x1, 3),
        (4, 0x5, 3),
        (5, 0x3, 5),
        (8, 0x1b, 5),
        (9, 0x7, 7),
        (16, 0x77, 7),
        (17, 0xf, 10),
        (48, 0x3ef, 10),
        (49, 0x1f, 14),
        (304, 0x3fdf, 14),
        (305, 0x3f, 21),
        (8496, 0x1f_ff3f, 21),
        (8497, 0x7f, 29),
        (262_144, 0x3de_cf7f, 29),
        (2_105_648, 0x1fff_ff7f, 29),
        (2_105_649, 0xbf, 42),
    ];
    for (run, code, bits) in vectors {
        assert_eq!(code_of(run), (code, bits), "run of {run}");
        assert_eq!(run_of(code), (run, bits), "code {code:#x}");
        assert_eq!(run_of(code | 0xffff << bits), (run, bits), "code {code:#x} with more behind");
    }
}

#[test]
fn levels_touch_without_gap() {
    for pair in LEVELS.windows(2) {
        assert_eq!(pair[0].first + (1 << pair[0].data_bits), pair[1].first);
    }
}

#[test]
fn bitmaps_of_the_reference() {
    check(&[0, 262_144], 0xb2, &[0x7f, 0xcf, 0xde, 0x03]);
    check(&[1000, 1, 261_143], 0x42, &[0x3f, 0xb7, 0x82, 0x3f, 0x73, 0xed, 0x01]);
    check(&[0, 5, 3, 100, 7, 262_029], 0x82, &[0x23, 0xdf, 0xcc, 0xfc, 0xe3, 0xf2, 0x1e]);
    check(&[0, 6134], 0xb2, &[0x3f, 0xc5, 0x16]);
    check(&[0, 16_374], 0xb2, &[0x7f, 0xc5, 0x1e, 0x00]);
    check(&[2000, 500, 3634], 0x12, &[0x3f, 0x9f, 0xe6, 0x67, 0x18, 0xfc, 0x04, 0x34]);
    check(&[0, 100, 900, 50, 5084], 0xa2, &[0xdf, 0xcc, 0xcf, 0x94, 0xf8, 0x02, 0x7e, 0x56, 0x25]);
    check(&[0, 100, 6034], 0xd2, &[0xdf, 0xcc, 0x4f, 0x98, 0x05]);
    check(&[0, 10, 6124], 0xc2, &[0x97, 0x9f, 0x5d, 0x0b]);
    check(&[0, 4096, 2038], 0xe2, &[0x3f, 0xcf, 0xee, 0xa7, 0xd8, 0x00]);
}

#[test]
fn what_plain_words_say_shorter_is_not_coded() {
    let words = [0x5555_5555_5555_5555; 64];
    assert_eq!(encode(&words, 4096, 0, code_bytes_max(101)), None);
    assert_eq!(encode(&words, 4096, 4096, code_bytes_max(101)), None);
    assert_eq!(encode(&[], 0, 0, code_bytes_max(101)), None);
}

#[test]
fn chunk_sizes() {
    assert_eq!((plain_chunk_words(101), plain_chunk_words(99)), (510, 511));
    assert_eq!((code_bytes_max(101), code_bytes_max(94)), (4079, 4087));
}

#[test]
fn nonsense_is_malformed() {
    let packet =
        |pad_bits, code: &[u8]| CompressedBitmap { first_run_set: true, pad_bits, code: code.into() };
    let (full, total) = (packet(3, &[0x7f, 0xcf, 0xde, 0x03]), 262_144);
    let field = |packet: &CompressedBitmap, total| decode(packet, 0, total, |_, _| ()).unwrap_err().field;
    assert_eq!(field(&full, total - 1), "run beyond the end of the device, at block");
    assert_eq!(field(&packet(4, &full.code), total), "code that ends within a run, at bit");
    assert_eq!(field(&packet(8, &full.code), total), "padding");
    assert_eq!(field(&packet(1, &[]), total), "padding");
    assert!(decode(&full, 1, total, |_, _| ()).is_err());
    assert!(decode(&full, u64::MAX, total, |_, _| ()).is_err());
}

proptest! {
    #[test]
    fn any_bitmap_crosses_in_any_packets(
        runs in prop::collection::vec(prop_oneof![1u64..20, 1u64..3000, 1u64..200_000], 1..200),
        max_bytes in 8usize..300,
    ) {
        let (words, total) = bitmap(&runs);
        let mut back = vec![0; words.len()];
        let mut from = 0;
        while from < total {
            if let Some((packet, next)) = encode(&words, total, from, max_bytes) {
                prop_assert!(packet.code.len() <= max_bytes && next > from);
                prop_assert!((next - from) as usize >= packet.code.len() * 8);
                prop_assert_eq!(collect(&packet, from, total, &mut back), Ok(next));
                from = next;
            } else {
                let word = (from / 64) as usize;
                let end = words.len().min(word + max_bytes / 8);
                (word..end).for_each(|word| back[word] |= words[word]);
                from = end as u64 * 64;
            }
        }
        prop_assert_eq!(back, words);
    }

    #[test]
    fn no_code_panics_or_leaves_the_bitmap(
        first_run_set: bool,
        pad_bits: u8,
        code in prop::collection::vec(any::<u8>(), 0..64),
        from_bit in 0u64..1 << 20,
        bits_total in 0u64..1 << 40,
    ) {
        let packet = CompressedBitmap { first_run_set, pad_bits, code: code.into() };
        let mut reached = from_bit;
        let result = decode(&packet, from_bit, bits_total, |first, len| {
            assert!(first >= reached && len > 0 && first + len <= bits_total);
            reached = first + len;
        });
        if let Ok(next) = result {
            prop_assert!(next >= reached && (next <= bits_total || next == from_bit));
        }
    }
}
