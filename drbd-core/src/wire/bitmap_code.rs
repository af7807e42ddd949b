//! Run-length coding of bitmaps (RLE_VLI_Bits) and the size of plain chunks.
//!
//! A code is the lengths of runs of equal bits, clear and set by turns, each as a prefix that names its level and the
//! distance to the level's first length, least significant bit first. Bits are numbered over 64-bit words: bit `k` of
//! word `w` is block `64 * w + k`. A run that does not fit into a packet goes on in the next one.

use super::header::{control_payload_max, Command};
use super::{CompressedBitmap, Malformed};

/// Lengths coded alike: `first..first + 2^data_bits`.
struct Level {
    prefix: u64,
    prefix_bits: u32,
    data_bits: u32,
    first: u64,
}

const fn level(prefix: u64, prefix_bits: u32, data_bits: u32, first: u64) -> Level {
    Level { prefix, prefix_bits, data_bits, first }
}

/// In the order in which prefixes are tried; every byte begins with exactly one of them.
const LEVELS: [Level; 10] = [
    level(0x00, 1, 1, 1),
    level(0x01, 2, 1, 3),
    level(0x03, 3, 2, 5),
    level(0x07, 4, 3, 9),
    level(0x0f, 5, 5, 17),
    level(0x1f, 6, 8, 49),
    level(0x3f, 8, 13, 305),
    level(0x7f, 8, 21, 8_497),
    level(0xbf, 8, 34, 2_105_649),
    level(0xff, 8, 56, 17_181_974_833),
];

/// 64-bit words in a plain chunk that is not the last one.
pub const fn plain_chunk_words(version: u32) -> usize {
    control_payload_max(version) / 8
}

/// Most bytes of code in one packet.
pub const fn code_bytes_max(version: u32) -> usize {
    control_payload_max(version) - 1
}

/// Codes the bits from `from_bit` on, as many of `bits_total` as fit into `max_bytes`, and tells the first bit that is
/// not covered. `None` if plain words are smaller: the caller then goes back to the word of `from_bit` and sends one
/// plain chunk.
pub fn encode(
    words: &[u64],
    bits_total: u64,
    from_bit: u64,
    max_bytes: usize,
) -> Option<(CompressedBitmap, u64)> {
    let mut next_bit = from_bit;
    let first_run_set = from_bit < bits_total && is_set(words, from_bit);
    let mut run_set = first_run_set;
    let mut writer = BitWriter::default();
    while next_bit < bits_total {
        let end = run_end(words, next_bit, bits_total, run_set);
        let (code, bits) = code_of(end - next_bit);
        if writer.bits + u64::from(bits) > max_bytes as u64 * 8 {
            break;
        }
        writer.put(code, bits);
        next_bit = end;
        run_set = !run_set;
    }
    let code = writer.finish();
    if next_bit == from_bit || next_bit - from_bit < code.len() as u64 * 8 {
        return None;
    }
    let pad_bits = (code.len() as u64 * 8 - writer.bits) as u8;
    Some((CompressedBitmap { first_run_set, pad_bits, code: code.into_boxed_slice() }, next_bit))
}

/// Reports every run of set bits of a packet whose first bit is `from_bit`, and returns the first bit that it does not
/// cover. Runs before a malformed place have been reported.
pub fn decode(
    packet: &CompressedBitmap,
    from_bit: u64,
    bits_total: u64,
    mut set: impl FnMut(u64, u64),
) -> Result<u64, Malformed> {
    let code_bits = (packet.code.len() as u64 * 8).checked_sub(u64::from(packet.pad_bits));
    let Some(code_bits) = code_bits.filter(|_| packet.pad_bits < 8) else {
        return Err(malformed("padding", u64::from(packet.pad_bits)));
    };
    let (mut at, mut next_bit, mut run_set) = (0, from_bit, packet.first_run_set);
    while at < code_bits {
        let (run, bits) = run_of(window(&packet.code, at));
        if u64::from(bits) > code_bits - at {
            return Err(malformed("code that ends within a run, at bit", at));
        }
        if run > bits_total.saturating_sub(next_bit) {
            return Err(malformed("run beyond the end of the device, at block", next_bit));
        }
        if run_set {
            set(next_bit, run);
        }
        at += u64::from(bits);
        next_bit += run;
        run_set = !run_set;
    }
    Ok(next_bit)
}

fn malformed(field: &'static str, got: u64) -> Malformed {
    Command::CompressedBitmap.malformed(field, got)
}

fn is_set(words: &[u64], bit: u64) -> bool {
    words[(bit / 64) as usize] >> (bit % 64) & 1 == 1
}

/// The first bit from `from` on that is not as the run, `bits_total` if there is none.
fn run_end(words: &[u64], from: u64, bits_total: u64, run_set: bool) -> u64 {
    let flip = if run_set { u64::MAX } else { 0 };
    let mut index = (from / 64) as usize;
    let last = ((bits_total - 1) / 64) as usize;
    let mut others = (words[index] ^ flip) & (u64::MAX << (from % 64));
    while others == 0 && index < last {
        index += 1;
        others = words[index] ^ flip;
    }
    (index as u64 * 64 + u64::from(others.trailing_zeros())).min(bits_total)
}

/// Code word of a run and its bits.
fn code_of(run: u64) -> (u64, u32) {
    let level = LEVELS.iter().rev().find(|level| run >= level.first).expect("runs are never empty");
    (level.prefix | (run - level.first) << level.prefix_bits, level.prefix_bits + level.data_bits)
}

/// The run whose code word begins at the lowest bit, and the bits of the word.
fn run_of(window: u64) -> (u64, u32) {
    let begins = |level: &&Level| window & ((1 << level.prefix_bits) - 1) == level.prefix;
    let level = LEVELS.iter().find(begins).expect("every byte begins with a prefix");
    let distance = window >> level.prefix_bits & ((1 << level.data_bits) - 1);
    (level.first + distance, level.prefix_bits + level.data_bits)
}

/// The 64 bits from bit `at` on, zeros after the end.
fn window(code: &[u8], at: u64) -> u64 {
    let mut bytes = [0; 16];
    let rest = &code[(at / 8) as usize..];
    let piece = rest.len().min(9);
    bytes[..piece].copy_from_slice(&rest[..piece]);
    (u128::from_le_bytes(bytes) >> (at % 8)) as u64
}

/// Packs code words, least significant bit first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    /// Bits that do not fill a byte yet.
    partial: u128,
    bits: u64,
}

impl BitWriter {
    fn put(&mut self, code: u64, bits: u32) {
        let mut held = (self.bits % 8) as u32;
        self.partial |= u128::from(code) << held;
        held += bits;
        self.bits += u64::from(bits);
        while held >= 8 {
            self.bytes.push(self.partial as u8);
            self.partial >>= 8;
            held -= 8;
        }
    }

    fn finish(&mut self) -> Vec<u8> {
        if self.bits % 8 != 0 {
            self.bytes.push(self.partial as u8);
        }
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests;
