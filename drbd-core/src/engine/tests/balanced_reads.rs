//! Reads that the peer answers although this node could.

use super::lab::Lab;
use super::node::{options, Pending, VOLUME};
use crate::config::DiskOptions;
use crate::engine::{AdminRequest, DiskOp, IoResult};
use crate::states::DiskState;
use crate::wire::Packet;

fn is_read(op: &Pending) -> bool {
    matches!(op, Pending::Disk(io) if io.op == DiskOp::Read)
}

fn balanced(policy: &str, protocol: &str) -> Lab {
    let mut lab = Lab::running(protocol);
    let options = DiskOptions::from(&options(&[("read-balancing", policy)]));
    lab.ask(0, AdminRequest::DiskOptions { volume: VOLUME, options }).expect("a disk option");
    for block in 0..4 {
        lab.write(0, block, 10 + block as u32);
    }
    lab.nodes[0].sent.clear();
    lab
}

fn asked(lab: &Lab) -> usize {
    lab.nodes[0].sent.iter().filter(|p| matches!(p, Packet::DataRequest(_))).count()
}

#[test]
fn the_peer_answers_and_the_bytes_are_the_same() {
    for (policy, of_four) in [("prefer-local", 0), ("prefer-remote", 4), ("round-robin", 2)] {
        let mut lab = balanced(policy, "C");
        for block in 0..4 {
            let tag = lab.read(0, block);
            assert!(lab.is_done(0, tag), "{policy}");
            assert_eq!(lab.nodes[0].read[&tag], [10 + block as u32], "{policy}");
        }
        assert_eq!(asked(&lab), of_four, "{policy}");
        lab.check_alike();
    }
}

#[test]
fn a_read_sees_the_write_that_was_complete_before_it() {
    for protocol in ["A", "B", "C"] {
        let mut lab = balanced("prefer-remote", protocol);
        lab.hold(1, Pending::is_write);
        let write = lab.write(0, 2, 99);
        let read = lab.read(0, 2);
        if lab.is_done(0, write) {
            assert_eq!(lab.result(0, read), None, "the peer has not written it yet");
        }
        lab.let_go(1);
        assert!(lab.is_done(0, read));
        assert_eq!(lab.nodes[0].read[&read], [99]);
    }
}

#[test]
fn what_the_peer_does_not_answer_is_answered_here() {
    let mut lab = balanced("prefer-remote", "C");
    lab.hold(1, is_read);
    let first = lab.read(0, 1);
    let second = lab.read(0, 3);
    lab.let_one_go(1, IoResult::Failed(5));
    assert!(lab.is_done(0, first), "the peer's disk failed");
    assert_eq!(lab.nodes[0].read[&first], [11]);
    lab.cut();
    assert!(lab.is_done(0, second), "the connection was lost");
    assert_eq!(lab.nodes[0].read[&second], [13]);
    let third = lab.read(0, 2);
    assert!(lab.is_done(0, third), "nobody else is there");
    lab.check_buffers();
}

#[test]
fn a_peer_without_good_data_is_not_asked() {
    let mut lab = balanced("prefer-remote", "C");
    lab.detach(1).expect("the peer is UpToDate");
    assert_eq!(lab.peer_disk(0), DiskState::Diskless);
    let tag = lab.read(0, 1);
    assert!(lab.is_done(0, tag));
    assert_eq!(asked(&lab), 0);
}

#[test]
fn stripes_by_place() {
    let mut lab = balanced("32K-striping", "C");
    for block in 0..32 {
        let tag = lab.read(0, block);
        assert!(lab.is_done(0, tag));
    }
    assert_eq!(asked(&lab), 16);
}
