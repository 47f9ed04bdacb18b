//! The variables of a stage: `ENV` and `ARG` in one namespace (rule X16).

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
    }
}
