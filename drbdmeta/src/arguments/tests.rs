use super::*;

fn parsed(line: &str) -> Result<Arguments, String> {
    let words = read(line.split_whitespace().map(OsString::from));
    let words = words.map_err(|failure| failure.map_or("usage".to_owned(), |failure| describe(&failure)))?;
    let create = words.check_values().map_err(|failure| describe(&failure))?;
    words.finish(create).map_err(|failure| describe(&failure))
}

fn describe(failure: &Failure) -> String {
    format!("{} {failure}", failure.code)
}

#[test]
fn options_may_stand_anywhere() {
    let lines = [
        "drbdmeta --force 1 v09 /dev/x internal create-md --al-stripes 2 7",
        "drbdmeta 1 v09 /dev/x internal --al-stripes=2 create-md 7 -f",
        "drbdmeta -fs2 1 v09 /dev/x internal md-create 7",
        "drbdmeta 1 --forc v09 /dev/x flex-internal create-md 7 -s 2",
    ];
    for line in lines {
        let arguments = parsed(line).unwrap();
        assert!(arguments.force && arguments.modifies, "{line}");
        assert_eq!(arguments.verb, Verb::CreateMd);
        assert_eq!((arguments.drbd_device.as_str(), arguments.format), ("1", Format::V09));
        assert_eq!((arguments.device.to_str(), arguments.index), (Some("/dev/x"), Index::Internal));
        assert_eq!((arguments.rest.as_slice(), arguments.create.al_stripes), (&["7".to_owned()][..], 2));
    }
}

#[test]
fn generations_are_words_not_options() {
    let arguments = parsed("drbdmeta - v08 /dev/x 3 set-gi ::::1:1").unwrap();
    assert_eq!(
        (arguments.rest.as_slice(), arguments.index),
        (&["::::1:1".to_owned()][..], Index::Indexed(3))
    );
    assert_eq!(arguments.drbd_device, "-");
}

#[test]
fn every_mistake_has_its_text() {
    for (line, message) in [
        ("drbdmeta", "usage"),
        ("drbdmeta - v08 /dev/x internal dstate --no-such-option", "usage"),
        ("drbdmeta - v09 /d internal get-gi", "10 The get-gi command requires the --node-id option"),
        ("drbdmeta - v09 /d internal dstate --node-id 0", "10 The dstate command does not accept the --node-id option"),
        ("drbdmeta - v09 /d internal get-gi --node-id 40", "10 node-id out of range (0...31)"),
        ("drbdmeta - v10 /d internal create-md", "20 Unknown format 'v10'."),
        ("drbdmeta - v08 /d foo create-md", "20 'foo' is not a valid index number."),
        ("drbdmeta - v08 /d 256 create-md", "20 '256' is not a valid index number."),
        ("drbdmeta - v08 /d internal frobnicate", "20 Unknown command 'frobnicate'."),
        ("drbdmeta - v08 /d internal", "20 command missing"),
        ("drbdmeta - v08 /d", "20 Too few arguments for format"),
        ("drbdmeta - v08 /d internal create-md -s 1 -z 16", "10 invalid (too small) al-stripe* settings"),
        ("drbdmeta - v08 /d internal create-md -s 1000 -z 1024", "10 invalid (too large) al-stripe* settings"),
        ("drbdmeta - v08 /d internal create-md -p 2M", "10 peer-max-bio-size out of range (0...1M)"),
        (
            "drbdmeta - v08 /d internal dump-md --al-stripes 2",
            "10 The --al-stripe* options are only allowed with create-md and restore-md",
        ),
        (
            "drbdmeta - v08 /d internal dstate --peer-max-bio-size 4096",
            "10 The --peer-max-bio-size option is only allowed with create-md",
        ),
        ("drbdmeta - v08 /d internal create-md --uptodate", "10 --uptodate is not supported with 'v08'"),
        (
            "drbdmeta - v09 /d internal create-md 1 -B 5k",
            "10 bitmap-block-size must be a power of 2 within [4k .. 1M], not '5k'",
        ),
        (
            "drbdmeta - v09 /d internal create-md 1 -b fast",
            "10 invalid initialize-bitmap mode \"fast\", should be one of automatic|zeroout|pwrite|set-all|skip",
        ),
        ("drbdmeta - v09 /d internal create-md 1 -D 1,40", "10 invalid node list / mask value '1,40'"),
    ] {
        assert_eq!(parsed(line).unwrap_err(), message, "{line}");
    }
    assert!(parsed("drbdmeta 1 v07 /d internal create-md").unwrap_err().contains("v07 metadata"));
}

#[test]
fn masks_and_lists_of_peers() {
    assert_eq!(node_mask("1,4").unwrap(), 0x12);
    assert_eq!(node_mask("0x80000001").unwrap(), 0x8000_0001);
}

#[test]
fn only_a_tentative_repair_does_not_write() {
    assert!(parsed("drbdmeta 1 v09 /d internal repair-md").unwrap().modifies);
    assert!(!parsed("drbdmeta 1 v09 /d internal repair-md --tentative").unwrap().modifies);
    assert!(!parsed("drbdmeta 1 v09 /d internal dump-md").unwrap().modifies);
}
