//! What must be true of every run. Each checker is told what happened and looks at the disks themselves, never at
//! what the engine believes, except to learn what it *claims*.

pub(crate) mod agreement;
pub(crate) mod bitmap_covers;
pub(crate) mod convergence;
pub(crate) mod durability;
pub(crate) mod generation;
pub(crate) mod liveness;

/// What a node's engine says of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claims {
    /// It is Primary.
    pub(crate) primary: bool,
    /// Its own disk.
    pub(crate) disk: drbd_core::states::DiskState,
    /// The connection to its peer.
    pub(crate) connection: drbd_core::states::ConnectionState,
    /// The replication to its peer.
    pub(crate) replication: drbd_core::states::ReplicationState,
    /// The peer's disk.
    pub(crate) peer_disk: drbd_core::states::DiskState,
}

impl Claims {
    /// A write it acknowledges is on its own disk.
    pub(crate) fn holds(&self) -> bool {
        use drbd_core::states::DiskState;
        matches!(self.disk, DiskState::UpToDate)
    }

    /// A write it acknowledges is on the peer's disk.
    pub(crate) fn peer_holds(&self) -> bool {
        use drbd_core::states::{ConnectionState, DiskState, ReplicationState};
        self.connection == ConnectionState::Connected
            && self.peer_disk == DiskState::UpToDate
            && matches!(
                self.replication,
                ReplicationState::Established
                    | ReplicationState::SyncTarget
                    | ReplicationState::PausedSyncT
                    | ReplicationState::VerifyS
                    | ReplicationState::VerifyT
            )
    }
}
