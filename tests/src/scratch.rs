//! A temporary directory of one test, gone when the test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The directory.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one.
    pub fn new(name: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("udrbd-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory can be made");
        Scratch(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Unpacks a zstd-compressed tar archive of `tests/golden` into it; sparse files stay sparse.
    pub fn unpack(&self, golden: &str) {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(golden);
        let unpacked = Command::new("tar")
            .arg("--zstd")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&self.0)
            .status()
            .expect("tar can be run (Debian packages tar and zstd)");
        assert!(unpacked.success(), "unpacking {} failed (is zstd installed?)", archive.display());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
