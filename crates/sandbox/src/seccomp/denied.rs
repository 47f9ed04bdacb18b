//! The system calls a step may not make, and those it need not make.
//!
//! These are the calls that Docker's default profile (moby/profiles, `seccomp/default.json`) does
//! not allow to a container with Docker's default capabilities. Docker lists what is allowed; this
//! is the complement over every call that Linux 6.16 has, because a deny list keeps working
//! when a program uses a harmless call that is newer than the list. Obsolete calls that reach
//! nothing outside the calling process (`sgetmask`, `oldstat`, ...) are left out.

/// The call does not exist on that architecture.
pub(super) const NONE: u32 = u32::MAX;

/// The highest number any architecture knows in Docker's profile (`removexattrat`). Later calls
/// answer `ENOSYS`, as runc makes them, so that a program falls back to what it did before.
pub(super) const NEWEST: u32 = 466;

/// One call with its number on x86-64, i386, aarch64 and 32-bit Arm (EABI).
#[derive(Debug)]
pub(super) struct Call {
    // Read by the test that compares the numbers with the C library's.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "names make the table reviewable")
    )]
    pub(super) name: &'static str,
    pub(super) numbers: [u32; 4],
}

#[rustfmt::skip]
pub(super) const DENIED: &[Call] = &[
    Call { name: "acct", numbers: [163, 51, 89, 51] },
    Call { name: "add_key", numbers: [248, 286, 217, 309] },
    Call { name: "bpf", numbers: [321, 357, 280, 386] },
    Call { name: "clock_settime", numbers: [227, 264, 112, 262] },
    Call { name: "clock_settime64", numbers: [NONE, 404, NONE, 404] },
    Call { name: "create_module", numbers: [174, 127, NONE, NONE] },
    Call { name: "delete_module", numbers: [176, 129, 106, 129] },
    Call { name: "fanotify_init", numbers: [300, 338, 262, 367] },
    Call { name: "finit_module", numbers: [313, 350, 273, 379] },
    Call { name: "fsconfig", numbers: [431, 431, 431, 431] },
    Call { name: "fsmount", numbers: [432, 432, 432, 432] },
    Call { name: "fsopen", numbers: [430, 430, 430, 430] },
    Call { name: "fspick", numbers: [433, 433, 433, 433] },
    Call { name: "get_kernel_syms", numbers: [177, 130, NONE, NONE] },
    Call { name: "get_mempolicy", numbers: [239, 275, 236, 320] },
    Call { name: "init_module", numbers: [175, 128, 105, 128] },
    Call { name: "ioperm", numbers: [173, 101, NONE, NONE] },
    Call { name: "iopl", numbers: [172, 110, NONE, NONE] },
    Call { name: "io_uring_enter", numbers: [426, 426, 426, 426] },
    Call { name: "io_uring_register", numbers: [427, 427, 427, 427] },
    Call { name: "io_uring_setup", numbers: [425, 425, 425, 425] },
    Call { name: "kcmp", numbers: [312, 349, 272, 378] },
    Call { name: "kexec_file_load", numbers: [320, NONE, 294, 401] },
    Call { name: "kexec_load", numbers: [246, 283, 104, 347] },
    Call { name: "keyctl", numbers: [250, 288, 219, 311] },
    Call { name: "lookup_dcookie", numbers: [212, 253, 18, 249] },
    Call { name: "lsm_get_self_attr", numbers: [459, 459, 459, 459] },
    Call { name: "lsm_list_modules", numbers: [461, 461, 461, 461] },
    Call { name: "lsm_set_self_attr", numbers: [460, 460, 460, 460] },
    Call { name: "mbind", numbers: [237, 274, 235, 319] },
    Call { name: "migrate_pages", numbers: [256, 294, 238, 400] },
    Call { name: "mount", numbers: [165, 21, 40, 21] },
    Call { name: "mount_setattr", numbers: [442, 442, 442, 442] },
    Call { name: "move_mount", numbers: [429, 429, 429, 429] },
    Call { name: "move_pages", numbers: [279, 317, 239, 344] },
    Call { name: "nfsservctl", numbers: [180, 169, 42, 169] },
    Call { name: "open_by_handle_at", numbers: [304, 342, 265, 371] },
    Call { name: "open_tree", numbers: [428, 428, 428, 428] },
    Call { name: "perf_event_open", numbers: [298, 336, 241, 364] },
    Call { name: "pidfd_getfd", numbers: [438, 438, 438, 438] },
    Call { name: "pivot_root", numbers: [155, 217, 41, 218] },
    Call { name: "process_madvise", numbers: [440, 440, 440, 440] },
    Call { name: "query_module", numbers: [178, 167, NONE, NONE] },
    Call { name: "quotactl", numbers: [179, 131, 60, 131] },
    Call { name: "quotactl_fd", numbers: [443, 443, 443, 443] },
    Call { name: "reboot", numbers: [169, 88, 142, 88] },
    Call { name: "request_key", numbers: [249, 287, 218, 310] },
    Call { name: "setdomainname", numbers: [171, 121, 162, 121] },
    Call { name: "sethostname", numbers: [170, 74, 161, 74] },
    Call { name: "set_mempolicy", numbers: [238, 276, 237, 321] },
    Call { name: "set_mempolicy_home_node", numbers: [450, 450, 450, 450] },
    Call { name: "setns", numbers: [308, 346, 268, 375] },
    Call { name: "settimeofday", numbers: [164, 79, 170, 79] },
    Call { name: "stime", numbers: [NONE, 25, NONE, NONE] },
    Call { name: "swapoff", numbers: [168, 115, 225, 115] },
    Call { name: "swapon", numbers: [167, 87, 224, 87] },
    Call { name: "_sysctl", numbers: [156, 149, NONE, 149] },
    Call { name: "sysfs", numbers: [139, 135, NONE, 135] },
    Call { name: "syslog", numbers: [103, 103, 116, 103] },
    Call { name: "umount", numbers: [NONE, 22, NONE, NONE] },
    Call { name: "umount2", numbers: [166, 52, 39, 52] },
    Call { name: "unshare", numbers: [272, 310, 97, 337] },
    Call { name: "uselib", numbers: [134, 86, NONE, 86] },
    Call { name: "userfaultfd", numbers: [323, 374, 282, 388] },
    Call { name: "ustat", numbers: [136, 62, NONE, 62] },
    Call { name: "vhangup", numbers: [153, 111, 58, 111] },
    Call { name: "vm86", numbers: [NONE, 166, NONE, NONE] },
    Call { name: "vm86old", numbers: [NONE, 113, NONE, NONE] },
];

/// Calls that wait until something is on the disk; `msync` asks for more than that (see
/// [`super::Syncs`]).
#[rustfmt::skip]
pub(super) const SYNCS: &[Call] = &[
    Call { name: "fdatasync", numbers: [75, 148, 83, 148] },
    Call { name: "fsync", numbers: [74, 118, 82, 118] },
    Call { name: "sync", numbers: [162, 36, 81, 36] },
    Call { name: "sync_file_range", numbers: [277, 314, 84, NONE] },
    Call { name: "sync_file_range2", numbers: [NONE, NONE, NONE, 341] },
    Call { name: "syncfs", numbers: [306, 344, 267, 373] },
];
