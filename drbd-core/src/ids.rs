//! Newtypes for the numbers of the domain, so that a volume is never mistaken for a node or a sector for a byte.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A host taking part in a resource, 0..=31, from the configuration of both sides.
    NodeId(u8)
}
number! {
    /// Number of a replicated disk within a resource, the same on all nodes.
    VolumeNumber(u16)
}
number! {
    /// Local number of a device, the N of `/dev/drbdN`.
    Minor(u32)
}
number! {
    /// One TCP connection, dialled or accepted; the shell numbers them and never reuses a number.
    SocketId(u32)
}
number! {
    /// A buffer of the shell's payload pool. The engine never sees the bytes.
    PayloadId(u32)
}
number! {
    /// A disk or metadata operation of the engine, echoed by its completion.
    DiskIoId(u32)
}
number! {
    /// A request of the front end, echoed by its completion.
    UpperTag(u32)
}
number! {
    /// A request of an administrator, echoed by the reply.
    Ticket(u32)
}
number! {
    /// A running handler process.
    HandlerId(u32)
}
number! {
    /// A digest that is being computed.
    DigestId(u32)
}

impl PayloadId {
    /// No payload: the operation carries no bytes (flush, discard, zeroes).
    pub const NONE: PayloadId = PayloadId(u32::MAX);
}

/// A position on a device in 512-byte sectors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sector(pub u64);

impl Sector {
    /// Bytes in one sector.
    pub const BYTES: u64 = 512;

    /// The sector that begins at byte `offset_bytes` (which must be a multiple of 512).
    pub const fn from_bytes(offset_bytes: u64) -> Sector {
        Sector(offset_bytes / Sector::BYTES)
    }

    /// Offset in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 * Sector::BYTES
    }

    /// The first sector after an extent of `bytes` that begins here.
    pub const fn end_of(self, bytes: u32) -> Sector {
        Sector(self.0 + bytes as u64 / Sector::BYTES)
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// A point on the shell's monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// This instant plus `ms` milliseconds.
    pub const fn plus_ms(self, ms: u64) -> Instant {
        Instant(self.0 + ms * 1_000_000)
    }

    /// Milliseconds from `earlier` to here; 0 if `earlier` is later.
    pub const fn ms_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}
