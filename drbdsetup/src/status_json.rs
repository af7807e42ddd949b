//! `status --json`, written by hand: order of the fields, spaces and decimals are those scripts have come to know.

use crate::address::Address;
use crate::rates::Progress;
use drbd_core::control::{
    ConnectionStatus, DeviceObject, PathObject, PeerDeviceObject, ResourceObject, ResourceStatus,
};
use std::fmt::Write;

/// The whole of `drbdsetup status --json`.
pub fn text(resources: &[ResourceStatus]) -> String {
    let all: Vec<String> = resources.iter().map(resource).collect();
    format!("[\n{}]\n\n", all.join(",\n"))
}

/// A JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

fn resource(status: &ResourceStatus) -> String {
    let ResourceObject { name, node_id, role, suspended, force_io_failures, write_ordering, .. } =
        &status.resource;
    let mut out = String::from("{\n");
    field(&mut out, 2, "name", quoted(name));
    field(&mut out, 2, "node-id", node_id);
    field(&mut out, 2, "role", quoted(role.name()));
    field(&mut out, 2, "suspended", suspended.any());
    field(&mut out, 2, "suspended-user", suspended.user);
    field(&mut out, 2, "suspended-no-data", suspended.no_data);
    field(&mut out, 2, "suspended-fencing", suspended.fencing);
    field(&mut out, 2, "suspended-quorum", suspended.quorum);
    field(&mut out, 2, "force-io-failures", force_io_failures);
    field(&mut out, 2, "write-ordering", quoted(write_ordering));
    out.push_str("  \"devices\": [\n");
    out.push_str(&objects(4, status.devices.iter().map(device)));
    out.push_str(" ],\n  \"connections\": [\n");
    out.push_str(&objects(4, status.connections.iter().map(|c| connection(c, &status.devices))));
    out.push_str(" ]\n}\n");
    out
}

fn field(out: &mut String, indent: usize, name: &str, value: impl std::fmt::Display) {
    writeln!(out, "{:indent$}\"{name}\": {value},", "").expect("a string takes all");
}

/// Objects whose bodies are given, in braces and parted by commas.
fn objects(indent: usize, bodies: impl Iterator<Item = String>) -> String {
    let closed = |body: String| {
        let body = body.strip_suffix(",\n").unwrap_or(&body).to_owned();
        format!("{:indent$}{{\n{body}\n{:indent$}}}", "", "")
    };
    bodies.map(closed).collect::<Vec<_>>().join(",\n")
}

fn device(device: &DeviceObject) -> String {
    let mut out = String::new();
    field(&mut out, 6, "volume", device.volume);
    field(&mut out, 6, "minor", device.minor);
    field(&mut out, 6, "disk-state", quoted(device.disk.name()));
    field(&mut out, 6, "client", device.client);
    field(&mut out, 6, "open", device.open);
    field(&mut out, 6, "quorum", device.quorum);
    if let Some(size) = device.size {
        field(&mut out, 6, "size", size);
        field(&mut out, 6, "read", device.read);
        field(&mut out, 6, "written", device.written);
        field(&mut out, 6, "al-writes", device.al_writes);
        field(&mut out, 6, "bm-writes", device.bm_writes);
        field(&mut out, 6, "upper-pending", device.upper_pending);
        field(&mut out, 6, "lower-pending", device.lower_pending);
    }
    out
}

fn connection(status: &ConnectionStatus, devices: &[DeviceObject]) -> String {
    let connection = &status.connection;
    let mut out = String::new();
    field(&mut out, 6, "peer-node-id", connection.peer_node_id);
    field(&mut out, 6, "name", quoted(&connection.conn_name));
    out.push_str(&format!("      \"connection-state\": {}, \n", quoted(connection.connection.name())));
    field(&mut out, 6, "congested", connection.congested);
    field(&mut out, 6, "peer-role", quoted(connection.role.name()));
    field(&mut out, 6, "tls", connection.tls);
    field(&mut out, 6, "ap-in-flight", connection.ap_in_flight);
    field(&mut out, 6, "rs-in-flight", connection.rs_in_flight);
    out.push_str("      \"paths\": [\n");
    out.push_str(&objects(8, status.paths.iter().map(path)));
    out.push_str(" ],\n      \"peer_devices\": [\n");
    let size =
        |peer: &PeerDeviceObject| devices.iter().find(|d| d.volume == peer.volume).and_then(|d| d.size);
    out.push_str(&objects(8, status.peer_devices.iter().map(|p| peer_device(p, size(p)))));
    out.push_str(" ]");
    if !connection.last_error.is_empty() {
        out.push_str(&format!(",\n      \"last-error\": {}", quoted(&connection.last_error)));
    }
    out
}

fn path(path: &PathObject) -> String {
    let mut out = String::new();
    for (side, text) in [("this_host", &path.local), ("remote_host", &path.peer)] {
        let address = Address::parse(text);
        out.push_str(&format!("          \"{side}\": {{\n"));
        out.push_str(&address.json(12));
        out.push_str("          },\n");
    }
    field(&mut out, 10, "established", path.established);
    out
}

fn peer_device(peer: &PeerDeviceObject, size: Option<u64>) -> String {
    let progress = Progress::of(peer);
    let mut out = String::new();
    field(&mut out, 10, "volume", peer.volume);
    field(&mut out, 10, "replication-state", quoted(peer.replication.name()));
    field(&mut out, 10, "peer-disk-state", quoted(peer.peer_disk.name()));
    field(&mut out, 10, "peer-client", peer.peer_client);
    field(&mut out, 10, "resync-suspended", quoted(&peer.resync_suspended.to_string()));
    field(&mut out, 10, "received", peer.received);
    field(&mut out, 10, "sent", peer.sent);
    field(&mut out, 10, "out-of-sync", peer.out_of_sync);
    field(&mut out, 10, "pending", peer.pending);
    field(&mut out, 10, "unacked", peer.unacked);
    field(&mut out, 10, "has-sync-details", progress.is_some());
    field(&mut out, 10, "has-online-verify-details", progress.as_ref().is_some_and(|p| p.verify));
    details(&mut out, peer, size);
    out
}

/// Adds what needs the size of the device: share in sync, then the figures of a running resync.
fn details(out: &mut String, peer: &PeerDeviceObject, size: Option<u64>) {
    let in_sync = match size {
        Some(size) if size > 0 => 100.0 - peer.out_of_sync as f64 * 100.0 / size as f64,
        _ => 100.0,
    };
    field(out, 10, "percent-in-sync", format!("{:.2}", in_sync.max(0.0)));
    let Some(progress) = Progress::of(peer) else { return };
    for (name, value) in progress.raw() {
        // An open end is the largest number in text and -1 here.
        field(out, 10, name, *value as i64);
    }
    field(out, 10, "want", format!("{:.2}", progress.want));
    field(out, 10, "db0/dt0 [MiB/s]", format!("{:.2}", progress.rates[0]));
    field(out, 10, "db1/dt1 [MiB/s]", format!("{:.2}", progress.rates[1]));
    field(out, 10, "estimated-seconds-to-finish", progress.eta_s.unwrap_or(0));
    field(out, 10, "db/dt [MiB/s]", format!("{:.2}", progress.rate_overall));
    field(out, 10, "percent-resync-done", format!("{:.2}", progress.done_percent));
}
