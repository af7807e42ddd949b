//! The recorded history of changes, replayed as notifications: demote (or promote), suspend, connection loss, fence handler,
//! resync, rename, teardown, creation of a new resource.

use crate::recorded::{assert_same, recorded};
use crate::scenarios::{connection, device, multi, path, peer_device, resource, running, two_node};
use drbd_core::control::*;
use drbd_core::ids::{Minor, NodeId, VolumeNumber};
use drbd_core::states::{ConnectionState, DiskState, ReplicationState, Role, Suspended};
use drbdsetup::events2::{Known, Style};

/// What differs between the recordings: promotion keys are only told where they change.
struct History {
    resource: ResourceObject,
    device: DeviceObject,
    connection: ConnectionObject,
    peer_device: PeerDeviceObject,
    path: PathObject,
    /// `(may_promote, promotion_score)` after each step that changes them.
    promotions: Option<[(bool, u32); 5]>,
    told: Vec<Notification>,
}

const BRAVO: (u8, &str) = (1, "bravo");

impl History {
    fn of(status: &ResourceStatus, promotions: Option<[(bool, u32); 5]>) -> History {
        let first = &status.connections[0];
        History {
            resource: status.resource.clone(),
            device: status.devices[0].clone(),
            connection: first.connection.clone(),
            peer_device: first.peer_devices[0].clone(),
            path: first.paths[0].clone(),
            promotions,
            told: Vec::new(),
        }
    }

    fn tell(&mut self, kind: Kind, what: Object) {
        let resource = self.resource.name.clone();
        self.told.push(Notification { kind, resource, what, group: 0 });
    }

    fn resource(&mut self) {
        self.tell(Kind::Change, Object::Resource(self.resource.clone()));
    }

    fn promotion(&mut self, step: usize) {
        if let Some(promotions) = self.promotions {
            (self.resource.may_promote, self.resource.promotion_score) = promotions[step];
            self.resource();
        }
    }

    fn connection(&mut self, state: ConnectionState, role: Role) {
        self.connection.connection = state;
        self.connection.role = role;
        self.tell(Kind::Change, Object::Connection(self.connection.clone()));
    }

    fn replication(&mut self, state: ReplicationState, disk: DiskState, resync: Option<(u64, u64)>) {
        self.peer_device.replication = state;
        self.peer_device.peer_disk = disk;
        self.peer_device.resync = resync.map(|(total, left)| running(total, left));
        self.peer_device.out_of_sync = resync.map_or(0, |(_, left)| left);
        self.peer_device.pending = if resync.is_some() { 3 } else { 0 };
        self.tell(Kind::Change, Object::PeerDevice(self.peer_device.clone()));
    }

    fn helper(&mut self, kind: Kind, helper: &str, with_device: bool, status: Option<i32>) {
        let device = with_device.then_some((self.device.volume, self.device.minor));
        let peer = Some((NodeId(BRAVO.0), BRAVO.1.to_owned()));
        self.tell(kind, Object::Helper(HelperObject { helper: helper.to_owned(), peer, device, status }));
    }

    fn run(mut self) -> Vec<Notification> {
        self.role_and_suspension();
        self.loss_and_resync();
        self.teardown();
        self.creation();
        self.told
    }

    fn role_and_suspension(&mut self) {
        self.resource.role = match self.resource.role {
            Role::Primary => Role::Secondary,
            Role::Secondary | Role::Unknown => Role::Primary,
        };
        if let Some(promotions) = self.promotions {
            (self.resource.may_promote, self.resource.promotion_score) = promotions[0];
        }
        self.resource();
        self.resource.suspended = Suspended { user: true, ..Suspended::default() };
        self.resource();
        self.resource.suspended = Suspended::default();
        self.resource();
        self.device.open = !self.device.open;
        self.tell(Kind::Change, Object::Device(self.device.clone()));
    }

    fn loss_and_resync(&mut self) {
        self.promotion(1);
        self.connection(ConnectionState::NetworkFailure, Role::Unknown);
        self.replication_lost();
        self.path.established = false;
        self.tell(Kind::Change, Object::Path(self.path.clone()));
        self.connection(ConnectionState::Unconnected, Role::Unknown);
        self.connection(ConnectionState::Connecting, Role::Unknown);
        self.helper(Kind::Call, "fence-peer", false, None);
        self.helper(Kind::Response, "fence-peer", false, Some(5));
        self.helper(Kind::Call, "before-resync-source", true, None);
        self.connection(ConnectionState::Connected, Role::Secondary);
        self.replication(ReplicationState::SyncSource, DiskState::Inconsistent, Some((2048, 1024)));
        self.replication(ReplicationState::SyncSource, DiskState::Inconsistent, Some((2048, 512)));
        self.promotion(2);
        self.replication(ReplicationState::Established, DiskState::UpToDate, None);
    }

    /// Counters stay as they were when the connection goes.
    fn replication_lost(&mut self) {
        self.peer_device.replication = ReplicationState::Off;
        self.peer_device.peer_disk = DiskState::DUnknown;
        self.tell(Kind::Change, Object::PeerDevice(self.peer_device.clone()));
    }

    fn teardown(&mut self) {
        let mut renamed = self.resource.clone();
        renamed.name = "renamed".to_owned();
        self.tell(Kind::Rename, Object::Resource(renamed.clone()));
        self.resource = renamed;
        self.tell(Kind::Destroy, Object::Path(self.path.clone()));
        self.promotion(3);
        self.tell(Kind::Destroy, Object::Connection(self.connection.clone()));
        self.promotion(4);
        self.tell(Kind::Destroy, Object::Device(self.device.clone()));
        self.tell(Kind::Destroy, Object::Resource(self.resource.clone()));
    }

    fn creation(&mut self) {
        self.resource = resource("new", 0, Role::Secondary, (false, 0));
        self.tell(Kind::Create, Object::Resource(self.resource.clone()));
        // The recording made the new device from the old one's counters.
        let blocked = self.device.blocked.clone();
        self.device = DeviceObject { blocked, ..device(0, 30, DiskState::Diskless, "none", 0) };
        self.tell(Kind::Create, Object::Device(self.device.clone()));
        let made = connection(BRAVO.0, BRAVO.1, ConnectionState::StandAlone, Role::Unknown);
        self.tell(Kind::Create, Object::Connection(made));
        let unknown = (ReplicationState::Off, DiskState::DUnknown);
        self.tell(Kind::Create, Object::PeerDevice(peer_device(BRAVO, 0, unknown, (0, 0, 0))));
        let made = path(BRAVO, "ipv4:10.0.0.1:7790", "ipv4:10.0.0.2:7790", false);
        self.tell(Kind::Create, Object::Path(made));
        self.device.backing_dev = "/dev/vg0/new".to_owned();
        self.device.disk = DiskState::Attaching;
        self.tell(Kind::Change, Object::Device(self.device.clone()));
        (self.resource.may_promote, self.resource.promotion_score) = (true, 10_101);
        self.resource();
        self.device.disk = DiskState::UpToDate;
        self.device.size = Some(1_048_508);
        self.tell(Kind::Change, Object::Device(self.device.clone()));
    }
}

fn replay(resources: &[ResourceStatus], history: &[Notification], style: Style) -> String {
    let mut known = Known::default();
    let end = Notification { kind: Kind::Exists, resource: String::new(), what: Object::End, group: 0 };
    let dump: Vec<Notification> = resources.iter().rev().flat_map(ResourceStatus::dump).collect();
    let all = dump.iter().chain([&end]).chain(history);
    all.filter_map(|n| known.line(n, style)).map(|line| line + "\n").collect()
}

#[test]
fn events2_changes() {
    let two_node_promotions = [(true, 10_102), (true, 10_101), (true, 10_102), (true, 10_101), (false, 0)];
    let scenarios = [("two-node", vec![two_node()], Some(two_node_promotions)), ("multi", multi(), None)];
    for (scenario, resources, promotions) in scenarios {
        let history = History::of(&resources[0], promotions).run();
        for (option, style) in styles() {
            let command = format!("events2 --now{option}");
            let wanted = recorded(&format!("events2-changes.{scenario}.txt"), &command);
            assert_same(&format!("{scenario}: {command}"), &replay(&resources, &history, style), &wanted);
        }
    }
}

fn styles() -> [(&'static str, Style); 4] {
    let plain = Style::default();
    [
        ("", plain),
        (" --statistics", Style { statistics: true, ..plain }),
        (" --full", Style { full: true, ..plain }),
        (" --diff", Style { diff: true, ..plain }),
    ]
}

#[test]
fn a_daemon_that_dies_has_destroyed_everything() {
    let mut known = Known::default();
    for notification in two_node().dump() {
        known.line(&notification, Style::default());
    }
    let lines: Vec<String> =
        known.gone("r0").iter().filter_map(|n| known.line(n, Style::default())).collect();
    assert_eq!(
        lines,
        [
            "destroy path name:r0 peer-node-id:1 conn-name:bravo local:ipv4:10.0.0.1:7789 peer:ipv4:10.0.0.2:7789",
            "destroy peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0",
            "destroy connection name:r0 peer-node-id:1 conn-name:bravo",
            "destroy device name:r0 volume:0",
            "destroy resource name:r0",
        ]
    );
    assert!(known.gone("r0").is_empty());
}

#[test]
fn an_unchanged_object_makes_no_line() {
    let mut known = Known::default();
    let dump = two_node().dump();
    for notification in &dump {
        assert!(known.line(notification, Style::default()).is_some());
    }
    let mut volume = device(0, 1, DiskState::UpToDate, "/dev/vg0/r0", 1_048_508);
    (volume.open, volume.volume, volume.minor) = (true, VolumeNumber(0), Minor(1));
    volume.read += 1;
    let counted = Notification {
        kind: Kind::Change,
        resource: "r0".to_owned(),
        what: Object::Device(volume),
        group: 1,
    };
    assert_eq!(known.clone().line(&counted, Style::default()), None, "counters are not shown");
    let style = Style { statistics: true, ..Style::default() };
    assert!(known.line(&counted, style).is_some_and(|line| line.contains(" read:618 ")));
}
