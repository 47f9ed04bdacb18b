//! Files that a process makes while it believes to be somebody else than root, or in a directory
//! that hands its group down.

use rustix::fs::{AtFlags, CWD as HERE, FileType, Mode, RawMode};
use rustix::io::Errno;

use super::Owner;
use super::answer::{Answer, CONTINUE, Session};
use super::calls::Call;
use super::credentials::Credentials;
use super::files::CWD;
use super::place::Place;
use crate::sys::notify::{self, Notification};

/// `__O_TMPFILE` without the `O_DIRECTORY` that is always with it.
const UNNAMED: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// `O_CREAT` of `creat(2)`.
const CREAT: i32 = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
/// Size of the first version of `struct open_how`.
const OPEN_HOW: usize = 24;

/// What is to be made.
#[derive(Debug, Clone, Copy)]
enum Make {
    File {
        flags: i32,
        mode: u32,
    },
    Directory {
        mode: u32,
    },
    /// The address of the target's text.
    Symlink {
        target: u64,
    },
    Node {
        mode: u32,
    },
}

impl Session {
    /// Left to the kernel unless the owner would be another than root.
    pub(super) fn create(&mut self, n: &Notification, call: Call) -> Answer {
        let [a, b, c, d, ..] = n.args;
        let (directory, path, make) = match call {
            Call::Open => (CWD, a, file(b, c)),
            Call::Creat => (CWD, a, file(CREAT as u64, b)),
            Call::Openat => (a, b, file(c, d)),
            Call::Openat2 => match self.open_how(n, c, d) {
                Some(make) => (a, b, make),
                None => return CONTINUE,
            },
            Call::Mkdir => (CWD, a, Make::Directory { mode: b as u32 }),
            Call::Mkdirat => (a, b, Make::Directory { mode: c as u32 }),
            Call::Symlink => (CWD, b, Make::Symlink { target: a }),
            Call::Symlinkat => (b, c, Make::Symlink { target: a }),
            Call::Mknod => (CWD, a, Make::Node { mode: b as u32 }),
            _ => (a, b, Make::Node { mode: c as u32 }),
        };
        if is_device(make) {
            // As for every root of a user namespace.
            return Answer::done(Err(Errno::PERM));
        }
        let place = self.place(n, directory, path, false);
        match place.and_then(|place| self.create_at(n, &place, make)) {
            Ok(answer) => answer,
            Err(_) => CONTINUE,
        }
    }

    /// `openat2` that may make a file, and asks for nothing that only the kernel can do.
    fn open_how(&self, n: &Notification, address: u64, size: u64) -> Option<Make> {
        if size < OPEN_HOW as u64 {
            return None;
        }
        let bytes = self.read(n, address, OPEN_HOW).ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        let [flags, mode, resolve] = words else {
            return None;
        };
        let flags = u64::from_ne_bytes(*flags);
        let creates = flags as i32 & (libc::O_CREAT | UNNAMED) != 0;
        (creates && u64::from_ne_bytes(*resolve) == 0)
            .then(|| file(flags, u64::from_ne_bytes(*mode)))
    }

    fn create_at(&mut self, n: &Notification, place: &Place, make: Make) -> Result<Answer, Errno> {
        let unnamed = matches!(make, Make::File { flags, .. } if flags & UNNAMED != 0);
        let (parent, place) = if unnamed {
            let directory = self.pin(place.clone(), true)?;
            let place = Place::clone(&directory);
            (directory, place)
        } else {
            self.pin_parent(place)?
        };
        let place = &place;
        let credentials = self.credentials(n);
        let owner = self.owner_in(&credentials, &parent)?;
        let exists = !unnamed && self.look(place, false).is_ok();
        if owner == (0, 0) || exists {
            return Ok(CONTINUE);
        }
        match make {
            Make::File { flags, mode } => self.create_file(n, place, flags, mode, owner),
            Make::Directory { mode } => {
                let mode = mode & 0o1777;
                self.take_umask(n)?;
                rustix::fs::mkdirat(HERE, &place.path, Mode::from_raw_mode(mode))?;
                Ok(self.finish(place, owner, AtFlags::REMOVEDIR))
            }
            Make::Symlink { target } => {
                let target = self.read_string(n, target)?;
                rustix::fs::symlinkat(target, HERE, &place.path)?;
                Ok(self.finish(place, owner, AtFlags::empty()))
            }
            Make::Node { mode } => {
                let kind = FileType::from_raw_mode(mode as RawMode);
                let mode = Mode::from_raw_mode(mode & 0o7777);
                self.take_umask(n)?;
                rustix::fs::mknodat(HERE, &place.path, kind, mode, 0)?;
                Ok(self.finish(place, owner, AtFlags::empty()))
            }
        }
    }

    /// Who owns a file that is made in a directory (inode(7): a set-group-ID directory hands its
    /// group down).
    fn owner_in(&self, credentials: &Credentials, parent: &Place) -> Result<Owner, Errno> {
        let mode = self.look(parent, true)?.stx_mode;
        let group = if u32::from(mode) & libc::S_ISGID != 0 {
            self.book.owner(&parent.path, true).1
        } else {
            credentials.group.fs
        };
        Ok((credentials.user.fs, group))
    }

    fn create_file(
        &mut self,
        n: &Notification,
        place: &Place,
        flags: i32,
        mode: u32,
        owner: Owner,
    ) -> Result<Answer, Errno> {
        let mode = mode & 0o7777;
        self.take_umask(n)?;
        // A name that somebody else makes meanwhile is not ours to give away.
        let exclusive = if flags & UNNAMED == 0 {
            libc::O_EXCL
        } else {
            0
        };
        let fd = notify::open_raw(&place.path, flags | exclusive, mode)?;
        if let Err(errno) = self.book.record_open(&fd, owner) {
            if exclusive != 0 {
                let _ = rustix::fs::unlinkat(HERE, &place.path, AtFlags::empty());
            }
            return Ok(Answer::done(Err(errno)));
        }
        Ok(Answer::Descriptor {
            fd,
            close_on_exec: flags & libc::O_CLOEXEC != 0,
        })
    }

    /// Notes the owner of what was just made, or takes it away again.
    fn finish(&mut self, place: &Place, owner: Owner, remove: AtFlags) -> Answer {
        let recorded = self.book.record(&place.path, false, owner);
        if recorded.is_err() {
            let _ = rustix::fs::unlinkat(HERE, &place.path, remove);
        }
        Answer::done(recorded)
    }

    /// Takes on the umask of the caller, which the kernel heeds only where the directory has no
    /// default ACL (acl(5)).
    fn take_umask(&self, n: &Notification) -> Result<(), Errno> {
        let status = self.status(n, "Umask")?;
        let mask = u32::from_str_radix(&status, 8).map_err(|_| Errno::INVAL)?;
        rustix::process::umask(Mode::from_raw_mode(mask));
        Ok(())
    }
}

fn file(flags: u64, mode: u64) -> Make {
    Make::File {
        flags: flags as i32,
        mode: mode as u32,
    }
}

fn is_device(make: Make) -> bool {
    let Make::Node { mode } = make else {
        return false;
    };
    matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK)
}
