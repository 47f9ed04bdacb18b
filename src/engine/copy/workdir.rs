//! `WORKDIR` (rules W02-W04, W07).

use graph::op;
use store::view::View;

use super::Planned;
use super::dest::{Destination, Meta};
use super::error::CopyError;
use super::users::{Owner, UserLookup};

/// The layer that makes the directory; empty when it is there already (rule W03), and then nobody
/// is looked up. All directories made are 0755 and owned by the `USER` in force (rule W02).
///
/// As in BuildKit a user the image does not know stands for root here, with a warning: the `USER`
/// may be meant for the container only (rule W12).
///
/// # Errors
/// [`CopyError::NotADirectory`] when something else is in the way.
pub fn plan_workdir(
    op: &op::Workdir,
    dest: &View,
    users: &dyn UserLookup,
) -> Result<Planned, CopyError> {
    let mut destination = Destination::new(dest);
    let resolved = destination.resolve(op.path.as_bytes())?;
    // Also tells when the path leads through a file.
    if destination.make_directories(&resolved.path, &Meta::default())? {
        destination = Destination::new(dest);
        let (Owner { uid, gid }, warnings) = owner(op, users)?;
        let meta = Meta {
            mode: 0o755,
            uid,
            gid,
            mtime: op.epoch,
            xattrs: Vec::new(),
        };
        destination.make_directories(&resolved.path, &meta)?;
        return Ok(Planned {
            items: destination.into_items(),
            warnings,
        });
    }
    Ok(Planned::default())
}

fn owner(op: &op::Workdir, users: &dyn UserLookup) -> Result<(Owner, Vec<String>), CopyError> {
    if op.user.is_empty() {
        return Ok((Owner::default(), Vec::new()));
    }
    match users.owner(&op.user) {
        Err(error) if error.is_unknown() => {
            let warning = format!("{error}: {} will belong to root", op.path);
            Ok((Owner::default(), vec![warning]))
        }
        owner => Ok((owner?, Vec::new())),
    }
}
