//! Another kind of run: daemons are killed under a block device in use, and the next one asks to be Primary again. Its
//! seeds begin at [`FIRST_SEED`], so that it takes no dice from the others. Every other seed has the
//! [trouble](super::trouble), too. What it adds to the fault model of `faults`:
//!
//! - **A daemon is killed**: as by a crash, but the kernel keeps what its application has asked for and has not been
//!   answered. The next daemon attaches and connects what its configuration says, and asks to be Primary again. Then every
//!   request that was kept is asked again, once and in any order, whatever the answer was; so a write may be done twice.
//!   What is kept outlives further crashes of the daemon, not one of the host.
//! - **The other node takes over** meanwhile, because a cluster manager thinks so, and sometimes gives the role back
//!   before the daemon is there again.
//!
//! What is checked besides: who has met a peer that was promoted since is not Primary again; and the application sees no
//! error where its node had good data, nobody else was promoted, and no fencing was asked for.

use super::checkers::Claims;
use super::clock::{Time, MS, SECOND};
use super::cluster::{Cluster, Happening};
use super::node::{Asked, Daemon, Step};
use super::prng::Prng;
use drbd_core::config::FencingPolicy;
use drbd_core::engine::generation::{GenerationSet, ROLE_BIT};
use drbd_core::engine::{AdminRequest, Event};
use drbd_core::ids::NodeId;
use drbd_core::metadata::{Format, UUID_JUST_CREATED};
use drbd_core::refusal::{Reason, Refusal};
use drbd_core::states::{ConnectionState, DiskState, ReplicationState, Role};
use std::ops::Range;

/// Seeds from here on are of this kind.
pub const FIRST_SEED: u64 = 1 << 45;
const SEEDS: Range<u64> = FIRST_SEED..FIRST_SEED << 1;

/// It is a seed of this kind.
pub(crate) fn is_wanted(seed: u64) -> bool {
    SEEDS.contains(&seed)
}

/// It is one that has trouble as well.
pub(crate) fn has_trouble(seed: u64) -> bool {
    is_wanted(seed) && seed % 2 == 1
}

/// Something that happens in such a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Recovery {
    /// The daemon of the Primary is killed, and the next one begins after a while.
    Kill { lasts: Time, other: Other },
    /// The node that took over gives the role back.
    GiveBack { node: usize },
}

/// What the other node does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Other {
    Waits,
    TakesOver,
    TakesOverForAWhile,
}

/// What the kernel keeps for a daemon that died as Primary.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Requests that were not answered.
    asked: Vec<Asked>,
    /// The other node has data of its own: it was promoted since, or was apart before.
    other_ahead: bool,
    /// It was promoted since.
    other_promoted: bool,
    /// And then the two have met.
    met: bool,
}

impl Held {
    /// Nothing was under way, and the other node has nothing of its own.
    pub(crate) fn nothing() -> Held {
        Held::default()
    }
}

impl Recovery {
    fn draw(dice: &mut Prng) -> Recovery {
        let other = dice.pick(&[Other::Waits, Other::Waits, Other::TakesOver, Other::TakesOverForAWhile]);
        let lasts = match other {
            Other::Waits => dice.skewed(20 * MS, 200 * MS, 5 * SECOND),
            Other::TakesOver | Other::TakesOverForAWhile => dice.skewed(200 * MS, 2 * SECOND, 6 * SECOND),
        };
        Recovery::Kill { lasts, other }
    }
}

impl Cluster {
    fn has_recovery(&self) -> bool {
        is_wanted(self.seed)
    }

    /// Plans what comes besides the faults.
    pub(crate) fn plan_recovery(&mut self) {
        if !self.has_recovery() {
            return;
        }
        let mut dice = Prng::new(self.seed, 14);
        let heal_at = self.setup.heal_at;
        for _ in 0..dice.between(1, 6) {
            let at = dice.between(heal_at / 20, heal_at);
            self.clock.at(at, Happening::Recovery(Recovery::draw(&mut dice)));
        }
    }

    /// It happens.
    pub(crate) fn recovery(&mut self, recovery: Recovery) {
        if self.healed_at.is_some() {
            return;
        }
        self.note(None, "RECOVERY", format_args!("{recovery:?}"));
        match recovery {
            Recovery::Kill { lasts, other } => self.kill(lasts, other),
            Recovery::GiveBack { node } => {
                self.wanted = 1 - node;
                self.ask_of(node, &[Step::StopApplication, Step::Secondary { force: false }]);
            }
        }
    }

    fn kill(&mut self, lasts: Time, other: Other) {
        let in_use = |n: &usize| self.nodes[*n].daemon.as_ref().is_some_and(|d| d.open && !d.closing);
        let Some(node) = (0..2).find(|n| in_use(n) && self.claims(*n, 0).is_some_and(|c| c.primary)) else {
            return;
        };
        let peer = 1 - node;
        let asked = std::mem::take(&mut self.daemon(node).asked).into_values().collect();
        self.end_daemon(node, true);
        let other_promoted = self.is_primary_apart(peer);
        let primary = self.claims(peer, 0).is_some_and(|c| c.primary);
        let other_ahead = primary || (0..self.sizes.len()).any(|v| self.has_unknown_data(peer, v));
        self.nodes[node].held = Some(Held { asked, other_ahead, other_promoted, met: false });
        self.nodes[node].starting = true;
        self.clock.after(lasts, Happening::Start { node });
        if other != Other::Waits {
            self.wanted = peer;
            self.ask_of(peer, &[Step::Primary { force: false }]);
        }
        if other == Other::TakesOverForAWhile {
            self.clock.after(lasts / 2, Happening::Recovery(Recovery::GiveBack { node: peer }));
        }
    }

    /// A resumption that waits for the peer: somebody connects to it.
    pub(crate) fn tend_waiting_resumption(&mut self, node: usize) {
        let waits = |d: &Daemon| matches!(d.waiting, Some((_, Step::ResumePrimary))) && d.aside.is_empty();
        let alone = self.claims(node, 0).is_some_and(|c| c.connection == ConnectionState::StandAlone);
        if alone && self.healed_at.is_some() && self.nodes[node].daemon.as_ref().is_some_and(waits) {
            let (peer, tentative, discard_my_data) = (NodeId(1 - node as u8), false, false);
            self.ask_beside(node, AdminRequest::Connect { peer, tentative, discard_my_data });
        }
    }

    /// The host is gone, or somebody takes the device away: what the kernel kept is nobody's any more.
    pub(crate) fn forget_held(&mut self, node: usize) {
        for asked in self.nodes[node].held.take().map(|held| held.asked).unwrap_or_default() {
            if let Some(write) = asked.write {
                self.write_given_up(asked.wish.volume, write);
            }
        }
    }

    /// It may have called writes done: one that has not noticed yet that it is alone has not begun a generation.
    fn is_primary_apart(&self, node: usize) -> bool {
        let primary = self.claims(node, 0).is_some_and(|c| c.primary);
        primary && (0..self.sizes.len()).any(|v| self.has_unknown_data(node, v))
    }

    /// A node's disk is of a generation that the other's has not heard of; one that was never written is of none.
    fn has_unknown_data(&self, node: usize, volume: usize) -> bool {
        let [own, others] = [node, 1 - node].map(|n| self.generations(n, volume));
        let (Some(own), Some(others)) = (own, others) else { return true };
        let known = |generation: u64| generation & !ROLE_BIT == own.current & !ROLE_BIT;
        own.current != UUID_JUST_CREATED
            && !(known(others.current) || known(others.bitmap) || others.history.into_iter().any(known))
    }

    pub(crate) fn generations(&self, node: usize, volume: usize) -> Option<GenerationSet> {
        let disks = &self.nodes[node].volumes[volume];
        let block = disks.image.load(disks.meta_area()).ok()?.super_block;
        let record = if block.format == Format::V08 { 0 } else { 1 - node };
        Some(GenerationSet::load(&block, record))
    }

    /// A promotion is kept and answered. One whose disk failed meanwhile leaves nothing behind; nor does one of a node that
    /// was Primary already, and may not even have noticed that it is alone.
    pub(crate) fn promoted_over(&mut self, node: usize) {
        let promoted = self.nodes[node].became_primary;
        let kept = promoted
            && (0..self.sizes.len()).any(|v| self.claims(node, v).is_some_and(|c| c.disk.has_data()));
        if let Some(held) = self.nodes[1 - node].held.as_mut().filter(|_| kept) {
            held.other_promoted = true;
            held.other_ahead = true;
        }
    }

    /// An administrator gives up what a node has: nothing of it will be met.
    pub(crate) fn side_given_up(&mut self, node: usize) {
        if let Some(held) = &mut self.nodes[1 - node].held {
            held.other_promoted = false;
        }
    }

    /// Looks whether the nodes have met.
    pub(crate) fn note_meeting(&mut self, node: usize) {
        let apart = self.nodes[node].held.is_some() && self.is_primary_apart(1 - node);
        let Some(held) = &mut self.nodes[node].held else { return };
        held.other_promoted |= apart;
        if held.met || !held.other_promoted {
            return;
        }
        // A peer without its disk cannot tell.
        let told = |c: Claims| c.replication != ReplicationState::Off && c.peer_disk.has_data();
        // One of them may not have noticed yet that they parted.
        let knows = |c: Claims| c.replication != ReplicationState::Off;
        let met = (0..self.sizes.len())
            .any(|v| self.claims(node, v).is_some_and(told) && self.claims(1 - node, v).is_some_and(knows));
        if let Some(held) = &mut self.nodes[node].held {
            held.met = met;
        }
    }

    /// A daemon that began again is Primary, or is not to be.
    pub(crate) fn resumption_answered(&mut self, node: usize, refusal: Option<&Refusal>) {
        let Some(held) = self.nodes[node].held.take() else { return };
        let apart = self.claims(node, 0).is_none_or(|c| c.replication == ReplicationState::Off);
        self.report.resumed[if refusal.is_some() { 2 } else { usize::from(apart) }] += 1;
        if refusal.is_none() && held.met {
            let text = format!("n{node} is Primary again, though it has met n{} that was since", 1 - node);
            self.fail("recovery", text);
            return;
        }
        // Somebody may want it Secondary.
        let unasked = refusal.filter(|refusal| refusal.reason != Reason::Interrupted);
        if let Some(refusal) = unasked.filter(|_| !self.may_be_refused(node, held.other_ahead)) {
            let state = self.describe_claims();
            self.fail(
                "recovery",
                format!("n{node} is not Primary again, without a reason: {refusal} ({state})"),
            );
            return;
        }
        if refusal.is_some() {
            // The kernel asks a Secondary, which says no.
            self.daemon(node).resumed = true;
        } else {
            self.start_application(node);
        }
        let mut asked = held.asked;
        while !asked.is_empty() && self.failure.is_none() {
            let at = self.dice.application.below(asked.len() as u64) as usize;
            let again = asked.swap_remove(at);
            self.ask_held(node, &again);
        }
    }

    /// Somebody else may have written, or this node does not know better.
    fn may_be_refused(&self, node: usize, other_ahead: bool) -> bool {
        let apart = self.ledgers.iter().any(|ledger| ledger.diverged || ledger.is_led_by_another(node));
        let good = |disk: DiskState| matches!(disk, DiskState::UpToDate | DiskState::Consistent);
        let poor = (0..self.sizes.len()).any(|v| !self.claims(node, v).is_some_and(|c| good(c.disk)));
        let others = self.claims(1 - node, 0).is_some_and(|c| c.primary);
        let reconfigured = self.nodes[node].daemon.as_ref().is_some_and(|d| d.fences);
        let fencing = reconfigured || self.setup.net.fencing != FencingPolicy::DontCare;
        // Of an old dialect.
        let status = self.nodes[node].daemon.as_ref().map(|d| d.resource.status());
        let connections = || status.iter().flat_map(|s| &s.connections);
        let apart_for_good = ["cannot tell whose data is newer", "Unrelated data"];
        let unknown =
            connections().any(|c| apart_for_good.iter().any(|t| c.connection.last_error.contains(t)));
        // What this node promised to one that is about to be Primary holds.
        let promised =
            self.is_promoting(1 - node) && connections().any(|c| c.connection.role == Role::Primary);
        // Of a promotion whose disk failed before it was answered, and came back.
        let newer = (0..self.sizes.len()).any(|v| self.has_unknown_data(1 - node, v));
        other_ahead || apart || poor || others || promised || fencing || unknown || newer
    }

    /// A request that the kernel kept, for an engine that never heard of it.
    fn ask_held(&mut self, node: usize, held: &Asked) {
        if !self.has_volume(node, held.wish.volume) {
            return self.give_up_held(held);
        }
        for request in self.begin_again(node, held) {
            self.handle(node, Event::Upper(request));
        }
    }

    fn give_up_held(&mut self, held: &Asked) {
        if let Some(write) = held.write {
            self.write_given_up(held.wish.volume, write);
        }
    }
}
