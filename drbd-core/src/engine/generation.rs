//! Generations of data: which copy is newer, and since when two copies differ.
//!
//! A generation is a random number given to the data whenever it begins to change without the peer. Each node keeps
//! the `current` one, the one its bitmap counts from (`bitmap`, 0 = the bitmap means nothing), and older ones. Bit 0
//! of a number remembers the role ("was Primary") and takes no part in comparisons, except where said.
//!
//! The moves and the comparison are DRBD 8.4's (6.2 to 6.4 of the wire reference): both nodes compare on their own and
//! must come to mirrored results. 32 generations of history are kept as DRBD 9's metadata has room for; dialect 8.4
//! sends and compares two.

use crate::metadata::{SuperBlock, UUID_JUST_CREATED};
use crate::wire::Uuids;

mod compare;
pub mod compare9;

pub use compare::{CompareContext, Comparison, Repair, Strategy};

#[cfg(test)]
mod tests;

/// What is added to the bitmap's generation to name a resync from it.
pub const RESYNC_OFFSET: u64 = 0x0001_0000_0000_0000;

/// The bit of a generation that tells the role.
pub const ROLE_BIT: u64 = 1;

/// The generations of one volume towards one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GenerationSet {
    /// Of the data as it is.
    pub current: u64,
    /// What the bitmap counts from; 0 = it means nothing.
    pub bitmap: u64,
    /// Older ones, youngest first.
    pub history: [u64; 32],
}

impl GenerationSet {
    /// Of freshly made metadata.
    pub const JUST_CREATED: GenerationSet =
        GenerationSet { current: UUID_JUST_CREATED, bitmap: 0, history: [0; 32] };

    /// The generations of `super_block`, with the bitmap's of that entry of `peers` (v08: 0).
    ///
    /// # Panics
    /// If `peer` is not below 32.
    pub fn load(super_block: &SuperBlock, peer: usize) -> GenerationSet {
        GenerationSet {
            current: super_block.current_uuid,
            bitmap: super_block.peers[peer].bitmap_uuid,
            history: super_block.history,
        }
    }

    /// Puts the generations into `super_block`, the counterpart of [`GenerationSet::load`].
    ///
    /// # Panics
    /// If `peer` is not below 32.
    pub fn store(&self, super_block: &mut SuperBlock, peer: usize) {
        super_block.current_uuid = self.current;
        super_block.peers[peer].bitmap_uuid = self.bitmap;
        super_block.history = self.history;
    }

    /// The two youngest of the history, as dialect 8.4 sends them.
    pub const fn wire_history(&self) -> [u64; 2] {
        [self.history[0], self.history[1]]
    }

    /// The data was never given a generation.
    pub const fn is_just_created(&self) -> bool {
        self.current == UUID_JUST_CREATED
    }

    /// Bit 0 of the current generation tells the role: on promotion, demotion and attach.
    pub fn mark_role(&mut self, primary: bool) {
        self.set_current(self.current, primary);
    }

    /// The data begins to differ from the peer's: what was current becomes what the bitmap counts from. `random` names
    /// the new generation. To be written to disk before the data changes.
    pub fn begin_new(&mut self, random: u64, primary: bool) {
        self.bitmap = self.current;
        self.set_current(random, primary);
    }

    /// The data is about to be written without the peer; `random` names the new generation if there has to be one.
    /// Returns whether there is, to be written to disk before the data changes.
    ///
    /// There has to be one as long as the bitmap counts from nothing; where a resync from here may have ended without
    /// this node knowing: then the peer has the current generation; and where it is `known_elsewhere`: a Primary without
    /// disk would take data written here meanwhile for that which it used, and send older requests over it. The bitmap
    /// goes on counting in these two cases, in which 8.4 begins none: its peer, once written, seems to be the only one
    /// that was.
    pub fn begin_apart(&mut self, known_elsewhere: bool, random: u64, primary: bool) -> bool {
        let begins = self.bitmap == 0 || known_elsewhere || self.is_resync_from_here_open();
        if self.bitmap == 0 {
            self.begin_new(random, primary);
        } else if begins {
            self.push_history(self.current);
            self.set_current(random, primary);
        }
        begins
    }

    /// The bitmap's generation is the name of a resync from here, and nothing began since; or its end was kept by half:
    /// in DRBD 9's super block the history is in other sectors, and may be there alone when the write was torn.
    fn is_resync_from_here_open(&self) -> bool {
        let counted_from = self.history[0];
        self.bitmap != 0
            && (counted_from == UUID_JUST_CREATED
                || counted_from.wrapping_add(RESYNC_OFFSET) == self.bitmap
                || counted_from == self.bitmap)
    }

    /// The bitmap counts from `generation` (of which the role is dropped); with 0 it means nothing any more, and what
    /// it counted from becomes history.
    pub fn set_bitmap(&mut self, generation: u64) {
        if generation != 0 {
            self.bitmap = generation & !ROLE_BIT;
        } else if self.bitmap != 0 {
            self.push_history(self.bitmap);
            self.bitmap = 0;
        }
    }

    /// A comparison made this node source. If nothing but the bitmap told that it is ahead of `target`, a new
    /// generation tells it from here on, Primary or not: whatever becomes of the resync, the next comparison finds this
    /// node ahead, or both if the target is written too. Returns whether there is a new generation, to be written to
    /// disk.
    ///
    /// 8.4 does so only when a Primary loses contact before the resync began, and forgets the rest (decision 0010).
    pub fn get_ahead_of(&mut self, target: &Uuids, random: u64, primary: bool) -> bool {
        let same = self.current & !ROLE_BIT == target.current & !ROLE_BIT;
        if same {
            self.set_bitmap(0);
            self.begin_new(random, primary);
        }
        same
    }

    /// A resync from this node begins. Returns its name, to be sent to the target (P_SYNC_UUID): what the bitmap counts
    /// from plus an offset, so that the set tells what it is. `random` is used if the bitmap counts from nothing.
    pub fn begin_resync_as_source(&mut self, random: u64) -> u64 {
        if self.bitmap == 0 {
            self.bitmap = random;
        }
        let name = match self.bitmap {
            UUID_JUST_CREATED => random,
            counted_from => counted_from.wrapping_add(RESYNC_OFFSET),
        };
        self.replace_bitmap(name);
        name
    }

    /// A resync to this node begins; `name` is what the source called it.
    pub fn begin_resync_as_target(&mut self, name: u64, primary: bool) {
        self.set_current(name, primary);
        self.bitmap = 0;
    }

    /// A resync from this node is complete. The peer's generations are ours from now on.
    pub fn finish_resync_as_source(&mut self) {
        self.set_bitmap(0);
    }

    /// A resync to this node is complete; `source` is what the peer announced before it began. The peer's
    /// generations are ours from now on.
    pub fn finish_resync_as_target(&mut self, source: &Uuids, primary: bool) {
        self.bitmap = source.bitmap;
        self.history[..2].copy_from_slice(&source.history);
        self.replace_bitmap(self.current);
        self.set_current(source.current, primary);
        self.set_bitmap(0);
    }

    /// `new-current-uuid`: a lone node starts afresh, or both sides are declared equal without a resync (then the
    /// bitmap is cleared and `bitmap` set to 0 once the peer was told).
    pub fn begin_new_forgetting(&mut self, random: u64, primary: bool) {
        self.replace_bitmap(0);
        self.begin_new(random, primary);
    }

    /// The peer declared both sides equal (P_UUIDS with SKIP_INITIAL_SYNC).
    pub fn adopt(&mut self, current: u64, primary: bool) {
        self.set_current(current, primary);
        self.bitmap = 0;
    }

    fn set_current(&mut self, generation: u64, primary: bool) {
        self.current = generation & !ROLE_BIT | u64::from(primary);
    }

    /// Unlike [`GenerationSet::set_bitmap`] keeps all 64 bits, and what was there is always history.
    fn replace_bitmap(&mut self, generation: u64) {
        if self.bitmap != 0 {
            self.push_history(self.bitmap);
        }
        self.bitmap = generation;
    }

    fn push_history(&mut self, generation: u64) {
        self.history.rotate_right(1);
        self.history[0] = generation;
    }
}
