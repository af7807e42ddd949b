//! A slow disk: what one resync waited for is on stable storage only when that resync broke off, and another one runs.

use super::lab::Lab;
use super::node::{net, Pending};
use crate::engine::IoResult;
use crate::metadata::Format;
use crate::states::ConnectionState;
use crate::wire::Packet;

fn running() -> Lab {
    let options = || net(&[("connect-int", "1"), ("ping-int", "1")]);
    let mut lab = Lab::with([options(), options()], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    lab
}

fn is_meta(op: &Pending) -> bool {
    matches!(op, Pending::Meta(..))
}

fn meet_again(lab: &mut Lab) {
    lab.mend();
    lab.wait("another resync", |lab| lab.replication(1).is_target());
}

#[test]
fn a_source_begins_each_resync_once() {
    let mut lab = running();
    lab.cut();
    lab.write(0, 5, 1);
    lab.pass_ms(10);
    lab.hold(0, is_meta);
    for _ in 0..3 {
        meet_again(&mut lab);
        lab.cut();
    }
    meet_again(&mut lab);
    let before = [0, 1].map(|n| lab.nodes[n].sent.len());
    lab.let_go(0);
    lab.wait("in sync", Lab::is_in_sync);
    for (n, before) in before.into_iter().enumerate() {
        let sent = || lab.nodes[n].sent[before..].iter();
        let bitmaps =
            sent().filter(|p| matches!(p, Packet::Bitmap(..) | Packet::CompressedBitmap(_))).count();
        assert_eq!(bitmaps, 1, "node {n}");
        assert_eq!(sent().filter(|p| matches!(p, Packet::SyncUuid(_))).count(), 1 - n);
        assert_eq!(lab.connection(n), ConnectionState::Connected);
    }
    lab.check_alike();
}

#[test]
fn the_end_of_a_resync_is_not_that_of_the_next() {
    let mut lab = running();
    lab.cut();
    lab.write(0, 5, 1);
    lab.hold(1, Pending::is_write);
    meet_again(&mut lab);
    lab.wait("a copied block", |lab| !lab.nodes[1].pending.is_empty());
    // Nothing but the new generation is not kept.
    lab.hold(1, Pending::is_super_block);
    while lab.nodes[1].pending.first().is_some_and(Pending::is_write) {
        lab.let_one_go(1, IoResult::Done);
    }
    lab.wait("the end", |lab| lab.nodes[1].pending.iter().any(Pending::is_super_block));
    lab.cut();
    let written = lab.write(0, 9, 2);
    assert!(lab.is_done(0, written));
    // What is asked for from here on does not come.
    lab.hold_packets(0);
    lab.mend();
    for _ in 0..200 {
        if lab.replication(1).is_target() {
            break;
        }
        lab.pass_ms(100);
        lab.let_packets_go(0);
        lab.hold_packets(0);
    }
    assert!(lab.replication(1).is_target());
    lab.let_go(1);
    assert!(!lab.is_in_sync() || lab.nodes[1].disk.get(&9) == Some(&2), "nothing was copied");
    lab.let_packets_go(0);
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}
