//! A conversation with the daemon of one resource.

use crate::fault::Fault;
use crate::rundir::{RunDir, Unreached};
use drbd_core::control::{
    ClientHello, ClientLine, Configuration, DaemonLine, Done, Notification, Request, ResourceStatus, VERSION,
};
use drbd_core::refusal::{Reason, Refusal};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes of one line of the protocol.
const LINE_MAX: u64 = 16 << 20;
/// How long a daemon may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a daemon that died is given to be started again by its parent.
const RESTART: Duration = Duration::from_secs(2);

/// A connected client.
#[derive(Debug)]
pub struct Client {
    resource: String,
    stream: BufReader<UnixStream>,
    next_id: u64,
    notifications: VecDeque<Notification>,
}

/// Why there is no client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoClient {
    /// The resource is not configured; a sentence if a dead socket was found.
    NotConfigured(String),
    /// The daemon cannot be used.
    Trouble(Fault),
}

impl NoClient {
    /// The fault where the resource is needed: `(158) Unknown resource`.
    pub fn into_fault(self, resource: &str) -> Fault {
        match self {
            NoClient::NotConfigured(info) => Fault::unknown_resource(resource, &info),
            NoClient::Trouble(fault) => fault,
        }
    }
}

impl Client {
    /// Connects and agrees on the version.
    pub fn connect(run_dir: Option<&RunDir>, resource: &str) -> Result<Client, NoClient> {
        let Some(run_dir) = run_dir else { return Err(NoClient::NotConfigured(String::new())) };
        let stream = run_dir.connect(resource).map_err(|why| match why {
            Unreached::Absent => NoClient::NotConfigured(String::new()),
            Unreached::Dead(sentence) => NoClient::NotConfigured(sentence),
            Unreached::Trouble(sentence) => {
                NoClient::Trouble(Fault::trouble(format!("{resource}: {sentence}")))
            }
        })?;
        Client::greet(resource, stream)
    }

    /// Connects; where a socket was left behind, the daemon that died may be on its way back.
    pub fn connect_patiently(run_dir: Option<&RunDir>, resource: &str) -> Result<Client, NoClient> {
        let begun = Instant::now();
        // For a moment there is no socket at all, when the new daemon replaces it.
        let mut left_behind = false;
        loop {
            match Client::connect(run_dir, resource) {
                Err(NoClient::NotConfigured(info))
                    if (left_behind || !info.is_empty()) && begun.elapsed() < RESTART =>
                {
                    left_behind = true;
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
    }

    fn greet(resource: &str, stream: UnixStream) -> Result<Client, NoClient> {
        let trouble = |why: &str| NoClient::Trouble(Fault::trouble(format!("{resource}: {why}")));
        // One that is just ending, or just being started again.
        let ended = || NoClient::NotConfigured("the daemon ended before it said hello".to_owned());
        let mut client = Client {
            resource: resource.to_owned(),
            stream: BufReader::new(stream),
            next_id: 1,
            notifications: VecDeque::new(),
        };
        client.read_timeout(Some(HELLO_TIMEOUT)).map_err(NoClient::Trouble)?;
        let hello = ClientHello { speak: vec![VERSION] };
        client.send(&ClientLine::Hello { hello }).map_err(|_| ended())?;
        match client.receive_or_end().map_err(NoClient::Trouble)?.ok_or_else(ended)? {
            DaemonLine::Hello { hello } if hello.version != VERSION => Err(trouble(&format!(
                "the daemon ({}) speaks version {} of the control protocol, this drbdsetup version {VERSION}; \
                 use the tools that came with the daemon",
                hello.daemon, hello.version
            ))),
            DaemonLine::Hello { hello } if hello.resource != resource => Err(trouble(&format!(
                "the daemon behind the socket serves resource '{}'",
                hello.resource
            ))),
            DaemonLine::Hello { .. } => {
                client.read_timeout(None).map_err(NoClient::Trouble)?;
                Ok(client)
            }
            DaemonLine::Refused { refused, .. } => Err(NoClient::Trouble(Fault::refused(resource, &refused))),
            DaemonLine::Done { .. } | DaemonLine::Notification { .. } => {
                Err(trouble("the daemon did not begin with hello; it is not a udrbd"))
            }
        }
    }

    /// Asks and waits for the answer; `object` is named in a refusal.
    pub fn ask(&mut self, object: &str, request: Request) -> Result<Done, Fault> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&ClientLine::Request { id, request })?;
        loop {
            match self.receive()? {
                DaemonLine::Done { id: of, done } if of == id => return Ok(*done),
                DaemonLine::Refused { id: of, refused } if of == id => {
                    return Err(Fault::refused(object, &refused));
                }
                DaemonLine::Notification { notification } => self.notifications.push_back(*notification),
                DaemonLine::Hello { .. } | DaemonLine::Done { .. } | DaemonLine::Refused { .. } => {
                    return Err(self.trouble("the daemon answered what was not asked"));
                }
            }
        }
    }

    /// The state of everything.
    pub fn status(&mut self) -> Result<ResourceStatus, Fault> {
        let resource = self.resource.clone();
        let done = self.ask(&resource, Request::Status)?;
        done.status.ok_or_else(|| self.trouble("the daemon answered status without a status"))
    }

    /// The running configuration.
    pub fn configuration(&mut self) -> Result<Configuration, Fault> {
        let resource = self.resource.clone();
        let done = self.ask(&resource, Request::Show)?;
        done.configuration.ok_or_else(|| self.trouble("the daemon answered show without a configuration"))
    }

    /// Waits for the next notification; `None` when the daemon has ended.
    pub fn notification(&mut self) -> Result<Option<Notification>, Fault> {
        loop {
            if let Some(next) = self.notifications.pop_front() {
                return Ok(Some(next));
            }
            match self.receive_or_end()? {
                None => return Ok(None),
                Some(DaemonLine::Notification { notification }) => return Ok(Some(*notification)),
                Some(DaemonLine::Hello { .. } | DaemonLine::Done { .. } | DaemonLine::Refused { .. }) => {}
            }
        }
    }

    /// Drops the notifications that came with answers.
    pub fn forget_notifications(&mut self) {
        self.notifications.clear();
    }

    /// Whether a notification can be had without waiting for the socket.
    pub fn has_buffered(&self) -> bool {
        !self.notifications.is_empty() || self.stream.buffer().contains(&b'\n')
    }

    /// Name of the resource.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// To wait for input with `poll`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }

    fn read_timeout(&self, timeout: Option<Duration>) -> Result<(), Fault> {
        self.stream.get_ref().set_read_timeout(timeout).map_err(|e| self.trouble(&e.to_string()))
    }

    fn send(&mut self, line: &ClientLine) -> Result<(), Fault> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| self.trouble(&e.to_string()))?;
        bytes.push(b'\n');
        self.stream
            .get_ref()
            .write_all(&bytes)
            .map_err(|e| self.trouble(&format!("the daemon went away before it was asked: {e}")))
    }

    fn receive(&mut self) -> Result<DaemonLine, Fault> {
        self.receive_or_end()?
            .ok_or_else(|| self.trouble("the daemon went away before it answered; its log says why"))
    }

    fn receive_or_end(&mut self) -> Result<Option<DaemonLine>, Fault> {
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(self.trouble("the daemon does not answer; its log may say why"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return Err(self.trouble(&format!("the daemon cannot be heard: {e}"))),
        }
        if line.last() != Some(&b'\n') {
            return Err(self.trouble("the daemon broke off in the middle of a line; its log may say why"));
        }
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|e| self.trouble(&format!("the daemon said what drbdsetup does not understand: {e}")))
    }

    fn trouble(&self, why: &str) -> Fault {
        Fault::trouble(format!("{}: {why}", self.resource))
    }
}

/// Finds the daemon that has a minor; `None` if none has, also if its daemon is gone.
pub fn resource_of_minor(run_dir: Option<&RunDir>, minor: u32) -> Option<String> {
    run_dir?.resource_of_minor(minor)
}

/// `(127) Device minor not allocated`.
pub fn minor_not_allocated(object: &str, info: &str) -> Fault {
    Fault::refusal(object, &Refusal::because(Reason::MinorInvalid, info))
}
