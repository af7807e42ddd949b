//! What is copied after a separation: exactly what differs.

use super::lab::Lab;
use super::node::Pending;
use crate::engine::{AdminRequest, UpperResult};
use crate::metadata::device_flag;
use crate::states::{ConnectionState, DiskState, ReplicationState};
use crate::wire::Packet;

/// Blocks the source sent in answer to resync requests.
fn copied(lab: &Lab, source: usize) -> Vec<u64> {
    let mut blocks = Vec::new();
    for packet in &lab.nodes[source].sent {
        if let Packet::RsDataReply(data) = packet {
            blocks.extend(data.sector.0 / 8..data.sector.0 / 8 + u64::from(data.bytes) / 4096);
        }
    }
    blocks.sort_unstable();
    blocks
}

#[test]
fn the_first_sync_copies_everything_once() {
    let mut lab = Lab::protocol("C");
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert_eq!(copied(&lab, 0), (0..super::node::SECTORS / 8).collect::<Vec<_>>());
    lab.check_alike();
    let (a, b) = (lab.nodes[0].kept(), lab.nodes[1].kept());
    assert_eq!(a.current_uuid & !1, b.current_uuid & !1);
    assert_eq!((a.peers[1].bitmap_uuid, b.peers[0].bitmap_uuid), (0, 0));
}

#[test]
fn after_an_orderly_disconnect_exactly_the_written_blocks_are_copied() {
    let mut lab = Lab::running("C");
    lab.nodes[0].sent.clear();
    lab.disconnect(1).expect("the Primary agrees");
    lab.wait("the Primary sees it", |lab| !lab.is_replicating(0));
    assert_eq!(lab.connection(1), ConnectionState::StandAlone);
    let blocks = [3, 4, 5, 1000, 5000, 16_383];
    for block in blocks {
        let tag = lab.write(0, block, block as u32);
        assert!(lab.is_done(0, tag));
    }
    assert_eq!(lab.out_of_sync(0), blocks);
    lab.begin_connect(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert_eq!(copied(&lab, 0), blocks);
    lab.check_alike();
}

#[test]
fn nothing_is_copied_where_nothing_was_written() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 1);
    lab.pass_ms(1000);
    lab.nodes[0].sent.clear();
    for _ in 0..3 {
        lab.disconnect(1).expect("the Primary agrees");
        lab.wait("the Primary sees it", |lab| !lab.is_replicating(0));
        lab.begin_connect(1);
        lab.wait("in sync", |lab| lab.is_in_sync());
    }
    assert_eq!(copied(&lab, 0), [0; 0]);
    lab.check_alike();
}

/// Else the target would be left with a generation that nobody knows, if the source forgot it with its power.
#[test]
fn a_source_keeps_the_name_of_a_resync_before_the_target_learns_it() {
    let mut lab = Lab::running("C");
    lab.cut();
    lab.write(0, 8, 1);
    lab.nodes[0].sent.clear();
    // The target answers with its bitmap when that is kept.
    lab.hold(1, |op| matches!(op, Pending::Meta(..)));
    lab.mend();
    lab.wait("the bitmaps", |lab| lab.replication(1) == ReplicationState::WFBitMapT);
    lab.pass_ms(500);
    lab.hold(0, Pending::is_super_block);
    lab.let_go(1);
    lab.pass_ms(500);
    let named = |lab: &Lab| lab.nodes[0].sent.iter().any(|p| matches!(p, Packet::SyncUuid(_)));
    assert!(!named(&lab));
    assert_eq!(lab.replication(1), ReplicationState::WFSyncUUID);
    lab.let_go(0);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(named(&lab));
    lab.check_alike();
}

#[test]
fn a_target_says_inconsistent_on_disk_before_it_asks_for_a_block() {
    let mut lab = Lab::running("C");
    lab.cut();
    lab.write(0, 8, 1);
    lab.nodes[1].sent.clear();
    lab.mend();
    lab.hold(1, Pending::is_super_block);
    lab.pass_ms(20_000);
    let asked = |lab: &Lab| lab.nodes[1].sent.iter().any(|p| matches!(p, Packet::RsDataRequest(_)));
    assert!(!asked(&lab));
    while !lab.nodes[1].pending.is_empty() && !asked(&lab) {
        let inconsistent = lab.nodes[1].kept().flags & device_flag::CONSISTENT == 0;
        assert!(inconsistent || !asked(&lab));
        lab.let_one_go(1, crate::engine::IoResult::Done);
    }
    lab.let_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn writes_of_the_source_wait_at_the_target_until_it_is_called_inconsistent() {
    let mut lab = Lab::running("C");
    lab.cut();
    lab.write(0, 8, 1);
    lab.hold(1, Pending::is_super_block);
    lab.mend();
    lab.wait("the source to begin", |lab| lab.replication(0) == ReplicationState::WFBitMapS);
    let tags = [lab.write(0, 8, 2), lab.write(0, 4000, 2)];
    for step in 3..20 {
        lab.pass_ms(500);
        // The contract complains about a write into data that is called Consistent.
        if !lab.nodes[1].pending.is_empty() {
            lab.let_one_go(1, crate::engine::IoResult::Done);
        }
        lab.write(0, 4000, step);
    }
    lab.let_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(tags.iter().all(|&tag| lab.is_done(0, tag)));
    assert_eq!((lab.nodes[1].disk[&8], lab.nodes[1].disk[&4000]), (2, 19));
    lab.check_alike();
}

#[test]
fn writes_during_a_resync_are_newer_than_what_it_copies() {
    let mut lab = Lab::running("C");
    lab.cut();
    for block in 0..64 {
        lab.write(0, block * 8, 1);
    }
    lab.hold(0, |p| matches!(p, Pending::Disk(io) if io.op == crate::engine::DiskOp::Read));
    lab.mend();
    lab.wait("a resync", |lab| {
        lab.replication(0) == ReplicationState::SyncSource && !lab.nodes[0].pending.is_empty()
    });
    let tags: Vec<_> = (0..64).map(|block| lab.write(0, block * 8, 2)).collect();
    lab.let_go(0);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(tags.iter().all(|&tag| lab.is_done(0, tag)));
    assert!((0..64).all(|block| lab.nodes[1].disk[&(block * 8)] == 2));
    lab.check_alike();
}

#[test]
fn a_write_behind_one_that_the_resync_counts_keeps_its_mark() {
    for protocol in ["A", "B", "C"] {
        let mut lab = Lab::running(protocol);
        lab.cut();
        for block in 0..64 {
            lab.write(0, block * 8, 1);
        }
        lab.hold(0, |p| {
            p.is_write() || matches!(p, Pending::Disk(io) if io.op == crate::engine::DiskOp::Read)
        });
        lab.mend();
        lab.wait("a resync", |lab| lab.replication(0) == ReplicationState::SyncSource);
        let first = lab.write(0, 4, 2);
        let second = lab.write(0, 4, 3);
        // The peer has the first one on stable storage; our own disk is slow.
        lab.flush(0);
        lab.cut();
        lab.let_go(0);
        assert!(lab.is_done(0, first) && lab.is_done(0, second));
        assert!(lab.out_of_sync(0).contains(&4), "protocol {protocol}");
        lab.mend();
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn a_resync_that_is_cut_goes_on_where_it_was() {
    let mut lab = Lab::running("C");
    lab.cut();
    for block in 0..512 {
        lab.write(0, block * 8, 1);
    }
    lab.mend();
    lab.nodes[0].sent.clear();
    lab.hold(1, Pending::is_write);
    lab.wait("a resync", |lab| lab.replication(1) == ReplicationState::SyncTarget);
    for _ in 0..100 {
        lab.wait("a block to write", |lab| !lab.nodes[1].pending.is_empty());
        lab.let_one_go(1, crate::engine::IoResult::Done);
    }
    lab.cut();
    assert_eq!(lab.disk(1), DiskState::Inconsistent);
    lab.let_go(1);
    lab.nodes[0].sent.clear();
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(copied(&lab, 0).len() <= 412, "{}", copied(&lab, 0).len());
    lab.check_alike();
}

/// The source has begun it: its bitmap counts from the name it gave it.
#[test]
fn a_resync_that_did_not_begin_at_the_target_is_one_by_bitmap_later() {
    for connection_lost in [false, true] {
        let mut lab = Lab::running("C");
        lab.cut();
        lab.write(0, 8, 1);
        lab.nodes[1].hangs = "before-resync-target";
        lab.mend();
        lab.wait("the handler", |lab| !lab.nodes[1].running_handlers.is_empty());
        assert_eq!(lab.replication(0), ReplicationState::SyncSource);
        if connection_lost {
            lab.cut();
            lab.handler_ends(1, 0);
        } else {
            lab.handler_ends(1, 5);
            assert_eq!(lab.connection(1), ConnectionState::StandAlone);
        }
        assert_eq!(lab.disk(1), DiskState::Outdated);
        lab.nodes[1].hangs = "";
        lab.write(0, 16, 1);
        lab.nodes[0].sent.clear();
        if connection_lost {
            lab.mend();
        } else {
            lab.begin_connect(1);
        }
        lab.wait("in sync", |lab| lab.is_in_sync());
        assert_eq!(copied(&lab, 0), [8, 16]);
        lab.check_alike();
    }
}

#[test]
fn a_target_is_no_primary_of_old_data() {
    let mut lab = Lab::running("C");
    lab.secondary(0).expect("nobody has it open");
    lab.cut();
    lab.primary(0, false).expect("UpToDate");
    lab.write(0, 1, 1);
    lab.secondary(0).expect("nobody has it open");
    lab.hold(1, Pending::is_write);
    lab.mend();
    lab.wait("a resync", |lab| lab.replication(1) == ReplicationState::SyncTarget);
    // It reads what it lacks from its source.
    lab.primary(1, false).expect("the source has good data");
    let read = lab.read(1, 1);
    lab.pass_ms(200);
    assert_eq!(lab.result(1, read), Some(UpperResult::Done));
    assert_eq!(lab.nodes[1].read[&read], [1]);
    let tag = lab.write(1, 2, 7);
    lab.let_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(lab.is_done(1, tag));
    lab.check_alike();
}

#[test]
fn a_crashed_primary_marks_what_its_log_names() {
    let mut lab = Lab::running("C");
    lab.write(0, 5000, 1);
    // A write that reached its own disk and nothing else.
    lab.nodes[0].disk.insert(5001, 666);
    lab.crash(0);
    let request = lab.nodes[0].attach_request(false, false);
    assert!(lab.ask(0, AdminRequest::Attach(request)).is_err(), "the log is to be applied first");
    let request = lab.nodes[0].attach_request(false, true);
    lab.ask(0, AdminRequest::Attach(request)).expect("the log is applied");
    assert_eq!(lab.out_of_sync(0).len(), 1024, "the extent of the write");
    lab.begin_connect(0);
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}
