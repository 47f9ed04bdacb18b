//! Pulls images from registries that speak the OCI distribution protocol, without credentials.
//!
//! http for registries on this machine (`localhost`, `127.0.0.0/8`, `::1`), https for all others.

mod blob;
mod challenge;
mod dns;
mod manifest;
mod repository;
mod tls;
mod transport;

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use tokio::sync::Semaphore;

use crate::error::RegistryError;

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
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(60),
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

    /// Certificates are those of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR` are obeyed), or
    /// Mozilla's where the system has none; proxies are taken from the environment.
    fn http(&self) -> Result<&reqwest::Client, RegistryError> {
        if let Some(ready) = self.http.get() {
            return Ok(ready);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("layercake/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.options.connect_timeout)
            .read_timeout(self.options.read_timeout)
            .redirect(Policy::custom(redirect))
            .referer(false)
            .dns_resolver(dns::Resolver::default())
            .tls_backend_preconfigured(tls::config()?)
            .build()
            .map_err(|e| RegistryError::Setup(Box::new(e)))?;
        Ok(self.http.get_or_init(|| http))
    }
}

/// Registries send the readers of blobs to object stores. reqwest drops the `Authorization` header
/// when host, port or scheme change; what is left to refuse is a way from https to http.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    const REDIRECTS_MAX: usize = 10;
    let from_https = attempt
        .previous()
        .last()
        .is_some_and(|url| url.scheme() == "https");
    if from_https && attempt.url().scheme() != "https" {
        return attempt.error("redirected from https to http");
    }
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error("redirected too often");
    }
    attempt.follow()
}
