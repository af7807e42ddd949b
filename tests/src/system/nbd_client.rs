//! A small NBD client on a unix socket, or any other stream: fixed newstyle negotiation with GO, simple replies, any number of requests in
//! flight. It knows just what a test needs to write, to read back and to be sure which write was acknowledged.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const MAGIC_SERVER: u64 = 0x4e42_444d_4147_4943;
const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const MAGIC_REQUEST: u32 = 0x2560_9513;
const MAGIC_SIMPLE_REPLY: u32 = 0x6744_6698;
const FLAGS_FIXED_NEWSTYLE_NO_ZEROES: u16 = 0b11;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
const REPLY_BYTES_MAX: u32 = 1 << 16;

/// What can be asked of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Bytes from the device.
    Read,
    /// Bytes to the device.
    Write,
    /// Everything acknowledged before is on stable storage when this is.
    Flush,
    /// The extent's content is of no interest any more.
    Trim,
}

impl Operation {
    const fn number(self) -> u16 {
        match self {
            Operation::Read => 0,
            Operation::Write => 1,
            Operation::Flush => 3,
            Operation::Trim => 4,
        }
    }
}

/// Why the server could not be reached or used.
#[derive(Debug)]
pub enum Fault {
    /// The socket failed; `UnexpectedEof` when the server went away.
    Io(io::Error),
    /// The server refused the export, with its number and sentence.
    Refused(u32, String),
    /// The server sent what the protocol does not allow.
    Protocol(&'static str),
    /// One request failed, with its errno.
    Errno(u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io(e) => write!(f, "NBD socket: {e}"),
            Fault::Refused(number, text) => write!(f, "NBD server refused ({number:#x}): {text}"),
            Fault::Protocol(what) => write!(f, "NBD server: {what}"),
            Fault::Errno(errno) => {
                write!(f, "NBD request failed: {}", io::Error::from_raw_os_error(*errno as i32))
            }
        }
    }
}

impl std::error::Error for Fault {}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Fault {
        Fault::Io(e)
    }
}

/// The answer to one request.
#[derive(Debug)]
pub struct Reply {
    /// Of the request, as [`Client::send`] returned it.
    pub cookie: u64,
    /// The bytes of a read (else none), or the errno.
    pub result: Result<Vec<u8>, u32>,
}

/// What a session goes over.
pub trait Stream: Read + Write + Send + fmt::Debug {}

impl<S: Read + Write + Send + fmt::Debug> Stream for S {}

/// A session with a server.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
    size_bytes: u64,
    flags: u16,
    next_cookie: u64,
    /// Bytes expected with the reply, by cookie.
    in_flight: HashMap<u64, usize>,
}

impl Client {
    /// Open the default export of the server at `socket`; no wait on the socket is longer than `patience`.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Client, Fault> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut stream: Box<dyn Stream> = Box::new(stream);
        greet(&mut stream)?;
        Client::open(stream, "")
    }

    /// Open an export of a server that was greeted.
    pub fn open(mut stream: Box<dyn Stream>, export: &str) -> Result<Client, Fault> {
        let (size_bytes, flags) = go(&mut stream, export)?;
        let stream = BufReader::with_capacity(1 << 18, stream);
        Ok(Client { stream, size_bytes, flags, next_cookie: 1, in_flight: HashMap::new() })
    }
    /// Size of the export.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The server promises that a flush on one session covers all sessions.
    pub fn can_multi_conn(&self) -> bool {
        self.flags & 1 << 8 != 0
    }

    /// Requests sent and not yet answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Send a request without waiting; the cookie names its reply. `data` are the bytes of a write, else empty.
    pub fn send(
        &mut self,
        operation: Operation,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> Result<u64, Fault> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut request = Vec::with_capacity(28 + data.len());
        request.extend_from_slice(&MAGIC_REQUEST.to_be_bytes());
        request.extend_from_slice(&0u16.to_be_bytes());
        request.extend_from_slice(&operation.number().to_be_bytes());
        request.extend_from_slice(&cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&length.to_be_bytes());
        request.extend_from_slice(data);
        self.stream.get_mut().write_all(&request)?;
        self.in_flight.insert(cookie, if operation == Operation::Read { length as usize } else { 0 });
        Ok(cookie)
    }

    /// Wait for the next reply, of whichever request.
    pub fn receive(&mut self) -> Result<Reply, Fault> {
        if read_u32(&mut self.stream)? != MAGIC_SIMPLE_REPLY {
            return Err(Fault::Protocol("sent a reply with a wrong magic"));
        }
        let errno = read_u32(&mut self.stream)?;
        let cookie = read_u64(&mut self.stream)?;
        let Some(length) = self.in_flight.remove(&cookie) else {
            return Err(Fault::Protocol("answered a request that was not asked"));
        };
        if errno != 0 {
            return Ok(Reply { cookie, result: Err(errno) });
        }
        let mut data = vec![0; length];
        self.stream.read_exact(&mut data)?;
        Ok(Reply { cookie, result: Ok(data) })
    }

    /// Send one request and wait for its reply; nothing else may be in flight.
    pub fn call(&mut self, op: Operation, offset: u64, length: u32, data: &[u8]) -> Result<Vec<u8>, Fault> {
        self.send(op, offset, length, data)?;
        self.receive()?.result.map_err(Fault::Errno)
    }
}

/// Hears the greeting and answers it.
pub fn greet(stream: &mut (impl Read + Write)) -> Result<(), Fault> {
    if read_u64(stream)? != MAGIC_SERVER || read_u64(stream)? != MAGIC_OPTION {
        return Err(Fault::Protocol("does not greet as an NBD server"));
    }
    if read_u16(stream)? & FLAGS_FIXED_NEWSTYLE_NO_ZEROES != FLAGS_FIXED_NEWSTYLE_NO_ZEROES {
        return Err(Fault::Protocol("does not speak fixed newstyle"));
    }
    Ok(stream.write_all(&u32::from(FLAGS_FIXED_NEWSTYLE_NO_ZEROES).to_be_bytes())?)
}

fn go(stream: &mut (impl Read + Write), name: &str) -> Result<(u64, u16), Fault> {
    let mut option = Vec::new();
    option.extend_from_slice(&MAGIC_OPTION.to_be_bytes());
    option.extend_from_slice(&OPTION_GO.to_be_bytes());
    option.extend_from_slice(&(name.len() as u32 + 6).to_be_bytes());
    option.extend_from_slice(&(name.len() as u32).to_be_bytes());
    option.extend_from_slice(name.as_bytes());
    option.extend_from_slice(&[0; 2]); // no further wishes
    stream.write_all(&option)?;
    let mut export = None;
    loop {
        if read_u64(stream)? != MAGIC_OPTION_REPLY || read_u32(stream)? != OPTION_GO {
            return Err(Fault::Protocol("answered an option that was not asked"));
        }
        let kind = read_u32(stream)?;
        let length = read_u32(stream)?;
        if length > REPLY_BYTES_MAX {
            return Err(Fault::Protocol("sent an option reply without end"));
        }
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body)?;
        match kind {
            REPLY_INFO => export = export_info(&body).or(export),
            REPLY_ACK => return export.ok_or(Fault::Protocol("opened the export without telling its size")),
            _ => return Err(Fault::Refused(kind, String::from_utf8_lossy(&body).into_owned())),
        }
    }
}

fn export_info(body: &[u8]) -> Option<(u64, u16)> {
    let kind = u16::from_be_bytes(body.get(..2)?.try_into().ok()?);
    let size = u64::from_be_bytes(body.get(2..10)?.try_into().ok()?);
    let flags = u16::from_be_bytes(body.get(10..12)?.try_into().ok()?);
    (kind == INFO_EXPORT).then_some((size, flags))
}

fn read_bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_u16(from: &mut impl Read) -> io::Result<u16> {
    read_bytes(from).map(u16::from_be_bytes)
}

fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    read_bytes(from).map(u32::from_be_bytes)
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    read_bytes(from).map(u64::from_be_bytes)
}
