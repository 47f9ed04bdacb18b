//! From a ref to a commit (rules G01, G02, G04).

use super::command::{Call, REMOTE};
use super::location::{Location, is_full_commit, may_be_abbreviated};
use super::repository::Repository;
use super::{Resolved, failure, git};
use crate::engine::executor::StepError;
use crate::engine::fetch::Access;
use crate::failure::{Failure, FailureKind};

/// Asks the remote, unless the URL names a whole commit.
///
/// # Errors
/// See [`super::look_up`].
pub(super) fn resolve(access: &Access<'_>, location: &Location) -> Result<Resolved, StepError> {
    let commit = |commit: String| Resolved {
        commit,
        name: None,
        tag: None,
    };
    let resolved = match location.reference.as_deref() {
        Some(name) if is_full_commit(name) => commit(name.to_owned()),
        name => match ask(access, location, name)? {
            Some(resolved) => resolved,
            None => match name.filter(|name| may_be_abbreviated(name)) {
                Some(name) => {
                    let repository = Repository::new(access, location, access.cancel)?;
                    commit(repository.complete(name)?)
                }
                None => return Err(no_such_ref(location)),
            },
        },
    };
    check(location, &resolved)?;
    Ok(resolved)
}

/// `None`: the remote has no such ref.
fn ask(
    access: &Access<'_>,
    location: &Location,
    name: Option<&str>,
) -> Result<Option<Resolved>, StepError> {
    let git = git(access, location, access.cancel)?;
    let call = Call {
        protocols: REMOTE,
        ..Call::default()
    };
    let peeled = name.map(|name| format!("{name}^{{}}"));
    let mut args = vec!["ls-remote", "--symref", "--", &location.remote];
    args.extend(name.or(Some("HEAD")));
    args.extend(peeled.as_deref());
    let output = git
        .run(&call, &args)
        .map_err(|error| failure(location, &error))?;
    Ok(choose(&String::from_utf8_lossy(&output), name))
}

/// The line of `ls-remote --symref` that `name` stands for: a full name, else a branch, else a
/// tag, as `git checkout` has it; the default branch when there is no name.
fn choose(output: &str, name: Option<&str>) -> Option<Resolved> {
    let mut refs = Vec::new();
    let mut default = None;
    for line in output.lines() {
        match line.split_once('\t') {
            Some((target, "HEAD")) if target.starts_with("ref: ") => {
                default = target.strip_prefix("ref: ");
            }
            Some((object, name)) if is_full_commit(object) => refs.push((name, object)),
            _ => {}
        }
    }
    let find = |wanted: &str| {
        refs.iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, o)| *o)
    };
    let Some(name) = name else {
        return Some(Resolved {
            commit: find("HEAD")?.to_owned(),
            name: default.map(str::to_owned),
            tag: None,
        });
    };
    let candidates = [
        format!("refs/{}", name.strip_prefix("refs/").unwrap_or(name)),
        format!("refs/heads/{name}"),
        format!("refs/tags/{name}"),
    ];
    // HEAD and other names outside of refs/ are taken as they are.
    let candidates = std::iter::once(name.to_owned()).chain(candidates);
    let (name, object) = candidates
        .filter_map(|name| Some((find(&name)?, name)))
        .map(|(object, name)| (name, object))
        .next()?;
    let peeled = find(&format!("{name}^{{}}"));
    Some(Resolved {
        commit: peeled.unwrap_or(object).to_owned(),
        tag: peeled.map(|_| object.to_owned()),
        name: Some(name),
    })
}

fn no_such_ref(location: &Location) -> StepError {
    let shown = location.shown();
    let message = match &location.reference {
        Some(name) => format!("{shown}: the repository does not contain ref {name}"),
        None => format!("{shown}: the repository has no default branch; it may be empty"),
    };
    Failure::new(FailureKind::Build, message).into()
}

/// Rule D15: of an annotated tag either object may be named.
fn check(location: &Location, resolved: &Resolved) -> Result<(), StepError> {
    let Some(checksum) = &location.checksum else {
        return Ok(());
    };
    let objects = std::iter::once(&resolved.commit).chain(&resolved.tag);
    if objects
        .into_iter()
        .any(|object| object.starts_with(checksum))
    {
        return Ok(());
    }
    let message = format!(
        "{}: expected checksum to match {checksum}, got {}",
        location.shown(),
        resolved.commit
    );
    Err(Failure::new(FailureKind::Build, message).into())
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn g02_branches_before_tags_and_tags_peeled() {
        let id = |digit: &str| digit.repeat(40);
        let output = format!(
            "ref: refs/heads/trunk\tHEAD\n{}\tHEAD\n{}\trefs/heads/both\n{}\trefs/heads/x/v1\n\
             {}\trefs/tags/both\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n{}\trefs/pull/1/head\n",
            id("0"),
            id("1"),
            id("2"),
            id("3"),
            id("4"),
            id("5"),
            id("6"),
        );
        for (name, commit, full, tag) in [
            (None, "0", "refs/heads/trunk", None),
            (Some("both"), "1", "refs/heads/both", None),
            (Some("refs/tags/both"), "3", "refs/tags/both", None),
            (Some("tags/both"), "3", "refs/tags/both", None),
            (Some("v1"), "5", "refs/tags/v1", Some("4")),
            (Some("refs/pull/1/head"), "6", "refs/pull/1/head", None),
        ] {
            let resolved = choose(&output, name).unwrap();
            assert_eq!(resolved.commit, id(commit), "{name:?}");
            assert_eq!(resolved.name.as_deref(), Some(full), "{name:?}");
            assert_eq!(resolved.tag, tag.map(id), "{name:?}");
        }
        assert_eq!(choose(&output, Some("v")), None);
        assert_eq!(choose("", None), None);
    }
}
