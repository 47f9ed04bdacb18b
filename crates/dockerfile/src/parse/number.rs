//! Durations, sizes and integers as Go's standard library and docker's units read them.

use crate::text::quote;

/// Nanoseconds in each unit of a duration, `time.ParseDuration`'s table.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `1h30m`, `1.5s`, `-2ms`, `0`: nanoseconds (rule P28).
pub(super) fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole_length = digits(rest);
        let (whole, after) = rest.split_at(whole_length);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_length = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let scale = UNITS
            .iter()
            .find(|known| known.0 == unit)
            .ok_or_else(|| {
                format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit),
                    quote(text)
                )
            })?
            .1;
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| invalid())?
        };
        total = whole
            .checked_mul(scale)
            .and_then(|value| value.checked_add(fraction_of(fraction, scale)))
            .and_then(|value| total.checked_add(value))
            .filter(|total| *total <= 1 << 63)
            .ok_or_else(invalid)?;
        rest = after;
    }
    if negative {
        return Ok((total as i64).wrapping_neg());
    }
    i64::try_from(total).map_err(|_| invalid())
}

fn digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len())
}

/// `0.<fraction>` of `scale`; digits beyond what an `i64` holds do not count.
fn fraction_of(fraction: &str, scale: u64) -> u64 {
    let shown = &fraction[..fraction.len().min(18)];
    let Ok(value) = shown.parse::<u64>() else {
        return 0;
    };
    let divisor = 10u128.pow(shown.len() as u32);
    u64::try_from(u128::from(value) * u128::from(scale) / divisor).unwrap_or(0)
}

/// `64m`, `1.5GiB`, `100`: bytes, powers of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let at = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, suffix) = if text.as_bytes()[at] == b' ' {
        (&text[..at], &text[at + 1..])
    } else {
        text.split_at(at + 1)
    };
    let number: f64 = number
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && *value >= 0.0)?;
    let suffix = suffix.to_ascii_lowercase();
    let power = match suffix.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let endings: &[&str] = if power == 0 {
        &["", "b"]
    } else {
        &["", "b", "ib"]
    };
    if !endings.contains(&suffix.get(usize::from(power > 0)..)?) {
        return None;
    }
    Some((number * 1024f64.powi(power)) as u64)
}

/// An unsigned number of at most 32 bits, digits only.
pub(super) fn unsigned(text: &str, radix: u32) -> Option<u32> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u32::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p28_durations() {
        let good: [(&str, i64); 9] = [
            ("0", 0),
            ("1s", 1_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("-2ms", -2_000_000),
            ("+5us", 5_000),
            ("3µs", 3_000),
        ];
        for (text, want) in good {
            assert_eq!(duration(text), Ok(want), "{text}");
        }
        let bad = [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("10", "time: missing unit in duration \"10\""),
            (
                "10parsecs",
                "time: unknown unit \"parsecs\" in duration \"10parsecs\"",
            ),
            (".s", "time: invalid duration \".s\""),
            ("x", "time: invalid duration \"x\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
        ];
        for (text, want) in bad {
            assert_eq!(duration(text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn r16_sizes() {
        let cases = [
            ("100", Some(100)),
            ("64m", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("1.5gb", Some(3 << 29)),
            ("2 k", Some(2048)),
            ("7b", Some(7)),
            ("", None),
            ("m", None),
            ("-5", None),
            ("5x", None),
            ("5ib", None),
            ("5mbb", None),
        ];
        for (text, want) in cases {
            assert_eq!(bytes(text), want, "{text}");
        }
    }
}
