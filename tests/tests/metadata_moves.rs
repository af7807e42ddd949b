//! Internal metadata on a device that has grown while nobody used it: found where the end was, moved, the same as before.

use drbd_tests::drbdmeta::Drbdmeta;
use std::fs::OpenOptions;
use std::path::Path;

const MIB: u64 = 1 << 20;
const IMAGE: &str = "v09-int-64M-p2-bits.img";

fn grow(path: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// A dump without what depends on the place and the size of the device.
fn dumped(drbdmeta: &Drbdmeta, name: &str) -> Vec<String> {
    let dump = drbdmeta.say(&format!("- v09 {name} internal dump-md --force"));
    assert_eq!(dump.exit, 0, "{dump:?}");
    let differs =
        |line: &str| line.starts_with('#') || line.contains("_offset") || line.contains("md_size_sect");
    dump.out.into_iter().filter(|line| !differs(line)).collect()
}

#[test]
fn what_drbd_utils_recorded() {
    let drbdmeta = Drbdmeta::new("moved");
    let disk = drbdmeta.blank("disk", 64 * MIB);
    assert_eq!(drbdmeta.say("--force 77 v08 disk internal create-md").exit, 0);
    let known = || std::fs::read_to_string(drbdmeta.path("run/state/drbd-minor-77.lkbd")).unwrap();
    assert!(known().starts_with("67108864\tdisk\n"), "{}", known());
    grow(&disk, 128 * MIB);
    let nothing = drbdmeta.say("77 v08 disk internal dstate");
    assert_eq!((nothing.exit, nothing.err), (1, vec!["No valid meta data found".to_owned()]));
    let moved = drbdmeta.say("77 v08 disk internal check-resize");
    assert_eq!(moved.exit, 0);
    assert_eq!(moved.err, ["Moving the internal meta data to its proper location"]);
    assert_eq!(moved.out, ["Internal drbd meta data successfully moved."]);
    assert!(known().starts_with("134217728\tdisk\n"), "{}", known());
    let again = drbdmeta.say("77 v08 disk internal check-resize");
    assert_eq!((again.exit, again.out.len(), again.err.len()), (0, 0, 0));
}

#[test]
fn nothing_is_lost_however_little_it_grew() {
    for more in [4096, 12 << 10, 36 << 10, 44 << 10, MIB, 64 * MIB] {
        let drbdmeta = Drbdmeta::new("moved-bits");
        drbdmeta.scratch.unpack("metadata/images.tar.zst");
        let path = drbdmeta.path(IMAGE);
        // It becomes known where it is.
        let known = drbdmeta.say(&format!("7 v09 {IMAGE} internal check-resize"));
        assert_eq!(known.exit, 0, "{known:?}");
        let before = dumped(&drbdmeta, IMAGE);
        grow(&path, 64 * MIB + more);
        let moved = drbdmeta.say(&format!("7 v09 {IMAGE} internal check-resize"));
        assert_eq!(moved.exit, 0, "{more} bytes more: {moved:?}");
        assert_eq!(dumped(&drbdmeta, IMAGE), before, "{more} bytes more");
    }
}

#[test]
fn apply_al_moves_it_as_well() {
    let drbdmeta = Drbdmeta::new("moved-log");
    let disk = drbdmeta.blank("disk", 64 * MIB);
    assert_eq!(drbdmeta.say("--force 3 v09 disk internal create-md 1").exit, 0);
    grow(&disk, 65 * MIB);
    let applied = drbdmeta.say("3 v09 disk internal apply-al");
    assert_eq!(applied.exit, 0, "{applied:?}");
    assert_eq!(drbdmeta.say("3 v09 disk internal dstate").exit, 0);
}

#[test]
fn what_cannot_move_is_refused() {
    let drbdmeta = Drbdmeta::new("not-moved");
    drbdmeta.blank("disk", 8 * MIB);
    let none = drbdmeta.say("- v08 disk internal check-resize");
    assert_eq!((none.exit, none.err), (1, vec!["no suitable meta data found :(".to_owned()]));
    let external = drbdmeta.say("- v08 disk flex-external check-resize");
    let text = "Operation only supported for >= v8 internal meta data";
    assert_eq!((external.exit, external.err), (1, vec![text.to_owned()]));
    // Another device has been there under that minor.
    let disk = drbdmeta.blank("other", 16 * MIB);
    assert_eq!(drbdmeta.say("--force 5 v08 other internal create-md").exit, 0);
    grow(&disk, 32 * MIB);
    std::fs::rename(&disk, drbdmeta.path("third")).unwrap();
    assert_eq!(drbdmeta.say("5 v08 third internal check-resize").exit, 1);
}
