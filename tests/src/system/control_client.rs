//! Asks a daemon for the status of its resource, as the tools do, for the figures a test compares.

use drbd_core::control::{
    ClientHello, ClientLine, DaemonLine, Done, RefusedReply, Request, ResourceStatus, VERSION,
};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// The status of the resource whose daemon listens at `socket`.
pub fn status(socket: &Path) -> io::Result<ResourceStatus> {
    ask(socket, Request::Status)?
        .map_err(|refused| io::Error::other(refused.text))?
        .status
        .ok_or_else(|| io::Error::other("the daemon answered without a status"))
}

/// Any request, on a session of its own.
pub fn ask(socket: &Path, request: Request) -> io::Result<Result<Done, RefusedReply>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    say(&mut stream, &ClientLine::Hello { hello: ClientHello { speak: vec![VERSION] } })?;
    say(&mut stream, &ClientLine::Request { id: 1, request })?;
    loop {
        let line = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        match serde_json::from_str(&line)? {
            DaemonLine::Done { done, .. } => return Ok(Ok(*done)),
            DaemonLine::Refused { refused, .. } => return Ok(Err(refused)),
            DaemonLine::Hello { .. } | DaemonLine::Notification { .. } => {}
        }
    }
}

fn say(stream: &mut UnixStream, line: &ClientLine) -> io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}
