use super::*;
use crate::mailbox::{mailbox, ControlPlane};
use drbd_core::control::VERSION;
use drbd_core::control::{
    ConnectionObject, DaemonHello, DiskConfiguration, ResourceObject, VolumeConfiguration,
};
use drbd_core::states::{ConnectionState, ReplicationState, ResyncSuspended, Role, Suspended};
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

const PEER: NodeId = NodeId(1);

fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("udrbd-after-{}-{name}", std::process::id()))
}

/// Volumes of minors from 10 on, each waiting for what is said.
fn configuration(resource: &str, first: u32, after: &[Option<u32>]) -> Configuration {
    let volume = |(n, after): (usize, &Option<u32>)| {
        let mut options = OptionSet::default();
        if let Some(after) = after {
            let spec = drbd_core::config::OptionSpec::find("resync-after").expect("an option of the table");
            options.set(spec, &after.to_string()).expect("in range");
        }
        let disk = DiskConfiguration {
            disk: "/d".to_owned(),
            meta_disk: "/d".to_owned(),
            meta_index: "internal".to_owned(),
            options,
        };
        VolumeConfiguration {
            volume: VolumeNumber(n as u16),
            minor: Minor(first + n as u32),
            device_options: OptionSet::default(),
            disk: Some(disk),
        }
    };
    Configuration {
        resource: resource.to_owned(),
        node_id: NodeId(0),
        options: OptionSet::default(),
        volumes: after.iter().enumerate().map(volume).collect(),
        connections: Vec::new(),
    }
}

fn device(minor: u32, disk: DiskState) -> Object {
    Object::Device(DeviceObject {
        volume: VolumeNumber(3),
        minor: Minor(minor),
        backing_dev: "/d".to_owned(),
        disk,
        client: false,
        open: false,
        quorum: true,
        size: None,
        waiting_size: None,
        read: 0,
        written: 0,
        al_writes: 0,
        bm_writes: 0,
        upper_pending: 0,
        lower_pending: 0,
        al_suspended: false,
        blocked: "no".to_owned(),
        al_replayed_extents: 0,
        al_replayed_kib: 0,
    })
}

fn peer_device(volume: u16, replication: ReplicationState, dependency: bool) -> Object {
    Object::PeerDevice(PeerDeviceObject {
        peer_node_id: PEER,
        conn_name: "bravo".to_owned(),
        volume: VolumeNumber(volume),
        replication,
        peer_disk: DiskState::UpToDate,
        peer_client: false,
        resync_suspended: ResyncSuspended { dependency, ..ResyncSuspended::default() },
        received: 0,
        sent: 0,
        out_of_sync: 0,
        pending: 0,
        unacked: 0,
        resync: None,
        last_resync: None,
    })
}

fn notification(kind: Kind, what: Object) -> Notification {
    Notification { kind, resource: "r1".to_owned(), what, group: 0 }
}

#[test]
fn a_volume_is_in_the_way_while_it_copies_compares_or_is_held() {
    let mut seen = Seen { minor: Minor(7), volume: None, has_disk: false, busy: BTreeSet::new() };
    seen.note(&notification(Kind::Exists, device(7, DiskState::UpToDate)));
    for (replication, held, busy) in [
        (ReplicationState::Established, false, false),
        (ReplicationState::WFBitMapS, false, false),
        (ReplicationState::SyncSource, false, true),
        (ReplicationState::VerifyT, false, true),
        (ReplicationState::PausedSyncT, true, true),
        (ReplicationState::Off, true, true),
        (ReplicationState::Ahead, false, false),
    ] {
        seen.note(&notification(Kind::Change, peer_device(3, replication, held)));
        assert_eq!(seen.is_busy(), busy, "{replication}");
    }
    seen.note(&notification(Kind::Change, peer_device(4, ReplicationState::SyncSource, false)));
    assert!(!seen.is_busy(), "another volume");
    seen.note(&notification(Kind::Change, peer_device(3, ReplicationState::SyncSource, false)));
    seen.note(&notification(Kind::Change, device(8, DiskState::Diskless)));
    assert!(seen.is_busy(), "another minor");
    seen.note(&notification(Kind::Change, device(7, DiskState::Diskless)));
    assert!(!seen.is_busy(), "without a disk it holds nothing");
}

/// A daemon that knows only its configuration.
async fn pretend(run_dir: Rc<RunDir>, configuration: Configuration) {
    let socket = run_dir.bind(&format!("{}.sock", configuration.resource)).expect("a fresh directory");
    let listener = UnixListener::from_std(socket).expect("a listener");
    for volume in &configuration.volumes {
        run_dir.claim(volume.minor, &configuration.resource).expect("nobody has it");
    }
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            let (read, mut write) = stream.into_split();
            let mut read = BufReader::new(read);
            let hello = DaemonHello { version: VERSION, daemon: "x".to_owned(), resource: "r1".to_owned() };
            let done = Done { configuration: Some(configuration.clone()), ..Done::default() };
            for answer in [DaemonLine::Hello { hello }, DaemonLine::Done { id: 1, done: Box::new(done) }] {
                read.read_line(&mut String::new()).await.expect("a line");
                let line = serde_json::to_string(&answer).expect("plain data") + "\n";
                write.write_all(line.as_bytes()).await.expect("it listens");
            }
        }
    });
}

fn at_once(body: impl std::future::Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, body);
}

fn watcher(run_dir: &Rc<RunDir>) -> (ResyncDependencies, ControlPlane) {
    let (data, control, _) = mailbox().expect("an eventfd");
    (ResyncDependencies::new(Rc::clone(run_dir), data), control)
}

#[test]
fn a_cycle_through_another_resource_is_found() {
    let path = directory("cycle");
    at_once(async {
        let run_dir = Rc::new(RunDir::open(&path).expect("a directory"));
        pretend(Rc::clone(&run_dir), configuration("r1", 20, &[Some(10), None])).await;
        pretend(Rc::clone(&run_dir), configuration("r2", 30, &[Some(11), Some(99)])).await;
        let (dependencies, _control) = watcher(&run_dir);
        let own = configuration("r0", 10, &[None, Some(10)]);
        let reason = |result: Result<(), Refusal>| result.map_err(|refusal| refusal.reason);
        let cycle = Err(Reason::ResyncAfterCycle);
        for (after, expected) in [
            (10, cycle),
            (20, cycle),
            (21, Ok(())),
            (30, cycle),
            // The chain ends where a minor is not there.
            (31, Ok(())),
            (99, Ok(())),
        ] {
            let result = dependencies.check(own.clone(), Minor(10), Minor(after)).await;
            assert_eq!(reason(result), expected, "after {after}");
        }
    });
    std::fs::remove_dir_all(path).expect("it was made");
}

#[test]
fn only_what_is_configured_is_watched() {
    let path = directory("watched");
    at_once(async {
        let run_dir = Rc::new(RunDir::open(&path).expect("a directory"));
        let (dependencies, control) = watcher(&run_dir);
        dependencies.follow(&configuration("r0", 10, &[Some(11), Some(20), Some(21), Some(20)]));
        let watched: Vec<Minor> = dependencies.watched.borrow().keys().copied().collect();
        assert_eq!(watched, [Minor(20), Minor(21)]);
        dependencies.follow(&configuration("r0", 10, &[None, Some(21)]));
        let watched: Vec<Minor> = dependencies.watched.borrow().keys().copied().collect();
        assert_eq!(watched, [Minor(21)]);
        let mut told = Vec::new();
        control.receive(&mut told);
        assert!(
            matches!(told[..], [ToData::ForeignResync { minor: Minor(20), busy: false }]),
            "what is not watched any longer holds nothing: {told:?}"
        );
    });
    std::fs::remove_dir_all(path).expect("it was made");
}

#[test]
fn what_is_under_way_is_seen_at_once() {
    let status = ResourceStatus {
        resource: ResourceObject {
            name: "r1".to_owned(),
            node_id: NodeId(0),
            role: Role::Secondary,
            suspended: Suspended::default(),
            force_io_failures: false,
            write_ordering: "flush".to_owned(),
            may_promote: false,
            promotion_score: 0,
            last_decision: String::new(),
        },
        devices: match device(7, DiskState::Inconsistent) {
            Object::Device(device) => vec![device],
            _ => Vec::new(),
        },
        connections: vec![drbd_core::control::ConnectionStatus {
            connection: ConnectionObject {
                peer_node_id: PEER,
                conn_name: "bravo".to_owned(),
                connection: ConnectionState::Connected,
                role: Role::Primary,
                tls: false,
                congested: false,
                ap_in_flight: 0,
                rs_in_flight: 0,
                last_error: String::new(),
            },
            paths: Vec::new(),
            peer_devices: match peer_device(3, ReplicationState::SyncTarget, false) {
                Object::PeerDevice(peer_device) => vec![peer_device],
                _ => Vec::new(),
            },
        }],
    };
    assert!(Seen::of(Minor(7), &status).is_busy());
    assert!(!Seen::of(Minor(8), &status).is_busy());
}
