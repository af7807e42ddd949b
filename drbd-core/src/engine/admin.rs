//! What an administrator asks: each request is checked, carried out or refused, and answered exactly once.
//!
//! Changes that concern the peer (promotion, detach, disconnect) are asked of it first, one at a time; further
//! requests wait their turn. What cannot be decided now because a handshake is under way waits for the next change of
//! state.

use super::command::Command;
use super::connection::{Path, PingFor};
use super::event::AdminRequest;
use super::meta_jobs::Then;
use super::resize::ResizeWish;
use super::resource::Resource;
use crate::control::Done;
use crate::ids::{Instant, Ticket};
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, ReplicationState, Role};
pub(super) use net_options::adopted as shared_options;
use parting::Outdates;
use resumption::Resumption;
use std::collections::VecDeque;

mod agreement;
mod copying;
mod net_options;
mod objects;
mod parting;
mod resumption;
mod roles;
mod suspension;
mod volumes;

/// How long a request waits for a handshake to end before it is refused.
const TRANSIENT_MS: u64 = 30_000;
/// When a peer that is about a change of its own is asked again.
const ASK_AGAIN_MS: u64 = 50;

/// Requests under way.
#[derive(Debug, Default)]
pub(super) struct Admin {
    /// Waiting for their turn, or for a change of state.
    waiting: VecDeque<Waiting>,
    /// The one the peer is being asked about.
    asking: Option<Asking>,
    /// What the peer asked, and this node answers later.
    asked: Option<Asked>,
    /// Since when the peer has been putting it off for a change of its own.
    put_off_since: Option<Instant>,
    /// A new role that is being written.
    role_jobs: Vec<RoleJob>,
    /// Disks that are being let go.
    pub(super) detaching: Vec<(usize, Option<Ticket>)>,
    /// A Primary's daemon died, and this one waits for the peer before it goes on.
    resumption: Option<Resumption>,
    /// `down` goes on when what it began is over.
    down: Option<Ticket>,
    /// Something changed since the waiting ones were last looked at.
    pub(super) state_changed: bool,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    want: Want,
    /// Not before.
    again_at: Option<Instant>,
    give_up_at: Instant,
}

/// A change of state somebody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    Primary { asked: Promotion, forced: bool, pinged: bool, fence: Fence },
    Secondary { force: bool },
    Detach { device: usize },
    Disconnect { outdates: Outdates },
    FullSync { device: usize, as_target: bool, reset_bitmap: bool },
    Verify { device: usize, start: Option<u64>, stop: Option<u64> },
    Outdate { device: usize },
    DelMinor { device: usize },
}

/// Who wants a promotion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Promotion {
    /// `primary`.
    Usual,
    /// `primary --force`.
    ByForce,
    /// A daemon whose predecessor died as Primary: on the same data, or not at all.
    Resumed,
}

/// How far the fencing of a peer out of reach is that a promotion may need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fence {
    /// Nobody was asked to.
    Untried,
    /// The handler runs or has answered.
    Tried,
    /// The peer's data are worth less: a Consistent disk here is the newest there is.
    Done,
    /// It failed, and the administrator insists.
    Forced,
}

/// The peer is being asked.
#[derive(Clone, Copy, Debug)]
struct Asking {
    ticket: Ticket,
    want: Want,
    /// Volumes it still has to be asked about (8.4 asks volume by volume).
    next_device: usize,
    /// The peer only has to show that it lives.
    pinging: bool,
}

/// The peer asks to replace the data of a volume, and gets its answer when it has all of what was called done.
#[derive(Clone, Copy, Debug)]
struct Asked {
    device: usize,
    mask: u32,
    val: u32,
}

/// A role that counts when every disk has it written.
#[derive(Clone, Copy, Debug)]
struct RoleJob {
    ticket: Ticket,
    disks_left: usize,
    demotion: bool,
    /// The transfer log has to be empty first.
    draining: bool,
}

impl Want {
    /// A promotion of which nothing is done yet.
    const fn promotion(asked: Promotion) -> Want {
        Want::Primary { asked, forced: false, pinged: false, fence: Fence::Untried }
    }
}

impl Admin {
    /// What follows a job on metadata makes a demotion stable.
    pub(super) fn demotes(&self, then: &[Then]) -> bool {
        self.role_jobs.iter().any(|job| job.demotion && then.contains(&Then::RoleStable(job.ticket)))
    }

    /// A demotion has not yet reached the disks: the log still counts.
    pub(super) fn is_demoting(&self) -> bool {
        self.role_jobs.iter().any(|job| job.demotion && job.draining)
    }

    /// The peer is being asked to send this node everything of a volume.
    pub(super) fn asks_to_be_target(&self, d: usize) -> bool {
        self.asking.is_some_and(
            |asking| matches!(asking.want, Want::FullSync { device, as_target: true, .. } if device == d),
        )
    }

    /// A volume's data is to be replaced by the peer's, as soon as the peer has everything that was called done.
    pub(super) fn is_to_be_target(&self, d: usize) -> bool {
        let target =
            |want: Want| matches!(want, Want::FullSync { device, as_target: true, .. } if device == d);
        self.asking.is_some_and(|asking| target(asking.want))
            || self.waiting.iter().any(|waiting| target(waiting.want))
            || self.asked.is_some_and(|asked| asked.device == d)
    }

    /// The peer made something stable: a change may have waited for it.
    pub(super) fn log_drained(&mut self) {
        self.state_changed |= !self.waiting.is_empty() || self.asked.is_some();
    }

    /// Something under way, or waiting, is about one volume by its place; deleting one brings the others along.
    fn names_volumes(&self) -> bool {
        let by_place = |waiting: &Waiting| match waiting.want {
            Want::Detach { .. } | Want::FullSync { .. } | Want::Verify { .. } | Want::Outdate { .. } => true,
            Want::Primary { .. }
            | Want::Secondary { .. }
            | Want::Disconnect { .. }
            | Want::DelMinor { .. } => false,
        };
        !self.is_idle() || self.asked.is_some() || self.waiting.iter().any(by_place)
    }

    /// A volume is gone: those behind it have moved up.
    fn volume_removed(&mut self, d: usize) {
        for waiting in &mut self.waiting {
            if let Want::DelMinor { device } = &mut waiting.want {
                *device = match *device {
                    same if same == d => usize::MAX,
                    behind if behind > d && behind != usize::MAX => behind - 1,
                    other => other,
                };
            }
        }
    }

    /// Nobody waits for anything.
    pub(super) fn is_at_rest(&self) -> bool {
        let waits = !self.waiting.is_empty() || self.resumption.is_some();
        self.is_idle() && !waits && self.asked.is_none() && self.down.is_none()
    }

    fn is_idle(&self) -> bool {
        self.asking.is_none() && self.role_jobs.is_empty() && self.detaching.is_empty()
    }

    /// The next moment a waiting request is tried again or gives up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let served = self.waiting.iter().filter(|_| self.is_idle());
        let served = served.map(|waiting| waiting.again_at.unwrap_or(waiting.give_up_at));
        served.chain(self.resumption.and_then(|resumption| resumption.until)).min()
    }
}

fn done(changed: bool) -> Done {
    Done { changed, ..Done::default() }
}

fn not_yet(what: &str) -> Refusal {
    Refusal::because(Reason::PacketNumber, format!("this version of udrbd does not do {what} yet"))
}

impl Resource {
    /// An administrator asks for something.
    pub(super) fn administer(&mut self, ticket: Ticket, request: AdminRequest, out: &mut Vec<Command>) {
        let result = match request {
            AdminRequest::NewMinor { minor, volume, options } => self.new_minor(minor, volume, options, out),
            AdminRequest::DelMinor { volume } => return self.del_minor(ticket, volume, out),
            AdminRequest::NewPeer { peer, options } => self.new_peer(peer, options, out),
            AdminRequest::DelPeer { peer, .. } => self.del_peer(peer, out),
            AdminRequest::NewPath { peer, local, remote } => self.new_path(peer, Path { local, remote }),
            AdminRequest::DelPath { peer, local, remote } => self.del_path(peer, Path { local, remote }),
            AdminRequest::Attach(request) => return self.attach(ticket, request, out),
            AdminRequest::Connect { peer, tentative, discard_my_data } => {
                self.connect(peer, tentative, discard_my_data, out)
            }
            AdminRequest::ResourceOptions(options) => {
                self.options = options;
                Ok(done(true))
            }
            AdminRequest::NetOptions { peer, options } => self.net_options(peer, options, out),
            AdminRequest::DiskOptions { volume, options } => self.disk_options(volume, options, out),
            AdminRequest::PeerDeviceOptions { peer, volume, options } => {
                self.peer_device_options(peer, volume, options, out)
            }
            AdminRequest::Primary { force } => {
                let asked = if force { Promotion::ByForce } else { Promotion::Usual };
                return self.want(ticket, Want::promotion(asked), out);
            }
            AdminRequest::ResumePrimary => return self.resume_primary(ticket, out),
            AdminRequest::Secondary { force } => return self.want(ticket, Want::Secondary { force }, out),
            AdminRequest::Detach { volume, force, .. } => return self.detach(ticket, volume, force, out),
            AdminRequest::Disconnect { peer, force } => return self.disconnect(ticket, peer, force, out),
            AdminRequest::Invalidate { volume, reset_bitmap } => {
                return self.invalidate(ticket, volume, reset_bitmap, out);
            }
            AdminRequest::InvalidateRemote { peer, volume, reset_bitmap } => {
                return self.invalidate_remote(ticket, (peer, volume), reset_bitmap, out);
            }
            AdminRequest::PauseSync { peer, volume } => self.hold_sync((peer, volume), true, out),
            AdminRequest::ResumeSync { peer, volume } => self.hold_sync((peer, volume), false, out),
            AdminRequest::Outdate { volume } => return self.outdate(ticket, volume, out),
            AdminRequest::NewCurrentUuid { volume, clear_bitmap } => {
                return self.new_current_uuid(ticket, volume, clear_bitmap, out);
            }
            AdminRequest::Verify { peer, volume, start, stop } => {
                return self.verify(ticket, (peer, volume), (start, stop), out);
            }
            AdminRequest::Resize { volume, size, assume_peer_has_space, assume_clean } => {
                let wish = ResizeWish { size, assume_peer_has_space, assume_clean };
                return self.resize(ticket, volume, wish, out);
            }
            AdminRequest::SuspendIo { volume } => self.suspend_io(volume, out),
            AdminRequest::ResumeIo { volume } => self.resume_io(volume, out),
            AdminRequest::Down => return self.down(ticket, out),
            AdminRequest::HandOver { within_ms } => return self.ask_hand_over(ticket, within_ms, out),
            AdminRequest::TakeBack => Ok(done(false)),
            AdminRequest::AdoptSession { peer, data, control, state } => {
                self.adopt_session((peer, data, control), &state, out)
            }
        };
        self.reply(ticket, result, out);
        self.notify_changes(out);
    }

    // ---- waiting -------------------------------------------------------------------------------------------------

    fn want(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        self.wait(ticket, want, None);
        self.serve_waiting(out);
    }

    fn wait(&mut self, ticket: Ticket, want: Want, again_at: Option<Instant>) {
        let give_up_at = self.now.plus_ms(TRANSIENT_MS);
        self.admin.waiting.push_back(Waiting { ticket, want, again_at, give_up_at });
    }

    /// Looks at the waiting requests, if there is a reason to.
    pub(super) fn admin_tick(&mut self, out: &mut Vec<Command>) {
        self.look_at_freeze(out);
        self.continue_detach(out);
        self.continue_demotions(out);
        let now = self.now;
        if std::mem::take(&mut self.admin.state_changed) || self.admin.deadline().is_some_and(|at| at <= now)
        {
            self.answer_asked(out);
            self.continue_resumption(out);
            self.serve_waiting(out);
            self.continue_down(out);
        }
    }

    fn serve_waiting(&mut self, out: &mut Vec<Command>) {
        for _ in 0..self.admin.waiting.len() {
            if !self.admin.is_idle() {
                return;
            }
            let Some(waiting) = self.admin.waiting.pop_front() else { return };
            if waiting.again_at.is_some_and(|at| at > self.now) {
                self.admin.waiting.push_back(waiting);
                continue;
            }
            let waiting = Waiting { again_at: None, ..waiting };
            let late = waiting.give_up_at <= self.now;
            match self.attempt(waiting.ticket, waiting.want, out) {
                Ok(()) => {}
                Err(Reason::InTransientState) if !late => self.admin.waiting.push_back(waiting),
                Err(reason) => self.refuse(waiting.ticket, waiting.want, reason, out),
            }
        }
    }

    fn refuse(&mut self, ticket: Ticket, want: Want, reason: Reason, out: &mut Vec<Command>) {
        self.stay_after_all(want, out);
        let info = match (reason, want) {
            (_, Want::Primary { asked: Promotion::Resumed, .. }) => self.why_not_resumed(reason),
            (Reason::DeviceInUse, _) => {
                let open: u32 = self.devices.iter().map(|d| d.open_count).sum();
                format!("{open} session(s) of the NBD server have it open: close them first")
            }
            (Reason::NoUpToDateDisk, Want::Primary { .. }) => {
                "no disk of this node is UpToDate and no peer with one is connected; --force takes this node's data as it is".to_owned()
            }
            (Reason::InTransientState, _) => self.volumes_only_here(),
            (Reason::NoUpToDateDisk, Want::FullSync { as_target, .. }) => copying::no_good_source(as_target),
            _ => String::new(),
        };
        self.reply(ticket, Err(Refusal { reason, info }), out);
    }

    /// As 8.4 has it, roles hold still until every volume has met the peer's; one that the peer does not have never will.
    fn volumes_only_here(&self) -> String {
        let Some(connection) = self.connection.as_deref() else { return String::new() };
        let met = |d: &usize| connection.peer_devices[*d].replication != ReplicationState::Off;
        let (some, others): (Vec<usize>, Vec<usize>) = (0..self.devices.len()).partition(met);
        if some.is_empty() || others.is_empty() {
            return String::new();
        }
        let names: Vec<String> = others.iter().map(|&d| self.devices[d].volume.to_string()).collect();
        format!(
            "{} says nothing of volume {} of {}: configure it there too, or disconnect with --force",
            connection.name(),
            names.join(", "),
            self.name
        )
    }

    /// Tries a change; the answer follows now or later unless it is refused.
    fn attempt(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) -> Result<(), Reason> {
        match want {
            Want::Primary { .. } if self.role == Role::Primary => {
                self.reply(ticket, Ok(done(false)), out);
                Ok(())
            }
            Want::Secondary { .. } if self.role == Role::Secondary => {
                self.give_up_resumption(out);
                self.reply(ticket, Ok(done(false)), out);
                Ok(())
            }
            Want::Primary { asked: Promotion::Resumed, .. } if self.cannot_resume().is_some() => {
                Err(self.cannot_resume().map_or(Reason::Interrupted, |(reason, _)| reason))
            }
            Want::Primary { asked, forced, pinged: false, fence } if self.is_connected() => {
                // A peer that died lately is noticed now rather than refused over.
                let want = Want::Primary { asked, forced, pinged: true, fence };
                self.admin.asking = Some(Asking { ticket, want, next_device: 0, pinging: true });
                self.ping(PingFor::Promotion, out);
                Ok(())
            }
            // Their receipt was acknowledged: whoever is Primary here has them.
            Want::Primary { .. } if self.writes_of_lost_peer_left() => Err(Reason::InTransientState),
            Want::Primary { asked: Promotion::Resumed, fence: Fence::Tried, .. }
                if self.waits_for_fencing() =>
            {
                self.wait(ticket, want, None);
                Ok(())
            }
            Want::Primary { asked: Promotion::Usual | Promotion::ByForce, fence: Fence::Tried, .. }
                if self.freeze.fencing =>
            {
                Err(Reason::InTransientState)
            }
            Want::Primary { .. } => self.try_primary(ticket, want, out),
            Want::Secondary { force } => self.try_secondary(ticket, force, out),
            Want::Detach { .. } => self.ask_or_do(ticket, want, out),
            Want::Disconnect { outdates } => self.try_disconnect(ticket, outdates, out),
            Want::FullSync { .. } => self.try_full_sync(ticket, want, out),
            Want::Verify { .. } => self.try_verify(ticket, want, out),
            Want::Outdate { device } => self.try_outdate(ticket, device, out),
            Want::DelMinor { device } => self.try_del_minor(ticket, device, out),
        }
    }

    fn is_connected(&self) -> bool {
        self.connection_state() == ConnectionState::Connected
    }

    /// The peer lives.
    pub(super) fn promotion_pinged(&mut self, out: &mut Vec<Command>) {
        let Some(Asking { ticket, want, pinging: true, .. }) = self.admin.asking else { return };
        self.admin.asking = None;
        self.try_again(ticket, want, out);
    }

    fn try_again(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        match self.attempt(ticket, want, out) {
            Ok(()) => {}
            Err(Reason::InTransientState) => self.wait(ticket, want, None),
            Err(reason) => self.refuse(ticket, want, reason, out),
        }
        self.admin.state_changed = true;
    }

    // ---- down ----------------------------------------------------------------------------------------------------

    /// `down`: demote, disconnect, detach, one after the other; nothing if the device is held open.
    fn down(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        if self.devices.iter().any(|d| d.open_count > 0) {
            let want = Want::Secondary { force: false };
            return self.refuse(ticket, want, Reason::DeviceInUse, out);
        }
        if self.admin.down.is_some() {
            return self.reply(ticket, Err(Reason::InTransientState.into()), out);
        }
        self.admin.down = Some(ticket);
        self.give_up_resumption(out);
        self.continue_down(out);
    }

    fn continue_down(&mut self, out: &mut Vec<Command>) {
        let Some(ticket) = self.admin.down else { return };
        if !self.admin.is_idle() {
            return;
        }
        // Steps of `down` carry its own ticket; only the last one is answered.
        if self.role == Role::Primary {
            return self.begin_demotion(STEP, out);
        }
        if self.connection_state() != ConnectionState::StandAlone {
            if self.is_connected() && self.try_disconnect(STEP, Outdates::Nobody, out).is_ok() {
                return;
            }
            self.disconnect_now(out);
        }
        if let Some(d) = self.devices.iter().position(|d| d.backing.is_some()) {
            return self.begin_detach(d, Some(STEP), out);
        }
        if self.devices.iter().all(|d| d.counters.lower_pending == 0) {
            self.admin.down = None;
            self.reply(ticket, Ok(done(true)), out);
        }
    }
}

/// Ticket of a step nobody waits for.
const STEP: Ticket = Ticket(u32::MAX);

impl Resource {
    /// Whether nobody waits for that answer.
    pub(super) fn is_step(ticket: Ticket) -> bool {
        ticket == STEP
    }
}
