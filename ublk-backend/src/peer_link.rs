//! Sockets towards peers: listening, dialling, framing what arrives, sending what the engine says.
//!
//! A packet that arrives is handed over before the next one is looked at, so that a change of version counts from
//! exactly the right byte. Bulk goes straight from the socket into a payload buffer; when there is none, that one
//! socket is not read until there is.

use crate::digest::Digest;
use crate::event_loop::Source;
use crate::payload_pool::Span;
use crate::ring::{Op, Ring};
use crate::stream::{Pools, Received, SocketStream};
use drbd_core::engine::{Direction, Event, LinkConfig, SocketLoss};
use drbd_core::ids::{Instant, NodeId, PayloadId, SocketId};
use drbd_core::limits::REQUEST_BYTES_MAX;
use drbd_core::wire::encode::encode_with_integrity;
use drbd_core::wire::frame::Framer;
use drbd_core::wire::{Frame, Packet, Stream};
use nix::errno::Errno;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

mod connecting;
mod integrity;
mod leaving;
mod listening;
mod patience;

pub(crate) use connecting::{Dial, Listener};
pub(crate) use leaving::LeftSocket;
use listening::Unbound;
use patience::Patience;

/// Sockets at a time; more are refused.
const SOCKETS_MAX: usize = 256;
/// How long a closed socket may take to send what is queued and to see the peer's end.
const LINGER_MS: u64 = 2000;

/// A packet whose bulk is still arriving.
#[derive(Debug)]
struct Incoming {
    frame: Frame,
    bytes: usize,
    /// NONE until there is a buffer.
    payload: PayloadId,
    /// Where the rest goes.
    rest: Option<Span>,
}

#[derive(Debug)]
struct Link {
    id: SocketId,
    stream: SocketStream,
    framer: Framer,
    version: u32,
    /// data-integrity-alg of what is sent, and of what arrives.
    sends_digest: Option<Digest>,
    receives_digest: Option<Digest>,
    patience: Patience,
    packets_sent: u64,
    incoming: Option<Incoming>,
    /// No more packets are taken.
    held: bool,
    /// It goes to another daemon.
    leaving: bool,
    dirty: bool,
    /// Closed by the engine: what is queued is sent and what arrives is dropped, until then at the latest.
    linger_until: Option<Instant>,
}

/// What came of looking at a socket.
#[derive(Debug)]
pub(crate) enum Next {
    /// This arrived.
    Event(Event),
    /// Nothing complete: more was asked for, or the socket is gone.
    Wait,
    /// There is no buffer for the bulk; look again when one was released.
    Stalled,
}

/// All sockets towards peers.
#[derive(Debug, Default)]
pub(crate) struct PeerLinks {
    links: Vec<Option<Link>>,
    generation: u32,
    dirty: Vec<u32>,
    stalled: Vec<u32>,
    scratch: Vec<u8>,
    listeners: Vec<Option<Listener>>,
    unbound: Vec<Unbound>,
    dials: Vec<Option<Dial>>,
}

impl PeerLinks {
    /// Takes over a connected socket.
    fn add(&mut self, fd: OwnedFd, ring: &mut Ring, pools: &mut Pools) -> Option<SocketId> {
        self.add_with(fd, &[], ring, pools)
    }

    /// One of which `unread` was read already.
    fn add_with(
        &mut self,
        fd: OwnedFd,
        unread: &[u8],
        ring: &mut Ring,
        pools: &mut Pools,
    ) -> Option<SocketId> {
        let slot = match self.links.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.links.len() < SOCKETS_MAX => {
                self.links.push(None);
                self.links.len() - 1
            }
            None => return None,
        };
        let name = slot as u32;
        let mut stream =
            SocketStream::new(fd, Source::PeerReceive.token(name), Source::PeerSend.token(name), pools)?;
        if unread.is_empty() {
            stream.arm(ring, None);
        } else if !stream.preload(unread) {
            stream.close(pools);
            return None;
        }
        // Numbers are never reused: the upper bits count, the lower eight are the slot.
        self.generation += 1;
        let id = SocketId(self.generation << 8 | name);
        self.links[slot] = Some(Link {
            id,
            stream,
            framer: Framer::new(),
            version: 0,
            sends_digest: None,
            receives_digest: None,
            patience: Patience::default(),
            packets_sent: 0,
            incoming: None,
            held: false,
            leaving: false,
            dirty: false,
            linger_until: None,
        });
        Some(id)
    }

    fn find(&mut self, id: SocketId) -> Option<&mut Link> {
        let link = self.links.get_mut((id.0 & 0xff) as usize)?.as_mut()?;
        (link.id == id && !link.stream.is_closing() && link.linger_until.is_none()).then_some(link)
    }

    /// Queues a packet; what is queued leaves with [`flush`](Self::flush). A peer that makes us answer and does not read
    /// the answers is lost in the end.
    pub(crate) fn send(
        &mut self,
        id: SocketId,
        frame: &Frame,
        payload: PayloadId,
        pools: &mut Pools,
    ) -> Option<Event> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut fits = true;
        if let Some(link) = self.find(id) {
            match frame.packet {
                Packet::InitialData => link.framer.set_stream(Stream::Data),
                Packet::InitialMeta => link.framer.set_stream(Stream::Control),
                _ => {}
            }
            let bulk = frame.packet.bulk_bytes() as usize;
            let (digest, size) = integrity::of_bulk(link.sends_digest, payload, bulk, pools);
            encode_with_integrity(frame, link.version, &digest[..size], &mut scratch);
            fits = link.stream.push_bytes(pools, &scratch, u32::from(bulk == 0));
            if bulk > 0 {
                link.stream.push_payload(pools, payload, bulk, 1);
            }
            if !link.dirty {
                link.dirty = true;
                self.dirty.push(id.0 & 0xff);
            }
        }
        self.scratch = scratch;
        if fits {
            return None;
        }
        let why = "The peer does not read what it is sent: there is no memory left to keep it.";
        self.lose(id.0 & 0xff, SocketLoss::Failed(why.into()), pools)
    }

    /// Hands what was queued since the last call to the kernel, one vectored send per socket.
    pub(crate) fn flush(&mut self, ring: &mut Ring) {
        for slot in self.dirty.drain(..) {
            if let Some(link) = self.links[slot as usize].as_mut() {
                link.dirty = false;
                link.stream.flush(ring);
            }
        }
    }

    /// From here on that socket speaks this version.
    pub(crate) fn set_version(&mut self, id: SocketId, version: u32) {
        if let Some(link) = self.find(id) {
            link.version = version;
            link.framer.set_version(version);
            // What arrived behind the packet that made the framer wait is to be looked at now.
            self.stalled.push(id.0 & 0xff);
        }
    }

    /// From here on bulk in that direction has a digest of that name before it; of none if it is empty.
    pub(crate) fn set_integrity(
        &mut self,
        id: SocketId,
        direction: Direction,
        algorithm: &str,
        pools: &mut Pools,
    ) -> Option<Event> {
        let digest = Digest::named(algorithm);
        let link = self.find(id)?;
        match direction {
            Direction::Sending => link.sends_digest = digest,
            Direction::Receiving if digest.is_some() || algorithm.is_empty() => {
                link.receives_digest = digest;
                link.framer.set_integrity_bytes(digest.map_or(0, Digest::size));
                // The framer has waited for that.
                self.stalled.push(id.0 & 0xff);
            }
            Direction::Receiving => {
                return self.lose(id.0 & 0xff, integrity::unknown(algorithm), pools);
            }
        }
        None
    }

    /// Closes a socket; no event follows. The peer still gets what was queued for it: a socket closed with bytes
    /// unread would be reset, and the peer would lose the very packet that says why.
    pub(crate) fn close(&mut self, id: SocketId, now: Instant, ring: &mut Ring, pools: &mut Pools) {
        if let Some(link) = self.find(id) {
            link.linger_until = Some(now.plus_ms(LINGER_MS));
            self.linger(id.0 & 0xff, ring, pools);
        }
    }

    /// Closes every socket.
    pub(crate) fn close_all(&mut self, now: Instant, ring: &mut Ring, pools: &mut Pools) {
        let open: Vec<SocketId> = self.links.iter().flatten().map(|l| l.id).collect();
        for id in open {
            self.close(id, now, ring, pools);
        }
    }

    /// One step of a lingering close.
    fn linger(&mut self, slot: u32, ring: &mut Ring, pools: &mut Pools) {
        let Some(link) = self.links[slot as usize].as_mut() else { return };
        link.stream.flush(ring);
        if link.stream.is_flushed() {
            link.stream.end_sending();
        }
        link.stream.drop_pending();
        link.stream.arm(ring, None);
        self.sweep(slot as usize, pools);
    }

    /// Whether every socket is closed, so that the process may end.
    pub(crate) fn is_quiet(&self) -> bool {
        self.links.iter().all(Option::is_none)
    }

    /// A receive ended. Afterwards [`next`](Self::next) is to be called until it says to wait.
    pub(crate) fn on_received(
        &mut self,
        slot: u32,
        result: i32,
        ring: &mut Ring,
        pools: &mut Pools,
    ) -> Option<Event> {
        let link = self.links[slot as usize].as_mut()?;
        let received = link.stream.on_received(result);
        if link.stream.is_closing() {
            self.sweep(slot as usize, pools);
            return None;
        }
        if link.leaving && received == Received::Failed(libc::ECANCELED) {
            return None;
        }
        if link.linger_until.is_some() {
            match received {
                Received::Bytes { .. } => self.linger(slot, ring, pools),
                Received::End | Received::Failed(_) => self.shut(slot, pools),
            }
            return None;
        }
        match received {
            Received::Bytes { bulk } => {
                if let Some(Incoming { rest: Some(rest), .. }) = &mut link.incoming {
                    *rest = rest.from(bulk);
                }
                None
            }
            Received::End => self.lose(slot, SocketLoss::EndOfStream, pools),
            Received::Failed(error) => self.lose(slot, failed(error), pools),
        }
    }

    /// A send ended.
    pub(crate) fn on_sent(
        &mut self,
        slot: u32,
        result: i32,
        ring: &mut Ring,
        pools: &mut Pools,
    ) -> Option<Event> {
        let link = self.links[slot as usize].as_mut()?;
        let sent = link.stream.on_sent(result, pools);
        if link.stream.is_closing() {
            self.sweep(slot as usize, pools);
            return None;
        }
        if link.linger_until.is_some() {
            match sent {
                Ok(_) => self.linger(slot, ring, pools),
                Err(_) => self.shut(slot, pools),
            }
            return None;
        }
        match sent {
            Ok(packets) => {
                link.packets_sent += u64::from(packets);
                link.stream.flush(ring);
                (packets > 0).then_some(Event::Sent { socket: link.id, packets: link.packets_sent })
            }
            Err(error) => self.lose(slot, failed(error), pools),
        }
    }

    /// The next packet that arrived on a socket.
    pub(crate) fn next(&mut self, slot: u32, ring: &mut Ring, pools: &mut Pools) -> Next {
        let Some(link) = self.links[slot as usize].as_mut() else { return Next::Wait };
        if link.stream.is_closing() || link.stream.is_receiving() || link.linger_until.is_some() {
            return Next::Wait;
        }
        if link.incoming.is_none() {
            if link.held {
                return Next::Wait;
            }
            match link.framer.feed(link.stream.pending()) {
                Err(malformed) => {
                    let loss = SocketLoss::Malformed(malformed.to_string().into());
                    return self.lose(slot, loss, pools).map_or(Next::Wait, Next::Event);
                }
                Ok(fed) => {
                    link.stream.consume(fed.consumed);
                    match fed.frame {
                        None => {
                            if link.framer.wanted() > 0 {
                                link.stream.arm(ring, None);
                            }
                            return Next::Wait;
                        }
                        Some(frame) if frame.packet.bulk_bytes() == 0 => {
                            return Next::Event(Event::Packet {
                                socket: link.id,
                                frame,
                                payload: PayloadId::NONE,
                            });
                        }
                        Some(frame) => {
                            let bytes = frame.packet.bulk_bytes();
                            if bytes > REQUEST_BYTES_MAX {
                                let what = format!("The peer sent a packet with {bytes} bytes of data; the largest has {REQUEST_BYTES_MAX}.");
                                let loss = SocketLoss::Malformed(what.into());
                                return self.lose(slot, loss, pools).map_or(Next::Wait, Next::Event);
                            }
                            let bytes = bytes as usize;
                            link.incoming =
                                Some(Incoming { frame, bytes, payload: PayloadId::NONE, rest: None });
                        }
                    }
                }
            }
        }
        self.take_bulk(slot, ring, pools)
    }

    fn take_bulk(&mut self, slot: u32, ring: &mut Ring, pools: &mut Pools) -> Next {
        let Some(link) = self.links[slot as usize].as_mut() else { return Next::Wait };
        let Some(mut incoming) = link.incoming.take() else { return Next::Wait };
        let rest = match incoming.rest {
            Some(rest) => rest,
            None => {
                let Some(payload) = link.patience.take(&incoming.frame.packet, incoming.bytes, pools) else {
                    link.incoming = Some(incoming);
                    self.stalled.push(slot);
                    return Next::Stalled;
                };
                incoming.payload = payload;
                pools.payloads.span(payload).part(0, incoming.bytes)
            }
        };
        let taken = link.stream.take_into(rest);
        let rest = rest.from(taken);
        if rest.len() == 0 {
            let Incoming { frame, payload, bytes, .. } = incoming;
            let (digest, size) = integrity::of_bulk(link.receives_digest, payload, bytes, pools);
            if digest[..size] != *link.framer.integrity() {
                pools.payloads.release(payload);
                let loss = integrity::failure(&frame);
                return self.lose(slot, loss, pools).map_or(Next::Wait, Next::Event);
            }
            return Next::Event(Event::Packet { socket: link.id, frame, payload });
        }
        incoming.rest = Some(rest);
        link.incoming = Some(incoming);
        link.stream.arm(ring, Some(rest));
        Next::Wait
    }

    /// Sockets that waited for a buffer.
    pub(crate) fn take_stalled(&mut self, into: &mut Vec<u32>) {
        into.append(&mut self.stalled);
    }

    fn lose(&mut self, slot: u32, why: SocketLoss, pools: &mut Pools) -> Option<Event> {
        let link = self.links[slot as usize].as_mut()?;
        let socket = link.id;
        self.shut(slot, pools);
        Some(Event::SocketLost { socket, why })
    }

    fn shut(&mut self, slot: u32, pools: &mut Pools) {
        if let Some(link) = self.links[slot as usize].as_mut() {
            link.stream.shut();
        }
        self.sweep(slot as usize, pools);
    }

    /// Frees a slot once nothing is under way on its socket.
    fn sweep(&mut self, slot: usize, pools: &mut Pools) {
        let Some(entry) = self.links.get_mut(slot) else { return };
        if entry.as_ref().is_some_and(|l| l.stream.is_closing() && l.stream.is_idle()) {
            if let Some(link) = entry.take() {
                if let Some(incoming) = &link.incoming {
                    pools.payloads.release(incoming.payload);
                }
                link.stream.close(pools);
            }
        }
    }
}

fn failed(error: i32) -> SocketLoss {
    SocketLoss::Failed(format!("The connection broke: {}.", Errno::from_raw(error).desc()).into())
}

impl PeerLinks {
    /// Begins to connect to a peer.
    pub(crate) fn dial(
        &mut self,
        peer: NodeId,
        link: &LinkConfig,
        now: Instant,
        ring: &mut Ring,
    ) -> Option<Event> {
        self.cancel_dial(peer, ring);
        match Dial::start(peer, link, now) {
            Err((retry, why)) => Some(Event::DialFailed { peer, retry, why: why.into() }),
            Ok(dial) => {
                let slot = free_slot(&mut self.dials);
                let token = Source::Dial.token(slot as u32);
                ring.queue(token, dial.fd.as_raw_fd(), Op::Ready { write: true });
                self.dials[slot] = Some(dial);
                None
            }
        }
    }

    /// Gives up dialling.
    pub(crate) fn cancel_dial(&mut self, peer: NodeId, ring: &mut Ring) {
        for (slot, entry) in self.dials.iter_mut().enumerate() {
            if let Some(dial) = entry {
                if dial.peer == peer && !dial.cancelled {
                    dial.cancelled = true;
                    ring.cancel(Source::Dial.token(slot as u32));
                }
            }
        }
    }

    /// A dialled socket is ready, or its wait was cancelled.
    pub(crate) fn on_dial(&mut self, slot: u32, ring: &mut Ring, pools: &mut Pools) -> Option<Event> {
        let dial = self.dials[slot as usize].take()?;
        let peer = dial.peer;
        if dial.cancelled {
            return dial.timed_out.then(|| dial.too_late());
        }
        match dial.finish() {
            Err((retry, why)) => Some(Event::DialFailed { peer, retry, why: why.into() }),
            Ok(fd) => Some(match self.add(fd, ring, pools) {
                Some(socket) => Event::Dialled { peer, socket },
                None => Event::DialFailed { peer, retry: true, why: "too many sockets are open".into() },
            }),
        }
    }

    /// When the first dial or lingering socket is to be given up.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let dials = self.dials.iter().flatten().filter(|d| !d.cancelled).map(|d| d.deadline);
        let open = self.links.iter().flatten().filter(|l| !l.stream.is_closing());
        let unbound = self.unbound.iter().map(|unbound| unbound.again_at);
        dials.chain(open.filter_map(|l| l.linger_until)).chain(unbound).min()
    }

    /// Gives up dials and lingering sockets that took too long, and tries again to listen where a port was in use.
    pub(crate) fn on_time(&mut self, now: Instant, ring: &mut Ring, pools: &mut Pools) -> Option<Event> {
        for slot in 0..self.links.len() {
            let due = self.links[slot].as_ref().and_then(|l| l.linger_until).is_some_and(|at| at <= now);
            if due {
                self.shut(slot as u32, pools);
            }
        }
        for (slot, entry) in self.dials.iter_mut().enumerate() {
            if let Some(dial) = entry {
                if dial.deadline <= now && !dial.cancelled {
                    (dial.cancelled, dial.timed_out) = (true, true);
                    ring.cancel(Source::Dial.token(slot as u32));
                }
            }
        }
        self.listen_again(now, ring)
    }
}

fn free_slot<T>(slots: &mut Vec<Option<T>>) -> usize {
    slots.iter().position(Option::is_none).unwrap_or_else(|| {
        slots.push(None);
        slots.len() - 1
    })
}

/// An address with any port.
fn any_port(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip();
    SocketAddr::new(ip, 0)
}

#[cfg(test)]
mod tests;
