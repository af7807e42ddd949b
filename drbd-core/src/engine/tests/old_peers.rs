//! What a peer of an old version cannot be sent comes back to be taken apart.

use super::lab::Lab;
use super::node::{net, Pending, VOLUME};
use crate::engine::{Event, RequestLimits, UpperOp, UpperRequest, UpperResult};
use crate::ids::{PayloadId, Sector, UpperTag};
use crate::metadata::Format;
use crate::wire::{BlockRequest, Packet, Stream};

fn running(version: u32) -> Lab {
    let mut lab = Lab::with([net(&[]), net(&[])], Format::V09);
    lab.nodes[1].engine.cap_protocol(version);
    assert_eq!(lab.nodes[0].engine.request_limits(VOLUME), RequestLimits::LARGEST);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab
}

#[test]
fn a_large_write_comes_back_and_its_parts_reach_both() {
    for (version, blocks) in [(90, 8), (97, 32)] {
        let mut lab = running(version);
        assert_eq!(lab.nodes[0].engine.request_limits(VOLUME).data_bytes, blocks * 4096);
        let tag = lab.write_many(0, 100, vec![7; blocks as usize + 1]);
        assert_eq!(lab.result(0, tag), Some(UpperResult::Split), "version {version}");
        assert!(lab.out_of_sync(0).is_empty(), "nothing of it was done");
        for (first, count) in [(100, blocks), (100 + blocks, 1)] {
            let tag = lab.write_many(0, first.into(), vec![7; count as usize]);
            assert!(lab.is_done(0, tag));
        }
        assert_eq!(lab.nodes[1].disk.get(&u64::from(100 + blocks)), Some(&7));
        lab.check_alike();
    }
}

#[test]
fn a_write_that_waits_for_its_turn_comes_back_when_an_old_peer_came_meanwhile() {
    let mut lab = Lab::with([net(&[]), net(&[])], Format::V09);
    lab.nodes[1].engine.cap_protocol(90);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.cut();
    lab.hold(0, Pending::is_write);
    let first = lab.write(0, 5, 1);
    let second = lab.write_many(0, 0, vec![2; 64]);
    lab.mend();
    lab.wait("a resync", |lab| lab.nodes[0].engine.mirrors(0));
    assert_eq!((lab.result(0, first), lab.result(0, second)), (None, None));
    lab.let_go(0);
    lab.wait("an answer", |lab| lab.result(0, second).is_some());
    assert_eq!(lab.result(0, second), Some(UpperResult::Split));
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn many_held_requests_come_back_at_once() {
    let mut lab = running(90);
    lab.write(0, 0, 1);
    let payload = PayloadId::NONE;
    for n in 0..100_000 {
        let (tag, sector) = (UpperTag(1 << 20 | n), Sector(u64::from(n) % 128 * 8));
        let request = UpperRequest {
            tag,
            volume: VOLUME,
            op: UpperOp::Discard,
            sector,
            bytes: 4096,
            payload,
            fua: false,
        };
        lab.nodes[0].engine.devices[0].held.push_back(request);
        lab.nodes[0].engine.devices[0].counters.upper_pending += 1;
    }
    let mut out = Vec::new();
    lab.nodes[0].engine.start_held(0, &mut out);
    assert_eq!(out.len(), 100_000, "neither lost nor a stack overflow");
}

#[test]
fn a_frozen_write_comes_back_when_an_older_peer_ends_the_freeze() {
    let mut lab = running(100);
    lab.resource_options(0, &[("on-no-data-accessible", "suspend-io")]);
    lab.detach(0).expect("the peer is UpToDate");
    lab.hold(1, Pending::is_write);
    let tag = lab.write_many(0, 100, vec![7; 64]);
    lab.cut();
    lab.let_go(1);
    lab.nodes[1].engine.cap_protocol(90);
    lab.mend();
    lab.wait("an answer", |lab| lab.result(0, tag).is_some());
    assert_eq!(lab.result(0, tag), Some(UpperResult::Split));
    assert_eq!(lab.suspended(0), "no");
    lab.check_buffers();
}

#[test]
fn a_diskless_primary_reads_in_parts() {
    let mut lab = running(90);
    lab.write_many(0, 100, vec![9; 8]);
    lab.detach(0).expect("the peer is UpToDate");
    let tag = lab.read_many(0, 100, 64);
    assert_eq!(lab.result(0, tag), Some(UpperResult::Split));
    let tag = lab.read_many(0, 100, 8);
    assert!(lab.is_done(0, tag));
    assert_eq!(lab.nodes[0].read[&tag], vec![9; 8]);
    let event = Event::Closed { volume: VOLUME };
    lab.nodes[0].engine.handle(lab.now, event, &mut Vec::new());
    lab.check_buffers();
}

#[test]
fn a_read_that_fails_here_is_asked_of_an_old_peer_in_parts() {
    for on_io_error in ["pass_on", "detach"] {
        let mut lab = running(90);
        lab.disk_options(0, &[("on-io-error", on_io_error)]);
        lab.write_many(0, 100, vec![9; 8]);
        // Asked for before the peer's limits were known.
        lab.fail(0, |op| op.is_read().then_some(5));
        let tag = lab.read_many(0, 100, 64);
        assert_eq!(lab.result(0, tag), Some(UpperResult::Split), "{on_io_error}");
        let tag = lab.read_many(0, 100, 8);
        assert!(lab.is_done(0, tag), "{on_io_error}");
        assert_eq!(lab.nodes[0].read[&tag], vec![9; 8]);
        lab.check_buffers();
    }
}

#[test]
fn an_old_peer_asks_for_no_more_than_an_answer_holds() {
    for (version, most) in [(90, 32 << 10), (97, 128 << 10)] {
        for (bytes, fits) in [(most, true), (most + 4096, false)] {
            let mut lab = running(version);
            let block = BlockRequest { sector: Sector(0), block_id: 7, bytes };
            assert!(lab.forge(0, Stream::Data, Packet::DataRequest(block)));
            let said = lab.last_error(0);
            let refused = said.contains("its size is ") && said.contains(", no size of a request");
            assert_eq!(refused, !fits, "version {version}, {bytes} bytes: \"{said}\"");
        }
    }
}
