//! Changes both nodes must agree on: asking the peer, and being asked (5.7 of the wire reference).

use super::parting::{Outdates, PeerParts};
use super::{Asked, Asking, Fence, Want, ASK_AGAIN_MS, TRANSIENT_MS};
use crate::engine::command::Command;
use crate::engine::planted::Bug;
use crate::engine::resource::Resource;
use crate::engine::senseless::{senseless, Senseless};
use crate::engine::state::Mode;
use crate::engine::state_change::{
    full_sync_refusal, judge_cluster_wide, needs_peer, settle, verify_refusal, Snapshot, Verdict,
};
use crate::ids::{Ticket, VolumeNumber};
use crate::refusal::{Reason, Refusal};
use crate::states::{Conn84, ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::state_word::{conn_of, disk_of, field, mirror, peer_disk_of, role_of, Change as WireChange};
use crate::wire::Packet;

impl Resource {
    pub(super) fn ask_or_do(
        &mut self,
        ticket: Ticket,
        want: Want,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        let mut ask = false;
        for device in self.volumes_of(want) {
            let old = self.snapshot(device);
            let context = self.context(device);
            let mut wanted = old;
            edit_of(want)(device, &mut wanted);
            let new = settle(&old, wanted, &context).snapshot;
            if needs_peer(&old, &new) {
                ask = true;
                if let Verdict::Refused(reason) = judge_cluster_wide(&old, &new, &context) {
                    return Err(reason);
                }
            }
        }
        if !ask {
            self.propose(Mode::Soft, &edit_of(want))?;
            self.carry_out(ticket, want, out);
            return Ok(());
        }
        // The peer takes a role for changed when it is asked: a volume it does not know must not refuse afterwards.
        if matches!(want, Want::Primary { .. }) {
            self.propose(Mode::Soft, &edit_of(want))?;
        }
        self.admin.asking = Some(Asking::about(ticket, want, self));
        self.ask_next(out);
        Ok(())
    }

    fn volumes_of(&self, want: Want) -> Vec<Option<usize>> {
        match want {
            Want::Detach { device }
            | Want::FullSync { device, .. }
            | Want::Verify { device, .. }
            | Want::Outdate { device }
            | Want::DelMinor { device } => {
                vec![Some(device)]
            }
            _ if self.devices.is_empty() => vec![None],
            _ => (0..self.devices.len()).map(Some).collect(),
        }
    }

    /// Sends the next question; the same for every volume, one after the other.
    fn ask_next(&mut self, out: &mut Vec<Command>) {
        let Some(asking) = self.admin.asking else { return };
        let about = match asking.want {
            Want::Primary { .. } => Some(asking.next_device),
            _ => None,
        };
        let change = wire_change(asking.want, &self.snapshot(about));
        let version = self.connection.as_ref().and_then(|c| c.session()).map_or(0, |s| s.version);
        match asking.want {
            Want::Disconnect { .. } => {
                let packet = if version >= 100 {
                    Packet::ConnStateChangeRequest { mask: change.mask, val: change.val }
                } else {
                    Packet::StateChangeRequest { mask: change.mask, val: change.val }
                };
                self.send(VolumeNumber(0), packet, out);
            }
            Want::Detach { device }
            | Want::FullSync { device, .. }
            | Want::Verify { device, .. }
            | Want::Outdate { device }
            | Want::DelMinor { device } => {
                let volume = self.devices[device].volume;
                self.send(volume, Packet::StateChangeRequest { mask: change.mask, val: change.val }, out);
                if matches!(asking.want, Want::DelMinor { .. }) {
                    self.say_nothing_more(device);
                }
            }
            Want::Primary { .. } | Want::Secondary { .. } => {
                let volume = self.devices[asking.next_device].volume;
                self.send(volume, Packet::StateChangeRequest { mask: change.mask, val: change.val }, out);
            }
        }
    }

    /// The peer answered.
    pub(in crate::engine) fn peer_answered_change(
        &mut self,
        code: i32,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let Some(asking) = self.admin.asking.filter(|a| !a.pinging) else {
            return senseless("retcode", u64::from(code as u32), "where nothing was asked");
        };
        if code >= 1 {
            let next = self.next_shared(asking.next_device + 1);
            if let Some(next_device) = next.filter(|_| matches!(asking.want, Want::Primary { .. })) {
                self.admin.asking = Some(Asking { next_device, ..asking });
                self.ask_next(out);
                return Ok(());
            }
            self.admin.asking = None;
            self.admin.put_off_since = None;
            match self.propose(Mode::Soft, &edit_of(asking.want)) {
                Ok(_) => self.carry_out(asking.ticket, asking.want, out),
                Err(reason) => self.refuse(asking.ticket, asking.want, reason, out),
            }
        } else if is_over_soon(code) && self.may_be_put_off(asking.want) {
            // The peer is about something of its own: ours comes after it.
            self.admin.asking = None;
            self.wait(asking.ticket, asking.want, Some(self.now.plus_ms(ASK_AGAIN_MS)));
        } else if code == Reason::PrimaryNop.number()
            && asking.want == (Want::Disconnect { outdates: Outdates::Nobody })
        {
            self.admin.asking = None;
            self.try_again(asking.ticket, Want::Disconnect { outdates: Outdates::This }, out);
        } else {
            self.admin.asking = None;
            self.admin.put_off_since = None;
            let text =
                Reason::from_number(code).map_or_else(|| format!("code {code}"), |r| r.text().to_owned());
            let refusal = Refusal::because(Reason::FailedByPeer, format!("the peer says: {text}"));
            self.stay_after_all(asking.want, out);
            if Resource::is_step(asking.ticket) {
                self.down_refused(&refusal, out);
            } else {
                self.reply(asking.ticket, Err(refusal), out);
            }
        }
        self.admin.state_changed = true;
        Ok(())
    }

    /// Only a promotion, and parting, mean the same when the peer's change is done.
    fn may_be_put_off(&mut self, want: Want) -> bool {
        if !matches!(want, Want::Primary { .. } | Want::Disconnect { .. }) {
            return false;
        }
        let since = *self.admin.put_off_since.get_or_insert(self.now);
        self.now < since.plus_ms(TRANSIENT_MS)
    }

    /// The session ended while the peer was being asked: decide again without it.
    pub(in crate::engine) fn cluster_change_lost(&mut self, out: &mut Vec<Command>) {
        self.admin.put_off_since = None;
        self.admin.asked = None;
        let Some(asking) = self.admin.asking.take() else { return };
        match asking.want {
            Want::Disconnect { outdates } => self.part_without_answer(asking.ticket, outdates, out),
            want => self.try_again(asking.ticket, want, out),
        }
    }

    /// Everybody agreed: do it.
    fn carry_out(&mut self, ticket: Ticket, want: Want, out: &mut Vec<Command>) {
        match want {
            Want::Primary { .. } => self.become_primary(ticket, want, out),
            Want::Secondary { .. } => self.begin_demotion(ticket, out),
            Want::Detach { device } => self.begin_detach(device, Some(ticket), out),
            Want::Disconnect { outdates } => self.carry_out_parting(ticket, outdates, out),
            Want::FullSync { .. } => self.begin_agreed_full_sync(ticket, want, out),
            Want::Verify { .. } => self.begin_agreed_verify(ticket, want, out),
            Want::DelMinor { device } => self.leave_volume(ticket, device, out),
            Want::Outdate { device } => {
                if let Err(reason) = self.try_outdate(ticket, device, out) {
                    self.refuse(ticket, want, reason, out);
                }
            }
        }
    }

    // ---- being asked ---------------------------------------------------------------------------------------------

    /// The peer asks whether it may change its state, and so ours as it sees it.
    pub(in crate::engine) fn peer_asks_change(
        &mut self,
        device: Option<usize>,
        mask: u32,
        val: u32,
        out: &mut Vec<Command>,
    ) {
        let parts = peer_parts(mask, val);
        let code = match (parts, device) {
            _ if self.comes_first() && !self.planted(Bug::BothChangesGranted) => {
                Reason::ConcurrentStateChange.number()
            }
            // It asked for something else, and has not heard of that yet.
            _ if self.admin.asked.is_some() => Reason::ConcurrentStateChange.number(),
            (Some(parts), _) => self.judge_parting(parts),
            (None, Some(device)) if self.drains_before_answer(device, mask, val, out) => {
                self.admin.asked = Some(Asked { device, mask, val });
                return;
            }
            (None, _) => self.judge_peer_change(device, mask, val, out),
        };
        self.answer_change(device, code, out);
        if let Some(parts) = parts.filter(|_| code >= 1) {
            self.let_peer_part(parts, out);
        }
    }

    fn answer_change(&mut self, device: Option<usize>, code: i32, out: &mut Vec<Command>) {
        let (volume, packet) = match device {
            Some(d) => (self.devices[d].volume, Packet::StateChangeReply(code)),
            None => (VolumeNumber(0), Packet::ConnStateChangeReply(code)),
        };
        self.send_control(volume, packet, out);
    }

    /// The peer asks to replace this node's data while it may lack what was called done (A and B).
    fn drains_before_answer(&mut self, d: usize, mask: u32, val: u32, out: &mut Vec<Command>) -> bool {
        let conn = conn_asked(mask, val).map(|conn| self.copying_asked(Some(d), conn));
        matches!(conn, Some(Ok(Some(ReplicationState::StartingSyncT)))) && self.drains_for_target(d, out)
    }

    /// Answers what the peer asked once it has what it is to copy here.
    pub(super) fn answer_asked(&mut self, out: &mut Vec<Command>) {
        let Some(Asked { device, mask, val }) = self.admin.asked else { return };
        if !self.drains_before_answer(device, mask, val, out) {
            self.admin.asked = None;
            let code = self.judge_peer_change(Some(device), mask, val, out);
            self.answer_change(Some(device), code, out);
        }
    }

    /// This node asks the peer something itself, and is the one whose question counts.
    fn comes_first(&self) -> bool {
        let session = self.connection.as_ref().and_then(|c| c.session());
        session.is_some_and(|s| s.resolve_conflicts) && self.admin.asking.is_some_and(|a| !a.pinging)
    }

    /// Why the peer is not to be Primary at this moment.
    fn puts_off_primary(&self) -> Option<Reason> {
        // Until its demotion is kept this node may have on its disk what is not stable yet.
        let demoting = self.admin.is_demoting() && !self.two_primaries_allowed();
        if demoting || self.has_unshared_writes_at_peer() {
            return Some(Reason::ConcurrentStateChange);
        }
        // Without a disk it would work on this node's, which is to have first whatever is called received.
        self.writes_of_lost_peer_left().then_some(Reason::InTransientState)
    }

    fn judge_peer_change(
        &mut self,
        device: Option<usize>,
        mask: u32,
        val: u32,
        out: &mut Vec<Command>,
    ) -> i32 {
        let copying = match conn_asked(mask, val).map(|conn| self.copying_asked(device, conn)) {
            Some(Err(reason)) => return reason.number(),
            Some(Ok(replication)) => replication,
            None => None,
        };
        let (mask, val) = mirror(mask, val);
        let peer_role = (mask & field::PEER != 0).then(|| role_of(val >> 2)).flatten();
        if let Some(reason) = self.puts_off_primary().filter(|_| peer_role == Some(Role::Primary)) {
            return reason.number();
        }
        let own_disk = (mask & field::DISK != 0).then(|| disk_of(val)).flatten();
        let peer_disk = (mask & field::PEER_DISK != 0).then(|| peer_disk_of(val)).flatten();
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if device.is_some() && v != device {
                return;
            }
            if let Some(role) = peer_role {
                s.peer_role = role;
            }
            if let Some(disk) = peer_disk {
                s.peer_disk = disk;
            }
            if let Some(disk) = own_disk.filter(|_| s.disk.rank() >= DiskState::Outdated.rank()) {
                s.disk = disk;
            }
            if let Some(replication) = copying {
                s.replication = replication;
                if replication == ReplicationState::StartingSyncT {
                    s.disk = DiskState::Inconsistent;
                }
            }
        };
        match self.change(Mode::Soft, &edit, out) {
            Ok(true) => 1,
            Ok(false) => 2,
            Err(reason) => reason.number(),
        }
    }
}

impl Resource {
    /// What a peer asks that wants to copy or compare a volume; `None` if it asks for what is so already.
    fn copying_asked(&self, device: Option<usize>, conn: Conn84) -> Result<Option<ReplicationState>, Reason> {
        let asked = conn.split().map(|(_, replication)| replication);
        let (Some(d), Some(asked)) = (device, asked) else { return Err(Reason::NotSupported) };
        let now = self.snapshot(Some(d));
        let refusal = match asked {
            ReplicationState::StartingSyncS => full_sync_refusal(&now, false),
            // What is frozen was done here, and the peer lacks it until it is sent again.
            ReplicationState::StartingSyncT if self.has_frozen_writes(d) => Some(Reason::InTransientState),
            ReplicationState::StartingSyncT => full_sync_refusal(&now, true),
            ReplicationState::VerifyT => verify_refusal(&now),
            ReplicationState::Established => return Ok(None),
            // It is about to delete it.
            ReplicationState::Off => None,
            _ => Some(Reason::NotSupported),
        };
        refusal.map_or(Ok(Some(asked)), Err)
    }
}

/// The peer could agree to it a moment later.
fn is_over_soon(code: i32) -> bool {
    [Reason::ConcurrentStateChange, Reason::InTransientState].into_iter().any(|r| r.number() == code)
}

/// The state of the link a question asks for, as this node would see it.
fn conn_asked(mask: u32, val: u32) -> Option<Conn84> {
    let (mask, val) = mirror(mask, val);
    (mask & field::CONN != 0).then(|| conn_of(val)).flatten()
}

/// What a question is about that asks to part.
fn peer_parts(mask: u32, val: u32) -> Option<PeerParts> {
    let (mask, val) = mirror(mask, val);
    let tear_down = (ConnectionState::TearDown as u32) << 4;
    let outdated =
        |field: u32, disk: Option<DiskState>| mask & field != 0 && disk == Some(DiskState::Outdated);
    (mask & field::CONN != 0 && val & field::CONN == tear_down).then(|| PeerParts {
        outdate_this: outdated(field::DISK, disk_of(val)),
        outdate_peer: outdated(field::PEER_DISK, peer_disk_of(val)),
    })
}

pub(super) fn edit_of(want: Want) -> impl Fn(Option<usize>, &mut Snapshot) {
    move |v, s| match want {
        Want::Primary { forced, fence, .. } => {
            s.role = Role::Primary;
            let newest = fence == Fence::Done && s.disk == DiskState::Consistent;
            if forced && may_be_called_newest(s) || newest {
                s.disk = DiskState::UpToDate;
            }
            if fence == Fence::Forced && s.peer_disk == DiskState::DUnknown {
                s.peer_disk = DiskState::Outdated;
            }
        }
        Want::Secondary { .. } => s.role = Role::Secondary,
        Want::Detach { device } => {
            if v == Some(device) {
                s.disk = DiskState::Failed;
            }
        }
        Want::Disconnect { outdates } => outdates.edit(s),
        Want::DelMinor { device } => Resource::edit_leaving(device, v, s),
        Want::FullSync { device, .. } | Want::Verify { device, .. } | Want::Outdate { device } => {
            if v == Some(device) {
                Resource::edit_copying(want, s);
            }
        }
    }
}

/// Force is for data that nothing better is known of: a volume whose UpToDate copy the peer has needs none, whatever
/// another volume needs.
pub(super) fn may_be_called_newest(s: &Snapshot) -> bool {
    s.disk.has_data() && s.disk != DiskState::UpToDate && s.peer_disk != DiskState::UpToDate
}

fn wire_change(want: Want, now: &Snapshot) -> WireChange {
    let change = WireChange::default();
    match want {
        Want::Primary { forced: true, .. } if may_be_called_newest(now) => {
            change.role(Role::Primary).disk(DiskState::UpToDate)
        }
        Want::Primary { .. } => change.role(Role::Primary),
        Want::Secondary { .. } => change.role(Role::Secondary),
        Want::Detach { .. } => change.disk(DiskState::Failed),
        Want::Disconnect { outdates } => {
            let change = change.conn(Conn84(ConnectionState::Disconnecting as u8));
            match outdates {
                Outdates::Nobody => change,
                Outdates::Peer => change.peer_disk(DiskState::Outdated),
                Outdates::This => change.disk(DiskState::Outdated),
            }
        }
        Want::FullSync { as_target: true, .. } => change.conn(replicating(ReplicationState::StartingSyncT)),
        Want::FullSync { as_target: false, .. } => change.conn(replicating(ReplicationState::StartingSyncS)),
        Want::Verify { .. } => change.conn(replicating(ReplicationState::VerifyS)),
        Want::Outdate { .. } => change.disk(DiskState::Outdated),
        Want::DelMinor { .. } => change.conn(Conn84::WF_REPORT_PARAMS),
    }
}

fn replicating(replication: ReplicationState) -> Conn84 {
    Conn84::of(ConnectionState::Connected, replication)
}
