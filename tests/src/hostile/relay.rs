//! Between two nodes: each dials the relay instead of the other.

use super::acknowledgements::Owed;
use super::lies::Words;
use crate::capture::digest_bytes;
use crate::sim::Prng;
use drbd_core::wire::header::header_bytes;
use drbd_core::wire::{encode, handshake, Features, Frame, Framer, Packet, Stream};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What to do to the packets of the connections that begin from now on.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// All that is chosen follows from it.
    pub seed: u64,
    /// So many packets pass first.
    pub honest_packets: u64,
    /// Then so many in a thousand are lies. 0: the relay only listens.
    pub lies_per_mille: u64,
}

/// What came of a round.
#[derive(Clone, Default, Debug)]
pub struct RoundReport {
    /// Packets that were changed, left out, doubled or made up.
    pub lies: u64,
    /// All packets.
    pub packets: u64,
    /// Connections of which the two agreed on a version.
    pub sessions: u64,
    /// Sockets that ended.
    pub ended: u64,
    /// What a node did that it must not do.
    pub wrong: Vec<String>,
}

/// State of all connections at present.
struct State {
    round: Round,
    /// Which round that is. What still arrives on sockets of an earlier one does not count.
    number: u64,
    dice: Prng,
    words: Words,
    report: RoundReport,
    /// What the two agreed on.
    version: u32,
    /// By node: what it was delivered and owes an answer for. None: what it understood is not known any more.
    owed: Option<[Owed; 2]>,
    open: Vec<TcpStream>,
}

/// See the module.
#[derive(Clone)]
pub struct Relay {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relay({:?})", self.lock().round)
    }
}

/// A socket between the two, as far as both directions have to know it.
#[derive(Default)]
struct Pair {
    stream: Option<Stream>,
    features: [Option<Features>; 2],
    version: Option<u32>,
}

impl Relay {
    /// Listens at `at[n]` for the other node's dialling node n, which listens at `nodes[n]`.
    ///
    /// # Errors
    /// An address is taken.
    pub fn begin(at: [SocketAddr; 2], nodes: [SocketAddr; 2]) -> io::Result<Relay> {
        let round = Round { seed: 0, honest_packets: 0, lies_per_mille: 0 };
        let state = State {
            round,
            number: 0,
            dice: Prng::new(0, 0),
            words: Words::new(),
            report: RoundReport::default(),
            version: 101,
            owed: None,
            open: Vec::new(),
        };
        let relay = Relay { state: Arc::new(Mutex::new(state)) };
        for n in 0..2 {
            let (listener, relay) = (TcpListener::bind(at[n])?, relay.clone());
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let _ = relay.connect(client, nodes[n], n);
                }
            });
        }
        Ok(relay)
    }

    /// Ends all connections and begins a round; what came of the one before.
    pub fn round(&self, round: Round) -> RoundReport {
        let mut state = self.lock();
        for socket in state.open.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        state.round = round;
        state.number += 1;
        state.dice = Prng::new(round.seed, 7);
        state.owed = Some(<[Owed; 2]>::default());
        std::mem::take(&mut state.report)
    }

    /// How the present round goes.
    pub fn report(&self) -> RoundReport {
        self.lock().report.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the relay panics")
    }

    /// Node `to` is dialled.
    fn connect(&self, client: TcpStream, address: SocketAddr, to: usize) -> io::Result<()> {
        let server = TcpStream::connect(address)?;
        let round = self.lock().number;
        let pair = Arc::new(Mutex::new(Pair::default()));
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(Duration::from_millis(2)))?;
            socket.set_write_timeout(Some(Duration::from_secs(5)))?;
            self.lock().open.push(socket.try_clone()?);
        }
        if self.lock().number != round {
            // Another round has begun, which ends only the sockets it knows.
            let _ = client.shutdown(Shutdown::Both);
            return server.shutdown(Shutdown::Both);
        }
        let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
        let ways = [
            Way::new((self, round), from_client, server, to, Arc::clone(&pair)),
            Way::new((self, round), from_server, client, 1 - to, pair),
        ];
        for mut way in ways {
            thread::spawn(move || {
                let _ = way.pass();
                way.end();
            });
        }
        Ok(())
    }
}

/// One direction of a socket.
struct Way {
    relay: Relay,
    round: u64,
    from: TcpStream,
    to: TcpStream,
    /// The node it leads to.
    node: usize,
    pair: Arc<Mutex<Pair>>,
    framer: Framer,
    /// What the receiver makes of it.
    heard: Framer,
    heard_bulk: usize,
    pending: Vec<u8>,
    partial: Vec<u8>,
    bulk: usize,
}

impl Way {
    fn new(
        (relay, round): (&Relay, u64),
        from: TcpStream,
        to: TcpStream,
        node: usize,
        pair: Arc<Mutex<Pair>>,
    ) -> Way {
        Way {
            relay: relay.clone(),
            round,
            from,
            to,
            node,
            pair,
            framer: Framer::new(),
            heard: Framer::new(),
            heard_bulk: 0,
            pending: Vec::new(),
            partial: Vec::new(),
            bulk: 0,
        }
    }

    fn pass(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
                Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind()) => {}
                Err(e) => return Err(e),
            }
            while self.pass_some()? {}
        }
    }

    fn end(&self) {
        let _ = self.to.shutdown(Shutdown::Both);
        let _ = self.from.shutdown(Shutdown::Both);
        let mut state = self.relay.lock();
        if state.number == self.round {
            state.report.ended += 1;
        }
    }

    /// Passes bulk or a packet on, if there is one.
    fn pass_some(&mut self) -> io::Result<bool> {
        self.learn_of_other_direction();
        if self.pending.is_empty() {
            return Ok(false);
        }
        if self.bulk > 0 {
            let length = self.bulk.min(self.pending.len());
            let bytes: Vec<u8> = self.pending.drain(..length).collect();
            self.bulk -= length;
            return self.deliver(&bytes).map(|()| true);
        }
        let Ok(fed) = self.framer.feed(&self.pending) else {
            // What an honest node says is always understood, unless a lie changed what it has to say.
            let bytes = std::mem::take(&mut self.pending);
            return self.deliver(&bytes).map(|()| true);
        };
        let consumed = fed.consumed;
        self.partial.extend(self.pending.drain(..consumed));
        let Some(frame) = fed.frame else { return Ok(consumed > 0) };
        let packet = std::mem::take(&mut self.partial);
        self.bulk = frame.packet.bulk_bytes() as usize;
        self.learn(&frame);
        let told = self.lie(&frame, packet);
        self.deliver(&told).map(|()| true)
    }

    fn learn_of_other_direction(&mut self) {
        let pair = self.pair.lock().expect("no thread of the relay panics");
        for framer in [&mut self.framer, &mut self.heard] {
            if let Some(stream) = pair.stream {
                framer.set_stream(stream);
            }
            if let Some(version) = pair.version {
                framer.set_version(version);
            }
        }
    }

    fn learn(&mut self, frame: &Frame) {
        let mut pair = self.pair.lock().expect("no thread of the relay panics");
        let mut state = self.relay.state.lock().expect("no thread of the relay panics");
        match &frame.packet {
            Packet::InitialData => pair.stream = Some(Stream::Data),
            Packet::InitialMeta => {
                pair.stream = Some(Stream::Control);
                pair.version = Some(state.version);
            }
            Packet::Features(features) => {
                pair.features[self.node] = Some(*features);
                if let [Some(ours), Some(theirs)] = pair.features {
                    if let Ok(agreed) = handshake::agree(ours, theirs) {
                        pair.version = Some(agreed.version);
                        state.version = agreed.version;
                        state.report.sessions += 1;
                    }
                }
            }
            Packet::Protocol(settings) | Packet::ProtocolUpdate(settings) => {
                self.framer.set_integrity_bytes(digest_bytes(&settings.integrity_alg));
            }
            _ => {}
        }
        // The node that sent this answers what it was delivered.
        let sender = 1 - self.node;
        let counts = state.number == self.round;
        let owed = state.owed.as_mut().filter(|_| counts);
        let wrong = owed.and_then(|owed| owed[sender].answers(frame).err());
        if let Some(wrong) = wrong {
            state.report.wrong.push(wrong);
        }
    }

    /// What is delivered in the place of a packet.
    fn lie(&mut self, frame: &Frame, mut packet: Vec<u8>) -> Vec<u8> {
        let pair = self.pair.lock().expect("no thread of the relay panics");
        let (stream, version) = (pair.stream.unwrap_or(Stream::Data), pair.version.unwrap_or(80));
        drop(pair);
        let mut state = self.relay.lock();
        let State { round, dice, words, report, owed, .. } = &mut *state;
        report.packets += 1;
        words.learn(dice, &packet);
        if report.packets <= round.honest_packets || !dice.chance(round.lies_per_mille) {
            return packet;
        }
        report.lies += 1;
        if changes_understanding(&frame.packet) {
            *owed = None;
        }
        let header = header_bytes(version).min(packet.len());
        let has_bulk = frame.packet.bulk_bytes() > 0;
        match dice.below(12) {
            0..=4 => words.change_field(dice, &mut packet, header),
            5 => {
                *owed = None;
                words.change_header(dice, &mut packet, header);
            }
            6 if !has_bulk => packet.extend(packet.clone()),
            7 if !has_bulk => packet.clear(),
            8 if !has_bulk => {
                *owed = None;
                let length = dice.below(packet.len() as u64 + 1) as usize;
                packet.truncate(length);
            }
            9 => {
                *owed = None;
                let at = dice.below(packet.len() as u64) as usize;
                packet[at] ^= 1 << dice.below(8);
            }
            _ => {
                let made_up = words.packet(dice, stream);
                if changes_understanding(&made_up.packet) {
                    *owed = None;
                }
                let mut more = Vec::new();
                // Older headers say at most 64 KiB.
                if version >= 95 || made_up.packet.bulk_bytes() < 1 << 15 {
                    encode(&made_up, version, &mut more);
                }
                more.extend(packet);
                packet = more;
            }
        }
        packet
    }

    /// The receiver gets that; what it makes of it is remembered.
    fn deliver(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let bulk = self.heard_bulk.min(rest.len());
            self.heard_bulk -= bulk;
            rest = &rest[bulk..];
            let Ok(fed) = self.heard.feed(rest) else { break };
            if fed.consumed == 0 && fed.frame.is_none() {
                break;
            }
            rest = &rest[fed.consumed..];
            if let Some(frame) = fed.frame {
                self.heard_bulk = frame.packet.bulk_bytes() as usize;
                if let Packet::Protocol(settings) | Packet::ProtocolUpdate(settings) = &frame.packet {
                    self.heard.set_integrity_bytes(digest_bytes(&settings.integrity_alg));
                }
                let mut state = self.relay.lock();
                let counts = state.number == self.round;
                if let Some(owed) = state.owed.as_mut().filter(|_| counts) {
                    owed[self.node].delivered(&frame);
                }
            }
        }
        self.to.write_all(bytes)
    }
}

/// After a lie about such a packet it is anybody's guess what the receiver understands.
fn changes_understanding(packet: &Packet) -> bool {
    matches!(
        packet,
        Packet::Features(_)
            | Packet::Protocol(_)
            | Packet::ProtocolUpdate(_)
            | Packet::InitialData
            | Packet::InitialMeta
    )
}
