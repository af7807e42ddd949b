//! Packets that nobody sent, and packets that change on their way.

use super::super::node::VOLUME;
use super::Lab;
use crate::engine::connection::Stage;
use crate::engine::{Event, SocketLoss};
use crate::ids::{PayloadId, SocketId, VolumeNumber};
use crate::wire::{Frame, Packet, Stream};

impl Lab {
    /// A packet arrives that the peer never sent, in the words of its session; false if there is none.
    pub(in super::super) fn forge(&mut self, n: usize, stream: Stream, packet: Packet) -> bool {
        self.forge_for(n, stream, VOLUME, packet)
    }

    /// As above, for any volume.
    pub(in super::super) fn forge_for(
        &mut self,
        n: usize,
        stream: Stream,
        volume: VolumeNumber,
        packet: Packet,
    ) -> bool {
        let session = self.nodes[n].engine.connection.as_ref().and_then(|c| c.session());
        self.honest = false;
        let Some((data, control)) = session.map(|s| (s.data, s.control)) else { return false };
        let socket = if stream == Stream::Data { data } else { control };
        let bulk = packet.bulk_bytes().div_ceil(4096) as usize;
        let payload = if bulk > 0 { self.store(vec![0xbad; bulk]) } else { PayloadId::NONE };
        let frame = Frame { volume, packet };
        self.events.push_back((n, Event::Packet { socket, frame, payload }));
        self.run();
        true
    }

    /// What the session of a node waits for.
    pub(in super::super) fn session_stage(&self, n: usize) -> Option<Stage> {
        self.nodes[n].engine.connection.as_ref().and_then(|c| c.session()).map(|s| s.stage)
    }

    /// A packet as it arrives, if it does: what is no packet ends the stream.
    pub(super) fn on_its_way(
        &mut self,
        n: usize,
        (socket, other): (SocketId, SocketId),
        frame: Frame,
    ) -> Option<Frame> {
        let session = self.nodes[n].engine.connection.as_ref().and_then(|c| c.session());
        let version = session.map_or(0, |s| s.version);
        let stream = if session.map(|s| s.data) == Some(socket) { Stream::Data } else { Stream::Control };
        let Some(mutation) = self.mutation.as_mut() else { return Some(frame) };
        match mutation.apply(&frame, stream, version) {
            Ok(frame) => Some(frame),
            Err(why) => {
                let why = SocketLoss::Malformed(why);
                self.events.push_back((1 - n, Event::SocketLost { socket: other, why }));
                self.ends.remove(&other);
                self.ends.remove(&socket);
                self.events.push_back((n, Event::SocketLost { socket, why: SocketLoss::EndOfStream }));
                None
            }
        }
    }

    /// The receiver of a damaged block notices by its digest (data-integrity-alg) and gives the socket up.
    pub(super) fn is_checked(&mut self, n: usize, receiver: SocketId, packet: &Packet) -> bool {
        if self.nodes[1 - n].integrity.is_empty() {
            return false;
        }
        let (name, bytes) = (packet.name(), packet.bulk_bytes());
        let text = format!("Digest integrity check FAILED: {bytes} bytes of a {name} arrived changed");
        let why = SocketLoss::Malformed(text.into());
        self.events.push_back((1 - n, Event::SocketLost { socket: receiver, why }));
        true
    }
}
