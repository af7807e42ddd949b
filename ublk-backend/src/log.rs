//! The log: sentences with a stable code each, to `<resource>.log` in the run directory (or to stderr under systemd).
//!
//! Nobody waits for it: lines go through a bounded queue to a thread that writes them; when the queue is full they are
//! counted and dropped. Each code has a token bucket, and what it held back is counted and said with the next line.

use drbd_core::engine::{Level, LogRecord};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender, TrySendError};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Lines waiting to be written.
const QUEUE_MAX: usize = 4096;
/// Lines of one code at once.
const BURST: f64 = 100.0;
/// Lines of one code in the long run.
const LINES_PER_S: f64 = 5.0;
/// The run directory is memory: beyond this the log is moved aside, once.
const FILE_BYTES_MAX: u64 = 4 << 20;

enum Line {
    Record(LogRecord),
    End(SyncSender<()>),
}

/// Takes lines from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Logger {
    queue: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Logger {
    /// Opens the log and starts its thread.
    pub(crate) fn open(path: &Path) -> std::io::Result<Logger> {
        let sink =
            if std::env::var_os("JOURNAL_STREAM").is_some() { Sink::Stderr } else { Sink::open_file(path)? };
        let (queue, lines) = sync_channel(QUEUE_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer { sink, buckets: BTreeMap::new(), lost: Arc::clone(&lost) };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&lines))?;
        Ok(Logger { queue, lost })
    }

    /// Takes a line, or drops it when the queue is full.
    pub(crate) fn record(&self, record: LogRecord) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Line::Record(record)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A line of the daemon itself.
    pub(crate) fn say(&self, level: Level, code: &'static str, subject: &str, text: impl Into<String>) {
        self.record(LogRecord { code, level, subject: subject.to_owned(), text: text.into() });
    }

    /// Waits until everything taken so far is written.
    pub(crate) fn finish(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Line::End(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(2));
        }
    }
}

#[derive(Debug)]
enum Sink {
    Stderr,
    File { file: File, path: PathBuf, bytes: u64 },
}

impl Sink {
    fn open_file(path: &Path) -> std::io::Result<Sink> {
        let file = File::options().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Sink::File { file, path: path.to_owned(), bytes })
    }

    fn write(&mut self, line: &str) {
        match self {
            Sink::Stderr => {
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            Sink::File { file, path, bytes } => {
                if *bytes > FILE_BYTES_MAX {
                    let mut aside = path.clone().into_os_string();
                    aside.push(".1");
                    let _ = std::fs::rename(&*path, aside);
                    if let Ok(Sink::File { file: fresh, .. }) = Sink::open_file(path) {
                        *file = fresh;
                    }
                    *bytes = 0;
                }
                *bytes += line.len() as u64;
                let _ = file.write_all(line.as_bytes());
            }
        }
    }
}

struct Bucket {
    tokens: f64,
    at: Instant,
    held_back: u64,
}

impl Bucket {
    fn admits(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * LINES_PER_S).min(BURST);
        self.at = now;
        if self.tokens < 1.0 {
            self.held_back += 1;
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

struct Writer {
    sink: Sink,
    buckets: BTreeMap<&'static str, Bucket>,
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Line>) {
        while let Ok(line) = lines.recv() {
            match line {
                Line::Record(record) => self.write(&record, Instant::now()),
                Line::End(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    fn write(&mut self, record: &LogRecord, now: Instant) {
        let fresh = Bucket { tokens: BURST, at: now, held_back: 0 };
        let bucket = self.buckets.entry(record.code).or_insert(fresh);
        if !bucket.admits(now) {
            return;
        }
        let held_back = std::mem::take(&mut bucket.held_back);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let (time, level) = (timestamp(), level_word(record.level));
        let mut text = format!("{time} {level} {}: {} [{}]\n", record.subject, record.text, record.code);
        if held_back > 0 {
            text.push_str(&format!(
                "{time} {level} {}: {held_back} more lines like this were not written. [{}]\n",
                record.subject, record.code
            ));
        }
        if lost > 0 {
            text.push_str(&format!(
                "{time} warning log: {lost} lines were lost: the log is too slow. [log-lost]\n"
            ));
        }
        self.sink.write(&text);
    }
}

const fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

/// `2026-11-21T04:06:00.123456Z`.
fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = ((now.as_secs() / 86_400) as i64, now.as_secs() % 86_400);
    // Civil date from days since 1970 (Howard Hinnant's algorithm).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", now.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_back_and_counted() {
        let path = std::env::temp_dir().join(format!("udrbd-log-{}", std::process::id()));
        let logger = Logger::open(&path).unwrap();
        for n in 0..500 {
            logger.say(Level::Info, "flood", "r0", format!("line {n}."));
        }
        logger.say(Level::Info, "other", "r0", "another site.");
        logger.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines = text.lines().filter(|l| l.contains("[flood]")).count();
        assert!((100..=110).contains(&lines), "{lines}");
        assert!(text.contains("info r0: another site. [other]"));
    }

    #[test]
    fn held_back_lines_are_told() {
        let now = Instant::now();
        let mut bucket = Bucket { tokens: 1.0, at: now, held_back: 0 };
        assert!(bucket.admits(now));
        assert!(!bucket.admits(now));
        assert_eq!(bucket.held_back, 1);
        assert!(bucket.admits(now + Duration::from_secs(1)));
    }
}
