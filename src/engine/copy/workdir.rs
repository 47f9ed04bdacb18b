//! `WORKDIR` (rules W02-W04, W07).

use graph::op;
use store::view::View;

use super::Planned;
use super::dest::{Destination, Meta, NewGroup};
use super::error::CopyError;
use super::users::{Owner, Ownership, Unknown, UserLookup};

/// The layer that makes the directory; empty when it is there already (rule W03), and then nobody
/// is looked up. All directories made are 0755 and owned by the `USER` in force (rule W02).
///
/// A user the image does not know stands for root here, with a warning: the `USER` may be meant
/// for the container only (rules O02, W12).
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
    if destination.make_directories(&resolved.path, &Meta::default(), NewGroup::Given)? {
        destination = Destination::new(dest);
        let Ownership { owner, warnings } = match op.user.as_str() {
            "" => Ownership::default(),
            user => users.owner(user, Unknown::Root)?,
        };
        let Owner { uid, gid } = owner;
        let about = |warning| format!("{}: {warning}", op.path);
        let warnings = warnings.into_iter().map(about).collect();
        let meta = Meta {
            mode: 0o755,
            uid,
            gid,
            mtime: op.epoch,
            xattrs: Vec::new(),
        };
        let group = if op.user.is_empty() {
            NewGroup::OfParent
        } else {
            NewGroup::Given
        };
        destination.make_directories(&resolved.path, &meta, group)?;
        return Ok(Planned {
            items: destination.into_items(),
            warnings,
        });
    }
    Ok(Planned::default())
}
