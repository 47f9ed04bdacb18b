//! Finds secrets in the files of a new layer, so that they do not ship with an image unnoticed.
//!
//! A secret is found as it is, in base64 and URL-encoded, in contents, names, link targets and
//! extended attributes; not in what a step compressed or encrypted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use store::content::Item;
use store::tree::Kind;

use super::Secrets;
use super::forms;
use super::matcher::{Matcher, Search};
use crate::failure::{Failure, FailureKind};

/// Shorter secrets are not looked for: an ordinary word would be found where it is no secret.
pub(crate) const MOUNTED_MIN: usize = 10;
/// The same for steps that did not have the secret: only what is there by no chance.
pub(crate) const UNMOUNTED_MIN: usize = 16;

const CHUNK: usize = 256 << 10;
/// Files named in an error.
const NAMED_MAX: usize = 5;

/// Which secrets a layer holds: the first files of each, by id.
#[derive(Debug, Default)]
pub(crate) struct Leaks(BTreeMap<String, Vec<String>>);

impl Leaks {
    /// Looks for those secrets of `ids` that are at least `min` bytes long.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn find<'a>(
        secrets: &Secrets,
        ids: impl Iterator<Item = &'a str>,
        min: usize,
        items: &[Item],
    ) -> io::Result<Self> {
        let wanted: Vec<(&str, &[u8])> = ids
            .filter_map(|id| Some((id, secrets.get(id)?.as_slice())))
            .filter(|(_, value)| value.trim_ascii_end().len() >= min)
            .collect();
        let mut leaks = Self::default();
        if wanted.is_empty() {
            return Ok(leaks);
        }
        let tagged = wanted
            .iter()
            .enumerate()
            .flat_map(|(tag, (_, value))| forms::whole(value).into_iter().map(move |f| (f, tag)));
        let matcher = Matcher::new(tagged.filter(|(form, _)| form.len() >= min));
        for item in items {
            for tag in tags_of(&matcher, item)? {
                let files = leaks.0.entry(wanted[tag].0.to_owned()).or_default();
                if files.len() < NAMED_MAX {
                    files.push(format!("/{}", String::from_utf8_lossy(&item.entry.path)));
                }
            }
        }
        Ok(leaks)
    }

    /// The ids found.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// # Errors
    /// When a secret is in the layer that `secrets` does not allow there.
    pub(crate) fn check(&self, secrets: &Secrets) -> Result<(), Failure> {
        let refused = self
            .0
            .iter()
            .find(|(id, _)| !secrets.is_allowed_in_layers(id));
        let Some((id, files)) = refused else {
            return Ok(());
        };
        let message = format!(
            "the secret {id} would be in the image: the layer of this step has it in {}",
            files.join(", ")
        );
        Err(Failure::new(FailureKind::Build, message)
            .hint("remove it in the same instruction, or do not copy it")
            .hint(format!(
                "if it may be there, pass --allow-secret-in-layer {id}"
            )))
    }
}

fn tags_of(matcher: &Matcher, item: &Item) -> io::Result<BTreeSet<usize>> {
    let mut tags = BTreeSet::new();
    in_stream(matcher, item.entry.path.as_slice(), &mut tags)?;
    match &item.entry.kind {
        Kind::File { .. } => in_stream(matcher, item.content.open()?, &mut tags)?,
        Kind::Symlink { target } => in_stream(matcher, target.as_slice(), &mut tags)?,
        _ => {}
    }
    for (_, value) in &item.entry.xattrs {
        in_stream(matcher, value.as_slice(), &mut tags)?;
    }
    Ok(tags)
}

/// Reads once, with memory for a chunk and for what may still become a match.
fn in_stream(
    matcher: &Matcher,
    mut reader: impl Read,
    tags: &mut BTreeSet<usize>,
) -> io::Result<()> {
    let mut data = Vec::new();
    loop {
        let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut data)?;
        let is_end = read < CHUNK;
        let mut at = 0;
        let undecided = loop {
            match matcher.search(&data, at, is_end) {
                Search::Match { end, tag, .. } => {
                    tags.insert(tag);
                    at = end;
                }
                Search::Undecided(from) => break from,
                Search::Nothing => break data.len(),
            }
        };
        if is_end {
            return Ok(());
        }
        data.drain(..undecided);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(secrets: &[&str], data: &[u8]) -> Vec<usize> {
        let forms = secrets.iter().enumerate().flat_map(|(tag, s)| {
            forms::whole(s.as_bytes())
                .into_iter()
                .map(move |f| (f, tag))
        });
        let mut found = BTreeSet::new();
        in_stream(&Matcher::new(forms), data, &mut found).unwrap();
        found.into_iter().collect()
    }

    #[test]
    fn secrets_are_found_across_the_ends_of_chunks() {
        for at in [0, 1, CHUNK - 7, CHUNK - 1, CHUNK, 2 * CHUNK - 3] {
            let mut data = vec![b'.'; at];
            data.extend(b"correct horse");
            assert_eq!(
                tags(&["battery staple", "correct horse\n"], &data),
                [1],
                "{at}"
            );
            data.extend(vec![b'c'; CHUNK]);
            assert_eq!(
                tags(&["battery staple", "correct horse\n"], &data),
                [1],
                "{at}"
            );
        }
        assert!(tags(&["correct horse"], b"correct hors").is_empty());
    }
}
