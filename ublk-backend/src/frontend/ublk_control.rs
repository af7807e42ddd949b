//! `/dev/ublk-control`: devices are made, started, taken over, stopped and deleted by commands to it, one at a time, each
//! with a time limit. What a command does may take requests of the device: never asked by the thread that serves them.

#![allow(unsafe_code)]

use super::ublk_commands::{control, control_code, DeviceInfo, Parameters, ANY_DEVICE};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{cqueue, opcode, squeue, IoUring};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::time::Duration;

const PATH: &str = "/dev/ublk-control";
/// So long a command may take. Some kernels (6.17 and 6.18 of certain builds) never answer the first one.
const PATIENCE: Duration = Duration::from_secs(20);

/// The control device, open.
pub(super) struct Control {
    // Dropped first: what is under way refers to the buffer.
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    file: File,
    /// What commands read and fill. `None`: one that did not end in time may still do so.
    buffer: Option<Box<[u8; 64]>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Control {
    /// Opens it. An error names what is missing.
    pub(super) fn open() -> Result<Control, String> {
        let file = OpenOptions::new().read(true).write(true).open(PATH).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "the kernel has no driver ublk (modprobe ublk_drv)".to_owned(),
            _ => format!("{PATH} cannot be opened: {e}"),
        })?;
        let ring = IoUring::builder()
            .build(4)
            .map_err(|e| format!("the driver ublk takes io_uring's commands: {e}"))?;
        Ok(Control { ring, file, buffer: Some(Box::new([0; 64])) })
    }

    /// What the driver can do. One of before 6.5 cannot say it.
    pub(super) fn features(&mut self) -> Result<u64, Errno> {
        let bytes = self.ask(control_code::GET_FEATURES, ANY_DEVICE, &[], 8, 0)?;
        Ok(u64::from_ne_bytes(first(&bytes)))
    }

    /// Facts of a device.
    pub(super) fn info(&mut self, id: u32) -> Result<DeviceInfo, Errno> {
        let bytes = self.ask(control_code::GET_DEV_INFO, id, &[], 64, 0)?;
        Ok(DeviceInfo::decode(&bytes))
    }

    /// Makes a device. What the driver agreed to comes back.
    pub(super) fn add(&mut self, wanted: &DeviceInfo) -> Result<DeviceInfo, Errno> {
        let bytes = self.ask(control_code::ADD_DEV, wanted.id, &wanted.encode(), 64, 0)?;
        Ok(DeviceInfo::decode(&bytes))
    }

    /// Says what a device is like.
    pub(super) fn set_parameters(&mut self, id: u32, parameters: &Parameters) -> Result<(), Errno> {
        let encoded = parameters.encode();
        self.ask(control_code::SET_PARAMS, id, &encoded, encoded.len(), 0).map(|_| ())
    }

    /// Starts a device, whose commands this process has handed in or is about to.
    pub(super) fn start(&mut self, id: u32) -> Result<(), Errno> {
        self.simply(control_code::START_DEV, id, u64::from(std::process::id()))
    }

    /// Fails what waits in a device and takes it from its users.
    pub(super) fn stop(&mut self, id: u32) -> Result<(), Errno> {
        self.simply(control_code::STOP_DEV, id, 0)
    }

    /// Deletes a stopped device, once nobody has its character device open.
    pub(super) fn delete(&mut self, id: u32) -> Result<(), Errno> {
        self.simply(control_code::DEL_DEV, id, 0)
    }

    /// Lets a device whose server died have another one. Busy: the old one is not gone completely.
    pub(super) fn begin_recovery(&mut self, id: u32) -> Result<(), Errno> {
        self.simply(control_code::START_USER_RECOVERY, id, 0)
    }

    /// Its requests come to this process, whose commands are handed in or about to be.
    pub(super) fn end_recovery(&mut self, id: u32) -> Result<(), Errno> {
        self.simply(control_code::END_USER_RECOVERY, id, u64::from(std::process::id()))
    }

    /// Gives a device another size while it is in use.
    pub(super) fn update_size(&mut self, id: u32, sectors: u64) -> Result<(), Errno> {
        self.simply(control_code::UPDATE_SIZE, id, sectors)
    }

    fn simply(&mut self, code: u32, id: u32, number: u64) -> Result<(), Errno> {
        self.ask(code, id, &[], 0, number).map(|_| ())
    }

    /// One command. `bytes`: of the buffer that the driver may read and fill.
    fn ask(
        &mut self,
        code: u32,
        id: u32,
        input: &[u8],
        bytes: usize,
        number: u64,
    ) -> Result<[u8; 64], Errno> {
        let Some(mut buffer) = self.buffer.take() else { return Err(Errno::ETIMEDOUT) };
        *buffer = [0; 64];
        buffer[..input.len()].copy_from_slice(input);
        let address = (bytes > 0).then_some((buffer.as_mut_ptr() as u64, bytes));
        let argument = control(id, address, number);
        let entry = opcode::UringCmd80::new(Fd(self.file.as_raw_fd()), code).cmd(argument).build();
        // SAFETY: the buffer lives until the command ended (it is leaked otherwise), the descriptor as long as the ring.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| Errno::EBUSY)?;
        let until = std::time::Instant::now() + PATIENCE;
        let result = loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let limit = Timespec::new().sec(left.as_secs()).nsec(left.subsec_nanos());
            let waited = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit));
            if let Some(done) = self.ring.completion().next() {
                break done.result();
            }
            let passing = waited.as_ref().err().and_then(std::io::Error::raw_os_error);
            if left.is_zero() || !matches!(passing, None | Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) {
                // The kernel may fill it some day: it stays.
                let _ = Box::leak(buffer);
                return Err(Errno::ETIMEDOUT);
            }
        };
        let filled = *buffer;
        self.buffer = Some(buffer);
        if result < 0 {
            return Err(Errno::from_raw(-result));
        }
        Ok(filled)
    }
}

fn first(bytes: &[u8; 64]) -> [u8; 8] {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    number
}

/// What an error of the driver's means to an administrator.
pub(super) fn explain(what: &str, error: Errno) -> String {
    match error {
        Errno::ETIMEDOUT => format!(
            "{what}: the driver did not answer within {} s. Some kernels (6.18.4, 6.18.5, Ubuntu's 6.17 for Azure and AWS) hang \
             there; another kernel helps, or UDRBD_FRONTEND=nbd",
            PATIENCE.as_secs()
        ),
        Errno::EACCES | Errno::ENOSPC => format!(
            "{what}: {} (the host may have as many devices as /sys/module/ublk_drv/parameters/ublks_max says)",
            error.desc()
        ),
        _ => format!("{what}: {}", error.desc()),
    }
}
