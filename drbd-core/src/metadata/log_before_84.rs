//! The activity log of DRBD 8.3 and older: sectors of 512 bytes with an xor checksum over the extents, one update each. Only read, when
//! metadata that old is brought up for the first time.
//!
//! It may be cut off anywhere and never tells whether it is complete, so whatever is valid counts.

use super::{Format, LogReplay, LogState, LogTransaction, SuperBlock};

const MAGIC: u32 = 0x8374_0267;
const MAGIC_84: u32 = 0x69CB_65A2;
const SECTOR: usize = 512;
const SECTORS_MAX: usize = 64;
/// Slot and extent pairs: one update and 61 of context.
const PAIRS: usize = 62;
const PAIRS_AT: usize = 8;
const XOR_AT: usize = 504;

/// Whether the log of this metadata is to be read in the old format: nothing says that 8.4 or 9 ever wrote it.
pub fn is_log_before_84(super_block: &SuperBlock, log: &[u8]) -> bool {
    let new_block = |at: usize| log.len() >= at + 4 && u32_at(log, at) == MAGIC_84;
    super_block.format == Format::V08
        && !super_block.unclean_magic
        && (super_block.al_stripes, super_block.al_stripe_size_4k) == (1, 8)
        && !new_block(0)
        && !new_block(4096)
}

/// Reads an old log; `al_nr_extents` of the super block says how much of it was in use.
pub fn replay_before_84(log: &[u8], al_nr_extents: u32) -> LogReplay {
    let used = (1 + al_nr_extents.div_ceil(61) as usize).min(SECTORS_MAX);
    let sectors = log.chunks_exact(SECTOR).take(used).map(|sector| Some(sector).filter(|s| is_valid(s)));
    let mut valid: Vec<(u32, &[u8])> = sectors.flatten().map(|sector| (u32_at(sector, 4), sector)).collect();
    // An old log without anything valid was never written to.
    let Some((first, _)) = valid.first().copied() else {
        return LogReplay { state: LogState::Untouched, corrupt_blocks: 0, initialise_from: 0 };
    };
    // Numbers wrap: order by distance.
    valid.sort_by_key(|(number, _)| number.wrapping_sub(first) as i32);
    let mut slots: Vec<u32> = Vec::new();
    for (_, sector) in valid {
        // The update is the first pair and comes after the context.
        for pair in (0..PAIRS).rev() {
            let slot = u32_at(sector, PAIRS_AT + 8 * pair) as usize;
            let extent = u32_at(sector, PAIRS_AT + 8 * pair + 4);
            if extent == LogTransaction::NO_EXTENT || slot > usize::from(u16::MAX) {
                continue;
            }
            if slot >= slots.len() {
                slots.resize(slot + 1, LogTransaction::NO_EXTENT);
            }
            slots[slot] = extent;
        }
    }
    slots.retain(|extent| *extent != LogTransaction::NO_EXTENT);
    slots.sort_unstable();
    slots.dedup();
    LogReplay { state: LogState::Active(slots), corrupt_blocks: 0, initialise_from: 0 }
}

fn is_valid(sector: &[u8]) -> bool {
    let sum = (0..PAIRS).fold(0, |sum, n| sum ^ u32_at(sector, PAIRS_AT + 8 * n + 4));
    u32_at(sector, 0) == MAGIC && u32_at(sector, XOR_AT) == sum
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(number: u32, pairs: &[(u32, u32)]) -> [u8; SECTOR] {
        let mut sector = [0; SECTOR];
        let mut put = |at: usize, value: u32| sector[at..at + 4].copy_from_slice(&value.to_be_bytes());
        put(0, MAGIC);
        put(4, number);
        let mut sum = 0;
        for n in 0..PAIRS {
            let (slot, extent) = pairs.get(n).copied().unwrap_or((u32::MAX, u32::MAX));
            put(PAIRS_AT + 8 * n, slot);
            put(PAIRS_AT + 8 * n + 4, extent);
            sum ^= extent;
        }
        put(XOR_AT, sum);
        sector
    }

    #[test]
    fn the_newest_word_on_a_slot_counts() {
        let mut log = vec![0; 32 << 10];
        log[..SECTOR].copy_from_slice(&sector(u32::MAX, &[(0, 5), (1, 6)]));
        log[SECTOR..2 * SECTOR].copy_from_slice(&sector(0, &[(0, 9), (0, 5)]));
        assert_eq!(replay_before_84(&log, 257).state, LogState::Active(vec![6, 9]));
        log[SECTOR + 15] ^= 1;
        assert_eq!(replay_before_84(&log, 257).state, LogState::Active(vec![5, 6]));
    }

    #[test]
    fn nothing_valid_is_nothing_to_do() {
        assert_eq!(replay_before_84(&[0; 32 << 10], u32::MAX).state, LogState::Untouched);
        assert_eq!(replay_before_84(&[], 0).state, LogState::Untouched);
    }
}
