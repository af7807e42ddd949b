//! Complaints about the configuration: DRBD's words first, then the line itself with a caret and the way out.
//!
//! A [`Diagnostic`] knows its [`Position`]; [`Sources`] keeps the text of every file read, so that the line can be
//! shown again. Diagnostics are collected: parsing goes on after a bad value and stops only where the rest of the
//! file cannot be understood any more.

use std::fmt::Write as _;

/// A file that was read, by its number in [`Sources`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct FileId(u32);

/// A place in a configuration file; line and column count from 1, columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Position {
    /// The file.
    pub file: FileId,
    /// Line.
    pub line: u32,
    /// Column of the first character.
    pub column: u32,
}

#[derive(Debug)]
struct Source {
    name: String,
    text: String,
}

/// Every file that was read.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    /// Keeps a file, by the name shown in messages.
    pub fn add(&mut self, name: &str, text: &str) -> FileId {
        self.files.push(Source { name: name.to_owned(), text: text.to_owned() });
        FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// The name of a file.
    pub fn name(&self, file: FileId) -> &str {
        self.files.get(file.0 as usize).map_or("?", |s| s.name.as_str())
    }

    /// `FILE:LINE`, as every message begins.
    pub fn place(&self, at: Position) -> String {
        format!("{}:{}", self.name(at.file), at.line)
    }

    fn line(&self, at: Position) -> Option<&str> {
        let source = self.files.get(at.file.0 as usize)?;
        source.text.lines().nth(at.line.checked_sub(1)? as usize)
    }
}

/// Whether the configuration can be used all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Said and ignored.
    Warning,
    /// Nothing is done with this configuration.
    Error,
}

/// One complaint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// DRBD's text, complete with `FILE:LINE: ` and without a final newline.
    pub text: String,
    /// The word to point at.
    pub caret: Option<Position>,
    /// The way out, printed beside the caret.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error with a place: `FILE:LINE: TEXT`.
    pub fn error(sources: &Sources, at: Position, text: &str) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            text: format!("{}: {text}", sources.place(at)),
            caret: Some(at),
            hint: None,
        }
    }

    /// An error whose text needs no place in front.
    pub fn plain(severity: Severity, text: String) -> Diagnostic {
        Diagnostic { severity, text, caret: None, hint: None }
    }

    /// Makes it a warning.
    #[must_use]
    pub fn warning(mut self) -> Diagnostic {
        self.severity = Severity::Warning;
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: Option<String>) -> Diagnostic {
        self.hint = hint;
        self
    }

    /// Without the line and caret.
    #[must_use]
    pub fn without_caret(mut self) -> Diagnostic {
        self.caret = None;
        self
    }

    /// What is printed.
    pub fn render(&self, sources: &Sources) -> String {
        let mut out = format!("{}\n", self.text);
        let line = self.caret.and_then(|at| sources.line(at).map(|line| (at, line)));
        match (line, &self.hint) {
            (Some((at, line)), hint) => {
                let number = format!("{}:{}", at.line, at.column);
                let (start, visible) = window(line, at.column as usize);
                let pad = " ".repeat(number.len());
                let gap = " ".repeat((at.column as usize).saturating_sub(1 + start));
                let hint = hint.as_ref().map_or(String::new(), |h| format!(" {h}"));
                let _ = writeln!(out, "  {number} | {visible}\n  {pad} | {gap}^{hint}");
            }
            (None, Some(hint)) => {
                let _ = writeln!(out, "{}", way_out(hint));
            }
            (None, None) => {}
        }
        out
    }
}

/// A way out on a line of its own. Everything that is not DRBD's text looks like this or like a quoted line.
pub fn way_out(hint: &str) -> String {
    format!("  hint: {hint}")
}

/// The part of a line around a column that fits a terminal, with tabs as blanks and its first column.
fn window(line: &str, column: usize) -> (usize, String) {
    const WIDTH: usize = 100;
    let start = column.saturating_sub(WIDTH - 20);
    let visible = line.chars().skip(start).take(WIDTH);
    (start, visible.map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// `did you mean 'X'?` with the known word nearest to `word`, if one is near enough.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let allowed = match word.chars().count() {
        0..=1 => 0,
        2..=4 => 1,
        5..=7 => 2,
        n => n / 3,
    };
    let nearest = known.into_iter().map(|k| (distance(word, k), k)).min_by_key(|(d, _)| *d)?;
    (nearest.0 <= allowed).then(|| format!("did you mean '{}'?", nearest.1))
}

/// How many letters to insert, drop, replace or swap with the neighbour to make `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests;
