//! Requests that are suspended, and how they go on: by an administrator, by fencing, for want of good data.

use super::lab::Lab;
use super::node::{net, Pending, VOLUME};
use crate::engine::{AdminRequest, IoResult, UpperResult};
use crate::metadata::Format;
use crate::states::{ConnectionState, DiskState, Role};
use crate::wire::Packet;

/// In sync, node 0 Primary, with that fencing policy; the fence-peer handler runs until the test ends it.
fn fenced(policy: &str) -> Lab {
    let options = || net(&[("fencing", policy), ("connect-int", "1")]);
    let mut lab = Lab::with([options(), options()], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.nodes[0].handler_status = None;
    lab
}

/// In sync, node 0 Primary, on-no-data-accessible suspend-io.
fn suspending() -> Lab {
    let mut lab = Lab::running("C");
    lab.resource_options(0, &[("on-no-data-accessible", "suspend-io")]);
    lab
}

fn suspend(lab: &mut Lab, n: usize) {
    lab.ask(n, AdminRequest::SuspendIo { volume: VOLUME }).expect("always legal");
}

fn resume(lab: &mut Lab, n: usize) {
    lab.ask(n, AdminRequest::ResumeIo { volume: VOLUME }).expect("always legal");
}

fn generation(lab: &Lab, n: usize) -> u64 {
    lab.nodes[n].engine.generations(0).expect("a disk").current & !1
}

fn resynced(lab: &Lab) -> bool {
    lab.nodes.iter().any(|node| node.log_lines.iter().any(|line| line.contains("Began resync")))
}

/// Reconnects and waits until both copies are equal; true if it took a resync.
fn reconnects_by_resync(lab: &mut Lab) -> bool {
    lab.nodes.iter_mut().for_each(|node| node.log_lines.clear());
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    resynced(lab)
}

// ---- suspend-io ------------------------------------------------------------------------------------------------------

#[test]
fn an_administrator_suspends_and_resumes() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 1);
    suspend(&mut lab, 0);
    assert_eq!(lab.suspended(0), "user");
    let requests = [lab.write(0, 2, 2), lab.read(0, 1), lab.flush(0)];
    lab.pass_ms(60_000);
    assert!(requests.iter().all(|&tag| lab.result(0, tag).is_none()));
    resume(&mut lab, 0);
    assert_eq!(lab.suspended(0), "no");
    assert!(requests.iter().all(|&tag| lab.is_done(0, tag)));
    assert_eq!(lab.nodes[0].read[&requests[1]], [1]);
    lab.check_alike();
}

#[test]
fn what_is_under_way_when_an_administrator_suspends_ends() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_write);
    let under_way = lab.write(0, 1, 1);
    suspend(&mut lab, 0);
    let new = lab.write(0, 2, 2);
    lab.let_go(1);
    assert!(lab.is_done(0, under_way));
    assert_eq!(lab.result(0, new), None);
    lab.cut();
    assert_eq!(lab.result(0, new), None);
    resume(&mut lab, 0);
    assert!(lab.is_done(0, new), "the own disk is good");
    assert!(reconnects_by_resync(&mut lab));
    lab.check_alike();
}

#[test]
fn suspending_twice_and_resuming_what_runs_changes_nothing() {
    let mut lab = Lab::running("C");
    resume(&mut lab, 0);
    suspend(&mut lab, 0);
    suspend(&mut lab, 0);
    resume(&mut lab, 0);
    let tag = lab.write(0, 1, 1);
    assert!(lab.is_done(0, tag));
}

// ---- fencing ---------------------------------------------------------------------------------------------------------

#[test]
fn a_lost_peer_freezes_requests_until_it_is_fenced() {
    let mut lab = fenced("resource-and-stonith");
    let before = generation(&lab, 0);
    lab.hold(1, Pending::is_write);
    let under_way = lab.write(0, 1, 1);
    lab.cut();
    assert_eq!(lab.suspended(0), "fencing");
    assert_eq!(lab.nodes[0].handlers.last(), Some(&"fence-peer"));
    let new = [lab.write(0, 2, 2), lab.read(0, 2), lab.flush(0)];
    lab.pass_ms(60_000);
    assert!(new.iter().chain([&under_way]).all(|&tag| lab.result(0, tag).is_none()), "nothing is told");
    assert_eq!(generation(&lab, 0), before, "nothing was done without the peer");
    lab.handler_ends(0, 4);
    assert_eq!((lab.suspended(0).as_str(), lab.peer_disk(0)), ("no", DiskState::Outdated));
    assert!(new.iter().chain([&under_way]).all(|&tag| lab.is_done(0, tag)));
    assert_ne!(generation(&lab, 0), before);
    assert_eq!(lab.out_of_sync(0), [1, 2]);
    lab.let_go(1);
    assert!(reconnects_by_resync(&mut lab));
    lab.check_alike();
}

/// Every answer of the handler: whether requests go on, and what the peer's disk is taken for.
#[test]
fn the_answers_of_fence_peer() {
    for (status, goes_on, peer_disk) in [
        (3, true, DiskState::Inconsistent),
        (4, true, DiskState::Outdated),
        (5, true, DiskState::Outdated),
        (6, false, DiskState::DUnknown),
        (7, true, DiskState::Outdated),
        (0, false, DiskState::DUnknown),
        (1, false, DiskState::DUnknown),
        (-1, false, DiskState::DUnknown),
    ] {
        let mut lab = fenced("resource-and-stonith");
        lab.cut();
        let tag = lab.write(0, 1, 1);
        lab.handler_ends(0, status);
        assert_eq!(lab.is_done(0, tag), goes_on, "fence-peer says {status}");
        assert_eq!(lab.peer_disk(0), peer_disk, "fence-peer says {status}");
        assert_eq!(lab.suspended(0) == "no", goes_on, "fence-peer says {status}");
        assert_eq!(lab.disk(0), DiskState::UpToDate);
    }
}

#[test]
fn a_peer_that_comes_back_gets_the_transfer_log_again_and_no_resync() {
    for held in
        [Pending::is_write as fn(&Pending) -> bool, Pending::is_flush, |op| op.is_write() || op.is_flush()]
    {
        let mut lab = fenced("resource-and-stonith");
        let before = generation(&lab, 0);
        let reported = lab.write(0, 5, 5);
        assert!(lab.is_done(0, reported));
        lab.hold(1, held);
        let under_way = [lab.write(0, 1, 1), lab.write(0, 2, 2), lab.flush(0)];
        lab.cut();
        let new = lab.write(0, 3, 3);
        // What the peer had in its queue is lost with its cache.
        lab.nodes[1].pending.clear();
        let unstable = |lab: &Lab, block: u64| {
            lab.nodes[0].engine.unstable_writes(VOLUME).iter().any(|w| w.0 == block * 8)
        };
        for block in (1..6).filter(|&block| unstable(&lab, block)).collect::<Vec<_>>() {
            lab.nodes[1].disk.remove(&block);
        }
        lab.crash(1);
        lab.attach(1).expect("its own disk");
        lab.begin_connect(1);
        assert!(!reconnects_by_resync(&mut lab));
        assert!(under_way.iter().chain([&new]).all(|&tag| lab.is_done(0, tag)));
        assert_eq!(generation(&lab, 0), before);
        lab.handler_ends(0, 4);
        assert_eq!(lab.peer_disk(0), DiskState::UpToDate, "a late answer means nothing");
        lab.pass_ms(1000);
        lab.check_alike();
    }
}

#[test]
fn writes_over_each_other_are_never_sent_again_out_of_turn() {
    let mut lab = fenced("resource-and-stonith");
    lab.hold(1, Pending::is_flush);
    // Both reported, both perhaps only in the peer's cache; the second covers the first in part.
    let wide = lab.write_blocks(0, 1, &[1, 1]);
    let narrow = lab.write(0, 2, 2);
    assert!(lab.is_done(0, wide) && lab.is_done(0, narrow));
    lab.cut();
    lab.let_go(1);
    assert!(reconnects_by_resync(&mut lab), "a resync is the safe way");
    lab.check_alike();
    assert_eq!((lab.nodes[1].disk[&1], lab.nodes[1].disk[&2]), (1, 2));
}

#[test]
fn a_write_wholly_covered_by_a_later_one_is_not_sent_again() {
    let mut lab = fenced("resource-and-stonith");
    lab.hold(1, Pending::is_flush);
    for content in [1, 2, 3] {
        let tag = lab.write(0, 7, content);
        assert!(lab.is_done(0, tag));
    }
    lab.cut();
    lab.let_go(1);
    lab.nodes[0].sent.clear();
    assert!(!reconnects_by_resync(&mut lab));
    lab.pass_ms(1000);
    let again = lab.nodes[0].sent.iter().filter(|packet| matches!(packet, Packet::Data(_))).count();
    assert_eq!((again, lab.nodes[1].disk[&7]), (1, 3));
    lab.check_alike();
}

#[test]
fn a_peer_lost_again_while_the_handler_still_runs_is_fenced_again() {
    let mut lab = fenced("resource-and-stonith");
    lab.cut();
    assert!(!reconnects_by_resync(&mut lab));
    lab.cut();
    let tag = lab.write(0, 1, 1);
    assert_eq!(lab.nodes[0].running_handlers.len(), 1, "one at a time");
    lab.handler_ends(0, 4);
    assert_eq!(
        (lab.result(0, tag), lab.peer_disk(0)),
        (None, DiskState::DUnknown),
        "that was the first loss"
    );
    lab.handler_ends(0, 4);
    assert!(lab.is_done(0, tag));
}

#[test]
fn resource_only_fences_without_freezing() {
    let mut lab = fenced("resource-only");
    lab.cut();
    assert_eq!((lab.suspended(0).as_str(), lab.nodes[0].handlers.last()), ("no", Some(&"fence-peer")));
    let tag = lab.write(0, 1, 1);
    assert!(lab.is_done(0, tag));
    lab.handler_ends(0, 4);
    assert_eq!(lab.peer_disk(0), DiskState::Outdated);
}

#[test]
fn resume_io_overrules_a_handler_that_does_not_answer() {
    let mut lab = fenced("resource-and-stonith");
    lab.cut();
    let tag = lab.write(0, 1, 1);
    assert_eq!(lab.result(0, tag), None);
    resume(&mut lab, 0);
    assert!(lab.is_done(0, tag));
    assert!(reconnects_by_resync(&mut lab));
    lab.handler_ends(0, 4);
    lab.check_alike();
}

#[test]
fn a_frozen_primary_that_crashes_marks_what_it_wrote() {
    let mut lab = fenced("resource-and-stonith");
    lab.hold_packets(0);
    lab.write(0, 9000, 1);
    lab.cut();
    lab.let_packets_go(0);
    lab.nodes[0].handler_status = Some(4);
    lab.crash(0);
    lab.attach(0).expect("apply-al was there");
    lab.begin_connect(0);
    assert!(reconnects_by_resync(&mut lab));
    lab.check_alike();
}

#[test]
fn a_frozen_primary_may_be_demoted_and_taken_down() {
    for down in [false, true] {
        let mut lab = fenced("resource-and-stonith");
        lab.hold(1, Pending::is_write);
        let under_way = lab.write(0, 1, 1);
        lab.cut();
        let new = [lab.write(0, 2, 2), lab.read(0, 3), lab.flush(0)];
        let request = if down { AdminRequest::Down } else { AdminRequest::Secondary { force: false } };
        lab.ask(0, request).expect("nobody has it open");
        for tag in new.into_iter().chain([under_way]) {
            let result = lab.result(0, tag);
            assert!(matches!(result, Some(UpperResult::IoError | UpperResult::NotPrimary)), "{result:?}");
        }
        lab.let_go(1);
        lab.check_buffers();
        if !down {
            assert_eq!(lab.suspended(0), "no");
            lab.mend();
            lab.wait("in sync", |lab| lab.is_in_sync());
            lab.check_alike();
        }
    }
}

/// The session is back for one of two volumes: still frozen, and what only the own disk has goes to the peer although it
/// fails upward. Of one generation the copies have to be the same.
#[test]
fn what_a_demotion_fails_is_on_both_disks_or_on_none() {
    let mut lab = fenced("resource-and-stonith");
    for n in 0..2 {
        lab.new_minor(n, 1);
    }
    let before = generation(&lab, 0);
    lab.hold(1, Pending::is_write);
    let under_way = lab.write(0, 1, 1);
    lab.cut();
    lab.nodes[1].pending.clear();
    lab.crash(1);
    lab.let_go(1);
    lab.attach(1).expect("its own disk");
    lab.begin_connect(1);
    lab.mend();
    lab.wait("the first volume meets", |lab| lab.peer_disk(0) == DiskState::UpToDate);
    assert_eq!((lab.suspended(0).as_str(), lab.result(0, under_way)), ("fencing", None));
    assert_eq!(lab.nodes[1].disk.get(&1).copied().unwrap_or(0), 0, "it was lost on the way");
    let mut out = Vec::new();
    lab.nodes[0].engine.demote_unasked(&mut out);
    lab.carry_out_all(0, out);
    lab.run();
    assert_eq!(lab.result(0, under_way), Some(UpperResult::IoError));
    assert_eq!((lab.role(0), generation(&lab, 0)), (Role::Secondary, before));
    lab.check_alike();
    lab.check_buffers();
}

#[test]
fn protocol_a_does_not_go_with_stonith() {
    let options = net(&[("protocol", "A"), ("fencing", "resource-and-stonith")]);
    let peer = crate::ids::NodeId(1);
    let mut lab = Lab::protocol("A");
    let refused = lab.ask(0, AdminRequest::NetOptions { peer, options });
    assert_eq!(refused.map_err(|r| r.reason), Err(crate::refusal::Reason::StonithAndProtocolA));
}

// ---- on-suspended-primary-outdated -----------------------------------------------------------------------------------

/// Node 0 is frozen; node 1 was Primary meanwhile and wrote.
fn overtaken(policy: &str) -> (Lab, [crate::ids::UpperTag; 2]) {
    let mut lab = fenced("resource-and-stonith");
    lab.resource_options(0, &[("on-suspended-primary-outdated", policy)]);
    lab.open(0);
    lab.hold(1, Pending::is_write);
    let under_way = lab.write(0, 1, 1);
    lab.cut();
    lab.nodes[1].pending.clear();
    lab.let_go(1);
    let new = lab.write(0, 2, 2);
    // Another way of fencing: node 1 knows that node 0 does nothing.
    lab.crash(1);
    lab.configure_again(1, net(&[("connect-int", "1")]));
    lab.attach(1).expect("its own disk");
    lab.primary(1, false).expect("its data is UpToDate");
    let tag = lab.write(1, 2, 22);
    assert!(lab.is_done(1, tag));
    lab.secondary(1).expect("nobody has it open");
    lab.begin_connect(1);
    lab.mend();
    (lab, [under_way, new])
}

#[test]
fn a_frozen_primary_that_was_overtaken_disconnects() {
    let (mut lab, requests) = overtaken("disconnect");
    lab.wait("StandAlone", |lab| lab.connection(0) == ConnectionState::StandAlone);
    assert_eq!((lab.role(0), lab.suspended(0).as_str()), (Role::Primary, "fencing"));
    assert!(requests.iter().all(|&tag| lab.result(0, tag).is_none()));
}

#[test]
fn a_frozen_primary_that_was_overtaken_gives_way() {
    let (mut lab, requests) = overtaken("force-secondary");
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert_eq!((lab.role(0), lab.suspended(0).as_str()), (Role::Secondary, "no"));
    for tag in requests {
        assert!(matches!(lab.result(0, tag), Some(UpperResult::IoError | UpperResult::NotPrimary)));
    }
    lab.check_alike();
    assert_eq!(lab.nodes[0].disk[&2], 22);
    assert!(lab.nodes[0].engine.status().resource.force_io_failures, "until the last opener is gone");
    lab.close(0);
    assert!(!lab.nodes[0].engine.status().resource.force_io_failures);
}

// ---- on-no-data-accessible -------------------------------------------------------------------------------------------

#[test]
fn a_diskless_primary_waits_for_its_peer() {
    let mut lab = suspending();
    lab.write(0, 1, 1);
    lab.detach(0).expect("the peer has good data");
    lab.hold(1, |op| op.is_write() || op.is_read());
    let under_way = [lab.write(0, 2, 2), lab.read(0, 1), lab.flush(0)];
    lab.cut();
    assert_eq!(lab.suspended(0), "no-data");
    let new = [lab.write(0, 3, 3), lab.read(0, 3)];
    lab.pass_ms(10_000);
    assert!(under_way.iter().chain(&new).all(|&tag| lab.result(0, tag).is_none()));
    lab.let_go(1);
    lab.mend();
    lab.wait("the connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    assert!(under_way.iter().chain(&new).all(|&tag| lab.is_done(0, tag)));
    assert_eq!((lab.nodes[0].read[&under_way[1]][0], lab.nodes[0].read[&new[1]][0]), (1, 3));
    assert_eq!(lab.suspended(0), "no");
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.pass_ms(1000);
    lab.check_alike();
}

#[test]
fn what_a_diskless_primary_froze_is_not_sent_over_what_its_peer_wrote_since() {
    for (restarted, format) in
        [(false, Format::V08), (true, Format::V08), (false, Format::V09), (true, Format::V09)]
    {
        let mut lab = Lab::with([net(&[]), net(&[])], format);
        lab.connect();
        lab.primary(0, true).expect("forced");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.resource_options(0, &[("on-no-data-accessible", "suspend-io")]);
        lab.detach(0).expect("the peer has good data");
        let before = lab.write(0, 1, 1);
        assert!(lab.is_done(0, before));
        lab.hold(1, Pending::is_write);
        let frozen = lab.write(0, 2, 2);
        lab.cut();
        lab.let_go(1);
        lab.run();
        if restarted {
            lab.crash(1);
            lab.attach(1).expect("its own disk");
        }
        lab.primary(1, true).expect("forced");
        let newer = lab.write(1, 2, 3);
        assert!(lab.is_done(1, newer));
        lab.secondary(1).expect("nobody uses it");
        lab.mend();
        if restarted {
            lab.begin_connect(1);
        }
        lab.pass_ms(20_000);
        assert_eq!(lab.result(0, frozen), None, "restarted {restarted}, {format:?}");
        assert_eq!(lab.nodes[1].disk[&2], 3, "restarted {restarted}, {format:?}");
    }
}

#[test]
fn the_last_disk_fails_and_comes_back() {
    let mut lab = suspending();
    lab.cut();
    let before = lab.write(0, 4, 4);
    assert!(lab.is_done(0, before));
    lab.fail(0, |op| op.is_write().then_some(5));
    let failed = [lab.write(0, 2, 2), lab.write(0, 2, 3), lab.read(0, 4), lab.flush(0)];
    assert_eq!((lab.suspended(0).as_str(), lab.disk(0)), ("no-data", DiskState::Diskless));
    assert!(failed.iter().all(|&tag| lab.result(0, tag).is_none()), "suspended, not failed");
    lab.fail_no_more(0);
    lab.attach(0).expect("the disk that was lost");
    assert!(failed.iter().all(|&tag| lab.is_done(0, tag)));
    assert_eq!(lab.nodes[0].read[&failed[2]], [4]);
    assert_eq!(lab.suspended(0), "no");
    assert_eq!(lab.nodes[0].disk[&2], 3);
    assert!(reconnects_by_resync(&mut lab));
    lab.check_alike();
    assert_eq!(lab.nodes[1].disk[&2], 3);
}

#[test]
fn resume_io_without_any_data_fails_requests() {
    let mut lab = suspending();
    lab.detach(0).expect("the peer has good data");
    lab.hold(1, Pending::is_write);
    let under_way = lab.write(0, 2, 2);
    lab.cut();
    let new = [lab.write(0, 3, 3), lab.read(0, 3), lab.flush(0)];
    assert!(new.iter().chain([&under_way]).all(|&tag| lab.result(0, tag).is_none()));
    resume(&mut lab, 0);
    for tag in new.into_iter().chain([under_way]) {
        assert_eq!(lab.result(0, tag), Some(UpperResult::IoError));
    }
    lab.let_go(1);
    lab.check_buffers();
}

#[test]
fn a_flush_does_not_wait_for_what_a_peer_may_have_lost() {
    let mut lab = suspending();
    lab.detach(0).expect("the peer has good data");
    lab.hold(1, Pending::is_flush);
    let write = lab.write(0, 2, 2);
    assert!(lab.is_done(0, write), "and not yet stable");
    lab.cut();
    resume(&mut lab, 0);
    lab.let_go(1);
    lab.mend();
    lab.wait("the peer", |lab| lab.is_replicating(0));
    let flush = lab.flush(0);
    assert_eq!((lab.result(0, flush), lab.suspended(0).as_str()), (Some(UpperResult::IoError), "no"));
    let requests = [lab.write(0, 3, 3), lab.flush(0)];
    lab.run();
    assert!(requests.iter().all(|&tag| lab.is_done(0, tag)), "a barrier tells");
}

#[test]
fn a_primary_on_a_half_copied_disk_waits_for_the_source() {
    let mut lab = suspending();
    lab.detach(0).expect("the peer has good data");
    for block in 0..256 {
        lab.write(0, block * 8, 1);
    }
    lab.hold(1, |p| p.is_read() || p.is_write());
    lab.attach(0).expect("its own disk");
    lab.wait("a resync", |lab| lab.disk(0) == DiskState::Inconsistent);
    let under_way = [lab.write(0, 9000, 5), lab.read(0, 8), lab.flush(0)];
    lab.cut();
    assert_eq!(lab.suspended(0), "no-data");
    assert!(under_way.iter().all(|&tag| lab.result(0, tag).is_none()));
    lab.let_go(1);
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(under_way.iter().all(|&tag| lab.is_done(0, tag)));
    lab.pass_ms(1000);
    lab.check_alike();
}

#[test]
fn the_older_copy_does_not_end_a_freeze() {
    let mut lab = suspending();
    lab.cut();
    lab.write(0, 4, 4);
    lab.fail(0, |op| op.is_write().then_some(5));
    let failed = lab.write(0, 2, 2);
    lab.fail_no_more(0);
    lab.mend();
    lab.pass_ms(20_000);
    assert_eq!(lab.result(0, failed), None);
    assert_eq!(lab.suspended(0), "no-data");
    lab.attach(0).expect("the disk that was lost");
    assert!(lab.is_done(0, failed));
}

#[test]
fn a_late_operation_of_a_disk_that_was_given_up_changes_nothing() {
    let mut lab = suspending();
    lab.cut();
    lab.hold(0, |op| op.is_write() || op.is_read());
    let (write, read) = (lab.write(0, 2, 2), lab.read(0, 3));
    let force = AdminRequest::Detach { volume: VOLUME, force: true, diskless: false };
    lab.ask(0, force).expect("forced");
    assert_eq!(
        (lab.suspended(0).as_str(), lab.result(0, write), lab.result(0, read)),
        ("no-data", None, None)
    );
    assert!(lab.attach(0).is_err(), "its operations are not over");
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    lab.attach(0).expect("now they are");
    assert!(lab.is_done(0, write) && lab.is_done(0, read));
    assert!(reconnects_by_resync(&mut lab));
    lab.check_alike();
}
