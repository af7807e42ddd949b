//! Asks the checkers that look at the whole world.

use super::checkers::bitmap_covers::{self, Cover};
use super::checkers::{convergence, generation, Claims};
use super::clock::SECOND;
use super::cluster::Cluster;
use super::disk::Tag;
use super::faults::Kind;
use drbd_core::ids::VolumeNumber;
use drbd_core::metadata::{device_flag, peer_flag, Format, UUID_JUST_CREATED};
use drbd_core::states::{ConnectionState, DiskState, ReplicationState, Role};
use drbd_core::wire;

impl Cluster {
    /// What a node's engine says of a volume; `None` while it has no such volume, or no peer.
    pub(crate) fn claims(&self, node: usize, volume: usize) -> Option<Claims> {
        let status = self.nodes[node].daemon.as_ref()?.resource.status();
        let volume = VolumeNumber(volume as u16);
        let device = status.devices.iter().find(|d| d.volume == volume)?;
        let mut claims = Claims {
            primary: status.resource.role == Role::Primary,
            disk: device.disk,
            connection: ConnectionState::StandAlone,
            replication: ReplicationState::Off,
            peer_disk: DiskState::DUnknown,
        };
        if let Some(connection) = status.connections.first() {
            claims.connection = connection.connection.connection;
            if let Some(peer_device) = connection.peer_devices.iter().find(|p| p.volume == volume) {
                claims.replication = peer_device.replication;
                claims.peer_disk = peer_device.peer_disk;
            }
        }
        Some(claims)
    }

    /// What both nodes claim of every volume, with the bits they have set.
    pub(crate) fn describe_claims(&self) -> String {
        let one = |node: usize, volume: usize| {
            let role = |primary: bool| if primary { "Primary" } else { "Secondary" };
            let Some(c) = self.claims(node, volume) else { return format!("n{node}/{volume} down") };
            let number = VolumeNumber(volume as u16);
            let words = self.nodes[node].daemon.as_ref().and_then(|d| d.resource.out_of_sync_words(number));
            let bits: u32 = words.unwrap_or_default().iter().map(|w| w.count_ones()).sum();
            let (role, disk, peer_disk) = (role(c.primary), c.disk, c.peer_disk);
            format!(
                "n{node}/{volume} {role} {disk}/{peer_disk} {} {} {bits} bits",
                c.connection, c.replication
            )
        };
        let all = (0..self.sizes.len()).flat_map(|v| [one(0, v), one(1, v)]);
        all.collect::<Vec<_>>().join(", ")
    }

    /// What is on the disk of a node.
    pub(crate) fn data(&self, node: usize, volume: usize) -> &[Tag] {
        self.nodes[node].volumes[volume].data.current()
    }

    /// Everything that must hold at any time.
    pub(crate) fn watch(&mut self) {
        if self.is_rotten() {
            return;
        }
        self.check_holds();
        self.look_at_sizes();
        for volume in 0..self.sizes.len() {
            let claims = [self.claims(0, volume), self.claims(1, volume)];
            if !self.setup.net.two_primaries {
                self.judge("generation", generation::single_primary(&claims));
            }
            if self.failure.is_some() {
                return;
            }
            let covers = [self.cover(0, volume, claims[0]), self.cover(1, volume, claims[1])];
            let [Ok(a), Ok(b)] = covers else {
                for cover in covers {
                    self.judge("metadata", cover.map(|_| ()));
                }
                return;
            };
            let sectors = self.sizes[volume].0 as usize;
            let verdict = bitmap_covers::check(self.data(0, volume), self.data(1, volume), sectors, &[a, b]);
            self.judge("bitmap_covers", verdict);
            if !claims.iter().all(|c| c.as_ref().is_some_and(generation::claims_same)) {
                continue;
            }
            self.ledgers[volume].in_sync();
            // What the operator wanted is done; the next split is another one.
            self.nodes.iter_mut().for_each(|node| node.discards = false);
            if self.is_quiet() {
                let verdict = generation::same(self.data(0, volume), self.data(1, volume), sectors);
                self.judge("generation", verdict);
            }
        }
    }

    /// What a node knows of its differences: its engine's memory while the disk is attached, else its metadata.
    fn cover(&self, node: usize, volume: usize, claims: Option<Claims>) -> Result<Cover, String> {
        let disks = &self.nodes[node].volumes[volume];
        let peer = 1 - node;
        let loaded = disks.image.load(disks.meta_area()).map_err(|e| format!("metadata of n{node}: {e}"))?;
        let super_block = &loaded.super_block;
        let record = match super_block.format {
            Format::V08 => super_block.peers[0],
            Format::V09 => super_block.peers[peer],
        };
        let full = record.flags & peer_flag::FULL_SYNC != 0;
        let everything = full || super_block.current_uuid & !1 == UUID_JUST_CREATED;
        if loaded.log_unreadable {
            return Err(format!("the activity log of n{node}, volume {volume}, cannot be read back"));
        }
        let attached = claims.is_some_and(|c| c.disk.has_data());
        if let (Some(daemon), true) = (&self.nodes[node].daemon, attached) {
            let number = VolumeNumber(volume as u16);
            let bits = daemon.resource.out_of_sync_words(number).unwrap_or_default().to_vec();
            let extents = daemon.resource.hot_extents(number);
            // Whoever meets the peer, or has not answered who asked for it, may be about to keep it.
            let resting = daemon.aside.is_empty() && !daemon.jobs.values().any(|job| job.volume == volume);
            // Or wait for space, which it looks for every three seconds.
            let space_since = disks.meta_full_until().max(self.healed_at.unwrap_or(0));
            let resting = resting && self.clock.now() > space_since + 4 * SECOND;
            let alone = |c: Claims| c.replication == ReplicationState::Off && c.disk == DiskState::Outdated;
            let good = super_block.flags & device_flag::WAS_UP_TO_DATE != 0;
            if resting && good && claims.is_some_and(alone) {
                return Err(format!(
                    "n{node} shows volume {volume} as Outdated, and its metadata does not say so"
                ));
            }
            return Ok(Cover { bits, extents, everything });
        }
        let slot = usize::try_from(record.bitmap_index).ok();
        let bits = slot.and_then(|slot| loaded.bitmaps.get(slot)).cloned().unwrap_or_default();
        Ok(Cover { bits, extents: loaded.hot_extents, everything })
    }

    /// What one node asks the other, and its answer.
    pub(crate) fn note_agreement(&mut self, node: usize, packet: &wire::Packet) {
        match packet {
            wire::Packet::StateChangeRequest { .. } | wire::Packet::ConnStateChangeRequest { .. } => {
                self.agreement.asks(node);
            }
            wire::Packet::StateChangeReply(code) | wire::Packet::ConnStateChangeReply(code) => {
                let verdict = self.agreement.answers(node, *code >= 1);
                self.judge("agreement", verdict);
            }
            _ => {}
        }
    }

    /// Nothing is under way: no request, no disk operation, no packet, no write the peer has not made stable.
    pub(crate) fn is_quiet(&self) -> bool {
        let nodes = self.nodes.iter().all(|node| {
            let idle = node.daemon.as_ref().is_none_or(|d| d.asked.is_empty() && d.jobs.is_empty());
            let volumes = 0..self.sizes.len() as u16;
            let resource = node.daemon.as_ref().map(|d| &d.resource);
            let parked = resource.is_some_and(|resource| {
                volumes.into_iter().any(|v| !resource.unstable_writes(VolumeNumber(v)).is_empty())
            });
            let input = node.daemon.iter().flat_map(|d| d.sockets.values()).all(|s| s.input.is_empty());
            idle && input && !parked
        });
        nodes && self.network.connections.iter().flat_map(|c| &c.flows).all(|f| f.queued == 0)
    }

    /// Both nodes say that everything is in sync, on every volume, and no bit is set.
    pub(crate) fn is_together(&self) -> bool {
        self.says_in_sync(|words| words.iter().all(|word| *word == 0))
    }

    /// As [`Cluster::is_together`], but blocks are marked that may be equal: a disk that is given up right after a resync
    /// keeps the marks the resync cleared only in memory. Nothing but the next resync takes them away, in 8.4 too.
    pub(crate) fn is_together_but_for_marks(&self) -> bool {
        let given_up = [Kind::Detach, Kind::DiskErrors, Kind::MetaErrors];
        let given_up = given_up.iter().any(|kind| self.report.faults[*kind as usize] > 0);
        (given_up || self.has_trouble()) && self.says_in_sync(|_| true)
    }

    fn says_in_sync(&self, marks: impl Fn(&[u64]) -> bool) -> bool {
        (0..self.sizes.len()).all(|volume| {
            (0..2).all(|node| {
                let same = self.claims(node, volume).as_ref().is_some_and(generation::claims_same);
                same && self.nodes[node].daemon.as_ref().is_some_and(|daemon| {
                    let number = VolumeNumber(volume as u16);
                    let bits = daemon.resource.out_of_sync_words(number).unwrap_or_default();
                    marks(bits) && daemon.asked.is_empty()
                })
            })
        })
    }

    /// Both are in sync and quiet: they must be equal, and hold everything acknowledged.
    pub(crate) fn converged(&mut self) {
        for volume in 0..self.sizes.len() {
            let sectors = self.sizes[volume].0 as usize;
            let verdict = convergence::equal(self.data(0, volume), self.data(1, volume), sectors);
            self.judge("convergence", verdict);
            let nodes = &self.nodes;
            let look = |n: usize, sector: u64| nodes[n].volumes[volume].data.current()[sector as usize];
            let verdict = self.ledgers[volume].converged(&look);
            self.judge("durability", verdict);
        }
        for node in 0..2 {
            let left = self.nodes[node].daemon.as_ref().map_or(0, |d| d.payloads.in_use());
            if left > 0 {
                self.fail("contract", format!("n{node} keeps {left} payloads although nothing is under way"));
            }
        }
    }
}
