//! Sockets that are not connected yet: listeners and dials in progress.

use super::any_port;
use drbd_core::engine::{Event, LinkConfig};
use drbd_core::ids::{Instant, NodeId};
use nix::errno::Errno;
use nix::sys::socket::{
    bind, connect, getsockopt, listen, setsockopt, socket, sockopt, AddressFamily, Backlog, SockFlag,
    SockType, SockaddrStorage,
};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

/// A listening socket, shared by the peers that are expected on its address.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(super) fd: TcpListener,
    pub(super) local: SocketAddr,
    pub(super) peers: Vec<(NodeId, IpAddr)>,
    pub(super) closing: bool,
}

/// Why there is none.
#[derive(Debug)]
pub(super) struct NoListener {
    /// Somebody else listens there.
    pub(super) in_use: bool,
    pub(super) sentence: String,
}

impl Listener {
    pub(super) fn open(peer: NodeId, link: &LinkConfig) -> Result<Listener, NoListener> {
        let local = link.local;
        let refused = |e: Errno| {
            let why = match e {
                Errno::EADDRINUSE => "the port is in use by another program",
                Errno::EADDRNOTAVAIL => "this host does not have that address",
                e => e.desc(),
            };
            let sentence = format!("Cannot listen on {local}: {why}.");
            NoListener { in_use: e == Errno::EADDRINUSE, sentence }
        };
        let fd = open_socket(link).map_err(refused)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(local)).map_err(refused)?;
        listen(&fd, Backlog::new(16).unwrap_or(Backlog::MAXCONN)).map_err(refused)?;
        Ok(Listener {
            fd: TcpListener::from(fd),
            local,
            peers: vec![(peer, link.remote.ip())],
            closing: false,
        })
    }

    /// One connection, if one is waiting and comes from where one of the peers lives.
    pub(super) fn accept(&self) -> Result<Option<(NodeId, OwnedFd)>, String> {
        let (stream, from) = match self.fd.accept() {
            Ok(accepted) => accepted,
            Err(e) if e.raw_os_error() == Some(libc::EMFILE) => {
                return Err(format!("Cannot accept a connection on {}: {e}.", self.local));
            }
            // Gone again, or taken by no one: the next one is told anew.
            Err(_) => return Ok(None),
        };
        let Some((peer, _)) = self.peers.iter().find(|(_, ip)| *ip == from.ip()) else {
            return Err(format!(
                "A connection from {from} to {} was closed: no peer is configured with that address.",
                self.local
            ));
        };
        let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        Ok(ready.is_ok().then(|| (*peer, OwnedFd::from(stream))))
    }
}

/// A connection being made.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(super) peer: NodeId,
    pub(super) fd: OwnedFd,
    remote: SocketAddr,
    pub(super) deadline: Instant,
    pub(super) cancelled: bool,
    pub(super) timed_out: bool,
}

impl Dial {
    /// Starts; an error says whether trying again can help.
    pub(super) fn start(peer: NodeId, link: &LinkConfig, now: Instant) -> Result<Dial, (bool, String)> {
        let remote = link.remote;
        let fd = open_socket(link).map_err(|e| (true, format!("cannot make a socket: {}", e.desc())))?;
        let local = any_port(link.local);
        bind(fd.as_raw_fd(), &SockaddrStorage::from(local)).map_err(|e| {
            let never = matches!(e, Errno::EADDRNOTAVAIL | Errno::EACCES | Errno::EPERM);
            (!never, format!("cannot use the local address {}: {}", local.ip(), e.desc()))
        })?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(remote)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(e) => return Err(refused(remote, e)),
        }
        let deadline = now.plus_ms(link.dial_timeout_ms);
        Ok(Dial { peer, fd, remote, deadline, cancelled: false, timed_out: false })
    }

    /// The socket is ready: connected, or it failed.
    pub(super) fn finish(self) -> Result<OwnedFd, (bool, String)> {
        match getsockopt(&self.fd, sockopt::SocketError) {
            Ok(0) => Ok(self.fd),
            Ok(error) => Err(refused(self.remote, Errno::from_raw(error))),
            Err(e) => Err(refused(self.remote, e)),
        }
    }

    pub(super) fn too_late(&self) -> Event {
        let why = format!("no answer from {}", self.remote).into();
        Event::DialFailed { peer: self.peer, retry: true, why }
    }
}

fn refused(remote: SocketAddr, e: Errno) -> (bool, String) {
    let never = matches!(e, Errno::EACCES | Errno::EPERM | Errno::EAFNOSUPPORT);
    (!never, format!("cannot connect to {remote}: {}", e.desc()))
}

fn open_socket(link: &LinkConfig) -> Result<OwnedFd, Errno> {
    let family = if link.remote.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    // Before listen or connect, so that the window is negotiated accordingly.
    if link.sndbuf_bytes > 0 {
        setsockopt(&fd, sockopt::SndBuf, &(link.sndbuf_bytes as usize))?;
    }
    if link.rcvbuf_bytes > 0 {
        setsockopt(&fd, sockopt::RcvBuf, &(link.rcvbuf_bytes as usize))?;
    }
    Ok(fd)
}
