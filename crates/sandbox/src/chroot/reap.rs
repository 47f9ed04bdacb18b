//! Finding and killing what a step left running.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// A killed process may take this long to go (a slow disk); then it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills every descendant of this process, which must adopt orphans (`PR_SET_CHILD_SUBREAPER`), and
/// waits for their end. The caller has no other children.
///
/// # Errors
/// When one does not end within a minute.
pub(crate) fn kill_descendants() -> io::Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => continue,
            Err(Errno::CHILD) => return Ok(()),
            Err(errno) => return Err(errno.into()),
            Ok(None) => {}
        }
        // Again each time: one may have forked before it was killed.
        for pid in descendants()? {
            // It may be gone already.
            let _ = kill_process(pid, Signal::KILL);
        }
        if started.elapsed() > PATIENCE {
            let message = "a process that the step left running cannot be killed";
            return Err(io::Error::other(message));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// All processes below this one, as /proc shows them now.
fn descendants() -> io::Result<Vec<Pid>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = parent_of(&entry.path()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut pending = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(pid) = pending.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.extend(Pid::from_raw(child));
            pending.push(child);
        }
    }
    Ok(found)
}

/// The fourth field of /proc/PID/stat; the second, a name in parentheses, may hold anything.
fn parent_of(process: &std::path::Path) -> Option<i32> {
    let stat = std::fs::read(process.join("stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
