use super::*;
use proptest::prelude::*;

fn encode(area: &BitmapArea, slots: &[Vec<u64>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in 0..area.blocks() {
        let mut out = [0xEE; BLOCK_BYTES];
        area.encode_block(slots, block, &mut out);
        bytes.extend_from_slice(&out);
    }
    bytes
}

#[test]
fn two_slots_are_those_of_the_sample() {
    let area = BitmapArea { slots: 2, bits: 130_944 / 8 };
    let mut slots = vec![vec![0; area.words() as usize]; 2];
    slots[0][..2].copy_from_slice(&[0xFF, 0x8000_0000_0000_0001]);
    slots[1][0] = 0x0000_0FF0_0000_0000;
    let bytes = encode(&area, &slots);
    let golden = [0xff00_0000_u32, 0, 0, 0xf00f_0000, 0x0100_0000, 0, 0x0000_0080, 0];
    let golden: Vec<u8> = golden.iter().flat_map(|word| word.to_be_bytes()).collect();
    assert_eq!(bytes[..32], golden[..]);
    assert_eq!(bytes.len(), 4096);
    assert_eq!(area.decode(&bytes), slots);
}

#[test]
fn bits_beyond_the_device_are_not_read() {
    let area = BitmapArea { slots: 1, bits: 70 };
    assert_eq!(area.decode(&[0xFF; 4096]), [[u64::MAX, 0x3F]]);
    let area = BitmapArea { slots: 3, bits: 32 };
    assert_eq!(area.decode(&[0xFF; 4096]), vec![vec![0xFFFF_FFFF]; 3]);
}

#[test]
fn missing_slots_are_written_as_clear() {
    let area = BitmapArea { slots: 2, bits: 64 };
    let bytes = encode(&area, &[vec![u64::MAX]]);
    assert_eq!(bytes[..20], [255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(area.decode(&bytes[..4]), [[0xFFFF_FFFF], [0]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn areas_round_trip(slots in 1_u32..=31, bits in 1_u64..40_000, seed in any::<u64>()) {
        let area = BitmapArea { slots, bits };
        let mut state = seed | 1;
        let mut word = || { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state };
        let mut words: Vec<Vec<u64>> = vec![Vec::new(); slots as usize];
        for slot in &mut words {
            slot.extend((0..area.words()).map(|_| word()));
            if bits % 64 != 0 {
                *slot.last_mut().unwrap() &= (1 << (bits % 64)) - 1;
            }
        }
        prop_assert_eq!(area.decode(&encode(&area, &words)), words);
    }

    #[test]
    fn one_bit_changes_the_block_it_is_said_to_be_in(
        (slots, slot) in (1_u32..=31).prop_flat_map(|slots| (Just(slots), 0..slots)),
        (bits, bit) in (1_u64..300_000).prop_flat_map(|bits| (Just(bits), 0..bits)),
    ) {
        let area = BitmapArea { slots, bits };
        let mut words = vec![Vec::new(); slots as usize];
        words[slot as usize] = vec![0; area.words() as usize];
        words[slot as usize][(bit / 64) as usize] = 1 << (bit % 64);
        let bytes = encode(&area, &words);
        let at = bytes.iter().position(|byte| *byte != 0).unwrap();
        prop_assert_eq!((at / BLOCK_BYTES) as u64, area.block_of(slot, bit));
        let disk_bit = (bit & !31) * u64::from(slots) + u64::from(slot) * 32 + (bit & 31);
        prop_assert_eq!(at as u64, disk_bit / 8);
        prop_assert_eq!(bytes[at], 1 << (disk_bit % 8));
    }
}
