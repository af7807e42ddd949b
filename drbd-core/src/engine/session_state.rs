//! What a session at rest consists of, as one daemon hands it to the next (`hand_over`): everything that the peer
//! remembers of what was said, and nothing that disks and configuration tell.
//!
//! It is written by one version of udrbd and read by another. Whoever changes what it means, or what is in it, gives it
//! another [`FORMAT`]; the other version then refuses it, and connects as usual.

use crate::ids::{NodeId, Sector, VolumeNumber};
use crate::states::{DiskState, Protocol, ResyncSuspended, Role};
use crate::wire::{Sizes, Uuids};
use serde::{Deserialize, Serialize};

/// The format this version writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// A session at rest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SessionState {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// This node.
    pub node: NodeId,
    /// Its peer.
    pub peer: NodeId,
    /// Agreed protocol version.
    pub version: u32,
    /// Agreed features.
    pub features: u32,
    /// This node has its way where both are alike.
    pub resolve_conflicts: bool,
    /// The peer asked for a dry run as it connected.
    pub peer_tentative: bool,
    /// What both nodes have alike.
    pub settings: SharedSettings,
    /// Name of the digests before bulk that this node sends; empty: none.
    pub sends_digests: String,
    /// Name of the digests before bulk that arrives; empty: none.
    pub receives_digests: String,
    /// Number of the next barrier this node sends.
    pub epoch: u32,
    /// What came of the peer since its last barrier.
    pub peer_epoch: OpenEpoch,
    /// Cookies of requests go on from here.
    pub cookie: u32,
    /// The peer's role.
    pub peer_role: Role,
    /// Why the last connection ended, as shown.
    pub last_error: String,
    /// The sentence that told who copies to whom.
    pub last_decision: String,
    /// Volumes deleted here since the nodes connected.
    pub volumes_deleted: Vec<VolumeNumber>,
    /// Every volume, in the order of their numbers.
    pub volumes: Vec<VolumeState>,
}

/// Settings that both nodes have alike, though the peer's administrator may have changed them since.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the options of these names
pub struct SharedSettings {
    pub protocol: Protocol,
    pub allow_two_primaries: bool,
    pub after_sb_0pri: String,
    pub after_sb_1pri: String,
    pub after_sb_2pri: String,
    pub verify_alg: String,
    pub csums_alg: String,
}

/// The epoch of the peer that no barrier has ended yet. Its writes are on the disk, and not yet known to be stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OpenEpoch {
    /// Writes received.
    pub received: u32,
    /// Those that the answer to its barrier is to count: without the ones turned away.
    pub writes: u32,
}

/// One volume of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VolumeState {
    /// Which.
    pub volume: VolumeNumber,
    /// Its size.
    pub size: Sector,
    /// The own disk, as the peer knows it.
    pub disk: DiskState,
    /// Generation of the own disk and the one its bitmap counts from; zero without a disk.
    pub generation: [u64; 2],
    /// Blocks the own bitmap says the peer lacks.
    pub bits: u64,
    /// The own disk was a Primary's that crashed, and was not compared with good data since.
    pub crashed_primary: bool,
    /// Generation of the data that users of the device have seen.
    pub exposed_uuid: u64,
    /// The generation in which the own disk lacks what the peer may have called done.
    pub behind_in: Option<u64>,
    /// Somebody else was Primary since this node was: users that wait for it have not seen everything.
    pub overtaken: bool,
    /// The peer's disk.
    pub peer_disk: DiskState,
    /// Why a resync would be held.
    pub resync_suspended: ResyncSuspended,
    /// The peer's generations as last told.
    pub peer_uuids: Option<Uuids>,
    /// The peer's sizes as last told.
    pub peer_sizes: Option<Sizes>,
    /// The size last told to the peer.
    pub told_size: Sector,
    /// Set bits in the generations last told to the peer.
    pub bits_told: u64,
    /// Number of the last packet sent that carries one.
    pub sequence: u32,
    /// The highest number of the peer's.
    pub peer_sequence: u32,
    /// Writes that only the peer has are not known to be stable there.
    pub unstable_at_peer: bool,
    /// Answers to questions of a resync or verify that broke off may still come.
    pub strays: bool,
    /// It was made while the nodes were connected.
    pub made_in_session: bool,
    /// The next state of the peer is reason to look at the generations.
    pub consider_resync: bool,
}

/// What every format has.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl SessionState {
    /// As text.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("it has nothing that is no text")
    }

    /// Reads it, or says in a sentence why not.
    pub fn decode(text: &str) -> Result<SessionState, String> {
        let unreadable = |e: serde_json::Error| format!("the session handed over cannot be read: {e}");
        let head: Head = serde_json::from_str(text).map_err(unreadable)?;
        check_format(head.format)?;
        serde_json::from_str(text).map_err(unreadable)
    }
}

/// A format that is not this version's is refused.
pub(super) fn check_format(format: u32) -> Result<(), String> {
    if format == FORMAT {
        return Ok(());
    }
    Err(format!(
        "the session was handed over in format {format}, and this version of udrbd reads format {FORMAT}"
    ))
}

#[cfg(test)]
mod tests;
