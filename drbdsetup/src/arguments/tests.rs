use super::{distance, parse_minor, CommandLine};
use crate::commands::{Command, COMMANDS};
use proptest::prelude::*;

fn parse(words: &str) -> Result<CommandLine, String> {
    let mut words = words.split_whitespace().map(str::to_owned);
    let command = Command::find(&words.next().expect("a command")).expect("a known command");
    CommandLine::parse(command, &words.collect::<Vec<_>>()).map_err(|fault| fault.text)
}

#[test]
fn every_option_can_be_abbreviated_to_itself() {
    for command in COMMANDS {
        let shapes = command.options();
        for option in &shapes {
            // An option whose name begins another one's is still meant when spelt out.
            let line = CommandLine::parse(command, &[format!("--{}=no", option.name)]);
            let text = line.map_or_else(|fault| fault.text, |_| String::new());
            assert!(
                !text.contains("unrecognized") && !text.contains("ambiguous"),
                "{}: {text}",
                command.name
            );
        }
    }
}

#[test]
fn order_does_not_matter() {
    let spelt = parse("new-peer --prot=A r0 --tcp-cork 1 --_name bravo").expect("good");
    assert_eq!(spelt.arguments, ["r0", "1"]);
    assert_eq!(
        spelt.option_set(),
        parse("new-peer r0 1 --_name=bravo --protocol A --tcp-cork=yes").expect("good").option_set()
    );
}

#[test]
fn the_last_mention_counts() {
    let line = parse("primary r0 --force --force=no").expect("good");
    assert!(!line.is_yes("force"));
    assert_eq!(parse("status -vv --verbose -s").expect("good").count("verbose"), 3);
}

#[test]
fn after_two_dashes_everything_is_an_argument() {
    assert_eq!(parse("primary -- r0").expect("good").arguments, ["r0"]);
    assert_eq!(parse("primary r0 -- --force").err().as_deref(), Some("Excess arguments: --force"));
}

#[test]
fn minors() {
    for (word, minor) in
        [("1", Some(1)), ("/dev/drbd12", Some(12)), ("minor-3", Some(3)), ("1048575", Some(1_048_575))]
    {
        assert_eq!(parse_minor(word), minor, "{word}");
    }
    for word in ["", "r0", "-1", "1048576", "/dev/drbd", "/dev/sda1", "+1x"] {
        assert_eq!(parse_minor(word), None, "{word}");
    }
}

#[test]
fn distances() {
    assert_eq!(distance("farce", "force"), 1);
    assert_eq!(distance("", "abc"), 3);
    assert_eq!(distance("kitten", "sitting"), 3);
}

proptest! {
    #[test]
    fn no_words_make_it_panic(
        at in 0..COMMANDS.len(),
        words in prop::collection::vec("(-{0,2}[a-z0-9:/=_-]{0,12}|\\PC{0,8})", 0..6),
    ) {
        let words: Vec<String> = words;
        if let Ok(line) = CommandLine::parse(&COMMANDS[at], &words) {
            let _ = line.option_set();
            let _ = crate::request::request_of(&line);
        }
    }
}
