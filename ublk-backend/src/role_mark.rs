//! Whether this node is Primary, for the daemon after one that dies: an empty file in the run directory while it is. The
//! kernel does not know (a Secondary's device may be written where `auto-promote` is on, and there may be no device), and
//! the metadata say it of a Secondary too that writes for a Primary without disk.

use std::path::PathBuf;

/// The file.
#[derive(Debug)]
pub(crate) struct RoleMark(PathBuf);

impl RoleMark {
    /// At that path.
    pub(crate) fn at(path: PathBuf) -> RoleMark {
        RoleMark(path)
    }

    /// Whether the last daemon was Primary.
    pub(crate) fn is_set(&self) -> bool {
        self.0.exists()
    }

    /// Has it say so, or not. Nothing depends on it while this daemon lives, and without it the next one stays Secondary.
    pub(crate) fn set(&self, primary: bool) {
        let _ = if primary { std::fs::write(&self.0, []) } else { std::fs::remove_file(&self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_said_last() {
        let path = std::env::temp_dir().join(format!("role-mark-{}", std::process::id()));
        let mark = RoleMark::at(path.clone());
        assert!(!mark.is_set());
        for primary in [true, true, false, false] {
            mark.set(primary);
            assert_eq!(RoleMark::at(path.clone()).is_set(), primary);
        }
    }
}
