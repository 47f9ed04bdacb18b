//! What a step prints: secrets masked, all of it to its log, all of it to the report.

use std::io;
use std::path::Path;

use graph::event::Stream;
use graph::{Event, NodeId};

use super::executor::Engine;
use super::logs::StepLog;
use super::secrets::Masker;
use crate::failure::{Failure, FailureKind};

/// Takes the output of one step in the thread that reads it, so that whatever is slow here slows
/// the step, and nothing piles up.
pub(super) struct StepOutput<'a> {
    engine: &'a Engine,
    node: NodeId,
    log: StepLog<'a>,
    stdout: Masker,
    stderr: Masker,
    failed: Option<io::Error>,
}

impl<'a> StepOutput<'a> {
    pub(super) fn new(engine: &'a Engine, node: NodeId) -> Self {
        let run = &engine.run;
        Self {
            engine,
            node,
            log: run.logs.step((run.number)(node)),
            stdout: run.secrets.masker(),
            stderr: run.secrets.masker(),
            failed: None,
        }
    }

    /// False once the log cannot be written: then the step should end.
    pub(super) fn take(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let masker = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let shown = masker.feed(bytes).into_owned();
        self.show(stream, shown)
    }

    fn show(&mut self, stream: Stream, bytes: Vec<u8>) -> bool {
        if bytes.is_empty() || self.failed.is_some() {
            return self.failed.is_none();
        }
        self.failed = self.log.write(&bytes).err();
        (self.engine.events)(Event::Output {
            node: self.node,
            stream,
            bytes,
        });
        self.failed.is_none()
    }

    /// Shows what was held back as a possible beginning of a secret.
    ///
    /// # Errors
    /// When the log is not whole.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        let (out, err) = (self.stdout.finish(), self.stderr.finish());
        self.show(Stream::Stdout, out);
        self.show(Stream::Stderr, err);
        match self.failed.take() {
            None => Ok(()),
            Some(error) => Err(Failure::new(
                FailureKind::Environment,
                format!("write the log of the step: {error}"),
            )),
        }
    }

    /// The log, if anything was printed.
    pub(super) fn path(&self) -> Option<&Path> {
        self.log.path()
    }
}
