//! From the path that a process means to one that the supervisor can use.
//!
//! The supervisor's thread has the root of the step, and as working directory a /proc in which the
//! processes of the step have the numbers that notifications name. So an absolute path is itself,
//! and what a process has open or is in can be reached as `PID/fd/N/..` and `PID/cwd/..`: one
//! string, for any call, with the kernel's own resolution.

use std::ffi::CString;

use rustix::io::Errno;

/// The longest path the kernel takes, with its null byte.
pub(super) const PATH_MAX: usize = 4096;

/// `AT_FDCWD` as it stands in an argument.
const CWD: i32 = libc::AT_FDCWD;

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: CString,
    /// The path is a link of /proc that must be followed to come to what is meant.
    pub(super) is_open: bool,
}

/// A descriptor of a thread.
pub(super) fn descriptor(thread: u32, fd: u64) -> Place {
    let path = match fd as i32 {
        CWD => format!("{thread}/cwd"),
        fd => format!("{thread}/fd/{fd}"),
    };
    Place {
        // Numbers and slashes have no null byte.
        path: CString::new(path).unwrap_or_default(),
        is_open: true,
    }
}

/// A path of a thread, relative to its descriptor `directory` when it is not absolute.
///
/// # Errors
/// `ENOENT` for the empty path, `ENAMETOOLONG`.
pub(super) fn path(thread: u32, directory: u64, path: &[u8]) -> Result<Place, Errno> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let text = if path.first() == Some(&b'/') {
        match own(path) {
            Some(rest) => [format!("{thread}/").as_bytes(), rest].concat(),
            None => path.to_vec(),
        }
    } else {
        let base = descriptor(thread, directory).path.into_bytes();
        [&base, b"/".as_slice(), path].concat()
    };
    if text.len() >= PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    Ok(Place {
        path: CString::new(text).map_err(|_| Errno::INVAL)?,
        is_open: false,
    })
}

/// What follows `/proc/self/` in a path that means the caller itself. The supervisor is another
/// process, and in the step's /proc it is none at all.
fn own(path: &[u8]) -> Option<&[u8]> {
    const SELF: [(&[u8], bool); 4] = [
        (b"/proc/self/", true),
        (b"/proc/thread-self/", true),
        (b"/dev/fd/", false),
        (b"/dev/std", false),
    ];
    let (prefix, is_whole) = SELF.into_iter().find(|(p, _)| path.starts_with(p))?;
    let rest = path.get(prefix.len()..)?;
    if is_whole {
        return Some(rest);
    }
    match path {
        b"/dev/stdin" => Some(b"fd/0"),
        b"/dev/stdout" => Some(b"fd/1"),
        b"/dev/stderr" => Some(b"fd/2"),
        // "/dev/fd/7" without the leading "/dev/".
        _ if prefix == b"/dev/fd/" && !rest.is_empty() => path.get(b"/dev/".len()..),
        _ => None,
    }
}

/// The directory that the last name of a path is in, and that name; `None` when the last name is
/// not one of a file that could be made.
pub(super) fn parent(place: &Place) -> Option<CString> {
    let path = place.path.as_bytes();
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let path = path.get(..end)?;
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let name = path.get(slash + 1..)?;
    if matches!(name, b"." | b"..") {
        return None;
    }
    let directory = if slash == 0 { b"/" } else { path.get(..slash)? };
    CString::new(directory).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(place: &Place) -> &str {
        place.path.to_str().unwrap()
    }

    #[test]
    fn paths_of_a_process_become_paths_of_the_supervisor() {
        let cwd = CWD as u32 as u64;
        let cases: &[(u64, &[u8], &str)] = &[
            (cwd, b"/etc/passwd", "/etc/passwd"),
            (cwd, b"a/../b", "7/cwd/a/../b"),
            (cwd, b".", "7/cwd/."),
            (u64::MAX - 99, b"x", "7/cwd/x"),
            (3, b"x", "7/fd/3/x"),
            (3, b"/x", "/x"),
            (cwd, b"/proc/self/status", "7/status"),
            (cwd, b"/proc/thread-self/fd/1", "7/fd/1"),
            (cwd, b"/proc/selfish", "/proc/selfish"),
            (cwd, b"/dev/fd/9", "7/fd/9"),
            (cwd, b"/dev/stdout", "7/fd/1"),
            (cwd, b"/dev/stdout2", "/dev/stdout2"),
        ];
        for (directory, given, expected) in cases {
            let place = path(7, *directory, given).unwrap();
            assert_eq!(text(&place), *expected);
            assert!(!place.is_open);
        }
        assert_eq!(path(7, cwd, b""), Err(Errno::NOENT));
        assert_eq!(path(7, cwd, &[b'a'; PATH_MAX]), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn descriptors_are_followed() {
        assert_eq!(text(&descriptor(7, 5)), "7/fd/5");
        assert_eq!(text(&descriptor(7, CWD as u64)), "7/cwd");
        assert!(descriptor(7, 5).is_open);
    }

    #[test]
    fn parents_of_what_is_to_be_made() {
        let cases: &[(&str, Option<&str>)] = &[
            ("/a/b", Some("/a")),
            ("/a", Some("/")),
            ("/a/b//", Some("/a")),
            ("7/cwd/x", Some("7/cwd")),
            ("7/cwd/.", None),
            ("/..", None),
            ("/", None),
        ];
        for (given, expected) in cases {
            let place = Place {
                path: CString::new(*given).unwrap(),
                is_open: false,
            };
            let found = parent(&place);
            assert_eq!(
                found.as_deref().map(|p| p.to_str().unwrap()),
                *expected,
                "{given}"
            );
        }
    }
}
