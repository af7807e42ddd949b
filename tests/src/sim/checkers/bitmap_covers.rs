//! A block that differs between two nodes is covered: by a bit of one of them, or by a hot extent of an activity log
//! (which also holds the extents of all writes not yet known stable on the peer).

use super::super::disk::Tag;
use drbd_core::limits::{EXTENT_SECTORS, SECTORS_PER_BIT};

/// What one node knows to be, or possibly to be, different from its peer.
#[derive(Debug, Default)]
pub(crate) struct Cover {
    /// Out-of-sync bits.
    pub(crate) bits: Vec<u64>,
    /// Hot extents.
    pub(crate) extents: Vec<u32>,
    /// Nothing can be said: freshly made, or a full sync is due.
    pub(crate) everything: bool,
}

impl Cover {
    fn covers(&self, block: u64) -> bool {
        let bit = self.bits.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 == 1);
        let extent = (block * SECTORS_PER_BIT / EXTENT_SECTORS) as u32;
        self.everything || bit || self.extents.contains(&extent)
    }
}

/// Every difference is covered.
pub(crate) fn check(a: &[Tag], b: &[Tag], sectors: usize, covers: &[Cover; 2]) -> Result<(), String> {
    if covers.iter().any(|c| c.everything) || a[..sectors] == b[..sectors] {
        return Ok(());
    }
    let size = SECTORS_PER_BIT as usize;
    for (block, (x, y)) in a[..sectors].chunks(size).zip(b[..sectors].chunks(size)).enumerate() {
        if x != y && !covers.iter().any(|c| c.covers(block as u64)) {
            let at = x.iter().zip(y).position(|(x, y)| x != y).unwrap_or(0);
            return Err(format!(
                "block {block} differs (sector {}: {:#x} on n0, {:#x} on n1) and neither bitmap nor activity log of either \
                 node covers it",
                block * size + at,
                x[at],
                y[at]
            ));
        }
    }
    Ok(())
}
