//! Online verify: both nodes digest every block, the node that was asked compares (8.5 of the wire reference).
//!
//! The source asks for the digest of a block while no write to it is under way here, holds its own writes to it until
//! the answer comes, and reads its own copy when it does: in the order of the stream, so both digests are of the same
//! writes. The other node holds its own writes from its answer until it is told the verdict. What differs is marked on
//! both nodes; nothing is copied. How many blocks are under way at once is the matter of the same controller as a
//! resync's (`resync_pace`): a verify yields to the application, and keeps the rates that are configured.

use super::command::{Command, Level};
use super::connection::PingFor;
use super::meta_jobs::Job;
use super::planted::Bug;
use super::resource::{HandlerOwner, Resource};
use super::resync_pace::{Answer, Pace, Settings};
use super::senseless::{senseless, Senseless};
use super::state_change::Snapshot;
use super::write_path::peer_request::{PeerOp, PeerRequest};
use crate::control::{ResyncObject, VerifyObject};
use crate::ids::{Instant, Sector};
use crate::limits::{BYTES_PER_BIT, PEER_REQUESTS_MAX, SECTORS_PER_BIT};
use crate::states::{DiskState, ReplicationState};
use crate::wire::{BlockAck, BlockRequest, DigestRequest, Packet, BLOCK_ID_RESYNC};

/// Verdicts of P_OV_RESULT.
const IN_SYNC: u64 = 4711;
const OUT_OF_SYNC: u64 = 4712;
/// Blocks asked for and not yet compared.
const WINDOW: usize = 512;
/// Distance of the marks the shown rate is measured between.
const MARK_MS: u64 = 3000;
/// How often the rate, and blocks that were busy, are looked at.
const TICK_MS: u64 = 100;

/// What the next verify is to compare, as asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VerifyPlan {
    start: Option<u64>,
    stop: Option<u64>,
    /// Where the last one stopped.
    next_start: u64,
}

/// A verify, seen from either side.
#[derive(Debug)]
pub(super) struct Verify {
    started: Instant,
    start: u64,
    /// First sector that is not compared.
    end: u64,
    position: u64,
    total_bits: u64,
    left_bits: u64,
    /// Source: asked for, not yet compared. Else: answered, and no verdict yet.
    open: Vec<Open>,
    /// What they sum up to.
    open_bytes: u64,
    /// Source: how much may be under way.
    pace: Pace,
    skipped_sectors: u64,
    /// A stretch found out of sync, told when its end is known.
    stretch: Option<(u64, u64)>,
    /// Size of the digests, once known.
    digest_bytes: usize,
    budget_blocks: u64,
    pub(super) next_tick: Instant,
    /// Source: everything is compared; whether the peer has all verdicts is being found out.
    ending: bool,
    marks: [(Instant, u64); 2],
}

/// A block under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    sector: Sector,
    bytes: u32,
    since: Instant,
}

impl Open {
    fn is(&self, sector: Sector, bytes: u32) -> bool {
        (self.sector, self.bytes) == (sector, bytes)
    }
}

impl Verify {
    fn new(start: u64, end: u64, settings: Settings, now: Instant) -> Verify {
        let bits = end.div_ceil(SECTORS_PER_BIT) - start / SECTORS_PER_BIT;
        Verify {
            started: now,
            start,
            end,
            position: start,
            total_bits: bits,
            left_bits: bits,
            open: Vec::with_capacity(WINDOW),
            open_bytes: 0,
            pace: Pace::new(settings, now),
            skipped_sectors: 0,
            stretch: None,
            digest_bytes: 0,
            budget_blocks: 0,
            next_tick: now,
            ending: false,
            marks: [(now, bits); 2],
        }
    }

    /// Writes to that stretch have to wait for a verdict.
    pub(super) fn holds(&self, sector: Sector, bytes: u32) -> bool {
        let end = sector.end_of(bytes);
        self.open.iter().any(|open| open.sector < end && sector < open.sector.end_of(open.bytes))
    }

    fn is_open(&self, sector: Sector, bytes: u32) -> bool {
        self.open.iter().any(|open| open.is(sector, bytes))
    }

    /// Blocks under way.
    #[cfg(test)]
    pub(super) fn open_blocks(&self) -> usize {
        self.open.len()
    }

    fn open(&mut self, sector: Sector, bytes: u32, since: Instant) {
        self.open.push(Open { sector, bytes, since });
        self.open_bytes += u64::from(bytes);
    }

    /// The peer owes an answer.
    pub(super) fn has_open_questions(&self) -> bool {
        !self.open.is_empty()
    }

    /// A block is over; false if it was not open.
    fn close(&mut self, sector: Sector, bytes: u32, now: Instant) -> bool {
        let Some(at) = self.open.iter().position(|open| open.is(sector, bytes)) else { return false };
        let in_flight_bytes = self.open_bytes;
        let open = self.open.swap_remove(at);
        self.open_bytes -= u64::from(bytes);
        let answer = Answer { asked_at: open.since, bytes: u64::from(bytes), in_flight_bytes };
        self.pace.answered(&answer, now);
        self.left_bits = self.left_bits.saturating_sub(1);
        true
    }

    /// First sector that may not be compared yet.
    fn reached(&self) -> u64 {
        self.open.iter().map(|open| open.sector.0).min().unwrap_or(self.position)
    }

    /// Another stretch out of sync; the one before it, if they do not adjoin.
    fn found(&mut self, sector: Sector, bytes: u32) -> Option<(u64, u64)> {
        let sectors = u64::from(bytes) / 512;
        match &mut self.stretch {
            Some((first, length)) if *first + *length == sector.0 => {
                *length += sectors;
                None
            }
            other => other.replace((sector.0, sectors)),
        }
    }

    fn rate_kib_per_s(&self, now: Instant) -> u64 {
        let (since, then) = self.marks[0];
        then.saturating_sub(self.left_bits) * (BYTES_PER_BIT / 1024) * 1000 / now.ms_since(since).max(1)
    }

    /// For `status`.
    pub(super) fn object(&self, now: Instant, size: Sector) -> ResyncObject {
        ResyncObject {
            total: self.total_bits * 4,
            left: self.left_bits * 4,
            failed: 0,
            same_csum: 0,
            elapsed_ms: now.ms_since(self.started),
            paused_ms: 0,
            rate: self.rate_kib_per_s(now),
            want: 0,
            marks: None,
            verify: Some(VerifyObject {
                start_sector: self.start,
                stop_sector: (self.end < size.0).then_some(self.end),
                position: self.position,
                skipped: self.skipped_sectors,
            }),
        }
    }
}

impl Resource {
    // ---- beginning and end ---------------------------------------------------------------------------------------

    /// What the verify that is about to begin compares.
    pub(super) fn plan_verify(&mut self, d: usize, start: Option<u64>, stop: Option<u64>) {
        if let Some(connection) = self.connection.as_deref_mut() {
            let plan = &mut connection.peer_devices[d].verify_plan;
            (plan.start, plan.stop) = (start, stop.filter(|&stop| stop > 0));
        }
    }

    /// Both nodes agreed to a verify.
    pub(super) fn begin_verify(&mut self, d: usize, out: &mut Vec<Command>) {
        let (now, size) = (self.now, self.devices[d].size.0);
        let left_out = if self.planted(Bug::VerifyEndsEarly) { SECTORS_PER_BIT } else { 0 };
        let Some(connection) = self.connection.as_deref_mut() else { return };
        // Older peers, and version 100, finish by their own count only.
        let stops = connection.session().is_some_and(|s| s.version >= 97 && s.version != 100);
        let peer_device = &mut connection.peer_devices[d];
        let as_source = peer_device.replication == ReplicationState::VerifyS;
        let plan = peer_device.verify_plan;
        let settings = Settings::new(&connection.options, &peer_device.options);
        let last_block = size.saturating_sub(1) / SECTORS_PER_BIT * SECTORS_PER_BIT;
        let (start, end) = if as_source {
            let start = plan.start.unwrap_or(plan.next_start) / SECTORS_PER_BIT * SECTORS_PER_BIT;
            let start = start.min(last_block);
            // At least one block is asked for, else the other side does not know where it stands.
            let end =
                plan.stop.filter(|_| stops).unwrap_or(size).min(size).saturating_sub(left_out).max(start + 1);
            (start, end.next_multiple_of(SECTORS_PER_BIT).min(size))
        } else {
            (0, size)
        };
        peer_device.verify = Some(Box::new(Verify::new(start, end, settings, now)));
        if as_source {
            let text = format!("Starting Online Verify from sector {start}");
            self.log("verify-begin", Level::Info, self.peer_device_subject(d), text, out);
            self.pump_verify(d, out);
        }
    }

    /// The state left the verify: what was running is broken off, unless it came to its end.
    pub(super) fn verify_left(&mut self, d: usize, out: &mut Vec<Command>) {
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let peer_device = &mut connection.peer_devices[d];
        let Some(verify) = peer_device.end_verify() else { return };
        let reached = verify.reached();
        peer_device.verify_plan.next_start = reached;
        self.tell_stretch(d, verify.stretch, out);
        let text = format!("Online Verify reached sector {reached}");
        self.log("verify-broken-off", Level::Info, self.peer_device_subject(d), text, out);
    }

    /// Every block is compared here and the other side knows, or said so.
    pub(super) fn finish_verify(&mut self, d: usize, out: &mut Vec<Command>) {
        let (now, size) = (self.now, self.devices[d].size.0);
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let version = connection.session().map_or(0, |s| s.version);
        let peer_device = &mut connection.peer_devices[d];
        let as_source = peer_device.replication == ReplicationState::VerifyS;
        let Some(verify) = peer_device.end_verify() else { return };
        let reached = if as_source { verify.end } else { verify.position };
        peer_device.verify_plan.next_start = if reached >= size { 0 } else { reached };
        self.tell_stretch(d, verify.stretch, out);
        let elapsed_ms = now.ms_since(verify.started);
        let rate = (verify.total_bits - verify.left_bits) * 4 * 1000 / elapsed_ms.max(1);
        let text =
            format!("Online verify done (total {} sec; paused 0 sec; {rate} K/sec)", elapsed_ms / 1000);
        self.log("verify-done", Level::Info, self.peer_device_subject(d), text, out);
        let edit = |v: Option<usize>, s: &mut Snapshot| {
            if v == Some(d) {
                s.replication = ReplicationState::Established;
            }
        };
        self.force(&edit, out);
        if as_source && version >= 97 && version != 100 {
            self.send_state(d, out);
        }
        self.meta_job(d, Job::everything(None), out);
        let bits = self.out_of_sync_bits(d);
        if bits > 0 {
            let text = format!("Online verify found {bits} 4k block out of sync!");
            self.log("verify-found", Level::Error, self.peer_device_subject(d), text, out);
            self.run_handler("out-of-sync", Some(d), HandlerOwner::Nobody, out);
        }
    }

    fn tell_stretch(&self, d: usize, stretch: Option<(u64, u64)>, out: &mut Vec<Command>) {
        if let Some((first, length)) = stretch {
            let text = format!("Out of sync: start={first}, size={length} (sectors)");
            self.log("out-of-sync", Level::Error, self.peer_device_subject(d), text, out);
        }
    }

    /// Marks a block that differs.
    fn mark_difference(&mut self, d: usize, sector: Sector, bytes: u32, out: &mut Vec<Command>) {
        if self.planted(Bug::DifferenceNotMarked) {
            return;
        }
        self.mark_blocks(d, sector, bytes);
        let connection = self.connection.as_deref_mut();
        let verify = connection.and_then(|c| c.peer_devices[d].verify.as_deref_mut());
        let before = verify.and_then(|verify| verify.found(sector, bytes));
        self.tell_stretch(d, before, out);
    }

    // ---- as source -----------------------------------------------------------------------------------------------

    /// Asks for more, and notices the end.
    pub(super) fn pump_verify(&mut self, d: usize, out: &mut Vec<Command>) {
        while self.ask_for_digest(d, out) {}
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let peer_device = &mut connection.peer_devices[d];
        let source = peer_device.replication == ReplicationState::VerifyS;
        let Some(verify) = peer_device.verify.as_deref_mut().filter(|_| source) else { return };
        if !verify.ending && verify.position >= verify.end && verify.open.is_empty() {
            verify.ending = true;
            // The verdicts go by the other stream than the state that ends it.
            self.ping(PingFor::VerifyEnd(d), out);
        }
    }

    fn ask_for_digest(&mut self, d: usize, out: &mut Vec<Command>) -> bool {
        let Some(connection) = self.connection.as_deref_mut() else { return false };
        let peer_device = &mut connection.peer_devices[d];
        // Asked first: this is called for each request.
        if peer_device.replication != ReplicationState::VerifyS {
            return false;
        }
        let limited = super::resync::configured_rate(&peer_device.options).is_some();
        let settings = Settings::new(&connection.options, &peer_device.options);
        let Some(verify) = peer_device.verify.as_deref_mut() else { return false };
        verify.pace.observe(self.devices[d].last_application, settings, self.now);
        if verify.position >= verify.end
            || verify.open.len() >= WINDOW
            || verify.open_bytes >= verify.pace.window_bytes()
            || (limited && verify.budget_blocks == 0)
        {
            return false;
        }
        let device = &mut self.devices[d];
        let sector = Sector(verify.position);
        let sectors = SECTORS_PER_BIT.min(device.size.0 - sector.0);
        let bytes = (sectors * 512) as u32;
        if device.conflicts.would_wait(sector, bytes, false) {
            // Being written right now: look again when that is over.
            return false;
        }
        verify.position += sectors;
        verify.budget_blocks = verify.budget_blocks.saturating_sub(1);
        verify.open(sector, bytes, self.now);
        let block = BlockRequest { sector, block_id: BLOCK_ID_RESYNC, bytes };
        let volume = device.volume;
        self.send(volume, Packet::OvRequest(block), out);
        true
    }

    /// Timer: a configured rate gives new budget, blocks that were busy are looked at again.
    pub(super) fn verify_tick(&mut self, d: usize, out: &mut Vec<Command>) {
        let now = self.now;
        let Some(connection) = self.connection.as_deref_mut() else { return };
        let peer_device = &mut connection.peer_devices[d];
        let rate = super::resync::configured_rate(&peer_device.options);
        let Some(verify) = peer_device.verify.as_deref_mut().filter(|v| v.next_tick <= now) else { return };
        verify.next_tick = now.plus_ms(TICK_MS);
        if now.ms_since(verify.marks[1].0) >= MARK_MS && verify.marks[1].1 != verify.left_bits {
            verify.marks = [verify.marks[1], (now, verify.left_bits)];
        }
        if let Some(kib_per_s) = rate {
            verify.budget_blocks = (u64::from(kib_per_s) * TICK_MS / 1000 / (BYTES_PER_BIT / 1024)).max(1);
        }
        self.pump_verify(d, out);
    }

    /// P_OV_REPLY.
    pub(super) fn verify_answered(
        &mut self,
        d: usize,
        reply: DigestRequest,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let DigestRequest { block, digest } = reply;
        let peer_device = &self.connection.as_ref().expect("packets come from a peer").peer_devices[d];
        let open = |v: &Verify| v.is_open(block.sector, block.bytes);
        let as_source = peer_device.replication == ReplicationState::VerifyS;
        if !peer_device.verify.as_deref().is_some_and(|verify| as_source && open(verify)) {
            return peer_device.stray_answer(block.sector);
        }
        if self.devices[d].disk != DiskState::UpToDate || self.room_for_peer() == 0 {
            self.pass_verdict(d, &block, IN_SYNC, true, out);
            return Ok(());
        }
        self.peer_reads_against(d, PeerOp::VerifyCompare, &block, digest, out);
        Ok(())
    }

    /// Both digests of a block are known.
    pub(super) fn block_compared(&mut self, request: &PeerRequest, equal: bool, out: &mut Vec<Command>) {
        let PeerRequest { device: d, sector, bytes, block_id, .. } = *request;
        let block = BlockRequest { sector, block_id, bytes };
        let open = self.connection.as_ref().and_then(|c| c.peer_devices[d].verify.as_deref());
        if !open.is_some_and(|verify| verify.is_open(sector, bytes)) {
            return;
        }
        if !equal {
            self.mark_difference(d, sector, bytes, out);
        }
        self.pass_verdict(d, &block, if equal { IN_SYNC } else { OUT_OF_SYNC }, false, out);
    }

    fn pass_verdict(
        &mut self,
        d: usize,
        block: &BlockRequest,
        verdict: u64,
        skipped: bool,
        out: &mut Vec<Command>,
    ) {
        let (volume, now) = (self.devices[d].volume, self.now);
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let seq = peer_device.next_sequence();
        let BlockRequest { sector, bytes, .. } = *block;
        if let Some(verify) = peer_device.verify.as_deref_mut() {
            verify.close(sector, bytes, now);
            verify.skipped_sectors += if skipped { u64::from(bytes) / 512 } else { 0 };
        }
        let ack = BlockAck { sector, block_id: verdict, bytes, seq };
        self.send_control(volume, Packet::OvResult(ack), out);
        self.block_is_free(d, out);
        self.pump_verify(d, out);
    }

    /// The peer cannot read a block (P_NEG_RS_DREPLY).
    pub(super) fn verify_refused(
        &mut self,
        d: usize,
        ack: &BlockAck,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let now = self.now;
        let connection = self.connection.as_deref_mut().expect("packets come from a peer");
        let peer_device = &mut connection.peer_devices[d];
        let Some(verify) = peer_device.verify.as_deref_mut() else { return Ok(()) };
        if !verify.close(ack.sector, ack.bytes, now) {
            return peer_device.stray_answer(ack.sector);
        }
        verify.skipped_sectors += u64::from(ack.bytes) / 512;
        self.block_is_free(d, out);
        self.pump_verify(d, out);
        Ok(())
    }

    /// Asks for digests here at the moment.
    pub(super) fn verifies(&self, d: usize) -> bool {
        let connection = self.connection.as_deref();
        connection.is_some_and(|c| c.peer_devices[d].replication == ReplicationState::VerifyS)
    }

    fn block_is_free(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.devices[d].has_held() {
            self.start_held(d, out);
        }
    }

    /// The peer has every verdict.
    pub(super) fn verify_pinged(&mut self, d: usize, out: &mut Vec<Command>) {
        let connection = self.connection.as_deref();
        let verify = connection.and_then(|c| c.peer_devices[d].verify.as_deref());
        if verify.is_some_and(|verify| verify.ending) {
            self.finish_verify(d, out);
        }
    }

    // ---- as the other side ---------------------------------------------------------------------------------------

    /// P_OV_REQUEST.
    pub(super) fn verify_asked(
        &mut self,
        d: usize,
        block: &BlockRequest,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let size = self.devices[d].size.0;
        let now = self.now;
        let connection = self.connection.as_deref_mut().expect("packets come from a peer");
        let settings = Settings::new(&connection.options, &connection.peer_devices[d].options);
        if let Some(verify) = connection.peer_devices[d].verify.as_deref_mut() {
            if verify.position == 0 && verify.left_bits == verify.total_bits && block.sector.0 < size {
                // The first one tells where the verify begins.
                let aligned = block.sector.0 / SECTORS_PER_BIT * SECTORS_PER_BIT;
                *verify = Verify::new(aligned, size, settings, now);
            }
            if verify.open.len() >= PEER_REQUESTS_MAX {
                return senseless(
                    "number",
                    verify.open.len() as u64 + 1,
                    "more than may be without a verdict",
                );
            }
            verify.position = verify.position.max(block.sector.end_of(block.bytes).0);
        }
        self.peer_reads(d, PeerOp::VerifyRead, block, out);
        Ok(())
    }

    /// The digest of what the peer verifies is known, or cannot be had.
    pub(super) fn answer_verify(
        &mut self,
        request: &PeerRequest,
        digest: Option<Box<[u8]>>,
        out: &mut Vec<Command>,
    ) {
        let PeerRequest { device: d, sector, bytes, block_id, .. } = *request;
        let (volume, now) = (self.devices[d].volume, self.now);
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let Some(verify) = peer_device.verify.as_deref_mut() else { return self.refuse_read(request, out) };
        let digest = match digest {
            Some(digest) => digest,
            // No data has that digest: the peer takes the block for different.
            None if verify.digest_bytes > 0 => vec![0; verify.digest_bytes].into(),
            None => return self.refuse_read(request, out),
        };
        verify.digest_bytes = digest.len();
        verify.open(sector, bytes, now);
        let block = BlockRequest { sector, block_id, bytes };
        self.send(volume, Packet::OvReply(Box::new(DigestRequest { block, digest })), out);
    }

    /// P_OV_RESULT.
    pub(super) fn verdict_received(
        &mut self,
        d: usize,
        ack: &BlockAck,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        if ack.block_id != OUT_OF_SYNC && ack.block_id != IN_SYNC {
            return senseless("block_id", ack.block_id, "no verdict");
        }
        let now = self.now;
        let connection = self.connection.as_deref_mut().expect("packets come from a peer");
        let peer_device = &mut connection.peer_devices[d];
        let as_source = peer_device.replication == ReplicationState::VerifyS;
        let verify = peer_device.verify.as_deref_mut().filter(|_| !as_source);
        if !verify.is_some_and(|verify| verify.close(ack.sector, ack.bytes, now)) {
            peer_device.stray_answer(ack.sector)?;
        }
        let inside = ack.sector.end_of(ack.bytes).0 <= self.devices[d].size.0;
        if ack.block_id == OUT_OF_SYNC && inside {
            self.mark_difference(d, ack.sector, ack.bytes, out);
        }
        self.block_is_free(d, out);
        self.end_counted_verify(d, out);
        Ok(())
    }

    /// The peer was told that it does not get a digest: it counts the block as skipped, and sends no verdict.
    pub(super) fn digest_refused(&mut self, request: &PeerRequest, out: &mut Vec<Command>) {
        let d = request.device;
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        let asked = peer_device.replication == ReplicationState::VerifyT;
        let Some(verify) = peer_device.verify.as_deref_mut().filter(|_| asked) else { return };
        verify.left_bits = verify.left_bits.saturating_sub(1);
        verify.skipped_sectors += u64::from(request.bytes) / 512;
        self.end_counted_verify(d, out);
    }

    /// All blocks up to the end are counted: older peers do not say that they are done.
    fn end_counted_verify(&mut self, d: usize, out: &mut Vec<Command>) {
        let peer_device = &self.connection.as_deref().expect("a session").peer_devices[d];
        let asked = peer_device.replication == ReplicationState::VerifyT;
        let over = |verify: &Verify| verify.left_bits == 0 && verify.open.is_empty();
        if asked && peer_device.verify.as_deref().is_some_and(over) {
            self.finish_verify(d, out);
        }
    }
}
