//! "Did you mean" for source paths.

use store::view::Resolved;

use super::tree::{Tree, TreeError};

/// More than these are no help.
const MOST: usize = 3;
/// In a directory with more names than this nobody looks for misspellings.
const MAX_NAMES: usize = 10_000;

/// Paths that differ from the missing one in the first component that does not exist: by case, or
/// by a few letters; best first.
///
/// # Errors
/// [`TreeError`] when the directory cannot be read.
pub(super) fn similar_names(tree: &dyn Tree, missing: &Resolved) -> Result<Vec<String>, TreeError> {
    if missing.exists() {
        return Ok(Vec::new());
    }
    let (parent, rest) = missing.path.split_at(missing.existing);
    if !tree.node(parent)?.is_some_and(|node| node.is_directory()) {
        return Ok(Vec::new());
    }
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    let wanted = rest.split(|c| *c == b'/').next().unwrap_or_default();
    let wanted: Vec<char> = String::from_utf8_lossy(wanted).chars().collect();
    let children = tree.children(parent)?;
    if children.len() > MAX_NAMES {
        return Ok(Vec::new());
    }
    let mut found: Vec<(usize, String)> = Vec::new();
    for (name, _) in children {
        let name = String::from_utf8_lossy(&name).into_owned();
        let distance = distance(&wanted, &name.chars().collect::<Vec<_>>());
        if distance <= 1 + wanted.len() / 5 {
            found.push((distance, format!("/{}", show(parent, &name))));
        }
    }
    found.sort();
    Ok(found.into_iter().take(MOST).map(|(_, path)| path).collect())
}

fn show(parent: &[u8], name: &str) -> String {
    if parent.is_empty() {
        return name.to_owned();
    }
    format!("{}/{name}", String::from_utf8_lossy(parent))
}

/// Letters to insert, remove, replace or swap with their neighbour; a change of case is free.
fn distance(a: &[char], b: &[char]) -> usize {
    let fold = |c: char| c.to_ascii_lowercase();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = fold(a[i - 1]) == fold(b[j - 1]);
            let mut best = (last[j - 1] + usize::from(!same))
                .min(last[j] + 1)
                .min(row[j - 1] + 1);
            let swapped = i > 1
                && j > 1
                && fold(a[i - 1]) == fold(b[j - 2])
                && fold(a[i - 2]) == fold(b[j - 1]);
            if swapped {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_are_near() {
        let table = [
            ("a", "a", 0),
            ("README", "readme", 0),
            ("requirments.txt", "requirements.txt", 1),
            ("pacakge.json", "package.json", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ];
        for (a, b, want) in table {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            assert_eq!(distance(&chars(a), &chars(b)), want, "{a} {b}");
        }
    }
}
