//! Contexts that are elsewhere: git repositories (rules G01-G03, G05). The main one is checked out
//! by the process outside, for which it is then a local directory like any other; the process
//! inside is told where it is. Named ones are checked out when the plan is known.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use graph::{Cancel, Op, Plan};
use store::Store;
use tokio::runtime::Handle;

use super::{Access, Fetching, Pins, git};
use crate::engine::build::Handoff;
use crate::engine::executor::StepError;
use crate::engine::secrets::{SecretValues, Secrets};
use crate::failure::{Failure, FailureKind};
use crate::report;
use crate::request::{BuildRequest, DockerfileSource, NamedContext, Progress};

/// Keeps `.git` in a context (rule G01).
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// A build with its context at hand.
pub(crate) struct Local {
    pub(crate) request: BuildRequest,
    pub(crate) directory: PathBuf,
    /// The files are there as long as these are.
    _files: Option<(Arc<git::CheckoutTree>, Arc<Store>)>,
}

/// Fetches the context of `request`; `None` when it is a local one already. `handoff` tells the
/// process inside where it is, and takes the secrets that were read for it.
///
/// # Errors
/// As for `ADD` of the repository, and when files that the build reads lead out of it.
pub(crate) fn bring(
    request: &BuildRequest,
    handoff: &mut Handoff,
    runtime: &Handle,
    cancel: &Cancel,
) -> Result<Option<Local>, StepError> {
    let Some(url) = &request.remote_context else {
        return Ok(None);
    };
    if let Some(directory) = handoff.context.take() {
        return Ok(Some(Local {
            request: located(request, &directory)?,
            directory,
            _files: None,
        }));
    }
    let values = SecretValues::read(&request.secrets)?;
    let secrets = Secrets::new(values.clone(), &request.secrets_in_layers)?;
    handoff.secrets = Some(values);
    let store = Arc::new(Store::open(&request.store_root)?);
    let fetching = Fetching::new(runtime.clone(), request.agents.clone(), Pins::new());
    let access = Access {
        fetching: &fetching,
        store: &store,
        secrets: &secrets,
        cancel,
        may_execute: true,
    };
    let keep = request.build_args.get(KEEP_GIT_DIR);
    let keep = keep.is_some_and(|value| git::is_true(value));
    let (tree, commit) = git::context(&access, url, keep)?;
    if request.progress != Progress::Quiet {
        let url = super::text::redact(url);
        report::line(&format!("context {url} is at commit {commit}"));
    }
    let directory = tree.directory().to_owned();
    Ok(Some(Local {
        request: located(request, &directory)?,
        directory,
        _files: Some((tree, store)),
    }))
}

/// Checked out named contexts by name; their files are there as long as these are.
pub(crate) type Repositories = BTreeMap<String, Arc<git::CheckoutTree>>;

/// Fetches the named contexts that are git repositories and that the plan uses (rule G09).
///
/// # Errors
/// As for `ADD` of the repository.
pub(crate) fn named(
    request: &BuildRequest,
    plan: &Plan,
    access: &Access<'_>,
) -> Result<Repositories, StepError> {
    let is_used = |context: &str| {
        let nodes = plan.nodes.iter();
        nodes
            .into_iter()
            .any(|node| matches!(&node.op, Op::Context { name } if name == context))
    };
    let mut fetched = BTreeMap::new();
    for (name, context) in &request.contexts {
        if let NamedContext::Git(url) = context
            && is_used(name)
        {
            let (tree, _) = git::context(access, url, false)?;
            let directory = tree.directory();
            stay_inside(directory, &directory.join(".dockerignore"))?;
            fetched.insert(name.clone(), tree);
        }
    }
    Ok(fetched)
}

/// The request for the context in `directory`, in which the Dockerfile is too.
fn located(request: &BuildRequest, directory: &Path) -> Result<BuildRequest, Failure> {
    let dockerfile = match &request.dockerfile {
        DockerfileSource::Path(path) => DockerfileSource::Path(directory.join(inner(path)?)),
        other => other.clone(),
    };
    let mut names = vec![PathBuf::from(".dockerignore")];
    match &dockerfile {
        DockerfileSource::Path(path) => {
            let mut ignore = path.clone().into_os_string();
            ignore.push(".dockerignore");
            names.extend([path.clone(), ignore.into()]);
        }
        DockerfileSource::Default => names.extend(
            [
                "Dockerfile",
                "dockerfile",
                "Dockerfile.dockerignore",
                "dockerfile.dockerignore",
            ]
            .map(PathBuf::from),
        ),
        DockerfileSource::Stdin => {}
    }
    for name in names {
        stay_inside(directory, &directory.join(name))?;
    }
    Ok(BuildRequest {
        context: Some(directory.to_owned()),
        remote_context: None,
        dockerfile,
        ..request.clone()
    })
}

/// `-f` of a build with a remote context is a path in it.
fn inner(path: &Path) -> Result<PathBuf, Failure> {
    let parts: Option<PathBuf> = path
        .components()
        .filter(|part| !matches!(part, Component::CurDir | Component::RootDir))
        .map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    parts.ok_or_else(|| {
        let message = format!("-f {}: leads out of the context", path.display());
        Failure::new(FailureKind::Usage, message)
    })
}

/// Whoever made the repository chose its symlinks; they must not show files of this machine.
fn stay_inside(directory: &Path, path: &Path) -> Result<(), Failure> {
    let (Ok(root), Ok(real)) = (directory.canonicalize(), path.canonicalize()) else {
        // What is not there is missed by whoever needs it.
        return Ok(());
    };
    if real.starts_with(&root) {
        return Ok(());
    }
    let name = path.strip_prefix(directory).unwrap_or(path);
    let message = format!("{}: is a symlink out of the context", name.display());
    Err(Failure::new(FailureKind::Usage, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockerfiles_of_a_remote_context_are_in_it() {
        assert_eq!(inner(Path::new("a/./b")).unwrap(), Path::new("a/b"));
        assert_eq!(inner(Path::new("/a")).unwrap(), Path::new("a"));
        assert!(inner(Path::new("a/../../b")).is_err());
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(base.path().join("secret"), "x").unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        std::os::unix::fs::symlink("file", root.join("in")).unwrap();
        for (name, stays) in [
            ("file", true),
            ("in", true),
            ("missing", true),
            ("out", false),
        ] {
            assert_eq!(
                stay_inside(&root, &root.join(name)).is_ok(),
                stays,
                "{name}"
            );
        }
    }
}
