//! How blocks and generations are called in a transcript, and which packets are not worth a word.

use crate::wire::Packet;
use std::collections::BTreeMap;

pub(super) const NAMES: [&str; 2] = ["alpha", "bravo"];

/// Packets of every handshake and of the keep-alive are not told.
pub(super) fn is_routine(packet: &Packet) -> bool {
    matches!(
        packet,
        Packet::InitialData
            | Packet::InitialMeta
            | Packet::Features(_)
            | Packet::AuthChallenge(_)
            | Packet::AuthResponse(_)
            | Packet::Protocol(_)
            | Packet::SyncParam(_)
            | Packet::Sizes(_)
            | Packet::Uuids(_)
            | Packet::State(_)
            | Packet::UnplugRemote
            | Packet::Ping
            | Packet::PingAck
    )
}

/// The blocks a packet is about.
pub(super) fn blocks(packet: &Packet) -> Option<std::ops::Range<u64>> {
    let (sector, bytes) = match packet {
        Packet::Data(d) | Packet::DataReply(d) | Packet::RsDataReply(d) => (d.sector, d.bytes),
        Packet::Trim(t) | Packet::Zeroes(t) => (t.sector, t.bytes),
        Packet::DataRequest(r)
        | Packet::RsDataRequest(r)
        | Packet::RsThinRequest(r)
        | Packet::OvRequest(r) => (r.sector, r.bytes),
        Packet::CsumRsRequest(r) | Packet::OvReply(r) => (r.block.sector, r.block.bytes),
        Packet::RsDeallocated(e) | Packet::OutOfSync(e) => (e.sector, e.bytes),
        Packet::RecvAck(a)
        | Packet::WriteAck(a)
        | Packet::RsWriteAck(a)
        | Packet::Superseded(a)
        | Packet::RetryWrite(a)
        | Packet::NegAck(a)
        | Packet::NegDreply(a)
        | Packet::NegRsDreply(a)
        | Packet::RsIsInSync(a)
        | Packet::RsCancel(a)
        | Packet::OvResult(a) => (a.sector, a.bytes),
        _ => return None,
    };
    Some(sector.0 / 8..(sector.0 + u64::from(bytes) / 512).div_ceil(8))
}

/// `5` or `5..7`, both ends included.
pub(super) fn span(blocks: &std::ops::Range<u64>) -> String {
    if blocks.end <= blocks.start + 1 {
        blocks.start.to_string()
    } else {
        format!("{}..{}", blocks.start, blocks.end - 1)
    }
}

/// Letters for generations, in the order of appearance.
#[derive(Default, Debug)]
pub(super) struct Letters {
    given: BTreeMap<u64, String>,
}

impl Letters {
    /// A sentence with letters instead of generations.
    pub(super) fn put_into(&mut self, line: &str) -> String {
        let mut text = String::new();
        for word in line.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
            match u64::from_str_radix(digits, 16) {
                Ok(uuid) if digits.len() == 16 => {
                    text += &self.of(uuid);
                    text += &word[16..];
                }
                _ => text += word,
            }
        }
        text
    }

    /// The letter of a generation; bit 0 says that the node is or was Primary.
    pub(super) fn of(&mut self, uuid: u64) -> String {
        match uuid {
            0 => return "-".to_owned(),
            4 => return "new".to_owned(),
            _ => {}
        }
        let count = self.given.len();
        let nth = |count: usize| {
            let letter = (b'A' + (count % 26) as u8) as char;
            if count < 26 {
                letter.to_string()
            } else {
                format!("{letter}{}", count / 26)
            }
        };
        let letter = self.given.entry(uuid & !1).or_insert_with(|| nth(count)).clone();
        if uuid & 1 == 1 {
            letter
        } else {
            letter.to_ascii_lowercase()
        }
    }
}
