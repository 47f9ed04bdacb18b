//! Sources that `ADD` fetches from elsewhere: downloads ([`http`]) and git repositories ([`git`]).
//!
//! Each is looked at once per build, outside or inside (its server is asked whether something
//! changed), and fetched only when it did. What it is then, not where it came from, is in the key
//! of the `ADD`.

pub(super) mod context;
mod download;
pub(super) mod git;
pub(super) mod http;
mod text;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use graph::{Cancel, Key, KeyBuilder, Node, Op, Prepared};
use oci::http::{Timeouts, reqwest};
use serde::{Deserialize, Serialize};
use store::Store;
use store::digest::hex;
use tokio::runtime::Handle;

use super::agents::Agents;
use super::executor::{Output, StepError};
use super::secrets::Secrets;
use crate::failure::{Failure, FailureKind};
use crate::request::SshSource;

/// Looks a source up.
///
/// # Errors
/// When its server refuses or cannot be asked.
pub(super) fn prepare(access: &Access<'_>, node: &Node) -> Result<Prepared<Output>, StepError> {
    let key = KeyBuilder::new(&node.op).finish();
    let hit = match &node.op {
        Op::Http(_) if node.meta.no_cache => None,
        Op::Http(op) => http::look_up(access, op, &key)?.map(|d| Output::Download(Arc::new(d))),
        Op::Git(op) => {
            let (checkout, is_here) = git::look_up(access, op, &key)?;
            is_here.then_some(Output::Checkout(checkout))
        }
        _ => return Err(no_source()),
    };
    Ok(Prepared {
        key,
        hit,
        silent: false,
    })
}

/// Fetches a source.
///
/// # Errors
/// When its server does not give what is wanted, or `cancel` goes on.
pub(super) fn execute(
    access: &Access<'_>,
    node: &Node,
    key: &Key,
    cancel: &Cancel,
) -> Result<Output, StepError> {
    match &node.op {
        // What changed is used by a step that has to run then; but a server that cannot say
        // whether something changed may give the same again.
        Op::Http(op) if access.may_execute || http::is_known(access, op) => {
            let download = http::fetch(access, op, key, cancel)?;
            Ok(Output::Download(Arc::new(download)))
        }
        Op::Git(op) if access.may_execute => {
            Ok(Output::Checkout(git::fetch(access, op, key, cancel)?))
        }
        Op::Http(_) | Op::Git(_) => Err(StepError::NeedsInside),
        _ => Err(no_source()),
    }
}

/// What was fetched, in the form in which `--checksum` takes it.
pub(super) fn describe(fetched: &Output) -> Option<String> {
    match fetched {
        Output::Download(download) => Some(download.to_string()),
        Output::Checkout(checkout) => Some(checkout.to_string()),
        Output::Tree(_) | Output::Context(_) => None,
    }
}

fn no_source() -> StepError {
    Failure::new(FailureKind::Internal, "not a source that is fetched").into()
}

/// What fetching needs of a build.
#[derive(Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) fetching: &'a Fetching,
    pub(crate) store: &'a Store,
    pub(crate) secrets: &'a Secrets,
    pub(crate) cancel: &'a Cancel,
    /// False in the process outside when steps have to run inside, where all of it is done.
    pub(crate) may_execute: bool,
}

/// What one of the sources turned out to be. The process inside takes these over from the one
/// outside, so that no server is asked twice in a build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Pin {
    Download {
        download: http::Download,
        /// It was transferred in this build.
        fresh: bool,
    },
    Commit(git::Resolved),
}

/// By the hexadecimal key of the operation.
pub(crate) type Pins = BTreeMap<String, Pin>;

/// What all fetches of a build share.
pub(crate) struct Fetching {
    runtime: Handle,
    http: OnceLock<reqwest::Client>,
    pins: Mutex<Pins>,
    agents: Agents,
}

impl Fetching {
    pub(crate) fn new(runtime: Handle, agents: BTreeMap<String, SshSource>, pins: Pins) -> Self {
        Self {
            runtime,
            http: OnceLock::new(),
            pins: Mutex::new(pins),
            agents: Agents::new(agents),
        }
    }

    /// As [`Agents::socket`].
    ///
    /// # Errors
    /// As [`Agents::socket`].
    pub(super) fn agent(&self, id: &str) -> Result<Option<PathBuf>, Failure> {
        self.agents.socket(id)
    }

    pub(crate) fn pins(&self) -> Pins {
        self.lock_pins().clone()
    }

    fn lock_pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pin(&self, key: &Key) -> Option<Pin> {
        self.lock_pins().get(&hex(&key.0)).cloned()
    }

    fn put_pin(&self, key: &Key, pin: Pin) {
        self.lock_pins().insert(hex(&key.0), pin);
    }

    /// Made when the first request is sent.
    fn http(&self) -> Result<&reqwest::Client, StepError> {
        if let Some(ready) = self.http.get() {
            return Ok(ready);
        }
        let client = oci::http::client(Timeouts::default())
            .map_err(|e| Failure::of(FailureKind::Environment, &e))?;
        Ok(self.http.get_or_init(|| client))
    }

    /// Waits on this thread, which must be none of the runtime's own, for `work` or `cancel`.
    fn wait<T>(
        &self,
        cancel: &Cancel,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        let switch = Arc::new(tokio::sync::Notify::new());
        let hook = switch.clone();
        cancel.on_cancel(move || hook.notify_one());
        self.runtime.block_on(async {
            tokio::select! {
                result = work => result,
                () = switch.notified() => Err(StepError::Cancelled),
            }
        })
    }
}
