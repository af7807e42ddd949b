//! What drbdmeta does not do, and that nothing has changed on disk afterwards; and the files it shares with the daemon.

use drbd_tests::drbdmeta::Drbdmeta;
use drbd_tests::transcript::Step;
use nix::fcntl::{fcntl, FcntlArg};
use nix::pty::openpty;
use std::fs::{read_to_string, write, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const DISK: u64 = 8 * MIB;
const SUPER_BLOCK: u64 = DISK - 4096;
const LOG: u64 = SUPER_BLOCK - 32768;

/// A small image with fresh metadata.
fn created(test: &str, create: &str) -> Drbdmeta {
    let drbdmeta = Drbdmeta::new(test);
    drbdmeta.blank("disk", DISK);
    let made = drbdmeta.say(create);
    assert_eq!(made.exit, 0, "{made:?}");
    drbdmeta
}

fn patch(drbdmeta: &Drbdmeta, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(drbdmeta.path("disk")).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Runs a command that must leave the disk alone.
fn unchanged(drbdmeta: &Drbdmeta, line: &str) -> Step {
    let bytes = || std::fs::read(drbdmeta.path("disk")).unwrap();
    let before = bytes();
    let step = drbdmeta.say(line);
    assert!(before == bytes(), "{line} wrote to the disk");
    step
}

const ALL: [&str; 10] = [
    "dstate",
    "dump-md",
    "apply-al",
    "get-gi --node-id 0",
    "show-gi --node-id 0",
    "set-gi --node-id 0 4:4",
    "outdate",
    "invalidate",
    "write-dev-uuid 4",
    "repair-md",
];

#[test]
fn a_broken_magic_is_no_metadata() {
    let drbdmeta = created("magic", "- v09 disk internal create-md 1");
    patch(&drbdmeta, SUPER_BLOCK + 60, &[0x13]);
    for verb in ALL {
        let step = unchanged(&drbdmeta, &format!("--force - v09 disk internal {verb}"));
        assert_eq!(step.exit, 1, "{step:?}");
        assert!(step.err.is_empty() || step.err == ["No valid meta data found"], "{step:?}");
    }
}

#[test]
fn damage_is_named_in_one_sentence() {
    let drbdmeta = created("damage", "- v09 disk internal create-md 1");
    patch(&drbdmeta, SUPER_BLOCK + 88, &[0, 0, 0, 77]);
    for verb in ALL {
        let step = unchanged(&drbdmeta, &format!("--force - v09 disk internal {verb}"));
        let sentence =
            "No valid meta data found on disk: the super block is damaged: max-peers is 77, expected 1 to 31";
        assert_eq!((step.exit, step.err.as_slice()), (1, &[sentence.to_owned()][..]), "{verb}");
    }
}

#[test]
fn metadata_of_another_size_is_named() {
    let drbdmeta = created("size", "- v09 disk internal create-md 1");
    let mut block = [0; 4096];
    let file = OpenOptions::new().read(true).write(true).open(drbdmeta.path("disk")).unwrap();
    file.read_exact_at(&mut block, SUPER_BLOCK).unwrap();
    file.set_len(1024 * MIB).unwrap();
    file.write_all_at(&block, 1024 * MIB - 4096).unwrap();
    let step = drbdmeta.say("- v09 disk internal dstate");
    assert_eq!(step.exit, 1);
    let sentence = "No valid meta data found on disk: the metadata was made for a device of another size: \
        of up to 134217728 bytes, this one has 1073741824 (bm_offset is -72, not -128); \
        give the device its old size back, or make new metadata with create-md";
    assert_eq!(step.err[0], sentence);
    assert_eq!(step.err.len(), 1);
}

#[test]
fn a_log_that_cannot_be_read_is_not_applied() {
    let drbdmeta = created("log", "- v09 disk internal create-md 1");
    // CONSISTENT, PRIMARY_IND, WAS_UP_TO_DATE; not AL_CLEAN.
    patch(&drbdmeta, SUPER_BLOCK + 56, &[0, 0, 0, 0x13]);
    patch(&drbdmeta, LOG + 20, &[1]);
    patch(&drbdmeta, LOG + 4096 + 20, &[1]);
    let step = unchanged(&drbdmeta, "- v09 disk internal apply-al");
    assert_eq!(step.exit, 2, "{step:?}");
    assert_eq!(step.err[0], "2 corrupt AL transactions found");
    assert!(step.err[2].contains("invalidate this disk"));
    patch(&drbdmeta, LOG, &[0; 32768]);
    assert_eq!(unchanged(&drbdmeta, "- v09 disk internal apply-al").exit, 1);
    // Nobody was writing: then the log does not matter.
    patch(&drbdmeta, SUPER_BLOCK + 56, &[0, 0, 0, 0x11]);
    let step = drbdmeta.say("- v09 disk internal apply-al");
    assert_eq!((step.exit, step.err[1].as_str()), (0, "Error ignored, no need to apply the AL"));
    assert_eq!(drbdmeta.say("- v09 disk internal dump-md").exit, 0);
}

#[test]
fn v07_is_recognised_and_left_alone() {
    let drbdmeta = Drbdmeta::new("v07");
    drbdmeta.scratch.unpack("metadata/images.tar.zst");
    for (image, offset) in [("v07-plus-64M.img", 64 * MIB - 4096), ("v07-int-fixed-200M.img", 72 * MIB)] {
        std::fs::rename(drbdmeta.path(image), drbdmeta.path("disk")).unwrap();
        for create in ["v08 disk internal create-md", "v09 disk internal create-md 1"] {
            let step = unchanged(&drbdmeta, &format!("--force - {create}"));
            assert_eq!(step.exit, 20);
            let place =
                format!("disk has v07 metadata at byte offset {offset}, which udrbd does not convert");
            assert!(step.err.len() == 1 && step.err[0].starts_with(&place), "{step:?}");
        }
    }
    for format in ["v06", "v07"] {
        let step = drbdmeta.say(&format!("- {format} disk internal dump-md"));
        assert_eq!((step.exit, step.err.len()), (20, 1), "{step:?}");
        assert!(step.err[0].contains("neither reads nor converts"));
    }
}

#[test]
fn a_disk_that_a_daemon_holds_is_only_looked_at() {
    let drbdmeta = created("held", "- v09 disk internal create-md 1");
    let _held = hold(&drbdmeta.path("disk"));
    for verb in ["create-md 1", "outdate", "apply-al", "wipe-md"] {
        for force in ["", "--force"] {
            let step = unchanged(&drbdmeta, &format!("{force} - v09 disk internal {verb}"));
            assert_eq!((step.exit, step.err[0].as_str()), (20, "open(disk) failed: Device or resource busy"));
        }
    }
    assert_eq!(unchanged(&drbdmeta, "- v09 disk internal dstate").exit, 20);
    assert_eq!(unchanged(&drbdmeta, "--force - v09 disk internal dstate").out, ["Inconsistent"]);
}

#[test]
fn the_slots_of_a_metadata_device_are_held_one_by_one() {
    let drbdmeta = Drbdmeta::new("slots");
    drbdmeta.blank("disk", 400 * MIB);
    let file = OpenOptions::new().read(true).write(true).open(drbdmeta.path("disk")).unwrap();
    lock(&file, 128 * MIB, 128 * MIB);
    for (slot, exit) in [(0, 0), (1, 20), (2, 0)] {
        assert_eq!(drbdmeta.say(&format!("--force - v09 disk {slot} create-md 1")).exit, exit, "slot {slot}");
    }
}

fn hold(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    lock(&file, 0, 0);
    file
}

fn lock(file: &File, start: u64, len: u64) {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start as i64,
        l_len: len as i64,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
}

#[test]
fn an_attached_minor_is_only_looked_at() {
    let drbdmeta = created("attached", "5 v09 disk internal create-md 1");
    for answer in ["UpToDate", "Inconsistent/DUnknown", "Negotiating"] {
        drbdmeta.drbdsetup_says(&format!("test \"$*\" = 'dstate 5' && echo {answer}"));
        let step = unchanged(&drbdmeta, "--force 5 v09 disk internal create-md 1");
        assert_eq!((step.exit, step.err.len()), (20, 2));
        assert_eq!(step.err[0], "Device '5' is configured!");
        assert!(step.err[1].contains("drbdadm detach it first"), "{step:?}");
        let step = drbdmeta.say("/dev/drbd5 v09 disk internal dstate");
        assert_eq!(
            (step.exit, step.err[0].as_str()),
            (0, "# Output might be stale, since minor 5 is attached")
        );
    }
    for answer in ["echo Diskless", "echo Unconfigured", "exit 10", "exit 20"] {
        drbdmeta.drbdsetup_says(answer);
        assert_eq!(drbdmeta.say("5 v09 disk internal invalidate").exit, 0);
    }
    drbdmeta.drbdsetup_says("echo what");
    let step = unchanged(&drbdmeta, "5 v09 disk internal invalidate");
    assert_eq!((step.exit, step.err[0].as_str()), (20, "Unexpected output from drbdsetup >what<"));
}

#[test]
fn a_minor_is_locked_and_its_device_remembered() {
    let drbdmeta = created("minor", "5 v09 disk internal create-md 1");
    let remembered = drbdmeta.path("run/state/drbd-minor-5.lkbd");
    assert_eq!(read_to_string(&remembered).unwrap(), "8388608\tdisk\n");
    drbdmeta.say("5 v09 disk internal write-dev-uuid ABCDEF0123456789");
    assert_eq!(read_to_string(&remembered).unwrap(), "8388608\tdisk\nuuid:\tABCDEF0123456789\n");
    assert_eq!(drbdmeta.say("5 v09 disk internal read-dev-uuid").out, ["ABCDEF0123456789"]);
    let path = drbdmeta.path("run/lock/drbd-147-5");
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    lock(&file, 0, 0);
    let step = unchanged(&drbdmeta, "5 v09 disk internal invalidate");
    assert_eq!(step.exit, 20);
    assert!(step.err[0].contains("currently held by pid"), "{step:?}");
    drop(file);
    assert_eq!(drbdmeta.say("--force 5 v09 disk internal wipe-md").exit, 0);
    assert!(!remembered.exists());
}

#[test]
fn told_v09_it_works_on_v08_with_one_note() {
    let drbdmeta = created("v08", "- v08 disk internal create-md");
    for (verb, out) in [
        ("dstate", "Inconsistent"),
        (
            "get-gi --node-id 3",
            "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:0:0:0:0",
        ),
        ("read-dev-uuid", "0000000000000000"),
    ] {
        let step = drbdmeta.say(&format!("- v09 disk internal {verb}"));
        assert_eq!((step.exit, step.out[0].as_str()), (0, out));
        assert_eq!(step.err, ["# disk has v08 meta data, working on that"]);
    }
    assert_eq!(drbdmeta.say("- v09 disk internal invalidate").exit, 0);
    assert_eq!(drbdmeta.say("- v08 disk internal get-gi").out[0].rsplit(':').nth(2), Some("1"));
    let v09 = created("v09", "- v09 disk internal create-md 1");
    let step = unchanged(&v09, "- v08 disk internal outdate");
    assert_eq!(step.err, ["No valid meta data found on disk: v08 was asked for, there is v09"]);
}

#[test]
fn what_cannot_be_metadata_is_refused() {
    let drbdmeta = created("small", "- v09 disk internal create-md 1");
    drbdmeta.blank("small", 65536);
    let step = drbdmeta.say("- v09 small internal create-md 1");
    assert_eq!((step.exit, step.err[0].as_str()), (10, "small is only 65536 bytes. That's not enough."));
    drbdmeta.blank("slot", 100 * MIB);
    let step = drbdmeta.say("- v09 slot 0 create-md 1");
    assert_eq!(step.exit, 10);
    assert!(step.err[0].contains("has only 104857600 bytes"), "{step:?}");
    let step = drbdmeta.say("- v09 /dev/null internal create-md 1");
    assert_eq!((step.exit, step.err.len()), (20, 1));
    let step = unchanged(&drbdmeta, "--force - v09 disk internal create-md 1 --effective-size 1G");
    assert_eq!(step.exit, 10);
    write(drbdmeta.path("small"), [7; 64]).unwrap();
    assert_eq!(drbdmeta.say("- v09 small internal dump-md").exit, 10);
}

#[test]
fn a_file_system_is_asked_about_and_kept() {
    let drbdmeta = Drbdmeta::new("filesystem");
    drbdmeta.blank("disk", DISK);
    patch(&drbdmeta, 0x404, &4096_u32.to_le_bytes());
    patch(&drbdmeta, 0x438, &[0x53, 0xEF]);
    let step = unchanged(&drbdmeta, "- v09 disk internal create-md 1");
    assert_eq!((step.exit, step.out.last().map(String::as_str)), (1, Some("Operation canceled.")));
    assert_eq!(step.err.last().map(String::as_str), Some("stdin not a TTY, not waiting for confirmation"));
}

#[test]
fn on_a_terminal_yes_is_yes_and_all_else_is_no() {
    let drbdmeta = created("terminal", "- v09 disk internal create-md 1");
    for (answer, exit) in [("no\n", 1), ("y\n", 1), ("yes please\n", 1), ("yes\n", 0)] {
        let terminal = openpty(None, None).unwrap();
        let words: Vec<String> = "- v09 disk internal wipe-md".split(' ').map(str::to_owned).collect();
        let mut command = drbdmeta.command(&words);
        let child =
            command.stdin(terminal.slave).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        File::from(terminal.master.try_clone().unwrap()).write_all(answer.as_bytes()).unwrap();
        let step = Step::of(&words, &child.wait_with_output().unwrap());
        assert_eq!(step.exit, exit, "{answer:?}");
        assert_eq!(step.err[2], "[need to type 'yes' to confirm] ");
    }
}

/// Killed anywhere, create-md leaves the old metadata, none, or the new; never something between.
#[test]
fn create_md_killed_in_the_middle_leaves_no_half() {
    let drbdmeta = Drbdmeta::new("killed");
    drbdmeta.blank("disk", 256 << 30);
    let create = "--force - v09 disk internal create-md -b pwrite 7";
    assert_eq!(drbdmeta.say(create).exit, 0);
    let dump = || drbdmeta.say("- v09 disk internal dump-md").out.split_off(3);
    let whole = dump();
    assert_eq!(drbdmeta.say("- v09 disk internal write-dev-uuid 1").exit, 0);
    let mut seen_nothing = false;
    let delays_ms = [1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 130, 200, 300];
    // How fast the machine is decides which of them is in the middle.
    for (n, delay_ms) in delays_ms.into_iter().cycle().take(42).enumerate() {
        if seen_nothing && n > 8 {
            break;
        }
        let words: Vec<String> = create.split(' ').map(str::to_owned).collect();
        let mut command = drbdmeta.command(&words);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let step = drbdmeta.say("- v09 disk internal dstate");
        seen_nothing |= step.exit == 1;
        if step.exit == 0 {
            let now = dump();
            let old = now.iter().any(|line| line == "device-uuid 0x0000000000000001;");
            assert!(old || now == whole, "half of it after {delay_ms} ms");
        } else {
            assert_eq!(step.err, ["No valid meta data found"]);
        }
    }
    assert!(seen_nothing, "never killed in the middle");
}
