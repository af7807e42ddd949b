//! The grammar of a dump: the metadata it describes. Messages are those of DRBD's own parser.

use super::tokens::{Token, Tokens};
use crate::failure::Failure;
use drbd_core::metadata::{Format, Geometry, Layout, PeerRecord, SuperBlock};
use std::io::BufRead;

/// More than any device has.
const BITMAP_WORDS_MAX: i128 = 1 << 60;
const NODES: usize = 32;
/// v08 keeps so many old generations.
const HISTORY_V08: usize = 2;

/// Equal 64-bit words in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) count: u64,
    pub(super) word: u64,
}

/// What a dump says. Where things are on the device is not part of it.
#[derive(Debug)]
pub(super) struct Dump {
    pub(super) super_block: SuperBlock,
    /// Bitmaps by slot.
    pub(super) slots: Vec<Vec<Run>>,
}

/// Reads all of a dump of this format.
pub(super) fn read(reader: impl BufRead, format: Format) -> Result<Dump, Failure> {
    let mut parser = Parser { tokens: Tokens::new(reader), ahead: None };
    parser.version(format)?;
    let max_peers = match format {
        Format::V08 => 1,
        Format::V09 => parser.field("max-peers", Parser::unsigned)?,
    };
    let geometry = Geometry::usual(max_peers);
    let nowhere = Layout { super_block_offset_bytes: 0, md_size_sect: 0, al_offset: 0, bm_offset: 0 };
    let mut super_block = SuperBlock::fresh(format, &nowhere, &geometry);
    match format {
        Format::V08 => parser.generations_v08(&mut super_block)?,
        Format::V09 => parser.generations_v09(&mut super_block)?,
    }
    parser.sizes(&mut super_block)?;
    // Before the bitmaps, of which there are as many as it says.
    super_block.check().map_err(|error| Failure::value(format!("{error}")))?;
    let slots = (0..max_peers).map(|slot| parser.bitmap(format, slot)).collect::<Result<_, _>>()?;
    match parser.next()? {
        Token::End => Ok(Dump { super_block, slots }),
        other => Err(parser.unexpected("end of file", &other)),
    }
}

struct Parser<R> {
    tokens: Tokens<R>,
    ahead: Option<Token>,
}

impl<R: BufRead> Parser<R> {
    fn next(&mut self) -> Result<Token, Failure> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.tokens.next(),
        }
    }

    fn version(&mut self, asked: Format) -> Result<(), Failure> {
        self.keyword("version")?;
        let found = match self.next()? {
            Token::Text(text) => text,
            other => {
                let wanted = "short quoted string (\"..up to 20 characters, no newline..\")";
                return Err(self.unexpected(wanted, &other));
            }
        };
        let asked = match asked {
            Format::V08 => "v08",
            Format::V09 => "v09",
        };
        if found != asked {
            return Err(Failure::value(format!("dump is '{found}' you requested '{asked}'.")));
        }
        self.punctuation(';')
    }

    fn generations_v08(&mut self, super_block: &mut SuperBlock) -> Result<(), Failure> {
        self.keyword("uuid")?;
        self.punctuation('{')?;
        super_block.current_uuid = self.uuid()?;
        super_block.peers[0].bitmap_uuid = self.uuid()?;
        for uuid in &mut super_block.history[..HISTORY_V08] {
            *uuid = self.uuid()?;
        }
        let flags = self.field("flags", Parser::hex32)?;
        super_block.set_flags_on_disk(flags);
        self.punctuation('}')
    }

    fn generations_v09(&mut self, super_block: &mut SuperBlock) -> Result<(), Failure> {
        super_block.node_id = self.field("node-id", Parser::signed)?;
        super_block.current_uuid = self.field("current-uuid", Parser::hex64)?;
        super_block.flags = self.field("flags", Parser::hex32)?;
        // Before 9.34 there was none.
        let token = self.next()?;
        let has_members = token == Token::Word("members".to_owned());
        self.ahead = Some(token);
        super_block.members = if has_members { self.field("members", Parser::hex64)? } else { 0 };
        let mut seen = [false; NODES];
        for _ in 0..NODES {
            let (node, peer) = self.peer(&mut seen)?;
            super_block.peers[node] = peer;
        }
        self.keyword("history-uuids")?;
        self.punctuation('{')?;
        for uuid in &mut super_block.history {
            *uuid = self.uuid()?;
        }
        self.punctuation('}')
    }

    fn peer(&mut self, seen: &mut [bool; NODES]) -> Result<(usize, PeerRecord), Failure> {
        self.keyword("peer")?;
        let number = self.bracketed()?;
        let node = usize::try_from(number).ok().filter(|node| *node < NODES);
        let Some(node) = node else {
            return Err(self.error(&format!("Slot {number} out of range")));
        };
        if std::mem::replace(&mut seen[node], true) {
            return Err(self.error(&format!("Peer slot {node} defined multiple times")));
        }
        self.punctuation('{')?;
        let peer = PeerRecord {
            bitmap_index: self.field("bitmap-index", Parser::signed)?,
            bitmap_uuid: self.field("bitmap-uuid", Parser::hex64)?,
            bitmap_dagtag: self.field("bitmap-dagtag", Parser::hex64)?,
            flags: self.field("flags", Parser::hex32)?,
        };
        self.punctuation('}')?;
        Ok((node, peer))
    }

    fn sizes(&mut self, super_block: &mut SuperBlock) -> Result<(), Failure> {
        super_block.effective_size = self.field("la-size-sect", Parser::unsigned)?;
        super_block.bm_bytes_per_bit = self.field("bm-byte-per-bit", Parser::unsigned)?;
        super_block.device_uuid = self.field("device-uuid", Parser::hex64)?;
        super_block.la_peer_max_bio_size = self.field("la-peer-max-bio-size", Parser::unsigned)?;
        super_block.al_stripes = self.field("al-stripes", Parser::unsigned)?;
        super_block.al_stripe_size_4k = self.field("al-stripe-size-4k", Parser::unsigned)?;
        Ok(())
    }

    fn bitmap(&mut self, format: Format, slot: u32) -> Result<Vec<Run>, Failure> {
        match format {
            Format::V08 => self.keyword("bm")?,
            Format::V09 => {
                self.keyword("bitmap")?;
                let found = self.bracketed()?;
                if found != i128::from(slot) {
                    return Err(self.error(&format!("Expected peer slot {slot} but found {found}")));
                }
            }
        }
        self.punctuation('{')?;
        let mut runs: Vec<Run> = Vec::new();
        loop {
            let run = match self.next()? {
                Token::Punctuation('}') => return Ok(runs),
                Token::Hex64(word) => Run { count: 1, word },
                Token::Number(count @ 0..=BITMAP_WORDS_MAX) => {
                    self.keyword("times")?;
                    Run { count: count as u64, word: self.hex64()? }
                }
                other => {
                    let wanted = "repeat count, 16-digit hex number, or closing brace (})";
                    return Err(self.unexpected(wanted, &other));
                }
            };
            self.punctuation(';')?;
            match runs.last_mut() {
                Some(last) if last.word == run.word => last.count = last.count.saturating_add(run.count),
                _ => runs.push(run),
            }
        }
    }

    fn field<T>(
        &mut self,
        keyword: &str,
        value: impl Fn(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.keyword(keyword)?;
        let value = value(self)?;
        self.punctuation(';')?;
        Ok(value)
    }

    fn uuid(&mut self) -> Result<u64, Failure> {
        let uuid = self.hex64()?;
        self.punctuation(';')?;
        Ok(uuid)
    }

    fn bracketed(&mut self) -> Result<i128, Failure> {
        self.punctuation('[')?;
        let number = self.number()?;
        self.punctuation(']')?;
        Ok(number)
    }

    fn unsigned<T: TryFrom<i128>>(&mut self) -> Result<T, Failure> {
        let number = self.number()?;
        T::try_from(number).map_err(|_| self.error(&format!("{number} is out of range")))
    }

    fn signed(&mut self) -> Result<i32, Failure> {
        self.unsigned()
    }

    fn number(&mut self) -> Result<i128, Failure> {
        match self.next()? {
            Token::Number(number) => Ok(number),
            other => Err(self.unexpected("number ([0-9], up to 20 digits)", &other)),
        }
    }

    fn hex32(&mut self) -> Result<u32, Failure> {
        match self.next()? {
            Token::Hex32(value) => Ok(value),
            other => Err(self.unexpected("an 8-digit hex number", &other)),
        }
    }

    fn hex64(&mut self) -> Result<u64, Failure> {
        match self.next()? {
            Token::Hex64(value) => Ok(value),
            other => Err(self.unexpected("a 16-digit hex number", &other)),
        }
    }

    fn keyword(&mut self, word: &str) -> Result<(), Failure> {
        match self.next()? {
            Token::Word(found) if found == word => Ok(()),
            other => Err(self.unexpected(&format!("keyword '{word}'"), &other)),
        }
    }

    fn punctuation(&mut self, wanted: char) -> Result<(), Failure> {
        let name = match wanted {
            ';' => "semicolon (;)",
            '{' => "opening brace ({)",
            '}' => "closing brace (})",
            '[' => "opening bracket ([)",
            _ => "closing bracket (])",
        };
        match self.next()? {
            Token::Punctuation(found) if found == wanted => Ok(()),
            other => Err(self.unexpected(name, &other)),
        }
    }

    fn error(&self, what: &str) -> Failure {
        Failure::value(format!("Parse error in line {}: {what}", self.tokens.line))
    }

    fn unexpected(&self, wanted: &str, found: &Token) -> Failure {
        let line = self.tokens.line;
        let expected = format!("Parse error in line {line}: {wanted} expected");
        Failure::value(match found {
            Token::End => format!("{expected}, but end of file encountered"),
            Token::Punctuation(found) => format!("{expected}, not '{found}'"),
            Token::Word(found) | Token::Text(found) => format!("{expected}, not '{found}'"),
            Token::Number(_) | Token::Hex32(_) | Token::Hex64(_) => format!("{expected}, not some number"),
            Token::Stray(found) => {
                let code = u32::from(*found);
                format!("{expected}; got invalid input character '\\x{code:02x}' [{found}]")
            }
            Token::Bad(why, text) => format!("line {line}: {why}: {text} ...\n{expected}"),
        })
    }
}

#[cfg(test)]
mod tests;
