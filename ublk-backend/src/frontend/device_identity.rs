//! Whose a block device is, in words that a driver keeps for us: after a crash the next daemon knows it by them.

use drbd_core::ids::{Minor, VolumeNumber};
use sha1::{Digest, Sha1};
use std::path::Path;

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

impl DeviceOf {
    /// As a text.
    pub(super) fn identifier(&self) -> String {
        format!("udrbd:{}/{}@{:x}:{:x}", self.resource, self.volume, self.place.device, self.place.inode)
    }

    /// As a number: all of one resource begin with its [`Place::owner`].
    pub(super) fn owner(&self) -> u64 {
        self.place.owner(&self.resource) | u64::from(self.volume.0)
    }
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

    /// Whether an identifier is that of a volume of this resource here.
    pub(super) fn owns(self, identifier: &str, resource: &str) -> bool {
        let rest =
            identifier.strip_prefix("udrbd:").and_then(|r| r.strip_prefix(resource)?.strip_prefix('/'));
        let place = rest.and_then(|r| r.split_once('@')).map(|(_, place)| place);
        place.is_some_and(|p| p == format!("{:x}:{:x}", self.device, self.inode))
    }

    /// The number of a resource here, but for its last 16 bits, which are the volume's.
    pub(super) fn owner(self, resource: &str) -> u64 {
        let text = format!("{resource}@{:x}:{:x}", self.device, self.inode);
        let digest = Sha1::digest(text.as_bytes());
        let mut number = *b"ud\0\0\0\0\0\0";
        number[2..6].copy_from_slice(&digest[..4]);
        u64::from_be_bytes(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_belongs_to_a_resource_of_one_run_directory() {
        let (here, there) = (Place { device: 0x19, inode: 7 }, Place { device: 0x19, inode: 8 });
        let of = |place, volume| DeviceOf {
            resource: "r0".to_owned(),
            volume: VolumeNumber(volume),
            minor: Minor(0),
            place,
        };
        let identifier = of(here, 3).identifier();
        assert_eq!(identifier, "udrbd:r0/3@19:7");
        assert!(here.owns(&identifier, "r0"));
        assert!(!here.owns(&identifier, "r"));
        assert!(!there.owns(&identifier, "r0"));
        assert!(!here.owns("udrbd:r0/3", "r0"));
        assert!(!here.owns("something else", "r0"));
        let owner = of(here, 3).owner();
        assert_eq!((owner >> 48, owner & 0xffff), (0x7564, 3));
        assert_eq!(owner & !0xffff, here.owner("r0"));
        assert_ne!(here.owner("r0"), here.owner("r1"));
        assert_ne!(here.owner("r0"), there.owner("r0"));
    }
}
