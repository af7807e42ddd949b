//! Bytes of one direction of one socket to packets: "how many bytes do I need next", as a pure machine.
//!
//! A framer expects header 80 until [`Framer::set_version`]. Three packets change how the bytes after them are to be
//! read, so the framer takes nothing further until it is told:
//!
//! - P_CONNECTION_FEATURES: [`Framer::set_version`];
//! - P_PROTOCOL and P_PROTOCOL_UPDATE that name a data-integrity algorithm, or end the use of one:
//!   [`Framer::set_integrity_bytes`].
//!
//! After a frame with [bulk](super::Packet::bulk_bytes) the caller takes exactly that many bytes off the stream itself
//! before it feeds again; the framer does not see them.

use super::decode::decode;
use super::header::{
    bad_magic, header_bytes, in_header, kind_by_magic, Command, Header, HeaderKind, Size, BLOCK_BYTES,
    DIGEST_MAX,
};
use super::{Frame, Malformed, Packet, Stream};
use crate::limits::CONTROL_PACKET_MAX;
use std::fmt;

/// What [`Framer::feed`] made of the bytes.
#[derive(Debug)]
pub struct Fed {
    /// So many of the bytes given were taken.
    pub consumed: usize,
    /// The packet they completed, if any.
    pub frame: Option<Frame>,
}

/// The reader of one direction of one socket.
pub struct Framer {
    rules: Rules,
    awaits: Awaits,
    /// The digest of the bulk of the frame delivered last.
    digest: [u8; DIGEST_MAX],
    /// The beginning of a packet that did not arrive in one piece.
    partial: Box<[u8; CONTROL_PACKET_MAX]>,
    filled: usize,
    /// The stream is lost after a malformed packet.
    broken: Option<Malformed>,
}

/// What must happen before more is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaits {
    Bytes,
    Version,
    Integrity,
}

impl Framer {
    /// A framer for a fresh socket, which does not know its stream until told, or until the first packet
    /// (P_INITIAL_DATA or P_INITIAL_META) tells.
    pub fn new() -> Framer {
        Framer {
            rules: Rules { stream: None, version: None, integrity: 0 },
            awaits: Awaits::Bytes,
            digest: [0; DIGEST_MAX],
            partial: Box::new([0; CONTROL_PACKET_MAX]),
            filled: 0,
            broken: None,
        }
    }

    /// Which stream this is, if that is known.
    pub fn stream(&self) -> Option<Stream> {
        self.rules.stream
    }

    /// The beginning of a packet that has not arrived completely.
    pub fn unconsumed(&self) -> &[u8] {
        &self.partial[..self.filled]
    }

    /// Which stream this is: packets of the other one are malformed from here on.
    pub fn set_stream(&mut self, stream: Stream) {
        self.rules.stream = Some(stream);
    }

    /// The agreed version: decides the headers from the next packet on, and the form of some packets.
    pub fn set_version(&mut self, version: u32) {
        self.rules.version = Some(version);
        if self.awaits == Awaits::Version {
            self.awaits = Awaits::Bytes;
        }
    }

    /// Size of the data-integrity digest that precedes bulk from the next packet on; 0 without data-integrity-alg.
    pub fn set_integrity_bytes(&mut self, bytes: usize) {
        assert!(bytes <= DIGEST_MAX, "a digest of {bytes} bytes");
        self.rules.integrity = bytes;
        if self.awaits == Awaits::Integrity {
            self.awaits = Awaits::Bytes;
        }
    }

    /// The data-integrity digest of the bulk of the frame delivered last; empty without data-integrity-alg.
    pub fn integrity(&self) -> &[u8] {
        &self.digest[..self.rules.integrity]
    }

    /// How many bytes more are needed to make progress; 0 while the framer waits to be told something (see above).
    pub fn wanted(&self) -> usize {
        if self.awaits != Awaits::Bytes || self.broken.is_some() {
            return 0;
        }
        self.rules.outline(&self.partial[..self.filled]).map_or(0, |outline| outline.bytes() - self.filled)
    }

    /// Takes at most one packet off the front of `bytes`. With no packet complete, all bytes are taken, except while
    /// the framer waits to be told something: then none is.
    ///
    /// A malformed packet is the end: every later call answers the same.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Fed, Malformed> {
        if let Some(malformed) = self.broken {
            return Err(malformed);
        }
        if self.awaits != Awaits::Bytes {
            return Ok(Fed { consumed: 0, frame: None });
        }
        let fed = if self.filled == 0 { self.feed_whole(bytes) } else { self.feed_partial(bytes) };
        fed.inspect_err(|malformed| self.broken = Some(*malformed))
    }

    /// Nothing is kept from before: a packet complete in `bytes` is not copied.
    #[inline]
    fn feed_whole(&mut self, bytes: &[u8]) -> Result<Fed, Malformed> {
        match self.rules.outline(bytes)? {
            Outline::Packet { header, command, bytes: length } if length <= bytes.len() => {
                let frame = self.rules.frame(header, command, &bytes[..length], &mut self.digest)?;
                self.after(&frame.packet);
                Ok(Fed { consumed: length, frame: Some(frame) })
            }
            Outline::Header { .. } | Outline::Packet { .. } => {
                self.partial[..bytes.len()].copy_from_slice(bytes);
                self.filled = bytes.len();
                Ok(Fed { consumed: bytes.len(), frame: None })
            }
        }
    }

    fn feed_partial(&mut self, bytes: &[u8]) -> Result<Fed, Malformed> {
        let mut consumed = 0;
        loop {
            let outline = self.rules.outline(&self.partial[..self.filled])?;
            let missing = outline.bytes() - self.filled;
            if let (0, Outline::Packet { header, command, .. }) = (missing, outline) {
                let packet = &self.partial[..self.filled];
                let frame = self.rules.frame(header, command, packet, &mut self.digest)?;
                self.filled = 0;
                self.after(&frame.packet);
                return Ok(Fed { consumed, frame: Some(frame) });
            }
            let piece = &bytes[consumed..][..missing.min(bytes.len() - consumed)];
            if piece.is_empty() {
                return Ok(Fed { consumed, frame: None });
            }
            self.partial[self.filled..][..piece.len()].copy_from_slice(piece);
            self.filled += piece.len();
            consumed += piece.len();
        }
    }

    /// Some packets decide how the following ones are read.
    #[inline]
    fn after(&mut self, packet: &Packet) {
        match packet {
            Packet::InitialData => self.rules.stream = Some(Stream::Data),
            Packet::InitialMeta => self.rules.stream = Some(Stream::Control),
            Packet::Features(_) => self.awaits = Awaits::Version,
            Packet::Protocol(settings) | Packet::ProtocolUpdate(settings)
                if self.rules.integrity > 0 || !settings.integrity_alg.is_empty() =>
            {
                self.awaits = Awaits::Integrity;
            }
            _ => {}
        }
    }
}

impl Default for Framer {
    fn default() -> Framer {
        Framer::new()
    }
}

impl fmt::Debug for Framer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framer")
            .field("rules", &self.rules)
            .field("awaits", &self.awaits)
            .field("filled", &self.filled)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// What is known about how to read the stream.
#[derive(Clone, Copy, Debug)]
struct Rules {
    stream: Option<Stream>,
    version: Option<u32>,
    /// Size of the data-integrity digest in front of bulk.
    integrity: usize,
}

/// How far the bytes at hand describe a packet.
#[derive(Clone, Copy)]
enum Outline {
    /// Its header is not complete, and ends after so many bytes at least.
    Header { bytes: usize },
    /// Header and fixed part are so long together, never more than [`CONTROL_PACKET_MAX`].
    Packet { header: Header, command: Command, bytes: usize },
}

impl Outline {
    fn bytes(&self) -> usize {
        match *self {
            Outline::Header { bytes } | Outline::Packet { bytes, .. } => bytes,
        }
    }
}

impl Rules {
    #[inline]
    fn outline(&self, bytes: &[u8]) -> Result<Outline, Malformed> {
        let Some(&first) = bytes.first_chunk() else {
            return Ok(Outline::Header { bytes: header_bytes(self.version.unwrap_or(0)) });
        };
        let kind = kind_by_magic(first)?;
        if !self.admits(kind) {
            return Err(bad_magic(first));
        }
        if bytes.len() < kind.bytes() {
            return Ok(Outline::Header { bytes: kind.bytes() });
        }
        let header = Header::read(kind, bytes)?;
        let command = self.command(header)?;
        let fixed = command.fixed_bytes(header.length, self.integrity)?;
        match kind.bytes() + fixed {
            0..=CONTROL_PACKET_MAX => Ok(Outline::Packet { header, command, bytes: kind.bytes() + fixed }),
            _ => Err(command.malformed("length", u64::from(header.length))),
        }
    }

    /// Before a version is agreed everything has header 80. But a peer that has already seen both features packets
    /// may ping under the agreed header before this node has seen the peer's.
    #[inline]
    fn admits(&self, kind: HeaderKind) -> bool {
        match self.version {
            None => kind == HeaderKind::H80 || self.stream == Some(Stream::Control),
            Some(0..=94) => kind == HeaderKind::H80,
            Some(95..=99) => kind != HeaderKind::H100,
            Some(_) => kind == HeaderKind::H100,
        }
    }

    #[inline]
    fn command(&self, header: Header) -> Result<Command, Malformed> {
        let number = header.command;
        let Some(command) = Command::from_number(number) else {
            return Err(in_header("command", u64::from(number)));
        };
        let in_time = match (self.stream, self.version) {
            (None, _) => matches!(command, Command::InitialData | Command::InitialMeta),
            (Some(Stream::Data), None) => command.is_opening(),
            (Some(Stream::Control), None) => true,
            (Some(_), Some(_)) => !command.is_opening(),
        };
        if !in_time {
            return Err(command.malformed("command at this point of the stream", u64::from(number)));
        }
        match self.stream {
            Some(Stream::Data) if !command.carrier().is(Stream::Data) => {
                Err(command.malformed("command on the data stream", u64::from(number)))
            }
            Some(Stream::Control) if !command.carrier().is(Stream::Control) => {
                Err(command.malformed("command on the control stream", u64::from(number)))
            }
            Some(_) | None => Ok(command),
        }
    }

    /// Decodes a whole packet (without its bulk), leaving the digest of the bulk in `digest`.
    #[inline]
    fn frame(
        &self,
        header: Header,
        command: Command,
        packet: &[u8],
        digest: &mut [u8; DIGEST_MAX],
    ) -> Result<Frame, Malformed> {
        let mut body = &packet[header.kind.bytes()..];
        let mut bulk = 0;
        if command.size() == Size::Bulk {
            bulk = header.length - body.len() as u32;
            let integrity;
            (body, integrity) = body.split_at(BLOCK_BYTES);
            digest[..integrity.len()].copy_from_slice(integrity);
        }
        let packet = decode(command, body, bulk, self.version.unwrap_or(0))?;
        Ok(Frame { volume: header.volume, packet })
    }
}

#[cfg(test)]
mod tests;
