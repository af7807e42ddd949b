//! What the nodes did, in order, for those who tell of it.

use crate::engine::{Command, UpperResult};
use crate::ids::{Instant, Ticket, UpperTag};
use crate::refusal::Refusal;
use crate::wire::Packet;

/// One thing a node did.
#[derive(Clone, Debug)]
pub(in crate::engine::tests) enum Told {
    /// A change of state, in the kernel's spelling.
    State(String),
    /// A sentence of the log, with the code of its site.
    Log(&'static str, String),
    Handler(&'static str),
    Packet(Packet),
    Completed(UpperTag, UpperResult),
    Answered(Ticket, Option<Refusal>),
}

/// Everything since the last time it was read.
#[derive(Default, Debug)]
pub(in crate::engine::tests) struct Journal {
    entries: Vec<(Instant, usize, Told)>,
}

impl Journal {
    /// Takes down what a node does.
    pub(super) fn note(&mut self, now: Instant, node: usize, command: &Command) {
        let told = match command {
            Command::Log(record) if record.code == "state-change" => Told::State(record.text.clone()),
            Command::Log(record) => Told::Log(record.code, record.text.clone()),
            Command::RunHandler { call, .. } => Told::Handler(call.name),
            Command::Send { frame, .. } => Told::Packet(frame.packet.clone()),
            Command::Complete { tag, result, .. } => Told::Completed(*tag, *result),
            Command::Reply { ticket, result } => {
                Told::Answered(*ticket, result.as_ref().err().map(|refusal| (**refusal).clone()))
            }
            _ => return,
        };
        self.entries.push((now, node, told));
    }

    pub(in crate::engine::tests) fn take(&mut self) -> Vec<(Instant, usize, Told)> {
        std::mem::take(&mut self.entries)
    }
}
