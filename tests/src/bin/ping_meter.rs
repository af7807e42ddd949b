//! A proxy between two nodes that measures how soon one of them answers a ping.
//!
//! `ping_meter MILLISECONDS TESTED LISTEN-FOR-PEER PEER LISTEN-FOR-TESTED` (all but the first are ports of 127.0.0.1)
//! relays every connection between the two. On the control stream it adds pings of its own to the tested node, one
//! every 50 ms, once the peer has sent one; the answers to these are taken out again. Each line on standard input closes
//! a measurement: so many pings, the longest wait for an answer (a ping not answered yet counts as well). After the line
//! `end` the exit code tells whether every wait was shorter than MILLISECONDS.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const INITIAL_META: u16 = 0xfff1;
const PING: u16 = 0x13;
const PING_ACK: u16 = 0x14;
const PING_100: [u8; 16] = [0x86, 0x20, 0xec, 0x20, 0, 0, 0, 0x13, 0, 0, 0, 0, 0, 0, 0, 0];
const INTERVAL: Duration = Duration::from_millis(50);
const PACKET_BYTES_MAX: u32 = 1 << 16;

/// The pings to the tested node that wait for their answer, and what was measured.
#[derive(Default)]
struct Meter {
    /// When each was sent, and whether it was ours.
    waiting: VecDeque<(Instant, bool)>,
    answered: u64,
    longest: Duration,
}

impl Meter {
    fn longest_yet(&self) -> Duration {
        let oldest = self.waiting.front().map(|(sent, _)| sent.elapsed());
        self.longest.max(oldest.unwrap_or_default())
    }
}

type SharedMeter = Arc<Mutex<Meter>>;

fn main() -> ExitCode {
    let numbers: Vec<u16> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [limit_ms, tested, for_peer, peer, for_tested] = numbers[..] else {
        eprintln!("usage: ping_meter MILLISECONDS TESTED LISTEN-FOR-PEER PEER LISTEN-FOR-TESTED");
        return ExitCode::from(20);
    };
    let meter = SharedMeter::default();
    for (listen, target, dialler_is_tested) in [(for_peer, tested, false), (for_tested, peer, true)] {
        let listener = match TcpListener::bind(("127.0.0.1", listen)) {
            Ok(listener) => listener,
            Err(e) => {
                eprintln!("ping_meter: 127.0.0.1:{listen}: {e}");
                return ExitCode::FAILURE;
            }
        };
        let meter = meter.clone();
        thread::spawn(move || {
            for dialler in listener.incoming().flatten() {
                let meter = meter.clone();
                thread::spawn(move || relay_connection(&dialler, target, dialler_is_tested, &meter));
            }
        });
    }
    measure(Duration::from_millis(limit_ms.into()), &meter)
}

fn measure(limit: Duration, meter: &SharedMeter) -> ExitCode {
    let mut all_in_time = true;
    for line in io::stdin().lines().map_while(Result::ok) {
        let mut meter = lock(meter);
        let longest = meter.longest_yet();
        println!("{} pings, longest wait {:.1} ms", meter.answered, longest.as_secs_f64() * 1000.0);
        all_in_time &= meter.answered > 0 && longest < limit;
        meter.answered = 0;
        meter.longest = Duration::ZERO;
        if line == "end" {
            break;
        }
    }
    if all_in_time {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn relay_connection(dialler: &TcpStream, target: u16, dialler_is_tested: bool, meter: &SharedMeter) {
    let Ok(acceptor) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let _ = relay_both_ways(dialler, &acceptor, dialler_is_tested, meter);
    for stream in [dialler, &acceptor] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn relay_both_ways(
    dialler: &TcpStream,
    acceptor: &TcpStream,
    dialler_is_tested: bool,
    meter: &SharedMeter,
) -> io::Result<()> {
    dialler.set_nodelay(true)?;
    acceptor.set_nodelay(true)?;
    let first = read_packet(&mut &*dialler)?;
    (&*acceptor).write_all(&first.bytes)?;
    if first.command != INITIAL_META {
        return thread::scope(|scope| {
            scope.spawn(|| copy_until_end(dialler, acceptor));
            copy_until_end(acceptor, dialler)
        });
    }
    let (tested, peer) = if dialler_is_tested { (dialler, acceptor) } else { (acceptor, dialler) };
    lock(meter).waiting.clear();
    thread::scope(|scope| {
        scope.spawn(|| from_tested(tested, peer, meter));
        to_tested(peer, tested, meter)
    })
}

fn copy_until_end(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let result = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    result.map(|_| ())
}

/// Packets of the peer, and between them pings of ours.
fn to_tested(mut peer: &TcpStream, mut tested: &TcpStream, meter: &SharedMeter) -> io::Result<()> {
    let mut pinging = false;
    let result = loop {
        if pinging && !readable_within(peer, INTERVAL)? {
            lock(meter).waiting.push_back((Instant::now(), true));
            tested.write_all(&PING_100)?;
            continue;
        }
        match read_packet(&mut peer) {
            Ok(packet) => {
                if packet.command == PING {
                    pinging = true;
                    lock(meter).waiting.push_back((Instant::now(), false));
                }
                tested.write_all(&packet.bytes)?;
            }
            Err(e) => break Err(e),
        }
    };
    let _ = tested.shutdown(Shutdown::Both);
    result
}

/// Packets of the tested node without the answers to our pings.
fn from_tested(mut tested: &TcpStream, mut peer: &TcpStream, meter: &SharedMeter) -> io::Result<()> {
    while let Ok(packet) = read_packet(&mut tested) {
        let mut ours = false;
        if packet.command == PING_ACK {
            let mut meter = lock(meter);
            if let Some((sent, of_us)) = meter.waiting.pop_front() {
                ours = of_us;
                meter.answered += 1;
                meter.longest = meter.longest.max(sent.elapsed());
            }
        }
        if !ours {
            peer.write_all(&packet.bytes)?;
        }
    }
    peer.shutdown(Shutdown::Both)
}

fn readable_within(stream: &TcpStream, time: Duration) -> io::Result<bool> {
    stream.set_read_timeout(Some(time))?;
    let result = stream.peek(&mut [0]);
    stream.set_read_timeout(None)?;
    match result {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
        Err(e) => Err(e),
    }
}

struct Packet {
    command: u16,
    bytes: Vec<u8>,
}

fn read_packet(from: &mut impl Read) -> io::Result<Packet> {
    let mut bytes = vec![0; 8];
    from.read_exact(&mut bytes)?;
    let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (command, length, rest) = match (half(0), word(0)) {
        (_, 0x8374_0267) => (half(4), u32::from(half(6)), 0),
        (_, 0x8620_ec20) => (half(6), 0, 8),
        (0x835a, _) => (half(2), word(4), 0),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no DRBD header")),
    };
    let mut more = vec![0; rest];
    from.read_exact(&mut more)?;
    let length = if rest == 0 { length } else { u32::from_be_bytes([more[0], more[1], more[2], more[3]]) };
    if length > PACKET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet too long for this stream"));
    }
    bytes.append(&mut more);
    let begin = bytes.len();
    bytes.resize(begin + length as usize, 0);
    from.read_exact(&mut bytes[begin..])?;
    Ok(Packet { command, bytes })
}

fn lock(meter: &SharedMeter) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}
