//! What was configured, so that a restarted daemon can come back to it: one accepted request per line, written before
//! its reply.
//!
//! Replay does not repeat history but arrives where it led: what was undone is left out, `--discard-my-data` is asked
//! once and not again, and a role is never taken up blindly.

use drbd_core::control::Request;
use drbd_core::ids::Minor;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest journal that is replayed.
const LINES_MAX: usize = 100_000;

/// The journal of one resource.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Starts an empty one.
    pub(crate) fn create(path: &Path) -> std::io::Result<Journal> {
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Journal { path: path.to_owned(), file })
    }

    /// Reads what a daemon that died had been told, and begins anew with the essence of it.
    pub(crate) fn recover(path: &Path) -> std::io::Result<(Journal, Vec<Request>)> {
        let requests = match File::open(path) {
            Ok(file) => essence(read(BufReader::new(file))),
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
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }

    /// The resource is gone.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Requests up to the first line that makes no sense: the one that was being written when the daemon died.
fn read(lines: impl BufRead) -> Vec<Request> {
    lines
        .lines()
        .take(LINES_MAX)
        .map_while(|line| line.ok().and_then(|line| serde_json::from_str(&line).ok()))
        .collect()
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
}
