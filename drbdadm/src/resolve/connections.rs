//! Connections that are not written but meant: two hosts, or every pair of a mesh. And the addresses and proxies
//! that a written path leaves to the host sections.

use crate::diagnostics::{Diagnostic, Severity, Sources};
use crate::syntax::{same_host, Connection, Host, Path, PathEnd, Resource, Settings, Text};

/// Fills addresses into the ends of written paths.
pub(super) fn apply_hosts_of_addresses(resource: &mut Resource) {
    let hosts = &resource.hosts;
    for end in resource.connections.iter_mut().flat_map(|c| &mut c.paths).flat_map(|p| &mut p.ends) {
        let Some(host) = hosts.iter().find(|h| h.is_called(&end.host.value)) else { continue };
        if end.address.is_none() {
            end.address.clone_from(&host.address);
        }
        if end.proxy.is_none() {
            end.proxy.clone_from(&host.proxy);
        }
    }
}

/// Adds the connections that are meant.
pub(super) fn generate(resource: &mut Resource, sources: &Sources) -> Vec<Diagnostic> {
    let mut noted = Vec::new();
    let mut generated = Vec::new();
    for mesh in &resource.meshes {
        for (index, one) in mesh.hosts.iter().enumerate() {
            for other in mesh.hosts[index + 1..].iter().filter(|other| !is_written(resource, one, other)) {
                let mut connection = between(resource, one, other);
                connection.net.inherit(&mesh.net);
                connection.at = mesh.at;
                generated.push(connection);
            }
        }
    }
    let written = !resource.connections.is_empty() || !resource.meshes.is_empty();
    match resource.hosts.as_slice() {
        [one, other] if !written => generated.push(between_hosts(resource, one, other)),
        hosts if !written && hosts.len() > 2 => noted.push(Diagnostic::plain(
            Severity::Warning,
            format!(
                "Resource {}:\n\tUse explicit 'connection' sections (or a 'connection-mesh' section) with more than two 'on' sections.",
                resource.name.value
            ),
        )),
        _ => {}
    }
    noted.extend(unknown_hosts(resource, sources));
    resource.connections.extend(generated);
    noted
}

/// Whether a pair of a mesh has a connection of its own.
fn is_written(resource: &Resource, one: &Text, other: &Text) -> bool {
    let has = |path: &Path, host: &Text| path.ends.iter().any(|e| same_host(&e.host.value, &host.value));
    resource.connections.iter().flat_map(|c| &c.paths).any(|p| has(p, one) && has(p, other))
}

fn between_hosts(resource: &Resource, one: &Host, other: &Host) -> Connection {
    let end = |host: &Host| PathEnd {
        host: Text { value: host.joined_names(), at: host.at },
        address: host.address.clone(),
        proxy: host.proxy.clone(),
    };
    connection_of(resource, end(one), end(other))
}

fn between(resource: &Resource, one: &Text, other: &Text) -> Connection {
    let end = |name: &Text| {
        let host = resource.hosts.iter().find(|h| h.is_called(&name.value));
        PathEnd {
            host: name.clone(),
            address: host.and_then(|h| h.address.clone()),
            proxy: host.and_then(|h| h.proxy.clone()),
        }
    };
    connection_of(resource, end(one), end(other))
}

fn connection_of(resource: &Resource, one: PathEnd, other: PathEnd) -> Connection {
    let at = resource.name.at;
    Connection {
        paths: vec![Path { ends: vec![one, other], at }],
        implicit_path: false,
        net: Settings::default(),
        peer_device: Settings::default(),
        volumes: Vec::new(),
        generated: true,
        at,
    }
}

/// Hosts of connections and meshes that nobody described.
fn unknown_hosts(resource: &Resource, sources: &Sources) -> Vec<Diagnostic> {
    let mut named: Vec<&Text> = Vec::new();
    let paths = resource.connections.iter().flat_map(|c| &c.paths);
    named.extend(paths.flat_map(|p| &p.ends).map(|e| &e.host));
    named.extend(resource.meshes.iter().flat_map(|m| &m.hosts));
    let unknown = named.into_iter().filter(|n| !resource.hosts.iter().any(|h| is_host(h, &n.value)));
    let say = |name: &Text| {
        let said = format!(
            "in resource {} a hostname (\"{}\") is given\nwith a \"host\" keyword, has no \"address\" keyword, and no matching\nhost section (\"on\" keyword)",
            resource.name.value, name.value
        );
        let known = resource.hosts.iter().flat_map(|h| &h.names).map(|n| n.value.as_str());
        Diagnostic::error(sources, name.at, &said).hint(crate::diagnostics::did_you_mean(&name.value, known))
    };
    unknown.map(say).collect()
}

fn is_host(host: &Host, name: &str) -> bool {
    host.is_called(name) || host.joined_names() == name
}
