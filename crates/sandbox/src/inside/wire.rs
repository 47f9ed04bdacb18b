//! The messages between A and C, over a socket pair that keeps message boundaries.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::FDS_MAX;
use crate::cancel::retry;
use crate::error::EnterStep;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// A to C, with the descriptors to pass.
    Start,
    /// C to A: the namespaces exist; the user namespace, if there is one, has no maps yet.
    Unshared { needs_map: bool },
    /// C to A: `unshare` was refused.
    UnshareFailed { user_namespace: bool, errno: i32 },
    /// A to C: the ids are mapped.
    Mapped,
    /// C or W to A: a later step failed.
    Failed { step: EnterStep, errno: i32 },
    /// W to A: process 1 is about to return from `enter`.
    Ready,
}

const LENGTH: usize = 12;

impl Message {
    fn encode(self) -> [u8; LENGTH] {
        let (tag, detail, errno) = match self {
            Self::Start => (1, 0, 0),
            Self::Unshared { needs_map } => (2, u32::from(needs_map), 0),
            Self::UnshareFailed {
                user_namespace,
                errno,
            } => (3, u32::from(user_namespace), errno),
            Self::Mapped => (4, 0, 0),
            Self::Failed { step, errno } => (5, step as u32, errno),
            Self::Ready => (6, 0, 0),
        };
        let mut bytes = [0; LENGTH];
        let words = [
            u32::to_le_bytes(tag),
            detail.to_le_bytes(),
            errno.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(words.as_flattened()) {
            *to = *from;
        }
        bytes
    }

    fn decode(bytes: [u8; LENGTH]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let [tag, detail, errno] = words else {
            return None;
        };
        let detail = u32::from_le_bytes(*detail);
        let errno = i32::from_le_bytes(*errno);
        Some(match u32::from_le_bytes(*tag) {
            1 => Self::Start,
            2 => Self::Unshared {
                needs_map: detail != 0,
            },
            3 => Self::UnshareFailed {
                user_namespace: detail != 0,
                errno,
            },
            4 => Self::Mapped,
            5 => Self::Failed {
                step: *EnterStep::ALL.get(detail as usize)?,
                errno,
            },
            6 => Self::Ready,
            _ => return None,
        })
    }
}

/// Sends a message with descriptors.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: Message,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG.into());
    }
    let bytes = message.encode();
    retry(|| {
        sendmsg(
            socket,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives a message with its descriptors; `None` when the other side is gone.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut bytes = [0; LENGTH];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = retry(|| {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        recvmsg(
            &socket,
            &mut buffers,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    match Message::decode(bytes) {
        Some(message) if received.bytes == LENGTH => Ok(Some((message, fds))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let messages = [
            Message::Start,
            Message::Unshared { needs_map: true },
            Message::Unshared { needs_map: false },
            Message::UnshareFailed {
                user_namespace: true,
                errno: 1,
            },
            Message::Mapped,
            Message::Ready,
        ];
        let failures = EnterStep::ALL.map(|step| Message::Failed { step, errno: 13 });
        for message in messages.into_iter().chain(failures) {
            assert_eq!(Message::decode(message.encode()), Some(message));
        }
        assert_eq!(Message::decode([0; LENGTH]), None);
    }
}
