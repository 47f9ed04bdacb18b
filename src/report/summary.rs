//! The last words of a build that worked.

/// What was made, from what, and where it is.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) digest: String,
    pub(crate) layers: usize,
    /// Compressed bytes of all layers.
    pub(crate) size: u64,
    /// Stages that had a part in it, in the order of the file.
    pub(crate) stages: Vec<&'a str>,
    pub(crate) executed: usize,
    pub(crate) cached: usize,
    /// `DIR (OCI layout)`, `NAME (local store)`.
    pub(crate) places: &'a [String],
}

impl Summary<'_> {
    /// One line each; the first names the image.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("image {}", self.digest),
            format!("  {} layers, {}", self.layers, bytes(self.size)),
            format!(
                "  stages {}: {} steps executed, {} cached",
                self.stages.join(", "),
                self.executed,
                self.cached
            ),
        ];
        if self.places.is_empty() {
            lines.push("  kept in the cache only: name it with -t or ship it with --output".into());
        }
        lines.extend(self.places.iter().map(|place| format!("  {place}")));
        lines
    }
}

/// `1.2 MB`, decimal units as registries show them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut tenths = u128::from(count) * 10;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_have_one_decimal_and_the_unit_that_fits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1_234_567, "1.2 MB"),
            (2 << 40, "2.1 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
