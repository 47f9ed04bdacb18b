//! Sets of capabilities.

/// A set as the kernel writes it: bit n for capability n.
const fn set(capabilities: &[u32]) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    while at < capabilities.len() {
        bits |= 1 << capabilities[at];
        at += 1;
    }
    bits
}

// Numbers from include/uapi/linux/capability.h.
pub(crate) const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
pub(crate) const FOWNER: u32 = 3;
const FSETID: u32 = 4;
const KILL: u32 = 5;
pub(crate) const SETGID: u32 = 6;
pub(crate) const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const NET_BIND_SERVICE: u32 = 10;
const NET_RAW: u32 = 13;
pub(crate) const SYS_CHROOT: u32 = 18;
pub(crate) const SYS_ADMIN: u32 = 21;
pub(crate) const MKNOD: u32 = 27;
const AUDIT_WRITE: u32 = 29;
const SETFCAP: u32 = 31;

/// What Docker and BuildKit give to a container by default (rule R32).
pub(crate) const DOCKER_DEFAULT: u64 = set(&[
    CHOWN,
    DAC_OVERRIDE,
    FOWNER,
    FSETID,
    KILL,
    SETGID,
    SETUID,
    SETPCAP,
    NET_BIND_SERVICE,
    NET_RAW,
    SYS_CHROOT,
    MKNOD,
    AUDIT_WRITE,
    SETFCAP,
]);

/// The same without raw sockets, which no packet filter sees.
pub(crate) const WITHOUT_RAW_SOCKETS: u64 = DOCKER_DEFAULT & !set(&[NET_RAW]);

/// What root needs to get out of a `chroot(2)`: another one, or the device of the disk.
pub(crate) const LEAVE_CHROOT: u64 = set(&[SYS_CHROOT, MKNOD]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r32_docker_default_is_the_value_seen_in_proc_status_of_a_container() {
        assert_eq!(DOCKER_DEFAULT, 0xa804_25fb);
    }
}
