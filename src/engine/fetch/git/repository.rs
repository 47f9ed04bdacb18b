//! The bare repository of the store in which the commits of one remote are kept.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use graph::Cancel;
use store::digest::hex;

use super::command::{Call, Git, GitError, REMOTE};
use super::location::Location;
use super::{Checkout, failure, git};
use crate::engine::executor::StepError;
use crate::engine::fetch::Access;
use crate::failure::{Failure, FailureKind};

/// Kept commits have a ref of this prefix and their own name; it appears when all that belongs to
/// the commit is there.
const KEPT: &str = "refs/layercake/";

/// How often a repository that another build uses is tried again.
const RETRY: Duration = Duration::from_millis(20);

pub(super) struct Repository<'a> {
    location: &'a Location,
    pub(super) git: Git,
    area: PathBuf,
}

impl<'a> Repository<'a> {
    pub(super) fn new(
        access: &Access<'_>,
        location: &'a Location,
        cancel: &Cancel,
    ) -> Result<Self, StepError> {
        Ok(Self {
            location,
            git: git(access, location, cancel)?,
            area: access.store.area("git")?,
        })
    }

    /// Repositories with other kinds of names cannot be in one.
    pub(super) fn directory(&self, commit: &str) -> PathBuf {
        let name = hex(blake3::hash(self.location.remote.as_bytes()).as_bytes());
        let kind = if commit.len() > 40 { "sha256" } else { "sha1" };
        self.area.join(format!("{}-{kind}.git", &name[..32]))
    }

    pub(super) fn kept(object: &str) -> String {
        format!("{KEPT}{object}")
    }

    /// True when nothing has to be fetched for `checkout`.
    pub(super) fn has(&self, checkout: &Checkout) -> bool {
        let directory = self.directory(&checkout.resolved.commit);
        directory.join("HEAD").exists()
            && wanted(checkout)
                .iter()
                .all(|object| self.knows(&directory, &Self::kept(object)))
    }

    fn knows(&self, directory: &Path, name: &str) -> bool {
        let args = ["rev-parse", "--quiet", "--verify", "--end-of-options", name];
        self.run(directory, "", &args).is_ok()
    }

    fn run(&self, directory: &Path, protocols: &str, args: &[&str]) -> Result<String, GitError> {
        let call = Call {
            git_dir: Some(directory),
            protocols,
            ..Call::default()
        };
        let output = self.git.run(&call, args)?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    fn failure(&self, error: &GitError) -> StepError {
        failure(self.location, error)
    }

    /// Locks what belongs to a repository against other builds, until the file is closed.
    pub(super) fn lock(&self, directory: &Path) -> Result<File, StepError> {
        let lock_path = directory.with_extension("lock");
        let io = |e| Failure::from(store::Error::io("lock", &lock_path)(e));
        let lock = File::create(&lock_path).map_err(io)?;
        // Polled rather than waited for, so that an interrupt is heard.
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if self.git.cancel.is_cancelled() => {
                    return Err(StepError::Cancelled);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(RETRY),
                Err(TryLockError::Error(e)) => return Err(io(e).into()),
            }
        }
    }

    /// Makes the repository if need be, and locks it.
    fn open(&self, directory: &Path, commit: &str) -> Result<File, StepError> {
        let lock = self.lock(directory)?;
        if !directory.join("HEAD").exists() {
            let format = if commit.len() > 40 { "sha256" } else { "sha1" };
            let format = format!("--object-format={format}");
            let path = directory.to_string_lossy();
            self.git
                .run(
                    &Call::default(),
                    &["init", "--quiet", "--bare", &format, &path],
                )
                .map_err(|e| self.failure(&e))?;
        }
        // Left by a git that was killed.
        for name in ["shallow.lock", "packed-refs.lock"] {
            let _ = std::fs::remove_file(directory.join(name));
        }
        Ok(lock)
    }

    /// Fetches the commit, as little else as the remote allows.
    pub(super) fn fetch(&self, checkout: &Checkout) -> Result<(), StepError> {
        let resolved = &checkout.resolved;
        let directory = self.directory(&resolved.commit);
        let _lock = self.open(&directory, &resolved.commit)?;
        for object in wanted(checkout) {
            if !self.knows(&directory, &Self::kept(object)) {
                self.fetch_object(&directory, object, resolved.name.as_deref())
                    .map_err(|e| self.failure(&e))?;
            }
        }
        Ok(())
    }

    /// By its own name, so that a branch that moves meanwhile does no harm; where the remote does
    /// not allow that by the ref, and at last everything.
    fn fetch_object(
        &self,
        directory: &Path,
        object: &str,
        name: Option<&str>,
    ) -> Result<(), GitError> {
        let kept = Self::kept(object);
        let by_object = format!("+{object}:{kept}");
        let by_name = name.map(|name| format!("+{name}:{kept}"));
        let mut failed = None;
        for spec in std::iter::once(&by_object).chain(&by_name) {
            match self.transfer(directory, &["--depth=1"], &[spec]) {
                Err(error @ GitError::Failed { .. }) if is_about_the_object(&error) => {
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
                Ok(()) if self.is(directory, &kept, object) => return Ok(()),
                // The branch is elsewhere by now.
                Ok(()) => drop(self.run(directory, "", &["update-ref", "-d", &kept])),
            }
        }
        self.fetch_everything(directory)?;
        let exists = ["cat-file", "-e", object];
        if let Err(error) = self.run(directory, "", &exists) {
            return Err(failed.unwrap_or(error));
        }
        self.run(directory, "", &["update-ref", &kept, object])?;
        Ok(())
    }

    fn is(&self, directory: &Path, name: &str, object: &str) -> bool {
        let found = self.run(directory, "", &["rev-parse", "--verify", name]);
        found.is_ok_and(|found| found == object)
    }

    /// `git fetch`; servers of plain files cannot leave history out.
    fn transfer(&self, directory: &Path, depth: &[&str], specs: &[&str]) -> Result<(), GitError> {
        let fetch = |depth: &[&str]| {
            let mut args = vec![
                "fetch",
                "--quiet",
                "--no-tags",
                "--force",
                "--no-write-fetch-head",
            ];
            args.extend(depth);
            args.extend(["--", &self.location.remote]);
            args.extend(specs);
            self.run(directory, REMOTE, &args).map(drop)
        };
        match fetch(depth) {
            Err(GitError::Failed { message, .. })
                if !depth.is_empty() && message.contains("shallow") =>
            {
                fetch(&[])
            }
            other => other,
        }
    }

    fn fetch_everything(&self, directory: &Path) -> Result<(), GitError> {
        let shallow = directory.join("shallow").exists();
        let depth: &[&str] = if shallow { &["--unshallow"] } else { &[] };
        let specs = [
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
        ];
        self.transfer(directory, depth, &specs)
    }

    /// The whole name of an abbreviated commit, which only the whole history can tell.
    ///
    /// # Errors
    /// When there is no such commit, or more than one.
    pub(super) fn complete(&self, abbreviated: &str) -> Result<String, StepError> {
        let directory = self.directory(abbreviated);
        let _lock = self.open(&directory, abbreviated)?;
        let name = format!("{abbreviated}^{{commit}}");
        let args = ["rev-parse", "--verify", "--end-of-options", &name];
        if let Ok(commit) = self.run(&directory, "", &args) {
            return Ok(commit);
        }
        self.fetch_everything(&directory)
            .map_err(|e| self.failure(&e))?;
        self.run(&directory, "", &args).map_err(|error| match error {
            GitError::Failed { .. } => {
                let message = format!(
                    "{}: the repository does not contain ref {abbreviated}, nor one commit that \
                     begins so",
                    self.location.shown()
                );
                Failure::new(FailureKind::Build, message).into()
            }
            error => self.failure(&error),
        })
    }
}

/// Objects that must be in the store: the commit, and for a `.git` directory also its tag.
fn wanted(checkout: &Checkout) -> Vec<&str> {
    let tag = checkout.resolved.tag.as_deref();
    let tag = tag.filter(|_| checkout.keeps_git_dir());
    std::iter::once(checkout.resolved.commit.as_str())
        .chain(tag)
        .collect()
}

/// The remote does not give objects by their names, or does not have this one.
fn is_about_the_object(error: &GitError) -> bool {
    const PHRASES: [&str; 6] = [
        "not our ref",
        "unadvertised object",
        "does not allow request",
        "couldn't find remote ref",
        "no such remote ref",
        "expected 'packfile'",
    ];
    match error {
        GitError::Failed { message, .. } => PHRASES.iter().any(|p| message.contains(p)),
        _ => false,
    }
}
