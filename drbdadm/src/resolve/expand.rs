//! Inheritance: common (or template) → resource → volumes, hosts and connections.

use crate::syntax::{Config, Connection, Device, Disk, Host, HostKind, MetaDisk, ProxySettings, Resource};
use crate::syntax::{Sections, Settings, Volume};

/// A copy in which every host has its volumes complete and every connection its options.
pub fn expand(config: &Config) -> Config {
    let mut expanded = config.clone();
    for resource in &mut expanded.resources {
        inherit_sections(resource, config.common.as_ref());
        for host in &mut resource.hosts {
            fill_volumes(host, &resource.volumes, &resource.sections);
        }
        resource.volumes.clear();
        let hosts = resource.hosts.clone();
        for connection in &mut resource.connections {
            fill_connection(connection, &resource.sections.net, &hosts);
        }
        resource.meshes.clear();
        move_proxy_settings(resource);
    }
    stack(&mut expanded);
    expanded
}

/// Each side of a path that runs through a proxy gets the proxy options of the resource.
fn move_proxy_settings(resource: &mut Resource) {
    let ends = resource.connections.iter_mut().flat_map(|c| &mut c.paths).flat_map(|p| &mut p.ends);
    for proxy in ends.filter_map(|e| e.proxy.as_mut()) {
        if proxy.settings == ProxySettings::default() {
            proxy.settings.clone_from(&resource.sections.proxy);
        }
    }
}

fn inherit_sections(resource: &mut Resource, common: Option<&Sections>) {
    let outer = resource.template.as_deref().or(common);
    if let Some(outer) = outer {
        resource.sections.inherit(outer);
    }
}

/// The volumes of a host: its own entries over those of the resource.
fn fill_volumes(host: &mut Host, of_resource: &[Volume], sections: &Sections) {
    for outer in of_resource {
        match host.volumes.iter_mut().find(|v| v.number == outer.number) {
            Some(volume) => {
                volume.implicit = outer.implicit && volume.implicit;
                fill_volume(volume, outer);
            }
            None => host.volumes.push(outer.clone()),
        }
    }
    host.volumes.sort_by_key(|v| v.number);
    for volume in &mut host.volumes {
        volume.settings.inherit(&sections.disk);
        name_device(volume);
    }
}

fn fill_volume(volume: &mut Volume, outer: &Volume) {
    if volume.device.is_none() {
        volume.device.clone_from(&outer.device);
    }
    if volume.disk.is_none() {
        volume.disk.clone_from(&outer.disk);
    }
    if volume.meta_disk.is_none() {
        volume.meta_disk.clone_from(&outer.meta_disk);
    }
    volume.settings.inherit(&outer.settings);
}

fn name_device(volume: &mut Volume) {
    if let Some(Device { name, minor, .. }) = &mut volume.device {
        name.get_or_insert_with(|| format!("/dev/drbd{minor}"));
    }
}

fn fill_connection(connection: &mut Connection, net: &Settings, hosts: &[Host]) {
    connection.net.inherit(net);
    let ends = connection.paths.first().map(|p| p.ends.as_slice()).unwrap_or_default();
    let Some(host) = ends
        .first()
        .and_then(|e| hosts.iter().find(|h| h.is_called(&e.host.value) || h.joined_names() == e.host.value))
    else {
        return;
    };
    let mut volumes = Vec::new();
    for volume in &host.volumes {
        let written = connection.volumes.iter().find(|(number, _)| *number == volume.number);
        let mut settings = written.map(|(_, s)| s.clone()).unwrap_or_default();
        settings.inherit(&connection.peer_device);
        settings.inherit(&volume.settings.peer_device);
        volumes.push((volume.number, settings));
    }
    connection.volumes = volumes;
}

/// Stacked volumes lie on the devices of the resource below, with internal metadata.
fn stack(config: &mut Config) {
    let lowers: Vec<(String, Vec<Host>)> =
        config.resources.iter().map(|r| (r.name.value.clone(), r.hosts.clone())).collect();
    for host in config.resources.iter_mut().flat_map(|r| &mut r.hosts) {
        let HostKind::Stacked { lower } = &host.kind else { continue };
        let Some((_, hosts)) = lowers.iter().find(|(name, _)| *name == lower.value) else { continue };
        for volume in &mut host.volumes {
            let below = hosts.iter().flat_map(|h| &h.volumes).find(|v| v.number == volume.number);
            if let Some(path) = below.and_then(|v| v.device.as_ref()).and_then(|d| d.name.clone()) {
                volume.disk.get_or_insert(Disk::Path(path));
            }
            volume.meta_disk.get_or_insert(MetaDisk::Internal);
        }
    }
}
