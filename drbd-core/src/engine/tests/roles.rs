//! Who is Primary, who must agree, and what is written before it is told.

use super::lab::Lab;
use super::node::Pending;
use crate::engine::AdminRequest;
use crate::metadata::device_flag;
use crate::refusal::Reason;
use crate::states::{ConnectionState, DiskState, Role};

fn number(result: Result<(), Reason>) -> i32 {
    result.map_or_else(Reason::number, |()| 1)
}

#[test]
fn a_node_without_good_data_is_no_primary_unless_forced() {
    let mut lab = Lab::protocol("C");
    assert_eq!(number(lab.primary(0, false)), -2);
    lab.connect();
    assert_eq!(number(lab.primary(0, false)), -2);
    assert_eq!(number(lab.primary(0, true)), 1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn there_is_one_primary() {
    let mut lab = Lab::running("C");
    assert_eq!(number(lab.primary(1, false)), -1);
    assert_eq!(number(lab.primary(1, true)), -1);
    assert_eq!((lab.role(0), lab.role(1)), (Role::Primary, Role::Secondary));
}

#[test]
fn both_at_once_make_one_primary_at_most() {
    let mut lab = Lab::running("C");
    lab.secondary(0).expect("nobody has it open");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.hold_packets(0);
    lab.hold_packets(1);
    let tickets = [0, 1].map(|n| lab.begin(n, AdminRequest::Primary { force: false }));
    lab.let_packets_go(0);
    lab.let_packets_go(1);
    lab.wait("two answers", |lab| (0..2).all(|n| lab.nodes[n].replies.contains_key(&tickets[n])));
    let primaries = (0..2).filter(|&n| lab.role(n) == Role::Primary).count();
    assert!(primaries <= 1, "{primaries} primaries");
    lab.check_alike();
}

#[test]
fn a_device_in_use_stays_primary() {
    let mut lab = Lab::running("C");
    lab.open(0);
    assert_eq!(number(lab.secondary(0)), -12);
    let down = lab.ask(0, AdminRequest::Down).map_err(|r| r.reason.number());
    assert_eq!(down, Err(-12));
    lab.close(0);
    assert_eq!(number(lab.secondary(0)), 1);
}

#[test]
fn the_role_moves() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 1);
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        lab.secondary(from).expect("nobody has it open");
        lab.primary(to, false).expect("it is UpToDate");
        let tag = lab.write(to, 2 + from as u64, 5);
        assert!(lab.is_done(to, tag));
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn a_primary_is_told_when_its_disk_says_so() {
    let mut lab = Lab::running("C");
    lab.secondary(0).expect("nobody has it open");
    lab.hold(1, Pending::is_super_block);
    let ticket = lab.begin(1, AdminRequest::Primary { force: false });
    lab.run();
    assert!(!lab.nodes[1].replies.contains_key(&ticket));
    let tag = lab.write(1, 9, 9);
    assert_eq!(lab.result(1, tag), None, "the log counts for nothing yet");
    lab.let_go(1);
    lab.wait("the answer", |lab| lab.nodes[1].replies.contains_key(&ticket));
    assert!(lab.is_done(1, tag));
    assert_ne!(lab.nodes[1].kept().flags & device_flag::PRIMARY_IND, 0);
    lab.check_alike();
}

#[test]
fn a_secondary_forgets_its_log_only_when_both_disks_are_stable() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_flush);
    lab.write(0, 77, 1);
    let ticket = lab.begin(0, AdminRequest::Secondary { force: false });
    assert!(!lab.nodes[0].replies.contains_key(&ticket), "the peer has not made it stable");
    assert_ne!(lab.nodes[0].kept().flags & device_flag::PRIMARY_IND, 0);
    lab.let_go(1);
    lab.wait("the answer", |lab| lab.nodes[0].replies.contains_key(&ticket));
    assert_eq!(lab.nodes[0].kept().flags & device_flag::PRIMARY_IND, 0);
    lab.check_alike();
}

#[test]
fn a_demotion_that_loses_contact_tells_that_the_peer_may_lack_something() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_flush);
    lab.write(0, 77, 1);
    let ticket = lab.begin(0, AdminRequest::Secondary { force: false });
    let before = lab.nodes[1].kept().current_uuid & !1;
    lab.cut();
    lab.wait("the answer", |lab| lab.nodes[0].replies.contains_key(&ticket));
    assert_eq!(lab.out_of_sync(0), [77]);
    let after = lab.nodes[0].kept();
    assert_ne!(after.current_uuid & !1, before, "marked blocks and the peer's generation: nobody would look");
    assert_eq!(after.peers[1].bitmap_uuid & !1, before);
    lab.let_go(1);
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert_eq!(lab.out_of_sync(0), [0; 0]);
    lab.check_alike();
}

#[test]
fn the_survivor_takes_over() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 11);
    lab.crash(0);
    lab.primary(1, false).expect("it is UpToDate");
    let tag = lab.write(1, 2, 22);
    assert!(lab.is_done(1, tag));
    lab.attach(0).expect("its own disk");
    lab.begin_connect(0);
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
    assert_eq!(lab.nodes[0].disk[&2], 22);
}

#[test]
fn a_peer_that_died_unnoticed_does_not_stop_a_promotion() {
    let mut lab = Lab::running("C");
    lab.secondary(0).expect("nobody has it open");
    lab.pass_ms(100);
    // Node 0 is silent from here on; its sockets look alive.
    lab.hold_packets(0);
    lab.primary(1, false).expect("the silence is noticed");
    assert_eq!(lab.role(1), Role::Primary);
}

#[test]
fn down_lets_go_of_everything() {
    let mut lab = Lab::running("C");
    lab.write(0, 1, 1);
    lab.ask(0, AdminRequest::Down).expect("nobody has it open");
    assert_eq!(lab.role(0), Role::Secondary);
    assert_eq!((lab.disk(0), lab.connection(0)), (DiskState::Diskless, ConnectionState::StandAlone));
    assert!(lab.nodes[0].disk_closed);
    let kept = lab.nodes[0].kept();
    assert_eq!(kept.flags & device_flag::PRIMARY_IND, 0);
    assert_ne!(kept.flags & (device_flag::CONSISTENT | device_flag::WAS_UP_TO_DATE), 0);
    lab.wait("the peer sees it", |lab| !lab.is_replicating(1));
    assert_eq!(lab.disk(1), DiskState::UpToDate);
    lab.ask(1, AdminRequest::Down).expect("nobody has it open");
    lab.check_buffers();
    // And up again, without a resync.
    lab.attach(0).expect("its own disk");
    lab.attach(1).expect("its own disk");
    let copied = lab.nodes[1].disk.clone();
    lab.nodes[1].handlers.clear();
    lab.connect();
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert_eq!(lab.nodes[1].handlers, [""; 0], "nothing was copied");
    assert_eq!(lab.nodes[1].disk, copied);
}
