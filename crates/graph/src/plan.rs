//! The lowered build: a DAG of [`Op`]s and the image that comes out of it.

use crate::config::ImageConfig;
use crate::op::{NodeId, Op};

#[derive(Debug, Clone)]
pub struct Node {
    pub op: Op,
    /// In the order the op counts them; each smaller than this node's own number.
    pub inputs: Vec<NodeId>,
    pub meta: Meta,
}

/// What people are told about a node; never part of a key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta {
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// Lower-cased stage name, or `stage-N`.
    pub stage: String,
    /// Lines of the Dockerfile, 1-based and inclusive; `None` for what no line asked for.
    pub lines: Option<(u32, u32)>,
    /// `--no-cache` or `--no-cache-filter` covers it: not looked up, still recorded (rule K12).
    pub no_cache: bool,
}

/// Only what the target needs (rule S06); nodes in topological order.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: Vec<Node>,
    /// The node whose tree is the image's.
    pub target: NodeId,
    /// The finished config; `rootfs` and times are filled in when the layers are known.
    pub config: ImageConfig,
    /// New history entries after those of the base, in order; `empty_layer` false stands for one
    /// layer of the target's chain (rules M01, M09).
    pub history: Vec<HistoryEntry>,
    /// `SOURCE_DATE_EPOCH`, seconds, when the build arg or a global `ARG` gives one (rules E01,
    /// E04); the ops carry [`crate::lower::DEFAULT_EPOCH`] otherwise.
    pub source_date_epoch: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    pub created_by: String,
    pub empty_layer: bool,
    /// `buildkit.dockerfile.v0` in BuildKit (rule M04).
    pub comment: &'static str,
}
