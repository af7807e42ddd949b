//! A thread that tells block devices to discard: the ioctl waits for the device, and io_uring has none for it on most
//! kernels. Its answers come by the mailbox.

#![allow(unsafe_code)]

use crate::mailbox::{DataPlane, ToData};
use nix::errno::Errno;
use std::os::fd::RawFd;
use std::sync::mpsc::{channel, Sender};

mod ioctl {
    nix::ioctl_write_ptr_bad!(discard, nix::request_code_none!(0x12, 119), [u64; 2]);
}

/// A stretch of a device to give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Job {
    /// Of the disk operation, which keeps the descriptor open until it has the answer.
    pub(crate) slot: u32,
    /// The device.
    pub(crate) fd: RawFd,
    /// Where.
    pub(crate) offset_bytes: u64,
    /// How much.
    pub(crate) bytes: u64,
}

/// The data plane's end; the thread ends with it.
#[derive(Debug)]
pub(crate) struct DiscardWorker {
    jobs: Sender<Job>,
}

impl DiscardWorker {
    /// Starts the thread.
    pub(crate) fn start(answers: DataPlane) -> std::io::Result<DiscardWorker> {
        let (jobs, waiting) = channel::<Job>();
        std::thread::Builder::new().name("discards".to_owned()).spawn(move || {
            for Job { slot, fd, offset_bytes, bytes } in waiting {
                // SAFETY: the descriptor is open, and the range is read from the array given.
                let done = unsafe { ioctl::discard(fd, &[offset_bytes, bytes]) };
                // A file, or a device of old, knows no discards.
                let result = match done {
                    Ok(_) => 0,
                    Err(Errno::ENOTTY) => -libc::EOPNOTSUPP,
                    Err(error) => -(error as i32),
                };
                answers.send(ToData::Discarded { slot, result });
            }
        })?;
        Ok(DiscardWorker { jobs })
    }

    /// Asks for a stretch to be discarded. What the engine has in flight bounds the queue.
    pub(crate) fn ask(&self, slot: u32, fd: RawFd, offset_bytes: u64, bytes: u64) {
        // The thread lives as long as this end does.
        let _ = self.jobs.send(Job { slot, fd, offset_bytes, bytes });
    }

    /// Without a thread: who asks is asked by `jobs`.
    #[cfg(test)]
    pub(crate) fn to(jobs: Sender<Job>) -> DiscardWorker {
        DiscardWorker { jobs }
    }
}
