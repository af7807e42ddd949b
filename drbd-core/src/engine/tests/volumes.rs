//! Volumes that are made and deleted while the nodes are connected.

use super::lab::Lab;
use super::node::VOLUME;
use crate::engine::AdminRequest;
use crate::ids::VolumeNumber;
use crate::refusal::Reason;
use crate::states::{Conn84, ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::state_word::StateWord;
use crate::wire::Packet;

const SECOND: VolumeNumber = VolumeNumber(1);

fn del_minor(lab: &mut Lab, n: usize, volume: VolumeNumber) -> Result<(), Reason> {
    lab.ask(n, AdminRequest::DelMinor { volume }).map_err(|refusal| refusal.reason)
}

fn meets(lab: &Lab, n: usize, d: usize) -> bool {
    let engine = &lab.nodes[n].engine;
    engine.devices.len() > d && engine.is_replicating(d)
}

fn peer_role(lab: &Lab, n: usize) -> Role {
    lab.nodes[n].engine.connection.as_ref().expect("a peer").peer_role
}

/// The first volume is as it was, and in use.
fn goes_on(lab: &mut Lab) {
    assert_eq!([lab.connection(0), lab.connection(1)], [ConnectionState::Connected; 2]);
    assert_eq!([peer_role(lab, 0), peer_role(lab, 1)], [Role::Secondary, Role::Primary]);
    let tag = lab.write(0, 5, 55);
    lab.wait("the write", |lab| lab.is_done(0, tag));
    lab.pass_ms(3000);
    assert!(lab.is_in_sync());
    assert_eq!(lab.nodes[1].disk.get(&5), Some(&55));
}

#[test]
fn a_volume_is_made_on_one_node_after_the_other() {
    for first in 0..2 {
        let mut lab = Lab::running("C");
        lab.nodes.iter_mut().for_each(|node| node.sent.clear());
        lab.new_minor(first, 1);
        goes_on(&mut lab);
        assert!(!meets(&lab, first, 1), "the peer has no such volume");
        let told = |p: &Packet| match p {
            Packet::State(word) => {
                StateWord::from_bits(*word).is_ok_and(|s| s.conn == Conn84::WF_REPORT_PARAMS)
            }
            _ => false,
        };
        assert!(lab.nodes[first].sent.iter().any(told), "it says so all the same, as 8.4 does");
        lab.nodes[first].sent.clear();
        lab.new_minor(1 - first, 1);
        assert!(meets(&lab, 0, 1) && meets(&lab, 1, 1));
        let again = lab.nodes[first].sent.iter().any(|p| matches!(p, Packet::Sizes(_)));
        assert!(again, "what the peer could not hear is said once more");
        goes_on(&mut lab);
        for n in 0..2 {
            let new = lab.nodes[n].engine.snapshot(Some(1));
            assert_eq!((new.disk, new.peer_disk), (DiskState::Diskless, DiskState::Diskless));
            assert_eq!(new.replication, ReplicationState::Established);
        }
        lab.cut();
        lab.mend();
        lab.wait("all volumes meet again", |lab| (0..2).all(|n| meets(lab, n, 0) && meets(lab, n, 1)));
        goes_on(&mut lab);
    }
}

#[test]
fn both_nodes_make_it_at_once() {
    let mut lab = Lab::running("C");
    for n in 0..2 {
        lab.hold_packets(n);
        lab.new_minor(n, 1);
    }
    for n in 0..2 {
        lab.let_packets_go(n);
    }
    assert!(meets(&lab, 0, 1) && meets(&lab, 1, 1));
    goes_on(&mut lab);
}

#[test]
fn roles_do_not_wait_for_a_volume_the_peer_lacks() {
    let mut lab = Lab::running("C");
    lab.secondary(0).expect("nobody has it open");
    lab.new_minor(0, 1);
    assert_eq!(lab.primary(0, false), Err(Reason::NoUpToDateDisk), "the new volume has no data");
    lab.primary(1, false).expect("it has one volume, and that is good");
    assert_eq!(peer_role(&lab, 0), Role::Primary);
    lab.secondary(1).expect("nobody has it open");
    assert_eq!(peer_role(&lab, 0), Role::Secondary);
    let asked = |p: &Packet| matches!(p, Packet::StateChangeRequest { .. });
    assert_eq!(lab.nodes[1].sent.iter().filter(|p| asked(p)).count(), 1);
    assert!(lab.is_in_sync());
}

#[test]
fn a_volume_is_deleted_on_one_node_after_the_other() {
    let mut lab = Lab::running("C");
    lab.new_minor(0, 1);
    lab.new_minor(1, 1);
    assert_eq!(del_minor(&mut lab, 0, SECOND), Err(Reason::MinorConfigured), "a Primary keeps its volumes");
    del_minor(&mut lab, 1, SECOND).expect("Secondary and Diskless");
    assert_eq!(lab.nodes[1].engine.devices.len(), 1);
    assert!(!meets(&lab, 0, 1), "the peer knows");
    for node in &lab.nodes {
        assert!(
            node.records.iter().all(|r| !r.text.contains("-> Unknown")),
            "the peer has a role all the same"
        );
    }
    goes_on(&mut lab);
    lab.new_minor(1, 1);
    lab.wait("it is made anew, in a new session", |lab| meets(lab, 0, 1) && meets(lab, 1, 1));
    del_minor(&mut lab, 1, SECOND).expect("Secondary and Diskless");
    lab.secondary(0).expect("nobody has it open");
    del_minor(&mut lab, 0, SECOND).expect("nobody has it any more");
    lab.primary(0, false).expect("all its volumes are good");
    goes_on(&mut lab);
    assert_eq!(del_minor(&mut lab, 1, VOLUME), Err(Reason::MinorConfigured), "it has a disk");
}

#[test]
fn the_first_volume_may_go_as_well() {
    let mut lab = Lab::running("C");
    lab.new_minor(0, 1);
    lab.new_minor(1, 1);
    lab.secondary(0).expect("nobody has it open");
    lab.detach(1).expect("the peer has the data");
    del_minor(&mut lab, 1, VOLUME).expect("Secondary and Diskless");
    assert_eq!(lab.nodes[1].engine.devices[0].volume, SECOND);
    assert!(meets(&lab, 1, 0) && meets(&lab, 0, 1) && !meets(&lab, 0, 0));
    lab.pass_ms(20_000);
    assert_eq!([lab.connection(0), lab.connection(1)], [ConnectionState::Connected; 2]);
}

#[test]
fn nothing_is_left_half_deleted_when_the_link_dies() {
    let mut lab = Lab::running("C");
    lab.new_minor(0, 1);
    lab.new_minor(1, 1);
    lab.hold_packets(0);
    let ticket = lab.begin(1, AdminRequest::DelMinor { volume: SECOND });
    assert!(!lab.nodes[1].replies.contains_key(&ticket), "the peer was not yet heard");
    lab.cut();
    lab.wait("an answer", |lab| lab.nodes[1].replies.contains_key(&ticket));
    assert_eq!(lab.nodes[1].replies[&ticket], Ok(()));
    assert_eq!(lab.nodes[1].engine.devices.len(), 1);
}

/// Whose question counts has its way; the other one has nobody left to ask.
#[test]
fn both_nodes_delete_it_at_once() {
    let mut lab = Lab::running("C");
    for n in 0..2 {
        lab.new_minor(n, 1);
    }
    lab.secondary(0).expect("nobody has it open");
    let mut tickets = Vec::new();
    for n in 0..2 {
        lab.hold_packets(n);
        tickets.push(lab.begin(n, AdminRequest::DelMinor { volume: SECOND }));
    }
    for n in 0..2 {
        lab.let_packets_go(n);
    }
    lab.wait("answers", |lab| (0..2).all(|n| lab.nodes[n].replies.contains_key(&tickets[n])));
    for n in 0..2 {
        if lab.nodes[n].engine.devices.len() == 2 {
            del_minor(&mut lab, n, SECOND).expect("nobody else has it");
        }
    }
    lab.primary(0, false).expect("all its volumes are good");
    goes_on(&mut lab);
}
