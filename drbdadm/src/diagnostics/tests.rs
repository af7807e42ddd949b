use super::*;

#[test]
fn points_at_the_word_and_offers_the_nearest() {
    let mut sources = Sources::default();
    let file = sources.add("r0.res", "resource r0 {\n\tnet { ping-itn 5; }\n}\n");
    let at = Position { file, line: 2, column: 8 };
    let shown = Diagnostic::error(&sources, at, "Parse error: 'an option keyword' expected")
        .hint(did_you_mean("ping-itn", ["ping-int", "ping-timeout", "protocol"]))
        .render(&sources);
    assert_eq!(
        shown,
        "r0.res:2: Parse error: 'an option keyword' expected\n  2:8 |  net { ping-itn 5; }\n      |        ^ did you mean 'ping-int'?\n"
    );
}

#[test]
fn offers_nothing_for_a_word_that_resembles_none() {
    assert_eq!(did_you_mean("nonesuch", ["protocol", "timeout"]), None);
    assert_eq!(did_you_mean("x", []), None);
}

#[test]
fn swapped_letters_are_one_mistake() {
    assert_eq!(distance("ping-itn", "ping-int"), 1);
    assert_eq!(distance("", "abc"), 3);
    assert_eq!(distance("abc", "abc"), 0);
}

#[test]
fn a_long_line_is_shown_around_the_caret() {
    let mut sources = Sources::default();
    let file = sources.add("f", &format!("{}bad;", "x".repeat(500)));
    let at = Position { file, line: 1, column: 501 };
    let shown = Diagnostic::error(&sources, at, "t").render(&sources);
    let lines: Vec<&str> = shown.lines().collect();
    let caret = lines[2].find('^').unwrap();
    assert_eq!(&lines[1][caret..caret + 3], "bad");
}
