//! Finds any of many byte strings in a stream of chunks.

use std::collections::HashMap;
use std::fmt;

/// Strings are looked up by this many first bytes; shorter ones are not found at all.
pub(super) const PREFIX: usize = 4;

/// One of the strings of a [`Matcher`], and whose it is.
struct Pattern {
    bytes: Vec<u8>,
    tag: usize,
}

/// See the module text. Its strings are secrets: there is no way to print them.
#[derive(Default)]
pub(super) struct Matcher {
    patterns: Vec<Pattern>,
    /// By first bytes, the longest first.
    by_prefix: HashMap<[u8; PREFIX], Vec<usize>>,
    /// One bit for every pair of first bytes: most positions are passed over by it alone.
    first_two: Vec<u64>,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").finish_non_exhaustive()
    }
}

/// What [`Matcher::search`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// The string at `start..end`.
    Match {
        start: usize,
        end: usize,
        tag: usize,
    },
    /// From here on, more bytes decide.
    Undecided(usize),
    Nothing,
}

impl Matcher {
    /// Of `(string, tag)`; those shorter than [`PREFIX`] are left out.
    pub(super) fn new(strings: impl IntoIterator<Item = (Vec<u8>, usize)>) -> Self {
        let mut matcher = Self {
            first_two: vec![0; 1 << 10],
            ..Self::default()
        };
        for (bytes, tag) in strings {
            let Some(prefix) = bytes.first_chunk::<PREFIX>().copied() else {
                continue;
            };
            let pair = pair(&prefix);
            matcher.first_two[pair >> 6] |= 1 << (pair & 63);
            let number = matcher.patterns.len();
            matcher.by_prefix.entry(prefix).or_default().push(number);
            matcher.patterns.push(Pattern { bytes, tag });
        }
        for numbers in matcher.by_prefix.values_mut() {
            numbers.sort_by_key(|n| std::cmp::Reverse(matcher.patterns[*n].bytes.len()));
        }
        matcher
    }

    pub(super) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The first match in `data` at or after `from`, the longest of those that start there. With
    /// `is_end` nothing follows `data`, so everything is decided.
    pub(super) fn search(&self, data: &[u8], from: usize, is_end: bool) -> Search {
        let mut at = from;
        while let Some(prefix) = data.get(at..).and_then(|d| d.first_chunk::<PREFIX>()) {
            let pair = pair(prefix);
            if self.first_two[pair >> 6] & (1 << (pair & 63)) != 0
                && let Some(numbers) = self.by_prefix.get(prefix)
                && let Some(found) = self.at(data, at, numbers, is_end)
            {
                return found;
            }
            at += 1;
        }
        if is_end {
            return Search::Nothing;
        }
        let tail = at.max(from)..data.len();
        let starts = |at: &usize| {
            let rest = &data[*at..];
            self.by_prefix.keys().any(|prefix| prefix.starts_with(rest))
        };
        tail.into_iter()
            .find(starts)
            .map_or(Search::Nothing, Search::Undecided)
    }

    fn at(&self, data: &[u8], at: usize, numbers: &[usize], is_end: bool) -> Option<Search> {
        let rest = &data[at..];
        for number in numbers {
            let Pattern { bytes, tag } = &self.patterns[*number];
            if rest.starts_with(bytes) {
                return Some(Search::Match {
                    start: at,
                    end: at + bytes.len(),
                    tag: *tag,
                });
            }
            if !is_end && bytes.starts_with(rest) {
                return Some(Search::Undecided(at));
            }
        }
        None
    }
}

fn pair(prefix: &[u8; PREFIX]) -> usize {
    usize::from(prefix[0]) << 8 | usize::from(prefix[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(strings: &[&str]) -> Matcher {
        let tagged = |(tag, s): (usize, &&str)| (s.as_bytes().to_vec(), tag);
        Matcher::new(strings.iter().enumerate().map(tagged))
    }

    fn found(start: usize, end: usize, tag: usize) -> Search {
        Search::Match { start, end, tag }
    }

    #[test]
    fn the_first_and_longest_match_wins() {
        let m = matcher(&["abcd", "abcdef", "zzzz"]);
        assert_eq!(m.search(b"--abcdef--", 0, true), found(2, 8, 1));
        assert_eq!(m.search(b"--abcde--", 0, true), found(2, 6, 0));
        assert_eq!(m.search(b"zzzzabcd", 1, true), found(4, 8, 0));
        assert_eq!(m.search(b"abc", 0, true), Search::Nothing);
    }

    #[test]
    fn what_may_go_on_is_undecided() {
        let m = matcher(&["abcd", "abcdef"]);
        for (text, at) in [
            ("xa", 1),
            ("xab", 1),
            ("xabc", 1),
            ("xabcd", 1),
            ("xabcde", 1),
        ] {
            assert_eq!(m.search(text.as_bytes(), 0, false), Search::Undecided(at));
        }
        assert_eq!(m.search(b"xb", 0, false), Search::Nothing);
        assert_eq!(m.search(b"", 0, false), Search::Nothing);
    }
}
