//! Page-aligned, reference-counted buffers for everything the kernel reads or writes on our behalf.
//!
//! A buddy allocator over one anonymous mapping: orders 0 (4 KiB) to 8 (1 MiB), a [`PayloadId`] is the number of the
//! first page. The beginning of the pool, which the ring may have pinned, is used before the rest. The mapping is never
//! unmapped, so a [`Span`] is valid memory for the life of the process whatever becomes of its buffer; what a reference
//! count protects is the meaning of the bytes, not the safety of the access.
//! The pool is bounded. Who asks tells its [`Share`]: front ends are the first to go without, packets of peers the
//! last, because only their arrival frees what the others hold.

#![allow(unsafe_code)]

use drbd_core::ids::PayloadId;
use std::ptr::NonNull;

/// Bytes of the smallest buffer.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Order of the largest buffer: 1 MiB.
const ORDER_MAX: usize = 8;
const ORDERS: usize = ORDER_MAX + 1;
/// Bytes of the largest buffer.
pub(crate) const BUFFER_BYTES_MAX: usize = PAGE_BYTES << ORDER_MAX;
/// Bytes of a huge page, to which the memory is aligned.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;
const NIL: u32 = u32::MAX;

/// Who asks for a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Share {
    /// A front end: leaves a quarter of the pool to the others.
    FrontEnd,
    /// A read the engine asked for: leaves an eighth to peers.
    Engine,
    /// Bulk of a peer, which is what frees buffers in the end: takes the last one.
    Peer,
    /// A write of a peer, which nobody here asked for: no more of them at once than [`WriteBounds`] say.
    PeerWrite,
}

/// How much memory the writes of a peer may hold at once (max-buffers).
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteBounds {
    /// Pages of all of them; a single one may be larger.
    pub(crate) pages: usize,
    /// How many they may be.
    pub(crate) writes: usize,
}

/// A stretch of pool memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is plain bytes that stay mapped for the life of the process; who may touch them when is decided by
// the one thread that owns the pool.
unsafe impl Send for Span {}

impl Span {
    /// Length.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Address, for the kernel.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// `bytes` bytes from `from` on.
    pub(crate) fn part(&self, from: usize, bytes: usize) -> Span {
        assert!(from + bytes <= self.bytes, "a part of a span lies within it");
        // SAFETY: within the span, as just checked.
        Span { at: unsafe { self.at.add(from) }, bytes }
    }

    /// All bytes from `from` on.
    pub(crate) fn from(&self, from: usize) -> Span {
        self.part(from, self.bytes - from)
    }

    /// This span and the one right behind it.
    pub(crate) fn joined(&self, next: Span) -> Span {
        assert!(self.as_ptr() as usize + self.bytes == next.as_ptr() as usize, "joined spans adjoin");
        Span { at: self.at, bytes: self.bytes + next.bytes }
    }

    /// The bytes. The caller sees to it that no operation that writes to them is under way.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: valid, initialised (anonymous memory) and never unmapped.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.bytes) }
    }

    /// Copies `source` to the beginning.
    pub(crate) fn put(&self, source: &[u8]) {
        assert!(source.len() <= self.bytes, "what is put into a span fits");
        // SAFETY: fits, as just checked; `source` may be pool memory, hence no assumption that they do not overlap.
        unsafe { std::ptr::copy(source.as_ptr(), self.at.as_ptr(), source.len()) }
    }

    /// Fills with zeroes.
    pub(crate) fn clear(&self) {
        // SAFETY: valid memory of that length.
        unsafe { std::ptr::write_bytes(self.at.as_ptr(), 0, self.bytes) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// Inside a larger block, or not part of the pool yet.
    Inner,
    /// First page of a free block.
    Free,
    /// First page of a buffer in use.
    Taken,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    refs: u32,
    previous: u32,
    next: u32,
    order: u8,
    used: Use,
    /// First page of a peer's write.
    write: bool,
}

/// The buffers.
#[derive(Debug)]
pub(crate) struct PayloadPool {
    base: NonNull<u8>,
    pages: Vec<Page>,
    /// First free blocks, of the beginning and of the rest.
    free: [[u32; ORDERS]; 2],
    beginning_pages: usize,
    free_pages: usize,
    /// Pages that belong to the pool by now; the mapping is larger.
    total_pages: usize,
    /// What peers' writes hold, and may.
    writes: WriteBounds,
    writes_max: WriteBounds,
    /// Counts releases, so that who waits for a buffer knows when to look again.
    pub(crate) releases: u64,
}

impl PayloadPool {
    /// A pool of `bytes` that can grow up to `bytes_max`.
    pub(crate) fn new(bytes: usize, bytes_max: usize) -> std::io::Result<PayloadPool> {
        let capacity = bytes_max.max(bytes).next_multiple_of(BUFFER_BYTES_MAX);
        let page = Page { refs: 0, previous: NIL, next: NIL, order: 0, used: Use::Inner, write: false };
        let mut pool = PayloadPool {
            base: map_pages(capacity)?,
            pages: vec![page; capacity / PAGE_BYTES],
            free: [[NIL; ORDERS]; 2],
            beginning_pages: 0,
            free_pages: 0,
            total_pages: 0,
            writes: WriteBounds { pages: 0, writes: 0 },
            writes_max: WriteBounds { pages: capacity / PAGE_BYTES, writes: capacity / PAGE_BYTES },
            releases: 0,
        };
        pool.grow_to(bytes);
        Ok(pool)
    }

    /// Peers' writes may hold as much as that from here on.
    pub(crate) fn bound_writes(&mut self, bounds: WriteBounds) {
        self.writes_max = bounds;
    }

    /// Makes the pool at least that large, within what was mapped.
    pub(crate) fn grow_to(&mut self, bytes: usize) {
        let step = BUFFER_BYTES_MAX / PAGE_BYTES;
        while self.total_pages * PAGE_BYTES < bytes && self.total_pages < self.pages.len() {
            self.push_free(self.total_pages as u32, ORDER_MAX);
            self.total_pages += step;
            self.free_pages += step;
        }
    }

    /// A buffer of at least `bytes` (rounded up to a power of two pages), with one reference.
    pub(crate) fn take(&mut self, bytes: usize, share: Share) -> Option<PayloadId> {
        assert!(bytes <= BUFFER_BYTES_MAX, "no buffer is larger than {BUFFER_BYTES_MAX} bytes");
        let order = order_of(bytes);
        let reserve = match share {
            Share::FrontEnd => self.total_pages / 4,
            Share::Engine => self.total_pages / 8,
            Share::Peer | Share::PeerWrite => 0,
        };
        let write = share == Share::PeerWrite;
        if self.free_pages < reserve + (1 << order) || (write && !self.may_write(1 << order)) {
            return None;
        }
        let of = |free: &[u32; ORDERS]| (order..ORDERS).find(|&o| free[o] != NIL).map(|o| (free[o], o));
        let (first, found) = self.free.iter().find_map(of)?;
        self.unlink(first, found);
        for smaller in (order..found).rev() {
            self.push_free(first + (1 << smaller), smaller);
        }
        self.free_pages -= 1 << order;
        let page = &mut self.pages[first as usize];
        *page = Page { refs: 1, previous: NIL, next: NIL, order: order as u8, used: Use::Taken, write };
        if write {
            self.writes.pages += 1 << order;
            self.writes.writes += 1;
        }
        Some(PayloadId(first))
    }

    /// One write of a peer is always taken: it could not be done otherwise.
    fn may_write(&self, pages: usize) -> bool {
        let WriteBounds { pages: held, writes } = self.writes;
        writes == 0 || (held + pages <= self.writes_max.pages && writes < self.writes_max.writes)
    }

    /// As [`take`](Self::take) for [`Share::Peer`], growing the pool where it must.
    pub(crate) fn take_growing(&mut self, bytes: usize) -> Option<PayloadId> {
        if let Some(taken) = self.take(bytes, Share::Peer) {
            return Some(taken);
        }
        self.grow_to((self.total_pages * PAGE_BYTES) + BUFFER_BYTES_MAX);
        self.take(bytes, Share::Peer)
    }

    /// One more reference.
    pub(crate) fn retain(&mut self, payload: PayloadId) {
        self.taken(payload).refs += 1;
    }

    /// One reference less; the last one gives the buffer back. NONE is no buffer.
    pub(crate) fn release(&mut self, payload: PayloadId) {
        if payload == PayloadId::NONE {
            return;
        }
        let page = self.taken(payload);
        page.refs -= 1;
        if page.refs > 0 {
            return;
        }
        let (order, write) = (usize::from(page.order), page.write);
        if write {
            self.writes.pages -= 1 << order;
            self.writes.writes -= 1;
        }
        self.free_pages += 1 << order;
        self.releases += 1;
        self.merge(payload.0, order);
    }

    /// Makes buffers of `part_bytes` (a power of two pages) out of one, in order of their bytes, each with one reference.
    pub(crate) fn divide(&mut self, payload: PayloadId, part_bytes: usize) -> Vec<PayloadId> {
        let page = *self.taken(payload);
        assert!(page.refs == 1, "payload {payload} is nobody else's");
        let order = usize::from(page.order);
        let part_order = order_of(part_bytes).min(order);
        self.writes.writes += if page.write { (1 << (order - part_order)) - 1 } else { 0 };
        let starts = (0..1 << (order - part_order)).map(|n| payload.0 + (n << part_order));
        let part = Page { order: part_order as u8, ..page };
        starts
            .map(|first| {
                self.pages[first as usize] = part;
                PayloadId(first)
            })
            .collect()
    }

    /// The whole memory of a buffer.
    pub(crate) fn span(&self, payload: PayloadId) -> Span {
        let page = self.pages[payload.0 as usize];
        assert!(page.used == Use::Taken, "payload {payload} is in use");
        // SAFETY: the page number lies within the mapping, as the table has one entry per page of it.
        let at = unsafe { self.base.add(payload.0 as usize * PAGE_BYTES) };
        Span { at, bytes: PAGE_BYTES << page.order }
    }

    /// From here on the first `bytes` of the pool are used before the rest, and that is their memory: in huge pages if there
    /// are any, because a disk's transfer has a limited number of pieces, often 128, and 1 MiB is 256 scattered pages. For a
    /// pool nothing was taken of yet; at most what it has.
    pub(crate) fn prefer_beginning(&mut self, bytes: usize) -> Span {
        let step = BUFFER_BYTES_MAX / PAGE_BYTES;
        let pages = (bytes / PAGE_BYTES).min(self.total_pages) / step * step;
        let moved = (0..pages.max(self.beginning_pages)).step_by(step);
        moved.clone().for_each(|first| self.unlink(first as u32, ORDER_MAX));
        self.beginning_pages = pages;
        moved.for_each(|first| self.push_free(first as u32, ORDER_MAX));
        let beginning = Span { at: self.base, bytes: pages * PAGE_BYTES };
        // SAFETY: changes how the kernel backs memory of that length, not what it holds. It may refuse.
        unsafe { libc::madvise(beginning.as_ptr().cast(), beginning.len(), libc::MADV_HUGEPAGE) };
        beginning
    }

    /// Bytes that writes of peers hold.
    pub(crate) fn write_bytes(&self) -> usize {
        self.writes.pages * PAGE_BYTES
    }

    /// Bytes not in use.
    #[cfg(test)]
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_pages * PAGE_BYTES
    }

    fn taken(&mut self, payload: PayloadId) -> &mut Page {
        let page = &mut self.pages[payload.0 as usize];
        assert!(page.used == Use::Taken, "payload {payload} is in use");
        page
    }

    fn merge(&mut self, mut first: u32, mut order: usize) {
        self.pages[first as usize].used = Use::Inner;
        while order < ORDER_MAX {
            let buddy = first ^ (1 << order);
            let page = self.pages[buddy as usize];
            if page.used != Use::Free || usize::from(page.order) != order {
                break;
            }
            self.unlink(buddy, order);
            first = first.min(buddy);
            order += 1;
        }
        self.push_free(first, order);
    }

    fn push_free(&mut self, first: u32, order: usize) {
        let list = usize::from(first as usize >= self.beginning_pages);
        let next = self.free[list][order];
        self.pages[first as usize] =
            Page { refs: 0, previous: NIL, next, order: order as u8, used: Use::Free, write: false };
        if next != NIL {
            self.pages[next as usize].previous = first;
        }
        self.free[list][order] = first;
    }

    fn unlink(&mut self, first: u32, order: usize) {
        let Page { previous, next, .. } = self.pages[first as usize];
        if previous == NIL {
            self.free[usize::from(first as usize >= self.beginning_pages)][order] = next;
        } else {
            self.pages[previous as usize].next = next;
        }
        if next != NIL {
            self.pages[next as usize].previous = previous;
        }
        self.pages[first as usize].used = Use::Inner;
    }
}

fn order_of(bytes: usize) -> usize {
    let pages = bytes.div_ceil(PAGE_BYTES).max(1);
    pages.next_power_of_two().trailing_zeros() as usize
}

fn map_pages(bytes: usize) -> std::io::Result<NonNull<u8>> {
    // SAFETY: a new anonymous mapping, nothing existing is touched.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes + HUGE_PAGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // Every buffer is aligned to its own size by that.
    let aligned = (at as usize).next_multiple_of(HUGE_PAGE_BYTES) - at as usize;
    // SAFETY: the mapping is larger by that much than what is used of it.
    NonNull::new(unsafe { at.cast::<u8>().add(aligned) }).ok_or_else(std::io::Error::last_os_error)
}

#[cfg(test)]
mod tests;
