//! What two nodes tell each other about a volume, and what they conclude: sizes, generations, state, and from them
//! who copies to whom.

use super::after_split_brain::{SplitBrainPolicies, SplitBrainPolicy};
use super::command::{Command, Level};
use super::consequences::is_peer_attached;
use super::generation::{CompareContext, Strategy, ROLE_BIT};
use super::planted::Bug;
use super::resource::{HandlerOwner, Resource};
use super::session::Fault;
use super::state::Mode;
use super::state_change::Snapshot;
use super::sync_decision::{
    decide, Action, AfterFailure, Decision, FailReason, RoleResyncConflict, SyncInput,
};
use crate::ids::Sector;
use crate::states::{Conn84, ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::state_word::StateWord;
use crate::wire::{feature, header, uuid_flag, Packet, QueueLimits, Sizes, Uuids};

/// A volume was made and attached while the nodes were connected, and each heard of the other's before there was a disk.
const UNCOMPARED: &str =
    "A volume met the peer's before their data were compared: the connection begins again";

impl Resource {
    // ---- telling -------------------------------------------------------------------------------------------------

    /// P_SIZES.
    pub(super) fn send_sizes(&mut self, d: usize, out: &mut Vec<Command>) {
        self.send_sizes_as(d, self.devices[d].size, 0, out);
    }

    /// The same with another size of the device (0 asks for an answer) and [flags](crate::wire::size_flag).
    pub(super) fn send_sizes_as(&mut self, d: usize, current: Sector, flags: u16, out: &mut Vec<Command>) {
        let device = &self.devices[d];
        let attached =
            device.backing.as_deref().filter(|_| device.disk.rank() >= DiskState::Negotiating.rank());
        if self.is_leaving(d) {
            return;
        }
        let Some(session) = self.connection.as_mut().and_then(|c| c.established()) else { return };
        let limits = attached.map(|b| b.limits);
        let sizes = Sizes {
            disk: limits.map_or(0, |l| l.capacity.0),
            user: attached.map_or(0, |b| b.options.size_sectors),
            current: current.0,
            max_bio_size: limits
                .map_or(4096, |l| l.max_bio_bytes)
                .min(header::request_bytes_max(session.version)),
            flags,
            limits: session.has(feature::LONG_SIZES).then(|| QueueLimits {
                physical_block_size: limits.map_or(512, |l| l.physical_block_size),
                logical_block_size: limits.map_or(512, |l| l.logical_block_size),
                alignment_offset: 0,
                io_min: limits.map_or(512, |l| l.physical_block_size),
                io_opt: 0,
                discard_enabled: limits.is_some_and(|l| l.discard_zeroes),
                discard_zeroes_data: limits.is_some_and(|l| l.discard_zeroes),
                write_same_capable: false,
            }),
        };
        let volume = device.volume;
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.peer_devices[d].told_size = current;
        }
        self.send(volume, Packet::Sizes(Box::new(sizes)), out);
    }

    /// P_STATE.
    pub(super) fn send_state(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.connection.as_mut().and_then(|c| c.established()).is_none() || self.is_leaving(d) {
            return;
        }
        let word = self.state_word(d).to_bits();
        self.send(self.devices[d].volume, Packet::State(word), out);
    }

    pub(super) fn state_word(&self, d: usize) -> StateWord {
        let snapshot = self.snapshot(Some(d));
        StateWord {
            role: snapshot.role,
            peer: snapshot.peer_role,
            conn: snapshot.conn84(),
            disk: snapshot.disk,
            peer_disk: snapshot.peer_disk,
            susp_user: snapshot.suspended.user,
            aftr_isp: snapshot.resync_suspended.dependency,
            peer_isp: snapshot.resync_suspended.peer,
            user_isp: snapshot.resync_suspended.user,
            susp_nod: snapshot.suspended.no_data,
            susp_fen: snapshot.suspended.fencing,
            quorum: false,
        }
    }

    // ---- hearing -------------------------------------------------------------------------------------------------

    /// P_UUIDS.
    pub(super) fn uuids_received(
        &mut self,
        d: usize,
        uuids: Uuids,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let snapshot = self.snapshot(Some(d));
        let device = &mut self.devices[d];
        let lost_data = snapshot.role == Role::Primary
            && !device.disk.has_data()
            && device.disk != DiskState::Negotiating
            && device.exposed_uuid != 0
            && (!snapshot.is_replicating() || snapshot.peer_disk == DiskState::Diskless);
        if lost_data && (device.peer_is_behind || device.exposed_uuid & !1 != uuids.current & !1) {
            return Err(Fault::Fatal("Can only connect to data with current UUID".to_owned()));
        }
        let new = device.exposed_uuid & !1 != uuids.current & !1;
        // What a Primary shows its users goes on in a new generation only on a disk that has it.
        let shown = match snapshot.role {
            Role::Primary => snapshot.peer_disk == DiskState::UpToDate || device.exposed_uuid == 0,
            Role::Secondary | Role::Unknown => true,
        };
        if new && snapshot.peer_disk == DiskState::UpToDate {
            // It goes on from everything it was sent.
            device.peer_is_behind = false;
        }
        let reached = snapshot.role == Role::Primary || snapshot.is_replicating();
        if !device.disk.has_data() && reached && shown {
            device.exposed_uuid = uuids.current;
        }
        if let Some(backing) = device.backing.as_deref_mut() {
            let same = |a: u64, b: u64| a & !ROLE_BIT == b & !ROLE_BIT;
            let own = backing.super_block.current_uuid;
            backing.outrun |=
                device.disk == DiskState::Detaching && !same(uuids.current, own) && same(uuids.bitmap, own);
        }
        self.connection.as_mut().expect("packets come from a peer").peer_devices[d].uuids = Some(uuids);
        self.take_over_first_generation(d, &uuids, out);
        if new {
            self.peer_generation_told(d, out);
        }
        Ok(())
    }

    /// P_STATE (5.10 of the wire reference).
    pub(super) fn state_received(
        &mut self,
        d: usize,
        word: u32,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let peer = StateWord::from_bits(word).map_err(|m| Fault::Protocol(m.to_string()))?;
        let old = self.snapshot(Some(d));
        if old.connection != ConnectionState::Connected {
            return Ok(());
        }
        let connection = self.connection.as_mut().expect("packets come from a peer");
        connection.peer_devices[d].refused_write = false;
        let uuids = connection.peer_devices[d].uuids;
        let peer_inconsistent = uuids.is_some_and(|u| u.flags & uuid_flag::INCONSISTENT != 0);
        let mut peer_disk = match peer.disk {
            DiskState::Negotiating if peer_inconsistent => DiskState::Inconsistent,
            DiskState::Negotiating => DiskState::Consistent,
            // Without data of its own this node cannot vouch for data the peer calls old: it is not to be used.
            DiskState::Outdated if !old.disk.has_data() => DiskState::Inconsistent,
            other => other,
        };
        let conn = old.conn84();
        let source_or_becoming = matches!(old.peer_disk, DiskState::Inconsistent | DiskState::Consistent)
            && peer_disk == DiskState::UpToDate
            && conn > Conn84::CONNECTED
            && old.disk == DiskState::UpToDate;
        if source_or_becoming {
            if peer.conn > Conn84::CONNECTED && peer.conn < Conn84(ReplicationState::SyncSource as u8) {
                peer_disk = DiskState::Inconsistent;
            } else if conn >= Conn84(ReplicationState::SyncSource as u8) && peer.conn == Conn84::CONNECTED {
                self.target_says_done(d, out);
                self.hear_hold(d, &peer, out);
                return Ok(());
            }
        }
        let copies = matches!(old.replication, ReplicationState::SyncSource | ReplicationState::PausedSyncS);
        if copies && peer.conn == Conn84::CONNECTED && peer_disk == DiskState::Inconsistent {
            let resync = self.connection.as_deref().and_then(|c| c.peer_devices[d].resync.as_deref());
            if resync.is_some_and(|resync| resync.failed_bits > 0) {
                self.target_says_failed(d, out);
                return Ok(());
            }
        }
        let verified = old.replication == ReplicationState::VerifyT
            && old.disk == DiskState::UpToDate
            && peer.conn == Conn84::CONNECTED
            && peer_disk == DiskState::UpToDate;
        if verified {
            // A verify that stops before the end of the device.
            self.finish_verify(d, out);
            self.hear_hold(d, &peer, out);
            return Ok(());
        }
        let stale = old.peer_disk == DiskState::UpToDate
            && peer_disk == DiskState::Inconsistent
            && conn == Conn84::CONNECTED
            && peer.conn > Conn84(ReplicationState::SyncSource as u8);
        if stale {
            peer_disk = DiskState::UpToDate;
        }
        self.meet(d, &old, &peer, peer_disk, out)
    }

    /// A state that is taken for the end of something may be one sent before that began, and then tells a hold besides,
    /// which 8.4 overlooks.
    fn hear_hold(&mut self, d: usize, peer: &StateWord, out: &mut Vec<Command>) {
        let held = peer.aftr_isp || peer.user_isp;
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v == Some(d) && s.is_replicating() {
                s.resync_suspended.peer = held;
            }
        };
        self.force(&edit, out);
    }

    /// Looks at the generations where that is due, and takes over what the peer says of itself.
    fn meet(
        &mut self,
        d: usize,
        old: &Snapshot,
        peer: &StateWord,
        peer_disk: DiskState,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let conn = old.conn84();
        let mut replication = match conn {
            Conn84::WF_REPORT_PARAMS => ReplicationState::Established,
            _ => old.replication,
        };
        if peer.conn == Conn84(ReplicationState::Ahead as u8) {
            replication = ReplicationState::Behind;
        }
        let connection = self.connection.as_deref_mut().expect("packets come from a peer");
        let peer_device = &mut connection.peer_devices[d];
        let negotiating = old.disk == DiskState::Negotiating || peer.disk == DiskState::Negotiating;
        let starting = (ReplicationState::StartingSyncS as u8..=ReplicationState::WFBitMapT as u8)
            .contains(&peer.conn.0);
        // 8.4 would reconsider in the middle of a resync's beginning, too, and the peer, which did not, would never answer.
        let reconsider = negotiating || starting || peer_device.consider_resync;
        let due = conn < Conn84::CONNECTED
            || (conn == Conn84::CONNECTED && reconsider)
            || peer_takes_its_data(old, peer, peer_disk);
        let both_have_disks = peer.disk.rank() >= DiskState::Negotiating.rank()
            && old.disk.rank() >= DiskState::Negotiating.rank();
        peer_device.consider_resync = false;
        let uuids = peer_device.uuids;
        let appeared = conn == Conn84::CONNECTED && old.peer_disk.rank() < DiskState::Negotiating.rank();
        let unheard = (conn < Conn84::CONNECTED || starting && !negotiating) && uuids.is_none();
        if both_have_disks && (unheard || appeared && !due) {
            return Err(Fault::Retry(UNCOMPARED.to_owned()));
        }
        let mut peer_disk = peer_disk;
        if due && both_have_disks {
            if let Some(uuids) = uuids {
                match self.compare_with_peer(d, &uuids, peer, out)? {
                    Outcome::Go(state) => replication = state,
                    Outcome::PeerStaysDiskless => peer_disk = DiskState::Diskless,
                    Outcome::AttachAborted => return Ok(()),
                }
            }
        }
        if !both_have_disks && old.disk == DiskState::Negotiating && self.lacks_shown_data(d, peer) {
            let text = "The peer lost the disk that has the data in use: this one is older and is given up";
            self.log("generation", Level::Error, self.device_subject(d), text, out);
            self.give_up_disk(d, out);
        }
        self.check_shown_generation(d, old, peer_disk)?;
        // A state told for another reason, before the peer heard of the disk being attached: its generations follow.
        let decided = !both_have_disks || uuids.is_some();
        self.take_over(d, old, peer, (replication, decided), peer_disk, out)
    }

    /// A disk that would be settled uncompared, and whose data is not what the users of a Primary see.
    fn lacks_shown_data(&self, d: usize, peer: &StateWord) -> bool {
        let Some(backing) = self.devices[d].backing.as_deref() else { return false };
        let somebody_primary = self.role == Role::Primary || peer.role == Role::Primary;
        somebody_primary && self.is_not_shown(d, backing.super_block.current_uuid)
    }

    /// A Primary without disk goes on only with the data its users have seen.
    fn check_shown_generation(&self, d: usize, old: &Snapshot, peer_disk: DiskState) -> Result<(), Fault> {
        let device = &self.devices[d];
        let without = old.disk.rank() < DiskState::Negotiating.rank();
        // Connected, these count as UpToDate (`connected_means_up_to_date`); a Negotiating disk is told as Consistent.
        let good = matches!(peer_disk, DiskState::Consistent | DiskState::Outdated | DiskState::UpToDate);
        let becomes_good = old.peer_disk != DiskState::UpToDate && good;
        let told = self.connection.as_deref().and_then(|c| c.peer_devices[d].uuids);
        let differs = told.is_some_and(|u| device.exposed_uuid & !ROLE_BIT != u.current & !ROLE_BIT);
        if old.role == Role::Primary && without && becomes_good && device.exposed_uuid != 0 && differs {
            return Err(Fault::Fatal("Can only connect to data with current UUID".to_owned()));
        }
        Ok(())
    }

    fn take_over(
        &mut self,
        d: usize,
        old: &Snapshot,
        peer: &StateWord,
        (replication, decided): (ReplicationState, bool),
        peer_disk: DiskState,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let was_connecting = old.conn84() < Conn84::CONNECTED;
        let at_attach = self.devices[d].backing.as_deref().map(|b| b.at_attach.0);
        let settles =
            decided && matches!(replication, ReplicationState::Established | ReplicationState::WFBitMapS);
        let peer_held = peer.aftr_isp || peer.user_isp;
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v != Some(d) {
                return;
            }
            s.replication = replication;
            s.peer_role = peer.role;
            s.peer_disk = peer_disk;
            s.resync_suspended.peer = peer_held;
            if settles && s.disk == DiskState::Negotiating {
                s.disk = at_attach.unwrap_or(DiskState::Inconsistent);
            }
        };
        let mode = if was_connecting { Mode::Soft } else { Mode::Hard };
        // Soft judgement must not see the handshake's own lock.
        let locked = self.last_volume_of_handshake(d);
        match self.change(mode, &edit, out) {
            Ok(_) => {}
            Err(reason) => return Err(Fault::Fatal(format!("The peer's state does not fit ours: {reason}"))),
        }
        if was_connecting {
            self.diskless_size_of_accepted(d, out)?;
        }
        if locked && was_connecting {
            self.handshake_over(out);
        }
        let now = self.snapshot(Some(d));
        let undecided = peer.conn <= Conn84::CONNECTED && peer.disk != DiskState::Negotiating;
        if old.conn84() > Conn84::WF_REPORT_PARAMS
            && now.conn84() > Conn84::CONNECTED
            && undecided
            && old.conn84() != now.conn84()
        {
            self.send_uuids(d, out);
            self.send_state(d, out);
        } else if old.conn84() > Conn84::WF_REPORT_PARAMS
            && peer.disk == DiskState::Negotiating
            && !is_peer_attached(old, &now)
        {
            // Its disk does not count for this node, but it waits for our word.
            self.send_uuids(d, out);
            self.send_state(d, out);
        }
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.peer_devices[d].discard_my_data = false;
        }
        if old.conn84() == Conn84::CONNECTED
            && peer.conn == Conn84::WF_REPORT_PARAMS
            && peer.disk == DiskState::Diskless
        {
            // The peer made its volume anew, and what this node took for its greeting was the end of the one before.
            self.greet_again(d, out);
            self.send_state(d, out);
        }
        if now.replication == ReplicationState::WFBitMapT {
            self.resend_reported(d, out);
        }
        self.begin_as_decided(d, old, &now);
        Ok(())
    }

    /// Every other volume has left the handshake.
    fn last_volume_of_handshake(&self, d: usize) -> bool {
        let Some(connection) = self.connection.as_deref() else { return false };
        connection
            .peer_devices
            .iter()
            .enumerate()
            .all(|(v, p)| v == d || p.made_in_session || p.replication != ReplicationState::Off)
    }

    fn handshake_over(&mut self, out: &mut Vec<Command>) {
        if let Some(connection) = self.connection.as_deref_mut() {
            connection.last_error.clear();
            connection.tentative = false;
            if let Some(session) = connection.session_mut() {
                session.state_sent = false;
            }
        }
        self.admin.state_changed = true;
        self.notify_changes(out);
    }

    // ---- concluding ----------------------------------------------------------------------------------------------

    fn compare_with_peer(
        &mut self,
        d: usize,
        uuids: &Uuids,
        peer: &StateWord,
        out: &mut Vec<Command>,
    ) -> Result<Outcome, Fault> {
        let Some(set) = self.generations(d) else { return Ok(Outcome::Go(ReplicationState::Established)) };
        let context = self.compare_context(d, peer);
        let strategy = set.compare(uuids, &context).strategy;
        if matches!(strategy, Strategy::SplitBrain | Strategy::SplitBrainDisconnect) {
            self.tell_attaching_peer_first(d, peer, out);
        }
        let connection = self.connection.as_deref().expect("packets come from a peer");
        let session = connection.session().expect("packets come in a session");
        let backing = self.devices[d].backing.as_deref().expect("has generations");
        let options = &connection.options;
        let input = SyncInput {
            resource: &self.name,
            own: &set,
            peer: uuids,
            context,
            disk: self.devices[d].disk,
            disk_at_attach: backing.at_attach.0,
            peer_disk: peer.disk,
            policies: SplitBrainPolicies {
                nobody_primary: match SplitBrainPolicy::from_option(&options.after_sb_0pri) {
                    SplitBrainPolicy::Disconnect if self.planted(Bug::PolicyNotAsked) => {
                        SplitBrainPolicy::DiscardLeastChanges
                    }
                    policy => policy,
                },
                one_primary: SplitBrainPolicy::from_option(&options.after_sb_1pri),
                both_primary: SplitBrainPolicy::from_option(&options.after_sb_2pri),
            },
            always_asbp: options.always_asbp,
            rr_conflict: RoleResyncConflict::from_option(&options.rr_conflict),
            discard_my_data: connection.peer_devices[d].discard_my_data,
            announced_bits: connection.peer_devices[d].bits_told,
            tentative: connection.tentative,
            peer_tentative: session.peer_tentative,
        };
        let decision = decide(&input);
        let primary_target =
            matches!(decision.action, Action::Fail { reason: FailReason::TargetPrimary, .. });
        if primary_target && self.is_frozen() && self.options.outdated_gives_way {
            self.give_way(out);
            return self.compare_with_peer(d, uuids, peer, out);
        }
        self.devices[d].overtaken |= match decision.action {
            // What is Inconsistent nobody has used.
            Action::Fail { reason, .. } => {
                reason != FailReason::Tentative && peer.disk != DiskState::Inconsistent
            }
            Action::Target { .. } => true,
            Action::None | Action::Source { .. } => false,
        };
        if let Some(outcome) = self.protect_shown_data(d, &decision.action, peer, out) {
            return Ok(outcome);
        }
        self.act_on(d, *uuids, set, (&decision, peer.role), out)
    }

    fn compare_context(&self, d: usize, peer: &StateWord) -> CompareContext {
        let connection = self.connection.as_deref().expect("packets come from a peer");
        let session = connection.session().expect("packets come in a session");
        CompareContext {
            agreed_version: session.version,
            long_sizes: session.has(feature::LONG_SIZES),
            role: self.role,
            peer_role: peer.role,
            crashed_primary: self.devices[d].backing.as_deref().is_some_and(|b| b.crashed_primary),
            resolve_conflicts: session.resolve_conflicts,
        }
    }

    /// The policies for split brain look at roles and marked blocks, and acting on them changes both here. A peer that
    /// attaches compares later than this node: it has to see what this node saw, or both might become target.
    fn tell_attaching_peer_first(&mut self, d: usize, peer: &StateWord, out: &mut Vec<Command>) {
        if peer.disk == DiskState::Negotiating && self.is_replicating(d) {
            self.send_uuids(d, out);
            self.send_state(d, out);
        }
    }

    /// A Primary without disk shows its users the other node's data. A disk it attaches then never replaces that data, though
    /// a policy for split brain says so (`after-sb-1pri discard-secondary`) and 8.4 would do it.
    fn protect_shown_data(
        &mut self,
        d: usize,
        action: &Action,
        peer: &StateWord,
        out: &mut Vec<Command>,
    ) -> Option<Outcome> {
        let now = self.snapshot(Some(d));
        let attaches = now.disk == DiskState::Negotiating && now.role == Role::Primary;
        let peer_attaches = peer.disk == DiskState::Negotiating && peer.role == Role::Primary;
        let connected = now.replication == ReplicationState::Established;
        let outcome = match action {
            Action::Source { .. } if connected && attaches && self.lacks_shown_data(d, peer) => {
                Outcome::AttachAborted
            }
            Action::Target { .. } if connected && peer_attaches && now.disk == DiskState::UpToDate => {
                Outcome::PeerStaysDiskless
            }
            Action::Source { .. } | Action::Target { .. } | Action::None | Action::Fail { .. } => {
                return None
            }
        };
        let text = "What a Primary without disk shows would be replaced by the older data of the disk being attached: it is \
                    given up (attach it on a Secondary, or after drbdadm create-md)";
        self.log("generation", Level::Error, self.device_subject(d), text, out);
        if matches!(outcome, Outcome::AttachAborted) {
            self.give_up_disk(d, out);
        }
        Some(outcome)
    }

    fn act_on(
        &mut self,
        d: usize,
        mut uuids: Uuids,
        mut set: super::generation::GenerationSet,
        (decision, peer_role): (&Decision, Role),
        out: &mut Vec<Command>,
    ) -> Result<Outcome, Fault> {
        let subject = self.peer_device_subject(d);
        let as_at_freeze = self.is_peer_as_at_freeze(d, uuids.current);
        for (level, text) in &decision.log {
            self.log("sync-handshake", *level, subject.clone(), text.clone(), out);
        }
        self.log("sync-decision", Level::Info, subject, decision.sentence.clone(), out);
        self.last_decision.clone_from(&decision.sentence);
        if let Some(repair) = decision.repair {
            repair.apply(&mut set, &mut uuids);
            self.keep_generations(d, &set);
            self.connection.as_mut().expect("a session").peer_devices[d].uuids = Some(uuids);
            self.write_super_block(d, None, out);
        }
        for name in &decision.handlers {
            self.run_handler(name, Some(d), HandlerOwner::Nobody, out);
        }
        match decision.action {
            Action::None if self.new_area_after_handshake(d, peer_role) => {
                Ok(Outcome::Go(ReplicationState::WFBitMapS))
            }
            Action::None => Ok(Outcome::Go(ReplicationState::Established)),
            Action::Source { full } => {
                self.mark_frozen_log(d, false, out);
                self.mark_all(d, full);
                Ok(Outcome::Go(ReplicationState::WFBitMapS))
            }
            Action::Target { full } => {
                self.mark_frozen_log(d, as_at_freeze, out);
                self.mark_all(d, full);
                Ok(Outcome::Go(ReplicationState::WFBitMapT))
            }
            Action::Fail { reason: _, then } => self.part(d, then, &decision.sentence, out),
        }
    }

    fn mark_all(&mut self, d: usize, full: bool) {
        if let (true, Some(slot)) = (full, self.peer_slot(d)) {
            if let Some(backing) = self.devices[d].backing.as_deref_mut() {
                backing.bitmap.set_all(slot);
            }
        }
    }

    fn part(
        &mut self,
        d: usize,
        then: AfterFailure,
        sentence: &str,
        out: &mut Vec<Command>,
    ) -> Result<Outcome, Fault> {
        match then {
            AfterFailure::AbortAttach => {
                self.give_up_disk(d, out);
                Ok(Outcome::AttachAborted)
            }
            AfterFailure::PeerStaysDiskless => Ok(Outcome::PeerStaysDiskless),
            AfterFailure::Reconnect => Err(Fault::Protocol(sentence.to_owned())),
            AfterFailure::Disconnect => Err(Fault::Fatal(sentence.to_owned())),
        }
    }
}

/// Both have Inconsistent data, and the peer says that its own is good now: it was told to become Primary with it. Mostly
/// its request said so before; that crosses with what it says of an attach here.
fn peer_takes_its_data(old: &Snapshot, peer: &StateWord, peer_disk: DiskState) -> bool {
    let inconsistent = DiskState::Inconsistent;
    old.replication == ReplicationState::Established
        && (old.disk, old.peer_disk) == (inconsistent, inconsistent)
        && (peer.role, peer_disk) == (Role::Primary, DiskState::UpToDate)
}

/// What a comparison leads to.
enum Outcome {
    /// The volume goes on in this state.
    Go(ReplicationState),
    /// The peer's attach is taken for aborted.
    PeerStaysDiskless,
    /// Our own attach was aborted.
    AttachAborted,
}
