//! The files of a commit in a directory of this build.

use std::path::{Path, PathBuf};

use store::content::Content;
use store::layer::LayerDraft;

use super::command::{Call, GitError, LOCAL, REMOTE};
use super::repository::Repository;
use super::{Checkout, failure};
use crate::engine::context::{ContextOptions, ContextTree};
use crate::engine::copy::{FileFacts, IgnoreRule, Node, Tree, TreeError};
use crate::engine::executor::StepError;
use crate::engine::fetch::Access;
use crate::failure::{Failure, FailureKind};

/// A checked out commit as a source of `COPY`.
#[derive(Debug)]
pub(crate) struct CheckoutTree {
    files: ContextTree,
    directory: PathBuf,
    /// Seconds since 1970; `None`: the files get the epoch of the operation (rule D20).
    mtime: Option<i64>,
    /// Keeps the directory.
    _draft: LayerDraft,
}

impl CheckoutTree {
    /// Where the files are, as long as this lives.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn timed(&self, node: Node) -> Node {
        Node {
            mtime: self.mtime.or(node.mtime),
            ..node
        }
    }
}

impl Tree for CheckoutTree {
    fn name(&self) -> &str {
        self.files.name()
    }

    fn node(&self, path: &[u8]) -> Result<Option<Node>, TreeError> {
        Ok(self.files.node(path)?.map(|node| self.timed(node)))
    }

    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Node)>, TreeError> {
        let children = self.files.children(path)?.into_iter();
        Ok(children
            .map(|(name, node)| (name, self.timed(node)))
            .collect())
    }

    fn read(&self, files: &[&[u8]]) -> Result<Vec<FileFacts>, TreeError> {
        self.files.read(files)
    }

    fn content(&self, path: &[u8]) -> Result<Content, TreeError> {
        self.files.content(path)
    }

    fn hidden_by(&self, path: &[u8]) -> Option<IgnoreRule> {
        self.files.hidden_by(path)
    }
}

/// Checks the commit out.
pub(super) fn check_out(
    access: &Access<'_>,
    checkout: &Checkout,
) -> Result<CheckoutTree, StepError> {
    let location = &checkout.location;
    let repository = Repository::new(access, location, access.cancel)?;
    if !repository.has(checkout) {
        repository.fetch(checkout)?;
    }
    let draft = access.store.layer_draft()?;
    let work = Work {
        checkout,
        bare: repository.directory(&checkout.resolved.commit),
        tree: draft.files(),
        scratch: draft.work(),
        repository,
    };
    let mtime = work.run().map_err(|error| match error {
        WorkError::Git(error) => failure(location, &error),
        WorkError::Step(error) => error,
        WorkError::Io(error) => {
            Failure::from(store::Error::io("check out", &work.tree)(error)).into()
        }
    })?;
    let directory = subdirectory(&work.tree, checkout)?;
    let options = ContextOptions {
        name: location.shown(),
        directory: directory.clone(),
        ignore: None,
        cache: None,
    };
    let files = ContextTree::open(options).map_err(|e| Failure::of(FailureKind::Build, &e))?;
    Ok(CheckoutTree {
        files,
        directory,
        mtime,
        _draft: draft,
    })
}

/// Rule G02: a directory of the commit, not reached through a symlink.
fn subdirectory(tree: &Path, checkout: &Checkout) -> Result<PathBuf, StepError> {
    let subdir = &checkout.location.subdir;
    let mut path = tree.to_path_buf();
    for part in subdir.split('/').filter(|part| !part.is_empty()) {
        path.push(part);
        let is_directory = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        if !is_directory {
            let message = format!(
                "{}: {subdir:?} is no directory of commit {}",
                checkout.location.shown(),
                checkout.resolved.commit
            );
            return Err(Failure::new(FailureKind::Build, message).into());
        }
    }
    Ok(path)
}

enum WorkError {
    Git(GitError),
    Io(std::io::Error),
    Step(StepError),
}

impl From<GitError> for WorkError {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

impl From<std::io::Error> for WorkError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

struct Work<'a> {
    checkout: &'a Checkout,
    repository: Repository<'a>,
    /// The store's repository.
    bare: PathBuf,
    /// Where the files go.
    tree: PathBuf,
    scratch: PathBuf,
}

impl Work<'_> {
    /// Returns the time that the files are to have, if any.
    fn run(&self) -> Result<Option<i64>, WorkError> {
        let commit = &self.checkout.resolved.commit;
        let location = &self.checkout.location;
        let modules = format!("{commit}:.gitmodules");
        let modules = || self.bare(&["rev-parse", "--verify", &modules]).ok();
        let modules = location.submodules.then(modules).flatten();
        if modules.is_some() || self.checkout.keeps_git_dir() {
            self.clone(modules.as_deref())?;
        } else {
            self.export()?;
        }
        if !location.commit_time {
            return Ok(None);
        }
        let time = self.bare(&["show", "--no-patch", "--format=%ct", commit])?;
        Ok(time.parse().ok())
    }

    fn bare(&self, args: &[&str]) -> Result<String, GitError> {
        let call = Call {
            git_dir: Some(&self.bare),
            ..Call::default()
        };
        let output = self.repository.git.run(&call, args)?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    /// Only the files, with an index of their own.
    fn export(&self) -> Result<(), GitError> {
        let index = self.scratch.join("index");
        let call = Call {
            git_dir: Some(&self.bare),
            work_tree: Some(&self.tree),
            index: Some(&index),
            ..Call::default()
        };
        let git = &self.repository.git;
        git.run(&call, &["read-tree", &self.checkout.resolved.commit])?;
        git.run(&call, &["checkout-index", "--all", "--force", "--quiet"])?;
        Ok(())
    }

    /// Runs git in the new repository.
    fn own(&self, protocols: &str, args: &[&str]) -> Result<(), GitError> {
        let git_dir = self.tree.join(".git");
        let call = Call {
            git_dir: Some(&git_dir),
            work_tree: Some(&self.tree),
            protocols,
            ..Call::default()
        };
        self.repository.git.run(&call, args).map(drop)
    }

    /// A repository around the files, for submodules and to be kept. `modules`: the object of the
    /// `.gitmodules` to be followed.
    fn clone(&self, modules: Option<&str>) -> Result<(), WorkError> {
        let resolved = &self.checkout.resolved;
        let format = if resolved.commit.len() > 40 {
            "sha256"
        } else {
            "sha1"
        };
        self.own(
            "",
            &["init", "--quiet", &format!("--object-format={format}")],
        )?;
        self.own(
            "",
            &[
                "config",
                "remote.origin.url",
                &self.checkout.location.remote,
            ],
        )?;
        let fetch_spec = "+refs/heads/*:refs/remotes/origin/*";
        self.own("", &["config", "remote.origin.fetch", fetch_spec])?;
        let object = resolved
            .tag
            .as_ref()
            .filter(|_| self.checkout.keeps_git_dir());
        let object = object.unwrap_or(&resolved.commit);
        let target = match resolved.name.as_deref() {
            Some(name) if name.starts_with("refs/") => name,
            _ => "refs/layercake/commit",
        };
        let spec = format!("+{}:{target}", Repository::kept(object));
        let source = format!("file://{}", self.bare.display());
        let depth = "--depth=1";
        self.own(
            LOCAL,
            &[
                "fetch",
                "--quiet",
                "--no-tags",
                "--update-head-ok",
                depth,
                &source,
                &spec,
            ],
        )?;
        self.own(
            "",
            &[
                "checkout",
                "--quiet",
                "--force",
                "--detach",
                &resolved.commit,
            ],
        )?;
        match modules {
            Some(_) if self.checkout.keeps_git_dir() => self.update_modules(&[])?,
            Some(description) => self.update_kept_modules(description)?,
            None => {}
        }
        if self.checkout.keeps_git_dir() {
            self.settle(modules.is_some())
        } else {
            remove_git_files(&self.tree)
        }
    }

    /// With the repositories of submodules that earlier builds left in the store, so that only
    /// commits which are not in them are fetched. Other addresses are another `description`.
    fn update_kept_modules(&self, description: &str) -> Result<(), WorkError> {
        let kept = self.bare.with_extension(format!("{description}.modules"));
        let modules = self.tree.join(".git/modules");
        let _lock = self.repository.lock(&self.bare).map_err(WorkError::Step)?;
        let had = kept.exists();
        if had {
            std::fs::rename(&kept, &modules)?;
        }
        // What a kept repository believes to be checked out is not there.
        match self.update_modules(&["--force"]) {
            // Modules of modules may have moved.
            Err(GitError::Failed { .. }) if had => {
                self.own("", &["submodule", "--quiet", "deinit", "--all", "--force"])?;
                std::fs::remove_dir_all(&modules)?;
                self.update_modules(&[])?;
            }
            other => other?,
        }
        if modules.exists() {
            std::fs::rename(&modules, &kept)?;
        }
        Ok(())
    }

    fn update_modules(&self, flags: &[&str]) -> Result<(), GitError> {
        let update = [
            "submodule",
            "--quiet",
            "update",
            "--init",
            "--recursive",
            "--jobs=2",
        ];
        let update = [update.as_slice(), flags].concat();
        let shallow = [update.as_slice(), &["--depth=1"]].concat();
        match self.own(REMOTE, &shallow) {
            // Some servers do not give single commits.
            Err(GitError::Failed { .. }) => self.own(REMOTE, &update),
            other => other,
        }
    }

    /// Makes `.git` the same whenever and wherever it is made: an index without times and inode
    /// numbers, one pack per repository, no traces of this build.
    fn settle(&self, with_modules: bool) -> Result<(), WorkError> {
        let repack = ["repack", "-a", "-d", "-f", "-q", "--window=0", "--depth=0"];
        self.own("", &["read-tree", "HEAD"])?;
        self.own("", &repack)?;
        if with_modules {
            let command = format!("git read-tree HEAD && git {}", repack.join(" "));
            let each = [
                "submodule",
                "--quiet",
                "foreach",
                "--recursive",
                "--quiet",
                &command,
            ];
            self.own("", &each)?;
        }
        for entry in walkdir::WalkDir::new(self.tree.join(".git")) {
            let entry = entry.map_err(std::io::Error::from)?;
            let name = entry.file_name().to_string_lossy();
            let is_trace = matches!(&*name, "FETCH_HEAD" | "ORIG_HEAD" | "logs");
            if is_trace && entry.file_type().is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// No tracked file can be called `.git`: all there are belong to the repository and its submodules.
fn remove_git_files(tree: &Path) -> Result<(), WorkError> {
    let mut walk = walkdir::WalkDir::new(tree).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(std::io::Error::from)?;
        if entry.file_name() != ".git" {
            continue;
        }
        if entry.file_type().is_dir() {
            walk.skip_current_dir();
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
