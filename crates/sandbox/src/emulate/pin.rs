//! Places held fast where the step sees a /proc that has this process in it.
//!
//! With a pid namespace the step's /proc shows its own processes, and no name in it leads the
//! supervisor out. Without one (see [`crate::watch`]) it shows this process, too, whose links there
//! (`/proc/PID/root`, `/proc/PID/fd/N`) the kernel opens to this process and to nobody else. So the
//! supervisor, which goes the way that the step names, goes it once and follows no such link; what
//! it comes to it holds open and uses by that. The one link it does follow is the caller's own, at
//! the beginning (see [`super::place`]).

use std::ffi::CString;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::answer::Session;
use super::place::{self, Place};

/// A place, and what holds it.
#[derive(Debug)]
pub(super) struct Pinned {
    place: Place,
    _held: Option<OwnedFd>,
}

impl Deref for Pinned {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl From<Place> for Pinned {
    fn from(place: Place) -> Self {
        Self { place, _held: None }
    }
}

impl Session {
    /// The same place, held if need be; then it is open, and is the symlink itself when `follow` is
    /// not set.
    ///
    /// # Errors
    /// Those of the way there; `ELOOP` for one through a link to another process.
    pub(super) fn pin(&self, place: Place, follow: bool) -> Result<Pinned, Errno> {
        let (start, rest) = place::split(&place);
        if !self.shares_processes || rest.is_empty() {
            return Ok(place.into());
        }
        let held = self.open(start, rest, follow)?;
        // Nothing else is named relative to the working directory before the next `stand_with`.
        rustix::process::fchdir(self.proc)?;
        let path = format!("thread-self/fd/{}", held.as_raw_fd());
        Ok(Pinned {
            place: Place {
                path: CString::new(path).map_err(|_| Errno::INVAL)?,
                is_open: true,
            },
            _held: Some(held),
        })
    }

    /// The directory that something is to be made in, held if need be, and the place of what is to
    /// be made.
    ///
    /// # Errors
    /// As [`Self::pin`], and `ENOENT` for a name that nothing can be made with.
    pub(super) fn pin_parent(&self, place: &Place) -> Result<(Pinned, Place), Errno> {
        let (parent, name) = place::parent(place).ok_or(Errno::NOENT)?;
        let parent = Place {
            path: parent,
            is_open: true,
        };
        let parent = self.pin(parent, true)?;
        let separator: &[u8] = if parent.path.as_bytes() == b"/" {
            b""
        } else {
            b"/"
        };
        let path = [parent.path.as_bytes(), separator, &name].concat();
        let place = Place {
            path: CString::new(path).map_err(|_| Errno::INVAL)?,
            is_open: false,
        };
        Ok((parent, place))
    }

    /// Opens a way from a link of the caller as a path, without going through other such links.
    pub(super) fn open(&self, start: &[u8], rest: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let link = match follow {
            true => OFlags::empty(),
            false => OFlags::NOFOLLOW,
        };
        let (mode, resolve) = (Mode::empty(), ResolveFlags::NO_MAGICLINKS);
        if start.is_empty() {
            return rustix::fs::openat2(CWD, rest, flags | link, mode, resolve);
        }
        let start = rustix::fs::openat(CWD, start, flags, mode)?;
        rustix::fs::openat2(start, rest, flags | link, mode, resolve)
    }
}
