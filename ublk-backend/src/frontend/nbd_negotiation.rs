//! The opening of an NBD connection (fixed newstyle), as a pure machine: bytes in, bytes out, and in the end a session.
//!
//! Numbers as in the NBD protocol document.

use super::nbd_contexts::{asked_for, Contexts};
use super::nbd_offer::Offer;
use super::nbd_settings::Tls;
use super::Gate;
use drbd_core::ids::VolumeNumber;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Longest option that is looked at; longer ones end the connection.
const OPTION_BYTES_MAX: usize = 8192;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;

mod option {
    pub(super) const EXPORT_NAME: u32 = 1;
    pub(super) const ABORT: u32 = 2;
    pub(super) const LIST: u32 = 3;
    pub(super) const STARTTLS: u32 = 5;
    pub(super) const INFO: u32 = 6;
    pub(super) const GO: u32 = 7;
    pub(super) const STRUCTURED_REPLY: u32 = 8;
    pub(super) const LIST_META_CONTEXT: u32 = 9;
    pub(super) const SET_META_CONTEXT: u32 = 10;
    pub(super) const EXTENDED_HEADERS: u32 = 11;
}

mod reply {
    pub(super) const ACK: u32 = 1;
    pub(super) const SERVER: u32 = 2;
    pub(super) const INFO: u32 = 3;
    pub(super) const META_CONTEXT: u32 = 4;
    pub(super) const ERR_UNSUP: u32 = 1 << 31 | 1;
    pub(super) const ERR_POLICY: u32 = 1 << 31 | 2;
    pub(super) const ERR_INVALID: u32 = 1 << 31 | 3;
    pub(super) const ERR_TLS_REQD: u32 = 1 << 31 | 5;
    pub(super) const ERR_UNKNOWN: u32 = 1 << 31 | 6;
    pub(super) const ERR_TOO_BIG: u32 = 1 << 31 | 9;
    pub(super) const ERR_EXT_HEADER_REQD: u32 = 1 << 31 | 10;
}

mod info {
    pub(super) const EXPORT: u16 = 0;
    pub(super) const BLOCK_SIZE: u16 = 3;
}

/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN.
pub(crate) const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;
/// SEND_DF: only meaningful with structured replies.
const FLAG_SEND_DF: u16 = 1 << 7;

/// Smallest unit of a request: a sector.
pub(crate) const BLOCK_BYTES_MIN: u32 = 512;
const BLOCK_BYTES_PREFERRED: u32 = 4096;
/// Largest request with data.
pub(crate) const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// How far it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Negotiation {
    greeted: bool,
    pub(super) no_zeroes: bool,
    /// What is said here is said within TLS.
    secured: bool,
    /// Structured replies were agreed.
    pub(crate) structured: bool,
    /// Extended headers were agreed: requests and replies with lengths of 64 bits, every reply in chunks.
    pub(crate) extended: bool,
    /// What the client wants to be told of blocks.
    pub(crate) contexts: Contexts,
    /// Of which volume it said so.
    contexts_of: Option<VolumeNumber>,
}

/// What came of looking at the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// More bytes are needed.
    NeedMore,
    /// So many were worked off.
    Consumed(usize),
    /// So many were worked off, and requests to a volume follow.
    Begin(usize, VolumeNumber),
    /// So many were worked off, and TLS follows, within which it all begins again.
    BeginTls(usize),
    /// So many were worked off, and the connection ends once the answer is sent.
    End(usize),
}

/// What the server says first.
pub(crate) fn greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[16..].copy_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    bytes
}

impl Negotiation {
    /// Of a client that was greeted before TLS: nothing else that was agreed then counts.
    pub(crate) fn within_tls(no_zeroes: bool) -> Negotiation {
        Negotiation { greeted: true, no_zeroes, secured: true, ..Negotiation::default() }
    }

    /// Looks at what the client said and appends the answer.
    pub(super) fn step(
        &mut self,
        bytes: &[u8],
        offer: &Offer<'_>,
        gate: &dyn Gate,
        answer: &mut Vec<u8>,
    ) -> Step {
        if !self.greeted {
            return self.client_flags(bytes);
        }
        let Some((head, rest)) = bytes.split_first_chunk::<16>() else { return Step::NeedMore };
        let magic = be64(&head[..8]);
        let (option, length) = (be32(&head[8..12]), be32(&head[12..]) as usize);
        if magic != OPTION_MAGIC {
            return Step::End(bytes.len());
        }
        if length > OPTION_BYTES_MAX {
            refuse(answer, option, reply::ERR_TOO_BIG, "The option is too long.");
            return Step::End(bytes.len());
        }
        let Some(data) = rest.get(..length) else { return Step::NeedMore };
        let consumed = 16 + length;
        if offer.tls == Tls::Require && !self.secured {
            match option {
                // There is no way to refuse this one.
                option::EXPORT_NAME => return Step::End(consumed),
                option::ABORT | option::STARTTLS => {}
                _ => {
                    let why = "This server is to be used with TLS: begin with STARTTLS.";
                    refuse(answer, option, reply::ERR_TLS_REQD, why);
                    return Step::Consumed(consumed);
                }
            }
        }
        match option {
            option::EXPORT_NAME => self.export_name(data, consumed, offer, gate, answer),
            option::STARTTLS => self.start_tls(data, consumed, offer, answer),
            option::ABORT => {
                respond(answer, option, reply::ACK, &[]);
                Step::End(consumed)
            }
            option::LIST if !data.is_empty() => {
                refuse(answer, option, reply::ERR_INVALID, "LIST takes no data.");
                Step::Consumed(consumed)
            }
            option::LIST => {
                for name in offer.names() {
                    let length = (name.len() as u32).to_be_bytes();
                    respond(answer, option, reply::SERVER, &[&length[..], name.as_bytes()].concat());
                }
                respond(answer, option, reply::ACK, &[]);
                Step::Consumed(consumed)
            }
            option::STRUCTURED_REPLY if !data.is_empty() => {
                refuse(answer, option, reply::ERR_INVALID, "STRUCTURED_REPLY takes no data.");
                Step::Consumed(consumed)
            }
            option::STRUCTURED_REPLY if self.extended => {
                let why = "Extended headers were chosen, which have it.";
                refuse(answer, option, reply::ERR_EXT_HEADER_REQD, why);
                Step::Consumed(consumed)
            }
            option::STRUCTURED_REPLY => {
                self.structured = true;
                respond(answer, option, reply::ACK, &[]);
                Step::Consumed(consumed)
            }
            option::EXTENDED_HEADERS if !data.is_empty() => {
                refuse(answer, option, reply::ERR_INVALID, "EXTENDED_HEADERS takes no data.");
                Step::Consumed(consumed)
            }
            option::EXTENDED_HEADERS => {
                // What was chosen of contexts before is to be chosen again.
                (self.structured, self.extended) = (true, true);
                self.forget_contexts();
                respond(answer, option, reply::ACK, &[]);
                Step::Consumed(consumed)
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_contexts(option, data, offer, answer);
                Step::Consumed(consumed)
            }
            option::INFO | option::GO => match self.information(option, data, offer, gate, answer) {
                Some(volume) if option == option::GO => self.begin(consumed, volume),
                _ => Step::Consumed(consumed),
            },
            _ => {
                refuse(answer, option, reply::ERR_UNSUP, "This option is not supported.");
                Step::Consumed(consumed)
            }
        }
    }

    fn client_flags(&mut self, bytes: &[u8]) -> Step {
        let Some(flags) = bytes.first_chunk::<4>() else { return Step::NeedMore };
        let flags = u32::from_be_bytes(*flags);
        let known = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        if flags & !known != 0 || flags & u32::from(FLAG_FIXED_NEWSTYLE) == 0 {
            return Step::End(bytes.len());
        }
        self.greeted = true;
        self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        Step::Consumed(4)
    }

    fn start_tls(&self, data: &[u8], consumed: usize, offer: &Offer<'_>, answer: &mut Vec<u8>) -> Step {
        let (kind, why) = if !data.is_empty() {
            (reply::ERR_INVALID, "STARTTLS takes no data.")
        } else if self.secured {
            (reply::ERR_INVALID, "TLS was begun already.")
        } else if offer.tls == Tls::Off {
            (reply::ERR_POLICY, "This server has no TLS: UDRBD_NBD_TLS of its daemon is off.")
        } else {
            respond(answer, option::STARTTLS, reply::ACK, &[]);
            return Step::BeginTls(consumed);
        };
        refuse(answer, option::STARTTLS, kind, why);
        Step::Consumed(consumed)
    }

    fn begin(&mut self, consumed: usize, volume: VolumeNumber) -> Step {
        // What was chosen for another volume was not chosen for this one.
        if self.contexts_of != Some(volume) {
            self.forget_contexts();
        }
        Step::Begin(consumed, volume)
    }

    fn forget_contexts(&mut self) {
        (self.contexts, self.contexts_of) = (Contexts::default(), None);
    }

    /// What the server can tell of blocks, or what of it the client wants.
    fn meta_contexts(&mut self, option: u32, data: &[u8], offer: &Offer<'_>, answer: &mut Vec<u8>) {
        let list = option == option::LIST_META_CONTEXT;
        if !list {
            // A refused choice undoes the one before.
            self.forget_contexts();
        }
        if !self.structured {
            return refuse(answer, option, reply::ERR_INVALID, "It needs structured replies.");
        }
        let Some((name, contexts)) = asked_for(data, list) else {
            return refuse(answer, option, reply::ERR_INVALID, "The option's lengths do not add up.");
        };
        let Some(volume) = offer.find(name) else {
            return refuse(answer, option, reply::ERR_UNKNOWN, &offer.unknown(name));
        };
        for (number, name) in contexts.named() {
            // In a list the number means nothing.
            let number = if list { 0 } else { number };
            respond(
                answer,
                option,
                reply::META_CONTEXT,
                &[&number.to_be_bytes()[..], name.as_bytes()].concat(),
            );
        }
        if !list {
            (self.contexts, self.contexts_of) = (contexts, Some(volume));
        }
        respond(answer, option, reply::ACK, &[]);
    }

    fn export_flags(&self) -> u16 {
        EXPORT_FLAGS | if self.structured { FLAG_SEND_DF } else { 0 }
    }

    /// The old way to open: no refusal but the end of the connection.
    fn export_name(
        &mut self,
        name: &[u8],
        consumed: usize,
        offer: &Offer<'_>,
        gate: &dyn Gate,
        answer: &mut Vec<u8>,
    ) -> Step {
        match offer.find(name).map(|volume| (volume, gate.may_open(volume))) {
            Some((volume, Ok(size))) => {
                answer.extend_from_slice(&size.bytes().to_be_bytes());
                answer.extend_from_slice(&self.export_flags().to_be_bytes());
                if !self.no_zeroes {
                    answer.extend_from_slice(&[0; 124]);
                }
                self.begin(consumed, volume)
            }
            Some((_, Err(_))) | None => Step::End(consumed),
        }
    }

    /// INFO and GO: the volume that may be used.
    fn information(
        &self,
        option: u32,
        data: &[u8],
        offer: &Offer<'_>,
        gate: &dyn Gate,
        answer: &mut Vec<u8>,
    ) -> Option<VolumeNumber> {
        let Some(name) = export_asked_for(data) else {
            refuse(answer, option, reply::ERR_INVALID, "The option's lengths do not add up.");
            return None;
        };
        let Some(volume) = offer.find(name) else {
            refuse(answer, option, reply::ERR_UNKNOWN, &offer.unknown(name));
            return None;
        };
        let size = match gate.may_open(volume) {
            Ok(size) => size,
            Err(sentence) => {
                refuse(answer, option, reply::ERR_POLICY, &sentence);
                return None;
            }
        };
        let mut export = [0; 12];
        export[..2].copy_from_slice(&info::EXPORT.to_be_bytes());
        export[2..10].copy_from_slice(&size.bytes().to_be_bytes());
        export[10..].copy_from_slice(&self.export_flags().to_be_bytes());
        respond(answer, option, reply::INFO, &export);
        let mut blocks = [0; 14];
        blocks[..2].copy_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        blocks[2..6].copy_from_slice(&BLOCK_BYTES_MIN.to_be_bytes());
        blocks[6..10].copy_from_slice(&BLOCK_BYTES_PREFERRED.to_be_bytes());
        blocks[10..].copy_from_slice(&REQUEST_BYTES_MAX.to_be_bytes());
        respond(answer, option, reply::INFO, &blocks);
        respond(answer, option, reply::ACK, &[]);
        Some(volume)
    }
}

/// The export's name in the data of INFO and GO; `None` if it is not made as it should be.
fn export_asked_for(data: &[u8]) -> Option<&[u8]> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let name = rest.get(..length)?;
    let (count, wishes) = rest.get(length..)?.split_first_chunk::<2>()?;
    (wishes.len() == usize::from(u16::from_be_bytes(*count)) * 2).then_some(name)
}

fn respond(answer: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    answer.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    answer.extend_from_slice(&option.to_be_bytes());
    answer.extend_from_slice(&kind.to_be_bytes());
    answer.extend_from_slice(&(data.len() as u32).to_be_bytes());
    answer.extend_from_slice(data);
}

fn refuse(answer: &mut Vec<u8>, option: u32, kind: u32, sentence: &str) {
    respond(answer, option, kind, sentence.as_bytes());
}

pub(super) fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |n, b| n << 8 | u32::from(*b))
}

pub(super) fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests;
