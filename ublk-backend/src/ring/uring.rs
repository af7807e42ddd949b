//! The operations on io_uring.

#![allow(unsafe_code)]

use super::pinned_memory::PinnedMemory;
use super::{Completion, Op, Token, SEND_SPANS_MAX};
use crate::payload_pool::Span;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{opcode, squeue, IoUring};
use std::os::fd::RawFd;
use std::time::Duration;

/// Completions of cancellations themselves carry this and are dropped.
const CANCEL: u64 = u64::MAX;
/// Bit of `user_data` that says the rest names a message header as well.
const MESSAGE_SHIFT: u32 = 48;

/// A message header and its pieces, at a fixed address while the kernel looks at it.
struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; SEND_SPANS_MAX],
}

/// A ring of its own.
pub(crate) struct Uring {
    ring: IoUring,
    #[allow(clippy::vec_box)] // they must not move when the table grows
    messages: Vec<Box<Message>>,
    free: Vec<u16>,
    pinned: PinnedMemory,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("messages", &self.messages.len()).finish_non_exhaustive()
    }
}

impl Uring {
    /// Asks for completions to be worked off by this thread's own calls where the kernel knows that.
    pub(crate) fn new(entries: u32) -> std::io::Result<Uring> {
        let ring = IoUring::builder()
            .setup_cqsize(entries * 4)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            .or_else(|_| IoUring::builder().setup_cqsize(entries * 4).build(entries))?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(std::io::Error::other("this kernel's io_uring is too old"));
        }
        Ok(Uring { ring, messages: Vec::new(), free: Vec::new(), pinned: PinnedMemory::default() })
    }

    /// The kernel may pin that memory once, not for every read and write of a file.
    pub(crate) fn let_pin(&mut self, span: Span) -> std::io::Result<()> {
        self.pinned = PinnedMemory::of(span, &self.ring.submitter())?;
        Ok(())
    }

    /// `apart`: carried out by a worker of the kernel from the beginning.
    pub(crate) fn queue(&mut self, token: Token, fd: RawFd, op: Op<'_>, apart: bool) {
        debug_assert!(token.0 >> MESSAGE_SHIFT == 0, "tokens have 48 bits");
        let fd = Fd(fd);
        let entry = match op {
            Op::Read { span, offset_bytes } => {
                let (at, bytes) = (span.as_ptr(), span.len() as u32);
                match self.pinned.piece_of(&span, &self.ring.submitter()) {
                    Some(piece) => opcode::ReadFixed::new(fd, at, bytes, piece).offset(offset_bytes).build(),
                    None => opcode::Read::new(fd, at, bytes).offset(offset_bytes).build(),
                }
            }
            Op::Write { span, offset_bytes, stable } => {
                let (at, bytes) = (span.as_ptr(), span.len() as u32);
                let flags = if stable { libc::RWF_DSYNC } else { 0 };
                match self.pinned.piece_of(&span, &self.ring.submitter()) {
                    Some(piece) => opcode::WriteFixed::new(fd, at, bytes, piece)
                        .offset(offset_bytes)
                        .rw_flags(flags)
                        .build(),
                    None => opcode::Write::new(fd, at, bytes).offset(offset_bytes).rw_flags(flags).build(),
                }
            }
            Op::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Op::Allocate { how, offset_bytes, bytes } => {
                opcode::Fallocate::new(fd, bytes).offset(offset_bytes).mode(how.mode()).build()
            }
            Op::Ready { write } => {
                let events = if write { libc::POLLOUT } else { libc::POLLIN };
                opcode::PollAdd::new(fd, events as u32).build()
            }
            Op::Driver { code, argument } => opcode::UringCmd16::new(fd, code).cmd(argument).build(),
            Op::Receive { spans: [span] } => opcode::Recv::new(fd, span.as_ptr(), span.len() as u32).build(),
            Op::Send { spans: [span] } => {
                opcode::Send::new(fd, span.as_ptr(), span.len() as u32).flags(libc::MSG_NOSIGNAL).build()
            }
            Op::Receive { spans } | Op::Send { spans } => {
                let send = matches!(op, Op::Send { .. });
                return self.queue_message(token, fd, spans, send);
            }
        };
        let flags = if apart { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        self.push(&entry.user_data(token.0).flags(flags));
    }

    pub(crate) fn cancel(&mut self, token: Token) {
        self.push(&opcode::AsyncCancel::new(token.0).build().user_data(CANCEL));
    }

    pub(crate) fn turn(&mut self, wait: Option<Duration>, done: &mut Vec<Completion>) -> std::io::Result<()> {
        self.ring.completion().sync();
        if !self.ring.completion().is_empty() {
            self.submit(Some(Duration::ZERO))?;
        } else {
            self.submit(wait)?;
        }
        let Uring { ring, free, .. } = self;
        for entry in ring.completion() {
            let data = entry.user_data();
            if data == CANCEL {
                continue;
            }
            if data >> MESSAGE_SHIFT != 0 {
                free.push((data >> MESSAGE_SHIFT) as u16 - 1);
            }
            done.push(Completion { token: Token(data & ((1 << MESSAGE_SHIFT) - 1)), result: entry.result() });
        }
        Ok(())
    }

    fn submit(&mut self, wait: Option<Duration>) -> std::io::Result<()> {
        let result = match wait {
            None => self.ring.submit_and_wait(1),
            Some(limit) => {
                let limit = Timespec::new().sec(limit.as_secs()).nsec(limit.subsec_nanos());
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(why) => match why.raw_os_error() {
                // The limit passed, a signal came, or completions must be reaped first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(why),
            },
        }
    }

    fn queue_message(&mut self, token: Token, fd: Fd, spans: &[Span], send: bool) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.messages.push(Box::new(empty_message()));
            self.messages.len() as u16 - 1
        });
        let message = &mut self.messages[usize::from(slot)];
        assert!(spans.len() <= SEND_SPANS_MAX, "a message has at most {SEND_SPANS_MAX} pieces");
        for (piece, span) in message.pieces.iter_mut().zip(spans) {
            *piece = libc::iovec { iov_base: span.as_ptr().cast(), iov_len: span.len() };
        }
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = spans.len() as _;
        let entry = if send {
            opcode::SendMsg::new(fd, &raw const message.header).flags(libc::MSG_NOSIGNAL as u32).build()
        } else {
            opcode::RecvMsg::new(fd, &raw mut message.header).build()
        };
        self.push(&entry.user_data(token.0 | (u64::from(slot) + 1) << MESSAGE_SHIFT));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: buffers are spans, message headers are boxed and reused only after their completion; both outlive
        // the operation. Descriptors are kept open by their owner until it completed.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // A full queue is handed in without waiting; completions are collected by the next turn.
            if let Err(why) = self.ring.submit() {
                let passing = matches!(why.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN));
                assert!(passing, "the ring takes what is handed in: {why}");
            }
        }
    }
}

fn empty_message() -> Message {
    // SAFETY: all zeroes is a valid msghdr: no name, no pieces, no control data.
    let header = unsafe { std::mem::zeroed() };
    Message { header, pieces: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_SPANS_MAX] }
}
