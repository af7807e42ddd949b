//! The minor argument: its lock file, and whether a daemon has the device attached.

use crate::failure::Failure;
use crate::places::run_dir;
use drbd_core::states::DiskState;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg};
use nix::libc;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Device number of DRBD.
const DRBD_MAJOR: u64 = 147;
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The minor that a device word names; `None` for `-` and words that name none.
pub(crate) fn minor_of(word: &str) -> Option<u32> {
    let digits = word.strip_prefix("/dev/drbd").unwrap_or(word);
    if let Ok(minor) = digits.parse() {
        return Some(minor);
    }
    let metadata = std::fs::metadata(word).ok()?;
    let device = metadata.rdev();
    let is_drbd = metadata.file_type().is_block_device() && nix::sys::stat::major(device) == DRBD_MAJOR;
    is_drbd.then(|| nix::sys::stat::minor(device) as u32)
}

/// Takes the lock that drbdsetup takes too; it lasts as long as the file is open.
pub(crate) fn lock(minor: u32) -> Result<File, Failure> {
    let dir = run_dir()?.join("lock");
    let path = dir.join(format!("drbd-{DRBD_MAJOR}-{minor}"));
    let cannot = |what: &str, error: &dyn std::fmt::Display| {
        Failure::usage(format!("{what}({}): {error}", path.display()))
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| cannot("open", &error))?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| cannot("open", &error))?;
    let wanted = whole_file(libc::F_WRLCK);
    let started = Instant::now();
    loop {
        match fcntl(&file, FcntlArg::F_SETLK(&wanted)) {
            Ok(_) => return Ok(file),
            Err(Errno::EAGAIN | Errno::EACCES) if started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(held(&file, &path)),
            Err(error) => return Err(cannot("fcntl", &error)),
        }
    }
}

fn held(file: &File, path: &Path) -> Failure {
    let mut other = whole_file(libc::F_WRLCK);
    let holder = fcntl(file, FcntlArg::F_GETLK(&mut other)).map_or(0, |_| other.l_pid);
    Failure::usage(format!("lock on {} currently held by pid:{holder}", path.display()))
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Asks `drbdsetup dstate`. No drbdsetup, no daemon, no such minor: not attached.
pub(crate) fn is_attached(minor: u32) -> Result<bool, Failure> {
    let output = Command::new(drbdsetup())
        .args(["dstate", &minor.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return Ok(false) };
    if matches!(output.status.code(), Some(10 | 20)) {
        return Ok(false);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let local = said.trim_end().split('/').next().unwrap_or_default();
    if local == "Unconfigured" {
        return Ok(false);
    }
    match local.parse() {
        Ok(DiskState::Diskless) => Ok(false),
        Ok(_) => Ok(true),
        Err(_) => Err(Failure::usage(format!("Unexpected output from drbdsetup >{}<", said.trim_end()))),
    }
}

/// The one beside this program if it was called by a path, else the one in PATH.
fn drbdsetup() -> PathBuf {
    let called_as = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let beside =
        called_as.parent().filter(|dir| !dir.as_os_str().is_empty()).map(|dir| dir.join("drbdsetup"));
    beside.filter(|path| path.exists()).unwrap_or_else(|| "drbdsetup".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minors_are_digits_or_drbd_devices() {
        assert_eq!(minor_of("7"), Some(7));
        assert_eq!(minor_of("/dev/drbd12"), Some(12));
        for word in ["-", "foo", "/dev/drbd", "/dev/null", "r0"] {
            assert_eq!(minor_of(word), None, "{word}");
        }
    }
}
