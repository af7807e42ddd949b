//! resync-after: a volume waits with its resync for another volume on this host (8.3 of the wire reference).
//!
//! Volumes of this resource are looked at directly. Another resource is another process: the shell watches it and says
//! when one of its volumes begins or ceases to be in the way ([`Event::ForeignResync`](super::event::Event)). A volume
//! that is held for another says so itself, hence whoever waits for it need not know what it waits for. As in DRBD a
//! minor that does not exist, or has no disk, holds nothing; only a cycle is refused, here as far as it runs within this
//! resource. The shell looks at the others.

use super::command::Command;
use super::resource::Resource;
use super::state_change::Snapshot;
use crate::config::DiskOptions;
use crate::ids::Minor;
use crate::refusal::{Reason, Refusal};

impl Resource {
    /// Whether a disk may be given these options.
    pub(super) fn check_resync_after(&self, d: usize, options: &DiskOptions) -> Result<(), Refusal> {
        let mut next = options.resync_after;
        for _ in 0..=self.devices.len() {
            let Some(minor) = next else { return Ok(()) };
            let Some(parent) = self.devices.iter().position(|device| device.minor == minor) else {
                return Ok(());
            };
            if parent == d {
                break;
            }
            next = self.devices[parent].backing.as_deref().and_then(|b| b.options.resync_after);
        }
        Err(Reason::ResyncAfterCycle.into())
    }

    /// A volume of another resource is in the way of resyncs that wait for it, or no longer.
    pub(super) fn foreign_resync(&mut self, minor: Minor, busy: bool) {
        self.foreign_resyncs.retain(|known| *known != minor);
        if busy {
            self.foreign_resyncs.push(minor);
        }
        self.admin.state_changed = true;
    }

    /// Holds what has to wait and lets go what need not any more, after a change of state.
    pub(super) fn order_resyncs(&mut self, out: &mut Vec<Command>) {
        if !self.admin.state_changed || self.connection.is_none() {
            return;
        }
        // One more each time: those further down wait for those above.
        for _ in 0..self.devices.len() {
            let misordered = (0..self.devices.len()).find_map(|d| {
                let waits = self.waits_for_other(d);
                (self.snapshot(Some(d)).resync_suspended.dependency != waits).then_some((d, waits))
            });
            let Some((d, waits)) = misordered else { return };
            let edit = |v: Option<usize>, s: &mut Snapshot| {
                if v == Some(d) {
                    s.resync_suspended.dependency = waits;
                }
            };
            self.force(&edit, out);
        }
    }

    /// A volume up the chain copies, verifies, or is held itself. The chain ends where there is no disk.
    fn waits_for_other(&self, d: usize) -> bool {
        let mut at = d;
        for _ in 0..self.devices.len() {
            let backing = self.devices[at].backing.as_deref().filter(|_| self.devices[at].disk.has_data());
            let Some(minor) = backing.and_then(|b| b.options.resync_after) else { return false };
            let Some(parent) = self.devices.iter().position(|device| device.minor == minor) else {
                return self.foreign_resyncs.contains(&minor);
            };
            if !self.devices[parent].disk.has_data() {
                return false;
            }
            let now = self.snapshot(Some(parent));
            if now.replication.holds_dependants() || now.resync_suspended.any() {
                return true;
            }
            at = parent;
        }
        false
    }
}
