//! Joining control groups, which the caller made and limited.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Error, Step};
use crate::plan::Op;

/// Opens what a process writes to in order to join; with the rights of the caller, which the
/// kernel checks.
pub(crate) fn open(directories: &[PathBuf]) -> Result<Vec<OwnedFd>, Error> {
    let open = |directory: &PathBuf| {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, directory.join("cgroup.procs"), flags, Mode::empty()).map_err(
            |errno| {
                let path = directory.clone();
                Step::OpenCgroup { path }.error(errno)
            },
        )
    };
    directories.iter().map(open).collect()
}

/// Puts the joining before everything else: the cgroup namespace then begins at the group.
pub(crate) fn join<'f>(operations: &mut Vec<Op<'f>>, groups: &'f [OwnedFd]) {
    let join = groups.iter().map(|group| Op::JoinCgroup {
        procs: group.as_fd(),
    });
    operations.splice(0..0, join);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_comes_before_everything_else() {
        let group = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let groups = [group];
        let mut operations = vec![Op::CgroupNamespace, Op::PivotRoot];
        join(&mut operations, &groups);
        let first = operations.first();
        assert!(matches!(first, Some(Op::JoinCgroup { .. })) && operations.len() == 3);
    }

    #[test]
    fn a_group_that_does_not_exist_is_named() {
        let error = open(&["/no/such/group".into()]).unwrap_err();
        assert_eq!(error.to_string(), "open the control group /no/such/group");
    }
}
