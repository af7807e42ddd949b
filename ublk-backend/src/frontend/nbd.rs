//! The NBD server: one unix socket per volume, any number of connections, each a session once it was let in.
//!
//! Reads of more than 1 MiB are answered in chunks as they come in; a client without structured replies, or one that
//! says "don't fragment", gets them whole. A flush on one connection covers all, because order is the engine's.

use super::nbd_negotiation::{greeting, Step};
use super::nbd_session::{Part, Phase, Session, EXTENDED_REQUEST_BYTES};
use super::{Gate, UpperTable, Waiting};
use crate::event_loop::Source;
use crate::ring::{Op, Ring};
use crate::stream::{Pools, Received, SocketStream};
use drbd_core::engine::{UpperRequest, UpperResult};
use drbd_core::ids::{PayloadId, Sector, VolumeNumber};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Connections at a time, all volumes together.
const SESSIONS_MAX: usize = 256;
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
    exports: Vec<Option<Export>>,
    sessions: Vec<Option<Session>>,
    dirty: Vec<u32>,
    stalled: Vec<u32>,
    answer: Vec<u8>,
    /// Nothing new is taken for the moment.
    held: bool,
}

impl NbdServer {
    /// Serves a volume on a listening socket.
    pub(crate) fn export(&mut self, volume: VolumeNumber, listener: UnixListener, ring: &mut Ring) {
        let slot = free_slot(&mut self.exports);
        let token = Source::NbdListen.token(slot as u32);
        ring.queue(token, listener.as_raw_fd(), Op::Ready { write: false });
        self.exports[slot] = Some(Export { volume, listener, size: Sector(0), closing: false });
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

    /// Takes nothing new: clients are sent away, and the kernel waits.
    pub(crate) fn hold(&mut self, held: bool, pools: &mut Pools) {
        self.held = held;
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
        for slot in 0..self.sessions.len() {
            if self.sessions[slot].as_ref().is_some_and(|s| s.volume == volume && !s.kernel) {
                self.end(slot as u32, pools);
            }
        }
    }

    /// Someone connects.
    pub(crate) fn on_listener(&mut self, slot: u32, ring: &mut Ring, pools: &mut Pools) {
        let Some(export) = self.exports[slot as usize].as_ref() else { return };
        if export.closing {
            self.exports[slot as usize] = None;
            return;
        }
        let volume = export.volume;
        let accepted = export.listener.accept();
        let token = Source::NbdListen.token(slot);
        ring.queue(token, export.listener.as_raw_fd(), Op::Ready { write: false });
        if let Ok((stream, _)) =
            accepted.map_err(drop).and_then(|accepted| if self.held { Err(()) } else { Ok(accepted) })
        {
            if stream.set_nonblocking(true).is_ok() {
                self.greet(volume, OwnedFd::from(stream), ring, pools);
            }
        }
    }

    fn greet(&mut self, volume: VolumeNumber, fd: OwnedFd, ring: &mut Ring, pools: &mut Pools) {
        let Some((slot, mut stream)) = self.stream(fd, pools) else { return };
        stream.push_bytes(pools, &greeting(), 0);
        stream.flush(ring);
        stream.arm(ring, None);
        self.sessions[slot] = Some(Session::new(volume, stream));
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
            if session.phase == Phase::Negotiating {
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
            if session.stream.queued_bytes() > UNREAD_BYTES_MAX {
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
        let session = self.sessions[slot as usize].as_mut()?;
        self.answer.clear();
        let volume = session.volume;
        let step = session.negotiation.step(session.stream.pending(), volume, gate, &mut self.answer);
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
            Step::Begin(bytes) => {
                session.stream.consume(bytes);
                session.phase = Phase::Open;
                session.opened = true;
                session.size = gate.may_open(volume).unwrap_or_default();
                Some(Next::Opened(volume))
            }
            Step::End(bytes) => {
                session.stream.consume(bytes);
                session.phase = Phase::Ending;
                None
            }
        }
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
        if session.opened {
            Next::Closed(session.volume)
        } else if session.kernel {
            Next::KernelLeft(session.volume)
        } else {
            Next::Wait
        }
    }
}

fn free_slot<T>(slots: &mut Vec<Option<T>>) -> usize {
    slots.iter().position(Option::is_none).unwrap_or_else(|| {
        slots.push(None);
        slots.len() - 1
    })
}

#[cfg(test)]
mod tests;
