//! The kernel's NBD client, told what to do by netlink: which socket `/dev/nbdN` reads and writes through, how large it
//! is, and what becomes of its requests while there is no socket.
//!
//! A device has one connection. With more than one the driver (6.12) takes every request that is not answered within
//! its timer for lost, shuts that connection and sends the request again on another: a peer that is away for a while,
//! or `suspend-io`, would have it do so for ever. With one connection and no time limit it waits, and sends a request
//! again only when the connection was replaced since. Its timer is also what it notices that by, so that it is short.

use super::generic_netlink::{attributes, Attributes, Family};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

const FAMILY: &str = "nbd";
const FAMILY_VERSION: u8 = 1;

mod command {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const DISCONNECT: u8 = 2;
    pub(super) const RECONFIGURE: u8 = 3;
}

mod attribute {
    pub(super) const INDEX: u16 = 1;
    pub(super) const SIZE_BYTES: u16 = 2;
    pub(super) const BLOCK_SIZE_BYTES: u16 = 3;
    pub(super) const SERVER_FLAGS: u16 = 5;
    pub(super) const CLIENT_FLAGS: u16 = 6;
    pub(super) const SOCKETS: u16 = 7;
    pub(super) const DEAD_CONN_TIMEOUT: u16 = 8;
    pub(super) const BACKEND_IDENTIFIER: u16 = 10;
    /// Within SOCKETS, and within that.
    pub(super) const SOCKET_ITEM: u16 = 1;
    pub(super) const SOCKET_FD: u16 = 1;
}

/// So long requests wait for a daemon that died; afterwards they fail.
const DEAD_CONNECTION_S: u64 = 60;
/// The driver looks after requests that are under way for so long, and up to a second more, whether their connection
/// was replaced. It says of each in the kernel's log that it may be stuck. A daemon that died has a new connection in
/// less: a shorter time would have the requests wait for the timer's second round.
const TIMER_MS: u32 = 900;
/// What the timer is in a device that nobody set up.
const TIMER_MS_DEFAULT: u32 = 30_000;

/// A device of the driver, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NbdIndex(pub(crate) u32);

impl NbdIndex {
    /// Its name below `/dev` and `/sys/block`.
    pub(crate) fn name(self) -> String {
        format!("nbd{}", self.0)
    }

    /// The device.
    pub(crate) fn node(self) -> PathBuf {
        PathBuf::from(format!("/dev/nbd{}", self.0))
    }

    fn system(self, what: &str) -> PathBuf {
        PathBuf::from(format!("/sys/block/nbd{}/{what}", self.0))
    }

    fn says(self, what: &str) -> Option<String> {
        std::fs::read_to_string(self.system(what)).ok().map(|text| text.trim().to_owned())
    }

    /// The identifier its owner gave it; `None` while nobody has it.
    pub(crate) fn backend(self) -> Option<String> {
        self.says("backend")
    }

    /// Whether it may be written: what was said of it last, also by a daemon that is gone. Without a size, nothing was.
    pub(crate) fn is_writable(self) -> bool {
        self.says("ro").is_some_and(|ro| ro == "0") && self.says("size").is_some_and(|size| size != "0")
    }

    fn set_timer(self, ms: u32) -> std::io::Result<()> {
        std::fs::write(self.system("queue/io_timeout"), format!("{ms}\n"))
    }
}

/// The devices whose identifier is wanted.
pub(crate) fn find(wanted: impl Fn(&str) -> bool) -> Vec<NbdIndex> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let indices = entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("nbd")?.parse().ok());
    indices.map(NbdIndex).filter(|index| index.backend().is_some_and(|b| wanted(&b))).collect()
}

/// What the driver is told.
#[derive(Debug)]
pub(crate) struct Driver(Family);

impl Driver {
    /// Finds the driver, which is loaded if need be.
    pub(crate) fn open() -> Result<Driver, Errno> {
        Family::open(FAMILY, FAMILY_VERSION).map(Driver)
    }

    /// Makes an unused device ours, with size 0.
    pub(crate) fn connect(
        &mut self,
        socket: BorrowedFd<'_>,
        backend: &str,
        server_flags: u16,
    ) -> Result<NbdIndex, Errno> {
        let asked = connecting(socket.as_raw_fd() as u32, backend, server_flags);
        let answer = self.0.ask(command::CONNECT, &asked)?;
        let index = attributes(&answer).find(|(kind, _)| *kind == attribute::INDEX);
        let index = index.and_then(|(_, value)| value.first_chunk::<4>().copied()).ok_or(Errno::EPROTO)?;
        let index = NbdIndex(u32::from_ne_bytes(index));
        // Without it a crash is survived as well, only that it takes half a minute.
        let _ = index.set_timer(TIMER_MS);
        Ok(index)
    }

    /// Gives a device another connection in place of its dead one.
    pub(crate) fn reconnect(
        &mut self,
        index: NbdIndex,
        socket: BorrowedFd<'_>,
        backend: &str,
    ) -> Result<(), Errno> {
        let asked = ours(index, backend)
            .u64(attribute::DEAD_CONN_TIMEOUT, DEAD_CONNECTION_S)
            .nested(attribute::SOCKETS, &one_socket(socket.as_raw_fd() as u32));
        self.0.ask(command::RECONFIGURE, &asked).map(|_| ())
    }

    /// Gives a device its size. The kernel lets what is under way end first.
    pub(crate) fn resize(
        &mut self,
        index: NbdIndex,
        bytes: u64,
        block_bytes: u32,
        backend: &str,
    ) -> Result<(), Errno> {
        let asked = sizing(index, bytes, block_bytes, backend);
        self.0.ask(command::RECONFIGURE, &asked).map(|_| ())
    }

    /// Lets a device go; what is under way in it fails.
    pub(crate) fn disconnect(&mut self, index: NbdIndex) -> Result<(), Errno> {
        self.0.ask(command::DISCONNECT, &Attributes::default().u32(attribute::INDEX, index.0))?;
        // The timer outlives us in the device, and would be too short for its next owner. Not before: the kernel lets
        // what is under way end before it changes anything of a queue.
        if index.backend().is_none() {
            let _ = index.set_timer(TIMER_MS_DEFAULT);
        }
        Ok(())
    }
}

fn connecting(socket: u32, backend: &str, server_flags: u16) -> Attributes {
    Attributes::default()
        .u64(attribute::SIZE_BYTES, 0)
        .u64(attribute::BLOCK_SIZE_BYTES, 512)
        .u64(attribute::SERVER_FLAGS, u64::from(server_flags))
        // Neither destroyed nor disconnected by what its users do.
        .u64(attribute::CLIENT_FLAGS, 0)
        .u64(attribute::DEAD_CONN_TIMEOUT, DEAD_CONNECTION_S)
        .text(attribute::BACKEND_IDENTIFIER, backend)
        .nested(attribute::SOCKETS, &one_socket(socket))
}

fn sizing(index: NbdIndex, bytes: u64, block_bytes: u32, backend: &str) -> Attributes {
    ours(index, backend)
        .u64(attribute::SIZE_BYTES, bytes)
        .u64(attribute::BLOCK_SIZE_BYTES, u64::from(block_bytes))
}

/// A device, and that it has to be ours: the driver compares the identifiers.
fn ours(index: NbdIndex, backend: &str) -> Attributes {
    Attributes::default().u32(attribute::INDEX, index.0).text(attribute::BACKEND_IDENTIFIER, backend)
}

fn one_socket(socket: u32) -> Attributes {
    let item = Attributes::default().u32(attribute::SOCKET_FD, socket);
    Attributes::default().nested(attribute::SOCKET_ITEM, &item)
}

#[cfg(test)]
mod tests;
