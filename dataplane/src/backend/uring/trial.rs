//! A ring to try things on.
//!
//! A trial gives operations to a kernel of which nothing is known yet, so it may end early with
//! some of them unfinished. The bench therefore owns the memory they use, counts the completions
//! the kernel owes, and when it cannot collect them all it leaks that memory (two pages) instead
//! of freeing it. It lives on one thread, for the length of one probe.
//!
//! Unsafe code: entries are pushed, and hold pointers into the bench's memory.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, squeue, types::CancelBuilder};

use super::buf_ring::{BufRing, Consume};
use super::ring::Ring;
use super::setup::Setup;
use super::tables::TableError;

/// How long a trial waits for something that takes microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// User data of entries that are not looked at.
const CANCEL: u64 = u64::MAX;
/// User data of a released buffer, for which no entry was pushed.
pub(super) const TAG: u64 = u64::MAX - 1;

/// Why a trial did not succeed.
#[derive(Debug)]
pub(super) enum Why {
    /// The kernel said no.
    Missing(String),
    /// It could not be tried for want of something else, so another attempt may tell more. With
    /// the errno that said what there was too little of.
    Untried(String, Option<i32>),
}

impl Why {
    /// `what` was answered with `errno`; shortage of something says nothing about the kernel.
    pub(super) fn refused(what: &str, errno: i32) -> Why {
        let text = format!("{what}: {}", io::Error::from_raw_os_error(errno));
        match errno {
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN => {
                Why::Untried(text, Some(errno))
            }
            _ => Why::Missing(text),
        }
    }

    /// A preparation that needs no io_uring failed.
    pub(super) fn untried(what: &str) -> impl FnOnce(io::Error) -> Why {
        move |error| Why::Untried(format!("{what}: {error}"), error.raw_os_error())
    }

    /// A call about a ring failed.
    pub(super) fn from_ring(what: &str) -> impl FnOnce(io::Error) -> Why {
        move |error| match error.raw_os_error() {
            Some(errno) => Why::refused(what, errno),
            None => Why::Untried(format!("{what}: {error}"), None),
        }
    }
}

impl From<TableError> for Why {
    fn from(error: TableError) -> Why {
        match error.errno() {
            Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE) | None => {
                Why::Untried(error.to_string(), error.errno())
            }
            Some(_) => Why::Missing(error.to_string()),
        }
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Completion {
    pub(super) fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The result, which has to be `expected`.
    pub(super) fn expect(self, what: &str, expected: i32) -> Result<Completion, Why> {
        match self.result {
            result if result == expected => Ok(self),
            errno if errno < 0 => Err(Why::refused(what, -errno)),
            other => Err(Why::Missing(format!("{what}: gave {other} instead of {expected}"))),
        }
    }
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "result {} with flags {:#x}", self.result, self.flags)
    }
}

/// What operations under trial point at.
#[repr(C, align(4096))]
pub(super) struct Memory {
    pub(super) page: [u8; 4096],
    pub(super) vectors: [libc::iovec; 2],
    pub(super) message: libc::msghdr,
    pub(super) word: u32,
}

/// A ring, memory for what is tried on it, and the completions the kernel owes.
pub(super) struct Bench {
    pub(super) ring: Ring,
    owed: usize,
    /// Made from a box, and one again in `drop`.
    memory: NonNull<Memory>,
}

impl Bench {
    pub(super) fn new() -> io::Result<Bench> {
        let setup = Setup { sq_entries: 8, cq_entries: 64, sqpoll: None, iopoll: false };
        let ring = Ring::new(&setup)?;
        // SAFETY: integers, null pointers and zero lengths: all zeroes is a value of each.
        let memory: Box<Memory> = unsafe { Box::new(std::mem::zeroed()) };
        Ok(Bench { ring, owed: 0, memory: NonNull::from(Box::leak(memory)) })
    }

    /// The memory that entries may point into; to be used through raw pointers while they run.
    pub(super) fn memory(&mut self) -> *mut Memory {
        self.memory.as_ptr()
    }

    /// Hands over `entries` together.
    ///
    /// # Safety
    ///
    /// They point at nothing but the bench's memory, what lives for the whole process, and what
    /// the kernel copies while it takes an entry.
    pub(super) unsafe fn submit(&mut self, entries: &[squeue::Entry]) -> Result<(), Why> {
        // SAFETY: the bench's memory is leaked unless every completion was collected.
        if !unsafe { self.ring.push_all(entries) } {
            return Err(Why::Untried("the submission queue is full".to_owned(), None));
        }
        self.owed += entries.len();
        self.ring.enter(0, None).map_err(Why::from_ring("io_uring_enter"))?;
        Ok(())
    }

    /// Waits for `count` completions, in the order of their arrival.
    pub(super) fn collect(&mut self, count: usize) -> Result<Vec<Completion>, Why> {
        let start = Instant::now();
        let mut seen = Vec::with_capacity(count);
        while seen.len() < count {
            let left = PATIENCE.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Why::Untried("no completion within a second".to_owned(), None));
            }
            self.ring.enter(1, Some(left)).map_err(Why::from_ring("io_uring_enter"))?;
            let (owed, room) = (&mut self.owed, count - seen.len());
            self.ring.reap(room, |user_data, result, flags| {
                let last = !cqueue::more(flags) && user_data != TAG;
                *owed = owed.saturating_sub(usize::from(last));
                seen.push(Completion { user_data, result, flags });
            });
        }
        Ok(seen)
    }

    /// Submits one entry and waits for its one completion.
    ///
    /// # Safety
    ///
    /// As for [`Bench::submit`].
    pub(super) unsafe fn run(&mut self, entry: squeue::Entry) -> Result<Completion, Why> {
        // SAFETY: the caller's promise.
        unsafe { self.submit(&[entry])? };
        self.one()
    }

    /// Waits for one completion.
    pub(super) fn one(&mut self) -> Result<Completion, Why> {
        let last = self.collect(1)?.pop();
        last.ok_or_else(|| Why::Untried("no completion".to_owned(), None))
    }

    /// Cancels what runs and collects every completion owed, so that no trial sees those of the
    /// one before it.
    pub(super) fn settle(&mut self) -> Result<(), Why> {
        if self.owed > 0 {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(CANCEL);
            // SAFETY: a cancellation points at nothing.
            unsafe { self.submit(&[cancel])? };
        }
        while self.owed > 0 {
            self.collect(1)?;
        }
        // Tags of released buffers are nobody's result.
        self.ring.reap(usize::MAX, |_, _, _| ());
        Ok(())
    }

    /// Runs `trial` with a buffer ring registered as `group`, holding four buffers of 8 bytes from
    /// the start of the page.
    pub(super) fn with_buffers<T>(
        &mut self,
        group: u16,
        consume: Consume,
        trial: impl FnOnce(&mut Bench) -> Result<T, Why>,
    ) -> Result<T, Why> {
        let name = match consume {
            Consume::Whole => "registering a buffer ring",
            Consume::Incremental => "registering an incremental buffer ring",
        };
        let mut buffers =
            BufRing::register(&mut self.ring, group, 4, consume).map_err(Why::from_ring(name))?;
        let page: *mut u8 = self.memory().cast();
        for id in 0..4 {
            // SAFETY: within the page, which outlives every operation on this ring.
            unsafe { buffers.push(page.add(usize::from(id) * 8), 8, id) };
        }
        buffers.publish();
        let outcome = trial(self);
        let settled = self.settle();
        buffers
            .unregister(&mut self.ring)
            .map_err(Why::from_ring("unregistering a buffer ring"))?;
        settled?;
        buffers.release().map_err(Why::untried("unmapping a buffer ring"))?;
        outcome
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.settle().is_ok() {
            // SAFETY: dropped once, and no operation is left that points into it.
            drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
        }
    }
}

/// A completion that says more will come.
pub(super) fn stays_armed(what: &str, completion: Completion) -> Result<(), Why> {
    match completion.more() {
        true => Ok(()),
        false => Err(Why::Missing(format!("{what}: completed once only ({completion})"))),
    }
}
