//! Bytes that make no sense.

use std::fmt;

/// Bytes of a peer that cannot be what they claim to be. The session ends; nothing of the packet was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// The packet, named as in drbd_protocol.h, or "packet header".
    pub packet: &'static str,
    /// What of it.
    pub field: &'static str,
    /// Its value.
    pub got: u64,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Malformed { packet, field, got } = self;
        write!(f, "The peer sent a {packet} that makes no sense: its {field} is {got} ({got:#x}).")
    }
}

impl std::error::Error for Malformed {}
