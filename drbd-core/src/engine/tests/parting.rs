//! Orderly disconnects under a fencing policy: who is Outdated by them.

use super::lab::Lab;
use super::node::{net, Pending, VOLUME};
use crate::engine::AdminRequest;
use crate::ids::NodeId;
use crate::metadata::{device_flag, peer_flag, Format};
use crate::refusal::Reason;
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::state_word::field;
use crate::wire::{Packet, Stream};

/// In sync, node 0 Primary.
fn lab(fencing: &str) -> Lab {
    let options = || net(&[("fencing", fencing), ("connect-int", "1")]);
    let mut lab = Lab::with([options(), options()], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    for node in &mut lab.nodes {
        node.sent.clear();
        node.handlers.clear();
    }
    lab
}

/// What a node asked of its peer, disks only: own, peer's.
fn asked(lab: &Lab, n: usize) -> Vec<(u32, u32)> {
    let masks = |p: &Packet| match p {
        Packet::ConnStateChangeRequest { mask, .. } => Some((mask & field::DISK, mask & field::PEER_DISK)),
        _ => None,
    };
    lab.nodes[n].sent.iter().filter_map(masks).collect()
}

fn force(lab: &mut Lab, n: usize) {
    let peer = NodeId(1 - n as u8);
    lab.ask(n, AdminRequest::Disconnect { peer, force: true }).expect("nobody is asked");
}

#[test]
fn a_secondary_that_leaves_a_primary_is_outdated() {
    for fencing in ["resource-only", "resource-and-stonith"] {
        let mut lab = lab(fencing);
        lab.disconnect(1).expect("as Outdated");
        assert_eq!(asked(&lab, 1), [(0, 0), (field::DISK, 0)], "it offers that when the Primary refuses");
        assert_eq!((lab.disk(1), lab.peer_disk(0)), (DiskState::Outdated, DiskState::Outdated));
        assert_eq!(lab.connection(1), ConnectionState::StandAlone);
        assert_eq!(lab.nodes[0].handlers, [""; 0], "nobody has to be fenced");
        assert_eq!(lab.suspended(0), "no");
        lab.pass_ms(100);
        assert_eq!(lab.nodes[1].kept().flags & device_flag::WAS_UP_TO_DATE, 0, "it is kept");
        assert_ne!(lab.nodes[0].kept().peers[1].flags & peer_flag::OUTDATED, 0, "and known");
        assert_eq!(lab.primary(1, false), Err(Reason::NoUpToDateDisk));
        let write = lab.write(0, 3, 3);
        lab.wait("the write", |lab| lab.is_done(0, write));
        lab.begin_connect(1);
        lab.wait("in sync", Lab::is_in_sync);
        lab.check_alike();
    }
}

#[test]
fn a_primary_that_leaves_outdates_its_peer() {
    let mut lab = lab("resource-and-stonith");
    lab.disconnect(0).expect("the peer agrees");
    assert_eq!(asked(&lab, 0), [(0, field::PEER_DISK)], "it knows that its own rules refuse less");
    assert_eq!((lab.disk(1), lab.peer_disk(0)), (DiskState::Outdated, DiskState::Outdated));
    assert_eq!((lab.nodes[0].handlers.len(), lab.suspended(0).as_str()), (0, "no"));
    let write = lab.write(0, 3, 3);
    lab.wait("the write", |lab| lab.is_done(0, write));
    lab.pass_ms(100);
    assert_eq!(lab.nodes[1].kept().flags & device_flag::WAS_UP_TO_DATE, 0);
    lab.begin_connect(0);
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn without_fencing_or_a_primary_nobody_is_outdated() {
    for (fencing, primary, n) in [
        ("dont-care", true, 0),
        ("dont-care", true, 1),
        ("resource-only", false, 0),
        ("resource-only", false, 1),
    ] {
        let mut lab = lab(fencing);
        if !primary {
            lab.secondary(0).expect("nobody has it open");
        }
        lab.disconnect(n).expect("both may part");
        assert_eq!(asked(&lab, n), [(0, 0)]);
        assert_eq!([lab.disk(0), lab.disk(1)], [DiskState::UpToDate; 2]);
    }
}

#[test]
fn a_target_leaves_as_inconsistent_as_it_is() {
    let mut lab = lab("resource-only");
    lab.hold(1, Pending::is_write);
    let _ = lab.begin(1, AdminRequest::Invalidate { volume: VOLUME, reset_bitmap: true });
    lab.wait("a resync", |lab| lab.replication(1) == ReplicationState::SyncTarget);
    lab.disconnect(1).expect("nothing to be outdated");
    assert_eq!((lab.disk(1), lab.peer_disk(0)), (DiskState::Inconsistent, DiskState::Inconsistent));
}

#[test]
fn force_asks_nobody_and_has_the_peer_fenced() {
    let mut lab = lab("resource-only");
    lab.nodes[0].handler_status = None;
    force(&mut lab, 0);
    assert_eq!(asked(&lab, 0), []);
    assert_eq!(lab.nodes[0].handlers, ["fence-peer"]);
    assert_eq!((lab.disk(1), lab.peer_disk(0)), (DiskState::UpToDate, DiskState::DUnknown));
}

#[test]
fn down_is_refused_where_the_peer_needs_this_nodes_data() {
    let mut lab = lab("dont-care");
    lab.detach(0).expect("the peer has good data");
    let refusal = lab.ask(1, AdminRequest::Down).expect_err("the Primary lives on this disk");
    assert_eq!(refusal.reason, Reason::FailedByPeer);
    assert!(refusal.info.starts_with("failed to disconnect: "), "{}", refusal.info);
    assert_eq!((lab.disk(1), lab.connection(1)), (DiskState::UpToDate, ConnectionState::Connected));
    let refusal = lab.disconnect(1).expect_err("the same");
    assert_eq!(refusal.reason, Reason::FailedByPeer);
    lab.secondary(0).expect("nobody has it open");
    lab.ask(1, AdminRequest::Down).expect("nobody needs it");
}

#[test]
fn both_may_leave_at_once() {
    for fencing in ["dont-care", "resource-only"] {
        let mut lab = lab(fencing);
        for n in [0, 1] {
            lab.nodes[n].hold_packets = true;
        }
        let tickets = [0, 1]
            .map(|n| lab.begin(n, AdminRequest::Disconnect { peer: NodeId(1 - n as u8), force: false }));
        for n in [0, 1] {
            lab.let_packets_go(n);
        }
        lab.wait("both answers", |lab| (0..2).all(|n| lab.nodes[n].replies.contains_key(&tickets[n])));
        for (n, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(lab.nodes[n].replies[&ticket], Ok(()), "{fencing}, node {n}");
            assert_eq!(lab.connection(n), ConnectionState::StandAlone);
        }
        let outdated = fencing != "dont-care";
        assert_eq!(lab.disk(1) == DiskState::Outdated, outdated);
        assert_eq!((lab.role(0), lab.disk(0)), (Role::Primary, DiskState::UpToDate));
    }
}

#[test]
fn an_offer_counts_though_its_answer_is_lost() {
    let mut lab = lab("resource-only");
    lab.hold_packets(0);
    let ticket = lab.begin(1, AdminRequest::Disconnect { peer: NodeId(0), force: false });
    lab.let_packet_go(0, Stream::Control);
    lab.wait("an answer", |lab| lab.nodes[1].replies.contains_key(&ticket));
    assert_eq!(asked(&lab, 1).len(), 2, "refused, then offered");
    assert_eq!((lab.disk(1), lab.peer_disk(0)), (DiskState::Outdated, DiskState::Outdated));
    assert_eq!(lab.connection(1), ConnectionState::StandAlone);
}

#[test]
fn a_peer_that_did_not_answer_is_not_taken_for_outdated() {
    let mut lab = lab("resource-only");
    lab.nodes[0].handler_status = None;
    lab.hold_packets(1);
    let ticket = lab.begin(0, AdminRequest::Disconnect { peer: NodeId(1), force: false });
    lab.wait("an answer", |lab| lab.nodes[0].replies.contains_key(&ticket));
    assert_eq!(lab.peer_disk(0), DiskState::DUnknown);
    assert_eq!(lab.nodes[0].handlers, ["fence-peer"]);
}
