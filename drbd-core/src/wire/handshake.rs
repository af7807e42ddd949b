//! What two nodes agree on when they meet: protocol version and features, and the settings that must match.

use super::{feature, Features, Settings};
use crate::limits::{PROTOCOL_MAX, PROTOCOL_MIN};
use std::fmt;

/// What this implementation offers.
pub const OFFER: Features = Features {
    protocol_min: PROTOCOL_MIN,
    flags: feature::TRIM | feature::THIN_RESYNC | feature::LONG_SIZES | feature::ZEROES,
    protocol_max: PROTOCOL_MAX,
};

/// Outcome of the feature exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// Protocol version, `apv` of drbd.
    pub version: u32,
    /// Bits of [`feature`] that both have.
    pub features: u32,
}

/// There is no protocol version both speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoCommonVersion {
    /// What this node offered.
    pub ours: (u32, u32),
    /// What the peer offered.
    pub theirs: (u32, u32),
}

impl fmt::Display for NoCommonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoCommonVersion { ours, theirs } = self;
        write!(
            f,
            "incompatible DRBD dialects: I support {}-{}, peer supports {}-{}",
            ours.0, ours.1, theirs.0, theirs.1
        )
    }
}

impl std::error::Error for NoCommonVersion {}

/// The highest version both speak, and the features both have.
pub fn agree(ours: Features, theirs: Features) -> Result<Agreed, NoCommonVersion> {
    let (ours_max, theirs_max) = (version_max(ours), version_max(theirs));
    let version = ours_max.min(theirs_max);
    if version < ours.protocol_min || version < theirs.protocol_min {
        return Err(NoCommonVersion {
            ours: (ours.protocol_min, ours_max),
            theirs: (theirs.protocol_min, theirs_max),
        });
    }
    Ok(Agreed { version, features: ours.flags & theirs.flags })
}

/// Very old nodes have one version only and say 0 for the highest.
const fn version_max(features: Features) -> u32 {
    match features.protocol_max {
        0 => features.protocol_min,
        max => max,
    }
}

const DISCARD_LOCAL: u32 = 5;
const DISCARD_REMOTE: u32 = 6;

/// The number a peer with the same outcome in mind sends: local and remote change places.
pub const fn after_sb_mirrored(number: u32) -> u32 {
    match number {
        DISCARD_LOCAL => DISCARD_REMOTE,
        DISCARD_REMOTE => DISCARD_LOCAL,
        other => other,
    }
}

/// The first option in which two nodes that meet differ although they must not, in the order in which 8.4 compares.
pub fn first_mismatch(ours: &Settings, theirs: &Settings, version: u32) -> Option<&'static str> {
    let mirrored = |number: u32| after_sb_mirrored(number);
    let checks = [
        ("protocol", ours.protocol == theirs.protocol),
        ("after-sb-0pri", ours.after_sb_0p == mirrored(theirs.after_sb_0p)),
        ("after-sb-1pri", ours.after_sb_1p == mirrored(theirs.after_sb_1p)),
        ("after-sb-2pri", ours.after_sb_2p == mirrored(theirs.after_sb_2p)),
        ("discard-my-data", !(ours.discard_my_data && theirs.discard_my_data)),
        ("allow-two-primaries", ours.two_primaries == theirs.two_primaries),
        ("data-integrity-alg", version < 87 || ours.integrity_alg == theirs.integrity_alg),
    ];
    checks.iter().find(|(_, same)| !same).map(|(option, _)| *option)
}

#[cfg(test)]
mod tests;
