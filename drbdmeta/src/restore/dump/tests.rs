use super::*;

const V08: &str = "version \"v08\";
uuid { 0x0000000000000011; 0x0000000000000022; 0x0000000000000033; 0x0000000000000044; flags 0x000000F1; }
# al-extents 257;
la-size-sect 131000; bm-byte-per-bit 4096; device-uuid 0x00000000000000DD; la-peer-max-bio-size 1048576;
al-stripes 1; al-stripe-size-4k 8;
bm { # at 0kB
    0x0000000000000001; 3 times 0x0000000000000001; 2 times 0xFFFFFFFFFFFFFFFF;
}
";

fn v08(text: &str) -> Result<Dump, Failure> {
    read(text.as_bytes(), Format::V08)
}

fn refusal(text: &str) -> String {
    let failure = v08(text).expect_err("refused");
    assert_eq!(failure.code, 10);
    failure.message
}

#[test]
fn a_dump_is_read_whole() {
    let Dump { super_block, slots } = v08(V08).expect("a good dump");
    assert_eq!((super_block.current_uuid, super_block.peers[0].bitmap_uuid), (0x11, 0x22));
    assert_eq!(super_block.history[..3], [0x33, 0x44, 0]);
    assert_eq!((super_block.flags_on_disk(), super_block.flags), (0xF1, 0xD1));
    assert_eq!((super_block.effective_size, super_block.device_uuid), (131_000, 0xDD));
    assert_eq!(slots, [vec![Run { count: 4, word: 1 }, Run { count: 2, word: u64::MAX }]]);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let cases = [
        ("version \"v08\"", "version v08", "line 1: unknown token: v08 ...\nParse error in line 1: short quoted string (\"..up to 20 characters, no newline..\") expected"),
        ("\"v08\"", "\"v09\"", "dump is 'v09' you requested 'v08'."),
        ("0x0000000000000044; flags", "0x0000000000000044 flags", "Parse error in line 2: semicolon (;) expected, not 'flags'"),
        ("0x0000000000000022", "0x22", "line 2: invalid hex number (only 8 or 16 hex digits accepted): 0x22 ...\nParse error in line 2: a 16-digit hex number expected"),
        ("flags 0x000000F1", "flags 241", "Parse error in line 2: an 8-digit hex number expected, not some number"),
        ("al-stripes 1;", "", "Parse error in line 5: keyword 'al-stripes' expected, not 'al-stripe-size-4k'"),
        ("131000", "99999999999999999999", "line 4: number too big: 99999999999999999999 ...\nParse error in line 4: number ([0-9], up to 20 digits) expected"),
        ("131000", "-1", "Parse error in line 4: -1 is out of range"),
        ("1048576", "4294967296", "Parse error in line 4: 4294967296 is out of range"),
        ("al-stripe-size-4k 8", "al-stripe-size-4k 7", "an activity log of 1 stripes of 7 blocks is outside the limits (32 KiB to 16 GiB)"),
        ("bm-byte-per-bit 4096", "bm-byte-per-bit 8192", "the super block is damaged: bm-byte-per-bit is 8192, expected 4096"),
        ("3 times", "-3 times", "Parse error in line 7: repeat count, 16-digit hex number, or closing brace (}) expected, not some number"),
        ("3 times", "&", "Parse error in line 7: repeat count, 16-digit hex number, or closing brace (}) expected; got invalid input character '\\x26' [&]"),
        (";\n}\n", ";\n", "Parse error in line 7: repeat count, 16-digit hex number, or closing brace (}) expected, but end of file encountered"),
        ("}\n", "}\nbm", "Parse error in line 9: end of file expected, not 'bm'"),
    ];
    for (old, new, sentence) in cases {
        let (before, after) = V08.rsplit_once(old).expect("part of the dump");
        assert_eq!(refusal(&format!("{before}{new}{after}")), sentence, "{old} -> {new}");
    }
    assert_eq!(refusal(""), "Parse error in line 0: keyword 'version' expected, but end of file encountered");
    let long = "x".repeat(1 << 20);
    assert_eq!(refusal(&long), "Parse error in line 1: it has more than 65536 bytes");
}

#[test]
fn no_dump_cut_off_anywhere_is_taken() {
    for end in 0..V08.trim_end().len() {
        v08(&V08[..end]).expect_err("cut off");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n]{0,200}", at in 0..V08.len()) {
        let _ = v08(&text);
        let _ = v08(&format!("{}{text}{}", &V08[..at], &V08[at..]));
    }
}
