//! The epochs of what a peer writes here, carried out: under protocols A and B a write waits until every earlier epoch is
//! stable, and a barrier is answered when its epoch is.
//!
//! The order outlives the session. What was received before it ended is still written (its receipt may have been
//! acknowledged), epoch by epoch: should this node lose its power or its disk meanwhile, what came before a barrier must
//! not be missing where something that came after it is there.

use super::epoch::ReceivedEpochs;
use super::peer_request::PeerRequest;
use crate::engine::command::{Command, DiskOp};
use crate::engine::disk_trouble::Trouble;
use crate::engine::event::IoResult;
use crate::engine::planted::Bug;
use crate::engine::resource::{IoOwner, Resource};
use crate::engine::senseless::{senseless, Senseless};
use crate::engine::session_state::OpenEpoch;
use crate::ids::{PayloadId, Sector, VolumeNumber};
use crate::limits::{EPOCHS_MAX, PEER_REQUESTS_MAX};
use crate::states::{ConnectionState, Protocol};
use crate::wire::Packet;
use std::collections::VecDeque;

/// The peer's writes of one session.
#[derive(Debug)]
pub(in crate::engine) struct Received {
    /// Which session.
    session: u32,
    pub(in crate::engine) epochs: ReceivedEpochs,
    /// Writes that wait until the epochs before theirs are stable (protocols A and B), in the order of the epochs.
    later: VecDeque<u32>,
    /// Writes of the peer that were turned away: the own request (slab key) each met, and its epoch.
    pub(super) turned_away: Vec<(u32, u64)>,
    /// The writes of an epoch are being started: what comes of that is looked at afterwards.
    starting: bool,
}

impl Received {
    pub(in crate::engine) fn new(session: u32) -> Received {
        Received {
            session,
            epochs: ReceivedEpochs::new(),
            later: VecDeque::with_capacity(PEER_REQUESTS_MAX),
            turned_away: Vec::new(),
            starting: false,
        }
    }

    /// What the daemon before received in a session that goes on.
    pub(in crate::engine) fn adopted(session: u32, open: OpenEpoch) -> Received {
        Received { epochs: ReceivedEpochs::adopted(open), ..Received::new(session) }
    }

    /// What came since the last barrier, if everything before is stable and nothing waits.
    pub(in crate::engine) fn open_epoch(&self) -> Option<OpenEpoch> {
        let waits = !self.later.is_empty() || !self.turned_away.is_empty();
        self.epochs.at_rest().filter(|_| !waits)
    }

    /// What was turned away for these own writes is no part of its epoch any more.
    pub(super) fn retract_turned_away(&mut self, answered: impl Fn(u32) -> bool) {
        let epochs = &mut self.epochs;
        self.turned_away.retain(|&(own, epoch)| {
            let retracted = answered(own);
            if retracted {
                epochs.retract(epoch);
            }
            !retracted
        });
    }
}

impl Resource {
    fn received(&self, session: u32) -> Option<&Received> {
        let current = self.connection.as_ref().and_then(|c| c.session()).map(|s| &s.received);
        current.into_iter().chain(&self.left).find(|r| r.session == session)
    }

    pub(super) fn received_mut(&mut self, session: u32) -> Option<&mut Received> {
        let current = self.connection.as_mut().and_then(|c| c.session_mut()).map(|s| &mut s.received);
        current.into_iter().chain(&mut self.left).find(|r| r.session == session)
    }

    /// Whether a write's turn has not come. It holds its place among overlapping operations meanwhile: a resync block must
    /// not pass it.
    pub(super) fn waits_for_epoch(&self, request: &PeerRequest) -> bool {
        let ordered = self.session_number() != Some(request.session)
            || self.connection.as_ref().is_some_and(|c| c.options.protocol != Protocol::C);
        ordered && self.received(request.session).is_some_and(|r| !r.epochs.is_first(request.epoch))
    }

    /// Keeps those that wait for their epoch in the order of the epochs.
    pub(super) fn wait_for_epoch(&mut self, key: u32) {
        let PeerRequest { session, epoch, .. } = self.peer_requests[key];
        let later = &self.received(session).expect("asked before").later;
        let at = later.iter().rposition(|&k| self.peer_requests[k].epoch <= epoch).map_or(0, |at| at + 1);
        self.received_mut(session).expect("as above").later.insert(at, key);
    }

    /// An epoch is stable: the writes of the next one may start.
    fn start_next_epoch(&mut self, session: u32, out: &mut Vec<Command>) {
        if let Some(received) = self.received_mut(session) {
            received.starting = true;
        }
        while let Some(received) = self.received(session) {
            let next = received.later.front().copied();
            let Some(key) = next.filter(|&key| received.epochs.is_first(self.peer_requests[key].epoch))
            else {
                break;
            };
            self.received_mut(session).expect("as above").later.pop_front();
            self.peer_request_ready(key, out);
        }
        if let Some(received) = self.received_mut(session) {
            received.starting = false;
        }
    }

    /// A write is on the disk, or never will be.
    pub(super) fn received_write_done(&mut self, session: u32, epoch: u64, out: &mut Vec<Command>) {
        if let Some(received) = self.received_mut(session) {
            received.epochs.write_done(epoch);
            self.flush_epochs(session, out);
        }
    }

    /// P_BARRIER.
    pub(in crate::engine) fn peer_barrier(
        &mut self,
        barrier: u32,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        #[cfg(feature = "planted-bugs")]
        let early = self.planted(Bug::BarrierAckedEarly);
        let session =
            self.connection.as_mut().and_then(|c| c.session_mut()).expect("packets come in a session");
        let number = session.number;
        let epochs = &mut session.received.epochs;
        #[cfg(feature = "planted-bugs")]
        epochs.answer_early(early);
        if epochs.is_full() {
            return senseless("number", EPOCHS_MAX as u64 + 1, "more than may be unacknowledged");
        }
        if !epochs.barrier(barrier) {
            return senseless("barrier", barrier.into(), "after no write");
        }
        self.flush_epochs(number, out);
        Ok(())
    }

    /// P_UNPLUG_REMOTE: somebody waits for what was sent.
    pub(in crate::engine) fn peer_urges(&mut self, out: &mut Vec<Command>) {
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.received.epochs.urge();
            let number = session.number;
            self.flush_epochs(number, out);
        }
    }

    /// Begins a flush for the epochs of which everything is written: at once if somebody waits for it, else after a
    /// while, so that one flush serves many (decision 0006). Under A and B the next epoch always waits for it.
    pub(in crate::engine) fn flush_epochs(&mut self, session: u32, out: &mut Vec<Command>) {
        while let Some(end) = self.epochs_to_flush(session) {
            let disks = (0..self.devices.len()).filter(|&d| self.flushes_epochs(d)).count();
            let received = self.received_mut(session).expect("there is something to flush");
            received.epochs.begin_flush(end, disks.max(1) as u32);
            for d in 0..self.devices.len() {
                if self.flushes_epochs(d) {
                    let owner = IoOwner::EpochFlush { session };
                    self.disk_io(d, owner, DiskOp::Flush, (Sector(0), 0), PayloadId::NONE, false, out);
                }
            }
            if disks > 0 || !self.is_last_disk_flushed(session) {
                return;
            }
            self.epochs_are_stable(session, out);
        }
    }

    fn epochs_to_flush(&mut self, session: u32) -> Option<u64> {
        let now = self.now;
        let connection = self.connection.as_ref();
        let current = connection.and_then(|c| c.session()).filter(|s| s.number == session);
        let doomed = current.is_some_and(|s| s.doomed.is_some());
        let patient = current.is_some() && connection.is_some_and(|c| c.options.protocol == Protocol::C);
        let received = self.received_mut(session).filter(|r| !r.starting && !doomed)?;
        if patient {
            received.epochs.flush_due_at(now)
        } else {
            received.epochs.flush_due()
        }
    }

    fn flushes_epochs(&self, d: usize) -> bool {
        if self.planted(Bug::BarrierWithoutFlush) {
            return false;
        }
        let device = &self.devices[d];
        device.backing.as_ref().is_some_and(|b| b.flushes())
    }

    /// A disk is done with a flush for epochs. If it failed nothing may be called stable, so the session ends and the peer
    /// marks it all.
    pub(in crate::engine) fn epoch_flush_done(
        &mut self,
        d: usize,
        session: u32,
        result: IoResult,
        out: &mut Vec<Command>,
    ) {
        if let IoResult::Failed(errno) = result {
            self.local_io_error(d, Trouble::Flush, errno, out);
            if self.session_number() == Some(session) {
                let text = "The disk could not make the peer's writes stable";
                self.end_session(ConnectionState::NetworkFailure, text, out);
            }
        }
        if self.is_last_disk_flushed(session) {
            self.epochs_are_stable(session, out);
            self.flush_epochs(session, out);
        }
    }

    fn is_last_disk_flushed(&mut self, session: u32) -> bool {
        self.received_mut(session).is_some_and(|r| r.epochs.disk_flushed())
    }

    /// Everything before the flush is stable on every disk, as far as there are any.
    fn epochs_are_stable(&mut self, session: u32, out: &mut Vec<Command>) {
        while let Some((barrier, set_size)) = self.received_mut(session).and_then(|r| r.epochs.next_stable())
        {
            let told = self.session_number() == Some(session);
            if let Some(barrier) = barrier.filter(|_| told && set_size > 0) {
                self.send_control(VolumeNumber(0), Packet::BarrierAck { barrier, set_size }, out);
            }
        }
        self.start_next_epoch(session, out);
        self.left.retain(|left| !left.epochs.is_empty());
    }

    // ---- the end of a session ------------------------------------------------------------------------------------

    /// The session is over. What it brought is written in its order and made stable before the next one begins (a Primary
    /// without disk was told that it is written, and its next flush is to find it stable), unless a disk is full: its peer
    /// may be what helps.
    pub(in crate::engine) fn write_what_is_left(&mut self, mut received: Received, out: &mut Vec<Command>) {
        let session = received.session;
        received.retract_turned_away(|_| true);
        received.epochs.end_with_session();
        if !received.epochs.is_empty() {
            self.left.push(received);
            self.flush_epochs(session, out);
        }
    }

    /// Nothing that an earlier session brought is still to be written or made stable, as far as the disks take it.
    pub(in crate::engine) fn is_settled(&self) -> bool {
        self.left.is_empty() || self.devices.iter().any(|device| device.full.is_some())
    }
}
