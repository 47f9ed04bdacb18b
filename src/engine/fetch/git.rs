//! `ADD <git url>` (rules D18-D20, G01-G04), by the program git.
//!
//! The ref is resolved to a commit once per build; the commit and what is wanted of it are the key
//! of the `ADD`. Commits are kept in a bare repository of the store per remote, without history,
//! and checked out only when a copy of them is really made.

mod checkout;
mod command;
mod location;
mod repository;
mod resolve;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use graph::{Cancel, Key, KeyBuilder, Op, op};
use serde::{Deserialize, Serialize};

use self::command::{Git, GitError};
use self::location::Location;
use self::repository::Repository;
use super::text;
use super::{Access, Pin};
use crate::engine::executor::StepError;
use crate::failure::{Failure, FailureKind};

pub(crate) use self::checkout::CheckoutTree;
pub(crate) use self::location::is_true;

/// What a ref stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resolved {
    /// All its hexadecimal digits.
    commit: String,
    /// Full name, such as `refs/heads/main`; none when the URL names a commit.
    name: Option<String>,
    /// The object of an annotated tag.
    tag: Option<String>,
}

/// A commit that is in the store, checked out on demand.
pub(crate) struct Checkout {
    location: Location,
    resolved: Resolved,
    tree: Mutex<Option<Arc<CheckoutTree>>>,
}

impl fmt::Debug for Checkout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout")
            .field("location", &self.location)
            .field("resolved", &self.resolved)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Checkout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "commit {}", self.resolved.commit)
    }
}

impl Checkout {
    fn new(location: Location, resolved: Resolved) -> Self {
        Self {
            location,
            resolved,
            tree: Mutex::new(None),
        }
    }

    /// The `.git` directory is kept, which only the whole tree can have.
    fn keeps_git_dir(&self) -> bool {
        self.location.keep_git_dir && self.location.subdir.is_empty()
    }

    /// All that the files depend on (rule G04). A commit is its content, wherever it comes from;
    /// but `.git` names the remote and the ref.
    pub(crate) fn key(&self) -> [u8; 32] {
        let location = &self.location;
        let kept = self.keeps_git_dir().then(|| {
            let name = self.resolved.name.as_deref().unwrap_or_default();
            let tag = self.resolved.tag.as_deref().unwrap_or_default();
            format!("{} {name} {tag}", location.remote)
        });
        let mut hasher = blake3::Hasher::new();
        for part in [
            "git 1",
            &self.resolved.commit,
            &location.subdir,
            if location.submodules {
                "submodules"
            } else {
                ""
            },
            if location.commit_time {
                "commit time"
            } else {
                ""
            },
            kept.as_deref().unwrap_or_default(),
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// The files; checked out the first time.
    ///
    /// # Errors
    /// When git fails, or the directory in the URL is none of the commit.
    pub(crate) fn tree(&self, access: &Access<'_>) -> Result<Arc<CheckoutTree>, StepError> {
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = &*tree {
            return Ok(tree.clone());
        }
        let made = Arc::new(checkout::check_out(access, self)?);
        Ok(tree.insert(made).clone())
    }
}

/// Resolves the ref, and tells whether the commit is in the store already.
///
/// # Errors
/// When the remote does not answer or has no such ref, or the commit is not the one that the
/// checksum asks for (rule D15).
pub(crate) fn look_up(
    access: &Access<'_>,
    op: &op::Git,
    key: &Key,
) -> Result<(Arc<Checkout>, bool), StepError> {
    let location = parse(op)?;
    let resolved = match access.fetching.pin(key) {
        Some(Pin::Commit(resolved)) => resolved,
        _ => resolve::resolve(access, &location)?,
    };
    access.fetching.put_pin(key, Pin::Commit(resolved.clone()));
    let checkout = Checkout::new(location, resolved);
    let has = Repository::new(access, &checkout.location, access.cancel)?.has(&checkout);
    Ok((Arc::new(checkout), has))
}

/// Brings the commit into the store.
///
/// # Errors
/// As [`look_up`], and when the remote does not give the commit.
pub(crate) fn fetch(
    access: &Access<'_>,
    op: &op::Git,
    key: &Key,
    cancel: &Cancel,
) -> Result<Arc<Checkout>, StepError> {
    let (checkout, has) = look_up(access, op, key)?;
    if !has {
        Repository::new(access, &checkout.location, cancel)?.fetch(&checkout)?;
    }
    Ok(checkout)
}

/// The files at a git URL, and the commit they are from.
///
/// # Errors
/// As [`fetch`] and [`Checkout::tree`].
pub(crate) fn context(
    access: &Access<'_>,
    url: &str,
    keep_git_dir: bool,
) -> Result<(Arc<CheckoutTree>, String), StepError> {
    let op =
        location::context(url, keep_git_dir).map_err(|e| Failure::of(FailureKind::Usage, &e))?;
    let key = KeyBuilder::new(&Op::Git(op.clone())).finish();
    let checkout = fetch(access, &op, &key, access.cancel)?;
    if checkout.location.commit_time {
        let message = format!(
            "{}: mtime=commit of a context is not implemented",
            text::redact(url)
        );
        return Err(Failure::new(FailureKind::Usage, message).into());
    }
    Ok((checkout.tree(access)?, checkout.resolved.commit.clone()))
}

fn parse(op: &op::Git) -> Result<Location, StepError> {
    let location = Location::parse(op);
    location.map_err(|e| Failure::of(FailureKind::Dockerfile, &e).into())
}

/// Git as the repository at `location` needs it: with the secrets and the agent it gets.
fn git(access: &Access<'_>, location: &Location, cancel: &Cancel) -> Result<Git, StepError> {
    let mut config = Vec::new();
    if let Some(value) = authorization(access, location)? {
        let origin = location
            .remote
            .split('/')
            .take(3)
            .collect::<Vec<_>>()
            .join("/");
        let key = format!("http.{origin}/.extraheader");
        config.push((key, format!("Authorization: {value}")));
        // Git would send the header to wherever it is redirected.
        config.push(("http.followRedirects".to_owned(), "false".to_owned()));
    }
    Ok(Git {
        config,
        agent: match location.is_ssh() {
            true => access.fetching.agent("default")?,
            false => None,
        },
        known_hosts: access.store.area("git")?.join("known_hosts"),
        cancel: cancel.clone(),
    })
}

/// From the secrets `GIT_AUTH_HEADER` and `GIT_AUTH_TOKEN`, those with `.<host>` first, as
/// BuildKit has it; else from the URL.
fn authorization(access: &Access<'_>, location: &Location) -> Result<Option<String>, StepError> {
    if !location.is_http() {
        return Ok(None);
    }
    let secrets = access.secrets;
    let host = location.host().unwrap_or_default();
    for suffix in [format!(".{host}"), String::new()] {
        for kind in ["GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"] {
            let name = format!("{kind}{suffix}");
            let Some(secret) = secrets.get(&name) else {
                continue;
            };
            let secret = std::str::from_utf8(secret.trim_ascii()).ok();
            let secret = secret.filter(|text| !text.contains(char::is_control));
            let secret = secret.ok_or_else(|| {
                let message = format!("secret {name}: not text that can be an HTTP header");
                Failure::new(FailureKind::Usage, message)
            })?;
            return Ok(Some(match kind {
                "GIT_AUTH_TOKEN" => text::basic("x-access-token", secret),
                _ => secret.to_owned(),
            }));
        }
    }
    let userinfo = location.userinfo.as_ref();
    Ok(userinfo.map(|(user, password)| text::basic(user, password)))
}

fn failure(location: &Location, error: &GitError) -> StepError {
    let message = match error {
        GitError::Cancelled => return StepError::Cancelled,
        GitError::Missing => {
            let message = format!(
                "{}: git repositories need the program git",
                location.shown()
            );
            let failure = Failure::new(FailureKind::Environment, message);
            return failure.hint("install git, or put it into PATH").into();
        }
        GitError::Failed { message, .. } => message.as_str(),
        _ => "",
    };
    let mut failure = Failure::of(FailureKind::Build, error);
    failure.message = format!("{}: {}", location.shown(), failure.message);
    if message.contains("could not read Username") || message.contains("Authentication failed") {
        let host = location.host().unwrap_or_default();
        failure = failure.hint(format!(
            "a secret GIT_AUTH_TOKEN.{host} or GIT_AUTH_TOKEN authenticates"
        ));
    }
    if location.is_ssh() && message.contains("Permission denied") {
        failure = failure.hint("keys come from an ssh agent: --ssh default");
    }
    failure.into()
}
