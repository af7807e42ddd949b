//! max-buffers: a peer that sends faster than the disk writes waits until earlier writes of it are done.
//!
//! Only writes wait: what answers a question of this node was bounded when it was asked. The stream behind a waiting
//! write waits with it, and may hold what an earlier write waits for (the other copy of a block that is being repaired):
//! when nothing has moved for a while one more write is let in, as the kernel's DRBD does. The pool is the last bound.

use crate::payload_pool::Share;
use crate::stream::Pools;
use drbd_core::ids::PayloadId;
use drbd_core::wire::Packet;
use std::time::{Duration, Instant};

/// How long nothing may move.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the write that arrives on a socket has waited.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Since when writes have held as much as now.
    stuck: Option<(Instant, usize)>,
}

impl Patience {
    /// A buffer for the bulk of a packet, if there is one for it now.
    pub(super) fn take(&mut self, packet: &Packet, bytes: usize, pools: &mut Pools) -> Option<PayloadId> {
        if !matches!(packet, Packet::Data(_)) {
            return pools.take(bytes, Share::Peer);
        }
        let held = pools.payloads.write_bytes();
        let taken = pools.take(bytes, Share::PeerWrite).or_else(|| {
            let &mut (since, then) = self.stuck.get_or_insert_with(|| (Instant::now(), held));
            if then != held {
                self.stuck = Some((Instant::now(), held));
                return None;
            }
            if since.elapsed() < PATIENCE {
                return None;
            }
            pools.take(bytes, Share::Peer)
        });
        if taken.is_some() {
            self.stuck = None;
        }
        taken
    }
}
