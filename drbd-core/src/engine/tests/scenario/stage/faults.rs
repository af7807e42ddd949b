//! What goes wrong.
//!
//! | line | meaning |
//! | --- | --- |
//! | `network fails`, `is back` | with everything that is on its way |
//! | `NODE: power fails` | with everything its disk had not carried out; configured again, nothing attached |
//! | `NODE: daemon is killed` | likewise, and its sockets are closed |
//! | `NODE: disk holds KIND`, `answers`, `answers one [with EIO]` | operations that are not answered, and when they are |
//! | `NODE: disk fails KIND with EIO`, `is well` | KIND: reads, writes, flushes, data, metadata, log, super-block, everything |
//! | `NODE: loses what its disk holds` | unanswered operations never happened |
//! | `NODE: block 5 rots` | other bytes, and nobody noticed |
//! | `NODE: had 5..7 = 1` | on its disk before DRBD had it |
//! | `NODE: takes a snapshot`, `goes back to the snapshot` | of disk and metadata; while it is down |
//! | `NODE: gets the disk of NODE` | a copy, metadata and all, carried over by hand; while both are down |
//! | `NODE: falls silent`, `speaks again` | its packets are kept back |
//! | `NODE: sends one data packet`, `one control packet` | of those kept back |
//! | `NODE: next block is damaged on the wire` | |
//! | `NODE: fence-peer answers 4`, `hangs`, `ends with 4` | the handler, from here on; `ends`: one that hangs |

use super::super::super::lab::Lab;
use super::super::super::node::{net, Node, Pending};
use super::{blocks, Stage};
use crate::config::Section;
use crate::engine::{DiskIo, DiskOp, IoResult};
use crate::ids::VolumeNumber;
use crate::wire::Stream;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EOPNOTSUPP: i32 = 95;

fn errno(word: &str) -> i32 {
    match word {
        "EIO" => EIO,
        "ENOSPC" => ENOSPC,
        "EOPNOTSUPP" => EOPNOTSUPP,
        _ => panic!("{word} is no error"),
    }
}

fn is_data(op: &Pending) -> bool {
    matches!(op, Pending::Disk(_))
}

fn is_meta(op: &Pending) -> bool {
    matches!(op, Pending::Meta(..))
}

fn is_discard(op: &Pending) -> bool {
    matches!(op, Pending::Disk(DiskIo { op: DiskOp::Discard | DiskOp::WriteZeroes { .. }, .. }))
}

type Kind = fn(&Pending) -> bool;

fn kind(word: &str) -> Kind {
    match word {
        "reads" => Pending::is_read,
        "writes" => Pending::is_write,
        "flushes" => Pending::is_flush,
        "discards" => is_discard,
        "data" => is_data,
        "metadata" => is_meta,
        "log" => Pending::is_log,
        "super-block" => Pending::is_super_block,
        "everything" => |_| true,
        _ => panic!("{word} is no kind of operation"),
    }
}

fn failing(word: &str, error: i32) -> fn(&Pending) -> Option<i32> {
    match (word, error) {
        ("reads", EIO) => |op| op.is_read().then_some(EIO),
        ("writes", EIO) => |op| op.is_write().then_some(EIO),
        ("writes", ENOSPC) => |op| op.is_write().then_some(ENOSPC),
        ("flushes", EIO) => |op| op.is_flush().then_some(EIO),
        ("flushes", EOPNOTSUPP) => |op| op.is_flush().then_some(EOPNOTSUPP),
        ("discards", EIO) => |op| is_discard(op).then_some(EIO),
        ("data", EIO) => |op| is_data(op).then_some(EIO),
        ("metadata", EIO) => |op| is_meta(op).then_some(EIO),
        ("log", EIO) => |op| op.is_log().then_some(EIO),
        ("everything", EIO) => |_| Some(EIO),
        _ => panic!("{word} do not fail with {error} here"),
    }
}

impl Stage {
    pub(super) fn network(&mut self, fault: &[&str]) {
        match fault {
            ["fails"] => self.lab().cut(),
            ["is", "back"] => self.lab().mend(),
            _ => panic!("the network does not do {fault:?}"),
        }
    }

    pub(super) fn fault(&mut self, n: usize, fault: &[&str]) {
        match fault {
            ["power", "fails"] => self.begin_anew(n, Lab::crash),
            ["daemon", "is", "killed"] => self.begin_anew(n, Lab::kill),
            ["block", block, "rots"] => {
                let block = block.parse().expect("a block");
                self.rotten.insert(block);
                self.lab().nodes[n].disk.insert(block, 666);
            }
            ["had", span, "=", value] => {
                let value = super::content(value);
                self.lab().nodes[n].disk.extend(blocks(span).map(|block| (block, value)));
            }
            ["takes", "a", "snapshot"] => {
                self.snapshots[n] = Some(Node::with_disk_of(&self.lab().nodes[n], n as u8, 0));
            }
            ["goes", "back", "to", "the", "snapshot"] => {
                let snapshot = self.snapshots[n].take().expect("one was taken");
                self.lab().nodes[n].take_disk_of(&snapshot);
                self.snapshots[n] = Some(snapshot);
            }
            ["gets", "the", "disk", "of", other] => {
                let copy = Node::with_disk_of(&self.lab().nodes[1 - n], n as u8, 0);
                assert_eq!(super::node(other), Some(1 - n), "a disk of the other node");
                self.lab().nodes[n].take_disk_of(&copy);
            }
            ["falls", "silent"] => self.lab().hold_packets(n),
            ["speaks", "again"] => self.lab().let_packets_go(n),
            ["sends", "one", stream, "packet"] => {
                let stream = if *stream == "data" { Stream::Data } else { Stream::Control };
                self.lab().let_packet_go(n, stream);
            }
            ["next", "block", "is", "damaged", "on", "the", "wire"] => self.lab().damages = Some(n),
            ["loses", "what", "its", "disk", "holds"] => self.lab().nodes[n].pending.clear(),
            ["disk", what @ ..] => self.disk(n, what),
            ["fence-peer", "answers", status] => {
                self.lab().nodes[n].handler_status = Some(status.parse().expect("an exit code"));
            }
            ["fence-peer", "hangs"] => self.lab().nodes[n].handler_status = None,
            ["fence-peer", "ends", "with", status] => {
                self.lab().handler_ends(n, status.parse().expect("an exit code"));
            }
            _ => panic!("{fault:?} does not happen here"),
        }
    }

    fn disk(&mut self, n: usize, what: &[&str]) {
        let lab = self.lab();
        match what {
            ["holds", what] => lab.hold(n, kind(what)),
            ["answers"] => lab.let_go(n),
            ["answers", "one"] => lab.let_one_go(n, IoResult::Done),
            ["answers", "one", "with", error] => lab.let_one_go(n, IoResult::Failed(errno(error))),
            ["fails", what, "with", error] => lab.fail(n, failing(what, errno(error))),
            ["is", "well"] => lab.fail_no_more(n),
            _ => panic!("a disk does not do {what:?}"),
        }
    }

    /// The node is there again at once, configured as before; its disk and its peer wait for an administrator.
    fn begin_anew(&mut self, n: usize, end: fn(&mut Lab, usize)) {
        let options = net(&self.of(n, Section::Net));
        self.teller.forget(n);
        self.looked_at[n] = 0;
        let lab = self.lab();
        end(lab, n);
        lab.configure_again(n, options);
        for volume in (1..self.volumes()).map(VolumeNumber) {
            self.new_minor(n, volume);
        }
        self.apply_options(n);
    }
}
