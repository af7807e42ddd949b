//! Digests of what travels and of what is compared, and data that is changed on its way (data-integrity-alg).

use super::cluster::{Cluster, Happening};
use super::disk::Tag;
use super::node::Endpoint;
use drbd_core::engine::Direction;
use drbd_core::ids::SocketId;
use std::rc::Rc;

/// What a tag is changed by on its way: to one nobody ever wrote.
const FLIP: Tag = 1 << 39;

impl Cluster {
    /// From here on bulk in that direction has a digest before it, or has none any more.
    pub(crate) fn set_integrity(&mut self, node: usize, socket: SocketId, direction: Direction, on: bool) {
        let Some(endpoint) = self.daemon(node).sockets.get_mut(&socket.0) else { return };
        match direction {
            Direction::Sending => endpoint.sends_digest = on,
            Direction::Receiving => {
                endpoint.receives_digest = on;
                endpoint.framer.set_integrity_bytes(if on { digest_of(&[]).len() } else { 0 });
                // The framer has waited for that.
                let (connection, side) = (endpoint.connection, 1 - endpoint.side);
                self.clock.after(0, Happening::Deliver { connection, side });
            }
        }
    }

    /// What becomes of data on its way to the peer.
    pub(crate) fn on_the_way(&mut self, tags: Rc<Vec<Tag>>, has_digest: bool) -> Rc<Vec<Tag>> {
        let per_mille = self.changing.flips_per_mille;
        if !has_digest || per_mille == 0 || !self.dice.changes.chance(per_mille) {
            return tags;
        }
        let mut changed = tags.to_vec();
        let at = self.dice.changes.below(changed.len() as u64) as usize;
        changed[at] ^= FLIP;
        self.note(None, "FLIP", format_args!("sector {at} of {}", changed.len()));
        Rc::new(changed)
    }
}

/// What stands for any digest of a block.
pub(crate) fn digest_of(tags: &[Tag]) -> Box<[u8]> {
    toy_hmac("", format!("{tags:?}").as_bytes())
}

impl Endpoint {
    /// The bulk of the packet read last is what its digest says, if it has one.
    pub(crate) fn is_intact(&self, tags: &[Tag]) -> bool {
        !self.receives_digest || *self.framer.integrity() == *digest_of(tags)
    }
}

/// Not an HMAC: only something that depends on all of key and message.
pub(crate) fn toy_hmac(key: &str, message: &[u8]) -> Box<[u8]> {
    let mut state = 0x1234_5678_u64;
    for byte in key.bytes().chain(message.iter().copied()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(7);
    }
    // All of the state is in it: blocks that differ are not to have the same digest.
    state.to_le_bytes().into_iter().cycle().take(20).collect()
}
