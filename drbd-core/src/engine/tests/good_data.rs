//! Whose copy counts: what a Primary shows its users, and what it calls done, while one of the two copies is not good.

use super::lab::Lab;
use super::node::{net, Pending, VOLUME};
use crate::engine::generation::ROLE_BIT;
use crate::engine::session::Fault;
use crate::engine::{AdminRequest, IoResult, UpperResult};
use crate::metadata::Format;
use crate::refusal::Reason;
use crate::states::{DiskState, ReplicationState, Role};
use crate::wire::Uuids;

fn attach_slowly(lab: &mut Lab, n: usize) -> crate::ids::Ticket {
    lab.nodes[n].disk_closed = false;
    let request = lab.nodes[n].attach_request(true, false);
    lab.begin(n, AdminRequest::Attach(request))
}

/// A Primary works on its peer's disk, and has written to it.
fn working_on_the_peers_disk() -> Lab {
    let mut lab = Lab::running("C");
    lab.write(0, 2, 1);
    lab.detach(0).expect("the peer has good data");
    let tag = lab.write(0, 2, 2);
    assert!(lab.is_done(0, tag));
    lab
}

#[test]
fn old_data_is_not_attached_alone() {
    let mut lab = working_on_the_peers_disk();
    lab.cut();
    let refused = lab.attach(0).map_err(|r| r.reason);
    assert_eq!(refused, Err(Reason::DataNotCurrent));
    assert_eq!(lab.disk(0), DiskState::Diskless);
}

#[test]
fn old_data_is_not_attached_when_the_peer_goes_meanwhile() {
    let mut lab = working_on_the_peers_disk();
    lab.hold(0, Pending::is_super_block);
    let ticket = attach_slowly(&mut lab, 0);
    assert_eq!(lab.disk(0), DiskState::Attaching);
    lab.cut();
    lab.let_go(0);
    lab.run();
    assert!(lab.nodes[0].replies[&ticket].is_err());
    assert_eq!(lab.disk(0), DiskState::Diskless);
}

#[test]
fn old_data_is_let_go_when_the_peer_is_gone_before_its_word() {
    let mut lab = working_on_the_peers_disk();
    lab.hold_packets(1);
    attach_slowly(&mut lab, 0);
    assert_eq!(lab.disk(0), DiskState::Negotiating);
    lab.cut();
    assert_eq!(lab.disk(0), DiskState::Diskless, "it is not what the users saw");
}

#[test]
fn old_data_is_not_read_while_nobody_knows_what_is_old() {
    let mut lab = working_on_the_peers_disk();
    lab.hold(1, |p| matches!(p, Pending::Meta(..)));
    lab.attach(0).expect("its own disk");
    assert_eq!(lab.replication(0), ReplicationState::WFBitMapT);
    lab.let_one_go(1, IoResult::Failed(5));
    lab.let_go(1);
    lab.run();
    assert_eq!((lab.disk(0), lab.disk(1)), (DiskState::Inconsistent, DiskState::Diskless));
    let read = lab.read(0, 2);
    assert_eq!(lab.result(0, read), Some(UpperResult::IoError));
}

#[test]
fn without_a_good_disk_sent_or_received_is_not_written() {
    for (protocol, version) in [("A", 101), ("B", 101), ("A", 99), ("B", 99), ("A", 86), ("B", 86)] {
        let options = || net(&[("protocol", protocol)]);
        let mut lab = Lab::with([options(), options()], Format::V09);
        lab.nodes[1].engine.cap_protocol(version);
        lab.connect();
        lab.primary(0, true).expect("forced");
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.detach(0).expect("the peer has good data");
        lab.hold(1, Pending::is_write);
        let tag = lab.write(0, 2, 2);
        assert_eq!(lab.result(0, tag), None, "protocol {protocol}, version {version}");
        lab.let_go(1);
        lab.run();
        assert!(lab.is_done(0, tag), "protocol {protocol}, version {version}");
    }
}

#[test]
fn what_the_own_disk_failed_to_write_is_done_when_the_peer_has_it() {
    for protocol in ["A", "B"] {
        for cut in [false, true] {
            let mut lab = Lab::running(protocol);
            lab.write(0, 2, 1);
            lab.pass_ms(1000);
            lab.hold(0, Pending::is_write);
            lab.hold(1, Pending::is_write);
            let tag = lab.write(0, 2, 2);
            lab.let_one_go(0, IoResult::Failed(5));
            lab.let_go(0);
            assert_eq!(lab.result(0, tag), None, "protocol {protocol}");
            if cut {
                lab.cut();
            }
            lab.let_go(1);
            lab.run();
            let expected = if cut { UpperResult::IoError } else { UpperResult::Done };
            assert_eq!(lab.result(0, tag), Some(expected), "protocol {protocol}, cut {cut}");
        }
    }
}

#[test]
fn a_target_that_finished_unheard_does_not_share_what_is_written_after_it() {
    let mut lab = Lab::running("C");
    lab.cut();
    lab.write(0, 2, 2);
    lab.hold(1, Pending::is_write);
    lab.mend();
    lab.wait("a resync", |lab| !lab.nodes[1].pending.is_empty());
    lab.nodes[1].holds = Some(Pending::is_super_block);
    lab.let_one_go(1, IoResult::Done);
    lab.wait("the end", |lab| lab.out_of_sync(0).is_empty() && !lab.nodes[1].pending.is_empty());
    let last = lab.nodes[1].pending[0].clone();
    lab.carry_out_unanswered(1, &last);
    lab.crash(1);
    lab.run();
    let tag = lab.write(0, 3, 3);
    assert!(lab.is_done(0, tag));
    let own = lab.nodes[0].engine.generation(crate::ids::NodeId(1), VOLUME).expect("a disk").current;
    assert_ne!(own & !ROLE_BIT, lab.nodes[1].kept().current_uuid & !ROLE_BIT);
    lab.attach(1).expect("its own disk");
    lab.begin_connect(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike_where_written();
}

#[test]
fn a_flush_cannot_vouch_for_what_an_earlier_session_left_unstable() {
    let mut lab = Lab::running("C");
    lab.detach(0).expect("the peer has good data");
    lab.hold(1, Pending::is_flush);
    let tag = lab.write(0, 2, 2);
    assert!(lab.is_done(0, tag), "written, though not stable");
    lab.cut();
    lab.let_go(1);
    lab.mend();
    lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    let flush = lab.flush(0);
    assert_eq!(
        lab.result(0, flush),
        Some(UpperResult::IoError),
        "this node does not know whether it is stable"
    );
    let tag = lab.write(0, 3, 3);
    let flush = lab.flush(0);
    assert!(lab.is_done(0, tag));
    assert!(lab.is_done(0, flush), "the barrier after the new write covers the old one");
}

#[test]
fn a_disk_that_failed_in_use_serves_its_diskless_primary_again() {
    let mut lab = working_on_the_peers_disk();
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 3, 3);
    lab.let_one_go(1, IoResult::Failed(5));
    lab.let_go(1);
    lab.run();
    assert_eq!((lab.result(0, tag), lab.disk(1)), (Some(UpperResult::IoError), DiskState::Diskless));
    lab.pass_ms(2000);
    lab.attach(1).expect("its own disk");
    lab.wait("good data", |lab| lab.peer_disk(0) == DiskState::UpToDate);
    let tag = lab.write(0, 4, 4);
    assert!(lab.is_done(0, tag));
}

/// The Primary was told that its peer has received what that has not written.
fn received_and_not_written() -> Lab {
    let mut lab = Lab::running("B");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 2, 2);
    assert!(lab.is_done(0, tag));
    lab
}

#[test]
fn a_promotion_waits_for_what_the_lost_peer_was_told_is_received() {
    let mut lab = received_and_not_written();
    lab.cut();
    let ticket = lab.begin(1, AdminRequest::Primary { force: false });
    assert!(!lab.nodes[1].replies.contains_key(&ticket));
    assert_eq!(lab.role(1), Role::Secondary);
    lab.let_go(1);
    lab.run();
    assert!(lab.nodes[1].replies[&ticket].is_ok());
    assert_eq!(lab.nodes[1].disk[&2], 2);
}

#[test]
fn a_diskless_peer_is_not_promoted_over_writes_that_wait_for_space() {
    let mut lab = received_and_not_written();
    lose_the_newest_data(&mut lab);
    lab.cut();
    lab.fail(1, |op| op.is_write().then_some(28));
    lab.let_one_go(1, IoResult::Failed(28));
    lab.let_go(1);
    lab.secondary(0).expect("nobody uses it");
    lab.mend();
    lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    let ticket = lab.begin(0, AdminRequest::Primary { force: false });
    lab.pass_ms(10_000);
    assert_eq!((lab.role(0), lab.nodes[0].replies.get(&ticket)), (Role::Secondary, None));
    lab.fail_no_more(1);
    lab.wait("the promotion", |lab| lab.role(0) == Role::Primary);
    assert_eq!(lab.nodes[1].disk[&2], 2);
    let read = lab.read(0, 2);
    lab.pass_ms(100);
    assert_eq!(lab.nodes[0].read[&read], [2]);
}

/// Only the Primary has what was written last, and loses its disk.
fn lose_the_newest_data(lab: &mut Lab) {
    lab.hold(0, Pending::is_write);
    lab.write(0, 3, 3);
    lab.let_one_go(0, IoResult::Failed(5));
    lab.let_go(0);
    lab.run();
    assert_eq!(lab.disk(0), DiskState::Diskless);
}

#[test]
fn old_data_is_let_go_when_the_newer_is_lost_before_it_was_compared() {
    let mut lab = Lab::running("C");
    lab.detach(1).expect("the Primary has good data");
    lab.write(0, 2, 2);
    lab.hold_packets(1);
    attach_slowly(&mut lab, 1);
    assert_eq!(lab.disk(1), DiskState::Negotiating);
    lose_the_newest_data(&mut lab);
    assert_eq!(lab.disk(1), DiskState::Diskless, "it is older than what the users saw");
    assert_eq!(lab.peer_disk(1), DiskState::Diskless);
    lab.let_packets_go(1);
    lab.run();
    assert_ne!(lab.peer_disk(0), DiskState::UpToDate);
    lab.attach(0).expect("the data in use");
    lab.begin_connect(0);
    lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    lab.attach(1).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike_where_written();
}

#[test]
fn a_diskless_primary_takes_no_other_data_for_its_own() {
    let mut lab = Lab::running("C");
    lab.detach(1).expect("the Primary has good data");
    lab.write(0, 2, 2);
    lose_the_newest_data(&mut lab);
    let mut word = lab.nodes[1].engine.state_word(0);
    let engine = &mut lab.nodes[0].engine;
    engine.connection.as_mut().expect("a peer").peer_devices[0].peer_disk = DiskState::Inconsistent;
    let exposed = engine.devices[0].exposed_uuid;
    let mut out = Vec::new();
    let other = Uuids { current: 0x6066, bitmap: 0, history: [0, 0], bits: 0, flags: 0 };
    assert!(engine.uuids_received(0, other, &mut out).is_ok());
    assert_eq!(engine.devices[0].exposed_uuid, exposed);
    (word.role, word.disk) = (Role::Secondary, DiskState::UpToDate);
    assert!(matches!(engine.state_received(0, word.to_bits(), &mut out), Err(Fault::Fatal(_))));
}

/// Whoever asks: a node whose disk is not UpToDate answers no read. That makes `ReadFromAnyPeer`, planted on purpose, harmless:
/// the question is refused, and the read fails as if it had never been asked.
#[test]
fn a_read_is_answered_by_good_data_only() {
    for disk in [DiskState::Inconsistent, DiskState::Outdated, DiskState::Consistent] {
        let mut lab = working_on_the_peers_disk();
        lab.nodes[0].engine.plant(crate::engine::planted::Bug::ReadFromAnyPeer);
        lab.nodes[1].engine.devices[0].disk = disk;
        lab.nodes[0].engine.connection.as_mut().expect("a peer").peer_devices[0].peer_disk = disk;
        let tag = lab.read(0, 2);
        lab.pass_ms(100);
        assert_eq!(lab.result(0, tag), Some(UpperResult::IoError), "{disk}");
    }
}
