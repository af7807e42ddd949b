//! The bringer of faults: carries out what the [fault model](super::faults) plans.

use super::clock::{MS, SECOND};
use super::cluster::{Cluster, Happening};
use super::faults::{Fault, Kind};
use super::hand_over;
use super::network::{End, PartyState};
use super::node::{Daemon, Step};
use drbd_core::engine::SocketLoss;
use drbd_core::metadata::device_flag;
use drbd_core::states::DiskState;

impl Cluster {
    pub(crate) fn primary(&self) -> Option<usize> {
        (0..2).find(|n| self.claims(*n, 0).is_some_and(|c| c.primary))
    }

    /// A fault happens.
    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.healed_at.is_some() {
            return;
        }
        self.note(Some(fault.node), "FAULT", format_args!("{fault:?}"));
        self.count(fault.kind);
        let Fault { node, lasts, chance, .. } = fault;
        let until = self.clock.now() + lasts;
        match fault.kind {
            Kind::DaemonCrash => {
                self.end_daemon(node, true);
                self.clock.after(lasts, Happening::FaultEnds(fault));
            }
            Kind::PowerLoss => {
                self.lose_power(node);
                self.clock.after(lasts, Happening::FaultEnds(fault));
            }
            Kind::PowerLossOfAll => {
                for n in 0..2 {
                    self.lose_power(n);
                    let again = self.dice.operator.skewed(MS, 2 * SECOND, 10 * SECOND);
                    self.clock.after(again, Happening::FaultEnds(Fault { node: n, ..fault }));
                }
            }
            Kind::LinkBreak => self.break_links(None),
            Kind::HalfOpen => self.break_links(Some(node)),
            Kind::OneWay => self.network.block(node, 1 - node, until),
            Kind::Partition => {
                self.network.block(0, 1, until);
                self.network.block(1, 0, until);
            }
            Kind::DiskErrors | Kind::MetaErrors => {
                let volume = chance as usize % self.sizes.len();
                let meta = fault.kind == Kind::MetaErrors;
                self.nodes[node].volumes[volume].disk(meta).errors_per_mille = 1 + chance / 4;
                self.clock.after(lasts, Happening::FaultEnds(fault));
            }
            Kind::DiskStall => {
                let volume = chance as usize % self.sizes.len();
                self.nodes[node].volumes[volume].disk(chance % 2 == 0).stalled_until = until;
            }
            Kind::ListenRefused => self.nodes[node].refuses_until = until,
            Kind::Detach
            | Kind::Disconnect
            | Kind::RoleSwitch
            | Kind::FailOver
            | Kind::PromotedApart
            | Kind::Down => {
                self.administer(fault);
            }
        }
    }

    /// What administrators do.
    pub(crate) fn administer(&mut self, fault: Fault) {
        let Fault { node, lasts, chance, .. } = fault;
        match fault.kind {
            Kind::Detach => {
                let volume = chance as usize % self.sizes.len();
                self.nodes[node].wants_attached[volume] = false;
                self.ask_of(node, &[Step::Detach { volume, force: chance < 300 }]);
                self.clock.after(lasts, Happening::FaultEnds(fault));
            }
            Kind::Disconnect => {
                self.nodes[node].wants_connected = false;
                self.ask_of(node, &[Step::Disconnect { force: chance < 300 }]);
                self.clock.after(lasts, Happening::FaultEnds(fault));
            }
            Kind::RoleSwitch => {
                let old = self.wanted;
                self.wanted = 1 - old;
                self.wants_one ^= chance < 300;
                self.ask_of(old, &[Step::StopApplication, Step::Secondary { force: false }]);
            }
            Kind::FailOver => {
                let Some(old) = self.primary() else { return };
                self.wanted = 1 - old;
                self.may_force = chance < 500;
                if chance % 2 == 0 {
                    self.lose_power(old);
                } else {
                    self.end_daemon(old, true);
                }
                self.clock.after(lasts, Happening::FaultEnds(Fault { node: old, ..fault }));
            }
            Kind::PromotedApart => {
                let until = self.clock.now() + lasts;
                self.network.block(0, 1, until);
                self.network.block(1, 0, until);
                let Some(old) = self.primary() else { return };
                self.ask_of(1 - old, &[Step::Primary { force: chance < 800 }]);
                self.clock.after(lasts / 2, Happening::FaultEnds(Fault { node: 1 - old, ..fault }));
            }
            Kind::Down => {
                self.ask_of(node, &[Step::StopApplication, Step::Secondary { force: false }, Step::Down]);
                self.clock.after(lasts, Happening::FaultEnds(fault));
            }
            _ => unreachable!("only what administrators do"),
        }
    }

    pub(crate) fn ask_of(&mut self, node: usize, steps: &[Step]) {
        if let Some(daemon) = &mut self.nodes[node].daemon {
            daemon.script.extend(steps);
            self.advance(node);
        }
    }

    /// A fault is over.
    pub(crate) fn fault_ends(&mut self, fault: Fault) {
        let node = fault.node;
        match fault.kind {
            Kind::DaemonCrash | Kind::PowerLoss | Kind::PowerLossOfAll | Kind::FailOver | Kind::Down => {
                if !self.nodes[node].starting {
                    self.start(node);
                }
            }
            Kind::DiskErrors | Kind::MetaErrors => {
                let volume = fault.chance as usize % self.sizes.len();
                self.nodes[node].volumes[volume].disk(fault.kind == Kind::MetaErrors).errors_per_mille = 0;
            }
            Kind::Detach => {
                let volume = fault.chance as usize % self.sizes.len();
                self.nodes[node].wants_attached[volume] = true;
            }
            Kind::Disconnect => self.nodes[node].wants_connected = true,
            Kind::PromotedApart => {
                let promoting = self.nodes[node].daemon.as_ref().is_some_and(Daemon::is_promoting);
                if promoting {
                    // The device is opened when the promotion is done.
                    self.clock.after(100 * MS, Happening::FaultEnds(fault));
                } else if self.claims(node, 0).is_some_and(|c| c.primary) && self.healed_at.is_none() {
                    self.start_application(node);
                }
            }
            Kind::LinkBreak
            | Kind::HalfOpen
            | Kind::OneWay
            | Kind::Partition
            | Kind::DiskStall
            | Kind::RoleSwitch
            | Kind::ListenRefused => {}
        }
    }

    /// The daemon of a node ends; `crash`: in the middle of everything.
    pub(crate) fn end_daemon(&mut self, node: usize, crash: bool) {
        let primary = self.claims(node, 0).is_some_and(|c| c.primary);
        let Some(daemon) = self.nodes[node].daemon.take() else { return };
        self.note(Some(node), "ends", format_args!("daemon, crash {crash}"));
        self.nodes[node].died_primary |= primary;
        self.nodes[node].recovers = crash;
        // Killed while it made way, only the one that is gone could have known who was Primary meanwhile.
        if !crash || hand_over::is_wanted(self.seed) {
            self.forget_held(node);
        }
        for asked in daemon.asked.values() {
            if let Some(write) = asked.write {
                self.write_given_up(asked.wish.volume, write);
            }
        }
        self.ledgers.iter_mut().for_each(|ledger| ledger.went_down(node));
        for volume in &mut self.nodes[node].volumes {
            for meta in [false, true] {
                volume.disk(meta).abandon(&mut self.dice.disk);
            }
        }
        for job in daemon.jobs.values() {
            if let Some((first, count)) = job.writes {
                self.disk_changed(node, job.volume, first, count);
            }
        }
        let reset = self.dice.network.chance(500);
        for endpoint in daemon.sockets.values() {
            self.end_side(endpoint.connection, endpoint.side, reset);
        }
    }

    /// The power of a node fails.
    pub(crate) fn lose_power(&mut self, node: usize) {
        if !self.nodes[node].power {
            return;
        }
        self.note(Some(node), "power", format_args!("fails"));
        let primary = self.claims(node, 0).is_some_and(|c| c.primary) || self.nodes[node].died_primary;
        for connection in &mut self.network.connections {
            for side in 0..2 {
                let party = &mut connection.parties[side];
                if party.node == node && party.state != PartyState::Closed {
                    party.silent = true;
                    connection.flows[side].lose();
                    connection.flows[side].end = None;
                }
            }
        }
        if let Some(daemon) = self.nodes[node].daemon.take() {
            for asked in daemon.asked.values() {
                if let Some(write) = asked.write {
                    self.write_given_up(asked.wish.volume, write);
                }
            }
        }
        self.forget_held(node);
        self.nodes[node].power = false;
        self.nodes[node].recovers = false;
        self.nodes[node].died_primary = primary;
        for volume in 0..self.sizes.len() {
            let poor = (0..2).filter(|n| self.is_poor(*n, volume)).fold(0, |mask, n| mask | 1 << n);
            self.ledgers[volume].went_down(node);
            let disks = &mut self.nodes[node].volumes[volume];
            disks.data.lose_power(&mut self.dice.disk);
            if let Some(meta) = &mut disks.meta {
                meta.lose_power(&mut self.dice.disk);
            }
            let nodes = &self.nodes;
            let look = |n: usize, sector: u64| nodes[n].volumes[volume].data.current()[sector as usize];
            // A disk that was given up while it was a Primary's comes back as one that crashed.
            let disks = &nodes[node].volumes[volume];
            let marked = disks
                .image
                .load(disks.meta_area())
                .is_ok_and(|l| l.super_block.flags & device_flag::PRIMARY_IND != 0);
            self.ledgers[volume].lost_power(node, primary || marked, poor, &look);
        }
    }

    /// The disk of a node is Inconsistent: its copy is no copy.
    fn is_poor(&self, node: usize, volume: usize) -> bool {
        if let Some(claims) = self.claims(node, volume).filter(|c| c.disk.has_data()) {
            return claims.disk == DiskState::Inconsistent;
        }
        let disks = &self.nodes[node].volumes[volume];
        let loaded = disks.image.load(disks.meta_area());
        loaded.is_ok_and(|l| l.super_block.flags & device_flag::CONSISTENT == 0)
    }

    /// A node is back: what still sends to its old connections is told that nobody knows them.
    pub(crate) fn forget_silent(&mut self, node: usize) {
        for connection in 0..self.network.connections.len() {
            for side in 0..2 {
                let party = &mut self.network.connections[connection].parties[side];
                if party.node == node && party.silent {
                    party.silent = false;
                    party.state = PartyState::Closed;
                    self.end_side(connection, side, true);
                }
            }
        }
    }

    /// Every connection breaks: both ends are told, or only that node's.
    pub(crate) fn break_links(&mut self, only: Option<usize>) {
        for connection in 0..self.network.connections.len() {
            if self.network.connections[connection].parties.iter().any(|p| p.state != PartyState::Open) {
                continue;
            }
            for side in 0..2 {
                let link = &mut self.network.connections[connection];
                link.flows[side].lose();
                match only {
                    None => link.flows[side].end = Some(End::Reset),
                    Some(_) => link.flows[side].void = true,
                }
            }
            for side in 0..2 {
                let link = &self.network.connections[connection];
                match only {
                    None => {
                        self.clock.after(self.network.latency, Happening::Deliver { connection, side });
                    }
                    Some(node) if link.parties[side].node == node => {
                        let why = SocketLoss::Failed("connection timed out".into());
                        self.lose_socket(connection, side, why);
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
