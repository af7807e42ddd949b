//! The recorded scenarios as control objects.

use drbd_core::config::{OptionSet, OptionSpec};
use drbd_core::control::*;
use drbd_core::ids::{Minor, NodeId, VolumeNumber};
use drbd_core::states::{ConnectionState, DiskState, ReplicationState, ResyncSuspended, Role, Suspended};

pub(crate) fn resource(name: &str, node: u8, role: Role, promotion: (bool, u32)) -> ResourceObject {
    ResourceObject {
        name: name.to_owned(),
        node_id: NodeId(node),
        role,
        suspended: Suspended::default(),
        force_io_failures: false,
        write_ordering: "flush".to_owned(),
        may_promote: promotion.0,
        promotion_score: promotion.1,
        last_decision: String::new(),
    }
}

pub(crate) fn device(volume: u16, minor: u32, disk: DiskState, backing: &str, size: u64) -> DeviceObject {
    DeviceObject {
        volume: VolumeNumber(volume),
        minor: Minor(minor),
        backing_dev: backing.to_owned(),
        disk,
        client: false,
        open: false,
        quorum: true,
        size: Some(size),
        waiting_size: None,
        read: 617,
        written: 2839,
        al_writes: 9,
        bm_writes: 4,
        upper_pending: 1,
        lower_pending: 2,
        al_suspended: false,
        blocked: "no".to_owned(),
        al_replayed_extents: 0,
        al_replayed_kib: 0,
    }
}

pub(crate) fn connection(peer: u8, name: &str, state: ConnectionState, role: Role) -> ConnectionObject {
    ConnectionObject {
        peer_node_id: NodeId(peer),
        conn_name: name.to_owned(),
        connection: state,
        role,
        tls: false,
        congested: false,
        ap_in_flight: 0,
        rs_in_flight: 0,
        last_error: String::new(),
    }
}

pub(crate) fn peer_device(
    (peer, name): (u8, &str),
    volume: u16,
    (replication, peer_disk): (ReplicationState, DiskState),
    (received, sent, out_of_sync): (u64, u64, u64),
) -> PeerDeviceObject {
    PeerDeviceObject {
        peer_node_id: NodeId(peer),
        conn_name: name.to_owned(),
        volume: VolumeNumber(volume),
        replication,
        peer_disk,
        peer_client: false,
        resync_suspended: ResyncSuspended::default(),
        received,
        sent,
        out_of_sync,
        pending: 0,
        unacked: 0,
        resync: None,
        last_resync: None,
    }
}

pub(crate) fn path((peer, name): (u8, &str), local: &str, remote: &str, established: bool) -> PathObject {
    PathObject {
        peer_node_id: NodeId(peer),
        conn_name: name.to_owned(),
        local: local.to_owned(),
        peer: remote.to_owned(),
        established,
    }
}

pub(crate) fn running(total: u64, left: u64) -> ResyncObject {
    ResyncObject {
        total,
        left,
        failed: 0,
        same_csum: 0,
        elapsed_ms: 20_000,
        paused_ms: 0,
        rate: 40_960,
        want: 40_960,
        marks: Some([(3000, 245_760), (12_000, 983_040)]),
        verify: None,
    }
}

/// One volume, Connected, UpToDate/UpToDate.
pub(crate) fn two_node() -> ResourceStatus {
    let bravo = (1, "bravo");
    ResourceStatus {
        resource: resource("r0", 0, Role::Primary, (false, 10_102)),
        devices: vec![DeviceObject {
            open: true,
            ..device(0, 1, DiskState::UpToDate, "/dev/vg0/r0", 1_048_508)
        }],
        connections: vec![ConnectionStatus {
            connection: connection(1, "bravo", ConnectionState::Connected, Role::Secondary),
            paths: vec![path(bravo, "ipv4:10.0.0.1:7789", "ipv4:10.0.0.2:7789", true)],
            peer_devices: vec![peer_device(
                bravo,
                0,
                (ReplicationState::Established, DiskState::UpToDate),
                (10, 1_048_508, 0),
            )],
        }],
    }
}

/// The same while an online verify runs.
pub(crate) fn verify() -> ResourceStatus {
    let mut status = two_node();
    let peer = &mut status.connections[0].peer_devices[0];
    peer.replication = ReplicationState::VerifyS;
    peer.out_of_sync = 8;
    peer.pending = 3;
    peer.resync = Some(ResyncObject {
        verify: Some(VerifyObject { start_sector: 0, stop_sector: None, position: 1_048_508, skipped: 0 }),
        ..running(1_048_508, 524_254)
    });
    status
}

/// Two resources, three nodes, two volumes, a diskless client, SyncTarget, IPv6, two paths.
pub(crate) fn multi() -> Vec<ResourceStatus> {
    vec![data(), web()]
}

fn data() -> ResourceStatus {
    let (bravo, charlie) = ((1, "bravo"), (2, "charlie"));
    ResourceStatus {
        resource: resource("data", 0, Role::Secondary, (false, 0)),
        devices: vec![
            DeviceObject {
                quorum: false,
                blocked: "upper".to_owned(),
                ..device(0, 10, DiskState::Inconsistent, "/dev/vg0/data_0", 2_097_152)
            },
            DeviceObject {
                quorum: false,
                client: true,
                ..device(1, 11, DiskState::Diskless, "none", 1_048_576)
            },
        ],
        connections: vec![
            ConnectionStatus {
                connection: ConnectionObject {
                    tls: true,
                    congested: true,
                    rs_in_flight: 2048,
                    ..connection(1, "bravo", ConnectionState::Connected, Role::Primary)
                },
                paths: vec![
                    path(bravo, "ipv4:10.1.1.31:7000", "ipv4:10.1.1.32:7000", true),
                    path(bravo, "ipv4:10.2.1.31:7000", "ipv4:10.2.1.32:7000", false),
                ],
                peer_devices: vec![
                    PeerDeviceObject {
                        pending: 3,
                        resync: Some(running(2_097_152, 1_310_720)),
                        ..peer_device(
                            bravo,
                            0,
                            (ReplicationState::SyncTarget, DiskState::UpToDate),
                            (786_432, 0, 1_310_720),
                        )
                    },
                    peer_device(bravo, 1, (ReplicationState::Established, DiskState::UpToDate), (20, 0, 0)),
                ],
            },
            ConnectionStatus {
                connection: connection(2, "charlie", ConnectionState::Connecting, Role::Unknown),
                paths: vec![path(charlie, "ipv6:[fd00::1]:7000", "ipv6:[fd00::3]:7000", false)],
                peer_devices: vec![
                    peer_device(charlie, 0, (ReplicationState::Off, DiskState::Outdated), (0, 0, 512)),
                    PeerDeviceObject {
                        resync_suspended: ResyncSuspended { user: true, peer: false, dependency: true },
                        ..peer_device(charlie, 1, (ReplicationState::Off, DiskState::DUnknown), (0, 0, 0))
                    },
                ],
            },
        ],
    }
}

fn web() -> ResourceStatus {
    let alpha = (0, "alpha");
    ResourceStatus {
        resource: ResourceObject {
            suspended: Suspended { user: true, ..Suspended::default() },
            ..resource("web", 2, Role::Primary, (false, 10_101))
        },
        devices: vec![DeviceObject {
            open: true,
            blocked: "upper".to_owned(),
            ..device(0, 20, DiskState::UpToDate, "/dev/vg0/web", 102_400)
        }],
        connections: vec![ConnectionStatus {
            connection: connection(0, "alpha", ConnectionState::StandAlone, Role::Unknown),
            paths: vec![path(alpha, "ipv4:10.1.1.33:7010", "ipv4:10.1.1.31:7010", false)],
            peer_devices: vec![peer_device(
                alpha,
                0,
                (ReplicationState::Off, DiskState::DUnknown),
                (0, 0, 4),
            )],
        }],
    }
}

fn options(pairs: &[(&str, &str)]) -> OptionSet {
    let mut set = OptionSet::default();
    for (name, value) in pairs {
        set.set(OptionSpec::find(name).expect("a known option"), value).expect("a good value");
    }
    set
}

fn attached(
    volume: u16,
    minor: u32,
    disk: &str,
    (meta_disk, meta_index): (&str, &str),
) -> VolumeConfiguration {
    VolumeConfiguration {
        volume: VolumeNumber(volume),
        minor: Minor(minor),
        device_options: OptionSet::default(),
        disk: Some(DiskConfiguration {
            disk: disk.to_owned(),
            meta_disk: meta_disk.to_owned(),
            meta_index: meta_index.to_owned(),
            options: options(&[("md-flushes", "no"), ("rs-discard-granularity", "65536")]),
        }),
    }
}

fn configured(
    (peer, name): (u8, &str),
    paths: &[(&str, &str)],
    connection: ConnectionState,
    volumes: u16,
) -> ConnectionConfiguration {
    ConnectionConfiguration {
        peer: NodeId(peer),
        paths: paths.iter().map(|(l, r)| ((*l).to_owned(), (*r).to_owned())).collect(),
        connection,
        options: options(&[
            ("transport", "tcp"),
            ("rr-conflict", "retry-connect"),
            ("verify-alg", "crc32c"),
            ("_name", name),
        ]),
        volumes: (0..volumes).map(|v| (VolumeNumber(v), options(&[("c-max-rate", "204800")]))).collect(),
    }
}

pub(crate) fn two_node_configuration() -> Configuration {
    Configuration {
        resource: "r0".to_owned(),
        node_id: NodeId(0),
        options: OptionSet::default(),
        volumes: vec![attached(0, 1, "/dev/vg0/r0", ("/dev/vg0/r0", "internal"))],
        connections: vec![configured(
            (1, "bravo"),
            &[("ipv4:10.0.0.1:7789", "ipv4:10.0.0.2:7789")],
            ConnectionState::Connected,
            1,
        )],
    }
}

pub(crate) fn multi_configuration() -> Vec<Configuration> {
    let bravo = configured(
        (1, "bravo"),
        &[("ipv4:10.1.1.31:7000", "ipv4:10.1.1.32:7000"), ("ipv4:10.2.1.31:7000", "ipv4:10.2.1.32:7000")],
        ConnectionState::Connected,
        2,
    );
    let charlie = configured(
        (2, "charlie"),
        &[("ipv6:[fd00::1]:7000", "ipv6:[fd00::3]:7000")],
        ConnectionState::Connecting,
        2,
    );
    let mut alpha = configured(
        (0, "alpha"),
        &[("ipv4:10.1.1.33:7010", "ipv4:10.1.1.31:7010")],
        ConnectionState::StandAlone,
        1,
    );
    let tls = options(&[("tls", "yes")]);
    let mut bravo = bravo;
    bravo.options.merge(&tls, false);
    alpha.options.merge(&options(&[("protocol", "A")]), false);
    vec![
        Configuration {
            resource: "data".to_owned(),
            node_id: NodeId(0),
            options: options(&[("quorum", "majority"), ("on-no-quorum", "io-error")]),
            volumes: vec![
                attached(0, 10, "/dev/vg0/data_0", ("/dev/vg0/data_0", "internal")),
                VolumeConfiguration {
                    volume: VolumeNumber(1),
                    minor: Minor(11),
                    device_options: options(&[("diskless", "yes")]),
                    disk: None,
                },
            ],
            connections: vec![bravo, charlie],
        },
        Configuration {
            resource: "web".to_owned(),
            node_id: NodeId(2),
            options: OptionSet::default(),
            volumes: vec![attached(0, 20, "/dev/vg0/web", ("/dev/vg0/md", "2"))],
            connections: vec![alpha],
        },
    ]
}
