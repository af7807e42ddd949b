use super::*;
use crate::payload_pool::{PayloadPool, Share};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

fn both(test: impl Fn(&mut Ring, &mut PayloadPool)) {
    let mut pool = PayloadPool::new(8 << 20, 8 << 20).unwrap();
    test(&mut Ring::threads().unwrap(), &mut pool);
    if let Ok(ring) = uring::Uring::new(16) {
        test(&mut Ring::Uring(Box::new(ring)), &mut pool);
    }
}

fn span(pool: &mut PayloadPool, bytes: usize) -> Span {
    let taken = pool.take(bytes, Share::Peer).unwrap();
    pool.span(taken)
}

fn finish(ring: &mut Ring, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    while done.len() < count {
        ring.turn(Some(Duration::from_secs(10)), &mut done).unwrap();
    }
    done.sort_by_key(|c| c.token.0);
    done
}

fn temp_file(name: &str) -> std::fs::File {
    let path = std::env::temp_dir().join(format!("udrbd-ring-{}-{name}", std::process::id()));
    let file =
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

#[test]
fn files_are_written_read_and_zeroed() {
    both(|ring, pool| {
        let file = temp_file("rw");
        file.set_len(1 << 20).unwrap();
        let span = span(pool, 8192);
        span.put(&[0x5a; 8192]);
        for n in 0..100 {
            let op = Op::Write { span, offset_bytes: n * 8192, stable: n % 2 == 0 };
            if n % 3 == 0 {
                ring.queue_apart(Token(n), file.as_raw_fd(), op);
            } else {
                ring.queue(Token(n), file.as_raw_fd(), op);
            }
        }
        assert!(finish(ring, 100).iter().all(|c| c.result == 8192));
        ring.queue(Token(1), file.as_raw_fd(), Op::Sync);
        let punch = Op::Allocate { how: Allocate::PunchHole, offset_bytes: 4096, bytes: 4096 };
        ring.queue(Token(2), file.as_raw_fd(), punch);
        assert!(finish(ring, 2).iter().all(|c| c.result == 0));
        span.clear();
        ring.queue(Token(3), file.as_raw_fd(), Op::Read { span, offset_bytes: 0 });
        assert_eq!(finish(ring, 1)[0], Completion { token: Token(3), result: 8192 });
        assert!(span.bytes()[..4096].iter().all(|&b| b == 0x5a));
        assert!(span.bytes()[4096..].iter().all(|&b| b == 0));
    });
}

#[test]
fn sockets_scatter_and_gather() {
    both(|ring, pool| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let a = span(pool, 4096);
        let b = span(pool, 4096);
        a.put(b"head");
        b.put(b"body");
        ring.queue(Token(1), ours.as_raw_fd(), Op::Send { spans: &[a.part(0, 4), b.part(0, 4)] });
        assert_eq!(finish(ring, 1)[0].result, 8);
        let mut got = [0; 8];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"headbody");
        ring.queue(Token(2), ours.as_raw_fd(), Op::Receive { spans: &[a.part(0, 2), b] });
        theirs.write_all(b"123456").unwrap();
        assert_eq!(finish(ring, 1)[0].result, 6);
        assert_eq!(&a.bytes()[..2], b"12");
        assert_eq!(&b.bytes()[..4], b"3456");
    });
}

#[test]
fn readiness_can_be_cancelled_and_time_passes() {
    both(|ring, _| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ring.queue(Token(5), ours.as_raw_fd(), Op::Ready { write: false });
        let mut done = Vec::new();
        ring.turn(Some(Duration::from_millis(20)), &mut done).unwrap();
        assert!(done.is_empty());
        ring.cancel(Token(5));
        assert_eq!(finish(ring, 1)[0], Completion { token: Token(5), result: -libc::ECANCELED });
        ring.queue(Token(6), ours.as_raw_fd(), Op::Ready { write: false });
        drop(theirs);
        assert!(finish(ring, 1)[0].result > 0);
    });
}

#[test]
fn a_shut_socket_ends_its_receive() {
    both(|ring, pool| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let a = span(pool, 4096);
        ring.queue(Token(1), ours.as_raw_fd(), Op::Receive { spans: &[a] });
        let mut done = Vec::new();
        ring.turn(Some(Duration::from_millis(1)), &mut done).unwrap();
        ours.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(finish(ring, 1)[0].result, 0);
    });
}

#[test]
fn errors_are_numbers() {
    both(|ring, pool| {
        let file = std::fs::File::open("/dev/null").unwrap();
        let a = span(pool, 4096);
        ring.queue(Token(1), file.as_raw_fd(), Op::Write { span: a, offset_bytes: 0, stable: false });
        assert_eq!(finish(ring, 1)[0].result, -libc::EBADF);
    });
}

#[test]
fn what_may_be_pinned_is_transferred_as_the_rest_is() {
    let mut pool = PayloadPool::new(4 << 20, 4 << 20).unwrap();
    let beginning = pool.prefer_beginning(2 << 20);
    let Ok(mut ring) = uring::Uring::new(16).map(|ring| Ring::Uring(Box::new(ring))) else { return };
    if ring.let_pin(beginning).is_err() {
        return;
    }
    let file = temp_file("pinned");
    // The piece of the beginning, and memory behind it; a part of a buffer as well as all of it.
    let spans: Vec<Span> = (0..4).map(|_| span(&mut pool, 1 << 20)).collect();
    for (n, span) in (0u8..).zip(&spans) {
        span.put(&vec![n + 1; span.len()]);
        let op = Op::Write { span: span.part(4096, 8192), offset_bytes: u64::from(n) * 8192, stable: false };
        ring.queue(Token(u64::from(n)), file.as_raw_fd(), op);
    }
    assert!(finish(&mut ring, 4).iter().all(|c| c.result == 8192));
    spans.iter().for_each(Span::clear);
    for (n, span) in (0u64..).zip(&spans) {
        ring.queue(
            Token(n),
            file.as_raw_fd(),
            Op::Read { span: span.part(4096, 8192), offset_bytes: n * 8192 },
        );
    }
    assert!(finish(&mut ring, 4).iter().all(|c| c.result == 8192));
    for (n, span) in (0u8..).zip(&spans) {
        let expected = [(0, 4096), (n + 1, 8192), (0, (1 << 20) - 12288)];
        let mut rest = span.bytes();
        for (byte, bytes) in expected {
            let (begin, end) = rest.split_at(bytes);
            assert!(begin.iter().all(|&b| b == byte), "buffer {n}, from {}", (1 << 20) - rest.len());
            rest = end;
        }
    }
}
