//! A daemon of the laboratory gives its session to the next one: the kernel keeps what nobody reads meanwhile.

use super::super::node::{Node, VOLUME};
use super::Lab;
use crate::config::{OptionSet, ResourceOptions};
use crate::engine::session_state::SessionState;
use crate::engine::{AdminRequest, Event, Resource};
use crate::ids::{NodeId, SocketId, Ticket, VolumeNumber};
use crate::refusal::Refusal;

/// What nobody reads.
#[derive(Default, Debug)]
pub(super) struct Unread {
    sockets: Vec<SocketId>,
    events: Vec<(usize, Event)>,
    /// What was handed over, and by whom.
    given: Option<(usize, Handed)>,
}

/// A session on its way.
#[derive(Clone, Debug)]
pub(in crate::engine::tests) struct Handed {
    pub(in crate::engine::tests) sockets: (SocketId, SocketId),
    pub(in crate::engine::tests) state: SessionState,
}

impl Unread {
    /// Keeps what arrives on a socket that is not read.
    pub(super) fn take_in(&mut self, n: usize, event: Event) -> Option<Event> {
        let kept = match &event {
            Event::Packet { socket, .. } | Event::SocketLost { socket, .. } => self.sockets.contains(socket),
            _ => false,
        };
        if !kept {
            return Some(event);
        }
        self.events.push((n, event));
        None
    }
}

impl Lab {
    /// Asks a daemon to hand its session over. It reads its data stream no more.
    pub(in crate::engine::tests) fn begin_hand_over(&mut self, n: usize, within_ms: u64) -> Ticket {
        let session = self.nodes[n].engine.connection.as_ref().and_then(|c| c.session());
        self.unread.sockets.extend(session.map(|s| s.data));
        self.begin(n, AdminRequest::HandOver { within_ms })
    }

    /// A daemon hands its session over, or says why not, and reads on.
    pub(in crate::engine::tests) fn hand_over(&mut self, n: usize) -> Result<Handed, Refusal> {
        let ticket = self.begin_hand_over(n, 1000);
        self.wait("an answer", |lab| lab.nodes[n].replies.contains_key(&ticket));
        self.handed(n, ticket)
    }

    /// What came of that request.
    pub(in crate::engine::tests) fn handed(&mut self, n: usize, ticket: Ticket) -> Result<Handed, Refusal> {
        if let Err(refusal) = self.nodes[n].replies[&ticket].clone() {
            self.read_on();
            return Err(refusal);
        }
        let (by, handed) = self.unread.given.take().expect("it was handed over");
        assert_eq!(by, n);
        Ok(handed)
    }

    pub(super) fn handed_over(&mut self, n: usize, sockets: (SocketId, SocketId), state: &SessionState) {
        self.unread.sockets.extend([sockets.0, sockets.1]);
        let state = SessionState::decode(&state.encode()).expect("what was just written");
        assert!(self.unread.given.replace((n, Handed { sockets, state })).is_none());
    }

    /// Everything that arrived meanwhile is read.
    pub(in crate::engine::tests) fn read_on(&mut self) {
        self.unread.sockets.clear();
        for event in self.unread.events.drain(..).rev() {
            self.events.push_front(event);
        }
        self.run();
    }

    /// The next daemon of a node, configured and attached, before it has a connection.
    pub(in crate::engine::tests) fn next_daemon(&mut self, n: usize) {
        self.next += 1;
        let options = ResourceOptions::from(&OptionSet::default());
        self.nodes[n].engine = Resource::new("r0", NodeId(n as u8), options, u64::from(self.next) << 8);
        self.configure(n, self.options[n].clone());
        for volume in 1..=self.nodes[n].further {
            self.new_minor(n, volume);
        }
        for volume in 0..=self.nodes[n].further {
            let request = self.nodes[n].attach_request_of(VolumeNumber(volume), false, true);
            self.ask(n, AdminRequest::Attach(request)).expect("the disk it had");
        }
    }

    /// The next daemon goes on with a session, and reads what came meanwhile.
    pub(in crate::engine::tests) fn adopt(&mut self, n: usize, handed: Handed) -> Result<(), Refusal> {
        let (data, control) = handed.sockets;
        for socket in [data, control] {
            self.sent.remove(&socket);
        }
        let (peer, state) = (NodeId(1 - n as u8), Box::new(handed.state));
        let adopted = self.ask(n, AdminRequest::AdoptSession { peer, data, control, state });
        self.read_on();
        adopted
    }

    /// A node gets another daemon, and nobody notices.
    pub(in crate::engine::tests) fn upgrade(&mut self, n: usize) {
        let handed = self.hand_over(n).expect("nothing is under way");
        self.next_daemon(n);
        self.adopt(n, handed).expect("what was handed over");
        assert!(self.is_replicating(0) && self.is_replicating(1), "{}", self.describe());
    }

    /// The option of an engine's connection that says how it sends.
    pub(in crate::engine::tests) fn sessions_of(&self, n: usize) -> u32 {
        self.nodes[n].engine.connection.as_ref().map_or(0, |c| c.sessions)
    }

    /// The generation on a node's disk.
    pub(in crate::engine::tests) fn generation_of(&self, n: usize) -> u64 {
        Node::kept(&self.nodes[n]).current_uuid
    }

    /// Size of the first volume.
    pub(in crate::engine::tests) fn size_of(&self, n: usize) -> u64 {
        let engine = &self.nodes[n].engine;
        engine.device_index(VOLUME).map_or(0, |d| engine.devices[d].size.0)
    }
}
