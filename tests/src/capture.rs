//! DRBD's packets in captured traffic (a pcap file, as tcpdump writes it), for people: a line each.
//!
//! TCP is put together again (segments out of order, sent twice), each direction of each socket goes through the framer,
//! and what the two directions must tell each other's reader (the agreed version, the size of digests) is handed on.

mod describe;
mod kept;
mod link;

use drbd_core::wire::{handshake, Features, Frame, Framer, Packet, Stream};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use describe::describe;
pub use kept::{keep, kept};
pub use link::{segments, NotACapture, Segment};

/// One packet, or the reason why a direction is not read further.
#[derive(Debug)]
pub struct Seen {
    /// Nanoseconds since the first segment of the capture.
    pub at_ns: u64,
    /// Who sent it.
    pub from: SocketAddr,
    /// Who got it.
    pub to: SocketAddr,
    /// Which socket of the connection it came on, once that is known.
    pub stream: Option<Stream>,
    /// The packet, or what is wrong with it.
    pub what: Result<Frame, String>,
    /// The packet as it was sent, without its bulk.
    pub bytes: Vec<u8>,
    /// The digest before its bulk, with data-integrity-alg.
    pub integrity: Vec<u8>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = match self.stream {
            Some(Stream::Data) => "data",
            Some(Stream::Control) => "ctrl",
            None => "?",
        };
        let seconds = self.at_ns as f64 / 1e9;
        write!(f, "{seconds:12.6} {} > {} {stream} ", self.from.ip(), self.to.ip())?;
        match &self.what {
            Ok(frame) => write!(f, "{}", describe(frame)),
            Err(why) => write!(f, "NOT READ FURTHER: {why}"),
        }
    }
}

/// One direction of a socket.
struct Direction {
    framer: Framer,
    /// Sequence number of the next byte, once a segment was seen.
    next: Option<u32>,
    /// Segments that came too early, by their number, and since when there are some.
    early: BTreeMap<u32, Vec<u8>>,
    early_since_ns: u64,
    pending: Vec<u8>,
    /// What the framer has of the packet that is not complete.
    partial: Vec<u8>,
    /// Bytes of bulk still to be passed over.
    bulk: usize,
    stream: Option<Stream>,
    features: Option<Features>,
    given_up: bool,
}

impl Direction {
    fn new() -> Direction {
        Direction {
            framer: Framer::new(),
            next: None,
            early: BTreeMap::new(),
            early_since_ns: 0,
            pending: Vec::new(),
            partial: Vec::new(),
            bulk: 0,
            stream: None,
            features: None,
            given_up: false,
        }
    }

    /// Bytes in their order.
    fn take(&mut self, segment: &Segment<'_>) {
        if segment.syn {
            *self = Direction { next: Some(segment.sequence.wrapping_add(1)), ..Direction::new() };
            return;
        }
        if segment.bytes.is_empty() {
            return;
        }
        if self.early.is_empty() {
            self.early_since_ns = segment.at_ns;
        }
        let next = *self.next.get_or_insert(segment.sequence);
        let ahead = segment.sequence.wrapping_sub(next);
        if ahead < 1 << 31 {
            self.early.entry(segment.sequence).or_insert_with(|| segment.bytes.to_vec());
        } else if let Some(fresh) = segment.bytes.get(ahead.wrapping_neg() as usize..) {
            self.early.entry(next).or_insert_with(|| fresh.to_vec());
        }
        while let Some((sequence, bytes)) = self.first_early() {
            let next = self.next.expect("set above");
            let old = next.wrapping_sub(sequence) as usize;
            if let Some(fresh) = bytes.get(old..) {
                self.pending.extend_from_slice(fresh);
                self.next = Some(next.wrapping_add(fresh.len() as u32));
            }
        }
    }

    /// The segment that goes on where everything before it ends, if it is there.
    fn first_early(&mut self) -> Option<(u32, Vec<u8>)> {
        let next = self.next?;
        let sequence = *self.early.keys().find(|sequence| next.wrapping_sub(**sequence) < 1 << 31)?;
        self.early.remove_entry(&sequence)
    }

    /// The next packet, if it is complete and may be read.
    fn next_packet(&mut self) -> Option<(Result<Frame, String>, Vec<u8>)> {
        let passed = self.bulk.min(self.pending.len());
        self.pending.drain(..passed);
        self.bulk -= passed;
        if self.given_up || self.bulk > 0 || self.pending.is_empty() {
            return None;
        }
        match self.framer.feed(&self.pending) {
            Ok(fed) => {
                self.partial.extend(self.pending.drain(..fed.consumed));
                let frame = fed.frame?;
                self.bulk = frame.packet.bulk_bytes() as usize;
                Some((Ok(frame), std::mem::take(&mut self.partial)))
            }
            Err(malformed) => {
                self.given_up = true;
                Some((Err(malformed.to_string()), Vec::new()))
            }
        }
    }
}

/// Reads a whole capture.
#[derive(Default)]
struct Reader {
    directions: HashMap<(SocketAddr, SocketAddr), Direction>,
    /// What two nodes agreed on last.
    versions: HashMap<(IpAddr, IpAddr), u32>,
    /// Of packets with bulk only what is before it is there.
    without_bulk: bool,
    seen: Vec<Seen>,
}

/// All packets of a capture, in the order in which they were complete.
///
/// # Errors
/// The bytes are no capture of a kind that is known.
pub fn packets(pcap: &[u8]) -> Result<Vec<Seen>, NotACapture> {
    let mut reader = Reader::default();
    for segment in segments(pcap)? {
        reader.take(&segment);
    }
    reader.tell_gaps();
    Ok(reader.seen)
}

fn pair(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    (a.min(b), a.max(b))
}

impl Reader {
    fn take(&mut self, segment: &Segment<'_>) {
        let key = (segment.from, segment.to);
        self.directions.entry(key).or_insert_with(Direction::new).take(segment);
        // What one direction says may let the other one be read on.
        self.read_all(key, segment.at_ns);
    }

    fn read_all(&mut self, key: (SocketAddr, SocketAddr), at_ns: u64) {
        while self.read(key, at_ns) | self.read((key.1, key.0), at_ns) {}
    }

    /// Whether there was anything to read.
    fn read(&mut self, key: (SocketAddr, SocketAddr), at_ns: u64) -> bool {
        let mut any = false;
        while let Some((what, bytes)) = self.directions.get_mut(&key).and_then(Direction::next_packet) {
            any = true;
            let mut integrity = Vec::new();
            if let Ok(frame) = &what {
                self.learn(key, &frame.packet);
                if frame.packet.bulk_bytes() > 0 {
                    integrity.extend(self.directions[&key].framer.integrity());
                }
            }
            let without_bulk = self.without_bulk;
            let direction = self.direction(key);
            if without_bulk {
                direction.bulk = 0;
            }
            let stream = direction.stream;
            self.seen.push(Seen { at_ns, from: key.0, to: key.1, stream, what, bytes, integrity });
        }
        any
    }

    /// Directions that could not be put together to the end.
    fn tell_gaps(&mut self) {
        let mut gaps: Vec<_> = self.directions.iter().filter(|(_, d)| !d.early.is_empty()).collect();
        gaps.sort_by_key(|(key, _)| **key);
        for (&(from, to), direction) in gaps {
            let what = Err("segments are missing from the capture".to_owned());
            let (at_ns, stream) = (direction.early_since_ns, direction.stream);
            self.seen.push(Seen { at_ns, from, to, stream, what, bytes: Vec::new(), integrity: Vec::new() });
        }
        self.seen.sort_by_key(|seen| seen.at_ns);
    }

    fn learn(&mut self, key: (SocketAddr, SocketAddr), packet: &Packet) {
        let back = (key.1, key.0);
        let nodes = pair(key.0.ip(), key.1.ip());
        match packet {
            Packet::InitialData => self.name_stream(key, Stream::Data),
            Packet::InitialMeta => {
                self.name_stream(key, Stream::Control);
                if let Some(version) = self.versions.get(&nodes).copied() {
                    self.set_version(key, version);
                }
            }
            Packet::Features(features) => {
                self.direction(key).features = Some(*features);
                if let Some(other) = self.direction(back).features {
                    if let Ok(agreed) = handshake::agree(*features, other) {
                        self.versions.insert(nodes, agreed.version);
                        self.set_version(key, agreed.version);
                    }
                }
            }
            Packet::Protocol(settings) | Packet::ProtocolUpdate(settings) => {
                let bytes = digest_bytes(&settings.integrity_alg);
                self.direction(key).framer.set_integrity_bytes(bytes);
            }
            _ => {}
        }
    }

    fn direction(&mut self, key: (SocketAddr, SocketAddr)) -> &mut Direction {
        self.directions.entry(key).or_insert_with(Direction::new)
    }

    fn name_stream(&mut self, key: (SocketAddr, SocketAddr), stream: Stream) {
        self.direction(key).stream = Some(stream);
        let back = self.direction((key.1, key.0));
        back.stream = Some(stream);
        back.framer.set_stream(stream);
    }

    fn set_version(&mut self, key: (SocketAddr, SocketAddr), version: u32) {
        self.direction(key).framer.set_version(version);
        self.direction((key.1, key.0)).framer.set_version(version);
    }
}

/// Of the algorithms a kernel has.
pub(crate) fn digest_bytes(algorithm: &str) -> usize {
    match algorithm {
        "" => 0,
        "crc32c" | "crc32" => 4,
        "md5" => 16,
        "sha224" => 28,
        "sha256" => 32,
        "sha384" => 48,
        "sha512" => 64,
        _ => 20,
    }
}

#[cfg(test)]
mod tests;
