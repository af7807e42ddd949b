//! NBD_CMD_BLOCK_STATUS: what the client chose to be told of blocks.

use super::replies::CHUNK_DONE;
use super::{error, Asked, Session, COMMAND_REQ_ONE};
use crate::frontend::{Gate, StatusRun};
use crate::stream::Pools;

pub(in crate::frontend) const CHUNK_BLOCK_STATUS: u16 = 5;
pub(in crate::frontend) const CHUNK_BLOCK_STATUS_EXTENDED: u16 = 6;

/// Runs in one answer; a client asks on from where it ends.
const RUNS_MAX: usize = 64;

impl Session {
    /// Answers with one chunk for each context chosen.
    pub(super) fn answer_status(
        &mut self,
        asked: Asked,
        bytes: u64,
        flags: u16,
        gate: &dyn Gate,
        pools: &mut Pools,
    ) {
        let chosen: Vec<_> = self.negotiation.contexts.chosen().collect();
        let begin = asked.1;
        let end = begin.checked_add(bytes).filter(|end| *end <= self.size.bytes() && bytes > 0);
        let (Some(end), Some(last)) = (end, chosen.len().checked_sub(1)) else {
            return self.refuse_status(asked, pools);
        };
        let most = if flags & COMMAND_REQ_ONE != 0 { 1 } else { RUNS_MAX };
        for (at, (number, context)) in chosen.into_iter().enumerate() {
            let runs = gate.block_status(self.volume, context, begin..end, most);
            let done = if at == last { CHUNK_DONE } else { 0 };
            let (kind, body) = if self.negotiation.extended {
                (CHUNK_BLOCK_STATUS_EXTENDED, extended_body(number, &runs))
            } else {
                (CHUNK_BLOCK_STATUS, body(number, &runs))
            };
            self.chunk(asked, (done, kind), &body, 0, pools);
        }
    }

    fn refuse_status(&mut self, asked: Asked, pools: &mut Pools) {
        if self.negotiation.structured {
            self.error_chunk(asked, error::INVAL, pools);
        } else {
            self.reply(asked, error::INVAL, pools);
        }
    }
}

/// Lengths of 32 bits: a longer run ends early, and with it the answer.
fn body(number: u32, runs: &[StatusRun]) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    for run in runs {
        let bytes = u32::try_from(run.bytes).unwrap_or(1 << 31);
        body.extend_from_slice(&bytes.to_be_bytes());
        body.extend_from_slice(&run.flags.to_be_bytes());
        if u64::from(bytes) != run.bytes {
            break;
        }
    }
    body
}

fn extended_body(number: u32, runs: &[StatusRun]) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.extend_from_slice(&(runs.len() as u32).to_be_bytes());
    for run in runs {
        body.extend_from_slice(&run.bytes.to_be_bytes());
        body.extend_from_slice(&u64::from(run.flags).to_be_bytes());
    }
    body
}
