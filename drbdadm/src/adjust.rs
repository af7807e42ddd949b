//! What separates a running resource from the wanted one, as the steps that close the gap: pure.
//!
//! Options are compared by value with their defaults, so `200M` equals `204800k` and a default written out equals one
//! left out; when any differs, the whole configured set is passed with `--set-defaults`.

use crate::parser::{Shown, ShownConnection, ShownVolume};
use crate::plan::calls::{
    attach_step, changeable, connection_call, disk_options_call, new_minor, new_peer, new_resource, options,
    path_call, peer_device_call, resource_options_call, volume_call,
};
use crate::plan::{proxy_steps, Planned, Selected, Stage, Step, Wishes};
use crate::syntax::Settings;
use crate::wanted::{BackingDisk, Wanted, WantedConnection, WantedVolume};
use drbd_core::config::options::{OptionSpec, OptionValue, Section};

/// The steps for one resource; `shown` is `None` if it does not run.
pub fn adjust(selection: &Selected<'_>, shown: Option<&Shown>, wishes: &Wishes) -> Vec<Planned> {
    let mut steps = Steps { resource: selection.resource, planned: Vec::new() };
    match shown {
        None => steps.add(Stage::Prerequisites, new_resource(selection.resource, &[])),
        Some(shown) => {
            if differ(Section::Resource, &selection.resource.options, &shown.options) {
                let call = resource_options_call(selection.resource);
                steps.add(Stage::ResourceOptions, Step::All(vec![call]));
            }
        }
    }
    let nothing = Shown::default();
    let shown = shown.unwrap_or(&nothing);
    steps.disks(shown, wishes);
    if !wishes.skip_net {
        steps.connections(selection, shown);
        steps.planned.extend(proxy_steps(selection));
    }
    steps.planned
}

struct Steps<'a> {
    resource: &'a Wanted,
    planned: Vec<Planned>,
}

impl Steps<'_> {
    fn add(&mut self, stage: Stage, step: Step) {
        self.planned.push(Planned { stage, resource: self.resource.name.clone(), step });
    }

    fn disks(&mut self, shown: &Shown, wishes: &Wishes) {
        let resource = self.resource;
        let same = |a: &WantedVolume, b: &ShownVolume| a.number == b.number && a.minor == b.minor;
        for running in &shown.volumes {
            if resource.volumes.iter().any(|v| same(v, running)) || wishes.skip_disk {
                continue;
            }
            if running.disk.is_some() {
                self.detach(running);
            }
            let call = volume_call(resource, &["del-minor", &running.minor.to_string()]);
            self.add(Stage::DiskDown, Step::All(vec![call]));
        }
        for volume in &resource.volumes {
            let running = shown.volumes.iter().find(|r| same(volume, r));
            if running.is_none() {
                self.add(Stage::Minors, new_minor(resource, volume, &[]));
            }
            if !wishes.skip_disk {
                self.disk(volume, running);
            }
        }
    }

    fn detach(&mut self, running: &ShownVolume) {
        let call = volume_call(self.resource, &["detach", "--diskless", &running.minor.to_string()]);
        self.add(Stage::DiskDown, Step::All(vec![call]));
    }

    fn disk(&mut self, volume: &WantedVolume, running: Option<&ShownVolume>) {
        let attached = running.filter(|r| r.disk.is_some());
        match (&volume.disk, attached) {
            (None, None) => {}
            (None, Some(running)) => self.detach(running),
            (Some(disk), None) => self.attach(volume, disk),
            (Some(disk), Some(running)) => {
                if !is_attached(disk, running) {
                    self.detach(running);
                    self.attach(volume, disk);
                } else if differ(Section::Disk, &volume.backing_settings, &running.settings.backing) {
                    let call = disk_options_call(self.resource, volume);
                    self.add(Stage::Disk, Step::All(vec![call]));
                }
            }
        }
    }

    fn attach(&mut self, volume: &WantedVolume, disk: &BackingDisk) {
        self.add(Stage::Disk, attach_step(self.resource, volume, disk, &[]));
    }

    fn connections(&mut self, selection: &Selected<'_>, shown: &Shown) {
        let resource = self.resource;
        let is_wanted = |peer: u32| resource.connections.iter().any(|c| c.peer_id == peer);
        if selection.peer.is_none() {
            for surplus in shown.connections.iter().filter(|c| !is_wanted(c.peer_id)) {
                let call = volume_call(resource, &["del-peer", &resource.name, &surplus.peer_id.to_string()]);
                self.add(Stage::NetDown, Step::All(vec![call]));
            }
        }
        for connection in selection.connections() {
            match shown.connections.iter().find(|c| c.peer_id == connection.peer_id) {
                None => self.new_connection(connection),
                Some(running) => self.connection(connection, running),
            }
        }
    }

    fn new_connection(&mut self, connection: &WantedConnection) {
        self.add(Stage::NetUp, new_peer(self.resource, connection, &[]));
        for path in &connection.paths {
            let call = path_call("new-path", self.resource, connection.peer_id, &path.local, &path.remote);
            self.add(Stage::Paths, Step::All(vec![call]));
        }
        self.peer_devices(connection, &ShownConnection::default());
        self.connect(connection);
    }

    fn connect(&mut self, connection: &WantedConnection) {
        let call = connection_call("connect", self.resource, connection.peer_id);
        self.add(Stage::Connect, Step::All(vec![call]));
    }

    fn connection(&mut self, connection: &WantedConnection, running: &ShownConnection) {
        let gone = self.paths(connection, running);
        if differ(Section::Net, &connection.net, &running.net) {
            let mut call = connection_call("net-options", self.resource, connection.peer_id);
            call.arguments.push("--set-defaults".to_owned());
            call.arguments.extend(options(&changeable(&connection.net)));
            self.add(Stage::NetOptions, Step::All(vec![call]));
        }
        self.peer_devices(connection, running);
        if gone || running.standalone {
            self.connect(connection);
        }
    }

    /// Whether a path had to go, for which the connection had to be taken down.
    fn paths(&mut self, connection: &WantedConnection, running: &ShownConnection) -> bool {
        let resource = self.resource;
        let peer = connection.peer_id;
        let stays = |(local, remote): &&(crate::syntax::Address, crate::syntax::Address)| {
            connection.paths.iter().any(|p| p.local.same(local) && p.remote.same(remote))
        };
        let gone: Vec<_> = running.paths.iter().filter(|p| !stays(p)).collect();
        if !gone.is_empty() && !running.standalone {
            let call = connection_call("disconnect", resource, peer);
            self.add(Stage::NetDown, Step::All(vec![call]));
        }
        for (local, remote) in &gone {
            let call = path_call("del-path", resource, peer, local, remote);
            self.add(Stage::NetDown, Step::All(vec![call]));
        }
        for path in &connection.paths {
            let is_there = running.paths.iter().any(|(l, r)| path.local.same(l) && path.remote.same(r));
            if !is_there {
                let call = path_call("new-path", resource, peer, &path.local, &path.remote);
                self.add(Stage::Paths, Step::All(vec![call]));
            }
        }
        !gone.is_empty()
    }

    fn peer_devices(&mut self, connection: &WantedConnection, running: &ShownConnection) {
        let none = Settings::default();
        for (number, settings) in &connection.peer_devices {
            let shown = running.peer_devices.iter().find(|(n, _)| n == number).map_or(&none, |(_, s)| s);
            if differ(Section::PeerDevice, settings, shown) {
                let peer = connection.peer_id;
                let mut call = peer_device_call("peer-device-options", self.resource, peer, *number);
                call.arguments.push("--set-defaults".to_owned());
                call.arguments.extend(options(settings));
                self.add(Stage::PeerDevices, Step::All(vec![call]));
            }
        }
    }
}

fn is_attached(disk: &BackingDisk, running: &ShownVolume) -> bool {
    running.disk.as_deref() == Some(&disk.path) && running.meta_disk.as_ref().is_none_or(|m| *m == disk.meta)
}

/// Options that the running object cannot change, or that are changed otherwise.
const NOT_COMPARED: &[&str] = &["transport", "size"];

/// Whether any option of a section has another value.
fn differ(section: Section, wanted: &Settings, shown: &Settings) -> bool {
    OptionSpec::of(section)
        .filter(|spec| !NOT_COMPARED.contains(&spec.name))
        .any(|spec| value(spec, wanted) != value(spec, shown))
}

fn value(spec: &OptionSpec, settings: &Settings) -> OptionValue {
    match settings.value(spec.name) {
        None | Some("(null)") => spec.default_value(),
        Some(text) => spec.parse(text).unwrap_or_else(|_| OptionValue::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
