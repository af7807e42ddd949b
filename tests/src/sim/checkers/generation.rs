//! Two nodes never call different data the same generation: when both say that they are connected, up to date and in
//! sync, and nothing is under way, they hold the same bytes; and two nodes that know of each other are never both
//! Primary.

use super::super::disk::Tag;
use super::convergence::first_difference;
use super::Claims;
use drbd_core::states::{ConnectionState, DiskState, ReplicationState};

/// Whether a node claims that a volume is the same on both.
pub(crate) fn claims_same(claims: &Claims) -> bool {
    claims.connection == ConnectionState::Connected
        && claims.replication == ReplicationState::Established
        && claims.disk == DiskState::UpToDate
        && claims.peer_disk == DiskState::UpToDate
}

/// Both claim it and nothing is under way.
pub(crate) fn same(a: &[Tag], b: &[Tag], sectors: usize) -> Result<(), String> {
    match first_difference(a, b, sectors) {
        None => Ok(()),
        Some(at) => Err(format!(
            "both nodes call their data the same generation, nothing is under way, and sector {at} differs: {:#x} and {:#x}",
            a[at], b[at]
        )),
    }
}

/// At most one node of those that are connected is Primary.
pub(crate) fn single_primary(claims: &[Option<Claims>]) -> Result<(), String> {
    let connected = |c: &Claims| c.primary && c.replication != ReplicationState::Off;
    if claims.iter().flatten().filter(|c| connected(c)).count() > 1 {
        return Err("both nodes are Primary and connected, which is not allowed by config".to_owned());
    }
    Ok(())
}
