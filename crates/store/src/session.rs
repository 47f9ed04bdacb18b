//! Opening a store, and what happens to the leftovers of processes that died.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::atomic::Names;
use crate::error::{Error, Result};
use crate::owner::Owners;

const FORMAT: &str = "layercake store 1\n";
/// In the root, and in the temporary folder of each process.
const LOCK: &str = "lock";

/// An open store. While it lives, nobody prunes; any number of processes may have it open.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    pub(crate) names: Names,
    pub(crate) boot_id: String,
    /// How owners are kept in the layer directories that this process uses; unset outside, where
    /// it uses none.
    pub(crate) owners: OnceLock<Owners>,
    /// Held for their locks.
    _shared: File,
    _own: File,
}

impl Store {
    /// Opens the store at `root`, making it when there is none.
    ///
    /// # Errors
    /// [`Error::Format`] for a store of another version, [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self> {
        for name in ["blobs/sha256", "index", "layers", "records", "tmp"] {
            let path = root.join(name);
            let mut builder = std::fs::DirBuilder::new();
            // Layers hold other people's setuid files: nobody else may look in.
            builder
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(Error::io("create", &path))?;
        }
        let shared = lock_file(&root.join(LOCK))?;
        shared.lock_shared().map_err(Error::io("lock", root))?;
        check_format(root)?;
        let (directory, own) = own_directory(&root.join("tmp"))?;
        Ok(Self {
            root: root.to_path_buf(),
            names: Names::new(directory),
            boot_id: boot_id(),
            owners: OnceLock::new(),
            _shared: shared,
            _own: own,
        })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Says how owners are kept in layer directories from now on. Those that keep them otherwise
    /// are not there for this process.
    pub fn keep_owners(&self, owners: Owners) {
        // The first word counts: directories may be in use.
        let _ = self.owners.set(owners);
    }

    /// Removes what dead processes left in the store at `root`. Slow work, for a thread that nobody
    /// waits for and when no steps run: on some file systems deleting makes the next creations slow.
    pub fn clear_leftovers(root: &Path) {
        let Ok(entries) = std::fs::read_dir(root.join("tmp")) else {
            return;
        };
        for entry in entries.flatten() {
            if let Ok(Some(_lock)) = lock_folder(&entry.path()) {
                // What cannot be removed now is tried again by the next process.
                let _: io::Result<()> = remove_folder(&entry.path());
            }
        }
    }

    /// Removes the whole store. Needs the user namespace that made it.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process has it open; [`Error::Io`].
    pub fn remove(root: &Path) -> Result<()> {
        if !root.exists() {
            return Ok(());
        }
        check_format(root)?;
        let lock = lock_file(&root.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => remove_tree(root).map_err(Error::io("remove", root)),
            Err(TryLockError::WouldBlock) => Err(Error::Busy {
                path: root.to_path_buf(),
            }),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", root)(e)),
        }
    }
}

/// What a process removes of its own temporary folder on its way out.
const FEW: usize = 16;

impl Drop for Store {
    fn drop(&mut self) {
        // Drafts and what overlays leave beside them take longer to remove than a step takes, so
        // they are left to the next process.
        let directory = self.names.fresh();
        let Some(directory) = directory.parent() else {
            return;
        };
        let few = std::fs::read_dir(directory).is_ok_and(|entries| entries.count() <= FEW);
        if few {
            let _: io::Result<()> = remove_folder(directory);
        }
    }
}

fn lock_file(path: &Path) -> Result<File> {
    open_lock(path).map_err(Error::io("open", path))
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options.open(path)
}

fn check_format(root: &Path) -> Result<()> {
    let path = root.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) if text == FORMAT => Ok(()),
        // Empty: written just before a power cut.
        Ok(text) if !text.is_empty() => Err(Error::Format {
            path: root.to_path_buf(),
            found: text.trim_end().to_owned(),
            expected: FORMAT.trim_end(),
        }),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("read", path)(e)),
        _ => std::fs::write(&path, FORMAT).map_err(Error::io("write", path)),
    }
}

/// A folder of this process alone, told from a dead one's by the lock in it.
fn own_directory(parent: &Path) -> Result<(PathBuf, File)> {
    for attempt in 0_u64.. {
        let name = format!("{}-{attempt}", std::process::id());
        let path = parent.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(Error::io("create", path)(e)),
        }
        // Another process may take the new folder for a dead one's and lock it first; then it
        // also removes it.
        if let Some(lock) = lock_folder(&path).map_err(Error::io("lock", &path))? {
            return Ok((path, lock));
        }
    }
    unreachable!("the loop ends only by returning")
}

/// Takes the lock of a temporary folder, making it if need be: its process may have been killed
/// before it could. `None` when somebody has it, or when the folder is gone. There may be another
/// of its name by then, which is somebody else's: in pid namespaces all have the same few numbers.
fn lock_folder(directory: &Path) -> io::Result<Option<File>> {
    let lock = match open_lock(&directory.join(LOCK)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock?,
    };
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    Ok(is_lock_of(&lock, directory).then_some(lock))
}

fn is_lock_of(lock: &File, directory: &Path) -> bool {
    let identity = |found: io::Result<Metadata>| found.ok().map(|it| (it.dev(), it.ino()));
    let own = identity(lock.metadata());
    own.is_some() && own == identity(std::fs::metadata(directory.join(LOCK)))
}

/// Removes a temporary folder whose lock the caller has. The lock goes last: who is killed on the
/// way leaves a folder like any dead process.
fn remove_folder(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        } else if entry.file_name() != LOCK {
            std::fs::remove_file(entry.path())?;
        }
    }
    remove_tree(directory)
}

/// Like `rm -rf`, but also through directories without permissions (overlay's `work`), and other
/// processes doing the same meanwhile are no error.
fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            for entry in walkdir::WalkDir::new(path).into_iter().flatten() {
                if entry.file_type().is_dir() {
                    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                    let _: io::Result<()> = std::fs::set_permissions(entry.path(), mode);
                }
            }
            std::fs::remove_dir_all(path)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Enough of the kernel's boot id to tell boots apart, as a folder name.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect::<String>()
        + "b"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(store: &Store) -> PathBuf {
        let path = store.names.fresh();
        path.parent().unwrap().to_owned()
    }

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_use_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let living = temporary(&store);
        let left = |name: &str, has_lock: bool| {
            let path = root.path().join("tmp").join(name);
            std::fs::create_dir_all(path.join("3/draft")).unwrap();
            std::fs::write(path.join("3/draft/file"), "x").unwrap();
            if has_lock {
                std::fs::write(path.join("lock"), "").unwrap();
            }
            path
        };
        // The second: its removal was killed. The third: killed before it had a lock.
        let dead = [
            left("x-0", true),
            left("x-1", false),
            root.path().join("tmp/x-2"),
        ];
        std::fs::create_dir_all(&dead[2]).unwrap();
        Store::clear_leftovers(root.path());
        for path in dead {
            assert!(!path.exists(), "{path:?}");
        }
        assert!(living.join("lock").exists());
    }

    #[test]
    fn the_lock_of_a_folder_that_was_removed_is_worth_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("1-0");
        std::fs::create_dir(&folder).unwrap();
        let late = open_lock(&folder.join(LOCK)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        let own = lock_folder(&folder).unwrap().unwrap();
        late.try_lock().unwrap();
        assert!(is_lock_of(&own, &folder));
        assert!(!is_lock_of(&late, &folder));
        assert!(lock_folder(&folder).unwrap().is_none());
    }
}
