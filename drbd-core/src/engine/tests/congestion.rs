//! A peer that cannot follow: the Primary pulls ahead, and the peer catches up.

use super::lab::Lab;
use super::node::{net, Pending};
use crate::config::NetOptions;
use crate::ids::NodeId;
use crate::metadata::Format;
use crate::states::{ConnectionState, DiskState, ReplicationState};
use crate::wire::Packet;

/// Four blocks may be on their way.
fn options(policy: &str) -> NetOptions {
    net(&[("protocol", "A"), ("on-congestion", policy), ("congestion-fill", "32")])
}

fn running(policy: &str) -> Lab {
    let mut lab = Lab::with([options(policy), options(policy)], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.nodes[0].sent.clear();
    lab
}

/// Node 1 writes nothing any more, node 0 pulls ahead of it.
fn ahead() -> Lab {
    let mut lab = running("pull-ahead");
    lab.hold(1, Pending::is_write);
    for block in 0..20 {
        let tag = lab.write(0, block * 8, 1);
        assert!(lab.is_done(0, tag), "block {block}");
    }
    assert_eq!((lab.replication(0), lab.replication(1)), (ReplicationState::Ahead, ReplicationState::Behind));
    assert_eq!((lab.peer_disk(0), lab.disk(1)), (DiskState::Consistent, DiskState::Outdated));
    lab
}

#[test]
fn a_primary_pulls_ahead_and_the_peer_catches_up() {
    let mut lab = ahead();
    let mirrored = lab.nodes[0].sent.iter().filter(|p| matches!(p, Packet::Data(_))).count();
    let told = lab.nodes[0].sent.iter().filter(|p| matches!(p, Packet::OutOfSync(_))).count();
    assert_eq!((mirrored, told), (4, 16));
    assert_eq!(lab.out_of_sync(0).len(), 16);
    assert_eq!(lab.out_of_sync(0), lab.out_of_sync(1));
    lab.let_go(1);
    lab.pass_ms(900);
    assert_eq!(lab.replication(0), ReplicationState::Ahead, "it rests for a second first");
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(!lab.nodes[0].sent.iter().any(|p| matches!(p, Packet::Bitmap(_) | Packet::CompressedBitmap(_))));
    lab.check_alike();
}

#[test]
fn writes_while_ahead_and_while_catching_up_are_not_lost() {
    let mut lab = ahead();
    lab.write(0, 0, 2);
    lab.write(0, 8 * 30, 2);
    lab.let_go(1);
    lab.hold(1, Pending::is_write);
    lab.wait("a resync", |lab| lab.replication(0) == ReplicationState::SyncSource);
    lab.write(0, 8 * 2, 3);
    lab.let_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn a_peer_that_is_lost_while_behind_is_resynced_when_it_returns() {
    for demoted in [false, true] {
        let mut lab = ahead();
        if demoted {
            lab.secondary(0).expect("nobody has it open");
        }
        lab.cut();
        lab.let_go(1);
        assert_eq!(lab.disk(1), DiskState::Outdated);
        lab.mend();
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

/// What is mirrored again comes before the disk says that it is no longer of one moment: it waits.
#[test]
fn what_is_mirrored_before_the_resync_begins_there_does_not_reach_old_data() {
    let mut lab = ahead();
    lab.nodes[1].hangs = "before-resync-target";
    lab.let_go(1);
    lab.wait("a resync", |lab| lab.replication(0) == ReplicationState::SyncSource);
    assert_eq!((lab.replication(1), lab.disk(1)), (ReplicationState::Behind, DiskState::Outdated));
    let old = lab.nodes[1].disk.clone();
    lab.write(0, 8 * 2, 3);
    lab.cut();
    assert_eq!(lab.nodes[1].disk, old, "the handler before-resync-target has not ended");
    lab.mend();
    lab.handler_ends(1, 0);
    lab.nodes[1].hangs = "";
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn either_node_may_crash_while_one_is_ahead() {
    for n in [0, 1] {
        let mut lab = ahead();
        lab.crash(n);
        lab.let_go(1 - n);
        lab.attach(n).expect("its log is replayed");
        lab.begin_connect(n);
        lab.wait("in sync", |lab| lab.is_in_sync());
        lab.check_alike();
    }
}

#[test]
fn with_congestion_extents_the_log_is_what_counts() {
    let options = || net(&[("protocol", "A"), ("on-congestion", "pull-ahead"), ("congestion-extents", "67")]);
    let mut lab = Lab::with([options(), options()], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.hold(1, Pending::is_write);
    for block in 0..20 {
        lab.write(0, block * 8, 1);
    }
    assert_eq!(lab.replication(0), ReplicationState::Established, "twenty blocks are in one extent");
    lab.let_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
}

#[test]
fn the_peer_may_be_let_go_instead() {
    let mut lab = running("disconnect");
    lab.hold(1, Pending::is_write);
    for block in 0..20 {
        let tag = lab.write(0, block * 8, 1);
        lab.pass_ms(10);
        assert!(lab.is_done(0, tag), "block {block}");
    }
    lab.let_go(1);
    lab.wait("the end", |lab| lab.connection(0) == ConnectionState::StandAlone);
    assert_eq!(lab.disk(0), DiskState::UpToDate);
    lab.begin_connect(0);
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn only_protocol_a_may_pull_ahead() {
    use crate::engine::AdminRequest;
    use crate::refusal::Reason;
    let mut lab = Lab::protocol("C");
    let options = net(&[("protocol", "C"), ("on-congestion", "pull-ahead")]);
    let refused = lab.ask(0, AdminRequest::NetOptions { peer: NodeId(1), options });
    assert_eq!(refused.expect_err("C waits for the peer").reason, Reason::CongestionNotProtocolA);
}
