//! Numbers as DRBD's tools take them: digits and at most one unit letter.

use crate::failure::Failure;

/// Unit of the result, and of a number without a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    Bytes,
    KiB,
    Sectors,
}

/// Reads a number. Fractions of the unit are rounded up.
pub(crate) fn number(text: &str, unit: Unit) -> Result<u64, Failure> {
    if text.is_empty() {
        return Err(Failure::usage("missing number argument"));
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let letter = &text[digits.len()..];
    let parsed: Option<u64> = digits.parse().ok().filter(|_| letter.chars().count() < 2);
    let Some(value) = parsed else { return Err(Failure::usage(format!("{text} is not a valid number"))) };
    let bytes_shift = match letter {
        "" => return Ok(value),
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "s" => 9,
        _ => return Err(Failure::usage(format!("{text} is not a valid unit"))),
    };
    let bytes = u128::from(value) << bytes_shift;
    let result = match unit {
        Unit::Bytes => bytes,
        Unit::KiB => bytes.div_ceil(1024),
        Unit::Sectors => bytes.div_ceil(512),
    };
    u64::try_from(result).map_err(|_| Failure::usage(format!("{text}: out of range")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_convert() {
        for (text, unit, value) in [
            ("4096", Unit::Bytes, 4096),
            ("4k", Unit::Bytes, 4096),
            ("64", Unit::KiB, 64),
            ("1M", Unit::KiB, 1024),
            ("8s", Unit::KiB, 4),
            ("1s", Unit::KiB, 1),
            ("60M", Unit::Sectors, 122_880),
        ] {
            assert_eq!(number(text, unit).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (text, message) in [
            ("", "missing number argument"),
            ("foo", "foo is not a valid number"),
            ("-1", "-1 is not a valid number"),
            ("1kk", "1kk is not a valid number"),
            ("1x", "1x is not a valid unit"),
            ("99999999999999999999", "99999999999999999999 is not a valid number"),
            ("18446744073709551615g", "18446744073709551615g: out of range"),
        ] {
            assert_eq!(number(text, Unit::Bytes).unwrap_err().to_string(), message);
        }
    }
}
