//! What the kernel says about a device or file: size, block sizes, whether discarded space reads as zeroes.

#![allow(unsafe_code)]

use nix::sys::statfs::{FsType, BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

mod ioctl {
    nix::ioctl_read!(size_bytes, 0x12, 114, u64);
    nix::ioctl_read_bad!(logical_block_bytes, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_read_bad!(physical_block_bytes, nix::request_code_none!(0x12, 123), libc::c_uint);
}

/// File systems that take an operation without waiting for it when asked to.
const NEVER_BLOCKING: [FsType; 4] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC];

/// Facts about a device or file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockFacts {
    /// Smallest unit the device knows.
    pub(crate) logical_block_bytes: u32,
    /// Unit it prefers.
    pub(crate) physical_block_bytes: u32,
    /// What a direct request must be a multiple of.
    pub(crate) alignment_bytes: u32,
    /// A hole reads as zeroes and can be made.
    pub(crate) discard_zeroes: bool,
    /// What discards had better be multiples of, in bytes, whatever reads there afterwards; 0: there are none.
    pub(crate) discard_granularity: u32,
    /// A block device, no file.
    pub(crate) is_device: bool,
    /// Whoever hands in an operation may be held until a server elsewhere answers (FUSE, NFS, what is not known).
    pub(crate) may_block: bool,
}

impl BlockFacts {
    /// Asks; where there is no answer, the usual is assumed.
    pub(crate) fn of(file: &File) -> BlockFacts {
        match file.metadata() {
            Ok(m) if m.file_type().is_block_device() => BlockFacts::of_device(file, m.rdev()),
            Ok(_) | Err(_) => BlockFacts::of_file(file),
        }
    }

    fn of_device(file: &File, number: u64) -> BlockFacts {
        let (mut logical, mut physical) = (512, 512);
        // SAFETY: the descriptor is open, the results are written to the variables given.
        unsafe {
            let _ = ioctl::logical_block_bytes(file.as_raw_fd(), &raw mut logical);
            let _ = ioctl::physical_block_bytes(file.as_raw_fd(), &raw mut physical);
        }
        let logical_block_bytes = u32::try_from(logical).unwrap_or(512).max(512);
        let discards = queue_limit(number, "discard_max_bytes") > 0;
        let granularity = if discards { queue_limit(number, "discard_granularity") } else { 0 };
        BlockFacts {
            logical_block_bytes,
            physical_block_bytes: physical.max(logical_block_bytes),
            alignment_bytes: logical_block_bytes,
            discard_zeroes: discards && queue_limit(number, "write_zeroes_max_bytes") > 0,
            discard_granularity: granularity.min(1 << 30) as u32,
            is_device: true,
            may_block: false,
        }
    }

    fn of_file(file: &File) -> BlockFacts {
        let alignment_bytes = direct_alignment(file).unwrap_or(512);
        // A hole behind the end of the file changes nothing, but says whether the file system can.
        let beyond = file.metadata().map_or(0, |m| m.len()).next_multiple_of(4096) + (1 << 20);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is open.
        let punched = unsafe { libc::fallocate64(file.as_raw_fd(), mode, beyond as i64, 4096) };
        BlockFacts {
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            alignment_bytes,
            discard_zeroes: punched == 0,
            discard_granularity: if punched == 0 { 4096 } else { 0 },
            is_device: false,
            may_block: !nix::sys::statfs::fstatfs(file)
                .is_ok_and(|f| NEVER_BLOCKING.contains(&f.filesystem_type())),
        }
    }
}

/// Size of a device or file.
pub(crate) fn size_bytes(file: &File) -> std::io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok(metadata.len() / 512 * 512);
    }
    let mut bytes = 0;
    // SAFETY: the descriptor is open, the result is written to the variable given.
    unsafe { ioctl::size_bytes(file.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// What statx says direct requests must be multiples of.
fn direct_alignment(file: &File) -> Option<u32> {
    // SAFETY: all zeroes is a valid statx.
    let mut facts: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the empty path means the descriptor itself, the result has the right type.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut facts)
    };
    let known = result == 0 && facts.stx_mask & libc::STATX_DIOALIGN != 0 && facts.stx_dio_offset_align > 0;
    known.then_some(facts.stx_dio_offset_align)
}

fn queue_limit(number: u64, name: &str) -> u64 {
    let device = format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
    // A partition has no queue of its own: that of the whole disk counts.
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| std::fs::read_to_string(format!("{device}/{queue}/{name}")).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}
