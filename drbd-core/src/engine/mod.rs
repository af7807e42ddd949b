//! One resource: all volumes, all peers, and every decision about them.
//!
//! [`Resource::handle`] is the only way in, a list of [`Command`]s the only way out. Between two events everything in
//! `invariants` holds.
//!
//! Reading order: [`event`] and [`command`] (the vocabulary), `resource` (what is remembered), `write_path` (a
//! write's life), `state` with [`state_change`] and `consequences` (how states change), `pairing`, `session` and
//! `handshake` (how two nodes meet), [`generation`] and [`sync_decision`] (who copies to whom), `bitmap_exchange` and
//! `resync` (how), `meta_jobs` (what is on stable storage when), `admin`.

pub mod after_split_brain;
pub mod command;
pub mod device_size;
pub mod event;
pub mod generation;
pub mod planted;
pub mod request_limits;
pub mod session_state;
pub mod state_change;
pub mod sync_decision;

mod activity_log;
mod admin;
mod attach;
mod bitmap;
mod bitmap_exchange;
mod congestion;
mod connection;
mod consequences;
mod data_integrity;
mod device;
mod digests;
mod disk_trouble;
mod fence;
mod freeze;
mod frozen_log;
mod full_sync;
mod generations;
mod hand_over;
mod handshake;
mod invariants;
mod meta_jobs;
mod meta_run;
mod notify;
mod packets;
mod pairing;
mod peer_device;
mod random;
mod read_balancing;
mod repair;
mod resize;
mod resource;
mod resync;
mod resync_order;
mod resync_pace;
mod senseless;
mod session;
mod slab;
mod state;
mod status;
mod super_block_flags;
mod thaw;
mod thin_resync;
mod verify;
mod write_ordering;
mod write_path;

#[cfg(test)]
mod decision_vectors;
#[cfg(test)]
mod tests;

pub use command::*;
pub use event::*;
pub use request_limits::{RequestLimits, RequestPart};
pub use resource::Resource;
pub use thin_resync::ONLY_ZEROES;

use crate::control::{HelperObject, Kind};
use crate::ids::{DiskIoId, HandlerId, Instant, PayloadId, VolumeNumber};
use connection::Link;
use resource::{HandlerOwner, Io, IoOwner};

impl Resource {
    /// Something happened at `now`; what is to be done is appended to `out`. Total: never fails, never blocks.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Command>) {
        self.now = now;
        if self.hand_over.is_given() {
            return self.after_hand_over(event, out);
        }
        match event {
            Event::Upper(request) => self.upper(request, out),
            Event::DiskDone { io, result, payload } => self.disk_done(io, result, payload, out),
            Event::Packet { socket, frame, payload } => self.packet(socket, frame, payload, out),
            Event::Sent { socket, packets } => {
                let data = self.connection.as_ref().and_then(|c| c.session()).map(|s| s.data);
                if data == Some(socket) {
                    self.packets_sent(packets, out);
                }
            }
            Event::Opened { volume } => self.opened(volume, out),
            Event::Closed { volume } => self.closed(volume, out),
            Event::Dialled { socket, .. } => self.dialled(socket, out),
            Event::DialFailed { retry, why, .. } => self.dial_failed(retry, &why, out),
            Event::ListenFailed { why, .. } => self.listen_failed(&why, out),
            Event::Accepted { socket, .. } => self.accepted(socket, out),
            Event::SocketLost { socket, why } => self.socket_lost(socket, why, out),
            Event::Challenge { bytes, .. } => self.challenge(bytes, out),
            Event::Hmac { purpose, digest, .. } => self.hmac(purpose, digest, out),
            Event::Digest { job, digest } => self.digest_done(job, digest, out),
            Event::HandlerExited { handler, status } => self.handler_exited(handler, status, out),
            Event::Admin { ticket, request } => self.administer(ticket, *request, out),
            Event::DiskMeasured { volume, bytes } => self.disk_measured(volume, bytes, out),
            Event::ForeignResync { minor, busy } => self.foreign_resync(minor, busy),
            Event::Timer => self.tick(out),
        }
        self.end_doomed_session(out);
        self.order_resyncs(out);
        self.resize_tick(out);
        self.admin_tick(out);
        self.hand_over_tick(out);
    }

    /// When [`Event::Timer`] is due next.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.hand_over.is_given() {
            return None;
        }
        let connection = self.connection.as_deref();
        let link = connection.and_then(|c| match &c.link {
            Link::Idle => None,
            Link::Waiting { retry_at } => self.is_settled().then_some(*retry_at),
            Link::Pairing(pairing) => pairing.deadline(),
            Link::Session(_) => self.session_deadline(),
        });
        let resyncs = connection.into_iter().flat_map(|c| c.peer_devices.iter());
        let resync = resyncs.filter_map(|p| p.resync.as_deref().map(|r| r.next_tick)).min();
        let verifies = connection.into_iter().flat_map(|c| c.peer_devices.iter());
        let verify = verifies.filter_map(|p| p.verify.as_deref().map(|v| v.next_tick)).min();
        let ahead = connection.and_then(|c| c.peer_devices.iter().filter_map(|p| p.catch_up_at).min());
        let trouble = self.disk_trouble_deadline();
        let resize = self.resize_deadline();
        let hand_over = self.hand_over.deadline();
        let others = [link, resync, verify, ahead, trouble, resize, hand_over, self.admin.deadline()];
        others.into_iter().flatten().min()
    }

    fn tick(&mut self, out: &mut Vec<Command>) {
        self.disk_trouble_tick(out);
        match self.connection.as_deref().map(|c| &c.link) {
            Some(Link::Waiting { retry_at }) if *retry_at <= self.now && self.is_settled() => {
                self.begin_pairing(out);
            }
            Some(Link::Pairing(_)) => self.pairing_tick(out),
            Some(Link::Session(_)) => {
                self.session_tick(out);
                for d in 0..self.devices.len() {
                    self.resync_tick(d, out);
                    self.verify_tick(d, out);
                    self.congestion_tick(d, out);
                }
            }
            Some(Link::Waiting { .. } | Link::Idle) | None => {}
        }
    }

    fn disk_done(&mut self, io: DiskIoId, result: IoResult, payload: PayloadId, out: &mut Vec<Command>) {
        let Io { owner, device: d, .. } = self.ios.remove(io.0);
        self.devices[d].counters.lower_pending -= 1;
        let result = self.judge_flush(d, owner, result, out);
        match owner {
            IoOwner::Request(key) => self.request_or_read_done(key, result, out),
            IoOwner::Peer(key) => self.peer_disk_done(key, result, payload, out),
            IoOwner::EpochFlush { session } => self.epoch_flush_done(d, session, result, out),
            IoOwner::Job(io) => self.job_io_done(d, io, result, out),
            IoOwner::Nobody => Resource::release(payload, out),
        }
        self.close_disk_if_idle(d, out);
    }

    fn request_or_read_done(&mut self, key: u32, result: IoResult, out: &mut Vec<Command>) {
        let read = self.requests[key].op == UpperOp::Read;
        match (read, result) {
            (true, _) if self.requests[key].repairs => self.repaired(key, result, out),
            (true, IoResult::Done) => self.finish_read(key, UpperResult::Done, PayloadId::NONE, out),
            _ => self.request_disk_done(key, result, out),
        }
    }

    fn opened(&mut self, volume: VolumeNumber, out: &mut Vec<Command>) {
        if let Some(d) = self.device_index(volume) {
            self.devices[d].open_count += 1;
            self.notify_changes(out);
        }
    }

    fn closed(&mut self, volume: VolumeNumber, out: &mut Vec<Command>) {
        if let Some(d) = self.device_index(volume) {
            self.devices[d].open_count = self.devices[d].open_count.saturating_sub(1);
            if self.devices.iter().all(|d| d.open_count == 0) {
                self.force_io_failures = false;
            }
            self.admin.state_changed = true;
            self.notify_changes(out);
        }
    }

    fn handler_exited(&mut self, handler: HandlerId, status: i32, out: &mut Vec<Command>) {
        if self.handlers.find(handler.0).is_none() {
            return;
        }
        match self.handlers.remove(handler.0) {
            HandlerOwner::Nobody => {}
            HandlerOwner::BeforeResync { device, session, attempt } => {
                self.resync_prepared(device, (session, attempt), status, out);
            }
            HandlerOwner::FencePeer { sessions } => self.fence_peer_answered(sessions, status, out),
        }
    }

    /// Tells subscribers of a handler call or its end; the shell knows when.
    pub fn helper_event(&mut self, kind: Kind, helper: HelperObject, out: &mut Vec<Command>) {
        self.notify_helper(kind, helper, out);
    }
}
