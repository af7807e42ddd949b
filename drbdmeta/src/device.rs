//! The device or file that metadata is on, opened so that nobody else writes it meanwhile.
//!
//! Block devices are opened O_EXCL (not for indexed external metadata, which several resources share) and read and
//! written past the page cache; everything is held under an open-file-description write lock, which the daemon holds
//! while it has the disk attached. Plain files are taken like devices.

use crate::failure::{exit, Failure};
use crate::terminal::{say, Progress, Terminal};
use drbd_core::metadata::Index;
use nix::errno::Errno;
use nix::fcntl::{fallocate, fcntl, FallocateFlags, FcntlArg};
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const BLOCK: usize = 4096;
/// Unit of long reads and writes.
const CHUNK: usize = 4 << 20;
/// Unit of zeroing by the device itself, small enough to be interrupted.
const ZERO_CHUNK: u64 = 256 << 20;
const SLOT_BYTES: i64 = 128 << 20;

/// How a command wants to use the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) modifies: bool,
    /// If it is busy, do not even ask.
    pub(crate) refuse_busy: bool,
    pub(crate) dry_run: bool,
}

/// An opened device.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
    pub(crate) path: PathBuf,
    pub(crate) size_bytes: u64,
    dry_run: bool,
}

/// A buffer that O_DIRECT takes: a vector with a block to spare, and where its aligned part begins.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// Zeroes.
    pub(crate) fn new(len: usize) -> Buffer {
        let bytes = vec![0; len + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        Buffer { bytes, start, len }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl Device {
    /// Opens it for the exclusive use of this command.
    pub(crate) fn open(path: &Path, index: Index, use_: Use, terminal: &Terminal) -> Result<Device, Failure> {
        let kind = std::fs::metadata(path).map_err(|error| cannot_open(path, &error))?;
        let is_block = kind.file_type().is_block_device();
        if !is_block && !kind.file_type().is_file() {
            let message = format!("'{}' is neither a block device nor a plain file!", path.display());
            return Err(Failure::usage(message));
        }
        if is_block && use_.modifies && is_read_only(kind.rdev()) {
            return Err(Failure::usage(format!("'{}' is read-only, nothing was changed.", path.display())));
        }
        let exclusive = if is_block && !matches!(index, Index::Indexed(_)) { libc::O_EXCL } else { 0 };
        let direct = if is_block { libc::O_DIRECT } else { 0 };
        let file = match open_exclusively(path, direct | exclusive, index, use_) {
            Err(error) if is_busy(&error) => {
                terminal.note(format_args!("open({}) failed: Device or resource busy", path.display()));
                ask_about_busy(&error, use_, terminal)?;
                open_flags(path, direct, use_).map_err(|error| cannot_open(path, &error))?
            }
            other => other.map_err(|error| cannot_open(path, &error))?,
        };
        let mut device = Device { file, path: path.to_owned(), size_bytes: 0, dry_run: use_.dry_run };
        device.size_bytes = device.file.seek(SeekFrom::End(0)).map_err(|error| cannot_open(path, &error))?;
        Ok(device)
    }

    /// Reads `len` bytes; both offset and length are multiples of 4096.
    pub(crate) fn read(&self, offset_bytes: u64, len: usize) -> Result<Buffer, Failure> {
        let mut buffer = Buffer::new(len);
        let mut done = 0;
        while done < len {
            let part = (len - done).min(CHUNK);
            let at = offset_bytes + done as u64;
            let bytes = &mut buffer.as_mut()[done..done + part];
            self.file.read_exact_at(bytes, at).map_err(|error| {
                Failure::value(format!(
                    "{}: reading {part} bytes at {at} failed: {error}",
                    self.path.display()
                ))
            })?;
            done += part;
        }
        Ok(buffer)
    }

    /// Writes whole blocks.
    pub(crate) fn write(&self, offset_bytes: u64, buffer: &Buffer) -> Result<(), Failure> {
        self.write_part(offset_bytes, buffer.as_slice())
    }

    fn write_part(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), Failure> {
        if self.dry_run {
            return Ok(());
        }
        self.file.write_all_at(bytes, offset_bytes).map_err(|error| {
            let len = bytes.len();
            let path = self.path.display();
            Failure::value(format!("{path}: writing {len} bytes at {offset_bytes} failed: {error}"))
        })
    }

    /// Everything written before is on stable storage afterwards.
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        let flushed = if self.dry_run { Ok(()) } else { self.file.sync_all() };
        flushed.map_err(|error| Failure::value(format!("{}: flushing failed: {error}", self.path.display())))
    }

    /// Lets the device or file system zero a range, which is fast where it can do it without writing. `Err`: it
    /// cannot.
    pub(crate) fn zero_quickly(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), Errno> {
        let mut progress = Progress::new(len_bytes);
        let mut done = 0;
        while done < len_bytes && !self.dry_run {
            let part = (len_bytes - done).min(ZERO_CHUNK);
            let flags = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&self.file, flags, (offset_bytes + done) as i64, part as i64)?;
            done += part;
            progress.show(done);
        }
        Ok(())
    }

    /// Writes the same byte all over a range of whole blocks.
    pub(crate) fn fill(&self, offset_bytes: u64, len_bytes: u64, byte: u8) -> Result<(), Failure> {
        let mut buffer = Buffer::new(CHUNK);
        buffer.as_mut().fill(byte);
        let mut progress = Progress::new(len_bytes);
        let mut done = 0;
        while done < len_bytes {
            let part = (len_bytes - done).min(CHUNK as u64);
            self.write_part(offset_bytes + done, &buffer.as_slice()[..part as usize])?;
            done += part;
            progress.show(done);
        }
        Ok(())
    }
}

fn open_exclusively(path: &Path, flags: i32, index: Index, use_: Use) -> std::io::Result<File> {
    let file = open_flags(path, flags, use_)?;
    take_lock(&file, index)?;
    if is_behind_a_loop_device(&file) {
        return Err(Errno::EBUSY.into());
    }
    Ok(file)
}

/// Commands that only read are content with a device that cannot be written.
fn open_flags(path: &Path, flags: i32, use_: Use) -> std::io::Result<File> {
    let open = |write| OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
    let opened = open(true);
    let read_only = match &opened {
        Ok(_) => false,
        Err(error) => matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)),
    };
    if read_only && !use_.modifies {
        return open(false);
    }
    opened
}

/// The daemon holds this lock while the disk is attached. Indexed metadata shares its device: only its slot is
/// locked.
fn take_lock(file: &File, index: Index) -> std::io::Result<()> {
    let (start, len) = match index {
        Index::Internal | Index::FlexExternal => (0, 0),
        Index::Indexed(slot) => (i64::from(slot) * SLOT_BYTES, SLOT_BYTES),
    };
    let lock = |kind: i32| libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    let taken = match fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_WRLCK))) {
        // Opened for reading only.
        Err(Errno::EBADF) => fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK))),
        other => other,
    };
    taken.map(|_| ()).map_err(Into::into)
}

/// Whether a plain file is in use as the backing file of a loop device.
fn is_behind_a_loop_device(file: &File) -> bool {
    let Ok(own) = file.metadata() else { return false };
    if !own.file_type().is_file() {
        return false;
    }
    let loops = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    loops.map(|entry| entry.path().join("loop/backing_file")).any(|link| {
        let backing =
            std::fs::read_to_string(link).ok().and_then(|path| std::fs::metadata(path.trim_end()).ok());
        backing.is_some_and(|backing| (backing.dev(), backing.ino()) == (own.dev(), own.ino()))
    })
}

/// A block device may be opened for writing in spite of being read-only; only the write then fails.
fn is_read_only(device: u64) -> bool {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro")).is_ok_and(|ro| ro.trim() == "1")
}

fn is_busy(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN))
}

/// A mounted device may be written by who insists; what a daemon has locked may only be looked at.
fn ask_about_busy(error: &std::io::Error, use_: Use, terminal: &Terminal) -> Result<(), Failure> {
    let locked = error.raw_os_error() == Some(libc::EAGAIN);
    if locked {
        terminal.note(format_args!("# Its lock is held, as by a udrbd that has it attached."));
    }
    let out_of_question = use_.refuse_busy && !terminal.force || locked && use_.modifies;
    if !out_of_question && terminal.confirmed(None, "Exclusive open failed. Do it anyways?") {
        return Ok(());
    }
    say(format_args!("Operation canceled."))?;
    Err(Failure::silent(exit::USAGE))
}

fn cannot_open(path: &Path, error: &std::io::Error) -> Failure {
    // "(os error N)" is of no use to an administrator.
    let text = error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned());
    Failure::usage(format!("open({}) failed: {text}", path.display()))
}
