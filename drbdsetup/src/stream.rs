//! `events2`: the streams of all daemons merged into one, daemons that appear later included.

use crate::arguments::CommandLine;
use crate::client::{Client, NoClient};
use crate::colour;
use crate::events2::{Known, Style};
use crate::fault::Fault;
use crate::rundir::{run_dir_path, RunDir};
use crate::timestamp::Stamp;
use drbd_core::control::{Kind, Notification, Object, Request};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::AsFd;

/// How often the run directory is looked at for new daemons, in ms.
const LOOK_MS: u16 = 200;

/// One daemon that is followed.
struct Followed {
    client: Client,
    /// What of the first dump has come so far; `None` when it is complete.
    dump: Option<Vec<Notification>>,
}

struct Stream<'a> {
    line: &'a CommandLine,
    style: Style,
    known: Known,
    followed: Vec<Followed>,
    /// Sockets that could not be followed, so that each is complained about once.
    refused: BTreeSet<String>,
    stamp: Option<Stamp>,
    /// The group whose lines share a time.
    group: Option<(String, u64)>,
}

/// Runs the command until it is told to end.
pub fn run(line: &CommandLine) -> Result<(), Fault> {
    let full = line.has("full");
    let style = Style {
        statistics: full || line.has("statistics"),
        full,
        diff: line.has("diff"),
        colour: colour::wanted(line.text("color")),
    };
    let mut stream = Stream {
        line,
        style,
        known: Known::default(),
        followed: Vec::new(),
        refused: BTreeSet::new(),
        stamp: line.has("timestamps").then(Stamp::of_this_place),
        group: None,
    };
    if line.has("now") {
        stream.now()
    } else {
        stream.follow()
    }
}

impl Stream<'_> {
    fn wanted(&self, run_dir: &RunDir) -> Vec<String> {
        match self.line.resource() {
            Some(name) => vec![name.to_owned()],
            // Newest first is not to be had from a directory; the reverse of the names is at least always the same.
            None => run_dir.resources().into_iter().rev().collect(),
        }
    }

    fn now(&mut self) -> Result<(), Fault> {
        let run_dir = RunDir::open_if_present(&run_dir_path()?)?;
        let (mut any, mut faults) = (false, None);
        for name in run_dir.as_ref().map(|dir| self.wanted(dir)).unwrap_or_default() {
            match Client::connect(run_dir.as_ref(), &name) {
                Ok(mut client) => {
                    any = true;
                    for notification in client.status()?.dump() {
                        self.print(&notification)?;
                    }
                }
                Err(NoClient::NotConfigured(_)) => {}
                Err(NoClient::Trouble(fault)) => faults = Some(fault.after(faults)),
            }
        }
        // Nothing configured and nothing asked for by name prints nothing at all.
        if any || self.line.resource().is_some() {
            self.end_of_dump()?;
        }
        faults.map_or(Ok(()), Err)
    }

    fn follow(&mut self) -> Result<(), Fault> {
        self.look()?;
        self.first_dump()?;
        let mut polling = self.line.has("poll");
        loop {
            let (ready, stdin) = self.wait(polling)?;
            // From the back, so that indices stay good while some go.
            for at in ready.into_iter().rev() {
                self.drain(at)?;
            }
            if stdin {
                polling = self.stdin()?;
                if !polling {
                    return Ok(());
                }
            }
            self.look()?;
        }
    }

    /// Connects to daemons not yet followed.
    fn look(&mut self) -> Result<(), Fault> {
        let named = self.line.resource().is_some();
        let Some(run_dir) = RunDir::open_if_present(&run_dir_path()?)? else { return Ok(()) };
        for name in self.wanted(&run_dir) {
            if self.followed.iter().any(|f| f.client.resource() == name) || self.refused.contains(&name) {
                continue;
            }
            match Client::connect(Some(&run_dir), &name) {
                Ok(mut client) => {
                    // A daemon that is about to end may hang up; it is then as if it had never been.
                    if client.ask(&name, Request::Subscribe).is_ok() {
                        self.followed.push(Followed { client, dump: Some(Vec::new()) });
                    }
                }
                Err(NoClient::NotConfigured(_)) => {}
                Err(NoClient::Trouble(fault)) if named => return Err(fault),
                Err(NoClient::Trouble(fault)) => {
                    eprintln!("{}", fault.text);
                    self.refused.insert(name);
                }
            }
        }
        Ok(())
    }

    /// Everything that exists at the start, then the end marker.
    fn first_dump(&mut self) -> Result<(), Fault> {
        let mut complete = Vec::new();
        for followed in &mut self.followed {
            while let Some(dump) = &mut followed.dump {
                match followed.client.notification()? {
                    Some(Notification { kind: Kind::Exists, what: Object::End, .. }) | None => {
                        complete.append(dump);
                        followed.dump = None;
                    }
                    Some(notification) => dump.push(notification),
                }
            }
        }
        for notification in complete {
            self.print(&notification)?;
        }
        self.end_of_dump()
    }

    fn end_of_dump(&mut self) -> Result<(), Fault> {
        self.group = None;
        let (kind, what) = (Kind::Exists, Object::End);
        self.print(&Notification { kind, resource: String::new(), what, group: 0 })
    }

    /// Waits for daemons to speak (their indices), stdin, or the time to look around.
    fn wait(&self, polling: bool) -> Result<(Vec<usize>, bool), Fault> {
        let buffered: Vec<usize> =
            (0..self.followed.len()).filter(|at| self.followed[*at].client.has_buffered()).collect();
        if !buffered.is_empty() {
            return Ok((buffered, false));
        }
        let stdin = std::io::stdin();
        let mut fds: Vec<PollFd<'_>> =
            self.followed.iter().map(|f| PollFd::new(f.client.as_fd(), PollFlags::POLLIN)).collect();
        if polling {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::from(LOOK_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Fault::trouble(format!("drbdsetup: {}", errno.desc()))),
        }
        let spoke: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let ready = (0..self.followed.len()).filter(|at| spoke[*at]).collect();
        Ok((ready, polling && spoke.last() == Some(&true)))
    }

    /// Takes in what one daemon said.
    fn drain(&mut self, at: usize) -> Result<(), Fault> {
        let followed = &mut self.followed[at];
        let Some(notification) = followed.client.notification()? else {
            let resource = self.followed.remove(at).client.resource().to_owned();
            return self.lost(&resource);
        };
        let Some(dump) = &mut followed.dump else { return self.print(&notification) };
        if notification.what != Object::End {
            dump.push(notification);
            return Ok(());
        }
        let dump = std::mem::take(dump);
        followed.dump = None;
        for created in as_created(dump) {
            self.print(&created)?;
        }
        Ok(())
    }

    fn lost(&mut self, resource: &str) -> Result<(), Fault> {
        for notification in self.known.gone(resource) {
            self.print(&notification)?;
        }
        Ok(())
    }

    /// One read from stdin: every `n` re-reads the statistics, the end of input ends the command.
    fn stdin(&mut self) -> Result<bool, Fault> {
        let mut bytes = [0_u8; 256];
        let count = std::io::stdin()
            .read(&mut bytes)
            .map_err(|e| Fault::trouble(format!("drbdsetup: stdin: {e}")))?;
        if bytes[..count].contains(&b'n') {
            self.refresh()?;
        }
        Ok(count > 0)
    }

    fn refresh(&mut self) -> Result<(), Fault> {
        let mut fresh = Vec::new();
        for followed in self.followed.iter_mut().filter(|f| f.dump.is_none()) {
            // A daemon that goes away meanwhile is noticed by its stream.
            if let Ok(status) = followed.client.status() {
                fresh.extend(status.dump());
            }
        }
        for mut notification in fresh {
            notification.kind = Kind::Change;
            self.print(&notification)?;
        }
        Ok(())
    }

    fn print(&mut self, notification: &Notification) -> Result<(), Fault> {
        let Some(line) = self.known.line(notification, self.style) else { return Ok(()) };
        let mut out = std::io::stdout().lock();
        let mut text = String::new();
        if let Some(stamp) = &mut self.stamp {
            let group = (notification.resource.clone(), notification.group);
            if self.group.as_ref() != Some(&group) {
                stamp.refresh();
                self.group = Some(group);
            }
            text.push_str(stamp.text());
            text.push(' ');
        }
        text.push_str(&line);
        text.push('\n');
        // A reader that went away ends the command without a word.
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|_| Fault { text: String::new(), exit: 0 })
    }
}

/// A daemon that appears while we watch creates what it dumps, in the order of a creation.
fn as_created(dump: Vec<Notification>) -> Vec<Notification> {
    let order = |what: &Object| match what {
        Object::Resource(_) => 0,
        Object::Device(_) => 1,
        Object::Connection(_) => 2,
        Object::PeerDevice(_) => 3,
        Object::Path(_) => 4,
        Object::Helper(_) | Object::End => 5,
    };
    // Dumps list the newest first.
    let mut created: Vec<Notification> = dump.into_iter().rev().collect();
    created.sort_by_key(|n| order(&n.what));
    for notification in &mut created {
        if notification.kind == Kind::Exists {
            notification.kind = Kind::Create;
        }
    }
    created
}
