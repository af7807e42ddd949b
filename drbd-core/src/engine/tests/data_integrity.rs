//! data-integrity-alg: what is agreed, and from which packet on.

use super::lab::Lab;
use super::node::net;
use crate::engine::{AdminRequest, Direction};
use crate::ids::NodeId;
use crate::metadata::Format;
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

#[test]
fn it_does_not_change_while_connected() {
    let mut lab = lab(["sha1", "sha1"]);
    lab.connect();
    let options = net(&[("data-integrity-alg", "md5"), ("connect-int", "1")]);
    let refusal = lab.ask(0, AdminRequest::NetOptions { peer: NodeId(1), options }).expect_err("refused");
    assert!(refusal.to_string().contains("disconnect first"), "{refusal}");
}

#[test]
fn a_peer_that_changes_it_is_followed() {
    let mut lab = lab(["sha1", "sha1"]);
    lab.connect();
    for name in ["md5", ""] {
        let settings = lab.nodes[1].engine.settings();
        let settings = Box::new(crate::wire::Settings { integrity_alg: name.to_owned(), ..settings });
        lab.forge(0, Stream::Data, Packet::ProtocolUpdate(settings));
        let (direction, algorithm, _) = lab.nodes[0].integrity.last().expect("it follows");
        assert_eq!((*direction, &**algorithm), (Direction::Receiving, name));
        assert_eq!(lab.connection(0), ConnectionState::Connected);
        assert_eq!(lab.nodes[0].engine.settings().integrity_alg, name, "the next session begins with it");
    }
}
