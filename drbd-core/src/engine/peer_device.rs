//! A volume as seen through a connection.

use super::resync::Resync;
use super::senseless::{senseless, Senseless};
use super::verify::{Verify, VerifyPlan};
use super::write_path::peer_request::PeerRequest;
use super::write_path::two_primaries::is_later;
use crate::config::PeerDeviceOptions;
use crate::control::FinishedResync;
use crate::ids::{Instant, Sector, Ticket};
use crate::states::{DiskState, ReplicationState, ResyncSuspended};
use crate::wire::{Sizes, Uuids};
use std::collections::VecDeque;

/// A peer device.
#[derive(Debug)]
pub(super) struct PeerDevice {
    pub(super) options: PeerDeviceOptions,
    pub(super) replication: ReplicationState,
    pub(super) peer_disk: DiskState,
    pub(super) resync_suspended: ResyncSuspended,
    /// The peer's generations as last told in this session.
    pub(super) uuids: Option<Uuids>,
    /// What its generation was as the session ended whose transfer log is frozen.
    pub(super) generation_at_freeze: Option<u64>,
    /// The peer's sizes as last told in this session.
    pub(super) sizes: Option<Sizes>,
    /// The size of the device told to the peer last in this session.
    pub(super) told_size: Sector,
    /// As source of a new part: a handler prepares, or the name of the resync is being kept.
    pub(super) new_area: bool,
    /// Bits told in the last P_UUIDS to the peer.
    pub(super) bits_told: u64,
    /// Packet sequence number of the last packet sent that carries one.
    pub(super) sequence: u32,
    /// The highest packet sequence number of the peer seen (two Primaries).
    pub(super) peer_sequence: u32,
    /// Next bit expected of the peer's bitmap, while it is being received.
    pub(super) bitmap_received: u64,
    /// The bitmap was received completely while something else still had to happen.
    pub(super) bitmap_complete: bool,
    /// As source: our bitmap was sent.
    pub(super) bitmap_sent: bool,
    /// Counts the calls of handlers before a resync.
    pub(super) resync_attempt: u32,
    /// As source: the name of the resync that is about to begin.
    pub(super) sync_uuid: u64,
    /// As target of a full sync: the source named it before everything was marked here.
    pub(super) early_sync_uuid: Option<u64>,
    /// Who asked for the full sync that is being marked.
    pub(super) full_sync_ticket: Option<Ticket>,
    /// The volume was made while the nodes were connected: the peer may not have had it yet when it was told of it.
    pub(super) made_in_session: bool,
    /// The volume is about to be deleted here, and the peer was asked: nothing more is said of it, and once the peer let it
    /// go, nothing is heard any more. What was on its way would bring it back there, and here.
    pub(super) leaving: bool,
    /// This node discards its data if the generations conflict.
    pub(super) discard_my_data: bool,
    /// Both were Inconsistent and the peer became Primary: look at the generations again.
    pub(super) consider_resync: bool,
    /// The peer refused a write, and its word of what became of its disk is on its way: only this node has that write.
    pub(super) refused_write: bool,
    /// Writes of this node that only the peer has were acknowledged in an earlier session and not followed by a barrier:
    /// nobody knows whether they are stable, until a barrier is acknowledged.
    pub(super) unstable_at_peer: bool,
    /// Writes later than those of the transfer log were not sent, as the peer could not take them: sent again, those of the
    /// log might undo them.
    pub(super) log_outrun: bool,
    /// As target: the Inconsistent state is not yet on stable storage, the peer's writes wait here.
    pub(super) gated: bool,
    pub(super) gate: VecDeque<PeerRequest>,
    pub(super) resync: Option<Box<Resync>>,
    /// In this session a resync or verify ended with questions open: what answers them may still come.
    pub(super) strays: bool,
    pub(super) verify: Option<Box<Verify>>,
    pub(super) verify_plan: VerifyPlan,
    /// Ahead, and everything mirrored is stable: the peer is to catch up then.
    pub(super) catch_up_at: Option<Instant>,
    pub(super) last_resync: Option<FinishedResync>,
    pub(super) counters: PeerCounters,
}

/// What `status --statistics` shows, in sectors and counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerCounters {
    pub(super) received_sectors: u64,
    pub(super) sent_sectors: u64,
    pub(super) pending: u64,
    pub(super) unacked: u64,
}

impl PeerDevice {
    pub(super) fn new() -> PeerDevice {
        PeerDevice {
            options: PeerDeviceOptions::from(&crate::config::OptionSet::default()),
            replication: ReplicationState::Off,
            peer_disk: DiskState::DUnknown,
            resync_suspended: ResyncSuspended::default(),
            uuids: None,
            generation_at_freeze: None,
            sizes: None,
            told_size: Sector(0),
            new_area: false,
            bits_told: 0,
            sequence: 0,
            peer_sequence: 0,
            bitmap_received: 0,
            bitmap_complete: false,
            bitmap_sent: false,
            resync_attempt: 0,
            sync_uuid: 0,
            early_sync_uuid: None,
            full_sync_ticket: None,
            made_in_session: false,
            leaving: false,
            discard_my_data: false,
            consider_resync: false,
            refused_write: false,
            unstable_at_peer: false,
            log_outrun: false,
            gated: false,
            gate: VecDeque::new(),
            resync: None,
            strays: false,
            verify: None,
            verify_plan: VerifyPlan::default(),
            catch_up_at: None,
            last_resync: None,
            counters: PeerCounters::default(),
        }
    }

    /// The peer sent something with that number.
    pub(super) fn heard_sequence(&mut self, sequence: u32) {
        if is_later(sequence, self.peer_sequence) {
            self.peer_sequence = sequence;
        }
    }

    /// The resync is over, or breaks off.
    pub(super) fn end_resync(&mut self) -> Option<Box<Resync>> {
        self.strays |= self.resync.as_deref().is_some_and(Resync::has_open_questions);
        self.resync.take()
    }

    /// The verify is over, or breaks off.
    pub(super) fn end_verify(&mut self) -> Option<Box<Verify>> {
        self.strays |= self.verify.as_deref().is_some_and(Verify::has_open_questions);
        self.verify.take()
    }

    /// The source answers a block of the resync: false if of one that broke off.
    pub(super) fn answers_resync(&mut self, sector: Sector, bytes: u32) -> Result<bool, Senseless> {
        if self.resync.as_deref_mut().is_some_and(|resync| resync.answered(sector, bytes)) {
            return Ok(true);
        }
        self.stray_answer(sector).map(|()| false)
    }

    /// Likewise where it says that there are only zeroes.
    pub(super) fn answers_thin(&mut self, sector: Sector, bytes: u32) -> Result<bool, Senseless> {
        if self.resync.as_deref_mut().is_some_and(|resync| resync.answered_thin(sector, bytes)) {
            return Ok(true);
        }
        self.stray_answer(sector).map(|()| false)
    }

    /// An answer to no open question of the resync or verify at hand.
    pub(super) fn stray_answer(&self, sector: Sector) -> Result<(), Senseless> {
        if self.strays {
            return Ok(());
        }
        senseless("sector", sector.0, "where no answer is waited for")
    }

    /// The next packet sequence number.
    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}
