//! The relation to one peer node, and the session while there is one.

use super::pairing::Pairing;
use super::peer_device::PeerDevice;
use super::write_path::epoch::SentEpochs;
use super::write_path::received::Received;
use super::write_path::two_primaries::HeldStream;
use crate::config::NetOptions;
use crate::ids::{Instant, NodeId, SocketId, VolumeNumber};
use crate::states::{ConnectionState, Role};
use crate::wire::feature;
use core::net::SocketAddr;
use std::collections::{BTreeSet, VecDeque};

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: NodeId,
    pub(super) options: NetOptions,
    pub(super) paths: Vec<Path>,
    pub(super) state: ConnectionState,
    pub(super) peer_role: Role,
    pub(super) link: Link,
    /// One per device, in the same order.
    pub(super) peer_devices: Vec<PeerDevice>,
    /// Mirrored writes (slab keys) whose epoch is not yet acknowledged, in the order sent.
    pub(super) transfer_log: VecDeque<u32>,
    /// Sectors of those writes.
    pub(super) log_sectors: u64,
    /// How many writes at the head of the transfer log are known to be in the kernel's buffer (protocol A).
    pub(super) acknowledged_a: usize,
    /// Flushes (slab keys) that wait for a barrier to be acknowledged.
    pub(super) flush_waiters: Vec<u32>,
    /// Reads (slab keys) the peer was asked for.
    pub(super) remote_reads: Vec<u32>,
    /// Number of the epoch being filled; keeps counting over reconnects.
    pub(super) epoch: u32,
    /// Sessions so far.
    pub(super) sessions: u32,
    /// `connect --discard-my-data`, until the first successful connect.
    pub(super) discard_my_data: bool,
    /// `connect --tentative`.
    pub(super) tentative: bool,
    pub(super) last_error: String,
}

/// An address pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// How far the link is.
#[derive(Debug)]
pub(super) enum Link {
    /// StandAlone.
    Idle,
    /// Lost or not yet tried: try again then.
    Waiting {
        /// When.
        retry_at: Instant,
    },
    /// Looking for the peer.
    Pairing(Box<Pairing>),
    /// Two sockets.
    Session(Box<Session>),
}

/// One successful pairing's lifetime.
#[derive(Debug)]
pub(super) struct Session {
    /// To tell late completions of an earlier session.
    pub(super) number: u32,
    pub(super) data: SocketId,
    pub(super) control: SocketId,
    pub(super) stage: Stage,
    /// Agreed protocol version; 80 before.
    pub(super) version: u32,
    /// Agreed features.
    pub(super) features: u32,
    /// Names of the digests before bulk, by direction; empty for none.
    pub(super) sends_digests: String,
    pub(super) receives_digests: String,
    /// The tie breaker: true on the node that accepted the control socket.
    pub(super) resolve_conflicts: bool,
    /// This node's challenge and, when known, the peer's answer.
    pub(super) challenge: Option<Box<[u8; 64]>>,
    /// The peer's challenge, if it came before this node's was made.
    pub(super) peer_challenge: Option<Box<[u8]>>,
    pub(super) peer_response: Option<Box<[u8]>>,
    pub(super) expected_response: Option<Box<[u8]>>,
    pub(super) responded: bool,
    /// 8.4's STATE_SENT: the peer decides on what was told; roles and disks hold still until it has.
    pub(super) state_sent: bool,
    /// The peer asked for a dry run.
    pub(super) peer_tentative: bool,
    /// The peer is closing in an orderly way.
    pub(super) tear_down: bool,
    /// The peer closed one of the streams; what it said before on the other one may still be on its way.
    pub(super) stream_ended: bool,
    /// Packets handed to the shell for the data socket, the first one of a socket this node opened included.
    pub(super) data_sent: u64,
    pub(super) sent_epochs: SentEpochs,
    pub(super) received: Received,
    pub(super) held_stream: HeldStream,
    /// Volumes deleted here since it began.
    pub(super) volumes_deleted: BTreeSet<VolumeNumber>,
    pub(super) deadline: Option<Instant>,
    pub(super) last_heard: Instant,
    pub(super) pings: VecDeque<PingFor>,
    /// It has to end, with the present event, and why.
    pub(super) doomed: Option<&'static str>,
    /// The peer pinged before a version was agreed.
    pub(super) ping_owed: bool,
    pub(super) ping_sent_at: Instant,
    /// When the oldest write without acknowledgement was sent, or the last progress after it.
    pub(super) write_progress_at: Instant,
    /// Sectors of mirrored writes not yet acknowledged.
    pub(super) ap_in_flight: u64,
}

/// Why a ping was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PingFor {
    /// Is the peer alive?
    Alive,
    /// A node that is about to become Primary looks whether its peer still lives.
    Promotion,
    /// The source has seen every acknowledgement of the resync of that volume.
    ResyncEnd(usize),
    /// The peer has seen every verdict of the verify of that volume.
    VerifyEnd(usize),
}

/// What a session waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Features,
    Challenge,
    Response,
    Settings,
    /// The peer's settings agree.
    Up,
}

impl Stage {
    /// What it waits for, for a sentence.
    pub(super) fn awaits(self) -> &'static str {
        match self {
            Stage::Features => "P_CONNECTION_FEATURES",
            Stage::Challenge => "P_AUTH_CHALLENGE",
            Stage::Response => "P_AUTH_RESPONSE",
            Stage::Settings => "P_PROTOCOL",
            Stage::Up => "everything but the handshake",
        }
    }
}

impl Connection {
    /// There is no transfer log that could be sent again.
    pub(super) fn forget_outrun_log(&mut self) {
        self.peer_devices.iter_mut().for_each(|p| p.log_outrun = false);
    }

    pub(super) fn new(peer: NodeId, options: NetOptions) -> Connection {
        Connection {
            peer,
            options,
            paths: Vec::new(),
            state: ConnectionState::StandAlone,
            peer_role: Role::Unknown,
            link: Link::Idle,
            peer_devices: Vec::new(),
            log_sectors: 0,
            transfer_log: VecDeque::with_capacity(2 * crate::limits::REQUESTS_MAX),
            acknowledged_a: 0,
            flush_waiters: Vec::with_capacity(64),
            remote_reads: Vec::with_capacity(64),
            epoch: 0,
            sessions: 0,
            discard_my_data: false,
            tentative: false,
            last_error: String::new(),
        }
    }

    /// Name for log lines and status.
    pub(super) fn name(&self) -> String {
        if self.options.name.is_empty() {
            format!("peer{}", self.peer)
        } else {
            self.options.name.clone()
        }
    }

    pub(super) fn session(&self) -> Option<&Session> {
        match &self.link {
            Link::Session(session) => Some(session),
            Link::Idle | Link::Waiting { .. } | Link::Pairing(_) => None,
        }
    }

    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.link {
            Link::Session(session) => Some(session),
            Link::Idle | Link::Waiting { .. } | Link::Pairing(_) => None,
        }
    }

    /// The session, once settings and states are being exchanged.
    pub(super) fn established(&mut self) -> Option<&mut Session> {
        self.session_mut().filter(|s| matches!(s.stage, Stage::Settings | Stage::Up))
    }
}

impl Session {
    pub(super) fn new(
        number: u32,
        data: SocketId,
        control: SocketId,
        resolve_conflicts: bool,
        now: Instant,
    ) -> Session {
        Session {
            number,
            data,
            control,
            stage: Stage::Features,
            version: 80,
            features: 0,
            sends_digests: String::new(),
            receives_digests: String::new(),
            resolve_conflicts,
            challenge: None,
            peer_challenge: None,
            peer_response: None,
            expected_response: None,
            responded: false,
            state_sent: false,
            peer_tentative: false,
            tear_down: false,
            stream_ended: false,
            data_sent: 0,
            sent_epochs: SentEpochs::default(),
            received: Received::new(number),
            held_stream: HeldStream::default(),
            deadline: None,
            last_heard: now,
            pings: VecDeque::new(),
            ping_owed: false,
            volumes_deleted: BTreeSet::new(),
            doomed: None,
            ping_sent_at: now,
            write_progress_at: now,
            ap_in_flight: 0,
        }
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        debug_assert!(
            flag & (feature::TRIM | feature::THIN_RESYNC | feature::LONG_SIZES | feature::ZEROES) == flag
        );
        self.features & flag != 0
    }
}
