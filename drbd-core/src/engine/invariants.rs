//! What must be true between two events. The simulator looks after every one.

use super::resource::Resource;
use super::write_path::request::PeerProgress;
use crate::ids::VolumeNumber;
use crate::states::{ConnectionState, DiskState, ReplicationState};

impl Resource {
    /// Checks everything.
    ///
    /// # Panics
    /// If the engine is wrong.
    pub fn check(&self) {
        self.check_states();
        self.check_transfer_log();
        self.check_freeze();
        for (d, device) in self.devices.iter().enumerate() {
            if device.disk == DiskState::Diskless {
                assert!(device.backing.is_none(), "volume {d} is Diskless and has a disk");
            }
            if device.disk.has_data() {
                assert!(device.backing.is_some(), "volume {d} is {} and has no disk", device.disk);
            }
            if device.conflicts.is_idle() {
                assert!(device.log_waiters.is_empty(), "volume {d} has log waiters without a turn");
            }
        }
    }

    fn check_freeze(&self) {
        if !self.freeze.engaged {
            assert!(!self.is_frozen(), "frozen, and nobody knows");
            assert!(
                self.freeze.log.is_empty() && self.freeze.parked.is_empty(),
                "thawed, and something is left"
            );
        }
    }

    fn check_states(&self) {
        let Some(connection) = self.connection.as_deref() else { return };
        assert_eq!(connection.peer_devices.len(), self.devices.len(), "one peer device per device");
        for peer_device in &connection.peer_devices {
            if connection.state != ConnectionState::Connected {
                assert_eq!(
                    peer_device.replication,
                    ReplicationState::Off,
                    "replication without a connection"
                );
                assert!(peer_device.resync.is_none(), "a resync without a connection");
            }
            let verifies =
                matches!(peer_device.replication, ReplicationState::VerifyS | ReplicationState::VerifyT);
            assert_eq!(verifies, peer_device.verify.is_some(), "a verify that is not counted");
            let syncing = matches!(
                peer_device.replication,
                ReplicationState::SyncSource | ReplicationState::SyncTarget
            );
            assert!(!syncing || peer_device.resync.is_some(), "a resync that is not counted");
        }
        if connection.state == ConnectionState::Connected {
            assert!(connection.session().is_some(), "Connected without a session");
        }
    }

    fn check_transfer_log(&self) {
        let Some(connection) = self.connection.as_deref() else { return };
        let mut epoch = None;
        for &key in &connection.transfer_log {
            let request = &self.requests[key];
            assert!(
                matches!(
                    request.peer,
                    PeerProgress::Sent | PeerProgress::Acknowledged | PeerProgress::Failed
                ),
                "the transfer log holds what the peer is not asked to keep"
            );
            assert!(
                epoch.is_none_or(|e: u32| request.epoch.wrapping_sub(e) < u32::MAX / 2),
                "epochs out of order"
            );
            epoch = Some(request.epoch);
        }
        if connection.session().is_none() {
            assert!(connection.transfer_log.is_empty(), "a transfer log without a session");
        }
    }

    /// Out-of-sync words of a volume towards its peer: a bit for 4 KiB.
    pub fn out_of_sync_words(&self, volume: VolumeNumber) -> Option<&[u64]> {
        let d = self.device_index(volume)?;
        let slot = self.peer_slot(d)?;
        Some(self.devices[d].backing.as_deref()?.bitmap.words(slot))
    }

    /// Extents the log on disk names, or may name (tests).
    pub fn hot_extents(&self, volume: VolumeNumber) -> Vec<u32> {
        let backing = self.device_index(volume).and_then(|d| self.devices[d].backing.as_deref());
        backing.map_or_else(Vec::new, |b| b.log.named_on_disk().collect())
    }

    /// Stretches of mirrored writes the peer has not made stable, in sectors and bytes (tests).
    pub fn unstable_writes(&self, volume: VolumeNumber) -> Vec<(u64, u32)> {
        let Some(d) = self.device_index(volume) else { return Vec::new() };
        let writes = self.requests.iter().filter(|(_, r)| r.device == d && !r.local_lost());
        writes.map(|(_, r)| (r.sector.0, r.bytes)).collect()
    }
}
