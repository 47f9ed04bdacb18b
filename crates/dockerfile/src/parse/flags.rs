//! Flags of instructions (rules P16, P17, P29).

use super::context::Context;
use super::split::Word;
use crate::suggest::nearest;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bare, `=true` or `=false`.
    Bool,
    /// `=value`, once.
    One,
    /// `=value`, any number of times.
    Many,
}

/// The flags an instruction knows.
pub(super) type Known = &'static [(&'static str, Kind)];

/// One flag given, its value checked against its kind.
#[derive(Debug, Clone)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    /// `true` or `false` of a boolean.
    pub(super) value: String,
    /// Where it stands, in the logical line.
    pub(super) word: Word,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Flags(Vec<Flag>);

impl Flags {
    /// The value of a flag that is given at most once; an empty one counts as not given, as in
    /// the reference.
    pub(super) fn one(&self, name: &str) -> Option<String> {
        self.flag(name)
            .map(|flag| flag.value.clone())
            .filter(|value| !value.is_empty())
    }

    pub(super) fn flag(&self, name: &str) -> Option<&Flag> {
        self.0.iter().find(|flag| flag.name == name)
    }

    pub(super) fn many<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Flag> {
        self.0.iter().filter(move |flag| flag.name == name)
    }

    pub(super) fn values(&self, name: &str) -> Vec<String> {
        self.many(name).map(|flag| flag.value.clone()).collect()
    }

    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.flag(name).map(|flag| flag.value == "true")
    }
}

/// Checks `words` against `known`; problems go to the diagnostics.
pub(super) fn parse(context: &mut Context<'_>, words: &[Word], known: Known) -> Flags {
    let mut flags = Flags::default();
    for word in words {
        if let Some(flag) = parse_one(context, word, known, &flags) {
            flags.0.push(flag);
        }
    }
    flags
}

fn parse_one(context: &mut Context<'_>, word: &Word, known: Known, before: &Flags) -> Option<Flag> {
    let (written, value) = match word.text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word.text.as_str(), None),
    };
    let bare = written.strip_prefix("--").unwrap_or(written);
    let Some(&(name, kind)) = known.iter().find(|flag| flag.0 == bare) else {
        let help = unknown_help(context.keyword, bare, known);
        context.error_at(word, format!("unknown flag: {written}"), Some(help));
        return None;
    };
    if kind != Kind::Many && before.flag(name).is_some() {
        context.error_at(
            word,
            format!("duplicate flag specified: {written}"),
            Some("give it once".to_owned()),
        );
        return None;
    }
    let value = match (kind, value) {
        (Kind::Bool, None) => "true".to_owned(),
        (Kind::Bool, Some("")) | (Kind::One | Kind::Many, None) => {
            let help = if kind == Kind::Bool {
                format!("write {written} or {written}=true")
            } else {
                format!("write {written}=<value>")
            };
            context.error_at(
                word,
                format!("missing a value on flag: {written}"),
                Some(help),
            );
            return None;
        }
        (Kind::Bool, Some(value)) => match value.to_lowercase().as_str() {
            lower @ ("true" | "false") => lower.to_owned(),
            _ => {
                let message = format!("expecting boolean value for flag {written}, not: {value}");
                context.error_at(
                    word,
                    message,
                    Some(format!("write {written}=true or {written}=false")),
                );
                return None;
            }
        },
        (Kind::One | Kind::Many, Some(value)) => value.to_owned(),
    };
    Some(Flag {
        name,
        value,
        word: word.clone(),
    })
}

fn unknown_help(keyword: &str, name: &str, known: Known) -> String {
    let keyword = keyword.to_ascii_uppercase();
    if let Some(nearest) = nearest(name, known.iter().map(|flag| flag.0)) {
        return format!("did you mean --{nearest}?");
    }
    if known.is_empty() {
        return format!(
            "{keyword} takes no flags; write `{keyword} -- --{name}` if it is an argument"
        );
    }
    let names: Vec<String> = known.iter().map(|flag| format!("--{}", flag.0)).collect();
    let names = names.join(", ");
    if keyword == "RUN" {
        return format!("RUN knows {names}; flags of the command itself go after its first word");
    }
    format!("{keyword} knows {names}")
}
