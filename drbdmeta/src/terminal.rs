//! Talking to the user: notes on stderr, questions that need the word `yes`, progress on a terminal.

use std::cell::Cell;
use std::fmt::Arguments;
use std::io::{stderr, stdin, stdout, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How the user wants to be talked to.
#[derive(Debug, Default)]
pub(crate) struct Terminal {
    /// Questions are answered with yes.
    pub(crate) force: bool,
    /// With `force`: questions are not even shown.
    pub(crate) quiet: bool,
    /// Questions that were not shown.
    suppressed: Cell<u32>,
}

impl Terminal {
    pub(crate) fn new(force: bool, quiet: bool) -> Terminal {
        Terminal { force, quiet, suppressed: Cell::new(0) }
    }

    /// A line on stderr. Nobody is left to tell if that fails.
    pub(crate) fn note(&self, text: Arguments<'_>) {
        let _ = writeln!(stderr(), "{text}");
    }

    /// Asks, after an optional explanation.
    pub(crate) fn confirmed(&self, context: Option<&str>, question: &str) -> bool {
        if self.force && self.quiet {
            self.suppressed.set(self.suppressed.get() + 1);
            return true;
        }
        // What was said on stdout belongs before the question.
        let _ = stdout().flush();
        // DRBD's prompts begin with an empty line, but for the first context.
        if let Some(context) = context {
            self.note(format_args!("{context}"));
        }
        self.note(format_args!("\n{question}"));
        if self.force {
            self.note(format_args!("*** confirmation forced via --force option ***"));
            return true;
        }
        if !stdin().is_terminal() {
            self.note(format_args!("stdin not a TTY, not waiting for confirmation"));
            return false;
        }
        let _ = write!(stderr(), "[need to type 'yes' to confirm] ");
        let mut answer = String::new();
        let answered = stdin().lock().read_line(&mut answer).is_ok();
        self.note(format_args!(""));
        answered && answer == "yes\n"
    }

    /// Said at the end, so that a log shows that questions were skipped.
    pub(crate) fn note_suppressed(&self) {
        let count = self.suppressed.get();
        if count > 0 {
            self.note(format_args!(
                "# --force --quiet: {count} confirmation(s) suppressed and auto-confirmed"
            ));
        }
    }
}

/// A line on stdout, whose reader may have gone away.
pub(crate) fn say(text: Arguments<'_>) -> std::io::Result<()> {
    writeln!(stdout(), "{text}")
}

/// Progress of a long write: shown on a terminal only, and only if it takes a while.
#[derive(Debug)]
pub(crate) struct Progress {
    total_bytes: u64,
    started: Instant,
    shown: Option<Instant>,
    visible: bool,
}

impl Progress {
    const PATIENCE: Duration = Duration::from_millis(500);

    pub(crate) fn new(total_bytes: u64) -> Progress {
        Progress { total_bytes, started: Instant::now(), shown: None, visible: stderr().is_terminal() }
    }

    /// So much is done.
    pub(crate) fn show(&mut self, done_bytes: u64) {
        let elapsed = self.started.elapsed();
        let due =
            self.shown.map_or(elapsed > Progress::PATIENCE, |shown| shown.elapsed() > Progress::PATIENCE / 2);
        if self.visible && due {
            self.shown = Some(Instant::now());
            let line = progress_line(done_bytes, self.total_bytes, elapsed);
            let _ = write!(stderr(), "\r{line}\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn progress_line(done_bytes: u64, total_bytes: u64, elapsed: Duration) -> String {
    let rate = done_bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let left = total_bytes.saturating_sub(done_bytes) as f64 / rate.max(1.0);
    let percent = 100 * done_bytes / total_bytes.max(1);
    format!("{percent}%  {:.0} MiB/s  {:.0} s left", rate / f64::from(1 << 20), left.ceil())
}

/// A size in KiB as DRBD's tools write it: at most four digits and a unit.
pub(crate) fn short_size(kib: u64) -> String {
    let mut size = kib;
    let mut units = "KMGTPE".chars();
    let mut unit = units.next();
    while size >= 10_000 {
        let Some(next) = units.next() else { break };
        size = (size >> 10) + u64::from(size & 1 << 9 != 0);
        unit = Some(next);
    }
    format!("{size} {}B", unit.unwrap_or('K'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_four_digits() {
        for (kib, text) in [
            (0, "0 KB"),
            (4, "4 KB"),
            (9999, "9999 KB"),
            (12288, "12 MB"),
            (65480, "64 MB"),
            (229_376, "224 MB"),
        ] {
            assert_eq!(short_size(kib), text);
        }
        assert_eq!(short_size(u64::MAX), "16384 EB");
    }

    #[test]
    fn progress_names_rate_and_time_left() {
        assert_eq!(progress_line(1 << 30, 4 << 30, Duration::from_secs(2)), "25%  512 MiB/s  6 s left");
        assert_eq!(progress_line(0, 0, Duration::ZERO), "0%  0 MiB/s  0 s left");
    }
}
