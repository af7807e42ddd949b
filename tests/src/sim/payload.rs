//! The payload pool of a simulated daemon. A payload's bytes are one tag per sector. Numbers are never used again, so
//! that a buffer used after its release is noticed.

use super::disk::Tag;
use drbd_core::ids::PayloadId;
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Debug)]
struct Buffer {
    tags: Rc<Vec<Tag>>,
    references: u32,
}

/// The pool.
#[derive(Debug, Default)]
pub(crate) struct Payloads {
    buffers: BTreeMap<u32, Buffer>,
    next: u32,
}

impl Payloads {
    /// A new buffer with that many references.
    pub(crate) fn take(&mut self, tags: Rc<Vec<Tag>>, references: u32) -> PayloadId {
        let id = self.next;
        self.next += 1;
        self.buffers.insert(id, Buffer { tags, references });
        PayloadId(id)
    }

    /// The content.
    pub(crate) fn tags(&self, id: PayloadId) -> Rc<Vec<Tag>> {
        let buffer =
            self.buffers.get(&id.0).unwrap_or_else(|| panic!("payload {id} is used after its release"));
        Rc::clone(&buffer.tags)
    }

    /// Overwrites the content.
    pub(crate) fn fill(&mut self, id: PayloadId, tags: Vec<Tag>) {
        let buffer =
            self.buffers.get_mut(&id.0).unwrap_or_else(|| panic!("payload {id} is filled after its release"));
        buffer.tags = Rc::new(tags);
    }

    /// One more reference.
    pub(crate) fn retain(&mut self, id: PayloadId) {
        let buffer =
            self.buffers.get_mut(&id.0).unwrap_or_else(|| panic!("payload {id} is held after its release"));
        buffer.references += 1;
    }

    /// Drops a reference.
    pub(crate) fn release(&mut self, id: PayloadId) {
        let buffer = self.buffers.get_mut(&id.0).unwrap_or_else(|| panic!("payload {id} is released twice"));
        buffer.references -= 1;
        if buffer.references == 0 {
            self.buffers.remove(&id.0);
        }
    }

    /// Buffers in use.
    pub(crate) fn in_use(&self) -> usize {
        self.buffers.len()
    }
}
