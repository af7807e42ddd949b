//! Nodes that end without notice.

use super::Lab;
use crate::engine::{Event, SocketLoss};

impl Lab {
    /// A node loses its power, with everything its disk had not carried out, and is configured again.
    pub(in crate::engine::tests) fn crash(&mut self, n: usize) {
        self.lose(n, &SocketLoss::Failed("the peer is gone".into()));
    }

    /// A node's daemon is killed, and the kernel closes its sockets; what its disk was asked for and had not carried out
    /// does not happen.
    pub(in crate::engine::tests) fn kill(&mut self, n: usize) {
        self.lose(n, &SocketLoss::EndOfStream);
    }

    fn lose(&mut self, n: usize, why: &SocketLoss) {
        self.nodes[n] = self.nodes[n].crashed(n as u8, u64::from(self.next));
        self.nodes[1 - n].forget_promises();
        self.events.retain(|(node, event)| *node != n && !matches!(event, Event::Packet { .. }));
        self.held_digests.retain(|(node, _)| *node != n);
        for (socket, (node, _)) in std::mem::take(&mut self.ends) {
            if node != n {
                self.events.push_back((node, Event::SocketLost { socket, why: why.clone() }));
            }
        }
        self.configure(n, self.options[n].clone());
    }
}
