//! Who a process is: `get*id`, `set*id`, capabilities, set-id programs.

use rustix::fs::{CWD as HERE, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::answer::{Answer, CONTINUE, Session};
use super::calls::Call;
use super::credentials::{Capabilities, Credentials, GROUPS_MAX, KEEP};
use super::files::CWD;
use super::place::Place;
use crate::sys::notify::{self, Notification};

/// `_LINUX_CAPABILITY_VERSION_3` of include/uapi/linux/capability.h: two words per set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// An `rlimit64` without limits.
const UNLIMITED: [u8; 16] = [0xff; 16];

/// The low half of an argument as a signed number sees its own kind: an id.
fn id(argument: u64) -> u32 {
    argument as u32
}

impl Session {
    pub(super) fn identity(&mut self, n: &Notification, call: Call) -> Answer {
        let old = self.credentials(n);
        match call {
            Call::Getuid => Answer::value(old.user.real),
            Call::Geteuid => Answer::value(old.user.effective),
            Call::Getgid => Answer::value(old.group.real),
            Call::Getegid => Answer::value(old.group.effective),
            Call::Getresuid => Answer::done(self.give_three(n, old.user)),
            Call::Getresgid => Answer::done(self.give_three(n, old.group)),
            Call::Getgroups => self
                .get_groups(n, &old)
                .unwrap_or_else(|e| Answer::done(Err(e))),
            Call::Capget => self.get_caps(n, &old).unwrap_or(CONTINUE),
            Call::Getsockopt => self.peer(n).unwrap_or(CONTINUE),
            Call::Prctl if n.args[0] as i32 == libc::PR_GET_KEEPCAPS => {
                Answer::value(i64::from(old.keep_caps))
            }
            Call::Getrlimit => Answer::done(self.write(n, n.args[1], &UNLIMITED)),
            Call::Prlimit if n.args[3] == 0 => Answer::value(0),
            Call::Prlimit => Answer::done(self.write(n, n.args[3], &UNLIMITED)),
            _ => self
                .change(n, call, &old)
                .unwrap_or_else(|e| Answer::done(Err(e))),
        }
    }

    fn change(&mut self, n: &Notification, call: Call, old: &Credentials) -> Result<Answer, Errno> {
        let [a, b, c, ..] = n.args.map(id);
        let mut answer = Answer::value(0);
        let new = match call {
            Call::Setuid => old.set_user(a)?,
            Call::Setreuid => old.set_users(a, b)?,
            Call::Setresuid => old.set_all_users([a, b, c])?,
            Call::Setgid => old.set_group(a)?,
            Call::Setregid => old.set_two_groups(a, b)?,
            Call::Setresgid => old.set_all_groups([a, b, c])?,
            Call::Setfsuid => {
                answer = Answer::value(old.user.fs);
                old.set_fs_user(a)
            }
            Call::Setfsgid => {
                answer = Answer::value(old.group.fs);
                old.set_fs_group(a)
            }
            Call::Setgroups => old.set_groups(self.read_groups(n)?)?,
            Call::Capset => match self.read_caps(n)? {
                Some(caps) => old.set_caps(caps)?,
                None => return Ok(CONTINUE),
            },
            Call::Prctl => match n.args[1] {
                keep @ (0 | 1) => Credentials {
                    keep_caps: keep == 1,
                    ..old.clone()
                },
                _ => return Err(Errno::INVAL),
            },
            _ => return Ok(CONTINUE),
        };
        self.set_credentials(n, new)?;
        Ok(answer)
    }

    fn give_three(&self, n: &Notification, ids: super::credentials::Ids) -> Result<(), Errno> {
        for (address, id) in n.args.into_iter().zip([ids.real, ids.effective, ids.saved]) {
            self.write(n, address, &id.to_ne_bytes())?;
        }
        Ok(())
    }

    fn get_groups(&self, n: &Notification, old: &Credentials) -> Result<Answer, Errno> {
        let room = n.args[0] as i32;
        let count = old.groups.len();
        if room != 0 {
            if usize::try_from(room).map_err(|_| Errno::INVAL)? < count {
                return Err(Errno::INVAL);
            }
            let bytes: Vec<u8> = old.groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
            if !bytes.is_empty() {
                self.write(n, n.args[1], &bytes)?;
            }
        }
        Ok(Answer::value(count as i64))
    }

    fn read_groups(&self, n: &Notification) -> Result<Vec<u32>, Errno> {
        let count = usize::try_from(n.args[0] as i32).map_err(|_| Errno::INVAL)?;
        if count > GROUPS_MAX {
            return Err(Errno::INVAL);
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.read(n, n.args[1], count * 4)?;
        let mut groups: Vec<u32> = words(&bytes);
        if groups.contains(&KEEP) {
            return Err(Errno::INVAL);
        }
        // The kernel sorts them.
        groups.sort_unstable();
        Ok(groups)
    }

    /// Sets of version 3; older versions are left to the kernel, which knows what to say.
    fn read_caps(&self, n: &Notification) -> Result<Option<Capabilities>, Errno> {
        let header = words(&self.read(n, n.args[0], 8)?);
        if header.first() != Some(&CAPABILITY_VERSION) {
            return Ok(None);
        }
        let data = words(&self.read(n, n.args[1], 24)?);
        let [e0, p0, i0, e1, p1, i1] = data.as_slice() else {
            return Err(Errno::FAULT);
        };
        let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        Ok(Some(Capabilities {
            effective: join(*e0, *e1),
            permitted: join(*p0, *p1),
            inheritable: join(*i0, *i1),
        }))
    }

    /// Answers for the caller whatever process it names: there are hardly others to ask about.
    fn get_caps(&self, n: &Notification, old: &Credentials) -> Result<Answer, Errno> {
        let header = words(&self.read(n, n.args[0], 8)?);
        if header.first() != Some(&CAPABILITY_VERSION) || n.args[1] == 0 {
            return Ok(CONTINUE);
        }
        let caps = old.caps;
        let sets = [caps.effective, caps.permitted, caps.inheritable];
        let halves = [0, 32]
            .into_iter()
            .flat_map(|shift| sets.map(|set| (set >> shift) as u32));
        let bytes: Vec<u8> = halves.flat_map(u32::to_ne_bytes).collect();
        self.write(n, n.args[1], &bytes)?;
        Ok(Answer::value(0))
    }

    /// `SO_PEERCRED`: the kernel says who is at the other end, the table says who that believes to
    /// be.
    fn peer(&self, n: &Notification) -> Result<Answer, Errno> {
        const SIZE: u32 = 12;
        let [fd, level, _, value, length, _] = n.args;
        if level as i32 != libc::SOL_SOCKET {
            return Ok(CONTINUE);
        }
        let room = words(&self.read(n, length, 4)?);
        if room.first().is_none_or(|room| *room < SIZE) {
            return Ok(CONTINUE);
        }
        let process = self.status(n, "Tgid")?.parse();
        let process = process.map_err(|_| Errno::SRCH)?;
        let socket = notify::take_descriptor(process, fd as i32)?;
        let peer = notify::peer(&socket)?;
        let number = notify::limit_of(peer, super::LIMIT)?.0;
        let credentials = self.table.get(number).ok_or(Errno::SRCH)?;
        // The number of the process in the caller's own namespace is known to the kernel alone:
        // let it fill the buffer, and only where that would be wrong fill it here.
        if credentials.user.effective == 0 && credentials.group.effective == 0 {
            return Ok(CONTINUE);
        }
        let inner = self.inner_number(peer)?;
        let ids = [
            inner,
            credentials.user.effective,
            credentials.group.effective,
        ];
        let bytes: Vec<u8> = ids.into_iter().flat_map(u32::to_ne_bytes).collect();
        self.write(n, value, &bytes)?;
        self.write(n, length, &SIZE.to_ne_bytes())?;
        Ok(Answer::value(0))
    }

    /// The number of a process in the pid namespace of the step.
    fn inner_number(&self, process: u32) -> Result<u32, Errno> {
        let numbers = self.status_of(process, "NSpid")?;
        let last = numbers.split_ascii_whitespace().last();
        last.and_then(|number| number.parse().ok())
            .ok_or(Errno::SRCH)
    }

    /// A field of the caller's /proc/PID/status.
    pub(super) fn status(&self, n: &Notification, field: &str) -> Result<String, Errno> {
        self.status_of(n.thread, field)
    }

    fn status_of(&self, process: u32, field: &str) -> Result<String, Errno> {
        let path = format!("{process}/status");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.proc, path, flags, Mode::empty())?;
        let mut text = [0_u8; 4096];
        let length = rustix::io::read(&file, &mut text)?;
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
        let value = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == field).then(|| value.trim().to_owned())
        });
        value.ok_or(Errno::NOENT)
    }

    /// Changes the credentials before the kernel executes the file, if it is going to.
    pub(super) fn execute(&mut self, n: &Notification, call: Call) -> Answer {
        let [a, b, _, _, e, _] = n.args;
        let place = match call {
            Call::Execve => self.place(n, CWD, a, false),
            _ => self.place(n, a, b, e as i32 & libc::AT_EMPTY_PATH != 0),
        };
        // If it fails here it fails in the kernel.
        if let Ok(place) = place.and_then(|place| self.pin(place, true)) {
            let _ = self.execute_at(n, &place);
        }
        CONTINUE
    }

    fn execute_at(&mut self, n: &Notification, place: &Place) -> Result<(), Errno> {
        let file = self.look(place, true)?;
        let mode = u32::from(file.stx_mode);
        if FileType::from_raw_mode(mode) != FileType::RegularFile || mode & 0o111 == 0 {
            return Ok(());
        }
        let old = self.credentials(n);
        let (mut user, mut group) = (None, None);
        if mode & (libc::S_ISUID | libc::S_ISGID) != 0 && self.honours_set_id(n, place)? {
            let owner = self.book.owner(&place.path, true);
            user = (mode & libc::S_ISUID != 0).then_some(owner.0);
            // Without the right to execute for the group the bit means something else.
            group = (mode & libc::S_ISGID != 0 && mode & 0o010 != 0).then_some(owner.1);
        }
        let new = old.execute(user, group);
        if new == old {
            return Ok(());
        }
        self.set_credentials(n, new)
    }

    /// Set-id bits of scripts mean nothing, nor do those that a process with `no_new_privs` sees.
    fn honours_set_id(&self, n: &Notification, place: &Place) -> Result<bool, Errno> {
        let file = rustix::fs::openat(
            HERE,
            &place.path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        )?;
        let mut start = [0_u8; 2];
        let length = rustix::io::read(&file, &mut start)?;
        if length == 2 && &start == b"#!" {
            return Ok(false);
        }
        Ok(self.status(n, "NoNewPrivs")? == "0")
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}
