//! Backing disks and metadata devices as they are opened for an attach: whose they are, what they can do, and the
//! metadata on them.
//!
//! Block devices are opened exclusively, and everything is held under a lock on the open file, so that no second
//! daemon, no drbdmeta and no mount gets hold of a disk in use.

use drbd_core::engine::{DeviceBytes, DiskLimits};
use drbd_core::ids::Minor;
use drbd_core::limits::REQUEST_BYTES_MAX;
use drbd_core::metadata::{load, Index, Loaded, MetadataError, Place, SuperBlock};
use drbd_core::refusal::{Reason, Refusal};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

mod device_facts;

use device_facts::size_bytes;

pub(crate) use device_facts::BlockFacts;

/// Whether it is the data or the metadata that cannot be had: they have different numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Data,
    Metadata,
}

impl Part {
    const fn cannot_open(self) -> Reason {
        match self {
            Part::Data => Reason::OpenDisk,
            Part::Metadata => Reason::OpenMetaDisk,
        }
    }

    const fn claimed(self) -> Reason {
        match self {
            Part::Data => Reason::DiskClaimed,
            Part::Metadata => Reason::MetaDiskClaimed,
        }
    }
}

/// One opened device or file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// Open for reading and writing, direct where that works.
    pub(crate) file: File,
    /// Bytes.
    pub(crate) size_bytes: u64,
    /// What requests must be multiples of; 1 where the page cache stands between.
    pub(crate) alignment: u32,
    /// Facts about it.
    pub(crate) facts: BlockFacts,
}

/// Everything an attach brings with it.
#[derive(Debug)]
pub(crate) struct OpenDisk {
    /// Where the data is.
    pub(crate) data: OpenFile,
    /// Where the metadata is, unless it is there too.
    pub(crate) metadata: Option<OpenFile>,
    /// Where on it.
    pub(crate) place: Place,
}

/// What the engine needs to know of it.
#[derive(Debug)]
pub(crate) struct Opened {
    /// For the data plane.
    pub(crate) disk: OpenDisk,
    /// For the engine.
    pub(crate) limits: DiskLimits,
    /// For the engine.
    pub(crate) loaded: Box<Loaded>,
    /// For the engine.
    pub(crate) index: Index,
}

/// Opens data and metadata and reads the metadata. If a disk with internal metadata has grown since it was
/// `last_known_bytes` large, and none is at its end, it is taken as it was: `resize` moves the metadata.
pub(crate) fn open(
    disk: &str,
    meta_disk: &str,
    meta_index: &str,
    last_known_bytes: Option<u64>,
) -> Result<Opened, Refusal> {
    let index: Index = meta_index
        .parse()
        .map_err(|e: MetadataError| Refusal::because(Reason::MetaIndexInvalid, e.to_string()))?;
    let same = meta_disk == "internal" || same_file(disk, meta_disk);
    if same != index.is_internal() {
        let info = if same {
            format!("metadata on {disk} itself has the index 'internal', not '{meta_index}'")
        } else {
            format!("internal metadata lies on {disk} itself; for {meta_disk} say 'flexible' or a number")
        };
        return Err(Refusal::because(Reason::MetaIndexInvalid, info));
    }
    let data = open_one(Path::new(disk), Part::Data)?;
    let metadata = if same { None } else { Some(open_one(Path::new(meta_disk), Part::Metadata)?) };
    let mut data = data;
    if let Some(before) = last_known_bytes.filter(|&b| same && b < data.size_bytes) {
        let at = |bytes| index.super_block_offset_bytes(bytes).ok();
        let is_there = |offset| has_super_block(&data, offset, disk);
        if !at(data.size_bytes).is_some_and(is_there) && at(before).is_some_and(is_there) {
            data.size_bytes = before;
        }
    }
    read_metadata(data, metadata, index, disk, if same { disk } else { meta_disk })
}

fn has_super_block(on: &OpenFile, offset: u64, name: &str) -> bool {
    let mut block = [0; 4096];
    read_at(on, offset, &mut block, name).is_ok() && matches!(SuperBlock::decode(&block), Ok(Some(_)))
}

/// How large the disk of a minor was when its metadata was last known to be at its end, as drbdmeta and `drbdsetup
/// check-resize` remember it.
pub(crate) fn last_known_bytes(minor: Minor, disk: &str) -> Option<u64> {
    let file = crate::run_dir::state_dir()?.join(format!("drbd-minor-{minor}.lkbd"));
    let text = std::fs::read_to_string(file).ok()?;
    let (bytes, name) = text.lines().next()?.split_once('\t')?;
    (name == disk).then(|| bytes.parse().ok()).flatten()
}

fn read_metadata(
    data: OpenFile,
    metadata: Option<OpenFile>,
    index: Index,
    disk: &str,
    meta_name: &str,
) -> Result<Opened, Refusal> {
    let refuse = |e: &MetadataError| {
        let reason = match e {
            MetadataError::TooSmall { .. } if index.is_internal() => Reason::DiskTooSmall,
            MetadataError::TooSmall { .. } | MetadataError::IndexBeyondEnd { .. } => Reason::MetaDiskTooSmall,
            _ => Reason::MetadataInvalid,
        };
        Refusal::because(reason, format!("{meta_name}: {e}"))
    };
    let on = metadata.as_ref().unwrap_or(&data);
    let offset = index.super_block_offset_bytes(on.size_bytes).map_err(|e| refuse(&e))?;
    let mut block = [0; 4096];
    read_at(on, offset, &mut block, meta_name)?;
    let super_block = match SuperBlock::decode(&block) {
        Ok(Some(super_block)) => super_block,
        Ok(None) => return Err(refuse(&MetadataError::NoMetadata)),
        Err(e) => return Err(refuse(&e)),
    };
    let place = Place::of(&super_block, index, on.size_bytes, data.size_bytes).map_err(|e| refuse(&e))?;
    let mut log = vec![0; place.log_bytes as usize];
    read_at(on, place.log_offset_bytes, &mut log, meta_name)?;
    let mut bitmap = vec![0; place.bitmap_bytes as usize];
    read_at(on, place.bitmap_offset_bytes, &mut bitmap, meta_name)?;
    let loaded = load(super_block, &place, &log, &bitmap).map_err(|e| refuse(&e))?;
    if place.capacity.0 == 0 {
        return Err(Refusal::because(Reason::DiskTooSmall, format!("{disk}: nothing is left for data")));
    }
    let limits = DiskLimits {
        capacity: place.capacity,
        max_bio_bytes: REQUEST_BYTES_MAX,
        logical_block_size: data.facts.logical_block_bytes,
        physical_block_size: data.facts.physical_block_bytes,
        discard_zeroes: data.facts.discard_zeroes,
        discard_granularity: data.facts.discard_granularity,
        external_metadata: metadata.is_some(),
    };
    let disk = OpenDisk { data, metadata, place };
    Ok(Opened { disk, limits, loaded: Box::new(loaded), index })
}

fn same_file(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let id = |p: &str| std::fs::metadata(p).ok().map(|m| (m.dev(), m.ino(), m.rdev()));
    matches!((id(a), id(b)), (Some(x), Some(y)) if x == y)
}

fn open_one(path: &Path, part: Part) -> Result<OpenFile, Refusal> {
    let name = path.display();
    let cannot = |e: &std::io::Error| {
        let what = match e.raw_os_error() {
            Some(libc::EBUSY) => {
                return Refusal::because(
                    part.claimed(),
                    format!("{name}: the device is mounted or held by another program"),
                );
            }
            Some(libc::EROFS) => "it is read-only".to_owned(),
            Some(libc::EACCES) => "this user may not read and write it".to_owned(),
            _ => sentence(e),
        };
        Refusal::because(part.cannot_open(), format!("open({name}) failed: {what}"))
    };
    let kind = std::fs::metadata(path).map_err(|e| cannot(&e))?.file_type();
    if !kind.is_block_device() && !kind.is_file() {
        let reason = match part {
            Part::Data => Reason::DiskNotBlockDevice,
            Part::Metadata => Reason::MetaDiskNotBlockDevice,
        };
        return Err(Refusal::because(reason, format!("{name} is neither a block device nor a file")));
    }
    let exclusive = if kind.is_block_device() { libc::O_EXCL } else { 0 };
    let open = |flags: i32| {
        let flags = flags | exclusive | libc::O_CLOEXEC | libc::O_NOATIME;
        let try_open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        // O_NOATIME is for the owner only.
        try_open(flags).or_else(|e| match e.raw_os_error() {
            Some(libc::EPERM) => try_open(flags & !libc::O_NOATIME),
            _ => Err(e),
        })
    };
    let (file, direct) = match open(libc::O_DIRECT) {
        Ok(file) => (file, true),
        // The file system does not know it: the page cache stands between, fdatasync is the flush.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => (open(0).map_err(|e| cannot(&e))?, false),
        Err(e) => return Err(cannot(&e)),
    };
    lock(&file, path, part)?;
    let size_bytes = size_bytes(&file).map_err(|e| cannot(&e))?;
    let facts = BlockFacts::of(&file);
    let alignment = if direct { facts.alignment_bytes } else { 1 };
    Ok(OpenFile { file, size_bytes, alignment, facts })
}

/// A write lock on the open file: dies with the descriptor, not with the first close of any other.
fn lock(file: &File, path: &Path, part: Part) -> Result<(), Refusal> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let taken = || {
        let whose = holder(file).map_or_else(
            || "it is in use by another resource or by drbdmeta".to_owned(),
            |resource| format!("it is in use by resource {resource}"),
        );
        Refusal::because(part.claimed(), format!("{}: {whose}", path.display()))
    };
    match nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(taken()),
        // A file system without locks: nothing more can be done about it.
        Err(_) => Ok(()),
    }
}

/// Name of the resource whose daemon has the same file open, as far as this user may see.
fn holder(file: &File) -> Option<String> {
    let wanted = file.metadata().ok()?;
    let processes = std::fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split(|b| *b == 0).map(String::from_utf8_lossy);
        let program = words.next().unwrap_or_default().into_owned();
        if !program.ends_with("udrbd") || words.next().as_deref() != Some("run") {
            continue;
        }
        let Ok(open) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let same = |fd: std::fs::DirEntry| {
            std::fs::metadata(fd.path()).is_ok_and(|m| m.dev() == wanted.dev() && m.ino() == wanted.ino())
        };
        if open.flatten().any(same) {
            return words.next().map(std::borrow::Cow::into_owned);
        }
    }
    None
}

/// Reads into ordinary memory, whatever alignment the device wants.
fn read_at(from: &OpenFile, offset_bytes: u64, into: &mut [u8], name: &str) -> Result<(), Refusal> {
    let failed = |e: &std::io::Error| {
        Refusal::because(
            Reason::MetaDiskIo,
            format!("reading {name} at byte {offset_bytes}: {}", sentence(e)),
        )
    };
    let direct = nix::fcntl::OFlag::O_DIRECT;
    let flags =
        nix::fcntl::fcntl(&from.file, nix::fcntl::FcntlArg::F_GETFL).map_err(|e| failed(&e.into()))?;
    let flags = nix::fcntl::OFlag::from_bits_retain(flags);
    let set = |flags| nix::fcntl::fcntl(&from.file, nix::fcntl::FcntlArg::F_SETFL(flags));
    // Through the page cache, which direct writes have kept coherent; afterwards direct again.
    set(flags - direct).map_err(|e| failed(&e.into()))?;
    let result = from.file.read_exact_at(into, offset_bytes);
    set(flags).map_err(|e| failed(&e.into()))?;
    drop_cache(&from.file, offset_bytes, into.len());
    result.map_err(|e| failed(&e))
}

fn drop_cache(file: &File, offset_bytes: u64, bytes: usize) {
    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    let _ = nix::fcntl::posix_fadvise(file, offset_bytes as i64, bytes as i64, advice);
}

/// The error in words.
fn sentence(e: &std::io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), |raw| Errno::from_raw(raw).desc().to_owned())
}

impl OpenDisk {
    /// Where metadata goes.
    pub(crate) fn meta_file(&self) -> &OpenFile {
        self.metadata.as_ref().unwrap_or(&self.data)
    }

    /// How large the devices are now.
    pub(crate) fn measure(&mut self) -> std::io::Result<DeviceBytes> {
        self.data.size_bytes = size_bytes(&self.data.file)?;
        if let Some(metadata) = &mut self.metadata {
            metadata.size_bytes = size_bytes(&metadata.file)?;
        }
        Ok(DeviceBytes { data: self.data.size_bytes, metadata: self.meta_file().size_bytes })
    }
}

#[cfg(test)]
mod tests;
