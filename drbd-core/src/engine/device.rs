//! A volume on this node: block device and backing disk.

use super::activity_log::ActivityLog;
use super::bitmap::Bitmap;
use super::command::MetaOp;
use super::event::{DiskLimits, UpperRequest};
use super::generation::ROLE_BIT;
use super::meta_jobs::MetaJobs;
use super::resize::Resize;
use super::write_path::conflicts::{Conflicts, Owner};
use super::write_path::two_primaries::{ConcurrentWrites, Postponed};
use crate::config::{DeviceOptions, DiskOptions};
use crate::ids::{Instant, Minor, Sector, VolumeNumber};
use crate::limits::{EXTENT_SECTORS, PEER_REQUESTS_MAX, REQUESTS_MAX};
use crate::metadata::{Index, Place, SuperBlock, BLOCK_BYTES};
use crate::states::DiskState;
use std::collections::VecDeque;

/// When a copy that a Primary without disk depends on begins its new generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GenerationDue {
    /// The Primary lost its disk: when what was received before is written.
    WhenWritten,
    /// The Primary had none when it met this copy: with its first request, which tells that it takes this data for its
    /// own. Before, it may know of something newer on the disk it lost.
    AtFirstRequest,
}

/// When a Primary without disk waits for the generation that its peer begins for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PeerGenerationDue {
    /// It lost its disk: nothing is called done from here on.
    Now,
    /// It had none when it met that copy: with its first write. The ack of a write may overtake the generation, which the
    /// end of the session then takes along, and the disk that was away would pass for the data that has the write.
    WithFirstWrite,
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) volume: VolumeNumber,
    pub(super) minor: Minor,
    pub(super) options: DeviceOptions,
    /// Zero until first known.
    pub(super) size: Sector,
    /// Front end sessions.
    pub(super) open_count: u32,
    pub(super) disk: DiskState,
    pub(super) backing: Option<Box<Backing>>,
    pub(super) conflicts: Conflicts,
    /// Requests that came while none may be started, in order.
    pub(super) held: VecDeque<UpperRequest>,
    /// They are being started.
    pub(super) starting_held: bool,
    /// Writes to be done again after an overlapping one of the peer.
    pub(super) postponed: Vec<Postponed>,
    pub(super) concurrent_writes: ConcurrentWrites,
    /// read-balancing round-robin: the next read is the peer's.
    pub(super) peer_reads_next: bool,
    /// Writes (slab keys) waiting for the activity log, in order; they hold their place in `conflicts`.
    pub(super) log_waiters: VecDeque<LogWaiter>,
    /// Writes whose turn came while the disk was being negotiated, in order; they hold their place in `conflicts`.
    pub(super) parked: Vec<Owner>,
    /// Completions that wait until a new generation is on stable storage, here or at the peer.
    pub(super) held_completions: Vec<u32>,
    /// The disk is gone, and the peer has not yet told the generation of the data that only it has from here on. Until
    /// then what it alone has may not be called done: the disk given up would pass for the same data.
    pub(super) peer_generation_due: Option<PeerGenerationDue>,
    /// Writes were called done that may not have reached the peer (protocol A), or that it may lose with its power before
    /// it knows that it alone has them, and the disk that has them was given up before the connection was lost: the
    /// peer's data may be older than what the users have seen.
    pub(super) peer_is_behind: bool,
    /// The generation in which the disk, or its going, missed writes that the peer may have called done: as long as it
    /// says that it is of that generation it lacks them.
    pub(super) behind_in: Option<u64>,
    /// The peer's Primary goes on without disk: the new generation that says that this copy is ahead is due.
    pub(super) generation_due: Option<GenerationDue>,
    /// Contact to the peer's data was lost while requests are frozen: a new generation begins if they go on without it.
    pub(super) generation_owed: bool,
    /// The disk is full, and has the last good copy: when to try again.
    pub(super) full: Option<Instant>,
    /// Writes of the peer (slab keys) that wait for space there.
    pub(super) unwritten: Vec<u32>,
    /// When to look for an operation that takes too long (disk-timeout).
    pub(super) disk_check_at: Option<Instant>,
    /// Generation of the data the users of this device have seen.
    pub(super) exposed_uuid: u64,
    pub(super) counters: Counters,
    /// When an application, here or on the peer, last asked for something.
    pub(super) last_application: Option<Instant>,
    /// Its size is being changed.
    pub(super) resize: Option<Box<Resize>>,
    /// It has grown, and the new part is to be copied as soon as both nodes have a disk and are at rest.
    pub(super) new_area_due: bool,
    /// Since this daemon began, or was Primary, a peer was met that had newer data, or such as nobody could compare, or was
    /// Primary itself: what a Primary before showed its users is not all there is.
    pub(super) overtaken: bool,
}

/// An operation that waits for its extents to become hot.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogWaiter {
    pub(super) owner: Owner,
    /// References are held and it is hot after that transaction; `None`: no room yet.
    pub(super) after: Option<u64>,
}

/// What `status --statistics` shows, in sectors and counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) read_sectors: u64,
    pub(super) written_sectors: u64,
    pub(super) log_writes: u64,
    pub(super) bitmap_writes: u64,
    pub(super) upper_pending: u64,
    pub(super) lower_pending: u64,
}

/// An attached disk.
#[derive(Debug)]
pub(super) struct Backing {
    pub(super) name: String,
    pub(super) limits: DiskLimits,
    pub(super) options: DiskOptions,
    /// It said so when it was to flush.
    pub(super) cannot_flush: bool,
    pub(super) super_block: SuperBlock,
    pub(super) index: Index,
    /// Where the metadata is.
    pub(super) place: Place,
    /// Where its super block was before it moved.
    pub(super) old_super_block_bytes: u64,
    pub(super) bitmap: Bitmap,
    pub(super) log: ActivityLog,
    /// Where initialising the log on disk begins.
    pub(super) log_initialise_from: u32,
    /// Every block is out of sync: the log has nothing to tell.
    pub(super) log_suspended: bool,
    pub(super) jobs: MetaJobs,
    /// Disk and peer disk as the metadata told at attach.
    pub(super) at_attach: (DiskState, DiskState),
    /// Was Primary when it crashed and has not met its peer since.
    pub(super) crashed_primary: bool,
    pub(super) replayed_extents: u64,
    pub(super) replayed_bits: u64,
    /// The generation on stable storage differs from that in memory: nothing may be acknowledged that the old one
    /// would not cover.
    pub(super) generations_pending: u32,
    /// Writes for a Primary without disk were logged here, and not all of their bits are on stable storage yet.
    pub(super) logged_for_peer: bool,
    /// A Primary that used this copy for want of its own was lost: as long as this generation is current it may come back
    /// and send here again what it froze. Kept as PRIMARY_IND.
    pub(super) peer_may_resend: bool,
    /// A demotion has its bits yet to write: what goes out before them must still say that the log counts.
    pub(super) demotion_unwritten: bool,
    /// Where the data is older than the peer's, a bit is set: an Inconsistent disk may be read where none is.
    pub(super) old_blocks_known: bool,
    /// The disk is being let go, and what it has from here on may not be called done: the peer has begun a generation after
    /// this one, or refused a write, and no generation will tell that this disk has more.
    pub(super) outrun: bool,
    /// PRIMARY_IND is on stable storage, so that the log counts after a crash.
    pub(super) primary_stable: bool,
    /// A super block with it is being written, and nothing took it back since.
    pub(super) primary_on_its_way: bool,
}

impl Backing {
    /// Where a block of the metadata goes.
    pub(super) fn offset_of(&self, op: MetaOp) -> u64 {
        let nth = |block: u32| u64::from(block) * BLOCK_BYTES as u64;
        match op {
            MetaOp::SuperBlock
            | MetaOp::InterimSuperBlock { .. }
            | MetaOp::UnsealedSuperBlock
            | MetaOp::Flush => self.place.super_block_offset_bytes,
            MetaOp::OldSuperBlock => self.old_super_block_bytes,
            MetaOp::LogTransaction { block } | MetaOp::LogInitialise { block } => {
                self.place.log_offset_bytes + nth(block)
            }
            MetaOp::BitmapBlock { block } => self.place.bitmap_offset_bytes + nth(block),
        }
    }
}

impl Device {
    /// A disk of that generation has what the users of the device have seen.
    pub(super) fn shows(&self, current: u64) -> bool {
        let current = current & !ROLE_BIT;
        self.exposed_uuid & !ROLE_BIT == current && self.behind_in != Some(current)
    }

    pub(super) fn new(minor: Minor, volume: VolumeNumber, options: DeviceOptions) -> Device {
        Device {
            volume,
            minor,
            options,
            size: Sector(0),
            open_count: 0,
            disk: DiskState::Diskless,
            backing: None,
            conflicts: Conflicts::new(REQUESTS_MAX + PEER_REQUESTS_MAX),
            held: VecDeque::with_capacity(256),
            starting_held: false,
            postponed: Vec::new(),
            concurrent_writes: ConcurrentWrites::default(),
            peer_reads_next: false,
            log_waiters: VecDeque::with_capacity(256),
            parked: Vec::new(),
            held_completions: Vec::with_capacity(64),
            peer_generation_due: None,
            peer_is_behind: false,
            behind_in: None,
            generation_due: None,
            generation_owed: false,
            full: None,
            unwritten: Vec::new(),
            disk_check_at: None,
            exposed_uuid: 0,
            counters: Counters::default(),
            last_application: None,
            resize: None,
            new_area_due: false,
            overtaken: false,
        }
    }

    /// The activity log is being moved: nobody may refer to it.
    pub(super) fn log_moves(&self) -> bool {
        self.resize.as_deref().is_some_and(Resize::moves_log)
    }

    /// Something that was begun goes on as soon as a full disk has space.
    pub(super) fn waits_for_space(&self) -> bool {
        !self.unwritten.is_empty() || self.backing.as_deref().is_some_and(|b| b.jobs.waits_for_space())
    }

    /// Something waits to be started.
    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty() || !self.postponed.is_empty()
    }

    /// The backing disk, while it may be read or written.
    pub(super) fn usable(&mut self) -> Option<&mut Backing> {
        if self.disk.has_data() {
            self.backing.as_deref_mut()
        } else {
            None
        }
    }
}

/// The activity-log extents of a stretch.
pub(super) fn extents(sector: Sector, bytes: u32) -> super::activity_log::Extents {
    let first = sector.0 / EXTENT_SECTORS;
    let last = (sector.end_of(bytes).0.max(sector.0 + 1) - 1) / EXTENT_SECTORS;
    first as u32..=last as u32
}
