//! A piece of the Dockerfile with the lines in question marked.

use std::fmt::Write;

/// Lines shown before and after the marked ones.
const AROUND: usize = 3;
/// Of a very long instruction only this many lines are shown.
const MOST: usize = 40;

/// `lines` counts from 1, both ends included.
pub(crate) fn excerpt(name: &str, text: &str, lines: (u32, u32)) -> String {
    let (first, last) = (lines.0 as usize, lines.1.max(lines.0) as usize);
    let shown = first.saturating_sub(AROUND + 1)..(last + AROUND).min(first + MOST);
    let mut out = if first == last {
        format!("{name}:{first}\n")
    } else {
        format!("{name}:{first}-{last}\n")
    };
    out.push_str("--------------------\n");
    for (at, line) in text.lines().enumerate().skip(shown.start).take(shown.len()) {
        let number = at + 1;
        let mark = if (first..=last).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        // A write to a string cannot fail.
        writeln!(out, "{number:4} | {mark} {}", line.trim_end()).ok();
    }
    out.push_str("--------------------");
    out
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn marks_the_lines_and_shows_their_neighbours() {
        let text = "FROM a\nRUN x\nRUN y \\\n  z\nCMD c\n";
        let want = "Dockerfile:3-4\n--------------------\n   1 |     FROM a\n   2 |     RUN x\n   \
                    3 | >>> RUN y \\\n   4 | >>>   z\n   5 |     CMD c\n--------------------";
        assert_eq!(excerpt("Dockerfile", text, (3, 4)), want);
    }

    #[test]
    fn lines_that_do_not_exist_are_no_panic() {
        assert!(excerpt("Dockerfile", "", (7, 2)).starts_with("Dockerfile:7"));
    }
}
