//! System calls as functions over leases, spans and addresses.
//!
//! # Results
//!
//! What an operation's attempt calls gives an `i32` like a completion: a count, a descriptor or
//! zero, or a negative errno. EINTR is never one of them, the call is made again. Byte counts fit
//! since one call moves at most 0x7ffff000 bytes (`read(2)`). What a set-up step calls gives an
//! `io::Result`.
//!
//! # Blocking
//!
//! The poll thread must not sleep here, whatever the flags of the descriptor: adopted ones stay
//! as they were, and many are blocking. Three ways, the first that exists:
//!
//! * a flag of the call itself: MSG_DONTWAIT, RWF_NOWAIT (`preadv2(2)`);
//! * `poll(2)` first, and then no more than readiness promises: one accept, PIPE_BUF bytes. If
//!   somebody else, a process that shares the listener or terminal, takes what made it ready in
//!   between, the call sleeps until there is more; a listener shared so is to be non-blocking;
//! * O_NONBLOCK around the call, for connect and splice, which have neither. The flag belongs to
//!   the open file description, so whoever shares it sees it for the time of that one call; it
//!   is put back at once. Two that do this to one description at once may undo each other's, and
//!   then one of them sleeps. Descriptors that are non-blocking already are left alone.
//!
//! Calls that sleep by nature are for helper threads and say so.
//!
//! # Unsafe
//!
//! The calls themselves. Descriptors are plain numbers here: the caller's table keeps them open
//! for the time of the call, or until a job ends. A wrong number is EBADF or another file, never
//! a wild memory access: memory is only what leases, spans and scratch messages say.

#![allow(unsafe_code)]

use crate::engine::descriptors::{Alignment, Class};
use crate::io::Address;
use crate::op::{HelperJob, Interest, PipePair};
use libc::{c_int, c_uint, c_void, socklen_t};
use regions::{Lease, Span};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Asked for in a transfer's pipe; unprivileged users get up to `pipe-max-size` (`pipe(7)`).
const PIPE_BYTES: c_int = 1 << 20;
/// The offset that means "at the descriptor's own position".
const CURRENT: u64 = u64::MAX;
/// `f_type` of file systems whose files are handles, not data: dma-buf and pidfd. `fstat(2)` may
/// call them regular, yet they are polled and not read.
const HANDLE_FILE_SYSTEMS: [i64; 2] = [0x444d_4142, 0x5049_4446];
/// What O_DIRECT wants where nobody says: every disk takes its sector size or a multiple.
const SECTOR_BYTES: u32 = 512;

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Makes a call until it is not interrupted; its count or negative errno.
fn retry<R: TryInto<i32> + PartialOrd + Default>(mut call: impl FnMut() -> R) -> i32 {
    loop {
        let result = call();
        if result >= R::default() {
            return result.try_into().unwrap_or(i32::MAX);
        }
        match errno() {
            libc::EINTR => continue,
            errno => return -errno,
        }
    }
}

/// A negative errno as an error.
fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// Runs a call on a descriptor that is non-blocking for that time; see the head of this file.
fn without_blocking(fd: RawFd, call: impl FnOnce() -> i32) -> i32 {
    // SAFETY: no memory is involved.
    let flags = retry(|| unsafe { libc::fcntl(fd, libc::F_GETFL) });
    if flags < 0 || flags & libc::O_NONBLOCK != 0 {
        return if flags < 0 { flags } else { call() };
    }
    // SAFETY: as above.
    let set = |flags: c_int| retry(|| unsafe { libc::fcntl(fd, libc::F_SETFL, flags) });
    let on = set(flags | libc::O_NONBLOCK);
    if on < 0 {
        return on;
    }
    let result = call();
    // Cannot fail where setting it did not.
    set(flags);
    result
}

/// What is ready of `interest` now, as bits of `poll(2)`: zero for nothing. Errors and hang-ups
/// are always reported.
pub(crate) fn poll_now(fd: RawFd, interest: Interest) -> i32 {
    if fd < 0 {
        // Which the call would pass over and find nothing ready.
        return -libc::EBADF;
    }
    let mut entry = libc::pollfd { fd, events: interest.bits() as i16, revents: 0 };
    // SAFETY: one entry, ours.
    match retry(|| unsafe { libc::poll(&raw mut entry, 1, 0) }) {
        0 => 0,
        1 if entry.revents & libc::POLLNVAL != 0 => -libc::EBADF,
        1 => i32::from(entry.revents as u16),
        failed => failed,
    }
}

/// Whether a descriptor is an eventfd, by the name `proc(5)` gives it; where there is no such file
/// system it is believed to be one.
pub(crate) fn is_eventfd(fd: RawFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{fd}"))
        .map_or(true, |name| name.as_os_str() == "anon_inode:[eventfd]")
}

/// Adds to the counter of an eventfd (`eventfd(2)`), or -EAGAIN where it has no room.
pub(crate) fn add_to_eventfd(fd: RawFd, value: u64) -> i32 {
    let bytes = value.to_ne_bytes();
    without_blocking(fd, || {
        // SAFETY: the kernel reads eight bytes, ours.
        retry(|| unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
    })
}

/// Accepts a connection that waits, close-on-exec, or -EAGAIN.
pub(crate) fn accept(fd: RawFd) -> i32 {
    match poll_now(fd, Interest::READABLE) {
        0 => -libc::EAGAIN,
        failed @ ..0 => failed,
        _ => retry(|| {
            // SAFETY: null pointers ask for no address.
            unsafe { libc::accept4(fd, ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC) }
        }),
    }
}

/// Receives into a lease behind its first `from` bytes, or -EAGAIN. Zero is the end of the stream,
/// or that the lease has no room there.
pub(crate) fn recv(fd: RawFd, lease: &mut Lease, from: usize) -> i32 {
    let from = from.min(lease.len());
    let (at, room) = (lease.as_mut_ptr().wrapping_add(from).cast::<c_void>(), lease.len() - from);
    // SAFETY: the rest of the lease, which is ours alone.
    retry(|| unsafe { libc::recv(fd, at, room, libc::MSG_DONTWAIT) })
}

/// Receives a message made in a scratch, or -EAGAIN.
pub(crate) fn recvmsg(fd: RawFd, message: *mut libc::msghdr) -> i32 {
    // SAFETY: messages come from `engine::scratch` alone, whose functions fill them with memory of
    // the operation that is being attempted.
    retry(|| unsafe { libc::recvmsg(fd, message, libc::MSG_DONTWAIT) })
}

/// Sends what a span holds behind its first `from` bytes, or some of it, or -EAGAIN.
pub(crate) fn send(fd: RawFd, span: &Span, from: usize, flags: i32) -> i32 {
    let (at, bytes) = rest(span, from);
    // SAFETY: readable memory the span keeps alive.
    retry(|| unsafe { libc::send(fd, at.cast(), bytes, flags | libc::MSG_DONTWAIT) })
}

fn rest(span: &Span, from: usize) -> (*const u8, usize) {
    let from = from.min(span.len());
    (span.as_ptr().wrapping_add(from), span.len() - from)
}

/// Sends a message made in a scratch, or -EAGAIN.
pub(crate) fn sendmsg(fd: RawFd, message: *const libc::msghdr, flags: i32) -> i32 {
    // SAFETY: as for `recvmsg`.
    retry(|| unsafe { libc::sendmsg(fd, message, flags | libc::MSG_DONTWAIT) })
}

/// Starts to connect: zero when done at once, -EINPROGRESS when it goes on, -EAGAIN when a Unix
/// listener has no room.
pub(crate) fn connect_nonblocking(fd: RawFd, address: &Address) -> i32 {
    let (storage, bytes) = address.to_storage();
    without_blocking(fd, || {
        // SAFETY: the kernel reads `bytes` of the storage.
        match unsafe { libc::connect(fd, (&raw const storage).cast(), bytes) } {
            0 => 0,
            // An interrupted connect goes on by itself; a second one would be refused.
            _ => match errno() {
                libc::EINTR => -libc::EINPROGRESS,
                errno => -errno,
            },
        }
    })
}

/// The error that waits on a socket, taken from it: an errno, positive, or zero.
pub(crate) fn socket_error(fd: RawFd) -> i32 {
    match get_option::<c_int>(fd, libc::SOL_SOCKET, libc::SO_ERROR) {
        Ok(errno) => errno,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Ends one or both directions of a connection.
pub(crate) fn shutdown(fd: RawFd, how: i32) -> i32 {
    // SAFETY: no memory is involved.
    retry(|| unsafe { libc::shutdown(fd, how) })
}

/// Closes a number the caller owns. Never made again: the number is gone even when the call was
/// interrupted (`close(2)`), which therefore counts as done. May sleep where closing flushes.
pub(crate) fn close(fd: RawFd) -> i32 {
    // SAFETY: the caller has taken the number out of the descriptor table.
    match unsafe { libc::close(fd) } {
        0 => 0,
        _ => match errno() {
            libc::EINTR => 0,
            errno => -errno,
        },
    }
}

/// Opens a path, relative to the working directory. Sleeps: for helper threads.
pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> i32 {
    // SAFETY: the path ends with a NUL.
    retry(|| unsafe { libc::open(path.as_ptr(), flags, mode) })
}

/// Reads a pipe, terminal or the like at its position into a lease, or -EAGAIN.
pub(crate) fn read(fd: RawFd, lease: &mut Lease) -> i32 {
    let (at, room) = (lease.as_mut_ptr().cast::<c_void>(), lease.len());
    let vector = libc::iovec { iov_base: at, iov_len: room };
    // SAFETY: the lease is ours alone.
    match retry(|| unsafe { libc::preadv2(fd, &raw const vector, 1, -1, libc::RWF_NOWAIT) }) {
        failed if failed == -libc::EOPNOTSUPP || failed == -libc::ENOSYS => (),
        result => return result,
    }
    match poll_now(fd, Interest::READABLE) {
        0 => -libc::EAGAIN,
        failed @ ..0 => failed,
        // SAFETY: as above.
        _ => retry(|| unsafe { libc::read(fd, at, room) }),
    }
}

/// Writes to a pipe, terminal or the like what a span holds behind its first `from` bytes, or some
/// of it, or -EAGAIN. A terminal whose output is stopped may hold a blocking descriptor's call
/// until it drains. Writing to a pipe nobody reads raises SIGPIPE beside -EPIPE.
pub(crate) fn write_some(fd: RawFd, span: &Span, from: usize) -> i32 {
    let (at, bytes) = rest(span, from);
    let vector = libc::iovec { iov_base: at.cast_mut().cast(), iov_len: bytes };
    // SAFETY: readable memory the span keeps alive.
    match retry(|| unsafe { libc::pwritev2(fd, &raw const vector, 1, -1, libc::RWF_NOWAIT) }) {
        failed if failed == -libc::EOPNOTSUPP || failed == -libc::ENOSYS => (),
        result => return result,
    }
    match poll_now(fd, Interest::WRITABLE) {
        0 => return -libc::EAGAIN,
        failed @ ..0 => return failed,
        _ => (),
    }
    // SAFETY: no memory is involved.
    let flags = retry(|| unsafe { libc::fcntl(fd, libc::F_GETFL) });
    let most = if flags & libc::O_NONBLOCK != 0 { bytes } else { bytes.min(libc::PIPE_BUF) };
    // SAFETY: as above.
    retry(|| unsafe { libc::write(fd, at.cast(), most) })
}

/// Memory that goes to a helper thread.
struct Loan<T>(T, usize);

// SAFETY: whoever makes a job promises that the memory is the job's until it has ended.
unsafe impl<T> Send for Loan<T> {}

impl<T> Loan<T> {
    /// By method, so that a closure takes the whole and not the bare pointer.
    fn take(self) -> (T, usize) {
        (self.0, self.1)
    }
}

/// A job that reads at an offset, or at the descriptor's position for `u64::MAX`.
///
/// # Safety
///
/// Until the job has ended or was dropped, the memory is writable and touched by nobody else, and
/// the descriptor stays open.
pub(crate) unsafe fn read_job(fd: RawFd, at: *mut u8, bytes: usize, offset: u64) -> HelperJob {
    let loan = Loan(at, bytes);
    Box::new(move || {
        let (at, bytes) = loan.take();
        // SAFETY: promised by whoever made the job.
        retry(|| unsafe {
            match offset {
                CURRENT => libc::read(fd, at.cast(), bytes),
                _ => libc::pread(fd, at.cast(), bytes, offset as libc::off_t),
            }
        })
    })
}

/// A job that writes at an offset, or at the descriptor's position for `u64::MAX`.
///
/// # Safety
///
/// Until the job has ended or was dropped, the memory is readable and the descriptor stays open.
pub(crate) unsafe fn write_job(fd: RawFd, at: *const u8, bytes: usize, offset: u64) -> HelperJob {
    let loan = Loan(at, bytes);
    Box::new(move || {
        let (at, bytes) = loan.take();
        // SAFETY: promised by whoever made the job.
        retry(|| unsafe {
            match offset {
                CURRENT => libc::write(fd, at.cast(), bytes),
                _ => libc::pwrite(fd, at.cast(), bytes, offset as libc::off_t),
            }
        })
    })
}

/// Makes what was written durable. Sleeps: for helper threads.
pub(crate) fn sync(fd: RawFd, data_only: bool) -> i32 {
    // SAFETY: no memory is involved.
    retry(|| unsafe { if data_only { libc::fdatasync(fd) } else { libc::fsync(fd) } })
}

/// Moves bytes of a file into a pipe, zero at the end of the file; `u64::MAX` is the descriptor's
/// position. Sleeps while the disk is read or the pipe is full: for helper threads.
pub(crate) fn splice_in(file: RawFd, offset: u64, pipe: RawFd, bytes: usize) -> i32 {
    let mut at = offset as libc::loff_t;
    let at = if offset == CURRENT { ptr::null_mut() } else { &raw mut at };
    // SAFETY: the kernel reads and writes the offset, which is ours.
    retry(|| unsafe { libc::splice(file, at, pipe, ptr::null_mut(), bytes, libc::SPLICE_F_MOVE) })
}

/// Moves bytes that stand in a pipe to a socket, or -EAGAIN. SPLICE_F_NONBLOCK is about the pipe
/// alone, a blocking socket would sleep regardless.
pub(crate) fn splice_out(pipe: &OwnedFd, socket: RawFd, bytes: usize) -> i32 {
    let flags: c_uint = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let (from, none) = (pipe.as_raw_fd(), ptr::null_mut());
    without_blocking(socket, || {
        // SAFETY: null offsets; no memory is involved.
        retry(|| unsafe { libc::splice(from, none, socket, none, bytes, flags) })
    })
}

/// The pipe of a transfer, of 1 MiB where the system gives that much.
pub(crate) fn pipe() -> io::Result<PipePair> {
    let mut ends = [-1; 2];
    // SAFETY: room for two numbers.
    checked(retry(|| unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }))?;
    // SAFETY: two new descriptors that nobody else knows.
    let [reader, writer] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    let raw = writer.as_raw_fd();
    // SAFETY: no memory is involved. Refused where the user's pipes hold too much already.
    let _ = retry(|| unsafe { libc::fcntl(raw, libc::F_SETPIPE_SZ, PIPE_BYTES) });
    // SAFETY: no memory is involved.
    let given = checked(retry(|| unsafe { libc::fcntl(raw, libc::F_GETPIPE_SZ) }))?;
    Ok(PipePair { reader, writer, capacity_bytes: given as usize })
}

/// Another descriptor for the same open file, close-on-exec.
pub(crate) fn dup(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let copy = checked(retry(|| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) }))?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn stat(fd: RawFd) -> io::Result<libc::stat> {
    let mut found = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: room for one.
    checked(retry(|| unsafe { libc::fstat(fd, found.as_mut_ptr()) }))?;
    // SAFETY: the call succeeded and filled it.
    Ok(unsafe { found.assume_init() })
}

/// How many bytes a regular file or block device holds.
pub(crate) fn file_bytes(fd: RawFd) -> io::Result<u64> {
    let found = stat(fd)?;
    if found.st_mode & libc::S_IFMT != libc::S_IFBLK {
        return Ok(found.st_size as u64);
    }
    /// `_IOR(0x12, 114, size_t)`, see `linux/fs.h`.
    const BLKGETSIZE64: libc::Ioctl = libc::_IOR::<usize>(0x12, 114);
    let mut bytes = 0_u64;
    // SAFETY: the call writes 64 bits, which are ours.
    checked(retry(|| unsafe { libc::ioctl(fd, BLKGETSIZE64, &raw mut bytes) }))?;
    Ok(bytes)
}

/// What a descriptor is, as far as the engine cares.
pub(crate) fn classify(fd: RawFd) -> io::Result<Class> {
    let mode = stat(fd)?.st_mode & libc::S_IFMT;
    Ok(match mode {
        libc::S_IFSOCK => return classify_socket(fd),
        libc::S_IFREG if is_handle(fd) => Class::Other,
        libc::S_IFREG | libc::S_IFBLK => Class::File { direct: direct(fd, mode)? },
        libc::S_IFDIR => Class::File { direct: None },
        libc::S_IFIFO => Class::Other,
        // Character devices and what has no type at all: only the descriptor itself knows.
        // SAFETY: borrowed for this question alone; the caller has it open.
        _ if fence::has_readiness(unsafe { BorrowedFd::borrow_raw(fd) })? => Class::Other,
        _ => Class::File { direct: None },
    })
}

fn classify_socket(fd: RawFd) -> io::Result<Class> {
    let option = |name| get_option::<c_int>(fd, libc::SOL_SOCKET, name);
    match option(libc::SO_TYPE)? {
        libc::SOCK_STREAM | libc::SOCK_SEQPACKET => match option(libc::SO_ACCEPTCONN) {
            Ok(1) => Ok(Class::Listener),
            _ => Ok(Class::Stream),
        },
        _ => Ok(Class::Datagram),
    }
}

fn is_handle(fd: RawFd) -> bool {
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: room for one. Where it fails the file is what fstat(2) said: zero is no file system.
    retry(|| unsafe { libc::fstatfs(fd, found.as_mut_ptr()) });
    // SAFETY: zero is a value of every field, so it is initialised whatever the call did.
    let kind = unsafe { found.assume_init() }.f_type;
    #[allow(clippy::unnecessary_cast)] // its width differs between systems
    let kind = kind as i64;
    HANDLE_FILE_SYSTEMS.contains(&kind)
}

/// The alignment O_DIRECT wants, if the file is open so.
fn direct(fd: RawFd, mode: libc::mode_t) -> io::Result<Option<Alignment>> {
    // SAFETY: no memory is involved.
    let flags = checked(retry(|| unsafe { libc::fcntl(fd, libc::F_GETFL) }))?;
    if flags & libc::O_DIRECT == 0 {
        return Ok(None);
    }
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let (path, mask) = (c"".as_ptr(), libc::STATX_DIOALIGN);
    let at = found.as_mut_ptr();
    // SAFETY: an empty path names the descriptor itself; room for one.
    let asked = retry(|| unsafe { libc::statx(fd, path, libc::AT_EMPTY_PATH, mask, at) });
    // SAFETY: zero is a value of every field, so it is initialised whatever the call did.
    let found = unsafe { found.assume_init() };
    let (memory_bytes, offset_bytes) = (found.stx_dio_mem_align, found.stx_dio_offset_align);
    let said = asked == 0 && found.stx_mask & mask != 0;
    if said && memory_bytes > 0 && offset_bytes > 0 {
        return Ok(Some(Alignment { memory_bytes, offset_bytes }));
    }
    let mut sector: c_int = 0;
    // SAFETY: the call writes an int, which is ours.
    let known = mode == libc::S_IFBLK
        && retry(|| unsafe { libc::ioctl(fd, libc::BLKSSZGET, &raw mut sector) }) == 0;
    let unit = if known && sector > 0 { sector as u32 } else { SECTOR_BYTES };
    Ok(Some(Alignment { memory_bytes: unit, offset_bytes: unit }))
}

/// A value of a socket option.
///
/// # Safety
///
/// Plain integers in any combination.
pub(crate) unsafe trait OptionValue: Copy {}

// SAFETY: one integer.
unsafe impl OptionValue for c_int {}
// SAFETY: two integers.
unsafe impl OptionValue for libc::linger {}

/// Reads a socket option (`getsockopt(2)`).
pub(crate) fn get_option<V: OptionValue>(fd: RawFd, level: i32, name: i32) -> io::Result<V> {
    let mut value = MaybeUninit::<V>::zeroed();
    let mut bytes = size_of::<V>() as socklen_t;
    let at = value.as_mut_ptr().cast::<c_void>();
    // SAFETY: `bytes` bytes, ours.
    checked(retry(|| unsafe { libc::getsockopt(fd, level, name, at, &raw mut bytes) }))?;
    // SAFETY: zero or what the kernel wrote, and any bytes are a value of V.
    Ok(unsafe { value.assume_init() })
}

/// Sets a socket option (`setsockopt(2)`).
pub(crate) fn set_option<V: OptionValue>(
    fd: RawFd,
    level: i32,
    name: i32,
    value: V,
) -> io::Result<()> {
    let (at, bytes) = ((&raw const value).cast::<c_void>(), size_of::<V>() as socklen_t);
    // SAFETY: `bytes` initialised bytes, ours.
    checked(retry(|| unsafe { libc::setsockopt(fd, level, name, at, bytes) })).map(drop)
}

/// Makes a socket (`socket(2)`) with close-on-exec and `flags`.
pub(crate) fn socket(domain: i32, kind: i32, flags: i32) -> io::Result<OwnedFd> {
    let kind = kind | flags | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved.
    let fd = checked(retry(|| unsafe { libc::socket(domain, kind, 0) }))?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a socket its local address (`bind(2)`).
pub(crate) fn bind(fd: RawFd, address: &Address) -> io::Result<()> {
    let (storage, bytes) = address.to_storage();
    // SAFETY: the kernel reads `bytes` of the storage.
    checked(retry(|| unsafe { libc::bind(fd, (&raw const storage).cast(), bytes) })).map(drop)
}

/// Makes a socket listen (`listen(2)`).
pub(crate) fn listen(fd: RawFd, backlog: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(retry(|| unsafe { libc::listen(fd, backlog) })).map(drop)
}

/// The address of one side of a socket: its own (`getsockname(2)`) or its peer's
/// (`getpeername(2)`).
pub(crate) fn name_of(fd: RawFd, peer: bool) -> io::Result<Address> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut bytes = size_of::<libc::sockaddr_storage>() as socklen_t;
    let (at, room) = (storage.as_mut_ptr().cast::<libc::sockaddr>(), &raw mut bytes);
    // SAFETY: room for the largest address there is.
    checked(retry(|| unsafe {
        if peer { libc::getpeername(fd, at, room) } else { libc::getsockname(fd, at, room) }
    }))?;
    // SAFETY: zero or what the kernel wrote; all its fields are integers.
    Ok(Address::from_storage(&unsafe { storage.assume_init() }, bytes))
}
