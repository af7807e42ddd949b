//! Where drbdmeta and the daemon find each other's files.

use crate::failure::Failure;
use nix::unistd::geteuid;
use std::env::var_os;
use std::path::PathBuf;

/// Locks and sockets: `$UDRBD_RUN_DIR`, else `/run/drbd` for root, else `$XDG_RUNTIME_DIR/drbd`.
pub(crate) fn run_dir() -> Result<PathBuf, Failure> {
    if let Some(dir) = var_os("UDRBD_RUN_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    if geteuid().is_root() {
        return Ok("/run/drbd".into());
    }
    match var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Ok(PathBuf::from(dir).join("drbd")),
        None => Err(Failure::usage(
            "No run directory: set UDRBD_RUN_DIR, or XDG_RUNTIME_DIR as a login session does.",
        )),
    }
}

/// What outlives a boot: below `$UDRBD_RUN_DIR` when that is set, else `/var/lib/drbd` for root, else
/// `$XDG_STATE_HOME/drbd`. `None`: there is no such place.
pub(crate) fn state_dir() -> Option<PathBuf> {
    if let Some(dir) = var_os("UDRBD_RUN_DIR").filter(|dir| !dir.is_empty()) {
        return Some(PathBuf::from(dir).join("state"));
    }
    if geteuid().is_root() {
        return Some("/var/lib/drbd".into());
    }
    let state = var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    state.map(|dir| dir.join("drbd"))
}
