//! data-integrity-alg: the bulk of P_DATA, P_DATA_REPLY and P_RS_DATA_REPLY travels behind a digest of it.
//!
//! Both nodes name the same algorithm in P_PROTOCOL, and each direction begins to have digests behind that packet (3.6
//! and 3.12 of the wire reference). The shell makes and checks them where it has the bytes anyway. An administrator who
//! changes it while connected changes the digests of what his node sends, behind P_PROTOCOL_UPDATE; each node is told.

use super::command::{Command, Direction, Level};
use super::resource::Resource;
use crate::wire::feature;
use crate::wire::handshake::OFFER;
use crate::wire::Features;

/// First version that names an algorithm.
const VERSION_MIN: u32 = 87;

impl Resource {
    /// What this node offers its peer. An 8.4 receiver looks for a digest in P_ZEROES, which has none (pitfall 23 of the
    /// wire reference): with data-integrity-alg zeroes are written as data.
    pub(super) fn offer(&self) -> Features {
        let offer = Features { protocol_max: self.protocol_max, ..OFFER };
        let digests = self.connection.as_deref().is_some_and(|c| !c.options.data_integrity_alg.is_empty());
        let flags = if digests { offer.flags & !feature::ZEROES } else { offer.flags };
        Features { flags, ..offer }
    }

    /// P_PROTOCOL_UPDATE: the peer goes on with digests of that name. What this node sends keeps its own, until its
    /// administrator changes it here too.
    pub(super) fn integrity_updated(&mut self, theirs: &str, out: &mut Vec<Command>) {
        self.set_integrity(Direction::Receiving, theirs, out);
        let Some(connection) = self.connection.as_deref() else { return };
        let ours = &connection.options.data_integrity_alg;
        if ours != theirs {
            let named = |algorithm: &str| if algorithm.is_empty() { "(none)" } else { algorithm }.to_owned();
            let text = format!(
                "peer data-integrity-alg: {}; this node's is {}: make them the same before the next connect",
                named(theirs),
                named(ours)
            );
            self.log("integrity", Level::Info, self.peer_subject(), text, out);
        }
    }

    /// Digests of that name begin, or end, in one direction of the data stream.
    pub(super) fn set_integrity(&mut self, direction: Direction, algorithm: &str, out: &mut Vec<Command>) {
        let Some(session) = self.connection.as_deref_mut().and_then(|c| c.session_mut()) else { return };
        if session.version >= VERSION_MIN {
            let socket = session.data;
            match direction {
                Direction::Sending => algorithm.clone_into(&mut session.sends_digests),
                Direction::Receiving => algorithm.clone_into(&mut session.receives_digests),
            }
            out.push(Command::SetIntegrity { socket, direction, algorithm: algorithm.into() });
        }
    }

    /// A session of the daemon before goes on with its digests.
    pub(super) fn resume_integrity(&mut self, sends: &str, receives: &str, out: &mut Vec<Command>) {
        for (direction, algorithm) in [(Direction::Sending, sends), (Direction::Receiving, receives)] {
            if !algorithm.is_empty() {
                self.set_integrity(direction, algorithm, out);
            }
        }
    }
}
