//! Listening for peers, several of them on one address. A daemon that was killed a moment ago may still have the port: the
//! kernel takes its ring apart after it is gone. So a port in use is tried again for a while before it is called so.

use super::{free_slot, Listener, PeerLinks};
use crate::event_loop::Source;
use crate::ring::{Op, Ring};
use crate::stream::Pools;
use drbd_core::engine::{Event, LinkConfig};
use drbd_core::ids::{Instant, NodeId};
use std::os::fd::AsRawFd;

/// So long it may take.
const PORT_PATIENCE_MS: u64 = 2500;
const BETWEEN_TRIES_MS: u64 = 50;

/// A port that is not to be had yet.
#[derive(Debug)]
pub(super) struct Unbound {
    peer: NodeId,
    link: LinkConfig,
    pub(super) again_at: Instant,
    give_up_at: Instant,
}

impl PeerLinks {
    /// Begins to listen for a peer.
    pub(crate) fn listen(
        &mut self,
        peer: NodeId,
        link: &LinkConfig,
        now: Instant,
        ring: &mut Ring,
    ) -> Option<Event> {
        self.unlisten(peer, ring);
        let (again_at, give_up_at) = (now.plus_ms(BETWEEN_TRIES_MS), now.plus_ms(PORT_PATIENCE_MS));
        self.try_listen(Unbound { peer, link: link.clone(), again_at, give_up_at }, now, ring)
    }

    fn try_listen(&mut self, wanted: Unbound, now: Instant, ring: &mut Ring) -> Option<Event> {
        let Unbound { peer, ref link, give_up_at, .. } = wanted;
        let shared = self.listeners.iter_mut().flatten().find(|l| l.local == link.local && !l.closing);
        if let Some(listener) = shared {
            listener.peers.push((peer, link.remote.ip()));
            return None;
        }
        match Listener::open(peer, link) {
            Err(why) if why.in_use && now < give_up_at => {
                self.unbound.push(Unbound { again_at: now.plus_ms(BETWEEN_TRIES_MS), ..wanted });
                None
            }
            Err(why) => Some(Event::ListenFailed { peer, why: why.sentence.into() }),
            Ok(listener) => {
                let slot = free_slot(&mut self.listeners);
                let token = Source::PeerListen.token(slot as u32);
                ring.queue(token, listener.fd.as_raw_fd(), Op::Ready { write: false });
                self.listeners[slot] = Some(listener);
                None
            }
        }
    }

    /// Tries one of those again that are due.
    pub(super) fn listen_again(&mut self, now: Instant, ring: &mut Ring) -> Option<Event> {
        let due = self.unbound.iter().position(|unbound| unbound.again_at <= now)?;
        let unbound = self.unbound.swap_remove(due);
        self.try_listen(unbound, now, ring)
    }

    /// Stops to listen for a peer.
    pub(crate) fn unlisten(&mut self, peer: NodeId, ring: &mut Ring) {
        self.unbound.retain(|unbound| unbound.peer != peer);
        for (slot, entry) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = entry else { continue };
            let before = listener.peers.len();
            listener.peers.retain(|(p, _)| *p != peer);
            if listener.peers.is_empty() && before > 0 {
                // Refuses connections from now on, and frees the port at once.
                let _ = nix::sys::socket::shutdown(listener.fd.as_raw_fd(), nix::sys::socket::Shutdown::Both);
                listener.closing = true;
                ring.cancel(Source::PeerListen.token(slot as u32));
            }
        }
    }

    /// Someone connects to a listener: the event, or a sentence for the log.
    pub(crate) fn on_listener(
        &mut self,
        slot: u32,
        ring: &mut Ring,
        pools: &mut Pools,
    ) -> Result<Option<Event>, String> {
        let Some(listener) = self.listeners[slot as usize].as_mut() else { return Ok(None) };
        if listener.closing {
            self.listeners[slot as usize] = None;
            return Ok(None);
        }
        let accepted = listener.accept();
        ring.queue(Source::PeerListen.token(slot), listener.fd.as_raw_fd(), Op::Ready { write: false });
        match accepted? {
            None => Ok(None),
            Some((peer, fd)) => match self.add(fd, ring, pools) {
                Some(socket) => Ok(Some(Event::Accepted { peer, socket })),
                None => Err("A connection was refused: too many sockets are open.".to_owned()),
            },
        }
    }
}
