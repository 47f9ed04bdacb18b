//! The variables of a stage: `ENV` and `ARG` in one namespace (rule X16).

use std::collections::{BTreeMap, HashMap};

/// Names with values, in the order in which they were last set; the order `RUN` gets them in.
/// Setting and looking up do not depend on how many there are: files set many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables {
    /// By the moment they were set.
    entries: BTreeMap<u64, (String, String)>,
    moments: HashMap<String, u64>,
    next: u64,
}

impl Variables {
    /// Sets a value; an earlier one goes, and the name moves to the end.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        let moment = self.next;
        self.next += 1;
        if let Some(before) = self.moments.insert(name.to_owned(), moment) {
            self.entries.remove(&before);
        }
        self.entries.insert(moment, (name.to_owned(), value.into()));
    }

    /// [`Self::set`] for many.
    pub(crate) fn set_all<'e>(&mut self, pairs: impl IntoIterator<Item = (&'e str, &'e str)>) {
        for (name, value) in pairs {
            self.set(name, value);
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(moment) = self.moments.remove(name) {
            self.entries.remove(&moment);
        }
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let moment = self.moments.get(name)?;
        self.entries.get(moment).map(|(_, value)| value.as_str())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.values().map(|(name, _)| name.as_str())
    }

    /// Bytes of names and values.
    pub(crate) fn size(&self) -> usize {
        let sizes = self.entries.values();
        sizes.map(|(name, value)| name.len() + value.len()).sum()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &(String, String)> {
        self.entries.values()
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
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(entries, [("a", "3"), ("b", "4"), ("c", "5")]);
    }
}
