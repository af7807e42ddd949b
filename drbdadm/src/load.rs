//! From a file name to a [`Config`]: reads the main file and everything it includes, in the order of the text.
//!
//! A file is read once, however often it is included. Only here, in [`crate::run`] and in [`crate::host`] does
//! drbdadm touch the system.

use crate::diagnostics::{Diagnostic, Position, Severity, Sources};
use crate::glob;
use crate::parser::Parser;
use crate::syntax::{Config, Item, Resource, Sections, Text};
use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Where the configuration is looked for without `-c`.
const DEFAULT_FILES: [&str; 6] = [
    "/etc/drbd-90.conf",
    "/etc/drbd-84.conf",
    "/etc/drbd-83.conf",
    "/etc/drbd-82.conf",
    "/etc/drbd-08.conf",
    "/etc/drbd.conf",
];

/// Bytes of one file; more is not a configuration.
const FILE_MAX: u64 = 4 << 20;
/// Files of one configuration.
const FILES_MAX: usize = 10_000;

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `-c`; `-` is standard input.
    pub file: Option<String>,
    /// `-t`: a further file, checked together with the rest.
    pub to_test: Option<String>,
    /// `-E`: a file or resource to leave out.
    pub exclude: Option<String>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The configuration, as far as it could be understood.
    pub config: Config,
    /// The texts.
    pub sources: Sources,
    /// What is wrong with them.
    pub diagnostics: Vec<Diagnostic>,
}

/// The main file cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CannotOpen {
    /// As named by the user.
    pub file: String,
    /// Why, and what to do.
    pub why: String,
}

/// Reads a configuration.
pub fn load(request: &Request) -> Result<Loaded, CannotOpen> {
    let main = match &request.file {
        Some(file) => file.clone(),
        None => default_file(),
    };
    let mut loader = Loader { exclude: request.exclude.clone(), ..Loader::default() };
    loader.loaded.config.file.clone_from(&main);
    let text = read(&main).map_err(|why| {
        let advice = if request.file.is_none() { ": write it, or name a file with -c" } else { "" };
        CannotOpen { file: main.clone(), why: format!("{why}{advice}") }
    })?;
    loader.file(&main, &text);
    if let Some(test) = &request.to_test {
        let text = read(test).map_err(|why| CannotOpen { file: test.clone(), why })?;
        loader.file(test, &text);
    }
    Ok(loader.loaded)
}

fn default_file() -> String {
    let readable = |f: &&&str| Path::new(f).exists();
    let last = DEFAULT_FILES[DEFAULT_FILES.len() - 1];
    DEFAULT_FILES.iter().find(readable).map_or(last, |f| f).to_owned()
}

/// The text of a file, or why there is none.
fn read(name: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let taken = if name == "-" {
        std::io::stdin().lock().take(FILE_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(name).and_then(|f| f.take(FILE_MAX + 1).read_to_end(&mut bytes))
    };
    taken.map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("more than {} MiB: this is no configuration file", FILE_MAX >> 20));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[derive(Default)]
struct Loader {
    loaded: Loaded,
    exclude: Option<String>,
    seen: BTreeSet<PathBuf>,
    resources: HashMap<String, Position>,
    common: Option<Position>,
    global: Option<Position>,
}

impl Loader {
    /// A file and all it includes; includes are worked off from a stack, so nesting has no depth.
    fn file(&mut self, name: &str, text: &str) {
        if let Ok(real) = std::fs::canonicalize(name) {
            self.seen.insert(real);
        }
        let mut open = vec![self.parse(name, text).into_iter()];
        while let Some(items) = open.last_mut() {
            match items.next() {
                None => {
                    open.pop();
                }
                Some(Item::Include(pattern)) => {
                    let mut included = Vec::new();
                    for file in self.included(&pattern) {
                        included.push(Item::Include(Text { value: file, at: Position::default() }));
                    }
                    if pattern.at == Position::default() {
                        open.push(self.included_file(&pattern.value).into_iter());
                    } else {
                        open.push(included.into_iter());
                    }
                }
                Some(item) => self.add(item),
            }
        }
    }

    fn parse(&mut self, name: &str, text: &str) -> Vec<Item> {
        let file = self.loaded.sources.add(name, text);
        let seen = !self.resources.is_empty();
        let (items, noted) = Parser::new(&self.loaded.sources, file, text).after_resources(seen).items();
        self.loaded.diagnostics.extend(noted);
        items
    }

    /// The files a pattern means, relative to the file it stands in.
    fn included(&mut self, pattern: &Text) -> Vec<String> {
        if pattern.at == Position::default() {
            return Vec::new();
        }
        let path = self.beside(pattern);
        if glob::is_pattern(&path) {
            return glob::expand(&path);
        }
        if Path::new(&path).exists() {
            return vec![path];
        }
        let said = format!("Failed to open include file '{}'.", pattern.value);
        self.error(pattern.at, &said);
        Vec::new()
    }

    fn included_file(&mut self, name: &str) -> Vec<Item> {
        let real = std::fs::canonicalize(name).unwrap_or_else(|_| PathBuf::from(name));
        let excluded =
            self.exclude.as_ref().is_some_and(|e| std::fs::canonicalize(e).is_ok_and(|e| e == real));
        if excluded || self.seen.len() > FILES_MAX || !self.seen.insert(real) {
            return Vec::new();
        }
        match read(name) {
            Ok(text) => self.parse(name, &text),
            Err(why) => {
                let text = format!("Can not open '{name}': {why}");
                self.loaded.diagnostics.push(Diagnostic::plain(Severity::Error, text));
                Vec::new()
            }
        }
    }

    fn beside(&self, name: &Text) -> String {
        let from = Path::new(self.loaded.sources.name(name.at.file));
        match from.parent() {
            Some(dir) if !name.value.starts_with('/') && dir != Path::new("") => {
                dir.join(&name.value).to_string_lossy().into_owned()
            }
            _ => name.value.clone(),
        }
    }

    fn add(&mut self, item: Item) {
        match item {
            Item::Include(_) => {}
            Item::Global(global, at) => {
                if let Some(first) = self.global.replace(at) {
                    self.conflict("global section", "global", at, first);
                }
                self.loaded.config.global = Some(global);
            }
            Item::Common(sections, at) => {
                if let Some(first) = self.common.replace(at) {
                    self.conflict("resource section", "common", at, first);
                }
                self.loaded.config.common = Some(*sections);
            }
            Item::Resource(resource) => self.resource(*resource),
        }
    }

    fn resource(&mut self, mut resource: Resource) {
        if self.exclude.as_ref() == Some(&resource.name.value) {
            return;
        }
        let at = resource.name.at;
        if let Some(first) = self.resources.insert(resource.name.value.clone(), at) {
            let name = resource.name.value.clone();
            self.conflict("resource section", &name, at, first);
        }
        if let Some(file) = resource.template_file.clone() {
            let path = self.beside(&file);
            resource.template = Some(Box::new(self.template(&file, &path)));
            resource.template_file = Some(Text { value: path, at: file.at });
        }
        self.loaded.config.resources.push(resource);
    }

    fn template(&mut self, written: &Text, path: &str) -> Sections {
        match read(path) {
            Ok(text) => {
                let file = self.loaded.sources.add(path, &text);
                let (sections, noted) = Parser::new(&self.loaded.sources, file, &text).template();
                self.loaded.diagnostics.extend(noted);
                sections
            }
            Err(why) => {
                let said = format!("Failed to open template file '{}': {why}", written.value);
                self.error(written.at, &said);
                Sections::default()
            }
        }
    }

    fn error(&mut self, at: Position, said: &str) {
        let diagnostic = Diagnostic::error(&self.loaded.sources, at, said);
        self.loaded.diagnostics.push(diagnostic);
    }

    fn conflict(&mut self, what: &str, key: &str, at: Position, first: Position) {
        self.loaded.diagnostics.extend(conflict(&self.loaded.sources, what, key, at, first));
    }
}

/// The two lines about something that may be there only once.
pub fn conflict(sources: &Sources, what: &str, key: &str, at: Position, first: Position) -> [Diagnostic; 2] {
    let again = format!("conflicting use of {what} '{key}' ...");
    let before = format!("{what} '{key}' first used here.");
    [
        Diagnostic::error(sources, at, &again).without_caret(),
        Diagnostic::error(sources, first, &before).without_caret(),
    ]
}
