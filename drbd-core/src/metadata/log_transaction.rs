//! One transaction of the activity log: a checksummed 4 KiB block, big endian.
//!
//! It names up to 64 slots that change their extent and carries a window (the context) of the whole slot table, so
//! that a ring of recent transactions describes every slot.

use super::BLOCK_BYTES;
use crate::limits::{TRANSACTION_CONTEXT, TRANSACTION_UPDATES_MAX};

const MAGIC: u32 = 0x69CB_65A2;
const KIND_UPDATE: u16 = 0;
const KIND_INITIALISED: u16 = 0xFFFF;
const SLOTS_AT: usize = 36;
const EXTENTS_AT: usize = 164;
const CONTEXT_AT: usize = 420;
const CRC_AT: std::ops::Range<usize> = 8..12;

type Block = [u8; BLOCK_BYTES];

/// What a block of the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionKind {
    /// A transaction.
    Update,
    /// Never used since the log was initialised.
    Initialised,
}

/// One transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogTransaction {
    /// Increases by one from transaction to transaction and wraps.
    pub tr_number: u32,
    /// What the block is.
    pub kind: TransactionKind,
    /// Slot and its new extent; only the first [`n_updates`](LogTransaction::n_updates) count.
    pub updates: [(u16, u32); TRANSACTION_UPDATES_MAX],
    /// How many updates there are.
    pub n_updates: u16,
    /// Slots of the whole table.
    pub context_size: u16,
    /// First slot that the context describes.
    pub context_start: u16,
    /// Extents of the slots from `context_start` on, [`NO_EXTENT`](LogTransaction::NO_EXTENT) = empty.
    pub context: [u32; TRANSACTION_CONTEXT],
}

impl LogTransaction {
    /// An empty slot.
    pub const NO_EXTENT: u32 = u32::MAX;
    const NO_SLOT: u16 = u16::MAX;

    /// A transaction that changes nothing yet.
    pub const fn empty(tr_number: u32) -> LogTransaction {
        LogTransaction {
            tr_number,
            kind: TransactionKind::Update,
            updates: [(LogTransaction::NO_SLOT, LogTransaction::NO_EXTENT); TRANSACTION_UPDATES_MAX],
            n_updates: 0,
            context_size: 0,
            context_start: 0,
            context: [LogTransaction::NO_EXTENT; TRANSACTION_CONTEXT],
        }
    }

    /// Adds an update; false if 64 are there already.
    pub fn push_update(&mut self, slot: u16, extent: u32) -> bool {
        let Some(free) = self.updates.get_mut(usize::from(self.n_updates)) else { return false };
        *free = (slot, extent);
        self.n_updates += 1;
        true
    }

    /// The updates that count.
    pub fn updates(&self) -> &[(u16, u32)] {
        &self.updates[..usize::from(self.n_updates).min(TRANSACTION_UPDATES_MAX)]
    }

    /// The slots the context describes, each with its extent.
    pub fn described(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        (self.context_start..self.context_size).zip(self.context.iter().copied())
    }

    /// Writes all 4096 bytes, checksum included.
    pub fn encode(&self, block: &mut Block) {
        block.fill(0);
        let kind = match self.kind {
            TransactionKind::Update => KIND_UPDATE,
            TransactionKind::Initialised => KIND_INITIALISED,
        };
        block[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        block[4..8].copy_from_slice(&self.tr_number.to_be_bytes());
        block[12..14].copy_from_slice(&kind.to_be_bytes());
        if self.kind == TransactionKind::Update {
            self.encode_tables(block);
        }
        let crc = crc32c_raw(block);
        block[CRC_AT].copy_from_slice(&crc.to_be_bytes());
    }

    fn encode_tables(&self, block: &mut Block) {
        block[14..16].copy_from_slice(&self.n_updates.to_be_bytes());
        block[16..18].copy_from_slice(&self.context_size.to_be_bytes());
        block[18..20].copy_from_slice(&self.context_start.to_be_bytes());
        block[SLOTS_AT..CONTEXT_AT].fill(0xFF);
        for (n, (slot, extent)) in self.updates().iter().enumerate() {
            block[SLOTS_AT + 2 * n..][..2].copy_from_slice(&slot.to_be_bytes());
            block[EXTENTS_AT + 4 * n..][..4].copy_from_slice(&extent.to_be_bytes());
        }
        for (bytes, extent) in block[CONTEXT_AT..].chunks_exact_mut(4).zip(self.context.iter()) {
            bytes.copy_from_slice(&extent.to_be_bytes());
        }
    }

    /// Reads a block. `None`: never written, torn, or not of the log.
    pub fn decode(block: &Block) -> Option<LogTransaction> {
        if u32_at(block, 0) != MAGIC || u32_at(block, 8) != crc32c_raw(block) {
            return None;
        }
        let mut decoded = LogTransaction::empty(u32_at(block, 4));
        decoded.kind = match u16_at(block, 12) {
            KIND_UPDATE => TransactionKind::Update,
            KIND_INITIALISED => {
                decoded.kind = TransactionKind::Initialised;
                return Some(decoded);
            }
            _ => return None,
        };
        decoded.n_updates = u16_at(block, 14);
        if usize::from(decoded.n_updates) > TRANSACTION_UPDATES_MAX {
            return None;
        }
        decoded.context_size = u16_at(block, 16);
        decoded.context_start = u16_at(block, 18);
        for (n, update) in decoded.updates.iter_mut().enumerate().take(usize::from(decoded.n_updates)) {
            *update = (u16_at(block, SLOTS_AT + 2 * n), u32_at(block, EXTENTS_AT + 4 * n));
        }
        for (n, extent) in decoded.context.iter_mut().enumerate() {
            *extent = u32_at(block, CONTEXT_AT + 4 * n);
        }
        Some(decoded)
    }
}

/// Writes the bytes of a block of a freshly initialised log.
pub fn encode_initialised(block: &mut Block) {
    block.fill(0);
    block[0..4].copy_from_slice(&MAGIC.to_be_bytes());
    block[12..14].copy_from_slice(&KIND_INITIALISED.to_be_bytes());
    let crc = crc32c_raw(block);
    block[CRC_AT].copy_from_slice(&crc.to_be_bytes());
}

/// Which block of the log area transaction `tr_number` is written to. Consecutive transactions go to different
/// stripes, so that they land on different disks of an array.
pub const fn ring_block(tr_number: u32, al_stripes: u32, al_stripe_size_4k: u32) -> u32 {
    let position = tr_number % (al_stripes * al_stripe_size_4k);
    position % al_stripes * al_stripe_size_4k + position / al_stripes
}

/// Castagnoli as the kernel's `crc32c(0, …)` computes it over a block whose checksum field is 0: no inversion before
/// or after.
fn crc32c_raw(block: &Block) -> u32 {
    let crc = crc32c::crc32c_append(!0, &block[..CRC_AT.start]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    !crc32c::crc32c_append(crc, &block[CRC_AT.end..])
}

fn u16_at(block: &Block, at: usize) -> u16 {
    u16::from_be_bytes([block[at], block[at + 1]])
}

fn u32_at(block: &Block, at: usize) -> u32 {
    u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

#[cfg(test)]
mod tests;
