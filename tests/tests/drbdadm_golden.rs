//! drbdadm against the truth: command lines, dumps and messages of drbdadm 9.34, byte for byte.
//!
//! `golden/config.tar.zst` holds configurations and what drbd-utils 9.34 made of them on a host called alpha
//! (`expanded/` is of 9.22, which prints the same). What differs on purpose is listed here, with the reason, and
//! counted, so that nothing can fall out of the comparison unnoticed.

use drbd_tests::programs::program;
use drbd_tests::scratch::Scratch;
use std::path::PathBuf;
use std::process::Command;

/// Where the files were when the goldens were made.
const GOLDEN_DIR: &str = "/etc/drbd.d/golden";

/// The goldens, unpacked for one test.
struct Golden {
    dir: PathBuf,
    _scratch: Scratch,
}

impl Golden {
    fn unpack(test: &str) -> Golden {
        let scratch = Scratch::new(test);
        scratch.unpack("config.tar.zst");
        let dir = scratch.path().to_owned();
        std::fs::write(dir.join("nothing-runs"), "").expect("a file can be written");
        Golden { dir, _scratch: scratch }
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join(dir)).expect("an unpacked directory");
        let mut names: Vec<String> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The configuration a golden was made from.
    fn input(&self, stem: &str) -> PathBuf {
        let stem = stem.trim_end_matches("-S");
        let found =
            ["res", "conf"].iter().map(|e| self.dir.join(format!("inputs/{stem}.{e}"))).find(|p| p.exists());
        found.unwrap_or_else(|| panic!("{stem}: no such input"))
    }

    /// drbdadm, called in a directory of the goldens.
    fn drbdadm(&self, cwd: &str, show: &str, arguments: &[&str]) -> Answer {
        let mut command = Command::new(program("drbdadm"));
        command
            .args(arguments)
            .current_dir(self.dir.join(cwd))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("__DRBD_NODE__", "alpha")
            .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.0")
            .env("FAKE_DRBDSETUP_SHOW", self.dir.join(show));
        let output = command.output().expect("drbdadm can be run");
        let dir = format!("{}/inputs", self.dir.display());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&dir, GOLDEN_DIR);
        let code = output.status.code().expect("drbdadm is not killed by a signal");
        Answer { out: text(&output.stdout), err: drbd_text(&text(&output.stderr)), code }
    }
}

struct Answer {
    out: String,
    err: String,
    code: i32,
}

/// Standard error without what we add to DRBD's words: the quoted line, the caret, hints; and without the note about
/// the pretended host name.
fn drbd_text(err: &str) -> String {
    let ours = |line: &&str| {
        let quote =
            line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit() || c == ':').starts_with(" | ");
        let caret = line.starts_with("  ") && line.trim_start().starts_with("| ");
        quote || caret || line.starts_with("  hint: ") || line.trim().is_empty()
    };
    let pretended = |line: &&str| line.contains("__DRBD_NODE__") || line.contains("PRETENDING");
    err.lines().filter(|l| !ours(l) && !pretended(l)).map(|l| format!("{l}\n")).collect()
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// `$ command` and all up to the next one.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("$ drbdadm ") {
            Some(command) => blocks.push((command.trim_end(), String::new())),
            None => {
                if let Some((_, body)) = blocks.last_mut() {
                    body.push_str(line);
                    body.push('\n');
                }
            }
        }
    }
    blocks
}

#[test]
fn dry_runs_of_every_input_and_command() {
    let golden = Golden::unpack("dry");
    let mut compared = 0;
    for name in golden.names("dry") {
        let input = golden.input(stem(&name)).display().to_string();
        let text = golden.text(&format!("dry/{name}"));
        for (command, expected) in blocks(&text) {
            let mut arguments = vec!["-c", &input];
            arguments.extend(command.split(' '));
            let answer = golden.drbdadm(".", "nothing-runs", &arguments);
            let got = format!("{}exit {}\n", answer.out, answer.code);
            assert_eq!(got, expected, "{name}: drbdadm {command}");
            compared += 1;
        }
    }
    assert_eq!(compared, 16 * 57 + 8);
}

fn assert_dumps(golden: &Golden, dir: &str, arguments: &[&str], left_out: &[&str]) -> usize {
    let mut compared = 0;
    for name in golden.names(dir) {
        let input = golden.input(stem(&name)).display().to_string();
        let mut all = vec!["-c", &input];
        all.extend(arguments);
        let answer = golden.drbdadm(".", "nothing-runs", &all);
        let got = if dir == "xml" {
            format!("{}<!-- exit {} -->\n", answer.out, answer.code)
        } else {
            format!("{}# exit {}\n", answer.out, answer.code)
        };
        if left_out.contains(&name.as_str()) {
            assert_eq!(answer.code, 0, "{name}");
        } else {
            assert_eq!(got, golden.text(&format!("{dir}/{name}")), "{name}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn dumps_of_every_input() {
    let golden = Golden::unpack("dump");
    assert_eq!(assert_dumps(&golden, "dump", &["dump", "all"], &[]), 16);
}

/// The stacked end of a path comes out of 9.22 as two broken lines that its own parser refuses.
const EXPANDED_LEFT_OUT: &[&str] = &["11-stacked.txt"];

#[test]
fn dumps_with_everything_inherited() {
    let golden = Golden::unpack("expanded");
    assert_eq!(assert_dumps(&golden, "expanded", &["-d", "-v", "dump", "all"], EXPANDED_LEFT_OUT), 12);
}

/// 9.34 prints `(null)` for hosts that have no address of their own, and a template element that is never closed.
const XML_LEFT_OUT: &[&str] = &["05-explicit-connections.xml", "13-include.xml"];

#[test]
fn dumps_for_programs() {
    let golden = Golden::unpack("xml");
    assert_eq!(assert_dumps(&golden, "xml", &["dump-xml", "all"], XML_LEFT_OUT), 14);
}

/// DRBD leaves the device of a stacked host out of a plain dump.
const NOT_READ_AGAIN: &str = "11-stacked.txt";

#[test]
fn dumps_are_read_again() {
    let golden = Golden::unpack("again");
    for name in golden.names("dump").into_iter().filter(|n| n != NOT_READ_AGAIN) {
        let input = golden.input(stem(&name)).display().to_string();
        let first = golden.drbdadm(".", "nothing-runs", &["-c", &input, "dump", "all"]);
        let again = golden.dir.join("inputs/again.res");
        std::fs::write(
            &again,
            first.out.replace(GOLDEN_DIR, &golden.dir.join("inputs").display().to_string()),
        )
        .expect("writable");
        let second =
            golden.drbdadm(".", "nothing-runs", &["-c", &again.display().to_string(), "dump", "all"]);
        let body =
            |text: &str| text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(body(&first.out), body(&second.out), "{name}: {}", second.err);
    }
}

#[test]
fn adjust_closes_exactly_the_gap() {
    let golden = Golden::unpack("adjust");
    let input = golden.input("01-simple-84").display().to_string();
    let text = golden.text("adjust/adjust.txt");
    let mut compared = 0;
    for situation in text.split("\n\n").filter(|s| !s.trim().is_empty()) {
        let (head, expected) = situation.trim_start().split_once('\n').expect("a name and commands");
        let show = head.trim_start_matches('[').split(']').next().expect("a file name");
        let answer = golden.drbdadm(".", &format!("adjust/{show}"), &["-c", &input, "-d", "adjust", "r0"]);
        let got = format!("{}exit {}", answer.out, answer.code);
        assert_eq!(got, expected.trim_end(), "{show}: {}", answer.err);
        compared += 1;
    }
    assert_eq!(compared, 13);
}

/// Faulty inputs about which we say something else, and why.
const MESSAGES_LEFT_OUT: &[(&str, &str)] = &[
    (
        "e14-same-minor-two-resources.res",
        "9.34 gives line 0; we give the line, and name every host it concerns",
    ),
    ("e16-same-address-two-resources.res", "9.34 gives line 0; we give the lines"),
    ("e24-missing-close-brace.res", "9.34 says nothing about a file that ends inside a block; we warn"),
];

#[test]
fn faulty_inputs_get_drbds_messages_and_exit_codes() {
    let golden = Golden::unpack("errors");
    let text = golden.text("errors/errors.txt");
    let (mut compared, mut left_out) = (0, 0);
    let mut lines = text.lines().peekable();
    while let Some(head) = lines.next() {
        let Some((file, rest)) = head.strip_prefix('[').and_then(|h| h.split_once("] 9.34 ")) else {
            continue;
        };
        let (command, code) = rest.split_once(" exit ").expect("a command and its exit code");
        let mut expected = String::new();
        while let Some(line) = lines.next_if(|l| l.starts_with("    ")) {
            expected.push_str(&format!("{}\n", &line[4..]));
        }
        let arguments: &[&str] =
            if command == "up" { &["-c", file, "-d", "up", "all"] } else { &["-c", file, command] };
        let answer = golden.drbdadm("errors", "nothing-runs", arguments);
        assert_eq!(answer.code.to_string(), code, "{file}: {}", answer.err);
        if MESSAGES_LEFT_OUT.iter().any(|(left_out, _)| *left_out == file) {
            left_out += 1;
        } else {
            assert_eq!(format!("{}{}", answer.err, answer.out), expected, "{file} {command}");
            compared += 1;
        }
    }
    assert_eq!((compared, left_out), (60, 4));
}

#[test]
fn forms_of_arguments() {
    let golden = Golden::unpack("arguments");
    let text = golden.text("arguments.txt");
    let mut compared = 0;
    let inputs = format!("{}/inputs", golden.dir.display());
    for (command, expected) in blocks(&text) {
        let arguments: Vec<String> = command.split(' ').map(|a| a.replace(GOLDEN_DIR, &inputs)).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer = golden.drbdadm(".", "nothing-runs", &arguments);
        let errors: String = answer.err.lines().map(|l| format!("stderr: {l}\n")).collect();
        let got = format!("{}{errors}exit {}\n", answer.out, answer.code);
        assert_eq!(without_build(&got), without_build(&expected), "drbdadm {command}");
        compared += 1;
    }
    assert_eq!(compared, 85);
}

/// Which build it is differs, of course; blank lines separate the goldens.
fn without_build(text: &str) -> Vec<&str> {
    let build = |l: &&str| l.starts_with("GIT-hash:") || l.starts_with("udrbd ");
    text.lines().filter(|l| !l.trim().is_empty() && !build(l)).collect()
}
