//! [`Network::Sandbox`](crate::spec::Network::Sandbox): a network namespace that reaches the outside through `pasta`.
//!
//! pasta (package passt, <https://passt.top>) copies what the step sends on a tap device to
//! ordinary sockets of the host, so nobody needs a right to set up networks. Each step has a
//! namespace and a pasta of its own; steps wait for nobody else's.
//!
//! What a step must not reach is the loopback of the host, on which people let things listen that
//! ask for no password:
//!
//! * nothing is forwarded (`-t none` and its kin), the gateway is not the host (`--no-map-gw`);
//! * versions of pasta before 2024 deliver whatever arrives on the tap device, and a socket bound
//!   to a device may send to 127.0.0.1 on it: a [`filter`] drops that;
//! * raw frames pass by the filter, so steps have no `CAP_NET_RAW`; `ping` works without it.
//!
//! pasta is a child of process 1 of a pid namespace: it ends with the step, and when the build is
//! killed, with that namespace.

mod filter;
mod pasta;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::cancel::Cancel;
use crate::child;
use crate::error::Error;
use crate::spec::{Outcome, Status};
use crate::sys;
use pasta::Pasta;

/// The address at which a step finds the first IPv4 name server of the host, if asked
/// for: it may listen on the host's loopback only. Link-local, so it is nobody else's.
pub const DNS_FORWARD: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);

/// Settings of the new namespace, all of them best effort: a container around may have a read-only
/// /proc/sys.
const SETTINGS: [(&str, &str); 4] = [
    // Everybody may ping, as in containers of Docker, although nobody has raw sockets. Where there
    // is one id only, the second is refused.
    ("ipv4/ping_group_range", "0 0"),
    ("ipv4/ping_group_range", "0 65535"),
    // Addresses are usable at once: there is nobody else on this network.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
];

/// Calls `step` with a namespace that is connected, until the call returns.
///
/// # Errors
/// When a connection cannot be had, those of `step`, and when a step failed whose connection got
/// lost: then that is why.
pub(crate) fn connected(
    forward_dns: bool,
    cancel: &Cancel,
    step: impl FnOnce(BorrowedFd<'_>) -> Result<Outcome, Error>,
) -> Result<Outcome, Error> {
    let (namespace, mut pasta) = connect(forward_dns, cancel)?;
    // When it was cancelled meanwhile, `step` says so.
    let outcome = step(namespace.as_fd())?;
    match (&outcome.status, pasta.broken()) {
        (Status::Exited(0) | Status::Cancelled, _) | (_, None) => Ok(outcome),
        (_, Some(error)) => Err(error),
    }
}

/// Whether all that [`connected`] needs works here.
///
/// # Errors
/// What does not.
pub(crate) fn probe() -> Result<(), Error> {
    connect(false, &Cancel::new()?).map(drop)
}

fn connect(forward_dns: bool, cancel: &Cancel) -> Result<(OwnedFd, Pasta), Error> {
    let program = pasta::find()?;
    let (namespace, filtered) = new_namespace()?;
    if let Err(source) = filtered {
        pasta::refuses_loopback(&program, source)?;
    }
    let mut pasta = Pasta::start(&program, namespace.as_fd(), forward_dns)?;
    pasta.wait(cancel)?;
    Ok((namespace, pasta))
}

/// Makes a network namespace with its loopback up, and says whether it has a [`filter`].
fn new_namespace() -> Result<(OwnedFd, io::Result<()>), Error> {
    let failed = |source: io::Error| Error::NetworkNamespace { source };
    // A thread can be in another network namespace than its process.
    let thread = std::thread::Builder::new().spawn(|| {
        sys::unshare(libc::CLONE_NEWNET)?;
        child::loopback_up()?;
        for (name, value) in SETTINGS {
            let _ = std::fs::write(format!("/proc/sys/net/{name}"), value);
        }
        let filtered = filter::install();
        let namespace = File::open("/proc/thread-self/ns/net")?;
        Ok((OwnedFd::from(namespace), filtered))
    });
    let result = thread.map_err(failed)?.join();
    result
        .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        .map_err(failed)
}
