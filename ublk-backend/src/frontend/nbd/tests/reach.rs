//! Who comes in, by which door, and how long a connection may go on without opening anything.

use super::*;
use std::net::TcpListener;
use std::path::PathBuf;

const LIST: u32 = 3;
const GO: u32 = 7;
const SECOND: u64 = 1_000_000_000;

/// A server with two volumes and a port, a step at a time.
struct Lab {
    ring: Ring,
    pools: Pools,
    nbd: NbdServer,
    port: std::net::SocketAddr,
    socket: PathBuf,
    now: Instant,
    opened: Vec<VolumeNumber>,
}

impl Lab {
    fn new(name: &str) -> Lab {
        let mut ring = Ring::threads().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap();
        let reach = Reach { resource: "r0".to_owned(), port: Some(listener), ..Reach::default() };
        let mut nbd = NbdServer::new(reach, &mut ring);
        let socket = std::env::temp_dir().join(format!("udrbd-reach-{}-{name}", std::process::id()));
        for volume in [3, 1] {
            let _ = std::fs::remove_file(&socket);
            let listener = UnixListener::bind(&socket).unwrap();
            listener.set_nonblocking(true).unwrap();
            nbd.export(VolumeNumber(volume), listener, &mut ring);
        }
        Lab { ring, pools: Pools::new().unwrap(), nbd, port, socket, now: Instant(1), opened: Vec::new() }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.port).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        client
    }

    /// Until nothing has happened for a moment.
    fn settle(&mut self) {
        while self.settle_once() {}
    }

    fn settle_once(&mut self) -> bool {
        let mut done: Vec<Completion> = Vec::new();
        self.ring.turn(Some(Duration::from_millis(30)), &mut done).unwrap();
        let some = !done.is_empty();
        let (ring, pools, uppers) = (&mut self.ring, &mut self.pools, &mut UpperTable::default());
        for completion in done.drain(..) {
            let slot = completion.token.0 as u32;
            match completion.token.0 >> 32 {
                x if x == Source::NbdListen as u64 => {
                    self.nbd.on_listener(slot, self.now, ring, pools);
                    continue;
                }
                x if x == Source::NbdReceive as u64 => {
                    self.nbd.on_received(slot, completion.result, pools);
                }
                _ => self.nbd.on_sent(slot, completion.result, ring, pools),
            }
            loop {
                match self.nbd.next(slot, &Engine::ALL, ring, pools, uppers) {
                    Next::Wait => break,
                    Next::Opened(volume) => self.opened.push(volume),
                    Next::Upper(_) | Next::Closed(_) | Next::KernelLeft(_) => {}
                }
            }
        }
        self.nbd.flush(&mut self.ring);
        some
    }

    fn sessions(&self) -> usize {
        self.nbd.sessions.iter().flatten().count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn hello(options: &[Vec<u8>]) -> Vec<u8> {
    [&3u32.to_be_bytes()[..], &options.concat()].concat()
}

/// Whether the server has closed it.
fn is_ended(client: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match client.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_port_opens_any_volume_a_socket_its_own() {
    let mut lab = Lab::new("doors");
    let go =
        |name: &str| hello(&[option(GO, &[&[0, 0, 0, name.len() as u8], name.as_bytes(), &[0; 2]].concat())]);
    let mut clients: Vec<TcpStream> = Vec::new();
    for name in ["3", "", "r0/1", "2"] {
        let mut client = lab.connect();
        client.write_all(&go(name)).unwrap();
        lab.settle();
        clients.push(client);
    }
    // The socket that is there is the one of volume 1.
    let mut local = UnixStream::connect(&lab.socket).unwrap();
    local.write_all(&go("3")).unwrap();
    local.write_all(&go("")[4..]).unwrap();
    lab.settle();
    assert_eq!(lab.opened, [3, 1, 1, 1].map(VolumeNumber));
    lab.nbd.withdraw(VolumeNumber(1), &mut lab.ring, &mut lab.pools);
    lab.settle();
    assert_eq!(clients.iter_mut().map(is_ended).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!(lab.sessions(), 2, "who has not opened anything may open what is left");
}

#[test]
fn who_opens_nothing_keeps_nobody_out() {
    let mut lab = Lab::new("crowd");
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..UNOPENED_MAX + 6 {
        crowd.push(lab.connect());
        lab.settle();
    }
    assert_eq!(lab.sessions(), UNOPENED_MAX);
    let ended: Vec<bool> = crowd.iter_mut().map(is_ended).collect();
    assert!(ended.iter().enumerate().all(|(n, ended)| *ended == (n < 6)), "{ended:?}");
    let mut honest = lab.connect();
    honest.write_all(&hello(&[option(GO, &[0; 6])])).unwrap();
    lab.settle();
    assert_eq!(lab.opened.len(), 1);
}

#[test]
fn who_takes_too_long_is_broken_off() {
    let mut lab = Lab::new("late");
    let mut open = lab.connect();
    open.write_all(&hello(&[option(GO, &[0; 6])])).unwrap();
    lab.settle();
    assert_eq!(lab.nbd.next_deadline(), None, "who has opened something has no end");
    let mut early = lab.connect();
    lab.settle();
    lab.now = Instant(1 + 20 * SECOND);
    let mut late = lab.connect();
    // That it goes on talking does not give it more time.
    early.write_all(&hello(&[option(LIST, &[])])).unwrap();
    lab.settle();
    assert_eq!(lab.nbd.next_deadline(), Some(Instant(1 + 30 * SECOND)));
    lab.nbd.on_time(Instant(1 + 30 * SECOND), &mut lab.pools);
    lab.settle();
    assert_eq!([&mut open, &mut early, &mut late].map(is_ended), [false, true, false]);
    assert_eq!(lab.sessions(), 2);
}

/// The most that waits to be sent while a client says this again and again, and reads nothing.
fn longest_queue(lab: &mut Lab, client: &mut TcpStream, said: &[u8]) -> usize {
    client.set_nonblocking(true).unwrap();
    let mut longest = 0;
    for _ in 0..400 {
        let mut rest = said;
        // Whole requests only, or what follows would mean something else.
        while !rest.is_empty() {
            match client.write(rest) {
                Ok(bytes) => rest = &rest[bytes..],
                Err(_) if rest.len() == said.len() => break,
                Err(_) => {
                    lab.settle_once();
                    if lab.nbd.sessions.iter().flatten().all(|s| s.stream.queued_bytes() > 60_000) {
                        return longest;
                    }
                }
            }
        }
        lab.settle_once();
        let sessions = lab.nbd.sessions.iter().flatten();
        longest = longest.max(sessions.map(|s| s.stream.queued_bytes()).sum());
    }
    longest
}

#[test]
fn options_whose_answers_nobody_reads_are_not_looked_at() {
    let mut lab = Lab::new("unread");
    let mut client = lab.connect();
    client.write_all(&hello(&[])).unwrap();
    let longest = longest_queue(&mut lab, &mut client, &option(LIST, &[]).repeat(1000));
    assert!(longest > 0 && longest < UNREAD_OPTIONS_BYTES_MAX + 4096, "{longest} bytes wait");
}

#[test]
fn requests_whose_answers_nobody_reads_are_not_looked_at() {
    let mut lab = Lab::new("unread-requests");
    let mut client = lab.connect();
    client.write_all(&hello(&[option(GO, &[0; 6])])).unwrap();
    lab.settle();
    let mut refused = REQUEST_MAGIC.to_be_bytes().to_vec();
    refused.extend_from_slice(&[0, 0, 0, 9]);
    refused.resize(28, 0);
    let longest = longest_queue(&mut lab, &mut client, &refused.repeat(20_000));
    // Without data an answer is small, and many of them would take the memory of all others.
    assert!(longest > 0 && longest < 300 << 10, "{longest} bytes wait");
}
