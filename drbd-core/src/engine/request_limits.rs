//! What one request of a front end may be while that peer is connected, and how what is more is taken apart.
//!
//! An old peer's packets carry 32 or 128 KiB, and it may know neither discards nor zeroes. The kernel lowers the limits
//! of its device; a client of NBD was told its limits long before, so the front end takes requests apart instead and
//! answers them when all parts are done. It does so by [`RequestLimits::next_part`] before it asks, and again when a
//! request comes back with [`UpperResult::Split`](super::UpperResult::Split), because the peer came in between.

use super::connection::{Session, Stage};
use super::event::UpperOp;
use super::resource::Resource;
use crate::ids::VolumeNumber;
use crate::limits::{DISCARD_BYTES_MAX, EXTENT_BYTES, REQUEST_BYTES_MAX};
use crate::wire::{feature, header};

/// Smallest limit of a peer that is believed: DRBD's own for devices it knows nothing about.
const DATA_BYTES_MIN: u32 = 4096;

/// Limits of single requests, in bytes. The limit for data is a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestLimits {
    /// Reads and writes.
    pub data_bytes: u32,
    /// Discards; 0: there are none.
    pub discard_bytes: u32,
    /// Write-zeroes; 0: zeroes are written as data.
    pub zeroes_bytes: u32,
}

/// What to do with the beginning of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestPart {
    /// Ask for that many bytes of it.
    Ask(u32),
    /// Ask for that many bytes of zeroes as a write.
    WriteZeroData(u32),
    /// Nothing of it is to be done: the rest of a discard where there are none, which is but a hint.
    Skip,
}

impl RequestLimits {
    /// Without a peer that needs less.
    pub const LARGEST: RequestLimits = RequestLimits {
        data_bytes: REQUEST_BYTES_MAX,
        discard_bytes: DISCARD_BYTES_MAX,
        zeroes_bytes: DISCARD_BYTES_MAX,
    };

    /// The next part of a request of which `bytes` are left. A flush is one part of no bytes.
    pub fn next_part(&self, op: UpperOp, bytes: u32) -> RequestPart {
        match op {
            UpperOp::Flush => RequestPart::Ask(0),
            UpperOp::Read | UpperOp::Write => RequestPart::Ask(bytes.min(self.data_bytes)),
            UpperOp::Discard if self.discard_bytes == 0 => RequestPart::Skip,
            UpperOp::Discard => RequestPart::Ask(bytes.min(self.discard_bytes)),
            UpperOp::WriteZeroes { .. } if self.zeroes_bytes == 0 => {
                RequestPart::WriteZeroData(bytes.min(self.data_bytes))
            }
            UpperOp::WriteZeroes { .. } => RequestPart::Ask(bytes.min(self.zeroes_bytes)),
        }
    }

    /// Whether a request need not be taken apart.
    pub fn fits(&self, op: UpperOp, bytes: u32) -> bool {
        self.next_part(op, bytes) == RequestPart::Ask(bytes)
    }

    fn of_session(session: &Session, announced_bytes: Option<u32>) -> RequestLimits {
        let version = session.version;
        let batch = if session.has(feature::LONG_SIZES) { DISCARD_BYTES_MAX } else { EXTENT_BYTES as u32 };
        let trims = version >= 95 && session.has(feature::TRIM);
        let zeroes = version >= 95 && session.has(feature::ZEROES);
        // Before 94 a peer cannot take apart what its own disk does not take whole.
        let announced = announced_bytes.filter(|_| version < 94).unwrap_or(REQUEST_BYTES_MAX);
        let data_bytes = header::request_bytes_max(version).min(announced).max(DATA_BYTES_MIN);
        RequestLimits {
            data_bytes: 1 << data_bytes.ilog2(),
            discard_bytes: if trims { batch } else { 0 },
            zeroes_bytes: if zeroes { batch } else { 0 },
        }
    }
}

impl Resource {
    /// The limits of a volume's requests now. Front ends look before every request.
    pub fn request_limits(&self, volume: VolumeNumber) -> RequestLimits {
        self.device_index(volume).map_or(RequestLimits::LARGEST, |d| self.limits_of(d))
    }

    pub(super) fn limits_of(&self, d: usize) -> RequestLimits {
        let connection = self.connection.as_deref();
        let Some((connection, session)) = connection.and_then(|c| Some((c, c.session()?))) else {
            return RequestLimits::LARGEST;
        };
        if session.stage == Stage::Features {
            return RequestLimits::LARGEST;
        }
        let announced = connection.peer_devices[d].sizes.as_ref().map(|s| s.max_bio_size);
        let limits = RequestLimits::of_session(session, announced);
        // An 8.4 receiver looks for a digest in P_ZEROES (see `offer`), also when digests began in mid-session.
        let digests = !connection.options.data_integrity_alg.is_empty();
        RequestLimits { zeroes_bytes: if digests { 0 } else { limits.zeroes_bytes }, ..limits }
    }
}

#[cfg(test)]
mod tests;
