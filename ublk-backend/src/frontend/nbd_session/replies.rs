//! Replies on the wire: simple ones, chunks, and chunks with extended headers.

use super::{error, Asked, Session};
use crate::stream::Pools;

pub(in crate::frontend) const SIMPLE_MAGIC: u32 = 0x6744_6698;
pub(in crate::frontend) const CHUNK_MAGIC: u32 = 0x668e_33ef;
pub(in crate::frontend) const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// The last chunk of an answer.
pub(in crate::frontend) const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
pub(in crate::frontend) const CHUNK_DATA: u16 = 1;
pub(in crate::frontend) const CHUNK_ERROR: u16 = 1 << 15 | 1;

/// The head of a chunk with extended headers.
const HEAD_BYTES_MAX: usize = 32;
/// The body of every chunk but those of a block status.
const SMALL_BODY_BYTES: usize = 8;

impl Session {
    /// An answer without data.
    pub(super) fn reply(&mut self, asked: Asked, error: u32, pools: &mut Pools) {
        if !self.negotiation.extended {
            let mut reply = [0; 16];
            reply[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
            reply[4..8].copy_from_slice(&error.to_be_bytes());
            reply[8..].copy_from_slice(&asked.0.to_be_bytes());
            self.stream.push_bytes(pools, &reply, 0);
        } else if error == error::NONE {
            self.chunk(asked, (CHUNK_DONE, CHUNK_NONE), &[], 0, pools);
        } else {
            self.error_chunk(asked, error, pools);
        }
    }

    /// An error, without a sentence.
    pub(super) fn error_chunk(&mut self, asked: Asked, error: u32, pools: &mut Pools) {
        let mut body = [0; 6];
        body[..4].copy_from_slice(&error.to_be_bytes());
        self.chunk(asked, (CHUNK_DONE, CHUNK_ERROR), &body, 0, pools);
    }

    /// The head of so many bytes read at `at`, which are sent behind it.
    pub(super) fn data_chunk(&mut self, asked: Asked, last: bool, at: u64, bytes: u32, pools: &mut Pools) {
        let flags = if last { CHUNK_DONE } else { 0 };
        self.chunk(asked, (flags, CHUNK_DATA), &at.to_be_bytes(), bytes, pools);
    }

    /// A chunk: its head, its body, and the length of what is sent behind it.
    pub(super) fn chunk(
        &mut self,
        (cookie, offset_bytes): Asked,
        (flags, kind): (u16, u16),
        body: &[u8],
        behind: u32,
        pools: &mut Pools,
    ) {
        debug_assert!(kind != CHUNK_NONE || body.is_empty());
        let mut head = [0; HEAD_BYTES_MAX + SMALL_BODY_BYTES];
        let bytes = body.len() as u32 + behind;
        head[4..6].copy_from_slice(&flags.to_be_bytes());
        head[6..8].copy_from_slice(&kind.to_be_bytes());
        head[8..16].copy_from_slice(&cookie.to_be_bytes());
        let length = if self.negotiation.extended {
            head[..4].copy_from_slice(&EXTENDED_CHUNK_MAGIC.to_be_bytes());
            head[16..24].copy_from_slice(&offset_bytes.to_be_bytes());
            head[24..32].copy_from_slice(&u64::from(bytes).to_be_bytes());
            HEAD_BYTES_MAX
        } else {
            head[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
            head[16..20].copy_from_slice(&bytes.to_be_bytes());
            20
        };
        // In one piece: half a chunk would be the end of the connection.
        match head.get_mut(length..length + body.len()) {
            Some(room) => {
                room.copy_from_slice(body);
                self.stream.push_bytes(pools, &head[..length + body.len()], 0);
            }
            None => {
                self.stream.push_bytes(pools, &[&head[..length], body].concat(), 0);
            }
        }
    }
}
