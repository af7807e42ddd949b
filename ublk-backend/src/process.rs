//! What the process asks of the system for itself: only its own descriptors, and memory that is there when it is needed.

#![allow(unsafe_code)]

use nix::sys::mman::{mlockall, MlockAllFlags};

/// Of prctl(2), missing in the libc crate.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Closes everything beyond standard input, output and error that whoever started us left open: a daemon that outlives
/// its starter must not hold it. To be called first, before this process opened anything.
pub(crate) fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Keeps memory from being swapped out, and allocations from waiting for writes that only this process can finish.
/// A sentence says what could not be had.
pub(crate) fn serve_memory_reclaim() -> Result<(), String> {
    // SAFETY: changes a flag of this process only. Where it is not permitted, nothing happens.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let unlimited = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK)
        .is_ok_and(|(soft, _)| soft == nix::sys::resource::RLIM_INFINITY);
    // A limit that holds today would make a later allocation fail.
    if !unlimited && !nix::unistd::geteuid().is_root() {
        return Err(
            "Memory is not locked: this user may not. The device must not be used for swap.".to_owned()
        );
    }
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
        .map_err(|e| format!("Memory is not locked ({}). The device must not be used for swap.", e.desc()))
}
