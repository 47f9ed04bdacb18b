//! The credentials that a process of the step believes to have.
//!
//! Pure: what the kernel's `set*id`, `setgroups`, `capset` and `execve` do to credentials
//! (credentials(7), capabilities(7)), on values. In truth every process of the step is root of a
//! user namespace with one id.

use std::collections::HashMap;

use rustix::io::Errno;

use crate::caps;

/// In arguments of `setre*id` and `setres*id`: leave it as it is.
pub(super) const KEEP: u32 = u32::MAX;
/// More supplementary groups are refused (`NGROUPS_MAX` of the kernel).
pub(super) const GROUPS_MAX: usize = 65_536;
/// What a step may make the supervisor keep; real steps have a few dozen.
const CREDENTIALS_MAX: usize = 1 << 16;
const ALL_GROUPS_MAX: usize = 1 << 20;

/// Real, effective, saved and file-system id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) fs: u32,
}

impl Ids {
    fn all(id: u32) -> Self {
        Self {
            real: id,
            effective: id,
            saved: id,
            fs: id,
        }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    fn has_root(self) -> bool {
        self.has(0)
    }

    /// `setuid(2)`, `setgid(2)`.
    fn set(self, id: u32, privileged: bool) -> Result<Self, Errno> {
        match id {
            KEEP => Err(Errno::INVAL),
            _ if privileged => Ok(Self::all(id)),
            _ if id == self.real || id == self.saved => Ok(Self {
                effective: id,
                fs: id,
                ..self
            }),
            _ => Err(Errno::PERM),
        }
    }

    /// `setreuid(2)`, `setregid(2)`.
    fn set_two(self, real: u32, effective: u32, privileged: bool) -> Result<Self, Errno> {
        let mut new = self;
        if real != KEEP {
            if !privileged && real != self.real && real != self.effective {
                return Err(Errno::PERM);
            }
            new.real = real;
        }
        if effective != KEEP {
            if !privileged && !self.has(effective) {
                return Err(Errno::PERM);
            }
            new.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != self.real) {
            new.saved = new.effective;
        }
        new.fs = new.effective;
        Ok(new)
    }

    /// `setresuid(2)`, `setresgid(2)`.
    fn set_three(self, ids: [u32; 3], privileged: bool) -> Result<Self, Errno> {
        if !privileged && ids.iter().any(|&id| id != KEEP && !self.has(id)) {
            return Err(Errno::PERM);
        }
        let [real, effective, saved] = ids;
        let pick = |new: u32, old: u32| if new == KEEP { old } else { new };
        let effective = pick(effective, self.effective);
        Ok(Self {
            real: pick(real, self.real),
            effective,
            saved: pick(saved, self.saved),
            fs: effective,
        })
    }
}

/// Sets of capabilities, bit n for capability n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Capabilities {
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) inheritable: u64,
}

impl Capabilities {
    fn of_root() -> Self {
        Self {
            effective: caps::DOCKER_DEFAULT,
            permitted: caps::DOCKER_DEFAULT,
            inheritable: 0,
        }
    }
}

/// What one process believes to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    pub(super) user: Ids,
    pub(super) group: Ids,
    pub(super) groups: Vec<u32>,
    pub(super) caps: Capabilities,
    pub(super) keep_caps: bool,
}

impl Credentials {
    /// As a step starts for a user.
    pub(super) fn new(spec: &crate::spec::Credentials) -> Self {
        Self {
            user: Ids::all(spec.uid),
            group: Ids::all(spec.gid),
            groups: sorted(spec.groups.clone()),
            caps: if spec.uid == 0 {
                Capabilities::of_root()
            } else {
                Capabilities::default()
            },
            keep_caps: false,
        }
    }

    pub(super) fn can(&self, capability: u32) -> bool {
        self.caps.effective & (1 << capability) != 0
    }

    pub(super) fn is_in_group(&self, gid: u32) -> bool {
        self.group.fs == gid || self.groups.contains(&gid)
    }

    pub(super) fn set_user(&self, id: u32) -> Result<Self, Errno> {
        let user = self.user.set(id, self.can(caps::SETUID))?;
        Ok(self.with_user(user))
    }

    pub(super) fn set_users(&self, real: u32, effective: u32) -> Result<Self, Errno> {
        let privileged = self.can(caps::SETUID);
        let user = self.user.set_two(real, effective, privileged)?;
        Ok(self.with_user(user))
    }

    pub(super) fn set_all_users(&self, ids: [u32; 3]) -> Result<Self, Errno> {
        let user = self.user.set_three(ids, self.can(caps::SETUID))?;
        Ok(self.with_user(user))
    }

    /// `setfsuid(2)`, which never fails: a refused id changes nothing.
    pub(super) fn set_fs_user(&self, id: u32) -> Self {
        let mut new = self.clone();
        if id != KEEP && (self.can(caps::SETUID) || self.user.has(id)) {
            new.user.fs = id;
        }
        new
    }

    pub(super) fn set_group(&self, id: u32) -> Result<Self, Errno> {
        let group = self.group.set(id, self.can(caps::SETGID))?;
        Ok(self.with_group(group))
    }

    pub(super) fn set_two_groups(&self, real: u32, effective: u32) -> Result<Self, Errno> {
        let privileged = self.can(caps::SETGID);
        let group = self.group.set_two(real, effective, privileged)?;
        Ok(self.with_group(group))
    }

    pub(super) fn set_all_groups(&self, ids: [u32; 3]) -> Result<Self, Errno> {
        let group = self.group.set_three(ids, self.can(caps::SETGID))?;
        Ok(self.with_group(group))
    }

    /// `setfsgid(2)`; as [`Self::set_fs_user`].
    pub(super) fn set_fs_group(&self, id: u32) -> Self {
        let mut new = self.clone();
        if id != KEEP && (self.can(caps::SETGID) || self.group.has(id)) {
            new.group.fs = id;
        }
        new
    }

    pub(super) fn set_groups(&self, groups: Vec<u32>) -> Result<Self, Errno> {
        if !self.can(caps::SETGID) {
            return Err(Errno::PERM);
        }
        Ok(Self {
            groups: sorted(groups),
            ..self.clone()
        })
    }

    /// `capset(2)`.
    pub(super) fn set_caps(&self, new: Capabilities) -> Result<Self, Errno> {
        let gained = new.permitted & !self.caps.permitted;
        if gained != 0 || new.effective & !new.permitted != 0 {
            return Err(Errno::PERM);
        }
        Ok(Self {
            caps: new,
            ..self.clone()
        })
    }

    /// `execve(2)` of a file with these set-id bits (the owner that the bit names).
    pub(super) fn execute(&self, set_user: Option<u32>, set_group: Option<u32>) -> Self {
        let mut new = self.clone();
        new.user.effective = set_user.unwrap_or(self.user.effective);
        new.user.saved = new.user.effective;
        new.user.fs = new.user.effective;
        new.group.effective = set_group.unwrap_or(self.group.effective);
        new.group.saved = new.group.effective;
        new.group.fs = new.group.effective;
        new.keep_caps = false;
        let all = Capabilities::of_root();
        new.caps = Capabilities {
            permitted: if new.user.real == 0 || new.user.effective == 0 {
                all.permitted
            } else {
                0
            },
            effective: if new.user.effective == 0 {
                all.effective
            } else {
                0
            },
            inheritable: self.caps.inheritable,
        };
        new
    }

    /// What a change of user ids does to capabilities (capabilities(7), "Effect of user ID
    /// changes").
    fn with_user(&self, user: Ids) -> Self {
        let mut new = Self {
            user,
            ..self.clone()
        };
        let lost_root = self.user.has_root() && !user.has_root();
        if lost_root && !self.keep_caps {
            new.caps.permitted = 0;
            new.caps.effective = 0;
        }
        if self.user.effective == 0 && user.effective != 0 {
            new.caps.effective = 0;
        } else if self.user.effective != 0 && user.effective == 0 {
            new.caps.effective = new.caps.permitted;
        }
        new
    }

    fn with_group(&self, group: Ids) -> Self {
        Self {
            group,
            ..self.clone()
        }
    }
}

/// All credentials that processes of a step have had, by number.
#[derive(Debug, Default)]
pub(super) struct Table {
    list: Vec<Credentials>,
    /// How many groups there are in all of them.
    groups: usize,
    numbers: HashMap<Credentials, u64>,
}

impl Table {
    /// The number of these credentials.
    ///
    /// # Errors
    /// `ENOMEM` for a step that has had too many, or too many groups in them.
    pub(super) fn number(&mut self, credentials: Credentials) -> Result<u64, Errno> {
        if let Some(&number) = self.numbers.get(&credentials) {
            return Ok(number);
        }
        let groups = self.groups + credentials.groups.len();
        if self.list.len() >= CREDENTIALS_MAX || groups > ALL_GROUPS_MAX {
            return Err(Errno::NOMEM);
        }
        self.groups = groups;
        let number = self.list.len() as u64;
        self.list.push(credentials.clone());
        self.numbers.insert(credentials, number);
        Ok(number)
    }

    /// The credentials with a number. One that was never given out (a process that changed the
    /// limit behind our back) counts as the first, which the step started with.
    pub(super) fn get(&self, number: u64) -> Option<&Credentials> {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.list.get(number))
            .or(self.list.first())
    }
}

/// The kernel keeps them in this order, and `getgroups` tells them so.
fn sorted(mut groups: Vec<u32>) -> Vec<u32> {
    groups.sort_unstable();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        Credentials::new(&crate::spec::Credentials {
            uid,
            gid: uid,
            groups: vec![uid],
        })
    }

    #[test]
    fn groups_are_in_the_order_of_their_numbers() {
        let root = user(0);
        let new = root.set_groups(vec![1001, 50, 2000, 50]).unwrap();
        assert_eq!(new.groups, [50, 50, 1001, 2000]);
    }

    #[test]
    fn root_becomes_a_user_for_good() {
        let new = user(0).set_user(1000).unwrap();
        assert_eq!(new.user, Ids::all(1000));
        assert_eq!(new.caps.permitted, 0);
        assert_eq!(new.set_user(0), Err(Errno::PERM));
        assert_eq!(new.set_group(5), Err(Errno::PERM));
        assert_eq!(new.set_groups(vec![]), Err(Errno::PERM));
    }

    #[test]
    fn effective_id_can_be_lent_and_taken_back() {
        let lent = user(0).set_users(KEEP, 33).unwrap();
        assert_eq!(lent.user.effective, 33);
        assert!(!lent.can(caps::SETUID));
        let back = lent.set_users(KEEP, 0).unwrap();
        let ids = Ids {
            saved: 33,
            ..Ids::all(0)
        };
        assert_eq!(back.user, ids);
        assert!(back.can(caps::SETUID));
    }

    #[test]
    fn saved_id_follows_setreuid_as_in_the_manual() {
        // "If the real user ID is set or the effective user ID is set to a value not equal to
        // the previous real user ID, the saved set-user-ID will be set to the new effective."
        let ids = Ids::all(0);
        assert_eq!(ids.set_two(KEEP, 0, true).unwrap().saved, 0);
        assert_eq!(ids.set_two(KEEP, 7, true).unwrap().saved, 7);
        let only = Ids {
            real: 1,
            effective: 2,
            saved: 3,
            fs: 2,
        };
        assert_eq!(only.set_two(KEEP, 1, false).unwrap().saved, 3);
        assert_eq!(only.set_two(2, 1, false).unwrap().saved, 1);
        assert_eq!(only.set_two(3, KEEP, false), Err(Errno::PERM));
    }

    #[test]
    fn unprivileged_ids_move_among_the_three() {
        let ids = Ids {
            real: 1,
            effective: 2,
            saved: 3,
            fs: 2,
        };
        assert_eq!(ids.set(3, false).unwrap().effective, 3);
        assert_eq!(ids.set(2, false), Err(Errno::PERM));
        assert_eq!(ids.set_three([3, 1, KEEP], false).unwrap().real, 3);
        assert_eq!(ids.set_three([KEEP, 4, KEEP], false), Err(Errno::PERM));
        assert_eq!(ids.set(KEEP, true), Err(Errno::INVAL));
    }

    #[test]
    fn kept_capabilities_survive_the_change_but_are_not_effective() {
        let mut root = user(0);
        root.keep_caps = true;
        let new = root.set_all_users([5, 5, 5]).unwrap();
        assert_eq!(new.caps.permitted, caps::DOCKER_DEFAULT);
        assert_eq!(new.caps.effective, 0);
        let raised = Capabilities {
            effective: 1 << caps::SETUID,
            ..new.caps
        };
        assert!(new.set_caps(raised).unwrap().can(caps::SETUID));
        assert!(
            !new.set_caps(raised)
                .unwrap()
                .execute(None, None)
                .can(caps::SETUID)
        );
    }

    #[test]
    fn capabilities_are_never_gained() {
        let all = Capabilities::of_root();
        assert_eq!(user(5).set_caps(all), Err(Errno::PERM));
        let too_effective = Capabilities {
            permitted: 0,
            ..all
        };
        assert_eq!(user(0).set_caps(too_effective), Err(Errno::PERM));
    }

    #[test]
    fn setuid_program_gives_its_owners_rights() {
        let new = user(1000).execute(Some(0), None);
        assert_eq!(
            (new.user.real, new.user.effective, new.user.saved),
            (1000, 0, 0)
        );
        assert!(new.can(caps::SETUID));
        let mailer = user(1000).execute(None, Some(8));
        assert_eq!(mailer.group.fs, 8);
        assert!(!mailer.can(caps::SETUID));
        assert_eq!(user(0).execute(None, None), user(0));
    }

    #[test]
    fn table_gives_equal_credentials_one_number() {
        let mut table = Table::default();
        assert_eq!(table.number(user(0)), Ok(0));
        assert_eq!(table.number(user(1)), Ok(1));
        assert_eq!(table.number(user(0)), Ok(0));
        assert_eq!(table.get(1), Some(&user(1)));
        assert_eq!(table.get(u64::MAX), Some(&user(0)));
    }
    #[test]
    fn table_is_bounded() {
        let mut table = Table::default();
        let many = |first: u32| Credentials {
            groups: (first..first + 65_536).collect(),
            ..user(0)
        };
        for n in 0..16 {
            assert_eq!(table.number(many(n)), Ok(u64::from(n)));
        }
        assert_eq!(table.number(many(16)), Err(Errno::NOMEM));
        assert_eq!(table.number(many(3)), Ok(3));
    }
}
