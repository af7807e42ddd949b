//! Capture files, and TCP below the packets: Ethernet, IP and TCP headers as far as they are needed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why something is no capture, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotACapture(String);

impl fmt::Display for NotACapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    /// Nanoseconds since the first packet of the capture.
    pub at_ns: u64,
    /// Who sent it.
    pub from: SocketAddr,
    /// Who got it.
    pub to: SocketAddr,
    /// Number of its first byte.
    pub sequence: u32,
    /// It begins a direction; its bytes have the number after this one's.
    pub syn: bool,
    /// What it carries.
    pub bytes: &'a [u8],
}

/// The numbers of a capture file are in the byte order of who wrote it.
#[derive(Clone, Copy)]
struct Order {
    big: bool,
    ns_per_tick: u64,
}

impl Order {
    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) })
    }
}

/// The segments of a capture; other traffic is passed over.
///
/// # Errors
/// It is no pcap file, or one of a link that is not known.
pub fn segments(pcap: &[u8]) -> Result<Vec<Segment<'_>>, NotACapture> {
    let order = match pcap.get(..4) {
        Some([0xd4, 0xc3, 0xb2, 0xa1]) => Order { big: false, ns_per_tick: 1000 },
        Some([0xa1, 0xb2, 0xc3, 0xd4]) => Order { big: true, ns_per_tick: 1000 },
        Some([0x4d, 0x3c, 0xb2, 0xa1]) => Order { big: false, ns_per_tick: 1 },
        Some([0xa1, 0xb2, 0x3c, 0x4d]) => Order { big: true, ns_per_tick: 1 },
        _ => {
            return Err(NotACapture(
                "this is no capture of tcpdump (pcap); pcapng is converted by `editcap -F pcap`".into(),
            ))
        }
    };
    let link = order.u32(pcap, 20).unwrap_or_default() & 0xffff;
    let header = match link {
        1 => 14,
        101 => 0,
        113 => 16,
        276 => 20,
        _ => {
            return Err(NotACapture(format!("link type {link} is none of Ethernet, raw IP and Linux cooked")))
        }
    };
    let mut found = Vec::new();
    let mut first = None;
    let mut at = 24;
    while let (Some(s), Some(ticks), Some(length)) =
        (order.u32(pcap, at), order.u32(pcap, at + 4), order.u32(pcap, at + 8))
    {
        let now = u64::from(s) * 1_000_000_000 + u64::from(ticks) * order.ns_per_tick;
        let begin = *first.get_or_insert(now);
        let Some(packet) = pcap.get(at + 16..at + 16 + length as usize) else { break };
        at += 16 + length as usize;
        if let Some(segment) = packet.get(header..).and_then(|ip| segment(ip, now.saturating_sub(begin))) {
            found.push(segment);
        }
    }
    Ok(found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The segment in an IP packet, if it holds one.
fn segment(ip: &[u8], at_ns: u64) -> Option<Segment<'_>> {
    let (from, to, tcp) = match ip.first()? >> 4 {
        4 => {
            let header = usize::from(ip[0] & 15) * 4;
            let total = usize::from(u16_at(ip, 2)?);
            let whole = u16_at(ip, 6)? & 0x3fff == 0;
            // A length of 0: the network card was to cut it up.
            let end = if total == 0 { ip.len() } else { total };
            let address = |at: usize| {
                Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?)))
            };
            (*ip.get(9)? == 6 && whole).then_some((address(12)?, address(16)?, ip.get(header..end)?))?
        }
        6 => {
            let address = |at: usize| {
                Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?)))
            };
            let end = 40 + usize::from(u16_at(ip, 4)?);
            (*ip.get(6)? == 6).then_some((address(8)?, address(24)?, ip.get(40..end)?))?
        }
        _ => return None,
    };
    let header = usize::from(*tcp.get(12)? >> 4) * 4;
    Some(Segment {
        at_ns,
        from: SocketAddr::new(from, u16_at(tcp, 0)?),
        to: SocketAddr::new(to, u16_at(tcp, 2)?),
        sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        syn: tcp.get(13)? & 2 != 0,
        bytes: tcp.get(header..)?,
    })
}
