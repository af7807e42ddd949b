//! The top level of a file, `common`, and templates.

use super::{Parsed, Parser};
use crate::diagnostics::Diagnostic;
use crate::lexer::Token;
use crate::syntax::{Item, Sections, Text};

const TOP: &[&str] = &["global", "common", "resource", "skip", "include"];

const COMMON: &[&str] =
    &["protocol", "disk", "net", "syncer", "startup", "handlers", "options", "proxy", "skip"];

impl Parser<'_> {
    /// The next item; `Some(None)` for one that says nothing, `None` at the end of the file.
    pub(super) fn item(&mut self) -> Parsed<Option<Option<Item>>> {
        if *self.peek() == Token::End {
            return Ok(None);
        }
        let word = self.keyword(&TOP.join(" | "))?;
        let item = match word.value.as_str() {
            "global" => self.global_item(&word)?,
            "common" => Some(Item::Common(Box::new(self.common()?), word.at)),
            "resource" => {
                self.resources_seen = true;
                Some(Item::Resource(Box::new(self.resource()?)))
            }
            "skip" => {
                self.skip_block()?;
                None
            }
            "include" => {
                let pattern = self.string("a file name")?;
                self.expect(';')?;
                Some(Item::Include(pattern))
            }
            require if require.starts_with("require-drbd-module-version-") => {
                self.require(&word)?;
                None
            }
            _ => return Err(self.unexpected_word(&word, &TOP.join(" | "), true, TOP)),
        };
        Ok(Some(item))
    }

    fn global_item(&mut self, word: &Text) -> Parsed<Option<Item>> {
        let global = self.global()?;
        if self.resources_seen {
            let advice = "You should put the global {} section\n\tin front of any resource {} section";
            let warning = Diagnostic::error(self.sources, word.at, advice).warning().without_caret();
            self.noted.push(warning);
        }
        Ok(Some(Item::Global(global, word.at)))
    }

    /// The condition is checked for its form only: which kernel module runs does not matter to a user-space DRBD.
    fn require(&mut self, word: &Text) -> Parsed<()> {
        let relations: Vec<String> = ["eq", "ne", "gt", "ge", "lt", "le"]
            .iter()
            .map(|r| format!("require-drbd-module-version-{r}"))
            .collect();
        let known: Vec<&str> = relations.iter().map(String::as_str).collect();
        if !known.contains(&word.value.as_str()) {
            return Err(self.unexpected_word(word, &known.join(" | "), true, &known));
        }
        let version = self.string("a version x.y.z")?;
        let numbers = version.value.split('.').filter(|n| n.parse::<u32>().is_ok()).count();
        if numbers != 3 || version.value.split('.').count() != 3 {
            self.bad_value(&word.value, &version, "Value is not a version x.y.z.", None);
        }
        self.expect(';')
    }

    fn common(&mut self) -> Parsed<Sections> {
        self.expect('{')?;
        self.common_body()
    }

    fn common_body(&mut self) -> Parsed<Sections> {
        let mut sections = Sections::default();
        while !self.block_ends() {
            let word = self.keyword(&COMMON.join(" | "))?;
            self.common_part(&word, &mut sections)?;
        }
        Ok(sections)
    }

    fn common_part(&mut self, word: &Text, sections: &mut Sections) -> Parsed<()> {
        match word.value.as_str() {
            "disk" => {
                let disk = self.disk_settings(Some(&mut sections.net))?;
                sections.disk.append(disk);
            }
            "skip" => self.skip_block()?,
            _ => {
                if !self.shared_section(word, sections)? {
                    return Err(self.unexpected_word(word, &COMMON.join(" | "), true, COMMON));
                }
            }
        }
        Ok(())
    }

    /// `common { … }` or bare sections up to the end of the file.
    pub(super) fn template_sections(&mut self) -> Parsed<Sections> {
        let mut sections = Sections::default();
        while *self.peek() != Token::End {
            let word = self.keyword(&COMMON.join(" | "))?;
            if word.value == "common" {
                sections.append(self.common()?);
            } else {
                self.common_part(&word, &mut sections)?;
            }
        }
        Ok(sections)
    }
}
