//! The one way in which this program speaks HTTP: certificates, host names, proxies, redirects.

mod dns;
mod tls;

use std::time::Duration;

pub use reqwest;
use reqwest::redirect::{Action, Attempt, Policy};

/// How long a [`client`] waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Longest silence of a server before the connection is given up; the length of a transfer is
    /// not limited.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            read: Duration::from_secs(60),
        }
    }
}

/// This machine cannot speak HTTP, such as when no TLS configuration can be made.
#[derive(Debug, thiserror::Error)]
#[error("set up the HTTP client")]
pub struct SetupError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Makes a client, which reads the certificates of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR`
/// replace them; Mozilla's where the system has none); this takes milliseconds. Proxies are taken
/// from the environment. Its requests need a tokio runtime with I/O and time.
///
/// At most 10 redirects are followed, never from https to http, and none takes `Authorization` or
/// cookies along to another host, port or scheme.
///
/// # Errors
/// [`SetupError`].
pub fn client(timeouts: Timeouts) -> Result<reqwest::Client, SetupError> {
    reqwest::Client::builder()
        .user_agent(concat!("layercake/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeouts.connect)
        .read_timeout(timeouts.read)
        .redirect(Policy::custom(redirect))
        .referer(false)
        .dns_resolver(dns::Resolver::default())
        .tls_backend_preconfigured(tls::config()?)
        .build()
        .map_err(|e| SetupError(Box::new(e)))
}

/// Registries send the readers of blobs to object stores. reqwest drops the `Authorization` header
/// when host, port or scheme change; what is left to refuse is a way from https to http.
fn redirect(attempt: Attempt<'_>) -> Action {
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
