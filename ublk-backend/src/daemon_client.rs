//! A conversation with a daemon through its control socket, as any client could have it.

use crate::run_dir::RunDir;
use drbd_core::control::{ClientHello, ClientLine, DaemonLine, Done, Request, VERSION};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Error, ErrorKind};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::UnixStream;

/// The client's end.
pub(crate) struct Daemon {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// What it says it is: program and version.
    pub(crate) program: String,
}

impl Daemon {
    /// Connects and agrees on the version.
    pub(crate) async fn reach(run_dir: &RunDir, resource: &str) -> std::io::Result<Daemon> {
        let stream = UnixStream::connect(run_dir.control_socket(resource)).await?;
        let (read, write) = stream.into_split();
        let mut daemon = Daemon { read: BufReader::new(read), write, program: String::new() };
        daemon.say(&ClientLine::Hello { hello: ClientHello { speak: vec![VERSION] } }).await?;
        match daemon.next().await? {
            DaemonLine::Hello { hello } => Ok(Daemon { program: hello.daemon, ..daemon }),
            DaemonLine::Done { .. } | DaemonLine::Refused { .. } | DaemonLine::Notification { .. } => {
                Err(ErrorKind::InvalidData.into())
            }
        }
    }

    async fn say(&mut self, line: &ClientLine) -> std::io::Result<()> {
        let mut text = serde_json::to_string(line).expect("control objects are plain data");
        text.push('\n');
        self.write.write_all(text.as_bytes()).await
    }

    /// The next line. The end of the conversation is an error of its own kind.
    pub(crate) async fn next(&mut self) -> std::io::Result<DaemonLine> {
        let mut line = String::new();
        if self.read.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(Error::other)
    }

    /// Asks for something; a refusal is an error with its text.
    pub(crate) async fn ask(&mut self, request: Request) -> std::io::Result<Done> {
        self.say(&ClientLine::Request { id: 1, request }).await?;
        loop {
            match self.next().await? {
                DaemonLine::Done { done, .. } => return Ok(*done),
                DaemonLine::Refused { refused, .. } => return Err(Error::other(refused.text)),
                DaemonLine::Hello { .. } | DaemonLine::Notification { .. } => {}
            }
        }
    }
}
