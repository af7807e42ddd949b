use super::super::encode_initialised;
use super::*;
use proptest::prelude::*;

const SLOTS: u16 = 1237;

/// A log as a driver writes it: a table of slots, a rotating context.
struct Writer {
    area: Vec<u8>,
    stripes: (u32, u32),
    table: Vec<u32>,
    number: u32,
    start: u16,
}

impl Writer {
    fn new(stripes: (u32, u32), first_number: u32) -> Writer {
        let mut block = [0; BLOCK_BYTES];
        encode_initialised(&mut block);
        let area = block.repeat((stripes.0 * stripes.1) as usize);
        let table = vec![LogTransaction::NO_EXTENT; SLOTS.into()];
        Writer { area, stripes, table, number: first_number, start: 0 }
    }

    /// Returns the bytes and where they go.
    fn next(&mut self, updates: &[(u16, u32)]) -> (usize, [u8; BLOCK_BYTES]) {
        let mut transaction = LogTransaction::empty(self.number);
        for (slot, extent) in updates {
            assert!(transaction.push_update(*slot, *extent));
            self.table[usize::from(*slot)] = *extent;
        }
        transaction.context_size = SLOTS;
        transaction.context_start = self.start;
        let window = self.table[usize::from(self.start)..].iter();
        transaction.context.iter_mut().zip(window).for_each(|(to, from)| *to = *from);
        self.start = if u32::from(self.start) + 919 >= SLOTS.into() { 0 } else { self.start + 919 };
        let mut block = [0; BLOCK_BYTES];
        transaction.encode(&mut block);
        let at = ring_block(self.number, self.stripes.0, self.stripes.1) as usize * BLOCK_BYTES;
        self.number = self.number.wrapping_add(1);
        (at, block)
    }

    fn write(&mut self, updates: &[(u16, u32)]) {
        let (at, block) = self.next(updates);
        self.area[at..at + BLOCK_BYTES].copy_from_slice(&block);
    }

    fn replay(&self) -> LogState {
        replay(&self.area, self.stripes.0, self.stripes.1).state
    }

    fn active(&self) -> LogState {
        let mut extents = self.table.clone();
        extents.retain(|extent| *extent != LogTransaction::NO_EXTENT);
        extents.sort_unstable();
        extents.dedup();
        LogState::Active(extents)
    }
}

#[test]
fn a_fresh_log_is_untouched() {
    assert_eq!(Writer::new((1, 8), 0).replay(), LogState::Untouched);
}

#[test]
fn zeroes_are_not_a_log() {
    let replayed = replay(&[0; 8 * BLOCK_BYTES], 1, 8);
    assert_eq!(replayed, LogReplay { state: LogState::NotALog, corrupt_blocks: 8, initialise_from: 0 });
    assert_eq!(replay(&[], 1, 8).corrupt_blocks, 8);
}

#[test]
fn a_torn_first_transaction_changed_nothing() {
    let mut log = Writer::new((1, 8), 0);
    log.area[100] = 1;
    assert_eq!(log.replay(), LogState::Untouched);
    log.area[5 * BLOCK_BYTES + 100] = 1;
    assert_eq!(log.replay(), LogState::Unusable);
}

#[test]
fn an_emptied_slot_is_not_active() {
    let mut log = Writer::new((1, 8), 0);
    log.write(&[(0, 11), (1, 12)]);
    log.write(&[(0, LogTransaction::NO_EXTENT)]);
    assert_eq!(log.replay(), LogState::Active(vec![12]));
}

#[test]
fn the_loss_of_the_only_word_on_a_slot_is_noticed() {
    let mut log = Writer::new((1, 8), 0);
    for n in 0..20 {
        log.write(&[(n, u32::from(n))]);
    }
    // Newest is 19 at block 3; without 17 only 18 and 19 are left, which still describe all slots between them.
    log.area[BLOCK_BYTES + 77] ^= 1;
    assert_eq!(log.replay(), log.active());
    // Without 18 only one window is left.
    log.area[2 * BLOCK_BYTES + 77] ^= 1;
    assert_eq!(log.replay(), LogState::Unusable);
}

#[test]
fn numbers_wrap() {
    let mut log = Writer::new((1, 8), u32::MAX - 11);
    for n in 0..16 {
        log.write(&[(n, u32::from(n) + 100)]);
        assert_eq!(log.replay(), log.active());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn replay_returns_the_table(
        stripes in prop::sample::select(vec![(1, 8), (4, 16), (3, 5)]),
        first in prop::sample::select(vec![0_u32, 7, 900, u32::MAX / 120 * 120 - 239]),
        changes in prop::collection::vec(prop::collection::vec((0..SLOTS, 0..5000_u32), 0..20), 1..60),
    ) {
        let mut log = Writer::new(stripes, first);
        for updates in &changes {
            log.write(updates);
        }
        prop_assert_eq!(log.replay(), log.active());
    }

    #[test]
    fn a_torn_newest_block_is_as_if_it_was_not_written(
        changes in prop::collection::vec(prop::collection::vec((0..SLOTS, 0..5000_u32), 1..20), 1..40),
        last in prop::collection::vec((0..SLOTS, 5000..6000_u32), 1..20),
        cut in 1_usize..8,
    ) {
        let mut log = Writer::new((1, 8), 0);
        for updates in &changes {
            log.write(updates);
        }
        let before = log.active();
        let (at, block) = log.next(&last);
        log.area[at..at + cut * 512].copy_from_slice(&block[..cut * 512]);
        let replayed = log.replay();
        prop_assert!(replayed == before || replayed == log.active(), "{:?}", replayed);
    }

    #[test]
    fn any_bytes_replay_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        replay(&bytes, 1, 8);
    }
}

/// Initialises a log as an attach does, tearing every block once; every such log can be read, and its initialising be
/// begun again, so often.
fn initialise_torn(log: &[u8], again: u32, what: &str) {
    let found = replay(log, 1, 8);
    assert!(matches!(found.state, LogState::Untouched | LogState::Active(_)), "{what}: {:?}", found.state);
    if again == 0 {
        return;
    }
    let mut log = log.to_vec();
    for n in 0..8 {
        let block = (found.initialise_from + 8 - n) as usize % 8;
        let at = block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
        log[at.clone()].fill(0xff);
        initialise_torn(&log, again - 1, &format!("{what}, block {block} torn"));
        encode_initialised((&mut log[at]).try_into().expect("a block"));
    }
}

#[test]
fn a_log_torn_again_while_it_is_initialised_can_be_read() {
    for (written, torn) in (0..20).flat_map(|n| [(n, false), (n, true)]) {
        let mut log = Writer::new((1, 8), 0);
        (0..written).for_each(|n| log.write(&[(n as u16, n), (1236 - n as u16, 100 + n)]));
        if torn {
            let (at, block) = log.next(&[(500, 500)]);
            log.area[at..at + 512].copy_from_slice(&block[..512]);
            log.area[at + 8] ^= 1;
        }
        initialise_torn(&log.area, 3, &format!("{written} transactions, torn {torn}"));
    }
}
