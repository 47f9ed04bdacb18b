//! The variables of a stage: `ENV` and `ARG` in one namespace (rule X16).

use std::collections::HashSet;

/// Names with values, in the order in which they were last set; the order `RUN` gets them in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables {
    entries: Vec<(String, String)>,
}

impl Variables {
    /// Sets a value; an earlier one goes, and the name moves to the end.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.entries.push((name.to_owned(), value.into()));
    }

    /// [`Self::set`] for many at once, in one pass.
    pub(crate) fn set_all<'e>(&mut self, pairs: impl IntoIterator<Item = (&'e str, &'e str)>) {
        let mut seen = HashSet::new();
        let mut new: Vec<(&str, &str)> = pairs.into_iter().collect();
        new.reverse();
        new.retain(|(name, _)| seen.insert(*name));
        new.reverse();
        self.entries
            .retain(|(known, _)| !seen.contains(known.as_str()));
        self.entries.extend(
            new.into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.entries.retain(|(known, _)| known != name);
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.entries
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Bytes of names and values.
    pub(crate) fn size(&self) -> usize {
        let sizes = self
            .entries
            .iter()
            .map(|(name, value)| name.len() + value.len());
        sizes.sum()
    }

    pub(crate) fn entries(&self) -> &[(String, String)] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_and_stands_last() {
        let mut variables = Variables::default();
        for (name, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            variables.set(name, value);
        }
        assert_eq!(variables.names().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(variables.value("a"), Some("3"));
        assert_eq!(variables.value("c"), None);
        variables.set_all([("c", "1"), ("b", "4"), ("c", "5")]);
        let entries: Vec<(&str, &str)> = variables
            .entries()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(entries, [("a", "3"), ("b", "4"), ("c", "5")]);
    }
}
