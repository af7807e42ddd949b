//! data-integrity-alg: what is agreed, and from which packet on.

use super::lab::Lab;
use super::node::{net, Pending, VOLUME};
use crate::engine::{AdminRequest, Direction, UpperResult};
use crate::ids::NodeId;
use crate::metadata::Format;
use crate::refusal::Reason;
use crate::states::ConnectionState;
use crate::wire::{feature, Packet, Stream};

fn lab(algorithms: [&str; 2]) -> Lab {
    let options = algorithms.map(|name| net(&[("data-integrity-alg", name), ("connect-int", "1")]));
    Lab::with(options, Format::V09)
}

#[test]
fn digests_begin_behind_the_packet_that_names_them() {
    let mut lab = lab(["sha1", "sha1"]);
    lab.connect();
    for node in &lab.nodes {
        let directions: Vec<_> = node.integrity.iter().map(|(direction, ..)| *direction).collect();
        assert_eq!(directions, [Direction::Sending, Direction::Receiving]);
        for (_, algorithm, behind) in &node.integrity {
            assert_eq!(&**algorithm, "sha1");
            assert!(matches!(behind, Some(Packet::Protocol(_))), "{behind:?}");
        }
        let zeroes = |p: &Packet| matches!(p, Packet::Features(f) if f.flags & feature::ZEROES != 0);
        assert!(!node.sent.iter().any(zeroes), "an 8.4 peer cannot take P_ZEROES");
    }
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    let tag = lab.write(0, 4, 4);
    assert!(lab.is_done(0, tag));
    lab.check_alike();
}

#[test]
fn without_an_algorithm_there_are_none() {
    let mut lab = lab(["", ""]);
    lab.connect();
    assert!(lab.nodes.iter().all(|node| node.integrity.is_empty()));
}

#[test]
fn both_nodes_name_the_same() {
    for algorithms in [["sha1", "md5"], ["sha1", ""], ["", "sha1"]] {
        let mut lab = lab(algorithms);
        lab.begin_connect(0);
        lab.begin_connect(1);
        lab.pass_ms(10_000);
        let alone = |n: usize| lab.connection(n) == ConnectionState::StandAlone;
        assert!(alone(0) || alone(1), "{algorithms:?}");
        let named = (0..2).any(|n| lab.last_error(n).contains("incompatible data-integrity-alg settings"));
        assert!(named, "{algorithms:?}: {} {}", lab.last_error(0), lab.last_error(1));
    }
}

fn change(lab: &mut Lab, n: usize, algorithm: &str) -> Result<(), Reason> {
    let peer = NodeId(1 - n as u8);
    let options = net(&[("data-integrity-alg", algorithm), ("connect-int", "1")]);
    lab.ask(n, AdminRequest::NetOptions { peer, options }).map_err(|refusal| refusal.reason)
}

fn running(algorithm: &str) -> Lab {
    let mut lab = lab([algorithm; 2]);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    lab
}

/// The digests of one direction now, which began behind a P_PROTOCOL_UPDATE that names their algorithm.
fn updated(lab: &Lab, n: usize, direction: Direction) -> &str {
    let mut changes = lab.nodes[n].integrity.iter().rev();
    let (_, algorithm, behind) = changes.find(|(d, ..)| *d == direction).expect("that direction changed");
    match behind {
        Some(Packet::ProtocolUpdate(settings)) => assert_eq!(settings.integrity_alg, **algorithm),
        behind => panic!("behind {behind:?}"),
    }
    algorithm
}

#[test]
fn it_changes_while_connected_one_direction_at_a_time() {
    let mut lab = running("sha1");
    for (block, algorithm) in ["md5", "", "crc32c"].into_iter().enumerate() {
        for n in 0..2 {
            lab.hold_packets(n);
            let before = lab.write(0, 10 * block as u64, 1);
            change(&mut lab, n, algorithm).expect("taken");
            let behind = lab.write(0, 10 * block as u64 + 1, 2);
            lab.let_packets_go(n);
            lab.run();
            assert!(lab.is_done(0, before) && lab.is_done(0, behind), "{algorithm}");
            assert_eq!(updated(&lab, n, Direction::Sending), algorithm);
            assert_eq!(updated(&lab, 1 - n, Direction::Receiving), algorithm);
            assert_eq!(lab.nodes[1].engine.settings().integrity_alg == algorithm, n == 1, "who was asked");
        }
        assert_eq!(lab.connection(0), ConnectionState::Connected);
    }
    lab.cut();
    lab.mend();
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn changed_on_one_node_only_it_ends_with_the_connection() {
    let mut lab = running("sha1");
    change(&mut lab, 0, "md5").expect("taken");
    let said =
        "peer data-integrity-alg: md5; this node's is sha1: make them the same before the next connect";
    assert!(lab.nodes[1].log_lines.iter().any(|line| line.ends_with(said)), "{:?}", lab.nodes[1].log_lines);
    let tag = lab.write(0, 4, 4);
    assert!(lab.is_done(0, tag));
    lab.cut();
    lab.mend();
    lab.pass_ms(10_000);
    assert!((0..2).any(|n| lab.connection(n) == ConnectionState::StandAlone));
    let named = (0..2).any(|n| lab.last_error(n).contains("incompatible data-integrity-alg settings"));
    assert!(named, "{} {}", lab.last_error(0), lab.last_error(1));
}

#[test]
fn an_old_peer_cannot_be_told() {
    let mut lab = lab(["sha1", "sha1"]);
    lab.nodes[1].engine.cap_protocol(99);
    lab.connect();
    assert_eq!(change(&mut lab, 0, "md5"), Err(Reason::NeedProtocol100));
    assert_eq!(lab.nodes[0].engine.settings().integrity_alg, "sha1");
    lab.disconnect(0).expect("it may");
    assert_eq!(change(&mut lab, 0, "md5"), Ok(()));
}

#[test]
fn zeroes_are_written_as_data_once_digests_begin() {
    let mut lab = running("");
    let tag = lab.write_zeroes(0, 3, 1);
    assert!(lab.is_done(0, tag));
    assert!(lab.nodes[0].sent.iter().any(|p| matches!(p, Packet::Zeroes(_))));
    // One waits for another write of its block while digests begin.
    lab.hold(0, Pending::is_write);
    let first = lab.write(0, 5, 1);
    let second = lab.write_zeroes(0, 5, 1);
    change(&mut lab, 0, "sha1").expect("taken");
    assert_eq!(lab.nodes[0].engine.request_limits(VOLUME).zeroes_bytes, 0);
    lab.let_go(0);
    lab.run();
    assert_eq!((lab.is_done(0, first), lab.result(0, second)), (true, Some(UpperResult::Split)));
    change(&mut lab, 0, "").expect("taken");
    let tag = lab.write_zeroes(0, 5, 1);
    assert!(lab.is_done(0, tag));
    lab.check_alike();
}

#[test]
fn a_peer_that_changes_it_is_followed() {
    for own in ["sha1", ""] {
        let mut lab = lab([own, own]);
        lab.connect();
        for name in ["md5", ""] {
            let settings = lab.nodes[1].engine.settings();
            let settings = Box::new(crate::wire::Settings { integrity_alg: name.to_owned(), ..settings });
            lab.forge(0, Stream::Data, Packet::ProtocolUpdate(settings));
            assert_eq!(updated(&lab, 0, Direction::Receiving), name);
            assert_eq!(lab.connection(0), ConnectionState::Connected);
            assert_eq!(lab.nodes[0].engine.settings().integrity_alg, own, "its administrator was not asked");
        }
    }
}
