//! A session goes on in another daemon, and its peer notices nothing.

use super::lab::Lab;
use super::node::{net, Pending, SECTORS, VOLUME};
use crate::config::NetOptions;
use crate::engine::session_state::FORMAT;
use crate::engine::{AdminRequest, Direction, Event, IoResult, SocketLoss};
use crate::ids::{NodeId, VolumeNumber};
use crate::metadata::Format;
use crate::refusal::Reason;
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::{Packet, Stream};

fn running(pairs: &[(&str, &str)]) -> Lab {
    let mut lab = Lab::with([net(pairs), net(pairs)], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    lab
}

fn forget_sent(lab: &mut Lab) {
    lab.nodes.iter_mut().for_each(|node| node.sent.clear());
}

fn says(lab: &Lab, n: usize, text: &str) -> bool {
    lab.nodes[n].log_lines.iter().any(|line| line.contains(text))
}

/// Nothing of what happened needed a new session, generation, or resync.
fn check_unnoticed(lab: &Lab, generation: u64) {
    for n in 0..2 {
        assert_eq!(lab.connection(n), ConnectionState::Connected);
        assert_eq!(lab.sessions_of(n), 1, "node {n} connected again");
        assert_eq!(lab.generation_of(n) & !1, generation & !1, "node {n} has a new generation");
    }
    lab.check_alike();
}

#[test]
fn the_peer_sees_a_secondary_for_a_moment() {
    for protocol in ["A", "B", "C"] {
        let mut lab = running(&[("protocol", protocol)]);
        for block in 0..5 {
            lab.write(0, block, 1);
        }
        let generation = lab.generation_of(0);
        lab.secondary(0).expect("nobody has it open");
        forget_sent(&mut lab);
        lab.upgrade(0);
        assert!(lab.nodes.iter().all(|node| node.sent.is_empty()), "{:?}", lab.nodes[0].sent);
        assert!(says(&lab, 0, "conn( StandAlone -> Connected ) peer( Unknown -> Secondary )"));
        assert!(says(&lab, 0, "repl( Off -> Established ) pdsk( DUnknown -> UpToDate )"));
        lab.primary(0, false).expect("the peer agrees");
        for block in 3..9 {
            let tag = lab.write(0, block, 2);
            assert!(lab.is_done(0, tag), "protocol {protocol}");
        }
        let flush = lab.flush(0);
        lab.wait("a flush", |lab| lab.is_done(0, flush));
        lab.pass_ms(100);
        check_unnoticed(&lab, generation);
    }
}

/// The answer to a barrier counts what came before and after.
#[test]
fn an_epoch_goes_on_in_the_next_daemon() {
    for protocol in ["A", "B", "C"] {
        let mut lab = running(&[("protocol", protocol)]);
        let generation = lab.generation_of(0);
        lab.write(0, 9, 1);
        lab.flush(0);
        lab.pass_ms(100);
        lab.hold(0, Pending::is_write);
        for block in 0..3 {
            lab.write(0, block, 1);
        }
        lab.pass_ms(100);
        let handed = lab.hand_over(1).expect("its disk has everything");
        assert_eq!(handed.state.peer_epoch.received, 3);
        lab.next_daemon(1);
        // What arrives meanwhile is read by the next one.
        for block in 3..5 {
            lab.write(0, block, 1);
        }
        lab.adopt(1, handed).expect("what was handed over");
        lab.let_go(0);
        let flush = lab.flush(0);
        lab.wait("a flush", |lab| lab.is_done(0, flush));
        lab.pass_ms(100);
        let counted = |p: &Packet| matches!(p, Packet::BarrierAck { set_size: 5, .. });
        assert!(lab.nodes[1].sent.iter().any(counted), "protocol {protocol}");
        check_unnoticed(&lab, generation);
    }
}

#[test]
fn barriers_and_cookies_count_on() {
    let mut lab = running(&[]);
    for block in 0..4 {
        lab.write(0, block, 1);
        lab.flush(0);
    }
    lab.secondary(0).expect("nobody has it open");
    lab.pass_ms(100);
    let engine = &lab.nodes[0].engine;
    let before = (engine.connection.as_ref().map(|c| c.epoch), engine.cookie);
    assert!(before.0 > Some(3));
    lab.upgrade(0);
    let engine = &lab.nodes[0].engine;
    assert_eq!((engine.connection.as_ref().map(|c| c.epoch), engine.cookie), before);
}

#[test]
fn two_primaries_number_their_packets_on() {
    let pairs = [("allow-two-primaries", "yes")];
    let mut lab = running(&pairs);
    lab.primary(1, false).expect("two are allowed");
    for n in 0..2 {
        let generation = lab.generation_of(0);
        for block in 0..4 {
            lab.write(n, block, 1);
            lab.write(1 - n, 10 + block, 1);
        }
        lab.secondary(n).expect("nobody has it open");
        let handed = lab.hand_over(n).expect("nothing is under way");
        lab.next_daemon(n);
        lab.write(1 - n, 20, 2);
        lab.adopt(n, handed).expect("what was handed over");
        lab.primary(n, false).expect("two are allowed");
        for block in 0..4 {
            let tags = [lab.write(n, block, 2), lab.write(1 - n, 10 + block, 2)];
            lab.pass_ms(10);
            assert!(lab.is_done(n, tags[0]) && lab.is_done(1 - n, tags[1]));
        }
        lab.pass_ms(1000);
        check_unnoticed(&lab, generation);
    }
}

#[test]
fn whoever_follows_is_asked_as_before() {
    let mut lab = running(&[("verify-alg", "sha1"), ("ping-int", "1"), ("connect-int", "1")]);
    lab.secondary(0).expect("nobody has it open");
    lab.upgrade(0);
    lab.upgrade(1);
    // Pings go on in both directions.
    lab.pass_ms(20_000);
    assert!(lab.is_in_sync());
    // Verify, from either side.
    for n in 0..2 {
        let peer = NodeId(1 - n as u8);
        let start = Some(SECTORS - 8000);
        lab.nodes[n].disk.insert(SECTORS / 8 - 3, 666);
        lab.ask(n, AdminRequest::Verify { peer, volume: VOLUME, start, stop: None })
            .expect("both are UpToDate");
        lab.wait("an end", |lab| (0..2).all(|n| lab.replication(n) == ReplicationState::Established));
        assert_eq!(lab.out_of_sync(0), [SECTORS / 8 - 3]);
        lab.upgrade(n);
        assert_eq!(lab.out_of_sync(n), [SECTORS / 8 - 3], "the marks of a verify are kept");
        lab.nodes[n].disk.remove(&(SECTORS / 8 - 3));
    }
    // Discards, promotion on either side, and parting.
    lab.primary(1, false).expect("the peer agrees");
    let tag = lab.discard(1, 100, 64);
    lab.pass_ms(10);
    assert!(lab.is_done(1, tag));
    lab.secondary(1).expect("nobody has it open");
    lab.primary(0, false).expect("the peer agrees");
    lab.disconnect(1).expect("nobody minds");
    assert_eq!(lab.connection(1), ConnectionState::StandAlone);
    lab.begin_connect(1);
    lab.wait("in sync", Lab::is_in_sync);
}

#[test]
fn a_resync_begins_in_the_next_daemon() {
    for (n, as_target) in [(0, true), (1, true), (0, false), (1, false)] {
        let mut lab = running(&[]);
        lab.secondary(0).expect("nobody has it open");
        lab.write(0, 3, 3);
        lab.upgrade(n);
        let peer = NodeId(1 - n as u8);
        let request = if as_target {
            AdminRequest::Invalidate { volume: VOLUME, reset_bitmap: true }
        } else {
            AdminRequest::InvalidateRemote { peer, volume: VOLUME, reset_bitmap: true }
        };
        forget_sent(&mut lab);
        lab.ask(n, request).expect("both are UpToDate");
        lab.wait("in sync", Lab::is_in_sync);
        let target = if as_target { n } else { 1 - n };
        assert!(lab.nodes[1 - target].sent.iter().any(|p| matches!(p, Packet::RsDataReply(_))));
        lab.check_alike();
    }
}

#[test]
fn digests_go_on() {
    let mut lab = running(&[("data-integrity-alg", "sha1")]);
    lab.secondary(0).expect("nobody has it open");
    lab.nodes[0].integrity.clear();
    let handed = lab.hand_over(0).expect("nothing is under way");
    assert_eq!(
        (handed.state.sends_digests.as_str(), handed.state.receives_digests.as_str()),
        ("sha1", "sha1")
    );
    lab.next_daemon(0);
    lab.adopt(0, handed).expect("what was handed over");
    let directions: Vec<_> = lab.nodes[0].integrity.iter().map(|(d, name, _)| (*d, &**name)).collect();
    assert_eq!(directions, [(Direction::Sending, "sha1"), (Direction::Receiving, "sha1")]);
}

#[test]
fn settings_the_peer_changed_are_kept() {
    let mut lab = running(&[]);
    let changed = net(&[("protocol", "A"), ("after-sb-0pri", "discard-zero-changes")]);
    lab.ask(0, AdminRequest::NetOptions { peer: NodeId(1), options: changed }).expect("nobody minds");
    lab.pass_ms(100);
    lab.upgrade(1);
    let options: &NetOptions = &lab.nodes[1].engine.connection.as_ref().expect("a peer").options;
    assert_eq!(
        (options.protocol.to_string().as_str(), options.after_sb_0pri.as_str()),
        ("A", "discard-zero-changes")
    );
}

#[test]
fn old_dialects_go_on() {
    for version in [86, 94, 97, 100] {
        for n in 0..2 {
            let mut lab = Lab::with([net(&[]), net(&[])], Format::V08);
            lab.nodes[1].engine.cap_protocol(version);
            lab.connect();
            lab.primary(0, true).expect("forced");
            lab.wait("in sync", Lab::is_in_sync);
            lab.secondary(0).expect("nobody has it open");
            lab.upgrade(n);
            lab.primary(0, false).expect("the peer agrees");
            let tag = lab.write(0, 4, 4);
            assert!(lab.is_done(0, tag), "version {version}");
            lab.pass_ms(1000);
            lab.check_alike();
        }
    }
}

/// With fencing a disk is Consistent until it has met its peer, which this one has.
#[test]
fn with_fencing_the_disk_stays_good() {
    let mut lab = running(&[("fencing", "resource-only"), ("connect-int", "1")]);
    lab.secondary(0).expect("nobody has it open");
    lab.upgrade(0);
    assert_eq!(lab.disk(0), DiskState::UpToDate);
    lab.primary(0, false).expect("the peer agrees");
    lab.check_alike();
}

#[test]
fn a_node_without_a_disk_goes_on() {
    let mut lab = running(&[]);
    lab.secondary(0).expect("nobody has it open");
    lab.detach(0).expect("the peer agrees");
    let handed = lab.hand_over(0).expect("nothing is under way");
    lab.next_daemon(0);
    let refused = lab.adopt(0, handed.clone()).expect_err("it has a disk now");
    assert!(refused.info.contains("was Diskless"), "{refused}");
    lab.detach(0).expect("nobody minds");
    lab.adopt(0, handed).expect("what was handed over");
    assert_eq!(lab.size_of(0), SECTORS);
    lab.primary(0, false).expect("the peer has good data");
    let tag = lab.write(0, 4, 4);
    lab.pass_ms(1000);
    assert!(lab.is_done(0, tag));
    lab.attach(0).expect("the disk it had");
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn several_volumes_go_on() {
    let mut lab = running(&[]);
    lab.secondary(0).expect("nobody has it open");
    for n in 0..2 {
        let volume = lab.nodes[n].add_disk();
        lab.new_minor(n, volume.0);
        let request = lab.nodes[n].attach_request_of(volume, true, false);
        lab.ask(n, AdminRequest::Attach(request)).expect("a fresh disk");
    }
    let meets = |lab: &Lab, n: usize| lab.nodes[n].engine.is_replicating(1);
    lab.wait("the volumes meet", |lab| meets(lab, 0) && meets(lab, 1));
    lab.pass_ms(1000);
    let handed = lab.hand_over(0).expect("nothing is under way");
    assert_eq!(handed.state.volumes.len(), 2);
    lab.next_daemon(0);
    let mut fewer = handed.clone();
    fewer.state.volumes.pop();
    let refused = lab.adopt(0, fewer).expect_err("a volume is missing");
    assert!(refused.info.contains("other volumes"), "{refused}");
    lab.adopt(0, handed).expect("what was handed over");
    assert!(meets(&lab, 0));
}

// ---- what is refused ---------------------------------------------------------------------------------------------

fn refused(lab: &mut Lab, n: usize) -> (Reason, String) {
    let refusal = lab.hand_over(n).expect_err("it is not at rest");
    (refusal.reason, refusal.info)
}

#[test]
fn what_is_not_at_rest_is_named() {
    let mut lab = running(&[("verify-alg", "sha1")]);
    let (reason, info) = refused(&mut lab, 0);
    assert_eq!(
        (reason, info.as_str()),
        (Reason::InTransientState, "this node is Primary: make it Secondary first")
    );
    lab.ask(0, AdminRequest::SuspendIo { volume: VOLUME }).expect("nobody minds");
    lab.secondary(0).expect("nobody has it open");
    assert!(refused(&mut lab, 0).1.contains("suspended"));
    lab.ask(0, AdminRequest::ResumeIo { volume: VOLUME }).expect("nobody minds");
    let verify = AdminRequest::Verify { peer: NodeId(1), volume: VOLUME, start: None, stop: None };
    lab.hold(1, Pending::is_read);
    lab.ask(0, verify).expect("both are UpToDate");
    assert_eq!(refused(&mut lab, 0).1, "volume 0 is VerifyS");
    assert_eq!(refused(&mut lab, 1).1, "volume 0 is VerifyT");
    lab.let_go(1);
    lab.wait("an end", |lab| (0..2).all(|n| lab.replication(n) == ReplicationState::Established));
    lab.hold(0, Pending::is_read);
    lab.ask(1, AdminRequest::Invalidate { volume: VOLUME, reset_bitmap: true }).expect("both are UpToDate");
    assert_eq!(refused(&mut lab, 1).1, "volume 0 is SyncTarget");
    lab.let_go(0);
    lab.wait("in sync", Lab::is_in_sync);
    lab.cut();
    assert_eq!(refused(&mut lab, 0).0, Reason::NeedConnection);
    lab.mend();
    lab.wait("in sync", Lab::is_in_sync);
    lab.upgrade(0);
}

/// Whatever only takes a moment is waited for, and not longer than the shell has time.
#[test]
fn what_takes_a_moment_is_waited_for() {
    let mut lab = running(&[("protocol", "B")]);
    lab.hold(1, Pending::is_write);
    lab.write(0, 4, 4);
    let ticket = lab.begin_hand_over(1, 500);
    lab.pass_ms(400);
    assert!(!lab.nodes[1].replies.contains_key(&ticket));
    lab.pass_ms(200);
    let refusal = lab.handed(1, ticket).expect_err("its disk takes its time");
    assert_eq!(refusal.reason, Reason::Timeout);
    assert!(refusal.info.starts_with("a request of the peer is under way"), "{refusal}");
    let ticket = lab.begin_hand_over(1, 500);
    lab.let_go(1);
    lab.wait("an answer", |lab| lab.nodes[1].replies.contains_key(&ticket));
    let handed = lab.handed(1, ticket).expect("its disk is done");
    lab.next_daemon(1);
    lab.adopt(1, handed).expect("what was handed over");
    lab.pass_ms(1000);
    lab.check_alike();
}

#[test]
fn a_ping_is_waited_for() {
    let mut lab = running(&[("ping-int", "1")]);
    lab.secondary(0).expect("nobody has it open");
    lab.hold_packets(1);
    lab.pass_ms(1100);
    let ticket = lab.begin_hand_over(0, 300);
    assert!(!lab.nodes[0].replies.contains_key(&ticket), "its ping is not answered");
    lab.let_packets_go(1);
    lab.wait("an answer", |lab| lab.nodes[0].replies.contains_key(&ticket));
    lab.handed(0, ticket).expect("it is now");
}

#[test]
fn a_primary_without_disk_needs_this_daemon() {
    let mut lab = running(&[]);
    lab.detach(0).expect("the peer has good data");
    lab.write(0, 4, 4);
    lab.pass_ms(100);
    let (_, info) = refused(&mut lab, 1);
    assert_eq!(info, "volume 0 keeps the log of a peer without a disk");
}

#[test]
fn what_does_not_fit_is_refused_and_connects_as_usual() {
    let mut lab = running(&[]);
    lab.secondary(0).expect("nobody has it open");
    let handed = lab.hand_over(0).expect("nothing is under way");
    lab.next_daemon(0);
    let mut refusals = Vec::new();
    for spoil in [
        |s: &mut crate::engine::session_state::SessionState| s.format = FORMAT + 1,
        |s: &mut crate::engine::session_state::SessionState| s.node = NodeId(7),
        |s: &mut crate::engine::session_state::SessionState| s.version = 110,
        |s: &mut crate::engine::session_state::SessionState| s.features = 1 << 20,
        |s: &mut crate::engine::session_state::SessionState| s.volumes[0].volume = VolumeNumber(1),
        |s: &mut crate::engine::session_state::SessionState| s.volumes[0].generation[0] ^= 4,
        |s: &mut crate::engine::session_state::SessionState| s.volumes[0].size.0 += 8,
        |s: &mut crate::engine::session_state::SessionState| s.volumes[0].bits = 5,
        |s: &mut crate::engine::session_state::SessionState| s.volumes[0].disk = DiskState::Inconsistent,
    ] {
        let mut other = handed.clone();
        spoil(&mut other.state);
        refusals.push(lab.adopt(0, other).expect_err("it does not fit").info);
        assert_eq!(lab.connection(0), ConnectionState::StandAlone);
    }
    let of_format = format!("format {}", FORMAT + 1);
    assert!(refusals[0].contains(&of_format) && refusals[0].contains(&format!("format {FORMAT}")));
    assert_eq!(
        refusals.iter().collect::<std::collections::BTreeSet<_>>().len(),
        refusals.len(),
        "{refusals:?}"
    );
    // The shell closes the sockets.
    lab.cut();
    lab.mend();
    lab.begin_connect(0);
    lab.wait("in sync", Lab::is_in_sync);
    lab.upgrade(0);
    let again = lab.hand_over(0).expect("nothing is under way");
    lab.tell(0, Event::Timer);
    lab.next_daemon(0);
    lab.begin_connect(0);
    let refused = lab.adopt(0, again).expect_err("it connects already");
    assert!(refused.info.contains("connection already"), "{refused}");
}

// ---- what may happen in between ----------------------------------------------------------------------------------

#[test]
fn a_session_is_taken_back() {
    let mut lab = running(&[]);
    let generation = lab.generation_of(0);
    lab.secondary(0).expect("nobody has it open");
    lab.hand_over(0).expect("nothing is under way");
    forget_sent(&mut lab);
    lab.pass_ms(10_000);
    assert!(lab.nodes[0].sent.is_empty(), "it is not this daemon's any more");
    assert!(lab.primary(0, false).is_err(), "it is not this daemon's any more");
    lab.ask(0, AdminRequest::TakeBack).expect("it was handed over");
    lab.read_on();
    lab.primary(0, false).expect("the peer agrees");
    let tag = lab.write(0, 4, 4);
    lab.pass_ms(100);
    assert!(lab.is_done(0, tag));
    check_unnoticed(&lab, generation);
}

#[test]
fn what_was_not_heard_ends_a_session_that_is_taken_back() {
    let mut lab = running(&[]);
    let handed = lab.hand_over(1).expect("nothing is under way");
    let why = SocketLoss::EndOfStream;
    let mut out = Vec::new();
    lab.nodes[1].engine.handle(lab.now, Event::SocketLost { socket: handed.sockets.0, why }, &mut out);
    assert!(out.is_empty());
    lab.ask(1, AdminRequest::TakeBack).expect("it was handed over");
    assert_eq!(lab.connection(1), ConnectionState::Unconnected);
    lab.read_on();
    lab.wait("in sync", Lab::is_in_sync);
}

#[test]
fn a_connection_lost_in_between_is_made_again() {
    let mut lab = running(&[]);
    let handed = lab.hand_over(1).expect("nothing is under way");
    lab.next_daemon(1);
    lab.cut();
    lab.write(0, 4, 4);
    lab.adopt(1, handed).expect("what was handed over");
    lab.mend();
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn the_peer_may_become_primary_in_between() {
    let mut lab = running(&[]);
    lab.secondary(0).expect("nobody has it open");
    let handed = lab.hand_over(0).expect("nothing is under way");
    let ticket = lab.begin(1, AdminRequest::Primary { force: false });
    lab.next_daemon(0);
    lab.adopt(0, handed).expect("what was handed over");
    lab.wait("an answer", |lab| lab.nodes[1].replies.contains_key(&ticket));
    lab.nodes[1].replies[&ticket].clone().expect("the next daemon agrees");
    assert_eq!(lab.role(1), Role::Primary);
    let tag = lab.write(1, 4, 4);
    lab.pass_ms(100);
    assert!(lab.is_done(1, tag));
    lab.check_alike();
}

/// Users that wait for this node have seen what it had as it became Secondary.
#[test]
fn nobody_goes_on_where_another_was_primary() {
    for when in 0..3 {
        let mut lab = running(&[]);
        lab.secondary(0).expect("nobody has it open");
        let write = |lab: &mut Lab| {
            lab.primary(1, false).expect("the peer agrees");
            lab.write(1, 4, 4);
            lab.secondary(1).expect("nobody has it open");
            lab.pass_ms(100);
        };
        if when == 0 {
            write(&mut lab);
        }
        let mut handed = lab.hand_over(0).expect("nothing is under way");
        lab.next_daemon(0);
        if when == 1 {
            lab.adopt(0, handed.clone()).expect("what was handed over");
            write(&mut lab);
        } else {
            handed.state.volumes[0].bits += u64::from(when == 2);
            assert_eq!(lab.adopt(0, handed).is_ok(), when == 0);
        }
        if when == 2 {
            lab.cut();
            lab.mend();
            lab.begin_connect(0);
            lab.wait("in sync", Lab::is_in_sync);
        }
        let resumed = lab.ask(0, AdminRequest::ResumePrimary);
        assert_eq!(resumed.is_ok(), when == 2, "{resumed:?}");
        lab.check_alike();
    }
}

/// Acknowledgements still arrive while it is asked, the data stream waits.
#[test]
fn a_write_under_way_ends_first() {
    let mut lab = running(&[("allow-two-primaries", "yes")]);
    lab.primary(1, false).expect("two are allowed");
    lab.hold(1, Pending::is_write);
    let tag = lab.write(0, 4, 4);
    let demoted = lab.begin(0, AdminRequest::Secondary { force: false });
    assert!(!lab.nodes[0].replies.contains_key(&demoted));
    lab.let_one_go(1, IoResult::Done);
    lab.let_go(1);
    lab.wait("an answer", |lab| lab.nodes[0].replies.contains_key(&demoted));
    assert!(lab.is_done(0, tag));
    lab.upgrade(0);
    assert!(!lab.has_packet(0, Stream::Data));
    lab.pass_ms(1000);
    lab.check_alike();
}
