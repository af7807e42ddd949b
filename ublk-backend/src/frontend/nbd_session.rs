//! One NBD connection: its requests, split for the engine and put together again for the client.

use super::nbd_negotiation::{be32, be64, Negotiation, BLOCK_BYTES_MIN, REQUEST_BYTES_MAX};
use super::Waiting;
use crate::payload_pool::Span;
use crate::ring::Ring;
use crate::stream::{Pools, SocketStream};
use drbd_core::engine::{UpperOp, UpperRequest, UpperResult};
use drbd_core::ids::{PayloadId, Sector, VolumeNumber};

mod parts;

pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_MAGIC: u32 = 0x6744_6698;
pub(super) const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Bytes of a request's head.
pub(super) const REQUEST_BYTES: usize = 28;

pub(super) const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
pub(super) const CHUNK_DATA: u16 = 1;
pub(super) const CHUNK_ERROR: u16 = 1 << 15 | 1;

pub(super) const COMMAND_FUA: u16 = 1;
const COMMAND_NO_HOLE: u16 = 1 << 1;
pub(super) const COMMAND_DONT_FRAGMENT: u16 = 1 << 2;

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
    left_bytes: u32,
    asked_bytes: u32,
    outstanding: u32,
    error: u32,
    /// The answer is one piece: parts wait here until all are read.
    whole: bool,
    parts: Vec<(u32, PayloadId, u32)>,
}

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
    Open,
    /// Answers what is under way, reads nothing more.
    Ending,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
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
    /// A connection that was just greeted.
    pub(super) fn new(volume: VolumeNumber, stream: SocketStream) -> Session {
        Session {
            volume,
            stream,
            negotiation: Negotiation::default(),
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
        Session { phase: Phase::Open, kernel: true, size, ..Session::new(volume, stream) }
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

    /// Takes a request. False ends the session.
    pub(super) fn accept(&mut self, head: &[u8; REQUEST_BYTES], pools: &mut Pools) -> bool {
        if be32(head) != REQUEST_MAGIC {
            return false;
        }
        let flags = u16::from_be_bytes([head[4], head[5]]);
        let command = u16::from_be_bytes([head[6], head[7]]);
        let (cookie, offset_bytes, bytes) = (be64(&head[8..]), be64(&head[16..]), be32(&head[24..]));
        let kind = match command {
            0 => Kind::Read,
            1 => Kind::Write,
            2 => return false,
            3 => Kind::Flush,
            4 => Kind::Trim,
            6 => Kind::WriteZeroes { no_hole: flags & COMMAND_NO_HOLE != 0 },
            _ => {
                self.reply(cookie, error::INVAL, pools);
                return true;
            }
        };
        if let Some(error) = self.judge(kind, offset_bytes, bytes) {
            if kind == Kind::Write {
                // The data follows in any case; a length beyond all reason ends the session.
                if bytes > REQUEST_BYTES_MAX {
                    return false;
                }
                self.skip_bytes = u64::from(bytes);
            }
            match kind {
                Kind::Read if self.negotiation.structured => self.error_chunk(cookie, error, pools),
                _ => self.reply(cookie, error, pools),
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
    fn judge(&self, kind: Kind, offset_bytes: u64, bytes: u32) -> Option<u32> {
        if kind == Kind::Flush {
            return (offset_bytes != 0 || bytes != 0).then_some(error::INVAL);
        }
        let unit = u64::from(BLOCK_BYTES_MIN);
        if bytes == 0 || offset_bytes % unit != 0 || u64::from(bytes) % unit != 0 {
            return Some(error::INVAL);
        }
        if matches!(kind, Kind::Read | Kind::Write) && bytes > REQUEST_BYTES_MAX {
            return Some(error::INVAL);
        }
        let beyond = offset_bytes.checked_add(u64::from(bytes)).is_none_or(|end| end > self.size.bytes());
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
        if self.negotiation.structured {
            let flags = if last && good { CHUNK_DONE } else { 0 };
            let offset = request.offset_bytes + u64::from(waiting.offset_bytes);
            let head = data_chunk(flags, request.cookie, offset, bytes);
            self.stream.push_bytes(pools, &head, 0);
        } else if good {
            self.stream.push_bytes(pools, &simple(error::NONE, request.cookie), 0);
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
        let structured = self.negotiation.structured;
        match request.kind {
            Kind::Read if request.error == error::NONE => {
                request.parts.sort_unstable_by_key(|(offset, _, _)| *offset);
                if structured {
                    let head =
                        data_chunk(CHUNK_DONE, request.cookie, request.offset_bytes, request.asked_bytes);
                    self.stream.push_bytes(pools, &head, 0);
                } else {
                    self.stream.push_bytes(pools, &simple(error::NONE, request.cookie), 0);
                }
                for (_, payload, bytes) in &request.parts {
                    self.stream.push_payload(pools, *payload, *bytes as usize, 0);
                }
            }
            Kind::Read if structured => self.error_chunk(request.cookie, request.error, pools),
            _ => self.reply(request.cookie, request.error, pools),
        }
        for (_, payload, _) in request.parts {
            pools.payloads.release(payload);
        }
    }

    fn forget(&mut self, index: u32) {
        self.requests[index as usize] = None;
        self.free.push(index);
    }

    fn reply(&mut self, cookie: u64, error: u32, pools: &mut Pools) {
        self.stream.push_bytes(pools, &simple(error, cookie), 0);
    }

    fn error_chunk(&mut self, cookie: u64, error: u32, pools: &mut Pools) {
        let mut chunk = [0; 26];
        chunk[..20].copy_from_slice(&chunk_head(CHUNK_DONE, CHUNK_ERROR, cookie, 6));
        chunk[20..24].copy_from_slice(&error.to_be_bytes());
        self.stream.push_bytes(pools, &chunk, 0);
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

fn simple(error: u32, cookie: u64) -> [u8; 16] {
    let mut reply = [0; 16];
    reply[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    reply[4..8].copy_from_slice(&error.to_be_bytes());
    reply[8..].copy_from_slice(&cookie.to_be_bytes());
    reply
}

fn chunk_head(flags: u16, kind: u16, cookie: u64, bytes: u32) -> [u8; 20] {
    debug_assert!(kind != CHUNK_NONE || bytes == 0);
    let mut head = [0; 20];
    head[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    head[4..6].copy_from_slice(&flags.to_be_bytes());
    head[6..8].copy_from_slice(&kind.to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    head[16..].copy_from_slice(&bytes.to_be_bytes());
    head
}

fn data_chunk(flags: u16, cookie: u64, offset_bytes: u64, bytes: u32) -> [u8; 28] {
    let mut head = [0; 28];
    head[..20].copy_from_slice(&chunk_head(flags, CHUNK_DATA, cookie, bytes + 8));
    head[20..].copy_from_slice(&offset_bytes.to_be_bytes());
    head
}
