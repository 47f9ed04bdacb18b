//! Subordinate ids: which ones the user has, and giving them to a user namespace.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::Error;

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";
const NEWUIDMAP: &str = "newuidmap";
const NEWGIDMAP: &str = "newgidmap";

/// The kernel takes at most this many lines in one map (`UID_GID_MAP_MAX_EXTENTS`); one is the
/// user's own id.
const RANGES_MAX: usize = 339;

/// Consecutive ids outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

impl Range {
    fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.count)
    }

    fn overlaps(self, other: Self) -> bool {
        u64::from(self.start) < other.end() && u64::from(other.start) < self.end()
    }
}

/// The ranges of a user in the text of /etc/subuid or /etc/subgid: lines
/// `name-or-uid:start:count` (subuid(5)), in order. Lines that do not parse, belong to another user
/// or overlap an earlier range are passed over, as newuidmap does.
pub(crate) fn parse(text: &str, user: &str, uid: u32) -> Vec<Range> {
    let uid = uid.to_string();
    let mut ranges: Vec<Range> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(':').map(str::trim);
        let (Some(owner), Some(start), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (Ok(start), Ok(count)) = (start.parse(), count.parse()) else {
            continue;
        };
        let range = Range { start, count };
        let is_own = (owner == user && !user.is_empty()) || owner == uid;
        let is_sound = count > 0 && range.end() <= u64::from(u32::MAX);
        let is_new = !ranges.iter().any(|earlier| earlier.overlaps(range));
        if is_own && is_sound && is_new && ranges.len() < RANGES_MAX {
            ranges.push(range);
        }
    }
    ranges
}

/// The lines of a map as arguments: 0 inside is `own` outside, and the ranges follow from 1 on.
pub(crate) fn map_lines(own: u32, ranges: &[Range]) -> Vec<[u32; 3]> {
    let mut lines = vec![[0, own, 1]];
    let mut next = 1_u32;
    for range in ranges {
        // Where the ids of the namespace end, the rest of the ranges is of no use.
        let count = range.count.min(u32::MAX - 1 - next);
        // The own id cannot be mapped twice.
        if count == 0
            || range.overlaps(Range {
                start: own,
                count: 1,
            })
        {
            continue;
        }
        lines.push([next, range.start, count]);
        next += count;
    }
    lines
}

/// Maps the ids of the user namespace of process `pid`, a child of this process.
///
/// # Errors
/// One variant per thing that can be missing, each with a remedy.
pub(crate) fn map(pid: u32) -> Result<(), Error> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    if uid == 0 {
        // Root in an outer container may map everything it has, and needs no helper.
        return map_own(pid).map_err(|source| Error::WriteMap { source });
    }
    let user = user_name(uid);
    let uid_lines = map_lines(uid, &ranges(SUBUID, &user, uid)?);
    let gid_lines = map_lines(gid, &ranges(SUBGID, &user, uid)?);
    // In parallel: each takes about 1 ms, nearly all of it its own start.
    let uids = start_helper(NEWUIDMAP, pid, &uid_lines)?;
    let gids = start_helper(NEWGIDMAP, pid, &gid_lines);
    let uids = finish_helper(NEWUIDMAP, uids);
    let gids = gids.and_then(|helper| finish_helper(NEWGIDMAP, helper));
    uids.and(gids)
}

/// The ranges of a user in a file; at least one.
pub(crate) fn ranges(path: &str, user: &str, uid: u32) -> Result<Vec<Range>, Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            return Err(Error::SubordinateFile {
                path: path.into(),
                source,
            });
        }
    };
    let ranges = parse(&String::from_utf8_lossy(&text), user, uid);
    if ranges.is_empty() {
        return Err(Error::NoSubordinateIds {
            user: user.to_owned(),
            path: path.into(),
        });
    }
    Ok(ranges)
}

/// The count of user and of group ids that a mapping by helpers would have.
///
/// # Errors
/// As [`map`] when a range is missing.
pub(crate) fn available() -> Result<(u64, u64), Error> {
    let uid = rustix::process::geteuid().as_raw();
    let user = user_name(uid);
    let total = |ranges: Vec<Range>| 1 + ranges.iter().map(|r| u64::from(r.count)).sum::<u64>();
    Ok((
        total(ranges(SUBUID, &user, uid)?),
        total(ranges(SUBGID, &user, uid)?),
    ))
}

/// Writes maps that give the namespace every id this process has, under the same numbers. Each
/// line lies inside one line of our own map, as the kernel demands.
fn map_own(pid: u32) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        let own = std::fs::read_to_string(format!("/proc/self/{file}"))?;
        let lines: String = parse_kernel_map(&own)
            .into_iter()
            .map(|[inside, _, count]| format!("{inside} {inside} {count}\n"))
            .collect();
        std::fs::write(format!("/proc/{pid}/{file}"), lines)?;
    }
    Ok(())
}

/// Maps 0 to the own id and nothing else, which every user may do (user_namespaces(7)): for that the
/// namespace gives up setting groups for good.
pub(crate) fn map_single(pid: u32) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("0 {uid} 1\n"))?;
    std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("0 {gid} 1\n"))
}

/// The text of /proc/PID/uid_map: inside, outside, count.
pub(crate) fn parse_kernel_map(text: &str) -> Vec<[u32; 3]> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) => {
                    Some([inside, outside, count])
                }
                _ => None,
            }
        })
        .collect()
}

fn start_helper(program: &'static str, pid: u32, lines: &[[u32; 3]]) -> Result<Child, Error> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    command.args(lines.iter().flatten().map(u32::to_string));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::HelperMissing { program },
        _ => Error::Spawn {
            program: program.to_owned(),
            source,
        },
    })
}

fn finish_helper(program: &'static str, helper: Child) -> Result<(), Error> {
    let output = helper.wait_with_output().map_err(|source| Error::Spawn {
        program: program.to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    if let Some(path) = find_program(program).filter(|path| !may_change_ids(path)) {
        return Err(Error::HelperNotSetuid { path });
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::HelperFailed {
        program,
        status: output.status,
        message,
    })
}

/// Where a program is, as an exec would find it.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH");
    let path = path.as_deref().unwrap_or(OsStr::new("/usr/bin:/bin"));
    std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Whether a program is setuid or has file capabilities (both are in use for newuidmap).
pub(crate) fn may_change_ids(path: &Path) -> bool {
    let is_setuid =
        std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o4000 != 0);
    is_setuid || rustix::fs::getxattr(path, "security.capability", &mut [0_u8; 64]).is_ok()
}

/// The name of a user. Read from /etc/passwd, not asked of the C library: a static program has no
/// name service modules. Other sources are asked through `id`. Empty when nobody knows.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    if let Some(name) = name_in_passwd(&String::from_utf8_lossy(&passwd), uid) {
        return name.to_owned();
    }
    let id = Command::new("id")
        .args(["-un", "--"])
        .arg(uid.to_string())
        .stdin(Stdio::null())
        .output();
    match id {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => uid.to_string(),
    }
}

fn name_in_passwd(passwd: &str, uid: u32) -> Option<&str> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u32, count: u32) -> Range {
        Range { start, count }
    }

    #[test]
    fn subuid_lines_match_by_name_or_uid() {
        let text = "root:1:1\nme:100000:65536\n1001:300000:10\nyou:5:5\n";
        assert_eq!(
            parse(text, "me", 1001),
            [range(100_000, 65_536), range(300_000, 10)]
        );
        assert_eq!(parse(text, "nobody", 9), []);
    }

    #[test]
    fn subuid_lines_that_cannot_be_used_are_passed_over() {
        let cases = [
            "me:100000",
            "me:100000:65536:1",
            "me:-1:5",
            "me:100000:0",
            "me:4294967290:10",
            "# me:1:1",
            "me:x:1",
        ];
        for text in cases {
            assert_eq!(parse(text, "me", 1001), [], "{text}");
        }
        let overlapping = "me:100:10\nme:105:10\nme:110:10\n";
        assert_eq!(
            parse(overlapping, "me", 1001),
            [range(100, 10), range(110, 10)]
        );
    }

    #[test]
    fn map_starts_with_the_own_id_and_continues_without_gaps() {
        let lines = map_lines(1001, &[range(100_000, 65_536), range(300_000, 10)]);
        assert_eq!(
            lines,
            [[0, 1001, 1], [1, 100_000, 65_536], [65_537, 300_000, 10]]
        );
    }

    #[test]
    fn map_never_has_an_id_twice() {
        assert_eq!(
            map_lines(105, &[range(100, 10), range(200, 5)]),
            [[0, 105, 1], [1, 200, 5]]
        );
    }

    #[test]
    fn map_stops_at_the_last_id() {
        let lines = map_lines(7, &[range(10, u32::MAX - 20), range(u32::MAX - 5, 4)]);
        let last = lines.last().copied().unwrap();
        assert!(u64::from(last[0]) + u64::from(last[2]) < u64::from(u32::MAX));
    }

    #[test]
    fn kernel_map_is_read() {
        let text = "         0       1001          1\n         1     100000      65536\n";
        assert_eq!(parse_kernel_map(text), [[0, 1001, 1], [1, 100_000, 65_536]]);
    }

    #[test]
    fn passwd_gives_the_name() {
        let passwd = "root:x:0:0::/:/bin/sh\nlc1:x:1001:1001::/home/lc1:/bin/sh\n";
        assert_eq!(name_in_passwd(passwd, 1001), Some("lc1"));
        assert_eq!(name_in_passwd(passwd, 1002), None);
    }
}
