//! What happens while a plan is solved, for whoever reports it.

use std::time::Duration;

use crate::op::NodeId;

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The node is being worked on; `Finished`, `Failed` or `Cancelled` follows.
    Started {
        node: NodeId,
    },
    /// Its result was there already.
    Cached {
        node: NodeId,
    },
    /// Another node with the same key does the work (rule K17).
    Shared {
        node: NodeId,
        leader: NodeId,
    },
    /// A piece of what the step printed; not cut at line ends.
    Output {
        node: NodeId,
        stream: Stream,
        bytes: Vec<u8>,
    },
    /// What the executor has to say about a running node (`unpacking 3 layers`).
    Note {
        node: NodeId,
        text: String,
    },
    /// What a command used, once it has ended, well or not.
    Usage {
        node: NodeId,
        /// In user and kernel mode, of all processes.
        cpu: Duration,
        /// Bytes; `None` when too little to be measured.
        peak_memory: Option<u64>,
        /// Bytes from and to disks, as far as they were not cached.
        read: u64,
        written: u64,
    },
    Finished {
        node: NodeId,
        took: Duration,
    },
    Failed {
        node: NodeId,
    },
    /// Not finished because something else failed or the build was interrupted.
    Cancelled {
        node: NodeId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}
