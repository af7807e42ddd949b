//! What an administrator asks about copying and comparing: invalidate, invalidate-remote, pause-sync, resume-sync,
//! outdate, new-current-uuid, verify.
//!
//! What needs the peer is asked of it like a promotion (see `agreement`); what can be lost by a crash is answered when
//! it is on stable storage.

use super::agreement::edit_of;
use super::{done, Want};
use crate::control::Done;
use crate::engine::command::Command;
use crate::engine::meta_jobs::{Job, Then};
use crate::engine::resource::Resource;
use crate::engine::session::Fault;
use crate::engine::state::Mode;
use crate::engine::state_change::{full_sync_refusal, verify_refusal, Snapshot};
use crate::ids::{NodeId, Ticket, VolumeNumber};
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, Protocol, ReplicationState, Role};

/// Why a full sync is refused whose source has no good data.
pub(super) fn no_good_source(as_target: bool) -> String {
    let whose = if as_target { "the peer's disk" } else { "the disk of this node" };
    format!("{whose} is not UpToDate; `drbdadm primary --force` on one node calls its data good as they are")
}

/// Why a full sync cannot be narrowed to the blocks already marked.
const NO_BITMAP_SYNC: &str =
    "while connected by this protocol version a resync on demand copies everything: \
     leave --reset-bitmap=no out, or disconnect first";

impl Resource {
    /// `invalidate`: this node's data is to be replaced by the peer's.
    pub(super) fn invalidate(
        &mut self,
        ticket: Ticket,
        volume: VolumeNumber,
        reset_bitmap: bool,
        out: &mut Vec<Command>,
    ) {
        match self.device_with_disk(volume) {
            Ok(device) => self.want(ticket, Want::FullSync { device, as_target: true, reset_bitmap }, out),
            Err(refusal) => self.reply(ticket, Err(refusal), out),
        }
    }

    /// `invalidate-remote`: the peer's data is to be replaced by this node's.
    pub(super) fn invalidate_remote(
        &mut self,
        ticket: Ticket,
        (peer, volume): (NodeId, VolumeNumber),
        reset_bitmap: bool,
        out: &mut Vec<Command>,
    ) {
        let device = self.peer(peer).map(|_| ()).and_then(|()| self.device_with_disk(volume));
        match device {
            Ok(device) => self.want(ticket, Want::FullSync { device, as_target: false, reset_bitmap }, out),
            Err(refusal) => self.reply(ticket, Err(refusal), out),
        }
    }

    fn device_with_disk(&self, volume: VolumeNumber) -> Result<usize, Refusal> {
        let Some(d) = self.device_index(volume) else { return Err(Reason::MinorInvalid.into()) };
        match &self.devices[d].backing {
            Some(_) if self.devices[d].disk.has_data() => Ok(d),
            Some(_) | None => Err(Reason::NoDisk.into()),
        }
    }

    pub(super) fn try_full_sync(
        &mut self,
        ticket: Ticket,
        want: Want,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        let Want::FullSync { device, as_target, reset_bitmap } = want else { return Ok(()) };
        let now = self.snapshot(Some(device));
        if !now.disk.has_data() {
            return Err(Reason::NoDisk);
        }
        if now.connection == ConnectionState::Connected {
            if !now.is_replicating() {
                return Err(Reason::InTransientState);
            }
            if !reset_bitmap {
                let refusal = Refusal::because(Reason::ProtocolTooLow, NO_BITMAP_SYNC);
                self.reply(ticket, Err(refusal), out);
                return Ok(());
            }
            if as_target && (self.has_frozen_writes(device) || self.drains_for_target(device, out)) {
                return Err(Reason::InTransientState);
            }
            return match full_sync_refusal(&now, as_target) {
                Some(reason) => Err(reason),
                None => self.ask_or_do(ticket, want, out),
            };
        }
        if as_target {
            self.invalidate_alone(ticket, device, reset_bitmap, out)
        } else {
            self.invalidate_lost_peer(ticket, device, reset_bitmap, out)
        }
    }

    /// Without a peer the data is only called Inconsistent: the next connection brings the copy.
    fn invalidate_alone(
        &mut self,
        ticket: Ticket,
        d: usize,
        reset_bitmap: bool,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v == Some(d) {
                s.disk = DiskState::Inconsistent;
            }
        };
        self.change(Mode::Soft, &edit, out)?;
        self.mark_and_answer(ticket, d, reset_bitmap, out);
        Ok(())
    }

    /// A Primary whose peer is gone: that peer gets everything when it returns. A Secondary does not know that its data
    /// will be the better one.
    fn invalidate_lost_peer(
        &mut self,
        ticket: Ticket,
        d: usize,
        reset_bitmap: bool,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        if self.role != Role::Primary {
            return Err(Reason::NeedConnection);
        }
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v == Some(d) {
                s.peer_disk = DiskState::Inconsistent;
            }
        };
        self.change(Mode::Soft, &edit, out)?;
        self.mark_and_answer(ticket, d, reset_bitmap, out);
        Ok(())
    }

    fn mark_and_answer(&mut self, ticket: Ticket, d: usize, mark: bool, out: &mut Vec<Command>) {
        if mark {
            self.mark_everything(d);
        }
        let job = Job::marks(Some(Then::Answer(ticket)));
        self.meta_job(d, job, out);
    }

    /// What the administrator asked for is on stable storage.
    pub(in crate::engine) fn answer_kept(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        self.reply(ticket, Ok(done(true)), out);
    }

    /// The disk went before it could be kept.
    pub(in crate::engine) fn answer_lost(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let info = "the disk was given up before this was written to it";
        self.reply(ticket, Err(Refusal::because(Reason::MetaDiskIo, info)), out);
    }

    /// The peer agreed to a full sync.
    pub(super) fn begin_agreed_full_sync(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        let Want::FullSync { device, as_target, .. } = want else { return };
        if let Some(reason) = full_sync_refusal(&self.snapshot(Some(device)), as_target) {
            return self.agreed_in_vain(ticket, want, reason, out);
        }
        match self.change(Mode::Soft, &edit_of(want), out) {
            // The bits of everything are being written: the answer follows.
            Ok(true) => match self.connection.as_deref_mut() {
                Some(connection) => connection.peer_devices[device].full_sync_ticket = Some(ticket),
                None => self.reply(ticket, Ok(done(true)), out),
            },
            Ok(false) => self.reply(ticket, Ok(done(false)), out),
            Err(reason) => self.agreed_in_vain(ticket, want, reason, out),
        }
    }

    /// The peer did what this node cannot do any more: the next session begins with both saying what is so.
    fn agreed_in_vain(&mut self, ticket: Ticket, want: Want, reason: Reason, out: &mut Vec<Command>) {
        self.refuse(ticket, want, reason, out);
        let text = format!("The peer agreed to what this node cannot do any more: {reason}");
        self.fault(Fault::Retry(text), out);
    }

    // ---- holding a resync ----------------------------------------------------------------------------------------

    /// `pause-sync` and `resume-sync`.
    pub(super) fn hold_sync(
        &mut self,
        (peer, volume): (NodeId, VolumeNumber),
        hold: bool,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        self.peer(peer)?;
        let Some(d) = self.device_index(volume) else { return Err(Reason::MinorInvalid.into()) };
        let held = self.snapshot(Some(d)).resync_suspended;
        if held.user == hold {
            return Err(match (hold, held) {
                (true, _) => Reason::PauseIsSet,
                (false, held) if held.dependency => Reason::PausedByDependency,
                (false, held) if held.peer => Reason::PausedByPeer,
                (false, _) => Reason::PauseIsClear,
            }
            .into());
        }
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v == Some(d) {
                s.resync_suspended.user = hold;
            }
        };
        // A fact: nothing of it can be refused.
        self.change(Mode::Hard, &edit, out).map_err(Refusal::from)?;
        Ok(done(true))
    }

    // ---- generations ---------------------------------------------------------------------------------------------

    /// `outdate`: these data are not to be used again before they were compared with the peer's.
    pub(super) fn outdate(&mut self, ticket: Ticket, volume: VolumeNumber, out: &mut Vec<Command>) {
        match self.device_index(volume) {
            Some(device) => self.want(ticket, Want::Outdate { device }, out),
            None => self.reply(ticket, Err(Reason::MinorInvalid.into()), out),
        }
    }

    pub(super) fn try_outdate(
        &mut self,
        ticket: Ticket,
        device: usize,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        // Connected, Outdated data count as UpToDate again: settled first and judged then, as in 8.4, worse data would, too.
        let disk = self.devices[device].disk;
        if disk != DiskState::Diskless && disk.rank() < DiskState::Outdated.rank() {
            return Err(Reason::LowerThanOutdated);
        }
        if self.change(Mode::Soft, &edit_of(Want::Outdate { device }), out)? {
            self.write_super_block(device, Some(Then::Answer(ticket)), out);
        } else {
            self.reply(ticket, Ok(done(false)), out);
        }
        Ok(())
    }

    /// `new-current-uuid`: of a node on its own; or, with `clear_bitmap` on two just made nodes, to skip the first sync.
    pub(super) fn new_current_uuid(
        &mut self,
        ticket: Ticket,
        volume: VolumeNumber,
        clear_bitmap: bool,
        out: &mut Vec<Command>,
    ) {
        let device = self.device_with_disk(volume).and_then(|d| self.check_new_uuid(d, clear_bitmap));
        let (d, skip_first_sync) = match device {
            Ok(device) => device,
            Err(refusal) => return self.reply(ticket, Err(refusal), out),
        };
        if skip_first_sync {
            return self.skip_first_sync(d, ticket, out);
        }
        let Some(mut set) = self.generations(d) else { return };
        let random = self.random.uuid();
        set.begin_new_forgetting(random, self.role == Role::Primary);
        if clear_bitmap {
            self.clear_marks(d);
        }
        self.keep_new_generation(d, &set, out);
        self.meta_job(d, Job::marks(Some(Then::Answer(ticket))), out);
    }

    /// The volume, and whether this is about skipping the first sync.
    fn check_new_uuid(&self, d: usize, clear_bitmap: bool) -> Result<(usize, bool), Refusal> {
        let now = self.snapshot(Some(d));
        if clear_bitmap && self.may_skip_first_sync(d) && self.peer_is_just_created(d) {
            return Ok((d, true));
        }
        if now.connection == ConnectionState::StandAlone {
            return Ok((d, false));
        }
        let info =
            "disconnect first; while connected only two nodes with metadata just made can be declared equal \
                    (with --clear-bitmap, to skip the first sync)";
        Err(Refusal::because(Reason::NeedStandalone, info))
    }

    // ---- verify --------------------------------------------------------------------------------------------------

    /// `verify`: compare both disks.
    pub(super) fn verify(
        &mut self,
        ticket: Ticket,
        (peer, volume): (NodeId, VolumeNumber),
        (start, stop): (Option<u64>, Option<u64>),
        out: &mut Vec<Command>,
    ) {
        let device = self.peer(peer).map(|_| ());
        let device = device.and_then(|()| self.device_index(volume).ok_or(Reason::MinorInvalid.into()));
        let device = match device {
            Ok(device) => device,
            Err(refusal) => return self.reply(ticket, Err(refusal), out),
        };
        if let (Some(start), Some(stop)) = (start, stop) {
            if stop != 0 && stop <= start {
                let info = format!("the verify would stop at sector {stop}, before it starts at {start}");
                return self.reply(ticket, Err(Refusal::because(Reason::InvalidRequest, info)), out);
            }
        }
        self.want(ticket, Want::Verify { device, start, stop }, out);
    }

    pub(super) fn try_verify(
        &mut self,
        ticket: Ticket,
        want: Want,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        let Want::Verify { device, .. } = want else { return Ok(()) };
        let now = self.snapshot(Some(device));
        if !now.is_replicating() {
            let comes = now.connection == ConnectionState::Connected;
            return Err(if comes { Reason::InTransientState } else { Reason::NeedConnection });
        }
        if !now.disk.has_data() {
            return Err(Reason::IsDiskless);
        }
        if now.replication == ReplicationState::VerifyS {
            return Err(Reason::ResyncRunning);
        }
        if !now.peer_disk.has_data() {
            return Err(Reason::NoRemoteDisk);
        }
        match verify_refusal(&now) {
            Some(reason) => Err(reason),
            None => self.ask_or_do(ticket, want, out),
        }
    }

    /// The peer agreed to a verify.
    pub(super) fn begin_agreed_verify(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        let Want::Verify { device, start, stop } = want else { return };
        if let Some(reason) = verify_refusal(&self.snapshot(Some(device))) {
            return self.agreed_in_vain(ticket, want, reason, out);
        }
        self.plan_verify(device, start, stop);
        match self.change(Mode::Soft, &edit_of(want), out) {
            Ok(changed) => self.reply(ticket, Ok(done(changed)), out),
            Err(reason) => self.agreed_in_vain(ticket, want, reason, out),
        }
    }

    /// Under A and B the peer may not have written yet what was called done, and might never: then only this node has it,
    /// whose data is to be replaced. True while that is so; until then nothing else is called done before the peer has it.
    /// So it is with a write the peer refused, until its state is here: that refuses the change.
    pub(super) fn drains_for_target(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        let Some(connection) = self.connection.as_deref() else { return false };
        let unknown = connection.transfer_log.iter().any(|&key| {
            let request = &self.requests[key];
            request.device == d && request.completed && request.protocol != Protocol::C
        });
        let refused = connection.peer_devices[d].refused_write;
        if unknown {
            self.ask_for_stability(out);
        }
        unknown || refused
    }

    /// What a full sync, verify or outdate asks of the state of its volume.
    pub(super) fn edit_copying(want: Want, s: &mut Snapshot) {
        match want {
            Want::FullSync { as_target: true, .. } => {
                s.replication = ReplicationState::StartingSyncT;
                // Unlike 8.4 at once: should the connection break now, this node still knows what was asked of it.
                s.disk = DiskState::Inconsistent;
            }
            Want::FullSync { as_target: false, .. } => s.replication = ReplicationState::StartingSyncS,
            Want::Verify { .. } => s.replication = ReplicationState::VerifyS,
            Want::Outdate { .. } => s.disk = DiskState::Outdated,
            Want::Primary { .. }
            | Want::Secondary { .. }
            | Want::Detach { .. }
            | Want::Disconnect { .. }
            | Want::DelMinor { .. } => {}
        }
    }
}
