//! POSIX ACLs, by their attributes.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use rustix::fs::{Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::{id, owner};

pub const ACCESS: &str = "system.posix_acl_access";
pub const DEFAULT: &str = "system.posix_acl_default";

/// Entries of `struct posix_acl_xattr_entry` (include/uapi/linux/posix_acl_xattr.h): tag,
/// permissions, id.
type Entry = (u16, u16, u32);

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP: u16 = 0x04;
const NAMED_GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NOBODY: u32 = u32::MAX;

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// The owner and one more user may read and write.
fn with_user(user: u32) -> Vec<u8> {
    encode(&[
        (OWNER, 6, NOBODY),
        (USER, 6, user),
        (GROUP, 4, NOBODY),
        (MASK, 6, NOBODY),
        (OTHER, 0, NOBODY),
    ])
}

fn set(path: &str, name: &str, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
}

fn get(path: &str, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = [0_u8; 256];
    let length = rustix::fs::getxattr(path, name, &mut value)?;
    Ok(value[..length].to_vec())
}

fn mode(path: &str) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

/// Set, shown, kept over a change of the owner, removed.
fn access_list() {
    std::fs::write("/tmp/f", "").unwrap();
    rustix::fs::chmod("/tmp/f", Mode::from_raw_mode(0o600)).unwrap();
    rustix::fs::chown("/tmp/f", id(5).0, id(6).1).unwrap();
    let list = with_user(0);
    set("/tmp/f", ACCESS, &list).unwrap();
    assert_eq!(get("/tmp/f", ACCESS).unwrap(), list);
    // The mask is shown as the group's permissions.
    assert_eq!((mode("/tmp/f"), owner("/tmp/f")), (0o660, (5, 6)));
    rustix::fs::chown("/tmp/f", id(42).0, id(50).1).unwrap();
    assert_eq!(get("/tmp/f", ACCESS).unwrap(), list);
    assert_eq!(owner("/tmp/f"), (42, 50));
    rustix::fs::removexattr("/tmp/f", ACCESS).unwrap();
    assert_eq!(get("/tmp/f", ACCESS), Err(Errno::NODATA));
}

/// What is made in a directory with a default list gets that, whatever the umask is, and whoever
/// makes it.
fn default_list(directory: &str, expected: (u32, u32)) {
    let list = encode(&[(OWNER, 7, NOBODY), (GROUP, 7, NOBODY), (OTHER, 5, NOBODY)]);
    set(directory, DEFAULT, &list).unwrap();
    let file = format!("{directory}/file");
    let mut options = std::fs::File::options();
    options.write(true).create_new(true).mode(0o666);
    drop(options.open(&file).unwrap());
    assert_eq!((mode(&file), owner(&file)), (0o664, expected), "{file}");
    let below = format!("{directory}/directory");
    std::fs::create_dir(&below).unwrap();
    assert_eq!((mode(&below), owner(&below)), (0o775, expected), "{below}");
    assert_eq!(get(&below, DEFAULT).unwrap(), list);
    let fifo = format!("{directory}/fifo");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, Mode::from_raw_mode(0o666), 0).unwrap();
    assert_eq!((mode(&fifo), owner(&fifo)), (0o664, expected), "{fifo}");
    rustix::fs::removexattr(directory, DEFAULT).unwrap();
    let file = format!("{directory}/later");
    drop(options.open(&file).unwrap());
    assert_eq!((mode(&file), owner(&file)), (0o640, expected), "{file}");
}

/// By root, then by a user.
pub fn lists() {
    rustix::process::umask(Mode::from_raw_mode(0o027));
    access_list();
    for directory in ["/tmp/roots", "/tmp/users"] {
        std::fs::create_dir(directory).unwrap();
    }
    default_list("/tmp/roots", (0, 0));
    rustix::fs::chown("/tmp/users", id(42).0, id(50).1).unwrap();
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_gid(Gid::from_raw(50)).unwrap();
    rustix::thread::set_thread_uid(Uid::from_raw(42)).unwrap();
    set("/tmp/f", ACCESS, &with_user(0)).unwrap();
    assert_eq!(get("/tmp/f", ACCESS).unwrap(), with_user(0));
    rustix::fs::removexattr("/tmp/f", ACCESS).unwrap();
    default_list("/tmp/users", (42, 50));
    println!("ok");
}

/// Lists that name somebody whom the user namespace does not have.
pub fn others() {
    let path = "/tmp/f";
    std::fs::write(path, "").unwrap();
    rustix::fs::chmod(path, Mode::from_raw_mode(0o600)).unwrap();
    set(path, ACCESS, &with_user(1000)).unwrap();
    assert_eq!(mode(path), 0o660);
    println!(
        "shown as set: {}",
        get(path, ACCESS).unwrap() == with_user(1000)
    );
    let two = encode(&[
        (OWNER, 6, NOBODY),
        (USER, 6, 1000),
        (USER, 4, 1001),
        (GROUP, 4, NOBODY),
        (NAMED_GROUP, 7, 33),
        (MASK, 7, NOBODY),
        (OTHER, 0, NOBODY),
    ]);
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::fsetxattr(&file, ACCESS, &two, XattrFlags::empty()).unwrap();
    assert_eq!(mode(path), 0o670);
    assert_eq!(get(path, ACCESS).unwrap().len(), two.len());
    rustix::fs::fremovexattr(&file, ACCESS).unwrap();
    assert_eq!(get(path, ACCESS), Err(Errno::NODATA));
    // What is made below has the mode that the default list gives it.
    std::fs::create_dir("/tmp/d").unwrap();
    set("/tmp/d", DEFAULT, &two).unwrap();
    std::fs::write("/tmp/d/f", "").unwrap();
    assert_eq!(mode("/tmp/d/f"), 0o660);
    // Errors are the kernel's: no such file, no list, a default list of what is no directory.
    assert_eq!(set("/tmp/none", ACCESS, &two), Err(Errno::NOENT));
    assert_eq!(set(path, ACCESS, &two[..11]), Err(Errno::INVAL));
    assert_eq!(set(path, ACCESS, &with_user(NOBODY)), Err(Errno::INVAL));
    assert_eq!(set(path, DEFAULT, &two), Err(Errno::ACCESS));
    std::os::unix::fs::symlink("f", "/tmp/l").unwrap();
    let link = rustix::fs::lsetxattr("/tmp/l", ACCESS, &two, XattrFlags::empty());
    assert_eq!(link, Err(Errno::OPNOTSUPP));
    println!("ok");
}

/// A user on a file of root.
pub fn stranger() {
    std::fs::write("/tmp/f", "").unwrap();
    set("/tmp/f", ACCESS, &with_user(0)).unwrap();
    rustix::thread::set_thread_uid(Uid::from_raw(42)).unwrap();
    let file = std::fs::File::open("/tmp/f");
    for user in [0, 42] {
        assert_eq!(set("/tmp/f", ACCESS, &with_user(user)), Err(Errno::PERM));
        if let Ok(file) = &file {
            let list = with_user(user);
            let done = rustix::fs::fsetxattr(file, ACCESS, &list, XattrFlags::empty());
            assert_eq!(done, Err(Errno::PERM));
        }
    }
    let removed = rustix::fs::removexattr("/tmp/f", ACCESS);
    assert_eq!(removed, Err(Errno::PERM));
    assert_eq!(get("/tmp/f", ACCESS).unwrap(), with_user(0));
    println!("ok");
}
