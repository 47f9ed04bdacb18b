//! Which `ADD` sources are not files of the context: git repositories and downloads (rules D12,
//! D18). The text after `#` and `?` of a git URL is checked here and interpreted by the fetcher.

use std::borrow::Cow;

use super::error::LowerError;
use super::path;

/// Where a source of `ADD` or `COPY` comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Local,
    Http {
        /// The name of the downloaded file (rule D12).
        name: String,
    },
    Git(GitOptions),
}

/// What the query of a git URL says about things `ADD` has flags for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GitOptions {
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) checksum: Option<String>,
}

const UNNAMED: &str = "__unnamed__";

/// Tells what kind of source `text` is.
///
/// # Errors
/// When it is a git URL with a query that is not understood (rule G03).
pub(crate) fn classify(text: &str) -> Result<Source, LowerError> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let (location, query) = split_location(rest);
        let path = location.split_once('/').map_or("", |(_, path)| path);
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => git_options(query).map(Source::Git),
            "http" | "https" if path.ends_with(".git") => git_options(query).map(Source::Git),
            // BuildKit takes only the lower-case spelling for a download.
            "http" | "https" if matches!(scheme, "http" | "https") => {
                let name = path::base_name(path).unwrap_or(UNNAMED);
                Ok(Source::Http {
                    name: percent_decode(name),
                })
            }
            _ => Ok(Source::Local),
        };
    }
    if is_scp_like(text) {
        let (_, query) = split_location(text);
        return git_options(query).map(Source::Git);
    }
    Ok(Source::Local)
}

/// `location[?query][#fragment]`.
fn split_location(text: &str) -> (&str, &str) {
    let text = text.split('#').next().unwrap_or_default();
    text.split_once('?').unwrap_or((text, ""))
}

/// `user@host:path`.
fn is_scp_like(text: &str) -> bool {
    let name = |text: &str, more: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    text.split_once('@').is_some_and(|(user, rest)| {
        rest.split_once(':')
            .is_some_and(|(host, _)| name(user, "-_") && name(host, "-."))
    })
}

fn git_options(query: &str) -> Result<GitOptions, LowerError> {
    let mut options = GitOptions::default();
    let mut seen: Vec<&str> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if seen.contains(&key) {
            return Err(LowerError::value(format!(
                "query \"{key}\" has multiple values"
            )));
        }
        seen.push(key);
        match key {
            "keep-git-dir" | "submodules" | "fetch-by-commit" => {
                let flag = boolean(key, value)?;
                if key == "keep-git-dir" {
                    options.keep_git_dir = Some(flag);
                }
            }
            "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" | "mtime" => {
                if value.is_empty() {
                    return Err(LowerError::value(format!("query \"{key}\" has no value")));
                }
                if matches!(key, "checksum" | "commit") {
                    options.checksum = Some(value.to_owned());
                }
            }
            _ => return Err(LowerError::value(format!("unexpected query \"{key}\""))),
        }
    }
    Ok(options)
}

fn boolean(key: &str, value: &str) -> Result<bool, LowerError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(LowerError::value(format!(
            "invalid {key} value: \"{value}\""
        ))),
    }
}

/// Text that decodes to something else than UTF-8 stays as it is.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = match (first, tail) {
            (b'%', [a, b, ..]) => std::str::from_utf8(&[*a, *b])
                .ok()
                .and_then(|hex| u8::from_str_radix(hex, 16).ok()),
            _ => None,
        };
        bytes.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|name| !name.contains(['/', '\0']))
        .unwrap_or_else(|| text.to_owned())
}

/// `text` without the user names and passwords in its URLs, in the way of BuildKit; the user of
/// an ssh address is no secret (rule D17).
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    const HIDDEN: &str = "xxxxx:xxxxx";
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let ends = |c: char| c.is_whitespace() || "/?#\"'".contains(c);
        let (authority, tail) = after.split_at(after.find(ends).unwrap_or(after.len()));
        match authority.rsplit_once('@') {
            Some((user, host)) if user.contains(':') || !before.ends_with("ssh://") => {
                shown.push_str(&format!("{HIDDEN}@{host}"));
            }
            _ => shown.push_str(authority),
        }
        rest = tail;
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d17_secrets_in_urls_are_not_shown() {
        for (text, shown) in [
            ("ADD a b", "ADD a b"),
            ("ADD https://e.x/a@b c", "ADD https://e.x/a@b c"),
            (
                "ADD https://me:pw@e.x/a \"http://t@e.x\" c",
                "ADD https://xxxxx:xxxxx@e.x/a \"http://xxxxx:xxxxx@e.x\" c",
            ),
            (
                "ssh://git@e.x/r ssh://a:b@e.x/r",
                "ssh://git@e.x/r ssh://xxxxx:xxxxx@e.x/r",
            ),
        ] {
            assert_eq!(redact(text), shown, "{text}");
        }
    }

    #[test]
    fn d12_d18_downloads_and_repositories() {
        let http = |name: &str| Source::Http {
            name: name.to_owned(),
        };
        let git = || Source::Git(GitOptions::default());
        for (text, expected) in [
            ("https://e.x/a/b.tar.gz?x=1", http("b.tar.gz")),
            ("http://e.x", http("__unnamed__")),
            ("http://e.x/dir/", http("dir")),
            ("https://e.x/a%20b", http("a b")),
            ("https://e.x/o/r.git", git()),
            ("https://e.x/o/r.git#main:sub", git()),
            ("git@e.x:o/r", git()),
            ("git://e.x/o/r", git()),
            ("ssh://git@e.x/o/r", git()),
            ("HTTPS://e.x/f", Source::Local),
            ("ftp://e.x/f", Source::Local),
            ("github.com/o/r", Source::Local),
            ("./a@b:c", Source::Local),
            ("a/b", Source::Local),
        ] {
            assert_eq!(classify(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn g03_queries_of_git_urls() {
        let Source::Git(options) = classify("https://e.x/r.git?keep-git-dir&checksum=abc").unwrap()
        else {
            panic!("not git");
        };
        assert_eq!(options.keep_git_dir, Some(true));
        assert_eq!(options.checksum.as_deref(), Some("abc"));
        for (query, message) in [
            ("color=red", "unexpected query \"color\""),
            ("tag=", "query \"tag\" has no value"),
            ("tag=a&tag=b", "query \"tag\" has multiple values"),
            ("submodules=maybe", "invalid submodules value: \"maybe\""),
        ] {
            let error = classify(&format!("https://e.x/r.git?{query}")).unwrap_err();
            assert_eq!(error.message, message);
        }
    }
}
