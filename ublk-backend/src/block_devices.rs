//! The block devices of a resource's volumes, where its front end has any: when they come and go with what an
//! administrator asks, and what each is told of size and role.

use crate::frontend::block_device::BlockDevice;
use crate::frontend::block_driver::BlockLimits;
use crate::frontend::choice::Kernel;
use crate::frontend::device_identity::{DeviceOf, Place};
use crate::log::Logger;
use crate::mailbox::DataPlane;
use crate::role_mark::RoleMark;
use drbd_core::control::{Configuration, Request};
use drbd_core::engine::Level;
use drbd_core::ids::{Minor, Sector, VolumeNumber};
use drbd_core::refusal::{Reason, Refusal};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long an administrator waits for what only the kernel can do, which may wait for requests under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// All of them.
#[derive(Debug)]
pub(crate) struct BlockDevices {
    resource: String,
    /// `None`: the front end is the socket alone.
    kernel: Option<(Kernel, Place)>,
    data: DataPlane,
    logger: Logger,
    devices: RefCell<BTreeMap<VolumeNumber, BlockDevice>>,
    /// What was last said of a volume: it may be said before there is a device.
    shapes: RefCell<BTreeMap<VolumeNumber, (Sector, bool)>>,
    /// A Secondary's device takes writes, which promote it.
    auto_promote: Cell<bool>,
    /// Devices are not told anything for the moment.
    held: Cell<bool>,
    role: RoleMark,
    /// The role that the last daemon had is to be taken up yet: should this one die before, it is still the next one's.
    role_open: Cell<bool>,
}

impl BlockDevices {
    /// None yet. `kernel`: whose they are to be, if there are to be any, and the place of the run directory.
    pub(crate) fn new(
        resource: &str,
        kernel: Option<(Kernel, Place)>,
        data: DataPlane,
        logger: Logger,
        role: RoleMark,
    ) -> BlockDevices {
        BlockDevices {
            resource: resource.to_owned(),
            kernel,
            data,
            logger,
            devices: RefCell::default(),
            shapes: RefCell::default(),
            auto_promote: Cell::new(false),
            held: Cell::new(false),
            role,
            role_open: Cell::new(true),
        }
    }

    /// A volume was made. One whose device cannot be had is served by its socket alone.
    pub(crate) async fn attach(&self, minor: Minor, volume: VolumeNumber, recovery: bool) {
        let Some((kernel, place)) = self.kernel else { return };
        let of = DeviceOf { resource: self.resource.clone(), volume, minor, place };
        match answer_to(BlockDevice::attach(kernel, of, self.data.clone(), self.logger.clone())).await {
            Some(Ok(device)) => {
                if let Some(&(size, writable)) = self.shapes.borrow().get(&volume) {
                    device.become_(size, writable || self.auto_promote.get());
                }
                // What waits in the device of a daemon that is not recovered is not this one's: it ends with an error.
                if !recovery {
                    device.resume();
                }
                self.devices.borrow_mut().insert(volume, device);
            }
            Some(Err(sentence)) => self.say(format!("Volume {volume} has no block device: {sentence}")),
            None => self.say(format!("Volume {volume} has no block device: the kernel does not answer.")),
        }
    }

    fn say(&self, sentence: String) {
        self.logger.say(Level::Warning, "block-device", &self.resource, sentence);
    }

    /// A size became known or changed, or whether the device may be written.
    pub(crate) fn device(&self, volume: VolumeNumber, size: Sector, writable: bool) {
        self.shapes.borrow_mut().insert(volume, (size, writable));
        if !self.held.get() {
            self.keep_role();
            self.with(volume, |device| device.become_(size, writable || self.auto_promote.get()));
        }
    }

    fn keep_role(&self) {
        if self.role_open.get() {
            return;
        }
        self.role.set(self.shapes.borrow().values().any(|&(_, writable)| writable));
    }

    /// Keeps from the devices what changes, until it is told them at once.
    pub(crate) fn hold(&self, held: bool) {
        self.held.set(held);
        if !held {
            self.keep_role();
            for (volume, &(size, writable)) in self.shapes.borrow().iter() {
                self.with(*volume, |device| device.become_(size, writable || self.auto_promote.get()));
            }
        }
    }

    /// Whether a Secondary's device takes writes. False: nothing changed.
    pub(crate) fn set_auto_promote(&self, on: bool) -> bool {
        let changed = self.auto_promote.replace(on) != on;
        if changed {
            for (volume, &(size, writable)) in self.shapes.borrow().iter() {
                self.with(*volume, |device| device.become_(size, writable || on));
            }
        }
        changed
    }

    fn tell_again(&self) {
        for (volume, (size, writable)) in self.shapes.borrow().iter() {
            self.with(*volume, |device| device.become_(*size, *writable));
        }
    }

    /// What the disk being attached wants of requests.
    pub(crate) fn limits(&self, volume: VolumeNumber, limits: BlockLimits) {
        self.with(volume, |device| device.limits(limits));
    }

    /// The kernel has no connection to a volume any more.
    pub(crate) fn left(&self, volume: VolumeNumber) {
        self.with(volume, BlockDevice::left);
    }

    fn with(&self, volume: VolumeNumber, what: impl Fn(&BlockDevice)) {
        if let Some(device) = self.devices.borrow().get(&volume) {
            what(device);
        }
    }

    /// The size that a volume's device will have once nobody uses it, if that is another one.
    pub(crate) fn waiting_size(&self, volume: VolumeNumber) -> Option<Sector> {
        self.devices.borrow().get(&volume).and_then(BlockDevice::waiting_size)
    }

    /// What waits goes on, in whatever role this node is now.
    pub(crate) fn resume(&self) {
        self.role_open.set(false);
        self.keep_role();
        self.devices.borrow().values().for_each(BlockDevice::resume);
    }

    /// Whether a request may be, as far as users of block devices are concerned. While it is carried out nobody new
    /// mounts what it takes away; afterwards [`after`](Self::after) is due.
    pub(crate) async fn before(&self, request: &Request, facts: &Configuration) -> Result<(), Refusal> {
        let volumes: Vec<VolumeNumber> = match request {
            Request::Secondary { force: false } | Request::Down => {
                self.devices.borrow().keys().copied().collect()
            }
            Request::DelMinor { minor } => {
                facts.volumes.iter().filter(|v| v.minor == *minor).map(|v| v.volume).collect()
            }
            _ => return Ok(()),
        };
        for volume in &volumes {
            let Some(claim) = self.devices.borrow().get(volume).map(BlockDevice::claim) else { continue };
            let user = match answer_to(claim).await {
                Some(Ok(())) => continue,
                Some(Err(user)) => user,
                None => format!("the block device of volume {volume} does not answer"),
            };
            self.unclaim(false);
            return Err(Refusal::because(Reason::DeviceInUse, user));
        }
        Ok(())
    }

    /// A request was carried out, or refused.
    pub(crate) async fn after(&self, request: &Request, facts: &Configuration, done: bool) {
        match request {
            Request::Secondary { .. } => self.unclaim(done),
            Request::DelMinor { minor } if done => {
                let gone = facts.volumes.iter().find(|v| v.minor == *minor).map(|v| v.volume);
                if let Some(volume) = gone {
                    self.detach(volume).await;
                }
            }
            Request::DelMinor { .. } | Request::Down => self.unclaim(false),
            // Also of one that is Primary already: a device that somebody took away is made again.
            Request::Primary { .. } if done => self.tell_again(),
            Request::Primary { .. } | Request::Attach { .. } | Request::Resize { .. } => {}
            _ => return,
        }
        self.settle().await;
    }

    fn unclaim(&self, demoted: bool) {
        self.devices.borrow().values().for_each(|device| device.unclaim(demoted));
    }

    /// Until the devices are what the engine said: who was told "done" opens one at once.
    async fn settle(&self) {
        let all: Vec<_> = self.devices.borrow().values().map(BlockDevice::settle).collect();
        for one in all {
            let _ = answer_to(one).await;
        }
    }

    async fn detach(&self, volume: VolumeNumber) {
        self.shapes.borrow_mut().remove(&volume);
        self.keep_role();
        let device = self.devices.borrow_mut().remove(&volume);
        if let Some(device) = device {
            if answer_to(device.detach()).await.is_none() {
                self.say(format!("The block device of volume {volume} is not gone yet."));
            }
        }
    }

    /// The resource is gone.
    pub(crate) async fn detach_all(&self) {
        let volumes: Vec<VolumeNumber> = self.devices.borrow().keys().copied().collect();
        for volume in volumes {
            self.detach(volume).await;
        }
    }
}

/// What a device's thread answers; `None` if it does not, or not in time.
async fn answer_to<T>(told: oneshot::Receiver<T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, told).await.ok()?.ok()
}
