use super::*;
use proptest::prelude::*;

fn tokens(text: &str) -> Vec<Token> {
    lex(text, FileId::default()).into_iter().map(|t| t.token).collect()
}

fn w(text: &str) -> Token {
    Token::Word(text.to_owned())
}

#[test]
fn words_comments_and_punctuation() {
    assert_eq!(
        tokens("on alpha{ # x\n address 10.0.0.1:7789; }"),
        vec![
            w("on"),
            w("alpha"),
            Token::Punctuation('{'),
            w("address"),
            w("10.0.0.1"),
            Token::Punctuation(':'),
            w("7789"),
            Token::Punctuation(';'),
            Token::Punctuation('}'),
            Token::End
        ]
    );
}

#[test]
fn brackets_hold_an_address_or_an_index() {
    assert_eq!(tokens("[::1]:7")[0], Token::Ipv6("::1".to_owned()));
    assert_eq!(tokens("[fe80::1%eth0]")[0], Token::Ipv6("fe80::1%eth0".to_owned()));
    assert_eq!(tokens("[0]")[..2], [Token::Punctuation('['), w("0")]);
}

#[test]
fn quotes_escape_and_end_on_their_line() {
    assert_eq!(tokens(r#""a \"q\" \\s""#)[0], Token::Quoted(r#"a "q" \s"#.to_owned()));
    let bad = tokens("\"r0 { on alpha { device x\n");
    assert_eq!(
        bad,
        vec![Token::Bad(
            "Unterminated double quoted string\n  we don't allow embedded newlines\n  >>>\"r0 { on alpha { dev...<<<"
                .to_owned()
        )]
    );
}

#[test]
fn limits_of_words_and_strings() {
    assert!(matches!(tokens(&"x".repeat(128))[0], Token::Word(_)));
    assert!(matches!(tokens(&"x".repeat(129))[0], Token::Bad(_)));
    assert!(matches!(tokens(&format!("\"{}\"", "x".repeat(255)))[0], Token::Quoted(_)));
    assert!(matches!(tokens(&format!("\"{}\"", "x".repeat(256)))[0], Token::Bad(_)));
}

#[test]
fn positions_count_lines_and_characters() {
    let tokens = lex("a\n\t\"ü\" b", FileId::default());
    assert_eq!((tokens[1].at.line, tokens[1].at.column), (2, 2));
    assert_eq!((tokens[2].at.line, tokens[2].at.column), (2, 6));
}

proptest! {
    #[test]
    fn any_text_ends(text in ".{0,400}") {
        let tokens = lex(&text, FileId::default());
        prop_assert!(matches!(tokens.last().unwrap().token, Token::End | Token::Bad(_)));
    }
}
