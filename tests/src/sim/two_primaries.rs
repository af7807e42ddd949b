//! Another kind of run: both nodes may be Primary, and the after-split-brain policies decide who gives way. Its seeds
//! begin at [`FIRST_SEED`], so that it takes no dice from the others.
//!
//! What is checked besides: a flush of one node makes stable what that node wrote; while the two are connected, what one
//! acknowledged is on both, and either reads it; a split is ended against a node only where its policies say so, or the
//! operator; then what that node wrote apart may be lost, and nothing else. Where `discard-zero-changes` decided, not
//! even that: there was nothing. What the other node wrote before and lost with its power is no change of this one, and is
//! lost: no bit of this one's tells that it has it.

use super::clock::SECOND;
use super::cluster::Cluster;
use super::hand_over;
use super::node::Step;
use super::prng::Prng;
use super::setup::Setup;
use drbd_core::config::NetOptions;
use drbd_core::engine::after_split_brain::SplitBrainPolicy;
use drbd_core::ids::VolumeNumber;
use drbd_core::states::{ConnectionState, DiskState, Protocol, ReplicationState};
use std::ops::Range;

/// Seeds from here on are of this kind, as many as there are of each kind.
pub const FIRST_SEED: u64 = 1 << 40;
const SEEDS: Range<u64> = FIRST_SEED..FIRST_SEED << 1;

/// Below, a node cannot be told to send a write again.
const VERSION_WITH_RETRY: u32 = 100;
/// So long the policies may try before the operator ends it.
const PATIENCE: u64 = 100 * SECOND;

/// It is a seed of this kind.
pub(crate) fn is_wanted(seed: u64) -> bool {
    SEEDS.contains(&seed) || hand_over::has_two_primaries(seed)
}

impl Setup {
    /// What is special about the world of such a seed.
    pub(crate) fn allow_two_primaries(&mut self, dice: &mut Prng) {
        let net = &mut self.net;
        let policies = [
            "disconnect",
            "discard-younger-primary",
            "discard-older-primary",
            "discard-zero-changes",
            "discard-least-changes",
            "discard-local",
            "discard-remote",
        ];
        net.after_sb_0pri = dice.pick(&policies).to_owned();
        let policies =
            ["disconnect", "consensus", "discard-secondary", "call-pri-lost-after-sb", "violently-as0p"];
        net.after_sb_1pri = dice.pick(&policies).to_owned();
        net.after_sb_2pri = dice.pick(&["disconnect", "call-pri-lost-after-sb", "violently-as0p"]).to_owned();
        net.rr_conflict =
            dice.pick(&["disconnect", "call-pri-lost", "violently", "retry-connect"]).to_owned();
        net.always_asbp = dice.chance(500);
        if dice.chance(850) {
            net.two_primaries = true;
            net.protocol = Protocol::C;
            for node in &mut self.nodes {
                node.protocol_max = node.protocol_max.max(VERSION_WITH_RETRY);
            }
        }
    }

    /// The options as that node has them: what is local to one is remote to the other.
    pub(crate) fn net_of(&self, node: usize) -> NetOptions {
        let mut net = self.net.clone();
        if node == 1 {
            let policy = SplitBrainPolicy::from_option(&net.after_sb_0pri);
            policy.mirrored().name().clone_into(&mut net.after_sb_0pri);
        }
        net
    }
}

impl Cluster {
    fn is_of_two(&self) -> bool {
        is_wanted(self.seed)
    }

    /// The operator wants both nodes to be Primary.
    pub(crate) fn wants_both(&self) -> bool {
        self.setup.net.two_primaries && !self.wants_one
    }

    /// A node is connected, and so its writes go to the other one.
    pub(crate) fn shares(&self, node: usize, volume: usize) -> bool {
        let connected = self.claims(node, volume).is_some_and(|c| c.replication != ReplicationState::Off);
        self.setup.net.two_primaries && connected
    }

    /// The other node is Primary too, and this one's writes do not reach it.
    pub(crate) fn writes_apart(&self, node: usize, volume: usize) -> bool {
        self.claims(1 - node, volume).is_some_and(|c| c.primary) && !self.shares(node, volume)
    }

    /// The second Primary.
    pub(crate) fn tend_second(&mut self, node: usize) {
        let claims = self.claims(node, 0);
        let connected = claims.is_some_and(|c| c.connection == ConnectionState::Connected);
        let met = claims.is_some_and(|c| c.replication != ReplicationState::Off);
        if self.wants_both() && self.healed_at.is_none() && connected && met {
            self.daemon(node).script.push_back(Step::Primary { force: false });
        }
    }

    /// A Primary without its peer has acknowledged a write: its generation tells that its data is the data now.
    pub(crate) fn wrote_alone(&mut self, node: usize, volume: usize) {
        let alone = !self.shares(node, volume);
        let before = std::mem::replace(&mut self.nodes[node].wrote_alone[volume], alone);
        if self.setup.net.two_primaries && alone && !before {
            self.ledgers[volume].promotion_answered(node);
        }
    }

    /// A handler is called: a split of brain was found.
    pub(crate) fn handler_called(&mut self, node: usize, name: &str, volume: Option<VolumeNumber>) {
        let Some(volume) = volume.filter(|_| self.is_of_two() && name == "initial-split-brain") else {
            return;
        };
        let claims = self.claims(node, usize::from(volume.0));
        if claims.is_some_and(|c| c.replication.is_target()) {
            let primary = claims.is_some_and(|c| c.primary);
            // A Primary that attached its disk shows its peer's data already, whatever the policies say.
            let attached = primary && claims.is_some_and(|c| c.disk == DiskState::Inconsistent);
            self.gives_way(node, usize::from(volume.0), primary, attached);
        }
    }

    /// A write failed, or nobody is left to hear of it. Of two Primaries the other one writes on while it may still be on
    /// its way: it never is over then.
    pub(crate) fn write_given_up(&mut self, volume: usize, number: u32) {
        if !self.setup.net.two_primaries {
            self.ledgers[volume].give_up(number);
        }
    }

    /// A split is ended against that node.
    fn gives_way(&mut self, node: usize, volume: usize, primary: bool, attached: bool) {
        if self.nodes[node].discards {
            return self.ledgers[volume].discard(node);
        }
        self.note(Some(node), "policy", format_args!("volume {volume} gives way, Primary {primary}"));
        if !attached && !may_give_way(&self.setup.net_of(node), primary) {
            let text = format!("n{node} gives its data up, which no policy says: {:?}", self.setup.net);
            return self.fail("policy", text);
        }
        self.report.resolved += 1;
        let net = &self.setup.net;
        if net.after_sb_0pri != "discard-zero-changes" || net.after_sb_1pri == "discard-secondary" {
            self.ledgers[volume].discard(node);
        } else {
            self.ledgers[volume].discard_unchanged(node);
        }
    }

    /// The policies lead nowhere: the operator ends it by hand.
    pub(crate) fn end_by_hand(&mut self) {
        let Some(healed_at) = self.healed_at.filter(|_| self.is_of_two()) else { return };
        let met =
            (0..2).all(|n| self.claims(n, 0).is_some_and(|c| c.connection == ConnectionState::Connected));
        if met || self.clock.now() < healed_at + PATIENCE * u64::from(self.ended_by_hand + 1) {
            return;
        }
        self.ended_by_hand += 1;
        self.note(None, "split", format_args!("ended by hand"));
        self.give_way_by_hand();
    }
}

/// Whether the policies of a node let it give its data up. `primary`: it did not step down for it.
fn may_give_way(net: &NetOptions, primary: bool) -> bool {
    let as_nobody = !matches!(net.after_sb_0pri.as_str(), "disconnect" | "discard-remote");
    let (one, two) = (net.after_sb_1pri.as_str(), net.after_sb_2pri.as_str());
    if primary {
        let violently = one == "violently-as0p" || two == "violently-as0p";
        return violently && as_nobody && net.rr_conflict == "violently";
    }
    as_nobody || one == "discard-secondary"
}
