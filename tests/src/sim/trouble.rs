//! Another kind of run: requests are suspended, frozen and thawed, and disks are full or give up after a time. Its seeds
//! begin at [`FIRST_SEED`], so that it takes no dice from the others. What it adds to the fault model of `faults`:
//!
//! - **Policies**: `fencing`, `on-no-data-accessible`, `on-io-error` in all values, `disk-timeout`.
//! - **Full disks**: writes of data fail with ENOSPC for a while, without effect.
//! - **Administrators** suspend and resume I/O at any time, and resume what is frozen when they want the application to
//!   end.
//! - **fence-peer** ends with every code, late, or not for a long time. It does not lie: whom it calls stonithed loses
//!   its power then, and is started again later; whom it calls dead has no power.
//!
//! What is checked besides: while requests are frozen no write and no flush is called done; and where
//! on-no-data-accessible says suspend-io none fails, unless an administrator resumed or demoted the node, or
//! on-io-error passes errors on.

use super::administered::{self, Answer};
use super::changes;
use super::checkers::Claims;
use super::clock::{Time, MS, SECOND};
use super::cluster::{Cluster, Happening};
use super::node::Step;
use super::prng::Prng;
use super::recovery;
use super::setup::Setup;
use drbd_core::config::{FencingPolicy, ResourceOptions};
use drbd_core::engine::{AdminRequest, Command, Event, Resource, UpperResult};
use drbd_core::ids::{HandlerId, VolumeNumber};
use drbd_core::states::{DiskState, Protocol};
use std::ops::Range;

/// Seeds from here on are of this kind, as many as there are of each kind.
pub const FIRST_SEED: u64 = 1 << 39;
const SEEDS: Range<u64> = FIRST_SEED..FIRST_SEED << 1;

/// ENOSPC.
pub(crate) const FULL: i32 = 28;

/// Something that happens in such a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    SuspendIo {
        node: usize,
    },
    ResumeIo {
        node: usize,
    },
    FullDisk {
        node: usize,
        volume: usize,
        lasts: Time,
    },
    StalledDisk {
        node: usize,
        volume: usize,
        lasts: Time,
    },
    /// The fence-peer handler of that run ends; `stonith`: it does what it says first.
    Fenced {
        node: usize,
        run: u32,
        handler: HandlerId,
        stonith: bool,
    },
    /// It ends and says that.
    FencedAs {
        node: usize,
        run: u32,
        handler: HandlerId,
        answer: Answer,
    },
}

/// It is a seed of this kind, or of one that has all this, too.
pub(crate) fn is_wanted(seed: u64) -> bool {
    let others = administered::is_wanted(seed) || changes::is_wanted(seed) || recovery::has_trouble(seed);
    SEEDS.contains(&seed) || others
}

impl Setup {
    /// Policies for it.
    pub(crate) fn invite_trouble(&mut self, dice: &mut Prng) {
        self.suspend_without_data = dice.chance(700);
        let fencing = ["dont-care", "resource-only", "resource-and-stonith", "resource-and-stonith"];
        self.net.fencing = FencingPolicy::from_option(dice.pick(&fencing));
        if self.net.fencing == FencingPolicy::ResourceAndStonith && self.net.protocol == Protocol::A {
            self.net.protocol = Protocol::C;
        }
        for node in &mut self.nodes {
            node.disk.on_io_error = dice.pick(&["detach", "call-local-io-error", "pass_on"]).to_owned();
            node.disk.disk_timeout_ds = dice.pick(&[0, 5, 20]);
        }
    }

    /// Options of the resource.
    pub(crate) fn resource_options(&self) -> ResourceOptions {
        ResourceOptions {
            suspend_without_data: self.suspend_without_data,
            outdated_gives_way: self.outdated_gives_way,
            ..ResourceOptions::from(&drbd_core::config::OptionSet::default())
        }
    }
}

/// Nothing may be told upward.
fn is_frozen(resource: &Resource) -> bool {
    let suspended = resource.status().resource.suspended;
    suspended.no_data || suspended.fencing
}

impl Cluster {
    pub(crate) fn has_trouble(&self) -> bool {
        is_wanted(self.seed)
    }

    /// Plans what comes besides the faults.
    pub(crate) fn plan_trouble(&mut self) {
        if !self.has_trouble() {
            return;
        }
        let heal_at = self.setup.heal_at;
        for _ in 0..self.dice.trouble.between(1, 12) {
            let dice = &mut self.dice.trouble;
            let at = dice.between(heal_at / 20, heal_at);
            let (node, volume) = (dice.below(2) as usize, dice.below(self.sizes.len() as u64) as usize);
            let lasts = dice.skewed(MS, 2 * SECOND, 15 * SECOND);
            let trouble = match dice.below(6) {
                0 => Trouble::SuspendIo { node },
                1 => Trouble::ResumeIo { node },
                2 | 3 => Trouble::FullDisk { node, volume, lasts },
                _ => Trouble::StalledDisk { node, volume, lasts },
            };
            self.clock.at(at, Happening::Trouble(trouble));
        }
    }

    /// It happens.
    pub(crate) fn trouble(&mut self, trouble: Trouble) {
        if let Trouble::Fenced { node, run, handler, stonith } = trouble {
            return self.fenced(node, run, handler, stonith);
        }
        if let Trouble::FencedAs { node, run, handler, answer } = trouble {
            let status = self.is_true(node, answer);
            return self.fence_peer_says(node, run, handler, status);
        }
        if self.healed_at.is_some() {
            return;
        }
        self.note(None, "TROUBLE", format_args!("{trouble:?}"));
        let now = self.clock.now();
        match trouble {
            Trouble::SuspendIo { node } => self.ask_aside(node, true),
            Trouble::ResumeIo { node } => self.ask_aside(node, false),
            Trouble::FullDisk { node, volume, lasts } => {
                self.nodes[node].volumes[volume].data.full_until = now + lasts;
            }
            Trouble::StalledDisk { node, volume, lasts } => {
                self.nodes[node].volumes[volume].data.stalled_until = now + lasts;
            }
            Trouble::Fenced { .. } | Trouble::FencedAs { .. } => {}
        }
    }

    /// `suspend-io` or `resume-io`, while another request may be waiting.
    fn ask_aside(&mut self, node: usize, suspend: bool) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        daemon.resumed |= !suspend;
        let volume = VolumeNumber(0);
        let request =
            if suspend { AdminRequest::SuspendIo { volume } } else { AdminRequest::ResumeIo { volume } };
        self.ask_beside(node, request);
    }

    /// The operator resumes what an administrator suspended, and what keeps the application from ending.
    pub(crate) fn tend_suspension(&mut self, node: usize) {
        if !self.has_trouble() {
            return;
        }
        let Some(daemon) = &self.nodes[node].daemon else { return };
        let suspended = daemon.resource.status().resource.suspended;
        let stopping = daemon.script.front() == Some(&Step::StopApplication);
        let late = self.healed_at.is_some_and(|at| self.clock.now() > at + 120 * SECOND);
        let impatient = stopping && self.dice.trouble.chance(300);
        if suspended.any() && (impatient || late || (suspended.user && self.healed_at.is_some())) {
            self.ask_aside(node, false);
        }
    }

    /// A Primary that lost its disk and its peer took the disk back, and the peer had gone on in a generation of its own
    /// before they parted: it has everything that was called done, and this node has to give way.
    pub(crate) fn must_step_down(&self, node: usize) -> bool {
        let Some(daemon) = self.nodes[node].daemon.as_ref().filter(|_| self.has_trouble()) else {
            return false;
        };
        let status = daemon.resource.status();
        let target = "I shall become SyncTarget, but I am primary!";
        let refused = status.connections.iter().any(|c| c.connection.last_error.contains(target));
        refused && self.claims(node, 0).is_some_and(|c| c.primary)
    }

    /// The fence-peer handler is called. False: nothing is known of such a handler here.
    pub(crate) fn fence(&mut self, node: usize, handler: HandlerId, name: &str) -> bool {
        if !self.has_trouble() || name != "fence-peer" {
            return false;
        }
        let run = self.nodes[node].run;
        if self.fencing_is_broken() {
            let broken = Trouble::FencedAs { node, run, handler, answer: Answer::Honest(1) };
            self.clock.after(20 * MS, Happening::Trouble(broken));
            return true;
        }
        if let Some((delay, answer)) = self.fencing_of_another_kind(node) {
            let ends = Trouble::FencedAs { node, run, handler, answer };
            self.clock.after(delay, Happening::Trouble(ends));
            return true;
        }
        let hangs = self.dice.trouble.chance(150);
        let delay = self.dice.trouble.skewed(MS, 300 * MS, if hangs { 30 * SECOND } else { 3 * SECOND });
        let stonith = self.dice.trouble.chance(600);
        self.clock.after(delay, Happening::Trouble(Trouble::Fenced { node, run, handler, stonith }));
        true
    }

    fn fenced(&mut self, node: usize, run: u32, handler: HandlerId, stonith: bool) {
        if !self.is_run(node, run) {
            return;
        }
        let peer = 1 - node;
        let status = if stonith && self.healed_at.is_none() {
            self.lose_power(peer);
            let again = self.dice.trouble.skewed(MS, SECOND, 10 * SECOND);
            self.clock.after(again, Happening::Start { node: peer });
            7
        } else if !self.nodes[peer].power {
            5
        } else if self.claims(peer, 0).is_some_and(|c| c.primary) {
            6
        } else {
            self.dice.trouble.pick(&[0, 1])
        };
        self.fence_peer_says(node, run, handler, status);
    }

    fn fence_peer_says(&mut self, node: usize, run: u32, handler: HandlerId, status: i32) {
        if !self.is_run(node, run) {
            return;
        }
        self.note(Some(node), "fenced", format_args!("n{}: {status}", 1 - node));
        let fenced = |cluster: &Cluster, v: usize| {
            let old = |c: Claims| matches!(c.peer_disk, DiskState::Inconsistent | DiskState::Outdated);
            cluster.claims(node, v).is_some_and(old)
        };
        let volumes = 0..self.sizes.len();
        let before: Vec<bool> = volumes.clone().map(|v| fenced(self, v)).collect();
        let forced = self.daemon(node).waiting.is_some_and(|(_, s)| s == Step::Primary { force: true });
        self.handle(node, Event::HandlerExited { handler, status });
        let after: Vec<bool> = volumes.map(|v| fenced(self, v)).collect();
        if !matches!(status, 3 | 4 | 5 | 7)
            && !forced
            && before.iter().zip(&after).any(|(before, after)| after > before)
        {
            let text = format!("fence-peer of n{node} said {status}, and the peer's disks count as old");
            self.fail("fencing", text);
        }
    }

    /// Notes whether requests were frozen all the time an engine handled something.
    pub(crate) fn note_freeze(&mut self, node: usize, before: bool, out: &[Command]) {
        let thawed = out.iter().any(|c| matches!(c, Command::Log(record) if record.code == "thaw"));
        let gave_way =
            out.iter().any(|c| matches!(c, Command::Log(record) if record.code == "outdated-primary"));
        let daemon = self.daemon(node);
        daemon.resumed |= gave_way;
        daemon.frozen = before && !thawed && is_frozen(&daemon.resource);
    }

    /// Requests of a node are frozen.
    pub(crate) fn is_frozen(&self, node: usize) -> bool {
        self.has_trouble() && self.nodes[node].daemon.as_ref().is_some_and(|d| is_frozen(&d.resource))
    }

    /// A write or flush is answered.
    pub(crate) fn check_freeze(&mut self, node: usize, result: UpperResult) {
        if !self.has_trouble() {
            return;
        }
        let Some(daemon) = &self.nodes[node].daemon else { return };
        let passes_on = self.setup.nodes.iter().any(|n| n.disk.on_io_error == "pass_on");
        let demoted = daemon.waiting.is_some_and(|(_, step)| {
            matches!(step, Step::Secondary { .. } | Step::Down | Step::Detach { force: true, .. })
        });
        // Made anew on a Primary, it had no good data that could have been lost: that freezes no other volume.
        let mut volumes = 0..self.sizes.len();
        let new = volumes.any(|v| self.claims(node, v).is_some_and(|c| c.disk == DiskState::Consistent));
        let excused = passes_on || daemon.resumed || demoted || new || !self.setup.suspend_without_data;
        if daemon.frozen && result == UpperResult::Done {
            self.fail("freeze", format!("n{node} calls a request done while requests are frozen"));
        } else if result == UpperResult::IoError && !excused {
            self.fail("freeze", format!("a request failed on n{node}, where it should have waited"));
        }
    }
}
