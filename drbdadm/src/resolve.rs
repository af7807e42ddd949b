//! From what is written to what is meant: node ids, generated connections, inheritance, and what cannot be.
//!
//! [`complete`] fills in what a plain dump shows (node ids, hosts of stacked resources) and generates connections;
//! [`expand`] is a further copy with everything inherited, from which dumps with `-v` and all plans are made.

mod check;
mod connections;
mod expand;
mod node_ids;

pub use check::{check, check_unique};
pub use expand::expand;

use crate::diagnostics::{Diagnostic, Sources};
use crate::syntax::{Config, HostKind, Text};

/// Fills in what is implied, and notes what is missing for that.
pub fn complete(config: &mut Config, sources: &Sources) -> Vec<Diagnostic> {
    let mut noted = Vec::new();
    name_stacked_hosts(config);
    for resource in &mut config.resources {
        connections::apply_hosts_of_addresses(resource);
        node_ids::assign(resource);
        noted.extend(connections::generate(resource, sources));
    }
    noted
}

/// A stacked host section is called by the hosts of the resource below.
fn name_stacked_hosts(config: &mut Config) {
    let mut hosts_of: Vec<(String, Vec<Text>)> = Vec::new();
    for resource in &config.resources {
        let on = resource.hosts.iter().filter(|h| h.kind == HostKind::On);
        hosts_of.push((resource.name.value.clone(), on.flat_map(|h| h.names.clone()).collect()));
    }
    for host in config.resources.iter_mut().flat_map(|r| &mut r.hosts) {
        if let HostKind::Stacked { lower } = &host.kind {
            if let Some((_, names)) = hosts_of.iter().find(|(name, _)| *name == lower.value) {
                host.names.clone_from(names);
            }
        }
    }
}

#[cfg(test)]
mod tests;
