//! Platform names, as far as the checks look at them.

const SYSTEMS: [&str; 15] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
];
const ARCHITECTURES: [&str; 26] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
    "aarch64",
    "x86_64",
];

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
        let (architecture, variant) = normalize(architecture, variant);
        Some(Platform {
            os: normalize_os(os),
            architecture,
            variant,
        })
    };
    match rest.as_slice() {
        [] => {
            let name = first.to_lowercase();
            if SYSTEMS.contains(&normalize_os(&name).as_str()) {
                platform(&name, default_architecture, "")
            } else if ARCHITECTURES.contains(&normalize(&name, "").0.as_str()) {
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

fn normalize_os(os: &str) -> String {
    let os = os.to_lowercase();
    if os == "macos" {
        "darwin".to_owned()
    } else {
        os
    }
}

fn normalize(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_lowercase(), variant.to_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => {
            ("amd64", if variant == "v1" { "" } else { variant })
        }
        ("aarch64" | "arm64", variant) => (
            "arm64",
            if matches!(variant, "8" | "v8") {
                ""
            } else {
                variant
            },
        ),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
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
