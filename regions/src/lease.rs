//! Exclusive ownership of a byte range of a slot.
//!
//! A [`Lease`] moves: into a receive that fills it, back out with the bytes, and by
//! [`freeze`](Lease::freeze) into a [`Span`](crate::Span) that a send shares. It has a *capacity*,
//! the range it owns, and a *length*, how much of that is content; it derefs to the content. All
//! slot memory is initialised, so any length up to the capacity is safe: the bytes are then what
//! the slot's last user left.
//!
//! A lease is `Send` and not `Clone`. Dropping it is O(1) on any thread; the slot is free when its
//! last lease and span are gone.
//!
//! Unsafe is here because a lease turns slot memory into slices.
#![allow(unsafe_code)]

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::{RegionError, RegionErrorKind};
use crate::pool::Ticket;
use crate::region::{Region, RegionId};
use crate::slab::Slab;
use crate::slot::SlotRef;
use crate::span::Span;

/// An exclusive byte range of a slot; see the head of this module.
pub struct Lease {
    slot: SlotRef,
    start: u32,
    len: u32,
    capacity: u32,
}

impl Lease {
    /// All of a slot that was just taken.
    pub(crate) fn whole(slot: SlotRef) -> Self {
        let capacity = slot.shared().slot_bytes;
        Self::part(slot, 0, capacity)
    }

    /// A part of a slot that nobody else has.
    pub(crate) fn part(slot: SlotRef, start: u32, capacity: u32) -> Self {
        Self { slot, start, len: capacity, capacity }
    }

    /// From the only reference to a slot: content as given, capacity up to the slot's end.
    pub(crate) fn from_unique(slot: SlotRef, start: u32, len: u32) -> Self {
        let capacity = slot.shared().slot_bytes - start;
        Self { slot, start, len, capacity }
    }

    /// Bytes of content.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no content.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it owns: the largest length it can have.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Sets the length, up or down. Bytes that this brings in are what the slot's last user, or the
    /// kernel, left there.
    ///
    /// # Errors
    /// `OutOfRange` above the capacity; nothing changes then.
    pub fn set_len(&mut self, len: usize) -> Result<(), RegionError> {
        if len > self.capacity() {
            let message = format!(
                "{len} bytes, the lease's capacity is {}; lease from a slab of larger slots",
                self.capacity
            );
            let kind = RegionErrorKind::OutOfRange;
            return Err(RegionError::new("set_len of a lease", kind, message));
        }
        self.len = len as u32;
        Ok(())
    }

    /// Shortens the content; a larger `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len().min(len) as u32;
    }

    /// Makes the content as long as the capacity, as when the slot was leased.
    pub fn reset(&mut self) {
        self.len = self.capacity;
    }

    /// Splits it in two at `at` bytes from its start: this keeps what is before, the returned lease
    /// owns the rest of the capacity, and of the content what lies there. The slot is free again
    /// when both are gone.
    ///
    /// # Panics
    /// When `at` is above the capacity.
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.capacity(), "split at {at} of a capacity of {}", self.capacity);
        let cut = at as u32;
        let rest = Self {
            slot: self.slot.clone(),
            start: self.start + cut,
            len: self.len.saturating_sub(cut),
            capacity: self.capacity - cut,
        };
        self.len = self.len.min(cut);
        self.capacity = cut;
        rest
    }

    /// The first byte of its range, valid for `capacity` bytes while the lease lives.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_ptr().cast_mut()
    }

    /// The first byte of its range, for reading.
    pub fn as_ptr(&self) -> *const u8 {
        // SAFETY: the range lies inside the slot.
        unsafe { self.slot.start().add(self.start as usize).as_ptr() }
    }

    /// A handle of the slab.
    pub fn slab(&self) -> Slab {
        Slab::from_shared(self.slot.shared_arc())
    }

    /// The memory it is a part of.
    pub fn region(&self) -> &Region {
        &self.slot.shared().region
    }

    /// That memory's identity.
    pub fn region_id(&self) -> RegionId {
        self.region().id()
    }

    /// Its slot's index.
    pub fn slot(&self) -> u32 {
        self.slot.index()
    }

    /// Where its range starts in the slot, in bytes.
    pub fn slot_offset(&self) -> usize {
        self.start as usize
    }

    /// Shares the content: exclusive no more, readable by many.
    pub fn freeze(self) -> Span {
        Span::of_slot(self.slot, self.start, self.len)
    }

    /// Gives the lease's reference to its slot to the caller, who gives it back by
    /// [`Slab::lease_from_slot`]. Until then the slot is out and the slab stays alive.
    pub fn into_slot(self) -> u32 {
        self.slot.into_index()
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the content lies inside the slot, whose memory is mapped and initialised while
        // the slot is out. This lease is the only one with these bytes: slots are taken once,
        // splitting hands out disjoint parts, and the unsafe ways to make a lease demand it.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only slice.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Lease {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Shows where and how long; never the content.
impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("region", &self.region_id().get())
            .field("slot", &self.slot())
            .field("start", &self.start)
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish()
    }
}

/// A slot to come; from [`Slab::lease_async`]. `Send`; it may be moved and dropped at any time: a
/// wake that it received and did not use goes to the next waiter.
#[must_use = "a future does nothing until it is awaited"]
pub struct LeaseFuture {
    slab: Slab,
    ticket: Ticket,
}

impl LeaseFuture {
    pub(crate) fn new(slab: Slab) -> Self {
        Self { slab, ticket: None }
    }
}

impl Future for LeaseFuture {
    type Output = Lease;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Lease> {
        let this = &mut *self;
        let shared = this.slab.shared();
        match shared.pool.poll_acquire(&mut this.ticket, context.waker()) {
            Some(slot) => Poll::Ready(Lease::whole(SlotRef::first(shared, slot))),
            None => Poll::Pending,
        }
    }
}

impl Drop for LeaseFuture {
    fn drop(&mut self) {
        self.slab.shared().pool.cancel(&mut self.ticket);
    }
}

impl fmt::Debug for LeaseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseFuture").field("slab", &self.slab).finish_non_exhaustive()
    }
}

const _: () = {
    const fn is_send<T: Send>() {}
    const fn is_sync<T: Sync>() {}
    is_send::<Lease>();
    is_sync::<Lease>();
    is_send::<LeaseFuture>();
    assert!(size_of::<Lease>() <= 32 && size_of::<Option<Lease>>() <= 32);
};
