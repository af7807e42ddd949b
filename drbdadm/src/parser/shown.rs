//! The text of `drbdsetup show`: the grammar of the files, with `_this_host`, `_peer_node_id` and the like.

use super::{Parsed, Parser};
use crate::diagnostics::Diagnostic;
use crate::lexer::Token;
use crate::syntax::{Address, Disk, DiskSettings, MetaDisk, Settings, Volume};
use drbd_core::config::options::Section;

/// A running resource.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// Name.
    pub name: String,
    /// Resource options that are set.
    pub options: Settings,
    /// Our node id.
    pub node_id: Option<u32>,
    /// Volumes.
    pub volumes: Vec<ShownVolume>,
    /// Connections.
    pub connections: Vec<ShownConnection>,
}

/// A running volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShownVolume {
    /// Number.
    pub number: u32,
    /// Minor.
    pub minor: u32,
    /// Attached disk.
    pub disk: Option<String>,
    /// Its metadata.
    pub meta_disk: Option<MetaDisk>,
    /// `disk { }`.
    pub settings: DiskSettings,
}

/// A running connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShownConnection {
    /// The peer.
    pub peer_id: u32,
    /// Paths, ours first.
    pub paths: Vec<(Address, Address)>,
    /// `_cstate StandAlone`.
    pub standalone: bool,
    /// `net { }`.
    pub net: Settings,
    /// `volume N { disk { } }`.
    pub peer_devices: Vec<(u32, Settings)>,
}

const RESOURCE: &str = "options | _this_host | connection";
const CONNECTION: &str = "_peer_node_id | path | _cstate | _is_standalone | net | volume";

impl Parser<'_> {
    /// Every resource shown, and what could not be understood.
    pub fn shown(mut self) -> (Vec<Shown>, Vec<Diagnostic>) {
        let mut resources = Vec::new();
        while *self.peek() != Token::End {
            match self.shown_resource() {
                Ok(resource) => resources.push(resource),
                Err(_) => break,
            }
        }
        (resources, self.noted)
    }

    fn shown_resource(&mut self) -> Parsed<Shown> {
        if !self.accept_word("resource") {
            return Err(self.unexpected("resource"));
        }
        let mut shown = Shown { name: self.string("a resource name")?.value, ..Shown::default() };
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(RESOURCE)?;
            match word.value.as_str() {
                "options" => shown.options = self.settings(Section::Resource)?,
                "_this_host" => self.shown_host(&mut shown)?,
                "connection" => shown.connections.push(self.shown_connection()?),
                _ => return Err(self.unexpected_word(&word, RESOURCE, true, &[])),
            }
        }
        Ok(shown)
    }

    fn shown_host(&mut self, shown: &mut Shown) -> Parsed<()> {
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword("node-id | volume")?;
            match word.value.as_str() {
                "node-id" => {
                    shown.node_id = Some(self.number("node-id", 0..=31)?);
                    self.expect(';')?;
                }
                "volume" => {
                    let volume = self.volume(&word)?;
                    shown.volumes.extend(shown_volume(volume));
                }
                _ => return Err(self.unexpected_word(&word, "node-id | volume", true, &[])),
            }
        }
        Ok(())
    }

    fn shown_connection(&mut self) -> Parsed<ShownConnection> {
        let mut shown = ShownConnection::default();
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(CONNECTION)?;
            match word.value.as_str() {
                "_peer_node_id" => {
                    shown.peer_id = self.number("_peer_node_id", 0..=31)?;
                    self.expect(';')?;
                }
                "path" => shown.paths.extend(self.shown_path()?),
                "_cstate" => {
                    shown.standalone = self.string("a connection state")?.value == "StandAlone";
                    self.expect(';')?;
                }
                "_is_standalone" => {
                    shown.standalone = true;
                    self.expect(';')?;
                }
                "net" => shown.net = self.settings(Section::Net)?,
                "volume" => {
                    let number = self.number("volume", 0..=65_534)?;
                    let settings = self.peer_device_volume()?;
                    shown.peer_devices.push((number, settings));
                }
                _ => return Err(self.unexpected_word(&word, CONNECTION, true, &[])),
            }
        }
        Ok(shown)
    }

    fn shown_path(&mut self) -> Parsed<Option<(Address, Address)>> {
        let (mut local, mut remote) = (None, None);
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword("_this_host | _remote_host")?;
            match word.value.as_str() {
                "_this_host" => local = Some(self.address()?),
                "_remote_host" => remote = Some(self.address()?),
                _ => return Err(self.unexpected_word(&word, "_this_host | _remote_host", true, &[])),
            }
            self.expect(';')?;
        }
        Ok(local.zip(remote))
    }
}

fn shown_volume(volume: Volume) -> Option<ShownVolume> {
    let disk = match volume.disk {
        Some(Disk::Path(path)) => Some(path),
        Some(Disk::None) | None => None,
    };
    Some(ShownVolume {
        number: volume.number,
        minor: volume.device?.minor,
        disk,
        meta_disk: volume.meta_disk,
        settings: volume.settings,
    })
}
