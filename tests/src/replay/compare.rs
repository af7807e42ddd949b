//! What it means to send the same.

use crate::capture;
use drbd_core::ids::Sector;
use drbd_core::wire::{data_flag, feature, BlockAck, Extent, Frame, Packet};
use std::collections::{BTreeMap, VecDeque};

/// How packets of a kind are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Each, in order.
    OneByOne,
    /// A write of the node's users, in order.
    Write,
    /// Which blocks, or how many.
    Counted,
    NotCompared,
}

/// How packets of that kind are compared.
pub(super) fn kind_of(packet: &Packet) -> Kind {
    match packet {
        Packet::Data(_) | Packet::Trim(_) | Packet::Zeroes(_) => Kind::Write,
        Packet::RsDataReply(_)
        | Packet::RsDataRequest(_)
        | Packet::CsumRsRequest(_)
        | Packet::OvRequest(_)
        | Packet::OvReply(_)
        | Packet::RecvAck(_)
        | Packet::WriteAck(_)
        | Packet::RsWriteAck(_)
        | Packet::RsIsInSync(_)
        | Packet::OvResult(_)
        | Packet::BarrierAck { .. } => Kind::Counted,
        Packet::Barrier(_) | Packet::UnplugRemote | Packet::Ping | Packet::PingAck | Packet::Ignored => {
            Kind::NotCompared
        }
        _ => Kind::OneByOne,
    }
}

/// Whether two packets that are compared one by one are the same, apart from what udrbd says otherwise on purpose.
/// `digests`: with data-integrity-alg.
pub(super) fn alike(ours: &Frame, theirs: &Frame, digests: bool) -> bool {
    let mut ours = ours.clone();
    match (&mut ours.packet, &theirs.packet) {
        (Packet::Sizes(ours), Packet::Sizes(theirs)) => {
            if let (Some(ours), Some(theirs)) = (&mut ours.limits, &theirs.limits) {
                // That discarded blocks read as zeroes, which they do here, a kernel has not told since 4.12; none asks.
                ours.discard_zeroes_data = theirs.discard_zeroes_data;
            }
        }
        // A kernel expects a digest in P_ZEROES, which has no room for it: udrbd does not offer them then.
        (Packet::Features(ours), Packet::Features(_)) if digests => ours.flags |= feature::ZEROES,
        _ => {}
    }
    ours.packet == theirs.packet
}

/// Which of the packets the engine sent stands for that one: the first. Only a bitmap and a state may change places:
/// in a kernel two threads send them.
pub(super) fn next_for(theirs: &Frame, ours: &VecDeque<Frame>) -> Option<usize> {
    if is_bitmap(&theirs.packet) {
        ours.iter().position(|frame| !matches!(frame.packet, Packet::State(_)))
    } else if matches!(theirs.packet, Packet::State(_)) {
        ours.iter().position(|frame| !is_bitmap(&frame.packet))
    } else {
        (!ours.is_empty()).then_some(0)
    }
}

fn is_bitmap(packet: &Packet) -> bool {
    matches!(packet, Packet::Bitmap(_) | Packet::CompressedBitmap(_))
}

/// What was sent in a session of what is not compared one by one.
#[derive(Default)]
pub(super) struct Tally {
    /// In order.
    writes: Vec<String>,
    /// How often each sector was covered, by name of the packet and what it says.
    covered: BTreeMap<String, BTreeMap<u64, u32>>,
    /// Others, and how often.
    others: BTreeMap<String, u32>,
    packets: usize,
}

/// Hints, which depend on who asked and when.
const HINTS: u32 = data_flag::SYNC | data_flag::UNPLUG | data_flag::FLUSH;

impl Tally {
    pub(super) fn add(&mut self, frame: &Frame) {
        self.packets += 1;
        let name = frame.packet.name();
        match &frame.packet {
            Packet::Data(d) => self.write(name, d.sector, d.bytes, d.flags),
            Packet::Trim(t) | Packet::Zeroes(t) => self.write(name, t.sector, t.bytes, t.flags),
            Packet::RsDataReply(d) => self.cover(name.to_owned(), d.sector, d.bytes),
            Packet::RsDataRequest(b) | Packet::OvRequest(b) => self.cover(name.to_owned(), b.sector, b.bytes),
            Packet::CsumRsRequest(r) => self.cover(name.to_owned(), r.block.sector, r.block.bytes),
            Packet::OvReply(r) => {
                let digest: String = r.digest.iter().map(|byte| format!("{byte:02x}")).collect();
                let (sector, bytes) = (r.block.sector, r.block.bytes);
                *self.others.entry(format!("{name} {} {bytes} {digest}", sector.0)).or_default() += 1;
            }
            // Its verdict stands in place of the cookie.
            Packet::OvResult(a) => self.cover(format!("{name} {:x}", a.block_id), a.sector, a.bytes),
            Packet::RsIsInSync(a) | Packet::RsWriteAck(a) => self.cover(name.to_owned(), a.sector, a.bytes),
            Packet::RecvAck(BlockAck { sector, block_id, bytes, seq: _ })
            | Packet::WriteAck(BlockAck { sector, block_id, bytes, seq: _ }) => {
                *self.others.entry(format!("{name} {} {bytes} {block_id:x}", sector.0)).or_default() += 1;
            }
            _ => *self.others.entry(capture::describe(frame)).or_default() += 1,
        }
    }

    fn write(&mut self, name: &str, sector: Sector, bytes: u32, flags: u32) {
        self.writes.push(format!("{name} {} {bytes} flags {:#x}", sector.0, flags & !HINTS));
    }

    fn cover(&mut self, what: String, sector: Sector, bytes: u32) {
        let sectors = self.covered.entry(what).or_default();
        for sector in sector.0..sector.0 + u64::from(bytes) / 512 {
            *sectors.entry(sector).or_default() += 1;
        }
    }

    pub(super) fn packets(&self) -> usize {
        self.packets
    }

    pub(super) fn sectors(&self) -> u64 {
        self.covered.values().flat_map(BTreeMap::values).map(|n| u64::from(*n)).sum()
    }

    /// Whether the captured node, whose tally `theirs` is, sent the same.
    pub(super) fn compare(&self, theirs: &Tally) -> Result<(), String> {
        let unlike = self.writes.iter().zip(&theirs.writes).position(|(ours, theirs)| ours != theirs);
        let shorter = self.writes.len().min(theirs.writes.len());
        if let Some(n) = unlike.or((self.writes.len() != theirs.writes.len()).then_some(shorter)) {
            let [ours, theirs] = [self, theirs].map(|tally| tally.writes.get(n).map_or("nothing", |w| w));
            return Err(format!("write {n}: the captured node sent\n  {theirs}\nthe engine\n  {ours}"));
        }
        for what in self.covered.keys().chain(theirs.covered.keys()) {
            let (ours, theirs) = (self.covered.get(what), theirs.covered.get(what));
            if ours != theirs {
                let [ours, theirs] = [ours, theirs].map(ranges);
                return Err(format!("{what}: the captured node sent\n  {theirs}\nthe engine\n  {ours}"));
            }
        }
        for what in self.others.keys().chain(theirs.others.keys()) {
            let [ours, theirs] = [self, theirs].map(|tally| tally.others.get(what).copied().unwrap_or(0));
            if ours != theirs {
                return Err(format!(
                    "{what}: sent {theirs} times by the captured node, {ours} by the engine"
                ));
            }
        }
        Ok(())
    }
}

/// Sectors as people write them.
fn ranges(sectors: Option<&BTreeMap<u64, u32>>) -> String {
    let mut found: Vec<(u64, u64, u32)> = Vec::new();
    for (&sector, &times) in sectors.into_iter().flatten() {
        match found.last_mut() {
            Some((_, end, same)) if *end == sector && *same == times => *end += 1,
            _ => found.push((sector, sector + 1, times)),
        }
    }
    let words: Vec<_> = found.iter().map(|(first, end, times)| format!("{first}..{end} x{times}")).collect();
    let cut = words.len().min(20);
    words[..cut].join(", ")
}

/// An extent, of what covers one.
pub(super) fn extent(packet: &Packet) -> Option<Extent> {
    let (sector, bytes) = match packet {
        Packet::RsDataReply(d) => (d.sector, d.bytes),
        Packet::RsIsInSync(a) | Packet::OvResult(a) => (a.sector, a.bytes),
        Packet::RsDataRequest(b) | Packet::OvRequest(b) => (b.sector, b.bytes),
        Packet::CsumRsRequest(r) => (r.block.sector, r.block.bytes),
        _ => return None,
    };
    Some(Extent { sector, bytes })
}
