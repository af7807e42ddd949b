//! `check-resize`: remembers size and name of a backing disk with internal metadata, so that drbdmeta finds the old end
//! after the device has grown.

use crate::arguments::CommandLine;
use crate::client::Client;
use crate::fault::Fault;
use crate::rundir::{run_dir_path, RunDir};
use drbd_core::control::DiskConfiguration;
use nix::unistd::geteuid;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Runs the command.
pub fn run(line: &CommandLine) -> Result<(), Fault> {
    let missing = || Fault::missing(format!("{}: No such device", line.object()));
    let run_dir = RunDir::open_if_present(&run_dir_path()?)?;
    let resource =
        run_dir.as_ref().and_then(|dir| dir.resource_of_minor(line.minor().0)).ok_or_else(missing)?;
    let mut client = Client::connect(run_dir.as_ref(), &resource).map_err(|_| missing())?;
    let configuration = client.configuration()?;
    let volume = configuration.volumes.into_iter().find(|v| v.minor == line.minor()).ok_or_else(missing)?;
    // Diskless: there is nothing to remember.
    let Some(disk) = volume.disk else { return Ok(()) };
    let file = state_dir()?.join(format!("drbd-minor-{}.lkbd", line.minor()));
    let trouble = |e: std::io::Error| Fault::trouble(format!("{}: {}: {e}", line.object(), file.display()));
    if disk.meta_index == "internal" {
        let bytes = size_of(&disk)?;
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).map_err(trouble)?;
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(&file, remembered(&before, bytes, &disk.disk)).map_err(trouble)
    } else {
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(trouble(e)),
            _ => Ok(()),
        }
    }
}

/// The file's new content: size and name, and the UUID it knew if it was of the same device.
pub fn remembered(before: &str, bytes: u64, disk: &str) -> String {
    let mut lines = before.lines();
    let same = lines.next().and_then(|first| first.split_once('\t')).is_some_and(|(_, name)| name == disk);
    let uuid = lines.find(|line| same && line.starts_with("uuid:\t"));
    let uuid = uuid.map_or(String::new(), |line| format!("{line}\n"));
    format!("{bytes}\t{disk}\n{uuid}")
}

fn size_of(disk: &DiskConfiguration) -> Result<u64, Fault> {
    // The end of a block device is where seeking to its end leads, too.
    File::open(&disk.disk)
        .and_then(|mut file| file.seek(SeekFrom::End(0)))
        .map_err(|e| Fault::trouble(format!("{}: {e}", disk.disk)))
}

/// What outlives a boot: below `$UDRBD_RUN_DIR` when that is set, else `/var/lib/drbd` for root, else `$XDG_STATE_HOME/drbd`.
fn state_dir() -> Result<PathBuf, Fault> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("UDRBD_RUN_DIR") {
        return Ok(dir.join("state"));
    }
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/drbd"));
    }
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .map(|dir| dir.join("drbd"))
        .ok_or_else(|| Fault::trouble("drbdsetup: no place for state: set XDG_STATE_HOME"))
}

#[cfg(test)]
mod tests;
