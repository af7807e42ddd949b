//! Recorded sessions with DRBD's tools: `$ command`, lines `out| …` and `err| …`, `exit N`; `## title` begins a
//! section.

use std::process::Output;

/// Consecutive commands that belong together.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// What follows `##`; empty before the first.
    pub title: String,
    /// In order.
    pub steps: Vec<Step>,
}

/// A command and what it said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// The words of the command line.
    pub words: Vec<String>,
    /// Lines on stdout.
    pub out: Vec<String>,
    /// Lines on stderr.
    pub err: Vec<String>,
    /// Exit code.
    pub exit: i32,
}

impl Step {
    /// What a program that was run with these words said.
    pub fn of(words: &[String], output: &Output) -> Step {
        let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
        Step {
            words: words.to_vec(),
            out: lines(&output.stdout),
            err: lines(&output.stderr),
            exit: output.status.code().unwrap_or(-1),
        }
    }
}

/// Reads a transcript.
pub fn parse(text: &str) -> Vec<Section> {
    let mut sections = vec![Section::default()];
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            sections.push(Section { title: title.to_owned(), steps: Vec::new() });
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        if let Some(command) = line.strip_prefix("$ ") {
            let words = command.split_whitespace().map(str::to_owned).collect();
            section.steps.push(Step { words, ..Step::default() });
            continue;
        }
        let Some(step) = section.steps.last_mut() else { continue };
        if let Some(out) = line.strip_prefix("out| ") {
            step.out.push(out.to_owned());
        } else if let Some(err) = line.strip_prefix("err| ") {
            step.err.push(err.to_owned());
        } else if let Some(exit) = line.strip_prefix("exit ") {
            step.exit = exit.parse().expect("an exit code is a number");
        } else {
            panic!("not a line of a transcript: {line}");
        }
    }
    sections.retain(|section| !section.steps.is_empty());
    sections
}
