//! Rules for files of a known form. No result is longer than what it replaces.

use store::scan::StepClock;

use super::times;

const DAY: i64 = 86_400;
/// Magic number, flags, time and size of the source: what is before the code in a `.pyc` file
/// (Python 3.7 and later).
pub(super) const BYTECODE_HEADER: u64 = 16;

/// Cuts what apt kept of its terminal between the lines that say when that began and ended.
pub(super) fn cut_transcript(text: &mut Vec<u8>, clock: &StepClock) {
    const STARTED: &[u8] = b"Log started: ";
    const ENDED: &[u8] = b"Log ended: ";
    let mut is_printed = false;
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| {
        let time = line.strip_prefix(STARTED).or(line.strip_prefix(ENDED));
        match time {
            Some(time) if times::starts_with_time(time, clock) => {
                is_printed = line.starts_with(STARTED);
                true
            }
            _ => !is_printed,
        }
    });
    *text = kept.flatten().copied().collect();
}

/// Sorts lines next to each other that tell of one cache file each: fc-cache writes them in the order
/// in which the file system lists the files.
pub(super) fn sort_cache_lines(text: &mut Vec<u8>) {
    const ABOUT_FILES: [&[u8]; 2] = [b": invalid cache file: ", b": missing directory: "];
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let is_about_file = |line: &[u8]| {
        let has = |part: &[u8]| line.windows(part.len()).any(|window| window == part);
        line.ends_with(b"\n") && ABOUT_FILES.into_iter().any(has)
    };
    for run in lines.chunk_by_mut(|one, next| is_about_file(one) && is_about_file(next)) {
        run.sort_unstable();
    }
    *text = lines.concat();
}

/// In `/etc/shadow`, of lines that `below` has not.
pub(super) fn settle_passwords(text: &mut Vec<u8>, below: &[u8], clock: &StepClock) {
    /// `name:password:day`.
    const CHANGED: usize = 2;
    let days = clock.start.0.div_euclid(DAY)..=clock.end.0.div_euclid(DAY);
    let days: Vec<String> = days.map(|day| day.to_string()).collect();
    let epoch = clock.epoch.div_euclid(DAY).to_string();
    let old: Vec<&[u8]> = below.split(|byte| *byte == b'\n').collect();
    let lines = text.split(|byte| *byte == b'\n').map(|line| {
        let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        if let Some(day) = fields.get_mut(CHANGED)
            && days.iter().any(|of_step| of_step.as_bytes() == *day)
            && !old.contains(&line)
        {
            *day = epoch.as_bytes();
        }
        fields.join(&b':')
    });
    let settled = lines.collect::<Vec<_>>().join(&b'\n');
    // An epoch of more digits than the day has would not fit.
    if settled.len() <= text.len() {
        *text = settled;
    }
}

/// In the header of a `.pyc` file that is checked by the time of its source.
pub(super) fn settle_bytecode(header: &mut [u8], clock: &StepClock) {
    let [_, _, b'\r', b'\n', 0, 0, 0, 0, time @ .., _, _, _, _] = header else {
        return;
    };
    let Ok(bytes) = <[u8; 4]>::try_from(&*time) else {
        return;
    };
    let Ok(epoch) = u32::try_from(clock.epoch) else {
        return;
    };
    if (clock.start.0..=clock.end.0).contains(&i64::from(u32::from_le_bytes(bytes))) {
        time.copy_from_slice(&epoch.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::CLOCK;
    use super::*;

    #[test]
    fn what_was_printed_in_this_step_is_cut() {
        let cut = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            cut_transcript(&mut bytes, &CLOCK);
            String::from_utf8(bytes).unwrap()
        };
        let started = "\nLog started: 2026-11-20  05:55:20\n";
        let ended = "Log ended: 2026-11-20  05:55:30\n";
        let old = "\nLog started: 2025-01-01  05:55:20\nold\nLog ended: 2025-01-01  05:55:30\n";
        for (text, want) in [
            (
                format!("{started}a\rb\n{ended}"),
                format!("{started}{ended}"),
            ),
            (
                format!("{old}{started}a\n{ended}{started}b\n"),
                format!("{old}{started}{ended}{started}"),
            ),
            (old.to_owned(), old.to_owned()),
            ("no such lines\n".to_owned(), "no such lines\n".to_owned()),
        ] {
            assert_eq!(cut(&text), want);
        }
    }

    #[test]
    fn only_lines_about_listed_files_are_sorted() {
        let (a, b) = (
            "/c: a: missing directory: /x \n",
            "/c: invalid cache file: b\n",
        );
        for (text, want) in [
            (format!("z\n{b}{a}y\nx\n"), format!("z\n{a}{b}y\nx\n")),
            (format!("{b}z\n{a}"), format!("{b}z\n{a}")),
            (
                format!("{b}{}", a.trim_end()),
                format!("{b}{}", a.trim_end()),
            ),
            (String::new(), String::new()),
        ] {
            let mut bytes = text.into_bytes();
            sort_cache_lines(&mut bytes);
            assert_eq!(String::from_utf8(bytes).unwrap(), want);
        }
    }

    #[test]
    fn days_of_passwords_that_are_new_become_the_epochs() {
        let below = "root:*:19000:0:99999:7:::\nkept:!:20777:0:99999:7:::\n";
        let text = format!("{below}new:!:20777:0:99999:7:::\nolder:!:20776:0:::::\nno:!\n");
        let mut bytes = text.clone().into_bytes();
        settle_passwords(&mut bytes, below.as_bytes(), &CLOCK);
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            text.replace("new:!:20777", "new:!:3653")
        );
    }

    #[test]
    fn bytecode_checked_by_time_follows_its_source() {
        let header = |flags: u8, time: u32| {
            let mut bytes = b"\xa7\r\r\n".to_vec();
            bytes.extend([flags, 0, 0, 0]);
            bytes.extend(time.to_le_bytes());
            bytes.extend(7_u32.to_le_bytes());
            bytes
        };
        for (flags, time, want) in [
            (0, 1_795_154_120, 315_619_200),
            (0, 1_795_154_099, 1_795_154_099),
            (3, 1_795_154_120, 1_795_154_120),
        ] {
            let mut bytes = header(flags, time);
            settle_bytecode(&mut bytes, &CLOCK);
            assert_eq!(bytes, header(flags, want));
        }
        let mut short = b"\xa7\r\r\n\0\0\0\0".to_vec();
        settle_bytecode(&mut short, &CLOCK);
        assert_eq!(short.len(), 8);
    }
}
