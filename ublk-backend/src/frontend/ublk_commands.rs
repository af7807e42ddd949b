//! The words of the kernel's ublk driver, as its user-space interface (`linux/ublk_cmd.h`) lays them out: what is said to
//! `/dev/ublk-control`, and what passes between a device's queues and their server.
//!
//! All numbers are in the machine's byte order.

/// What the driver can do, a bit each; later kernels have more.
pub(crate) mod feature {
    /// The device stays when its server dies, and its requests wait.
    pub(crate) const USER_RECOVERY: u64 = 1 << 3;
    /// What the dead server had under way is given to the next one.
    pub(crate) const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// Commands are numbered as ioctls are.
    pub(crate) const IOCTL_ENCODE: u64 = 1 << 6;
    /// The server fetches and stores the bytes of requests itself.
    pub(crate) const USER_COPY: u64 = 1 << 7;
    /// A device in use can have another size.
    pub(crate) const UPDATE_SIZE: u64 = 1 << 10;
    /// Nobody looks for partitions when the device is started. A DRBD has none.
    pub(crate) const NO_AUTO_PART_SCAN: u64 = 1 << 18;
    /// Without these a device could not outlive its server.
    pub(crate) const NEEDED: u64 = USER_RECOVERY | USER_RECOVERY_REISSUE | IOCTL_ENCODE | USER_COPY;
}

/// Bytes of what a command to `/dev/ublk-control` carries.
const CONTROL_BYTES: usize = 32;
/// Bytes of what a command of a queue carries.
pub(crate) const QUEUE_COMMAND_BYTES: usize = 16;
const DEVICE_INFO_BYTES: usize = 64;
/// Basic parameters and those of discards, with their head.
const PARAMETER_BYTES: usize = 60;

const KIND: u8 = b'u';

/// Commands to `/dev/ublk-control`.
pub(crate) mod control_code {
    use super::{CONTROL_BYTES, KIND};

    pub(crate) const GET_DEV_INFO: u32 = nix::request_code_read!(KIND, 0x02, CONTROL_BYTES) as u32;
    pub(crate) const ADD_DEV: u32 = nix::request_code_readwrite!(KIND, 0x04, CONTROL_BYTES) as u32;
    pub(crate) const DEL_DEV: u32 = nix::request_code_readwrite!(KIND, 0x05, CONTROL_BYTES) as u32;
    pub(crate) const START_DEV: u32 = nix::request_code_readwrite!(KIND, 0x06, CONTROL_BYTES) as u32;
    pub(crate) const STOP_DEV: u32 = nix::request_code_readwrite!(KIND, 0x07, CONTROL_BYTES) as u32;
    pub(crate) const SET_PARAMS: u32 = nix::request_code_readwrite!(KIND, 0x08, CONTROL_BYTES) as u32;
    pub(crate) const START_USER_RECOVERY: u32 =
        nix::request_code_readwrite!(KIND, 0x10, CONTROL_BYTES) as u32;
    pub(crate) const END_USER_RECOVERY: u32 = nix::request_code_readwrite!(KIND, 0x11, CONTROL_BYTES) as u32;
    pub(crate) const GET_FEATURES: u32 = nix::request_code_read!(KIND, 0x13, CONTROL_BYTES) as u32;
    pub(crate) const UPDATE_SIZE: u32 = nix::request_code_readwrite!(KIND, 0x15, CONTROL_BYTES) as u32;
}

/// Commands of a queue.
pub(crate) mod queue_code {
    use super::{KIND, QUEUE_COMMAND_BYTES};

    /// Wait for the first request of a tag.
    pub(crate) const FETCH: u32 = nix::request_code_readwrite!(KIND, 0x20, QUEUE_COMMAND_BYTES) as u32;
    /// Answer the request of a tag, and wait for the next one.
    pub(crate) const COMMIT_AND_FETCH: u32 =
        nix::request_code_readwrite!(KIND, 0x21, QUEUE_COMMAND_BYTES) as u32;
}

/// Names a device that is to be made: the driver chooses its number.
pub(crate) const ANY_DEVICE: u32 = u32::MAX;

/// A command's argument: for which device, a buffer to read or fill, a number.
pub(crate) fn control(device: u32, buffer: Option<(u64, usize)>, number: u64) -> [u8; 80] {
    let (address, bytes) = buffer.unwrap_or((0, 0));
    let mut command = [0; 80];
    command[0..4].copy_from_slice(&device.to_ne_bytes());
    // Of no queue.
    command[4..6].copy_from_slice(&u16::MAX.to_ne_bytes());
    command[6..8].copy_from_slice(&(bytes as u16).to_ne_bytes());
    command[8..16].copy_from_slice(&address.to_ne_bytes());
    command[16..24].copy_from_slice(&number.to_ne_bytes());
    command
}

/// An argument of a queue's command.
pub(crate) fn queue_command(queue: u16, tag: u16, result: i32) -> [u8; QUEUE_COMMAND_BYTES] {
    let mut command = [0; QUEUE_COMMAND_BYTES];
    command[0..2].copy_from_slice(&queue.to_ne_bytes());
    command[2..4].copy_from_slice(&tag.to_ne_bytes());
    command[4..8].copy_from_slice(&result.to_ne_bytes());
    command
}

/// What a device is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeviceState {
    /// Not started, or stopped.
    Dead,
    /// It has a server.
    Live,
    /// Its server died; its requests wait.
    Quiesced,
    /// Something of a later kernel.
    Other,
}

/// Facts of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DeviceInfo {
    /// How many queues.
    pub(crate) queues: u16,
    /// Requests of each at a time.
    pub(crate) depth: u16,
    /// What it is doing.
    pub(crate) state: DeviceState,
    /// Bytes of its largest request.
    pub(crate) request_bytes_max: u32,
    /// Its number.
    pub(crate) id: u32,
    /// What was agreed on.
    pub(crate) features: u64,
    /// For the server alone: the driver only keeps it.
    pub(crate) owner: u64,
}

impl DeviceInfo {
    /// As the driver wants it for a new device. What is not said here is the driver's to fill in.
    pub(crate) fn encode(&self) -> [u8; DEVICE_INFO_BYTES] {
        let mut info = [0; DEVICE_INFO_BYTES];
        info[0..2].copy_from_slice(&self.queues.to_ne_bytes());
        info[2..4].copy_from_slice(&self.depth.to_ne_bytes());
        info[8..12].copy_from_slice(&self.request_bytes_max.to_ne_bytes());
        info[12..16].copy_from_slice(&self.id.to_ne_bytes());
        info[24..32].copy_from_slice(&self.features.to_ne_bytes());
        info[32..40].copy_from_slice(&self.owner.to_ne_bytes());
        info
    }

    /// As the driver told it.
    pub(crate) fn decode(info: &[u8; DEVICE_INFO_BYTES]) -> DeviceInfo {
        DeviceInfo {
            queues: u16_at(info, 0),
            depth: u16_at(info, 2),
            state: match u16_at(info, 4) {
                0 => DeviceState::Dead,
                1 => DeviceState::Live,
                2 => DeviceState::Quiesced,
                _ => DeviceState::Other,
            },
            request_bytes_max: u32_at(info, 8),
            id: u32_at(info, 12),
            features: u64_at(info, 24),
            owner: u64_at(info, 32),
        }
    }
}

/// What the block layer is told of a device before it is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parameters {
    /// Size.
    pub(crate) sectors: u64,
    /// Smallest unit.
    pub(crate) logical_block_bytes: u32,
    /// Unit it prefers.
    pub(crate) physical_block_bytes: u32,
    /// Reads and writes.
    pub(crate) data_bytes_max: u32,
    /// Discards; 0: there are none.
    pub(crate) discard_bytes_max: u32,
    /// What discards had better be multiples of.
    pub(crate) discard_granularity: u32,
    /// Write-zeroes; 0: zeroes are written as data.
    pub(crate) zeroes_bytes_max: u32,
}

impl Parameters {
    const TYPE_BASIC: u32 = 1;
    const TYPE_DISCARD: u32 = 1 << 1;
    /// Flushes and FUA writes are passed on: the disks below have caches.
    const VOLATILE_CACHE_AND_FUA: u32 = 1 << 2 | 1 << 3;

    /// As the driver wants them.
    pub(crate) fn encode(&self) -> [u8; PARAMETER_BYTES] {
        let mut parameters = [0; PARAMETER_BYTES];
        let numbers: [(usize, u32); 7] = [
            (0, PARAMETER_BYTES as u32),
            (4, Self::TYPE_BASIC | Self::TYPE_DISCARD),
            (8, Self::VOLATILE_CACHE_AND_FUA),
            (16, self.data_bytes_max / 512),
            (44, self.discard_granularity.max(self.logical_block_bytes)),
            (48, self.discard_bytes_max / 512),
            (52, self.zeroes_bytes_max / 512),
        ];
        for (at, number) in numbers {
            parameters[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        let physical = self.physical_block_bytes.max(self.logical_block_bytes).ilog2() as u8;
        // Logical and physical block, best and smallest request.
        parameters[12..16].copy_from_slice(&[
            self.logical_block_bytes.ilog2() as u8,
            physical,
            physical,
            physical,
        ]);
        parameters[24..32].copy_from_slice(&self.sectors.to_ne_bytes());
        // Stretches of one discard: the driver takes no more.
        parameters[56..58].copy_from_slice(&1u16.to_ne_bytes());
        parameters
    }
}

/// What a request is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// Read.
    Read,
    /// Write; `fua`: completes only when stable.
    Write {
        /// Completes only when stable.
        fua: bool,
    },
    /// What was completed becomes stable.
    Flush,
    /// The content is no longer needed.
    Discard,
    /// Write zeroes; `unmap`: the space may be given back.
    WriteZeroes {
        /// The space may be given back.
        unmap: bool,
    },
    /// What we do not serve.
    Other,
}

/// Bytes of a request's description.
pub(crate) const DESCRIPTION_BYTES: usize = 24;
/// A queue's descriptions begin at multiples of this many of them.
pub(crate) const QUEUE_DEPTH_MAX: usize = 4096;

/// A request, as a queue describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Description {
    /// What.
    pub(crate) operation: Operation,
    /// First sector.
    pub(crate) sector: u64,
    /// Length.
    pub(crate) bytes: u64,
}

impl Description {
    /// From the driver's bytes.
    pub(crate) fn decode(bytes: &[u8; DESCRIPTION_BYTES]) -> Description {
        const FUA: u32 = 1 << 13;
        const NO_UNMAP: u32 = 1 << 15;
        let word = u32_at(bytes, 0);
        let flags = word & !0xff;
        let operation = match word & 0xff {
            0 => Operation::Read,
            1 => Operation::Write { fua: flags & FUA != 0 },
            2 => Operation::Flush,
            3 => Operation::Discard,
            5 => Operation::WriteZeroes { unmap: flags & NO_UNMAP == 0 },
            _ => Operation::Other,
        };
        Description { operation, sector: u64_at(bytes, 8), bytes: u64::from(u32_at(bytes, 4)) * 512 }
    }
}

/// Where in the character device the bytes of a request lie.
pub(crate) fn data_offset(queue: u16, tag: u16, offset_bytes: u64) -> u64 {
    0x8000_0000 + (u64::from(queue) << 41) + (u64::from(tag) << 25) + offset_bytes
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn commands_have_the_numbers_of_the_interface() {
        assert_eq!(control_code::GET_DEV_INFO, 0x8020_7502);
        assert_eq!(control_code::ADD_DEV, 0xc020_7504);
        assert_eq!(control_code::GET_FEATURES, 0x8020_7513);
        assert_eq!(queue_code::FETCH, 0xc010_7520);
        assert_eq!(queue_code::COMMIT_AND_FETCH, 0xc010_7521);
    }

    #[test]
    fn facts_of_a_device_come_back_as_they_were_said() {
        let info = DeviceInfo {
            queues: 2,
            depth: 128,
            state: DeviceState::Dead,
            request_bytes_max: 1 << 20,
            id: 7,
            features: feature::NEEDED,
            owner: 0x7564_0000_1234_0001,
        };
        assert_eq!(DeviceInfo::decode(&info.encode()), info);
        let mut quiesced = info.encode();
        quiesced[4..6].copy_from_slice(&2u16.to_ne_bytes());
        assert_eq!(DeviceInfo::decode(&quiesced).state, DeviceState::Quiesced);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn parameters_lie_where_the_interface_has_them() {
        let bytes = Parameters {
            sectors: 0x0102_0304_0506,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            data_bytes_max: 1 << 20,
            discard_bytes_max: 128 << 20,
            discard_granularity: 65536,
            zeroes_bytes_max: 64 << 20,
        }
        .encode();
        assert_eq!(bytes[0..8], [60, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[8..16], [12, 0, 0, 0, 9, 12, 12, 12]);
        assert_eq!(u32_at(&bytes, 16), 2048);
        assert_eq!(u64_at(&bytes, 24), 0x0102_0304_0506);
        assert_eq!((u32_at(&bytes, 44), u32_at(&bytes, 48), u32_at(&bytes, 52)), (65536, 262_144, 131_072));
        assert_eq!(u16_at(&bytes, 56), 1);
    }

    #[test]
    fn a_request_is_read_with_its_flags() {
        let describe = |word: u32| {
            let mut bytes = [0; DESCRIPTION_BYTES];
            bytes[0..4].copy_from_slice(&word.to_ne_bytes());
            bytes[4..8].copy_from_slice(&8u32.to_ne_bytes());
            bytes[8..16].copy_from_slice(&(1u64 << 40).to_ne_bytes());
            Description::decode(&bytes)
        };
        assert_eq!(
            describe(1 | 1 << 13),
            Description { operation: Operation::Write { fua: true }, sector: 1 << 40, bytes: 4096 }
        );
        assert_eq!(describe(1).operation, Operation::Write { fua: false });
        assert_eq!(describe(5).operation, Operation::WriteZeroes { unmap: true });
        assert_eq!(describe(5 | 1 << 15).operation, Operation::WriteZeroes { unmap: false });
        assert_eq!(describe(4).operation, Operation::Other);
    }

    #[test]
    fn bytes_of_requests_do_not_overlap() {
        assert_eq!(data_offset(0, 1, 0) - data_offset(0, 0, 0), 32 << 20);
        assert_eq!(data_offset(1, 0, 0) - data_offset(0, 0, 0), (32u64 << 20) << 16);
    }
}
