//! `show` in the syntax of drbd.conf: pure functions from the running configuration to text.

use crate::address::Address;
use drbd_core::config::options::Kind;
use drbd_core::config::{OptionSet, OptionSpec, OptionValue, Section};
use drbd_core::control::{Configuration, ConnectionConfiguration, VolumeConfiguration};
use std::fmt::Write;

/// The whole of `drbdsetup show`.
pub fn text(resources: &[Configuration], defaults: bool) -> String {
    let mut lines = Lines { text: String::new(), depth: 0, defaults };
    for one in resources {
        lines.resource(one);
        lines.text.push('\n');
    }
    lines.text
}

/// One option where it is shown: its description and its value.
#[derive(Clone, PartialEq, Debug)]
pub struct Shown {
    /// Of the option table.
    pub spec: &'static OptionSpec,
    /// Set or default.
    pub value: OptionValue,
    /// The value is the default.
    pub is_default: bool,
}

/// The options of a section with the values of a set.
pub fn section(section: Section, set: &OptionSet) -> Vec<Shown> {
    OptionSpec::of(section).map(|spec| shown(spec, set)).collect()
}

fn shown(spec: &'static OptionSpec, set: &OptionSet) -> Shown {
    let mut value = set.value(spec.name);
    if spec.name == "transport" && !set.is_set("transport") {
        // There is only one; DRBD shows the one in use, too.
        value = OptionValue::Text("tcp".to_owned());
    }
    let is_default = value == spec.default_value();
    Shown { spec, value, is_default }
}

/// The options of a volume's `disk` section: those of the disk while attached, then those of the device.
pub fn disk_section(volume: &VolumeConfiguration) -> Vec<Shown> {
    let mut options = Vec::new();
    if let Some(disk) = &volume.disk {
        options = section(Section::Disk, &disk.options);
        options.extend(OptionSpec::find("bitmap").map(|spec| shown(spec, &disk.options)));
    }
    options.extend(section(Section::Device, &volume.device_options));
    options
}

/// Whether the volume is diskless on purpose.
pub fn is_client(volume: &VolumeConfiguration) -> bool {
    volume.device_options.value("diskless") == OptionValue::Boolean(true)
}

impl Shown {
    /// The value with its prefix, as numbers are written.
    pub fn written(&self) -> String {
        match self.spec.kind {
            Kind::Number { prefix, .. } if prefix != '1' => format!("{}{prefix}", self.value),
            _ => self.value.to_string(),
        }
    }
}

struct Lines {
    text: String,
    depth: usize,
    defaults: bool,
}

impl Lines {
    fn line(&mut self, line: &str) {
        writeln!(self.text, "{:1$}{line}", "", self.depth * 4).expect("a string takes all");
    }

    fn open(&mut self, head: &str) {
        self.line(&format!("{head} {{"));
        self.depth += 1;
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }

    fn resource(&mut self, resource: &Configuration) {
        self.open(&format!("resource {}", quoted(&resource.resource)));
        self.options("options", &section(Section::Resource, &resource.options));
        self.open("_this_host");
        self.line(&format!("node-id\t\t\t{};", resource.node_id));
        for volume in &resource.volumes {
            self.volume(volume);
        }
        self.close();
        for connection in &resource.connections {
            self.connection(connection);
        }
        self.close();
    }

    fn volume(&mut self, volume: &VolumeConfiguration) {
        self.open(&format!("volume {}", volume.volume));
        self.line(&format!("device\t\t\tminor {};", volume.minor));
        if let Some(disk) = &volume.disk {
            self.line(&format!("disk\t\t\t{};", quoted(&disk.disk)));
            let meta = match disk.meta_index.as_str() {
                "internal" => "internal".to_owned(),
                "flexible" => quoted(&disk.meta_disk),
                index => format!("{} [ {index} ]", quoted(&disk.meta_disk)),
            };
            self.line(&format!("meta-disk\t\t\t{meta};"));
        } else if is_client(volume) {
            self.line("disk\t\t\tnone;");
        }
        self.options("disk", &disk_section(volume));
        self.close();
    }

    fn connection(&mut self, connection: &ConnectionConfiguration) {
        self.open("connection");
        self.line(&format!("_peer_node_id {};", connection.peer));
        for (local, remote) in &connection.paths {
            self.open("path");
            self.line(&format!("_this_host {};", Address::parse(local).configuration()));
            self.line(&format!("_remote_host {};", Address::parse(remote).configuration()));
            self.close();
        }
        self.line(&format!("_cstate {};", connection.connection));
        self.options("net", &section(Section::Net, &connection.options));
        for (volume, options) in &connection.volumes {
            let options = section(Section::PeerDevice, options);
            if self.defaults || options.iter().any(|o| !o.is_default) {
                self.open(&format!("volume {volume}"));
                self.options("disk", &options);
                self.close();
            }
        }
        self.close();
    }

    fn options(&mut self, head: &str, options: &[Shown]) {
        let told: Vec<&Shown> = options.iter().filter(|o| self.defaults || !o.is_default).collect();
        if told.is_empty() {
            return;
        }
        self.open(head);
        for option in told {
            self.option(option);
        }
        self.close();
    }

    fn option(&mut self, option: &Shown) {
        let mut remarks = Vec::new();
        let mut value = option.written();
        match option.spec.kind {
            Kind::Number { unit, .. } if !unit.is_empty() => remarks.push(unit),
            Kind::Text { .. } => value = quoted(&value),
            _ => {}
        }
        if option.is_default {
            remarks.push("default");
        }
        let remark = if remarks.is_empty() { String::new() } else { format!(" # {}", remarks.join(", ")) };
        self.line(&format!("{:<16}\t{value};{remark}", option.spec.name));
    }
}

/// A string of drbd.conf.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
