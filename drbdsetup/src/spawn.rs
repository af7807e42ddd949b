//! `new-resource`: starts the daemon of a resource, as a service or a process of its own, and waits until it answers.

use crate::arguments::CommandLine;
use crate::client::{Client, NoClient};
use crate::fault::Fault;
use crate::rundir::{check_name_length, run_dir_path, RunDir};
use crate::service::{self, NotStarted};
use drbd_core::refusal::{Reason, Refusal};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Name of the daemon's binary.
const DAEMON: &str = "udrbd";
/// Hidden first argument: leave the caller's session, then become the daemon.
pub const DETACH: &str = "__detach";
/// How long a daemon may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the socket is tried.
const RETRY: Duration = Duration::from_millis(10);
/// Bytes of a failed daemon's last words that are relayed.
const LAST_WORDS_MAX: u64 = 8192;

/// Starts the daemon of a resource.
pub fn new_resource(line: &CommandLine) -> Result<(), Fault> {
    let resource = line.object();
    check_name_length(resource)?;
    let run_dir = RunDir::open_or_make(&run_dir_path()?)?;
    match Client::connect(Some(&run_dir), resource) {
        Ok(_) => return Err(already_exists(resource)),
        Err(NoClient::NotConfigured(_)) => {}
        Err(NoClient::Trouble(fault)) => return Err(fault),
    }
    let arguments = supervise_arguments(line, resource)?;
    if service::is_used(&run_dir) {
        let answers = || Client::connect(Some(&run_dir), resource).is_ok();
        return service::start(&run_dir, resource, arguments, answers).map_err(|why| match why {
            NotStarted::Exists => already_exists(resource),
            NotStarted::Because(why) => {
                Fault::trouble(format!("{resource}: the daemon did not start: {why}"))
            }
        });
    }
    let binary = find_daemon()?;
    let (log, log_shown, from) = open_log(&run_dir, resource)?;
    let mut child = start(resource, &binary, &arguments, &log)?;
    wait_until_answers(&run_dir, resource, &mut child).map_err(|end| match end {
        StartFault::Exited(status) => {
            let words = last_words(log, from, resource);
            let words = if words.is_empty() {
                format!("{} ended at once ({status}) without a word", binary.display())
            } else {
                words
            };
            if Client::connect(Some(&run_dir), resource).is_ok() {
                already_exists(resource)
            } else {
                Fault::trouble(format!("{resource}: the daemon did not start: {words}"))
            }
        }
        StartFault::Silent => Fault::trouble(format!(
            "{resource}: the daemon did not answer within {} s and was stopped; {log_shown} may say why",
            START_TIMEOUT.as_secs()
        )),
        StartFault::Trouble(fault) => fault,
    })
}

fn already_exists(resource: &str) -> Fault {
    Fault::refusal(resource, &Refusal::from(Reason::AlreadyExists))
}

/// `$UDRBD_DAEMON`, else beside drbdsetup, else /usr/lib/udrbd, else in PATH.
fn find_daemon() -> Result<PathBuf, Fault> {
    if let Some(named) = std::env::var_os("UDRBD_DAEMON").filter(|v| !v.is_empty()).map(PathBuf::from) {
        if named.is_file() {
            return Ok(named);
        }
        return Err(Fault::trouble(format!(
            "drbdsetup: the daemon's binary {} (from UDRBD_DAEMON) does not exist",
            named.display()
        )));
    }
    let mut places: Vec<PathBuf> = Vec::new();
    if let Some(beside) = std::env::current_exe().ok().and_then(|p| p.parent().map(|d| d.join(DAEMON))) {
        places.push(beside);
    }
    places.push(PathBuf::from("/usr/lib/udrbd").join(DAEMON));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = places.iter().cloned().chain(std::env::split_paths(&path).map(|d| d.join(DAEMON)));
    found.into_iter().find(|p| p.is_file()).ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        Fault::trouble(format!(
            "drbdsetup: the daemon's binary '{DAEMON}' is missing: not at {} nor in PATH; \
             install it or name it in UDRBD_DAEMON",
            looked.join(" nor ")
        ))
    })
}

/// Has the daemon's binary let go of what a daemon that is gone for good left in the kernel. Where it cannot, that stays.
pub fn release(resource: &str) {
    if let Ok(binary) = find_daemon() {
        let _ = Command::new(binary).args(["release", resource]).stdin(Stdio::null()).status();
    }
}

/// The daemon's stderr outlives us, so it is a file in the run directory rather than a pipe.
fn open_log(run_dir: &RunDir, resource: &str) -> Result<(File, String, u64), Fault> {
    let name = format!("{resource}.log");
    let shown = run_dir.shown(&name);
    let trouble = |e: std::io::Error| Fault::trouble(format!("{resource}: {shown} cannot be written: {e}"));
    let mut log = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(run_dir.short_path(&name))
        .map_err(trouble)?;
    let from = log.seek(SeekFrom::End(0)).map_err(trouble)?;
    Ok((log, shown, from))
}

/// What `udrbd supervise` is to be told.
fn supervise_arguments(line: &CommandLine, resource: &str) -> Result<Vec<String>, Fault> {
    let options = serde_json::to_string(&line.option_set()).map_err(|e| Fault::trouble(e.to_string()))?;
    let node = line.node_id().to_string();
    Ok([resource, "--node-id", &node, "--options", &options].map(str::to_owned).into())
}

fn start(resource: &str, binary: &PathBuf, arguments: &[String], log: &File) -> Result<Child, Fault> {
    let trouble = |e: std::io::Error| {
        Fault::trouble(format!("{resource}: {} cannot be started: {e}", binary.display()))
    };
    let me = std::env::current_exe().map_err(trouble)?;
    Command::new(me)
        .arg(DETACH)
        .arg(binary)
        .arg("supervise")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(trouble)?)
        .stderr(log.try_clone().map_err(trouble)?)
        .spawn()
        .map_err(trouble)
}

/// The hidden command: a new session, the root directory, then the daemon. Only returns if that failed.
pub fn detach(words: &[String]) -> Fault {
    let Some((binary, arguments)) = words.split_first() else {
        return Fault::trouble("drbdsetup: nothing to detach");
    };
    // Fails only if we lead a group already, which is as good.
    let _ = nix::unistd::setsid();
    let error = Command::new(binary).args(arguments).exec();
    Fault::trouble(format!("{binary} cannot be started: {error}"))
}

enum StartFault {
    Exited(std::process::ExitStatus),
    Silent,
    Trouble(Fault),
}

fn wait_until_answers(run_dir: &RunDir, resource: &str, child: &mut Child) -> Result<(), StartFault> {
    let trouble = |e: std::io::Error| StartFault::Trouble(Fault::trouble(format!("{resource}: {e}")));
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(trouble)? {
            return Err(StartFault::Exited(status));
        }
        match Client::connect(Some(run_dir), resource) {
            Ok(_) => return Ok(()),
            Err(NoClient::NotConfigured(_)) => {}
            // Between bind and listen, or while a dead daemon's socket is replaced.
            Err(NoClient::Trouble(fault)) if begun.elapsed() > START_TIMEOUT => {
                return Err(StartFault::Trouble(fault));
            }
            Err(NoClient::Trouble(_)) => {}
        }
        if begun.elapsed() > START_TIMEOUT {
            child.kill().map_err(trouble)?;
            let _ = child.wait();
            return Err(StartFault::Silent);
        }
        std::thread::sleep(RETRY);
    }
}

/// What the daemon said on stderr: its sentences begin with the resource, lines of the log do not.
fn last_words(mut log: File, from: u64, resource: &str) -> String {
    let mut bytes = Vec::new();
    if log.seek(SeekFrom::Start(from)).is_ok() {
        // What cannot be read is not relayed.
        let _ = log.take(LAST_WORDS_MAX).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let prefix = format!("{resource}: ");
    let sentences: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
    if sentences.is_empty() {
        text.trim().to_owned()
    } else {
        sentences.join("\n")
    }
}
