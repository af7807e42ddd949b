//! Run directories, sockets, daemons and binaries that are not as they should be.

use crate::fake::{hello, Answer, Fake, Place};
use crate::two_node_answer;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An executable shell script.
fn script(place: &Place, body: &str) -> PathBuf {
    let path = place.dir.join("daemon.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("it can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

#[test]
fn a_long_run_directory_works() {
    let place = Place::below(&format!("{}/{}", "a".repeat(120), "b".repeat(120)));
    let _fake = place.fake("r0", two_node_answer);
    assert_eq!(place.run("role r0"), ("Primary\n".to_owned(), String::new(), 0));
}

#[test]
fn a_resource_name_too_long_for_a_socket() {
    let place = Place::new();
    let (_, stderr, exit) = place.run(&format!("new-resource {} 0", "r".repeat(100)));
    assert!(stderr.contains("100 bytes long, too long for a socket"), "{stderr}");
    assert_eq!(exit, 20);
}

#[test]
fn a_dead_socket_is_an_unknown_resource() {
    let place = Place::new();
    place.fake("r0", two_node_answer).crash();
    place.claim(1, "r0");
    let (_, stderr, exit) = place.run("primary r0");
    assert!(
        stderr.starts_with("r0: Failure: (158) Unknown resource\nadditional info from kernel:\n"),
        "{stderr}"
    );
    assert!(stderr.trim_end().ends_with("r0.sock is left over from a daemon that is gone"), "{stderr}");
    assert_eq!(exit, 10);
    assert_eq!(place.run("role r0").2, 10);
    assert_eq!(place.run("dstate 1").2, 10);
    assert_eq!(place.run("down r0"), (String::new(), String::new(), 0));
    assert_eq!(place.run("status").0, "# No currently configured DRBD found.\n");
}

#[test]
fn a_daemon_that_is_being_restarted_is_waited_for() {
    let place = Place::new();
    for words in ["primary r0", "down r0", "wait-connect-resource r0"] {
        place.fake("r0", two_node_answer).crash();
        let child = place.command(words).spawn();
        std::thread::sleep(Duration::from_millis(300));
        std::fs::remove_file(place.dir.join("r0.sock")).expect("it was left behind");
        let fake = place.fake("r0", two_node_answer);
        assert!(child.expect("it runs").wait().expect("it ends").success(), "{words}");
        assert!(!fake.asked().is_empty(), "{words}");
        drop(fake);
        std::fs::remove_file(place.dir.join("r0.sock")).expect("it was left behind");
    }
}

#[test]
fn a_file_in_the_place_of_the_socket() {
    let place = Place::new();
    std::fs::write(place.dir.join("r0.sock"), "").expect("it can be written");
    let (_, stderr, exit) = place.run("primary r0");
    assert!(
        stderr.starts_with("r0: ") && stderr.ends_with("r0.sock is not a socket; remove it\n"),
        "{stderr}"
    );
    assert_eq!(exit, 20);
}

#[test]
fn one_bad_resource_does_not_hide_the_others() {
    let place = Place::new();
    let _fake = place.fake("r0", two_node_answer);
    std::fs::write(place.dir.join("bad.sock"), "").expect("it can be written");
    for words in ["status", "status --json", "show", "events2 --now"] {
        let (stdout, stderr, exit) = place.run(words);
        assert!(stdout.contains("r0"), "{words}: {stdout}");
        assert!(stderr.ends_with("bad.sock is not a socket; remove it\n"), "{words}: {stderr}");
        assert_eq!(exit, 20, "{words}");
    }
    assert_eq!(place.run("status r0").2, 0);
}

#[test]
fn a_socket_of_another_user() {
    // Only root can make one; everybody else finds nothing to give away.
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let fake = place.fake("r0", two_node_answer);
    let socket = place.dir.join("r0.sock");
    std::os::unix::fs::chown(&socket, Some(12_345), None).expect("root may");
    let (_, stderr, exit) = place.run("primary r0");
    assert!(stderr.contains("r0.sock belongs to user 12345, and you are user 0"), "{stderr}");
    assert_eq!(exit, 20);
    assert_eq!(fake.asked(), Vec::<String>::new());
}

#[test]
fn a_run_directory_that_is_none() {
    let place = Place::new();
    std::fs::write(place.dir.join("file"), "").expect("it can be written");
    for words in ["status", "new-resource r0 0"] {
        let output = place.command(words).env("UDRBD_RUN_DIR", place.dir.join("file")).output();
        let (_, stderr, exit) = crate::fake::said(&output.expect("it runs"));
        assert!(stderr.contains("/file: Not a directory; set UDRBD_RUN_DIR"), "{words}: {stderr}");
        assert_eq!(exit, 20);
    }
    let unmade = place.dir.join("file/below");
    let output = place.command("new-resource r0 0").env("UDRBD_RUN_DIR", &unmade).output();
    let (_, stderr, exit) = crate::fake::said(&output.expect("it runs"));
    assert_eq!((stderr.lines().count(), exit), (1, 20), "{stderr}");
}

#[test]
fn a_run_directory_that_is_not_writable() {
    // Everything is writable for root, short of /proc.
    let (place, root) = (Place::new(), nix::unistd::geteuid().is_root());
    let dir = if root { PathBuf::from("/proc/self") } else { place.dir.clone() };
    std::fs::set_permissions(&place.dir, std::fs::Permissions::from_mode(0o500)).expect("it is ours");
    let mut command = place.command("new-resource r0 0");
    let output = command.env("UDRBD_RUN_DIR", &dir).env("UDRBD_DAEMON", "/bin/true");
    let (_, stderr, exit) = crate::fake::said(&output.output().expect("it runs"));
    std::fs::set_permissions(&place.dir, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    assert_eq!((stderr.lines().count(), exit), (1, 20), "{stderr}");
    assert!(stderr.contains(&dir.display().to_string()), "{stderr}");
}

#[test]
fn no_run_directory_named() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let mut command = place.command("status");
    command.env_remove("UDRBD_RUN_DIR").env_remove("XDG_RUNTIME_DIR");
    let (_, stderr, exit) = crate::fake::said(&command.output().expect("it runs"));
    assert!(stderr.contains("set UDRBD_RUN_DIR to a directory of yours"), "{stderr}");
    assert_eq!(exit, 20);
}

#[test]
fn daemons_that_talk_nonsense() {
    for (bytes, complaint) in [
        (&b"{\"id\":1,\"dune\":{}}\n"[..], "said what drbdsetup does not understand"),
        (b"\xff\xfe\n", "said what drbdsetup does not understand"),
        (b"{\"id\":1,\"done\":{\"changed\":true}", "the daemon does not answer"),
        (b"{\"id\":999,\"done\":{\"changed\":true}}\n", "answered what was not asked"),
    ] {
        let place = Place::new();
        let hang_up = complaint == "the daemon does not answer";
        let fake = place.fake("r0", move |_| Answer::Bytes(bytes.to_vec()));
        if hang_up {
            // Half a line, then the end.
            let child = place.command("primary r0").stderr(std::process::Stdio::piped()).spawn();
            wait_until(|| !fake.asked().is_empty());
            std::thread::sleep(Duration::from_millis(50));
            fake.crash();
            let output = child.expect("it runs").wait_with_output().expect("it ends");
            let (_, stderr, exit) = crate::fake::said(&output);
            assert!(stderr.contains("broke off in the middle of a line"), "{stderr}");
            assert_eq!(exit, 20);
            continue;
        }
        let (_, stderr, exit) = place.run("primary r0");
        assert!(stderr.starts_with("r0: ") && stderr.contains(complaint), "{stderr}");
        assert_eq!((stderr.lines().count(), exit), (1, 20));
    }
}

#[test]
fn daemons_of_another_kind() {
    for (greeting, complaint) in [
        (hello("r0", 2), "speaks version 2 of the control protocol"),
        (hello("r1", 1), "serves resource 'r1'"),
        ("220 mail ready\n".to_owned(), "does not understand"),
        ("{\"id\":1,\"done\":{\"changed\":false}}\n".to_owned(), "did not begin with hello"),
    ] {
        let place = Place::new();
        let fake = Fake::serve(&place.dir, "r0", greeting, two_node_answer);
        let (_, stderr, exit) = place.run("primary r0");
        assert!(stderr.contains(complaint), "{stderr}");
        assert_eq!((stderr.lines().count(), exit), (1, 20), "{stderr}");
        assert_eq!(fake.asked(), Vec::<String>::new());
    }
}

#[test]
fn a_daemon_that_hangs_up() {
    let place = Place::new();
    let _fake = place.fake("r0", |_| Answer::Hangup);
    let (_, stderr, exit) = place.run("primary r0");
    assert_eq!(stderr, "r0: the daemon went away before it answered; its log says why\n");
    assert_eq!(exit, 20);
}

#[test]
fn a_missing_daemon_binary() {
    let place = Place::new();
    let output = place.command("new-resource r0 0").env("UDRBD_DAEMON", "/nonexistent/udrbd").output();
    let (_, stderr, exit) = crate::fake::said(&output.expect("it runs"));
    assert_eq!(
        stderr,
        "drbdsetup: the daemon's binary /nonexistent/udrbd (from UDRBD_DAEMON) does not exist\n"
    );
    assert_eq!(exit, 20);
}

#[test]
fn a_daemon_that_does_not_start() {
    let place = Place::new();
    let daemon = script(&place, "echo '04:50:43 note: a line of the log' >&2; echo 'r0: no room for buffers: 8 MiB can be locked' >&2; exit 20");
    let output = place.command("new-resource r0 0").env("UDRBD_DAEMON", &daemon).output();
    let (_, stderr, exit) = crate::fake::said(&output.expect("it runs"));
    assert_eq!(stderr, "r0: the daemon did not start: no room for buffers: 8 MiB can be locked\n");
    assert_eq!(exit, 20);
}

#[test]
fn a_resource_that_exists() {
    let place = Place::new();
    let _fake = place.fake("r0", two_node_answer);
    let (_, stderr, exit) = place.run("new-resource r0 0");
    assert_eq!((stderr.as_str(), exit), ("r0: Failure: (174) Already exists\n\n", 10));
}

#[test]
fn a_daemon_that_starts() {
    let place = Place::new();
    // The script stands in for the daemon's life, the fake for its socket.
    let daemon = script(
        &place,
        "cd \"$UDRBD_RUN_DIR\"; cut -d' ' -f1,6 /proc/self/stat >session; \
         for word; do echo \"$word\"; done >words.new; mv words.new words; exec sleep 2",
    );
    let mut command = place.command("new-resource r0 3 --auto-promote=no --quorum majority");
    let mut child = command.env("UDRBD_DAEMON", &daemon).spawn().expect("it runs");
    wait_until(|| place.dir.join("words").exists());
    assert!(child.try_wait().expect("it can be asked").is_none(), "it waits for the socket");
    let _fake = place.fake("r0", two_node_answer);
    assert!(child.wait().expect("it ends").success());
    let words = std::fs::read_to_string(place.dir.join("words")).expect("the script ran");
    let wanted = "supervise\nr0\n--node-id\n3\n--options\n{\"auto-promote\":false,\"quorum\":\"majority\"}\n";
    assert_eq!(words, wanted);
    let session = std::fs::read_to_string(place.dir.join("session")).expect("the script ran");
    let (_, leader) = session.trim().split_once(' ').expect("two numbers");
    let own = std::fs::read_to_string("/proc/self/stat").expect("it is there");
    assert_ne!(Some(leader), own.split(' ').nth(5), "a session of its own");
}

/// Waits up to ten seconds.
pub(crate) fn wait_until(is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
