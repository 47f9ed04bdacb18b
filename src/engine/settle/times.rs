//! Times of day in logs.

use store::scan::StepClock;

use crate::engine::time::{civil_seconds, digits, rfc3339};

/// `2026-11-20 05:55:20`, the blank being one or two blanks or a `T`.
const SHORTEST: usize = 19;

/// Replaces times in place; every replacement is as long as what it replaces. True when there
/// was one.
pub(super) fn settle_times(text: &mut [u8], clock: &StepClock) -> bool {
    let mut changed = false;
    let mut at = 0;
    while at + SHORTEST <= text.len() {
        match parse(&text[at..]) {
            Some(found) if is_of_step(found.seconds, clock) => {
                let epoch = rfc3339(clock.epoch);
                text[at..at + 10].copy_from_slice(&epoch.as_bytes()[..10]);
                let time = at + 10 + found.gap;
                text[time..time + 8].copy_from_slice(&epoch.as_bytes()[11..19]);
                changed = true;
                at = time + 8;
            }
            _ => at += 1,
        }
    }
    changed
}

/// A time of day at the start of a text.
struct Found {
    /// Since 1970, as if it were UTC.
    seconds: i64,
    /// Bytes between date and time.
    gap: usize,
}

/// Whether `text` starts with a time within the step.
pub(super) fn starts_with_time(text: &[u8], clock: &StepClock) -> bool {
    parse(text).is_some_and(|found| is_of_step(found.seconds, clock))
}

fn parse(text: &[u8]) -> Option<Found> {
    let date = text.get(..10)?;
    let (year, month, day) = (
        digits(date.get(..4)?)?,
        digits(date.get(5..7)?)?,
        digits(date.get(8..10)?)?,
    );
    let gap = match text.get(10..)? {
        [b' ', b' ', ..] => 2,
        [b' ' | b'T', ..] => 1,
        _ => return None,
    };
    let time = text.get(10 + gap..18 + gap)?;
    let (hour, minute, second) = (
        digits(&time[..2])?,
        digits(&time[3..5])?,
        digits(&time[6..8])?,
    );
    let separated = date[4] == b'-' && date[7] == b'-' && time[2] == b':' && time[5] == b':';
    let possible = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !separated || !possible {
        return None;
    }
    Some(Found {
        seconds: civil_seconds(year, month, day, hour, minute, second),
        gap,
    })
}

/// Whether a time of day, in whatever time zone, lies within the step. Zones differ from UTC by
/// quarters of an hour, 14 hours at most.
fn is_of_step(seconds: i64, clock: &StepClock) -> bool {
    const QUARTER: i64 = 900;
    (-56..=56).any(|quarters| {
        let utc = seconds - quarters * QUARTER;
        clock.start.0 - 1 <= utc && utc <= clock.end.0 + 1
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::CLOCK;
    use super::*;

    fn settled(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        settle_times(&mut bytes, &CLOCK);
        String::from_utf8(bytes).expect("digits replace digits")
    }

    #[test]
    fn times_of_the_step_become_the_epoch_whatever_their_zone() {
        for (text, want) in [
            (
                "2026-11-20 05:55:20 install a",
                "1980-01-02 00:00:00 install a",
            ),
            (
                "Start-Date: 2026-11-20  05:55:20\n",
                "Start-Date: 1980-01-02  00:00:00\n",
            ),
            ("2026-11-20T07:55:20+02:00", "1980-01-02T00:00:00+02:00"),
            (
                "x 2026-11-20 05:55:59 y 2026-11-20 05:55:01",
                "x 1980-01-02 00:00:00 y 1980-01-02 00:00:00",
            ),
        ] {
            assert_eq!(settled(text), want);
        }
    }

    #[test]
    fn other_times_and_other_digits_stay() {
        for text in [
            "2026-11-20 05:40:59 x".replace("40", "48"),
            "2025-11-20 05:55:20".into(),
            "2026-11-20".into(),
            "2026-11-20 05:55".into(),
            "2026-13-20 05:55:20".into(),
            "12345678901234567890".into(),
        ] {
            assert_eq!(settled(&text), text);
        }
    }
}
