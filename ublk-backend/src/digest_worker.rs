//! A thread that digests blocks, so that the data plane does not wait for it. Its answers come by the mailbox.

use crate::digest;
use crate::mailbox::{DataPlane, ToData};
use crate::payload_pool::Span;
use drbd_core::ids::DigestId;
use std::sync::mpsc::{channel, Sender};

/// One block.
struct Job {
    id: DigestId,
    algorithm: Box<str>,
    /// The engine keeps the buffer until it has the digest, and nobody writes to it meanwhile.
    span: Span,
}

/// The data plane's end; the thread ends with it.
#[derive(Debug)]
pub(crate) struct DigestWorker {
    jobs: Sender<Job>,
}

impl DigestWorker {
    /// Starts the thread.
    pub(crate) fn start(answers: DataPlane) -> std::io::Result<DigestWorker> {
        let (jobs, waiting) = channel::<Job>();
        std::thread::Builder::new().name("digests".to_owned()).spawn(move || {
            for Job { id, algorithm, span } in waiting {
                let digest = digest::plain(&algorithm, span.bytes());
                answers.send(ToData::Digest { job: id, digest });
            }
        })?;
        Ok(DigestWorker { jobs })
    }

    /// Asks for the digest of a block. What the engine has in flight bounds the queue.
    pub(crate) fn ask(&self, id: DigestId, algorithm: Box<str>, span: Span) {
        // The thread lives as long as this end does.
        let _ = self.jobs.send(Job { id, algorithm, span });
    }
}
