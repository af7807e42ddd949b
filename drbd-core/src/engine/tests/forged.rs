//! Packets that no peer sends, in every phase of a connection: each ends the session with a sentence that names packet
//! and field (or is tolerated, where DRBD tolerates it), and costs nothing but that: every request completes, and both
//! disks are alike again.

use super::lab::Lab;
use super::node::{net, Pending, SECTORS, VOLUME};
use crate::engine::connection::Stage;
use crate::engine::AdminRequest;
use crate::ids::{NodeId, Sector};
use crate::metadata::Format;
use crate::states::ReplicationState;
use crate::wire::{
    BlockAck, BlockRequest, CompressedBitmap, Data, DigestRequest, Extent, Features, Packet, Settings, Sizes,
    Stream, Trim, BLOCK_ID_RESYNC,
};

/// The block whose write, read or copy is under way where a phase has one.
const BLOCK: u64 = 40;

pub(super) struct Phase {
    pub(super) name: &'static str,
    /// The lab, and the node that is lied to.
    pub(super) begin: fn() -> (Lab, usize),
}

pub(super) fn lab_with(pairs: &[(&str, &str)]) -> Lab {
    let usual = [("connect-int", "1"), ("ping-int", "1")];
    let all: Vec<_> = pairs.iter().chain(&usual).copied().collect();
    let mut lab = Lab::with([net(&all), net(&all)], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    lab
}

fn writing(protocol: &str) -> Lab {
    let mut lab = lab_with(&[("protocol", protocol)]);
    lab.hold(1, Pending::is_write);
    lab.write(0, BLOCK, 7);
    lab
}

fn flushing() -> Lab {
    let mut lab = lab_with(&[]);
    lab.hold(1, Pending::is_flush);
    lab.write(0, BLOCK, 7);
    lab.flush(0);
    lab
}

fn reading() -> Lab {
    let mut lab = lab_with(&[]);
    lab.write(0, BLOCK, 7);
    lab.detach(0).expect("the peer is UpToDate");
    lab.hold(1, |op| matches!(op, Pending::Disk(io) if io.op == crate::engine::DiskOp::Read));
    lab.read(0, BLOCK);
    lab
}

fn copying(algorithm: &str, holds: fn(&Pending) -> bool) -> Lab {
    let mut lab = lab_with(&[("csums-alg", algorithm)]);
    lab.cut();
    for block in [BLOCK, 700, 9000] {
        lab.write(0, block, 8);
    }
    lab.hold(1, holds);
    lab.mend();
    lab.wait("a resync", |lab| {
        lab.replication(0) != ReplicationState::Off && lab.replication(0) != ReplicationState::Established
    });
    lab.pass_ms(50);
    lab
}

fn verifying(n: usize) -> Lab {
    let mut lab = lab_with(&[("verify-alg", "sha1")]);
    lab.hold_digests = true;
    let (peer, start) = (NodeId(1 - n as u8), Some(SECTORS - 80));
    lab.ask(n, AdminRequest::Verify { peer, volume: VOLUME, start, stop: None }).expect("both UpToDate");
    lab
}

fn behind() -> Lab {
    let pairs = [("protocol", "A"), ("on-congestion", "pull-ahead"), ("congestion-fill", "32")];
    let mut lab = lab_with(&pairs);
    lab.hold(1, Pending::is_write);
    for block in 0..20 {
        lab.write(0, block * 8, 1);
    }
    assert_eq!(lab.replication(0), ReplicationState::Ahead);
    lab
}

/// Node 0 has a session and has not yet heard the peer's part of the handshake.
pub(super) fn shaking_hands() -> Lab {
    let mut lab = lab_with(&[]);
    lab.cut();
    lab.hold_packets(1);
    lab.mend();
    lab.wait("a session", |lab| lab.session_stage(0) == Some(Stage::Features));
    lab
}

fn disconnecting() -> Lab {
    let mut lab = lab_with(&[]);
    lab.hold_packets(0);
    lab.begin(0, AdminRequest::Disconnect { peer: NodeId(1), force: false });
    lab
}

pub(super) const PHASES: &[Phase] = &[
    Phase { name: "handshake", begin: || (shaking_hands(), 0) },
    Phase { name: "idle, the Primary", begin: || (lab_with(&[]), 0) },
    Phase { name: "idle, the Secondary", begin: || (lab_with(&[]), 1) },
    Phase { name: "writing, A", begin: || (writing("A"), 0) },
    Phase { name: "writing, B", begin: || (writing("B"), 0) },
    Phase { name: "writing, C", begin: || (writing("C"), 0) },
    Phase { name: "written to", begin: || (writing("C"), 1) },
    Phase { name: "flushing", begin: || (flushing(), 0) },
    Phase { name: "reading from the peer", begin: || (reading(), 0) },
    Phase { name: "source", begin: || (copying("", Pending::is_write), 0) },
    Phase { name: "target", begin: || (copying("", Pending::is_write), 1) },
    Phase { name: "target by checksum", begin: || (copying("sha1", Pending::is_write), 1) },
    Phase { name: "source waiting for a bitmap", begin: || (copying("", Pending::is_super_block), 0) },
    Phase { name: "target keeping a bitmap", begin: || (copying("", Pending::is_super_block), 1) },
    Phase { name: "verifying", begin: || (verifying(0), 0) },
    Phase { name: "being verified", begin: || (verifying(0), 1) },
    Phase { name: "ahead", begin: || (behind(), 0) },
    Phase { name: "behind", begin: || (behind(), 1) },
    Phase { name: "disconnecting", begin: || (disconnecting(), 0) },
];

/// What becomes of a forged packet while connected.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// The session ends for that field.
    Ends(&'static str),
    /// It ends for some field, which depends on the phase, or the packet is tolerated.
    Either,
}

type Forgery = (Stream, Packet, Fate);

pub(super) fn ack(block_id: u64, block: u64, bytes: u32) -> BlockAck {
    BlockAck { sector: Sector(block * 8), block_id, bytes, seq: 9 }
}

pub(super) fn data(sector: u64, bytes: u32, block_id: u64) -> Data {
    Data { sector: Sector(sector), block_id, seq: 1, flags: 0, bytes }
}

pub(super) fn request(sector: u64, bytes: u32) -> BlockRequest {
    BlockRequest { sector: Sector(sector), block_id: 5, bytes }
}

pub(super) fn digest(sector: u64, bytes: u32, length: usize) -> Box<DigestRequest> {
    Box::new(DigestRequest { block: request(sector, bytes), digest: vec![3; length].into() })
}

/// Acknowledgements and answers for nothing.
fn acknowledgements(lab: &Lab, n: usize) -> Vec<Forgery> {
    use Fate::Ends;
    let mut list = Vec::new();
    let kinds: [fn(BlockAck) -> Packet; 5] =
        [Packet::RecvAck, Packet::WriteAck, Packet::RsWriteAck, Packet::NegAck, Packet::NegDreply];
    for kind in kinds {
        list.push((Stream::Control, kind(ack(0, BLOCK, 4096)), Ends("block_id")));
        list.push((Stream::Control, kind(ack(u64::MAX - 1, BLOCK, 4096)), Ends("block_id")));
        // Right in all but one field.
        for (key, request) in lab.nodes[n].engine.requests.iter() {
            let id = request.block_id(key);
            for (block, bytes) in [(BLOCK + 1, 4096), (BLOCK, 8192), (BLOCK, 0), (1 << 37, 4096)] {
                list.push((Stream::Control, kind(ack(id, block, bytes)), Fate::Either));
            }
            list.push((Stream::Control, kind(ack(id ^ 1 << 40, BLOCK, 4096)), Ends("block_id")));
        }
    }
    for kind in [Packet::RsWriteAck, Packet::NegAck] {
        list.push((Stream::Control, kind(ack(BLOCK_ID_RESYNC, 5, 4096)), Ends("sector")));
        list.push((Stream::Control, kind(ack(BLOCK_ID_RESYNC, BLOCK, 512)), Ends("sector")));
    }
    for kind in [Packet::NegRsDreply, Packet::RsCancel, Packet::RsIsInSync] {
        list.push((Stream::Control, kind(ack(BLOCK_ID_RESYNC, 5, 4096)), Ends("sector")));
        list.push((Stream::Control, kind(ack(BLOCK_ID_RESYNC, BLOCK, 0)), Ends("sector")));
    }
    for (verdict, field) in [(4711, "sector"), (4712, "sector"), (4713, "block_id")] {
        list.push((Stream::Control, Packet::OvResult(ack(verdict, 5, 4096)), Ends(field)));
    }
    let epoch = lab.nodes[n].engine.connection.as_ref().map_or(0, |c| c.epoch);
    for barrier in [epoch.wrapping_sub(2), epoch, epoch.wrapping_add(1), u32::MAX] {
        list.push((Stream::Control, Packet::BarrierAck { barrier, set_size: 1 }, Ends("barrier")));
    }
    let last = epoch.wrapping_sub(1);
    list.push((Stream::Control, Packet::BarrierAck { barrier: last, set_size: 77 }, Fate::Either));
    for code in [1, 2, -1, i32::MIN, i32::MAX] {
        // In answer to a real question any answer will do.
        list.push((Stream::Control, Packet::StateChangeReply(code), Fate::Either));
        list.push((Stream::Control, Packet::ConnStateChangeReply(code), Fate::Either));
    }
    for kind in [Packet::Superseded, Packet::RetryWrite] {
        list.push((Stream::Control, kind(ack(0, BLOCK, 4096)), Fate::Either));
    }
    list.push((Stream::Control, Packet::PingAck, Fate::Either));
    list
}

/// Blocks that are none, and answers that were not asked for.
fn blocks() -> Vec<Forgery> {
    use Fate::{Either, Ends};
    let trim = |sector, bytes| Trim { sector: Sector(sector), block_id: 1, seq: 1, flags: 0, bytes };
    let mut list = Vec::new();
    for (sector, bytes, field) in [
        (SECTORS, 4096, "sector"),
        (SECTORS - 7, 4096, "sector"),
        (u64::MAX, 4096, "sector"),
        (u64::MAX - 7, 4096, "sector"),
        (8, 0, "size"),
        (8, 511, "size"),
        (8, u32::MAX, "size"),
        (8, (128 << 20) + 512, "size"),
    ] {
        let all = [
            Packet::Trim(trim(sector, bytes)),
            Packet::Zeroes(trim(sector, bytes)),
            Packet::DataRequest(request(sector, bytes)),
            Packet::RsDataRequest(request(sector, bytes)),
            Packet::RsThinRequest(request(sector, bytes)),
            Packet::OvRequest(request(sector, bytes)),
            Packet::CsumRsRequest(digest(sector, bytes, 4)),
            Packet::OvReply(digest(sector, bytes, 4)),
            Packet::OutOfSync(Extent { sector: Sector(sector), bytes }),
            Packet::RsDeallocated(Extent { sector: Sector(sector), bytes }),
        ];
        list.extend(all.map(|packet| (Stream::Data, packet, Ends(field))));
        if bytes == 4096 {
            list.push((Stream::Data, Packet::Data(data(sector, bytes, 1)), Ends(field)));
        }
    }
    for id in [0, 1, u64::MAX] {
        list.push((Stream::Data, Packet::DataReply(data(BLOCK * 8, 4096, id)), Ends("block_id")));
    }
    list.push((Stream::Data, Packet::RsDataReply(data(40, 4096, BLOCK_ID_RESYNC)), Ends("sector")));
    list.push((Stream::Data, Packet::RsDataReply(data(BLOCK * 8, 512, BLOCK_ID_RESYNC)), Ends("sector")));
    list.push((Stream::Data, Packet::OvReply(digest(40, 4096, 4)), Ends("sector")));
    let zeroes = Extent { sector: Sector(8), bytes: 4096 };
    list.push((Stream::Data, Packet::RsDeallocated(zeroes), Ends("sector")));
    // A read that cannot be served is refused, one that can is: no harm in either.
    list.push((Stream::Data, Packet::DataRequest(request(8, 4096)), Either));
    list.push((Stream::Data, Packet::RsDataRequest(request(8, 4096)), Either));
    list.push((Stream::Data, Packet::CsumRsRequest(digest(8, 4096, 63)), Either));
    list.push((Stream::Data, Packet::OvRequest(request(8, 4096)), Either));
    list.push((Stream::Data, Packet::OvReply(digest(SECTORS - 80, 4096, 63)), Either));
    list
}

/// Packets of another time, and states that do not exist.
fn phases_and_states() -> Vec<Forgery> {
    use Fate::{Either, Ends};
    let settings = Settings {
        protocol: 3,
        after_sb_0p: 0,
        after_sb_1p: 0,
        after_sb_2p: 0,
        discard_my_data: false,
        tentative: false,
        two_primaries: false,
        integrity_alg: String::new(),
    };
    let sizes = |disk| {
        let (user, current, max_bio_size, flags) = (0, disk, 4096, 0);
        Packet::Sizes(Box::new(Sizes { disk, user, current, max_bio_size, flags, limits: None }))
    };
    let features = Features { protocol_min: 86, flags: 0, protocol_max: 101 };
    let code = |first_run_set, pad_bits| {
        Packet::CompressedBitmap(Box::new(CompressedBitmap {
            first_run_set,
            pad_bits,
            code: [0xff; 8].into(),
        }))
    };
    let all_words = Packet::Bitmap(vec![0xff; 4080].into());
    let mut list = vec![
        (Stream::Data, Packet::InitialData, Ends("time")),
        (Stream::Data, Packet::AuthChallenge([0; 64].into()), Ends("time")),
        (Stream::Data, Packet::AuthResponse([0; 20].into()), Ends("time")),
        (Stream::Data, Packet::Barrier(4), Either),
        (Stream::Data, Packet::SyncUuid(0), Ends("uuid")),
        (Stream::Data, Packet::SyncUuid(4), Ends("uuid")),
        (Stream::Data, sizes(u64::MAX), Ends("d_size")),
        (Stream::Data, sizes((1 << 41) + 1), Ends("d_size")),
        (Stream::Data, code(true, 0), Either),
        (Stream::Data, code(false, 7), Either),
        (Stream::Data, all_words, Either),
        (Stream::Data, Packet::Bitmap([0; 8].into()), Either),
        (Stream::Data, Packet::Bitmap([].into()), Either),
        (Stream::Data, Packet::UnplugRemote, Either),
        (Stream::Data, Packet::StateChangeRequest { mask: 3, val: 3 }, Ends("val")),
        (Stream::Data, Packet::StateChangeRequest { mask: 1, val: 0 }, Ends("mask")),
        (Stream::Data, Packet::StateChangeRequest { mask: 0xf << 9, val: 9 << 9 }, Ends("val")),
        (Stream::Data, Packet::ConnStateChangeRequest { mask: 0x1f << 4, val: 31 << 4 }, Ends("val")),
        (Stream::Data, Packet::State(u32::MAX), Ends("role in the state word")),
        (Stream::Data, Packet::State(0x0000_c880 | 0x1f << 4), Ends("connection in the state word")),
    ];
    // Not in the handshake, where they are waited for.
    list.push((Stream::Data, Packet::Protocol(Box::new(settings)), Either));
    list.push((Stream::Data, Packet::Features(features), Either));
    list
}

fn check_reason(lab: &Lab, n: usize, packet: &Packet, fate: Fate, what: &str) {
    let sentence = lab.last_error(n);
    let said = |node: usize, text: &str| lab.nodes[node].log_lines.iter().any(|line| line.contains(text));
    let start = format!("The peer sent a {} that makes no sense: its ", packet.name());
    let Some(at) = sentence.find(&start) else { panic!("{what}: \"{sentence}\"") };
    let rest = &sentence[at + start.len()..];
    if let Fate::Ends(field) = fate {
        assert!(rest.starts_with(field), "{what}: \"{sentence}\"");
    }
    assert!(said(n, &sentence), "{what}: nothing in the log");
    if what.starts_with("handshake") {
        return;
    }
    assert!(said(1 - n, "The peer closed the connection"), "{what}: nothing in the peer's log");
}

/// Lets everything go on; nothing was lost.
pub(super) fn recover(lab: &mut Lab, what: &str) {
    for n in 0..2 {
        lab.let_go(n);
        lab.let_packets_go(n);
    }
    lab.let_block_digests_go();
    if (0..2).all(|n| lab.connection(n) != crate::states::ConnectionState::StandAlone) {
        lab.wait(what, |lab| lab.is_replicating(0) && lab.is_replicating(1));
    }
    for n in 0..2 {
        if lab.nodes[n].engine.devices[0].backing.is_none() {
            lab.attach(n).expect("its own disk");
        }
        if lab.connection(n) == crate::states::ConnectionState::StandAlone {
            lab.begin_connect(n);
        }
    }
    lab.wait(what, |lab| lab.is_in_sync() && (0..2).all(|n| lab.nodes[n].engine.requests.len() == 0));
    let pending = (0..2).map(|n| lab.nodes[n].engine.devices[0].counters.upper_pending).sum::<u64>();
    assert_eq!(pending, 0, "{what}: a request hangs");
    lab.check_alike_where_written();
    lab.check_buffers();
}

fn forge(phase: &Phase, number: usize, list: fn(&Lab, usize) -> Vec<Forgery>) -> bool {
    let (mut lab, n) = (phase.begin)();
    let Some((stream, packet, fate)) = list(&lab, n).into_iter().nth(number) else { return false };
    let what = format!("{}: {packet:?}", phase.name);
    for node in &mut lab.nodes {
        node.log_lines.clear();
    }
    lab.nodes[n].engine.connection.as_mut().expect("a peer").last_error.clear();
    assert!(lab.forge(n, stream, packet.clone()), "{what}: no session");
    // A packet that waits for a disk is judged when that is done.
    // The answer to what was never asked may end the peer's session.
    let sentence = lab.last_error(n);
    let ended =
        !sentence.is_empty() && (sentence != "The peer closed the connection" || fate != Fate::Either);
    if ended {
        let fate = if phase.name == "handshake" { Fate::Either } else { fate };
        check_reason(&lab, n, &packet, fate, &what);
    } else {
        assert_eq!(fate, Fate::Either, "{what}: nothing happened");
    }
    recover(&mut lab, &what);
    true
}

fn forge_all(list: fn(&Lab, usize) -> Vec<Forgery>) {
    for phase in PHASES {
        let mut number = 0;
        while forge(phase, number, list) {
            number += 1;
        }
        assert!(number > 0, "nothing was forged in {}", phase.name);
    }
}

#[test]
fn acknowledgements_of_nothing_end_the_session() {
    forge_all(acknowledgements);
}

#[test]
fn blocks_that_are_none_end_the_session() {
    forge_all(|_, _| blocks());
}

#[test]
fn packets_out_of_time_end_the_session() {
    forge_all(|_, _| phases_and_states());
}
