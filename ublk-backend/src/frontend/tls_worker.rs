//! A thread that does the TLS of NBD connections: the handshake, and then both directions between the client and one
//! end of a pair of sockets, whose other end the data plane serves as any connection. Encrypting takes its time, and
//! the data plane knows nothing of it but that negotiation begins again.

use super::certificates::Certificates;
use super::nbd_offer::Door;
use crate::log::Logger;
use crate::mailbox::{DataPlane, ToData};
use drbd_core::engine::Level;
use rustls::ServerConfig;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{split, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{channel, Receiver, Sender};
use tokio::task::{spawn_local, AbortHandle, LocalSet};
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

/// Handshakes at a time: one more, and the oldest is broken off, so that those who say nothing keep nobody out.
const HANDSHAKES_MAX: usize = 64;
/// A handshake's time.
const HANDSHAKE_TIME: Duration = Duration::from_secs(30);
/// How long a client that reads nothing more is waited for in the end.
const FAREWELL_TIME: Duration = Duration::from_secs(5);
/// Connections with TLS at a time, all volumes together: fewer than the data plane serves, as each takes descriptors here
/// and there.
const CONNECTIONS_MAX: usize = 128;
/// What is read at once of one direction, and all that is kept of it.
const CARRIED_BYTES: usize = 64 << 10;

/// A connection whose client was told to begin TLS, or that has done so.
#[derive(Debug)]
pub(crate) struct Handover {
    /// Where it came in.
    pub(crate) door: Door,
    /// Connected, nothing under way on it.
    pub(crate) socket: OwnedFd,
    /// What the client said when it was greeted, which TLS does not undo.
    pub(crate) no_zeroes: bool,
}

/// The data plane's end; the thread ends with it.
#[derive(Debug)]
pub(crate) struct TlsWorker {
    connections: Sender<Handover>,
}

impl TlsWorker {
    /// Starts the thread. The error is a sentence, of the certificates for example.
    pub(crate) fn start(
        certificates: Certificates,
        resource: &str,
        answers: DataPlane,
        logger: Logger,
    ) -> Result<TlsWorker, String> {
        let config = RefCell::new(certificates.load()?);
        let failed = |e: std::io::Error| format!("the thread for TLS cannot start: {e}.");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (connections, waiting) = channel(HANDSHAKES_MAX);
        let resource = resource.to_owned();
        let body = move || {
            let connections = Cell::new(0);
            let server = Rc::new(Server { certificates, config, resource, answers, logger, connections });
            LocalSet::new().block_on(&runtime, server.serve(waiting));
        };
        std::thread::Builder::new().name("tls".to_owned()).spawn(body).map_err(failed)?;
        Ok(TlsWorker { connections })
    }

    /// Takes a connection over; one too many is closed.
    pub(crate) fn secure(&self, handover: Handover) {
        let _ = self.connections.try_send(handover);
    }
}

struct Server {
    certificates: Certificates,
    /// As last read.
    config: RefCell<Arc<ServerConfig>>,
    resource: String,
    answers: DataPlane,
    logger: Logger,
    connections: Cell<usize>,
}

impl Server {
    async fn serve(self: Rc<Self>, mut waiting: Receiver<Handover>) {
        let mut handshakes: VecDeque<AbortHandle> = VecDeque::new();
        while let Some(handover) = waiting.recv().await {
            handshakes.retain(|handshake| !handshake.is_finished());
            if handshakes.len() >= HANDSHAKES_MAX {
                if let Some(oldest) = handshakes.pop_front() {
                    oldest.abort();
                }
            }
            handshakes.push_back(spawn_local(Rc::clone(&self).begin(handover)).abort_handle());
        }
    }

    async fn begin(self: Rc<Self>, Handover { door, socket, no_zeroes }: Handover) {
        let begun = match door {
            Door::Socket(_) => match UnixStream::from_std(socket.into()) {
                Ok(client) => self.shake_hands(client, door, "a client of the socket", no_zeroes).await,
                Err(e) => Err(e.to_string()),
            },
            Door::Port => match TcpStream::from_std(socket.into()) {
                Ok(client) => {
                    let who = client.peer_addr().map_or("a client".to_owned(), |address| address.to_string());
                    self.shake_hands(client, door, &who, no_zeroes).await
                }
                Err(e) => Err(e.to_string()),
            },
        };
        if let Err(sentence) = begun {
            self.logger.say(Level::Info, "tls", &self.resource, sentence);
        }
    }

    async fn shake_hands<S>(
        self: &Rc<Self>,
        client: S,
        door: Door,
        who: &str,
        no_zeroes: bool,
    ) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let refused = |why: String| format!("NBD: {who} is not let in: {why}.");
        let accepted = TlsAcceptor::from(self.config()).accept(client);
        let client = match tokio::time::timeout(HANDSHAKE_TIME, accepted).await {
            Ok(client) => client.map_err(|e| refused(format!("TLS could not be begun: {e}")))?,
            Err(_) => {
                return Err(refused(format!("TLS was not begun within {} s", HANDSHAKE_TIME.as_secs())))
            }
        };
        if self.connections.get() >= CONNECTIONS_MAX {
            return Err(refused(format!("there are {CONNECTIONS_MAX} connections with TLS already")));
        }
        let failed = |e: std::io::Error| refused(format!("its sockets cannot be made: {e}"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).and_then(|()| theirs.set_nonblocking(true)).map_err(failed)?;
        let ours = UnixStream::from_std(ours).map_err(failed)?;
        self.answers.send(ToData::ServeSecured(Handover { door, socket: theirs.into(), no_zeroes }));
        let server = Rc::clone(self);
        self.connections.set(self.connections.get() + 1);
        spawn_local(async move {
            carry_both(client, ours).await;
            server.connections.set(server.connections.get() - 1);
        });
        Ok(())
    }

    /// The certificates as they are now: whoever renews them does not start the daemon anew. While they make no sense,
    /// as between two files of a renewal, the last ones that did are used.
    fn config(&self) -> Arc<ServerConfig> {
        match self.certificates.load() {
            Ok(config) => *self.config.borrow_mut() = config,
            Err(sentence) => {
                let text = format!("The last certificates are used on: {sentence}");
                self.logger.say(Level::Warning, "certificates", &self.resource, text);
            }
        }
        Arc::clone(&self.config.borrow())
    }
}

/// Until the server has answered all there was to answer. A client that has said all it wants to say may wait for that.
async fn carry_both<S: AsyncRead + AsyncWrite>(client: TlsStream<S>, server: UnixStream)
where
    TlsStream<S>: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async {
        let _ = carry(&mut from_server, &mut to_client).await;
        // However the server ended it: without this a client would have to take it for an attack.
        let _ = tokio::time::timeout(FAREWELL_TIME, to_client.shutdown()).await;
    };
    let requests = async {
        let _ = carry(&mut from_client, &mut to_server).await;
        // The server answers what was asked, and then ends it. To a client that is gone that fails.
        let _ = to_server.shutdown().await;
    };
    tokio::pin!(answers);
    tokio::select! {
        () = &mut answers => {}
        () = requests => answers.await,
    }
}

/// One direction, to its end.
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut buffer = vec![0; CARRIED_BYTES];
    loop {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..bytes]).await?;
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests;
