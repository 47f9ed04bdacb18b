//! A file system that is full: which one, and what to do.

use std::path::Path;

use crate::failure::{Failure, FailureKind};
use crate::report;
use crate::request::{BuildRequest, Output};

/// How the standard library ends the text of `ENOSPC` and `EDQUOT`. The errors come from many
/// places and through many types; their text is what all of them have.
const FULL: [&str; 2] = ["(os error 28)", "(os error 122)"];

/// What programs in steps say (`strerror(3)`).
const FULL_IN_STEP: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// Adds to a failure for want of room how much there is where the build writes.
pub(super) fn explain(failure: Failure, request: &BuildRequest) -> Failure {
    let outputs = request.outputs.iter().map(|output| match output {
        Output::Oci { destination, .. } => ("the output", destination.as_path()),
    });
    let store = ("the store", request.store_root.as_path());
    explain_at(failure, std::iter::once(store).chain(outputs))
}

fn explain_at<'p>(
    mut failure: Failure,
    places: impl Iterator<Item = (&'p str, &'p Path)>,
) -> Failure {
    let is_ours = FULL.iter().any(|text| failure.message.contains(text));
    let output = failure.excerpt.as_deref().unwrap_or_default();
    let is_steps = FULL_IN_STEP.iter().any(|text| output.contains(text));
    if is_ours {
        failure.kind = FailureKind::Environment;
    } else if !is_steps {
        return failure;
    }
    let free: Vec<String> = places
        .filter_map(|(name, path)| Some(format!("{name} {} has {}", path.display(), free(path)?)))
        .collect();
    failure
        .hint(format!("room that is free now: {}", free.join(", ")))
        .hint(
            "make room, with layercake prune --all if need be, or set LAYERCAKE_ROOT to a larger \
             file system",
        )
}

/// What an ordinary user may still write at `path`, or where it would be made.
fn free(path: &Path) -> Option<String> {
    let found = path.ancestors().find_map(|each| {
        let each = if each.as_os_str().is_empty() {
            Path::new(".")
        } else {
            each
        };
        rustix::fs::statvfs(each).ok()
    })?;
    let bytes = report::size(found.f_bavail.saturating_mul(found.f_frsize));
    // Some file systems do not count files; they say that there are none.
    if found.f_files > 0 && found.f_favail == 0 {
        return Some(format!("{bytes} but no room for another file (inode)"));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn explained(failure: Failure) -> Failure {
        let store = Path::new("/no/such/store");
        explain_at(failure, std::iter::once(("the store", store)))
    }

    #[test]
    fn errors_for_want_of_room_name_the_store() {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let error = std::io::Error::from_raw_os_error(errno.raw_os_error());
            let failure = Failure::new(FailureKind::Build, format!("write layer: {error}"));
            let failure = explained(failure);
            assert_eq!(failure.kind, FailureKind::Environment);
            assert!(failure.hints[0].contains("the store /no/such/store has "));
        }
    }

    #[test]
    fn a_step_that_met_it_is_still_to_blame() {
        let mut failure = Failure::new(FailureKind::Build, "exit code: 1");
        failure.excerpt = Some("dd: error writing 'x': No space left on device".to_owned());
        let failure = explained(failure);
        assert_eq!(failure.kind, FailureKind::Build);
        assert!(failure.hints[0].contains("the store"));
    }

    #[test]
    fn other_failures_stay_as_they_are() {
        let failure = explained(Failure::new(FailureKind::Build, "exit code: 28"));
        assert!(failure.hints.is_empty());
    }
}
