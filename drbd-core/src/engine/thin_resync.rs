//! Discard-aware resync: where the source has nothing but zeroes, the target makes a hole instead of writing them.
//!
//! The target asks by P_RS_THIN_REQ for pieces its disk can keep without space; the source reads such a piece and, if all
//! of it is zeroes, answers P_RS_DEALLOCATED instead of sending them. A configured rs-discard-granularity is the size of
//! such a piece, as in DRBD. Without one it is found: any multiple of what the disk discards in, so that requests are as
//! large as ever.

use super::command::{Command, Level};
use super::event::DiskLimits;
use super::planted::Bug;
use super::resource::Resource;
use super::senseless::Senseless;
use super::write_path::peer_request::PeerRequest;
use crate::config::DiskOptions;
use crate::ids::{PayloadId, Sector};
use crate::limits::{BYTES_PER_BIT, REQUEST_BYTES_MAX};
use crate::wire::{feature, Extent, Packet};

/// Name of the digest that says whether a block holds nothing but zeroes: one byte, 1 if so. No configuration has it.
pub const ONLY_ZEROES: &str = "only-zeroes";

/// The pieces a disk can keep without space if they are zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pieces {
    /// They begin at multiples of this.
    unit_bytes: u64,
    /// They are of exactly that size: it is configured.
    exactly: bool,
}

impl Pieces {
    /// Those of a disk; `None` if it cannot give space back.
    pub(super) fn of(limits: &DiskLimits, options: &DiskOptions) -> Option<Pieces> {
        let found = u64::from(limits.discard_granularity);
        if !limits.discard_zeroes || found == 0 {
            return None;
        }
        // Both the disk's granularity and whole blocks of the bitmap.
        let unit_bytes = (found..).step_by(found as usize).find(|bytes| bytes % BYTES_PER_BIT == 0)?;
        let configured = u64::from(options.rs_discard_granularity);
        let pieces =
            Pieces { unit_bytes: configured.max(1).next_multiple_of(unit_bytes), exactly: configured > 0 };
        (pieces.unit_bytes <= u64::from(REQUEST_BYTES_MAX)).then_some(pieces)
    }

    /// Largest request where one of `usual_bytes` would do otherwise.
    pub(super) fn request_bytes(self, usual_bytes: u64) -> u64 {
        if self.exactly {
            self.unit_bytes
        } else {
            usual_bytes.max(self.unit_bytes)
        }
    }

    /// How much of a stretch is asked for at once, so that this or the next request is for whole pieces.
    pub(super) fn cut(self, sector: Sector, bytes: u32) -> u32 {
        let unit = self.unit_bytes;
        let into = sector.bytes() % unit;
        let wanted = match u64::from(bytes) {
            bytes if into > 0 => bytes.min(unit - into),
            bytes if bytes < unit => bytes,
            _ if self.exactly => unit,
            bytes => bytes - bytes % unit,
        };
        wanted as u32
    }

    /// Whether a stretch is made of whole pieces.
    pub(super) fn has(self, sector: Sector, bytes: u32) -> bool {
        sector.bytes() % self.unit_bytes == 0 && u64::from(bytes) % self.unit_bytes == 0
    }

    /// What an administrator should know about the granularity: it is not the configured one.
    pub(super) fn remark(limits: &DiskLimits, options: &DiskOptions) -> Option<String> {
        let configured = u64::from(options.rs_discard_granularity);
        match Pieces::of(limits, options) {
            _ if configured == 0 => None,
            None => Some("rs_discard_granularity feature disabled".to_owned()),
            Some(Pieces { unit_bytes, .. }) => {
                (unit_bytes != configured).then(|| format!("rs_discard_granularity changed to {unit_bytes}"))
            }
        }
    }
}

impl Resource {
    /// The pieces this node may ask for, if the peer knows how to answer; `most_bytes`: what it serves at once.
    pub(super) fn thin_pieces(&self, d: usize, most_bytes: u64) -> Option<Pieces> {
        let agreed = self.connection.as_deref().and_then(|c| c.session());
        if !agreed.is_some_and(|s| s.has(feature::THIN_RESYNC)) {
            return None;
        }
        let backing = self.devices[d].backing.as_deref()?;
        Pieces::of(&backing.limits, &backing.options).filter(|pieces| pieces.unit_bytes <= most_bytes)
    }

    /// A disk was attached: is what is configured what is done?
    pub(super) fn tell_discard_granularity(&self, d: usize, out: &mut Vec<Command>) {
        let remark = self.devices[d].backing.as_deref().and_then(|b| Pieces::remark(&b.limits, &b.options));
        if let Some(text) = remark {
            self.log("rs-discard-granularity", Level::Info, self.device_subject(d), text, out);
        }
    }

    /// As source: whether what was read for a thin request need not be sent.
    pub(super) fn is_deallocated(&self, digest: Option<&[u8]>) -> bool {
        digest == Some(&[1]) || self.planted(Bug::DeallocatedUnread)
    }

    /// As source: there are only zeroes, the target need not keep space for them.
    pub(super) fn answer_deallocated(&mut self, request: &PeerRequest, out: &mut Vec<Command>) {
        let PeerRequest { device: d, sector, bytes, .. } = *request;
        let volume = self.devices[d].volume;
        self.count_copy(request);
        self.send(volume, Packet::RsDeallocated(Extent { sector, bytes }), out);
    }

    /// As target: P_RS_DEALLOCATED.
    pub(super) fn resync_deallocated(
        &mut self,
        d: usize,
        extent: &Extent,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let asked = peer_device.answers_thin(extent.sector, extent.bytes);
        self.write_resynced(d, asked, (extent.sector, extent.bytes), PayloadId::NONE, out)
    }
}

#[cfg(test)]
mod tests;
