//! Captured sessions of two Linux kernels, udrbd's engine in the place of one of them (`golden/sessions.tar.zst`).

use drbd_tests::replay::{replay, Compared};
use drbd_tests::scratch::Scratch;

/// What was compared in the place of each of these nodes.
fn check<const N: usize>(name: &str, nodes: [char; N]) -> [Compared; N] {
    let scratch = Scratch::new(&format!("replay-{name}"));
    scratch.unpack("sessions.tar.zst");
    let text = std::fs::read_to_string(scratch.path().join(format!("{name}.txt"))).expect("a session");
    nodes.map(|me| {
        let compared = replay(&text, me).unwrap_or_else(|why| panic!("{name}: {why}"));
        println!("{name}, in the place of {me}: {compared:?}");
        compared
    })
}

#[test]
fn protocol_a_with_a_first_copy_writes_roles_a_resync_and_an_attach() {
    let [a, b] = check("a-plain-24m", ['a', 'b']);
    assert_eq!((a.sessions, b.sessions), (2, 2));
}

#[test]
fn protocol_c_with_authentication_checksums_and_a_verify() {
    let [a, b] = check("c-cram-24m", ['a', 'b']);
    assert_eq!((a.sessions, b.sessions), (2, 2));
}

#[test]
fn data_integrity_alg_up_to_the_end_of_the_first_copy() {
    check("c-secure", ['a', 'b']);
}

#[test]
fn protocol_b_up_to_the_first_copy() {
    check("b-plain", ['a', 'b']);
}

#[test]
fn towards_drbd_9_3() {
    check("mixed-84-9", ['a']);
}

/// The comparison can fail: a packet left out, one too many, another field, another block.
#[test]
fn a_session_that_went_otherwise_is_told() {
    let scratch = Scratch::new("replay-otherwise");
    scratch.unpack("sessions.tar.zst");
    let text = std::fs::read_to_string(scratch.path().join("a-plain-24m.txt")).expect("a session");
    let lines: Vec<&str> = text.lines().collect();
    let find = |command: &str| lines.iter().position(|line| line.contains(command)).expect("such a packet");
    // P_UUIDS, P_RS_WRITE_ACK, P_BARRIER_ACK by their numbers in the header.
    for (packet, field) in [("8620ec200000000c", 40), ("8620ec2000000017", 20), ("8620ec200000001c", 17)] {
        let at = find(packet);
        let hex = lines[at].rfind(' ').expect("bytes") + 1;
        let mut changed = lines.clone();
        let mut line = lines[at].to_owned();
        line.replace_range(hex + field..=hex + field, "7");
        changed[at] = &line;
        let both = ['a', 'b'].map(|me| replay(&changed.join("\n"), me));
        assert!(both.iter().any(Result::is_err), "{packet} changed: {both:?}");
        let mut without = lines.clone();
        without.remove(at);
        let both = ['a', 'b'].map(|me| replay(&without.join("\n"), me));
        assert!(both.iter().any(Result::is_err), "{packet} left out: {both:?}");
    }
}
