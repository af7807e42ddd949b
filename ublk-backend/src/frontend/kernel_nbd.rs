//! The kernel's NBD client, told what to do by netlink: which socket `/dev/nbdN` reads and writes through, how large it
//! is, and what becomes of its requests while there is no socket.
//!
//! A device has one connection. With more than one the driver (6.12) takes every request that is not answered within
//! its timer for lost, shuts that connection and sends the request again on another: a peer that is away for a while,
//! or `suspend-io`, would have it do so for ever. With one connection and no time limit it waits, and sends a request
//! again only when the connection was replaced since. Its timer is also what it notices that by, so that it is short.

use super::block_driver::{BlockDriver, BlockLimits, DeviceName, Resized};
use super::device_identity::{DeviceOf, Place};
use super::generic_netlink::{attributes, Attributes, Family};
use super::nbd_negotiation::EXPORT_FLAGS;
use crate::mailbox::{DataPlane, ToData};
use drbd_core::ids::{Sector, VolumeNumber};
use nix::errno::Errno;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

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
/// The driver looks at requests that are under way for so long, at the next whole second of the kernel's clock, whether
/// their connection was replaced, and says of each in the kernel's log that it may be stuck. It looks again that much
/// later, at a whole second again: nearly a second would have it miss every other one.
const TIMER_MS: u32 = 300;
/// What the timer is in a device that nobody set up.
const TIMER_MS_DEFAULT: u32 = 30_000;

/// A device of the driver, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NbdIndex(u32);

impl NbdIndex {
    fn name(self) -> DeviceName {
        DeviceName::new(format!("nbd{}", self.0))
    }

    /// The identifier its owner gave it; `None` while nobody has it.
    fn backend(self) -> Option<String> {
        self.name().says("backend")
    }
}

/// The devices whose identifier is wanted.
fn find(wanted: impl Fn(&str) -> bool) -> Vec<NbdIndex> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let indices = entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("nbd")?.parse().ok());
    indices.map(NbdIndex).filter(|index| index.backend().is_some_and(|b| wanted(&b))).collect()
}

/// Whether a device of this name has an owner; `None` if it is not one of this driver.
pub(super) fn is_in_use(name: &str) -> Option<bool> {
    let index = name.strip_prefix("nbd")?.parse().ok()?;
    Some(NbdIndex(index).backend().is_some())
}

/// Whether devices can be had; else the end of a sentence.
pub(super) fn obstacle() -> Option<String> {
    match Family::open(FAMILY, FAMILY_VERSION) {
        Ok(_) => None,
        Err(Errno::ENOENT) => Some("the kernel has no driver nbd (modprobe nbd)".to_owned()),
        Err(e) => Some(format!("the kernel's driver nbd cannot be reached: {}", e.desc())),
    }
}

/// Lets go of a resource's devices, which a daemon left that will not be started again.
pub(super) fn release_left(resource: &str, place: Place) -> Vec<DeviceName> {
    let left = find(|identifier| place.owns(identifier, resource));
    if left.is_empty() {
        return Vec::new();
    }
    let Ok(mut family) = Family::open(FAMILY, FAMILY_VERSION) else { return Vec::new() };
    for index in &left {
        let _ = disconnect(&mut family, *index);
    }
    left.into_iter().map(NbdIndex::name).collect()
}

/// One device, or the place for one.
#[derive(Debug)]
pub(super) struct KernelNbd {
    family: Family,
    identifier: String,
    volume: VolumeNumber,
    data: DataPlane,
    index: Option<NbdIndex>,
}

impl KernelNbd {
    /// Finds the driver, which is loaded if need be.
    pub(super) fn new(of: &DeviceOf, data: DataPlane) -> Result<KernelNbd, String> {
        let family = Family::open(FAMILY, FAMILY_VERSION)
            .map_err(|e| format!("the kernel's driver nbd is not there: {}", e.desc()))?;
        Ok(KernelNbd { family, identifier: of.identifier(), volume: of.volume, data, index: None })
    }

    /// Our end goes to the data plane, the other one is for the kernel.
    fn sockets(&self) -> Result<OwnedFd, String> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, kernels) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
            .map_err(|e| format!("no sockets for the block device: {}", e.desc()))?;
        // Not the kernel's: its driver would take "try again" for a broken connection.
        let nonblocking = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&ours, nonblocking)
            .map_err(|e| format!("the socket is of no use: {}", e.desc()))?;
        self.data.send(ToData::ServeKernel { volume: self.volume, socket: ours });
        Ok(kernels)
    }

    /// Makes an unused device ours, with size 0.
    fn connect(&mut self, socket: BorrowedFd<'_>) -> Result<NbdIndex, Errno> {
        let asked = connecting(socket.as_raw_fd() as u32, &self.identifier, EXPORT_FLAGS);
        let answer = self.family.ask(command::CONNECT, &asked)?;
        let index = attributes(&answer).find(|(kind, _)| *kind == attribute::INDEX);
        let index = index.and_then(|(_, value)| value.first_chunk::<4>().copied()).ok_or(Errno::EPROTO)?;
        let index = NbdIndex(u32::from_ne_bytes(index));
        // Without it a crash is survived as well, only that it takes half a minute.
        let _ = index.name().set_timer(TIMER_MS);
        Ok(index)
    }

    fn ours(&self) -> Option<NbdIndex> {
        self.index.filter(|index| index.backend().is_some_and(|b| b == self.identifier))
    }
}

impl BlockDriver for KernelNbd {
    fn find(&mut self) -> Option<DeviceName> {
        self.index = find(|identifier| identifier == self.identifier).first().copied();
        self.index.map(NbdIndex::name)
    }

    fn make(&mut self, _size: Sector, _limits: &BlockLimits) -> Result<Option<DeviceName>, String> {
        let kernels = self.sockets()?;
        let index = self
            .connect(kernels.as_fd())
            .map_err(|e| format!("no /dev/nbdN can be attached: {}", e.desc()))?;
        if index.backend().is_none_or(|backend| backend != self.identifier) {
            let _ = disconnect(&mut self.family, index);
            return Err("before 5.14 the kernel's driver nbd does not keep whose a device is".to_owned());
        }
        self.index = Some(index);
        Ok(Some(index.name()))
    }

    fn is_ours(&mut self) -> bool {
        self.ours().is_some()
    }

    /// Gives the device another connection in place of its dead one.
    fn resume(&mut self) -> Result<bool, String> {
        let Some(index) = self.index else { return Ok(false) };
        let kernels = self.sockets()?;
        let asked = ours(index, &self.identifier)
            .u64(attribute::DEAD_CONN_TIMEOUT, DEAD_CONNECTION_S)
            .nested(attribute::SOCKETS, &one_socket(kernels.as_raw_fd() as u32));
        let asked = self.family.ask(command::RECONFIGURE, &asked);
        asked.map(|_| true).map_err(|e| format!("the kernel takes no new connection: {}", e.desc()))
    }

    /// The kernel lets what is under way end first.
    fn resize(&mut self, size: Sector, limits: &BlockLimits) -> Result<Resized, String> {
        let Some(index) = self.index else { return Ok(Resized::Anew) };
        let block_bytes = limits.logical_block_bytes.clamp(512, 4096);
        let asked = sizing(index, size.bytes(), block_bytes, &self.identifier);
        let asked = self.family.ask(command::RECONFIGURE, &asked);
        asked.map(|_| Resized::Done).map_err(|e| format!("it does not take its size: {}", e.desc()))
    }

    fn remove(&mut self) -> Result<(), String> {
        let ours = self.ours();
        self.index = None;
        let Some(index) = ours else { return Ok(()) };
        disconnect(&mut self.family, index).map_err(|e| e.desc().to_owned())
    }
}

/// Lets a device go; what is under way in it fails.
fn disconnect(family: &mut Family, index: NbdIndex) -> Result<(), Errno> {
    family.ask(command::DISCONNECT, &Attributes::default().u32(attribute::INDEX, index.0))?;
    // The timer outlives us in the device, and would be too short for its next owner. Not before: the kernel lets
    // what is under way end before it changes anything of a queue.
    if index.backend().is_none() {
        let _ = index.name().set_timer(TIMER_MS_DEFAULT);
    }
    Ok(())
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
