//! The lock of a minor: `lock/drbd-147-N` in the run directory, shared with drbdmeta, held while something changes.

use crate::fault::Fault;
use crate::rundir::RunDir;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg};
use nix::libc;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Held while this value lives.
#[derive(Debug)]
pub struct MinorLock {
    _file: File,
}

impl MinorLock {
    /// Takes the lock, waiting a second for whoever holds it.
    pub fn take(run_dir: &RunDir, minor: u32) -> Result<MinorLock, Fault> {
        let name = format!("lock/drbd-147-{minor}");
        let shown = run_dir.shown(&name);
        let trouble = |e: &dyn std::fmt::Display| Fault::trouble(format!("drbdsetup: lock {shown}: {e}"));
        match DirBuilder::new().mode(0o700).create(run_dir.short_path("lock")) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(trouble(&e)),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(run_dir.short_path(&name))
            .map_err(|e| trouble(&e))?;
        let begun = Instant::now();
        loop {
            match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
                Ok(_) => return Ok(MinorLock { _file: file }),
                Err(Errno::EAGAIN | Errno::EACCES) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    return Err(trouble(
                        &"held by another drbdsetup or drbdmeta; try again when it has ended",
                    ));
                }
                Err(errno) => return Err(trouble(&errno.desc())),
            }
        }
    }
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
