use super::*;

fn features(protocol_min: u32, protocol_max: u32, flags: u32) -> Features {
    Features { protocol_min, flags, protocol_max }
}

#[test]
fn the_highest_common_version_is_agreed() {
    let version = |min, max| agree(OFFER, features(min, max, 0)).map(|agreed| agreed.version);
    assert_eq!(version(86, 101), Ok(101));
    assert_eq!(version(86, 124), Ok(101), "DRBD 9.3 towards one peer");
    assert_eq!(version(86, 94), Ok(94));
    assert_eq!(version(86, 0), Ok(86), "0 is the same as the lowest");
    assert_eq!(version(90, 0), Ok(90));
    assert_eq!(version(110, 124), Err(NoCommonVersion { ours: (86, 101), theirs: (110, 124) }));
    assert_eq!(version(80, 85), Err(NoCommonVersion { ours: (86, 101), theirs: (80, 85) }));
    assert_eq!(version(101, 86), Err(NoCommonVersion { ours: (86, 101), theirs: (101, 86) }));
}

#[test]
fn features_are_those_of_both() {
    assert_eq!(agree(OFFER, features(86, 124, 0x3ff)), Ok(Agreed { version: 101, features: 0xf }));
    assert_eq!(agree(OFFER, features(86, 101, 0x1)), Ok(Agreed { version: 101, features: feature::TRIM }));
}

#[test]
fn local_and_remote_change_places() {
    let numbers: Vec<u32> = (0..11).map(after_sb_mirrored).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10]);
}

#[test]
fn settings_that_must_match() {
    let ours = Settings {
        protocol: 3,
        after_sb_0p: 5,
        after_sb_1p: 0,
        after_sb_2p: 0,
        discard_my_data: true,
        tentative: false,
        two_primaries: false,
        integrity_alg: "sha1".to_owned(),
    };
    let theirs = Settings { after_sb_0p: 6, discard_my_data: false, tentative: true, ..ours.clone() };
    let mismatch = |theirs: Settings| first_mismatch(&ours, &theirs, 101);
    assert_eq!(mismatch(theirs.clone()), None);
    assert_eq!(mismatch(Settings { after_sb_0p: 5, ..theirs.clone() }), Some("after-sb-0pri"));
    assert_eq!(mismatch(Settings { protocol: 1, two_primaries: true, ..theirs.clone() }), Some("protocol"));
    assert_eq!(mismatch(Settings { discard_my_data: true, ..theirs.clone() }), Some("discard-my-data"));
    assert_eq!(mismatch(Settings { two_primaries: true, ..theirs.clone() }), Some("allow-two-primaries"));
    let other_digest = Settings { integrity_alg: "md5".to_owned(), ..theirs };
    assert_eq!(mismatch(other_digest.clone()), Some("data-integrity-alg"));
    assert_eq!(first_mismatch(&ours, &other_digest, 86), None);
}
