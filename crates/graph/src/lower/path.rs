//! Paths inside images: text only, `/` as separator.

/// Joins `path` to `base` unless it is absolute, and cleans the result: absolute, no `.`, no
/// empty parts, `..` clamped at the root (rules C01, C04, W01).
#[must_use]
pub(crate) fn resolve(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { base };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// What `WORKDIR path` makes of the working directory `current`: an absolute path stays as it is
/// written, with `..` and trailing slashes, as BuildKit leaves it; others are [`resolve`]d (rules
/// W01, W08).
#[must_use]
pub(crate) fn working_directory(current: &str, path: &str) -> String {
    let unchanged = path.is_empty() && current.starts_with('/');
    if unchanged || path.starts_with('/') {
        let as_written = if unchanged { current } else { path };
        return as_written.to_owned();
    }
    resolve(current, path)
}

/// [`resolve`]d, with the trailing `/` of a destination that must be a directory: one that ends
/// in `/` or `/.`, is `.` or empty (rule C02).
#[must_use]
pub(crate) fn destination(workdir: &str, path: &str) -> String {
    let mut clean = resolve(workdir, path);
    let directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    if directory && clean != "/" {
        clean.push('/');
    }
    clean
}

/// Relative to a root, `""` being the root itself (rule C01).
#[must_use]
pub(crate) fn relative(path: &str) -> String {
    resolve("", path)[1..].to_owned()
}

/// The last component; `/` and the empty path have none.
#[must_use]
pub(crate) fn base_name(path: &str) -> Option<&str> {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c02_c04_destinations() {
        for (workdir, path, expected) in [
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "/abs", "/abs"),
            ("/w", "/abs/.", "/abs/"),
            ("/w", "../../x", "/x"),
            ("/", "/", "/"),
            ("/", ".", "/"),
            ("/w", "/a/../b/", "/b/"),
        ] {
            assert_eq!(destination(workdir, path), expected, "{workdir} {path}");
        }
    }

    #[test]
    fn w01_absolute_working_directories_stay_as_written() {
        for (current, path, expected) in [
            ("/w", "a", "/w/a"),
            ("/w/", "a/", "/w/a"),
            ("/w/", "", "/w/"),
            ("/w", "../../x", "/x"),
            ("/w", "/a/", "/a/"),
            ("/w", "/a/../b//", "/a/../b//"),
            ("", "", "/"),
            ("a", "", "/a"),
        ] {
            assert_eq!(
                working_directory(current, path),
                expected,
                "{current} {path}"
            );
        }
    }

    #[test]
    fn c01_sources_are_clamped_to_their_root() {
        for (path, expected) in [
            ("/a/b", "a/b"),
            ("./a", "a"),
            ("../../a", "a"),
            ("a/", "a"),
            (".", ""),
            ("/", ""),
            ("a/./b//c", "a/b/c"),
        ] {
            assert_eq!(relative(path), expected, "{path}");
        }
    }
}
