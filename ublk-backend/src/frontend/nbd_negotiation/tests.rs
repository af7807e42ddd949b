use super::*;
use crate::frontend::{StatusContext, StatusRun};
use drbd_core::engine::RequestLimits;
use drbd_core::ids::Sector;

struct Fixed(Result<Sector, String>);

impl Gate for Fixed {
    fn may_open(&self, _: VolumeNumber) -> Result<Sector, String> {
        self.0.clone()
    }

    fn limits(&self, _: VolumeNumber) -> RequestLimits {
        RequestLimits::LARGEST
    }

    fn block_status(
        &self,
        _: VolumeNumber,
        _: StatusContext,
        _: std::ops::Range<u64>,
        _: usize,
    ) -> Vec<StatusRun> {
        unreachable!("nobody asks in a negotiation")
    }
}

fn open() -> Fixed {
    Fixed(Ok(Sector(2048)))
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn greeted() -> Negotiation {
    let mut negotiation = Negotiation::default();
    let mut answer = Vec::new();
    let step = negotiation.step(&3u32.to_be_bytes(), VolumeNumber(0), &open(), &mut answer);
    assert_eq!(step, Step::Consumed(4));
    negotiation
}

/// Kinds and data of the replies.
fn replies(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(be64(bytes), REPLY_MAGIC);
        let length = be32(&bytes[16..]) as usize;
        replies.push((be32(&bytes[12..]), bytes[20..20 + length].to_vec()));
        bytes = &bytes[20 + length..];
    }
    replies
}

fn ask(negotiation: &mut Negotiation, gate: &Fixed, bytes: &[u8]) -> (Step, Vec<u8>) {
    let mut answer = Vec::new();
    let step = negotiation.step(bytes, VolumeNumber(0), gate, &mut answer);
    (step, answer)
}

const GO: [u8; 6] = [0; 6];

#[test]
fn go_tells_size_flags_and_block_sizes() {
    let mut negotiation = greeted();
    let bytes = option(option::STRUCTURED_REPLY, &[]);
    let (step, answer) = ask(&mut negotiation, &open(), &bytes);
    assert_eq!((step, replies(&answer)), (Step::Consumed(16), vec![(reply::ACK, vec![])]));
    let (step, answer) = ask(&mut negotiation, &open(), &option(option::GO, &GO));
    assert_eq!(step, Step::Begin(22));
    let replies = replies(&answer);
    assert_eq!(replies.iter().map(|r| r.0).collect::<Vec<_>>(), [reply::INFO, reply::INFO, reply::ACK]);
    assert_eq!(be64(&replies[0].1[2..]), 1 << 20);
    let flags = u16::from_be_bytes([replies[0].1[10], replies[0].1[11]]);
    assert_eq!(flags, 0b1_1110_1101, "flush, FUA, trim, write zeroes, don't fragment, several connections");
    assert_eq!(be32(&replies[1].1[2..]), 512);
}

#[test]
fn a_secondary_says_whose_turn_it_is() {
    let closed = Fixed(Err("r0 is Secondary; run drbdadm primary r0".to_owned()));
    let mut negotiation = greeted();
    for number in [option::GO, option::INFO] {
        let (step, answer) = ask(&mut negotiation, &closed, &option(number, &GO));
        assert_eq!(step, Step::Consumed(22));
        let (kind, data) = replies(&answer).remove(0);
        assert_eq!(kind, reply::ERR_POLICY);
        assert!(String::from_utf8(data).unwrap().contains("drbdadm primary r0"));
    }
    let (step, answer) = ask(&mut negotiation, &closed, &option(option::EXPORT_NAME, &[]));
    assert_eq!((step, answer.len()), (Step::End(16), 0));
}

#[test]
fn the_old_way_to_open() {
    let mut negotiation = greeted();
    let (step, answer) = ask(&mut negotiation, &open(), &option(option::EXPORT_NAME, &[]));
    assert_eq!((step, answer.len()), (Step::Begin(16), 10), "NO_ZEROES was agreed");
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut negotiation = greeted();
    let bytes = option(option::GO, &GO);
    for end in 0..bytes.len() {
        let (step, answer) = ask(&mut negotiation, &open(), &bytes[..end]);
        assert_eq!((step, answer.len()), (Step::NeedMore, 0));
    }
    assert_eq!(ask(&mut negotiation, &open(), &bytes).0, Step::Begin(22));
}

#[test]
fn nonsense_is_refused_or_ends_it() {
    let mut fresh = Negotiation::default();
    let unknown_flag = (1u32 << 7 | 1).to_be_bytes();
    assert_eq!(ask(&mut fresh, &open(), &unknown_flag).0, Step::End(4));
    let mut negotiation = greeted();
    let (step, answer) = ask(&mut negotiation, &open(), &option(5, &[]));
    assert_eq!((step, replies(&answer)[0].0), (Step::Consumed(16), reply::ERR_UNSUP));
    let (_, answer) = ask(&mut negotiation, &open(), &option(option::GO, &[0, 0, 0, 9, 0, 0]));
    assert_eq!(replies(&answer)[0].0, reply::ERR_INVALID);
    let (_, answer) = ask(&mut negotiation, &open(), &option(option::GO, &[0, 0, 0, 1, b'x', 0, 0]));
    assert_eq!(replies(&answer)[0].0, reply::ERR_UNKNOWN);
    let mut huge = option(option::GO, &[]);
    huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(ask(&mut negotiation, &open(), &huge).0, Step::End(_)));
    assert!(matches!(ask(&mut negotiation, &open(), &[0; 16]).0, Step::End(_)));
}

#[test]
fn list_and_abort() {
    let mut negotiation = greeted();
    let (_, answer) = ask(&mut negotiation, &open(), &option(option::LIST, &[]));
    assert_eq!(replies(&answer), vec![(reply::SERVER, vec![0; 4]), (reply::ACK, vec![])]);
    let (step, _) = ask(&mut negotiation, &open(), &option(option::ABORT, &[]));
    assert_eq!(step, Step::End(16));
}

fn contexts(queries: &[&str]) -> Vec<u8> {
    let mut data = vec![0; 4];
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}

#[test]
fn contexts_need_structured_replies_and_are_chosen_anew_each_time() {
    let mut negotiation = greeted();
    let choose = |negotiation: &mut Negotiation, number, queries: &[&str]| {
        let (step, answer) = ask(negotiation, &open(), &option(number, &contexts(queries)));
        assert!(matches!(step, Step::Consumed(_)));
        replies(&answer).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
    };
    let (list, set) = (option::LIST_META_CONTEXT, option::SET_META_CONTEXT);
    assert_eq!(choose(&mut negotiation, set, &["base:allocation"]), [reply::ERR_INVALID]);
    ask(&mut negotiation, &open(), &option(option::STRUCTURED_REPLY, &[]));
    let one = [reply::META_CONTEXT, reply::ACK];
    assert_eq!(choose(&mut negotiation, list, &[]), [reply::META_CONTEXT, reply::META_CONTEXT, reply::ACK]);
    assert_eq!(negotiation.contexts.chosen().count(), 0);
    assert_eq!(choose(&mut negotiation, set, &["base:allocation"]), one);
    assert_eq!(negotiation.contexts.chosen().count(), 1);
    let (_, answer) = ask(&mut negotiation, &open(), &option(set, &[0; 3]));
    assert_eq!(replies(&answer)[0].0, reply::ERR_INVALID);
    assert_eq!(negotiation.contexts.chosen().count(), 0, "a choice that was refused is none");
    let mut other = contexts(&["base:allocation"]);
    other.splice(..4, [0, 0, 0, 1, b'x']);
    let (_, answer) = ask(&mut negotiation, &open(), &option(set, &other));
    assert_eq!(replies(&answer)[0].0, reply::ERR_UNKNOWN);
}

#[test]
fn extended_headers_stand_for_structured_replies() {
    let mut negotiation = greeted();
    let (_, answer) = ask(&mut negotiation, &open(), &option(option::EXTENDED_HEADERS, &[1]));
    assert_eq!(replies(&answer)[0].0, reply::ERR_INVALID);
    assert!(!negotiation.extended);
    let (_, answer) = ask(&mut negotiation, &open(), &option(option::EXTENDED_HEADERS, &[]));
    assert_eq!(replies(&answer), [(reply::ACK, Vec::new())]);
    assert!(negotiation.extended && negotiation.structured);
    let (_, answer) = ask(&mut negotiation, &open(), &option(option::STRUCTURED_REPLY, &[]));
    assert_eq!(replies(&answer)[0].0, reply::ERR_EXT_HEADER_REQD);
}
