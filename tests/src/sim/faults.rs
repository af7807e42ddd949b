//! What can go wrong, written down before the dice.
//!
//! # The fault model
//!
//! - **Disks** lose, at a loss of power, any of the completed writes that no completed flush and no FUA covered, each
//!   for itself, whole or torn at 512 or 4096 bytes. An operation outstanding at a crash has happened, has not, or has
//!   in part. Reads and writes may fail, a failed write may have happened in part; a disk may stall for seconds and
//!   finish what is outstanding in any order. With external metadata the two disks of a volume have caches of their
//!   own and lose independently.
//! - **Streams** keep their order but are cut anywhere; they may stall, break (both ends told), be half open (one end
//!   told), be dead in one direction or both, and lose what was on the way when they break. A listener may be refused.
//!   Both nodes dial at once, so that connections cross.
//! - **A daemon crash** ends the process: its memory is gone, its sockets are closed by the kernel, the caches of the
//!   disks stay. It is started again and attaches what was attached, the log replayed at attach.
//! - **A node crash and a loss of power** are one fault here: memory and caches are gone, nobody closes a socket, the
//!   peer is told nothing. Several nodes at once too. Afterwards `drbdadm up`: apply-al, attach, connect.
//! - **Administrators** attach, detach, disconnect, connect and switch roles at any time; after the Primary died they
//!   promote the other node, with `--force` if it takes that; now and then they promote both apart. They resolve a
//!   split brain with `connect --discard-my-data` on one side.
//! - **Clocks** begin anywhere and differ in speed.
//!
//! *Not* modelled: bit rot, disks that lie about a flush, streams that change bytes, a peer that lies.
//!
//! After the last fault everything is healed, and both nodes must find together again within a bounded time.

use super::clock::{Time, MS, SECOND};
use super::prng::Prng;

/// A kind of fault, for counting and for taking it away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    DaemonCrash,
    PowerLoss,
    PowerLossOfAll,
    LinkBreak,
    HalfOpen,
    OneWay,
    Partition,
    DiskErrors,
    MetaErrors,
    DiskStall,
    Detach,
    Disconnect,
    RoleSwitch,
    FailOver,
    PromotedApart,
    ListenRefused,
    Down,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Kind; 17] = [
        Kind::DaemonCrash,
        Kind::PowerLoss,
        Kind::PowerLossOfAll,
        Kind::LinkBreak,
        Kind::HalfOpen,
        Kind::OneWay,
        Kind::Partition,
        Kind::DiskErrors,
        Kind::MetaErrors,
        Kind::DiskStall,
        Kind::Detach,
        Kind::Disconnect,
        Kind::RoleSwitch,
        Kind::FailOver,
        Kind::PromotedApart,
        Kind::ListenRefused,
        Kind::Down,
    ];

    /// Its place in masks and counts.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// When.
    pub(crate) at: Time,
    /// What.
    pub(crate) kind: Kind,
    /// Where; the kinds that concern the Primary choose for themselves.
    pub(crate) node: usize,
    /// How long.
    pub(crate) lasts: Time,
    /// More dice for the kind.
    pub(crate) chance: u64,
}

/// The faults of a run, in order of time; those of kinds not in `allowed` are left out after the dice.
pub(crate) fn plan(dice: &mut Prng, heal_at: Time, allowed: u32) -> Vec<Fault> {
    let calm = dice.chance(60);
    // A seed concentrates on some kinds, so that deep histories of one kind occur.
    let mut likely: Vec<Kind> = Kind::ALL.into_iter().filter(|_| dice.chance(300)).collect();
    if likely.is_empty() {
        likely.push(dice.pick(&Kind::ALL));
    }
    let count = if calm { 0 } else { dice.between(1, 12) };
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| Fault {
            at: dice.between(heal_at / 20, heal_at),
            kind: dice.pick(&likely),
            node: dice.below(2) as usize,
            lasts: dice.skewed(MS, 2 * SECOND, 15 * SECOND),
            chance: dice.below(1000),
        })
        .collect();
    faults.sort_by_key(|f| f.at);
    faults.retain(|f| allowed >> f.kind.index() & 1 == 1);
    faults
}
