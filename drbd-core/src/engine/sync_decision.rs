//! From two nodes that meet to what each does: nothing, resync as source or target, or part (6.5 of the wire
//! reference).
//!
//! Generations decide first; an Inconsistent disk beside a better one overrides them; then come the `after-sb-*`
//! policies, `--discard-my-data` and `rr-conflict`. Pure: what the decision sets in motion (handlers, a repair
//! of the sets) is listed in it for the engine to do.

use super::after_split_brain::{recover, Recovered, Recovery, SplitBrainFacts, SplitBrainPolicies};
use super::command::Level;
use super::generation::{CompareContext, Comparison, GenerationSet, Repair, Strategy, ROLE_BIT};
use crate::states::{DiskState, Role};
use crate::wire::{uuid_flag, Uuids};

mod explain;

/// What is known when two nodes meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncInput<'a> {
    /// Name of the resource, for advice.
    pub resource: &'a str,
    /// Own generations.
    pub own: &'a GenerationSet,
    /// What the peer announced (P_UUIDS).
    pub peer: &'a Uuids,
    /// What the comparison asks about.
    pub context: CompareContext,
    /// Own disk now, possibly Negotiating.
    pub disk: DiskState,
    /// What the own disk was found to be at attach; asked only while Negotiating.
    pub disk_at_attach: DiskState,
    /// The peer's disk as it says, possibly Negotiating.
    pub peer_disk: DiskState,
    /// after-sb-*.
    pub policies: SplitBrainPolicies,
    /// always-asbp.
    pub always_asbp: bool,
    /// rr-conflict.
    pub rr_conflict: RoleResyncConflict,
    /// Own `--discard-my-data`, not used up yet. The peer's is in its flags.
    pub discard_my_data: bool,
    /// Own out-of-sync bits as last announced (P_UUIDS).
    pub announced_bits: u64,
    /// Own `--tentative`.
    pub tentative: bool,
    /// The peer announced `--tentative` (P_PROTOCOL).
    pub peer_tentative: bool,
}

/// rr-conflict: a Primary with good data would become target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum RoleResyncConflict {
    /// Part.
    #[default]
    Disconnect,
    /// Part after calling the handler `pri-lost`.
    CallPrimaryLost,
    /// Become target all the same: the data changes under its user.
    Violently,
    /// Part and try again.
    RetryConnect,
    /// DRBD 9's; nothing more than to part in dialect 8.4.
    AutoDiscard,
}

impl RoleResyncConflict {
    /// From the configuration; anything unknown is `disconnect`.
    pub fn from_option(word: &str) -> RoleResyncConflict {
        match word {
            "call-pri-lost" => RoleResyncConflict::CallPrimaryLost,
            "violently" => RoleResyncConflict::Violently,
            "retry-connect" => RoleResyncConflict::RetryConnect,
            "auto-discard" => RoleResyncConflict::AutoDiscard,
            _ => RoleResyncConflict::Disconnect,
        }
    }
}

/// What this node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Connected: no resync.
    None,
    /// WFBitMapS.
    Source {
        /// All bits are to be set and written first.
        full: bool,
    },
    /// WFBitMapT.
    Target {
        /// All bits are to be set and written first.
        full: bool,
    },
    /// The nodes cannot go on together.
    Fail {
        /// Why.
        reason: FailReason,
        /// What follows.
        then: AfterFailure,
    },
}

/// Why two nodes cannot go on together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailReason {
    /// No common generation.
    Unrelated,
    /// The peer (or this node) speaks too old a protocol to tell.
    NeedsProtocol,
    /// Both were written since they parted, and nothing says whose changes go.
    SplitBrain,
    /// This node would be source, but its data is Inconsistent.
    SourceInconsistent,
    /// This node would be target, but is Primary.
    TargetPrimary,
    /// It was only asked what would happen.
    Tentative,
}

/// What follows a failure, first match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterFailure {
    /// The attach is aborted: own disk to Failed (hard), the connection stays.
    AbortAttach,
    /// The peer's attach is taken for aborted: its disk is Diskless, the connection stays.
    PeerStaysDiskless,
    /// Drop the connection and try again (ProtocolError).
    Reconnect,
    /// Disconnecting (hard), to StandAlone.
    Disconnect,
}

/// What is to be done, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What this node does.
    pub action: Action,
    /// What the generations alone said.
    pub comparison: Comparison,
    /// To be applied first, even if the action is to fail. Rule 34's is left out: as long as the bitmap's generation
    /// stands, a node that crashes before the resync begins still knows that it must be source.
    pub repair: Option<Repair>,
    /// Handlers to be called, in order.
    pub handlers: Vec<&'static str>,
    /// DRBD's own log lines, in order.
    pub log: Vec<(Level, String)>,
    /// The whole matter in a sentence, for people.
    pub sentence: String,
}

/// Compares and decides.
pub fn decide(input: &SyncInput<'_>) -> Decision {
    decide_on(input.own.compare(input.peer, &input.context), input)
}

fn decide_on(comparison: Comparison, input: &SyncInput<'_>) -> Decision {
    let mut deliberation = Deliberation::new(comparison, input);
    let outcome = deliberation.run();
    let action = match outcome {
        Ok(action) => action,
        Err(reason) => Action::Fail { reason, then: after_failure(reason, input) },
    };
    let sentence = explain::sentence(input, &comparison, action, deliberation.cause);
    let Deliberation { handlers, log, .. } = deliberation;
    let repair = comparison.repair.filter(|repair| *repair != Repair::FinishOwnResync);
    Decision { action, comparison, repair, handlers, log, sentence }
}

fn after_failure(reason: FailReason, input: &SyncInput<'_>) -> AfterFailure {
    let retry = reason == FailReason::TargetPrimary && input.rr_conflict == RoleResyncConflict::RetryConnect;
    if input.disk == DiskState::Negotiating {
        AfterFailure::AbortAttach
    } else if input.peer_disk == DiskState::Negotiating {
        AfterFailure::PeerStaysDiskless
    } else if input.peer_tentative || retry {
        AfterFailure::Reconnect
    } else {
        AfterFailure::Disconnect
    }
}

/// What decided in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Generations,
    DiskStates,
    Policies,
    DiscardMyData,
}

struct Deliberation<'a> {
    input: &'a SyncInput<'a>,
    strategy: Strategy,
    cause: Cause,
    handlers: Vec<&'static str>,
    log: Vec<(Level, String)>,
}

impl<'a> Deliberation<'a> {
    fn new(comparison: Comparison, input: &'a SyncInput<'a>) -> Deliberation<'a> {
        Deliberation {
            input,
            strategy: comparison.strategy,
            cause: Cause::Generations,
            handlers: Vec::new(),
            log: explain::comparison_lines(input, &comparison),
        }
    }

    /// The steps in DRBD's order; each may change the strategy or end it all.
    fn run(&mut self) -> Result<Action, FailReason> {
        self.refuse_the_incomparable()?;
        self.let_disk_states_decide();
        self.let_policies_decide();
        self.let_discard_my_data_decide();
        self.refuse_split_brain()?;
        self.refuse_inconsistent_source()?;
        self.refuse_primary_target()?;
        self.refuse_tentative()?;
        self.tell_the_amount();
        Ok(self.action())
    }

    fn refuse_the_incomparable(&mut self) -> Result<(), FailReason> {
        match self.strategy {
            Strategy::Unrelated => {
                self.say(Level::Error, "Unrelated data, aborting!");
                Err(FailReason::Unrelated)
            }
            Strategy::NeedsProtocol91 => {
                self.say(Level::Error, "To resolve this both sides have to support at least protocol 91");
                Err(FailReason::NeedsProtocol)
            }
            Strategy::NeedsLongSizes => {
                let text =
                    "To resolve this both sides have to support at least protocol 101 and feature flags 0x4";
                self.say(Level::Error, text);
                Err(FailReason::NeedsProtocol)
            }
            Strategy::NoSync
            | Strategy::SourceBitmap
            | Strategy::SourceFull
            | Strategy::TargetBitmap
            | Strategy::TargetFull
            | Strategy::SplitBrain
            | Strategy::SplitBrainDisconnect => Ok(()),
        }
    }

    /// Inconsistent data beside better data can only be target, whatever the generations say.
    fn let_disk_states_decide(&mut self) {
        let own_better = is_better(self.input.real_disk());
        let peer_better = is_better(self.input.real_peer_disk());
        let inconsistent = |disk| disk == DiskState::Inconsistent;
        let source = own_better && inconsistent(self.input.real_peer_disk());
        let target = peer_better && inconsistent(self.input.real_disk());
        if !source && !target {
            return;
        }
        let full = matches!(
            self.strategy,
            Strategy::SplitBrainDisconnect | Strategy::SourceFull | Strategy::TargetFull
        );
        self.strategy = sync_from(source, full);
        self.cause = Cause::DiskStates;
        let side = if source { "source" } else { "target" };
        self.say(Level::Info, &format!("Becoming sync {side} due to disk states."));
    }

    fn let_policies_decide(&mut self) {
        let disconnect = self.strategy == Strategy::SplitBrainDisconnect;
        if self.strategy != Strategy::SplitBrain && !disconnect {
            return;
        }
        self.handlers.push("initial-split-brain");
        if disconnect && !self.input.always_asbp {
            return;
        }
        let facts = self.input.split_brain_facts();
        let recovered = recover(&self.input.policies, &facts);
        self.note(&recovered);
        let source = match recovered.recovery {
            Recovery::Source => true,
            Recovery::Target => false,
            Recovery::Undecided => {
                self.strategy = Strategy::SplitBrainDisconnect;
                return;
            }
        };
        self.strategy = sync_from(source, disconnect);
        self.cause = Cause::Policies;
        let (primaries, side) = (facts.primaries(), side_name(source));
        let text = format!(
            "Split-Brain detected, {primaries} primaries, automatically solved. Sync from {side} node"
        );
        self.say(Level::Warning, &text);
        if disconnect {
            self.say(Level::Warning, "Doing a full sync, since UUIDs where ambiguous.");
        }
    }

    fn note(&mut self, recovered: &Recovered) {
        if recovered.misconfigured {
            self.say(Level::Error, "Configuration error.");
        }
        if recovered.by_least_changes {
            let text =
                "Discard younger/older primary did not find a decision\nUsing discard-least-changes instead";
            self.say(Level::Warning, text);
        }
        if recovered.call_primary_lost {
            self.handlers.push("pri-lost-after-sb");
        }
    }

    fn let_discard_my_data_decide(&mut self) {
        if self.strategy != Strategy::SplitBrainDisconnect {
            return;
        }
        let peer_discards = self.input.peer.flags & uuid_flag::DISCARD_MY_DATA != 0;
        if self.input.discard_my_data == peer_discards {
            return;
        }
        self.strategy = sync_from(peer_discards, false);
        self.cause = Cause::DiscardMyData;
        let side = side_name(peer_discards);
        self.say(Level::Warning, &format!("Split-Brain detected, manually solved. Sync from {side} node"));
    }

    fn refuse_split_brain(&mut self) -> Result<(), FailReason> {
        if self.strategy != Strategy::SplitBrainDisconnect {
            return Ok(());
        }
        self.say(Level::Error, "Split-Brain detected but unresolved, dropping connection!");
        self.handlers.push("split-brain");
        Err(FailReason::SplitBrain)
    }

    fn refuse_inconsistent_source(&mut self) -> Result<(), FailReason> {
        if !self.is_source() || is_better(self.input.real_disk()) {
            return Ok(());
        }
        self.say(Level::Error, "I shall become SyncSource, but I am inconsistent!");
        Err(FailReason::SourceInconsistent)
    }

    fn refuse_primary_target(&mut self) -> Result<(), FailReason> {
        let primary = self.input.context.role == Role::Primary;
        let good = self.input.disk.rank() >= DiskState::Consistent.rank();
        if !self.is_target() || !primary || !good {
            return Ok(());
        }
        match self.input.rr_conflict {
            RoleResyncConflict::Violently => {
                self.say(Level::Warning, "Becoming SyncTarget, violating the stable-data assumption");
                return Ok(());
            }
            RoleResyncConflict::CallPrimaryLost => self.handlers.push("pri-lost"),
            RoleResyncConflict::Disconnect
            | RoleResyncConflict::RetryConnect
            | RoleResyncConflict::AutoDiscard => {}
        }
        self.say(Level::Error, "I shall become SyncTarget, but I am primary!");
        Err(FailReason::TargetPrimary)
    }

    fn refuse_tentative(&mut self) -> Result<(), FailReason> {
        if !self.input.tentative && !self.input.peer_tentative {
            return Ok(());
        }
        self.log.push((Level::Info, explain::dry_run_line(self.action())));
        Err(FailReason::Tentative)
    }

    fn tell_the_amount(&mut self) {
        match self.action() {
            Action::Source { full: true } | Action::Target { full: true } => {
                let text = "Writing the whole bitmap, full sync required after drbd_sync_handshake.";
                self.say(Level::Info, text);
            }
            Action::None if self.input.announced_bits != 0 => {
                let text = format!("No resync, but {} bits in bitmap!", self.input.announced_bits);
                self.say(Level::Info, &text);
            }
            Action::None | Action::Source { .. } | Action::Target { .. } | Action::Fail { .. } => {}
        }
    }

    fn action(&self) -> Action {
        match self.strategy {
            Strategy::SourceBitmap => Action::Source { full: false },
            Strategy::SourceFull => Action::Source { full: true },
            Strategy::TargetBitmap => Action::Target { full: false },
            Strategy::TargetFull => Action::Target { full: true },
            Strategy::NoSync
            | Strategy::SplitBrain
            | Strategy::SplitBrainDisconnect
            | Strategy::Unrelated
            | Strategy::NeedsProtocol91
            | Strategy::NeedsLongSizes => Action::None,
        }
    }

    fn is_source(&self) -> bool {
        matches!(self.action(), Action::Source { .. })
    }

    fn is_target(&self) -> bool {
        matches!(self.action(), Action::Target { .. })
    }

    fn say(&mut self, level: Level, text: &str) {
        self.log.push((level, text.to_owned()));
    }
}

impl SyncInput<'_> {
    /// What the own disk is worth.
    fn real_disk(&self) -> DiskState {
        match self.disk {
            DiskState::Negotiating => self.disk_at_attach,
            disk => disk,
        }
    }

    /// What the peer's disk is worth.
    fn real_peer_disk(&self) -> DiskState {
        match self.peer_disk {
            DiskState::Negotiating if self.peer.flags & uuid_flag::INCONSISTENT != 0 => {
                DiskState::Inconsistent
            }
            DiskState::Negotiating => DiskState::Consistent,
            disk => disk,
        }
    }

    fn split_brain_facts(&self) -> SplitBrainFacts {
        SplitBrainFacts {
            role: self.context.role,
            peer_role: self.context.peer_role,
            was_primary_first: self.own.bitmap & ROLE_BIT != 0,
            peer_was_primary_first: self.peer.bitmap & ROLE_BIT != 0,
            bits: self.announced_bits,
            peer_bits: self.peer.bits,
            resolve_conflicts: self.context.resolve_conflicts,
        }
    }
}

/// Better than Inconsistent.
fn is_better(disk: DiskState) -> bool {
    disk.rank() > DiskState::Inconsistent.rank()
}

fn sync_from(this_node: bool, full: bool) -> Strategy {
    match (this_node, full) {
        (true, false) => Strategy::SourceBitmap,
        (true, true) => Strategy::SourceFull,
        (false, false) => Strategy::TargetBitmap,
        (false, true) => Strategy::TargetFull,
    }
}

fn side_name(this_node: bool) -> &'static str {
    if this_node {
        "this"
    } else {
        "peer"
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod two_nodes;
