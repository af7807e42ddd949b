//! The block device of one volume, from `new-minor` until `del-minor`: `/dev/nbdN`, connected to the daemon's own NBD
//! server, or `/dev/ublkbN`. Until its size is known the one is there with size 0, and a place holder for the other.
//!
//! A thread of its own keeps it: what it asks of the kernel may wait for requests that only the data plane can finish,
//! which therefore never asks. Nothing is remembered outside of the kernel: after a crash the device is found by the
//! identifier it was given.

use super::block_driver::{BlockDriver, BlockLimits, DeviceName, Resized};
use super::choice::Kernel;
use super::device_identity::{DeviceOf, Place};
use super::device_links::{remove_left, DeviceLinks};
use super::kernel_nbd::{self, KernelNbd};
use super::openers::user_of;
use super::read_only_switch::set_read_only;
use super::ublk::{self, Ublk};
use crate::log::Logger;
use crate::mailbox::DataPlane;
use drbd_core::engine::Level;
use drbd_core::ids::Sector;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A program that only looks at the device (udev does after every change) is waited for.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Before a connection that the kernel gave up is replaced.
const BEFORE_RECONNECT: Duration = Duration::from_millis(100);
/// How often it is looked whether a device that waits for another size is still in use.
const BETWEEN_TRIES: Duration = Duration::from_secs(2);

/// What the thread is asked.
#[derive(Debug)]
enum Ask {
    /// What the backing disk wants.
    Limits(BlockLimits),
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
    waiting_size: WaitingSize,
}

/// Sectors that a device is to have once nobody uses it; 0: it has its size.
type WaitingSize = Arc<AtomicU64>;

impl BlockDevice {
    /// Attaches one, or finds the one of a daemon that died. In that case its requests wait for
    /// [`resume`](Self::resume).
    pub(crate) fn attach(
        kernel: Kernel,
        of: DeviceOf,
        data: DataPlane,
        logger: Logger,
    ) -> oneshot::Receiver<Result<BlockDevice, String>> {
        let (tell, told) = oneshot::channel();
        let (asks, asked) = channel();
        let body = move || match Keeper::start(kernel, of, data, logger) {
            Ok(mut keeper) => {
                let waiting_size = Arc::clone(&keeper.waiting_size);
                let _ = tell.send(Ok(BlockDevice { asks, waiting_size }));
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

    /// The size that it will have once nobody uses it, if that is another one.
    pub(crate) fn waiting_size(&self) -> Option<Sector> {
        Some(Sector(self.waiting_size.load(Ordering::Relaxed))).filter(|size| *size > Sector(0))
    }

    /// Size and role changed.
    pub(crate) fn become_(&self, size: Sector, writable: bool) {
        let _ = self.asks.send(Ask::Become { size, writable });
    }

    /// What the backing disk wants of requests: known before the size is.
    pub(crate) fn limits(&self, limits: BlockLimits) {
        let _ = self.asks.send(Ask::Limits(limits));
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
    for device in
        kernel_nbd::release_left(resource, place).into_iter().chain(ublk::release_left(resource, place))
    {
        remove_left(&device, resource);
    }
}

/// The thread's state.
#[derive(Debug)]
struct Keeper {
    of: DeviceOf,
    driver: Box<dyn BlockDriver>,
    logger: Logger,
    links: DeviceLinks,
    device: Option<DeviceName>,
    /// Somebody else detached it: there is another one only for a Primary.
    detached: bool,
    /// Its requests wait for this process.
    held: bool,
    limits: BlockLimits,
    /// What the kernel was told.
    size: Sector,
    writable: bool,
    /// What it is to be told once its requests do not wait any more, or its users let it go.
    wanted: Option<(Sector, bool)>,
    /// Told already.
    waiting_size: WaitingSize,
    claim: Option<File>,
}

impl Keeper {
    fn start(kernel: Kernel, of: DeviceOf, data: DataPlane, logger: Logger) -> Result<Keeper, String> {
        let driver: Box<dyn BlockDriver> = match kernel {
            Kernel::Nbd => Box::new(KernelNbd::new(&of, data)?),
            Kernel::Ublk => Box::new(Ublk::new(&of, data)?),
        };
        let links = DeviceLinks::new(of.minor, &of.resource, of.volume);
        let mut keeper = Keeper {
            of,
            driver,
            logger,
            links,
            device: None,
            detached: false,
            held: false,
            limits: BlockLimits::default(),
            size: Sector(0),
            writable: false,
            wanted: None,
            waiting_size: WaitingSize::default(),
            claim: None,
        };
        match keeper.driver.find() {
            Some(device) => {
                keeper.held = true;
                keeper.size = device.size();
                // Every device is made read-only before anyone could have written to it.
                keeper.writable = device.is_writable();
                keeper.link(&device);
                keeper.device = Some(device);
            }
            None => keeper.make(Sector(0))?,
        }
        Ok(keeper)
    }

    fn run(&mut self, asked: &Receiver<Ask>) {
        while let Some(ask) = self.next_ask(asked) {
            match ask {
                Ask::Limits(limits) => self.limits = limits,
                Ask::Become { size, writable } => {
                    self.wanted = Some((size, writable));
                    self.catch_up();
                }
                Ask::Resume => self.resume(),
                Ask::Left => self.on_left(),
                Ask::Claim(tell) => {
                    let claimed = self.claim(LOOKS);
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

    /// `None`: nobody asks any more.
    fn next_ask(&mut self, asked: &Receiver<Ask>) -> Option<Ask> {
        while self.waits() {
            match asked.recv_timeout(BETWEEN_TRIES) {
                Ok(ask) => return Some(ask),
                Err(RecvTimeoutError::Timeout) => self.catch_up(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        asked.recv().ok()
    }

    fn say(&self, level: Level, sentence: String) {
        let subject = format!("{}/{} drbd{}", self.of.resource, self.of.volume, self.of.minor);
        self.logger.say(level, "block-device", &subject, sentence);
    }

    fn waits(&self) -> bool {
        self.waiting_size.load(Ordering::Relaxed) > 0
    }

    /// Has a device, or a place holder where the driver has none of this size.
    fn make(&mut self, size: Sector) -> Result<(), String> {
        let Some(device) = self.driver.make(size, &self.limits)? else {
            if let Err(sentence) = self.links.hold_place() {
                self.say(Level::Warning, format!("There is no block device yet: {sentence}"));
            }
            return Ok(());
        };
        if let Err(e) = open_device(&device, 0).and_then(|opened| set_read_only(&opened, true)) {
            let _ = self.driver.remove();
            return Err(format!("{} is of no use: {e}", device.node().display()));
        }
        (self.held, self.detached) = (false, false);
        (self.size, self.writable) = (device.size(), false);
        self.link(&device);
        self.say(Level::Info, format!("The block device is {}.", device.node().display()));
        self.device = Some(device);
        Ok(())
    }

    fn link(&self, device: &DeviceName) {
        if let Err(sentence) = self.links.make(device) {
            self.say(
                Level::Warning,
                format!("The block device is only at {}: {sentence}", device.node().display()),
            );
        }
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
        let Some(device) = self.device.clone() else { return };
        if !self.driver.is_ours() {
            return self.on_left();
        }
        match self.driver.resume() {
            Ok(true) => self.say(Level::Info, format!("{} goes on.", device.node().display())),
            Ok(false) => {}
            // What waits in it must not wait for ever.
            Err(why) => {
                self.say(Level::Error, format!("{} does not go on: {why}.", device.node().display()));
                let _ = self.driver.remove();
                self.forget();
            }
        }
    }

    fn on_left(&mut self) {
        if self.held || self.device.is_none() {
            return;
        }
        std::thread::sleep(BEFORE_RECONNECT);
        if self.driver.is_ours() {
            return self.reconnect();
        }
        let Some(device) = &self.device else { return };
        let gone =
            format!("Somebody detached {}; `primary` attaches a device again.", device.node().display());
        self.say(Level::Warning, gone);
        self.forget();
    }

    /// There is no device any more, until `primary` needs one.
    fn forget(&mut self) {
        if let Some(device) = self.device.take() {
            self.links.remove(Some(&device));
        }
        self.detached = true;
        (self.claim, self.writable, self.size) = (None, false, Sector(0));
    }

    /// Tells the kernel what changed.
    fn catch_up(&mut self) {
        if self.held {
            return;
        }
        let Some((size, writable)) = self.wanted else { return };
        let may_make = if self.detached { writable } else { size > Sector(0) };
        if self.device.is_none() && may_make {
            if let Err(why) = self.make(size) {
                self.say(Level::Error, format!("There is no block device: {why}."));
            }
        }
        let Some(mut device) = self.device.clone() else { return };
        match self.resize(size) {
            Ok(true) => self.waiting_size.store(0, Ordering::Relaxed),
            // Until then the role is told all the same.
            Ok(false) => {}
            Err(why) => {
                self.say(Level::Error, format!("{} has not its size: {why}.", device.node().display()));
            }
        }
        if !self.waits() {
            self.wanted = None;
        }
        // It may be another one.
        device = self.device.clone().unwrap_or(device);
        if let Err(e) = self.make_writable(&device, writable) {
            let what = if writable { "written" } else { "kept from being written" };
            self.say(Level::Error, format!("{} cannot be {what}: {e}.", device.node().display()));
        }
    }

    /// False: it waits until nobody uses the device.
    fn resize(&mut self, size: Sector) -> Result<bool, String> {
        if self.size == size || (size == Sector(0) && self.size > Sector(0)) {
            return Ok(true);
        }
        if self.driver.resize(size, &self.limits)? == Resized::Done {
            self.size = size;
            return Ok(true);
        }
        let claimed = self.claim.is_some();
        if let Err(user) = self.claim(if self.waits() { 1 } else { LOOKS }) {
            if self.waiting_size.swap(size.0, Ordering::Relaxed) != size.0 {
                self.say(
                    Level::Warning,
                    format!(
                        "The new size of {} bytes waits until nobody uses the device: this kernel cannot change it in use. {user}.",
                        size.bytes()
                    ),
                );
            }
            return Ok(false);
        }
        self.claim = None;
        if let Err(why) = self.driver.remove().and_then(|()| self.make(size)) {
            // The old one was made read-only, and is not to be trusted with a user any more.
            self.forget();
            return Err(why);
        }
        if claimed {
            let _ = self.claim(LOOKS);
        }
        Ok(true)
    }

    fn make_writable(&mut self, device: &DeviceName, writable: bool) -> std::io::Result<()> {
        if self.writable == writable {
            return Ok(());
        }
        match &self.claim {
            Some(device) => set_read_only(device, !writable)?,
            None => set_read_only(&open_device(device, 0)?, !writable)?,
        }
        self.writable = writable;
        Ok(())
    }

    /// Before a demotion: opened exclusively, so that nobody mounts it meanwhile, and read-only, so that a crash in
    /// between is not taken for that of a Primary.
    fn claim(&mut self, looks: u32) -> Result<(), String> {
        let Some(device) = self.device.clone() else { return Ok(()) };
        if self.claim.is_some() || !self.driver.is_ours() {
            return Ok(());
        }
        let mut user = None;
        for look in 1..=looks {
            user = user_of(&device);
            if user.is_none() {
                match open_device(&device, libc::O_EXCL) {
                    Ok(opened) => {
                        let _ = set_read_only(&opened, true);
                        self.claim = Some(opened);
                        return Ok(());
                    }
                    Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) => {
                        user = Some("the kernel, or a process in another namespace, holds it".to_owned());
                    }
                    Err(e) => return Err(format!("{} cannot be opened: {e}", device.node().display())),
                }
            }
            if look < looks {
                std::thread::sleep(BETWEEN_LOOKS);
            }
        }
        let (link, node) = (self.links.device(), device.node());
        Err(format!("{} ({}): {}", link.display(), node.display(), user.unwrap_or_default()))
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
        let device = self.device.take();
        self.links.remove(device.as_ref());
        if let Err(why) = self.driver.remove() {
            let node = device.map_or_else(|| self.links.device(), |device| device.node());
            self.say(Level::Error, format!("{} cannot be detached: {why}.", node.display()));
        }
    }
}

/// Opens a device of ours for looking at it and for its switch; a device opened for writing is looked at by udev when
/// it is closed again.
fn open_device(device: &DeviceName, flags: i32) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(device.node())
}
