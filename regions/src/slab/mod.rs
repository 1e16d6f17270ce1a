//! One region in equal slots.
//!
//! A [`Slab`] made by [`Slab::new`] is a sealed memfd, mapped once, on huge pages when it can, and
//! populated at creation. One slab serves many: fixed buffers of io_uring, memory regions of RDMA,
//! import into Vulkan, another process. Slots start on 64-byte boundaries, and on page boundaries
//! when they are at least a page long (what O_DIRECT wants).
//!
//! The slab lives until its handles are gone and its slots are back; handles may go first. All
//! methods may be called from any thread. Taking and returning a slot are O(1) and lock-free;
//! returning takes a lock only to wake a waiter.
//!
//! Limits: 1 to 2^24 slots of 1 byte to 1 GiB.
//!
//! Unsafe is here because the caller's own memory, and slot references that the kernel held, are
//! taken on the caller's word.
#![allow(unsafe_code)]

pub(crate) mod builder;
pub(crate) mod pool;
pub(crate) mod report;
pub(crate) mod slot;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::access::Access;
use crate::error::{RegionError, RegionErrorKind};
use crate::index_set::IndexSet;
use crate::lease::{Lease, LeaseFuture};
use crate::page::PageSize;
use crate::pool::Pool;
use crate::region::Region;
use crate::slab_builder::{OPERATION, SLOT_ALIGN_BYTES, SlabBuilder, stride_of};
use crate::slab_report::SlabReport;
use crate::slot::{Shared, SlotRef};
use crate::sync::AtomicU32;

/// A region in equal slots; see the head of this module. Clones are handles of the same slab.
#[derive(Clone)]
pub struct Slab {
    shared: Arc<Shared>,
}

impl Slab {
    /// A slab of `slots` slots of `slot_bytes` bytes with the usual options.
    ///
    /// # Errors
    /// As [`SlabBuilder::build`].
    pub fn new(slots: usize, slot_bytes: usize) -> Result<Self, RegionError> {
        Self::builder(slots, slot_bytes).build()
    }

    /// A slab with options.
    pub fn builder(slots: usize, slot_bytes: usize) -> SlabBuilder {
        SlabBuilder::new(slots, slot_bytes)
    }

    /// Cuts a region of the caller's into slots. It must start on a 64-byte boundary. When it is
    /// longer than 1 GiB, make the slab before the region is registered anywhere, so that no slot
    /// straddles two registered pieces.
    ///
    /// # Safety
    /// While a lease on a slot lives, nobody touches that slot but through the lease: no other
    /// slab over the same bytes, no [`Region::copy_in`] or [`Region::copy_out`], no other process,
    /// no device that was not given this lease. While a span of a slot lives and the region is
    /// private, nobody writes that slot.
    ///
    /// # Errors
    /// `InvalidArgument` for bad sizes or alignment, `NotVisible` without an address, `Permission`
    /// without local read and write access.
    pub unsafe fn over(region: Region, slot_bytes: usize) -> Result<Self, RegionError> {
        let stride = stride_of(slot_bytes)?;
        let Some(start) = region.as_ptr() else {
            let message = "the CPU cannot address this memory; leases need an address";
            return Err(RegionError::new(OPERATION, RegionErrorKind::NotVisible, message));
        };
        if !region.access().contains(Access::LOCAL) || region.is_leased() {
            let message = "leases need a region with read|write access that is no slab yet";
            return Err(RegionError::new(OPERATION, RegionErrorKind::Permission, message));
        }
        if !(start.as_ptr() as usize).is_multiple_of(SLOT_ALIGN_BYTES) {
            let message = format!("the memory starts at {start:p}; align it to 64 bytes");
            return Err(RegionError::invalid(OPERATION, message));
        }
        // The last slot needs no padding behind it.
        let len = region.len_bytes();
        let slots = len.checked_sub(slot_bytes).map_or(0, |before| before / stride + 1);
        if slots == 0 || slots > IndexSet::CAPACITY_MAX {
            let message = format!(
                "{len} bytes make {slots} slots of {slot_bytes} bytes; a slab has 1 to {}",
                IndexSet::CAPACITY_MAX
            );
            return Err(RegionError::invalid(OPERATION, message));
        }
        if !region.chunk_for_stride(stride) {
            let message = "the region is cut for another slot size; make the slab before \
                           registering the region";
            return Err(RegionError::invalid(OPERATION, message));
        }
        let report = SlabReport {
            name: "caller's memory".to_owned(),
            slots,
            slot_bytes,
            stride_bytes: stride,
            total_bytes: len,
            page_bytes: PageSize::base().bytes(),
            huge: region.huge_pages().clone(),
            numa: None,
            populated: false,
            sealed: false,
        };
        Self::assemble(region, report)
    }

    pub(crate) fn assemble(region: Region, report: SlabReport) -> Result<Self, RegionError> {
        let Some(start) = region.as_ptr() else {
            let message = "the CPU cannot address this memory; leases need an address";
            return Err(RegionError::new(OPERATION, RegionErrorKind::NotVisible, message));
        };
        let shared = Shared {
            start,
            slots: report.slots as u32,           // at most 2^24
            slot_bytes: report.slot_bytes as u32, // at most 2^30
            stride: report.stride_bytes,
            pool: Pool::full(report.slots),
            references: (0..report.slots).map(|_| AtomicU32::new(0)).collect(),
            region,
            report,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn from_shared(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How many slots it has.
    pub fn slots(&self) -> usize {
        self.shared.slots as usize
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.shared.slot_bytes as usize
    }

    /// Bytes from one slot to the next.
    pub fn stride_bytes(&self) -> usize {
        self.shared.stride
    }

    /// The memory under it.
    pub fn region(&self) -> &Region {
        &self.shared.region
    }

    /// What it was given when it was made.
    pub fn report(&self) -> &SlabReport {
        &self.shared.report
    }

    /// How many slots are free; one atomic load.
    pub fn available(&self) -> usize {
        self.shared.pool.available()
    }

    /// Whether a slot is free; one atomic load.
    pub fn has_available(&self) -> bool {
        self.shared.pool.has_available()
    }

    /// The first byte of a slot. Using it is the caller's `unsafe`.
    ///
    /// # Panics
    /// When the slab has no such slot.
    pub fn slot_ptr(&self, index: u32) -> NonNull<u8> {
        self.shared.slot_ptr(index)
    }

    /// A whole slot, or `None` when all are out: [`lease`](Self::lease) without the error's text.
    pub fn try_lease(&self) -> Option<Lease> {
        let slot = self.shared.pool.acquire()?;
        Some(Lease::whole(SlotRef::first(&self.shared, slot)))
    }

    /// A whole slot. It has whatever bytes its last user left.
    ///
    /// # Errors
    /// `Exhausted` when all are out.
    pub fn lease(&self) -> Result<Lease, RegionError> {
        self.try_lease().ok_or_else(|| {
            let message = format!(
                "all {} slots are out; drop a lease or span, await lease_async, or make more slots",
                self.slots()
            );
            RegionError::new("lease", RegionErrorKind::Exhausted, message)
        })
    }

    /// A whole slot as soon as one is free. Waiters are woken first come, first served; a
    /// [`lease`](Self::lease) in between may be faster. Dropping the future loses no slot.
    pub fn lease_async(&self) -> LeaseFuture {
        LeaseFuture::new(self.clone())
    }

    /// Takes back a slot reference given out by [`Lease::into_slot`] or
    /// [`share_slot`](Self::share_slot), as a lease of `len` bytes from `start`, all of it its
    /// capacity.
    ///
    /// # Safety
    /// The caller owns that reference and gives it up, `start..start + len` is inside the slot,
    /// and no other lease or span, and nothing in flight, has any of these bytes.
    pub unsafe fn lease_from_slot(&self, index: u32, start: usize, len: usize) -> Lease {
        debug_assert!(index < self.shared.slots && start + len <= self.slot_bytes());
        // SAFETY: the caller gives up a reference of its own.
        let slot = unsafe { SlotRef::adopt(&self.shared, index) };
        Lease::part(slot, start as u32, len as u32)
    }

    /// Adds a reference to a slot that is out, for a user that hands out parts of it one by one.
    ///
    /// # Safety
    /// The caller owns a reference to this slot; it owns one more after the call.
    pub unsafe fn share_slot(&self, index: u32) {
        slot::add_reference(&self.shared, index);
    }
}

impl PartialEq for Slab {
    /// Whether both are handles of the same slab.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Slab {}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("name", &self.shared.report.name)
            .field("region", &self.shared.region.id().get())
            .field("slots", &self.shared.slots)
            .field("slot_bytes", &self.shared.slot_bytes)
            .field("available", &self.available())
            .finish()
    }
}
