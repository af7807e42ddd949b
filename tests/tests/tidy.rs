//! The architecture's invariants, checked by text: who may know whom, how long a file may be, which words mean nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 700;
const GOLDEN_BYTES_MAX: u64 = 3 << 20;
const CRATES: [&str; 6] = ["drbd-core", "drbdadm", "drbdmeta", "drbdsetup", "tests", "ublk-backend"];

/// A source file without its comments and strings' prose: path from the top, and lines of code with their numbers.
struct Source {
    path: String,
    lines: Vec<(usize, String)>,
}

impl Source {
    fn read(top: &Path, path: &Path) -> Source {
        let text = fs::read_to_string(path).expect("a source file can be read");
        let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
        Source {
            path: path.strip_prefix(top).expect("below the top").display().to_string(),
            lines: text.lines().enumerate().map(|(index, line)| (index + 1, code(line))).collect(),
        }
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.contains("/tests") || self.path.ends_with("tests.rs")
    }

    /// `path:line: word` for each of the words that occurs as a word of its own.
    fn mentions(&self, words: &[&str]) -> Vec<String> {
        let found = |line: &str, word: &str| {
            line.match_indices(word).any(|(at, _)| {
                let ends = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
                ends(line[..at].chars().next_back()) && ends(line[at + word.len()..].chars().next())
            })
        };
        let each = self.lines.iter().flat_map(|(number, line)| {
            words.iter().filter(move |word| found(line, word)).map(move |word| (number, word))
        });
        each.map(|(number, word)| format!("{}:{number}: {word}", self.path)).collect()
    }
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests has a parent").to_owned()
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                files_below(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn sources(below: &str) -> Vec<Source> {
    let top = top();
    let mut files = Vec::new();
    files_below(&top.join(below), &mut files);
    files.sort();
    let rust = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| Source::read(&top, path)).collect()
}

/// No source below `places` (tests beside them aside) has any of the words.
fn demand_without(places: &[&str], words: &[&str], why: &str) {
    let sources = places.iter().flat_map(|place| sources(place));
    let found: Vec<String> = sources.filter(|s| !s.is_test()).flat_map(|s| s.mentions(words)).collect();
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn the_top_level_is_what_it_was_named() {
    let entries = fs::read_dir(top()).expect("the top can be read").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let visible: BTreeSet<String> = names.filter(|name| !name.starts_with('.') && name != "target").collect();
    let files = ["Cargo.lock", "Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];
    let expected: BTreeSet<String> = CRATES.iter().chain(&files).map(|name| (*name).to_owned()).collect();
    assert_eq!(visible, expected);
}

#[test]
fn the_core_is_pure() {
    demand_without(
        &["drbd-core/src"],
        &[
            "std::fs",
            "std::io",
            "std::net",
            "std::os",
            "std::process",
            "std::thread",
            "std::env",
            "std::time",
            "HashMap",
            "HashSet",
            "rand",
            "tokio",
            "nix",
            "libc",
        ],
        "drbd-core has no IO, clock, thread, random source, or map with random iteration order",
    );
}

#[test]
fn the_core_depends_on_hardly_anything() {
    let manifest = fs::read_to_string(top().join("drbd-core/Cargo.toml")).expect("the manifest can be read");
    let (_, rest) = manifest.split_once("[dependencies]").expect("it has dependencies");
    let lines = rest.lines().skip(1).take_while(|line| !line.starts_with('['));
    let names: Vec<&str> =
        lines.filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|name| !name.is_empty()).collect();
    assert!(names.iter().all(|name| ["crc32c", "serde", "serde_json"].contains(name)), "{names:?}");
}

#[test]
fn the_layers_know_only_what_is_below_them() {
    demand_without(
        &["drbd-core/src/wire", "drbd-core/src/metadata"],
        &["crate::engine", "crate::control", "crate::config"],
        "wire and metadata do not know the engine",
    );
    demand_without(
        &["drbd-core/src/config"],
        &[
            "crate::engine",
            "crate::wire",
            "crate::metadata",
            "crate::control",
            "Role",
            "DiskState",
            "ConnectionState",
        ],
        "config knows no state (a protocol is none)",
    );
    demand_without(&["drbd-core/src/control"], &["crate::engine"], "control does not know the engine");
    demand_without(
        &["drbd-core/src/engine/write_path"],
        &["state_change"],
        "write_path reads a snapshot, never state_change",
    );
    demand_without(
        &["drbdadm/src", "drbdsetup/src", "drbdmeta/src"],
        &["engine"],
        "the tools have no engine",
    );
}

#[test]
fn each_shell_keeps_to_its_trade() {
    // drbdadm may try whether an address is its own, but speaks to nobody.
    let sockets = ["UnixStream", "UnixListener", "UnixDatagram", "TcpStream", "UdpSocket"];
    demand_without(&["drbdadm/src", "drbdmeta/src"], &sockets, "only drbdsetup speaks to the daemon");
    demand_without(
        &["drbdadm/src", "drbdsetup/src"],
        &["drbd_core::metadata", "drbd_core::wire"],
        "only drbdmeta and the daemon touch metadata, only the daemon speaks the wire",
    );
    demand_without(&["drbdmeta/src"], &["drbd_core::wire"], "drbdmeta does not speak the wire");
}

#[test]
fn unsafe_is_the_daemons_alone() {
    let places = ["drbd-core/src", "drbdadm/src", "drbdsetup/src", "drbdmeta/src", "tests/src"];
    let found: Vec<String> =
        places.iter().flat_map(|p| sources(p)).flat_map(|s| s.mentions(&["unsafe"])).collect();
    assert!(found.is_empty(), "unsafe outside ublk-backend:\n{}", found.join("\n"));
}

#[test]
fn no_file_is_too_long_and_every_module_says_what_it_is() {
    let mut faults = Vec::new();
    for source in CRATES.iter().flat_map(|name| sources(name)) {
        if source.lines.len() > LINES_MAX {
            faults.push(format!("{}: {} lines", source.path, source.lines.len()));
        }
        let text = fs::read_to_string(top().join(&source.path)).expect("it was read before");
        if !source.is_test() && !text.starts_with("//!") {
            faults.push(format!("{}: does not begin with what it is (//!)", source.path));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_is_named_after_nothing() {
    let empty_words = ["util", "utils", "common", "helper", "helpers", "manager", "misc"];
    let mut faults = Vec::new();
    for source in CRATES.iter().flat_map(|name| sources(name)) {
        let path = PathBuf::from(&source.path);
        let parts = path.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned());
        faults.extend(parts.filter(|part| empty_words.contains(&part.as_str())).map(|_| source.path.clone()));
    }
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn nothing_is_left_undone() {
    let places: Vec<&str> = CRATES.to_vec();
    demand_without(&places, &["todo!", "unimplemented!", "dbg!"], "left undone");
}

#[test]
fn the_goldens_are_small() {
    let mut files = Vec::new();
    files_below(&top().join("tests/golden"), &mut files);
    for name in CRATES {
        files_below(&top().join(name).join("tests/golden"), &mut files);
    }
    files.sort();
    files.dedup();
    let bytes: u64 = files.iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum();
    assert!(bytes < GOLDEN_BYTES_MAX, "{bytes} bytes in {} goldens", files.len());
}

#[test]
fn planted_bugs_are_no_part_of_what_is_shipped() {
    for name in CRATES {
        let manifest =
            fs::read_to_string(top().join(name).join("Cargo.toml")).expect("a manifest can be read");
        let shipped = manifest.split("[dev-dependencies]").next().expect("the part before");
        let enabled = shipped
            .lines()
            .any(|line| line.contains("planted-bugs") && !line.starts_with("planted-bugs = []"));
        assert!(!enabled, "{name}/Cargo.toml enables planted-bugs outside of [dev-dependencies]");
    }
}
