//! Why a command ends without success: a sentence for stderr and drbdmeta's exit code.

use std::fmt;

/// Exit codes of drbdmeta.
pub(crate) mod exit {
    /// No valid metadata, not confirmed, not applied.
    pub(crate) const NOT_DONE: u8 = 1;
    /// The activity log does not say what was active.
    pub(crate) const LOG_UNUSABLE: u8 = 2;
    /// Outdate on inconsistent data.
    pub(crate) const INCONSISTENT: u8 = 5;
    /// Options, values, IO errors, device too small.
    pub(crate) const BAD_VALUE: u8 = 10;
    /// Usage, cannot open, busy, in use.
    pub(crate) const USAGE: u8 = 20;
    /// Not implemented by DRBD's own drbdmeta either.
    pub(crate) const STRIPES_ONLY: u8 = 30;
    /// Would destroy data.
    pub(crate) const WOULD_DESTROY: u8 = 40;
}

/// The end of a command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) code: u8,
    /// For stderr; empty if all has been said.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    /// Everything has been said.
    pub(crate) fn silent(code: u8) -> Failure {
        Failure::new(code, "")
    }

    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(exit::USAGE, message)
    }

    pub(crate) fn value(message: impl Into<String>) -> Failure {
        Failure::new(exit::BAD_VALUE, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Only stdout is written with `?`; whoever reads it may go away.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::silent(exit::NOT_DONE),
            _ => Failure::value(format!("writing to stdout failed: {error}")),
        }
    }
}
