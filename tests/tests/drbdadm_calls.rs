//! What drbdadm really does with drbdsetup and drbdmeta, played here by a shell script that notes every call and
//! answers as the test says; and what it does with bad input.

use drbd_tests::programs::program;
use drbd_tests::scratch::Scratch;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

const CONFIG: &str = "global { usage-count no; cmd-timeout-short 120; }
resource r0 { device minor 1; disk /dev/a; meta-disk internal;
  handlers { fence-peer \"env | grep ^DRBD_ | sort; exit 4\"; split-brain \"echo lost\"; }
  on alpha { address 127.0.0.1:7789; } on bravo { address 127.0.0.2:7789; } }
resource r1 { device minor 2; disk /dev/b; meta-disk internal;
  on alpha { address 127.0.0.1:7790; } on bravo { address 127.0.0.2:7790; } }
resource away { device minor 3; disk /dev/b; meta-disk internal;
  on charlie { address 127.0.0.1:7791; } on bravo { address 127.0.0.2:7791; } }
";

/// A node with recording tools.
struct Node {
    scratch: Scratch,
}

struct Answer {
    out: String,
    err: String,
    code: i32,
    calls: Vec<String>,
}

impl Node {
    /// `answers` is a `case` body matched against `PROGRAM ARGUMENTS`.
    fn new(name: &str, answers: &str) -> Node {
        let scratch = Scratch::new(name);
        let node = Node { scratch };
        node.write("r.conf", CONFIG);
        for tool in ["drbdsetup", "drbdmeta"] {
            let calls = node.path("calls");
            node.write(
                tool,
                &format!(
                    "#!/bin/sh\necho \"{tool} $* $DRBD_RESOURCE\" >> {calls}\ncase \"{tool} $*\" in\n{answers}\nesac\nexit 0\n"
                ),
            );
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(node.path(tool), executable).expect("a mode can be set");
        }
        node
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file can be written");
    }

    fn drbdadm(&self, arguments: &[&str]) -> Answer {
        self.drbdadm_with(&["-c", &self.path("r.conf")], arguments)
    }

    fn drbdadm_with(&self, first: &[&str], arguments: &[&str]) -> Answer {
        let _ = std::fs::remove_file(self.path("calls"));
        let mut command = Command::new(program("drbdadm"));
        command
            .args(["-s", &self.path("drbdsetup"), "-m", &self.path("drbdmeta")])
            .args(first)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            // Not there yet, as after a start of the machine.
            .env("UDRBD_RUN_DIR", self.scratch.path().join("run"))
            .env("__DRBD_NODE__", "alpha");
        let output = command.output().expect("drbdadm can be run");
        let calls = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        Answer {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().expect("drbdadm is not killed by a signal"),
            calls: calls.lines().map(str::to_owned).collect(),
        }
    }
}

#[test]
fn the_exit_code_of_a_call_is_passed_on() {
    let node = Node::new("passed-on", "'drbdsetup primary r0') exit 17;;");
    let answer = node.drbdadm(&["primary", "r0"]);
    assert_eq!((answer.code, answer.calls), (17, vec!["drbdsetup primary r0 r0".to_owned()]));
    let said = format!("Command '{} primary r0' terminated with exit code 17\n", node.path("drbdsetup"));
    assert!(answer.err.ends_with(&said), "{}", answer.err);
}

#[test]
fn up_gives_up_a_resource_that_cannot_be_made_and_goes_on_with_the_others() {
    let node = Node::new("up", "*'new-resource r0'*) exit 10;;");
    let answer = node.drbdadm(&["up", "all"]);
    assert_eq!(answer.code, 1);
    assert!(!answer.calls.iter().any(|c| c.starts_with("drbdsetup new-minor r0")), "{:?}", answer.calls);
    assert!(answer.calls.iter().any(|c| c.starts_with("drbdsetup connect r1 ")), "{:?}", answer.calls);
}

#[test]
fn a_disk_that_cannot_be_attached_does_not_keep_the_network_away() {
    let node = Node::new("no-disk", "*apply-al) exit 20;;");
    let answer = node.drbdadm(&["up", "r0"]);
    assert_eq!(answer.code, 1);
    assert!(!answer.calls.iter().any(|c| c.contains(" attach ")), "{:?}", answer.calls);
    assert!(answer.calls.last().expect("calls").starts_with("drbdsetup connect r0 "));
}

#[test]
fn a_connection_that_cannot_be_made_is_not_configured_further() {
    let node = Node::new("no-peer", "*new-peer*) exit 10;;");
    let answer = node.drbdadm(&["up", "r0"]);
    assert_eq!(answer.code, 1);
    assert!(
        !answer.calls.iter().any(|c| c.contains("-path ") || c.contains(" connect ")),
        "{:?}",
        answer.calls
    );
    assert!(answer.calls.last().expect("calls").starts_with("drbdsetup attach 1 "));
    assert_eq!(answer.err.matches("terminated with exit code").count(), 1, "{}", answer.err);
}

#[test]
fn what_does_not_run_is_asked_of_the_disk() {
    let node = Node::new(
        "else",
        "'drbdsetup dstate'*) echo 'no such device' >&2; exit 10;; 'drbdmeta 1 '*) echo Outdated;;",
    );
    let answer = node.drbdadm(&["dstate", "r0"]);
    assert_eq!((answer.code, answer.out.as_str()), (0, "Outdated\n"));
    assert!(!answer.err.contains("no such device"), "{}", answer.err);
    let running = Node::new("not-else", "'drbdsetup outdate'*) exit 17;;");
    let answer = running.drbdadm(&["outdate", "r0"]);
    assert_eq!((answer.code, answer.calls.len()), (17, 1));
}

#[test]
fn check_resize_turns_to_the_disk_of_what_does_not_run() {
    let running = Node::new("resized", "'drbdsetup check-resize'*) echo lost >&2; exit 10;;");
    let answer = running.drbdadm(&["check-resize", "r0"]);
    assert_eq!((answer.code, answer.err.contains("lost")), (0, false), "{}", answer.err);
    assert_eq!(answer.calls, ["drbdsetup resize 1 r0", "drbdsetup check-resize 1 r0"]);
    let down = Node::new("grown", "'drbdsetup resize'*) echo 'not allocated' >&2; exit 10;;");
    let answer = down.drbdadm(&["check-resize", "r0"]);
    assert_eq!(answer.calls, ["drbdsetup resize 1 r0", "drbdmeta 1 v09 /dev/a internal check-resize r0"]);
    assert_eq!(answer.code, 0);
    assert!(!answer.err.contains("not allocated") && !answer.err.contains("terminated"), "{}", answer.err);
}

#[test]
fn an_inconsistent_disk_may_be_no_disk_and_is_outdated_where_it_lies() {
    let diskless = Node::new("outdate-diskless", "'drbdsetup outdate'*) exit 5;;");
    let answer = diskless.drbdadm(&["outdate", "r0"]);
    assert_eq!((answer.code, answer.calls.len()), (0, 2));
    let inconsistent = Node::new("outdate", "'drbdsetup outdate'*) exit 5;; drbdmeta*) exit 20;;");
    assert_eq!(inconsistent.drbdadm(&["outdate", "r0"]).code, 5);
}

#[test]
fn invalidate_turns_to_the_disk_unless_the_resource_has_refused() {
    for (code, calls) in [(11, 1), (17, 1), (10, 2), (16, 2), (20, 2)] {
        let node = Node::new("invalidate", &format!("'drbdsetup invalidate'*) exit {code};;"));
        let answer = node.drbdadm(&["invalidate", "r0"]);
        assert_eq!((answer.code, answer.calls.len()), (if calls == 1 { code } else { 0 }, calls), "{code}");
    }
    let attached = Node::new("invalidate-attached", "drbdsetup*) exit 10;; drbdmeta*) exit 20;;");
    assert_eq!(attached.drbdadm(&["invalidate", "r0"]).code, 20);
}

#[test]
fn new_metadata_get_a_device_uuid_once() {
    let fresh = Node::new("fresh", "*read-dev-uuid) echo 0000000000000000;;");
    let answer = fresh.drbdadm(&["md-create", "r0"]);
    assert_eq!((answer.code, answer.calls.len()), (0, 3));
    let uuid = answer.calls[2]
        .strip_prefix("drbdmeta 1 v09 /dev/a internal write-dev-uuid ")
        .expect("a uuid written");
    assert!(uuid
        .split(' ')
        .next()
        .is_some_and(|u| u.len() == 16 && u64::from_str_radix(u, 16).is_ok_and(|n| n != 0)));
    let old = Node::new("old", "*read-dev-uuid) echo 1122334455667788;;");
    assert_eq!(old.drbdadm(&["create-md", "r0"]).calls.len(), 2);
    let refused = Node::new("refused", "*create-md*) exit 1;;");
    let answer = refused.drbdadm(&["create-md", "r0"]);
    assert_eq!((answer.code, answer.calls.len()), (1, 1));
}

#[test]
fn a_call_that_hangs_is_left_behind() {
    let node = Node::new("hangs", "*cstate*) exec sleep 4;;");
    node.write("r.conf", &CONFIG.replace("cmd-timeout-short 120", "cmd-timeout-short 1"));
    let answer = node.drbdadm(&["cstate", "r0"]);
    assert_eq!(answer.code, 20);
    assert!(
        answer.err.contains("cstate r0 1' did not terminate within 1 seconds")
            || answer.err.contains("cstate r0 0' did not terminate within 1 seconds"),
        "{}",
        answer.err
    );
}

#[test]
fn a_missing_program_is_named() {
    let node = Node::new("missing", "");
    let answer =
        node.drbdadm_with(&["-c", &node.path("r.conf"), "-s", "/nonexistent/drbdsetup"], &["role", "r0"]);
    assert_eq!(answer.code, 20);
    assert!(
        answer.err.contains("Can not exec /nonexistent/drbdsetup: No such file or directory"),
        "{}",
        answer.err
    );
}

#[test]
fn handlers_know_where_they_are() {
    let node = Node::new("handlers", "");
    let answer = node.drbdadm(&["fence-peer", "r0"]);
    assert_eq!(answer.code, 4);
    for line in [
        "DRBD_LL_DISK=/dev/a",
        "DRBD_MINOR=1",
        "DRBD_VOLUME=0",
        "DRBD_RESOURCE=r0",
        "DRBD_NODE_ID_0=bravo",
        "DRBD_NODE_ID_1=alpha",
        "DRBD_MY_NODE_ID=1",
    ] {
        assert!(answer.out.lines().any(|l| l == line), "{line} is not in\n{}", answer.out);
    }
    assert_eq!(node.drbdadm(&["before-resync-target", "r0"]).code, 0);
    // Called by the daemon: no -c, but the resource was made from our file.
    assert_eq!(node.drbdadm(&["up", "r0"]).code, 0);
    let called = node.drbdadm_with(&[], &["split-brain", "minor-1"]);
    assert_eq!((called.code, called.out.as_str()), (0, "lost\n"), "{}", called.err);
}

#[test]
fn adjust_asks_what_runs_and_does_the_rest() {
    let show = "resource \"r0\" { _this_host { node-id 1; volume 0 { device minor 1; disk \"/dev/a\"; meta-disk internal; } } }";
    let node = Node::new("adjust", &format!("'drbdsetup show r0') echo '{show}';;"));
    let answer = node.drbdadm(&["adjust", "r0"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let verbs: Vec<&str> = answer.calls.iter().filter_map(|c| c.split(' ').nth(1)).collect();
    assert_eq!(verbs, ["show", "new-peer", "new-path", "connect"]);
    let other = Node::new(
        "other",
        &format!("'drbdsetup show r0') echo '{}';;", show.replace("node-id 1", "node-id 5")),
    );
    let answer = other.drbdadm(&["adjust", "r0"]);
    assert_eq!((answer.code, answer.calls.len()), (1, 1));
    assert!(answer
        .err
        .contains("r0: runs with node-id 5, but the configuration says 1; nothing was changed\n"));
    let nonsense = Node::new("nonsense", "'drbdsetup show r0') echo 'resource \"r0\" { bogus; }';;");
    let answer = nonsense.drbdadm(&["adjust", "r0"]);
    assert_eq!((answer.code, answer.calls.len()), (20, 1), "{}", answer.err);
}

#[test]
fn progress_is_told_in_brackets() {
    let node = Node::new("progress", "");
    let answer = node.drbdadm(&["adjust-with-progress", "r0"]);
    assert_eq!(answer.code, 0);
    assert!(answer.out.starts_with("[\n      create res: r0 r0\n"), "{}", answer.out);
    assert!(answer.out.ends_with("\n]\n"), "{}", answer.out);
}

#[test]
fn names_that_mean_nothing_here_say_what_would() {
    let node = Node::new("names", "");
    let answer = node.drbdadm(&["up", "nosuch"]);
    assert_eq!(answer.code, 1);
    let said =
        "'nosuch' not defined in your config (for this host).\n  hint: resources of this host: r0 r1\n";
    assert!(answer.err.ends_with(said), "{}", answer.err);
    let answer = node.drbdadm(&["up", "away"]);
    assert_eq!((answer.code, answer.calls.len()), (1, 0));
    assert!(
        answer.err.contains(
            "'away' not defined in your config (for this host).\n  hint: this host is called 'alpha'; "
        ),
        "{}",
        answer.err
    );
    assert!(answer.err.ends_with(":7 defines 'away' for: on charlie, on bravo\n"), "{}", answer.err);
}

#[test]
fn an_address_of_somebody_else_is_refused_before_anything_is_done() {
    let node = Node::new("address", "");
    node.write(
        "r.conf",
        &CONFIG.replace("alpha { address 127.0.0.1:7789", "alpha { address 192.0.2.77:7789"),
    );
    let answer = node.drbdadm(&["up", "r0"]);
    assert_eq!((answer.code, answer.calls.len()), (10, 0));
    assert!(
        answer.err.contains(": in resource r0, on alpha:\n\tIP 192.0.2.77 not found on this host.\n"),
        "{}",
        answer.err
    );
    assert_eq!(node.drbdadm(&["-d", "up", "r0"]).code, 0);
    assert_eq!(node.drbdadm(&["up", "r1"]).code, 0);
}

#[test]
fn status_without_a_name_asks_once() {
    let node = Node::new("status", "*) exit 20;;");
    let answer = node.drbdadm(&["status"]);
    assert_eq!((answer.code, answer.calls), (20, vec!["drbdsetup status ".to_owned()]));
    assert!(answer.err.ends_with("command status exited with code 20\n"), "{}", answer.err);
}

#[test]
fn version_is_for_shells() {
    let node = Node::new("version", "");
    let answer = node.drbdadm_with(&[], &["--version"]);
    let lines: Vec<&str> = answer.out.lines().skip(1).collect();
    assert!(answer.out.starts_with("DRBDADM_BUILDTAG=udrbd\\ "), "{}", answer.out);
    assert_eq!(
        lines,
        [
            "DRBDADM_API_VERSION=2",
            "DRBD_KERNEL_VERSION_CODE=0x090303",
            "DRBD_KERNEL_VERSION=9.3.3",
            "DRBDADM_VERSION_CODE=0x092200",
            "DRBDADM_VERSION=9.34.0"
        ]
    );
}
