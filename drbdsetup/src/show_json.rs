//! `show --json`, written by hand: numbers are strings with their prefix, and every quirk scripts know is kept.

use crate::address::Address;
use crate::show::{disk_section, is_client, section, Shown};
use crate::status_json::quoted;
use drbd_core::config::{OptionValue, Section};
use drbd_core::control::{Configuration, ConnectionConfiguration, VolumeConfiguration};
use drbd_core::ids::VolumeNumber;
use drbd_core::states::ConnectionState;

/// The whole of `drbdsetup show --json`.
pub fn text(resources: &[Configuration]) -> String {
    let all: Vec<String> = resources.iter().map(resource).collect();
    let end = if all.is_empty() { "" } else { "\n" };
    format!("[\n{}{end}]\n", all.join(",\n"))
}

/// Members of an object, each without its comma, in braces.
fn object(depth: usize, members: &[String]) -> String {
    let pad = " ".repeat(depth * 4);
    format!("{pad}{{\n{}\n{pad}}}", members.join(",\n"))
}

fn member(depth: usize, name: &str, value: impl std::fmt::Display) -> String {
    format!("{}\"{name}\": {value}", " ".repeat(depth * 4))
}

/// A member whose value is an object or a list already written, of which the first line has to lose its indentation.
fn member_block(depth: usize, name: &str, block: &str) -> String {
    member(depth, name, block.trim_start())
}

fn list(depth: usize, name: &str, items: &[String]) -> String {
    let pad = " ".repeat(depth * 4);
    let end = if items.is_empty() { "" } else { "\n" };
    format!("{pad}\"{name}\": [\n{}{end}{pad}]", items.join(",\n"))
}

fn options(depth: usize, name: &str, shown: &[Shown]) -> String {
    let members: Vec<String> = shown.iter().map(|o| member(depth + 1, o.spec.name, value(o))).collect();
    member_block(depth, name, &object(depth, &members))
}

fn value(shown: &Shown) -> String {
    let unset_key = shown.is_default && shown.spec.name.starts_with("tls-");
    match &shown.value {
        // A quirk of the original: this one boolean is a word.
        OptionValue::Boolean(_) if shown.spec.name == "diskless" => quoted(&shown.written()),
        OptionValue::Boolean(value) => value.to_string(),
        OptionValue::Text(_) if unset_key => quoted("(null)"),
        OptionValue::Text(_) | OptionValue::Number(_) => quoted(&shown.written()),
    }
}

fn resource(resource: &Configuration) -> String {
    let volumes: Vec<String> = resource.volumes.iter().map(volume).collect();
    let this_host = object(2, &[member(3, "node-id", resource.node_id), list(3, "volumes", &volumes)]);
    let connections: Vec<String> = resource.connections.iter().map(connection).collect();
    object(
        1,
        &[
            member(2, "resource", quoted(&resource.resource)),
            options(2, "options", &section(Section::Resource, &resource.options)),
            member_block(2, "_this_host", &this_host),
            list(2, "connections", &connections),
        ],
    )
}

fn volume(volume: &VolumeConfiguration) -> String {
    let mut members = vec![member(5, "volume_nr", volume.volume), member(5, "device_minor", volume.minor)];
    if let Some(disk) = &volume.disk {
        members.push(member(5, "backing-disk", quoted(&disk.disk)));
        match disk.meta_index.as_str() {
            "internal" => members.push(member(5, "meta-disk", quoted("internal"))),
            "flexible" => members.push(member(5, "meta-disk", quoted(&disk.meta_disk))),
            index => {
                members.push(member(5, "meta-disk", quoted(&disk.meta_disk)));
                // A quirk of the original: the comma stands on a line of its own.
                members.push(member(5, "meta-disk-index", format!("{index}\n")));
            }
        }
    } else if is_client(volume) {
        members.push(member(5, "disk", quoted("none")));
    }
    members.push(options(5, "disk", &disk_section(volume)));
    object(4, &members)
}

fn connection(connection: &ConnectionConfiguration) -> String {
    let paths: Vec<String> = connection.paths.iter().map(path).collect();
    let mut members = vec![list(4, "paths", &paths)];
    if connection.connection == ConnectionState::StandAlone {
        members.push(member(4, "_is_standalone", true));
    }
    members.push(member(4, "_cstate", quoted(connection.connection.name())));
    members.push(options(4, "net", &section(Section::Net, &connection.options)));
    let volumes: Vec<String> = connection.volumes.iter().map(peer_volume).collect();
    members.push(list(4, "volumes", &volumes));
    members.push(member(4, "_peer_node_id", connection.peer));
    object(3, &members)
}

fn path((local, remote): &(String, String)) -> String {
    let side = |name, text: &str| {
        let body = format!("{{\n{}{}}}", Address::parse(text).json(28), " ".repeat(24));
        member(6, name, body)
    };
    object(5, &[side("this_host", local), side("remote_host", remote)])
}

fn peer_volume((volume, set): &(VolumeNumber, drbd_core::config::OptionSet)) -> String {
    object(5, &[member(6, "volume_nr", volume), options(6, "disk", &section(Section::PeerDevice, set))])
}
