//! The 32-bit state word of P_STATE and of requests for state changes, and how the receiver of such a request sees it
//! from its own side.

use super::header::Command;
use super::Malformed;
use crate::states::{Conn84, DiskState, Role};

/// Masks of the fields.
pub mod field {
    /// Role of the sender.
    pub const ROLE: u32 = 0x3;
    /// Role of the receiver.
    pub const PEER: u32 = 0x3 << 2;
    /// Connection and replication.
    pub const CONN: u32 = 0x1f << 4;
    /// Disk of the sender.
    pub const DISK: u32 = 0xf << 9;
    /// Disk of the receiver.
    pub const PEER_DISK: u32 = 0xf << 13;
    /// Upper requests are held by the user.
    pub const SUSP_USER: u32 = 1 << 17;
    /// The resync waits for another volume.
    pub const AFTR_ISP: u32 = 1 << 18;
    /// The resync is held by the receiver.
    pub const PEER_ISP: u32 = 1 << 19;
    /// The resync is held by the user.
    pub const USER_ISP: u32 = 1 << 20;
    /// Upper requests are held for want of data.
    pub const SUSP_NOD: u32 = 1 << 21;
    /// Upper requests are held until the peer is fenced.
    pub const SUSP_FEN: u32 = 1 << 22;
    /// DRBD 9: has quorum.
    pub const QUORUM: u32 = 1 << 23;
}

const PEER_SHIFT: u32 = 2;
const CONN_SHIFT: u32 = 4;
const DISK_SHIFT: u32 = 9;
const PEER_DISK_SHIFT: u32 = 13;

/// State of a volume as its sender sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateWord {
    /// Role of the sender.
    pub role: Role,
    /// Role of the receiver, as the sender knows it.
    pub peer: Role,
    /// Connection and replication.
    pub conn: Conn84,
    /// Disk of the sender.
    pub disk: DiskState,
    /// Disk of the receiver, as the sender knows it.
    pub peer_disk: DiskState,
    /// Upper requests are held by the user.
    pub susp_user: bool,
    /// The resync waits for another volume.
    pub aftr_isp: bool,
    /// The resync is held by the receiver.
    pub peer_isp: bool,
    /// The resync is held by the user.
    pub user_isp: bool,
    /// Upper requests are held for want of data.
    pub susp_nod: bool,
    /// Upper requests are held until the peer is fenced.
    pub susp_fen: bool,
    /// DRBD 9: has quorum.
    pub quorum: bool,
}

impl StateWord {
    /// As sent.
    pub const fn to_bits(self) -> u32 {
        const fn flag(on: bool, mask: u32) -> u32 {
            if on {
                mask
            } else {
                0
            }
        }
        self.role as u32
            | (self.peer as u32) << PEER_SHIFT
            | (self.conn.0 as u32) << CONN_SHIFT
            | (self.disk.number_84() as u32) << DISK_SHIFT
            | (self.peer_disk.number_84() as u32) << PEER_DISK_SHIFT
            | flag(self.susp_user, field::SUSP_USER)
            | flag(self.aftr_isp, field::AFTR_ISP)
            | flag(self.peer_isp, field::PEER_ISP)
            | flag(self.user_isp, field::USER_ISP)
            | flag(self.susp_nod, field::SUSP_NOD)
            | flag(self.susp_fen, field::SUSP_FEN)
            | flag(self.quorum, field::QUORUM)
    }

    /// As received. The bits above [`field::QUORUM`] have no meaning.
    pub fn from_bits(bits: u32) -> Result<StateWord, Malformed> {
        let bad = |field| move || Command::State.malformed(field, u64::from(bits));
        Ok(StateWord {
            role: role_of(bits).ok_or_else(bad("role in the state word"))?,
            peer: peer_of(bits).ok_or_else(bad("peer role in the state word"))?,
            conn: conn_of(bits).ok_or_else(bad("connection in the state word"))?,
            disk: disk_of(bits).ok_or_else(bad("disk in the state word"))?,
            peer_disk: peer_disk_of(bits).ok_or_else(bad("peer disk in the state word"))?,
            susp_user: bits & field::SUSP_USER != 0,
            aftr_isp: bits & field::AFTR_ISP != 0,
            peer_isp: bits & field::PEER_ISP != 0,
            user_isp: bits & field::USER_ISP != 0,
            susp_nod: bits & field::SUSP_NOD != 0,
            susp_fen: bits & field::SUSP_FEN != 0,
            quorum: bits & field::QUORUM != 0,
        })
    }
}

/// The role in a state word.
pub fn role_of(bits: u32) -> Option<Role> {
    Role::from_number((bits & field::ROLE) as u8)
}

/// The peer's role in a state word.
pub fn peer_of(bits: u32) -> Option<Role> {
    Role::from_number(((bits & field::PEER) >> PEER_SHIFT) as u8)
}

/// The connection in a state word.
pub fn conn_of(bits: u32) -> Option<Conn84> {
    let conn = Conn84(((bits & field::CONN) >> CONN_SHIFT) as u8);
    conn.split().map(|_| conn)
}

/// The disk in a state word.
pub fn disk_of(bits: u32) -> Option<DiskState> {
    DiskState::from_number_84(((bits & field::DISK) >> DISK_SHIFT) as u8)
}

/// The peer's disk in a state word.
pub fn peer_disk_of(bits: u32) -> Option<DiskState> {
    DiskState::from_number_84(((bits & field::PEER_DISK) >> PEER_DISK_SHIFT) as u8)
}

/// A request to change some fields of a state word: `(word & !mask) | val`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// The fields to change, all bits of each.
    pub mask: u32,
    /// Their values.
    pub val: u32,
}

impl Change {
    /// Asks for a role.
    #[must_use]
    pub const fn role(self, role: Role) -> Change {
        self.with(field::ROLE, role as u32)
    }

    /// Asks for a connection.
    #[must_use]
    pub const fn conn(self, conn: Conn84) -> Change {
        self.with(field::CONN, (conn.0 as u32) << CONN_SHIFT)
    }

    /// Asks for a state of the requester's disk.
    #[must_use]
    pub const fn disk(self, disk: DiskState) -> Change {
        self.with(field::DISK, (disk.number_84() as u32) << DISK_SHIFT)
    }

    /// Asks for a state of the other's disk.
    #[must_use]
    pub const fn peer_disk(self, disk: DiskState) -> Change {
        self.with(field::PEER_DISK, (disk.number_84() as u32) << PEER_DISK_SHIFT)
    }

    const fn with(self, mask: u32, val: u32) -> Change {
        Change { mask: self.mask | mask, val: self.val & !mask | val }
    }

    /// The word after the change.
    pub const fn apply(self, word: u32) -> u32 {
        word & !self.mask | self.val & self.mask
    }

    /// The same change seen from the other side; what the receiver of a request applies.
    #[must_use]
    pub const fn mirrored(self) -> Change {
        Change { mask: mirror_word(self.mask), val: mirror_word(self.val) }
    }
}

/// Mask and value of a received request, seen from the receiver's side.
pub const fn mirror(mask: u32, val: u32) -> (u32, u32) {
    let change = Change { mask, val }.mirrored();
    (change.mask, change.val)
}

/// As convert_state of the 8.4 receiver: the two sides change places, and the requester's reasons to hold a resync
/// become the peer's reason.
const fn mirror_word(word: u32) -> u32 {
    const SIDES: u32 =
        field::ROLE | field::PEER | field::CONN | field::DISK | field::PEER_DISK | field::PEER_ISP;
    let conn = mirror_conn((word & field::CONN) >> CONN_SHIFT);
    let held = word & (field::AFTR_ISP | field::USER_ISP) != 0;
    word & !SIDES
        | (word & field::ROLE) << PEER_SHIFT
        | (word & field::PEER) >> PEER_SHIFT
        | conn << CONN_SHIFT
        | (word & field::DISK) << (PEER_DISK_SHIFT - DISK_SHIFT)
        | (word & field::PEER_DISK) >> (PEER_DISK_SHIFT - DISK_SHIFT)
        | if held { field::PEER_ISP } else { 0 }
}

/// What nobody may ask of a peer becomes StandAlone, which is refused.
const fn mirror_conn(conn: u32) -> u32 {
    const DISCONNECTING: u32 = 1;
    const TEAR_DOWN: u32 = 7;
    const WHOLE_MASK: u32 = 31;
    match conn {
        9 | 10 | WHOLE_MASK => conn,
        DISCONNECTING => TEAR_DOWN,
        11 => 12, // StartingSyncS, StartingSyncT
        12 => 11,
        18 => 19, // VerifyS, VerifyT
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
