//! Commands that keep listening: `events2` and the waits.

use crate::bad_places::wait_until;
use crate::fake::{Answer, Fake, Place};
use crate::scenarios::{running, two_node};
use drbd_core::control::{Done, Kind, Notification, Object, Request, ResourceStatus};
use drbd_core::states::{ConnectionState, DiskState, ReplicationState, Role};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A fake whose status can be changed from outside and that dumps it to subscribers.
fn live(place: &Place, status: ResourceStatus) -> (Fake, Arc<Mutex<ResourceStatus>>) {
    let shared = Arc::new(Mutex::new(status));
    let answering = shared.clone();
    let name = shared.lock().expect("no panic").resource.name.clone();
    let fake = place.fake(&name, move |request| {
        let status = answering.lock().expect("no panic").clone();
        match request {
            Request::Subscribe => {
                let mut dump = status.dump();
                dump.push(notification(&status, Kind::Exists, Object::End));
                Answer::Notify(dump)
            }
            Request::GetGi { .. } => Answer::done(),
            _ => Answer::Done(Box::new(Done { status: Some(status), ..Done::default() })),
        }
    });
    (fake, shared)
}

fn notification(status: &ResourceStatus, kind: Kind, what: Object) -> Notification {
    Notification { kind, resource: status.resource.name.clone(), what, group: 1 }
}

struct Listener {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Listener {
    fn start(place: &Place, words: &str) -> Listener {
        let mut command = place.command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("drbdsetup runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Listener { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn until_end_of_dump(&mut self) -> usize {
        (0..).find(|_| self.line() == "exists -").expect("an end")
    }

    fn starts(&mut self) -> String {
        let line = self.line();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events2_follows_changes_and_daemons() {
    let place = Place::new();
    let (fake, _) = live(&place, two_node());
    let mut listener = Listener::start(&place, "events2");
    assert_eq!(listener.until_end_of_dump(), 5);

    let mut status = two_node();
    status.resource.role = Role::Secondary;
    fake.tell(notification(&status, Kind::Change, Object::Resource(status.resource.clone())));
    assert_eq!(listener.line(), "change resource name:r0 role:Secondary");

    // A daemon that appears creates what it has.
    let mut other = two_node();
    other.resource.name = "other".to_owned();
    let (second, _) = live(&place, other);
    let created: Vec<String> = (0..5).map(|_| listener.starts()).collect();
    assert_eq!(
        created,
        ["create resource", "create device", "create connection", "create peer-device", "create path"]
    );

    // A daemon that dies has destroyed what it had.
    second.crash();
    let destroyed: Vec<String> = (0..5).map(|_| listener.starts()).collect();
    assert_eq!(
        destroyed,
        ["destroy path", "destroy peer-device", "destroy connection", "destroy device", "destroy resource"]
    );
    assert!(listener.child.try_wait().expect("it can be asked").is_none());
}

#[test]
fn events2_of_a_resource_yet_to_come() {
    let place = Place::new();
    let mut listener = Listener::start(&place, "events2 r0");
    assert_eq!(listener.line(), "exists -");
    let (_fake, _) = live(&place, two_node());
    assert!(listener.line().starts_with("create resource name:r0 role:Primary "));
}

#[test]
fn events2_polls_counters_on_demand() {
    let place = Place::new();
    let (_fake, status) = live(&place, two_node());
    let mut listener = Listener::start(&place, "events2 --full --poll r0");
    listener.until_end_of_dump();
    status.lock().expect("no panic").devices[0].written += 1;
    let mut stdin = listener.child.stdin.take().expect("a pipe");
    stdin.write_all(b"n\n").expect("it listens");
    let line = listener.line();
    assert!(line.starts_with("change resource "), "everything is told with --full: {line}");
    let device =
        std::iter::repeat_with(|| listener.line()).find(|l| l.starts_with("change device ")).expect("one");
    assert!(device.contains(" written:2840 "), "{device}");
    drop(stdin);
    assert!(listener.child.wait().expect("it ends").success());
}

fn syncing() -> ResourceStatus {
    let mut status = two_node();
    status.devices[0].disk = DiskState::Inconsistent;
    let peer = &mut status.connections[0].peer_devices[0];
    peer.replication = ReplicationState::SyncTarget;
    peer.resync = Some(running(2048, 1024));
    status
}

#[test]
fn waits_end_with_the_resync() {
    let place = Place::new();
    let (fake, status) = live(&place, syncing());
    assert_eq!(place.run("wait-connect-resource r0").2, 0, "connected it is");
    let child = place.command("wait-sync-resource r0").stderr(Stdio::piped()).spawn().expect("it runs");
    wait_until(|| fake.asked().len() >= 6);
    *status.lock().expect("no panic") = two_node();
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert_eq!(output.stderr, b"", "silent in a pipe");
}

#[test]
fn waits_run_out_of_time() {
    let place = Place::new();
    let (_fake, _) = live(&place, syncing());
    let begun = Instant::now();
    assert_eq!(place.run("wait-sync-volume r0 1 0 --wfc-timeout=1").2, 5);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn standalone_ends_a_wait_unless_told_otherwise() {
    let place = Place::new();
    let mut status = two_node();
    status.connections[0].connection.connection = ConnectionState::StandAlone;
    status.connections[0].peer_devices[0].replication = ReplicationState::Off;
    let (_fake, _) = live(&place, status);
    assert_eq!(place.run("wait-connect-resource r0 --wfc-timeout=9").2, 0);
    assert_eq!(place.run("wait-connect-resource r0 --wait-after-sb --wfc-timeout=1").2, 5);
}

#[test]
fn an_outdated_disk_has_a_timeout_of_its_own() {
    let place = Place::new();
    let mut status = two_node();
    status.devices[0].disk = DiskState::Outdated;
    status.connections[0].connection.connection = ConnectionState::Connecting;
    status.connections[0].peer_devices[0].replication = ReplicationState::Off;
    let (_fake, _) = live(&place, status);
    assert_eq!(place.run("wait-connect-volume r0 1 0 --wfc-timeout=0 --outdated-wfc-timeout=1").2, 5);
}
