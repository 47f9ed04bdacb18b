//! From the path that a process means to one that the supervisor can use.
//!
//! The supervisor's thread has the root of the step, and as working directory the /proc/PID of the
//! caller. So an absolute path is itself, and what the caller has open or is in can be reached as
//! `fd/N/..` and `cwd/..`: one string, for any call, with the kernel's own resolution.
//!
//! That /proc is not the step's: above /proc/PID lie processes that the step must not reach. No
//! path made here leads there, because `..` comes only behind a link of /proc/PID, and what lies
//! behind such a link is a place of the step.

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

/// A descriptor of the caller.
pub(super) fn descriptor(fd: u64) -> Place {
    let path = match fd as i32 {
        CWD => "cwd".to_owned(),
        fd => format!("fd/{fd}"),
    };
    Place {
        // Numbers and slashes have no null byte.
        path: CString::new(path).unwrap_or_default(),
        is_open: true,
    }
}

/// A path of the caller, relative to its descriptor `directory` when it is not absolute.
///
/// # Errors
/// `ENOENT` for the empty path, `ENAMETOOLONG`.
pub(super) fn path(directory: u64, path: &[u8]) -> Result<Place, Errno> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    below(descriptor(directory).path.as_bytes(), path)
}

/// What a symlink with this text leads to. Not for the links of /proc.
///
/// # Errors
/// As [`path`].
pub(super) fn behind(link: &Place, text: &[u8]) -> Result<Place, Errno> {
    let (directory, _) = parent(link).ok_or(Errno::NOENT)?;
    below(directory.as_bytes(), text)
}

/// A path of the caller, relative to a directory of the supervisor when it is not absolute.
fn below(directory: &[u8], path: &[u8]) -> Result<Place, Errno> {
    let text = if path.first() == Some(&b'/') {
        own(path).unwrap_or_else(|| path.to_vec())
    } else {
        [directory, b"/".as_slice(), path].concat()
    };
    if text.len() >= PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    Ok(Place {
        path: CString::new(text).map_err(|_| Errno::INVAL)?,
        is_open: false,
    })
}

/// A path that means a descriptor, the working directory or the root of the caller itself,
/// relative to its /proc/PID: the supervisor is another process, and in the step's /proc it is none
/// at all. Other files below /proc/self have no owners to be emulated.
fn own(path: &[u8]) -> Option<Vec<u8>> {
    let first = path.iter().position(|byte| *byte != b'/')?;
    let path = path.get(first.checked_sub(1)?..)?;
    match path {
        b"/dev/stdin" => return Some(b"fd/0".to_vec()),
        b"/dev/stdout" => return Some(b"fd/1".to_vec()),
        b"/dev/stderr" => return Some(b"fd/2".to_vec()),
        _ => {}
    }
    let below = |prefix: &[u8]| path.strip_prefix(prefix);
    let rest = match below(b"/dev/fd/") {
        Some(rest) => [b"fd/", rest].concat(),
        None => below(b"/proc/self/")
            .or_else(|| below(b"/proc/thread-self/"))?
            .to_vec(),
    };
    let mut names = rest.split(|byte| *byte == b'/');
    let is_safe = match names.next()? {
        b"cwd" | b"root" => true,
        b"fd" => {
            let number = names.next()?;
            !number.is_empty() && number.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    };
    is_safe.then_some(rest)
}

/// Whether the path depends on who the caller is.
pub(super) fn is_relative(place: &Place) -> bool {
    place.path.as_bytes().first() != Some(&b'/')
}

/// A path of the supervisor in two: the link of /proc/PID that it starts with (none in an absolute
/// one), and the way from there.
pub(super) fn split(place: &Place) -> (&[u8], &[u8]) {
    let path = place.path.as_bytes();
    let end = |path: &[u8]| path.iter().position(|byte| *byte == b'/');
    let start = match path.strip_prefix(b"fd/") {
        _ if !is_relative(place) => 0,
        Some(rest) => end(rest).map_or(path.len(), |length| b"fd/".len() + length),
        None => end(path).unwrap_or(path.len()),
    };
    let (start, rest) = path.split_at(start);
    match (start, rest.strip_prefix(b"/")) {
        // `openat` of an absolute path starts at the root.
        ([_, ..], Some(rest)) => {
            let from = rest.iter().position(|byte| *byte != b'/');
            (
                start,
                rest.get(from.unwrap_or(rest.len())..).unwrap_or_default(),
            )
        }
        _ => (start, rest),
    }
}

/// The directory that the last name of a path is in, and that name with the slashes behind it;
/// `None` when it is not one of a file that could be made.
pub(super) fn parent(place: &Place) -> Option<(CString, Vec<u8>)> {
    let path = place.path.as_bytes();
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let slash = path.get(..end)?.iter().rposition(|byte| *byte == b'/')?;
    let name = path.get(slash + 1..end)?;
    if matches!(name, b"." | b"..") {
        return None;
    }
    let directory = if slash == 0 { b"/" } else { path.get(..slash)? };
    let name = path.get(slash + 1..)?.to_vec();
    Some((CString::new(directory).ok()?, name))
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
            (cwd, b"a/../b", "cwd/a/../b"),
            (cwd, b".", "cwd/."),
            (u64::MAX - 99, b"x", "cwd/x"),
            (3, b"x", "fd/3/x"),
            (3, b"/x", "/x"),
            (cwd, b"/proc/thread-self/fd/1", "fd/1"),
            (cwd, b"/proc/self/cwd/../x", "cwd/../x"),
            (cwd, b"/proc/selfish", "/proc/selfish"),
            (cwd, b"/dev/fd/9", "fd/9"),
            (cwd, b"//dev/fd/9", "fd/9"),
            (cwd, b"///", "///"),
            (cwd, b"/dev/stdout", "fd/1"),
            (cwd, b"/dev/stdout2", "/dev/stdout2"),
        ];
        for (directory, given, expected) in cases {
            let place = path(*directory, given).unwrap();
            assert_eq!(text(&place), *expected);
            assert!(!place.is_open);
        }
        assert_eq!(path(cwd, b""), Err(Errno::NOENT));
        assert_eq!(path(cwd, &[b'a'; PATH_MAX]), Err(Errno::NAMETOOLONG));
    }

    /// Above its /proc/PID are processes that have the host's root.
    #[test]
    fn no_path_leads_out_of_the_own_process() {
        let cases: &[&[u8]] = &[
            b"/proc/self/../1/root/etc",
            b"/proc/self//../1/root",
            b"//proc/self/../1/root",
            b"/proc/self/./../1/root",
            b"/proc/self/task/../../1/root",
            b"/proc/self/fd/../../1/root",
            b"/proc/self/fd//../../1/root",
            b"/proc/self/status",
            b"/dev/fd/../../1/root",
            b"/dev/fd/",
            b"/proc/thread-self/../1/root",
        ];
        for given in cases {
            let place = path(CWD as u64, given).unwrap();
            assert_eq!(place.path.as_bytes(), *given);
            assert!(!is_relative(&place));
        }
    }

    #[test]
    fn links_lead_on_from_their_directory() {
        let cases: &[(&str, &[u8], &str)] = &[
            ("/var/log", b"/dev/stdout", "fd/1"),
            ("/var/log", b"../x", "/var/../x"),
            ("/log", b"x", "//x"),
            ("cwd/log", b"../1/root", "cwd/../1/root"),
            ("fd/3/log", b"/etc", "/etc"),
            ("cwd/log", b"/proc/self/../1/root", "/proc/self/../1/root"),
        ];
        for (link, target, expected) in cases {
            let link = Place {
                path: CString::new(*link).unwrap(),
                is_open: false,
            };
            assert_eq!(text(&behind(&link, target).unwrap()), *expected);
        }
    }

    #[test]
    fn descriptors_are_followed() {
        assert_eq!(text(&descriptor(5)), "fd/5");
        assert_eq!(text(&descriptor(CWD as u64)), "cwd");
        assert!(descriptor(5).is_open);
    }

    #[test]
    fn parents_of_what_is_to_be_made() {
        let cases: &[(&str, Option<(&str, &str)>)] = &[
            ("/a/b", Some(("/a", "b"))),
            ("/a", Some(("/", "a"))),
            ("/a/b//", Some(("/a", "b//"))),
            ("cwd/x", Some(("cwd", "x"))),
            ("cwd/.", None),
            ("/..", None),
            ("/", None),
        ];
        for (given, expected) in cases {
            let place = Place {
                path: CString::new(*given).unwrap(),
                is_open: false,
            };
            let found = parent(&place);
            let expected = expected.map(|(directory, name)| {
                (CString::new(directory).unwrap(), name.as_bytes().to_vec())
            });
            assert_eq!(found, expected, "{given}");
        }
    }

    #[test]
    fn a_way_starts_at_a_link_of_the_caller_or_at_the_root() {
        let cases = [
            ("/a/b", "", "/a/b"),
            ("cwd", "cwd", ""),
            ("cwd/a/../b", "cwd", "a/../b"),
            ("cwd//etc/x", "cwd", "etc/x"),
            ("fd/12", "fd/12", ""),
            ("fd/12/a/b/", "fd/12", "a/b/"),
            ("root/x", "root", "x"),
        ];
        for (given, start, rest) in cases {
            let place = Place {
                path: CString::new(given).unwrap(),
                is_open: false,
            };
            assert_eq!(
                split(&place),
                (start.as_bytes(), rest.as_bytes()),
                "{given}"
            );
        }
    }
}
