//! Which of the ways to run steps this machine allows: tried with real operations, the best first,
//! and remembered until the next boot.

use std::path::{Path, PathBuf};

use sandbox::inside::Isolation;
use sandbox::probe::{self, Extent, Probe};
use sandbox::spec::Processes;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FailureKind};
use crate::request::{BuildRequest, Snapshotter};

/// How steps will be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rung {
    pub(crate) isolation: Isolation,
    pub(crate) processes: Processes,
    pub(crate) snapshotter: Snapshotter,
}

impl Rung {
    /// Without a pid namespace where there could be one; that there is none in a chroot is known.
    fn shares_processes(self) -> bool {
        self.processes == Processes::Host && self.isolation != Isolation::Chroot
    }

    /// Nothing else keeps the processes of two steps apart.
    pub(crate) fn runs_one_by_one(self) -> bool {
        self.isolation == Isolation::Chroot
            || self.processes == Processes::Host && !sandbox::watch::keeps_steps_apart()
    }

    /// What cannot be had this way, for people (docs/rootless.md).
    pub(crate) fn limits(self) -> Vec<&'static str> {
        let mut limits = match self.isolation {
            Isolation::Chroot => vec![
                "RUN --network=none, --security=insecure, --shm-size, sizes of tmpfs mounts and \
                 read-only cache mounts are refused",
                "steps have no real /proc and /sys: programs that look at their own process there \
                 fail",
                "the container around it is all that keeps steps from other processes of root",
                "one RUN step runs at a time",
            ],
            Isolation::UserNamespace => vec!["RUN --security=insecure is refused"],
            Isolation::SingleId => vec![
                "RUN --security=insecure is refused",
                "32-bit programs are killed, as are 64-bit ones that make 32-bit calls",
                "what the user of a step may not do is mostly not refused: in truth every step is \
                 root of its own files",
            ],
            _ => Vec::new(),
        };
        if self.shares_processes() {
            limits.push(
                "steps have no process numbers of their own: they see the processes of the \
                 container",
            );
            if !sandbox::watch::keeps_steps_apart() {
                limits.push("steps can signal processes of the same user; one runs at a time");
            }
        }
        if self.snapshotter == Snapshotter::Plain {
            limits.push("the first RUN of a stage copies all files of its base");
        }
        limits
    }
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match self.isolation {
            Isolation::UserNamespace => "in a user namespace",
            Isolation::SingleId => "in a user namespace with one id; owners and users are emulated",
            Isolation::Root => "as root, in namespaces",
            Isolation::Chroot => "as root, in a chroot: no namespaces, no mounts",
            _ => "",
        };
        let roots = match self.snapshotter {
            Snapshotter::Overlay => "overlay file systems",
            Snapshotter::Plain => "plain directories",
        };
        let processes = if self.shares_processes() {
            ", without a process namespace: /proc is masked"
        } else {
            ""
        };
        let (isolation, snapshotter) = (self.isolation.name(), self.snapshotter.name());
        write!(
            f,
            "isolation {isolation} ({how}{processes}), snapshotter {snapshotter} ({roots})"
        )
    }
}

/// What the user decides; the rest is found out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) snapshotter: Option<Snapshotter>,
}

impl Wanted {
    pub(crate) fn of(request: &BuildRequest) -> Self {
        Self {
            isolation: request.isolation,
            snapshotter: request.snapshotter,
        }
    }
}

/// One way that was tried.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) isolation: Isolation,
    pub(crate) processes: Processes,
    pub(crate) probes: Result<Vec<Probe>, sandbox::Error>,
}

impl Attempt {
    /// The rung that it gives, when all that is required works.
    pub(crate) fn rung(&self) -> Option<Rung> {
        let probes = self.probes.as_ref().ok()?;
        if probes.is_empty() || probes.iter().any(|p| p.required && !p.ok) {
            return None;
        }
        let has_overlay = probes.iter().any(|p| p.name == probe::OVERLAY && p.ok);
        Some(Rung {
            isolation: self.isolation,
            processes: self.processes,
            snapshotter: if has_overlay {
                Snapshotter::Overlay
            } else {
                Snapshotter::Plain
            },
        })
    }

    /// Tried because a /proc of its own could not be had.
    pub(crate) fn is_fallback(&self) -> bool {
        self.processes == Processes::Host
    }

    /// A /proc of its own is what it could not have.
    fn has_masked_proc(&self) -> bool {
        let probes = self.probes.as_deref().unwrap_or_default();
        probes.iter().any(|p| p.name == probe::PROC && !p.ok)
    }

    fn failure(&self) -> Failure {
        match &self.probes {
            Err(error) => Failure::from(error),
            Ok(probes) => match probes.iter().find(|p| p.required && !p.ok) {
                Some(probe) => {
                    let message = format!("steps cannot be run: {}: {}", probe.name, probe.detail);
                    let mut failure = Failure::new(FailureKind::Environment, message);
                    failure.hints.extend(probe.remedy.clone());
                    failure
                }
                None => Failure::new(FailureKind::Environment, "steps cannot be run"),
            },
        }
    }
}

/// Tries the ways in order; the last of the result is the one to take, unless it failed as well.
/// With `all` the others are tried, too.
pub(crate) fn attempts(wanted: Wanted, directory: &Path, all: bool) -> Vec<Attempt> {
    let candidates = match wanted.isolation {
        Some(isolation) => vec![isolation],
        None => probe::candidates(),
    };
    let extent = if all { Extent::All } else { Extent::Decision };
    let mut attempts = Vec::new();
    let attempt = |isolation, processes| Attempt {
        isolation,
        processes,
        probes: probe::try_inside(isolation, processes, directory, extent),
    };
    for isolation in candidates {
        let own = attempt(isolation, Processes::Own);
        let is_masked = own.has_masked_proc();
        attempts.push(own);
        if is_masked {
            attempts.push(attempt(isolation, Processes::Host));
        }
        let works = attempts.last().is_some_and(|last| last.rung().is_some());
        if works && !all {
            break;
        }
    }
    attempts
}

/// What keeps the best way from working, and what would help the others.
fn failure(attempts: &[Attempt]) -> Failure {
    let none = || Failure::new(FailureKind::Environment, "steps cannot be run");
    let mut failure = attempts.first().map_or_else(none, Attempt::failure);
    for other in attempts.iter().skip(1) {
        let isolation = other.isolation.name();
        for hint in other.failure().hints {
            if !failure.hints.contains(&hint) {
                let hint = format!("or for isolation {isolation}: {hint}");
                failure.hints.push(hint);
            }
        }
    }
    failure.hint("layercake doctor shows what this machine allows")
}

/// Decides, from memory when this boot has been asked before.
///
/// # Errors
/// What keeps the best way from working, when none works.
pub(crate) fn choose(wanted: Wanted, store_root: &Path) -> Result<Rung, Failure> {
    let memory = Memory::of(wanted, store_root);
    if let Some(rung) = memory.recall() {
        return Ok(rung);
    }
    let attempts = attempts(wanted, store_root, false);
    let Some(found) = attempts.iter().find_map(Attempt::rung) else {
        return Err(failure(&attempts));
    };
    let rung = Rung {
        snapshotter: wanted.snapshotter.unwrap_or(found.snapshotter),
        ..found
    };
    if (rung.isolation, rung.snapshotter) == (Isolation::Chroot, Snapshotter::Overlay) {
        let message = "chroot isolation cannot mount overlays";
        return Err(Failure::new(FailureKind::Usage, message));
    }
    memory.keep(rung);
    Ok(rung)
}

/// What was found, in the store: `host/<digest of the circumstances>`.
struct Memory {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    isolation: String,
    processes: String,
    snapshotter: Snapshotter,
}

impl Memory {
    /// The same answers are expected of the same boot, user, namespaces, capabilities, filter,
    /// mounts of the kernel's file systems, helpers and file system.
    fn of(wanted: Wanted, store_root: &Path) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        add(env!("CARGO_PKG_VERSION").as_bytes());
        add(&std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default());
        for name in ["user", "mnt", "pid"] {
            let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
            add(link.as_os_str().as_encoded_bytes());
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let telling = ["Uid:", "Gid:", "CapEff:", "NoNewPrivs:", "Seccomp:"];
        for line in status.lines() {
            if telling.iter().any(|name| line.starts_with(name)) {
                add(line.as_bytes());
            }
        }
        // Containers that use one store after another may have the same numbers of namespaces.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines() {
            let target = line.split(' ').nth(4).unwrap_or_default();
            if target == "/" || target.starts_with("/proc") || target.starts_with("/sys") {
                add(line.as_bytes());
            }
        }
        for file in ["/etc/subuid", "/etc/subgid"] {
            add(&std::fs::read(file).unwrap_or_default());
        }
        for helper in helpers() {
            add(helper.as_os_str().as_encoded_bytes());
        }
        let device = rustix::fs::stat(store_root).map_or(0, |stat| stat.st_dev);
        add(&device.to_le_bytes());
        add(format!("{wanted:?}").as_bytes());
        let name = hasher.finalize().to_hex();
        Self {
            path: store_root.join("host").join(&name.as_str()[..32]),
        }
    }

    fn recall(&self) -> Option<Rung> {
        let remembered: Remembered =
            serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()?;
        Some(Rung {
            isolation: Isolation::from_name(&remembered.isolation)?,
            processes: Processes::from_name(&remembered.processes)?,
            snapshotter: remembered.snapshotter,
        })
    }

    /// Without it the next build asks again.
    fn keep(&self, rung: Rung) {
        let remembered = Remembered {
            isolation: rung.isolation.name().to_owned(),
            processes: rung.processes.name().to_owned(),
            snapshotter: rung.snapshotter,
        };
        let Some(directory) = self.path.parent() else {
            return;
        };
        let fresh = self.path.with_extension(std::process::id().to_string());
        if let Ok(json) = serde_json::to_vec(&remembered)
            && std::fs::create_dir_all(directory).is_ok()
            && std::fs::write(&fresh, json).is_ok()
        {
            std::fs::rename(&fresh, &self.path).ok();
        }
    }
}

/// The programs that map ids, where they are installed.
fn helpers() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    ["newuidmap", "newgidmap"]
        .into_iter()
        .flat_map(|name| {
            directories
                .iter()
                .map(move |directory| directory.join(name))
        })
        .filter(|path| path.is_file())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(name: &'static str, required: bool, ok: bool) -> Probe {
        Probe {
            name,
            ok,
            required,
            detail: String::new(),
            remedy: None,
        }
    }

    fn rung(probes: Vec<Probe>) -> Option<Snapshotter> {
        let attempt = Attempt {
            isolation: Isolation::UserNamespace,
            processes: Processes::Own,
            probes: Ok(probes),
        };
        attempt.rung().map(|rung| rung.snapshotter)
    }

    #[test]
    fn what_is_required_decides_and_overlays_are_a_bonus() {
        let works = || probe("mounts", true, true);
        let overlay = |ok| probe(probe::OVERLAY, false, ok);
        assert_eq!(
            rung(vec![works(), overlay(true)]),
            Some(Snapshotter::Overlay)
        );
        assert_eq!(
            rung(vec![works(), overlay(false)]),
            Some(Snapshotter::Plain)
        );
        assert_eq!(rung(vec![works()]), Some(Snapshotter::Plain));
        assert_eq!(
            rung(vec![probe("mounts", true, false), overlay(true)]),
            None
        );
        assert_eq!(rung(Vec::new()), None);
    }

    #[test]
    fn an_answer_is_remembered_for_the_same_question_only() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::of(Wanted::default(), directory.path());
        assert_eq!(memory.recall(), None);
        let rung = Rung {
            isolation: Isolation::Chroot,
            processes: Processes::Host,
            snapshotter: Snapshotter::Plain,
        };
        memory.keep(rung);
        assert_eq!(
            Memory::of(Wanted::default(), directory.path()).recall(),
            Some(rung)
        );
        let forced = Wanted {
            isolation: Some(Isolation::Root),
            snapshotter: None,
        };
        assert_eq!(Memory::of(forced, directory.path()).recall(), None);
    }
}
