//! The block device of one volume: `/dev/nbdN`, connected to the daemon's own NBD server, from `new-minor` until
//! `del-minor`. Until its size is known it is there with size 0.
//!
//! A thread of its own keeps it: what it asks of the kernel may wait for requests that only the data plane can finish,
//! which therefore never asks. Nothing is remembered outside of the kernel: after a crash the device is found by the
//! identifier it was given, and whether this node was Primary by whether it may be written.

use super::device_links::{remove_left, DeviceLinks};
use super::kernel_nbd::{find, Driver, NbdIndex};
use super::nbd_negotiation::EXPORT_FLAGS;
use super::openers::user_of;
use super::read_only_switch::set_read_only;
use crate::log::Logger;
use crate::mailbox::{DataPlane, ToData};
use drbd_core::engine::Level;
use drbd_core::ids::{Minor, Sector, VolumeNumber};
use nix::errno::Errno;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::Duration;
use tokio::sync::oneshot;

/// A program that only looks at the device (udev does after every change) is waited for.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Before a connection that the kernel gave up is replaced.
const BEFORE_RECONNECT: Duration = Duration::from_millis(100);

/// What a device is for.
#[derive(Clone, Debug)]
pub(crate) struct DeviceOf {
    /// The resource.
    pub(crate) resource: String,
    /// Its volume.
    pub(crate) volume: VolumeNumber,
    /// That volume's minor.
    pub(crate) minor: Minor,
    /// Which tells resources of one name on one kernel apart.
    pub(crate) place: Place,
}

/// A run directory, as the kernel numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    device: u64,
    inode: u64,
}

impl Place {
    /// Of a directory that is there.
    pub(crate) fn of(directory: &Path) -> std::io::Result<Place> {
        use std::os::unix::fs::MetadataExt;
        let facts = std::fs::metadata(directory)?;
        Ok(Place { device: facts.dev(), inode: facts.ino() })
    }

    /// What the kernel is told a device belongs to.
    fn identifier(self, resource: &str, volume: VolumeNumber) -> String {
        format!("udrbd:{resource}/{volume}@{:x}:{:x}", self.device, self.inode)
    }

    fn owns(self, identifier: &str, resource: &str) -> bool {
        let rest =
            identifier.strip_prefix("udrbd:").and_then(|r| r.strip_prefix(resource)?.strip_prefix('/'));
        let place = rest.and_then(|r| r.split_once('@')).map(|(_, place)| place);
        place.is_some_and(|p| p == format!("{:x}:{:x}", self.device, self.inode))
    }
}

/// What the thread is asked.
#[derive(Debug)]
enum Ask {
    /// Blocks of the backing disk.
    Blocks(u32),
    /// A size, and whether it may be written.
    Become { size: Sector, writable: bool },
    /// Take up the requests that wait since the last daemon died.
    Resume,
    /// The kernel's connection ended.
    Left,
    /// Keep others from opening it, unless somebody has it open: a sentence.
    Claim(oneshot::Sender<Result<(), String>>),
    /// Let others open it again. `demoted`: it stays read-only.
    Unclaim { demoted: bool },
    /// Say when everything asked before is done.
    Settle(oneshot::Sender<()>),
    /// Let it go.
    Detach(oneshot::Sender<()>),
}

/// The device, for the control plane.
#[derive(Debug)]
pub(crate) struct BlockDevice {
    asks: Sender<Ask>,
    /// It is the last daemon's, and could be written: this node was Primary.
    pub(crate) was_primary: bool,
}

impl BlockDevice {
    /// Attaches one, or finds the one of a daemon that died. In that case its requests wait for
    /// [`resume`](Self::resume).
    pub(crate) fn attach(
        of: DeviceOf,
        data: DataPlane,
        logger: Logger,
    ) -> oneshot::Receiver<Result<BlockDevice, String>> {
        let (tell, told) = oneshot::channel();
        let (asks, asked) = channel();
        let body = move || match Keeper::start(of, data, logger) {
            Ok(mut keeper) => {
                let was_primary = keeper.held && keeper.writable;
                let _ = tell.send(Ok(BlockDevice { asks, was_primary }));
                keeper.run(&asked);
            }
            Err(sentence) => {
                let _ = tell.send(Err(sentence));
            }
        };
        // If there can be no thread, whoever waits learns it by the closed channel.
        let _ = std::thread::Builder::new().name("block-device".to_owned()).spawn(body);
        told
    }

    /// Size and role changed.
    pub(crate) fn become_(&self, size: Sector, writable: bool) {
        let _ = self.asks.send(Ask::Become { size, writable });
    }

    /// The backing disk has blocks of so many bytes.
    pub(crate) fn blocks(&self, bytes: u32) {
        let _ = self.asks.send(Ask::Blocks(bytes));
    }

    /// The role is settled: requests that waited since the last daemon died go on.
    pub(crate) fn resume(&self) {
        let _ = self.asks.send(Ask::Resume);
    }

    /// The kernel's connection ended.
    pub(crate) fn left(&self) {
        let _ = self.asks.send(Ask::Left);
    }

    /// Keeps others from opening it. The error says who has it open.
    pub(crate) fn claim(&self) -> oneshot::Receiver<Result<(), String>> {
        let (tell, told) = oneshot::channel();
        let _ = self.asks.send(Ask::Claim(tell));
        told
    }

    /// The end of a claim.
    pub(crate) fn unclaim(&self, demoted: bool) {
        let _ = self.asks.send(Ask::Unclaim { demoted });
    }

    /// Answered when everything asked before is done.
    pub(crate) fn settle(&self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let _ = self.asks.send(Ask::Settle(tell));
        told
    }

    /// Lets it go. Answered when it is gone.
    pub(crate) fn detach(self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let _ = self.asks.send(Ask::Detach(tell));
        told
    }
}

/// Lets go of what a resource's daemon left behind that will not be started again: what waits in it fails, and nobody
/// waits for ever.
pub(crate) fn release_left(resource: &str, run_dir: &Path) {
    let Ok(place) = Place::of(run_dir) else { return };
    let left = find(|identifier| place.owns(identifier, resource));
    if left.is_empty() {
        return;
    }
    let Ok(mut driver) = Driver::open() else { return };
    for index in left {
        let _ = driver.disconnect(index);
        remove_left(index, resource);
    }
}

/// The thread's state.
#[derive(Debug)]
struct Keeper {
    of: DeviceOf,
    driver: Driver,
    data: DataPlane,
    logger: Logger,
    links: DeviceLinks,
    identifier: String,
    /// `None`: somebody detached it.
    index: Option<NbdIndex>,
    /// Its requests wait for a new connection.
    held: bool,
    block_bytes: u32,
    /// What the kernel was told.
    size: Sector,
    writable: bool,
    /// What it is to be told once its requests do not wait any more.
    wanted: Option<(Sector, bool)>,
    claim: Option<File>,
}

impl Keeper {
    fn start(of: DeviceOf, data: DataPlane, logger: Logger) -> Result<Keeper, String> {
        let driver =
            Driver::open().map_err(|e| format!("the kernel's driver nbd is not there: {}.", e.desc()))?;
        let identifier = of.place.identifier(&of.resource, of.volume);
        let links = DeviceLinks::new(of.minor, &of.resource, of.volume);
        let mut keeper = Keeper {
            of,
            driver,
            data,
            logger,
            links,
            identifier,
            index: None,
            held: false,
            block_bytes: 512,
            size: Sector(0),
            writable: false,
            wanted: None,
            claim: None,
        };
        let left = find(|identifier| identifier == keeper.identifier).first().copied();
        match left {
            Some(index) => {
                keeper.index = Some(index);
                keeper.held = true;
                // Every device is made read-only before anyone could have written to it.
                keeper.writable = index.is_writable();
                keeper.link(index);
            }
            None => keeper.connect()?,
        }
        Ok(keeper)
    }

    fn run(&mut self, asked: &Receiver<Ask>) {
        while let Ok(ask) = asked.recv() {
            match ask {
                Ask::Blocks(bytes) => self.block_bytes = bytes.clamp(512, 4096),
                Ask::Become { size, writable } => {
                    self.wanted = Some((size, writable));
                    self.catch_up();
                }
                Ask::Resume => self.resume(),
                Ask::Left => self.on_left(),
                Ask::Claim(tell) => {
                    let claimed = self.claim();
                    // Nobody waits any more: as if it had not been asked.
                    if tell.send(claimed).is_err() {
                        self.unclaim(false);
                    }
                }
                Ask::Unclaim { demoted } => self.unclaim(demoted),
                Ask::Settle(tell) => {
                    let _ = tell.send(());
                }
                Ask::Detach(tell) => {
                    self.detach();
                    let _ = tell.send(());
                    return;
                }
            }
        }
    }

    fn say(&self, level: Level, sentence: String) {
        let subject = format!("{}/{} drbd{}", self.of.resource, self.of.volume, self.of.minor);
        self.logger.say(level, "block-device", &subject, sentence);
    }

    /// Our end goes to the data plane, the other one is for the kernel.
    fn sockets(&self) -> Result<OwnedFd, String> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, kernels) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
            .map_err(|e| format!("no sockets for the block device: {}.", e.desc()))?;
        // Not the kernel's: its driver would take "try again" for a broken connection.
        let nonblocking = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&ours, nonblocking)
            .map_err(|e| format!("the socket is of no use: {}.", e.desc()))?;
        self.data.send(ToData::ServeKernel { volume: self.of.volume, socket: ours });
        Ok(kernels)
    }

    fn connect(&mut self) -> Result<(), String> {
        let kernels = self.sockets()?;
        let index = self
            .driver
            .connect(kernels.as_fd(), &self.identifier, EXPORT_FLAGS)
            .map_err(|e| format!("no /dev/nbdN can be attached: {}.", e.desc()))?;
        let usable = match index.backend() {
            Some(backend) if backend == self.identifier => {
                open_device(index, 0).and_then(|device| set_read_only(&device, true))
            }
            Some(_) | None => Err(std::io::Error::other("before 5.14 the driver does not keep whose it is")),
        };
        if let Err(e) = usable {
            let _ = self.driver.disconnect(index);
            return Err(format!("{} is of no use: {e}.", index.node().display()));
        }
        self.index = Some(index);
        (self.held, self.size, self.writable) = (false, Sector(0), false);
        self.link(index);
        self.say(Level::Info, format!("The block device is {}.", index.node().display()));
        Ok(())
    }

    fn link(&self, index: NbdIndex) {
        if let Err(sentence) = self.links.make(index) {
            self.say(
                Level::Warning,
                format!("The block device is only at {}: {sentence}", index.node().display()),
            );
        }
    }

    /// The device is ours, still.
    fn ours(&self) -> Option<NbdIndex> {
        self.index.filter(|index| index.backend().is_some_and(|b| b == self.identifier))
    }

    fn resume(&mut self) {
        if !self.held {
            return;
        }
        self.held = false;
        self.reconnect();
        self.catch_up();
    }

    fn reconnect(&mut self) {
        let Some(index) = self.ours() else { return self.on_left() };
        let outcome = self.sockets().and_then(|kernels| {
            let asked = self.driver.reconnect(index, kernels.as_fd(), &self.identifier);
            asked.map_err(|e| format!("the kernel takes no new connection: {}.", e.desc()))
        });
        match outcome {
            Ok(()) => self.say(Level::Info, format!("{} goes on.", index.node().display())),
            Err(sentence) => {
                self.say(Level::Error, format!("{} does not go on: {sentence}", index.node().display()));
            }
        }
    }

    fn on_left(&mut self) {
        let Some(index) = self.index else { return };
        if self.held {
            return;
        }
        std::thread::sleep(BEFORE_RECONNECT);
        if self.ours().is_some() {
            return self.reconnect();
        }
        let gone =
            format!("Somebody detached {}; `primary` attaches a device again.", index.node().display());
        self.say(Level::Warning, gone);
        self.links.remove(index);
        self.index = None;
        (self.claim, self.writable, self.size) = (None, false, Sector(0));
    }

    /// Tells the kernel what changed.
    fn catch_up(&mut self) {
        if self.held {
            return;
        }
        let Some((size, writable)) = self.wanted else { return };
        if self.index.is_none() && writable {
            if let Err(sentence) = self.connect() {
                self.say(Level::Error, format!("There is no block device: {sentence}"));
            }
        }
        let Some(index) = self.index else { return };
        self.wanted = None;
        let outcome = self.resize(index, size).and_then(|()| self.make_writable(index, writable));
        if let Err(e) = outcome {
            let what = if writable { "written" } else { "kept from being written" };
            self.say(
                Level::Error,
                format!("{} cannot be {what}, or has not its size: {e}.", index.node().display()),
            );
        }
    }

    fn resize(&mut self, index: NbdIndex, size: Sector) -> std::io::Result<()> {
        if self.size == size {
            return Ok(());
        }
        self.driver.resize(index, size.bytes(), self.block_bytes, &self.identifier)?;
        self.size = size;
        Ok(())
    }

    fn make_writable(&mut self, index: NbdIndex, writable: bool) -> std::io::Result<()> {
        if self.writable == writable {
            return Ok(());
        }
        match &self.claim {
            Some(device) => set_read_only(device, !writable)?,
            None => set_read_only(&open_device(index, 0)?, !writable)?,
        }
        self.writable = writable;
        Ok(())
    }

    /// Before a demotion: opened exclusively, so that nobody mounts it meanwhile, and read-only, so that a crash in
    /// between is not taken for that of a Primary.
    fn claim(&mut self) -> Result<(), String> {
        let Some(index) = self.ours() else { return Ok(()) };
        let node = index.node();
        let mut user = None;
        for _ in 0..LOOKS {
            user = user_of(index);
            if user.is_none() {
                match open_device(index, libc::O_EXCL) {
                    Ok(device) => {
                        let _ = set_read_only(&device, true);
                        self.claim = Some(device);
                        return Ok(());
                    }
                    Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) => {
                        user = Some("the kernel, or a process in another namespace, holds it".to_owned());
                    }
                    Err(e) => return Err(format!("{} cannot be opened: {e}", node.display())),
                }
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Err(format!("{} ({}): {}", self.links.device().display(), node.display(), user.unwrap_or_default()))
    }

    fn unclaim(&mut self, demoted: bool) {
        let Some(device) = self.claim.take() else { return };
        if demoted {
            self.writable = false;
        } else if self.writable {
            let _ = set_read_only(&device, false);
        }
    }

    fn detach(&mut self) {
        self.claim = None;
        if let Some(index) = self.ours() {
            self.links.remove(index);
            if let Err(e) = self.driver.disconnect(index) {
                self.say(
                    Level::Error,
                    format!("{} cannot be detached: {}.", index.node().display(), e.desc()),
                );
            }
        }
        self.index = None;
    }
}

/// Opens a device of ours for looking at it and for its switch; a device opened for writing is looked at by udev when
/// it is closed again.
fn open_device(index: NbdIndex, flags: i32) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(index.node())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_belongs_to_a_resource_of_one_run_directory() {
        let (here, there) = (Place { device: 0x19, inode: 7 }, Place { device: 0x19, inode: 8 });
        let identifier = here.identifier("r0", VolumeNumber(3));
        assert_eq!(identifier, "udrbd:r0/3@19:7");
        assert!(here.owns(&identifier, "r0"));
        assert!(!here.owns(&identifier, "r"));
        assert!(!there.owns(&identifier, "r0"));
        assert!(!here.owns("udrbd:r0/3", "r0"));
        assert!(!here.owns("something else", "r0"));
    }
}
