//! How a resync begins: both nodes exchange what each believes out of sync, the source names the resync, and the
//! target starts asking; and how it ends.
//!
//! What the target takes over is on stable storage before it says so, and its disk is called Inconsistent on stable
//! storage before the first block of the resync (or of the source's own writes) is written to it. At the end data,
//! bitmap and the new generation are stable before the source is told.

use super::command::{Command, Level};
use super::connection::PingFor;
use super::generation::ROLE_BIT;
use super::meta_jobs::{Job, ResyncStep, Then};
use super::planted::Bug;
use super::resource::{HandlerOwner, Resource};
use super::senseless::Senseless;
use super::session::Fault;
use super::state_change::Snapshot;
use crate::metadata::UUID_JUST_CREATED;
use crate::states::{DiskState, ReplicationState, Role};
use crate::wire::{bitmap_code, CompressedBitmap, Extent, Packet};

impl Resource {
    /// A volume left the handshake for a resync.
    pub(super) fn begin_as_decided(&mut self, d: usize, old: &Snapshot, now: &Snapshot) {
        if old.replication == now.replication {
            return;
        }
        if let Some(connection) = self.connection.as_deref_mut() {
            let peer_device = &mut connection.peer_devices[d];
            if matches!(now.replication, ReplicationState::WFBitMapS | ReplicationState::WFBitMapT) {
                peer_device.bitmap_received = 0;
                peer_device.bitmap_complete = false;
                peer_device.bitmap_sent = false;
            }
        }
    }

    /// For a metadata job: the resync that runs, or is about to begin, goes on afterwards.
    pub(super) fn when_resync_may(&self, d: usize, step: ResyncStep) -> Option<Then> {
        let session = self.session_number()?;
        let attempt = self.connection.as_deref()?.peer_devices[d].resync_attempt;
        Some(Then::ResyncGoesOn { session, attempt, step })
    }

    /// What a resync waited for is on stable storage.
    pub(super) fn resync_goes_on(
        &mut self,
        d: usize,
        (session, attempt): (u32, u32),
        step: ResyncStep,
        out: &mut Vec<Command>,
    ) {
        if self.when_resync_may(d, step) != Some(Then::ResyncGoesOn { session, attempt, step }) {
            return;
        }
        match step {
            ResyncStep::TargetBitmapStable => self.target_bitmap_stable(d, out),
            ResyncStep::SourceBitmapStable => self.source_bitmap_stable(d, out),
            ResyncStep::Named => self.resync_named(d, out),
            ResyncStep::AheadBitmapStable => self.ahead_bitmap_stable(d, out),
            ResyncStep::TargetBegins => self.target_begins(d, out),
            ResyncStep::TargetCopied => self.target_copied(d, out),
            ResyncStep::TargetFinished => self.target_finished(d, out),
        }
    }

    // ---- the bitmaps ---------------------------------------------------------------------------------------------

    /// As source: the bits are kept; tell them.
    fn source_bitmap_stable(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.snapshot(Some(d)).replication == ReplicationState::WFBitMapS {
            self.send_bitmap(d, out);
            self.connection.as_mut().expect("a session").peer_devices[d].bitmap_sent = true;
            self.both_bitmaps_known(d, out);
        }
    }

    fn send_bitmap(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(slot) = self.peer_slot(d) else { return };
        let connection = self.connection.as_deref().expect("a session");
        let version = connection.session().map_or(80, |s| s.version);
        let compress = connection.options.compress_bitmap && version >= 90;
        let volume = self.devices[d].volume;
        let packets = {
            let bitmap = &self.devices[d].backing.as_deref().expect("has a slot").bitmap;
            bitmap_packets(bitmap.words(slot), bitmap.bits(), version, compress)
        };
        for packet in packets {
            self.send(volume, packet, out);
        }
    }

    /// P_BITMAP.
    pub(super) fn plain_bitmap(
        &mut self,
        d: usize,
        bytes: &[u8],
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let (slot, at) = self.expect_bitmap(d, "P_BITMAP")?;
        let ignored = self.planted(Bug::PeerBitmapIgnored);
        let version = self.connection.as_ref().and_then(|c| c.session()).map_or(80, |s| s.version);
        let backing = self.devices[d].backing.as_deref_mut().expect("has a slot");
        let bits = backing.bitmap.bits();
        // Between packets it is on a border of words, except at the end of the bitmap.
        let word = at.div_ceil(64);
        let left_words = bits.div_ceil(64) - word.min(bits.div_ceil(64));
        let expected = left_words.min(bitmap_code::plain_chunk_words(version) as u64) * 8;
        if bytes.len() as u64 != expected {
            let why = "not what is left of the bitmap";
            return Err(Senseless { field: "length", got: bytes.len() as u64, why }.in_packet("P_BITMAP"));
        }
        for (n, chunk) in bytes.chunks_exact(8).enumerate() {
            let value = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
            if !ignored {
                or_word(&mut backing.bitmap, slot, word + n as u64, value);
            }
        }
        if bytes.is_empty() {
            return self.bitmap_complete(d, out);
        }
        let at = ((word + bytes.len() as u64 / 8) * 64).min(bits);
        self.connection.as_mut().expect("a session").peer_devices[d].bitmap_received = at;
        Ok(())
    }

    /// P_COMPRESSED_BITMAP.
    pub(super) fn coded_bitmap(
        &mut self,
        d: usize,
        code: &CompressedBitmap,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let (slot, at) = self.expect_bitmap(d, "P_COMPRESSED_BITMAP")?;
        let ignored = self.planted(Bug::PeerBitmapIgnored);
        let backing = self.devices[d].backing.as_deref_mut().expect("has a slot");
        let bits = backing.bitmap.bits();
        let bitmap = &mut backing.bitmap;
        let next = bitmap_code::decode(code, at, bits, |first, len| {
            if !ignored {
                bitmap.set_bits(slot, first, first + len);
            }
        })
        .map_err(|m| Fault::Protocol(m.to_string()))?;
        self.connection.as_mut().expect("a session").peer_devices[d].bitmap_received = next;
        if next >= bits {
            return self.bitmap_complete(d, out);
        }
        Ok(())
    }

    fn expect_bitmap(&self, d: usize, name: &str) -> Result<(usize, u64), Fault> {
        let Some(connection) = self.connection.as_deref() else { return Err(unexpected_bitmap(name)) };
        let peer_device = &connection.peer_devices[d];
        let due =
            matches!(peer_device.replication, ReplicationState::WFBitMapS | ReplicationState::WFBitMapT);
        match self.peer_slot(d) {
            Some(slot) if due && !peer_device.bitmap_complete => Ok((slot, peer_device.bitmap_received)),
            _ => Err(unexpected_bitmap(name)),
        }
    }

    fn bitmap_complete(&mut self, d: usize, out: &mut Vec<Command>) -> Result<(), Fault> {
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        peer_device.bitmap_complete = true;
        match peer_device.replication {
            ReplicationState::WFBitMapT => {
                // Ours and the source's bits, and that our data is old, are kept before we answer.
                let job = Job::marks(self.when_resync_may(d, ResyncStep::TargetBitmapStable));
                self.meta_job(d, job, out);
            }
            _ => self.both_bitmaps_known(d, out),
        }
        Ok(())
    }

    /// As target: tell our bits, wait for the name of the resync.
    fn target_bitmap_stable(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.snapshot(Some(d)).replication != ReplicationState::WFBitMapT {
            return;
        }
        self.send_bitmap(d, out);
        self.force(&|v, s| set_replication(s, v == Some(d), ReplicationState::WFSyncUUID), out);
    }

    // ---- the source begins ---------------------------------------------------------------------------------------

    /// As source: with both bitmaps known the handler may prepare.
    fn both_bitmaps_known(&mut self, d: usize, out: &mut Vec<Command>) {
        let connection = self.connection.as_deref().expect("a session");
        let peer_device = &connection.peer_devices[d];
        if peer_device.replication != ReplicationState::WFBitMapS
            || !peer_device.bitmap_complete
            || !peer_device.bitmap_sent
        {
            return;
        }
        self.prepare_resync(d, "before-resync-source", out);
    }

    /// Calls a handler; a resync begins when it succeeds.
    pub(super) fn prepare_resync(&mut self, d: usize, name: &'static str, out: &mut Vec<Command>) {
        let session = self.session_number().unwrap_or(0);
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let attempt = &mut connection.peer_devices[d].resync_attempt;
        *attempt = attempt.wrapping_add(1);
        let owner = HandlerOwner::BeforeResync { device: d, session, attempt: *attempt };
        self.run_handler(name, Some(d), owner, out);
    }

    /// A before-resync handler ended, the one called last: the resync of an earlier one was given up meanwhile.
    pub(super) fn resync_prepared(
        &mut self,
        d: usize,
        (session, attempt): (u32, u32),
        status: i32,
        out: &mut Vec<Command>,
    ) {
        let called = self.connection.as_deref().map(|c| c.peer_devices[d].resync_attempt);
        if self.session_number() != Some(session) || called != Some(attempt) {
            return;
        }
        let replication = self.snapshot(Some(d)).replication;
        let new_area = self.takes_new_area(d);
        let name = match replication {
            ReplicationState::Established if new_area => "before-resync-source",
            ReplicationState::WFBitMapS | ReplicationState::Ahead | ReplicationState::StartingSyncS => {
                "before-resync-source"
            }
            ReplicationState::WFSyncUUID | ReplicationState::Behind => "before-resync-target",
            _ => return,
        };
        let source = replication.is_source() || replication == ReplicationState::Ahead || new_area;
        let tolerated = status <= 0 || (status == 3 && source);
        if !tolerated {
            let text = format!("{name} handler returned {status}, dropping connection.");
            self.fault(Fault::Fatal(text), out);
        } else if source {
            // Until the name is kept.
            self.connection.as_mut().expect("a session").peer_devices[d].new_area = new_area;
            self.begin_as_source(d, out);
        } else {
            self.begin_as_target(d, out);
        }
    }

    fn begin_as_source(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(mut set) = self.generations(d) else { return };
        let random = self.random.uuid();
        let name = set.begin_resync_as_source(random);
        self.keep_generations(d, &set);
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        peer_device.sync_uuid = name;
        let then = self.when_resync_may(d, ResyncStep::Named);
        self.write_super_block(d, then, out);
    }

    /// As source: the name of the resync is kept. The target may learn it, which would be left with a generation that
    /// nobody knows if this node forgot it with its power.
    fn resync_named(&mut self, d: usize, out: &mut Vec<Command>) {
        let replication = self.snapshot(Some(d)).replication;
        let new_area = self.takes_new_area(d);
        let waits = new_area
            || matches!(
                replication,
                ReplicationState::WFBitMapS | ReplicationState::Ahead | ReplicationState::StartingSyncS
            );
        let Some(connection) = self.connection.as_deref().filter(|_| waits) else { return };
        let name = connection.peer_devices[d].sync_uuid;
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            set_replication(s, v == Some(d), ReplicationState::SyncSource);
            if v == Some(d) {
                s.peer_disk = DiskState::Inconsistent;
            }
        };
        // The name goes out before anything that is mirrored because of the new state.
        self.send(self.devices[d].volume, Packet::SyncUuid(name), out);
        self.force(&edit, out);
        self.begin_resync(d, out);
        self.log_generations(d, "updated sync UUID", out);
    }

    // ---- the target begins ---------------------------------------------------------------------------------------

    /// P_SYNC_UUID.
    pub(super) fn sync_uuid(&mut self, d: usize, name: u64, out: &mut Vec<Command>) -> Result<(), Fault> {
        let replication = self.snapshot(Some(d)).replication;
        if name & !ROLE_BIT <= UUID_JUST_CREATED {
            return Err(Senseless { field: "uuid", got: name, why: "no generation" }.in_packet("P_SYNC_UUID"));
        }
        if self.keep_early_sync_uuid(d, name) {
            return Ok(());
        }
        if !matches!(replication, ReplicationState::WFSyncUUID | ReplicationState::Behind) {
            let why = "while this node waits for no resync to begin";
            return Err(Senseless { field: "uuid", got: name, why }.in_packet("P_SYNC_UUID"));
        }
        // What the source's bitmap counts from is this node's generation from here on, as with the kernel: should the resync
        // not begin after all, the next one copies what the bitmap names, and not everything.
        if let Some(mut set) = self.generations(d) {
            set.begin_resync_as_target(name, self.role == Role::Primary);
            self.keep_generations(d, &set);
            self.write_super_block(d, None, out);
        }
        self.prepare_resync(d, "before-resync-target", out);
        Ok(())
    }

    fn begin_as_target(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.devices[d].backing.is_none() {
            return;
        }
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            set_replication(s, v == Some(d), ReplicationState::SyncTarget);
            if v == Some(d) {
                s.disk = DiskState::Inconsistent;
            }
        };
        self.force(&edit, out);
        self.begin_resync(d, out);
        if let Some(resync) = self.connection.as_mut().and_then(|c| c.peer_devices[d].resync.as_deref_mut()) {
            resync.waiting_for_metadata = true;
        }
        self.log_generations(d, "updated sync UUID", out);
        // The source has told since of writes it did not send: once it is copied, only our bitmap on disk knows such a
        // block should a power loss take it back.
        let then = self.when_resync_may(d, ResyncStep::TargetBegins);
        let job = Job::marks(then);
        self.meta_job(d, job, out);
    }

    /// As target: that our data is Inconsistent is on stable storage; blocks may change.
    fn target_begins(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.snapshot(Some(d)).replication.is_target() {
            if let Some(resync) =
                self.connection.as_mut().and_then(|c| c.peer_devices[d].resync.as_deref_mut())
            {
                resync.waiting_for_metadata = false;
            }
            if let Some(backing) = self.devices[d].backing.as_deref_mut() {
                backing.old_blocks_known = true;
            }
            self.open_gate(d, out);
            self.pump_resync(d, out);
        }
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    /// As target: nothing is left to ask for.
    pub(super) fn finish_if_done(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(slot) = self.peer_slot(d) else { return };
        let Some(backing) = self.devices[d].backing.as_deref() else { return };
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let peer_device = &mut connection.peer_devices[d];
        if peer_device.replication != ReplicationState::SyncTarget {
            return;
        }
        let Some(resync) = peer_device.resync.as_deref_mut() else { return };
        if resync.finishing
            || resync.waiting_for_metadata
            || resync.in_flight_bytes > 0
            || !resync.has_asked_for_all(&backing.bitmap, slot)
        {
            return;
        }
        resync.finishing = true;
        let failed = resync.failed_bits;
        if failed > 0 {
            let text = format!("{failed} blocks could not be copied: the data stays Inconsistent");
            self.log("resync-failed", Level::Error, self.peer_device_subject(d), text, out);
            self.end_resync_as_target(d, false, out);
            return;
        }
        let then = self.when_resync_may(d, ResyncStep::TargetCopied);
        self.meta_job(d, Job { super_block: false, ..Job::everything(then) }, out);
    }

    /// As target: data and bitmap are stable; take the source's generation and call the data UpToDate.
    fn target_copied(&mut self, d: usize, out: &mut Vec<Command>) {
        let finishing = self.connection.as_ref().is_some_and(|c| {
            let peer_device = &c.peer_devices[d];
            peer_device.replication.is_target() && peer_device.resync.as_ref().is_some_and(|r| r.finishing)
        });
        if !finishing {
            return;
        }
        if self.out_of_sync_bits(d) > 0 {
            // A write of the source failed here meanwhile.
            if let Some(resync) =
                self.connection.as_mut().and_then(|c| c.peer_devices[d].resync.as_deref_mut())
            {
                resync.finishing = false;
            }
            self.pump_resync(d, out);
            return;
        }
        // The source must know of every block before its generation is ours: it finishes on our word.
        self.ping(PingFor::ResyncEnd(d), out);
    }

    /// As target: the source has seen the last acknowledgement.
    pub(super) fn source_saw_all(&mut self, d: usize, out: &mut Vec<Command>) {
        let peer_device = &self.connection.as_ref().expect("a session").peer_devices[d];
        if !peer_device.replication.is_target() || !peer_device.resync.as_ref().is_some_and(|r| r.finishing) {
            return;
        }
        let source = peer_device.uuids;
        if let (Some(source), Some(mut set)) = (source, self.generations(d)) {
            set.finish_resync_as_target(&source, self.role == Role::Primary);
            self.keep_generations(d, &set);
            self.adopt_as_peer_set(d);
            if let Some(backing) = self.devices[d].backing.as_deref_mut() {
                use crate::metadata::device_flag;
                backing.super_block.flags |= device_flag::CONSISTENT | device_flag::WAS_UP_TO_DATE;
                backing.crashed_primary = false;
            }
        }
        let then = self.when_resync_may(d, ResyncStep::TargetFinished);
        self.write_super_block(d, then, out);
    }

    /// As target: everything is kept; tell the source.
    fn target_finished(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.snapshot(Some(d)).replication.is_target() {
            self.end_resync_as_target(d, true, out);
        }
    }

    fn end_resync_as_target(&mut self, d: usize, good: bool, out: &mut Vec<Command>) {
        self.remember_resync(d, false, out);
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            set_replication(s, v == Some(d), ReplicationState::Established);
            if v == Some(d) && good {
                s.disk = DiskState::UpToDate;
            }
        };
        self.force(&edit, out);
        if good {
            self.log_generations(d, "updated UUIDs", out);
        }
        self.send_state(d, out);
        self.run_handler("after-resync-target", Some(d), HandlerOwner::Nobody, out);
    }

    /// As source: the target says it has everything.
    pub(super) fn target_says_done(&mut self, d: usize, out: &mut Vec<Command>) {
        if let Some(resync) = self.connection.as_mut().and_then(|c| c.peer_devices[d].resync.as_deref_mut()) {
            resync.target_is_done = true;
        }
        // The last of our own writes may still wait for their barrier.
        self.ask_for_stability(out);
        self.source_finish_if_done(d, out);
    }

    /// As source: the target says that it has everything but what could not be copied. Its data stays Inconsistent, and a
    /// new resync begins when the nodes meet again.
    pub(super) fn target_says_failed(&mut self, d: usize, out: &mut Vec<Command>) {
        self.remember_resync(d, true, out);
        self.force(&|v, s| set_replication(s, v == Some(d), ReplicationState::Established), out);
    }

    pub(super) fn source_finish_if_done(&mut self, d: usize, out: &mut Vec<Command>) {
        let bits = self.out_of_sync_bits(d);
        let Some(connection) = self.connection.as_deref() else { return };
        let peer_device = &connection.peer_devices[d];
        let done =
            matches!(peer_device.replication, ReplicationState::SyncSource | ReplicationState::PausedSyncS)
                && peer_device.resync.as_ref().is_some_and(|r| r.target_is_done && bits <= r.failed_bits);
        if !done {
            return;
        }
        self.remember_resync(d, true, out);
        if bits == 0 {
            if let Some(mut set) = self.generations(d) {
                set.finish_resync_as_source();
                self.keep_generations(d, &set);
                self.adopt_as_peer_set(d);
            }
        }
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            set_replication(s, v == Some(d), ReplicationState::Established);
            if v == Some(d) {
                s.peer_disk = DiskState::UpToDate;
            }
        };
        let paused = self.snapshot(Some(d)).replication == ReplicationState::PausedSyncS;
        self.force(&edit, out);
        self.log_generations(d, "updated UUIDs", out);
        if !paused {
            self.call_unfence_peer(out);
        }
    }

    /// After a resync the peer's generations are ours.
    pub(super) fn adopt_as_peer_set(&mut self, d: usize) {
        let Some(set) = self.generations(d) else { return };
        if let Some(uuids) = self.connection.as_mut().and_then(|c| c.peer_devices[d].uuids.as_mut()) {
            uuids.current = set.current;
            uuids.bitmap = set.bitmap;
            uuids.history = set.wire_history();
        }
    }

    /// P_OUT_OF_SYNC: a block the peer will not send.
    pub(super) fn peer_marks(&mut self, d: usize, extent: &Extent) {
        self.mark_blocks(d, extent.sector, extent.bytes);
    }
}

fn set_replication(s: &mut Snapshot, this: bool, replication: ReplicationState) {
    if this {
        s.replication = replication;
    }
}

fn unexpected_bitmap(name: &str) -> Fault {
    Fault::Protocol(format!(
        "The peer sent a {name} that makes no sense: its time is not the exchange of bitmaps."
    ))
}

fn or_word(bitmap: &mut super::bitmap::Bitmap, slot: usize, word: u64, mut value: u64) {
    while value != 0 {
        let first = u64::from(value.trailing_zeros());
        let len = u64::from((!(value >> first)).trailing_zeros()).min(64 - first);
        let end = (word * 64 + first + len).min(bitmap.bits());
        if word * 64 + first < end {
            bitmap.set_bits(slot, word * 64 + first, end);
        }
        value &= if first + len >= 64 { 0 } else { u64::MAX << (first + len) };
    }
}

/// A whole bitmap as packets (3.13 of the wire reference): compressed where that is smaller, a plain chunk elsewhere,
/// and an empty plain one if the last was plain.
fn bitmap_packets(words: &[u64], bits: u64, version: u32, compress: bool) -> Vec<Packet> {
    let mut packets = Vec::new();
    let mut bit = 0;
    let mut plain_last = true;
    while bit < bits {
        let coded = compress
            .then(|| bitmap_code::encode(words, bits, bit, bitmap_code::code_bytes_max(version)))
            .flatten();
        if let Some((code, next)) = coded {
            packets.push(Packet::CompressedBitmap(Box::new(code)));
            plain_last = false;
            bit = next;
        } else {
            let word = (bit / 64) as usize;
            let end = (word + bitmap_code::plain_chunk_words(version)).min(words.len());
            let bytes: Vec<u8> = words[word..end].iter().flat_map(|w| w.to_le_bytes()).collect();
            packets.push(Packet::Bitmap(bytes.into_boxed_slice()));
            plain_last = true;
            bit = (end as u64 * 64).min(bits);
        }
    }
    if plain_last {
        packets.push(Packet::Bitmap(Box::default()));
    }
    packets
}
