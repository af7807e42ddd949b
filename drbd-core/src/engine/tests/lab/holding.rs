//! Holding things back in the laboratory: operations of the disks, packets, digests, and the cable.

use super::super::node::{Node, Pending};
use super::Lab;
use crate::engine::{Event, IoResult, SocketLoss};
use crate::ids::PayloadId;
use crate::wire::Stream;

impl Lab {
    /// Leaves such operations of a node unanswered from here on.
    pub(in crate::engine::tests) fn hold(&mut self, n: usize, what: fn(&Pending) -> bool) {
        self.nodes[n].holds = Some(what);
    }

    /// Answers everything that was held, and holds nothing any more.
    pub(in crate::engine::tests) fn let_go(&mut self, n: usize) {
        self.nodes[n].holds = None;
        for op in std::mem::take(&mut self.nodes[n].pending) {
            self.answer(n, &op, IoResult::Done);
        }
        self.run();
    }

    /// Hands over every digest that was kept, and keeps none any more.
    pub(in crate::engine::tests) fn let_block_digests_go(&mut self) {
        self.hold_digests = false;
        self.events.extend(self.held_digests.drain(..));
        self.run();
    }

    /// Hands over the digests kept so far.
    pub(in crate::engine::tests) fn let_some_block_digests_go(&mut self) {
        self.events.extend(self.held_digests.drain(..));
        self.run();
    }

    /// Answers the first operation held.
    pub(in crate::engine::tests) fn let_one_go(&mut self, n: usize, result: IoResult) {
        self.let_nth_go(n, 0, result);
    }

    pub(in crate::engine::tests) fn let_nth_go(&mut self, n: usize, nth: usize, result: IoResult) {
        let op = self.nodes[n].pending.remove(nth);
        self.answer(n, &op, result);
        self.run();
    }

    /// An operation happens, and nobody hears of it.
    pub(in crate::engine::tests) fn carry_out_unanswered(&mut self, n: usize, op: &Pending) {
        let payload = if let Pending::Disk(io) = op { io.payload } else { PayloadId::NONE };
        let contents = self.buffers.get(&payload).cloned();
        self.nodes[n].carry_out(op, contents.as_ref());
    }

    /// The slow digests are there.
    pub(in crate::engine::tests) fn let_digests_go(&mut self) {
        self.slow_digest = None;
        self.events.extend(self.late_digests.drain(..));
        self.run();
    }

    /// Keeps the packets of a node from here on.
    pub(in crate::engine::tests) fn hold_packets(&mut self, n: usize) {
        self.nodes[n].hold_packets = true;
    }

    /// Whether the first packet kept for a stream could go.
    pub(in crate::engine::tests) fn has_packet(&self, n: usize, stream: Stream) -> bool {
        self.packet_of(n, stream).is_some()
    }

    fn packet_of(&self, n: usize, stream: Stream) -> Option<usize> {
        let session = self.nodes[n].engine.connection.as_ref()?.session()?;
        let wanted = if stream == Stream::Data { session.data } else { session.control };
        self.nodes[n].outbox.iter().position(|(socket, ..)| *socket == wanted)
    }

    /// Delivers the first packet kept for a stream.
    pub(in crate::engine::tests) fn let_packet_go(
        &mut self,
        n: usize,
        stream: Stream,
    ) -> crate::wire::Packet {
        let at = self.packet_of(n, stream).expect("a packet is kept");
        let (socket, frame, payload) = self.nodes[n].outbox.remove(at).expect("found above");
        let sent = frame.packet.clone();
        self.transmit(n, socket, frame, payload);
        self.run();
        sent
    }

    pub(in crate::engine::tests) fn let_packets_go(&mut self, n: usize) {
        self.nodes[n].hold_packets = false;
        for (socket, frame, payload) in std::mem::take(&mut self.nodes[n].outbox) {
            self.transmit(n, socket, frame, payload);
        }
        self.run();
    }

    /// The network between the nodes fails, with everything on its way.
    pub(in crate::engine::tests) fn cut(&mut self) {
        self.cable_cut = true;
        for node in &mut self.nodes {
            node.outbox.clear();
        }
        self.events.retain(|(_, event)| !matches!(event, Event::Packet { .. }));
        for (socket, (n, _)) in std::mem::take(&mut self.ends) {
            let why = SocketLoss::Failed("the cable was cut".into());
            self.events.push_back((n, Event::SocketLost { socket, why }));
        }
        self.nodes.iter_mut().for_each(Node::forget_promises);
        self.run();
    }

    pub(in crate::engine::tests) fn mend(&mut self) {
        self.cable_cut = false;
    }

    /// Something happens to a node that nobody here brought about.
    pub(in crate::engine::tests) fn inject(&mut self, n: usize, event: Event) {
        self.events.push_back((n, event));
        self.run();
    }
}
