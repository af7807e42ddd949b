use super::super::layout::Index;
use super::*;
use proptest::prelude::*;

fn fresh(format: Format, max_peers: u32) -> SuperBlock {
    let geometry = Geometry::usual(max_peers);
    let layout = Layout::new(Index::Internal, 64 << 20, &geometry).unwrap();
    SuperBlock::fresh(format, &layout, &geometry)
}

fn encoded(super_block: &SuperBlock) -> Box<Block> {
    let mut block = Box::new([0xAA; BLOCK_BYTES]);
    super_block.encode(&mut block);
    block
}

fn words(block: &Block, from: usize, count: usize) -> Vec<u32> {
    (0..count).map(|n| u32_at(block, from + 4 * n)).collect()
}

#[test]
fn fresh_v08_is_golden() {
    let block = encoded(&fresh(Format::V08, 1));
    assert_eq!(words(&block, 0, 4), [0, 0, 0, 4]);
    assert!(block[16..56].iter().all(|byte| *byte == 0));
    let golden = [0x80, 0x8374_026b, 0x50, 0xffff_ffc0, 0x101, 0xffff_ffb8, 0x1000, 0, 1, 8];
    assert_eq!(words(&block, 56, 10), golden);
    assert!(block[96..].iter().all(|byte| *byte == 0));
}

#[test]
fn fresh_v09_is_golden() {
    let block = encoded(&fresh(Format::V09, 2));
    let golden = [
        0,
        0,
        0x80,
        0x8374_026d,
        0x50,
        0xffff_ffc0,
        0x101,
        0xffff_ffb8,
        0x1000,
        0,
        2,
        0xffff_ffff,
        1,
        8,
        0,
        0,
    ];
    assert_eq!(words(&block, 0x30, 16), golden);
    for peer in 0..32 {
        assert_eq!(words(&block, 112 + 32 * peer, 8), [0, 0, 0, 0, 0, 0xffff_ffff, 0, 0]);
    }
    assert!(block[1136..].iter().all(|byte| *byte == 0));
}

#[test]
fn v08_keeps_peer_flags_among_its_own() {
    let mut super_block = fresh(Format::V08, 1);
    super_block.peers[0].flags = peer_flag::FULL_SYNC | peer_flag::OUTDATED;
    super_block.flags |= device_flag::CONSISTENT;
    let block = encoded(&super_block);
    assert_eq!(u32_at(&block, 56), 0x08 | 0x20 | 0x01 | 0x80);
    assert_eq!(SuperBlock::decode(&block), Ok(Some(super_block)));
}

#[test]
fn unclean_is_the_magic_or_the_missing_flag() {
    let mut super_block = fresh(Format::V08, 1);
    assert!(!super_block.is_unclean());
    super_block.unclean_magic = true;
    let block = encoded(&super_block);
    assert_eq!(u32_at(&block, 60), 0x8374_026c);
    assert!(SuperBlock::decode(&block).unwrap().unwrap().is_unclean());
    let mut v09 = fresh(Format::V09, 1);
    v09.flags = device_flag::CONSISTENT;
    assert!(v09.is_unclean());
}

#[test]
fn foreign_bytes_are_no_super_block() {
    assert_eq!(SuperBlock::decode(&[0; BLOCK_BYTES]), Ok(None));
    let mut v07 = [0; BLOCK_BYTES];
    put_u32(&mut v07, 28, MAGIC_V07);
    assert_eq!(SuperBlock::decode(&v07), Ok(None));
    assert_eq!(older_format(&v07), Some("v07"));
    assert_eq!(older_format(&encoded(&fresh(Format::V08, 1))), None);
}

#[test]
fn zero_stripes_mean_the_old_log_size() {
    let mut block = encoded(&fresh(Format::V08, 1));
    put_u32(&mut block, 88, 0);
    assert!(SuperBlock::decode(&block).is_err());
    put_u32(&mut block, 92, 0);
    let decoded = SuperBlock::decode(&block).unwrap().unwrap();
    assert_eq!((decoded.al_stripes, decoded.al_stripe_size_4k), (1, 8));
}

#[test]
fn damage_is_named() {
    let good = encoded(&fresh(Format::V09, 2));
    let cases = [
        (80, 4097, "bm-byte-per-bit"),
        (88, 0, "max-peers"),
        (88, 32, "max-peers"),
        (92, 32, "node-id"),
        (92, -2_i32 as u32, "node-id"),
        (100, 4, "activity log"),
        (112 + 20, 2, "bitmap-index"),
        (112 + 20, -2_i32 as u32, "bitmap-index"),
    ];
    for (at, value, named) in cases {
        let mut block = good.clone();
        put_u32(&mut block, at, value);
        let error = SuperBlock::decode(&block).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let mut block = good;
    put_u32(&mut block, 112 + 20, 1);
    put_u32(&mut block, 112 + 32 + 20, 1);
    assert!(SuperBlock::decode(&block).is_err(), "one slot for two peers");
}

fn any_peers() -> impl Strategy<Value = Box<[PeerRecord; 32]>> {
    let peer = (any::<u64>(), any::<u64>(), any::<u32>());
    (prop::collection::vec(peer, 32), prop::sample::subsequence((0..32).collect::<Vec<usize>>(), 0..=7))
        .prop_map(|(records, with_slot)| {
            let mut peers = Box::new([PeerRecord::NONE; 32]);
            for (n, (bitmap_uuid, bitmap_dagtag, flags)) in records.into_iter().enumerate() {
                peers[n] = PeerRecord { bitmap_uuid, bitmap_dagtag, flags, bitmap_index: -1 };
            }
            for (slot, n) in with_slot.into_iter().enumerate() {
                peers[n].bitmap_index = slot as i32;
            }
            peers
        })
}

proptest! {
    #[test]
    fn v09_round_trips(
        peers in any_peers(),
        numbers in any::<(u64, u64, u64, u64, u32, u32, u32)>(),
        history in any::<[u64; 32]>(),
        node_id in -1..32_i32,
    ) {
        let mut super_block = fresh(Format::V09, 7);
        super_block.peers = peers;
        super_block.history = history;
        super_block.node_id = node_id;
        (super_block.effective_size, super_block.current_uuid, super_block.members, super_block.device_uuid,
            super_block.flags, super_block.al_nr_extents, super_block.la_peer_max_bio_size) = numbers;
        prop_assert_eq!(SuperBlock::decode(&encoded(&super_block)), Ok(Some(super_block)));
    }

    #[test]
    fn v08_round_trips(
        numbers in any::<(u64, u64, u64, u64, u32, u32, u64, u64)>(),
        unclean_magic in any::<bool>(),
        peer_flags in 0..8_u32,
    ) {
        let mut super_block = fresh(Format::V08, 1);
        super_block.unclean_magic = unclean_magic;
        (super_block.effective_size, super_block.current_uuid, super_block.peers[0].bitmap_uuid,
            super_block.device_uuid, super_block.flags, super_block.la_peer_max_bio_size,
            super_block.history[0], super_block.history[1]) = numbers;
        super_block.flags &= !0x2C;
        for (n, (_, flag)) in V08_PEER_FLAGS.iter().enumerate() {
            if peer_flags & 1 << n != 0 {
                super_block.peers[0].flags |= flag;
            }
        }
        prop_assert_eq!(SuperBlock::decode(&encoded(&super_block)), Ok(Some(super_block)));
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 256), magic in 0..4_u32) {
        let mut block = [0; BLOCK_BYTES];
        block[..256].copy_from_slice(&bytes);
        put_u32(&mut block, MAGIC_AT, MAGIC_V07 + magic);
        if let Ok(Some(decoded)) = SuperBlock::decode(&block) {
            prop_assert!(decoded.check().is_ok());
        }
    }
}
