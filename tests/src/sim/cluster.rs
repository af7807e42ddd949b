//! The world: nodes, network, clock and checkers, and the loop that lets one thing happen after the other.

use super::administered::{self, Administration};
use super::changes::{self, Change, Changing};
use super::checkers::agreement::Agreement;
use super::checkers::durability::Ledger;
use super::checkers::liveness::{Spin, EVENTS_MAX};
use super::clock::{Clock, Time, MS, SECOND};
use super::disk::{Disk, Tag};
use super::faults::{self, Fault, Kind};
use super::growth::{self, Growth};
use super::hand_over::{self, HandOver};
use super::image::Image;
use super::network::Network;
use super::node::{Node, VolumeDisks};
use super::prng::Prng;
use super::recovery::Recovery;
use super::setup::Setup;
use super::thin;
use super::trace::Trace;
use super::trouble::{self, Trouble};
use super::two_primaries;
use super::upkeep::{self, Deed, Rot};
use super::workload::Workload;
use super::{Failure, Limits, Report};
use drbd_core::engine::Event;
use drbd_core::ids::Sector;

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A deadline of an engine.
    Timer { node: usize, run: u32, at: u64 },
    /// An operation of a disk is done.
    Disk { node: usize, run: u32, number: u64 },
    /// Bytes of a direction arrive.
    Deliver { connection: usize, side: usize },
    /// A side of a connection learns of it.
    Announce { connection: usize, side: usize },
    /// A dial reaches the other node.
    Dial { from: usize, to: usize, run: u32, attempt: u32, give_up_at: Time },
    /// Something else an engine is told.
    Post { node: usize, run: u32, event: Box<Event> },
    /// The application wants something.
    Application { node: usize, run: u32 },
    /// A fault.
    Fault(Fault),
    /// A fault ends.
    FaultEnds(Fault),
    /// A daemon (and if need be its node) starts.
    Start { node: usize },
    /// The operator goes on with the script of a node.
    Operator { node: usize, run: u32 },
    /// A daemon that was told to go down ends.
    Ended { node: usize, run: u32 },
    /// Trouble of another kind of run.
    Trouble(Trouble),
    /// An administrator does something of another kind of run.
    Administration(Administration),
    /// An administrator does something on a node.
    Deed(usize, Box<Deed>),
    /// Something happens in another kind of run.
    Change(Change),
    /// A daemon is killed under a device in use, in another kind of run.
    Recovery(Recovery),
    /// A daemon makes way for the next one, in another kind of run.
    HandOver(HandOver),
    /// A device grows, in another kind of run.
    Growth(Growth),
    /// The operator looks after everything.
    Tend,
    /// The last fault is over.
    Heal,
}

/// The dice, a stream for each concern.
#[derive(Debug)]
pub(crate) struct Dice {
    pub(crate) disk: Prng,
    pub(crate) network: Prng,
    pub(crate) application: Prng,
    pub(crate) operator: Prng,
    pub(crate) trouble: Prng,
    pub(crate) upkeep: Prng,
    pub(crate) changes: Prng,
}

/// The world.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) seed: u64,
    pub(crate) setup: Setup,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock<Happening>,
    pub(crate) dice: Dice,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) workload: Workload,
    /// By volume.
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) sizes: Vec<Sector>,
    pub(crate) trace: Trace,
    pub(crate) failure: Option<Failure>,
    pub(crate) events: u64,
    pub(crate) spin: Spin,
    pub(crate) next_operation: u64,
    /// The node the operator wants to be Primary.
    pub(crate) wanted: usize,
    /// `--force` may be used to get it so.
    pub(crate) may_force: bool,
    /// Not both, where two are allowed.
    pub(crate) wants_one: bool,
    /// Splits the operator ended because the policies did not.
    pub(crate) ended_by_hand: u32,
    pub(crate) healed_at: Option<Time>,
    /// Round of power loss and recovery after the first convergence.
    pub(crate) encores: u32,
    pub(crate) done: bool,
    /// What has become of the rot, in a kind of run.
    pub(crate) rot: Option<Rot>,
    /// What is special at the moment, in a kind of run.
    pub(crate) changing: Changing,
    /// When something last happened that is reason for a connection to end, and how often.
    pub(crate) disturbed: (Time, u64),
    /// What the nodes ask each other.
    pub(crate) agreement: Agreement,
    pub(crate) report: Report,
}

impl Cluster {
    /// The world of a seed.
    pub(crate) fn new(seed: u64, limits: Limits) -> Cluster {
        let mut dice = Prng::new(seed, 1);
        let mut setup = Setup::draw(&mut dice);
        if two_primaries::is_wanted(seed) {
            setup.allow_two_primaries(&mut Prng::new(seed, 7));
        }
        if trouble::is_wanted(seed) {
            setup.invite_trouble(&mut Prng::new(seed, 8));
        }
        if administered::is_wanted(seed) {
            setup.administer(&mut Prng::new(seed, 10));
        }
        if upkeep::is_wanted(seed) {
            setup.invite_upkeep(&mut Prng::new(seed, 10));
        }
        if growth::is_wanted(seed) {
            setup.let_grow(&mut Prng::new(seed, 12));
        }
        if changes::is_wanted(seed) {
            setup.expect_changes(changes::has_volumes(seed), &mut Prng::new(seed, 12));
        }
        if thin::is_wanted(seed) {
            setup.make_thin(&mut Prng::new(seed, 12));
        }
        let images: Vec<Vec<Image>> = setup
            .nodes
            .iter()
            .map(|node| {
                setup.volumes.iter().map(|sectors| Image::plan(node, *sectors, setup.room_bytes)).collect()
            })
            .collect();
        let size = |v: usize| images.iter().map(|i: &Vec<Image>| i[v].capacity.0).min().expect("two nodes");
        let sizes: Vec<Sector> = (0..setup.volumes.len()).map(|v| Sector(size(v))).collect();
        let slots = setup.nodes.iter().map(|n| n.disk.al_extents).min().expect("two nodes");
        let workload = Workload::draw(&mut dice, &sizes, u64::from(slots.min(4) - 2) * 8192);
        let nodes =
            images.into_iter().enumerate().map(|(n, images)| make_node(&setup, n, images, &sizes)).collect();
        let network = Network::new(setup.nodes.len(), &mut dice);
        let kinds = if hand_over::is_calm(seed) { 0 } else { limits.kinds };
        let faults = faults::plan(&mut Prng::new(seed, 2), setup.heal_at, kinds);
        let mut cluster = Cluster {
            seed,
            limits,
            clock: Clock::new(),
            dice: Dice {
                disk: Prng::new(seed, 3),
                network: Prng::new(seed, 4),
                application: Prng::new(seed, 5),
                operator: Prng::new(seed, 6),
                trouble: Prng::new(seed, 9),
                upkeep: Prng::new(seed, 11),
                changes: Prng::new(seed, 13),
            },
            nodes,
            network,
            workload,
            ledgers: sizes.iter().map(|s| Ledger::new(s.0 + setup.room_bytes / Sector::BYTES, 2)).collect(),
            sizes,
            trace: Trace::new(limits.trace, limits.print),
            failure: None,
            events: 0,
            spin: Spin::default(),
            next_operation: 1,
            wanted: dice.below(2) as usize,
            may_force: !setup.born_in_sync,
            wants_one: false,
            ended_by_hand: 0,
            healed_at: None,
            encores: 0,
            done: false,
            rot: None,
            changing: Changing::default(),
            disturbed: (0, 0),
            agreement: Agreement::default(),
            report: Report::default(),
            setup,
        };
        cluster.arrange(&faults);
        cluster
    }

    fn arrange(&mut self, faults: &[Fault]) {
        let setup = format!("{:?}", self.setup);
        self.note(None, "setup", format_args!("{setup}"));
        for node in 0..self.nodes.len() {
            self.nodes[node].starting = true;
            let delay = self.dice.operator.below(500 * MS);
            self.clock.at(delay, Happening::Start { node });
        }
        for fault in faults.iter().take(self.limits.faults) {
            self.clock.at(fault.at, Happening::Fault(*fault));
        }
        self.plan_trouble();
        self.plan_administration();
        self.plan_deeds();
        self.plan_changes();
        self.plan_growth();
        self.plan_recovery();
        self.plan_hand_overs();
        self.clock.at(SECOND, Happening::Tend);
        self.clock.at(self.setup.heal_at, Happening::Heal);
    }

    /// Lets everything happen.
    pub(crate) fn run(&mut self) {
        while self.failure.is_none() && !self.done {
            let Some(happening) = self.clock.next() else { break };
            self.happen(happening);
            self.events += 1;
            if let Err(text) = self.spin.event(self.clock.now()) {
                self.fail("liveness", text);
            }
            if self.events >= self.limits.events.min(EVENTS_MAX) {
                if self.events >= EVENTS_MAX {
                    self.fail("liveness", format!("{EVENTS_MAX} events and no end"));
                }
                break;
            }
            if self.events % 64 == 0 {
                self.watch();
            }
        }
        self.report.events = self.events;
        self.report.hash = self.trace.hash();
        self.report.lines = self.trace.lines();
    }

    fn happen(&mut self, happening: Happening) {
        self.note_disturbance(&happening);
        match happening {
            Happening::Timer { node, run, at } => self.timer(node, run, at),
            Happening::Disk { node, run, number } => self.disk_done(node, run, number),
            Happening::Deliver { connection, side } => self.deliver(connection, side),
            Happening::Announce { connection, side } => self.announce(connection, side),
            Happening::Dial { from, to, run, attempt, give_up_at } => {
                self.dial_arrives(from, to, run, attempt, give_up_at);
            }
            Happening::Post { node, run, event } => {
                if self.is_run(node, run) {
                    self.handle(node, *event);
                }
            }
            Happening::Application { node, run } => self.application(node, run),
            Happening::Fault(fault) => self.fault(fault),
            Happening::FaultEnds(fault) => self.fault_ends(fault),
            Happening::Start { node } => self.start(node),
            Happening::Operator { node, run } => {
                if self.is_run(node, run) {
                    self.advance(node);
                }
            }
            Happening::Ended { node, run } => {
                if self.is_run(node, run) {
                    self.end_daemon(node, false);
                }
            }
            Happening::Trouble(trouble) => self.trouble(trouble),
            Happening::Administration(administration) => self.administration(administration),
            Happening::Deed(node, deed) => self.deed(node, *deed),
            Happening::Change(change) => self.change(change),
            Happening::Growth(growth) => self.growth(growth),
            Happening::Recovery(recovery) => self.recovery(recovery),
            Happening::HandOver(hand_over) => self.hand_over(hand_over),
            Happening::Tend => self.tend(),
            Happening::Heal => self.heal(),
        }
    }

    /// That run of a node's daemon is the present one.
    pub(crate) fn is_run(&self, node: usize, run: u32) -> bool {
        self.nodes[node].daemon.is_some() && self.nodes[node].run == run
    }

    /// A line of the trace.
    pub(crate) fn note(&mut self, node: Option<usize>, kind: &str, detail: std::fmt::Arguments<'_>) {
        self.trace.line(self.clock.now(), node, kind, detail);
    }

    /// A checker objects; the first one counts.
    pub(crate) fn fail(&mut self, checker: &'static str, text: String) {
        self.note(None, "FAILURE", format_args!("{checker}: {text}"));
        if self.failure.is_some() {
            return;
        }
        for node in self.nodes.iter().filter(|_| self.limits.print) {
            eprintln!("{:#?}", node.daemon.as_ref().map(|d| &d.resource));
        }
        self.failure = Some(Failure { checker, text });
    }

    /// What a checker says.
    pub(crate) fn judge(&mut self, checker: &'static str, verdict: Result<(), String>) {
        if let Err(text) = verdict {
            self.fail(checker, text);
        }
    }

    /// A fault was injected.
    pub(crate) fn count(&mut self, kind: Kind) {
        self.report.faults[kind.index()] += 1;
    }
}

fn make_node(setup: &Setup, n: usize, images: Vec<Image>, sizes: &[Sector]) -> Node {
    let node = &setup.nodes[n];
    let volumes = images.into_iter().enumerate().map(|(v, image)| {
        let first = if setup.born_in_sync { 0 } else { n as u64 };
        let end = sizes[v].0;
        let of = |s: u64| if s < end || setup.grows_clean { first } else { n as u64 };
        let sectors = image.sectors_at_most().0;
        let content: Vec<Tag> = (0..sectors).map(|s| super::beginning(of(s), s)).collect();
        let meta = image.create(setup, n, setup.born_in_sync.then_some(sizes[v]));
        let make = |content, meta| {
            let mut disk = Disk::new(content, meta);
            disk.write_through = node.write_through;
            disk.tears_at = node.tears_at;
            disk
        };
        if node.external {
            VolumeDisks { image, data: make(content, Vec::new()), meta: Some(make(Vec::new(), meta)) }
        } else {
            VolumeDisks { image, data: make(content, meta), meta: None }
        }
    });
    Node {
        power: true,
        run: 0,
        daemon: None,
        volumes: volumes.collect(),
        clock: node.clock,
        died_primary: false,
        recovers: false,
        held: None,
        starting: false,
        wants_attached: vec![true; sizes.len()],
        wants_connected: true,
        refuses_until: 0,
        was_good: Vec::new(),
        was_torn: Vec::new(),
        became_primary: false,
        promoted_on: vec![None; sizes.len()],
        wrote_alone: vec![false; sizes.len()],
        discards: false,
        connects_tried: 0,
        attaches_tried: 0,
    }
}
