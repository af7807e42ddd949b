//! Whether a block device may be written, by the kernel's own switch: programs that open it for writing, and mount, are
//! told before they try.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_read_only, nix::request_code_none!(0x12, 93), libc::c_int);
}

/// Sets it.
pub(super) fn set_read_only(device: &File, read_only: bool) -> std::io::Result<()> {
    let value = libc::c_int::from(read_only);
    // SAFETY: the descriptor is open, and the variable read outlives the call.
    unsafe { ioctl::set_read_only(device.as_raw_fd(), &raw const value) }?;
    Ok(())
}
