//! What was written and what of it was acknowledged, block by block: a writer that keeps many writes in flight, and a
//! check that says whether a device still holds every acknowledged one.
//!
//! Every block carries its own number and a version; the rest of its bytes follow from these two, so that a lost, a
//! torn, a stale and a misplaced write all show.

use super::nbd_client::{Client, Fault, Operation};
use std::collections::HashMap;
use std::fmt;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
const BLOCKS_PER_WRITE_MAX: u64 = 16;
const BLOCKS_PER_READ: u64 = 256;

/// What is known of one block.
#[derive(Clone, Copy, Default, Debug)]
struct Block {
    /// Version of the last acknowledged write; 0: none, the block is still zero.
    acknowledged: u32,
    /// Version of the last write sent.
    sent: u32,
}

/// The writes of one device.
#[derive(Debug)]
pub struct Ledger {
    blocks: Vec<Block>,
    random: u64,
    /// Writes acknowledged so far.
    pub acknowledged_writes: u64,
    /// Bytes acknowledged so far.
    pub acknowledged_bytes: u64,
}

/// A block that is not as it was acknowledged.
#[derive(Debug)]
pub struct Mismatch {
    /// Number of the block.
    pub block: u64,
    /// Version of its last acknowledged write.
    pub acknowledged: u32,
    /// Version of its last write sent.
    pub sent: u32,
    /// What the device holds.
    pub found: Content,
}

/// What a block turned out to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Only zeroes.
    Zero,
    /// All bytes of this version.
    Version(u32),
    /// Bytes that no write of this block had.
    Foreign,
}

/// Why a check did not succeed.
#[derive(Debug)]
pub enum CheckFailed {
    /// The device could not be read.
    Unreadable(Fault),
    /// Blocks differ; the first one, and how many.
    Mismatch(Mismatch, u64),
}

impl fmt::Display for CheckFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckFailed::Unreadable(fault) => write!(f, "reading back: {fault}"),
            CheckFailed::Mismatch(first, count) => write!(
                f,
                "{count} blocks are not as acknowledged; the first is block {}: version {} was acknowledged, {} sent, \
                 found {:?}",
                first.block, first.acknowledged, first.sent, first.found
            ),
        }
    }
}

impl std::error::Error for CheckFailed {}

impl Ledger {
    /// Of a device of this size that holds only zeroes.
    pub fn new(size_bytes: u64, seed: u64) -> Ledger {
        let blocks = vec![Block::default(); (size_bytes / BLOCK_BYTES as u64) as usize];
        Ledger { blocks, random: seed, acknowledged_writes: 0, acknowledged_bytes: 0 }
    }

    /// Write at random places below `span` blocks, `depth` writes in flight, until `enough` says so (it sees the ledger
    /// after each acknowledgement) or the session ends. All writes in flight are waited for. Returns how the session
    /// ended, if it did.
    pub fn write(
        &mut self,
        client: &mut Client,
        depth: usize,
        span: u64,
        mut enough: impl FnMut(&Ledger) -> bool,
    ) -> Result<(), Fault> {
        let span = span.min(self.blocks.len() as u64);
        let mut writing: HashMap<u64, (u64, u64)> = HashMap::new();
        loop {
            while !enough(self) && writing.len() < depth {
                let Some((first, count)) = self.pick(span, &writing) else { break };
                let data = self.next_version(first, count);
                let offset = first * BLOCK_BYTES as u64;
                let cookie = client.send(Operation::Write, offset, data.len() as u32, &data)?;
                writing.insert(cookie, (first, count));
            }
            if writing.is_empty() {
                return Ok(());
            }
            let reply = client.receive()?;
            let (first, count) = writing.remove(&reply.cookie).ok_or(Fault::Protocol("strange cookie"))?;
            reply.result.map_err(Fault::Errno)?;
            self.acknowledge(first, count);
        }
    }

    /// Read every block that was ever written, and those of `whole` as well, and compare.
    pub fn check(&self, client: &mut Client, whole: bool) -> Result<u64, CheckFailed> {
        let mut checked = 0;
        let mut first_mismatch = None;
        let mut mismatches = 0;
        for start in (0..self.blocks.len() as u64).step_by(BLOCKS_PER_READ as usize) {
            let end = (start + BLOCKS_PER_READ).min(self.blocks.len() as u64);
            if !whole && self.blocks[start as usize..end as usize].iter().all(|block| block.sent == 0) {
                continue;
            }
            let bytes = (end - start) as u32 * BLOCK_BYTES as u32;
            let data = client
                .call(Operation::Read, start * BLOCK_BYTES as u64, bytes, &[])
                .map_err(CheckFailed::Unreadable)?;
            for (number, bytes) in (start..end).zip(data.chunks(BLOCK_BYTES)) {
                let block = self.blocks[number as usize];
                let found = content(number, bytes);
                checked += 1;
                if !block.may_hold(found) {
                    mismatches += 1;
                    first_mismatch.get_or_insert(Mismatch {
                        block: number,
                        acknowledged: block.acknowledged,
                        sent: block.sent,
                        found,
                    });
                }
            }
        }
        match first_mismatch {
            Some(first) => Err(CheckFailed::Mismatch(first, mismatches)),
            None => Ok(checked),
        }
    }

    /// Distinct blocks written since the versions of `earlier` (which must be of the same device), as KiB.
    pub fn changed_kib_since(&self, earlier: &Snapshot) -> u64 {
        let changed = self.blocks.iter().zip(&earlier.sent).filter(|(block, sent)| block.sent != **sent);
        changed.count() as u64 * BLOCK_BYTES as u64 / 1024
    }

    /// The versions sent so far.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { sent: self.blocks.iter().map(|block| block.sent).collect() }
    }

    fn pick(&mut self, span: u64, writing: &HashMap<u64, (u64, u64)>) -> Option<(u64, u64)> {
        (0..64).find_map(|_| {
            let first = self.draw() % span;
            let count = (1 + self.draw() % BLOCKS_PER_WRITE_MAX).min(span - first);
            let free = writing.values().all(|&(f, c)| first + count <= f || f + c <= first);
            free.then_some((first, count))
        })
    }

    fn next_version(&mut self, first: u64, count: u64) -> Vec<u8> {
        let mut data = vec![0; count as usize * BLOCK_BYTES];
        for (number, bytes) in (first..).zip(data.chunks_mut(BLOCK_BYTES)) {
            let block = &mut self.blocks[number as usize];
            block.sent += 1;
            fill(number, block.sent, bytes);
        }
        data
    }

    fn acknowledge(&mut self, first: u64, count: u64) {
        for block in &mut self.blocks[first as usize..(first + count) as usize] {
            block.acknowledged = block.sent;
        }
        self.acknowledged_writes += 1;
        self.acknowledged_bytes += count * BLOCK_BYTES as u64;
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }
}

/// See [`Ledger::snapshot`].
#[derive(Debug)]
pub struct Snapshot {
    sent: Vec<u32>,
}

impl Block {
    /// The last acknowledged version, or a later one that was sent.
    fn may_hold(self, found: Content) -> bool {
        match found {
            Content::Zero => self.acknowledged == 0,
            Content::Version(version) => (self.acknowledged..=self.sent).contains(&version),
            Content::Foreign => false,
        }
    }
}

fn fill(number: u64, version: u32, bytes: &mut [u8]) {
    let mut state = number << 32 | u64::from(version);
    bytes[..8].copy_from_slice(&state.to_le_bytes());
    for word in bytes[8..].chunks_mut(8) {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn content(number: u64, bytes: &[u8]) -> Content {
    if bytes.iter().all(|&byte| byte == 0) {
        return Content::Zero;
    }
    let mut expected = [0; BLOCK_BYTES];
    let version = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    fill(number, version, &mut expected);
    if bytes == expected {
        Content::Version(version)
    } else {
        Content::Foreign
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests;
