//! Digests of the laboratory: nothing secret, but the same for the same.

use crate::engine::{Event, HmacPurpose};
use crate::ids::NodeId;

pub(super) fn hmac(peer: NodeId, purpose: HmacPurpose, key: &str, message: &[u8]) -> Event {
    let sum = key
        .bytes()
        .chain(message.iter().copied())
        .fold(7_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 65_521);
    Event::Hmac { peer, purpose, digest: Some(sum.to_be_bytes().into()) }
}
