//! Memory of the limit: equal buffers by index, and a ring of buffers the kernel picks from.
//!
//! Unsafe code: buffers are looked at while the loop has them, and the buffer ring is written
//! through raw pointers, since the kernel reads it. See io_uring_register(2).
#![allow(unsafe_code)]

use super::ring::Ring;
use crate::Result;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use regions::Slab;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Equal buffers in one piece of memory.
pub struct Buffers {
    slab: Slab,
    start: NonNull<u8>,
}

impl Buffers {
    /// `count` buffers of `bytes` bytes each.
    ///
    /// # Errors
    ///
    /// What the slab says: sizes and memory.
    pub fn new(count: usize, bytes: usize) -> Result<Buffers> {
        Ok(Buffers::over(Slab::new(count, bytes)?))
    }

    /// The slots of a slab, which nobody leases while one of them is in use here.
    pub fn over(slab: Slab) -> Buffers {
        let start = slab.slot_ptr(0);
        Buffers { slab, start }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slab.slots()
    }

    /// Bytes of one.
    pub fn bytes(&self) -> usize {
        self.slab.slot_bytes()
    }

    /// Where a buffer starts.
    #[inline]
    pub fn at(&self, index: usize) -> *mut u8 {
        debug_assert!(index < self.count());
        // SAFETY: inside the slab for every index there is.
        unsafe { self.start.as_ptr().add(index * self.slab.stride_bytes()) }
    }

    /// What is in a buffer.
    ///
    /// # Safety
    ///
    /// Nothing in flight writes to it, and `index` and `bytes` are within bounds.
    #[inline]
    pub unsafe fn content(&self, index: usize, bytes: usize) -> &[u8] {
        debug_assert!(bytes <= self.bytes());
        // SAFETY: slab memory is mapped and initialised; the caller promises the rest.
        unsafe { std::slice::from_raw_parts(self.at(index), bytes) }
    }

    /// The same, to be written.
    ///
    /// # Safety
    ///
    /// Nothing in flight uses it, and `index` and `bytes` are within bounds.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn content_mut(&self, index: usize, bytes: usize) -> &mut [u8] {
        debug_assert!(bytes <= self.bytes());
        // SAFETY: as above, and the caller promises that nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.at(index), bytes) }
    }

    /// Registers all of it with a ring, as buffer 0.
    ///
    /// # Errors
    ///
    /// ENOMEM under a small RLIMIT_MEMLOCK.
    pub fn register(&self, ring: &Ring) -> Result<()> {
        let bytes = self.slab.region().len_bytes();
        let all = libc::iovec { iov_base: self.start.as_ptr().cast(), iov_len: bytes };
        // SAFETY: the memory outlives the ring: the loops drop their ring first.
        unsafe { ring.register().register_buffers(&[all])? };
        Ok(())
    }
}

/// `struct io_uring_buf`; in the first entry the last field is the ring's tail.
#[repr(C)]
struct Entry {
    address: u64,
    bytes: u32,
    index: u16,
    tail: AtomicU16,
}

/// A provided-buffer ring, group 0, over [`Buffers`] of a power of two.
pub struct BufferRing {
    entries: NonNull<Entry>,
    count: u16,
    tail: u16,
}

impl BufferRing {
    /// Registers it and gives every buffer to the kernel.
    ///
    /// # Errors
    ///
    /// EINVAL when `buffers` are not a power of two.
    pub fn new(ring: &Ring, buffers: &Buffers) -> Result<BufferRing> {
        let count = u16::try_from(buffers.count())?;
        let bytes = NonZeroUsize::new(buffers.count() * size_of::<Entry>())
            .ok_or("a buffer ring of no buffers")?;
        let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
        // SAFETY: a mapping of its own, wherever the system likes.
        let entries = unsafe { mmap_anonymous(None, bytes, access, flags)? }.cast::<Entry>();
        let mut made = BufferRing { entries, count, tail: 0 };
        // SAFETY: page-aligned, of that many entries, unmapped after the ring is gone.
        unsafe {
            ring.register().register_buf_ring_with_flags(entries.as_ptr() as u64, count, 0, 0)?;
        }
        for index in 0..count {
            made.give(buffers, index);
        }
        made.publish();
        Ok(made)
    }

    /// Stages a buffer the kernel does not have.
    #[inline]
    pub fn give(&mut self, buffers: &Buffers, index: u16) {
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: `at` is below `count`. The fields are written one by one: the fourth field of
        // the first entry is the tail, which the kernel reads.
        unsafe {
            let entry = self.entries.as_ptr().add(at);
            (&raw mut (*entry).address).write(buffers.at(usize::from(index)) as u64);
            (&raw mut (*entry).bytes).write(buffers.bytes() as u32);
            (&raw mut (*entry).index).write(index);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was staged.
    #[inline]
    pub fn publish(&self) {
        // SAFETY: mapped while this lives; both sides use it as an atomic.
        let tail = unsafe { &(*self.entries.as_ptr()).tail };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        let bytes = usize::from(self.count) * size_of::<Entry>();
        // SAFETY: mapped in `new` with this length. The ring went first: it stands before this in
        // its owner, which had nothing in flight.
        if let Err(error) = unsafe { munmap(self.entries.cast(), bytes) } {
            eprintln!("the limit's buffer ring stays mapped: {error}");
        }
    }
}
