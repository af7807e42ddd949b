//! Which of two copies is newer, by the rules of DRBD 9 (10.7 of the wire reference, protocol 118 to 124): for a dialect
//! that is not spoken yet, written and tested beside 8.4's table.
//!
//! A node has a bitmap for each of its peers, knows how it ended (crashed as Primary, lost quorum, had been connected)
//! and 32 generations of history, so that less has to be copied whole and less has to be guessed.

use super::{GenerationSet, ROLE_BIT};
use crate::metadata::UUID_JUST_CREATED;

/// What is known of one of the two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side<'a> {
    /// Generation of its data; while it is target of somebody else, that source's.
    pub current: u64,
    /// What its bitmap towards the other node counts from.
    pub bitmap: u64,
    /// The same of its bitmaps towards third nodes.
    pub other_bitmaps: &'a [u64],
    /// Youngest first; ends at the first 0.
    pub history: &'a [u64],
    /// Was Primary when it crashed.
    pub crashed_primary: bool,
    /// Was Primary when it lost quorum.
    pub lost_quorum: bool,
    /// Had a connection since it started.
    pub reconnects: bool,
}

impl<'a> Side<'a> {
    /// A node that ended in order.
    pub fn of(set: &'a GenerationSet) -> Side<'a> {
        Side {
            current: set.current,
            bitmap: set.bitmap,
            other_bitmaps: &[],
            history: &set.history,
            crashed_primary: false,
            lost_quorum: false,
            reconnects: false,
        }
    }

    fn is_fresh(&self) -> bool {
        matches!(plain(self.current), 0 | UUID_JUST_CREATED)
    }

    fn past(&self) -> impl Iterator<Item = u64> + '_ {
        self.history.iter().map(|generation| plain(*generation)).take_while(|generation| *generation != 0)
    }

    fn remembers(&self, generation: u64) -> bool {
        self.past().any(|past| past == plain(generation))
    }

    fn counts_elsewhere_from(&self, generation: u64) -> bool {
        self.other_bitmaps.iter().any(|bitmap| plain(*bitmap) == plain(generation))
    }
}

fn plain(generation: u64) -> u64 {
    generation & !ROLE_BIT
}

/// What a comparison asks about besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Protocol version of the session, 118 or above.
    pub agreed_version: u32,
    /// Protocol C is configured.
    pub protocol_c: bool,
    /// This node decides ties.
    pub resolve_conflicts: bool,
    /// What this node sent of itself is no longer so.
    pub changed_since_sent: bool,
    /// A resync between the two ended, and this side did not notice.
    pub missed_end: Option<MissedEnd>,
}

/// Who missed the end of a resync as its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MissedEnd {
    /// This node.
    Own,
    /// The peer.
    Peer,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// Nothing.
    None,
    /// This node is newer: copy everything.
    SourceSetBitmap,
    /// This node is newer: its bitmap tells where.
    SourceUseBitmap,
    /// This node is newer: its bitmap towards a third node tells where.
    SourceCopyOtherBitmap,
    /// This node is newer, unless somebody is Primary: who is, leads.
    SourceIfBothFailed,
    /// The peer is newer: copy everything.
    TargetSetBitmap,
    /// The peer is newer: the bitmaps tell where.
    TargetUseBitmap,
    /// The peer is newer: its bitmap towards a third node tells where, the own one counts for nothing.
    TargetClearBitmap,
    /// The peer is newer, unless somebody is Primary.
    TargetIfBothFailed,
    /// Both were written apart; the policies may decide.
    SplitBrain,
    /// Both were written apart, and no bitmap tells where.
    SplitBrainDisconnect,
    /// Connect again: what was compared is out of date.
    RetryConnect,
    /// Nothing in common.
    Unrelated,
}

impl Strategy {
    /// What the peer must come to.
    #[must_use]
    pub const fn reverse(self) -> Strategy {
        match self {
            Strategy::SourceSetBitmap => Strategy::TargetSetBitmap,
            Strategy::SourceUseBitmap => Strategy::TargetUseBitmap,
            Strategy::SourceCopyOtherBitmap => Strategy::TargetClearBitmap,
            Strategy::SourceIfBothFailed => Strategy::TargetIfBothFailed,
            Strategy::TargetSetBitmap => Strategy::SourceSetBitmap,
            Strategy::TargetUseBitmap => Strategy::SourceUseBitmap,
            Strategy::TargetClearBitmap => Strategy::SourceCopyOtherBitmap,
            Strategy::TargetIfBothFailed => Strategy::SourceIfBothFailed,
            Strategy::None
            | Strategy::SplitBrain
            | Strategy::SplitBrainDisconnect
            | Strategy::RetryConnect
            | Strategy::Unrelated => self,
        }
    }
}

struct Pair<'a> {
    own: Side<'a>,
    peer: Side<'a>,
    context: Context,
}

impl Pair<'_> {
    fn same(&self) -> bool {
        plain(self.own.current) == plain(self.peer.current)
    }

    fn one_crashed(&self) -> Option<Strategy> {
        match (self.own.crashed_primary, self.peer.crashed_primary) {
            (true, false) => Some(Strategy::SourceUseBitmap),
            (false, true) => Some(Strategy::TargetUseBitmap),
            (true, true) | (false, false) => None,
        }
    }
}

/// A rule: its name as DRBD 9 logs it, and what it says if it applies.
struct Rule {
    name: &'static str,
    says: fn(&Pair<'_>) -> Option<Strategy>,
}

fn when(holds: bool, strategy: Strategy) -> Option<Strategy> {
    holds.then_some(strategy)
}

const RULES: [Rule; 18] = [
    Rule {
        name: "initial-handshake-changed",
        says: |p| when(p.context.changed_since_sent, Strategy::RetryConnect),
    },
    Rule { name: "just-created-both", says: |p| when(p.own.is_fresh() && p.peer.is_fresh(), Strategy::None) },
    Rule { name: "just-created-self", says: |p| when(p.own.is_fresh(), Strategy::TargetSetBitmap) },
    Rule { name: "just-created-peer", says: |p| when(p.peer.is_fresh(), Strategy::SourceSetBitmap) },
    Rule {
        name: "sync-missed-finish",
        says: |p| match p.context.missed_end.filter(|_| p.same())? {
            MissedEnd::Own => Some(Strategy::SourceUseBitmap),
            MissedEnd::Peer => Some(Strategy::TargetUseBitmap),
        },
    },
    Rule {
        name: "reconnected",
        says: |p| {
            let both = p.same() && p.own.reconnects && p.peer.reconnects;
            when(both && p.context.agreed_version >= 120, Strategy::None)
        },
    },
    Rule {
        name: "crashed-primary",
        says: |p| {
            let asked = p.same() && p.context.agreed_version >= 121 && !p.context.protocol_c;
            p.one_crashed().filter(|_| asked)
        },
    },
    Rule { name: "lost-quorum", says: by_quorum },
    Rule { name: "reconnected", says: by_reconnection },
    Rule { name: "both-off", says: by_crash },
    Rule {
        name: "bitmap-peer",
        says: |p| when(plain(p.own.current) == plain(p.peer.bitmap), Strategy::TargetUseBitmap),
    },
    Rule {
        name: "bitmap-peer-other",
        says: |p| when(p.peer.counts_elsewhere_from(p.own.current), Strategy::TargetClearBitmap),
    },
    Rule {
        name: "bitmap-self",
        says: |p| when(plain(p.own.bitmap) == plain(p.peer.current), Strategy::SourceUseBitmap),
    },
    Rule {
        name: "bitmap-self-other",
        says: |p| when(p.own.counts_elsewhere_from(p.peer.current), Strategy::SourceCopyOtherBitmap),
    },
    Rule {
        name: "history-peer",
        says: |p| {
            let one_way = p.peer.remembers(p.own.current) && !p.own.remembers(p.peer.current);
            when(one_way, Strategy::TargetSetBitmap)
        },
    },
    Rule {
        name: "history-self",
        says: |p| {
            let one_way = p.own.remembers(p.peer.current) && !p.peer.remembers(p.own.current);
            when(one_way, Strategy::SourceSetBitmap)
        },
    },
    Rule {
        name: "bitmap-both",
        says: |p| {
            let equal = plain(p.own.bitmap) == plain(p.peer.bitmap) && plain(p.own.bitmap) != 0;
            when(equal, Strategy::SplitBrain)
        },
    },
    Rule {
        name: "history-both",
        says: |p| {
            when(p.own.past().any(|generation| p.peer.remembers(generation)), Strategy::SplitBrainDisconnect)
        },
    },
];

/// The same data: the one that lost quorum as Primary may have more on its disk.
fn by_quorum(p: &Pair<'_>) -> Option<Strategy> {
    match (p.own.lost_quorum, p.peer.lost_quorum) {
        _ if !p.same() => None,
        (false, false) => None,
        (false, true) => Some(Strategy::TargetIfBothFailed),
        (true, false) => Some(Strategy::SourceIfBothFailed),
        (true, true) if p.context.resolve_conflicts => Some(Strategy::SourceIfBothFailed),
        (true, true) => Some(Strategy::TargetIfBothFailed),
    }
}

/// The same data, and at least one of the two had been connected before.
fn by_reconnection(p: &Pair<'_>) -> Option<Strategy> {
    match (p.own.reconnects, p.peer.reconnects) {
        _ if !p.same() => None,
        (false, false) => None,
        (true, true) if p.context.agreed_version < 120 => Some(Strategy::None),
        (true, _) if p.peer.crashed_primary => Some(Strategy::SourceIfBothFailed),
        (_, true) if p.own.crashed_primary => Some(Strategy::TargetIfBothFailed),
        (true, _) | (_, true) => Some(Strategy::None),
    }
}

/// The same data, and both were off: who crashed as Primary may have more on its disk.
fn by_crash(p: &Pair<'_>) -> Option<Strategy> {
    match (p.own.crashed_primary, p.peer.crashed_primary) {
        _ if !p.same() => None,
        (true, true) if p.context.resolve_conflicts => Some(Strategy::TargetIfBothFailed),
        (true, _) => Some(Strategy::SourceIfBothFailed),
        (false, true) => Some(Strategy::TargetIfBothFailed),
        (false, false) => Some(Strategy::None),
    }
}

/// The first rule that applies, and what it says.
pub fn compare(own: Side<'_>, peer: Side<'_>, context: Context) -> (&'static str, Strategy) {
    let pair = Pair { own, peer, context };
    let said = RULES.iter().find_map(|rule| Some((rule.name, (rule.says)(&pair)?)));
    said.unwrap_or(("no-rule", Strategy::Unrelated))
}

#[cfg(test)]
mod tests;
