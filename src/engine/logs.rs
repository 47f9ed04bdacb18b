//! Log files: all that a step prints, in a file of its own.
//!
//! They lie in `logs/<time of the build>/<number of the step>.log` in the store. Those of the
//! last builds are kept; a build that prints nothing has none.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::time;

/// Earlier builds whose logs are kept, at most.
const BUILDS_KEPT: usize = 20;
/// Bytes of logs of earlier builds that are kept, the last one's not counted.
const BYTES_KEPT: u64 = 1 << 30;

/// The logs of one build.
#[derive(Debug)]
pub(crate) struct Logs {
    area: PathBuf,
    /// Made with the first log. Its lock says that the build is alive.
    directory: Mutex<Option<(PathBuf, File)>>,
}

impl Logs {
    /// `area` exists; logs of all builds are there.
    pub(crate) fn new(area: PathBuf) -> Self {
        Self {
            area,
            directory: Mutex::default(),
        }
    }

    /// A log that becomes a file with the first byte. `number` is that of the step in reports.
    pub(crate) fn step(&self, number: usize) -> StepLog<'_> {
        StepLog {
            logs: self,
            number,
            file: None,
        }
    }

    /// Where the logs are, if there are any.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        directory.as_ref().map(|(path, _)| path.clone())
    }

    fn directory(&self) -> io::Result<PathBuf> {
        let mut directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((path, _)) = &*directory {
            return Ok(path.clone());
        }
        let (path, lock) = fresh_directory(&self.area)?;
        remove_old(&self.area, &path);
        *directory = Some((path.clone(), lock));
        Ok(path)
    }
}

/// The log of one step.
#[derive(Debug)]
pub(crate) struct StepLog<'a> {
    logs: &'a Logs,
    number: usize,
    file: Option<(PathBuf, File)>,
}

impl StepLog<'_> {
    /// # Errors
    /// Nothing of a log is lost without one.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (_, file) = match &mut self.file {
            Some(open) => open,
            none => {
                let path = self.logs.directory()?.join(format!("{}.log", self.number));
                let file = File::create(&path)?;
                none.insert((path, file))
            }
        };
        file.write_all(bytes)
    }

    /// Where it is, unless nothing was written.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }
}

/// Named by the time, so that names sort by age.
fn fresh_directory(area: &Path) -> io::Result<(PathBuf, File)> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let time = time::rfc3339(i64::try_from(now.as_secs()).unwrap_or(0)).replace(':', "-");
    for attempt in 0_u32.. {
        let path = area.join(format!("{}.{attempt:03}", time.trim_end_matches('Z')));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                let lock = File::open(&path)?;
                lock.lock_shared()?;
                return Ok((path, lock));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Best effort: a log that cannot be removed is in nobody's way.
fn remove_old(area: &Path, own: &Path) {
    let Ok(entries) = std::fs::read_dir(area) else {
        return;
    };
    let mut builds: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    builds.retain(|path| path != own);
    builds.sort_unstable();
    let mut bytes = 0;
    for (age, path) in builds.iter().rev().enumerate() {
        if age > 0 {
            bytes += size(path);
        }
        if age >= BUILDS_KEPT || bytes > BYTES_KEPT {
            remove_unless_in_use(path);
        }
    }
}

fn remove_unless_in_use(path: &Path) {
    let free = File::open(path).is_ok_and(|directory| directory.try_lock().is_ok());
    if free {
        std::fs::remove_dir_all(path).ok();
    }
}

fn size(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builds(area: &Path) -> usize {
        std::fs::read_dir(area).unwrap().count()
    }

    #[test]
    fn a_log_is_made_with_its_first_byte() {
        let area = tempfile::tempdir().unwrap();
        let logs = Logs::new(area.path().to_owned());
        let mut log = logs.step(3);
        log.write(b"").unwrap();
        assert!(log.path().is_none() && builds(area.path()) == 0);
        log.write(b"one\n").unwrap();
        log.write(b"two\n").unwrap();
        logs.step(4).write(b"x").unwrap();
        let path = log.path().unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"one\ntwo\n");
        assert!(path.ends_with("3.log") && builds(area.path()) == 1);
    }

    #[test]
    fn logs_of_the_last_builds_are_kept() {
        let area = tempfile::tempdir().unwrap();
        let alive = Logs::new(area.path().to_owned());
        alive.step(1).write(b"alive").unwrap();
        let first = alive.directory().unwrap();
        let mut last = PathBuf::new();
        for _ in 0..BUILDS_KEPT + 5 {
            let logs = Logs::new(area.path().to_owned());
            logs.step(1).write(b"x").unwrap();
            last = logs.directory().unwrap();
        }
        // The live one, the last, and those kept beside it.
        assert_eq!(builds(area.path()), BUILDS_KEPT + 2);
        assert!(first.exists() && last.exists());
    }

    #[test]
    fn large_logs_are_kept_only_of_the_last_build() {
        let area = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            let logs = Logs::new(area.path().to_owned());
            let directory = logs.directory().unwrap();
            let sparse = File::create(directory.join("1.log")).unwrap();
            sparse.set_len(BYTES_KEPT + 1).unwrap();
        }
        assert_eq!(builds(area.path()), 2);
    }
}
