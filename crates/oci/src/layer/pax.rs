//! PAX extended header records (POSIX.1-2024 pax, "pax Extended Header"), with binary values:
//! `SCHILY.xattr.security.capability` may hold any byte, newlines included, so records are cut by
//! their length and never by line.

pub(crate) const PATH: &[u8] = b"path";
pub(crate) const LINKPATH: &[u8] = b"linkpath";
pub(crate) const SIZE: &[u8] = b"size";
pub(crate) const UID: &[u8] = b"uid";
pub(crate) const GID: &[u8] = b"gid";
pub(crate) const MTIME: &[u8] = b"mtime";
pub(crate) const XATTR: &[u8] = b"SCHILY.xattr.";
pub(crate) const GNU_SPARSE: &[u8] = b"GNU.sparse.";

/// Appends `<length> <key>=<value>\n`, where the length counts its own digits.
pub(crate) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + decimal_digits(rest);
    if length != rest + decimal_digits(length) {
        length = rest + decimal_digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn decimal_digits(n: usize) -> usize {
    n.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Key and value of every record, or the reason why `data` is not a list of records.
pub(crate) fn records(data: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), &'static str>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = split_record(rest);
        rest = record.map_or(&[][..], |(_, after)| after);
        Some(
            record
                .map(|(record, _)| record)
                .ok_or("malformed PAX record"),
        )
    })
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn split_record(data: &[u8]) -> Option<(Record<'_>, &[u8])> {
    // A length has at most 7 digits: extended headers are limited to 1 MiB.
    let space = data.iter().take(8).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    if equals == 0 {
        return None;
    }
    Some(((&record[..equals], &record[equals + 1..]), &data[length..]))
}

/// An unsigned decimal number and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whole seconds of a PAX time (`-1.5`, `12.000`): rounded towards negative infinity, as Go's
/// reader followed by `Time.Unix` does.
pub(crate) fn seconds(text: &[u8]) -> Option<i64> {
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) || whole.first() == Some(&b'+') {
        return None;
    }
    let seconds: i64 = std::str::from_utf8(whole).ok()?.parse().ok()?;
    let below = whole.first() == Some(&b'-') && fraction.iter().any(|b| *b != b'0');
    seconds.checked_sub(i64::from(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_length_counts_its_own_digits() {
        for value_length in (0..300).chain([993, 994, 995, 9985, 9986, 9990]) {
            let value = vec![b'\n'; value_length];
            let mut out = Vec::new();
            push_record(&mut out, b"k", &value);
            push_record(&mut out, b"next", b"");
            let read: Result<Vec<_>, _> = records(&out).collect();
            assert_eq!(read, Ok(vec![(&b"k"[..], &value[..]), (b"next", b"")]));
        }
    }

    #[test]
    fn malformed_records_end_the_list_with_an_error() {
        for bad in [
            "x",
            "5 a=b",
            "7 a=b\n",
            "5 a=b",
            "0 a=\n",
            "6 =ab\n",
            "99999999 a=b\n",
            "6 a b\n",
        ] {
            let read: Vec<_> = records(bad.as_bytes()).collect();
            assert!(matches!(read.as_slice(), [Err(_)]), "{bad:?}: {read:?}");
        }
    }

    #[test]
    fn times_are_rounded_down() {
        for (text, expected) in [
            ("0", Some(0)),
            ("12.999", Some(12)),
            ("-1.5", Some(-2)),
            ("-1.0", Some(-1)),
            ("-0.5", Some(-1)),
            ("", None),
            ("1.x", None),
            ("+1", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), expected, "{text}");
        }
    }
}
