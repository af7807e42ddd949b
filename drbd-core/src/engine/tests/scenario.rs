//! Scenarios: stories of two nodes as transcripts that a person can follow (`scenarios/*.txt`).
//!
//! A transcript is its own script. Lines that begin at the margin say what is done to the cluster (commands of an
//! administrator, requests of users, faults, time) and what must be true then; [`stage`] lists them. The indented lines
//! below each are what came of it: states in the kernel's spelling, sentences of the log, handlers, packets. The test
//! performs the lines at the margin and compares the others with what is kept; with `UDRBD_KEEP_SCENARIOS` set it keeps
//! what it got. A `must` that fails, a broken promise to a user ([`promises`]) or a broken ordering contract fails the
//! test either way.
//!
//! Generations appear as letters, a capital one while the node is or was Primary: the same letter, the same data.

use std::panic::{catch_unwind, AssertUnwindSafe};

mod conditions;
mod difference;
mod naming;
mod promises;
mod stage;
mod telling;

use stage::Stage;

macro_rules! transcripts {
    ($($test:ident $file:literal,)+) => {
        $(
            #[test]
            fn $test() {
                replay($file);
            }
        )+

        const FILES: &[&str] = &[$($file),+];
    };
}

transcripts! {
    connecting "connecting.txt",
    roles "roles.txt",
    resuming "resumption.txt",
    resyncing "resync.txt",
    broken_resyncs "broken-resync.txt",
    copying_by_command "copying.txt",
    disks "disks.txt",
    without_disk "diskless.txt",
    freezing "freezing.txt",
    verifying "verify.txt",
    links "links.txt",
    thin_disks "thin.txt",
    unlike_disks "unlike-disks.txt",
    reads "reads.txt",
    split_brains "split-brain.txt",
    both_primary "two-primaries.txt",
}

fn path(file: &str) -> String {
    format!("{}/src/engine/tests/scenarios/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// A scenario of a file: its lines, the title first.
fn scenarios(text: &str) -> (String, Vec<Vec<&str>>) {
    let mut head = String::new();
    let mut all: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("== ") {
            all.push(Vec::new());
        }
        match all.last_mut() {
            Some(lines) => lines.push(line),
            None => {
                head += line;
                head.push('\n');
            }
        }
    }
    (head, all)
}

/// Performs every scenario of a file and compares with the transcript kept.
fn replay(file: &str) {
    let kept = std::fs::read_to_string(path(file)).expect("a transcript");
    let (head, all) = scenarios(&kept);
    let mut text = head;
    let mut failed = Vec::new();
    for lines in all {
        let title = lines[0];
        let before: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        let after = catch_unwind(AssertUnwindSafe(|| perform(&lines)));
        if let Ok(after) = &after {
            if before != *after && std::env::var_os("UDRBD_KEEP_SCENARIOS").is_none() {
                println!("{}", difference::of(&before, after));
                failed.push(format!("{title} went another way"));
            }
        } else {
            failed.push(format!("{title} broke off"));
        }
        text += after.as_deref().unwrap_or(&before);
    }
    if text != kept && std::env::var_os("UDRBD_KEEP_SCENARIOS").is_some() {
        std::fs::write(path(file), text).expect("the transcript is kept");
    }
    assert!(failed.is_empty(), "{file}: {failed:#?}, see above");
}

/// Performs the lines at the margin and writes the transcript anew.
fn perform(lines: &[&str]) -> String {
    let mut stage = Stage::default();
    let trailing = lines.iter().rev().take_while(|line| line.is_empty()).count();
    for line in &lines[..lines.len() - trailing] {
        match line.chars().next() {
            Some(' ') => {}
            None | Some('=' | '#') => stage.remark(line),
            Some(_) => stage.perform(line),
        }
    }
    stage.finish() + &"\n".repeat(trailing)
}

// ---- the page that lists them ----------------------------------------------------------------------------------------

/// Whether a transcript tells a story of that name.
fn tells(file: &str, name: &str) -> bool {
    let text = std::fs::read_to_string(path(file)).expect("a transcript");
    text.lines().any(|line| line.strip_prefix("== ").and_then(|l| l.split(':').next()) == Some(name))
}

#[test]
fn the_page_lists_what_there_is() {
    let page = include_str!("../../../docs/scenarios.md");
    let (tests, options) = page.split_once("## What else has a story").expect("two tables");
    let (mut covered, mut listed) = (0, 0);
    for row in tests.lines().filter(|line| line.starts_with("| ")).skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [test, files, why] = cells[..] else { panic!("{row}") };
        listed += 1;
        covered += usize::from(!files.is_empty());
        assert!(!files.is_empty() || !why.is_empty(), "{test}: neither a transcript nor a reason");
        for file in files.split(", ").filter(|file| !file.is_empty()) {
            assert!(FILES.contains(&file) && tells(file, test), "{file} tells nothing of {test}");
        }
    }
    assert!(page.contains(&format!("{covered} of {listed}.")), "{covered} of {listed} have a transcript");
    for row in options.lines().filter(|line| line.starts_with("| ")).skip(2) {
        let mut file = "";
        for word in row.split([' ', '|', ',', '(', ')']) {
            if word.ends_with(".txt") {
                file = word;
                assert!(std::fs::exists(path(file)).expect("readable"), "there is no {file}");
            } else if let Some(name) = word.strip_prefix('`').and_then(|w| w.strip_suffix('`')) {
                assert!(tells(file, name), "{file} tells nothing of {name}");
            }
        }
    }
}
