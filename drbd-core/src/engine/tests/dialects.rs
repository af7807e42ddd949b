//! The same life under every version of the protocol.

use super::lab::Lab;
use super::node::{net, Pending};
use crate::limits::{PROTOCOL_MAX, PROTOCOL_MIN};
use crate::metadata::Format;
use crate::states::ReplicationState;

fn live(version: u32, format: Format, rle: &str) {
    let options = || net(&[("use-rle", rle)]);
    let mut lab = Lab::with([options(), options()], format);
    lab.nodes[1].engine.cap_protocol(version);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    let tag = lab.write(0, 100, 1);
    assert!(lab.is_done(0, tag));
    let flush = lab.flush(0);
    assert!(lab.is_done(0, flush));
    lab.cut();
    let blocks: Vec<u64> = (0..40).map(|n| n * n * 7).collect();
    for &block in &blocks {
        lab.write(0, block, 2);
    }
    lab.mend();
    lab.hold(1, Pending::is_write);
    lab.wait("a resync", |lab| lab.replication(0) == ReplicationState::SyncSource);
    let tag = lab.write(0, blocks[20], 3);
    lab.let_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(lab.is_done(0, tag));
    lab.secondary(0).expect("nobody has it open");
    lab.primary(1, false).expect("UpToDate");
    assert_eq!(lab.primary(0, false).map_err(|r| r.number()), Err(-1));
    let tag = lab.write(1, 9000, 4);
    assert!(lab.is_done(1, tag));
    lab.detach(0).expect("a Secondary may");
    lab.write(1, 9001, 5);
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
    lab.disconnect(0).expect("the Primary agrees");
    lab.wait("the Primary sees it", |lab| !lab.is_replicating(1));
    lab.write(1, 9002, 6);
    lab.begin_connect(0);
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

#[test]
fn every_version_lives() {
    for version in PROTOCOL_MIN..=PROTOCOL_MAX {
        for (format, rle) in [(Format::V09, "yes"), (Format::V08, "no")] {
            let outcome = std::panic::catch_unwind(|| live(version, format, rle));
            assert!(outcome.is_ok(), "version {version}, {format:?}, use-rle {rle}");
        }
    }
}
