//! The `created_by` texts of history entries (rules M03-M07). They are part of the image, so
//! values print as Go prints them: `%q` and `%v` of lists, durations as `1m30s`.

use crate::plan::HistoryEntry;

/// Rule M04.
pub(crate) const COMMENT: &str = "buildkit.dockerfile.v0";

/// An instruction that only changes the config.
pub(crate) fn metadata(text: String) -> HistoryEntry {
    HistoryEntry {
        created_by: text,
        empty_layer: true,
        comment: COMMENT,
    }
}

/// An instruction that makes a layer.
pub(crate) fn layer(text: String) -> HistoryEntry {
    HistoryEntry {
        created_by: text,
        empty_layer: false,
        comment: COMMENT,
    }
}

/// `[a b c]`.
#[must_use]
pub(crate) fn list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// `["a" "b c"]` (rule M07).
#[must_use]
pub(crate) fn quoted_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    list(&quoted)
}

/// A double-quoted Go string literal.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c if (c as u32) < 0x80 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) <= 0xffff => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// Letters, marks, numbers, punctuation, symbols and the plain blank. The standard library knows
/// this only as "not escaped by `escape_debug`", which spares combining marks after a letter.
fn is_printable(c: char) -> bool {
    let mut text = String::from("a");
    text.push(c);
    c == '\'' || text.escape_debug().eq(text.chars())
}

/// `1m30s`, `2.5s`, `1ms`, `0s`: Go's form of a span in nanoseconds.
#[must_use]
pub(crate) fn duration(nanoseconds: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    if total == 0 {
        return "0s".to_owned();
    }
    if total < SECOND {
        let (unit, suffix) = match total {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{sign}{}{suffix}", decimal(total, unit));
    }
    let minutes = total / SECOND / 60;
    let seconds = decimal(total - minutes * 60 * SECOND, SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

/// `value / unit` without trailing zeros; `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{}.{}", value / unit, digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m07_lists_are_quoted_as_go_does() {
        let items = [
            "a",
            "b \"c\"",
            "\\d",
            "\t\u{1b}\n",
            "é'\u{301}",
            "\u{a0}\u{200b}",
        ];
        let items: Vec<String> = items.iter().map(|&item| item.to_owned()).collect();
        let expected =
            "[\"a\" \"b \\\"c\\\"\" \"\\\\d\" \"\\t\\x1b\\n\" \"é'\u{301}\" \"\\u00a0\\u200b\"]";
        assert_eq!(quoted_list(&items), expected);
        assert_eq!(quoted_list(&[]), "[]");
    }

    #[test]
    fn durations_print_as_go_does() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (1_500_000_000, "1.5s"),
            (30_000_000_000, "30s"),
            (60_000_000_000, "1m0s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_661_000_000_001, "1h1m1.000000001s"),
        ] {
            assert_eq!(duration(nanoseconds), expected);
        }
    }
}
