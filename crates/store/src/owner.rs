//! Who owns a file of a layer directory: the one place that knows how owners are kept on disk.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

/// The extended attribute of [`Owners::Recorded`]: `UID:GID` in decimal.
pub const ATTRIBUTE: &str = "user.layercake.owner";

/// The longest value: two ids and a colon.
const VALUE_MAX: usize = 21;

/// How owners are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owners {
    /// In the inode: this process may give files away (root, or root of a user namespace with a
    /// range of ids).
    Inode,
    /// In [`ATTRIBUTE`]; without it the owner is root. For a user with one id, to whom all files
    /// belong. Files that take no attributes (symlinks, fifos, devices) have their owners in the
    /// layer's index only.
    Recorded,
}

impl Owners {
    /// Owner and group of the file at `path` (not followed) as the image has them.
    ///
    /// # Errors
    /// When the attribute cannot be read.
    pub fn of(self, path: &Path, stat: &Stat) -> io::Result<(u32, u32)> {
        match self {
            Self::Inode => Ok((stat.st_uid, stat.st_gid)),
            Self::Recorded if takes_attributes(stat) => recorded(path),
            Self::Recorded => Ok((0, 0)),
        }
    }

    /// Gives `path`, a file or directory just made, to `uid:gid`.
    ///
    /// # Errors
    /// Those of `chown(2)` and `setxattr(2)`.
    pub fn give(self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        match self {
            Self::Inode => {
                let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::chown(path, Some(user), Some(group))
                    .map_err(|errno| refused(errno, uid, gid))
            }
            Self::Recorded if (uid, gid) == (0, 0) => Ok(()),
            Self::Recorded => {
                let value = encode((uid, gid));
                Ok(rustix::fs::setxattr(
                    path,
                    ATTRIBUTE,
                    &value,
                    XattrFlags::empty(),
                )?)
            }
        }
    }

    /// Gives `name` in `directory` (not followed when it is a symlink) to `uid:gid`. Also when that
    /// is 0:0: a file made in a setgid directory has the directory's group. `is_new`: no other
    /// owner can be there.
    pub(crate) fn set(
        self,
        directory: impl AsFd,
        name: &[u8],
        (uid, gid): (u32, u32),
        is_new: bool,
    ) -> io::Result<()> {
        match self {
            Self::Inode => rustix::fs::chownat(
                directory,
                name,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|errno| refused(errno, uid, gid)),
            Self::Recorded if is_new && (uid, gid) == (0, 0) => Ok(()),
            Self::Recorded => record(directory, name, (uid, gid)),
        }
    }
}

/// An owner that the ids of this user namespace do not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "owner {uid}:{gid} is none of the ids that this user may give files to ({ids}): larger ranges \
     in /etc/subuid and /etc/subgid allow it, and --isolation=single-id can hold any owner"
)]
struct Unmapped {
    uid: u32,
    gid: u32,
    ids: String,
}

fn refused(errno: Errno, uid: u32, gid: u32) -> io::Error {
    if errno != Errno::INVAL {
        return errno.into();
    }
    let ids =
        |file| std::fs::read_to_string(file).map_or_else(|_| "?".to_owned(), |map| mapped(&map));
    let (users, groups) = (ids("/proc/self/uid_map"), ids("/proc/self/gid_map"));
    let ids = if users == groups {
        users
    } else {
        format!("users {users}, groups {groups}")
    };
    io::Error::new(io::ErrorKind::InvalidInput, Unmapped { uid, gid, ids })
}

/// The ids of a `/proc/PID/uid_map` (user_namespaces(7)) as ranges, such as `0-65536`.
fn mapped(map: &str) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for line in map.lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        if let (Some(Ok(first)), Some(_), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
            && count > 0
        {
            ranges.push((first, first + (count - 1)));
        }
    }
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let joins = range.1 + 1 == next.0;
        if joins {
            range.1 = next.1;
        }
        joins
    });
    let texts: Vec<String> = ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect();
    texts.join(", ")
}

fn takes_attributes(stat: &Stat) -> bool {
    matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::RegularFile | FileType::Directory
    )
}

fn recorded(path: &Path) -> io::Result<(u32, u32)> {
    let mut value = [0_u8; VALUE_MAX];
    match rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value) {
        Ok(length) => decode(&value[..length])
            .ok_or_else(|| io::Error::other(format!("{ATTRIBUTE} is not of the form UID:GID"))),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok((0, 0)),
        Err(e) => Err(e.into()),
    }
}

fn record(directory: impl AsFd, name: &[u8], owner: (u32, u32)) -> io::Result<()> {
    let directory = directory.as_fd();
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !takes_attributes(&stat) {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    if owner == (0, 0) {
        return match rustix::fs::fremovexattr(&file, ATTRIBUTE) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        };
    }
    Ok(rustix::fs::fsetxattr(
        &file,
        ATTRIBUTE,
        &encode(owner),
        XattrFlags::empty(),
    )?)
}

/// The value of [`ATTRIBUTE`].
#[must_use]
pub fn encode((uid, gid): (u32, u32)) -> Vec<u8> {
    format!("{uid}:{gid}").into_bytes()
}

/// The owner that a value of [`ATTRIBUTE`] says; `None` for one that is not ours.
#[must_use]
pub fn decode(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Entry, Kind};

    #[test]
    fn mapped_ids_are_told_as_ranges() {
        for (map, text) in [
            (
                "         0       1000          1\n         1     100000      65536\n",
                "0-65536",
            ),
            ("0 0 4294967295\n", "0-4294967294"),
            ("0 1000 1\n1000 100000 10\n", "0-0, 1000-1009"),
            ("", ""),
        ] {
            assert_eq!(mapped(map), text);
        }
        let told = refused(Errno::INVAL, 70000, 5).to_string();
        assert!(
            told.contains("70000:5") && told.contains("single-id"),
            "{told}"
        );
        assert_eq!(refused(Errno::ROFS, 1, 1).raw_os_error(), Some(30));
    }

    #[test]
    fn values_are_read_back() {
        for owner in [(0, 0), (33, 4), (u32::MAX, u32::MAX)] {
            let value = encode(owner);
            assert!(value.len() <= VALUE_MAX);
            assert_eq!(decode(&value), Some(owner));
        }
        for value in [b"".as_slice(), b"5", b"a:b", b"5:6:7", b"-1:0", b"\xff:1"] {
            assert_eq!(decode(value), None);
        }
    }

    #[test]
    fn recorded_owners_need_no_privilege() {
        let directory = tempfile::tempdir().unwrap();
        let fd = crate::dirwriter::open_directory(directory.path()).unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::symlink("f", directory.path().join("l")).unwrap();
        let owner = || {
            Owners::Recorded
                .of(&path, &rustix::fs::lstat(&path).unwrap())
                .unwrap()
        };
        assert_eq!(owner(), (0, 0));
        Owners::Recorded.set(&fd, b"f", (33, 4), true).unwrap();
        assert_eq!(owner(), (33, 4));
        Owners::Recorded.set(&fd, b"f", (0, 0), false).unwrap();
        assert_eq!(owner(), (0, 0));
        Owners::Recorded.give(&path, 7, 8).unwrap();
        assert_eq!(owner(), (7, 8));
        // Of a symlink nothing is kept, and what it leads to stays as it is.
        Owners::Recorded.set(&fd, b"l", (1, 1), true).unwrap();
        assert_eq!(owner(), (7, 8));
    }

    fn entry(path: &str, kind: Kind, owner: (u32, u32)) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o755,
            uid: owner.0,
            gid: owner.1,
            mtime: 0,
            // What an archive says of it does not count.
            xattrs: vec![(ATTRIBUTE.into(), b"1:1".to_vec())],
        }
    }

    #[test]
    fn layer_directories_carry_recorded_owners() {
        let directory = tempfile::tempdir().unwrap();
        let fd = crate::dirwriter::open_directory(directory.path()).unwrap();
        let mut writer = crate::dirwriter::DirWriter::new(fd, Owners::Recorded);
        let dir = || Kind::Directory { opaque: false };
        let file = Kind::File {
            size: 0,
            hash: [0; 32],
        };
        let target = b"f".to_vec();
        for entry in [
            entry("d", dir(), (5, 6)),
            entry("d/f", file.clone(), (7, 8)),
            entry("e", dir(), (5, 6)),
            entry("e", dir(), (0, 0)),
            entry("l", Kind::Symlink { target }, (9, 9)),
            entry("r", file, (0, 0)),
        ] {
            writer.write(&entry, &mut io::empty()).unwrap();
        }
        writer.finish().unwrap();
        let items = crate::scan::scan(directory.path(), Owners::Recorded, None).unwrap();
        let found: Vec<_> = items
            .iter()
            .map(|item| {
                let entry = &item.entry;
                (
                    String::from_utf8_lossy(&entry.path).into_owned(),
                    (entry.uid, entry.gid),
                )
            })
            .collect();
        let expected = [
            ("d", (5, 6)),
            ("d/f", (7, 8)),
            ("e", (0, 0)),
            ("l", (0, 0)),
            ("r", (0, 0)),
        ];
        assert_eq!(
            found,
            expected.map(|(path, owner)| (path.to_owned(), owner))
        );
    }
}
