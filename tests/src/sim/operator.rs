//! The administrator, who switches roles and resolves splits, and the bringer of faults.

use super::checkers::liveness::FIND_TOGETHER;
use super::checkers::Claims;
use super::clock::{MS, SECOND};
use super::cluster::{Cluster, Happening};
use super::node::Step;
use drbd_core::config::{DeviceOptions, DiskOptions, OptionSet};
use drbd_core::control::Done;
use drbd_core::engine::Event;
use drbd_core::engine::{AdminRequest, AttachRequest, DiskLimits};
use drbd_core::ids::{Minor, NodeId, Ticket, VolumeNumber};
use drbd_core::refusal::Refusal;
use drbd_core::states::{ConnectionState, DiskState, ReplicationState};
use std::net::{Ipv4Addr, SocketAddr};

impl Cluster {
    // ---- scripts ----

    /// The operator goes on with the script of a node.
    pub(crate) fn advance(&mut self, node: usize) {
        while self.failure.is_none() {
            let Some(daemon) = &mut self.nodes[node].daemon else { return };
            if daemon.waiting.is_some() || daemon.handing.is_leaving() {
                return;
            }
            let Some(step) = daemon.script.front().copied() else { return };
            if step == Step::CreateMetadata {
                self.daemon(node).script.pop_front();
                self.create_metadata(node);
                continue;
            }
            if step == Step::StopApplication {
                if !self.stop_application(node) {
                    return;
                }
                self.daemon(node).script.pop_front();
                continue;
            }
            daemon.script.pop_front();
            let Some(request) = self.request(node, step) else { continue };
            let daemon = self.daemon(node);
            let ticket = daemon.next_ticket;
            daemon.next_ticket += 1;
            daemon.waiting = Some((ticket, step));
            self.note(Some(node), "admin", format_args!("{step:?} ticket {ticket}"));
            self.post(node, MS, Event::Admin { ticket: Ticket(ticket), request: Box::new(request) });
        }
    }

    /// What a step asks of the engine; `None` if there is nothing to ask.
    fn request(&mut self, node: usize, step: Step) -> Option<AdminRequest> {
        let peer = NodeId(1 - node as u8);
        let number = |volume: usize| VolumeNumber(volume as u16);
        Some(match step {
            Step::NewMinor(volume) => AdminRequest::NewMinor {
                minor: Minor(volume as u32),
                volume: number(volume),
                options: DeviceOptions::from(&OptionSet::default()),
            },
            Step::DelMinor(volume) => AdminRequest::DelMinor { volume: number(volume) },
            Step::Attach { volume, recovery } => {
                AdminRequest::Attach(self.attach_request(node, volume, recovery)?)
            }
            Step::NewPeer => AdminRequest::NewPeer { peer, options: self.setup.net_of(node) },
            Step::NewPath => AdminRequest::NewPath { peer, local: address(node), remote: address(1 - node) },
            Step::PeerDeviceOptions(volume) => AdminRequest::PeerDeviceOptions {
                peer,
                volume: number(volume),
                options: self.setup.peer_device.clone(),
            },
            Step::Connect { discard } => {
                self.nodes[node].wants_connected = true;
                // What is connected already does not hear of it.
                if self.claims(node, 0).is_none_or(|c| c.connection == ConnectionState::StandAlone) {
                    self.nodes[node].discards = discard;
                }
                if discard {
                    self.ledgers.iter_mut().for_each(|ledger| ledger.discard(node));
                    self.side_given_up(node);
                }
                AdminRequest::Connect { peer, tentative: false, discard_my_data: discard }
            }
            Step::Disconnect { force } => AdminRequest::Disconnect { peer, force },
            Step::Primary { force } => {
                self.promotion_begins(node);
                AdminRequest::Primary { force }
            }
            Step::ResumePrimary => {
                self.promotion_begins(node);
                AdminRequest::ResumePrimary
            }
            Step::Secondary { force } => AdminRequest::Secondary { force },
            Step::Detach { volume, force } => {
                AdminRequest::Detach { volume: number(volume), force, diskless: false }
            }
            Step::Down => AdminRequest::Down,
            Step::HandOver | Step::TakeBack | Step::Adopt => return self.hand_over_request(node, step),
            Step::StopApplication | Step::CreateMetadata => return None,
        })
    }

    fn attach_request(&mut self, node: usize, volume: usize, recovery: bool) -> Option<AttachRequest> {
        self.nodes[node].wants_attached[volume] = true;
        if !recovery && self.is_disk_open(node, volume) {
            self.note(
                Some(node),
                "apply-al",
                format_args!("volume {volume}: refused, the daemon has it open"),
            );
            return None;
        }
        self.ledgers[volume].forget_due(node);
        let healed = self.healed_at.is_some();
        let disks = &mut self.nodes[node].volumes[volume];
        if !recovery {
            let image = disks.image.clone();
            // Until then somebody attaches by hand, and the engine has to do with metadata where it was.
            let moved = if healed { image.check_resize(disks.meta_disk()) } else { Ok(()) };
            match moved.and_then(|()| image.apply_log(disks.meta_disk())) {
                Ok(0) => {}
                Ok(extents) => {
                    self.note(Some(node), "apply-al", format_args!("volume {volume}: {extents} extents"));
                }
                Err(error) => {
                    self.fail("metadata", format!("apply-al on n{node}, volume {volume}: {error}"));
                    return None;
                }
            }
        }
        let disks = &self.nodes[node].volumes[volume];
        let metadata = match disks.image.load(disks.meta_area()) {
            Ok(loaded) => Box::new(loaded),
            Err(error) => {
                self.fail("metadata", format!("attach on n{node}, volume {volume}: {error}"));
                return None;
            }
        };
        let place = disks.image.place(disks.meta_area()).expect("it was loaded");
        Some(AttachRequest {
            volume: VolumeNumber(volume as u16),
            backing_dev: format!("/dev/sim{volume}"),
            disk: DiskLimits {
                capacity: place.capacity,
                max_bio_bytes: 1 << 20,
                logical_block_size: 512,
                physical_block_size: 512,
                discard_zeroes: true,
                discard_granularity: self.setup.nodes[node].discard_granularity,
                external_metadata: disks.meta.is_some(),
            },
            metadata,
            index: disks.image.index(),
            place,
            options: DiskOptions {
                size_sectors: if self.setup.born_in_sync { 0 } else { self.sizes[volume].0 },
                resync_after: self.setup.resync_after(volume),
                ..self.setup.nodes[node].disk.clone()
            },
            recovery,
        })
    }

    /// The daemon has the disk of a volume open, attached or not: it lets go when the last operation ended. `drbdmeta`
    /// does not get hold of it until then.
    fn is_disk_open(&self, node: usize, volume: usize) -> bool {
        let attached = self.claims(node, volume).is_some_and(|c| c.disk != DiskState::Diskless);
        let jobs = self.nodes[node].daemon.iter().flat_map(|d| d.jobs.values());
        attached || jobs.into_iter().any(|job| job.volume == volume)
    }

    /// The metadata of every volume of a node is made anew, if it is not attached.
    fn create_metadata(&mut self, node: usize) {
        for volume in 0..self.sizes.len() {
            if self.is_disk_open(node, volume) {
                continue;
            }
            self.note(Some(node), "create-md", format_args!("volume {volume}"));
            let fresh = self.nodes[node].volumes[volume].image.create(&self.setup, node, None);
            self.nodes[node].volumes[volume].meta_disk().rewrite_meta(|area| area.copy_from_slice(&fresh));
            self.ledgers[volume].discard(node);
            self.side_given_up(node);
        }
    }

    /// An engine answers the operator.
    pub(crate) fn replied(&mut self, node: usize, ticket: Ticket, result: &Result<Box<Done>, Box<Refusal>>) {
        match result {
            Ok(_) => self.note(Some(node), "reply", format_args!("{ticket} done")),
            Err(refusal) => self.note(Some(node), "reply", format_args!("{ticket} refused: {refusal}")),
        }
        if self.daemon(node).aside.remove(&ticket.0) {
            self.answered_beside(result.is_err());
            return;
        }
        let Some((waiting, step)) = self.daemon(node).waiting else {
            self.fail("contract", format!("n{node} answers request {ticket}, which nobody asked"));
            return;
        };
        if waiting != ticket.0 {
            self.fail("contract", format!("n{node} answers request {ticket}, awaited is {waiting}"));
            return;
        }
        self.daemon(node).waiting = None;
        let run = self.nodes[node].run;
        // What follows, follows when the engine has finished this event.
        self.clock.after(0, Happening::Operator { node, run });
        if step == Step::ResumePrimary {
            if result.is_ok() {
                self.promotion_answered(node);
            }
            return self.resumption_answered(node, result.as_ref().err().map(|refusal| &**refusal));
        }
        self.hand_over_answered(node, step, result.as_ref().err().map(|refusal| &**refusal));
        if result.is_err() {
            return;
        }
        match step {
            Step::Attach { volume, .. } => {
                self.nodes[node].died_primary = false;
                self.took_own_disk(node, volume);
            }
            Step::Primary { .. } => self.promotion_answered(node),
            Step::Down => self.clock.after(0, Happening::Ended { node, run }),
            _ => {}
        }
    }

    /// A node was told to become Primary and is not yet.
    pub(crate) fn is_promoting(&self, node: usize) -> bool {
        let Some(daemon) = &self.nodes[node].daemon else { return false };
        daemon.is_promoting() && daemon.resource.may_open(VolumeNumber(0)).is_err()
    }

    fn promotion_begins(&mut self, node: usize) {
        self.nodes[node].became_primary = false;
        self.nodes[node].was_good = vec![true; self.sizes.len()];
        self.nodes[node].was_torn = vec![false; self.sizes.len()];
        self.promotion_goes_on(node);
    }

    /// A node is to become Primary, and waits. By force it may use a disk that a handshake makes the target of a resync
    /// meanwhile.
    pub(crate) fn promotion_goes_on(&mut self, node: usize) {
        let good = |c: Claims| matches!(c.disk, DiskState::UpToDate | DiskState::Consistent);
        for volume in 0..self.sizes.len() {
            let claims = self.claims(node, volume);
            self.nodes[node].was_good[volume] &= claims.is_some_and(good);
            self.nodes[node].was_torn[volume] = claims.is_some_and(|c| c.disk == DiskState::Inconsistent);
        }
    }

    /// A node became Primary: its data is the data now.
    pub(crate) fn promoted(&mut self, node: usize) {
        self.nodes[node].became_primary = true;
        for volume in 0..self.sizes.len() {
            if !self.has_volume(node, volume) {
                continue;
            }
            let nodes = &self.nodes;
            let look = |n: usize, sector: u64| nodes[n].volumes[volume].data.current()[sector as usize];
            let claims = self.claims(node, volume);
            let apart = self.writes_apart(node, volume);
            let has_data = claims.is_some_and(|c| c.disk.has_data());
            // The handshake it waited for may have made it a target meanwhile.
            let target = claims.is_some_and(|c| c.replication.is_target());
            let good = self.nodes[node].was_good.get(volume) == Some(&true) && !target;
            let replica = good && claims.is_some_and(|c| c.replication == ReplicationState::Off);
            // Diskless, it serves the peer's data.
            let serves = if has_data { node } else { 1 - node };
            if has_data && self.nodes[node].was_torn.get(volume) == Some(&true) {
                self.ledgers[volume].forced(node, &look);
            }
            let verdict = self.ledgers[volume].promoted(serves, replica, apart, &look);
            self.judge("durability", verdict);
            self.nodes[node].promoted_on[volume] = good.then_some(serves);
        }
    }

    /// A disk is attached again. If its node is Primary and alone, what it shows from here on is that disk's data.
    fn took_own_disk(&mut self, node: usize, volume: usize) {
        let alone = |c: Claims| c.primary && c.disk.has_data() && c.replication == ReplicationState::Off;
        if self.claims(node, volume).is_some_and(alone) {
            let nodes = &self.nodes;
            let look = |n: usize, sector: u64| nodes[n].volumes[volume].data.current()[sector as usize];
            self.ledgers[volume].took_own_disk(node, &look);
        }
    }

    /// A promotion was answered: from here on somebody may rely on it.
    fn promotion_answered(&mut self, node: usize) {
        self.promoted_over(node);
        for volume in 0..self.sizes.len() {
            let serves = self.nodes[node].promoted_on[volume].take();
            // Its disk may have failed before it was answered: nobody has seen any of it.
            let serves =
                serves.filter(|&n| n != node || self.claims(n, volume).is_some_and(|c| c.disk.has_data()));
            if let Some(serves) = serves {
                self.ledgers[volume].promotion_answered(serves);
            }
        }
    }

    // ---- looking after everything ----

    /// The operator looks what there is to do.
    pub(crate) fn tend(&mut self) {
        for node in 0..self.nodes.len() {
            self.tend_node(node);
            if self.failure.is_some() {
                return;
            }
        }
        self.watch();
        self.end_by_hand();
        self.tend_rot();
        if let Some(healed_at) = self.healed_at {
            if self.is_sought() {
                // It takes its time.
            } else if self.is_together() && self.is_quiet() {
                self.together();
            } else if self.clock.now() > healed_at + FIND_TOGETHER {
                if self.is_together_but_for_marks() && self.is_quiet() {
                    self.together();
                    return;
                }
                let state = self.describe_claims();
                let waiting: Vec<_> = self
                    .nodes
                    .iter()
                    .map(|n| n.daemon.as_ref().map(|d| (d.waiting, d.asked.len())))
                    .collect();
                self.fail(
                    "liveness",
                    format!(
                        "the nodes did not find together in {} s: {state}, waiting {waiting:?}",
                        FIND_TOGETHER / SECOND
                    ),
                );
            }
        }
        let pause = self.dice.operator.between(300 * MS, 1200 * MS);
        self.clock.after(pause, Happening::Tend);
    }

    fn tend_node(&mut self, node: usize) {
        let Some(daemon) = &self.nodes[node].daemon else {
            if self.healed_at.is_some() && !self.nodes[node].starting {
                self.nodes[node].starting = true;
                self.clock.after(MS, Happening::Start { node });
            }
            return;
        };
        let busy = daemon.waiting.is_some() || !daemon.script.is_empty();
        self.tend_suspension(node);
        self.tend_held_resyncs(node);
        self.tend_waiting_resumption(node);
        if busy {
            self.advance(node);
            return;
        }
        let Some(claims) = self.claims(node, 0) else { return };
        self.tend_disks(node);
        self.tend_connection(node, claims.connection);
        self.tend_failed_resync(node);
        self.tend_role(node, claims.primary);
        self.advance(node);
    }

    fn tend_disks(&mut self, node: usize) {
        let mut diskless = false;
        for volume in 0..self.sizes.len() {
            if self.claims(node, volume).is_none_or(|c| c.disk != DiskState::Diskless) {
                continue;
            }
            diskless = true;
            let wanted = self.nodes[node].wants_attached[volume] && self.dice.operator.chance(300);
            if wanted || self.healed_at.is_some() {
                self.daemon(node).script.push_back(Step::Attach { volume, recovery: false });
            }
        }
        self.nodes[node].attaches_tried = if diskless { self.nodes[node].attaches_tried + 1 } else { 0 };
        if self.healed_at.is_some() && self.nodes[node].attaches_tried > 8 {
            self.give_up_side(node);
        }
    }

    /// Its disks are refused time and again, for they hold another generation than the peer's: the node begins anew,
    /// and what it had apart is given up.
    fn give_up_side(&mut self, node: usize) {
        self.note(Some(node), "split", format_args!("gives its data up to attach"));
        self.nodes[node].attaches_tried = 0;
        let attaches = (0..self.sizes.len()).map(|volume| Step::Attach { volume, recovery: false });
        let script = &mut self.daemon(node).script;
        script.clear();
        script.extend([
            Step::StopApplication,
            Step::Secondary { force: true },
            Step::Disconnect { force: true },
        ]);
        script.extend(attaches);
        script.push_back(Step::Connect { discard: true });
    }

    /// A resync ended without what the source could not read: the next one begins when the nodes connect again.
    fn tend_failed_resync(&mut self, node: usize) {
        if self.healed_at.is_none() || !self.daemon(node).script.is_empty() {
            return;
        }
        let stays_behind = (0..self.sizes.len()).any(|volume| {
            let old = |c: Claims| {
                c.disk == DiskState::Inconsistent && c.replication == ReplicationState::Established
            };
            let good = |c: Claims| c.disk == DiskState::UpToDate;
            self.claims(node, volume).is_some_and(old) && self.claims(1 - node, volume).is_some_and(good)
        });
        if stays_behind {
            self.note(Some(node), "resync", format_args!("connects again for what could not be copied"));
            let script = &mut self.daemon(node).script;
            script.extend([Step::Disconnect { force: true }, Step::Connect { discard: false }]);
        }
    }

    /// StandAlone although it should not be: a split, or a peer that refused.
    fn tend_connection(&mut self, node: usize, connection: ConnectionState) {
        if connection == ConnectionState::Connected {
            self.nodes[node].connects_tried = 0;
        }
        let wants = self.nodes[node].wants_connected || self.healed_at.is_some();
        if connection != ConnectionState::StandAlone || !wants {
            return;
        }
        self.nodes[node].connects_tried += 1;
        let status = self.daemon(node).resource.status();
        let says = |text: &str| status.connections.iter().any(|c| c.connection.last_error.contains(text));
        let (split, unrelated) = (says("plit-Brain"), says("Unrelated data"));
        if says("incompatible") && self.healed_at.is_some() {
            self.adjust();
        }
        if says("disk size is too small") && self.healed_at.is_some() {
            self.attach_again(1 - node);
        }
        let tried = self.nodes[node].connects_tried;
        let primary = |n: usize| self.claims(n, 0).is_some_and(|c| c.primary);
        if unrelated && self.healed_at.is_some() {
            let lesser = self.lesser();
            if self.nodes[lesser].daemon.as_ref().is_some_and(|d| d.script.is_empty()) {
                self.begin_anew(lesser);
            }
            if self.daemon(node).script.is_empty() {
                self.daemon(node).script.push_back(Step::Connect { discard: false });
            }
        } else if self.healed_at.is_some() && self.must_step_down(node) {
            self.note(Some(node), "split", format_args!("steps down for the peer's newer data"));
            let script = &mut self.daemon(node).script;
            script.extend([Step::StopApplication, Step::Secondary { force: true }]);
            script.push_back(Step::Connect { discard: false });
        } else if tried < 3 {
            self.daemon(node).script.push_back(Step::Connect { discard: false });
        } else if split {
            // The side of the node that is not wanted as Primary is given up.
            self.note(Some(node), "split", format_args!("n{} gives its data up", self.lesser()));
            self.report.splits += 1;
            self.give_way(node, true);
        } else if primary(0) && primary(1) {
            self.note(Some(node), "split", format_args!("n{} gives way", self.lesser()));
            self.give_way(node, false);
        } else if self.healed_at.is_some() && tried > 10 && node == self.lesser() {
            self.begin_anew(node);
        } else {
            self.daemon(node).script.push_back(Step::Connect { discard: false });
        }
    }

    /// The disk of a node grew, and its metadata is still where it ended before: `drbdadm check-resize` moves that, but
    /// not of a disk in use.
    fn attach_again(&mut self, node: usize) {
        let primary = self.claims(node, 0).is_some_and(|c| c.primary);
        let volumes = 0..self.sizes.len();
        let Some(daemon) = self.nodes[node].daemon.as_mut().filter(|d| !primary && d.script.is_empty())
        else {
            return;
        };
        for volume in volumes {
            daemon.script.push_back(Step::Detach { volume, force: false });
            daemon.script.push_back(Step::Attach { volume, recovery: false });
        }
        self.note(Some(node), "size", format_args!("attaches again, with its metadata moved"));
    }

    /// Whose data is given up if it takes that: the side that is not wanted as Primary, unless it alone has good data.
    fn lesser(&self) -> usize {
        let good = |n: usize| (0..self.sizes.len()).all(|volume| self.has_good_disk(n, volume));
        let other = 1 - self.wanted;
        if good(other) && !good(self.wanted) {
            self.wanted
        } else {
            other
        }
    }

    fn has_good_disk(&self, node: usize, volume: usize) -> bool {
        // With fencing a good disk is called Consistent until the two have met.
        let good = |c: Claims| matches!(c.disk, DiskState::UpToDate | DiskState::Consistent);
        self.claims(node, volume).is_some_and(good)
    }

    /// The lesser of two nodes that do not go together becomes Secondary and connects anew.
    fn give_way(&mut self, node: usize, discard: bool) {
        let lesser = self.lesser();
        for n in 0..2 {
            let Some(daemon) = &mut self.nodes[n].daemon else { continue };
            if n == lesser {
                daemon.script.extend([Step::StopApplication, Step::Secondary { force: false }]);
                daemon.script.extend([Step::Disconnect { force: true }, Step::Connect { discard }]);
            } else if n == node {
                daemon.script.push_back(Step::Connect { discard: false });
            }
            self.nodes[n].connects_tried = 0;
        }
        self.advance(1 - node);
    }

    /// Two nodes do not meet: both become Secondary, so that no role is in the way of the policies, and where those do not
    /// decide the lesser gives its data up.
    pub(crate) fn give_way_by_hand(&mut self) {
        self.report.splits += 1;
        let lesser = self.lesser();
        for n in 0..2 {
            let Some(daemon) = &mut self.nodes[n].daemon else { continue };
            daemon.script.extend([Step::StopApplication, Step::Secondary { force: false }]);
            daemon.script.extend([Step::Disconnect { force: true }, Step::Connect { discard: n == lesser }]);
            self.nodes[n].connects_tried = 0;
            self.advance(n);
        }
    }

    /// The nodes cannot tell whose data is newer, as old dialects sometimes cannot: this one gets new metadata, and the
    /// other one for what this one has the better data of.
    fn begin_anew(&mut self, node: usize) {
        self.nodes[node].connects_tried = 0;
        let better_here = |volume: &usize| self.worth(node, *volume) > self.worth(1 - node, *volume);
        let (others, own): (Vec<usize>, Vec<usize>) = (0..self.sizes.len()).partition(better_here);
        self.begin_volumes_anew(node, &own);
        self.begin_volumes_anew(1 - node, &others);
    }

    /// Good data before old, old before what is torn.
    fn worth(&self, node: usize, volume: usize) -> (bool, bool) {
        let torn = |c: Claims| c.disk == DiskState::Inconsistent;
        (self.has_good_disk(node, volume), !self.claims(node, volume).is_some_and(torn))
    }

    fn begin_volumes_anew(&mut self, node: usize, volumes: &[usize]) {
        if volumes.is_empty() || self.nodes[node].daemon.is_none() {
            return;
        }
        self.note(Some(node), "split", format_args!("begins anew"));
        let script = &mut self.daemon(node).script;
        script.clear();
        script.extend([
            Step::StopApplication,
            Step::Secondary { force: true },
            Step::Disconnect { force: true },
        ]);
        script.extend(volumes.iter().map(|&volume| Step::Detach { volume, force: true }));
        script.push_back(Step::CreateMetadata);
        script.extend(volumes.iter().map(|&volume| Step::Attach { volume, recovery: false }));
        script.push_back(Step::Connect { discard: false });
    }

    fn tend_role(&mut self, node: usize, primary: bool) {
        let wanted = node == self.wanted || self.wants_both();
        if primary && wanted && self.healed_at.is_none() {
            let daemon = self.daemon(node);
            let stopping = daemon.script.contains(&Step::StopApplication);
            if !stopping {
                daemon.closing = false;
                self.start_application(node);
            }
        } else if primary
            && self.daemon(node).open
            && self.healed_at.is_none()
            && self.dice.operator.chance(300)
        {
            // Promoted apart: it goes on until it is told to give way.
            let both = self.claims(1 - node, 0).is_some_and(|c| c.primary);
            if !both {
                self.daemon(node).script.extend([Step::StopApplication, Step::Secondary { force: false }]);
            }
        } else if !primary && node == self.wanted {
            let others = self.claims(1 - node, 0);
            let good = (0..self.sizes.len()).all(|volume| {
                (0..2).any(|n| self.claims(n, volume).is_some_and(|c| c.disk == DiskState::UpToDate))
            });
            // Once healed, force is for data that no node calls good any more.
            let force = if self.healed_at.is_some() {
                let late = self.healed_at.is_some_and(|at| self.clock.now() > at + 60 * SECOND);
                if good || others.is_none() || !late {
                    return;
                }
                true
            } else {
                self.may_force
            };
            self.daemon(node).script.push_back(Step::Primary { force });
        } else if !primary {
            self.tend_second(node);
        }
    }

    /// Everything is over: from here on nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        self.note(None, "heal", format_args!(""));
        self.healed_at = Some(self.clock.now());
        self.network.heal();
        self.changes_are_over();
        self.adjust();
        for node in 0..self.nodes.len() {
            self.nodes[node].refuses_until = 0;
            for volume in &mut self.nodes[node].volumes {
                for meta in [false, true] {
                    let disk = volume.disk(meta);
                    disk.errors_per_mille = 0;
                    disk.stalled_until = 0;
                    disk.full_until = 0;
                    disk.meta_full_until = 0;
                }
            }
        }
    }

    /// The nodes found together. Once or twice more they lose their power at rest and must find together again.
    fn together(&mut self) {
        self.note(None, "together", format_args!(""));
        self.converged();
        if self.failure.is_some() {
            return;
        }
        if self.rots() {
            return;
        }
        if self.encores == 0 && self.dice.operator.chance(300) {
            self.encores += 1;
            self.healed_at = Some(self.clock.now());
            for node in 0..2 {
                self.lose_power(node);
            }
            return;
        }
        self.done = true;
    }
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, node as u8 + 1), 7788))
}
