//! The body of a resource, its volumes included.

use super::{Parsed, Parser};
use crate::diagnostics::{Diagnostic, Position};
use crate::lexer::Token;
use crate::syntax::{Connection, Device, Disk, MetaDisk, Resource, Text, Volume};

const RESOURCE: &[&str] = &[
    "protocol",
    "on",
    "disk",
    "net",
    "syncer",
    "startup",
    "handlers",
    "connection",
    "ignore-on",
    "stacked-on-top-of",
    "skip",
    "options",
    "proxy",
    "volume",
    "device",
    "meta-disk",
    "flexible-meta-disk",
    "floating",
    "connection-mesh",
    "template-file",
];

/// The words DRBD lists when it expected something else in a resource.
const RESOURCE_SHOWN: usize = 11;

const VOLUME: &[&str] = &["device", "disk", "meta-disk", "flexible-meta-disk", "skip"];

/// Largest minor and volume number of DRBD.
const MINOR_MAX: u32 = (1 << 20) - 1;
const VOLUME_MAX: u32 = 65_534;

impl Parser<'_> {
    /// `NAME { … }`.
    pub(super) fn resource(&mut self) -> Parsed<Resource> {
        let name = self.string("a resource name")?;
        let mut resource = Resource::new(name);
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&RESOURCE[..RESOURCE_SHOWN].join(" | "))?;
            self.resource_part(&word, &mut resource)?;
        }
        Ok(resource)
    }

    fn resource_part(&mut self, word: &Text, resource: &mut Resource) -> Parsed<()> {
        match word.value.as_str() {
            "on" => {
                let host = self.on_host(word)?;
                resource.hosts.push(host);
            }
            "stacked-on-top-of" => {
                let host = self.stacked_host(word)?;
                resource.hosts.push(host);
            }
            "floating" => {
                let host = self.floating_host(word)?;
                resource.hosts.push(host);
            }
            "connection" => self.connection_of(resource, word)?,
            "connection-mesh" => {
                let mesh = self.mesh(word)?;
                resource.meshes.push(mesh);
            }
            "volume" => {
                let volume = self.volume(word)?;
                resource.volumes.push(volume);
            }
            "disk" if *self.peek() == Token::Punctuation('{') => {
                let disk = self.disk_settings(Some(&mut resource.sections.net))?;
                resource.sections.disk.append(disk);
            }
            "device" | "disk" | "meta-disk" | "flexible-meta-disk" => {
                let volume = implicit_volume(&mut resource.volumes, word.at);
                self.volume_part(word, volume)?;
            }
            "ignore-on" => {
                resource.ignore_on.push(self.string("a host name")?);
                self.expect(';')?;
            }
            "template-file" => {
                resource.template_file = Some(self.string("a file name")?);
                self.expect(';')?;
            }
            "skip" => self.skip_block()?,
            _ => {
                if !self.shared_section(word, &mut resource.sections)? {
                    let shown = RESOURCE[..RESOURCE_SHOWN].join(" | ");
                    return Err(self.unexpected_word(word, &shown, true, RESOURCE));
                }
            }
        }
        Ok(())
    }

    fn connection_of(&mut self, resource: &mut Resource, word: &Text) -> Parsed<()> {
        if *self.peek() != Token::Punctuation('{') {
            let name = self.string("a connection name")?;
            let said =
                format!("naming a connection is deprecated; the name '{}' will be ignored", name.value);
            self.noted.push(Diagnostic::error(self.sources, name.at, &said).warning().without_caret());
        }
        let connection: Connection = self.connection(word)?;
        resource.connections.push(connection);
        Ok(())
    }

    /// `volume N { … }`.
    pub(super) fn volume(&mut self, word: &Text) -> Parsed<Volume> {
        let number = self.number("volume", 0..=VOLUME_MAX)?;
        let mut volume = Volume::new(number, false, word.at);
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&VOLUME.join(" | "))?;
            if word.value == "skip" {
                self.skip_block()?;
            } else if word.value == "disk" && *self.peek() == Token::Punctuation('{') {
                let disk = self.disk_settings(None)?;
                volume.settings.append(disk);
            } else if VOLUME.contains(&word.value.as_str()) {
                self.volume_part(&word, &mut volume)?;
            } else {
                return Err(self.unexpected_word(&word, &VOLUME.join(" | "), true, VOLUME));
            }
        }
        Ok(volume)
    }

    /// `device`, `disk`, `meta-disk` or `flexible-meta-disk` of a volume.
    pub(super) fn volume_part(&mut self, word: &Text, volume: &mut Volume) -> Parsed<()> {
        match word.value.as_str() {
            "device" => volume.device = self.device(word)?,
            "disk" => {
                let path = self.string("a device path")?;
                volume.disk = Some(if path.value == "none" { Disk::None } else { Disk::Path(path.value) });
            }
            "meta-disk" => {
                let path = self.string("a device path")?;
                volume.meta_disk = Some(self.meta_disk(path)?);
            }
            _ => {
                let path = self.string("a device path")?;
                volume.meta_disk = Some(external(path.value));
            }
        }
        self.expect(';')
    }

    fn meta_disk(&mut self, path: Text) -> Parsed<MetaDisk> {
        if path.value == "internal" || !self.accept('[') {
            return Ok(external(path.value));
        }
        let index = self.number("meta-disk", 0..=99_999_999)?;
        self.expect(']')?;
        Ok(MetaDisk::Indexed(path.value, index))
    }

    /// `[NAME] [minor N]`; `None` if neither gives a minor, which was noted.
    fn device(&mut self, word: &Text) -> Parsed<Option<Device>> {
        let mut name = None;
        if !self.accept_word("minor") {
            let text = self.string("a device name")?;
            name = Some(text);
            if *self.peek() == Token::Punctuation(';') {
                return Ok(self.device_of(name, None, word.at));
            }
            if !self.accept_word("minor") {
                return Err(self.unexpected("minor | ;"));
            }
        }
        let minor = self.number("minor", 0..=MINOR_MAX)?;
        Ok(self.device_of(name, Some(minor), word.at))
    }

    fn device_of(&mut self, name: Option<Text>, minor: Option<u32>, at: Position) -> Option<Device> {
        let place = name.as_ref().map_or(at, |n| n.at);
        let short = name.as_ref().map(|n| n.value.strip_prefix("/dev/").unwrap_or(&n.value));
        let number = short.and_then(|s| s.strip_prefix("drbd")).and_then(|n| n.parse::<u32>().ok());
        if short.is_some_and(|s| !s.starts_with("drbd")) {
            let said = "device name must start with /dev/drbd\n\t(/dev/ is optional, but drbd is required)";
            self.noted.push(Diagnostic::error(self.sources, place, said));
        } else if let (Some(minor), Some(short)) = (minor, short) {
            if number != Some(minor) && !short.starts_with("drbd_") {
                let said = format!(
                    "explicit minor number must match with device name\n\tTry \"device /dev/drbd{minor} minor {minor};\",\n\tor leave off either device name or explicit minor.\n\tArbitrary device names must start with /dev/drbd_\n\tmind the '_'! (/dev/ is optional, but drbd_ is required)"
                );
                self.noted.push(Diagnostic::error(self.sources, place, &said));
            }
        }
        let Some(minor) = minor.or(number) else {
            let said = "no minor given nor device name contains a minor number";
            self.noted.push(Diagnostic::error(self.sources, place, said).without_caret());
            return None;
        };
        let name = name.map(|n| if n.value.starts_with('/') { n.value } else { format!("/dev/{}", n.value) });
        Some(Device { name, minor, at })
    }
}

fn external(path: String) -> MetaDisk {
    if path == "internal" {
        MetaDisk::Internal
    } else {
        MetaDisk::Flexible(path)
    }
}

/// The volume that `device`, `disk` and `meta-disk` outside any `volume { }` mean.
pub(super) fn implicit_volume(volumes: &mut Vec<Volume>, at: Position) -> &mut Volume {
    let known = volumes.iter().position(|v| v.implicit);
    let index = known.unwrap_or_else(|| {
        volumes.insert(0, Volume::new(0, true, at));
        0
    });
    &mut volumes[index]
}
