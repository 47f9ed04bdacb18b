//! Names of one file by way of /proc/self and /dev/fd.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::symlink;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::{id, owner};

/// Every name of an open file is as good as its own, for threads, too.
pub fn own_names() {
    std::fs::create_dir("/tmp/d").unwrap();
    std::fs::write("/tmp/d/f", "").unwrap();
    std::env::set_current_dir("/tmp/d").unwrap();
    let open = |flags| rustix::fs::open("/tmp/d/f", flags, Mode::empty()).unwrap();
    let (file, path) = (open(OFlags::RDWR), open(OFlags::PATH));
    let directory = rustix::fs::open("/tmp/d", OFlags::PATH, Mode::empty()).unwrap();
    let mut names = vec![
        "/proc/self/cwd/f".to_owned(),
        "/proc/self/cwd/../d/f".to_owned(),
        "/proc/thread-self/cwd/f".to_owned(),
        "/proc/self/root/tmp/d/f".to_owned(),
        format!("/proc/self/fd/{}/f", directory.as_raw_fd()),
        format!("/dev/fd/{}/../d/f", directory.as_raw_fd()),
        format!("//proc/self/fd/{}", file.as_raw_fd()),
    ];
    for fd in [&file, &path] {
        for prefix in ["/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"] {
            names.push(format!("{prefix}/{}", fd.as_raw_fd()));
        }
    }
    let targets = names.clone();
    for (n, target) in targets.iter().enumerate() {
        let link = format!("/tmp/d/link{n}");
        symlink(target, &link).unwrap();
        symlink(format!("link{n}"), format!("/tmp/d/chain{n}")).unwrap();
        names.extend([link, format!("chain{n}")]);
    }
    let use_all = |first: u32| {
        for (number, name) in (first..).zip(&names) {
            let name = name.as_str();
            rustix::fs::chown(name, id(number).0, id(number + 1).1)
                .unwrap_or_else(|errno| panic!("{name}: {errno}"));
            let expected = (number, number + 1);
            assert_eq!(owner("/tmp/d/f"), expected, "{name}");
            assert_eq!(owner(name), expected, "{name}");
            let stat = rustix::fs::fstat(&path).unwrap();
            assert_eq!((stat.st_uid, stat.st_gid), expected, "{name}");
            rustix::fs::chmod(name, Mode::from_raw_mode(0o600 + number % 8)).unwrap();
            let mode = rustix::fs::stat("f").unwrap().st_mode & 0o7777;
            assert_eq!(mode, 0o600 + number % 8, "{name}");
        }
    };
    use_all(100);
    std::thread::scope(|scope| scope.spawn(|| use_all(300)).join()).unwrap();
    println!("ok");
}

const STREAMS: [fn() -> BorrowedFd<'static>; 3] = [
    rustix::stdio::stdin,
    rustix::stdio::stdout,
    rustix::stdio::stderr,
];
const REPLACE: [fn(BorrowedFd<'_>) -> rustix::io::Result<()>; 3] = [
    |fd| rustix::stdio::dup2_stdin(fd),
    |fd| rustix::stdio::dup2_stdout(fd),
    |fd| rustix::stdio::dup2_stderr(fd),
];

/// As images have it: `ln -s /dev/stdout /var/log/access.log`, then `chown` of the logs.
pub fn standard_streams() {
    let dev = rustix::fs::open("/dev", OFlags::PATH, Mode::empty()).unwrap();
    for (n, name) in ["stdin", "stdout", "stderr"].into_iter().enumerate() {
        // A file of the step in place of the stream that it was started with.
        let file = std::fs::File::create(format!("/tmp/{name}")).unwrap();
        let saved = rustix::io::dup(STREAMS[n]()).unwrap();
        REPLACE[n](file.as_fd()).unwrap();
        let link = format!("/tmp/log-{name}");
        symlink(format!("/dev/{name}"), &link).unwrap();
        let long = format!("/dev/{name}");
        let results = [link.as_str(), long.as_str()].map(|name| {
            let number = 50 + name.len() as u32;
            let done = rustix::fs::chown(name, id(number).0, id(number).1);
            (done, owner(name), (number, number))
        });
        let relative = rustix::fs::chownat(&dev, name, id(9).0, id(9).1, AtFlags::empty());
        REPLACE[n](saved.as_fd()).unwrap();
        for (done, seen, expected) in results {
            done.unwrap_or_else(|errno| panic!("{name}: {errno}"));
            assert_eq!(seen, expected, "{name}");
        }
        relative.unwrap_or_else(|errno| panic!("{name} in /dev: {errno}"));
        assert_eq!(owner(&format!("/tmp/{name}")), (9, 9));
    }
    // The streams themselves, which are pipes or devices of whoever runs the step.
    symlink("/dev/stdout", "/tmp/pipe").unwrap();
    rustix::fs::chown("/tmp/pipe", id(5).0, id(6).1).unwrap();
    let stat = rustix::fs::fstat(rustix::stdio::stdout()).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (5, 6));
    println!("ok");
}

/// A descriptor of a symlink is the symlink.
pub fn path_descriptors() {
    std::fs::write("/tmp/f", "").unwrap();
    symlink("f", "/tmp/l").unwrap();
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let link = rustix::fs::open("/tmp/l", flags, Mode::empty()).unwrap();
    rustix::fs::chownat(&link, "", id(5).0, id(6).1, AtFlags::EMPTY_PATH).unwrap();
    let shown = || {
        let stat = rustix::fs::fstat(&link).unwrap();
        let named = rustix::fs::lstat("/tmp/l").unwrap();
        assert_eq!((named.st_uid, named.st_gid), (stat.st_uid, stat.st_gid));
        (stat.st_uid, stat.st_gid)
    };
    assert_eq!(shown(), (5, 6));
    let name = format!("/proc/self/fd/{}", link.as_raw_fd());
    rustix::fs::chown(name.as_str(), id(7).0, id(8).1).unwrap();
    assert_eq!(shown(), (7, 8));
    assert_eq!(owner(&name), (7, 8));
    assert_eq!(owner("/tmp/f"), (0, 0));
    // Names that lead nowhere fail as they would.
    for name in ["/proc/self/fd/999", "/dev/fd/999", "/proc/self/cwd/none"] {
        let failed = rustix::fs::chown(name, id(5).0, None).unwrap_err();
        assert_eq!(failed, rustix::io::Errno::NOENT, "{name}");
        assert!(rustix::fs::stat(name).is_err());
    }
    let looping = [("a", "b"), ("b", "a")];
    for (from, to) in looping {
        symlink(to, format!("/tmp/{from}")).unwrap();
    }
    let failed = rustix::fs::chownat(CWD, "/tmp/a", id(5).0, None, AtFlags::empty());
    assert_eq!(failed, Err(rustix::io::Errno::LOOP));
    println!("ok");
}
