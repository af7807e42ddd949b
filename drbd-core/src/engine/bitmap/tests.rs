use super::Bitmap;
use crate::ids::Sector;
use crate::limits::{EXTENT_SECTORS, SECTORS_PER_BIT};
use crate::metadata::{BitmapArea, BLOCK_BYTES};
use proptest::prelude::*;

/// What a bitmap means: a flag per block and slot, and the bytes last written to disk.
struct Model {
    slots: Vec<Vec<bool>>,
    /// Copied here since the last flush began, and before that.
    unflushed: [Vec<Vec<bool>>; 2],
    disk: Vec<[u8; BLOCK_BYTES]>,
    sectors: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Set { slot: usize, sector: u64, sectors: u64 },
    Clear { slot: usize, sector: u64, sectors: u64 },
    Copied { slot: usize, sector: u64, sectors: u64 },
    SetAll { slot: usize },
    FlushBegins,
    FlushDone,
    Write,
    Resize { sectors: u64 },
}

const SLOTS: usize = 3;
/// A little more than one block of the area for three slots.
const SECTORS_MAX: u64 = 12_000 * SECTORS_PER_BIT;

fn step() -> impl Strategy<Value = Step> {
    let stretch = (0..SLOTS, 0..SECTORS_MAX, 1..3000_u64);
    prop_oneof![
        5 => stretch.clone().prop_map(|(slot, sector, sectors)| Step::Set { slot, sector, sectors }),
        5 => stretch.clone().prop_map(|(slot, sector, sectors)| Step::Clear { slot, sector, sectors }),
        5 => stretch.prop_map(|(slot, sector, sectors)| Step::Copied { slot, sector, sectors }),
        2 => Just(Step::FlushBegins),
        2 => Just(Step::FlushDone),
        1 => (0..SLOTS).prop_map(|slot| Step::SetAll { slot }),
        2 => Just(Step::Write),
        1 => (1..SECTORS_MAX).prop_map(|sectors| Step::Resize { sectors }),
    ]
}

fn fresh(sectors: u64) -> Bitmap {
    let words = sectors.div_ceil(SECTORS_PER_BIT).div_ceil(64) as usize;
    Bitmap::new(vec![vec![0; words]; SLOTS], Sector(sectors))
}

impl Model {
    fn bits(&self) -> usize {
        self.sectors.div_ceil(SECTORS_PER_BIT) as usize
    }

    /// Sectors of block `bit` that exist.
    fn block(&self, bit: usize) -> std::ops::Range<u64> {
        let first = bit as u64 * SECTORS_PER_BIT;
        first..(first + SECTORS_PER_BIT).min(self.sectors)
    }

    fn change(&mut self, slot: usize, value: bool, touched: impl Fn(std::ops::Range<u64>) -> bool) -> u64 {
        let mut changed = 0;
        for bit in 0..self.bits() {
            if touched(self.block(bit)) && self.slots[slot][bit] != value {
                self.slots[slot][bit] = value;
                changed += 1;
            }
        }
        changed
    }
}

fn apply(step: &Step, bitmap: &mut Bitmap, model: &mut Model) {
    match *step {
        Step::Set { slot, sector, sectors } => {
            let sector = sector % model.sectors;
            let end = (sector + sectors).min(model.sectors);
            let expected = model.change(slot, true, |block| block.start < end && sector < block.end);
            let bytes = (end - sector) as u32 * 512;
            assert_eq!(bitmap.set_out_of_sync(slot, Sector(sector), bytes), expected);
            assert!(bitmap.any_out_of_sync(slot, Sector(sector), bytes));
        }
        Step::Clear { slot, sector, sectors } => {
            let sector = sector % model.sectors;
            let end = (sector + sectors).min(model.sectors);
            let expected = model.change(slot, false, |block| sector <= block.start && block.end <= end);
            assert_eq!(bitmap.clear_in_sync(slot, Sector(sector), (end - sector) as u32 * 512), expected);
        }
        Step::Copied { slot, sector, sectors } => {
            let sector = sector % model.sectors;
            let end = (sector + sectors).min(model.sectors);
            let was = model.slots[slot].clone();
            let expected = model.change(slot, false, |block| sector <= block.start && block.end <= end);
            assert_eq!(bitmap.clear_copied(slot, Sector(sector), (end - sector) as u32 * 512), expected);
            for (bit, was) in was.into_iter().enumerate() {
                model.unflushed[0][slot][bit] |= was && !model.slots[slot][bit];
            }
        }
        Step::FlushBegins => {
            bitmap.flush_begins();
            let [since, before] = &mut model.unflushed;
            for (since, before) in since.iter_mut().flatten().zip(before.iter_mut().flatten()) {
                *before |= std::mem::take(since);
            }
        }
        Step::FlushDone => {
            bitmap.flush_done();
            model.unflushed[1].iter_mut().flatten().for_each(|bit| *bit = false);
        }
        Step::SetAll { slot } => {
            let expected = model.change(slot, true, |_| true);
            assert_eq!(bitmap.set_all(slot), expected);
        }
        Step::Write => {
            let mut from = 0;
            while let Some(block) = bitmap.next_dirty(from) {
                bitmap.clean(block);
                bitmap.encode_block(block, &mut model.disk[block as usize]);
                from = block + 1;
            }
        }
        Step::Resize { sectors } => {
            // What is noted of a word that shrank and grows again would be a mark too many.
            for step in [Step::FlushBegins, Step::FlushDone] {
                apply(&step, bitmap, model);
            }
            model.sectors = sectors;
            let bits = model.bits();
            let all = model.slots.iter_mut().chain(model.unflushed.iter_mut().flatten());
            all.for_each(|slot| slot.resize(bits, false));
            bitmap.resize(Sector(sectors));
            // What lay beyond the old end on disk is nobody's: whoever resizes writes everything.
            bitmap.dirty_all();
            let blocks = BitmapArea { slots: SLOTS as u32, bits: bits as u64 }.blocks() as usize;
            model.disk.resize(blocks, [0xee; BLOCK_BYTES]);
        }
    }
}

fn compare(bitmap: &Bitmap, model: &Model) {
    assert_eq!(bitmap.bits(), model.bits() as u64);
    for (slot, flags) in model.slots.iter().enumerate() {
        let words = bitmap.words(slot);
        let set: Vec<usize> = (0..words.len() * 64).filter(|b| words[b / 64] >> (b % 64) & 1 == 1).collect();
        let expected: Vec<usize> = (0..flags.len()).filter(|&b| flags[b]).collect();
        assert_eq!(set, expected, "slot {slot}");
        assert_eq!(bitmap.set_count(slot), expected.len() as u64);
        assert_eq!(bitmap.next_set(slot, 0), expected.first().map(|&b| b as u64));
        let middle = flags.len() as u64 / 2;
        let after = expected.iter().map(|&b| b as u64).find(|&b| b >= middle);
        assert_eq!(bitmap.next_set(slot, middle), after);
    }
    // A block that is not called dirty lies on disk as it is in memory.
    let area = BitmapArea { slots: SLOTS as u32, bits: bitmap.bits() };
    let mut told = vec![vec![0; area.words() as usize]; SLOTS];
    let mut bytes = [0; BLOCK_BYTES];
    for (block, on_disk) in model.disk.iter().enumerate() {
        let dirty = bitmap.next_dirty(block as u32) == Some(block as u32);
        bitmap.encode_block(block as u32, &mut bytes);
        assert!(dirty || bytes == *on_disk, "block {block} changed and is not dirty");
        area.decode_block(&mut told, block as u64, &bytes);
    }
    assert_eq!(bitmap.next_dirty(model.disk.len() as u32), None, "a dirty block beyond the area");
    // What memory says, and as long as it is not flushed, what was copied; nothing else but near that.
    for slot in 0..SLOTS {
        let unflushed = |bit: usize| model.unflushed.iter().any(|list| list[slot][bit]);
        for bit in 0..model.bits() {
            let near = (bit / 64 * 64..(bit / 64 * 64 + 64).min(model.bits())).any(unflushed);
            let on_disk = told[slot][bit / 64] >> (bit % 64) & 1 == 1;
            let set = model.slots[slot][bit];
            assert!(on_disk || !set && !unflushed(bit), "bit {bit} of slot {slot} is clear on disk");
            assert!(!on_disk || set || near, "bit {bit} of slot {slot} is set on disk");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bits_counts_and_dirty_blocks_follow_the_model(
        sectors in 1..SECTORS_MAX,
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let mut bitmap = fresh(sectors);
        let bits = sectors.div_ceil(SECTORS_PER_BIT) as usize;
        let area = BitmapArea { slots: SLOTS as u32, bits: bits as u64 };
        let disk = vec![[0; BLOCK_BYTES]; area.blocks() as usize];
        let slots = vec![vec![false; bits]; SLOTS];
        let mut model = Model { unflushed: [slots.clone(), slots.clone()], slots, disk, sectors };
        for step in steps {
            apply(&step, &mut bitmap, &mut model);
            compare(&bitmap, &model);
        }
    }

    #[test]
    fn the_blocks_of_an_extent_hold_all_its_bits(sectors in 1..SECTORS_MAX, sector in 0..SECTORS_MAX, slot in 0..SLOTS) {
        let sector = sector % sectors;
        let mut bitmap = fresh(sectors);
        bitmap.set_out_of_sync(slot, Sector(sector), 512);
        let (first, last) = bitmap.blocks_of_extent((sector / EXTENT_SECTORS) as u32);
        let dirty = bitmap.next_dirty(0).expect("a bit was set");
        prop_assert!((first..=last).contains(&dirty));
        prop_assert_eq!(bitmap.next_dirty(dirty + 1), None);
    }
}

#[test]
fn part_of_a_block_is_out_of_sync_as_a_whole_and_in_sync_only_as_a_whole() {
    let mut bitmap = fresh(100 * SECTORS_PER_BIT + 3);
    assert_eq!(bitmap.set_out_of_sync(0, Sector(7), 1024), 2);
    assert_eq!(bitmap.clear_in_sync(0, Sector(1), 4096), 0);
    assert_eq!(bitmap.clear_in_sync(0, Sector(0), 4096), 1);
    assert_eq!(bitmap.set_count(0), 1);
    // The last block is shorter than a block: all of it is enough.
    assert_eq!(bitmap.set_out_of_sync(1, Sector(802), 512), 1);
    assert_eq!(bitmap.clear_in_sync(1, Sector(800), 1024), 0);
    assert_eq!(bitmap.clear_in_sync(1, Sector(800), 1536), 1);
}
