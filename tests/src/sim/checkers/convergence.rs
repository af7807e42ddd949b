//! Replicas converge: once healed, the volumes of all nodes are equal byte for byte.

use super::super::disk::Tag;

/// The first sector in which two volumes differ.
pub(crate) fn first_difference(a: &[Tag], b: &[Tag], sectors: usize) -> Option<usize> {
    if a[..sectors] == b[..sectors] {
        return None;
    }
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// The volumes are equal.
pub(crate) fn equal(a: &[Tag], b: &[Tag], sectors: usize) -> Result<(), String> {
    match first_difference(a, b, sectors) {
        None => Ok(()),
        Some(at) => Err(format!(
            "both nodes are in sync, but sector {at} (block {}) differs: {:#x} and {:#x}",
            at / 8,
            a[at],
            b[at]
        )),
    }
}
