//! Image references as Docker users write them: `debian`, `registry.example/org/app:1.2@sha256:…`.
//!
//! The grammar and the rules that complete a short name are those of distribution/reference
//! (`ParseNormalizedNamed`).

use std::fmt;
use std::str::FromStr;

use store::digest::{Digest, InvalidDigest};

const DEFAULT_DOMAIN: &str = "docker.io";
/// The name docker.io had before 2016; still found in files.
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Bytes of domain and path together.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A complete reference. `Display` gives the long form, which parses back to the same value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}")]
pub struct InvalidReference {
    pub text: String,
    #[source]
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("it has no name")]
    Empty,
    #[error("its name is longer than {NAME_MAX} bytes")]
    TooLong,
    #[error("its name must be lower case")]
    UpperCase,
    #[error("64 hexadecimal digits are an image id, not a name")]
    ImageId,
    #[error("{0:?} is not a registry host and optional port")]
    Domain(String),
    #[error(
        "{0:?} is not a name: lower-case letters and digits, separated by one `.`, one or two `_` or any number of `-`"
    )]
    Component(String),
    #[error(
        "{0:?} is not a tag: at most {TAG_MAX} letters, digits, `_`, `.` and `-`, the first neither `.` nor `-`"
    )]
    Tag(String),
    #[error("its digest is not supported")]
    Digest(#[source] InvalidDigest),
}

impl Reference {
    /// Registry host with port, such as `docker.io` or `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository within the registry, such as `library/debian`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `domain/path`, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// With the tag `latest` when it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The short form Docker shows: `debian:12` for `docker.io/library/debian:12`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let name = match (
            self.domain.as_str(),
            self.path.strip_prefix(OFFICIAL_PREFIX),
        ) {
            (DEFAULT_DOMAIN, Some(official)) if !official.contains('/') => official.to_owned(),
            (DEFAULT_DOMAIN, _) => self.path.clone(),
            _ => self.name(),
        };
        name + &self.suffix()
    }

    fn suffix(&self) -> String {
        let tag = self
            .tag
            .as_ref()
            .map(|tag| format!(":{tag}"))
            .unwrap_or_default();
        let digest = self
            .digest
            .map(|digest| format!("@{digest}"))
            .unwrap_or_default();
        tag + &digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|problem| InvalidReference {
            text: text.to_owned(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<Reference, Problem> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(Problem::Digest)?)),
        None => (text, None),
    };
    // A colon before a slash belongs to a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if name.is_empty() {
        return Err(Problem::Empty);
    }
    if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Problem::ImageId);
    }
    let (domain, path) = split_domain(name);
    if !is_domain(domain) {
        return Err(Problem::Domain(domain.to_owned()));
    }
    for component in path.split('/') {
        if component.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(Problem::UpperCase);
        }
        if !is_component(component) {
            return Err(Problem::Component(component.to_owned()));
        }
    }
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(Problem::Tag(tag.to_owned()));
    }
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    let path = if official {
        format!("{OFFICIAL_PREFIX}{path}")
    } else {
        path.to_owned()
    };
    if domain.len() + 1 + path.len() > NAME_MAX {
        return Err(Problem::TooLong);
    }
    let tag = tag.map(str::to_owned);
    Ok(Reference {
        domain: domain.to_owned(),
        path,
        tag,
        digest,
    })
}

/// What is before the first slash is a registry when it could not be a path: it has a dot, a port
/// or upper case, or is `localhost`.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, path))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (
                if first == LEGACY_DOMAIN {
                    DEFAULT_DOMAIN
                } else {
                    first
                },
                path,
            )
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_word(*first)
        && is_word(*last)
        && component
            .split(|c: char| c.is_ascii() && is_word(c as u8))
            .all(|separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
            })
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= TAG_MAX
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.is_empty()
        && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_and_shortened() {
        let digest = format!("sha256:{HEX}");
        for (text, long, familiar) in [
            ("debian", "docker.io/library/debian", "debian"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("docker.io/debian", "docker.io/library/debian", "debian"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
            ("a/b", "docker.io/a/b", "a/b"),
            ("library/x/y", "docker.io/library/x/y", "library/x/y"),
            ("localhost/x", "localhost/x", "localhost/x"),
            (
                "localhost:5000/x:1",
                "localhost:5000/x:1",
                "localhost:5000/x:1",
            ),
            ("Host/x", "Host/x", "Host/x"),
            (
                "reg.example/a/b_c/d--e:V1.0",
                "reg.example/a/b_c/d--e:V1.0",
                "reg.example/a/b_c/d--e:V1.0",
            ),
            (
                "[::1]:5000/a__b.c",
                "[::1]:5000/a__b.c",
                "[::1]:5000/a__b.c",
            ),
            ("x.y:8", "docker.io/library/x.y:8", "x.y:8"),
        ] {
            let parsed: Reference = text.parse().expect(text);
            assert_eq!(
                (parsed.to_string().as_str(), parsed.familiar().as_str()),
                (long, familiar)
            );
            assert_eq!(long.parse(), Ok(parsed.clone()), "long form");
            assert_eq!(familiar.parse(), Ok(parsed), "familiar form");
            let pinned: Reference = format!("{text}@{digest}").parse().expect(text);
            assert_eq!(pinned.to_string(), format!("{long}@{digest}"));
        }
    }

    #[test]
    fn the_default_tag_is_for_references_without_any() {
        let with = |text: &str| {
            text.parse::<Reference>()
                .expect(text)
                .with_default_tag()
                .familiar()
        };
        assert_eq!(with("a"), "a:latest");
        assert_eq!(with("a:b"), "a:b");
        let pinned = format!("a@sha256:{HEX}");
        assert_eq!(with(&pinned), pinned);
    }

    #[test]
    fn what_is_no_reference_is_named() {
        let domain = |d: &str| Problem::Domain(d.to_owned());
        let component = |c: &str| Problem::Component(c.to_owned());
        let tag = |t: &str| Problem::Tag(t.to_owned());
        let long = "x".repeat(250);
        let long_tag = "x".repeat(129);
        for (text, problem) in [
            ("", Problem::Empty),
            (":tag", Problem::Empty),
            ("Debian", Problem::UpperCase),
            ("reg.example/Org/x", Problem::UpperCase),
            (HEX, Problem::ImageId),
            (&long, Problem::TooLong),
            ("a..b/c", domain("a..b")),
            ("-a.b/c", domain("-a.b")),
            ("a.b:x/c", domain("a.b:x")),
            ("[::g]/c", domain("[::g]")),
            ("a//b", component("")),
            ("a/", component("")),
            ("/a", component("")),
            ("a/-b", component("-b")),
            ("a_-b", component("a_-b")),
            ("a___b", component("a___b")),
            ("a b", component("a b")),
            ("ü", component("ü")),
            ("a:", tag("")),
            ("a:.b", tag(".b")),
            ("a:b c", tag("b c")),
            (&format!("a:{long_tag}"), tag(&long_tag)),
        ] {
            let error = text.parse::<Reference>().expect_err(text);
            assert_eq!(error.problem, problem, "{text}");
        }
        for text in ["a@", "a@sha512:00", "a@sha256:12", "a@b@c"] {
            let error = text.parse::<Reference>().expect_err(text);
            assert!(matches!(error.problem, Problem::Digest(_)), "{text}");
        }
    }
}
