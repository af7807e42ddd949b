//! Sockets on their way from one daemon to the next: nothing more is read of them, what is queued is sent, and what was
//! read and not looked at goes along.

use super::PeerLinks;
use crate::ring::Ring;
use crate::stream::Pools;
use drbd_core::ids::SocketId;
use drbd_core::wire::Stream;
use std::os::fd::OwnedFd;

/// A socket with what was read of it and is still to be looked at.
#[derive(Debug)]
pub(crate) struct LeftSocket {
    /// The socket.
    pub(crate) fd: OwnedFd,
    /// Those bytes.
    pub(crate) unread: Vec<u8>,
}

impl PeerLinks {
    /// Takes no more packets of data streams, once one that is arriving has arrived; or goes on with it.
    pub(crate) fn hold_data(&mut self, held: bool) {
        for (slot, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link.as_mut().filter(|l| l.framer.stream() == Some(Stream::Data)) else {
                continue;
            };
            link.held = held;
            // Looked at again: what is behind it may have been read already.
            self.stalled.push(slot as u32);
        }
    }

    /// Begins to let two sockets go.
    pub(crate) fn let_go(&mut self, sockets: [SocketId; 2], ring: &mut Ring) {
        for id in sockets {
            let Some(link) = self.find(id) else { continue };
            (link.held, link.leaving) = (true, true);
            link.stream.flush(ring);
            link.stream.stop_receiving(ring);
        }
    }

    /// The sockets, once nothing is under way on them. Afterwards they are no longer ours. The error: one of them is lost.
    pub(crate) fn take_left(
        &mut self,
        sockets: [SocketId; 2],
        pools: &mut Pools,
    ) -> Option<Result<[LeftSocket; 2], ()>> {
        for id in sockets {
            match self.find(id) {
                None => return Some(Err(())),
                Some(link) if !link.stream.is_idle() || !link.stream.is_flushed() => return None,
                Some(_) => {}
            }
        }
        let [data, control] = sockets.map(|id| {
            let link = self.links[(id.0 & 0xff) as usize].take()?;
            let unread = [link.framer.unconsumed(), link.stream.pending()].concat();
            Some(LeftSocket { fd: link.stream.into_descriptor(pools), unread })
        });
        Some(data.zip(control).map(|(data, control)| [data, control]).ok_or(()))
    }

    /// Takes over what another daemon let go.
    pub(crate) fn adopt(
        &mut self,
        left: LeftSocket,
        stream: Stream,
        ring: &mut Ring,
        pools: &mut Pools,
    ) -> Option<SocketId> {
        let id = self.add_with(left.fd, &left.unread, ring, pools)?;
        let link = self.find(id)?;
        link.framer.set_stream(stream);
        Some(id)
    }
}
