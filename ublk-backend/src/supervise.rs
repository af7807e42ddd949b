//! The minimal parent: starts the daemon, starts it again when it was killed or panicked (with a bound), and ends with
//! it when it ended in an orderly way.

use drbd_core::engine::Level;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

/// A daemon that lived for less died at once.
const AT_ONCE: Duration = Duration::from_secs(2);
/// It is given up when it died at once so often in a row. One that is killed now and then is started again every time:
/// under a block device that is a pause, and the end of it is not.
const RESTARTS_MAX: u32 = 6;
/// Pause before a restart: users of a block device wait for it.
const PAUSE: Duration = Duration::from_millis(10);
/// After a death at once; doubles with each further one.
const LONGER_PAUSE: Duration = Duration::from_millis(100);

/// What a daemon's end means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// Ended in an orderly way, or must not be restarted.
    End(u8),
    /// Died: again, after a pause.
    Restart(Duration),
    /// Died too often.
    GiveUp,
}

/// Deaths at once, in a row.
#[derive(Debug, Default)]
struct Restarts(u32);

impl Restarts {
    fn judge(&mut self, status: ExitStatus, restart: bool, lived: Duration) -> Next {
        if let Some(code) = status.code() {
            return Next::End(code as u8);
        }
        if !restart {
            return Next::End(128 + status.signal().unwrap_or(0) as u8);
        }
        if lived >= AT_ONCE {
            self.0 = 0;
        } else if self.0 >= RESTARTS_MAX {
            return Next::GiveUp;
        }
        let pause = if self.0 == 0 { PAUSE } else { LONGER_PAUSE * (1 << (self.0 - 1)) };
        self.0 += u32::from(lived < AT_ONCE);
        Next::Restart(pause)
    }
}

/// Runs the daemon with these arguments until it ends for good; `restart`: again when it dies, `recover`: the first, too, takes
/// up what one before it was doing.
pub(crate) fn supervise(
    resource: &str,
    arguments: &[String],
    restart: bool,
    mut recover: bool,
    log: &dyn Fn(Level, String),
) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(e) => {
            eprintln!("{resource}: the daemon's own binary cannot be found: {e}.");
            return ExitCode::from(20);
        }
    };
    let mut restarts = Restarts::default();
    loop {
        let mut command = Command::new(&program);
        command.arg("run").args(arguments);
        if recover {
            command.arg("--recover");
        }
        let begun = Instant::now();
        let status = match command.status() {
            Ok(status) => status,
            Err(e) => {
                eprintln!("{resource}: {} cannot be started: {e}.", program.display());
                return ExitCode::from(20);
            }
        };
        match restarts.judge(status, restart, begun.elapsed()) {
            Next::End(code) => {
                if status.signal().is_some() {
                    log(Level::Error, format!("The daemon died ({status}) and is kept down."));
                }
                return ExitCode::from(code);
            }
            Next::Restart(pause) => {
                log(Level::Error, format!("The daemon died ({status}); it is started again in {pause:?}."));
                std::thread::sleep(pause);
                recover = true;
            }
            Next::GiveUp => {
                log(
                    Level::Error,
                    format!(
                        "The daemon died ({status}), as it did {RESTARTS_MAX} times before within {} s of its start: it is not started again.",
                        AT_ONCE.as_secs()
                    ),
                );
                return ExitCode::from(20);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_of_what_dies_at_once_are_bounded_and_slow_down() {
        let mut restarts = Restarts::default();
        let (moment, while_) = (Duration::from_millis(1), Duration::from_secs(3));
        let killed = ExitStatus::from_raw(9);
        for ms in [10, 100, 200, 400, 800, 1600] {
            let pause = Duration::from_millis(ms);
            assert_eq!(restarts.judge(killed, true, moment), Next::Restart(pause));
        }
        assert_eq!(restarts.judge(killed, true, moment), Next::GiveUp);
        for _ in 0..100 {
            assert_eq!(restarts.judge(killed, true, while_), Next::Restart(PAUSE));
        }
        assert_eq!(restarts.judge(killed, true, moment), Next::Restart(PAUSE));
        assert_eq!(restarts.judge(killed, true, moment), Next::Restart(LONGER_PAUSE));
    }

    #[test]
    fn an_orderly_end_is_the_end() {
        let mut restarts = Restarts::default();
        let now = Duration::from_millis(1);
        assert_eq!(restarts.judge(ExitStatus::from_raw(20 << 8), true, now), Next::End(20));
        assert_eq!(restarts.judge(ExitStatus::from_raw(0), true, now), Next::End(0));
        assert_eq!(restarts.judge(ExitStatus::from_raw(9), false, now), Next::End(137));
    }
}
