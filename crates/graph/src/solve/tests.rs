//! The scheduler against random plans and an executor that only computes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Limits, Solved, solve};
use crate::cancel::Cancel;
use crate::config::ImageConfig;
use crate::event::Event;
use crate::executor::{Executor, Prepared};
use crate::key::{Key, KeyBuilder};
use crate::op::{NodeId, Op};
use crate::plan::{Meta, Node, Plan};

/// A node's output is its name applied to its inputs' outputs.
#[derive(Default)]
struct Fake {
    executed: Mutex<BTreeMap<String, usize>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
    failing: BTreeSet<String>,
    cached: BTreeSet<String>,
    seed: u64,
}

fn name(node: &Node) -> &str {
    match &node.op {
        Op::Context { name } => name,
        _ => "",
    }
}

fn output(node: &Node, inputs: &[String]) -> String {
    format!("{}({})", name(node), inputs.join(","))
}

impl Executor for Fake {
    type Output = String;
    type Error = String;

    fn prepare(&self, node: &Node, inputs: &[String]) -> Result<Prepared<String>, String> {
        let mut key = KeyBuilder::new(&node.op);
        for input in inputs {
            key.part(input.as_bytes());
        }
        let hit = self
            .cached
            .contains(name(node))
            .then(|| output(node, inputs));
        Ok(Prepared {
            key: key.finish(),
            hit,
            silent: false,
        })
    }

    fn is_quick(&self, node: &Node) -> bool {
        random(self.seed ^ name(node).len() as u64).is_multiple_of(2)
    }

    fn execute(
        &self,
        id: NodeId,
        node: &Node,
        _: &Key,
        inputs: &[String],
        _: &Cancel,
    ) -> Result<String, String> {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(now, Ordering::SeqCst);
        let pause = random(self.seed ^ id.0 as u64) % 300;
        std::thread::sleep(Duration::from_micros(pause));
        *self
            .executed
            .lock()
            .unwrap()
            .entry(output(node, inputs))
            .or_default() += 1;
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.failing.contains(name(node)) {
            return Err(name(node).to_owned());
        }
        Ok(output(node, inputs))
    }
}

/// SplitMix64, so that a failing seed can be run again.
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn plan(nodes: &[(&str, &[usize])]) -> Plan {
    let node = |(name, inputs): &(&str, &[usize])| Node {
        op: Op::Context {
            name: (*name).to_owned(),
        },
        inputs: inputs.iter().copied().map(NodeId).collect(),
        meta: Meta::default(),
    };
    let nodes: Vec<Node> = nodes.iter().map(node).collect();
    let target = NodeId(nodes.len() - 1);
    Plan {
        nodes,
        target,
        config: ImageConfig::default(),
        history: Vec::new(),
        source_date_epoch: None,
    }
}

fn run(plan: Plan, fake: Fake, running: usize) -> (Solved<String, String>, Arc<Fake>, Vec<Event>) {
    let fake = Arc::new(fake);
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = events.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let solved = runtime.block_on(solve(
        Arc::new(plan),
        fake.clone(),
        Limits {
            running,
            preparing: 2,
        },
        &Cancel::default(),
        Arc::new(move |event| sink.lock().unwrap().push(event)),
    ));
    let events = events.lock().unwrap().clone();
    (solved, fake, events)
}

fn evaluate(plan: &Plan) -> Vec<String> {
    let mut outputs: Vec<String> = Vec::new();
    for node in &plan.nodes {
        let inputs: Vec<String> = node.inputs.iter().map(|i| outputs[i.0].clone()).collect();
        outputs.push(output(node, &inputs));
    }
    outputs
}

#[test]
fn random_plans_give_what_one_after_the_other_gives_and_run_equal_steps_once() {
    for seed in 0..200 {
        let count = 1 + (random(seed) % 40) as usize;
        let names: Vec<String> = (0..count as u64)
            .map(|i| format!("n{}", random(seed * 1000 + i) % 12))
            .collect();
        let inputs: Vec<Vec<usize>> = (0..count as u64)
            .map(|i| {
                let of = |k| (random(seed * 77 + i * 5 + k) % i) as usize;
                (0..if i == 0 { 0 } else { random(seed + i) % 3 })
                    .map(of)
                    .collect()
            })
            .collect();
        let nodes: Vec<(&str, &[usize])> = names
            .iter()
            .map(String::as_str)
            .zip(inputs.iter().map(Vec::as_slice))
            .collect();
        let plan = plan(&nodes);
        let want = evaluate(&plan);
        let limit = 1 + (seed % 5) as usize;
        let (solved, fake, _) = run(
            plan,
            Fake {
                seed,
                ..Fake::default()
            },
            limit,
        );
        let got: Vec<String> = solved.outputs.into_iter().flatten().collect();
        assert_eq!(got, want, "seed {seed}");
        let executed = fake.executed.lock().unwrap();
        assert!(
            executed.values().all(|n| *n == 1),
            "seed {seed}: {executed:?}"
        );
        assert!(
            fake.most_running.load(Ordering::SeqCst) <= limit,
            "seed {seed}"
        );
    }
}

#[test]
fn a_failure_stops_what_depends_on_it_and_what_has_not_begun() {
    let plan = plan(&[("bad", &[]), ("after", &[0]), ("target", &[1])]);
    let fake = Fake {
        failing: BTreeSet::from(["bad".to_owned()]),
        ..Fake::default()
    };
    let (solved, fake, events) = run(plan, fake, 4);
    assert_eq!(solved.failures, [(NodeId(0), "bad".to_owned())]);
    assert_eq!(solved.output(NodeId(2)), None);
    assert_eq!(fake.executed.lock().unwrap().len(), 1);
    assert!(events.contains(&Event::Failed { node: NodeId(0) }));
}

#[test]
fn a_hit_is_not_executed_and_its_consumers_go_on() {
    let plan = plan(&[("hit", &[]), ("target", &[0])]);
    let fake = Fake {
        cached: BTreeSet::from(["hit".to_owned()]),
        ..Fake::default()
    };
    let (solved, fake, events) = run(plan, fake, 4);
    assert_eq!(
        solved.output(NodeId(1)).map(String::as_str),
        Some("target(hit())")
    );
    assert_eq!(fake.executed.lock().unwrap().len(), 1);
    assert_eq!(events[0], Event::Cached { node: NodeId(0) });
}

#[test]
fn the_followers_of_a_failed_leader_do_not_run() {
    let plan = plan(&[("bad", &[]), ("bad", &[]), ("target", &[0, 1])]);
    let fake = Fake {
        failing: BTreeSet::from(["bad".to_owned()]),
        ..Fake::default()
    };
    let (solved, fake, _) = run(plan, fake, 4);
    assert_eq!(solved.failures.len(), 1);
    assert_eq!(fake.executed.lock().unwrap().values().sum::<usize>(), 1);
}
