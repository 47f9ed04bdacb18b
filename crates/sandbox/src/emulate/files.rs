//! `chown` and `stat`.

use rustix::io::Errno;

use super::Owner;
use super::answer::{Answer, CONTINUE, Session};
use super::calls::Call;
use super::credentials::{Credentials, KEEP};
use super::pin::Pinned;
use super::place::Place;
use crate::caps;
use crate::sys::notify::{self, Notification};

/// `AT_FDCWD` as an argument.
pub(super) const CWD: u64 = libc::AT_FDCWD as u64;

fn has(flags: u64, flag: i32) -> bool {
    flags as i32 & flag != 0
}

impl Session {
    pub(super) fn chown(&mut self, n: &Notification, call: Call) -> Result<(), Errno> {
        let [a, b, c, d, e, _] = n.args;
        let (place, follow, user, group) = match call {
            Call::Chown => (self.place(n, CWD, a, false)?, true, b, c),
            Call::Lchown => (self.place(n, CWD, a, false)?, false, b, c),
            Call::Fchown => (self.descriptor(n, a)?, true, b, c),
            _ => {
                let known = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
                if e as i32 & !known != 0 {
                    return Err(Errno::INVAL);
                }
                let place = self.place(n, a, b, has(e, libc::AT_EMPTY_PATH))?;
                (place, !has(e, libc::AT_SYMLINK_NOFOLLOW), c, d)
            }
        };
        let asked = (user as u32, group as u32);
        match self.give(n, place.clone(), follow, asked) {
            Err(errno) if follow => self.give(n, self.own_behind(n, &place, errno)?, true, asked),
            other => other,
        }
    }

    fn give(
        &mut self,
        n: &Notification,
        place: Place,
        follow: bool,
        asked: Owner,
    ) -> Result<(), Errno> {
        let place = self.pin(place, follow)?;
        let follow = follow || place.is_open;
        let old = self.book.owner(&place.path, follow);
        let new = requested(old, asked);
        if !may_give(&self.credentials(n), old, new) {
            // What is not there cannot be refused.
            self.look(&place, follow)?;
            return Err(Errno::PERM);
        }
        self.book.give(&place, follow, new).map_err(|errno| {
            // A descriptor that is not open is no path that does not exist.
            match errno {
                Errno::NOENT if place.is_open => Errno::BADF,
                other => other,
            }
        })
    }

    /// Puts the kept owner into the result, if there is one; all else is left to the kernel.
    pub(super) fn stat(&mut self, n: &Notification, call: Call) -> Answer {
        self.try_stat(n, call).unwrap_or(CONTINUE)
    }

    fn try_stat(&self, n: &Notification, call: Call) -> Result<Answer, Errno> {
        let [a, b, c, d, e, _] = n.args;
        let (place, flags, result) = match call {
            Call::Stat => (self.place(n, CWD, a, false)?, 0, b),
            Call::Lstat => {
                let flags = libc::AT_SYMLINK_NOFOLLOW as u64;
                (self.place(n, CWD, a, false)?, flags, b)
            }
            Call::Fstat => (self.descriptor(n, a)?, 0, b),
            Call::Newfstatat => (self.place(n, a, b, has(d, libc::AT_EMPTY_PATH))?, d, c),
            _ => (self.place(n, a, b, has(c, libc::AT_EMPTY_PATH))?, c, e),
        };
        let follow = !has(flags, libc::AT_SYMLINK_NOFOLLOW);
        let found = match self.find(place.clone(), follow) {
            Err(errno) if follow => self.find(self.own_behind(n, &place, errno)?, true),
            other => other,
        };
        let Some((place, owner)) = found? else {
            return Ok(CONTINUE);
        };
        let follow = follow || place.is_open;
        if call == Call::Statx {
            let flags = flags_for(&place, flags as i32);
            let bytes = notify::statx_bytes(&place.path, flags, d as u32, owner)?;
            self.write(n, result, &bytes)?;
        } else {
            let bytes = notify::stat_bytes(&place.path, follow, owner)?;
            self.write(n, result, &bytes)?;
        }
        Ok(Answer::value(0))
    }

    /// A place and the owner that is kept of it, if there is one.
    fn find(&self, place: Place, follow: bool) -> Result<Option<(Pinned, Owner)>, Errno> {
        let place = self.pin(place, follow)?;
        let owner = self.book.find(&place.path, follow || place.is_open)?;
        Ok(owner.map(|owner| (place, owner)))
    }
}

impl Session {
    /// Before the kernel copies a symlink with an owner up: does so here, where the new inode can
    /// be noted.
    pub(super) fn copy_up(&mut self, n: &Notification, call: Call) -> Answer {
        let [a, b, _, _, e, _] = n.args;
        let place = match call {
            Call::Rename | Call::Link => self.place(n, CWD, a, false),
            Call::Linkat => self.place(n, a, b, has(e, libc::AT_EMPTY_PATH)),
            _ => self.place(n, a, b, false),
        };
        if let Ok(place) = place.and_then(|place| {
            let follow = place.is_open;
            self.pin(place, follow)
        }) {
            // What fails here fails in the kernel, too.
            let _ = self.book.keep(&place, place.is_open);
        }
        CONTINUE
    }
}

/// The caller's flags of `statx` for the supervisor's path.
fn flags_for(place: &Place, flags: i32) -> i32 {
    let flags = flags & !libc::AT_EMPTY_PATH;
    if place.is_open {
        flags & !libc::AT_SYMLINK_NOFOLLOW
    } else {
        flags
    }
}

/// Minus one keeps an id (chown(2)).
fn requested(old: Owner, asked: Owner) -> Owner {
    let pick = |new: u32, old: u32| if new == KEEP { old } else { new };
    (pick(asked.0, old.0), pick(asked.1, old.1))
}

/// Without `CAP_CHOWN` the owner of a file may give it to a group that he is in (chown(2)).
fn may_give(credentials: &Credentials, old: Owner, new: Owner) -> bool {
    if credentials.can(caps::CHOWN) {
        return true;
    }
    let is_own = credentials.user.fs == old.0;
    is_own && new.0 == old.0 && (new.1 == old.1 || credentials.is_in_group(new.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, groups: &[u32]) -> Credentials {
        Credentials::new(&crate::spec::Credentials {
            uid,
            gid: uid,
            groups: groups.to_vec(),
        })
    }

    #[test]
    fn minus_one_keeps_an_id() {
        assert_eq!(requested((1, 2), (KEEP, 5)), (1, 5));
        assert_eq!(requested((1, 2), (5, KEEP)), (5, 2));
    }

    #[test]
    fn owners_give_to_their_groups_only() {
        let alice = user(5, &[7]);
        assert!(may_give(&alice, (5, 5), (5, 7)));
        assert!(may_give(&alice, (5, 9), (5, 9)));
        assert!(!may_give(&alice, (5, 5), (5, 8)));
        assert!(!may_give(&alice, (5, 5), (6, 5)));
        assert!(!may_give(&alice, (6, 5), (6, 7)));
        assert!(may_give(&user(0, &[]), (6, 5), (9, 9)));
    }
}
