//! A connection of any kind to the server.

use super::conversation::plain_option;
use super::Target;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_millis(1500);
const OPTION_STARTTLS: u32 = 5;
pub(super) const GREETING_BYTES: usize = 18;
pub(super) const OPTION_REPLY_BYTES: usize = 20;

pub(super) enum Line {
    Socket(UnixStream),
    Port(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    pub(super) fn socket(path: &Path) -> io::Result<Line> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Line::Socket(stream))
    }

    pub(super) fn port(target: &Target) -> io::Result<Line> {
        let stream = TcpStream::connect(target.port)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Line::Port(stream))
    }

    /// At the port, told to begin TLS.
    pub(super) fn told_to_begin(target: &Target) -> io::Result<TcpStream> {
        let Line::Port(mut stream) = Line::port(target)? else { unreachable!("it was just made") };
        stream.read_exact(&mut [0; GREETING_BYTES])?;
        stream.write_all(&3u32.to_be_bytes())?;
        stream.write_all(&plain_option(OPTION_STARTTLS, &[]))?;
        stream.read_exact(&mut [0; OPTION_REPLY_BYTES])?;
        Ok(stream)
    }

    /// At the port, within TLS.
    pub(super) fn tls(target: &Target) -> io::Result<Line> {
        let stream = Line::told_to_begin(target)?;
        let name = ServerName::from(target.port.ip());
        let connection = ClientConnection::new(Arc::clone(&target.tls), name).map_err(io::Error::other)?;
        Ok(Line::Tls(Box::new(StreamOwned::new(connection, stream))))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Line::Socket(stream) => stream.write_all(bytes),
            Line::Port(stream) => stream.write_all(bytes),
            Line::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Sends what the server takes within a moment; false once it takes nothing more. What is left of these bytes is
    /// never sent, which whoever listens will take for what it is.
    pub(super) fn send_now(&mut self, bytes: &[u8]) -> bool {
        let moment = Some(Duration::from_millis(300));
        let _ = match self {
            Line::Socket(stream) => stream.set_write_timeout(moment),
            Line::Port(stream) => stream.set_write_timeout(moment),
            Line::Tls(stream) => stream.sock.set_write_timeout(moment),
        };
        self.send(bytes).is_ok()
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Line::Socket(stream) => stream.read(bytes),
            Line::Port(stream) => stream.read(bytes),
            Line::Tls(stream) => stream.read(bytes),
        }
    }

    /// Reads for so long, or until the other side ends it.
    pub(super) fn listen(&mut self, most: Duration) {
        let begin = Instant::now();
        let mut bytes = [0; 16 << 10];
        while begin.elapsed() < most && self.receive(&mut bytes).is_ok_and(|bytes| bytes > 0) {}
    }

    /// Says that no more is said.
    pub(super) fn half_close(&mut self) {
        let _ = match self {
            Line::Socket(stream) => stream.shutdown(Shutdown::Write),
            Line::Port(stream) => stream.shutdown(Shutdown::Write),
            Line::Tls(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                stream.sock.shutdown(Shutdown::Write)
            }
        };
    }
}
