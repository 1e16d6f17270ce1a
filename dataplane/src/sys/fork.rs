//! Telling a process from its forked children.
//!
//! A forked child inherits everything and owns nothing: it sees its parent's rings and
//! descriptors (close-on-exec does nothing for fork(2)), and one that read its parent's
//! completion queue was seen to eat a completion. So every call in a child must be refused, and
//! every Drop must leave the kernel alone, at a price an I/O call can afford: getpid(2) is a
//! system call each time.
//!
//! # Design
//!
//! One page per process, mapped on first use and never unmapped, marked MADV_WIPEONFORK
//! (madvise(2), Linux 4.14): in a child it reads zero, and so on in the children's children. It
//! holds one word, the *stamp* of the process that wrote it. [`Origin`] is a copy of the stamp:
//! while the page still says the same, this is still that process. A child that makes a proactor
//! of its own finds zero and writes its own stamp, which is not its parent's.
//!
//! The stamp is the process id and 32 bits of the clock. The id alone would not do: it is reused,
//! and the first process of a container and the first of a container inside it are both 1.
//!
//! Nothing here takes a lock, since a child may be forked while any thread holds any lock.
//!
//! # Limits
//!
//! vfork(2) and clone(2) with CLONE_VM share memory with their parent, so the child passes for
//! it; such a child may do nothing but exec or exit anyway.
//!
//! # Unsafe
//!
//! Mapping the page, and a reference to the word in it that lives as long as the process.

#![allow(unsafe_code)]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::engine::deadlines::now_ns;

/// The page, once there is one; never taken back.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// The process that made a thing, to be asked later whether this is still it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    page: &'static AtomicU64,
    stamp: u64,
}

impl Origin {
    /// This process.
    ///
    /// # Errors
    ///
    /// ENOMEM when no page can be mapped, EINVAL on a kernel without MADV_WIPEONFORK. Only the
    /// first call of a process can fail.
    pub(crate) fn here() -> io::Result<Self> {
        let page = page()?;
        let mut stamp = page.load(Ordering::Relaxed);
        if stamp == 0 {
            let fresh = u64::from(std::process::id()) << 32 | now_ns() & 0xFFFF_FFFF;
            let swap = page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed);
            stamp = swap.map_or_else(|other_thread| other_thread, |_| fresh);
        }
        Ok(Self { page, stamp })
    }

    /// Whether this is the process that [`here`](Self::here) was called in. One load and a
    /// compare; async-signal-safe.
    pub(crate) fn is_here(self) -> bool {
        // Fork is an opaque call to the compiler, so it cannot keep a value loaded before it.
        self.page.load(Ordering::Relaxed) == self.stamp
    }
}

/// The page's word. Threads that race to map it agree on one; the others unmap theirs.
fn page() -> io::Result<&'static AtomicU64> {
    let mut word = PAGE.load(Ordering::Acquire);
    if word.is_null() {
        let fresh = map_wiped_page()?;
        match PAGE.compare_exchange(word, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => word = fresh,
            Err(other_thread) => {
                // SAFETY: mapped just above with this length, and nobody else has seen it.
                unsafe { libc::munmap(fresh.cast(), size_of::<AtomicU64>()) };
                word = other_thread;
            }
        }
    }
    // SAFETY: PAGE holds null or a readable, writable, page-aligned mapping that is never
    // unmapped. Its bytes are zero or a stamp, and are accessed as an atomic only.
    Ok(unsafe { &*word })
}

/// Maps a zeroed private page that a fork leaves zeroed in the child. The kernel rounds the
/// length of the word up to a page.
fn map_wiped_page() -> io::Result<*mut AtomicU64> {
    let length = size_of::<AtomicU64>();
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let page =
        unsafe { libc::mmap(ptr::null_mut(), length, access, kind | libc::MAP_ANONYMOUS, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping made above, which nobody else knows yet.
    if unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) } != 0 {
        let error = io::Error::last_os_error();
        // SAFETY: as above; it is given up here.
        unsafe { libc::munmap(page, length) };
        return Err(error);
    }
    Ok(page.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `child` in a forked child and returns its exit code. Other tests run in other
    /// threads, so the child may only make calls that take no lock and allocate nothing.
    fn exit_code_of(child: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child only loads and stores atomics, makes system calls and exits.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            let code = child();
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(code) };
        }
        wait_for(pid)
    }

    fn wait_for(pid: libc::pid_t) -> i32 {
        let mut status = 0;
        // SAFETY: `status` is ours and `pid` is our own child.
        while unsafe { libc::waitpid(pid, &mut status, 0) } != pid {}
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }
    }

    #[test]
    fn the_process_knows_itself_on_every_thread() {
        let origin = Origin::here().unwrap();
        assert!(origin.is_here());
        let other = std::thread::spawn(|| Origin::here().unwrap()).join().unwrap();
        assert!(other.is_here());
        assert_eq!(origin.stamp, other.stamp);
        assert!(std::thread::spawn(move || origin.is_here()).join().unwrap());
    }

    #[test]
    fn a_child_is_not_its_parent() {
        let origin = Origin::here().unwrap();
        assert_eq!(exit_code_of(|| if origin.is_here() { 1 } else { 42 }), 42);
        assert!(origin.is_here(), "and the parent goes on");
    }

    #[test]
    fn a_child_has_an_origin_of_its_own() {
        let origin = Origin::here().unwrap();
        let code = exit_code_of(|| match Origin::here() {
            Ok(own) if own.is_here() && !origin.is_here() => 42,
            Ok(_) => 1,
            Err(_) => 2,
        });
        assert_eq!(code, 42);
        assert!(origin.is_here());
    }

    #[test]
    fn a_grandchild_is_neither() {
        let origin = Origin::here().unwrap();
        let code = exit_code_of(|| {
            let Ok(child) = Origin::here() else { return 1 };
            let grandchild =
                exit_code_of(|| if child.is_here() || origin.is_here() { 2 } else { 42 });
            if child.is_here() { grandchild } else { 3 }
        });
        assert_eq!(code, 42);
    }
}
