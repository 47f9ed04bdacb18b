//! Secrets of a build: read once, given to the steps that mount them, and kept out of everything
//! else: out of logs ([`Masker`]) and out of layers ([`leaks`]).

mod forms;
mod leaks;
mod matcher;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use matcher::{Matcher, Search};
use serde::{Deserialize, Serialize};

pub(super) use leaks::{Leaks, MOUNTED_MIN, UNMOUNTED_MIN};

use crate::failure::{Failure, FailureKind};
use crate::request::SecretSource;

/// As in BuildKit (`secrets.MaxSecretSize`).
const SIZE_MAX: usize = 500 << 10;
/// What stands in logs for a secret.
const MASK: &[u8] = b"****";

/// The secrets of a build by id. `Debug` shows only the ids.
#[derive(Default)]
pub(crate) struct Secrets {
    values: BTreeMap<String, Vec<u8>>,
    matcher: Arc<Matcher>,
    /// Ids whose secret may be in layers.
    allowed_in_layers: BTreeSet<String>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// Secrets on their way to the process inside.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct SecretValues(BTreeMap<String, Vec<u8>>);

impl fmt::Debug for SecretValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl SecretValues {
    /// Reads them all: a build with a wrong `--secret` fails before it starts.
    pub(crate) fn read(sources: &BTreeMap<String, SecretSource>) -> Result<Self, Failure> {
        let mut values = BTreeMap::new();
        for (id, source) in sources {
            let value = read(source).map_err(|reason| {
                Failure::new(FailureKind::Usage, format!("--secret id={id}: {reason}"))
            })?;
            values.insert(id.clone(), value);
        }
        Ok(Self(values))
    }
}

impl Secrets {
    /// `allowed_in_layers` are the ids of secrets that layers may hold.
    pub(crate) fn new(
        SecretValues(values): SecretValues,
        allowed_in_layers: &BTreeSet<String>,
    ) -> Result<Self, Failure> {
        if let Some(id) = allowed_in_layers
            .iter()
            .find(|id| !values.contains_key(*id))
        {
            let message = format!("--allow-secret-in-layer {id}: there is no --secret id={id}");
            return Err(Failure::new(FailureKind::Usage, message));
        }
        let forms = values.values().flat_map(|value| forms::printed(value));
        let matcher = Arc::new(Matcher::new(forms.map(|form| (form, 0))));
        Ok(Self {
            values,
            matcher,
            allowed_in_layers: allowed_in_layers.clone(),
        })
    }

    /// A copy for the process inside.
    pub(crate) fn values(&self) -> SecretValues {
        SecretValues(self.values.clone())
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Vec<u8>> {
        self.values.get(id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Whether `--allow-secret-in-layer` names it.
    pub(crate) fn is_allowed_in_layers(&self, id: &str) -> bool {
        self.allowed_in_layers.contains(id)
    }

    /// For one stream of output. Secrets of fewer than four bytes are not masked: they would be
    /// found everywhere.
    pub(crate) fn masker(&self) -> Masker {
        Masker {
            matcher: self.matcher.clone(),
            held: Vec::new(),
        }
    }

    /// A whole text with secrets masked.
    pub(crate) fn mask(&self, text: String) -> String {
        if self.matcher.is_empty() {
            return text;
        }
        let mut masker = self.masker();
        let mut masked = masker.feed(text.as_bytes()).into_owned();
        masked.extend(masker.finish());
        String::from_utf8_lossy(&masked).into_owned()
    }
}

fn read(source: &SecretSource) -> Result<Vec<u8>, String> {
    let value = match source {
        SecretSource::File(path) => {
            read_file(path).map_err(|error| format!("{}: {error}", path.display()))?
        }
        SecretSource::Environment(name) => std::env::var_os(name)
            .map(OsStringExt::into_vec)
            .ok_or_else(|| format!("the environment has no variable {name}"))?,
    };
    if value.len() > SIZE_MAX {
        let limit = SIZE_MAX >> 10;
        return Err(format!("larger than {limit} KiB, the limit for secrets"));
    }
    Ok(value)
}

/// At most one byte more than is allowed.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut value = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(SIZE_MAX as u64 + 1).read_to_end(&mut value)?;
    Ok(value)
}

/// Replaces secrets in a stream by stars, also where they are cut by the chunks it comes in.
#[derive(Debug)]
pub(crate) struct Masker {
    matcher: Arc<Matcher>,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
}

impl Masker {
    /// What can be shown now.
    pub(crate) fn feed<'a>(&mut self, bytes: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        if self.matcher.is_empty() {
            return bytes.into();
        }
        if self.held.is_empty() && self.matcher.search(bytes, 0, false) == Search::Nothing {
            return bytes.into();
        }
        let mut data = std::mem::take(&mut self.held);
        data.extend_from_slice(bytes);
        let (shown, held) = self.masked(&data, false);
        self.held = data.split_off(held);
        shown.into()
    }

    /// The rest, at the end of the stream.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let data = std::mem::take(&mut self.held);
        self.masked(&data, true).0
    }

    /// Also tells from where on `data` is undecided.
    fn masked(&self, data: &[u8], is_end: bool) -> (Vec<u8>, usize) {
        let mut shown = Vec::with_capacity(data.len());
        let mut at = 0;
        loop {
            match self.matcher.search(data, at, is_end) {
                Search::Match { start, end, .. } => {
                    shown.extend_from_slice(&data[at..start]);
                    shown.extend_from_slice(MASK);
                    at = end;
                }
                Search::Undecided(from) => {
                    shown.extend_from_slice(&data[at..from]);
                    return (shown, from);
                }
                Search::Nothing => {
                    shown.extend_from_slice(&data[at..]);
                    return (shown, data.len());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let forms = values.iter().flat_map(|v| forms::printed(v.as_bytes()));
        Secrets {
            matcher: Arc::new(Matcher::new(forms.map(|f| (f, 0)))),
            ..Secrets::default()
        }
    }

    #[test]
    fn a_secret_is_masked_however_the_output_is_cut() {
        let secrets = secrets(&["hunter2!", "hunter2!-and-more\n"]);
        let text = b"a hunter2! b hunter2!-and-more c aHVudGVyMiE= hunter2";
        for size in 1..text.len() {
            let mut masker = secrets.masker();
            let mut shown = Vec::new();
            for chunk in text.chunks(size) {
                shown.extend_from_slice(&masker.feed(chunk));
            }
            shown.extend(masker.finish());
            let shown = String::from_utf8(shown).unwrap();
            assert!(
                !shown.contains("hunter2!") && !shown.contains("aHVud"),
                "{size}: {shown}"
            );
            assert!(shown.starts_with("a **** b **** c ****"), "{size}: {shown}");
            assert!(shown.ends_with(" hunter2"), "{size}: {shown}");
        }
    }

    #[test]
    fn text_without_secrets_is_not_held_back() {
        let secrets = secrets(&["hunter2!"]);
        let mut masker = secrets.masker();
        assert_eq!(&*masker.feed(b"prompt> "), b"prompt> ");
        assert_eq!(&*masker.feed(b"hunt"), b"");
        assert_eq!(&*masker.feed(b"ing"), b"hunting");
        assert_eq!(secrets.mask("x hunter2!".into()), "x ****");
    }

    #[test]
    fn sources_that_cannot_be_had_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let large = directory.path().join("large");
        std::fs::write(&large, vec![b'x'; SIZE_MAX + 1]).unwrap();
        let exact = directory.path().join("exact");
        std::fs::write(&exact, vec![b'x'; SIZE_MAX]).unwrap();
        assert_eq!(read(&SecretSource::File(exact)).unwrap().len(), SIZE_MAX);
        for (source, says) in [
            (SecretSource::File(large), "500 KiB"),
            (SecretSource::File("/no/such".into()), "/no/such"),
            (SecretSource::File("/".into()), "directory"),
            (
                SecretSource::Environment("NO_SUCH_VARIABLE".into()),
                "NO_SUCH_VARIABLE",
            ),
        ] {
            let reason = read(&source).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
    }
}
