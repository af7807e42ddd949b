//! The "last known backing device" of a minor: where internal metadata was when it was last written, for the day the
//! device is found to have grown.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file of one minor.
#[derive(Debug)]
pub(crate) struct LastKnown {
    path: PathBuf,
}

impl LastKnown {
    /// `None` for the minor: the command line named none.
    pub(crate) fn of(dir: &Path, minor: Option<u32>) -> LastKnown {
        let minor = minor.map_or_else(|| "-1".to_owned(), |minor| minor.to_string());
        LastKnown { path: dir.join(format!("drbd-minor-{minor}.lkbd")) }
    }

    /// Remembers size, name and, if it has one, UUID of a device.
    pub(crate) fn save(&self, device_bytes: u64, device: &Path, device_uuid: u64) -> Result<(), String> {
        let uuid = if device_uuid == 0 { String::new() } else { format!("uuid:\t{device_uuid:016X}\n") };
        let text = format!("{device_bytes}\t{}\n{uuid}", device.display());
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&self.path, text))
            .map_err(|error| format!("lk_bdev_save({}) failed: {error}", self.path.display()))
    }

    /// How large that device was; `None` if it is not remembered.
    pub(crate) fn load(&self, device: &Path) -> Option<u64> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (bytes, name) = text.lines().next()?.split_once('\t')?;
        (Path::new(name) == device).then(|| bytes.parse().ok()).flatten()
    }

    /// Forgets it.
    pub(crate) fn delete(&self) -> Result<(), String> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(format!("lk_bdev_delete({}) failed: {error}", self.path.display())),
        }
    }
}
