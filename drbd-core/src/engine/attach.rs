//! Taking a disk and letting it go: attach, detach, and the disk that fails.

use super::activity_log::ActivityLog;
use super::bitmap::Bitmap;
use super::command::{Command, Level};
use super::device::Backing;
use super::device_size::{device_size, SizeInput};
use super::event::AttachRequest;
use super::generation::ROLE_BIT;
use super::meta_jobs::{Blocks, Job, MetaJobs, Then};
use super::planted::Bug;
use super::resource::Resource;
use super::state::Mode;
use super::state_change::found_at_attach;
use super::write_path::request::Request;
use crate::control::Done;
use crate::ids::{Sector, Ticket};
use crate::metadata::{apply_log, device_flag, peer_flag, Format, Loaded, SuperBlock, UUID_JUST_CREATED};
use crate::refusal::{Reason, Refusal};
use crate::states::{DiskState, Role};

impl Resource {
    /// `attach`: the disk is open and its metadata read.
    pub(super) fn attach(&mut self, ticket: Ticket, request: AttachRequest, out: &mut Vec<Command>) {
        if let Err(refusal) = self.try_attach(ticket, request, out) {
            self.reply(ticket, Err(refusal), out);
        }
    }

    fn try_attach(
        &mut self,
        ticket: Ticket,
        request: AttachRequest,
        out: &mut Vec<Command>,
    ) -> Result<(), Refusal> {
        let Some(d) = self.device_index(request.volume) else { return Err(Reason::MinorInvalid.into()) };
        let device = &self.devices[d];
        if device.disk != DiskState::Diskless || device.backing.is_some() || device.counters.lower_pending > 0
        {
            return Err(Reason::DiskConfigured.into());
        }
        if self.devices[d].options.diskless {
            return Err(Reason::AttachNoBitmap.into());
        }
        self.check_resync_after(d, &request.options)?;
        let volume = request.volume;
        let backing = self.prepare_backing(request)?;
        let first_size = backing.super_block.effective_size == 0;
        let size = self.attach_size(d, &backing)?;
        self.check_generation(d, &backing.super_block)?;
        let crashed_full =
            backing.crashed_primary && backing.super_block.flags & device_flag::AL_DISABLED != 0;
        self.devices[d].backing = Some(Box::new(backing));
        if let Err(reason) = self.change(
            Mode::Soft,
            &|v, s| {
                if v == Some(d) {
                    s.disk = DiskState::Attaching;
                }
            },
            out,
        ) {
            self.devices[d].backing = None;
            return Err(reason.into());
        }
        self.adopt_size(d, size, first_size, crashed_full);
        self.mark_writes_of_diskless_peer(d);
        let writable = self.role == Role::Primary;
        out.push(Command::Device { volume, size, writable });
        let text = format!("size = {} KB", size.0 / 2);
        self.log("size", Level::Info, self.device_subject(d), text, out);
        self.tell_discard_granularity(d, out);
        self.log_generations(d, "attached to UUIDs", out);
        let job = Job {
            resize: None,
            // What was written before it was given up counts as written, and must be as stable as it was said to be.
            flush_data: true,
            blocks: Blocks::Dirty,
            initialise_log: true,
            transaction: false,
            super_block: true,
            then: vec![Then::Attached(ticket)],
        };
        self.meta_job(d, job, out);
        Ok(())
    }

    fn prepare_backing(&self, request: AttachRequest) -> Result<Backing, Refusal> {
        let AttachRequest { backing_dev, disk, metadata, index, place, options, recovery, .. } = request;
        let mut metadata = *metadata;
        let block = &metadata.super_block;
        if block.is_unclean() && !recovery {
            return Err(Reason::MetadataUnclean.into());
        }
        if block.node_id != -1 && block.node_id != i32::from(self.node_id.0) && block.format == Format::V09 {
            let info = format!(
                "the metadata of {backing_dev} belongs to node {}, this is node {}: attach the right disk, or make new metadata with create-md",
                block.node_id, self.node_id
            );
            return Err(Refusal::because(Reason::MetadataInvalid, info));
        }
        let was_primary = block.flags & device_flag::PRIMARY_IND != 0;
        // What a Primary wrote itself is of a generation that says so.
        let served_a_lost_primary = was_primary && block.current_uuid & ROLE_BIT == 0;
        // Unlike in 8.4 a frozen Primary that takes back the very disk it waited for counts as crashed, too: what its log
        // names is marked, and nobody would copy or clear that at equal generations.
        let crashed = block.flags & device_flag::CRASHED_PRIMARY != 0 || was_primary;
        let crashed = crashed && !self.planted(Bug::CrashForgotten);
        // The last log was applied by drbdmeta, or is now: a restarted daemon does not ask an administrator first.
        let replayed = self.replay(&mut metadata, recovery)?;
        let record = self.assign_slot(&mut metadata)?;
        let Loaded { mut super_block, bitmaps, log_initialise_from, .. } = metadata;
        super_block.node_id = i32::from(self.node_id.0);
        if crashed {
            // PRIMARY_IND goes with an orderly detach, also of a disk that was not compared with the peer's before.
            super_block.flags |= device_flag::CRASHED_PRIMARY;
        }
        let found =
            found_at_attach(super_block.flags, super_block.peers[record].flags, self.fencing_policy());
        let size = Sector(super_block.effective_size);
        let mut bitmap = Bitmap::new(bitmaps, size);
        if replayed.0 > 0 {
            bitmap.dirty_all();
        }
        let slots = options.al_extents.min(self.log_slots_max(&super_block)).min(65_534);
        super_block.al_nr_extents = slots;
        Ok(Backing {
            name: backing_dev,
            limits: disk,
            options,
            cannot_flush: false,
            super_block,
            index,
            place,
            old_super_block_bytes: place.super_block_offset_bytes,
            bitmap,
            log: ActivityLog::new(slots),
            log_initialise_from,
            log_suspended: false,
            jobs: MetaJobs::default(),
            at_attach: (found.disk, found.peer_disk),
            crashed_primary: crashed,
            replayed_extents: replayed.0,
            replayed_bits: replayed.1,
            generations_pending: 0,
            logged_for_peer: false,
            peer_may_resend: served_a_lost_primary,
            demotion_unwritten: false,
            old_blocks_known: false,
            outrun: false,
            primary_stable: false,
            primary_on_its_way: false,
        })
    }

    fn replay(&self, metadata: &mut Loaded, recovery: bool) -> Result<(u64, u64), Refusal> {
        if !recovery {
            return Ok((0, 0));
        }
        let applied =
            apply_log(metadata).map_err(|e| Refusal::because(Reason::MetadataUnclean, e.to_string()))?;
        Ok((applied.extents.len() as u64, applied.bits_set))
    }

    /// The log cannot name more extents than its ring describes (7.6 of the wire reference).
    fn log_slots_max(&self, block: &SuperBlock) -> u32 {
        let blocks = u64::from(block.al_stripes) * u64::from(block.al_stripe_size_4k);
        ((blocks - 1) * crate::limits::TRANSACTION_CONTEXT as u64).min(65_534) as u32
    }

    /// Which peer record, with a bitmap slot: slot 0 belongs to the first configured peer.
    fn assign_slot(&self, metadata: &mut Loaded) -> Result<usize, Refusal> {
        let Some(connection) = self.connection.as_deref() else { return Ok(0) };
        let record = match metadata.super_block.format {
            Format::V08 => 0,
            Format::V09 => usize::from(connection.peer.0),
        };
        give_slot(&mut metadata.super_block, record)?;
        Ok(record)
    }

    /// A peer became known while the disk was attached.
    pub(super) fn slot_for_new_peer(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(record) = self.peer_record_index(d) else { return };
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return };
        if give_slot(&mut backing.super_block, record).is_ok() {
            self.write_super_block(d, None, out);
        }
    }

    fn attach_size(&self, d: usize, backing: &Backing) -> Result<Sector, Refusal> {
        let peer_max = self.connection.as_ref().and_then(|c| c.peer_devices[d].sizes).map_or(0, |s| s.disk);
        let block = &backing.super_block;
        let agreed = device_size(&SizeInput {
            own_max: backing.limits.capacity.0,
            peer_max,
            last_agreed: block.effective_size,
            asked: backing.options.size_sectors,
            assume_peer_has_space: false,
            connected: self.session_number().is_some(),
        });
        let size =
            if block.effective_size != 0 { agreed.sectors.min(block.effective_size) } else { agreed.sectors };
        // What a peer without good data made of an unused device while there was no disk here must not keep this one away.
        let size_matters =
            self.role == Role::Primary || self.devices[d].open_count > 0 || self.is_replicating(d);
        if size_matters && backing.limits.capacity.0 < self.devices[d].size.0 {
            let info = format!(
                "{} has room for {} sectors, the device has {}",
                backing.name, backing.limits.capacity.0, self.devices[d].size.0
            );
            return Err(Refusal::because(Reason::DiskTooSmall, info));
        }
        let consistent = block.flags & device_flag::CONSISTENT != 0;
        if consistent && size < block.effective_size && size != backing.options.size_sectors {
            let info = format!(
                "{} has room for {size} sectors, its metadata was made for {}",
                backing.name, block.effective_size
            );
            return Err(Refusal::because(Reason::ImplicitShrink, info));
        }
        Ok(Sector(size))
    }

    /// A Primary that lost its disk takes back only the data it lost.
    fn check_generation(&self, d: usize, block: &SuperBlock) -> Result<(), Reason> {
        let somebody_primary = self.role == Role::Primary
            || self.connection.as_ref().is_some_and(|c| c.peer_role == Role::Primary);
        let not_shown = self.is_not_shown(d, block.current_uuid);
        if self.peer_disk(d) != DiskState::UpToDate && somebody_primary && not_shown {
            return Err(Reason::DataNotCurrent);
        }
        Ok(())
    }

    fn adopt_size(&mut self, d: usize, size: Sector, first_size: bool, mark_all: bool) {
        let full_sync = self.peer_record_index(d);
        let device = &mut self.devices[d];
        device.size = size;
        let Some(backing) = device.backing.as_deref_mut() else { return };
        backing.bitmap.resize(size);
        if backing.super_block.effective_size != size.0 {
            backing.super_block.effective_size = size.0;
            backing.bitmap.dirty_all();
        }
        let full = full_sync.is_some_and(|n| backing.super_block.peers[n].flags & peer_flag::FULL_SYNC != 0);
        let fresh = first_size && backing.super_block.current_uuid == UUID_JUST_CREATED;
        if mark_all || full || fresh {
            for slot in 0..backing.bitmap.slot_count() {
                backing.bitmap.set_all(slot);
            }
        }
        if let Some(n) = full_sync {
            backing.super_block.peers[n].flags &= !peer_flag::FULL_SYNC;
        }
        if backing.super_block.format == Format::V08 {
            backing.super_block.unclean_magic = true;
        }
        backing.super_block.flags &= !device_flag::AL_CLEAN;
    }

    /// The metadata says that the disk is in use.
    pub(super) fn attached(&mut self, d: usize, ticket: Ticket, out: &mut Vec<Command>) {
        if self.devices[d].disk == DiskState::Detaching {
            // A detach came in between, and waits for its turn to let the disk go: nobody may use it any more.
            let refusal = Refusal::because(Reason::InTransientState, "the disk is being detached again");
            return self.reply(ticket, Err(refusal), out);
        }
        let Some(backing) = self.devices[d].backing.as_deref() else { return };
        let (mut disk, peer_disk) = backing.at_attach;
        if disk == DiskState::Consistent && self.peer_disk(d) == DiskState::Outdated {
            // Fenced while this disk was away: it says so no more than that nobody can have newer data.
            disk = DiskState::UpToDate;
        }
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return };
        backing.at_attach.0 = disk;
        // The peer that had the newer data may be gone since.
        let backing = self.devices[d].backing.as_deref().expect("looked up above");
        if let Err(reason) = self.check_generation(d, &backing.super_block) {
            self.give_up_disk(d, out);
            self.reply(ticket, Err(reason.into()), out);
            return;
        }
        let connected = self.is_replicating(d);
        let edit = |v: Option<usize>, s: &mut super::state_change::Snapshot| {
            if v != Some(d) {
                return;
            }
            if connected {
                s.disk = DiskState::Negotiating;
            } else {
                s.disk = disk;
                if peer_disk != DiskState::DUnknown {
                    s.peer_disk = peer_disk;
                }
            }
        };
        if connected {
            if let Some(connection) = self.connection.as_deref_mut() {
                connection.peer_devices[d].uuids = None;
            }
        }
        match self.change(Mode::Soft, &edit, out) {
            Ok(_) => {
                if self.role == Role::Primary {
                    self.update_flags(d);
                    self.mark_role(d);
                    self.write_super_block(d, None, out);
                }
                self.reply(ticket, Ok(Done { changed: true, ..Done::default() }), out);
            }
            Err(reason) => {
                self.give_up_disk(d, out);
                self.reply(ticket, Err(reason.into()), out);
            }
        }
    }

    // ---- letting go ----------------------------------------------------------------------------------------------

    /// `detach`, after the peer agreed: no new request touches the disk; what is under way ends first.
    pub(super) fn begin_detach(&mut self, d: usize, ticket: Option<Ticket>, out: &mut Vec<Command>) {
        self.force(
            &|v, s| {
                if v == Some(d) {
                    s.disk = DiskState::Detaching;
                }
            },
            out,
        );
        self.admin.detaching.push((d, ticket));
        self.wake_log_waiters(d, out);
        self.continue_detach(out);
    }

    /// Goes on with detaches whose last request ended.
    pub(super) fn continue_detach(&mut self, out: &mut Vec<Command>) {
        let mut at = 0;
        while at < self.admin.detaching.len() {
            let (d, ticket) = self.admin.detaching[at];
            if self.disk_is_quiet(d) {
                self.admin.detaching.remove(at);
                self.meta_job(d, Job::everything(Some(Then::Detached(ticket))), out);
                if self.devices[d].backing.is_none() {
                    self.detached(d, ticket, out);
                }
            } else {
                at += 1;
            }
        }
    }

    /// No request of anyone is on the disk, and none of its writes waits for the peer.
    fn disk_is_quiet(&self, d: usize) -> bool {
        // What is frozen because its copy there is worth nothing is done again without the disk.
        let good = self.disk_is_good(d);
        let needs_it = |r: &Request| r.has_local_part() && (good || !r.is_held_and_marked());
        let ours_left = self.requests.iter().any(|(_, r)| r.device == d && needs_it(r));
        let peers_left = self.peer_requests.iter().any(|(_, r)| r.device == d);
        !ours_left && !peers_left && self.devices[d].log_waiters.is_empty()
    }

    /// The log goes with its disk: nobody holds references to it any more.
    fn forget_log_references(&mut self, d: usize) {
        for request in self.requests.values_mut().filter(|r| r.device == d) {
            request.logged = false;
        }
        for request in self.peer_requests.values_mut().filter(|r| r.device == d) {
            request.logged = false;
        }
    }

    /// Everything is kept: let the disk go.
    pub(super) fn detached(&mut self, d: usize, ticket: Option<Ticket>, out: &mut Vec<Command>) {
        self.force(
            &|v, s| {
                if v == Some(d) {
                    s.disk = DiskState::Diskless;
                }
            },
            out,
        );
        let waiting = self.take_backing(d, out);
        self.go_on_without_disk(d, waiting, out);
        if let Some(ticket) = ticket {
            self.reply(ticket, Ok(Done { changed: true, ..Done::default() }), out);
        }
        self.admin.state_changed = true;
    }

    /// There is no disk any more. What waited for its metadata is returned.
    fn take_backing(&mut self, d: usize, out: &mut Vec<Command>) -> Vec<Then> {
        self.resize_lost(d, out);
        let waiting = self.devices[d].backing.as_deref_mut().map(|b| b.jobs.abandon()).unwrap_or_default();
        self.await_barriers_without_disk(d, out);
        self.devices[d].backing = None;
        self.devices[d].full = None;
        self.forget_log_references(d);
        self.distrust_lost_copies(d);
        self.force(
            &|v, s| {
                if v == Some(d) {
                    s.disk = DiskState::Diskless;
                }
            },
            out,
        );
        waiting
    }

    fn go_on_without_disk(&mut self, d: usize, waiting: Vec<Then>, out: &mut Vec<Command>) {
        for then in waiting {
            self.abandoned(d, then, out);
        }
        self.fail_unwritten(d, out);
        self.wake_log_waiters(d, out);
        self.release_held_completions(d, out);
        self.close_disk_if_idle(d, out);
    }

    /// Tells the shell to close the disk once nothing is on it any more.
    pub(super) fn close_disk_if_idle(&mut self, d: usize, out: &mut Vec<Command>) {
        let device = &self.devices[d];
        if device.backing.is_none()
            && device.counters.lower_pending == 0
            && device.disk == DiskState::Diskless
        {
            out.push(Command::CloseDisk { volume: device.volume });
            // `down` waits for the last operation.
            self.admin.state_changed = true;
        }
    }

    /// Lets go of a disk that failed. What its log names is out of sync when it comes back; PRIMARY_IND stays for that.
    pub(super) fn give_up_disk(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.devices[d].backing.is_none() {
            return;
        }
        self.force(
            &|v, s| {
                if v == Some(d) {
                    s.disk = DiskState::Failed;
                }
            },
            out,
        );
        self.drop_backing(d, out);
    }

    /// Lets go of what belongs to the disk of a volume that is to be Diskless.
    pub(super) fn drop_backing(&mut self, d: usize, out: &mut Vec<Command>) {
        // Nothing can make the peer's writes stable any more: it has to mark what it does not know stable.
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            if session.received.epochs.has_unstable() {
                session.doomed = Some("The disk was lost with writes of the peer that were not yet stable");
            }
        }
        let waiting = self.take_backing(d, out);
        self.log("diskless", Level::Error, self.device_subject(d), "The disk was given up", out);
        // A detach that waited for requests to end is over as well.
        while let Some(at) = self.admin.detaching.iter().position(|&(other, _)| other == d) {
            let (_, ticket) = self.admin.detaching.remove(at);
            self.abandoned(d, Then::Detached(ticket), out);
        }
        self.go_on_without_disk(d, waiting, out);
    }

    /// A job will not be done: whoever waited goes on without it.
    pub(super) fn abandoned(&mut self, d: usize, then: Then, out: &mut Vec<Command>) {
        match then {
            Then::Attached(ticket) => {
                let info = "the metadata could not be written";
                self.reply(ticket, Err(Refusal::because(Reason::MetaDiskIo, info)), out);
            }
            Then::RoleStable(ticket) => self.role_stable(d, ticket, out),
            Then::Detached(ticket) => {
                if let Some(ticket) = ticket {
                    self.reply(ticket, Ok(Done { changed: true, ..Done::default() }), out);
                }
            }
            Then::Answer(ticket) => self.answer_lost(ticket, out),
            Then::FullSyncMarked => self.full_sync_lost(d, out),
            Then::LogCommitted
            | Then::GenerationStable
            | Then::PeerWritesKept
            | Then::ResyncGoesOn { .. }
            | Then::Resized => {}
        }
    }

    /// A super block is written. If it says PRIMARY_IND the log counts from here on.
    pub(super) fn super_block_written(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return };
        if std::mem::take(&mut backing.primary_on_its_way) {
            backing.primary_stable = true;
            self.wake_log_waiters(d, out);
        }
    }
}

fn give_slot(block: &mut SuperBlock, record: usize) -> Result<(), Refusal> {
    if block.peers[record].bitmap_index >= 0 {
        return Ok(());
    }
    let taken = |slot: i32| block.peers.iter().any(|p| p.bitmap_index == slot);
    let free = (0..block.max_peers as i32).find(|&slot| !taken(slot));
    let Some(slot) = free else {
        let info = format!("all {} bitmap slots belong to other peers", block.max_peers);
        return Err(Refusal::because(Reason::MetadataInvalid, info));
    };
    block.peers[record].bitmap_index = slot;
    block.peers[record].flags |= peer_flag::NODE_EXISTS;
    Ok(())
}
