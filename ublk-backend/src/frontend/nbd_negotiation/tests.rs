use super::*;
use crate::frontend::nbd_offer::Door;
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

const VOLUME: VolumeNumber = VolumeNumber(0);
const SOCKET: Offer<'_> =
    Offer { resource: "r0", volumes: &[VOLUME], door: Door::Socket(VOLUME), tls: Tls::Off };
const PORT: Offer<'_> =
    Offer { volumes: &[VOLUME, VolumeNumber(3)], door: Door::Port, tls: Tls::Off, ..SOCKET };

fn greeted() -> Negotiation {
    let mut negotiation = Negotiation::default();
    let (step, _) = ask(&mut negotiation, &open(), &3u32.to_be_bytes());
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
    ask_at(&SOCKET, negotiation, gate, bytes)
}

fn ask_at(offer: &Offer<'_>, negotiation: &mut Negotiation, gate: &Fixed, bytes: &[u8]) -> (Step, Vec<u8>) {
    let mut answer = Vec::new();
    let step = negotiation.step(bytes, offer, gate, &mut answer);
    (step, answer)
}

/// The data of GO for an export.
fn go(name: &str) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&[0; 2]);
    data
}

const GO: [u8; 6] = [0; 6];

#[test]
fn go_tells_size_flags_and_block_sizes() {
    let mut negotiation = greeted();
    let bytes = option(option::STRUCTURED_REPLY, &[]);
    let (step, answer) = ask(&mut negotiation, &open(), &bytes);
    assert_eq!((step, replies(&answer)), (Step::Consumed(16), vec![(reply::ACK, vec![])]));
    let (step, answer) = ask(&mut negotiation, &open(), &option(option::GO, &GO));
    assert_eq!(step, Step::Begin(22, VOLUME));
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
    assert_eq!((step, answer.len()), (Step::Begin(16, VOLUME), 10), "NO_ZEROES was agreed");
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut negotiation = greeted();
    let bytes = option(option::GO, &GO);
    for end in 0..bytes.len() {
        let (step, answer) = ask(&mut negotiation, &open(), &bytes[..end]);
        assert_eq!((step, answer.len()), (Step::NeedMore, 0));
    }
    assert_eq!(ask(&mut negotiation, &open(), &bytes).0, Step::Begin(22, VOLUME));
}

#[test]
fn nonsense_is_refused_or_ends_it() {
    let mut fresh = Negotiation::default();
    let unknown_flag = (1u32 << 7 | 1).to_be_bytes();
    assert_eq!(ask(&mut fresh, &open(), &unknown_flag).0, Step::End(4));
    let mut negotiation = greeted();
    let (step, answer) = ask(&mut negotiation, &open(), &option(99, &[]));
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

#[test]
fn a_port_has_all_volumes_by_name() {
    let mut negotiation = greeted();
    let (_, answer) = ask_at(&PORT, &mut negotiation, &open(), &option(option::LIST, &[]));
    let listed = [(reply::SERVER, vec![0, 0, 0, 1, b'0']), (reply::SERVER, vec![0, 0, 0, 1, b'3'])];
    assert_eq!(replies(&answer)[..2], listed);
    for (name, volume) in [("3", VolumeNumber(3)), ("r0/0", VOLUME), ("", VOLUME)] {
        let asked = option(option::GO, &go(name));
        let (step, _) = ask_at(&PORT, &mut greeted(), &open(), &asked);
        assert_eq!(step, Step::Begin(asked.len(), volume));
        let old = option(option::EXPORT_NAME, name.as_bytes());
        let (step, _) = ask_at(&PORT, &mut greeted(), &open(), &old);
        assert_eq!(step, Step::Begin(old.len(), volume));
    }
    let (_, answer) = ask_at(&PORT, &mut negotiation, &open(), &option(option::INFO, &go("1")));
    let (kind, sentence) = replies(&answer).remove(0);
    assert_eq!(kind, reply::ERR_UNKNOWN);
    assert!(String::from_utf8(sentence).unwrap().contains("r0/0, r0/3"));
}

#[test]
fn contexts_are_of_the_volume_they_were_chosen_for() {
    for (name, chosen) in [("3", 1), ("r0/3", 1), ("", 0)] {
        let mut negotiation = greeted();
        ask(&mut negotiation, &open(), &option(option::STRUCTURED_REPLY, &[]));
        let mut data = contexts(&["base:allocation"]);
        data.splice(..4, [0, 0, 0, 1, b'3']);
        ask_at(&PORT, &mut negotiation, &open(), &option(option::SET_META_CONTEXT, &data));
        ask_at(&PORT, &mut negotiation, &open(), &option(option::GO, &go(name)));
        assert_eq!(negotiation.contexts.chosen().count(), chosen, "{name}");
    }
}

#[test]
fn without_tls_what_needs_it_is_refused() {
    let require = Offer { tls: Tls::Require, ..PORT };
    let all = [
        option::LIST,
        option::INFO,
        option::GO,
        option::STRUCTURED_REPLY,
        option::LIST_META_CONTEXT,
        option::SET_META_CONTEXT,
        option::EXTENDED_HEADERS,
        99,
    ];
    for number in all {
        let mut negotiation = greeted();
        let asked = option(number, &GO);
        let (step, answer) = ask_at(&require, &mut negotiation, &open(), &asked);
        assert_eq!((step, replies(&answer)[0].0), (Step::Consumed(asked.len()), reply::ERR_TLS_REQD));
        assert_eq!(negotiation, greeted(), "nothing of it was taken");
        let mut within = Negotiation::within_tls(true);
        let (_, answer) = ask_at(&require, &mut within, &open(), &asked);
        assert_ne!(replies(&answer)[0].0, reply::ERR_TLS_REQD);
    }
    let (step, answer) = ask_at(&require, &mut greeted(), &open(), &option(option::EXPORT_NAME, &[]));
    assert_eq!((step, answer.len()), (Step::End(16), 0));
    let (step, _) = ask_at(&require, &mut greeted(), &open(), &option(option::ABORT, &[]));
    assert_eq!(step, Step::End(16));
}

#[test]
fn tls_is_begun_once_where_there_is_any() {
    let asked = option(option::STARTTLS, &[]);
    for tls in [Tls::On, Tls::Require] {
        let offer = Offer { tls, ..PORT };
        let (step, answer) = ask_at(&offer, &mut greeted(), &open(), &asked);
        assert_eq!((step, replies(&answer)), (Step::BeginTls(16), vec![(reply::ACK, vec![])]));
        for (mut negotiation, asked) in
            [(Negotiation::within_tls(true), asked.clone()), (greeted(), option(option::STARTTLS, &[1]))]
        {
            let (step, answer) = ask_at(&offer, &mut negotiation, &open(), &asked);
            assert_eq!((step, replies(&answer)[0].0), (Step::Consumed(asked.len()), reply::ERR_INVALID));
        }
    }
    let (step, answer) = ask_at(&PORT, &mut greeted(), &open(), &asked);
    assert_eq!((step, replies(&answer)[0].0), (Step::Consumed(16), reply::ERR_POLICY));
}

#[test]
fn tls_undoes_what_was_agreed_before_but_the_greeting() {
    for no_zeroes in [false, true] {
        let mut negotiation = Negotiation::within_tls(no_zeroes);
        assert!(!negotiation.structured && !negotiation.extended);
        let (_, answer) = ask(&mut negotiation, &open(), &option(option::EXPORT_NAME, &[]));
        assert_eq!(answer.len(), if no_zeroes { 10 } else { 134 });
    }
}

#[test]
fn a_socket_never_needs_tls() {
    let all = [Tls::Off, Tls::On, Tls::Require];
    assert_eq!(all.map(|tls| Door::Port.tls(tls)), all);
    assert_eq!(all.map(|tls| Door::Socket(VOLUME).tls(tls)), [Tls::Off, Tls::On, Tls::On]);
}
