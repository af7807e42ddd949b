//! Another kind of run: what is changed about a resource while it is in use, and what has to come together for the rarer
//! troubles. Its seeds begin at [`FIRST_SEED`], so that it takes no dice from the others. They have all the
//! [trouble](super::trouble), every second one the [administrators](super::administered), too. A seed has a few *themes*,
//! each with options of its own and with situations that come up several times at random moments, beside the usual faults:
//!
//! - **Together**: both administrators ask at the same instant for a change that needs the peer's consent (verify,
//!   invalidate, invalidate-remote, detach, outdate, disconnect), alike or not.
//! - **Volumes** (only from [`FIRST_SEED_OF_VOLUMES`] on): the second volume is detached and deleted, on one node or both, connected or not, and made and attached
//!   again after a while; requests go on with the first one.
//! - **Order**: resyncs wait for a volume of another resource, which is busy and idle again at any time, and for each
//!   other.
//! - **Parting**: with fencing, a Primary disconnects in order, or with the link cut; the node left behind goes down,
//!   comes back alone, and its administrator tries to promote it.
//! - **GoodData**: a Primary without its peer loses the disks of both volumes, and gets them back one after the other.
//! - **Leaning**: a Primary without disk depends on its peer, whose disk fails writes or is full.
//! - **FullDisk**: the last good copy is full and slow while the write is under way that looks for space, and an
//!   administrator resumes just then.
//! - **Silence**: the application falls silent and the link breaks while the last writes are not stable at the peer;
//!   fence-peer does not help, and nothing is written any more when the peer is back.
//! - **Buffers**: max-buffers as small as it may be, and disks that stall.
//! - **Wire**: data-integrity-alg, and data that is changed on its way between the nodes.
//!
//! What is checked besides: of two changes asked for at once one at most is granted; a disk that is shown as Outdated is
//! so in its metadata; a peer that no handler called fenced is not taken for Outdated. Data that arrived changed must end
//! the session; it would be noticed on a disk, in a read, or as something that was never written.

use super::clock::{Time, MS, SECOND};
use super::cluster::{Cluster, Happening};
use super::node::Step;
use super::prng::Prng;
use super::setup::Setup;
use super::trouble::Trouble;
use drbd_core::config::{FencingPolicy, OnCongestion};
use drbd_core::engine::{AdminRequest, Event};
use drbd_core::ids::{Minor, NodeId, Sector, VolumeNumber};
use drbd_core::limits::PROTOCOL_MAX;
use drbd_core::states::{DiskState, Protocol};
use std::ops::Range;

/// Seeds from here on are of this kind, as many as there are of each kind.
pub const FIRST_SEED: u64 = 1 << 43;
const SEEDS: Range<u64> = FIRST_SEED..FIRST_SEED << 1;
/// From here on volumes come and go, too.
pub const FIRST_SEED_OF_VOLUMES: u64 = FIRST_SEED + (1 << 42);

/// The volume of another resource that resyncs wait for.
const FOREIGN: Minor = Minor(77);

/// It is a seed of this kind.
pub(crate) fn is_wanted(seed: u64) -> bool {
    SEEDS.contains(&seed)
}

/// In such a seed volumes come and go, too.
pub(crate) fn has_volumes(seed: u64) -> bool {
    is_wanted(seed) && seed >= FIRST_SEED_OF_VOLUMES
}

/// Such a seed has administrators at work, too.
pub(crate) fn is_administered(seed: u64) -> bool {
    is_wanted(seed) && seed % 2 == 1
}

/// What a seed is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Theme {
    Together,
    Volumes,
    Order,
    Parting,
    GoodData,
    Leaning,
    FullDisk,
    Silence,
    Buffers,
    Wire,
}

/// What is drawn from; volumes come and go in seeds of their own.
const THEMES: [Theme; 9] = [
    Theme::Together,
    Theme::Order,
    Theme::Parting,
    Theme::GoodData,
    Theme::Leaning,
    Theme::FullDisk,
    Theme::Silence,
    Theme::Buffers,
    Theme::Wire,
];

/// What is asked of both nodes at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    Verify,
    Invalidate,
    InvalidateRemote,
    Detach,
    Outdate,
    Disconnect,
}

/// Something that happens in such a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// A situation of a theme comes up; the numbers are its dice.
    Comes { theme: Theme, node: usize, volume: usize, lasts: Time, chance: u64 },
    /// Both nodes are asked at the same instant.
    Ask { volume: usize, asks: [Ask; 2] },
    /// A volume that was deleted is made again.
    VolumeIsBack { node: usize, volume: usize },
    /// The power of a node fails, for a while.
    PowerFails { node: usize, lasts: Time },
    /// An administrator tries to promote a node.
    Promote { node: usize },
    /// Both nodes may connect again.
    Meet,
    /// A disk is attached again.
    DiskIsBack { node: usize, volume: usize },
    /// A disk fails operations, so many in a thousand.
    DiskFails { node: usize, volume: usize, per_mille: u64 },
    /// The other resource is busy, or no longer.
    Foreign { node: usize, busy: bool },
    /// The application falls silent.
    Silence,
    /// Every connection breaks.
    LinkBreaks,
    /// Data is changed on its way, or no longer.
    Flips { per_mille: u64 },
}

/// What is special at the moment.
#[derive(Debug, Default)]
pub(crate) struct Changing {
    /// The application asks for nothing any more.
    silent: bool,
    /// The other resource is busy, by node.
    foreign_busy: [bool; 2],
    /// Data is changed on its way, so many times in a thousand.
    pub(crate) flips_per_mille: u64,
}

impl Setup {
    /// What is special about the world of such a seed, besides trouble.
    pub(crate) fn expect_changes(&mut self, volumes: bool, dice: &mut Prng) {
        let mut themes: Vec<Theme> = THEMES.into_iter().filter(|_| dice.chance(150)).collect();
        themes.push(if volumes { Theme::Volumes } else { dice.pick(&THEMES) });
        themes.dedup();
        self.net.verify_alg = "sha1".to_owned();
        self.on_themes(&themes, dice);
        self.themes = themes;
    }

    fn on_themes(&mut self, themes: &[Theme], dice: &mut Prng) {
        let has = |theme| themes.contains(&theme);
        if has(Theme::Volumes) || has(Theme::GoodData) || (has(Theme::Order) && dice.chance(500)) {
            self.nodes.iter_mut().for_each(|n| n.protocol_max = PROTOCOL_MAX);
            if self.volumes.len() == 1 {
                self.volumes.push(Sector(dice.pick(&[16_384, 24_576 + 8])));
            }
        }
        if has(Theme::GoodData) || has(Theme::FullDisk) {
            self.suspend_without_data = true;
            for node in &mut self.nodes {
                node.disk.on_io_error = "detach".to_owned();
                node.disk.disk_timeout_ds = 0;
            }
        }
        if has(Theme::Parting) {
            self.net.fencing = dice.pick(&[FencingPolicy::ResourceOnly, FencingPolicy::ResourceAndStonith]);
        }
        if has(Theme::Silence) {
            self.net.fencing = FencingPolicy::ResourceAndStonith;
            self.net.protocol = dice.pick(&[Protocol::B, Protocol::B, Protocol::C]);
            self.net.on_congestion = OnCongestion::Block;
            self.nodes.iter_mut().for_each(|n| n.disk.disk_timeout_ds = 0);
            self.born_in_sync = true;
        }
        if has(Theme::Leaning) {
            for node in &mut self.nodes {
                node.disk.on_io_error = dice.pick(&["pass_on", "pass_on", "detach"]).to_owned();
            }
        }
        if has(Theme::Buffers) {
            self.net.max_buffers = dice.pick(&[32, 48, 128]);
        }
        if has(Theme::Wire) {
            self.net.data_integrity_alg = dice.pick(&["crc32c", "sha1"]).to_owned();
        }
        if self.net.fencing == FencingPolicy::ResourceAndStonith && self.net.protocol == Protocol::A {
            self.net.protocol = dice.pick(&[Protocol::B, Protocol::C]);
            self.net.on_congestion = OnCongestion::Block;
        }
        if has(Theme::Order) {
            let second = dice.pick(&[Minor(0), FOREIGN]);
            self.resync_after = vec![Some(FOREIGN), Some(second)];
        }
    }

    fn has_theme(&self, theme: Theme) -> bool {
        self.themes.contains(&theme)
    }

    /// Which minor's resync comes before that of a volume.
    pub(crate) fn resync_after(&self, volume: usize) -> Option<Minor> {
        self.resync_after.get(volume).copied().flatten()
    }
}

impl Cluster {
    fn has_changes(&self) -> bool {
        is_wanted(self.seed)
    }

    /// Plans which situations come up.
    pub(crate) fn plan_changes(&mut self) {
        let heal_at = self.setup.heal_at;
        for theme in self.setup.themes.clone() {
            let dice = &mut self.dice.changes;
            // Silence waits for a moment at which all is well.
            let more = if theme == Theme::Silence { 8 } else { 0 };
            for _ in 0..dice.between(1, 5) + more {
                let at = dice.between(heal_at / 20, heal_at);
                let (node, volume) = (dice.below(2) as usize, dice.below(self.sizes.len() as u64) as usize);
                let lasts = dice.skewed(10 * MS, 2 * SECOND, 10 * SECOND);
                let chance = dice.below(1 << 32);
                let comes = Change::Comes { theme, node, volume, lasts, chance };
                self.clock.at(at, Happening::Change(comes));
            }
        }
    }

    fn later(&mut self, delay: Time, change: Change) {
        self.clock.after(delay, Happening::Change(change));
    }

    /// It happens. What gives something back happens also when all is healed.
    pub(crate) fn change(&mut self, change: Change) {
        self.note(None, "CHANGE", format_args!("{change:?}"));
        let healed = self.healed_at.is_some();
        match change {
            Change::VolumeIsBack { node, volume } => self.volume_is_back(node, volume),
            Change::DiskIsBack { node, volume } => self.disk_is_back(node, volume),
            Change::Meet => self.nodes.iter_mut().for_each(|n| n.wants_connected = true),
            Change::Flips { per_mille } => {
                self.changing.flips_per_mille = if healed { 0 } else { per_mille };
            }
            _ if healed => {}
            Change::Comes { theme, node, volume, lasts, chance } => {
                self.comes(theme, node, volume, lasts, chance);
            }
            Change::Ask { volume, asks } => self.ask_both(volume, asks),
            Change::PowerFails { node, lasts } => {
                self.lose_power(node);
                self.clock.after(lasts, Happening::Start { node });
            }
            Change::Promote { node } => self.ask_of(node, &[Step::Primary { force: false }]),
            Change::DiskFails { node, volume, per_mille } => {
                self.nodes[node].volumes[volume].data.errors_per_mille = per_mille;
            }
            Change::Foreign { node, busy } => self.foreign(node, busy),
            Change::Silence => self.changing.silent = true,
            Change::LinkBreaks => self.break_links(None),
        }
    }

    fn comes(&mut self, theme: Theme, node: usize, volume: usize, lasts: Time, chance: u64) {
        match theme {
            Theme::Together => {
                let asks = [
                    draw_ask(chance),
                    if chance % 2 == 0 { draw_ask(chance) } else { draw_ask(chance >> 8) },
                ];
                self.later(0, Change::Ask { volume, asks });
            }
            Theme::Volumes => self.delete_volume(node, lasts, chance),
            Theme::Order => {
                self.foreign(node, true);
                self.later(lasts, Change::Foreign { node, busy: false });
            }
            Theme::Parting => self.part(lasts, chance),
            Theme::GoodData => self.lose_good_data(lasts, chance),
            Theme::Leaning => self.lean(volume, lasts, chance),
            Theme::FullDisk => self.fill_up(volume, chance),
            Theme::Silence => self.fall_silent(chance),
            Theme::Buffers => {
                let stalled = Trouble::StalledDisk { node, volume, lasts };
                self.clock.after(0, Happening::Trouble(stalled));
            }
            Theme::Wire => {
                self.changing.flips_per_mille = 1 + chance % 200;
                self.later(lasts, Change::Flips { per_mille: 0 });
            }
        }
    }

    // ---- together ------------------------------------------------------------------------------------------------

    fn ask_both(&mut self, at: usize, asks: [Ask; 2]) {
        for (node, ask) in asks.into_iter().enumerate() {
            let (peer, volume) = (NodeId(1 - node as u8), VolumeNumber(at as u16));
            let request = match ask {
                Ask::Verify => AdminRequest::Verify { peer, volume, start: Some(0), stop: None },
                Ask::Invalidate if self.both_are_good(at) => {
                    AdminRequest::Invalidate { volume, reset_bitmap: true }
                }
                Ask::InvalidateRemote if self.both_are_good(at) => {
                    AdminRequest::InvalidateRemote { peer, volume, reset_bitmap: true }
                }
                Ask::Invalidate | Ask::InvalidateRemote => continue,
                Ask::Detach => AdminRequest::Detach { volume, force: false, diskless: false },
                Ask::Outdate => AdminRequest::Outdate { volume },
                Ask::Disconnect => AdminRequest::Disconnect { peer, force: false },
            };
            self.ask_beside(node, request);
        }
    }

    // ---- volumes -------------------------------------------------------------------------------------------------

    fn delete_volume(&mut self, node: usize, lasts: Time, chance: u64) {
        let volume = 1;
        for n in (0..2).filter(|n| *n == node || chance % 3 > 0) {
            self.nodes[n].wants_attached[volume] = false;
            let steps = [
                Step::StopApplication,
                Step::Secondary { force: false },
                Step::Detach { volume, force: false },
                Step::DelMinor(volume),
            ];
            self.ask_of(n, &steps);
            self.later(lasts + chance % 50 * MS, Change::VolumeIsBack { node: n, volume });
        }
    }

    /// It is made while the node is Secondary: a promotion says whose data is the data for all volumes it has.
    fn volume_is_back(&mut self, node: usize, volume: usize) {
        self.nodes[node].wants_attached[volume] = true;
        let steps = [
            Step::StopApplication,
            Step::Secondary { force: true },
            Step::NewMinor(volume),
            Step::PeerDeviceOptions(volume),
            Step::Attach { volume, recovery: false },
        ];
        self.ask_of(node, &steps);
    }

    /// A node has a volume just now; in other kinds of runs it always has.
    pub(crate) fn has_volume(&self, node: usize, volume: usize) -> bool {
        !self.has_changes() || self.claims(node, volume).is_some()
    }

    // ---- order ---------------------------------------------------------------------------------------------------

    fn foreign(&mut self, node: usize, busy: bool) {
        self.changing.foreign_busy[node] = busy;
        if self.nodes[node].daemon.is_some() {
            self.handle(node, Event::ForeignResync { minor: FOREIGN, busy });
        }
    }

    /// A daemon that starts is told what the others on its host do.
    pub(crate) fn tell_foreign(&mut self, node: usize) {
        if self.changing.foreign_busy[node] {
            self.foreign(node, true);
        }
    }

    /// All is healed: nobody else is busy any more.
    pub(crate) fn changes_are_over(&mut self) {
        self.changing.flips_per_mille = 0;
        for node in 0..2 {
            if self.has_changes() {
                self.foreign(node, false);
            }
        }
    }

    // ---- parting -------------------------------------------------------------------------------------------------

    fn part(&mut self, lasts: Time, chance: u64) {
        let Some(primary) = self.primary() else { return };
        let other = 1 - primary;
        if chance % 3 == 0 {
            self.cut(lasts);
        }
        self.nodes.iter_mut().for_each(|n| n.wants_connected = false);
        let by = if chance % 4 == 0 { other } else { primary };
        self.ask_of(by, &[Step::Disconnect { force: false }]);
        let (fails, away) = (lasts / 4 + chance % 200 * MS, lasts / 4);
        self.later(fails, Change::PowerFails { node: other, lasts: away });
        self.later(fails + away + 300 * MS, Change::Promote { node: other });
        self.later(lasts + SECOND, Change::Meet);
    }

    fn cut(&mut self, lasts: Time) {
        let until = self.clock.now() + lasts;
        self.network.block(0, 1, until);
        self.network.block(1, 0, until);
    }

    // ---- good data -----------------------------------------------------------------------------------------------

    fn lose_good_data(&mut self, lasts: Time, chance: u64) {
        let Some(primary) = self.primary() else { return };
        self.cut(lasts * 2);
        for at in 0..self.sizes.len() {
            self.nodes[primary].wants_attached[at] = false;
            let volume = VolumeNumber(at as u16);
            self.ask_beside(primary, AdminRequest::Detach { volume, force: true, diskless: false });
        }
        let first = chance as usize % self.sizes.len();
        for volume in 0..self.sizes.len() {
            let back = if volume == first { lasts / 2 } else { lasts };
            self.later(back, Change::DiskIsBack { node: primary, volume });
        }
    }

    fn disk_is_back(&mut self, node: usize, volume: usize) {
        self.nodes[node].wants_attached[volume] = true;
        self.nodes[node].volumes[volume].data.errors_per_mille = 0;
        let diskless = self.claims(node, volume).is_some_and(|c| c.disk == DiskState::Diskless);
        if diskless {
            self.ask_of(node, &[Step::Attach { volume, recovery: false }]);
        }
    }

    fn lean(&mut self, at: usize, lasts: Time, chance: u64) {
        let Some(primary) = self.primary().filter(|_| self.both_are_good(at)) else { return };
        let (peer, volume) = (1 - primary, VolumeNumber(at as u16));
        self.nodes[primary].wants_attached[at] = false;
        self.ask_beside(primary, AdminRequest::Detach { volume, force: false, diskless: false });
        let fails = 20 * MS + chance % 200 * MS;
        if chance % 2 == 0 {
            let lasts = lasts / 2;
            self.clock.after(fails, Happening::Trouble(Trouble::FullDisk { node: peer, volume: at, lasts }));
        } else {
            let per_mille = 50 + chance % 400;
            self.later(fails, Change::DiskFails { node: peer, volume: at, per_mille });
            self.later(lasts, Change::DiskFails { node: peer, volume: at, per_mille: 0 });
        }
        self.later(lasts + SECOND, Change::DiskIsBack { node: primary, volume: at });
    }

    /// The peer has the last writes, and its disk does not.
    fn fall_silent(&mut self, chance: u64) {
        let good = (0..self.sizes.len()).all(|volume| self.both_are_good(volume));
        let Some(primary) = self.primary().filter(|_| good && !self.changing.silent) else { return };
        for volume in 0..self.sizes.len() {
            let stalled = Trouble::StalledDisk { node: 1 - primary, volume, lasts: 900 * MS };
            self.clock.after(0, Happening::Trouble(stalled));
        }
        let silent = 50 * MS + chance % 600 * MS;
        self.later(silent, Change::Silence);
        self.later(silent + MS + (chance >> 12) % 60 * MS, Change::LinkBreaks);
    }

    // ---- a full disk ---------------------------------------------------------------------------------------------

    /// The write that looks for space is tried three seconds after the disk was found full.
    fn fill_up(&mut self, volume: usize, chance: u64) {
        let Some(node) = self.primary() else { return };
        self.cut(10 * SECOND);
        let trouble = |cluster: &mut Cluster, delay: Time, trouble: Trouble| {
            cluster.clock.after(delay, Happening::Trouble(trouble));
        };
        let found = 200 * MS;
        trouble(self, found, Trouble::FullDisk { node, volume, lasts: 3500 * MS + chance % 2000 * MS });
        let stalls = Trouble::StalledDisk { node, volume, lasts: 2 * SECOND };
        trouble(self, found + 2800 * MS, stalls);
        trouble(self, found + 3100 * MS + chance % 1700 * MS, Trouble::ResumeIo { node });
    }

    // ---- asked by the others -------------------------------------------------------------------------------------

    /// The application asks for nothing any more.
    pub(crate) fn is_silent(&self) -> bool {
        self.changing.silent
    }

    /// Every fence-peer handler of a run fails.
    pub(crate) fn fencing_is_broken(&self) -> bool {
        self.setup.has_theme(Theme::Silence)
    }
}

fn draw_ask(chance: u64) -> Ask {
    let asks = [
        Ask::Verify,
        Ask::Verify,
        Ask::Invalidate,
        Ask::InvalidateRemote,
        Ask::Detach,
        Ask::Outdate,
        Ask::Disconnect,
    ];
    asks[(chance >> 4) as usize % asks.len()]
}
