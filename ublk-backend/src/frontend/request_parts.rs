//! What the engine did not take whole any more, because a peer came that cannot be sent it: taken apart as the limits are
//! now. What it held of memory is enough for that, but for zeroes that have to be sent as data.

use super::{UpperTable, Waiting};
use crate::payload_pool::Share;
use crate::stream::Pools;
use drbd_core::engine::{RequestLimits, RequestPart, UpperOp, UpperRequest};
use drbd_core::ids::{PayloadId, Sector};

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TakenApart {
    /// So many parts are to be asked of the engine.
    pub(super) parts: u32,
    /// There was no memory for the rest.
    pub(super) failed: bool,
}

/// Takes it apart.
pub(super) fn take_apart(
    waiting: &Waiting,
    payload: PayloadId,
    limits: &RequestLimits,
    pools: &mut Pools,
    uppers: &mut UpperTable,
) -> TakenApart {
    let whole = waiting.upper;
    let mut buffers = match payload {
        PayloadId::NONE => Vec::new(),
        payload => pools.payloads.divide(payload, limits.data_bytes as usize),
    }
    .into_iter();
    let mut zeroes = PayloadId::NONE;
    let mut done = 0;
    let mut outcome = TakenApart { parts: 0, failed: false };
    while done < whole.bytes {
        let (op, bytes, payload) = match limits.next_part(whole.op, whole.bytes - done) {
            RequestPart::Skip => break,
            RequestPart::Ask(bytes) => (whole.op, bytes, buffers.next().unwrap_or(PayloadId::NONE)),
            RequestPart::WriteZeroData(bytes) => {
                if zeroes == PayloadId::NONE {
                    let Some(taken) = pools.payloads.take_growing(bytes as usize) else {
                        outcome.failed = true;
                        break;
                    };
                    pools.payloads.span(taken).clear();
                    zeroes = taken;
                }
                pools.payloads.retain(zeroes);
                (UpperOp::Write, bytes, zeroes)
            }
        };
        let sector = Sector(whole.sector.0 + u64::from(done) / 512);
        let upper = UpperRequest { op, sector, bytes, payload, ..whole };
        let offset_bytes = waiting.offset_bytes + u64::from(done);
        uppers.insert_again(Waiting { offset_bytes, upper, ..*waiting });
        outcome.parts += 1;
        done += bytes;
    }
    buffers.for_each(|unused| pools.payloads.release(unused));
    pools.payloads.release(zeroes);
    outcome
}

/// A buffer of zeroes, the same for all parts of a request.
pub(super) fn zero_data(zeroes: &mut PayloadId, bytes: u32, pools: &mut Pools) -> Option<PayloadId> {
    if *zeroes == PayloadId::NONE || pools.payloads.span(*zeroes).len() < bytes as usize {
        let larger = pools.take(bytes as usize, Share::FrontEnd)?;
        pools.payloads.span(larger).clear();
        pools.payloads.release(std::mem::replace(zeroes, larger));
    }
    pools.payloads.retain(*zeroes);
    Some(*zeroes)
}
