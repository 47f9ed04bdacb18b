//! Inside, without a pid namespace: what a step can do to processes that it sees.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use layercake_sandbox::spec::Processes;
use layercake_sandbox::watch;

use crate::Test;
use crate::fixture::{Fixture, PATIENCE, processes, set_mode, unique};

pub const TESTS: &[Test] = &[
    ("others_cannot_be_signalled", others_cannot_be_signalled),
    ("others_cannot_be_looked_into", others_cannot_be_looked_into),
    (
        "limits_of_others_cannot_be_set",
        limits_of_others_cannot_be_set,
    ),
    (
        "steps_cannot_reach_each_other",
        steps_cannot_reach_each_other,
    ),
    ("nothing_is_left_running", nothing_is_left_running),
    ("a_chain_of_forks_is_killed", a_chain_of_forks_is_killed),
    #[cfg(target_arch = "x86_64")]
    (
        "a_process_without_its_first_thread_is_killed",
        a_process_without_its_first_thread_is_killed,
    ),
];

/// In a step: tries to set a limit of another process.
pub fn limit() -> ExitCode {
    let pid = std::env::args().nth(2).and_then(|pid| pid.parse().ok());
    let pid = pid.and_then(Pid::from_raw);
    let limit = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    match prlimit(pid, Resource::Cpu, limit) {
        Ok(_) => println!("set"),
        Err(errno) => println!("{}", std::io::Error::from(errno)),
    }
    ExitCode::SUCCESS
}

/// A program whose first thread ends at once while another one goes on writing to descriptor 3.
#[cfg(target_arch = "x86_64")]
fn headless() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0xb8, 56, 0, 0, 0,                    // mov eax, clone
        0xbf, 0, 0x0f, 5, 0,                  // mov edi, the flags of a thread
        0x48, 0x8d, 0xb4, 0x24, 0, 0xf0, 0xff, 0xff, // lea rsi, [rsp - 4096]
        0x31, 0xd2, 0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0, // edx, r10d, r8d = 0
        0x0f, 5, 0x85, 0xc0, 0x74, 9,         // syscall; test eax, eax; jz the other
        0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 5, // exit(0) of this thread
        0xb8, 1, 0, 0, 0, 0xbf, 3, 0, 0, 0,   // the other: write to 3
        0x48, 0x89, 0xe6, 0xba, 1, 0, 0, 0, 0x0f, 5, // a byte of the stack
        0x68, 0x40, 0x42, 0x0f, 0, 0x6a, 0,   // push 1 ms
        0x48, 0x89, 0xe7, 0x31, 0xf6,         // its address, nothing
        0xb8, 35, 0, 0, 0, 0x0f, 5,           // nanosleep
        0x48, 0x83, 0xc4, 0x10, 0xeb, 0xd3,   // pop it; again
    ];
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0x40_0078_u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let size = 120 + code.len() as u64;
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, 0x40_0000, 0x40_0000, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// The process that runs steps, the one that waits for it, and the one that launched that.
fn own_processes() -> [String; 3] {
    let parent = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let rest = stat.rsplit_once(')').unwrap().1.to_owned();
        rest.split_whitespace().nth(1).unwrap().to_owned()
    };
    let own = std::process::id().to_string();
    let waiter = parent(&own);
    let launcher = parent(&waiter);
    [own, waiter, launcher]
}

/// Whether there is anything to test.
fn sees_others() -> bool {
    processes() == Processes::Host
}

fn others_cannot_be_signalled() {
    if !sees_others() {
        return;
    }
    if !watch::keeps_steps_apart() {
        println!("skipped: needs Landlock scopes (Linux 6.12)");
        return;
    }
    let others = own_processes().join(" ");
    let script = format!(
        "for p in {others}; do test -d /proc/$p && kill -0 $p 2>/dev/null && echo reached $p; \
         kill -0 -$p 2>/dev/null && echo reached group $p; done; echo end"
    );
    assert_eq!(Fixture::sh(&script).output(), "end\n");
    // Not before that is known: of the real root it would be the end of all processes.
    assert_eq!(Fixture::sh("kill -9 -1; echo end").output(), "end\n");
    let script = "sleep 600 & kill -9 $! && echo own";
    assert_eq!(Fixture::sh(script).output(), "own\n");
}

fn others_cannot_be_looked_into() {
    if !sees_others() {
        return;
    }
    let others = own_processes().join(" ");
    let script = format!(
        "for p in {others}; do for t in /proc/$p /proc/$p/task/*; do \
         cat $t/environ; ls $t/root/ $t/cwd/; readlink $t/root $t/cwd $t/exe; \
         readlink $t/fd/0 $t/fd/1 $t/ns/mnt; cat $t/fd/0; head -c 1 $t/mem; cat $t/maps; \
         done; done 2>/dev/null; echo end"
    );
    assert_eq!(Fixture::sh(&script).output(), "end\n");
}

fn limits_of_others_cannot_be_set() {
    if !sees_others() {
        return;
    }
    for pid in own_processes() {
        let mut fixture = Fixture::new(&["/program", "--limit", &pid]);
        let layer = fixture.directory("layer");
        std::fs::copy("/proc/self/exe", layer.join("program")).unwrap();
        set_mode(&layer.join("program"), 0o755);
        fixture.add_lower(layer);
        assert_eq!(fixture.output(), "Operation not permitted (os error 1)\n");
    }
}

/// The processes whose command line has the words.
fn running(words: &[&str]) -> Vec<String> {
    let line = words.join("\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes.filter(|entry| {
        let said = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        said.strip_suffix(b"\0") == Some(line.as_bytes())
    });
    found
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// A number of seconds, some years, that no other process sleeps.
fn long_time() -> String {
    let digits = u64::from_str_radix(&unique()[..8], 16).unwrap();
    (100_000_000 + digits % 800_000_000).to_string()
}

fn steps_cannot_reach_each_other() {
    if !sees_others() {
        return;
    }
    if !watch::keeps_steps_apart() {
        println!("skipped: needs Landlock scopes (Linux 6.12)");
        return;
    }
    let length = long_time();
    let victim = Fixture::new(&["sleep", &length]);
    std::thread::scope(|scope| {
        let step = scope.spawn(|| victim.run());
        let started = Instant::now();
        let pid = loop {
            if let Some(pid) = running(&["sleep", &length]).pop() {
                break pid;
            }
            assert!(started.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        };
        let script = format!(
            "kill -9 {pid} && echo killed; ls /proc/{pid}/root/; cat /proc/{pid}/environ; echo end"
        );
        let said = Fixture::sh(&script).output();
        victim.cancel.cancel();
        step.join().unwrap();
        assert_eq!(said, "end\n");
    });
}

fn nothing_is_left_running() {
    let length = long_time();
    let script = format!(
        "sleep {length} & setsid sleep {length} & (setsid sh -c '(sleep {length} &)' &); \
         trap '' TERM; sleep 0.1; echo end"
    );
    assert_eq!(Fixture::sh(&script).output(), "end\n");
    assert_eq!(running(&["sleep", &length]), [""; 0]);
}

/// Processes that live only until they have forked the next.
fn a_chain_of_forks_is_killed() {
    let script =
        "f() { echo >> /forks; f & }; f & f & f & until test -s /forks; do sleep 0.1; done";
    let fixture = Fixture::sh(script);
    fixture.output();
    let length = || {
        std::fs::metadata(fixture.upper().join("forks"))
            .unwrap()
            .len()
    };
    let before = length();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(length(), before);
}

/// It has no namespaces of its own to be seen.
#[cfg(target_arch = "x86_64")]
fn a_process_without_its_first_thread_is_killed() {
    let mut fixture =
        Fixture::sh("/headless 3>> /written & until test -s /written; do sleep 0.1; done");
    let layer = fixture.directory("layer");
    std::fs::write(layer.join("headless"), headless()).unwrap();
    set_mode(&layer.join("headless"), 0o755);
    fixture.add_lower(layer);
    fixture.output();
    let length = || {
        std::fs::metadata(fixture.upper().join("written"))
            .unwrap()
            .len()
    };
    let before = length();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(length(), before);
}
