//! The NBD server: one unix socket per volume and perhaps a TCP port for all of them, any number of connections, each a
//! session once it was let in.
//!
//! Reads of more than 1 MiB are answered in chunks as they come in; a client without structured replies, or one that
//! says "don't fragment", gets them whole. A flush on one connection covers all, because order is the engine's.

use super::nbd_negotiation::{greeting, Negotiation, Step};
use super::nbd_offer::{Door, Offer};
use super::nbd_session::{Part, Phase, Session, EXTENDED_REQUEST_BYTES};
use super::nbd_settings::Tls;
use super::tls_worker::{Handover, TlsWorker};
use super::{Gate, UpperTable, Waiting};
use crate::event_loop::Source;
use crate::ring::{Op, Ring};
use crate::stream::{Pools, Received, SocketStream};
use drbd_core::engine::{UpperRequest, UpperResult};
use drbd_core::ids::{Instant, PayloadId, Sector, VolumeNumber};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::VecDeque;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Connections at a time, all volumes together.
const SESSIONS_MAX: usize = 256;
/// What of these answers may be other than data: it comes from what peers and all connections share.
const UNREAD_HEADS_BYTES_MAX: usize = 256 << 10;
/// Connections at a time that have not opened anything yet: one more, and the oldest is broken off, so that those who
/// say nothing keep nobody out.
const UNOPENED_MAX: usize = 64;
/// How long a connection may take until it has opened something, or begun TLS.
const UNOPENED_NS: u64 = 30_000_000_000;
/// Answers to options a client may leave unread before no more of them are looked at.
const UNREAD_OPTIONS_BYTES_MAX: usize = 64 << 10;
/// The port's place among the listeners.
const PORT_SLOT: u32 = u32::MAX;
/// Requests of one session under way.
const SESSION_REQUESTS_MAX: usize = 1024;
/// Answers a client may leave unread before no more of its requests are taken: it must not hold all buffers.
const UNREAD_BYTES_MAX: usize = 16 << 20;

/// What came of looking at a session.
#[derive(Debug)]
pub(crate) enum Next {
    /// Ask the engine.
    Upper(UpperRequest),
    /// A session began.
    Opened(VolumeNumber),
    /// A session ended, nothing of it is outstanding.
    Closed(VolumeNumber),
    /// The kernel's session ended, from one side or the other.
    KernelLeft(VolumeNumber),
    /// Nothing now.
    Wait,
}

/// How the server is reached beside the sockets of the volumes.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Of the volumes.
    pub(crate) resource: String,
    /// The port.
    pub(crate) port: Option<TcpListener>,
    /// Whether TLS may or has to be used.
    pub(crate) tls: Tls,
    /// Who does it, unless it is off.
    pub(crate) worker: Option<TlsWorker>,
}

#[derive(Debug)]
struct Export {
    volume: VolumeNumber,
    listener: UnixListener,
    size: Sector,
    closing: bool,
}

/// All exports and their sessions.
#[derive(Debug, Default)]
pub(crate) struct NbdServer {
    reach: Reach,
    exports: Vec<Option<Export>>,
    sessions: Vec<Option<Session>>,
    dirty: Vec<u32>,
    stalled: Vec<u32>,
    answer: Vec<u8>,
    /// Nothing new is taken for the moment.
    held: bool,
    /// Where somebody knocked meanwhile.
    knocked: Vec<u32>,
    /// Connections that have not opened anything yet, oldest first, and until when they may.
    unopened: VecDeque<(u32, Instant)>,
}

impl NbdServer {
    /// Nothing is served yet; whoever comes by the port is told so.
    pub(crate) fn new(reach: Reach, ring: &mut Ring) -> NbdServer {
        let mut server = NbdServer { reach, ..NbdServer::default() };
        server.listen(PORT_SLOT, ring);
        server
    }

    /// Serves a volume on a listening socket.
    pub(crate) fn export(&mut self, volume: VolumeNumber, listener: UnixListener, ring: &mut Ring) {
        let slot = free_slot(&mut self.exports);
        self.exports[slot] = Some(Export { volume, listener, size: Sector(0), closing: false });
        self.listen(slot as u32, ring);
    }

    /// Serves the kernel at the other end of a socket, for whom there is neither greeting nor negotiation.
    pub(crate) fn serve_kernel(
        &mut self,
        volume: VolumeNumber,
        fd: OwnedFd,
        ring: &mut Ring,
        pools: &mut Pools,
    ) {
        let mut exports = self.exports.iter().flatten();
        let Some(size) = exports.find(|e| e.volume == volume && !e.closing).map(|e| e.size) else { return };
        let Some((slot, mut stream)) = self.stream(fd, pools) else { return };
        stream.arm(ring, None);
        self.sessions[slot] = Some(Session::of_kernel(volume, stream, size));
    }

    /// Whether a session is the kernel's.
    pub(crate) fn is_kernel(&self, slot: u32) -> bool {
        self.sessions.get(slot as usize).is_some_and(|s| s.as_ref().is_some_and(|s| s.kernel))
    }

    /// Takes nothing new: clients are sent away, and the kernel and whoever comes wait.
    pub(crate) fn hold(&mut self, held: bool, ring: &mut Ring, pools: &mut Pools) {
        self.held = held;
        if !held {
            for slot in std::mem::take(&mut self.knocked) {
                self.listen(slot, ring);
            }
        }
        for slot in 0..self.sessions.len() {
            match &self.sessions[slot] {
                Some(session) if session.kernel => self.stalled.push(slot as u32),
                Some(_) if held => self.end(slot as u32, pools),
                Some(_) | None => {}
            }
        }
    }

    /// Whether only the kernel is connected.
    pub(crate) fn has_no_clients(&self) -> bool {
        self.sessions.iter().flatten().all(|session| session.kernel)
    }

    /// A volume has another size: the kernel's connection goes on with it, others learn it when they open.
    pub(crate) fn resized(&mut self, volume: VolumeNumber, size: Sector) {
        for export in self.exports.iter_mut().flatten().filter(|e| e.volume == volume) {
            export.size = size;
        }
        for session in self.sessions.iter_mut().flatten().filter(|s| s.volume == volume && s.kernel) {
            session.size = size;
        }
    }

    /// Stops serving a volume and ends its sessions, but for the kernel's: it is told by other means, and then ends it.
    pub(crate) fn withdraw(&mut self, volume: VolumeNumber, ring: &mut Ring, pools: &mut Pools) {
        for (slot, entry) in self.exports.iter_mut().enumerate() {
            if let Some(export) = entry.as_mut().filter(|e| e.volume == volume && !e.closing) {
                export.closing = true;
                ring.cancel(Source::NbdListen.token(slot as u32));
            }
        }
        self.knocked.retain(|&slot| {
            let waits =
                self.exports.get(slot as usize).is_none_or(|e| e.as_ref().is_some_and(|e| !e.closing));
            if !waits {
                self.exports[slot as usize] = None;
            }
            waits
        });
        for slot in 0..self.sessions.len() {
            let of_it = |s: &Session| s.volume == volume && (s.opened || s.door != Door::Port) && !s.kernel;
            if self.sessions[slot].as_ref().is_some_and(of_it) {
                self.end(slot as u32, pools);
            }
        }
    }

    /// Someone connects.
    pub(crate) fn on_listener(&mut self, slot: u32, now: Instant, ring: &mut Ring, pools: &mut Pools) {
        let export = self.exports.get_mut(slot as usize);
        if let Some(export) = export {
            export.take_if(|export| export.closing);
        }
        if self.held {
            self.knocked.push(slot);
            return;
        }
        if slot == PORT_SLOT {
            self.on_port(now, ring, pools);
        } else {
            self.on_socket(slot, now, ring, pools);
        }
        self.listen(slot, ring);
    }

    fn listen(&mut self, slot: u32, ring: &mut Ring) {
        let fd = match self.exports.get(slot as usize) {
            _ if slot == PORT_SLOT => self.reach.port.as_ref().map(TcpListener::as_raw_fd),
            Some(Some(export)) => Some(export.listener.as_raw_fd()),
            Some(None) | None => None,
        };
        if let Some(fd) = fd {
            ring.queue(Source::NbdListen.token(slot), fd, Op::Ready { write: false });
        }
    }

    fn on_socket(&mut self, slot: u32, now: Instant, ring: &mut Ring, pools: &mut Pools) {
        let Some(export) = self.exports[slot as usize].as_ref() else { return };
        let volume = export.volume;
        if let Ok((stream, _)) = export.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.greet(Door::Socket(volume), stream.into(), now, ring, pools);
            }
        }
    }

    fn on_port(&mut self, now: Instant, ring: &mut Ring, pools: &mut Pools) {
        let Some(port) = &self.reach.port else { return };
        if let Ok((stream, _)) = port.accept() {
            if stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_ok() {
                notice_death(&stream);
                self.greet(Door::Port, stream.into(), now, ring, pools);
            }
        }
    }

    fn greet(&mut self, door: Door, fd: OwnedFd, now: Instant, ring: &mut Ring, pools: &mut Pools) {
        let negotiation = Negotiation::default();
        if let Some(session) = self.admit(door, negotiation, fd, now, ring, pools) {
            session.stream.push_bytes(pools, &greeting(), 0);
            session.stream.flush(ring);
        }
    }

    /// Serves a client that has begun TLS, by the worker's end of a pair of sockets.
    pub(crate) fn serve_secured(
        &mut self,
        secured: Handover,
        now: Instant,
        ring: &mut Ring,
        pools: &mut Pools,
    ) {
        let Handover { door, socket, no_zeroes } = secured;
        let gone = |volume| !self.volumes().contains(&volume);
        if matches!(door, Door::Socket(volume) if gone(volume)) {
            return;
        }
        self.admit(door, Negotiation::within_tls(no_zeroes), socket, now, ring, pools);
    }

    /// A connection that has its time to open something. `None`: there are too many, or no memory for one more.
    fn admit(
        &mut self,
        door: Door,
        negotiation: Negotiation,
        fd: OwnedFd,
        now: Instant,
        ring: &mut Ring,
        pools: &mut Pools,
    ) -> Option<&mut Session> {
        if self.unopened.len() >= UNOPENED_MAX {
            self.end_oldest_unopened(pools);
        }
        let (slot, mut stream) = self.stream(fd, pools)?;
        stream.arm(ring, None);
        self.unopened.push_back((slot as u32, Instant(now.0 + UNOPENED_NS)));
        Some(self.sessions[slot].insert(Session::new(door, negotiation, stream)))
    }

    /// When [`on_time`](Self::on_time) is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.unopened.front().map(|(_, until)| *until)
    }

    /// Breaks off who took too long.
    pub(crate) fn on_time(&mut self, now: Instant, pools: &mut Pools) {
        while self.next_deadline().is_some_and(|until| until <= now) {
            self.end_oldest_unopened(pools);
        }
    }

    fn end_oldest_unopened(&mut self, pools: &mut Pools) {
        if let Some((slot, _)) = self.unopened.pop_front() {
            self.end(slot, pools);
        }
    }

    /// It opened something, or is gone.
    fn no_longer_unopened(&mut self, slot: u32) {
        self.unopened.retain(|(unopened, _)| *unopened != slot);
    }

    /// What is served, lowest first.
    fn volumes(&self) -> Vec<VolumeNumber> {
        let exports = self.exports.iter().flatten().filter(|export| !export.closing);
        let mut volumes: Vec<_> = exports.map(|export| export.volume).collect();
        volumes.sort_unstable();
        volumes
    }

    /// A connection's slot and stream; `None`: there are too many.
    fn stream(&mut self, fd: OwnedFd, pools: &mut Pools) -> Option<(usize, SocketStream)> {
        let slot = free_slot(&mut self.sessions);
        let name = slot as u32;
        if slot >= SESSIONS_MAX {
            self.sessions.truncate(SESSIONS_MAX);
            return None;
        }
        let tokens = (Source::NbdReceive.token(name), Source::NbdSend.token(name));
        Some((slot, SocketStream::new(fd, tokens.0, tokens.1, pools)?))
    }

    /// A receive ended; afterwards [`next`](Self::next) is to be called until it says to wait.
    pub(crate) fn on_received(&mut self, slot: u32, result: i32, pools: &mut Pools) {
        let Some(session) = self.sessions[slot as usize].as_mut() else { return };
        match session.stream.on_received(result) {
            Received::Bytes { bulk } => session.bulk_arrived(bulk),
            // What was asked before is still carried out: a client may shut its side down and read on.
            Received::End if session.phase == Phase::Open && !session.stream.is_closing() => {
                session.finish_reading(pools);
                self.mark_dirty(slot);
            }
            Received::End | Received::Failed(_) => self.end(slot, pools),
        }
    }

    /// A send ended.
    pub(crate) fn on_sent(&mut self, slot: u32, result: i32, ring: &mut Ring, pools: &mut Pools) {
        let Some(session) = self.sessions[slot as usize].as_mut() else { return };
        match session.stream.on_sent(result, pools) {
            Ok(_) => session.stream.flush(ring),
            Err(_) => self.end(slot, pools),
        }
    }

    /// Hands the answers since the last call to the kernel, one vectored send per session.
    pub(crate) fn flush(&mut self, ring: &mut Ring) {
        for slot in self.dirty.drain(..) {
            if let Some(session) = self.sessions[slot as usize].as_mut() {
                session.dirty = false;
                session.stream.flush(ring);
            }
        }
    }

    /// Sessions that waited for a buffer or a free request.
    pub(crate) fn take_stalled(&mut self, into: &mut Vec<u32>) {
        into.append(&mut self.stalled);
        for slot in into.iter() {
            if let Some(session) = self.sessions[*slot as usize].as_mut() {
                session.stalled = false;
            }
        }
    }

    /// The next thing a session wants.
    pub(crate) fn next(
        &mut self,
        slot: u32,
        gate: &dyn Gate,
        ring: &mut Ring,
        pools: &mut Pools,
        uppers: &mut UpperTable,
    ) -> Next {
        loop {
            let Some(session) = self.sessions[slot as usize].as_mut() else { return Next::Wait };
            if self.held && session.kernel {
                // Looked at again when it is not held any more.
                return Next::Wait;
            }
            if session.stream.is_closing() || session.phase == Phase::Ending {
                return self.reap(slot, pools);
            }
            if session.stream.is_receiving() {
                return Next::Wait;
            }
            if session.phase == Phase::Leaving {
                return self.hand_over(slot, pools);
            }
            if session.phase == Phase::Negotiating {
                if session.stream.queued_bytes() > UNREAD_OPTIONS_BYTES_MAX {
                    // Looked at again when a send ends.
                    return Next::Wait;
                }
                match self.negotiate(slot, gate, ring, pools) {
                    Some(next) => return next,
                    None => continue,
                }
            }
            if session.is_asking() {
                let limits = gate.limits(session.volume);
                match session.next_part(slot, &limits, ring, pools, uppers) {
                    Part::Ask(upper) => return Next::Upper(upper),
                    Part::Receive => return Next::Wait,
                    Part::Stalled => return self.stall(slot),
                    Part::Skipped => {
                        self.mark_dirty(slot);
                        continue;
                    }
                }
            }
            let stream = &session.stream;
            if stream.queued_bytes() > UNREAD_BYTES_MAX || stream.queued_head_bytes() > UNREAD_HEADS_BYTES_MAX
            {
                // Looked at again when a send ends.
                return Next::Wait;
            }
            if !session.skip(ring) {
                return Next::Wait;
            }
            let length = session.head_bytes();
            let mut head = [0; EXTENDED_REQUEST_BYTES];
            let Some(bytes) = session.stream.pending().get(..length) else {
                session.stream.arm(ring, None);
                return Next::Wait;
            };
            head[..length].copy_from_slice(bytes);
            if session.outstanding() >= SESSION_REQUESTS_MAX {
                return self.stall(slot);
            }
            session.stream.consume(length);
            if !session.accept(&head[..length], gate, pools) {
                session.finish_reading(pools);
            }
            self.mark_dirty(slot);
        }
    }

    fn stall(&mut self, slot: u32) -> Next {
        if let Some(session) = self.sessions[slot as usize].as_mut() {
            if !session.stalled {
                session.stalled = true;
                self.stalled.push(slot);
            }
        }
        Next::Wait
    }

    /// `None`: look again.
    fn negotiate(&mut self, slot: u32, gate: &dyn Gate, ring: &mut Ring, pools: &mut Pools) -> Option<Next> {
        let mut volumes = self.volumes();
        let session = self.sessions[slot as usize].as_mut()?;
        self.answer.clear();
        let door = session.door;
        if let Door::Socket(own) = door {
            volumes.retain(|volume| *volume == own);
        }
        let tls = door.tls(self.reach.tls);
        let offer = Offer { resource: &self.reach.resource, volumes: &volumes, door, tls };
        let step = session.negotiation.step(session.stream.pending(), &offer, gate, &mut self.answer);
        if !self.answer.is_empty() {
            session.stream.push_bytes(pools, &self.answer, 0);
            session.stream.flush(ring);
        }
        match step {
            Step::NeedMore => {
                session.stream.arm(ring, None);
                Some(Next::Wait)
            }
            Step::Consumed(bytes) => {
                session.stream.consume(bytes);
                None
            }
            Step::Begin(bytes, volume) => {
                session.stream.consume(bytes);
                session.phase = Phase::Open;
                session.opened = true;
                session.volume = volume;
                session.size = gate.may_open(volume).unwrap_or_default();
                self.no_longer_unopened(slot);
                Some(Next::Opened(volume))
            }
            Step::BeginTls(bytes) => {
                session.stream.consume(bytes);
                // Who says more before the answer says it without TLS, and nothing of that may count.
                let alone = session.stream.pending().is_empty();
                session.phase = if alone { Phase::Leaving } else { Phase::Ending };
                None
            }
            Step::End(bytes) => {
                session.stream.consume(bytes);
                session.phase = Phase::Ending;
                None
            }
        }
    }

    /// Gives a connection to the TLS worker, once the client was told to begin.
    fn hand_over(&mut self, slot: u32, pools: &mut Pools) -> Next {
        let entry = &mut self.sessions[slot as usize];
        if let Some(session) = entry.take_if(|s| s.stream.is_flushed() && s.stream.is_idle()) {
            let (door, no_zeroes) = (session.door, session.negotiation.no_zeroes);
            let socket = session.stream.into_descriptor(pools);
            if let Some(worker) = &self.reach.worker {
                worker.secure(Handover { door, socket, no_zeroes });
            }
            self.no_longer_unopened(slot);
        }
        Next::Wait
    }

    /// What a session waited for ended. A payload is the front end's from here on. True if the session is ending and
    /// waits to be looked at. Afterwards [`UpperTable::take_again`].
    pub(crate) fn complete(
        &mut self,
        slot: u32,
        waiting: &Waiting,
        (result, payload): (UpperResult, PayloadId),
        gate: &dyn Gate,
        pools: &mut Pools,
        uppers: &mut UpperTable,
    ) -> bool {
        let Some(session) = self.sessions[slot as usize].as_mut() else {
            pools.payloads.release(payload);
            return false;
        };
        if result == UpperResult::Split {
            let limits = gate.limits(session.volume);
            session.part_again(waiting, payload, &limits, pools, uppers);
        } else {
            session.part_done(waiting, result, payload, pools);
        }
        let ending = session.phase == Phase::Ending;
        self.mark_dirty(slot);
        ending
    }

    fn mark_dirty(&mut self, slot: u32) {
        if let Some(session) = self.sessions[slot as usize].as_mut() {
            if !session.dirty {
                session.dirty = true;
                self.dirty.push(slot);
            }
        }
    }

    /// Breaks a connection off.
    fn end(&mut self, slot: u32, pools: &mut Pools) {
        if let Some(session) = self.sessions[slot as usize].as_mut() {
            session.finish_reading(pools);
            session.stream.shut();
        }
    }

    /// Closes an ended session once nothing of it is under way.
    fn reap(&mut self, slot: u32, pools: &mut Pools) -> Next {
        let Some(session) = self.sessions[slot as usize].as_mut() else { return Next::Wait };
        if session.outstanding() > 0 {
            return Next::Wait;
        }
        if session.stream.is_flushed() {
            session.stream.shut();
        }
        if !session.stream.is_closing() || !session.stream.is_idle() {
            return Next::Wait;
        }
        let Some(session) = self.sessions[slot as usize].take() else { return Next::Wait };
        session.stream.close(pools);
        self.no_longer_unopened(slot);
        if session.opened {
            Next::Closed(session.volume)
        } else if session.kernel {
            Next::KernelLeft(session.volume)
        } else {
            Next::Wait
        }
    }
}

/// A client whose host died is not waited for: its session would keep this node from becoming Secondary. It gets as much
/// time as a network that comes back may take.
fn notice_death(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &30);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &10);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &6);
}

fn free_slot<T>(slots: &mut Vec<Option<T>>) -> usize {
    slots.iter().position(Option::is_none).unwrap_or_else(|| {
        slots.push(None);
        slots.len() - 1
    })
}

#[cfg(test)]
mod tests;
