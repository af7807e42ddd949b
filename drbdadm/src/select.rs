//! Resource arguments: `all`, `R`, `R/V`, `R:PEER`, `R:PEER/V`, `minor-N`.

use crate::commands::Command;
use crate::diagnostics::{way_out, Sources};
use crate::host::ThisHost;
use crate::plan::Selected;
use crate::syntax::{same_host, Config, Host};
use crate::wanted::Wanted;

/// Why an argument selects nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Miss {
    /// What to say.
    pub said: String,
    /// Exit code.
    pub code: i32,
}

/// All that arguments can be matched against.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Resources of this host, stacked ones included.
    pub wanted: &'a [Wanted],
    /// The configuration, to say what it does know.
    pub config: &'a Config,
    /// Its texts.
    pub sources: &'a Sources,
    /// Who we are.
    pub here: &'a ThisHost,
    /// `-S`.
    pub stacked: bool,
}

impl<'a> Choice<'a> {
    /// Everything an argument means.
    pub fn select(&self, command: &Command, argument: &str) -> Result<Vec<Selected<'a>>, Miss> {
        let exact = self.wanted.iter().find(|w| w.name == argument);
        if argument == "all" && exact.is_none() {
            return self.all();
        }
        let selected = match exact {
            Some(resource) => Selected { resource, volume: None, peer: None },
            None => self.part(command, argument)?,
        };
        self.fits_mode(selected.resource, argument)?;
        Ok(vec![selected])
    }

    /// Every resource of this mode.
    pub fn all(&self) -> Result<Vec<Selected<'a>>, Miss> {
        if self.config.resources.is_empty() {
            return Err(miss("no resources defined!".to_owned()));
        }
        let fit = self.wanted.iter().filter(|w| w.stacked == self.stacked);
        let all: Vec<Selected<'a>> =
            fit.map(|resource| Selected { resource, volume: None, peer: None }).collect();
        if all.is_empty() {
            return Err(miss(self.nothing_for_this_host()));
        }
        Ok(all)
    }

    fn nothing_for_this_host(&self) -> String {
        let kind = if self.stacked { "stacked" } else { "normal" };
        let name = &self.here.name;
        let hosts = self.config.resources.iter().flat_map(|r| &r.hosts).flat_map(|h| &h.names);
        let mut known: Vec<&str> = hosts.map(|n| n.value.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        known.truncate(32);
        format!(
            "WARN: no {kind} resources defined for this host ({name})!?\nMisspelled name of the local machine with the 'on' keyword ?\n{}",
            way_out(&format!("this host is called '{name}' (uname -n); the configuration names: {}", known.join(" ")))
        )
    }

    fn part(&self, command: &Command, argument: &str) -> Result<Selected<'a>, Miss> {
        if let Some(minor) = argument.strip_prefix("minor-").and_then(|m| m.parse::<u32>().ok()) {
            return self.minor(minor).ok_or_else(|| self.undefined(argument));
        }
        let (rest, volume) = match argument.rsplit_once('/') {
            Some((rest, number)) => (rest, Some(number)),
            None => (argument, None),
        };
        let number = match volume.map(str::parse::<u32>) {
            Some(Err(_)) => {
                let said = format!("{} is not a valid number", volume.unwrap_or(""));
                return Err(Miss { said, code: 20 });
            }
            Some(Ok(number)) => Some(number),
            None => None,
        };
        let (name, peer) = match rest.split_once(':') {
            Some((name, peer)) => (name, Some(peer)),
            None => (rest, None),
        };
        let resource = self.wanted.iter().find(|w| w.name == name).ok_or_else(|| self.undefined(argument))?;
        if let Some(number) = number {
            check_volume(command, resource, number, argument)?;
        }
        let peer = peer.map(|peer| peer_id(resource, peer)).transpose()?;
        Ok(Selected { resource, volume: number, peer })
    }

    fn minor(&self, minor: u32) -> Option<Selected<'a>> {
        self.wanted.iter().find_map(|resource| {
            let volume = resource.volumes.iter().find(|v| v.minor == minor)?;
            Some(Selected { resource, volume: Some(volume.number), peer: None })
        })
    }

    fn fits_mode(&self, resource: &Wanted, argument: &str) -> Result<(), Miss> {
        match (resource.stacked, self.stacked) {
            (true, false) => {
                Err(miss(format!("'{argument}' is a stacked resource, and not available in normal mode.")))
            }
            (false, true) => {
                Err(miss(format!("'{argument}' is a normal resource, and not available in stacked mode.")))
            }
            _ => Ok(()),
        }
    }

    fn undefined(&self, argument: &str) -> Miss {
        let mut said = format!("'{argument}' not defined in your config (for this host).");
        let name = argument.split(['/', ':']).next().unwrap_or(argument);
        if let Some(resource) = self.config.resources.iter().find(|r| r.name.value == name) {
            let hosts: Vec<String> = resource.hosts.iter().map(Host::heading).collect();
            let place = self.sources.place(resource.name.at);
            let hosts = hosts.join(", ");
            let here = &self.here.name;
            let hint = format!("this host is called '{here}'; {place} defines '{name}' for: {hosts}");
            said.push_str(&format!("\n{}", way_out(&hint)));
        } else if argument.starts_with('-') {
            let hint = format!("after '--' every word is a resource: put {argument} in front of it");
            said.push_str(&format!("\n{}", way_out(&hint)));
        } else {
            let known: Vec<&str> = self.wanted.iter().map(|w| w.name.as_str()).take(32).collect();
            said.push_str(&format!("\n{}", way_out(&format!("resources of this host: {}", known.join(" ")))));
        }
        miss(said)
    }
}

fn miss(said: String) -> Miss {
    Miss { said, code: 1 }
}

fn check_volume(command: &Command, resource: &Wanted, number: u32, argument: &str) -> Result<(), Miss> {
    if command.takes_whole_resources() {
        let name = command.name;
        return Err(miss(format!(
            "{name} operates on whole resources, but you specified a specific volume!"
        )));
    }
    if resource.volumes.iter().any(|v| v.number == number) {
        return Ok(());
    }
    Err(miss(format!(
        "Resource '{}' has no volume {number}\n'{argument}' unexpected ctx_by_* result r=-2",
        resource.name
    )))
}

fn peer_id(resource: &Wanted, peer: &str) -> Result<u32, Miss> {
    let called = |names: &[String]| names.iter().any(|n| same_host(n, peer));
    if let Some(connection) = resource.connections.iter().find(|c| called(&c.called)) {
        return Ok(connection.peer_id);
    }
    let known: Vec<&str> = resource.connections.iter().map(|c| c.name.as_str()).collect();
    let hint = way_out(&format!("its peers are: {}", known.join(" ")));
    Err(miss(format!("Resource '{}' has no connection to '{peer}'\n{hint}", resource.name)))
}
