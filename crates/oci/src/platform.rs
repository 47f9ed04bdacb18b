//! Platforms such as `linux/arm64/v8`: their many spellings and which of them runs which.
//!
//! Normalisation and preference are those of containerd's `platforms` package (`Normalize`,
//! `Only`), so that the same manifest of an index is chosen.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Always in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    os: String,
    architecture: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a platform of the form OS/ARCHITECTURE[/VARIANT]")]
pub struct InvalidPlatform {
    pub text: String,
}

impl Platform {
    /// From the fields of a descriptor or an image config; `variant` may be empty.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) =
            normalize(&architecture.to_lowercase(), &variant.to_lowercase());
        Self {
            os,
            architecture,
            variant,
        }
    }

    /// The one this program runs on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, "")
    }

    #[must_use]
    pub fn os(&self) -> &str {
        &self.os
    }

    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Empty where the architecture's usual one is meant.
    #[must_use]
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// How well `offered` serves who wants `self`: 0 is best, `None` does not run.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<usize> {
        if self.os != offered.os {
            return None;
        }
        let mut runs = runs(&self.architecture, &self.variant).into_iter();
        runs.position(|(architecture, variant)| {
            architecture == offered.architecture && variant == offered.variant
        })
    }
}

fn normalize(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "i486" | "i586" | "i686" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// What a machine of this architecture runs, best first.
fn runs(architecture: &str, variant: &str) -> Vec<(&'static str, String)> {
    let below = |from: u32, to: u32| (to..from).rev().map(|n| format!("v{n}"));
    let number = |default: u32| {
        variant
            .strip_prefix('v')
            .map_or(default, |n| n.parse().unwrap_or(0))
    };
    match architecture {
        "amd64" => {
            let mut all = vec![("amd64", variant.to_owned())];
            all.extend(below(number(1), 2).map(|v| ("amd64", v)));
            if !variant.is_empty() {
                all.push(("amd64", String::new()));
            }
            all.push(("386", String::new()));
            all
        }
        "arm" => {
            let mut all = vec![("arm", variant.to_owned())];
            all.extend(below(number(7), 5).map(|v| ("arm", v)));
            all
        }
        "arm64" => {
            let mut all = vec![("arm64", variant.to_owned())];
            if !variant.is_empty() {
                all.push(("arm64", String::new()));
            }
            all.extend(["v8", "v7", "v6", "v5"].map(|v| ("arm", v.to_owned())));
            all
        }
        other => vec![(
            KNOWN
                .iter()
                .find(|known| **known == other)
                .copied()
                .unwrap_or(""),
            variant.to_owned(),
        )],
    }
}

/// Go's architectures for Linux, beyond those above.
const KNOWN: [&str; 11] = [
    "386", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "sparc64",
];

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    /// A part alone is an operating system or an architecture, the other one the host's.
    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform {
            text: text.to_owned(),
        };
        let parts: Vec<&str> = text.split('/').collect();
        let is_part = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(is_part) {
            return Err(invalid());
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            [one] => one_part(one).ok_or_else(invalid),
            _ => Err(invalid()),
        }
    }
}

fn one_part(text: &str) -> Option<Platform> {
    let host = Platform::host();
    let as_os = Platform::new(text, &host.architecture, &host.variant);
    if matches!(
        as_os.os.as_str(),
        "linux" | "windows" | "darwin" | "freebsd"
    ) {
        return Some(as_os);
    }
    let as_architecture = Platform::new(&host.os, text, "");
    let known = |name: &str| matches!(name, "amd64" | "arm" | "arm64") || KNOWN.contains(&name);
    known(&as_architecture.architecture).then_some(as_architecture)
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(platform: &oci_spec::image::Platform) -> Self {
        Self::new(
            &platform.os().to_string(),
            &platform.architecture().to_string(),
            platform.variant().as_deref().unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        text.parse().expect(text)
    }

    #[test]
    fn spellings_have_one_normal_form() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/9.0", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(parse(text).to_string(), normal, "{text}");
        }
        let host = Platform::host();
        assert_eq!(parse("linux").architecture(), host.architecture());
        assert_eq!(parse("s390x"), Platform::new(host.os(), "s390x", ""));
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in [
            "",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/am d64",
            "nonsense",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranks_prefer_the_closest_that_runs() {
        for (wanted, offered, rank) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/386", Some(1)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64/v3", "linux/amd64/v2", Some(1)),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64", "linux/arm/v7", Some(2)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/riscv64", "linux/riscv64", Some(0)),
            ("linux/riscv64", "linux/s390x", None),
            ("linux/386", "linux/amd64", None),
            ("linux/unknown", "linux/unknown", None),
        ] {
            assert_eq!(
                parse(wanted).rank(&parse(offered)),
                rank,
                "{wanted} {offered}"
            );
        }
    }
}
