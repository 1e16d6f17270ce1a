//! One reference to one slot of a slab.
//!
//! A slab's shared part holds the free slots and a count of references per slot. A [`SlotRef`] is
//! one such reference; the slot is free again when the last one goes. While a slot is out it also
//! holds one strong reference to the slab, taken with the slot and dropped after its return, so a
//! `SlotRef` is a plain pointer and an index and cloning it touches only its slot's count. A slot
//! that the kernel holds (its reference was handed out as a bare index) keeps the slab alive the
//! same way.
//!
//! Unsafe is here because these references are counted by hand.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::pool::Pool;
use crate::region::Region;
use crate::slab_report::SlabReport;
use crate::sync::{AtomicU32, Ordering};

/// What all handles of a slab share.
pub(crate) struct Shared {
    pub(crate) region: Region,
    pub(crate) start: NonNull<u8>,
    pub(crate) slots: u32,
    pub(crate) slot_bytes: u32,
    pub(crate) stride: usize,
    pub(crate) pool: Pool,
    /// References per slot; zero when it is free.
    pub(crate) references: Box<[AtomicU32]>,
    pub(crate) report: SlabReport,
}

// SAFETY: `start` is the address of `region`'s memory, which is bound to no thread; who may touch
// a slot's bytes is decided by the leases and spans on it. All other fields are Send and Sync.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The first byte of a slot.
    pub(crate) fn slot_ptr(&self, slot: u32) -> NonNull<u8> {
        assert!(slot < self.slots, "slot {slot} of a slab of {}", self.slots);
        // SAFETY: the slot exists.
        unsafe { self.slot_ptr_unchecked(slot) }
    }

    /// # Safety
    /// The slot exists.
    unsafe fn slot_ptr_unchecked(&self, slot: u32) -> NonNull<u8> {
        // SAFETY: a slab is built with `slots` slots of `stride` bytes inside its region.
        unsafe { self.start.add(slot as usize * self.stride) }
    }
}

/// One counted reference to a slot that is out.
pub(crate) struct SlotRef {
    shared: NonNull<Shared>,
    slot: u32,
}

// SAFETY: the count is atomic and `Shared` is Send and Sync.
unsafe impl Send for SlotRef {}
// SAFETY: as above.
unsafe impl Sync for SlotRef {}

impl SlotRef {
    /// The first reference to a slot that was just taken from the pool.
    pub(crate) fn first(shared: &Arc<Shared>, slot: usize) -> Self {
        let slot = slot as u32; // a slab has at most 2^24 slots
        shared.references[slot as usize].store(1, Ordering::Relaxed);
        let pointer = Arc::into_raw(Arc::clone(shared)).cast_mut();
        // SAFETY: a pointer out of an Arc is never null.
        Self { shared: unsafe { NonNull::new_unchecked(pointer) }, slot }
    }

    /// # Safety
    /// The caller owns one reference to this slot of this slab, and gives it up.
    pub(crate) unsafe fn adopt(shared: &Arc<Shared>, slot: u32) -> Self {
        let pointer = Arc::as_ptr(shared).cast_mut();
        // SAFETY: a pointer out of an Arc is never null.
        Self { shared: unsafe { NonNull::new_unchecked(pointer) }, slot }
    }

    /// Gives the reference to the caller as a bare index.
    pub(crate) fn into_index(self) -> u32 {
        let slot = self.slot;
        std::mem::forget(self);
        slot
    }

    pub(crate) fn index(&self) -> u32 {
        self.slot
    }

    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: a slot that is out holds a strong reference to `Shared`, and this reference
        // keeps the slot out.
        unsafe { self.shared.as_ref() }
    }

    /// A handle of the slab itself.
    pub(crate) fn shared_arc(&self) -> Arc<Shared> {
        let pointer = self.shared.as_ptr();
        // SAFETY: the pointer came out of an Arc that is alive, as above; the count is raised for
        // the handle that is made.
        unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        }
    }

    /// The slot's first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        // SAFETY: references are to slots that exist.
        unsafe { self.shared().slot_ptr_unchecked(self.slot) }
    }

    /// Whether this is the slot's only reference. What others did through theirs is visible then.
    pub(crate) fn is_unique(&self) -> bool {
        self.count().load(Ordering::Acquire) == 1
    }

    fn count(&self) -> &AtomicU32 {
        &self.shared().references[self.slot as usize]
    }
}

/// Adds a reference to a slot that is out.
pub(crate) fn add_reference(shared: &Shared, slot: u32) {
    let before = shared.references[slot as usize].fetch_add(1, Ordering::Relaxed);
    if before > u32::MAX / 2 {
        // Only leaked references reach this; wrapping around would free a slot in use.
        std::process::abort();
    }
}

impl Clone for SlotRef {
    fn clone(&self) -> Self {
        add_reference(self.shared(), self.slot);
        Self { shared: self.shared, slot: self.slot }
    }
}

impl Drop for SlotRef {
    fn drop(&mut self) {
        if self.count().fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // SAFETY: this takes over the strong reference that the slot held while it was out. It is
        // dropped after the return, also when a waiter's waker panics.
        let shared = unsafe { Arc::from_raw(self.shared.as_ptr()) };
        shared.pool.release(self.slot as usize);
    }
}
