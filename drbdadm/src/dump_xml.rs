//! `drbdadm dump-xml`: the configuration for programs. Hosts are complete, options stand where they were written.

use crate::diagnostics::Sources;
use crate::syntax::{
    Address, Config, Connection, Disk, Global, Host, HostKind, MetaDisk, PathEnd, Proxy, ProxySettings,
    Resource, Sections, Settings, Volume,
};
use crate::wanted::shown_name;
use std::fmt::Write as _;

/// The text of a dump: options of `written`, volumes of `expanded`.
pub fn dump_xml(written: &Config, expanded: &Config, sources: &Sources, only: Option<&str>) -> String {
    let mut out = Out { text: String::new(), indent: 0 };
    out.element(&format!("config file=\"{}\"", escaped(&written.file)), |out| {
        out.global(written.global.as_ref());
        if let Some(common) = &written.common {
            out.element("common", |out| out.sections(common));
        }
        let all = written.resources.iter().zip(&expanded.resources);
        for (resource, full) in all.filter(|(r, _)| only.is_none_or(|name| r.name.value == name)) {
            let place = sources.place(resource.name.at);
            let name = escaped(&resource.name.value);
            let heading = format!("resource name=\"{name}\" conf-file-line=\"{}\"", escaped(&place));
            out.element(&heading, |out| out.resource(resource, full));
        }
    });
    out.text
}

struct Out {
    text: String,
    indent: usize,
}

impl Out {
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{text}", "", indent = self.indent);
    }

    fn element(&mut self, heading: &str, body: impl FnOnce(&mut Out)) {
        self.line(&format!("<{heading}>"));
        self.indent += 4;
        body(self);
        self.indent -= 4;
        self.line(&format!("</{}>", heading.split(' ').next().unwrap_or(heading)));
    }

    fn global(&mut self, global: Option<&Global>) {
        let Some(global) = global else { return };
        let mut lines = Vec::new();
        if global.disable_ip_verification {
            lines.push("<disable-ip-verification/>".to_owned());
        }
        lines.extend(global.minor_count.map(|n| format!("<minor-count count=\"{n}\"/>")));
        let refresh = global.dialog_refresh.filter(|n| *n != 1);
        lines.extend(refresh.map(|n| format!("<dialog-refresh refresh=\"{n}\"/>")));
        if !lines.is_empty() {
            self.element("global", |out| lines.iter().for_each(|l| out.line(l)));
        }
    }

    fn sections(&mut self, sections: &Sections) {
        let disk = &sections.disk;
        self.section("options", &[&sections.options]);
        self.section("net", &[&sections.net]);
        self.section("disk", &[&disk.device, &disk.backing, &disk.peer_device]);
        self.section("startup", &[&sections.startup]);
        self.section("handlers", &[&sections.handlers]);
        self.proxy_settings(&sections.proxy);
    }

    fn section(&mut self, name: &str, lists: &[&Settings]) {
        if lists.iter().all(|l| l.is_empty()) {
            return;
        }
        self.element(&format!("section name=\"{name}\""), |out| {
            lists.iter().for_each(|list| out.options(list));
        });
    }

    fn options(&mut self, settings: &Settings) {
        for setting in &settings.0 {
            let value =
                setting.value.as_ref().map_or(String::new(), |v| format!(" value=\"{}\"", escaped(v)));
            self.line(&format!("<option name=\"{}\"{value}/>", setting.name));
        }
    }

    fn proxy_settings(&mut self, proxy: &ProxySettings) {
        if *proxy == ProxySettings::default() {
            return;
        }
        self.element("section name=\"proxy\"", |out| {
            out.options(&proxy.options);
            if !proxy.plugins.is_empty() {
                out.element("section name=\"plugin\"", |out| {
                    for plugin in &proxy.plugins {
                        out.line(&format!("<option name=\"{}\"/>", escaped(plugin)));
                    }
                });
            }
        });
    }

    fn resource(&mut self, written: &Resource, full: &Resource) {
        if let Some(template) = &written.template_file {
            self.line(&format!("<template file=\"{}\"/>", escaped(&template.value)));
        }
        for (host, full) in written.hosts.iter().zip(&full.hosts) {
            let names: Vec<&str> = host.names.iter().map(|n| n.value.as_str()).collect();
            let heading = match host.kind {
                HostKind::Floating => "host floating=\"1\"".to_owned(),
                HostKind::On | HostKind::Stacked { .. } => {
                    format!("host name=\"{}\"", escaped(&names.join(" ")))
                }
            };
            self.element(&heading, |out| {
                for volume in &full.volumes {
                    let name = written_name(written, host, volume.number);
                    out.element(&format!("volume vnr=\"{}\"", volume.number), |out| out.volume(volume, name));
                }
                if let Some(address) = &host.address {
                    out.line(&element_of(address, "address"));
                }
            });
        }
        for connection in &written.connections {
            self.element("connection", |out| out.connection(connection, written));
        }
        self.sections(&written.sections);
    }

    fn volume(&mut self, volume: &Volume, name: Option<&str>) {
        if let Some(device) = &volume.device {
            let name = escaped(name.unwrap_or(""));
            self.line(&format!("<device minor=\"{}\">{name}</device>", device.minor));
        }
        match &volume.disk {
            Some(Disk::Path(path)) => self.line(&format!("<disk>{}</disk>", escaped(path))),
            Some(Disk::None) => self.line("<disk>none</disk>"),
            None => {}
        }
        match &volume.meta_disk {
            Some(MetaDisk::Internal) => self.line("<meta-disk>internal</meta-disk>"),
            Some(MetaDisk::Flexible(path)) => self.line(&format!("<meta-disk>{}</meta-disk>", escaped(path))),
            Some(MetaDisk::Indexed(path, index)) => {
                self.line(&format!("<meta-disk index=\"{index}\">{}</meta-disk>", escaped(path)));
            }
            None => {}
        }
    }

    fn connection(&mut self, connection: &Connection, resource: &Resource) {
        for path in &connection.paths {
            if connection.implicit_path || connection.generated {
                path.ends.iter().for_each(|e| self.path_end(e, resource));
            } else {
                self.element("path", |out| path.ends.iter().for_each(|e| out.path_end(e, resource)));
            }
        }
        self.section("net", &[&connection.net]);
        self.section("disk", &[&connection.peer_device]);
        for (number, settings) in &connection.volumes {
            self.element(&format!("volume vnr=\"{number}\""), |out| out.section("disk", &[settings]));
        }
    }

    fn path_end(&mut self, end: &PathEnd, resource: &Resource) {
        let host = resource.hosts.iter().find(|h| h.joined_names() == end.host.value);
        let name = host.map_or_else(|| end.host.value.clone(), shown_name);
        let heading = format!("host name=\"{}\"", escaped(&name));
        let address = end.address.as_ref().map_or(String::new(), |a| element_of(a, "address"));
        let Some(proxy) = &end.proxy else {
            self.line(&format!("<{heading}>{address}</host>"));
            return;
        };
        self.element(&heading, |out| {
            out.line(&address);
            out.proxy(proxy);
        });
    }

    fn proxy(&mut self, proxy: &Proxy) {
        let hosts: Vec<&str> = proxy.hosts.iter().map(|h| h.value.as_str()).collect();
        self.element(&format!("proxy hostname=\"{}\"", escaped(&hosts.join(" "))), |out| {
            for (name, address) in [("inside", &proxy.inside), ("outside", &proxy.outside)] {
                if let Some(address) = address {
                    out.line(&element_of(address, name));
                }
            }
        });
    }
}

/// The device name as written for a volume of a host, at either level.
fn written_name<'a>(resource: &'a Resource, host: &'a Host, number: u32) -> Option<&'a str> {
    let mut levels = [&host.volumes, &resource.volumes].into_iter();
    let device = levels.find_map(|volumes| volumes.iter().find(|v| v.number == number)?.device.as_ref());
    device?.name.as_deref()
}

fn element_of(address: &Address, name: &str) -> String {
    let Address { family, ip, port, .. } = address;
    format!("<{name} family=\"{family}\" port=\"{}\">{}</{name}>", escaped(port), escaped(ip))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
