//! Progress as lines, each with the number of its step, as `docker buildx --progress=plain`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use graph::{Event, NodeId, Plan};

/// Output lines of a failed step that are shown again at the end.
const TAIL_LINES: usize = 25;
/// A line without end is cut here.
const LINE_BYTES: usize = 64 << 10;

type Print = Box<dyn Fn(&str) + Send + Sync>;

/// Renders events; may be called from any thread.
pub(crate) struct Plain {
    plan: Arc<Plan>,
    state: Mutex<State>,
    print: Print,
}

#[derive(Default)]
struct State {
    /// Numbers are given out as steps first have something to say.
    numbers: BTreeMap<NodeId, usize>,
    steps: BTreeMap<NodeId, Step>,
    executed: usize,
    cached: usize,
}

struct Step {
    start: Instant,
    /// What follows the last line end.
    partial: Vec<u8>,
    tail: VecDeque<String>,
}

impl Plain {
    pub(crate) fn new(plan: Arc<Plan>, print: Print) -> Self {
        Self {
            plan,
            state: Mutex::default(),
            print,
        }
    }

    pub(crate) fn handle(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { node } => {
                state.executed += 1;
                self.number(&mut state, *node);
                state.steps.insert(*node, Step::new());
            }
            Event::Cached { node } => {
                state.cached += 1;
                let number = self.number(&mut state, *node);
                (self.print)(&format!("#{number} CACHED"));
            }
            Event::Shared { node, leader } => {
                let number = self.number(&mut state, *node);
                let same = self.number(&mut state, *leader);
                (self.print)(&format!("#{number} SAME AS #{same}"));
            }
            Event::Output { node, bytes, .. } => self.output(&mut state, *node, bytes),
            Event::Note { node, text } => {
                let number = self.number(&mut state, *node);
                (self.print)(&format!("#{number} {text}"));
            }
            Event::Finished { node, took } => {
                self.flush(&mut state, *node);
                let number = self.number(&mut state, *node);
                (self.print)(&format!("#{number} DONE {}", seconds(*took)));
            }
            Event::Failed { node } => self.ended(&mut state, *node, "ERROR"),
            Event::Cancelled { node } => self.ended(&mut state, *node, "CANCELED"),
        }
    }

    /// Steps that were executed, and steps whose result was there.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.executed, state.cached)
    }

    /// The last lines a step printed, with its name above, or nothing when it printed nothing.
    pub(crate) fn tail(&self, node: NodeId) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = state.steps.get(&node).filter(|s| !s.tail.is_empty())?;
        let name = &self.plan.nodes[node.0].meta.name;
        let lines: Vec<&str> = step.tail.iter().map(String::as_str).collect();
        Some(format!("------\n > {name}:\n{}\n------", lines.join("\n")))
    }

    fn ended(&self, state: &mut State, node: NodeId, word: &str) {
        self.flush(state, node);
        let number = self.number(state, node);
        (self.print)(&format!("#{number} {word}"));
    }

    fn number(&self, state: &mut State, node: NodeId) -> usize {
        let next = state.numbers.len() + 1;
        *state.numbers.entry(node).or_insert_with(|| {
            (self.print)(&format!("#{next} {}", self.plan.nodes[node.0].meta.name));
            next
        })
    }

    fn output(&self, state: &mut State, node: NodeId, bytes: &[u8]) {
        let number = self.number(state, node);
        let step = state.steps.entry(node).or_insert_with(Step::new);
        step.partial.extend_from_slice(bytes);
        while let Some(end) = step.line_end() {
            let line: Vec<u8> = step.partial.drain(..end).collect();
            self.print_line(number, step, &line);
        }
    }

    fn flush(&self, state: &mut State, node: NodeId) {
        let number = self.number(state, node);
        let Some(step) = state.steps.get_mut(&node) else {
            return;
        };
        if !step.partial.is_empty() {
            let line = std::mem::take(&mut step.partial);
            self.print_line(number, step, &line);
        }
    }

    fn print_line(&self, number: usize, step: &mut Step, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        // A progress bar redraws its line with carriage returns: its last state counts.
        let text = text.trim_end_matches(['\r', '\n']);
        let text = text.rsplit('\r').next().unwrap_or(text);
        let text = format!("{:.3} {text}", step.start.elapsed().as_secs_f64());
        (self.print)(&format!("#{number} {text}"));
        if step.tail.len() == TAIL_LINES {
            step.tail.pop_front();
        }
        step.tail.push_back(text);
    }
}

impl Step {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            partial: Vec::new(),
            tail: VecDeque::new(),
        }
    }

    fn line_end(&self) -> Option<usize> {
        let newline = self
            .partial
            .iter()
            .position(|b| *b == b'\n')
            .map(|at| at + 1);
        newline.or_else(|| (self.partial.len() > LINE_BYTES).then_some(LINE_BYTES))
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use graph::config::ImageConfig;
    use graph::event::Stream;
    use graph::plan::Meta;
    use graph::{Node, Op};

    use super::*;

    fn rendered(events: &[Event]) -> Vec<String> {
        let meta = |name: &str| Meta {
            name: name.into(),
            ..Meta::default()
        };
        let node = |name| Node {
            op: Op::Scratch,
            inputs: Vec::new(),
            meta: meta(name),
        };
        let plan = Plan {
            nodes: vec![node("[a 1/1] RUN x"), node("[b 1/1] RUN y")],
            target: NodeId(0),
            config: ImageConfig::default(),
            history: Vec::new(),
            source_date_epoch: None,
        };
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let print = move |line: &str| sink.lock().unwrap().push(line.to_owned());
        let plain = Plain::new(Arc::new(plan), Box::new(print));
        events.iter().for_each(|event| plain.handle(event));
        let lines = lines.lock().unwrap().clone();
        // The time a line came at.
        let no_time = |l: String| l.replacen(" 0.000 ", " T ", 1);
        lines.into_iter().map(no_time).collect()
    }

    #[test]
    fn output_is_cut_into_lines_and_a_last_one_without_end_is_kept() {
        let node = NodeId(1);
        let out = |text: &str| Event::Output {
            node,
            stream: Stream::Stdout,
            bytes: text.as_bytes().to_vec(),
        };
        let lines = rendered(&[
            Event::Started { node },
            out("one\ntw"),
            out("o\n10%\r20%\n"),
            out("end"),
            Event::Finished {
                node,
                took: Duration::from_millis(140),
            },
            Event::Cached { node: NodeId(0) },
        ]);
        let want = [
            "#1 [b 1/1] RUN y",
            "#1 T one",
            "#1 T two",
            "#1 T 20%",
            "#1 T end",
            "#1 DONE 0.1s",
            "#2 [a 1/1] RUN x",
            "#2 CACHED",
        ];
        assert_eq!(lines, want);
    }
}
