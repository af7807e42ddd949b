//! The host drbdadm runs on: its name, and which addresses are its own.

use crate::syntax::{same_host, Host, HostKind};
use nix::ifaddrs::getifaddrs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

/// Who we are.
#[derive(Clone, Debug, Default)]
pub struct ThisHost {
    /// `uname -n`, or `__DRBD_NODE__`.
    pub name: String,
    /// Whether the name comes from `__DRBD_NODE__`.
    pub pretending: bool,
    /// Addresses of our interfaces, and both loopback addresses.
    pub addresses: Vec<IpAddr>,
}

impl ThisHost {
    /// Asks the system.
    pub fn ask() -> ThisHost {
        let pretended = std::env::var("__DRBD_NODE__").ok().filter(|n| !n.is_empty());
        let pretending = pretended.is_some();
        let name = pretended.unwrap_or_else(|| {
            nix::sys::utsname::uname().map_or(String::new(), |u| u.nodename().to_string_lossy().into_owned())
        });
        ThisHost { name, pretending, addresses: own_addresses() }
    }

    /// Whether a host section speaks of us.
    pub fn is_meant_by(&self, host: &Host) -> bool {
        match host.kind {
            HostKind::On | HostKind::Stacked { .. } => {
                host.names.iter().any(|n| same_host(&n.value, &self.name))
            }
            HostKind::Floating => {
                let ip = host.address.as_ref().and_then(|a| parse_ip(&a.ip));
                ip.is_some_and(|ip| self.addresses.contains(&ip))
            }
        }
    }

    /// Whether we could listen at an address. Interfaces are asked first; the rest of 127/8 and addresses of a
    /// local route are found by trying.
    pub fn has_address(&self, ip: &str) -> bool {
        let Some(ip) = parse_ip(ip) else { return false };
        self.addresses.contains(&ip) || TcpListener::bind((ip, 0)).is_ok()
    }
}

fn parse_ip(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse().ok()
}

fn own_addresses() -> Vec<IpAddr> {
    let mut own = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for address in getifaddrs().into_iter().flatten().filter_map(|i| i.address) {
        if let Some(v4) = address.as_sockaddr_in() {
            own.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            own.push(IpAddr::V6(v6.ip()));
        }
    }
    own
}
