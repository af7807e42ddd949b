//! The memory that is used most is pinned by the kernel once, not looked up for every transfer: piece by piece, each when
//! it is first read into or written from. A daemon that is idle pins nothing.

#![allow(unsafe_code)]

use crate::payload_pool::{Span, HUGE_PAGE_BYTES};
use io_uring::Submitter;

/// No buffer crosses the border of a piece.
const PIECE_BYTES: usize = HUGE_PAGE_BYTES;

/// Memory that may be pinned, and what of it is.
#[derive(Debug, Default)]
pub(super) struct PinnedMemory {
    begin: usize,
    /// Whether each is pinned.
    pieces: Vec<bool>,
    /// No more of them.
    refused: bool,
}

impl PinnedMemory {
    /// That memory may be. The kernel is asked for the table of its pieces (Linux 5.19 has it).
    pub(super) fn of(span: Span, ring: &Submitter<'_>) -> std::io::Result<PinnedMemory> {
        let pieces = vec![false; span.len() / PIECE_BYTES];
        if !pieces.is_empty() {
            ring.register_buffers_sparse(pieces.len() as u32)?;
        }
        Ok(PinnedMemory { begin: span.as_ptr() as usize, pieces, refused: false })
    }

    /// Number of the piece that a span lies in. None: it cannot be pinned.
    pub(super) fn piece_of(&mut self, span: &Span, ring: &Submitter<'_>) -> Option<u16> {
        let from = (span.as_ptr() as usize).checked_sub(self.begin)?;
        let number = from / PIECE_BYTES;
        let is_pinned = *self.pieces.get(number)?;
        if from % PIECE_BYTES + span.len() > PIECE_BYTES {
            return None;
        }
        if !is_pinned {
            self.pin(number, ring)?;
        }
        Some(number as u16)
    }

    fn pin(&mut self, number: usize, ring: &Submitter<'_>) -> Option<()> {
        if self.refused {
            return None;
        }
        let at = (self.begin + number * PIECE_BYTES) as *mut libc::c_void;
        let piece = libc::iovec { iov_base: at, iov_len: PIECE_BYTES };
        // SAFETY: the memory of spans stays mapped for the life of the process.
        let pinned = unsafe { ring.register_buffers_update(number as u32, &[piece], None) };
        self.pieces[number] = pinned.is_ok();
        // A transfer from memory that is not pinned is slower, no more than that.
        self.refused = pinned.is_err();
        pinned.ok()
    }
}
