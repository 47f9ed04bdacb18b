//! Finds mount points inside a root that is not mounted anywhere yet, and makes missing ones.
//!
//! The kernel could resolve a path below one directory (`RESOLVE_IN_ROOT`), but the mounts of a
//! step are still separate, detached trees here: `/a/b` may go through a mount at `/a` and an
//! absolute symlink in it back to the root. So paths are walked by component, with the root and
//! every mount placed so far as one virtual tree. No symlink is ever followed by the kernel.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::stubs::Stubs;

/// As many as the kernel follows (`MAXSYMLINKS`).
const SYMLINKS_MAX: u32 = 40;

/// Mode of directories that are made: what runc gives them.
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// What is at a mount point.
#[derive(Debug)]
pub(crate) enum View {
    /// A directory that can be walked.
    Directory(OwnedFd),
    /// A file: nothing is below it.
    File,
    /// A file system that exists only in the child, such as /proc. Paths through it are taken as
    /// they are written.
    Opaque,
}

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Directory,
    File,
}

impl Make {
    /// For messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
        }
    }
}

/// What becomes of that which is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Removed after the step if still empty (rules R13, R14).
    Step,
    /// Part of the result, such as the working directory (rule R03).
    Kept,
}

#[derive(Debug)]
struct Mounted {
    at: PathBuf,
    view: View,
    /// Where made things are recorded for removal; `None` if the mount vanishes with the step.
    surface: Option<usize>,
}

/// The root and the mounts placed in it.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The first is the root; a later one covers an earlier one at the same place.
    mounts: Vec<Mounted>,
    stubs: Stubs,
}

/// One directory on the way: how it is called below its parent, and where it is.
struct Level {
    name: OsString,
    directory: OwnedFd,
    /// Index in [`Tree::mounts`].
    mount: usize,
}

/// What is at a name.
enum Arrived {
    Directory(Level),
    Link(PathBuf),
    File(PathBuf),
    Opaque(PathBuf),
}

/// A resolved path.
#[derive(Debug)]
pub(crate) struct Place {
    /// Relative to the root, without symlinks, `.` or `..`; empty for the root itself.
    pub(crate) path: PathBuf,
    /// What is there; `None` where only the child can see it.
    pub(crate) kind: Option<Make>,
}

impl Place {
    /// For the child, which has the root as working directory.
    pub(crate) fn c_path(&self) -> CString {
        // Components of an accepted path have no null bytes.
        CString::new(self.path.as_os_str().as_bytes()).unwrap_or_default()
    }
}

impl Tree {
    /// `root` is the detached mount; `surface` is where made things will be found afterwards.
    pub(crate) fn new(root: OwnedFd, surface: OwnedFd, is_overlay: bool) -> Self {
        let mut stubs = Stubs::default();
        let surface = stubs.add_surface(surface, is_overlay);
        let root = Mounted {
            at: PathBuf::new(),
            view: View::Directory(root),
            surface: Some(surface),
        };
        Self {
            mounts: vec![root],
            stubs,
        }
    }

    /// Records that a mount will be attached at `place`. What is made in it for the step stays
    /// there, as in BuildKit: it is in no layer, and another step that shares the directory may
    /// be about to mount something in the same place (rule R23).
    pub(crate) fn mount(&mut self, place: &Place, view: View) {
        self.mounts.push(Mounted {
            at: place.path.clone(),
            view,
            surface: None,
        });
    }

    /// Lets go of all mounts; what was made is left to be removed.
    ///
    /// # Errors
    /// When the state of a directory that got a mount point cannot be read.
    pub(crate) fn into_stubs(self) -> Result<Stubs, Errno> {
        let Self { mounts, mut stubs } = self;
        let root = mounts.first().map(|mounted| &mounted.view);
        if let Some(View::Directory(root)) = root {
            stubs.seal(root.as_fd())?;
        }
        Ok(stubs)
    }

    /// Resolves `path` and makes what is missing: directories, and `make` as the last component.
    ///
    /// # Errors
    /// `ELOOP` for more than 40 symlinks, `ENOTDIR` for a file in the middle, `EROFS` for
    /// something missing on a read-only mount, others of the file system.
    pub(crate) fn place(
        &mut self,
        path: &Path,
        make: Make,
        lifetime: Lifetime,
    ) -> Result<Place, Errno> {
        let mut levels: Vec<Level> = Vec::new();
        let mut links = 0;
        let mut todo: VecDeque<OsString> = components(path).collect();
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                levels.pop();
                continue;
            }
            let make = if todo.is_empty() {
                make
            } else {
                Make::Directory
            };
            match self.arrive(&levels, name, make, lifetime)? {
                Arrived::Directory(level) => levels.push(level),
                Arrived::Link(target) => {
                    links += 1;
                    if links > SYMLINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    if target.is_absolute() {
                        levels.clear();
                    }
                    for component in components(&target).rev() {
                        todo.push_front(component);
                    }
                }
                Arrived::File(path) if todo.is_empty() => {
                    let kind = Some(Make::File);
                    return Ok(Place { path, kind });
                }
                Arrived::File(_) => return Err(Errno::NOTDIR),
                Arrived::Opaque(path) => return Ok(opaque(path, &todo)),
            }
        }
        let path = levels.into_iter().map(|level| level.name).collect();
        let kind = Some(Make::Directory);
        Ok(Place { path, kind })
    }

    /// Looks at one name in the innermost directory, and makes it if nothing is there.
    fn arrive(
        &mut self,
        levels: &[Level],
        name: OsString,
        make: Make,
        lifetime: Lifetime,
    ) -> Result<Arrived, Errno> {
        let at: PathBuf = levels
            .iter()
            .map(|level| &level.name)
            .chain([&name])
            .collect();
        if let Some(index) = self.mounts.iter().rposition(|mounted| mounted.at == at) {
            return match &self.mounts[index].view {
                View::Opaque => Ok(Arrived::Opaque(at)),
                View::File => Ok(Arrived::File(at)),
                View::Directory(directory) => {
                    let directory = rustix::io::fcntl_dupfd_cloexec(directory, 3)?;
                    Ok(Arrived::Directory(Level {
                        name,
                        directory,
                        mount: index,
                    }))
                }
            };
        }
        let (parent, mount) = self.top(levels)?;
        let kind = match kind_of(parent, &name) {
            Err(Errno::NOENT) => self.make(levels, &at, &name, make, lifetime)?,
            kind => kind?,
        };
        let (parent, _) = self.top(levels)?;
        match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, &name, Vec::new())?;
                Ok(Arrived::Link(
                    OsString::from_vec(target.into_bytes()).into(),
                ))
            }
            FileType::Directory => {
                let directory = open_directory(parent, &name)?;
                Ok(Arrived::Directory(Level {
                    name,
                    directory,
                    mount,
                }))
            }
            _ => Ok(Arrived::File(at)),
        }
    }

    /// The innermost directory reached, and the mount it is on.
    fn top<'a>(&'a self, levels: &'a [Level]) -> Result<(BorrowedFd<'a>, usize), Errno> {
        if let Some(level) = levels.last() {
            return Ok((level.directory.as_fd(), level.mount));
        }
        // A mount over the root itself is refused, so the root is always the first.
        match self.mounts.first().map(|mounted| &mounted.view) {
            Some(View::Directory(root)) => Ok((root.as_fd(), 0)),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Makes `at`, which is called `name` in the innermost directory.
    fn make(
        &mut self,
        levels: &[Level],
        at: &Path,
        name: &OsStr,
        make: Make,
        lifetime: Lifetime,
    ) -> Result<FileType, Errno> {
        let (parent, mount) = self.top(levels)?;
        let parent = rustix::io::fcntl_dupfd_cloexec(parent, 3)?;
        let mounted = self.mounts.get(mount).ok_or(Errno::NOENT)?;
        if let (Lifetime::Step, Some(surface)) = (lifetime, mounted.surface) {
            let relative = at.strip_prefix(&mounted.at).unwrap_or(at);
            self.stubs
                .will_make(surface, relative, make, parent.as_fd())?;
        }
        let made = match make {
            Make::Directory => {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(DIRECTORY_MODE))
            }
            Make::File => {
                let mode = Mode::from_raw_mode(FILE_MODE);
                rustix::fs::mknodat(&parent, name, FileType::RegularFile, mode, 0)
            }
        };
        match (made, make) {
            // Another step was faster in a directory that both have mounted.
            (Err(Errno::EXIST), _) => kind_of(parent.as_fd(), name),
            (Err(errno), _) => Err(errno),
            (Ok(()), Make::File) => Ok(FileType::RegularFile),
            (Ok(()), Make::Directory) => {
                // Whatever the umask of the caller is: other users have to pass.
                let mode = Mode::from_raw_mode(DIRECTORY_MODE);
                rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())?;
                Ok(FileType::Directory)
            }
        }
    }
}

/// The names of a path, with `..` kept: it is resolved after symlinks, as the kernel does.
fn components(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// The rest of a path below an opaque mount, by its letters.
fn opaque(mut at: PathBuf, rest: &VecDeque<OsString>) -> Place {
    for name in rest {
        if name == ".." {
            at.pop();
        } else {
            at.push(name);
        }
    }
    Place {
        path: at,
        kind: None,
    }
}

fn kind_of(parent: BorrowedFd<'_>, name: &OsStr) -> Result<FileType, Errno> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    struct Fixture {
        directory: tempfile::TempDir,
        tree: Tree,
    }

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()).unwrap()
    }

    impl Fixture {
        /// A root with /a/b, /a/file, links, and beside it a directory to mount.
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join("root");
            std::fs::create_dir_all(root.join("a/b")).unwrap();
            std::fs::write(root.join("a/file"), "x").unwrap();
            for (target, link) in [("/a", "absolute"), ("../..", "a/up"), ("loop", "loop")] {
                symlink(target, root.join(link)).unwrap();
            }
            std::fs::create_dir_all(directory.path().join("mount/inner")).unwrap();
            symlink("/a/b", directory.path().join("mount/back")).unwrap();
            let tree = Tree::new(open(&root), open(&root), false);
            Self { directory, tree }
        }

        fn place(&mut self, path: &str) -> Result<String, Errno> {
            let place = self
                .tree
                .place(Path::new(path), Make::Directory, Lifetime::Step)?;
            Ok(place.path.to_str().unwrap().to_owned())
        }

        fn mount(&mut self, at: &str, view: View) {
            let place = Place {
                path: at.into(),
                kind: Some(Make::Directory),
            };
            self.tree.mount(&place, view);
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }
    }

    #[test]
    fn symlinks_and_dots_stay_inside() {
        let mut fixture = Fixture::new();
        let cases = [
            ("/", ""),
            ("/../..", ""),
            ("/a/./b/", "a/b"),
            ("/absolute/b", "a/b"),
            ("/a/up/a/b", "a/b"),
            ("/a/up/../../a/b", "a/b"),
            ("/absolute/b/../..", ""),
        ];
        for (path, expected) in cases {
            assert_eq!(fixture.place(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_resolved() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.place("/loop/x"), Err(Errno::LOOP));
        assert_eq!(fixture.place("/a/file/x"), Err(Errno::NOTDIR));
    }

    #[test]
    fn paths_go_through_mounts_and_back() {
        let mut fixture = Fixture::new();
        let view = View::Directory(open(&fixture.path("mount")));
        fixture.mount("a/b", view);
        assert_eq!(fixture.place("/a/b/inner").as_deref(), Ok("a/b/inner"));
        assert_eq!(fixture.place("/a/b/back/inner").as_deref(), Ok("a/b/inner"));
        assert_eq!(fixture.place("/a/b/new").as_deref(), Ok("a/b/new"));
        assert!(fixture.path("mount/new").is_dir() && !fixture.path("root/a/b/new").exists());
        fixture.mount("a/b/opaque", View::Opaque);
        assert_eq!(
            fixture.place("/a/b/opaque/x/../y").as_deref(),
            Ok("a/b/opaque/y")
        );
        fixture.mount("a/covered", View::File);
        assert_eq!(fixture.place("/a/covered").as_deref(), Ok("a/covered"));
        assert_eq!(fixture.place("/a/covered/x"), Err(Errno::NOTDIR));
    }

    #[test]
    fn r14_what_was_made_goes_with_its_parents_and_times_return() {
        let mut fixture = Fixture::new();
        let a = fixture.path("root/a");
        std::fs::File::open(&a)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000))
            .unwrap();
        fixture.place("/a/new/mount/point").unwrap();
        fixture.place("/a/kept/point").unwrap();
        let file = Path::new("/a/new/file");
        fixture
            .tree
            .place(file, Make::File, Lifetime::Step)
            .unwrap();
        let cwd = Path::new("/a/cwd");
        fixture
            .tree
            .place(cwd, Make::Directory, Lifetime::Kept)
            .unwrap();
        std::fs::write(a.join("kept/by-command"), "").unwrap();
        fixture.tree.into_stubs().unwrap().remove().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&a)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["b", "cwd", "file", "kept", "up"]);
        assert_eq!(std::fs::read_dir(a.join("kept")).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(&a).unwrap().mtime(), 1000);
    }

    #[test]
    fn r13_a_file_that_was_written_stays() {
        let mut fixture = Fixture::new();
        for name in ["/empty", "/written"] {
            fixture
                .tree
                .place(Path::new(name), Make::File, Lifetime::Step)
                .unwrap();
        }
        std::fs::write(fixture.path("root/written"), "by the command").unwrap();
        let root = fixture.path("root");
        fixture.tree.into_stubs().unwrap().remove().unwrap();
        assert!(root.join("written").exists() && !root.join("empty").exists());
    }
}
