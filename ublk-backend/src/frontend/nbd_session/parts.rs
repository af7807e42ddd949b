//! How a client's request is taken apart into what the engine takes, before it is asked and when it comes back.

use super::{error, Filling, Kind, Part, Session, ASKED_BYTES_MAX};
use crate::frontend::request_parts::{take_apart, zero_data, TakenApart};
use crate::frontend::{Asker, UpperTable, Waiting};
use crate::payload_pool::Share;
use crate::ring::Ring;
use crate::stream::Pools;
use drbd_core::engine::{RequestLimits, RequestPart, UpperOp, UpperRequest};
use drbd_core::ids::{PayloadId, Sector, UpperTag};

impl Session {
    /// The next part of the current request.
    pub(in crate::frontend) fn next_part(
        &mut self,
        slot: u32,
        limits: &RequestLimits,
        ring: &mut Ring,
        pools: &mut Pools,
        uppers: &mut UpperTable,
    ) -> Part {
        let Some(current) = self.current else { return Part::Receive };
        let Some(request) = self.requests[current as usize].as_ref() else { return Part::Receive };
        if !uppers.has_room() {
            return Part::Stalled;
        }
        let op = request.kind.op();
        let left = request.left_bytes.min(ASKED_BYTES_MAX) as u32;
        let (op, bytes) = match limits.next_part(op, left) {
            // What is being received was measured when it began.
            RequestPart::Ask(bytes) => (op, self.filling.as_ref().map_or(bytes, |filling| filling.bytes)),
            RequestPart::WriteZeroData(bytes) => (UpperOp::Write, bytes),
            RequestPart::Skip => {
                self.skip_rest(current, pools);
                return Part::Skipped;
            }
        };
        let (kind, fua) = (request.kind, request.fua);
        let payload = match kind {
            Kind::Write => match self.receive(bytes, ring, pools) {
                Ok(payload) => payload,
                Err(part) => return part,
            },
            Kind::Read => match pools.take(bytes as usize, Share::FrontEnd) {
                Some(payload) => payload,
                None => return Part::Stalled,
            },
            Kind::WriteZeroes { .. } if op == UpperOp::Write => {
                match zero_data(&mut self.zeroes, bytes, pools) {
                    Some(payload) => payload,
                    None => return Part::Stalled,
                }
            }
            Kind::Flush | Kind::Trim | Kind::WriteZeroes { .. } => PayloadId::NONE,
        };
        let Some(request) = self.requests[current as usize].as_mut() else { return Part::Receive };
        let upper = UpperRequest {
            tag: UpperTag(0),
            volume: self.volume,
            op,
            sector: Sector::from_bytes(request.offset_bytes + request.asked_bytes),
            bytes,
            payload,
            fua: fua && kind != Kind::Read && kind != Kind::Flush,
        };
        let offset_bytes = request.asked_bytes;
        request.outstanding += 1;
        request.asked_bytes += u64::from(bytes);
        request.left_bytes -= u64::from(bytes);
        if request.left_bytes == 0 {
            self.current = None;
            pools.payloads.release(std::mem::replace(&mut self.zeroes, PayloadId::NONE));
        }
        Part::Ask(uppers.insert(Waiting { asker: Asker::Nbd(slot), request: current, offset_bytes, upper }))
    }

    /// The rest of the current request is not to be asked.
    fn skip_rest(&mut self, current: u32, pools: &mut Pools) {
        self.current = None;
        let Some(request) = self.requests[current as usize].as_mut() else { return };
        request.left_bytes = 0;
        if request.outstanding == 0 {
            self.answer(current, pools);
        }
    }

    /// The bulk of the next part of a write, once it is there.
    fn receive(&mut self, bytes: u32, ring: &mut Ring, pools: &mut Pools) -> Result<PayloadId, Part> {
        if self.filling.is_none() {
            let payload = pools.take(bytes as usize, Share::FrontEnd).ok_or(Part::Stalled)?;
            let rest = pools.payloads.span(payload).part(0, bytes as usize);
            self.filling = Some(Filling { payload, bytes, rest });
        }
        let filling = self.filling.as_mut().ok_or(Part::Receive)?;
        let taken = self.stream.take_into(filling.rest);
        filling.rest = filling.rest.from(taken);
        if filling.rest.len() > 0 {
            self.stream.arm(ring, Some(filling.rest));
            return Err(Part::Receive);
        }
        let payload = filling.payload;
        self.filling = None;
        Ok(payload)
    }

    /// The engine does not take a part whole any more.
    pub(in crate::frontend) fn part_again(
        &mut self,
        waiting: &Waiting,
        payload: PayloadId,
        limits: &RequestLimits,
        pools: &mut Pools,
        uppers: &mut UpperTable,
    ) {
        let TakenApart { parts, failed } = take_apart(waiting, payload, limits, pools, uppers);
        let Some(request) = self.requests[waiting.request as usize].as_mut() else { return };
        request.outstanding = request.outstanding - 1 + parts;
        if failed {
            request.error = error::IO;
        }
        if request.outstanding == 0 && request.left_bytes == 0 {
            self.answer(waiting.request, pools);
        }
    }
}
