//! What a volume's blocks are, beside their bytes: allocated or not on this node's disk, the same or not on the peer's.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::{lseek, Whence};

/// What may be asked of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StatusContext {
    /// NBD's own `base:allocation`: what the disk of this node keeps no space for reads as zeroes.
    Allocation,
    /// `udrbd:out-of-sync`: what this node's bitmap names, the blocks in which the peer's data differs, or may.
    OutOfSync,
}

/// NBD_STATE_HOLE and NBD_STATE_ZERO.
const HOLE_OF_ZEROES: u32 = 1 | 1 << 1;
/// The one flag of `udrbd:out-of-sync`.
pub(crate) const OUT_OF_SYNC: u32 = 1;

/// Bytes a bit of the bitmap stands for.
const BIT_BYTES: u64 = 4096;

/// How far a bitmap is looked through for one answer, which may end before its question: the data plane does it.
const LOOKED_BYTES_MAX: u64 = 16 << 30;

/// Neighbouring bytes of the same status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StatusRun {
    pub(crate) bytes: u64,
    pub(crate) flags: u32,
}

/// Runs, joined where they are the same.
#[derive(Debug, Default)]
struct Runs(Vec<StatusRun>);

impl Runs {
    fn push(&mut self, bytes: u64, flags: u32) {
        match self.0.last_mut() {
            Some(last) if last.flags == flags => last.bytes += bytes,
            _ if bytes > 0 => self.0.push(StatusRun { bytes, flags }),
            _ => {}
        }
    }
}

/// Nothing is known: data.
pub(crate) fn all_data(stretch: &Range<u64>) -> Vec<StatusRun> {
    vec![StatusRun { bytes: stretch.end - stretch.start, flags: 0 }]
}

/// Which parts of a file have no space. A block device has space everywhere.
pub(crate) fn allocation_of(file: &File, stretch: Range<u64>, most: usize) -> Vec<StatusRun> {
    let mut runs = Runs::default();
    let mut at = stretch.start;
    while at < stretch.end && runs.0.len() <= most {
        let data = match lseek(file.as_fd(), at as i64, Whence::SeekData) {
            Ok(data) => (data as u64).clamp(at, stretch.end),
            // There is no data up to its end.
            Err(Errno::ENXIO) => stretch.end,
            Err(_) => at,
        };
        runs.push(data - at, HOLE_OF_ZEROES);
        at = data;
        if at == stretch.end {
            break;
        }
        let hole = match lseek(file.as_fd(), at as i64, Whence::SeekHole) {
            Ok(hole) if hole as u64 > at => (hole as u64).min(stretch.end),
            Ok(_) | Err(_) => stretch.end,
        };
        runs.push(hole - at, 0);
        at = hole;
    }
    runs.0.truncate(most);
    runs.0
}

/// Which blocks a bitmap names.
pub(crate) fn out_of_sync_in(words: &[u64], stretch: Range<u64>, most: usize) -> Vec<StatusRun> {
    let mut runs = Runs::default();
    let mut at = stretch.start;
    let last = stretch.end.min(stretch.start.saturating_add(LOOKED_BYTES_MAX));
    while at < last && runs.0.len() <= most {
        let bit = at / BIT_BYTES;
        let word = words.get((bit / 64) as usize).copied().unwrap_or(0);
        let rest = word >> (bit % 64);
        let set = rest & 1 == 1;
        let alike = if set { rest.trailing_ones() } else { rest.trailing_zeros() };
        let bits = u64::from(alike).min(64 - bit % 64);
        let end = ((bit + bits) * BIT_BYTES).min(last);
        runs.push(end - at, if set { OUT_OF_SYNC } else { 0 });
        at = end;
    }
    runs.0.truncate(most);
    runs.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn run(bytes: u64, flags: u32) -> StatusRun {
        StatusRun { bytes, flags }
    }

    #[test]
    fn holes_of_a_file_are_told() {
        let path = std::env::temp_dir().join(format!("udrbd-block-status-{}", std::process::id()));
        let file = File::create_new(&path).expect("a temporary file");
        std::fs::remove_file(&path).expect("it was just made");
        file.set_len(1 << 20).expect("a sparse file");
        file.write_all_at(&[7; 65536], 256 << 10).expect("some data");
        let hole = HOLE_OF_ZEROES;
        let all = [run(256 << 10, hole), run(64 << 10, 0), run(704 << 10, hole)];
        assert_eq!(allocation_of(&file, 0..1 << 20, 16), all);
        assert_eq!(allocation_of(&file, 0..1 << 20, 2), all[..2]);
        assert_eq!(allocation_of(&file, 300 << 10..310 << 10, 16), [run(10 << 10, 0)]);
        assert_eq!(allocation_of(&file, 512..1024, 1), [run(512, hole)]);
    }

    #[test]
    fn bits_become_runs() {
        let words = [0b1100, u64::MAX, 1];
        let all = [
            run(2 * BIT_BYTES, 0),
            run(2 * BIT_BYTES, OUT_OF_SYNC),
            run(60 * BIT_BYTES, 0),
            run(65 * BIT_BYTES, OUT_OF_SYNC),
            run(63 * BIT_BYTES + 512, 0),
        ];
        assert_eq!(out_of_sync_in(&words, 0..192 * BIT_BYTES + 512, 16), all);
        assert_eq!(out_of_sync_in(&words, 0..192 * BIT_BYTES, 3), all[..3]);
        assert_eq!(out_of_sync_in(&[], 0..1 << 40, 9), [run(LOOKED_BYTES_MAX, 0)], "an answer has its end");
        assert_eq!(out_of_sync_in(&words, 10_000..12_288, 9), [run(2288, OUT_OF_SYNC)]);
    }
}
