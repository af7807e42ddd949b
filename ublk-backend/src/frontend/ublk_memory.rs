//! What a ublk device and its server have in common: the descriptions of requests, written by the kernel, and the bytes
//! of requests, which the server copies by reads and writes of the character device.

#![allow(unsafe_code)]

use super::ublk_commands::{data_offset, Description, DESCRIPTION_BYTES, QUEUE_DEPTH_MAX};
use crate::payload_pool::Span;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// The descriptions of one queue.
#[derive(Debug)]
pub(super) struct Descriptions {
    at: NonNull<u8>,
    bytes: usize,
    depth: u16,
}

// SAFETY: read-only memory that nobody else knows, mapped until it is dropped.
unsafe impl Send for Descriptions {}

impl Descriptions {
    /// Of a queue of so many tags.
    pub(super) fn map(device: &File, queue: u16, depth: u16) -> std::io::Result<Descriptions> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as usize;
        let bytes = (usize::from(depth) * DESCRIPTION_BYTES).next_multiple_of(page);
        let apart = (QUEUE_DEPTH_MAX * DESCRIPTION_BYTES).next_multiple_of(page);
        let offset = (usize::from(queue) * apart) as libc::off_t;
        // SAFETY: a new mapping, nothing existing is touched; the kernel refuses what the device does not have.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                device.as_raw_fd(),
                offset,
            )
        };
        let failed = std::io::Error::last_os_error();
        match NonNull::new(at.cast()) {
            Some(at) if at.as_ptr() != libc::MAP_FAILED.cast() => Ok(Descriptions { at, bytes, depth }),
            _ => Err(failed),
        }
    }

    /// That of a tag, whose request is ours to answer.
    pub(super) fn of(&self, tag: u16) -> Description {
        assert!(tag < self.depth, "tags are below the queue's depth");
        // SAFETY: within the mapping, as just checked; the kernel writes it again only after the request was answered.
        let bytes = unsafe {
            self.at
                .as_ptr()
                .add(usize::from(tag) * DESCRIPTION_BYTES)
                .cast::<[u8; DESCRIPTION_BYTES]>()
                .read_volatile()
        };
        Description::decode(&bytes)
    }
}

impl Drop for Descriptions {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it but through us.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// Which bytes of which request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) queue: u16,
    pub(super) tag: u16,
    /// In the request.
    pub(super) offset_bytes: u64,
}

/// Copies the bytes of a write.
pub(super) fn fetch(device: &File, span: Span, from: Place) -> std::io::Result<()> {
    copy(span, from, |at, bytes, offset| {
        // SAFETY: a span is memory that stays mapped; the caller owns its bytes.
        unsafe { libc::pread64(device.as_raw_fd(), at.cast(), bytes, offset) }
    })
}

/// Copies the bytes of a read.
pub(super) fn store(device: &File, span: Span, to: Place) -> std::io::Result<()> {
    copy(span, to, |at, bytes, offset| {
        // SAFETY: as above.
        unsafe { libc::pwrite64(device.as_raw_fd(), at.cast(), bytes, offset) }
    })
}

fn copy(span: Span, place: Place, call: impl Fn(*mut u8, usize, i64) -> isize) -> std::io::Result<()> {
    let mut done = 0;
    while done < span.len() {
        let rest = span.from(done);
        let offset = data_offset(place.queue, place.tag, place.offset_bytes + done as u64);
        match call(rest.as_ptr(), rest.len(), offset as i64) {
            copied if copied > 0 => done += copied as usize,
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => match std::io::Error::last_os_error() {
                why if why.kind() == std::io::ErrorKind::Interrupted => {}
                why => return Err(why),
            },
        }
    }
    Ok(())
}
