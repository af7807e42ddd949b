//! Colours of states on a terminal: green is good, yellow on its way, red needs somebody.

use drbd_core::states::{ConnectionState, DiskState, ReplicationState, Role};
use std::fmt::Display;
use std::io::IsTerminal;

/// Whether to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paint(pub bool);

/// Decides from `--color`: missing and `auto` mean on a terminal.
pub fn wanted(option: Option<&str>) -> bool {
    match option {
        Some("never") => false,
        Some("always" | "") => true,
        _ => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    }
}

enum Colour {
    None,
    Good,
    Moving,
    Bad,
}

impl Paint {
    fn apply(self, colour: &Colour, word: impl Display) -> String {
        let code = match colour {
            Colour::None => return word.to_string(),
            Colour::Good => "32",
            Colour::Moving => "33",
            Colour::Bad => "31",
        };
        if self.0 {
            format!("\u{1b}[1;{code}m{word}\u{1b}[0m")
        } else {
            word.to_string()
        }
    }

    /// Role of this node.
    pub fn own_role(self, role: Role) -> String {
        let colour = match role {
            Role::Primary => Colour::Good,
            Role::Secondary => Colour::None,
            Role::Unknown => Colour::Bad,
        };
        self.apply(&colour, role)
    }

    /// Role of a peer.
    pub fn peer_role(self, role: Role) -> String {
        let colour = match role {
            Role::Primary => Colour::Good,
            Role::Secondary | Role::Unknown => Colour::None,
        };
        self.apply(&colour, role)
    }

    /// Disk state.
    pub fn disk(self, disk: DiskState) -> String {
        let colour = match disk {
            DiskState::UpToDate => Colour::Good,
            DiskState::Attaching | DiskState::Negotiating | DiskState::Consistent => Colour::Moving,
            DiskState::Detaching | DiskState::Failed | DiskState::Inconsistent | DiskState::Outdated => {
                Colour::Bad
            }
            DiskState::Diskless | DiskState::DUnknown => Colour::None,
        };
        self.apply(&colour, disk)
    }

    /// Connection state.
    pub fn connection(self, connection: ConnectionState) -> String {
        let colour = match connection {
            ConnectionState::Connected => Colour::Good,
            ConnectionState::Connecting | ConnectionState::Unconnected => Colour::Moving,
            ConnectionState::StandAlone
            | ConnectionState::Disconnecting
            | ConnectionState::Timeout
            | ConnectionState::BrokenPipe
            | ConnectionState::NetworkFailure
            | ConnectionState::ProtocolError
            | ConnectionState::TearDown => Colour::Bad,
        };
        self.apply(&colour, connection)
    }

    /// Replication state.
    pub fn replication(self, replication: ReplicationState) -> String {
        let colour = match replication {
            ReplicationState::Established => Colour::Good,
            ReplicationState::Off => Colour::None,
            _ => Colour::Moving,
        };
        self.apply(&colour, replication)
    }

    /// Quorum.
    pub fn quorum(self, has: bool) -> String {
        let colour = if has { Colour::None } else { Colour::Bad };
        self.apply(&colour, if has { "yes" } else { "no" })
    }
}
