//! An acknowledged write survives.
//!
//! The ledger keeps, per volume and sector, every write that was asked for, and of the acknowledged ones which disks
//! hold them (or something newer): the disks themselves are looked at whenever a write reaches one, at every
//! acknowledgement and after every loss of power. From then on that disk must hold it. What may be lost:
//!
//! - C: what both disks lost with their caches; or, where a disk that its metadata calls a Primary's came back from a
//!   loss of power before the other node was promoted, what it had lost then (the application died with the Primary, or
//!   with that disk, and never had a flush).
//! - B: additionally what the Secondary had received but not written when it went down itself.
//! - A: additionally what had not reached the Secondary when it was promoted. It then holds a prefix of the order of
//!   sending, never a hole. A Primary that has not noticed yet that the other was promoted apart goes on in vain, also
//!   while that one is down again. A Primary without disk that takes its own one back when the peer's is out of reach is
//!   like one promoted.
//! - A and B: what both disks refused, this node's before or after it was acknowledged.
//! - all: what was written on the losing side of a divergence the operator made (promoting a node apart) and resolved
//!   with `--discard-my-data`. A policy may call that side unchanged by what its own users wrote: then what a Primary
//!   lost with its power stays lost, though the other node, promoted apart as well, had it.
//! - all: what only an Inconsistent disk still has after the good one lost it unflushed with its power: such a copy is
//!   no copy.
//! - An acknowledged flush makes everything acknowledged before it stable at once: C on both disks, A and B on the
//!   Primary's. Where the Primary has no good disk of its own, A and B promise what C does.
//!
//! A write is newer than another if it was asked for after the other had been acknowledged; else any order is good. So a
//! disk counts as holding a write only where the write, or a newer one, was seen on it: what was written at the same time
//! may have come before it.

mod sides;

use super::super::disk::Tag;

/// Mark of what was on a disk at the beginning.
pub(crate) const BEGINNING: Tag = 1 << 62;

/// What an acknowledgement promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Promise {
    /// The other node has it, or is known to lack it.
    Kept,
    /// A: it may not even have reached the other node.
    Weak,
    /// The other node had been promoted apart before: under A it never will reach it. Under any, the operator forced the
    /// disk good to which this node, that does not know it, is about to begin a resync.
    Outrun,
}

/// A write the front end asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    /// The node that was asked.
    origin: u8,
    /// First sector.
    pub(crate) first: u64,
    /// Sectors.
    pub(crate) count: u64,
    /// What each of its sectors holds afterwards: its own mark, or 0.
    pub(crate) content: Tag,
    /// When it was asked for.
    begun: u64,
    /// When it was last sent once more; before that, as `begun`.
    sent: u64,
    /// When it was acknowledged, or was known to have no chance any more.
    ended: Option<u64>,
    acknowledged: bool,
    /// When a flush that covers it was acknowledged.
    flushed: Option<u64>,
}

/// A write's fate in one sector.
#[derive(Clone, Copy, Debug)]
struct Entry {
    write: u32,
    /// Disks that hold it.
    held: u8,
    /// Disks that hold what may be newer, but does not tell: zeroes, or a write of the same time where this one was not
    /// seen.
    perhaps: u8,
    /// Disks on which it was seen, and nothing older since.
    seen: u8,
    /// Since when each of them does.
    since: [u64; 2],
    /// Those of them that held it when the operator gave up their side.
    given_up: u8,
    /// Disks that will hold it unless their node goes down (B).
    due: u8,
    /// Inconsistent disks of nodes that acknowledged its receipt (B): their resync may end before it is written.
    received: u8,
    /// Disks to which it was sent once more, and was not written since.
    again: u8,
    /// Those of them that may still have it to write from the first time: it comes twice.
    twice: u8,
    /// A promotion of the other side may lose it.
    weak: bool,
    /// Such a promotion did: its data is the data now.
    outrun: bool,
    /// That node lost it with its power while Primary: if it returns unpromoted-over, it may stay lost.
    returning: Option<u8>,
    /// Nodes that did, whoever was promoted since.
    lost: u8,
}

/// The ledger of one volume.
#[derive(Debug)]
pub(crate) struct Ledger {
    writes: Vec<Write>,
    heads: Vec<u32>,
    lists: Vec<Vec<Entry>>,
    touched: Vec<u64>,
    moment: u64,
    all: u8,
    /// Acknowledged and not yet seen stable by an acknowledged flush.
    unflushed: Vec<u32>,
    /// A node was promoted that lacked something acknowledged.
    pub(crate) diverged: bool,
    /// Nodes that were promoted without what another has, or apart from it, since they were last in sync.
    led_by: u8,
    /// Nodes that went down since they were last in sync.
    torn: u8,
    /// Nodes whose Inconsistent disk the operator forced good since then.
    forced: u8,
    /// When each node last lost its power: an acknowledgement of before may still be on its way.
    lost_at: [u64; 8],
    /// Nodes that lost their power as Primary, and nobody was promoted over since: what they had lost may stay lost.
    may_return: u8,
    /// When each node last let go of its disk: what it had received before it does not owe any more, though the
    /// acknowledgement may still be on its way.
    let_go_at: [u64; 8],
}

/// What a disk holds, by node and sector.
pub(crate) type Look<'a> = &'a dyn Fn(usize, u64) -> Tag;

impl Ledger {
    /// An empty ledger of a volume of that many sectors on that many nodes.
    pub(crate) fn new(sectors: u64, nodes: usize) -> Ledger {
        Ledger {
            writes: Vec::new(),
            heads: vec![0; sectors as usize],
            lists: vec![Vec::new()],
            touched: Vec::new(),
            moment: 0,
            all: (1 << nodes) - 1,
            unflushed: Vec::new(),
            diverged: false,
            led_by: 0,
            torn: 0,
            forced: 0,
            lost_at: [0; 8],
            may_return: 0,
            let_go_at: [0; 8],
        }
    }

    /// Time moves on.
    pub(crate) fn now(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A write is asked for. Its content is its number plus 1, or 0.
    pub(crate) fn begin(&mut self, node: usize, first: u64, count: u64, zero: bool) -> u32 {
        let number = self.writes.len() as u32;
        let begun = self.now();
        let content = if zero { 0 } else { u64::from(number) + 1 };
        self.writes.push(Write {
            origin: node as u8,
            first,
            count,
            content,
            begun,
            sent: begun,
            ended: None,
            acknowledged: false,
            flushed: None,
        });
        for sector in first..first + count {
            let entry = Entry {
                write: number,
                held: 0,
                perhaps: 0,
                seen: 0,
                since: [0; 2],
                given_up: 0,
                due: 0,
                received: 0,
                again: 0,
                twice: 0,
                weak: false,
                outrun: false,
                returning: None,
                lost: 0,
            };
            let head = &mut self.heads[sector as usize];
            if *head == 0 {
                *head = self.lists.len() as u32;
                self.lists.push(Vec::new());
                self.touched.push(sector);
            }
            self.lists[*head as usize].push(entry);
        }
        number
    }

    /// A write is sent to a node that was sent it before.
    pub(crate) fn sent_again(&mut self, number: u32, node: usize) {
        let now = self.now();
        let write = &mut self.writes[number as usize];
        write.sent = now;
        let Write { first, count, .. } = *write;
        for sector in first..first + count {
            let list = &mut self.lists[self.heads[sector as usize] as usize];
            let entry = list.iter_mut().find(|e| e.write == number).expect("made when it was asked for");
            entry.again |= 1 << node;
            entry.twice |= !entry.seen & 1 << node;
        }
    }

    /// A write asked for.
    pub(crate) fn write(&self, number: u32) -> Write {
        self.writes[number as usize]
    }

    /// A write failed, or its node's daemon died before it was acknowledged: it may have happened.
    pub(crate) fn give_up(&mut self, number: u32) {
        let now = self.now();
        self.writes[number as usize].ended = Some(now);
    }

    /// A write is acknowledged; `must` are the disks the engine claims hold it, `later` those that will.
    pub(crate) fn acknowledge(
        &mut self,
        number: u32,
        must: u8,
        later: u8,
        promise: Promise,
        look: Look<'_>,
    ) -> Result<(), String> {
        let now = self.now();
        let write = &mut self.writes[number as usize];
        write.ended = Some(now);
        write.acknowledged = true;
        let write = *write;
        self.unflushed.push(number);
        let owing = nodes(later).filter(|n| self.let_go_at[*n] < write.sent).fold(0, |mask, n| mask | 1 << n);
        for sector in write.first..write.first + write.count {
            let (mut held, mut perhaps) = (0, 0);
            let seen = self.entry(sector, number).seen;
            for node in nodes(self.all) {
                if self.is_held(look(node, sector), sector, number, seen >> node & 1 == 1) {
                    held |= 1 << node;
                } else if !self.is_older(look(node, sector), sector, number) {
                    perhaps |= 1 << node;
                } else if must >> node & 1 == 1 && self.lost_at[node] < write.begun {
                    return Err(format!(
                        "write {number} ({}+{}) is acknowledged, but sector {sector} of n{node}, which the engine \
                         claims in sync, holds {}",
                        write.first,
                        write.count,
                        self.describe(look(node, sector)),
                    ));
                }
            }
            // It lost its power with the write before that was acknowledged.
            let lost = nodes(self.may_return & self.all & !held & !perhaps)
                .find(|n| self.lost_at[*n] >= write.begun);
            let gone = nodes(must & !held & !perhaps).any(|n| self.lost_at[n] >= write.begun);
            // The good disk lost it before: what only an Inconsistent one has is no copy.
            let held = if gone && held & must == 0 { 0 } else { held };
            let list = &mut self.lists[self.heads[sector as usize] as usize];
            let entry = list.iter_mut().find(|e| e.write == number).expect("made when it was asked for");
            entry.returning = lost.map(|n| n as u8);
            entry.held = held;
            entry.perhaps = perhaps;
            entry.since = [now; 2];
            // Zeroes of an earlier discard hide whether it was written before it was acknowledged.
            entry.due = owing & (!held & !perhaps | entry.again);
            entry.weak = promise != Promise::Kept || owing != later || gone;
            entry.outrun = promise == Promise::Outrun;
        }
        Ok(())
    }

    /// Receipt of an acknowledged write was acknowledged by that node, too, whose disk is the target of a resync.
    pub(crate) fn received_by_target(&mut self, number: u32, node: usize) {
        let write = self.writes[number as usize];
        for sector in write.first..write.first + write.count {
            let list = &mut self.lists[self.heads[sector as usize] as usize];
            let entry = list.iter_mut().find(|e| e.write == number).expect("made when it was asked for");
            entry.received |= 1 << node;
        }
    }

    /// A disk was written. A resync target may pass from newer to older data, and on to the newest, as long as
    /// somebody else holds what it had: what is mirrored in order may come after what was copied out of order.
    pub(crate) fn written(
        &mut self,
        node: usize,
        first: u64,
        count: u64,
        content: &dyn Fn(u64) -> Tag,
        target: bool,
    ) -> Result<(), String> {
        let bit = 1 << node;
        for sector in first..first + count {
            let new = content(sector);
            self.belongs(new, sector)?;
            let head = self.heads[sector as usize] as usize;
            for at in 0..self.lists[head].len() {
                self.look_for(head, at, node, new, sector);
                let entry = &mut self.lists[head][at];
                let own = new == self.writes[entry.write as usize].content;
                let first = own && entry.twice & bit != 0;
                entry.again &= !(u8::from(own && !first) << node);
                entry.twice &= !(u8::from(own) << node);
                let entry = *entry;
                let gone = entry.held == 0 && entry.due == 0;
                if !self.writes[entry.write as usize].acknowledged || gone {
                    continue;
                }
                let older = self.is_older(new, sector, entry.write);
                if !older {
                    if entry.held & bit == 0 && self.is_held(new, sector, entry.write, entry.seen & bit != 0)
                    {
                        self.lists[head][at].held |= bit;
                        self.lists[head][at].since[node] = self.moment;
                    } else if entry.due & bit != 0 {
                        // Of the same time: it may come yet, or never, and may be lost with the power.
                        self.lists[head][at].perhaps |= bit;
                    }
                    self.lists[head][at].due &= !(u8::from(!first) << node);
                } else if entry.held & bit != 0 {
                    let excused = entry.returning.is_some_and(|n| usize::from(n) != node)
                        || entry.given_up & bit != 0
                        || entry.outrun
                        // A log sent again puts what is older before it, and the node has received both.
                        || entry.due & bit != 0
                        || (target && entry.held & !bit != 0);
                    if !excused {
                        return Err(format!(
                            "n{node} had acknowledged write {} in sector {sector} and overwrites it with older {} \
                             (held by {:#b}, diverged {})",
                            entry.write,
                            self.describe(new),
                            entry.held,
                            self.diverged
                        ));
                    }
                    self.lists[head][at].held &= !bit;
                    self.lists[head][at].given_up &= !bit;
                }
            }
        }
        Ok(())
    }

    /// Whether that write is on that disk, which holds `content`.
    fn look_for(&mut self, head: usize, at: usize, node: usize, content: Tag, sector: u64) {
        let number = self.lists[head][at].write;
        let older = self.is_older(content, sector, number);
        let own = content == self.writes[number as usize].content;
        let entry = &mut self.lists[head][at];
        entry.seen = (entry.seen | u8::from(own) << node) & !(u8::from(older) << node);
    }

    /// A node's daemon went down: what was due there may be lost.
    pub(crate) fn went_down(&mut self, node: usize) {
        self.torn |= 1 << node;
        self.forget_due(node);
    }

    /// A node let go of its disk: what was due there is not written.
    pub(crate) fn forget_due(&mut self, node: usize) {
        self.let_go_at[node] = self.now();
        for entry in self.lists.iter_mut().flatten() {
            entry.again &= !(1 << node);
            entry.twice &= !(1 << node);
            if (entry.due | entry.received) >> node & 1 == 1 {
                entry.due &= !(1 << node);
                entry.received &= !(1 << node);
                entry.weak |= entry.held >> node & 1 == 0;
            }
        }
    }

    /// A node lost its power; its disk was looked at since. `poor`: nodes whose disk is Inconsistent.
    /// `was_primary`: the node was, or its metadata says so of the disk.
    pub(crate) fn lost_power(&mut self, node: usize, was_primary: bool, poor: u8, look: Look<'_>) {
        let bit = 1 << node;
        self.lost_at[node] = self.now();
        self.may_return |= if was_primary { bit } else { 0 };
        for at in 0..self.touched.len() {
            let sector = self.touched[at];
            let now = look(node, sector);
            let head = self.heads[sector as usize] as usize;
            for at in 0..self.lists[head].len() {
                self.look_for(head, at, node, now, sector);
                let entry = self.lists[head][at];
                if (entry.held | entry.perhaps) & bit != 0 && self.is_older(now, sector, entry.write) {
                    let entry = &mut self.lists[head][at];
                    entry.held &= !bit;
                    entry.perhaps &= !bit;
                    entry.weak = true;
                    if entry.held & !poor == 0 && self.writes[entry.write as usize].flushed.is_none() {
                        entry.held = 0;
                    }
                    if was_primary {
                        entry.lost |= bit;
                        entry.returning = Some(node as u8);
                    }
                }
            }
        }
    }

    /// A read that was asked for at `begun` returned that. `shows`: the nodes whose data it may be. A node without a good
    /// disk of its own shows its peer's.
    pub(crate) fn read(
        &self,
        node: usize,
        shows: u8,
        sector: u64,
        content: Tag,
        begun: u64,
    ) -> Result<(), String> {
        self.belongs(content, sector)?;
        let local = shows == 1 << node;
        for entry in &self.lists[self.heads[sector as usize] as usize] {
            let write = &self.writes[entry.write as usize];
            let counts = write.acknowledged && write.ended.is_some_and(|ended| ended < begun);
            let held = entry.held & !entry.given_up;
            let here = local && held >> node & 1 == 1 && entry.since[node] < begun;
            let elsewhere = held != 0
                && !self.diverged
                && !entry.outrun
                && entry.returning.is_none_or(|n| shows >> n & 1 == 0);
            if counts && (here || elsewhere) && self.is_older(content, sector, entry.write) {
                return Err(format!(
                    "a read of sector {sector} on n{node} returned {}, older than acknowledged write {}",
                    self.describe(content),
                    entry.write
                ));
            }
        }
        Ok(())
    }

    /// A flush asked for at `begun` is acknowledged: everything acknowledged before it is stable on those disks. `shared`:
    /// the other node may write too, and flushes what it writes itself.
    pub(crate) fn flushed(
        &mut self,
        node: usize,
        shared: bool,
        begun: u64,
        on: u8,
        stable: Look<'_>,
    ) -> Result<(), String> {
        let on = nodes(on).filter(|n| self.lost_at[*n] < begun).fold(0, |mask, n| mask | 1 << n);
        let mut later = Vec::new();
        for number in std::mem::take(&mut self.unflushed) {
            let write = self.writes[number as usize];
            if write.ended.is_none_or(|ended| ended >= begun) {
                later.push(number);
                continue;
            }
            // On the other side's data it may not even have its own.
            let gave_way = self.diverged && on >> node & 1 == 0;
            if (self.diverged || shared) && usize::from(write.origin) != node || gave_way {
                // Two sides, or two writers: this one's flush makes stable what this one has of the other's writes.
                self.is_stable(number, begun, on & 1 << node, stable)?;
                later.push(number);
                continue;
            }
            self.is_stable(number, begun, on, stable)?;
            let now = self.now();
            self.writes[number as usize].flushed = Some(now);
        }
        self.unflushed = later;
        Ok(())
    }

    /// A write that is acknowledged as stable is so on those disks.
    pub(crate) fn is_stable_now(&self, number: u32, on: u8, stable: Look<'_>) -> Result<(), String> {
        let begun = self.writes[number as usize].begun;
        let on = nodes(on).filter(|n| self.lost_at[*n] < begun).fold(0, |mask, n| mask | 1 << n);
        self.is_stable(number, u64::MAX, on, stable)
    }

    /// A write is stable on those disks.
    fn is_stable(&self, number: u32, before: u64, on: u8, stable: Look<'_>) -> Result<(), String> {
        let write = self.writes[number as usize];
        let step = (write.count / 32).max(1);
        for sector in (write.first..write.first + write.count).step_by(step as usize) {
            let entry = self.entry(sector, number);
            let returned = entry.returning.map_or(0, |n| 1 << n);
            // Who lost it has it no more: something newer hides that, which its own flush makes stable.
            for node in nodes(on & entry.held & !returned).filter(|n| entry.since[*n] < before) {
                let holds = stable(node, sector);
                if self.is_older(holds, sector, number) {
                    return Err(format!(
                        "a flush is acknowledged, but write {number} in sector {sector} is not stable on n{node}: a loss of \
                         power would leave {}",
                        self.describe(holds)
                    ));
                }
            }
        }
        Ok(())
    }

    /// The disks are equal and in sync: everything acknowledged and not excused is there.
    pub(crate) fn converged(&mut self, look: Look<'_>) -> Result<(), String> {
        for at in 0..self.touched.len() {
            let sector = self.touched[at];
            let head = self.heads[sector as usize] as usize;
            for at in 0..self.lists[head].len() {
                let entry = self.lists[head][at];
                if !self.writes[entry.write as usize].acknowledged || entry.held == 0 {
                    continue;
                }
                if self.is_older(look(0, sector), sector, entry.write) {
                    return Err(format!(
                        "write {} was acknowledged and is lost in sector {sector}: all disks hold {}",
                        entry.write,
                        self.describe(look(0, sector))
                    ));
                }
                let all = self.all;
                let entry = &mut self.lists[head][at];
                *entry = Entry {
                    held: all,
                    perhaps: 0,
                    seen: all,
                    since: [self.moment; 2],
                    given_up: 0,
                    due: 0,
                    received: 0,
                    again: 0,
                    twice: 0,
                    weak: false,
                    outrun: false,
                    returning: None,
                    lost: 0,
                    ..*entry
                };
            }
        }
        self.diverged = false;
        self.led_by = 0;
        self.torn = 0;
        Ok(())
    }

    /// Whether a disk with that content certainly has a write, or something newer. Zeroes do not tell whose they are; what
    /// was written at the same time tells only where the write was `seen` before.
    fn is_held(&self, content: Tag, sector: u64, write: u32, seen: bool) -> bool {
        if self.is_older(content, sector, write) {
            return false;
        }
        let Write { begun, ended, content: own, .. } = self.writes[write as usize];
        let after = |at: u64| ended.is_some_and(|ended| ended < at);
        let known = |write: &Write| seen || write.content == own || after(write.begun);
        if content != 0 {
            return known(&self.writes[(content - 1) as usize]);
        }
        self.zeroes(sector).all(|w| w.begun >= begun && known(w))
    }

    /// Whether a content is certainly older than a write in a sector.
    fn is_older(&self, content: Tag, sector: u64, than: u32) -> bool {
        let begun = self.writes[than as usize].begun;
        let before = |write: &Write| write.ended.is_some_and(|ended| ended < begun);
        if content >= BEGINNING {
            return true;
        }
        if content != 0 {
            return before(&self.writes[(content - 1) as usize]);
        }
        self.zeroes(sector).all(before)
    }

    /// The writes of zeroes to a sector.
    fn zeroes(&self, sector: u64) -> impl Iterator<Item = &Write> {
        let list = &self.lists[self.heads[sector as usize] as usize];
        list.iter().map(|e| &self.writes[e.write as usize]).filter(|w| w.content == 0)
    }

    fn entry(&self, sector: u64, write: u32) -> &Entry {
        let list = &self.lists[self.heads[sector as usize] as usize];
        list.iter().find(|e| e.write == write).expect("made when it was asked for")
    }

    /// A content was once written to that sector.
    fn belongs(&self, content: Tag, sector: u64) -> Result<(), String> {
        let known = match content {
            0 => true,
            _ if content >= BEGINNING => content & 0xff_ffff_ffff == sector,
            _ => self
                .writes
                .get((content - 1) as usize)
                .is_some_and(|w| w.content == content && (w.first..w.first + w.count).contains(&sector)),
        };
        if known {
            return Ok(());
        }
        Err(format!("sector {sector} holds {}, which was never written there", self.describe(content)))
    }

    fn describe(&self, content: Tag) -> String {
        match content {
            0 => "zeroes".to_owned(),
            _ if content >= BEGINNING => "what was there at the beginning".to_owned(),
            _ => format!("write {}", content - 1),
        }
    }
}

fn nodes(mask: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |n| mask >> n & 1 == 1)
}

#[cfg(test)]
mod tests;
