//! Words and punctuation of drbd.conf.
//!
//! Every token carries the position of its first character. Text that is no token ends the stream with
//! [`Token::Bad`], so that the parser reports it only if it gets that far: an earlier mistake is the better message.

use crate::diagnostics::{FileId, Position};
use nom::branch::alt;
use nom::bytes::complete::{take_while, take_while1};
use nom::character::complete::{char, multispace1, not_line_ending, one_of};
use nom::combinator::{map, recognize, value, verify};
use nom::multi::many0_count;
use nom::sequence::{delimited, pair};
use nom::{IResult, Parser};

const WORD_MAX: usize = 128;
const QUOTED_MAX: usize = 255;

/// One token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Token {
    /// One of `{ } [ ] ; :`.
    Punctuation(char),
    /// An unquoted word, number or keyword.
    Word(String),
    /// A quoted string without its quotes.
    Quoted(String),
    /// An IPv6 address without its brackets.
    Ipv6(String),
    /// A character that has no meaning in drbd.conf; tolerated inside `skip`.
    Stray(char),
    /// Text that cannot be a token; says why, in DRBD's words.
    Bad(String),
    /// End of the file.
    End,
}

/// A token and where it begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spanned {
    /// The token.
    pub token: Token,
    /// Its first character.
    pub at: Position,
}

/// All tokens of a text; the last one is `End` or `Bad`.
pub fn lex(text: &str, file: FileId) -> Vec<Spanned> {
    let mut tokens = Vec::new();
    let mut place = Place { rest: text, at: Position { file, line: 1, column: 1 } };
    loop {
        let after_blank = blank(place.rest).map_or(place.rest, |(rest, ())| rest);
        place.advance_to(after_blank);
        let at = place.at;
        let (rest, found) = token(place.rest);
        let last = matches!(found, Token::End | Token::Bad(_));
        tokens.push(Spanned { token: found, at });
        if last {
            return tokens;
        }
        place.advance_to(rest);
    }
}

struct Place<'a> {
    rest: &'a str,
    at: Position,
}

impl<'a> Place<'a> {
    fn advance_to(&mut self, rest: &'a str) {
        let consumed = &self.rest[..self.rest.len() - rest.len()];
        for c in consumed.chars() {
            if c == '\n' {
                self.at.line += 1;
                self.at.column = 1;
            } else {
                self.at.column += 1;
            }
        }
        self.rest = rest;
    }
}

fn blank(input: &str) -> IResult<&str, ()> {
    let comment = recognize(pair(char('#'), not_line_ending));
    value((), many0_count(alt((multispace1, comment)))).parse(input)
}

fn token(input: &str) -> (&str, Token) {
    if input.starts_with('"') {
        return quoted(input);
    }
    let parsed: IResult<&str, Token> = alt((
        map(ipv6, |a: &str| Token::Ipv6(a.to_owned())),
        map(one_of("{}[];:"), Token::Punctuation),
        map(take_while1(is_word), word),
    ))
    .parse(input);
    match (parsed, input.chars().next()) {
        (Ok(found), _) => found,
        (Err(_), Some(c)) => (&input[c.len_utf8()..], Token::Stray(c)),
        (Err(_), None) => ("", Token::End),
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-')
}

/// Whether a value can stand in a file without quotes.
pub fn is_plain_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= WORD_MAX && text.chars().all(is_word)
}

fn word(text: &str) -> Token {
    if text.len() > WORD_MAX {
        return Token::Bad(format!("Token too long\n  >>>{}<<<", excerpt(text)));
    }
    Token::Word(text.to_owned())
}

fn ipv6(input: &str) -> IResult<&str, &str> {
    let inner = take_while(|c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '%' | '-' | '_'));
    let address = verify(inner, |a: &str| a.matches(':').count() >= 2);
    delimited(char('['), address, char(']')).parse(input)
}

/// A string in double quotes; a backslash takes the next character literally.
fn quoted(input: &str) -> (&str, Token) {
    let mut text = String::new();
    let mut escaped = false;
    for (offset, c) in input.char_indices().skip(1) {
        match c {
            '\n' => break,
            '"' if !escaped => {
                if text.len() > QUOTED_MAX {
                    let bad = format!("Double quoted string too long\n  >>>{}<<<", excerpt(input));
                    return ("", Token::Bad(bad));
                }
                return (&input[offset + 1..], Token::Quoted(text));
            }
            '\\' if !escaped => escaped = true,
            c => {
                text.push(c);
                escaped = false;
            }
        }
    }
    let bad = "Unterminated double quoted string\n  we don't allow embedded newlines";
    ("", Token::Bad(format!("{bad}\n  >>>{}<<<", excerpt(input))))
}

/// The first characters of a text, as DRBD cuts long ones.
pub fn excerpt(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    match line.char_indices().nth(20) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;
