use super::*;
use crate::frontend::nbd_negotiation::{be32, be64};
use crate::frontend::nbd_session::replies::{CHUNK_DATA, CHUNK_DONE, CHUNK_ERROR, CHUNK_MAGIC, SIMPLE_MAGIC};
use crate::frontend::nbd_session::{error, COMMAND_DONT_FRAGMENT, COMMAND_FUA, REQUEST_MAGIC};
use crate::frontend::{Asker, StatusContext, StatusRun, UpperTable, Waiting};
use crate::ring::Completion;
use drbd_core::engine::{RequestLimits, UpperOp};
use drbd_core::ids::{PayloadId, Sector, UpperTag};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

mod options;
mod reach;

const SIZE_BYTES: usize = 8 << 20;

/// What the engine takes, and what it said when a session looked before it asked.
struct Engine {
    fail: Option<UpperResult>,
    takes: RequestLimits,
    said: RequestLimits,
}

impl Engine {
    const ALL: Engine = Engine { fail: None, takes: RequestLimits::LARGEST, said: RequestLimits::LARGEST };
}

impl Gate for Engine {
    fn limits(&self, _: VolumeNumber) -> RequestLimits {
        self.said
    }

    fn may_open(&self, _: VolumeNumber) -> Result<Sector, String> {
        Ok(Sector::from_bytes(SIZE_BYTES as u64))
    }

    /// The second half of the volume is what the context is about.
    fn block_status(
        &self,
        _: VolumeNumber,
        context: StatusContext,
        stretch: std::ops::Range<u64>,
        most: usize,
    ) -> Vec<StatusRun> {
        let half = SIZE_BYTES as u64 / 2;
        let flags = if context == StatusContext::Allocation { 3 } else { 1 };
        let first = StatusRun { bytes: stretch.end.min(half).saturating_sub(stretch.start), flags: 0 };
        let second = StatusRun { bytes: stretch.end.saturating_sub(stretch.start.max(half)), flags };
        [first, second].into_iter().filter(|run| run.bytes > 0).take(most).collect()
    }
}

/// A server whose "engine" is an array. Ends when the session is closed.
fn serve(listener: UnixListener, engine: Engine) -> std::thread::JoinHandle<Vec<&'static str>> {
    serve_both(listener, None, engine)
}

fn serve_both(
    listener: UnixListener,
    kernel: Option<OwnedFd>,
    engine: Engine,
) -> std::thread::JoinHandle<Vec<&'static str>> {
    std::thread::spawn(move || {
        let mut ring = Ring::threads().unwrap();
        let mut pools = Pools::new().unwrap();
        let mut nbd = NbdServer::default();
        let mut table = UpperTable::default();
        nbd.export(VolumeNumber(0), listener, &mut ring);
        if let Some(kernel) = kernel {
            nbd.serve_kernel(VolumeNumber(0), kernel, &mut ring, &mut pools);
            nbd.resized(VolumeNumber(0), Sector(8));
            // The volume goes, and the kernel is told by netlink.
            nbd.withdraw(VolumeNumber(0), &mut ring, &mut pools);
        }
        let mut data = vec![0u8; SIZE_BYTES];
        let mut seen = Vec::new();
        let mut done: Vec<Completion> = Vec::new();
        let mut stalled = Vec::new();
        loop {
            ring.turn(Some(Duration::from_secs(20)), &mut done).unwrap();
            assert!(!done.is_empty(), "the client said nothing for long");
            let mut slots = Vec::new();
            for completion in done.drain(..) {
                let slot = completion.token.0 as u32;
                match completion.token.0 >> 32 {
                    x if x == Source::NbdListen as u64 => {
                        nbd.on_listener(slot, Instant(1), &mut ring, &mut pools);
                    }
                    x if x == Source::NbdReceive as u64 => {
                        nbd.on_received(slot, completion.result, &mut pools);
                        slots.push(slot);
                    }
                    _ => {
                        nbd.on_sent(slot, completion.result, &mut ring, &mut pools);
                        slots.push(slot);
                    }
                }
            }
            nbd.take_stalled(&mut stalled);
            slots.append(&mut stalled);
            for slot in slots {
                loop {
                    match nbd.next(slot, &engine, &mut ring, &mut pools, &mut table) {
                        Next::Upper(upper) => {
                            let mut uppers = VecDeque::from([upper]);
                            while let Some(upper) = uppers.pop_front() {
                                seen.push(name(upper.op));
                                let (result, payload) = engine.carry_out(&upper, &mut data, &mut pools);
                                let now = Engine { said: engine.takes, ..engine };
                                let waiting = table.remove(upper.tag).unwrap();
                                let Asker::Nbd(slot) = waiting.asker else { panic!("{waiting:?}") };
                                let done = (result, payload);
                                nbd.complete(slot, &waiting, done, &now, &mut pools, &mut table);
                                uppers.extend(table.take_again());
                            }
                        }
                        Next::Opened(_) => seen.push("opened"),
                        Next::Closed(_) => {
                            assert_eq!(pools.payloads.free_bytes(), 128 << 20, "every buffer came back");
                            return seen;
                        }
                        Next::KernelLeft(_) => {
                            seen.push("kernel left");
                            return seen;
                        }
                        Next::Wait => break,
                    }
                }
            }
            nbd.flush(&mut ring);
        }
    })
}

impl Engine {
    fn carry_out(
        &self,
        upper: &UpperRequest,
        data: &mut [u8],
        pools: &mut Pools,
    ) -> (UpperResult, PayloadId) {
        if !self.takes.fits(upper.op, upper.bytes) {
            return (UpperResult::Split, upper.payload);
        }
        let result = self.fail.unwrap_or(UpperResult::Done);
        if result == UpperResult::Done {
            act(upper, data, pools);
            if upper.op == UpperOp::Read {
                return (result, upper.payload);
            }
        }
        pools.payloads.release(upper.payload);
        (result, PayloadId::NONE)
    }
}

fn name(op: UpperOp) -> &'static str {
    match op {
        UpperOp::Read => "read",
        UpperOp::Write => "write",
        UpperOp::Flush => "flush",
        UpperOp::Discard => "discard",
        UpperOp::WriteZeroes { .. } => "zeroes",
    }
}

fn act(upper: &UpperRequest, data: &mut [u8], pools: &Pools) {
    let at = upper.sector.bytes() as usize;
    let Some(range) = data.get_mut(at..at + upper.bytes as usize) else { return };
    match upper.op {
        UpperOp::Read => pools.payloads.span(upper.payload).put(range),
        UpperOp::Write => range.copy_from_slice(&pools.payloads.span(upper.payload).bytes()[..range.len()]),
        UpperOp::Discard | UpperOp::WriteZeroes { .. } => range.fill(0),
        UpperOp::Flush => {}
    }
}

struct Client {
    socket: UnixStream,
    structured: bool,
}

impl Client {
    fn connect(name: &str, structured: bool, engine: Engine) -> (Client, ServerEnd) {
        let path = std::env::temp_dir().join(format!("udrbd-nbd-{}-{name}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = serve(listener, engine);
        let mut socket = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut greeting = [0; 18];
        socket.read_exact(&mut greeting).unwrap();
        let mut hello = 3u32.to_be_bytes().to_vec();
        let options: &[u32] = if structured { &[8, 7] } else { &[7] };
        for number in options {
            hello.extend_from_slice(b"IHAVEOPT");
            hello.extend_from_slice(&number.to_be_bytes());
            let data: &[u8] = if *number == 7 { &[0; 6] } else { &[] };
            hello.extend_from_slice(&(data.len() as u32).to_be_bytes());
            hello.extend_from_slice(data);
        }
        socket.write_all(&hello).unwrap();
        let wanted = 20 * (options.len() + 2) + 12 + 14;
        socket.read_exact(&mut vec![0; wanted]).unwrap();
        (Client { socket, structured }, ServerEnd(server))
    }

    fn send(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, bytes: u32, data: &[u8]) {
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend_from_slice(&flags.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&bytes.to_be_bytes());
        request.extend_from_slice(data);
        self.socket.write_all(&request).unwrap();
    }

    fn simple(&mut self) -> (u32, u64) {
        let mut reply = [0; 16];
        self.socket.read_exact(&mut reply).unwrap();
        assert_eq!(be32(&reply), SIMPLE_MAGIC);
        (be32(&reply[4..]), be64(&reply[8..]))
    }

    /// Data and error of a read.
    fn read(&mut self, flags: u16, offset: u64, bytes: u32) -> (Vec<u8>, u32, usize) {
        self.send(flags, 0, 77, offset, bytes, &[]);
        let mut data = vec![0xee; bytes as usize];
        if !self.structured {
            let (error, cookie) = self.simple();
            assert_eq!(cookie, 77);
            if error == 0 {
                self.socket.read_exact(&mut data).unwrap();
            }
            return (data, error, 1);
        }
        let (mut error, mut chunks) = (0, 0);
        loop {
            let mut head = [0; 20];
            self.socket.read_exact(&mut head).unwrap();
            assert_eq!((be32(&head), be64(&head[8..])), (CHUNK_MAGIC, 77));
            let mut body = vec![0; be32(&head[16..]) as usize];
            self.socket.read_exact(&mut body).unwrap();
            chunks += 1;
            match u16::from_be_bytes([head[6], head[7]]) {
                CHUNK_DATA => {
                    let at = (be64(&body) - offset) as usize;
                    data[at..at + body.len() - 8].copy_from_slice(&body[8..]);
                }
                CHUNK_ERROR => error = be32(&body),
                other => panic!("chunk type {other}"),
            }
            if u16::from_be_bytes([head[4], head[5]]) & CHUNK_DONE != 0 {
                return (data, error, chunks);
            }
        }
    }

    fn finish(mut self, server: ServerEnd) -> Vec<&'static str> {
        self.send(0, 2, 0, 0, 0, &[]);
        server.0.join().unwrap()
    }
}

struct ServerEnd(std::thread::JoinHandle<Vec<&'static str>>);

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n / 512 + n) as u8).collect()
}

#[test]
fn large_writes_and_reads_are_split_and_whole_again() {
    for structured in [false, true] {
        let (mut client, server) = Client::connect(&format!("large-{structured}"), structured, Engine::ALL);
        let data = pattern(5 << 20);
        client.send(0, 1, 1, 4096, data.len() as u32, &data);
        assert_eq!(client.simple(), (0, 1));
        let (read, error, chunks) = client.read(0, 4096, data.len() as u32);
        assert_eq!((error, chunks), (0, if structured { 5 } else { 1 }));
        assert!(read == data);
        let (read, error, chunks) = client.read(COMMAND_DONT_FRAGMENT, 4096, data.len() as u32);
        assert_eq!((error, chunks), (0, 1));
        assert!(read == data);
        let seen = client.finish(server);
        assert_eq!(seen.iter().filter(|s| **s == "write").count(), 5);
    }
}

#[test]
fn every_command_reaches_the_engine() {
    let (mut client, server) = Client::connect("commands", true, Engine::ALL);
    client.send(COMMAND_FUA, 1, 1, 0, 512, &[9; 512]);
    assert_eq!(client.simple(), (0, 1));
    client.send(0, 3, 2, 0, 0, &[]);
    assert_eq!(client.simple(), (0, 2));
    client.send(0, 6, 3, 0, 512, &[]);
    assert_eq!(client.simple(), (0, 3));
    client.send(0, 4, 4, 512, 512, &[]);
    assert_eq!(client.simple(), (0, 4));
    assert_eq!(client.read(0, 0, 512).0, vec![0; 512]);
    assert_eq!(client.finish(server), ["opened", "write", "flush", "zeroes", "discard", "read"]);
}

#[test]
fn an_old_peer_is_sent_what_it_takes() {
    let takes = RequestLimits { data_bytes: 32 << 10, discard_bytes: 0, zeroes_bytes: 0 };
    // Looked at before every request, or only told when the peer is there already.
    for (name, said) in [("old-peer", takes), ("old-peer-came", RequestLimits::LARGEST)] {
        let came = usize::from(said != takes);
        let (mut client, server) = Client::connect(name, true, Engine { fail: None, takes, said });
        let data = pattern((1 << 20) + 4096);
        client.send(COMMAND_FUA, 1, 1, 512, data.len() as u32, &data);
        assert_eq!(client.simple(), (0, 1));
        let (read, error, _) = client.read(0, 512, data.len() as u32);
        assert_eq!(error, 0);
        assert!(read == data);
        let (read, error, chunks) = client.read(COMMAND_DONT_FRAGMENT, 512, 200 << 10);
        assert_eq!((error, chunks), (0, 1));
        assert!(read == data[..200 << 10]);
        client.send(0, 4, 2, 0, 4 << 20, &[]);
        assert_eq!(client.simple(), (0, 2), "a hint that is not taken");
        assert!(client.read(0, 512, 4096).0 == data[..4096]);
        client.send(0, 6, 3, 512, 100 << 10, &[]);
        assert_eq!(client.simple(), (0, 3));
        let (read, error, _) = client.read(0, 512, 200 << 10);
        assert_eq!(error, 0);
        assert!(read[..100 << 10].iter().all(|b| *b == 0) && read[100 << 10..] == data[100 << 10..200 << 10]);
        let seen = client.finish(server);
        let count = |what| seen.iter().filter(|s| **s == what).count();
        assert_eq!(count("write"), 33 + 4 + came);
        assert_eq!((count("zeroes"), count("discard")), (came, came));
    }
}

#[test]
fn bad_requests_are_answered_and_do_not_reach_the_engine() {
    let (mut client, server) = Client::connect("bad", true, Engine::ALL);
    client.send(0, 1, 1, 100, 512, &[0; 512]);
    assert_eq!(client.simple(), (error::INVAL, 1));
    client.send(0, 1, 2, SIZE_BYTES as u64, 512, &[0; 512]);
    assert_eq!(client.simple(), (error::NOSPC, 2));
    client.send(0, 9, 3, 0, 512, &[]);
    assert_eq!(client.simple(), (error::INVAL, 3));
    assert_eq!(client.read(0, u64::MAX - 511, 512).1, error::INVAL);
    assert_eq!(client.finish(server), ["opened"]);
}

#[test]
fn failures_are_errors_never_data() {
    for (result, number) in [(UpperResult::IoError, error::IO), (UpperResult::NotPrimary, error::PERM)] {
        let (mut client, server) =
            Client::connect(&format!("fail-{number}"), true, Engine { fail: Some(result), ..Engine::ALL });
        let (data, error, _) = client.read(0, 0, 3 << 20);
        assert_eq!(error, number);
        assert!(data.iter().all(|b| *b == 0xee));
        client.send(0, 1, 5, 0, 512, &[0; 512]);
        assert_eq!(client.simple(), (number, 5));
        client.finish(server);
    }
}

#[test]
fn a_client_that_dies_in_a_write_leaves_nothing_behind() {
    let (mut client, server) = Client::connect("dies", true, Engine::ALL);
    client.send(0, 1, 1, 0, 2 << 20, &[1; 100_000]);
    drop(client);
    assert_eq!(server.0.join().unwrap(), ["opened"]);
}

#[test]
fn many_requests_in_one_piece() {
    let (mut client, server) = Client::connect("many", true, Engine::ALL);
    let mut writer = client.socket.try_clone().unwrap();
    let feeder = std::thread::spawn(move || {
        let mut all = Vec::new();
        for n in 0u64..500 {
            all.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
            all.extend_from_slice(&[0, 0, 0, 1]);
            all.extend_from_slice(&n.to_be_bytes());
            all.extend_from_slice(&(n * 4096).to_be_bytes());
            all.extend_from_slice(&4096u32.to_be_bytes());
            all.extend_from_slice(&[n as u8; 4096]);
        }
        writer.write_all(&all).unwrap();
    });
    for n in 0..500 {
        assert_eq!(client.simple(), (0, n));
    }
    feeder.join().unwrap();
    assert_eq!(client.read(0, 499 * 4096, 4096).0, vec![499u64 as u8; 4096]);
    client.finish(server);
}

#[test]
fn tags_come_back_in_any_order() {
    let mut table = UpperTable::default();
    let upper = UpperRequest {
        tag: UpperTag(0),
        volume: VolumeNumber(0),
        op: UpperOp::Flush,
        sector: Sector(0),
        bytes: 0,
        payload: PayloadId::NONE,
        fua: false,
    };
    let a = table.insert(Waiting { asker: Asker::Nbd(1), request: 1, offset_bytes: 0, upper });
    let b = table.insert(Waiting { asker: Asker::Ublk(2), request: 2, offset_bytes: 0, upper });
    assert_eq!(table.remove(b.tag).unwrap().asker, Asker::Ublk(2));
    assert!(table.remove(b.tag).is_none());
    assert_eq!(table.remove(a.tag).unwrap().asker, Asker::Nbd(1));
}

#[test]
fn a_client_that_reads_no_answers_does_not_take_all_buffers() {
    let (mut client, server) = Client::connect("unread", true, Engine::ALL);
    let asking = 200;
    for n in 0..asking {
        client.send(0, 0, n, 0, 1 << 20, &[]);
    }
    // More than the pool's share of front ends was asked for; all of it comes once someone reads.
    let mut chunk = vec![0; 28 + (1 << 20)];
    for n in 0..asking {
        client.socket.read_exact(&mut chunk).unwrap();
        assert_eq!((be32(&chunk), be64(&chunk[8..])), (CHUNK_MAGIC, n));
    }
    assert_eq!(client.finish(server).len(), 201);
}

#[test]
fn the_kernel_is_served_without_a_greeting_and_counts_as_no_opener() {
    let path = std::env::temp_dir().join(format!("udrbd-nbd-{}-kernel", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (ours, kernels) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let server = serve_both(listener, Some(ours.into()), Engine::ALL);
    let mut client = Client { socket: kernels, structured: false };
    client.send(0, 1, 1, 512, 512, &[7; 512]);
    assert_eq!(client.simple(), (error::NONE, 1));
    assert_eq!(client.read(0, 512, 512), (vec![7; 512], error::NONE, 1));
    // Beyond the size it was told.
    client.send(0, 4, 2, 4096, 512, &[]);
    assert_eq!(client.simple(), (error::INVAL, 2));
    client.send(0, 2, 3, 0, 0, &[]);
    assert_eq!(server.join().unwrap(), ["write", "read", "kernel left"]);
}
