//! Online verify and resync by checksums: what is found, what is not taken for different, and what breaks off.

use super::lab::Lab;
use super::node::{net, options, Pending, SECTORS, VOLUME};
use crate::config::PeerDeviceOptions;
use crate::engine::random::Random;
use crate::engine::{AdminRequest, IoResult};
use crate::ids::NodeId;
use crate::metadata::Format;
use crate::refusal::Reason;
use crate::states::{DiskState, ReplicationState, Role};
use crate::wire::Packet;

const BLOCKS: u64 = SECTORS / 8;
/// Where most verifies begin, to be done sooner.
const START: u64 = BLOCKS - 1000;

fn lab_with(pairs: &[(&str, &str)]) -> Lab {
    in_sync(Lab::with([net(pairs), net(pairs)], Format::V09))
}

fn in_sync(mut lab: Lab) -> Lab {
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    lab.nodes.iter_mut().for_each(|node| node.sent.clear());
    lab
}

fn verifying_lab(protocol: &str) -> Lab {
    lab_with(&[("protocol", protocol), ("verify-alg", "sha1"), ("connect-int", "1"), ("ping-int", "1")])
}

fn verify(n: usize, start: Option<u64>, stop: Option<u64>) -> AdminRequest {
    AdminRequest::Verify { peer: NodeId(1 - n as u8), volume: VOLUME, start, stop }
}

fn corrupt(lab: &mut Lab, n: usize, blocks: &[u64]) {
    lab.nodes[n].disk.extend(blocks.iter().map(|&block| (block, 666)));
}

fn refused(lab: &mut Lab, n: usize, request: AdminRequest) -> Reason {
    lab.ask(n, request).expect_err("refused").reason
}

fn is_over(lab: &Lab) -> bool {
    (0..2).all(|n| lab.replication(n) == ReplicationState::Established)
}

/// Blocks this node asked the digest of.
fn asked(lab: &Lab, n: usize) -> Vec<u64> {
    let block = |p: &Packet| if let Packet::OvRequest(block) = p { Some(block.sector.0 / 8) } else { None };
    lab.nodes[n].sent.iter().filter_map(block).collect()
}

fn says(lab: &Lab, n: usize, text: &str) -> bool {
    lab.nodes[n].log_lines.iter().any(|line| line.contains(text))
}

#[test]
fn a_verify_marks_what_differs_on_both_nodes() {
    for n in 0..2 {
        let mut lab = verifying_lab("C");
        lab.write(0, 4, 4);
        lab.pass_ms(100);
        let bad = [START + 5, START + 6, START + 7, START + 500, BLOCKS - 1];
        corrupt(&mut lab, 1, &bad);
        lab.nodes.iter_mut().for_each(|node| node.handlers.clear());
        lab.ask(n, verify(n, Some(START * 8), None)).expect("both are UpToDate");
        lab.wait("an end", is_over);
        lab.pass_ms(2000);
        assert_eq!(asked(&lab, n), (START..BLOCKS).collect::<Vec<_>>());
        for node in 0..2 {
            assert_eq!(lab.out_of_sync(node), bad);
            assert!(says(&lab, node, "Online verify found 5 4k block out of sync!"));
            assert!(says(&lab, node, &format!("Out of sync: start={}, size=24 (sectors)", (START + 5) * 8)));
            assert_eq!(lab.nodes[node].handlers, ["out-of-sync"]);
            assert_eq!(lab.disk(node), DiskState::UpToDate);
        }
        lab.check_buffers();
        // Nothing is copied until the two meet again.
        lab.disconnect(1).expect("the Primary agrees");
        lab.begin_connect(1);
        lab.wait("in sync", Lab::is_in_sync);
        lab.check_alike_where_written();
    }
}

#[test]
fn a_verify_that_finds_nothing_says_nothing() {
    let mut lab = verifying_lab("C");
    lab.ask(1, verify(1, Some(START * 8), None)).expect("both are UpToDate");
    lab.wait("an end", is_over);
    assert!(says(&lab, 1, "Online verify done") && !says(&lab, 1, "out of sync!"));
    lab.check_alike();
}

#[test]
fn a_verify_covers_what_it_was_asked_for_and_goes_on_where_it_stopped() {
    let mut lab = verifying_lab("C");
    corrupt(&mut lab, 1, &[START + 10, START + 20, START + 30]);
    lab.ask(0, verify(0, Some((START + 11) * 8 + 3), Some((START + 29) * 8))).expect("both are UpToDate");
    lab.wait("an end", is_over);
    assert_eq!(asked(&lab, 0), (START + 11..START + 29).collect::<Vec<_>>());
    assert_eq!(lab.out_of_sync(0), [START + 20]);
    assert_eq!(lab.out_of_sync(1), [START + 20]);
    lab.nodes[0].sent.clear();
    lab.ask(0, verify(0, None, None)).expect("both are UpToDate");
    lab.wait("an end", is_over);
    assert_eq!(asked(&lab, 0), (START + 29..BLOCKS).collect::<Vec<_>>());
    lab.nodes[0].sent.clear();
    lab.ask(0, verify(0, Some(SECTORS + 100), None)).expect("the last block");
    lab.wait("an end", is_over);
    assert_eq!(asked(&lab, 0), [BLOCKS - 1]);
    let refusal = lab.ask(0, verify(0, Some(80), Some(80))).expect_err("nothing to do");
    assert_eq!(refusal.reason, Reason::InvalidRequest);
}

#[test]
fn a_verify_is_refused_where_it_makes_no_sense() {
    let mut lab = Lab::running("C");
    assert_eq!(lab.ask(0, verify(0, None, None)).expect_err("refused").reason, Reason::NoVerifyAlg);
    let mut lab = verifying_lab("C");
    lab.hold(1, |op| !op.is_write());
    lab.ask(0, verify(0, Some(START * 8), None)).expect("both are UpToDate");
    for n in 0..2 {
        assert_eq!(lab.ask(n, verify(n, None, None)).expect_err("running").reason, Reason::ResyncRunning);
    }
    lab.let_go(1);
    lab.wait("an end", is_over);
    lab.detach(1).expect("the peer has the data");
    assert_eq!(lab.ask(1, verify(1, None, None)).expect_err("no disk").reason, Reason::IsDiskless);
    assert_eq!(lab.ask(0, verify(0, None, None)).expect_err("no disk").reason, Reason::NoRemoteDisk);
    lab.disconnect(1).expect("the peer agrees");
    assert_eq!(lab.ask(1, verify(1, None, None)).expect_err("alone").reason, Reason::NeedConnection);
}

#[test]
fn a_verify_that_breaks_off_goes_on_where_it_was() {
    let mut lab = verifying_lab("C");
    corrupt(&mut lab, 1, &[START + 3]);
    lab.hold(1, |op| !op.is_write());
    lab.ask(0, verify(0, Some(START * 8), None)).expect("both are UpToDate");
    for _ in 0..100 {
        lab.let_one_go(1, IoResult::Done);
    }
    lab.disconnect(1).expect("the Primary agrees");
    lab.let_go(1);
    assert!(says(&lab, 0, "Online Verify reached sector"));
    assert_eq!(lab.out_of_sync(0), [START + 3]);
    lab.begin_connect(1);
    lab.wait("in sync", |lab| lab.is_replicating(0) && is_over(lab));
    lab.nodes[0].sent.clear();
    lab.ask(0, verify(0, None, None)).expect("both are UpToDate");
    lab.wait("an end", is_over);
    let asked = asked(&lab, 0);
    assert!(asked[0] > START + 50 && asked[0] <= START + 100, "{}", asked[0]);
    lab.check_buffers();
}

#[test]
fn a_disk_that_fails_ends_the_verify() {
    for n in 0..2 {
        let mut lab = verifying_lab("C");
        lab.hold(n, |op| !op.is_write());
        lab.ask(0, verify(0, None, None)).expect("both are UpToDate");
        lab.let_one_go(n, IoResult::Failed(5));
        lab.let_go(n);
        lab.wait("an end", is_over);
        assert_eq!(lab.disk(n), DiskState::Diskless);
        lab.check_buffers();
    }
}

/// An old peer does not say that it is done: blocks that could not be read are counted, too.
#[test]
fn a_verify_with_an_old_peer_ends_though_blocks_are_unreadable() {
    for (version, failures) in [(96, 1), (100, 1), (96, 8), (110, 8)] {
        let pairs = [("verify-alg", "sha1"), ("ping-int", "1")];
        let mut lab = Lab::with([net(&pairs), net(&pairs)], Format::V09);
        lab.nodes[1].engine.cap_protocol(version);
        let mut lab = in_sync(lab);
        lab.disk_options(1, &[("on-io-error", "pass_on")]);
        lab.hold(1, Pending::is_read);
        lab.ask(0, verify(0, Some(SECTORS - 64), None)).expect("both are UpToDate");
        // No digest is known yet whose size one without data could have.
        for _ in 0..failures {
            lab.let_one_go(1, IoResult::Failed(5));
        }
        lab.let_go(1);
        lab.wait("an end", is_over);
        assert!((0..2).all(|n| says(&lab, n, "Online verify done")), "version {version}");
        assert_eq!((lab.disk(1), lab.out_of_sync(0).len()), (DiskState::UpToDate, 0));
        lab.check_buffers();
    }
}

/// Writes on the Primary while everything is verified: nothing may seem to differ.
fn verified_under_load(protocol: &str, seed: u64) {
    let mut lab = verifying_lab(protocol);
    let mut random = Random::new(seed);
    let verifier = random.below(2) as usize;
    for content in 1..60 {
        lab.write(0, BLOCKS - 600 + random.below(600), content);
    }
    lab.ask(verifier, verify(verifier, Some((BLOCKS - 600) * 8), None)).expect("both are UpToDate");
    let mut tags = Vec::new();
    for content in 100..400 {
        let n = random.below(2) as usize;
        match random.below(12) {
            0..=5 => tags.push(lab.write(0, BLOCKS - random.below(600) - 1, content)),
            6 => lab.hold(n, Pending::is_write),
            7 => lab.hold(n, |_| true),
            8 => {
                lab.let_go(n);
                lab.let_packets_go(n);
                lab.let_block_digests_go();
            }
            9 => lab.hold_packets(n),
            10 => lab.hold_digests = true,
            _ if !lab.nodes[n].pending.is_empty() => lab.let_one_go(n, IoResult::Done),
            _ => lab.pass_ms(random.below(150)),
        }
    }
    lab.let_block_digests_go();
    for n in 0..2 {
        lab.let_go(n);
        lab.let_packets_go(n);
    }
    lab.wait("an end", is_over);
    assert!(tags.iter().all(|&tag| lab.is_done(0, tag)));
    assert!(!says(&lab, verifier, "Out of sync"), "a write was taken for a difference");
    lab.check_alike();
}

#[test]
fn writes_during_a_verify_are_no_differences() {
    for seed in 0..12 {
        for protocol in ["A", "B", "C"] {
            let outcome = std::panic::catch_unwind(|| verified_under_load(protocol, seed));
            assert!(outcome.is_ok(), "protocol {protocol}, seed {seed}");
        }
    }
}

#[test]
fn a_verify_is_seen_in_the_status() {
    let mut lab = verifying_lab("C");
    lab.hold(1, |op| !op.is_write());
    lab.ask(0, verify(0, Some(8 * 1000), None)).expect("both are UpToDate");
    for n in 0..2 {
        let status = lab.nodes[n].engine.status();
        let run = status.connections[0].peer_devices[0].resync.clone().expect("it runs");
        let verify = run.verify.expect("it is a verify");
        assert_eq!((run.total, verify.start_sector, verify.stop_sector), ((BLOCKS - 1000) * 4, 8000, None));
    }
    lab.let_go(1);
    lab.wait("an end", is_over);
    assert_eq!(lab.nodes[0].engine.status().connections[0].peer_devices[0].resync, None);
}

// ---- by checksum -------------------------------------------------------------------------------------------------

/// Blocks the source sent in answer to resync requests.
fn copied(lab: &Lab, source: usize) -> u64 {
    let bytes = |p: &Packet| if let Packet::RsDataReply(data) = p { u64::from(data.bytes) } else { 0 };
    lab.nodes[source].sent.iter().map(bytes).sum::<u64>() / 4096
}

#[test]
fn a_resync_by_checksums_copies_only_what_differs() {
    let mut lab = lab_with(&[("protocol", "C"), ("csums-alg", "sha1")]);
    lab.write(0, 4, 4);
    corrupt(&mut lab, 1, &[9]);
    let all = AdminRequest::Invalidate { volume: VOLUME, reset_bitmap: true };
    lab.ask(1, all).expect("the peer has good data");
    lab.wait("in sync", Lab::is_in_sync);
    assert!(copied(&lab, 0) <= 32, "{} blocks, the request with the difference", copied(&lab, 0));
    assert!(says(&lab, 1, "% had equal checksums, eliminated:"));
    let last = lab.nodes[1].engine.status().connections[0].peer_devices[0].last_resync.clone();
    assert!(last.expect("one").copied <= 128);
    lab.check_alike_where_written();
}

#[test]
fn checksums_can_be_kept_for_crashes() {
    let options = [("protocol", "C"), ("csums-alg", "sha1"), ("csums-after-crash-only", "yes")];
    let mut lab = lab_with(&options);
    lab.ask(1, AdminRequest::Invalidate { volume: VOLUME, reset_bitmap: true }).expect("good data");
    lab.wait("in sync", Lab::is_in_sync);
    assert_eq!(copied(&lab, 0), BLOCKS);
    assert_eq!(lab.role(0), Role::Primary);
}

fn resynced_by_checksums(seed: u64) {
    let mut lab =
        lab_with(&[("protocol", "C"), ("csums-alg", "sha1"), ("connect-int", "1"), ("ping-int", "1")]);
    let mut random = Random::new(seed);
    lab.cut();
    for content in 1..80 {
        lab.write(0, random.below(200), content);
    }
    // Some of it is there already.
    let held: Vec<(u64, u32)> = lab.nodes[0].disk.iter().map(|(&b, &c)| (b, c)).collect();
    lab.nodes[1].disk.extend(held.into_iter().filter(|_| random.below(2) == 0));
    lab.mend();
    for content in 100..250 {
        let n = random.below(2) as usize;
        match random.below(12) {
            0..=3 => {
                lab.write(0, random.below(200), content);
            }
            4 => lab.hold(n, Pending::is_write),
            5 => lab.hold(n, |_| true),
            6 => {
                lab.let_go(n);
                lab.let_packets_go(n);
                lab.let_block_digests_go();
            }
            7 => lab.hold_packets(n),
            8 => lab.hold_digests = true,
            9 if random.below(8) == 0 => {
                lab.cut();
                lab.mend();
            }
            _ if !lab.nodes[n].pending.is_empty() => lab.let_one_go(n, IoResult::Done),
            _ => lab.pass_ms(random.below(400)),
        }
    }
    lab.let_block_digests_go();
    for n in 0..2 {
        lab.let_go(n);
        lab.let_packets_go(n);
    }
    lab.wait("in sync", Lab::is_in_sync);
    lab.check_alike();
}

#[test]
fn a_resync_by_checksums_under_load_ends_with_equal_disks() {
    for seed in 0..25 {
        let outcome = std::panic::catch_unwind(|| resynced_by_checksums(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// How many blocks a verify has under way at once, at most, where each digest takes a millisecond.
fn most_under_way(lab: &mut Lab, milliseconds: u32, writes: bool) -> usize {
    lab.hold_digests = true;
    lab.ask(0, verify(0, Some(0), None)).expect("both are UpToDate");
    let mut most = 0;
    for n in 0..milliseconds {
        if writes {
            // Far from where the verify is.
            lab.write(0, BLOCKS - 1 - u64::from(n) % 7, n);
        }
        let open = lab.nodes[0].engine.connection.as_ref().expect("a peer").peer_devices[0].verify.as_ref();
        most = most.max(open.map_or(0, |verify| verify.open_blocks()));
        lab.pass_ms(1);
        lab.let_some_block_digests_go();
    }
    lab.let_block_digests_go();
    most
}

#[test]
fn a_verify_yields_to_the_application() {
    let mut lab = verifying_lab("C");
    let alone = most_under_way(&mut lab, 50, false);
    assert!(alone > 100, "{alone} blocks fill no link");

    let mut lab = verifying_lab("C");
    lab.write(0, BLOCKS - 1, 9);
    let beside = most_under_way(&mut lab, 5, true);
    assert!((1..=8).contains(&beside), "{beside} blocks under way beside an application");
    lab.wait("an end", is_over);
    assert!(lab.out_of_sync(0).is_empty());

    let mut lab = verifying_lab("C");
    let options = PeerDeviceOptions::from(&options(&[("c-min-rate", "0")]));
    lab.ask(0, AdminRequest::PeerDeviceOptions { peer: NodeId(1), volume: VOLUME, options })
        .expect("an option");
    lab.write(0, BLOCKS - 1, 9);
    let never = most_under_way(&mut lab, 50, true);
    assert!(never > 100, "{never}: with c-min-rate 0 it never yields");
}

#[test]
fn a_verify_keeps_the_rate_that_is_configured() {
    for (pairs, blocks_per_s) in [
        (&[("c-max-rate", "4096")][..], 1024),
        (&[("c-plan-ahead", "0"), ("resync-rate", "2048")], 512),
        (&[("c-plan-ahead", "0"), ("resync-rate", "2048"), ("c-max-rate", "1024")], 512),
    ] {
        let mut lab = verifying_lab("C");
        let options = PeerDeviceOptions::from(&options(pairs));
        lab.ask(0, AdminRequest::PeerDeviceOptions { peer: NodeId(1), volume: VOLUME, options })
            .expect("an option");
        lab.nodes[0].sent.clear();
        lab.ask(0, verify(0, Some(0), None)).expect("both are UpToDate");
        lab.pass_ms(5000);
        let blocks = asked(&lab, 0).len();
        let most = 5 * blocks_per_s + blocks_per_s / 10;
        assert!((most * 9 / 10..=most).contains(&blocks), "{blocks} blocks in 5 s with {pairs:?}");
    }
}

#[test]
fn other_algorithms_are_taken_over_by_the_peer() {
    let mut lab = verifying_lab("C");
    let other = |verify: &str| {
        let pairs = [("verify-alg", verify), ("csums-alg", "md5"), ("connect-int", "1"), ("ping-int", "1")];
        AdminRequest::NetOptions { peer: NodeId(1), options: net(&pairs) }
    };
    lab.ask(0, other("sha256")).expect("nothing is compared now");
    for node in &lab.nodes {
        let options = &node.engine.connection.as_ref().expect("a peer").options;
        assert_eq!((options.verify_alg.as_str(), options.csums_alg.as_str()), ("sha256", "md5"));
    }
    lab.hold_digests = true;
    lab.ask(0, verify(0, Some(START * 8), None)).expect("both are UpToDate");
    assert_eq!(refused(&mut lab, 0, other("sha1")), Reason::VerifyRunning);
    lab.let_block_digests_go();
    lab.wait("an end", is_over);
    lab.ask(0, AdminRequest::Disconnect { peer: NodeId(1), force: false }).expect("no fencing");
    lab.begin_connect(0);
    lab.wait("they agree", Lab::is_in_sync);
}

#[test]
fn changed_rates_are_told_to_the_peer() {
    let mut lab = verifying_lab("C");
    let options = PeerDeviceOptions::from(&options(&[("c-max-rate", "4096"), ("resync-rate", "300")]));
    lab.nodes[0].sent.clear();
    lab.ask(0, AdminRequest::PeerDeviceOptions { peer: NodeId(1), volume: VOLUME, options })
        .expect("an option");
    let told = |p: &Packet| matches!(p, Packet::SyncParam(p) if (p.c_max_rate, p.resync_rate) == (4096, 300));
    assert!(lab.nodes[0].sent.iter().any(told));
    assert!(lab.is_in_sync());
}
