//! resync-after: a volume waits with its resync for another volume of this resource (8.3 of the wire reference).
//!
//! Only volumes of one resource can wait for each other: another resource is another process, whose end or hang nobody
//! here would notice in time, so its minors are refused where 8.4 takes any.

use super::command::Command;
use super::resource::Resource;
use super::state_change::Snapshot;
use crate::config::DiskOptions;
use crate::refusal::{Reason, Refusal};
use crate::states::{Conn84, ReplicationState};

impl Resource {
    /// Whether a disk may be given these options.
    pub(super) fn check_resync_after(&self, d: usize, options: &DiskOptions) -> Result<(), Refusal> {
        let mut next = options.resync_after;
        for _ in 0..=self.devices.len() {
            let Some(minor) = next else { return Ok(()) };
            let Some(parent) = self.devices.iter().position(|device| device.minor == minor) else {
                let info = format!(
                    "minor {minor} is no volume of {}: a resync waits for volumes of its own resource only; take \
                     resync-after out",
                    self.name
                );
                return Err(Refusal::because(Reason::ResyncAfter, info));
            };
            if parent == d {
                break;
            }
            next = self.devices[parent].backing.as_deref().and_then(|b| b.options.resync_after);
        }
        Err(Reason::ResyncAfterCycle.into())
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
                return false;
            };
            if !self.devices[parent].disk.has_data() {
                return false;
            }
            let now = self.snapshot(Some(parent));
            let busy =
                Conn84(ReplicationState::SyncSource as u8)..=Conn84(ReplicationState::PausedSyncT as u8);
            if busy.contains(&now.conn84()) || now.resync_suspended.any() {
                return true;
            }
            at = parent;
        }
        false
    }
}
