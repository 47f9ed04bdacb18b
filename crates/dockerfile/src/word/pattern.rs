//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` and `?`, no bracket classes (rule X10).
//!
//! The reference turns them into regular expressions; the traits of those that show are kept:
//! neither `*` nor `?` matches a newline, and the replacement of `//` is a template (rule X18).

use super::ExpandErrorKind as Kind;
use super::MAX_EXPANDED;

/// Most steps of one operation: pattern characters times value characters.
const MAX_STEPS: usize = 1 << 28;

/// No thread is in this state.
const DEAD: usize = usize::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Star,
}

impl Token {
    fn accepts(self, c: char) -> bool {
        match self {
            Self::Char(wanted) => wanted == c,
            Self::Any | Self::Star => c != '\n',
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    /// `\` quotes `*`, `?` and itself, whatever the file's escape character; before `}` and `/` it
    /// is only how they are written inside `${}`.
    pub(super) fn parse(text: &str) -> Result<Self, Kind> {
        let mut tokens = Vec::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.peek() {
                    Some('}' | '/') => continue,
                    Some(&escaped @ ('*' | '?' | '\\')) => {
                        chars.next();
                        Token::Char(escaped)
                    }
                    other => {
                        let escaped = other.map(char::to_string).unwrap_or_default();
                        return Err(Kind::InvalidPattern {
                            pattern: text.to_owned(),
                            escaped,
                        });
                    }
                },
                _ => Token::Char(c),
            });
        }
        tokens.dedup_by(|a, b| *a == Token::Star && *b == Token::Star);
        Ok(Self(tokens))
    }

    /// Removes the shortest or (`greedy`) longest match at the start.
    pub(super) fn trim_start(&self, value: &str, greedy: bool) -> Result<String, Kind> {
        let chars = self.chars(value)?;
        Ok(match end_of_match(&self.0, &chars, greedy) {
            Some(end) => chars[end..].iter().collect(),
            None => value.to_owned(),
        })
    }

    /// Removes the shortest or longest match at the end: the same, mirrored.
    pub(super) fn trim_end(&self, value: &str, greedy: bool) -> Result<String, Kind> {
        let mut chars = self.chars(value)?;
        chars.reverse();
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        Ok(match end_of_match(&tokens, &chars, greedy) {
            Some(end) => chars[end..].iter().rev().collect(),
            None => value.to_owned(),
        })
    }

    /// Replaces the leftmost, longest match; the replacement is taken literally.
    pub(super) fn replace_first(&self, value: &str, replacement: &str) -> Result<String, Kind> {
        let chars = self.chars(value)?;
        let Some((start, end)) = self.find(&chars, 0, &mut 0)? else {
            return Ok(value.to_owned());
        };
        let mut result: String = chars[..start].iter().collect();
        result.push_str(replacement);
        result.extend(&chars[end..]);
        Ok(result)
    }

    /// Replaces all matches that do not overlap; an empty match directly after another is none.
    pub(super) fn replace_all(&self, value: &str, replacement: &str) -> Result<String, Kind> {
        let chars = self.chars(value)?;
        let mut result = String::new();
        let (mut search, mut copied, mut steps) = (0, 0, 0);
        while search <= chars.len() {
            let Some((start, end)) = self.find(&chars, search, &mut steps)? else {
                break;
            };
            result.extend(&chars[copied..start]);
            if end > copied || start == 0 {
                expand_template(replacement, &chars[start..end], &mut result);
            }
            if result.len() > MAX_EXPANDED {
                return Err(Kind::TooLong {
                    limit: MAX_EXPANDED,
                });
            }
            copied = end;
            search = end.max(search + 1);
        }
        result.extend(chars.get(copied..).unwrap_or_default());
        Ok(result)
    }

    fn chars(&self, value: &str) -> Result<Vec<char>, Kind> {
        let chars: Vec<char> = value.chars().collect();
        if self.0.len().saturating_mul(chars.len()) > MAX_STEPS {
            return Err(Kind::TooComplex);
        }
        Ok(chars)
    }

    /// The leftmost match from `from` on, as long as possible.
    fn find(
        &self,
        chars: &[char],
        from: usize,
        steps: &mut usize,
    ) -> Result<Option<(usize, usize)>, Kind> {
        let Some(start) = leftmost_start(&self.0, chars, from, steps)? else {
            return Ok(None);
        };
        Ok(end_of_match(&self.0, &chars[start..], true).map(|length| (start, start + length)))
    }
}

/// Length of the match at the very start, the longest when `greedy`. For patterns of characters
/// and stars the reference's preference order comes down to just this.
fn end_of_match(tokens: &[Token], chars: &[char], greedy: bool) -> Option<usize> {
    let mut states = vec![DEAD; tokens.len() + 1];
    states[0] = 0;
    let mut found = None;
    for at in 0..=chars.len() {
        close_over_stars(tokens, &mut states);
        if states[tokens.len()] != DEAD {
            found = Some(at);
            if !greedy {
                break;
            }
        }
        match chars.get(at) {
            Some(&c) if advance(tokens, &mut states, c) => {}
            _ => break,
        }
    }
    found
}

/// Where the leftmost match starts: every state remembers the earliest start that leads to it.
fn leftmost_start(
    tokens: &[Token],
    chars: &[char],
    from: usize,
    steps: &mut usize,
) -> Result<Option<usize>, Kind> {
    let mut states = vec![DEAD; tokens.len() + 1];
    let mut best = DEAD;
    for at in from..=chars.len() {
        *steps += tokens.len() + 1;
        if *steps > MAX_STEPS {
            return Err(Kind::TooComplex);
        }
        if best == DEAD {
            states[0] = states[0].min(at);
        }
        close_over_stars(tokens, &mut states);
        best = best.min(states[tokens.len()]);
        for state in &mut states {
            if *state >= best {
                *state = DEAD;
            }
        }
        let Some(&c) = chars.get(at) else { break };
        if !advance(tokens, &mut states, c) && best != DEAD {
            break;
        }
    }
    Ok((best != DEAD).then_some(best))
}

/// A star may match nothing.
fn close_over_stars(tokens: &[Token], states: &mut [usize]) {
    for (index, token) in tokens.iter().enumerate() {
        if *token == Token::Star {
            states[index + 1] = states[index + 1].min(states[index]);
        }
    }
}

/// Consumes `c`; false when no thread is left.
fn advance(tokens: &[Token], states: &mut [usize], c: char) -> bool {
    let mut alive = false;
    // From the right, so that a state is read before its left neighbour moves into it.
    states[tokens.len()] = DEAD;
    for (index, token) in tokens.iter().enumerate().rev() {
        let start = states[index];
        if start == DEAD {
            continue;
        }
        let accepted = token.accepts(c);
        alive |= accepted;
        if *token == Token::Star {
            states[index] = if accepted { start } else { DEAD };
        } else {
            states[index] = DEAD;
            if accepted {
                states[index + 1] = states[index + 1].min(start);
            }
        }
    }
    alive
}

/// Go's `Regexp.Expand` for an expression without groups: `$0` and `${0}` are the match, `$$` is
/// `$`, any other `$name` is nothing, and a malformed one stays.
fn expand_template(template: &str, matched: &[char], result: &mut String) {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = template_name(rest) {
            if name == "0" {
                result.extend(matched);
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
}

/// The name after `$` and what follows it.
fn template_name(text: &str) -> Option<(&str, &str)> {
    let (braced, text) = text
        .strip_prefix('{')
        .map_or((false, text), |rest| (true, rest));
    let length = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(length);
    if name.is_empty() {
        return None;
    }
    if braced {
        rest.strip_prefix('}').map(|rest| (name, rest))
    } else {
        Some((name, rest))
    }
}
