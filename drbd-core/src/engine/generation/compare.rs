//! Which of two copies is newer: rules 10 to 100 of DRBD 8.4, the first that holds.

use super::{GenerationSet, RESYNC_OFFSET, ROLE_BIT};
use crate::metadata::UUID_JUST_CREATED;
use crate::states::Role;
use crate::wire::{uuid_flag, Uuids};

/// What a comparison asks about besides the generations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompareContext {
    /// Protocol version of the session.
    pub agreed_version: u32,
    /// Feature LONG_SIZES (8.4's WSAME) is agreed.
    pub long_sizes: bool,
    /// Own role now.
    pub role: Role,
    /// The peer's role, from the state it just sent.
    pub peer_role: Role,
    /// This node was Primary when it crashed.
    pub crashed_primary: bool,
    /// This node decides ties (it accepted the control stream).
    pub resolve_conflicts: bool,
}

/// What a comparison says is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// The copies are the same.
    NoSync,
    /// This node is newer; the bitmap tells where.
    SourceBitmap,
    /// This node is newer; all of it is to be copied.
    SourceFull,
    /// The peer is newer; the bitmap tells where.
    TargetBitmap,
    /// The peer is newer; all of it is to be copied.
    TargetFull,
    /// Both were written since they parted; the policies may decide.
    SplitBrain,
    /// Both were written since they parted, and the bitmaps do not tell where.
    SplitBrainDisconnect,
    /// The copies have nothing in common.
    Unrelated,
    /// Cannot be told below protocol 91.
    NeedsProtocol91,
    /// Cannot be told without feature LONG_SIZES of protocol 101.
    NeedsLongSizes,
}

impl Strategy {
    /// Every value.
    pub const ALL: [Strategy; 10] = [
        Strategy::NoSync,
        Strategy::SourceBitmap,
        Strategy::SourceFull,
        Strategy::TargetBitmap,
        Strategy::TargetFull,
        Strategy::SplitBrain,
        Strategy::SplitBrainDisconnect,
        Strategy::Unrelated,
        Strategy::NeedsProtocol91,
        Strategy::NeedsLongSizes,
    ];

    /// What the peer must come to if this node came to this.
    pub const fn reverse(self) -> Strategy {
        match self {
            Strategy::SourceBitmap => Strategy::TargetBitmap,
            Strategy::SourceFull => Strategy::TargetFull,
            Strategy::TargetBitmap => Strategy::SourceBitmap,
            Strategy::TargetFull => Strategy::SourceFull,
            Strategy::NoSync
            | Strategy::SplitBrain
            | Strategy::SplitBrainDisconnect
            | Strategy::Unrelated
            | Strategy::NeedsProtocol91
            | Strategy::NeedsLongSizes => self,
        }
    }

    /// The number DRBD logs for it.
    pub const fn number(self) -> i32 {
        match self {
            Strategy::NoSync => 0,
            Strategy::SourceBitmap => 1,
            Strategy::SourceFull => 2,
            Strategy::TargetBitmap => -1,
            Strategy::TargetFull => -2,
            Strategy::SplitBrain => 100,
            Strategy::SplitBrainDisconnect => -100,
            Strategy::Unrelated => -1000,
            Strategy::NeedsProtocol91 => -1091,
            Strategy::NeedsLongSizes => -(0x1_0000 | 4 << 8 | 101),
        }
    }
}

/// A packet of the last resync was lost: what to correct before anything else is done with the sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Own set: the resync from here finished, and the peer knows.
    FinishOwnResync,
    /// Own set: the peer never heard of the resync begun here. To be written to disk.
    UndoOwnResync,
    /// The peer's set as stored here: its resync finished, and this node knows.
    FinishPeerResync,
    /// The peer's set as stored here: this node never heard of the resync it began.
    UndoPeerResync,
}

impl Repair {
    /// Corrects the set it concerns.
    pub fn apply(self, own: &mut GenerationSet, peer: &mut Uuids) {
        match self {
            Repair::FinishOwnResync => own.set_bitmap(0),
            Repair::UndoOwnResync => {
                own.bitmap = own.history[0];
                own.history[0] = own.history[1];
            }
            Repair::FinishPeerResync => {
                peer.history = [peer.bitmap, peer.history[0]];
                peer.bitmap = 0;
            }
            Repair::UndoPeerResync => {
                peer.bitmap = peer.history[0];
                peer.history[0] = peer.history[1];
            }
        }
    }
}

/// Outcome of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// What is to be done.
    pub strategy: Strategy,
    /// Number of the rule that held, as DRBD logs it.
    pub rule: u16,
    /// What to correct first, whatever becomes of the strategy.
    pub repair: Option<Repair>,
}

impl GenerationSet {
    /// Compares with the set the peer announced (P_UUIDS).
    pub fn compare(&self, peer: &Uuids, context: &CompareContext) -> Comparison {
        let pair = Pair::of(self, peer, context);
        for rule in &RULES {
            if !(rule.holds)(&pair) {
                continue;
            }
            return match rule.below_91 {
                Some(rule) if context.agreed_version < 91 => {
                    Comparison { strategy: Strategy::NeedsProtocol91, rule, repair: None }
                }
                _ => Comparison { strategy: rule.strategy, rule: rule.number, repair: rule.repair },
            };
        }
        Comparison { strategy: Strategy::Unrelated, rule: 100, repair: None }
    }
}

/// One side without role bits, and its bitmap generation with it.
struct Side {
    current: u64,
    bitmap: u64,
    history: [u64; 2],
    raw_bitmap: u64,
    primary: bool,
    crashed: bool,
}

impl Side {
    fn of(current: u64, raw_bitmap: u64, history: [u64; 2]) -> Side {
        let plain = |generation: u64| generation & !ROLE_BIT;
        Side {
            current: plain(current),
            bitmap: plain(raw_bitmap),
            history: history.map(plain),
            raw_bitmap,
            primary: false,
            crashed: false,
        }
    }

    fn is_fresh(&self) -> bool {
        self.current == UUID_JUST_CREATED
    }

    fn is_fresh_or_empty(&self) -> bool {
        self.is_fresh() || self.current == 0
    }

    /// Something of this side's past is `generation`.
    fn remembers(&self, generation: u64) -> bool {
        self.history.contains(&generation)
    }

    /// This side began a resync from where `target` stands, and `target` never heard of it.
    fn began_unheard(&self, target: &Side, agreed_version: u32) -> bool {
        let began = if agreed_version < 96 {
            target.history[0] == self.history[1]
        } else {
            self.history[0].wrapping_add(RESYNC_OFFSET) == self.bitmap
        };
        target.current == self.history[0] && began
    }

    /// This side was source of a resync whose end only `target` noticed.
    fn missed_finish(&self, target: &Side) -> bool {
        self.bitmap == target.history[0] && self.history[0] == target.history[1]
    }

    /// The bitmap counts from something here and from nothing on the `other` side.
    fn alone_has_bitmap(&self, other: &Side) -> bool {
        self.raw_bitmap != 0 && other.raw_bitmap == 0
    }
}

struct Pair {
    own: Side,
    peer: Side,
    agreed_version: u32,
    long_sizes: bool,
    resolve_conflicts: bool,
}

impl Pair {
    fn of(own: &GenerationSet, peer: &Uuids, context: &CompareContext) -> Pair {
        Pair {
            own: Side {
                primary: context.role == Role::Primary,
                crashed: context.crashed_primary,
                ..Side::of(own.current, own.bitmap, own.wire_history())
            },
            peer: Side {
                primary: context.peer_role == Role::Primary,
                crashed: peer.flags & uuid_flag::CRASHED_PRIMARY != 0,
                ..Side::of(peer.current, peer.bitmap, peer.history)
            },
            agreed_version: context.agreed_version,
            long_sizes: context.long_sizes,
            resolve_conflicts: context.resolve_conflicts,
        }
    }

    fn same(&self) -> bool {
        self.own.current == self.peer.current
    }

    fn someone_primary(&self) -> bool {
        self.own.primary || self.peer.primary
    }

    /// The same generation, but nobody is Primary to follow; who crashed as Primary?
    fn crashed(&self, own: bool, peer: bool) -> bool {
        self.same() && self.own.crashed == own && self.peer.crashed == peer
    }
}

struct Rule {
    number: u16,
    holds: fn(&Pair) -> bool,
    strategy: Strategy,
    /// Needs protocol 91; below, this rule number is logged.
    below_91: Option<u16>,
    repair: Option<Repair>,
}

impl Rule {
    const fn new(number: u16, strategy: Strategy, holds: fn(&Pair) -> bool) -> Rule {
        Rule { number, holds, strategy, below_91: None, repair: None }
    }

    const fn needs_91(mut self, below_91: u16) -> Rule {
        self.below_91 = Some(below_91);
        self
    }

    const fn repair(mut self, repair: Repair) -> Rule {
        self.repair = Some(repair);
        self
    }
}

const RULES: [Rule; 24] = [
    Rule::new(10, Strategy::NoSync, |p| p.own.is_fresh() && p.peer.is_fresh()),
    Rule::new(20, Strategy::TargetFull, |p| p.own.is_fresh_or_empty() && !p.peer.is_fresh()),
    Rule::new(30, Strategy::SourceFull, |p| !p.own.is_fresh() && p.peer.is_fresh_or_empty()),
    Rule::new(34, Strategy::SourceBitmap, |p| {
        p.same() && p.own.alone_has_bitmap(&p.peer) && p.own.missed_finish(&p.peer)
    })
    .needs_91(30)
    .repair(Repair::FinishOwnResync),
    Rule::new(36, Strategy::SourceBitmap, |p| p.same() && p.own.alone_has_bitmap(&p.peer)).needs_91(30),
    Rule::new(35, Strategy::TargetBitmap, |p| {
        p.same() && p.peer.alone_has_bitmap(&p.own) && p.peer.missed_finish(&p.own)
    })
    .needs_91(30)
    .repair(Repair::FinishPeerResync),
    Rule::new(37, Strategy::TargetBitmap, |p| p.same() && p.peer.alone_has_bitmap(&p.own)).needs_91(30),
    Rule::new(40, Strategy::NoSync, |p| p.crashed(false, false)),
    Rule::new(41, Strategy::NeedsLongSizes, |p| p.same() && p.someone_primary() && !p.long_sizes),
    Rule::new(41, Strategy::SplitBrainDisconnect, |p| p.same() && p.own.primary && p.peer.primary),
    Rule::new(41, Strategy::SourceBitmap, |p| p.same() && p.own.primary),
    Rule::new(41, Strategy::TargetBitmap, |p| p.same() && p.peer.primary),
    Rule::new(40, Strategy::SourceBitmap, |p| p.crashed(true, false)),
    Rule::new(40, Strategy::TargetBitmap, |p| p.crashed(false, true)),
    Rule::new(40, Strategy::TargetBitmap, |p| p.crashed(true, true) && p.resolve_conflicts),
    Rule::new(40, Strategy::SourceBitmap, |p| p.crashed(true, true)),
    Rule::new(50, Strategy::TargetBitmap, |p| p.own.current == p.peer.bitmap),
    Rule::new(51, Strategy::TargetBitmap, |p| p.peer.began_unheard(&p.own, p.agreed_version))
        .needs_91(51)
        .repair(Repair::UndoPeerResync),
    Rule::new(60, Strategy::TargetFull, |p| p.peer.remembers(p.own.current)),
    Rule::new(70, Strategy::SourceBitmap, |p| p.own.bitmap == p.peer.current),
    Rule::new(71, Strategy::SourceBitmap, |p| p.own.began_unheard(&p.peer, p.agreed_version))
        .needs_91(71)
        .repair(Repair::UndoOwnResync),
    Rule::new(80, Strategy::SourceFull, |p| p.own.remembers(p.peer.current)),
    Rule::new(90, Strategy::SplitBrain, |p| p.own.bitmap == p.peer.bitmap && p.own.bitmap != 0),
    // Two empty places count as a common ancestor, as in 8.4: the peer sees it the same way.
    Rule::new(100, Strategy::SplitBrainDisconnect, |p| p.own.history.iter().any(|g| p.peer.remembers(*g))),
];
