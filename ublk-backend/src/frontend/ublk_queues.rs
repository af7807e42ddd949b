//! ublk devices, as the data plane serves them: every tag of every queue is a command in the ring, which completes when
//! there is a request, and hands the next one in with the answer to the last.
//!
//! The bytes of a request are copied between the device and our own buffers, so that what is written, sent and summed is
//! the same whatever the application does to its memory meanwhile. A device is gone when the kernel gave all its
//! commands back.

use super::request_parts::{take_apart, zero_data, TakenApart};
use super::ublk_commands::{queue_code, queue_command, Operation};
use super::ublk_memory::{fetch, store, Descriptions, Place};
use super::{Asker, Gate, UpperTable, Waiting};
use crate::event_loop::Source;
use crate::payload_pool::Share;
use crate::ring::{Op, Ring};
use crate::stream::Pools;
use drbd_core::engine::{RequestPart, UpperOp, UpperRequest, UpperResult};
use drbd_core::ids::{PayloadId, Sector, UpperTag, VolumeNumber};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Devices of one daemon, queues of a device and tags of a queue, as bits of a name.
const QUEUE_BITS: u32 = 8;
const TAG_BITS: u32 = 12;
/// The largest length asked of the engine's limits at once.
const ASKED_BYTES_MAX: u64 = 1 << 30;

/// A device to be served, open and mapped.
#[derive(Debug)]
pub(crate) struct OpenDevice {
    /// Its volume.
    pub(crate) volume: VolumeNumber,
    file: File,
    queues: Vec<Descriptions>,
    depth: u16,
}

impl OpenDevice {
    /// Maps an open character device.
    pub(crate) fn new(
        volume: VolumeNumber,
        file: File,
        queues: u16,
        depth: u16,
    ) -> std::io::Result<OpenDevice> {
        let queues =
            (0..queues).map(|queue| Descriptions::map(&file, queue, depth)).collect::<Result<_, _>>()?;
        Ok(OpenDevice { volume, file, queues, depth })
    }
}

/// Names a tag of a queue of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    device: u32,
    queue: u16,
    tag: u16,
}

impl Slot {
    fn name(self) -> u32 {
        self.device << (QUEUE_BITS + TAG_BITS) | self.request()
    }

    /// Within the device.
    fn request(self) -> u32 {
        u32::from(self.queue) << TAG_BITS | u32::from(self.tag)
    }

    fn of(name: u32) -> Slot {
        Slot {
            device: name >> (QUEUE_BITS + TAG_BITS),
            queue: (name >> TAG_BITS & ((1 << QUEUE_BITS) - 1)) as u16,
            tag: (name & ((1 << TAG_BITS) - 1)) as u16,
        }
    }
}

/// A request, answered when all its parts are.
#[derive(Clone, Copy, Debug)]
struct Request {
    op: UpperOp,
    fua: bool,
    sector: Sector,
    bytes: u64,
    /// Bytes not yet asked of the engine.
    left_bytes: u64,
    outstanding: u32,
    failed: bool,
    /// Zeroes, while parts of it are written as data.
    zeroes: PayloadId,
}

#[derive(Debug)]
struct Queue {
    descriptions: Descriptions,
    requests: Vec<Option<Request>>,
}

#[derive(Debug)]
struct Device {
    volume: VolumeNumber,
    file: File,
    queues: Vec<Queue>,
    /// Commands that the kernel has.
    armed: usize,
    /// Requests that we have.
    held: usize,
    /// The kernel takes its commands back.
    ending: bool,
}

/// All devices.
#[derive(Debug, Default)]
pub(crate) struct UblkQueues {
    devices: Vec<Option<Device>>,
    /// Requests with parts that are not asked yet, in the order in which they came.
    asking: VecDeque<Slot>,
}

impl UblkQueues {
    /// Serves a device: its requests come from here on.
    pub(crate) fn serve(&mut self, device: OpenDevice, ring: &mut Ring) {
        let at = self.devices.iter().position(Option::is_none).unwrap_or_else(|| {
            self.devices.push(None);
            self.devices.len() - 1
        });
        let OpenDevice { volume, file, queues, depth } = device;
        let mut armed = 0;
        for queue in 0..queues.len() as u16 {
            for tag in 0..depth {
                let slot = Slot { device: at as u32, queue, tag };
                command(slot, &file, queue_code::FETCH, 0, ring);
                armed += 1;
            }
        }
        let of = |descriptions| Queue { descriptions, requests: vec![None; usize::from(depth)] };
        let queues = queues.into_iter().map(of).collect();
        self.devices[at] = Some(Device { volume, file, queues, armed, held: 0, ending: false });
    }

    /// A command completed. Names the volume whose device is gone with it. Afterwards [`next`](Self::next).
    pub(crate) fn on_command(&mut self, name: u32, result: i32) -> Option<VolumeNumber> {
        let slot = Slot::of(name);
        let device = self.devices[slot.device as usize].as_mut()?;
        device.armed -= 1;
        if result < 0 {
            device.ending = true;
            return self.reap(slot.device);
        }
        let queue = &mut device.queues[usize::from(slot.queue)];
        let asked = queue.descriptions.of(slot.tag);
        let (op, fua) = match asked.operation {
            Operation::Read => (Some(UpperOp::Read), false),
            Operation::Write { fua } => (Some(UpperOp::Write), fua),
            Operation::Flush => (Some(UpperOp::Flush), false),
            Operation::Discard => (Some(UpperOp::Discard), false),
            Operation::WriteZeroes { unmap } => (Some(UpperOp::WriteZeroes { unmap }), false),
            Operation::Other => (None, false),
        };
        let bytes = if op == Some(UpperOp::Flush) { 0 } else { asked.bytes };
        queue.requests[usize::from(slot.tag)] = Some(Request {
            op: op.unwrap_or(UpperOp::Flush),
            fua,
            sector: Sector(asked.sector),
            bytes,
            left_bytes: bytes,
            outstanding: 0,
            failed: op.is_none(),
            zeroes: PayloadId::NONE,
        });
        device.held += 1;
        self.asking.push_back(slot);
        None
    }

    /// What the engine is to be asked next. None: nothing, or there is no room or memory for it.
    pub(crate) fn next(
        &mut self,
        gate: &dyn Gate,
        ring: &mut Ring,
        pools: &mut Pools,
        uppers: &mut UpperTable,
    ) -> Option<UpperRequest> {
        while let Some(&slot) = self.asking.front() {
            let device = self.devices[slot.device as usize].as_mut()?;
            match device.next_part(slot, gate, pools, uppers) {
                Part::Ask { upper, last } => {
                    if last {
                        self.asking.pop_front();
                    }
                    return Some(upper);
                }
                Part::NoMore => {
                    self.asking.pop_front();
                    device.answer_if_done(slot, ring, pools);
                }
                Part::Stalled => return None,
            }
        }
        None
    }

    /// What a device waited for ended. A payload is ours from here on. Names the volume whose device is gone with it.
    /// Afterwards [`UpperTable::take_again`].
    pub(crate) fn complete(
        &mut self,
        waiting: &Waiting,
        (result, payload): (UpperResult, PayloadId),
        gate: &dyn Gate,
        ring: &mut Ring,
        pools: &mut Pools,
        uppers: &mut UpperTable,
    ) -> Option<VolumeNumber> {
        let Asker::Ublk(at) = waiting.asker else { return None };
        let device = self.devices[at as usize].as_mut()?;
        let slot = Slot::of(waiting.request);
        let slot = Slot { device: at, ..slot };
        if result == UpperResult::Split {
            let limits = gate.limits(device.volume);
            let TakenApart { parts, failed } = take_apart(waiting, payload, &limits, pools, uppers);
            if let Some(request) = device.request(slot) {
                request.outstanding += parts;
                request.failed |= failed;
            }
        } else {
            device.part_done(slot, waiting, result, payload, pools);
        }
        if let Some(request) = device.request(slot) {
            request.outstanding -= 1;
        }
        device.answer_if_done(slot, ring, pools);
        self.reap(at)
    }

    /// Forgets a device that is gone.
    fn reap(&mut self, at: u32) -> Option<VolumeNumber> {
        let device = self.devices[at as usize].as_ref()?;
        if !device.ending || device.armed > 0 || device.held > 0 {
            return None;
        }
        self.devices[at as usize].take().map(|device| device.volume)
    }
}

/// What a request wants.
enum Part {
    Ask { upper: UpperRequest, last: bool },
    NoMore,
    Stalled,
}

impl Device {
    fn request(&mut self, slot: Slot) -> Option<&mut Request> {
        self.queues[usize::from(slot.queue)].requests[usize::from(slot.tag)].as_mut()
    }

    fn next_part(&mut self, slot: Slot, gate: &dyn Gate, pools: &mut Pools, uppers: &mut UpperTable) -> Part {
        let limits = gate.limits(self.volume);
        let volume = self.volume;
        let Some(request) = self.queues[usize::from(slot.queue)].requests[usize::from(slot.tag)].as_mut()
        else {
            return Part::NoMore;
        };
        if request.failed {
            request.left_bytes = 0;
            return Part::NoMore;
        }
        if !uppers.has_room() {
            return Part::Stalled;
        }
        let left = request.left_bytes.min(ASKED_BYTES_MAX) as u32;
        let (op, bytes) = match limits.next_part(request.op, left) {
            RequestPart::Ask(bytes) => (request.op, bytes),
            RequestPart::WriteZeroData(bytes) => (UpperOp::Write, bytes),
            RequestPart::Skip => {
                request.left_bytes = 0;
                return Part::NoMore;
            }
        };
        let offset_bytes = request.bytes - request.left_bytes;
        let payload = match (request.op, op) {
            (UpperOp::Read | UpperOp::Write, _) => match pools.take(bytes as usize, Share::FrontEnd) {
                Some(payload) => payload,
                None => return Part::Stalled,
            },
            (_, UpperOp::Write) => match zero_data(&mut request.zeroes, bytes, pools) {
                Some(payload) => payload,
                None => return Part::Stalled,
            },
            _ => PayloadId::NONE,
        };
        if request.op == UpperOp::Write {
            let span = pools.payloads.span(payload).part(0, bytes as usize);
            let from = Place { queue: slot.queue, tag: slot.tag, offset_bytes };
            if fetch(&self.file, span, from).is_err() {
                pools.payloads.release(payload);
                request.failed = true;
                request.left_bytes = 0;
                return Part::NoMore;
            }
        }
        request.left_bytes -= u64::from(bytes);
        request.outstanding += 1;
        let sector = Sector(request.sector.0 + offset_bytes / 512);
        let upper = UpperRequest { tag: UpperTag(0), volume, op, sector, bytes, payload, fua: request.fua };
        let last = request.left_bytes == 0;
        if last {
            pools.payloads.release(std::mem::replace(&mut request.zeroes, PayloadId::NONE));
        }
        let waiting =
            Waiting { asker: Asker::Ublk(slot.device), request: slot.request(), offset_bytes, upper };
        Part::Ask { upper: uppers.insert(waiting), last }
    }

    /// A part is done: what was read is the application's.
    fn part_done(
        &mut self,
        slot: Slot,
        waiting: &Waiting,
        result: UpperResult,
        payload: PayloadId,
        pools: &mut Pools,
    ) {
        let mut failed = result != UpperResult::Done;
        if !failed && waiting.upper.op == UpperOp::Read {
            let span = pools.payloads.span(payload).part(0, waiting.upper.bytes as usize);
            let to = Place { queue: slot.queue, tag: slot.tag, offset_bytes: waiting.offset_bytes };
            failed = store(&self.file, span, to).is_err();
        }
        pools.payloads.release(payload);
        if let Some(request) = self.request(slot) {
            request.failed |= failed;
        }
    }

    fn answer_if_done(&mut self, slot: Slot, ring: &mut Ring, pools: &mut Pools) {
        let place = &mut self.queues[usize::from(slot.queue)].requests[usize::from(slot.tag)];
        let Some(request) = place.take_if(|r| r.outstanding == 0 && r.left_bytes == 0) else { return };
        pools.payloads.release(request.zeroes);
        // A request is at most as long as the device was said to take, which is less than 2 GiB; of what carries no
        // data the driver only looks at the sign.
        let result = if request.failed { -libc::EIO } else { request.bytes.min(i32::MAX as u64) as i32 };
        command(slot, &self.file, queue_code::COMMIT_AND_FETCH, result, ring);
        self.held -= 1;
        self.armed += 1;
    }
}

fn command(slot: Slot, device: &File, code: u32, result: i32, ring: &mut Ring) {
    let argument = queue_command(slot.queue, slot.tag, result);
    ring.queue(Source::Ublk.token(slot.name()), device.as_raw_fd(), Op::Driver { code, argument });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_has_a_name_of_its_own() {
        for slot in [
            Slot { device: 0, queue: 0, tag: 0 },
            Slot { device: 3, queue: 255, tag: 4095 },
            Slot { device: 4095, queue: 1, tag: 17 },
        ] {
            assert_eq!(Slot::of(slot.name()), slot);
        }
    }
}
