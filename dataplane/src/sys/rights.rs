//! Descriptors in messages of Unix sockets: SCM_RIGHTS (`unix(7)`, `cmsg(3)`).
//!
//! Nothing here waits: `EAGAIN` is an error like others. Every descriptor that arrives is owned and
//! close-on-exec before this returns, also those of a message that was cut short: the kernel sets
//! MSG_CTRUNC and installs what fits, so whoever only looks at that flag leaks.
//!
//! Unsafe code: walking the control messages the kernel wrote.

#![allow(unsafe_code)]

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Room for the most descriptors of one message (SCM_MAX_FD, 253) and for credentials beside them.
const CONTROL_WORDS: usize = 160;

/// What one receive brought.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) bytes: usize,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Some descriptors were lost on the way (MSG_CTRUNC).
    pub(crate) is_cut: bool,
    /// The message was longer than the room for it (MSG_TRUNC).
    pub(crate) is_long: bool,
}

/// Sends bytes with descriptors; how many bytes went out.
pub(crate) fn send(socket: RawFd, bytes: &[u8], descriptors: &[&OwnedFd]) -> io::Result<usize> {
    let numbers: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let control = if numbers.is_empty() { &control[..0] } else { &control[..] };
    Ok(sendmsg::<()>(socket, &[IoSlice::new(bytes)], control, flags, None)?)
}

/// Receives bytes and whatever descriptors come with them.
pub(crate) fn receive(socket: RawFd, into: &mut [u8]) -> io::Result<Arrived> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: zero is a value of every field.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header names a buffer and a control buffer that live through the call.
    let result = unsafe { libc::recvmsg(socket, &raw mut header, flags) };
    let Ok(bytes) = usize::try_from(result) else { return Err(io::Error::last_os_error()) };
    Ok(Arrived {
        bytes,
        descriptors: own_all(&header),
        is_cut: header.msg_flags & libc::MSG_CTRUNC != 0,
        is_long: header.msg_flags & libc::MSG_TRUNC != 0,
    })
}

/// Owns every descriptor of the control messages.
fn own_all(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut owned = Vec::new();
    // SAFETY: the kernel wrote the control buffer and its length; the macros stay inside it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !at.is_null() {
        // SAFETY: a control message the kernel wrote, in a buffer aligned for it.
        let message = unsafe { *at };
        if (message.cmsg_level, message.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: its data begins there.
            let data = unsafe { libc::CMSG_DATA(at) };
            let bytes = (message.cmsg_len as usize).saturating_sub(data as usize - at as usize);
            for n in 0..bytes / size_of::<RawFd>() {
                // SAFETY: the message holds that many numbers, each a new descriptor of this
                // process that nobody else has seen.
                owned.push(unsafe {
                    OwnedFd::from_raw_fd(data.cast::<RawFd>().add(n).read_unaligned())
                });
            }
        }
        // SAFETY: as for the first.
        at = unsafe { libc::CMSG_NXTHDR(header, at) };
    }
    owned
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn events(count: usize) -> Vec<OwnedFd> {
        (0..count)
            .map(|_| nix::sys::eventfd::EventFd::new().expect("a descriptor").into())
            .collect()
    }

    #[test]
    fn the_most_descriptors_of_a_message_arrive() {
        let (a, b) = UnixStream::pair().expect("two descriptors");
        let sent = events(253);
        let all: Vec<_> = sent.iter().collect();
        assert_eq!(send(a.as_raw_fd(), b"x", &all).expect("room"), 1);
        let mut bytes = [0; 8];
        let arrived = receive(b.as_raw_fd(), &mut bytes).expect("a message");
        assert_eq!((arrived.bytes, arrived.descriptors.len()), (1, 253));
        assert!(!arrived.is_cut && !arrived.is_long);
    }

    #[test]
    fn nothing_waits() {
        let (a, b) = UnixStream::pair().expect("two descriptors");
        let empty = receive(b.as_raw_fd(), &mut [0; 8]).map(drop);
        assert_eq!(empty.map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        let full = loop {
            if let Err(error) = send(a.as_raw_fd(), &[0; 4096], &[]) {
                break error.kind();
            }
        };
        assert_eq!(full, io::ErrorKind::WouldBlock);
    }
}
