//! What subscribers are told: every object whose visible state changed, in DRBD's order.

use super::command::Command;
use super::resource::Resource;
use crate::control::{
    ConnectionObject, DeviceObject, HelperObject, Kind, Notification, Object, PathObject, PeerDeviceObject,
    ResourceObject, ResourceStatus,
};

/// The objects as last told; `None` before the first time.
#[derive(Debug, Default)]
pub(super) struct Told {
    last: Option<Box<ResourceStatus>>,
}

impl Resource {
    /// Tells subscribers what changed since the last time.
    pub(super) fn notify_changes(&mut self, out: &mut Vec<Command>) {
        let now = self.status();
        let mut changes = Vec::new();
        match self.told.last.as_deref() {
            None => created(&now, &mut changes),
            Some(before) => changed(before, &now, &mut changes),
        }
        if changes.is_empty() {
            return;
        }
        self.notification_group += 1;
        for (kind, what) in changes {
            let resource = self.name.clone();
            let group = self.notification_group;
            out.push(Command::Notify(Box::new(Notification { kind, resource, what, group })));
        }
        self.told.last = Some(Box::new(now));
    }

    /// A handler begins or ended.
    pub(super) fn notify_helper(&mut self, kind: Kind, helper: HelperObject, out: &mut Vec<Command>) {
        self.notification_group += 1;
        out.push(Command::Notify(Box::new(Notification {
            kind,
            resource: self.name.clone(),
            what: Object::Helper(helper),
            group: self.notification_group,
        })));
    }
}

type Changes = Vec<(Kind, Object)>;

fn created(now: &ResourceStatus, changes: &mut Changes) {
    changes.push((Kind::Create, Object::Resource(now.resource.clone())));
    let devices = now.devices.iter().map(|d| Object::Device(d.clone()));
    changes.extend(devices.map(|o| (Kind::Create, o)));
    for connection in &now.connections {
        changes.push((Kind::Create, Object::Connection(connection.connection.clone())));
        let peer_devices = connection.peer_devices.iter().map(|p| Object::PeerDevice(p.clone()));
        let paths = connection.paths.iter().map(|p| Object::Path(p.clone()));
        changes.extend(peer_devices.chain(paths).map(|o| (Kind::Create, o)));
    }
}

fn changed(before: &ResourceStatus, now: &ResourceStatus, changes: &mut Changes) {
    gone(before, now, changes);
    if resource_key(&before.resource) != resource_key(&now.resource) {
        changes.push((Kind::Change, Object::Resource(now.resource.clone())));
    }
    for device in &now.devices {
        let old = before.devices.iter().find(|d| d.volume == device.volume);
        note(old.map(device_key), &device_key(device), || Object::Device(device.clone()), changes);
    }
    for connection in &now.connections {
        let key = connection.connection.peer_node_id;
        let old = before.connections.iter().find(|c| c.connection.peer_node_id == key);
        let old_connection = old.map(|c| connection_key(&c.connection));
        let object = || Object::Connection(connection.connection.clone());
        note(old_connection, &connection_key(&connection.connection), object, changes);
        for peer_device in &connection.peer_devices {
            let old = old.and_then(|c| c.peer_devices.iter().find(|p| p.volume == peer_device.volume));
            let object = || Object::PeerDevice(peer_device.clone());
            note(old.map(peer_device_key), &peer_device_key(peer_device), object, changes);
        }
        for path in &connection.paths {
            let old =
                old.and_then(|c| c.paths.iter().find(|p| (&p.local, &p.peer) == (&path.local, &path.peer)));
            note(old.map(path_key), &path_key(path), || Object::Path(path.clone()), changes);
        }
    }
}

fn note<K: PartialEq>(old: Option<K>, new: &K, object: impl FnOnce() -> Object, changes: &mut Changes) {
    match old {
        None => changes.push((Kind::Create, object())),
        Some(old) if old != *new => changes.push((Kind::Change, object())),
        Some(_) => {}
    }
}

/// Paths first, then peer devices, connections, devices.
fn gone(before: &ResourceStatus, now: &ResourceStatus, changes: &mut Changes) {
    for connection in &before.connections {
        let key = connection.connection.peer_node_id;
        let new = now.connections.iter().find(|c| c.connection.peer_node_id == key);
        for path in &connection.paths {
            let stays =
                new.is_some_and(|c| c.paths.iter().any(|p| (&p.local, &p.peer) == (&path.local, &path.peer)));
            if !stays {
                changes.push((Kind::Destroy, Object::Path(path.clone())));
            }
        }
        for peer_device in &connection.peer_devices {
            let stays = new.is_some_and(|c| c.peer_devices.iter().any(|p| p.volume == peer_device.volume));
            if !stays {
                changes.push((Kind::Destroy, Object::PeerDevice(peer_device.clone())));
            }
        }
        if new.is_none() {
            changes.push((Kind::Destroy, Object::Connection(connection.connection.clone())));
        }
    }
    for device in &before.devices {
        if !now.devices.iter().any(|d| d.volume == device.volume) {
            changes.push((Kind::Destroy, Object::Device(device.clone())));
        }
    }
}

// What makes an object worth telling about again; counters are only read.

fn resource_key(r: &ResourceObject) -> impl PartialEq {
    (r.role, r.suspended, r.force_io_failures, r.may_promote, r.promotion_score)
}

fn device_key(d: &DeviceObject) -> impl PartialEq {
    (d.disk, d.backing_dev.clone(), d.client, d.open, d.quorum, d.size)
}

fn connection_key(c: &ConnectionObject) -> impl PartialEq {
    (c.connection, c.role, c.last_error.clone())
}

fn peer_device_key(p: &PeerDeviceObject) -> impl PartialEq {
    (p.replication, p.peer_disk, p.peer_client, p.resync_suspended)
}

fn path_key(p: &PathObject) -> impl PartialEq {
    p.established
}
