//! Which size a device is to have, and who may ask for another one when.

use super::{Plan, ResizeWish};
use crate::engine::command::{Command, Level};
use crate::engine::device::Backing;
use crate::engine::device_size::{device_size, smaller_known, SizeInput};
use crate::engine::event::DeviceBytes;
use crate::engine::resource::Resource;
use crate::engine::session::Fault;
use crate::ids::{Sector, VolumeNumber};
use crate::metadata::Relayout;
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::Sizes;

/// Two sizes that differ by more than this part of the smaller one deserve a warning.
const CONSIDERABLE: u64 = 10;

impl Resource {
    /// The disk of a volume, once it may be told of.
    pub(in crate::engine) fn attached_disk(&self, d: usize) -> Option<&Backing> {
        let device = &self.devices[d];
        device.backing.as_deref().filter(|_| device.disk.rank() >= DiskState::Negotiating.rank())
    }

    /// The checks of 8.4, in its order.
    pub(super) fn may_resize(&self, volume: VolumeNumber, wish: &ResizeWish) -> Result<usize, Refusal> {
        let Some(d) = self.device_index(volume) else { return Err(Reason::MinorInvalid.into()) };
        if self.attached_disk(d).is_none() {
            return Err(Reason::NoDisk.into());
        }
        let now = self.snapshot(Some(d));
        let resting = matches!(now.replication, ReplicationState::Off | ReplicationState::Established);
        if !resting {
            return Err(Reason::ResizeResync.into());
        }
        if now.role == Role::Secondary && now.peer_role == Role::Secondary {
            return Err(Reason::NoPrimary.into());
        }
        let session = self.connection.as_deref().and_then(|c| c.session());
        if wish.assume_clean && now.is_replicating() && session.is_some_and(|s| s.version < 93) {
            return Err(Reason::NeedProtocol93.into());
        }
        let shaking_hands = now.connection == ConnectionState::Connected && !now.is_replicating();
        if shaking_hands || self.devices[d].resize.is_some() || !self.devices[d].disk.has_data() {
            let info =
                "another change of its size, or the first contact with the peer, is under way: try again";
            return Err(Refusal::because(Reason::InTransientState, info));
        }
        Ok(d)
    }

    /// The plan after the devices were measured.
    pub(super) fn plan_measured(&self, d: usize, bytes: Option<DeviceBytes>) -> Result<Plan, Refusal> {
        let (Some(backing), Some(resize)) = (self.attached_disk(d), self.devices[d].resize.as_deref()) else {
            return Err(Reason::NoDisk.into());
        };
        let Some(bytes) = bytes else {
            let info = format!("{} does not say how large it is", backing.name);
            return Err(Refusal::because(Reason::OpenDisk, info));
        };
        let layout = Relayout::of(&backing.super_block, backing.index, bytes.metadata, bytes.data)
            .map_err(|e| Refusal::because(Reason::DiskTooSmall, format!("{}: {e}", backing.name)))?;
        if layout.place.super_block_offset_bytes < backing.place.super_block_offset_bytes {
            let info = format!(
                "{} has become smaller, and its metadata was at the end: detach it, and make new metadata",
                backing.name
            );
            return Err(Refusal::because(Reason::DiskTooSmall, info));
        }
        let asked = resize.wish.size;
        if layout.place.capacity < self.devices[d].size && (asked == 0 || asked > layout.place.capacity.0) {
            let info = format!(
                "{} has room for {} sectors now, the device has {}: make it larger again, or shrink the device with --size",
                backing.name, layout.place.capacity, self.devices[d].size
            );
            return Err(Refusal::because(Reason::ImplicitShrink, info));
        }
        let plan = self.plan_with_peer(d, asked, resize.wish.assume_clean, Some(layout))?;
        let peer_uses_it = self.connection.as_ref().is_some_and(|c| c.peer_role == Role::Primary);
        if peer_uses_it && self.would_cut_data(d, &plan) {
            let info = "the peer uses the device and has no disk of its own: it would lose what is cut off";
            return Err(Refusal::because(Reason::ImplicitShrink, info));
        }
        Ok(plan)
    }

    /// The plan with what the peer told last.
    pub(super) fn plan_with_peer(
        &self,
        d: usize,
        asked: u64,
        assume_clean: bool,
        layout: Option<Relayout>,
    ) -> Result<Plan, Refusal> {
        let Some(backing) = self.attached_disk(d) else { return Err(Reason::NoDisk.into()) };
        let peer = self.connection.as_ref().and_then(|c| c.peer_devices[d].sizes);
        let forced = self.devices[d].resize.as_deref().is_some_and(|r| r.wish.assume_peer_has_space);
        let own_max = layout.map_or(backing.limits.capacity, |l| l.place.capacity).0;
        let agreed = device_size(&SizeInput {
            own_max,
            peer_max: peer.map_or(0, |sizes| sizes.disk),
            last_agreed: backing.super_block.effective_size,
            asked,
            assume_peer_has_space: forced,
            connected: self.is_replicating(d),
        });
        if agreed.sectors == 0 {
            return Err(Reason::DiskTooSmall.into());
        }
        Ok(self.plan(d, agreed.sectors, asked, assume_clean, layout))
    }

    fn plan(&self, d: usize, size: u64, asked: u64, assume_clean: bool, layout: Option<Relayout>) -> Plan {
        let moves = match (self.attached_disk(d), layout) {
            (Some(backing), Some(layout)) => layout.moves_from(&backing.place),
            (Some(_) | None, _) => false,
        };
        let size = Sector(size);
        Plan { size, asked, layout, drains: moves || size < self.devices[d].size, assume_clean }
    }

    /// The plan when two nodes meet: what both disks hold, which a node whose data is of use does not shrink for.
    pub(super) fn plan_in_handshake(&self, d: usize, sizes: &Sizes) -> Result<Plan, Fault> {
        let backing = self.attached_disk(d).expect("looked at by the caller");
        let asked = smaller_known(backing.options.size_sectors, sizes.user);
        let agreed = device_size(&SizeInput {
            own_max: backing.limits.capacity.0,
            peer_max: sizes.disk,
            last_agreed: backing.super_block.effective_size,
            asked,
            assume_peer_has_space: false,
            connected: true,
        });
        let size = self.devices[d].size.0;
        if agreed.sectors < size && self.devices[d].disk.rank() >= DiskState::Outdated.rank() {
            return Err(Fault::Fatal(format!(
                "The peer's disk size is too small! ({} < {size} sectors; demote me first!)",
                agreed.sectors
            )));
        }
        // Nobody uses what is cut off: nothing has to end before.
        Ok(Plan { drains: false, ..self.plan(d, agreed.sectors, asked, false, None) })
    }

    /// Whether there is anything to write.
    pub(super) fn changes_anything(&self, d: usize, plan: &Plan) -> bool {
        let Some(backing) = self.attached_disk(d) else { return false };
        let place = plan.layout.map_or(backing.place, |layout| layout.place);
        plan.size != self.devices[d].size
            || plan.size.0 != backing.super_block.effective_size
            || place != backing.place
    }

    /// The peer takes a smaller disk than the data of this node needs.
    pub(super) fn would_cut_data(&self, d: usize, plan: &Plan) -> bool {
        let useful = self.devices[d].disk.rank() >= DiskState::Outdated.rank();
        plan.size < self.devices[d].size && useful && !self.peer_disk(d).has_data()
    }

    pub(super) fn why_not_larger(&self, d: usize, size: Sector) -> String {
        let own = self.attached_disk(d).map_or(0, |b| b.limits.capacity.0);
        let peer = self.connection.as_ref().and_then(|c| c.peer_devices[d].sizes).map_or(0, |s| s.disk);
        if own <= size.0 {
            return format!("this node's disk holds no more than the {size} sectors the device has");
        }
        match peer {
            0 => format!(
                "the device keeps its {size} sectors: what the peer's disk holds is not known (--assume-peer-has-space)"
            ),
            peer => format!("the peer's disk holds {peer} sectors, this node's {own}: the device has {size}"),
        }
    }

    // ---- what the peer's disk is like ----------------------------------------------------------------------------

    pub(super) fn warn_of_different_disks(&mut self, d: usize, sizes: &Sizes, out: &mut Vec<Command>) {
        let Some(backing) = self.attached_disk(d) else { return };
        let pairs = [
            ("lower level device sizes", sizes.disk, backing.limits.capacity.0),
            ("user requested size", sizes.user, backing.options.size_sectors),
        ];
        for (what, theirs, ours) in pairs {
            let smaller = theirs.min(ours);
            if smaller > 0 && theirs.abs_diff(ours) > smaller / CONSIDERABLE {
                let text = format!("Considerable difference in {what}: {theirs}s vs. {ours}s");
                self.log("sizes-differ", Level::Warning, self.peer_device_subject(d), text, out);
            }
        }
    }

    /// A disk takes nothing smaller than its block; what is smaller it has to read, change and write.
    pub(super) fn look_at_peers_blocks(&mut self, d: usize, sizes: &Sizes, out: &mut Vec<Command>) {
        let ours = self.attached_disk(d).map_or(512, |b| b.limits.logical_block_size);
        let theirs = sizes.limits.map_or(0, |limits| limits.logical_block_size);
        if theirs > ours && !self.is_replicating(d) {
            let text = format!(
                "The peer's disk has logical blocks of {theirs} bytes, this one's have {ours}: smaller requests are slow"
            );
            self.log("block-size", Level::Warning, self.peer_device_subject(d), text, out);
        }
    }

    pub(super) fn diskless_size(
        &mut self,
        d: usize,
        sizes: &Sizes,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let own = self.devices[d].size.0;
        if sizes.current == 0 && own != 0 {
            // It asks; the size of its device comes when it has one.
            return Ok(());
        }
        let known = [sizes.current, sizes.user, sizes.disk].into_iter().find(|&s| s != 0);
        let Some(size) = known else { return Ok(()) };
        if size == own || (sizes.disk == 0 && own != 0) {
            return Ok(());
        }
        if size < own && self.role == Role::Primary {
            return Err(Fault::Fatal("The peer's device is smaller than the one in use here".to_owned()));
        }
        if self.may_be_refused(d) {
            return Ok(());
        }
        let (volume, writable, size) = (self.devices[d].volume, self.role == Role::Primary, Sector(size));
        self.devices[d].size = size;
        let text = format!("size = {} KB", size.0 / 2);
        self.log("size", Level::Info, self.device_subject(d), text, out);
        out.push(Command::Device { volume, size, writable });
        self.notify_changes(out);
        Ok(())
    }

    /// Users of this Primary see data that the peer may turn out not to have: then its size is none of theirs.
    fn may_be_refused(&self, d: usize) -> bool {
        self.role == Role::Primary && self.devices[d].exposed_uuid != 0 && !self.is_replicating(d)
    }

    /// The peer has been accepted: a device without disk has its size.
    pub(in crate::engine) fn diskless_size_of_accepted(
        &mut self,
        d: usize,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let sizes = self.connection.as_deref().and_then(|c| c.peer_devices[d].sizes);
        match sizes.filter(|_| self.attached_disk(d).is_none()) {
            Some(sizes) => self.diskless_size(d, &sizes, out),
            None => Ok(()),
        }
    }
}
