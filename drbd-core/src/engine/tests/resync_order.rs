//! resync-after a volume of another resource, which the shell watches.

use super::lab::Lab;
use super::node::{Node, Pending, VOLUME};
use crate::engine::{AdminRequest, Event};
use crate::ids::Minor;
use crate::refusal::Reason;
use crate::states::ReplicationState;

/// A volume of somebody else.
const OTHER: Minor = Minor(77);

fn busy(lab: &mut Lab, n: usize, busy: bool) {
    lab.inject(n, Event::ForeignResync { minor: OTHER, busy });
}

fn dependency(lab: &Lab, n: usize) -> bool {
    lab.nodes[n].engine.snapshot(Some(0)).resync_suspended.dependency
}

/// Node 0 waits for the other volume; node 1 lacks what node 0 wrote alone.
fn behind() -> Lab {
    let mut lab = Lab::running("C");
    lab.disk_options(0, &[("resync-after", "77")]);
    lab.disconnect(1).expect("no fencing");
    for block in 0..20 {
        lab.write(0, block, 7);
    }
    lab
}

#[test]
fn a_resync_waits_for_a_volume_of_another_resource() {
    let mut lab = behind();
    busy(&mut lab, 0, true);
    assert!(dependency(&lab, 0), "known before there is anything to hold");
    lab.begin_connect(1);
    lab.wait("a held resync", |lab| lab.replication(1) == ReplicationState::PausedSyncT);
    assert_eq!(lab.replication(0), ReplicationState::PausedSyncS);
    lab.pass_ms(5000);
    assert_eq!(lab.out_of_sync(0).len(), 20, "nothing is copied");
    assert!(lab.nodes[1].engine.snapshot(Some(0)).resync_suspended.peer, "the peer knows why");
    busy(&mut lab, 0, false);
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn one_that_runs_is_held_when_the_other_begins() {
    let mut lab = behind();
    lab.hold(1, Pending::is_write);
    lab.begin_connect(1);
    lab.wait("a resync", |lab| lab.replication(0) == ReplicationState::SyncSource);
    busy(&mut lab, 0, true);
    assert_eq!(
        [lab.replication(0), lab.replication(1)],
        [ReplicationState::PausedSyncS, ReplicationState::PausedSyncT]
    );
    busy(&mut lab, 0, false);
    lab.let_go(1);
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn only_the_volume_that_is_named_holds() {
    let mut lab = behind();
    lab.inject(0, Event::ForeignResync { minor: Minor(78), busy: true });
    busy(&mut lab, 1, true);
    assert!(!dependency(&lab, 0) && !dependency(&lab, 1));
    busy(&mut lab, 0, true);
    lab.disk_options(0, &[]);
    assert!(!dependency(&lab, 0), "the option is gone");
    lab.disk_options(0, &[("resync-after", "77")]);
    assert!(dependency(&lab, 0), "what is known of the other volume is still so");
    lab.begin_connect(1);
    lab.wait("a held resync", |lab| lab.replication(1) == ReplicationState::PausedSyncT);
    lab.disk_options(0, &[]);
    lab.wait("in sync", Lab::is_in_sync);
}

#[test]
fn a_volume_cannot_wait_for_itself() {
    let mut lab = Lab::running("C");
    let own = Node::minor(0).to_string();
    let options = crate::config::DiskOptions::from(&super::node::options(&[("resync-after", &own)]));
    let refusal = lab.ask(0, AdminRequest::DiskOptions { volume: VOLUME, options }).expect_err("a cycle");
    assert_eq!(refusal.reason, Reason::ResyncAfterCycle);
}
