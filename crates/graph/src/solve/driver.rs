//! The one task that decides what runs when.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::state::{NodeState, Step};
use crate::cancel::Cancel;
use crate::event::Event;
use crate::executor::{Executor, Prepared};
use crate::key::Key;
use crate::op::NodeId;
use crate::plan::Plan;

/// How much may go on at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Steps executing.
    pub running: usize,
    /// Keys being computed; they hash files.
    pub preparing: usize,
}

/// How a plan ended.
#[derive(Debug)]
pub struct Solved<O, E> {
    /// By node number; `None` where a node failed or did not run.
    pub outputs: Vec<Option<O>>,
    /// In the order of their happening. What failed because of the cancellation that the first
    /// failure caused is in here too, later.
    pub failures: Vec<(NodeId, E)>,
}

impl<O, E> Solved<O, E> {
    /// The output of a node, when all went well.
    #[must_use]
    pub fn output(&self, node: NodeId) -> Option<&O> {
        self.outputs.get(node.0)?.as_ref()
    }
}

enum Message<O, E> {
    Prepared {
        node: NodeId,
        result: Result<Prepared<O>, E>,
    },
    Executed {
        node: NodeId,
        result: Result<O, E>,
        took: Duration,
    },
    Cancelled,
}

/// Solves every node of `plan`. Nodes start in the order of their numbers as places become free.
/// When one fails, `cancel` goes on: nothing new starts and what runs is told to stop.
///
/// Must be called on a tokio runtime; `executor` runs on its blocking threads.
pub async fn solve<E: Executor>(
    plan: Arc<Plan>,
    executor: Arc<E>,
    limits: Limits,
    cancel: &Cancel,
    events: Arc<dyn Fn(Event) + Send + Sync>,
) -> Solved<E::Output, E::Error> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let interrupted = sender.clone();
    cancel.on_cancel(move || {
        // The driver may have ended already.
        interrupted.send(Message::Cancelled).ok();
    });
    let mut driver = Driver::new(plan, executor, limits, cancel.clone(), events, sender);
    driver.start_what_can();
    while driver.active > 0 {
        let Some(message) = receiver.recv().await else {
            break;
        };
        driver.handle(message);
        driver.start_what_can();
    }
    driver.cancel_rest();
    Solved {
        outputs: driver.outputs,
        failures: driver.failures,
    }
}

struct Driver<E: Executor> {
    plan: Arc<Plan>,
    executor: Arc<E>,
    limits: Limits,
    cancel: Cancel,
    events: Arc<dyn Fn(Event) + Send + Sync>,
    sender: mpsc::UnboundedSender<Message<E::Output, E::Error>>,
    states: Vec<NodeState>,
    consumers: Vec<Vec<NodeId>>,
    outputs: Vec<Option<E::Output>>,
    failures: Vec<(NodeId, E::Error)>,
    /// All inputs done, key not asked for.
    ready: BTreeSet<NodeId>,
    queued: BTreeSet<NodeId>,
    /// The node that works, or worked, for a key.
    leaders: HashMap<Key, NodeId>,
    followers: HashMap<NodeId, Vec<NodeId>>,
    preparing: usize,
    running: usize,
    active: usize,
}

impl<E: Executor> Driver<E> {
    fn new(
        plan: Arc<Plan>,
        executor: Arc<E>,
        limits: Limits,
        cancel: Cancel,
        events: Arc<dyn Fn(Event) + Send + Sync>,
        sender: mpsc::UnboundedSender<Message<E::Output, E::Error>>,
    ) -> Self {
        let count = plan.nodes.len();
        let mut consumers = vec![Vec::new(); count];
        let mut states = Vec::with_capacity(count);
        let mut ready = BTreeSet::new();
        for (number, node) in plan.nodes.iter().enumerate() {
            let distinct: BTreeSet<NodeId> = node.inputs.iter().copied().collect();
            for input in &distinct {
                consumers[input.0].push(NodeId(number));
            }
            if distinct.is_empty() {
                ready.insert(NodeId(number));
            }
            states.push(NodeState::Waiting {
                missing: distinct.len(),
            });
        }
        Self {
            plan,
            executor,
            limits,
            cancel,
            events,
            sender,
            states,
            consumers,
            outputs: vec![None; count],
            failures: Vec::new(),
            ready,
            queued: BTreeSet::new(),
            leaders: HashMap::new(),
            followers: HashMap::new(),
            preparing: 0,
            running: 0,
            active: 0,
        }
    }

    fn step(&mut self, node: NodeId, step: Step) {
        self.states[node.0] = self.states[node.0].next(step);
    }

    fn emit(&self, event: Event) {
        (self.events)(event);
    }

    fn start_what_can(&mut self) {
        while self.preparing < self.limits.preparing && !self.cancel.is_cancelled() {
            let Some(node) = self.ready.pop_first() else {
                break;
            };
            self.prepare(node);
        }
        while self.running < self.limits.running && !self.cancel.is_cancelled() {
            let Some(node) = self.queued.pop_first() else {
                break;
            };
            self.execute(node);
        }
    }

    fn inputs(&self, node: NodeId) -> Vec<E::Output> {
        let inputs = &self.plan.nodes[node.0].inputs;
        inputs
            .iter()
            .filter_map(|i| self.outputs[i.0].clone())
            .collect()
    }

    fn prepare(&mut self, node: NodeId) {
        self.step(node, Step::Start);
        let inputs = self.inputs(node);
        if self.executor.is_quick(&self.plan.nodes[node.0]) {
            let result = self.executor.prepare(&self.plan.nodes[node.0], &inputs);
            return self.prepared(node, result);
        }
        self.preparing += 1;
        self.active += 1;
        let (plan, executor, sender) = (
            self.plan.clone(),
            self.executor.clone(),
            self.sender.clone(),
        );
        tokio::task::spawn_blocking(move || {
            let result = executor.prepare(&plan.nodes[node.0], &inputs);
            // The driver ends only when nothing is active.
            sender.send(Message::Prepared { node, result }).ok();
        });
    }

    fn execute(&mut self, node: NodeId) {
        let NodeState::Queued { key } = self.states[node.0] else {
            return;
        };
        self.step(node, Step::Run);
        self.running += 1;
        self.active += 1;
        self.emit(Event::Started { node });
        let inputs = self.inputs(node);
        let (plan, executor, sender, cancel) = (
            self.plan.clone(),
            self.executor.clone(),
            self.sender.clone(),
            self.cancel.clone(),
        );
        tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let result = executor.execute(node, &plan.nodes[node.0], &key, &inputs, &cancel);
            sender
                .send(Message::Executed {
                    node,
                    result,
                    took: start.elapsed(),
                })
                .ok();
        });
    }

    fn handle(&mut self, message: Message<E::Output, E::Error>) {
        match message {
            Message::Prepared { node, result } => {
                self.preparing -= 1;
                self.active -= 1;
                self.prepared(node, result);
            }
            Message::Executed { node, result, took } => {
                self.running -= 1;
                self.active -= 1;
                match result {
                    Ok(output) => {
                        self.emit(Event::Finished { node, took });
                        self.succeed(node, &output);
                    }
                    Err(error) => self.fail(node, error),
                }
            }
            Message::Cancelled => {}
        }
    }

    fn prepared(&mut self, node: NodeId, result: Result<Prepared<E::Output>, E::Error>) {
        let prepared = match result {
            Ok(prepared) => prepared,
            Err(error) => {
                self.emit(Event::Started { node });
                return self.fail(node, error);
            }
        };
        if let Some(output) = prepared.hit {
            if !prepared.silent {
                self.emit(Event::Cached { node });
            }
            return self.succeed(node, &output);
        }
        let Some(&leader) = self.leaders.get(&prepared.key) else {
            self.leaders.insert(prepared.key, node);
            self.step(node, Step::Missed { key: prepared.key });
            self.queued.insert(node);
            return;
        };
        self.step(node, Step::Follow { leader });
        self.emit(Event::Shared { node, leader });
        match self.outputs[leader.0].clone() {
            Some(output) => self.succeed(node, &output),
            None if self.states[leader.0].is_settled() => self.step(node, Step::Cancel),
            None => self.followers.entry(leader).or_default().push(node),
        }
    }

    fn succeed(&mut self, node: NodeId, output: &E::Output) {
        let followers = self.followers.remove(&node).unwrap_or_default();
        for done in std::iter::once(node).chain(followers) {
            self.step(done, Step::Succeed);
            self.outputs[done.0] = Some(output.clone());
            for consumer in std::mem::take(&mut self.consumers[done.0]) {
                if self.states[consumer.0].is_settled() {
                    continue;
                }
                self.step(consumer, Step::InputDone);
                if self.states[consumer.0] == (NodeState::Waiting { missing: 0 }) {
                    self.ready.insert(consumer);
                }
            }
        }
    }

    fn fail(&mut self, node: NodeId, error: E::Error) {
        self.step(node, Step::Fail);
        if self.cancel.is_cancelled() {
            self.emit(Event::Cancelled { node });
        } else {
            self.emit(Event::Failed { node });
        }
        self.failures.push((node, error));
        self.cancel.cancel();
    }

    fn cancel_rest(&mut self) {
        for number in 0..self.states.len() {
            if !self.states[number].is_settled() {
                self.step(NodeId(number), Step::Cancel);
            }
        }
    }
}
