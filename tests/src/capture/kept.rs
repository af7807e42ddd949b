//! Packets of a capture as text to be kept: one a line, in the order in which they were complete, without their bulk.
//!
//! `MICROSECONDS FROM TO HEX`, FROM and TO as ADDRESS:PORT; lines that begin with `#` or `!` are for other readers.

use super::{Reader, Seen};
use std::fmt::Write;

/// The packets as text, up to the first that was not understood or is missing, and which that was.
pub fn keep(seen: &[Seen]) -> (String, Option<&Seen>) {
    let mut text = String::new();
    for packet in seen {
        if packet.what.is_err() {
            return (text, Some(packet));
        }
        let _ = write!(text, "{} {} {} ", packet.at_ns / 1000, packet.from, packet.to);
        for byte in &packet.bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    (text, None)
}

/// The packets of such a text.
///
/// # Errors
/// The line that is none, or makes no packet where it stands.
pub fn kept(text: &str) -> Result<Vec<Seen>, String> {
    let mut reader = Reader { without_bulk: true, ..Reader::default() };
    for line in text.lines().filter(|line| !line.starts_with(['#', '!'])) {
        let before = reader.seen.len();
        take(&mut reader, line).ok_or_else(|| format!("no packet: {line}"))?;
        match &reader.seen[before..] {
            [Seen { what: Ok(_), .. }] => {}
            other => return Err(format!("not one packet, {other:?}: {line}")),
        }
    }
    Ok(reader.seen)
}

fn take(reader: &mut Reader, line: &str) -> Option<()> {
    let mut words = line.split(' ');
    let at_us: u64 = words.next()?.parse().ok()?;
    let key = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let hex = words.next()?.as_bytes();
    let direction = reader.direction(key);
    for pair in hex.chunks(2) {
        direction.pending.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
    }
    reader.read_all(key, at_us * 1000);
    Some(())
}
