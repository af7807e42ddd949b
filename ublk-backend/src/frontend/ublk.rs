//! ublk, for the keeper of a block device: `/dev/ublkbN` is made when its size is known, read-only first, and stays when
//! its daemon dies. The next daemon knows it by a number that the driver keeps, takes it over and gets its requests again,
//! those that were under way as well.

use super::block_driver::{BlockDriver, BlockLimits, DeviceName, Resized};
use super::device_identity::{DeviceOf, Place};
use super::ublk_commands::{feature, DeviceInfo, DeviceState, Parameters, ANY_DEVICE};
use super::ublk_control::{explain, Control};
use super::ublk_queues::OpenDevice;
use crate::mailbox::{DataPlane, ToData};
use drbd_core::engine::RequestLimits;
use drbd_core::ids::Sector;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Requests of a queue at a time.
const QUEUE_DEPTH: u16 = 128;
/// One thread serves all queues: more of them than this save the processors of a large host nothing.
const QUEUES_MAX: usize = 4;
/// The driver notices a daemon's death by the commands it has of it, and before Linux 6.15 by nothing else, where that
/// daemon had every request of a queue, but this timer, which looks after each request, and up to a second more.
const TIMER_MS: u32 = 500;
/// So long it may take until the kernel has cleared away what a dead daemon left.
const PATIENCE: Duration = Duration::from_secs(20);
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

/// Whether devices can be had; else the end of a sentence.
pub(super) fn obstacle() -> Option<String> {
    let mut control = match Control::open() {
        Ok(control) => control,
        Err(why) => return Some(why),
    };
    match control.features() {
        Ok(features) if features & feature::NEEDED == feature::NEEDED => None,
        Ok(features) => Some(format!(
            "the kernel's driver ublk has not all that is needed (features {features:#x}, needed {:#x}; Linux 6.5 has them)",
            feature::NEEDED
        )),
        Err(Errno::ETIMEDOUT) => Some(explain("the kernel's driver ublk", Errno::ETIMEDOUT)),
        Err(e) => Some(format!("the kernel's driver ublk does not say what it can (before Linux 6.5): {}", e.desc())),
    }
}

/// Lets go of a resource's devices, which a daemon left that will not be started again.
pub(super) fn release_left(resource: &str, place: Place) -> Vec<DeviceName> {
    if ids().next().is_none() {
        return Vec::new();
    }
    let Ok(mut control) = Control::open() else { return Vec::new() };
    let owner = place.owner(resource);
    let ours = |control: &mut Control, id| control.info(id).is_ok_and(|info| info.owner & !0xffff == owner);
    let left: Vec<u32> = ids().filter(|id| ours(&mut control, *id)).collect();
    for id in &left {
        let _ = control.stop(*id).and_then(|()| control.delete(*id));
    }
    left.into_iter().map(name).collect()
}

/// The devices there are.
fn ids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/sys/class/ublk-char").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("ublkc")?.parse().ok())
}

fn name(id: u32) -> DeviceName {
    DeviceName::new(format!("ublkb{id}"))
}

/// One device, or the place for one.
#[derive(Debug)]
pub(super) struct Ublk {
    control: Control,
    of: DeviceOf,
    data: DataPlane,
    features: u64,
    device: Option<DeviceInfo>,
    /// It is the last daemon's, and not served yet.
    left: bool,
}

impl Ublk {
    /// Opens the driver.
    pub(super) fn new(of: &DeviceOf, data: DataPlane) -> Result<Ublk, String> {
        let mut control = Control::open()?;
        let features = control.features().map_err(|e| explain("the kernel's driver ublk", e))?;
        Ok(Ublk { control, of: of.clone(), data, features, device: None, left: false })
    }

    /// With the number of the minor, if nobody has that.
    fn add(&mut self) -> Result<DeviceInfo, String> {
        let wanted = DeviceInfo {
            queues: std::thread::available_parallelism().map_or(1, usize::from).min(QUEUES_MAX) as u16,
            depth: QUEUE_DEPTH,
            state: DeviceState::Dead,
            request_bytes_max: RequestLimits::LARGEST.data_bytes,
            id: self.of.minor.0,
            features: self.features & (feature::NEEDED | feature::UPDATE_SIZE | feature::NO_AUTO_PART_SCAN),
            owner: self.of.owner(),
        };
        let mut added = self.control.add(&wanted);
        if matches!(added, Err(Errno::EEXIST | Errno::EINVAL)) {
            added = self.control.add(&DeviceInfo { id: ANY_DEVICE, ..wanted });
        }
        added.map_err(|e| explain("no device can be made", e))
    }

    /// Says what the device is like, has it served and starts it.
    fn start(&mut self, info: &DeviceInfo, size: Sector, limits: &BlockLimits) -> Result<(), String> {
        let largest = RequestLimits::LARGEST;
        let logical_block_bytes = limits.logical_block_bytes.clamp(512, 4096);
        let parameters = Parameters {
            sectors: size.0,
            logical_block_bytes,
            physical_block_bytes: limits.physical_block_bytes.clamp(logical_block_bytes, 1 << 20),
            data_bytes_max: largest.data_bytes,
            discard_bytes_max: largest.discard_bytes,
            discard_granularity: limits.discard_granularity.max(logical_block_bytes),
            zeroes_bytes_max: largest.zeroes_bytes,
        };
        self.control.set_parameters(info.id, &parameters).map_err(|e| explain("its parameters", e))?;
        self.serve(info)?;
        self.control.start(info.id).map_err(|e| explain("it does not start", e))
    }

    /// Hands the queues to the data plane.
    fn serve(&mut self, info: &DeviceInfo) -> Result<(), String> {
        let path = PathBuf::from(format!("/dev/ublkc{}", info.id));
        let file = open_soon(&path).map_err(|e| format!("{} cannot be opened: {e}", path.display()))?;
        let open = OpenDevice::new(self.of.volume, file, info.queues, info.depth)
            .map_err(|e| format!("{} cannot be mapped: {e}", path.display()))?;
        self.data.send(ToData::ServeUblk(Box::new(open)));
        Ok(())
    }

    fn delete(&mut self, id: u32) -> Result<(), String> {
        // In use for a moment more by the data plane, which learns of it by this.
        self.control.stop(id).map_err(|e| explain("it does not stop", e))?;
        self.control.delete(id).map_err(|e| explain("it is not deleted", e))
    }

    fn ours(&mut self) -> Option<DeviceInfo> {
        let known = self.device?;
        let info = self.control.info(known.id).ok()?;
        (info.owner == known.owner && info.state != DeviceState::Dead).then_some(info)
    }

    fn is_quiesced(&mut self, id: u32) -> bool {
        self.control.info(id).is_ok_and(|info| info.state == DeviceState::Quiesced)
    }

    /// Tells the driver that there is a new server, once it has noticed that the old one is gone.
    fn begin_recovery(&mut self, id: u32) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.control.begin_recovery(id) {
                // A server before this one began, and died before it had taken a queue: some kernels (6.12) do not let it
                // begin again, nor need it be.
                Err(Errno::EINVAL) if self.is_quiesced(id) => return Ok(()),
                Err(Errno::EBUSY) if Instant::now() < until => std::thread::sleep(BETWEEN_TRIES),
                outcome => return outcome.map_err(|e| explain("it cannot be taken over", e)),
            }
        }
    }
}

impl BlockDriver for Ublk {
    fn find(&mut self) -> Option<DeviceName> {
        let owner = self.of.owner();
        let infos: Vec<DeviceInfo> = ids().filter_map(|id| self.control.info(id).ok()).collect();
        for info in infos.into_iter().filter(|info| info.owner == owner) {
            if info.state == DeviceState::Dead {
                // Its daemon died before it was started, or as it was deleted.
                let _ = self.delete(info.id);
                continue;
            }
            (self.device, self.left) = (Some(info), true);
            return Some(name(info.id));
        }
        None
    }

    fn make(&mut self, size: Sector, limits: &BlockLimits) -> Result<Option<DeviceName>, String> {
        if size == Sector(0) {
            return Ok(None);
        }
        let info = self.add()?;
        let started = match info.features & feature::NEEDED {
            feature::NEEDED => self.start(&info, size, limits),
            _ => Err("the driver does not keep devices whose server dies".to_owned()),
        };
        if let Err(why) = started {
            let _ = self.delete(info.id);
            return Err(why);
        }
        // Without it a crash is survived as well, only that it may take half a minute.
        let _ = name(info.id).set_timer(TIMER_MS);
        self.device = Some(info);
        Ok(Some(name(info.id)))
    }

    fn is_ours(&mut self) -> bool {
        self.ours().is_some()
    }

    fn resume(&mut self) -> Result<bool, String> {
        let Some(info) = self.ours() else { return Err("it is not ours any more".to_owned()) };
        if !self.left && info.state == DeviceState::Live {
            // What ended was the device before this one.
            return Ok(false);
        }
        self.begin_recovery(info.id)?;
        self.serve(&info)?;
        self.control.end_recovery(info.id).map_err(|e| explain("it is not taken over", e))?;
        self.left = false;
        Ok(true)
    }

    fn resize(&mut self, size: Sector, _limits: &BlockLimits) -> Result<Resized, String> {
        let Some(info) = self.device else { return Ok(Resized::Anew) };
        if info.features & feature::UPDATE_SIZE == 0 {
            return Ok(Resized::Anew);
        }
        self.control.update_size(info.id, size.0).map_err(|e| explain("it does not take its size", e))?;
        Ok(Resized::Done)
    }

    fn remove(&mut self) -> Result<(), String> {
        let Some(info) = self.device.take() else { return Ok(()) };
        match self.control.info(info.id) {
            Ok(now) if now.owner == info.owner => self.delete(info.id),
            _ => Ok(()),
        }
    }
}

/// The node may appear a moment after the device, and is in use until a dead daemon is cleared away.
fn open_soon(path: &Path) -> std::io::Result<File> {
    let until = Instant::now() + PATIENCE;
    loop {
        match OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if may_pass(&e) && Instant::now() < until => std::thread::sleep(BETWEEN_TRIES),
            opened => return opened,
        }
    }
}

fn may_pass(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ResourceBusy)
}
