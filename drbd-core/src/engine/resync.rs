//! Background copying: the target asks for what is out of sync, the source answers.
//!
//! The target keeps a window of requests outstanding (`resync_pace` says how large) and asks for more as answers are
//! written; a configured rate (c-max-rate, or resync-rate with c-plan-ahead 0) caps it. Every block asked for is
//! remembered until it is written: writes of this node's own front end wait for it.

use super::bitmap::Bitmap;
use super::command::{Command, Level};
use super::planted::Bug;
use super::resource::Resource;
use super::resync_pace::{Answer, Pace, Settings};
use super::senseless::Senseless;
use crate::config::PeerDeviceOptions;
use crate::control::FinishedResync;
use crate::ids::{Instant, Sector};
use crate::limits::{BYTES_PER_BIT, REQUEST_BYTES_MAX, SECTORS_PER_BIT};
use crate::states::ReplicationState;
use crate::wire::{BlockAck, BlockRequest, Packet, BLOCK_ID_RESYNC};

/// Sectors that share a resync extent on an 8.4 source; no request crosses their borders.
const RESYNC_EXTENT_SECTORS: u64 = (16 << 20) / 512;
/// Distance of the marks the shown rate is measured between.
const MARK_MS: u64 = 3000;
/// How often the rate is looked at.
const TICK_MS: u64 = 100;

/// A stretch asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    sector: Sector,
    bytes: u32,
    at: Instant,
    stage: AskedStage,
}

/// How far a question to the source is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AskedStage {
    /// This node reads and digests what it has, to ask with that.
    Digesting,
    /// The source was asked.
    Sent,
    /// The source was asked, and may say that there are only zeroes.
    SentThin,
    /// The answer is there, and being written.
    Answered,
}

/// A resync, seen from either side.
#[derive(Debug)]
pub(super) struct Resync {
    pub(super) total_bits: u64,
    pub(super) failed_bits: u64,
    /// Found equal by their checksums, not copied.
    pub(super) same_bits: u64,
    /// Target: asks by checksum, of this algorithm on both nodes.
    by_checksum: bool,
    pub(super) started: Instant,
    /// Bytes asked for and not yet written (target), or read and not yet acknowledged (source).
    pub(super) in_flight_bytes: u64,
    /// Target: asked for, not yet written.
    asked: Vec<Asked>,
    /// Source: sent, and not yet acknowledged.
    copies: Vec<(Sector, u32)>,
    pace: Pace,
    /// Target: where to look for the next bit.
    position: u64,
    /// Target: bytes that may be asked for now, if a rate is configured; below 0 what was asked for beyond it.
    budget_bytes: i64,
    pub(super) next_tick: Instant,
    /// Source: the target said it is done, and we still have bits set.
    pub(super) target_is_done: bool,
    /// Target: that the data is Inconsistent is not yet on stable storage.
    pub(super) waiting_for_metadata: bool,
    /// Target: the end is being written to disk.
    pub(super) finishing: bool,
    /// For the rate shown: bits left at the last two marks.
    marks: [(Instant, u64); 2],
    /// Milliseconds it was held, and since when it is.
    paused_ms: u64,
    paused_since: Option<Instant>,
}

impl Resync {
    pub(super) fn new(total_bits: u64, settings: Settings, now: Instant) -> Resync {
        Resync {
            total_bits,
            failed_bits: 0,
            same_bits: 0,
            by_checksum: false,
            started: now,
            in_flight_bytes: 0,
            asked: Vec::with_capacity(256),
            copies: Vec::new(),
            pace: Pace::new(settings, now),
            position: 0,
            budget_bytes: 0,
            next_tick: now,
            target_is_done: false,
            waiting_for_metadata: false,
            finishing: false,
            marks: [(now, total_bits); 2],
            paused_ms: 0,
            paused_since: None,
        }
    }

    /// A block was found equal.
    pub(super) fn found_equal(&mut self, bytes: u32) {
        self.same_bits += u64::from(bytes).div_ceil(BYTES_PER_BIT);
    }

    /// Milliseconds it was held so far.
    pub(super) fn paused_ms(&self, now: Instant) -> u64 {
        self.paused_ms + self.paused_since.map_or(0, |since| now.ms_since(since))
    }

    /// Milliseconds since the start, pauses not counted.
    pub(super) fn elapsed_ms(&self, now: Instant) -> u64 {
        now.ms_since(self.started).saturating_sub(self.paused_ms(now))
    }

    /// It is held from now on, or goes on. Its speed is measured anew.
    fn hold(&mut self, held: bool, left_bits: u64, now: Instant) {
        self.paused_ms = self.paused_ms(now);
        self.paused_since = held.then_some(now);
        self.marks = [(now, left_bits); 2];
    }

    /// Whether part of that stretch was asked for and is not yet written.
    pub(super) fn asked_for(&self, sector: Sector, bytes: u32) -> bool {
        let end = sector.end_of(bytes);
        self.asked.iter().any(|a| a.sector < end && sector < a.sector.end_of(a.bytes))
    }

    fn asked_exactly(&mut self, sector: Sector, bytes: u32, stage: AskedStage) -> Option<&mut Asked> {
        self.asked.iter_mut().find(|a| (a.sector, a.bytes, a.stage) == (sector, bytes, stage))
    }

    /// The digest of what this node has is known: the source is asked. False if that is no longer wanted.
    pub(super) fn digested(&mut self, sector: Sector, bytes: u32) -> bool {
        let asked = self.asked_exactly(sector, bytes, AskedStage::Digesting);
        asked.map(|a| a.stage = AskedStage::Sent).is_some()
    }

    /// The source answered exactly that; false if it was not asked.
    pub(super) fn answered(&mut self, sector: Sector, bytes: u32) -> bool {
        self.answered_at(sector, bytes, AskedStage::Sent) || self.answered_thin(sector, bytes)
    }

    /// The source answered exactly that, and was asked so that it may say that there are only zeroes.
    pub(super) fn answered_thin(&mut self, sector: Sector, bytes: u32) -> bool {
        self.answered_at(sector, bytes, AskedStage::SentThin)
    }

    fn answered_at(&mut self, sector: Sector, bytes: u32, stage: AskedStage) -> bool {
        let asked = self.asked_exactly(sector, bytes, stage);
        asked.map(|a| a.stage = AskedStage::Answered).is_some()
    }

    /// The peer owes an answer.
    pub(super) fn has_open_questions(&self) -> bool {
        !self.asked.is_empty() || !self.copies.is_empty()
    }

    /// Source: that much is on its way to the target.
    pub(super) fn copy_sent(&mut self, sector: Sector, bytes: u32) {
        self.in_flight_bytes += u64::from(bytes);
        self.copies.push((sector, bytes));
    }

    /// Source: the target says what became of it; false if it was not sent.
    fn copy_acknowledged(&mut self, sector: Sector, bytes: u32, written: bool) -> bool {
        let Some(at) = self.copies.iter().position(|&copy| copy == (sector, bytes)) else { return false };
        self.copies.swap_remove(at);
        self.in_flight_bytes -= u64::from(bytes);
        if !written {
            self.block_failed(bytes);
        }
        true
    }

    /// An answer was written, or will not be.
    pub(super) fn written(&mut self, sector: Sector, bytes: u32, good: bool, now: Instant) {
        if let Some(at) = self.asked.iter().position(|a| (a.sector, a.bytes) == (sector, bytes)) {
            let asked = self.asked.swap_remove(at);
            let answer =
                Answer { asked_at: asked.at, bytes: u64::from(bytes), in_flight_bytes: self.in_flight_bytes };
            self.pace.answered(&answer, now);
            self.in_flight_bytes -= u64::from(bytes);
        }
        if !good {
            self.block_failed(bytes);
        }
    }

    /// That much cannot be copied.
    pub(super) fn block_failed(&mut self, bytes: u32) {
        self.failed_bits += u64::from(bytes).div_ceil(BYTES_PER_BIT);
    }

    /// Target: nothing is left to ask for. What failed is not asked for again, and stays marked.
    pub(super) fn has_asked_for_all(&self, bitmap: &Bitmap, slot: usize) -> bool {
        let from = if self.failed_bits > 0 { self.position } else { 0 };
        self.asked.is_empty() && bitmap.next_set(slot, from).is_none()
    }

    /// Recent speed in KiB/s with that many bits left now.
    pub(super) fn rate_kib_per_s(&self, left_bits: u64, now: Instant) -> u64 {
        let (since, then) = self.marks[0];
        then.saturating_sub(left_bits) * (BYTES_PER_BIT / 1024) * 1000 / now.ms_since(since).max(1)
    }

    fn mark(&mut self, left_bits: u64, now: Instant) {
        if now.ms_since(self.marks[1].0) >= MARK_MS && self.marks[1].1 != left_bits {
            self.marks = [self.marks[1], (now, left_bits)];
        }
    }
}

impl Resource {
    /// Begins to count a resync of which the bitmaps are known.
    pub(super) fn begin_resync(&mut self, d: usize, out: &mut Vec<Command>) {
        let now = self.now;
        let bits = self.out_of_sync_bits(d);
        let by_checksum = self.resyncs_by_checksum(d);
        let connection = self.connection.as_mut().expect("a session");
        let peer_device = &mut connection.peer_devices[d];
        let settings = Settings::new(&connection.options, &peer_device.options);
        let mut resync = Resync::new(bits, settings, now);
        if peer_device.resync_suspended.any() {
            resync.hold(true, bits, now);
        }
        resync.by_checksum = by_checksum;
        peer_device.resync = Some(Box::new(resync));
        let side = if peer_device.replication.is_source() { "SyncSource" } else { "SyncTarget" };
        let subject = self.peer_device_subject(d);
        let text = format!("Began resync as {side} (will sync {} KB [{bits} bits set]).", bits * 4);
        self.log("resync-begin", Level::Info, subject, text, out);
    }

    /// Whether this node asks by checksum: decided once, when a resync begins (8.6 of the wire reference).
    fn resyncs_by_checksum(&self, d: usize) -> bool {
        let Some(connection) = self.connection.as_deref() else { return false };
        let crashed = self.devices[d].backing.as_deref().is_some_and(|b| b.crashed_primary);
        !connection.options.csums_alg.is_empty()
            && (crashed || !connection.options.csums_after_crash_only)
            && connection.session().is_some_and(|s| s.version >= 89)
    }

    /// As target: asks for more, and notices the end.
    pub(super) fn pump_resync(&mut self, d: usize, out: &mut Vec<Command>) {
        while self.request_block(d, out) {}
        self.finish_if_done(d, out);
    }

    fn is_sync_target(&self, d: usize) -> bool {
        let peer_device = self.connection.as_deref().map(|c| &c.peer_devices[d]);
        peer_device.is_some_and(|p| p.replication == ReplicationState::SyncTarget)
    }

    fn request_block(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        // Asked first: this is called for each request.
        if !self.is_sync_target(d) {
            return false;
        }
        let Some(slot) = self.peer_slot(d) else { return false };
        let has_room = self.room_for_peer() > 0;
        let Some(connection) = self.connection.as_mut() else { return false };
        let rate = configured_rate(&connection.peer_devices[d].options);
        let version = connection.session().map_or(0, |s| s.version);
        let pieces = self.thin_pieces(d, thin_bytes_max(version));
        let connection = self.connection.as_mut().expect("just found");
        let peer_device = &mut connection.peer_devices[d];
        let Some(resync) = peer_device.resync.as_deref_mut() else { return false };
        let settings = Settings::new(&connection.options, &peer_device.options);
        resync.pace.observe(self.devices[d].last_application, settings, self.now);
        if resync.finishing
            || resync.waiting_for_metadata
            || resync.in_flight_bytes >= resync.pace.window_bytes()
            || (rate.is_some() && resync.budget_bytes <= 0)
        {
            return false;
        }
        let device = &mut self.devices[d];
        let Some(backing) = device.backing.as_deref() else { return false };
        let from = resync.position;
        let Some(first) = next_unasked(backing, resync, slot, from) else { return false };
        let by_checksum = resync.by_checksum;
        let pieces = pieces.filter(|_| !by_checksum);
        let usual_bytes = resync.pace.request_bytes().min(max_bytes(version));
        let max_bytes = pieces.map_or(usual_bytes, |pieces| pieces.request_bytes(usual_bytes));
        let (sector, bytes) = run_from(backing, resync, slot, first, max_bytes, device.size);
        let bytes = pieces.map_or(bytes, |pieces| pieces.cut(sector, bytes));
        let thin = pieces.is_some_and(|pieces| pieces.has(sector, bytes));
        if device.conflicts.would_wait(sector, bytes, true) {
            // Being written by somebody right now; that write may even settle it. Look again when it is done.
            return false;
        }
        let by_checksum = by_checksum && has_room;
        let stage = match by_checksum {
            true => AskedStage::Digesting,
            false if thin => AskedStage::SentThin,
            false => AskedStage::Sent,
        };
        resync.asked.push(Asked { sector, bytes, at: self.now, stage });
        resync.in_flight_bytes += u64::from(bytes);
        resync.budget_bytes = resync.budget_bytes.saturating_sub(i64::from(bytes));
        resync.position = sector.end_of(bytes).0.div_ceil(SECTORS_PER_BIT);
        let block = BlockRequest { sector, block_id: BLOCK_ID_RESYNC, bytes };
        let volume = self.devices[d].volume;
        if by_checksum {
            self.read_for_checksum(d, &block, out);
        } else if thin {
            self.send(volume, Packet::RsThinRequest(block), out);
        } else {
            self.send(volume, Packet::RsDataRequest(block), out);
        }
        true
    }

    /// Timer: a configured rate gives new budget; blocks that were busy are looked at again.
    pub(super) fn resync_tick(&mut self, d: usize, out: &mut Vec<Command>) {
        let now = self.now;
        let bits = self.out_of_sync_bits(d);
        let Some(connection) = self.connection.as_mut() else { return };
        let rate = configured_rate(&connection.peer_devices[d].options);
        let Some(resync) = connection.peer_devices[d].resync.as_deref_mut() else { return };
        if resync.next_tick > now {
            return;
        }
        resync.next_tick = now.plus_ms(TICK_MS);
        resync.mark(bits, now);
        if let Some(kib_per_s) = rate {
            resync.budget_bytes =
                resync.budget_bytes.min(0) + i64::from(kib_per_s) * 1024 * TICK_MS as i64 / 1000;
        }
        self.look_for_untold_marks(d);
        self.pump_resync(d, out);
    }

    /// As source: the target is done and no write is under way that could clear what is still marked here. It was marked
    /// after the bitmaps were exchanged, when the target could not be told: a new session tells it.
    fn look_for_untold_marks(&mut self, d: usize) {
        let Some(connection) = self.connection.as_deref() else { return };
        let resync = connection.peer_devices[d].resync.as_deref();
        if !resync.is_some_and(|resync| resync.target_is_done) {
            return;
        }
        let under_way = self.requests.iter().any(|(_, r)| r.device == d && r.is_write());
        if !under_way {
            self.end_session_for("The target of a resync is done, and does not know of blocks marked since");
        }
    }

    /// The resync is held from now on, or goes on.
    pub(super) fn resync_held(&mut self, d: usize, held: bool, out: &mut Vec<Command>) {
        let now = self.now;
        let bits = self.out_of_sync_bits(d);
        let connection = self.connection.as_deref_mut();
        if let Some(resync) = connection.and_then(|c| c.peer_devices[d].resync.as_deref_mut()) {
            resync.hold(held, bits, now);
        }
        if !held {
            self.pump_resync(d, out);
        }
    }

    /// The answer to a resync request is that there is none.
    pub(super) fn resync_refused(&mut self, d: usize, ack: &BlockAck, failed: bool, out: &mut Vec<Command>) {
        let now = self.now;
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        if let Some(resync) = peer_device.resync.as_deref_mut() {
            resync.written(ack.sector, ack.bytes, !failed, now);
        }
        self.pump_resync(d, out);
    }

    /// P_NEG_RS_DREPLY and P_RS_CANCEL of a resync.
    pub(super) fn resync_answer_refused(
        &mut self,
        d: usize,
        ack: &BlockAck,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let peer_device = &mut self.connection.as_mut().expect("packets come from a peer").peer_devices[d];
        if peer_device.answers_resync(ack.sector, ack.bytes)? {
            self.resync_refused(d, ack, true, out);
        }
        Ok(())
    }

    /// As source: the target wrote a block, or could not.
    pub(super) fn resync_acknowledged(
        &mut self,
        d: usize,
        ack: &BlockAck,
        written: bool,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let resync = peer_device.resync.as_deref_mut();
        if !resync.is_some_and(|r| r.copy_acknowledged(ack.sector, ack.bytes, written)) {
            return peer_device.stray_answer(ack.sector);
        }
        if written {
            self.clear_mirrored(d, ack.sector, ack.bytes, out);
        }
        Ok(())
    }

    /// Blocks that both nodes have alike now.
    pub(super) fn clear_mirrored(&mut self, d: usize, sector: Sector, bytes: u32, out: &mut Vec<Command>) {
        let Some(slot) = self.peer_slot(d) else { return };
        let outward = self.planted(Bug::PartialBlockCleared);
        let copied = self.connection.as_ref().is_some_and(|c| c.peer_devices[d].replication.is_target());
        let Some(backing) = self.devices[d].backing.as_deref_mut() else { return };
        let (sector, bytes) = if outward { whole_blocks(sector, bytes) } else { (sector, bytes) };
        if copied {
            backing.bitmap.clear_copied(slot, sector, bytes);
        } else {
            backing.bitmap.clear_in_sync(slot, sector, bytes);
        }
        self.source_finish_if_done(d, out);
    }

    /// What is remembered of a resync that ended.
    pub(super) fn remember_resync(&mut self, d: usize, as_source: bool, out: &mut Vec<Command>) {
        let now = self.now;
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let Some(resync) = peer_device.end_resync() else { return };
        let same = resync.same_bits * 4;
        let total = resync.total_bits * 4;
        let copied = resync.total_bits.saturating_sub(resync.failed_bits + resync.same_bits) * 4;
        let elapsed_ms = resync.elapsed_ms(now);
        let paused = resync.paused_ms(now) / 1000;
        peer_device.last_resync =
            Some(FinishedResync { copied, elapsed_ms, failed: resync.failed_bits * 4, as_source });
        let rate = copied * 1000 / elapsed_ms.max(1);
        let seconds = elapsed_ms / 1000;
        let subject = self.peer_device_subject(d);
        let text = format!(
            "Resync done (total {seconds} sec; paused {paused} sec; {rate} K/sec; copied {copied} KB)"
        );
        self.log("resync-done", Level::Info, subject.clone(), text, out);
        if same > 0 {
            let percent = same * 100 / total.max(1);
            let text = format!(
                "{percent} % had equal checksums, eliminated: {same}K; transferred {copied}K total {total}K"
            );
            self.log("resync-equal", Level::Info, subject, text, out);
        }
    }
}

/// KiB/s of the configuration: c-max-rate if it was given, resync-rate without the controller.
pub(super) fn configured_rate(options: &PeerDeviceOptions) -> Option<u32> {
    if options.c_plan_ahead_ds == 0 {
        return Some(options.resync_rate);
    }
    options.c_max_rate.filter(|&rate| rate > 0)
}

/// The blocks a stretch touches (for a planted bug).
fn whole_blocks(sector: Sector, bytes: u32) -> (Sector, u32) {
    let first = sector.0 / SECTORS_PER_BIT * SECTORS_PER_BIT;
    let end = sector.end_of(bytes).0.next_multiple_of(SECTORS_PER_BIT);
    (Sector(first), ((end - first) * 512) as u32)
}

/// Largest single request a peer of that version serves.
fn max_bytes(version: u32) -> u64 {
    match version {
        0..=94 => 32 << 10,
        _ => 128 << 10,
    }
}

/// Largest request for a piece that may be zeroes: its answer is large only if it is not.
fn thin_bytes_max(version: u32) -> u64 {
    match version {
        0..=99 => max_bytes(version),
        _ => REQUEST_BYTES_MAX.into(),
    }
}

fn next_unasked(
    backing: &super::device::Backing,
    resync: &mut Resync,
    slot: usize,
    from: u64,
) -> Option<u64> {
    let mut wrapped = false;
    let mut bit = from;
    loop {
        match backing.bitmap.next_set(slot, bit) {
            Some(found) => {
                let sector = Sector(found * SECTORS_PER_BIT);
                if !resync.asked_for(sector, BYTES_PER_BIT as u32) {
                    return Some(found);
                }
                bit = found + 1;
            }
            // Bits may have been set behind us. Once around; failed blocks stay set and end the search at the top.
            None if !wrapped && resync.asked.is_empty() && resync.failed_bits == 0 => {
                wrapped = true;
                bit = 0;
                resync.position = 0;
            }
            None => return None,
        }
    }
}

/// The longest stretch from a bit that makes one request.
fn run_from(
    backing: &super::device::Backing,
    resync: &Resync,
    slot: usize,
    first: u64,
    max_bytes: u64,
    size: Sector,
) -> (Sector, u32) {
    let sector = Sector(first * SECTORS_PER_BIT);
    let border = (sector.0 / RESYNC_EXTENT_SECTORS + 1) * RESYNC_EXTENT_SECTORS;
    let mut end = first + 1;
    while (end - first) * BYTES_PER_BIT < max_bytes
        && end * SECTORS_PER_BIT < border.min(size.0)
        && backing.bitmap.next_set(slot, end) == Some(end)
        && !resync.asked_for(Sector(end * SECTORS_PER_BIT), BYTES_PER_BIT as u32)
    {
        end += 1;
    }
    let end_sector = (end * SECTORS_PER_BIT).min(size.0);
    (sector, ((end_sector - sector.0) * 512) as u32)
}
