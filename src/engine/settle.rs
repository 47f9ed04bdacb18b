//! Files whose very content is the time or the place of the step that wrote them, settled like
//! file times are (docs/design/0003): so that a step that installs packages gives the same bytes
//! twice.
//!
//! Two kinds, both few and named here:
//! - *logs*: a time of day between start and end of the step, written as text, becomes the epoch;
//! - *caches* that hold inode numbers and change times of the files they describe: void as soon as
//!   the files are in an image, and made again by their programs when they are missing.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use store::content::Item;
use store::dirwriter::open_directory;
use store::scan::StepClock;
use store::tree::Kind;

use super::time::{civil_seconds, digits};

/// Text logs below these directories are settled.
const LOGS: [&[u8]; 1] = [b"var/log/"];
/// Left out of layers.
const CACHES: [&[u8]; 3] = [
    b"var/cache/ldconfig/aux-cache",
    b"var/cache/apt/pkgcache.bin",
    b"var/cache/apt/srcpkgcache.bin",
];
/// A larger log is left as it is.
const LOG_MAX: u64 = 64 << 20;
/// `2026-11-20 05:55:20`, the blank being one or two blanks or a `T`.
const SHORTEST: usize = 19;

/// Settles what `items`, scanned from `directory`, hold of such files, on disk as well; returns
/// the items that go on.
///
/// # Errors
/// When a log cannot be read or written.
pub(super) fn settle(
    items: Vec<Item>,
    directory: &Path,
    clock: &StepClock,
) -> io::Result<Vec<Item>> {
    let concerns = |item: &Item| is_cache(&item.entry.path) || is_log(item);
    if !items.iter().any(concerns) {
        return Ok(items);
    }
    let root = open_directory(directory).map_err(io::Error::other)?;
    let mut kept = Vec::with_capacity(items.len());
    for item in items {
        if is_cache(&item.entry.path) && matches!(item.entry.kind, Kind::File { .. }) {
            rustix::fs::unlinkat(
                &root,
                item.entry.path.as_slice(),
                rustix::fs::AtFlags::empty(),
            )?;
            continue;
        }
        // An older log is not of this step.
        if is_log(&item) && item.entry.mtime == clock.epoch {
            settle_log(&root, &item, clock)?;
        }
        kept.push(item);
    }
    Ok(kept)
}

fn is_cache(path: &[u8]) -> bool {
    CACHES.contains(&path)
}

fn is_log(item: &Item) -> bool {
    let small = matches!(item.entry.kind, Kind::File { size, .. } if size <= LOG_MAX);
    small
        && LOGS
            .iter()
            .any(|directory| item.entry.path.starts_with(directory))
}

fn settle_log(root: &OwnedFd, item: &Item, clock: &StepClock) -> io::Result<()> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut item.content.open()?, &mut text)?;
    if !settle_text(&mut text, clock) {
        return Ok(());
    }
    let file = rustix::fs::openat2(
        root,
        item.entry.path.as_slice(),
        OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    let file = std::fs::File::from(file);
    std::os::unix::fs::FileExt::write_all_at(&file, &text, 0)?;
    let time = Timespec {
        tv_sec: item.entry.mtime,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(&file, &times)?)
}

/// Replaces times in place; every replacement is as long as what it replaces. True when there
/// was one.
fn settle_text(text: &mut [u8], clock: &StepClock) -> bool {
    let mut changed = false;
    let mut at = 0;
    while at + SHORTEST <= text.len() {
        match parse(&text[at..]) {
            Some(found) if is_of_step(found.seconds, clock) => {
                let epoch = super::time::rfc3339(clock.epoch);
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

struct Found {
    /// As if it were UTC.
    seconds: i64,
    /// Bytes between date and time.
    gap: usize,
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
    use super::*;

    /// 2026-11-20 05:55:00 to 05:56:00 UTC.
    const CLOCK: StepClock = StepClock {
        start: (1_795_154_100, 0),
        end: (1_795_154_160, 0),
        epoch: 315_619_200,
    };

    fn settled(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        settle_text(&mut bytes, &CLOCK);
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
