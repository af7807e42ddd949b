//! Generations are random numbers: which of the engine's is which of the captured node's.

use drbd_core::wire::{Frame, Packet};
use std::collections::HashMap;

/// Bit 0 tells the role and is compared; the values below are the same everywhere (none, just created).
const ROLE: u64 = 1;
const SAME_BELOW: u64 = 16;
/// By how much the generation of a bitmap differs from the one it follows, if it follows one.
const BITMAP_OFFSET: u64 = 1 << 48;

/// Generations without bit 0 by the other node's, and a bit 0 that was random as well and differs.
type Table = HashMap<u64, (u64, u64)>;

/// See the module.
#[derive(Default)]
pub(super) struct Generations {
    theirs_by_ours: Table,
    ours_by_theirs: Table,
}

impl Generations {
    /// Two packets stand for each other: generations that neither has told before do, too.
    pub(super) fn learn(&mut self, ours: &Frame, theirs: &Frame) {
        let all_random = matches!(theirs.packet, Packet::SyncUuid(_));
        for (ours, theirs) in all(&ours.packet).into_iter().zip(all(&theirs.packet)) {
            let flip = (ours ^ theirs) & ROLE;
            let (ours, theirs) = (ours & !ROLE, theirs & !ROLE);
            let known = self.theirs_by_ours.contains_key(&ours) || self.ours_by_theirs.contains_key(&theirs);
            if known || ours < SAME_BELOW || theirs < SAME_BELOW {
                continue;
            }
            let follows = self.ours_by_theirs.contains_key(&theirs.wrapping_sub(BITMAP_OFFSET));
            let flip = if all_random && !follows { flip } else { 0 };
            self.theirs_by_ours.insert(ours, (theirs, flip));
            self.ours_by_theirs.insert(theirs, (ours, flip));
        }
    }

    /// A packet of the captured peer, with the engine's generations.
    pub(super) fn to_ours(&self, frame: Frame) -> Frame {
        translate(frame, &self.ours_by_theirs)
    }

    /// A packet of the engine, with the captured node's generations.
    pub(super) fn to_theirs(&self, frame: Frame) -> Frame {
        translate(frame, &self.theirs_by_ours)
    }
}

fn translate(mut frame: Frame, table: &Table) -> Frame {
    each(&mut frame.packet, |uuid| {
        if let Some((other, flip)) = table.get(&(*uuid & !ROLE)) {
            *uuid = other | (*uuid ^ flip) & ROLE;
        }
    });
    frame
}

fn each(packet: &mut Packet, mut change: impl FnMut(&mut u64)) {
    match packet {
        Packet::Uuids(uuids) => {
            let [younger, older] = &mut uuids.history;
            [&mut uuids.current, &mut uuids.bitmap, younger, older].into_iter().for_each(change);
        }
        Packet::SyncUuid(uuid) => change(uuid),
        _ => {}
    }
}

fn all(packet: &Packet) -> Vec<u64> {
    let mut found = Vec::new();
    each(&mut packet.clone(), |uuid| found.push(*uuid));
    found
}
