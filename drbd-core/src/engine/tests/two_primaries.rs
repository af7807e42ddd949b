//! Both nodes are Primary and write: the seven cases of DRBD's roadmap one by one, what else may come between, and the
//! options; in every order and at random in `orders`.

use super::lab::Lab;
use super::node::{net, Pending};
use crate::engine::{AdminRequest, Event, IoResult};
use crate::ids::{NodeId, PayloadId, VolumeNumber};
use crate::metadata::Format;
use crate::refusal::Reason;
use crate::states::{ConnectionState, Role};
use crate::wire::{Frame, Packet, Settings, Stream};

mod orders;

fn allowed() -> [crate::config::NetOptions; 2] {
    [0, 1].map(|_| net(&[("allow-two-primaries", "yes")]))
}

/// Disks in sync, for labs that begin there.
fn synced() -> Lab {
    let mut lab = Lab::running("C");
    lab.secondary(0).expect("nobody has it open");
    for n in 0..2 {
        lab.ask(n, AdminRequest::Down).expect("nobody has it open");
    }
    lab
}

fn both_primary_on(disks: &Lab) -> Lab {
    let mut lab = Lab::with_disks_of(disks, allowed());
    lab.connect();
    for n in 0..2 {
        lab.primary(n, false).expect("two are allowed");
    }
    lab.pass_ms(100);
    lab.nodes.iter_mut().for_each(|node| node.sent.clear());
    lab
}

fn both_primary() -> Lab {
    both_primary_on(&synced())
}

/// The node that decides about concurrent writes.
fn decider(lab: &Lab) -> usize {
    let flags = [0, 1].map(|n| {
        lab.nodes[n]
            .engine
            .connection
            .as_ref()
            .and_then(|c| c.session())
            .expect("a session")
            .resolve_conflicts
    });
    assert_ne!(flags[0], flags[1], "one node decides");
    usize::from(flags[1])
}

fn hold_all(lab: &mut Lab) {
    for n in 0..2 {
        lab.hold(n, Pending::is_write);
        lab.hold_packets(n);
    }
}

fn let_all_go(lab: &mut Lab) {
    for _ in 0..50 {
        for n in 0..2 {
            while lab.has_packet(n, Stream::Data) {
                lab.let_packet_go(n, Stream::Data);
            }
            while lab.has_packet(n, Stream::Control) {
                lab.let_packet_go(n, Stream::Control);
            }
            while !lab.nodes[n].pending.is_empty() {
                lab.let_one_go(n, IoResult::Done);
            }
        }
    }
    for n in 0..2 {
        lab.let_packets_go(n);
        lab.let_go(n);
    }
    lab.pass_ms(1000);
}

fn sent(lab: &Lab, n: usize, what: fn(&Packet) -> bool) -> usize {
    lab.nodes[n].sent.iter().filter(|p| what(p)).count()
}

fn warnings(lab: &Lab, n: usize) -> usize {
    lab.nodes[n].log_lines.iter().filter(|l| l.contains("Concurrent writes detected: local=")).count()
}

fn content(lab: &Lab, block: u64) -> u32 {
    lab.check_alike();
    lab.nodes[0].disk.get(&block).copied().unwrap_or(0)
}

// ---- the seven cases ---------------------------------------------------------------------------------------------

#[test]
fn case_1_basic_mirroring_with_protocol_c() {
    let mut lab = both_primary();
    let decider = decider(&lab);
    for (n, value) in [(decider, 1), (1 - decider, 2)] {
        hold_all(&mut lab);
        let tag = lab.write(n, 7, value);
        lab.let_packet_go(n, Stream::Data);
        lab.let_one_go(n, IoResult::Done);
        lab.let_one_go(1 - n, IoResult::Done);
        assert_eq!(lab.result(n, tag), None, "not acknowledged");
        lab.let_packet_go(1 - n, Stream::Control);
        assert!(lab.is_done(n, tag));
        let_all_go(&mut lab);
        assert_eq!(content(&lab, 7), value);
    }
    assert_eq!(warnings(&lab, 0) + warnings(&lab, 1), 0);
}

#[test]
fn case_2_concurrent_writes_the_network_is_faster_than_the_disks() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    let tags = [lab.write(decider, 7, 11), lab.write(other, 7, 22)];
    lab.let_packet_go(decider, Stream::Data);
    lab.let_packet_go(other, Stream::Data);
    let answer = lab.let_packet_go(decider, Stream::Control);
    assert!(matches!(answer, Packet::Superseded(_)), "{answer:?}");
    let_all_go(&mut lab);
    assert!(lab.is_done(decider, tags[0]) && lab.is_done(other, tags[1]));
    assert_eq!(content(&lab, 7), 22, "the write of the node that decides goes first");
    assert_eq!((warnings(&lab, decider), warnings(&lab, other)), (1, 1));
}

#[test]
fn case_3_concurrent_writes_the_data_of_the_other_node_is_slow() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    let tags = [lab.write(decider, 7, 11), lab.write(other, 7, 22)];
    lab.let_packet_go(decider, Stream::Data);
    lab.let_one_go(other, IoResult::Done);
    assert!(!lab.has_packet(other, Stream::Control), "no acknowledgement may overtake the conflicting data");
    assert!(lab.nodes[other].pending.is_empty(), "the other node waits for the decision");
    let_all_go(&mut lab);
    assert!(lab.is_done(decider, tags[0]) && lab.is_done(other, tags[1]));
    assert_eq!(content(&lab, 7), 22);
}

#[test]
fn case_4_concurrent_writes_the_data_of_the_deciding_node_is_slow() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    let tags = [lab.write(decider, 7, 11), lab.write(other, 7, 22)];
    lab.let_packet_go(other, Stream::Data);
    lab.let_one_go(other, IoResult::Done);
    let answer = lab.let_packet_go(decider, Stream::Control);
    assert!(matches!(answer, Packet::Superseded(_)), "{answer:?}");
    assert_eq!(lab.result(other, tags[1]), None, "it is done again after the one it met");
    let_all_go(&mut lab);
    assert!(lab.is_done(decider, tags[0]) && lab.is_done(other, tags[1]));
    assert_eq!(content(&lab, 7), 22);
}

#[test]
fn case_5_a_new_write_while_one_of_the_peer_is_being_written() {
    let mut lab = both_primary();
    for n in 0..2 {
        hold_all(&mut lab);
        let first = lab.write(n, 7, 30 + n as u32);
        lab.let_packet_go(n, Stream::Data);
        let second = lab.write(1 - n, 7, 40 + n as u32);
        assert!(!lab.has_packet(1 - n, Stream::Data), "it waits for the one being written");
        let_all_go(&mut lab);
        assert!(lab.is_done(n, first) && lab.is_done(1 - n, second));
        assert_eq!(content(&lab, 7), 40 + n as u32);
    }
    assert_eq!(warnings(&lab, 0) + warnings(&lab, 1), 0, "the peer's write is known: nothing is concurrent");
}

#[test]
fn case_6_the_deciding_nodes_disk_is_slow() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    let first = lab.write(decider, 7, 11);
    lab.let_packet_go(decider, Stream::Data);
    lab.let_one_go(other, IoResult::Done);
    lab.let_packet_go(other, Stream::Control);
    // Acknowledged, and not yet on the own disk: a write that comes now is a later one.
    let second = lab.write(other, 7, 22);
    lab.let_packet_go(other, Stream::Data);
    assert!(!lab.has_packet(decider, Stream::Control), "it waits for the disk");
    assert_eq!(lab.nodes[decider].pending.len(), 1);
    let_all_go(&mut lab);
    assert!(lab.is_done(decider, first) && lab.is_done(other, second));
    assert_eq!(content(&lab, 7), 22);
}

#[test]
fn case_7_a_data_packet_overtakes_an_acknowledgement() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    let first = lab.write(decider, 7, 11);
    lab.let_packet_go(decider, Stream::Data);
    lab.let_one_go(other, IoResult::Done);
    lab.let_one_go(decider, IoResult::Done);
    let second = lab.write(other, 7, 22);
    lab.let_packet_go(other, Stream::Data);
    assert!(lab.nodes[decider].pending.is_empty(), "it waits for the acknowledgement sent before it");
    assert!(!lab.has_packet(decider, Stream::Control));
    lab.let_packet_go(other, Stream::Control);
    assert!(lab.is_done(decider, first));
    assert_eq!(lab.nodes[decider].pending.len(), 1);
    let_all_go(&mut lab);
    assert!(lab.is_done(other, second));
    assert_eq!(content(&lab, 7), 22);
}

#[test]
fn an_acknowledgement_that_never_comes_ends_the_session() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    lab.write(decider, 7, 11);
    lab.let_packet_go(decider, Stream::Data);
    lab.let_one_go(other, IoResult::Done);
    lab.write(other, 7, 22);
    lab.let_packet_go(other, Stream::Data);
    lab.pass_ms(600);
    assert!(!lab.is_replicating(decider));
    assert!(lab.last_error(decider).contains("missing ack packets"), "{}", lab.last_error(decider));
    let_all_go(&mut lab);
    lab.check_buffers();
}

// ---- overlapping in part -----------------------------------------------------------------------------------------

#[test]
fn a_write_that_is_not_covered_is_done_again() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    let tags = [lab.write_blocks(decider, 7, &[11, 12]), lab.write_blocks(other, 8, &[21, 22])];
    lab.let_packet_go(other, Stream::Data);
    let answer = lab.let_packet_go(decider, Stream::Control);
    assert!(matches!(answer, Packet::RetryWrite(_)), "{answer:?}");
    assert_eq!(lab.result(other, tags[1]), None);
    let_all_go(&mut lab);
    assert!(lab.is_done(decider, tags[0]) && lab.is_done(other, tags[1]));
    assert_eq!([7, 8, 9].map(|block| content(&lab, block)), [11, 21, 22]);
}

/// Demoted by force, a node still ends what its own disk had when the peer turned it away: of one generation the copies
/// have to be the same.
#[test]
fn a_write_that_was_turned_away_is_done_again_by_a_node_that_was_demoted() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    lab.open(other);
    hold_all(&mut lab);
    let tags = [lab.write_blocks(decider, 7, &[11, 12]), lab.write_blocks(other, 8, &[21, 22])];
    lab.let_packet_go(other, Stream::Data);
    let answer = lab.let_packet_go(decider, Stream::Control);
    assert!(matches!(answer, Packet::RetryWrite(_)), "{answer:?}");
    let demotion = lab.begin(other, AdminRequest::Secondary { force: true });
    let_all_go(&mut lab);
    lab.pass_ms(1000);
    assert!(lab.is_done(decider, tags[0]));
    assert!(lab.result(other, tags[1]).is_some() && !lab.is_done(other, tags[1]));
    assert_eq!(lab.role(other), Role::Secondary);
    assert!(lab.nodes[other].replies.contains_key(&demotion));
    assert!(lab.is_replicating(decider));
    lab.check_alike();
}

#[test]
fn concurrent_writes_are_warned_of_once() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    for value in 1..20 {
        hold_all(&mut lab);
        lab.write(decider, 7, value);
        lab.write(other, 7, 100 + value);
        let_all_go(&mut lab);
    }
    assert_eq!(warnings(&lab, decider), 1);
    lab.pass_ms(60_000);
    hold_all(&mut lab);
    lab.write(decider, 7, 1);
    lab.write(other, 7, 2);
    let_all_go(&mut lab);
    assert_eq!(warnings(&lab, decider), 2);
    let line = lab.nodes[decider].log_lines.iter().rfind(|l| l.contains("Concurrent")).cloned();
    assert!(line.is_some_and(|l| l.contains("(18 more before)")));
}

#[test]
fn a_flush_after_a_superseded_write_ends() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    lab.write(decider, 7, 11);
    lab.write(other, 7, 22);
    let flush = lab.flush(other);
    let_all_go(&mut lab);
    assert!(lab.is_done(other, flush));
    assert_eq!(sent(&lab, other, |p| matches!(p, Packet::Barrier(_))), 2);
    assert_eq!(
        sent(&lab, decider, |p| matches!(p, Packet::BarrierAck { .. })),
        1,
        "of the first epoch nothing is left; in the second the write came again"
    );
    assert_eq!(sent(&lab, other, |p| matches!(p, Packet::BarrierAck { .. })), 1);
}

#[test]
fn a_session_lost_in_the_middle_leaves_everything_marked() {
    let mut lab = both_primary();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    hold_all(&mut lab);
    let tags = [lab.write_blocks(decider, 7, &[11, 12]), lab.write_blocks(other, 8, &[21, 22])];
    lab.let_packet_go(other, Stream::Data);
    lab.let_packet_go(decider, Stream::Control);
    lab.cut();
    for n in 0..2 {
        lab.let_go(n);
    }
    assert!(lab.is_done(decider, tags[0]) && lab.is_done(other, tags[1]));
    assert_eq!(lab.out_of_sync(decider), [7, 8]);
    assert_eq!(lab.out_of_sync(other), [8, 9]);
    assert_eq!((lab.role(0), lab.role(1)), (Role::Primary, Role::Primary));
    lab.check_buffers();
}

// ---- roles and options -------------------------------------------------------------------------------------------

fn reason(result: Result<(), crate::refusal::Refusal>) -> i32 {
    result.map_or_else(|refusal| refusal.reason.number(), |()| 1)
}

fn change(lab: &mut Lab, n: usize, options: &[(&str, &str)]) -> i32 {
    let request = AdminRequest::NetOptions { peer: NodeId(1 - n as u8), options: net(options) };
    reason(lab.ask(n, request))
}

#[test]
fn a_second_primary_needs_the_option_on_both_nodes() {
    let mut lab = Lab::running("C");
    assert_eq!(lab.primary(1, false), Err(Reason::TwoPrimaries));
    assert_eq!(change(&mut lab, 0, &[("allow-two-primaries", "yes")]), 1);
    // The peer was told and follows.
    lab.primary(1, false).expect("two are allowed");
    assert_eq!((lab.role(0), lab.role(1)), (Role::Primary, Role::Primary));
    let tags = [lab.write(0, 3, 1), lab.write(1, 4, 2)];
    assert!(lab.is_done(0, tags[0]) && lab.is_done(1, tags[1]));
    lab.pass_ms(100);
    lab.check_alike();
}

#[test]
fn the_option_stays_while_both_are_primary() {
    let mut lab = both_primary();
    for n in 0..2 {
        assert_eq!(change(&mut lab, n, &[("allow-two-primaries", "no")]), 164);
    }
    lab.secondary(1).expect("nobody has it open");
    assert_eq!(change(&mut lab, 0, &[("allow-two-primaries", "no")]), 1);
    assert_eq!(lab.primary(1, false), Err(Reason::TwoPrimaries));
}

#[test]
fn two_primaries_need_protocol_c() {
    let mut lab = both_primary();
    for protocol in ["A", "B"] {
        let options = [("allow-two-primaries", "yes"), ("protocol", protocol)];
        assert_eq!(change(&mut lab, 0, &options), 139);
        assert_eq!(change(&mut lab, 0, &[("protocol", protocol)]), 164);
    }
}

#[test]
fn nodes_that_differ_in_the_option_do_not_connect() {
    let one = net(&[("allow-two-primaries", "yes")]);
    let mut lab = Lab::with([one, net(&[])], Format::V09);
    lab.begin_connect(0);
    lab.begin_connect(1);
    lab.wait("StandAlone", |lab| lab.connection(0) == ConnectionState::StandAlone);
    assert!(lab.last_error(0).contains("incompatible allow-two-primaries settings"), "{}", lab.last_error(0));
}

#[test]
fn both_become_primary_at_once() {
    let mut lab = Lab::with_disks_of(&synced(), allowed());
    lab.connect();
    lab.hold_packets(0);
    lab.hold_packets(1);
    let tickets = [0, 1].map(|n| lab.begin(n, AdminRequest::Primary { force: false }));
    lab.let_packets_go(0);
    lab.let_packets_go(1);
    lab.wait("two answers", |lab| (0..2).all(|n| lab.nodes[n].replies.contains_key(&tickets[n])));
    for (n, ticket) in tickets.iter().enumerate() {
        assert_eq!(reason(lab.nodes[n].replies[ticket].clone()), 1, "node {n}");
    }
    assert_eq!((lab.role(0), lab.role(1)), (Role::Primary, Role::Primary));
    lab.check_alike();
}

#[test]
fn a_primary_steps_down_while_the_other_goes_on_writing() {
    let mut lab = both_primary();
    for n in 0..2 {
        hold_all(&mut lab);
        let ours = lab.write_blocks(n, 7, &[1, 2]);
        let theirs = lab.write_blocks(1 - n, 8, &[3, 4]);
        let ticket = lab.begin(n, AdminRequest::Secondary { force: false });
        let_all_go(&mut lab);
        lab.wait("the answer", |lab| lab.nodes[n].replies.contains_key(&ticket));
        assert!(lab.is_done(n, ours) && lab.is_done(1 - n, theirs));
        assert_eq!((lab.role(n), lab.role(1 - n)), (Role::Secondary, Role::Primary));
        lab.check_alike();
        lab.primary(n, false).expect("two are allowed");
    }
}

#[test]
fn a_primary_that_crashed_follows_the_other_one() {
    let mut lab = both_primary();
    for n in 0..2 {
        lab.write(n, 7 + n as u64, 5);
    }
    hold_all(&mut lab);
    lab.write(0, 20, 66);
    lab.let_one_go(0, IoResult::Done);
    lab.let_packets_go(1);
    lab.let_go(1);
    lab.crash(0);
    lab.attach(0).expect("its own disk");
    let tag = lab.write(1, 21, 77);
    lab.begin_connect(0);
    lab.wait("in sync", |lab| lab.is_in_sync());
    assert!(lab.is_done(1, tag));
    lab.check_alike_where_written();
    assert_eq!((lab.role(0), lab.role(1)), (Role::Secondary, Role::Primary));
    lab.primary(0, false).expect("two are allowed");
}

#[test]
fn writes_from_before_the_option_do_not_stall_the_stream() {
    let mut lab = Lab::with_disks_of(&synced(), [net(&[]), net(&[])]);
    lab.connect();
    let (decider, other) = (decider(&lab), 1 - decider(&lab));
    lab.primary(other, false).expect("nobody else is");
    for value in 0..5 {
        lab.write(other, 7, value);
    }
    assert_eq!(change(&mut lab, other, &[("allow-two-primaries", "yes")]), 1);
    lab.primary(decider, false).expect("two are allowed");
    let tag = lab.write(other, 7, 6);
    assert!(lab.is_done(other, tag), "the numbers of those written before count");
    lab.pass_ms(100);
    assert_eq!(content(&lab, 7), 6);
}

#[test]
fn a_second_primary_waits_for_writes_from_before_the_option() {
    let mut lab = Lab::with_disks_of(&synced(), [net(&[]), net(&[])]);
    lab.connect();
    lab.primary(0, false).expect("nobody else is");
    lab.pass_ms(100);
    lab.hold_packets(0);
    let first = lab.write(0, 7, 11);
    assert_eq!(change(&mut lab, 1, &[("allow-two-primaries", "yes")]), 1);
    let ticket = lab.begin(1, AdminRequest::Primary { force: false });
    for _ in 0..3 {
        while lab.has_packet(0, Stream::Control) {
            lab.let_packet_go(0, Stream::Control);
        }
    }
    assert_eq!(lab.role(1), Role::Secondary, "its writes would not be told from later ones");
    lab.let_packets_go(0);
    lab.wait("the answer", |lab| lab.nodes[1].replies.contains_key(&ticket));
    assert_eq!(lab.role(1), Role::Primary);
    assert!(lab.is_done(0, first));
    let second = lab.write(1, 7, 22);
    assert!(lab.is_done(1, second));
    lab.pass_ms(100);
    assert_eq!(content(&lab, 7), 22);
}

#[test]
fn a_protocol_that_changes_under_writes_leaves_none_behind() {
    for (from, to) in [("A", "C"), ("B", "C"), ("C", "A"), ("C", "B"), ("A", "B")] {
        for n in 0..2 {
            let mut lab = Lab::running(from);
            hold_all(&mut lab);
            let early = lab.write(0, 7, 11);
            let ticket = lab.begin(
                n,
                AdminRequest::NetOptions { peer: NodeId(1 - n as u8), options: net(&[("protocol", to)]) },
            );
            let late = lab.write(0, 8, 12);
            let_all_go(&mut lab);
            assert_eq!(reason(lab.nodes[n].replies[&ticket].clone()), 1);
            assert!(lab.is_done(0, early) && lab.is_done(0, late), "{from} to {to} on node {n}");
            assert_eq!(lab.nodes[0].engine.requests.len(), 0, "{from} to {to} on node {n}");
            assert!(lab.is_replicating(0));
            lab.check_alike();
        }
    }
}

/// The peer sends that in an ordinary session; what the connection of the other one says of it.
fn forged(edit: fn(&mut Settings)) -> String {
    let mut lab = both_primary();
    let mut settings = lab.nodes[1].engine.settings();
    edit(&mut settings);
    let socket = lab.nodes[0].engine.connection.as_ref().and_then(|c| c.session()).expect("a session").data;
    let packet = Packet::ProtocolUpdate(Box::new(settings));
    let frame = Frame { volume: VolumeNumber(0), packet };
    lab.inject(0, Event::Packet { socket, frame, payload: PayloadId::NONE });
    lab.last_error(0)
}

#[test]
fn changed_settings_that_make_no_sense_end_the_session() {
    for (edit, said) in [
        ((|s: &mut Settings| s.protocol = 7) as fn(&mut Settings), "protocol is 7 (0x7), no protocol"),
        (|s| s.protocol = 1, "protocol is 1 (0x1), not the one of two Primaries"),
        (|s| s.two_primaries = false, "two_primaries is 0 (0x0), forbidden while both nodes are Primary"),
        (|s| s.after_sb_0p = 10, "after_sb_0p is 10 (0xa), no policy for that"),
        (|s| s.after_sb_1p = 5, "after_sb_1p is 5 (0x5), no policy for that"),
        (|s| s.after_sb_2p = 77, "after_sb_2p is 77 (0x4d), no policy for that"),
    ] {
        let error = forged(edit);
        assert!(error.contains(said), "{error}");
    }
    assert_eq!(forged(|s| s.after_sb_0p = 4), "");
}
