//! Chains: entries of which the kernel starts each when the one before it has succeeded.
//!
//! The kernel runs what it was given at once. Where it takes only a part of what is staged, a chain
//! may be cut in two, and what is left of it would be a chain of its own, which runs whatever
//! became of the first part. With SUBMIT_ALL a malformed entry is no reason to stop; want of memory
//! for a request is (`io_submit_sqes` in io_uring/io_uring.c), as in a memory cgroup that is full
//! and has nothing that may be killed. So what is left is made into no-ops before the next enter. A
//! submission thread tells nobody how much it took: its chains are as whole as the kernel's memory.
//!
//! The ring crate lets go of an entry when it is pushed; here is a mapping of our own of the same
//! memory (IORING_OFF_SQES, `io_uring_setup(2)`), which the kernel reads in `io_uring_enter(2)`
//! alone. Places count from the first entry ever pushed and wrap around like the queue does; those
//! that the kernel took stay readable until the next push.
//!
//! Unsafe code: the mapping is read and written through raw pointers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use io_uring::opcode::Nop;
use io_uring::squeue::{Entry, Flags};

use super::ring::Ring;
use super::{Uring, tagged};
use crate::backend::{Event, Kind, MORE, OpId};
use crate::engine::slots::{Link, Slot};
use crate::engine::table::Table;
use crate::op::Forms;

/// IORING_OFF_SQES.
const AT: libc::off_t = 0x1000_0000;
/// IOSQE_IO_LINK.
const LINK: u8 = 1 << 2;
/// Where the flags stand in an entry, in bytes.
const FLAGS_AT: usize = 1;

/// Links entries to a chain: it ends with the one that has no link.
pub(super) fn linked(entries: Vec<Entry>) -> Vec<Entry> {
    let last = entries.len().saturating_sub(1);
    let link = |at| if at < last { Flags::IO_LINK } else { Flags::empty() };
    entries.into_iter().enumerate().map(|(at, entry)| entry.flags(link(at))).collect()
}

impl Uring {
    /// The kernel cut a chain in two: the steps it did not take end as those of a broken chain.
    #[cold]
    pub(super) fn mend(&mut self) {
        let cut_off = self.ring.mend(tagged(Kind::Internal, 0));
        self.own.extend(cut_off.into_iter().map(|id| Event::of(OpId(id), -libc::ECANCELED, 0)));
    }
}

/// The end of an operation that the kernel cancelled, with the flag it leaves out.
///
/// A zero-copy send whose chain ends before it begins has been prepared, so its notification comes,
/// although its result does not say so (IORING_CQE_F_MORE is set by `io_sendrecv_fail` in
/// io_uring/net.c, and `io_req_tw_fail_links` in io_uring/timeout.c does not go there).
pub(super) fn whole(mut event: Event, table: &mut Table) -> Event {
    let is_linked = |slot: &mut Slot| slot.link != Link::Apart && event.flags & MORE == 0;
    if table.slots.find(event.op()).is_some_and(is_linked)
        && table.slots.body(event.op().index()).op.as_mut().is_some_and(Forms::cut_off)
    {
        event.flags |= MORE;
    }
    event
}

impl Ring {
    /// Stages a chain, whole; `false` when it does not fit, or could not be mended if the kernel
    /// took a part of it. Its entries get their links here.
    ///
    /// # Safety
    ///
    /// As for [`Ring::push`], for every entry.
    pub(crate) unsafe fn push_chain(&mut self, entries: Vec<Entry>) -> bool {
        if self.chains.is_none() && !self.sqpoll {
            self.chains = Chains::of(self).ok();
            if self.chains.is_none() {
                return false;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.push_all(&linked(entries)) }
    }

    /// After a short enter: makes what is left of a chain of which the kernel took a part into
    /// no-ops called `nobody`; the names of those that will not run.
    #[cold]
    pub(crate) fn mend(&mut self, nobody: u64) -> Vec<u64> {
        self.short = false;
        let chains = self.chains.as_mut();
        chains.map_or_else(Vec::new, |chains| chains.mend(self.head, self.staged, nobody))
    }
}

/// The entries of one ring, where its chains may be mended.
#[derive(Debug)]
pub(crate) struct Chains {
    first: NonNull<Entry>,
    /// A power of two.
    count: u32,
}

impl Chains {
    /// Maps the entries of a ring.
    pub(crate) fn of(ring: &Ring) -> io::Result<Chains> {
        let count = ring.params().sq_entries();
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, of the size that the ring has.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes(count), access, kind, ring.as_raw_fd(), AT)
        };
        let first = match NonNull::new(at.cast::<Entry>()) {
            Some(first) if at != libc::MAP_FAILED => first,
            _ => return Err(io::Error::last_os_error()),
        };
        let chains = Chains { first, count };
        // SAFETY: our own mapping, whole.
        match unsafe { libc::madvise(at, bytes(count), libc::MADV_DONTFORK) } {
            0 => Ok(chains),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// `staged` entries are left, the first of them at `head`.
    fn mend(&mut self, head: u32, staged: u32, nobody: u64) -> Vec<u64> {
        let mut cut_off = Vec::new();
        let mut goes_on = self.is_linked(head.wrapping_sub(1));
        for at in (0..staged).map(|at| head.wrapping_add(at)) {
            if !goes_on {
                break;
            }
            goes_on = self.is_linked(at);
            cut_off.push(self.name(at));
            self.make_nop(at, nobody);
        }
        cut_off
    }

    fn at(&self, place: u32) -> *mut Entry {
        // SAFETY: below the count.
        unsafe { self.first.as_ptr().add((place & (self.count - 1)) as usize) }
    }

    /// Whether the entry after it belongs to the same chain.
    fn is_linked(&self, place: u32) -> bool {
        // SAFETY: within an entry, which only this thread writes.
        unsafe { self.at(place).cast::<u8>().add(FLAGS_AT).read() & LINK != 0 }
    }

    /// Its user data.
    fn name(&self, place: u32) -> u64 {
        // SAFETY: an entry is plain memory; this thread alone writes it, and not meanwhile.
        unsafe { &*self.at(place) }.get_user_data()
    }

    /// Makes it one that does nothing, belongs to no chain and is called `name`.
    fn make_nop(&mut self, place: u32, name: u64) {
        // SAFETY: as above; the kernel reads it in the next enter and not before.
        unsafe { self.at(place).write(Nop::new().build().user_data(name)) };
    }
}

impl Drop for Chains {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` with this size, and nothing points into it.
        unsafe { libc::munmap(self.first.as_ptr().cast(), bytes(self.count)) };
    }
}

fn bytes(count: u32) -> usize {
    count as usize * size_of::<Entry>()
}

#[cfg(test)]
mod tests {
    use super::super::setup::Setup;
    use super::*;

    fn ring(sq_entries: u32, cq_entries: u32) -> Ring {
        Ring::new(&Setup { sq_entries, cq_entries, sqpoll: None, iopoll: false }).unwrap()
    }

    fn nop(user_data: u64) -> Entry {
        Nop::new().build().user_data(user_data)
    }

    fn push(ring: &mut Ring, user_data: u64) -> bool {
        // SAFETY: a no-op points at nothing.
        unsafe { ring.push(&nop(user_data)) }
    }

    fn reap(ring: &mut Ring) -> Vec<u64> {
        let mut seen = Vec::new();
        ring.reap(usize::MAX, |user_data, _, _| seen.push(user_data));
        seen
    }

    #[test]
    fn a_chain_that_does_not_fit_stages_nothing() {
        let mut ring = ring(8, 16);
        assert!((0..6).all(|user_data| push(&mut ring, user_data)));
        let chain = |n: u64| (0..n).map(|at| nop(10 + at)).collect();
        // SAFETY: no-ops point at nothing.
        assert!(!unsafe { ring.push_chain(chain(3)) });
        assert_eq!((ring.staged(), ring.room()), (6, 2));
        // SAFETY: as above.
        assert!(unsafe { ring.push_chain(chain(2)) });
        assert!(!push(&mut ring, 99));
        assert_eq!(ring.enter(8, None).unwrap().taken, 8);
        let seen: Vec<u64> = reap(&mut ring);
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 10, 11]);
    }

    #[test]
    fn what_is_left_of_a_chain_that_was_cut_does_not_run() {
        // Round and round, so that chains lie across the end of the queue too.
        let mut ring = ring(8, 64);
        for round in 0..11 {
            for taken in 1..7 {
                let chain: Vec<_> = (0..5).map(nop).collect();
                // SAFETY: no-ops point at nothing.
                assert!(push(&mut ring, 10) && unsafe { ring.push_chain(chain) });
                assert!(push(&mut ring, 11));
                ring.at_most = Some(taken);
                assert_eq!(ring.enter(0, None).unwrap().taken, taken);
                assert!(ring.is_short());
                let inside = (2..6).contains(&taken);
                let expected: Vec<u64> =
                    if inside { (u64::from(taken) - 1..5).collect() } else { Vec::new() };
                assert_eq!(ring.mend(99), expected, "{taken} taken in round {round}");
                assert_eq!(ring.enter(0, None).unwrap().taken, 7 - taken);
                assert!(!ring.is_short());
                let mut seen = reap(&mut ring);
                while seen.len() < 7 {
                    // The next of a chain is begun by a later enter.
                    ring.enter(1, None).unwrap();
                    seen.extend(reap(&mut ring));
                }
                seen.retain(|name| *name != 99);
                seen.sort_unstable();
                let ran: Vec<u64> =
                    (0..5).filter(|name| !expected.contains(name)).chain([10, 11]).collect();
                assert_eq!(seen, ran, "{taken} taken in round {round}");
            }
        }
    }
}
