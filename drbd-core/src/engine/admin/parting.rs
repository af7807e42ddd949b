//! Parting from the peer in an orderly way (4.5 of the wire reference).
//!
//! Where a fencing policy keeps a Primary from losing a peer whose data could be taken for good, the one that is not
//! Primary becomes Outdated as they part: a Primary asks that of its peer; a Secondary whose peer refuses to be left
//! like that offers it.

use super::{done, Want};
use crate::engine::command::Command;
use crate::engine::resource::Resource;
use crate::engine::state::Mode;
use crate::engine::state_change::Snapshot;
use crate::ids::{NodeId, Ticket};
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, ReplicationState};

/// Whose data is Outdated with the end of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outdates {
    Nobody,
    Peer,
    This,
}

/// What the peer wants as it parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerParts {
    /// This node is to be Outdated.
    pub(super) outdate_this: bool,
    /// The peer will be.
    pub(super) outdate_peer: bool,
}

impl Outdates {
    /// The state of a volume once the nodes have parted. Data that cannot become Outdated is refused, and then they part
    /// without; that of a volume the peer does not have concerns nobody.
    pub(super) fn edit(self, s: &mut Snapshot) {
        let shared = s.is_replicating();
        s.connection = ConnectionState::Disconnecting;
        s.replication = ReplicationState::Off;
        match self {
            Outdates::Nobody => {}
            // What is known to be worse stays so.
            Outdates::Peer if s.peer_disk == DiskState::Inconsistent => {}
            Outdates::Peer => s.peer_disk = DiskState::Outdated,
            Outdates::This if !shared && !can_be_outdated(s.disk) => {}
            Outdates::This => s.disk = DiskState::Outdated,
        }
    }
}

fn can_be_outdated(disk: DiskState) -> bool {
    disk.rank() >= DiskState::Outdated.rank()
}

impl PeerParts {
    fn edit(self, s: &mut Snapshot) {
        s.connection = ConnectionState::TearDown;
        s.replication = ReplicationState::Off;
        if self.outdate_this && can_be_outdated(s.disk) {
            s.disk = DiskState::Outdated;
        }
        if self.outdate_peer {
            s.peer_disk = DiskState::Outdated;
        }
    }
}

impl Resource {
    pub(super) fn disconnect(&mut self, ticket: Ticket, peer: NodeId, force: bool, out: &mut Vec<Command>) {
        if let Err(refusal) = self.peer(peer).map(|_| ()) {
            self.reply(ticket, Err(refusal), out);
        } else if self.connection_state() == ConnectionState::StandAlone {
            self.reply(ticket, Ok(done(false)), out);
        } else if force || self.connection_state() != ConnectionState::Connected {
            self.disconnect_now(out);
            self.reply(ticket, Ok(done(true)), out);
        } else {
            self.want(ticket, Want::Disconnect { outdates: Outdates::Nobody }, out);
        }
    }

    pub(super) fn try_disconnect(
        &mut self,
        ticket: Ticket,
        outdates: Outdates,
        out: &mut Vec<Command>,
    ) -> Result<(), Reason> {
        if self.connection_state() == ConnectionState::StandAlone {
            // It came to that while this request waited.
            self.reply(ticket, Ok(done(false)), out);
            return Ok(());
        }
        let mut result = self.ask_or_do(ticket, Want::Disconnect { outdates }, out);
        if (result, outdates) == (Err(Reason::PrimaryNop), Outdates::Nobody) {
            result = self.ask_or_do(ticket, Want::Disconnect { outdates: Outdates::Peer }, out);
        }
        match result {
            // No data here that could be taken for good; or the connection is gone already.
            Err(Reason::IsDiskless | Reason::LowerThanOutdated | Reason::Interrupted) => {
                self.disconnect_now(out);
                self.reply(ticket, Ok(done(true)), out);
                Ok(())
            }
            result => result,
        }
    }

    /// Both nodes agreed to part.
    pub(super) fn carry_out_parting(&mut self, ticket: Ticket, outdates: Outdates, out: &mut Vec<Command>) {
        let edit = |_: Option<usize>, s: &mut Snapshot| {
            // It may have been lost while the peer was asked.
            let worse = Some(s.disk).filter(|&disk| !can_be_outdated(disk));
            outdates.edit(s);
            s.disk = worse.unwrap_or(s.disk);
        };
        self.force(&edit, out);
        self.disconnect_now(out);
        self.reply(ticket, Ok(done(true)), out);
    }

    /// The session ended before the peer answered. It may have agreed: what this node offered counts, what the peer was to
    /// become is not known.
    pub(super) fn part_without_answer(&mut self, ticket: Ticket, outdates: Outdates, out: &mut Vec<Command>) {
        let outdates = match outdates {
            Outdates::This => Outdates::This,
            Outdates::Peer | Outdates::Nobody => Outdates::Nobody,
        };
        self.carry_out_parting(ticket, outdates, out);
    }

    /// The peer is being asked to part: it closes the streams once it has answered.
    pub(in crate::engine) fn asks_to_part(&self) -> bool {
        self.admin.asking.is_some_and(|asking| matches!(asking.want, Want::Disconnect { .. }))
    }

    /// `down` cannot go on: the peer refuses to be left.
    pub(super) fn down_refused(&mut self, refusal: &Refusal, out: &mut Vec<Command>) {
        if let Some(ticket) = self.admin.down.take() {
            let info = format!("failed to disconnect: {}", refusal.info);
            self.reply(ticket, Err(Refusal::because(refusal.reason, info)), out);
        }
    }

    /// Whether the peer may leave, as the number of its reply.
    pub(super) fn judge_parting(&self, parts: PeerParts) -> i32 {
        match self.propose(Mode::Soft, &|_, s| parts.edit(s)) {
            // A handshake under way has nothing to keep it for.
            Ok(_) | Err(Reason::InTransientState) => 1,
            Err(reason) => reason.number(),
        }
    }

    /// The peer was told that it may leave.
    pub(super) fn let_peer_part(&mut self, parts: PeerParts, out: &mut Vec<Command>) {
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.tear_down = true;
        }
        if parts.outdate_this || parts.outdate_peer {
            self.force(&|_, s| parts.edit(s), out);
        }
        self.tear_down(out);
    }
}
