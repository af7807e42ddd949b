//! Digests that travel before bulk (data-integrity-alg): over the buffer itself, which nobody writes to between the
//! arrival of a request and its end, so that what is digested is what is sent.

use crate::digest::Digest;
use crate::stream::Pools;
use drbd_core::engine::SocketLoss;
use drbd_core::ids::PayloadId;
use drbd_core::wire::header::DIGEST_MAX;
use drbd_core::wire::{Frame, Packet};

/// The digest of a packet's bulk, and its size: none without an algorithm.
pub(super) fn of_bulk(
    digest: Option<Digest>,
    payload: PayloadId,
    bytes: usize,
    pools: &Pools,
) -> ([u8; DIGEST_MAX], usize) {
    let mut place = [0; DIGEST_MAX];
    let size = match digest {
        Some(digest) if bytes > 0 => {
            let span = pools.payloads.span(payload).part(0, bytes);
            digest.write(span.bytes(), &mut place)
        }
        Some(_) | None => 0,
    };
    (place, size)
}

/// What arrived is not what was sent.
pub(super) fn failure(frame: &Frame) -> SocketLoss {
    let sector = match &frame.packet {
        Packet::Data(data) | Packet::DataReply(data) | Packet::RsDataReply(data) => data.sector.0,
        _ => 0,
    };
    let (name, bytes) = (frame.packet.name(), frame.packet.bulk_bytes());
    let text = format!(
        "Digest integrity check FAILED: {sector}s +{bytes}: the data of a {name} arrived changed, it is not used."
    );
    SocketLoss::Malformed(text.into())
}

/// The peer names an algorithm nobody knows here.
pub(super) fn unknown(algorithm: &str) -> SocketLoss {
    let text = format!("The peer wants data-integrity-alg '{algorithm}', which is not known here.");
    SocketLoss::Malformed(text.into())
}
