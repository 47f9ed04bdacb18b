//! Reads a directory in overlay-upper format as layer items, and gives the files in it the times
//! they will have in the layer, so that a later step sees what the image will hold.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use walkdir::WalkDir;

use crate::content::{Content, Item};
use crate::dirwriter::open_directory;
use crate::error::{Error, Result};
use crate::owner::Owners;
use crate::tree::{Entry, Kind};

/// The only extended attribute that a layer keeps (rule L12).
pub const CAPABILITY: &str = "security.capability";
const OVERLAY_OPAQUE: &str = "user.overlay.opaque";

/// Which times are those of the step itself, and what they become.
#[derive(Debug, Clone, Copy)]
pub struct StepClock {
    /// The step ran from `start` to `end`, as the file system's clock tells: `(seconds,
    /// nanoseconds)` since 1970.
    pub start: (i64, i64),
    pub end: (i64, i64),
    /// Seconds since 1970 given to every file whose time lies between the two.
    pub epoch: i64,
}

impl StepClock {
    /// The time of a file of the layer, and whether the one on disk, `at`, is another.
    fn settle(&self, at: (i64, i64)) -> (i64, bool) {
        // Many programs set times of whole seconds: one in the second of the start is of the step.
        let start = if at.1 == 0 {
            (self.start.0, 0)
        } else {
            self.start
        };
        if start <= at && at <= self.end {
            (self.epoch, true)
        } else {
            (at.0, at.1 != 0)
        }
    }
}

/// All entries below `directory`, sorted, with [`Kind::File`] hashes still zero (the layer writer
/// fills them in). With a clock, times are settled on disk as well: those of the step become its
/// epoch, others lose their fraction (rule L02).
///
/// Sockets are left out (rule L13) and, with a clock, removed: what a later step sees must not
/// depend on whether the layer was kept as a directory or read back from its blob. Whiteouts are
/// told from device nodes by number 0:0.
///
/// # Errors
/// [`Error::Io`]; [`Error::Entry`] for a name starting with `.wh.`, which no layer can hold
/// (rule L10).
pub fn scan(directory: &Path, owners: Owners, clock: Option<&StepClock>) -> Result<Vec<Item>> {
    scan_where(directory, owners, clock, |_, _| true)
}

/// [`scan`], but only of what `wanted` asks for, by path and state.
pub(crate) fn scan_where(
    directory: &Path,
    owners: Owners,
    clock: Option<&StepClock>,
    mut wanted: impl FnMut(&[u8], &Stat) -> bool,
) -> Result<Vec<Item>> {
    let root = Arc::new(open_directory(directory)?);
    let mut items = Vec::new();
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for found in WalkDir::new(directory).min_depth(1).sort_by_file_name() {
        let found = found.map_err(|e| {
            let path = e.path().unwrap_or(directory).to_path_buf();
            Error::Io {
                action: "read",
                path,
                source: e.into(),
            }
        })?;
        let path = found.path();
        let relative = path
            .strip_prefix(directory)
            .unwrap_or(path)
            .as_os_str()
            .as_bytes();
        let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::io("stat", path))?;
        if !wanted(relative, &stat) {
            continue;
        }
        let Some(item) = item(path, relative, &stat, &root, owners, clock, &mut links)? else {
            continue;
        };
        items.push(item);
    }
    Ok(items)
}

fn item(
    path: &Path,
    relative: &[u8],
    stat: &Stat,
    root: &Arc<OwnedFd>,
    owners: Owners,
    clock: Option<&StepClock>,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
) -> Result<Option<Item>> {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    if file_type == FileType::CharacterDevice && (major, minor) == (0, 0) {
        // Overlayfs hard-links whiteouts to one inode: before any link detection.
        return Ok(Some(Item {
            entry: whiteout(relative),
            content: Content::None,
        }));
    }
    if path
        .file_name()
        .is_some_and(|n| n.as_bytes().starts_with(b".wh."))
    {
        let reason = "a name starting with .wh. cannot be stored in an image layer";
        return Err(Error::Entry {
            path: format!("/{}", String::from_utf8_lossy(relative)),
            reason,
        });
    }
    let mtime = settle(path, stat, clock)?;
    let mut content = Content::None;
    let first = (stat.st_nlink > 1 && file_type != FileType::Directory).then(|| {
        links
            .entry((stat.st_dev, stat.st_ino))
            .or_insert_with(|| relative.to_vec())
    });
    let kind = match (file_type, first) {
        (FileType::Socket, _) => {
            if clock.is_some() {
                remove_socket(path)?;
            }
            return Ok(None);
        }
        (FileType::Directory, _) => Kind::Directory {
            opaque: is_opaque(path)?,
        },
        (_, Some(first)) if first != relative => {
            // Readable under this name too: the first name may not make it into the layer.
            content = Content::Beneath {
                root: root.clone(),
                path: relative.to_vec(),
            };
            Kind::HardLink {
                target: first.clone(),
            }
        }
        (FileType::Symlink, _) => Kind::Symlink {
            target: rustix::fs::readlinkat(CWD, path, Vec::new())
                .map_err(Error::io("read link", path))?
                .into_bytes(),
        },
        (FileType::CharacterDevice, _) => Kind::CharDevice { major, minor },
        (FileType::BlockDevice, _) => Kind::BlockDevice { major, minor },
        (FileType::Fifo, _) => Kind::Fifo,
        _ => {
            content = Content::Beneath {
                root: root.clone(),
                path: relative.to_vec(),
            };
            Kind::File {
                size: u64::try_from(stat.st_size).unwrap_or(0),
                hash: [0; 32],
            }
        }
    };
    let xattrs = match kind {
        Kind::File { .. } | Kind::HardLink { .. } => capability(path)?,
        _ => Vec::new(),
    };
    let (uid, gid) = owners
        .of(path, stat)
        .map_err(Error::io("read the owner of", path))?;
    let path = relative.to_vec();
    let entry = Entry {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid,
        gid,
        mtime,
        xattrs,
    };
    Ok(Some(Item { entry, content }))
}

/// The entry that removes `path` (rules L07, E09).
#[must_use]
pub fn whiteout(path: &[u8]) -> Entry {
    Entry {
        path: path.to_vec(),
        kind: Kind::Whiteout,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

fn settle(path: &Path, stat: &Stat, clock: Option<&StepClock>) -> Result<i64> {
    let Some(clock) = clock else {
        return Ok(stat.st_mtime);
    };
    #[allow(clippy::cast_possible_wrap, reason = "nanoseconds are below 2^30")]
    let (mtime, changed) = clock.settle((stat.st_mtime, stat.st_mtime_nsec as i64));
    if changed {
        let last_modification = Timespec {
            tv_sec: mtime,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: last_modification,
            last_modification,
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::io("set the time of", path))?;
    }
    Ok(mtime)
}

/// Without a trace in the time of the directory, which is settled already.
pub(crate) fn remove_socket(path: &Path) -> Result<()> {
    let remove = || -> std::io::Result<()> {
        let parent = path.parent().unwrap_or(path);
        let stat = rustix::fs::stat(parent)?;
        std::fs::remove_file(path)?;
        let at = |seconds, nanoseconds| Timespec {
            tv_sec: seconds as _,
            tv_nsec: nanoseconds as _,
        };
        let times = Timestamps {
            last_access: at(stat.st_atime, stat.st_atime_nsec),
            last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
        };
        Ok(rustix::fs::utimensat(
            CWD,
            parent,
            &times,
            AtFlags::empty(),
        )?)
    };
    remove().map_err(Error::io("remove the socket", path))
}

fn is_opaque(path: &Path) -> Result<bool> {
    let mut value = [0_u8; 8];
    match rustix::fs::lgetxattr(path, OVERLAY_OPAQUE, &mut value[..]) {
        // `x` only says that whiteouts in the form of attributes are in there.
        Ok(n) => Ok(&value[..n] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(Error::io("read attributes of", path)(e)),
    }
}

fn capability(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut value = [0_u8; 64];
    match rustix::fs::lgetxattr(path, CAPABILITY, &mut value[..]) {
        Ok(n) => Ok(vec![(CAPABILITY.into(), value[..n].to_vec())]),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::OVERFLOW) => Ok(Vec::new()),
        Err(e) => Err(Error::io("read attributes of", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn l13_sockets_do_not_stay_in_the_directory_of_a_layer() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let handle = std::fs::File::open(&run).unwrap();
        // The name of the directory may be too long for a socket address.
        let address = format!("/proc/self/fd/{}/socket", handle.as_raw_fd());
        let _socket = std::os::unix::net::UnixListener::bind(address).unwrap();
        let clock = StepClock {
            start: (0, 0),
            end: (i64::MAX, 0),
            epoch: 7,
        };
        let scan = || scan(directory.path(), Owners::Inode, Some(&clock)).unwrap();
        let paths: Vec<_> = scan().into_iter().map(|item| item.entry.path).collect();
        assert_eq!(paths, [b"run"]);
        assert!(!run.join("socket").exists());
        assert_eq!(rustix::fs::stat(&run).unwrap().st_mtime, 7);
    }

    #[test]
    fn l02_times_of_the_step_are_settled_also_when_a_program_cut_their_fraction() {
        let clock = StepClock {
            start: (100, 500),
            end: (102, 500),
            epoch: 7,
        };
        for (at, want) in [
            ((100, 499), (100, true)),
            ((100, 500), (7, true)),
            ((100, 0), (7, true)),
            ((102, 0), (7, true)),
            ((102, 501), (102, true)),
            ((99, 0), (99, false)),
            ((103, 0), (103, false)),
        ] {
            assert_eq!(clock.settle(at), want, "{at:?}");
        }
    }
}
