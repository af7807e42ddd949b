//! One node: its power, its disks, and the shell around the engine while its daemon runs.

use super::clock::NodeClock;
use super::disk::{Disk, Tag};
use super::hand_over::Handing;
use super::image::Image;
use super::network::Piece;
use super::payload::Payloads;
use super::recovery::Held;
use super::workload::Wish;
use drbd_core::engine::Resource;
use drbd_core::ids::{DiskIoId, PayloadId};
use drbd_core::wire::{Frame, Framer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// The disks of a volume.
#[derive(Debug)]
pub(crate) struct VolumeDisks {
    /// Where the metadata is.
    pub(crate) image: Image,
    /// The backing disk; with internal metadata that too.
    pub(crate) data: Disk,
    /// The metadata disk, if it is another one.
    pub(crate) meta: Option<Disk>,
}

impl VolumeDisks {
    /// The disk with the metadata.
    pub(crate) fn meta_disk(&mut self) -> &mut Disk {
        self.meta.as_mut().unwrap_or(&mut self.data)
    }

    /// No write of metadata goes well before that time.
    pub(crate) fn meta_full_until(&self) -> u64 {
        self.meta.as_ref().unwrap_or(&self.data).meta_full_until
    }

    /// The metadata area.
    pub(crate) fn meta_area(&self) -> &[u8] {
        self.meta.as_ref().unwrap_or(&self.data).meta()
    }

    /// One of the two.
    pub(crate) fn disk(&mut self, meta: bool) -> &mut Disk {
        if meta {
            self.meta_disk()
        } else {
            &mut self.data
        }
    }
}

/// What a disk operation of the engine was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Of the command.
    pub(crate) io: DiskIoId,
    /// Which volume.
    pub(crate) volume: usize,
    /// On its metadata disk.
    pub(crate) meta: bool,
    /// Data sectors written.
    pub(crate) writes: Option<(u64, u64)>,
    /// The buffer of a read; NONE: the shell takes one.
    pub(crate) fills: Option<PayloadId>,
}

/// A socket of the daemon.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Which connection of the network, and which side of it.
    pub(crate) connection: usize,
    pub(crate) side: usize,
    pub(crate) version: u32,
    pub(crate) framer: Framer,
    /// Bulk travels behind a digest of it (data-integrity-alg), in that direction.
    pub(crate) sends_digest: bool,
    pub(crate) receives_digest: bool,
    /// Arrived and not yet read.
    pub(crate) input: VecDeque<Piece>,
    /// A packet whose bulk is still arriving: the packet, bytes missing, the bulk.
    pub(crate) awaiting: Option<(Frame, usize, Rc<Vec<Tag>>)>,
}

/// A request of the application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// What.
    pub(crate) wish: Wish,
    /// Its number in the ledger, of a write.
    pub(crate) write: Option<u32>,
    /// Its moment in the ledger.
    pub(crate) begun: u64,
    /// A write of zeroes.
    pub(crate) zero_data: bool,
    /// What it was last sent to the peer as.
    pub(crate) block_id: u64,
    /// The peer's disk did not take it.
    pub(crate) refused: bool,
    /// Whose data its node showed then.
    pub(crate) shows: u8,
    /// A daemon that died was asked for it before.
    pub(crate) again: bool,
    /// It was handed back once though it fits: the peer for which it did not went in that moment.
    pub(crate) handed_back: bool,
}

/// A running daemon.
pub(crate) struct Daemon {
    /// The engine.
    pub(crate) resource: Resource,
    /// The buffers.
    pub(crate) payloads: Payloads,
    /// The sockets, by number.
    pub(crate) sockets: BTreeMap<u32, Endpoint>,
    pub(crate) next_socket: u32,
    /// Peers accepted from.
    pub(crate) listening: BTreeSet<u8>,
    /// Attempts under way, by peer.
    pub(crate) dialling: BTreeMap<u8, u32>,
    pub(crate) attempts: u32,
    /// Disk operations, by number.
    pub(crate) jobs: BTreeMap<u64, Job>,
    /// When the timer rings.
    pub(crate) armed: Option<u64>,
    /// Requests of the application, by tag.
    pub(crate) asked: BTreeMap<u32, Asked>,
    pub(crate) next_tag: u32,
    /// The application runs.
    pub(crate) open: bool,
    /// It is about to end.
    pub(crate) closing: bool,
    pub(crate) next_ticket: u32,
    /// The request of the operator that is not answered yet.
    pub(crate) waiting: Option<(u32, Step)>,
    /// Requests of an administrator beside the operator's.
    pub(crate) aside: BTreeSet<u32>,
    /// An administrator resumed what may have been frozen, or it was frozen and gave way to newer data.
    pub(crate) resumed: bool,
    /// An administrator configured fencing since it began.
    pub(crate) fences: bool,
    /// Requests were frozen all the time the last event was handled.
    pub(crate) frozen: bool,
    /// It makes way for the next daemon, or is the next one.
    pub(crate) handing: Handing,
    /// What the operator still has to do.
    pub(crate) script: VecDeque<Step>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon")
            .field("waiting", &self.waiting)
            .field("script", &self.script)
            .finish_non_exhaustive()
    }
}

impl Daemon {
    /// The operator waits for a promotion.
    pub(crate) fn is_promoting(&self) -> bool {
        matches!(self.waiting, Some((_, Step::Primary { .. } | Step::ResumePrimary)))
    }

    /// A daemon around an engine.
    pub(crate) fn new(resource: Resource) -> Daemon {
        Daemon {
            resource,
            payloads: Payloads::default(),
            sockets: BTreeMap::new(),
            next_socket: 1,
            listening: BTreeSet::new(),
            dialling: BTreeMap::new(),
            attempts: 0,
            jobs: BTreeMap::new(),
            armed: None,
            asked: BTreeMap::new(),
            next_tag: 1,
            open: false,
            closing: false,
            next_ticket: 1,
            waiting: None,
            aside: BTreeSet::new(),
            resumed: false,
            fences: false,
            frozen: false,
            handing: Handing::default(),
            script: VecDeque::new(),
        }
    }
}

/// One step of the operator on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// `drbdsetup new-minor`.
    NewMinor(usize),
    /// `drbdsetup del-minor`.
    DelMinor(usize),
    /// `drbdmeta apply-al` and `drbdsetup attach`; `recovery`: what a restarted daemon does by itself.
    Attach {
        /// Which volume.
        volume: usize,
        /// Without apply-al.
        recovery: bool,
    },
    /// `drbdsetup new-peer`.
    NewPeer,
    /// `drbdsetup new-path`.
    NewPath,
    /// `drbdsetup peer-device-options`.
    PeerDeviceOptions(usize),
    /// `drbdsetup connect`.
    Connect {
        /// `--discard-my-data`.
        discard: bool,
    },
    /// `drbdsetup disconnect`.
    Disconnect {
        /// `--force`.
        force: bool,
    },
    /// `drbdsetup primary`.
    Primary {
        /// `--force`.
        force: bool,
    },
    /// What a daemon asks that is to make way for the next one, if that could not be started, and what the next one asks.
    HandOver,
    TakeBack,
    Adopt,
    /// What a daemon asks that begins where one died as Primary.
    ResumePrimary,
    /// The application ends.
    StopApplication,
    /// `drbdsetup secondary`.
    Secondary {
        /// `--force`.
        force: bool,
    },
    /// `drbdsetup detach`.
    Detach {
        /// Which volume.
        volume: usize,
        /// `--force`.
        force: bool,
    },
    /// `drbdmeta create-md`: the data is given up, with everything that was known about it.
    CreateMetadata,
    /// `drbdsetup down`: everything ends, the daemon too.
    Down,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its power is on.
    pub(crate) power: bool,
    /// Counts the runs of its daemon.
    pub(crate) run: u32,
    /// Its daemon, while it runs.
    pub(crate) daemon: Option<Daemon>,
    /// Its disks.
    pub(crate) volumes: Vec<VolumeDisks>,
    /// Its clock.
    pub(crate) clock: NodeClock,
    /// It was Primary when its daemon ended, and its disks have not been attached since.
    pub(crate) died_primary: bool,
    /// The daemon ended without the kernel: the next attach is a recovery.
    pub(crate) recovers: bool,
    /// What the kernel keeps since the daemon was killed under it.
    pub(crate) held: Option<Held>,
    /// A start of the daemon is arranged.
    pub(crate) starting: bool,
    /// The operator wants these attached and connected.
    pub(crate) wants_attached: Vec<bool>,
    pub(crate) wants_connected: bool,
    /// Connects are refused before that time.
    pub(crate) refuses_until: u64,
    /// By volume: its disk was good from when it was last told to become Primary until it was.
    pub(crate) was_good: Vec<bool>,
    /// By volume: its disk was Inconsistent just before it became Primary.
    pub(crate) was_torn: Vec<bool>,
    /// It became Primary since it was last told to.
    pub(crate) became_primary: bool,
    /// By volume: whose good copy it became Primary on, until that is answered.
    pub(crate) promoted_on: Vec<Option<usize>>,
    /// By volume: its last acknowledged write was without its peer.
    pub(crate) wrote_alone: Vec<bool>,
    /// The operator has it give its data up.
    pub(crate) discards: bool,
    /// Connects and attaches since the last that went well.
    pub(crate) connects_tried: u32,
    pub(crate) attaches_tried: u32,
}
