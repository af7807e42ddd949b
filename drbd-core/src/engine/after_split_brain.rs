//! The `after-sb-*` policies: who gives way when both copies were written (6.6 of the wire reference).
//!
//! Both nodes evaluate the same policies on mirrored facts and come to mirrored results.

use crate::states::Role;
use crate::wire::handshake::after_sb_mirrored;

/// A policy of after-sb-0pri, -1pri or -2pri. The numbers are those of P_PROTOCOL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum SplitBrainPolicy {
    /// Do nothing, disconnect.
    #[default]
    Disconnect = 0,
    /// The changes of the node that became Primary later go.
    DiscardYoungerPrimary = 1,
    /// The changes of the node that became Primary first go.
    DiscardOlderPrimary = 2,
    /// If one node wrote nothing, it follows.
    DiscardZeroChanges = 3,
    /// The node that wrote less follows.
    DiscardLeastChanges = 4,
    /// The changes of this node go.
    DiscardLocal = 5,
    /// The changes of the peer go.
    DiscardRemote = 6,
    /// As after-sb-0pri, if that means the Secondary gives way.
    Consensus = 7,
    /// The changes of the Secondary go.
    DiscardSecondary = 8,
    /// As after-sb-0pri; a Primary that would have to give way calls its handler and ends the connection.
    CallPrimaryLost = 9,
    /// As after-sb-0pri, even under a Primary.
    Violently = 10,
}

impl SplitBrainPolicy {
    /// Every policy by its number.
    pub const ALL: [SplitBrainPolicy; 11] = [
        SplitBrainPolicy::Disconnect,
        SplitBrainPolicy::DiscardYoungerPrimary,
        SplitBrainPolicy::DiscardOlderPrimary,
        SplitBrainPolicy::DiscardZeroChanges,
        SplitBrainPolicy::DiscardLeastChanges,
        SplitBrainPolicy::DiscardLocal,
        SplitBrainPolicy::DiscardRemote,
        SplitBrainPolicy::Consensus,
        SplitBrainPolicy::DiscardSecondary,
        SplitBrainPolicy::CallPrimaryLost,
        SplitBrainPolicy::Violently,
    ];

    /// As the configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            SplitBrainPolicy::Disconnect => "disconnect",
            SplitBrainPolicy::DiscardYoungerPrimary => "discard-younger-primary",
            SplitBrainPolicy::DiscardOlderPrimary => "discard-older-primary",
            SplitBrainPolicy::DiscardZeroChanges => "discard-zero-changes",
            SplitBrainPolicy::DiscardLeastChanges => "discard-least-changes",
            SplitBrainPolicy::DiscardLocal => "discard-local",
            SplitBrainPolicy::DiscardRemote => "discard-remote",
            SplitBrainPolicy::Consensus => "consensus",
            SplitBrainPolicy::DiscardSecondary => "discard-secondary",
            SplitBrainPolicy::CallPrimaryLost => "call-pri-lost-after-sb",
            SplitBrainPolicy::Violently => "violently-as0p",
        }
    }

    /// From the configuration; anything unknown is `disconnect`, which loses nothing.
    pub fn from_option(word: &str) -> SplitBrainPolicy {
        SplitBrainPolicy::ALL.into_iter().find(|policy| policy.name() == word).unwrap_or_default()
    }

    /// The number in P_PROTOCOL.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The policy with that number in P_PROTOCOL.
    pub fn from_number(number: u32) -> Option<SplitBrainPolicy> {
        SplitBrainPolicy::ALL.into_iter().find(|policy| policy.number() == number)
    }

    /// What the peer must have configured to agree with this: local and remote change places.
    pub fn mirrored(self) -> SplitBrainPolicy {
        match SplitBrainPolicy::from_number(after_sb_mirrored(self.number())) {
            Some(policy) => policy,
            None => self,
        }
    }
}

/// The three policies of a connection, by the number of Primaries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SplitBrainPolicies {
    /// after-sb-0pri.
    pub nobody_primary: SplitBrainPolicy,
    /// after-sb-1pri.
    pub one_primary: SplitBrainPolicy,
    /// after-sb-2pri.
    pub both_primary: SplitBrainPolicy,
}

/// What the policies look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SplitBrainFacts {
    /// Own role.
    pub role: Role,
    /// The peer's role.
    pub peer_role: Role,
    /// Bit 0 of the own bitmap generation: this node was Primary already when contact was lost.
    pub was_primary_first: bool,
    /// The same of the peer.
    pub peer_was_primary_first: bool,
    /// Own out-of-sync bits as announced to the peer.
    pub bits: u64,
    /// The peer's as announced to us.
    pub peer_bits: u64,
    /// This node decides ties.
    pub resolve_conflicts: bool,
}

impl SplitBrainFacts {
    /// How many nodes are Primary, 0 to 2.
    pub fn primaries(&self) -> u32 {
        u32::from(self.role == Role::Primary) + u32::from(self.peer_role == Role::Primary)
    }
}

/// Who leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// The peer's changes go.
    Source,
    /// Own changes go.
    Target,
    /// The policies do not decide.
    Undecided,
}

/// What the policies came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Who leads.
    pub recovery: Recovery,
    /// The handler `pri-lost-after-sb` is to be called.
    pub call_primary_lost: bool,
    /// The policy makes no sense for this number of Primaries.
    pub misconfigured: bool,
    /// The age of the Primaries did not decide; the amount of changes did.
    pub by_least_changes: bool,
}

impl Recovered {
    fn plain(recovery: Recovery) -> Recovered {
        Recovered { recovery, call_primary_lost: false, misconfigured: false, by_least_changes: false }
    }

    fn misconfigured() -> Recovered {
        Recovered { misconfigured: true, ..Recovered::plain(Recovery::Undecided) }
    }
}

/// Applies the policy for the present number of Primaries.
pub fn recover(policies: &SplitBrainPolicies, facts: &SplitBrainFacts) -> Recovered {
    match facts.primaries() {
        0 => recover_nobody_primary(policies.nobody_primary, facts),
        1 => recover_one_primary(policies, facts),
        _ => recover_both_primary(policies, facts),
    }
}

fn recover_nobody_primary(policy: SplitBrainPolicy, facts: &SplitBrainFacts) -> Recovered {
    match policy {
        SplitBrainPolicy::Disconnect => Recovered::plain(Recovery::Undecided),
        SplitBrainPolicy::DiscardYoungerPrimary => by_age(facts, Recovery::Source),
        SplitBrainPolicy::DiscardOlderPrimary => by_age(facts, Recovery::Target),
        SplitBrainPolicy::DiscardZeroChanges => Recovered::plain(by_zero_changes(facts)),
        SplitBrainPolicy::DiscardLeastChanges => Recovered::plain(by_least_changes(facts)),
        SplitBrainPolicy::DiscardLocal => Recovered::plain(Recovery::Target),
        SplitBrainPolicy::DiscardRemote => Recovered::plain(Recovery::Source),
        SplitBrainPolicy::Consensus
        | SplitBrainPolicy::DiscardSecondary
        | SplitBrainPolicy::CallPrimaryLost
        | SplitBrainPolicy::Violently => Recovered::misconfigured(),
    }
}

fn recover_one_primary(policies: &SplitBrainPolicies, facts: &SplitBrainFacts) -> Recovered {
    let as_nobody = || recover_nobody_primary(policies.nobody_primary, facts);
    let primary = facts.role == Role::Primary;
    match policies.one_primary {
        SplitBrainPolicy::Disconnect => Recovered::plain(Recovery::Undecided),
        SplitBrainPolicy::Consensus => {
            let recovered = as_nobody();
            let agreed = if primary { Recovery::Source } else { Recovery::Target };
            let recovery = if recovered.recovery == agreed { agreed } else { Recovery::Undecided };
            Recovered { recovery, ..recovered }
        }
        SplitBrainPolicy::Violently => as_nobody(),
        SplitBrainPolicy::DiscardSecondary => {
            Recovered::plain(if primary { Recovery::Source } else { Recovery::Target })
        }
        SplitBrainPolicy::CallPrimaryLost => unless_primary_loses(as_nobody(), facts),
        SplitBrainPolicy::DiscardYoungerPrimary
        | SplitBrainPolicy::DiscardOlderPrimary
        | SplitBrainPolicy::DiscardZeroChanges
        | SplitBrainPolicy::DiscardLeastChanges
        | SplitBrainPolicy::DiscardLocal
        | SplitBrainPolicy::DiscardRemote => Recovered::misconfigured(),
    }
}

fn recover_both_primary(policies: &SplitBrainPolicies, facts: &SplitBrainFacts) -> Recovered {
    let as_nobody = || recover_nobody_primary(policies.nobody_primary, facts);
    match policies.both_primary {
        SplitBrainPolicy::Disconnect => Recovered::plain(Recovery::Undecided),
        SplitBrainPolicy::Violently => as_nobody(),
        SplitBrainPolicy::CallPrimaryLost => unless_primary_loses(as_nobody(), facts),
        SplitBrainPolicy::Consensus
        | SplitBrainPolicy::DiscardSecondary
        | SplitBrainPolicy::DiscardYoungerPrimary
        | SplitBrainPolicy::DiscardOlderPrimary
        | SplitBrainPolicy::DiscardZeroChanges
        | SplitBrainPolicy::DiscardLeastChanges
        | SplitBrainPolicy::DiscardLocal
        | SplitBrainPolicy::DiscardRemote => Recovered::misconfigured(),
    }
}

/// Of a Primary that would have to give way the handler is called, and nothing is decided. DRBD 8.4 tries to make it
/// Secondary first, in a moment of the handshake in which it allows no change of a role: its handler is always called
/// (seen with 8.4.11 on an unused device, `tests/golden/kernel-split-brain.txt`).
fn unless_primary_loses(recovered: Recovered, facts: &SplitBrainFacts) -> Recovered {
    if recovered.recovery != Recovery::Target || facts.role != Role::Primary {
        return recovered;
    }
    Recovered { recovery: Recovery::Undecided, call_primary_lost: true, ..recovered }
}

/// `if_older`: what becomes of this node if it was Primary first and the peer was not.
fn by_age(facts: &SplitBrainFacts, if_older: Recovery) -> Recovered {
    let if_younger = if if_older == Recovery::Source { Recovery::Target } else { Recovery::Source };
    match (facts.was_primary_first, facts.peer_was_primary_first) {
        (true, false) => Recovered::plain(if_older),
        (false, true) => Recovered::plain(if_younger),
        (true, true) | (false, false) => {
            Recovered { by_least_changes: true, ..Recovered::plain(by_least_changes(facts)) }
        }
    }
}

fn by_zero_changes(facts: &SplitBrainFacts) -> Recovery {
    if facts.bits == 0 || facts.peer_bits == 0 {
        by_least_changes(facts)
    } else {
        Recovery::Undecided
    }
}

fn by_least_changes(facts: &SplitBrainFacts) -> Recovery {
    match facts.bits.cmp(&facts.peer_bits) {
        std::cmp::Ordering::Less => Recovery::Target,
        std::cmp::Ordering::Greater => Recovery::Source,
        std::cmp::Ordering::Equal if facts.resolve_conflicts => Recovery::Target,
        std::cmp::Ordering::Equal => Recovery::Source,
    }
}

#[cfg(test)]
mod tests;
