//! What the keeper of a [block device](super::block_device) asks of the kernel, whichever driver has the device.

use drbd_core::ids::Sector;
use std::path::PathBuf;

/// A device of the kernel, by its name below `/dev` and `/sys/block`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DeviceName(String);

impl DeviceName {
    /// As the kernel spells it.
    pub(super) fn new(name: String) -> DeviceName {
        DeviceName(name)
    }

    /// The name.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The device.
    pub(super) fn node(&self) -> PathBuf {
        PathBuf::from("/dev").join(&self.0)
    }

    /// A place that says something of it.
    pub(super) fn system(&self, what: &str) -> PathBuf {
        PathBuf::from("/sys/block").join(&self.0).join(what)
    }

    /// What such a place says.
    pub(super) fn says(&self, what: &str) -> Option<String> {
        std::fs::read_to_string(self.system(what)).ok().map(|text| text.trim().to_owned())
    }

    /// After how long the driver looks after a request that is under way. A driver without a timer has no such place.
    pub(super) fn set_timer(&self, ms: u32) -> std::io::Result<()> {
        std::fs::write(self.system("queue/io_timeout"), format!("{ms}\n"))
    }

    /// Its size, as its users see it.
    pub(super) fn size(&self) -> Sector {
        Sector(self.says("size").and_then(|size| size.parse().ok()).unwrap_or(0))
    }

    /// Whether it may be written: what was said of it last, also by a daemon that is gone. Without a size, nothing was.
    pub(super) fn is_writable(&self) -> bool {
        self.says("ro").is_some_and(|ro| ro == "0") && self.size() > Sector(0)
    }
}

/// What the disks below a device want of its requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockLimits {
    /// Smallest unit.
    pub(crate) logical_block_bytes: u32,
    /// Unit they prefer.
    pub(crate) physical_block_bytes: u32,
    /// What discards had better be multiples of.
    pub(crate) discard_granularity: u32,
}

impl Default for BlockLimits {
    /// As long as no disk is known: its peer's is the better judge, and takes everything.
    fn default() -> BlockLimits {
        BlockLimits { logical_block_bytes: 512, physical_block_bytes: 4096, discard_granularity: 4096 }
    }
}

/// How a new size was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resized {
    /// The device has it.
    Done,
    /// The device cannot change: another one has to take its place.
    Anew,
}

/// One device, or the place for one. Errors are the ends of sentences.
pub(super) trait BlockDriver: std::fmt::Debug + Send {
    /// Takes over the device of a daemon that died. Its requests wait for [`resume`](Self::resume).
    fn find(&mut self) -> Option<DeviceName>;
    /// Makes a device, which is served and read-only. `None`: this driver has none without a size.
    fn make(&mut self, size: Sector, limits: &BlockLimits) -> Result<Option<DeviceName>, String>;
    /// Whether the device is there still, and ours.
    fn is_ours(&mut self) -> bool;
    /// Has what waits for a server come to this process. False: nothing waited.
    fn resume(&mut self) -> Result<bool, String>;
    /// Gives the device another size.
    fn resize(&mut self, size: Sector, limits: &BlockLimits) -> Result<Resized, String>;
    /// Lets the device go; what is under way in it fails.
    fn remove(&mut self) -> Result<(), String>;
}
