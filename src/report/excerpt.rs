//! A piece of the Dockerfile with the lines in question marked, in the form of BuildKit.

use std::fmt::Write;

/// Of a very long instruction only this many lines are shown.
const MOST: usize = 200;

/// `text` is cut at its newlines; `lines` counts from 1, both ends included. One line is shown with
/// two before and after it, several with one.
pub(crate) fn excerpt(name: &str, text: &[&str], lines: (u32, u32)) -> String {
    let (first, last) = (lines.0 as usize, lines.1.max(lines.0) as usize);
    let around = if first == last { 2 } else { 1 };
    let shown = first.saturating_sub(around + 1)..(last + around).min(first + MOST);
    let mut out = format!("{name}:{first}\n--------------------\n");
    let all = text.iter().enumerate();
    for (at, line) in all.skip(shown.start).take(shown.len()) {
        let number = at + 1;
        let mark = if (first..=last).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        // A write to a string cannot fail.
        writeln!(out, " {number:3} | {mark} {line}").ok();
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
        let want = "Dockerfile:3\n--------------------\n   2 |     RUN x\n   3 | >>> RUN y \\\n   \
                    4 | >>>   z\n   5 |     CMD c\n--------------------";
        let text: Vec<&str> = text.split('\n').collect();
        assert_eq!(excerpt("Dockerfile", &text, (3, 4)), want);
    }

    #[test]
    fn lines_that_do_not_exist_are_no_panic() {
        assert!(excerpt("Dockerfile", &[""], (7, 2)).starts_with("Dockerfile:7"));
    }
}
