//! Packets that are well formed and make no sense here and now. They end the session with a sentence that names packet
//! and field; nothing of them is used.
//!
//! What DRBD tolerates is tolerated: a ping's answer nobody waits for, marks (P_OUT_OF_SYNC) at any time, a read of a
//! node that cannot serve it (it is refused), bits of a bitmap beyond its end (they are not looked at), and answers to
//! what was asked before a resync or verify broke off.

use super::resource::Resource;
use super::session::Fault;
use crate::ids::Sector;
use crate::limits::{DEVICE_SECTORS_MAX, DISCARD_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::states::Role;
use crate::wire::state_word::{conn_of, disk_of, field, peer_disk_of, peer_of, role_of};
use crate::wire::{header, Packet, Sizes};

/// A field of a packet that makes no sense, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Senseless {
    /// Named as on the wire.
    pub(super) field: &'static str,
    /// Its value.
    pub(super) got: u64,
    /// What is wrong with that.
    pub(super) why: &'static str,
}

impl Senseless {
    /// The end of the session that it is, in a packet of that name.
    pub(super) fn in_packet(self, name: &str) -> Fault {
        let Senseless { field, got, why } = self;
        Fault::Protocol(format!(
            "The peer sent a {name} that makes no sense: its {field} is {got} ({got:#x}), {why}."
        ))
    }
}

/// Shorthand for a refusal.
pub(super) fn senseless<T>(field: &'static str, got: u64, why: &'static str) -> Result<T, Senseless> {
    Err(Senseless { field, got, why })
}

impl Resource {
    /// Whether the blocks a packet of the data stream speaks of lie on the device.
    pub(super) fn check_place(&self, d: usize, packet: &Packet) -> Result<(), Senseless> {
        let version = self.connection.as_deref().and_then(|c| c.session()).map_or(0, |s| s.version);
        let Some((sector, bytes, most)) = place_of(packet, version) else { return Ok(()) };
        if bytes == 0 || bytes % 512 != 0 || bytes > most {
            return senseless("size", bytes.into(), "no size of a request");
        }
        let end = sector.0.checked_add(u64::from(bytes) / 512);
        if end.is_none_or(|end| end > self.devices[d].size.0) {
            return senseless("sector", sector.0, "beyond the end of the device");
        }
        Ok(())
    }

    /// Whether a peer may write at all. Its role as last told does not decide: a state that DRBD 9 sends may be older
    /// than what it was promised. But nobody writes to a Primary that allows no second one: what a peer sent before it
    /// stepped down arrives before the state that lets this node become Primary.
    pub(super) fn check_writer(&self) -> Result<(), Senseless> {
        if self.role == Role::Primary && !self.two_primaries_allowed() {
            return senseless("time", 0, "while this node is Primary and two are not allowed");
        }
        Ok(())
    }
}

/// Where on a device a packet of the data stream is at home, and the largest size it may have there.
fn place_of(packet: &Packet, version: u32) -> Option<(Sector, u32, u32)> {
    // The answer has to fit into a packet of that version.
    let question_bytes_max = header::request_bytes_max(version);
    match packet {
        Packet::Data(p) | Packet::DataReply(p) | Packet::RsDataReply(p) => {
            Some((p.sector, p.bytes, REQUEST_BYTES_MAX))
        }
        Packet::Trim(p) | Packet::Zeroes(p) => Some((p.sector, p.bytes, DISCARD_BYTES_MAX)),
        Packet::DataRequest(p)
        | Packet::RsDataRequest(p)
        | Packet::RsThinRequest(p)
        | Packet::OvRequest(p) => Some((p.sector, p.bytes, question_bytes_max)),
        Packet::CsumRsRequest(p) | Packet::OvReply(p) => {
            Some((p.block.sector, p.block.bytes, question_bytes_max))
        }
        Packet::RsDeallocated(p) | Packet::OutOfSync(p) => Some((p.sector, p.bytes, DISCARD_BYTES_MAX)),
        // Acknowledgements are judged by what they answer; the others speak of no block.
        _ => None,
    }
}

/// Whether a device can have sizes like these.
pub(super) fn check_sizes(sizes: &Sizes) -> Result<(), Senseless> {
    let fields = [("d_size", sizes.disk), ("u_size", sizes.user), ("c_size", sizes.current)];
    for (field, sectors) in fields {
        if sectors > DEVICE_SECTORS_MAX {
            return senseless(field, sectors, "more sectors than a device can have");
        }
    }
    Ok(())
}

/// Whether the fields a request for a state change names have states.
pub(super) fn check_change(mask: u32, val: u32) -> Result<(), Senseless> {
    let known: [(u32, bool); 5] = [
        (field::ROLE, role_of(val).is_some()),
        (field::PEER, peer_of(val).is_some()),
        (field::CONN, conn_of(val).is_some()),
        (field::DISK, disk_of(val).is_some()),
        (field::PEER_DISK, peer_disk_of(val).is_some()),
    ];
    for (bits, known) in known {
        if mask & bits != 0 && mask & bits != bits {
            return senseless("mask", mask.into(), "part of a field");
        }
        if mask & bits != 0 && !known {
            return senseless("val", val.into(), "a state that does not exist");
        }
    }
    Ok(())
}
