//! When a write, a flush and a read are complete, and what must have happened before.

use super::lab::Lab;
use super::node::{Pending, SECTORS, VOLUME};
use crate::engine::{Event, IoResult, UpperOp, UpperRequest, UpperResult};
use crate::ids::{PayloadId, Sector, UpperTag};
use crate::states::{ConnectionState, DiskState, ReplicationState};
use crate::wire::{Frame, Packet, Trim};

fn count(lab: &Lab, n: usize, what: fn(&Packet) -> bool) -> usize {
    lab.nodes[n].sent.iter().filter(|p| what(p)).count()
}

#[test]
fn protocol_c_waits_for_both_disks() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 5, 77);
    assert_eq!(lab.result(0, tag), None, "the peer has not written it");
    lab.let_go(1);
    assert!(lab.is_done(0, tag));
    lab.hold(0, Pending::is_write);
    let tag = lab.write(0, 5, 78);
    assert_eq!(lab.result(0, tag), None, "our disk has not written it");
    lab.let_go(0);
    assert!(lab.is_done(0, tag));
    lab.check_alike();
    assert_eq!(lab.nodes[1].disk[&5], 78);
}

#[test]
fn what_a_session_leaves_behind_is_written_in_its_order() {
    for protocol in ["A", "B"] {
        let mut lab = Lab::running(protocol);
        lab.hold(1, Pending::is_write);
        for block in 1..4 {
            let tag = lab.write(0, block, 7);
            assert!(lab.is_done(0, tag), "{protocol}: an epoch of its own");
        }
        lab.cut();
        for block in 1..4 {
            let waiting = lab.nodes[1].pending.iter().filter(|op| op.is_write()).count();
            assert_eq!(waiting, 1, "{protocol}: later ones wait until block {block} is stable");
            assert_eq!(
                lab.connection(1),
                ConnectionState::Unconnected,
                "{protocol}: no next session before that"
            );
            lab.pass_ms(2000);
            lab.let_one_go(1, IoResult::Done);
            assert_eq!(lab.nodes[1].disk.get(&block), Some(&7), "{protocol}");
        }
        lab.let_go(1);
        lab.pass_ms(2000);
        assert_ne!(lab.connection(1), ConnectionState::Unconnected, "{protocol}");
    }
}

#[test]
fn a_disk_given_up_after_the_session_has_no_hole() {
    let mut lab = Lab::running("B");
    lab.hold(1, Pending::is_write);
    for block in 1..4 {
        lab.write(0, block, 7);
    }
    lab.cut();
    lab.let_one_go(1, IoResult::Failed(5));
    assert_eq!(lab.disk(1), DiskState::Diskless);
    lab.let_go(1);
    assert!((1..4).all(|block| lab.nodes[1].disk.get(&block) != Some(&7)));
    lab.mend();
    lab.wait("connected", |lab| lab.is_replicating(0));
}

#[test]
fn protocol_b_waits_for_the_peers_memory() {
    let mut lab = Lab::running("B");
    lab.hold(1, Pending::is_write);
    lab.hold_packets(1);
    let tag = lab.write(0, 5, 77);
    assert_eq!(lab.result(0, tag), None, "the peer has not said that it has it");
    lab.let_packets_go(1);
    assert!(lab.is_done(0, tag));
    assert_eq!(count(&lab, 1, |p| matches!(p, Packet::RecvAck(_))), 1);
    assert_eq!(count(&lab, 1, |p| matches!(p, Packet::WriteAck(_))), 0);
    lab.let_go(1);
    lab.check_alike();
}

#[test]
fn protocol_a_waits_for_the_send_buffer() {
    let mut lab = Lab::running("A");
    lab.hold(1, Pending::is_write);
    lab.hold_packets(0);
    let tag = lab.write(0, 5, 77);
    assert_eq!(lab.result(0, tag), None, "the packet is still ours");
    lab.let_packets_go(0);
    assert!(lab.is_done(0, tag));
    assert_eq!(count(&lab, 1, |p| matches!(p, Packet::RecvAck(_) | Packet::WriteAck(_))), 0);
    lab.let_go(1);
    lab.check_alike();
}

#[test]
fn packets_are_numbered_as_the_shell_counts_them() {
    // Whoever opened the data socket has already sent one packet on it.
    for first in [0, 1] {
        let mut lab = Lab::protocol("A");
        lab.begin_connect(first);
        lab.begin_connect(1 - first);
        lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
        for n in 0..2 {
            let session =
                lab.nodes[n].engine.connection.as_ref().and_then(|c| c.session()).expect("connected");
            assert_eq!(session.data_sent, lab.packets_sent(session.data), "node {n}");
        }
    }
}

#[test]
fn a_flush_covers_both_nodes_under_c() {
    let mut lab = Lab::running("C");
    let write = lab.write(0, 5, 77);
    assert!(lab.is_done(0, write));
    lab.hold(1, Pending::is_flush);
    let write = lab.write(0, 6, 78);
    assert!(lab.is_done(0, write));
    let flush = lab.flush(0);
    assert_eq!(lab.result(0, flush), None, "the peer has not made it stable");
    lab.let_go(1);
    assert!(lab.is_done(0, flush));
    lab.check_alike();
}

#[test]
fn a_flush_covers_this_node_under_a_and_b() {
    for protocol in ["A", "B"] {
        let mut lab = Lab::running(protocol);
        lab.hold(1, |p| p.is_flush() || p.is_write());
        let write = lab.write(0, 5, 77);
        assert!(lab.is_done(0, write));
        lab.hold(0, Pending::is_flush);
        let flush = lab.flush(0);
        assert_eq!(lab.result(0, flush), None, "protocol {protocol}: our own disk has not flushed");
        lab.let_go(0);
        assert!(lab.is_done(0, flush), "protocol {protocol}");
        lab.let_go(1);
        lab.check_alike();
    }
}

#[test]
fn a_flush_without_writes_before_it_asks_the_peer_for_nothing() {
    let mut lab = Lab::running("C");
    let barriers = count(&lab, 0, |p| matches!(p, Packet::Barrier(_)));
    for _ in 0..3 {
        let flush = lab.flush(0);
        assert!(lab.is_done(0, flush));
    }
    assert_eq!(count(&lab, 0, |p| matches!(p, Packet::Barrier(_))), barriers);
}

#[test]
fn fua_is_stable_on_both_nodes_under_c() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_flush);
    let tag = lab.write_fua(0, 9, 7);
    assert_eq!(lab.result(0, tag), None, "the peer may lose it");
    lab.let_go(1);
    assert!(lab.is_done(0, tag));
    lab.check_alike();
}

#[test]
fn no_write_shares_an_epoch_with_one_that_was_reported() {
    let mut lab = Lab::running("C");
    lab.nodes[0].sent.clear();
    lab.write(0, 1, 1);
    lab.hold(1, Pending::is_write);
    lab.write(0, 2, 2);
    lab.write(0, 3, 3);
    lab.let_go(1);
    lab.write(0, 4, 4);
    lab.run();
    let mut shape = String::new();
    for packet in &lab.nodes[0].sent {
        match packet {
            Packet::Data(_) => shape.push('w'),
            Packet::Barrier(_) => shape.push('|'),
            _ => {}
        }
    }
    assert_eq!(shape, "w|ww|w|");
    lab.check_alike();
}

#[test]
fn no_block_is_written_before_the_log_names_its_extent() {
    // The contract is checked with every command; here the log is slow.
    let mut lab = Lab::running("C");
    lab.hold(0, Pending::is_log);
    let tags: Vec<_> = (0..16).map(|extent| lab.write(0, extent * 1024, 9)).collect();
    assert!(tags.iter().all(|&tag| lab.result(0, tag).is_none()));
    assert_eq!(count(&lab, 0, |p| matches!(p, Packet::Data(_))), 0, "nor is it sent");
    lab.let_go(0);
    assert!(tags.iter().all(|&tag| lab.is_done(0, tag)));
    lab.check_alike();
}

#[test]
fn overlapping_writes_reach_both_disks_in_order() {
    let mut lab = Lab::running("C");
    lab.hold(0, Pending::is_write);
    lab.hold(1, Pending::is_write);
    let tags: Vec<_> = (1..=5).map(|content| lab.write(0, 7, content)).collect();
    for _ in 0..5 {
        assert_eq!(lab.nodes[0].pending.len(), 1, "one at a time");
        lab.let_one_go(0, IoResult::Done);
        while !lab.nodes[1].pending.is_empty() {
            lab.let_one_go(1, IoResult::Done);
        }
    }
    assert!(tags.iter().all(|&tag| lab.is_done(0, tag)));
    lab.let_go(0);
    lab.let_go(1);
    assert_eq!((lab.nodes[0].disk[&7], lab.nodes[1].disk[&7]), (5, 5));
    lab.check_alike();
}

#[test]
fn a_lost_connection_completes_what_waited_with_bits_and_a_kept_generation() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 5, 77);
    let before = lab.nodes[0].kept().current_uuid;
    lab.hold(0, Pending::is_super_block);
    lab.cut();
    assert_eq!(lab.result(0, tag), None, "the new generation is not kept yet");
    lab.let_go(0);
    assert!(lab.is_done(0, tag));
    let kept = lab.nodes[0].kept();
    assert_ne!(kept.current_uuid, before);
    assert_eq!(kept.peers[1].bitmap_uuid & !1, before & !1, "the bitmap counts from what the peer has");
    assert_eq!(lab.out_of_sync(0), [5]);
    lab.let_go(1);
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn a_write_while_the_peer_is_gone_waits_for_the_new_generation_only() {
    let mut lab = Lab::running("C");
    lab.cut();
    lab.run();
    let tag = lab.write(0, 40, 3);
    assert!(lab.is_done(0, tag));
    assert_eq!(lab.out_of_sync(0), [40]);
    let flush = lab.flush(0);
    assert!(lab.is_done(0, flush));
}

#[test]
fn a_write_the_peers_disk_refuses_is_marked_and_complete() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 11, 4);
    lab.let_one_go(1, IoResult::Failed(5));
    lab.run();
    assert!(lab.is_done(0, tag), "our own copy is good");
    assert_eq!(lab.disk(1), DiskState::Diskless);
    assert_eq!(lab.peer_disk(0), DiskState::Diskless);
    assert_eq!(lab.out_of_sync(0), [11]);
    let tag = lab.write(0, 12, 4);
    assert!(lab.is_done(0, tag));
    lab.run();
    assert_eq!(lab.out_of_sync(0), [11, 12]);
    lab.check_buffers();
}

#[test]
fn a_write_our_own_disk_refuses_is_on_the_peer() {
    let mut lab = Lab::running("C");
    lab.hold(0, Pending::is_write);
    let tag = lab.write(0, 11, 4);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    assert!(lab.is_done(0, tag), "the peer's copy is good");
    assert_eq!(lab.disk(0), DiskState::Diskless);
    assert_eq!(lab.nodes[1].disk[&11], 4);
    // A Primary without a disk goes on with the peer's.
    let read = lab.read(0, 11);
    assert!(lab.is_done(0, read));
    assert_eq!(lab.nodes[0].read[&read], [4]);
    let tag = lab.write(0, 12, 5);
    assert!(lab.is_done(0, tag));
    assert_eq!(lab.nodes[1].disk[&12], 5);
    let flush = lab.flush(0);
    assert!(lab.is_done(0, flush));
    lab.check_buffers();
}

#[test]
fn reads_come_from_our_own_disk() {
    let mut lab = Lab::running("C");
    lab.write(0, 3, 33);
    let packets = lab.nodes[0].sent.len();
    let read = lab.read(0, 3);
    assert!(lab.is_done(0, read));
    assert_eq!(lab.nodes[0].read[&read], [33]);
    assert_eq!(lab.nodes[0].sent.len(), packets);
    lab.check_buffers();
}

#[test]
fn a_secondary_serves_nobody() {
    let mut lab = Lab::running("C");
    let write = lab.write(1, 3, 33);
    let read = lab.read(1, 3);
    for tag in [write, read] {
        assert_eq!(lab.result(1, tag), Some(UpperResult::NotPrimary));
    }
    lab.check_alike();
}

#[test]
fn beyond_the_end_is_nothing() {
    let mut lab = Lab::running("C");
    let mut out = Vec::new();
    for (sector, bytes) in
        [(SECTORS, 4096), (SECTORS - 1, 4096), (u64::MAX - 3, 4096), (0, 0), (0, 100), (0, 2 << 20)]
    {
        let request = UpperRequest {
            tag: UpperTag(900),
            volume: VOLUME,
            op: UpperOp::Read,
            sector: Sector(sector),
            bytes,
            payload: PayloadId::NONE,
            fua: false,
        };
        lab.nodes[0].engine.handle(lab.now, Event::Upper(request), &mut out);
        let result = out.drain(..).find_map(|c| match c {
            crate::engine::Command::Complete { result, .. } => Some(result),
            _ => None,
        });
        assert_eq!(result, Some(UpperResult::OutOfRange), "{bytes} bytes at {sector}");
    }
    assert_eq!(lab.replication(0), ReplicationState::Established);
}

#[test]
fn a_peer_that_asks_for_more_than_there_is_room_for_is_let_go() {
    for protocol in ["A", "C"] {
        let mut lab = Lab::running(protocol);
        lab.hold(1, |p| !matches!(p, Pending::Meta(..)));
        lab.write(0, 1, 1);
        lab.flush(0);
        let socket =
            lab.nodes[1].engine.connection.as_ref().and_then(|c| c.session()).expect("connected").data;
        let mut sent = 0;
        while lab.is_replicating(1) {
            sent += 1;
            assert!(sent < 10_000, "protocol {protocol}: no end to what is taken");
            let trim =
                Trim { sector: Sector(sent % 4096 * 8), block_id: sent, seq: 0, flags: 0, bytes: 4096 };
            let frame = Frame { volume: VOLUME, packet: Packet::Trim(trim) };
            let payload = PayloadId::NONE;
            lab.nodes[1].engine.handle(lab.now, Event::Packet { socket, frame, payload }, &mut Vec::new());
            lab.nodes[1].engine.check();
        }
        assert!(lab.last_error(1).contains("requests of the peer"), "{}", lab.last_error(1));
    }
}

#[test]
fn a_peer_that_stops_answering_is_given_up() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 5, 77);
    assert_eq!(lab.result(0, tag), None);
    // ko-count 7 times timeout 6 s; its pings are answered all the time.
    lab.pass_ms(41_000);
    assert_eq!(lab.result(0, tag), None);
    lab.pass_ms(2_000);
    assert!(lab.is_done(0, tag));
    assert!(lab.nodes[0].log_lines.iter().any(|l| l.contains("ko-count")));
}

#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    let mut lab = Lab::running("C");
    lab.pass_ms(60_000);
    assert!(lab.is_in_sync(), "an idle connection lives on");
    lab.hold_packets(1);
    lab.pass_ms(9_000);
    assert_eq!(lab.replication(0), ReplicationState::Established);
    lab.pass_ms(2_000);
    assert_eq!(lab.replication(0), ReplicationState::Off);
}
