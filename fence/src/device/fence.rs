//! A fence that a loop can wait for: whatever kind it is, a descriptor that becomes readable and a
//! status to ask for then.
//!
//! # Unsafe
//!
//! A number that a C interface gave is taken for a descriptor on the caller's word.

#![allow(unsafe_code)]

use super::error::{FenceError, FenceErrorKind, Refused};
use super::sync_file::{FenceStatus, SyncFile};
use super::syncobj::Point;
use super::uapi;
use crate::{Failure, Semaphore};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// A fence, sorted out by what it is.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fence {
    /// A driver's.
    SyncFile(SyncFile),
    /// A point of a syncobj.
    Point(Point),
    /// Anything else that becomes readable: an eventfd, a pipe, a pidfd. It signals by that; a
    /// hang-up or an error of the descriptor without anything to read is its failure.
    Event(OwnedFd),
    /// One that has signalled already, which Vulkan gives as descriptor -1.
    Signalled,
}

impl Fence {
    /// Finds out what a descriptor is.
    ///
    /// # Errors
    ///
    /// WrongKind for what cannot be waited for (regular files, memfds, directories, syncobjs):
    /// polling such a thing would call it ready at once. The descriptor comes back.
    pub fn from_fd(fd: OwnedFd) -> Result<Fence, Refused<OwnedFd>> {
        if uapi::sync_file_info(fd.as_fd()).is_ok() {
            return Ok(Fence::SyncFile(SyncFile::made(fd)));
        }
        match has_readiness(fd.as_fd()) {
            Ok(true) => Ok(Fence::Event(fd)),
            Ok(false) => {
                let message = "regular files, memfds, directories and syncobjs cannot be waited \
                               for; hand in a sync_file, an eventfd or a point of a syncobj";
                Err(Refused {
                    error: FenceError::new(NAME, FenceErrorKind::WrongKind, message),
                    fd,
                })
            }
            Err(errno) => Err(Refused { error: FenceError::refused(NAME, errno), fd }),
        }
    }

    /// As [`from_fd`](Self::from_fd), from what a C interface gave: -1 is a fence that has
    /// signalled. The number is checked before it is taken for a descriptor, since drivers were
    /// seen to give one that was not open; close-on-exec is set.
    ///
    /// # Errors
    ///
    /// WrongKind as in [`from_fd`](Self::from_fd), and when the number is not open. Then, and for
    /// every other error, the number is the caller's still.
    ///
    /// # Safety
    ///
    /// An open number is the caller's to give away.
    pub unsafe fn from_raw_fd(number: RawFd) -> Result<Fence, FenceError> {
        if number == -1 {
            return Ok(Fence::Signalled);
        }
        // SAFETY: the caller gives it away.
        let fd =
            unsafe { uapi::open_descriptor(number) }.map_err(|errno| not_open(number, errno))?;
        Fence::from_fd(fd).map_err(|refused| {
            // Not taken, so not closed either.
            std::mem::forget(refused.fd);
            refused.error
        })
    }

    /// A duplicate of a descriptor that came with the process, which stays as it is.
    ///
    /// # Errors
    ///
    /// As [`from_fd`](Self::from_fd), and WrongKind when the number is not open.
    pub fn duplicate_of(number: RawFd) -> Result<Fence, FenceError> {
        let fd = uapi::duplicate(number).map_err(|errno| not_open(number, errno))?;
        Fence::from_fd(fd).map_err(|refused| refused.error)
    }

    /// The descriptor that becomes readable when it has signalled. None: it has already.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Fence::SyncFile(fence) => Some(fence.as_fd()),
            Fence::Point(point) => Some(point.as_fd()),
            Fence::Event(fd) => Some(fd.as_fd()),
            Fence::Signalled => None,
        }
    }

    /// How it stands. Takes nothing and does not wait.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn status(&self) -> Result<FenceStatus, FenceError> {
        match self {
            Fence::SyncFile(fence) => fence.status(),
            Fence::Point(point) => point.status(),
            Fence::Event(fd) => look(fd.as_fd(), PollFlags::POLLIN)
                .map(event_status)
                .map_err(|errno| FenceError::refused(NAME, errno)),
            Fence::Signalled => Ok(FenceStatus::Signalled),
        }
    }

    /// How it stands after its descriptor was reported to be ready: `seen` is what `poll(2)` or
    /// io_uring reported. All there is to know of an event is in the report, so nobody is asked
    /// again; of any other fence it says nothing, and its status is asked for.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub fn status_by(&self, seen: i16) -> Result<FenceStatus, FenceError> {
        match self {
            Fence::Event(_) => Ok(event_status(PollFlags::from_bits_retain(seen))),
            _ => self.status(),
        }
    }
}

const NAME: &str = "fence";

fn not_open(number: RawFd, errno: Errno) -> FenceError {
    let message = format!("{number} is no open descriptor");
    FenceError::new(NAME, FenceErrorKind::WrongKind, message).with_errno(errno as i32)
}

impl From<SyncFile> for Fence {
    fn from(fence: SyncFile) -> Fence {
        Fence::SyncFile(fence)
    }
}

impl From<Point> for Fence {
    fn from(point: Point) -> Fence {
        Fence::Point(point)
    }
}

impl Semaphore {
    /// What a fence's status means for the semaphore that waits to get to `value` by it: a signal
    /// advances it, unless it is there already, and a failure fails it. False: still pending.
    ///
    /// # Panics
    ///
    /// As [`signal`](Semaphore::signal).
    pub fn settle(&self, value: u64, status: &Result<FenceStatus, FenceError>) -> bool {
        match status {
            Ok(FenceStatus::Pending) => return false,
            Ok(FenceStatus::Signalled) => {
                // Beyond it already, or failed by others: there is nothing left to change.
                let _ = self.signal(value);
            }
            Ok(FenceStatus::Failed(errno)) => {
                self.fail(Failure::with_errno(*errno, "the imported fence failed"));
            }
            Err(error) => {
                let text = error.to_string();
                self.fail(match error.errno() {
                    Some(errno) => Failure::with_errno(errno, text),
                    None => Failure::new(text),
                });
            }
        }
        true
    }
}

/// What `poll(2)` says of the descriptor at this moment.
fn look(fd: BorrowedFd<'_>, wanted: PollFlags) -> Result<PollFlags, Errno> {
    let mut seen = [PollFd::new(fd, wanted)];
    while let Err(errno) = poll(&mut seen, PollTimeout::ZERO) {
        if errno != Errno::EINTR {
            return Err(errno);
        }
    }
    Ok(seen[0].revents().unwrap_or(PollFlags::POLLERR))
}

fn event_status(seen: PollFlags) -> FenceStatus {
    match seen {
        _ if seen.contains(PollFlags::POLLIN) => FenceStatus::Signalled,
        _ if seen.is_empty() => FenceStatus::Pending,
        _ => FenceStatus::Failed(Errno::EPIPE as i32),
    }
}

/// What the kernel says of a file without readiness: DEFAULT_POLLMASK in include/linux/poll.h.
const ALWAYS_READY: PollFlags = PollFlags::POLLIN
    .union(PollFlags::POLLOUT)
    .union(PollFlags::POLLRDNORM)
    .union(PollFlags::POLLWRNORM);

/// Whether the descriptor can be waited for. `poll(2)` and io_uring call what has no readiness
/// ready in every way, so whatever is not has one. A socket may be ready in every way too;
/// `epoll(7)` tells it from a file, which it refuses, so a throw-away one is asked then.
///
/// # Errors
///
/// EBADF, or EMFILE and its like when descriptors have run out.
pub fn has_readiness(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    match look(fd, ALWAYS_READY)? {
        seen if seen.contains(PollFlags::POLLNVAL) => return Err(Errno::EBADF),
        ALWAYS_READY => {}
        _ => return Ok(true),
    }
    let probe = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    match probe.add(fd, EpollEvent::new(EpollFlags::empty(), 0)) {
        Err(Errno::EPERM) => Ok(false),
        Err(Errno::EBADF) => Err(Errno::EBADF),
        // It may be full, and the like: nothing that the descriptor is to blame for.
        _ => Ok(true),
    }
}
