//! drbdmeta against recordings of DRBD's own: dumps of its images, and its sessions replayed.
//!
//! Recorded with drbdmeta 9.22 and 9.34 on a loop device; here the device is a plain file. What is known to differ is
//! named in [`agreed`] and [`KNOWN`].

use drbd_tests::drbdmeta::Drbdmeta;
use drbd_tests::transcript::{parse, Section, Step};
use std::fs::{read_dir, read_to_string, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// Texts of 9.22 that 9.34 or udrbd words otherwise, with ours.
const KNOWN: [(&str, &str); 2] = [
    ("'(null)' is not a number.", "'zz' is not a number."),
    // 9.34 counts only peers without flags as never used.
    ("Copying bitmap slot -1 to -1", "Setting all bits in slot -1"),
];

fn goldens(test: &str) -> Drbdmeta {
    let drbdmeta = Drbdmeta::new(test);
    drbdmeta.scratch.unpack("metadata/images.tar.zst");
    drbdmeta.scratch.unpack("metadata/texts.tar.zst");
    drbdmeta
}

fn names(dir: &Path, suffix: &str) -> Vec<String> {
    let entries = read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        entries.filter_map(|name| name.strip_suffix(suffix).map(str::to_owned)).collect();
    names.sort();
    names
}

/// Format and index words of an image, from its name.
fn placement(name: &str) -> (&'static str, &'static str) {
    let last = name.rsplit("-to-").next().unwrap();
    let format = if last.starts_with("v08") { "v08" } else { "v09" };
    let index = match name {
        _ if name.contains("flexext") => "flex-external",
        _ if name.contains("idx0") => "0",
        _ if name.contains("idx2") => "2",
        _ => "internal",
    };
    (format, index)
}

fn from_version(lines: &[String]) -> Vec<String> {
    lines.iter().skip_while(|line| !line.starts_with("version")).cloned().collect()
}

#[test]
fn dumps_of_all_images_are_golden() {
    let drbdmeta = goldens("dumps");
    let images = names(drbdmeta.scratch.path(), ".img");
    let mut compared = 0;
    for name in images.iter().filter(|name| !name.starts_with("v07")) {
        let (format, index) = placement(name);
        let dump = drbdmeta.say(&format!("--force - {format} {name}.img {index} dump-md"));
        let golden = |suffix: &str| read_to_string(drbdmeta.path(&format!("{name}.{suffix}"))).ok();
        let (golden, is_922) = match golden("dump-9.34.txt") {
            Some(text) => (text, false),
            None => (golden("dump.txt").or_else(|| golden("forced-dump.txt")).unwrap_or_default(), true),
        };
        if golden.is_empty() {
            continue;
        }
        let golden = from_version(&golden.lines().map(str::to_owned).collect::<Vec<_>>());
        let mut ours = from_version(&dump.out);
        if is_922 {
            ours = as_922(&ours);
        }
        assert_eq!(ours.join("\n"), golden.join("\n"), "{name}");
        assert_eq!(dump.exit, 0, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 33, "images were lost");
}

/// drbdmeta 9.22 prints no members, and no flags of v08.
fn as_922(lines: &[String]) -> Vec<String> {
    let is_v08 = lines.first().is_some_and(|line| line.contains("v08"));
    let kept = lines.iter().filter(|line| !line.starts_with("members "));
    kept.map(|line| match line.starts_with("    flags ") && is_v08 {
        true => "    flags 0x00000000;".to_owned(),
        false => line.clone(),
    })
    .collect()
}

/// What both sides are compared by.
fn agreed(step: &Step, image: &str) -> Step {
    let mut step = step.clone();
    let plain = |line: &String| line.replace(image, "/dev/loop0");
    step.out = step.out.iter().map(plain).collect();
    step.err = step.err.iter().map(plain).collect();
    let external = !step.words.iter().any(|word| word.contains("internal"));
    step.err.retain(|line| {
        // Our own notes; how the bitmap was zeroed depends on the file system; pvs has its own opinions.
        !line.starts_with("# ") && !line.ends_with("using pwrite") && !line.starts_with("pvs stderr")
    });
    for line in &mut step.err {
        for (old, new) in KNOWN {
            *line = line.replace(old, new);
        }
        if external && line.starts_with("initializing bitmap") {
            // 9.22 thought of 4 KiB, 9.34 of the whole area.
            *line = "initializing bitmap".to_owned();
        }
    }
    if step.words.iter().any(|word| word == "dump-md") && step.exit == 0 {
        step.out = as_922(&from_version(&step.out));
    }
    step
}

/// Runs a recorded step on an image and compares.
fn replay(drbdmeta: &Drbdmeta, recorded: &Step, image: &str) {
    let image = drbdmeta.path(image);
    let image = image.to_str().unwrap();
    let words: Vec<String> =
        recorded.words[1..].iter().map(|word| word.replace("/dev/loop0", image)).collect();
    let ours = drbdmeta.run(&words);
    let (mut ours, recorded) = (agreed(&ours, image), agreed(recorded, image));
    ours.words.clone_from(&recorded.words);
    assert_eq!(ours, recorded);
}

fn transcript(drbdmeta: &Drbdmeta, name: &str) -> Vec<Section> {
    parse(&read_to_string(drbdmeta.path(name)).unwrap())
}

/// First and last MiB, and the one where slot 2 begins: all that is ever written in the samples but zeroes.
fn assert_same_metadata(left: &Path, right: &Path) {
    let (left_file, right_file) = (File::open(left).unwrap(), File::open(right).unwrap());
    let size = left_file.metadata().unwrap().len();
    assert_eq!(size, right_file.metadata().unwrap().len(), "{}", left.display());
    for start in [0, 256 * MIB, size.saturating_sub(MIB)].into_iter().filter(|start| *start < size) {
        let mut bytes = [vec![0; MIB as usize], vec![0; MIB as usize]];
        left_file.read_at(&mut bytes[0], start).unwrap();
        right_file.read_at(&mut bytes[1], start).unwrap();
        assert!(bytes[0] == bytes[1], "{} differs from {}", left.display(), right.display());
    }
}

#[test]
fn recorded_sessions_end_in_the_same_image() {
    let drbdmeta = goldens("sessions");
    let mut replayed = 0;
    for name in names(drbdmeta.scratch.path(), ".log") {
        let sections = if name.contains("v07")
            || name == "errors"
            || name.ends_with("bmbs64k")
            || name.ends_with("effsize")
        {
            continue;
        } else {
            transcript(&drbdmeta, &format!("{name}.log"))
        };
        let steps: Vec<&Step> = sections.iter().flat_map(|section| &section.steps).collect();
        let own = drbdmeta.path(&format!("{name}.img"));
        let (start, end) = match name.as_str() {
            "conv-v08-to-v09" => (Some(drbdmeta.path("v08-int-64M-setgi.img")), Some(own)),
            "conv-v09-to-v08" => (Some(drbdmeta.path("v09-int-64M-p2-setgi.img")), Some(own)),
            "v09-int-64M-p2-als4x64k-al-crashed" => (Some(own), None),
            _ if name.ends_with("al-crashed") => {
                (Some(own), Some(drbdmeta.path(&format!("{name}-applied.img"))))
            }
            _ => (None, Some(own)),
        };
        let work = drbdmeta.path("work.img");
        match (&start, &end) {
            (Some(start), _) => copy_sparse(start, &work),
            (None, Some(end)) => drop(drbdmeta.blank("work.img", std::fs::metadata(end).unwrap().len())),
            (None, None) => unreachable!(),
        }
        for step in steps {
            replay(&drbdmeta, step, "work.img");
        }
        if name.ends_with("bits") {
            // restore-md of DRBD leaves the log as it finds it, here as zeroes; ours initialises it.
            write_at(&work, 64 * MIB - 4096 - 32768, &[0; 32768]);
        }
        match end {
            Some(end) => assert_same_metadata(&work, &end),
            None => assert_dump_after_apply(&drbdmeta, &name),
        }
        std::fs::remove_file(&work).unwrap();
        replayed += 1;
    }
    assert_eq!(replayed, 29, "sessions were lost");
}

fn assert_dump_after_apply(drbdmeta: &Drbdmeta, name: &str) {
    let golden = read_to_string(drbdmeta.path(&format!("{name}.after-apply.dump.txt"))).unwrap();
    let golden = from_version(&golden.lines().map(str::to_owned).collect::<Vec<_>>());
    let ours = drbdmeta.say("- v09 work.img internal dump-md");
    assert_eq!(as_922(&from_version(&ours.out)).join("\n"), golden.join("\n"), "{name}");
}

fn copy_sparse(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("--sparse=always").args([from, to]).status().unwrap();
    assert!(copied.success());
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Puts on the device what a section of errors.log found there.
fn prepare(drbdmeta: &Drbdmeta, title: &str) {
    let keeps = ["outdate / invalidate", "same for v09", "device busy", "usage errors"];
    if keeps.iter().any(|start| title.starts_with(start)) {
        return;
    }
    let path = drbdmeta.blank("work.img", 64 * MIB);
    let ext = |blocks: u32| {
        write_at(&path, 0x404, &blocks.to_le_bytes());
        write_at(&path, 0x438, &[0x53, 0xEF]);
        write_at(&path, 0x45c, &[4]);
    };
    match title {
        "existing data: ext4 filling the device, internal"
        | "existing data: external index / flex-external" => ext(65536),
        "existing data: ext4 smaller than usable size" => ext(61440),
        "existing data: random bytes" => write_at(&path, 12345, b"something"),
        "existing data: swap" => write_at(&path, 4086, b"SWAPSPACE2"),
        "existing data: LVM2 signature, no pvs binary" => write_at(&path, 0x218, b"LVM2 001"),
        "existing data: xfs signature larger than usable" => {
            write_at(&path, 0, b"XFSB\0\0\x10\0\0\0\0\0\0\0\x40\0");
        }
        _ => {}
    }
}

#[test]
fn a_restored_dump_is_dumped_again_the_same() {
    let drbdmeta = goldens("round-trip");
    let mut restored = 0;
    for name in names(drbdmeta.scratch.path(), ".img").iter().filter(|name| !name.starts_with("v07")) {
        let (format, index) = placement(name);
        let image = drbdmeta.path(&format!("{name}.img"));
        let dump = drbdmeta.say(&format!("- {format} {name}.img {index} dump-md"));
        if dump.exit != 0 {
            // Unclean: not to be restored, and its forced dump is made so that it cannot be.
            let forced = drbdmeta.say(&format!("--force - {format} {name}.img {index} dump-md"));
            std::fs::write(drbdmeta.path("dump"), forced.out.join("\n")).unwrap();
            let refused = drbdmeta.say(&format!("--force - {format} {name}.img {index} restore-md dump"));
            assert_eq!(refused.exit, 10, "{name}");
            assert!(
                refused.err[0].contains("unknown token: This_is_an_unclean_meta_data_dump"),
                "{refused:?}"
            );
            continue;
        }
        std::fs::write(drbdmeta.path("dump"), dump.out.join("\n")).unwrap();
        drbdmeta.blank("work.img", std::fs::metadata(&image).unwrap().len());
        let step = drbdmeta.say(&format!("- {format} work.img {index} restore-md dump"));
        assert_eq!((step.exit, step.out), (0, vec!["Successfully restored meta data".to_owned()]), "{name}");
        let again = drbdmeta.say(&format!("- {format} work.img {index} dump-md"));
        assert_eq!(from_version(&again.out).join("\n"), from_version(&dump.out).join("\n"), "{name}");
        restored += 1;
    }
    assert!(restored >= 27, "only {restored}: images were lost");
}

#[test]
fn a_dump_is_restored_on_a_device_of_another_size() {
    let drbdmeta = goldens("resized");
    let name = "v09-int-64M-p2-bits";
    let dump = drbdmeta.say(&format!("- v09 {name}.img internal dump-md"));
    std::fs::write(drbdmeta.path("dump"), dump.out.join("\n")).unwrap();
    // Larger: all of it is there, elsewhere. With other stripes as well.
    drbdmeta.blank("work.img", 1024 * MIB);
    let step = drbdmeta.say("-s 4 -z 64 - v09 work.img internal restore-md dump");
    assert_eq!((step.exit, step.err[0].as_str()), (0, "reinitializing"), "{step:?}");
    assert_eq!(step.err[1], "override activity log striping from commandline");
    let again = drbdmeta.say("- v09 work.img internal dump-md");
    assert!(again.out.contains(&"al-stripes 4;".to_owned()), "{again:?}");
    let bitmaps =
        |step: &Step| step.out[step.out.iter().position(|l| l.starts_with("# bm-bytes")).unwrap()..].to_vec();
    assert_eq!(bitmaps(&again), bitmaps(&dump));
    // Smaller: cut off, and said so.
    drbdmeta.blank("work.img", MIB);
    let step = drbdmeta.say("- v09 work.img internal restore-md dump");
    assert_eq!(step.exit, 0, "{step:?}");
    assert!(step.out[0].starts_with("# la-size-sect was too big (130944), truncated ("), "{step:?}");
    assert_eq!(drbdmeta.say("- v09 work.img internal dump-md").exit, 0);
}

#[test]
fn a_dump_that_cannot_be_restored_changes_nothing() {
    let drbdmeta = goldens("no-restore");
    let image = "v09-int-64M-p2-bits.img";
    let before = std::fs::read(drbdmeta.path(image)).unwrap();
    let dump = drbdmeta.say(&format!("- v09 {image} internal dump-md")).out.join("\n");
    let refused = |dump: &str, exit: i32, sentence: &str| {
        std::fs::write(drbdmeta.path("dump"), dump).unwrap();
        let step = drbdmeta.say(&format!("--force - v09 {image} internal restore-md dump"));
        assert_eq!(step.exit, exit, "{step:?}");
        assert!(step.err.iter().any(|line| line.contains(sentence)), "{sentence}: {step:?}");
        assert!(std::fs::read(drbdmeta.path(image)).unwrap() == before, "{sentence}: something was written");
    };
    refused(&dump[..dump.find("la-size-sect").unwrap()], 10, "but end of file encountered");
    refused(&dump.replace("bitmap[1]", "bitmap[0]"), 10, "Expected peer slot 1 but found 0");
    refused(&dump.replace("peer[7]", "peer[6]"), 10, "Peer slot 6 defined multiple times");
    refused(&dump.replace("peer[7]", "peer[32]"), 10, "Slot 32 out of range");
    refused(&dump.replace("max-peers 2", "max-peers 32"), 10, "max-peers is 32, expected 1 to 31");
    refused(&dump.replace("bitmap-index 1;", "bitmap-index 0;"), 10, "a slot that no other peer has");
    refused(&dump.replace("node-id 0;", "node-id 32;"), 10, "node-id is 32, expected -1 to 31");
    refused(&dump.replace("max-peers 2", "max-peers -2"), 10, "-2 is out of range");
}

#[test]
fn refusals_read_as_recorded() {
    let drbdmeta = goldens("refusals");
    let mut replayed = 0;
    for section in transcript(&drbdmeta, "errors.log") {
        prepare(&drbdmeta, &section.title);
        let busy = section.title.starts_with("device busy").then(|| hold(&drbdmeta.path("work.img")));
        for (n, step) in section.steps.iter().enumerate() {
            match (section.title.as_str(), n) {
                // The one deliberate deviation: plain files are taken like devices.
                ("plain file without and with --force", _) => continue,
                // A slot that the device cuts off: DRBD makes the metadata and then cannot attach it.
                ("too small", 3) => continue,
                ("too small", _) => {
                    let sizes = [65536, 69632, 69632, 0, 100 * MIB];
                    if n != 2 {
                        drbdmeta.blank("work.img", sizes[n]);
                    }
                }
                // Other programs.
                (_, _) if step.words[0] != "drbdmeta" => continue,
                (_, _) => {}
            }
            replay(&drbdmeta, step, "work.img");
            replayed += 1;
        }
        drop(busy);
    }
    assert_eq!(replayed, 81, "steps were lost");
}

/// Holds a file as a daemon does that has it attached.
fn hold(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file
}
