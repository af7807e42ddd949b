//! A disk with a volatile cache.
//!
//! Content is one tag per 512-byte sector; metadata is real bytes, because the engine's own encoders and readers work
//! on them. A completed write is in the cache: reads see it, but until a flush it may be lost when power fails, alone
//! or together with others, wholly or torn at 512 or 4096 bytes. An operation outstanding at a crash has happened,
//! has not, or has in part. A flush or a write with FUA that completed is never lost; *not* modelled are bit rot and
//! disks that lie about a flush.

use super::prng::Prng;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Content of a sector: 0, the mark of a write, or the mark of what was there at the beginning.
pub(crate) type Tag = u64;

/// Bytes of a metadata block.
pub(crate) const BLOCK: usize = 4096;

/// What a write does.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Data, one tag per sector.
    Tags(u64, Rc<Vec<Tag>>),
    /// So many sectors become zero.
    Zero(u64, u64),
    /// The metadata block at that byte of the metadata area.
    Block(usize, Box<[u8; BLOCK]>),
}

/// An operation.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Sectors to read, and whether what is read is what was there when it began (else: when it ended).
    Read(u64, u64, Option<Vec<Tag>>),
    /// Write; `preflush`: everything completed before becomes stable first; `fua`: stable when done.
    Write {
        /// What.
        change: Change,
        /// Flush first.
        preflush: bool,
        /// Stable when done.
        fua: bool,
    },
    /// Everything completed before becomes stable.
    Flush,
}

#[derive(Debug)]
struct Outstanding {
    operation: Operation,
    /// The cache as it was when a flush was asked for.
    asked_at: u64,
}

#[derive(Debug)]
struct Cached {
    number: u64,
    change: Change,
    /// Written through: never lost.
    durable: bool,
}

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    current: Vec<Tag>,
    stable: Vec<Tag>,
    meta: Vec<u8>,
    meta_stable: Vec<u8>,
    cache: Vec<Cached>,
    written: u64,
    outstanding: BTreeMap<u64, Outstanding>,
    /// Writes are stable when done (a battery).
    pub(crate) write_through: bool,
    /// Where a write tears: 1 or 8 sectors.
    pub(crate) tears_at: u64,
    /// Operations fail so many times in a thousand.
    pub(crate) errors_per_mille: u64,
    /// Nothing completes before that time.
    pub(crate) stalled_until: u64,
    /// No write of data goes well before that time.
    pub(crate) full_until: u64,
    /// No write of metadata does.
    pub(crate) meta_full_until: u64,
    /// Flushes carried out.
    pub(crate) flushes: u64,
}

impl Disk {
    /// A disk of that many sectors for data and bytes for metadata.
    pub(crate) fn new(content: Vec<Tag>, meta: Vec<u8>) -> Disk {
        Disk {
            stable: content.clone(),
            current: content,
            meta_stable: meta.clone(),
            meta,
            cache: Vec::new(),
            written: 0,
            outstanding: BTreeMap::new(),
            write_through: false,
            tears_at: 1,
            errors_per_mille: 0,
            stalled_until: 0,
            full_until: 0,
            meta_full_until: 0,
            flushes: 0,
        }
    }

    /// What reads see.
    pub(crate) fn current(&self) -> &[Tag] {
        &self.current
    }

    /// The metadata area as reads see it.
    pub(crate) fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// A sector changes by itself, also below the cache; returns what was there.
    pub(crate) fn rot(&mut self, sector: u64, tag: Tag) -> Tag {
        for cached in &mut self.cache {
            if let Change::Tags(first, tags) = &mut cached.change {
                if (*first..*first + tags.len() as u64).contains(&sector) {
                    Rc::make_mut(tags)[(sector - *first) as usize] = tag;
                }
            }
        }
        self.stable[sector as usize] = tag;
        std::mem::replace(&mut self.current[sector as usize], tag)
    }

    /// What a sector holds at least after power failed.
    pub(crate) fn stable_at(&self, sector: u64) -> Tag {
        let mut tag = self.stable[sector as usize];
        for cached in self.cache.iter().filter(|c| c.durable) {
            match &cached.change {
                Change::Tags(first, tags) if (*first..first + tags.len() as u64).contains(&sector) => {
                    tag = tags[(sector - first) as usize];
                }
                Change::Zero(first, count) if (*first..first + count).contains(&sector) => tag = 0,
                Change::Tags(..) | Change::Zero(..) | Change::Block(..) => {}
            }
        }
        tag
    }

    /// Begins an operation under a number. An overlap of two writes is against the engine's contract.
    pub(crate) fn begin(&mut self, number: u64, operation: Operation) -> Result<(), String> {
        if let Operation::Write { change, .. } = &operation {
            for other in self.outstanding.values() {
                if let Operation::Write { change: theirs, .. } = &other.operation {
                    if overlap(change, theirs) {
                        return Err(format!("overlapping writes outstanding: {change:?} and {theirs:?}"));
                    }
                }
            }
        }
        let operation = match operation {
            Operation::Read(first, count, Some(_)) => {
                let then = self.current[first as usize..(first + count) as usize].to_vec();
                Operation::Read(first, count, Some(then))
            }
            Operation::Read(..) | Operation::Write { .. } | Operation::Flush => operation,
        };
        self.outstanding.insert(number, Outstanding { operation, asked_at: self.written });
        Ok(())
    }

    /// Carries an operation out; for a read, what it read. `None`: it failed.
    pub(crate) fn finish(&mut self, number: u64, dice: &mut Prng) -> Option<(Operation, Vec<Tag>)> {
        let outstanding = self.outstanding.remove(&number).expect("an operation that was begun");
        if self.errors_per_mille > 0 && dice.chance(self.errors_per_mille) {
            if let Operation::Write { change, preflush, .. } = &outstanding.operation {
                self.happen_in_part(change, preflush.then_some(outstanding.asked_at), dice);
            }
            return None;
        }
        let mut read = Vec::new();
        match &outstanding.operation {
            Operation::Read(first, count, then) => {
                read = match then {
                    Some(then) => then.clone(),
                    None => self.current[*first as usize..(first + count) as usize].to_vec(),
                };
            }
            Operation::Write { change, preflush, fua } => {
                if *preflush {
                    self.settle(outstanding.asked_at);
                }
                self.write(change.clone(), *fua);
            }
            Operation::Flush => self.settle(outstanding.asked_at),
        }
        self.destage(dice);
        Some((outstanding.operation, read))
    }

    /// An operation fails without effect.
    pub(crate) fn refuse(&mut self, number: u64) {
        self.outstanding.remove(&number).expect("an operation that was begun");
    }

    /// The daemon died: what was outstanding has happened, has not, or has in part; the cache stays.
    pub(crate) fn abandon(&mut self, dice: &mut Prng) {
        for (_, outstanding) in std::mem::take(&mut self.outstanding) {
            match &outstanding.operation {
                Operation::Read(..) => {}
                Operation::Write { change, preflush, fua } => match dice.below(3) {
                    0 => {}
                    1 => {
                        if *preflush {
                            self.settle(outstanding.asked_at);
                        }
                        self.write(change.clone(), *fua);
                    }
                    _ => self.happen_in_part(change, preflush.then_some(outstanding.asked_at), dice),
                },
                Operation::Flush => {
                    if dice.chance(500) {
                        self.settle(outstanding.asked_at);
                    }
                }
            }
        }
    }

    /// Power failed: every write that was not stable survives, is lost or is torn, each for itself.
    pub(crate) fn lose_power(&mut self, dice: &mut Prng) {
        self.abandon(dice);
        let mood = dice.below(3);
        for cached in std::mem::take(&mut self.cache) {
            let survives = match mood {
                0 => dice.chance(500),
                1 => dice.chance(50),
                _ => dice.chance(900),
            };
            let torn = !cached.durable && dice.chance(150);
            if cached.durable || (survives && !torn) {
                apply(&mut self.stable, &mut self.meta_stable, &cached.change);
            } else if torn {
                for part in parts(&cached.change, self.tears_at) {
                    if dice.chance(500) {
                        apply_part(&mut self.stable, &mut self.meta_stable, &cached.change, part);
                    }
                }
            }
        }
        self.current.copy_from_slice(&self.stable);
        self.meta.copy_from_slice(&self.meta_stable);
    }

    /// The metadata area is written from outside (create-md, apply-al), stable at once.
    pub(crate) fn rewrite_meta(&mut self, change: impl FnOnce(&mut [u8])) {
        self.settle(self.written);
        change(&mut self.meta);
        self.meta_stable.copy_from_slice(&self.meta);
    }

    fn write(&mut self, change: Change, fua: bool) {
        apply(&mut self.current, &mut self.meta, &change);
        self.written += 1;
        let durable = fua || self.write_through;
        self.cache.push(Cached { number: self.written, change, durable });
    }

    /// Some parts of a write happen, and the flush that goes before them if there is one.
    fn happen_in_part(&mut self, change: &Change, flushes: Option<u64>, dice: &mut Prng) {
        if let Some(asked_at) = flushes {
            self.settle(asked_at);
        }
        if let Change::Block(at, _) = change {
            let mut mixed = Box::new([0; BLOCK]);
            mixed.copy_from_slice(&self.meta[*at..][..BLOCK]);
            for (from, length) in parts(change, self.tears_at) {
                if dice.chance(500) {
                    apply_part(&mut [], &mut mixed[..], &shifted_to_0(change), (from - *at as u64, length));
                }
            }
            self.write(Change::Block(*at, mixed), false);
            return;
        }
        for part in parts(change, self.tears_at) {
            if dice.chance(500) {
                self.write(one_part(change, part), false);
            }
        }
    }

    /// Everything up to that write is stable.
    fn settle(&mut self, up_to: u64) {
        self.flushes += 1;
        let keep = self.cache.iter().position(|c| c.number > up_to).unwrap_or(self.cache.len());
        for cached in self.cache.drain(..keep) {
            apply(&mut self.stable, &mut self.meta_stable, &cached.change);
        }
    }

    /// Caches empty themselves now and then.
    fn destage(&mut self, dice: &mut Prng) {
        if self.cache.len() > 48 {
            let number = self.cache[dice.below(40) as usize].number;
            self.settle(number);
            self.flushes -= 1;
        }
    }
}

fn apply(tags: &mut [Tag], meta: &mut [u8], change: &Change) {
    match change {
        Change::Tags(first, new) => tags[*first as usize..][..new.len()].copy_from_slice(new),
        Change::Zero(first, count) => tags[*first as usize..][..*count as usize].fill(0),
        Change::Block(at, bytes) => meta[*at..][..BLOCK].copy_from_slice(&bytes[..]),
    }
}

/// The pieces in which a write may happen: (first, length) in sectors or, of metadata, bytes.
fn parts(change: &Change, tears_at: u64) -> Vec<(u64, u64)> {
    let cut = |first: u64, count: u64, unit: u64| {
        let mut pieces = Vec::new();
        let mut at = first;
        while at < first + count {
            let end = ((at / unit + 1) * unit).min(first + count);
            pieces.push((at, end - at));
            at = end;
        }
        pieces
    };
    match change {
        Change::Tags(first, tags) => cut(*first, tags.len() as u64, tears_at),
        Change::Zero(first, count) => cut(*first, *count, tears_at.max(count / 64)),
        Change::Block(at, _) => cut(*at as u64, BLOCK as u64, tears_at * 512),
    }
}

fn one_part(change: &Change, (at, length): (u64, u64)) -> Change {
    match change {
        Change::Tags(first, tags) => {
            let tags = tags[(at - first) as usize..][..length as usize].to_vec();
            Change::Tags(at, Rc::new(tags))
        }
        Change::Zero(..) => Change::Zero(at, length),
        Change::Block(..) => unreachable!("blocks are mixed, not cut"),
    }
}

fn shifted_to_0(change: &Change) -> Change {
    match change {
        Change::Block(_, bytes) => Change::Block(0, bytes.clone()),
        Change::Tags(..) | Change::Zero(..) => unreachable!("only metadata"),
    }
}

fn apply_part(tags: &mut [Tag], meta: &mut [u8], change: &Change, (at, length): (u64, u64)) {
    match change {
        Change::Tags(first, new) => {
            let new = &new[(at - first) as usize..][..length as usize];
            tags[at as usize..][..length as usize].copy_from_slice(new);
        }
        Change::Zero(..) => tags[at as usize..][..length as usize].fill(0),
        Change::Block(first, bytes) => {
            let new = &bytes[at as usize - first..][..length as usize];
            meta[at as usize..][..length as usize].copy_from_slice(new);
        }
    }
}

fn overlap(a: &Change, b: &Change) -> bool {
    let extent = |change: &Change| match change {
        Change::Tags(first, tags) => (false, *first, first + tags.len() as u64),
        Change::Zero(first, count) => (false, *first, first + count),
        Change::Block(at, _) => (true, *at as u64, (at + BLOCK) as u64),
    };
    let (a, b) = (extent(a), extent(b));
    a.0 == b.0 && a.1 < b.2 && b.1 < a.2
}

#[cfg(test)]
mod tests {
    use super::{Change, Disk, Operation, BLOCK};
    use crate::sim::prng::Prng;
    use std::rc::Rc;

    fn write(disk: &mut Disk, sector: u64, tag: u64, fua: bool, dice: &mut Prng) {
        let change = Change::Tags(sector, Rc::new(vec![tag; 8]));
        disk.begin(1, Operation::Write { change, preflush: false, fua }).expect("no overlap");
        disk.finish(1, dice).expect("no errors");
    }

    #[test]
    fn what_was_flushed_or_written_through_survives_and_the_rest_may_be_lost() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut dice = Prng::new(seed, 0);
            let mut disk = Disk::new(vec![0; 64], vec![0; BLOCK]);
            write(&mut disk, 0, 1, false, &mut dice);
            disk.begin(2, Operation::Flush).expect("a flush");
            disk.finish(2, &mut dice).expect("no errors");
            write(&mut disk, 8, 2, false, &mut dice);
            write(&mut disk, 16, 3, true, &mut dice);
            assert_eq!((disk.stable_at(0), disk.stable_at(16)), (1, 3));
            assert_eq!(disk.current()[8], 2);
            disk.lose_power(&mut dice);
            assert_eq!((disk.current()[0], disk.current()[16]), (1, 3));
            lost += u32::from(disk.current()[8..16] != [2; 8]);
        }
        assert!(lost > 0 && lost < 50, "{lost} of 50 lost");
    }

    #[test]
    fn a_flush_covers_only_what_was_done_when_it_was_asked_for() {
        let mut dice = Prng::new(1, 0);
        let mut disk = Disk::new(vec![0; 64], vec![0; BLOCK]);
        disk.begin(2, Operation::Flush).expect("a flush");
        write(&mut disk, 0, 1, false, &mut dice);
        disk.finish(2, &mut dice).expect("no errors");
        assert_eq!(disk.stable_at(0), 0);
    }

    #[test]
    fn overlapping_writes_are_refused() {
        let mut disk = Disk::new(vec![0; 64], vec![0; BLOCK]);
        let operation = |sector| Operation::Write {
            change: Change::Tags(sector, Rc::new(vec![1; 8])),
            preflush: false,
            fua: false,
        };
        assert!(disk.begin(1, operation(0)).is_ok());
        assert!(disk.begin(2, operation(8)).is_ok());
        assert!(disk.begin(3, operation(7)).is_err());
    }
}
