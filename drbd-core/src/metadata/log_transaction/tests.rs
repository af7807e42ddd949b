use super::*;
use proptest::prelude::*;

fn encoded(transaction: &LogTransaction) -> Box<Block> {
    let mut block = Box::new([0x55; BLOCK_BYTES]);
    transaction.encode(&mut block);
    block
}

#[test]
fn initialised_block_has_the_known_checksum() {
    let mut block = [0x55; BLOCK_BYTES];
    encode_initialised(&mut block);
    assert_eq!(u32_at(&block, 0), 0x69CB_65A2);
    assert_eq!(u32_at(&block, 8), 0x709C_C651);
    assert_eq!(u32_at(&block, 12), 0xFFFF_0000);
    assert!(block[16..].iter().all(|byte| *byte == 0));
    let decoded = LogTransaction::decode(&block).unwrap();
    assert_eq!(decoded.kind, TransactionKind::Initialised);
    assert_eq!(encoded(&decoded)[..], block[..]);
}

#[test]
fn layout_is_the_reference() {
    let mut transaction = LogTransaction::empty(0x0102_0304);
    assert!(transaction.push_update(7, 0x0A0B_0C0D));
    transaction.context_size = 1237;
    transaction.context_start = 919;
    transaction.context[0] = 5;
    let block = encoded(&transaction);
    assert_eq!(u32_at(&block, 4), 0x0102_0304);
    assert_eq!(
        [u16_at(&block, 12), u16_at(&block, 14), u16_at(&block, 16), u16_at(&block, 18)],
        [0, 1, 1237, 919]
    );
    assert_eq!([u16_at(&block, 36), u16_at(&block, 38)], [7, 0xFFFF]);
    assert_eq!([u32_at(&block, 164), u32_at(&block, 168)], [0x0A0B_0C0D, u32::MAX]);
    assert_eq!([u32_at(&block, 420), u32_at(&block, 424)], [5, u32::MAX]);
}

#[test]
fn sixty_four_updates_fit() {
    let mut transaction = LogTransaction::empty(1);
    for slot in 0..64 {
        assert!(transaction.push_update(slot, slot.into()));
    }
    assert!(!transaction.push_update(64, 64));
    assert_eq!(LogTransaction::decode(&encoded(&transaction)), Some(transaction));
}

#[test]
fn impossible_counts_are_refused_in_spite_of_a_good_checksum() {
    let mut block = encoded(&LogTransaction::empty(1));
    for (at, value) in [(12, 1_u16), (14, 65)] {
        let mut bad = block.clone();
        bad[at..at + 2].copy_from_slice(&value.to_be_bytes());
        let crc = crc32c_raw(&bad);
        bad[CRC_AT].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(LogTransaction::decode(&bad), None);
    }
    block[0] = 0;
    assert_eq!(LogTransaction::decode(&block), None);
}

#[test]
fn the_ring_alternates_between_stripes() {
    let positions: Vec<u32> = (0..8).map(|n| ring_block(n, 4, 16)).collect();
    assert_eq!(positions, [0, 16, 32, 48, 1, 17, 33, 49]);
    assert_eq!(ring_block(9, 1, 8), 1);
    let mut all: Vec<u32> = (1000..1064).map(|n| ring_block(n, 4, 16)).collect();
    all.sort_unstable();
    assert_eq!(all, (0..64).collect::<Vec<_>>());
}

fn any_transaction() -> impl Strategy<Value = LogTransaction> {
    let updates = prop::collection::vec(any::<(u16, u32)>(), 0..=64);
    let context = prop::collection::vec(any::<u32>(), 919);
    (any::<u32>(), updates, any::<u16>(), any::<u16>(), context).prop_map(
        |(number, updates, size, start, context)| {
            let mut transaction = LogTransaction::empty(number);
            updates.into_iter().for_each(|(slot, extent)| assert!(transaction.push_update(slot, extent)));
            transaction.context_size = size;
            transaction.context_start = start;
            transaction.context.copy_from_slice(&context);
            transaction
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn transactions_round_trip(transaction in any_transaction()) {
        prop_assert_eq!(LogTransaction::decode(&encoded(&transaction)), Some(transaction));
    }

    #[test]
    fn torn_blocks_are_noticed(old in any_transaction(), new in any_transaction(), cut in 1_usize..8) {
        let (old, new) = (encoded(&old), encoded(&new));
        let mut torn = new.clone();
        torn[cut * 512..].copy_from_slice(&old[cut * 512..]);
        prop_assume!(torn != new && torn != old);
        prop_assert_eq!(LogTransaction::decode(&torn), None);
    }

    #[test]
    fn one_wrong_bit_is_noticed(transaction in any_transaction(), bit in 0_usize..BLOCK_BYTES * 8) {
        let mut block = encoded(&transaction);
        block[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(LogTransaction::decode(&block), None);
    }
}
