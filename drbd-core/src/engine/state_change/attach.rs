//! What a disk is worth when it is attached, from the flags of its super block (5.9 of the wire reference).

use super::snapshot::FencingPolicy;
use crate::metadata::{device_flag, peer_flag};
use crate::states::DiskState;

/// What the flags of a super block say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundAtAttach {
    /// State of the own disk. While connected the disk goes through Negotiating first, with this remembered.
    pub disk: DiskState,
    /// What is known of the peer's: Outdated or DUnknown.
    pub peer_disk: DiskState,
    /// This node was Primary when it crashed. To be ignored by a Primary that attaches again after being suspended
    /// without data.
    pub crashed_primary: bool,
    /// All bits are to be set: a full sync was under way, or the log did not tell what was being written.
    pub all_out_of_sync: bool,
}

/// Reads the flags of the device and of its peer.
pub fn found_at_attach(device_flags: u32, peer_flags: u32, fencing: FencingPolicy) -> FoundAtAttach {
    let device = |flag| device_flags & flag != 0;
    let peer = |flag| peer_flags & flag != 0;
    let peer_disk = if peer(peer_flag::OUTDATED) { DiskState::Outdated } else { DiskState::DUnknown };
    // Without fencing, or with a peer known to be older, no one can have newer data than this node.
    let newest = peer_disk == DiskState::Outdated || fencing == FencingPolicy::DontCare;
    let disk = match (device(device_flag::CONSISTENT), device(device_flag::WAS_UP_TO_DATE)) {
        (false, _) => DiskState::Inconsistent,
        (true, false) => DiskState::Outdated,
        (true, true) if newest => DiskState::UpToDate,
        (true, true) => DiskState::Consistent,
    };
    let crashed_primary = device(device_flag::CRASHED_PRIMARY) || device(device_flag::PRIMARY_IND);
    let all_out_of_sync = peer(peer_flag::FULL_SYNC) || crashed_primary && device(device_flag::AL_DISABLED);
    FoundAtAttach { disk, peer_disk, crashed_primary, all_out_of_sync }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(device: u32, peer: u32) -> FoundAtAttach {
        found_at_attach(device, peer, FencingPolicy::ResourceOnly)
    }

    #[test]
    fn flags_tell_the_disk_state() {
        const GOOD: u32 = device_flag::CONSISTENT | device_flag::WAS_UP_TO_DATE;
        assert_eq!(found(0, 0).disk, DiskState::Inconsistent);
        assert_eq!(found(device_flag::WAS_UP_TO_DATE, 0).disk, DiskState::Inconsistent);
        assert_eq!(found(device_flag::CONSISTENT, 0).disk, DiskState::Outdated);
        assert_eq!(found(GOOD, 0).disk, DiskState::Consistent);
        assert_eq!(found(GOOD, peer_flag::OUTDATED).disk, DiskState::UpToDate);
        assert_eq!(found(GOOD, peer_flag::OUTDATED).peer_disk, DiskState::Outdated);
        assert_eq!(found_at_attach(GOOD, 0, FencingPolicy::DontCare).disk, DiskState::UpToDate);
        let outdated = found_at_attach(device_flag::CONSISTENT, 0, FencingPolicy::DontCare);
        assert_eq!(outdated.disk, DiskState::Outdated, "no fencing makes no disk better than it was");
    }

    #[test]
    fn a_crashed_primary_without_a_log_is_wholly_out_of_sync() {
        assert!(!found(device_flag::AL_DISABLED, 0).all_out_of_sync);
        assert!(found(device_flag::AL_DISABLED | device_flag::PRIMARY_IND, 0).all_out_of_sync);
        assert!(found(device_flag::CRASHED_PRIMARY, 0).crashed_primary);
        assert!(!found(device_flag::CRASHED_PRIMARY, 0).all_out_of_sync);
        assert!(found(0, peer_flag::FULL_SYNC).all_out_of_sync);
    }
}
