//! Life of a request of the front end.
//!
//! A write takes its turn among overlapping ones, waits until its extents are hot in the activity log, then goes to
//! the local disk and to the peer at once. It is *complete* (told to the front end) when the local part is done and
//! the peer has acknowledged as the protocol asks. It is *released* (its slot, its place in the transfer log and its
//! log extents) when the peer has acknowledged the barrier after it, for only then both copies are stable.
//!
//! Whenever one of the two copies may lack the data, the block is marked out of sync before the completion.

use super::conflicts::{ConflictId, Owner};
use super::transfer::FlushAtPeer;
use crate::engine::command::{Command, DiskOp, UpperResult};
use crate::engine::disk_trouble::{disk_op, Trouble};
use crate::engine::event::{IoResult, UpperOp, UpperRequest};
use crate::engine::planted::Bug;
use crate::engine::resource::{IoOwner, Resource};
use crate::ids::{PayloadId, Sector, UpperTag};
use crate::limits::{DISCARD_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::states::{DiskState, Protocol, Role};

/// Slots kept free for reads and flushes, which complete without the peer's barrier ack.
const WRITE_RESERVE: usize = 64;

/// The local part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Local {
    /// There is none.
    None,
    /// Given to the disk.
    Pending,
    Done,
    Failed,
}

/// The peer's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum PeerProgress {
    /// There is none.
    NotReplicated,
    /// Sent, or handed to the shell to be sent.
    Sent,
    /// Acknowledged as the protocol asks.
    Acknowledged,
    /// The peer could not write it.
    Failed,
    /// The connection was lost before an answer, while requests are frozen: what the peer has nobody knows.
    Frozen,
    /// To be done again after an overlapping write of the peer (two Primaries).
    Postponed,
    /// The connection was lost before the barrier was acknowledged.
    Lost,
    /// The peer has it on stable storage.
    Stable,
}

/// A request of the front end.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Request {
    pub(in crate::engine) tag: UpperTag,
    pub(in crate::engine) device: usize,
    pub(in crate::engine) op: UpperOp,
    pub(in crate::engine) sector: Sector,
    pub(in crate::engine) bytes: u32,
    pub(in crate::engine) payload: PayloadId,
    pub(in crate::engine) fua: bool,
    pub(in crate::engine) local: Local,
    pub(in crate::engine) peer: PeerProgress,
    /// What the acknowledgement of this request is waited by.
    pub(in crate::engine) protocol: Protocol,
    /// Its epoch, or for a flush the last epoch before it.
    pub(in crate::engine) epoch: u32,
    /// Only the barrier tells that a good disk has it: it is not complete before.
    pub(in crate::engine) by_barrier: bool,
    /// Number of its packet on the data socket (protocol A waits for that to be sent).
    pub(in crate::engine) packet: u64,
    pub(in crate::engine) cookie: u32,
    /// References to its log extents are held.
    pub(in crate::engine) logged: bool,
    /// Sent while the peer may write too: it keeps its turn and its payload until the peer answers.
    pub(in crate::engine) shared: bool,
    pub(in crate::engine) conflict: Option<ConflictId>,
    /// Sent in a resync: when both copies have it, its blocks are in sync. Until then it keeps its turn, so that what
    /// an overlapping write marks after it is not cleared on its account.
    pub(in crate::engine) may_clear: bool,
    /// The peer said it cleared its bits, or will when we may clear ours.
    pub(in crate::engine) in_sync: bool,
    /// The peer's disk is UpToDate, and has been since it was sent: no resync has overwritten it there.
    pub(in crate::engine) at_good_peer: bool,
    pub(in crate::engine) submitted: bool,
    /// The peer turned it away after the own disk had it: until it is done again only the log names what differs.
    pub(in crate::engine) only_here: bool,
    /// Its completion waits for a new generation to be kept, or for a thaw.
    pub(in crate::engine) held: bool,
    /// A read the own disk failed: what the peer answers is written to it.
    pub(in crate::engine) repairs: bool,
    /// What the peer answered to that.
    pub(in crate::engine) answer: PayloadId,
    /// It fails, whatever comes: it was frozen, and nobody will do it any more.
    pub(in crate::engine) doomed: bool,
    pub(in crate::engine) completed: bool,
}

impl Request {
    /// The cookie on the wire.
    pub(in crate::engine) fn block_id(&self, key: u32) -> u64 {
        u64::from(self.cookie) << 32 | u64::from(key)
    }

    /// The local disk has, or had, part in it.
    pub(in crate::engine) fn has_local_part(&self) -> bool {
        self.local != Local::None
    }

    /// Its completion is held, and neither disk nor peer has anything to say about it any more.
    pub(in crate::engine) fn is_held_and_marked(&self) -> bool {
        let peer_is_over = matches!(self.peer, PeerProgress::NotReplicated | PeerProgress::Lost);
        self.held && self.local_over() && peer_is_over
    }

    pub(in crate::engine) fn is_write(&self) -> bool {
        match self.op {
            UpperOp::Write | UpperOp::Discard | UpperOp::WriteZeroes { .. } => true,
            UpperOp::Read | UpperOp::Flush => false,
        }
    }

    /// The local part needs nothing more.
    fn local_over(&self) -> bool {
        matches!(self.local, Local::None | Local::Done | Local::Failed)
    }

    /// The peer's part allows the completion.
    fn peer_over(&self) -> bool {
        match self.peer {
            PeerProgress::NotReplicated
            | PeerProgress::Failed
            | PeerProgress::Lost
            | PeerProgress::Stable => true,
            PeerProgress::Sent | PeerProgress::Frozen | PeerProgress::Postponed => false,
            PeerProgress::Acknowledged => !self.by_barrier,
        }
    }

    /// What went to a disk that was given up since does not count: nothing there says that it is newer than the peer's.
    /// Neither does what is only on a disk without good data, this node's or the peer's: it is overwritten when good
    /// data returns.
    pub(in crate::engine) fn has_good_copy(&self, disk_is_good: bool, peer_disk: DiskState) -> bool {
        let peer = matches!(self.peer, PeerProgress::Acknowledged | PeerProgress::Stable)
            && (self.at_good_peer || !self.is_write());
        (self.local == Local::Done && disk_is_good) || (peer && peer_disk == DiskState::UpToDate)
    }

    /// Both copies are known to have it.
    fn on_both(&self) -> bool {
        self.local == Local::Done && self.peer == PeerProgress::Stable
    }
}

impl Resource {
    /// A front end asks for something.
    pub(in crate::engine) fn upper(&mut self, request: UpperRequest, out: &mut Vec<Command>) {
        let refused = match self.device_index(request.volume) {
            None => Some(UpperResult::OutOfRange),
            Some(_) if self.role != Role::Primary && self.planted(Bug::RefusedUpperIsDone) => {
                Some(UpperResult::Done)
            }
            Some(_) if self.role != Role::Primary => Some(UpperResult::NotPrimary),
            Some(_) if self.force_io_failures => Some(UpperResult::IoError),
            Some(d) => self.out_of_range(d, &request).then_some(UpperResult::OutOfRange),
        };
        if let Some(result) = refused {
            Resource::release(request.payload, out);
            out.push(Command::Complete { tag: request.tag, result, payload: PayloadId::NONE });
            return;
        }
        let d = self.device_index(request.volume).expect("checked above");
        self.devices[d].counters.upper_pending += 1;
        self.devices[d].last_application = Some(self.now);
        if self.devices[d].held.is_empty() && self.may_start(d, &request) {
            self.start_upper(d, request, out);
        } else {
            self.devices[d].held.push_back(request);
        }
    }

    fn out_of_range(&self, d: usize, request: &UpperRequest) -> bool {
        let max = match request.op {
            UpperOp::Read | UpperOp::Write => REQUEST_BYTES_MAX,
            UpperOp::Discard | UpperOp::WriteZeroes { .. } => DISCARD_BYTES_MAX,
            UpperOp::Flush => return request.bytes != 0,
        };
        let sectors = u64::from(request.bytes) / 512;
        request.bytes == 0
            || request.bytes % 512 != 0
            || request.bytes > max
            || request.sector.0.checked_add(sectors).is_none_or(|end| end > self.devices[d].size.0)
    }

    /// Whether a request may be started now (7.8 of the wire reference, and room in the tables).
    fn may_start(&self, d: usize, request: &UpperRequest) -> bool {
        let writes = !matches!(request.op, UpperOp::Read | UpperOp::Flush);
        let reserve = if writes { WRITE_RESERVE } else { 0 };
        if self.requests.room() <= reserve || self.ios.room() <= 64 || !self.accepts_upper(d) {
            return false;
        }
        if !writes {
            return true;
        }
        self.may_write_now(d, request.sector, request.bytes)
    }

    /// Neither a resync nor a verify is at work there.
    pub(super) fn may_write_now(&self, d: usize, sector: Sector, bytes: u32) -> bool {
        // A block the resync has asked for is overwritten when the answer comes: wait for it.
        let Some(peer_device) = self.connection.as_ref().map(|c| &c.peer_devices[d]) else { return true };
        let asked = peer_device.resync.as_ref().is_some_and(|r| r.asked_for(sector, bytes));
        // Both digests of a block have to be of the same writes.
        let verified = peer_device.verify.as_ref().is_some_and(|v| v.holds(sector, bytes));
        !asked && !verified
    }

    /// Starts what was held and may start now, in order.
    pub(in crate::engine) fn start_held(&mut self, d: usize, out: &mut Vec<Command>) {
        self.restart_postponed(d, out);
        // What ends as soon as it begins comes here again: one loop is enough.
        if std::mem::replace(&mut self.devices[d].starting_held, true) {
            return;
        }
        while self.start_first_held(d, out) {}
        self.devices[d].starting_held = false;
    }

    fn start_first_held(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        let Some(&request) = self.devices[d].held.front() else { return false };
        if self.role != Role::Primary || self.force_io_failures {
            self.devices[d].held.pop_front();
            self.devices[d].counters.upper_pending -= 1;
            Resource::release(request.payload, out);
            let result = UpperResult::NotPrimary;
            out.push(Command::Complete { tag: request.tag, result, payload: PayloadId::NONE });
            return true;
        }
        if !self.may_start(d, &request) {
            return false;
        }
        self.devices[d].held.pop_front();
        self.start_upper(d, request, out);
        true
    }

    fn start_upper(&mut self, d: usize, upper: UpperRequest, out: &mut Vec<Command>) {
        self.cookie = self.cookie.wrapping_add(1).max(1);
        let request = Request {
            tag: upper.tag,
            device: d,
            op: upper.op,
            sector: upper.sector,
            bytes: upper.bytes,
            payload: upper.payload,
            fua: upper.fua,
            local: Local::None,
            peer: PeerProgress::NotReplicated,
            protocol: self.connection.as_ref().map_or(Protocol::C, |c| c.options.protocol),
            epoch: 0,
            by_barrier: false,
            packet: 0,
            cookie: self.cookie & 0x7fff_ffff,
            logged: false,
            shared: false,
            conflict: None,
            may_clear: false,
            in_sync: false,
            at_good_peer: false,
            submitted: false,
            only_here: false,
            held: false,
            repairs: false,
            answer: PayloadId::NONE,
            doomed: false,
            completed: false,
        };
        let key = self.requests.insert(request);
        match upper.op {
            UpperOp::Read => self.start_balanced_read(key, out),
            UpperOp::Flush => self.start_flush(key, out),
            UpperOp::Write | UpperOp::Discard | UpperOp::WriteZeroes { .. } => {
                let owner = Owner::Request(key);
                let (id, free) = self.devices[d].conflicts.enter(upper.sector, upper.bytes, true, owner);
                self.requests[key].conflict = Some(id);
                if free {
                    self.enter_log(d, owner, upper.sector, upper.bytes, out);
                }
            }
        }
    }

    // ---- writes --------------------------------------------------------------------------------------------------

    pub(in crate::engine) fn submit_write(&mut self, key: u32, out: &mut Vec<Command>) {
        if self.is_frozen() && self.freeze.probe != Some(key) {
            self.park(key, out);
            return;
        }
        // Nothing new begins on a node that was demoted by force: its disk and its log are no longer a Primary's. What
        // the own disk had before the peer turned it away is not new: left there it would be a difference of one generation.
        let Request { doomed, only_here, .. } = self.requests[key];
        if (doomed || self.force_io_failures) && !only_here {
            self.fail_now(key, out);
            return;
        }
        if self.requests[key].op == UpperOp::Read {
            self.read_for_repair(key, out);
            return;
        }
        let Request { device: d, sector, bytes, payload, op, fua, .. } = self.requests[key];
        self.look_at_congestion(d, out);
        let mirrored = self.mirrors(d);
        if mirrored && !self.limits_of(d).fits(op, bytes) {
            return self.hand_back(key, out);
        }
        self.requests[key].submitted = true;
        let local = self.devices[d].usable().is_some();
        if local && !mirrored {
            self.mark_unmirrored(d, sector, bytes, out);
            self.outrun_transfer_log(d);
        }
        if mirrored {
            self.send_write(key, out);
        }
        if local && self.has_data_access(d) {
            self.requests[key].local = Local::Pending;
            self.disk_io(d, IoOwner::Request(key), disk_op(op), (sector, bytes), payload, fua, out);
        }
        self.progress(key, out);
    }

    /// Nothing of a write was done, and the peer cannot be sent it like that: the front end is to take it apart.
    fn hand_back(&mut self, key: u32, out: &mut Vec<Command>) {
        let Request { device: d, tag, payload, .. } = self.requests[key];
        self.devices[d].counters.upper_pending -= 1;
        out.push(Command::Complete { tag, result: UpperResult::Split, payload });
        self.forget_request(key, out);
        self.start_held(d, out);
    }

    /// The shell holds what it still needs; what may have to be done again needs its bytes until then.
    fn drop_needless_bytes(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = &self.requests[key];
        if request.payload == PayloadId::NONE {
            return;
        }
        let disk = !request.completed && matches!(request.local, Local::Pending | Local::Failed);
        let peer = request.shared && matches!(request.peer, PeerProgress::Sent | PeerProgress::Postponed);
        let again = disk || peer;
        if !again && !self.may_freeze() {
            let payload = std::mem::replace(&mut self.requests[key].payload, PayloadId::NONE);
            Resource::release(payload, out);
        }
    }

    /// The local part of a request is done.
    pub(in crate::engine) fn request_disk_done(
        &mut self,
        key: u32,
        result: IoResult,
        out: &mut Vec<Command>,
    ) {
        let Request { device: d, op, .. } = self.requests[key];
        let probe = self.freeze.probe.take_if(|probe| *probe == key).is_some();
        // What a disk took that was given up meanwhile counts no more than what it took before
        // (`distrust_lost_copies`).
        let lost = self.requests[key].is_write() && self.devices[d].backing.is_none();
        self.requests[key].local = match result {
            IoResult::Done if !lost => Local::Done,
            IoResult::Done | IoResult::Failed(_) => Local::Failed,
        };
        if let IoResult::Failed(errno) = result {
            if op == UpperOp::Read {
                self.read_failed(key, errno, out);
                return;
            }
            self.mark_request(key);
            let what = if op == UpperOp::Flush { Trouble::Flush } else { Trouble::Write };
            self.local_io_error(d, what, errno, out);
        } else if probe {
            self.space_is_back(d, out);
        }
        self.progress(key, out);
    }

    /// Looks what a request may do now: let overlapping ones start, be completed, be released.
    pub(in crate::engine) fn progress(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = self.requests[key];
        let d = request.device;
        if !request.submitted {
            return;
        }
        if request.is_write() {
            self.drop_needless_bytes(key, out);
        }
        let peer_settled = match request.shared {
            true => request.peer != PeerProgress::Sent || self.planted(Bug::TurnNotKept),
            false => request.local != Local::None || request.peer_over(),
        };
        if request.local_over() && peer_settled && !request.may_clear {
            if let Some(id) = self.requests[key].conflict.take() {
                self.postpone_if_asked(key);
                self.leave_conflicts(d, id, out);
                self.restart_postponed(d, out);
            }
        }
        if !request.local_over() || !request.peer_over() {
            return;
        }
        if !request.completed {
            if self.flushes_peer_instead(key, out) {
                return;
            }
            self.freeze_rather_than_fail(key, out);
            if self.holds_completions(d) {
                if !self.requests[key].held {
                    self.requests[key].held = true;
                    self.devices[d].held_completions.push(key);
                    // It may be done anew without the peer, and then ends no epoch.
                    self.end_closed_epoch(out);
                }
                return;
            }
            self.complete(key, out);
        }
        let over = match request.peer {
            PeerProgress::NotReplicated | PeerProgress::Lost | PeerProgress::Stable => true,
            PeerProgress::Postponed => false,
            // Refused writes are counted in their epoch and wait for its barrier like the others.
            PeerProgress::Failed | PeerProgress::Sent | PeerProgress::Acknowledged | PeerProgress::Frozen => {
                !request.is_write()
            }
        };
        if over {
            self.release_request(key, out);
        }
    }

    fn complete(&mut self, key: u32, out: &mut Vec<Command>) {
        let peer_disk = self.peer_disk(self.requests[key].device);
        let disk_is_good = self.disk_is_good(self.requests[key].device);
        // Whoever was demoted by force lets go of what is under way: a copy of it that comes or goes from here on makes no
        // new generation.
        let let_go = self.force_io_failures;
        let request = &mut self.requests[key];
        request.completed = true;
        let good = request.has_good_copy(disk_is_good, peer_disk) && !let_go;
        let result = if good && !request.doomed { UpperResult::Done } else { UpperResult::IoError };
        let Request { tag, epoch, device: d, peer, .. } = *request;
        let closes = request.is_write() && peer != PeerProgress::NotReplicated;
        self.tries_no_more(tag);
        out.push(Command::Complete { tag, result, payload: PayloadId::NONE });
        self.devices[d].counters.upper_pending -= 1;
        self.drop_needless_bytes(key, out);
        if self.planted(Bug::ExtentReleasedEarly) && std::mem::take(&mut self.requests[key].logged) {
            let Request { sector, bytes, .. } = self.requests[key];
            self.end_log(d, sector, bytes, out);
        }
        if closes {
            self.close_epoch_of(epoch, out);
        }
    }

    /// The held completions of a device may go out.
    pub(in crate::engine) fn release_held_completions(&mut self, d: usize, out: &mut Vec<Command>) {
        let mut keys = std::mem::take(&mut self.devices[d].held_completions);
        for key in keys.drain(..) {
            self.requests[key].held = false;
            self.progress(key, out);
        }
        if self.devices[d].held_completions.is_empty() {
            self.devices[d].held_completions = keys;
        }
    }

    fn release_request(&mut self, key: u32, out: &mut Vec<Command>) {
        let request = self.requests[key];
        let d = request.device;
        if request.is_write() && request.may_clear && request.in_sync && request.on_both() {
            self.clear_mirrored(d, request.sector, request.bytes, out);
        }
        if let Some(id) = self.requests[key].conflict.take() {
            self.leave_conflicts(d, id, out);
        }
        self.freeze.probe.take_if(|probe| *probe == key);
        Resource::release(self.requests.remove(key).payload, out);
        if request.logged {
            self.end_log(d, request.sector, request.bytes, out);
        }
        if self.devices[d].has_held() {
            self.start_held(d, out);
        }
    }

    // ---- flushes -------------------------------------------------------------------------------------------------

    pub(in crate::engine) fn start_flush(&mut self, key: u32, out: &mut Vec<Command>) {
        let d = self.requests[key].device;
        self.requests[key].submitted = true;
        self.flush_peer(key, out);
        if self.devices[d].usable().is_some_and(|b| b.flushes()) {
            self.requests[key].local = Local::Pending;
            let nothing = (Sector(0), 0);
            self.disk_io(d, IoOwner::Request(key), DiskOp::Flush, nothing, PayloadId::NONE, false, out);
        } else if self.devices[d].usable().is_some() {
            self.requests[key].local = Local::Done;
        }
        self.progress(key, out);
    }

    /// The own disk, which was to be enough, is no longer good: only the peer can make stable what its good copy has. True
    /// if that takes time.
    fn flushes_peer_instead(&mut self, key: u32, out: &mut Vec<Command>) -> bool {
        let Request { device: d, op, peer, .. } = self.requests[key];
        let alone = op == UpperOp::Flush && peer == PeerProgress::NotReplicated;
        if !alone || self.disk_is_good(d) || !self.peer_has_good_data(d) {
            return false;
        }
        self.flush_peer(key, out);
        self.requests[key].peer == PeerProgress::Sent
    }

    /// The peer's part of a flush.
    pub(in crate::engine) fn flush_peer(&mut self, key: u32, out: &mut Vec<Command>) {
        let d = self.requests[key].device;
        match self.barrier_for_flush(d, out) {
            _ if self.planted(Bug::FlushWithoutPeer) => {}
            FlushAtPeer::NotCovered => {}
            FlushAtPeer::Covered => self.requests[key].peer = PeerProgress::Stable,
            FlushAtPeer::WaitsFor(epoch) => {
                self.requests[key].epoch = epoch;
                self.requests[key].peer = PeerProgress::Sent;
                self.connection.as_mut().expect("a barrier was sent").flush_waiters.push(key);
            }
        }
    }
}
