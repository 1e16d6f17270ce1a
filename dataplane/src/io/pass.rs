//! Passing memory, sockets, files, events, fences and dma-bufs to another process.
//!
//! # What goes over
//!
//! A [`Pass`] holds a duplicate of one descriptor; [`Socket::pass`] sends it over a Unix socket as
//! one message: a header of [`HEADER_BYTES`] bytes that names the kind and the layout, with the
//! descriptor beside it (SCM_RIGHTS, `unix(7)`). [`Socket::receive_passed`] says what it expects
//! by its type and gets that, or an error.
//!
//! # What the receiver trusts
//!
//! Nothing. The header is checked, exactly one descriptor must have come, and the descriptor itself
//! is asked what it is: a slab or region must be a memfd whose size is sealed and large enough for
//! what the header says, before it is mapped; an event must be an eventfd, a fence a sync_file.
//! What does not fit is closed, and the error says what came instead. After an error the two
//! sides may disagree about where the next message begins on a stream socket: close it.
//!
//! Received memory can be written by the other process at any time, so it gives no `&[u8]`
//! ([`regions::Region::copy_in`] and `copy_out`, and spans for I/O); making leases of it is a
//! promise about the other process, and unsafe.
//!
//! # Waiting
//!
//! The waits are readiness operations of the proactor; the messages are moved by `sendmsg(2)` and
//! `recvmsg(2)` without waiting. Await one pass and one receive at a time on a socket, and none
//! beside other sends or receives on it. Dropping a future before it is done passes or takes
//! nothing, except that a receive dropped in the middle of a header that came in pieces loses it.
//!
//! Unsafe code: the promises a caller makes about memory that another process can write.

#![allow(unsafe_code)]

use super::{File, Local, Socket};
use crate::engine::descriptors::Class;
use crate::error::{Error, ErrorKind, Result};
use crate::op::Interest;
use crate::sys::{calls, rights, sockets};
use regions::{Region, Slab};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

const PASS: &str = "pass";
const RECEIVE: &str = "receive what was passed";
/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;
/// Names the format and its version.
const MAGIC: [u8; 8] = *b"dplpass1";

/// What kind of thing is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PassKind {
    /// Memory in equal slots.
    Slab,
    /// Memory.
    Region,
    /// A socket.
    Socket,
    /// A file, a pipe or a device.
    File,
    /// An eventfd.
    Event,
    /// A sync_file.
    Fence,
    /// A dma-buf.
    DmaBuf,
}

impl PassKind {
    const ALL: [PassKind; 7] = [
        PassKind::Slab,
        PassKind::Region,
        PassKind::Socket,
        PassKind::File,
        PassKind::Event,
        PassKind::Fence,
        PassKind::DmaBuf,
    ];

    fn code(self) -> u32 {
        self as u32 + 1
    }

    fn from_code(code: u32) -> Option<PassKind> {
        PassKind::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// The header of a message: magic, kind, bytes of a slot, bytes in use; little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: PassKind,
    slots: u32,
    slot_bytes: u64,
    len_bytes: u64,
}

impl Header {
    fn of(kind: PassKind) -> Header {
        Header { kind, slots: 0, slot_bytes: 0, len_bytes: 0 }
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.kind.code().to_le_bytes());
        bytes[12..16].copy_from_slice(&self.slots.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.slot_bytes.to_le_bytes());
        bytes[24..].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let (magic, rest) = bytes.split_at(8);
        let (kind, rest) = rest.split_first_chunk()?;
        let (slots, rest) = rest.split_first_chunk()?;
        let (slot_bytes, rest) = rest.split_first_chunk()?;
        let (len_bytes, _) = rest.split_first_chunk()?;
        let kind = PassKind::from_code(u32::from_le_bytes(*kind)).filter(|_| magic == MAGIC)?;
        Some(Header {
            kind,
            slots: u32::from_le_bytes(*slots),
            slot_bytes: u64::from_le_bytes(*slot_bytes),
            len_bytes: u64::from_le_bytes(*len_bytes),
        })
    }
}

fn invalid(name: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(name, ErrorKind::InvalidArgument, message)
}

fn lost(message: &'static str) -> Error {
    Error::new(RECEIVE, ErrorKind::DataLoss, message)
}

/// What the kernel calls the file behind a descriptor that has no path.
fn link_of(name: &'static str, fd: &OwnedFd) -> Result<String> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let link = std::fs::read_link(path).map_err(|error| {
        let message = "what kind of descriptor it is cannot be known without /proc";
        Error::from_io(name, &error).with_kind(ErrorKind::Unavailable).with_message(message)
    })?;
    Ok(link.to_string_lossy().into_owned())
}

/// Whether a descriptor is what it is said to be.
fn check(name: &'static str, kind: PassKind, fd: &OwnedFd) -> Result<()> {
    let class = || calls::classify(fd.as_raw_fd()).map_err(|error| Error::from_io(name, &error));
    let is_socket = |class| matches!(class, Class::Stream | Class::Datagram | Class::Listener);
    let fits = match kind {
        // Mapping it asks for more.
        PassKind::Slab | PassKind::Region => true,
        PassKind::Socket => is_socket(class()?),
        PassKind::File => !is_socket(class()?),
        PassKind::Event => link_of(name, fd)?.starts_with("anon_inode:[eventfd"),
        PassKind::Fence => link_of(name, fd)?.starts_with("anon_inode:sync_file"),
        PassKind::DmaBuf => {
            let link = link_of(name, fd)?;
            link.starts_with("/dmabuf:") || link.starts_with("anon_inode:dmabuf")
        }
    };
    match fits {
        true => Ok(()),
        false => Err(invalid(name, format!("the descriptor is no {kind:?}"))),
    }
}

/// Something to be passed: a duplicate of its descriptor, and what it is.
#[derive(Debug)]
pub struct Pass {
    header: Header,
    descriptor: OwnedFd,
}

impl Pass {
    fn checked(kind: PassKind, fd: impl AsFd) -> Result<Pass> {
        let descriptor =
            fd.as_fd().try_clone_to_owned().map_err(|error| Error::from_io(PASS, &error))?;
        check(PASS, kind, &descriptor)?;
        Ok(Pass { header: Header::of(kind), descriptor })
    }

    /// What it is.
    pub fn kind(&self) -> PassKind {
        self.header.kind
    }

    /// Memory made by [`Region::memfd`]. It is shared from now on.
    ///
    /// # Errors
    ///
    /// As [`Region::export`].
    pub fn region(region: &Region) -> Result<Pass> {
        let descriptor = region.export()?;
        let len_bytes = region.len_bytes() as u64;
        Ok(Pass { header: Header { len_bytes, ..Header::of(PassKind::Region) }, descriptor })
    }

    /// A slab, whole. Its spans give no `&[u8]` from now on; its leases still do.
    ///
    /// # Safety
    ///
    /// Whoever receives it writes no byte of a slot while a lease on that slot, or a slice that was
    /// borrowed from a span before, lives in this process: the two agree on whose turn it is.
    ///
    /// # Errors
    ///
    /// Unavailable for a slab over other memory than its own; Exhausted without descriptors.
    pub unsafe fn slab(slab: &Slab) -> Result<Pass> {
        // SAFETY: the caller's promise is the one that is asked for.
        let Some(descriptor) = (unsafe { slab.region().fd() }) else {
            let message = "the slab is over memory without a memfd; make it with Slab::new";
            return Err(Error::new(PASS, ErrorKind::Unavailable, message));
        };
        let descriptor =
            descriptor.try_clone_to_owned().map_err(|error| Error::from_io(PASS, &error))?;
        let header = Header {
            kind: PassKind::Slab,
            slots: slab.slots() as u32,
            slot_bytes: slab.slot_bytes() as u64,
            // The last slot's end: what pads the last page is no slot.
            len_bytes: ((slab.slots() - 1) * slab.stride_bytes() + slab.slot_bytes()) as u64,
        };
        Ok(Pass { header, descriptor })
    }

    /// A socket. Both processes have it then: drop this one to give it away.
    ///
    /// # Errors
    ///
    /// Closed; Exhausted without descriptors.
    pub fn socket(socket: &Socket) -> Result<Pass> {
        Pass::checked(PassKind::Socket, socket.duplicate(PASS)?)
    }

    /// A file, with its position and flags: both processes share them.
    ///
    /// # Errors
    ///
    /// As [`socket`](Self::socket).
    pub fn file(file: &File) -> Result<Pass> {
        Pass::checked(PassKind::File, file.duplicate(PASS)?)
    }

    /// An eventfd.
    ///
    /// # Errors
    ///
    /// InvalidArgument when it is none; Unavailable without `/proc`; Exhausted.
    pub fn event(fd: impl AsFd) -> Result<Pass> {
        Pass::checked(PassKind::Event, fd)
    }

    /// A sync_file.
    ///
    /// # Errors
    ///
    /// As [`event`](Self::event).
    pub fn fence(fd: impl AsFd) -> Result<Pass> {
        Pass::checked(PassKind::Fence, fd)
    }

    /// A dma-buf.
    ///
    /// # Errors
    ///
    /// As [`event`](Self::event).
    pub fn dma_buf(fd: impl AsFd) -> Result<Pass> {
        Pass::checked(PassKind::DmaBuf, fd)
    }
}

/// A slab of another process.
#[derive(Debug)]
pub struct PassedSlab {
    region: Region,
    slots: usize,
    slot_bytes: usize,
}

impl PassedSlab {
    /// Its memory, which the other process can write.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// How many slots it has.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// A slab over it, with free slots only: the other process knows nothing of its leases.
    ///
    /// # Safety
    ///
    /// As [`Slab::over`]: while a lease on a slot lives here, the other process does not write it.
    ///
    /// # Errors
    ///
    /// As [`Slab::over`].
    pub unsafe fn into_slab(self) -> Result<Slab> {
        // SAFETY: the caller's promise is the one that is asked for.
        Ok(unsafe { Slab::over(self.region, self.slot_bytes) }?)
    }
}

/// An eventfd of another process.
#[derive(Debug)]
pub struct PassedEvent(pub OwnedFd);

/// A sync_file of another process.
#[derive(Debug)]
pub struct PassedFence(pub OwnedFd);

/// A dma-buf of another process.
#[derive(Debug)]
pub struct PassedDmaBuf(pub OwnedFd);

/// What [`Socket::receive_passed`] can expect. Sealed.
pub trait Passed: sealed::Take {
    /// The kind that must come.
    const KIND: PassKind;
}

mod sealed {
    use super::{Header, Local, OwnedFd, Result};

    pub trait Take: Sized {
        #[doc(hidden)]
        #[allow(private_interfaces)]
        fn take(header: Header, fd: OwnedFd, local: &Local) -> Result<Self>;
    }
}

macro_rules! passed {
    ($name:ty, $kind:ident, |$header:ident, $fd:ident, $local:ident| $body:expr) => {
        impl Passed for $name {
            const KIND: PassKind = PassKind::$kind;
        }
        impl sealed::Take for $name {
            #[allow(private_interfaces, unused_variables)]
            fn take($header: Header, $fd: OwnedFd, $local: &Local) -> Result<Self> {
                $body
            }
        }
    };
}

passed!(PassedSlab, Slab, |header, fd, local| take_slab(header, fd));
passed!(Region, Region, |header, fd, local| {
    let len = usize::try_from(header.len_bytes).unwrap_or(usize::MAX);
    Ok(Region::from_memfd(fd, len)?)
});
passed!(Socket, Socket, |header, fd, local| {
    Ok(Socket::new(local.clone(), local.take_over(fd)?))
});
passed!(File, File, |header, fd, local| Ok(File::new(local.clone(), local.take_over(fd)?)));
passed!(PassedEvent, Event, |header, fd, local| Ok(PassedEvent(fd)));
passed!(PassedFence, Fence, |header, fd, local| Ok(PassedFence(fd)));
passed!(PassedDmaBuf, DmaBuf, |header, fd, local| Ok(PassedDmaBuf(fd)));

fn take_slab(header: Header, fd: OwnedFd) -> Result<PassedSlab> {
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (slots, slot_bytes) = (header.slots as usize, size(header.slot_bytes));
    let needed = slots.checked_mul(slot_bytes);
    if slots == 0 || slot_bytes == 0 || needed.is_none_or(|bytes| bytes > size(header.len_bytes)) {
        let message = format!(
            "{slots} slots of {slot_bytes} bytes are said to be in {} bytes",
            header.len_bytes
        );
        return Err(invalid(RECEIVE, message));
    }
    let region = Region::from_memfd(fd, size(header.len_bytes))?;
    Ok(PassedSlab { region, slots, slot_bytes })
}

impl Socket<Local> {
    /// Passes something over this Unix socket; the caller's own stays his.
    ///
    /// # Errors
    ///
    /// InvalidArgument on another kind of socket; Disconnected when the peer is gone; Exhausted
    /// when too many descriptors are on their way (ETOOMANYREFS); Closed.
    pub async fn pass(&self, what: &Pass) -> Result<()> {
        let bytes = what.header.to_bytes();
        loop {
            let number = self.unix_number(PASS)?;
            match rights::send(number, &bytes, &[&what.descriptor]) {
                Ok(HEADER_BYTES) => return Ok(()),
                Ok(_) => {
                    let message = "a part of the header went out; close the socket";
                    return Err(Error::new(PASS, ErrorKind::DataLoss, message));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(Interest::WRITABLE).await?;
                }
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    let message = "too many descriptors are on their way; let the peer receive, \
                                   or raise RLIMIT_NOFILE";
                    return Err(Error::from_io(PASS, &error)
                        .with_kind(ErrorKind::Exhausted)
                        .with_message(message));
                }
                Err(error) => return Err(Error::from_io(PASS, &error)),
            }
        }
    }

    /// Receives what the peer passes next over this Unix socket, which must be a `T`.
    ///
    /// # Errors
    ///
    /// InvalidArgument when something else came, which is closed, or on another kind of socket;
    /// Disconnected when the peer is gone; DataLoss when descriptors were lost on the way
    /// (RLIMIT_NOFILE) or the peer went in the middle; Exhausted; Closed.
    pub async fn receive_passed<T: Passed>(&self) -> Result<T> {
        let (header, descriptor) = self.receive_header().await?;
        if header.kind != T::KIND {
            let message = format!("expected a {:?}, a {:?} came; closed it", T::KIND, header.kind);
            return Err(invalid(RECEIVE, message));
        }
        check(RECEIVE, header.kind, &descriptor)?;
        T::take(header, descriptor, &self.local())
    }

    async fn receive_header(&self) -> Result<(Header, OwnedFd)> {
        let mut bytes = [0; HEADER_BYTES];
        let (mut filled, mut descriptor) = (0, None);
        while filled < HEADER_BYTES {
            let number = self.unix_number(RECEIVE)?;
            let arrived = match rights::receive(number, &mut bytes[filled..]) {
                Ok(arrived) => arrived,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(Interest::READABLE).await?;
                    continue;
                }
                Err(error) => return Err(Error::from_io(RECEIVE, &error)),
            };
            if arrived.is_cut {
                return Err(lost(
                    "descriptors were lost on the way; close some, or raise RLIMIT_NOFILE \
                     (`ulimit -n`)",
                ));
            }
            if arrived.is_long {
                return Err(invalid(RECEIVE, "the message is longer than a header"));
            }
            if arrived.bytes == 0 {
                return Err(ended(filled > 0));
            }
            filled += arrived.bytes;
            for one in arrived.descriptors {
                if descriptor.replace(one).is_some() {
                    return Err(invalid(RECEIVE, "several descriptors came; closed them"));
                }
            }
        }
        let header = Header::from_bytes(&bytes)
            .ok_or_else(|| invalid(RECEIVE, "the bytes are no header of a passed descriptor"))?;
        let none = || invalid(RECEIVE, "the header came without a descriptor");
        Ok((header, descriptor.ok_or_else(none)?))
    }

    /// The socket's number, if it is a Unix socket.
    fn unix_number(&self, name: &'static str) -> Result<i32> {
        let number = self.number(name)?;
        let address =
            sockets::local_address(number).map_err(|error| Error::from_io(name, &error))?;
        match address.inet() {
            None => Ok(number),
            Some(_) => Err(invalid(name, "descriptors pass over Unix sockets only")),
        }
    }
}

fn ended(in_the_middle: bool) -> Error {
    match in_the_middle {
        true => lost("the peer closed in the middle of a header"),
        false => Error::new(RECEIVE, ErrorKind::Disconnected, "the peer closed the socket"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        for kind in PassKind::ALL {
            let header = Header { kind, slots: 7, slot_bytes: 1 << 40, len_bytes: u64::MAX };
            assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
        }
    }

    #[test]
    fn other_bytes_are_no_header() {
        let good = Header::of(PassKind::File).to_bytes();
        for at in 0..12 {
            let mut bad = good;
            bad[at] ^= 0x80;
            assert_eq!(Header::from_bytes(&bad), None, "byte {at}");
        }
    }
}
