//! One file over HTTP: asked for until it is whole, continued where it broke off.

use std::io::{self, Write};
use std::time::Duration;

use oci::http::reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
    RETRY_AFTER,
};
use oci::http::reqwest::{self, Client, Response, StatusCode, Url};
use store::Store;
use store::blob::BlobWriter;
use store::tree::ContentHash;

/// Bytes that count as progress: a connection that breaks after less was of no use.
const PROGRESS: u64 = 1 << 20;

/// How patient a transfer is, and how much it takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// How often the file is asked for before a failure counts; one that made progress starts
    /// counting anew.
    pub(super) attempts: u32,
    /// Wait before the second attempt; doubles each time. A server's `Retry-After` is obeyed up
    /// to [`Options::wait_max`].
    pub(super) wait: Duration,
    pub(super) wait_max: Duration,
    /// Bytes, as many as an archive may have (rule D22).
    pub(super) size_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            attempts: 4,
            wait: Duration::from_millis(250),
            wait_max: Duration::from_secs(30),
            size_max: crate::engine::copy::archive_limits().archive_bytes,
        }
    }
}

/// A URL is in none of the messages: where servers redirect to, it carries secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransferError {
    /// Rule D16, in the words of BuildKit.
    #[error("invalid response status {status}")]
    Status { status: u16 },
    #[error("cannot be downloaded")]
    Network(#[source] reqwest::Error),
    #[error("longer than {limit} bytes")]
    TooLong { limit: u64 },
    #[error("write the download")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl TransferError {
    fn network(error: reqwest::Error) -> Self {
        Self::Network(error.without_url())
    }

    /// Whether it may go better when it is tried again.
    fn is_temporary(&self, attempt: u32) -> bool {
        const CONNECTS: u32 = 3;
        match self {
            Self::Status { status } => matches!(status, 408 | 416 | 429 | 500 | 502..=504),
            Self::Network(e) => {
                let is_final = e.is_dns() || e.is_redirect() || e.is_builder();
                !is_final && (attempt < CONNECTS || !e.is_connect())
            }
            Self::TooLong { .. } | Self::Write(_) | Self::Store(_) => false,
        }
    }
}

/// What is to be transferred where.
pub(super) struct Target<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: HeaderMap,
    pub(super) store: &'a Store,
}

/// The whole file, not yet a blob.
pub(super) struct Done {
    pub(super) writer: BlobWriter,
    pub(super) hash: ContentHash,
    /// Of the answer that the file began with.
    pub(super) headers: HeaderMap,
}

/// A file up to where it broke off.
struct Part {
    writer: BlobWriter,
    hash: blake3::Hasher,
    size: u64,
    headers: HeaderMap,
}

impl Part {
    fn new(store: &Store, headers: HeaderMap) -> Result<Self, TransferError> {
        Ok(Self {
            writer: store.blob_writer()?,
            hash: blake3::Hasher::new(),
            size: 0,
            headers,
        })
    }

    /// By what the server can tell that the rest belongs to this part (RFC 9110, 13.1.5).
    fn validator(&self) -> Option<HeaderValue> {
        let is_strong = |tag: &&HeaderValue| !tag.as_bytes().starts_with(b"W/");
        let tag = self.headers.get(ETAG).filter(is_strong);
        tag.or_else(|| self.headers.get(LAST_MODIFIED)).cloned()
    }

    fn write(&mut self, bytes: &[u8], limit: u64) -> Result<(), TransferError> {
        self.size += bytes.len() as u64;
        if self.size > limit {
            return Err(TransferError::TooLong { limit });
        }
        self.hash.update(bytes);
        self.writer.write_all(bytes).map_err(TransferError::Write)
    }
}

/// # Errors
/// [`TransferError`]; that of the last attempt.
pub(super) async fn transfer(
    client: &Client,
    target: &Target<'_>,
    options: &Options,
) -> Result<Done, TransferError> {
    let mut part = None;
    let mut attempt = 1;
    let mut counted_from = 0;
    loop {
        let Err(failed) = go_on(client, target, options, &mut part).await else {
            break;
        };
        let size = part.as_ref().map_or(0, |part| part.size);
        if size >= counted_from + PROGRESS {
            (attempt, counted_from) = (1, size);
        }
        let Failed { error, wait } = failed;
        if attempt >= options.attempts || !error.is_temporary(attempt) {
            return Err(error);
        }
        pause(options, attempt, wait).await;
        attempt += 1;
    }
    let Part {
        writer,
        hash,
        headers,
        ..
    } = match part {
        Some(part) => part,
        None => Part::new(target.store, HeaderMap::new())?,
    };
    let hash = *hash.finalize().as_bytes();
    Ok(Done {
        writer,
        hash,
        headers,
    })
}

struct Failed {
    error: TransferError,
    /// How long the server asks to wait.
    wait: Option<Duration>,
}

impl<E: Into<TransferError>> From<E> for Failed {
    fn from(error: E) -> Self {
        let error = error.into();
        Self { error, wait: None }
    }
}

async fn pause(options: &Options, attempt: u32, asked: Option<Duration>) {
    let doubled = options.wait.saturating_mul(1 << (attempt - 1).min(16));
    let wait = asked.unwrap_or_default().max(doubled);
    tokio::time::sleep(wait.min(options.wait_max)).await;
}

/// One request, and as much of the file as it gives.
async fn go_on(
    client: &Client,
    target: &Target<'_>,
    options: &Options,
    part: &mut Option<Part>,
) -> Result<(), Failed> {
    let mut headers = target.headers.clone();
    let from = part
        .as_ref()
        .filter(|part| part.size > 0)
        .and_then(|part| Some((part.size, part.validator()?)));
    if let Some((size, validator)) = &from {
        let range = HeaderValue::try_from(format!("bytes={size}-"));
        headers.extend(range.ok().map(|range| (RANGE, range)));
        headers.insert(IF_RANGE, validator.clone());
    }
    let mut response = match send(client, target.url, &headers).await {
        Ok(response) if response.status() == StatusCode::NOT_MODIFIED => {
            // Nothing was asked that this could be the answer to.
            return Err(TransferError::Status { status: 304 }.into());
        }
        Ok(response) => response,
        Err(failed) => {
            if matches!(failed.error, TransferError::Status { status: 416 }) {
                *part = None;
            }
            return Err(failed);
        }
    };
    let continues = from.is_some_and(|(size, _)| range_start(&response) == Some(size));
    let mut current = match part.take() {
        Some(known) if continues => known,
        _ if response.status() == StatusCode::PARTIAL_CONTENT => {
            return Err(TransferError::Status { status: 206 }.into());
        }
        _ => Part::new(target.store, response.headers().clone())?,
    };
    let limit = options.size_max;
    if response
        .content_length()
        .is_some_and(|length| length > limit - current.size.min(limit))
    {
        return Err(TransferError::TooLong { limit }.into());
    }
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => current.write(&bytes, limit)?,
            Ok(None) => break,
            Err(error) => {
                *part = Some(current);
                return Err(TransferError::network(error).into());
            }
        }
    }
    *part = Some(current);
    Ok(())
}

fn range_start(response: &Response) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Asks a question that needs no body, as often as it takes.
///
/// # Errors
/// [`TransferError::Status`] for all but success and `304 Not Modified`,
/// [`TransferError::Network`].
pub(super) async fn ask(
    client: &Client,
    url: &Url,
    headers: &HeaderMap,
    options: &Options,
) -> Result<Response, TransferError> {
    let mut attempt = 1;
    loop {
        match send(client, url, headers).await {
            Ok(response) => return Ok(response),
            Err(Failed { error, wait }) => {
                if attempt >= options.attempts || !error.is_temporary(attempt) {
                    return Err(error);
                }
                pause(options, attempt, wait).await;
                attempt += 1;
            }
        }
    }
}

async fn send(client: &Client, url: &Url, headers: &HeaderMap) -> Result<Response, Failed> {
    let request = client.get(url.clone()).headers(headers.clone());
    // Without it servers may compress, and the file would be another one.
    let request = request.header(ACCEPT_ENCODING, "identity");
    let response = request.send().await.map_err(TransferError::network)?;
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    let wait = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let status = status.as_u16();
    Err(Failed {
        error: TransferError::Status { status },
        wait,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use oci::http::Timeouts;

    use super::*;

    /// Transfers what a server says that answers every connection with these bytes and then keeps
    /// it open, silent. For so long it is waited for.
    fn transfer_of(
        says: &'static str,
        size_max: u64,
        read: Duration,
    ) -> Result<u64, TransferError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/f", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(says.as_bytes());
                open.push(stream);
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let target = Target {
            url: &Url::parse(&url).unwrap(),
            headers: HeaderMap::new(),
            store: &store,
        };
        let options = Options {
            attempts: 2,
            wait: Duration::ZERO,
            wait_max: Duration::ZERO,
            size_max,
        };
        let timeouts = Timeouts {
            read,
            ..Timeouts::default()
        };
        let client = oci::http::client(timeouts).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let done = runtime
            .unwrap()
            .block_on(transfer(&client, &target, &options))?;
        Ok(store.commit_blob(done.writer, None).unwrap().1)
    }

    /// Longer than a loaded machine takes to answer.
    const PATIENCE: Duration = Duration::from_secs(120);

    #[test]
    fn a_silent_server_is_given_up() {
        for says in ["", "HTTP/1.1 200 x\r\nContent-Length: 100\r\n\r\nonly this"] {
            let failed = transfer_of(says, 1000, Duration::from_millis(50)).unwrap_err();
            assert!(matches!(failed, TransferError::Network(_)), "{failed:?}");
        }
    }

    #[test]
    fn sizes_are_limited_whether_announced_or_not() {
        for says in [
            "HTTP/1.1 200 x\r\nContent-Length: 11\r\n\r\n12345678901",
            "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n",
        ] {
            assert_eq!(transfer_of(says, 11, PATIENCE).unwrap(), 11);
            let failed = transfer_of(says, 10, PATIENCE).unwrap_err();
            assert!(
                matches!(failed, TransferError::TooLong { limit: 10 }),
                "{failed:?}"
            );
        }
    }

    #[test]
    fn an_answer_to_a_question_that_was_not_asked_is_none() {
        for (says, status) in [
            ("HTTP/1.1 304 x\r\n\r\n", 304),
            ("HTTP/1.1 206 x\r\nContent-Length: 1\r\n\r\nx", 206),
        ] {
            let failed = transfer_of(says, 10, PATIENCE).unwrap_err();
            let TransferError::Status { status: found } = failed else {
                panic!("{failed:?}");
            };
            assert_eq!(found, status);
        }
    }
}
