use super::packets;
use drbd_core::ids::{Sector, VolumeNumber};
use drbd_core::wire::{encode, feature, Data, Features, Frame, Packet, Settings, BLOCK_ID_RESYNC};

const VERSION: u32 = 101;

/// A capture: Ethernet, IPv4 and TCP around the bytes, 1 ms from one segment to the next.
struct Pcap(Vec<u8>);

impl Pcap {
    fn new() -> Pcap {
        let mut bytes = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0]);
        Pcap(bytes)
    }

    /// From the first to the second of two nodes or back; `syn`: the first of its direction, without bytes.
    fn segment(&mut self, back: bool, sequence: u32, syn: bool, bytes: &[u8]) {
        let (from, to) = if back { (2_u8, 1_u8) } else { (1, 2) };
        let (source, destination) = if back { (7789_u16, 40000_u16) } else { (40000, 7789) };
        let mut packet = vec![0; 12];
        packet.extend([8, 0, 0x45, 0]);
        packet.extend((40 + bytes.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
        packet.extend(source.to_be_bytes());
        packet.extend(destination.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, if syn { 2 } else { 16 }, 0, 0, 0, 0, 0, 0]);
        packet.extend(bytes);
        let number = self.0.len() as u32;
        self.0.extend(0_u32.to_le_bytes());
        self.0.extend((number % 1_000_000).to_le_bytes());
        self.0.extend((packet.len() as u32).to_le_bytes());
        self.0.extend((packet.len() as u32).to_le_bytes());
        self.0.extend(packet);
    }

    fn lines(&self) -> Vec<String> {
        let seen = packets(&self.0).expect("it is a capture");
        // Without the time.
        seen.iter().map(|s| s.to_string()[13..].to_owned()).collect()
    }
}

fn bytes_of(packet: Packet, version: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&Frame { volume: VolumeNumber(0), packet }, version, &mut bytes);
    bytes
}

fn features() -> Packet {
    Packet::Features(Features { protocol_min: 86, flags: feature::TRIM, protocol_max: VERSION })
}

fn opening(pcap: &mut Pcap) -> (u32, u32) {
    pcap.segment(false, 999, true, &[]);
    pcap.segment(true, u32::MAX, true, &[]);
    let mut first = bytes_of(Packet::InitialData, 80);
    first.extend(bytes_of(features(), 80));
    pcap.segment(false, 1000, false, &first);
    let second = bytes_of(features(), 80);
    pcap.segment(true, 0, false, &second);
    (1000 + first.len() as u32, second.len() as u32)
}

#[test]
fn a_line_each() {
    let mut pcap = Pcap::new();
    let (next, back) = opening(&mut pcap);
    let settings = Settings {
        protocol: 3,
        after_sb_0p: 0,
        after_sb_1p: 2,
        after_sb_2p: 0,
        discard_my_data: false,
        tentative: false,
        two_primaries: true,
        integrity_alg: String::new(),
    };
    pcap.segment(false, next, false, &bytes_of(Packet::Protocol(Box::new(settings)), VERSION));
    pcap.segment(true, back, false, &bytes_of(Packet::State(53_378), VERSION));
    assert_eq!(
        pcap.lines(),
        [
            "10.0.0.1 > 10.0.0.2 data P_INITIAL_DATA",
            "10.0.0.1 > 10.0.0.2 data P_CONNECTION_FEATURES versions 86-101 +TRIM",
            "10.0.0.2 > 10.0.0.1 data P_CONNECTION_FEATURES versions 86-101 +TRIM",
            "10.0.0.1 > 10.0.0.2 data P_PROTOCOL protocol C after-sb 0/2/0 integrity none two-primaries",
            "10.0.0.2 > 10.0.0.1 data P_STATE role Secondary peer Unknown conn WFConnection disk UpToDate pdsk DUnknown",
        ]
    );
}

#[test]
fn segments_out_of_order_and_sent_twice_are_put_together() {
    let mut pcap = Pcap::new();
    let (next, _) = opening(&mut pcap);
    let data = Data { sector: Sector(8), block_id: BLOCK_ID_RESYNC, seq: 7, flags: 0, bytes: 4096 };
    let mut bytes = bytes_of(Packet::RsDataReply(data), VERSION);
    bytes.extend([0xaa; 4096]);
    bytes.extend(bytes_of(Packet::UnplugRemote, VERSION));
    let cut = [0, 10, 1000, 3000, bytes.len()];
    let piece = |n: usize| (next.wrapping_add(cut[n] as u32), &bytes[cut[n]..cut[n + 1]]);
    for n in [0, 2, 0, 3, 1, 2] {
        let (sequence, bytes) = piece(n);
        pcap.segment(false, sequence, false, bytes);
    }
    assert_eq!(
        pcap.lines()[3..],
        [
            "10.0.0.1 > 10.0.0.2 data P_RS_DATA_REPLY sector 8 4096 bytes of the resync seq 7",
            "10.0.0.1 > 10.0.0.2 data P_UNPLUG_REMOTE",
        ]
    );
}

#[test]
fn what_is_missing_or_no_packet_is_told_once() {
    let mut pcap = Pcap::new();
    let (next, back) = opening(&mut pcap);
    pcap.segment(false, next + 1, false, &[1, 2, 3]);
    pcap.segment(true, back, false, &[0xee; 40]);
    pcap.segment(true, back + 40, false, &[0xee; 40]);
    let lines = pcap.lines();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[3].ends_with("NOT READ FURTHER: segments are missing from the capture"), "{}", lines[3]);
    assert!(lines[4].contains("10.0.0.2 > 10.0.0.1 data NOT READ FURTHER: "), "{}", lines[4]);
}

#[test]
fn other_files_are_refused_and_cut_ones_read_as_far_as_they_go() {
    let why = packets(b"\x0a\x0d\x0d\x0a and more").expect_err("pcapng");
    assert!(why.to_string().contains("pcapng"), "{why}");
    let mut pcap = Pcap::new();
    opening(&mut pcap);
    for length in 24..pcap.0.len() {
        let seen = packets(&pcap.0[..length]).expect("a capture");
        assert!(seen.len() <= 3);
    }
}
