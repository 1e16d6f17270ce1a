//! One io_uring instance: staging entries, entering the kernel, reaping completions.
//!
//! Knows nothing of operations. The owner thread stages submission entries with [`Ring::push`]
//! or [`Ring::push_all`], hands all of them over and waits with one [`Ring::enter`], and takes
//! completions with [`Ring::reap`]. A ring belongs to the thread that made it: the type is
//! neither `Send` nor `Sync`, and the kernel answers EEXIST to any other thread's enter.
//!
//! # The staged tail
//!
//! The crate's queue views load the shared head when they are made and store the shared tail when
//! they are dropped; a view per push would pay both every time. One view of each queue is
//! therefore kept for the life of the ring. A push writes its 64 bytes and advances a tail only
//! we can see; `enter` publishes that tail once and reads the head once when the kernel is back.
//! The same holds for completions: `reap` loads the tail once and publishes the head once.
//! Staged entries are published by `enter` alone, so a kernel submission thread never sees half of
//! a batch, and a ring that is dropped never hands over what was only staged.
//!
//! # The registered descriptor
//!
//! The descriptor is registered with its thread (IORING_REGISTER_RING_FDS), which spares every
//! enter the look-up of the descriptor: about a tenth of a call that does next to nothing. Such a
//! registration keeps a closed ring alive until the thread exits, with every socket and buffer its
//! operations hold, so the drop takes it back first. A thread has 16 places; a ring that finds none
//! free enters by descriptor.
//!
//! Unsafe code: the kept views borrow the boxed instance beside them, and the kernel follows the
//! pointers in a pushed entry. See io_uring_setup(2) and io_uring_enter(2).
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{
    CompletionQueue, CompletionStatus, EnterFlags, IoUring, Parameters, SubmissionQueue, Submitter,
    squeue,
};

use super::chain::Chains;
use super::setup::Setup;

/// Why `enter` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Entries were taken, or the wait was satisfied, or no system call was needed. The kernel
    /// also answers this way when it took entries and the wait after them then timed out or was
    /// interrupted: it has one return value and the count wins.
    Done,
    /// ETIME: the wait's timeout passed.
    TimedOut,
    /// EINTR: a signal ended the wait.
    Interrupted,
    /// EAGAIN or EBUSY: no memory for requests, or completions must be reaped first. Staged
    /// entries stay; reap, then enter again.
    Busy,
    /// EBADR: the kernel had no memory to keep an overflowing completion; [`Ring::dropped`] says
    /// how many are lost. What was in flight can no longer be trusted to report.
    CompletionsLost,
}

/// What one `enter` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entered {
    /// Entries the kernel took; those it did not take are still staged.
    pub(crate) taken: u32,
    /// Why it came back.
    pub(crate) end: End,
}

impl Entered {
    /// The kernel said that the timeout passed (it does not when it also took entries).
    #[cfg(test)]
    pub(crate) fn timed_out(self) -> bool {
        self.end == End::TimedOut
    }
}

/// The boxed instance, reached by pointer so that moving a `Ring` does not disturb the views.
struct Instance(NonNull<IoUring>);

impl Instance {
    fn get(&self) -> &IoUring {
        // SAFETY: made from a box in `Ring::new`, freed in `drop` alone, never borrowed mutably.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw` and is freed once; the views kept beside
        // it are `ManuallyDrop` without a drop of their own, so none of them looks at it again.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// One io_uring instance and its owner's view of both queues.
pub(crate) struct Ring {
    /// Never dropped: its drop would publish entries that were only staged.
    sq: ManuallyDrop<SubmissionQueue<'static>>,
    cq: ManuallyDrop<CompletionQueue<'static>>,
    status: CompletionStatus,
    /// Entries pushed and not yet accepted by an enter.
    pub(super) staged: u32,
    pub(super) sqpoll: bool,
    iopoll: bool,
    /// Entries the kernel took so far; the place of the first of those staged. Not kept with a
    /// submission thread.
    pub(super) head: u32,
    /// From the first chain on.
    pub(super) chains: Option<Chains>,
    /// The last enter took a part of what was staged.
    pub(super) short: bool,
    /// Most entries handed over by the next enter.
    #[cfg(test)]
    pub(crate) at_most: Option<u32>,
    /// System calls made by `enter`.
    enters: u64,
    /// Enters through the place the descriptor has in its thread's table, if it got one.
    submitter: Submitter<'static>,
    in_thread_table: bool,
    /// Dropped last: everything above looks into it.
    instance: Instance,
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// Refused with the limit named when a size is out of range, and with the remedy named when
    /// the kernel is older than 6.1 or forbids io_uring;
    /// [`errno_of`](super::setup::errno_of) gives the kernel's code.
    pub(crate) fn new(setup: &Setup) -> io::Result<Ring> {
        Ok(Ring::around(Box::new(setup.build()?), setup))
    }

    fn around(uring: Box<IoUring>, setup: &Setup) -> Ring {
        let raw = NonNull::from(Box::leak(uring));
        // SAFETY: the box is freed only by `Instance::drop`, after the last use of the views (they
        // are private fields of the same value), and is borrowed shared from here on.
        let shared: &'static IoUring = unsafe { raw.as_ref() };
        // SAFETY: the only view of the submission queue that is ever made for this instance.
        let sq = unsafe { shared.submission_shared() };
        // SAFETY: likewise for the completion queue.
        let cq = unsafe { shared.completion_shared() };
        // SAFETY: dropped with the ring it came from.
        let status = unsafe { cq.status() };
        let mut submitter = shared.submitter();
        let in_thread_table = submitter.register_ring_fd().is_ok();
        Ring {
            sq: ManuallyDrop::new(sq),
            cq: ManuallyDrop::new(cq),
            status,
            staged: 0,
            head: 0,
            chains: None,
            short: false,
            #[cfg(test)]
            at_most: None,
            sqpoll: setup.sqpoll.is_some(),
            iopoll: setup.iopoll,
            enters: 0,
            submitter,
            in_thread_table,
            instance: Instance(raw),
        }
    }

    /// Stages one entry; `false` when there is no room.
    ///
    /// # Safety
    ///
    /// Everything the entry points at (buffers, addresses, vectors, time values) stays valid and
    /// unmoved, and is otherwise left alone as the operation demands, until the last completion of
    /// that entry has been reaped. Dropping the ring does not end the kernel's use.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller's promise is the one this asks for.
        let pushed = unsafe { self.sq.push(entry) }.is_ok();
        self.staged += u32::from(pushed);
        pushed
    }

    /// Stages all of `entries` in order, or none; `false` when they do not all fit.
    ///
    /// They are published together, so links among them are never cut.
    ///
    /// # Safety
    ///
    /// As for [`Ring::push`], for every entry.
    pub(crate) unsafe fn push_all(&mut self, entries: &[squeue::Entry]) -> bool {
        // SAFETY: the caller's promise is the one this asks for.
        let pushed = unsafe { self.sq.push_multiple(entries) }.is_ok();
        if pushed {
            // A queue holds at most 32,768 entries.
            self.staged += entries.len() as u32;
        }
        pushed
    }

    /// Whether the last enter took a part of what was staged: [`mend`](Ring::mend) comes next.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.short
    }

    /// Entries that can be pushed between two enters.
    pub(crate) fn capacity(&self) -> usize {
        self.sq.capacity()
    }

    /// Entries that can be pushed before the next enter.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.sq.capacity() - self.sq.len()
    }

    /// Entries pushed that no enter has handed over yet.
    #[cfg(test)]
    pub(crate) fn staged(&self) -> usize {
        self.staged as usize
    }

    /// Entries the kernel has not taken yet: those staged, which this publishes, and those that a
    /// submission thread has not come to.
    pub(crate) fn untaken(&mut self) -> usize {
        self.sq.sync();
        self.sq.len()
    }

    /// Whether a thread of the kernel's submits.
    pub(crate) fn has_thread(&self) -> bool {
        self.sqpoll
    }

    /// Hands over everything staged and waits until `want` completions are in the queue or
    /// `timeout` has passed, in at most one system call.
    ///
    /// No call is made when nothing is staged, `want` completions are there already and the kernel
    /// has no deferred work or overflowed completions to hand in. With a submission thread, none
    /// is made unless there is something to wait for, the thread sleeps, or the queue is full.
    ///
    /// Errors are those a retry does not mend: EEXIST (wrong thread), EBADF, EFAULT and the like.
    /// Nothing staged is lost by one.
    #[inline(always)]
    pub(crate) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<Entered> {
        self.sq.sync();
        let pending = self.sq.cq_overflow() || self.sq.taskrun();
        let satisfied = want == 0 || self.completions() >= want as usize;
        let mut flags = EnterFlags::GETEVENTS;
        if self.sqpoll {
            // A thread that sleeps over an empty queue is left asleep.
            let asleep = self.sq.need_wakeup() && !self.sq.is_empty();
            if asleep {
                flags |= EnterFlags::SQ_WAKEUP;
            }
            if self.sq.is_full() {
                flags |= EnterFlags::SQ_WAIT;
            }
            if satisfied && !pending && !asleep && !self.sq.is_full() {
                return Ok(Entered { taken: self.hand_over(), end: End::Done });
            }
        } else if self.staged == 0 && satisfied && !pending && !self.iopoll {
            return Ok(Entered { taken: 0, end: End::Done });
        }
        let outcome = self.system_call(want, flags, timeout);
        self.sq.sync();
        self.account(outcome)
    }

    #[inline(always)]
    fn system_call(
        &mut self,
        want: u32,
        flags: EnterFlags,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        self.enters += 1;
        let (submitter, staged, bits) = (&self.submitter, self.staged, flags.bits());
        #[cfg(test)]
        let staged = staged.min(self.at_most.take().unwrap_or(staged));
        match timeout {
            None => {
                // SAFETY: no argument is passed.
                unsafe { submitter.enter::<libc::sigset_t>(staged, want, bits, None) }
            }
            Some(timeout) => {
                let time = Timespec::from(timeout);
                let arguments = SubmitArgs::new().timespec(&time);
                let bits = bits | EnterFlags::EXT_ARG.bits();
                // SAFETY: EXT_ARG goes with this type; it and the time outlive the call.
                unsafe { submitter.enter(staged, want, bits, Some(&arguments)) }
            }
        }
    }

    /// With a submission thread, what has been published is the thread's.
    fn hand_over(&mut self) -> u32 {
        std::mem::take(&mut self.staged)
    }

    fn account(&mut self, outcome: io::Result<usize>) -> io::Result<Entered> {
        let published = if self.sqpoll { self.hand_over() } else { 0 };
        let error = match outcome {
            Ok(_) if self.sqpoll => return Ok(Entered { taken: published, end: End::Done }),
            Ok(taken) => {
                let taken = taken as u32;
                debug_assert!(taken <= self.staged);
                self.staged -= taken;
                self.head = self.head.wrapping_add(taken);
                self.short = self.staged > 0 && taken > 0;
                return Ok(Entered { taken, end: End::Done });
            }
            Err(error) => error,
        };
        let end = match error.raw_os_error() {
            Some(libc::ETIME) => End::TimedOut,
            Some(libc::EINTR) => End::Interrupted,
            Some(libc::EAGAIN | libc::EBUSY) => End::Busy,
            Some(libc::EBADR) => End::CompletionsLost,
            _ => return Err(error),
        };
        Ok(Entered { taken: published, end })
    }

    /// Takes up to `max` completions, oldest first, and gives each one's user data, result and
    /// flags to `each`; answers how many. Their places are given back together at the end.
    ///
    /// If `each` panics, those it was given count as taken and the rest stay.
    #[inline]
    pub(crate) fn reap(&mut self, max: usize, mut each: impl FnMut(u64, i32, u32)) -> usize {
        self.cq.sync();
        let count = self.cq.len().min(max);
        for entry in self.cq.by_ref().take(count) {
            each(entry.user_data(), entry.result(), entry.flags());
        }
        self.cq.sync();
        count
    }

    /// Whether completions wait to be reaped. Work the kernel has deferred does not count.
    #[inline]
    pub(crate) fn has_completions(&self) -> bool {
        !self.status.is_empty()
    }

    /// Completions that wait to be reaped.
    #[inline]
    pub(crate) fn completions(&mut self) -> usize {
        self.cq.sync();
        self.cq.len()
    }

    /// Whether the completion queue ran over; the rest comes with an enter after a reap.
    pub(crate) fn overflow_flag(&self) -> bool {
        self.sq.cq_overflow()
    }

    /// Completions lost for good, because the kernel had no memory to keep them.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> u32 {
        self.cq.overflow()
    }

    /// System calls made by [`Ring::enter`] so far.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Sizes and features the kernel answered with.
    pub(crate) fn params(&self) -> &Parameters {
        self.instance.get().params()
    }

    /// Registration calls; its own enters are not to be used.
    pub(crate) fn submitter(&self) -> Submitter<'_> {
        self.instance.get().submitter()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_thread_table {
            // Fails only in a forked child, whose table is its own and empty.
            let _ = self.submitter.unregister_ring_fd();
        }
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.instance.get().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::setup::SqPoll;
    use super::*;
    use io_uring::opcode::{Nop, Timeout};

    fn ring(sq_entries: u32, cq_entries: u32) -> Ring {
        Ring::new(&Setup { sq_entries, cq_entries, sqpoll: None, iopoll: false }).unwrap()
    }

    fn nop(ring: &mut Ring, user_data: u64) -> bool {
        // SAFETY: a no-op points at nothing.
        unsafe { ring.push(&Nop::new().build().user_data(user_data)) }
    }

    fn reap(ring: &mut Ring, max: usize) -> Vec<(u64, i32)> {
        let mut seen = Vec::new();
        let count = ring.reap(max, |user_data, result, _| seen.push((user_data, result)));
        assert_eq!(count, seen.len());
        seen
    }

    #[test]
    fn a_batch_costs_one_enter_and_completes_in_order() {
        let mut ring = ring(64, 128);
        assert!((0..64).all(|user_data| nop(&mut ring, user_data)));
        assert_eq!((ring.staged(), ring.room(), ring.enters()), (64, 0, 0));
        let entered = ring.enter(64, None).unwrap();
        assert_eq!(entered, Entered { taken: 64, end: End::Done });
        assert_eq!((ring.staged(), ring.room(), ring.enters()), (0, 64, 1));
        assert!(ring.has_completions());
        assert_eq!(reap(&mut ring, 10), (0..10).map(|n| (n, 0)).collect::<Vec<_>>());
        assert_eq!(reap(&mut ring, 99), (10..64).map(|n| (n, 0)).collect::<Vec<_>>());
        assert!(!ring.has_completions());
    }

    #[test]
    fn nothing_to_do_makes_no_system_call() {
        let mut ring = ring(8, 16);
        assert_eq!(ring.enter(0, None).unwrap(), Entered { taken: 0, end: End::Done });
        assert_eq!(ring.enters(), 0);
        assert!(nop(&mut ring, 1));
        ring.enter(1, None).unwrap();
        ring.enter(1, Some(Duration::from_secs(60))).unwrap();
        assert_eq!(ring.enters(), 1, "the completion that is there satisfies the wait");
    }

    #[test]
    fn an_overflowed_queue_gives_everything_after_a_reap_and_an_enter() {
        let mut ring = ring(8, 8);
        for round in 0..3 {
            assert!((0..8).all(|n| nop(&mut ring, round * 8 + n)));
            assert_eq!(ring.enter(0, None).unwrap().taken, 8);
        }
        assert!(ring.overflow_flag());
        let mut seen = reap(&mut ring, usize::MAX);
        assert_eq!(seen.len(), 8);
        while ring.overflow_flag() {
            ring.enter(0, None).unwrap();
            seen.extend(reap(&mut ring, usize::MAX));
        }
        assert_eq!(seen, (0..24).map(|n| (n, 0)).collect::<Vec<_>>());
        assert_eq!(ring.dropped(), 0);
    }

    #[test]
    fn a_wait_ends_at_its_timeout() {
        let mut ring = ring(8, 16);
        let entered = ring.enter(1, Some(Duration::from_millis(2))).unwrap();
        assert_eq!(entered, Entered { taken: 0, end: End::TimedOut });
        assert!(entered.timed_out());
        assert!(nop(&mut ring, 1));
        let entered = ring.enter(2, Some(Duration::from_millis(2))).unwrap();
        assert_eq!(entered, Entered { taken: 1, end: End::Done }, "the count hides the timeout");
    }

    #[test]
    fn deferred_work_is_run_by_an_enter_that_waits_for_nothing() {
        let mut ring = ring(8, 16);
        let time = Timespec::from(Duration::from_millis(1));
        // SAFETY: the kernel copies the time while it takes the entry.
        assert!(unsafe { ring.push(&Timeout::new(&time).build().user_data(7)) });
        assert_eq!(ring.enter(0, None).unwrap().taken, 1);
        let mut seen = Vec::new();
        while seen.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            ring.enter(0, None).unwrap();
            seen = reap(&mut ring, 8);
        }
        assert_eq!(seen, [(7, -libc::ETIME)]);
    }

    #[test]
    fn a_submission_thread_takes_what_an_enter_publishes() {
        let sqpoll = Some(SqPoll { idle: Duration::from_millis(1), cpu: None });
        let setup = Setup { sq_entries: 4, cq_entries: 64, sqpoll, iopoll: false };
        let mut ring = Ring::new(&setup).unwrap();
        let mut seen = Vec::new();
        for user_data in 0..40 {
            while !nop(&mut ring, user_data) {
                ring.enter(0, None).unwrap();
            }
        }
        while seen.len() < 40 {
            ring.enter(1, None).unwrap();
            seen.extend(reap(&mut ring, 64));
        }
        assert_eq!(seen, (0..40).map(|n| (n, 0)).collect::<Vec<_>>());
        assert_eq!(ring.staged(), 0);
    }

    #[test]
    fn an_idle_submission_thread_is_left_asleep() {
        let sqpoll = Some(SqPoll { idle: Duration::from_millis(1), cpu: None });
        let mut ring =
            Ring::new(&Setup { sq_entries: 4, cq_entries: 8, sqpoll, iopoll: false }).unwrap();
        while !ring.sq.need_wakeup() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(ring.enter(0, None).unwrap(), Entered { taken: 0, end: End::Done });
        assert_eq!(ring.enters(), 0);
        assert!(nop(&mut ring, 1));
        assert_eq!(ring.enter(1, None).unwrap().taken, 1);
        assert_eq!((ring.enters(), reap(&mut ring, 8)), (1, vec![(1, 0)]));
    }

    #[test]
    fn a_dropped_ring_submits_nothing_that_was_only_staged() {
        let (reader, writer) = std::io::pipe().unwrap();
        let sqpoll = Some(SqPoll { idle: Duration::from_secs(1), cpu: None });
        for sqpoll in [None, sqpoll] {
            let mut ring =
                Ring::new(&Setup { sq_entries: 4, cq_entries: 8, sqpoll, iopoll: false }).unwrap();
            let fd = io_uring::types::Fd(writer.as_raw_fd());
            let write = io_uring::opcode::Write::new(fd, c"x".as_ptr().cast(), 1).build();
            // SAFETY: the byte is static.
            assert!(unsafe { ring.push(&write) });
            drop(ring);
        }
        drop(writer);
        assert_eq!(std::io::read_to_string(reader).unwrap(), "");
    }

    #[test]
    fn a_dropped_ring_lets_go_of_the_sockets_its_operations_held() {
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut ring = ring(8, 16);
        assert!(ring.in_thread_table);
        let poll = io_uring::opcode::PollAdd::new(
            io_uring::types::Fd(far.as_raw_fd()),
            libc::POLLIN as u32,
        );
        // SAFETY: a poll points at nothing.
        assert!(unsafe { ring.push(&poll.build()) });
        assert_eq!(ring.enter(0, None).unwrap().taken, 1);
        drop(far);
        drop(ring);
        // Closing a ring interrupts calls of its thread; `read_to_end` goes on after that.
        let mut rest = Vec::new();
        let read = io::Read::read_to_end(&mut near, &mut rest);
        assert_eq!(read.unwrap(), 0, "the end of the stream, while this thread goes on");
    }

    #[test]
    fn a_thread_may_have_more_rings_than_its_table_has_places() {
        let mut rings: Vec<Ring> = (0..20).map(|_| ring(2, 4)).collect();
        assert!(rings.iter().any(|ring| !ring.in_thread_table));
        for ring in &mut rings {
            assert!(nop(ring, 5));
            assert_eq!(ring.enter(1, None).unwrap().taken, 1);
            assert_eq!(reap(ring, 1), [(5, 0)]);
        }
        drop(rings);
        assert!(ring(2, 4).in_thread_table, "dropped rings gave their places back");
    }
}
