//! Whether a node acknowledges only what it was sent, and once.

use drbd_core::ids::Sector;
use drbd_core::wire::{BlockAck, Frame, Packet, BLOCK_ID_RESYNC};
use std::collections::{HashMap, VecDeque};

/// A write as its acknowledgement names it.
type Write = (Sector, u32, u64);

/// What a node was sent in a session and did not acknowledge yet.
#[derive(Default, Debug)]
pub(super) struct Owed {
    /// Not yet said to be received, and not yet to be written: a write may ask for both.
    received: HashMap<Write, u32>,
    written: HashMap<Write, u32>,
    barriers: HashMap<u32, u32>,
    /// What was delivered and said last.
    last: VecDeque<String>,
}

/// So many packets are told when an answer is wrong.
const LAST: usize = 12;

impl Owed {
    /// That was delivered.
    pub(super) fn delivered(&mut self, frame: &Frame) {
        self.note("got", frame);
        let write = match &frame.packet {
            Packet::Data(d) => (d.sector, d.bytes, d.block_id),
            // Acknowledged as of the resync, whatever its cookie.
            Packet::RsDataReply(d) => (d.sector, d.bytes, BLOCK_ID_RESYNC),
            Packet::Trim(t) | Packet::Zeroes(t) => (t.sector, t.bytes, t.block_id),
            Packet::RsDeallocated(e) => (e.sector, e.bytes, BLOCK_ID_RESYNC),
            Packet::Barrier(number) => {
                *self.barriers.entry(*number).or_default() += 1;
                return;
            }
            _ => return,
        };
        *self.received.entry(write).or_default() += 1;
        *self.written.entry(write).or_default() += 1;
    }

    /// It answers; if that answers nothing, why.
    pub(super) fn answers(&mut self, frame: &Frame) -> Result<(), String> {
        self.note("said", frame);
        let (left, what) = match &frame.packet {
            Packet::RecvAck(a) => (self.received.get_mut(&write(a)), "write"),
            Packet::WriteAck(a)
            | Packet::RsWriteAck(a)
            | Packet::Superseded(a)
            | Packet::RetryWrite(a)
            | Packet::NegAck(a) => (self.written.get_mut(&write(a)), "write"),
            Packet::BarrierAck { barrier, .. } => (self.barriers.get_mut(barrier), "barrier"),
            _ => return Ok(()),
        };
        match left {
            Some(left) if *left > 0 => {
                *left -= 1;
                Ok(())
            }
            _ => {
                let last: Vec<_> = self.last.iter().map(String::as_str).collect();
                Err(format!("the last packet is for no {what} it was sent:\n{}", last.join("\n")))
            }
        }
    }

    fn note(&mut self, how: &str, frame: &Frame) {
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(format!("{how} {}", crate::capture::describe(frame)));
    }
}

fn write(ack: &BlockAck) -> Write {
    (ack.sector, ack.bytes, ack.block_id)
}
