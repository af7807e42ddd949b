//! What users were promised: a write that was acknowledged is there, whatever happens, until a later one covers it.

use crate::engine::UpperResult;
use crate::ids::UpperTag;
use std::ops::Range;

/// A write of a scenario; contents are different from each other.
#[derive(Debug)]
struct Write {
    tag: UpperTag,
    blocks: Range<u64>,
    content: u32,
    issued: u64,
    /// When it ended, and whether it was acknowledged.
    ended: Option<(u64, bool)>,
    /// The story says that it is given up.
    lost: bool,
}

/// All writes, in the order in which they were asked for.
#[derive(Default, Debug)]
pub(super) struct Promises {
    writes: Vec<Write>,
    moment: u64,
}

impl Promises {
    pub(super) fn issue(&mut self, tag: UpperTag, blocks: Range<u64>, content: u32) {
        self.moment += 1;
        let issued = self.moment;
        self.writes.push(Write { tag, blocks, content, issued, ended: None, lost: false });
    }

    pub(super) fn ended(&mut self, tag: UpperTag, result: UpperResult) {
        self.moment += 1;
        if let Some(write) = self.writes.iter_mut().find(|write| write.tag == tag) {
            write.ended = Some((self.moment, result == UpperResult::Done));
        }
    }

    /// Acknowledged writes that the story gives up.
    pub(super) fn give_up(&mut self, blocks: &Range<u64>, content: u32) {
        let found = self.writes.iter_mut().find(|w| w.blocks == *blocks && w.content == content);
        let write = found.unwrap_or_else(|| panic!("{content} was not written to {blocks:?}"));
        assert!(write.ended.is_some_and(|(_, done)| done), "{content} was never acknowledged");
        write.lost = true;
    }

    /// What a block may hold: the last acknowledged content, or one that was asked for and not covered since.
    pub(super) fn allowed(&self, block: u64) -> Vec<u32> {
        let here = || self.writes.iter().filter(|w| w.blocks.contains(&block) && !w.lost);
        let acknowledged = |w: &&Write| w.ended.is_some_and(|(_, done)| done);
        let covered = |write: &Write| {
            let end = write.ended.map_or(u64::MAX, |(end, _)| end);
            here().filter(acknowledged).any(|later| later.issued > end)
        };
        let mut allowed: Vec<u32> = here().filter(|w| !covered(w)).map(|w| w.content).collect();
        if !here().any(|w| acknowledged(&w)) {
            allowed.push(0);
        }
        allowed
    }

    /// Blocks that were ever written, and whether what is given up is gone from them.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u64> + '_ {
        self.writes.iter().flat_map(|w| w.blocks.clone())
    }

    /// Writes nobody has heard of again.
    pub(super) fn unanswered(&self) -> usize {
        self.writes.iter().filter(|w| w.ended.is_none()).count()
    }
}
