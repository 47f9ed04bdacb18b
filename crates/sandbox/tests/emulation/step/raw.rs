//! System calls without the C library (rustix makes them itself): from a process that shares the
//! memory of its parent, and from threads that do not agree with each other on who they are.
#![allow(
    unsafe_code,
    reason = "there is no safe way to share memory with a child"
)]

use std::ffi::{c_int, c_void};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Barrier, Mutex, mpsc};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{id, owner};

const THREADS: usize = 8;
const JOBS: u32 = 400;

/// Who the child was before it executed; it writes to the memory of its parent.
static SEEN: AtomicU32 = AtomicU32::new(u32::MAX);
/// Whether it is to execute what is not there.
static FAILS: AtomicBool = AtomicBool::new(false);

fn chown(path: &str, user: u32, group: u32) -> rustix::io::Result<()> {
    rustix::fs::chown(path, id(user).0, id(group).1)
}

/// All three ids of this thread.
fn set_user(user: u32) -> rustix::io::Result<()> {
    let user = Uid::from_raw(user);
    set_thread_res_uid(user, user, user)
}

fn set_group(group: u32) -> rustix::io::Result<()> {
    let group = Gid::from_raw(group);
    set_thread_res_gid(group, group, group)
}

/// Comes back only when that fails.
fn execute(program: &str) -> std::io::Error {
    Command::new(program).args(["--step", "ids"]).exec()
}

/// Gives a file away, becomes somebody, executes a program.
extern "C" fn child(_: *mut c_void) -> c_int {
    let becomes = chown("/tmp/f", 7, 8)
        .and_then(|()| set_thread_groups(&[]))
        .and_then(|()| set_group(50))
        .and_then(|()| set_user(42));
    if becomes.is_err() {
        return 100;
    }
    if chown("/tmp/f", 0, 0).is_ok() {
        return 101;
    }
    SEEN.store(rustix::process::getuid().as_raw(), Ordering::SeqCst);
    let fails = FAILS.load(Ordering::SeqCst);
    drop(execute(if fails { "/none" } else { "/step" }));
    102
}

/// Runs `child` as vfork(2) does: in our memory, while we wait. Its exit code.
fn start() -> Option<i32> {
    let mut stack = vec![0_u128; 1 << 14];
    let end = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is the child's alone, and outlives it: this thread, the only one, goes on
    // when the child has executed or ended.
    let process = unsafe { libc::clone(child, end.cast(), flags, std::ptr::null_mut()) };
    let process = Pid::from_raw(process).unwrap();
    let ended = rustix::process::waitpid(Some(process), WaitOptions::empty());
    ended.unwrap().unwrap().1.exit_status()
}

pub fn ids() {
    let groups = rustix::process::getgroups().unwrap();
    let [user, group] = [
        [
            rustix::process::getuid().as_raw(),
            rustix::process::geteuid().as_raw(),
        ],
        [
            rustix::process::getgid().as_raw(),
            rustix::process::getegid().as_raw(),
        ],
    ];
    println!("{user:?} {group:?} {}", groups.len());
}

/// A child in our memory is somebody of its own.
pub fn vfork() {
    std::fs::write("/tmp/f", "").unwrap();
    for (fails, code) in [(false, 0), (true, 102)] {
        FAILS.store(fails, Ordering::SeqCst);
        SEEN.store(u32::MAX, Ordering::SeqCst);
        assert_eq!(start(), Some(code));
        assert_eq!(SEEN.load(Ordering::SeqCst), 42);
        ids();
        assert_eq!(owner("/tmp/f"), (7, 8));
        chown("/tmp/f", 0, 0).unwrap();
    }
    // By posix_spawn(3), which is that kind of vfork, and by fork.
    let run = |command: &mut Command| {
        let ended = command.args(["--step", "ids"]).status().unwrap();
        assert!(ended.success());
    };
    run(&mut Command::new("/step"));
    run(Command::new("/step").gid(50).uid(42));
    ids();
}

/// A file that went from thread to thread.
struct Job {
    number: u32,
    path: String,
    file: Option<OwnedFd>,
}

/// One thread begins a job and another one goes on with it, as in a runtime that schedules tasks
/// of its own on whatever thread is free.
fn work(jobs: &Mutex<mpsc::Receiver<Job>>, next: &mpsc::Sender<Job>, done: &AtomicU32) {
    while done.load(Ordering::SeqCst) < JOBS {
        let Ok(mut job) = jobs.lock().unwrap().try_recv() else {
            std::thread::yield_now();
            continue;
        };
        let number = job.number;
        let Some(file) = job.file.take() else {
            let flags = OFlags::CREATE | OFlags::RDWR;
            let mode = Mode::from_raw_mode(0o600);
            job.file = Some(rustix::fs::open(&job.path, flags, mode).unwrap());
            chown(&job.path, number, number + 1).unwrap();
            next.send(job).unwrap();
            continue;
        };
        let seen = rustix::fs::fstat(&file).unwrap();
        assert_eq!((seen.st_uid, seen.st_gid), (number, number + 1));
        rustix::fs::fchown(&file, id(number + 2).0, id(number + 3).1).unwrap();
        assert_eq!(owner(&job.path), (number + 2, number + 3));
        assert!(rustix::process::getuid().is_root());
        done.fetch_add(1, Ordering::SeqCst);
    }
}

fn peer_of(socket: &OwnedFd) -> (u32, u32) {
    let seen = rustix::net::sockopt::socket_peercred(socket).unwrap();
    assert_eq!(seen.pid, rustix::process::getpid());
    (seen.uid.as_raw(), seen.gid.as_raw())
}

/// Jobs on many threads; then each of them sets the ids (as Go's `syscall.Setuid` has it done, and
/// the C library's `setuid`); then one that is not the first executes a program.
pub fn threads() {
    let (next, jobs) = mpsc::channel();
    for number in 1..=JOBS {
        let path = format!("/tmp/job{number}");
        let job = Job {
            number,
            path,
            file: None,
        };
        next.send(job).unwrap();
    }
    let (jobs, done) = (Mutex::new(jobs), AtomicU32::new(0));
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let (next, jobs, done, barrier) = (next.clone(), &jobs, &done, &barrier);
            scope.spawn(move || {
                work(jobs, &next, done);
                barrier.wait();
                set_group(50).unwrap();
                barrier.wait();
                set_user(42).unwrap();
                barrier.wait();
                assert_eq!(rustix::process::geteuid().as_raw(), 42);
                chown("/tmp/job1", 0, 0).unwrap_err();
                let (ours, _theirs) = rustix::net::socketpair(
                    AddressFamily::UNIX,
                    SocketType::STREAM,
                    SocketFlags::empty(),
                    None,
                )
                .unwrap();
                assert_eq!(peer_of(&ours), (42, 50));
                barrier.wait();
                if n == THREADS - 1 {
                    panic!("{}", execute("/step"));
                }
                // Until that ends all other threads.
                loop {
                    std::thread::park();
                }
            });
        }
    });
}
