//! The life of a node as a table.

use crate::key::Key;
use crate::op::NodeId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeState {
    /// Some input is not done.
    Waiting {
        missing: usize,
    },
    /// Its key is computed and looked up.
    Preparing,
    /// Key known, no result, waiting for a free place.
    Queued {
        key: Key,
    },
    Running {
        key: Key,
    },
    /// Another node of the same key is queued or running.
    Following {
        leader: NodeId,
    },
    Done,
    Failed,
    /// Will not run: something else failed or the build was interrupted.
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    InputDone,
    Start,
    Missed { key: Key },
    Follow { leader: NodeId },
    Run,
    Succeed,
    Fail,
    Cancel,
}

impl NodeState {
    /// # Panics
    /// When the scheduler has a bug: a step that cannot follow this state.
    #[must_use]
    pub(super) fn next(self, step: Step) -> Self {
        match (self, step) {
            (Self::Waiting { missing }, Step::InputDone) if missing > 0 => Self::Waiting {
                missing: missing - 1,
            },
            (Self::Waiting { missing: 0 }, Step::Start) => Self::Preparing,
            (Self::Preparing, Step::Missed { key }) => Self::Queued { key },
            (Self::Preparing, Step::Follow { leader }) => Self::Following { leader },
            (Self::Queued { key }, Step::Run) => Self::Running { key },
            (Self::Preparing | Self::Running { .. } | Self::Following { .. }, Step::Succeed) => {
                Self::Done
            }
            (Self::Preparing | Self::Running { .. } | Self::Following { .. }, Step::Fail) => {
                Self::Failed
            }
            (Self::Done | Self::Failed | Self::Cancelled, _) | (_, Step::InputDone) => {
                panic!("{step:?} in state {self:?}")
            }
            (_, Step::Cancel) => Self::Cancelled,
            _ => panic!("{step:?} in state {self:?}"),
        }
    }

    #[must_use]
    pub(super) fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}
