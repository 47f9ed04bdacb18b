//! Contexts that are elsewhere: git repositories (rules G01-G03, G05) and files of HTTP servers
//! (rules G05, G10). The main one is fetched by the process outside, for which it is then a local
//! directory like any other, but for its ignore file (rule I10); the process inside is told where
//! it is. Named ones are fetched when the plan is known.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use graph::{Cancel, Op, Plan};
use store::Store;
use tokio::runtime::Handle;

use super::download::{self, Downloaded};
use super::{Access, Fetching, Pins, git};
use crate::config;
use crate::engine::build::Handoff;
use crate::engine::dockerfile;
use crate::engine::executor::StepError;
use crate::engine::secrets::{SecretValues, Secrets};
use crate::failure::{Failure, FailureKind};
use crate::report;
use crate::request::{BuildRequest, DockerfileSource, NamedContext, Progress, RemoteContext};

/// Keeps `.git` in a context (rule G01).
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// A build with its context and Dockerfile at hand.
pub(crate) struct Local {
    pub(crate) request: BuildRequest,
    /// Of the context, when it was fetched.
    pub(crate) directory: Option<PathBuf>,
    /// The files are there as long as these are.
    _files: Option<(Fetched, Arc<Store>)>,
}

/// Files in a directory of the store, as long as this lives.
#[derive(Debug)]
pub(crate) enum Fetched {
    Repository(Arc<git::CheckoutTree>),
    Download(Downloaded),
}

impl Fetched {
    pub(crate) fn directory(&self) -> &Path {
        match self {
            Self::Repository(tree) => tree.directory(),
            Self::Download(files) => files.directory(),
        }
    }
}

/// Fetches the context and the Dockerfile of `request`; `None` when both are local already.
/// `handoff` tells the process inside where the context is and what the Dockerfile says, and takes
/// the secrets that were read for it.
///
/// # Errors
/// As for `ADD` of the same, and when files that the build reads lead out of the context.
pub(crate) fn bring(
    request: &BuildRequest,
    handoff: &mut Handoff,
    runtime: &Handle,
    cancel: &Cancel,
) -> Result<Option<Local>, StepError> {
    let remote_file = matches!(request.dockerfile, DockerfileSource::Url(_));
    if request.remote_context.is_none() && !remote_file {
        return Ok(None);
    }
    let has_context = handoff.context.is_some() || request.remote_context.is_none();
    if has_context && (handoff.dockerfile.is_some() || !remote_file) {
        let directory = handoff.context.take();
        return Ok(Some(Local {
            request: located(request, directory.as_deref())?,
            directory,
            _files: None,
        }));
    }
    let values = SecretValues::read(&request.secrets)?;
    let secrets = Secrets::new(values.clone(), &request.secrets_in_layers)?;
    handoff.secrets = Some(values);
    let store = Arc::new(config::open_store(&request.store_root)?);
    let fetching = Fetching::new(runtime.clone(), request.agents.clone(), Pins::new());
    let access = Access {
        fetching: &fetching,
        store: &store,
        secrets: &secrets,
        cancel,
        may_execute: true,
    };
    if let DockerfileSource::Url(url) = &request.dockerfile {
        handoff.dockerfile = Some(text_at(&access, url)?);
    }
    let files = match &request.remote_context {
        Some(remote) => Some(main(&access, request, remote)?),
        None => None,
    };
    let directory = files.as_ref().map(|files| files.directory().to_owned());
    Ok(Some(Local {
        request: located(request, directory.as_deref())?,
        directory,
        _files: files.map(|files| (files, store)),
    }))
}

fn main(
    access: &Access<'_>,
    request: &BuildRequest,
    remote: &RemoteContext,
) -> Result<Fetched, StepError> {
    let url = match remote {
        RemoteContext::Git(url) => url,
        RemoteContext::Http(url) => {
            return Ok(Fetched::Download(download::bring(access, url, true)?));
        }
    };
    let keep = request.build_args.get(KEEP_GIT_DIR);
    let keep = keep.is_some_and(|value| git::is_true(value));
    let (tree, commit) = git::context(access, url, keep)?;
    if request.progress != Progress::Quiet {
        let url = super::text::redact(url);
        report::line(&format!("context {url} is at commit {commit}"));
    }
    Ok(Fetched::Repository(tree))
}

/// The Dockerfile at a URL.
fn text_at(access: &Access<'_>, url: &str) -> Result<String, StepError> {
    let files = download::bring(access, url, false)?;
    let path = files.directory().join(download::NAME);
    Ok(dockerfile::read_alone(&path)?.text.clone())
}

/// Fetched named contexts by name.
pub(crate) type FetchedContexts = BTreeMap<String, Fetched>;

/// Fetches the named contexts that are elsewhere and that the plan uses (rule G09).
///
/// # Errors
/// As for `ADD` of the same.
pub(crate) fn named(
    request: &BuildRequest,
    plan: &Plan,
    access: &Access<'_>,
) -> Result<FetchedContexts, StepError> {
    let is_used = |context: &str| {
        let nodes = plan.nodes.iter();
        nodes
            .into_iter()
            .any(|node| matches!(&node.op, Op::Context { name } if name == context))
    };
    let mut fetched = BTreeMap::new();
    for (name, context) in request.contexts.iter().filter(|(name, _)| is_used(name)) {
        let files = match context {
            NamedContext::Git(url) => Fetched::Repository(git::context(access, url, false)?.0),
            NamedContext::Http(url) => Fetched::Download(download::bring(access, url, false)?),
            NamedContext::Directory(_)
            | NamedContext::OciLayout { .. }
            | NamedContext::Image(_) => continue,
        };
        fetched.insert(name.clone(), files);
    }
    Ok(fetched)
}

/// The request for the context in `directory`, in which the Dockerfile is too.
fn located(request: &BuildRequest, directory: Option<&Path>) -> Result<BuildRequest, Failure> {
    let Some(directory) = directory else {
        return Ok(request.clone());
    };
    let dockerfile = match &request.dockerfile {
        _ if is_dockerfile_alone(request, directory) => {
            DockerfileSource::Path(directory.join(download::NAME))
        }
        DockerfileSource::Path(path) => DockerfileSource::Path(directory.join(inner(path)?)),
        other => other.clone(),
    };
    match &dockerfile {
        DockerfileSource::Path(path) => stay_inside(directory, path)?,
        DockerfileSource::Default => {
            for name in ["Dockerfile", "dockerfile"] {
                stay_inside(directory, &directory.join(name))?;
            }
        }
        DockerfileSource::Stdin | DockerfileSource::Url(_) => {}
    }
    Ok(BuildRequest {
        context: Some(directory.to_owned()),
        dockerfile,
        ..request.clone()
    })
}

/// Rule G10: what is no archive is a Dockerfile.
fn is_dockerfile_alone(request: &BuildRequest, directory: &Path) -> bool {
    let is_http = matches!(request.remote_context, Some(RemoteContext::Http(_)));
    let names = || Some(std::fs::read_dir(directory).ok()?.flatten());
    is_http
        && names().is_some_and(|mut names| {
            names
                .next()
                .is_some_and(|name| name.file_name() == download::NAME)
                && names.next().is_none()
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
