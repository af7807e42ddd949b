//! What the users of a device talk to: the [NBD server](nbd), and by [`block_device`] the kernel's NBD client, which is
//! one more connection to it. Which of them there is says [`choice`]; ublk comes beside it.
//!
//! A front end turns what its users ask into [`UpperRequest`]s within the limits the engine has at the moment, gives
//! each a tag and gets it back with the result. It asks for buffers before it reads bulk, and stops reading while there
//! are none.

pub(crate) mod block_device;
pub(crate) mod block_status;
pub(crate) mod certificates;
pub(crate) mod choice;
mod device_links;
mod generic_netlink;
mod kernel_nbd;
pub(crate) mod nbd;
mod nbd_contexts;
mod nbd_negotiation;
pub(crate) mod nbd_offer;
mod nbd_session;
pub(crate) mod nbd_settings;
mod openers;
mod read_only_switch;
pub(crate) mod tls_worker;

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

/// Who waits for an upper request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Session of the front end.
    pub(crate) session: u32,
    /// Its request, of which this is a part.
    pub(crate) request: u32,
    /// Where the part begins in the request.
    pub(crate) offset_bytes: u64,
    /// What the engine was asked.
    pub(crate) upper: UpperRequest,
}

/// All upper requests under way, by tag.
#[derive(Debug, Default)]
pub(crate) struct UpperTable {
    entries: Vec<Option<Waiting>>,
    free: Vec<u32>,
}

impl UpperTable {
    /// Whether one more may be asked (the engine's table is bounded).
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() - self.free.len() < REQUESTS_MAX
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

    /// Who waited.
    pub(crate) fn remove(&mut self, tag: UpperTag) -> Option<Waiting> {
        let waiting = self.entries.get_mut(tag.0 as usize)?.take();
        if waiting.is_some() {
            self.free.push(tag.0);
        }
        waiting
    }
}
