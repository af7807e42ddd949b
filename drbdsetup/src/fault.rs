//! Why a command did not succeed: the text for stderr and the exit code.

use drbd_core::control::RefusedReply;
use drbd_core::refusal::{Reason, Refusal};

/// Exit code for usage errors and for everything outside of DRBD's own refusals.
pub const EXIT_TROUBLE: u8 = 20;
/// Exit code for `ERR_*` and for queries about what does not exist.
pub const EXIT_REFUSED: u8 = 10;
/// Exit code of waits that ran out of time.
pub const EXIT_TIMEOUT: u8 = 5;

/// A command that did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// For stderr, without the last newline; may be empty.
    pub text: String,
    /// Exit code.
    pub exit: u8,
}

impl Fault {
    /// Something is wrong around the daemon or with the command line; exit code 20.
    pub fn trouble(text: impl Into<String>) -> Fault {
        Fault { text: text.into(), exit: EXIT_TROUBLE }
    }

    /// Both, told in their order; the exit code of the first.
    pub fn after(self, before: Option<Fault>) -> Fault {
        match before {
            None => self,
            Some(before) => Fault { text: format!("{}\n{}", before.text, self.text), exit: before.exit },
        }
    }

    /// A query about what does not exist; exit code 10.
    pub fn missing(text: impl Into<String>) -> Fault {
        Fault { text: text.into(), exit: EXIT_REFUSED }
    }

    /// A refusal of the daemon, worded as DRBD's tools word it.
    pub fn refused(object: &str, reply: &RefusedReply) -> Fault {
        let (number, text) = (reply.number, &reply.text);
        let mut lines = if number < 0 {
            format!("{object}: State change failed: ({number}) {text}")
        } else if number > 100 {
            format!("{object}: Failure: ({number}) {text}")
        } else {
            format!("{object}: Error code {number} unknown.\nYou should update the drbd userland tools.")
        };
        if !reply.info.is_empty() {
            lines.push_str("\nadditional info from kernel:\n");
            lines.push_str(reply.info.trim_end_matches('\n'));
        }
        Fault { text: lines, exit: reply.exit_code() }
    }

    /// A refusal of our own, worded like one of the daemon.
    pub fn refusal(object: &str, refusal: &Refusal) -> Fault {
        Fault::refused(object, &RefusedReply::from(refusal))
    }

    /// `(158) Unknown resource`, with a sentence about why.
    pub fn unknown_resource(name: &str, info: &str) -> Fault {
        Fault::refusal(name, &Refusal::because(Reason::ResourceNotKnown, info))
    }
}
