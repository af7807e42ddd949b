//! Any bytes as an activity log: no panic; a block that is accepted says the same when written again. The checksum is
//! put right for half of the inputs, or nothing would come past it.

#![no_main]

use drbd_core::metadata::{replay, replay_before_84, LogTransaction, TransactionKind};
use libfuzzer_sys::fuzz_target;

/// The kernel's crc32c over a block whose checksum field is 0: reflected Castagnoli, no inversions.
fn checksum(block: &[u8]) -> u32 {
    block.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 })
    })
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (put_right, stripes, bytes) = input;
    let mut log = bytes.to_vec();
    log.resize(bytes.len().next_multiple_of(4096).min(64 << 10), 0);
    if put_right {
        for block in log.chunks_exact_mut(4096) {
            block[..4].copy_from_slice(&0x69CB_65A2_u32.to_be_bytes());
            block[8..12].fill(0);
            let crc = checksum(block);
            block[8..12].copy_from_slice(&crc.to_be_bytes());
        }
    }
    for block in log.chunks_exact(4096) {
        let Some(transaction) = LogTransaction::decode(block.try_into().unwrap()) else { continue };
        let mut again = [0; 4096];
        transaction.encode(&mut again);
        assert_eq!(LogTransaction::decode(&again).as_ref(), Some(&transaction));
        assert!(transaction.kind == TransactionKind::Update || transaction.updates().is_empty());
    }
    let _ = replay(&log, u32::from(stripes % 4) + 1, 8);
    let _ = replay_before_84(&log, u32::from(stripes));
});
