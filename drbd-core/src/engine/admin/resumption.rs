//! A daemon begins again where one died as Primary, and requests of users wait for it: whether they go on (decision 0036).
//!
//! What these users have seen is what this node's disks had when the daemon died. They go on where that is still all there
//! is: with the peer Secondary and not ahead, or out of reach, as for a Primary that loses it. Once somebody else may have
//! written they never do.

use super::{done, Promotion, Want};
use crate::engine::command::{Command, Level};
use crate::engine::planted::Bug;
use crate::engine::resource::Resource;
use crate::engine::state_change::FencingPolicy;
use crate::ids::{Instant, Ticket};
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};

/// What a connection takes, beside the peer's ping-timeout: the second a peer waits that saw its connection fail, and the
/// dials of both nodes.
const CONNECT_MS: u64 = 2000;

/// A resumption that waits for the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resumption {
    ticket: Ticket,
    /// Then it goes on without. `None`: the peer could not be fenced, and requests are frozen until it is, or is back.
    pub(super) until: Option<Instant>,
}

impl Resource {
    /// The peer is waited for as long as it may need to be found.
    pub(super) fn resume_primary(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        self.give_up_resumption(out);
        let ping_timeout_ms = self.connection.as_ref().map_or(0, |c| c.options.ping_timeout_ds * 100);
        let until = Some(self.now.plus_ms(ping_timeout_ms + CONNECT_MS));
        self.admin.resumption = Some(Resumption { ticket, until });
        self.continue_resumption(out);
    }

    /// From here on it is a promotion like any other, except for what [`Resource::cannot_resume`] says.
    pub(super) fn continue_resumption(&mut self, out: &mut Vec<Command>) {
        let Some(Resumption { ticket, until }) = self.admin.resumption else { return };
        if self.role == Role::Primary {
            self.admin.resumption = None;
            return self.reply(ticket, Ok(done(false)), out);
        }
        let want = Want::promotion(Promotion::Resumed);
        if let Some((reason, _)) = self.cannot_resume() {
            self.admin.resumption = None;
            return self.refuse(ticket, want, reason, out);
        }
        let goes_on = match until {
            Some(at) => at <= self.now || self.is_peer_found() || self.is_without_peer(),
            None => self.is_peer_found() || self.peer_is_fenced(),
        };
        if goes_on {
            self.admin.resumption = None;
            self.want(ticket, want, out);
        }
    }

    /// Somebody else may have written what this node's users have not seen, or nothing here tells whether.
    pub(super) fn cannot_resume(&self) -> Option<(Reason, &'static str)> {
        if self.planted(Bug::ResumedOverPeersData) {
            return None;
        }
        if self.connection.as_ref().is_some_and(|c| c.peer_role == Role::Primary) {
            return Some((Reason::TwoPrimaries, "the peer is Primary"));
        }
        if self.devices.iter().any(|device| device.overtaken) {
            let text = "the peer has data that this node has not: it was Primary, or a copy was put back";
            return Some((Reason::NoUpToDateDisk, text));
        }
        self.devices.iter().find_map(|device| match device.disk {
            DiskState::Consistent | DiskState::UpToDate | DiskState::Attaching | DiskState::Negotiating => None,
            DiskState::Outdated => Some((Reason::NoUpToDateDisk, "this node's data are outdated")),
            DiskState::Inconsistent => Some((Reason::NoUpToDateDisk, "this node's data are Inconsistent")),
            DiskState::Diskless | DiskState::Detaching | DiskState::Failed | DiskState::DUnknown => {
                let text = "without a disk of its own this node cannot tell whether the peer's data are still those that \
                            its users have seen";
                Some((Reason::NoUpToDateDisk, text))
            }
        })
    }

    /// A sentence for the refusal.
    pub(super) fn why_not_resumed(&self, reason: Reason) -> String {
        match (self.cannot_resume(), reason) {
            (Some((_, text)), _) => text.to_owned(),
            (None, Reason::InTransientState) => self.volumes_only_here(),
            (None, Reason::NoUpToDateDisk | Reason::PrimaryNop) => {
                "the peer is out of reach, and fence-peer did not say that its data are outdated".to_owned()
            }
            (None, _) => String::new(),
        }
    }

    /// In touch, and who copies to whom is settled.
    fn is_peer_found(&self) -> bool {
        let settled = |replication: ReplicationState| {
            !matches!(
                replication,
                ReplicationState::Off
                    | ReplicationState::StartingSyncS
                    | ReplicationState::StartingSyncT
                    | ReplicationState::WFBitMapS
                    | ReplicationState::WFBitMapT
                    | ReplicationState::WFSyncUUID
            )
        };
        let connection = self.connection.as_deref().filter(|c| c.state == ConnectionState::Connected);
        connection.is_some_and(|c| c.peer_devices.iter().all(|p| settled(p.replication)))
    }

    /// It is to have none, or they do not go together: nobody will come.
    fn is_without_peer(&self) -> bool {
        self.connection_state() == ConnectionState::StandAlone
    }

    /// The handler takes as long as it takes: a Primary that lost its peer would be frozen meanwhile, or go on.
    pub(super) fn waits_for_fencing(&self) -> bool {
        self.freeze.fencing && !self.is_connected_everywhere()
    }

    /// A Primary that lost its peer and could not have it fenced stays frozen under that policy, and fails nothing.
    pub(super) fn stays_frozen(&self) -> bool {
        let alone = self.connection_state() != ConnectionState::Connected;
        alone && self.fencing_policy() == FencingPolicy::ResourceAndStonith && !self.peer_is_fenced()
    }

    /// The same for one that is to be Primary again.
    pub(super) fn wait_for_peer_or_fence(&mut self, ticket: Ticket, out: &mut Vec<Command>) {
        let text =
            "Requests stay frozen: the peer is out of reach and not fenced. They go on when it is back; \
                    `primary --force` does without it, `secondary --force` has them fail";
        self.log("resumption", Level::Warning, self.name.clone(), text, out);
        self.admin.resumption = Some(Resumption { ticket, until: None });
    }

    /// An administrator wants this node to be Secondary.
    pub(super) fn give_up_resumption(&mut self, out: &mut Vec<Command>) {
        let waiting = self.admin.resumption.take().map(|resumption| resumption.ticket);
        let resumed = |want: Want| matches!(want, Want::Primary { asked: Promotion::Resumed, .. });
        let queued = self.admin.waiting.iter().position(|waiting| resumed(waiting.want));
        let queued = queued.and_then(|at| self.admin.waiting.remove(at)).map(|waiting| waiting.ticket);
        for ticket in waiting.into_iter().chain(queued) {
            let refusal = Refusal::because(Reason::Interrupted, "an administrator wants this node Secondary");
            self.reply(ticket, Err(refusal), out);
        }
    }
}
