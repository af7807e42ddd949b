//! Another kind of run: all the [trouble](super::trouble), and administrators who do everything else that can be done to a
//! running resource, at any moment. Its seeds begin at [`FIRST_SEED`], so that it takes no dice from the others. What it
//! adds to the fault model of `faults`:
//!
//! - **Options** of disks, connection and resource change while they are in use: `on-io-error`, `disk-timeout`,
//!   `fencing`, `timeout`, `ko-count`, `max-epoch-size`, `on-no-data-accessible`, and on-suspended-primary-outdated.
//! - **Copying and comparing**: verify with start and stop, invalidate and invalidate-remote, pause-sync and resume-sync,
//!   csums-alg; on-congestion pull-ahead under protocol A.
//! - **Generations**: outdate, and new-current-uuid of a Primary on its own.
//! - **Force**: `secondary --force` and `down` at any time, so also while requests are frozen.
//! - **Full disks** for metadata, too.
//! - **fence-peer** that outdates the peer's disks (4), finds them Inconsistent (3), hangs for good, or lies: says that it
//!   outdated or stonithed a peer that it did not touch.
//!
//! What is checked is what is checked of trouble. Whoever takes requests away from the application by force excuses
//! that they fail.

use super::changes;
use super::clock::{Time, MS, SECOND};
use super::cluster::{Cluster, Happening};
use super::hand_over;
use super::node::Step;
use super::prng::Prng;
use super::setup::Setup;
use drbd_core::config::{DiskOptions, FencingPolicy, NetOptions, OnCongestion, ResourceOptions};
use drbd_core::engine::{AdminRequest, Event};
use drbd_core::ids::{NodeId, Sector, Ticket, VolumeNumber};
use drbd_core::states::{ConnectionState, DiskState, Protocol, ReplicationState};
use std::ops::Range;

/// Seeds from here on are of this kind, as many as there are of each kind.
pub const FIRST_SEED: u64 = 1 << 41;
const SEEDS: Range<u64> = FIRST_SEED..FIRST_SEED << 1;

/// A handler that hangs for good: longer than anybody waits.
const FOR_GOOD: Time = 620 * SECOND;
/// One that hangs until somebody kills it: a promotion waits for it, and a volume that is to be deleted.
const FOR_LONG: Time = 60 * SECOND;

/// It is a seed of this kind, or of one that has all this, too.
pub(crate) fn is_wanted(seed: u64) -> bool {
    SEEDS.contains(&seed) || changes::is_administered(seed) || hand_over::is_administered(seed)
}

/// What an administrator does to a volume of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Verify { start: Option<u64>, stop: Option<u64> },
    Invalidate,
    InvalidateRemote,
    HoldSync { hold: bool },
    Outdate,
    NewCurrentUuid,
    DiskOptions,
    NetOptions,
    ResourceOptions,
    ForceSecondary,
    Down { lasts: Time },
    FullMetadata { lasts: Time },
}

/// The exit code of a fence-peer handler.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// What it found, if that is still so when it ends.
    Honest(i32),
    /// Nothing of it was done.
    Lie(i32),
}

/// It, with where it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Administration {
    node: usize,
    volume: usize,
    action: Action,
}

impl Setup {
    /// What is special about the world of such a seed, besides trouble.
    pub(crate) fn administer(&mut self, dice: &mut Prng) {
        let net = &mut self.net;
        net.verify_alg = "sha1".to_owned();
        if dice.chance(400) {
            net.csums_alg = "sha1".to_owned();
        }
        if net.protocol == Protocol::A && dice.chance(600) {
            net.on_congestion = OnCongestion::PullAhead;
            net.congestion_fill = dice.pick(&[0, 64, 512]);
            net.congestion_extents = dice.pick(&[3, 1000]);
        }
        if self.volumes.len() == 1 && dice.chance(300) && self.nodes.iter().all(|n| n.protocol_max >= 100) {
            self.volumes.push(Sector(dice.pick(&[16_384, 24_576 + 8])));
        }
        self.outdated_gives_way = dice.chance(400);
    }

    fn other_disk_options(&self, node: usize, dice: &mut Prng) -> DiskOptions {
        DiskOptions {
            on_io_error: dice.pick(&["detach", "call-local-io-error", "pass_on"]).to_owned(),
            disk_timeout_ds: dice.pick(&[0, 5, 20]),
            ..self.nodes[node].disk.clone()
        }
    }

    fn other_net_options(&self, node: usize, dice: &mut Prng) -> NetOptions {
        let mut net = self.net_of(node);
        let fencing: &[&str] = match net.protocol {
            Protocol::A => &["dont-care", "resource-only"],
            Protocol::B | Protocol::C => &["dont-care", "resource-only", "resource-and-stonith"],
        };
        net.fencing = FencingPolicy::from_option(dice.pick(fencing));
        net.max_epoch_size = dice.pick(&[1, 4, 20, 2048]);
        net.ko_count = dice.pick(&[0, 2, 7]);
        net.timeout_ds = dice.pick(&[10, 60]);
        net
    }
}

impl Action {
    fn draw(dice: &mut Prng, sectors: u64) -> Action {
        let lasts = dice.skewed(MS, 2 * SECOND, 15 * SECOND);
        match dice.below(15) {
            0 | 1 => {
                let start = dice.chance(500).then(|| dice.below(sectors) & !7);
                let stop = dice.chance(300).then(|| start.unwrap_or(0) + 8 * dice.between(1, 400));
                Action::Verify { start, stop }
            }
            2 => Action::Invalidate,
            3 => Action::InvalidateRemote,
            4 | 5 => Action::HoldSync { hold: dice.chance(500) },
            6 => Action::Outdate,
            7 => Action::NewCurrentUuid,
            8 => Action::DiskOptions,
            9 => Action::NetOptions,
            10 => Action::ResourceOptions,
            11 => Action::ForceSecondary,
            12 => Action::Down { lasts },
            _ => Action::FullMetadata { lasts },
        }
    }
}

impl Cluster {
    pub(crate) fn is_administered(&self) -> bool {
        is_wanted(self.seed)
    }

    /// Plans what administrators do.
    pub(crate) fn plan_administration(&mut self) {
        if !self.is_administered() {
            return;
        }
        let heal_at = self.setup.heal_at;
        for _ in 0..self.dice.trouble.between(1, 14) {
            let dice = &mut self.dice.trouble;
            let at = dice.between(heal_at / 20, heal_at);
            let (node, volume) = (dice.below(2) as usize, dice.below(self.sizes.len() as u64) as usize);
            let action = Action::draw(dice, self.sizes[volume].0);
            self.clock.at(at, Happening::Administration(Administration { node, volume, action }));
        }
    }

    /// It is done.
    pub(crate) fn administration(&mut self, administration: Administration) {
        if self.healed_at.is_some() {
            return;
        }
        self.note(None, "ADMIN", format_args!("{administration:?}"));
        let Administration { node, volume: at, action } = administration;
        match action {
            Action::ForceSecondary => self.take_requests_away(node),
            Action::Down { lasts } => {
                self.take_requests_away(node);
                self.ask_of(node, &[Step::Secondary { force: true }, Step::Down]);
                self.clock.after(lasts, Happening::Start { node });
            }
            Action::FullMetadata { lasts } => {
                let until = self.clock.now() + lasts;
                self.nodes[node].volumes[at].meta_disk().meta_full_until = until;
            }
            _ => {
                if let Some(request) = self.administrative_request(node, at, action) {
                    self.ask_beside(node, request);
                }
            }
        }
    }

    fn administrative_request(&mut self, node: usize, at: usize, action: Action) -> Option<AdminRequest> {
        let (peer, volume) = (NodeId(1 - node as u8), VolumeNumber(at as u16));
        Some(match action {
            Action::Verify { start, stop } => AdminRequest::Verify { peer, volume, start, stop },
            Action::Invalidate if self.both_are_good(at) => {
                AdminRequest::Invalidate { volume, reset_bitmap: true }
            }
            Action::InvalidateRemote if self.both_are_good(at) => {
                AdminRequest::InvalidateRemote { peer, volume, reset_bitmap: true }
            }
            Action::HoldSync { hold: true } => AdminRequest::PauseSync { peer, volume },
            Action::HoldSync { hold: false } => AdminRequest::ResumeSync { peer, volume },
            Action::Outdate => AdminRequest::Outdate { volume },
            Action::NewCurrentUuid if self.is_primary_on_its_own(node, at) => {
                AdminRequest::NewCurrentUuid { volume, clear_bitmap: false }
            }
            Action::DiskOptions => {
                let options = self.setup.other_disk_options(node, &mut self.dice.trouble);
                // Errors may be passed on from here on.
                self.daemon_if_any(node)?.resumed |= options.on_io_error == "pass_on";
                AdminRequest::DiskOptions { volume, options }
            }
            Action::NetOptions => {
                let options = self.setup.other_net_options(node, &mut self.dice.trouble);
                AdminRequest::NetOptions { peer, options }
            }
            Action::ResourceOptions => {
                let suspend_without_data = self.dice.trouble.chance(500);
                let outdated_gives_way = self.dice.trouble.chance(500);
                self.daemon_if_any(node)?.resumed = true;
                AdminRequest::ResourceOptions(ResourceOptions {
                    suspend_without_data,
                    outdated_gives_way,
                    ..self.setup.resource_options()
                })
            }
            _ => return None,
        })
    }

    pub(crate) fn both_are_good(&self, at: usize) -> bool {
        (0..2).all(|n| {
            self.claims(n, at).is_some_and(|c| {
                c.replication == ReplicationState::Established
                    && c.holds()
                    && c.peer_disk == DiskState::UpToDate
            })
        })
    }

    fn is_primary_on_its_own(&self, node: usize, at: usize) -> bool {
        self.claims(node, at)
            .is_some_and(|c| c.primary && c.holds() && c.connection == ConnectionState::StandAlone)
    }

    fn daemon_if_any(&mut self, node: usize) -> Option<&mut super::node::Daemon> {
        self.nodes[node].daemon.as_mut()
    }

    /// `secondary --force`, while another request may be waiting. The application ends by it.
    fn take_requests_away(&mut self, node: usize) {
        let Some(daemon) = self.daemon_if_any(node) else { return };
        daemon.resumed = true;
        self.ask_beside(node, AdminRequest::Secondary { force: true });
        self.ask_of(node, &[Step::StopApplication]);
    }

    /// Asks something while another request may be waiting; whatever the answer is, it is one.
    pub(crate) fn ask_beside(&mut self, node: usize, request: AdminRequest) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let ticket = daemon.next_ticket;
        daemon.next_ticket += 1;
        daemon.aside.insert(ticket);
        if let AdminRequest::NetOptions { options, .. } = &request {
            daemon.fences |= options.fencing != FencingPolicy::DontCare;
        }
        self.note(Some(node), "admin", format_args!("{request:?} ticket {ticket}"));
        self.post(node, MS, Event::Admin { ticket: Ticket(ticket), request: Box::new(request) });
    }

    /// The operator lets resyncs go on that an administrator held.
    pub(crate) fn tend_held_resyncs(&mut self, node: usize) {
        if !(self.is_administered() || self.has_upkeep()) || self.healed_at.is_none() {
            return;
        }
        let Some(daemon) = self.nodes[node].daemon.as_ref().filter(|d| d.aside.is_empty()) else { return };
        let status = daemon.resource.status();
        let held: Vec<VolumeNumber> = status
            .connections
            .iter()
            .flat_map(|c| &c.peer_devices)
            .filter(|p| p.resync_suspended.user)
            .map(|p| p.volume)
            .collect();
        let peer = NodeId(1 - node as u8);
        for volume in held {
            self.ask_beside(node, AdminRequest::ResumeSync { peer, volume });
        }
    }

    /// What a fence-peer handler does to the peer and says, and how long it takes. `None`: as in other runs.
    pub(crate) fn fencing_of_another_kind(&mut self, node: usize) -> Option<(Time, Answer)> {
        if !self.is_administered() || !self.dice.trouble.chance(500) {
            return None;
        }
        let peer = 1 - node;
        let delay = self.dice.trouble.skewed(MS, 300 * MS, 3 * SECOND);
        let healed = self.healed_at.is_some();
        let dice = &mut self.dice.trouble;
        if dice.chance(200) && !healed {
            let hangs = if changes::is_wanted(self.seed) { FOR_LONG } else { FOR_GOOD };
            return Some((hangs, Answer::Honest(1)));
        }
        if dice.chance(200) {
            return Some((delay, Answer::Lie(dice.pick(&[4, 7]))));
        }
        let disks: Vec<_> = (0..self.sizes.len()).map(|v| self.claims(peer, v)).collect();
        let all = |wanted: DiskState| disks.iter().all(|c| c.is_some_and(|c| c.disk == wanted));
        if all(DiskState::Inconsistent) {
            return Some((delay, Answer::Honest(3)));
        }
        if disks.iter().any(|c| c.is_none_or(|c| c.primary)) {
            return None;
        }
        for volume in 0..self.sizes.len() {
            self.ask_beside(peer, AdminRequest::Outdate { volume: VolumeNumber(volume as u16) });
        }
        Some((delay + 10 * MS, Answer::Honest(4)))
    }

    /// What the handler says in the end: an honest one looks whether the peer is what it was told to be.
    pub(crate) fn is_true(&self, node: usize, answer: Answer) -> i32 {
        let status = match answer {
            Answer::Honest(status) => status,
            Answer::Lie(status) => return status,
        };
        let worst = |v: usize| self.claims(1 - node, v).map_or(DiskState::DUnknown, |c| c.disk);
        let old = (0..self.sizes.len()).map(worst).all(|disk| match status {
            3 => disk == DiskState::Inconsistent,
            4 => matches!(disk, DiskState::Inconsistent | DiskState::Outdated),
            _ => true,
        });
        if old {
            status
        } else {
            1
        }
    }
}
