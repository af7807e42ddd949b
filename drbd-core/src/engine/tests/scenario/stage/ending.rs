//! How a scenario ends: what is seen, and what must be true of every story.

use super::super::naming::NAMES;
use super::super::promises::Promises;
use super::Stage;
use crate::states::{DiskState, Role};
use std::collections::BTreeSet;

impl Stage {
    /// Tells how both nodes look and checks disks against promises.
    pub(super) fn end(&mut self) {
        // Acknowledgements that nobody waits for are on their way.
        self.lab().pass_ms(100);
        self.tell();
        for (n, name) in NAMES.iter().enumerate() {
            let node = &self.lab.as_ref().expect("it began").nodes[n];
            let s = node.engine.snapshot(Some(0));
            let generation =
                node.engine.generations(0).map_or("-".to_owned(), |g| self.letters.of(g.current));
            let bits = self.lab().out_of_sync(n).len();
            let suspended =
                if s.suspended.any() { format!(" suspended:{}", s.suspended) } else { String::new() };
            self.remark(&format!(
                "    {name}: {} {} {}, disk:{} peer-disk:{}{suspended}, generation {generation}, {bits} blocks marked",
                s.role, s.connection, s.replication, s.disk, s.peer_disk
            ));
        }
        let differing = self.differing();
        let line = if differing.is_empty() {
            "    both disks hold the same".to_owned()
        } else {
            format!("    the disks differ in {} blocks", differing.len())
        };
        self.remark(&line);
        self.check_marks(&differing);
        self.check_promises();
    }

    fn differing(&mut self) -> BTreeSet<u64> {
        let [a, b] = [0, 1].map(|n| self.lab().nodes[n].disk.clone());
        let at = |disk: &std::collections::BTreeMap<u64, u32>, block| disk.get(&block).copied().unwrap_or(0);
        a.keys().chain(b.keys()).copied().filter(|&block| at(&a, block) != at(&b, block)).collect()
    }

    /// Equal where the nodes say so, else marked by one of them.
    fn check_marks(&mut self, differing: &BTreeSet<u64>) {
        let unanswered = self.promises.unanswered();
        let rotten = self.rotten.clone();
        let lab = self.lab();
        if lab.is_in_sync() {
            assert!(differing.is_empty(), "blocks {differing:?} differ and nobody knows");
            let generations = [0, 1].map(|n| lab.nodes[n].kept().current_uuid & !1);
            assert_eq!(generations[0], generations[1], "in sync and of different generations");
            if unanswered == 0 {
                lab.check_buffers();
            }
            return;
        }
        if (0..2).any(|n| !lab.disk(n).has_data()) || unanswered > 0 {
            return;
        }
        let marked: BTreeSet<u64> = (0..2).flat_map(|n| lab.out_of_sync(n)).collect();
        let unknown: Vec<&u64> = differing.difference(&marked).filter(|b| !rotten.contains(b)).collect();
        assert!(unknown.is_empty(), "blocks {unknown:?} differ and nobody knows");
    }

    /// Every good copy within a user's reach has what was acknowledged; apart, each write is on one of them.
    fn check_promises(&mut self) {
        let lab = self.lab.as_ref().expect("it began");
        let good: Vec<usize> = (0..2).filter(|&n| lab.disk(n) == DiskState::UpToDate).collect();
        let copies = if good.is_empty() {
            (0..2).filter(|&n| lab.disk(n).has_data() || lab.role(n) == Role::Primary).collect()
        } else {
            good
        };
        let written: BTreeSet<u64> = Promises::blocks(&self.promises).collect();
        for block in written {
            let allowed = self.promises.allowed(block);
            let kept: Vec<u32> =
                copies.iter().map(|&n| lab.nodes[n].disk.get(&block).copied().unwrap_or(0)).collect();
            let fine = |value: &u32| allowed.contains(value);
            let enough = if lab.is_in_sync() { kept.iter().all(fine) } else { kept.iter().any(fine) };
            assert!(enough, "block {block} must hold one of {allowed:?} and holds {kept:?}");
        }
    }
}
