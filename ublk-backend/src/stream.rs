//! One connected socket: a receive buffer that takes many small packets per call, bulk received straight into its
//! payload buffer, and a send queue whose head bytes and payloads leave together in one vectored send.

use crate::payload_pool::{PayloadPool, Share, Span};
use crate::process::lockable_bytes;
use crate::ring::{Op, Ring, Token, SEND_SPANS_MAX};
use drbd_core::ids::PayloadId;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

/// Bytes of a receive buffer: large enough that one call takes many small writes, each then copied once.
const RECEIVE_BYTES: usize = 256 << 10;
/// Bytes of a piece of memory for packet heads.
const HEAD_BYTES: usize = 16 << 10;
/// Bytes handed to one send.
const SEND_BYTES_MAX: usize = 4 << 20;

/// The two pools: bulk, and what sockets need for themselves.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Bulk of requests.
    pub(crate) payloads: PayloadPool,
    /// Receive buffers and heads of packets.
    pub(crate) heads: PayloadPool,
    /// The memory of the payloads that is used first, and may be pinned.
    pub(crate) pinned: Span,
}

/// A stretch of bytes to send.
#[derive(Debug)]
struct Segment {
    span: Span,
    owner: PayloadId,
    /// The owner is a payload (else a piece of head memory).
    bulk: bool,
    /// Packets that end with this segment.
    packets: u32,
}

/// How a receive ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// So many bytes of the bulk asked for arrived, and perhaps more in the buffer.
    Bytes {
        /// Of the bulk.
        bulk: usize,
    },
    /// The other side closed.
    End,
    /// Error number.
    Failed(i32),
}

/// The socket.
#[derive(Debug)]
pub(crate) struct SocketStream {
    fd: OwnedFd,
    receive_token: Token,
    send_token: Token,
    buffer: PayloadId,
    buffer_span: Span,
    start: usize,
    end: usize,
    bulk_bytes: usize,
    receiving: bool,
    queue: VecDeque<Segment>,
    tail: Option<(PayloadId, Span)>,
    queued_bytes: usize,
    /// Of these, what is not bulk.
    queued_head_bytes: usize,
    /// Segments handed to the kernel; they keep their length until it answers.
    in_flight: usize,
    closing: bool,
}

impl SocketStream {
    /// Takes a connected, non-blocking socket; `None` when there is no memory for one more.
    pub(crate) fn new(
        fd: OwnedFd,
        receive_token: Token,
        send_token: Token,
        pools: &mut Pools,
    ) -> Option<SocketStream> {
        let buffer = pools.heads.take_growing(RECEIVE_BYTES)?;
        Some(SocketStream {
            fd,
            receive_token,
            send_token,
            buffer,
            buffer_span: pools.heads.span(buffer),
            start: 0,
            end: 0,
            bulk_bytes: 0,
            receiving: false,
            queue: VecDeque::with_capacity(256),
            tail: None,
            queued_bytes: 0,
            queued_head_bytes: 0,
            in_flight: 0,
            closing: false,
        })
    }

    /// Received and not yet consumed.
    pub(crate) fn pending(&self) -> &[u8] {
        // While a receive is under way it writes behind `end` only.
        &self.buffer_span.bytes()[self.start..self.end]
    }

    /// Drops the first bytes of what is pending.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        assert!(self.start <= self.end, "only what arrived is consumed");
    }

    /// Moves pending bytes to the beginning of `target`; says how many.
    pub(crate) fn take_into(&mut self, target: Span) -> usize {
        let bytes = target.len().min(self.end - self.start);
        target.put(&self.pending()[..bytes]);
        self.consume(bytes);
        bytes
    }

    /// Asks for more: first into `bulk`, what follows into the buffer. Nothing happens if that is under way already.
    pub(crate) fn arm(&mut self, ring: &mut Ring, bulk: Option<Span>) {
        if self.receiving || self.closing {
            return;
        }
        if self.start > 0 {
            let rest = self.end - self.start;
            self.buffer_span.put(&self.buffer_span.bytes()[self.start..self.end]);
            (self.start, self.end) = (0, rest);
        }
        let free = self.buffer_span.from(self.end);
        let fd = self.fd.as_raw_fd();
        self.bulk_bytes = bulk.map_or(0, |b| b.len());
        match bulk {
            Some(bulk) => ring.queue(self.receive_token, fd, Op::Receive { spans: &[bulk, free] }),
            None => {
                assert!(free.len() > 0, "a full buffer is worked off before more is asked for");
                ring.queue(self.receive_token, fd, Op::Receive { spans: &[free] });
            }
        }
        self.receiving = true;
    }

    /// The receive ended.
    pub(crate) fn on_received(&mut self, result: i32) -> Received {
        self.receiving = false;
        match result {
            0 => Received::End,
            1.. => {
                let bulk = self.bulk_bytes.min(result as usize);
                self.end += result as usize - bulk;
                Received::Bytes { bulk }
            }
            _ if result == -libc::EINTR || result == -libc::EAGAIN => Received::Bytes { bulk: 0 },
            _ => Received::Failed(-result),
        }
    }

    /// Queues bytes; `packets` end with them.
    pub(crate) fn push_bytes(&mut self, pools: &mut Pools, bytes: &[u8], packets: u32) -> bool {
        if self.closing {
            return true;
        }
        if self.tail.is_none_or(|(_, free)| free.len() < bytes.len()) && !self.new_tail(pools, bytes.len()) {
            return false;
        }
        let Some((owner, free)) = self.tail else { return false };
        free.put(bytes);
        self.tail = Some((owner, free.from(bytes.len())));
        let span = free.part(0, bytes.len());
        self.queued_bytes += bytes.len();
        self.queued_head_bytes += bytes.len();
        if self.queue.len() > self.in_flight {
            if let Some(last) = self.queue.back_mut().filter(|last| last.owner == owner && !last.bulk) {
                last.span = last.span.joined(span);
                last.packets += packets;
                return true;
            }
        }
        pools.heads.retain(owner);
        self.queue.push_back(Segment { span, owner, bulk: false, packets });
        true
    }

    /// Queues a payload, taking one more reference to it until it is sent; a packet ends with it.
    pub(crate) fn push_payload(&mut self, pools: &mut Pools, payload: PayloadId, bytes: usize, packets: u32) {
        if self.closing {
            return;
        }
        pools.payloads.retain(payload);
        let span = pools.payloads.span(payload).part(0, bytes);
        self.queued_bytes += bytes;
        self.queue.push_back(Segment { span, owner: payload, bulk: true, packets });
    }

    /// Starts sending what is queued, unless that is under way.
    pub(crate) fn flush(&mut self, ring: &mut Ring) {
        let Some(first) = self.queue.front() else { return };
        if self.in_flight > 0 || self.closing {
            return;
        }
        let mut spans = [first.span; SEND_SPANS_MAX];
        let (mut count, mut bytes) = (0, 0);
        for segment in self.queue.iter().take(SEND_SPANS_MAX) {
            if bytes >= SEND_BYTES_MAX {
                break;
            }
            spans[count] = segment.span;
            count += 1;
            bytes += segment.span.len();
        }
        ring.queue(self.send_token, self.fd.as_raw_fd(), Op::Send { spans: &spans[..count] });
        self.in_flight = count;
    }

    /// The send ended: how many packets have now left completely, or an error number.
    pub(crate) fn on_sent(&mut self, result: i32, pools: &mut Pools) -> Result<u32, i32> {
        self.in_flight = 0;
        if result < 0 {
            let passing = result == -libc::EINTR || result == -libc::EAGAIN;
            return if passing { Ok(0) } else { Err(-result) };
        }
        let mut left = result as usize;
        self.queued_bytes -= left;
        let mut packets = 0;
        while let Some(first) = self.queue.front_mut() {
            if !first.bulk {
                self.queued_head_bytes -= left.min(first.span.len());
            }
            if left < first.span.len() {
                first.span = first.span.from(left);
                break;
            }
            left -= first.span.len();
            packets += first.packets;
            if let Some(segment) = self.queue.pop_front() {
                release(pools, &segment);
            }
        }
        Ok(packets)
    }

    /// Bytes queued and not yet sent.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Bytes queued and not yet sent that are not bulk.
    pub(crate) fn queued_head_bytes(&self) -> usize {
        self.queued_head_bytes
    }

    /// Whether everything queued was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.queue.is_empty()
    }

    /// Tells the other side that nothing more comes.
    pub(crate) fn end_sending(&self) {
        let _ = nix::sys::socket::shutdown(self.fd.as_raw_fd(), nix::sys::socket::Shutdown::Write);
    }

    /// Forgets what was received.
    pub(crate) fn drop_pending(&mut self) {
        self.start = self.end;
    }

    /// Ends the connection; operations under way complete soon.
    pub(crate) fn shut(&mut self) {
        if !self.closing {
            self.closing = true;
            let _ = nix::sys::socket::shutdown(self.fd.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
    }

    /// Whether [`shut`](Self::shut) was called.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether the descriptor may be closed.
    pub(crate) fn is_idle(&self) -> bool {
        !self.receiving && self.in_flight == 0
    }

    /// Has a receive that is under way end soon.
    pub(crate) fn stop_receiving(&mut self, ring: &mut Ring) {
        if self.receiving {
            ring.cancel(self.receive_token);
        }
    }

    /// Puts bytes into the buffer that were read of this socket before. False: they are too many.
    pub(crate) fn preload(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.buffer_span.len() {
            return false;
        }
        self.buffer_span.put(bytes);
        (self.start, self.end) = (0, bytes.len());
        true
    }

    /// Whether a receive is under way.
    pub(crate) fn is_receiving(&self) -> bool {
        self.receiving
    }

    /// Closes the descriptor and gives all memory back.
    pub(crate) fn close(self, pools: &mut Pools) {
        drop(self.into_descriptor(pools));
    }

    /// Gives up the descriptor, and all memory back.
    pub(crate) fn into_descriptor(mut self, pools: &mut Pools) -> OwnedFd {
        assert!(self.is_idle(), "nothing is under way on a socket that is closed or given away");
        for segment in self.queue.drain(..) {
            release(pools, &segment);
        }
        if let Some((owner, _)) = self.tail.take() {
            pools.heads.release(owner);
        }
        pools.heads.release(self.buffer);
        self.fd
    }

    fn new_tail(&mut self, pools: &mut Pools, bytes: usize) -> bool {
        if let Some((owner, _)) = self.tail.take() {
            pools.heads.release(owner);
        }
        let Some(owner) = pools.heads.take_growing(HEAD_BYTES.max(bytes)) else { return false };
        self.tail = Some((owner, pools.heads.span(owner)));
        true
    }
}

fn release(pools: &mut Pools, segment: &Segment) {
    if segment.bulk {
        pools.payloads.release(segment.owner);
    } else {
        pools.heads.release(segment.owner);
    }
}

impl Pools {
    /// Pools of the usual sizes.
    pub(crate) fn new() -> std::io::Result<Pools> {
        let mut payloads = PayloadPool::new(PAYLOAD_BYTES, PAYLOAD_BYTES_MAX)?;
        let pinned = PINNED_BYTES.min(usize::try_from(lockable_bytes()).unwrap_or(usize::MAX) / 2);
        let pinned = payloads.prefer_beginning(pinned);
        Ok(Pools { payloads, heads: PayloadPool::new(HEADS_BYTES, HEADS_BYTES_MAX)?, pinned })
    }

    /// A buffer for bulk.
    pub(crate) fn take(&mut self, bytes: usize, share: Share) -> Option<PayloadId> {
        self.payloads.take(bytes, share)
    }
}

/// Bulk to begin with: enough for 32 requests of 1 MiB from front ends and peers at once.
const PAYLOAD_BYTES: usize = 128 << 20;
/// Bulk that is pinned once it was used, where that may be: what is under way with a deep queue. An ordinary user has half
/// of what he may lock, which is all of his processes together.
const PINNED_BYTES: usize = 32 << 20;
/// Bulk with the largest `max-buffers`.
const PAYLOAD_BYTES_MAX: usize = 1 << 30;
const HEADS_BYTES: usize = 4 << 20;
/// Heads and receive buffers: what the engine has queued for peers that do not read (bounded by its own tables).
const HEADS_BYTES_MAX: usize = 256 << 20;
