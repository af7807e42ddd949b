//! Images that udrbd's drbdmeta made and changed, read by Debian's real one (drbd-utils 9.22) on loop devices: the
//! same dump, generations and state.
//!
//! Needs root, loop devices and the package drbd-utils. Where they are missing this says so; under `CI=true` it fails.

use drbd_core::metadata::LogTransaction;
use drbd_tests::drbdmeta::Drbdmeta;
use drbd_tests::transcript::Step;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

const REAL: &str = "/usr/sbin/drbdmeta";
const MIB: u64 = 1 << 20;

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Result<Loop, String> {
        Loop::with(&["--find", "--show"], file)
    }

    fn with(options: &[&str], file: &Path) -> Result<Loop, String> {
        let output = Command::new("losetup").args(options).arg(file).output();
        let output = output.map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(Loop(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// Why the comparison cannot be made here.
fn missing(drbdmeta: &Drbdmeta) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    if !Path::new(REAL).exists() {
        return Some(format!("needs {REAL} (Debian package drbd-utils)"));
    }
    let probe = drbdmeta.blank("probe", MIB);
    Loop::over(&probe).err().map(|error| format!("needs loop devices: {error}"))
}

/// Says why nothing is compared, also through the test harness; never silently in CI.
fn skipped(drbdmeta: &Drbdmeta) -> bool {
    let Some(reason) = missing(drbdmeta) else { return false };
    assert!(std::env::var_os("CI").is_none(), "the comparison with drbd-utils {reason}");
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: the comparison with drbd-utils {reason}");
    true
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn real(line: &str) -> Step {
    let words = words(line);
    let output = Command::new(REAL).args(&words).stdin(Stdio::null()).output().expect("drbdmeta can be run");
    Step::of(&words, &output)
}

/// Dumps without the header, and without what 9.22 does not print.
fn comparable(step: &Step) -> Vec<String> {
    let from_version: Vec<&String> =
        step.out.iter().skip_while(|line| !line.starts_with("version")).collect();
    if from_version.is_empty() {
        return step.out.clone();
    }
    let is_v08 = from_version[0].contains("v08");
    let kept = from_version.into_iter().filter(|line| !line.starts_with("members "));
    kept.map(|line| match is_v08 && line.starts_with("    flags ") {
        true => "    flags ?".to_owned(),
        false => line.clone(),
    })
    .collect()
}

/// Both say the same about a device.
fn compare(drbdmeta: &Drbdmeta, place: &str, when: &str) {
    let queries: &[&str] = match place.contains("v08") {
        true => &["dump-md", "get-gi", "show-gi", "dstate", "read-dev-uuid"],
        false => &["dump-md", "get-gi --node-id 1", "show-gi --node-id 31", "dstate", "read-dev-uuid"],
    };
    for query in queries {
        let line = format!("- {place} {query}");
        let (ours, theirs) = (drbdmeta.say(&line), real(&line));
        assert_eq!(comparable(&ours), comparable(&theirs), "{line} {when}");
        assert_eq!((ours.exit, &ours.err), (theirs.exit, &theirs.err), "{line} {when}");
    }
}

fn ours(drbdmeta: &Drbdmeta, line: &str) {
    let step = drbdmeta.say(line);
    assert_eq!(step.exit, 0, "{step:?}");
}

/// Creates, changes and fills metadata; after each step both dump it.
fn walk(drbdmeta: &Drbdmeta, format: &str, index: &str, bytes: u64, create: &str) {
    let file = drbdmeta.blank("backing", bytes);
    let device = Loop::over(&file).unwrap();
    let place = format!("{format} {} {index}", device.0);
    ours(drbdmeta, &format!("- {place} create-md {create}"));
    compare(drbdmeta, &place, "after create-md");
    let (node, list) = match format {
        "v08" => ("", "1111111111111110:2222222222222222:3333333333333333:4444444444444444:1:1:1:1:0:1:1"),
        _ => (
            "--node-id=1",
            "AAAAAAAAAAAAAAA0:BBBBBBBBBBBBBBB0:CCCCCCCCCCCCCCC0:DDDDDDDDDDDDDDD0:1:1:0:0:1:0:0:0:1:0:0:1",
        ),
    };
    ours(drbdmeta, &format!("--force - {place} set-gi {node} {list}"));
    compare(drbdmeta, &place, "after set-gi");
    ours(drbdmeta, &format!("- {place} write-dev-uuid 0123456789ABCDEF"));
    ours(drbdmeta, &format!("- {place} outdate"));
    compare(drbdmeta, &place, "after outdate");
    ours(drbdmeta, &format!("- {place} invalidate"));
    compare(drbdmeta, &place, "after invalidate");
    fill(drbdmeta, &place, &file);
    compare(drbdmeta, &place, "with bits set");
    drop(device);
    std::fs::remove_file(file).unwrap();
}

/// Agrees on a size with nobody and sets some bits, as a daemon would.
fn fill(drbdmeta: &Drbdmeta, place: &str, file: &Path) {
    let dump = drbdmeta.say(&format!("- {place} dump-md"));
    let number = |name: &str| -> u64 {
        let line = dump.out.iter().find_map(|line| line.strip_prefix(&format!("# {name} ")));
        line.unwrap().parse().unwrap()
    };
    let (super_block, bitmap) = (number("md_offset"), number("bm_offset"));
    let sectors = if place.contains("internal") { bitmap / 512 - 7 } else { 100_001 };
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&sectors.to_be_bytes(), super_block).unwrap();
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::new();
    for n in 0..512_u64 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Runs of all lengths between words of all kinds.
        let word = if state % 3 == 0 { state } else { n / 40 % 2 * u64::MAX };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    file.write_all_at(&bytes, bitmap).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn internal_metadata_of_many_sizes() {
    let drbdmeta = Drbdmeta::new("drbd-utils-internal");
    if skipped(&drbdmeta) {
        return;
    }
    for bytes in [69_632, 64 * MIB, 67_110_400, 200 * MIB + 512, 1024 * MIB, 9000 * MIB] {
        walk(&drbdmeta, "v08", "internal", bytes, "");
        for max_peers in [1, 2, 7] {
            walk(&drbdmeta, "v09", "internal", bytes, &max_peers.to_string());
        }
    }
    walk(&drbdmeta, "v09", "internal", 1024 * MIB, "31 --al-stripes 4 --al-stripe-size-kB 64");
    walk(&drbdmeta, "v08", "flex-internal", 64 * MIB, "--al-stripes 3 --al-stripe-size-kB 48");
}

#[test]
fn external_metadata_flexible_and_indexed() {
    let drbdmeta = Drbdmeta::new("drbd-utils-external");
    if skipped(&drbdmeta) {
        return;
    }
    for (format, create) in [("v08", ""), ("v09", "1"), ("v09", "2"), ("v09", "7")] {
        walk(&drbdmeta, format, "flex-external", 2 * MIB, create);
        walk(&drbdmeta, format, "0", 129 * MIB, create);
        walk(&drbdmeta, format, "2", 400 * MIB, create);
    }
}

#[test]
fn a_log_applied_by_us_and_by_them() {
    let drbdmeta = Drbdmeta::new("drbd-utils-log");
    if skipped(&drbdmeta) {
        return;
    }
    drbdmeta.scratch.unpack("metadata/images.tar.zst");
    for (format, name) in [
        ("v08", "v08-int-64M-al-crashed"),
        ("v09", "v09-int-64M-al-crashed"),
        ("v09", "v09-int-64M-p2-als4x64k-al-crashed"),
    ] {
        let (mine, theirs) = (drbdmeta.path("mine"), drbdmeta.path("theirs"));
        let image = drbdmeta.path(&format!("{name}.img"));
        std::fs::copy(&image, &mine).unwrap();
        std::fs::copy(&image, &theirs).unwrap();
        let (our_loop, their_loop) = (Loop::over(&mine).unwrap(), Loop::over(&theirs).unwrap());
        let our_step = drbdmeta.say(&format!("- {format} {} internal apply-al", our_loop.0));
        let their_step = real(&format!("- {format} {} internal apply-al", their_loop.0));
        assert_eq!((our_step.exit, our_step.err), (their_step.exit, their_step.err), "{name}");
        compare(&drbdmeta, &format!("{format} {} internal", our_loop.0), "after apply-al");
        drop((our_loop, their_loop));
        assert!(
            std::fs::read(&mine).unwrap() == std::fs::read(&theirs).unwrap(),
            "{name} differs after apply-al"
        );
    }
}

/// A bitmap so large that it is worked on in pieces.
#[test]
fn a_log_applied_to_a_large_device() {
    let drbdmeta = Drbdmeta::new("drbd-utils-large");
    if skipped(&drbdmeta) {
        return;
    }
    let bytes = 128 << 30;
    for (name, max_peers) in [("mine", 3), ("theirs", 3)] {
        let file = drbdmeta.blank(name, bytes);
        ours(&drbdmeta, &format!("- v09 {name} internal create-md --effective-size 127G {max_peers}"));
        let mut transaction = LogTransaction::empty(0);
        for (slot, extent) in
            [0, 1, 31, 9_999, 10_000, 10_559, 10_560, 20_000, 32_511, 32_512].into_iter().enumerate()
        {
            assert!(transaction.push_update(slot as u16, extent));
        }
        transaction.context_size = 1237;
        let mut block = [0; 4096];
        transaction.encode(&mut block);
        let file = OpenOptions::new().write(true).open(file).unwrap();
        file.write_all_at(&0x13_u32.to_be_bytes(), bytes - 4096 + 56).unwrap();
        file.write_all_at(&block, bytes - 4096 - 32768).unwrap();
    }
    let (our_loop, their_loop) =
        (Loop::over(&drbdmeta.path("mine")).unwrap(), Loop::over(&drbdmeta.path("theirs")).unwrap());
    let our_step = drbdmeta.say(&format!("- v09 {} internal apply-al", our_loop.0));
    real(&format!("- v09 {} internal apply-al", their_loop.0));
    assert_eq!(
        (our_step.exit, our_step.err),
        (0, vec!["Marked additional 108 MB as out-of-sync based on AL.".to_owned()])
    );
    let dump = |device: &Loop| comparable(&drbdmeta.say(&format!("- v09 {} internal dump-md", device.0)));
    assert_eq!(dump(&our_loop), dump(&their_loop));
}

#[test]
fn a_block_device_in_use_or_read_only_is_refused() {
    let drbdmeta = Drbdmeta::new("drbd-utils-busy");
    if skipped(&drbdmeta) {
        return;
    }
    let file = drbdmeta.blank("backing", 64 * MIB);
    let device = Loop::over(&file).unwrap();
    let busy = format!("open({}) failed: Device or resource busy", device.0);
    // Any exclusive opener is to a block device what a mount is.
    use std::os::unix::fs::OpenOptionsExt;
    let held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&device.0).unwrap();
    let step = drbdmeta.say(&format!("- v09 {} internal create-md 1", device.0));
    assert_eq!((step.exit, step.err[0].as_str()), (20, busy.as_str()));
    drop(held);
    // The file behind a loop device is in use too.
    let step = drbdmeta.say("- v09 backing internal create-md 1");
    assert_eq!((step.exit, step.err[0].as_str()), (20, "open(backing) failed: Device or resource busy"));
    ours(&drbdmeta, &format!("- v09 {} internal create-md 1", device.0));
    drop(device);
    let device = Loop::with(&["--find", "--show", "--read-only"], &file).unwrap();
    let step = drbdmeta.say(&format!("--force - v09 {} internal create-md 1", device.0));
    assert_eq!((step.exit, step.err.len()), (20, 1), "{step:?}");
    assert_eq!(drbdmeta.say(&format!("- v09 {} internal dstate", device.0)).out, ["Inconsistent"]);
}
