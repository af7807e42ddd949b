//! A Primary that the link cannot follow, and that is configured not to wait for it (`on-congestion`, protocol A).
//!
//! `pull-ahead`: from here on writes are marked instead of mirrored, and the peer is told which blocks (the states
//! Ahead and Behind). When the peer has everything that was mirrored before, the marked blocks are resynced; both know
//! the bits already, so no bitmaps are exchanged. `disconnect`: the peer is let go.
//!
//! Reference: 7.9 of the wire reference.

use super::command::{Command, Level};
use super::meta_jobs::{Job, ResyncStep};
use super::resource::Resource;
use super::state::Mode;
use super::state_change::Snapshot;
use crate::config::OnCongestion;
use crate::states::{DiskState, Protocol, ReplicationState};

/// The peer has caught up with what was mirrored: so long nothing is resynced, in case it goes on.
const REST_MS: u64 = 1000;
/// Something was still under way: look again.
const AGAIN_MS: u64 = 100;

impl Resource {
    /// A write is about to be mirrored: whether the link can still follow.
    pub(super) fn look_at_congestion(&mut self, d: usize, out: &mut Vec<Command>) {
        if !self.is_congested(d) {
            return;
        }
        let connection = self.connection.as_mut().expect("only a connection is congested");
        match connection.options.on_congestion {
            OnCongestion::Block => {}
            OnCongestion::Disconnect => {
                let text = "The link to the peer is congested (on-congestion disconnect)";
                self.log("congestion", Level::Warning, self.peer_subject(), text, out);
                self.disconnect_now(out);
            }
            OnCongestion::PullAhead => self.pull_ahead(d, out),
        }
    }

    fn is_congested(&self, d: usize) -> bool {
        let Some(connection) = self.connection.as_deref() else { return false };
        let options = &connection.options;
        // The peer may have changed the protocol.
        if options.on_congestion == OnCongestion::Block
            || options.protocol != Protocol::A
            || connection.session().is_none_or(|s| s.version < 96)
            || connection.peer_devices[d].replication != ReplicationState::Established
            || self.devices[d].disk != DiskState::UpToDate
        {
            return false;
        }
        let filled = options.congestion_fill > 0 && connection.log_sectors >= options.congestion_fill;
        let extents = self.devices[d].backing.as_deref().map_or(0, |b| b.log.referenced());
        filled || extents >= options.congestion_extents
    }

    fn pull_ahead(&mut self, d: usize, out: &mut Vec<Command>) {
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v == Some(d) {
                s.replication = ReplicationState::Ahead;
            }
        };
        // Refused where the states do not fit: then it is mirrored like any other.
        if self.change(Mode::Soft, &edit, out) != Ok(true) {
            return;
        }
        let text = "Congestion-fill threshold reached; pulling ahead of the peer";
        self.log("congestion", Level::Info, self.peer_device_subject(d), text, out);
        self.send_owed_barrier(out);
        self.send_state(d, out);
        self.look_for_drained_log();
    }

    /// The peer acknowledged a barrier, or there never was one to wait for: is everything mirrored stable?
    pub(super) fn look_for_drained_log(&mut self) {
        let at = self.now.plus_ms(REST_MS);
        let Some(connection) = self.connection.as_deref_mut() else { return };
        if !connection.transfer_log.is_empty() {
            return;
        }
        connection.forget_outrun_log();
        for peer_device in &mut connection.peer_devices {
            if peer_device.replication == ReplicationState::Ahead && peer_device.catch_up_at.is_none() {
                peer_device.catch_up_at = Some(at);
            }
        }
    }

    /// Timer: the peer is to catch up.
    pub(super) fn congestion_tick(&mut self, d: usize, out: &mut Vec<Command>) {
        let now = self.now;
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let idle = connection.transfer_log.is_empty();
        let peer_device = &mut connection.peer_devices[d];
        if peer_device.catch_up_at.is_none_or(|at| at > now) {
            return;
        }
        if !idle || peer_device.counters.unacked > 0 {
            peer_device.catch_up_at = Some(now.plus_ms(AGAIN_MS));
            return;
        }
        peer_device.catch_up_at = None;
        if peer_device.replication == ReplicationState::Ahead {
            self.get_ahead_of_peer(d, out);
            // Everything marked is kept first, so that a crash of this node leaves no block forgotten.
            let job = Job::marks(self.when_resync_may(d, ResyncStep::AheadBitmapStable));
            self.meta_job(d, job, out);
        }
    }

    /// The marks are kept: the resync may begin.
    pub(super) fn ahead_bitmap_stable(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.snapshot(Some(d)).replication != ReplicationState::Ahead {
            return;
        }
        self.prepare_resync(d, "before-resync-source", out);
    }
}
