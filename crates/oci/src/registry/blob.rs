//! Blobs: streamed, verified, resumed where they broke off.

use std::io::Write;

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use store::digest::{Digest, HashWriter};

use super::Client;
use super::repository::Repository;
use super::transport::Request;
use crate::error::RegistryError;
use crate::reference::Reference;

/// Bytes that count as progress: a connection that breaks after less was of no use.
const PROGRESS: u64 = 1 << 20;

impl Client {
    /// Writes a blob of the reference's repository to `writer`, which gets every byte once and in
    /// order, however often the transfer had to be taken up again. Only `Ok` means that they
    /// are the right ones. `writer` is called on the runtime's thread: a file, not a pipe.
    ///
    /// # Errors
    /// [`RegistryError::Mismatch`], [`RegistryError::Size`], [`RegistryError::Write`], and those
    /// about requests.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        writer: &mut (dyn Write + Send),
    ) -> Result<(), RegistryError> {
        let repository = Repository::of(reference)?;
        // The semaphore is never closed.
        let _turn = self.downloads.acquire().await;
        let mut transfer = Transfer {
            digest,
            size,
            written: 0,
            writer: HashWriter::new(writer),
        };
        let mut attempt = 1;
        let mut counted_from = 0;
        while let Err(broken) = self.continue_blob(&repository, &mut transfer).await {
            let Broken::Connection(error) = broken else {
                return Err(broken.into_error(&repository));
            };
            if transfer.written >= counted_from + PROGRESS {
                (attempt, counted_from) = (1, transfer.written);
            }
            if attempt >= self.options.attempts {
                return Err(Broken::Connection(error).into_error(&repository));
            }
            self.pause(attempt, None).await;
            attempt += 1;
        }
        transfer.finish(&repository.host)
    }

    async fn continue_blob(
        &self,
        repository: &Repository,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), Broken> {
        let url = repository.blob(transfer.digest);
        let request = Request {
            from: transfer.written,
            ..Request::get(url)
        };
        let mut response = self
            .send(repository, &request)
            .await
            .map_err(Broken::Final)?;
        let mut skip = transfer.skip(&response);
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|e| Broken::Connection(Some(e)))?
        {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            transfer.write(&repository.host, &chunk[known..])?;
        }
        if transfer.written < transfer.size {
            return Err(Broken::Connection(None));
        }
        Ok(())
    }
}

struct Transfer<'a> {
    digest: &'a Digest,
    size: u64,
    written: u64,
    writer: HashWriter<&'a mut (dyn Write + Send)>,
}

enum Broken {
    /// Worth another try; no error when the body merely ended too early.
    Connection(Option<reqwest::Error>),
    Final(RegistryError),
}

impl Broken {
    fn into_error(self, repository: &Repository) -> RegistryError {
        match self {
            Self::Connection(Some(error)) => RegistryError::network(&repository.host, error),
            Self::Connection(None) => RegistryError::Interrupted {
                host: repository.host.clone(),
            },
            Self::Final(error) => error,
        }
    }
}

impl Transfer<'_> {
    /// Bytes of the answer that are there already: none when the server continues where it was
    /// asked to, all of them when it starts at the beginning.
    fn skip(&self, response: &Response) -> u64 {
        let continues = response.status() == StatusCode::PARTIAL_CONTENT
            && response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .and_then(|range| {
                    range
                        .strip_prefix("bytes ")?
                        .split('-')
                        .next()?
                        .parse()
                        .ok()
                })
                .is_none_or(|start: u64| start == self.written);
        if continues { 0 } else { self.written }
    }

    fn write(&mut self, host: &str, bytes: &[u8]) -> Result<(), Broken> {
        if bytes.len() as u64 > self.size - self.written {
            return Err(Broken::Final(RegistryError::Size {
                host: host.to_owned(),
                digest: *self.digest,
                expected: self.size,
            }));
        }
        self.writer
            .write_all(bytes)
            .map_err(|e| Broken::Final(RegistryError::Write(e)))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn finish(self, host: &str) -> Result<(), RegistryError> {
        let (actual, size, _) = self.writer.finish();
        if actual == *self.digest {
            return Ok(());
        }
        let host = host.to_owned();
        Err(RegistryError::Mismatch {
            host,
            expected: *self.digest,
            actual,
            size,
        })
    }
}
