//! invalidate, invalidate-remote, pause-sync, outdate and new-current-uuid: what they copy, what they refuse, and what
//! is left of them when the connection or a node is lost in between.

use super::lab::Lab;
use super::node::{net, Pending, SECTORS, VOLUME};
use crate::engine::random::Random;
use crate::engine::{AdminRequest, IoResult};
use crate::ids::NodeId;
use crate::metadata::{device_flag, Format};
use crate::refusal::Reason;
use crate::states::{ConnectionState, DiskState, ReplicationState};
use crate::wire::Packet;

const BLOCKS: u64 = SECTORS / 8;

fn invalidate(reset_bitmap: bool) -> AdminRequest {
    AdminRequest::Invalidate { volume: VOLUME, reset_bitmap }
}

fn invalidate_remote(n: usize, reset_bitmap: bool) -> AdminRequest {
    AdminRequest::InvalidateRemote { peer: NodeId(1 - n as u8), volume: VOLUME, reset_bitmap }
}

fn hold_sync(n: usize, hold: bool) -> AdminRequest {
    let (peer, volume) = (NodeId(1 - n as u8), VOLUME);
    if hold {
        AdminRequest::PauseSync { peer, volume }
    } else {
        AdminRequest::ResumeSync { peer, volume }
    }
}

fn refused(lab: &mut Lab, n: usize, request: AdminRequest) -> Reason {
    lab.ask(n, request).expect_err("refused").reason
}

/// Blocks the source sent in answer to resync requests.
fn copied(lab: &Lab, source: usize) -> u64 {
    let bytes = |p: &Packet| if let Packet::RsDataReply(data) = p { u64::from(data.bytes) } else { 0 };
    lab.nodes[source].sent.iter().map(bytes).sum::<u64>() / 4096
}

/// A block of that node's disk is not what it should be, and nobody knows.
fn corrupt(lab: &mut Lab, n: usize, block: u64) {
    lab.nodes[n].disk.insert(block, 666);
}

#[test]
fn invalidate_replaces_everything_by_the_peers_data() {
    let mut lab = Lab::running("C");
    lab.write(0, 7, 1);
    corrupt(&mut lab, 1, 9);
    lab.nodes.iter_mut().for_each(|node| node.sent.clear());
    lab.ask(1, invalidate(true)).expect("the peer has good data");
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(copied(&lab, 0), BLOCKS);
    lab.check_alike();
    let bitmaps = |n: usize| {
        lab.nodes[n].sent.iter().any(|p| matches!(p, Packet::Bitmap(_) | Packet::CompressedBitmap(_)))
    };
    assert!(!bitmaps(0) && !bitmaps(1), "both know that it is everything");
    let (a, b) = (lab.nodes[0].kept(), lab.nodes[1].kept());
    assert_eq!(a.current_uuid & !1, b.current_uuid & !1);
}

#[test]
fn a_primary_may_take_the_peers_data_while_it_is_in_use() {
    let mut lab = Lab::running("C");
    for block in 0..64 {
        lab.write(0, block, 1);
    }
    corrupt(&mut lab, 0, 9001);
    lab.ask(0, invalidate(true)).expect("the peer has good data");
    let writes: Vec<_> = (0..64).map(|n| lab.write(0, n * 250, 5)).collect();
    let read = lab.read(0, 9001);
    lab.wait("in sync", Lab::is_in_sync);
    assert!(writes.iter().all(|&tag| lab.is_done(0, tag)));
    assert_eq!(lab.nodes[0].read[&read], [0], "what is Inconsistent is read from the peer");
    lab.check_alike();
}

#[test]
fn invalidate_remote_replaces_the_peers_data() {
    let mut lab = Lab::running("C");
    corrupt(&mut lab, 1, 9);
    lab.ask(0, invalidate_remote(0, true)).expect("this node has good data");
    let writes: Vec<_> = (0..64).map(|n| lab.write(0, n * 250, 5)).collect();
    lab.wait("in sync", Lab::is_in_sync);
    assert!(writes.iter().all(|&tag| lab.is_done(0, tag)));
    assert!(copied(&lab, 0) >= BLOCKS);
    lab.check_alike();
}

#[test]
fn a_full_sync_calls_its_handlers() {
    let mut lab = Lab::running("C");
    lab.nodes.iter_mut().for_each(|node| node.handlers.clear());
    lab.ask(1, invalidate(true)).expect("the peer has good data");
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(lab.nodes[0].handlers, ["before-resync-source"]);
    assert_eq!(lab.nodes[1].handlers, ["before-resync-target", "after-resync-target"]);
}

#[test]
fn the_name_of_the_resync_may_come_before_the_target_has_marked_everything() {
    let mut lab = Lab::running("C");
    corrupt(&mut lab, 1, 9);
    lab.hold(1, |op| matches!(op, Pending::Meta(..)));
    let ticket = lab.begin(1, invalidate(true));
    lab.wait("the source has named it", |lab| lab.replication(0) == ReplicationState::SyncSource);
    assert_eq!(lab.replication(1), ReplicationState::StartingSyncT);
    assert!(!lab.nodes[1].replies.contains_key(&ticket), "answered before it is kept");
    lab.let_go(1);
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(lab.nodes[1].replies[&ticket], Ok(()));
    lab.check_alike();
}

#[test]
fn a_full_sync_is_refused_where_it_makes_no_sense() {
    let mut lab = Lab::protocol("C");
    assert_eq!(refused(&mut lab, 0, invalidate_remote(0, true)), Reason::NeedConnection);
    lab.connect();
    assert_eq!(refused(&mut lab, 0, invalidate(true)), Reason::NoUpToDateDisk, "both are Inconsistent");
    assert_eq!(refused(&mut lab, 0, invalidate_remote(0, true)), Reason::NoUpToDateDisk);
    lab.hold(1, Pending::is_write);
    lab.primary(0, true).expect("forced");
    lab.wait("a resync", |lab| lab.replication(1) == ReplicationState::SyncTarget);
    for n in 0..2 {
        assert_eq!(refused(&mut lab, n, invalidate(true)), Reason::ResyncRunning);
        assert_eq!(refused(&mut lab, n, invalidate_remote(n, true)), Reason::ResyncRunning);
    }
    lab.let_go(1);
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(refused(&mut lab, 1, invalidate(false)), Reason::ProtocolTooLow);
    lab.detach(1).expect("the peer has the data");
    assert_eq!(refused(&mut lab, 1, invalidate(true)), Reason::NoDisk);
    assert_eq!(refused(&mut lab, 0, invalidate_remote(0, true)), Reason::NoRemoteDisk);
    lab.check_buffers();
}

#[test]
fn without_a_peer_the_data_is_called_inconsistent_and_copied_at_the_next_connection() {
    for reset_bitmap in [true, false] {
        let mut lab = Lab::running("C");
        lab.disconnect(1).expect("the Primary agrees");
        lab.write(0, 3, 1);
        lab.nodes[0].sent.clear();
        lab.ask(1, invalidate(reset_bitmap)).expect("a Secondary on its own");
        assert_eq!(lab.disk(1), DiskState::Inconsistent);
        assert_eq!(lab.nodes[1].kept().flags & device_flag::CONSISTENT, 0, "kept when it is answered");
        assert_eq!(lab.out_of_sync(1).len() as u64, if reset_bitmap { BLOCKS } else { 0 });
        lab.begin_connect(1);
        lab.wait("in sync", Lab::is_in_sync);
        assert_eq!(copied(&lab, 0), if reset_bitmap { BLOCKS } else { 1 });
        lab.check_alike();
    }
}

#[test]
fn a_primary_without_peer_keeps_its_data_and_may_give_up_the_peers() {
    let mut lab = Lab::running("C");
    lab.cut();
    assert_eq!(refused(&mut lab, 0, invalidate(true)), Reason::NoUpToDateDisk);
    assert_eq!(refused(&mut lab, 1, invalidate_remote(1, true)), Reason::NeedConnection);
    corrupt(&mut lab, 1, 9);
    lab.nodes[0].sent.clear();
    lab.ask(0, invalidate_remote(0, true)).expect("a Primary");
    assert_eq!(lab.out_of_sync(0).len() as u64, BLOCKS);
    lab.mend();
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(copied(&lab, 0), BLOCKS);
    lab.check_alike();
}

#[test]
fn of_two_nodes_that_invalidate_themselves_at_once_one_keeps_the_data() {
    let mut lab = Lab::running("C");
    lab.write(0, 5, 5);
    lab.hold_packets(0);
    lab.hold_packets(1);
    let tickets = [0, 1].map(|n| lab.begin(n, invalidate(true)));
    lab.let_packets_go(0);
    lab.let_packets_go(1);
    lab.wait("in sync", Lab::is_in_sync);
    let granted = [0, 1].map(|n| lab.nodes[n].replies[&tickets[n]].is_ok());
    assert_eq!(granted.iter().filter(|&&ok| ok).count(), 1, "{granted:?}");
    assert_eq!(lab.nodes[1].disk[&5], 5);
    lab.check_alike();
}

// ---- lost in between ---------------------------------------------------------------------------------------------

/// Asks for a full sync of node 1, whose data is bad, while disks and network come and go. What was answered is done.
fn broken_full_sync(seed: u64) {
    let options = || net(&[("protocol", "C"), ("connect-int", "1"), ("ping-int", "1")]);
    let mut lab = Lab::with([options(), options()], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    let mut random = Random::new(seed);
    if random.below(2) == 0 {
        lab.secondary(0).expect("nobody has it open");
    }
    corrupt(&mut lab, 1, 9);
    for n in 0..2 {
        match random.below(4) {
            0 => lab.hold(n, |op| matches!(op, Pending::Meta(..))),
            1 => lab.hold(n, |_| true),
            _ => {}
        }
    }
    let asker = random.below(2) as usize;
    let request = if asker == 1 { invalidate(true) } else { invalidate_remote(0, true) };
    let ticket = lab.begin(asker, request);
    for _ in 0..random.below(20) {
        let n = random.below(2) as usize;
        match random.below(7) {
            0 => lab.hold_packets(n),
            1 => lab.let_packets_go(n),
            2 if !lab.nodes[n].pending.is_empty() => lab.let_one_go(n, IoResult::Done),
            3 => {
                lab.write(0, random.below(BLOCKS), 7);
            }
            4 if random.below(3) == 0 => break,
            _ => lab.pass_ms(random.below(300)),
        }
    }
    lab.cut();
    if random.below(2) == 0 {
        let n = random.below(2) as usize;
        lab.let_go(1 - n);
        let answered = lab.nodes[asker].replies.get(&ticket).cloned();
        lab.crash(n);
        if n == asker {
            // Nobody is there any more to be answered.
            lab.nodes[n].replies.extend(answered.map(|a| (ticket, a)));
        }
        let request = lab.nodes[n].attach_request(true, false);
        lab.ask(n, AdminRequest::Attach(request)).expect("a disk that was in use");
        lab.begin_connect(n);
    }
    for n in 0..2 {
        lab.let_go(n);
        lab.let_packets_go(n);
    }
    lab.mend();
    if lab.role(0) != crate::states::Role::Primary && lab.disk(0) != DiskState::Inconsistent {
        lab.wait("together again", |lab| lab.is_replicating(0) && lab.is_replicating(1));
    }
    lab.wait("an end", |lab| (0..2).all(|n| lab.replication(n) == ReplicationState::Established));
    if lab.nodes[asker].replies.get(&ticket) == Some(&Ok(())) {
        lab.wait("in sync", Lab::is_in_sync);
        lab.check_alike();
    }
}

#[test]
fn a_full_sync_that_was_answered_is_done_whatever_breaks() {
    for seed in 0..80 {
        let outcome = std::panic::catch_unwind(|| broken_full_sync(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

// ---- holding -----------------------------------------------------------------------------------------------------

fn held(lab: &Lab, n: usize) -> String {
    lab.nodes[n].engine.snapshot(Some(0)).resync_suspended.to_string()
}

#[test]
fn a_resync_is_held_while_one_of_the_two_holds_it() {
    for holder in 0..2 {
        let mut lab = Lab::running("C");
        lab.cut();
        for n in 0..512 {
            lab.write(0, n * 8, 1);
        }
        lab.ask(holder, hold_sync(holder, true)).expect("it was not held");
        assert_eq!(refused(&mut lab, holder, hold_sync(holder, true)), Reason::PauseIsSet);
        lab.mend();
        let paused = [ReplicationState::PausedSyncS, ReplicationState::PausedSyncT];
        lab.wait("a held resync", |lab| [lab.replication(0), lab.replication(1)] == paused);
        lab.pass_ms(30_000);
        assert_eq!(copied(&lab, 0), BLOCKS, "only the first sync");
        assert_eq!((held(&lab, holder), held(&lab, 1 - holder)), ("user".to_owned(), "peer".to_owned()));
        assert_eq!(refused(&mut lab, 1 - holder, hold_sync(1 - holder, false)), Reason::PausedByPeer);
        lab.ask(1 - holder, hold_sync(1 - holder, true)).expect("it was not held here");
        assert_eq!(held(&lab, holder), "user,peer");
        lab.ask(holder, hold_sync(holder, false)).expect("it was held");
        lab.pass_ms(5_000);
        assert_eq!(lab.replication(1), ReplicationState::PausedSyncT);
        let tag = lab.write(0, 8, 9);
        lab.ask(1 - holder, hold_sync(1 - holder, false)).expect("it was held here");
        lab.wait("in sync", Lab::is_in_sync);
        assert!(lab.is_done(0, tag));
        assert_eq!(refused(&mut lab, holder, hold_sync(holder, false)), Reason::PauseIsClear);
        lab.check_alike();
    }
}

#[test]
fn a_running_resync_is_held_and_goes_on() {
    let mut lab = Lab::running("C");
    lab.hold(1, Pending::is_write);
    lab.ask(1, invalidate(true)).expect("the peer has good data");
    lab.wait("requests", |lab| !lab.nodes[1].pending.is_empty());
    lab.ask(0, hold_sync(0, true)).expect("it runs");
    assert_eq!(lab.replication(1), ReplicationState::PausedSyncT);
    lab.let_go(1);
    lab.pass_ms(10_000);
    let before = copied(&lab, 0);
    lab.pass_ms(10_000);
    assert_eq!(copied(&lab, 0), before, "nothing is asked for while it is held");
    let status = lab.nodes[1].engine.status();
    let resync = status.connections[0].peer_devices[0].resync.clone().expect("it is not over");
    assert!(resync.paused_ms >= 20_000 && resync.elapsed_ms < 5_000, "{resync:?}");
    lab.ask(0, hold_sync(0, false)).expect("it was held");
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

// ---- outdate -----------------------------------------------------------------------------------------------------

#[test]
fn outdated_data_are_not_promoted_until_they_were_compared() {
    let mut lab = Lab::running("C");
    let outdate = || AdminRequest::Outdate { volume: VOLUME };
    lab.ask(1, outdate()).expect("nothing to do");
    assert_eq!(lab.disk(1), DiskState::UpToDate, "connected data are as good as the peer's");
    lab.disconnect(1).expect("the Primary agrees");
    lab.ask(1, outdate()).expect("a Secondary on its own");
    assert_eq!(lab.disk(1), DiskState::Outdated);
    assert_eq!(lab.nodes[1].kept().flags & device_flag::WAS_UP_TO_DATE, 0, "kept when it is answered");
    assert_eq!(lab.primary(1, false), Err(Reason::NoUpToDateDisk));
    assert_eq!(refused(&mut lab, 0, outdate()), Reason::NoUpToDateDisk, "a Primary needs its data");
    lab.begin_connect(1);
    lab.wait("in sync", Lab::is_in_sync);
    lab.disconnect(1).expect("the Primary agrees");
    lab.detach(1).expect("nobody uses it");
    assert_eq!(refused(&mut lab, 1, outdate()), Reason::LowerThanOutdated);
    lab.check_buffers();
}

/// Before the nodes have compared what they have nobody knows what it is worth. Told to be Outdated then, it would count as
/// UpToDate at once, for it is connected to good data.
#[test]
fn a_disk_that_is_being_attached_is_not_outdated() {
    let mut lab = Lab::running("C");
    lab.detach(1).expect("the Primary has good data");
    lab.write(0, 3, 33);
    lab.hold_packets(0);
    lab.nodes[1].disk_closed = false;
    let request = lab.nodes[1].attach_request(true, false);
    lab.begin(1, AdminRequest::Attach(request));
    assert_eq!(lab.disk(1), DiskState::Negotiating);
    let ticket = lab.begin(1, AdminRequest::Outdate { volume: VOLUME });
    assert_eq!(lab.disk(1), DiskState::Negotiating);
    let refused = lab.nodes[1].replies[&ticket].as_ref().map_err(|r| r.reason);
    assert_eq!(refused, Err(Reason::LowerThanOutdated));
    lab.let_packets_go(0);
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(lab.nodes[1].disk.get(&3), Some(&33));
    lab.check_alike();
}

// ---- new-current-uuid --------------------------------------------------------------------------------------------

fn new_uuid(clear_bitmap: bool) -> AdminRequest {
    AdminRequest::NewCurrentUuid { volume: VOLUME, clear_bitmap }
}

#[test]
fn the_first_sync_can_be_skipped() {
    for n in 0..2 {
        for format in [Format::V08, Format::V09] {
            let mut lab = Lab::with([net(&[]), net(&[])], format);
            lab.connect();
            assert_eq!(refused(&mut lab, n, new_uuid(false)), Reason::NeedStandalone);
            lab.ask(n, new_uuid(true)).expect("both were just made");
            lab.wait("in sync", Lab::is_in_sync);
            assert_eq!(copied(&lab, 0) + copied(&lab, 1), 0);
            let (a, b) = (lab.nodes[0].kept(), lab.nodes[1].kept());
            assert_eq!(a.current_uuid & !1, b.current_uuid & !1);
            assert!(a.flags & b.flags & device_flag::WAS_UP_TO_DATE != 0);
            assert_eq!(refused(&mut lab, n, new_uuid(true)), Reason::NeedStandalone, "only once");
            // And from here on it is a cluster like any other.
            lab.primary(1 - n, false).expect("UpToDate");
            lab.cut();
            lab.write(1 - n, 3, 1);
            lab.mend();
            lab.wait("in sync", Lab::is_in_sync);
            assert_eq!(copied(&lab, 1 - n), 1);
            lab.check_alike();
        }
    }
}

#[test]
fn a_skipped_first_sync_that_only_one_node_remembers_is_made_up_for() {
    for loser in 0..2 {
        let mut lab = Lab::with([net(&[]), net(&[])], Format::V09);
        lab.connect();
        lab.hold(loser, |op| matches!(op, Pending::Meta(..)));
        lab.begin(0, new_uuid(true));
        lab.wait("both agree", |lab| (0..2).all(|n| lab.disk(n) == DiskState::UpToDate));
        lab.crash(loser);
        lab.attach(loser).expect("as it was made");
        assert_eq!(lab.disk(loser), DiskState::Inconsistent);
        lab.begin_connect(loser);
        lab.wait("in sync", Lab::is_in_sync);
        assert_eq!(copied(&lab, 1 - loser), BLOCKS);
        lab.check_alike();
    }
}

#[test]
fn a_lone_node_begins_a_generation() {
    let mut lab = Lab::running("C");
    lab.disconnect(1).expect("the Primary agrees");
    let before = lab.nodes[1].kept();
    lab.ask(1, new_uuid(false)).expect("it is on its own");
    let after = lab.nodes[1].kept();
    assert_eq!(after.peers[0].bitmap_uuid & !1, before.current_uuid & !1);
    assert_ne!(after.current_uuid & !1, before.current_uuid & !1);
    lab.begin_connect(1);
    lab.wait("split brain", |lab| lab.connection(1) == ConnectionState::StandAlone);
    lab.detach(1).expect("nobody uses it");
    assert_eq!(refused(&mut lab, 1, new_uuid(false)), Reason::NoDisk);
}

#[test]
fn marks_are_forgotten_only_when_asked() {
    for clear in [false, true] {
        let mut lab = Lab::running("C");
        lab.disconnect(0).expect("the peer agrees");
        lab.write(0, 3, 1);
        lab.ask(0, new_uuid(clear)).expect("it is on its own");
        assert_eq!(lab.out_of_sync(0).is_empty(), clear);
    }
}
