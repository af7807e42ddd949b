//! Disks that fail, are full or answer nothing, under every policy.

use super::forged::lab_with;
use super::lab::Lab;
use super::node::{Pending, VOLUME};
use crate::engine::{AdminRequest, DiskOp, IoResult, UpperResult};
use crate::states::{DiskState, ReplicationState};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// In sync, node 0 Primary, both with these disk options.
fn running_with(disk: &[(&str, &str)]) -> Lab {
    let mut lab = Lab::running("C");
    for n in 0..2 {
        lab.disk_options(n, disk);
    }
    lab
}

// ---- on-io-error -----------------------------------------------------------------------------------------------------

#[test]
fn detach_gives_the_disk_up_and_nobody_notices() {
    let mut lab = running_with(&[("on-io-error", "detach")]);
    lab.fail(0, |op| op.is_write().then_some(EIO));
    let tag = lab.write(0, 3, 3);
    assert!(lab.is_done(0, tag));
    assert_eq!((lab.disk(0), lab.peer_disk(1)), (DiskState::Diskless, DiskState::Diskless));
    lab.fail_no_more(0);
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn call_local_io_error_calls_it_and_detaches() {
    let mut lab = running_with(&[("on-io-error", "call-local-io-error")]);
    for n in [1, 0] {
        lab.fail(n, |op| op.is_write().then_some(EIO));
        let tag = lab.write(0, 3, 3);
        assert!(lab.is_done(0, tag), "one good copy is within reach");
        assert_eq!(lab.nodes[n].handlers.last(), Some(&"local-io-error"));
        assert_eq!(lab.disk(n), DiskState::Diskless);
        lab.fail_no_more(n);
        lab.attach(n).expect("its own disk");
        lab.wait("in sync", |lab| lab.is_in_sync());
    }
    lab.check_alike();
}

#[test]
fn pass_on_reads_from_the_peer_and_writes_the_block_again() {
    let mut lab = running_with(&[("on-io-error", "pass_on")]);
    lab.write(0, 6, 66);
    lab.pass_ms(1000);
    lab.nodes[0].disk.remove(&6);
    lab.fail(0, |op| op.is_read().then_some(EIO));
    lab.hold(0, Pending::is_write);
    let read = lab.read(0, 6);
    let newer = lab.write(0, 6, 67);
    lab.let_go(0);
    assert!(lab.is_done(0, read) && lab.is_done(0, newer));
    assert_eq!(lab.nodes[0].read[&read], [66]);
    lab.fail_no_more(0);
    assert!(lab.is_in_sync(), "the disk stays what it is");
    lab.check_alike();
    assert_eq!(lab.nodes[0].disk[&6], 67);
}

#[test]
fn pass_on_gives_up_a_disk_that_cannot_take_the_block_again() {
    let mut lab = running_with(&[("on-io-error", "pass_on")]);
    lab.write(0, 6, 66);
    lab.fail(0, |op| (op.is_read() || op.is_write()).then_some(EIO));
    let read = lab.read(0, 6);
    assert!(lab.is_done(0, read));
    assert_eq!((lab.disk(0), lab.nodes[0].read[&read][0]), (DiskState::Diskless, 66));
    lab.fail_no_more(0);
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn pass_on_gives_up_the_disk_that_lacks_a_write() {
    for n in 0..2 {
        let mut lab = running_with(&[("on-io-error", "pass_on")]);
        lab.fail(n, |op| op.is_write().then_some(EIO));
        let tag = lab.write(0, 6, 66);
        assert!(lab.is_done(0, tag));
        assert_eq!(lab.disk(n), DiskState::Diskless);
        lab.fail_no_more(n);
        lab.attach(n).expect("its own disk");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

/// on-no-data-accessible suspend-io waits for data that may come back, not for a block that nobody can read.
#[test]
fn a_block_that_nobody_can_read_does_not_freeze_the_rest_for_ever() {
    for own in [true, false] {
        let mut lab = running_with(&[("on-io-error", "pass_on")]);
        lab.resource_options(0, &[("on-no-data-accessible", "suspend-io")]);
        lab.write(0, 6, 66);
        if own {
            lab.cut();
        } else {
            lab.detach(0).expect("the peer has good data");
        }
        let holder = usize::from(!own);
        lab.fail(holder, |op| op.is_read().then_some(EIO));
        let read = lab.read(0, 6);
        assert_eq!(lab.suspended(0), "no-data", "the word that the disk is gone may be on its way");
        lab.pass_ms(40_000);
        assert_eq!((lab.result(0, read), lab.suspended(0).as_str()), (Some(UpperResult::IoError), "no"));
        let write = lab.write(0, 7, 77);
        assert!(lab.is_done(0, write));
    }
}

#[test]
fn pass_on_passes_on_what_only_this_disk_has() {
    let mut lab = running_with(&[("on-io-error", "pass_on")]);
    lab.cut();
    let tag = lab.write(0, 1, 1);
    assert!(lab.is_done(0, tag));
    lab.fail(0, |op| (op.is_read() || op.is_write()).then_some(EIO));
    let failed = [lab.write(0, 6, 66), lab.read(0, 1)];
    assert!(failed.iter().all(|&tag| lab.result(0, tag) == Some(UpperResult::IoError)));
    lab.fail_no_more(0);
    assert_eq!((lab.disk(0), lab.suspended(0).as_str()), (DiskState::UpToDate, "no"));
    let read = lab.read(0, 1);
    assert_eq!((lab.is_done(0, read), lab.nodes[0].read[&read].clone()), (true, vec![1]));
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn pass_on_keeps_what_a_diskless_primary_depends_on() {
    let mut lab = running_with(&[("on-io-error", "pass_on")]);
    lab.write(0, 1, 1);
    lab.detach(0).expect("the peer has good data");
    lab.fail(1, |op| (op.is_read() || op.is_write()).then_some(EIO));
    let failed = [lab.read(0, 1), lab.write(0, 2, 2)];
    assert!(failed.iter().all(|&tag| lab.result(0, tag) == Some(UpperResult::IoError)));
    lab.fail_no_more(1);
    let read = lab.read(0, 1);
    assert_eq!((lab.disk(1), lab.nodes[0].read[&read].clone()), (DiskState::UpToDate, vec![1]));
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn pass_on_begins_a_resync_again_whose_source_lacks_a_write() {
    let mut lab = running_with(&[("on-io-error", "pass_on")]);
    lab.cut();
    for block in 0..256 {
        lab.write(0, block * 8, 1);
    }
    lab.hold(1, Pending::is_write);
    lab.hold(0, Pending::is_write);
    lab.mend();
    lab.wait("a resync", |lab| lab.disk(1) == DiskState::Inconsistent);
    let failed = lab.write(0, 9000, 2);
    lab.pass_ms(200);
    assert!(!lab.nodes[0].pending.is_empty());
    lab.let_one_go(0, IoResult::Failed(EIO));
    lab.let_go(0);
    lab.let_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync() && lab.result(0, failed).is_some());
    assert_eq!(lab.disk(0), DiskState::UpToDate);
    lab.pass_ms(1000);
    lab.check_alike();
}

#[test]
fn pass_on_leaves_out_of_a_resync_what_its_source_cannot_read() {
    for checksums in ["", "sha1"] {
        let mut lab = lab_with(&[("csums-alg", checksums)]);
        lab.disk_options(0, &[("on-io-error", "pass_on")]);
        lab.cut();
        for block in 0..256 {
            lab.write(0, block * 8, 1);
        }
        lab.fail(0, |op| {
            matches!(op, Pending::Disk(io) if io.op == DiskOp::Read && io.sector.0 == 640).then_some(EIO)
        });
        lab.mend();
        lab.wait("a resync", |lab| lab.disk(1) == DiskState::Inconsistent);
        lab.wait("its end", |lab| (0..2).all(|n| lab.replication(n) == ReplicationState::Established));
        for _ in 0..10 {
            lab.pass_ms(1000);
            assert!((0..2).all(|n| lab.is_replicating(n)), "the session goes on");
        }
        assert_eq!((lab.disk(0), lab.peer_disk(0)), (DiskState::UpToDate, DiskState::Inconsistent));
        assert_eq!((lab.disk(1), lab.peer_disk(1)), (DiskState::Inconsistent, DiskState::UpToDate));
        assert_eq!((lab.out_of_sync(0), lab.out_of_sync(1)), (vec![80], vec![80]));
        let later = lab.write(0, 9000, 2);
        assert!(lab.is_done(0, later));
        lab.fail_no_more(0);
        lab.cut();
        lab.mend();
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn a_peer_that_cannot_read_is_no_reason_to_fail_what_the_own_disk_has() {
    let mut lab = running_with(&[("on-io-error", "pass_on")]);
    lab.write(0, 1, 1);
    lab.fail(1, |op| op.is_read().then_some(EIO));
    lab.detach(0).expect("the peer has good data");
    lab.hold(1, Pending::is_read);
    let read = lab.read(0, 1);
    lab.nodes[1].holds = None;
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.let_one_go(1, IoResult::Failed(EIO));
    assert!(lab.is_done(0, read));
    assert_eq!(lab.nodes[0].read[&read], [1]);
}

/// Under A a write is done when it is sent, and a flush is the own disk's: neither once that disk is given up.
#[test]
fn under_protocol_a_what_is_under_way_waits_for_the_peer_when_the_own_disk_fails() {
    let mut lab = Lab::running("A");
    lab.write(0, 6, 6);
    lab.pass_ms(1000);
    lab.hold(1, Pending::is_write);
    lab.hold(0, |op| op.is_write() || op.is_flush());
    let (write, flush) = (lab.write(0, 7, 7), lab.flush(0));
    lab.fail(0, |op| op.is_read().then_some(EIO));
    let read = lab.read(0, 6);
    lab.fail_no_more(0);
    lab.let_go(0);
    assert_eq!(lab.disk(0), DiskState::Diskless);
    assert!(lab.result(0, write).is_none() && lab.result(0, flush).is_none());
    lab.let_go(1);
    lab.pass_ms(1000);
    assert!([read, write, flush].iter().all(|&tag| lab.is_done(0, tag)));
    assert_eq!(lab.nodes[1].disk[&7], 7);
}

/// As above, but the disk is still there and the error is the only one: what it has is good.
#[test]
fn under_pass_on_a_read_error_costs_no_other_request() {
    for protocol in ["A", "B", "C"] {
        let mut lab = Lab::running(protocol);
        lab.disk_options(0, &[("on-io-error", "pass_on")]);
        lab.write(0, 6, 6);
        lab.pass_ms(1000);
        lab.fail(0, |op| op.is_read().then_some(EIO));
        let read = lab.read(0, 6);
        let others = [lab.write(0, 7, 7), lab.flush(0)];
        assert!(lab.is_done(0, read) && others.iter().all(|&tag| lab.is_done(0, tag)));
        lab.fail_no_more(0);
        lab.pass_ms(1000);
        assert!(lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn metadata_that_cannot_be_written_costs_the_disk_under_every_policy() {
    for policy in ["pass_on", "call-local-io-error", "detach"] {
        for n in 0..2 {
            let mut lab = running_with(&[("on-io-error", policy)]);
            lab.fail(n, |op| matches!(op, Pending::Meta(..)).then_some(EIO));
            if n == 0 {
                let tag = lab.write(0, 9000, 5);
                assert!(lab.is_done(0, tag), "the peer has it");
            } else {
                lab.detach(0).expect("the peer has good data");
                let tag = lab.write(0, 9000, 5);
                assert_eq!(lab.result(0, tag), Some(UpperResult::IoError), "nobody could make it safe");
            }
            assert_eq!(lab.disk(n), DiskState::Diskless, "{policy}");
            lab.check_buffers();
        }
    }
}

// ---- full ------------------------------------------------------------------------------------------------------------

#[test]
fn a_full_disk_is_a_failed_one_while_the_peer_has_a_good_copy() {
    for n in 0..2 {
        let mut lab = running_with(&[("on-io-error", "detach")]);
        lab.fail(n, |op| op.is_write().then_some(ENOSPC));
        let tag = lab.write(0, 3, 3);
        assert!(lab.is_done(0, tag));
        assert_eq!((lab.disk(n), lab.suspended(0).as_str()), (DiskState::Diskless, "no"));
        lab.fail_no_more(n);
        lab.attach(n).expect("its own disk");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn the_last_good_copy_waits_for_space_whatever_the_policies() {
    for policy in ["pass_on", "call-local-io-error", "detach"] {
        for no_data in ["io-error", "suspend-io"] {
            let mut lab = running_with(&[("on-io-error", policy)]);
            lab.resource_options(0, &[("on-no-data-accessible", no_data)]);
            lab.cut();
            lab.write(0, 1, 1);
            lab.fail(0, |op| op.is_write().then_some(ENOSPC));
            let waiting = [lab.write(0, 3, 3), lab.write(0, 3, 4), lab.write(0, 5, 5), lab.read(0, 1)];
            assert_eq!((lab.disk(0), lab.suspended(0).as_str()), (DiskState::UpToDate, "no-data"));
            lab.pass_ms(20_000);
            assert!(waiting.iter().all(|&tag| lab.result(0, tag).is_none()), "suspended, not failed");
            lab.fail_no_more(0);
            lab.pass_ms(5_000);
            assert!(waiting.iter().all(|&tag| lab.is_done(0, tag)), "space is back");
            assert_eq!((lab.suspended(0).as_str(), lab.nodes[0].read[&waiting[3]].clone()), ("no", vec![1]));
            lab.mend();
            lab.wait("in sync", |lab| lab.is_in_sync());
            lab.check_alike();
        }
    }
}

#[test]
fn a_full_disk_that_a_diskless_primary_depends_on_is_not_given_up() {
    for no_data in ["io-error", "suspend-io"] {
        let mut lab = running_with(&[("on-io-error", "detach")]);
        lab.resource_options(0, &[("on-no-data-accessible", no_data)]);
        lab.write(0, 1, 1);
        lab.detach(0).expect("the peer has good data");
        lab.fail(1, |op| op.is_write().then_some(ENOSPC));
        let write = lab.write(0, 3, 3);
        lab.pass_ms(10_000);
        assert_eq!((lab.result(0, write), lab.disk(1)), (None, DiskState::UpToDate), "it waits for space");
        lab.fail_no_more(1);
        lab.pass_ms(2_000);
        assert!(lab.is_done(0, write), "with space it goes on by itself");
        let flush = lab.flush(0);
        assert!(lab.is_done(0, flush));
        let read = lab.read(0, 1);
        assert_eq!(lab.nodes[0].read[&read], [1]);
        lab.attach(0).expect("its own disk");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn an_outdate_is_answered_while_the_peers_writes_wait_for_space() {
    let mut lab = running_with(&[("on-io-error", "detach")]);
    lab.detach(0).expect("the peer has good data");
    lab.fail(1, |op| op.is_write().then_some(ENOSPC));
    let write = lab.write(0, 3, 3);
    lab.pass_ms(1000);
    lab.cut();
    let outdate = lab.begin(1, AdminRequest::Outdate { volume: VOLUME });
    lab.pass_ms(10_000);
    assert!(lab.nodes[1].replies.contains_key(&outdate));
    assert!(lab.result(0, write).is_some(), "nobody has it");
}

#[test]
fn metadata_waits_for_space_on_the_last_good_copy() {
    let mut lab = running_with(&[("on-io-error", "detach")]);
    lab.fail(0, |op| op.is_super_block().then_some(ENOSPC));
    lab.cut();
    // Without the peer a new generation begins, and nothing is done before that is kept.
    let write = lab.write(0, 3, 3);
    lab.pass_ms(10_000);
    let waits = |lab: &Lab| (lab.result(0, write), lab.disk(0), lab.suspended(0));
    let waiting = (None, DiskState::UpToDate, "no-data".to_owned());
    assert_eq!(waits(&lab), waiting);
    lab.ask(0, AdminRequest::ResumeIo { volume: VOLUME }).expect("always legal");
    lab.pass_ms(1_000);
    assert_eq!(waits(&lab), waiting, "it is still full");
    lab.fail_no_more(0);
    lab.pass_ms(4_000);
    assert_eq!((lab.is_done(0, write), lab.suspended(0).as_str()), (true, "no"));
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn resume_io_tries_a_full_disk_again() {
    let mut lab = running_with(&[]);
    lab.cut();
    lab.fail(0, |op| op.is_write().then_some(ENOSPC));
    let tag = lab.write(0, 3, 3);
    let resume = || AdminRequest::ResumeIo { volume: VOLUME };
    lab.ask(0, resume()).expect("always legal");
    assert_eq!((lab.result(0, tag), lab.suspended(0).as_str()), (None, "no-data"), "still full");
    lab.fail_no_more(0);
    lab.ask(0, resume()).expect("always legal");
    assert!(lab.is_done(0, tag));
}

#[test]
fn a_full_disk_waits_until_the_peer_has_a_good_copy_again() {
    let mut lab = running_with(&[]);
    lab.cut();
    let tag = lab.write(0, 1, 1);
    assert!(lab.is_done(0, tag));
    lab.fail(0, |op| op.is_write().then_some(ENOSPC));
    let waiting = lab.write(0, 3, 3);
    lab.mend();
    lab.wait("the peer has caught up", |lab| lab.disk(1) == DiskState::UpToDate && lab.is_done(0, waiting));
    assert_eq!((lab.disk(0), lab.suspended(0).as_str()), (DiskState::Diskless, "no"));
    assert_eq!(lab.nodes[1].disk[&3], 3);
    lab.fail_no_more(0);
    lab.pass_ms(1000);
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn what_a_full_disk_took_while_frozen_and_apart_the_peer_gets() {
    let mut lab = running_with(&[]);
    // A volume that has no data at all keeps everything frozen.
    lab.new_minor(0, 1);
    lab.new_minor(1, 1);
    lab.cut();
    lab.write(0, 1, 1);
    lab.fail(0, |op| op.is_write().then_some(ENOSPC));
    let waiting = lab.write(0, 3, 3);
    lab.mend();
    lab.wait("the peer has caught up", |lab| lab.disk(1) == DiskState::UpToDate && lab.is_replicating(0));
    // Contact is lost while frozen: no new generation. The write that waits is tried again meanwhile.
    lab.cut();
    lab.fail_no_more(0);
    lab.pass_ms(10_000);
    assert_eq!((lab.result(0, waiting), lab.nodes[0].disk.get(&3)), (None, Some(&3)));
    lab.mend();
    lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    lab.ask(0, AdminRequest::ResumeIo { volume: VOLUME }).expect("always legal");
    lab.wait("the write", |lab| lab.is_done(0, waiting));
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(lab.out_of_sync(0).is_empty());
    lab.check_alike();
}

#[test]
fn a_full_primary_may_be_given_up() {
    let mut lab = running_with(&[]);
    lab.cut();
    lab.fail(0, |op| op.is_write().then_some(ENOSPC));
    lab.open(0);
    let waiting = [lab.write(0, 3, 3), lab.write(0, 3, 4), lab.read(0, 3), lab.flush(0)];
    assert!(lab.ask(0, AdminRequest::Secondary { force: false }).is_err(), "it is open");
    assert!(waiting.iter().all(|&tag| lab.result(0, tag).is_none()));
    lab.ask(0, AdminRequest::Secondary { force: true }).expect("forced");
    assert!(waiting.iter().all(|&tag| lab.result(0, tag).is_some() && !lab.is_done(0, tag)));
    lab.close(0);
    lab.fail_no_more(0);
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

// ---- disk-timeout ----------------------------------------------------------------------------------------------------

#[test]
fn a_disk_that_answers_nothing_is_given_up() {
    for n in 0..2 {
        let mut lab = running_with(&[("disk-timeout", "30")]);
        lab.write(0, 1, 1);
        lab.hold(n, |op| matches!(op, Pending::Disk(_)));
        let waiting = [lab.write(0, 3, 3), lab.read(0, 1), lab.flush(0)];
        lab.pass_ms(2_900);
        assert_eq!(lab.disk(n), DiskState::UpToDate);
        lab.pass_ms(300);
        assert_eq!(lab.disk(n), DiskState::Diskless);
        assert!(waiting.iter().all(|&tag| lab.is_done(0, tag)), "the other copy is good");
        assert_eq!(lab.nodes[0].read[&waiting[1]], [1]);
        lab.let_go(n);
        assert!(lab.nodes[n].disk_closed);
        lab.attach(n).expect("its own disk");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn a_slow_disk_that_answers_in_time_stays() {
    let mut lab = running_with(&[("disk-timeout", "30")]);
    for content in 1..10 {
        lab.hold(0, Pending::is_write);
        let tag = lab.write(0, 3, content);
        lab.pass_ms(2_000);
        lab.let_go(0);
        assert!(lab.is_done(0, tag));
    }
    assert_eq!(lab.disk(0), DiskState::UpToDate);
    lab.pass_ms(60_000);
    lab.check_alike();
}

#[test]
fn metadata_that_takes_too_long_counts_as_well() {
    let mut lab = running_with(&[("disk-timeout", "30")]);
    lab.hold(0, |op| matches!(op, Pending::Meta(..)));
    let tag = lab.write(0, 9000, 3);
    lab.pass_ms(3_300);
    assert_eq!((lab.disk(0), lab.is_done(0, tag)), (DiskState::Diskless, true));
    lab.let_go(0);
    lab.check_buffers();
}
