//! Packet headers and the table of commands.
//!
//! Three headers exist. Which one a packet has follows from the agreed version and, from 95 to 99, from the length of
//! its payload; before a version is agreed it is always [`HeaderKind::H80`].

use super::{Malformed, Stream};
use crate::ids::VolumeNumber;
use crate::limits::{CONTROL_PACKET_MAX, REQUEST_BYTES_MAX};

const MAGIC_80: u32 = 0x8374_0267;
const MAGIC_95: u16 = 0x835a;
const MAGIC_100: u32 = 0x8620_ec20;

/// Header 80 and 95 are this long.
pub const HEADER_SHORT: usize = 8;
/// Header 100 is this long.
pub const HEADER_LONG: usize = 16;

/// Longest payload that has header 80 in versions 95..=99.
const HEADER_80_PAYLOAD_MAX: u32 = 32 << 10;

/// Longest data-integrity, checksum or verify digest, and longest HMAC (512 bit).
pub const DIGEST_MAX: usize = 64;
/// Challenges are this long; longer ones, up to twice that, are taken.
pub const CHALLENGE_BYTES: usize = 64;
/// Strings of the wire, their NUL included.
pub(super) const STRING_MAX: usize = 64;

/// The form of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderKind {
    /// 8 bytes, 16-bit length.
    H80,
    /// 8 bytes, 32-bit length.
    H95,
    /// 16 bytes with the volume.
    H100,
}

impl HeaderKind {
    /// The header that `version` uses for a payload of `length` bytes.
    pub const fn of(version: u32, length: u32) -> HeaderKind {
        if version >= 100 {
            HeaderKind::H100
        } else if version >= 95 && length > HEADER_80_PAYLOAD_MAX {
            HeaderKind::H95
        } else {
            HeaderKind::H80
        }
    }

    /// Bytes of the header.
    pub const fn bytes(self) -> usize {
        match self {
            HeaderKind::H80 | HeaderKind::H95 => HEADER_SHORT,
            HeaderKind::H100 => HEADER_LONG,
        }
    }
}

/// Bytes of the headers of a version (80 and 95 are equally long).
pub const fn header_bytes(version: u32) -> usize {
    if version >= 100 {
        HEADER_LONG
    } else {
        HEADER_SHORT
    }
}

/// Longest payload of a packet without bulk.
pub const fn control_payload_max(version: u32) -> usize {
    CONTROL_PACKET_MAX - header_bytes(version)
}

/// Largest data request, and largest `max_bio_size` announced, with a peer of that version.
pub const fn request_bytes_max(version: u32) -> u32 {
    match version {
        0..=94 => 32 << 10,
        95..=99 => 128 << 10,
        _ => REQUEST_BYTES_MAX,
    }
}

/// A header, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) kind: HeaderKind,
    pub(super) volume: VolumeNumber,
    pub(super) command: u16,
    /// Payload bytes that follow, bulk included.
    pub(super) length: u32,
}

impl Header {
    /// Writes the header over `place`, which is exactly as long as it.
    pub(super) fn write(self, place: &mut [u8]) {
        match self.kind {
            HeaderKind::H80 => {
                let length = u16::try_from(self.length).expect("requests are bounded by the agreed version");
                place[0..4].copy_from_slice(&MAGIC_80.to_be_bytes());
                place[4..6].copy_from_slice(&self.command.to_be_bytes());
                place[6..8].copy_from_slice(&length.to_be_bytes());
            }
            HeaderKind::H95 => {
                place[0..2].copy_from_slice(&MAGIC_95.to_be_bytes());
                place[2..4].copy_from_slice(&self.command.to_be_bytes());
                place[4..8].copy_from_slice(&self.length.to_be_bytes());
            }
            HeaderKind::H100 => {
                place[0..4].copy_from_slice(&MAGIC_100.to_be_bytes());
                place[4..6].copy_from_slice(&self.volume.0.to_be_bytes());
                place[6..8].copy_from_slice(&self.command.to_be_bytes());
                place[8..12].copy_from_slice(&self.length.to_be_bytes());
                place[12..16].copy_from_slice(&[0; 4]);
            }
        }
    }

    /// Reads the header at the start of `bytes`, which holds at least as many bytes as its kind is long.
    #[inline]
    pub(super) fn read(kind: HeaderKind, bytes: &[u8]) -> Result<Header, Malformed> {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        match kind {
            HeaderKind::H80 => {
                Ok(Header { kind, volume: VolumeNumber(0), command: half(4), length: u32::from(half(6)) })
            }
            HeaderKind::H95 => {
                Ok(Header { kind, volume: VolumeNumber(0), command: half(2), length: word(4) })
            }
            HeaderKind::H100 => match word(12) {
                0 => Ok(Header { kind, volume: VolumeNumber(half(4)), command: half(6), length: word(8) }),
                pad => Err(in_header("pad", u64::from(pad))),
            },
        }
    }
}

/// The kind of the header whose first four bytes these are.
#[inline]
pub(super) fn kind_by_magic(first: [u8; 4]) -> Result<HeaderKind, Malformed> {
    let magic = u32::from_be_bytes(first);
    match magic {
        MAGIC_80 => Ok(HeaderKind::H80),
        MAGIC_100 => Ok(HeaderKind::H100),
        _ if magic >> 16 == u32::from(MAGIC_95) => Ok(HeaderKind::H95),
        _ => Err(bad_magic(first)),
    }
}

/// The complaint about a header that is not one, or not one of this version.
pub(super) fn bad_magic(first: [u8; 4]) -> Malformed {
    in_header("magic", u64::from(u32::from_be_bytes(first)))
}

pub(super) const fn in_header(field: &'static str, got: u64) -> Malformed {
    Malformed { packet: "packet header", field, got }
}

/// Which stream carries a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carrier {
    Data,
    Control,
    Either,
}

impl Carrier {
    #[inline]
    pub(super) fn is(self, stream: Stream) -> bool {
        match self {
            Carrier::Data => stream == Stream::Data,
            Carrier::Control => stream == Stream::Control,
            Carrier::Either => true,
        }
    }
}

/// How long the payload of a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// Always so.
    Exactly(u16),
    /// One of two forms, by the features agreed.
    Either(u16, u16),
    /// Within these bounds; the decoder knows what the version asks for.
    Within(u16, u16),
    /// p_data, data-integrity digest, bulk.
    Bulk,
}

/// p_data, p_block_req and p_block_ack are this long.
pub(super) const BLOCK_BYTES: usize = 24;

macro_rules! commands {
    ($($number:literal $name:ident $text:literal $carrier:ident $size:expr;)+) => {
        /// Commands of dialect 8.4 that are spoken or accepted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub(super) enum Command { $($name = $number,)+ }

        impl Command {
            #[cfg(test)]
            pub(super) const ALL: &'static [Command] = &[$(Command::$name,)+];

            #[inline]
            pub(super) const fn from_number(number: u16) -> Option<Command> {
                match number { $($number => Some(Command::$name),)+ _ => None }
            }

            /// As in drbd_protocol.h.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Command::$name => $text,)+ }
            }

            #[inline]
            pub(super) const fn carrier(self) -> Carrier {
                match self { $(Command::$name => Carrier::$carrier,)+ }
            }

            #[inline]
            pub(super) const fn size(self) -> Size {
                use Size::*;
                match self { $(Command::$name => $size,)+ }
            }
        }
    };
}

/// Upper bound of packets of [`Size::Within`] that fill a whole control packet under the short header.
const WHOLE: u16 = (CONTROL_PACKET_MAX - HEADER_SHORT) as u16;

commands! {
    0x00   Data              "P_DATA"                Data    Bulk;
    0x01   DataReply         "P_DATA_REPLY"          Data    Bulk;
    0x02   RsDataReply       "P_RS_DATA_REPLY"       Data    Bulk;
    0x03   Barrier           "P_BARRIER"             Data    Exactly(8);
    0x04   Bitmap            "P_BITMAP"              Data    Within(0, WHOLE);
    0x07   UnplugRemote      "P_UNPLUG_REMOTE"       Data    Exactly(0);
    0x08   DataRequest       "P_DATA_REQUEST"        Data    Exactly(24);
    0x09   RsDataRequest     "P_RS_DATA_REQUEST"     Data    Exactly(24);
    0x0a   SyncParam         "P_SYNC_PARAM"          Data    Within(4, 148);
    0x0b   Protocol          "P_PROTOCOL"            Data    Within(24, 88);
    0x0c   Uuids             "P_UUIDS"               Data    Exactly(48);
    0x0d   Sizes             "P_SIZES"               Data    Either(32, 56);
    0x0e   State             "P_STATE"               Data    Exactly(4);
    0x0f   SyncUuid          "P_SYNC_UUID"           Data    Exactly(8);
    0x10   AuthChallenge     "P_AUTH_CHALLENGE"      Data    Within(64, 128);
    0x11   AuthResponse      "P_AUTH_RESPONSE"       Data    Within(1, 64);
    0x12   StateChgReq       "P_STATE_CHG_REQ"       Data    Exactly(8);
    0x13   Ping              "P_PING"                Control Exactly(0);
    0x14   PingAck           "P_PING_ACK"            Control Exactly(0);
    0x15   RecvAck           "P_RECV_ACK"            Control Exactly(24);
    0x16   WriteAck          "P_WRITE_ACK"           Control Exactly(24);
    0x17   RsWriteAck        "P_RS_WRITE_ACK"        Control Exactly(24);
    0x18   Superseded        "P_SUPERSEDED"          Control Exactly(24);
    0x19   NegAck            "P_NEG_ACK"             Control Exactly(24);
    0x1a   NegDreply         "P_NEG_DREPLY"          Control Exactly(24);
    0x1b   NegRsDreply       "P_NEG_RS_DREPLY"       Control Exactly(24);
    0x1c   BarrierAck        "P_BARRIER_ACK"         Control Exactly(8);
    0x1d   StateChgReply     "P_STATE_CHG_REPLY"     Control Exactly(4);
    0x1e   OvRequest         "P_OV_REQUEST"          Data    Exactly(24);
    0x1f   OvReply           "P_OV_REPLY"            Data    Within(25, 88);
    0x20   OvResult          "P_OV_RESULT"           Control Exactly(24);
    0x21   CsumRsRequest     "P_CSUM_RS_REQUEST"     Data    Within(25, 88);
    0x22   RsIsInSync        "P_RS_IS_IN_SYNC"       Control Exactly(24);
    0x23   SyncParam89       "P_SYNC_PARAM89"        Data    Within(4, 148);
    0x24   CompressedBitmap  "P_COMPRESSED_BITMAP"   Data    Within(2, WHOLE);
    0x27   DelayProbe        "P_DELAY_PROBE"         Either  Exactly(8);
    0x28   OutOfSync         "P_OUT_OF_SYNC"         Data    Exactly(16);
    0x29   RsCancel          "P_RS_CANCEL"           Control Exactly(24);
    0x2a   ConnStChgReq      "P_CONN_ST_CHG_REQ"     Data    Exactly(8);
    0x2b   ConnStChgReply    "P_CONN_ST_CHG_REPLY"   Control Exactly(4);
    0x2c   RetryWrite        "P_RETRY_WRITE"         Control Exactly(24);
    0x2d   ProtocolUpdate    "P_PROTOCOL_UPDATE"     Data    Within(24, 88);
    0x31   Trim              "P_TRIM"                Data    Exactly(28);
    0x32   RsThinReq         "P_RS_THIN_REQ"         Data    Exactly(24);
    0x33   RsDeallocated     "P_RS_DEALLOCATED"      Data    Exactly(16);
    0x36   Zeroes            "P_ZEROES"              Data    Exactly(28);
    0x58   EnableRepNext     "P_ENABLE_REPLICATION_NEXT" Data Exactly(4);
    0x59   EnableRep         "P_ENABLE_REPLICATION"  Data    Exactly(4);
    0xfff1 InitialMeta       "P_INITIAL_META"        Control Exactly(0);
    0xfff2 InitialData       "P_INITIAL_DATA"        Data    Exactly(0);
    0xfffe Features          "P_CONNECTION_FEATURES" Data    Exactly(72);
}

impl Command {
    /// Bytes of the payload to be decoded, bulk not included, if `length` can be the length of this command's payload.
    /// `integrity` is the size of the data-integrity digest that precedes bulk.
    #[inline]
    pub(super) fn fixed_bytes(self, length: u32, integrity: usize) -> Result<usize, Malformed> {
        let fits = match self.size() {
            Size::Exactly(bytes) => length == u32::from(bytes),
            Size::Either(short, long) => length == u32::from(short) || length == u32::from(long),
            Size::Within(least, most) => (u32::from(least)..=u32::from(most)).contains(&length),
            Size::Bulk => {
                let fixed = BLOCK_BYTES + integrity;
                let bulk = length.wrapping_sub(fixed as u32);
                if bulk == 0 || bulk > REQUEST_BYTES_MAX || bulk % 512 != 0 {
                    return Err(self.malformed("length", u64::from(length)));
                }
                return Ok(fixed);
            }
        };
        if fits {
            Ok(length as usize)
        } else {
            Err(self.malformed("length", u64::from(length)))
        }
    }

    pub(super) const fn malformed(self, field: &'static str, got: u64) -> Malformed {
        Malformed { packet: self.name(), field, got }
    }

    /// Spoken before a version is agreed, under header 80 always.
    pub(super) const fn is_opening(self) -> bool {
        matches!(self, Command::InitialData | Command::InitialMeta | Command::Features)
    }
}
