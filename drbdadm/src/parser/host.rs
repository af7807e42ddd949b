//! Host sections (`on`, `floating`, `stacked-on-top-of`), addresses and `proxy on`.

use super::resource::implicit_volume;
use super::{Parsed, Parser};
use crate::lexer::Token;
use crate::syntax::{Address, Host, HostKind, Proxy, ProxySettings, Settings, Text};
use drbd_core::config::options::Section;
use drbd_core::limits::NODES_MAX;

const HOST: &[&str] = &[
    "disk",
    "device",
    "address",
    "meta-disk",
    "flexible-meta-disk",
    "proxy",
    "node-id",
    "volume",
    "options",
    "skip",
];

const FAMILIES: &[&str] = &["ipv4", "ipv6", "ssocks", "sdp", "sci"];

impl Parser<'_> {
    /// `on NAME… { … }`.
    pub(super) fn on_host(&mut self, word: &Text) -> Parsed<Host> {
        let names = self.host_names()?;
        let mut host = new_host(HostKind::On, names, word);
        self.host_body(&mut host)?;
        Ok(host)
    }

    /// `stacked-on-top-of RES { … }`.
    pub(super) fn stacked_host(&mut self, word: &Text) -> Parsed<Host> {
        let lower = self.string("a resource name")?;
        let mut host = new_host(HostKind::Stacked { lower }, Vec::new(), word);
        self.host_body(&mut host)?;
        Ok(host)
    }

    /// `floating ADDRESS;` or `floating ADDRESS { … }`.
    pub(super) fn floating_host(&mut self, word: &Text) -> Parsed<Host> {
        let address = self.address()?;
        let name = match address.family.as_str() {
            "ipv4" => address.endpoint(),
            family => format!("{family} {}", address.endpoint()),
        };
        let mut host = new_host(HostKind::Floating, vec![Text { value: name, at: address.at }], word);
        host.address = Some(address);
        if !self.accept(';') {
            self.host_body(&mut host)?;
        }
        Ok(host)
    }

    /// Host names up to the brace.
    fn host_names(&mut self) -> Parsed<Vec<Text>> {
        let mut names = vec![self.string("a host name")?];
        while *self.peek() != Token::Punctuation('{') {
            names.push(self.string("{")?);
        }
        Ok(names)
    }

    fn host_body(&mut self, host: &mut Host) -> Parsed<()> {
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&HOST.join(" | "))?;
            self.host_part(&word, host)?;
        }
        Ok(())
    }

    fn host_part(&mut self, word: &Text, host: &mut Host) -> Parsed<()> {
        match word.value.as_str() {
            "disk" if *self.peek() == Token::Punctuation('{') => {
                let disk = self.disk_settings(None)?;
                implicit_volume(&mut host.volumes, word.at).settings.append(disk);
            }
            "device" | "disk" | "meta-disk" | "flexible-meta-disk" => {
                let volume = implicit_volume(&mut host.volumes, word.at);
                self.volume_part(word, volume)?;
            }
            "address" => {
                host.address = Some(self.address()?);
                if self.accept_word("via") {
                    host.proxy = Some(self.via_proxy()?);
                }
                if host.proxy.is_none() || *self.peek() == Token::Punctuation(';') {
                    self.expect(';')?;
                }
            }
            "proxy" => host.proxy = Some(self.proxy()?),
            "node-id" => {
                host.node_id = Some(self.number("node-id", 0..=(NODES_MAX as u32 - 1))?);
                self.expect(';')?;
            }
            "volume" => {
                let volume = self.volume(word)?;
                host.volumes.push(volume);
            }
            "options" => host.options.0.extend(self.settings(Section::Resource)?.0),
            "skip" => self.skip_block()?,
            _ => return Err(self.unexpected_word(word, &HOST.join(" | "), true, HOST)),
        }
        Ok(())
    }

    /// `[family] ADDR:PORT`.
    pub(super) fn address(&mut self) -> Parsed<Address> {
        let at = self.at();
        let mut family = None;
        if let Token::Word(word) = self.peek().clone() {
            if FAMILIES.contains(&word.as_str()) {
                family = Some(word);
                self.advance();
            }
        }
        let (ip, bracketed) = match self.peek().clone() {
            Token::Ipv6(ip) => {
                self.advance();
                (ip, true)
            }
            _ => (self.string("an address")?.value, false),
        };
        let family = family.unwrap_or_else(|| if bracketed { "ipv6" } else { "ipv4" }.to_owned());
        self.expect(':')?;
        let port = self.string("a port number")?;
        if !port.value.parse::<u16>().is_ok_and(|p| p > 0) {
            self.bad_value("port", &port, "Value is not a number.", Some("1 to 65535".to_owned()));
        }
        if family == "ipv4" && ip.parse::<std::net::Ipv4Addr>().is_err() {
            let said = Text { value: ip.clone(), at };
            self.bad_value(
                "address",
                &said,
                "Value is not valid.",
                Some("an address like 10.1.1.1".to_owned()),
            );
        }
        Ok(Address { family, ip, port: port.value, at })
    }

    /// After `via`: `proxy on HOST { … }`.
    pub(super) fn via_proxy(&mut self) -> Parsed<Proxy> {
        if !self.accept_word("proxy") {
            return Err(self.unexpected("proxy"));
        }
        self.proxy()
    }

    /// `on HOST { inside …; outside …; }`.
    fn proxy(&mut self) -> Parsed<Proxy> {
        if !self.accept_word("on") {
            return Err(self.unexpected("on"));
        }
        let hosts = self.host_names()?;
        let mut proxy = Proxy { hosts, inside: None, outside: None, settings: ProxySettings::default() };
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword("inside | outside")?;
            match word.value.as_str() {
                "inside" => proxy.inside = Some(self.address()?),
                "outside" => proxy.outside = Some(self.address()?),
                "options" => {
                    proxy.settings = self.proxy_settings()?;
                    continue;
                }
                _ => {
                    let known = ["inside", "outside", "options"];
                    return Err(self.unexpected_word(&word, "inside | outside", true, &known));
                }
            }
            self.expect(';')?;
        }
        Ok(proxy)
    }
}

fn new_host(kind: HostKind, names: Vec<Text>, word: &Text) -> Host {
    Host {
        kind,
        names,
        node_id: None,
        address: None,
        proxy: None,
        volumes: Vec::new(),
        options: Settings::default(),
        at: word.at,
    }
}
