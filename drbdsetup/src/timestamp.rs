//! The time before an event: ISO 8601 with microseconds and the offset of the local time zone.

use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds after which the offset is asked for again: summer time begins and ends while we run.
const OFFSET_GOOD_S: u64 = 900;

/// A point in time as text, renewed on request.
#[derive(Clone, Debug)]
pub struct Stamp {
    text: String,
    offset_s: i64,
    /// Of the offset, in periods of [`OFFSET_GOOD_S`].
    period: u64,
}

impl Stamp {
    /// Now.
    pub fn of_this_place() -> Stamp {
        let mut stamp = Stamp { text: String::new(), offset_s: 0, period: 0 };
        stamp.refresh();
        stamp
    }

    /// Takes the present time.
    pub fn refresh(&mut self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let period = since.as_secs() / OFFSET_GOOD_S;
        if period != self.period {
            (self.period, self.offset_s) = (period, offset_now_s());
        }
        self.text = text(since.as_secs(), since.subsec_micros(), self.offset_s);
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The offset of the local time zone: the C library knows, and `date` is the safe way to ask it. 0 where there is none.
fn offset_now_s() -> i64 {
    let date = Command::new("date").arg("+%z").stdin(Stdio::null()).stderr(Stdio::null()).output();
    date.ok().and_then(|output| parse_offset(std::str::from_utf8(&output.stdout).ok()?.trim())).unwrap_or(0)
}

/// `+0530`.
fn parse_offset(text: &str) -> Option<i64> {
    let (sign, digits) = text.split_at_checked(1)?;
    let sign = match sign {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let number: i64 = digits.parse().ok().filter(|n| (0..=2400).contains(n))?;
    Some(sign * (number / 100 * 3600 + number % 100 * 60))
}

/// `2026-11-21T01:57:13.031516+00:00`.
fn text(unix_s: u64, micros: u32, offset_s: i64) -> String {
    let local = i64::try_from(unix_s).unwrap_or(0) + offset_s;
    let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let sign = if offset_s < 0 { '-' } else { '+' };
    let offset_min = offset_s.abs() / 60;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}{sign}{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60,
        offset_min / 60,
        offset_min % 60
    )
}

/// Year, month and day of a number of days since 1970-01-01 (Gregorian, era of 400 years beginning in March).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
