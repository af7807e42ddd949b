//! The recorded output of the real `drbdsetup` (9.34), packed into one file: sections that begin with `==> NAME`.

use std::process::Command;

/// One recorded file.
pub(crate) fn golden(name: &str) -> String {
    let packed = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tools/drbdsetup.txt.gz");
    let unpacked = Command::new("gzip").args(["-dc", packed]).output().expect("gzip runs");
    let all = String::from_utf8(unpacked.stdout).expect("goldens are text");
    let head = format!("==> {name}\n");
    let body = all.split_once(&head).unwrap_or_else(|| panic!("no golden {name}")).1;
    match body.find("==> ") {
        Some(end) => body[..end].to_owned(),
        None => body.to_owned(),
    }
}

/// What a recorded file holds after `$ drbdsetup COMMAND`, up to `[exit N]`.
pub(crate) fn recorded(file: &str, command: &str) -> String {
    let all = golden(file);
    let head = format!("$ drbdsetup {command}\n");
    let body = all.split_once(&head).unwrap_or_else(|| panic!("no '{command}' in {file}")).1;
    body.split_once("[exit ").expect("an exit code").0.to_owned()
}

/// Compares, and shows the first line that differs.
#[track_caller]
pub(crate) fn assert_same(what: &str, got: &str, wanted: &str) {
    if got == wanted {
        return;
    }
    for (at, (got, wanted)) in got.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(got, wanted, "{what}, line {}", at + 1);
    }
    assert_eq!(got, wanted, "{what}");
}
