//! Which file a running resource was configured from: links in the run directory, for handlers that are called with
//! nothing but a name.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

/// `$UDRBD_RUN_DIR`, else `/run/drbd` for root, else `$XDG_RUNTIME_DIR/drbd`.
fn run_directory() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("UDRBD_RUN_DIR").filter(|d| !d.is_empty()) {
        return Some(PathBuf::from(dir));
    }
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/run/drbd"));
    }
    std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("drbd"))
}

fn link_of(what: &str) -> Option<PathBuf> {
    (!what.contains('/')).then(run_directory).flatten().map(|dir| dir.join(format!("drbd-{what}.conf")))
}

fn links(resource: &str, minors: impl Iterator<Item = u32>) -> impl Iterator<Item = PathBuf> {
    let names = std::iter::once(format!("resource-{resource}")).chain(minors.map(|m| format!("minor-{m}")));
    names.filter_map(|n| link_of(&n))
}

/// Forgets a resource that was taken down.
pub fn forget(resource: &str, minors: impl Iterator<Item = u32>) {
    for link in links(resource, minors) {
        let _ = std::fs::remove_file(link);
    }
}

/// Remembers the file of a resource and its minors. A run directory that cannot be written is no error: only handlers
/// called without `-c` miss it.
pub fn remember(resource: &str, minors: impl Iterator<Item = u32>, file: &str) {
    let Ok(file) = std::fs::canonicalize(file) else { return };
    // This may be the first that needs it since the machine was started.
    if let Some(directory) = run_directory() {
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    }
    for link in links(resource, minors) {
        if std::fs::read_link(&link).is_ok_and(|old| old == file) {
            continue;
        }
        let fresh = link.with_extension("conf.new");
        let _ = std::fs::remove_file(&fresh);
        if std::os::unix::fs::symlink(&file, &fresh).is_ok() {
            let _ = std::fs::rename(&fresh, &link);
        }
    }
}

/// The file a resource argument (`R` or `minor-N`) was configured from.
pub fn recall(argument: &str) -> Option<String> {
    let name = argument.split(['/', ':']).next()?;
    let what = if name.starts_with("minor-") { name.to_owned() } else { format!("resource-{name}") };
    let file = std::fs::read_link(link_of(&what)?).ok()?;
    file.exists().then(|| file.to_string_lossy().into_owned())
}
