//! Progress as lines, each with the number of its step, as `docker buildx --progress=plain`.
//!
//! What is kept of a running step is bounded, however much it prints; its log has all of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use graph::{Event, NodeId, Plan};

/// Output lines of a failed step that are shown again at the end.
const TAIL_LINES: usize = 25;
/// Bytes of a line that are shown.
const LINE_BYTES: usize = 8 << 10;
const MEGABYTE: u64 = 1_000_000;

type Print = Box<dyn Fn(&str) + Send + Sync>;

/// Renders events; may be called from any thread.
pub(crate) struct Plain {
    plan: Arc<Plan>,
    state: Mutex<State>,
    /// Takes one or more lines, without the last line end.
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
    line: Line,
    tail: VecDeque<String>,
    used: Option<Used>,
}

struct Used {
    cpu: Duration,
    peak_memory: Option<u64>,
    read: u64,
    written: u64,
}

/// What follows the last line end.
#[derive(Default)]
struct Line {
    start: Vec<u8>,
    /// Bytes after `start` that are not shown.
    cut: usize,
    /// A carriage return came last: what follows is written over the line.
    returned: bool,
}

impl Plain {
    pub(crate) fn new(plan: Arc<Plan>, print: Print) -> Self {
        Self {
            plan,
            state: Mutex::default(),
            print,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn handle(&self, event: &Event) {
        let mut state = self.lock();
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
            Event::Usage {
                node,
                cpu,
                peak_memory,
                read,
                written,
            } => {
                let step = state.steps.entry(*node).or_insert_with(Step::new);
                step.used = Some(Used {
                    cpu: *cpu,
                    peak_memory: *peak_memory,
                    read: *read,
                    written: *written,
                });
            }
            Event::Finished { node, took } => {
                self.flush(&mut state, *node);
                let number = self.number(&mut state, *node);
                // Nobody asks for its tail any more.
                let used = state.steps.remove(node).and_then(|step| step.used);
                let used = used.map(|used| used.text()).unwrap_or_default();
                (self.print)(&format!("#{number} DONE {}{used}", seconds(*took)));
            }
            Event::Failed { node } => self.ended(&mut state, *node, "ERROR"),
            Event::Cancelled { node } => self.ended(&mut state, *node, "CANCELED"),
        }
    }

    /// Steps that were executed, and steps whose result was there.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.executed, state.cached)
    }

    /// The number that lines of this step begin with.
    pub(crate) fn number_of(&self, node: NodeId) -> usize {
        self.number(&mut self.lock(), node)
    }

    /// The last lines a step printed, with its name above, or nothing when it printed nothing.
    pub(crate) fn tail(&self, node: NodeId) -> Option<String> {
        let state = self.lock();
        let step = state.steps.get(&node).filter(|s| !s.tail.is_empty())?;
        let name = &self.plan.nodes[node.0].meta.name;
        let lines: Vec<&str> = step.tail.iter().map(String::as_str).collect();
        Some(format!("------\n > {name}:\n{}\n------", lines.join("\n")))
    }

    fn ended(&self, state: &mut State, node: NodeId, word: &str) {
        self.flush(state, node);
        let number = self.number(state, node);
        let used = state.steps.get(&node).and_then(|step| step.used.as_ref());
        let used = used.map(Used::text).unwrap_or_default();
        (self.print)(&format!("#{number} {word}{used}"));
    }

    fn number(&self, state: &mut State, node: NodeId) -> usize {
        let next = state.numbers.len() + 1;
        *state.numbers.entry(node).or_insert_with(|| {
            (self.print)(&format!("#{next} {}", self.plan.nodes[node.0].meta.name));
            next
        })
    }

    /// Prints the lines that `bytes` end, all at once: a step may print millions.
    fn output(&self, state: &mut State, node: NodeId, mut bytes: &[u8]) {
        let number = self.number(state, node);
        let step = state.steps.entry(node).or_insert_with(Step::new);
        let start = format!("#{number} {:.3} ", step.start.elapsed().as_secs_f64());
        let skip = start.find(' ').map_or(0, |at| at + 1);
        let mut text = String::with_capacity(bytes.len() * 2);
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            step.line.push(&bytes[..end]);
            bytes = &bytes[end + 1..];
            step.end_line(&start, skip, &mut text);
        }
        step.line.push(bytes);
        if text.pop().is_some() {
            (self.print)(&text);
        }
    }

    /// The last line of a step may have no end.
    fn flush(&self, state: &mut State, node: NodeId) {
        if state.steps.get(&node).is_some_and(|s| !s.line.is_empty()) {
            self.output(state, node, b"\n");
        }
    }
}

impl Step {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            line: Line::default(),
            tail: VecDeque::new(),
            used: None,
        }
    }

    /// Adds the line to `text`; the tail has it without the first `skip` bytes of `start`.
    fn end_line(&mut self, start: &str, skip: usize, text: &mut String) {
        let line = std::mem::take(&mut self.line);
        let begin = text.len();
        text.push_str(start);
        text.push_str(&String::from_utf8_lossy(&line.start));
        if line.cut > 0 {
            // Writing to a string cannot fail.
            write!(text, " [{} more bytes are in the log]", line.cut).ok();
        }
        text.push('\n');
        // The buffer of the oldest line is used again.
        let mut kept = if self.tail.len() == TAIL_LINES {
            self.tail.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        kept.clear();
        kept.push_str(&text[begin + skip..text.len() - 1]);
        self.tail.push_back(kept);
    }
}

impl Line {
    /// A progress bar redraws its line with carriage returns: its last state counts.
    fn push(&mut self, mut bytes: &[u8]) {
        while let Some(at) = bytes.iter().position(|b| *b == b'\r') {
            self.push_plain(&bytes[..at]);
            self.returned = true;
            bytes = &bytes[at + 1..];
        }
        self.push_plain(bytes);
    }

    fn push_plain(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.returned) {
            self.start.clear();
            self.cut = 0;
        }
        let room = LINE_BYTES - self.start.len();
        let (shown, cut) = bytes.split_at(bytes.len().min(room));
        self.start.extend_from_slice(shown);
        self.cut += cut.len();
    }

    fn is_empty(&self) -> bool {
        self.start.is_empty()
    }
}

impl Used {
    fn text(&self) -> String {
        let mut text = format!(" (cpu {}", seconds(self.cpu));
        if let Some(bytes) = self.peak_memory {
            write!(text, ", {} MB", bytes.div_ceil(MEGABYTE)).ok();
        }
        if self.read.max(self.written) >= MEGABYTE {
            let (read, written) = (self.read / MEGABYTE, self.written / MEGABYTE);
            write!(text, ", disk {read} MB read, {written} MB written").ok();
        }
        text + ")"
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

    type Printed = Arc<Mutex<Vec<String>>>;

    fn plain() -> (Plain, Printed) {
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
        (Plain::new(Arc::new(plan), Box::new(print)), lines)
    }

    fn rendered(events: &[Event]) -> Vec<String> {
        let (plain, lines) = plain();
        events.iter().for_each(|event| plain.handle(event));
        let lines = lines.lock().unwrap().join("\n");
        let lines = lines.lines().map(str::to_owned);
        // The time a line came at.
        let no_time = |l: String| l.replacen(" 0.000 ", " T ", 1);
        lines.map(no_time).collect()
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
            Event::Usage {
                node,
                cpu: Duration::from_millis(250),
                peak_memory: Some(44_100_000),
                read: 0,
                written: 2_500_000,
            },
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
            "#1 DONE 0.1s (cpu 0.2s, 45 MB, disk 0 MB read, 2 MB written)",
            "#2 [a 1/1] RUN x",
            "#2 CACHED",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn carriage_returns_and_long_lines() {
        let node = NodeId(0);
        let out = |bytes: &[u8]| Event::Output {
            node,
            stream: Stream::Stdout,
            bytes: bytes.to_vec(),
        };
        let long = vec![b'x'; LINE_BYTES + 7];
        let lines = rendered(&[
            out(b"dos\r\n50%\r"),
            out(b"100%\r"),
            out(b"\n\n"),
            out(&long),
            out(b"yyy\nnext"),
            Event::Failed { node },
        ]);
        let cut = format!(
            "#1 T {} [10 more bytes are in the log]",
            "x".repeat(LINE_BYTES)
        );
        let want = [
            "#1 [a 1/1] RUN x",
            "#1 T dos",
            "#1 T 100%",
            "#1 T ",
            &cut,
            "#1 T next",
            "#1 ERROR",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn the_tail_is_the_last_lines_with_their_times() {
        let node = NodeId(1);
        let (plain, _) = plain();
        let text: String = (0..100).map(|i| format!("line {i}\n")).collect();
        plain.handle(&Event::Output {
            node,
            stream: Stream::Stderr,
            bytes: text.into_bytes(),
        });
        plain.handle(&Event::Failed { node });
        let tail = plain.tail(node).unwrap();
        let lines: Vec<&str> = tail.lines().collect();
        assert_eq!(lines.len(), TAIL_LINES + 3);
        assert_eq!(lines[1], " > [b 1/1] RUN y:");
        assert_eq!((lines[2], lines[26]), ("0.000 line 75", "0.000 line 99"));
    }
}
