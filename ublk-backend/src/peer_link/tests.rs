use super::*;
use crate::payload_pool::{Share, WriteBounds};
use crate::ring::Completion;
use drbd_core::ids::{Sector, VolumeNumber};
use drbd_core::wire::{Data, Features};
use std::time::Duration;

const PEER: NodeId = NodeId(1);

/// One end: its sockets and what happened on them.
struct End {
    links: PeerLinks,
    ring: Ring,
    pools: Pools,
    events: Vec<Event>,
}

impl End {
    fn new(threads: bool) -> End {
        let ring = if threads { Ring::threads().unwrap() } else { Ring::open().unwrap().0 };
        End { links: PeerLinks::default(), ring, pools: Pools::new().unwrap(), events: Vec::new() }
    }

    fn turn(&mut self) {
        let mut done: Vec<Completion> = Vec::new();
        self.links.flush(&mut self.ring);
        self.ring.turn(Some(Duration::from_millis(5)), &mut done).unwrap();
        for completion in done {
            let slot = completion.token.0 as u32;
            let source = completion.token.0 >> 32;
            let event = match source {
                x if x == Source::PeerListen as u64 => {
                    self.links.on_listener(slot, &mut self.ring, &mut self.pools).unwrap()
                }
                x if x == Source::Dial as u64 => self.links.on_dial(slot, &mut self.ring, &mut self.pools),
                x if x == Source::PeerSend as u64 => {
                    self.links.on_sent(slot, completion.result, &mut self.ring, &mut self.pools)
                }
                _ => {
                    let event =
                        self.links.on_received(slot, completion.result, &mut self.ring, &mut self.pools);
                    self.drain(slot);
                    event
                }
            };
            self.events.extend(event);
        }
        let mut stalled = Vec::new();
        self.links.take_stalled(&mut stalled);
        for slot in stalled {
            self.drain(slot);
        }
    }

    fn drain(&mut self, slot: u32) {
        while let Next::Event(event) = self.links.next(slot, &mut self.ring, &mut self.pools) {
            // What the engine does on features: both sides know the version from here on.
            if let Event::Packet { socket, frame: Frame { packet: Packet::Features(_), .. }, .. } = &event {
                self.links.set_version(*socket, 101);
            }
            self.events.push(event);
        }
    }

    fn send(&mut self, socket: SocketId, packet: Packet, payload: PayloadId) {
        let frame = Frame { volume: VolumeNumber(0), packet };
        self.links.send(socket, &frame, payload, &mut self.pools);
    }

    fn packets(&self) -> Vec<&Packet> {
        let packet = |e: &Event| matches!(e, Event::Packet { .. });
        self.events
            .iter()
            .filter(|e| packet(e))
            .map(|e| match e {
                Event::Packet { frame, .. } => &frame.packet,
                _ => unreachable!("only packets are left"),
            })
            .collect()
    }
}

fn until(a: &mut End, b: &mut End, enough: impl Fn(&End, &End) -> bool) {
    for _ in 0..2000 {
        if enough(a, b) {
            return;
        }
        a.turn();
        b.turn();
    }
    panic!("nothing came of it: {:?} {:?}", a.events, b.events);
}

fn config(local: SocketAddr, remote: SocketAddr) -> LinkConfig {
    LinkConfig { local, remote, sndbuf_bytes: 0, rcvbuf_bytes: 0, dial_timeout_ms: 2000 }
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Two ends, connected and past the exchange of features.
fn connected(threads: bool) -> (End, SocketId, End, SocketId) {
    let (here, there) = (free_port(), free_port());
    let (mut a, mut b) = (End::new(threads), End::new(threads));
    assert!(b.links.listen(PEER, &config(there, here), Instant(1), &mut b.ring).is_none());
    assert!(a.links.dial(PEER, &config(here, there), Instant(1), &mut a.ring).is_none());
    until(&mut a, &mut b, |a, b| !a.events.is_empty() && !b.events.is_empty());
    let Some(Event::Dialled { socket: ours, .. }) = a.events.pop() else { panic!("dialled first") };
    let Some(Event::Accepted { socket: theirs, .. }) = b.events.pop() else { panic!("accepted first") };
    a.send(ours, Packet::InitialData, PayloadId::NONE);
    let features = Features { protocol_min: 86, flags: 0, protocol_max: 101 };
    a.send(ours, Packet::Features(features), PayloadId::NONE);
    until(&mut a, &mut b, |_, b| b.packets().len() == 2);
    b.send(theirs, Packet::Features(features), PayloadId::NONE);
    until(&mut a, &mut b, |a, _| a.packets().len() == 1);
    a.events.clear();
    b.events.clear();
    (a, ours, b, theirs)
}

fn data(n: u64, bytes: u32) -> Packet {
    Packet::Data(Data { sector: Sector(n), block_id: n, seq: n as u32, flags: 0, bytes })
}

#[test]
fn data_of_any_size_arrives_in_order_and_whole() {
    for threads in [false, true] {
        let (mut a, ours, mut b, _) = connected(threads);
        let sizes = [512, 4096, 1 << 20, 512, 65536, 300_000 / 512 * 512, 4096, 4096];
        for (n, bytes) in sizes.iter().enumerate() {
            let payload = a.pools.take(*bytes as usize, Share::Peer).unwrap();
            a.pools.payloads.span(payload).put(&vec![n as u8 + 1; *bytes as usize]);
            a.send(ours, data(n as u64, *bytes), payload);
            a.pools.payloads.release(payload);
        }
        until(&mut a, &mut b, |_, b| b.packets().len() == sizes.len());
        for (n, event) in b.events.iter().enumerate() {
            let Event::Packet { frame, payload, .. } = event else { panic!("{event:?}") };
            assert_eq!(frame.packet, data(n as u64, sizes[n]));
            let bytes = b.pools.payloads.span(*payload).part(0, sizes[n] as usize);
            assert!(bytes.bytes().iter().all(|x| *x == n as u8 + 1), "packet {n}");
        }
        until(&mut a, &mut b, |a, _| matches!(a.events.last(), Some(Event::Sent { packets: 10, .. })));
        assert_eq!(a.pools.payloads.free_bytes(), 128 << 20, "what was sent came back");
    }
}

fn set_integrity(end: &mut End, socket: SocketId, direction: Direction, algorithm: &str) -> Option<Event> {
    end.links.set_integrity(socket, direction, algorithm, &mut end.pools)
}

#[test]
fn data_behind_its_digest_arrives_whole_and_changed_data_ends_the_socket() {
    for algorithm in crate::digest::ALGORITHMS.iter().chain(&["crc32c"]) {
        let (mut a, ours, mut b, theirs) = connected(false);
        assert!(set_integrity(&mut a, ours, Direction::Sending, algorithm).is_none());
        assert!(set_integrity(&mut b, theirs, Direction::Receiving, algorithm).is_none());
        let payload = a.pools.take(65536, Share::Peer).unwrap();
        a.pools.payloads.span(payload).put(&[7; 65536]);
        a.send(ours, data(1, 65536), payload);
        a.send(ours, Packet::UnplugRemote, PayloadId::NONE);
        until(&mut a, &mut b, |_, b| b.packets().len() == 2);
        b.events.clear();
        // Digested already, not yet sent: as if it changed on its way.
        a.send(ours, data(9, 65536), payload);
        a.pools.payloads.span(payload).part(300, 1).put(&[8]);
        until(&mut a, &mut b, |_, b| !b.events.is_empty());
        let Some(Event::SocketLost { why: SocketLoss::Malformed(why), .. }) = b.events.first() else {
            panic!("{:?}", b.events)
        };
        assert!(why.starts_with("Digest integrity check FAILED: 9s +65536: the data of a P_DATA"), "{why}");
        assert_eq!(b.pools.payloads.free_bytes(), (128 << 20) - 65536, "the changed data is let go");
    }
}

#[test]
fn digests_nobody_knows_end_the_socket() {
    let (_a, _, mut b, theirs) = connected(false);
    let lost = set_integrity(&mut b, theirs, Direction::Receiving, "rot13");
    assert!(matches!(lost, Some(Event::SocketLost { why: SocketLoss::Malformed(_), .. })), "{lost:?}");
}

#[test]
fn a_stalled_bulk_waits_for_a_buffer_and_acks_pass_on_another_socket() {
    let (mut a, ours, mut b, theirs) = connected(false);
    let mut held = Vec::new();
    while let Some(payload) = b.pools.take(1 << 20, Share::Peer) {
        held.push(payload);
    }
    let payload = a.pools.take(4096, Share::Peer).unwrap();
    a.send(ours, data(1, 4096), payload);
    for _ in 0..20 {
        a.turn();
        b.turn();
    }
    assert!(b.packets().is_empty());
    b.send(theirs, Packet::UnplugRemote, PayloadId::NONE);
    until(&mut a, &mut b, |a, _| !a.packets().is_empty());
    b.pools.payloads.release(held[0]);
    until(&mut a, &mut b, |_, b| b.packets().len() == 1);
}

/// What arrived at an end, taken from it.
fn arrived(end: &mut End) -> Vec<PayloadId> {
    let payloads = end.events.drain(..).filter_map(|event| match event {
        Event::Packet { frame: Frame { packet: Packet::Data(_), .. }, payload, .. } => Some(payload),
        _ => None,
    });
    payloads.collect()
}

#[test]
fn a_fast_peer_and_a_slow_disk_use_no_more_than_max_buffers() {
    let (mut a, ours, mut b, _) = connected(false);
    let pages = 32;
    b.pools.payloads.bound_writes(WriteBounds { pages, writes: 1000 });
    let free = b.pools.payloads.free_bytes();
    for number in 0..100 {
        let payload = a.pools.take(16 << 10, Share::Peer).unwrap();
        a.send(ours, data(number, 16 << 10), payload);
    }
    let (mut on_disk, mut written, mut most) = (std::collections::VecDeque::new(), 0, 0);
    let start = std::time::Instant::now();
    while written < 100 && start.elapsed() < Duration::from_secs(30) {
        for _ in 0..5 {
            a.turn();
            b.turn();
        }
        on_disk.extend(arrived(&mut b));
        let used = free - b.pools.payloads.free_bytes();
        assert_eq!(used, b.pools.payloads.write_bytes());
        most = most.max(used);
        if let Some(payload) = on_disk.pop_front() {
            b.pools.payloads.release(payload);
            written += 1;
        }
    }
    assert_eq!((written, most), (100, pages * 4096), "everything arrives, through so much memory");
    assert_eq!(b.pools.payloads.free_bytes(), free);
}

#[test]
fn writes_are_bounded_by_number_too() {
    let (mut a, ours, mut b, _) = connected(false);
    b.pools.payloads.bound_writes(WriteBounds { pages: 1 << 17, writes: 5 });
    for number in 0..10 {
        let payload = a.pools.take(4096, Share::Peer).unwrap();
        a.send(ours, data(number, 4096), payload);
    }
    for _ in 0..20 {
        a.turn();
        b.turn();
    }
    let first = arrived(&mut b);
    assert_eq!(first.len(), 5);
    first.into_iter().for_each(|payload| b.pools.payloads.release(payload));
    until(&mut a, &mut b, |_, b| b.events.len() == 5);
}

#[test]
fn a_write_larger_than_max_buffers_comes_alone_and_one_more_after_a_while() {
    let (mut a, ours, mut b, _) = connected(false);
    b.pools.payloads.bound_writes(WriteBounds { pages: 32, writes: 1000 });
    for number in 0..3 {
        let payload = a.pools.take(1 << 20, Share::Peer).unwrap();
        a.send(ours, data(number, 1 << 20), payload);
    }
    let start = std::time::Instant::now();
    until(&mut a, &mut b, |_, b| !b.events.is_empty());
    assert_eq!(b.pools.payloads.write_bytes(), 1 << 20);
    while arrived(&mut b).is_empty() || start.elapsed() < Duration::from_millis(500) {
        a.turn();
        b.turn();
    }
    assert!(b.events.is_empty());
    while b.events.is_empty() && start.elapsed() < Duration::from_secs(20) {
        a.turn();
        b.turn();
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(b.events.len(), 1, "the stream moves though nothing was released");
}

#[test]
fn a_lost_socket_is_told_once_and_a_closed_one_never() {
    let (mut a, ours, mut b, theirs) = connected(false);
    a.links.close(ours, Instant(1), &mut a.ring, &mut a.pools);
    until(&mut a, &mut b, |_, b| !b.events.is_empty());
    assert!(
        matches!(&b.events[..], [Event::SocketLost { socket, why: SocketLoss::EndOfStream }] if *socket == theirs)
    );
    assert!(a.events.is_empty());
    b.send(theirs, Packet::UnplugRemote, PayloadId::NONE);
    b.links.close(theirs, Instant(1), &mut b.ring, &mut b.pools);
    for _ in 0..10 {
        a.turn();
        b.turn();
    }
    assert!(a.events.is_empty());
    assert_eq!(b.events.len(), 1);
    assert!(a.links.links.iter().chain(&b.links.links).all(Option::is_none), "the slots are free again");
}

#[test]
fn nonsense_ends_the_socket_with_a_sentence() {
    let (mut a, ours, mut b, _) = connected(false);
    let End { links, ring, pools, .. } = &mut a;
    let link = links.find(ours).unwrap();
    link.stream.push_bytes(pools, &[0xff; 64], 1);
    link.stream.flush(ring);
    until(&mut a, &mut b, |_, b| !b.events.is_empty());
    let Event::SocketLost { why: SocketLoss::Malformed(sentence), .. } = &b.events[0] else { panic!() };
    assert!(sentence.starts_with("The peer sent"), "{sentence}");
}

#[test]
fn dials_fail_with_a_sentence_and_in_time() {
    let mut end = End::new(false);
    let nobody = free_port();
    end.links.dial(PEER, &config(free_port(), nobody), Instant(1), &mut end.ring);
    while end.events.is_empty() {
        end.turn();
    }
    let Some(Event::DialFailed { retry: true, why, .. }) = end.events.pop() else { panic!() };
    assert!(why.contains("refused"), "{why}");
    let foreign = "203.0.113.7:0".parse().unwrap();
    let event = end.links.dial(PEER, &config(foreign, nobody), Instant(1), &mut end.ring);
    assert!(matches!(event, Some(Event::DialFailed { retry: false, .. })));
    // Cancelled: no answer follows.
    end.links.dial(PEER, &config(free_port(), nobody), Instant(1), &mut end.ring);
    end.links.cancel_dial(PEER, &mut end.ring);
    for _ in 0..10 {
        end.turn();
    }
    assert!(end.events.is_empty());
}

#[test]
fn a_port_in_use_is_waited_for_and_then_told() {
    let mut end = End::new(false);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let local = taken.local_addr().unwrap();
    let config = config(local, free_port());
    let at = |ms| Instant(1).plus_ms(ms);
    assert!(end.links.listen(PEER, &config, at(0), &mut end.ring).is_none());
    assert_eq!(end.links.next_deadline(), Some(at(50)));
    assert!(end.links.on_time(at(50), &mut end.ring, &mut end.pools).is_none());
    let event = end.links.on_time(at(2500), &mut end.ring, &mut end.pools);
    let Some(Event::ListenFailed { why, .. }) = event else { panic!() };
    assert!(why.contains("in use"), "{why}");
    assert_eq!(end.links.next_deadline(), None);

    assert!(end.links.listen(PEER, &config, at(3000), &mut end.ring).is_none());
    drop(taken);
    assert!(end.links.on_time(at(3050), &mut end.ring, &mut end.pools).is_none());
    assert_eq!(end.links.next_deadline(), None, "it is free, and listened on");
    end.links.unlisten(PEER, &mut end.ring);
    for _ in 0..3 {
        end.turn();
    }
    assert!(end.links.listen(PEER, &config, at(4000), &mut end.ring).is_none());
    assert_eq!(end.links.next_deadline(), None, "the port is free");

    let foreign = LinkConfig { local: "203.0.113.7:1".parse().unwrap(), ..config };
    let event = end.links.listen(PEER, &foreign, at(5000), &mut end.ring);
    assert!(matches!(event, Some(Event::ListenFailed { .. })), "that is not waited for");
}

#[test]
fn small_packets_leave_together() {
    let (mut a, ours, mut b, _) = connected(false);
    for n in 0..20_000u32 {
        a.send(ours, Packet::Barrier(n), PayloadId::NONE);
    }
    until(&mut a, &mut b, |_, b| b.packets().len() == 20_000);
    assert!(matches!(b.packets()[19_999], Packet::Barrier(19_999)));
}

#[test]
fn the_last_words_of_a_closed_socket_arrive() {
    let (mut a, ours, mut b, theirs) = connected(false);
    // Bytes that `a` never reads: a plain close would reset the connection and lose what `a` says.
    for n in 0..100 {
        b.send(theirs, Packet::Barrier(n), PayloadId::NONE);
    }
    b.turn();
    a.send(ours, Packet::UnplugRemote, PayloadId::NONE);
    a.links.close(ours, Instant(1), &mut a.ring, &mut a.pools);
    until(&mut a, &mut b, |_, b| matches!(b.events.last(), Some(Event::SocketLost { .. })));
    assert!(b.packets().contains(&&Packet::UnplugRemote));
    assert!(a.packets().is_empty());
}

#[test]
fn a_peer_that_never_ends_is_left_in_time() {
    let (mut a, ours, _b, _) = connected(false);
    a.links.close(ours, Instant(1), &mut a.ring, &mut a.pools);
    let deadline = a.links.next_deadline().unwrap();
    a.turn();
    assert!(!a.links.is_quiet());
    a.links.on_time(deadline, &mut a.ring, &mut a.pools);
    for _ in 0..3 {
        a.turn();
    }
    assert!(a.links.is_quiet());
}
