//! The `drbdsetup` program against a fake daemon: what it asks, what it says about the answers, and with which exit code.

mod bad_places;
mod fake;
mod following;
#[path = "../golden_outputs/scenarios.rs"]
#[allow(dead_code)]
mod scenarios;

use drbd_core::control::{Done, GenerationStatus, RefusedReply, Request};
use drbd_core::refusal::{Reason, Refusal};
use fake::{Answer, Place};
use scenarios::{two_node, two_node_configuration};

/// Answers queries about the two-node scenario and agrees to everything else.
fn two_node_answer(request: &Request) -> Answer {
    let mut done = Done::default();
    match request {
        Request::Status => done.status = Some(two_node()),
        Request::Show => done.configuration = Some(two_node_configuration()),
        Request::GetGi { .. } => {
            done.generation = Some(GenerationStatus {
                current: 1,
                bitmap: 2,
                history: [3, 4],
                flags: [true; 7],
                peer_flags: [false; 5],
            });
        }
        _ => done.changed = true,
    }
    Answer::Done(Box::new(done))
}

#[test]
fn queries() {
    let place = Place::new();
    let _fake = place.fake("r0", two_node_answer);
    place.claim(1, "r0\n");
    for (words, stdout) in [
        ("role r0", "Primary\n"),
        ("peer-role r0 1", "Secondary\n"),
        ("cstate r0 1", "Connected\n"),
        ("dstate 1", "UpToDate/UpToDate\n"),
        ("dstate /dev/drbd1", "UpToDate/UpToDate\n"),
        (
            "get-gi r0 1 0",
            "0000000000000001:0000000000000002:0000000000000003:0000000000000004:1:1:1:1:1:1:1:0:0:0:0:0\n",
        ),
        ("udev 1", "DEVICE=drbd1\nSYMLINK_BY_RES=drbd/by-res/r0/0\nSYMLINK_BY_DISK=drbd/by-disk/vg0/r0\n"),
        ("wait-connect-resource r0", ""),
        ("wait-connect-resource r0 --wfc-timeout=5 --degr-wfc-timeout=5 --outdated-wfc-timeout=5", ""),
        ("wait-sync-volume --wait-after-sb=yes r0 1 0 --wfc-timeout 3", ""),
        ("wait-connect-connection r0 9", ""),
        ("events2 --now nosuch", "exists -\n"),
        ("show nosuch", ""),
    ] {
        assert_eq!(place.run(words), (stdout.to_owned(), String::new(), 0), "{words}");
    }
    let (listed, _, _) = place.run("status");
    assert_eq!(
        listed,
        "r0 role:Primary\n  disk:UpToDate open:yes\n  bravo role:Secondary\n    peer-disk:UpToDate\n\n"
    );
    assert_eq!(place.run("status all").0, listed);
    assert_eq!(place.run("status r0").0, listed);
    assert!(place.run("status --color=always").0.contains("\u{1b}[1;32mPrimary\u{1b}[0m"));
    assert!(place.run("show").0.starts_with("resource \"r0\" {\n"));
    assert!(place.run("events2 --now").0.ends_with("\nexists -\n"));
    let stamped = place.run("events2 --now --timestamps r0").0;
    let first = stamped.lines().next().expect("a line");
    assert_eq!(&first[4..5], "-", "{first}");
    assert_eq!(&first[26..27], if first[26..].starts_with('-') { "-" } else { "+" }, "{first}");
    assert_eq!(&first[32..47], " exists resourc", "{first}");
}

#[test]
fn what_is_not_there() {
    let place = Place::new();
    let _fake = place.fake("r0", two_node_answer);
    place.claim(7, "gone");
    for (words, stderr, exit) in [
        ("status nosuch", "nosuch: No such resource\n", 10),
        ("role nosuch", "nosuch: Unknown resource\n", 10),
        ("cstate r0 9", "r0: No such connection\n", 10),
        ("dstate 9", "9: No such device\n", 10),
        ("dstate 7", "7: No such device\n", 10),
        ("udev 9", "9: No such device\n", 10),
        ("get-gi r0 9 0", "r0: No such peer device\n", 10),
        ("primary nosuch", "nosuch: Failure: (158) Unknown resource\n", 10),
        ("secondary nosuch", "nosuch: Failure: (158) Unknown resource\n", 10),
        ("attach 9 /a /a internal", "9: Failure: (127) Device minor not allocated\n", 10),
        ("detach 7", "7: Failure: (127) Device minor not allocated\n", 10),
        ("down nosuch", "", 0),
    ] {
        assert_eq!(place.run(words), (String::new(), stderr.to_owned(), exit), "{words}");
    }
}

#[test]
fn nothing_configured_is_content() {
    let place = Place::new();
    for words in ["down r0", "down all", "secondary r0", "disconnect r0 1", "detach 1", "events2 --now"] {
        assert_eq!(place.run(words), (String::new(), String::new(), 0), "{words}");
    }
    assert_eq!(place.run("status").0, "# No currently configured DRBD found.\n");
    assert_eq!(place.run("show").0, "# No currently configured DRBD found.\n");
    assert_eq!(place.run("primary r0").2, 10);
}

#[test]
fn commands_become_requests() {
    let place = Place::new();
    let fake = place.fake("r0", two_node_answer);
    place.claim(1, "r0");
    let calls = [
        ("primary r0 --force", r#"{"primary":{"force":true}}"#),
        ("primary --force=no r0", r#"{"primary":{"force":false}}"#),
        ("secondary r0", r#"{"secondary":{"force":false}}"#),
        ("invalidate 1", r#"{"invalidate":{"minor":1,"sync-from":null,"reset-bitmap":true}}"#),
        (
            "invalidate /dev/drbd1 --sync-from-peer-node-id=1 --reset-bitmap=no",
            r#"{"invalidate":{"minor":1,"sync-from":1,"reset-bitmap":false}}"#,
        ),
        ("invalidate-remote r0 1 0", r#"{"invalidate-remote":{"peer":1,"volume":0,"reset-bitmap":true}}"#),
        ("pause-sync r0 1 0", r#"{"pause-sync":{"peer":1,"volume":0}}"#),
        ("resume-sync r0 1 0", r#"{"resume-sync":{"peer":1,"volume":0}}"#),
        ("outdate 1", r#"{"outdate":{"minor":1}}"#),
        ("outdate r0 1", r#"{"outdate":{"minor":1}}"#),
        ("new-current-uuid 1 --clear-bitmap", r#"{"new-current-uuid":{"minor":1,"clear-bitmap":true}}"#),
        ("verify r0 1 0", r#"{"verify":{"peer":1,"volume":0,"start":null,"stop":null}}"#),
        (
            "verify r0 1 0 --start 1M --stop=8192",
            r#"{"verify":{"peer":1,"volume":0,"start":2048,"stop":8192}}"#,
        ),
        (
            "new-minor r0 4321 0 --diskless",
            r#"{"new-minor":{"minor":4321,"volume":0,"options":{"diskless":true}}}"#,
        ),
        (
            "new-peer r0 1 --_name=bravo --protocol=A --ping-int 5 --tcp-cork=no",
            r#"{"new-peer":{"peer":1,"options":{"_name":"bravo","ping-int":5,"protocol":"A","tcp-cork":false}}}"#,
        ),
        (
            "new-path r0 1 ipv4:127.0.0.1:7789 ipv6:[fd00::2]:7789",
            r#"{"new-path":{"peer":1,"local":"ipv4:127.0.0.1:7789","remote":"ipv6:[fd00::2]:7789"}}"#,
        ),
        (
            "del-path r0 1 ipv4:127.0.0.1:7789 ipv4:127.0.0.2:7789",
            r#"{"del-path":{"peer":1,"local":"ipv4:127.0.0.1:7789","remote":"ipv4:127.0.0.2:7789"}}"#,
        ),
        (
            "attach 1 /dev/a /dev/b 2 --size 1M --on-io-error=detach --resync-after -1",
            r#"{"attach":{"minor":1,"disk":"/dev/a","meta-disk":"/dev/b","meta-index":"2","options":{"on-io-error":"detach","resync-after":-1,"size":2048}}}"#,
        ),
        (
            "disk-options --set-defaults /dev/drbd1 --al-extents 257",
            r#"{"disk-options":{"minor":1,"options":{"al-extents":257},"set-defaults":true}}"#,
        ),
        ("detach --diskless 1", r#"{"detach":{"minor":1,"force":false,"diskless":true}}"#),
        (
            "connect r0 1 --discard-my-data",
            r#"{"connect":{"peer":1,"tentative":false,"discard-my-data":true}}"#,
        ),
        ("suspend-io 1", r#"{"suspend-io":{"minor":1}}"#),
        ("resume-io /dev/drbd1", r#"{"resume-io":{"minor":1}}"#),
        ("disconnect r0 1 --force", r#"{"disconnect":{"peer":1,"force":true}}"#),
        ("del-peer r0 1", r#"{"del-peer":{"peer":1,"force":false}}"#),
        ("del-minor 1", r#"{"del-minor":{"minor":1}}"#),
        (
            "net-options r0 1 --fencing=resource-only",
            r#"{"net-options":{"peer":1,"options":{"fencing":"resource-only"},"set-defaults":false}}"#,
        ),
        (
            "resource-options --on-no-quorum suspend-io --on-no-data io-error r0",
            r#"{"resource-options":{"options":{"on-no-data-accessible":"io-error","on-no-quorum":"suspend-io"},"set-defaults":false}}"#,
        ),
        (
            "peer-device-options r0 1 0 --c-max-rate 100M --c-plan-ahead 0",
            r#"{"peer-device-options":{"peer":1,"volume":0,"options":{"c-max-rate":102400,"c-plan-ahead":0},"set-defaults":false}}"#,
        ),
        ("down r0", r#""down""#),
        ("down all", r#""down""#),
        ("del-resource r0", r#""del-resource""#),
    ];
    for (words, _) in calls {
        assert_eq!(place.run(words), (String::new(), String::new(), 0), "{words}");
    }
    for ((words, wanted), asked) in calls.iter().zip(fake.asked()) {
        assert_eq!(asked, *wanted, "{words}");
    }
}

#[test]
fn relative_paths_are_made_absolute() {
    let place = Place::new();
    let fake = place.fake("r0", two_node_answer);
    place.claim(1, "r0");
    let output = place.command("attach 1 disk ./meta flex-external").current_dir(&place.dir).output();
    assert!(output.expect("it runs").status.success());
    let here = place.dir.canonicalize().expect("it is there");
    let wanted = format!(
        "\"disk\":\"{0}/disk\",\"meta-disk\":\"{0}/meta\",\"meta-index\":\"flexible\"",
        here.display()
    );
    assert!(fake.asked()[0].contains(&wanted), "{:?}", fake.asked());
}

#[test]
fn refusals_in_drbds_words() {
    let refusals = [
        (
            Refusal::because(Reason::NoUpToDateDisk, "the disk of r0/0 is Inconsistent; use --force to take it as it is\n"),
            "r0: State change failed: (-2) Need access to UpToDate data\nadditional info from kernel:\nthe disk of r0/0 is Inconsistent; use --force to take it as it is\n",
            17,
        ),
        (Refusal::from(Reason::NoLocalDisk), "r0: State change failed: (-4) Can not resync without local disk\n", 16),
        (Refusal::from(Reason::LowerThanOutdated), "r0: State change failed: (-16) Disk state is lower than outdated\n", 5),
        (Refusal::from(Reason::DeviceInUse), "r0: State change failed: (-12) Device is held open by someone\n", 11),
        (
            Refusal::from(Reason::MetadataInvalid),
            "r0: Failure: (119) No valid meta-data signature found.\n\n\t==> Use 'drbdadm create-md res' to initialize meta-data area. <==\n\n",
            10,
        ),
    ];
    for (refusal, stderr, exit) in refusals {
        let place = Place::new();
        let _fake = place.fake("r0", move |_| Answer::refused(&refusal));
        assert_eq!(place.run("primary r0"), (String::new(), stderr.to_owned(), exit));
    }
}

#[test]
fn a_number_from_the_future() {
    let place = Place::new();
    let (code, text) = ("Novel".to_owned(), "never heard".to_owned());
    let reply = RefusedReply { code, number: 57, text, info: String::new() };
    let _fake = place.fake("r0", move |_| Answer::Refused(reply.clone()));
    let wanted = "r0: Error code 57 unknown.\nYou should update the drbd userland tools.\n";
    assert_eq!(place.run("primary r0"), (String::new(), wanted.to_owned(), 20));
}

#[test]
fn remarks_of_the_daemon_reach_stderr() {
    let place = Place::new();
    let _fake = place.fake("r0", |_| {
        Answer::Done(Box::new(Done { info: vec!["io_uring is refused here".to_owned()], ..Done::default() }))
    });
    assert_eq!(place.run("primary r0"), (String::new(), "r0: io_uring is refused here\n".to_owned(), 0));
}

#[test]
fn what_is_not_done_yet_says_so() {
    let place = Place::new();
    let fake = place.fake("r0", two_node_answer);
    place.claim(1, "r0");
    for words in ["rename-resource r0 r1", "new-current-uuid 1 --force-resync", "forget-peer r0 1"] {
        let (_, stderr, exit) = place.run(words);
        assert!(stderr.contains(": Failure: (137) Kernel does not know"), "{words}: {stderr}");
        assert!(stderr.contains("this version of udrbd does not do it yet"), "{words}: {stderr}");
        assert_eq!(exit, 10, "{words}");
    }
    assert_eq!(fake.asked(), Vec::<String>::new());
}

#[test]
fn diskless_has_no_identifiers() {
    let place = Place::new();
    let _fake = place.fake("r0", |_| {
        let mut status = two_node();
        status.devices[0].disk = drbd_core::states::DiskState::Diskless;
        Answer::Done(Box::new(Done { status: Some(status), ..Done::default() }))
    });
    assert_eq!(place.run("get-gi r0 1 0"), (String::new(), "Device has no disk\n".to_owned(), 1));
}

#[test]
fn check_resize_remembers_the_disk() {
    let place = Place::new();
    let (disk, lkbd) = (place.dir.join("disk"), place.dir.join("state/drbd-minor-1.lkbd"));
    std::fs::write(&disk, [0; 8192]).expect("it can be written");
    let name = disk.display().to_string();
    let internal = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (answered, shown) = (internal.clone(), name.clone());
    let _fake = place.fake("r0", move |_| {
        let mut configuration = two_node_configuration();
        let disk = configuration.volumes[0].disk.as_mut().expect("a disk");
        disk.disk = shown.clone();
        if !answered.load(std::sync::atomic::Ordering::SeqCst) {
            disk.meta_index = "flexible".to_owned();
        }
        Answer::Done(Box::new(Done { configuration: Some(configuration), ..Done::default() }))
    });
    place.claim(1, "r0");
    assert_eq!(place.run("check-resize 1"), (String::new(), String::new(), 0));
    assert_eq!(std::fs::read_to_string(&lkbd).expect("it is there"), format!("8192\t{name}\n"));
    internal.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(place.run("check-resize 1"), (String::new(), String::new(), 0));
    assert!(!lkbd.exists(), "external metadata needs no memory");
    assert_eq!(place.run("check-resize 2").2, 10);
}

#[test]
fn a_held_lock_is_waited_for_and_named() {
    let place = Place::new();
    let fake = place.fake("r0", two_node_answer);
    place.claim(1, "r0");
    std::fs::create_dir(place.dir.join("lock")).expect("it can be made");
    let file = std::fs::File::create(place.dir.join("lock/drbd-147-1")).expect("it can be made");
    let all = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&all)).expect("nobody holds it");
    let (_, stderr, exit) = place.run("detach 1");
    assert!(stderr.contains("lock/drbd-147-1: held by another drbdsetup or drbdmeta"), "{stderr}");
    assert_eq!(exit, 20);
    assert_eq!(place.run("dstate 1").2, 0, "queries take no lock");
    drop(file);
    assert_eq!(place.run("detach 1").2, 0);
    assert_eq!(
        fake.asked().last().expect("one").as_str(),
        r#"{"detach":{"minor":1,"force":false,"diskless":false}}"#
    );
}

#[test]
fn command_lines_that_make_no_sense() {
    let place = Place::new();
    for (words, stderr) in [
        ("primary r0 r1 r2", "Excess arguments: r1 r2\n"),
        ("resource-options r0 --on-no io-error", "drbdsetup: option '--on-no' is ambiguous; possibilities: '--on-no-data-accessible' '--on-no-quorum'\n"),
        ("resource-options r0 --on-no-dat io-eror", "drbdsetup: 'io-eror' is not a value for on-no-data-accessible: allowed are io-error | suspend-io\n"),
        ("primary r0 --farce", "drbdsetup: unrecognized option '--farce' (did you mean '--force'?)\n"),
        ("status -x", "drbdsetup: invalid option -- 'x'\n"),
        ("status --verbose=3", "drbdsetup: option '--verbose' doesn't allow an argument\n"),
        ("attach 1 /a /a internal --size", "drbdsetup: option '--size' requires an argument\n"),
        ("attach 1 /a /a external", "'external' is not a meta data index: 'internal', 'flexible' or a number is needed\n"),
        ("attach r0 /a /a internal", "Cannot determine minor device number of device 'r0'\n"),
        ("connect r0 32", "'32' is not a node id: 0 to 31 are\n"),
        ("get-gi r0 1 x", "'x' is not a volume number: 0 to 65535 are\n"),
        ("new-path r0 1 127.0.0.1:80 ipv4:127.0.0.1:81", "'127.0.0.1:80' is not an address: ipv4:A.B.C.D:PORT or ipv6:[ADDRESS]:PORT is needed\n"),
        ("primary ../r0", "'../r0' is not a resource name: it must not be empty, begin with a dot or contain a slash\n"),
        ("wait-connect-resource r0 --wfc-timeout soon", "drbdsetup: --wfc-timeout: 'soon' is not a number of seconds, 0 to wait for ever\n"),
    ] {
        assert_eq!(place.run(words), (String::new(), stderr.to_owned(), 20), "{words}");
    }
    let (_, stderr, exit) = place.run("role");
    assert_eq!((stderr.lines().next(), exit), (Some("Missing argument 1 to command"), 20));
    let (stdout, stderr, exit) = place.run("frobnicate");
    assert!(stdout.starts_with("drbdsetup - Configure the DRBD kernel module.\n"));
    assert_eq!((stderr.as_str(), exit), ("\ninvalid command\n", 20));
    assert_eq!(place.run("").2, 20);
    assert_eq!(place.run("help").2, 20);
    assert_eq!(place.run("help status").2, 0);
    assert_eq!(place.run("xml-help status").2, 0);
}
