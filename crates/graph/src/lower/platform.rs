//! Platform specifiers (`linux/arm/v7`) and the variables made of them (rules A13-A15, S19).

use dockerfile::platform as names;
use thiserror::Error;

use super::variables::Variables;
use crate::facts::{Platform, Selection};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlatformError {
    #[error(
        "\"{part}\" is an invalid component of \"{specifier}\": platform specifier component must \
         match \"^[A-Za-z0-9_.-]+$\""
    )]
    Component { part: String, specifier: String },
    #[error("\"{specifier}\": unknown operating system or architecture")]
    Unknown { specifier: String },
    #[error("\"{specifier}\": cannot parse platform specifier")]
    Parts { specifier: String },
}

/// Parses `os`, `architecture`, `os/architecture` or `os/architecture/variant`, filling what is
/// missing from `host`.
///
/// # Errors
/// When the text has another shape, or its one part is neither a known system nor architecture.
pub fn parse(specifier: &str, host: &Platform) -> Result<Platform, PlatformError> {
    let parts: Vec<&str> = specifier.split('/').collect();
    for (i, part) in parts.iter().enumerate() {
        // `windows(10.0.20348)`: the version of the system is no part of what is compared here.
        let name = if i == 0 {
            part.split('(').next().unwrap_or_default()
        } else {
            part
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || !name.chars().all(valid) {
            return Err(PlatformError::Component {
                part: (*part).to_owned(),
                specifier: specifier.to_owned(),
            });
        }
    }
    let system = |part: &str| names::normalise_system(part.split('(').next().unwrap_or_default());
    let platform = |os: String, architecture: String, variant: String| Platform {
        os,
        architecture,
        variant: (!variant.is_empty()).then_some(variant),
    };
    match parts[..] {
        [one] if names::is_known_system(&system(one)) => Ok(Platform {
            os: system(one),
            architecture: host.architecture.clone(),
            variant: host.variant.clone(),
        }),
        [one] => {
            let (architecture, variant) = names::normalise_architecture(one, "");
            if !names::is_known_architecture(&architecture) {
                return Err(PlatformError::Unknown {
                    specifier: specifier.to_owned(),
                });
            }
            let variant = implied_variant(&architecture, variant);
            Ok(platform(host.os.clone(), architecture, variant))
        }
        [os, architecture] => {
            let (architecture, variant) = names::normalise_architecture(architecture, "");
            let variant = implied_variant(&architecture, variant);
            Ok(platform(system(os), architecture, variant))
        }
        [os, architecture, variant] => {
            let (architecture, variant) = names::normalise_architecture(architecture, variant);
            let plain_arm64 = architecture == "arm64" && variant.is_empty();
            let variant = if plain_arm64 {
                "v8".to_owned()
            } else {
                variant
            };
            Ok(platform(system(os), architecture, variant))
        }
        _ => Err(PlatformError::Parts {
            specifier: specifier.to_owned(),
        }),
    }
}

/// `linux/x86_64` and `linux/amd64` are one platform, `linux/arm` is `linux/arm/v7`.
#[must_use]
pub fn normalise(platform: &Platform) -> Platform {
    let (architecture, variant) = names::normalise_architecture(
        &platform.architecture,
        platform.variant.as_deref().unwrap_or_default(),
    );
    Platform {
        os: names::normalise_system(&platform.os),
        architecture,
        variant: (!variant.is_empty()).then_some(variant),
    }
}

/// The variables every `FROM` may use and a bare `ARG` brings into a stage (rules A13-A15);
/// `--build-arg` wins (rule A14). `target` is the name asked for, else that of the last stage.
#[must_use]
pub(crate) fn global_variables(selection: &Selection, target: Option<&str>) -> Variables {
    let build = &selection.build_platform;
    let goal = &selection.target_platform;
    let variant = |platform: &Platform| platform.variant.clone().unwrap_or_default();
    let defaults = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", variant(build)),
        ("TARGETPLATFORM", goal.to_string()),
        ("TARGETOS", goal.os.clone()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", goal.architecture.clone()),
        ("TARGETVARIANT", variant(goal)),
        ("TARGETSTAGE", target.unwrap_or("default").to_owned()),
    ];
    let mut variables = Variables::default();
    for (name, value) in defaults {
        let value = selection.build_args.get(name).cloned().unwrap_or(value);
        variables.set(name, value);
    }
    variables
}

/// Without a variant in the text, that of 32-bit Arm stays unsaid.
fn implied_variant(architecture: &str, variant: String) -> String {
    if architecture == "arm" && variant == "v7" {
        String::new()
    } else {
        variant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Platform {
        Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        }
    }

    #[test]
    fn specifiers() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("windows(10.0.1)/amd64", "windows/amd64"),
        ] {
            assert_eq!(
                parse(text, &host()).unwrap().to_string(),
                expected,
                "{text}"
            );
        }
        for text in ["", "linux/", "nosuch", "a/b/c/d", "linux/a*"] {
            assert!(parse(text, &host()).is_err(), "{text}");
        }
    }

    #[test]
    fn normalised_platforms_are_equal() {
        for (text, expected) in [
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
        ] {
            let platform = parse(text, &host()).unwrap();
            assert_eq!(normalise(&platform).to_string(), expected, "{text}");
        }
    }
}
