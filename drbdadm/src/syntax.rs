//! What a configuration says, as written: the tree the parser builds, with the place of every word.
//!
//! The same tree is refined in place by [`crate::resolve`] (node ids, generated connections) and, for dumps and
//! plans, expanded (inheritance). Nothing here knows which host it runs on.

use crate::diagnostics::Position;

/// A word and where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text {
    /// The word.
    pub value: String,
    /// Its place.
    pub at: Position,
}

/// An option as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Name.
    pub name: String,
    /// Value; `None` for the few that take none.
    pub value: Option<String>,
    /// Place of the name.
    pub at: Position,
}

/// Options of one section, in the order they are shown and passed on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings(pub Vec<Setting>);

impl Settings {
    /// The option of that name.
    pub fn find(&self, name: &str) -> Option<&Setting> {
        self.0.iter().find(|s| s.name == name)
    }

    /// The value of an option.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.find(name).and_then(|s| s.value.as_deref())
    }

    /// Adds an option at the end.
    pub fn push(&mut self, name: &str, value: Option<String>, at: Position) {
        self.0.push(Setting { name: name.to_owned(), value, at });
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over what `outer` sets and this does not. Each goes to the front, so that a list inherited once is
    /// reversed, as DRBD's is.
    pub fn inherit(&mut self, outer: &Settings) {
        for setting in &outer.0 {
            if self.find(&setting.name).is_none() {
                self.0.insert(0, setting.clone());
            }
        }
    }
}

/// The `disk { }` section: three kinds of options live in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskSettings {
    /// For `new-minor`.
    pub device: Settings,
    /// For `attach`.
    pub backing: Settings,
    /// For `peer-device-options`.
    pub peer_device: Settings,
}

impl DiskSettings {
    /// Inherits each kind.
    pub fn inherit(&mut self, outer: &DiskSettings) {
        self.device.inherit(&outer.device);
        self.backing.inherit(&outer.backing);
        self.peer_device.inherit(&outer.peer_device);
    }

    /// Adds the options of a further `disk { }` of the same place.
    pub fn append(&mut self, more: DiskSettings) {
        self.device.0.extend(more.device.0);
        self.backing.0.extend(more.backing.0);
        self.peer_device.0.extend(more.peer_device.0);
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.device.is_empty() && self.backing.is_empty() && self.peer_device.is_empty()
    }
}

/// Sections that `common` and `resource` share.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sections {
    /// `options { }`.
    pub options: Settings,
    /// `net { }`.
    pub net: Settings,
    /// `disk { }`.
    pub disk: DiskSettings,
    /// `startup { }`.
    pub startup: Settings,
    /// `handlers { }`.
    pub handlers: Settings,
    /// `proxy { }`.
    pub proxy: ProxySettings,
}

impl Sections {
    /// Adds what a further block of the same place says.
    pub fn append(&mut self, more: Sections) {
        self.options.0.extend(more.options.0);
        self.net.0.extend(more.net.0);
        self.disk.append(more.disk);
        self.startup.0.extend(more.startup.0);
        self.handlers.0.extend(more.handlers.0);
        self.proxy.options.0.extend(more.proxy.options.0);
        self.proxy.plugins.extend(more.proxy.plugins);
    }

    /// Inherits section by section.
    pub fn inherit(&mut self, outer: &Sections) {
        self.options.inherit(&outer.options);
        self.net.inherit(&outer.net);
        self.disk.inherit(&outer.disk);
        self.startup.inherit(&outer.startup);
        self.handlers.inherit(&outer.handlers);
        self.proxy.options.inherit(&outer.proxy.options);
        if self.proxy.plugins.is_empty() {
            self.proxy.plugins.clone_from(&outer.proxy.plugins);
        }
    }
}

/// `proxy { }`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProxySettings {
    /// Plain options.
    pub options: Settings,
    /// Lines of `plugin { }`.
    pub plugins: Vec<String>,
}

/// An address as written; the family is spelled out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// ipv4, ipv6, sdp, ssocks or sci.
    pub family: String,
    /// Without brackets.
    pub ip: String,
    /// Port.
    pub port: String,
    /// Its place.
    pub at: Position,
}

impl Address {
    /// `A:P` or `[A]:P`.
    pub fn endpoint(&self) -> String {
        if self.family == "ipv6" {
            format!("[{}]:{}", self.ip, self.port)
        } else {
            format!("{}:{}", self.ip, self.port)
        }
    }

    /// As drbdsetup takes it: `ipv4:A:P`.
    pub fn for_drbdsetup(&self) -> String {
        format!("{}:{}", self.family, self.endpoint())
    }

    /// Whether both name the same endpoint.
    pub fn same(&self, other: &Address) -> bool {
        (&self.family, &self.ip, &self.port) == (&other.family, &other.ip, &other.port)
    }
}

/// `proxy on HOST { inside …; outside …; }`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxy {
    /// Hosts the proxy runs on.
    pub hosts: Vec<Text>,
    /// Towards the local DRBD.
    pub inside: Option<Address>,
    /// Towards the peer's proxy.
    pub outside: Option<Address>,
    /// Options of this side.
    pub settings: ProxySettings,
}

/// `device …;`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// The name, if one was written.
    pub name: Option<String>,
    /// The minor.
    pub minor: u32,
    /// Its place.
    pub at: Position,
}

/// `disk …;`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Disk {
    /// A path.
    Path(String),
    /// `disk none`: diskless on purpose.
    None,
}

/// `meta-disk …;`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetaDisk {
    /// At the end of the disk.
    Internal,
    /// `PATH [N]`: a fixed-size slot of another device.
    Indexed(String, u32),
    /// `PATH`: the whole of another device.
    Flexible(String),
}

/// A volume, at resource or host level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Number.
    pub number: u32,
    /// Written without `volume N { }`.
    pub implicit: bool,
    /// `device`.
    pub device: Option<Device>,
    /// `disk`.
    pub disk: Option<Disk>,
    /// `meta-disk`.
    pub meta_disk: Option<MetaDisk>,
    /// `disk { }`.
    pub settings: DiskSettings,
    /// Its place.
    pub at: Position,
}

impl Volume {
    /// An empty volume.
    pub fn new(number: u32, implicit: bool, at: Position) -> Volume {
        Volume {
            number,
            implicit,
            device: None,
            disk: None,
            meta_disk: None,
            settings: DiskSettings::default(),
            at,
        }
    }
}

/// How a host section names its host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostKind {
    /// `on NAME`.
    On,
    /// `floating ADDRESS`: whoever has the address.
    Floating,
    /// `stacked-on-top-of RESOURCE`: the hosts of that resource.
    Stacked {
        /// The resource below.
        lower: Text,
    },
}

/// A host section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Kind.
    pub kind: HostKind,
    /// Names; for `floating` the address, for stacked the hosts of the lower resource.
    pub names: Vec<Text>,
    /// Written or computed.
    pub node_id: Option<u32>,
    /// `address`.
    pub address: Option<Address>,
    /// `proxy on …`.
    pub proxy: Option<Proxy>,
    /// Volumes of this host.
    pub volumes: Vec<Volume>,
    /// `options { }`.
    pub options: Settings,
    /// Its place.
    pub at: Position,
}

impl Host {
    /// The names joined with `_`, as connections are called.
    pub fn joined_names(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(|n| n.value.as_str()).collect();
        names.join("_")
    }

    /// How messages and `conflicting use` call it: `on alpha`.
    pub fn heading(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(|n| n.value.as_str()).collect();
        match &self.kind {
            HostKind::On => format!("on {}", names.join(" ")),
            HostKind::Floating => match &self.address {
                Some(address) => format!("floating {}", address.endpoint()),
                None => "floating".to_owned(),
            },
            HostKind::Stacked { lower } => format!("stacked-on-top-of {}", lower.value),
        }
    }

    /// Whether a name in a `connection` means this host.
    pub fn is_called(&self, name: &str) -> bool {
        self.names.iter().any(|n| same_host(&n.value, name))
    }
}

/// Host names compare without case; a short one also means the first label of a long one.
pub fn same_host(a: &str, b: &str) -> bool {
    if a.eq_ignore_ascii_case(b) {
        return true;
    }
    let first = |name: &'_ str| name.split('.').next().unwrap_or("").to_ascii_lowercase();
    a.contains('.') != b.contains('.') && first(a) == first(b)
}

/// One end of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathEnd {
    /// Host name.
    pub host: Text,
    /// Own address, else that of the host section.
    pub address: Option<Address>,
    /// Own proxy, else that of the host section.
    pub proxy: Option<Proxy>,
}

/// A pair of addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// Two, once checked.
    pub ends: Vec<PathEnd>,
    /// Its place.
    pub at: Position,
}

/// A connection, written or generated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Its paths.
    pub paths: Vec<Path>,
    /// Whether the hosts stand directly in the connection instead of a `path { }`.
    pub implicit_path: bool,
    /// `net { }`.
    pub net: Settings,
    /// `disk { }`.
    pub peer_device: Settings,
    /// `volume N { disk { } }`.
    pub volumes: Vec<(u32, Settings)>,
    /// Generated: not shown in a plain dump.
    pub generated: bool,
    /// Its place.
    pub at: Position,
}

/// `connection-mesh { }`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mesh {
    /// Host names.
    pub hosts: Vec<Text>,
    /// `net { }`.
    pub net: Settings,
    /// Its place.
    pub at: Position,
}

/// `resource NAME { }`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// Name.
    pub name: Text,
    /// `template-file`, as written.
    pub template_file: Option<Text>,
    /// What the template says; stands in for `common`.
    pub template: Option<Box<Sections>>,
    /// Resource-level volumes.
    pub volumes: Vec<Volume>,
    /// Host sections.
    pub hosts: Vec<Host>,
    /// Connections.
    pub connections: Vec<Connection>,
    /// Meshes.
    pub meshes: Vec<Mesh>,
    /// Option sections.
    pub sections: Sections,
    /// `ignore-on`.
    pub ignore_on: Vec<Text>,
}

impl Resource {
    /// An empty resource.
    pub fn new(name: Text) -> Resource {
        Resource {
            name,
            template_file: None,
            template: None,
            volumes: Vec::new(),
            hosts: Vec::new(),
            connections: Vec::new(),
            meshes: Vec::new(),
            sections: Sections::default(),
            ignore_on: Vec::new(),
        }
    }

    /// Whether a host section stands on top of another resource.
    pub fn is_stacked(&self) -> bool {
        self.hosts.iter().any(|h| matches!(h.kind, HostKind::Stacked { .. }))
    }
}

/// `global { }`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Global {
    /// usage-count.
    pub usage_count: Option<String>,
    /// minor-count.
    pub minor_count: Option<u32>,
    /// dialog-refresh.
    pub dialog_refresh: Option<u32>,
    /// cmd-timeout-short, seconds; 0 = none.
    pub cmd_timeout_short_s: Option<u32>,
    /// cmd-timeout-medium, seconds; 0 = none.
    pub cmd_timeout_medium_s: Option<u32>,
    /// cmd-timeout-long, seconds; 0 = none.
    pub cmd_timeout_long_s: Option<u32>,
    /// disable-ip-verification.
    pub disable_ip_verification: bool,
    /// udev-always-use-vnr.
    pub udev_always_use_vnr: bool,
}

/// What stands at the top level of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// `include`.
    Include(Text),
    /// `global`.
    Global(Global, Position),
    /// `common`.
    Common(Box<Sections>, Position),
    /// `resource`.
    Resource(Box<Resource>),
}

/// A whole configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// The main file, as named in dumps.
    pub file: String,
    /// `global`, if written.
    pub global: Option<Global>,
    /// `common`, if written.
    pub common: Option<Sections>,
    /// Resources in the order of the files.
    pub resources: Vec<Resource>,
}
