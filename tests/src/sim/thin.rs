//! Another kind of run: [upkeep] on disks that can give space back, so that resyncs tell of zeroes instead
//! of sending them. Its seeds begin at [`FIRST_SEED`], in the second half of those of upkeep. What it adds to the fault
//! model of `faults`: disks with a granularity of discards, and `rs-discard-granularity`. Zeroes are what users discard.

use super::prng::Prng;
use super::setup::Setup;
use super::upkeep;
use std::ops::Range;

/// Seeds from here on are of this kind.
pub const FIRST_SEED: u64 = upkeep::FIRST_SEED + (1 << 41);
const SEEDS: Range<u64> = FIRST_SEED..upkeep::FIRST_SEED << 1;

/// It is a seed of this kind.
pub(crate) fn is_wanted(seed: u64) -> bool {
    SEEDS.contains(&seed)
}

impl Setup {
    /// Disks for it, and options.
    pub(crate) fn make_thin(&mut self, dice: &mut Prng) {
        for node in &mut self.nodes {
            node.discard_granularity = dice.pick(&[0, 512, 4096, 4096, 16_384]);
            node.disk.rs_discard_granularity = dice.pick(&[0, 0, 4096, 8192, 65_536]);
        }
        // What is asked by checksum is not asked for zeroes.
        if dice.chance(700) {
            self.net.csums_alg = String::new();
        }
    }
}
