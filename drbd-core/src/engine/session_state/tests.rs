use super::*;
use crate::wire::QueueLimits;

fn state() -> SessionState {
    let limits = QueueLimits { physical_block_size: 4096, logical_block_size: 512, ..QueueLimits::default() };
    let volume = VolumeState {
        volume: VolumeNumber(3),
        size: Sector(1 << 40),
        disk: DiskState::UpToDate,
        generation: [u64::MAX, 0],
        bits: 7,
        crashed_primary: false,
        exposed_uuid: 1 << 63,
        behind_in: Some(6),
        overtaken: true,
        peer_disk: DiskState::Inconsistent,
        resync_suspended: ResyncSuspended { user: true, ..ResyncSuspended::default() },
        peer_uuids: Some(Uuids { current: 2, bitmap: 4, history: [6, 8], bits: 9, flags: 1 }),
        peer_sizes: Some(Sizes {
            disk: 1,
            user: 2,
            current: 3,
            max_bio_size: 4096,
            flags: 0,
            limits: Some(limits),
        }),
        told_size: Sector(5),
        bits_told: 6,
        sequence: u32::MAX,
        peer_sequence: 11,
        unstable_at_peer: true,
        strays: false,
        made_in_session: false,
        consider_resync: false,
    };
    SessionState {
        format: FORMAT,
        node: NodeId(1),
        peer: NodeId(0),
        version: 101,
        features: 15,
        resolve_conflicts: true,
        peer_tentative: false,
        settings: SharedSettings {
            protocol: Protocol::B,
            allow_two_primaries: false,
            after_sb_0pri: "disconnect".to_owned(),
            after_sb_1pri: "consensus".to_owned(),
            after_sb_2pri: "disconnect".to_owned(),
            verify_alg: "sha1".to_owned(),
            csums_alg: String::new(),
        },
        sends_digests: "md5".to_owned(),
        receives_digests: String::new(),
        epoch: 77,
        peer_epoch: OpenEpoch { received: 5, writes: 4 },
        cookie: 1234,
        peer_role: Role::Primary,
        last_error: String::new(),
        last_decision: "nobody copies".to_owned(),
        volumes_deleted: vec![VolumeNumber(9)],
        volumes: vec![volume],
    }
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(SessionState::decode(&state().encode()), Ok(state()));
}

/// Whoever has to change this text changes [`FORMAT`] with it.
#[test]
fn the_format_is_what_its_number_says() {
    let text = concat!(
        r#"{"format":1,"node":1,"peer":0,"version":101,"features":15,"resolve-conflicts":true,"#,
        r#""peer-tentative":false,"settings":{"protocol":"B","allow-two-primaries":false,"#,
        r#""after-sb-0pri":"disconnect","after-sb-1pri":"consensus","after-sb-2pri":"disconnect","#,
        r#""verify-alg":"sha1","csums-alg":""},"sends-digests":"md5","receives-digests":"","epoch":77,"#,
        r#""peer-epoch":{"received":5,"writes":4},"cookie":1234,"peer-role":"Primary","last-error":"","#,
        r#""last-decision":"nobody copies","volumes-deleted":[9],"volumes":[{"volume":3,"#,
        r#""size":1099511627776,"disk":"UpToDate","generation":[18446744073709551615,0],"bits":7,"#,
        r#""crashed-primary":false,"exposed-uuid":9223372036854775808,"behind-in":6,"overtaken":true,"#,
        r#""peer-disk":"Inconsistent","resync-suspended":{"user":true,"peer":false,"dependency":false},"#,
        r#""peer-uuids":{"current":2,"bitmap":4,"history":[6,8],"bits":9,"flags":1},"#,
        r#""peer-sizes":{"disk":1,"user":2,"current":3,"max_bio_size":4096,"flags":0,"#,
        r#""limits":{"physical_block_size":4096,"logical_block_size":512,"alignment_offset":0,"io_min":0,"#,
        r#""io_opt":0,"discard_enabled":false,"discard_zeroes_data":false,"write_same_capable":false}},"#,
        r#""told-size":5,"bits-told":6,"sequence":4294967295,"peer-sequence":11,"unstable-at-peer":true,"#,
        r#""strays":false,"made-in-session":false,"consider-resync":false}]}"#,
    );
    assert_eq!(FORMAT, 1);
    assert_eq!(state().encode(), text);
}

#[test]
fn another_format_is_refused_by_name() {
    let other = r#"{"format":2,"everything":"is different"}"#;
    let why = SessionState::decode(other).expect_err("it cannot be read");
    assert!(why.contains("format 2") && why.contains("format 1"), "{why}");
    assert!(SessionState::decode("{}").is_err() && SessionState::decode("").is_err());
}
