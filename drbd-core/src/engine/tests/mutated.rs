//! Real packets of two engines, some of them with a wrong byte: whatever arrives, no engine falls over, none keeps what
//! it cannot use, and no request hangs once the two are apart.

use super::lab::Lab;
use super::node::{net, Pending, SECTORS, VOLUME};
use crate::engine::random::Random;
use crate::engine::{AdminRequest, IoResult};
use crate::ids::NodeId;
use crate::metadata::Format;
use crate::wire::{encode, Frame, Framer, Packet, Stream};

/// Changes one packet of so many.
pub(super) struct Mutation {
    random: Random,
    one_of: u64,
    pub(super) changed: u64,
    pub(super) malformed: u64,
}

impl Mutation {
    fn new(seed: u64, one_of: u64) -> Mutation {
        Mutation { random: Random::new(seed), one_of, changed: 0, malformed: 0 }
    }

    /// The packet as it arrives, or why it is none.
    pub(super) fn apply(&mut self, frame: &Frame, stream: Stream, version: u32) -> Result<Frame, Box<str>> {
        if version < 86 || self.random.below(self.one_of) > 0 {
            return Ok(frame.clone());
        }
        if matches!(&frame.packet, Packet::CsumRsRequest(r) | Packet::OvReply(r) if r.digest.len() > 64) {
            // The lab's digests are longer than real ones.
            return Ok(frame.clone());
        }
        let mut bytes = Vec::new();
        encode(frame, version, &mut bytes);
        if bytes.is_empty() {
            return Ok(frame.clone());
        }
        self.changed += 1;
        // Seldom the header: it has a test of its own, and nothing gets past it.
        let header = if self.random.below(8) == 0 { 0 } else { (bytes.len() - 1).min(16) };
        for _ in 0..=self.random.below(2) {
            let at = header + self.random.below((bytes.len() - header) as u64) as usize;
            bytes[at] = match self.random.below(5) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at].wrapping_add(1),
                3 => bytes[at] ^ 1 << self.random.below(8),
                _ => self.random.next() as u8,
            };
        }
        let mut framer = Framer::new();
        framer.set_stream(stream);
        framer.set_version(version);
        let fed = framer.feed(&bytes).map_err(|malformed| malformed.to_string());
        let arrived = fed.and_then(|fed| fed.frame.ok_or_else(|| "the rest never comes".to_owned()));
        // With another length of bulk what follows is no packet any more.
        let same_bulk = |f: &Frame| f.packet.bulk_bytes() == frame.packet.bulk_bytes();
        match arrived {
            Ok(arrived) if same_bulk(&arrived) => Ok(arrived),
            Ok(_) => self.refuse("bulk of another length".into()),
            Err(why) => self.refuse(why.into()),
        }
    }

    fn refuse(&mut self, why: Box<str>) -> Result<Frame, Box<str>> {
        self.malformed += 1;
        Err(why)
    }
}

fn step(lab: &mut Lab, random: &mut Random, content: u32) {
    let n = random.below(2) as usize;
    let peer = NodeId(1 - n as u8);
    match random.below(26) {
        0..=7 => {
            lab.write(0, random.below(300), content);
        }
        8 => {
            lab.read(0, random.below(300));
        }
        9 => {
            lab.flush(0);
        }
        10 => lab.hold(n, Pending::is_write),
        11 => lab.hold(n, |_| true),
        12 | 13 => {
            lab.let_go(n);
            lab.let_packets_go(n);
            lab.let_block_digests_go();
        }
        14 => lab.hold_packets(n),
        15 => lab.hold_digests = true,
        16 => {
            let request = AdminRequest::Invalidate { volume: VOLUME, reset_bitmap: true };
            lab.begin(1, request);
        }
        17 => {
            let start = Some(SECTORS - 200 * 8);
            lab.begin(n, AdminRequest::Verify { peer, volume: VOLUME, start, stop: None });
        }
        18 => {
            lab.begin(n, AdminRequest::Connect { peer, tentative: false, discard_my_data: false });
        }
        19 if random.below(4) == 0 => {
            lab.begin(n, AdminRequest::Detach { volume: VOLUME, force: false, diskless: false });
        }
        20 if lab.nodes[n].engine.devices[0].backing.is_none() => {
            let request = lab.nodes[n].attach_request(true, true);
            lab.begin(n, AdminRequest::Attach(request));
        }
        21 if !lab.nodes[n].pending.is_empty() => lab.let_one_go(n, IoResult::Done),
        22 if random.below(4) == 0 => {
            lab.cut();
            lab.mend();
        }
        _ => lab.pass_ms(random.below(900)),
    }
}

fn run(protocol: &str, seed: u64) -> (u64, u64) {
    let pairs = [
        ("protocol", protocol),
        ("connect-int", "1"),
        ("ping-int", "1"),
        ("verify-alg", "sha1"),
        ("csums-alg", if seed % 2 == 0 { "sha1" } else { "" }),
    ];
    let mut lab = Lab::with([net(&pairs), net(&pairs)], Format::V09);
    lab.connect();
    lab.primary(0, true).expect("forced");
    lab.wait("in sync", Lab::is_in_sync);
    lab.mutation = Some(Mutation::new(seed, 12));
    lab.honest = false;
    let mut random = Random::new(seed);
    for content in 1..150 {
        step(&mut lab, &mut random, content);
    }
    for n in 0..2 {
        lab.let_go(n);
        lab.let_packets_go(n);
    }
    lab.let_block_digests_go();
    for n in 0..2 {
        let peer = NodeId(1 - n as u8);
        lab.begin(n, AdminRequest::Disconnect { peer, force: true });
    }
    lab.pass_ms(60_000);
    lab.let_block_digests_go();
    for n in 0..2 {
        let pending = lab.nodes[n].engine.devices[0].counters.upper_pending;
        assert_eq!(pending, 0, "a request of node {n} hangs");
    }
    lab.check_buffers();
    let mutation = lab.mutation.take().expect("it was set");
    (mutation.changed, mutation.malformed)
}

#[test]
fn no_engine_falls_over_a_wrong_byte() {
    let (mut changed, mut malformed) = (0, 0);
    for seed in 0..40 {
        for protocol in ["A", "B", "C"] {
            let outcome = std::panic::catch_unwind(|| run(protocol, seed));
            let Ok((c, m)) = outcome else { panic!("protocol {protocol}, seed {seed}") };
            (changed, malformed) = (changed + c, malformed + m);
        }
    }
    assert!(changed - malformed > 500, "{malformed} of {changed} are seen by the framer already");
}
