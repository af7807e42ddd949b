//! From the journal to the lines of a transcript.

use super::super::lab::journal::Told;
use super::naming::{blocks, is_routine, span, Letters, NAMES};
use crate::engine::UpperResult;
use crate::ids::{Instant, Ticket, UpperTag};
use crate::wire::Packet;
use std::collections::BTreeMap;
use std::ops::Range;

/// Said with every connection or by a change of state as well.
const UNTOLD: [&str; 5] = ["agreed", "authenticated", "settings", "size", "sync-decision"];

/// How a request or a command is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Success,
    Failure,
    /// Not yet; its end is told.
    Later,
}

/// Tells what happened since the last line at the margin.
#[derive(Default)]
pub(super) struct Teller {
    pub(super) each_packet: bool,
    pub(super) requests: BTreeMap<(usize, UpperTag), (String, Wanted)>,
    pub(super) commands: BTreeMap<(usize, Ticket), (String, Wanted)>,
    since: Instant,
    /// Time of the last line told.
    at_ms: u64,
    /// Packets since the last line, by sender and name.
    packets: Vec<(usize, String, u32, Vec<Range<u64>>)>,
}

impl Teller {
    pub(super) fn begin(&mut self, now: Instant) {
        self.since = now;
    }

    /// A node lost its memory.
    pub(super) fn forget(&mut self, n: usize) {
        self.requests.retain(|(node, _), _| *node != n);
        self.commands.retain(|(node, _), _| *node != n);
    }

    pub(super) fn tell(
        &mut self,
        entries: Vec<(Instant, usize, Told)>,
        now: Instant,
        letters: &mut Letters,
    ) -> String {
        let mut text = String::new();
        let mut entries = entries.into_iter().peekable();
        self.at_ms = 0;
        while let Some((at, n, told)) = entries.next() {
            let lines = match told {
                Told::Packet(packet) => {
                    self.packet(n, &packet);
                    Vec::new()
                }
                Told::State(mut change) => {
                    while let Some((_, _, Told::State(more))) =
                        entries.next_if(|(_, m, next)| *m == n && matches!(next, Told::State(_)))
                    {
                        change = format!("{change} {more}");
                    }
                    vec![change]
                }
                Told::Log(code, _) if UNTOLD.contains(&code) => Vec::new(),
                Told::Log(_, said) => {
                    let lines = said.lines().filter(|line| *line != "drbd_sync_handshake:");
                    lines.map(|line| letters.put_into(line)).collect()
                }
                Told::Handler("") => Vec::new(),
                Told::Handler(name) => vec![format!("calls {name}")],
                Told::Completed(tag, result) => self.completed(n, tag, result).into_iter().collect(),
                Told::Answered(ticket, refusal) => match (refusal, self.commands.remove(&(n, ticket))) {
                    (Some(refusal), _) => {
                        let said = refusal.to_string().replace("\n", " ").replace(" : ", ": ");
                        vec![format!("refuses: {}", said.trim_end())]
                    }
                    (None, Some((label, Wanted::Later))) => vec![format!("{label}: done")],
                    _ => Vec::new(),
                },
            };
            for line in lines {
                text += &self.packets_sent();
                text += &self.line(at, n, &line);
            }
        }
        text += &self.packets_sent();
        self.since = now;
        text
    }

    fn line(&mut self, at: Instant, n: usize, what: &str) -> String {
        let ms = at.ms_since(self.since) / 100 * 100;
        let time =
            if ms == self.at_ms { String::new() } else { format!("+{}.{}s", ms / 1000, ms / 100 % 10) };
        self.at_ms = ms;
        format!("{time:>8} {} | {what}\n", NAMES[n])
    }

    fn completed(&mut self, n: usize, tag: UpperTag, result: UpperResult) -> Option<String> {
        let (label, wanted) = self.requests.get(&(n, tag))?;
        let end = match result {
            UpperResult::Done if *wanted != Wanted::Later => return None,
            UpperResult::Done => "is done",
            UpperResult::IoError => "ends with an I/O error",
            UpperResult::NotPrimary => "is refused: not Primary",
            UpperResult::OutOfRange => "is beyond the end of the device",
            UpperResult::Split => "is to be asked again in parts",
        };
        Some(format!("{label} {end}"))
    }

    // ---- packets -------------------------------------------------------------------------------------------------

    fn packet(&mut self, n: usize, packet: &Packet) {
        if is_routine(packet) {
            return;
        }
        let name = match packet {
            Packet::Barrier(barrier) if self.each_packet => format!("P_BARRIER {barrier}"),
            Packet::BarrierAck { barrier, set_size } if self.each_packet => {
                format!("P_BARRIER_ACK {barrier}, {set_size} writes")
            }
            packet => packet.name().to_owned(),
        };
        let known = self.packets.iter_mut().find(|(m, other, ..)| *m == n && *other == name);
        match known.filter(|_| !self.each_packet) {
            Some((_, _, count, spans)) => {
                *count += 1;
                add(spans, blocks(packet));
            }
            None => {
                let mut spans = Vec::new();
                add(&mut spans, blocks(packet));
                self.packets.push((n, name, 1, spans));
            }
        }
    }

    /// The packets since the last line, one line each node, or each by itself.
    fn packets_sent(&mut self) -> String {
        let packets = std::mem::take(&mut self.packets);
        let mut text = String::new();
        let told = |(n, name, count, spans): &(usize, String, u32, Vec<Range<u64>>)| {
            let times = if *count > 1 { format!("{count} ") } else { String::new() };
            (*n, format!("{times}{name}{}", list(spans)))
        };
        if self.each_packet {
            for (n, what) in packets.iter().map(told) {
                text += &format!("{:>8} {} > {what}\n", "", NAMES[n]);
            }
            return text;
        }
        for (n, name) in NAMES.iter().enumerate() {
            let sent: Vec<String> =
                packets.iter().map(told).filter(|(m, _)| *m == n).map(|(_, t)| t).collect();
            if !sent.is_empty() {
                text += &format!("{:>8} {name} > {}\n", "", sent.join(", "));
            }
        }
        text
    }
}

fn add(spans: &mut Vec<Range<u64>>, blocks: Option<Range<u64>>) {
    let Some(blocks) = blocks else { return };
    match spans.last_mut() {
        Some(last) if last.end == blocks.start => last.end = blocks.end,
        Some(last) if *last == blocks => {}
        _ => spans.push(blocks),
    }
}

/// Up to four stretches, or how many blocks it is.
fn list(spans: &[Range<u64>]) -> String {
    match spans.len() {
        0 => String::new(),
        1..=4 => format!(" {}", spans.iter().map(span).collect::<Vec<_>>().join(" ")),
        _ => format!(" ({} blocks)", spans.iter().map(|s| s.end - s.start).sum::<u64>()),
    }
}
