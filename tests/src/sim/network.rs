//! The network between the nodes.
//!
//! A TCP connection is two byte streams. A stream keeps its order; what was handed to it may be delayed, cut into any
//! pieces, or, when the connection breaks, lost from any point on. A direction between two nodes may be dead for a
//! while: then nothing passes, no end of a stream either, and what was sent arrives when it heals. Bulk travels as one
//! piece per sector tag, everything else as the bytes `wire` made of it.

use super::clock::Time;
use super::disk::Tag;
use super::prng::Prng;
use std::collections::VecDeque;
use std::rc::Rc;

/// A piece of a stream.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Bytes `from..to` of a bulk.
    Bulk {
        /// All of the bulk.
        tags: Rc<Vec<Tag>>,
        /// First byte of the piece.
        from: usize,
        /// End of the piece.
        to: usize,
    },
}

impl Piece {
    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Bulk { from, to, .. } => to - from,
        }
    }

    /// Cuts the first `at` bytes off.
    pub(crate) fn split_front(&mut self, at: usize) -> Piece {
        match self {
            Piece::Bytes(bytes) => {
                let rest = bytes.split_off(at);
                Piece::Bytes(std::mem::replace(bytes, rest))
            }
            Piece::Bulk { tags, from, .. } => {
                let front = Piece::Bulk { tags: Rc::clone(tags), from: *from, to: *from + at };
                *from += at;
                front
            }
        }
    }
}

/// How a stream ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// In order, after everything sent.
    Orderly,
    /// At once; what was on the way is lost.
    Reset,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    queue: VecDeque<Piece>,
    /// Bytes on the way.
    pub(crate) queued: usize,
    /// Bytes ever handed over and ever delivered.
    pub(crate) written: u64,
    pub(crate) delivered: u64,
    /// Packets whose bytes end there, not yet in the kernel's buffer.
    pub(crate) unsent: VecDeque<(u64, u64)>,
    /// Packets ever handed over.
    pub(crate) packets: u64,
    /// The sender is done.
    pub(crate) end: Option<End>,
    /// A delivery is arranged.
    pub(crate) arranged: bool,
    /// What is sent vanishes (the other end forgot the connection).
    pub(crate) void: bool,
}

impl Flow {
    /// Hands bytes over. After a break (`end` is on its way) the sender may not know yet: its bytes go nowhere.
    pub(crate) fn push(&mut self, piece: Piece) {
        if self.void || self.end.is_some() || piece.len() == 0 {
            return;
        }
        self.queued += piece.len();
        self.written += piece.len() as u64;
        self.queue.push_back(piece);
    }

    /// Takes up to `bytes` off the front.
    pub(crate) fn pull(&mut self, bytes: usize) -> Vec<Piece> {
        let mut left = bytes.min(self.queued);
        let mut pieces = Vec::new();
        self.queued -= left;
        self.delivered += left as u64;
        while left > 0 {
            let front = self.queue.front_mut().expect("queued bytes are in the queue");
            if front.len() <= left {
                left -= front.len();
                pieces.extend(self.queue.pop_front());
            } else {
                pieces.push(front.split_front(left));
                left = 0;
            }
        }
        pieces
    }

    /// Loses what is on the way.
    pub(crate) fn lose(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }

    /// The last packet that fits into a kernel buffer of that size, if it was not told yet.
    pub(crate) fn newly_sent(&mut self, buffer_bytes: u64) -> Option<u64> {
        let mut told = None;
        while let Some(&(packet, end)) = self.unsent.front() {
            if end > self.delivered + buffer_bytes {
                break;
            }
            told = Some(packet);
            self.unsent.pop_front();
        }
        told
    }
}

/// How far a side of a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PartyState {
    /// Its process has not been told of it.
    Coming,
    /// In use.
    Open,
    /// Closed by its process, or the process was told of its end.
    Closed,
}

/// A process's side of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party {
    /// Which node.
    pub(crate) node: usize,
    /// Which run of its daemon.
    pub(crate) run: u32,
    /// Its name for the socket.
    pub(crate) socket: u32,
    /// How far it is.
    pub(crate) state: PartyState,
    /// The node lost power: nobody answers until it is back.
    pub(crate) silent: bool,
}

/// A TCP connection; `flows[i]` leads away from `parties[i]`.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Both sides.
    pub(crate) parties: [Party; 2],
    /// Both directions.
    pub(crate) flows: [Flow; 2],
}

/// All there is between the nodes.
#[derive(Debug)]
pub(crate) struct Network {
    /// Every connection there ever was.
    pub(crate) connections: Vec<Connection>,
    nodes: usize,
    /// By from * nodes + to: nothing passes before that time.
    blocked_until: Vec<Time>,
    /// Kernel buffers of sockets.
    pub(crate) buffer_bytes: u64,
    /// Usual delay of a direction.
    pub(crate) latency: Time,
    /// Streams are cut into pieces so many times in a thousand.
    pub(crate) cuts_per_mille: u64,
}

impl Network {
    /// A network between that many nodes.
    pub(crate) fn new(nodes: usize, dice: &mut Prng) -> Network {
        Network {
            connections: Vec::new(),
            nodes,
            blocked_until: vec![0; nodes * nodes],
            buffer_bytes: dice.pick(&[4 << 10, 64 << 10, 1 << 20]),
            latency: dice.pick(&[20_000, 100_000, 1_000_000]),
            cuts_per_mille: dice.pick(&[0, 100, 700]),
        }
    }

    /// Nothing passes from one node to another until then.
    pub(crate) fn block(&mut self, from: usize, to: usize, until: Time) {
        let place = &mut self.blocked_until[from * self.nodes + to];
        *place = until.max(*place);
    }

    /// Everything passes again.
    pub(crate) fn heal(&mut self) {
        self.blocked_until.fill(0);
    }

    /// Until when nothing passes; the past if something does.
    pub(crate) fn blocked(&self, from: usize, to: usize) -> Time {
        self.blocked_until[from * self.nodes + to]
    }

    /// A delay of the next delivery.
    pub(crate) fn delay(&self, dice: &mut Prng) -> Time {
        dice.skewed(self.latency / 2, self.latency, self.latency * 4)
    }
}
