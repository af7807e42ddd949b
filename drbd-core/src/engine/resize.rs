//! A device gets another size (8.8 of the wire reference): asked for here, by the peer, or found when the two meet.
//!
//! The steps of a node, each only after the one before is on stable storage:
//!
//! 1. the devices are measured (asked for here or by the peer: a disk that grew is noticed then and only then);
//! 2. where the metadata moves or the device shrinks, requests are held until nothing refers to the activity log;
//! 3. one metadata job takes the new size and place up ([`write`](self::write): bits of the new part before the super
//!    block that makes them count);
//! 4. the device has the new size, for users and for the peer.
//!
//! Who asks tells the peer his sizes after his own steps; the peer goes through the same steps and answers; with the
//! answer the one who asked goes through steps 2 to 4 again, now knowing what both disks hold. Meanwhile the data stream
//! of the session waits, because what follows belongs to the new size. The new part is marked on both nodes and copied
//! by a resync that needs no exchange of bitmaps.
//!
//! Whatever is lost in between is found when the two meet again: a size that only one node has taken up is taken up by
//! the other then, and the part that is new is copied.

use super::command::{Command, Level};
use super::device_size::smaller_known;
use super::event::DeviceBytes;
use super::resource::Resource;
use super::senseless::{check_sizes, Senseless};
use super::session::Fault;
use crate::control::Done;
use crate::ids::{Instant, Sector, Ticket, VolumeNumber};
use crate::metadata::Relayout;
use crate::refusal::{Reason, Refusal};
use crate::states::{ReplicationState, Role};
use crate::wire::{size_flag, Sizes};

mod new_area;
mod planning;
mod write;

/// How long somebody who asked is kept waiting for requests to end, or for the peer's answer.
const PATIENCE_MS: u64 = 30_000;

/// Why a size told now makes no sense.
const COPYING: &str = "another size of the device in the middle of a resync or verify";

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ResizeWish {
    /// Sectors; 0: as large as both disks allow.
    pub(super) size: u64,
    pub(super) assume_peer_has_space: bool,
    /// The new part is not to be copied.
    pub(super) assume_clean: bool,
}

impl ResizeWish {
    fn flags(&self) -> u16 {
        let flag = |on: bool, flag: u16| if on { flag } else { 0 };
        flag(self.assume_peer_has_space, size_flag::FORCED) | flag(self.assume_clean, size_flag::NO_RESYNC)
    }

    fn of_peer(sizes: &Sizes) -> ResizeWish {
        ResizeWish {
            size: sizes.user,
            assume_peer_has_space: sizes.flags & size_flag::FORCED != 0,
            assume_clean: sizes.flags & size_flag::NO_RESYNC != 0,
        }
    }
}

/// A size to take up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    size: Sector,
    /// What the user asked for, from now on.
    asked: u64,
    /// Where the metadata will be, if the devices were measured.
    layout: Option<Relayout>,
    /// Requests are held and those under way ended before.
    drains: bool,
    assume_clean: bool,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// How large the devices are.
    Measuring,
    /// The end of requests.
    Draining(Plan),
    /// The metadata.
    Writing(Plan),
    /// The peer's sizes.
    Peer,
}

/// A change of size under way.
#[derive(Clone, Debug)]
pub(super) struct Resize {
    stage: Stage,
    wish: ResizeWish,
    /// Who asked here and has no answer yet.
    ticket: Option<Ticket>,
    /// The peer's sizes that this follows, and the session they came in.
    peer: Option<(u32, Sizes)>,
    /// The peer asked, too, before this node's own steps were done.
    next: Option<Sizes>,
    /// The device was this large when it began.
    from: Sector,
    /// The disk was found larger.
    found_more: bool,
    give_up_at: Instant,
}

impl Resize {
    /// Requests wait for it.
    pub(super) fn holds_requests(&self) -> bool {
        matches!(self.stage, Stage::Draining(plan) | Stage::Writing(plan) if plan.drains)
    }

    /// The data stream waits for it.
    fn holds_stream(&self) -> bool {
        self.peer.is_some() || self.next.is_some() || self.holds_requests()
    }

    /// The log is about to begin anew elsewhere: nobody may refer to it.
    pub(super) fn moves_log(&self) -> bool {
        matches!(self.stage, Stage::Writing(plan) if plan.drains)
    }
}

impl Resource {
    // ---- asked for here ------------------------------------------------------------------------------------------

    /// `resize`.
    pub(super) fn resize(
        &mut self,
        ticket: Ticket,
        volume: VolumeNumber,
        wish: ResizeWish,
        out: &mut Vec<Command>,
    ) {
        let d = match self.may_resize(volume, &wish) {
            Ok(d) => d,
            Err(refusal) => return self.reply(ticket, Err(refusal), out),
        };
        self.begin_resize(d, wish, Some(ticket), None);
        out.push(Command::MeasureDisk { volume });
    }

    fn begin_resize(
        &mut self,
        d: usize,
        wish: ResizeWish,
        ticket: Option<Ticket>,
        peer: Option<(u32, Sizes)>,
    ) {
        let give_up_at = self.now.plus_ms(PATIENCE_MS);
        let device = &mut self.devices[d];
        device.resize = Some(Box::new(Resize {
            stage: Stage::Measuring,
            wish,
            ticket,
            peer,
            next: None,
            from: device.size,
            found_more: false,
            give_up_at,
        }));
    }

    /// The devices of a volume are that large.
    pub(super) fn disk_measured(
        &mut self,
        volume: VolumeNumber,
        bytes: Option<DeviceBytes>,
        out: &mut Vec<Command>,
    ) {
        let Some(d) = self.device_index(volume) else { return };
        let Some(resize) = self.devices[d].resize.as_deref() else { return };
        if resize.stage != Stage::Measuring {
            return;
        }
        match self.plan_measured(d, bytes) {
            Ok(plan) => self.take_up(d, plan, out),
            Err(refusal) => self.resize_refused(d, refusal, out),
        }
        self.resume_stream(out);
    }

    /// Nothing comes of it: whoever asked is told why.
    fn resize_refused(&mut self, d: usize, refusal: Refusal, out: &mut Vec<Command>) {
        let Some(resize) = self.devices[d].resize.take() else { return };
        if let Some(ticket) = resize.ticket {
            self.reply(ticket, Err(refusal), out);
        } else {
            let text =
                format!("The size the peer asked for is not taken up: {}: {}", refusal.reason, refusal.info);
            self.fault(Fault::Fatal(text), out);
        }
        self.after_resize(d, resize.next, out);
    }

    // ---- taking up -----------------------------------------------------------------------------------------------

    fn take_up(&mut self, d: usize, plan: Plan, out: &mut Vec<Command>) {
        if !self.changes_anything(d, &plan) {
            self.settled(d, plan, out);
            return;
        }
        let Some(resize) = self.devices[d].resize.as_deref_mut() else { return };
        resize.stage = Stage::Draining(plan);
        if plan.drains {
            // References to the log are held until the peer has acknowledged the barrier.
            self.send_owed_barrier(out);
            self.urge_peer(out);
        }
        self.go_on_with_resize(d, out);
    }

    /// Begins to write when nothing is in the way any more.
    fn go_on_with_resize(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(Stage::Draining(plan)) = self.devices[d].resize.as_deref().map(|r| r.stage) else { return };
        if plan.drains && !self.log_is_idle(d) {
            return;
        }
        if let Some(resize) = self.devices[d].resize.as_deref_mut() {
            resize.stage = Stage::Writing(plan);
        }
        self.write_size(d, &plan, out);
    }

    /// The new size is on stable storage.
    pub(super) fn resized(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(Stage::Writing(plan)) = self.devices[d].resize.as_deref().map(|r| r.stage) else { return };
        let device = &mut self.devices[d];
        let (volume, before) = (device.volume, device.size);
        device.size = plan.size;
        if let (Some(layout), Some(backing)) = (plan.layout, device.backing.as_deref_mut()) {
            // Told only now: a peer that grows on this word must not meet a smaller disk after a loss of power.
            backing.limits.capacity = layout.place.capacity;
        }
        if plan.size != before {
            let writable = self.role == Role::Primary;
            let text = format!("size = {} KB, was {} KB", plan.size.0 / 2, before.0 / 2);
            self.log("size", Level::Info, self.device_subject(d), text, out);
            out.push(Command::Device { volume, size: plan.size, writable });
        }
        self.settled(d, plan, out);
        self.resume_stream(out);
    }

    /// This node has the size that it should: tell the peer, or who asked.
    fn settled(&mut self, d: usize, plan: Plan, out: &mut Vec<Command>) {
        self.adopt_asked_size(d, plan.asked, out);
        let Some(resize) = self.devices[d].resize.clone() else { return };
        let grew = self.devices[d].size > resize.from;
        let number = self.session_number();
        match resize.peer {
            Some((session, sizes)) if number == Some(session) => {
                self.answer_sizes(d, &resize, &sizes, grew, out);
            }
            Some(_) => self.finish_resize(d, out),
            None if self.is_replicating(d) && self.peer_disk(d).has_data() => {
                self.ask_peer_to_follow(d, grew, out);
            }
            None => {
                // A peer without disk has nothing to follow with.
                self.send_sizes(d, out);
                self.finish_resize(d, out);
            }
        }
        self.notify_changes(out);
    }

    fn adopt_asked_size(&mut self, d: usize, asked: u64, out: &mut Vec<Command>) {
        let volume = self.devices[d].volume;
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return };
        if std::mem::replace(&mut backing.options.size_sectors, asked) != asked {
            out.push(Command::SizeAdopted { volume, size: Sector(asked) });
        }
    }

    fn ask_peer_to_follow(&mut self, d: usize, grew: bool, out: &mut Vec<Command>) {
        let Some(resize) = self.devices[d].resize.as_deref_mut() else { return };
        resize.stage = Stage::Peer;
        let flags = resize.wish.flags();
        let copies = grew && !resize.wish.assume_clean;
        self.devices[d].new_area_due |= copies;
        self.send_uuids(d, out);
        // A size of 0 asks for an answer.
        self.send_sizes_as(d, Sector(0), flags, out);
        self.let_requests_go_on(d, out);
        let next = self.devices[d].resize.as_deref_mut().and_then(|resize| resize.next.take());
        self.follow_next(d, next, out);
    }

    /// What the peer asked meanwhile comes now.
    fn follow_next(&mut self, d: usize, next: Option<Sizes>, out: &mut Vec<Command>) {
        let result = next.map_or(Ok(()), |sizes| self.sizes_received(d, sizes, out));
        if let Err(fault) = result {
            self.fault(fault, out);
        }
    }

    fn answer_sizes(&mut self, d: usize, resize: &Resize, sizes: &Sizes, grew: bool, out: &mut Vec<Command>) {
        let size = self.devices[d].size;
        let replicating = self.is_replicating(d);
        if replicating && (sizes.current != size.0 || resize.found_more) {
            self.send_sizes_as(d, size, sizes.flags, out);
        }
        if replicating && grew && sizes.flags & size_flag::NO_RESYNC != 0 {
            let text = "Resync of new storage suppressed with --assume-clean";
            self.log("new-area", Level::Info, self.peer_device_subject(d), text, out);
        } else if replicating && grew {
            self.devices[d].new_area_due = true;
        }
        self.finish_resize(d, out);
    }

    /// It is over, here and at the peer.
    fn finish_resize(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(resize) = self.devices[d].resize.take() else { return };
        if let Some(ticket) = resize.ticket {
            let done = self.outcome(d, &resize);
            self.reply(ticket, Ok(done), out);
        }
        self.after_resize(d, resize.next, out);
    }

    /// What came of it, in words where it is not what was asked for.
    fn outcome(&self, d: usize, resize: &Resize) -> Done {
        let size = self.devices[d].size;
        let mut info = Vec::new();
        if resize.wish.size > size.0 {
            info.push(format!(
                "the size asked for, {} sectors, is more than both disks hold: the device has {size}",
                resize.wish.size
            ));
        } else if resize.wish.size == 0 && size == resize.from {
            info.push(self.why_not_larger(d, size));
        }
        Done { changed: size != resize.from || resize.found_more, info, ..Done::default() }
    }

    fn after_resize(&mut self, d: usize, next: Option<Sizes>, out: &mut Vec<Command>) {
        self.let_requests_go_on(d, out);
        self.follow_next(d, next, out);
        self.admin.state_changed = true;
        self.notify_changes(out);
    }

    /// What waited for the size goes on.
    fn resume_stream(&mut self, out: &mut Vec<Command>) {
        if let Err(fault) = self.go_on_with_stream(out) {
            self.fault(fault, out);
        }
    }

    fn let_requests_go_on(&mut self, d: usize, out: &mut Vec<Command>) {
        self.wake_log_waiters(d, out);
        self.start_held(d, out);
    }

    // ---- the peer ------------------------------------------------------------------------------------------------

    /// P_SIZES (3.8 of the wire reference).
    pub(super) fn sizes_received(
        &mut self,
        d: usize,
        sizes: Sizes,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        check_sizes(&sizes).map_err(|senseless| senseless.in_packet("P_SIZES"))?;
        let session = self.session_number().expect("packets come in a session");
        let connection = self.connection.as_mut().expect("packets come from a peer");
        connection.peer_devices[d].sizes = Some(sizes);
        self.look_at_peers_blocks(d, &sizes, out);
        if self.attached_disk(d).is_none() {
            self.diskless_size(d, &sizes, out)?;
            // Of two without a disk neither knows an answer.
            if sizes.current == 0 && self.devices[d].size.0 != 0 && self.is_replicating(d) {
                self.send_sizes(d, out);
            }
            return Ok(());
        }
        if !self.is_replicating(d) {
            if let Some(resize) = self.devices[d].resize.as_deref_mut() {
                // Asked for here before the two met: its own steps end first.
                resize.next = Some(sizes);
                return Ok(());
            }
            return self.sizes_in_handshake(d, session, &sizes, out);
        }
        let decides = self.decides();
        match self.devices[d].resize.as_deref_mut() {
            Some(resize) if resize.stage == Stage::Peer => {
                resize.peer = Some((session, sizes));
                // Both asked at once: one of them has his way.
                let ours = sizes.current == 0 && decides;
                let (asked, clean) =
                    (if ours { resize.wish.size } else { sizes.user }, resize.wish.assume_clean);
                let plan = self.plan_with_peer(d, asked, clean, None);
                self.take_up_or_refuse(d, plan, out);
            }
            Some(resize) => resize.next = Some(sizes),
            None => return self.follow_peer(d, session, &sizes, out),
        }
        Ok(())
    }

    /// The peer asks, or attached another disk.
    fn follow_peer(
        &mut self,
        d: usize,
        session: u32,
        sizes: &Sizes,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let wish = ResizeWish::of_peer(sizes);
        let resting = self.snapshot(Some(d)).replication == ReplicationState::Established;
        if sizes.current == 0 && !resting {
            return Err(Senseless { field: "c_size", got: 0, why: COPYING }.in_packet("P_SIZES"));
        }
        if sizes.current == 0 {
            self.begin_resize(d, wish, None, Some((session, *sizes)));
            out.push(Command::MeasureDisk { volume: self.devices[d].volume });
            return Ok(());
        }
        let own = self.attached_disk(d).map_or(0, |b| b.options.size_sectors);
        let asked = smaller_known(own, sizes.user);
        let plan = self.plan_with_peer(d, asked, wish.assume_clean, None);
        if plan.as_ref().is_ok_and(|plan| self.would_cut_data(d, plan)) {
            return Err(Fault::Fatal("The peer's disk size is too small!".to_owned()));
        }
        if !resting && plan.as_ref().is_ok_and(|plan| self.changes_anything(d, plan)) {
            return Err(Senseless { field: "d_size", got: sizes.disk, why: COPYING }.in_packet("P_SIZES"));
        }
        if let (Ok(plan), false) = (&plan, wish.assume_clean) {
            self.look_for_new_area(d, plan, sizes);
        }
        self.begin_resize(d, wish, None, Some((session, *sizes)));
        self.take_up_or_refuse(d, plan, out);
        Ok(())
    }

    fn sizes_in_handshake(
        &mut self,
        d: usize,
        session: u32,
        sizes: &Sizes,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        self.warn_of_different_disks(d, sizes, out);
        let plan = self.plan_in_handshake(d, sizes)?;
        self.look_for_new_area(d, &plan, sizes);
        let wish = ResizeWish { size: plan.asked, ..ResizeWish::of_peer(sizes) };
        self.begin_resize(d, wish, None, Some((session, *sizes)));
        self.take_up(d, plan, out);
        Ok(())
    }

    fn take_up_or_refuse(&mut self, d: usize, plan: Result<Plan, Refusal>, out: &mut Vec<Command>) {
        match plan {
            Ok(plan) => self.take_up(d, plan, out),
            Err(refusal) => self.resize_refused(d, refusal, out),
        }
    }

    /// Whether what comes next on the data stream has to wait, because it belongs to a size that is being taken up.
    pub(super) fn stream_waits_for_size(&self) -> bool {
        self.devices.iter().any(|device| device.resize.as_deref().is_some_and(Resize::holds_stream))
    }

    // ---- what may come in between --------------------------------------------------------------------------------

    /// The session is over: its answer will not come.
    pub(super) fn resizes_without_session(&mut self, out: &mut Vec<Command>) {
        for d in 0..self.devices.len() {
            let Some(resize) = self.devices[d].resize.as_deref_mut() else { continue };
            resize.next = None;
            match (resize.stage, resize.ticket) {
                (Stage::Peer, _) => self.finish_resize(d, out),
                // Begun on the peer's word only, and nothing of it is written yet.
                (Stage::Measuring | Stage::Draining(_), None) => {
                    self.devices[d].resize = None;
                    self.let_requests_go_on(d, out);
                }
                (Stage::Measuring | Stage::Draining(_) | Stage::Writing(_), _) => {
                    resize.peer = None;
                }
            }
        }
    }

    /// The disk is let go.
    pub(super) fn resize_lost(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(resize) = self.devices[d].resize.take() else { return };
        if let Some(ticket) = resize.ticket {
            self.answer_lost(ticket, out);
        }
        self.resume_stream(out);
    }

    /// When somebody who asked has waited long enough.
    pub(super) fn resize_deadline(&self) -> Option<Instant> {
        let waiting = self.devices.iter().filter_map(|device| device.resize.as_deref());
        waiting.filter(|resize| resize.ticket.is_some()).map(|resize| resize.give_up_at).min()
    }

    /// Goes on with what waited for requests to end, and answers who has waited long enough.
    pub(super) fn resize_tick(&mut self, out: &mut Vec<Command>) {
        for d in 0..self.devices.len() {
            self.begin_due_copy(d, out);
            let Some(resize) = self.devices[d].resize.as_deref() else { continue };
            let late = resize.ticket.is_some() && resize.give_up_at <= self.now;
            match resize.stage {
                Stage::Draining(_) if !late => self.go_on_with_resize(d, out),
                Stage::Measuring if late => {
                    let info = "the backing devices have not been measured in time: try again";
                    self.resize_refused(d, Refusal::because(Reason::InTransientState, info), out);
                }
                Stage::Draining(_) if late => {
                    let info = "requests under way do not end, the activity log cannot be moved: try again when they do";
                    self.resize_refused(d, Refusal::because(Reason::InTransientState, info), out);
                }
                Stage::Peer if late => self.finish_resize(d, out),
                Stage::Draining(_) | Stage::Measuring | Stage::Peer | Stage::Writing(_) => {}
            }
        }
    }
}
