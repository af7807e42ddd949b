//! One NBD connection: its requests, split for the engine and put together again for the client.

use super::nbd_negotiation::{be32, be64, Negotiation, BLOCK_BYTES_MIN, REQUEST_BYTES_MAX};
use super::nbd_offer::Door;
use super::{Gate, Waiting};
use crate::payload_pool::Span;
use crate::ring::Ring;
use crate::stream::{Pools, SocketStream};
use drbd_core::engine::{UpperOp, UpperRequest, UpperResult};
use drbd_core::ids::{PayloadId, Sector, VolumeNumber};

mod parts;
pub(super) mod replies;
pub(super) mod status;

pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Bytes of a request's head.
const REQUEST_BYTES: usize = 28;
/// The same with extended headers.
pub(super) const EXTENDED_REQUEST_BYTES: usize = 32;

pub(super) const COMMAND_FUA: u16 = 1;
const COMMAND_WRITE: u16 = 1;
pub(super) const COMMAND_BLOCK_STATUS: u16 = 7;
const COMMAND_NO_HOLE: u16 = 1 << 1;
pub(super) const COMMAND_DONT_FRAGMENT: u16 = 1 << 2;
pub(super) const COMMAND_REQ_ONE: u16 = 1 << 3;
/// With extended headers: the length is that of a payload behind the head.
pub(super) const COMMAND_PAYLOAD: u16 = 1 << 5;
/// The largest length asked of the engine's limits at once.
const ASKED_BYTES_MAX: u64 = 1 << 30;

/// Error numbers of the protocol.
pub(super) mod error {
    pub(in crate::frontend) const NONE: u32 = 0;
    pub(in crate::frontend) const PERM: u32 = 1;
    pub(in crate::frontend) const IO: u32 = 5;
    pub(in crate::frontend) const INVAL: u32 = 22;
    pub(in crate::frontend) const NOSPC: u32 = 28;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes { no_hole: bool },
}

impl Kind {
    fn op(self) -> UpperOp {
        match self {
            Kind::Read => UpperOp::Read,
            Kind::Write => UpperOp::Write,
            Kind::Flush => UpperOp::Flush,
            Kind::Trim => UpperOp::Discard,
            Kind::WriteZeroes { no_hole } => UpperOp::WriteZeroes { unmap: !no_hole },
        }
    }
}

/// A request of a client, answered when all its parts are.
#[derive(Debug)]
struct Request {
    cookie: u64,
    kind: Kind,
    offset_bytes: u64,
    fua: bool,
    /// Bytes not yet asked of the engine.
    left_bytes: u64,
    asked_bytes: u64,
    outstanding: u32,
    error: u32,
    /// The answer is one piece: parts wait here until all are read.
    whole: bool,
    parts: Vec<(u64, PayloadId, u32)>,
}

impl Request {
    /// What a reply names it by.
    fn asked(&self) -> Asked {
        (self.cookie, self.offset_bytes)
    }
}

/// Cookie and offset of a request.
type Asked = (u64, u64);

/// Bulk of a write being received.
#[derive(Clone, Copy, Debug)]
struct Filling {
    payload: PayloadId,
    bytes: u32,
    rest: Span,
}

/// How far a connection came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Negotiating,
    /// The client was told to begin TLS, or is being told so.
    Leaving,
    Open,
    /// Answers what is under way, reads nothing more.
    Ending,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) door: Door,
    /// What it opened, or would by its door.
    pub(super) volume: VolumeNumber,
    pub(super) stream: SocketStream,
    pub(super) negotiation: Negotiation,
    pub(super) phase: Phase,
    /// The engine knows of it.
    pub(super) opened: bool,
    /// The other end is this host's kernel, by our own doing: it is no one who has the device open.
    pub(super) kernel: bool,
    pub(super) size: Sector,
    requests: Vec<Option<Request>>,
    free: Vec<u32>,
    /// The request whose parts are being asked.
    current: Option<u32>,
    filling: Option<Filling>,
    /// Zeroes, while the current request is a write of zeroes to a peer that has to be sent them.
    zeroes: PayloadId,
    /// Bytes of a refused write to throw away.
    skip_bytes: u64,
    pub(super) dirty: bool,
    pub(super) stalled: bool,
}

/// What the current request wants.
pub(super) enum Part {
    Ask(UpperRequest),
    Receive,
    Stalled,
    /// There is nothing (more) to ask.
    Skipped,
}

impl Session {
    /// A connection that was greeted.
    pub(super) fn new(door: Door, negotiation: Negotiation, stream: SocketStream) -> Session {
        Session {
            door,
            volume: match door {
                Door::Socket(volume) => volume,
                Door::Port => VolumeNumber(0),
            },
            stream,
            negotiation,
            phase: Phase::Negotiating,
            opened: false,
            kernel: false,
            size: Sector(0),
            requests: Vec::new(),
            free: Vec::new(),
            current: None,
            filling: None,
            zeroes: PayloadId::NONE,
            skip_bytes: 0,
            dirty: false,
            stalled: false,
        }
    }

    /// The kernel's connection to a device of this size: it was told by other means what a server says first.
    pub(super) fn of_kernel(volume: VolumeNumber, stream: SocketStream, size: Sector) -> Session {
        let door = Door::Socket(volume);
        let session = Session::new(door, Negotiation::default(), stream);
        Session { phase: Phase::Open, kernel: true, size, ..session }
    }

    /// Requests not yet answered.
    pub(super) fn outstanding(&self) -> usize {
        self.requests.len() - self.free.len()
    }

    /// Whether a request has parts that are not asked yet.
    pub(super) fn is_asking(&self) -> bool {
        self.current.is_some()
    }

    /// So many bytes of the bulk being received came straight into its buffer.
    pub(super) fn bulk_arrived(&mut self, bytes: usize) {
        if let Some(filling) = &mut self.filling {
            filling.rest = filling.rest.from(bytes);
        }
    }

    /// Reads no further; what was asked completes.
    pub(super) fn finish_reading(&mut self, pools: &mut Pools) {
        self.phase = Phase::Ending;
        if let Some(filling) = self.filling.take() {
            pools.payloads.release(filling.payload);
        }
        pools.payloads.release(std::mem::replace(&mut self.zeroes, PayloadId::NONE));
        if let Some(current) = self.current.take() {
            // The parts not yet asked never will be.
            if let Some(request) = self.requests[current as usize].as_mut() {
                request.left_bytes = 0;
                request.error = error::IO;
                if request.outstanding == 0 {
                    self.answer(current, pools);
                }
            }
        }
    }

    /// How long the head of a request is.
    pub(super) fn head_bytes(&self) -> usize {
        if self.negotiation.extended {
            EXTENDED_REQUEST_BYTES
        } else {
            REQUEST_BYTES
        }
    }

    /// Takes a request. False ends the session.
    pub(super) fn accept(&mut self, head: &[u8], gate: &dyn Gate, pools: &mut Pools) -> bool {
        let extended = self.negotiation.extended;
        if be32(head) != if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC } {
            return false;
        }
        let flags = u16::from_be_bytes([head[4], head[5]]);
        let command = u16::from_be_bytes([head[6], head[7]]);
        let (cookie, offset_bytes) = (be64(&head[8..]), be64(&head[16..]));
        let bytes = if extended { be64(&head[24..]) } else { u64::from(be32(&head[24..])) };
        if extended && (flags & COMMAND_PAYLOAD != 0) != (command == COMMAND_WRITE) {
            // What follows a head is told by that flag: a client that is wrong about it cannot be followed, unless it is
            // only that it sends what nobody asked for.
            let harmless = flags & COMMAND_PAYLOAD != 0 && bytes <= u64::from(REQUEST_BYTES_MAX);
            if harmless {
                self.skip_bytes = bytes;
                self.reply((cookie, offset_bytes), error::INVAL, pools);
            }
            return harmless;
        }
        if command == COMMAND_BLOCK_STATUS {
            self.answer_status((cookie, offset_bytes), bytes, flags, gate, pools);
            return true;
        }
        let kind = match command {
            0 => Kind::Read,
            COMMAND_WRITE => Kind::Write,
            2 => return false,
            3 => Kind::Flush,
            4 => Kind::Trim,
            6 => Kind::WriteZeroes { no_hole: flags & COMMAND_NO_HOLE != 0 },
            _ => {
                self.reply((cookie, offset_bytes), error::INVAL, pools);
                return true;
            }
        };
        if let Some(error) = self.judge(kind, offset_bytes, bytes) {
            if kind == Kind::Write {
                // The data follows in any case; a length beyond all reason ends the session.
                if bytes > u64::from(REQUEST_BYTES_MAX) {
                    return false;
                }
                self.skip_bytes = bytes;
            }
            match kind {
                Kind::Read if self.negotiation.structured => {
                    self.error_chunk((cookie, offset_bytes), error, pools);
                }
                _ => self.reply((cookie, offset_bytes), error, pools),
            }
            return true;
        }
        let request = Request {
            cookie,
            kind,
            offset_bytes,
            fua: flags & COMMAND_FUA != 0,
            left_bytes: if kind == Kind::Flush { 0 } else { bytes },
            asked_bytes: 0,
            outstanding: 0,
            error: error::NONE,
            whole: !self.negotiation.structured || flags & COMMAND_DONT_FRAGMENT != 0,
            parts: Vec::new(),
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.requests.push(None);
                self.requests.len() as u32 - 1
            }
        };
        self.requests[slot as usize] = Some(request);
        self.current = Some(slot);
        true
    }

    /// What is wrong with a request, if anything.
    fn judge(&self, kind: Kind, offset_bytes: u64, bytes: u64) -> Option<u32> {
        if kind == Kind::Flush {
            return (offset_bytes != 0 || bytes != 0).then_some(error::INVAL);
        }
        let unit = u64::from(BLOCK_BYTES_MIN);
        if bytes == 0 || offset_bytes % unit != 0 || bytes % unit != 0 {
            return Some(error::INVAL);
        }
        if matches!(kind, Kind::Read | Kind::Write) && bytes > u64::from(REQUEST_BYTES_MAX) {
            return Some(error::INVAL);
        }
        let beyond = offset_bytes.checked_add(bytes).is_none_or(|end| end > self.size.bytes());
        match kind {
            _ if !beyond => None,
            Kind::Write | Kind::WriteZeroes { .. } => Some(error::NOSPC),
            Kind::Read | Kind::Trim | Kind::Flush => Some(error::INVAL),
        }
    }

    /// Throws away the data of a refused write. False: more has to arrive first.
    pub(super) fn skip(&mut self, ring: &mut Ring) -> bool {
        let now = self.skip_bytes.min(self.stream.pending().len() as u64);
        self.stream.consume(now as usize);
        self.skip_bytes -= now;
        if self.skip_bytes > 0 {
            self.stream.arm(ring, None);
        }
        self.skip_bytes == 0
    }

    pub(super) fn part_done(
        &mut self,
        waiting: &Waiting,
        result: UpperResult,
        payload: PayloadId,
        pools: &mut Pools,
    ) {
        let index = waiting.request;
        let Some(request) = self.requests[index as usize].as_mut() else { return };
        request.outstanding -= 1;
        let failed = error_of(result, request.kind);
        if request.error == error::NONE {
            request.error = failed;
        }
        let last = request.outstanding == 0 && request.left_bytes == 0;
        let data = failed == error::NONE && request.kind == Kind::Read;
        if !data {
            pools.payloads.release(payload);
        } else if request.whole && !(last && request.parts.is_empty()) {
            request.parts.push((waiting.offset_bytes, payload, waiting.upper.bytes));
        } else {
            self.send_data(index, waiting, last, payload, pools);
            if last && self.requests[index as usize].as_ref().is_some_and(|r| r.error == error::NONE) {
                return self.forget(index);
            }
        }
        if last {
            self.answer(index, pools);
        }
    }

    /// Sends the data of one part; as the last one of a successful request it is the answer.
    fn send_data(
        &mut self,
        index: u32,
        waiting: &Waiting,
        last: bool,
        payload: PayloadId,
        pools: &mut Pools,
    ) {
        let Some(request) = self.requests[index as usize].as_ref() else { return };
        let bytes = waiting.upper.bytes;
        let good = request.error == error::NONE;
        let (asked, at) = (request.asked(), request.offset_bytes + waiting.offset_bytes);
        if self.negotiation.structured {
            self.data_chunk(asked, last && good, at, bytes, pools);
        } else if good {
            self.reply(asked, error::NONE, pools);
        }
        // Without chunks there is no data beside an error.
        if self.negotiation.structured || good {
            self.stream.push_payload(pools, payload, bytes as usize, 0);
        }
        pools.payloads.release(payload);
    }

    /// All parts are done: the (rest of the) answer.
    fn answer(&mut self, index: u32, pools: &mut Pools) {
        let Some(mut request) = self.requests[index as usize].take() else { return };
        self.free.push(index);
        let asked = request.asked();
        match request.kind {
            Kind::Read if request.error == error::NONE => {
                request.parts.sort_unstable_by_key(|(offset, _, _)| *offset);
                if self.negotiation.structured {
                    // At most 32 MiB are read at once.
                    let bytes = request.asked_bytes as u32;
                    self.data_chunk(asked, true, request.offset_bytes, bytes, pools);
                } else {
                    self.reply(asked, error::NONE, pools);
                }
                for (_, payload, bytes) in &request.parts {
                    self.stream.push_payload(pools, *payload, *bytes as usize, 0);
                }
            }
            Kind::Read if self.negotiation.structured => self.error_chunk(asked, request.error, pools),
            _ => self.reply(asked, request.error, pools),
        }
        for (_, payload, _) in request.parts {
            pools.payloads.release(payload);
        }
    }

    fn forget(&mut self, index: u32) {
        self.requests[index as usize] = None;
        self.free.push(index);
    }
}

fn error_of(result: UpperResult, kind: Kind) -> u32 {
    match result {
        UpperResult::Done => error::NONE,
        UpperResult::IoError | UpperResult::Split => error::IO,
        UpperResult::NotPrimary => error::PERM,
        UpperResult::OutOfRange if kind == Kind::Read => error::INVAL,
        UpperResult::OutOfRange => error::NOSPC,
    }
}
