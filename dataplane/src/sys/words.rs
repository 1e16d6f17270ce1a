//! Words that threads and processes synchronise by: a few atomics, of this process or in a memfd
//! that other processes map too (`memfd_create(2)`, `mmap(2)`).
//!
//! The file of shared words is sealed against shrinking when it is made, and one that is not is
//! refused when it is opened, so touching a word never raises SIGBUS, whatever the other process
//! does with the file. What it writes into the words is another matter: they are atomics, so
//! nothing of it is undefined, but a process that writes nonsense keeps others waiting or wakes
//! them for nothing. Give such a descriptor to those who may.
//!
//! A forked child shares the shared words with its parent, and has a copy of its own of the others.
//!
//! # Unsafe
//!
//! Mapping the page, unmapping it, and references into it. Nothing here hands out anything but
//! shared references to atomics.

#![allow(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

/// Words in a set.
pub(crate) const COUNT: usize = 2;
/// Bytes of a file of shared words.
const FILE_BYTES: usize = 4096;

/// A set of words.
#[derive(Debug)]
pub(crate) enum Words {
    /// Of this process.
    Own([AtomicU32; COUNT]),
    /// Of every process that maps the file.
    Shared(Page),
}

impl Words {
    /// Zero, of this process.
    pub(crate) fn own() -> Words {
        Words::Own(Default::default())
    }

    /// Zero, in a new memfd.
    pub(crate) fn shared(operation: &'static str) -> Result<Words> {
        let refused = |errno: nix::errno::Errno| {
            let message = "a memfd for shared words; raise RLIMIT_NOFILE if descriptors ran out";
            Error::from_errno(operation, errno as i32).with_message(message)
        };
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create("words", flags).map_err(refused)?;
        ftruncate(&fd, FILE_BYTES as i64).map_err(refused)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(refused)?;
        Page::map(operation, fd).map(Words::Shared)
    }

    /// Those of a memfd that [`shared`](Self::shared) made, here or in another process.
    pub(crate) fn open(operation: &'static str, fd: OwnedFd) -> Result<Words> {
        let unfit = |message| Error::new(operation, ErrorKind::InvalidArgument, message);
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
        if !seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_SHRINK)) {
            return Err(unfit("the descriptor is no memfd sealed against shrinking"));
        }
        match nix::sys::stat::fstat(&fd) {
            Ok(found) if found.st_size == FILE_BYTES as i64 => {}
            _ => return Err(unfit("the memfd has not the size of a set of words")),
        }
        Page::map(operation, fd).map(Words::Shared)
    }

    /// The word of that number.
    pub(crate) fn at(&self, index: usize) -> &AtomicU32 {
        match self {
            Words::Own(words) => &words[index],
            Words::Shared(page) => page.at(index),
        }
    }

    /// Whether other processes may map them.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Words::Shared(_))
    }

    /// The memfd to pass on.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Words::Own(_) => None,
            Words::Shared(page) => Some(page.fd.as_fd()),
        }
    }
}

/// A mapped file of words.
#[derive(Debug)]
pub(crate) struct Page {
    start: NonNull<AtomicU32>,
    fd: OwnedFd,
}

// SAFETY: an address range of the process, bound to no thread, of which only atomics are seen.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn map(operation: &'static str, fd: OwnedFd) -> Result<Page> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (number, flags) = (fd.as_raw_fd(), libc::MAP_SHARED);
        // SAFETY: the kernel picks unused addresses, so no memory of anybody is replaced.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), FILE_BYTES, protection, flags, number, 0) };
        let mapped = (start != libc::MAP_FAILED).then_some(start.cast::<AtomicU32>());
        match mapped.and_then(NonNull::new) {
            Some(start) => Ok(Page { start, fd }),
            None => Err(Error::from_io(operation, &std::io::Error::last_os_error())
                .with_message("mapping the memfd; open it for reading and writing")),
        }
    }

    fn at(&self, index: usize) -> &AtomicU32 {
        assert!(index < COUNT, "a word of the set");
        // SAFETY: inside the mapping, which starts at a page and lives as long as `self`; the file
        // cannot shrink. Whoever else has the file mapped touches it outside of this program's
        // memory model, or through this type.
        unsafe { self.start.add(index).as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), FILE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_of_one_file_are_the_same_words() {
        let one = Words::shared("test").unwrap();
        let fd = one.fd().unwrap().try_clone_to_owned().unwrap();
        let two = Words::open("test", fd).unwrap();
        one.at(1).store(5, Ordering::Relaxed);
        assert_eq!(two.at(1).load(Ordering::Relaxed), 5);
        assert_eq!(two.at(0).load(Ordering::Relaxed), 0);
        drop(one);
        assert_eq!(two.at(1).load(Ordering::Relaxed), 5, "each mapping lives by itself");
    }

    #[test]
    fn what_could_shrink_is_refused() {
        let fd = memfd_create("plain", MFdFlags::MFD_CLOEXEC).unwrap();
        ftruncate(&fd, FILE_BYTES as i64).unwrap();
        let refused = Words::open("test", fd).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create("empty", flags).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        let refused = Words::open("test", fd).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    }
}
