//! Lines of `events2`: one notification and what was known before make one line, or none if nothing shown changed.

use crate::colour::Paint;
use crate::rates::Progress;
use crate::status::yes;
use drbd_core::control::{
    ConnectionObject, DeviceObject, HelperObject, Kind, Notification, Object, PathObject, PeerDeviceObject,
    ResourceObject,
};
use drbd_core::ids::{NodeId, VolumeNumber};
use std::collections::BTreeMap;

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Style {
    /// With counters.
    pub statistics: bool,
    /// Every value in every line.
    pub full: bool,
    /// Values as `OLD->NEW`.
    pub diff: bool,
    /// With colours.
    pub colour: bool,
}

/// What identifies an object within a resource; the order is that of a teardown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Path(NodeId, String, String),
    PeerDevice(NodeId, VolumeNumber),
    Connection(NodeId),
    Device(VolumeNumber),
    Resource,
}

/// Everything that exists, as last heard.
#[derive(Clone, Debug, Default)]
pub struct Known {
    objects: BTreeMap<(String, Key), Object>,
}

/// A value of a line.
struct Field {
    key: &'static str,
    value: String,
    /// Fields of a group are shown together.
    group: Group,
    arrow: Arrow,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Only,
    Place,
    Promotion,
    Counters,
    /// Not even `--full` repeats it unchanged.
    Edge,
}

/// Shown with `--statistics` only, although they are told alone when they change.
const ALONE_BUT_COUNTED: [&str; 2] = ["write-ordering", "al-suspended"];

/// How `--diff` shows a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrow {
    /// As `OLD->NEW` whenever its group is shown.
    Always,
    /// As `OLD->NEW` only if it changed.
    IfChanged,
    /// The same, and not at all in a first line.
    NotAtFirst,
    /// Never.
    Never,
}

impl Known {
    /// The line for a notification; `None` if it shows nothing new.
    pub fn line(&mut self, notification: &Notification, style: Style) -> Option<String> {
        let name = &notification.resource;
        let what = &notification.what;
        let verb = verb(notification.kind);
        let Some(key) = key(what) else {
            return match what {
                Object::Helper(helper) => Some(format!("{verb} helper name:{name}{}", helper_fields(helper))),
                _ => Some(format!("{verb} -")),
            };
        };
        let head = format!("{verb} {}{}", object_word(what), identity(name, what));
        match notification.kind {
            Kind::Destroy => {
                self.objects.remove(&(name.clone(), key));
                Some(head)
            }
            Kind::Rename => Some(self.rename(name, what, &head)),
            Kind::Exists | Kind::Create | Kind::Call | Kind::Response => {
                self.objects.insert((name.clone(), key), what.clone());
                Some(head + &first_fields(what, style))
            }
            Kind::Change => {
                let before = self.objects.insert((name.clone(), key), what.clone());
                let Some(before) = before else { return Some(head + &first_fields(what, style)) };
                let fields = changed_fields(&before, what, style);
                (!fields.is_empty()).then(|| head + &fields)
            }
        }
    }

    fn rename(&mut self, old: &str, what: &Object, head: &str) -> String {
        let Object::Resource(ResourceObject { name: new, .. }) = what else { return head.to_owned() };
        let moved: Vec<(String, Key)> =
            self.objects.keys().filter(|(name, _)| name == old).cloned().collect();
        for place in moved {
            if let Some(object) = self.objects.remove(&place) {
                self.objects.insert((new.clone(), place.1), object);
            }
        }
        format!("{head} new_name:{new}")
    }

    /// What is to be told when the daemon of a resource is gone without a word: everything destroyed, in the order of a teardown.
    pub fn gone(&self, resource: &str) -> Vec<Notification> {
        let all = self.objects.iter().filter(|((name, _), _)| name == resource);
        all.map(|(_, object)| Notification {
            kind: Kind::Destroy,
            resource: resource.to_owned(),
            what: object.clone(),
            group: 0,
        })
        .collect()
    }
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Exists => "exists",
        Kind::Create => "create",
        Kind::Change => "change",
        Kind::Destroy => "destroy",
        Kind::Call => "call",
        Kind::Response => "response",
        Kind::Rename => "rename",
    }
}

fn key(what: &Object) -> Option<Key> {
    Some(match what {
        Object::Resource(_) => Key::Resource,
        Object::Device(d) => Key::Device(d.volume),
        Object::Connection(c) => Key::Connection(c.peer_node_id),
        Object::PeerDevice(p) => Key::PeerDevice(p.peer_node_id, p.volume),
        Object::Path(p) => Key::Path(p.peer_node_id, p.local.clone(), p.peer.clone()),
        Object::Helper(_) | Object::End => return None,
    })
}

fn object_word(what: &Object) -> &'static str {
    match what {
        Object::Resource(_) => "resource",
        Object::Device(_) => "device",
        Object::Connection(_) => "connection",
        Object::PeerDevice(_) => "peer-device",
        Object::Path(_) => "path",
        Object::Helper(_) => "helper",
        Object::End => "-",
    }
}

fn identity(name: &str, what: &Object) -> String {
    let peer = |id: &NodeId, conn: &str| format!(" name:{name} peer-node-id:{id} conn-name:{conn}");
    match what {
        Object::Resource(_) | Object::Helper(_) | Object::End => format!(" name:{name}"),
        Object::Device(d) => format!(" name:{name} volume:{}", d.volume),
        Object::Connection(c) => peer(&c.peer_node_id, &c.conn_name),
        Object::PeerDevice(p) => {
            format!("{} volume:{}", peer(&p.peer_node_id, &p.conn_name), p.volume)
        }
        Object::Path(p) => {
            format!("{} local:{} peer:{}", peer(&p.peer_node_id, &p.conn_name), p.local, p.peer)
        }
    }
}

fn helper_fields(helper: &HelperObject) -> String {
    let mut fields = String::new();
    if let Some((id, name)) = &helper.peer {
        fields.push_str(&format!(" peer-node-id:{id} conn-name:{name}"));
    }
    if let Some((volume, minor)) = &helper.device {
        fields.push_str(&format!(" volume:{volume} minor:{minor}"));
    }
    fields.push_str(&format!(" helper:{}", helper.helper));
    if let Some(status) = helper.status {
        fields.push_str(&format!(" status:{status}"));
    }
    fields
}

fn first_fields(what: &Object, style: Style) -> String {
    let mut text = String::new();
    for field in fields(what, style) {
        if !style.diff || field.arrow == Arrow::Never {
            text.push_str(&format!(" {}:{}", field.key, field.value));
        } else if field.arrow != Arrow::NotAtFirst {
            let nothing = if field.key == "promotion_score" { "0" } else { "UNKNOWN" };
            text.push_str(&format!(" {}:{nothing}->{}", field.key, field.value));
        }
    }
    text
}

fn changed_fields(before: &Object, after: &Object, style: Style) -> String {
    let (old, new) = (fields(before, style), fields(after, style));
    let old_value = |key: &str| old.iter().find(|f| f.key == key).map(|f| f.value.as_str());
    let changed = |field: &Field| old_value(field.key) != Some(field.value.as_str());
    let shown = |field: &Field| match field.group {
        _ if style.full && field.group != Group::Edge => true,
        Group::Only | Group::Edge => changed(field),
        group => new.iter().any(|f| f.group == group && changed(f)),
    };
    let mut text = String::new();
    for field in new.iter().filter(|f| shown(f)) {
        let arrow = style.diff
            && match field.arrow {
                Arrow::Always => true,
                Arrow::IfChanged | Arrow::NotAtFirst => changed(field),
                Arrow::Never => false,
            };
        match old_value(field.key).filter(|_| arrow) {
            Some(old) => text.push_str(&format!(" {}:{old}->{}", field.key, field.value)),
            None => text.push_str(&format!(" {}:{}", field.key, field.value)),
        }
    }
    text
}

fn fields(what: &Object, style: Style) -> Vec<Field> {
    let with_counters = style.statistics || style.full;
    let all = match what {
        Object::Resource(resource) => resource_fields(resource, style),
        Object::Device(device) => device_fields(device, style),
        Object::Connection(connection) => connection_fields(connection, style),
        Object::PeerDevice(peer) => peer_device_fields(peer, style),
        Object::Path(path) => path_fields(path),
        Object::Helper(_) | Object::End => Vec::new(),
    };
    let is_counter =
        |f: &Field| matches!(f.group, Group::Counters | Group::Edge) || ALONE_BUT_COUNTED.contains(&f.key);
    all.into_iter().filter(|f| with_counters || !is_counter(f)).collect()
}

fn field(key: &'static str, group: Group, arrow: Arrow, value: impl Into<String>) -> Field {
    Field { key, value: value.into(), group, arrow }
}

fn counter(key: &'static str, value: u64) -> Field {
    counted(key, value.to_string())
}

fn counted(key: &'static str, value: impl Into<String>) -> Field {
    field(key, Group::Counters, Arrow::Never, value)
}

fn resource_fields(resource: &ResourceObject, style: Style) -> Vec<Field> {
    let only = |key, value: String| field(key, Group::Only, Arrow::IfChanged, value);
    vec![
        only("role", Paint(style.colour).own_role(resource.role)),
        only("suspended", resource.suspended.to_string()),
        only("force-io-failures", yes(resource.force_io_failures).to_owned()),
        only("write-ordering", resource.write_ordering.clone()),
        field("may_promote", Group::Promotion, Arrow::Always, yes(resource.may_promote)),
        field("promotion_score", Group::Promotion, Arrow::Always, resource.promotion_score.to_string()),
    ]
}

fn device_fields(device: &DeviceObject, style: Style) -> Vec<Field> {
    let place = |key, arrow, value: String| field(key, Group::Place, arrow, value);
    let paint = Paint(style.colour);
    vec![
        place("minor", Arrow::Never, device.minor.to_string()),
        place("backing_dev", Arrow::IfChanged, device.backing_dev.clone()),
        place("disk", Arrow::Always, paint.disk(device.disk)),
        place("client", Arrow::IfChanged, yes(device.client).to_owned()),
        place("open", Arrow::IfChanged, yes(device.open).to_owned()),
        place("quorum", Arrow::NotAtFirst, paint.quorum(device.quorum)),
        counter("size", device.size.unwrap_or(0)),
        counter("read", device.read),
        counter("written", device.written),
        counter("al-writes", device.al_writes),
        counter("bm-writes", device.bm_writes),
        counter("upper-pending", device.upper_pending),
        counter("lower-pending", device.lower_pending),
        field("al-suspended", Group::Only, Arrow::Never, yes(device.al_suspended)),
        field("blocked", Group::Edge, Arrow::Never, device.blocked.clone()),
    ]
}

fn connection_fields(connection: &ConnectionObject, style: Style) -> Vec<Field> {
    let only = |key, value: String| field(key, Group::Only, Arrow::IfChanged, value);
    let paint = Paint(style.colour);
    vec![
        only("connection", paint.connection(connection.connection)),
        only("role", paint.peer_role(connection.role)),
        counted("congested", yes(connection.congested)),
        counter("ap-in-flight", connection.ap_in_flight),
        counter("rs-in-flight", connection.rs_in_flight),
    ]
}

fn peer_device_fields(peer: &PeerDeviceObject, style: Style) -> Vec<Field> {
    let paint = Paint(style.colour);
    let progress = Progress::of(peer);
    let mut fields = vec![
        field("replication", Group::Place, Arrow::Always, paint.replication(peer.replication)),
        field("peer-disk", Group::Place, Arrow::Always, paint.disk(peer.peer_disk)),
        field("peer-client", Group::Place, Arrow::IfChanged, yes(peer.peer_client)),
        field("resync-suspended", Group::Only, Arrow::IfChanged, peer.resync_suspended.to_string()),
    ];
    if let Some(progress) = &progress {
        fields.push(field("done", Group::Only, Arrow::Never, format!("{:.2}", progress.done_percent)));
    }
    fields.extend([
        counter("received", peer.received),
        counter("sent", peer.sent),
        counter("out-of-sync", peer.out_of_sync),
        counter("pending", peer.pending),
        counter("unacked", peer.unacked),
    ]);
    if let Some(progress) = &progress {
        fields.push(counted("dbdt1", format!("{:.2}", progress.rates[1])));
        fields.extend(progress.eta_s.map(|eta| counter("eta", eta)));
    }
    fields
}

fn path_fields(path: &PathObject) -> Vec<Field> {
    vec![field("established", Group::Only, Arrow::IfChanged, yes(path.established))]
}
