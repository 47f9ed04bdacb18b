//! One request, sent until it is answered: tokens, waiting, the meaning of status codes.

use std::error::Error as _;
use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use super::Client;
use super::challenge::Challenge;
use super::repository::{Repository, is_loopback};
use crate::error::RegistryError;
use crate::image::ACCEPTED;

/// Bytes of an error page worth reading.
const MESSAGE_BYTES: u64 = 64 << 10;
const TOKEN_BYTES: u64 = 1 << 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub method: Method,
    pub url: String,
    /// First byte wanted; not 0 when a transfer is resumed.
    pub from: u64,
}

impl Request {
    pub(super) const fn get(url: String) -> Self {
        Self {
            method: Method::GET,
            url,
            from: 0,
        }
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    /// Sends `request` until there is an answer worth having: one with a status below 400. A
    /// token is fetched when the registry asks for one.
    pub(super) async fn send(
        &self,
        repository: &Repository,
        request: &Request,
    ) -> Result<Response, RegistryError> {
        let mut refused = false;
        loop {
            let response = self
                .retry(&repository.host, |http| {
                    self.build(http, repository, request)
                })
                .await?;
            if response.status() != StatusCode::UNAUTHORIZED || refused {
                return check(&repository.host, response).await;
            }
            // Once: a token that expired or does not suffice is replaced, a second one is not.
            refused = true;
            self.authenticate(repository, response.headers()).await?;
        }
    }

    fn build(
        &self,
        http: &reqwest::Client,
        repository: &Repository,
        request: &Request,
    ) -> RequestBuilder {
        let mut builder = http.request(request.method.clone(), &request.url);
        builder = builder.header(ACCEPT, [&ACCEPTED.join(", "), "*/*;q=0.1"].join(", "));
        if request.from > 0 {
            builder = builder.header(RANGE, format!("bytes={}-", request.from));
        }
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match tokens.get(&repository.key()) {
            Some(token) => builder.header(AUTHORIZATION, format!("Bearer {token}")),
            None => builder,
        }
    }

    /// The answer, whatever its status, unless that says to come back later.
    async fn retry(
        &self,
        host: &str,
        build: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let http = self.http()?;
        let mut attempt = 1;
        loop {
            let last = attempt >= self.options.attempts;
            let asked = match build(http).send().await {
                Ok(response) if last || !is_temporary(response.status()) => return Ok(response),
                Ok(response) => retry_after(response.headers()),
                Err(error) if last || !is_worth_another_try(&error, attempt) => {
                    return Err(RegistryError::network(host, error));
                }
                Err(_) => None,
            };
            self.pause(attempt, asked).await;
            attempt += 1;
        }
    }

    /// Waits before attempt `attempt + 1`.
    pub(super) async fn pause(&self, attempt: u32, asked: Option<Duration>) {
        let doubled = self.options.wait.saturating_mul(1 << (attempt - 1).min(16));
        let wait = asked
            .unwrap_or(Duration::ZERO)
            .max(doubled)
            .min(self.options.wait_max);
        tokio::time::sleep(wait).await;
    }

    /// Gets an anonymous token from where the registry says.
    async fn authenticate(
        &self,
        repository: &Repository,
        headers: &HeaderMap,
    ) -> Result<(), RegistryError> {
        let host = &repository.host;
        let invalid = |reason| RegistryError::Challenge {
            host: host.clone(),
            reason,
        };
        let challenge = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .min_by_key(|challenge| matches!(challenge, Challenge::Other(_)));
        let (realm, service, scope) = match challenge {
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => (realm, service, scope),
            Some(Challenge::Other(scheme)) => {
                return Err(RegistryError::Credentials {
                    host: host.clone(),
                    scheme,
                });
            }
            None => return Err(invalid("it refuses without saying what it wants")),
        };
        let mut url = Url::parse(&realm).map_err(|_| invalid("its token server is no URL"))?;
        let realm_is_local = url.host_str().is_some_and(is_loopback);
        if url.scheme() != "https" && (repository.is_https() || !realm_is_local) {
            return Err(invalid("its token server does not use https"));
        }
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let scope = scope.unwrap_or_else(|| repository.scope());
        url.query_pairs_mut().append_pair("scope", &scope);
        let response = self.retry(host, |http| http.get(url.clone())).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let scheme = "token server".to_owned();
            return Err(RegistryError::Credentials {
                host: host.clone(),
                scheme,
            });
        }
        let response = check(host, response).await?;
        let body = read(host, response, TOKEN_BYTES).await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| invalid("its token server's answer is not JSON"))?;
        let token = token
            .token
            .or(token.access_token)
            .filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| invalid("its token server gave no token"))?;
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(repository.key(), token);
        Ok(())
    }
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// A host that does not exist, or is refused on principle, will not come back; one that does not
/// answer at all seldom does.
fn is_worth_another_try(error: &reqwest::Error, attempt: u32) -> bool {
    const CONNECTS: u32 = 3;
    let is_final = error.is_dns() || error.is_redirect() || error.is_builder() || is_tls(error);
    !is_final && (attempt < CONNECTS || !error.is_connect())
}

/// True when the two sides disagreed on TLS, which covers certificates.
fn is_tls(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(source) = next {
        let inner = source
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if source.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        next = source.source();
    }
    false
}

/// Seconds; the other form of the header, a date, is not worth a calendar.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

async fn check(host: &str, response: Response) -> Result<Response, RegistryError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let host = host.to_owned();
    let body = read(&host, response, MESSAGE_BYTES)
        .await
        .unwrap_or_default();
    let message = message(&body);
    Err(match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { host, message },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { host, message },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests { host, message },
        _ => RegistryError::Status {
            host,
            status: status.as_u16(),
            message,
        },
    })
}

/// What the registry says went wrong (distribution-spec, "Error Codes"), in one line.
fn message(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let first = value
        .get("errors")
        .and_then(|errors| errors.get(0))
        .unwrap_or(&value);
    let text = ["message", "details", "code"]
        .iter()
        .find_map(|key| crate::json::text(first, key));
    let text = text.unwrap_or("no reason given");
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The body, refused when it is longer than `limit`.
pub(super) async fn read(
    host: &str,
    mut response: Response,
    limit: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| RegistryError::network(host, e))?
    {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit {
            return Err(RegistryError::TooLong {
                host: host.to_owned(),
                limit,
            });
        }
    }
    Ok(body)
}
