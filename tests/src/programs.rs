//! Finds udrbd's own programs for tests that run them.
//!
//! `CARGO_BIN_EXE_…` does not reach across crates, so the program is built, up to date, into the profile and target
//! directory that this test itself was built into.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Path of one of the workspace's programs, such as `drbdmeta`.
pub fn program(name: &str) -> PathBuf {
    static BUILDING: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut built = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let profile_dir = profile_dir();
    if !built.iter().any(|done| done == name) {
        build(name, &profile_dir);
        built.push(name.to_owned());
    }
    let path = profile_dir.join(name);
    assert!(path.exists(), "cargo built {name}, but not as {}", path.display());
    path
}

/// `target/<profile>`, where programs are; tests are in its `deps`.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own program");
    let dir = test.parent().expect("a program is in a directory");
    if dir.ends_with("deps") || dir.ends_with("examples") {
        dir.parent().expect("deps is in a profile's directory").to_owned()
    } else {
        dir.to_owned()
    }
}

fn build(name: &str, profile_dir: &Path) {
    let profile = match profile_dir.file_name().and_then(|dir| dir.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let target_dir = profile_dir.parent().expect("a profile is in the target directory");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--workspace", "--bin", name, "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "building {name} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}
