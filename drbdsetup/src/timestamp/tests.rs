use super::{civil, parse_offset, text};
use proptest::prelude::*;

#[test]
fn known_days() {
    assert_eq!(text(0, 0, 0), "1970-01-01T00:00:00.000000+00:00");
    assert_eq!(text(1_795_226_233, 31_516, 0), "2026-11-21T01:57:13.031516+00:00");
    assert_eq!(text(951_782_400, 0, 0), "2000-02-29T00:00:00.000000+00:00");
    assert_eq!(text(951_782_400, 0, -3600), "2000-02-28T23:00:00.000000-01:00");
    assert_eq!(text(1_735_689_599, 999_999, 19_800), "2025-01-01T05:29:59.999999+05:30");
}

#[test]
fn offsets() {
    assert_eq!(parse_offset("+0000"), Some(0));
    assert_eq!(parse_offset("+0530"), Some(19_800));
    assert_eq!(parse_offset("-0330"), Some(-12_600));
    for nonsense in ["", "+", "0530", "+x", "\u{e4}530", "+99999"] {
        assert_eq!(parse_offset(nonsense), None, "{nonsense}");
    }
}

proptest! {
    #[test]
    fn the_next_day_follows(day in 0_i64..200_000) {
        let (today, tomorrow) = (civil(day), civil(day + 1));
        prop_assert!(tomorrow > today);
        prop_assert!((1..=12).contains(&today.1) && (1..=31).contains(&today.2));
        prop_assert!(tomorrow == (today.0, today.1, today.2 + 1) || tomorrow.2 == 1);
    }
}
