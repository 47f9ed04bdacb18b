//! POSIX access control lists, which are attributes with a form of their own (acl(5)).
//!
//! The kernel takes no list that names an id which the user namespace does not have, and there is
//! one. Such a list is set with that one in place of all others: what it does to the mode of the
//! file, and to those of files made in a directory, is as it should be. Images do not hold lists.

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::answer::{Answer, CONTINUE, Session};
use super::calls::Call;
use super::files::CWD;
use super::place::Place;
use crate::caps;
use crate::sys::notify::Notification;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `XATTR_SIZE_MAX` of include/uapi/linux/limits.h.
const VALUE_MAX: u64 = 65_536;
/// Sizes of `struct posix_acl_xattr_header` and of an entry behind it, in which the last four bytes
/// are the id (include/uapi/linux/posix_acl_xattr.h).
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// Tags of entries that name a user or a group.
const NAMING: [u16; 2] = [0x02, 0x08];

impl Session {
    /// `setxattr(2)`, `removexattr(2)` and their kin: left to the kernel unless they are about a
    /// list that the kernel would judge wrongly.
    pub(super) fn attribute(&mut self, n: &Notification, call: Call) -> Answer {
        match self.try_attribute(n, call) {
            Ok(answer) => answer,
            // As in the kernel, which will say so.
            Err(_) => CONTINUE,
        }
    }

    fn try_attribute(&mut self, n: &Notification, call: Call) -> Result<Answer, Errno> {
        let [file, name, value, size, flags, _] = n.args;
        let name = self.read_string(n, name)?;
        if name != ACCESS && name != DEFAULT {
            return Ok(CONTINUE);
        }
        let (place, follow) = match call {
            Call::Fsetxattr | Call::Fremovexattr => (self.descriptor(n, file)?, true),
            Call::Lsetxattr | Call::Lremovexattr => (self.place(n, CWD, file, false)?, false),
            _ => (self.place(n, CWD, file, false)?, true),
        };
        let place = self.pin(place, follow)?;
        let follow = follow || place.is_open;
        self.look(&place, follow)?;
        if !self.may_change(n, &place, follow) {
            return Ok(Answer::done(Err(Errno::PERM)));
        }
        let sets = matches!(call, Call::Setxattr | Call::Lsetxattr | Call::Fsetxattr);
        if !sets || size > VALUE_MAX {
            return Ok(CONTINUE);
        }
        let mut list = self.read(n, value, size as usize)?;
        if !name_root_only(&mut list) {
            return Ok(CONTINUE);
        }
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let path = place.path.as_c_str();
        let done = if follow {
            rustix::fs::setxattr(path, name, &list, flags)
        } else {
            rustix::fs::lsetxattr(path, name, &list, flags)
        };
        Ok(Answer::done(done))
    }

    /// Lists are changed by the owner, and with `CAP_FOWNER` (capabilities(7)).
    fn may_change(&self, n: &Notification, place: &Place, follow: bool) -> bool {
        let credentials = self.credentials(n);
        credentials.can(caps::FOWNER)
            || credentials.user.fs == self.book.owner(&place.path, follow).0
    }
}

/// Puts root in place of every other user and group in a list; false if there is none.
fn name_root_only(list: &mut [u8]) -> bool {
    let mut is_changed = false;
    for entry in list
        .get_mut(HEADER..)
        .unwrap_or_default()
        .chunks_exact_mut(ENTRY)
    {
        let [t0, t1, _, _, id @ ..] = entry else {
            continue;
        };
        let names_other = NAMING.contains(&u16::from_le_bytes([*t0, *t1])) && *id != [0; 4];
        // No id at all is an error, which the kernel is to find.
        if names_other && *id != [0xff; 4] {
            id.fill(0);
            is_changed = true;
        }
    }
    is_changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_ids_become_root() {
        let list = |ids: [u32; 4]| {
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (tag, id) in [1_u16, 2, 8, 4].into_iter().zip(ids) {
                list.extend(tag.to_le_bytes());
                list.extend(6_u16.to_le_bytes());
                list.extend(id.to_le_bytes());
            }
            list
        };
        let none = u32::MAX;
        let cases = [
            ([none, 1000, 33, none], [none, 0, 0, none], true),
            ([none, 0, 0, none], [none, 0, 0, none], false),
            ([none, none, 7, none], [none, none, 0, none], true),
            ([5, 0, 0, 5], [5, 0, 0, 5], false),
        ];
        for (given, expected, is_changed) in cases {
            let mut bytes = list(given);
            assert_eq!(name_root_only(&mut bytes), is_changed);
            assert_eq!(bytes, list(expected));
        }
        for length in 0..16 {
            assert!(!name_root_only(&mut vec![0; length]));
        }
    }
}
