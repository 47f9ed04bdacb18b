//! All that the scheduler knows of the world.

use crate::cancel::Cancel;
use crate::key::Key;
use crate::op::NodeId;
use crate::plan::Node;

/// Does the work of nodes. Methods block; the scheduler calls them on threads of their own.
pub trait Executor: Send + Sync + 'static {
    /// A handle to a result, made into files only when somebody needs files.
    type Output: Clone + Send + Sync + 'static;
    type Error: Send + 'static;

    /// The node's key, and its result when that is known already.
    ///
    /// # Errors
    /// When an input cannot be read (a `COPY` source that is missing).
    fn prepare(
        &self,
        node: &Node,
        inputs: &[Self::Output],
    ) -> Result<Prepared<Self::Output>, Self::Error>;

    /// Whether [`Executor::prepare`] of this node is over sooner than handing it to another thread
    /// takes: then it is called on the scheduler's own.
    fn is_quick(&self, _node: &Node) -> bool {
        false
    }

    /// Makes the result and records it under `key`.
    ///
    /// # Errors
    /// When the step fails, or `cancel` went on meanwhile.
    fn execute(
        &self,
        id: NodeId,
        node: &Node,
        key: &Key,
        inputs: &[Self::Output],
        cancel: &Cancel,
    ) -> Result<Self::Output, Self::Error>;
}

#[derive(Debug, Clone)]
pub struct Prepared<O> {
    pub key: Key,
    pub hit: Option<O>,
    /// For nodes that are no work at all (an image, a context): not reported.
    pub silent: bool,
}
