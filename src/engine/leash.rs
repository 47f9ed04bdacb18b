//! Helper programs outside of any pid namespace, which end when this process does, however that
//! ends. A second process of this program holds the leash: the kernel tells it that its parent is
//! gone, and it kills the helper and all that it has started.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::process::{Pid, Signal};

/// First argument of the process with the leash.
pub(crate) const ARGUMENT: &str = "__layercake-leash";
/// What a shell says of a program that SIGTERM ended.
const TERMINATED: u8 = 128 + 15;
/// Likewise, of one that cannot be run.
const CANNOT_RUN: u8 = 126;

/// A command that runs `program`. Its process must be stopped with [`stop`], and the thread that
/// spawns it must stay until it has ended.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(ARGUMENT)
        .arg(std::process::id().to_string())
        .arg(program)
        .process_group(0);
    command
}

/// A program in `PATH`, by an absolute path: it is run in other directories.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).map(|directory| directory.join(program));
    std::path::absolute(found.find(|path| path.is_file())?).ok()
}

/// Ends the process of a [`command`] and all that it has started.
pub(crate) fn stop(child: u32) {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

/// The process with the leash: `args` are those after [`ARGUMENT`]. Returns the exit code of the
/// program, or 128 plus the signal that ended it.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> u8 {
    let parent = args
        .next()
        .and_then(|text| Pid::from_raw(text.to_str()?.parse().ok()?));
    let (Some(parent), Some(program)) = (parent, args.next()) else {
        return CANNOT_RUN;
    };
    let mut command = Command::new(program);
    command.args(args).process_group(0);
    hold(parent, command).unwrap_or(CANNOT_RUN)
}

fn hold(parent: Pid, mut command: Command) -> io::Result<u8> {
    // Waited for below; the child starts with none blocked.
    let mut signals = SigSet::empty();
    signals.add(NixSignal::SIGTERM);
    signals.add(NixSignal::SIGCHLD);
    signals.thread_block()?;
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have died before.
    if rustix::process::getppid() != Some(parent) {
        return Ok(TERMINATED);
    }
    let mut child = command.spawn()?;
    loop {
        if signals.wait()? == NixSignal::SIGTERM {
            kill_all(&mut child);
            return Ok(TERMINATED);
        }
        if let Some(status) = child.try_wait()? {
            let signal = status.signal().unwrap_or(0);
            let code = status.code().unwrap_or(128 + signal);
            return Ok(u8::try_from(code).unwrap_or(TERMINATED));
        }
    }
}

fn kill_all(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Not waited for yet, so the number is still its own.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}
