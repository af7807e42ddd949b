//! The operations without io_uring: files and devices on a few threads, sockets by poll(2) on the calling one.
//!
//! Slower by a wake-up per file operation, otherwise the same. Bound: the threads take one operation each, all others
//! wait in the queue, whose length is what the engine has outstanding.

#![allow(unsafe_code)]

use super::{Completion, Op, Token};
use crate::payload_pool::Span;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Threads for file operations.
const WORKERS: usize = 8;

#[derive(Clone, Copy, Debug)]
enum FileOp {
    Read { span: Span, offset_bytes: u64 },
    Write { span: Span, offset_bytes: u64, stable: bool },
    Sync,
    Allocate { mode: i32, offset_bytes: u64, bytes: u64 },
}

#[derive(Debug)]
enum SocketOp {
    Receive(Vec<Span>),
    Send(Vec<Span>),
    Ready { write: bool },
}

impl SocketOp {
    fn events(&self) -> libc::c_short {
        match self {
            SocketOp::Send(_) | SocketOp::Ready { write: true } => libc::POLLOUT,
            SocketOp::Receive(_) | SocketOp::Ready { write: false } => libc::POLLIN,
        }
    }
}

#[derive(Debug, Default)]
struct Queues {
    todo: VecDeque<(Token, RawFd, FileOp)>,
    done: Vec<Completion>,
    ending: bool,
}

#[derive(Debug)]
struct Shared {
    queues: Mutex<Queues>,
    work: Condvar,
    wake: EventFd,
}

/// Workers and the sockets that wait.
#[derive(Debug)]
pub(crate) struct Threads {
    shared: Arc<Shared>,
    sockets: Vec<(Token, RawFd, SocketOp)>,
    cancelled: Vec<Completion>,
    polls: Vec<libc::pollfd>,
}

impl Threads {
    pub(crate) fn new() -> std::io::Result<Threads> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { queues: Mutex::default(), work: Condvar::new(), wake });
        for n in 0..WORKERS {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("io {n}")).spawn(move || work(&shared))?;
        }
        Ok(Threads { shared, sockets: Vec::new(), cancelled: Vec::new(), polls: Vec::new() })
    }

    pub(crate) fn queue(&mut self, token: Token, fd: RawFd, op: Op<'_>) {
        let file = match op {
            Op::Read { span, offset_bytes } => FileOp::Read { span, offset_bytes },
            Op::Write { span, offset_bytes, stable } => FileOp::Write { span, offset_bytes, stable },
            Op::Sync => FileOp::Sync,
            Op::Allocate { how, offset_bytes, bytes } => {
                FileOp::Allocate { mode: how.mode(), offset_bytes, bytes }
            }
            Op::Receive { spans } => {
                return self.sockets.push((token, fd, SocketOp::Receive(spans.to_vec())));
            }
            Op::Send { spans } => return self.sockets.push((token, fd, SocketOp::Send(spans.to_vec()))),
            Op::Ready { write } => return self.sockets.push((token, fd, SocketOp::Ready { write })),
            Op::Driver { .. } => {
                return self.cancelled.push(Completion { token, result: -libc::EOPNOTSUPP });
            }
        };
        let mut queues = self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.todo.push_back((token, fd, file));
        drop(queues);
        self.shared.work.notify_one();
    }

    pub(crate) fn cancel(&mut self, token: Token) {
        if let Some(at) = self.sockets.iter().position(|(t, _, _)| *t == token) {
            self.sockets.swap_remove(at);
            self.cancelled.push(Completion { token, result: -libc::ECANCELED });
        }
    }

    pub(crate) fn turn(&mut self, wait: Option<Duration>, done: &mut Vec<Completion>) -> std::io::Result<()> {
        done.append(&mut self.cancelled);
        self.collect(done);
        let wait = if done.is_empty() { wait } else { Some(Duration::ZERO) };
        self.poll(wait)?;
        self.work_sockets(done);
        if self.polls[0].revents != 0 {
            let _ = self.shared.wake.read();
            self.collect(done);
        }
        Ok(())
    }

    fn collect(&self, done: &mut Vec<Completion>) {
        let mut queues = self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        done.append(&mut queues.done);
    }

    fn poll(&mut self, wait: Option<Duration>) -> std::io::Result<()> {
        self.polls.clear();
        let wake = self.shared.wake.as_raw_fd();
        self.polls.push(libc::pollfd { fd: wake, events: libc::POLLIN, revents: 0 });
        for (_, fd, op) in &self.sockets {
            self.polls.push(libc::pollfd { fd: *fd, events: op.events(), revents: 0 });
        }
        let limit = wait.map(|w| libc::timespec {
            tv_sec: w.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(w.subsec_nanos() as i32),
        });
        let limit_ptr = limit.as_ref().map_or(std::ptr::null(), |l| &raw const *l);
        // SAFETY: the array and the limit live on until the call returns.
        let ready = unsafe {
            libc::ppoll(self.polls.as_mut_ptr(), self.polls.len() as _, limit_ptr, std::ptr::null())
        };
        if ready < 0 {
            let why = std::io::Error::last_os_error();
            for poll in &mut self.polls {
                poll.revents = 0;
            }
            if why.raw_os_error() != Some(libc::EINTR) {
                return Err(why);
            }
        }
        Ok(())
    }

    fn work_sockets(&mut self, done: &mut Vec<Completion>) {
        for at in (0..self.sockets.len()).rev() {
            if self.polls[at + 1].revents == 0 {
                continue;
            }
            let (token, fd, op) = &self.sockets[at];
            let result = match op {
                SocketOp::Ready { .. } => i32::from(self.polls[at + 1].revents),
                SocketOp::Receive(spans) => message(*fd, spans, false),
                SocketOp::Send(spans) => message(*fd, spans, true),
            };
            if result == -libc::EAGAIN || result == -libc::EINTR {
                continue;
            }
            done.push(Completion { token: *token, result });
            self.sockets.swap_remove(at);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner).ending = true;
        self.shared.work.notify_all();
    }
}

fn message(fd: RawFd, spans: &[Span], send: bool) -> i32 {
    let mut pieces: Vec<libc::iovec> =
        spans.iter().map(|s| libc::iovec { iov_base: s.as_ptr().cast(), iov_len: s.len() }).collect();
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = pieces.as_mut_ptr();
    header.msg_iovlen = pieces.len() as _;
    // SAFETY: the pieces are spans, the header lives until the call returns.
    let result = unsafe {
        if send {
            libc::sendmsg(fd, &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        } else {
            libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT)
        }
    };
    returned(result as i64)
}

fn returned(result: i64) -> i32 {
    if result < 0 {
        -std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
    } else {
        result as i32
    }
}

fn work(shared: &Shared) {
    let mut queues = shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
    while !queues.ending {
        let Some((token, fd, op)) = queues.todo.pop_front() else {
            queues = shared.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(queues);
        let result = carry_out(fd, op);
        queues = shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.done.push(Completion { token, result });
        if queues.done.len() == 1 {
            let _ = shared.wake.write(1);
        }
    }
}

fn carry_out(fd: RawFd, op: FileOp) -> i32 {
    // SAFETY (all calls below): memory is a span, which stays mapped; the descriptor is kept open by its owner until
    // the operation completed.
    match op {
        FileOp::Read { span, offset_bytes } => {
            // SAFETY: see above.
            returned(
                unsafe { libc::pread64(fd, span.as_ptr().cast(), span.len(), offset_bytes as i64) } as i64
            )
        }
        FileOp::Write { span, offset_bytes, stable } => {
            let piece = libc::iovec { iov_base: span.as_ptr().cast(), iov_len: span.len() };
            let flags = if stable { libc::RWF_DSYNC } else { 0 };
            // SAFETY: see above.
            returned(unsafe { libc::pwritev2(fd, &raw const piece, 1, offset_bytes as i64, flags) } as i64)
        }
        FileOp::Sync => {
            // SAFETY: see above.
            returned(i64::from(unsafe { libc::fdatasync(fd) }))
        }
        FileOp::Allocate { mode, offset_bytes, bytes } => {
            // SAFETY: see above.
            returned(i64::from(unsafe { libc::fallocate64(fd, mode, offset_bytes as i64, bytes as i64) }))
        }
    }
}
