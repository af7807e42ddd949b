//! The run directory: sockets, claims of minors, journal and log of every resource on this host.
//!
//! Sockets are bound and reached through the directory's descriptor (`/proc/self/fd/N/name`), so that the length of
//! its path does not matter.

use drbd_core::ids::{Minor, VolumeNumber};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The directory, held open.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    directory: File,
}

/// What outlives a boot: below `$UDRBD_RUN_DIR` when that is set, else `/var/lib/drbd` for root, else
/// `$XDG_STATE_HOME/drbd`. `None`: there is no such place.
pub(crate) fn state_dir() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("UDRBD_RUN_DIR") {
        return Some(dir.join("state"));
    }
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/drbd"));
    }
    let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    state.map(|dir| dir.join("drbd"))
}

/// A minor that cannot be had.
#[derive(Debug)]
pub(crate) enum ClaimError {
    /// Another resource has it.
    Held(String),
    /// The file cannot be made.
    Failed(std::io::Error),
}

impl RunDir {
    /// Where it is: `$UDRBD_RUN_DIR`, `/run/drbd` for root, `$XDG_RUNTIME_DIR/drbd` for others.
    pub(crate) fn path_for_this_user() -> Result<PathBuf, String> {
        if let Some(path) = std::env::var_os("UDRBD_RUN_DIR").filter(|p| !p.is_empty()) {
            return Ok(PathBuf::from(path));
        }
        if nix::unistd::geteuid().is_root() {
            return Ok(PathBuf::from("/run/drbd"));
        }
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|p| !p.is_empty()) {
            Some(path) => Ok(Path::new(&path).join("drbd")),
            None => Err("there is no run directory: set UDRBD_RUN_DIR (or XDG_RUNTIME_DIR).".to_owned()),
        }
    }

    /// Opens it, making it where it is missing. The error is a sentence.
    pub(crate) fn open(path: &Path) -> Result<RunDir, String> {
        let cannot =
            |e: &std::io::Error| format!("the run directory {} cannot be used: {e}.", path.display());
        match std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(cannot(&e)),
        }
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)
            .map_err(|e| cannot(&e))?;
        nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).map_err(|e| cannot(&e.into()))?;
        Ok(RunDir { path: path.to_owned(), directory })
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The journal of a resource: what its daemon was told.
    pub(crate) fn journal(&self, resource: &str) -> PathBuf {
        self.file(&format!("{resource}.journal"))
    }

    /// The control socket of a resource on this host.
    pub(crate) fn control_socket(&self, resource: &str) -> PathBuf {
        self.by_descriptor(&format!("{resource}.sock"))
    }

    /// The resource that claims a minor; it may be gone.
    pub(crate) fn holder(&self, minor: Minor) -> Option<String> {
        // A claim is a file's name until it is a resource's.
        Some(self.claimant(&claim_name(minor))).filter(|holder| !holder.is_empty() && !holder.contains('/'))
    }

    fn by_descriptor(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()))
    }

    /// Binds a socket that only its owner can use, replacing one that a dead daemon left behind.
    pub(crate) fn bind(&self, name: &str) -> std::io::Result<UnixListener> {
        let path = self.by_descriptor(name);
        let listener = match UnixListener::bind(&path) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && UnixStream::connect(&path).is_err() => {
                std::fs::remove_file(&path)?;
                UnixListener::bind(&path)?
            }
            other => other?,
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// The same for a socket of a resource whose control socket is held already: whoever has it is a dead daemon, of which the
    /// kernel takes the ring apart yet.
    pub(crate) fn bind_anew(&self, name: &str) -> std::io::Result<UnixListener> {
        match std::fs::remove_file(self.by_descriptor(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => self.bind(name),
        }
    }

    /// Whether a daemon of that resource answers.
    pub(crate) fn is_alive(&self, resource: &str) -> bool {
        UnixStream::connect(self.control_socket(resource)).is_ok()
    }

    /// Removes a file; it does not matter if it is gone already.
    pub(crate) fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.file(name));
    }

    /// Claims a minor number for a resource.
    pub(crate) fn claim(&self, minor: Minor, resource: &str) -> Result<(), ClaimError> {
        let name = claim_name(minor);
        // Twice: once more after a claim of a daemon that is gone was removed.
        for _ in 0..2 {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.file(&name));
            match file {
                Ok(mut file) => return file.write_all(resource.as_bytes()).map_err(ClaimError::Failed),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(ClaimError::Failed(e)),
            }
            let holder = self.claimant(&name);
            if holder == resource {
                return Ok(());
            }
            if !holder.is_empty() && self.is_alive(&holder) {
                return Err(ClaimError::Held(holder));
            }
            self.remove(&name);
        }
        Err(ClaimError::Held("another resource".to_owned()))
    }

    /// Gives a minor back.
    pub(crate) fn unclaim(&self, minor: Minor) {
        self.remove(&claim_name(minor));
    }

    fn claimant(&self, name: &str) -> String {
        let mut holder = String::new();
        if let Ok(file) = File::open(self.file(name)) {
            let _ = file.take(256).read_to_string(&mut holder);
        }
        holder.trim().to_owned()
    }
}

fn claim_name(minor: Minor) -> String {
    format!("minor-{minor}")
}

/// Name of the NBD socket of a volume.
pub(crate) fn nbd_name(resource: &str, volume: VolumeNumber) -> String {
    format!("{resource}.{volume}.nbd")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("udrbd-run-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_long_path_is_no_obstacle() {
        let path = directory("long").join("x".repeat(150));
        let run_dir = RunDir::open(&path).unwrap();
        let _listener = run_dir.bind("r0.sock").unwrap();
        assert!(run_dir.is_alive("r0"));
        let mode = std::fs::metadata(run_dir.file("r0.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(directory("long")).unwrap();
    }

    #[test]
    fn claims_are_exclusive_among_the_living() {
        let path = directory("claims");
        let run_dir = RunDir::open(&path).unwrap();
        let listener = run_dir.bind("r0.sock").unwrap();
        run_dir.claim(Minor(7), "r0").unwrap();
        assert!(matches!(run_dir.claim(Minor(7), "r1"), Err(ClaimError::Held(h)) if h == "r0"));
        assert_eq!(run_dir.holder(Minor(7)), Some("r0".to_owned()));
        assert_eq!(run_dir.holder(Minor(8)), None);
        run_dir.claim(Minor(7), "r0").unwrap();
        drop(listener);
        run_dir.claim(Minor(7), "r1").unwrap();
        run_dir.unclaim(Minor(7));
        run_dir.claim(Minor(7), "r2").unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_socket_left_behind_is_replaced() {
        let path = directory("stale");
        let run_dir = RunDir::open(&path).unwrap();
        drop(run_dir.bind("r0.sock").unwrap());
        let _alive = run_dir.bind("r0.sock").unwrap();
        assert!(run_dir.bind("r0.sock").is_err());
        let _new = run_dir.bind_anew("r0.sock").unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }
}
