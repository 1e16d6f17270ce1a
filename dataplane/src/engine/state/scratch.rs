//! Scratch: what the kernel reads or writes besides buffers, one per operation slot.
//!
//! A connect needs an address, a message call a header, an address and its vectors, and with
//! io_uring the kernel may look at them until the last completion. They stand in the slot's
//! [`Scratch`], which never moves, and not in the operation, which is moved in and out.
//!
//! # Rules
//!
//! * A `*mut Scratch` comes from the slot table alone, and points to the scratch of the slot whose
//!   operation is being resolved: writable, at its final place, for as long as the table lives,
//!   initialised or not. That is what makes the functions here safe to call; nothing else in this
//!   crate makes such a pointer.
//! * No reference to a scratch is ever made, only raw pointers to its fields: the kernel may read
//!   or write it at any time between submission and the last completion.
//! * It is written when an operation is resolved, before the kernel has it, and read when its
//!   result came. Writing it anew when the operation is submitted again is the same step again.
//! * The functions leave nothing uninitialised that the kernel or [`load_address`] reads.
//!
//! Messages of up to [`INLINE`] vectors stand in the scratch; longer ones in [`Vectors`], which
//! the operation owns and which keeps its memory from one submission to the next. What vectors
//! point at belongs to the operation's spans and leases: the pointers are good while the
//! operation stays in its slot.
//!
//! # Unsafe
//!
//! Writes and reads through the raw pointer, and casts between the socket address structures.
//!
//! Thread: the poll owner's.

#![allow(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use crate::io::Address;
use libc::{c_void, iovec, msghdr, sockaddr, sockaddr_storage, socklen_t};
use regions::{Lease, Span, SpanList};
use std::fmt;
use std::ptr::{self, addr_of, addr_of_mut};

/// Vectors of a message that need no memory of their own.
pub(crate) const INLINE: usize = 8;
/// Most vectors of one message (`IOV_MAX`, `writev(2)`).
pub(crate) const MAX_VECTORS: usize = 1024;

/// See the head of this file.
#[repr(C)]
pub struct Scratch {
    name: sockaddr_storage,
    message: msghdr,
    vectors: [iovec; INLINE],
}

/// A socket address structure of a family.
///
/// # Safety
///
/// Plain integers in any combination, no padding, not larger or more strictly aligned than
/// `sockaddr_storage`.
pub(crate) unsafe trait SocketName: Copy {}

// SAFETY: integers only; the system's headers lay the three out without padding.
unsafe impl SocketName for libc::sockaddr_in {}
// SAFETY: as above.
unsafe impl SocketName for libc::sockaddr_in6 {}
// SAFETY: as above.
unsafe impl SocketName for libc::sockaddr_un {}

/// The general form of a socket address, zero behind it, and the size of the special one.
pub(crate) fn widen<N: SocketName>(name: N) -> (sockaddr_storage, socklen_t) {
    const { assert!(size_of::<N>() <= size_of::<sockaddr_storage>()) };
    const { assert!(align_of::<N>() <= align_of::<sockaddr_storage>()) };
    // SAFETY: all its fields are integers, for which zero is a value.
    let mut storage: sockaddr_storage = unsafe { std::mem::zeroed() };
    // SAFETY: it is large and aligned enough, see above, and ours.
    unsafe { addr_of_mut!(storage).cast::<N>().write(name) };
    (storage, size_of::<N>() as socklen_t)
}

/// The first bytes of a general socket address as a special one. The family is the caller's care:
/// a wrong one gives wrong numbers, nothing worse.
pub(crate) fn narrow<N: SocketName>(storage: &sockaddr_storage) -> N {
    const { assert!(size_of::<N>() <= size_of::<sockaddr_storage>()) };
    const { assert!(align_of::<N>() <= align_of::<sockaddr_storage>()) };
    // SAFETY: large and aligned enough, initialised, and any bytes are a value of N.
    unsafe { ptr::from_ref(storage).cast::<N>().read() }
}

/// Puts an address where the kernel can read it.
pub(crate) fn store_address(
    scratch: *mut Scratch,
    address: &Address,
) -> (*const sockaddr, socklen_t) {
    let (storage, bytes) = address.to_storage();
    // SAFETY: the pointer is the slot table's (head of this file); no reference is made.
    unsafe {
        let name = addr_of_mut!((*scratch).name);
        name.write(storage);
        (name.cast_const().cast::<sockaddr>(), bytes)
    }
}

/// The address a receive with [`message_from`] brought, after it succeeded.
pub(crate) fn load_address(scratch: *mut Scratch) -> Address {
    // SAFETY: the pointer is the slot table's; `message_from` initialised both fields and the
    // kernel is done with them, so they are read by value.
    let (storage, bytes) = unsafe {
        (addr_of!((*scratch).name).read(), addr_of!((*scratch).message.msg_namelen).read())
    };
    Address::from_storage(&storage, bytes)
}

/// A message of one span to an address; to the connected peer when it is unnamed.
pub(crate) fn message_to(scratch: *mut Scratch, address: &Address, span: &Span) -> *const msghdr {
    let (name, bytes) = match address {
        Address::Unnamed => (ptr::null(), 0),
        address => store_address(scratch, address),
    };
    let vector = vector(span.as_ptr().cast_mut(), span.len());
    // SAFETY: the pointer is the slot table's; no reference is made.
    let vectors = unsafe {
        let vectors = addr_of_mut!((*scratch).vectors).cast::<iovec>();
        vectors.write(vector);
        vectors
    };
    write_message(scratch, (name.cast_mut().cast(), bytes), (vectors, 1))
}

/// A message to receive one datagram into a lease, and its sender's address beside it.
pub(crate) fn message_from(scratch: *mut Scratch, lease: &mut Lease) -> *mut msghdr {
    let vector = vector(lease.as_mut_ptr(), lease.len());
    // SAFETY: the pointer is the slot table's; no reference is made. Zero is an address of no
    // family, which is what stays there when the kernel writes none.
    let (name, vectors) = unsafe {
        let name = addr_of_mut!((*scratch).name);
        ptr::write_bytes(name, 0, 1);
        let vectors = addr_of_mut!((*scratch).vectors).cast::<iovec>();
        vectors.write(vector);
        (name, vectors)
    };
    let room = size_of::<sockaddr_storage>() as socklen_t;
    write_message(scratch, (name.cast(), room), (vectors, 1))
}

fn vector(at: *mut u8, bytes: usize) -> iovec {
    iovec { iov_base: at.cast::<c_void>(), iov_len: bytes }
}

fn write_message(
    scratch: *mut Scratch,
    name: (*mut c_void, socklen_t),
    vectors: (*mut iovec, usize),
) -> *mut msghdr {
    // SAFETY: zero is a value of every field of msghdr.
    let mut header: msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.0;
    header.msg_namelen = name.1;
    header.msg_iov = vectors.0;
    header.msg_iovlen = vectors.1 as _;
    // SAFETY: the pointer is the slot table's; no reference is made.
    unsafe {
        let message = addr_of_mut!((*scratch).message);
        message.write(header);
        message
    }
}

/// Vectors of a message that do not fit in the scratch. Holds nothing until there are more than
/// [`INLINE`], and keeps its memory until its operation ends.
#[derive(Default)]
pub(crate) struct Vectors {
    // A thin pointer: operations are stored by value, and few have that many vectors.
    #[allow(clippy::box_collection)]
    many: Option<Box<Vec<iovec>>>,
}

const _: () = assert!(size_of::<Vectors>() == 8);

// SAFETY: the pointers in it are plain values that are only ever followed by the kernel, for an
// operation that owns what they point at.
unsafe impl Send for Vectors {}

impl fmt::Debug for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outside = self.many.as_ref().map_or(0, |many| many.len());
        f.debug_struct("Vectors").field("outside_the_slot", &outside).finish()
    }
}

impl Vectors {
    /// A message of spans less their first `skip_bytes`, which were sent already.
    pub(crate) fn gather(
        &mut self,
        scratch: *mut Scratch,
        spans: &SpanList,
        skip_bytes: usize,
    ) -> *const msghdr {
        let mut skip = skip_bytes;
        let vectors = spans.iter().map(move |span| {
            let skipped = skip.min(span.len());
            skip -= skipped;
            vector(span.as_ptr().wrapping_add(skipped).cast_mut(), span.len() - skipped)
        });
        self.message(scratch, vectors)
    }

    /// A message to receive into leases in order.
    pub(crate) fn gather_mut(
        &mut self,
        scratch: *mut Scratch,
        leases: &mut [Lease],
    ) -> *mut msghdr {
        let vectors = leases.iter_mut().map(|lease| vector(lease.as_mut_ptr(), lease.len()));
        self.message(scratch, vectors)
    }

    /// Empty vectors are left out: what is left of a long list may fit in the scratch.
    fn message(
        &mut self,
        scratch: *mut Scratch,
        vectors: impl Iterator<Item = iovec>,
    ) -> *mut msghdr {
        let mut vectors = vectors.filter(|vector| vector.iov_len > 0);
        // SAFETY: the pointer is the slot table's; no reference is made.
        let inline = unsafe { addr_of_mut!((*scratch).vectors).cast::<iovec>() };
        let mut count = 0;
        for vector in vectors.by_ref().take(INLINE) {
            // SAFETY: one of the INLINE places.
            unsafe { inline.add(count).write(vector) };
            count += 1;
        }
        let none = (ptr::null_mut(), 0);
        let Some(ninth) = vectors.next() else {
            return write_message(scratch, none, (inline, count));
        };
        let many = self.many.get_or_insert_default();
        many.clear();
        for index in 0..count {
            // SAFETY: `count` places were written above.
            many.push(unsafe { inline.add(index).read() });
        }
        many.push(ninth);
        many.extend(vectors);
        write_message(scratch, none, (many.as_mut_ptr(), many.len()))
    }
}

/// Refuses a message of no vectors, or of more than one call takes.
pub(crate) fn check_vectors(name: &'static str, count: usize) -> Result<()> {
    let message = match count {
        0 => "no buffer was given; give at least one".to_string(),
        1..=MAX_VECTORS => return Ok(()),
        _ => format!("{count} buffers, and one call takes {MAX_VECTORS}; use several calls"),
    };
    Err(Error::new(name, ErrorKind::InvalidArgument, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::calls;
    use regions::Slab;
    use std::mem::MaybeUninit;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    /// As a slot has it: never initialised.
    fn slot() -> Box<MaybeUninit<Scratch>> {
        Box::new(MaybeUninit::uninit())
    }

    fn lease(bytes: usize) -> Lease {
        Slab::new(1, bytes).unwrap().lease().unwrap()
    }

    /// Sends to `to`, receives there, and returns the bytes and the sender that was reported.
    fn exchange(from: &impl AsRawFd, at: &impl AsRawFd, to: &Address) -> (Vec<u8>, Address) {
        let mut slot = slot();
        let span = Span::from("datagram");
        let message = message_to(slot.as_mut_ptr(), to, &span);
        assert_eq!(calls::sendmsg(from.as_raw_fd(), message, libc::MSG_NOSIGNAL), 8);
        let mut lease = lease(64);
        let message = message_from(slot.as_mut_ptr(), &mut lease);
        assert_eq!(calls::recvmsg(at.as_raw_fd(), message), 8);
        let from = load_address(slot.as_mut_ptr());
        let message = message_from(slot.as_mut_ptr(), &mut lease);
        assert_eq!(calls::recvmsg(at.as_raw_fd(), message), -libc::EAGAIN);
        (lease[..8].to_vec(), from)
    }

    #[test]
    fn datagrams_bring_their_senders() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let (here, there) = (UdpSocket::bind(host).unwrap(), UdpSocket::bind(host).unwrap());
            let to = there.local_addr().unwrap().into();
            let from = here.local_addr().unwrap().into();
            assert_eq!(exchange(&here, &there, &to), (b"datagram".to_vec(), from));
            here.connect(there.local_addr().unwrap()).unwrap();
            let (_, from) = exchange(&here, &there, &Address::Unnamed);
            assert_eq!(from, here.local_addr().unwrap().into());
        }
    }

    #[test]
    fn unix_datagrams_bring_names_or_none() {
        let [here, there] = ["here", "there"].map(|name| {
            let name = format!("dataplane scratch test: {name}");
            let address = Address::abstract_name(name.as_bytes()).unwrap();
            let socket = UnixDatagram::unbound().unwrap();
            calls::bind(socket.as_raw_fd(), &address).unwrap();
            (socket, address)
        });
        assert_eq!(exchange(&here.0, &there.0, &there.1).1, here.1);
        let nameless = UnixDatagram::unbound().unwrap();
        assert_eq!(exchange(&nameless, &there.0, &there.1).1, Address::Unnamed);
    }

    #[test]
    fn a_stored_address_is_what_the_kernel_would_read() {
        let mut slot = slot();
        let address = Address::unix("/run/some.sock").unwrap();
        let (at, bytes) = store_address(slot.as_mut_ptr(), &address);
        assert_eq!(at.cast(), slot.as_ptr());
        // SAFETY: the slot is ours and the whole storage was written.
        let storage = unsafe { at.cast::<sockaddr_storage>().read() };
        assert_eq!(Address::from_storage(&storage, bytes), address);
    }

    /// Sends `text` in spans of one byte, less the first `skip`, and receives it in two leases.
    fn scatter(vectors: &mut Vectors, text: &[u8], skip: usize) -> Vec<u8> {
        let spans: SpanList = text.iter().map(|byte| Span::from(vec![*byte])).collect();
        let (here, there) = UnixStream::pair().unwrap();
        let mut slot = slot();
        let message = vectors.gather(slot.as_mut_ptr(), &spans, skip);
        let expected = (text.len() - skip) as i32;
        assert_eq!(calls::sendmsg(here.as_raw_fd(), message, libc::MSG_NOSIGNAL), expected);
        let mut leases = vec![lease(3), lease(2000)];
        let message = vectors.gather_mut(slot.as_mut_ptr(), &mut leases);
        assert_eq!(calls::recvmsg(there.as_raw_fd(), message), expected);
        [&leases[0], &leases[1][..text.len() - skip - 3]].concat()
    }

    #[test]
    fn few_vectors_need_no_memory_and_many_keep_theirs() {
        let text: Vec<u8> = (0..MAX_VECTORS).map(|index| (index % 251) as u8).collect();
        let mut vectors = Vectors::default();
        assert_eq!(scatter(&mut vectors, &text[..INLINE], 2), text[2..INLINE]);
        // Nine, of which eight are left.
        assert_eq!(scatter(&mut vectors, &text[..INLINE + 1], 1), text[1..INLINE + 1]);
        assert!(vectors.many.is_none());
        assert_eq!(scatter(&mut vectors, &text[..INLINE + 1], 0), text[..INLINE + 1]);
        assert_eq!(vectors.many.as_ref().unwrap().len(), INLINE + 1);
        assert_eq!(scatter(&mut vectors, &text, 0), text);
        assert_eq!(scatter(&mut vectors, &text, 500), text[500..]);
        assert!(vectors.many.as_ref().unwrap().capacity() >= MAX_VECTORS);
        assert_eq!(format!("{vectors:?}"), "Vectors { outside_the_slot: 524 }");
    }

    #[test]
    fn what_was_sent_is_skipped_across_spans() {
        let spans: SpanList = ["abc", "", "defg", "h"].into_iter().map(Span::from).collect();
        for skip in 0..8 {
            let (here, there) = UnixStream::pair().unwrap();
            let (mut slot, mut vectors) = (slot(), Vectors::default());
            let message = vectors.gather(slot.as_mut_ptr(), &spans, skip);
            let sent = calls::sendmsg(here.as_raw_fd(), message, libc::MSG_NOSIGNAL);
            let mut lease = lease(16);
            assert_eq!(calls::recv(there.as_raw_fd(), &mut lease, 0), sent);
            assert_eq!(&lease[..sent as usize], &b"abcdefgh"[skip..]);
        }
    }

    #[test]
    fn counts_of_vectors_are_checked() {
        assert!(check_vectors("send", 1).is_ok());
        assert!(check_vectors("send", MAX_VECTORS).is_ok());
        for (count, word) in [(0, "at least one"), (MAX_VECTORS + 1, "takes 1024")] {
            let error = check_vectors("send", count).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
