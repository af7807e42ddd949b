//! What can be waited for and what must be so.
//!
//! | condition | meaning |
//! | --- | --- |
//! | `in sync` | both UpToDate and Established, nothing marked |
//! | `connected`, `apart` | both replicate; neither does |
//! | `NODE KEY:VALUE…` | role, peer-role, connection, replication, disk, peer-disk, suspended, resync-suspended; marks (how many), blocks (of the device), write-ordering |
//! | `NODE marked 5..7 9`, `nothing` | exactly these blocks are out of sync |
//! | `NODE holds 5 = 1` | its disk does |
//! | `NODE copied 5..7 9`, `nothing`, `everything` | sent for a resync since this was last asked (or since the beginning) |
//! | `NODE sent [N] P_NAME`, `NODE sent no P_NAME` | since the beginning |
//! | `NODE waits for the write of 1` | or another request: neither done nor failed |
//! | `NODE ended the write of 1` | it did |
//! | `NODE logged WORDS`, `did not log WORDS`, `called HANDLER`, `did not call HANDLER` | |
//! | `NODE decides` | about writes of two Primaries that meet |
//! | `one generation`, `two generations` | of both disks |

use super::super::lab::Lab;
use super::super::node::SECTORS;
use super::naming::blocks;
use crate::ids::UpperTag;
use crate::wire::Packet;

type Pairs = Vec<(String, String)>;

fn pairs(words: &[&str]) -> Option<Pairs> {
    words.iter().map(|word| word.split_once(':').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect()
}

/// One of them.
pub(super) enum Condition {
    InSync,
    Connected,
    Apart,
    Generations(usize),
    Fields(usize, usize, Pairs),
    Marked(usize, Vec<u64>),
    Holds(usize, u64, u32),
    Copied(usize, Vec<u64>),
    Sent(usize, Option<usize>, String),
    Waits(usize, UpperTag, bool),
    Logged(usize, String, bool),
    Called(usize, String, bool),
    Decides(usize),
}

fn all_blocks(words: &[&str]) -> Option<Vec<u64>> {
    match words {
        ["nothing"] => return Some(Vec::new()),
        ["everything"] => return Some((0..SECTORS / 8).collect()),
        _ => {}
    }
    let mut all = Vec::new();
    for word in words {
        let (first, last) = word.split_once("..").unwrap_or((word, word));
        all.extend(first.parse::<u64>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

impl Condition {
    pub(super) fn read(
        words: &[&str],
        request: &dyn Fn(usize, &str) -> Option<UpperTag>,
    ) -> Option<Condition> {
        Some(match words {
            ["in", "sync"] => Condition::InSync,
            ["connected"] => Condition::Connected,
            ["apart"] => Condition::Apart,
            ["one", "generation"] => Condition::Generations(1),
            ["two", "generations"] => Condition::Generations(2),
            [who, what @ ..] => {
                let (name, volume) = who.split_once('/').unwrap_or((who, "0"));
                let n = super::naming::NAMES.iter().position(|known| *known == name)?;
                if volume != "0" {
                    return Some(Condition::Fields(n, volume.parse().ok()?, pairs(what)?));
                }
                return Condition::of_node(n, what, request);
            }
            [] => return None,
        })
    }

    fn of_node(
        n: usize,
        words: &[&str],
        request: &dyn Fn(usize, &str) -> Option<UpperTag>,
    ) -> Option<Condition> {
        Some(match words {
            ["marked", blocks @ ..] => Condition::Marked(n, all_blocks(blocks)?),
            ["holds", block, "=", content] => Condition::Holds(n, block.parse().ok()?, content.parse().ok()?),
            ["copied", blocks @ ..] => Condition::Copied(n, all_blocks(blocks)?),
            ["sent", "no", packet] => Condition::Sent(n, Some(0), (*packet).to_owned()),
            ["sent", packet] => Condition::Sent(n, None, (*packet).to_owned()),
            ["sent", count, packet] => Condition::Sent(n, Some(count.parse().ok()?), (*packet).to_owned()),
            ["waits", "for", what @ ..] => Condition::Waits(n, request(n, &what.join(" "))?, true),
            ["ended", what @ ..] => Condition::Waits(n, request(n, &what.join(" "))?, false),
            ["logged", text @ ..] => Condition::Logged(n, text.join(" "), true),
            ["did", "not", "log", text @ ..] => Condition::Logged(n, text.join(" "), false),
            ["decides"] => Condition::Decides(n),
            ["called", handler] => Condition::Called(n, (*handler).to_owned(), true),
            ["did", "not", "call", handler] => Condition::Called(n, (*handler).to_owned(), false),
            fields => Condition::Fields(n, 0, pairs(fields)?),
        })
    }

    /// If not, what is instead.
    pub(super) fn holds(&self, lab: &Lab, looked_at: [usize; 2]) -> Result<(), String> {
        let (so, instead) = match self {
            Condition::InSync => (lab.is_in_sync(), states(lab)),
            Condition::Connected => (lab.is_replicating(0) && lab.is_replicating(1), states(lab)),
            Condition::Apart => (!lab.is_replicating(0) && !lab.is_replicating(1), states(lab)),
            Condition::Generations(count) => {
                let [a, b] = [0, 1].map(|n| lab.nodes[n].kept().current_uuid & !1);
                ((a == b) == (*count == 1), format!("{a:016X} and {b:016X}"))
            }
            Condition::Fields(n, volume, fields) => {
                let wrong = fields.iter().find(|(key, value)| field(lab, *n, *volume, key) != *value);
                (wrong.is_none(), states(lab))
            }
            Condition::Marked(n, blocks) => {
                let marked = lab.out_of_sync(*n);
                (marked == *blocks, format!("{} blocks are: {marked:?}", marked.len()))
            }
            Condition::Holds(n, block, content) => {
                let held = lab.nodes[*n].disk.get(block).copied().unwrap_or(0);
                (held == *content, format!("it holds {held}"))
            }
            Condition::Copied(n, blocks) => {
                let copied = copied(lab, *n, looked_at[*n]);
                (copied == *blocks, format!("{} blocks were: {copied:?}", copied.len()))
            }
            Condition::Sent(n, count, packet) => {
                let sent = lab.nodes[*n].sent.iter().filter(|p| p.name() == *packet).count();
                (count.map_or(sent > 0, |count| sent == count), format!("{sent} were sent"))
            }
            Condition::Waits(n, tag, waits) => {
                let result = lab.result(*n, *tag);
                (result.is_none() == *waits, format!("{result:?}"))
            }
            Condition::Logged(n, text, wanted) => {
                let lines = &lab.nodes[*n].log_lines;
                (lines.iter().any(|line| line.contains(text)) == *wanted, lines.join("\n"))
            }
            Condition::Decides(n) => {
                let session = lab.nodes[*n].engine.connection.as_ref().and_then(|c| c.session());
                (session.is_some_and(|s| s.resolve_conflicts), "the other one does".to_owned())
            }
            Condition::Called(n, handler, called) => {
                let handlers = &lab.nodes[*n].handlers;
                (handlers.iter().any(|h| h == handler) == *called, format!("{handlers:?}"))
            }
        };
        if so {
            Ok(())
        } else {
            Err(instead)
        }
    }
}

/// Blocks sent in answer to resync requests.
fn copied(lab: &Lab, n: usize, from: usize) -> Vec<u64> {
    let sent = lab.nodes[n].sent.get(from..).unwrap_or_default();
    let replies = sent.iter().filter(|p| matches!(p, Packet::RsDataReply(_) | Packet::RsDeallocated(_)));
    let mut copied: Vec<u64> = replies.filter_map(blocks).flatten().collect();
    copied.sort_unstable();
    copied
}

fn field(lab: &Lab, n: usize, volume: usize, key: &str) -> String {
    let engine = &lab.nodes[n].engine;
    let s = engine.snapshot((volume < engine.devices.len()).then_some(volume));
    match key {
        "role" => s.role.to_string(),
        "peer-role" => s.peer_role.to_string(),
        "connection" => s.connection.to_string(),
        "replication" => s.replication.to_string(),
        "disk" => s.disk.to_string(),
        "peer-disk" => s.peer_disk.to_string(),
        "suspended" => s.suspended.to_string(),
        "resync-suspended" => s.resync_suspended.to_string(),
        "blocks" => (engine.devices[volume].size.0 / 8).to_string(),
        "write-ordering" => engine.status().resource.write_ordering,
        "marks" => lab.out_of_sync(n).len().to_string(),
        _ => panic!("a node has no {key}"),
    }
}

fn states(lab: &Lab) -> String {
    let of = |n: usize| {
        let engine = &lab.nodes[n].engine;
        let volume = (!engine.devices.is_empty()).then_some(0);
        format!("{:?}, {} marks", engine.snapshot(volume), lab.out_of_sync(n).len())
    };
    format!("\n  alpha: {}\n  bravo: {}", of(0), of(1))
}
