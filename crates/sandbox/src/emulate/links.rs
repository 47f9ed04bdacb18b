//! Symlinks to what /proc/self means for the caller.
//!
//! Images have `access.log -> /dev/stdout`, which leads to /proc/self. The kernel would look there
//! for the supervisor, which in the step's /proc does not exist (`ENOENT`) or, without a pid
//! namespace, must not be entered (`ELOOP`). Only then the links are read here, one by one.

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use super::answer::Session;
use super::place::{self, Place};
use crate::sys::notify::Notification;

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

impl Session {
    /// Where a name leads that could not be followed because of `error`, if it leads to a
    /// descriptor or directory of the caller by way of /proc/self.
    ///
    /// # Errors
    /// `error`, if it does not.
    pub(super) fn own_behind(
        &self,
        n: &Notification,
        place: &Place,
        error: Errno,
    ) -> Result<Place, Errno> {
        if place.is_open || !matches!(error, Errno::NOENT | Errno::LOOP) {
            return Err(error);
        }
        let mut link = place.clone();
        for _ in 0..LINKS_MAX {
            let target = self.read_link(&link).map_err(|_| error)?;
            link = place::behind(&link, &target).map_err(|_| error)?;
            if target.starts_with(b"/") && place::is_relative(&link) {
                // A chain that began with an absolute name.
                self.stand_with(n)?;
                return Ok(link);
            }
        }
        Err(error)
    }

    /// The text of a symlink of the step. Those of /proc are no names of what they lead to.
    fn read_link(&self, link: &Place) -> Result<Vec<u8>, Errno> {
        let (start, rest) = place::split(link);
        if rest.is_empty() {
            return Err(Errno::INVAL);
        }
        let held = if self.shares_processes {
            self.open(start, rest, false)?
        } else {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, &link.path, flags, Mode::empty())?
        };
        if rustix::fs::fstatfs(&held)?.f_type == PROC_SUPER_MAGIC {
            return Err(Errno::INVAL);
        }
        Ok(rustix::fs::readlinkat(&held, c"", Vec::new())?.into_bytes())
    }
}
