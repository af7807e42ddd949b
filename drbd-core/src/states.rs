//! The states an administrator sees, spelled as DRBD 9 spells them, with their numbers on the 8.4 wire.
//!
//! Order between states has no meaning here: ask the predicates. The few 8.4 rules that compare numbers use
//! [`DiskState::rank`] and the combined [`Conn84`] of the state word, and say so.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A word that is not one of the states.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownWord {
    /// What was being read, such as "disk state".
    pub what: &'static str,
    /// The word.
    pub word: String,
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not a {}", self.word, self.what)
    }
}

impl std::error::Error for UnknownWord {}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($(#[$vdoc:meta])* $variant:ident = $number:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)+ }

        impl $name {
            /// Every value, in the order of the numbers.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The canonical spelling.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => stringify!($variant),)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<$name, UnknownWord> {
                $name::ALL.iter().copied().find(|v| v.name() == word)
                    .ok_or_else(|| UnknownWord { what: $what, word: word.to_owned() })
            }
        }
    };
}

words! {
    /// Role of a node; the numbers are the wire's.
    Role, "role":
    /// Not known (a peer without connection).
    Unknown = 0,
    /// May be written by its user.
    Primary = 1,
    /// Only follows.
    Secondary = 2,
}

words! {
    /// State of a backing disk, own or a peer's; numbers as in DRBD 9 (5.2 of the wire reference).
    DiskState, "disk state":
    /// No backing disk.
    Diskless = 0,
    /// Metadata is being read.
    Attaching = 1,
    /// Being let go in an orderly way.
    Detaching = 2,
    /// Given up after an error.
    Failed = 3,
    /// Attached while connected: waits for the peer's word on its data.
    Negotiating = 4,
    /// Parts of the data are of different generations.
    Inconsistent = 5,
    /// Consistent, but a peer has newer data.
    Outdated = 6,
    /// Nothing known (a peer without connection).
    DUnknown = 7,
    /// Consistent; whether newest is decided when a peer is met.
    Consistent = 8,
    /// The newest data.
    UpToDate = 9,
}

words! {
    /// State of the connection to one peer; numbers as in DRBD 9.
    ConnectionState, "connection state":
    /// No network configuration in use.
    StandAlone = 0,
    /// On the way to StandAlone.
    Disconnecting = 1,
    /// About to try (again) to connect.
    Unconnected = 2,
    /// Lost: no answer in time.
    Timeout = 3,
    /// Lost: the stream ended.
    BrokenPipe = 4,
    /// Lost: the network failed.
    NetworkFailure = 5,
    /// Lost: the peer said what makes no sense.
    ProtocolError = 6,
    /// Lost: the peer is closing in an orderly way.
    TearDown = 7,
    /// Waiting for the peer.
    Connecting = 8,
    /// A session exists.
    Connected = 9,
}

words! {
    /// State of the replication of one volume to one peer; numbers from 10 on are those of the 8.4 wire.
    ReplicationState, "replication state":
    /// No session, or its handshake is not finished.
    Off = 9,
    /// Every write is mirrored.
    Established = 10,
    /// Full resync requested, becoming source.
    StartingSyncS = 11,
    /// Full resync requested, becoming target.
    StartingSyncT = 12,
    /// Source of a resync, exchanging bitmaps.
    WFBitMapS = 13,
    /// Target of a resync, exchanging bitmaps.
    WFBitMapT = 14,
    /// Target, waiting for the generation of the resync.
    WFSyncUUID = 15,
    /// Source of a running resync.
    SyncSource = 16,
    /// Target of a running resync.
    SyncTarget = 17,
    /// Online verify, asking.
    VerifyS = 18,
    /// Online verify, answering.
    VerifyT = 19,
    /// Source of a resync that is held.
    PausedSyncS = 20,
    /// Target of a resync that is held.
    PausedSyncT = 21,
    /// Congested: writes are marked instead of mirrored.
    Ahead = 22,
    /// The peer is ahead.
    Behind = 23,
}

impl DiskState {
    /// Number of the 8.4 state word, which has no Detaching (sent as Failed).
    pub const fn number_84(self) -> u8 {
        match self {
            DiskState::Diskless => 0,
            DiskState::Attaching => 1,
            DiskState::Detaching | DiskState::Failed => 2,
            DiskState::Negotiating => 3,
            DiskState::Inconsistent => 4,
            DiskState::Outdated => 5,
            DiskState::DUnknown => 6,
            DiskState::Consistent => 7,
            DiskState::UpToDate => 8,
        }
    }

    /// The state with that number in an 8.4 state word.
    pub const fn from_number_84(number: u8) -> Option<DiskState> {
        Some(match number {
            0 => DiskState::Diskless,
            1 => DiskState::Attaching,
            2 => DiskState::Failed,
            3 => DiskState::Negotiating,
            4 => DiskState::Inconsistent,
            5 => DiskState::Outdated,
            6 => DiskState::DUnknown,
            7 => DiskState::Consistent,
            8 => DiskState::UpToDate,
            _ => return None,
        })
    }

    /// How much the data is worth, for the 8.4 rules that compare. DUnknown lies between Outdated and Consistent.
    pub const fn rank(self) -> u8 {
        self.number_84()
    }

    /// At least Inconsistent: there is a disk with metadata.
    pub const fn has_data(self) -> bool {
        self.rank() >= DiskState::Inconsistent.rank()
    }
}

impl Role {
    /// The role with that number on the wire.
    pub const fn from_number(number: u8) -> Option<Role> {
        Some(match number {
            0 => Role::Unknown,
            1 => Role::Primary,
            2 => Role::Secondary,
            _ => return None,
        })
    }
}

impl ReplicationState {
    /// A resync is running or held, or its bitmaps are being exchanged.
    pub const fn is_resyncing(self) -> bool {
        self.is_source() || self.is_target()
    }

    /// This node is, or is becoming, the source of a resync.
    pub const fn is_source(self) -> bool {
        matches!(
            self,
            ReplicationState::StartingSyncS
                | ReplicationState::WFBitMapS
                | ReplicationState::SyncSource
                | ReplicationState::PausedSyncS
        )
    }

    /// This node is, or is becoming, the target of a resync.
    pub const fn is_target(self) -> bool {
        matches!(
            self,
            ReplicationState::StartingSyncT
                | ReplicationState::WFBitMapT
                | ReplicationState::WFSyncUUID
                | ReplicationState::SyncTarget
                | ReplicationState::PausedSyncT
        )
    }

    /// Volumes with `resync-after` naming this one wait.
    pub const fn holds_dependants(self) -> bool {
        matches!(
            self,
            ReplicationState::SyncSource
                | ReplicationState::SyncTarget
                | ReplicationState::VerifyS
                | ReplicationState::VerifyT
                | ReplicationState::PausedSyncS
                | ReplicationState::PausedSyncT
        )
    }
}

/// Connection and replication state of a volume as the one number of the 8.4 state word (5.1 of the wire reference):
/// 0..=7 a connection state, 8 WFConnection, 9 WFReportParams, 10.. a replication state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Conn84(pub u8);

impl Conn84 {
    /// A session exists, its handshake for this volume is not finished.
    pub const WF_REPORT_PARAMS: Conn84 = Conn84(9);
    /// 8.4's `Connected`.
    pub const CONNECTED: Conn84 = Conn84(10);

    /// Combines the two states of DRBD 9.
    pub const fn of(connection: ConnectionState, replication: ReplicationState) -> Conn84 {
        match connection {
            ConnectionState::Connected => Conn84(replication as u8),
            _ => Conn84(connection as u8),
        }
    }

    /// SyncSource to PausedSyncT: a resync or verify runs or is held.
    pub const fn copies_or_compares(self) -> bool {
        matches!(self.0, 16..=21)
    }

    /// Splits into the two states of DRBD 9; `None` above 23.
    pub fn split(self) -> Option<(ConnectionState, ReplicationState)> {
        if self.0 < 9 {
            let connection = ConnectionState::ALL[usize::from(self.0)];
            return Some((connection, ReplicationState::Off));
        }
        let replication = ReplicationState::ALL.iter().copied().find(|r| *r as u8 == self.0)?;
        Some((ConnectionState::Connected, replication))
    }
}

/// Why a resync is held; written `user,peer,dependency` in this order by the tools.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ResyncSuspended {
    /// `pause-sync` here.
    pub user: bool,
    /// The peer holds it.
    pub peer: bool,
    /// `resync-after` another volume.
    pub dependency: bool,
}

/// Why upper requests are held; written `user,no-data,fencing,quorum` in this order by the tools.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Suspended {
    /// `suspend-io`.
    pub user: bool,
    /// No access to good data, and on-no-data-accessible says suspend-io.
    pub no_data: bool,
    /// A fence-peer handler is being waited for.
    pub fencing: bool,
    /// Quorum is lost.
    pub quorum: bool,
}

macro_rules! reasons {
    ($name:ident: $($field:ident $word:literal),+) => {
        impl $name {
            /// Whether there is any reason.
            pub const fn any(self) -> bool {
                false $(|| self.$field)+
            }

            /// The reasons of both.
            #[must_use]
            pub const fn or(self, other: $name) -> $name {
                $name { $($field: self.$field || other.$field),+ }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut separator = "";
                $(if self.$field {
                    f.write_str(separator)?;
                    f.write_str($word)?;
                    separator = ",";
                })+
                if separator.is_empty() { f.write_str("no") } else { Ok(()) }
            }
        }
    };
}
reasons!(ResyncSuspended: user "user", peer "peer", dependency "dependency");
reasons!(Suspended: user "user", no_data "no-data", fencing "fencing", quorum "quorum");

/// When an upper write is complete.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Protocol {
    /// Written locally and handed to the network.
    A = 1,
    /// Written locally and received by the peer.
    B = 2,
    /// Written on both.
    C = 3,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::A => "A",
            Protocol::B => "B",
            Protocol::C => "C",
        })
    }
}
