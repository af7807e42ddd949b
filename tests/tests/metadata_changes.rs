//! What drbdmeta changes beyond the recorded sessions: repairs, conversions between the formats, options of create-md.

use drbd_tests::drbdmeta::Drbdmeta;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

const MIB: u64 = 1 << 20;

#[test]
fn day_0_uuids_are_made_equal_again() {
    let drbdmeta = Drbdmeta::new("repair");
    let disk = drbdmeta.blank("disk", 8 * MIB);
    assert_eq!(drbdmeta.say("- v09 disk internal create-md 1 --rotate-uuids").exit, 0);
    let file = OpenOptions::new().read(true).write(true).open(&disk).unwrap();
    let peer_3 = 8 * MIB - 4096 + 112 + 3 * 32;
    let mut expected = [0; 8];
    file.read_exact_at(&mut expected, peer_3).unwrap();
    file.write_all_at(&0xABCD_u64.to_be_bytes(), peer_3).unwrap();
    let complaint = format!(
        "Peer slot 3 has \"day0\" UUID 0x000000000000ABCD, expected 0x{:016X}",
        u64::from_be_bytes(expected)
    );
    let before = std::fs::read(&disk).unwrap();
    let tentative = drbdmeta.say("- v09 disk internal repair-md --tentative");
    assert_eq!((tentative.exit, tentative.err), (1, vec![complaint.clone()]));
    assert!(before == std::fs::read(&disk).unwrap());
    let repaired = drbdmeta.say("- v09 disk internal repair-md");
    assert_eq!((repaired.exit, repaired.err), (0, vec![complaint, "Repairing metadata".to_owned()]));
    let again = drbdmeta.say("- v09 disk internal repair-md --tentative");
    assert_eq!((again.exit, again.err), (0, Vec::<String>::new()));
}

#[test]
fn several_bitmaps_become_their_union() {
    let drbdmeta = Drbdmeta::new("convert");
    drbdmeta.scratch.unpack("metadata/images.tar.zst");
    let converted = drbdmeta.say("--force - v08 v09-int-64M-p2-bits.img internal create-md");
    assert_eq!(converted.exit, 0, "{converted:?}");
    let dump = drbdmeta.say("- v08 v09-int-64M-p2-bits.img internal dump-md").out;
    let has = |line: &str| dump.iter().any(|other| other.trim_start().starts_with(line));
    // 8 bits from the second slot beside those of the first.
    assert!(
        has("0x00000FF0000000FF; 0x8000000000000001; 0x0000000000000000; 0xFFFFFFFFFFFFFFFF;"),
        "{dump:?}"
    );
    assert!(has("0x9A9A9A9A00000002;") && has("la-size-sect 130944;") && has("# bits-set 1138;"), "{dump:?}");
    // And back: one slot, the same bits.
    assert_eq!(drbdmeta.say("--force - v09 v09-int-64M-p2-bits.img internal create-md 3").exit, 0);
    let dump = drbdmeta.say("- v09 v09-int-64M-p2-bits.img internal dump-md").out;
    assert!(dump.contains(&"max-peers 1;".to_owned()) && dump.contains(&"# bits-set 1138;".to_owned()));
}

#[test]
fn declining_a_conversion_may_still_replace() {
    let drbdmeta = Drbdmeta::new("decline");
    let disk = drbdmeta.blank("disk", 8 * MIB);
    assert_eq!(drbdmeta.say("- v08 disk internal create-md").exit, 0);
    let before = std::fs::read(&disk).unwrap();
    let declined = drbdmeta.say("- v09 disk internal create-md 1");
    assert_eq!((declined.exit, declined.out.as_slice()), (1, &["Operation cancelled.".to_owned()][..]));
    assert!(before == std::fs::read(&disk).unwrap());
}

#[test]
fn options_of_create_md_are_written() {
    let drbdmeta = Drbdmeta::new("options");
    drbdmeta.blank("disk", 1024 * MIB);
    let created = drbdmeta.say(
        "- v09 disk internal create-md 2 --bitmap-block-size 64k --effective-size 60M --diskful-peers 1,2 \
         --peer-max-bio-size 128k --initial-current-uuid 8B1D2F7E6E1A7C43 --uptodate --peers-outdated \
         --initialize-bitmap set-all",
    );
    assert_eq!(created.exit, 0, "{created:?}");
    assert_eq!(created.err, ["initializing bitmap (4 KB) to all set using pwrite"]);
    let dump = drbdmeta.say("- v09 disk internal dump-md").out;
    for line in [
        "current-uuid 0x8B1D2F7E6E1A7C42;",
        "flags 0x00000091;",
        "    flags 0x00000012; # <=outdated | seen",
        "la-size-sect 122880;",
        "bm-byte-per-bit 65536;",
        "la-peer-max-bio-size 131072;",
        "    256 times 0xFFFFFFFFFFFFFFFF;",
    ] {
        assert!(dump.iter().any(|other| other == line), "{line} is not in {dump:#?}");
    }
    assert_eq!(drbdmeta.say("--force --quiet - v09 disk internal create-md 2 --dry-run").exit, 0);
    assert_eq!(drbdmeta.say("- v09 disk internal dump-md").out[5..], dump[5..], "a dry run wrote");
    let quiet = drbdmeta.say("--force --quiet - v09 disk internal wipe-md");
    assert_eq!(quiet.err, ["# --force --quiet: 1 confirmation(s) suppressed and auto-confirmed"]);
}
