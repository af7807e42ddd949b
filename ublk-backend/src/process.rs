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
