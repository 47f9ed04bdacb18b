//! Pulls images from registries that speak the OCI distribution protocol, without credentials.
//!
//! http for registries on this machine (`localhost`, `127.0.0.0/8`, `::1`), https for all others.

mod blob;
mod challenge;
mod manifest;
mod repository;
mod transport;

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::error::RegistryError;
use crate::http::Timeouts;

/// How patient a [`Client`] is. The defaults suit a laptop and the public registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Blobs fetched at the same time; a further one waits. Docker has 3, containerd no limit.
    pub downloads: usize,
    /// How often one request is sent before its failure counts; a transfer that has made progress
    /// starts counting anew.
    pub attempts: u32,
    /// Wait before the second attempt; doubles each time. A registry's `Retry-After` is obeyed up
    /// to [`Options::wait_max`].
    pub wait: Duration,
    pub wait_max: Duration,
    pub connect_timeout: Duration,
    /// Longest silence of a registry before the connection is given up.
    pub read_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            downloads: 4,
            attempts: 5,
            wait: Duration::from_millis(250),
            wait_max: Duration::from_secs(30),
            connect_timeout: Timeouts::default().connect,
            read_timeout: Timeouts::default().read,
        }
    }
}

/// Talks to any number of registries, and remembers the tokens they gave out. Its methods need a
/// tokio runtime with I/O and time.
#[derive(Debug)]
pub struct Client {
    /// Made when the first request is sent: reading the certificates of a system takes
    /// milliseconds, and most builds ask no registry.
    http: OnceLock<reqwest::Client>,
    options: Options,
    /// Anonymous tokens by [`repository::Repository::key`].
    tokens: Mutex<HashMap<String, String>>,
    downloads: Semaphore,
}

impl Client {
    #[must_use]
    pub fn new(options: Options) -> Self {
        let downloads = Semaphore::new(options.downloads.max(1));
        Self {
            http: OnceLock::new(),
            options,
            tokens: Mutex::new(HashMap::new()),
            downloads,
        }
    }

    fn http(&self) -> Result<&reqwest::Client, RegistryError> {
        if let Some(ready) = self.http.get() {
            return Ok(ready);
        }
        let timeouts = Timeouts {
            connect: self.options.connect_timeout,
            read: self.options.read_timeout,
        };
        let http = crate::http::client(timeouts).map_err(|e| RegistryError::Setup(Box::new(e)))?;
        Ok(self.http.get_or_init(|| http))
    }
}
