//! What the application on the Primary asks for: reads, writes, discards, zeroes and flushes at a few busy places,
//! overlapping and several at a time.

use super::prng::Prng;
use drbd_core::engine::UpperOp;
use drbd_core::ids::Sector;

/// Sectors of the largest request with data: more than a front end may ask at once.
const REQUEST_MAX: u64 = 3000;

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Which volume.
    pub(crate) volume: usize,
    /// What.
    pub(crate) op: UpperOp,
    /// First sector.
    pub(crate) sector: u64,
    /// Sectors.
    pub(crate) count: u64,
    /// Write through.
    pub(crate) fua: bool,
}

/// The application.
#[derive(Debug)]
pub(crate) struct Workload {
    /// By volume: where it is busy.
    places: Vec<Vec<u64>>,
    sizes: Vec<u64>,
    aligned: bool,
    flushes_per_mille: u64,
    reads_per_mille: u64,
    discards_per_mille: u64,
    /// Discards reach that far at most, in sectors.
    discard_max: u64,
}

impl Workload {
    /// An application for volumes of those sizes.
    pub(crate) fn draw(dice: &mut Prng, sizes: &[Sector], discard_max: u64) -> Workload {
        let sizes: Vec<u64> = sizes.iter().map(|s| s.0).collect();
        let count = dice.between(1, 12);
        let places =
            sizes.iter().map(|size| (0..count).map(|_| dice.below(size - 64) / 8 * 8).collect()).collect();
        Workload {
            places,
            sizes,
            aligned: dice.chance(600),
            flushes_per_mille: dice.pick(&[0, 30, 200]),
            reads_per_mille: dice.pick(&[0, 100, 400]),
            discards_per_mille: dice.pick(&[0, 20, 100]),
            discard_max,
        }
    }

    /// A volume has become larger: the application is busy in its new part, too.
    pub(crate) fn grow(&mut self, volume: usize, size: u64, place: u64) {
        self.sizes[volume] = size;
        self.places[volume].push(place);
    }

    /// The next request.
    pub(crate) fn next(&self, dice: &mut Prng) -> Wish {
        let volume = dice.below(self.sizes.len() as u64) as usize;
        if dice.chance(self.flushes_per_mille) {
            return Wish { volume, op: UpperOp::Flush, sector: 0, count: 0, fua: false };
        }
        let size = self.sizes[volume];
        let mut sector = dice.pick(&self.places[volume]) + dice.below(48);
        let mut count = if dice.chance(30) { dice.between(1, REQUEST_MAX) } else { dice.skewed(1, 8, 64) };
        let op = if dice.chance(self.reads_per_mille) {
            UpperOp::Read
        } else if dice.chance(self.discards_per_mille) {
            if dice.chance(200) {
                count = dice.between(8, self.discard_max);
            }
            match dice.below(3) {
                0 => UpperOp::Discard,
                1 => UpperOp::WriteZeroes { unmap: false },
                _ => UpperOp::WriteZeroes { unmap: true },
            }
        } else {
            UpperOp::Write
        };
        if self.aligned {
            sector = sector / 8 * 8;
            count = count.div_ceil(8) * 8;
        }
        sector = sector.min(size - 1);
        count = count.min(size - sector);
        let fua = op != UpperOp::Read && dice.chance(self.flushes_per_mille / 2);
        Wish { volume, op, sector, count, fua }
    }
}
