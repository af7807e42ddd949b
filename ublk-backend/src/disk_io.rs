//! Operations on attached disks as the engine commands them: data, zeroes, flushes, metadata.
//!
//! What the kernel does in one call is one call. The rest is a few steps: short transfers go on where they stopped,
//! discards become zeroes where the disk does not promise that they read as such, except for whole pieces where that is
//! believed without a promise (discard-zeroes-if-aligned), metadata behind a barrier is flush, then write-through, and
//! requests finer than the disk's blocks are read, changed and written, one at a time.

use crate::discard_worker::DiscardWorker;
use crate::disk::OpenDisk;
use crate::event_loop::Source;
use crate::payload_pool::{Share, Span, BUFFER_BYTES_MAX};
use crate::ring::{Allocate, Op, Ring};
use crate::stream::Pools;
use drbd_core::engine::{DeviceBytes, DiskIo, DiskOp, Event, IoResult, MetaIo, MetaOp};
use drbd_core::ids::{DiskIoId, PayloadId, Sector, VolumeNumber};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};

/// What is to be done next for an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Read,
    Write,
    Sync,
    /// Flush before the write.
    Barrier,
    Punch,
    /// Give whole pieces back, by another thread.
    Discard,
    ZeroRange,
    ZeroWrite,
    /// Read the blocks around an unaligned request.
    BounceRead,
    /// Write them back.
    BounceWrite,
}

#[derive(Debug)]
struct DiskOperation {
    volume: VolumeNumber,
    io: DiskIoId,
    fd: RawFd,
    /// The file may hold whoever hands an operation in.
    apart: bool,
    step: Step,
    offset_bytes: u64,
    bytes: u64,
    done_bytes: u64,
    /// What a step without memory does in one call.
    part_bytes: u64,
    /// Whole pieces of this size are discarded, the rest becomes zeroes; 0: not so.
    piece_bytes: u64,
    stable: bool,
    /// What the disk wants requests to be multiples of.
    alignment: u64,
    /// It is not a read.
    changes: bool,
    /// Held while under way; NONE for metadata and zeroes.
    payload: PayloadId,
    /// The payload was taken here and goes to the engine.
    fresh: bool,
    /// Head memory of a metadata block.
    own: PayloadId,
    span: Option<Span>,
    bounce: Option<Bounce>,
}

/// Blocks an unaligned request touches, as many as there is memory for: what of them is the request's, and where that
/// begins in it.
#[derive(Clone, Copy, Debug)]
struct Bounce {
    offset_bytes: u64,
    span: Span,
    done_bytes: u64,
    bytes: u64,
}

/// An attached disk.
#[derive(Debug)]
struct Attached {
    volume: VolumeNumber,
    disk: OpenDisk,
    /// No request for data reaches further: what follows may be metadata.
    data_end_bytes: u64,
    outstanding: u32,
    closing: bool,
    punches: bool,
    zero_ranges: bool,
    /// Whole pieces of this size read as zeroes once they are discarded, it is believed; 0: not so.
    believed_bytes: u64,
}

/// All attached disks and what is under way on them.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    attached: Vec<Attached>,
    operations: Vec<Option<DiskOperation>>,
    free: Vec<u32>,
    /// Reads that wait for a buffer.
    starved: VecDeque<DiskIo>,
    /// Unaligned requests, one at a time, so that two of them never change the same block.
    unaligned: VecDeque<u32>,
    /// Memory for the blocks of the first of them.
    blocks: Option<Span>,
    zeroes: Option<Span>,
    failed: Vec<Event>,
    discards: Option<DiscardWorker>,
}

impl Disks {
    /// Without disks yet.
    pub(crate) fn new(discards: DiscardWorker) -> Disks {
        Disks { discards: Some(discards), ..Disks::default() }
    }

    /// Takes over an opened disk.
    pub(crate) fn attach(&mut self, volume: VolumeNumber, disk: OpenDisk) {
        let punches = disk.data.facts.discard_zeroes;
        self.attached.push(Attached {
            volume,
            data_end_bytes: disk.place.capacity.bytes(),
            disk,
            outstanding: 0,
            closing: false,
            punches,
            zero_ranges: true,
            believed_bytes: 0,
        });
    }

    /// Whether whole pieces that a disk was told to discard read as zeroes, although it does not promise that
    /// (discard-zeroes-if-aligned: device-mapper's thin volumes are such).
    pub(crate) fn believe_discards(&mut self, volume: VolumeNumber, believed: bool) {
        let possible = believed && self.discards.is_some();
        let Some(attached) = self.find(volume) else { return };
        let facts = attached.disk.data.facts;
        let believed = possible && facts.is_device && !facts.discard_zeroes;
        attached.believed_bytes = if believed { facts.discard_granularity.into() } else { 0 };
    }

    /// Closes the disk of a volume once nothing is under way on it.
    pub(crate) fn close(&mut self, volume: VolumeNumber) {
        for attached in self.attached.iter_mut().filter(|a| a.volume == volume) {
            attached.closing = true;
        }
        self.attached.retain(|a| !a.closing || a.outstanding > 0);
    }

    /// Whether the volume has a disk that is open.
    pub(crate) fn holds(&self, volume: VolumeNumber) -> bool {
        self.attached.iter().any(|a| a.volume == volume)
    }

    /// The file or device a volume's data is on.
    pub(crate) fn data_file(&self, volume: VolumeNumber) -> Option<&std::fs::File> {
        let attached = self.attached.iter().find(|a| a.volume == volume && !a.closing)?;
        Some(&attached.disk.data.file)
    }

    fn find(&mut self, volume: VolumeNumber) -> Option<&mut Attached> {
        self.attached.iter_mut().find(|a| a.volume == volume && !a.closing)
    }

    /// Events of operations that could not even be started.
    pub(crate) fn take_failed(&mut self) -> Option<Event> {
        self.failed.pop()
    }

    /// The device is that large now, and so its data.
    pub(crate) fn reach(&mut self, volume: VolumeNumber, size: Sector) {
        if let Some(attached) = self.find(volume) {
            attached.data_end_bytes = attached.data_end_bytes.max(size.bytes());
        }
    }

    /// How large the devices of a disk are now.
    pub(crate) fn measure(&mut self, volume: VolumeNumber) -> Option<DeviceBytes> {
        self.find(volume)?.disk.measure().ok()
    }

    /// Begins an operation on data.
    pub(crate) fn start(&mut self, io: DiskIo, ring: &mut Ring, pools: &mut Pools) {
        let Some(attached) = self.find(io.volume) else { return self.fail(io.io, libc::ENODEV) };
        let end_bytes = io.sector.bytes() + u64::from(io.bytes);
        if end_bytes > attached.data_end_bytes {
            return self.fail(io.io, libc::EINVAL);
        }
        let alignment = u64::from(attached.disk.data.alignment);
        let (fd, apart) = (attached.disk.data.file.as_raw_fd(), attached.disk.data.facts.may_block);
        let step = match io.op {
            DiskOp::Read => Step::Read,
            DiskOp::Write => Step::Write,
            DiskOp::Flush => Step::Sync,
            DiskOp::Discard | DiskOp::WriteZeroes { unmap: true } if attached.punches => Step::Punch,
            DiskOp::Discard if attached.believed_bytes > 0 => Step::Discard,
            DiskOp::Discard | DiskOp::WriteZeroes { .. } if attached.zero_ranges => Step::ZeroRange,
            DiskOp::Discard | DiskOp::WriteZeroes { .. } => Step::ZeroWrite,
        };
        let transfers = matches!(step, Step::Read | Step::Write);
        let mut operation = DiskOperation {
            volume: io.volume,
            io: io.io,
            fd,
            apart,
            step,
            offset_bytes: io.sector.bytes(),
            bytes: u64::from(io.bytes),
            done_bytes: 0,
            part_bytes: u64::from(io.bytes),
            piece_bytes: attached.believed_bytes,
            stable: io.fua,
            alignment,
            changes: io.op != DiskOp::Read,
            payload: PayloadId::NONE,
            fresh: false,
            own: PayloadId::NONE,
            span: None,
            bounce: None,
        };
        if transfers {
            operation.payload = io.payload;
            if io.payload == PayloadId::NONE {
                let Some(payload) = pools.take(io.bytes as usize, Share::Engine) else {
                    return self.starved.push_back(io);
                };
                (operation.payload, operation.fresh) = (payload, true);
            } else {
                pools.payloads.retain(io.payload);
            }
            operation.span = Some(pools.payloads.span(operation.payload).part(0, io.bytes as usize));
        }
        if step == Step::Discard {
            operation.next_part();
        }
        attached.outstanding += 1;
        let unaligned = (operation.offset_bytes | operation.bytes) % alignment != 0;
        let slot = self.insert(operation);
        if unaligned && step != Step::Sync {
            self.start_unaligned(slot, ring);
        } else {
            self.queue(slot, ring);
        }
    }

    /// Begins an operation on metadata; `block` is what the engine encoded for it.
    pub(crate) fn start_meta(&mut self, io: MetaIo, block: &[u8; 4096], ring: &mut Ring, pools: &mut Pools) {
        let Some(attached) = self.find(io.volume) else { return self.fail(io.io, libc::ENODEV) };
        let (fd, apart) =
            (attached.disk.meta_file().file.as_raw_fd(), attached.disk.meta_file().facts.may_block);
        let flush_only = io.op == MetaOp::Flush;
        let mut operation = DiskOperation {
            volume: io.volume,
            io: io.io,
            fd,
            apart,
            step: if flush_only {
                Step::Sync
            } else if io.barrier {
                Step::Barrier
            } else {
                Step::Write
            },
            offset_bytes: io.offset_bytes,
            bytes: 4096,
            done_bytes: 0,
            part_bytes: 0,
            piece_bytes: 0,
            stable: io.barrier,
            alignment: 4096,
            changes: true,
            payload: PayloadId::NONE,
            fresh: false,
            own: PayloadId::NONE,
            span: None,
            bounce: None,
        };
        if !flush_only {
            let Some(own) = pools.heads.take_growing(4096) else { return self.fail(io.io, libc::ENOMEM) };
            let span = pools.heads.span(own);
            span.put(block);
            (operation.own, operation.span) = (own, Some(span));
        }
        attached.outstanding += 1;
        let slot = self.insert(operation);
        self.queue(slot, ring);
    }

    /// An operation's step ended; the event, if that was the last one.
    pub(crate) fn on_done(
        &mut self,
        slot: u32,
        result: i32,
        ring: &mut Ring,
        pools: &mut Pools,
    ) -> Option<Event> {
        let operation = self.operations[slot as usize].as_mut()?;
        if result == -libc::EINTR || result == -libc::EAGAIN {
            self.queue(slot, ring);
            return None;
        }
        if result < 0 {
            return self.step_failed(slot, -result, ring, pools);
        }
        match operation.step {
            Step::Read | Step::Write | Step::ZeroWrite => {
                if result == 0 {
                    return self.finish(slot, Some(libc::EIO), ring, pools);
                }
                operation.done_bytes += result as u64;
                if operation.done_bytes < operation.bytes {
                    self.queue(slot, ring);
                    return None;
                }
                self.finish(slot, None, ring, pools)
            }
            Step::Sync => self.finish(slot, None, ring, pools),
            Step::Barrier => {
                operation.step = Step::Write;
                self.queue(slot, ring);
                None
            }
            Step::Punch | Step::Discard | Step::ZeroRange => {
                operation.done_bytes += operation.part_bytes;
                if operation.done_bytes < operation.bytes {
                    operation.next_part();
                    self.queue(slot, ring);
                    return None;
                }
                if operation.stable {
                    operation.step = Step::Sync;
                    self.queue(slot, ring);
                    return None;
                }
                self.finish(slot, None, ring, pools)
            }
            Step::BounceRead => {
                let wanted = operation.bounce.map_or(0, |b| b.span.len());
                if (result as usize) < wanted {
                    return self.finish(slot, Some(libc::EIO), ring, pools);
                }
                operation.merge_bounce();
                if operation.changes {
                    operation.step = Step::BounceWrite;
                    self.queue(slot, ring);
                    return None;
                }
                self.blocks_done(slot, ring, pools)
            }
            Step::BounceWrite => {
                let wanted = operation.bounce.map_or(0, |b| b.span.len());
                if (result as usize) < wanted {
                    return self.finish(slot, Some(libc::EIO), ring, pools);
                }
                self.blocks_done(slot, ring, pools)
            }
        }
    }

    /// A step failed: where the disk merely cannot do it that way, the next best way is taken, for good.
    fn step_failed(&mut self, slot: u32, error: i32, ring: &mut Ring, pools: &mut Pools) -> Option<Event> {
        let operation = self.operations[slot as usize].as_mut()?;
        let unsupported = matches!(error, libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL);
        let volume = operation.volume;
        let next = match operation.step {
            Step::Punch | Step::Discard if unsupported => Step::ZeroRange,
            Step::ZeroRange if unsupported => Step::ZeroWrite,
            _ => return self.finish(slot, Some(error), ring, pools),
        };
        let failed = std::mem::replace(&mut operation.step, next);
        operation.part_bytes = operation.bytes - operation.done_bytes;
        if let Some(attached) = self.attached.iter_mut().find(|a| a.volume == volume) {
            match failed {
                Step::Punch => attached.punches = false,
                Step::Discard => attached.believed_bytes = 0,
                _ => attached.zero_ranges = false,
            }
        }
        self.queue(slot, ring);
        None
    }

    fn finish(&mut self, slot: u32, error: Option<i32>, ring: &mut Ring, pools: &mut Pools) -> Option<Event> {
        if let Some(operation) = self.operations[slot as usize].as_mut().filter(|o| o.sync_due(error)) {
            operation.step = Step::Sync;
            self.queue(slot, ring);
            return None;
        }
        let operation = self.operations[slot as usize].take()?;
        self.free.push(slot);
        pools.heads.release(operation.own);
        let mut payload = PayloadId::NONE;
        if operation.fresh && error.is_none() {
            payload = operation.payload;
        } else {
            pools.payloads.release(operation.payload);
        }
        if let Some(attached) = self.attached.iter_mut().find(|a| a.volume == operation.volume) {
            attached.outstanding -= 1;
            if attached.closing && attached.outstanding == 0 {
                self.close(operation.volume);
            }
        }
        if operation.bounce.is_some() {
            self.unaligned.pop_front();
            if let Some(&next) = self.unaligned.front() {
                self.next_blocks(next, ring);
            }
        }
        let result = error.map_or(IoResult::Done, IoResult::Failed);
        Some(Event::DiskDone { io: operation.io, result, payload })
    }

    /// Reads that waited for a buffer.
    pub(crate) fn retry_starved(&mut self, ring: &mut Ring, pools: &mut Pools) {
        for _ in 0..self.starved.len() {
            let Some(io) = self.starved.pop_front() else { return };
            let before = self.starved.len();
            self.start(io, ring, pools);
            if self.starved.len() > before {
                // Still nothing: it went to the end, the order among reads does not matter.
                return;
            }
        }
    }

    fn start_unaligned(&mut self, slot: u32, ring: &mut Ring) {
        self.unaligned.push_back(slot);
        if self.unaligned.len() == 1 {
            self.next_blocks(slot, ring);
        }
    }

    /// The next blocks of an unaligned request. Those that are wholly its own need not be read to be changed.
    fn next_blocks(&mut self, slot: u32, ring: &mut Ring) {
        let memory = *self.blocks.get_or_insert_with(buffer_for_ever);
        let Some(operation) = self.operations[slot as usize].as_mut() else { return };
        let begin = operation.offset_bytes + operation.done_bytes;
        let end = operation.offset_bytes + operation.bytes;
        let first = begin / operation.alignment * operation.alignment;
        let last = end.next_multiple_of(operation.alignment).min(first + memory.len() as u64);
        operation.bounce = Some(Bounce {
            offset_bytes: first,
            span: memory.part(0, (last - first) as usize),
            done_bytes: operation.done_bytes,
            bytes: end.min(last) - begin,
        });
        operation.step = Step::BounceRead;
        if operation.changes && first == begin && last <= end {
            operation.merge_bounce();
            operation.step = Step::BounceWrite;
        }
        self.queue(slot, ring);
    }

    /// Blocks of an unaligned request were read or written: on to the next ones.
    fn blocks_done(&mut self, slot: u32, ring: &mut Ring, pools: &mut Pools) -> Option<Event> {
        let operation = self.operations[slot as usize].as_mut()?;
        operation.done_bytes += operation.bounce.map_or(0, |b| b.bytes);
        if operation.done_bytes == operation.bytes {
            return self.finish(slot, None, ring, pools);
        }
        self.next_blocks(slot, ring);
        None
    }

    fn queue(&mut self, slot: u32, ring: &mut Ring) {
        let zeroes = *self.zeroes.get_or_insert_with(buffer_for_ever);
        let Some(operation) = self.operations[slot as usize].as_ref() else { return };
        if let (Step::Discard, Some(discards)) = (operation.step, &self.discards) {
            let at = operation.offset_bytes + operation.done_bytes;
            return discards.ask(slot, operation.fd, at, operation.part_bytes);
        }
        let (token, op) = (Source::Disk.token(slot), operation.op(zeroes));
        if operation.apart {
            ring.queue_apart(token, operation.fd, op);
        } else {
            ring.queue(token, operation.fd, op);
        }
    }

    fn insert(&mut self, operation: DiskOperation) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.operations[slot as usize] = Some(operation);
                slot
            }
            None => {
                self.operations.push(Some(operation));
                self.operations.len() as u32 - 1
            }
        }
    }

    fn fail(&mut self, io: DiskIoId, error: i32) {
        self.failed.push(Event::DiskDone { io, result: IoResult::Failed(error), payload: PayloadId::NONE });
    }
}

impl DiskOperation {
    /// It is written, and a flush is what makes that stable. FUSE (Linux 6.18) forgets RWF_DSYNC where a direct write is
    /// asynchronous, so that no file system is trusted with it that is not known.
    fn sync_due(&self, error: Option<i32>) -> bool {
        error.is_none() && self.stable && self.apart && self.step != Step::Sync
    }

    fn op(&self, zeroes: Span) -> Op<'static> {
        let offset_bytes = self.offset_bytes + self.done_bytes;
        let rest = || self.span.map(|s| s.from(self.done_bytes as usize)).unwrap_or(zeroes.part(0, 0));
        match self.step {
            Step::Read => Op::Read { span: rest(), offset_bytes },
            Step::Write => Op::Write { span: rest(), offset_bytes, stable: self.stable && !self.apart },
            Step::Sync | Step::Barrier => Op::Sync,
            Step::Punch => Op::Allocate { how: Allocate::PunchHole, offset_bytes, bytes: self.part_bytes },
            // Without the thread that discards, zeroes do as well.
            Step::Discard | Step::ZeroRange => {
                Op::Allocate { how: Allocate::ZeroRange, offset_bytes, bytes: self.part_bytes }
            }
            Step::ZeroWrite => {
                let bytes = (self.bytes - self.done_bytes).min(zeroes.len() as u64);
                Op::Write {
                    span: zeroes.part(0, bytes as usize),
                    offset_bytes,
                    stable: self.stable && !self.apart,
                }
            }
            Step::BounceRead => self.bounce_op(false),
            Step::BounceWrite => self.bounce_op(true),
        }
    }

    /// The next call of a discard: whole pieces, or zeroes up to where they begin or behind them.
    fn next_part(&mut self) {
        let (at, end) = (self.offset_bytes + self.done_bytes, self.offset_bytes + self.bytes);
        let piece = self.piece_bytes.max(1);
        let (first, last) = (at.next_multiple_of(piece), end - end % piece);
        let (step, upto) = if at < first {
            (Step::ZeroRange, first.min(end))
        } else if at < last {
            (Step::Discard, last)
        } else {
            (Step::ZeroRange, end)
        };
        (self.step, self.part_bytes) = (step, upto - at);
    }

    fn bounce_op(&self, write: bool) -> Op<'static> {
        let bounce = self.bounce.expect("a bounce step has a bounce buffer");
        let Bounce { span, offset_bytes, .. } = bounce;
        if write {
            Op::Write { span, offset_bytes, stable: self.stable && !self.apart }
        } else {
            Op::Read { span, offset_bytes }
        }
    }

    /// Takes what was asked for from the blocks, or changes them.
    fn merge_bounce(&self) {
        let Some(bounce) = self.bounce else { return };
        let (done, bytes) = (bounce.done_bytes as usize, bounce.bytes as usize);
        let begin = self.offset_bytes + bounce.done_bytes - bounce.offset_bytes;
        let inside = bounce.span.part(begin as usize, bytes);
        match self.span {
            Some(span) if self.changes => inside.put(span.part(done, bytes).bytes()),
            Some(span) => span.part(done, bytes).put(inside.bytes()),
            None => inside.clear(),
        }
    }
}

/// The only buffer of a pool that is never dropped: zeroes, until someone writes to it.
fn buffer_for_ever() -> Span {
    let mut pool = crate::payload_pool::PayloadPool::new(BUFFER_BYTES_MAX, BUFFER_BYTES_MAX).expect("1 MiB");
    let buffer = pool.take(BUFFER_BYTES_MAX, Share::Peer).expect("a new pool has a buffer");
    pool.span(buffer)
}

#[cfg(test)]
mod tests;
