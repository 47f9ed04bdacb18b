//! This program as a command of a step, for what no applet of busybox does: `PROGRAM --step WHAT`.

mod acl;
mod paths;
mod raw;

use std::process::ExitCode;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};

pub const ARGUMENT: &str = "--step";

pub fn main() -> ExitCode {
    let what = std::env::args().nth(2).unwrap_or_default();
    match what.as_str() {
        "thread" => thread(),
        "descriptors" => descriptors(),
        "euid" => println!("{}", rustix::process::geteuid().as_raw()),
        "chroot" => chroot(),
        "create" => create(),
        "groups" => groups(),
        "peer" => peer(),
        "names" => paths::own_names(),
        "streams" => paths::standard_streams(),
        "path-descriptors" => paths::path_descriptors(),
        "acl" => acl::lists(),
        "acl-others" => acl::others(),
        "acl-stranger" => acl::stranger(),
        "ids" => raw::ids(),
        "vfork" => raw::vfork(),
        "threads" => raw::threads(),
        "benchmark" => benchmark(),
        other => panic!("{other}"),
    }
    ExitCode::SUCCESS
}

fn owner(path: &str) -> (u32, u32) {
    let stat = rustix::fs::stat(path).unwrap();
    (stat.st_uid, stat.st_gid)
}

fn id(id: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))
}

/// All threads of a process are one somebody.
fn thread() {
    rustix::thread::set_thread_uid(Uid::from_raw(42)).unwrap();
    let seen = std::thread::spawn(|| rustix::process::getuid().as_raw());
    println!("{}", seen.join().unwrap());
}

/// Owners through descriptors, relative names, and names of descriptors.
fn descriptors() {
    std::fs::create_dir("/tmp/d").unwrap();
    std::fs::write("/tmp/d/f", "").unwrap();
    let directory = rustix::fs::openat(CWD, "/tmp/d", OFlags::RDONLY, Mode::empty()).unwrap();
    let file = rustix::fs::openat(&directory, "f", OFlags::PATH, Mode::empty()).unwrap();
    rustix::fs::chownat(&directory, "f", id(5).0, id(6).1, AtFlags::empty()).unwrap();
    assert_eq!(owner("/tmp/d/f"), (5, 6));
    let seen = rustix::fs::fstat(&file).unwrap();
    assert_eq!((seen.st_uid, seen.st_gid), (5, 6));
    // By an O_PATH descriptor, which fchown does not take.
    rustix::fs::chownat(&file, "", id(7).0, None, AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(owner("/tmp/d/f"), (7, 6));
    rustix::fs::fchown(&directory, id(8).0, id(8).1).unwrap();
    std::env::set_current_dir("/tmp/d").unwrap();
    assert_eq!(owner("."), (8, 8));
    assert_eq!(owner("../d"), (8, 8));
    assert_eq!(owner("f"), (7, 6));
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    assert_eq!(owner(&name), (7, 6));
    rustix::fs::chown(name.as_str(), id(9).0, id(9).1).unwrap();
    assert_eq!(owner("f"), (9, 9));
    // What has no name any more has an owner still.
    rustix::fs::unlinkat(&directory, "f", AtFlags::empty()).unwrap();
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_uid, 9);
    println!("ok");
}

/// Absolute names mean those below the new root.
fn chroot() {
    std::fs::create_dir_all("/tmp/r/in").unwrap();
    rustix::process::chroot("/tmp/r").unwrap();
    std::env::set_current_dir("/").unwrap();
    rustix::fs::chown("/in", id(5).0, id(5).1).unwrap();
    assert_eq!(owner("/in"), (5, 5));
    println!("ok");
}

/// Modes and flags survive that the supervisor makes the file.
fn create() {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    rustix::process::umask(Mode::from_raw_mode(0o027));
    rustix::thread::set_thread_gid(Gid::from_raw(50)).unwrap();
    rustix::thread::set_thread_uid(Uid::from_raw(42)).unwrap();
    let mut options = std::fs::File::options();
    let mut file = options
        .append(true)
        .create_new(true)
        .mode(0o666)
        .open("/tmp/f")
        .unwrap();
    file.write_all(b"a").unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (42, 50, 0o640)
    );
    let again = options.open("/tmp/f").unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    std::fs::create_dir("/tmp/d").unwrap();
    std::os::unix::fs::symlink("f", "/tmp/l").unwrap();
    for name in ["/tmp/d", "/tmp/l"] {
        let meta = std::fs::symlink_metadata(name).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (42, 50), "{name}");
    }
    assert_eq!(std::fs::metadata("/tmp/d").unwrap().mode() & 0o7777, 0o750);
    println!("ok");
}

/// The supervisor does not keep whatever it is given.
fn groups() {
    let set = |first: u32| {
        let groups: Vec<_> = (first..first + 65_536).map(Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups)
    };
    let refused = (1..100).find(|first| set(*first).is_err());
    assert!(refused.is_some());
    let none = rustix::thread::set_thread_groups(&[]);
    assert!(none.is_ok(), "what it knows already it goes on knowing");
    println!("ok");
}

/// `SO_PEERCRED` of a socket whose other end changed hands.
fn peer() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, _theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::empty(),
        None,
    )
    .unwrap();
    rustix::thread::set_thread_gid(Gid::from_raw(50)).unwrap();
    rustix::thread::set_thread_uid(Uid::from_raw(42)).unwrap();
    let seen = rustix::net::sockopt::socket_peercred(&ours).unwrap();
    assert_eq!((seen.uid.as_raw(), seen.gid.as_raw()), (42, 50));
    assert_eq!(seen.pid, rustix::process::getpid());
    println!("ok");
}

/// Microseconds per call, for the record.
fn benchmark() {
    let count = 5000_u32;
    let time = |name: &str, call: &dyn Fn(u32)| {
        let start = std::time::Instant::now();
        (0..count).for_each(call);
        let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(count);
        println!("{name} {each:.1}");
    };
    std::fs::write("/tmp/plain", "").unwrap();
    std::fs::write("/tmp/given", "").unwrap();
    rustix::fs::chown("/tmp/given", id(5).0, id(5).1).unwrap();
    time("getuid", &|_| assert!(rustix::process::getuid().is_root()));
    time("stat plain", &|_| {
        assert!(rustix::fs::stat("/tmp/plain").is_ok());
    });
    time("stat given", &|_| {
        assert!(rustix::fs::stat("/tmp/given").is_ok());
    });
    time("stat missing", &|_| {
        assert!(rustix::fs::stat("/tmp/missing").is_err());
    });
    time("chown", &|n| {
        rustix::fs::chown("/tmp/plain", id(n).0, None).unwrap();
    });
    time("create", &|n| {
        drop(std::fs::File::create(format!("/tmp/c{n}")).unwrap());
    });
}
