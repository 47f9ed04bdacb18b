//! "Did you mean": the nearest of some known names.

/// Furthest edit distance that still counts as a misspelling; the reference's bound.
const MAX_DISTANCE: usize = 2;

/// Longest name worth comparing.
const MAX_LENGTH: usize = 256;

/// The option nearest to `value` (Levenshtein distance of at most 2); `None`
/// also when an option equals it, since the problem is then another.
pub fn nearest<'a>(value: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = value.chars().take(MAX_LENGTH + 1).collect();
    if wanted.len() > MAX_LENGTH {
        return None;
    }
    let first = wanted.first().copied();
    let mut best = None;
    // Among equally near options one with the same first letter is the likelier.
    let mut least = (MAX_DISTANCE + 1, false);
    for option in options {
        if option == value {
            return None;
        }
        let candidate = (
            distance(&wanted, option, least.0 + 1),
            option.chars().next() != first,
        );
        if candidate < least {
            least = candidate;
            best = Some(option);
        }
    }
    best
}

/// As [`nearest`] without regard to ASCII case.
pub fn nearest_ignoring_case<'a>(
    value: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let options: Vec<(&str, String)> = options
        .into_iter()
        .map(|option| (option, option.to_ascii_lowercase()))
        .collect();
    let value = value.to_ascii_lowercase();
    let found = nearest(&value, options.iter().map(|option| option.1.as_str()))?;
    options
        .iter()
        .find(|option| option.1 == found)
        .map(|option| option.0)
}

/// Levenshtein distance, or `bound` when it is at least that.
fn distance(a: &[char], b: &str, bound: usize) -> usize {
    if b.len() > 4 * MAX_LENGTH || a.len().abs_diff(b.chars().count()) >= bound {
        return bound;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()].min(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p29_nearest_name() {
        let options = ["chown", "chmod", "link", "from"];
        assert_eq!(nearest("chwon", options), Some("chown"));
        assert_eq!(nearest("lnk", options), Some("link"));
        assert_eq!(nearest("fromm", options), Some("from"));
        assert_eq!(nearest("RNU", ["ENV", "RUN"]), Some("RUN"));
        assert_eq!(nearest("chmod", options), None);
        assert_eq!(nearest("platform", options), None);
        assert_eq!(nearest_ignoring_case("FRM", ["RUN", "FROM"]), Some("FROM"));
        assert_eq!(nearest_ignoring_case("copi", ["COPY"]), Some("COPY"));
    }
}
