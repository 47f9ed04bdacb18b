//! Build arguments that speak to the builder, not to the file: each is honoured or refused.
//!
//! `BUILDKIT_SYNTAX`, `BUILDKIT_SANDBOX_HOSTNAME` and `BUILDKIT_CACHE_MOUNT_NS` are honoured where
//! lowering needs them, `BUILDKIT_DOCKERFILE_CHECK` by the checks. `BUILDKIT_BUILD_NAME` and
//! `BUILDKIT_SBOM_SCAN_*` speak of a build history and of SBOMs, which are not made;
//! `BUILDKIT_CONTEXT_KEEP_GIT_DIR` of contexts that are git repositories.

use std::collections::BTreeMap;

use super::error::LowerError;

/// Switches that ask for what is not there.
const REFUSED: [(&str, &str); 3] = [
    (
        "BUILDKIT_INLINE_CACHE",
        "cache metadata is not put into images; remove the argument",
    ),
    (
        "BUILDKIT_MULTI_PLATFORM",
        "an image for one platform has no index; remove the argument",
    ),
    (
        "BUILDKIT_DISABLE_FILEOP",
        "it was removed in BuildKit 0.11 as well; remove the argument",
    ),
];

/// Attestations by name, `BUILDKIT_ATTEST_SBOM`.
const ATTESTATION: &str = "BUILDKIT_ATTEST_";

/// Switches that are checked for sense only.
const SWITCHES: [&str; 1] = ["BUILDKIT_CONTEXT_KEEP_GIT_DIR"];

/// # Errors
/// When an argument asks for what is not implemented, or a switch is neither true nor false.
pub(crate) fn check(arguments: &BTreeMap<String, String>) -> Result<(), LowerError> {
    for (name, help) in REFUSED {
        if switch(name, arguments.get(name))? {
            let message = format!("build argument {name} is not supported");
            return Err(LowerError::unsupported(message).help(help));
        }
    }
    for name in SWITCHES {
        switch(name, arguments.get(name))?;
    }
    let attestation = arguments.iter().find(|(name, value)| {
        name.starts_with(ATTESTATION) && !value.split(',').any(|field| field == "disabled=true")
    });
    match attestation {
        Some((name, _)) => Err(LowerError::unsupported(format!(
            "build argument {name} is not supported"
        ))
        .help("no attestations are made; remove the argument")),
        None => Ok(()),
    }
}

/// A truth value as Go reads it; absent and empty are false.
fn switch(name: &str, value: Option<&String>) -> Result<bool, LowerError> {
    match value.map_or("", String::as_str) {
        "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        other => Err(LowerError::value(format!(
            "build argument {name}={other} is neither true nor false"
        ))
        .help(format!("write --build-arg {name}=1 or leave it out"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let check = |name: &str, value: &str| {
            let given = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            check(&given).map_err(|error| error.message)
        };
        for (name, value, good) in [
            ("BUILDKIT_INLINE_CACHE", "1", false),
            ("BUILDKIT_INLINE_CACHE", "0", true),
            ("BUILDKIT_INLINE_CACHE", "maybe", false),
            ("BUILDKIT_MULTI_PLATFORM", "true", false),
            ("BUILDKIT_MULTI_PLATFORM", "", true),
            ("BUILDKIT_ATTEST_SBOM", "generator=x", false),
            ("BUILDKIT_ATTEST_PROVENANCE", "disabled=true", true),
            ("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1", true),
            ("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "so", false),
            ("BUILDKIT_SOMETHING_ELSE", "1", true),
        ] {
            let result = check(name, value);
            assert_eq!(result.is_ok(), good, "{name}={value}: {result:?}");
            if let Err(message) = result {
                assert!(message.contains(name), "{message}");
            }
        }
    }
}
