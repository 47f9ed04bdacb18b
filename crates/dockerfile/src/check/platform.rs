//! Platform names, as far as the checks look at them.

use crate::platform::{
    is_known_architecture, is_known_system, normalise_architecture, normalise_system,
};

/// Operating system and architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) variant: String,
}

/// Reads `os/arch[/variant]`, or one of `os` and `arch`, the other then from `default`.
pub(super) fn parse(text: &str, default: &str) -> Option<Platform> {
    let mut parts = text.split('/');
    let first = parts.next()?;
    // `windows(10.0.1)`: the version is not looked at.
    let first = first.split('(').next()?;
    let rest: Vec<&str> = parts.collect();
    let valid = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    if !valid(first) || !rest.iter().all(|part| valid(part)) {
        return None;
    }
    let mut defaults = default.split('/');
    let (default_os, default_architecture) = (defaults.next()?, defaults.next().unwrap_or("amd64"));
    let platform = |os: &str, architecture: &str, variant: &str| {
        let (architecture, variant) = normalise_architecture(architecture, variant);
        Some(Platform {
            os: normalise_system(os),
            architecture,
            variant,
        })
    };
    match rest.as_slice() {
        [] => {
            let name = first.to_lowercase();
            if is_known_system(&normalise_system(&name)) {
                platform(&name, default_architecture, "")
            } else if is_known_architecture(&normalise_architecture(&name, "").0) {
                platform(default_os, &name, "")
            } else {
                None
            }
        }
        [architecture] => platform(first, architecture, ""),
        [architecture, variant] => platform(first, architecture, variant),
        _ => None,
    }
}

impl Platform {
    /// `os/arch[/variant]`.
    pub(super) fn name(&self) -> String {
        let mut name = format!("{}/{}", self.os, self.architecture);
        if !self.variant.is_empty() {
            name.push('/');
            name.push_str(&self.variant);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn platforms() {
        let cases = [
            ("linux/amd64", Some("linux/amd64")),
            ("linux", Some("linux/arm64")),
            ("amd64", Some("linux/amd64")),
            ("linux/arm64/v8", Some("linux/arm64")),
            ("linux/arm/7", Some("linux/arm/v7")),
            ("linux/x86_64", Some("linux/amd64")),
            ("nonsense", None),
            ("a/b/c/d", None),
            ("linux/", None),
            ("", None),
            ("linux/$x", None),
        ];
        for (text, want) in cases {
            assert_eq!(
                parse(text, "linux/arm64")
                    .map(|platform| platform.name())
                    .as_deref(),
                want,
                "{text}"
            );
        }
    }
}
