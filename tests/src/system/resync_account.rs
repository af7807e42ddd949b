//! What a resync copied, set against what it had reason to copy; and whether both disks are equal after it.

use super::nodes::Node;
use drbd_core::control::{PeerDeviceObject, ResourceStatus};
use drbd_core::states::{ConnectionState, DiskState};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};

const EXTENT_KIB: u64 = 4096;
const COMPARED_AT_ONCE_BYTES: u64 = 1 << 20;

/// Figures of the last resync of a node's volume 0.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// KiB copied.
    pub copied_kib: u64,
    /// How long it took.
    pub seconds: f64,
    /// KiB of the extents the activity log held at the crash before.
    pub replayed_kib: u64,
    /// KiB of the whole device.
    pub device_kib: u64,
}

/// The resync copied nothing, or more than it had reason to.
#[derive(Clone, Copy, Debug)]
pub struct Unreasonable {
    copied_kib: u64,
    bound_kib: u64,
}

impl fmt::Display for Unreasonable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the resync copied {} KiB, expected 1 to {}", self.copied_kib, self.bound_kib)
    }
}

impl std::error::Error for Unreasonable {}

impl Account {
    /// From the status of a node that was a resync's source or target; `said` is what `drbdadm up` put out there.
    pub fn of(status: &ResourceStatus, said: &str) -> Option<Account> {
        let device = status.devices.first()?;
        let finished = peer_device(status)?.last_resync.as_ref()?;
        Some(Account {
            copied_kib: finished.copied,
            seconds: finished.elapsed_ms as f64 / 1000.0,
            replayed_kib: device.al_replayed_kib + replayed_by_drbdmeta_kib(said),
            device_kib: device.size?,
        })
    }

    /// Extents of the activity log that were replayed.
    pub fn replayed_extents(&self) -> u64 {
        self.replayed_kib.div_ceil(EXTENT_KIB)
    }

    /// That something was copied, and no more than `bound_kib`.
    pub fn demand_at_most(&self, bound_kib: u64) -> Result<(), Unreasonable> {
        if (1..=bound_kib).contains(&self.copied_kib) {
            Ok(())
        } else {
            Err(Unreasonable { copied_kib: self.copied_kib, bound_kib })
        }
    }
}

fn peer_device(status: &ResourceStatus) -> Option<&PeerDeviceObject> {
    status.connections.first()?.peer_devices.first()
}

/// The connection stands.
pub fn is_connected(status: &ResourceStatus) -> bool {
    status.connections.iter().all(|c| c.connection.connection == ConnectionState::Connected)
}

/// Both copies are good and nothing is being copied.
pub fn is_in_sync(status: &ResourceStatus) -> bool {
    status.devices.iter().all(|device| device.disk == DiskState::UpToDate)
        && peer_device(status).is_some_and(|p| p.peer_disk == DiskState::UpToDate && p.resync.is_none())
}

/// What `drbdmeta apply-al`, which `drbdadm up` runs before the attach, marked: "Marked additional 64 MB as out-of-sync
/// based on AL."
fn replayed_by_drbdmeta_kib(said: &str) -> u64 {
    let Some((_, rest)) = said.split_once("Marked additional ") else { return 0 };
    let mut words = rest.split_whitespace();
    let amount: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    match words.next() {
        Some("GB") => amount << 20,
        Some("MB") => amount << 10,
        _ => amount,
    }
}

/// Compare the first `bytes` of both disks; as many were equal.
pub fn compare_disks(nodes: &[Node; 2], bytes: u64) -> io::Result<u64> {
    let mut disks = [File::open(&nodes[0].disk)?.take(bytes), File::open(&nodes[1].disk)?.take(bytes)];
    let mut chunks = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut offset = 0;
    while offset < bytes {
        let length = (bytes - offset).min(COMPARED_AT_ONCE_BYTES) as usize;
        for (disk, chunk) in disks.iter_mut().zip(&mut chunks) {
            disk.read_exact(&mut chunk[..length])?;
        }
        if chunks[0][..length] != chunks[1][..length] {
            let at = (0..length).find(|&at| chunks[0][at] != chunks[1][at]).unwrap_or(0);
            return Err(io::Error::other(format!("the disks differ at byte {}", offset + at as u64)));
        }
        offset += length as u64;
    }
    Ok(bytes)
}
