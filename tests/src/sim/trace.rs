//! What happened, one line per event, in fixed columns:
//!
//! ```text
//! time in µs, when  event no.  node  kind        detail
//!     1203.457 ms         81   n0    handle      DiskDone { io: … }
//! ```
//!
//! Every line goes into a hash, printed or not: two runs are the same if their hashes are. Where nobody compares, none is
//! made, which takes half the time of a run.

use super::clock::Time;
use std::fmt::{self, Write};

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    made: bool,
    print: bool,
    line: String,
    lines: u64,
    hash: u64,
}

impl Trace {
    /// A record, on stderr too if `print`; if not `made`, lines are only counted.
    pub(crate) fn new(made: bool, print: bool) -> Trace {
        Trace { made, print, line: String::new(), lines: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// Adds a line. `node` is a number below 10, or `-` for the world.
    pub(crate) fn line(&mut self, now: Time, node: Option<usize>, kind: &str, detail: fmt::Arguments<'_>) {
        self.lines += 1;
        if !self.made {
            return;
        }
        self.line.clear();
        let who = node.map_or('-', |n| char::from(b'0' + n as u8));
        let (ms, us) = (now / 1_000_000, now / 1_000 % 1_000);
        write!(self.line, "{ms:>8}.{us:03} {:>7} n{who} {kind:<10} {detail}", self.lines)
            .expect("a string takes all");
        for chunk in self.line.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.hash ^= self.hash >> 29;
        }
        if self.print {
            eprintln!("{}", self.line);
        }
    }

    /// The hash of all lines so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there are.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }
}
