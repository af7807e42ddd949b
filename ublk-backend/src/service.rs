//! The daemon as a service of systemd: `udrbd@RESOURCE.service` runs `udrbd serve`, and `udrbd stop` before it stops that.

use crate::process::tool;
use crate::run_dir::RunDir;
use drbd_core::control::ServiceStart;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// So long a resource is to be stopped that is in use: file systems are unmounted beside it when a host goes down.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is tried.
const RETRY: Duration = Duration::from_millis(500);

/// What `udrbd serve` becomes: the parent of a daemon that `drbdsetup new-resource` asked for or, without having been
/// asked since, of one that takes up what the last one was doing.
#[derive(PartialEq, Eq, Debug)]
struct Serve {
    start: ServiceStart,
    recover: bool,
}

impl Serve {
    /// The error is a sentence.
    fn of(resource: &str, run_dir: &RunDir) -> Result<Serve, String> {
        let asked = run_dir.file(&ServiceStart::asked(resource));
        let taken_up = run_dir.file(&ServiceStart::taken_up(resource));
        let recover = match std::fs::rename(&asked, &taken_up) {
            Ok(()) => false,
            Err(e) if e.kind() == ErrorKind::NotFound => true,
            Err(e) => return Err(format!("{} cannot be taken up: {e}.", asked.display())),
        };
        // A daemon that ended in an orderly way left no journal.
        if recover && !(taken_up.exists() && run_dir.journal(resource).exists()) {
            return Err(format!(
                "nobody asked for a daemon: `drbdadm up {resource}` does, and starts this service."
            ));
        }
        let unreadable = |e: String| format!("{} cannot be read: {e}.", taken_up.display());
        let text = std::fs::read_to_string(&taken_up).map_err(|e| unreadable(e.to_string()))?;
        Ok(Serve { start: ServiceStart::decode(&text).map_err(unreadable)?, recover })
    }

    /// Becomes it. The error is a sentence.
    fn become_parent(self) -> String {
        let program = match std::env::current_exe() {
            Ok(program) => program,
            Err(e) => return format!("this program's own path cannot be found: {e}."),
        };
        let mut command = Command::new(&program);
        command.arg("supervise").args(self.start.arguments).envs(self.start.environment);
        if self.recover {
            command.arg("--recover");
        }
        format!("{} cannot be run: {}.", program.display(), command.exec())
    }
}

/// Becomes the parent of a resource's daemon. Returns only if there is a reason not to: a sentence.
pub(crate) fn serve(resource: &str) -> String {
    let run_dir = RunDir::path_for_this_user().and_then(|path| RunDir::open(&path));
    match run_dir.and_then(|run_dir| Serve::of(resource, &run_dir)) {
        Ok(serve) => serve.become_parent(),
        Err(sentence) => sentence,
    }
}

/// Takes the resource down before its service is stopped, as soon as nobody uses its devices. Who still does after
/// [`PATIENCE`] gets errors, rather than wait for a daemon that will not come back.
pub(crate) fn stop(resource: &str) -> ExitCode {
    // systemd calls this, too, when the service ended by itself, and then there is nothing to stop.
    if std::env::var_os("MAINPID").is_none() {
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    let mut said = String::new();
    loop {
        let Err(refused) = drbdsetup(["down", resource]) else { return ExitCode::SUCCESS };
        if refused != said {
            eprintln!("{refused}");
            said = refused;
        }
        if begun.elapsed() >= PATIENCE {
            break;
        }
        std::thread::sleep(RETRY);
    }
    eprintln!(
        "{resource}: it could not be taken down for {} s: who uses it gets errors from here on.",
        PATIENCE.as_secs()
    );
    let demoted = drbdsetup(["secondary", "--force=yes", resource]);
    match demoted.and_then(|()| drbdsetup(["down", resource])) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refused) => {
            eprintln!("{refused}");
            ExitCode::FAILURE
        }
    }
}

/// The error is what it said.
fn drbdsetup<const N: usize>(words: [&str; N]) -> Result<(), String> {
    let program = tool("drbdsetup");
    let done = Command::new(&program).args(words).output();
    let done = done.map_err(|e| format!("{} cannot be run: {e}.", program.display()))?;
    if done.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&done.stderr).trim_end().to_owned())
}

/// Tells whoever runs this program as a service: that it is ready, or in a sentence why it never will be.
pub(crate) fn tell(message: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        // Nothing here depends on its being heard.
        let _ = send(&socket, message);
    }
}

fn send(socket: &OsStr, message: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(socket))?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn run_dir(name: &str) -> (PathBuf, RunDir) {
        let path = std::env::temp_dir().join(format!("udrbd-service-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let run_dir = RunDir::open(&path).unwrap();
        (path, run_dir)
    }

    fn start() -> ServiceStart {
        let arguments = ["r0", "--node-id", "1"].map(str::to_owned).into();
        ServiceStart { arguments, environment: [("UDRBD_FRONTEND".to_owned(), "socket".to_owned())].into() }
    }

    #[test]
    fn what_was_asked_for_is_fresh_once_and_recovered_after_that() {
        let (path, run_dir) = run_dir("fresh");
        std::fs::write(path.join("r0.start"), start().encode()).unwrap();
        assert_eq!(Serve::of("r0", &run_dir), Ok(Serve { start: start(), recover: false }));
        std::fs::write(path.join("r0.journal"), "").unwrap();
        for _ in 0..2 {
            assert_eq!(Serve::of("r0", &run_dir), Ok(Serve { start: start(), recover: true }));
        }
        std::fs::remove_file(path.join("r0.journal")).unwrap();
        let refused = Serve::of("r0", &run_dir).unwrap_err();
        assert!(refused.contains("`drbdadm up r0`"), "{refused}");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let (path, run_dir) = run_dir("unread");
        std::fs::write(path.join("r0.start"), "{").unwrap();
        let refused = Serve::of("r0", &run_dir).unwrap_err();
        assert!(refused.contains("r0.started cannot be read"), "{refused}");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn who_runs_the_service_hears() {
        let (path, _) = run_dir("hears");
        let hears = UnixDatagram::bind(path.join("notify")).unwrap();
        send(path.join("notify").as_os_str(), "READY=1").unwrap();
        let mut heard = [0; 32];
        let bytes = hears.recv(&mut heard).unwrap();
        assert_eq!(&heard[..bytes], b"READY=1");
        std::fs::remove_dir_all(path).unwrap();
    }
}
