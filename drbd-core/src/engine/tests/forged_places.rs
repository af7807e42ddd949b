//! Forged packets again: writes to a Primary, packets before the state that makes them legal, volumes nobody has.

use super::forged::{ack, data, digest, lab_with, recover, request, shaking_hands, PHASES};
use super::lab::Lab;
use super::node::{net, SECTORS};
use crate::engine::connection::Stage;
use crate::ids::{Sector, VolumeNumber};
use crate::metadata::Format;
use crate::states::{ConnectionState, Role};
use crate::wire::{CompressedBitmap, Extent, Packet, Stream, Trim, BLOCK_ID_RESYNC};

fn writes() -> [Packet; 3] {
    let trim = Trim { sector: Sector(80), block_id: 1, seq: 1, flags: 0, bytes: 4096 };
    [Packet::Data(data(80, 4096, 1)), Packet::Trim(trim), Packet::Zeroes(trim)]
}

/// Every packet of the data stream that speaks of blocks of a connected device.
fn about_blocks() -> Vec<Packet> {
    let mut all = writes().to_vec();
    all.extend([
        Packet::DataReply(data(80, 4096, 1)),
        Packet::RsDataReply(data(80, 4096, BLOCK_ID_RESYNC)),
        Packet::DataRequest(request(80, 4096)),
        Packet::RsDataRequest(request(80, 4096)),
        Packet::RsThinRequest(request(80, 4096)),
        Packet::CsumRsRequest(digest(80, 4096, 20)),
        Packet::OvRequest(request(80, 4096)),
        Packet::OvReply(digest(80, 4096, 20)),
        Packet::Bitmap(vec![0xff; 80].into()),
        Packet::CompressedBitmap(Box::new(CompressedBitmap {
            first_run_set: true,
            pad_bits: 0,
            code: [0xff; 8].into(),
        })),
        Packet::SyncUuid(0x1234_5678_9abc_def0),
    ]);
    all
}

/// Every acknowledgement.
fn acknowledgements() -> Vec<Packet> {
    let kinds: [fn(_) -> Packet; 11] = [
        Packet::RecvAck,
        Packet::WriteAck,
        Packet::RsWriteAck,
        Packet::NegAck,
        Packet::NegDreply,
        Packet::NegRsDreply,
        Packet::RsCancel,
        Packet::RsIsInSync,
        Packet::OvResult,
        Packet::Superseded,
        Packet::RetryWrite,
    ];
    kinds.iter().map(|kind| kind(ack(1, 10, 4096))).collect()
}

#[test]
fn nobody_writes_to_the_only_primary() {
    let mut primaries = 0;
    for phase in PHASES.iter().filter(|phase| phase.name != "handshake") {
        for packet in writes() {
            let (mut lab, n) = (phase.begin)();
            if lab.nodes[n].engine.role != Role::Primary {
                continue;
            }
            primaries += 1;
            let what = format!("{}: {packet:?}", phase.name);
            assert!(lab.forge(n, Stream::Data, packet), "{what}: no session");
            let said = lab.last_error(n);
            assert!(said.contains("its time is 0 (0x0), while this node is Primary"), "{what}: \"{said}\"");
            recover(&mut lab, &what);
        }
    }
    assert!(primaries > 20, "{primaries}");
}

#[test]
fn what_one_of_two_primaries_wrote_before_it_stepped_down_is_taken() {
    let options = [0, 1].map(|_| net(&[("allow-two-primaries", "yes"), ("connect-int", "1")]));
    let mut lab = Lab::with(options, Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    lab.primary(1, false).expect("two are allowed");
    lab.hold_packets(1);
    let tag = lab.write(1, 10, 3);
    lab.let_packets_go(1);
    assert!(lab.is_done(1, tag));
    lab.secondary(1).expect("nobody has it open");
    assert_eq!(lab.connection(0), ConnectionState::Connected);
    lab.check_alike();
}

/// Node 0 knows the peer's settings, and neither its generations nor its state.
fn before_the_state() -> Lab {
    let mut lab = shaking_hands();
    while lab.session_stage(0) != Some(Stage::Up) {
        lab.let_packet_go(1, Stream::Data);
    }
    lab
}

#[test]
fn before_its_state_a_peer_says_nothing_of_blocks() {
    let data = about_blocks().into_iter().map(|packet| (Stream::Data, packet));
    let control = acknowledgements().into_iter().map(|packet| (Stream::Control, packet));
    let barriers = [
        (Stream::Data, Packet::Barrier(7)),
        (Stream::Control, Packet::BarrierAck { barrier: 7, set_size: 1 }),
        (Stream::Control, Packet::StateChangeReply(1)),
    ];
    for (stream, packet) in data.chain(control).chain(barriers) {
        let mut lab = before_the_state();
        let (name, what) = (packet.name(), format!("{packet:?}"));
        assert!(lab.forge(0, stream, packet), "{what}: no session");
        let said = lab.last_error(0);
        assert!(
            said.contains(&format!("The peer sent a {name} that makes no sense: its ")),
            "{what}: \"{said}\""
        );
        recover(&mut lab, &what);
    }
}

#[test]
fn before_its_state_a_peer_says_what_it_is_and_asks_whether_this_node_is_there() {
    let legal = [
        (Stream::Data, Packet::SyncParam(Box::default())),
        (Stream::Data, Packet::UnplugRemote),
        (Stream::Data, Packet::OutOfSync(Extent { sector: Sector(80), bytes: 4096 })),
        (Stream::Control, Packet::Ping),
        (Stream::Control, Packet::PingAck),
    ];
    for (stream, packet) in legal {
        let mut lab = before_the_state();
        let what = format!("{packet:?}");
        assert!(lab.forge(0, stream, packet), "{what}: no session");
        assert_eq!(lab.session_stage(0), Some(Stage::Up), "{what}: {}", lab.last_error(0));
        recover(&mut lab, &what);
    }
}

#[test]
fn a_volume_nobody_has_ends_the_session() {
    let data = about_blocks().into_iter().map(|packet| (Stream::Data, packet));
    let control = acknowledgements().into_iter().map(|packet| (Stream::Control, packet));
    let others = [
        (Stream::Data, Packet::OutOfSync(Extent { sector: Sector(80), bytes: 4096 })),
        (Stream::Data, Packet::StateChangeRequest { mask: 3, val: 1 }),
    ];
    for (stream, packet) in data.chain(control).chain(others) {
        for n in 0..2 {
            for volume in [1, 7, 65_534] {
                let mut lab = lab_with(&[]);
                let (name, what) = (packet.name(), format!("{packet:?} for volume {volume} to node {n}"));
                assert!(lab.forge_for(n, stream, VolumeNumber(volume), packet.clone()), "{what}: no session");
                let said = lab.last_error(n);
                let start = format!("The peer sent a {name} that makes no sense: its volume is {volume} ");
                assert!(said.contains(&start), "{what}: \"{said}\"");
                recover(&mut lab, &what);
            }
        }
    }
}

#[test]
fn the_last_sectors_of_a_device_belong_to_it() {
    for (sector, bytes, inside) in [
        (SECTORS - 8, 4096, true),
        (SECTORS - 1, 512, true),
        (SECTORS - 8, 4608, false),
        (SECTORS, 512, false),
    ] {
        let mut lab = lab_with(&[]);
        lab.forge(0, Stream::Data, Packet::DataRequest(request(sector, bytes)));
        // The answer to what was never asked ends the peer's session, which says nothing of this one's judgement.
        let refused = lab.last_error(0).contains("its sector is");
        assert_eq!(refused, !inside, "{sector} {bytes}: {}", lab.last_error(0));
    }
}
