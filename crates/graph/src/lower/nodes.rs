//! The nodes of the plan while it grows.

use std::collections::HashMap;

use crate::op::{NodeId, Op};
use crate::plan::{Meta, Node};

#[derive(Debug, Default)]
pub(crate) struct Nodes {
    list: Vec<Node>,
    /// Images, contexts and the empty tree stand in the plan once, however often they are used.
    leaves: HashMap<String, NodeId>,
}

impl Nodes {
    pub(crate) fn add(&mut self, op: Op, inputs: Vec<NodeId>, meta: Meta) -> NodeId {
        self.list.push(Node { op, inputs, meta });
        NodeId(self.list.len() - 1)
    }

    /// A node without inputs, made when its op is asked for the first time; whoever asks first
    /// names it.
    pub(crate) fn leaf(&mut self, op: Op, meta: impl FnOnce() -> Meta) -> NodeId {
        let key = format!("{op:?}");
        if let Some(&id) = self.leaves.get(&key) {
            return id;
        }
        let id = self.add(op, Vec::new(), meta());
        self.leaves.insert(key, id);
        id
    }

    /// Whether a node is the empty tree.
    pub(crate) fn is_scratch(&self, id: NodeId) -> bool {
        self.list[id.0].op == Op::Scratch
    }

    /// Drops what `target` does not need and numbers the rest anew.
    pub(crate) fn finish(self, target: NodeId) -> (Vec<Node>, NodeId) {
        let mut needed = vec![false; self.list.len()];
        needed[target.0] = true;
        // Inputs have smaller numbers, so one pass from the end sees every user before its input.
        for id in (0..self.list.len()).rev() {
            if needed[id] {
                for input in &self.list[id].inputs {
                    needed[input.0] = true;
                }
            }
        }
        let mut numbers = Vec::with_capacity(needed.len());
        let mut nodes = Vec::new();
        for (mut node, needed) in self.list.into_iter().zip(needed) {
            numbers.push(NodeId(nodes.len()));
            if needed {
                for input in &mut node.inputs {
                    *input = numbers[input.0];
                }
                nodes.push(node);
            }
        }
        (nodes, numbers[target.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s06_only_what_the_target_needs_stays() {
        let mut nodes = Nodes::default();
        let meta = Meta::default;
        let scratch = nodes.leaf(Op::Scratch, meta);
        let unused = nodes.leaf(
            Op::Context {
                name: "context".into(),
            },
            meta,
        );
        let image = nodes.leaf(Op::Image { name: "x".into() }, meta);
        assert_eq!(nodes.leaf(Op::Scratch, meta), scratch);
        let workdir = crate::op::Workdir {
            path: "/w".into(),
            user: String::new(),
            epoch: 0,
        };
        let target = nodes.add(Op::Workdir(workdir), vec![image, scratch], meta());
        nodes.add(Op::Scratch, vec![unused], meta());
        let (nodes, target) = nodes.finish(target);
        assert_eq!(nodes.len(), 3);
        assert_eq!(target, NodeId(2));
        assert_eq!(nodes[2].inputs, [NodeId(1), NodeId(0)]);
    }
}
