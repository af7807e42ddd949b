//! The daemon as a service of systemd, where systemd runs the host and `udrbd integrate` installed the unit. Whatever asked for
//! it, an agent of Pacemaker, a session, another service, then ends without it.

use crate::rundir::{RunDir, HOST};
use drbd_core::control::ServiceStart;
use nix::unistd::geteuid;
use std::fmt::Write as _;
use std::fs::{rename, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What `udrbd integrate` installs.
const UNIT: &str = "/etc/systemd/system/udrbd@.service";
/// It is there where systemd runs the host.
const SYSTEMD: &str = "/run/systemd/system";
/// How long the service of a daemon that is gone may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is asked.
const RETRY: Duration = Duration::from_millis(20);

/// Why there is no daemon.
#[derive(Debug)]
pub enum NotStarted {
    /// Somebody else started one meanwhile.
    Exists,
    /// A sentence.
    Because(String),
}

/// Whether daemons in that run directory are services.
pub fn is_used(run_dir: &RunDir) -> bool {
    let named = std::env::var_os("UDRBD_DAEMON").is_some_and(|v| !v.is_empty());
    let host = run_dir.path() == Path::new(HOST) && geteuid().is_root() && !named;
    host && Path::new(SYSTEMD).is_dir() && Path::new(UNIT).is_file()
}

/// Starts the daemon of a resource with these arguments of `udrbd supervise`; it answers when this returns. `answers`: whether
/// there is one.
pub fn start(
    run_dir: &RunDir,
    resource: &str,
    arguments: Vec<String>,
    answers: impl Fn() -> bool,
) -> Result<(), NotStarted> {
    let variables = std::env::vars_os();
    let texts = variables.filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let environment = texts.filter(|(name, _)| ServiceStart::is_known(name)).collect();
    let start = ServiceStart { arguments, environment };
    let asked = run_dir.path().join(ServiceStart::asked(resource));
    let unit = unit_of(resource);
    let begun = Instant::now();
    loop {
        ask(&asked, &start.encode())
            .map_err(|e| NotStarted::Because(format!("{} cannot be written: {e}", asked.display())))?;
        let started = systemctl(&["start", &unit]);
        let taken_up = std::fs::remove_file(&asked).is_err();
        match started {
            Ok(_) if taken_up => return Ok(()),
            Ok(_) if answers() => return Err(NotStarted::Exists),
            // The service of a daemon that was just taken down is about to end.
            Ok(_) if begun.elapsed() < END_TIMEOUT => std::thread::sleep(RETRY),
            Ok(_) => {
                let why = format!("{unit} runs without a daemon; systemctl stop '{unit}' ends it");
                return Err(NotStarted::Because(why));
            }
            Err(said) => {
                let why = systemctl(&["show", "--property=StatusText", "--value", &unit]).unwrap_or_default();
                let why = if why.is_empty() { said } else { why };
                return Err(NotStarted::Because(format!("{why} (systemctl status '{unit}')")));
            }
        }
    }
}

fn ask(path: &Path, text: &str) -> std::io::Result<()> {
    let fresh = path.with_extension("start.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    rename(&fresh, path)
}

/// What it said; the error, too.
fn systemctl(words: &[&str]) -> Result<String, String> {
    let done = Command::new("systemctl").args(words).stdin(Stdio::null()).output();
    let done = done.map_err(|e| format!("systemctl cannot be run: {e}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match done.status.success() {
        true => Ok(said(&done.stdout)),
        false => Err(said(&done.stderr)),
    }
}

/// Its unit; names are escaped as by systemd-escape(1).
fn unit_of(resource: &str) -> String {
    let mut instance = String::new();
    for byte in resource.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => instance.push(byte.into()),
            _ => write!(instance, "\\x{byte:02x}").expect("a string takes everything"),
        }
    }
    format!("udrbd@{instance}.service")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_systemd_does() {
        // systemd-escape --template=udrbd@.service NAME
        assert_eq!(unit_of("r0"), "udrbd@r0.service");
        assert_eq!(unit_of("my-data.1_b"), "udrbd@my\\x2ddata.1_b.service");
        assert_eq!(unit_of("a+ü"), "udrbd@a\\x2b\\xc3\\xbc.service");
    }

    #[test]
    fn a_run_directory_of_ones_own_has_no_services() {
        let path = std::env::temp_dir().join(format!("drbdsetup-service-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        assert!(!is_used(&RunDir::open_or_make(&path).expect("it is there")));
        std::fs::remove_dir_all(path).expect("it was there");
    }
}
