//! Lines that are wrapped as `drbdsetup` wraps them: an item that would pass the 80th column moves to the next line,
//! which gets the item's own indentation; indentation itself is not counted.

/// Columns of a line, indentation not counted.
const COLUMNS: usize = 80;

/// Text under construction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wrapped {
    text: String,
    column: usize,
}

impl Wrapped {
    /// Adds an item, wrapping before it where it does not fit.
    pub fn item(&mut self, indent: usize, item: &str) {
        if self.column != 0 && self.column + width(item) > COLUMNS {
            self.end_line();
        }
        if self.column == 0 {
            self.text.push_str(&" ".repeat(indent));
        } else {
            self.text.push(' ');
            self.column += 1;
        }
        self.text.push_str(item);
        self.column += width(item);
    }

    /// Ends the line.
    pub fn end_line(&mut self) {
        self.text.push('\n');
        self.column = 0;
    }

    /// Ends the line unless nothing is on it yet.
    pub fn end_line_if_begun(&mut self) {
        if self.column != 0 {
            self.end_line();
        }
    }

    /// The text so far.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Columns an item takes: colour sequences take none.
fn width(item: &str) -> usize {
    let mut columns = 0;
    let mut in_sequence = false;
    for c in item.chars() {
        match c {
            '\u{1b}' => in_sequence = true,
            'm' if in_sequence => in_sequence = false,
            _ if in_sequence => {}
            _ => columns += 1,
        }
    }
    columns
}
