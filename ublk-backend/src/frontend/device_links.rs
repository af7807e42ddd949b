//! `/dev/drbd<minor>` and `/dev/drbd/by-res/<resource>/<volume>`: where users of DRBD look for a device. Links, to the
//! device of the driver that serves it; what is there and not ours stays.

use super::kernel_nbd::NbdIndex;
use drbd_core::ids::{Minor, VolumeNumber};
use std::io::ErrorKind;
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
    pub(super) fn make(&self, index: NbdIndex) -> Result<(), String> {
        let device = self.device();
        point(&device, &index.node())?;
        let by_resource = self.by_resource();
        if let Some(parent) = by_resource.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|e| format!("{} cannot be made: {e}.", parent.display()))?;
        }
        point(&by_resource, &device)
    }

    /// Removes them if they are those of that device.
    pub(super) fn remove(&self, index: NbdIndex) {
        let by_resource = self.by_resource();
        if std::fs::read_link(&by_resource).is_ok_and(|to| to == self.device()) {
            let _ = std::fs::remove_file(&by_resource);
            // Directories that others still need stay.
            for parent in by_resource.ancestors().skip(1).take(3) {
                let _ = std::fs::remove_dir(parent);
            }
        }
        if std::fs::read_link(self.device()).is_ok_and(|to| to == index.node()) {
            let _ = std::fs::remove_file(self.device());
        }
    }
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
        Ok(old) if !old.starts_with("/dev") => return in_the_way("a link of somebody else's"),
        Ok(old) => {
            let name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let index = name.strip_prefix("nbd").and_then(|n| n.parse().ok()).map(NbdIndex);
            if index.is_some_and(|i| i.backend().is_some()) {
                return in_the_way(&format!("for {name}, which is in use"));
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(_) => return in_the_way("a device or file of somebody else's"),
    }
    // In one step: nobody finds nothing in its place.
    let fresh = link.with_extension(format!("udrbd-{}", std::process::id()));
    std::os::unix::fs::symlink(to, &fresh)
        .and_then(|()| std::fs::rename(&fresh, link))
        .map_err(|e| format!("{} cannot be made: {e}.", link.display()))
}

/// Removes the links to that device that a daemon which is gone left behind.
pub(super) fn remove_left(index: NbdIndex, resource: &str) {
    let directory = directory();
    let volumes =
        std::fs::read_dir(directory.join("drbd/by-res").join(resource)).into_iter().flatten().flatten();
    for volume in volumes.filter_map(|e| e.file_name().to_str()?.parse().ok()) {
        let (directory, resource) = (directory.clone(), resource.to_owned());
        let mut links = DeviceLinks { directory, minor: Minor(0), resource, volume: VolumeNumber(volume) };
        let device = std::fs::read_link(links.by_resource()).unwrap_or_default();
        let name = device.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let minor = name.strip_prefix("drbd").and_then(|minor| minor.parse().ok());
        if let Some(minor) = minor.filter(|_| std::fs::read_link(&device).is_ok_and(|to| to == index.node()))
        {
            links.minor = Minor(minor);
            links.remove(index);
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
        let (links, index) = (of(7), NbdIndex(4_000_000));
        links.make(index).unwrap();
        links.make(index).unwrap();
        assert_eq!(std::fs::read_link(directory.join("drbd7")).unwrap(), index.node());
        assert_eq!(std::fs::read_link(directory.join("drbd/by-res/r0/0")).unwrap(), directory.join("drbd7"));
        // Nobody has the first one any more.
        links.make(NbdIndex(4_000_001)).unwrap_or_default();
        links.remove(index);
        assert!(std::fs::read_link(directory.join("drbd7")).is_ok(), "another device's");
        links.remove(NbdIndex(4_000_001));
        assert!(!directory.join("drbd7").exists());
        std::fs::write(directory.join("drbd8"), "").unwrap();
        assert!(of(8).make(index).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
