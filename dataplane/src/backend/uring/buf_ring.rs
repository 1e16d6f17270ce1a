//! A provided-buffer ring: memory shared with the kernel that lists buffers it may fill.
//!
//! The ring is one anonymous mapping of 16-byte entries which we fill at a 16-bit tail and the
//! kernel consumes. [`BufRing::push`] writes entries past the tail the kernel sees and
//! [`BufRing::publish`] makes them visible with one store. The kernel has no full condition: the
//! caller owns at most `entries` buffers and pushes each only while the kernel does not have it.
//! Everything happens on the thread of the io_uring instance.
//!
//! # Its end
//!
//! Unregistering is no barrier: a parked operation that had selected a buffer writes to it
//! afterwards. So the end has two steps. [`BufRing::unregister`] stops new selections;
//! [`BufRing::release`] unmaps, and is called after the last completion of every operation armed
//! on the group. A `BufRing` that is dropped without them leaks its mapping and says so on standard
//! error; [`leaked_bytes`] adds these up. The buffers themselves are the caller's, by the same
//! rule.
//!
//! Unsafe code: the mapping is written through raw pointers, since no reference may cover memory
//! the kernel reads. See io_uring_register(2), IORING_REGISTER_PBUF_RING (kernel 5.19; incremental
//! consumption 6.12).
#![allow(unsafe_code)]

use std::io::{self, Write};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use super::ring::Ring;

/// Most entries a buffer ring may have.
pub(crate) const ENTRIES_MAX: u16 = 1 << 15;

/// The first group id that is used. Of those below 64 Linux 6.1 remembers how far it had consumed
/// the ring before, and begins a new one there: it picks buffers that were never given to it.
pub(crate) const FIRST_GROUP: u16 = 64;

/// IOU_PBUF_RING_INC: a buffer is consumed piece by piece.
const INCREMENTAL: u16 = 2;

static LEAKED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of buffer rings that were dropped without being released, in this process.
#[cfg(test)]
pub(crate) fn leaked_bytes() -> usize {
    LEAKED_BYTES.load(Ordering::Relaxed)
}

/// `struct io_uring_buf`; in the first entry the last field is the ring's tail.
#[repr(C)]
struct Slot {
    address: u64,
    length: u32,
    id: u16,
    tail: AtomicU16,
}

/// How buffers are consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consume {
    /// One completion takes a whole buffer.
    Whole,
    /// A completion takes what it filled; the rest serves the next one (BUF_MORE in its flags).
    Incremental,
}

/// A registered provided-buffer ring, of which it owns the entries and not the buffers.
#[derive(Debug)]
pub(crate) struct BufRing {
    slots: NonNull<Slot>,
    entries: u16,
    group: u16,
    /// The next position; what the kernel sees lags behind until `publish`.
    tail: u16,
    registered: bool,
}

impl BufRing {
    /// Maps a ring of `entries` (a power of two, at most 32,768) and registers it as `group`.
    ///
    /// EEXIST: the group is in use. EINVAL: this kernel has no buffer rings, or does not consume
    /// incrementally.
    pub(crate) fn register(
        ring: &mut Ring,
        group: u16,
        entries: u16,
        consume: Consume,
    ) -> io::Result<BufRing> {
        if !entries.is_power_of_two() || entries > ENTRIES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "buffer ring: {entries} entries; choose a power of two up to {ENTRIES_MAX}"
                ),
            ));
        }
        let slots = map(entries)?;
        let mut made = BufRing { slots, entries, group, tail: 0, registered: false };
        let flags = if consume == Consume::Incremental { INCREMENTAL } else { 0 };
        let address = slots.as_ptr() as u64;
        // SAFETY: the mapping is of that many entries, page-aligned and zeroed, and is not unmapped
        // while the group is registered (see `release` and `Drop`).
        let answer = unsafe {
            ring.submitter().register_buf_ring_with_flags(address, entries, group, flags)
        };
        match answer {
            Ok(()) => {
                made.registered = true;
                Ok(made)
            }
            Err(error) => {
                made.release()?;
                Err(error)
            }
        }
    }

    /// Writes one buffer behind the last; the kernel sees it after [`BufRing::publish`].
    ///
    /// # Safety
    ///
    /// `address..address + length` is writable memory that nothing else uses, from `publish` until
    /// a completion gives `id` back, or, if none does, until the last completion of every operation
    /// armed on the group. At most `entries` buffers are in the ring at a time.
    #[inline]
    pub(crate) unsafe fn push(&mut self, address: *mut u8, length: u32, id: u16) {
        let at = usize::from(self.tail & (self.entries - 1));
        // SAFETY: `at` is below `entries`; the kernel does not look at positions past the tail it
        // sees. Only the three buffer fields are written: the fourth of slot 0 is the tail.
        unsafe {
            let slot = self.slots.as_ptr().add(at);
            (&raw mut (*slot).address).write(address as u64);
            (&raw mut (*slot).length).write(length);
            (&raw mut (*slot).id).write(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel everything pushed, with one store.
    #[inline]
    pub(crate) fn publish(&mut self) {
        // SAFETY: within the mapping, aligned, and shared with the kernel as an atomic alone.
        let tail = unsafe { &(*self.slots.as_ptr()).tail };
        tail.store(self.tail, Ordering::Release);
    }

    /// Positions in the ring.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Whether operations can still select from it.
    #[cfg(test)]
    pub(crate) fn is_registered(&self) -> bool {
        self.registered
    }

    /// Ends new selections. Operations that have selected a buffer go on using it. The group's id
    /// is free for another ring.
    pub(crate) fn unregister(&mut self, ring: &mut Ring) -> io::Result<()> {
        if self.registered {
            ring.submitter().unregister_buf_ring(self.group)?;
            self.registered = false;
        }
        Ok(())
    }

    /// Unmaps the ring; the caller has reaped the last completion of every operation armed on the
    /// group. One that is still registered is leaked instead, and that is the error.
    pub(crate) fn release(self) -> io::Result<()> {
        if self.registered {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("buffer ring {}: released while registered; unregister first", self.group),
            ));
        }
        let unreleased = std::mem::ManuallyDrop::new(self);
        // SAFETY: our own mapping, of that length, which the kernel has let go of; `self` is gone.
        match unsafe { libc::munmap(unreleased.slots.as_ptr().cast(), bytes(unreleased.entries)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        let bytes = bytes(self.entries);
        LEAKED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        let state = if self.registered { "registered" } else { "not released" };
        // A closed standard error is no reason to panic in a drop.
        let _ = writeln!(
            io::stderr(),
            "dataplane: buffer ring {} dropped while {state}: its {bytes} bytes stay mapped, \
             since the kernel may still use them",
            self.group
        );
    }
}

fn bytes(entries: u16) -> usize {
    usize::from(entries) * size_of::<Slot>()
}

/// Zeroed pages for `entries`, which a forked child does not get.
fn map(entries: u16) -> io::Result<NonNull<Slot>> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh anonymous mapping touches nothing that exists.
    let base =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes(entries), protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping just made; a child has no business with what its parent shares.
    if unsafe { libc::madvise(base, bytes(entries), libc::MADV_DONTFORK) } != 0 {
        let error = io::Error::last_os_error();
        // SAFETY: the mapping just made, which nobody else has seen.
        unsafe { libc::munmap(base, bytes(entries)) };
        return Err(error);
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))
}

#[cfg(test)]
mod tests {
    use super::super::setup::Setup;
    use super::*;
    use io_uring::{cqueue, opcode, squeue::Flags, types};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn ring() -> Ring {
        Ring::new(&Setup { sq_entries: 8, cq_entries: 64, sqpoll: None, iopoll: false }).unwrap()
    }

    fn reap(ring: &mut Ring, want: u32) -> Vec<(i32, Option<u16>, bool)> {
        let mut seen = Vec::new();
        ring.enter(want, None).unwrap();
        ring.reap(usize::MAX, |_, result, flags| {
            seen.push((result, cqueue::buffer_select(flags), cqueue::buffer_more(flags)));
        });
        seen
    }

    /// A ring of `consume` with four buffers of eight bytes, and a receive that selects from it.
    fn four(ring: &mut Ring, memory: &mut [u8; 32], consume: Consume) -> BufRing {
        let mut group = BufRing::register(ring, FIRST_GROUP, 4, consume).unwrap();
        for (id, piece) in memory.chunks_mut(8).enumerate() {
            // SAFETY: the tests keep the memory until the last completion has been reaped.
            unsafe { group.push(piece.as_mut_ptr(), 8, id as u16) };
        }
        group
    }

    fn receive(ring: &mut Ring, from: &UnixStream, length: u32) {
        let fd = types::Fd(from.as_raw_fd());
        let receive =
            opcode::Recv::new(fd, std::ptr::null_mut(), length).buf_group(FIRST_GROUP).build();
        // SAFETY: the buffer comes from the group, whose memory outlives the operation.
        assert!(unsafe { ring.push(&receive.flags(Flags::BUFFER_SELECT)) });
    }

    #[test]
    fn buffers_are_seen_after_publish_and_come_round_again() {
        let (mut ring, mut memory) = (ring(), [0_u8; 32]);
        let mut group = four(&mut ring, &mut memory, Consume::Whole);
        let base = memory.as_mut_ptr();
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"first").unwrap();
        receive(&mut ring, &far, 8);
        assert_eq!(reap(&mut ring, 1), [(-libc::ENOBUFS, None, false)], "not published");
        group.publish();
        receive(&mut ring, &far, 8);
        assert_eq!(reap(&mut ring, 1), [(5, Some(0), false)]);
        for round in 1..100_u16 {
            let id = round % 4;
            near.write_all(&round.to_le_bytes()).unwrap();
            receive(&mut ring, &far, 8);
            assert_eq!(reap(&mut ring, 1), [(2, Some(id), false)]);
            let last = usize::from((round - 1) % 4);
            // SAFETY: the completion before this one gave that buffer back.
            unsafe { group.push(base.add(last * 8), 8, last as u16) };
            group.publish();
            // SAFETY: the kernel is done with this buffer; it is not in the ring now.
            let got = unsafe { base.add(usize::from(id) * 8).cast::<[u8; 2]>().read() };
            assert_eq!(got, round.to_le_bytes());
        }
        group.unregister(&mut ring).unwrap();
        assert!(!group.is_registered());
        receive(&mut ring, &far, 8);
        let after = reap(&mut ring, 1);
        assert!(after[0].0 < 0, "no group to select from: {after:?}");
        group.release().unwrap();
    }

    #[test]
    fn a_group_that_is_registered_again_begins_anew() {
        let (mut ring, mut memory) = (ring(), [0_u8; 32]);
        let (mut near, far) = UnixStream::pair().unwrap();
        for id in [0, 1] {
            let mut group = four(&mut ring, &mut memory, Consume::Whole);
            group.publish();
            for expected in 0..=id {
                near.write_all(b"again").unwrap();
                receive(&mut ring, &far, 8);
                assert_eq!(reap(&mut ring, 1), [(5, Some(expected), false)]);
            }
            group.unregister(&mut ring).unwrap();
            group.release().unwrap();
        }
    }

    #[test]
    fn an_incremental_buffer_serves_more_than_one_completion() {
        let (mut ring, mut memory) = (ring(), [0_u8; 32]);
        let mut group = match BufRing::register(&mut ring, 9, 4, Consume::Incremental) {
            Ok(mut trial) => {
                trial.unregister(&mut ring).unwrap();
                trial.release().unwrap();
                four(&mut ring, &mut memory, Consume::Incremental)
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                eprintln!("skipped: this kernel does not consume buffers incrementally");
                return;
            }
        };
        group.publish();
        let (mut near, far) = UnixStream::pair().unwrap();
        for (sent, seen) in [("abc", (3, Some(0), true)), ("defgh", (5, Some(0), false))] {
            near.write_all(sent.as_bytes()).unwrap();
            receive(&mut ring, &far, sent.len() as u32);
            assert_eq!(reap(&mut ring, 1), [seen]);
        }
        assert_eq!(&memory[..8], b"abcdefgh");
        group.unregister(&mut ring).unwrap();
        group.release().unwrap();
    }

    #[test]
    fn a_ring_dropped_too_early_is_leaked_and_counted() {
        let mut ring = ring();
        let group = BufRing::register(&mut ring, 1, 256, Consume::Whole).unwrap();
        let (slots, before) = (group.slots, leaked_bytes());
        assert_eq!(group.release().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert!(leaked_bytes() - before >= 4096);
        // SAFETY: still mapped, which is what is tested; nobody writes it.
        assert_eq!(unsafe { (&raw const (*slots.as_ptr()).address).read() }, 0);
        ring.submitter().unregister_buf_ring(1).unwrap();
    }

    #[test]
    fn sizes_and_groups_are_checked() {
        let mut ring = ring();
        for entries in [0, 3, 40_000] {
            let error = BufRing::register(&mut ring, 1, entries, Consume::Whole).unwrap_err();
            assert!(error.to_string().contains("power of two up to 32768"), "{error}");
        }
        let mut first = BufRing::register(&mut ring, 1, ENTRIES_MAX, Consume::Whole).unwrap();
        assert_eq!(first.entries(), ENTRIES_MAX);
        let twice = BufRing::register(&mut ring, 1, 8, Consume::Whole).unwrap_err();
        assert_eq!(twice.raw_os_error(), Some(libc::EEXIST));
        first.unregister(&mut ring).unwrap();
        let mut second = BufRing::register(&mut ring, 1, 8, Consume::Whole).unwrap();
        second.unregister(&mut ring).unwrap();
        first.release().unwrap();
        second.release().unwrap();
    }
}
