//! One resource as this host should run it: everything plans need, nothing else.

use crate::diagnostics::{Diagnostic, Position, Sources};
use crate::host::ThisHost;
use crate::syntax::{Address, Config, Connection, Disk, Host, HostKind, MetaDisk, PathEnd};
use crate::syntax::{Proxy, Resource, Settings, Volume};

/// A resource of this host.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name.
    pub name: String,
    /// Where it is defined.
    pub at: Position,
    /// Our node id.
    pub node_id: u32,
    /// Whether it lies on another DRBD here.
    pub stacked: bool,
    /// Resource options.
    pub options: Settings,
    /// Timeouts of `wait-…`.
    pub startup: Settings,
    /// Handlers.
    pub handlers: Settings,
    /// Volumes.
    pub volumes: Vec<WantedVolume>,
    /// Connections of this host.
    pub connections: Vec<WantedConnection>,
    /// Node ids of all hosts with their names.
    pub nodes: Vec<(u32, String)>,
    /// How our host section is called in messages.
    pub heading: String,
}

/// A volume of this host.
#[derive(Clone, Debug)]
pub struct WantedVolume {
    /// Number.
    pub number: u32,
    /// Written without `volume N { }`.
    pub implicit: bool,
    /// Minor.
    pub minor: u32,
    /// `/dev/drbdN`.
    pub device: String,
    /// `None`: diskless on purpose.
    pub disk: Option<BackingDisk>,
    /// Options of `new-minor`.
    pub device_settings: Settings,
    /// Options of `attach`.
    pub backing_settings: Settings,
}

/// Where a volume keeps its data and metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackingDisk {
    /// Data.
    pub path: String,
    /// Metadata.
    pub meta: MetaDisk,
}

impl BackingDisk {
    /// The device that holds the metadata.
    pub fn meta_path(&self) -> &str {
        match &self.meta {
            MetaDisk::Internal => &self.path,
            MetaDisk::Indexed(path, _) | MetaDisk::Flexible(path) => path,
        }
    }

    /// The index as drbdsetup and `sh-md-idx` say it.
    pub fn index(&self) -> String {
        match &self.meta {
            MetaDisk::Internal => "internal".to_owned(),
            MetaDisk::Indexed(_, index) => index.to_string(),
            MetaDisk::Flexible(_) => "flexible".to_owned(),
        }
    }

    /// The index as drbdmeta says it.
    pub fn index_for_drbdmeta(&self) -> String {
        match &self.meta {
            MetaDisk::Flexible(_) => "flex-external".to_owned(),
            MetaDisk::Internal | MetaDisk::Indexed(..) => self.index(),
        }
    }
}

/// A connection of this host.
#[derive(Clone, Debug)]
pub struct WantedConnection {
    /// The peer's node id.
    pub peer_id: u32,
    /// The peer's names, joined.
    pub name: String,
    /// The names that select it on the command line.
    pub called: Vec<String>,
    /// Options of `new-peer`, `_name` first.
    pub net: Settings,
    /// Paths.
    pub paths: Vec<WantedPath>,
    /// Peer-device options by volume.
    pub peer_devices: Vec<(u32, Settings)>,
    /// Whether the peer has a disk for any volume.
    pub peer_has_disk: bool,
}

/// A path as seen from here.
#[derive(Clone, Debug)]
pub struct WantedPath {
    /// Ours.
    pub local: Address,
    /// Where to connect to: the peer, or our proxy.
    pub remote: Address,
    /// Both proxies, if there are any.
    pub proxies: Option<(ProxySide, ProxySide)>,
}

/// A host with its proxy.
#[derive(Clone, Debug)]
pub struct ProxySide {
    /// Host name.
    pub host: String,
    /// Its DRBD address.
    pub address: Address,
    /// The proxy with its options.
    pub proxy: Proxy,
}

/// The resource as this host should run it; `None` if it has no part in it.
pub fn wanted(resource: &Resource, config: &Config, here: &ThisHost) -> Option<Wanted> {
    let me = resource.hosts.iter().find(|h| here.is_meant_by(h))?;
    if resource.ignore_on.iter().any(|h| crate::syntax::same_host(&h.value, &here.name)) {
        return None;
    }
    let mut options = me.options.clone();
    if options.is_empty() {
        options.clone_from(&resource.sections.options);
    } else {
        options.inherit(&resource.sections.options);
    }
    let connections = resource.connections.iter().filter_map(|c| connection(c, resource, me)).collect();
    Some(Wanted {
        name: resource.name.value.clone(),
        at: resource.name.at,
        node_id: me.node_id.unwrap_or(0),
        stacked: matches!(me.kind, HostKind::Stacked { .. }),
        options,
        startup: resource.sections.startup.clone(),
        handlers: resource.sections.handlers.clone(),
        volumes: me.volumes.iter().filter_map(|v| volume(v, config, here)).collect(),
        connections,
        nodes: resource.hosts.iter().filter_map(|h| Some((h.node_id?, h.joined_names()))).collect(),
        heading: me.heading(),
    })
}

fn volume(volume: &Volume, config: &Config, here: &ThisHost) -> Option<WantedVolume> {
    let device = volume.device.as_ref()?;
    let disk = match (&volume.disk, &volume.meta_disk) {
        (Some(Disk::Path(path)), Some(meta)) => Some(BackingDisk { path: path.clone(), meta: meta.clone() }),
        _ => None,
    };
    let mut backing_settings = volume.settings.backing.clone();
    backing_settings.0.retain_mut(|setting| {
        if setting.name != "resync-after" {
            return true;
        }
        let minor = setting.value.as_deref().and_then(|v| resync_after(v, config, here));
        setting.value = minor.map(|m| m.to_string());
        setting.value.is_some()
    });
    Some(WantedVolume {
        number: volume.number,
        implicit: volume.implicit,
        minor: device.minor,
        device: device.name.clone().unwrap_or_else(|| format!("/dev/drbd{}", device.minor)),
        disk,
        device_settings: volume.settings.device.clone(),
        backing_settings,
    })
}

/// `RES` or `RES/VNR` as a minor of this host; a plain number stays one.
fn resync_after(value: &str, config: &Config, here: &ThisHost) -> Option<i64> {
    let (name, number) = value.split_once('/').unwrap_or((value, ""));
    if let Some(resource) = config.resources.iter().find(|r| r.name.value == name) {
        let me = resource.hosts.iter().find(|h| here.is_meant_by(h))?;
        let found = match number.parse::<u32>() {
            Ok(number) => me.volumes.iter().find(|v| v.number == number),
            Err(_) => me.volumes.first(),
        };
        return found.and_then(|v| v.device.as_ref()).map(|d| i64::from(d.minor));
    }
    value.parse().ok()
}

/// `resync-after` naming a resource that is not there; a warning, since DRBD works without it.
pub fn check_resync_after(config: &Config, sources: &Sources, here: &ThisHost) -> Vec<Diagnostic> {
    let mut noted: Vec<Diagnostic> = Vec::new();
    for resource in &config.resources {
        let Some(me) = resource.hosts.iter().find(|h| here.is_meant_by(h)) else { continue };
        for setting in me.volumes.iter().filter_map(|v| v.settings.backing.find("resync-after")) {
            let value = setting.value.as_deref().unwrap_or("");
            if resync_after(value, config, here).is_some() {
                continue;
            }
            let said = format!(
                "in resource {}:\n\tresource '{}' mentioned in 'resync-after' option is not known.",
                resource.name.value,
                value.split('/').next().unwrap_or(value)
            );
            let warning = Diagnostic::error(sources, setting.at, &said).warning().without_caret();
            if !noted.contains(&warning) {
                noted.push(warning);
            }
        }
    }
    noted
}

fn connection(connection: &Connection, resource: &Resource, me: &Host) -> Option<WantedConnection> {
    let is_me = |end: &PathEnd| me.is_called(&end.host.value) || me.joined_names() == end.host.value;
    let first = connection.paths.first()?;
    if !first.ends.iter().any(is_me) {
        return None;
    }
    let peer_end = first.ends.iter().find(|e| !is_me(e))?;
    let name = &peer_end.host.value;
    let peer = resource.hosts.iter().find(|h| h.is_called(name) || h.joined_names() == *name)?;
    let path = |ends: &[PathEnd]| {
        let local = ends.iter().find(|e| is_me(e))?;
        let remote = ends.iter().find(|e| !is_me(e))?;
        wanted_path(local, remote)
    };
    let peer_devices = connection.volumes.iter().map(|(number, settings)| {
        let mut settings = settings.clone();
        let theirs = peer.volumes.iter().find(|v| v.number == *number);
        if theirs.is_some_and(|v| v.disk == Some(Disk::None)) && settings.find("bitmap").is_none() {
            settings.push("bitmap", Some("no".to_owned()), connection.at);
        }
        (*number, settings)
    });
    Some(WantedConnection {
        peer_id: peer.node_id?,
        name: shown_name(peer),
        called: peer.names.iter().map(|n| n.value.clone()).chain([shown_name(peer)]).collect(),
        net: net_settings(connection, peer, me),
        paths: connection.paths.iter().filter_map(|p| path(&p.ends)).collect(),
        peer_devices: peer_devices.collect(),
        peer_has_disk: peer.volumes.iter().any(|v| v.disk != Some(Disk::None)),
    })
}

/// A peer's name on command lines; a floating one is its address without special characters.
pub fn shown_name(host: &Host) -> String {
    match (&host.kind, &host.address) {
        (HostKind::Floating, Some(address)) => {
            format!("{}_{}", address.ip.replace([':', '%'], "_"), address.port)
        }
        _ => host.joined_names(),
    }
}

fn net_settings(connection: &Connection, peer: &Host, me: &Host) -> Settings {
    let mut net = connection.net.clone();
    for setting in &mut net.0 {
        let Some(node) = setting.value.as_deref().and_then(|v| v.strip_prefix("discard-node-")) else {
            continue;
        };
        let ours = me.is_called(node);
        setting.value = Some(if ours { "discard-local" } else { "discard-remote" }.to_owned());
    }
    let mut named = Settings::default();
    named.push("_name", Some(shown_name(peer)), connection.at);
    named.0.extend(net.0);
    named
}

fn wanted_path(local: &PathEnd, remote: &PathEnd) -> Option<WantedPath> {
    let (ours, theirs) = (local.address.clone()?, remote.address.clone()?);
    let inside = local.proxy.as_ref().and_then(|p| p.inside.clone());
    let side = |end: &PathEnd| {
        Some(ProxySide {
            host: end.host.value.clone(),
            address: end.address.clone()?,
            proxy: end.proxy.clone()?,
        })
    };
    let proxies = side(local).zip(side(remote));
    Some(WantedPath { local: ours, remote: inside.unwrap_or(theirs), proxies })
}
