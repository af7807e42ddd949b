//! `drbdadm dump`: the configuration in DRBD's normal form, which its own parser and the OCF agent read.
//!
//! An option is its name in a field of 24 columns less the indent, a blank, and the value right-justified to at least
//! three characters. Addresses and external metadata keep a field of 16 wherever they stand, as with DRBD.

use crate::diagnostics::Sources;
use crate::lexer::is_plain_word;
use crate::syntax::{
    Address, Config, Connection, Disk, DiskSettings, Global, Host, HostKind, Mesh, MetaDisk, Path, Proxy,
    ProxySettings, Resource, Sections, Settings, Volume,
};
use std::fmt::Write as _;

/// Who asks, and how much is shown.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Our host name.
    pub host: &'a str,
    /// Everything was inherited.
    pub expanded: bool,
    /// Only this resource.
    pub only: Option<&'a str>,
}

/// The text of a dump; `ignored` and `stacked` answer for a resource's name.
pub fn dump(
    config: &Config,
    sources: &Sources,
    asked: Asked<'_>,
    ignored: impl Fn(&str) -> bool,
    stacked: impl Fn(&str) -> bool,
) -> String {
    let mut out = Out { text: format!("# {}\n", config.file), indent: 0, expanded: asked.expanded };
    out.global(config.global.as_ref());
    if let Some(common) = &config.common {
        out.block("common", |out| out.sections(common));
        out.text.push('\n');
    }
    let wanted = |r: &&Resource| asked.only.is_none_or(|name| r.name.value == name);
    for resource in config.resources.iter().filter(wanted) {
        let name = &resource.name.value;
        let no = |yes: bool| if yes { "" } else { "not " };
        let _ = writeln!(
            out.text,
            "# resource {name} on {}: {}ignored, {}stacked\n# defined at {}",
            asked.host,
            no(ignored(name)),
            no(stacked(name)),
            sources.place(resource.name.at)
        );
        out.block(&format!("resource {}", quoted(name)), |out| out.resource(resource));
        out.text.push('\n');
    }
    out.text
}

struct Out {
    text: String,
    indent: usize,
    expanded: bool,
}

impl Out {
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{text}", "", indent = self.indent);
    }

    fn block(&mut self, heading: &str, body: impl FnOnce(&mut Out)) {
        self.line(&format!("{heading} {{"));
        self.indent += 4;
        body(self);
        self.indent -= 4;
        self.line("}");
    }

    fn field(&mut self, name: &str, value: &str) {
        let width = 24_usize.saturating_sub(self.indent);
        self.line(&format!("{name:<width$} {value:>3};"));
    }

    fn wide(&mut self, name: &str, value: &str) {
        self.line(&format!("{name:<16} {value};"));
    }

    fn global(&mut self, global: Option<&Global>) {
        let mut lines = Vec::new();
        if let Some(global) = global {
            if global.disable_ip_verification {
                lines.push("disable-ip-verification;".to_owned());
            }
            lines.extend(global.minor_count.map(|n| format!("minor-count {n};")));
            lines.extend(global.dialog_refresh.filter(|n| *n != 1).map(|n| format!("dialog-refresh {n};")));
            let usage = global.usage_count.as_ref().filter(|u| *u != "ask");
            lines.extend(usage.map(|u| format!("usage-count {u};")));
        }
        if self.expanded || !lines.is_empty() {
            self.block("global", |out| lines.iter().for_each(|l| out.line(l)));
            self.text.push('\n');
        }
    }

    fn resource(&mut self, resource: &Resource) {
        if let Some(template) = &resource.template_file {
            self.line(&format!("template-file {};", quoted(&template.value)));
        }
        for volume in &resource.volumes {
            self.volume(volume);
        }
        for host in &resource.hosts {
            self.host(host);
        }
        let expanded = self.expanded;
        for connection in resource.connections.iter().filter(|c| expanded || !c.generated) {
            self.connection(connection);
        }
        for mesh in &resource.meshes {
            self.mesh(mesh);
        }
        self.sections(&resource.sections);
    }

    fn sections(&mut self, sections: &Sections) {
        self.settings("options", &sections.options);
        self.settings("net", &sections.net);
        self.disk_settings(&sections.disk);
        self.settings("startup", &sections.startup);
        self.settings("handlers", &sections.handlers);
        self.proxy_settings("proxy", &sections.proxy);
    }

    fn settings(&mut self, heading: &str, settings: &Settings) {
        if !settings.is_empty() {
            self.block(heading, |out| out.fields(settings));
        }
    }

    fn fields(&mut self, settings: &Settings) {
        for setting in &settings.0 {
            match &setting.value {
                Some(value) => self.field(&setting.name, &quoted(value)),
                None => self.line(&format!("{};", setting.name)),
            }
        }
    }

    fn disk_settings(&mut self, disk: &DiskSettings) {
        if !disk.is_empty() {
            self.block("disk", |out| {
                out.fields(&disk.device);
                out.fields(&disk.backing);
                out.fields(&disk.peer_device);
            });
        }
    }

    fn proxy_settings(&mut self, heading: &str, proxy: &ProxySettings) {
        if *proxy == ProxySettings::default() {
            return;
        }
        self.block(heading, |out| {
            out.fields(&proxy.options);
            if !proxy.plugins.is_empty() {
                out.block("plugin", |out| proxy.plugins.iter().for_each(|p| out.line(&format!("{p};"))));
            }
        });
    }

    fn volume(&mut self, volume: &Volume) {
        if volume.implicit {
            self.volume_body(volume);
        } else {
            self.block(&format!("volume {}", volume.number), |out| out.volume_body(volume));
        }
    }

    fn volume_body(&mut self, volume: &Volume) {
        self.disk_settings(&volume.settings);
        self.device(volume);
        match &volume.disk {
            Some(Disk::None) => {
                self.field("disk", "none");
                return;
            }
            Some(Disk::Path(path)) => self.field("disk", &quoted(path)),
            None => {}
        }
        match &volume.meta_disk {
            Some(MetaDisk::Internal) => self.field("meta-disk", "internal"),
            Some(MetaDisk::Flexible(path)) => self.wide("meta-disk", &quoted(path)),
            Some(MetaDisk::Indexed(path, index)) => {
                self.wide("meta-disk", &format!("{} [{index}]", quoted(path)));
            }
            None => {}
        }
    }

    fn device(&mut self, volume: &Volume) {
        if let Some(device) = &volume.device {
            let name = device.name.as_ref().map_or(String::new(), |n| format!("{n} "));
            self.field("device", &format!("{name}minor {}", device.minor));
        }
    }

    fn host(&mut self, host: &Host) {
        let names: Vec<&str> = host.names.iter().map(|n| n.value.as_str()).collect();
        let heading = match (&host.kind, &host.address) {
            (HostKind::Floating, Some(address)) => format!("{:<16} {}", "floating", family_first(address)),
            (HostKind::Stacked { lower }, _) => format!("stacked-on-top-of {}", quoted(&lower.value)),
            _ => format!("on {}", names.join(" ")),
        };
        self.block(&heading, |out| out.host_body(host, &names));
    }

    fn host_body(&mut self, host: &Host, names: &[&str]) {
        if matches!(host.kind, HostKind::Stacked { .. }) {
            self.line(&format!("# on {} ", names.join(" ")));
        }
        if let Some(id) = host.node_id {
            self.line(&format!("node-id {id};"));
        }
        self.settings("options", &host.options);
        match host.kind {
            HostKind::Stacked { .. } => {
                if self.expanded {
                    host.volumes.iter().for_each(|v| self.device(v));
                }
            }
            HostKind::On | HostKind::Floating => host.volumes.iter().for_each(|v| self.volume(v)),
        }
        if let (Some(address), HostKind::On | HostKind::Stacked { .. }) = (&host.address, &host.kind) {
            self.wide("address", &family_first(address));
        }
        if let (Some(proxy), false) = (&host.proxy, self.expanded) {
            self.proxy("", proxy);
        }
    }

    fn proxy(&mut self, lead: &str, proxy: &Proxy) {
        let hosts: Vec<&str> = proxy.hosts.iter().map(|n| n.value.as_str()).collect();
        self.block(&format!("{lead}proxy on {}", hosts.join(" ")), |out| {
            for (name, address) in [("inside", &proxy.inside), ("outside", &proxy.outside)] {
                if let Some(address) = address {
                    out.wide(name, &family_first(address));
                }
            }
            out.proxy_settings("options", &proxy.settings);
        });
    }

    fn connection(&mut self, connection: &Connection) {
        self.block("connection", |out| {
            for path in &connection.paths {
                if connection.implicit_path && !out.expanded {
                    out.path_body(path);
                } else {
                    out.block("path", |out| out.path_body(path));
                }
            }
            out.settings("net", &connection.net);
            out.settings("disk", &connection.peer_device);
            for (number, settings) in &connection.volumes {
                out.block(&format!("volume {number}"), |out| out.settings("disk", settings));
            }
        });
    }

    fn path_body(&mut self, path: &Path) {
        for end in &path.ends {
            let gap = " ".repeat(self.indent);
            let mut line = format!("host {}", end.host.value);
            if let Some(address) = &end.address {
                let _ = write!(line, " {gap}{:<16}{}", "address", family_first(address));
            }
            match (&end.proxy, self.expanded) {
                (Some(proxy), true) => self.proxy(&format!("{line} {gap}via "), proxy),
                _ => self.line(&format!("{line};")),
            }
        }
    }

    fn mesh(&mut self, mesh: &Mesh) {
        let hosts: Vec<&str> = mesh.hosts.iter().map(|n| n.value.as_str()).collect();
        self.block("connection-mesh", |out| {
            out.line(&format!("hosts {};", hosts.join(" ")));
            out.settings("net", &mesh.net);
        });
    }
}

fn family_first(address: &Address) -> String {
    format!("{} {}", address.family, address.endpoint())
}

/// A value as it can be read again.
fn quoted(value: &str) -> String {
    if is_plain_word(value) {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    }
}
