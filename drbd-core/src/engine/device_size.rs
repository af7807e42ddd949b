//! How large a device is: what both disks can hold, unless the user asked for less (8.8 of the wire reference).

/// What decides; sectors, 0 = unknown or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SizeInput {
    /// Usable capacity of the own backing disk.
    pub own_max: u64,
    /// The same of the peer's, as it announced.
    pub peer_max: u64,
    /// Last size both agreed on, from the metadata.
    pub last_agreed: u64,
    /// What the user asked for (disk option `size`).
    pub asked: u64,
    /// Without connection the peer is taken to hold as much as this node (`resize --assume-peer-has-space`).
    pub assume_peer_has_space: bool,
    /// A session with the peer exists.
    pub connected: bool,
}

/// The size of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceSize {
    /// In sectors; 0 = nothing is known.
    pub sectors: u64,
    /// More was asked for than there is; it was ignored.
    pub asked_too_much: bool,
}

/// Decides the size.
pub fn device_size(input: &SizeInput) -> DeviceSize {
    let possible = possible_size(input);
    let asked_too_much = input.asked > possible;
    let sectors = if input.asked == 0 || asked_too_much { possible } else { input.asked };
    DeviceSize { sectors, asked_too_much }
}

fn possible_size(input: &SizeInput) -> u64 {
    let assumed = input.assume_peer_has_space && !input.connected;
    let peer_max = if assumed { input.own_max } else { input.peer_max };
    match (input.own_max, peer_max, input.last_agreed) {
        (own, peer, _) if own != 0 && peer != 0 => own.min(peer),
        (0, 0, last) => last,
        (own, peer, 0) => own.max(peer),
        (own, peer, last) => last.min(own.max(peer)),
    }
}

/// The smaller of two sizes of which either may be unknown (0).
pub fn smaller_known(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, known) | (known, 0) => known,
        (a, b) => a.min(b),
    }
}

#[cfg(test)]
mod tests;
