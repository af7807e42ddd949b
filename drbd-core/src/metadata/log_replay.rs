//! Reading the activity log back after a crash: which extents may have been written to.
//!
//! The ring holds the most recent transactions. At most the one that was being written when the power went may be
//! torn; its data had not been touched yet, so it may be ignored. Every other gap means that slots may be unknown,
//! and then nothing is guessed: the log counts as unreadable.

use super::{ring_block, LogTransaction, TransactionKind, BLOCK_BYTES};

/// What the log says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogState {
    /// Nothing was written since it was initialised.
    Untouched,
    /// These extents were active; sorted, no repeats.
    Active(Vec<u32>),
    /// No block is of a log of this format.
    NotALog,
    /// It is one, and it does not say what was active.
    Unusable,
}

/// Result of reading a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogReplay {
    /// What it says.
    pub state: LogState,
    /// Blocks with a wrong magic or checksum.
    pub corrupt_blocks: u32,
    /// Where initialising the log has to begin, going backwards in the order it is written in, so that it can be read
    /// whichever block is torn meanwhile: the damaged block, else the newest transaction.
    pub initialise_from: u32,
}

/// Reads a whole log area of `al_stripes * al_stripe_size_4k` blocks; missing bytes count as corrupt blocks.
pub fn replay(log: &[u8], al_stripes: u32, al_stripe_size_4k: u32) -> LogReplay {
    let ring = read_ring(log, al_stripes, al_stripe_size_4k);
    let corrupt = ring.iter().filter(|block| block.is_none()).count();
    // A second damaged block would be one too many; and what is left of a log that loses its newest is a log.
    let first = ring.iter().position(Option::is_none).or_else(|| newest(&ring));
    LogReplay {
        state: state_of(&ring, corrupt),
        corrupt_blocks: corrupt as u32,
        initialise_from: first.unwrap_or(0) as u32,
    }
}

type Ring = Vec<Option<Box<LogTransaction>>>;

/// The blocks in the order they are written in.
fn read_ring(log: &[u8], al_stripes: u32, al_stripe_size_4k: u32) -> Ring {
    let position = |n| ring_block(n, al_stripes, al_stripe_size_4k) as usize * BLOCK_BYTES;
    let decode = |n| {
        let bytes = log.get(position(n)..)?.first_chunk::<BLOCK_BYTES>()?;
        LogTransaction::decode(bytes).map(Box::new)
    };
    (0..al_stripes * al_stripe_size_4k).map(decode).collect()
}

fn state_of(ring: &Ring, corrupt: usize) -> LogState {
    if corrupt == ring.len() {
        return LogState::NotALog;
    }
    let Some(newest) = newest(ring) else {
        // The very first transaction may have been torn, or a block that was just being initialised: what it had named
        // before is in the bitmap then.
        return if corrupt <= 1 { LogState::Untouched } else { LogState::Unusable };
    };
    let run = run_ending_at(ring, newest);
    let mut slots = SlotTable::default();
    for n in run.positions.iter().rev() {
        if let Some(transaction) = &ring[*n] {
            slots.apply(transaction);
        }
    }
    if run.known_start || slots.all_known() {
        LogState::Active(slots.active())
    } else {
        LogState::Unusable
    }
}

fn update(block: &Option<Box<LogTransaction>>) -> Option<&LogTransaction> {
    block.as_deref().filter(|t| t.kind == TransactionKind::Update)
}

/// Position of the newest transaction; numbers wrap, so they compare by their distance.
fn newest(ring: &Ring) -> Option<usize> {
    let mut newest: Option<(usize, u32)> = None;
    for (n, block) in ring.iter().enumerate() {
        let Some(transaction) = update(block) else { continue };
        let newer = newest.is_none_or(|(_, number)| transaction.tr_number.wrapping_sub(number) as i32 > 0);
        if newer {
            newest = Some((n, transaction.tr_number));
        }
    }
    newest.map(|(n, _)| n)
}

struct Run {
    /// From the newest back to the oldest.
    positions: Vec<usize>,
    /// Nothing is missing before the oldest: the log had just been initialised, or the ring is whole and its contexts
    /// have been all around the table. Slots not named are empty.
    known_start: bool,
}

fn run_ending_at(ring: &Ring, newest: usize) -> Run {
    let mut positions = vec![newest];
    let mut number = update(&ring[newest]).map_or(0, |t| t.tr_number);
    let mut at = newest;
    while positions.len() < ring.len() {
        let before = (at + ring.len() - 1) % ring.len();
        number = number.wrapping_sub(1);
        match &ring[before] {
            Some(t) if t.kind == TransactionKind::Initialised => {
                return Run { positions, known_start: true };
            }
            Some(t) if t.tr_number == number => positions.push(before),
            Some(_) | None => return Run { positions, known_start: false },
        }
        at = before;
    }
    Run { positions, known_start: true }
}

/// Slot to extent; slots grow on demand up to the 65,536 a number can name.
#[derive(Default)]
struct SlotTable {
    slots: Vec<Option<u32>>,
    size: usize,
}

impl SlotTable {
    fn apply(&mut self, transaction: &LogTransaction) {
        self.size = usize::from(transaction.context_size);
        for (slot, extent) in transaction.described() {
            self.set(slot, extent);
        }
        for (slot, extent) in transaction.updates() {
            self.set(*slot, *extent);
        }
    }

    fn set(&mut self, slot: u16, extent: u32) {
        let slot = usize::from(slot);
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(extent);
    }

    fn all_known(&self) -> bool {
        self.slots.len() >= self.size && self.slots[..self.size].iter().all(Option::is_some)
    }

    fn active(&self) -> Vec<u32> {
        let mut extents: Vec<u32> = self
            .slots
            .iter()
            .copied()
            .flatten()
            .filter(|extent| *extent != LogTransaction::NO_EXTENT)
            .collect();
        extents.sort_unstable();
        extents.dedup();
        extents
    }
}

#[cfg(test)]
mod tests;
