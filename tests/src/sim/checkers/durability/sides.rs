//! Which side leads, and what is given up with the other.

use super::{Entry, Ledger, Look, BEGINNING};

impl Ledger {
    /// Another node's data is the data now, whether that node is up or not.
    pub(crate) fn is_led_by_another(&self, node: usize) -> bool {
        self.led_by & !(1 << node) != 0
    }

    /// A Primary without disk has its own one back, and the other node's is out of reach: as at a promotion, what that
    /// disk may lack of what was acknowledged is given up.
    pub(crate) fn took_own_disk(&mut self, node: usize, look: Look<'_>) {
        self.each_older(node, look, |entry| entry.outrun |= entry.weak && entry.held >> node & 1 == 0);
    }

    /// Every write than which what is on a node's disk is older.
    fn each_older(&mut self, node: usize, look: Look<'_>, mut then: impl FnMut(&mut Entry)) {
        for at in 0..self.touched.len() {
            let sector = self.touched[at];
            let now = look(node, sector);
            let head = self.heads[sector as usize] as usize;
            for at in 0..self.lists[head].len() {
                if self.is_older(now, sector, self.lists[head][at].write) {
                    then(&mut self.lists[head][at]);
                }
            }
        }
    }

    /// The disk of the node that asked for a write was given up, and now the other's refuses it: nobody has it.
    pub(crate) fn refused_by_both(&mut self, first: u64, count: u64) {
        for sector in first..first + count {
            let head = self.heads[sector as usize] as usize;
            for entry in &mut self.lists[head] {
                let write = &self.writes[entry.write as usize];
                if write.acknowledged && (write.first, write.count) == (first, count) {
                    entry.held = 0;
                    entry.due = 0;
                }
            }
        }
    }

    /// Both nodes are in sync: what was torn is mended.
    pub(crate) fn in_sync(&mut self) {
        self.led_by = 0;
        self.torn = 0;
        self.forced = 0;
    }

    /// The operator gives up the side of that node: what its disk holds now.
    pub(crate) fn discard(&mut self, node: usize) {
        for entry in self.lists.iter_mut().flatten() {
            entry.given_up |= entry.held & 1 << node;
        }
        // A flush owes nothing to what its users wrote.
        let writes = &self.writes;
        self.unflushed.retain(|&number| usize::from(writes[number as usize].origin) != node);
    }

    /// The side of that node is given up because its own users wrote nothing: what only the other one's wrote goes with
    /// it, if that one lost it with its power and was promoted without it.
    pub(crate) fn discard_unchanged(&mut self, node: usize) {
        let (bit, others) = (1 << node, self.all & !(1 << node));
        for entry in self.lists.iter_mut().flatten() {
            if entry.lost & others != 0 && entry.held & others == 0 {
                entry.given_up |= entry.held & bit;
            }
        }
    }

    /// The operator made the Inconsistent disk of a node good by force: what it lacks is given up, whoever has it.
    pub(crate) fn forced(&mut self, node: usize, look: Look<'_>) {
        self.forced |= 1 << node;
        self.each_older(node, look, |entry| entry.given_up |= entry.held);
    }

    /// The operator did so with the disk of another node.
    pub(crate) fn is_forced_over(&self, node: usize) -> bool {
        self.forced & !(1 << node) != 0
    }

    /// A promotion on a node's own good copy (not as the target of a resync that the other's return began) was answered:
    /// what the other one had lost must not come back as lost.
    pub(crate) fn promotion_answered(&mut self, node: usize) {
        self.may_return &= 1 << node;
        for entry in self.lists.iter_mut().flatten() {
            if entry.held >> node & 1 == 1 && entry.returning.is_some_and(|n| usize::from(n) != node) {
                entry.returning = None;
            }
        }
    }

    /// A node became Primary. `replica`: it stands alone with its own good copy; `apart`: the other one is Primary, too.
    pub(crate) fn promoted(
        &mut self,
        node: usize,
        replica: bool,
        apart: bool,
        look: Look<'_>,
    ) -> Result<(), String> {
        let bit = 1 << node;
        let torn = self.torn & bit != 0;
        self.diverged |= apart;
        self.led_by |= if apart { bit } else { 0 };
        let replica = replica && !self.diverged;
        let mut oldest_missing: Option<(u64, u32)> = None;
        for at in 0..self.touched.len() {
            let sector = self.touched[at];
            let now = look(node, sector);
            let head = self.heads[sector as usize] as usize;
            for at in 0..self.lists[head].len() {
                let entry = self.lists[head][at];
                let write = self.writes[entry.write as usize];
                if !write.acknowledged || entry.held == 0 && entry.due == 0 {
                    continue;
                }
                if entry.held & bit != 0 {
                    continue;
                }
                if !self.is_older(now, sector, entry.write) || entry.returning == Some(node as u8) {
                    continue;
                }
                if entry.due & bit != 0 {
                    return Err(format!(
                        "n{node} is promoted without write {} in sector {sector}, whose receipt it had acknowledged: it has {}",
                        entry.write,
                        self.describe(now),
                    ));
                }
                self.diverged = true;
                self.led_by |= bit;
                self.lists[head][at].outrun |= entry.weak;
                // Of the side that was given up it has what was mirrored to it since, and nothing else.
                if entry.held & !entry.given_up == 0 && entry.due == 0 {
                    continue;
                }
                // A node that went down keeps the order only where a flush stood between.
                let Some(ended) = (if torn { write.flushed } else { write.ended }) else { continue };
                if oldest_missing.is_none_or(|(oldest, _)| ended < oldest) {
                    oldest_missing = Some((ended, entry.write));
                }
            }
        }
        match oldest_missing {
            Some((ended, missing)) if replica => self.no_hole(node, ended, missing, look),
            Some(_) | None => Ok(()),
        }
    }

    /// Nothing that was asked for after `missing` was acknowledged (or flushed) is there.
    fn no_hole(&self, node: usize, ended: u64, missing: u32, look: Look<'_>) -> Result<(), String> {
        for &sector in &self.touched {
            let content = look(node, sector);
            if content == 0 || content >= BEGINNING {
                continue;
            }
            if self.writes[(content - 1) as usize].begun > ended {
                return Err(format!(
                    "n{node} is promoted with a hole: it has write {} (sector {sector}) but not the earlier write {missing}",
                    content - 1
                ));
            }
        }
        Ok(())
    }
}
