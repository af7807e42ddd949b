//! Disks that come, go and fail.

use super::lab::Lab;
use super::node::Pending;
use crate::engine::{AdminRequest, IoResult, UpperResult};
use crate::ids::{NodeId, VolumeNumber};
use crate::refusal::Reason;
use crate::states::{DiskState, ReplicationState};
use crate::wire::{Packet, Stream};

#[test]
fn a_secondary_detaches_and_catches_up_when_it_attaches() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 1);
    lab.detach(1).expect("a Secondary may");
    assert_eq!((lab.disk(1), lab.peer_disk(0)), (DiskState::Diskless, DiskState::Diskless));
    assert!(lab.nodes[1].disk_closed);
    for block in [2, 300, 7000] {
        let tag = lab.write(0, block, 9);
        assert!(lab.is_done(0, tag));
    }
    assert_eq!(lab.out_of_sync(0), [2, 300, 7000]);
    lab.attach(1).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn a_primary_detaches_and_works_on_the_peers_disk() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 1);
    lab.detach(0).expect("the peer has good data");
    assert_eq!(lab.disk(0), DiskState::Diskless);
    let tag = lab.write(0, 2, 22);
    assert!(lab.is_done(0, tag));
    let read = lab.read(0, 2);
    assert!(lab.is_done(0, read));
    assert_eq!(lab.nodes[0].read[&read], [22]);
    let flush = lab.flush(0);
    assert!(lab.is_done(0, flush));
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
    assert_eq!(lab.nodes[0].disk[&2], 22);
}

#[test]
fn the_last_good_disk_of_a_primary_stays() {
    let mut lab = Lab::running("C");
    lab.disconnect(1).expect("the Primary agrees");
    lab.wait("the Primary sees it", |lab| !lab.is_replicating(0));
    let refused = lab.detach(0).map_err(|r| r.reason);
    assert!(matches!(refused, Err(Reason::NoUpToDateDisk | Reason::NoLocalDisk)), "{refused:?}");
    assert_eq!(lab.disk(0), DiskState::UpToDate);
}

#[test]
fn a_detach_waits_for_what_is_on_the_disk() {
    let mut lab = Lab::running("C");
    lab.hold(0, Pending::is_write);
    let tag = lab.write(0, 5, 5);
    let detach = AdminRequest::Detach { volume: super::node::VOLUME, force: false, diskless: false };
    let ticket = lab.begin(0, detach);
    lab.pass_ms(1000);
    assert!(!lab.nodes[0].disk_closed);
    lab.let_go(0);
    lab.wait("the answer", |lab| lab.nodes[0].replies.contains_key(&ticket));
    assert!(lab.is_done(0, tag));
    assert_eq!(lab.disk(0), DiskState::Diskless);
    assert!(lab.nodes[0].disk_closed);
    lab.check_buffers();
}

#[test]
fn a_detach_whose_disk_fails_while_it_waits_is_answered() {
    let mut lab = Lab::running("C");
    lab.hold(0, |p| Pending::is_write(p) || Pending::is_log(p));
    let cold = lab.write(0, 9000, 5);
    let hot = lab.write(0, 5, 5);
    let detach = AdminRequest::Detach { volume: super::node::VOLUME, force: false, diskless: false };
    let ticket = lab.begin(0, detach);
    lab.wait("it detaches", |lab| lab.disk(0) == DiskState::Detaching);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    lab.wait("the answer", |lab| lab.nodes[0].replies.contains_key(&ticket));
    assert!(lab.nodes[0].replies[&ticket].is_ok());
    assert!(lab.is_done(0, cold) && lab.is_done(0, hot), "the peer has them");
    assert!(lab.nodes[0].disk_closed);
    lab.check_buffers();
}

/// The peer refused what was called done, and its disk is back before this one: it lacks what the users have seen.
#[test]
fn a_primary_without_disk_does_not_go_back_to_a_peer_that_refused_its_writes() {
    let mut lab = Lab::running("A");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 5, 5);
    assert!(lab.is_done(0, tag));
    lab.begin(0, AdminRequest::Detach { volume: VolumeNumber(0), force: false, diskless: false });
    lab.wait("it detaches", |lab| lab.disk(0) == DiskState::Detaching);
    lab.let_one_go(1, IoResult::Failed(5));
    lab.let_go(1);
    lab.wait("both are without disk", |lab| {
        lab.disk(0) == DiskState::Diskless && lab.disk(1) == DiskState::Diskless
    });
    let refused = lab.attach(1).map_err(|refusal| refusal.reason);
    assert_eq!(refused, Err(Reason::DataNotCurrent));
    lab.attach(0).expect("the disk with everything");
    lab.check_buffers();
}

#[test]
fn metadata_that_cannot_be_written_costs_the_disk_and_nothing_else() {
    let mut lab = Lab::running("C");
    lab.hold(0, Pending::is_log);
    let tag = lab.write(0, 9000, 5);
    assert_eq!(lab.result(0, tag), None);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    lab.run();
    assert_eq!(lab.disk(0), DiskState::Diskless);
    assert!(lab.is_done(0, tag), "the peer has it");
    assert_eq!(lab.nodes[1].disk[&9000], 5);
    lab.check_buffers();
}

#[test]
fn a_read_error_is_answered_by_the_peer() {
    let mut lab = Lab::running("C");
    lab.write(0, 6, 66);
    lab.hold(0, |p| matches!(p, Pending::Disk(io) if io.op == crate::engine::DiskOp::Read));
    let read = lab.read(0, 6);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.run();
    assert_eq!(lab.result(0, read), Some(UpperResult::Done));
    assert_eq!(lab.nodes[0].read[&read], [66]);
    lab.check_buffers();
}

#[test]
fn alone_and_without_a_disk_everything_fails_and_nothing_hangs() {
    let mut lab = Lab::running("C");
    lab.disconnect(1).expect("the Primary agrees");
    lab.wait("the Primary sees it", |lab| !lab.is_replicating(0));
    lab.hold(0, Pending::is_write);
    let tag = lab.write(0, 6, 66);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    assert_eq!(lab.result(0, tag), Some(UpperResult::IoError));
    for tag in [lab.write(0, 7, 7), lab.read(0, 7)] {
        assert_eq!(lab.result(0, tag), Some(UpperResult::IoError));
    }
    lab.check_buffers();
}

#[test]
fn a_source_that_loses_its_disk_during_a_resync_serves_no_more() {
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
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    lab.pass_ms(5_000);
    assert_eq!(lab.disk(0), DiskState::Diskless);
    assert_eq!(lab.disk(1), DiskState::Inconsistent, "half a copy is no copy");
    lab.check_buffers();
}

#[test]
fn a_disk_that_comes_after_the_connection_is_looked_at() {
    for late in [0, 1] {
        let mut lab = Lab::running("C");
        lab.write(0, 1, 1);
        lab.secondary(0).expect("nobody has it open");
        for n in 0..2 {
            lab.ask(n, AdminRequest::Down).expect("nobody has it open");
        }
        lab.attach(1 - late).expect("its own disk");
        lab.connect();
        lab.attach(late).expect("its own disk");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn a_diskless_pair_meets_and_takes_its_disks_later() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 1);
    lab.secondary(0).expect("nobody has it open");
    for n in 0..2 {
        lab.ask(n, AdminRequest::Down).expect("nobody has it open");
    }
    lab.connect();
    assert_eq!((lab.disk(0), lab.disk(1)), (DiskState::Diskless, DiskState::Diskless));
    assert!(lab.primary(0, true).is_err(), "nobody has data");
    lab.attach(0).expect("its own disk");
    lab.attach(1).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn a_diskless_primary_loses_its_peer_and_finds_it_again() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 1);
    lab.detach(0).expect("the peer has good data");
    let tag = lab.write(0, 2, 2);
    assert!(lab.is_done(0, tag));
    lab.cut();
    let tag = lab.write(0, 3, 3);
    assert_eq!(lab.result(0, tag), Some(UpperResult::IoError), "no copy within reach");
    lab.mend();
    lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    let read = lab.read(0, 2);
    assert_eq!(lab.result(0, read), Some(UpperResult::Done));
    assert_eq!(lab.nodes[0].read[&read], [2]);
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn writes_of_a_diskless_primary_wait_when_the_connection_is_lost() {
    let mut lab = Lab::running("C");
    lab.detach(0).expect("the peer has good data");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 2, 2);
    lab.cut();
    assert_eq!(lab.result(0, tag), Some(UpperResult::IoError), "nobody knows whether it was written");
    lab.let_go(1);
    lab.check_buffers();
}

#[test]
fn what_a_lost_primary_wrote_without_disk_is_named_before_it_is_written() {
    let mut lab = Lab::running("C");
    lab.hold(1, |op| matches!(op, Pending::Disk(_)));
    lab.fail(0, |op| op.is_write().then_some(5));
    lab.write(0, 1, 1);
    assert_eq!(lab.disk(0), DiskState::Diskless);
    // It waits for the generation that tells that this disk is ahead, and that one for the write before.
    lab.write(0, 5 * 1024, 5);
    lab.cut();
    for op in lab.nodes[1].pending.clone() {
        lab.carry_out_unanswered(1, &op);
    }
    lab.nodes[1].holds = None;
    lab.fail_no_more(0);
    for n in [0, 1] {
        lab.crash(n);
        lab.attach(n).expect("its own disk");
    }
    lab.mend();
    lab.connect();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn nothing_is_done_before_a_promoted_node_without_disk_hears_of_the_peers_generation() {
    let mut lab = Lab::running("C");
    lab.secondary(0).expect("nobody has it open");
    lab.detach(0).expect("the peer has good data");
    lab.primary(0, false).expect("the peer has good data");
    lab.hold_packets(1);
    let tag = lab.write(0, 2, 2);
    let mut acked = false;
    while lab.has_packet(1, Stream::Control) {
        acked |= matches!(lab.let_packet_go(1, Stream::Control), Packet::WriteAck(_));
    }
    assert!(acked);
    assert!(!lab.is_done(0, tag), "the disk detached here would still pass for the same data");
    lab.let_packets_go(1);
    lab.run();
    assert!(lab.is_done(0, tag));
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn a_detach_in_the_middle_of_a_resync_ends_it() {
    for n in [0, 1] {
        let mut lab = Lab::running("C");
        lab.secondary(0).expect("nobody has it open");
        lab.cut();
        lab.primary(0, false).expect("UpToDate");
        for block in 0..256 {
            lab.write(0, block * 8, 1);
        }
        lab.secondary(0).expect("nobody has it open");
        lab.hold(1, Pending::is_write);
        lab.mend();
        lab.wait("a resync", |lab| lab.replication(1) == ReplicationState::SyncTarget);
        let detach = AdminRequest::Detach { volume: super::node::VOLUME, force: false, diskless: false };
        let ticket = lab.begin(n, detach);
        lab.let_go(1);
        lab.wait("the answer", |lab| lab.nodes[n].replies.contains_key(&ticket));
        if lab.disk(n) == DiskState::Diskless {
            lab.pass_ms(1000);
            lab.attach(n).expect("its own disk");
        }
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn a_disconnect_in_the_middle_of_a_resync_ends_it() {
    for n in [0, 1] {
        let mut lab = Lab::running("C");
        lab.cut();
        for block in 0..256 {
            lab.write(0, block * 8, 1);
        }
        lab.hold(1, Pending::is_write);
        lab.mend();
        lab.wait("a resync", |lab| lab.replication(1) == ReplicationState::SyncTarget);
        lab.disconnect(n).expect("nothing speaks against it");
        lab.let_go(1);
        lab.wait("the other sees it", |lab| !lab.is_replicating(1 - n));
        assert_eq!(lab.disk(1), DiskState::Inconsistent);
        assert!(lab.primary(1, false).is_err(), "half a copy is no copy");
        lab.begin_connect(n);
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

/// A super block written before the bitmap must not say that the log has nothing to tell.
#[test]
fn a_detach_keeps_the_bits_before_the_log_is_forgotten() {
    use crate::metadata::device_flag::PRIMARY_IND;
    let mut lab = Lab::running("C");
    lab.detach(0).expect("the peer has good data");
    let tag = lab.write(0, 2, 2);
    assert!(lab.is_done(0, tag));
    lab.hold(1, |p| matches!(p, Pending::Meta(..)));
    // The Primary would not let it go.
    lab.begin(1, AdminRequest::Disconnect { peer: NodeId(0), force: true });
    lab.begin(1, AdminRequest::Down);
    lab.wait("the disk is on its way", |lab| !lab.nodes[1].pending.is_empty());
    while !lab.nodes[1].pending.is_empty() {
        lab.let_one_go(1, IoResult::Done);
        let named = lab.nodes[1].kept().flags & PRIMARY_IND != 0;
        let marked = lab.nodes[1].bitmap()[0] & 1 << 2 != 0;
        assert!(named || marked, "after a crash now nothing would tell of block 2");
    }
    lab.let_go(1);
    lab.wait("it is down", |lab| lab.disk(1) == DiskState::Diskless);
    assert_eq!(lab.nodes[1].kept().flags & PRIMARY_IND, 0);
}

/// A Primary whose own disk is the target of a resync loses the source: what only its old disk has will be overwritten.
#[test]
fn a_write_that_only_a_target_has_is_not_done() {
    let mut lab = Lab::running("C");
    lab.detach(0).expect("the peer has good data");
    for block in 0..256 {
        lab.write(0, block * 8, 1);
    }
    lab.hold(1, |p| p.is_read() || p.is_write());
    lab.attach(0).expect("its own disk");
    lab.wait("a resync", |lab| lab.replication(0) == ReplicationState::SyncTarget);
    let tag = lab.write(0, 9000, 5);
    let flush = lab.flush(0);
    assert_eq!((lab.result(0, tag), lab.result(0, flush)), (None, None), "the peer has the say");
    lab.cut();
    assert_eq!(lab.result(0, tag), Some(UpperResult::IoError));
    assert_eq!(lab.result(0, flush), Some(UpperResult::IoError));
    lab.let_go(1);
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

/// Under A and B a flush need not wait for the peer, unless the peer has the only good copy.
#[test]
fn a_flush_without_a_good_disk_waits_for_the_peer() {
    for protocol in ["A", "B", "C"] {
        let mut lab = Lab::running(protocol);
        lab.detach(0).expect("the peer has good data");
        let tag = lab.write(0, 2, 2);
        assert!(lab.is_done(0, tag));
        lab.pass_ms(1000);
        lab.hold(1, Pending::is_flush);
        let tag = lab.write(0, 3, 3);
        assert!(lab.is_done(0, tag));
        let flush = lab.flush(0);
        assert_eq!(lab.result(0, flush), None, "protocol {protocol}");
        lab.let_go(1);
        assert!(lab.is_done(0, flush), "protocol {protocol}");
        lab.cut();
        let flush = lab.flush(0);
        assert_eq!(lab.result(0, flush), Some(UpperResult::IoError), "nobody can say, protocol {protocol}");
        lab.check_buffers();
    }
}

/// Till the peer has told its new generation, the disk given up would pass for the same data.
#[test]
fn without_a_disk_nothing_is_done_before_the_peer_has_a_new_generation() {
    let mut lab = Lab::running("C");
    lab.hold(0, Pending::is_write);
    let tag = lab.write(0, 5, 5);
    lab.hold(1, Pending::is_super_block);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    assert_eq!(lab.disk(0), DiskState::Diskless);
    assert_eq!(lab.nodes[1].disk[&5], 5, "written by the peer");
    assert_eq!(lab.result(0, tag), None);
    lab.let_go(1);
    assert!(lab.is_done(0, tag));
    assert_eq!(lab.attach(0), Ok(()));
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

/// A Primary without disk was told that it is written, and a flush in the next session must find it stable.
#[test]
fn what_a_session_brought_is_stable_before_the_next_one() {
    let mut lab = Lab::running("C");
    lab.detach(0).expect("the peer has good data");
    lab.hold(1, Pending::is_flush);
    let tag = lab.write(0, 2, 2);
    assert!(lab.is_done(0, tag));
    lab.cut();
    lab.mend();
    lab.pass_ms(20_000);
    assert!(!lab.is_replicating(1), "a stalled disk comes first");
    lab.let_go(1);
    lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    lab.check_buffers();
}

/// The peer counts a disk being negotiated as one that is written: what comes to its turn then waits.
#[test]
fn a_write_of_a_primary_waits_while_its_disk_is_negotiated() {
    let mut lab = Lab::running("C");
    lab.detach(0).expect("the peer has good data");
    lab.hold(1, Pending::is_write);
    let first = lab.write(0, 5, 1);
    let second = lab.write_blocks(0, 5, &[2, 3]);
    lab.hold_packets(1);
    lab.let_go(1);
    lab.attach(0).expect("its own disk");
    assert_eq!(lab.disk(0), DiskState::Negotiating);
    lab.let_packets_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(lab.is_done(0, first) && lab.is_done(0, second));
    assert_eq!((lab.nodes[0].disk[&5], lab.nodes[0].disk[&6]), (2, 3));
    lab.check_alike();
}

/// Under protocol A the peer may lack what was called done; the disk given up has it.
#[test]
fn a_primary_does_not_go_back_to_older_data_of_its_peer() {
    let mut lab = Lab::running("A");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 5, 5);
    assert!(lab.is_done(0, tag));
    lab.hold(0, Pending::is_write);
    lab.write(0, 6, 6);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    lab.crash(1);
    lab.attach(1).expect("its own disk");
    lab.begin_connect(1);
    lab.wait("it is refused", |lab| lab.connection(0) == crate::states::ConnectionState::StandAlone);
    lab.attach(0).expect("the disk with everything");
    let read = lab.read(0, 5);
    assert!(lab.is_done(0, read));
    assert_eq!(lab.nodes[0].read[&read], [5]);
    lab.check_buffers();
}

/// Else, after a loss of power, the new generation would outrank the disk that has what was only received here.
#[test]
fn a_new_generation_begins_when_what_was_received_before_is_written() {
    let mut lab = Lab::running("B");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 5, 5);
    assert!(lab.is_done(0, tag));
    let before = lab.nodes[1].kept().current_uuid;
    lab.hold(0, Pending::is_write);
    lab.write(0, 6, 6);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    assert_eq!(lab.peer_disk(1), DiskState::Diskless);
    assert_eq!(lab.nodes[1].kept().current_uuid, before);
    lab.let_go(1);
    assert_ne!(lab.nodes[1].kept().current_uuid, before);
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

/// The same where the peer may have lost with its power what it had only received: it never told that it knows to be
/// alone, which it does when everything is stable.
#[test]
fn a_peer_lost_before_it_began_a_generation_is_not_gone_back_to() {
    let mut lab = Lab::running("C");
    let tag = lab.write(0, 5, 5);
    assert!(lab.is_done(0, tag));
    lab.hold_packets(1);
    lab.hold(0, Pending::is_write);
    lab.write(0, 6, 6);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    assert_eq!(lab.disk(0), DiskState::Diskless);
    lab.crash(1);
    lab.attach(1).expect("its own disk");
    lab.begin_connect(1);
    lab.wait("it is refused", |lab| lab.connection(0) == crate::states::ConnectionState::StandAlone);
    lab.attach(0).expect("the disk with everything");
    lab.check_buffers();
}

/// Too late for a new generation, but what the peer lacks is not to be forgotten.
#[test]
fn a_primary_that_loses_its_peer_while_it_detaches_is_ahead() {
    let mut lab = Lab::running("A");
    lab.hold(1, |p| matches!(p, Pending::Disk(_)));
    let tag = lab.write(0, 5, 5);
    assert!(lab.is_done(0, tag));
    lab.hold(0, |p| matches!(p, Pending::Meta(..)));
    lab.begin(0, AdminRequest::Detach { volume: VolumeNumber(0), force: false, diskless: false });
    lab.wait("it detaches", |lab| lab.disk(0) == DiskState::Detaching);
    lab.crash(1);
    lab.let_go(0);
    lab.wait("it is detached", |lab| lab.disk(0) == DiskState::Diskless);
    assert_ne!(lab.nodes[0].kept().flags & crate::metadata::device_flag::CRASHED_PRIMARY, 0);
}

/// A detach that overtakes the attach of a crashed Primary's disk lets go of it before anyone compared it.
#[test]
fn a_disk_detached_while_it_attaches_is_still_that_of_a_crashed_primary() {
    let mut lab = Lab::running("A");
    lab.hold(1, |p| matches!(p, Pending::Disk(_)));
    let tag = lab.write(0, 5, 5);
    assert!(lab.is_done(0, tag));
    for n in 0..2 {
        lab.crash(n);
        lab.let_go(n);
    }
    lab.hold(0, |p| matches!(p, Pending::Meta(..)));
    let request = lab.nodes[0].attach_request(false, true);
    let attach = lab.begin(0, AdminRequest::Attach(request));
    assert_eq!(lab.disk(0), DiskState::Attaching);
    let detach =
        lab.begin(0, AdminRequest::Detach { volume: VolumeNumber(0), force: false, diskless: false });
    assert_eq!(lab.disk(0), DiskState::Detaching);
    lab.let_one_go(0, IoResult::Done);
    while lab.disk(0) != DiskState::Diskless {
        assert_eq!(lab.disk(0), DiskState::Detaching, "nobody may use it any more");
        lab.let_one_go(0, IoResult::Done);
    }
    let answer = lab.nodes[0].replies[&attach].as_ref().map_err(|refusal| refusal.reason);
    assert_eq!(answer, Err(Reason::InTransientState));
    assert!(lab.nodes[0].replies[&detach].is_ok());
    lab.let_go(0);
    for n in 0..2 {
        lab.attach(n).expect("its own disk");
    }
    lab.connect();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
    assert_eq!(lab.nodes[1].disk[&5], 5);
}

#[test]
fn nothing_is_written_before_the_disk_knows_of_the_primary_that_attached_it() {
    let mut lab = Lab::running("C");
    lab.secondary(0).expect("nobody uses it");
    lab.detach(0).expect("the peer has good data");
    lab.primary(0, false).expect("the peer has good data");
    // Its role is kept at once, while the disk is not yet compared with the peer's; that it is in use only after that.
    lab.hold(0, Pending::is_super_block);
    lab.nodes[0].disk_closed = false;
    let request = lab.nodes[0].attach_request(true, false);
    lab.begin(0, AdminRequest::Attach(request));
    lab.run();
    lab.let_one_go(0, IoResult::Done);
    assert_eq!(lab.disk(0), DiskState::UpToDate);
    let write = lab.write(0, 2, 2);
    lab.let_one_go(0, IoResult::Done);
    assert_eq!(lab.result(0, write), None);
    lab.let_go(0);
    assert!(lab.is_done(0, write));
    lab.check_alike();
}
