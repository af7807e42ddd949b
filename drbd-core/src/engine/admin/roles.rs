//! Becoming Primary and becoming Secondary: who must agree, what must be written first, and when it is told.

use super::agreement::{edit_of, may_be_called_newest};
use super::{done, Fence, Promotion, RoleJob, Waiting, Want, STEP};
use crate::engine::command::{Command, Level};
use crate::engine::meta_jobs::{Job, Then};
use crate::engine::planted::Bug;
use crate::engine::resource::Resource;
use crate::engine::state::Mode;
use crate::ids::{Sector, Ticket};
use crate::refusal::Reason;
use crate::states::{DiskState, ReplicationState, Role};

/// How long a promotion waits for the fence-peer handler.
const FENCE_MS: u64 = 600_000;

impl Resource {
    pub(super) fn try_primary(
        &mut self,
        ticket: Ticket,
        want: Want,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        let Want::Primary { asked, forced, pinged, fence } = want else { return Ok(()) };
        let with = |forced, fence| Want::Primary { asked, forced, pinged, fence };
        let force = asked == Promotion::ByForce;
        match self.ask_or_do(ticket, want, out) {
            Err(Reason::NoUpToDateDisk) if force && !forced && self.may_be_forced() => {
                self.try_primary(ticket, with(true, fence), out)
            }
            Err(reason) if fence == Fence::Untried && self.needs_fence(reason) => {
                if self.begin_fencing_for_promotion(out) {
                    let give_up_at = self.now.plus_ms(FENCE_MS);
                    // What has to be forced shows when the handler is over: the peer may be back by then, with better data.
                    let want = with(false, Fence::Tried);
                    self.admin.waiting.push_back(Waiting { ticket, want, again_at: None, give_up_at });
                    return Ok(());
                }
                self.try_primary(ticket, with(forced, Fence::Tried), out)
            }
            Err(Reason::NoUpToDateDisk) if fence == Fence::Tried && self.peer_is_fenced() => {
                self.try_primary(ticket, with(forced, Fence::Done), out)
            }
            Err(Reason::NoUpToDateDisk | Reason::PrimaryNop)
                if asked == Promotion::Resumed && self.stays_frozen() =>
            {
                self.wait_for_peer_or_fence(ticket, out);
                Ok(())
            }
            Err(Reason::PrimaryNop) if fence == Fence::Tried && force => {
                let text = "Forced into split brain situation!";
                self.log("forced", Level::Warning, self.name.clone(), text, out);
                self.try_primary(ticket, with(forced, Fence::Forced), out)
            }
            other => other,
        }
    }

    /// Fencing the peer could do away with that reason.
    fn needs_fence(&self, reason: Reason) -> bool {
        let consistent = || self.devices.iter().any(|d| d.disk == DiskState::Consistent);
        reason == Reason::PrimaryNop || reason == Reason::NoUpToDateDisk && consistent()
    }

    /// Every disk that is not UpToDate could be called so.
    fn may_be_forced(&self) -> bool {
        !self.devices.is_empty() && self.devices.iter().all(|d| d.disk.has_data())
    }

    pub(super) fn try_secondary(
        &mut self,
        ticket: Ticket,
        force: bool,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        if force && self.devices.iter().any(|d| d.open_count > 0) {
            self.force_io_failures = true;
        }
        if let Err(reason) = self.propose(Mode::Soft, &|_, s| s.role = Role::Secondary) {
            self.force_io_failures = false;
            return Err(reason);
        }
        self.begin_demotion(ticket, out);
        Ok(())
    }

    /// Becomes Secondary because it has to.
    pub(in crate::engine) fn demote_unasked(&mut self, out: &mut Vec<Command>) {
        self.begin_demotion(STEP, out);
    }

    pub(super) fn begin_demotion(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        self.fail_frozen(out);
        self.devices.iter_mut().for_each(|device| device.overtaken = false);
        self.admin.role_jobs.push(RoleJob { ticket, disks_left: 0, demotion: true, draining: true });
        self.force(&|_, s| s.role = Role::Secondary, out);
        for d in 0..self.devices.len() {
            self.start_held(d, out);
            self.tell_device(d, out);
        }
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.sent_epochs.closed = true;
        }
        self.send_owed_barrier(out);
        self.urge_peer(out);
        self.continue_demotions(out);
    }

    /// A demotion reaches the disks when nothing is under way any more and the peer has everything on stable storage:
    /// only then may the log be forgotten.
    pub(super) fn continue_demotions(&mut self, out: &mut Vec<Command>) {
        let Some(at) = self.admin.role_jobs.iter().position(|job| job.demotion && job.draining) else {
            return;
        };
        let log_empty = self.connection.as_ref().is_none_or(|c| c.transfer_log.is_empty());
        let quiet =
            log_empty && self.devices.iter().all(|d| d.log_waiters.is_empty()) && self.no_upper_requests();
        if !quiet {
            return;
        }
        self.admin.role_jobs[at].draining = false;
        let ticket = self.admin.role_jobs[at].ticket;
        self.write_role(ticket, out);
    }

    fn no_upper_requests(&self) -> bool {
        self.requests.len() == 0
    }

    /// Writes the role to every disk; [`Then::RoleStable`] counts them.
    fn write_role(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let disks: Vec<usize> =
            (0..self.devices.len()).filter(|&d| self.devices[d].backing.is_some()).collect();
        let Some(job) = self.admin.role_jobs.iter_mut().find(|job| job.ticket == ticket) else { return };
        job.disks_left = disks.len();
        let demotion = job.demotion;
        if disks.is_empty() {
            self.role_kept(ticket, out);
        }
        for d in disks {
            if demotion && self.snapshot(Some(d)).replication == ReplicationState::Ahead {
                // A Primary's crash would tell; once Secondary only the generation does that the peer has not everything.
                self.begin_apart(d, out);
            }
            self.mark_role(d);
            if let Some(backing) = self.devices[d].backing.as_deref_mut() {
                backing.demotion_unwritten = demotion;
            }
            self.update_flags(d);
            let job = if demotion { Job::everything(None) } else { Job::super_block(None) };
            self.meta_job(d, Job { then: vec![Then::RoleStable(ticket)], ..job }, out);
        }
    }

    /// One disk has the role.
    pub(in crate::engine) fn role_stable(&mut self, d: usize, ticket: Ticket, out: &mut Vec<Command>) {
        let Some(job) = self.admin.role_jobs.iter_mut().find(|job| job.ticket == ticket) else { return };
        job.disks_left = job.disks_left.saturating_sub(1);
        let left = job.disks_left;
        self.wake_log_waiters(d, out);
        if left == 0 {
            self.role_kept(ticket, out);
        }
    }

    /// The role is kept everywhere: tell it.
    fn role_kept(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let Some(at) = self.admin.role_jobs.iter().position(|job| job.ticket == ticket) else { return };
        self.admin.role_jobs.remove(at);
        for d in 0..self.devices.len() {
            self.send_state(d, out);
            self.tell_device(d, out);
        }
        self.reply(ticket, Ok(done(true)), out);
        self.admin.state_changed = true;
        self.notify_changes(out);
    }

    fn tell_device(&self, d: usize, out: &mut Vec<Command>) {
        let device = &self.devices[d];
        if device.size != Sector(0) {
            out.push(Command::Device {
                volume: device.volume,
                size: device.size,
                writable: self.role == Role::Primary,
            });
        }
    }

    pub(super) fn become_primary(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        let forced = matches!(want, Want::Primary { forced: true, .. });
        let called_newest: Vec<bool> = (0..self.devices.len())
            .map(|d| forced && may_be_called_newest(&self.snapshot(Some(d))))
            .collect();
        if let Err(reason) = self.change(Mode::Soft, &edit_of(want), out) {
            return self.refuse(ticket, want, reason, out);
        }
        if forced {
            self.log(
                "forced",
                Level::Warning,
                self.name.clone(),
                "Forced to consider local data as UpToDate!",
                out,
            );
        }
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.discard_my_data = false;
        }
        let resumed = matches!(want, Want::Primary { asked: Promotion::Resumed, .. });
        let keeps_generation = resumed && self.planted(Bug::ResumedInOldGeneration);
        for (d, called_newest) in called_newest.into_iter().enumerate() {
            let snapshot = self.snapshot(Some(d));
            let alone = !snapshot.is_replicating() || !snapshot.peer_disk.has_data();
            if called_newest {
                self.new_generation(d, out);
            } else if alone && !keeps_generation {
                self.begin_apart(d, out);
            }
        }
        self.admin.role_jobs.push(RoleJob { ticket, disks_left: 0, demotion: false, draining: false });
        self.write_role(ticket, out);
    }
}
