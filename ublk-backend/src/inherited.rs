//! Descriptors left open by whoever started us: a daemon that outlives its starter must not hold them.

#![allow(unsafe_code)]

/// Closes everything beyond standard input, output and error. To be called first, before this process opened anything.
pub(crate) fn close() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}
