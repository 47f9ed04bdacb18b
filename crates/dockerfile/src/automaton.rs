//! The matcher below globs and ignore patterns: a set of positions in a list of tokens, advanced
//! character by character. Time is at most tokens times characters, whatever the pattern.

/// A set of characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) negated: bool,
    /// Inclusive.
    pub(crate) ranges: Vec<(char, char)>,
}

impl Class {
    pub(crate) fn not(c: char) -> Self {
        Self {
            negated: true,
            ranges: vec![(c, c)],
        }
    }

    fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|range| range.0 <= c && c <= range.1) != self.negated
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Char(char),
    One(Class),
    /// Any number of characters of the class.
    Many(Class),
    /// Nothing, or anything that ends in `/`; always followed by [`Token::InDirectories`].
    Directories,
    /// Inside the text that [`Token::Directories`] takes.
    InDirectories,
    /// Only at the very start.
    Start,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Automaton(Vec<Token>);

impl Automaton {
    pub(crate) fn new(tokens: Vec<Token>) -> Self {
        Self(tokens)
    }

    /// Whether the whole of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let mut run = Run::new(&self.0);
        run.feed(text) && run.active.contains(&self.0.len())
    }

    /// Whether some text that begins with `prefix` and goes on matches.
    pub(crate) fn may_match_beyond(&self, prefix: &str) -> bool {
        let mut run = Run::new(&self.0);
        run.feed(prefix) && run.active.iter().any(|state| *state < self.0.len())
    }
}

struct Run<'a> {
    tokens: &'a [Token],
    active: Vec<usize>,
    next: Vec<usize>,
    /// The step in which a state was last added.
    added: Vec<usize>,
    step: usize,
}

impl<'a> Run<'a> {
    fn new(tokens: &'a [Token]) -> Self {
        let mut run = Self {
            tokens,
            active: Vec::new(),
            next: Vec::new(),
            added: vec![0; tokens.len() + 1],
            step: 1,
        };
        run.add(0, true);
        std::mem::swap(&mut run.active, &mut run.next);
        run
    }

    /// Adds a state and all that it reaches without a character.
    fn add(&mut self, state: usize, at_start: bool) {
        let mut state = state;
        loop {
            if self.added[state] == self.step {
                return;
            }
            self.added[state] = self.step;
            match self.tokens.get(state) {
                Some(Token::Start) => {
                    if !at_start {
                        return;
                    }
                    state += 1;
                    continue;
                }
                Some(Token::Many(_)) => {
                    self.next.push(state);
                    state += 1;
                }
                Some(Token::Directories) => {
                    self.next.push(state);
                    state += 2;
                }
                _ => {
                    self.next.push(state);
                    return;
                }
            }
        }
    }

    /// False when nothing can match any more.
    fn feed(&mut self, text: &str) -> bool {
        for c in text.chars() {
            self.step += 1;
            self.next.clear();
            let active = std::mem::take(&mut self.active);
            for &state in &active {
                self.advance(state, c);
            }
            self.active = std::mem::replace(&mut self.next, active);
            if self.active.is_empty() {
                return false;
            }
        }
        true
    }

    fn advance(&mut self, state: usize, c: char) {
        match self.tokens.get(state) {
            Some(Token::Char(wanted)) if *wanted == c => self.add(state + 1, false),
            Some(Token::One(class)) if class.contains(c) => self.add(state + 1, false),
            Some(Token::Many(class)) if class.contains(c) => self.add(state, false),
            Some(Token::Directories) if c != '\n' => {
                self.add(state + 1, false);
                if c == '/' {
                    self.add(state + 2, false);
                }
            }
            Some(Token::InDirectories) if c != '\n' => {
                self.add(state, false);
                if c == '/' {
                    self.add(state + 1, false);
                }
            }
            _ => {}
        }
    }
}
