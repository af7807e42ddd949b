//! Words, numbers and punctuation of a dump, line by line: a dump may be larger than memory, its lines are not.

use crate::failure::Failure;
use nom::branch::alt;
use nom::bytes::complete::{is_not, take_while1, take_while_m_n};
use nom::character::complete::{anychar, char, one_of};
use nom::combinator::{map, opt};
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};
use std::collections::VecDeque;
use std::io::{BufRead, Read};

/// dump-md writes four numbers to a line.
const LINE_BYTES_MAX: u64 = 1 << 16;
const TEXT_MAX: usize = 20;
/// 2^63 has as many.
const DIGITS_MAX: usize = 19;
const KEYWORDS: [&str; 22] = [
    "version",
    "max-peers",
    "uuid",
    "flags",
    "node-id",
    "current-uuid",
    "members",
    "peer",
    "bitmap-index",
    "bitmap-uuid",
    "bitmap-dagtag",
    "history-uuids",
    "la-size-sect",
    "bm-byte-per-bit",
    "device-uuid",
    "la-peer-max-bio-size",
    "al-stripes",
    "al-stripe-size-4k",
    "bm",
    "bitmap",
    "times",
    "hash",
];

/// One token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// One of `{ } [ ] ;`.
    Punctuation(char),
    /// A keyword.
    Word(String),
    /// A quoted string without its quotes.
    Text(String),
    /// Decimal.
    Number(i128),
    /// `0x` and 8 digits.
    Hex32(u32),
    /// `0x` and 16 digits.
    Hex64(u64),
    /// A character that has no meaning here.
    Stray(char),
    /// What cannot be a token: why, and the text.
    Bad(&'static str, String),
    /// Nothing follows.
    End,
}

/// The tokens of a dump as they come.
#[derive(Debug)]
pub(super) struct Tokens<R> {
    reader: R,
    /// Of the token last returned.
    pub(super) line: u64,
    of_line: VecDeque<Token>,
}

impl<R: BufRead> Tokens<R> {
    pub(super) fn new(reader: R) -> Tokens<R> {
        Tokens { reader, line: 0, of_line: VecDeque::new() }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Result<Token, Failure> {
        while self.of_line.is_empty() {
            let mut bytes = Vec::new();
            let taken = self.reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
            let len = taken.map_err(|error| Failure::value(format!("reading the dump failed: {error}")))?;
            if len == 0 {
                return Ok(Token::End);
            }
            self.line += 1;
            if len as u64 > LINE_BYTES_MAX {
                let message =
                    format!("Parse error in line {}: it has more than {LINE_BYTES_MAX} bytes", self.line);
                return Err(Failure::value(message));
            }
            self.of_line = tokens_of(&String::from_utf8_lossy(&bytes));
        }
        Ok(self.of_line.pop_front().unwrap_or(Token::End))
    }
}

fn tokens_of(line: &str) -> VecDeque<Token> {
    let mut tokens = VecDeque::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let Ok((after, token)) = token(rest) else { break };
        tokens.push_back(token);
        rest = after.trim_start();
    }
    tokens
}

fn token(text: &str) -> IResult<&str, Token> {
    let word = take_while1(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    alt((
        map(one_of("{}[];"), Token::Punctuation),
        map(delimited(char('"'), is_not("\"\r\n"), char('"')), text_token),
        map(preceded(char('"'), opt(is_not("\"\r\n"))), |text: Option<&str>| {
            Token::Bad("invalid string", format!("\"{}", text.unwrap_or_default()))
        }),
        map(word, word_token),
        map(anychar, Token::Stray),
    ))
    .parse(text)
}

fn text_token(text: &str) -> Token {
    if text.len() <= TEXT_MAX {
        Token::Text(text.to_owned())
    } else {
        Token::Bad("invalid string", format!("\"{text}"))
    }
}

fn word_token(word: &str) -> Token {
    if let Ok((digits, _)) = hex_prefix(word) {
        return hex_token(word, digits);
    }
    let digits = word.strip_prefix('-').unwrap_or(word);
    if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) {
        return match word.parse() {
            Ok(value) if digits.len() <= DIGITS_MAX => Token::Number(value),
            _ => Token::Bad("number too big", word.to_owned()),
        };
    }
    if KEYWORDS.contains(&word) {
        Token::Word(word.to_owned())
    } else {
        Token::Bad("unknown token", word.to_owned())
    }
}

fn hex_prefix(word: &str) -> IResult<&str, char> {
    preceded(char('0'), char('x')).parse(word)
}

fn hex_token(word: &str, digits: &str) -> Token {
    let all =
        |text| -> IResult<&str, &str> { take_while_m_n(8, 16, |c: char| c.is_ascii_hexdigit()).parse(text) };
    let value = all(digits).ok().filter(|(rest, _)| rest.is_empty());
    match value.and_then(|(_, digits)| Some((digits.len(), u64::from_str_radix(digits, 16).ok()?))) {
        Some((16, value)) => Token::Hex64(value),
        Some((8, value)) => Token::Hex32(value as u32),
        _ => Token::Bad("invalid hex number (only 8 or 16 hex digits accepted)", word.to_owned()),
    }
}
