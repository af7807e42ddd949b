//! `udrbd integrate`: services for systemd, and what makes the agent `ocf:linbit:drbd` and drbd-utils' handlers, as they are,
//! content on a host without the module `drbd`. Where the module is, nothing changes for them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The first line of each file, by which it is known as ours.
const MARK: &str = "# Installed by `udrbd integrate`; `udrbd integrate --remove` takes it away again.\n";
/// Where each file goes, below the root directory, and what it says.
const FILES: [(&str, &str); 9] = [
    ("etc/systemd/system/udrbd@.service", include_str!("../integration/udrbd@.service")),
    ("etc/systemd/system/drbd@.service", include_str!("../integration/drbd@.service")),
    ("etc/systemd/system/drbd@.target", include_str!("../integration/drbd@.target")),
    (
        "etc/systemd/system/drbd-promote@.service.d/udrbd.conf",
        include_str!("../integration/drbd-promote@.service.conf"),
    ),
    ("etc/udrbd/handlers.bash", include_str!("../integration/handlers.bash")),
    ("etc/udrbd/proc-drbd", include_str!("../integration/proc-drbd")),
    ("etc/udrbd/pacemaker.bash", include_str!("../integration/pacemaker.bash")),
    (
        "etc/systemd/system/pacemaker.service.d/udrbd.conf",
        include_str!("../integration/pacemaker.service.conf"),
    ),
    ("etc/modprobe.d/udrbd.conf", include_str!("../integration/modprobe.conf")),
];

/// Installs the files below `root` for the daemon's binary `udrbd`, beside which the other tools are; again, where they
/// are there already. Nothing, where one of them is somebody else's. A line for each is the result.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn install(root: &Path, udrbd: &Path) -> Result<Vec<String>, String> {
    let path = udrbd.to_str().filter(|path| !path.contains(['"', '$', '`', '\\', '\n', '%']));
    let path = path.and_then(|path| Some((path, udrbd.parent()?.to_str()?)));
    let (udrbd, sbin) = path.ok_or(
        "The path of this program has characters that shell scripts or systemd take for something else.",
    )?;
    for (path, _) in FILES {
        let path = root.join(path);
        if let Some(false) = is_ours(&path)? {
            return Err(format!("{} is there already and not ours: move it away first.", path.display()));
        }
    }
    let write = |(path, text): (&str, &str)| {
        let path = root.join(path);
        let text = format!("{MARK}{}", text.replace("@UDRBD@", udrbd).replace("@SBIN@", sbin));
        replace(&path, &text).map_err(|e| format!("{} cannot be written: {e}.", path.display()))?;
        Ok(format!("{} is installed.", path.display()))
    };
    FILES.into_iter().map(write).collect()
}

/// Takes them away again.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn remove(root: &Path) -> Result<Vec<String>, String> {
    let mut said = Vec::new();
    for (path, _) in FILES {
        let path = root.join(path);
        said.push(match is_ours(&path)? {
            None => continue,
            Some(false) => format!("{} is not ours and stays.", path.display()),
            Some(true) => {
                std::fs::remove_file(&path)
                    .map_err(|e| format!("{} cannot be removed: {e}.", path.display()))?;
                // Its directory goes with it, unless others have files there.
                let _ = path.parent().map(std::fs::remove_dir);
                format!("{} is removed.", path.display())
            }
        });
    }
    Ok(said)
}

/// None: there is no such file.
fn is_ours(path: &Path) -> Result<Option<bool>, String> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text.starts_with(MARK.as_bytes()))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{} cannot be read: {e}.", path.display())),
    }
}

/// Who reads it meanwhile sees the old text or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(&fresh, text)?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("udrbd-integration-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("etc/modprobe.d")).unwrap();
        path
    }

    #[test]
    fn what_is_installed_twice_is_removed_at_once() {
        let root = root("twice");
        let foreign = root.join("etc/modprobe.d/other.conf");
        std::fs::write(&foreign, "blacklist drbd\n").unwrap();
        let first = install(&root, Path::new("/opt/old/udrbd")).unwrap();
        assert_eq!(first.len(), FILES.len());
        install(&root, Path::new("/usr/sbin/udrbd")).unwrap();
        let text = |path| std::fs::read_to_string(root.join(path)).unwrap();
        let answers = text("etc/udrbd/pacemaker.bash");
        assert!(
            answers.starts_with(MARK) && answers.contains("builtin test -x \"/usr/sbin/udrbd\""),
            "{answers}"
        );
        let adjusts = text("etc/systemd/system/drbd@.service");
        assert!(adjusts.contains("\nExecStart=\"/usr/sbin/drbdadm\" adjust %I\n"), "{adjusts}");
        assert_eq!(remove(&root).unwrap().len(), FILES.len());
        assert_eq!(remove(&root).unwrap(), Vec::<String>::new());
        assert!(foreign.exists() && !root.join("etc/udrbd").exists());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn files_of_others_stay() {
        let root = root("others");
        let theirs = root.join("etc/modprobe.d/udrbd.conf");
        std::fs::write(&theirs, "install drbd /bin/true\n").unwrap();
        let refused = install(&root, Path::new("/usr/sbin/udrbd")).unwrap_err();
        assert!(refused.contains("etc/modprobe.d/udrbd.conf is there already"), "{refused}");
        assert!(!root.join(FILES[0].0).exists(), "nothing else is installed then");
        assert!(remove(&root).unwrap().iter().any(|line| line.ends_with("is not ours and stays.")));
        assert_eq!(std::fs::read_to_string(theirs).unwrap(), "install drbd /bin/true\n");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn no_path_becomes_a_command() {
        for path in ["/tmp/a\"b/udrbd", "/tmp/%n/udrbd", "/tmp/$(id)/udrbd", "/tmp/`id`/udrbd"] {
            assert!(install(Path::new("/nowhere"), Path::new(path)).is_err());
        }
    }
}
