//! What was configured, so that a restarted daemon can come back to it: one accepted request per line, written before
//! its reply.
//!
//! Replay does not repeat history but arrives where it led: what was undone is left out, `--discard-my-data` is asked
//! once and not again, and a role is never taken up blindly.
//!
//! The first line says which format follows and who wrote it. A daemon that does not know a line of an earlier or later
//! one does not start: half a configuration would be a different one.

use drbd_core::control::Request;
use drbd_core::ids::Minor;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest journal that is replayed.
const LINES_MAX: usize = 100_000;
/// What is written, and the only one that is read. Requests may be added without another number: a daemon that does not
/// know one refuses it by its line.
pub(crate) const FORMAT: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize, Debug)]
struct Head {
    journal: Written,
}

#[derive(Serialize, Deserialize, Debug)]
struct Written {
    format: u32,
    daemon: String,
}

/// The journal of one resource.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Starts an empty one.
    pub(crate) fn create(path: &Path) -> std::io::Result<Journal> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let written = Written { format: FORMAT, daemon: crate::VERSION.to_owned() };
        write_line(&mut file, &Head { journal: written })?;
        Ok(Journal { path: path.to_owned(), file })
    }

    /// Reads what a daemon that died had been told, and begins anew with the essence of it.
    pub(crate) fn recover(path: &Path) -> std::io::Result<(Journal, Vec<Request>)> {
        let requests = match File::open(path) {
            Ok(file) => match read(BufReader::new(file)) {
                Ok(requests) => essence(requests),
                Err(why) => return Err(std::io::Error::other(why)),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let fresh = path.with_extension("journal.new");
        let mut journal = Journal::create(&fresh)?;
        for request in &requests {
            journal.append(request)?;
        }
        std::fs::rename(&fresh, path)?;
        journal.path = path.to_owned();
        Ok((journal, requests))
    }

    /// Notes an accepted request.
    pub(crate) fn append(&mut self, request: &Request) -> std::io::Result<()> {
        if !is_configuration(request) {
            return Ok(());
        }
        write_line(&mut self.file, request)
    }

    /// The resource is gone.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn write_line(file: &mut File, what: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// The requests. A last line without end was being written when the daemon died, and was not answered yet. The error is
/// the end of a sentence.
fn read(mut lines: impl BufRead) -> Result<Vec<Request>, String> {
    let mut writer = "an earlier udrbd".to_owned();
    let mut requests = Vec::new();
    let mut line = String::new();
    for number in 1..=LINES_MAX {
        line.clear();
        let length = lines.read_line(&mut line).map_err(|e| e.to_string())?;
        if length == 0 || !line.ends_with('\n') {
            return Ok(requests);
        }
        match serde_json::from_str::<Head>(&line) {
            Ok(Head { journal }) if number == 1 && journal.format == FORMAT => writer = journal.daemon,
            Ok(Head { journal }) if number == 1 => {
                return Err(format!(
                    "it is of format {}, written by {}, and {} reads format {FORMAT}; start that one",
                    journal.format,
                    journal.daemon,
                    crate::VERSION
                ));
            }
            Ok(_) | Err(_) => {
                let request = serde_json::from_str(&line).map_err(|e| {
                    format!("{writer} wrote in line {number} what {} does not know ({e})", crate::VERSION)
                })?;
                requests.push(request);
            }
        }
    }
    Err(format!("it has more than {LINES_MAX} lines"))
}

fn is_configuration(request: &Request) -> bool {
    match request {
        Request::NewMinor { .. }
        | Request::DelMinor { .. }
        | Request::NewPeer { .. }
        | Request::DelPeer { .. }
        | Request::NewPath { .. }
        | Request::DelPath { .. }
        | Request::Attach { .. }
        | Request::Detach { .. }
        | Request::Connect { .. }
        | Request::Disconnect { .. }
        | Request::ResourceOptions { .. }
        | Request::NetOptions { .. }
        | Request::DiskOptions { .. }
        | Request::PeerDeviceOptions { .. }
        | Request::PauseSync { .. }
        | Request::ResumeSync { .. } => true,
        Request::Invalidate { .. }
        | Request::InvalidateRemote { .. }
        | Request::Outdate { .. }
        | Request::NewCurrentUuid { .. }
        | Request::Verify { .. }
        | Request::Resize { .. }
        | Request::Primary { .. }
        | Request::Secondary { .. }
        | Request::SuspendIo { .. }
        | Request::ResumeIo { .. }
        | Request::Down
        | Request::DelResource
        | Request::Upgrade { .. }
        | Request::Status
        | Request::Show
        | Request::GetGi { .. }
        | Request::Subscribe => false,
    }
}

/// The shortest list of requests that leads to the same configuration.
fn essence(requests: Vec<Request>) -> Vec<Request> {
    let mut kept: Vec<Request> = Vec::new();
    for request in requests {
        match request {
            Request::DelMinor { minor } => kept.retain(|r| minor_of(r) != Some(minor)),
            Request::Detach { minor, .. } => kept.retain(|r| {
                !(matches!(r, Request::Attach { .. } | Request::DiskOptions { .. }) && minor_of(r) == Some(minor))
            }),
            Request::DelPeer { peer, .. } => kept.retain(|r| peer_of(r) != Some(peer)),
            Request::Disconnect { peer, .. } => {
                kept.retain(|r| !matches!(r, Request::Connect { peer: p, .. } if *p == peer));
            }
            Request::ResumeSync { peer, volume } => {
                kept.retain(|r| *r != Request::PauseSync { peer, volume });
            }
            Request::DelPath { peer, local, remote } => kept.retain(|r| {
                !matches!(r, Request::NewPath { peer: p, local: l, remote: m } if (*p, l, m) == (peer, &local, &remote))
            }),
            // A size that was asked for while the disk was attached is what it is to be attached with.
            Request::DiskOptions { minor, ref options, .. } if options.is_set("size") => {
                let attach = kept.iter_mut().rev().find(|r| {
                    matches!(r, Request::Attach { .. }) && minor_of(r) == Some(minor)
                });
                if let Some(Request::Attach { options: attached, .. }) = attach {
                    attached.merge(options, false);
                }
            }
            Request::Connect { tentative: true, .. } => {}
            Request::Connect { peer, .. } => {
                kept.retain(|r| !matches!(r, Request::Connect { peer: p, .. } if *p == peer));
                kept.push(Request::Connect { peer, tentative: false, discard_my_data: false });
            }
            other => kept.push(other),
        }
    }
    kept
}

fn minor_of(request: &Request) -> Option<Minor> {
    match request {
        Request::NewMinor { minor, .. }
        | Request::Attach { minor, .. }
        | Request::DiskOptions { minor, .. } => Some(*minor),
        _ => None,
    }
}

fn peer_of(request: &Request) -> Option<drbd_core::ids::NodeId> {
    match request {
        Request::NewPeer { peer, .. }
        | Request::NewPath { peer, .. }
        | Request::Connect { peer, .. }
        | Request::NetOptions { peer, .. }
        | Request::PauseSync { peer, .. }
        | Request::PeerDeviceOptions { peer, .. } => Some(*peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drbd_core::config::OptionSet;
    use drbd_core::ids::{NodeId, VolumeNumber};

    fn new_minor(minor: u32) -> Request {
        Request::NewMinor { minor: Minor(minor), volume: VolumeNumber(0), options: OptionSet::default() }
    }

    fn attach(minor: u32) -> Request {
        Request::Attach {
            minor: Minor(minor),
            disk: "/d".to_owned(),
            meta_disk: "internal".to_owned(),
            meta_index: "internal".to_owned(),
            options: OptionSet::default(),
        }
    }

    #[test]
    fn what_was_undone_is_not_repeated() {
        let peer = NodeId(1);
        let new_peer = Request::NewPeer { peer, options: OptionSet::default() };
        let history = vec![
            new_minor(1),
            new_minor(2),
            attach(1),
            attach(2),
            new_peer.clone(),
            Request::Connect { peer, tentative: false, discard_my_data: true },
            Request::Disconnect { peer, force: false },
            Request::PauseSync { peer, volume: VolumeNumber(0) },
            Request::ResumeSync { peer, volume: VolumeNumber(0) },
            Request::Detach { minor: Minor(1), force: false, diskless: false },
            Request::DelMinor { minor: Minor(2) },
            Request::Connect { peer, tentative: false, discard_my_data: true },
        ];
        let connect = Request::Connect { peer, tentative: false, discard_my_data: false };
        assert_eq!(essence(history), vec![new_minor(1), new_peer, connect]);
    }

    #[test]
    fn a_disk_comes_back_with_the_size_asked_for_since() {
        let mut options = OptionSet::default();
        options.set(drbd_core::config::OptionSpec::find("size").unwrap(), "2048s").unwrap();
        let resized = Request::DiskOptions { minor: Minor(1), options: options.clone(), set_defaults: false };
        let kept = essence(vec![new_minor(1), attach(1), resized]);
        let Request::Attach { options: kept_options, .. } = &kept[1] else { panic!("{kept:?}") };
        assert_eq!((kept.len(), kept_options), (2, &options));
    }

    #[test]
    fn a_torn_last_line_is_left_out() {
        let path = std::env::temp_dir().join(format!("udrbd-{}.journal", std::process::id()));
        let mut journal = Journal::create(&path).unwrap();
        journal.append(&new_minor(1)).unwrap();
        journal.append(&Request::Primary { force: true }).unwrap();
        journal.append(&attach(1)).unwrap();
        journal.file.write_all(b"{\"new-minor\":{\"mi").unwrap();
        let (journal, requests) = Journal::recover(&path).unwrap();
        assert_eq!(requests, vec![new_minor(1), attach(1)]);
        drop(journal);
        let (journal, again) = Journal::recover(&path).unwrap();
        assert_eq!(again, requests);
        journal.remove();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_known_is_refused_with_both_versions() {
        let read_text = |text: &str| read(text.as_bytes());
        let line = serde_json::to_string(&new_minor(1)).unwrap();
        // As the first versions wrote it.
        assert_eq!(read_text(&format!("{line}\n")), Ok(vec![new_minor(1)]));
        let head =
            |format: u32| format!("{{\"journal\":{{\"format\":{format},\"daemon\":\"udrbd 7.0\"}}}}\n");
        assert_eq!(read_text(&format!("{}{line}\n", head(1))), Ok(vec![new_minor(1)]));
        let later = read_text(&head(2)).unwrap_err();
        assert!(
            later.contains("format 2, written by udrbd 7.0") && later.contains(crate::VERSION),
            "{later}"
        );
        let unknown = read_text(&format!("{}{line}\n{{\"op\":\"sing\"}}\n{line}\n", head(1))).unwrap_err();
        assert!(unknown.contains("udrbd 7.0 wrote in line 3"), "{unknown}");
    }
}
