//! The user of the device: asks on the Primary, remembers what was asked, and checks what is answered.

use super::checkers::durability::Promise;
use super::checkers::Claims;
use super::clock::US;
use super::cluster::{Cluster, Happening};
use super::disk::Tag;
use super::node::Asked;
use super::workload::Wish;
use drbd_core::engine::{Event, RequestLimits, RequestPart, UpperOp, UpperRequest, UpperResult};
use drbd_core::ids::{PayloadId, Sector, UpperTag, VolumeNumber};
use drbd_core::states::{DiskState, Protocol, ReplicationState};
use drbd_core::wire::{BlockAck, Frame, Packet};
use std::rc::Rc;

impl Cluster {
    /// The application begins on a node.
    pub(crate) fn start_application(&mut self, node: usize) {
        if self.daemon(node).open {
            return;
        }
        self.daemon(node).open = true;
        self.daemon(node).closing = false;
        for volume in 0..self.sizes.len() {
            if !self.has_volume(node, volume) {
                continue;
            }
            self.handle(node, Event::Opened { volume: VolumeNumber(volume as u16) });
        }
        self.next_tick(node);
    }

    /// The application is to end; `true`: it has.
    pub(crate) fn stop_application(&mut self, node: usize) -> bool {
        let daemon = self.daemon(node);
        if !daemon.open {
            return true;
        }
        daemon.closing = true;
        if !daemon.asked.is_empty() {
            return false;
        }
        daemon.open = false;
        for volume in 0..self.sizes.len() {
            if !self.has_volume(node, volume) {
                continue;
            }
            self.handle(node, Event::Closed { volume: VolumeNumber(volume as u16) });
        }
        true
    }

    fn next_tick(&mut self, node: usize) {
        let usual = self.setup.request_gap;
        let gap = self.dice.application.skewed(usual / 10, usual, usual * 20);
        let run = self.nodes[node].run;
        self.clock.after(gap.max(US), Happening::Application { node, run });
    }

    /// The application wants something, if it may go on.
    pub(crate) fn application(&mut self, node: usize, run: u32) {
        if !self.is_run(node, run) || !self.daemon(node).open || self.daemon(node).closing {
            return;
        }
        if self.healed_at.is_some() || self.is_silent() {
            return;
        }
        if (self.daemon(node).asked.len() as u64) < self.setup.depth {
            let burst = self.dice.application.between(1, 2 * self.setup.burst - 1);
            for _ in 0..burst {
                let wish = self.workload.next(&mut self.dice.application);
                self.ask(node, wish);
                if self.failure.is_some() {
                    return;
                }
            }
        }
        self.next_tick(node);
    }

    fn ask(&mut self, node: usize, wish: Wish) {
        // Sometimes it looked before the peer came: then the engine tells.
        let stale = self.dice.application.chance(100);
        if !self.has_volume(node, wish.volume) {
            return;
        }
        let volume = VolumeNumber(wish.volume as u16);
        let limits = self.daemon(node).resource.request_limits(volume);
        let limits = if stale { RequestLimits::LARGEST } else { limits };
        for part in take_apart(wish, &limits) {
            let request = self.begin(node, part);
            self.handle(node, Event::Upper(request));
        }
    }

    /// What a daemon that died was asked for, for its successor: the same write, if it takes that whole.
    pub(crate) fn begin_again(&mut self, node: usize, held: &Asked) -> Vec<UpperRequest> {
        let wish = held.wish;
        let limits = self.daemon(node).resource.request_limits(VolumeNumber(wish.volume as u16));
        let zero_data = held.zero_data;
        if limits.fits(wish.op, (wish.count * 512) as u32) {
            let request = self.note_asked(node, Part { wish, zero_data }, held.write);
            if let Some(asked) = self.daemon(node).asked.get_mut(&request.tag.0) {
                asked.again = true;
            }
            return vec![request];
        }
        if let Some(number) = held.write {
            self.ledgers[wish.volume].give_up(number);
        }
        let parts = take_apart(wish, &limits).into_iter();
        parts.map(|part| self.begin(node, Part { zero_data: part.zero_data | zero_data, ..part })).collect()
    }

    /// Notes what is asked for.
    fn begin(&mut self, node: usize, part: Part) -> UpperRequest {
        let Part { wish, zero_data } = part;
        let ledger = &mut self.ledgers[wish.volume];
        let write = match wish.op {
            UpperOp::Read | UpperOp::Flush => None,
            UpperOp::Write => Some(ledger.begin(node, wish.sector, wish.count, zero_data)),
            UpperOp::Discard | UpperOp::WriteZeroes { .. } => {
                Some(ledger.begin(node, wish.sector, wish.count, true))
            }
        };
        self.note_asked(node, part, write)
    }

    fn note_asked(
        &mut self,
        node: usize,
        Part { wish, zero_data }: Part,
        write: Option<u32>,
    ) -> UpperRequest {
        let ledger = &mut self.ledgers[wish.volume];
        let begun = ledger.now();
        let mark = write.map_or(0, |number| ledger.write(number).content);
        let shows = self.shows(node, wish.volume);
        let daemon = self.daemon(node);
        let count = wish.count as usize;
        let payload = match wish.op {
            UpperOp::Write => daemon.payloads.take(Rc::new(vec![mark; count]), 1),
            UpperOp::Read => {
                // Its one reference comes back with the completion, or the engine drops it.
                daemon.payloads.take(Rc::new(vec![Tag::MAX; count]), 1)
            }
            UpperOp::Flush | UpperOp::Discard | UpperOp::WriteZeroes { .. } => PayloadId::NONE,
        };
        let tag = daemon.next_tag;
        daemon.next_tag += 1;
        daemon.asked.insert(
            tag,
            Asked {
                wish,
                write,
                begun,
                zero_data,
                block_id: 0,
                refused: false,
                shows,
                again: false,
                handed_back: false,
            },
        );
        UpperRequest {
            tag: UpperTag(tag),
            volume: VolumeNumber(wish.volume as u16),
            op: wish.op,
            sector: Sector(wish.sector),
            bytes: (wish.count * 512) as u32,
            payload,
            fua: wish.fua,
        }
    }

    /// A peer came that cannot be sent that whole.
    fn ask_again(&mut self, node: usize, asked: &Asked, payload: PayloadId) {
        let wish = asked.wish;
        if let Some(number) = asked.write {
            self.ledgers[wish.volume].give_up(number);
        }
        if payload != PayloadId::NONE {
            self.daemon(node).payloads.release(payload);
        }
        let limits = self.daemon(node).resource.request_limits(VolumeNumber(wish.volume as u16));
        let fits = limits.fits(wish.op, (wish.count * 512) as u32);
        if fits && asked.handed_back {
            self.fail("contract", format!("n{node} does not take {wish:?}, which fits {limits:?}"));
            return;
        }
        for mut part in take_apart(wish, &limits) {
            part.zero_data |= asked.zero_data;
            let request = self.begin(node, part);
            if let Some(asked) = self.daemon(node).asked.get_mut(&request.tag.0) {
                asked.handed_back = fits;
            }
            // The engine is still at it.
            self.post(node, 0, Event::Upper(request));
        }
    }

    /// A request of the application is answered.
    pub(crate) fn complete(&mut self, node: usize, tag: UpperTag, result: UpperResult, payload: PayloadId) {
        self.note(Some(node), "complete", format_args!("{tag} {result:?}"));
        let Some(asked) = self.daemon(node).asked.remove(&tag.0) else {
            self.fail("contract", format!("n{node} completes request {tag}, which is not outstanding"));
            return;
        };
        if asked.wish.op != UpperOp::Read {
            self.check_freeze(node, result);
        }
        match asked.wish.op {
            _ if result == UpperResult::Split => self.ask_again(node, &asked, payload),
            UpperOp::Read => self.read_done(node, &asked, result, payload),
            UpperOp::Flush => {
                if result == UpperResult::Done {
                    self.flush_done(node, &asked);
                }
            }
            UpperOp::Write | UpperOp::Discard | UpperOp::WriteZeroes { .. } => {
                self.write_done(node, &asked, result);
            }
        }
        // A script may wait for the last request; it goes on when the engine has finished this event.
        let run = self.nodes[node].run;
        self.clock.after(0, Happening::Operator { node, run });
    }

    /// Whose data a node shows, by bit: the target of a resync its source's, wherever it reads them.
    fn shows(&self, node: usize, volume: usize) -> u8 {
        let good = |c: Claims| c.disk.has_data() && c.disk != DiskState::Inconsistent;
        1 << if self.claims(node, volume).is_some_and(good) { node } else { 1 - node }
    }

    fn read_done(&mut self, node: usize, asked: &Asked, result: UpperResult, payload: PayloadId) {
        if result == UpperResult::Done {
            self.report.reads += 1;
            // The disk may have come or gone meanwhile.
            let shows = asked.shows | self.shows(node, asked.wish.volume);
            let tags = self.daemon(node).payloads.tags(payload);
            for (n, tag) in tags.iter().enumerate() {
                let sector = asked.wish.sector + n as u64;
                let verdict = self.ledgers[asked.wish.volume].read(node, shows, sector, *tag, asked.begun);
                if verdict.is_err() {
                    self.judge("durability", verdict);
                    return;
                }
            }
        }
        if payload != PayloadId::NONE {
            self.daemon(node).payloads.release(payload);
        }
    }

    fn write_done(&mut self, node: usize, asked: &Asked, result: UpperResult) {
        let number = asked.write.expect("a write is in the ledger");
        let volume = asked.wish.volume;
        if result != UpperResult::Done {
            self.write_given_up(volume, number);
            return;
        }
        self.report.writes += 1;
        let protocol = self.setup.net.protocol;
        let Some(claims) = self.claims(node, volume) else { return };
        let apart = self.writes_apart(node, volume);
        self.ledgers[volume].diverged |= apart;
        let (own, peer) = (1 << node, 1 << (1 - node));
        // What only the peer has good data of is acknowledged as under C. A disk that is being detached is flushed.
        let holds = claims.holds() || claims.disk == DiskState::Detaching;
        let protocol = if holds { protocol } else { Protocol::C };
        let mut must = if claims.holds() { own } else { 0 };
        let mut later = 0;
        if claims.peer_holds() && !asked.refused {
            if protocol == Protocol::C {
                must |= peer;
            } else if protocol == Protocol::B {
                later = peer;
            }
        }
        let nodes = &self.nodes;
        let look = |n: usize, sector: u64| nodes[n].volumes[volume].data.current()[sector as usize];
        // No generation tells the two apart before the resync begins.
        let begins =
            matches!(claims.replication, ReplicationState::StartingSyncS | ReplicationState::WFBitMapS);
        let outrun = begins && self.ledgers[volume].is_forced_over(node);
        let promise = match protocol {
            _ if outrun => Promise::Outrun,
            Protocol::A if apart || self.ledgers[volume].is_led_by_another(node) => Promise::Outrun,
            Protocol::A => Promise::Weak,
            Protocol::B | Protocol::C => Promise::Kept,
        };
        let verdict = self.ledgers[volume].acknowledge(number, must, later, promise, &look);
        self.judge("durability", verdict);
        if protocol == Protocol::B && later == 0 && claims.replication.is_source() {
            self.ledgers[volume].received_by_target(number, 1 - node);
        }
        self.wrote_alone(node, volume);
        if asked.wish.fua && self.failure.is_none() {
            let nodes = &self.nodes;
            let stable = |n: usize, sector: u64| nodes[n].volumes[volume].data.stable_at(sector);
            let verdict = self.ledgers[volume].is_stable_now(number, must, &stable);
            self.judge("durability", verdict);
        }
    }

    /// A write is sent to the peer. Of several that are alike the first is sent first.
    pub(crate) fn write_sent(&mut self, node: usize, frame: &Frame) {
        let (sent, bytes, block_id) = match &frame.packet {
            Packet::Data(data) => (data.sector, data.bytes, data.block_id),
            Packet::Trim(trim) | Packet::Zeroes(trim) => (trim.sector, trim.bytes, trim.block_id),
            _ => return,
        };
        let volume = usize::from(frame.volume.0);
        let Some(daemon) = self.nodes[node].daemon.as_mut() else { return };
        let alike = |asked: &Asked| {
            let Wish { volume: v, sector, count, .. } = asked.wish;
            (v, sector, count) == (volume, sent.0, u64::from(bytes) / 512) && asked.write.is_some()
        };
        if let Some(asked) = daemon.asked.values().find(|asked| asked.block_id == block_id) {
            if let Some(number) = asked.write {
                self.ledgers[volume].sent_again(number, 1 - node);
            }
        } else if let Some(asked) =
            daemon.asked.values_mut().find(|asked| asked.block_id == 0 && alike(asked))
        {
            asked.block_id = block_id;
            if let Some(number) = asked.write.filter(|_| asked.again) {
                self.ledgers[volume].sent_again(number, 1 - node);
            }
        }
    }

    /// The peer's disk refused a write, which this node learns before it is told that the disk was given up: the write is
    /// done without the peer. If it was called done before, and this node has given up its own disk since, both disks have
    /// failed it.
    pub(crate) fn write_refused(&mut self, node: usize, volume: VolumeNumber, ack: &BlockAck) {
        let volume = usize::from(volume.0);
        if self.claims(node, volume).is_some_and(|c| !c.disk.has_data()) {
            self.ledgers[volume].refused_by_both(ack.sector.0, u64::from(ack.bytes) / 512);
        }
        let Some(daemon) = self.nodes[node].daemon.as_mut() else { return };
        if let Some(asked) = daemon.asked.values_mut().find(|asked| asked.block_id == ack.block_id) {
            asked.refused = true;
        }
    }

    fn flush_done(&mut self, node: usize, asked: &Asked) {
        self.report.flushes += 1;
        let volume = asked.wish.volume;
        let Some(claims) = self.claims(node, volume) else { return };
        let mut on = if claims.holds() { 1 << node } else { 0 };
        let covers_peer = self.setup.net.protocol == Protocol::C || !claims.holds();
        if covers_peer && claims.peer_holds() {
            on |= 1 << (1 - node);
        }
        let nodes = &self.nodes;
        let stable = |n: usize, sector: u64| nodes[n].volumes[volume].data.stable_at(sector);
        let verdict =
            self.ledgers[volume].flushed(node, self.setup.net.two_primaries, asked.begun, on, &stable);
        self.judge("durability", verdict);
    }
}

/// What the engine is asked at once.
#[derive(Clone, Copy, Debug)]
struct Part {
    wish: Wish,
    /// A write of zeroes.
    zero_data: bool,
}

/// What the engine takes of a wish, one after the other, as a front end does it. What is left of a discard that is not
/// taken is forgotten.
fn take_apart(wish: Wish, limits: &RequestLimits) -> Vec<Part> {
    let (mut parts, mut done) = (Vec::new(), 0);
    while done < wish.count || (parts.is_empty() && wish.op == UpperOp::Flush) {
        let (op, bytes) = match limits.next_part(wish.op, ((wish.count - done) * 512) as u32) {
            RequestPart::Ask(bytes) => (wish.op, bytes),
            RequestPart::WriteZeroData(bytes) => (UpperOp::Write, bytes),
            RequestPart::Skip => break,
        };
        let (sector, count) = (wish.sector + done, u64::from(bytes) / 512);
        parts.push(Part { wish: Wish { op, sector, count, ..wish }, zero_data: op != wish.op });
        done += count;
    }
    parts
}
