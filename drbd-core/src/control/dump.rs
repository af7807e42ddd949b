//! Everything that exists, as the notifications that begin a subscription.

use super::{Kind, Notification, Object, ResourceStatus};

impl ResourceStatus {
    /// One notification per object in the order of `events2`: the resource, its connections, its devices, then per
    /// connection its peer devices and paths; of each kind the newest first. The end marker is not among them.
    pub fn dump(&self) -> Vec<Notification> {
        let mut objects = vec![Object::Resource(self.resource.clone())];
        objects.extend(self.connections.iter().rev().map(|c| Object::Connection(c.connection.clone())));
        objects.extend(self.devices.iter().rev().cloned().map(Object::Device));
        for connection in self.connections.iter().rev() {
            objects.extend(connection.peer_devices.iter().rev().cloned().map(Object::PeerDevice));
            objects.extend(connection.paths.iter().rev().cloned().map(Object::Path));
        }
        let resource = &self.resource.name;
        let exists = |what| Notification { kind: Kind::Exists, resource: resource.clone(), what, group: 0 };
        objects.into_iter().map(exists).collect()
    }
}
