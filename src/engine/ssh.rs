//! `RUN --mount=type=ssh`: a socket for one step, whose connections are passed on to an ssh agent
//! of this machine (rules R29, R30). The agent itself, and what else is beside it, stays out of
//! reach, and when the step is over so does the agent.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use store::Store;

use crate::failure::{Failure, FailureKind};

/// Connections open at the same time; a further one is closed at once.
const CONNECTIONS_MAX: usize = 64;

/// A socket that leads to an agent, until this is dropped.
#[derive(Debug)]
pub(super) struct AgentSocket {
    path: PathBuf,
    /// The directory of the socket, for paths that are short enough: an address of a socket has
    /// at most 107 bytes.
    directory: File,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
    /// As the step is to see it; with a single id the file cannot have it.
    owner: (u32, u32),
}

#[derive(Debug)]
struct Shared {
    agent: PathBuf,
    ended: AtomicBool,
    /// Both ends of all connections, by number.
    open: Mutex<Vec<(u64, UnixStream, UnixStream)>>,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Vec<(u64, UnixStream, UnixStream)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AgentSocket {
    /// Makes a socket with this mode and owner for a step, in a fresh directory of the store, and
    /// serves it.
    ///
    /// # Errors
    /// When the agent does not answer, or the socket cannot be made.
    pub(super) fn start(
        store: &Store,
        agent: &Path,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<Self, Failure> {
        UnixStream::connect(agent).map_err(|e| {
            let message = format!("ssh agent at {}: {e}", agent.display());
            Failure::new(FailureKind::Build, message).hint("is it still running?")
        })?;
        let directory = store.temporary_path();
        let failed = |source: io::Error| -> Failure {
            store::Error::io("make a socket in", &directory)(source).into()
        };
        std::fs::create_dir(&directory).map_err(failed)?;
        let handle = open_directory(&directory).map_err(failed)?;
        let socket = UnixListener::bind(short_path(&handle)).map_err(failed)?;
        let path = directory.join(NAME);
        own(&path, mode, uid, gid).map_err(failed)?;
        let shared = Arc::new(Shared {
            agent: agent.to_owned(),
            ended: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let of_thread = shared.clone();
        let listener = thread::spawn(move || accept(&socket, &of_thread));
        Ok(Self {
            path,
            owner: (uid, gid),
            directory: handle,
            shared,
            listener: Some(listener),
        })
    }

    /// Where the socket is on the host.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn owner(&self) -> (u32, u32) {
        self.owner
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let woken = UnixStream::connect(short_path(&self.directory));
        for (_, step, agent) in self.shared.open().iter() {
            // One that is closed already needs nothing.
            let _ = step.shutdown(Shutdown::Both);
            let _ = agent.shutdown(Shutdown::Both);
        }
        if let (Ok(_), Some(listener)) = (woken, self.listener.take()) {
            // A panic in it has been reported.
            let _ = listener.join();
        }
        // Else it goes with the other temporary files.
        let _ = std::fs::remove_file(&self.path);
    }
}

const NAME: &str = "agent";

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn short_path(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))
}

fn own(path: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    if (uid, gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        match rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            // With a single id there are no others: whoever the step thinks it is, it is root.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o777))?)
}

fn accept(socket: &UnixListener, shared: &Arc<Shared>) {
    for (number, stream) in (0..).zip(socket.incoming()) {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        // A connection that failed while it was made is the step's own loss.
        let Ok(step) = stream else { continue };
        if shared.open().len() < CONNECTIONS_MAX {
            // Likewise: the step finds its connection closed.
            let _ = pass_on(number, step, shared);
        }
    }
}

/// Connects to the agent and passes on what is said, on two threads.
fn pass_on(number: u64, step: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let agent = UnixStream::connect(&shared.agent)?;
    let (to_agent, to_step) = (agent.try_clone()?, step.try_clone()?);
    let mut open = shared.open();
    open.push((number, step.try_clone()?, agent.try_clone()?));
    // The drop sets `ended` before it closes what is open, so one of both sees the other.
    if shared.ended.load(Ordering::SeqCst) {
        open.pop();
        return Ok(());
    }
    drop(open);
    let asking = thread::spawn(move || copy(step, &to_agent));
    let shared = shared.clone();
    thread::spawn(move || {
        copy(agent, &to_step);
        // A panic in it has been reported.
        let _ = asking.join();
        shared.open().retain(|(open, ..)| *open != number);
    });
    Ok(())
}

/// Until either side is done; then the other one is told so.
fn copy(mut from: UnixStream, mut to: &UnixStream) {
    // However it ended, it ended.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// Answers every connection with what it was sent, in capitals.
    fn agent(path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut bytes = [0; 4];
                    while stream.read_exact(&mut bytes).is_ok() {
                        stream.write_all(&bytes.to_ascii_uppercase()).unwrap();
                    }
                });
            }
        });
    }

    fn ask(socket: &mut UnixStream) -> io::Result<[u8; 4]> {
        socket.write_all(b"ping")?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn r30_connections_end_with_the_step() {
        // A path that is too long for a socket address, and one that must not be.
        let base = tempfile::tempdir_in("/tmp").unwrap();
        let store = Store::open(&base.path().join("x".repeat(120))).unwrap();
        let agent_path = base.path().join("a");
        agent(&agent_path);
        let socket = AgentSocket::start(&store, &agent_path, 0o640, (0, 0)).unwrap();
        let metadata = std::fs::metadata(socket.path()).unwrap();
        assert_eq!(
            std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777,
            0o640
        );
        let connect = || UnixStream::connect(short_path(&socket.directory)).unwrap();
        let (mut first, mut second) = (connect(), connect());
        assert_eq!(ask(&mut first).unwrap(), *b"PING");
        assert_eq!(ask(&mut second).unwrap(), *b"PING");
        assert_eq!(ask(&mut first).unwrap(), *b"PING");
        let path = socket.path().to_owned();
        drop(socket);
        assert!(ask(&mut first).is_err());
        assert!(ask(&mut second).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn an_agent_that_is_gone_is_named() {
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(&base.path().join("store")).unwrap();
        let nowhere = base.path().join("nowhere");
        let failure = AgentSocket::start(&store, &nowhere, 0o600, (0, 0)).unwrap_err();
        assert!(failure.message.contains("nowhere"), "{}", failure.message);
    }
}
