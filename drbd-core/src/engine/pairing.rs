//! Finding the peer: two TCP connections that both nodes agree on (1.2 of the wire reference).
//!
//! Both nodes dial and listen at once. The first connection a node opens is to be the data stream, the second the
//! control stream; the first packet on it says so. If both nodes open the same stream, each lets go of its own and
//! keeps the other's, which closes both: so after a pair stands, a moment passes before it is believed, and after a
//! crossing a coin decides who dials again at once.

use super::command::{Command, LinkConfig};
use super::connection::{Connection, Link, Session};
use super::random::Random;
use crate::ids::{Instant, NodeId, PayloadId, SocketId, VolumeNumber};
use crate::wire::{Frame, Packet};

/// Accepted sockets that have not said which stream they are; more are turned away.
const STRANGERS_MAX: usize = 8;

/// The search for one peer.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    data: Option<SocketId>,
    control: Option<SocketId>,
    /// This node accepted the control stream.
    accepted_control: bool,
    /// This node opened the data stream and said so on it.
    dialled_data: bool,
    dialling: bool,
    dial_at: Option<Instant>,
    settled_at: Option<Instant>,
    strangers: Vec<(SocketId, Instant)>,
    /// The peer believed in the pair before us: its features packet.
    early: Option<Frame>,
}

/// What a step of the search led to.
pub(super) enum Found {
    /// Go on.
    Nothing,
    /// A pair that both believe in, and what the peer already said.
    Pair(Box<Session>, Option<Frame>),
}

fn first_packet(socket: SocketId, packet: Packet) -> Command {
    Command::Send { socket, frame: Frame { volume: VolumeNumber(0), packet }, payload: PayloadId::NONE }
}

/// Where to dial and listen.
pub(super) fn link_config(connection: &Connection) -> Option<Box<LinkConfig>> {
    let path = connection.paths.first()?;
    Some(Box::new(LinkConfig {
        local: path.local,
        remote: path.remote,
        sndbuf_bytes: connection.options.sndbuf_size,
        rcvbuf_bytes: connection.options.rcvbuf_size,
        dial_timeout_ms: connection.options.connect_int_s * 1000,
    }))
}

impl Pairing {
    /// Begins: listen, and dial at once.
    pub(super) fn begin(connection: &Connection, now: Instant, out: &mut Vec<Command>) -> Pairing {
        if let Some(link) = link_config(connection) {
            out.push(Command::Listen { peer: connection.peer, link });
        }
        Pairing { dial_at: Some(now), ..Pairing::default() }
    }

    /// The next moment something is to be done.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let complete = self.data.is_some() && self.control.is_some();
        let dial_at = if self.dialling || complete { None } else { self.dial_at };
        let strangers = self.strangers.iter().map(|s| s.1).min();
        [dial_at, self.settled_at, strangers].into_iter().flatten().min()
    }

    /// Whether that socket belongs to this search.
    pub(super) fn knows(&self, socket: SocketId) -> bool {
        self.data == Some(socket) || self.control == Some(socket) || self.is_stranger(socket)
    }

    /// Whether that socket was accepted and has yet to say what it is for.
    pub(super) fn is_stranger(&self, socket: SocketId) -> bool {
        self.strangers.iter().any(|s| s.0 == socket)
    }

    /// Ends the search without a result.
    pub(super) fn give_up(&mut self, peer: NodeId, out: &mut Vec<Command>) {
        let strangers = self.strangers.drain(..).map(|s| s.0);
        for socket in self.data.take().into_iter().chain(self.control.take()).chain(strangers) {
            out.push(Command::Close { socket });
        }
        if std::mem::take(&mut self.dialling) {
            out.push(Command::CancelDial { peer });
        }
        out.push(Command::Unlisten { peer });
    }

    pub(super) fn dialled(&mut self, socket: SocketId, timing: &Timing, out: &mut Vec<Command>) {
        self.dialling = false;
        if self.data.is_none() {
            self.data = Some(socket);
            self.dialled_data = true;
            out.push(first_packet(socket, Packet::InitialData));
            self.dial_at = Some(timing.now);
        } else if self.control.is_none() {
            self.control = Some(socket);
            self.accepted_control = false;
            out.push(first_packet(socket, Packet::InitialMeta));
        } else {
            out.push(Command::Close { socket });
        }
        self.settle(timing);
    }

    pub(super) fn dial_failed(&mut self, timing: &Timing, random: &mut Random) {
        self.dialling = false;
        // connect-int plus or minus a seventh, so that two nodes do not keep missing each other.
        let spread = timing.connect_int_ms / 7;
        let delay = timing.connect_int_ms - spread + random.below(2 * spread);
        self.dial_at = Some(timing.now.plus_ms(delay));
    }

    pub(super) fn accepted(&mut self, socket: SocketId, timing: &Timing, out: &mut Vec<Command>) {
        if self.strangers.len() >= STRANGERS_MAX {
            out.push(Command::Close { socket });
        } else {
            self.strangers.push((socket, timing.now.plus_ms(4 * timing.ping_timeout_ms)));
        }
    }

    /// A packet on one of this search's sockets.
    pub(super) fn packet(
        &mut self,
        socket: SocketId,
        frame: Frame,
        timing: &Timing,
        random: &mut Random,
        out: &mut Vec<Command>,
    ) {
        if let Some(at) = self.strangers.iter().position(|s| s.0 == socket) {
            self.strangers.swap_remove(at);
            match frame.packet {
                Packet::InitialData => self.take(socket, true, timing, random, out),
                Packet::InitialMeta => self.take(socket, false, timing, random, out),
                _ => out.push(Command::Close { socket }),
            }
        } else if self.data == Some(socket) && self.early.is_none() {
            self.early = Some(frame);
        } else {
            self.lost(socket, timing, random);
            out.push(Command::Close { socket });
        }
    }

    fn take(
        &mut self,
        socket: SocketId,
        data: bool,
        timing: &Timing,
        random: &mut Random,
        out: &mut Vec<Command>,
    ) {
        let place = if data { &mut self.data } else { &mut self.control };
        let crossed = place.replace(socket);
        if !data {
            self.accepted_control = true;
        } else {
            self.dialled_data = false;
            self.early = None;
        }
        if let Some(own) = crossed {
            out.push(Command::Close { socket: own });
            if random.below(2) == 0 {
                self.dial_at =
                    Some(timing.now.plus_ms(timing.ping_timeout_ms + random.below(timing.connect_int_ms)));
            }
        } else if self.dial_at.is_none_or(|at| at > timing.now) {
            // The peer is there: the other stream may be opened by us without waiting.
            self.dial_at = Some(timing.now.plus_ms(random.below(timing.ping_timeout_ms)));
        }
        self.settled_at = None;
        self.settle(timing);
    }

    /// A socket ended.
    pub(super) fn lost(&mut self, socket: SocketId, timing: &Timing, random: &mut Random) {
        self.strangers.retain(|s| s.0 != socket);
        if self.data == Some(socket) {
            self.data = None;
            self.early = None;
        } else if self.control == Some(socket) {
            self.control = None;
        } else {
            return;
        }
        self.settled_at = None;
        let at = timing.now.plus_ms(random.below(2 * timing.ping_timeout_ms));
        self.dial_at = Some(self.dial_at.map_or(at, |other| other.max(at)));
    }

    fn settle(&mut self, timing: &Timing) {
        if self.data.is_some() && self.control.is_some() && self.settled_at.is_none() {
            self.settled_at = Some(timing.now.plus_ms(timing.settle_ms));
        }
    }

    /// Does what is due.
    pub(super) fn tick(
        &mut self,
        connection: &ConnectionFacts,
        timing: &Timing,
        random: &mut Random,
        out: &mut Vec<Command>,
    ) -> Found {
        let now = timing.now;
        let mut late = Vec::new();
        self.strangers.retain(|s| {
            s.1 > now || {
                late.push(s.0);
                false
            }
        });
        out.extend(late.into_iter().map(|socket| Command::Close { socket }));
        if let (Some(data), Some(control)) = (self.data, self.control) {
            if self.settled_at.is_some_and(|at| at <= now) {
                self.data = None;
                self.control = None;
                self.give_up(connection.peer, out);
                let mut session = Session::new(connection.session, data, control, self.accepted_control, now);
                session.data_sent = u64::from(self.dialled_data);
                return Found::Pair(Box::new(session), self.early.take());
            }
        } else if !self.dialling && self.dial_at.is_some_and(|at| at <= now) {
            self.dial_at = None;
            if let Some(link) = connection.link.clone() {
                self.dialling = true;
                out.push(Command::Dial { peer: connection.peer, link });
            } else {
                self.dial_failed(timing, random);
            }
        }
        Found::Nothing
    }
}

/// What a search needs to know of its connection.
pub(super) struct ConnectionFacts {
    pub(super) peer: NodeId,
    pub(super) link: Option<Box<LinkConfig>>,
    /// Number of the session to be.
    pub(super) session: u32,
}

/// The time and the configured times.
pub(super) struct Timing {
    pub(super) now: Instant,
    pub(super) connect_int_ms: u64,
    pub(super) ping_timeout_ms: u64,
    pub(super) settle_ms: u64,
}

impl Timing {
    pub(super) fn of(connection: &Connection, now: Instant) -> Timing {
        let options = &connection.options;
        let settle_ds = match options.socket_check_timeout_ds {
            0 => options.ping_timeout_ds,
            ds => ds,
        };
        Timing {
            now,
            connect_int_ms: options.connect_int_s * 1000,
            ping_timeout_ms: options.ping_timeout_ds * 100,
            settle_ms: settle_ds * 100,
        }
    }
}

impl Link {
    /// The search, while there is one.
    pub(super) fn pairing(&mut self) -> Option<&mut Pairing> {
        match self {
            Link::Pairing(pairing) => Some(pairing),
            Link::Idle | Link::Waiting { .. } | Link::Session(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
