//! read-balancing: which of two good copies answers a read (disk option, as in 8.4).
//!
//! Only a choice: it is asked when the local disk and the peer's are both UpToDate. A read the peer does not answer is
//! answered here.

use super::resource::Resource;
use crate::config::ReadBalancing;
use crate::ids::Sector;
use crate::states::{DiskState, ReplicationState};

/// Disk operations under way from which on the local disk counts as congested: 7/8 of the kernel's usual queue of 128.
const CONGESTED: u64 = 112;

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Operations the local disk has not finished.
    local: u64,
    /// Requests the peer has not answered.
    remote: u64,
}

/// Whether the peer answers a read; `turn` is whose turn it is by round-robin.
fn goes_to_peer(policy: ReadBalancing, sector: Sector, load: Load, turn: &mut bool) -> bool {
    match policy {
        ReadBalancing::PreferLocal => false,
        ReadBalancing::PreferRemote => true,
        ReadBalancing::RoundRobin => std::mem::replace(turn, !*turn),
        ReadBalancing::LeastPending => load.local > load.remote,
        ReadBalancing::WhenCongestedRemote => load.local >= CONGESTED,
        ReadBalancing::Striping { shift } => sector.0 >> shift & 1 == 1,
    }
}

impl Resource {
    /// Whether a read that this node could answer goes to the peer.
    pub(super) fn reads_from_peer(&mut self, d: usize, sector: Sector) -> bool {
        let device = &self.devices[d];
        let Some(backing) = device.backing.as_deref() else { return false };
        let policy = backing.options.read_balancing;
        let Some(connection) = self.connection.as_deref() else { return false };
        let peer_device = &connection.peer_devices[d];
        let two_good = device.disk == DiskState::UpToDate && peer_device.peer_disk == DiskState::UpToDate;
        if policy == ReadBalancing::PreferLocal
            || !two_good
            || peer_device.replication == ReplicationState::Off
        {
            return false;
        }
        let load = Load { local: device.counters.lower_pending, remote: peer_device.counters.pending };
        goes_to_peer(policy, sector, load, &mut self.devices[d].peer_reads_next)
    }
}

#[cfg(test)]
mod tests;
