//! The bitmap area on disk: per-peer bitmaps interleaved in 32-bit little-endian words.
//!
//! Word w of the area is word `w / slots` of slot `w % slots`. With one slot (v08, or v09 for one peer) that is a
//! plain little-endian bitmap. In memory a slot is a vector of 64-bit words, bit k of word w standing for block
//! `64 * w + k`.

use super::BLOCK_BYTES;

const WORDS_PER_BLOCK: u64 = BLOCK_BYTES as u64 / 4;

/// Shape of a bitmap area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitmapArea {
    /// Bitmap slots.
    pub slots: u32,
    /// Bits of one slot.
    pub bits: u64,
}

impl BitmapArea {
    /// 64-bit words of one slot in memory.
    pub const fn words(&self) -> u64 {
        self.bits.div_ceil(64)
    }

    /// 4 KiB blocks of the area.
    pub const fn blocks(&self) -> u64 {
        (self.words() * 2 * self.slots as u64).div_ceil(WORDS_PER_BLOCK)
    }

    /// The 4 KiB block of the area that holds a bit of a slot.
    pub const fn block_of(&self, slot: u32, bit: u64) -> u64 {
        (bit / 32 * self.slots as u64 + slot as u64) / WORDS_PER_BLOCK
    }

    /// Writes one block of the area from the slots' words; slots or words that are not there count as clear.
    pub fn encode_block(&self, slots: &[impl AsRef<[u64]>], block: u64, out: &mut [u8; BLOCK_BYTES]) {
        let word_of = |slot: usize, word: u64| {
            slots.get(slot).and_then(|words| words.as_ref().get(word as usize)).copied().unwrap_or(0)
        };
        self.encode_words(block, word_of, out);
    }

    /// Writes one block of the area from what is said to be a word of a slot.
    pub fn encode_words(&self, block: u64, word_of: impl Fn(usize, u64) -> u64, out: &mut [u8; BLOCK_BYTES]) {
        let (mut slot, mut word) = self.first_of(block);
        for bytes in out.chunks_exact_mut(4) {
            let value = (word_of(slot, word / 2) >> (word % 2 * 32)) as u32;
            bytes.copy_from_slice(&value.to_le_bytes());
            (slot, word) = self.next(slot, word);
        }
    }

    /// Reads one block of the area into the slots' words, which must have [`words`](BitmapArea::words) each. Bits
    /// beyond the last are left clear.
    pub fn decode_block(&self, slots: &mut [Vec<u64>], block: u64, bytes: &[u8]) {
        let (mut slot, mut word) = self.first_of(block);
        for bytes in bytes.chunks_exact(4).take(WORDS_PER_BLOCK as usize) {
            let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if let Some(at) = slots.get_mut(slot).and_then(|words| words.get_mut((word / 2) as usize)) {
                let shift = word % 2 * 32;
                *at = *at & !(0xFFFF_FFFF << shift) | u64::from(value & self.mask(word)) << shift;
            }
            (slot, word) = self.next(slot, word);
        }
    }

    /// Reads the whole area. Missing bytes count as clear.
    pub fn decode(&self, area: &[u8]) -> Vec<Vec<u64>> {
        let mut slots = vec![vec![0; self.words() as usize]; self.slots as usize];
        for (block, bytes) in area.chunks(BLOCK_BYTES).enumerate().take(self.blocks() as usize) {
            self.decode_block(&mut slots, block as u64, bytes);
        }
        slots
    }

    /// Which bits of a slot's 32-bit word are bits of the device.
    fn mask(&self, word: u64) -> u32 {
        match self.bits.saturating_sub(word * 32) {
            0 => 0,
            left @ 1..=31 => (1 << left) - 1,
            _ => u32::MAX,
        }
    }

    fn first_of(&self, block: u64) -> (usize, u64) {
        let word = block * WORDS_PER_BLOCK;
        ((word % u64::from(self.slots)) as usize, word / u64::from(self.slots))
    }

    fn next(&self, slot: usize, word: u64) -> (usize, u64) {
        if slot + 1 == self.slots as usize {
            (0, word + 1)
        } else {
            (slot + 1, word)
        }
    }
}

#[cfg(test)]
mod tests;
