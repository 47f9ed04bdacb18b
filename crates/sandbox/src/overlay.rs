//! Overlay file systems as detached mounts.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{Error, Step};
use crate::stage::{clone_tree, descriptor_path};
use crate::{child, sys};

/// The longest string that fsconfig(2) takes, without the null byte.
const OPTION_MAX: usize = 255;
/// What overlayfs stacks at most (`OVL_MAX_STACK`).
pub(crate) const LOWERS_MAX: usize = 500;

/// Directories stacked top first; with `upper` (and `work` on the same file system) writable.
///
/// * `userxattr`, as the store keeps opaque marks in `user.overlay.*` for root and user alike;
/// * `volatile` (Linux 5.10): no sync of the upper file system at unmount or at the command's
///   own fsyncs. The store syncs once, when it keeps the result.
pub(crate) fn overlay(
    lowers: &[impl AsRef<Path>],
    upper: Option<(&Path, &Path)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Error> {
    if lowers.is_empty() || lowers.len() > LOWERS_MAX {
        let reason = format!(
            "{} lower directories, {LOWERS_MAX} are possible",
            lowers.len()
        );
        return Err(Error::Invalid {
            field: "overlay",
            reason,
        });
    }
    if ONLY_OLD.load(Ordering::Relaxed) {
        return with_old_interface(lowers, upper, attributes);
    }
    let error = match with_new_interface(lowers, upper, attributes) {
        Err(error) if is_invalid(&error) => error,
        result => return result,
    };
    match with_old_interface(lowers, upper, attributes) {
        Ok(mount) => {
            ONLY_OLD.store(true, Ordering::Relaxed);
            Ok(mount)
        }
        Err(again) if is_invalid(&again) => Err(error),
        result => result,
    }
}

/// One option per lower directory came with Linux 6.7. Linux 6.5 and 6.6 refuse the first, older
/// ones refuse them all when the mount is made, or the first that is one too many for a page.
static ONLY_OLD: AtomicBool = AtomicBool::new(false);

fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Setup { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
}

fn at(option: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    let option = option.into();
    move |errno| Step::Overlay { option }.error(errno)
}

fn with_new_interface(
    lowers: &[impl AsRef<Path>],
    upper: Option<(&Path, &Path)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Error> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen"))?;
    // Keeps descriptors of directories with long names open until the mount exists.
    let mut opened = Vec::new();
    fsconfig_set_string(&context, "source", "overlay").map_err(at("source"))?;
    for lower in lowers {
        let lower = lower.as_ref();
        set_path(&context, "lowerdir+", lower, &mut opened)
            .map_err(|errno| at(format!("lowerdir+={}", lower.display()))(errno))?;
    }
    if let Some((upper, work)) = upper {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            set_path(&context, key, path, &mut opened)
                .map_err(at(format!("{key}={}", path.display())))?;
        }
        fsconfig_set_flag(&context, "volatile").map_err(at("volatile"))?;
    }
    fsconfig_set_flag(&context, "userxattr").map_err(at("userxattr"))?;
    fsconfig_create(&context).map_err(|errno| {
        let reason = kernel_message(context.as_fd());
        at(format!("create{reason}"))(errno)
    })?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount"))
}

fn set_path(
    context: &OwnedFd,
    key: &str,
    path: &Path,
    opened: &mut Vec<OwnedFd>,
) -> Result<(), Errno> {
    if path.as_os_str().len() <= OPTION_MAX {
        return fsconfig_set_string(context, key, path);
    }
    let directory = open(path)?;
    let short = descriptor_path(directory.as_fd());
    opened.push(directory);
    fsconfig_set_string(context, key, short.as_c_str())
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// What the kernel wrote about the failure into the context, as `": text"`, or nothing.
fn kernel_message(context: BorrowedFd<'_>) -> String {
    let mut text = String::new();
    let mut buffer = [0_u8; 512];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        let Some(line) = buffer.get(..length).filter(|line| !line.is_empty()) else {
            break;
        };
        // Lines start with their level: "e ", "w " or "i ".
        text.push_str(": ");
        text.push_str(String::from_utf8_lossy(line.get(2..).unwrap_or(line)).trim());
    }
    text
}

/// With mount(2), whose options are one string of at most a page. Short names for the directories
/// are those of descriptors, which must be opened in the mount namespace that mounts; and the
/// mount must be attached somewhere to be copied. Both without effect on anybody else needs a
/// mount namespace of its own, so this takes a thread of its own (0.2 ms).
fn with_old_interface(
    lowers: &[impl AsRef<Path>],
    upper: Option<(&Path, &Path)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Error> {
    let lowers: Vec<&Path> = lowers.iter().map(AsRef::as_ref).collect();
    std::thread::scope(|scope| {
        let mount = || {
            sys::unshare(libc::CLONE_NEWNS).map_err(at("unshare"))?;
            child::make_private(c"/").map_err(at("make mounts private"))?;
            mount_in_this_thread(&lowers, upper, attributes)
        };
        match scope.spawn(mount).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn mount_in_this_thread(
    lowers: &[&Path],
    upper: Option<(&Path, &Path)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Error> {
    let mut opened = Vec::with_capacity(lowers.len() + 2);
    let mut name_of = |path: &Path| {
        let directory = open(path).map_err(at(path.display().to_string()))?;
        let name = descriptor_path(directory.as_fd())
            .to_string_lossy()
            .into_owned();
        opened.push(directory);
        Ok::<_, Error>(name)
    };
    let names = lowers
        .iter()
        .map(|lower| name_of(lower))
        .collect::<Result<Vec<_>, _>>()?;
    let mut options = format!("userxattr,lowerdir={}", names.join(":"));
    if let Some((upper, work)) = upper {
        let (upper, work) = (name_of(upper)?, name_of(work)?);
        options.push_str(&format!(",volatile,upperdir={upper},workdir={work}"));
    }
    // The kernel cuts longer ones off.
    if options.len() >= rustix::param::page_size() {
        return Err(at("lowerdir: too many for a Linux before 6.7")(
            Errno::TOOBIG,
        ));
    }
    let options = CString::new(options).map_err(|_| at("lowerdir")(Errno::INVAL))?;
    // Any directory that surely exists; nobody else sees this.
    let target = "/proc";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())
        .map_err(at("mount"))?;
    let mount = clone_tree(target, false).map_err(at("open_tree"))?;
    sys::mount_setattr(
        mount.as_fd(),
        c"",
        libc::AT_EMPTY_PATH,
        attributes.bits().into(),
    )
    .map_err(at("mount_setattr"))?;
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this kernel has and what all have give the same view. Needs the right to mount, so
    /// real root. Before Linux 6.7 it tells whether the way that does not work there is left.
    #[test]
    fn old_and_new_interface_show_the_same() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root may mount without entering namespaces first");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["top", "bottom", "upper", "work"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::write(path("top").join("a"), "top").unwrap();
        std::fs::write(path("bottom").join("a"), "bottom").unwrap();
        std::fs::write(path("bottom").join("b"), "bottom").unwrap();
        let lowers = [path("top"), path("bottom")];
        let layers = (path("upper"), path("work"));
        let nodev = MountAttrFlags::MOUNT_ATTR_NODEV;
        let read = |mount: &OwnedFd, name: &str| {
            let file = rustix::fs::openat(mount, name, OFlags::RDONLY, Mode::empty()).unwrap();
            std::io::read_to_string(std::fs::File::from(file)).unwrap()
        };
        for upper in [None, Some((layers.0.as_path(), layers.1.as_path()))] {
            for mount in [
                with_old_interface(&lowers, upper, nodev).unwrap(),
                overlay(&lowers, None, nodev).unwrap(),
            ] {
                assert_eq!(
                    (read(&mount, "a").as_str(), read(&mount, "b").as_str()),
                    ("top", "bottom")
                );
            }
        }
        let mount = with_old_interface(&lowers, None, nodev).unwrap();
        assert!(rustix::fs::mkdirat(&mount, "new", Mode::RWXU).is_err());
    }

    #[test]
    fn too_many_lowers_are_refused() {
        let lowers = vec!["/"; LOWERS_MAX + 1];
        for lowers in [lowers.as_slice(), &[]] {
            let result = overlay(lowers, None, MountAttrFlags::empty());
            assert!(matches!(result, Err(Error::Invalid { .. })));
        }
    }
}
