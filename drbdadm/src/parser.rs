//! The grammar of drbd.conf: tokens in, [`Item`]s out.
//!
//! A value that an option cannot take is noted and parsing goes on; a word that cannot stand where it does ends the
//! file ([`Abort`]), as with DRBD, since what follows can no longer be understood. Pure: `include` and
//! `template-file` are only named here, [`crate::load`] opens them.

mod connection;
mod host;
mod options;
mod resource;
mod shown;
mod top;

pub use shown::{Shown, ShownConnection, ShownVolume};

use crate::diagnostics::{did_you_mean, Diagnostic, FileId, Position, Sources};
use crate::lexer::{lex, Spanned, Token};
use crate::syntax::{Item, Sections, Text};

/// The rest of the file makes no sense; the reason was noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort;

/// A parsed thing, or nothing sensible.
pub type Parsed<T> = Result<T, Abort>;

/// Number DRBD prints for a word it does not know.
const TOKEN_STRING: u32 = 281;

/// Complaints about one file; who has more of them has another problem.
const NOTED_MAX: usize = 100;

/// Reads tokens in order and notes what is wrong.
#[derive(Debug)]
pub struct Parser<'a> {
    sources: &'a Sources,
    tokens: Vec<Spanned>,
    next: usize,
    noted: Vec<Diagnostic>,
    resources_seen: bool,
}

impl<'a> Parser<'a> {
    /// A parser of a file that is in `sources` already.
    pub fn new(sources: &'a Sources, file: FileId, text: &str) -> Parser<'a> {
        Parser { sources, tokens: lex(text, file), next: 0, noted: Vec::new(), resources_seen: false }
    }

    /// The file came after resources of other files.
    #[must_use]
    pub fn after_resources(mut self, seen: bool) -> Parser<'a> {
        self.resources_seen = seen;
        self
    }

    /// Everything at the top level, and what was wrong.
    pub fn items(mut self) -> (Vec<Item>, Vec<Diagnostic>) {
        let mut items = Vec::new();
        while let Ok(Some(item)) = self.item() {
            items.extend(item);
        }
        (items, self.noted)
    }

    /// A template: what it says in `common`, or the sections of a resource body.
    pub fn template(mut self) -> (Sections, Vec<Diagnostic>) {
        let sections = self.template_sections().unwrap_or_default();
        (sections, self.noted)
    }

    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |t| &t.token)
    }

    fn at(&self) -> Position {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.next.min(last)).map_or(Position::default(), |t| t.at)
    }

    fn advance(&mut self) {
        if self.next < self.tokens.len() {
            self.next += 1;
        }
    }

    /// Takes a punctuation mark if it is next.
    fn accept(&mut self, mark: char) -> bool {
        let found = *self.peek() == Token::Punctuation(mark);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, mark: char) -> Parsed<()> {
        if self.accept(mark) {
            return Ok(());
        }
        Err(self.unexpected(&mark.to_string()))
    }

    /// End of a block. DRBD takes the end of the file for it; so do we, but not without a word.
    fn block_ends(&mut self) -> bool {
        if *self.peek() == Token::End {
            let said = "the file ends inside { }: a '}' is missing; taken as if it stood here";
            if !self.noted.iter().any(|d| d.text.ends_with(said)) {
                let warning = Diagnostic::error(self.sources, self.at(), said).warning().without_caret();
                self.noted.push(warning);
            }
            return true;
        }
        self.accept('}')
    }

    /// The next token, if it is this unquoted word.
    fn accept_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(w) if w == word);
        if found {
            self.advance();
        }
        found
    }

    /// An unquoted word: a keyword is never quoted.
    fn keyword(&mut self, expected: &str) -> Parsed<Text> {
        match self.peek().clone() {
            Token::Word(value) => {
                let at = self.at();
                self.advance();
                Ok(Text { value, at })
            }
            Token::Punctuation(_)
            | Token::Quoted(_)
            | Token::Ipv6(_)
            | Token::Stray(_)
            | Token::Bad(_)
            | Token::End => Err(self.unexpected(expected)),
        }
    }

    /// A word or a quoted string.
    fn string(&mut self, expected: &str) -> Parsed<Text> {
        match self.peek().clone() {
            Token::Word(value) | Token::Quoted(value) => {
                let at = self.at();
                self.advance();
                Ok(Text { value, at })
            }
            Token::Punctuation(_) | Token::Ipv6(_) | Token::Stray(_) | Token::Bad(_) | Token::End => {
                Err(self.unexpected(expected))
            }
        }
    }

    /// A plain number within a range.
    fn number(&mut self, what: &str, range: std::ops::RangeInclusive<u32>) -> Parsed<u32> {
        let text = self.string("number")?;
        let fault = match text.value.parse::<u64>() {
            Err(_) => "Value is not a number.",
            Ok(n) if n < u64::from(*range.start()) => "Value is too small.",
            Ok(n) if n > u64::from(*range.end()) => "Value is too big.",
            Ok(n) => return Ok(u32::try_from(n).unwrap_or(*range.end())),
        };
        let hint = format!("{} to {}", range.start(), range.end());
        self.bad_value(what, &text, fault, Some(hint));
        Ok(*range.start())
    }

    /// Notes a value that does not fit and lets parsing go on.
    fn bad_value(&mut self, option: &str, value: &Text, fault: &str, hint: Option<String>) {
        if self.noted.len() >= NOTED_MAX {
            return;
        }
        let shown = crate::lexer::excerpt(&value.value);
        let text = format!("Parse error: while parsing value ('{shown}')\nfor {option}. {fault}");
        self.noted.push(Diagnostic::error(self.sources, value.at, &text).hint(hint));
    }

    /// The next token cannot stand here.
    fn unexpected(&mut self, expected: &str) -> Abort {
        self.unexpected_of(expected, true, &[])
    }

    /// A word cannot stand here; some of `known` may have been meant.
    fn unexpected_word(&mut self, word: &Text, expected: &str, number: bool, known: &[&str]) -> Abort {
        if self.next > 0 && self.tokens[self.next - 1].at == word.at {
            self.next -= 1;
        }
        self.unexpected_of(expected, number, known)
    }

    fn unexpected_of(&mut self, expected: &str, number: bool, known: &[&str]) -> Abort {
        let at = self.at();
        let (shown, token_number) = match self.peek() {
            Token::Bad(why) => {
                let bad = Diagnostic::error(self.sources, at, why);
                self.noted.push(bad);
                return Abort;
            }
            Token::Punctuation(c) | Token::Stray(c) => (c.to_string(), u32::from(*c)),
            Token::Word(w) | Token::Quoted(w) => (w.clone(), TOKEN_STRING),
            Token::Ipv6(a) => (format!("[{a}]"), TOKEN_STRING),
            Token::End => ("end of file".to_owned(), 0),
        };
        let hint = did_you_mean(&shown, known.iter().copied());
        let suffix = if number { format!(" (TK {token_number})") } else { String::new() };
        let text = format!("Parse error: '{expected}' expected,\n\tbut got '{shown}'{suffix}");
        self.noted.push(Diagnostic::error(self.sources, at, &text).hint(hint));
        Abort
    }

    /// Passes over everything up to the end of a block, whatever it holds.
    fn skip_block(&mut self) -> Parsed<()> {
        while !matches!(self.peek(), Token::Punctuation('{') | Token::End | Token::Bad(_)) {
            self.advance();
        }
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                Token::Punctuation('{') => depth += 1,
                Token::Punctuation('}') => depth -= 1,
                Token::End => return Ok(()),
                Token::Bad(_) => return Err(self.unexpected("}")),
                Token::Punctuation(_)
                | Token::Word(_)
                | Token::Quoted(_)
                | Token::Ipv6(_)
                | Token::Stray(_) => {}
            }
            self.advance();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
