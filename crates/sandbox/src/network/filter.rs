//! A packet filter for a network namespace: what is meant for loopback leaves by no other device.
//!
//! Routes cannot do that: a socket bound to a device (`SO_BINDTODEVICE`, `IP_PKTINFO`) sends to
//! any address as if it were a neighbour, also when the routes say that it is unreachable.
//!
//! This is `nft` without nft: netlink messages as in include/uapi/linux/netfilter/nf_tables.h.

use std::io;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// Name of the table and of its chain.
const NAME: &[u8] = b"layercake\0";
/// Of every new network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: u32 = 1;

// Message types and flags: linux/netlink.h, linux/netfilter/nfnetlink.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NFPROTO_INET`: both versions of IP.
const FAMILY: u8 = 1;
const NESTED: u16 = 0x8000;
/// `NF_INET_LOCAL_OUT`: packets of this namespace's sockets.
const LOCAL_OUT: u32 = 3;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Keys of the expression `meta`.
const META_OIF: u32 = 5;
const META_NFPROTO: u32 = 15;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Where the destination address is in a header.
const IPV4_DESTINATION: u32 = 16;
const IPV6_DESTINATION: u32 = 24;

/// Beginnings of the addresses that are the host's own for a program on the host: `127.0.0.0/8`,
/// `0.0.0.0/8`, `::1`, `::`, and IPv4 addresses in IPv6 clothes.
const OWN: [(u8, u32, &[u8]); 5] = [
    (IPV4, IPV4_DESTINATION, &[127]),
    (IPV4, IPV4_DESTINATION, &[0]),
    (
        IPV6,
        IPV6_DESTINATION,
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ),
    (IPV6, IPV6_DESTINATION, &[0; 16]),
    (
        IPV6,
        IPV6_DESTINATION,
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
    ),
];

/// Installs the filter in the network namespace of this thread.
///
/// # Errors
/// When the kernel has no nf_tables, or may not load it.
pub(super) fn install() -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(NETFILTER),
    )?;
    let (batch, expected) = batch();
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &batch, SendFlags::empty(), &kernel)?;
    let mut acknowledged = 0;
    let mut buffer = [0; 8192];
    while acknowledged < expected {
        // The kernel has answered before `sendto` returned.
        let (length, _) = recv(&socket, &mut buffer, RecvFlags::DONTWAIT)?;
        acknowledged += answers(buffer.get(..length).unwrap_or_default())?;
    }
    Ok(())
}

/// Counts the acknowledgements among answers; the first error is one.
fn answers(mut bytes: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = u32::from_ne_bytes(*length) as usize;
        let kind = rest.first_chunk().map(|b| u16::from_ne_bytes(*b));
        // After the header of 16 bytes: a negative errno.
        let errno = bytes.get(16..).and_then(<[u8]>::first_chunk);
        let errno = errno.map(|b| i32::from_ne_bytes(*b));
        match (kind, errno) {
            (Some(ERROR), Some(0)) => count += 1,
            (Some(ERROR), Some(errno)) => return Err(io::Error::from_raw_os_error(-errno)),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        bytes = bytes
            .get(length.next_multiple_of(4).max(16)..)
            .unwrap_or_default();
    }
    Ok(count)
}

/// All messages, and how many acknowledgements they get.
fn batch() -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    message(&mut bytes, BATCH_BEGIN, REQUEST, 0, NFTABLES, &[]);
    let flags = REQUEST | ACK | CREATE | APPEND;
    let mut add = |kind, body: &[u8]| message(&mut bytes, kind, flags, FAMILY, 0, body);
    add(NEW_TABLE, &attribute(1, NAME));
    add(NEW_CHAIN, &chain());
    let to_loopback = [meta(META_OIF), equals(&LOOPBACK_INDEX.to_ne_bytes())];
    add(NEW_RULE, &rule(&to_loopback, ACCEPT));
    for (version, offset, beginning) in OWN {
        let matches = [
            meta(META_NFPROTO),
            equals(&[version]),
            payload(offset, beginning.len()),
            equals(beginning),
        ];
        add(NEW_RULE, &rule(&matches, DROP));
    }
    message(&mut bytes, BATCH_END, REQUEST, 0, NFTABLES, &[]);
    (bytes, 3 + OWN.len())
}

fn message(out: &mut Vec<u8>, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
    // `struct nlmsghdr` and `struct nfgenmsg`.
    let length = 16 + 4 + body.len() as u32;
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Sequence number and port: answers come in order, and there is nobody else.
    out.extend([0; 8]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(body);
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

fn chain() -> Vec<u8> {
    [
        attribute(1, NAME),
        attribute(3, NAME),
        nested(4, &[number(1, LOCAL_OUT), number(2, 0)]),
        attribute(7, b"filter\0"),
    ]
    .concat()
}

/// Packets for which all `matches` hold get the verdict.
fn rule(matches: &[Vec<u8>], verdict: u32) -> Vec<u8> {
    // NFTA_IMMEDIATE_DREG is the register of the verdict.
    let verdict = nested(2, &[nested(2, &[number(1, verdict)])]);
    let immediate = expression(b"immediate\0", &[number(1, 0), verdict]);
    let expressions = [matches, &[immediate]].concat();
    [
        attribute(1, NAME),
        attribute(2, NAME),
        nested(4, &expressions),
    ]
    .concat()
}

/// An element of a list of expressions.
fn expression(name: &[u8], data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, name), nested(2, data)])
}

/// Loads what is known about a packet into register 1.
fn meta(key: u32) -> Vec<u8> {
    expression(b"meta\0", &[number(1, 1), number(2, key)])
}

/// Loads bytes of the network header into register 1.
fn payload(offset: u32, length: usize) -> Vec<u8> {
    let data = [
        number(1, 1),
        number(2, 1),
        number(3, offset),
        number(4, length as u32),
    ];
    expression(b"payload\0", &data)
}

/// Goes on if register 1 begins with `value`.
fn equals(value: &[u8]) -> Vec<u8> {
    let data = [
        number(1, 1),
        number(2, 0),
        nested(3, &[attribute(1, value)]),
    ];
    expression(b"cmp\0", &data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, errno: i32) -> Vec<u8> {
        let mut bytes = 36_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(errno.to_ne_bytes());
        bytes.resize(36, 0);
        bytes
    }

    #[test]
    fn acknowledgements_are_counted_and_errors_told() {
        let two = [answer(ERROR, 0), answer(ERROR, 0)].concat();
        assert_eq!(answers(&two).unwrap(), 2);
        let refused = [answer(ERROR, 0), answer(ERROR, -libc::EOPNOTSUPP)].concat();
        let error = answers(&refused).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        assert!(answers(&answer(9, 0)).is_err());
        assert!(answers(&answer(ERROR, 0)[..17]).is_err());
    }

    #[test]
    fn messages_are_framed_and_padded() {
        let (bytes, expected) = batch();
        let mut rest = bytes.as_slice();
        let mut count = 0;
        while let Some((length, _)) = rest.split_first_chunk() {
            let length = u32::from_ne_bytes(*length) as usize;
            assert_eq!(length % 4, 0);
            rest = rest.get(length..).expect("a whole message");
            count += 1;
        }
        assert_eq!(count, expected + 2);
        assert_eq!(attribute(1, b"abc\0\0").len(), 12);
    }
}
