//! What makes a configuration invalid although every line of it can be read.

use crate::diagnostics::{Diagnostic, Position, Sources};
use crate::load::conflict;
use crate::syntax::{
    Address, Config, Connection, Disk, Host, HostKind, Path, Resource, Sections, Settings, Volume,
};
use std::collections::{BTreeMap, BTreeSet};

/// Things of which there may be only one: hosts and node ids of a resource, minors of a host.
pub fn check_unique(written: &Config, expanded: &Config, sources: &Sources) -> Vec<Diagnostic> {
    let mut noted = Vec::new();
    for resource in &written.resources {
        let name = &resource.name.value;
        let mut hosts = Once::new(sources, "host section");
        let mut connections = Once::new(sources, "connection section");
        let mut ids = Once::new(sources, "node-id");
        for host in &resource.hosts {
            hosts.claim(format!("{name}: {}", host.heading()), host.at);
            noted.extend(volumes_twice(&host.volumes, &format!("{name}: {}", host.heading()), sources));
            if let Some(id) = host.node_id {
                ids.claim(format!("{name}:{id}"), host.at);
            }
        }
        noted.extend(volumes_twice(&resource.volumes, name, sources));
        for connection in &resource.connections {
            connections.claim(format!("{name}: {}", pair(connection)), connection.at);
        }
        noted.extend(hosts.noted);
        noted.extend(connections.noted);
        noted.extend(ids.noted);
    }
    let mut minors = Once::new(sources, "device-minor");
    for host in expanded.resources.iter().flat_map(|r| &r.hosts) {
        for device in host.volumes.iter().filter_map(|v| v.device.as_ref()) {
            for name in &host.names {
                minors.claim(format!("device-minor:{}:{}", name.value, device.minor), device.at);
            }
        }
    }
    noted.extend(minors.noted);
    noted
}

fn volumes_twice(volumes: &[Volume], place: &str, sources: &Sources) -> Vec<Diagnostic> {
    let mut once = Once::new(sources, "volume section");
    for volume in volumes {
        once.claim(format!("{place}: volume {}", volume.number), volume.at);
    }
    once.noted
}

/// The two hosts of a connection, in one order.
fn pair(connection: &Connection) -> String {
    let ends = connection.paths.first().map(|p| p.ends.as_slice()).unwrap_or_default();
    let mut hosts: Vec<String> = ends.iter().map(|e| e.host.value.to_ascii_lowercase()).collect();
    hosts.sort();
    hosts.join(" - ")
}

struct Once<'a> {
    sources: &'a Sources,
    what: &'static str,
    used: BTreeMap<String, Position>,
    noted: Vec<Diagnostic>,
}

impl<'a> Once<'a> {
    fn new(sources: &'a Sources, what: &'static str) -> Once<'a> {
        Once { sources, what, used: BTreeMap::new(), noted: Vec::new() }
    }

    fn claim(&mut self, key: String, at: Position) {
        match self.used.get(&key) {
            Some(first) => self.noted.extend(conflict(self.sources, self.what, &key, at, *first)),
            None => {
                self.used.insert(key, at);
            }
        }
    }
}

/// Everything else; DRBD goes on after each of these and ends with exit code 10.
pub fn check(written: &Config, expanded: &Config, sources: &Sources) -> Vec<Diagnostic> {
    let mut noted = Vec::new();
    if let Some(common) = &written.common {
        noted.extend(ambiguous(common, "common", sources));
    }
    for (plain, full) in written.resources.iter().zip(&expanded.resources) {
        noted.extend(ambiguous(&plain.sections, &plain.name.value, sources));
        noted.extend(stacked_on_nothing(plain, written, sources));
        noted.extend(paths_without_two_hosts(plain, sources));
        noted.extend(missing(full, sources));
        noted.extend(volumes_everywhere(full, sources));
        noted.extend(mixed_volumes(full, sources));
        noted.extend(discarding_strangers(full, sources));
    }
    noted.extend(shared_addresses(expanded, sources));
    noted
}

/// The same option twice in one place, with two values.
fn ambiguous(sections: &Sections, resource: &str, sources: &Sources) -> Vec<Diagnostic> {
    let disk = &sections.disk;
    let lists: [&Settings; 7] = [
        &sections.options,
        &sections.net,
        &disk.device,
        &disk.backing,
        &disk.peer_device,
        &sections.startup,
        &sections.handlers,
    ];
    let mut noted = Vec::new();
    for list in lists {
        for (index, setting) in list.0.iter().enumerate() {
            let first = list.0[..index].iter().find(|s| s.name == setting.name && s.value != setting.value);
            let Some(first) = first else { continue };
            let said = format!(
                "in resource {resource}, ambiguous inheritance for option \"{}\".\nshould be \"{}\" and \"{}\" at the same time.",
                setting.name,
                first.value.as_deref().unwrap_or(""),
                setting.value.as_deref().unwrap_or("")
            );
            noted.push(Diagnostic::error(sources, setting.at, &said));
        }
    }
    noted
}

fn stacked_on_nothing(resource: &Resource, config: &Config, sources: &Sources) -> Vec<Diagnostic> {
    let lowers = resource.hosts.iter().filter_map(|h| match &h.kind {
        HostKind::Stacked { lower } => Some(lower),
        HostKind::On | HostKind::Floating => None,
    });
    let known = |name: &str| config.resources.iter().any(|r| r.name.value == name);
    let say = |lower: &crate::syntax::Text| {
        let said = format!(
            "in resource {}, referenced resource '{}' not defined.",
            resource.name.value, lower.value
        );
        Diagnostic::error(sources, lower.at, &said)
    };
    lowers.filter(|l| !known(&l.value)).map(say).collect()
}

/// A path joins two hosts, all paths of a connection the same two.
fn paths_without_two_hosts(resource: &Resource, sources: &Sources) -> Vec<Diagnostic> {
    let mut noted = Vec::new();
    for connection in &resource.connections {
        let mut say = |at: Position, what: &str| {
            let said = format!("in resource {}: {what}", resource.name.value);
            noted.push(Diagnostic::error(sources, at, &said));
        };
        let hosts = |path: &Path| {
            let mut names: Vec<String> =
                path.ends.iter().map(|e| e.host.value.to_ascii_lowercase()).collect();
            names.sort();
            names
        };
        let first = connection.paths.first().map(hosts);
        if first.is_none() {
            say(connection.at, "a connection needs two 'host' keywords, or a path with two");
        }
        for path in &connection.paths {
            match path.ends.len() {
                2 if Some(hosts(path)) != first => {
                    say(path.at, "all paths of a connection join the same two hosts");
                }
                2 if path.ends[0].host.value == path.ends[1].host.value => {
                    say(path.at, "a connection joins two different hosts");
                }
                2 => {}
                n => say(path.at, &format!("a path needs two 'host' keywords, not {n}")),
            }
        }
    }
    noted
}

/// Keywords without which a host cannot be served.
fn missing(resource: &Resource, sources: &Sources) -> Vec<Diagnostic> {
    let mut noted = Vec::new();
    for host in &resource.hosts {
        let mut say = |keyword: &str| {
            let said = format!(
                "in resource {}, {} {{ ... }}: '{keyword}' keyword missing.",
                resource.name.value,
                host.heading()
            );
            noted.push(Diagnostic::error(sources, host.at, &said).without_caret());
        };
        if host.node_id.is_none() {
            say("node-id");
        }
        let stacked = matches!(host.kind, HostKind::Stacked { .. });
        if host.volumes.is_empty() {
            say("device");
        }
        for volume in &host.volumes {
            if volume.device.is_none() {
                say("device");
            }
            if volume.disk.is_none() && !stacked {
                say("disk");
            }
            if volume.meta_disk.is_none() && volume.disk != Some(Disk::None) && !stacked {
                say("meta-disk");
            }
        }
        if host.node_id.is_some() && lacks_address(resource, host) {
            say("address");
        }
    }
    noted
}

/// Whether a path needs the address of a host that gives none.
fn lacks_address(resource: &Resource, host: &Host) -> bool {
    let ends = resource.connections.iter().flat_map(|c| &c.paths).flat_map(|p| &p.ends);
    ends.into_iter().any(|e| {
        e.address.is_none() && (host.is_called(&e.host.value) || host.joined_names() == e.host.value)
    })
}

/// Every volume of a host must be on its peers as well.
fn volumes_everywhere(resource: &Resource, sources: &Sources) -> Vec<Diagnostic> {
    let mut noted = Vec::new();
    for host in &resource.hosts {
        for other in &resource.hosts {
            let theirs: BTreeSet<u32> = other.volumes.iter().map(|v| v.number).collect();
            for volume in host.volumes.iter().filter(|v| !theirs.contains(&v.number)) {
                let said = format!(
                    "in resource {}, {} {{ ... }}: volume {} not defined on {}",
                    resource.name.value,
                    host.heading(),
                    volume.number,
                    other.joined_names()
                );
                noted.push(Diagnostic::error(sources, host.at, &said).without_caret());
            }
        }
    }
    noted
}

fn mixed_volumes(resource: &Resource, sources: &Sources) -> Vec<Diagnostic> {
    let implicit = |v: &&Volume| v.implicit;
    let volumes = || resource.hosts.iter().flat_map(|h| &h.volumes);
    if !volumes().any(|v| v.implicit) || volumes().all(|v| implicit(&v)) {
        return Vec::new();
    }
    let said = format!("in resource {}: you must not mix implicit and explicit volumes", resource.name.value);
    vec![Diagnostic::error(sources, resource.name.at, &said).without_caret()]
}

/// `after-sb-0pri discard-node-NODENAME` needs a node of the resource.
fn discarding_strangers(resource: &Resource, sources: &Sources) -> Vec<Diagnostic> {
    let mut noted: Vec<Diagnostic> = Vec::new();
    for setting in resource.connections.iter().filter_map(|c| c.net.find("after-sb-0pri")) {
        let value = setting.value.as_deref().unwrap_or("");
        let Some(node) = value.strip_prefix("discard-node-") else { continue };
        if resource.hosts.iter().any(|h| h.is_called(node)) {
            continue;
        }
        let said = format!(
            "in resource {}:\n\tthe nodename in the '{value}' option is not known.",
            resource.name.value
        );
        let error = Diagnostic::error(sources, setting.at, &said);
        if !noted.contains(&error) {
            noted.push(error);
        }
    }
    noted
}

/// Two connections of the host may not run between the same two endpoints.
fn shared_addresses(config: &Config, sources: &Sources) -> Vec<Diagnostic> {
    let mut pairs: Vec<(&Resource, [&Address; 2])> = Vec::new();
    let mut noted = Vec::new();
    for resource in &config.resources {
        for path in resource.connections.iter().flat_map(|c| &c.paths) {
            let ends: Vec<&Address> = path.ends.iter().filter_map(|e| e.address.as_ref()).collect();
            let [one, other] = ends[..] else { continue };
            if one.same(other) {
                continue;
            }
            let same = |pair: &[&Address; 2]| {
                pair[0].same(one) && pair[1].same(other) || pair[0].same(other) && pair[1].same(one)
            };
            if let Some((owner, first)) = pairs.iter().find(|(_, pair)| same(pair)) {
                for address in [one, other] {
                    let before = first.iter().find(|a| a.same(address)).map_or(address.at, |a| a.at);
                    let said = format!(
                        "in resource {}\n    {} is also used {} (resource {})",
                        resource.name.value,
                        address.for_drbdsetup(),
                        sources.place(before),
                        owner.name.value
                    );
                    noted.push(Diagnostic::error(sources, address.at, &said).without_caret());
                }
            }
            pairs.push((resource, [one, other]));
        }
    }
    noted
}
