//! The ring of the limit: both queues' views kept for its life, so that staging an entry is a copy
//! and a turn is one system call with no look-up of the descriptor.
//!
//! It belongs to the thread that made it. Whoever drops it has nothing in flight any more: closing
//! a ring does not stop the kernel's use of memory.
//!
//! Unsafe code: the kept views borrow the boxed instance beside them. See io_uring_setup(2) and
//! io_uring_enter(2).
#![allow(unsafe_code)]

use io_uring::squeue::Entry;
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter};
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// Completion-queue entries; as many as the toolkit's default.
const COMPLETIONS: u32 = 4096;

/// See the head of this module.
pub struct Ring {
    /// Never dropped: their drop would look at the queues again.
    sq: ManuallyDrop<SubmissionQueue<'static>>,
    cq: ManuallyDrop<CompletionQueue<'static>>,
    submitter: Submitter<'static>,
    staged: u32,
    instance: NonNull<IoUring>,
}

impl Ring {
    /// A ring of `entries` submission entries.
    ///
    /// # Errors
    ///
    /// What the kernel says: no io_uring, or older than 6.1.
    pub fn new(entries: u32) -> io::Result<Ring> {
        let build = |without_array: bool| {
            let mut builder = IoUring::builder();
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            builder.setup_submit_all().setup_cqsize(COMPLETIONS.max(2 * entries));
            if without_array {
                builder.setup_no_sqarray();
            }
            builder.build(entries)
        };
        // Kernels before 6.6 have no rings without an index array.
        let uring = build(true).or_else(|_| build(false))?;
        let instance = NonNull::from(Box::leak(Box::new(uring)));
        // SAFETY: freed in `drop` alone, after the last use of the views.
        let shared: &'static IoUring = unsafe { instance.as_ref() };
        // SAFETY: the only view of this queue that is ever made.
        let sq = unsafe { shared.submission_shared() };
        // SAFETY: likewise.
        let cq = unsafe { shared.completion_shared() };
        let mut submitter = shared.submitter();
        submitter.register_ring_fd()?;
        let (sq, cq) = (ManuallyDrop::new(sq), ManuallyDrop::new(cq));
        Ok(Ring { sq, cq, submitter, staged: 0, instance })
    }

    /// Registration calls.
    pub fn register(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// Stages an entry.
    ///
    /// # Panics
    ///
    /// When more is staged than the ring has entries: the loops know how much they stage.
    ///
    /// # Safety
    ///
    /// What the entry points at stays valid and is left alone until its last completion.
    #[inline]
    pub unsafe fn push(&mut self, entry: &Entry) {
        // SAFETY: the caller's promise is the one this asks for.
        let pushed = unsafe { self.sq.push(entry) };
        assert!(pushed.is_ok(), "more entries staged than the ring has");
        self.staged += 1;
    }

    /// Hands over what is staged and waits for `want` completions.
    ///
    /// # Errors
    ///
    /// What `io_uring_enter(2)` says; an interrupted wait is none.
    #[inline]
    pub fn enter(&mut self, want: u32) -> io::Result<()> {
        self.sq.sync();
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: no argument is passed.
        let taken =
            unsafe { self.submitter.enter::<libc::sigset_t>(self.staged, want, flags, None) };
        match taken {
            Ok(taken) => self.staged -= taken as u32,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
        self.sq.sync();
        Ok(())
    }

    /// The next completion that is there: user data, result, flags.
    #[inline]
    pub fn next_completion(&mut self) -> Option<(u64, i32, u32)> {
        self.cq.next().map(|entry| (entry.user_data(), entry.result(), entry.flags()))
    }

    /// Gives the places of the completions taken back, and sees those that came since.
    #[inline]
    pub fn sync_completions(&mut self) {
        self.cq.sync();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A registration would keep the closed ring alive until the thread ends.
        if let Err(error) = self.submitter.unregister_ring_fd() {
            eprintln!("the limit's ring stays registered: {error}");
        }
        // SAFETY: from `Box::leak`, freed once; none of the views looks at it in its drop.
        drop(unsafe { Box::from_raw(self.instance.as_ptr()) });
    }
}

/// A result as a count, or the error it is.
#[inline]
pub fn count(result: i32, name: &str) -> crate::Result<usize> {
    match result {
        0.. => Ok(result as usize),
        _ => Err(format!("{name}: {}", io::Error::from_raw_os_error(-result)).into()),
    }
}
