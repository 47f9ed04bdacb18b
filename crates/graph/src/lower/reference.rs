//! Image references in the grammar of the `distribution` project: what parses, and the one form
//! all spellings of a name share (rules G06, S17).

use std::fmt;

use thiserror::Error;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const LONGEST_PATH: usize = 255;
const LONGEST_TAG: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    Uppercase { name: String },
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    Identifier { name: String },
    #[error("repository name must not be more than {LONGEST_PATH} characters")]
    TooLong,
}

/// A parsed reference; `domain` and the `library/` of Docker Hub are filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub domain: String,
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

/// Parses `[domain/]path[:tag][@digest]`.
///
/// # Errors
/// When `text` is not a reference.
pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
    if text.len() == 64 && text.bytes().all(is_lower_hex) {
        return Err(ReferenceError::Identifier {
            name: text.to_owned(),
        });
    }
    let (domain, remainder) = split_domain(text);
    let repository = remainder.split(':').next().unwrap_or_default();
    if repository.chars().any(char::is_uppercase) {
        return Err(ReferenceError::Uppercase {
            name: repository.to_owned(),
        });
    }
    let (name, digest) = match remainder.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (remainder.as_str(), None),
    };
    let (path, tag) = match name.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (name, None),
    };
    let valid = is_domain(&domain)
        && path.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    if !valid {
        return Err(ReferenceError::Format);
    }
    if path.len() > LONGEST_PATH {
        return Err(ReferenceError::TooLong);
    }
    Ok(Reference {
        path: path.to_owned(),
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
        domain,
    })
}

/// The full form: `busybox` becomes `docker.io/library/busybox:latest`.
///
/// # Errors
/// When `text` is not a reference.
pub fn normalise(text: &str) -> Result<String, ReferenceError> {
    let mut reference = parse(text)?;
    if reference.tag.is_none() && reference.digest.is_none() {
        reference.tag = Some(DEFAULT_TAG.to_owned());
    }
    Ok(reference.to_string())
}

/// The short form named contexts are looked up by: `docker.io/library/alpine:latest` becomes
/// `alpine` (rule G06). Text that is no reference stays as it is.
#[must_use]
pub fn familiar(text: &str) -> String {
    let Ok(mut reference) = parse(text) else {
        return text.to_owned();
    };
    if reference.digest.is_none() && reference.tag.as_deref() == Some(DEFAULT_TAG) {
        reference.tag = None;
    }
    let full = reference.to_string();
    let Some(short) = full.strip_prefix("docker.io/") else {
        return full;
    };
    short
        .strip_prefix(OFFICIAL_PREFIX)
        .filter(|rest| !rest.contains('/'))
        .unwrap_or(short)
        .to_owned()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A first component is a registry when it has a dot, a colon or a capital, or is `localhost`.
fn split_domain(text: &str) -> (String, String) {
    let (domain, remainder) = match text.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.chars().any(char::is_uppercase) =>
        {
            (
                if first == LEGACY_DOMAIN {
                    DEFAULT_DOMAIN
                } else {
                    first
                },
                rest,
            )
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL_PREFIX}{remainder}"));
    }
    (domain.to_owned(), remainder.to_owned())
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// A DNS name, IPv4 address or bracketed IPv6 address, with an optional port.
fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => {
            if address.is_empty() || !address.chars().all(|c| c.is_ascii_hexdigit() || c == ':') {
                return false;
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let component = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(component))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Runs of lower-case letters and digits joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(word) || !text.ends_with(word) {
        return false;
    }
    text.split(word).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.chars().all(|c| c == '-')
    })
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= LONGEST_TAG
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// `algorithm:hex` of a known algorithm and its length.
fn is_digest(text: &str) -> bool {
    let length = |algorithm: &str| match algorithm {
        "sha256" => Some(64),
        "sha384" => Some(96),
        "sha512" => Some(128),
        _ => None,
    };
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        length(algorithm) == Some(hex.len()) && hex.bytes().all(is_lower_hex)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g06_spellings_of_one_image_are_equal() {
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            (
                "index.docker.io/library/busybox:latest",
                "docker.io/library/busybox:latest",
            ),
            ("a/b:c", "docker.io/a/b:c"),
            ("localhost/x", "localhost/x:latest"),
            ("reg.example:5000/x/y:1", "reg.example:5000/x/y:1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("Host/x", "Host/x:latest"),
            ("x/a__b--c.d", "docker.io/x/a__b--c.d:latest"),
        ] {
            assert_eq!(normalise(text).as_deref(), Ok(expected), "{text}");
        }
        let digest = format!("x:1@sha256:{}", "a".repeat(64));
        assert_eq!(
            normalise(&digest),
            Ok(format!("docker.io/library/{digest}"))
        );
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for (text, expected) in [
            ("gcr.io//android:", "invalid reference format"),
            (
                "baseImage",
                "invalid reference format: repository name (library/baseImage) must be lowercase",
            ),
            ("a:", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a@sha256:12", "invalid reference format"),
            ("", "invalid reference format"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        assert!(matches!(
            parse(&"0".repeat(64)),
            Err(ReferenceError::Identifier { .. })
        ));
        assert_eq!(parse(&"a".repeat(256)), Err(ReferenceError::TooLong));
    }

    #[test]
    fn g06_familiar_names() {
        for (text, expected) in [
            ("docker.io/library/alpine:latest", "alpine"),
            ("alpine:3", "alpine:3"),
            ("docker.io/a/b", "a/b"),
            ("quay.io/x:latest", "quay.io/x"),
            ("Not A Name", "Not A Name"),
        ] {
            assert_eq!(familiar(text), expected, "{text}");
        }
    }
}
