//! Clients that agree on more: metadata contexts, extended headers.

use super::*;
use crate::frontend::nbd_session::replies::EXTENDED_CHUNK_MAGIC;
use crate::frontend::nbd_session::status::{CHUNK_BLOCK_STATUS, CHUNK_BLOCK_STATUS_EXTENDED};
use crate::frontend::nbd_session::{
    COMMAND_BLOCK_STATUS, COMMAND_PAYLOAD, COMMAND_REQ_ONE, EXTENDED_REQUEST_MAGIC,
};

const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const EXTENDED_HEADERS: u32 = 11;
const CHUNK_NONE: u16 = 0;

struct Chooser {
    socket: UnixStream,
    extended: bool,
}

/// A chunk: flags, kind, the offset it names, its body.
type Chunk = (u16, u16, Option<u64>, Vec<u8>);

impl Chooser {
    fn connect(extended: bool, contexts: &[&str]) -> (Chooser, std::thread::JoinHandle<Vec<&'static str>>) {
        let name = format!("udrbd-nbd-{}-chooser-{extended}-{}", std::process::id(), contexts.len());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = serve(listener, Engine::ALL);
        let socket = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut chooser = Chooser { socket, extended };
        chooser.receive(18);
        chooser.socket.write_all(&3u32.to_be_bytes()).unwrap();
        let first = if extended { EXTENDED_HEADERS } else { STRUCTURED_REPLY };
        assert_eq!(chooser.option(first, &[]), [(1, Vec::new())]);
        let mut queries = vec![0; 4];
        queries.extend_from_slice(&(contexts.len() as u32).to_be_bytes());
        for context in contexts {
            queries.extend_from_slice(&(context.len() as u32).to_be_bytes());
            queries.extend_from_slice(context.as_bytes());
        }
        assert_eq!(chooser.option(SET_META_CONTEXT, &queries).len(), contexts.len() + 1);
        assert_eq!(chooser.option(7, &[0; 6]).last(), Some(&(1, Vec::new())));
        (chooser, server)
    }

    fn receive(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.socket.read_exact(&mut data).unwrap();
        data
    }

    /// Kinds and data of the replies, up to the last.
    fn option(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(data);
        self.socket.write_all(&bytes).unwrap();
        let mut replies = Vec::new();
        loop {
            let head = self.receive(20);
            let kind = be32(&head[12..]);
            let data = self.receive(be32(&head[16..]) as usize);
            replies.push((kind, data));
            if kind == 1 || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    fn send(&mut self, flags: u16, command: u16, offset: u64, bytes: u64, data: &[u8]) {
        let magic = if self.extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        let mut request = magic.to_be_bytes().to_vec();
        request.extend_from_slice(&flags.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&77u64.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        if self.extended {
            request.extend_from_slice(&bytes.to_be_bytes());
        } else {
            request.extend_from_slice(&(bytes as u32).to_be_bytes());
        }
        request.extend_from_slice(data);
        self.socket.write_all(&request).unwrap();
    }

    fn chunk(&mut self) -> Chunk {
        let head = self.receive(if self.extended { 32 } else { 20 });
        let magic = if self.extended { EXTENDED_CHUNK_MAGIC } else { CHUNK_MAGIC };
        assert_eq!((be32(&head), be64(&head[8..])), (magic, 77));
        let flags = u16::from_be_bytes([head[4], head[5]]);
        let kind = u16::from_be_bytes([head[6], head[7]]);
        let length = if self.extended { be64(&head[24..]) } else { u64::from(be32(&head[16..])) };
        let body = self.receive(length as usize);
        (flags, kind, self.extended.then(|| be64(&head[16..])), body)
    }

    /// Number of the context and its runs.
    fn status(&mut self) -> (u16, u32, Vec<(u64, u64)>) {
        let (flags, kind, _, body) = self.chunk();
        let number = be32(&body);
        if !self.extended {
            assert_eq!(kind, CHUNK_BLOCK_STATUS);
            let run = |r: &[u8]| (u64::from(be32(r)), u64::from(be32(&r[4..])));
            return (flags, number, body[4..].chunks(8).map(run).collect());
        }
        assert_eq!(kind, CHUNK_BLOCK_STATUS_EXTENDED);
        let runs: Vec<_> = body[8..].chunks(16).map(|r| (be64(r), be64(&r[8..]))).collect();
        assert_eq!(be32(&body[4..]) as usize, runs.len());
        (flags, number, runs)
    }

    fn finish(mut self, server: std::thread::JoinHandle<Vec<&'static str>>) -> Vec<&'static str> {
        self.send(0, 2, 0, 0, &[]);
        server.join().unwrap()
    }
}

#[test]
fn blocks_are_told_of_in_each_context_chosen() {
    for extended in [false, true] {
        let (mut client, server) = Chooser::connect(extended, &["base:allocation", "udrbd:out-of-sync"]);
        let (half, size) = (SIZE_BYTES as u64 / 2, SIZE_BYTES as u64);
        client.send(0, COMMAND_BLOCK_STATUS, 4096, size - 4096, &[]);
        assert_eq!(client.status(), (0, 1, vec![(half - 4096, 0), (half, 3)]));
        assert_eq!(client.status(), (CHUNK_DONE, 2, vec![(half - 4096, 0), (half, 1)]));
        client.send(COMMAND_REQ_ONE, COMMAND_BLOCK_STATUS, 0, size, &[]);
        assert_eq!(client.status(), (0, 1, vec![(half, 0)]));
        assert_eq!(client.status(), (CHUNK_DONE, 2, vec![(half, 0)]));
        for (offset, bytes) in [(0, size + 1), (size, 1), (0, 0), (u64::MAX, 4096)] {
            client.send(0, COMMAND_BLOCK_STATUS, offset, bytes, &[]);
            let (flags, kind, _, body) = client.chunk();
            assert_eq!(
                (flags, kind, be32(&body)),
                (CHUNK_DONE, CHUNK_ERROR, error::INVAL),
                "{offset}+{bytes}"
            );
        }
        assert_eq!(client.finish(server), ["opened"]);
    }
}

#[test]
fn a_context_nobody_chose_is_not_told() {
    let (mut client, server) = Chooser::connect(true, &[]);
    client.send(0, COMMAND_BLOCK_STATUS, 0, 4096, &[]);
    let (flags, kind, offset, body) = client.chunk();
    assert_eq!((flags, kind, offset, be32(&body)), (CHUNK_DONE, CHUNK_ERROR, Some(0), error::INVAL));
    client.finish(server);
}

#[test]
fn extended_headers_carry_everything() {
    let (mut client, server) = Chooser::connect(true, &[]);
    let data = pattern(3 << 20);
    client.send(COMMAND_PAYLOAD, 1, 4096, data.len() as u64, &data);
    assert_eq!(client.chunk(), (CHUNK_DONE, CHUNK_NONE, Some(4096), Vec::new()));
    client.send(COMMAND_DONT_FRAGMENT, 0, 4096, data.len() as u64, &[]);
    let (flags, kind, offset, body) = client.chunk();
    assert_eq!((flags, kind, offset, be64(&body)), (CHUNK_DONE, CHUNK_DATA, Some(4096), 4096));
    assert_eq!(body[8..], data);
    client.send(0, 6, 0, SIZE_BYTES as u64, &[]);
    assert_eq!(client.chunk(), (CHUNK_DONE, CHUNK_NONE, Some(0), Vec::new()));
    // Longer than 32 bits, and than the volume.
    client.send(0, 4, 0, 1 << 40, &[]);
    let (_, kind, _, body) = client.chunk();
    assert_eq!((kind, be32(&body)), (CHUNK_ERROR, error::INVAL));
    // A payload nobody asked for is thrown away.
    client.send(COMMAND_PAYLOAD, 4, 0, 100, &[9; 100]);
    let (_, kind, _, body) = client.chunk();
    assert_eq!((kind, be32(&body)), (CHUNK_ERROR, error::INVAL));
    client.send(0, 3, 0, 0, &[]);
    assert_eq!(client.chunk(), (CHUNK_DONE, CHUNK_NONE, Some(0), Vec::new()));
    let seen = client.finish(server);
    assert_eq!(seen.iter().filter(|op| **op == "flush").count(), 1);
}

#[test]
fn a_write_without_its_flag_ends_the_session() {
    let (mut client, server) = Chooser::connect(true, &[]);
    client.send(0, 1, 0, 512, &[0; 512]);
    assert_eq!(client.socket.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(server.join().unwrap(), ["opened"]);
}
