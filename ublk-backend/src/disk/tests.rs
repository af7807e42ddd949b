use super::*;
use drbd_core::metadata::{Format, Layout};
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("udrbd-disk-{}-{name}", std::process::id()))
}

/// A file of 4 MiB with fresh internal v08 metadata.
fn with_metadata(name: &str) -> PathBuf {
    let path = path(name);
    let bytes = 4 << 20;
    let file = File::create(&path).unwrap();
    file.set_len(bytes).unwrap();
    let geometry = drbd_core::metadata::Geometry::usual(1);
    let layout = Layout::new(Index::Internal, bytes, &geometry).unwrap();
    let super_block = SuperBlock::fresh(Format::V08, &layout, &geometry);
    let mut block = [0; 4096];
    super_block.encode(&mut block);
    file.write_all_at(&block, layout.super_block_offset_bytes).unwrap();
    path
}

fn open_internal(path: &Path) -> Result<Opened, Refusal> {
    let name = path.to_str().unwrap();
    open(name, "internal", "internal", None)
}

#[test]
fn a_file_with_metadata_is_opened_once() {
    let path = with_metadata("once");
    let opened = open_internal(&path).unwrap();
    assert_eq!(opened.loaded.super_block.format, Format::V08);
    assert!(opened.limits.capacity.bytes() < 4 << 20);
    assert!(!opened.limits.external_metadata);
    let refusal = open_internal(&path).unwrap_err();
    assert_eq!(refusal.reason, Reason::DiskClaimed);
    assert!(refusal.info.contains("in use"), "{}", refusal.info);
    drop(opened);
    open_internal(&path).unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_cannot_be_attached_is_told_apart() {
    let missing = open_internal(&path("missing")).unwrap_err();
    assert_eq!(missing.reason, Reason::OpenDisk);
    assert!(missing.info.contains("No such file"), "{}", missing.info);
    let directory = open_internal(&std::env::temp_dir()).unwrap_err();
    assert_eq!(directory.reason, Reason::DiskNotBlockDevice);
    let small = path("small");
    File::create(&small).unwrap().set_len(4096).unwrap();
    assert_eq!(open_internal(&small).unwrap_err().reason, Reason::DiskTooSmall);
    let bare = path("bare");
    File::create(&bare).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(open_internal(&bare).unwrap_err().reason, Reason::MetadataInvalid);
    std::fs::remove_file(small).unwrap();
    std::fs::remove_file(bare).unwrap();
}

#[test]
fn the_index_must_fit_the_place() {
    let path = with_metadata("index");
    let name = path.to_str().unwrap();
    assert_eq!(open(name, "internal", "flexible", None).unwrap_err().reason, Reason::MetaIndexInvalid);
    assert_eq!(open(name, name, "nonsense", None).unwrap_err().reason, Reason::MetaIndexInvalid);
    assert_eq!(open(name, "/nonexistent", "flexible", None).unwrap_err().reason, Reason::OpenMetaDisk);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn metadata_of_another_size_is_told() {
    let path = with_metadata("moved");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut block = vec![0; 4096];
    file.read_exact_at(&mut block, (4 << 20) - 4096).unwrap();
    file.set_len(300 << 20).unwrap();
    file.write_all_at(&block, (300 << 20) - 4096).unwrap();
    let refusal = open_internal(&path).unwrap_err();
    assert_eq!(refusal.reason, Reason::MetadataInvalid);
    assert!(refusal.info.contains("another size"), "{}", refusal.info);
    std::fs::remove_file(path).unwrap();
}
