//! What the process asks of the system for itself: only its own descriptors, and memory that is there when it is needed.

#![allow(unsafe_code)]

use nix::sys::mman::{mlockall, MlockAllFlags};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// Of prctl(2), missing in the libc crate.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Another tool of ours: beside this program, else in PATH.
pub(crate) fn tool(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(name)));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}

/// Closes everything beyond standard input, output and error that whoever started us left open, but for `kept`: a daemon
/// that outlives its starter must not hold it. To be called first, before this process opened anything.
pub(crate) fn close_inherited(mut kept: Vec<RawFd>) {
    kept.sort_unstable();
    let mut from: libc::c_uint = 3;
    for fd in kept.into_iter().filter_map(|fd| libc::c_uint::try_from(fd).ok()).filter(|fd| *fd >= 3) {
        if fd > from {
            // SAFETY: nothing in this process owns a descriptor above 2 yet but what is kept.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd + 1;
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, from, libc::c_uint::MAX, 0) };
}

/// Keeps a descriptor open when this process becomes another program.
pub(crate) fn keep_open(fd: RawFd) -> std::io::Result<()> {
    // SAFETY: changes a flag of a descriptor that the caller has open.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Has a look at the file behind a descriptor that another program left open; `None`: there is none.
pub(crate) fn with_left_file<T>(fd: RawFd, look: impl FnOnce(&mut File) -> T) -> Option<T> {
    // SAFETY: asks whether the descriptor is open.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and nobody else in this program knows it. It stays open.
    let mut file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
    Some(look(&mut file))
}

/// Closes what [`with_left_file`] looked at.
pub(crate) fn close_left(fd: RawFd) {
    drop(left_descriptor(fd));
}

/// A descriptor that another program left open for this one, which does not leave it open for others.
pub(crate) fn left_descriptor(fd: RawFd) -> OwnedFd {
    // SAFETY: changes a flag of a descriptor that was left to this program.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: it was left to this program, which takes each of them once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Keeps memory from being swapped out, and allocations from waiting for writes that only this process can finish.
/// Sentences say what could not be had.
pub(crate) fn serve_memory_reclaim() -> Vec<String> {
    let text = "No swap and no file system that this host cannot do without may be on the device";
    let locked = lock_memory().err().map(|why| format!("Memory is not locked ({why}). {text}."));
    let flusher = flush_without_waiting().err().map(|why| {
        format!("Allocations may wait for writes that only this process can finish (PR_SET_IO_FLUSHER: {why}). {text}.")
    });
    let spared = outlive_shortage().err().map(|why| {
        format!("The kernel may end this process when it has no memory left ({OOM_SCORE}: {why}).")
    });
    locked.into_iter().chain(flusher).chain(spared).collect()
}

/// How readily the kernel ends this process and its children when it has no memory left.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Has the kernel end any other process first: this one's memory is bounded, and its successor would need as much. Not
/// "never" (-1000): where there is no other, as in a container, a restart is better than waiting for memory without end.
pub(crate) fn outlive_shortage() -> std::io::Result<()> {
    std::fs::write(OOM_SCORE, "-999")
}

/// A program that this process started is ended as any other is. Told by us, once it runs: to let it say so itself, this
/// process with its pinned memory would have to be forked.
pub(crate) fn end_in_shortage(child: u32) {
    // What the kernel refuses stays as it is.
    let _ = std::fs::write(OOM_SCORE.replace("self", &child.to_string()), "0");
}

fn flush_without_waiting() -> std::io::Result<()> {
    // SAFETY: changes a flag of this process only.
    match unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// How many bytes this process may lock.
pub(crate) fn lockable_bytes() -> u64 {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK);
    match limit {
        _ if nix::unistd::geteuid().is_root() => u64::MAX,
        Ok((soft, _)) => soft,
        Err(_) => 0,
    }
}

/// The error is part of a sentence.
fn lock_memory() -> Result<(), &'static str> {
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    // A limit that holds today would make a later allocation fail.
    if lockable_bytes() != u64::MAX {
        return Err("this user may not");
    }
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
        .map_err(nix::errno::Errno::desc)
}

/// Numbers of capget(2) and capset(2), missing in the libc crate.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// Number of the capability that attaching a device takes.
pub(crate) const CAP_SYS_ADMIN: u32 = 21;

/// Gives CAP_SYS_ADMIN up for the calling thread and those it starts. The data plane needs it for nothing, and the kernel
/// trusts what it tells that much less: of a ublk device that such a thread serves it reads no partition table, which a
/// DRBD has not and a Secondary would not let it read.
pub(crate) fn serve_without_administration() {
    let header = [CAPABILITY_VERSION_3, 0];
    // Effective, permitted and inheritable, of capabilities 0 to 31 and 32 to 63.
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: header and sets are as large as that version says, and outlive the calls.
    let known = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    sets[0][0] &= !(1 << CAP_SYS_ADMIN);
    if known == 0 {
        // SAFETY: as above. Where it is not permitted, nothing happens.
        unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    }
}
