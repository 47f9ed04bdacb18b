//! The system calls a step may not make.
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
pub(super) struct Denied {
    // Read by the test that compares the numbers with the C library's.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "names make the table reviewable")
    )]
    pub(super) name: &'static str,
    pub(super) numbers: [u32; 4],
}

#[rustfmt::skip]
pub(super) const DENIED: &[Denied] = &[
    Denied { name: "acct", numbers: [163, 51, 89, 51] },
    Denied { name: "add_key", numbers: [248, 286, 217, 309] },
    Denied { name: "bpf", numbers: [321, 357, 280, 386] },
    Denied { name: "clock_settime", numbers: [227, 264, 112, 262] },
    Denied { name: "clock_settime64", numbers: [NONE, 404, NONE, 404] },
    Denied { name: "create_module", numbers: [174, 127, NONE, NONE] },
    Denied { name: "delete_module", numbers: [176, 129, 106, 129] },
    Denied { name: "fanotify_init", numbers: [300, 338, 262, 367] },
    Denied { name: "finit_module", numbers: [313, 350, 273, 379] },
    Denied { name: "fsconfig", numbers: [431, 431, 431, 431] },
    Denied { name: "fsmount", numbers: [432, 432, 432, 432] },
    Denied { name: "fsopen", numbers: [430, 430, 430, 430] },
    Denied { name: "fspick", numbers: [433, 433, 433, 433] },
    Denied { name: "get_kernel_syms", numbers: [177, 130, NONE, NONE] },
    Denied { name: "get_mempolicy", numbers: [239, 275, 236, 320] },
    Denied { name: "init_module", numbers: [175, 128, 105, 128] },
    Denied { name: "ioperm", numbers: [173, 101, NONE, NONE] },
    Denied { name: "iopl", numbers: [172, 110, NONE, NONE] },
    Denied { name: "io_uring_enter", numbers: [426, 426, 426, 426] },
    Denied { name: "io_uring_register", numbers: [427, 427, 427, 427] },
    Denied { name: "io_uring_setup", numbers: [425, 425, 425, 425] },
    Denied { name: "kcmp", numbers: [312, 349, 272, 378] },
    Denied { name: "kexec_file_load", numbers: [320, NONE, 294, 401] },
    Denied { name: "kexec_load", numbers: [246, 283, 104, 347] },
    Denied { name: "keyctl", numbers: [250, 288, 219, 311] },
    Denied { name: "lookup_dcookie", numbers: [212, 253, 18, 249] },
    Denied { name: "lsm_get_self_attr", numbers: [459, 459, 459, 459] },
    Denied { name: "lsm_list_modules", numbers: [461, 461, 461, 461] },
    Denied { name: "lsm_set_self_attr", numbers: [460, 460, 460, 460] },
    Denied { name: "mbind", numbers: [237, 274, 235, 319] },
    Denied { name: "migrate_pages", numbers: [256, 294, 238, 400] },
    Denied { name: "mount", numbers: [165, 21, 40, 21] },
    Denied { name: "mount_setattr", numbers: [442, 442, 442, 442] },
    Denied { name: "move_mount", numbers: [429, 429, 429, 429] },
    Denied { name: "move_pages", numbers: [279, 317, 239, 344] },
    Denied { name: "nfsservctl", numbers: [180, 169, 42, 169] },
    Denied { name: "open_by_handle_at", numbers: [304, 342, 265, 371] },
    Denied { name: "open_tree", numbers: [428, 428, 428, 428] },
    Denied { name: "perf_event_open", numbers: [298, 336, 241, 364] },
    Denied { name: "pidfd_getfd", numbers: [438, 438, 438, 438] },
    Denied { name: "pivot_root", numbers: [155, 217, 41, 218] },
    Denied { name: "process_madvise", numbers: [440, 440, 440, 440] },
    Denied { name: "query_module", numbers: [178, 167, NONE, NONE] },
    Denied { name: "quotactl", numbers: [179, 131, 60, 131] },
    Denied { name: "quotactl_fd", numbers: [443, 443, 443, 443] },
    Denied { name: "reboot", numbers: [169, 88, 142, 88] },
    Denied { name: "request_key", numbers: [249, 287, 218, 310] },
    Denied { name: "setdomainname", numbers: [171, 121, 162, 121] },
    Denied { name: "sethostname", numbers: [170, 74, 161, 74] },
    Denied { name: "set_mempolicy", numbers: [238, 276, 237, 321] },
    Denied { name: "set_mempolicy_home_node", numbers: [450, 450, 450, 450] },
    Denied { name: "setns", numbers: [308, 346, 268, 375] },
    Denied { name: "settimeofday", numbers: [164, 79, 170, 79] },
    Denied { name: "stime", numbers: [NONE, 25, NONE, NONE] },
    Denied { name: "swapoff", numbers: [168, 115, 225, 115] },
    Denied { name: "swapon", numbers: [167, 87, 224, 87] },
    Denied { name: "_sysctl", numbers: [156, 149, NONE, 149] },
    Denied { name: "sysfs", numbers: [139, 135, NONE, 135] },
    Denied { name: "syslog", numbers: [103, 103, 116, 103] },
    Denied { name: "umount", numbers: [NONE, 22, NONE, NONE] },
    Denied { name: "umount2", numbers: [166, 52, 39, 52] },
    Denied { name: "unshare", numbers: [272, 310, 97, 337] },
    Denied { name: "uselib", numbers: [134, 86, NONE, 86] },
    Denied { name: "userfaultfd", numbers: [323, 374, 282, 388] },
    Denied { name: "ustat", numbers: [136, 62, NONE, 62] },
    Denied { name: "vhangup", numbers: [153, 111, 58, 111] },
    Denied { name: "vm86", numbers: [NONE, 166, NONE, NONE] },
    Denied { name: "vm86old", numbers: [NONE, 113, NONE, NONE] },
];
