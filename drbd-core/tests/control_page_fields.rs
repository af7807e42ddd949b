//! Every member that a daemon can send is in an example of the control protocol's page. The values below name every
//! field of every type, so that a new one does not compile until it is here, and fails until it is on the page.

use drbd_core::config::OptionSet;
use drbd_core::control::{
    Configuration, ConnectionConfiguration, ConnectionObject, ConnectionStatus, DaemonHello, DaemonLine,
    DeviceObject, DiskConfiguration, Done, FinishedResync, GenerationStatus, HelperObject, Kind,
    Notification, Object, PathObject, PeerDeviceObject, RefusedReply, ResourceObject, ResourceStatus,
    ResyncObject, VerifyObject, VolumeConfiguration,
};
use drbd_core::ids::{Minor, NodeId, VolumeNumber};
use drbd_core::states::{ConnectionState, DiskState, ReplicationState, ResyncSuspended, Role, Suspended};
use serde_json::Value;
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../docs/control.md");

fn resource() -> ResourceObject {
    ResourceObject {
        name: "r0".into(),
        node_id: NodeId(0),
        role: Role::Primary,
        suspended: Suspended { user: false, no_data: false, fencing: false, quorum: false },
        force_io_failures: false,
        write_ordering: "flush".into(),
        may_promote: false,
        promotion_score: 10_102,
        last_decision: "a sentence".into(),
    }
}

fn device() -> DeviceObject {
    DeviceObject {
        volume: VolumeNumber(0),
        minor: Minor(1),
        backing_dev: "/dev/vg0/r0".into(),
        disk: DiskState::UpToDate,
        client: false,
        open: true,
        quorum: true,
        size: Some(1_048_508),
        read: 617,
        written: 2839,
        waiting_size: None,
        al_writes: 9,
        bm_writes: 4,
        upper_pending: 1,
        lower_pending: 2,
        al_suspended: false,
        blocked: "no".into(),
        al_replayed_extents: 0,
        al_replayed_kib: 0,
    }
}

fn connection() -> ConnectionObject {
    ConnectionObject {
        peer_node_id: NodeId(1),
        conn_name: "bravo".into(),
        connection: ConnectionState::Connected,
        role: Role::Secondary,
        tls: false,
        congested: false,
        ap_in_flight: 0,
        rs_in_flight: 0,
        last_error: String::new(),
    }
}

fn peer_device() -> PeerDeviceObject {
    PeerDeviceObject {
        peer_node_id: NodeId(1),
        conn_name: "bravo".into(),
        volume: VolumeNumber(0),
        replication: ReplicationState::VerifyS,
        peer_disk: DiskState::UpToDate,
        peer_client: false,
        resync_suspended: ResyncSuspended { user: false, peer: false, dependency: false },
        received: 0,
        sent: 512,
        out_of_sync: 0,
        pending: 3,
        unacked: 0,
        resync: Some(ResyncObject {
            total: 1024,
            left: 512,
            failed: 0,
            same_csum: 0,
            elapsed_ms: 20,
            paused_ms: 0,
            rate: 25_600,
            want: 0,
            marks: Some([(3000, 150_000), (24_000, 1_200_000)]),
            verify: Some(VerifyObject { start_sector: 0, stop_sector: None, position: 1024, skipped: 0 }),
        }),
        last_resync: Some(FinishedResync { copied: 1024, elapsed_ms: 40, failed: 0, as_source: true }),
    }
}

fn path() -> PathObject {
    PathObject {
        peer_node_id: NodeId(1),
        conn_name: "bravo".into(),
        local: "ipv4:10.0.0.1:7789".into(),
        peer: "ipv4:10.0.0.2:7789".into(),
        established: true,
    }
}

fn configuration() -> Configuration {
    let options = OptionSet::default;
    let disk = DiskConfiguration {
        disk: "/dev/vg0/r0".into(),
        meta_disk: "/dev/vg0/r0".into(),
        meta_index: "internal".into(),
        options: options(),
    };
    Configuration {
        resource: "r0".into(),
        node_id: NodeId(0),
        options: options(),
        volumes: vec![VolumeConfiguration {
            volume: VolumeNumber(0),
            minor: Minor(1),
            device_options: options(),
            disk: Some(disk),
        }],
        connections: vec![ConnectionConfiguration {
            peer: NodeId(1),
            paths: vec![("ipv4:10.0.0.1:7789".into(), "ipv4:10.0.0.2:7789".into())],
            connection: ConnectionState::Connected,
            options: options(),
            volumes: vec![(VolumeNumber(0), options())],
        }],
    }
}

fn done() -> Done {
    let generation =
        GenerationStatus { current: 9, bitmap: 0, history: [7, 5], flags: [true; 7], peer_flags: [true; 5] };
    let connections = vec![ConnectionStatus {
        connection: connection(),
        paths: vec![path()],
        peer_devices: vec![peer_device()],
    }];
    Done {
        changed: false,
        info: vec!["a remark".into()],
        status: Some(ResourceStatus { resource: resource(), devices: vec![device()], connections }),
        configuration: Some(configuration()),
        generation: Some(generation),
    }
}

fn objects() -> Vec<Object> {
    let peer = Some((NodeId(1), "bravo".to_owned()));
    let device_name = Some((VolumeNumber(0), Minor(1)));
    let helper = HelperObject { helper: "fence-peer".into(), peer, device: device_name, status: Some(4) };
    let all = vec![
        Object::Resource(resource()),
        Object::Device(device()),
        Object::Connection(connection()),
        Object::PeerDevice(peer_device()),
        Object::Path(path()),
        Object::Helper(helper),
        Object::End,
    ];
    for object in &all {
        // One more kind of object does not compile here; it belongs above as well.
        match object {
            Object::Resource(_)
            | Object::Device(_)
            | Object::Connection(_)
            | Object::PeerDevice(_)
            | Object::Path(_)
            | Object::Helper(_)
            | Object::End => {}
        }
    }
    all
}

fn lines() -> Vec<DaemonLine> {
    let hello = DaemonHello { version: 1, daemon: "udrbd".into(), resource: "r0".into() };
    let refused =
        RefusedReply { code: "NoUpToDateDisk".into(), number: -2, text: "t".into(), info: "i".into() };
    let notification = |what| {
        let notification = Notification { kind: Kind::Exists, resource: "r0".into(), what, group: 0 };
        DaemonLine::Notification { notification: Box::new(notification) }
    };
    let mut lines = vec![
        DaemonLine::Hello { hello },
        DaemonLine::Done { id: 1, done: Box::new(done()) },
        DaemonLine::Refused { id: 1, refused },
    ];
    lines.extend(objects().into_iter().map(notification));
    lines
}

/// The members of a value, with the way to them. An object of a notification is known by its name.
fn members(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            let name = map.get("object").and_then(Value::as_str).unwrap_or_default();
            for (key, value) in map {
                let at = format!("{at}{name}/{key}");
                members(value, &at, into);
                into.insert(at);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, &format!("{at}[]"), into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_member_is_in_an_example() {
    let mut shown = BTreeSet::new();
    for example in PAGE.lines().filter_map(|line| line.strip_prefix("< ")) {
        members(&serde_json::from_str(example).expect("JSON"), "", &mut shown);
    }
    for line in lines() {
        let mut wanted = BTreeSet::new();
        let value = serde_json::to_value(&line).expect("it is JSON");
        members(&value, "", &mut wanted);
        let missing: Vec<_> = wanted.difference(&shown).collect();
        assert!(missing.is_empty(), "no example of docs/control.md has {missing:?}; for instance\n< {value}");
        let again: DaemonLine = serde_json::from_value(value).expect("what is written can be read");
        assert_eq!(again, line);
    }
}

#[test]
fn every_kind_is_on_the_page() {
    let kinds =
        [Kind::Exists, Kind::Create, Kind::Change, Kind::Destroy, Kind::Call, Kind::Response, Kind::Rename];
    for kind in kinds {
        // One more kind does not compile here; it belongs above as well.
        match kind {
            Kind::Exists | Kind::Create | Kind::Change | Kind::Destroy => {}
            Kind::Call | Kind::Response | Kind::Rename => {}
        }
        let word = serde_json::to_value(kind).expect("a word");
        let word = word.as_str().expect("a word");
        assert!(PAGE.contains(&format!("`{word}`")), "{word}");
    }
}
