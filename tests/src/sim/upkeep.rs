//! Another kind of run: administrators verify, pause, resume, invalidate, outdate and change options at any time, links
//! are congested, and in the end blocks rot. Its seeds begin at [`FIRST_SEED`], so that it takes no dice from the others.
//! What it adds to the fault model of `faults`:
//!
//! - **Options**: checksum based resync, `verify-alg`, `on-congestion` pull-ahead and disconnect with small limits;
//!   changed on one node after the other while everything runs.
//! - **Administrators** start verifies anywhere, hold and release resyncs on either node, outdate what is not connected,
//!   and invalidate a Secondary's copy while the other one is good.
//! - **Bit rot**, when all is healed and equal: blocks of one node change by themselves.
//!
//! What is checked besides: while connected and quiet both nodes agree on who holds a resync; a verify that covers rotten
//! blocks marks exactly those, on both nodes, and the resync after it makes both nodes equal again.

use super::clock::MS;
use super::cluster::{Cluster, Happening};
use super::disk::Tag;
use super::network::PartyState;
use super::node::Step;
use super::prng::Prng;
use super::setup::Setup;
use drbd_core::config::{NetOptions, OnCongestion, PeerDeviceOptions};
use drbd_core::control::PeerDeviceObject;
use drbd_core::engine::AdminRequest;
use drbd_core::ids::{NodeId, VolumeNumber};
use drbd_core::limits::SECTORS_PER_BIT;
use drbd_core::states::{Protocol, ReplicationState};
use std::collections::BTreeSet;
use std::ops::Range;

/// Seeds from here on are of this kind, as many as there are of each kind.
pub const FIRST_SEED: u64 = 1 << 42;
const SEEDS: Range<u64> = FIRST_SEED..FIRST_SEED << 1;

/// Below, a peer does not know verify.
const VERSION_WITH_VERIFY: u32 = 88;
/// Whose content rotten blocks have: nobody's.
const ROT: u64 = 2;

/// Something an administrator does.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Verify { volume: usize, start: Option<u64>, stop: Option<u64> },
    PauseSync { volume: usize },
    ResumeSync { volume: usize },
    Invalidate { volume: usize, remote: bool },
    Outdate { volume: usize },
    NetOptions(Box<NetOptions>),
    PeerDeviceOptions { volume: usize, options: PeerDeviceOptions },
}

/// What has become of the rot.
#[derive(Debug)]
pub(crate) enum Rot {
    /// One node is to be Primary first.
    Awaited,
    /// Verified, with what was there before.
    Sought(Sought),
    /// Found; a resync is to mend it.
    Found,
    /// It was not to be had, or is mended.
    Over,
}

/// Rot that a verify is to find.
#[derive(Debug)]
pub(crate) struct Sought {
    node: usize,
    volume: usize,
    /// Sector and what it held.
    sectors: Vec<(u64, Tag)>,
    refused: bool,
}

/// It is a seed of this kind.
pub(crate) fn is_wanted(seed: u64) -> bool {
    SEEDS.contains(&seed)
}

impl Setup {
    /// Options for it.
    pub(crate) fn invite_upkeep(&mut self, dice: &mut Prng) {
        self.net.verify_alg = dice.pick(&["sha1", "crc32c", "sha1", ""]).to_owned();
        self.net.csums_alg = dice.pick(&["", "sha1", "md5"]).to_owned();
        self.net.csums_after_crash_only = dice.chance(200);
        if dice.chance(500) {
            self.net.protocol = Protocol::A;
            congest(&mut self.net, dice);
        }
    }
}

fn congest(net: &mut NetOptions, dice: &mut Prng) {
    net.on_congestion = dice.pick(&[
        OnCongestion::PullAhead,
        OnCongestion::PullAhead,
        OnCongestion::Disconnect,
        OnCongestion::Block,
    ]);
    net.congestion_fill = dice.pick(&[0, 16, 64, 512]);
    net.congestion_extents = dice.pick(&[3, 67]);
}

impl Cluster {
    pub(crate) fn has_upkeep(&self) -> bool {
        is_wanted(self.seed)
    }

    /// Plans what administrators do.
    pub(crate) fn plan_deeds(&mut self) {
        if !self.has_upkeep() {
            return;
        }
        for _ in 0..self.dice.upkeep.between(1, 16) {
            let dice = &mut self.dice.upkeep;
            let at = dice.between(self.setup.heal_at / 20, self.setup.heal_at);
            let (node, volume) = (dice.below(2) as usize, dice.below(self.sizes.len() as u64) as usize);
            let again = dice.skewed(MS, 50 * MS, 5_000 * MS);
            let deed = draw(dice, &self.setup, volume, self.sizes[volume].0);
            if let Deed::NetOptions(_) | Deed::PeerDeviceOptions { .. } = deed {
                self.clock.at(at + again, Happening::Deed(1 - node, Box::new(deed.clone())));
            }
            self.clock.at(at, Happening::Deed(node, Box::new(deed)));
        }
    }

    /// An administrator does it.
    pub(crate) fn deed(&mut self, node: usize, deed: Deed) {
        if self.healed_at.is_some() {
            return;
        }
        let peer = NodeId(1 - node as u8);
        let number = |volume: usize| VolumeNumber(volume as u16);
        let request = match deed {
            Deed::Verify { volume, start, stop } => {
                AdminRequest::Verify { peer, volume: number(volume), start, stop }
            }
            Deed::PauseSync { volume } => AdminRequest::PauseSync { peer, volume: number(volume) },
            Deed::ResumeSync { volume } => AdminRequest::ResumeSync { peer, volume: number(volume) },
            Deed::Invalidate { volume, remote: false } if self.is_spare(node, volume) => {
                AdminRequest::Invalidate { volume: number(volume), reset_bitmap: true }
            }
            Deed::Invalidate { volume, remote: true } if self.is_spare(1 - node, volume) => {
                AdminRequest::InvalidateRemote { peer, volume: number(volume), reset_bitmap: true }
            }
            Deed::Invalidate { .. } => return,
            Deed::Outdate { volume } => AdminRequest::Outdate { volume: number(volume) },
            Deed::NetOptions(options) => {
                self.setup.net = *options;
                AdminRequest::NetOptions { peer, options: self.setup.net_of(node) }
            }
            Deed::PeerDeviceOptions { volume, options } => {
                AdminRequest::PeerDeviceOptions { peer, volume: number(volume), options }
            }
        };
        self.ask_beside(node, request);
    }

    /// What a Secondary has the other node has, too.
    fn is_spare(&self, node: usize, volume: usize) -> bool {
        let both = [node, 1 - node].map(|n| self.claims(n, volume));
        let [Some(own), Some(others)] = both else { return false };
        let same = [own, others].iter().all(super::checkers::generation::claims_same);
        same && !own.primary && !self.is_promoting(node)
    }

    /// What was asked beside the script is answered.
    pub(crate) fn answered_beside(&mut self, refused: bool) {
        if let Some(Rot::Sought(sought)) = &mut self.rot {
            sought.refused |= refused;
        }
    }

    fn peer_device(&self, node: usize, volume: usize) -> Option<PeerDeviceObject> {
        let status = self.nodes[node].daemon.as_ref()?.resource.status();
        let volume = VolumeNumber(volume as u16);
        status.connections.into_iter().next()?.peer_devices.into_iter().find(|p| p.volume == volume)
    }

    /// Both nodes say the same of who holds a resync.
    pub(crate) fn check_holds(&mut self) {
        let asked =
            self.nodes.iter().flat_map(|n| &n.daemon).any(|d| !d.aside.is_empty() || d.waiting.is_some());
        // Who does not know yet that a connection is broken says things into it that nobody hears.
        let broken = self.network.connections.iter().any(|c| {
            let thought_open = c.parties.iter().any(|p| p.state == PartyState::Open);
            thought_open && c.flows.iter().any(|f| f.end.is_some() || f.void)
        });
        if !self.has_upkeep() || asked || broken || !self.is_quiet() {
            return;
        }
        for volume in 0..self.sizes.len() {
            let both = [0, 1].map(|n| self.peer_device(n, volume));
            let [Some(a), Some(b)] = both else { continue };
            if a.replication == ReplicationState::Off || b.replication == ReplicationState::Off {
                continue;
            }
            let (a, b) = (a.resync_suspended, b.resync_suspended);
            let depends = a.dependency || b.dependency;
            if !depends && (a.user, a.peer) != (b.peer, b.user) {
                self.fail(
                    "holds",
                    format!("volume {volume}: n0 says {a:?}, n1 says {b:?}, and nothing is under way"),
                );
            }
        }
    }

    /// Both nodes get what their configuration says now: a change may have met a node that was down, or in the
    /// middle of a resync.
    pub(crate) fn adjust(&mut self) {
        if !self.has_upkeep() {
            return;
        }
        for node in 0..2 {
            let (peer, options) = (NodeId(1 - node as u8), self.setup.net_of(node));
            self.ask_beside(node, AdminRequest::NetOptions { peer, options });
        }
    }

    // ---- rot ----

    /// Nothing is to be compared just now: rot is there, or was and is being mended.
    pub(crate) fn is_rotten(&self) -> bool {
        matches!(self.rot, Some(Rot::Sought(_) | Rot::Found))
    }

    /// Rot is to come, or a verify looks for it.
    pub(crate) fn is_sought(&self) -> bool {
        matches!(self.rot, Some(Rot::Awaited | Rot::Sought(_)))
    }

    /// The nodes found together: the rot begins. False: there is none in this run, or it is over.
    pub(crate) fn rots(&mut self) -> bool {
        if !self.has_upkeep() {
            return false;
        }
        match self.rot {
            None => {}
            Some(Rot::Found) => {
                self.rot = Some(Rot::Over);
                return false;
            }
            Some(_) => return false,
        }
        // What an earlier verify marked stays marked until somebody reconnects: the rot could not be told from it.
        let knows =
            self.is_together() && self.setup.nodes.iter().all(|n| n.protocol_max >= VERSION_WITH_VERIFY);
        if !knows
            || self.setup.net.verify_alg.is_empty()
            || self.setup.net.two_primaries
            || !self.dice.upkeep.chance(700)
        {
            self.rot = Some(Rot::Over);
            return false;
        }
        self.healed_at = Some(self.clock.now());
        self.rot = Some(Rot::Awaited);
        if self.primary().is_none() {
            let wanted = self.wanted;
            self.daemon(wanted).script.push_back(Step::Primary { force: false });
            self.advance(wanted);
        }
        true
    }

    /// The operator goes on with it.
    pub(crate) fn tend_rot(&mut self) {
        let idle = self.nodes.iter().all(|n| {
            n.daemon
                .as_ref()
                .is_some_and(|d| d.aside.is_empty() && d.waiting.is_none() && d.script.is_empty())
        });
        if !idle || !self.is_quiet() {
            return;
        }
        match self.rot.take() {
            Some(Rot::Awaited) => self.begin_rot(),
            Some(Rot::Sought(sought)) => self.look_for(sought),
            other => self.rot = other,
        }
    }

    fn begin_rot(&mut self) {
        let Some(primary) = self.primary().filter(|_| self.is_together()) else {
            self.rot = Some(Rot::Awaited);
            return;
        };
        let node = 1 - primary;
        let dice = &mut self.dice.upkeep;
        let volume = dice.below(self.sizes.len() as u64) as usize;
        let count = dice.between(1, 9);
        let chosen: BTreeSet<u64> = (0..count).map(|_| dice.below(self.sizes[volume].0)).collect();
        let block = |sector: &u64| sector / SECTORS_PER_BIT * SECTORS_PER_BIT;
        let first = chosen.first().map(block).unwrap_or_default();
        let last = chosen.last().map(block).unwrap_or_default() + SECTORS_PER_BIT;
        let start = dice.pick(&[Some(0), Some(first)]);
        let stop = dice.pick(&[None, Some(last)]);
        let by = dice.below(2) as usize;
        let disk = &mut self.nodes[node].volumes[volume].data;
        let sectors: Vec<(u64, Tag)> =
            chosen.iter().map(|&sector| (sector, disk.rot(sector, super::beginning(ROT, sector)))).collect();
        self.note(Some(node), "ROT", format_args!("volume {volume}: {chosen:?}"));
        self.rot = Some(Rot::Sought(Sought { node, volume, sectors, refused: false }));
        let peer = NodeId(1 - by as u8);
        self.ask_beside(by, AdminRequest::Verify { peer, volume: VolumeNumber(volume as u16), start, stop });
    }

    /// The verify is over: what did it find?
    fn look_for(&mut self, sought: Sought) {
        let Sought { node, volume, sectors, refused } = &sought;
        let over = (0..2)
            .all(|n| self.claims(n, *volume).is_some_and(|c| c.replication == ReplicationState::Established));
        if *refused {
            for (sector, tag) in sectors {
                self.nodes[*node].volumes[*volume].data.rot(*sector, *tag);
            }
            self.fail(
                "verify",
                format!("a verify of volume {volume} was refused although nothing is in its way"),
            );
            return;
        }
        if !over {
            self.rot = Some(Rot::Sought(sought));
            return;
        }
        let rotten: BTreeSet<u64> = sectors.iter().map(|(sector, _)| sector / SECTORS_PER_BIT).collect();
        for n in 0..2 {
            let marked = self.marked(n, *volume);
            if marked != rotten {
                self.fail(
                    "verify",
                    format!("n{n} marked blocks {marked:?} of volume {volume}, rotten are {rotten:?}"),
                );
                return;
            }
        }
        self.rot = Some(Rot::Found);
        self.healed_at = Some(self.clock.now());
        let apart = self.dice.upkeep.below(2) as usize;
        self.ask_of(apart, &[Step::Disconnect { force: false }, Step::Connect { discard: false }]);
    }

    fn marked(&self, node: usize, volume: usize) -> BTreeSet<u64> {
        let daemon = self.nodes[node].daemon.as_ref();
        let words = daemon
            .and_then(|d| d.resource.out_of_sync_words(VolumeNumber(volume as u16)))
            .unwrap_or_default();
        let bits = |(n, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| n as u64 * 64 + bit)
        };
        words.iter().enumerate().flat_map(bits).collect()
    }
}

fn draw(dice: &mut Prng, setup: &Setup, volume: usize, sectors: u64) -> Deed {
    match dice.below(12) {
        0..=2 => {
            let (first, last) = (dice.below(sectors), dice.below(sectors));
            let start = dice.pick(&[None, Some(0), Some(first)]);
            let stop = dice.pick(&[None, None, Some(last)]);
            Deed::Verify { volume, start, stop }
        }
        3 | 4 => Deed::PauseSync { volume },
        5 | 6 => Deed::ResumeSync { volume },
        7 => Deed::Invalidate { volume, remote: dice.chance(500) },
        8 => Deed::Outdate { volume },
        9 | 10 => {
            let mut net = setup.net.clone();
            net.max_epoch_size = dice.pick(&[1, 4, 2048]);
            net.csums_alg = dice.pick(&["", "sha1"]).to_owned();
            net.ko_count = dice.pick(&[0, 2, 7]);
            net.ping_int_s = dice.pick(&[1, 10]);
            net.max_buffers = dice.pick(&[32, 2048]);
            if net.protocol == Protocol::A {
                congest(&mut net, dice);
            }
            Deed::NetOptions(Box::new(net))
        }
        _ => {
            let mut options = setup.peer_device.clone();
            options.c_max_rate = dice.pick(&[None, Some(4096), Some(102_400)]);
            options.c_plan_ahead_ds = dice.pick(&[0, 20]);
            options.c_fill_target_sectors = dice.pick(&[None, Some(64)]);
            options.c_min_rate = dice.pick(&[0, 250]);
            Deed::PeerDeviceOptions { volume, options }
        }
    }
}
