//! What a git URL of a Dockerfile says (rules G02, G03).

use graph::op;

use crate::engine::fetch::text::{percent_decode, redact};

/// Which files of which repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// As the program git takes it, without user name and password of `http`.
    pub(super) remote: String,
    pub(super) userinfo: Option<(String, String)>,
    /// Branch, tag, full name of a ref, or (abbreviated) commit; the remote's `HEAD` when `None`.
    pub(super) reference: Option<String>,
    /// Clean and relative; `""` is the root.
    pub(super) subdir: String,
    /// A commit must have this name, or one that begins like it (rule D15).
    pub(super) checksum: Option<String>,
    pub(super) keep_git_dir: bool,
    pub(super) submodules: bool,
    /// Files get the time of the commit (rule D20).
    pub(super) commit_time: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LocationError {
    #[error("{url}: conflicting values for the {what}: {first:?} and {second:?}")]
    Conflict {
        url: String,
        what: &'static str,
        first: String,
        second: String,
    },
    #[error("{url}: {value:?} cannot be a {what}")]
    Invalid {
        url: String,
        what: &'static str,
        value: String,
    },
}

/// Values of the query.
#[derive(Default)]
struct Query {
    reference: Option<String>,
    tag: Option<String>,
    branch: Option<String>,
    subdir: Option<String>,
    commit: Option<String>,
    submodules: Option<String>,
    mtime: Option<String>,
    keep_git_dir: Option<String>,
}

impl Query {
    /// Commits are always fetched by their names, so `fetch-by-commit` says nothing new.
    fn parse(url: &str, text: &str) -> Result<Self, LocationError> {
        let mut query = Self::default();
        let mut ignored = None;
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match key {
                "ref" => &mut query.reference,
                "tag" => &mut query.tag,
                "branch" => &mut query.branch,
                "subdir" => &mut query.subdir,
                "checksum" | "commit" => &mut query.commit,
                "submodules" => &mut query.submodules,
                "mtime" => &mut query.mtime,
                "keep-git-dir" => &mut query.keep_git_dir,
                "fetch-by-commit" => &mut ignored,
                _ => return Err(invalid(url, "key of the query", key)),
            };
            *place = Some(percent_decode(value));
        }
        Ok(query)
    }
}

/// The parts of a URL in front of `?`, between `?` and `#`, and behind `#`.
fn split(url: &str) -> (&str, &str, &str) {
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    (address, query, fragment)
}

/// The operation for a context at `url`, whose query may say more than that of an `ADD`, which
/// has flags.
///
/// # Errors
/// [`LocationError::Invalid`].
pub(super) fn context(url: &str, keep_git_dir: bool) -> Result<op::Git, LocationError> {
    let query = Query::parse(&redact(url), split(url).1)?;
    Ok(op::Git {
        url: url.to_owned(),
        keep_git_dir: query
            .keep_git_dir
            .map_or(keep_git_dir, |value| is_true(&value)),
        checksum: query.commit,
    })
}

impl Location {
    /// # Errors
    /// [`LocationError`].
    pub(super) fn parse(op: &op::Git) -> Result<Self, LocationError> {
        let url = redact(&op.url);
        let (address, query, fragment) = split(&op.url);
        let query = Query::parse(&url, query)?;
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let subdir = one(&url, "directory", given(subdir), query.subdir)?;
        let reference = one(&url, "ref", given(reference), query.reference)?;
        let tag = query.tag.map(|tag| full("refs/tags/", &tag));
        let branch = query.branch.map(|branch| full("refs/heads/", &branch));
        let reference = one(&url, "ref", reference, tag)?;
        let reference = one(&url, "ref", reference, branch)?.or(query.commit);
        let (remote, userinfo) = split_userinfo(address);
        let location = Self {
            remote,
            userinfo,
            reference,
            subdir: clean(&url, subdir.as_deref().unwrap_or_default())?,
            checksum: op.checksum.clone(),
            keep_git_dir: op.keep_git_dir,
            submodules: query.submodules.is_none_or(|value| is_true(&value)),
            commit_time: match query.mtime.as_deref() {
                None | Some("checkout") => false,
                Some("commit") => true,
                Some(other) => return Err(invalid(&url, "mtime", other)),
            },
        };
        location.check(&url)?;
        Ok(location)
    }

    /// Refuses what git could take for an option or something else than it is.
    fn check(&self, url: &str) -> Result<(), LocationError> {
        if self.remote.starts_with('-') || self.remote.chars().any(char::is_control) {
            return Err(invalid(url, "repository", &self.remote));
        }
        if let Some(name) = &self.reference {
            let special = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
            if name.starts_with('-') || name.contains("..") || name.contains(special) {
                return Err(invalid(url, "ref", name));
            }
        }
        if let Some(checksum) = &self.checksum {
            let is_hex = checksum
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !is_hex || checksum.len() < ABBREVIATION || checksum.len() > SHA256 {
                return Err(invalid(url, "checksum of a commit", checksum));
            }
        }
        Ok(())
    }

    /// Host without port; `None` for addresses that have none.
    pub(super) fn host(&self) -> Option<&str> {
        let (_, rest) = self.remote.split_once("://")?;
        let authority = rest.split('/').next().unwrap_or_default();
        Some(
            authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host),
        )
    }

    pub(super) fn is_http(&self) -> bool {
        let scheme = self.remote.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|s| s.eq_ignore_ascii_case("http") || s.eq_ignore_ascii_case("https"))
    }

    pub(super) fn is_ssh(&self) -> bool {
        match self.remote.split_once("://") {
            Some((scheme, _)) => scheme.eq_ignore_ascii_case("ssh"),
            // user@host:path
            None => true,
        }
    }

    /// The address for people.
    pub(super) fn shown(&self) -> String {
        redact(&self.remote)
    }
}

/// Hexadecimal digits a commit needs to be recognised, as git has it.
const ABBREVIATION: usize = 7;
const SHA1: usize = 40;
const SHA256: usize = 64;

pub(super) fn is_full_commit(name: &str) -> bool {
    matches!(name.len(), SHA1 | SHA256) && is_hex(name)
}

pub(super) fn may_be_abbreviated(name: &str) -> bool {
    (ABBREVIATION..SHA256).contains(&name.len()) && is_hex(name)
}

fn is_hex(name: &str) -> bool {
    name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(crate) fn is_true(value: &str) -> bool {
    matches!(value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn invalid(url: &str, what: &'static str, value: &str) -> LocationError {
    LocationError::Invalid {
        url: url.to_owned(),
        what,
        value: value.to_owned(),
    }
}

fn one(
    url: &str,
    what: &'static str,
    first: Option<String>,
    second: Option<String>,
) -> Result<Option<String>, LocationError> {
    match (first, second) {
        (Some(first), Some(second)) if first != second => Err(LocationError::Conflict {
            url: url.to_owned(),
            what,
            first,
            second,
        }),
        (first, second) => Ok(first.or(second)),
    }
}

fn full(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        return name.to_owned();
    }
    format!("{prefix}{name}")
}

/// Only `http` carries secrets in front of the host; the user of ssh is a part of the address.
fn split_userinfo(address: &str) -> (String, Option<(String, String)>) {
    let nothing = || (address.to_owned(), None);
    let Some((scheme, rest)) = address.split_once("://") else {
        return nothing();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((userinfo, host)) = authority.rsplit_once('@') else {
        return nothing();
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    if scheme.eq_ignore_ascii_case("ssh") || scheme.eq_ignore_ascii_case("git") {
        // A password would end in logs, and ssh takes none.
        return (format!("{scheme}://{user}@{host}{path}"), None);
    }
    let pair = (percent_decode(user), percent_decode(password));
    (format!("{scheme}://{host}{path}"), Some(pair))
}

/// No `..` may lead out.
fn clean(url: &str, subdir: &str) -> Result<String, LocationError> {
    let mut kept: Vec<&str> = Vec::new();
    for part in subdir.split('/') {
        match part {
            "" | "." => {}
            ".." if kept.pop().is_none() => return Err(invalid(url, "directory", subdir)),
            ".." => {}
            part => kept.push(part),
        }
    }
    Ok(kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Location, LocationError> {
        Location::parse(&op::Git {
            url: url.to_owned(),
            keep_git_dir: false,
            checksum: None,
        })
    }

    #[test]
    fn g02_fragment_and_query() {
        for (url, reference, subdir) in [
            ("https://e.x/r.git", None, ""),
            ("https://e.x/r.git#main", Some("main"), ""),
            ("https://e.x/r.git#main:a/b", Some("main"), "a/b"),
            ("https://e.x/r.git#:a//b/", None, "a/b"),
            ("https://e.x/r.git#:a/../b", None, "b"),
            ("https://e.x/r.git?tag=v1", Some("refs/tags/v1"), ""),
            (
                "https://e.x/r.git?branch=x&subdir=a",
                Some("refs/heads/x"),
                "a",
            ),
            ("https://e.x/r.git?ref=a%2Fb", Some("a/b"), ""),
            ("https://e.x/r.git?commit=abcdef1", Some("abcdef1"), ""),
            ("https://e.x/r.git?checksum=abcdef1#main", Some("main"), ""),
            ("https://e.x/r.git?subdir=a#main:a", Some("main"), "a"),
            ("git@e.x:o/r.git#v1", Some("v1"), ""),
        ] {
            let location = parse(url).unwrap();
            assert_eq!(location.reference.as_deref(), reference, "{url}");
            assert_eq!(location.subdir, subdir, "{url}");
        }
    }

    #[test]
    fn g03_conflicts_and_nonsense() {
        for (url, says) in [
            (
                "https://e.x/r.git?ref=a#b",
                "conflicting values for the ref: \"b\" and \"a\"",
            ),
            (
                "https://e.x/r.git?tag=a&branch=b",
                "conflicting values for the ref",
            ),
            (
                "https://e.x/r.git?tag=a#a",
                "conflicting values for the ref",
            ),
            (
                "https://e.x/r.git?subdir=a#:b",
                "conflicting values for the directory",
            ),
            (
                "https://e.x/r.git?color=red",
                "\"color\" cannot be a key of the query",
            ),
            ("https://e.x/r.git?mtime=now", "\"now\" cannot be a mtime"),
            ("https://e.x/r.git#:../x", "\"../x\" cannot be a directory"),
            ("https://e.x/r.git#--upload-pack=x", "cannot be a ref"),
            (
                "https://u:secret@e.x/r.git#a..b",
                "https://e.x/r.git#a..b: \"a..b\" cannot be a ref",
            ),
        ] {
            let message = parse(url).unwrap_err().to_string();
            assert!(message.contains(says), "{url}: {message}");
        }
    }

    #[test]
    fn d17_secrets_are_split_off() {
        let location = parse("https://me:p%40ss@e.x:8443/r.git").unwrap();
        assert_eq!(location.remote, "https://e.x:8443/r.git");
        assert_eq!(location.userinfo, Some(("me".into(), "p@ss".into())));
        assert_eq!(location.host(), Some("e.x:8443"));
        let location = parse("ssh://git:pw@e.x/r").unwrap();
        assert_eq!(
            (location.remote.as_str(), location.userinfo),
            ("ssh://git@e.x/r", None)
        );
        assert!(parse("git@e.x:r").unwrap().is_ssh());
    }
}
