//! The minimal parent: starts the daemon, starts it again when it was killed or panicked (with a bound), and ends with
//! it when it ended in an orderly way.

use drbd_core::engine::Level;
use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

/// Restarts within [`WINDOW`] after which it is given up.
const RESTARTS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Pause before the first restart; doubles with each further one while the daemon dies again at once. Users of a block
/// device wait for it.
const PAUSE: Duration = Duration::from_millis(100);
const AT_ONCE: Duration = Duration::from_secs(5);

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

/// The times of recent restarts.
#[derive(Debug, Default)]
struct Restarts(VecDeque<Instant>);

impl Restarts {
    fn judge(&mut self, status: ExitStatus, restart: bool, now: Instant) -> Next {
        if let Some(code) = status.code() {
            return Next::End(code as u8);
        }
        if !restart {
            return Next::End(128 + status.signal().unwrap_or(0) as u8);
        }
        while self.0.front().is_some_and(|at| now.duration_since(*at) > WINDOW) {
            self.0.pop_front();
        }
        if self.0.len() >= RESTARTS_MAX {
            return Next::GiveUp;
        }
        let in_a_row = self.0.iter().filter(|at| now.duration_since(**at) <= AT_ONCE).count();
        self.0.push_back(now);
        Next::Restart(PAUSE * (1 << in_a_row))
    }
}

/// Runs the daemon with these arguments until it ends for good.
pub(crate) fn supervise(
    resource: &str,
    arguments: &[String],
    restart: bool,
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
    let mut recover = false;
    loop {
        let mut command = Command::new(&program);
        command.arg("run").args(arguments);
        if recover {
            command.arg("--recover");
        }
        let status = match command.status() {
            Ok(status) => status,
            Err(e) => {
                eprintln!("{resource}: {} cannot be started: {e}.", program.display());
                return ExitCode::from(20);
            }
        };
        match restarts.judge(status, restart, Instant::now()) {
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
                        "The daemon died ({status}), {RESTARTS_MAX} times within {} s: it is not started again.",
                        WINDOW.as_secs()
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
    fn restarts_are_bounded_and_slow_down() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        let killed = ExitStatus::from_raw(9);
        for n in 0..5 {
            let pause = Duration::from_millis(100 << n);
            assert_eq!(restarts.judge(killed, true, now), Next::Restart(pause));
        }
        assert_eq!(restarts.judge(killed, true, now), Next::GiveUp);
        let later = now + Duration::from_secs(61);
        assert_eq!(restarts.judge(killed, true, later), Next::Restart(PAUSE));
        assert_eq!(restarts.judge(killed, true, later + Duration::from_secs(6)), Next::Restart(PAUSE));
    }

    #[test]
    fn an_orderly_end_is_the_end() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        assert_eq!(restarts.judge(ExitStatus::from_raw(20 << 8), true, now), Next::End(20));
        assert_eq!(restarts.judge(ExitStatus::from_raw(0), true, now), Next::End(0));
        assert_eq!(restarts.judge(ExitStatus::from_raw(9), false, now), Next::End(137));
    }
}
