//! `ADD https://…` (rules D12-D17).
//!
//! A download is a blob of the store and a record of what the server said of it. With the record
//! the server is asked whether the file changed; with a checksum it is not even asked.

mod date;
mod transfer;

use std::fmt;
use std::sync::Arc;

use graph::{Cancel, Key, op};
use oci::http::reqwest::header::{
    AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use oci::http::reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use store::content::Content;
use store::record::RecordKind;
use store::tree::ContentHash;
use store::{Digest, Store};

use self::transfer::{Options, Target, TransferError, transfer};
use super::text::{self, percent_decode, redact};
use super::{Access, Pin};
use crate::engine::copy::GivenFile;
use crate::engine::executor::StepError;
use crate::engine::secrets::Secrets;
use crate::failure::{Failure, FailureKind};

const RECORDS: RecordKind = RecordKind("http");
/// Rule D12.
const MODE: u32 = 0o600;

/// A downloaded file; its bytes are a blob of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Download {
    digest: String,
    hash: ContentHash,
    /// Bytes.
    size: u64,
    /// Seconds since 1970 (rule D13).
    mtime: i64,
}

impl fmt::Display for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes", self.digest, self.size)
    }
}

impl Download {
    fn is_in(&self, store: &Store) -> bool {
        let digest: Option<Digest> = self.digest.parse().ok();
        digest.is_some_and(|digest| store.blob_size(&digest) == Some(self.size))
    }

    /// All that a copy of it depends on (rule D14); the time is in, as it ends up in the layer.
    pub(crate) fn key(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.hash);
        hasher.update(&self.size.to_le_bytes());
        hasher.update(&self.mtime.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// As a source of `COPY`.
    ///
    /// # Errors
    /// When its blob is gone.
    pub(crate) fn file(&self, store: &Store) -> Result<GivenFile, StepError> {
        let digest: Digest = self
            .digest
            .parse()
            .map_err(|e| Failure::of(FailureKind::Cache, &e))?;
        let file = Arc::new(store.open_blob(&digest)?);
        Ok(GivenFile {
            content: Content::Range {
                file,
                offset: 0,
                len: self.size,
            },
            size: self.size,
            hash: self.hash,
            mode: MODE,
            mtime: Some(self.mtime),
        })
    }
}

/// What is kept of a download.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    download: Download,
    etag: Option<String>,
    last_modified: Option<String>,
}

/// An operation, understood.
struct Request<'a> {
    op: &'a op::Http,
    /// Without user name and password.
    url: Url,
    authorization: Option<HeaderValue>,
}

impl<'a> Request<'a> {
    fn new(op: &'a op::Http, secrets: &Secrets) -> Result<Self, StepError> {
        let mut url = Url::parse(&op.url).map_err(|e| {
            let message = format!("{}: not a URL: {e}", redact(&op.url));
            Failure::new(FailureKind::Dockerfile, message)
        })?;
        let authorization = authorization(&url, secrets)?;
        url.set_fragment(None);
        // Fails only for URLs without a host, which have nothing to remove.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Self {
            op,
            url,
            authorization,
        })
    }

    fn shown(&self) -> String {
        redact(self.url.as_str())
    }

    fn headers(&self) -> HeaderMap {
        let authorization = self.authorization.clone();
        HeaderMap::from_iter(authorization.map(|value| (AUTHORIZATION, value)))
    }

    /// With another identity a server may give something else. With a checksum it may not.
    fn record_key(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let checksum = self.op.checksum.as_deref().unwrap_or_default();
        let identity = match &self.authorization {
            Some(value) if checksum.is_empty() => value.as_bytes(),
            _ => b"",
        };
        for part in [self.url.as_str().as_bytes(), checksum.as_bytes(), identity] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// The record of a download whose bytes are still there.
    fn record(&self, store: &Store) -> Result<Option<Record>, StepError> {
        let bytes = store.record(RECORDS, &self.record_key())?;
        let record: Option<Record> = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        Ok(record.filter(|record| record.download.is_in(store)))
    }

    fn failure(&self, error: &TransferError) -> StepError {
        let mut failure = Failure::of(FailureKind::Build, error);
        failure.message = format!("{}: {}", self.shown(), failure.message);
        if let TransferError::Status { status: 401 | 403 } = error {
            let host = hostname(&self.url);
            failure = failure.hint(format!(
                "a secret HTTP_AUTH_TOKEN_{host} or HTTP_AUTH_HEADER_{host} authenticates"
            ));
        }
        failure.into()
    }
}

/// The host as names of secrets have it: without port and brackets.
fn hostname(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Rule D17; a secret goes before the user name and password of the URL.
fn authorization(url: &Url, secrets: &Secrets) -> Result<Option<HeaderValue>, StepError> {
    let host = hostname(url);
    let (token, header) = (
        format!("HTTP_AUTH_TOKEN_{host}"),
        format!("HTTP_AUTH_HEADER_{host}"),
    );
    let (name, value) = if let Some(secret) = secrets.get(&token) {
        (token, [b"Bearer ", secret.trim_ascii()].concat())
    } else if let Some(secret) = secrets.get(&header) {
        (header, secret.trim_ascii().to_vec())
    } else if let Some(value) = basic(url) {
        ("the URL".to_owned(), value.into_bytes())
    } else {
        return Ok(None);
    };
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| {
        let message = format!("{name}: not text that can be an HTTP header");
        Failure::new(FailureKind::Usage, message)
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// RFC 7617.
fn basic(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let user = percent_decode(url.username());
    let password = percent_decode(url.password().unwrap_or_default());
    Some(text::basic(&user, &password))
}

/// The download, when nothing has to be transferred for it: the server says that it did not
/// change, or a checksum says so.
///
/// # Errors
/// When the server refuses (rule D16) or cannot be asked.
pub(crate) fn look_up(
    access: &Access<'_>,
    op: &op::Http,
    key: &Key,
) -> Result<Option<Download>, StepError> {
    let store = access.store;
    if let Some(Pin::Download { download, fresh }) = access.fetching.pin(key)
        && download.is_in(store)
    {
        return Ok(Some(download).filter(|_| !fresh));
    }
    let request = Request::new(op, access.secrets)?;
    let Some(record) = request.record(store)? else {
        return Ok(None);
    };
    if op.checksum.is_some() {
        return Ok(Some(record.download));
    }
    let unchanged = is_unchanged(access, &request, &record)?;
    let found = Some(record.download).filter(|_| unchanged);
    if let Some(download) = found.clone() {
        let fresh = false;
        access
            .fetching
            .put_pin(key, Pin::Download { download, fresh });
    }
    Ok(found)
}

/// True when something is known of the operation, so that a transfer may well give what is known.
pub(crate) fn is_known(access: &Access<'_>, op: &op::Http) -> bool {
    Request::new(op, access.secrets)
        .and_then(|request| request.record(access.store))
        .is_ok_and(|record| record.is_some())
}

/// Asks the server whether it still has what the record says. Its answer is not read further than
/// the headers: what changed is transferred when the step runs.
fn is_unchanged(
    access: &Access<'_>,
    request: &Request<'_>,
    record: &Record,
) -> Result<bool, StepError> {
    let mut headers = request.headers();
    let value = |text: &Option<String>| HeaderValue::from_str(text.as_deref()?).ok();
    if let Some(etag) = value(&record.etag) {
        headers.insert(IF_NONE_MATCH, etag);
    } else if let Some(date) = value(&record.last_modified) {
        headers.insert(IF_MODIFIED_SINCE, date);
    } else {
        return Ok(false);
    }
    let client = access.fetching.http()?;
    access.fetching.wait(access.cancel, async {
        let options = Options::default();
        let response = transfer::ask(client, &request.url, &headers, &options)
            .await
            .map_err(|e| request.failure(&e))?;
        let same_tag = || {
            let tag = header(response.headers(), ETAG.as_str());
            tag.is_some() && tag == record.etag
        };
        // Some servers have tags and do not heed the question.
        Ok(response.status() == StatusCode::NOT_MODIFIED || same_tag())
    })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Transfers the file and records what it is.
///
/// # Errors
/// [`TransferError`]; when the checksum is another one; when `cancel` goes on.
pub(crate) fn fetch(
    access: &Access<'_>,
    op: &op::Http,
    key: &Key,
    cancel: &Cancel,
) -> Result<Download, StepError> {
    let store = access.store;
    if let Some(Pin::Download { download, .. }) = access.fetching.pin(key)
        && download.is_in(store)
    {
        return Ok(download);
    }
    let request = Request::new(op, access.secrets)?;
    let client = access.fetching.http()?;
    let target = Target {
        url: &request.url,
        headers: request.headers(),
        store,
    };
    let options = Options::default();
    let done = access.fetching.wait(cancel, async {
        let done = transfer(client, &target, &options).await;
        done.map_err(|e| request.failure(&e))
    })?;
    let expected: Option<Digest> = op.checksum.as_deref().and_then(|text| text.parse().ok());
    let (digest, size) = match store.commit_blob(done.writer, expected.as_ref()) {
        Err(store::Error::Mismatch {
            expected, actual, ..
        }) => {
            let message = format!(
                "digest mismatch for {}: {actual} (expected: {expected})",
                request.shown()
            );
            return Err(Failure::new(FailureKind::Build, message).into());
        }
        other => other?,
    };
    let last_modified = header(&done.headers, LAST_MODIFIED.as_str());
    let download = Download {
        digest: digest.to_string(),
        hash: done.hash,
        size,
        mtime: last_modified.as_deref().and_then(date::parse).unwrap_or(0),
    };
    let record = Record {
        download: download.clone(),
        etag: header(&done.headers, ETAG.as_str()),
        last_modified,
    };
    let json = serde_json::to_vec(&record)
        .map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))?;
    store.put_record(RECORDS, &request.record_key(), &json)?;
    let pin = Pin::Download {
        download: download.clone(),
        fresh: true,
    };
    access.fetching.put_pin(key, pin);
    Ok(download)
}
