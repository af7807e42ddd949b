//! What the users of a device talk to: the [NBD server](nbd), and by [`block_device`] a device of the kernel's: of
//! [`ublk`], whose requests come by [`ublk_queues`], or of its NBD client, which is one more connection to the server.
//! Which of them there is says [`choice`].
//!
//! A front end turns what its users ask into [`UpperRequest`]s within the limits the engine has at the moment, gives
//! each a tag and gets it back with the result. It asks for buffers before it reads bulk, and stops reading while there
//! are none.

pub(crate) mod awaiting_promotion;
pub(crate) mod block_device;
pub(crate) mod block_driver;
pub(crate) mod block_status;
pub(crate) mod certificates;
pub(crate) mod choice;
pub(crate) mod device_identity;
mod device_links;
mod generic_netlink;
mod kernel_nbd;
pub(crate) mod nbd;
mod nbd_contexts;
mod nbd_negotiation;
pub(crate) mod nbd_offer;
mod nbd_session;
pub(crate) mod nbd_settings;
mod of_resource;
mod openers;
mod read_only_switch;
mod request_parts;
pub(crate) mod tls_worker;
mod ublk;
mod ublk_commands;
mod ublk_control;
mod ublk_memory;
pub(crate) mod ublk_queues;

pub(crate) use block_status::{StatusContext, StatusRun};

use drbd_core::engine::{RequestLimits, UpperRequest};
use drbd_core::ids::{Sector, UpperTag, VolumeNumber};
use drbd_core::limits::REQUESTS_MAX;

/// Where a front end asks whether a volume may be opened now: its size, or a sentence why not.
pub(crate) trait Gate {
    /// Asked when a session begins.
    fn may_open(&self, volume: VolumeNumber) -> Result<Sector, String>;
    /// Asked before every request: what the engine takes now.
    fn limits(&self, volume: VolumeNumber) -> RequestLimits;
    /// What is known of a stretch of a volume, from its beginning: at least one run, and not more than `most`.
    fn block_status(
        &self,
        volume: VolumeNumber,
        context: StatusContext,
        stretch: std::ops::Range<u64>,
        most: usize,
    ) -> Vec<StatusRun>;
}

/// A front end, and who of its users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    /// A session of the NBD server.
    Nbd(u32),
    /// A ublk device.
    Ublk(u32),
}

/// Who waits for an upper request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Who asked.
    pub(crate) asker: Asker,
    /// Its request, of which this is a part.
    pub(crate) request: u32,
    /// Where the part begins in the request.
    pub(crate) offset_bytes: u64,
    /// What the engine was asked.
    pub(crate) upper: UpperRequest,
}

/// All upper requests under way, of all front ends, by tag.
#[derive(Debug, Default)]
pub(crate) struct UpperTable {
    entries: Vec<Option<Waiting>>,
    free: Vec<u32>,
    again: Vec<UpperRequest>,
}

impl UpperTable {
    /// Whether one more may be asked (the engine's table is bounded).
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() - self.free.len() < REQUESTS_MAX
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.len() == self.free.len()
    }

    /// Notes who waits; the tag is set.
    pub(crate) fn insert(&mut self, mut waiting: Waiting) -> UpperRequest {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.entries.push(None);
                self.entries.len() as u32 - 1
            }
        };
        waiting.upper.tag = UpperTag(slot);
        self.entries[slot as usize] = Some(waiting);
        waiting.upper
    }

    /// As [`insert`](Self::insert), for a part of what came back to be taken apart.
    pub(crate) fn insert_again(&mut self, waiting: Waiting) {
        let upper = self.insert(waiting);
        self.again.push(upper);
    }

    /// What the engine is to be asked because it did not take something whole.
    pub(crate) fn take_again(&mut self) -> std::vec::Drain<'_, UpperRequest> {
        self.again.drain(..)
    }

    /// Who waited.
    pub(crate) fn remove(&mut self, tag: UpperTag) -> Option<Waiting> {
        let waiting = self.entries.get_mut(tag.0 as usize)?.take();
        if waiting.is_some() {
            self.free.push(tag.0);
        }
        waiting
    }
}
