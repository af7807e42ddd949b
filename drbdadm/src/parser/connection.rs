//! `connection`, `path` and `connection-mesh`.

use super::{Parsed, Parser};
use crate::lexer::Token;
use crate::syntax::{Connection, Mesh, Path, PathEnd, Settings, Text};
use drbd_core::config::options::Section;

const CONNECTION: &[&str] = &["host", "path", "net", "disk", "volume", "skip"];
const MESH: &[&str] = &["hosts", "net"];

impl Parser<'_> {
    /// `{ host …; host …; net { } … }` after `connection`.
    pub(super) fn connection(&mut self, word: &Text) -> Parsed<Connection> {
        let mut connection = Connection {
            paths: Vec::new(),
            implicit_path: false,
            net: Settings::default(),
            peer_device: Settings::default(),
            volumes: Vec::new(),
            generated: false,
            at: word.at,
        };
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&CONNECTION.join(" | "))?;
            self.connection_part(&word, &mut connection)?;
        }
        Ok(connection)
    }

    fn connection_part(&mut self, word: &Text, connection: &mut Connection) -> Parsed<()> {
        match word.value.as_str() {
            "host" => {
                let end = self.path_end()?;
                if !connection.implicit_path {
                    connection.implicit_path = true;
                    connection.paths.insert(0, Path { ends: Vec::new(), at: word.at });
                }
                connection.paths[0].ends.push(end);
            }
            "path" => {
                let path = self.path(word)?;
                connection.paths.push(path);
            }
            "net" => connection.net.0.extend(self.settings(Section::Net)?.0),
            "disk" => connection.peer_device.0.extend(self.settings(Section::PeerDevice)?.0),
            "volume" => {
                let number = self.number("volume", 0..=65_534)?;
                let settings = self.peer_device_volume()?;
                connection.volumes.push((number, settings));
            }
            "skip" => self.skip_block()?,
            _ => return Err(self.unexpected_word(word, &CONNECTION.join(" | "), true, CONNECTION)),
        }
        Ok(())
    }

    pub(super) fn peer_device_volume(&mut self) -> Parsed<Settings> {
        let mut settings = Settings::default();
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword("disk")?;
            if word.value != "disk" {
                return Err(self.unexpected_word(&word, "disk", true, &["disk"]));
            }
            settings.0.extend(self.settings(Section::PeerDevice)?.0);
        }
        Ok(settings)
    }

    fn path(&mut self, word: &Text) -> Parsed<Path> {
        let mut path = Path { ends: Vec::new(), at: word.at };
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword("host")?;
            if word.value != "host" {
                return Err(self.unexpected_word(&word, "host", true, &["host"]));
            }
            path.ends.push(self.path_end()?);
        }
        Ok(path)
    }

    /// `NAME [address A:P] [port P] [via proxy …];`.
    fn path_end(&mut self) -> Parsed<PathEnd> {
        let host = match self.peek().clone() {
            // A floating host is called by its address.
            Token::Word(w) if w == "ipv6" => {
                let address = self.address()?;
                Text { value: format!("ipv6 {}", address.endpoint()), at: address.at }
            }
            _ => self.string("a host name")?,
        };
        let mut end = PathEnd { host, address: None, proxy: None };
        if self.accept(':') {
            let port = self.string("a port number")?;
            end.host.value = format!("{}:{}", end.host.value, port.value);
        }
        let mut port = None;
        loop {
            if self.accept(';') {
                break;
            } else if self.accept_word("address") {
                end.address = Some(self.address()?);
            } else if self.accept_word("port") {
                port = Some(self.string("a port number")?);
            } else if self.accept_word("via") {
                end.proxy = Some(self.via_proxy()?);
                if *self.peek() != Token::Punctuation(';') {
                    break;
                }
            } else {
                return Err(self.unexpected("address | port | via | ;"));
            }
        }
        if let (Some(port), Some(address)) = (port, &mut end.address) {
            address.port = port.value;
        }
        Ok(end)
    }

    /// `{ hosts …; net { } }` after `connection-mesh`.
    pub(super) fn mesh(&mut self, word: &Text) -> Parsed<Mesh> {
        let mut mesh = Mesh { hosts: Vec::new(), net: Settings::default(), at: word.at };
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&MESH.join(" | "))?;
            match word.value.as_str() {
                "hosts" => {
                    while !self.accept(';') {
                        mesh.hosts.push(self.string("a host name")?);
                    }
                }
                "net" => mesh.net.0.extend(self.settings(Section::Net)?.0),
                _ => return Err(self.unexpected_word(&word, &MESH.join(" | "), true, MESH)),
            }
        }
        Ok(mesh)
    }
}
