//! Generic netlink as far as a front end needs it: a family by its name, one request, one answer.
//!
//! All numbers are in the machine's byte order, as the kernel has them.

use nix::errno::Errno;
use nix::sys::socket::{
    connect, recv, send, setsockopt, socket, sockopt, AddressFamily, MsgFlags, NetlinkAddr, SockFlag,
    SockProtocol, SockType,
};
use nix::sys::time::TimeVal;
use std::os::fd::{AsRawFd, OwnedFd};

/// Bytes of a message's two heads (`nlmsghdr` and `genlmsghdr`).
const HEAD_BYTES: usize = 20;
const TYPE_ERROR: u16 = 2;
const FLAG_REQUEST: u16 = 1;
const FLAG_ACK: u16 = 4;
/// The family that knows the others.
const CONTROLLER: u16 = 16;
const CONTROLLER_GET_FAMILY: u8 = 3;
const CONTROLLER_FAMILY_ID: u16 = 1;
const CONTROLLER_FAMILY_NAME: u16 = 2;
/// Nested attributes may say so in their type.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 1 << 15;
/// Largest answer that is looked at: the status of a thousand devices is smaller.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Attributes of a message, as its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    fn put(mut self, kind: u16, value: &[u8]) -> Attributes {
        let length = (4 + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A number of 32 bits.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Attributes {
        self.put(kind, &value.to_ne_bytes())
    }

    /// A number of 64 bits.
    pub(crate) fn u64(self, kind: u16, value: u64) -> Attributes {
        self.put(kind, &value.to_ne_bytes())
    }

    /// A text, with the zero that ends it.
    pub(crate) fn text(self, kind: u16, value: &str) -> Attributes {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Attributes within an attribute.
    pub(crate) fn nested(self, kind: u16, value: &Attributes) -> Attributes {
        self.put(kind | NESTED, &value.0)
    }
}

/// The attributes in these bytes, up to the first one that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn message(family: u16, command: u8, version: u8, sequence: u32, attributes: &Attributes) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + attributes.0.len());
    bytes.extend_from_slice(&((HEAD_BYTES + attributes.0.len()) as u32).to_ne_bytes());
    bytes.extend_from_slice(&family.to_ne_bytes());
    bytes.extend_from_slice(&(FLAG_REQUEST | FLAG_ACK).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    // The port is the kernel's to fill in.
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&[command, version, 0, 0]);
    bytes.extend_from_slice(&attributes.0);
    bytes
}

/// What a message of the kernel says.
#[derive(PartialEq, Eq, Debug)]
enum Said<'a> {
    /// Attributes of an answer.
    Answer(&'a [u8]),
    /// The request was carried out (0), or not: a positive error number.
    Outcome(i32),
}

/// The messages to the request of this number.
fn messages(mut bytes: &[u8], sequence: u32) -> impl Iterator<Item = Said<'_>> {
    std::iter::from_fn(move || loop {
        let head = bytes.first_chunk::<16>()?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let of = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if of != sequence {
            continue;
        }
        if kind == TYPE_ERROR {
            return Some(Said::Outcome(-i32::from_ne_bytes(*body.first_chunk::<4>()?)));
        }
        return Some(Said::Answer(body.get(4..)?));
    })
}

/// A socket to one family of the kernel's.
#[derive(Debug)]
pub(crate) struct Family {
    socket: OwnedFd,
    number: u16,
    version: u8,
    sequence: u32,
}

impl Family {
    /// Finds a family. A kernel that has it as a module loads that, if the caller may.
    pub(crate) fn open(name: &str, version: u8) -> Result<Family, Errno> {
        let kind = SockType::Datagram;
        let socket =
            socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkGeneric)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Answers to what is asked here follow at once, unless the driver waits for a device of someone else's.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(60, 0))?;
        let mut family = Family { socket, number: CONTROLLER, version: 1, sequence: 0 };
        let asked = Attributes::default().text(CONTROLLER_FAMILY_NAME, name);
        let answer = family.ask(CONTROLLER_GET_FAMILY, &asked)?;
        let number = attributes(&answer).find(|(kind, _)| *kind == CONTROLLER_FAMILY_ID);
        let number = number.and_then(|(_, value)| value.first_chunk::<2>().copied()).ok_or(Errno::ENOENT)?;
        family.number = u16::from_ne_bytes(number);
        family.version = version;
        Ok(family)
    }

    /// Asks, and waits for the outcome: the attributes of the answer, if there was one.
    pub(crate) fn ask(&mut self, command: u8, attributes: &Attributes) -> Result<Vec<u8>, Errno> {
        self.sequence += 1;
        let request = message(self.number, command, self.version, self.sequence, attributes);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut answer = Vec::new();
        let mut bytes = vec![0; ANSWER_BYTES_MAX];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for said in messages(&bytes[..length], self.sequence) {
                match said {
                    Said::Answer(attributes) => answer = attributes.to_vec(),
                    Said::Outcome(0) => return Ok(answer),
                    Said::Outcome(error) => return Err(Errno::from_raw(error)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_kernels_form() {
        let attributes = Attributes::default().text(CONTROLLER_FAMILY_NAME, "nbd");
        let bytes = message(CONTROLLER, CONTROLLER_GET_FAMILY, 1, 7, &attributes);
        #[cfg(target_endian = "little")]
        assert_eq!(
            bytes,
            [
                28, 0, 0, 0, 16, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
                3, 1, 0, 0, // genlmsghdr
                8, 0, 2, 0, b'n', b'b', b'd', 0,
            ]
        );
        assert_eq!(bytes.len(), 28);
    }

    #[test]
    fn what_was_put_together_is_taken_apart() {
        let inner = Attributes::default().u32(1, 9);
        let outer = Attributes::default().text(10, "four").nested(7, &inner).u64(2, 1 << 40);
        let taken: Vec<(u16, &[u8])> = attributes(&outer.0).collect();
        assert_eq!(taken.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [10, 7, 2]);
        assert_eq!(taken[0].1, b"four\0");
        assert_eq!(attributes(taken[1].1).next(), Some((1, &9u32.to_ne_bytes()[..])));
        assert_eq!(taken[2].1, (1u64 << 40).to_ne_bytes());
    }

    #[test]
    fn attributes_that_lie_about_their_length_end_the_list() {
        for bytes in [&[3, 0, 1, 0][..], &[9, 0, 1, 0, 0, 0, 0, 0], &[4, 0], &[0; 4]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn an_answer_and_its_outcome_are_told_from_those_of_others() {
        let mut bytes = message(30, 1, 1, 5, &Attributes::default().u32(1, 3));
        let outcome = |sequence: u32, error: i32| {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(&36u32.to_ne_bytes());
            bytes.extend_from_slice(&TYPE_ERROR.to_ne_bytes());
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&error.to_ne_bytes());
            bytes.extend_from_slice(&[0; 16]);
            bytes
        };
        bytes.extend(outcome(4, -1));
        bytes.extend(outcome(5, -16));
        let said: Vec<Said<'_>> = messages(&bytes, 5).collect();
        let Said::Answer(answer) = &said[0] else { panic!("{said:?}") };
        assert_eq!(attributes(answer).next(), Some((1, &3u32.to_ne_bytes()[..])));
        assert_eq!(said[1..], [Said::Outcome(16)]);
        assert_eq!(messages(&bytes[..bytes.len() - 1], 5).count(), 1);
    }
}
