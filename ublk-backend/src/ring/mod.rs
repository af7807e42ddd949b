//! Typed operations on descriptors, carried out by io_uring or, where that is refused, by a few threads.
//!
//! Everything the kernel reads or writes lies in [`Span`]s, which stay mapped for ever. The owner of a descriptor keeps
//! it open until every operation on it has completed; shutting a socket down or [`Ring::cancel`] makes them complete.

mod pinned_memory;
mod threads;
mod uring;

use crate::payload_pool::Span;
use std::os::fd::RawFd;
use std::time::Duration;

/// Pieces of one send.
pub(crate) const SEND_SPANS_MAX: usize = 64;
/// Operations in the submission queue.
const ENTRIES: u32 = 1024;

/// Names an operation; chosen by who asks, echoed by its completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Token(pub(crate) u64);

/// An operation that ended: a count, or a negative error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Completion {
    /// Of the operation.
    pub(crate) token: Token,
    /// As the system call returns it.
    pub(crate) result: i32,
}

/// What to do with a stretch of a file or device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Allocate {
    /// Give the space back; reads as zeroes.
    PunchHole,
    /// Zeroes, keeping the space.
    ZeroRange,
}

impl Allocate {
    fn mode(self) -> i32 {
        match self {
            Allocate::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Allocate::ZeroRange => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        }
    }
}

/// What can be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op<'a> {
    /// Read at a position.
    Read { span: Span, offset_bytes: u64 },
    /// Write at a position; `stable`: through to the medium.
    Write { span: Span, offset_bytes: u64, stable: bool },
    /// fdatasync.
    Sync,
    /// fallocate.
    Allocate { how: Allocate, offset_bytes: u64, bytes: u64 },
    /// Receive into up to two spans, in order.
    Receive { spans: &'a [Span] },
    /// Send up to [`SEND_SPANS_MAX`] spans, in order.
    Send { spans: &'a [Span] },
    /// Wait until the descriptor is readable (or writable).
    Ready { write: bool },
    /// What the driver of a device takes: its own code and bytes. io_uring alone can.
    Driver { code: u32, argument: [u8; 16] },
}

/// Whether this process is not to use io_uring.
pub(crate) fn without_io_uring() -> bool {
    std::env::var_os("UDRBD_NO_IO_URING").is_some_and(|v| v == "1")
}

/// One of the two ways.
#[derive(Debug)]
pub(crate) enum Ring {
    /// io_uring.
    Uring(Box<uring::Uring>),
    /// Threads for files, poll(2) for sockets.
    Threads(threads::Threads),
}

impl Ring {
    /// io_uring if it may be had. The sentence says why not, for the log.
    pub(crate) fn open() -> std::io::Result<(Ring, Option<String>)> {
        if without_io_uring() {
            return Ok((Ring::threads()?, Some("UDRBD_NO_IO_URING is set".to_owned())));
        }
        match uring::Uring::new(ENTRIES) {
            Ok(ring) => Ok((Ring::Uring(Box::new(ring)), None)),
            Err(why) => Ok((Ring::threads()?, Some(format!("io_uring_setup: {why}")))),
        }
    }

    /// The threads.
    pub(crate) fn threads() -> std::io::Result<Ring> {
        threads::Threads::new().map(Ring::Threads)
    }

    /// The kernel may pin that memory, which files are read into and written from, as it is used.
    pub(crate) fn let_pin(&mut self, span: Span) -> std::io::Result<()> {
        match self {
            Ring::Uring(ring) => ring.let_pin(span),
            Ring::Threads(_) => Ok(()),
        }
    }

    /// Queues an operation.
    pub(crate) fn queue(&mut self, token: Token, fd: RawFd, op: Op<'_>) {
        match self {
            Ring::Uring(ring) => ring.queue(token, fd, op, false),
            Ring::Threads(threads) => threads.queue(token, fd, op),
        }
    }

    /// Queues an operation on a file that may hold whoever hands it in: never this thread.
    pub(crate) fn queue_apart(&mut self, token: Token, fd: RawFd, op: Op<'_>) {
        match self {
            Ring::Uring(ring) => ring.queue(token, fd, op, true),
            Ring::Threads(threads) => threads.queue(token, fd, op),
        }
    }

    /// Ends a `Ready` operation early; its completion still comes.
    pub(crate) fn cancel(&mut self, token: Token) {
        match self {
            Ring::Uring(ring) => ring.cancel(token),
            Ring::Threads(threads) => threads.cancel(token),
        }
    }

    /// Hands in what was queued, waits for a completion (at most `wait`; `None` = as long as it takes) and collects
    /// all there are.
    pub(crate) fn turn(&mut self, wait: Option<Duration>, done: &mut Vec<Completion>) -> std::io::Result<()> {
        match self {
            Ring::Uring(ring) => ring.turn(wait, done),
            Ring::Threads(threads) => threads.turn(wait, done),
        }
    }
}

#[cfg(test)]
mod tests;
