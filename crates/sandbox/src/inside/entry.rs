//! Processes C and W: the way in.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Gid, Pid, PidfdFlags, Uid, WaitOptions, WaitStatus, pidfd_open,
};

use super::forward;
use super::wire::{self, Message};
use super::{ARGUMENT, AUTOMATIC, Inside, Isolation};
use crate::error::{EnterStep, Error};
use crate::spec::Processes;
use crate::{caps, child, chroot, idmap, sys};

/// Enters the namespaces if `argv` (all arguments, program name first) says so: to be called
/// first thing in `main`, before any thread exists.
///
/// Gives SIGCHLD its default action, without which nothing here could wait for a child.
///
/// Returns `None` in an ordinary start of the program. In a start by [`super::Launcher`] it
/// returns in process 1 of new pid and mount namespaces, in which this process is root; the
/// process that waits for it outside never returns from here.
///
/// # Errors
/// When the program was started as if by a launcher, but was not. Everything else that fails is
/// reported by the launcher, and the process ends here.
pub fn enter(argv: impl IntoIterator<Item = OsString>) -> Result<Option<Inside>, Error> {
    sys::reset_child_signal();
    let mut argv = argv.into_iter().skip(1).peekable();
    if argv.next_if(|argument| argument == ARGUMENT).is_none() {
        return Ok(None);
    }
    let parent = argv
        .next()
        .as_deref()
        .and_then(OsStr::to_str)
        .and_then(|pid| pid.parse().ok());
    let parent = parent.and_then(Pid::from_raw).ok_or(Error::Handshake)?;
    let word = argv.next().ok_or(Error::Handshake)?;
    let wanted = match word.to_str() {
        Some(AUTOMATIC) => automatic(),
        Some(name) => Isolation::from_name(name).ok_or(Error::Handshake)?,
        None => return Err(Error::Handshake),
    };
    let word = argv.next().ok_or(Error::Handshake)?;
    let processes = word.to_str().and_then(Processes::from_name);
    let processes = match (wanted, processes.ok_or(Error::Handshake)?) {
        (Isolation::Chroot, _) => Processes::Host,
        (_, processes) => processes,
    };
    let socket = take_socket().map_err(|_| Error::Handshake)?;
    match enter_namespaces(&socket, parent, (wanted, processes)) {
        Ok(Some((fds, isolation))) => {
            let (uids, gids) = (count_ids("uid_map"), count_ids("gid_map"));
            let isolation = match isolation {
                // Root of an outer user namespace may have no more than that either.
                Isolation::UserNamespace | Isolation::Root if uids.min(gids) == 1 => {
                    Isolation::SingleId
                }
                other => other,
            };
            Ok(Some(Inside {
                args: argv.collect(),
                fds,
                isolation,
                processes,
                uids,
                gids,
            }))
        }
        // The launcher is gone: nobody is left to be told.
        Ok(None) => sys::exit(1),
        Err(message) => {
            let _ = wire::send(socket.as_fd(), message, &[]);
            sys::exit(1)
        }
    }
}

/// Turns an error of a step into the message that tells the launcher.
fn at(step: EnterStep) -> impl Fn(io::Error) -> Message {
    move |error| Message::Failed {
        step,
        errno: error.raw_os_error().unwrap_or(0),
    }
}

/// The socket to the launcher arrives as standard input, which becomes empty.
fn take_socket() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::net::sockopt::socket_type(&socket)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

type Entered = Option<(Vec<OwnedFd>, Isolation)>;

fn enter_namespaces(
    socket: &OwnedFd,
    parent: Pid,
    (isolation, processes): (Isolation, Processes),
) -> Result<Entered, Message> {
    die_with_parent().map_err(at(EnterStep::ParentDeathSignal))?;
    if rustix::process::getppid() != Some(parent) {
        return Ok(None);
    }
    let started = wire::receive(socket).map_err(at(EnterStep::Descriptors))?;
    let Some((Message::Start, fds)) = started else {
        return Ok(None);
    };

    unshare(isolation, processes)?;
    let needs_map = matches!(isolation, Isolation::UserNamespace | Isolation::SingleId);
    let report = |message| wire::send(socket.as_fd(), message, &[]);
    report(Message::Unshared { needs_map }).map_err(at(EnterStep::Descriptors))?;
    let mapped = wire::receive(socket).map_err(at(EnterStep::Descriptors))?;
    let Some((Message::Mapped, _)) = mapped else {
        return Ok(None);
    };

    become_root().map_err(at(EnterStep::Credentials))?;
    // The change of credentials cleared it.
    die_with_parent().map_err(at(EnterStep::ParentDeathSignal))?;
    if rustix::process::getppid() != Some(parent) {
        return Ok(None);
    }
    if processes == Processes::Host {
        // What a step leaves running must not get away to the outer process 1.
        adopt_orphans().map_err(at(EnterStep::Fork))?;
        // A is gone: no namespace ends with this process, so W is asked to stop, and what is left
        // is killed after it.
        let term = rustix::process::Signal::TERM;
        rustix::process::set_parent_process_death_signal(Some(term))
            .map_err(|errno| at(EnterStep::ParentDeathSignal)(errno.into()))?;
    }
    if isolation != Isolation::Chroot {
        child::make_private(c"/").map_err(|errno| at(EnterStep::PrivateMounts)(errno.into()))?;
    }
    match fork_init(processes).map_err(at(EnterStep::Fork))? {
        Forked::Init { parent_lives: true } => {}
        Forked::Init {
            parent_lives: false,
        } => return Ok(None),
        Forked::Waiter(waiter) => {
            // Else pipes and sockets meant for W would stay open here.
            drop(fds);
            let code = waiter.wait();
            if processes == Processes::Host {
                // W does so after every step; this is for a W that was killed.
                let _ = chroot::kill_descendants();
            }
            sys::exit(code)
        }
    }
    if isolation == Isolation::Chroot {
        adopt_orphans().map_err(at(EnterStep::Fork))?;
    }
    report(Message::Ready).map_err(at(EnterStep::Fork))?;
    Ok(Some((fds, isolation)))
}

fn die_with_parent() -> io::Result<()> {
    let kill = rustix::process::Signal::KILL;
    Ok(rustix::process::set_parent_process_death_signal(Some(
        kill,
    ))?)
}

/// Root that may mount needs no user namespace; everybody else gets one.
fn automatic() -> Isolation {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective.bits());
    let may_mount = effective.unwrap_or(0) & (1 << caps::SYS_ADMIN) != 0;
    if rustix::process::geteuid().is_root() && may_mount {
        Isolation::Root
    } else {
        Isolation::UserNamespace
    }
}

fn unshare(isolation: Isolation, processes: Processes) -> Result<(), Message> {
    let flags = match processes {
        Processes::Own => libc::CLONE_NEWNS | libc::CLONE_NEWPID,
        Processes::Host => libc::CLONE_NEWNS,
    };
    let flags = match isolation {
        Isolation::UserNamespace | Isolation::SingleId => flags | libc::CLONE_NEWUSER,
        Isolation::Root => flags,
        Isolation::Chroot => return Ok(()),
    };
    sys::unshare(flags).map_err(|errno| Message::UnshareFailed {
        user_namespace: flags & libc::CLONE_NEWUSER != 0,
        errno: errno.raw_os_error(),
    })
}

fn adopt_orphans() -> io::Result<()> {
    let own = rustix::process::getpid();
    Ok(rustix::process::set_child_subreaper(Some(own))?)
}

/// Ids 0, no supplementary groups. This process has one thread, so the calls that change a thread
/// change all of it.
fn become_root() -> io::Result<()> {
    match rustix::thread::set_thread_groups(&[]) {
        // A namespace that was made without privileges keeps the groups of its maker.
        Err(Errno::PERM) if may_not_set_groups() => {}
        result => result?,
    }
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // The change made /proc/self belong to the host's root, out of reach.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    Ok(())
}

fn may_not_set_groups() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

/// Who returns from the fork.
enum Forked {
    /// W, process 1 of the new pid namespace if there is one.
    Init { parent_lives: bool },
    /// C.
    Waiter(Waiter),
}

/// C's last task.
struct Waiter {
    init: Pid,
    signals: SigSet,
    /// Its end tells W that C is gone.
    _alive: OwnedFd,
}

/// Forks process 1 of the new pid namespace, if there is one.
fn fork_init(processes: Processes) -> io::Result<Forked> {
    // Hung up when C is gone: how W finds out that C died before the death signal was set. In
    // its pid namespace the parent is 0, alive or not.
    let (reader, alive) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut signals = forward::signals();
    if processes == Processes::Host {
        // Of orphans of steps.
        signals.add(nix::sys::signal::Signal::SIGCHLD);
    }
    // Before the fork, so that no signal gets lost.
    let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    if let Some(init) = sys::fork()? {
        return Ok(Forked::Waiter(Waiter {
            init,
            signals,
            _alive: alive,
        }));
    }
    drop(alive);
    die_with_parent()?;
    before.thread_set_mask()?;
    let mut fds = [PollFd::new(&reader, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(Forked::Init {
        parent_lives: poll(&mut fds, Some(&now))? == 0,
    })
}

impl Waiter {
    /// Passes signals on to W until it ends; returns W's exit code, or 128 plus the signal.
    fn wait(self) -> i32 {
        let mut ended = None;
        let reap = || ended = ended.or_else(|| reap_children(self.init));
        let followed = pidfd_open(self.init, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| forward::until_end(pidfd.as_fd(), &self.signals, reap));
        // Without it no signal can be passed on, but the wait below works.
        drop(followed);
        if let Some(status) = ended {
            return exit_code(status);
        }
        match rustix::process::waitpid(Some(self.init), WaitOptions::empty()) {
            Ok(Some((_, status))) => exit_code(status),
            Ok(None) | Err(_) => 1,
        }
    }
}

/// Reaps all children that have ended; the status of `init` if it is among them.
fn reap_children(init: Pid) -> Option<WaitStatus> {
    let mut found = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == init => found = Some(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return found,
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    }
}

/// How many ids from 0 on are mapped.
fn count_ids(file: &str) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let mut lines = idmap::parse_kernel_map(&text);
    lines.sort_unstable();
    let mut next = 0_u32;
    for [inside, _, count] in lines {
        if inside != next {
            break;
        }
        next = next.saturating_add(count);
    }
    next
}
