//! The run directory: where the daemons' control sockets and the claims of minors are. It is held open, and sockets are
//! reached through the descriptor, so that its own path may be longer than a socket address.

use crate::fault::Fault;
use nix::errno::Errno;
use nix::fcntl::{open, AtFlags, OFlag};
use nix::sys::stat::{fstatat, Mode, SFlag};
use nix::unistd::{faccessat, geteuid, AccessFlags, Uid};
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The run directory of the host: root's.
pub const HOST: &str = "/run/drbd";
/// Names of resources in one run directory that are looked at.
const RESOURCES_MAX: usize = 65_536;
/// Bytes of a `minor-N` file that are looked at.
const CLAIM_MAX: u64 = 4096;

/// The run directory, open.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    descriptor: OwnedFd,
}

/// Why a daemon was not reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unreached {
    /// There is no socket of that name.
    Absent,
    /// There is a socket, and nobody listens; a sentence.
    Dead(String),
    /// The socket cannot be used; a sentence.
    Trouble(String),
}

/// Where the run directory is: `$UDRBD_RUN_DIR`, else `/run/drbd` for root, else `$XDG_RUNTIME_DIR/drbd`.
pub fn run_dir_path() -> Result<PathBuf, Fault> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("UDRBD_RUN_DIR") {
        return Ok(path);
    }
    if geteuid().is_root() {
        return Ok(PathBuf::from(HOST));
    }
    variable("XDG_RUNTIME_DIR").map(|path| path.join("drbd")).ok_or_else(|| {
        Fault::trouble(
            "drbdsetup: no run directory: neither UDRBD_RUN_DIR nor XDG_RUNTIME_DIR is set; \
             set UDRBD_RUN_DIR to a directory of yours",
        )
    })
}

impl RunDir {
    /// Opens a run directory; `None` if there is none yet, and so no resource.
    pub fn open_if_present(path: &Path) -> Result<Option<RunDir>, Fault> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(descriptor) => Ok(Some(RunDir { path: path.to_owned(), descriptor })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Fault::trouble(format!(
                "drbdsetup: run directory {}: {}; set UDRBD_RUN_DIR to a directory of yours",
                path.display(),
                errno.desc()
            ))),
        }
    }

    /// Opens a run directory that will be written to, making it where it is missing.
    pub fn open_or_make(path: &Path) -> Result<RunDir, Fault> {
        if let Some(present) = RunDir::open_if_present(path)? {
            present.check_writable()?;
            return Ok(present);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| {
            Fault::trouble(format!(
                "drbdsetup: run directory {} cannot be made: {e}; set UDRBD_RUN_DIR to a directory of yours",
                path.display()
            ))
        })?;
        RunDir::open_if_present(path)?
            .ok_or_else(|| Fault::trouble(format!("drbdsetup: run directory {} is gone", path.display())))
    }

    fn check_writable(&self) -> Result<(), Fault> {
        let access = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(&self.descriptor, ".", access, AtFlags::AT_EACCESS).map_err(|errno| {
            Fault::trouble(format!(
                "drbdsetup: run directory {} is not writable for you: {}; set UDRBD_RUN_DIR to a directory of yours",
                self.path.display(),
                errno.desc()
            ))
        })
    }

    /// A short path to a file in it, good while this value lives.
    pub fn short_path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.descriptor.as_raw_fd()))
    }

    /// The path for people.
    pub fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all resources that have a control socket, sorted.
    pub fn resources(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.short_path("")) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .take(RESOURCES_MAX)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| file.strip_suffix(".sock").map(str::to_owned))
            .filter(|name| !name.is_empty())
            .collect();
        names.sort();
        names
    }

    /// The resource that claims a minor; `None` if nobody does.
    pub fn resource_of_minor(&self, minor: u32) -> Option<String> {
        let mut name = String::new();
        let claim = File::open(self.short_path(&format!("minor-{minor}"))).ok()?;
        claim.take(CLAIM_MAX).read_to_string(&mut name).ok()?;
        let name = name.trim_end_matches('\n').to_owned();
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        plain.then_some(name)
    }

    /// Connects to the daemon of a resource.
    pub fn connect(&self, resource: &str) -> Result<UnixStream, Unreached> {
        let file = format!("{resource}.sock");
        let shown = self.shown(&file);
        let state = match fstatat(&self.descriptor, file.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(state) => state,
            Err(Errno::ENOENT) => return Err(Unreached::Absent),
            Err(errno) => return Err(Unreached::Trouble(format!("{shown}: {}", errno.desc()))),
        };
        if state.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFSOCK.bits() {
            return Err(Unreached::Trouble(format!("{shown} is not a socket; remove it")));
        }
        let (owner, me) = (Uid::from_raw(state.st_uid), geteuid());
        if owner != me {
            return Err(Unreached::Trouble(format!(
                "{shown} belongs to user {owner}, and you are user {me}; run drbdsetup as the user who runs that daemon"
            )));
        }
        let path = self.short_path(&file);
        if path.as_os_str().len() >= SOCKET_PATH_MAX {
            return Err(Unreached::Trouble(too_long(resource)));
        }
        UnixStream::connect(&path).map_err(|e| match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => {
                Unreached::Dead(format!("{shown} is left over from a daemon that is gone"))
            }
            Some(Errno::ENOENT) => Unreached::Absent,
            _ => Unreached::Trouble(format!("{shown} cannot be reached: {e}")),
        })
    }
}

/// Bytes of a socket address, the closing zero included.
const SOCKET_PATH_MAX: usize = 108;

/// Whether the socket of such a resource can have an address at all.
pub fn check_name_length(resource: &str) -> Result<(), Fault> {
    // The daemon has other descriptors open than we have: room for five digits.
    if "/proc/self/fd/12345/.sock".len() + resource.len() >= SOCKET_PATH_MAX {
        return Err(Fault::trouble(format!("{resource}: {}", too_long(resource))));
    }
    Ok(())
}

fn too_long(resource: &str) -> String {
    format!(
        "the name of the resource is {} bytes long, too long for a socket: 82 are possible",
        resource.len()
    )
}
