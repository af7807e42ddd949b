//! How two nodes meet, and what keeps them apart.

use super::lab::Lab;
use super::node::{net, Pending};
use crate::config::{DeviceOptions, OptionSet};
use crate::engine::{AdminRequest, Event, HmacPurpose, SocketLoss};
use crate::ids::{Minor, NodeId, PayloadId, SocketId, VolumeNumber};
use crate::metadata::Format;
use crate::refusal::Reason;
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::{Frame, Packet};

#[test]
fn two_fresh_nodes_meet_and_wait_for_an_administrator() {
    let mut lab = Lab::protocol("C");
    lab.connect();
    lab.wait("rest", |lab| lab.replication(0) == ReplicationState::Established);
    for n in 0..2 {
        assert_eq!(lab.disk(n), DiskState::Inconsistent);
        assert_eq!(lab.peer_disk(n), DiskState::Inconsistent);
        assert_eq!(lab.role(n), Role::Secondary);
    }
}

#[test]
fn either_may_come_first_and_any_time_apart() {
    for (first, apart_ms) in [(0, 0), (1, 0), (0, 500), (1, 9_500), (0, 61_000)] {
        let mut lab = Lab::protocol("C");
        lab.begin_connect(first);
        lab.pass_ms(apart_ms);
        lab.begin_connect(1 - first);
        lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    }
}

#[test]
fn the_same_with_metadata_of_8_4() {
    let mut lab = Lab::with([net(&[]), net(&[])], Format::V08);
    lab.connect();
    lab.primary(1, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    let tag = lab.write(1, 3, 3);
    assert!(lab.is_done(1, tag));
    lab.cut();
    lab.write(1, 4, 4);
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

/// Who begins with something else is told apart from a peer that is not there, and the peer still gets in.
#[test]
fn a_stranger_that_begins_with_something_else_is_logged() {
    let mut lab = Lab::protocol("C");
    lab.begin_connect(0);
    lab.pass_ms(2_000);
    let peer = NodeId(1);
    let (wrong, senseless) = (SocketId(900), SocketId(901));
    lab.tell(0, Event::Accepted { peer, socket: wrong });
    let frame = Frame { volume: VolumeNumber(0), packet: Packet::Ping };
    lab.tell(0, Event::Packet { socket: wrong, frame, payload: PayloadId::NONE });
    lab.tell(0, Event::Accepted { peer, socket: senseless });
    let text = "The peer sent a packet header that makes no sense";
    lab.tell(0, Event::SocketLost { socket: senseless, why: SocketLoss::Malformed(text.into()) });
    for said in ["Who connected began with P_PING, which begins no connection", text] {
        assert!(lab.nodes[0].log_lines.iter().any(|line| line.contains(said)), "{said}");
    }
    lab.begin_connect(1);
    lab.wait("a connection", |lab| lab.is_replicating(0) && lab.is_replicating(1));
}

const SECRET: [(&str, &str); 2] = [("cram-hmac-alg", "sha1"), ("shared-secret", "tiger")];

#[test]
fn the_same_secret_lets_them_in() {
    let mut lab = Lab::with([net(&SECRET), net(&SECRET)], Format::V09);
    lab.connect();
    assert!(lab.is_replicating(0));
}

#[test]
fn another_secret_keeps_both_standing_alone() {
    let other = net(&[("cram-hmac-alg", "sha1"), ("shared-secret", "lion")]);
    for slow in [None, Some(HmacPurpose::Response)] {
        for first in [0, 1] {
            let mut lab = Lab::with([net(&SECRET), other.clone()], Format::V09);
            lab.slow_digest = slow.map(|purpose| (0, purpose));
            lab.begin_connect(first);
            lab.begin_connect(1 - first);
            lab.pass_ms(1_000);
            lab.let_digests_go();
            lab.pass_ms(1_000);
            for n in 0..2 {
                assert_eq!(lab.connection(n), ConnectionState::StandAlone, "{n}, {slow:?}, {first} first");
                assert!(lab.last_error(n).contains("shared-secret"), "{}", lab.last_error(n));
            }
        }
    }
}

#[test]
fn a_peer_without_a_secret_is_not_let_in() {
    for order in [[0, 1], [1, 0]] {
        let mut lab = Lab::with([net(&SECRET), net(&[])], Format::V09);
        order.iter().for_each(|&n| lab.begin_connect(n));
        lab.wait("StandAlone", |lab| (0..2).any(|n| lab.connection(n) == ConnectionState::StandAlone));
        lab.pass_ms(30_000);
        assert!(!lab.is_replicating(0) && !lab.is_replicating(1));
        assert!(lab.last_error(0).contains("cram-hmac-alg"), "{}", lab.last_error(0));
    }
}

#[test]
fn settings_that_differ_keep_them_apart_and_are_named() {
    for (option, a, b) in [
        ("protocol", "A", "C"),
        ("after-sb-0pri", "disconnect", "discard-zero-changes"),
        ("after-sb-1pri", "disconnect", "consensus"),
        ("after-sb-2pri", "disconnect", "call-pri-lost-after-sb"),
        ("verify-alg", "sha1", "md5"),
        ("csums-alg", "", "sha1"),
    ] {
        for (first, apart_ms) in [(0, 0), (1, 0), (0, 700), (1, 12_000)] {
            let mut lab = Lab::with([net(&[(option, a)]), net(&[(option, b)])], Format::V09);
            lab.begin_connect(first);
            lab.pass_ms(apart_ms);
            lab.begin_connect(1 - first);
            lab.wait("StandAlone", |lab| (0..2).any(|n| lab.connection(n) == ConnectionState::StandAlone));
            lab.pass_ms(1_000);
            for n in 0..2 {
                assert_eq!(
                    lab.connection(n),
                    ConnectionState::StandAlone,
                    "{option}: node {n}, {first} first"
                );
                assert!(lab.last_error(n).contains(option), "{option}: {}", lab.last_error(n));
            }
        }
    }
}

#[test]
fn a_split_brain_keeps_both_standing_alone_and_says_so() {
    let mut lab = Lab::running("C");
    lab.cut();
    lab.write(0, 1, 100);
    lab.pass_ms(2_000);
    lab.primary(1, false).expect("it is UpToDate and alone");
    lab.write(1, 2, 200);
    lab.secondary(1).expect("nobody has it open");
    lab.mend();
    lab.wait("StandAlone", |lab| (0..2).all(|n| lab.connection(n) == ConnectionState::StandAlone));
    for n in 0..2 {
        assert!(lab.last_error(n).to_lowercase().contains("split"), "{n}: {}", lab.last_error(n));
        assert!(lab.nodes[n].handlers.contains(&"split-brain"), "{n}: {:?}", lab.nodes[n].handlers);
    }
    assert_eq!((lab.out_of_sync(0), lab.out_of_sync(1)), (vec![1], vec![2]));
}

#[test]
fn the_loser_of_a_split_brain_gives_its_data_up() {
    let mut lab = Lab::running("C");
    lab.cut();
    lab.write(0, 1, 100);
    lab.primary(1, false).expect("it is UpToDate and alone");
    lab.write(1, 2, 200);
    lab.secondary(1).expect("nobody has it open");
    lab.mend();
    lab.wait("StandAlone", |lab| (0..2).all(|n| lab.connection(n) == ConnectionState::StandAlone));
    lab.begin_connect(0);
    let request = AdminRequest::Connect { peer: NodeId(0), tentative: false, discard_my_data: true };
    lab.ask(1, request).expect("a Secondary may give up its data");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
    assert_eq!(lab.nodes[1].disk.get(&1), Some(&100));
    assert_eq!(lab.nodes[1].disk.get(&2).copied().unwrap_or(0), 0, "its own write is gone");
}

#[test]
fn after_sb_0pri_settles_a_split_brain_without_changes_on_one_side() {
    let options = || net(&[("after-sb-0pri", "discard-zero-changes")]);
    let mut lab = Lab::with([options(), options()], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.cut();
    lab.write(0, 1, 100);
    lab.secondary(0).expect("nobody has it open");
    lab.primary(1, false).expect("it is UpToDate and alone");
    lab.secondary(1).expect("nobody has it open");
    lab.mend();
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
    assert_eq!(lab.nodes[1].disk.get(&1), Some(&100));
}

#[test]
fn data_that_never_met_is_refused() {
    let mut lab = Lab::protocol("C");
    for n in 0..2 {
        lab.primary(n, true).expect("each for itself");
        lab.write(n, 1, n as u32);
        lab.secondary(n).expect("nobody has it open");
    }
    lab.begin_connect(0);
    lab.begin_connect(1);
    lab.wait("StandAlone", |lab| (0..2).all(|n| lab.connection(n) == ConnectionState::StandAlone));
    assert!((0..2).all(|n| lab.last_error(n).contains("Split-Brain")), "{}", lab.last_error(0));
}

#[test]
fn a_second_cut_during_every_step_of_the_handshake_leads_to_the_same_end() {
    for held in [0, 1] {
        for steps in 0..12 {
            let mut lab = Lab::running("C");
            lab.cut();
            lab.write(0, 9, 90 + steps);
            lab.mend();
            lab.pass_ms(900);
            lab.hold(held, Pending::is_super_block);
            for _ in 0..steps {
                lab.pass_ms(100);
            }
            lab.cut();
            lab.let_go(held);
            lab.write(0, 10, 100 + steps);
            lab.mend();
            lab.wait("in sync", |lab| lab.is_in_sync());
            lab.check_alike();
        }
    }
}

#[test]
fn a_volume_the_peer_does_not_have_is_named_when_roles_hold_still() {
    let mut lab = Lab::protocol("C");
    let options = DeviceOptions::from(&OptionSet::default());
    let request = AdminRequest::NewMinor { minor: Minor(77), volume: VolumeNumber(3), options };
    lab.ask(0, request).expect("not connected yet");
    lab.begin_connect(0);
    lab.begin_connect(1);
    lab.wait("the first volume", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    let refusal = lab.detach(0).expect_err("roles and disks hold still");
    assert_eq!(refusal.reason, Reason::InTransientState);
    assert!(refusal.info.contains("nothing of volume 3 of r0: configure it there too"), "{}", refusal.info);
    let warnings = lab.nodes[1].log_lines.iter().filter(|l| l.contains("has a volume 3")).count();
    assert_eq!(warnings, 1);
    let request = AdminRequest::Disconnect { peer: NodeId(1), force: true };
    lab.ask(0, request).expect("that is a way out");
    lab.detach(0).expect("alone");
}
