//! A device gets another size while it is in use: who may ask when, what both nodes make of it, what is copied, and what
//! two nodes of different sizes do when they meet.

use super::lab::Lab;
use super::node::{net, Node, Pending, DEVICE_BYTES, SECTORS, VOLUME};
use crate::engine::{AdminRequest, UpperResult};
use crate::metadata::{Format, Index};
use crate::refusal::{Reason, Refusal};
use crate::states::{ConnectionState, DiskState, ReplicationState, Role};
use crate::wire::{size_flag, Packet};

const MIB: u64 = 1 << 20;
/// Blocks of the device before it grows.
const BLOCKS: u64 = SECTORS / 8;

pub(super) fn request(size: u64, assume_peer_has_space: bool, assume_clean: bool) -> AdminRequest {
    AdminRequest::Resize { volume: VOLUME, size, assume_peer_has_space, assume_clean }
}

fn resize(lab: &mut Lab, n: usize, size: u64) -> Result<(), Refusal> {
    lab.ask(n, request(size, false, false))
}

fn size(lab: &Lab, n: usize) -> u64 {
    lab.nodes[n].engine.devices[0].size.0
}

/// Both UpToDate, node 0 Primary, the network options as given.
fn running(pairs: &[(&str, &str)]) -> Lab {
    let mut lab = Lab::with([net(pairs), net(pairs)], Format::V09);
    lab.skip_first_sync();
    lab.primary(0, false).expect("its data is UpToDate");
    lab.nodes.iter_mut().for_each(|node| node.sent.clear());
    lab
}

fn grow_both(lab: &mut Lab, more: u64) {
    lab.nodes.iter_mut().for_each(|node| node.grow_device(DEVICE_BYTES + more));
}

/// The new part of both disks holds what lay there before.
fn litter(lab: &mut Lab, from: u64, end: u64) {
    for (n, node) in lab.nodes.iter_mut().enumerate() {
        node.disk.extend((from..end).map(|block| (block, 1000 + n as u32)));
    }
}

fn says(lab: &Lab, n: usize, text: &str) -> bool {
    lab.nodes[n].log_lines.iter().any(|line| line.contains(text))
}

fn sizes_sent(lab: &Lab, n: usize) -> Vec<(u64, u64, u16)> {
    let of = |p: &Packet| if let Packet::Sizes(s) = p { Some((s.current, s.user, s.flags)) } else { None };
    lab.nodes[n].sent.iter().filter_map(of).collect()
}

#[test]
fn both_disks_have_grown_and_the_primary_resizes() {
    let mut lab = running(&[]);
    lab.write(0, 3, 33);
    grow_both(&mut lab, MIB);
    litter(&mut lab, BLOCKS, BLOCKS + 10);
    resize(&mut lab, 0, 0).expect("grown");
    let expected = lab.nodes[0].place().capacity.0;
    assert!(expected > SECTORS && size(&lab, 0) == expected && size(&lab, 1) == expected);
    assert_eq!(sizes_sent(&lab, 0)[0], (0, 0, 0), "a size of 0 asks for an answer");
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(lab.nodes[1].disk[&(BLOCKS + 9)], 1000, "copied from the Primary");
    for n in 0..2 {
        let kept = lab.nodes[n].kept();
        assert_eq!(kept.effective_size, expected);
        assert_eq!(
            lab.nodes[n].found().unwrap().1,
            lab.nodes[n].bytes_now(),
            "the metadata is at the new end"
        );
    }
    let tag = lab.write(0, BLOCKS + 5, 55);
    lab.pass_ms(100);
    assert!(lab.is_done(0, tag));
    lab.check_alike();
}

/// Whoever asks, the Primary is copied from; between two nodes that may both be, who decides conflicts.
#[test]
fn the_secondary_may_ask_and_the_primary_is_copied_from() {
    let mut lab = running(&[]);
    grow_both(&mut lab, MIB);
    litter(&mut lab, BLOCKS, BLOCKS + 10);
    resize(&mut lab, 1, 0).expect("grown");
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(lab.nodes[1].disk[&(BLOCKS + 9)], 1000);
    lab.check_alike();
}

#[test]
fn two_primaries_agree_who_is_copied_from() {
    let mut lab = running(&[("protocol", "C"), ("allow-two-primaries", "yes")]);
    lab.primary(1, false).expect("allowed");
    grow_both(&mut lab, MIB);
    litter(&mut lab, BLOCKS, BLOCKS + 10);
    resize(&mut lab, 0, 0).expect("grown");
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn only_what_is_new_is_copied() {
    let mut lab = running(&[]);
    grow_both(&mut lab, MIB);
    resize(&mut lab, 0, 0).expect("grown");
    let new_blocks = (size(&lab, 0) - SECTORS).div_ceil(8);
    lab.wait("in sync", Lab::is_in_sync);
    let resync =
        lab.nodes[1].engine.connection.as_ref().unwrap().peer_devices[0].last_resync.clone().unwrap();
    assert_eq!(resync.copied, new_blocks * 4);
}

#[test]
fn assume_clean_copies_nothing() {
    let mut lab = running(&[]);
    grow_both(&mut lab, MIB);
    lab.ask(0, request(0, false, true)).expect("grown");
    lab.pass_ms(1000);
    assert!(size(&lab, 1) > SECTORS && lab.is_in_sync());
    assert!(sizes_sent(&lab, 1).iter().any(|s| s.2 == size_flag::NO_RESYNC));
    assert!(says(&lab, 1, "--assume-clean"));
    assert!(lab.nodes[1].sent.iter().all(|p| !matches!(p, Packet::RsDataRequest(_))));
}

#[test]
fn a_peer_that_has_not_grown_holds_the_device_back() {
    let mut lab = running(&[]);
    lab.nodes[0].grow_device(DEVICE_BYTES + MIB);
    resize(&mut lab, 0, 0).expect("nothing is wrong");
    assert_eq!((size(&lab, 0), size(&lab, 1)), (SECTORS, SECTORS));
    let (_, bytes) = lab.nodes[0].found().unwrap();
    assert_eq!(bytes, lab.nodes[0].bytes_now(), "the metadata has moved all the same");
    lab.nodes[1].grow_device(DEVICE_BYTES + MIB / 2);
    resize(&mut lab, 1, 0).expect("grown");
    let smaller = lab.nodes[1].place().capacity.0;
    assert_eq!((size(&lab, 0), size(&lab, 1)), (smaller, smaller));
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn the_size_asked_for_is_kept_and_told() {
    let mut lab = running(&[]);
    grow_both(&mut lab, MIB);
    resize(&mut lab, 0, SECTORS + 100).expect("grown");
    assert_eq!((size(&lab, 0), size(&lab, 1)), (SECTORS + 100, SECTORS + 100));
    lab.wait("in sync", Lab::is_in_sync);
    // Not a multiple of 4 KiB: the last block is a short one.
    assert_eq!(lab.out_of_sync(0), Vec::<u64>::new());
    for n in 0..2 {
        let asked = lab.nodes[n].engine.devices[0].backing.as_deref().unwrap().options.size_sectors;
        assert_eq!(asked, SECTORS + 100);
    }
    resize(&mut lab, 0, SECTORS + 108).expect("grown within the same block");
    assert_eq!(size(&lab, 1), SECTORS + 108);
    lab.wait("in sync", Lab::is_in_sync);
    resize(&mut lab, 0, 1 << 40).expect("more than there is is taken for all there is");
    assert_eq!(size(&lab, 0), lab.nodes[0].place().capacity.0);
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn a_device_shrinks_when_its_size_is_asked_for() {
    let mut lab = running(&[]);
    let tag = lab.write(0, BLOCKS - 1, 9);
    lab.pass_ms(100);
    assert!(lab.is_done(0, tag));
    resize(&mut lab, 0, SECTORS / 2).expect("as 8.4 has it");
    assert_eq!((size(&lab, 0), size(&lab, 1)), (SECTORS / 2, SECTORS / 2));
    let tag = lab.write(0, BLOCKS - 1, 10);
    assert_eq!(lab.result(0, tag), Some(UpperResult::OutOfRange));
    assert_eq!(lab.nodes[1].kept().effective_size, SECTORS / 2);
    // And is as large as before when nothing is asked for any more; what was cut off is copied again.
    resize(&mut lab, 0, 0).expect("grown");
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(size(&lab, 1), SECTORS);
    lab.check_alike();
}

#[test]
fn a_disk_that_became_smaller_is_not_followed() {
    let mut lab = running(&[]);
    lab.nodes[0].grow_device(DEVICE_BYTES - MIB);
    let refusal = resize(&mut lab, 0, 0).expect_err("internal metadata went with the end");
    assert_eq!(refusal.reason, Reason::DiskTooSmall);
    assert!(refusal.info.contains("/dev/backing"), "{}", refusal.info);

    let mut lab = with_external_metadata();
    lab.nodes[0].grow_device(SECTORS * 512 - MIB);
    let refusal = resize(&mut lab, 0, 0).expect_err("data would be cut off");
    assert_eq!(refusal.reason, Reason::ImplicitShrink);
    resize(&mut lab, 0, SECTORS - 4096).expect("that much is left");
    assert_eq!((size(&lab, 0), size(&lab, 1)), (SECTORS - 4096, SECTORS - 4096));
}

fn with_external_metadata() -> Lab {
    let mut nodes = [Node::new(0, Format::V08, 100), Node::new(1, Format::V08, 200)];
    for node in &mut nodes {
        node.create_metadata(Format::V08, Index::FlexExternal);
        node.device_bytes = vec![SECTORS * 512];
    }
    let mut lab = Lab::of(nodes, [net(&[]), net(&[])]);
    lab.skip_first_sync();
    lab.primary(0, false).expect("its data is UpToDate");
    lab
}

#[test]
fn external_metadata_stays_where_it_is() {
    let mut lab = with_external_metadata();
    lab.nodes.iter_mut().for_each(|node| node.grow_device(SECTORS * 512 + 5 * 512));
    resize(&mut lab, 0, 0).expect("grown");
    assert_eq!((size(&lab, 0), size(&lab, 1)), (SECTORS + 5, SECTORS + 5));
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn who_may_ask_and_when() {
    let mut lab = Lab::protocol("C");
    lab.detach(0).expect("nobody uses it");
    assert_eq!(resize(&mut lab, 0, 0).unwrap_err().reason, Reason::NoDisk);
    lab.attach(0).expect("attached");
    lab.connect();
    assert_eq!(resize(&mut lab, 0, 0).unwrap_err().reason, Reason::NoPrimary, "two Secondaries");
    lab.hold(1, Pending::is_write);
    lab.primary(0, true).expect("forced");
    lab.pass_ms(100);
    assert_eq!(lab.replication(0), ReplicationState::SyncSource);
    assert_eq!(resize(&mut lab, 0, 0).unwrap_err().reason, Reason::ResizeResync);
    lab.let_go(1);
    lab.wait("in sync", Lab::is_in_sync);
    lab.hold_digests = false;
    // One at a time.
    lab.hold(0, |op| matches!(op, Pending::Meta(..)));
    grow_both(&mut lab, MIB);
    let first = lab.begin(0, request(0, false, false));
    assert_eq!(resize(&mut lab, 0, 0).unwrap_err().reason, Reason::InTransientState);
    lab.let_go(0);
    lab.wait("the first", |lab| lab.nodes[0].replies.contains_key(&first));
    lab.wait("in sync", Lab::is_in_sync);
}

#[test]
fn an_old_peer_cannot_be_told_to_assume_clean() {
    let mut nodes = [Node::new(0, Format::V08, 100), Node::new(1, Format::V08, 200)];
    nodes[1].engine.cap_protocol(92);
    let mut lab = Lab::of(nodes, [net(&[]), net(&[])]);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(lab.ask(0, request(0, false, true)).unwrap_err().reason, Reason::NeedProtocol93);
}

#[test]
fn a_lone_primary_may_trust_that_its_peer_has_grown() {
    let mut lab = running(&[("connect-int", "1"), ("ping-int", "1")]);
    lab.disconnect(0).expect("allowed");
    grow_both(&mut lab, MIB);
    resize(&mut lab, 0, 0).expect("nothing is wrong");
    assert_eq!(size(&lab, 0), SECTORS, "what the peer has is not known");
    lab.ask(0, request(0, true, false)).expect("grown");
    assert!(size(&lab, 0) > SECTORS);
    let tag = lab.write(0, BLOCKS + 2, 77);
    lab.pass_ms(100);
    assert!(lab.is_done(0, tag));
    // The peer's disk is measured when somebody asks there, and not before.
    resize(&mut lab, 1, 0).expect("a lone Secondary may");
    lab.begin_connect(0);
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(size(&lab, 0), size(&lab, 1));
    lab.check_alike();
}

#[test]
fn a_peer_too_small_for_what_is_in_use_is_not_let_in() {
    let mut lab = running(&[]);
    lab.disconnect(0).expect("allowed");
    lab.nodes[0].grow_device(DEVICE_BYTES + MIB);
    lab.ask(0, request(0, true, false)).expect("grown");
    lab.begin_connect(0);
    lab.wait("an end", |lab| lab.connection(0) == ConnectionState::StandAlone);
    assert!(lab.last_error(0).contains("The peer's disk size is too small!"), "{}", lab.last_error(0));
    assert_eq!(lab.role(0), Role::Primary);
}

/// Two fresh disks of different sizes: the smaller one counts, and more than 10 % deserve a warning.
#[test]
fn the_smaller_of_two_disks_counts() {
    for (more, warned) in [(MIB, false), (16 * MIB, true)] {
        let mut nodes = [Node::new(0, Format::V09, 100), Node::new(1, Format::V09, 200)];
        nodes[1].device_bytes = vec![DEVICE_BYTES + more];
        nodes[1].create_metadata(Format::V09, Index::Internal);
        let mut lab = Lab::of(nodes, [net(&[]), net(&[])]);
        lab.connect();
        lab.primary(1, true).expect("forced");
        lab.wait("in sync", Lab::is_in_sync);
        assert_eq!((size(&lab, 0), size(&lab, 1)), (SECTORS, SECTORS));
        for n in 0..2 {
            let said = says(&lab, n, "Considerable difference in lower level device sizes");
            assert_eq!(said, warned, "{more} bytes more");
        }
        lab.check_alike();
    }
}

#[test]
fn disks_that_both_grew_apart_meet_at_the_smaller_one() {
    let mut lab = running(&[("connect-int", "1")]);
    lab.disconnect(0).expect("allowed");
    for (n, more) in [(0, 2 * MIB), (1, MIB)] {
        lab.nodes[n].grow_device(DEVICE_BYTES + more);
        resize(&mut lab, n, 0).expect("only the metadata moves");
        assert_eq!(size(&lab, n), SECTORS);
    }
    litter(&mut lab, BLOCKS, BLOCKS + 10);
    lab.begin_connect(0);
    lab.wait("in sync", Lab::is_in_sync);
    let smaller = lab.nodes[1].place().capacity.0;
    assert_eq!((size(&lab, 0), size(&lab, 1)), (smaller, smaller));
    lab.check_alike();
}

/// Nobody was Primary meanwhile, so nothing but the sizes tells that there is something to copy.
#[test]
fn disks_that_both_grew_while_nobody_looked_are_copied_when_they_meet() {
    let mut lab = running(&[("connect-int", "1")]);
    lab.secondary(0).expect("nobody uses it");
    lab.disconnect(0).expect("allowed");
    for n in 0..2 {
        lab.nodes[n].grow_device(DEVICE_BYTES + MIB);
        resize(&mut lab, n, 0).expect("only the metadata moves");
        assert_eq!(size(&lab, n), SECTORS);
    }
    litter(&mut lab, BLOCKS, BLOCKS + 10);
    lab.begin_connect(0);
    lab.wait("in sync", |lab| lab.is_in_sync() && size(lab, 0) > SECTORS);
    assert_eq!(size(&lab, 0), size(&lab, 1));
    lab.check_alike();
}

/// Who grew alone marked nothing; the other one does not know that, and marks what is new to it.
#[test]
fn what_one_node_took_for_clean_is_copied_when_they_meet() {
    for alone in 0..2 {
        let mut lab = running(&[("connect-int", "1")]);
        lab.secondary(0).expect("nobody uses it");
        lab.disconnect(0).expect("allowed");
        grow_both(&mut lab, MIB);
        litter(&mut lab, BLOCKS, BLOCKS + 10);
        lab.ask(alone, request(0, true, true)).expect("grown");
        resize(&mut lab, 1 - alone, 0).expect("only the metadata moves");
        assert_eq!((lab.out_of_sync(alone), size(&lab, 1 - alone)), (vec![], SECTORS));
        lab.begin_connect(0);
        lab.wait("in sync", |lab| lab.is_in_sync() && size(lab, 0) == size(lab, 1));
        assert!(size(&lab, 0) > SECTORS, "{alone} grew alone");
        lab.check_alike();
    }
}

/// The power failed while metadata was written over itself: the disk is as good as it was, but everything is marked.
#[test]
fn what_is_marked_for_lack_of_a_bitmap_is_copied_when_they_meet() {
    for n in 0..2 {
        let mut lab = running(&[("connect-int", "1")]);
        lab.write(0, 3, 33);
        lab.secondary(0).expect("nobody uses it");
        lab.disconnect(0).expect("allowed");
        lab.nodes[n].engine.devices[0].backing.as_mut().expect("a disk").bitmap.set_all(0);
        lab.begin_connect(0);
        lab.wait("in sync", Lab::is_in_sync);
        lab.check_alike();
    }
}

/// Nothing was written meanwhile, so nothing but the sizes tells that there is something to copy.
#[test]
fn a_disk_attached_after_the_device_has_grown_is_copied_to() {
    for (away, clean) in [(0, false), (0, true), (1, false), (1, true)] {
        let mut lab = running(&[("connect-int", "1")]);
        lab.secondary(0).expect("nobody uses it");
        lab.disconnect(0).expect("allowed");
        grow_both(&mut lab, MIB);
        litter(&mut lab, BLOCKS, BLOCKS + 10);
        resize(&mut lab, away, 0).expect("only the metadata moves");
        lab.detach(away).expect("nobody uses it");
        lab.ask(1 - away, request(0, true, clean)).expect("grown");
        assert!(size(&lab, 1 - away) > SECTORS);
        lab.begin_connect(0);
        lab.wait("contact", |lab| lab.is_replicating(0) && lab.is_replicating(1));
        lab.attach(away).expect("its own disk");
        lab.wait("in sync", Lab::is_in_sync);
        assert_eq!(size(&lab, 0), size(&lab, 1), "{away} was away");
        lab.check_alike();
    }
}

#[test]
fn a_connection_lost_halfway_is_caught_up_with() {
    for (asks, stays) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut lab = running(&[("connect-int", "1"), ("ping-int", "1")]);
        grow_both(&mut lab, MIB);
        litter(&mut lab, BLOCKS, BLOCKS + 10);
        // One of them does not get to its new size before the connection is lost.
        lab.hold(stays, |op| matches!(op, Pending::Meta(..)));
        let ticket = lab.begin(asks, request(0, false, false));
        lab.cut();
        lab.let_go(stays);
        lab.mend();
        lab.wait("an answer", |lab| lab.nodes[asks].replies.contains_key(&ticket));
        lab.wait("in sync", Lab::is_in_sync);
        assert_eq!(size(&lab, 0), size(&lab, 1));
        resize(&mut lab, 0, 0).expect("once more");
        lab.wait("in sync", Lab::is_in_sync);
        assert!(size(&lab, 0) > SECTORS && size(&lab, 0) == size(&lab, 1), "{asks} asks, {stays} stays");
        lab.check_alike();
    }
}

#[test]
fn requests_go_on_while_the_device_grows() {
    let mut lab = running(&[]);
    grow_both(&mut lab, MIB);
    lab.hold(0, |op| matches!(op, Pending::Meta(..)));
    let ticket = lab.begin(0, request(0, false, false));
    let tags: Vec<_> = (0..20).map(|n| lab.write(0, n * 700, n as u32 + 1)).collect();
    lab.pass_ms(100);
    lab.let_go(0);
    lab.wait("an answer", |lab| lab.nodes[0].replies.contains_key(&ticket));
    lab.wait("in sync", Lab::is_in_sync);
    lab.pass_ms(100);
    assert!(tags.iter().all(|tag| lab.is_done(0, *tag)));
    lab.check_alike();
}

#[test]
fn a_primary_without_disk_follows() {
    let mut lab = running(&[]);
    lab.detach(0).expect("the peer has the data");
    lab.nodes[1].grow_device(DEVICE_BYTES + MIB);
    // As 8.4: without a second disk to compare with the agreed size stays, unless a smaller one is asked for.
    let refusal = resize(&mut lab, 1, SECTORS - 800).expect_err("the Primary's users would lose the end");
    assert_eq!(refusal.reason, Reason::ImplicitShrink);
    resize(&mut lab, 1, 0).expect("nothing is wrong");
    assert_eq!((size(&lab, 0), size(&lab, 1)), (SECTORS, SECTORS));
    assert_eq!(lab.role(0), Role::Primary);
    lab.attach(0).expect("its own disk");
    lab.wait("in sync", Lab::is_in_sync);
    lab.nodes[0].grow_device(DEVICE_BYTES + MIB);
    resize(&mut lab, 0, 0).expect("grown");
    assert!(size(&lab, 0) > SECTORS && size(&lab, 0) == size(&lab, 1));
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn both_administrators_ask_at_once() {
    for (a, b) in [(0, 0), (SECTORS + 80, SECTORS + 160), (0, SECTORS + 80)] {
        let mut lab = running(&[]);
        grow_both(&mut lab, MIB);
        lab.hold(0, |op| matches!(op, Pending::Meta(..)));
        lab.hold(1, |op| matches!(op, Pending::Meta(..)));
        let tickets = [lab.begin(0, request(a, false, false)), lab.begin(1, request(b, false, false))];
        lab.let_go(0);
        lab.let_go(1);
        for (n, ticket) in tickets.into_iter().enumerate() {
            lab.wait("an answer", |lab| lab.nodes[n].replies.contains_key(&ticket));
        }
        lab.wait("in sync", Lab::is_in_sync);
        assert_eq!(size(&lab, 0), size(&lab, 1), "{a} and {b}");
        assert!(size(&lab, 0) > SECTORS);
        lab.check_alike();
    }
}

#[test]
fn larger_blocks_of_the_peer_are_told_of() {
    let mut nodes = [Node::new(0, Format::V09, 100), Node::new(1, Format::V09, 200)];
    nodes[1].logical_block_size = 4096;
    let mut lab = Lab::of(nodes, [net(&[]), net(&[])]);
    lab.connect();
    assert!(says(&lab, 0, "logical blocks of 4096 bytes"));
    assert!(!says(&lab, 1, "logical blocks"));
}

#[test]
fn a_resize_that_its_disk_does_not_survive_is_answered() {
    let mut lab = running(&[]);
    grow_both(&mut lab, MIB);
    lab.fail(0, |op| matches!(op, Pending::Meta(..)).then_some(5));
    let refusal = resize(&mut lab, 0, 0).expect_err("the disk went");
    assert_eq!(refusal.reason, Reason::MetaDiskIo);
    assert_eq!(lab.disk(0), DiskState::Diskless);
}

/// A peer that grew on its word would be larger than the disk if that forgot it with its power.
#[test]
fn what_a_disk_holds_is_told_when_it_is_kept() {
    let mut lab = running(&[("connect-int", "1")]);
    lab.disconnect(0).expect("allowed");
    grow_both(&mut lab, MIB);
    resize(&mut lab, 1, 0).expect("only the metadata moves");
    lab.hold(0, |op| matches!(op, Pending::Meta(..)));
    let ticket = lab.begin(0, request(0, false, false));
    lab.begin_connect(0);
    lab.pass_ms(3000);
    assert!(lab.is_replicating(1) && !sizes_sent(&lab, 0).is_empty());
    assert_eq!(size(&lab, 1), SECTORS);
    lab.let_go(0);
    lab.wait("an answer", |lab| lab.nodes[0].replies.contains_key(&ticket));
    lab.wait("in sync", |lab| lab.is_in_sync() && size(lab, 0) > SECTORS);
    assert_eq!(size(&lab, 0), size(&lab, 1));
    lab.check_alike();
}

/// The sizes a peer tells in a handshake wait for what this node is about to keep.
#[test]
fn the_nodes_meet_while_one_writes_its_new_size() {
    let mut lab = running(&[("connect-int", "1"), ("ping-int", "1")]);
    lab.cut();
    lab.write(0, 3, 33);
    grow_both(&mut lab, MIB);
    resize(&mut lab, 0, 0).expect("its disk is measured");
    lab.hold(1, |op| matches!(op, Pending::Meta(..)));
    let ticket = lab.begin(1, request(0, false, false));
    lab.mend();
    lab.pass_ms(3000);
    lab.let_go(1);
    lab.wait("an answer", |lab| lab.nodes[1].replies.contains_key(&ticket));
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(size(&lab, 0), size(&lab, 1));
    assert!(size(&lab, 0) > SECTORS);
    lab.check_alike();
}
