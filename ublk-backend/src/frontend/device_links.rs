//! `/dev/drbd<minor>` and `/dev/drbd/by-res/<resource>/<volume>`: where users of DRBD look for a device. Links, to the
//! device of the driver that serves it, or before there is one to a block device that nobody serves; what is there and
//! not ours stays.

use super::block_driver::DeviceName;
use super::kernel_nbd;
use drbd_core::ids::{Minor, VolumeNumber};
use nix::errno::Errno;
use nix::sys::stat::{mknod, Mode, SFlag};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The links of one volume.
#[derive(Debug)]
pub(super) struct DeviceLinks {
    /// `/dev`, or a directory of tests.
    directory: PathBuf,
    minor: Minor,
    resource: String,
    volume: VolumeNumber,
}

impl DeviceLinks {
    /// Below `$UDRBD_DEV_DIR`, else `/dev`.
    pub(super) fn new(minor: Minor, resource: &str, volume: VolumeNumber) -> DeviceLinks {
        DeviceLinks { directory: directory(), minor, resource: resource.to_owned(), volume }
    }

    /// Where users find the device.
    pub(super) fn device(&self) -> PathBuf {
        self.directory.join(format!("drbd{}", self.minor))
    }

    fn by_resource(&self) -> PathBuf {
        self.directory.join("drbd/by-res").join(&self.resource).join(self.volume.to_string())
    }

    /// Makes them. A sentence says what is in the way.
    pub(super) fn make(&self, target: &DeviceName) -> Result<(), String> {
        point(&self.device(), &target.node())?;
        self.make_by_resource()
    }

    /// A place holder instead of a device, which there is none yet: opening it fails.
    pub(super) fn hold_place(&self) -> Result<(), String> {
        let device = self.device();
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        match mknod(&device, SFlag::S_IFBLK, mode, PLACE_HOLDER) {
            Ok(()) => {}
            Err(Errno::EEXIST) if is_place_holder(&device) => {}
            Err(Errno::EEXIST) if is_left_over(&device) => {}
            Err(Errno::EEXIST) => return Err(format!("{} is there already and stays.", device.display())),
            Err(e) => return Err(format!("{} cannot be made: {}.", device.display(), e.desc())),
        }
        self.make_by_resource()
    }

    fn make_by_resource(&self) -> Result<(), String> {
        let by_resource = self.by_resource();
        if let Some(parent) = by_resource.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|e| format!("{} cannot be made: {e}.", parent.display()))?;
        }
        point(&by_resource, &self.device())
    }

    /// Removes them if they are those of that device, or hold its place.
    pub(super) fn remove(&self, target: Option<&DeviceName>) {
        let by_resource = self.by_resource();
        if std::fs::read_link(&by_resource).is_ok_and(|to| to == self.device()) {
            let _ = std::fs::remove_file(&by_resource);
            // Directories that others still need stay.
            for parent in by_resource.ancestors().skip(1).take(3) {
                let _ = std::fs::remove_dir(parent);
            }
        }
        let device = self.device();
        let ours = match target {
            Some(target) => std::fs::read_link(&device).is_ok_and(|to| to == target.node()),
            None => is_place_holder(&device),
        };
        if ours {
            let _ = std::fs::remove_file(device);
        }
    }
}

/// Of a block device that no driver has: opening it fails, and loads nothing.
const PLACE_HOLDER: libc::dev_t = 0;

fn is_place_holder(path: &Path) -> bool {
    let facts = std::fs::symlink_metadata(path);
    facts.is_ok_and(|facts| facts.file_type().is_block_device() && facts.rdev() == PLACE_HOLDER)
}

/// A link to a device that is no more: the next device of ours takes it.
fn is_left_over(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|to| to.starts_with("/dev")) && !path.exists()
}

fn directory() -> PathBuf {
    let named = std::env::var_os("UDRBD_DEV_DIR").filter(|v| !v.is_empty());
    named.map_or_else(|| PathBuf::from("/dev"), PathBuf::from)
}

/// Makes a link, or has the one that is there point elsewhere. One to a device in use by somebody else stays.
fn point(link: &Path, to: &Path) -> Result<(), String> {
    let in_the_way = |why: &str| Err(format!("{} is there already, {why}, and stays.", link.display()));
    match std::fs::read_link(link) {
        Ok(old) if old == to => return Ok(()),
        Ok(old) => {
            let name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Links by a resource's name lead to ours, whatever their minor was.
            let ublk = || name.starts_with("ublkb").then(|| old.exists());
            let ours = || name.starts_with("drbd").then_some(false);
            match kernel_nbd::is_in_use(&name).or_else(ublk).or_else(ours) {
                _ if old.parent() != to.parent() => return in_the_way("a link of somebody else's"),
                Some(false) => {}
                Some(true) => return in_the_way(&format!("for {name}, which is in use")),
                None => return in_the_way("a link of somebody else's"),
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(_) if is_place_holder(link) => {}
        Err(_) => return in_the_way("a device or file of somebody else's"),
    }
    // In one step: nobody finds nothing in its place.
    let fresh = link.with_extension(format!("udrbd-{}", std::process::id()));
    std::os::unix::fs::symlink(to, &fresh)
        .and_then(|()| std::fs::rename(&fresh, link))
        .map_err(|e| format!("{} cannot be made: {e}.", link.display()))
}

/// Removes the links to that device that a daemon which is gone left behind.
pub(super) fn remove_left(target: &DeviceName, resource: &str) {
    let directory = directory();
    let volumes =
        std::fs::read_dir(directory.join("drbd/by-res").join(resource)).into_iter().flatten().flatten();
    for volume in volumes.filter_map(|e| e.file_name().to_str()?.parse().ok()) {
        let (directory, resource) = (directory.clone(), resource.to_owned());
        let mut links = DeviceLinks { directory, minor: Minor(0), resource, volume: VolumeNumber(volume) };
        let device = std::fs::read_link(links.by_resource()).unwrap_or_default();
        let name = device.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let minor = name.strip_prefix("drbd").and_then(|minor| minor.parse().ok());
        if let Some(minor) = minor.filter(|_| std::fs::read_link(&device).is_ok_and(|to| to == target.node()))
        {
            links.minor = Minor(minor);
            links.remove(Some(target));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_and_go_and_spare_what_is_not_ours() {
        let directory = std::env::temp_dir().join(format!("udrbd-links-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let of = |minor| DeviceLinks {
            directory: directory.clone(),
            minor: Minor(minor),
            resource: "r0".to_owned(),
            volume: VolumeNumber(0),
        };
        let name = |number: u32| DeviceName::new(format!("nbd{number}"));
        let (links, device) = (of(7), name(4_000_000));
        links.make(&device).unwrap();
        links.make(&device).unwrap();
        assert_eq!(std::fs::read_link(directory.join("drbd7")).unwrap(), device.node());
        assert_eq!(std::fs::read_link(directory.join("drbd/by-res/r0/0")).unwrap(), directory.join("drbd7"));
        // Nobody has the first one any more.
        links.make(&name(4_000_001)).unwrap();
        links.remove(Some(&device));
        assert!(std::fs::read_link(directory.join("drbd7")).is_ok(), "another device's");
        links.remove(Some(&name(4_000_001)));
        assert!(!directory.join("drbd7").exists());
        std::fs::write(directory.join("drbd8"), "").unwrap();
        assert!(of(8).make(&device).is_err());
        assert!(of(8).hold_place().is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
