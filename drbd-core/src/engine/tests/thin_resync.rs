//! Resyncs that tell of zeroes instead of sending them.

use super::lab::Lab;
use super::node::{net, Pending};
use crate::ids::Sector;
use crate::metadata::Format;
use crate::states::ConnectionState;
use crate::wire::{Extent, Packet, Stream};

/// The first node has data in blocks 0 to 1999 and zeroes behind them; the second one other data in 1000 to 2999.
fn lab_with(options: &[(&str, &str)], granularity: u32, configured: &str) -> Lab {
    let mut lab = Lab::with([net(options), net(options)], Format::V09);
    lab.nodes[1].discard_granularity = granularity;
    lab.detach(1).expect("nobody uses it");
    lab.attach_with(1, &[("rs-discard-granularity", configured)]).expect("attached");
    lab.nodes[0].disk.extend((0..2000).map(|block| (block, 5)));
    lab.nodes[1].disk.extend((1000..3000).map(|block| (block, 6)));
    lab
}

fn first_copy(lab: &mut Lab) {
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", |lab| lab.is_in_sync());
    lab.check_alike();
}

/// Bytes of the pieces a node called zeroes.
fn deallocated(lab: &Lab, n: usize) -> Vec<u32> {
    let bytes = |packet: &Packet| match packet {
        Packet::RsDeallocated(extent) => Some(extent.bytes),
        _ => None,
    };
    lab.nodes[n].sent.iter().filter_map(bytes).collect()
}

fn keeps_no_space_for_zeroes(lab: &Lab) -> bool {
    (2048..3000).all(|block| !lab.nodes[1].disk.contains_key(&block))
}

#[test]
fn zeroes_are_not_sent_to_a_disk_that_discards() {
    for (granularity, configured, piece) in [
        (4096, "0", 128 << 10),
        (4096, "65536", 64 << 10),
        (512, "1048576", 1 << 20),
        (256 << 10, "0", 256 << 10),
    ] {
        let mut lab = lab_with(&[], granularity, configured);
        first_copy(&mut lab);
        let pieces = deallocated(&lab, 0);
        assert!(pieces.len() > 10 && pieces.contains(&piece), "{granularity} {configured}: {pieces:?}");
        assert!(keeps_no_space_for_zeroes(&lab), "{granularity} {configured}");
        let traffic = |n: usize| {
            let status = lab.nodes[n].engine.status();
            let peer_device = &status.connections[0].peer_devices[0];
            (peer_device.sent, peer_device.received)
        };
        let (_, received) = traffic(1);
        assert!((8000..13_000).contains(&received), "{received} KiB: zeroes that are not sent do not count");
        assert_eq!(traffic(0).0, received);
    }
}

#[test]
fn disks_that_do_not_discard_and_peers_that_do_not_know_are_sent_zeroes() {
    let mut without = lab_with(&[], 0, "65536");
    let mut by_checksum = lab_with(&[("csums-alg", "sha1")], 4096, "65536");
    let mut with_an_old_peer = lab_with(&[], 4096, "65536");
    with_an_old_peer.nodes[0].engine.cap_protocol(93);
    for lab in [&mut without, &mut by_checksum, &mut with_an_old_peer] {
        first_copy(lab);
        assert!(!lab.nodes[1].sent.iter().any(|p| matches!(p, Packet::RsThinRequest(_))));
        assert!(deallocated(lab, 0).is_empty());
    }
}

/// What was discarded while the nodes were apart is a hole on both afterwards.
#[test]
fn what_was_discarded_is_discarded_by_the_resync() {
    let mut lab = lab_with(&[], 4096, "0");
    first_copy(&mut lab);
    lab.disconnect(1).expect("a Secondary");
    lab.write(0, 700, 9);
    let tag = lab.discard(0, 300, 100);
    assert!(lab.is_done(0, tag));
    lab.nodes[0].sent.clear();
    lab.begin_connect(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert_eq!(deallocated(&lab, 0).iter().sum::<u32>(), 100 * 4096);
    assert!((300..400).all(|block| !lab.nodes[1].disk.contains_key(&block)));
    lab.check_alike();
}

#[test]
fn a_write_waits_for_the_hole_that_is_made_where_it_goes() {
    let mut lab = lab_with(&[], 4096, "65536");
    lab.hold(1, Pending::is_discard);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("a hole", |lab| !lab.nodes[1].pending.is_empty());
    let tag = lab.write(0, 2500, 8);
    lab.let_go(1);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(lab.is_done(0, tag));
    assert_eq!(lab.nodes[1].disk.get(&2500), Some(&8));
    lab.check_alike();
}

#[test]
fn zeroes_nobody_asked_for_end_the_session() {
    let mut lab = lab_with(&[], 0, "0");
    lab.hold(0, Pending::is_read);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("a question", |lab| lab.nodes[1].sent.iter().any(|p| matches!(p, Packet::RsDataRequest(_))));
    let asked = lab.nodes[1].sent.iter().find_map(|packet| match packet {
        Packet::RsDataRequest(block) => Some(Extent { sector: block.sector, bytes: block.bytes }),
        _ => None,
    });
    let asked = asked.expect("it was waited for");
    assert_eq!(asked.sector, Sector(0));
    lab.forge(1, Stream::Data, Packet::RsDeallocated(asked));
    assert_ne!(lab.connection(1), ConnectionState::Connected);
    assert!(lab.last_error(1).contains("P_RS_DEALLOCATED that makes no sense"), "{}", lab.last_error(1));
    assert_eq!(lab.nodes[1].disk.get(&1000), Some(&6), "nothing was discarded");
}
