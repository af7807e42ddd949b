//! Another kind of run: devices grow while they are in use. Its seeds begin at [`FIRST_SEED`], so that it takes no dice from
//! the others. What it adds to the fault model of `faults`:
//!
//! - **Backing disks** grow, by so little that the new internal metadata overlaps the old, or by so much that it does not,
//!   both of a volume one after the other. What lies in the new part differs between the nodes; in some runs it is alike.
//! - **Administrators** ask for `resize` on either node, also while nothing has grown or only one disk has, with
//!   `--assume-clean` where what has grown is alike.
//! - **A loss of power** of either node in the middle of that.
//!
//! A node that comes back finds its metadata at the end of the disk or, as `drbdmeta check-resize` does, where the end was
//! before. The application writes into the new part as soon as both nodes keep the new size and the Primary shows it. What
//! is checked is what is checked of every run, with the new part: it is marked, or equal, or was said to be.
//!
//! *Not* modelled: devices that shrink, and data written over metadata that has moved.

use super::clock::{Time, MS, US};
use super::cluster::{Cluster, Happening};
use super::prng::Prng;
use super::setup::Setup;
use drbd_core::engine::AdminRequest;
use drbd_core::ids::{Sector, VolumeNumber};
use drbd_core::limits::PROTOCOL_MAX;
use std::ops::Range;

/// Seeds from here on are of this kind, as many as there are of each kind.
pub const FIRST_SEED: u64 = 1 << 44;
const SEEDS: Range<u64> = FIRST_SEED..FIRST_SEED << 1;

/// So much may a disk grow in a run.
const ROOM_BYTES: u64 = 4 << 20;
/// What a disk grows by: the first three move internal metadata over itself.
const STEPS: [u64; 5] = [4096, 20 << 10, 36 << 10, 512 << 10, 1 << 20];

/// It is a seed of this kind.
pub(crate) fn is_wanted(seed: u64) -> bool {
    SEEDS.contains(&seed)
}

/// Something that happens in such a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Growth {
    /// A backing disk grows.
    Disk { node: usize, volume: usize, bytes: u64 },
    /// `resize` to what both disks hold.
    Resize { node: usize, volume: usize },
    /// The power of a node fails, for a while.
    PowerFails { node: usize, lasts: Time },
}

impl Setup {
    /// What is special about the world of such a seed.
    pub(crate) fn let_grow(&mut self, dice: &mut Prng) {
        self.room_bytes = ROOM_BYTES;
        self.born_in_sync = true;
        self.grows_clean = dice.chance(200);
        self.nodes.iter_mut().for_each(|n| n.protocol_max = PROTOCOL_MAX);
    }
}

impl Cluster {
    /// Plans what grows, and when somebody asks for it.
    pub(crate) fn plan_growth(&mut self) {
        if !is_wanted(self.seed) {
            return;
        }
        let heal_at = self.setup.heal_at;
        for _ in 0..self.dice.changes.between(1, 6) {
            let dice = &mut self.dice.changes;
            let mut at = dice.between(heal_at / 20, heal_at);
            let (node, volume) = (dice.below(2) as usize, dice.below(self.sizes.len() as u64) as usize);
            let bytes = dice.pick(&STEPS);
            let (second, asked) = (dice.below(20) * MS, 25 * MS);
            let resize = Growth::Resize { node: dice.below(2) as usize, volume };
            let fails = dice.chance(600).then(|| dice.skewed(MS, 20 * MS, 200 * MS) + dice.below(1000) * US);
            let dies = Growth::PowerFails { node: dice.below(2) as usize, lasts: dice.between(1, 3000) * MS };
            let mut plan = vec![(asked, resize)];
            if dice.chance(900) {
                plan.push((0, Growth::Disk { node, volume, bytes }));
            }
            if dice.chance(900) {
                plan.push((second, Growth::Disk { node: 1 - node, volume, bytes }));
            }
            plan.extend(fails.map(|after| (asked + after, dies)));
            at = at.min(heal_at - 1);
            for (after, growth) in plan {
                self.clock.at(at + after, Happening::Growth(growth));
            }
        }
    }

    /// It happens.
    pub(crate) fn growth(&mut self, growth: Growth) {
        if self.healed_at.is_some() {
            return;
        }
        self.note(None, "GROWTH", format_args!("{growth:?}"));
        match growth {
            Growth::Disk { node, volume, bytes } => {
                self.nodes[node].volumes[volume].image.grow(bytes);
            }
            Growth::Resize { node, volume } => {
                let assume_clean = self.setup.grows_clean;
                let volume = VolumeNumber(volume as u16);
                let request =
                    AdminRequest::Resize { volume, size: 0, assume_peer_has_space: false, assume_clean };
                self.ask_beside(node, request);
            }
            Growth::PowerFails { node, lasts } => {
                self.lose_power(node);
                self.clock.after(lasts, Happening::Start { node });
            }
        }
    }

    /// A volume is as large as both nodes keep it and show it.
    pub(crate) fn look_at_sizes(&mut self) {
        if self.setup.room_bytes == 0 {
            return;
        }
        for volume in 0..self.sizes.len() {
            let size = (0..2).map(|n| self.size_of(n, volume)).min().expect("two nodes");
            if size > self.sizes[volume].0 {
                self.note(None, "SIZE", format_args!("volume {volume} has {size} sectors"));
                let place = self.dice.changes.between(self.sizes[volume].0, size - 1) / 8 * 8;
                self.sizes[volume] = Sector(size);
                self.workload.grow(volume, size, place);
            }
        }
    }

    /// As large as a node's metadata says, and as its users see.
    fn size_of(&self, node: usize, volume: usize) -> u64 {
        let disks = &self.nodes[node].volumes[volume];
        let kept = disks.image.load(disks.meta_area()).map_or(0, |l| l.super_block.effective_size);
        let status = self.nodes[node].daemon.as_ref().map(|d| d.resource.status());
        let devices = status.iter().flat_map(|s| &s.devices);
        let shown = devices.filter(|d| usize::from(d.volume.0) == volume).find_map(|d| d.size);
        kept.min(shown.unwrap_or(u64::MAX))
    }
}
