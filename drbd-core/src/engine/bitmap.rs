//! Out-of-sync bits of one device, a slot per peer, with their counts and the 4 KiB blocks of the bitmap area that
//! differ from what is on disk.
//!
//! A set bit says: this 4 KiB block may differ on that peer. Setting rounds outwards, clearing inwards: a block is in
//! sync only when all of it is.
//!
//! What a block was copied to may still be in the cache of the disk: until a flush, its bit is cleared in memory only
//! ([`unflushed`]).

use crate::ids::Sector;
use crate::limits::{EXTENT_SECTORS, SECTORS_PER_BIT};
use crate::metadata::{BitmapArea, BLOCK_BYTES};
use unflushed::Unflushed;

mod unflushed;

/// The bits of one device.
#[derive(Debug)]
pub(super) struct Bitmap {
    slots: Vec<Vec<u64>>,
    set: Vec<u64>,
    bits: u64,
    sectors: u64,
    dirty: Vec<u64>,
    unflushed: Unflushed,
}

impl Bitmap {
    /// Takes over what was read from disk, for a device of `sectors`.
    pub(super) fn new(slots: Vec<Vec<u64>>, sectors: Sector) -> Bitmap {
        let mut bitmap = Bitmap {
            set: vec![0; slots.len()],
            unflushed: Unflushed::new(slots.len()),
            slots,
            bits: 0,
            sectors: 0,
            dirty: Vec::new(),
        };
        bitmap.resize(sectors);
        bitmap
    }

    /// Number of bits per slot.
    pub(super) fn bits(&self) -> u64 {
        self.bits
    }

    /// Number of slots.
    pub(super) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Set bits of a slot.
    pub(super) fn set_count(&self, slot: usize) -> u64 {
        self.set[slot]
    }

    /// The words of a slot; bits beyond the device are clear.
    pub(super) fn words(&self, slot: usize) -> &[u64] {
        &self.slots[slot]
    }

    fn area(&self) -> BitmapArea {
        BitmapArea { slots: self.slots.len() as u32, bits: self.bits }
    }

    /// The bytes of one block of the area as it is to lie on disk.
    pub(super) fn encode_block(&self, block: u32, out: &mut [u8; BLOCK_BYTES]) {
        let word_of = |slot: usize, word: u64| {
            let known = self.slots.get(slot).and_then(|words| words.get(word as usize)).copied();
            let unflushed = known.is_some() && self.unflushed.has(slot, word);
            known.unwrap_or(0) | if unflushed { self.bits_of(word) } else { 0 }
        };
        self.area().encode_words(u64::from(block), word_of, out);
    }

    /// The bits of a word that are bits of the device.
    fn bits_of(&self, word: u64) -> u64 {
        u64::MAX >> (64 - (self.bits - word * 64).min(64))
    }

    /// Follows a new device size: new blocks begin clear, bits beyond the end go.
    pub(super) fn resize(&mut self, sectors: Sector) {
        self.sectors = sectors.0;
        self.bits = sectors.0.div_ceil(SECTORS_PER_BIT);
        let words = self.bits.div_ceil(64) as usize;
        let surplus = (words as u64 * 64 - self.bits) as u32;
        for (slot, set) in self.slots.iter_mut().zip(&mut self.set) {
            slot.resize(words, 0);
            if let (Some(last), true) = (slot.last_mut(), surplus > 0) {
                *last &= u64::MAX >> surplus;
            }
            *set = slot.iter().map(|w| u64::from(w.count_ones())).sum();
        }
        let blocks = self.area().blocks();
        self.dirty.resize((blocks as usize).div_ceil(64), 0);
        if let (Some(last), true) = (self.dirty.last_mut(), blocks % 64 > 0) {
            *last &= u64::MAX >> (64 - blocks % 64);
        }
    }

    /// Marks every block of the area as differing from disk.
    pub(super) fn dirty_all(&mut self) {
        for block in 0..self.area().blocks() {
            self.dirty[(block / 64) as usize] |= 1 << (block % 64);
        }
    }

    fn bit_span_outward(&self, sector: Sector, bytes: u32) -> (u64, u64) {
        let first = sector.0 / SECTORS_PER_BIT;
        let end = sector.end_of(bytes).0.div_ceil(SECTORS_PER_BIT).min(self.bits);
        (first, end)
    }

    fn bit_span_inward(&self, sector: Sector, bytes: u32) -> (u64, u64) {
        let first = sector.0.div_ceil(SECTORS_PER_BIT);
        let end = sector.end_of(bytes).0;
        (first, if end >= self.sectors { self.bits } else { end / SECTORS_PER_BIT })
    }

    /// Marks a stretch out of sync; returns how many blocks newly are.
    pub(super) fn set_out_of_sync(&mut self, slot: usize, sector: Sector, bytes: u32) -> u64 {
        let (first, end) = self.bit_span_outward(sector, bytes);
        self.set_bits(slot, first, end)
    }

    /// Marks the whole device out of sync.
    pub(super) fn set_all(&mut self, slot: usize) -> u64 {
        self.set_bits(slot, 0, self.bits)
    }

    /// Marks nothing out of sync.
    pub(super) fn clear_all(&mut self, slot: usize) {
        let (changed, end) = (self.set[slot], self.bits);
        self.slots[slot].fill(0);
        self.set[slot] = 0;
        self.unflushed.forget(slot);
        if changed > 0 {
            self.touch(slot, 0, end);
        }
    }

    /// Sets the bits `first..end`; returns how many were clear.
    pub(super) fn set_bits(&mut self, slot: usize, first: u64, end: u64) -> u64 {
        let changed = change(&mut self.slots[slot], first, end, |w, m| *w |= m);
        self.set[slot] += changed;
        if changed > 0 {
            self.touch(slot, first, end);
        }
        changed
    }

    /// Marks the blocks that lie wholly within a stretch in sync; returns how many newly are.
    pub(super) fn clear_in_sync(&mut self, slot: usize, sector: Sector, bytes: u32) -> u64 {
        let (first, end) = self.bit_span_inward(sector, bytes);
        if first >= end {
            return 0;
        }
        let changed = change(&mut self.slots[slot], first, end, |w, m| *w &= !m);
        self.set[slot] -= changed;
        if changed > 0 {
            self.touch(slot, first, end);
        }
        changed
    }

    /// As above, of what was copied here: on disk only after the flush that begins next.
    pub(super) fn clear_copied(&mut self, slot: usize, sector: Sector, bytes: u32) -> u64 {
        let (first, end) = self.bit_span_inward(sector, bytes);
        let mut bit = self.next_set(slot, first);
        while let Some(set) = bit.filter(|&bit| bit < end) {
            self.unflushed.note(slot, set / 64);
            bit = self.next_set(slot, (set / 64 + 1) * 64);
        }
        self.clear_in_sync(slot, sector, bytes)
    }

    /// The disk is being flushed.
    pub(super) fn flush_begins(&mut self) {
        self.unflushed.flush_begins();
    }

    /// The disk is flushed.
    pub(super) fn flush_done(&mut self) {
        let bits = self.bits;
        for (slot, word) in self.unflushed.flush_done().filter(|(_, word)| word * 64 < bits) {
            self.touch(slot, word * 64, (word * 64 + 64).min(bits));
        }
    }

    /// Whether any block of a stretch is out of sync.
    pub(super) fn any_out_of_sync(&self, slot: usize, sector: Sector, bytes: u32) -> bool {
        let (first, end) = self.bit_span_outward(sector, bytes);
        self.next_set(slot, first).is_some_and(|bit| bit < end)
    }

    /// The first set bit at or after `from`.
    pub(super) fn next_set(&self, slot: usize, from: u64) -> Option<u64> {
        let words = &self.slots[slot];
        let mut index = (from / 64) as usize;
        let mut word = *words.get(index)? & (u64::MAX << (from % 64));
        loop {
            if word != 0 {
                return Some(index as u64 * 64 + u64::from(word.trailing_zeros()));
            }
            index += 1;
            word = *words.get(index)?;
        }
    }

    fn touch(&mut self, slot: usize, first: u64, end: u64) {
        let first_block = self.area().block_of(slot as u32, first);
        let last_block = self.area().block_of(slot as u32, end - 1);
        for block in first_block..=last_block {
            self.dirty[(block / 64) as usize] |= 1 << (block % 64);
        }
    }

    /// The first block at or after `from` that differs from disk.
    pub(super) fn next_dirty(&self, from: u32) -> Option<u32> {
        let mut index = (from / 64) as usize;
        let mut word = *self.dirty.get(index)? & (u64::MAX << (from % 64));
        loop {
            if word != 0 {
                return Some(index as u32 * 64 + word.trailing_zeros());
            }
            index += 1;
            word = *self.dirty.get(index)?;
        }
    }

    /// Notes that a block is being written as it is now.
    pub(super) fn clean(&mut self, block: u32) {
        self.dirty[(block / 64) as usize] &= !(1 << (block % 64));
    }

    /// A block that was to be written was not.
    pub(super) fn dirty(&mut self, block: u32) {
        self.dirty[(block / 64) as usize] |= 1 << (block % 64);
    }

    /// The blocks that hold the bits of an activity-log extent, `first..=last`.
    pub(super) fn blocks_of_extent(&self, extent: u32) -> (u32, u32) {
        let per_extent = EXTENT_SECTORS / SECTORS_PER_BIT;
        let first = (u64::from(extent) * per_extent).min(self.bits.saturating_sub(1));
        let last = (first + per_extent - 1).min(self.bits.saturating_sub(1));
        let last_slot = self.slots.len() as u32 - 1;
        (self.area().block_of(0, first) as u32, self.area().block_of(last_slot, last) as u32)
    }
}

/// Applies `apply` to the bits `first..end`; returns how many bits it changed.
fn change(words: &mut [u64], first: u64, end: u64, apply: impl Fn(&mut u64, u64)) -> u64 {
    let mut changed = 0;
    let mut bit = first;
    while bit < end {
        let index = (bit / 64) as usize;
        let offset = bit % 64;
        let len = (64 - offset).min(end - bit);
        let mask = (u64::MAX >> (64 - len)) << offset;
        let before = words[index];
        apply(&mut words[index], mask);
        changed += u64::from((before ^ words[index]).count_ones());
        bit += len;
    }
    changed
}

#[cfg(test)]
mod tests;
