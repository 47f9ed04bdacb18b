//! Control groups for steps: limits of memory and processors, and who was killed for want of
//! memory (`Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of Linux).
//!
//! With version 1 each controller has a tree of its own, and groups are made below the one this
//! process is in. With version 2 a group that holds processes cannot have children with
//! controllers. So [`make_room`] moves the process outside, before it starts the one inside, into
//! a leaf of its group; steps become siblings of that leaf. Real root makes them at the top, unless
//! that is only what a cgroup namespace shows as the top.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::failure::{Failure, FailureKind};
use crate::request::StepLimits;

/// The leaf that the build itself moves to.
const OWN_LEAF: &str = "layercake-build";
/// Groups of steps have this prefix.
const STEP_PREFIX: &str = "layercake-step-";
/// A file of all groups of version 2 but the root. Groups for threads only, which those below one
/// with processes become, cannot be joined.
const TYPE: &str = "cgroup.type";
const OTHERS: &str = "it has other processes than this build";
/// Microseconds over which the use of processors is counted.
const CPU_PERIOD: u64 = 100_000;
/// Groups without processes that are older than this were left by a killed build.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Memory => "--memory",
            Self::Cpu => "--cpus",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where this process is in one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    version: Version,
    controllers: Vec<Controller>,
    mount: PathBuf,
    own: PathBuf,
}

/// Where the groups of steps are made.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// One per tree, each with the controllers that are used of it.
    parents: Vec<Place>,
    limits: StepLimits,
    next: AtomicU64,
}

/// The groups of one running step; removed when dropped.
#[derive(Debug)]
pub(crate) struct StepGroup {
    directories: Vec<(Version, PathBuf)>,
}

fn refused(what: &str, reason: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Environment, format!("{what}: {reason}")).hint(
        "as an ordinary user, cgroups version 2 must be delegated to the build: \
         systemd-run --user --scope -p Delegate=yes layercake build ...; or build as root",
    )
}

fn flags(controllers: &[Controller]) -> String {
    let names: Vec<&str> = controllers.iter().map(|c| c.flag()).collect();
    names.join(" and ")
}

/// Groups that this process left for a leaf of theirs. The end takes it back, so that a group can
/// be used again by what made it.
#[derive(Debug, Default)]
pub(crate) struct Room(Vec<Place>);

/// To be called by the process outside, before it starts the one inside; see the module text.
///
/// # Errors
/// With the reason why steps cannot be limited here.
pub(crate) fn make_room(limits: &StepLimits) -> Result<Room, Failure> {
    let mut room = Room::default();
    if !limits.need_cgroups() {
        return Ok(room);
    }
    let is_root = is_real_root();
    for place in places(limits)? {
        if place.version == Version::Two && !(is_root && has_top(&place)) {
            move_to_leaf(&place)?;
            room.0.push(place);
        }
    }
    Ok(room)
}

impl Drop for Room {
    /// Best effort: another build in the same group keeps what it needs.
    fn drop(&mut self) {
        for Place { own, .. } in &self.0 {
            let entries = fs::read_dir(own).into_iter().flatten().flatten();
            let mut names = entries.map(|entry| entry.file_name());
            if names.any(|name| name.to_string_lossy().starts_with(STEP_PREFIX)) {
                continue;
            }
            disable(own);
            fs::write(own.join("cgroup.procs"), "0").ok();
            fs::remove_dir(own.join(OWN_LEAF)).ok();
        }
    }
}

/// Whether the mount shows the root of the tree: that one has no type, and may hold processes.
fn has_top(place: &Place) -> bool {
    !place.mount.join(TYPE).exists()
}

fn move_to_leaf(place: &Place) -> Result<(), Failure> {
    let what = flags(&place.controllers);
    let shown = place.own.display();
    let leaf = place.own.join(OWN_LEAF);
    make_directory(&leaf).map_err(|e| refused(&what, format!("make a group in {shown}: {e}")))?;
    let join = || fs::write(leaf.join("cgroup.procs"), "0");
    let joined = join().or_else(|e| {
        if e.raw_os_error() != Some(nix::libc::EOPNOTSUPP) {
            return Err(e);
        }
        // An earlier build left controllers enabled that allow processes beside groups, if these
        // are for threads only (see "Threads" in the kernel's text).
        disable(&place.own);
        join()
    });
    joined.map_err(|e| refused(&what, format!("move to {}: {e}", leaf.display())))?;
    enable(&place.own, &place.controllers).map_err(|e| {
        let reason = match e.raw_os_error() {
            Some(nix::libc::EBUSY) => OTHERS.to_owned(),
            _ => e.to_string(),
        };
        refused(&what, format!("use controllers in {shown}: {reason}"))
    })
}

/// Best effort: what is left over is told by what needs it.
fn disable(directory: &Path) {
    let on = words(&directory.join("cgroup.subtree_control"));
    let list: Vec<String> = on.iter().map(|name| format!("-{name}")).collect();
    fs::write(directory.join("cgroup.subtree_control"), list.join(" ")).ok();
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn enabled(directory: &Path, controllers: &[Controller]) -> bool {
    let on = words(&directory.join("cgroup.subtree_control"));
    controllers.iter().all(|c| on.iter().any(|w| w == c.name()))
}

fn enable(directory: &Path, controllers: &[Controller]) -> io::Result<()> {
    if enabled(directory, controllers) {
        return Ok(());
    }
    let list: Vec<String> = controllers
        .iter()
        .map(|c| format!("+{}", c.name()))
        .collect();
    fs::write(directory.join("cgroup.subtree_control"), list.join(" "))
}

/// Root of the machine, not of a user namespace.
pub(crate) fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let map: Vec<&str> = map.split_whitespace().collect();
    map == ["0", "0", "4294967295"] && rustix::process::geteuid().is_root()
}

fn places(limits: &StepLimits) -> Result<Vec<Place>, Failure> {
    let read = |path: &str| {
        fs::read_to_string(path)
            .map_err(|e| Failure::new(FailureKind::Environment, format!("read {path}: {e}")))
    };
    find(
        limits,
        &read("/proc/self/cgroup")?,
        &read("/proc/self/mountinfo")?,
    )
}

/// The trees with the controllers that `limits` need.
fn find(limits: &StepLimits, membership: &str, mounts: &str) -> Result<Vec<Place>, Failure> {
    let mut wanted = Vec::new();
    wanted.extend(limits.memory.map(|_| Controller::Memory));
    wanted.extend(limits.cpu_millis.map(|_| Controller::Cpu));
    let mut places: Vec<Place> = Vec::new();
    for controller in wanted {
        let place = version_one(controller, membership, mounts)
            .or_else(|| version_two(controller, membership, mounts));
        let place = place.ok_or_else(|| {
            let reason = format!(
                "the {} controller of cgroups is not available to this process",
                controller.name()
            );
            refused(controller.flag(), reason)
        })?;
        match places.iter_mut().find(|p| p.own == place.own) {
            Some(same) => same.controllers.push(controller),
            None => places.push(place),
        }
    }
    Ok(places)
}

fn version_one(controller: Controller, membership: &str, mounts: &str) -> Option<Place> {
    let group = membership.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        names
            .split(',')
            .any(|n| n == controller.name())
            .then_some(path)
    })?;
    let (mount, own) = mounted(group, mounts, |kind, options| {
        kind == "cgroup" && options.split(',').any(|o| o == controller.name())
    })?;
    Some(Place {
        version: Version::One,
        controllers: vec![controller],
        mount,
        own,
    })
}

fn version_two(controller: Controller, membership: &str, mounts: &str) -> Option<Place> {
    let group = membership.lines().find_map(|l| l.strip_prefix("0::"))?;
    let (mount, own) = mounted(group, mounts, |kind, _| kind == "cgroup2")?;
    // The build itself is in the leaf that it made.
    let own = match own.file_name() == Some(OsStr::new(OWN_LEAF)) {
        true => own.parent()?.to_owned(),
        false => own,
    };
    let available = words(&own.join("cgroup.controllers"));
    available
        .iter()
        .any(|w| w == controller.name())
        .then(|| Place {
            version: Version::Two,
            controllers: vec![controller],
            mount,
            own,
        })
}

/// The mount point of the first fitting file system (proc_pid_mountinfo(5)), and where `group` is
/// below it.
fn mounted(
    group: &str,
    mounts: &str,
    fits: impl Fn(&str, &str) -> bool,
) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let filesystem: Vec<&str> = filesystem.split(' ').collect();
        let (root, point) = (*mount.get(3)?, *mount.get(4)?);
        if !fits(filesystem.first()?, filesystem.get(2)?) {
            return None;
        }
        let below = Path::new(group).strip_prefix(root).ok()?;
        Some((PathBuf::from(point), Path::new(point).join(below)))
    })
}

impl Cgroups {
    /// `None` when no limit needs them. To be called inside.
    ///
    /// # Errors
    /// With the reason why steps cannot be limited here.
    pub(crate) fn new(limits: &StepLimits) -> Result<Option<Self>, Failure> {
        if !limits.need_cgroups() {
            return Ok(None);
        }
        Self::at(limits, places(limits)?, is_real_root()).map(Some)
    }

    fn at(limits: &StepLimits, mut parents: Vec<Place>, is_root: bool) -> Result<Self, Failure> {
        for place in &mut parents {
            if place.version == Version::Two && is_root && has_top(place) {
                place.own.clone_from(&place.mount);
            }
            if place.version == Version::Two {
                enable(&place.own, &place.controllers).map_err(|e| {
                    let shown = place.own.display();
                    refused(
                        &flags(&place.controllers),
                        format!("use controllers in {shown}: {e}"),
                    )
                })?;
            }
            remove_leftovers(&place.own);
        }
        let cgroups = Self {
            parents,
            limits: *limits,
            next: AtomicU64::new(0),
        };
        // What is refused is refused now, not after an hour of building.
        drop(cgroups.step()?);
        Ok(cgroups)
    }

    /// Makes the groups for one step, with the limits set.
    ///
    /// # Errors
    /// With what was refused.
    pub(crate) fn step(&self) -> Result<StepGroup, Failure> {
        let mut group = StepGroup {
            directories: Vec::new(),
        };
        for place in &self.parents {
            let failed = |path: &Path, e: io::Error| {
                refused(
                    &flags(&place.controllers),
                    format!("{}: {e}", path.display()),
                )
            };
            let path = self
                .fresh(&place.own)
                .map_err(|(path, e)| failed(&path, e))?;
            group.directories.push((place.version, path.clone()));
            if fs::read_to_string(path.join(TYPE)).is_ok_and(|kind| kind.contains("invalid")) {
                let shown = place.own.display();
                let reason = format!("use controllers in {shown}: {OTHERS}");
                return Err(refused(&flags(&place.controllers), reason));
            }
            for (name, value) in settings(place, &self.limits) {
                let file = path.join(name);
                match fs::write(&file, value) {
                    // Kernels without swap accounting lack these.
                    Err(_) if name.contains("sw") => {}
                    result => result.map_err(|e| failed(&file, e))?,
                }
            }
        }
        Ok(group)
    }

    fn fresh(&self, parent: &Path) -> Result<PathBuf, (PathBuf, io::Error)> {
        let process = std::process::id();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{STEP_PREFIX}{process}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                // Process ids are those of a namespace: another build may have the same.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err((path, e)),
            }
        }
    }
}

/// Files and what is written to them. Memory does not move to swap instead.
fn settings(place: &Place, limits: &StepLimits) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    let uses = |c: Controller| place.controllers.contains(&c);
    if let Some(memory) = limits.memory.filter(|_| uses(Controller::Memory)) {
        settings.extend(match place.version {
            Version::One => [
                ("memory.limit_in_bytes", memory.to_string()),
                ("memory.memsw.limit_in_bytes", memory.to_string()),
            ],
            Version::Two => [
                ("memory.max", memory.to_string()),
                ("memory.swap.max", "0".to_owned()),
            ],
        });
    }
    if let Some(millis) = limits.cpu_millis.filter(|_| uses(Controller::Cpu)) {
        let quota = u64::from(millis) * CPU_PERIOD / 1000;
        match place.version {
            Version::One => settings.extend([
                ("cpu.cfs_period_us", CPU_PERIOD.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ]),
            Version::Two => settings.push(("cpu.max", format!("{quota} {CPU_PERIOD}"))),
        }
    }
    settings
}

/// Best effort. A group with processes cannot be removed, so only those of dead builds go.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_step = entry.file_name().to_string_lossy().starts_with(STEP_PREFIX);
        let made = entry.metadata().and_then(|m| m.modified()).ok();
        let is_old = made
            .and_then(|m| m.elapsed().ok())
            .is_some_and(|age| age > LEFTOVER_AGE);
        if is_step && is_old {
            fs::remove_dir(entry.path()).ok();
        }
    }
}

impl StepGroup {
    /// The groups that the step is to join.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.directories
            .iter()
            .map(|(_, path)| path.clone())
            .collect()
    }

    /// Processes that the kernel killed because the group had no memory left.
    pub(crate) fn oom_kills(&self) -> u64 {
        let count = |(version, path): &(Version, PathBuf)| {
            let file = match version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            let text = fs::read_to_string(path.join(file)).ok()?;
            let value = text.lines().find_map(|l| l.strip_prefix("oom_kill "))?;
            value.trim().parse::<u64>().ok()
        };
        self.directories.iter().filter_map(count).sum()
    }

    /// Most bytes used at once by all processes, page cache included; `None` when not counted.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        self.directories.iter().find_map(|(version, path)| {
            let file = match version {
                Version::One => "memory.max_usage_in_bytes",
                Version::Two => "memory.peak",
            };
            fs::read_to_string(path.join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        })
    }
}

impl Drop for StepGroup {
    fn drop(&mut self) {
        const ATTEMPTS: u32 = 1000;
        for (_, path) in &self.directories {
            for _ in 0..ATTEMPTS {
                match fs::remove_dir(path) {
                    // The last process is dead, but the kernel is not done with it.
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    _ => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/x\n0::/a\n";
    const HYBRID_MOUNTS: &str = "\
        30 25 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
        31 25 0:27 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n\
        32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    fn limits(memory: Option<u64>, cpu_millis: Option<u32>) -> StepLimits {
        StepLimits {
            memory,
            cpu_millis,
            ..StepLimits::default()
        }
    }

    #[test]
    fn version_1_has_a_tree_for_each_controller() {
        let places = find(&limits(Some(1), Some(1)), HYBRID, HYBRID_MOUNTS).unwrap();
        let own: Vec<&Path> = places.iter().map(|p| p.own.as_path()).collect();
        assert_eq!(
            own,
            [
                Path::new("/sys/fs/cgroup/memory/a/b"),
                Path::new("/sys/fs/cgroup/cpu,cpuacct")
            ]
        );
        assert!(places.iter().all(|p| p.version == Version::One));
    }

    #[test]
    fn a_mount_of_a_part_of_the_tree_is_seen_through() {
        let mounts = "31 25 0:27 /docker/abc /cg rw - cgroup cgroup rw,memory\n";
        let place = version_one(Controller::Memory, "4:memory:/docker/abc/d\n", mounts);
        assert_eq!(place.unwrap().own, Path::new("/cg/d"));
        let outside = version_one(Controller::Memory, "4:memory:/other\n", mounts);
        assert!(outside.is_none());
    }

    #[test]
    fn what_is_not_available_is_named() {
        let failure = find(&limits(None, Some(1)), "0::/\n", HYBRID_MOUNTS).unwrap_err();
        assert!(
            failure.message.starts_with("--cpus: the cpu controller"),
            "{failure}"
        );
    }

    /// A directory with the files that a delegated group of version 2 has.
    fn delegated() -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let group = directory.path().join("user.scope");
        fs::create_dir_all(group.join(OWN_LEAF)).unwrap();
        fs::write(group.join("cgroup.controllers"), "cpu io memory pids\n").unwrap();
        fs::write(group.join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        let mounts = format!(
            "30 25 0:26 / {} rw shared:9 - cgroup2 cgroup2 rw\n",
            directory.path().display()
        );
        (directory, mounts)
    }

    #[test]
    fn version_2_steps_are_beside_the_leaf_of_the_build() {
        let (directory, mounts) = delegated();
        let limits = limits(Some(64 << 20), Some(1500));
        let places = find(&limits, "0::/user.scope/layercake-build\n", &mounts).unwrap();
        assert_eq!(places.len(), 1);
        let cgroups = Cgroups::at(&limits, places, false).unwrap();
        let group = cgroups.step().unwrap();
        let path = &group.directories()[0];
        assert_eq!(path.parent().unwrap(), directory.path().join("user.scope"));
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("cpu.max"), "150000 100000");
        fs::write(
            path.join("memory.events"),
            "oom 1\noom_kill 2\noom_group_kill 0\n",
        )
        .unwrap();
        fs::write(path.join("memory.peak"), "4096\n").unwrap();
        assert_eq!((group.oom_kills(), group.peak_memory()), (2, Some(4096)));
    }

    #[test]
    fn only_the_real_root_of_the_tree_may_hold_processes() {
        let (directory, mounts) = delegated();
        let limits = limits(None, Some(500));
        let place = |membership| find(&limits, membership, &mounts).unwrap().remove(0);
        assert!(has_top(&place("0::/user.scope\n")));
        // What a cgroup namespace shows as the root is none.
        fs::write(directory.path().join(TYPE), "domain\n").unwrap();
        let place = place("0::/user.scope\n");
        assert!(!has_top(&place));
        let cgroups = Cgroups::at(&limits, vec![place], true).unwrap();
        assert_eq!(
            cgroups.parents[0].own,
            directory.path().join("user.scope"),
            "root makes its groups where it is"
        );
    }

    #[test]
    fn version_2_controllers_that_the_group_lacks_are_named() {
        let (directory, mounts) = delegated();
        fs::write(
            directory.path().join("user.scope/cgroup.controllers"),
            "cpu\n",
        )
        .unwrap();
        let failure = find(&limits(Some(1), None), "0::/user.scope\n", &mounts).unwrap_err();
        assert!(
            failure.message.contains("the memory controller"),
            "{failure}"
        );
        assert!(failure.hints[0].contains("Delegate=yes"));
    }
}
